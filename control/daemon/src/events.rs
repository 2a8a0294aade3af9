//! What happens on the node, for those who watch: the last events are kept, and each new one goes to all watchers.
//!
//! Who tells of an event never waits: a watcher that is too slow misses the oldest ones, and learns how many.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use culvert_api::v1::{Event, EventKind};
use tokio::sync::broadcast;

/// The events of a daemon.
#[derive(Debug)]
pub struct Events {
    kept: Mutex<Kept>,
    watchers: broadcast::Sender<Event>,
}

#[derive(Debug, Default)]
struct Kept {
    events: VecDeque<Event>,
    /// The number of the last one.
    last: u64,
}

impl Default for Events {
    fn default() -> Self {
        Self { kept: Mutex::default(), watchers: broadcast::Sender::new(MAX_BEHIND) }
    }
}

impl Events {
    /// Tells of an event. `port` is empty for the node as a whole; `text` is a sentence without its name.
    pub fn tell(&self, kind: EventKind, port: &str, text: impl Into<String>) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let time_ns = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        let mut kept = self.lock();
        kept.last = kept.last.saturating_add(1);
        let event = Event { number: kept.last, time_ns, kind: kind.into(), port: port.to_owned(), text: text.into() };
        if kept.events.len() >= MAX_KEPT {
            kept.events.pop_front();
        }
        kept.events.push_back(event.clone());
        // Under the lock, so that watchers have them in their order. An error means that nobody watches.
        let _ = self.watchers.send(event);
    }

    /// The last `past` events of `port`, or of all if that is empty, and those that will be of any port.
    pub fn watch(&self, port: &str, past: usize) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let kept = self.lock();
        let meant = |event: &&Event| port.is_empty() || event.port == port;
        let mut events: Vec<_> = kept.events.iter().rev().filter(meant).take(past).cloned().collect();
        events.reverse();
        (events, self.watchers.subscribe())
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Events that are kept; culvert.proto names it.
const MAX_KEPT: usize = 1024;
/// How many events a watcher may be behind.
const MAX_BEHIND: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::broadcast::error::TryRecvError;

    #[test]
    fn the_last_ones_are_kept_and_new_ones_follow() {
        let events = Events::default();
        for number in 0..MAX_KEPT + 3 {
            let port = if number % 2 == 0 { "vm-a" } else { "vm-b" };
            events.tell(EventKind::Up, port, number.to_string());
        }
        let (all, _) = events.watch("", usize::MAX);
        assert_eq!((all.len(), all.first().map(|event| event.number)), (MAX_KEPT, Some(4)));
        let (some, mut following) = events.watch("vm-b", 2);
        assert_eq!(some.iter().map(|event| event.text.as_str()).collect::<Vec<_>>(), ["1023", "1025"]);
        assert_eq!(following.try_recv(), Err(TryRecvError::Empty));
        events.tell(EventKind::Down, "", "x");
        let event = following.try_recv().unwrap();
        assert_eq!((event.number, event.kind(), event.text.as_str()), (1028, EventKind::Down, "x"));
    }

    #[test]
    fn who_does_not_listen_misses_the_oldest() {
        let events = Events::default();
        let (_, mut following) = events.watch("", 0);
        for _ in 0..MAX_BEHIND + 7 {
            events.tell(EventKind::Up, "vm-a", "");
        }
        assert_eq!(following.try_recv(), Err(TryRecvError::Lagged(7)));
        assert_eq!(following.try_recv().unwrap().number, 8);
    }
}
