//! How many connections there may be: in all, and of one process.
//!
//! A process is the one that the kernel names (SO_PEERCRED). It names none that is in a process namespace beyond ours: those
//! share nothing but the bound for all.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::UnixStream;

use super::Limits;

/// The places for connections.
pub(super) struct Places {
    limits: Limits,
    /// Connections of each process; those of unknown ones under `None`.
    taken: Mutex<BTreeMap<Option<i32>, usize>>,
}

/// A connection's place, which is free when this is dropped.
pub(super) struct Place {
    places: Arc<Places>,
    process: Option<i32>,
}

impl Places {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, taken: Mutex::default() }
    }

    /// A place for a client's connection, if there is one.
    pub(super) fn take(self: &Arc<Self>, stream: &UnixStream) -> Option<Place> {
        let process = stream.peer_cred().ok().and_then(|peer| peer.pid()).filter(|pid| *pid > 0);
        self.take_for(process)
    }

    fn take_for(self: &Arc<Self>, process: Option<i32>) -> Option<Place> {
        let mut taken = self.lock();
        let all: usize = taken.values().sum();
        let own = taken.get(&process).copied().unwrap_or(0);
        if all >= self.limits.connections || (process.is_some() && own >= self.limits.of_one_process) {
            return None;
        }
        taken.insert(process, own.saturating_add(1));
        drop(taken);
        Some(Place { places: Arc::clone(self), process })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Option<i32>, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        let left = taken.get(&self.process).map_or(0, |own| own.saturating_sub(1));
        if left == 0 {
            taken.remove(&self.process);
        } else {
            taken.insert(self.process, left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn one_process_does_not_keep_others_away() {
        let limits = Limits { patience: Duration::ZERO, connections: 5, of_one_process: 2 };
        let places = Arc::new(Places::new(limits));
        let first = [places.take_for(Some(1)).unwrap(), places.take_for(Some(1)).unwrap()];
        assert!(places.take_for(Some(1)).is_none());
        let _second = places.take_for(Some(2)).unwrap();
        drop(first);
        let _again = places.take_for(Some(1)).unwrap();
        // Of processes that nobody can tell apart there may be as many as in all.
        let unknown = [(); 3].map(|()| places.take_for(None).unwrap());
        assert!(places.take_for(None).is_none() && places.take_for(Some(3)).is_none());
        drop(unknown);
        assert!(places.take_for(Some(3)).is_some());
        // Who has been refused is not kept in mind.
        assert_eq!(places.lock().len(), 2);
    }
}
