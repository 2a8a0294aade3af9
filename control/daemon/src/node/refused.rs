//! Tells in the log which ports refuse frames, and why: once when it begins, and then now and then while it goes on.
//!
//! `culvertctl drops` has the counters; nobody looks at them before something is known to be wrong. Called by the thread of
//! [`faults`](super::faults). What is refused in the course of a bridge's work is not told.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use culvert_frame::DropReason;

use super::live::LiveNode;

/// What was told so far.
#[derive(Debug, Default)]
pub struct Refused {
    told: HashMap<String, HashMap<DropReason, Told>>,
}

/// What was told last of one port and reason.
#[derive(Clone, Copy, Debug)]
struct Told {
    count: u64,
    at: Instant,
}

impl Refused {
    /// Looks at all ports, and logs what is new.
    pub fn look(&mut self, node: &LiveNode) {
        let now = Instant::now();
        let ports = node.refused();
        self.told.retain(|name, _| ports.iter().any(|(port, _)| port == name));
        for (port, counts) in ports {
            for (reason, count) in counts {
                if let Some(frames) = self.news(&port, reason, count, now) {
                    let remedy = reason.remedy();
                    tracing::warn!(port, frames, "frames are refused for the reason {reason}: {remedy}");
                }
            }
        }
    }

    /// How many frames are to be told of, if any are.
    fn news(&mut self, port: &str, reason: DropReason, count: u64, now: Instant) -> Option<u64> {
        if is_ordinary(reason) {
            return None;
        }
        if !self.told.contains_key(port) {
            self.told.insert(port.to_owned(), HashMap::new());
        }
        let told = self.told.get_mut(port)?;
        // A port that was removed and added counts from 0.
        let before = told.get(&reason).filter(|before| before.count <= count);
        let frames = count - before.map_or(0, |before| before.count);
        let is_due = before.is_none_or(|before| now.saturating_duration_since(before.at) >= QUIET);
        if frames == 0 || !is_due {
            return None;
        }
        told.insert(reason, Told { count, at: now });
        Some(frames)
    }
}

/// Whether frames are refused for this reason where nothing is wrong, or where another line tells what is.
const fn is_ordinary(reason: DropReason) -> bool {
    matches!(
        reason,
        DropReason::MirrorTarget
            | DropReason::LinkLocal
            | DropReason::SamePort
            | DropReason::Isolated
            | DropReason::NoGroupMember
            | DropReason::NoOtherPort
            | DropReason::PortDown
            | DropReason::Quarantined
    )
}

/// How often ports are looked at.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// How long nothing more is said of a port and reason.
const QUIET: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_told_once_and_then_now_and_then() {
        let mut refused = Refused::default();
        let start = Instant::now();
        let mut news = |port, count, later| refused.news(port, DropReason::BadOffload, count, start + later);
        assert_eq!(news("vm-a", 0, Duration::ZERO), None);
        assert_eq!(news("vm-a", 3, Duration::ZERO), Some(3));
        assert_eq!(news("vm-a", 1_000_000, QUIET / 2), None);
        assert_eq!(news("vm-b", 7, QUIET / 2), Some(7), "another port's lines are its own");
        assert_eq!(news("vm-a", 1_000_003, QUIET), Some(1_000_000));
        assert_eq!(news("vm-a", 1_000_003, 3 * QUIET), None);
        assert_eq!(news("vm-a", 2, 3 * QUIET), Some(2), "a port that was made anew");
    }

    #[test]
    fn what_bridges_refuse_all_the_time_is_not_told() {
        let mut refused = Refused::default();
        let told = DropReason::ALL.into_iter().filter(|&reason| refused.news("a", reason, 1, Instant::now()).is_some());
        let told: Vec<_> = told.collect();
        assert!(told.contains(&DropReason::ShortHeader) && told.contains(&DropReason::NoBuffer), "{told:?}");
        assert!(!told.contains(&DropReason::LinkLocal) && !told.contains(&DropReason::PortDown), "{told:?}");
    }
}
