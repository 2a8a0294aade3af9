//! Simulated TCP sockets: far ends that send what a test says, take everything, and knock at listeners when told to.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use culvert_guest::Rooms;

use super::{Simulated, at};
use crate::mapping::Outbound;
use crate::packet::Payload;
use crate::sockets::{ListenAt, SocketId, TcpSockets};
use crate::tcp::SocketInfo;

/// All of them.
#[derive(Default)]
pub struct Streams {
    pub open: BTreeMap<SocketId, Stream>,
    /// What the next calls of accept give.
    pub waiting: VecDeque<io::Result<SocketAddr>>,
    /// Errors of the next calls of connect.
    pub connect_errors: VecDeque<i32>,
}

/// One connection.
#[derive(Debug, Default)]
pub struct Stream {
    /// Bytes in its receive queue.
    pub queue: u32,
    /// Bytes that were written.
    pub written: u32,
    /// How often it was looked at.
    pub looks: u32,
}

impl Simulated {
    fn stream(&mut self, id: SocketId) -> &mut Stream {
        self.streams.open.get_mut(&id).unwrap_or_else(|| panic!("{id:?} is not open"))
    }

    fn begin(&mut self, id: SocketId) {
        assert!(self.streams.open.insert(id, Stream::default()).is_none(), "{id:?} is open already");
    }
}

impl TcpSockets for Simulated {
    fn connect(&mut self, id: SocketId, _: SocketAddr, _: &Outbound<'_>) -> io::Result<()> {
        if let Some(error) = self.streams.connect_errors.pop_front() {
            return Err(io::Error::from_raw_os_error(error));
        }
        self.begin(id);
        Ok(())
    }

    fn listen(&mut self, _: u32, _: &ListenAt<'_>) -> io::Result<()> {
        Ok(())
    }

    fn stop_listening(&mut self, _: u32) {}

    fn accept(&mut self, _: SocketId, id: SocketId) -> io::Result<(SocketAddr, SocketAddr)> {
        let peer = self.streams.waiting.pop_front().unwrap_or_else(|| Err(ErrorKind::WouldBlock.into()))?;
        self.begin(id);
        Ok((peer, at("192.0.2.2:80")))
    }

    fn connected(&mut self, id: SocketId) -> io::Result<bool> {
        self.stream(id);
        Ok(true)
    }

    fn write(&mut self, id: SocketId, bytes: Payload<'_>) -> io::Result<u32> {
        self.stream(id).written += bytes.length();
        Ok(bytes.length())
    }

    fn peek(&mut self, id: SocketId, offset: u32, into: Rooms<'_>) -> io::Result<u32> {
        self.stream(id).looks += 1;
        match self.stream(id).queue.saturating_sub(offset) {
            0 => Err(ErrorKind::WouldBlock.into()),
            bytes => Ok(bytes.min(into.bytes())),
        }
    }

    fn discard(&mut self, id: SocketId, bytes: u32) {
        self.stream(id).queue -= bytes;
    }

    fn await_writable(&mut self, id: SocketId) {
        self.stream(id);
    }

    fn shutdown(&mut self, id: SocketId) {
        self.stream(id);
    }

    fn info(&mut self, id: SocketId) -> Option<SocketInfo> {
        self.stream(id);
        Some(SocketInfo { send_room: 1 << 20, rtt: Duration::from_micros(50) })
    }

    fn close(&mut self, id: SocketId) {
        self.streams.open.remove(&id);
    }

    fn reset(&mut self, id: SocketId) {
        self.streams.open.remove(&id);
    }
}
