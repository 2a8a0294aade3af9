//! What a peer writes to the translator's stream socket, cut anywhere: each frame comes out as it went in, whatever is read
//! at once, but that TCP segments may have been joined; and a length that no frame has ends the connection.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::net::UnixStream;

use arbitrary::{Arbitrary, Unstructured};
use culvert_frame::checksum::Sum;
use culvert_frame::layers::{IpVersion, TCP};
use culvert_frame::{Layers, MAX_FRAME_BYTES, Offload};
use culvert_translate::link::GuestLink;
use culvert_translate::time::Instant;
use culvert_translate::transport::{QemuStream, Transport};
use mio::{Poll, Token};

#[derive(Arbitrary, Debug)]
enum Operation {
    /// Bytes as they are.
    Bytes(Vec<u8>),
    /// A frame of that length.
    Frame(u16),
    /// TCP segments of one of some flows, that follow each other.
    Segments { flow: u8, count: u8, bytes: u16, flags: u8 },
    /// A length, and nothing behind it.
    Length(u32),
    /// The transport has a turn.
    Turn,
    /// It sends a frame of that length.
    Send(u16),
}

/// Runs one input.
pub fn run(data: &[u8]) {
    let Ok(operations) = Vec::<Operation>::arbitrary_take_rest(Unstructured::new(data)) else { return };
    let poll = Poll::new().expect("epoll");
    let (ours, mut peer) = UnixStream::pair().expect("a pair of sockets");
    peer.set_nonblocking(true).expect("a socket that does not block");
    let stream = QemuStream::connected(ours, poll.registry(), FIRST).expect("a transport");
    let mut loop_ = Loop { transport: Transport::Stream(Box::new(stream)), received: Vec::new(), left: false };
    let mut written = Vec::new();
    let mut sequence = [0; 256];
    for operation in operations.iter().take(200) {
        let bytes = match operation {
            Operation::Bytes(bytes) => bytes.clone(),
            Operation::Frame(length) => [&u32::from(*length).to_be_bytes(), &PAYLOAD[..usize::from(*length)]].concat(),
            Operation::Segments { flow, count, bytes, flags } => {
                let mut all = Vec::new();
                for _ in 0..count % 70 {
                    let next = &mut sequence[usize::from(*flow)];
                    let frame = segment(*flow, *next, *flags, bytes % 1500);
                    *next = next.wrapping_add(u32::from(bytes % 1500));
                    all.extend((frame.len() as u32).to_be_bytes());
                    all.extend(frame);
                }
                all
            }
            Operation::Length(length) => length.to_be_bytes().to_vec(),
            Operation::Turn => {
                loop_.turn();
                continue;
            }
            Operation::Send(length) => {
                let (_, mut link) = loop_.transport.halves();
                let _ = link.put(Offload::None, &vec![0; usize::from(*length)], &[]);
                link.flush();
                continue;
            }
        };
        let mut left = &bytes[..];
        while !left.is_empty() {
            match peer.write(left) {
                Ok(count) => {
                    written.extend_from_slice(&left[..count]);
                    left = &left[count..];
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => loop_.turn(),
                // Closed for a length that no frame has.
                Err(_) => break,
            }
        }
    }
    loop_.turn();
    let (frames, hostile) = frames(&written);
    assert!(Content::of(loop_.received.iter().map(Vec::as_slice)) == Content::of(frames.into_iter()));
    assert_eq!(loop_.left, hostile);
}

/// 0 to 255 again and again: from any of them on as many bytes as a segment has.
static COUNT: [u8; 0x800] = multiples(1);
/// What a frame has in it, of any length.
static PAYLOAD: [u8; 0x1_0000] = multiples(7);

/// The multiples of a number, their lowest bytes.
const fn multiples<const LENGTH: usize>(of: u8) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    let mut at = 0;
    while at < bytes.len() {
        bytes[at] = of.wrapping_mul(at as u8);
        at += 1;
    }
    bytes
}

const FIRST: Token = Token(7);

/// The translator's event loop, which is woken for everything.
struct Loop {
    transport: Transport,
    received: Vec<Vec<u8>>,
    left: bool,
}

impl Loop {
    fn turn(&mut self) {
        let now = Instant::now();
        for token in [FIRST.0, FIRST.0 + 1] {
            self.transport.event(Token(token), now);
        }
        // At most a burst of frames each time.
        while self.transport.deadline(now).is_some() {
            self.left |= self.transport.turn(now).left;
            let (mut source, _) = self.transport.halves();
            let burst = source.receive();
            for index in 0..burst.len() {
                let (packet, offload) = burst.frame(index).expect("a frame that asks for nothing");
                assert!(matches!(offload, Offload::None | Offload::Segment(_)));
                let mut bytes = packet.head.to_vec();
                for piece in packet.rest() {
                    let at = bytes.len();
                    bytes.resize(at + piece.length() as usize, 0);
                    piece.copy_to(0, &mut bytes[at..]);
                }
                self.received.push(bytes);
            }
        }
    }
}

/// A frame of TCP over IPv4, or over IPv6 for odd flows.
fn segment(flow: u8, sequence: u32, flags: u8, bytes: u16) -> Vec<u8> {
    let tcp =
        [&[0, flow, 0, 80], &sequence.to_be_bytes()[..], &[0, 0, 0, 9, 0x50, 0x10 | flags, 4, 0, 0, 0, 0, 0]].concat();
    let length = (tcp.len() as u16 + bytes).to_be_bytes();
    let mut frame = [2; 12].to_vec();
    if flow % 2 == 1 {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, length[0], length[1], 6, 64]);
        frame.extend([9; 32]);
    } else {
        let total = (20 + tcp.len() as u16 + bytes).to_be_bytes();
        frame.extend([8, 0]);
        let mut header = [0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        let mut sum = Sum::default();
        sum.add(&header);
        header[10..12].copy_from_slice(&sum.checksum().to_be_bytes());
        frame.extend(header);
    }
    frame.extend(tcp);
    let start = usize::from(sequence as u8);
    frame.extend(&COUNT[start..start + usize::from(bytes)]);
    frame
}

/// What some frames say, however TCP's segments are cut: the payload of each flow, and all other frames.
#[derive(Debug, Default, PartialEq)]
struct Content {
    flows: BTreeMap<Vec<u8>, Vec<u8>>,
    others: Vec<Vec<u8>>,
}

impl Content {
    fn of<'a>(frames: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut content = Self::default();
        for frame in frames {
            let whole = |layers: &Layers| layers.protocol == TCP && layers.packet_end == Some(frame.len() as u32);
            match Layers::parse(frame).filter(whole) {
                Some(Layers { version, network, transport, header_bytes, .. })
                    if (usize::from(transport) + 20..frame.len()).contains(&usize::from(header_bytes)) =>
                {
                    let (network, transport) = (usize::from(network), usize::from(transport));
                    let addresses = match version {
                        IpVersion::V4 => &frame[network + 12..network + 20],
                        IpVersion::V6 => &frame[network + 8..network + 40],
                    };
                    let flow = [addresses, &frame[transport..transport + 4]].concat();
                    content.flows.entry(flow).or_default().extend(&frame[usize::from(header_bytes)..]);
                }
                _ => content.others.push(frame.to_vec()),
            }
        }
        content
    }
}

/// The frames in `bytes`, and whether a length follows them that no frame has.
fn frames(mut bytes: &[u8]) -> (Vec<&[u8]>, bool) {
    let mut frames = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let length = u32::from_be_bytes(*length);
        if length > MAX_FRAME_BYTES {
            return (frames, true);
        }
        let Some((frame, rest)) = rest.split_at_checked(length as usize) else { break };
        frames.push(frame);
        bytes = rest;
    }
    (frames, false)
}
