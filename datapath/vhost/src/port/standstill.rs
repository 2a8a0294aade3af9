//! A port that stands still while another process takes its sockets up: what that process gets of it, and how the port goes on if the
//! other one does not.

use std::io;
use std::os::fd::OwnedFd;

use super::{Link, Loop, Port};
use crate::keep::Kept;
use crate::session::CloseReason;
use crate::socket;

/// What another process needs to go on with all ports, beside the connections that its keeper has already.
#[derive(Debug, Default)]
pub struct Standstill {
    /// The sockets that frontends connect to.
    pub listeners: Vec<HandedListener>,
    /// Connections, by ports: what [`Keeper::keep`](crate::Keeper::keep) is to have.
    pub connections: Vec<(String, Vec<OwnedFd>)>,
    /// Ports whose frontend has to connect again, and why.
    pub lost: Vec<(String, String)>,
}

/// A socket that frontends connect to.
#[derive(Debug)]
pub struct HandedListener {
    /// The name of its port.
    pub port: String,
    /// A copy of it.
    pub socket: OwnedFd,
    /// Device and inode of its name.
    pub identity: (u64, u64),
}

impl Port {
    /// Whether nothing is under way between this port and its frontend.
    pub fn is_still(&self) -> bool {
        match &self.link {
            Link::Idle => true,
            Link::Open(open) => {
                let waits = open.parked || !open.output.is_empty() || open.replay.is_some();
                !waits
                    && !open.session.is_inside_message()
                    && !self.keeping.is_asked()
                    && !socket::is_readable(&open.stream)
            }
            Link::Ending | Link::Closing(_) | Link::Stuck(..) => false,
        }
    }

    /// Adds what another process needs of this port.
    pub fn hand_over(&mut self, into: &mut Standstill) {
        let port = &self.config.name;
        match self.listener.as_ref().map(crate::listen::Listener::copy) {
            None => {}
            Some(Ok((socket, identity))) => {
                into.listeners.push(HandedListener { port: port.clone(), socket, identity })
            }
            Some(Err(error)) => into.lost.push((port.clone(), error.to_string())),
        }
        let Link::Open(open) = &self.link else { return };
        if self.keeping.is_kept() {
            return;
        }
        let transcript = if self.is_still() { open.session.transcript() } else { Ok(None) };
        let kept = transcript.and_then(|transcript| {
            let transcript = transcript
                .ok_or_else(|| io::Error::other("its dialogue was not at rest, or none of its rings runs"))?;
            Kept::prepare(&self.config, &open.stream, transcript, &self.aside)
        });
        match kept {
            Ok((kept, descriptors)) => {
                self.keeping.begin(Some(kept));
                into.connections.push((self.config.name.clone(), descriptors));
            }
            Err(error) => into.lost.push((self.config.name.clone(), error.to_string())),
        }
    }

    /// The other process has not gone on: this one does.
    pub fn go_on(&mut self, in_loop: &Loop) {
        if self.keeping.is_void() {
            let answered = io::Error::other("another culvertd has read from it meanwhile");
            self.close(in_loop, CloseReason::Socket(answered));
        }
    }
}
