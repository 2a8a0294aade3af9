//! The hand-over between control and one worker: both, reduced to what they do with the hand-over: see `poll_loop.rs` (`run`, `take_up_plan`, `sleep`) and
//! `datapath.rs` (`publish`, `drop`) of datapath/worker.

use loom::cell::UnsafeCell;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use crate::handover::{HandOver, Slot};

/// What a queue uses besides itself: its guest's memory, which loom watches.
type Memory = Arc<UnsafeCell<u32>>;

/// A queue: whoever owns it works in the memory.
struct Queue(Memory);

impl Queue {
    fn poll(&self) {
        // SAFETY: loom panics when anybody else is at it.
        self.0.with_mut(|bytes| unsafe { *bytes += 1 });
    }
}

/// What control does with memory that no worker has any more.
fn free(memory: &Memory) {
    // SAFETY: as above.
    memory.with_mut(|bytes| unsafe { *bytes = 0 });
}

/// A plan: which queues are polled.
struct Plan {
    generation: u64,
    slots: Vec<Slot<Queue>>,
}

loom::thread_local! {
    static IS_WORKER: std::cell::Cell<bool> = std::cell::Cell::new(false);
}

impl Drop for Plan {
    fn drop(&mut self) {
        assert!(!IS_WORKER.with(std::cell::Cell::get), "a worker frees a plan");
    }
}

/// Control's and the worker's common state. The flag stands for the worker's eventfd: it stays up until somebody takes it.
struct Shared {
    handover: HandOver<Plan>,
    flag: Mutex<bool>,
    raised: Condvar,
}

impl Shared {
    fn new() -> Arc<Self> {
        Arc::new(Self { handover: HandOver::new(), flag: Mutex::new(false), raised: Condvar::new() })
    }

    fn wake(&self) {
        *self.flag.lock().unwrap() = true;
        self.raised.notify_one();
    }

    fn publish(&self, generation: u64, slots: Vec<Slot<Queue>>) -> Arc<Plan> {
        let plan = Arc::new(Plan { generation, slots });
        self.handover.publish(generation, Arc::clone(&plan));
        self.wake();
        plan
    }

    fn wait_for(&self, generation: u64) {
        while !self.handover.has_acknowledged(generation) {
            thread::yield_now();
        }
    }

    fn stop(&self) {
        self.handover.stop();
        self.wake();
    }
}

/// A worker's own state, as in `poll_loop.rs`.
struct Worker {
    shared: Arc<Shared>,
    plan: Option<Arc<Plan>>,
    /// The queues of its plan, each with its slot.
    inputs: Vec<(Slot<Queue>, Option<Box<Queue>>)>,
}

impl Worker {
    fn start(shared: &Arc<Shared>, rounds: fn(&mut Self)) -> thread::JoinHandle<()> {
        let mut worker = Self { shared: Arc::clone(shared), plan: None, inputs: Vec::new() };
        thread::spawn(move || {
            IS_WORKER.with(|is| is.set(true));
            rounds(&mut worker);
            worker.give_back();
            // Control still has the last plan.
            drop(worker.plan.take());
        })
    }

    fn has_new_plan(&self) -> bool {
        self.shared.handover.has_other_than(self.plan.as_ref().map_or(0, |plan| plan.generation))
    }

    fn take_up_plan(&mut self) {
        let Some(plan) = self.shared.handover.newest() else { return };
        self.give_back();
        self.inputs = plan.slots.iter().map(|slot| (slot.clone(), slot.take())).collect();
        assert!(self.inputs.iter().all(|(_, queue)| queue.is_some()), "a queue of the plan is not there");
        let generation = plan.generation;
        self.plan = Some(plan);
        self.shared.handover.acknowledge(generation);
    }

    fn give_back(&mut self) {
        for (slot, queue) in self.inputs.drain(..) {
            queue.into_iter().for_each(|queue| slot.put(queue));
        }
    }

    fn round(&self) {
        self.inputs.iter().filter_map(|(_, queue)| queue.as_ref()).for_each(|queue| queue.poll());
    }

    /// Polls without ever sleeping.
    fn poll_until_stopped(&mut self) {
        while !self.shared.handover.is_stopped() {
            if self.has_new_plan() {
                self.take_up_plan();
                self.round();
            }
            thread::yield_now();
        }
    }

    /// Sleeps whenever there is nothing, after a look at what control left; each time it has taken the flag away before.
    fn sleep_until_stopped(&mut self) {
        while !self.shared.handover.is_stopped() {
            if self.has_new_plan() {
                self.take_up_plan();
            }
            // A look for kicks takes the flag as well.
            *self.shared.flag.lock().unwrap() = false;
            if self.has_new_plan() || self.shared.handover.is_stopped() {
                continue;
            }
            let mut flag = self.shared.flag.lock().unwrap();
            while !*flag {
                flag = self.shared.raised.wait(flag).unwrap();
            }
            *flag = false;
        }
    }
}

fn queue() -> (Memory, Slot<Queue>) {
    let memory = Arc::new(UnsafeCell::new(0));
    let slot = Slot::new(Queue(Arc::clone(&memory)));
    (memory, slot)
}

/// A plan with a queue, a plan without it: then its memory is control's.
pub fn remove_a_queue() {
    let shared = Shared::new();
    let (memory, slot) = queue();
    let first = shared.publish(1, vec![slot.clone()]);
    let worker = Worker::start(&shared, Worker::poll_until_stopped);
    let second = shared.publish(2, Vec::new());
    shared.wait_for(2);
    free(&memory);
    drop((first, slot));
    shared.stop();
    worker.join().unwrap();
    drop(second);
}

/// A queue in two plans: it is there in both, and back in its slot after the end.
pub fn keep_a_queue() {
    let shared = Shared::new();
    let (memory, slot) = queue();
    let first = shared.publish(1, vec![slot.clone()]);
    let worker = Worker::start(&shared, Worker::poll_until_stopped);
    let second = shared.publish(2, vec![slot.clone()]);
    shared.wait_for(2);
    drop(first);
    shared.stop();
    worker.join().unwrap();
    assert!(slot.take().is_some(), "the queue is not back");
    free(&memory);
    drop(second);
}

/// Three plans at once: the last one counts, and those before may be freed.
pub fn skip_a_plan() {
    let shared = Shared::new();
    let (_, slot) = queue();
    let (memory, other) = queue();
    let worker = Worker::start(&shared, Worker::poll_until_stopped);
    let plans = [shared.publish(1, vec![slot.clone()]), shared.publish(2, vec![slot.clone(), other.clone()])];
    let last = shared.publish(3, vec![slot.clone()]);
    shared.wait_for(3);
    drop(plans);
    assert!(other.look(|_| ()).is_some(), "a queue that was in a plan for a moment is lost");
    free(&memory);
    shared.stop();
    worker.join().unwrap();
    drop(last);
}

/// A worker that sleeps whenever it may. Where a wake-up is lost, nobody can go on, and loom tells.
pub fn sleep() {
    let shared = Shared::new();
    let worker = Worker::start(&shared, Worker::sleep_until_stopped);
    let plan = shared.publish(1, Vec::new());
    shared.stop();
    worker.join().unwrap();
    drop(plan);
}
