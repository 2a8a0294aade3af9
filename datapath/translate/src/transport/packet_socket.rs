//! A guest behind a tap device of the pod: a packet socket on that device, each frame behind a virtio-net
//! header.
//!
//! For VMs whose memory cannot be shared. Whoever starts the translator has opened the socket and bound it to the
//! device (that takes a privilege, reading and writing do not), or somebody hands one over while it runs.
//! Without one there is no guest: what is for it is lost, as on a wire that leads nowhere. The kernel's offloads are used
//! both ways: what the guest's own device does not take, the kernel finishes.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use culvert_frame::{MAX_FRAME_BYTES, Offload, Offloads};
use culvert_guest::receive::PutError;
use culvert_guest::transmit::BURST;
use culvert_guest::{NetHeader, packet_socket};
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::io::{Errno, IoSlice};
use rustix::net::{AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags};

use crate::link::Full;
use crate::time::Instant;
use crate::transport::finish::{self, Backlog, Sink, Workspace};
use crate::transport::{Burst, Frames, News, Place, Totals, Watch};

/// What the kernel takes undone. Segmented UDP came with Linux 6.2 only.
pub(super) const TAKES: Offloads = Offloads::CHECKSUM.union(Offloads::TSO4).union(Offloads::TSO6).union(Offloads::ECN);

/// Bytes of the virtio-net header before each frame.
const HEADER_BYTES: usize = 10;

/// Room for a burst; frames are read while the longest one fits.
const READ_BYTES: usize = 512 << 10;
const LONGEST: usize = HEADER_BYTES + MAX_FRAME_BYTES as usize;

/// How much of the guest's frames the kernel is to keep for us.
const BUFFER_BYTES: usize = 4 << 20;

/// How soon a device whose queue is full is tried again: the kernel does not tell when it has room.
const RETRY: Duration = Duration::from_millis(1);

/// How often a device that is down is looked at: the kernel does not tell when such a one goes.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// The socket.
#[derive(Debug)]
pub struct PacketSocket {
    /// None until there is one, and once its device is gone.
    descriptor: Option<OwnedFd>,
    watch: Watch,
    reader: Reader,
    writer: Writer,
    news: News,
    /// Packet sockets that there were.
    taken: u64,
}

impl PacketSocket {
    /// Takes up a packet socket (`SOCK_RAW`) that is bound to the guest's tap device. Uses one token of `registry`,
    /// `first`.
    ///
    /// # Errors
    /// It is no such socket, or cannot be waited on.
    pub fn new(descriptor: OwnedFd, registry: &Registry, first: Token) -> io::Result<Self> {
        let mut socket = Self::waiting(registry, first)?;
        socket.take(descriptor)?;
        Ok(socket)
    }

    /// Without a packet socket yet.
    ///
    /// # Errors
    /// The registry cannot be used.
    pub fn waiting(registry: &Registry, first: Token) -> io::Result<Self> {
        let watch = Watch::new(registry, first)?;
        let (reader, writer) = (Reader::default(), Writer::default());
        Ok(Self { descriptor: None, watch, reader, writer, news: News::default(), taken: 0 })
    }

    /// Takes up a packet socket in the place of the one before.
    ///
    /// # Errors
    /// It is no packet socket that is bound to a device, or cannot be waited on; the one before stays.
    pub fn take(&mut self, descriptor: OwnedFd) -> io::Result<()> {
        if rustix::net::sockopt::socket_domain(&descriptor)? != AddressFamily::PACKET {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the descriptor is not a packet socket"));
        }
        packet_socket::prepare(descriptor.as_fd())?;
        // It is bound to a device.
        packet_socket::mtu(descriptor.as_fd())?;
        rustix::io::ioctl_fionbio(&descriptor, true)?;
        // As much as the node allows (net.core.rmem_max).
        rustix::net::sockopt::set_socket_recv_buffer_size(&descriptor, BUFFER_BYTES)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.watch.registry.register(&mut SourceFd(&descriptor.as_raw_fd()), self.watch.token(0), interest)?;
        // Closing takes the one before out of epoll.
        self.descriptor = Some(descriptor);
        (self.reader.ready, self.reader.ended, self.reader.down) = (true, false, None);
        self.writer.retry |= self.writer.told_full;
        self.news.came = true;
        self.taken += 1;
        Ok(())
    }

    /// Whether there is no packet socket.
    pub const fn is_waiting(&self) -> bool {
        self.descriptor.is_none()
    }

    /// The MTU of the device, in bytes, if there is one.
    pub fn mtu(&self) -> Option<u32> {
        packet_socket::mtu(self.descriptor.as_ref()?.as_fd()).ok()
    }

    /// See [`Transport::event`](super::Transport::event).
    pub fn event(&mut self, token: Token) {
        if self.watch.index(token) == Some(0) {
            self.reader.ready = true;
            self.writer.retry |= self.writer.told_full;
        }
    }

    /// See [`Transport::turn`](super::Transport::turn).
    pub fn turn(&mut self, now: Instant) -> News {
        if let (Some(look_again), Some(descriptor)) = (self.reader.down, &self.descriptor)
            && look_again.is_none_or(|at| at <= now)
        {
            match packet_socket::is_up(descriptor.as_fd()) {
                Ok(true) => self.reader.down = None,
                Ok(false) => self.reader.down = Some(Some(now + LOOK_AGAIN)),
                Err(_) => {
                    tracing::info!("the guest's tap is gone");
                    self.reader.ended = true;
                }
            }
        }
        if std::mem::take(&mut self.reader.ended) {
            (self.descriptor, self.reader.down) = (None, None);
            self.news.left = true;
        }
        if self.writer.told_full && (self.writer.retry || self.writer.again.is_some_and(|at| at <= now)) {
            (self.writer.told_full, self.writer.retry, self.writer.again) = (false, false, None);
            self.news.room = true;
        } else if self.writer.told_full && self.writer.again.is_none() {
            self.writer.again = Some(now + RETRY);
        }
        std::mem::take(&mut self.news)
    }

    /// See [`Transport::deadline`](super::Transport::deadline).
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let untold = self.writer.told_full && (self.writer.retry || self.writer.again.is_none());
        if self.reader.ready || self.reader.ended || untold {
            return Some(now);
        }
        let look_again = self.reader.down.map(|look_again| look_again.unwrap_or(now));
        [self.writer.again, look_again].into_iter().flatten().min()
    }

    /// See [`Transport::halves`](super::Transport::halves).
    pub fn halves(&mut self) -> (PacketSource<'_>, PacketLink<'_>) {
        let descriptor = self.descriptor.as_ref();
        (PacketSource { descriptor, reader: &mut self.reader }, PacketLink { descriptor, writer: &mut self.writer })
    }

    /// What passed so far.
    pub const fn totals(&self) -> Totals {
        let (tx_refused, tx_segmented) = (self.writer.refused, self.writer.segmented);
        Totals { connections: self.taken, quarantined: 0, rx_disabled: 0, tx_refused, tx_segmented }
    }
}

/// The direction from the guest.
#[derive(Debug)]
struct Reader {
    buffer: Box<[u8]>,
    places: Vec<Place>,
    /// There may be more to read.
    ready: bool,
    /// The device is gone.
    ended: bool,
    /// The device was down when last heard of: when to look whether it still exists, None for now.
    down: Option<Option<Instant>>,
}

impl Default for Reader {
    fn default() -> Self {
        let (buffer, places) = (vec![0; READ_BYTES].into(), Vec::with_capacity(BURST));
        Self { buffer, places, ready: true, ended: false, down: None }
    }
}

impl Reader {
    fn fill(&mut self, descriptor: Option<&OwnedFd>) {
        self.places.clear();
        let Some(descriptor) = descriptor else {
            self.ready = false;
            return;
        };
        let mut at = 0;
        while self.ready && self.places.len() < BURST && at + LONGEST <= READ_BYTES {
            let room = self.buffer.get_mut(at..).unwrap_or_default();
            match rustix::net::recv(descriptor, &mut *room, RecvFlags::DONTWAIT) {
                Ok((length, _)) => {
                    // A frame that ends before its header is none.
                    if let Some(header) = NetHeader::parse(room.get(..length).unwrap_or_default()) {
                        self.places.push(Place { header, bytes: at + HEADER_BYTES..at + length, parts: 0..0 });
                        at += length.next_multiple_of(64);
                    }
                }
                Err(Errno::INTR) => {}
                // The device is down; it may come up again, or go, of which there is no second word.
                Err(Errno::NETDOWN) => self.down = Some(None),
                Err(Errno::AGAIN) => self.ready = false,
                Err(error) => {
                    tracing::warn!("the packet socket cannot be read: {error}");
                    (self.ready, self.ended) = (false, true);
                }
            }
        }
    }
}

/// Frames from the packet socket.
#[derive(Debug)]
pub struct PacketSource<'a> {
    descriptor: Option<&'a OwnedFd>,
    reader: &'a mut Reader,
}

impl PacketSource<'_> {
    /// See [`Source::receive`](super::Source::receive).
    pub fn receive(&mut self) -> Burst<'_> {
        self.reader.fill(self.descriptor);
        Burst { frames: Frames::Own(&self.reader.buffer, &self.reader.places, Vec::new()), asks: Offloads::ALL }
    }
}

/// The direction to the guest.
#[derive(Debug, Default)]
struct Writer {
    told_full: bool,
    retry: bool,
    again: Option<Instant>,
    workspace: Workspace,
    refused: u64,
    segmented: u64,
}

/// Sends one frame at a time.
struct Sender<'a>(&'a OwnedFd);

impl Sink for Sender<'_> {
    fn takes(&self) -> Offloads {
        TAKES
    }

    fn put(&mut self, header: &NetHeader, head: &[u8], payload: &[u8]) -> Result<(), PutError> {
        let header = header.to_bytes(0);
        let header = header.get(..HEADER_BYTES).unwrap_or_default();
        let parts = [IoSlice::new(header), IoSlice::new(head), IoSlice::new(payload)];
        let mut none = SendAncillaryBuffer::default();
        loop {
            match rustix::net::sendmsg(self.0, &parts, &mut none, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN | Errno::NOBUFS) => return Err(PutError::NoBuffer),
                // Too long for the device, or the device is down: lost, as on any wire.
                Err(_) => return Err(PutError::SmallBuffer),
            }
        }
    }
}

/// Frames to the packet socket.
#[derive(Debug)]
pub struct PacketLink<'a> {
    descriptor: Option<&'a OwnedFd>,
    writer: &'a mut Writer,
}

impl PacketLink<'_> {
    /// See [`GuestLink::put`](crate::link::GuestLink::put). A frame that the device refuses is lost, and counted.
    ///
    /// # Errors
    /// [`Full`].
    #[inline]
    pub fn put(&mut self, offload: Offload, head: &[u8], payload: &[u8]) -> Result<(), Full> {
        let Writer { workspace, told_full, refused, segmented, .. } = &mut *self.writer;
        let Some(descriptor) = self.descriptor else {
            *refused += 1;
            return Ok(());
        };
        // Segments that are left over are UDP datagrams: they are lost.
        let mut sender = Sender(descriptor);
        match finish::put(&mut sender, offload, head, payload, workspace, &mut Backlog::default()) {
            Ok(cut) => *segmented += u64::from(cut),
            Err(PutError::NoBuffer) => {
                *told_full = true;
                return Err(Full);
            }
            Err(PutError::SmallBuffer | PutError::Fault(_)) => *refused += 1,
        }
        Ok(())
    }
}
