//! Echo flows that move to another machine with their guest. Replies that are on their way are lost.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{EchoFlows, Flow, Key};
use crate::context::Context;
use crate::link::GuestLink;
use crate::migration::fields::fields;
use crate::migration::lost::Lost;
use crate::opening::Flows;
use crate::sockets::datagram::{DatagramSockets, Marks};

/// A flow that moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EchoState {
    /// The guest's address.
    pub guest: IpAddr,
    /// The guest's identifier.
    pub identifier: u16,
    /// Whether it leads to the host itself.
    pub is_local: bool,
    /// The identifier that the world sees.
    pub outside: u16,
    /// Of the guest's last request.
    pub marks: Marks,
}

fields!(EchoState { guest, identifier, is_local, outside, marks });

impl EchoFlows {
    /// All flows. They stay as they are.
    pub fn save(&self) -> Vec<EchoState> {
        let state = |flow: &Flow| EchoState {
            guest: flow.key.guest,
            identifier: flow.key.identifier,
            is_local: flow.key.is_local,
            outside: flow.identifier,
            marks: flow.marks,
        };
        self.flows.iter().map(|(_, flow)| state(flow)).collect()
    }

    /// A flow of a guest that comes here.
    ///
    /// # Errors
    /// Why it is lost.
    pub fn load<S: DatagramSockets, L: GuestLink>(
        &mut self,
        ctx: &mut Context<'_, S, L>,
        state: &EchoState,
    ) -> Result<(), Lost> {
        let EchoState { guest, identifier, is_local, outside, marks } = *state;
        let key = Key { guest, identifier, is_local };
        let there = if guest.is_ipv4() { ctx.settings.v4.is_some() } else { ctx.settings.v6.is_some() };
        if !there || !ctx.settings.services.icmp || guest.is_unspecified() || ctx.settings.is_ours(guest) {
            return Err(Lost::NotAllowed);
        }
        if self.by_key.contains_key(&key) || self.is_full() {
            return Err(Lost::NoRoom);
        }
        // How its socket is bound depends on that alone.
        let to: IpAddr = match (guest.is_ipv4(), is_local) {
            (true, true) => Ipv4Addr::LOCALHOST.into(),
            (true, false) => Ipv4Addr::UNSPECIFIED.into(),
            (false, true) => Ipv6Addr::LOCALHOST.into(),
            (false, false) => Ipv6Addr::UNSPECIFIED.into(),
        };
        self.open_as(ctx, &key, to, marks, outside).map_err(|failure| crate::udp::reason(&failure))?;
        Ok(())
    }

    /// The guest has gone elsewhere.
    pub fn forget_all<S: DatagramSockets, L: GuestLink>(&mut self, ctx: &mut Context<'_, S, L>) {
        while self.make_room(ctx) {}
    }

    /// The number of each flow.
    pub fn indices(&self) -> Vec<u32> {
        self.flows.iter().filter_map(|(index, _)| u32::try_from(index).ok()).collect()
    }
}
