//! The far end, in the world: TCP sockets that the thread of the load drives beside the guest's rings, so that no other program has to wake up
//! for them. What comes is thrown away unread (recv(2), MSG_TRUNC); what is sent is zeros.

use std::io::{ErrorKind, Read, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use culvert_system::place::Namespace;
use culvert_system::translator::WORLD;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::RecvFlags;

use super::flows::Flows;

/// A listener, and connections that it has taken.
pub struct Far {
    listener: TcpListener,
    connections: Vec<TcpStream>,
    ready: OwnedFd,
    zeros: Box<[u8]>,
}

impl Far {
    /// Listens in the world.
    ///
    /// # Errors
    /// It cannot.
    pub fn new(world: &Namespace) -> Result<Self> {
        Self::at(world, WORLD[0])
    }

    /// Listens in a namespace.
    ///
    /// # Errors
    /// It cannot.
    pub fn at(world: &Namespace, address: &str) -> Result<Self> {
        let listener = world.run(|| {
            use rustix::net::{AddressFamily, SocketType, bind, listen, socket};
            let listener = socket(AddressFamily::INET, SocketType::STREAM, None)?;
            bind(&listener, &std::net::SocketAddr::new(address.parse()?, PORT))?;
            listen(&listener, BACKLOG)?;
            Ok(TcpListener::from(listener))
        })?;
        listener.set_nonblocking(true)?;
        let ready = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { listener, connections: Vec::new(), ready, zeros: vec![0; 0x1_0000].into() })
    }

    /// A connection that has come, if one has.
    ///
    /// # Errors
    /// The listener is broken.
    pub fn accept(&self) -> Result<Option<TcpStream>> {
        match self.listener.accept() {
            Ok((connection, _)) => {
                connection.set_nonblocking(true)?;
                connection.set_nodelay(true)?;
                Ok(Some(connection))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error).context("accept"),
        }
    }

    /// Takes a connection that is waited for by somebody without rings.
    ///
    /// # Errors
    /// None comes.
    pub fn wait_accept(&mut self) -> Result<()> {
        let begin = Instant::now();
        loop {
            if let Some(connection) = self.accept()? {
                self.connections.push(connection);
                return Ok(());
            }
            ensure!(begin.elapsed() < LIMIT, "no connection came within {LIMIT:?}");
        }
    }

    /// Takes a connection that has come, if one has; whether it has.
    ///
    /// # Errors
    /// The listener is broken.
    pub fn try_accept(&mut self) -> Result<bool> {
        let accepted = self.accept()?;
        self.connections.extend(accepted);
        Ok(!self.connections.is_empty())
    }

    /// Opens connections of a guest, one after the other, so that they come in that order.
    ///
    /// # Errors
    /// One does not come.
    pub fn open(&mut self, flows: &mut Flows, which: Range<usize>) -> Result<()> {
        for index in which {
            flows.open(index)?;
            let mut accepted = None;
            flows.until("connection", |flows| {
                if accepted.is_none() {
                    accepted = self.accept()?;
                }
                Ok(accepted.is_some() && flows.flow(index).open)
            })?;
            self.connections.extend(accepted);
        }
        Ok(())
    }

    /// A connection.
    ///
    /// # Errors
    /// There is none of that number.
    pub fn connection(&mut self, index: usize) -> Result<&mut TcpStream> {
        self.connections.get_mut(index).context("a connection")
    }

    /// Watches all connections, for what comes or for room.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn watch(&self, sending: bool) -> Result<()> {
        let flags = if sending { epoll::EventFlags::OUT } else { epoll::EventFlags::IN };
        for (index, connection) in (0..).zip(&self.connections) {
            epoll::add(&self.ready, connection, epoll::EventData::new_u64(index), flags)?;
        }
        Ok(())
    }

    /// Throws away what has come, or sends where there is room; returns how many bytes.
    ///
    /// # Errors
    /// A connection has ended.
    pub fn turn(&mut self, sending: bool) -> Result<u64> {
        let (mut room, none) = ([MaybeUninit::uninit(); 64], Timespec { tv_sec: 0, tv_nsec: 0 });
        let room = if sending { room.get_mut(..SENDERS_AT_ONCE).unwrap_or_default() } else { &mut room[..] };
        let (events, _) = epoll::wait(&self.ready, room, Some(&none))?;
        let mut bytes = 0;
        for event in events {
            let data = event.data;
            let connection = self.connections.get_mut(data.u64() as usize).context("a connection")?;
            if sending {
                bytes += moved(connection.write(&self.zeros))?;
            } else {
                bytes += discard(connection)?;
            }
        }
        Ok(bytes)
    }
}

/// Throws away what has come.
///
/// # Errors
/// The connection has ended.
fn discard(connection: impl AsFd) -> Result<u64> {
    let mut none = [0_u8; 1 << 20];
    match rustix::net::recv(connection, &mut none, RecvFlags::TRUNC | RecvFlags::DONTWAIT) {
        Ok((_, 0)) => bail!("a connection has ended"),
        Ok((_, length)) => Ok(length as u64),
        Err(Errno::AGAIN) => Ok(0),
        Err(error) => Err(error).context("recv"),
    }
}

/// What a call that does not block has moved.
fn moved(outcome: std::io::Result<usize>) -> Result<u64> {
    match outcome {
        Ok(length) => Ok(length as u64),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        Err(error) => Err(error).context("the far end"),
    }
}

/// Answers a request that has come whole with as many bytes; whether one had.
///
/// # Errors
/// The connection has ended.
pub fn answer(connection: &mut TcpStream, length: usize) -> Result<bool> {
    let mut request = [0; 64];
    let request = request.get_mut(..length).context("a shorter request")?;
    match connection.read(request) {
        Ok(count) if count == length => Ok(connection.write(request)? == length),
        Ok(count) => bail!("{count} bytes of a request came"),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error).context("the far end"),
    }
}

/// How many connections send 64 KiB each before the guest has its turn. Were it all that have room, of a thousand, the guest would not look
/// for a millisecond at a time, and its rings be full: what is filled then are the kernel's buffers.
const SENDERS_AT_ONCE: usize = 8;

/// Where it listens.
pub const PORT: u16 = 7;

const BACKLOG: i32 = 1024;

const LIMIT: Duration = Duration::from_secs(10);
