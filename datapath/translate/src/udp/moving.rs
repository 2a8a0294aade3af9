//! Flows of datagrams that move to another machine with their guest. What waits in their sockets does not: datagrams may be
//! lost.

use std::net::{IpAddr, SocketAddr};

use super::{UdpFlows, unspecified};
use crate::context::Context;
use crate::failure::Failure;
use crate::flow::FlowEnds;
use crate::flow_table::HasEnds;
use crate::link::GuestLink;
use crate::mapping;
use crate::migration::Damaged;
use crate::migration::fields::{Field, fields};
use crate::migration::lost::Lost;
use crate::multicast::is_group;
use crate::refusal::Refusal;
use crate::sockets::datagram::{DatagramSockets, Marks, UdpWish};

/// A flow that moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpState {
    /// Which one.
    pub ends: FlowEnds,
    /// Which thread had it.
    pub lane: u8,
    /// Where datagrams of the guest's go, on the host's side.
    pub peer: SocketAddr,
    /// The pod's address, where the peer began: it hears nothing that comes from another one.
    pub local: Option<IpAddr>,
    /// The port of the socket.
    pub port: u16,
    /// Who was heard.
    pub heard: (bool, bool),
    /// Of the guest's last datagram.
    pub marks: Marks,
}

fields!(UdpState { ends, lane, peer, local, port, heard, marks });

impl Field for Marks {
    fn write(&self, out: &mut Vec<u8>) {
        (self.hop_limit, self.traffic_class).write(out);
    }

    fn read(from: &mut &[u8]) -> Result<Self, Damaged> {
        let (hop_limit, traffic_class) = Field::read(from)?;
        Ok(Self { hop_limit, traffic_class })
    }
}

impl UdpFlows {
    /// All flows, as thread `lane` has them. They stay as they are.
    pub fn save(&self, lane: u8) -> Vec<UdpState> {
        let state = |flow: &super::Flow| UdpState {
            ends: flow.ends(),
            lane,
            peer: flow.peer,
            local: flow.local,
            port: flow.port,
            heard: (flow.guest_was_heard, flow.peer_was_heard),
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
        state: &UdpState,
    ) -> Result<(), Lost> {
        let UdpState { ends, local, port, heard, marks, .. } = state;
        if self.flows.find(ends).is_some() {
            return Err(Lost::NoRoom);
        }
        if !ctx.settings.services.udp || ctx.settings.is_ours(ends.guest.ip()) {
            return Err(Lost::NotAllowed);
        }
        let is_group = is_group(ctx.settings, state.peer.ip());
        if is_group || local.is_none() {
            let to = ctx.towards_host(ends.peer).map_err(|_| Lost::NotAllowed)?;
            if (to.ip(), to.port()) != (state.peer.ip(), state.peer.port()) {
                return Err(Lost::NotAllowed);
            }
        } else {
            crate::migration::permit(ctx, ends, state.peer)?;
        }
        // With this machine's zone.
        let peer = ctx.towards_host(ends.peer).ok().filter(|to| to.ip() == state.peer.ip()).unwrap_or(state.peer);
        let outbound = mapping::outbound(ctx.settings, peer.ip());
        let wanted = Some(*port).filter(|&port| port != 0 && !self.taken.contains(&(port, peer)));
        let port = wanted.filter(|&port| is_group || ctx.take_port(port, peer)).unwrap_or(0);
        let address = local.or(outbound.address).unwrap_or(unspecified(peer.ip()));
        let wish = UdpWish {
            local: SocketAddr::new(address, port),
            any_port: local.is_none(),
            interface: outbound.interface.filter(|_| local.is_none()),
            peer: (!is_group).then_some(peer),
        };
        let opened = self.open(ctx, ends, peer, *marks, &wish);
        let has_it = opened.as_ref().is_ok_and(|&index| self.flows.get(index).is_some_and(|flow| flow.port == port));
        if port != 0 && !is_group && !has_it {
            ctx.leave_port(port, peer);
        }
        let index = opened.map_err(|failure| reason(&failure))?;
        if let Some(flow) = self.flows.get_mut(index) {
            (flow.guest_was_heard, flow.peer_was_heard) = *heard;
            flow.local = *local;
        }
        self.touch(index, ctx.now);
        Ok(())
    }

    /// The guest has gone elsewhere.
    pub fn forget_all<S: DatagramSockets, L: GuestLink>(&mut self, ctx: &mut Context<'_, S, L>) {
        let all: Vec<u32> = self.flows.iter().map(|(index, _)| index).collect();
        all.into_iter().for_each(|index| self.close(ctx, index));
    }

    /// The number of each flow.
    pub fn indices(&self) -> Vec<u32> {
        self.flows.iter().map(|(index, _)| index).collect()
    }
}

/// Why a flow of datagrams could not be made here.
pub(crate) fn reason(failure: &Failure) -> Lost {
    match failure {
        Failure::Refused(Refusal::TooManyFlows | Refusal::TooFast | Refusal::OtherLane | Refusal::NoDescriptor) => {
            Lost::NoRoom
        }
        Failure::Refused(_) => Lost::NotAllowed,
        Failure::Socket(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Lost::Address,
        Failure::Socket(_) => Lost::Socket,
    }
}
