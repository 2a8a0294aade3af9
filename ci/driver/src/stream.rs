//! A stream of TCP or UDP payload, cut into frames with all that a guest may leave to its device, and the check of what arrives.
//!
//! It is the reference for checksums and segmentation, written independently of Culvert's: whatever the receiver gets is compared, header
//! and payload, with the segment that the frame must have become. Frames vary in all that the specifications allow: VLAN tags, IPv4
//! options, IPv6 extension headers, TCP options, flags, sizes of frames and of segments.

use std::collections::VecDeque;
use std::sync::OnceLock;

/// What one side negotiated. For the sender these are CSUM and HOST_*, for the receiver GUEST_*.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OffloadBits {
    /// Partial checksums.
    pub checksum: bool,
    /// TCP over IPv4 unsegmented.
    pub tso4: bool,
    /// TCP over IPv6 unsegmented.
    pub tso6: bool,
    /// Also with CWR.
    pub ecn: bool,
    /// UDP over IPv4 unsegmented.
    pub uso4: bool,
    /// UDP over IPv6 unsegmented.
    pub uso6: bool,
}

impl OffloadBits {
    /// All sets that a driver may accept (virtio 1.3, 5.1.3.1): segmentation needs checksums, ECN needs one of TCP's two. A sender
    /// has one bit for both versions of UDP, a receiver two.
    pub fn all(side: Side) -> Vec<Self> {
        let mut sets = vec![Self::default()];
        for bits in 0..32u8 {
            let [tso4, tso6, ecn, uso4, uso6] = [1, 2, 4, 8, 16].map(|bit| bits & bit != 0);
            if (ecn && !tso4 && !tso6) || (side == Side::Sender && uso4 != uso6) {
                continue;
            }
            sets.push(Self { checksum: true, tso4, tso6, ecn, uso4, uso6 });
        }
        sets
    }

    /// The feature bits (virtio 1.3, 5.1.3).
    pub fn features(self, side: Side) -> u64 {
        let bits: [(bool, [u32; 2]); 6] = [
            (self.checksum, [0, 1]),
            (self.tso4, [11, 7]),
            (self.tso6, [12, 8]),
            (self.ecn, [13, 9]),
            (self.uso4, [56, 54]),
            (self.uso6, [56, 55]),
        ];
        let column = usize::from(side == Side::Receiver);
        bits.iter().filter(|(on, _)| *on).map(|(_, bits)| 1 << bits[column]).fold(0, |all, bit: u64| all | bit)
    }

    /// Whether frames of a kind need no segmentation.
    fn segments(self, kind: Kind) -> bool {
        match kind {
            Kind { tcp: true, v6: false } => self.tso4,
            Kind { tcp: true, v6: true } => self.tso6,
            Kind { tcp: false, v6: false } => self.uso4,
            Kind { tcp: false, v6: true } => self.uso6,
        }
    }
}

/// Whose offloads they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Who sends the stream.
    Sender,
    /// Who gets it.
    Receiver,
}

/// What a stream consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// TCP; otherwise UDP.
    pub tcp: bool,
    /// IPv6; otherwise IPv4.
    pub v6: bool,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 4] = [
        Self { tcp: true, v6: false },
        Self { tcp: true, v6: true },
        Self { tcp: false, v6: false },
        Self { tcp: false, v6: true },
    ];
}

/// A stream from one guest to another.
pub struct Stream {
    kind: Kind,
    sender: OffloadBits,
    receiver: OffloadBits,
    from: [u8; 6],
    to: [u8; 6],
    /// Bytes that an IP packet of one segment may have.
    mtu: usize,
    /// Whether some frames have a VLAN tag.
    tags: bool,
    noise: &'static [u8],
    random: u64,
    /// Segments of the frames so far, which is the next frame's IPv4 identification.
    segments: u16,
    sent: u64,
    received: u64,
    /// Frames that were sent and have not wholly arrived.
    pending: VecDeque<Sent>,
    /// Frames that arrived as they were sent, and segments that arrived in place of a frame.
    unsegmented: u64,
    pieces: u64,
}

/// A frame as it was sent.
struct Sent {
    layout: Layout,
    headers: Vec<u8>,
    /// Offset in the stream, and how many bytes of it.
    start: u64,
    length: usize,
    /// Payload bytes of a segment; 0: it must not be segmented.
    segment: usize,
    /// Payload bytes of it that have arrived.
    done: usize,
}

/// Offsets of a frame's headers.
#[derive(Clone, Copy)]
struct Layout {
    network: usize,
    transport: usize,
    payload: usize,
}

impl Stream {
    /// From the guest with the MAC address `from` to the one with `to`. Both sides' bits are kept to.
    pub fn new(kind: Kind, from: [u8; 6], to: [u8; 6], sender: OffloadBits, receiver: OffloadBits) -> Self {
        Self {
            kind,
            sender,
            receiver,
            from,
            to,
            mtu: 1500,
            tags: true,
            noise: noise(),
            random: 0x1234_5678_9abc_def1,
            segments: 0,
            sent: 0,
            received: 0,
            pending: VecDeque::new(),
            unsegmented: 0,
            pieces: 0,
        }
    }

    /// Makes the segments as long as this MTU allows, in place of 1500.
    #[must_use]
    pub fn with_mtu(self, mtu: usize) -> Self {
        Self { mtu, ..self }
    }

    /// Leaves out VLAN tags, for an access port.
    #[must_use]
    pub fn untagged(self) -> Self {
        Self { tags: false, ..self }
    }

    /// Payload bytes sent so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Whether its sender leaves segmentation to the device.
    pub fn is_unsegmented(&self) -> bool {
        self.sender.segments(self.kind)
    }

    /// Frames that have not wholly arrived.
    pub fn in_flight(&self) -> usize {
        self.pending.len()
    }

    /// Whether all that was sent has arrived.
    pub fn is_complete(&self) -> bool {
        self.pending.is_empty()
    }

    /// How many frames with several segments arrived as one, and how many segments arrived alone.
    pub fn seen(&self) -> (u64, u64) {
        (self.unsegmented, self.pieces)
    }

    /// The next frame with at most `limit` bytes of payload: its virtio-net header, itself, and where to cut it into buffers.
    pub fn frame(&mut self, limit: usize) -> ([u8; 12], Vec<u8>, Vec<u32>) {
        let (layout, mut bytes) = self.headers();
        let largest = self.mtu + layout.network - layout.payload;
        let unsegmented = self.sender.segments(self.kind);
        let segment = if unsegmented { largest - self.draw(largest / 2) } else { largest };
        let most = if unsegmented { MAX_PAYLOAD - (layout.payload - layout.network) } else { largest };
        let most = most.min(limit).max(1);
        // Mostly as long as can be, as bulk data is.
        let length = if self.draw(4) > 0 { most } else { 1 + self.draw(most) };
        let cwr = self.kind.tcp && (length <= segment || self.sender.ecn) && self.draw(3) == 0;

        if self.kind.tcp {
            bytes[layout.transport + 4..][..4].copy_from_slice(&(self.sent as u32).to_be_bytes());
            bytes[layout.transport + 13] = ACK | if self.draw(2) == 0 { PSH } else { 0 } | if cwr { CWR } else { 0 };
        }
        if !self.kind.v6 {
            bytes[layout.network + 4..][..2].copy_from_slice(&self.segments.to_be_bytes());
        }
        self.segments = self.segments.wrapping_add(length.div_ceil(segment) as u16);
        set_lengths(&mut bytes, self.kind, layout, length);
        let sent = Sent { layout, headers: bytes.clone(), start: self.sent, length, segment, done: 0 };

        bytes.extend_from_slice(self.payload(self.sent, length));
        let mut header = [0; 12];
        set_checksum(&mut bytes, self.kind, layout, self.sender.checksum);
        if self.sender.checksum {
            header[0] = NEEDS_CSUM;
            header[6..8].copy_from_slice(&(layout.transport as u16).to_le_bytes());
            header[8..10].copy_from_slice(&(checksum_offset(self.kind) as u16).to_le_bytes());
        }
        if length > segment {
            header[1] = gso_type(self.kind) | if cwr { GSO_ECN } else { 0 };
            header[2..4].copy_from_slice(&(layout.payload as u16).to_le_bytes());
            header[4..6].copy_from_slice(&(segment as u16).to_le_bytes());
        }
        self.sent += length as u64;
        self.pending.push_back(sent);
        let mut cuts: Vec<u32> = (0..self.draw(4)).map(|_| 1 + self.draw(bytes.len() - 1) as u32).collect();
        cuts.sort_unstable();
        cuts.dedup();
        (header, bytes, cuts)
    }

    /// Checks what has arrived: it must be the next segment, or the next frame as it was sent where the receiver takes that.
    ///
    /// # Errors
    /// It is something else; the error says what differs.
    pub fn accept(&mut self, header: &[u8], frame: &[u8]) -> Result<(), String> {
        let (kind, receiver) = (self.kind, self.receiver);
        let sent = self.pending.front().ok_or("a frame came that nobody has sent")?;
        let field = |at: usize| usize::from(u16::from_le_bytes([header[at], header[at + 1]]));
        let (layout, left) = (sent.layout, sent.length - sent.done);
        let length = frame.len().checked_sub(layout.payload).ok_or("a frame shorter than its headers")?;
        let (whole, partial) = (header[1] != 0, header[0] & NEEDS_CSUM != 0);
        let check = |right: bool, what: &str| {
            let context = || {
                format!(
                    "{what}: {kind:?} to {receiver:?}, {length} of {left} bytes at {}, virtio-net header {header:02x?}\n\
                     sent {:02x?}\ngot  {:02x?}",
                    self.received,
                    sent.headers,
                    &frame[..layout.payload]
                )
            };
            if right { Ok(()) } else { Err(context()) }
        };
        if whole {
            let ecn = kind.tcp && sent.headers[layout.transport + 13] & CWR != 0;
            check(header[1] == gso_type(kind) | if ecn { GSO_ECN } else { 0 }, "another gso_type")?;
            check(receiver.segments(kind) && (!ecn || receiver.ecn), "segmentation was not negotiated")?;
            check(sent.done == 0 && length == sent.length, "not as it was sent")?;
            check(field(4) == sent.segment && field(2) == layout.payload, "another gso_size or hdr_len")?;
            check(partial, "segmentation without a partial checksum")?;
        } else {
            check(length == left.min(sent.segment), "not the next segment")?;
        }
        if partial {
            check(receiver.checksum, "a partial checksum was not negotiated")?;
            check(field(6) == layout.transport && field(8) == checksum_offset(kind), "another place of the checksum")?;
        }
        let payload = self.payload(sent.start + sent.done as u64, length);
        check(frame[layout.payload..] == *payload, "other payload")?;
        let mut expected = sent.segment_headers(kind, length, whole);
        expected.extend_from_slice(payload);
        set_checksum(&mut expected, kind, layout, partial);
        // TCP's two zeros are the same number, and Linux sends either.
        let place = layout.transport + checksum_offset(kind);
        if expected[place..place + 2] == [0, 0] && frame[place..place + 2] == [0xff, 0xff] {
            expected[place..place + 2].fill(0xff);
        }
        check(expected == frame, &format!("headers are not {:02x?}", &expected[..layout.payload]))?;
        self.count(length, whole);
        Ok(())
    }

    fn count(&mut self, length: usize, whole: bool) {
        self.received += length as u64;
        let Some(sent) = self.pending.front_mut() else { return };
        if whole {
            self.unsegmented += 1;
        } else if sent.length > sent.segment {
            self.pieces += 1;
        }
        sent.done += length;
        if sent.done == sent.length {
            self.pending.pop_front();
        }
    }

    fn payload(&self, offset: u64, length: usize) -> &[u8] {
        &self.noise[(offset % PERIOD as u64) as usize..][..length]
    }

    /// Headers for the next frame, without lengths and checksums.
    fn headers(&mut self) -> (Layout, Vec<u8>) {
        let Kind { tcp, v6 } = self.kind;
        let mut bytes = [self.to, self.from].concat();
        if self.tags && self.draw(4) == 0 {
            bytes.extend([0x81, 0x00, 0x20, 0x2a]);
        }
        bytes.extend(if v6 { [0x86, 0xdd] } else { [0x08, 0x00] });
        let network = bytes.len();
        let protocol = if tcp { 6 } else { 17 };
        // Fills up with what does nothing: IPv4's no-operation, the padding options of IPv6 and TCP.
        if v6 {
            let extension = self.draw(3) == 0;
            bytes.extend([0x60, 0x05, 0x43, 0x21, 0, 0, if extension { 0 } else { protocol }, 64]);
            for mac in [self.from, self.to] {
                bytes.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
                bytes.extend(mac);
            }
            if extension {
                bytes.extend([60, 0, 1, 4, 0, 0, 0, 0, protocol, 0, 1, 4, 0, 0, 0, 0]);
            }
        } else {
            let options = if self.draw(3) == 0 { self.draw(11) } else { 0 };
            bytes.extend([0x45 + options as u8, 0x02, 0, 0, 0, 0, 0x40, 0, 63, protocol, 0, 0]);
            bytes.extend([10, 0, 0, self.from[5], 10, 0, 0, self.to[5]]);
            bytes.resize(bytes.len() + 4 * options, 1);
        }
        let transport = bytes.len();
        bytes.extend([0x1b, 0x59, 0x1b, 0x5a]);
        if tcp {
            // Not so many options that the headers become longer than the 128 bytes that a switch need look at.
            let options = self.draw(4);
            bytes.extend([0, 0, 0, 0, 1, 2, 3, 4, 0x50 + 16 * options as u8, 0, 0xff, 0xff, 0, 0, 0, 0]);
            bytes.resize(bytes.len() + 4 * options, 1);
        } else {
            bytes.extend([0; 4]);
        }
        (Layout { network, transport, payload: bytes.len() }, bytes)
    }

    /// A number below `limit`.
    fn draw(&mut self, limit: usize) -> usize {
        (next(&mut self.random) % limit as u64) as usize
    }
}

impl Sent {
    /// The headers with which the next `length` bytes of the frame must arrive, checksums apart; `whole`: unsegmented.
    fn segment_headers(&self, kind: Kind, length: usize, whole: bool) -> Vec<u8> {
        let Layout { network, transport, .. } = self.layout;
        let mut bytes = self.headers.clone();
        if whole {
            return bytes;
        }
        let number = self.done / self.segment;
        set_lengths(&mut bytes, kind, self.layout, length);
        if !kind.v6 {
            let id = u16::from_be_bytes([bytes[network + 4], bytes[network + 5]]).wrapping_add(number as u16);
            bytes[network + 4..][..2].copy_from_slice(&id.to_be_bytes());
        }
        if kind.tcp {
            let sequence = (self.start + self.done as u64) as u32;
            bytes[transport + 4..][..4].copy_from_slice(&sequence.to_be_bytes());
            // CWR is on the first only, PSH on the last (RFC 3168, 6.1.2).
            if number > 0 {
                bytes[transport + 13] &= !CWR;
            }
            if self.done + length < self.length {
                bytes[transport + 13] &= !PSH;
            }
        }
        bytes
    }
}

/// Writes the lengths that belong to a payload, and the IPv4 header's checksum.
fn set_lengths(bytes: &mut [u8], kind: Kind, layout: Layout, payload: usize) {
    let Layout { network, transport, .. } = layout;
    let end = layout.payload + payload;
    if kind.v6 {
        bytes[network + 4..][..2].copy_from_slice(&((end - network - 40) as u16).to_be_bytes());
    } else {
        bytes[network + 2..][..2].copy_from_slice(&((end - network) as u16).to_be_bytes());
    }
    if !kind.tcp {
        bytes[transport + 4..][..2].copy_from_slice(&((end - transport) as u16).to_be_bytes());
    }
}

/// Writes the checksums of a frame: that of an IPv4 header, and that of TCP or UDP, whole or, if `partial`, of the pseudo-header alone.
fn set_checksum(frame: &mut [u8], kind: Kind, layout: Layout, partial: bool) {
    let Layout { network, transport, .. } = layout;
    if !kind.v6 {
        frame[network + 10..][..2].fill(0);
        let sum = !sum(0, &frame[network..transport]);
        frame[network + 10..][..2].copy_from_slice(&sum.to_be_bytes());
    }
    // RFC 9293, 3.1; RFC 8200, 8.1.
    let addresses = if kind.v6 { &frame[network + 8..network + 40] } else { &frame[network + 12..network + 20] };
    let protocol = if kind.tcp { 6 } else { 17 };
    let pseudo = sum((frame.len() - transport) as u64 + protocol, addresses);
    let place = transport + checksum_offset(kind);
    frame[place..][..2].fill(0);
    let mut value = pseudo;
    if !partial {
        value = !sum(u64::from(pseudo), &frame[transport..]);
        // A UDP checksum of 0 would mean that there is none (RFC 768).
        if !kind.tcp && value == 0 {
            value = 0xffff;
        }
    }
    frame[place..][..2].copy_from_slice(&value.to_be_bytes());
}

/// The Internet checksum's sum (RFC 1071), folded, not complemented.
fn sum(start: u64, bytes: &[u8]) -> u16 {
    let mut sum = start;
    // Two words at once: 2^16 is 1 in this sum. Zeros behind the end change nothing.
    let (words, rest) = bytes.as_chunks::<4>();
    for word in words {
        sum += u64::from(u32::from_be_bytes(*word));
    }
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    sum += u64::from(u32::from_be_bytes(last));
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn checksum_offset(kind: Kind) -> usize {
    if kind.tcp { 16 } else { 6 }
}

fn gso_type(kind: Kind) -> u8 {
    match kind {
        Kind { tcp: true, v6: false } => 1,
        Kind { tcp: true, v6: true } => 4,
        Kind { tcp: false, .. } => 5,
    }
}

/// The payload of all streams.
fn noise() -> &'static [u8] {
    static NOISE: OnceLock<Vec<u8>> = OnceLock::new();
    NOISE.get_or_init(|| {
        let mut random = 0x9876_5432_1fed_cba1;
        let mut noise: Vec<u8> = (0..PERIOD / 8).flat_map(|_| next(&mut random).to_le_bytes()).collect();
        noise.extend_from_within(..MAX_PAYLOAD);
        noise
    })
}

/// Marsaglia's xorshift64.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Fields of the virtio-net header (virtio 1.3, 5.1.6).
const NEEDS_CSUM: u8 = 1;
const GSO_ECN: u8 = 0x80;

/// TCP's flags (RFC 9293, 3.1).
const ACK: u8 = 0x10;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// Bytes that an IP packet may have at all, headers included.
const MAX_PAYLOAD: usize = 65_535;

/// The payload repeats itself after so many bytes.
const PERIOD: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    const A: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const B: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn everything(side: Side) -> OffloadBits {
        *OffloadBits::all(side).last().unwrap()
    }

    #[test]
    fn what_was_sent_is_right_where_it_is_taken() {
        for kind in Kind::ALL {
            let (all, none) = (everything(Side::Sender), OffloadBits::default());
            let mut stream = Stream::new(kind, A, B, all, everything(Side::Receiver));
            for _ in 0..100 {
                let (header, frame, _) = stream.frame(100_000);
                stream.accept(&header, &frame).unwrap();
            }
            assert!(stream.is_complete() && stream.seen().0 > 50, "{kind:?}");
            let mut stream = Stream::new(kind, A, B, all, none);
            let (header, frame, _) = stream.frame(100_000);
            assert!(stream.accept(&header, &frame).unwrap_err().contains("not negotiated"));
        }
    }

    #[test]
    fn every_changed_byte_is_seen() {
        let none = OffloadBits::default();
        for kind in Kind::ALL {
            let mut stream = Stream::new(kind, A, B, none, none);
            let (header, frame, _) = stream.frame(100);
            for at in 0..frame.len() {
                let mut changed = frame.clone();
                changed[at] ^= 1;
                assert!(stream.accept(&header, &changed).is_err(), "{kind:?}: byte {at}");
            }
            stream.accept(&header, &frame).unwrap();
        }
    }

    #[test]
    fn there_are_as_many_sets_as_the_specification_allows() {
        // Without checksums one. With them 7 of TSO4, TSO6 and ECN, times those of UDP.
        assert_eq!(OffloadBits::all(Side::Sender).len(), 1 + 7 * 2);
        assert_eq!(OffloadBits::all(Side::Receiver).len(), 1 + 7 * 4);
    }
}
