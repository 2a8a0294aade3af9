//! Frames of the played guest: made and read in the few places that matter to a translator.

use culvert_system::translator::{POD, WORLD};

/// What is in front of the payload of a TCP segment, and of a UDP datagram.
pub const TCP_HEAD: usize = 54;
pub const UDP_HEAD: usize = 42;

/// Flags of TCP (RFC 9293, 3.1).
pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PUSH: u8 = 8;
pub const ACK: u8 = 16;

/// A segment, or its place in the two streams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Ports, seen from whoever sends it.
    pub from: u16,
    pub to: u16,
    pub sequence: u32,
    pub acknowledged: u32,
    pub flags: u8,
    pub window: u16,
    /// Bytes of payload.
    pub payload: u32,
    /// The window scale of a SYN (RFC 7323), 0 of others.
    pub shift: u8,
}

/// What is left to the translator of what a guest sends.
#[derive(Clone, Copy, Debug)]
pub struct Leaves {
    pub checksums: bool,
    pub segments: bool,
}

impl Segment {
    /// Its virtio-net header, its first bytes, and how long the frame is. All payload is zero.
    pub fn frame(&self, leaves: Leaves) -> ([u8; 12], [u8; TCP_HEAD + OPTIONS], u32) {
        let options = if self.flags & SYN != 0 { OPTIONS } else { 0 };
        let mut head = [0; TCP_HEAD + OPTIONS];
        let tcp_bytes = (20 + options) as u32 + self.payload;
        put(&mut head, 0, &ip_head(6, 20 + tcp_bytes));
        put(&mut head, 34, &self.from.to_be_bytes());
        put(&mut head, 36, &self.to.to_be_bytes());
        put(&mut head, 38, &self.sequence.to_be_bytes());
        put(&mut head, 42, &self.acknowledged.to_be_bytes());
        put(&mut head, 46, &[((20 + options) << 2) as u8, self.flags]);
        put(&mut head, 48, &self.window.to_be_bytes());
        if options > 0 {
            // Maximum segment size, no operation, window scale, two more of nothing.
            let [high, low] = SEGMENT_BYTES.to_be_bytes();
            put(&mut head, TCP_HEAD, &[2, 4, high, low, 1, 3, 3, self.shift, 1, 1, 1, 1]);
        }
        let pseudo = pseudo_sum(6, tcp_bytes);
        let mut header = [0; 12];
        if leaves.checksums {
            // To be completed; csum_start, csum_offset (virtio 1.3, 5.1.6).
            put(&mut header, 0, &[1]);
            put(&mut header, 6, &[34, 0, 16, 0]);
            put(&mut head, 50, &fold(pseudo).to_be_bytes());
        } else {
            let sum = fold(pseudo + sum(head.get(34..).unwrap_or_default()));
            put(&mut head, 50, &(!sum).to_be_bytes());
        }
        if leaves.segments && self.payload > u32::from(SEGMENT_BYTES) {
            let [low, high] = SEGMENT_BYTES.to_le_bytes();
            put(&mut header, 1, &[1, TCP_HEAD as u8, 0, low, high]);
        }
        (header, head, TCP_HEAD as u32 + options as u32 + self.payload)
    }

    /// Reads one.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let (ip, ip_bytes) = ip(frame, 6)?;
        let from = 14 + ip;
        let data = usize::from(byte(frame, from + 12)? >> 4) * 4;
        let flags = byte(frame, from + 13)?;
        let shift = if flags & SYN != 0 { window_scale(frame.get(from + 20..from + data)?) } else { 0 };
        Some(Self {
            from: half(frame, from)?,
            to: half(frame, from + 2)?,
            sequence: word(frame, from + 4)?,
            acknowledged: word(frame, from + 8)?,
            flags,
            window: half(frame, from + 14)?,
            payload: u32::try_from(ip_bytes.checked_sub(ip + data)?).ok()?,
            shift,
        })
    }
}

/// The first bytes of a UDP datagram of which the frame has so many bytes. All payload is zero.
pub fn datagram([from, to]: [u16; 2], frame_bytes: u32) -> [u8; UDP_HEAD] {
    let mut head = [0; UDP_HEAD];
    put(&mut head, 0, &ip_head(17, frame_bytes - 14));
    put(&mut head, 34, &from.to_be_bytes());
    put(&mut head, 36, &to.to_be_bytes());
    put(&mut head, 38, &((frame_bytes - 34) as u16).to_be_bytes());
    let sum = fold(pseudo_sum(17, frame_bytes - 34) + sum(head.get(34..).unwrap_or_default()));
    put(&mut head, 40, &(!sum).to_be_bytes());
    head
}

/// The ports of a UDP datagram, and the bytes of its payload.
pub fn parse_datagram(frame: &[u8]) -> Option<([u16; 2], usize)> {
    let (ip, ip_bytes) = ip(frame, 17)?;
    Some(([half(frame, 14 + ip)?, half(frame, 16 + ip)?], ip_bytes.checked_sub(ip + 8)?))
}

/// The lengths of an IPv4 header and of its packet.
fn ip(frame: &[u8], protocol: u8) -> Option<(usize, usize)> {
    let known = half(frame, 12)? == 0x0800 && byte(frame, 23)? == protocol;
    known.then_some((usize::from(byte(frame, 14)? & 15) * 4, usize::from(half(frame, 16)?)))
}

/// Ethernet and IPv4, from the guest to the world.
fn ip_head(protocol: u8, ip_bytes: u32) -> [u8; 34] {
    let mut head = [0; 34];
    put(&mut head, 0, &TRANSLATOR);
    put(&mut head, 6, &STATION);
    put(&mut head, 12, &[8, 0, 0x45, 0]);
    put(&mut head, 16, &(ip_bytes as u16).to_be_bytes());
    put(&mut head, 20, &[0x40, 0, 64, protocol]);
    let [from, to] = addresses();
    put(&mut head, 26, &from);
    put(&mut head, 30, &to);
    let sum = fold(sum(head.get(14..).unwrap_or_default()));
    put(&mut head, 24, &(!sum).to_be_bytes());
    head
}

fn pseudo_sum(protocol: u8, bytes: u32) -> u32 {
    let [from, to] = addresses();
    sum(&from) + sum(&to) + u32::from(protocol) + bytes
}

/// The guest's address, and the world's.
fn addresses() -> [[u8; 4]; 2] {
    [POD[0], WORLD[0]]
        .map(|text| text.parse::<std::net::Ipv4Addr>().map(|address| address.octets()).unwrap_or_default())
}

fn window_scale(mut options: &[u8]) -> u8 {
    while let Some((&kind, rest)) = options.split_first() {
        let length = match kind {
            0 => break,
            1 => 1,
            _ => usize::from(rest.first().copied().unwrap_or(0)).max(2),
        };
        if kind == 3 {
            return rest.get(1).copied().unwrap_or(0);
        }
        options = options.get(length..).unwrap_or_default();
    }
    0
}

fn sum(bytes: &[u8]) -> u32 {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let sum: u32 = pairs.iter().map(|&pair| u32::from(u16::from_be_bytes(pair))).sum();
    sum + rest.first().map_or(0, |&byte| u32::from(byte) << 8)
}

fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

fn byte(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|&bytes| u16::from_be_bytes(bytes))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|&bytes| u32::from_be_bytes(bytes))
}

/// Payload of a segment on the wire, at an MTU of 1500.
pub const SEGMENT_BYTES: u16 = 1460;

/// Options of a SYN.
const OPTIONS: usize = 12;

/// The translator's MAC address, which is its default and passt's, and the guest's.
pub const TRANSLATOR: [u8; 6] = [0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55];
pub const STATION: [u8; 6] = [2, 0, 0, 0, 0, 1];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_read_as_it_was_made() {
        let segment = Segment {
            from: 4000,
            to: 80,
            sequence: 0xffff_fff0,
            acknowledged: 7,
            flags: SYN | ACK,
            window: 512,
            payload: 0,
            shift: 9,
        };
        for checksums in [false, true] {
            let (header, head, length) = segment.frame(Leaves { checksums, segments: checksums });
            assert_eq!((header[0], length), (u8::from(checksums), 66));
            assert_eq!(Segment::parse(&head), Some(segment));
        }
        let data = Segment { flags: ACK, payload: 20_000, shift: 0, ..segment };
        let (header, head, length) = data.frame(Leaves { checksums: true, segments: true });
        assert_eq!((header[1], length), (1, 20_054));
        assert_eq!(Segment::parse(&head), Some(data));
    }

    #[test]
    fn checksums_are_right() {
        let head = datagram([4000, 53], 64);
        assert_eq!(parse_datagram(&head), Some(([4000, 53], 22)));
        assert_eq!(fold(sum(&head[14..34])), 0xffff);
        assert_eq!(fold(pseudo_sum(17, 30) + sum(&head[34..])), 0xffff);
        let (_, head, _) =
            Segment { flags: SYN, ..Segment::default() }.frame(Leaves { checksums: false, segments: false });
        assert_eq!(fold(pseudo_sum(6, 32) + sum(&head[34..])), 0xffff);
    }
}
