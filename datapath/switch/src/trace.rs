//! What the switch would do with a frame, step by step and with reasons, without doing it (`culvertctl trace`).
//!
//! The decisions are those of [`ingress`] and [`egress`], which forwarding takes as well; only what forwarding changes is
//! left out: addresses are not learned, limits and rates not used up, groups not joined.

use std::time::Duration;

use culvert_frame::{DropReason, EthernetHeader, Offload, Offloads, SegmentKind};

use crate::burst::{Frame, LocalFrame};
use crate::egress::{self, Treatment, Work, Workspace};
use crate::forward::snooped;
use crate::ingress::{self, Ingress, Route, Way};
use crate::limits::Flooded;
use crate::network::{Network, Topology};
use crate::port::{Egress, Port, PortId};
use crate::vlan::{Membership, TRANSPARENT, Tag, TagEdit, Vlans};

/// A frame's way through the switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// What is done with it and why, in order.
    pub steps: Vec<Step>,
    /// Why it goes nowhere, if so.
    pub refused: Option<DropReason>,
    /// What becomes of it at each port that it is sent to, in the order of their numbers.
    pub fates: Vec<Fate>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What happens.
    pub what: String,
    /// Why.
    pub why: String,
}

/// What becomes of a frame at one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fate {
    /// The port.
    pub port: PortId,
    /// Whether it is sent there as a mirror's copy.
    pub is_copy: bool,
    /// How it leaves, or why it does not. A full queue or ring, or a burst of
    /// which many segments were made already, which no trace can know, still refuses it.
    pub treatment: Result<Treatment, DropReason>,
}

/// Traces a frame that would arrive at `from` now; `name` gives names to ports. `None` when there is no such port.
pub fn trace(
    topology: &Topology,
    from: PortId,
    frame: LocalFrame<'_>,
    now: Duration,
    name: &dyn Fn(PortId) -> String,
) -> Option<Trace> {
    let port = topology.port(from)?;
    let network = topology.network(port.network)?;
    let mut tracer =
        Tracer { topology, network, port, name, trace: Trace { steps: vec![], refused: None, fates: vec![] } };
    if let Err(reason) = tracer.follow(frame, now) {
        tracer.trace.refused = Some(reason);
        tracer.step(format!("refused: {reason}"), reason.remedy());
    }
    Some(tracer.trace)
}

struct Tracer<'a> {
    topology: &'a Topology,
    network: &'a Network,
    port: &'a Port,
    name: &'a dyn Fn(PortId) -> String,
    trace: Trace,
}

impl Tracer<'_> {
    fn step(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.trace.steps.push(Step { what: what.into(), why: why.into() });
    }

    fn follow(&mut self, frame: LocalFrame<'_>, now: Duration) -> Result<(), DropReason> {
        let frame = Frame::local(frame)?;
        let name = (self.name)(self.port.id);
        self.step(format!("arrives at {name}, {} bytes", frame.length), "");
        self.tell_rate(now)?;
        let (header, ingress) = ingress::admit(self.port, &frame)?;
        self.tell_admission(&header, &ingress);
        let mut ways = Vec::new();
        let result = self.find_way(&frame, &header, &ingress, now, &mut ways);
        let mut copies = Vec::new();
        self.mirror(&ways, &mut copies);
        for (ports, is_copy) in [(&mut ways, false), (&mut copies, true)] {
            ports.sort_unstable();
            ports.dedup();
            for id in ports {
                self.leave(*id, is_copy, &frame, &ingress, now);
            }
        }
        result
    }

    /// Whether a frame may come in by the port's rate now. A guest's frame would wait in its ring.
    fn tell_rate(&mut self, now: Duration) -> Result<(), DropReason> {
        let port = self.port;
        if port.rules.rates.rx.is_none() {
            return Ok(());
        }
        let why = "`rx_rate` or `rx_frame_rate`";
        match (port.meter.rx.room(now).is_empty(), port.is_guest) {
            (false, _) => self.step("is within the port's rate", why),
            (true, false) => return Err(DropReason::RxRate),
            (true, true) => self.step("waits in the guest's ring until the port's rate lets it pass", why),
        }
        Ok(())
    }

    fn tell_admission(&mut self, header: &EthernetHeader, ingress: &Ingress) {
        let (what, why) = describe_membership(&self.port.rules.vlans, ingress.membership);
        self.step(what, why);
        let guard = &self.port.rules.guard;
        if !guard.is_open() {
            let what = if guard.addresses.is_empty() { "its source is" } else { "its source and addresses are" };
            self.step(format!("{what} allowed"), "`mac` and `addresses` of the port");
        }
        if let Some(left) = describe_offload(ingress.offload) {
            self.step(left, "the sender's virtio-net header asks for it");
        }
        self.step(format!("{} would be learned here", header.source), "source addresses are, up to `mac_limit`");
    }

    fn find_way(
        &mut self,
        frame: &Frame<'_>,
        header: &EthernetHeader,
        ingress: &Ingress,
        now: Duration,
        ports: &mut Vec<PortId>,
    ) -> Result<(), DropReason> {
        let mut workspace = Workspace::default();
        let message = self.network.groups.as_ref().and_then(|_| snooped(frame, &mut workspace));
        let (topology, network, port) = (self.topology, self.network, self.port);
        let seconds = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
        let route = ingress::route(topology, network, port, header, ingress, message.as_ref(), seconds)?;
        self.tell_route(header, &route);
        if let Some(limit) = route.limit
            && !port.rules.limits.is_none()
        {
            if !port.limiter.would_take(limit, now) {
                return Err(ingress::limit_reason(limit));
            }
            self.step("is within the port's limit", "`broadcast_limit` or `unknown_limit`");
        }
        if let Way::Port(to) = route.way {
            ports.push(to);
            return Ok(());
        }
        ingress::each_receiver(topology, network, port, ingress.membership.vlan, route.way, |to| ports.push(to));
        if ports.is_empty() { Err(ingress::no_receiver(route.way)) } else { Ok(()) }
    }

    fn tell_route(&mut self, header: &EthernetHeader, route: &Route<'_>) {
        let destination = header.destination;
        let (what, why) = match (route.way, route.limit) {
            (Way::Port(port), _) => {
                (format!("goes to {}", (self.name)(port)), format!("{destination} was learned there"))
            }
            (Way::Group(_), _) => (
                "goes to listeners and routers".to_owned(),
                format!("the network is `snooping`, and {destination} is a multicast group"),
            ),
            (Way::Flood, Some(Flooded::Unknown)) => {
                ("goes to all ports of its VLAN".to_owned(), format!("{destination} is not known"))
            }
            (Way::Flood, _) => ("goes to all ports of its VLAN".to_owned(), format!("{destination} is for all")),
        };
        self.step(what, why);
    }

    /// The ports that get copies.
    fn mirror(&mut self, ways: &[PortId], copies: &mut Vec<PortId>) {
        let rx = self.port.mirrors.iter().filter(|mirror| mirror.rx);
        let leaving = ways.iter().filter_map(|&id| self.topology.port(id));
        let tx = leaving.flat_map(|port| port.mirrors.iter()).filter(|mirror| mirror.tx);
        copies.extend(rx.chain(tx).map(|mirror| mirror.target));
    }

    /// What becomes of the frame at one port.
    fn leave(&mut self, id: PortId, is_copy: bool, frame: &Frame<'_>, ingress: &Ingress, now: Duration) {
        let Some(to) = self.topology.port(id) else { return };
        let treatment = match to.egress {
            Egress::Down => Err(DropReason::PortDown),
            Egress::Quarantined => Err(DropReason::Quarantined),
            _ => egress::treat(to, ingress, frame.length, frame.head).and_then(|treatment| {
                let is_late = !to.rules.rates.tx.is_none() && to.meter.tx.room(now).is_empty();
                if is_late { Err(DropReason::TxRate) } else { Ok(treatment) }
            }),
        };
        self.trace.fates.push(Fate { port: id, is_copy, treatment });
        let name = (self.name)(id);
        match treatment {
            Ok(treatment) => {
                let why = match (is_copy, to.rules.rates.tx.is_none()) {
                    (true, _) => "a mirror",
                    (false, false) => "within `tx_rate` and `tx_frame_rate` of that port",
                    (false, true) => "",
                };
                self.step(format!("leaves at {name}{}", describe_treatment(treatment, frame.length)), why);
            }
            Err(reason) => self.step(format!("is dropped at {name}: {reason}"), reason.remedy()),
        }
    }
}

fn describe_membership(vlans: &Vlans, membership: Membership) -> (String, String) {
    let Membership { vlan, tag, has_inner: _ } = membership;
    if vlan == TRANSPARENT {
        return (
            "is in no VLAN".to_owned(),
            "the port has neither `vlan` nor `trunk`: tags pass as they are".to_owned(),
        );
    }
    let why = match (vlans, tag) {
        (Vlans::Access { qinq: true, .. }, _) => "the port's `vlan`; with `qinq` its tags are carried inside",
        (Vlans::Access { .. }, _) => "the port's `vlan`",
        (Vlans::Trunk { .. } | Vlans::Transparent, Tag::Vlan) => "its tag, which is one of the port's `trunk`",
        (Vlans::Trunk { .. } | Vlans::Transparent, Tag::None | Tag::Priority(_)) => {
            "it has no VLAN's tag, and this is the port's `native`"
        }
    };
    (format!("is in VLAN {vlan}"), why.to_owned())
}

fn describe_offload(offload: Offload) -> Option<String> {
    match offload {
        Offload::None | Offload::Valid => None,
        Offload::Checksum(_) => Some("its checksum is still to be completed".to_owned()),
        Offload::Segment(segmentation) => {
            let of = match segmentation.kind {
                SegmentKind::Tcp4 | SegmentKind::Tcp6 => "TCP segments",
                SegmentKind::Udp4 | SegmentKind::Udp6 => "UDP datagrams",
            };
            Some(format!("it is still to be cut into {of} of {} bytes", segmentation.size))
        }
    }
}

fn describe_treatment(treatment: Treatment, length: u32) -> String {
    let tag = match treatment.edit {
        TagEdit::Keep => String::new(),
        TagEdit::Pop => ", its tag taken off".to_owned(),
        TagEdit::Push(control) => format!(", tagged with VLAN {}", control & 0xfff),
        TagEdit::Rewrite(control) => format!(", its priority tag given VLAN {}", control & 0xfff),
    };
    let work = match treatment.work {
        Work::Pass(offload) if offload.receivable(Offloads::NONE) => String::new(),
        Work::Pass(_) => ", with the rest left to the receiver".to_owned(),
        Work::Complete(_) => ", its checksum completed".to_owned(),
        Work::Segment(segmentation) => format!(", cut into {} segments", segmentation.segments(length)),
    };
    tag + &work
}
