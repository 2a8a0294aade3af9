//! Wishes to the kernel about connections that move to another machine with their guest: what a stream is made of, how it is
//! held while that is read, and how it is made anew.
//!
//! Linux lets a process read and write the innards of a TCP socket that is in *repair mode* (TCP_REPAIR). Switching that on
//! and off takes CAP_NET_ADMIN, which a translator does not have: a [`Repairer`] does it. All else it does itself. A stream
//! that is *held* is in that mode and gets nothing from the network, not even an acknowledgement leaves: what comes meanwhile
//! is sent again by the far end, to where the stream goes on. Closing it is heard by nobody. Implemented in `socket::repair`
//! and by simulated streams in tests; used by [`crate::tcp::flows`].

use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;

use crate::migration::lost::Lost;
use crate::sockets::SocketId;

/// Whoever may switch repair mode.
pub trait Repairer: Debug + Send + Sync {
    /// Switches it on or off for all of these sockets.
    ///
    /// # Errors
    /// Nobody helps, or it is refused: some may have been switched.
    fn switch(&self, sockets: &[BorrowedFd<'_>], mode: Repair) -> io::Result<()>;
}

/// Repair mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// It is to be in it.
    On,
    /// It goes on, and asks the far end where it stands.
    Off,
}

/// Most sockets that one message can carry (SCM_MAX_FD).
pub const MOST_SOCKETS: usize = 253;

/// The most bytes that one queue of a stream may hold for it to move.
pub const MAX_QUEUE_BYTES: usize = 64 << 20;

/// One connection as its kernel knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamState {
    /// The socket's own address.
    pub local: SocketAddr,
    /// The far end.
    pub far: SocketAddr,
    /// The sequence number behind the last byte that was written; a FIN does not count.
    pub send_next: u32,
    /// The sequence number that the far end sends next; its FIN counts.
    pub receive_next: u32,
    /// How many bytes at the end of `send_queue` were never sent.
    pub unsent: u32,
    /// The most payload of a segment that the far end takes.
    pub mss: u32,
    /// Both ends understand selective acknowledgements.
    pub sack: bool,
    /// By how many bits the far end's windows are shifted, and ours.
    pub scale: Option<(u8, u8)>,
    /// The clock of our timestamps, where they are used.
    pub timestamp: Option<u32>,
    /// Windows, as TCP_REPAIR_WINDOW has them: `snd_wl1`, `snd_wnd`, `max_window`, `rcv_wnd`, `rcv_wup`.
    pub windows: [u32; 5],
    /// It is shut down for writing: there is a FIN behind `send_queue`.
    pub is_shut: bool,
    /// The far end's FIN has come.
    pub has_ended: bool,
    /// What was written and not acknowledged.
    pub send_queue: Vec<u8>,
    /// What came and was not discarded.
    pub receive_queue: Vec<u8>,
}

impl StreamState {
    /// Bytes that it takes, about.
    pub fn size(&self) -> usize {
        self.send_queue.len() + self.receive_queue.len() + 128
    }

    /// Whether it can be a stream at all.
    pub fn is_whole(&self) -> bool {
        let is_one_family = self.local.is_ipv4() == self.far.is_ipv4();
        let is_host = |ip: IpAddr| !ip.is_unspecified() && !ip.is_multicast();
        let has_ports = self.local.port() != 0 && self.far.port() != 0;
        let scale = self.scale.is_none_or(|(far, ours)| far <= 14 && ours <= 14);
        let [_, window, largest, _, _] = self.windows;
        is_one_family
            && is_host(self.local.ip())
            && is_host(self.far.ip())
            && has_ports
            && scale
            && window <= largest
            && (1..=0xffff).contains(&self.mss)
            && self.unsent as usize <= self.send_queue.len()
            && self.send_queue.len() <= MAX_QUEUE_BYTES
            && self.receive_queue.len() <= MAX_QUEUE_BYTES
    }
}

/// A stream that is to be made anew.
#[derive(Debug)]
pub struct Wish<'a> {
    /// As which socket.
    pub id: SocketId,
    /// The interface it is bound to (SO_BINDTODEVICE).
    pub interface: Option<&'a str>,
    /// What it is.
    pub state: &'a mut StreamState,
}

/// What can be done with streams that move. What is done to many is done in few messages to the helper.
pub trait MovingStreams {
    /// Holds these streams.
    ///
    /// # Errors
    /// [`Lost::Helper`]: nobody helps. Some may be held: [`Self::let_go`] follows.
    fn hold(&mut self, ids: &[SocketId]) -> Result<(), Lost>;

    /// What a stream is that is held.
    ///
    /// # Errors
    /// Why it cannot move.
    fn read_stream(&mut self, id: SocketId) -> Result<StreamState, Lost>;

    /// Streams that are held go on: an event tells what is possible with each. Returns those that cannot, because nobody
    /// helps: they are good for nothing but to be closed.
    fn let_go(&mut self, ids: &[SocketId]) -> Vec<SocketId>;

    /// Makes these streams anew, held. Takes the queues out of each state. In their order, how each went: of those that
    /// failed nothing is left.
    fn make_streams(&mut self, wishes: Vec<Wish<'_>>) -> Vec<Result<(), Lost>>;
}
