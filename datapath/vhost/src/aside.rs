//! What a frontend can make last as long as it likes, done aside: in a thread of its port's own, so that it is this port only
//! that waits. Used by `port`.
//!
//! Above all that is closing what the frontend handed over. The last close of a TCP socket that lingers waits for whoever
//! is to read from it; that of a file on a FUSE file system for the file system's process; that of a socket closes
//! what lies in its queue, be it another such descriptor; that of a guest's memory frees all of its pages. Looking at a
//! file and mapping it may wait as well, and so may a write to an eventfd that its owner makes block.
//!
//! The thread is there only while there is something to do, and for a moment longer.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// One port's jobs, done one after the other.
#[derive(Clone, Debug)]
pub struct Aside {
    /// None: done at once, by whoever asks.
    lane: Option<Arc<Lane>>,
}

#[derive(Debug, Default)]
struct Lane {
    queue: Mutex<Queue>,
    has_job: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Those in `jobs`, and the one that is being done.
    waiting: usize,
    /// Somebody does them.
    at_work: bool,
}

type Job = Box<dyn FnOnce() + Send>;

impl Aside {
    /// Jobs are done in a thread, which is started when there is one.
    pub fn in_thread() -> Self {
        Self { lane: Some(Arc::default()) }
    }

    /// Jobs are done where they are given: for a process that serves one guest only, which is then the one that waits.
    pub const fn at_once() -> Self {
        Self { lane: None }
    }

    /// Does `job` after those before it.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        let Some(lane) = &self.lane else { return job() };
        let mut queue = lane.queue();
        queue.jobs.push_back(Box::new(job));
        queue.waiting += 1;
        if queue.at_work {
            lane.has_job.notify_one();
            return;
        }
        queue.at_work = true;
        drop(queue);
        let there = Arc::clone(lane);
        let started = thread::Builder::new().name("vhost-aside".to_owned()).spawn(move || there.work());
        if started.is_err() {
            // There can be no thread now: better that others wait than that it is left undone.
            lane.work();
        }
    }

    /// Drops `thing` there.
    pub fn end<T: Send + 'static>(&self, thing: T) {
        self.run(move || drop(thing));
    }

    /// Whether jobs are done in a thread of their own.
    pub const fn has_thread(&self) -> bool {
        self.lane.is_some()
    }

    /// How many jobs are not done yet.
    pub fn waiting(&self) -> usize {
        self.lane.as_ref().map_or(0, |lane| lane.queue().waiting)
    }
}

impl Lane {
    fn work(&self) {
        loop {
            let is_idle = |queue: &mut Queue| queue.jobs.is_empty();
            let waited = self.has_job.wait_timeout_while(self.queue(), LINGER, is_idle);
            let (mut queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
            let Some(job) = queue.jobs.pop_front() else {
                queue.at_work = false;
                return;
            };
            drop(queue);
            job();
            self.queue().waiting -= 1;
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a thread waits for another job: a frontend that starts hands over one descriptor after the other.
const LINGER: Duration = Duration::from_millis(50);

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("waiting", &self.waiting).field("at_work", &self.at_work).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn jobs_are_done_in_order_and_nobody_else_waits() {
        let aside = Aside::in_thread();
        let (go, may_go) = channel::<()>();
        let (done, is_done) = channel();
        let first = done.clone();
        aside.run(move || {
            may_go.recv().unwrap();
            first.send(1).unwrap();
        });
        aside.run(move || done.send(2).unwrap());
        assert_eq!(aside.waiting(), 2);
        go.send(()).unwrap();
        assert_eq!((is_done.recv(), is_done.recv()), (Ok(1), Ok(2)));
        while aside.waiting() > 0 {
            thread::yield_now();
        }
    }

    #[test]
    fn without_a_thread_a_job_is_done_when_it_is_given() {
        let (done, is_done) = channel();
        Aside::at_once().run(move || done.send(thread::current().id()).unwrap());
        assert_eq!(is_done.try_recv(), Ok(thread::current().id()));
    }
}
