//! Closing what was kept. Who has handed something over can make its last close take as long as it likes, and so what is done with it
//! before: that happens in threads of their own, and a name of which too many hang gets no more.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What is being closed, by names.
#[derive(Debug, Default)]
pub struct Closing {
    threads: BTreeMap<String, Arc<AtomicUsize>>,
}

/// A thread that does something with what has a name: one of those that may hang, while this is there.
#[derive(Debug)]
pub struct Busy(Arc<AtomicUsize>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Closing {
    /// Closes these, which were kept under `name`.
    pub fn close(&mut self, name: &str, descriptors: Vec<OwnedFd>) {
        let busy = self.busy(name);
        // Where there can be no thread now they are closed here.
        let _ = std::thread::Builder::new().name("closing".to_owned()).spawn(move || {
            drop(descriptors);
            drop(busy);
        });
    }

    /// A thread that may hang begins to do something with what has this name.
    pub fn busy(&mut self, name: &str) -> Busy {
        self.threads.retain(|_, threads| threads.load(Ordering::Relaxed) > 0);
        let threads = Arc::clone(self.threads.entry(name.to_owned()).or_default());
        threads.fetch_add(1, Ordering::Relaxed);
        Busy(threads)
    }

    /// Whether there is too much of this name that cannot be closed.
    pub fn is_stuck(&self, name: &str) -> bool {
        self.threads.get(name).is_some_and(|threads| threads.load(Ordering::Relaxed) >= MAX_THREADS)
    }
}

/// Threads for one name.
const MAX_THREADS: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{self, Read};

    #[test]
    fn what_is_closed_is_closed_elsewhere() {
        let mut closing = Closing::default();
        let (mut reader, writer) = io::pipe().unwrap();
        closing.close("a", vec![writer.into()]);
        assert_eq!(reader.read_to_end(&mut Vec::new()).unwrap(), 0);
        let busy: Vec<_> = (0..MAX_THREADS).map(|_| closing.busy("b")).collect();
        assert!(closing.is_stuck("b") && !closing.is_stuck("a") && !closing.is_stuck("c"));
        drop(busy);
        assert!(!closing.is_stuck("b"));
    }
}
