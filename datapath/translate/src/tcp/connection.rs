//! One connection: what happens on either side goes in, what is to be done comes out.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::options::Options;
use super::segment::{FIXED, Flags, Segment};
use super::seq::Seq;

/// TCP with the guest, for one flow.
#[derive(Debug)]
pub struct Connection {
    config: Arc<Config>,
}

impl Connection {
    /// The guest opens: `syn` came in, and a socket is connecting. `isn` is our initial sequence number (RFC 9293, 3.4.1).
    #[must_use]
    pub fn from_guest(now: Instant, isn: Seq, syn: &Segment, config: Arc<Config>) -> Self {
        let _ = (now, isn, syn);
        Self { config }
    }

    /// The far end opened: a socket was accepted, and the guest gets a SYN.
    #[must_use]
    pub fn from_host(now: Instant, isn: Seq, info: &SocketInfo, config: Arc<Config>) -> Self {
        let _ = (now, isn, info);
        Self { config }
    }

    /// A segment of the guest. Tells which part of its payload is to be written to the socket now; then
    /// [`Self::on_written`] or [`Self::on_failed`] must be called before any other method.
    pub fn on_segment(&mut self, now: Instant, segment: &Segment) -> Option<Range<u32>> {
        let _ = (now, segment);
        None
    }

    /// The socket took the first `bytes` of what [`Self::on_segment`] named: 0 where it had no room.
    pub fn on_written(&mut self, now: Instant, bytes: u32) {
        let _ = (now, bytes);
    }

    /// The socket is connected.
    pub fn on_connected(&mut self, now: Instant, info: &SocketInfo) {
        let _ = (now, info);
    }

    /// The socket failed: connecting, or later.
    pub fn on_failed(&mut self, now: Instant, failure: Failure) {
        let _ = (now, failure);
    }

    /// There may be something to read: data, or the end.
    pub fn on_readable(&mut self, now: Instant) {
        let _ = now;
    }

    /// The socket has room again.
    pub fn on_writable(&mut self, now: Instant) {
        let _ = now;
    }

    /// The answer to [`Action::AskInfo`].
    pub fn on_info(&mut self, now: Instant, info: &SocketInfo) {
        let _ = (now, info);
    }

    /// [`Self::deadline`] is reached. Too early is harmless.
    pub fn on_timer(&mut self, now: Instant) {
        let _ = now;
    }

    /// When [`Self::on_timer`] is to be called; may change with every other call.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        None
    }

    /// What to do next; to be called until `None` after one or more events. A [`Action::Transmit`] is answered by
    /// one of [`Self::on_transmitted`], [`Self::on_blocked`], [`Self::on_drained`], [`Self::on_end`] before the next call.
    pub fn poll(&mut self, now: Instant) -> Option<Action> {
        let _ = now;
        None
    }

    /// The segment is on its way, with that many bytes of payload: at most what it asked for, and 0 where it asked for none.
    pub fn on_transmitted(&mut self, now: Instant, payload_bytes: u32) {
        let _ = (now, payload_bytes);
    }

    /// The guest has no room: nothing was sent. No segment is asked for until [`Self::on_unblocked`].
    pub fn on_blocked(&mut self) {}

    /// The guest has room again.
    pub fn on_unblocked(&mut self) {}

    /// Nothing was sent, because nothing is in the receive queue at that offset (EAGAIN); [`Self::on_readable`] tells of more.
    pub fn on_drained(&mut self) {}

    /// Nothing was sent, because at that offset the far end's data ends: a read into a buffer that is not empty gave 0 bytes.
    pub fn on_end(&mut self, now: Instant) {
        let _ = now;
    }

    /// Whether `segment`, a SYN, opens a new connection in this one's place (RFC 9293, 3.10.7.4, TIME-WAIT; RFC 6191): forget this
    /// one, and go on as if it were not there.
    #[must_use]
    pub fn is_superseded_by(&self, segment: &Segment) -> bool {
        let _ = segment;
        false
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the socket (TCP_INFO and its send buffer), then call [`Connection::on_info`].
    AskInfo,
    /// Call [`Connection::on_writable`] once the socket has room, also if it has now: arm EPOLLOUT anew.
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
    /// The control bits. PSH belongs on the last segment only, where the payload is cut into several, and CWR on the first.
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
        Self { seq, ack, flags, window: 0, options: Options::default(), payload: None, mss: 0, ect: false }
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
    /// How many bytes of data the far end acknowledged since the beginning; SYN and FIN, which Linux counts in
    /// `tcpi_bytes_acked`, are left out. A SYN or FIN too many does no harm.
    pub acknowledged: u64,
    /// How many bytes the socket surely takes now.
    pub send_room: u32,
    /// The smoothed round-trip time to the far end.
    pub rtt: Duration,
    /// The far end is on this host (a local address).
    pub local: bool,
}

/// How a socket failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The far end refused or reset it, or it broke: the guest gets a RST.
    Reset,
    /// It never reached the far end: the guest hears nothing from us (the caller may relay an ICMP error).
    Unreachable,
}

/// What holds for every connection of a family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What we announce as MSS, and never exceed: the link's MTU without IP and TCP headers, in bytes.
    pub mss: u16,
    /// What a guest takes that announces no MSS: 536 for IPv4, 1220 for IPv6 (RFC 9293, 3.7.1).
    pub default_mss: u16,
    /// The most payload of one [`Transmit`], in bytes: 64 KiB without headers.
    pub burst: u32,
    /// The largest window that the guest is given, in bytes.
    pub window: u32,
    /// How often a SYN is sent again.
    pub syn_retries: u8,
    /// How many of these come at equal distances, before those double.
    pub syn_linear: u8,
    /// How often data is sent again in a row before the guest counts as lost.
    pub retries: u8,
    /// The shortest retransmission timeout: longer than guests delay acknowledgements.
    pub rto_min: Duration,
    /// The longest.
    pub rto_max: Duration,
    /// For how long an acknowledgement waits for data to travel with.
    pub delayed_ack: Duration,
    /// A far end with at most this round-trip time is near: its acknowledgements are not waited for.
    pub near: Duration,
    /// After how long without a segment of the guest it is probed.
    pub keep_alive: Duration,
    /// The same once the guest has sent its FIN: it may have forgotten the connection.
    pub keep_alive_half_closed: Duration,
    /// The distance of these probes.
    pub keep_alive_interval: Duration,
    /// How many unanswered probes mean that the guest is lost.
    pub keep_alive_probes: u8,
    /// After how long a connection is given up that has data to move in either direction and moves none.
    pub stall: Duration,
    /// For how long a closed connection answers late segments. Nothing on the way to a guest lives for long, so this is short.
    pub time_wait: Duration,
    /// Whether ECN is offered and taken.
    pub ecn: bool,
}

impl Default for Config {
    /// For IPv4 with an MTU of 1500; timers as Linux has them.
    fn default() -> Self {
        Self {
            mss: 1460,
            default_mss: 536,
            burst: 65_535 - 60 - 60,
            window: 16 << 20,
            syn_retries: 6,
            syn_linear: 4,
            retries: 15,
            rto_min: Duration::from_millis(200),
            rto_max: Duration::from_secs(120),
            delayed_ack: Duration::from_millis(10),
            near: Duration::from_millis(2),
            keep_alive: Duration::from_secs(7200),
            keep_alive_half_closed: Duration::from_secs(60),
            keep_alive_interval: Duration::from_secs(75),
            keep_alive_probes: 9,
            stall: Duration::from_secs(7200),
            time_wait: Duration::from_secs(1),
            ecn: true,
        }
    }
}
