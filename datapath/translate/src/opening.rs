//! How a flow of datagrams gets its socket, where necessary in place of the one that was used longest ago.
//!
//! There may be too many flows of its kind, of all kinds, or descriptors. What flows are, and which one makes room, is
//! for [`crate::udp`] and [`crate::icmp`], which call this; the connections of TCP make no room for others.

use std::io;

use crate::context::Context;
use crate::failure::{Failure, is_out_of_descriptors};
use crate::limits::Share;
use crate::link::GuestLink;
use crate::refusal::Refusal;
use crate::sockets::datagram::DatagramSockets;

/// Flows of one kind.
pub(crate) trait Flows {
    /// What they are paid from.
    const SHARE: Share;

    /// Whether there are as many as there may be of this kind.
    fn is_full(&self) -> bool;

    /// The index of the next one.
    fn next_index(&self) -> u32;

    /// Ends the one that is to make room for another. Whether there was one.
    fn make_room<S: DatagramSockets, L: GuestLink>(&mut self, ctx: &mut Context<'_, S, L>) -> bool;

    /// Opens a socket by `open` for the next flow, which is paid from the limits then. Returns the flow's index, and
    /// what `open` returned.
    ///
    /// # Errors
    /// Too many flows, too fast, or what `open` said.
    fn open_socket<S: DatagramSockets, L: GuestLink, T>(
        &mut self,
        ctx: &mut Context<'_, S, L>,
        mut open: impl FnMut(&mut S, u32) -> io::Result<T>,
    ) -> Result<(u32, T), Failure> {
        if self.is_full() {
            self.make_room(ctx);
        }
        match ctx.limits.open(ctx.now, Self::SHARE) {
            Err(Refusal::TooManyFlows) if self.make_room(ctx) => ctx.limits.open(ctx.now, Self::SHARE)?,
            result => result?,
        }
        let mut index = self.next_index();
        let mut opened = open(ctx.sockets, index);
        if opened.as_ref().is_err_and(is_out_of_descriptors) && self.make_room(ctx) {
            index = self.next_index();
            opened = open(ctx.sockets, index);
        }
        let opened = opened.inspect_err(|_| ctx.limits.close(Self::SHARE))?;
        Ok((index, opened))
    }
}
