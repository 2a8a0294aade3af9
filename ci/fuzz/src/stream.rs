//! What a peer writes to the translator's stream socket, cut anywhere: each frame comes out as it went in, whatever is read
//! at once, and a length that no frame has ends the connection.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use arbitrary::{Arbitrary, Unstructured};
use culvert_frame::{MAX_FRAME_BYTES, Offload};
use culvert_translate::link::GuestLink;
use culvert_translate::transport::{QemuStream, Transport};
use mio::{Poll, Token};

#[derive(Arbitrary, Debug)]
enum Operation {
    /// Bytes as they are.
    Bytes(Vec<u8>),
    /// A frame of that length.
    Frame(u16),
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
    for operation in operations.iter().take(200) {
        let bytes = match operation {
            Operation::Bytes(bytes) => bytes.clone(),
            Operation::Frame(length) => {
                let frame = (0..u32::from(*length)).map(|at| (at * 7) as u8);
                u32::from(*length).to_be_bytes().into_iter().chain(frame).collect()
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
    assert_eq!(loop_.received.len(), frames.len());
    assert!(loop_.received.iter().eq(frames));
    assert_eq!(loop_.left, hostile);
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
                assert_eq!(offload, Offload::None);
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
