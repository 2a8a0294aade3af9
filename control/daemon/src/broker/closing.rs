//! Closing what was kept. A frontend can make the last close of what it handed over take as long as it likes: each name's things are
//! closed in a thread of their own, and a name of which too many hang gets no more.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What is being closed, by names.
#[derive(Debug, Default)]
pub struct Closing {
    threads: BTreeMap<String, Arc<AtomicUsize>>,
}

impl Closing {
    /// Closes these, which were kept under `name`.
    pub fn close(&mut self, name: &str, descriptors: Vec<OwnedFd>) {
        self.threads.retain(|_, threads| threads.load(Ordering::Relaxed) > 0);
        let threads = Arc::clone(self.threads.entry(name.to_owned()).or_default());
        threads.fetch_add(1, Ordering::Relaxed);
        let there = Arc::clone(&threads);
        let closing = std::thread::Builder::new().name("closing".to_owned()).spawn(move || {
            drop(descriptors);
            there.fetch_sub(1, Ordering::Relaxed);
        });
        if closing.is_err() {
            // They were closed here, for there can be no thread now.
            threads.fetch_sub(1, Ordering::Relaxed);
        }
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
        closing.threads.insert("b".to_owned(), Arc::new(AtomicUsize::new(MAX_THREADS)));
        assert!(closing.is_stuck("b") && !closing.is_stuck("a") && !closing.is_stuck("c"));
    }
}
