//! A learning bridge, as plain as can be, and the proof that the switch does as it does: for random networks, rules and
//! frames both deliver the same frames to the same ports in the same order, and the ledgers balance.
//!
//! The model says of a frame whose checksum or segmentation was left to us only that its payload must arrive, in frames
//! that the receiver can use; how it is cut is the matter of `culvert-frame`'s own tests.

use std::collections::{BTreeSet, HashMap};

use culvert_frame::{DropReason, MacAddress, Offloads};
use culvert_guest::NetHeader;
use culvert_guest::net_header::DATA_VALID;
use proptest::prelude::*;
use proptest::sample::select;

use super::packet::{ACK, CWR, Layout, Packet, Stream};
use super::{Bridge, PORT, PortSpec, VlanSpec, Way, at, frame, is_mirror_target};
use crate::port::{MirrorTo, PortId};

/// What became of the frames of a burst: what each port was given, in order, and the reasons of those refused.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Fate {
    /// As they arrived, but for their tags.
    pub(super) left: Vec<Vec<Packet>>,
    pub(super) drops: HashMap<(u16, DropReason), u64>,
}

#[derive(Clone, Copy)]
struct Station {
    port: u16,
    seen: u32,
}

/// A frame's VLAN and tag, read by the plain book.
#[derive(Clone, Copy)]
struct Tagging {
    vlan: u16,
    /// The outer tag that is the switch's matter.
    tag: Option<u16>,
}

/// The model.
pub(super) struct Model {
    ports: Vec<PortSpec>,
    age_seconds: u32,
    stations: HashMap<(u16, u16, MacAddress), Station>,
}

impl Model {
    pub(super) fn new(ports: &[PortSpec], age_seconds: u32) -> Self {
        Self { ports: ports.to_vec(), age_seconds, stations: HashMap::new() }
    }

    pub(super) fn forward(&mut self, from: u16, packets: &[Packet], now: u32) -> Fate {
        let mut fate = Fate { left: vec![Vec::new(); self.ports.len()], drops: HashMap::new() };
        for packet in packets {
            let refused = |reason, fate: &mut Fate| *fate.drops.entry((from, reason)).or_default() += 1;
            let tagging = match self.admit(from, packet) {
                Ok(tagging) => tagging,
                Err(reason) => {
                    refused(reason, &mut fate);
                    continue;
                }
            };
            let receivers = self.receivers(from, &packet.frame, tagging.vlan, now);
            let mut copies = BTreeSet::new();
            copies.extend(self.ports[usize::from(from)].mirrors().filter(|it| it.rx).map(|it| it.target.0));
            match receivers {
                Err(reason) => refused(reason, &mut fate),
                Ok(receivers) => {
                    for port in receivers {
                        let spec = self.ports[usize::from(port)];
                        copies.extend(spec.mirrors().filter(|it| it.tx).map(|it| it.target.0));
                        let edited = Packet { frame: retagged(&packet.frame, tagging, spec.vlans), ..packet.clone() };
                        self.deliver(port, packet, moved(edited, packet), &mut fate);
                    }
                }
            }
            for port in copies {
                self.deliver(port, packet, packet.clone(), &mut fate);
            }
        }
        fate
    }

    /// Forgets stations that were not seen for too long.
    pub(super) fn sweep(&mut self, now: u32) {
        let age = self.age_seconds;
        self.stations.retain(|_, station| now - station.seen <= age);
    }

    /// Whether a frame may come in.
    fn admit(&self, from: u16, packet: &Packet) -> Result<Tagging, DropReason> {
        let (port, frame) = (&self.ports[usize::from(from)], &packet.frame);
        if is_mirror_target(&self.ports, from) {
            return Err(DropReason::MirrorTarget);
        }
        if frame.len() < 14 {
            return Err(DropReason::Runt);
        }
        if !port.asks.contains(packet.asks()) {
            return Err(DropReason::OffloadNotNegotiated);
        }
        let tagging = tagging(frame, port.vlans)?;
        if frame[6] & 1 == 1 {
            return Err(DropReason::GroupSource);
        }
        if port.mac.is_some_and(|bound| bound.0 != frame[6..12]) {
            return Err(DropReason::SpoofedSource);
        }
        Ok(tagging)
    }

    /// The ports that are to have a frame, mirrors' targets apart.
    fn receivers(&mut self, from: u16, frame: &[u8], vlan: u16, now: u32) -> Result<Vec<u16>, DropReason> {
        let port = self.ports[usize::from(from)];
        let destination = MacAddress(frame[..6].try_into().unwrap());
        let source = MacAddress(frame[6..12].try_into().unwrap());
        self.learn((port.network, vlan, source), from, now);
        if destination.0[..5] == [0x01, 0x80, 0xc2, 0, 0] && destination.0[5] < 16 {
            return Err(DropReason::LinkLocal);
        }
        let is_group = destination.0[0] & 1 == 1;
        if destination == source {
            return Err(DropReason::SamePort);
        }
        let known = self.stations.get(&(port.network, vlan, destination));
        if let Some(station) = known.filter(|it| now - it.seen <= self.age_seconds)
            && !is_group
        {
            if station.port == from {
                return Err(DropReason::SamePort);
            }
            let isolated = port.isolated && self.ports[usize::from(station.port)].isolated;
            return if isolated { Err(DropReason::Isolated) } else { Ok(vec![station.port]) };
        }
        // Of limits it knows only those that let nothing pass.
        if is_group && port.broadcast_limit == Some(0) {
            return Err(DropReason::BroadcastLimit);
        }
        if !is_group && port.unknown_limit == Some(0) {
            return Err(DropReason::UnknownLimit);
        }
        let others: Vec<_> = (0..)
            .zip(&self.ports)
            .filter(|&(number, other)| {
                number != from
                    && other.network == port.network
                    && carries(other.vlans, vlan)
                    && !(other.isolated && port.isolated)
                    && !is_mirror_target(&self.ports, number)
            })
            .map(|(number, _)| number)
            .collect();
        if others.is_empty() { Err(DropReason::NoOtherPort) } else { Ok(others) }
    }

    fn deliver(&self, port: u16, arrived: &Packet, leaves: Packet, fate: &mut Fate) {
        match self.refusal(port, arrived) {
            Some(reason) => *fate.drops.entry((port, reason)).or_default() += 1,
            None => fate.left[usize::from(port)].push(leaves),
        }
    }

    /// Why a port does not take a frame.
    fn refusal(&self, port: u16, packet: &Packet) -> Option<DropReason> {
        let port = self.ports[usize::from(port)];
        match port.way {
            Way::Down => Some(DropReason::PortDown),
            Way::Quarantined => Some(DropReason::Quarantined),
            Way::Out if packet.longest() > usize::from(port.mtu) + headers(&packet.frame) => {
                Some(DropReason::ExceedsMtu)
            }
            Way::Out => None,
        }
    }

    /// A full port learns nothing new; a station is forgotten only by [`Self::sweep`], so that even one past its age
    /// counts until then.
    fn learn(&mut self, station: (u16, u16, MacAddress), port: u16, now: u32) {
        let limit = self.ports[usize::from(port)].mac_limit;
        let is_full = self.stations.values().filter(|station| station.port == port).count() >= limit as usize;
        let is_here = self.stations.get(&station).is_some_and(|station| station.port == port);
        if is_here || !is_full {
            self.stations.insert(station, Station { port, seen: now });
        }
    }
}

/// What of a frame does not count towards the MTU: the addresses, up to two VLAN tags, and the EtherType.
pub(super) fn headers(frame: &[u8]) -> usize {
    let tags =
        frame[12..].chunks(4).take(2).take_while(|tag| tag.starts_with(&[0x81, 0]) || tag.starts_with(&[0x88, 0xa8]));
    14 + 4 * tags.count()
}

/// In which VLAN a frame is that comes in at a port.
fn tagging(frame: &[u8], vlans: VlanSpec) -> Result<Tagging, DropReason> {
    let (own, allowed) = match vlans {
        VlanSpec::Transparent => return Ok(Tagging { vlan: 0, tag: None }),
        VlanSpec::Qinq(vlan) => return Ok(Tagging { vlan, tag: None }),
        VlanSpec::Access(vlan) => (Some(vlan), &[][..]),
        VlanSpec::Trunk(allowed, native) => (native, allowed),
    };
    let refused = DropReason::VlanNotAllowed;
    if !matches!(frame[12..14], [0x81, 0] | [0x88, 0xa8]) {
        return own.map(|vlan| Tagging { vlan, tag: None }).ok_or(refused);
    }
    let Some(tag) = frame.get(14..16) else { return Err(DropReason::Runt) };
    let tag = u16::from_be_bytes([tag[0], tag[1]]);
    match tag % 4096 {
        0 => own.map(|vlan| Tagging { vlan, tag: Some(tag) }).ok_or(refused),
        vlan if allowed.contains(&vlan) => Ok(Tagging { vlan, tag: Some(tag) }),
        _ => Err(refused),
    }
}

fn carries(vlans: VlanSpec, vlan: u16) -> bool {
    match vlans {
        VlanSpec::Transparent => vlan == 0,
        VlanSpec::Access(own) | VlanSpec::Qinq(own) => vlan == own,
        VlanSpec::Trunk(allowed, native) => native == Some(vlan) || allowed.contains(&vlan),
    }
}

/// A frame as it leaves a port.
fn retagged(frame: &[u8], tagging: Tagging, vlans: VlanSpec) -> Vec<u8> {
    let has_tag = match vlans {
        VlanSpec::Transparent => return frame.to_vec(),
        VlanSpec::Access(_) | VlanSpec::Qinq(_) => false,
        // A native frame without a tag, unless it would leave with one of its sender's as if that were ours.
        VlanSpec::Trunk(_, native) => {
            native != Some(tagging.vlan) || headers(frame) > 14 + 4 * usize::from(tagging.tag.is_some())
        }
    };
    let mut frame = frame.to_vec();
    match tagging.tag {
        None if has_tag => drop(frame.splice(12..12, [[0x81, 0], tagging.vlan.to_be_bytes()].concat())),
        Some(tag) if has_tag => {
            frame[14..16].copy_from_slice(&((tag & 0xf000) + tagging.vlan).to_be_bytes());
        }
        Some(tag) if tag % 4096 != 0 => drop(frame.drain(12..16)),
        None | Some(_) => {}
    }
    frame
}

/// The virtio-net header moved as its frame's tags were.
fn moved(mut packet: Packet, before: &Packet) -> Packet {
    if packet.needs_checksum() {
        let start = usize::from(packet.header.csum_start) + packet.frame.len() - before.frame.len();
        packet.header.csum_start = u16::try_from(start).unwrap();
    }
    packet
}

/// Panics unless `left` is what a receiver of `takes` may get for these.
pub(super) fn assert_delivered(expected: &[Packet], left: &[Packet], takes: Offloads, place: &str) {
    let mut left = left.iter();
    for packet in expected {
        if takes.contains(packet.needs()) {
            let left = left.next().unwrap_or_else(|| panic!("{place}: {packet:?} is missing"));
            assert_eq!(*left, told(packet), "{place}");
            left.assert_usable(takes);
            continue;
        }
        let payload = &packet.frame[Layout::of(&packet.frame).unwrap().payload..];
        let mut arrived: Vec<u8> = Vec::new();
        while arrived.len() < payload.len() {
            let part = left.next().unwrap_or_else(|| panic!("{place}: the rest of {packet:?} is missing"));
            let start = Layout::of(&part.frame).unwrap().payload;
            assert!(part.checksum_is_right(), "{place}: {part:?}");
            assert!(
                !part.needs_checksum() && part.is_valid() == takes.contains(Offloads::CHECKSUM),
                "{place}: {part:?}"
            );
            assert!(part.frame.len() <= packet.longest(), "{place}: {part:?}");
            assert_eq!(part.frame[..headers(&packet.frame)], packet.frame[..headers(&packet.frame)], "{place}");
            part.assert_usable(takes);
            arrived.extend(&part.frame[start..]);
        }
        assert_eq!(arrived, payload, "{place}");
    }
    assert_eq!(left.next(), None, "{place}: and no more");
}

/// The packet with the header that its receiver is told when it gets it undone.
fn told(packet: &Packet) -> Packet {
    let mut told = packet.clone();
    if !packet.needs_checksum() {
        // What a guest says of its checksums is not believed.
        told.header = NetHeader::default();
    } else if packet.is_unsegmented() {
        told.header.hdr_len = u16::try_from(Layout::of(&packet.frame).unwrap().payload).unwrap();
    } else {
        (told.header.hdr_len, told.header.gso_type, told.header.gso_size) = (0, 0, 0);
    }
    told
}

/// More addresses than there are.
const NO_LIMIT: u32 = 100;

#[derive(Clone, Debug)]
enum Event {
    Burst { port: u16, packets: Vec<Packet> },
    Pass { seconds: u32 },
    Sweep,
}

/// A port in any of `networks` networks, that may be mirrored to one of `ports` ports.
pub(super) fn any_port(networks: u16, ports: u16) -> impl Strategy<Value = PortSpec> {
    let mtu = prop_oneof![1 => Just(68_u16), 4 => Just(1500), 1 => Just(9000)];
    let way = prop_oneof![8 => Just(Way::Out), 1 => Just(Way::Down), 1 => Just(Way::Quarantined)];
    let mac = prop_oneof![4 => Just(None), 1 => (0..6_u8).prop_map(|station| Some(at(station)))];
    let mac_limit = prop_oneof![4 => Just(NO_LIMIT), 1 => 0..4_u32];
    let limit = || prop_oneof![6 => Just(None), 1 => Just(Some(0))];
    let mirror = (0..ports, any::<(bool, bool)>())
        .prop_map(|(target, (rx, tx))| Some(MirrorTo { target: PortId(target), rx, tx }));
    let mirror = prop_oneof![12 => Just(None), 1 => mirror];
    let some =
        (limit(), limit(), prop::bool::weighted(0.4), mac_limit, any_offloads(true), any_offloads(false), mirror);
    (0..networks, mtu, way, any_vlans(), mac, some).prop_map(
        |(
            network,
            mtu,
            way,
            vlans,
            mac,
            (broadcast_limit, unknown_limit, isolated, mac_limit, asks, takes, mirror),
        )| {
            PortSpec {
                network,
                mtu,
                way,
                vlans,
                mac,
                broadcast_limit,
                unknown_limit,
                isolated,
                mac_limit,
                asks,
                takes,
                mirrors: [mirror, None],
                ..PORT
            }
        },
    )
}

const ALLOWED: &[&[u16]] = &[&[1], &[1, 2], &[2, 4094], &[]];

fn any_vlans() -> impl Strategy<Value = VlanSpec> {
    let native = select(&[None, Some(1), Some(2), Some(4094)][..]);
    let allowed = select(ALLOWED);
    prop_oneof![
        3 => Just(VlanSpec::Transparent),
        2 => (1..3_u16).prop_map(VlanSpec::Access),
        1 => (1..3_u16).prop_map(VlanSpec::Qinq),
        3 => (allowed, native).prop_map(|(allowed, native)| VlanSpec::Trunk(allowed, native)),
    ]
}

/// Consistent ones: all others need checksums.
fn any_offloads(mostly_all: bool) -> impl Strategy<Value = Offloads> {
    let kinds = [Offloads::TSO4, Offloads::TSO6, Offloads::ECN, Offloads::USO4, Offloads::USO6];
    let some = any::<[bool; 5]>().prop_map(move |chosen| {
        let chosen = kinds.into_iter().zip(chosen).filter(|(_, is_chosen)| *is_chosen);
        chosen.fold(Offloads::CHECKSUM, |all, (kind, _)| all | kind)
    });
    let weight = if mostly_all { 8 } else { 1 };
    prop_oneof![1 => Just(Offloads::NONE), weight => Just(Offloads::ALL), 2 => some]
}

/// To one of few stations and groups.
pub(super) fn any_addresses() -> impl Strategy<Value = (MacAddress, MacAddress)> {
    let group = prop_oneof![
        Just(MacAddress::BROADCAST),
        Just(MacAddress([0x01, 0x00, 0x5e, 0, 0, 1])),
        (0..20_u8).prop_map(|last| MacAddress([0x01, 0x80, 0xc2, 0, 0, last])),
    ];
    let station = (0..8_u8).prop_map(at);
    let destination = prop_oneof![6 => station.clone(), 2 => group.clone()];
    let source = prop_oneof![20 => station, 1 => group];
    (destination, source)
}

/// None, or some that few or no ports have.
pub(super) fn any_tags() -> impl Strategy<Value = Vec<[u8; 4]>> {
    let kind = prop_oneof![4 => Just([0x81, 0x00]), 1 => Just([0x88, 0xa8])];
    let control = select(&[1_u16, 2, 2, 2, 2, 2, 2, 0x4002, 0x4002, 0, 0xe000, 0x2001, 3, 4094, 4095][..]);
    let tag = (kind, control).prop_map(|(kind, control)| {
        let [high, low] = control.to_be_bytes();
        [kind[0], kind[1], high, low]
    });
    let count = prop_oneof![5 => Just(0_usize), 4 => Just(1), 1 => 2..4_usize];
    (prop::collection::vec(tag, 3), count).prop_map(|(mut tags, count)| {
        tags.truncate(count);
        tags
    })
}

/// A frame of TCP or UDP, to which something or nothing is left to be done.
pub(super) fn any_stream() -> impl Strategy<Value = Packet> {
    let payload = prop_oneof![3 => 1..300_usize, 2 => 400..900_usize, 1 => 1200..3000_usize];
    let size = prop_oneof![3 => 50..400_u16, 1 => 1000..1500_u16];
    let kind = (any::<(bool, bool)>(), prop::bool::weighted(0.2), 0..3_u8);
    (any_addresses(), any_tags(), kind, payload, size, any::<u8>()).prop_map(
        |((to, from), tags, ((is_ipv6, is_udp), has_cwr, left), payload, size, mark)| {
            let flags = if has_cwr { ACK | CWR } else { ACK };
            // Nobody may ask for anything behind a third tag.
            let tags = &tags[..tags.len().min(2)];
            let stream = Stream { to, from, is_ipv6, is_udp, payload, mark, flags };
            match left {
                0 => {
                    let flags = if mark % 2 == 0 { DATA_VALID } else { 0 };
                    Packet { header: NetHeader { flags, ..NetHeader::default() }, ..stream.whole() }
                }
                1 => stream.partial(),
                _ => stream.unsegmented(size),
            }
            .tagged(tags)
        },
    )
}

pub(super) fn any_packet() -> impl Strategy<Value = Packet> {
    let length = prop_oneof![
        8 => Just(60_usize),
        1 => 0..20_usize,
        1 => select(&[14, 82, 83, 128, 129, 1514, 1515, 9014, 9015][..]),
    ];
    let other = (any_addresses(), any_tags(), length, any::<u8>()).prop_map(|((to, from), tags, length, mark)| {
        let mut packet = Packet::from(frame(to, from, length.max(14), mark)).tagged(&tags);
        if length < 60 {
            packet.frame.truncate(length);
        }
        packet
    });
    prop_oneof![2 => other, 1 => any_stream()]
}

fn any_event(ports: u16) -> impl Strategy<Value = Event> {
    let burst = (0..ports, prop::collection::vec(any_packet(), 1..=32));
    prop_oneof![
        8 => burst.prop_map(|(port, packets)| Event::Burst { port, packets }),
        2 => (0..200_u32).prop_map(|seconds| Event::Pass { seconds }),
        1 => Just(Event::Sweep),
    ]
}

fn any_network() -> impl Strategy<Value = (Vec<PortSpec>, Vec<Event>)> {
    prop::collection::vec(any_port(2, 6), 6).prop_flat_map(|ports| {
        let count = u16::try_from(ports.len()).unwrap();
        (Just(ports), prop::collection::vec(any_event(count), 1..40))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_switch_does_as_a_plain_learning_bridge((ports, events) in any_network()) {
        let mut bridge = Bridge::new(&ports, 300, false);
        let mut model = Model::new(&ports, 300);
        let mut drops: HashMap<(u16, DropReason), u64> = HashMap::new();
        let mut now = 7;
        // A new address may take the slot of one past its age, which then no longer counts: by chance, since the table
        // has secrets. Where counts matter, nothing past its age is left in either.
        let limited = ports.iter().any(|port| port.mac_limit < NO_LIMIT);
        for event in events {
            match event {
                Event::Pass { seconds } => {
                    now += seconds;
                    if limited {
                        bridge.sweep(now);
                        model.sweep(now);
                    }
                }
                Event::Sweep => {
                    bridge.sweep(now);
                    model.sweep(now);
                }
                Event::Burst { port, packets } => {
                    let left = bridge.forward(port, &packets, now);
                    let fate = model.forward(port, &packets, now);
                    for (number, (expected, left)) in fate.left.iter().zip(left).enumerate() {
                        assert_delivered(expected, &left, ports[number].takes, &format!("port {number}"));
                    }
                    for (key, count) in fate.drops {
                        *drops.entry(key).or_default() += count;
                    }
                    prop_assert_eq!(&bridge.drops(), &drops);
                    bridge.assert_balance();
                }
            }
        }
    }
}
