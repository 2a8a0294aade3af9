//! Frames of the tests, with the virtio-net header before each: made by hand, and judged by plain arithmetic that shares
//! nothing with the switch.

use std::net::IpAddr;

use culvert_frame::{MacAddress, Offloads};
use culvert_guest::NetHeader;
use culvert_guest::Piece;
use culvert_guest::net_header::{DATA_VALID, NEEDS_CSUM};
use culvert_guest::receive::PutError;

use super::at;
use crate::burst::Sink;

/// A frame and its virtio-net header, as it arrives or as it has left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    pub(super) header: NetHeader,
    pub(super) frame: Vec<u8>,
}

impl From<Vec<u8>> for Packet {
    /// A frame to which nothing is left to be done.
    fn from(frame: Vec<u8>) -> Self {
        Self { header: NetHeader::default(), frame }
    }
}

impl Packet {
    /// The same frame with these tags.
    pub(super) fn tagged(mut self, tags: &[[u8; 4]]) -> Self {
        self.frame.splice(12..12, tags.concat());
        if self.header.flags & NEEDS_CSUM != 0 {
            self.header.csum_start += u16::try_from(tags.len() * 4).unwrap();
        }
        self
    }

    pub(super) const fn needs_checksum(&self) -> bool {
        self.header.flags & NEEDS_CSUM != 0
    }

    pub(super) const fn is_valid(&self) -> bool {
        self.header.flags & DATA_VALID != 0
    }

    /// Whether the frame is of several segments.
    pub(super) fn is_unsegmented(&self) -> bool {
        self.header.gso_type != 0
            && Layout::of(&self.frame)
                .is_some_and(|it| self.frame.len() > it.payload + usize::from(self.header.gso_size))
    }

    /// The longest frame that becomes of it.
    pub(super) fn longest(&self) -> usize {
        if self.is_unsegmented() {
            Layout::of(&self.frame).unwrap().payload + usize::from(self.header.gso_size)
        } else {
            self.frame.len()
        }
    }

    /// What a receiver must take to get it undone.
    pub(super) fn needs(&self) -> Offloads {
        if !self.needs_checksum() {
            return Offloads::NONE;
        }
        let ipv6 = Layout::of(&self.frame).is_some_and(|it| it.is_ipv6);
        let kind = match (self.is_unsegmented(), self.header.gso_type & 0x7f) {
            (false, _) => Offloads::NONE,
            (true, 1) => Offloads::TSO4,
            (true, 4) => Offloads::TSO6,
            (true, _) if ipv6 => Offloads::USO6,
            (true, _) => Offloads::USO4,
        };
        let ecn =
            if self.is_unsegmented() && self.header.gso_type & 0x80 != 0 { Offloads::ECN } else { Offloads::NONE };
        Offloads::CHECKSUM | kind | ecn
    }

    /// What its sender must have negotiated.
    pub(super) fn asks(&self) -> Offloads {
        let mut unsegmented = self.clone();
        // Also a request for one segment is one.
        unsegmented.header.gso_size = 0;
        unsegmented.needs()
    }

    /// Panics unless a receiver that takes `takes` can use what it was given: the header says nothing that it did not
    /// negotiate, points to where the checksum is, and what it leaves out is in the frame.
    pub(super) fn assert_usable(&self, takes: Offloads) {
        let NetHeader { flags, gso_type, gso_size, csum_start, csum_offset, hdr_len } = self.header;
        assert!(takes.contains(self.needs()), "{self:?} for a receiver of {takes:?}");
        assert!(flags == 0 || takes.contains(Offloads::CHECKSUM), "{self:?} for a receiver of {takes:?}");
        assert!([0, NEEDS_CSUM, DATA_VALID].contains(&flags), "{flags}");
        if flags != NEEDS_CSUM {
            assert_eq!(self.header, NetHeader { flags, ..NetHeader::default() });
        }
        let Some(layout) = Layout::of(&self.frame) else { return };
        let sum = ones_complement(&self.frame[layout.transport..]);
        let whole = add(sum, layout.pseudo_sum(&self.frame));
        if flags == DATA_VALID {
            assert_eq!(whole, 0xffff, "a checksum that is told to be right");
        }
        if flags == NEEDS_CSUM {
            assert_eq!(usize::from(csum_start), layout.transport);
            assert_eq!(usize::from(csum_offset), layout.checksum - layout.transport);
            assert_eq!(layout.checksum_field(&self.frame), layout.pseudo_sum(&self.frame), "the pseudo header's sum");
        }
        if gso_type != 0 {
            assert!(self.is_unsegmented());
            assert_ne!(gso_size, 0);
            assert_eq!(usize::from(hdr_len), layout.payload);
        }
    }

    /// Whether the TCP or UDP checksum is there and right.
    pub(super) fn checksum_is_right(&self) -> bool {
        let layout = Layout::of(&self.frame).unwrap();
        add(ones_complement(&self.frame[layout.transport..]), layout.pseudo_sum(&self.frame)) == 0xffff
    }
}

impl Sink for Vec<Packet> {
    fn put<'p>(
        &mut self,
        header: &NetHeader,
        head: &[u8],
        length: u32,
        rest: impl Iterator<Item = Piece<'p>>,
    ) -> Result<(), PutError> {
        let mut frame = head.to_vec();
        for piece in rest {
            let mut bytes = vec![0; usize::try_from(piece.length()).unwrap()];
            assert_eq!(piece.copy_to(0, &mut bytes), bytes.len());
            frame.extend(bytes);
        }
        assert_eq!(frame.len(), usize::try_from(length).unwrap());
        self.push(Packet { header: *header, frame });
        Ok(())
    }

    fn takes_flooded(&mut self) -> Result<bool, PutError> {
        Ok(true)
    }
}

/// Where the headers of a TCP or UDP frame are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    network: usize,
    is_ipv6: bool,
    pub(super) transport: usize,
    checksum: usize,
    pub(super) payload: usize,
}

impl Layout {
    /// Of frames as [`Stream`] makes them, behind any tags.
    pub(super) fn of(frame: &[u8]) -> Option<Self> {
        let mut network = 14;
        while matches!(frame.get(network - 2..network)?, [0x81, 0x00] | [0x88, 0xa8]) {
            network += 4;
        }
        let is_ipv6 = match frame.get(network - 2..network)? {
            [0x08, 0x00] => false,
            [0x86, 0xdd] => true,
            _ => return None,
        };
        let transport = network + if is_ipv6 { 40 } else { 20 };
        let (checksum, payload) = match frame.get(network + if is_ipv6 { 6 } else { 9 })? {
            6 => (transport + 16, transport + 20),
            17 => (transport + 6, transport + 8),
            _ => return None,
        };
        (frame.len() >= payload).then_some(Self { network, is_ipv6, transport, checksum, payload })
    }

    /// Addresses, protocol and length.
    fn pseudo_sum(&self, frame: &[u8]) -> u16 {
        let addresses = if self.is_ipv6 { 8..40 } else { 12..20 };
        let protocol = if self.checksum - self.transport == 16 { 6 } else { 17 };
        let length = u16::try_from(frame.len() - self.transport).unwrap();
        let sum = ones_complement(&frame[self.network + addresses.start..self.network + addresses.end]);
        add(add(sum, protocol), length)
    }

    fn checksum_field(&self, frame: &[u8]) -> u16 {
        u16::from_be_bytes([frame[self.checksum], frame[self.checksum + 1]])
    }
}

/// RFC 1071, not complemented.
pub(super) fn ones_complement(bytes: &[u8]) -> u16 {
    bytes.chunks(2).fold(0, |sum, word| add(sum, u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)])))
}

const fn add(a: u16, b: u16) -> u16 {
    match a.overflowing_add(b) {
        (sum, true) => sum + 1,
        (sum, false) => sum,
    }
}

/// A TCP segment or UDP datagram from station to station.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stream {
    pub(super) to: MacAddress,
    pub(super) from: MacAddress,
    pub(super) is_ipv6: bool,
    pub(super) is_udp: bool,
    pub(super) payload: usize,
    /// Where the payload begins in a row of bytes; makes frames differ.
    pub(super) mark: u8,
    /// TCP's flags.
    pub(super) flags: u8,
}

/// 100 bytes of TCP over IPv4 from station 1 to station 2.
pub(super) const TCP4: Stream =
    Stream { to: at(2), from: at(1), is_ipv6: false, is_udp: false, payload: 100, mark: 1, flags: ACK };
pub(super) const TCP6: Stream = Stream { is_ipv6: true, ..TCP4 };
pub(super) const UDP4: Stream = Stream { is_udp: true, ..TCP4 };
pub(super) const UDP6: Stream = Stream { is_ipv6: true, ..UDP4 };

pub(super) const ACK: u8 = 0x10;
pub(super) const PSH: u8 = 0x08;
pub(super) const CWR: u8 = 0x80;

impl Stream {
    /// Its checksum is right.
    pub(super) fn whole(&self) -> Packet {
        let mut frame = self.bytes();
        let layout = Layout::of(&frame).unwrap();
        let sum = !add(ones_complement(&frame[layout.transport..]), layout.pseudo_sum(&frame));
        let sum = if self.is_udp && sum == 0 { 0xffff } else { sum };
        frame[layout.checksum..layout.checksum + 2].copy_from_slice(&sum.to_be_bytes());
        frame.into()
    }

    /// Its checksum is still to be completed.
    pub(super) fn partial(&self) -> Packet {
        let mut frame = self.bytes();
        let layout = Layout::of(&frame).unwrap();
        let sum = layout.pseudo_sum(&frame);
        frame[layout.checksum..layout.checksum + 2].copy_from_slice(&sum.to_be_bytes());
        let start = u16::try_from(layout.transport).unwrap();
        let offset = u16::try_from(layout.checksum).unwrap() - start;
        let header = NetHeader { flags: NEEDS_CSUM, csum_start: start, csum_offset: offset, ..NetHeader::default() };
        Packet { header, frame }
    }

    /// It is still to be cut into segments of `size` bytes.
    pub(super) fn unsegmented(&self, size: u16) -> Packet {
        let packet = self.partial();
        let gso_type = match (self.is_udp, self.is_ipv6) {
            (true, _) => 5,
            (false, false) => 1,
            (false, true) => 4,
        };
        let ecn = if !self.is_udp && self.flags & CWR != 0 { 0x80 } else { 0 };
        let header = NetHeader { gso_type: gso_type | ecn, gso_size: size, ..packet.header };
        Packet { header, ..packet }
    }

    /// All but the transport's checksum.
    fn bytes(&self) -> Vec<u8> {
        let payload: Vec<u8> =
            (usize::from(self.mark)..).map(|n| (n * 7 % 251).to_le_bytes()[0]).take(self.payload).collect();
        let transport = if self.is_udp {
            let length = u16::try_from(8 + self.payload).unwrap().to_be_bytes();
            [&[0x13, 0x88, 0x13, 0x89], &length[..], &[0, 0], &payload].concat()
        } else {
            [&[0x13, 0x88, 0x13, 0x89, 0, 0, 1, 0, 0, 0, 2, 0, 0x50, self.flags, 1, 0, 0, 0, 0, 0], &payload[..]]
                .concat()
        };
        let (source, destination) = if self.is_ipv6 { ("fd00::1", "fd00::2") } else { ("10.0.0.1", "10.0.0.2") };
        ip(self.to, self.from, source, destination, if self.is_udp { 17 } else { 6 }, &transport)
    }
}

/// An IP frame of the version of its addresses.
pub(super) fn ip(
    to: MacAddress,
    from: MacAddress,
    source: &str,
    destination: &str,
    protocol: u8,
    body: &[u8],
) -> Vec<u8> {
    let length = |headers: usize| u16::try_from(headers + body.len()).unwrap().to_be_bytes();
    let [source, destination] = [source, destination].map(|text| match text.parse().unwrap() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    });
    let (ether_type, mut fixed) = if source.len() == 4 {
        let [high, low] = length(20);
        ([0x08, 0x00], vec![0x45, 0, high, low, 0x12, 0x34, 0, 0, 64, protocol, 0, 0])
    } else {
        let [high, low] = length(0);
        ([0x86, 0xdd], vec![0x60, 0, 0, 0, high, low, protocol, 64])
    };
    if source.len() == 4 {
        let sum = !ones_complement(&[&fixed[..], &source, &destination].concat());
        fixed[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    [&to.0[..], &from.0, &ether_type, &fixed, &source, &destination, body].concat()
}
