//! What one worker tells control about multicast groups.
//!
//! Each port has a share of the room until control looks again: a guest that floods messages loses its own, and not those
//! of others, whose answers to a querier it would silence.

use std::sync::atomic::{AtomicU8, Ordering};

use crossbeam::queue::ArrayQueue;
use culvert_switch::PortId;
use culvert_switch::port::MAX_PORTS;
use culvert_switch::snoop::Snooped;

/// Messages of one port between two looks of control.
const PORT_SHARE: u8 = 16;

/// Messages of all ports.
const ROOM: usize = 4096;

/// A message, the port at which it arrived, and its VLAN.
pub(crate) type Message = (PortId, u16, Snooped);

/// The queue from one worker to control.
#[derive(Debug)]
pub(crate) struct SnoopQueue {
    messages: ArrayQueue<Message>,
    /// How many of each port's are in it.
    shares: Box<[AtomicU8]>,
}

impl SnoopQueue {
    pub(crate) fn new() -> Self {
        let shares = std::iter::repeat_with(|| AtomicU8::new(0)).take(MAX_PORTS).collect();
        Self { messages: ArrayQueue::new(ROOM), shares }
    }

    /// Adds a message, unless its port's share is used up; for the worker.
    pub(crate) fn push(&self, message: Message) {
        let Some(share) = self.shares.get(message.0.index()) else { return };
        let taken = share.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
            (used < PORT_SHARE).then_some(used.saturating_add(1))
        });
        if taken.is_ok() && self.messages.push(message).is_err() {
            share.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Takes the oldest message; for control.
    pub(crate) fn pop(&self) -> Option<Message> {
        let message = self.messages.pop()?;
        if let Some(share) = self.shares.get(message.0.index()) {
            share.fetch_sub(1, Ordering::Relaxed);
        }
        Some(message)
    }

    /// How many messages wait.
    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }
}

#[cfg(test)]
mod tests {
    use culvert_switch::snoop::Family;

    use super::*;

    #[test]
    fn a_port_that_floods_leaves_others_their_room() {
        let queue = SnoopQueue::new();
        let message = |port| (PortId(port), 0, Snooped::Router(Family::Ipv4));
        (0..100_000).for_each(|_| queue.push(message(1)));
        queue.push(message(2));
        let taken: Vec<_> = std::iter::from_fn(|| queue.pop()).map(|(port, ..)| port.0).collect();
        assert_eq!(taken, [vec![1; usize::from(PORT_SHARE)], vec![2]].concat());
        queue.push(message(1));
        assert_eq!((queue.len(), queue.pop().is_some(), queue.len()), (1, true, 0), "its share is free again");
    }
}
