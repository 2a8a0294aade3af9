//! Streams that move to another machine: TCP_REPAIR.
//!
//! A stream that is held drops whatever comes (so that nothing is acknowledged that would not move) and is
//! in repair mode (so that its innards can be read, and closing it is silent). What lay in its receive queue is not put back
//! into the kernel on the other side, which would take no more than a fresh socket's buffer: it is kept in [`Luggage`] and read
//! from there first. The same with what was never sent. What was sent and not acknowledged must be in the kernel: if it does not
//! fit, the stream is lost.
//!
//! The far end's FIN cannot be put into a socket without raw packets: it is noted, and what was before it and its end come from
//! [`Luggage`]. The kernel believes such a connection to be open; it closes as one does that waits for a FIN (`tcp_fin_timeout`).

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::sockopt::set_socket_reuseaddr;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketType, bind, connect, getpeername, getsockname, send, shutdown,
    socket_with,
};

use super::stream::{Stream, canonical};
use super::{FLAGS, KernelSockets, option, reregister};
use crate::migration::lost::Lost;
use crate::sockets::SocketId;
use crate::sockets::moving::{MAX_QUEUE_BYTES, MOST_SOCKETS, MovingStreams, Repair, Repairer, StreamState, Wish};

/// What a stream brought along that the kernel did not take.
#[derive(Debug, Default)]
pub(super) struct Luggage {
    /// What comes before all that the kernel receives.
    pub(super) received: VecDeque<u8>,
    /// The far end's FIN came behind that.
    pub(super) has_ended: bool,
    /// What is to be written before all else.
    pub(super) unwritten: VecDeque<u8>,
    /// Shut down for writing once that is done.
    pub(super) is_shut: bool,
    /// It is held, and so is only now to be told what is to be done when it goes on.
    starts: bool,
}

impl Luggage {
    /// Whether there is nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        self.received.is_empty() && self.unwritten.is_empty() && !self.has_ended && !self.is_shut && !self.starts
    }
}

/// Does it itself, where this process has the right: CAP_NET_ADMIN over the network namespace.
#[derive(Debug)]
pub struct OwnRight;

impl Repairer for OwnRight {
    fn switch(&self, sockets: &[BorrowedFd<'_>], mode: Repair) -> io::Result<()> {
        sockets.iter().try_for_each(|&socket| option::set_repair(socket, mode == Repair::On))
    }
}

impl KernelSockets {
    /// Streams that move are switched to repair mode by `repairer`.
    pub fn set_repairer(&mut self, repairer: std::sync::Arc<dyn Repairer>) {
        self.repairer = Some(repairer);
    }

    fn switch(&self, ids: &[SocketId], mode: Repair) -> Result<(), Lost> {
        let sockets: Vec<_> = ids.iter().filter_map(|&id| Some(self.stream(id).ok()?.socket.as_fd())).collect();
        self.switch_all(&sockets, mode)
    }

    fn is_held(&self, id: SocketId) -> bool {
        self.stream(id).is_ok_and(|stream| option::is_in_repair(stream.socket.as_fd()).unwrap_or(false))
    }

    fn switch_all(&self, sockets: &[BorrowedFd<'_>], mode: Repair) -> Result<(), Lost> {
        if sockets.is_empty() {
            return Ok(());
        }
        let repairer = self.repairer.as_ref().ok_or(Lost::Helper)?;
        let failed = |why: &dyn std::fmt::Display| {
            tracing::warn!("sockets cannot be switched to or from repair mode: {why}");
            Lost::Helper
        };
        for batch in sockets.chunks(MOST_SOCKETS) {
            let mut left = batch.to_vec();
            // passt-repair takes no more sockets with a message than with any before, drops the others, and says that all is done: of those
            // that it took we see that they are switched, and it gets the others again.
            while !left.is_empty() {
                repairer.switch(&left, mode).map_err(|error| failed(&error))?;
                let before = left.len();
                left.retain(|&socket| option::is_in_repair(socket).is_ok_and(|is| is != (mode == Repair::On)));
                if left.len() == before {
                    return Err(failed(&"who helps says that they are, and they are not"));
                }
            }
        }
        Ok(())
    }

    /// A socket of a stream that comes: bound, connected, with what was sent, held.
    fn fill(&self, socket: &OwnedFd, state: &StreamState) -> Result<(), Lost> {
        let at = socket.as_fd();
        let sent = state.send_queue.len().saturating_sub(state.unsent as usize);
        let behind = u32::try_from(state.send_queue.len()).map_err(|_| Lost::TooMuch)?;
        let first = state.send_next.wrapping_sub(behind);
        option::set_sequence(at, option::RECEIVE_QUEUE, state.receive_next).map_err(refused)?;
        option::set_sequence(at, option::SEND_QUEUE, first).map_err(refused)?;
        bind(socket, &state.local).map_err(|error| match error {
            rustix::io::Errno::ADDRNOTAVAIL => Lost::Address,
            _ => Lost::Socket,
        })?;
        connect(socket, &state.far).map_err(|error| refused(error.into()))?;
        let (sack, scale) = (state.sack, state.scale);
        option::set_repaired_options(at, state.mss, sack, scale, state.timestamp).map_err(refused)?;
        if sent > 0 {
            let buffer = u32::try_from(sent.saturating_mul(3)).unwrap_or(u32::MAX);
            let has = option::send_buffer(at).unwrap_or(0);
            if has < buffer {
                // Where it stays as it is, perhaps all fits nevertheless.
                let _ = option::widen_send_buffer(at, buffer);
            }
            option::select_queue(at, option::SEND_QUEUE).map_err(refused)?;
            let mut left = state.send_queue.get(..sent).unwrap_or_default();
            while !left.is_empty() {
                let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                let count = send(socket, left, flags).map_err(|error| match error {
                    rustix::io::Errno::AGAIN => Lost::TooMuch,
                    _ => Lost::Socket,
                })?;
                left = left.get(count..).unwrap_or_default();
            }
            option::select_queue(at, option::NO_QUEUE).map_err(refused)?;
        }
        option::set_windows(at, state.windows).map_err(refused)
    }

    /// Goes on: what was held back until now is done.
    fn start(&mut self, id: SocketId) {
        if let Some(luggage) = self.luggage.get_mut(&id) {
            luggage.starts = false;
            self.unpack(id);
        }
        let Ok(stream) = self.stream(id) else { return };
        // The end of repair mode takes that away; a port that leads to the guest could not be listened at again.
        let _ = set_socket_reuseaddr(&stream.socket, true);
        // Not before the kernel has sent a FIN that the far end may know already.
        let _ = option::take_everything(stream.socket.as_fd());
        let _ = reregister(&self.registry, id, &stream.socket);
    }

    /// Writes what a stream has brought along and found no room before.
    pub(super) fn unpack(&mut self, id: SocketId) {
        let SocketId::Tcp(index) = id else { return };
        let Ok(stream) = self.streams.get(index) else { return };
        let Some(luggage) = self.luggage.get_mut(&id).filter(|luggage| !luggage.starts) else { return };
        while !luggage.unwritten.is_empty() {
            let (part, _) = luggage.unwritten.as_slices();
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            let Ok(count @ 1..) = send(&stream.socket, part, flags) else { return };
            luggage.unwritten.drain(..count);
        }
        if std::mem::take(&mut luggage.is_shut) {
            // It fails where the far end has reset the connection: there is nobody to tell.
            let _ = shutdown(&stream.socket, Shutdown::Write);
        }
        if luggage.is_empty() {
            self.luggage.remove(&id);
        }
    }
}

impl Stream {
    /// All of what is in one of the kernel's queues.
    fn read_queue(&self, queue: i32, bytes: usize) -> Result<Vec<u8>, Lost> {
        if bytes > MAX_QUEUE_BYTES {
            return Err(Lost::TooMuch);
        }
        let mut all = vec![0; bytes];
        if bytes == 0 {
            return Ok(all);
        }
        option::select_queue(self.socket.as_fd(), queue).map_err(refused)?;
        let mut read = 0;
        let peeked = loop {
            let room = all.get_mut(read..).unwrap_or_default();
            let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
            match rustix::net::recv(&self.socket, room, flags) {
                Ok((_, count @ 1..)) => {
                    read += count.min(bytes - read);
                    // Only where the kernel keeps an offset does the next look begin behind this one.
                    if read == bytes || queue == option::SEND_QUEUE {
                        break Ok(read);
                    }
                }
                Ok(_) | Err(rustix::io::Errno::AGAIN) => break Ok(read),
                Err(error) => break Err(refused(error.into())),
            }
        };
        option::select_queue(self.socket.as_fd(), option::NO_QUEUE).map_err(refused)?;
        all.truncate(peeked?);
        Ok(all)
    }

    fn state(&mut self, luggage: Option<&Luggage>, has_peek_offset: bool) -> Result<StreamState, Lost> {
        let at = self.socket.as_fd();
        let info = option::connection_info(at).map_err(refused)?;
        let (mut is_shut, mut has_ended) = match info.state {
            ESTABLISHED => (false, false),
            CLOSE_WAIT => (false, true),
            FIN_WAIT1 | FIN_WAIT2 => (true, false),
            LAST_ACK | CLOSING => (true, true),
            _ => return Err(Lost::State),
        };
        let local = getsockname(&self.socket).map_err(|error| refused(error.into()))?;
        let far = getpeername(&self.socket).map_err(|error| refused(error.into()))?.ok_or(Lost::State)?;
        let [local, far] = [Some(local), Some(far)].map(|address| SocketAddr::try_from(address?).ok().map(canonical));
        let (local, far) = (local.ok_or(Lost::State)?, far.ok_or(Lost::State)?);

        let receive_next = option::sequence(at, option::RECEIVE_QUEUE).map_err(refused)?;
        let waiting = option::unread(at).map_err(refused)? as usize;
        if has_peek_offset {
            option::set_peek_offset(at, 0).map_err(refused)?;
        }
        let in_kernel = self.read_queue(option::RECEIVE_QUEUE, waiting);
        if has_peek_offset {
            option::set_peek_offset(at, 0).map_err(refused)?;
        }
        self.peek_at = 0;
        let (in_kernel, at) = (in_kernel?, self.socket.as_fd());
        // A look ends at urgent data; and nothing may have come since the first question.
        if in_kernel.len() != waiting || option::sequence(at, option::RECEIVE_QUEUE).map_err(refused)? != receive_next {
            return Err(Lost::State);
        }

        let write_next = option::sequence(at, option::SEND_QUEUE).map_err(refused)?;
        let unacknowledged = option::unacknowledged(at).map_err(refused)? as usize;
        let unsent = option::unsent(at).map_err(refused)?;
        let mut send_queue = self.read_queue(option::SEND_QUEUE, unacknowledged)?;
        // A FIN has a number as well; it is the last one, and not among the bytes.
        let fin = unacknowledged - send_queue.len();
        if fin > usize::from(is_shut) {
            return Err(Lost::State);
        }
        let mut send_next = if is_shut { write_next.wrapping_sub(1) } else { write_next };
        let mut unsent = unsent.saturating_sub(u32::from(fin == 1)).min(u32::try_from(send_queue.len()).unwrap_or(0));

        let mut receive_queue = Vec::new();
        if let Some(luggage) = luggage {
            receive_queue.extend(&luggage.received);
            send_queue.extend(&luggage.unwritten);
            let more = u32::try_from(luggage.unwritten.len()).map_err(|_| Lost::TooMuch)?;
            (send_next, unsent) = (send_next.wrapping_add(more), unsent.saturating_add(more));
            is_shut |= luggage.is_shut;
            has_ended |= luggage.has_ended;
        }
        receive_queue.extend(in_kernel);
        let at = self.socket.as_fd();
        let state = StreamState {
            local,
            far,
            send_next,
            receive_next,
            unsent,
            mss: option::segment_clamp(at).map_err(refused)?,
            sack: info.sack,
            scale: info.scale,
            timestamp: if info.timestamps { Some(option::timestamp(at).map_err(refused)?) } else { None },
            windows: option::windows(at).map_err(refused)?,
            is_shut,
            has_ended,
            send_queue,
            receive_queue,
        };
        if state.is_whole() { Ok(state) } else { Err(Lost::State) }
    }
}

impl MovingStreams for KernelSockets {
    fn hold(&mut self, ids: &[SocketId]) -> Result<(), Lost> {
        for &id in ids {
            if let Ok(stream) = self.stream(id) {
                // What cannot be stopped can be seen when it is read.
                if let Err(error) = option::drop_everything(stream.socket.as_fd()) {
                    tracing::warn!("what comes for a connection cannot be dropped: {error}");
                }
            }
        }
        self.switch(ids, Repair::On)
    }

    fn read_stream(&mut self, id: SocketId) -> Result<StreamState, Lost> {
        let SocketId::Tcp(index) = id else { return Err(Lost::State) };
        let stream = self.streams.get_mut(index).map_err(|_| Lost::State)?;
        stream.state(self.luggage.get(&id), self.peek_offset)
    }

    fn let_go(&mut self, ids: &[SocketId]) -> Vec<SocketId> {
        for &id in ids {
            if let Ok(stream) = self.stream(id)
                && !self.luggage.get(&id).is_some_and(|luggage| luggage.starts && luggage.is_shut)
            {
                let _ = option::take_everything(stream.socket.as_fd());
            }
        }
        // A helper that failed may have switched some: each one tells itself.
        let held: Vec<_> = ids.iter().copied().filter(|&id| self.is_held(id)).collect();
        let _ = self.switch(&held, Repair::Off);
        let (stuck, free): (Vec<_>, Vec<_>) = ids.iter().partition(|&&id| self.is_held(id));
        free.into_iter().for_each(|id| self.start(id));
        stuck
    }

    fn make_streams(&mut self, mut wishes: Vec<Wish<'_>>) -> Vec<Result<(), Lost>> {
        let opened: Vec<Result<OwnedFd, Lost>> = wishes.iter().map(|wish| open(wish)).collect();
        let sockets: Vec<_> = opened.iter().flatten().map(AsFd::as_fd).collect();
        if let Err(reason) = self.switch_all(&sockets, Repair::On) {
            return wishes.iter().map(|_| Err(reason)).collect();
        }
        let mut results = Vec::with_capacity(opened.len());
        for (wish, socket) in wishes.iter_mut().zip(opened) {
            results.push(socket.and_then(|socket| {
                self.fill(&socket, wish.state)?;
                let state = &mut *wish.state;
                let sent = state.send_queue.len().saturating_sub(state.unsent as usize);
                let luggage = Luggage {
                    received: std::mem::take(&mut state.receive_queue).into(),
                    has_ended: state.has_ended,
                    unwritten: state.send_queue.split_off(sent).into(),
                    is_shut: state.is_shut,
                    starts: true,
                };
                state.send_queue = Vec::new();
                self.keep(wish.id, socket).map_err(|_| Lost::Socket)?;
                self.luggage.insert(wish.id, luggage);
                Ok(())
            }));
        }
        results
    }
}

/// A socket that hears nothing yet.
fn open(wish: &Wish<'_>) -> Result<OwnedFd, Lost> {
    let family = if wish.state.far.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, FLAGS, None).map_err(|error| refused(error.into()))?;
    option::drop_everything(socket.as_fd()).map_err(refused)?;
    if let Some(interface) = wish.interface {
        option::bind_to_device(socket.as_fd(), interface).map_err(refused)?;
    }
    Ok(socket)
}

fn refused(error: io::Error) -> Lost {
    tracing::debug!(%error, "a stream cannot be read or made");
    Lost::Socket
}

/// States of a socket, as TCP_INFO tells them (linux/tcp_states.h).
const ESTABLISHED: u8 = 1;
const FIN_WAIT1: u8 = 4;
const FIN_WAIT2: u8 = 5;
const CLOSE_WAIT: u8 = 8;
const LAST_ACK: u8 = 9;
const CLOSING: u8 = 11;

#[cfg(test)]
mod tests;
