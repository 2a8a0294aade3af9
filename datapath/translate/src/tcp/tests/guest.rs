//! A guest's TCP, written for these tests alone: simple and with real bytes. Headers are etherparse's, so that nothing
//! of what is tested is also what tests it.

use crate::time::Instant;
use std::collections::BTreeMap;
use std::time::Duration;

use etherparse::{TcpHeader, TcpHeaderSlice, TcpOptionElement};

/// A TCP segment on its way.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) header: Vec<u8>,
    pub(super) payload: Vec<u8>,
    /// The IP header's ECN field says "congestion experienced".
    pub(super) is_marked: bool,
}

/// What kind of a guest it is.
#[derive(Clone, Debug)]
pub(super) struct Kind {
    pub(super) mss: u16,
    pub(super) scale: Option<u8>,
    pub(super) sack: bool,
    pub(super) timestamps: bool,
    pub(super) ecn: bool,
    /// Its receive buffer.
    pub(super) buffer: usize,
    /// The largest payload that it sends at once: more than the MSS with offloads.
    pub(super) burst: usize,
    pub(super) delayed_ack: Duration,
    pub(super) rto: Duration,
}

impl Default for Kind {
    fn default() -> Self {
        Self {
            mss: 1460,
            scale: Some(7),
            sack: true,
            timestamps: true,
            ecn: false,
            buffer: 1 << 20,
            burst: 60_000,
            delayed_ack: Duration::from_millis(40),
            rto: Duration::from_millis(250),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Closed,
    Listening,
    SynSent,
    SynReceived,
    Open,
    /// By a RST of the peer.
    Reset,
    /// Nothing is answered any more, as by a guest that was switched off.
    Dead,
}

pub(super) struct Guest {
    pub(super) kind: Kind,
    pub(super) state: State,
    epoch: Instant,
    isn: u32,
    peer_isn: u32,
    peer_scale: u8,
    peer_mss: usize,
    has_timestamps: bool,
    has_sack: bool,
    has_ecn: bool,
    recent: u32,
    /// What it sends; offsets are into this, FIN's is its length.
    pub(super) stream: Vec<u8>,
    pub(super) closes: bool,
    pub(super) una: usize,
    pub(super) nxt: usize,
    sent_most: usize,
    window: usize,
    duplicates: u32,
    rto_at: Option<Instant>,
    backoff: u32,
    needs_syn: bool,
    pub(super) received: Vec<u8>,
    early: BTreeMap<usize, Vec<u8>>,
    last_early: Option<(usize, usize)>,
    end: Option<usize>,
    pub(super) got_end: bool,
    /// What the application has read of `received`.
    pub(super) consumed: usize,
    pub(super) reads: bool,
    told_edge: usize,
    ack_now: bool,
    ack_at: Option<Instant>,
    unacked_segments: u32,
    pub(super) aborts: bool,
    /// Every segment tells of congestion.
    pub(super) echoes: bool,
    pub(super) sent_again: u64,
    pub(super) out: Vec<Frame>,
}

impl Guest {
    pub(super) fn new(now: Instant, isn: u32, kind: Kind, stream: Vec<u8>) -> Self {
        Self {
            kind,
            state: State::Listening,
            epoch: now,
            isn,
            peer_isn: 0,
            peer_scale: 0,
            peer_mss: 536,
            has_timestamps: false,
            has_sack: false,
            has_ecn: false,
            recent: 0,
            stream,
            closes: true,
            una: 0,
            nxt: 0,
            sent_most: 0,
            window: 0,
            duplicates: 0,
            rto_at: None,
            backoff: 0,
            needs_syn: false,
            received: Vec::new(),
            early: BTreeMap::new(),
            last_early: None,
            end: None,
            got_end: false,
            consumed: 0,
            reads: true,
            told_edge: 0,
            ack_now: false,
            ack_at: None,
            unacked_segments: 0,
            aborts: false,
            echoes: false,
            sent_again: 0,
            out: Vec::new(),
        }
    }

    pub(super) fn connect(&mut self) {
        self.state = State::SynSent;
        self.needs_syn = true;
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        if matches!(self.state, State::Dead | State::Reset | State::Closed) {
            return None;
        }
        self.rto_at.into_iter().chain(self.ack_at).min()
    }

    /// Timers, then whatever can be sent.
    pub(super) fn advance(&mut self, now: Instant) {
        if self.state == State::Dead {
            return;
        }
        if self.ack_at.is_some_and(|at| now >= at) {
            self.ack_now = true;
        }
        if self.rto_at.is_some_and(|at| now >= at) {
            self.rto_at = None;
            self.backoff = (self.backoff + 1).min(9);
            self.on_timeout(now);
        }
        if self.reads && self.state == State::Open {
            self.consumed = self.received.len();
            let window = self.right_edge() - self.told_edge;
            if window >= 2 * usize::from(self.kind.mss) || (self.told_edge == self.received.len() && window > 0) {
                self.ack_now |=
                    window >= (self.right_edge() - self.consumed) / 2 || self.told_edge == self.received.len();
            }
        }
        self.send(now);
    }

    fn on_timeout(&mut self, now: Instant) {
        match self.state {
            State::SynSent | State::SynReceived => self.needs_syn = true,
            State::Open if self.nxt > self.una => {
                self.sent_again += 1;
                self.nxt = self.una;
                self.duplicates = 0;
                if self.window == 0 {
                    self.probe(now);
                }
            }
            State::Open if self.window == 0 && self.una < self.stream.len() => self.probe(now),
            _ => {}
        }
    }

    /// A byte where there is no window.
    fn probe(&mut self, now: Instant) {
        let at = self.una;
        if at < self.stream.len() {
            let payload = self.stream[at..at + 1].to_vec();
            self.emit(now, at, payload, |_| {});
            self.nxt = self.nxt.max(at + 1);
            self.sent_most = self.sent_most.max(self.nxt);
        }
        self.arm(now);
    }

    fn arm(&mut self, now: Instant) {
        self.rto_at = Some(now + self.kind.rto * (1 << self.backoff));
    }

    fn send(&mut self, now: Instant) {
        match self.state {
            State::SynSent | State::SynReceived => {
                if std::mem::take(&mut self.needs_syn) {
                    let is_answer = self.state == State::SynReceived;
                    let ecn = self.kind.ecn;
                    let has_ecn = self.has_ecn;
                    self.emit_syn(now, is_answer, |header| {
                        header.ece = if is_answer { has_ecn } else { ecn };
                        header.cwr = !is_answer && ecn;
                    });
                    self.arm(now);
                }
                return;
            }
            State::Open => {}
            _ => return,
        }
        if std::mem::take(&mut self.aborts) {
            let at = self.nxt;
            self.emit(now, at, Vec::new(), |header| header.rst = true);
            self.state = State::Closed;
            return;
        }
        let limit = (self.una + self.window).min(self.stream.len());
        while self.nxt < limit {
            let burst = self.kind.burst.max(self.peer_mss.min(self.kind.burst));
            let payload = self.stream[self.nxt..limit.min(self.nxt + burst)].to_vec();
            let at = self.nxt;
            self.nxt += payload.len();
            self.emit(now, at, payload, |header| header.psh = true);
            if self.rto_at.is_none() {
                self.arm(now);
            }
        }
        if self.closes && self.nxt == self.stream.len() {
            let at = self.nxt;
            self.nxt += 1;
            self.emit(now, at, Vec::new(), |header| header.fin = true);
            if self.rto_at.is_none() {
                self.arm(now);
            }
        }
        self.sent_most = self.sent_most.max(self.nxt);
        if self.ack_now {
            let at = self.sent_most;
            self.emit(now, at, Vec::new(), |_| {});
        }
        if self.rto_at.is_none() && self.window == 0 && self.una < self.stream.len() {
            self.arm(now);
        }
    }

    fn emit_syn(&mut self, now: Instant, is_answer: bool, change: impl FnOnce(&mut TcpHeader)) {
        let mut header = TcpHeader::new(2, 1, self.isn, u16::try_from(self.kind.buffer.min(65_535)).unwrap());
        header.syn = true;
        header.ack = is_answer;
        header.acknowledgment_number = if is_answer { self.peer_isn.wrapping_add(1) } else { 0 };
        let mut options = vec![TcpOptionElement::MaximumSegmentSize(self.kind.mss)];
        if let Some(scale) = self.kind.scale
            && (!is_answer || self.peer_scale != NO_SCALE)
        {
            options.push(TcpOptionElement::WindowScale(scale));
        }
        if self.kind.sack {
            options.push(TcpOptionElement::SelectiveAcknowledgementPermitted);
        }
        if self.kind.timestamps && (!is_answer || self.has_timestamps) {
            options.push(TcpOptionElement::Timestamp(self.clock(now), self.recent));
        }
        header.set_options(&options).unwrap();
        change(&mut header);
        self.out.push(Frame { header: header.to_bytes().to_vec(), payload: Vec::new(), is_marked: false });
    }

    fn emit(&mut self, now: Instant, at: usize, payload: Vec<u8>, change: impl FnOnce(&mut TcpHeader)) {
        let mut header = TcpHeader::new(2, 1, self.seq(at), 0);
        header.ack = true;
        let end = u32::from(self.got_end);
        header.acknowledgment_number = self.peer_seq(self.received.len()).wrapping_add(end);
        self.told_edge = self.told_edge.max(self.right_edge());
        let scale = if self.peer_scale == NO_SCALE { 0 } else { self.kind.scale.unwrap_or(0) };
        header.window_size = u16::try_from((self.told_edge - self.received.len()) >> scale).unwrap_or(u16::MAX);
        self.told_edge = self.told_edge.min(self.received.len() + (usize::from(header.window_size) << scale));
        let mut options = Vec::new();
        if self.has_timestamps {
            options.push(TcpOptionElement::Timestamp(self.clock(now), self.recent));
        }
        if self.has_sack && !self.early.is_empty() {
            let mut blocks =
                self.early_ranges().into_iter().map(|(low, high)| (self.peer_seq(low), self.peer_seq(high)));
            let first = blocks.next().unwrap();
            let rest = [blocks.next(), blocks.next(), None];
            options.push(TcpOptionElement::SelectiveAcknowledgement(first, rest));
        }
        header.ece = self.echoes;
        header.set_options(&options).unwrap();
        change(&mut header);
        self.ack_now = false;
        self.ack_at = None;
        self.unacked_segments = 0;
        self.out.push(Frame { header: header.to_bytes().to_vec(), payload, is_marked: false });
    }

    /// The newest first (RFC 2018, 4).
    fn early_ranges(&self) -> Vec<(usize, usize)> {
        let mut ranges: Vec<(usize, usize)> = Vec::new();
        for (at, bytes) in &self.early {
            match ranges.last_mut() {
                Some(last) if last.1 >= *at => last.1 = last.1.max(at + bytes.len()),
                _ => ranges.push((*at, at + bytes.len())),
            }
        }
        if let Some((low, _)) = self.last_early
            && let Some(place) = ranges.iter().position(|(first, end)| *first <= low && low < *end)
        {
            ranges[..=place].rotate_right(1);
        }
        ranges
    }

    pub(super) fn on_frame(&mut self, now: Instant, frame: &Frame) {
        let (header, _) = TcpHeader::from_slice(&frame.header).unwrap();
        let slice = TcpHeaderSlice::from_slice(&frame.header).unwrap();
        assert_eq!(slice.slice().len(), frame.header.len(), "the header's length is right");
        let mut timestamps = None;
        let (mut mss, mut scale, mut sack) = (None, None, false);
        for option in slice.options_iterator() {
            match option.expect("options are whole") {
                TcpOptionElement::Timestamp(value, echo) => timestamps = Some((value, echo)),
                TcpOptionElement::MaximumSegmentSize(value) => mss = Some(value),
                TcpOptionElement::WindowScale(value) => scale = Some(value),
                TcpOptionElement::SelectiveAcknowledgementPermitted => sack = true,
                _ => {}
            }
        }
        assert!(header.syn || (mss.is_none() && scale.is_none() && !sack), "only a SYN has these options");
        match self.state {
            State::Dead | State::Reset => return,
            State::Closed => {
                if !header.rst {
                    self.refuse(&header, frame.payload.len());
                }
                return;
            }
            State::Listening | State::SynSent => {
                if header.syn {
                    self.peer_isn = header.sequence_number;
                    self.peer_scale = scale.unwrap_or(NO_SCALE);
                    self.peer_mss = usize::from(mss.expect("a SYN tells the MSS"));
                    self.has_timestamps = timestamps.is_some() && self.kind.timestamps;
                    self.has_sack = sack && self.kind.sack;
                    self.recent = timestamps.map_or(0, |(value, _)| value);
                }
                return self.on_frame_opening(now, &header);
            }
            State::SynReceived | State::Open => {}
        }
        if header.rst {
            if header.sequence_number == self.peer_seq(self.received.len()).wrapping_add(u32::from(self.got_end)) {
                self.state = State::Reset;
            } else {
                self.ack_now = true;
            }
            return;
        }
        if header.syn {
            self.needs_syn = self.state == State::SynReceived;
            if self.state == State::SynReceived && header.ack {
                self.state = State::Open;
            }
            self.ack_now = self.state == State::Open;
            if self.state == State::SynReceived {
                return;
            }
        }
        assert!(header.ack, "all but the first SYN acknowledge");
        if self.has_timestamps {
            let (value, echo) = timestamps.expect("timestamps are sent once they were agreed on");
            assert!(self.clock(now).wrapping_sub(echo) < 1 << 31, "the echo is of the past");
            self.recent = value;
        } else {
            assert_eq!(timestamps, None);
        }
        assert!(frame.payload.len() <= 65_535 - 40);
        self.on_ack(now, &header, frame.payload.len());
        self.on_data(now, &header, &frame.payload);
    }

    fn on_frame_opening(&mut self, now: Instant, header: &TcpHeader) {
        let acknowledges = header.ack && header.acknowledgment_number == self.isn.wrapping_add(1);
        if self.state == State::SynSent {
            if header.rst {
                if acknowledges {
                    self.state = State::Reset;
                }
                return;
            }
            if header.ack && !acknowledges {
                return self.refuse(header, 0);
            }
            if !header.syn {
                return;
            }
            self.rto_at = None;
            self.backoff = 0;
            if acknowledges {
                self.state = State::Open;
                self.window = usize::from(header.window_size);
                self.has_ecn = self.kind.ecn && header.ece && !header.cwr;
                self.ack_now = true;
            } else {
                self.state = State::SynReceived;
                self.needs_syn = true;
            }
        } else if header.syn && !header.ack {
            self.has_ecn = self.kind.ecn && header.ece && header.cwr;
            self.state = State::SynReceived;
            self.needs_syn = true;
        } else if !header.rst {
            self.refuse(header, 0);
        }
        self.advance(now);
    }

    fn refuse(&mut self, header: &TcpHeader, length: usize) {
        let mut answer = TcpHeader::new(2, 1, header.acknowledgment_number, 0);
        answer.rst = true;
        if !header.ack {
            answer.sequence_number = 0;
            answer.ack = true;
            let span = u32::try_from(length).unwrap() + u32::from(header.syn) + u32::from(header.fin);
            answer.acknowledgment_number = header.sequence_number.wrapping_add(span);
        }
        self.out.push(Frame { header: answer.to_bytes().to_vec(), payload: Vec::new(), is_marked: false });
    }

    fn on_ack(&mut self, now: Instant, header: &TcpHeader, length: usize) {
        let distance = header.acknowledgment_number.wrapping_sub(self.seq(self.una)).cast_signed();
        let Ok(newly) = usize::try_from(distance) else { return };
        let ack = self.una + newly;
        assert!(ack <= self.sent_most, "what was not sent is not acknowledged: {ack} > {}", self.sent_most);
        if self.state == State::SynReceived {
            self.state = State::Open;
            self.rto_at = None;
            self.backoff = 0;
        }
        let scale = if self.peer_scale == NO_SCALE || self.kind.scale.is_none() { 0 } else { self.peer_scale };
        let window = usize::from(header.window_size) << if header.syn { 0 } else { scale };
        if newly > 0 {
            self.una = ack;
            self.nxt = self.nxt.max(ack);
            self.backoff = 0;
            self.duplicates = 0;
            self.rto_at = None;
            if self.nxt > self.una {
                self.arm(now);
            }
        } else if length == 0 && window == self.window && self.nxt > self.una && !header.fin {
            self.duplicates += 1;
            if self.duplicates == 3 {
                self.sent_again += 1;
                self.nxt = self.una;
            }
        }
        if self.window == 0 && window > 0 {
            self.nxt = self.nxt.min(self.una.max(self.nxt));
            self.backoff = 0;
        }
        self.window = window;
    }

    fn on_data(&mut self, now: Instant, header: &TcpHeader, payload: &[u8]) {
        let distance = header.sequence_number.wrapping_sub(self.peer_seq(self.received.len())).cast_signed();
        let at = i64::try_from(self.received.len()).unwrap() + i64::from(distance);
        let end = at + i64::try_from(payload.len()).unwrap();
        let edge = i64::try_from(self.told_edge.max(self.right_edge())).unwrap();
        if header.fin {
            self.end = Some(usize::try_from(end).expect("FIN is not before the beginning"));
            self.ack_now = true;
        }
        if payload.is_empty() {
            if !header.fin && distance < 0 {
                // A keep-alive probe.
                self.ack_now = true;
            }
        } else {
            assert!(end <= edge + 1, "no more is sent than the window allows, but for a probe: {end} > {edge}");
            let fits = usize::try_from(end.min(edge) - at).unwrap_or(0).min(payload.len());
            self.accept(now, at, &payload[..fits]);
        }
        if self.end == Some(self.received.len()) && !self.got_end {
            self.got_end = true;
            self.ack_now = true;
        }
    }

    fn accept(&mut self, now: Instant, at: i64, payload: &[u8]) {
        let here = i64::try_from(self.received.len()).unwrap();
        if at > here {
            let at = usize::try_from(at).unwrap();
            self.last_early = Some((at, at + payload.len()));
            let longest = self.early.get(&at).map_or(0, Vec::len);
            if payload.len() > longest {
                self.early.insert(at, payload.to_vec());
            }
            self.ack_now = true;
            return;
        }
        let skip = usize::try_from(here - at).unwrap();
        if skip >= payload.len() {
            self.ack_now = true;
            return;
        }
        self.received.extend_from_slice(&payload[skip..]);
        if !self.early.is_empty() {
            self.ack_now = true;
        }
        while let Some((at, bytes)) = self.early.pop_first() {
            if at > self.received.len() {
                self.early.insert(at, bytes);
                break;
            }
            let skip = self.received.len() - at;
            if skip < bytes.len() {
                self.received.extend_from_slice(&bytes[skip..]);
            }
        }
        self.unacked_segments += 1 + u32::from(payload.len() > usize::from(self.kind.mss));
        if self.unacked_segments >= 2 {
            self.ack_now = true;
        } else if self.ack_at.is_none() {
            self.ack_at = Some(now + self.kind.delayed_ack);
        }
    }

    fn right_edge(&self) -> usize {
        let scale = if self.peer_scale == NO_SCALE { 0 } else { self.kind.scale.unwrap_or(0) };
        self.consumed + self.kind.buffer.clamp(4 << scale, 65_535 << scale)
    }

    /// In milliseconds.
    fn clock(&self, now: Instant) -> u32 {
        u32::try_from((now - self.epoch).as_millis() & 0xffff_ffff).unwrap().wrapping_add(0xffff_ff00)
    }

    pub(super) fn seq(&self, at: usize) -> u32 {
        self.isn.wrapping_add(1).wrapping_add(u32::try_from(at).unwrap())
    }

    pub(super) fn peer_seq(&self, at: usize) -> u32 {
        self.peer_isn.wrapping_add(1).wrapping_add(u32::try_from(at).unwrap())
    }
}

const NO_SCALE: u8 = 255;
