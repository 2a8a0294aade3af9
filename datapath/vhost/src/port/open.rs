//! A connection with its session: bytes are read into the one and replies sent from it, never more at a time than the session wants.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Instant;

use mio::net::UnixStream;

use super::keeping::Keeping;
use super::{Loop, PortSocket};
use crate::backend::Peer;
use crate::message::MAX_BODY_BYTES;
use crate::session::{CloseReason, Outcome, Session};
use crate::socket::{self, Received};
use crate::transcript::Replay;

/// A frontend that is connected.
#[derive(Debug)]
pub struct Open {
    pub stream: UnixStream,
    pub peer: Peer,
    pub session: Session,
    /// Bytes of a reply that did not fit into the socket yet. Nothing is read meanwhile.
    pub output: Vec<u8>,
    /// Whether the helper works for the session.
    pub parked: bool,
    /// Not to be read before, because it sends too much.
    pub slowed: Option<Instant>,
    /// To be closed for this reason when the helper is done.
    pub condemned: Option<CloseReason>,
    /// What an earlier process has kept is read first.
    pub replay: Option<Replay>,
    /// People know that packed rings will not outlive the process.
    pub told_unkept: bool,
}

impl Open {
    /// Sends what is to be sent, then reads and handles at most one piece of a message. None: nothing can be done now.
    pub fn step(
        &mut self,
        port: &PortSocket,
        keeping: &mut Keeping,
        in_loop: &Loop,
    ) -> Result<Option<Outcome>, CloseReason> {
        if !self.flush().map_err(CloseReason::Socket)? {
            return Ok(None);
        }
        let wanted = self.session.wanted();
        let mut buffer = [0; MAX_BODY_BYTES];
        let Some(buffer) = buffer.get_mut(..wanted).filter(|buffer| !buffer.is_empty()) else { return Ok(None) };
        if let Some(replay) = &mut self.replay {
            if !replay.is_over() {
                let (bytes, descriptors) = replay.next(wanted, self.session.is_inside_message())?;
                return Ok(Some(self.session.receive(&bytes, descriptors, in_loop.now)));
            }
            self.replay = None;
            in_loop.taking_up.fetch_sub(1, Ordering::Relaxed);
        }
        if keeping.is_kept() && !socket::is_readable(&self.stream) {
            return Ok(None);
        }
        // From here on a later process could not know what was said.
        keeping.end(&port.name, in_loop);
        match socket::receive(&self.stream, buffer).map_err(CloseReason::Socket)? {
            Received::Nothing => Ok(None),
            Received::End if self.session.is_inside_message() => Err(CloseReason::HungUpInside),
            Received::End => Err(CloseReason::HungUp),
            Received::LostDescriptors(descriptors) => {
                self.session.leave(descriptors);
                Err(CloseReason::LostDescriptors)
            }
            Received::Bytes(count, descriptors) => {
                keeping.wait(in_loop);
                let bytes = buffer.get(..count).unwrap_or_default();
                Ok(Some(self.session.receive(bytes, descriptors, in_loop.now)))
            }
        }
    }

    /// Whether all output was sent.
    pub fn flush(&mut self) -> io::Result<bool> {
        while !self.output.is_empty() {
            let sent = socket::send(&self.stream, &self.output)?;
            if sent == 0 {
                return Ok(false);
            }
            self.output.drain(..sent);
        }
        Ok(true)
    }
}
