//! A guest that keeps exact books of its rings over the lives of culvertd: which buffers it offered, which came back, which frames
//! arrived.
//!
//! What culvertd promises of a ring, split or packed, whatever ends it and whenever: each buffer that was offered comes back once, in the order
//! of the offers. A frame whose buffer came back is never sent again; of those that had not, one burst at most arrives twice. The books
//! make an error of anything else. Nothing here talks vhost-user: [`member`](super::member) connects it.

use std::collections::VecDeque;
use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};
use culvert_driver::{Buffer, Ram, Ring};

/// Frames that a queue sends again at most after an end of culvertd: one burst.
pub const BURST: u64 = 32;

/// Entries of each ring.
const RING: u16 = 256;

/// Frames that are on their way at most, so that the receiver always has room: frames may be lost for no other reason than
/// that it was not there.
const WINDOW: u64 = 128;

/// Of virtio-net, with a count of buffers.
const HEADER: usize = 12;

/// Bytes of each buffer, for frames of up to 1514.
const BUFFER: u32 = 2048;

/// One guest's rings and books.
pub struct Ledger {
    number: u8,
    peer: u8,
    packed: bool,
    ram: Rc<Ram>,
    /// Ring 0.
    receive: Ring,
    /// Ring 1.
    transmit: Ring,
    receive_buffers: u64,
    transmit_buffers: u64,
    /// Heads that were offered and did not come back, in the order of the offers.
    offered: VecDeque<u16>,
    /// The same of the transmit ring; the frames that they hold end before `sent`.
    sending: VecDeque<u16>,
    sent: u64,
    arrivals: Arrivals,
}

/// What came from the peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrivals {
    /// The frame that is expected: all before it have come, or are lost.
    pub next: u64,
    /// Frames that did not come before a later one did.
    pub lost: u64,
    /// Frames that came twice.
    pub repeated: u64,
    /// Since culvertd ended last.
    repeated_lately: u64,
    /// Frames from this one on may come again, one after the other.
    again: u64,
    /// Frames before this one may be lost.
    excused: u64,
}

impl Ledger {
    /// A guest that sends to another one, both named by numbers.
    pub fn new(number: u8, peer: u8, packed: bool) -> Self {
        let bytes = u64::from(RING) * u64::from(BUFFER);
        let ram = Rc::new(Ram::new((2 * bytes + 0x2_0000).next_multiple_of(0x20_0000), false));
        let ring = if packed { Ring::packed } else { Ring::new };
        let receive = ring(ram.clone(), RING, false);
        let transmit = ring(ram.clone(), RING, false);
        let (receive_buffers, transmit_buffers) = (ram.allocate(bytes, 4096), ram.allocate(bytes, 4096));
        let (offered, sending) = (VecDeque::new(), VecDeque::new());
        let arrivals = Arrivals { again: u64::MAX, ..Arrivals::default() };
        let mut ledger = Self {
            number,
            peer,
            packed,
            ram,
            receive,
            transmit,
            receive_buffers,
            transmit_buffers,
            offered,
            sending,
            sent: 0,
            arrivals,
        };
        ledger.refill();
        ledger
    }

    /// Its MAC address, as `culvertctl` writes it.
    pub fn address(number: u8) -> String {
        format!("02:00:00:00:01:{number:02x}")
    }

    /// Whether its rings are packed.
    pub fn is_packed(&self) -> bool {
        self.packed
    }

    /// Its memory.
    pub fn ram(&self) -> &Ram {
        &self.ram
    }

    /// Its receive ring and its transmit ring.
    pub fn rings(&self) -> [&Ring; 2] {
        [&self.receive, &self.transmit]
    }

    /// Frames that it has sent so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// The first frame whose buffer has not come back.
    pub fn first_unfinished(&self) -> u64 {
        self.sent - self.sending.len() as u64
    }

    /// What came.
    pub fn arrivals(&self) -> Arrivals {
        self.arrivals
    }

    /// Sends frames as long as its ring and its peer, which expects `next`, have room; returns whether a kick is wanted.
    pub fn send(&mut self, next: u64) -> bool {
        let before = self.sent;
        while self.sent < next + WINDOW && self.transmit.free() > 0 {
            let at = self.transmit_buffers + u64::from(self.transmit.next_head()) * u64::from(BUFFER);
            let frame = frame(self.number, self.peer, self.sent);
            self.ram.write(at, &[0; HEADER]);
            self.ram.write(at + HEADER as u64, &frame);
            let length = u32::try_from(HEADER + frame.len()).unwrap_or(BUFFER);
            let Some(head) = self.transmit.offer(&[Buffer { address: at, length, writable: false }]) else { break };
            self.sending.push_back(head);
            self.sent += 1;
        }
        self.sent != before && self.transmit.publish()
    }

    /// Takes back the buffers of frames that were sent.
    ///
    /// # Errors
    /// One came back twice, out of order, or without having been offered.
    pub fn collect(&mut self) -> Result<()> {
        self.check_index(1)?;
        while let Some((head, _)) = self.transmit.take_used() {
            let oldest = self.sending.pop_front();
            ensure!(oldest == Some(head), "guest {}: buffer {head} was sent, not {oldest:?}", self.number);
        }
        Ok(())
    }

    /// Takes in what arrived; returns whether a kick is wanted for the buffers that are offered again.
    ///
    /// # Errors
    /// A buffer came back twice, out of order, or without having been offered; a frame was changed, lost without excuse, or
    /// repeated against the promise.
    pub fn take_in(&mut self) -> Result<bool> {
        self.check_index(0)?;
        let mut any = false;
        while let Some((head, length)) = self.receive.take_used() {
            let oldest = self.offered.pop_front();
            ensure!(oldest == Some(head), "guest {}: buffer {head} was filled, not {oldest:?}", self.number);
            let mut bytes = vec![0; length as usize];
            ensure!(length <= BUFFER, "guest {}: {length} bytes in a buffer", self.number);
            self.ram.read(self.receive_buffers + u64::from(head) * u64::from(BUFFER), &mut bytes);
            let bytes = bytes.get(HEADER..).context("a frame without a header")?;
            self.arrived(bytes).with_context(|| format!("guest {}, from {}", self.number, self.peer))?;
            any = true;
        }
        if any { Ok(self.refill()) } else { Ok(false) }
    }

    /// culvertd has ended; the peer's first unfinished frame was `again` then.
    pub fn ended(&mut self, again: u64) {
        (self.arrivals.again, self.arrivals.repeated_lately) = (again, 0);
    }

    /// The guest is reachable again; what the peer has sent before, up to frame `sent`, may be lost.
    pub fn excuse(&mut self, sent: u64) {
        self.arrivals.excused = sent;
    }

    /// Gives up waiting for what the peer sent before frame `sent`.
    ///
    /// # Errors
    /// It must not be lost.
    pub fn give_up(&mut self, sent: u64) -> Result<()> {
        self.arrivals.skip_to(sent).with_context(|| format!("guest {}, from {}", self.number, self.peer))
    }

    /// Whether every buffer has come back that was to: all that were sent, and all receive buffers wait.
    ///
    /// # Errors
    /// Which one has not.
    pub fn balance(&self) -> Result<()> {
        let (sending, offered) = (self.sending.len(), self.offered.len());
        ensure!(sending == 0, "guest {}: {sending} buffers with frames never came back", self.number);
        ensure!(offered == usize::from(RING), "guest {}: {offered} receive buffers wait, not {RING}", self.number);
        let filled = self.receive.pending();
        ensure!(filled == RING, "guest {}: {filled} receive buffers are open, not {RING}", self.number);
        Ok(())
    }

    /// The device's index may be no further than what was offered.
    fn check_index(&self, ring: usize) -> Result<()> {
        let pending = if ring == 0 { self.receive.pending() } else { self.transmit.pending() };
        ensure!(pending <= RING, "guest {}: the used index of ring {ring} is beyond the offers", self.number);
        Ok(())
    }

    fn refill(&mut self) -> bool {
        while self.receive.free() > 0 {
            let address = self.receive_buffers + u64::from(self.receive.next_head()) * u64::from(BUFFER);
            let buffer = Buffer { address, length: BUFFER, writable: true };
            let Some(head) = self.receive.offer(&[buffer]) else { break };
            self.offered.push_back(head);
        }
        self.receive.publish()
    }

    fn arrived(&mut self, bytes: &[u8]) -> Result<()> {
        // What others flood is no affair of the books.
        if bytes.get(..12) != frame(self.peer, self.number, 0).get(..12) {
            return Ok(());
        }
        let number = bytes.get(14..22).and_then(|number| number.try_into().ok()).map(u64::from_le_bytes);
        let number = number.with_context(|| format!("a frame of {} bytes", bytes.len()))?;
        ensure!(bytes == frame(self.peer, self.number, number), "frame {number} was changed: {bytes:02x?}");
        self.arrivals.count(number)
    }
}

impl Arrivals {
    fn count(&mut self, number: u64) -> Result<()> {
        if number >= self.next {
            self.skip_to(number)?;
            self.next = number + 1;
            return Ok(());
        }
        if number < self.again {
            bail!(
                "frame {number} came again, whose buffer had come back (again from {}, next {})",
                self.again,
                self.next
            );
        }
        self.again = number + 1;
        self.repeated += 1;
        self.repeated_lately += 1;
        ensure!(self.repeated_lately <= BURST, "{} frames came again: more than one burst", self.repeated_lately);
        Ok(())
    }

    /// Frames before that one are not to come any more.
    fn skip_to(&mut self, number: u64) -> Result<()> {
        let (next, excused) = (self.next, self.excused);
        ensure!(
            number <= next.max(excused),
            "frames {next} to {number} are lost, of which only those before {excused} may be"
        );
        self.lost += number.saturating_sub(next);
        self.next = next.max(number);
        Ok(())
    }
}

/// The frame of a number: from the shortest to the longest, with bytes that follow from the number.
fn frame(from: u8, to: u8, number: u64) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 1, to, 2, 0, 0, 0, 1, from, 0x88, 0xb5];
    let bytes = number.to_le_bytes();
    frame.extend(bytes);
    let length = 60 + usize::try_from(number.wrapping_mul(37) % 1455).unwrap_or_default();
    frame.resize(length, bytes.first().copied().unwrap_or_default());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals() -> Arrivals {
        Arrivals { next: 100, again: u64::MAX, ..Arrivals::default() }
    }

    #[test]
    fn a_frame_comes_again_only_after_an_end_and_if_its_buffer_had_not_come_back() {
        let mut told = arrivals();
        told.count(100).unwrap();
        assert!(told.count(100).is_err());
        told.again = 98;
        assert!(told.count(97).is_err());
        told.count(98).unwrap();
        assert!(told.count(98).is_err());
        told.count(99).unwrap();
        told.count(101).unwrap();
        assert_eq!((told.repeated, told.lost, told.next), (2, 0, 102));
    }

    #[test]
    fn no_more_than_a_burst_comes_again() {
        let mut told = arrivals();
        told.again = 10;
        (10..10 + BURST).for_each(|number| told.count(number).unwrap());
        assert!(told.count(10 + BURST).is_err());
    }

    #[test]
    fn only_what_was_sent_while_the_guest_was_away_may_be_lost() {
        let mut told = arrivals();
        assert!(told.count(101).is_err());
        told.excused = 103;
        told.count(103).unwrap();
        assert_eq!((told.lost, told.next), (3, 104));
        assert!(told.count(105).is_err());
        assert!(told.skip_to(105).is_err());
        told.skip_to(104).unwrap();
    }
}
