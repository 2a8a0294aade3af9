//! How control and one worker hand things to each other: plans one way, acknowledgements back, and queues, which have one
//! owner at a time.
//!
//! Theory of operation. Control puts a plan down, and then its generation. The worker sees by one relaxed load a round that the
//! generation is not the one that it runs; then it puts its queues back into their [`Slot`]s, takes the plan, takes the
//! plan's queues out of theirs, and acknowledges. Whatever the worker did before is seen by control once it sees the acknowledgement:
//! a queue that is in no plan is control's then, and what it uses may be freed.
//!
//! Not here: how a worker is woken (its epoll set), and what is in a plan. Called by `datapath` (control) and `poll_loop`
//! (worker). All synchronisation comes from [`sync`](crate::sync), so that a model checker can take its place.

use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, Ordering, PoisonError, fence};

/// What control and one worker share about plans of type `P`.
#[derive(Debug)]
pub struct HandOver<P> {
    plan: Mutex<Option<Arc<P>>>,
    /// Of the newest plan.
    generation: AtomicU64,
    /// Of the plan that the worker runs.
    acknowledged: AtomicU64,
    stop: AtomicBool,
    /// The worker sleeps, or is about to.
    asleep: AtomicBool,
}

impl<P> HandOver<P> {
    /// Without any plan: generation 0.
    pub fn new() -> Self {
        Self {
            plan: Mutex::new(None),
            generation: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
        }
    }

    /// Control: puts down a plan of a `generation` higher than all before. The worker is to be woken then.
    pub fn publish(&self, generation: u64, plan: Arc<P>) {
        *self.plan.lock().unwrap_or_else(PoisonError::into_inner) = Some(plan);
        self.generation.store(generation, Ordering::Release);
    }

    /// Control: whether the worker runs the plan of that generation, or a later one. What it did under earlier ones is
    /// done, and seen.
    pub fn has_acknowledged(&self, generation: u64) -> bool {
        self.acknowledged.load(Ordering::Acquire) >= generation
    }

    /// Control: the worker is to end. It is to be woken then.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Control: whether the worker sleeps.
    pub fn is_asleep(&self) -> bool {
        self.asleep.load(Ordering::Relaxed)
    }

    /// Worker: whether there is another plan than that of generation `running`.
    #[inline]
    pub fn has_other_than(&self, running: u64) -> bool {
        self.generation.load(Ordering::Relaxed) != running
    }

    /// Worker: the newest plan.
    pub fn newest(&self) -> Option<Arc<P>> {
        // The generation was read relaxed; the plan that goes with it was stored before it.
        fence(Ordering::Acquire);
        self.plan.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Worker: it runs the plan of that generation, and touches nothing of earlier ones any more.
    pub fn acknowledge(&self, generation: u64) {
        self.acknowledged.store(generation, Ordering::Release);
    }

    /// Worker: whether it is to end.
    #[inline]
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Worker: it goes to sleep, or is awake again.
    pub fn set_asleep(&self, asleep: bool) {
        self.asleep.store(asleep, Ordering::Relaxed);
    }
}

impl<P> Default for HandOver<P> {
    fn default() -> Self {
        Self::new()
    }
}

/// Where a queue lies while no worker owns it.
#[derive(Debug)]
pub struct Slot<T> {
    place: Arc<Mutex<Option<Box<T>>>>,
}

impl<T> Slot<T> {
    /// A slot with a queue in it.
    pub fn new(queue: T) -> Self {
        Self { place: Arc::new(Mutex::new(Some(Box::new(queue)))) }
    }

    /// Takes the queue out, if it is there.
    pub fn take(&self) -> Option<Box<T>> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Puts the queue back.
    pub fn put(&self, queue: Box<T>) {
        *self.place.lock().unwrap_or_else(PoisonError::into_inner) = Some(queue);
    }

    /// Looks at the queue, if it is there.
    pub fn look<R>(&self, with: impl FnOnce(&T) -> R) -> Option<R> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner).as_deref().map(with)
    }

    /// Changes the queue, if it is there.
    pub fn change(&self, with: impl FnOnce(&mut T)) {
        self.place.lock().unwrap_or_else(PoisonError::into_inner).as_deref_mut().map(with);
    }
}

impl<T> Clone for Slot<T> {
    /// Another handle on the same slot.
    fn clone(&self) -> Self {
        Self { place: Arc::clone(&self.place) }
    }
}
