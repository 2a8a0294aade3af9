//! The control socket `S.ctl`: one text request, one text reply, each one message of a SOCK_SEQPACKET socket.
//!
//! `culvertctl translator ...` and culvertd speak it; docs/TRANSLATOR.md has the grammar. Who may connect is for the
//! kernel to say (mode 0660). Clients are hostile all the same: there are few at a time, and the one that was silent
//! the longest makes room; each has a budget of requests; requests and replies are short; who does not read its reply
//! is cut off. What requests mean is for [`culvert_translate::request`]. The event loop registers a [`ControlSocket`]
//! and calls [`ControlSocket::ready`].

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use culvert_translate::request::{Controlled, MAX_REQUEST_BYTES, REQUESTS, answer};
use culvert_translate::time::Instant;
use culvert_vhost::listen::BindError;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags};

use crate::side_socket::SideSocket;

/// The socket and its clients.
#[derive(Debug)]
pub struct ControlSocket {
    side: SideSocket,
    clients: [Option<Client>; MAX_CLIENTS],
}

#[derive(Debug)]
struct Client {
    socket: OwnedFd,
    last_request: Instant,
    /// Requests that it may still make at once, and when that was counted.
    budget: u32,
    counted: Instant,
}

impl ControlSocket {
    /// Creates the socket. One that a dead process left is replaced.
    ///
    /// # Errors
    /// Any [`BindError`].
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        Ok(Self { side: SideSocket::bind(path)?, clients: [const { None }; MAX_CLIENTS] })
    }

    /// See [`SideSocket::leave_name`].
    pub fn leave_name(&mut self) {
        self.side.leave_name();
    }

    /// Has the event loop wait for it: for the socket with `token`, for its clients with those that follow, fewer than
    /// 256.
    ///
    /// # Errors
    /// The kernel's reason.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        self.side.register(registry, token)
    }

    /// Serves whoever has something to say after an event with `token`. Never waits.
    pub fn ready(&mut self, token: Token, now: Instant, translator: &mut dyn Controlled) {
        let Some((registry, first)) = &self.side.token else { return };
        if token == *first {
            accept(&self.side.socket, &mut self.clients, registry, *first, now);
            return;
        }
        let Some(slot) = token.0.checked_sub(first.0 + 1).and_then(|at| self.clients.get_mut(at)) else { return };
        if let Some(client) = slot
            && !client.serve(now, translator)
        {
            // Closing takes it out of epoll.
            *slot = None;
        }
    }
}

fn accept(socket: &OwnedFd, clients: &mut [Option<Client>], registry: &Registry, first: Token, now: Instant) {
    for _ in 0..MAX_ACCEPTS {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let client = match rustix::net::accept_with(socket, flags) {
            Ok(client) => client,
            Err(Errno::INTR | Errno::CONNABORTED) => continue,
            Err(Errno::AGAIN) => return,
            Err(error) => {
                tracing::debug!(%error, "a client of the control socket cannot be accepted");
                return;
            }
        };
        let silent = |(_, slot): &(usize, &mut Option<Client>)| slot.as_ref().map(|client| client.last_request);
        let Some((at, slot)) = clients.iter_mut().enumerate().min_by_key(silent) else { return };
        let token = Token(first.0 + 1 + at);
        // The old one is closed first: its descriptor must not be taken out of epoll later.
        *slot = None;
        match registry.register(&mut SourceFd(&client.as_raw_fd()), token, Interest::READABLE) {
            Ok(()) => *slot = Some(Client { socket: client, last_request: now, budget: MAX_REQUESTS, counted: now }),
            Err(error) => tracing::debug!(%error, "a client of the control socket cannot be served"),
        }
    }
    // Others have their turn; then there is an event again.
    if let Err(error) = registry.reregister(&mut SourceFd(&socket.as_raw_fd()), first, Interest::READABLE) {
        tracing::debug!(%error, "clients of the control socket have to wait for the next one");
    }
}

impl Client {
    /// Answers what it asked. False: it is to be cut off.
    fn serve(&mut self, now: Instant, translator: &mut dyn Controlled) -> bool {
        let mut request = vec![0; MAX_REQUEST_BYTES];
        loop {
            let length = match rustix::net::recv(&self.socket, &mut request, RecvFlags::TRUNC | RecvFlags::DONTWAIT) {
                // Also an empty message, which cannot be told from the end.
                Ok((_, 0)) => return false,
                Ok((_, length)) => length,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return true,
                Err(_) => return false,
            };
            let may_ask = self.may_ask(now);
            let reply = if !may_ask {
                format!("error: ask at most {MAX_REQUESTS} times a second\n")
            } else if let Some(request) = request.get(..length) {
                match str::from_utf8(request) {
                    Ok(request) => answer(request, translator),
                    Err(_) => format!("error: {REQUESTS}\n"),
                }
            } else {
                format!("error: a request has at most {MAX_REQUEST_BYTES} bytes\n")
            };
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            if rustix::net::send(&self.socket, reply.as_bytes(), flags).is_err() || !may_ask {
                return false;
            }
        }
    }

    fn may_ask(&mut self, now: Instant) -> bool {
        self.last_request = now;
        if now.saturating_duration_since(self.counted) >= Duration::from_secs(1) {
            (self.budget, self.counted) = (MAX_REQUESTS, now);
        }
        let may = self.budget > 0;
        self.budget = self.budget.saturating_sub(1);
        may
    }
}

/// Clients at one time.
const MAX_CLIENTS: usize = 8;
/// Clients that are accepted before others have their turn.
const MAX_ACCEPTS: usize = 16;
/// Requests of one client in a second.
const MAX_REQUESTS: u32 = 50;
#[cfg(test)]
mod tests;
