//! Packets of a guest on a translator, well-formed until a case breaks them: Ethernet, IPv4 and IPv6, UDP, TCP, ICMP.
//!
//! Everything is plain bytes, so that any of them can be changed. What is sent has right checksums where the receiver looks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The guest's MAC address.
pub const GUEST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x66];

/// The guest's addresses: those of the pod.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 15);
/// See [`GUEST`].
pub const GUEST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0x15);

/// The world's addresses.
pub const WORLD: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// See [`WORLD`].
pub const WORLD6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1);

/// Protocol numbers.
pub const ICMP: u8 = 1;
/// See [`ICMP`].
pub const TCP: u8 = 6;
/// See [`ICMP`].
pub const UDP: u8 = 17;
/// See [`ICMP`].
pub const ICMPV6: u8 = 58;

/// Where the IP header starts.
pub const IP: usize = 14;

/// A frame of the guest's.
pub fn ethernet(kind: u16, payload: &[u8]) -> Vec<u8> {
    // A translator looks at no destination.
    [&[0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55][..], &GUEST_MAC, &kind.to_be_bytes(), payload].concat()
}

/// An IPv4 packet of the guest's, in a frame.
pub fn ipv4(protocol: u8, destination: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    ipv4_from(GUEST, protocol, destination, payload)
}

/// An IPv4 packet, in a frame.
pub fn ipv4_from(source: Ipv4Addr, protocol: u8, destination: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let length = (20 + payload.len()) as u16;
    let [l0, l1] = length.to_be_bytes();
    let header = [&[0x45, 0, l0, l1, 0, 1, 0, 0, 64, protocol, 0, 0], &source.octets()[..], &destination.octets()];
    summed(ethernet(0x0800, &[&header.concat(), payload].concat()))
}

/// The frame with the right sum in its IPv4 header, of whatever length that says to have.
pub fn summed(mut frame: Vec<u8>) -> Vec<u8> {
    let words = usize::from(frame[IP] & 15).max(5);
    let end = (IP + 4 * words).min(frame.len());
    frame[IP + 10..IP + 12].fill(0);
    let sum = checksum(&[&frame[IP..end]]);
    frame[IP + 10..IP + 12].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// A fragment of an IPv4 packet.
pub fn fragment(identification: u16, offset: u16, more: bool, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = ipv4(protocol, WORLD, payload);
    frame[IP + 4..IP + 6].copy_from_slice(&identification.to_be_bytes());
    let flags = (offset / 8) | if more { 0x2000 } else { 0 };
    frame[IP + 6..IP + 8].copy_from_slice(&flags.to_be_bytes());
    summed(frame)
}

/// An IPv6 packet of the guest's, in a frame.
pub fn ipv6(next: u8, destination: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
    let [l0, l1] = (payload.len() as u16).to_be_bytes();
    let header = [&[0x60, 0, 0, 0, l0, l1, next, 64], &GUEST6.octets()[..], &destination.octets()];
    ethernet(0x86dd, &[&header.concat(), payload].concat())
}

/// A UDP datagram; of IPv6 with its checksum, of IPv4 without.
pub fn udp(destination: impl Into<IpAddr>, from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let length = ((8 + payload.len()) as u16).to_be_bytes();
    let mut datagram = [&from.to_be_bytes()[..], &to.to_be_bytes(), &length, &[0, 0], payload].concat();
    match destination.into() {
        IpAddr::V4(to) => ipv4(UDP, to, &datagram),
        IpAddr::V6(to) => {
            let sum = checksum_v6(UDP, to, &datagram);
            datagram[6..8].copy_from_slice(&sum.to_be_bytes());
            ipv6(UDP, to, &datagram)
        }
    }
}

/// The checksum of what the guest sends to an address.
pub fn checksum_v6(protocol: u8, to: Ipv6Addr, payload: &[u8]) -> u16 {
    let length = (payload.len() as u32).to_be_bytes();
    match checksum(&[&GUEST6.octets(), &to.octets(), &length, &[0, 0, 0, protocol], payload]) {
        0 => u16::MAX,
        sum => sum,
    }
}

/// An ICMP echo request, or whatever its type says.
pub fn icmp(kind: u8, code: u8, word: u32, rest: &[u8]) -> Vec<u8> {
    let mut message = [&[kind, code, 0, 0], &word.to_be_bytes()[..], rest].concat();
    let sum = checksum(&[&message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// Flags of TCP.
pub mod flag {
    /// The sender is through.
    pub const FIN: u8 = 1;
    /// Opens.
    pub const SYN: u8 = 2;
    /// There is no such connection.
    pub const RST: u8 = 4;
    /// To be given to the program.
    pub const PSH: u8 = 8;
    /// Acknowledges.
    pub const ACK: u8 = 16;
    /// The urgent pointer counts.
    pub const URG: u8 = 32;
}

/// A TCP segment.
#[derive(Clone, Debug)]
pub struct Segment<'a> {
    /// The guest's port.
    pub from: u16,
    /// The peer's address.
    pub destination: Ipv4Addr,
    /// The peer's port.
    pub to: u16,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// See [`flag`].
    pub flags: u8,
    /// As it is sent: not scaled.
    pub window: u16,
    /// The urgent pointer.
    pub urgent: u16,
    /// Options, a multiple of four bytes.
    pub options: &'a [u8],
    /// Payload.
    pub payload: &'a [u8],
}

impl Default for Segment<'_> {
    fn default() -> Self {
        let (options, payload): (&[u8], &[u8]) = (&[], &[]);
        Self {
            from: 0,
            destination: WORLD,
            to: 0,
            seq: 0,
            ack: 0,
            flags: 0,
            window: 60_000,
            urgent: 0,
            options,
            payload,
        }
    }
}

impl Segment<'_> {
    /// The frame that it travels in.
    pub fn frame(&self) -> Vec<u8> {
        let offset = ((5 + self.options.len() / 4) as u8) << 4;
        let header = [
            &self.from.to_be_bytes()[..],
            &self.to.to_be_bytes(),
            &self.seq.to_be_bytes(),
            &self.ack.to_be_bytes(),
            &[offset, self.flags],
            &self.window.to_be_bytes(),
            &[0, 0],
            &self.urgent.to_be_bytes(),
            self.options,
        ];
        ipv4(TCP, self.destination, &[&header.concat(), self.payload].concat())
    }
}

/// A segment that was received.
#[derive(Clone, Debug)]
pub struct Received {
    /// The peer's address.
    pub source: Ipv4Addr,
    /// The peer's port.
    pub from: u16,
    /// The guest's port.
    pub to: u16,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// See [`flag`].
    pub flags: u8,
    /// Payload.
    pub payload: Vec<u8>,
}

impl Received {
    /// The TCP segment in a frame, if it has one.
    pub fn of(frame: &[u8]) -> Option<Self> {
        if frame.get(12..14)? != [8, 0] || *frame.get(IP + 9)? != TCP {
            return None;
        }
        let length = usize::from(word(frame, IP + 2)?);
        let start = IP + usize::from(frame[IP] & 15) * 4;
        let data = start + usize::from(*frame.get(start + 12)? >> 4) * 4;
        Some(Self {
            source: frame.get(IP + 12..)?.first_chunk::<4>().map(|bytes| Ipv4Addr::from(*bytes))?,
            from: word(frame, start)?,
            to: word(frame, start + 2)?,
            seq: long(frame, start + 4)?,
            ack: long(frame, start + 8)?,
            flags: *frame.get(start + 13)?,
            payload: frame.get(data..IP + length)?.to_vec(),
        })
    }
}

/// The type and code of the ICMP message in a frame, if it has one.
pub fn icmp_of(frame: &[u8]) -> Option<(u8, u8)> {
    if frame.get(12..14)? != [8, 0] || *frame.get(IP + 9)? != ICMP {
        return None;
    }
    let start = IP + usize::from(frame[IP] & 15) * 4;
    Some((*frame.get(start)?, *frame.get(start + 1)?))
}

fn word(frame: &[u8], at: usize) -> Option<u16> {
    frame.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

fn long(frame: &[u8], at: usize) -> Option<u32> {
    frame.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// RFC 1071, over parts of even lengths but the last.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u64;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
    }
    while sum >> 16 != 0 {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}
