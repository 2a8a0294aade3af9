//! A learning bridge, as plain as can be, and the proof that the switch does as it does: for random networks and frames
//! both deliver the same frames to the same ports in the same order, and the ledgers balance.

use std::collections::HashMap;

use culvert_frame::{DropReason, MacAddress};
use proptest::prelude::*;

use super::{Bridge, PortSpec, Way, at, frame};

/// What became of the frames of a burst: what each port was given, in order, and the reasons of those refused.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Fate {
    pub(super) left: Vec<Vec<Vec<u8>>>,
    pub(super) drops: HashMap<(u16, DropReason), u64>,
}

#[derive(Clone, Copy)]
struct Station {
    port: u16,
    seen: u32,
}

/// The model.
pub(super) struct Model {
    ports: Vec<PortSpec>,
    age_seconds: u32,
    stations: HashMap<(u16, MacAddress), Station>,
}

impl Model {
    pub(super) fn new(ports: &[PortSpec], age_seconds: u32) -> Self {
        Self { ports: ports.to_vec(), age_seconds, stations: HashMap::new() }
    }

    pub(super) fn forward(&mut self, from: u16, frames: &[Vec<u8>], now: u32) -> Fate {
        let mut fate = Fate { left: vec![Vec::new(); self.ports.len()], drops: HashMap::new() };
        for frame in frames {
            match self.targets(from, frame, now) {
                Err(reason) => *fate.drops.entry((from, reason)).or_default() += 1,
                Ok(targets) => {
                    for port in targets {
                        match self.refusal(port, frame) {
                            Some(reason) => *fate.drops.entry((port, reason)).or_default() += 1,
                            None => fate.left[usize::from(port)].push(frame.clone()),
                        }
                    }
                }
            }
        }
        fate
    }

    /// Forgets stations that were not seen for too long.
    pub(super) fn sweep(&mut self, now: u32) {
        let age = self.age_seconds;
        self.stations.retain(|_, station| now - station.seen <= age);
    }

    /// The ports that are to have a frame.
    fn targets(&mut self, from: u16, frame: &[u8], now: u32) -> Result<Vec<u16>, DropReason> {
        let port = self.ports[usize::from(from)];
        if frame.len() < 14 {
            return Err(DropReason::Runt);
        }
        let destination = MacAddress(frame[..6].try_into().unwrap());
        let source = MacAddress(frame[6..12].try_into().unwrap());
        if source.0[0] & 1 == 1 {
            return Err(DropReason::GroupSource);
        }
        if port.source.is_some_and(|bound| bound != source) {
            return Err(DropReason::SpoofedSource);
        }
        self.learn(port.network, source, from, now);
        if destination.0[..5] == [0x01, 0x80, 0xc2, 0, 0] && destination.0[5] < 16 {
            return Err(DropReason::LinkLocal);
        }
        let known = self.stations.get(&(port.network, destination)).filter(|it| now - it.seen <= self.age_seconds);
        match known {
            Some(station) if destination.0[0] & 1 == 0 => {
                if station.port == from {
                    Err(DropReason::SamePort)
                } else {
                    Ok(vec![station.port])
                }
            }
            _ => {
                let others: Vec<_> = (0..)
                    .zip(&self.ports)
                    .filter(|&(number, other)| number != from && other.network == port.network)
                    .map(|(number, _)| number)
                    .collect();
                if others.is_empty() { Err(DropReason::NoOtherPort) } else { Ok(others) }
            }
        }
    }

    /// Why a port does not take a frame.
    fn refusal(&self, port: u16, frame: &[u8]) -> Option<DropReason> {
        let port = self.ports[usize::from(port)];
        match port.way {
            Way::Down => Some(DropReason::PortDown),
            Way::Quarantined => Some(DropReason::Quarantined),
            Way::Out if payload(frame) > usize::from(port.mtu) => Some(DropReason::ExceedsMtu),
            Way::Out => None,
        }
    }

    /// A full port learns nothing new; a station is forgotten only by [`Self::sweep`], so that even one past its age
    /// counts until then.
    fn learn(&mut self, network: u16, address: MacAddress, port: u16, now: u32) {
        let full = |stations: &HashMap<_, Station>, port: u16| {
            let limit = self.ports[usize::from(port)].mac_limit;
            stations.values().filter(|station| station.port == port).count() >= limit as usize
        };
        let here = self.stations.get(&(network, address)).is_some_and(|station| station.port == port);
        if here || !full(&self.stations, port) {
            self.stations.insert((network, address), Station { port, seen: now });
        }
    }
}

/// What of a frame counts towards the MTU: all behind the addresses, up to two VLAN tags, and the EtherType.
fn payload(frame: &[u8]) -> usize {
    let tags =
        frame[12..].chunks(4).take(2).take_while(|tag| tag.starts_with(&[0x81, 0]) || tag.starts_with(&[0x88, 0xa8]));
    frame.len() - 14 - 4 * tags.count()
}

/// More addresses than there are.
const NO_LIMIT: u32 = 100;

#[derive(Clone, Debug)]
enum Event {
    Burst { port: u16, frames: Vec<Vec<u8>> },
    Pass { seconds: u32 },
    Sweep,
}

fn any_port() -> impl Strategy<Value = PortSpec> {
    let mtu = prop_oneof![Just(68_u16), Just(1500), Just(9000)];
    let way = prop_oneof![8 => Just(Way::Out), 1 => Just(Way::Down), 1 => Just(Way::Quarantined)];
    let source = prop_oneof![4 => Just(None), 1 => (0..6_u8).prop_map(|station| Some(at(station)))];
    let mac_limit = prop_oneof![4 => Just(NO_LIMIT), 1 => 0..4_u32];
    (0..2_u16, mtu, way, source, mac_limit).prop_map(|(network, mtu, way, source, mac_limit)| PortSpec {
        network,
        mtu,
        way,
        source,
        mac_limit,
    })
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let group = prop_oneof![
        Just(MacAddress::BROADCAST),
        Just(MacAddress([0x01, 0x00, 0x5e, 0, 0, 1])),
        (0..20_u8).prop_map(|last| MacAddress([0x01, 0x80, 0xc2, 0, 0, last])),
    ];
    let station = (0..8_u8).prop_map(at);
    let destination = prop_oneof![6 => station.clone(), 2 => group.clone()];
    let source = prop_oneof![20 => station, 1 => group];
    let length = prop_oneof![
        8 => Just(60_usize),
        1 => 0..14_usize,
        1 => prop::sample::select(&[14, 82, 83, 128, 129, 1514, 1515, 9014, 9015][..]),
    ];
    (destination, source, length, any::<u8>()).prop_map(|(destination, source, length, mark)| {
        let mut bytes = frame(destination, source, length.max(14), mark);
        bytes.truncate(length);
        bytes
    })
}

fn any_event(ports: u16) -> impl Strategy<Value = Event> {
    let burst = (0..ports, prop::collection::vec(any_frame(), 1..=32));
    prop_oneof![
        8 => burst.prop_map(|(port, frames)| Event::Burst { port, frames }),
        2 => (0..200_u32).prop_map(|seconds| Event::Pass { seconds }),
        1 => Just(Event::Sweep),
    ]
}

fn any_network() -> impl Strategy<Value = (Vec<PortSpec>, Vec<Event>)> {
    prop::collection::vec(any_port(), 1..7).prop_flat_map(|ports| {
        let count = u16::try_from(ports.len()).unwrap();
        (Just(ports), prop::collection::vec(any_event(count), 1..40))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_switch_does_as_a_plain_learning_bridge((ports, events) in any_network()) {
        let mut bridge = Bridge::new(&ports, 300);
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
                Event::Burst { port, frames } => {
                    bridge.forward(port, &frames, now);
                    let fate = model.forward(port, &frames, now);
                    for (number, expected) in (0..).zip(fate.left) {
                        prop_assert_eq!(bridge.take(number), expected, "at port {}", number);
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
