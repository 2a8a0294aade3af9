//! A kernel socket and the far end behind it: buffers, a round trip, an application that reads or does not.

use std::collections::VecDeque;
use std::time::Duration;

use super::super::SocketInfo;
use crate::time::Instant;

/// What kind of a far end it is.
#[derive(Clone, Debug)]
pub(super) struct Kind {
    pub(super) rtt: Duration,
    /// The socket's send buffer, in bytes.
    pub(super) send_buffer: usize,
    /// The socket's receive buffer.
    pub(super) receive_buffer: usize,
    /// The far end's receive buffer.
    pub(super) far_buffer: usize,
    /// How much of the far end's data comes at once, and how far apart.
    pub(super) chunk: usize,
    pub(super) interval: Duration,
}

impl Default for Kind {
    fn default() -> Self {
        Self {
            rtt: Duration::from_micros(100),
            send_buffer: 256 << 10,
            receive_buffer: 256 << 10,
            far_buffer: 256 << 10,
            chunk: 64 << 10,
            interval: Duration::from_micros(50),
        }
    }
}

pub(super) enum Peek {
    Data(Vec<u8>),
    End,
    Nothing,
}

pub(super) struct Kernel {
    pub(super) kind: Kind,
    /// What the far end sends, and how much of it has come.
    pub(super) stream: Vec<u8>,
    arrived: usize,
    /// How much was discarded.
    pub(super) discarded: usize,
    pub(super) far_closes: bool,
    pub(super) far_sends: bool,
    next_arrival: Option<Instant>,
    has_end: bool,
    /// Written and not sent.
    unsent: VecDeque<u8>,
    flight: VecDeque<(Instant, Vec<u8>)>,
    acknowledgements: VecDeque<(Instant, usize)>,
    flight_bytes: usize,
    pub(super) written: u64,
    pub(super) is_shut_down: bool,
    pub(super) far_received: Vec<u8>,
    far_consumed: usize,
    pub(super) far_reads: bool,
    is_armed: bool,
    pub(super) is_closed: bool,
    pub(super) is_reset: bool,
    pub(super) readable: bool,
    pub(super) writable: bool,
    pub(super) questions: u64,
}

impl Kernel {
    pub(super) fn new(kind: Kind, stream: Vec<u8>) -> Self {
        Self {
            kind,
            stream,
            arrived: 0,
            discarded: 0,
            far_closes: true,
            far_sends: true,
            next_arrival: None,
            has_end: false,
            unsent: VecDeque::new(),
            flight: VecDeque::new(),
            acknowledgements: VecDeque::new(),
            flight_bytes: 0,
            written: 0,
            is_shut_down: false,
            far_received: Vec::new(),
            far_consumed: 0,
            far_reads: true,
            is_armed: false,
            is_closed: false,
            is_reset: false,
            readable: false,
            writable: false,
            questions: 0,
        }
    }

    /// The far end has something new to send, or ends.
    pub(super) fn on_change(&mut self) {
        self.next_arrival = None;
    }

    /// The far end has all that it will get.
    pub(super) fn far_got_end(&self) -> bool {
        self.is_shut_down && self.unsent.is_empty() && self.flight.is_empty()
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> usize {
        assert!(!self.is_shut_down, "nothing is written behind the end");
        let taken = bytes.len().min(self.room());
        self.unsent.extend(&bytes[..taken]);
        self.written += u64::try_from(taken).unwrap();
        self.is_armed |= taken < bytes.len();
        taken
    }

    pub(super) fn await_writable(&mut self) {
        self.is_armed = true;
    }

    fn room(&self) -> usize {
        self.kind.send_buffer.saturating_sub(self.unsent.len() + self.flight_bytes)
    }

    pub(super) fn peek(&self, offset: u32, max: u32) -> Peek {
        let from = self.discarded + offset as usize;
        assert!(max > 0 && from <= self.arrived, "nobody peeks behind what may be there");
        let to = self.arrived.min(from + max as usize);
        if from < to {
            Peek::Data(self.stream[from..to].to_vec())
        } else if self.has_end {
            Peek::End
        } else {
            Peek::Nothing
        }
    }

    pub(super) fn discard(&mut self, bytes: u32) {
        self.discarded += bytes as usize;
        assert!(self.discarded <= self.arrived, "only what is there is discarded");
    }

    pub(super) fn info(&mut self) -> SocketInfo {
        self.questions += 1;
        SocketInfo { send_room: u32::try_from(self.room()).unwrap(), rtt: self.kind.rtt }
    }

    pub(super) fn advance(&mut self, now: Instant) {
        if self.is_reset {
            return;
        }
        if self.far_sends && self.next_arrival.is_none_or(|at| now >= at) {
            self.arrive(now);
        }
        while let Some((at, bytes)) = self.flight.pop_front_if(|(at, _)| *at <= now) {
            self.acknowledgements.push_back((at + self.kind.rtt / 2, bytes.len()));
            self.far_received.extend(bytes);
        }
        while let Some((_, bytes)) = self.acknowledgements.pop_front_if(|(at, _)| *at <= now) {
            self.flight_bytes -= bytes;
        }
        if self.far_reads {
            self.far_consumed = self.far_received.len();
        }
        let on_the_way: usize = self.flight.iter().map(|(_, bytes)| bytes.len()).sum();
        let window = (self.far_consumed + self.kind.far_buffer).saturating_sub(self.far_received.len() + on_the_way);
        let bytes: Vec<u8> = self.unsent.drain(..window.min(self.unsent.len())).collect();
        if !bytes.is_empty() {
            self.flight_bytes += bytes.len();
            self.flight.push_back((now + self.kind.rtt / 2, bytes));
        }
        if self.is_armed && self.room() >= self.kind.send_buffer / 3 {
            self.is_armed = false;
            self.writable = true;
        }
    }

    fn arrive(&mut self, now: Instant) {
        let room = self.kind.receive_buffer.saturating_sub(self.arrived - self.discarded);
        let bytes = room.min(self.kind.chunk).min(self.stream.len() - self.arrived);
        if bytes > 0 {
            self.arrived += bytes;
            self.readable = true;
        }
        if self.arrived == self.stream.len() && self.far_closes && !self.has_end {
            self.has_end = true;
            self.readable = true;
        }
        self.next_arrival = (bytes > 0).then(|| now + self.kind.interval);
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        if self.is_reset {
            return None;
        }
        let arrival = self.next_arrival.filter(|_| self.far_sends && self.arrived < self.stream.len());
        let flight = self.flight.front().map(|(at, _)| *at);
        let acknowledgement = self.acknowledgements.front().map(|(at, _)| *at);
        [arrival, flight, acknowledgement].into_iter().flatten().min()
    }
}
