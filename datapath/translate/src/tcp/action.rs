//! What a connection wants done, and what it is told of its socket.

use std::time::Duration;

use super::connection::Proposed;
use super::options::Options;
use super::segment::{FIXED, Flags};
use super::seq::Seq;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the socket (TCP_INFO and its send buffer), then call [`Connection::on_info`](super::Connection::on_info).
    AskInfo,
    /// Call [`Connection::on_writable`](super::Connection::on_writable) once the socket has room, also if it has now:
    /// arm EPOLLOUT anew.
    AwaitWritable,
    /// Close the socket if it is open, and forget the connection: it is over.
    Close,
    /// Close the socket, orderly; the connection stays for a while to answer the guest.
    CloseSocket,
    /// The guest has that many bytes for good: drop them from the receive queue's head.
    Discard(u32),
    /// Close the socket with a RST towards the far end (SO_LINGER 0), and forget the connection.
    Reset,
    /// The guest sends no more: shut the socket down for writing.
    ShutdownWrite,
    /// Send a segment to the guest.
    Transmit(Transmit),
}

/// A segment for the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Of the first byte, or SYN or FIN.
    pub seq: Seq,
    /// The acknowledgement; `None` without the ACK flag.
    pub ack: Option<Seq>,
    /// The control bits. PSH belongs on the last segment only, where the payload is cut into several, and CWR on the
    /// first.
    pub flags: Flags,
    /// The window as it stands in the header, scaled already.
    pub window: u16,
    /// The options.
    pub options: Options,
    /// What to read from the socket for it; `None`: no payload.
    pub payload: Option<Payload>,
    /// The most payload of one segment on the wire, in bytes. More is to be cut, or left to the guest's offloads.
    pub mss: u16,
    /// The IP header says that ECN is understood: ECT(0) (RFC 3168, 5).
    pub ect: bool,
    /// What it is to its connection; none has `None`.
    pub(super) proposed: Option<Proposed>,
}

/// A part of the socket's receive queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload {
    /// From where on: bytes behind the queue's head, as it is after all [`Action::Discard`] so far.
    pub offset: u32,
    /// How much at most, in bytes; not 0. May be more than the MSS.
    pub max: u32,
}

impl Transmit {
    /// Without options, window and payload.
    pub(super) fn bare(seq: Seq, ack: Option<Seq>, flags: Flags) -> Self {
        let flags = if ack.is_some() { flags | Flags::ACK } else { flags };
        Self {
            seq,
            ack,
            flags,
            window: 0,
            options: Options::default(),
            payload: None,
            mss: 0,
            ect: false,
            proposed: None,
        }
    }

    /// Writes the TCP header with a checksum of 0, and tells its length in bytes: 20 to 60.
    pub fn write_header(&self, source_port: u16, destination_port: u16, header: &mut [u8; 60]) -> usize {
        let (fixed, area) = header.split_at_mut(FIXED);
        let mut options = [0; 40];
        let length = FIXED + self.options.write(&mut options);
        area.copy_from_slice(&options);
        let [s0, s1] = source_port.to_be_bytes();
        let [d0, d1] = destination_port.to_be_bytes();
        let [q0, q1, q2, q3] = self.seq.0.to_be_bytes();
        let [a0, a1, a2, a3] = self.ack.unwrap_or_default().0.to_be_bytes();
        let [w0, w1] = self.window.to_be_bytes();
        let offset = u8::try_from(length * 4).unwrap_or(0xf0);
        fixed.copy_from_slice(&[
            s0,
            s1,
            d0,
            d1,
            q0,
            q1,
            q2,
            q3,
            a0,
            a1,
            a2,
            a3,
            offset,
            self.flags.0,
            w0,
            w1,
            0,
            0,
            0,
            0,
        ]);
        length
    }
}

/// What a socket tells of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketInfo {
    /// How many bytes the socket surely takes now.
    pub send_room: u32,
    /// The smoothed round-trip time to the far end.
    pub rtt: Duration,
}

/// How a socket failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The far end refused or reset it, or it broke: the guest gets a RST.
    Reset,
    /// It never reached the far end: the guest hears nothing from us (the caller may relay an ICMP error).
    Unreachable,
}
