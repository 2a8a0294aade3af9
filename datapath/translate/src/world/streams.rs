//! Simulated TCP sockets: far ends that send what a test says, take everything, and knock at listeners when told to.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use culvert_guest::Rooms;

use super::{Simulated, at};
use crate::mapping::Outbound;
use crate::migration::lost::Lost;
use crate::packet::Payload;
use crate::sockets::moving::{MovingStreams, StreamState, Wish};
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
    /// Nobody helps with streams that move.
    pub is_helpless: bool,
    /// Addresses that streams cannot have here.
    pub missing: Vec<IpAddr>,
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
    /// It is held.
    pub is_held: bool,
    /// As it came from another machine.
    pub moved: Option<StreamState>,
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

    fn give_away(&mut self, id: SocketId) -> Option<OwnedFd> {
        self.streams.open.remove(&id)?;
        rustix::fs::memfd_create("given away", rustix::fs::MemfdFlags::CLOEXEC).ok()
    }

    fn adopt(&mut self, id: SocketId, _: OwnedFd) -> io::Result<()> {
        self.begin(id);
        Ok(())
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

impl MovingStreams for Simulated {
    fn hold(&mut self, ids: &[SocketId]) -> Result<(), Lost> {
        if self.streams.is_helpless {
            return Err(Lost::Helper);
        }
        ids.iter().for_each(|&id| self.stream(id).is_held = true);
        Ok(())
    }

    fn read_stream(&mut self, id: SocketId) -> Result<StreamState, Lost> {
        let stream = self.stream(id);
        assert!(stream.is_held);
        Ok(StreamState {
            local: at("192.0.2.2:40000"),
            far: at("198.51.100.7:80"),
            send_next: stream.written,
            receive_next: 7,
            unsent: 0,
            mss: 1460,
            sack: true,
            scale: Some((7, 7)),
            timestamp: Some(5),
            windows: [1, 2, 3, 4, 5],
            is_shut: false,
            has_ended: false,
            send_queue: Vec::new(),
            receive_queue: vec![b'x'; stream.queue as usize],
        })
    }

    fn let_go(&mut self, ids: &[SocketId]) -> Vec<SocketId> {
        if self.streams.is_helpless {
            return ids.iter().copied().filter(|&id| self.stream(id).is_held).collect();
        }
        for &id in ids {
            assert!(std::mem::take(&mut self.stream(id).is_held), "{id:?} is held");
        }
        Vec::new()
    }

    fn make_streams(&mut self, wishes: Vec<Wish<'_>>) -> Vec<Result<(), Lost>> {
        let make = |wish: Wish<'_>| {
            if self.streams.is_helpless {
                return Err(Lost::Helper);
            }
            if self.streams.missing.contains(&wish.state.local.ip()) {
                return Err(Lost::Address);
            }
            self.begin(wish.id);
            let stream = self.stream(wish.id);
            stream.queue = u32::try_from(wish.state.receive_queue.len()).unwrap();
            stream.is_held = true;
            stream.moved = Some(wish.state.clone());
            Ok(())
        };
        wishes.into_iter().map(make).collect()
    }
}
