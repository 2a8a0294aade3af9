//! The played guest's TCP: as many connections as are wanted to one address of the world, and as little as can be done for each. All that is
//! sent is zeros; of what comes only the length is looked at.
//!
//! It acknowledges as Linux does whose receive offload has joined segments: after [`ACK_BYTES`], or [`ACK_TIME`] when less came. It has no
//! congestion control: rings lose nothing. Where nothing moves for a while it sends again from what was acknowledged last, and it takes
//! nothing out of order.

use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::packet::{ACK, FIN, Leaves, PUSH, RST, SEGMENT_BYTES, SYN, Segment};
use super::station::Station;
use crate::clock::{ticks, ticks_of};

/// A connection, in the guest's eyes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flow {
    /// Up to where was sent, and acknowledged.
    sent: u32,
    acknowledged: u32,
    /// Up to where came, and was told.
    received: u32,
    told: u32,
    /// Since when something is to be told.
    owed: u64,
    /// How much the world takes, and the scale of that.
    window: u32,
    shift: u8,
    /// When it moved last.
    moved: u64,
    /// It is there.
    pub open: bool,
    /// The world has closed it; or broken it.
    pub ended: bool,
    pub reset: bool,
    finished: bool,
    /// Payload that came so far.
    pub bytes: u64,
}

/// All connections of a guest.
pub struct Flows {
    pub station: Station,
    flows: Vec<Flow>,
    leaves: Leaves,
    to: u16,
    /// Those that owe an acknowledgement.
    owing: Vec<usize>,
    /// Segments that came out of order, or again.
    pub disorder: u64,
    /// Segments that were sent again.
    pub again: u64,
}

impl Flows {
    /// Room for so many connections to a port of the world, none of which is there.
    pub fn new(station: Station, count: usize, to: u16) -> Self {
        let leaves = Leaves { checksums: station.leaves_checksums(), segments: station.leaves_segments() };
        let flows = vec![Flow::default(); count];
        Self { station, flows, leaves, to, owing: Vec::new(), disorder: 0, again: 0 }
    }

    /// One of them.
    pub fn flow(&self, index: usize) -> Flow {
        self.flows.get(index).copied().unwrap_or_default()
    }

    /// Payload that came in all so far.
    pub fn bytes(&self) -> u64 {
        self.flows.iter().map(|flow| flow.bytes).sum()
    }

    /// Begins a connection, from where nobody sees that it is not the first of its port.
    ///
    /// # Errors
    /// The kick does not work.
    pub fn open(&mut self, index: usize) -> Result<()> {
        let now = ticks();
        let Some(flow) = self.flows.get_mut(index) else { bail!("no connection {index}") };
        let start = now as u32;
        *flow = Flow { sent: start.wrapping_add(1), acknowledged: start, moved: now, ..Flow::default() };
        let segment = Segment { sequence: start, flags: SYN, window: WINDOW, shift: SHIFT, ..Segment::default() };
        self.lay(index, segment)?;
        self.station.send()
    }

    /// Sends so many bytes, as one segment; the caller sees to it that they are wanted.
    ///
    /// # Errors
    /// The kick does not work.
    pub fn write(&mut self, index: usize, payload: u32) -> Result<()> {
        let flow = self.flow(index);
        let segment = Segment { sequence: flow.sent, flags: ACK | PUSH, payload, ..Segment::default() };
        self.advance(index, payload);
        self.lay(index, segment)
    }

    /// Sends as much as the world takes and the ring has room for, in pieces of 64 KiB or of an MTU; returns how many bytes.
    ///
    /// # Errors
    /// The kick does not work.
    pub fn fill(&mut self, index: usize, most: u16) -> Result<u32> {
        let piece = if self.leaves.segments { LARGEST } else { u32::from(SEGMENT_BYTES) };
        let mut total = 0;
        let room = self.station.room().min(most);
        for _ in 0..room {
            let flow = self.flow(index);
            let under_way = flow.sent.wrapping_sub(flow.acknowledged);
            let payload = flow.window.saturating_sub(under_way).min(piece);
            if payload < piece && (under_way > 0 || payload == 0) {
                break;
            }
            self.write(index, payload)?;
            total += payload;
        }
        if total == 0 {
            self.send_again(index)?;
        }
        Ok(total)
    }

    /// Says that no more comes, and acknowledges.
    ///
    /// # Errors
    /// The kick does not work.
    pub fn close(&mut self, index: usize) -> Result<()> {
        let flow = self.flow(index);
        let segment = Segment { sequence: flow.sent, flags: ACK | FIN, ..Segment::default() };
        self.advance(index, 1);
        self.lay(index, segment)
    }

    /// Takes what came, tells what is to be told, and sends what was written.
    ///
    /// # Errors
    /// The kick does not work, or the rings are broken.
    pub fn turn(&mut self) -> Result<()> {
        let now = ticks();
        let Self { station, flows, owing, disorder, .. } = self;
        let count = station.take(|frame| {
            let Some(segment) = Segment::parse(frame) else { return };
            let index = usize::from(segment.to.wrapping_sub(FIRST_PORT));
            let Some(flow) = flows.get_mut(index) else { return };
            if flow.take(&segment, now) {
                *disorder += 1;
            }
            if flow.owed == now {
                owing.push(index);
            }
        })?;
        let due = now.saturating_sub(ticks_of(ACK_TIME));
        let mut position = 0;
        while let Some(&index) = self.owing.get(position) {
            let flow = self.flow(index);
            let untold = flow.received.wrapping_sub(flow.told);
            if flow.owed == 0 {
                self.owing.swap_remove(position);
            } else if (untold >= ACK_BYTES || flow.owed <= due) && self.station.room() > 0 {
                self.owing.swap_remove(position);
                self.lay(index, Segment { sequence: flow.sent, flags: ACK, ..Segment::default() })?;
            } else {
                position += 1;
            }
        }
        if count > 0 {
            self.station.check()?;
        }
        self.station.send()
    }

    /// Turns until something holds.
    ///
    /// # Errors
    /// It does not for too long.
    pub fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> Result<bool>) -> Result<()> {
        let end = ticks() + ticks_of(LIMIT);
        loop {
            self.turn()?;
            if holds(self)? {
                return Ok(());
            }
            ensure!(ticks() < end, "no {what} within {LIMIT:?}");
        }
    }

    /// Lays a segment with what is to be told of the other direction.
    fn lay(&mut self, index: usize, segment: Segment) -> Result<()> {
        let Some(flow) = self.flows.get_mut(index) else { bail!("no connection {index}") };
        flow.told = flow.received;
        flow.owed = 0;
        let segment = Segment {
            from: FIRST_PORT + index as u16,
            to: self.to,
            acknowledged: if segment.flags & ACK == 0 { 0 } else { flow.received },
            window: WINDOW,
            ..segment
        };
        let (header, head, length) = segment.frame(self.leaves);
        ensure!(self.station.room() > 0, "the ring is full");
        self.station.lay(&header, &head, length);
        Ok(())
    }

    fn advance(&mut self, index: usize, bytes: u32) {
        if let Some(flow) = self.flows.get_mut(index) {
            if flow.sent == flow.acknowledged {
                flow.moved = ticks();
            }
            flow.sent = flow.sent.wrapping_add(bytes);
        }
    }

    /// Begins again at what was acknowledged, where nothing has moved for long.
    fn send_again(&mut self, index: usize) -> Result<()> {
        let (now, room) = (ticks(), self.station.room());
        if room > 0
            && let Some(flow) = self.flows.get_mut(index)
            && flow.sent != flow.acknowledged
            && now > flow.moved + ticks_of(PATIENCE)
        {
            flow.sent = flow.acknowledged;
            flow.moved = now;
            self.again += 1;
            let room = flow.window.min(u32::from(SEGMENT_BYTES));
            if room > 0 {
                self.write(index, room)?;
            }
        }
        Ok(())
    }
}

impl Flow {
    /// Takes a segment that came; whether it was not the next one.
    fn take(&mut self, segment: &Segment, now: u64) -> bool {
        if segment.flags & RST != 0 {
            (self.reset, self.ended) = (true, true);
            return false;
        }
        if segment.flags & SYN != 0 {
            self.received = segment.sequence.wrapping_add(1);
            self.shift = segment.shift;
            self.window = u32::from(segment.window);
            self.open = true;
            self.owed = now;
        } else {
            self.window = u32::from(segment.window) << self.shift;
        }
        let news = segment.acknowledged.wrapping_sub(self.acknowledged);
        if news > 0 && news <= self.sent.wrapping_sub(self.acknowledged) {
            self.acknowledged = segment.acknowledged;
            self.moved = now;
        }
        let length = segment.payload + u32::from(segment.flags & FIN != 0);
        if length == 0 || segment.flags & SYN != 0 {
            return false;
        }
        if self.owed == 0 {
            self.owed = now;
        }
        if segment.sequence != self.received || self.finished {
            return true;
        }
        self.received = self.received.wrapping_add(length);
        self.bytes += u64::from(segment.payload);
        if segment.flags & FIN != 0 {
            (self.ended, self.finished) = (true, true);
        }
        false
    }
}

/// The guest's port of the first connection.
const FIRST_PORT: u16 = 10_000;

/// What the guest takes at once: 4 MiB.
const WINDOW: u16 = 16_384;
const SHIFT: u8 = 8;

/// The largest payload of a segment that is to be cut.
const LARGEST: u32 = 44 * SEGMENT_BYTES as u32;

const ACK_BYTES: u32 = 0x1_0000;
const ACK_TIME: Duration = Duration::from_micros(50);

/// The longest that a segment that was sent may remain without an acknowledgement.
const PATIENCE: Duration = Duration::from_millis(300);

/// The longest that anything may take that is waited for.
const LIMIT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_takes_what_is_next_and_nothing_else() {
        let mut flow = Flow { sent: 101, acknowledged: 100, ..Flow::default() };
        let segment = |sequence, payload, flags| Segment {
            sequence,
            payload,
            flags,
            acknowledged: 101,
            window: 10,
            shift: 7,
            ..Segment::default()
        };
        assert!(!flow.take(&segment(500, 0, SYN | ACK), 1));
        // A SYN's window is not scaled, those behind it are (RFC 7323, 2.2).
        assert_eq!((flow.open, flow.received, flow.acknowledged, flow.window), (true, 501, 101, 10));
        assert!(!flow.take(&segment(501, 1000, ACK), 2));
        assert_eq!((flow.bytes, flow.window), (1000, 1280));
        assert!(flow.take(&segment(2501, 1000, ACK), 3), "behind a hole");
        assert!(flow.take(&segment(501, 1000, ACK), 3), "again");
        assert!(!flow.take(&segment(1501, 500, ACK | FIN), 4));
        assert_eq!((flow.bytes, flow.received, flow.ended), (1500, 2002, true));
    }
}
