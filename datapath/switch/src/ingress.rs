//! What is decided about a frame when it arrives: whether it may come in, in which VLAN it is, and where it goes.
//!
//! Nothing here changes anything: [`Forwarder`](crate::Forwarder) acts upon these decisions, [`trace`](crate::trace) tells
//! of them.

use culvert_frame::{DropReason, EthernetHeader, Offload};

use crate::burst::Frame;
use crate::groups::Delivery;
use crate::limits::Flooded;
use crate::network::{Network, Topology};
use crate::port::{Port, PortId};
use crate::snoop::Snooped;
use crate::vlan::{Membership, Tag};

/// What is kept of a frame that came in, for as long as its burst lasts.
#[derive(Clone, Copy, Debug)]
pub struct Ingress {
    /// Its VLAN and tag.
    pub membership: Membership,
    /// What its sender left to be done.
    pub offload: Offload,
}

impl Default for Ingress {
    fn default() -> Self {
        Self { membership: Membership { vlan: 0, tag: Tag::None, has_inner: false }, offload: Offload::None }
    }
}

/// Where a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way<'t> {
    /// To the port behind which its destination was learned.
    Port(PortId),
    /// To all ports of its VLAN.
    Flood,
    /// To those of these ports that are in its VLAN: they listen to its group.
    Group(&'t [PortId]),
}

/// A frame's way, and the limit that it counts against.
#[derive(Clone, Copy, Debug)]
pub struct Route<'t> {
    /// Where it goes.
    pub way: Way<'t>,
    /// Of which limit of its sender's it takes.
    pub limit: Option<Flooded>,
}

/// Whether a frame may come in at `port`, and what it is then.
///
/// # Errors
/// Why it may not.
#[inline]
pub fn admit(port: &Port, frame: &Frame<'_>) -> Result<(EthernetHeader, Ingress), DropReason> {
    admit_head(port, frame.head, frame.offload())
}

/// The same for a frame with these first bytes, to which that is left to be done.
#[inline]
pub(crate) fn admit_head(
    port: &Port,
    head: &[u8],
    offload: Result<Offload, DropReason>,
) -> Result<(EthernetHeader, Ingress), DropReason> {
    if port.is_mirror_target {
        return Err(DropReason::MirrorTarget);
    }
    let header = EthernetHeader::parse(head)?;
    let offload = offload?;
    let membership = port.rules.vlans.ingress(head)?;
    if header.source.is_group() {
        return Err(DropReason::GroupSource);
    }
    if !port.rules.guard.is_open() {
        port.rules.guard.check(head)?;
    }
    Ok((header, Ingress { membership, offload }))
}

/// Where a frame goes that came in at `port`. `snooped` is what it says about groups.
///
/// # Errors
/// Why it goes nowhere.
#[inline]
pub fn route<'t>(
    topology: &Topology,
    network: &'t Network,
    port: &Port,
    header: &EthernetHeader,
    ingress: &Ingress,
    snooped: Option<&Snooped>,
    now: u32,
) -> Result<Route<'t>, DropReason> {
    let vlan = ingress.membership.vlan;
    if header.destination.is_group() {
        if header.destination.is_link_local() {
            return Err(DropReason::LinkLocal);
        }
        let delivery = match (&network.groups, snooped) {
            (None, _) | (_, Some(Snooped::Query(_) | Snooped::Router(_))) => Delivery::FloodAll,
            (Some(groups), Some(Snooped::Report(report))) => groups.reports(vlan, report.family),
            (Some(groups), None) => groups.members(vlan, header.destination),
        };
        let way = match delivery {
            Delivery::FloodAll => Way::Flood,
            Delivery::Ports(ports) => Way::Group(ports),
        };
        return Ok(Route { way, limit: Some(Flooded::Broadcast) });
    }
    if header.destination.to_u64() == header.source.to_u64() {
        return Err(DropReason::SamePort);
    }
    match network.table.lookup(vlan, header.destination, now) {
        Some(at) if at == port.id => Err(DropReason::SamePort),
        // An address is forgotten only after its port has left the plan, or the VLAN.
        Some(at) => match topology.port(at) {
            Some(to) if to.rules.isolated && port.rules.isolated => Err(DropReason::Isolated),
            Some(to) if is_member(to, port, vlan) => Ok(Route { way: Way::Port(at), limit: None }),
            Some(_) | None => Ok(Route { way: Way::Flood, limit: Some(Flooded::Unknown) }),
        },
        None => Ok(Route { way: Way::Flood, limit: Some(Flooded::Unknown) }),
    }
}

/// Calls `with` for every port that gets a frame which came in at `from` and does not go to one port alone.
pub fn each_receiver(
    topology: &Topology,
    network: &Network,
    from: &Port,
    vlan: u16,
    way: Way<'_>,
    mut with: impl FnMut(PortId),
) {
    let mut consider = |id: PortId| {
        let to = topology.port(id).filter(|to| id != from.id && !(from.rules.isolated && to.rules.isolated));
        if to.is_some_and(|to| is_member(to, from, vlan)) {
            with(id);
        }
    };
    match way {
        Way::Port(port) => consider(port),
        Way::Flood => network.members(vlan).for_each(consider),
        Way::Group(ports) => ports.iter().copied().for_each(consider),
    }
}

/// Why a frame that should go to several ports goes to none.
pub const fn no_receiver(way: Way<'_>) -> DropReason {
    match way {
        Way::Group(_) => DropReason::NoGroupMember,
        Way::Port(_) | Way::Flood => DropReason::NoOtherPort,
    }
}

/// Whether `to` takes part in the VLAN of a frame that came in at `from`.
#[inline]
pub(crate) fn is_member(to: &Port, from: &Port, vlan: u16) -> bool {
    to.network == from.network && !to.is_mirror_target && to.rules.vlans.carries(vlan)
}

/// Why a frame is refused that exceeds a limit.
pub const fn limit_reason(limit: Flooded) -> DropReason {
    match limit {
        Flooded::Broadcast => DropReason::BroadcastLimit,
        Flooded::Unknown => DropReason::UnknownLimit,
    }
}

/// Whether what a port says about groups counts. Other isolated ports do not hear an isolated one's question: they would
/// lose their groups for want of an answer.
pub fn is_believed(port: &Port, snooped: &Snooped) -> bool {
    !(port.rules.isolated && matches!(snooped, Snooped::Query(_)))
}
