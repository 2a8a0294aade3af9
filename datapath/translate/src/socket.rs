//! The real sockets: the only system calls of the protocol cores, and the only `unsafe` of this crate.
//!
//! Every socket is non-blocking and registered edge-triggered with the event loop under its [`SocketId`]. TCP is in
//! [`stream`], UDP and echo in [`datagram`] (what they receive, in [`message`]), socket options that no library has in
//! [`option`], what addresses the machine has in [`own_address`], the sockets of steered ports in [`steered`] and the
//! table by which they are steered in [`port_table`].

mod datagram;
mod message;
mod option;
mod own_address;
pub mod port_table;
pub mod repair;
pub mod steered;
mod stream;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::mapping::Outbound;
use crate::sockets::moving::Repairer;
use crate::sockets::{Host, SocketId};

/// The sockets of one translator.
#[derive(Debug)]
pub struct KernelSockets {
    registry: Registry,
    streams: Table<stream::Stream>,
    /// What streams have brought along from another machine.
    luggage: BTreeMap<SocketId, repair::Luggage>,
    listeners: Table<OwnedFd>,
    /// To which all steered TCP ports lead.
    steered_tcp: Option<OwnedFd>,
    datagrams: datagram::Datagrams,
    own_addresses: own_address::OwnAddresses,
    /// Whoever switches streams that move to repair mode.
    repairer: Option<Arc<dyn Repairer>>,
    /// Whether the kernel keeps a peek's offset for TCP (SO_PEEK_OFF), over IPv4 and IPv6: since Linux 6.11.
    peek_offset: bool,
    /// The last peek at a stream filled the room that it had: so the next one will do.
    has_filled: bool,
    /// Where bytes go that are read only to get behind them, without `peek_offset`.
    trash: Vec<u8>,
}

impl KernelSockets {
    /// What is kept of each TCP socket, in bytes.
    #[cfg(test)]
    pub(crate) const BYTES_OF_A_STREAM: usize = size_of::<Option<stream::Stream>>();

    /// No sockets yet. Their events go to the loop of `registry`.
    ///
    /// # Errors
    /// No socket can be made at all.
    pub fn new(registry: Registry) -> io::Result<Self> {
        let v4 = socket_with(AddressFamily::INET, SocketType::STREAM, FLAGS, None)?;
        let v6 = socket_with(AddressFamily::INET6, SocketType::STREAM, FLAGS, None).ok();
        // Linux 6.9 has it for IPv4 only, and there may be no IPv6.
        let peek_offset =
            [Some(v4), v6].iter().flatten().all(|probe| option::set_peek_offset(probe.as_fd(), 0).is_ok());
        let trash = Vec::new();
        let (streams, listeners) = (Table::default(), Table::default());
        let luggage = BTreeMap::new();
        let datagrams = datagram::Datagrams::default();
        let own_addresses = own_address::OwnAddresses::new();
        let steered_tcp = None;
        let repairer = None;
        Ok(Self {
            registry,
            streams,
            luggage,
            listeners,
            steered_tcp,
            datagrams,
            own_addresses,
            repairer,
            peek_offset,
            has_filled: false,
            trash,
        })
    }

    /// Without the kernel keeping offsets of peeks, as before Linux 6.9.
    #[cfg(test)]
    fn without_peek_offset(mut self) -> Self {
        self.peek_offset = false;
        self
    }
}

impl Host for KernelSockets {
    fn has_address(&mut self, address: SocketAddr) -> bool {
        self.own_addresses.contain(address)
    }
}

/// Non-blocking, and not inherited.
const FLAGS: SocketFlags = SocketFlags::NONBLOCK.union(SocketFlags::CLOEXEC);

/// What the event loop tells of a TCP socket. Of urgent data as well: a look ends there.
const BOTH_WAYS: Interest = Interest::READABLE.add(Interest::WRITABLE).add(Interest::PRIORITY);

/// Tells the event loop of a new socket.
fn register(registry: &Registry, id: SocketId, socket: &impl AsRawFd) -> io::Result<()> {
    registry.register(&mut SourceFd(&socket.as_raw_fd()), Token(id.to_token()), BOTH_WAYS)
}

/// Tells the event loop to tell again what is possible now.
fn reregister(registry: &Registry, id: SocketId, socket: &impl AsRawFd) -> io::Result<()> {
    registry.reregister(&mut SourceFd(&socket.as_raw_fd()), Token(id.to_token()), BOTH_WAYS)
}

/// Binds as `outbound` says; the kernel chooses the port when it connects.
fn bind_outbound(socket: &OwnedFd, outbound: &Outbound<'_>) -> io::Result<()> {
    if let Some(interface) = outbound.interface {
        option::bind_to_device(socket.as_fd(), interface)?;
    }
    if let Some(address) = outbound.address {
        option::choose_port_at_connect(socket.as_fd())?;
        rustix::net::bind(socket, &SocketAddr::new(address, 0))?;
    }
    Ok(())
}

/// Sockets by the index of their flow.
#[derive(Debug)]
struct Table<T>(Vec<Option<T>>);

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Table<T> {
    fn get(&self, index: u32) -> io::Result<&T> {
        self.0.get(index as usize).and_then(Option::as_ref).ok_or_else(closed)
    }

    fn get_mut(&mut self, index: u32) -> io::Result<&mut T> {
        self.0.get_mut(index as usize).and_then(Option::as_mut).ok_or_else(closed)
    }

    fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().flatten()
    }

    /// What was there before is dropped.
    fn insert(&mut self, index: u32, value: T) {
        let index = index as usize;
        if self.0.len() <= index {
            self.0.resize_with(index + 1, || None);
        }
        if let Some(slot) = self.0.get_mut(index) {
            *slot = Some(value);
        }
    }

    fn remove(&mut self, index: u32) -> Option<T> {
        self.0.get_mut(index as usize).and_then(Option::take)
    }
}

fn closed() -> io::Error {
    io::ErrorKind::NotConnected.into()
}
