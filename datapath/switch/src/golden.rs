//! Golden captures: what the switch does with given frames, compared byte for byte with committed files.
//!
//! Each case is a pair of files in `datapath/switch/golden/`: `<case>.in.pcapng` arrives, `<case>.out.pcapng` must leave,
//! virtio-net headers included (in comments). The code says in words what arrives, and which counters each port must
//! show; `BLESS=1 cargo test -p culvert-switch golden` writes both files anew from it. Look at them then, and at `git
//! diff`: whoever blesses, vouches. An independent model ([`model`]), or where it knows too little the case itself, says
//! who must get which frame, so a mistake of the switch cannot be blessed; and [`tshark`] judges the checksums.
//!
//! [`bridging`], [`vlans`], [`rules`], [`rates`] and [`offloads`] hold the cases; [`traced`] proves that
//! [`trace`](crate::trace) tells what the switch does.

mod bridging;
mod capture;
mod failures;
mod model;
mod offloads;
mod packet;
mod rates;
mod rules;
mod traced;
mod tshark;
mod vlans;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use culvert_frame::{Direction, DropReason, MacAddress, Offloads};

use crate::burst::LocalFrame;
use crate::groups::Groups;
use crate::guard::Guard;
use crate::limits::{Limiter, Limits};
use crate::network::NetworkId;
use crate::port::MirrorTo;
use crate::rates::{Meter, Rates};
use crate::{
    Burst, Egress, Forwarder, MacTable, Port, PortCounters, PortId, PortTotals, Rules, Topology, Vlans, network,
};

pub use packet::Packet;

const AGE_SECONDS: u32 = 300;

/// What is particular to a port.
#[derive(Clone, Copy, Debug)]
struct PortSpec {
    network: u16,
    mtu: u16,
    way: Way,
    vlans: VlanSpec,
    mac: Option<MacAddress>,
    addresses: &'static [&'static str],
    broadcast_limit: Option<u32>,
    unknown_limit: Option<u32>,
    rates: Rates,
    isolated: bool,
    mac_limit: u32,
    /// What its guest may ask for, and what it takes undone.
    asks: Offloads,
    takes: Offloads,
    mirrors: [Option<MirrorTo>; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Out,
    Down,
    Quarantined,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum VlanSpec {
    Transparent,
    Access(u16),
    Qinq(u16),
    /// Allowed, and native.
    Trunk(&'static [u16], Option<u16>),
}

const PORT: PortSpec = PortSpec {
    network: 0,
    mtu: 1500,
    way: Way::Out,
    vlans: VlanSpec::Transparent,
    mac: None,
    addresses: &[],
    broadcast_limit: None,
    unknown_limit: None,
    rates: rates::NONE,
    isolated: false,
    mac_limit: 1000,
    asks: Offloads::ALL,
    takes: Offloads::NONE,
    mirrors: [None; 2],
};

impl PortSpec {
    fn mirrors(&self) -> impl Iterator<Item = MirrorTo> {
        self.mirrors.into_iter().flatten()
    }

    fn rules(&self) -> Rules {
        let vlans = match self.vlans {
            VlanSpec::Transparent => Vlans::Transparent,
            VlanSpec::Access(vlan) => Vlans::Access { vlan, qinq: false },
            VlanSpec::Qinq(vlan) => Vlans::Access { vlan, qinq: true },
            VlanSpec::Trunk(allowed, native) => {
                Vlans::Trunk { allowed: Arc::new(allowed.iter().copied().collect()), native }
            }
        };
        Rules {
            vlans,
            guard: Guard { mac: self.mac, addresses: self.addresses.iter().map(|it| it.parse().unwrap()).collect() },
            limits: Limits { broadcast: self.broadcast_limit, unknown: self.unknown_limit },
            rates: self.rates,
            isolated: self.isolated,
            mac_limit: self.mac_limit,
            mtu: self.mtu,
        }
    }
}

/// Whether a port of these gets copies of others' frames.
fn is_mirror_target(specs: &[PortSpec], port: u16) -> bool {
    specs.iter().flat_map(PortSpec::mirrors).any(|mirror| mirror.target == PortId(port))
}

/// A switch whose ports keep what leaves them, and what control does for it.
struct Bridge {
    specs: Vec<PortSpec>,
    topology: Topology,
    tables: Vec<Arc<MacTable>>,
    /// Of each network, where there is snooping.
    groups: Option<Vec<Groups>>,
    limiters: Vec<Arc<Limiter>>,
    meters: Vec<Arc<Meter>>,
    counters: Vec<Arc<[PortCounters]>>,
    forwarder: Forwarder,
}

impl Bridge {
    fn new(specs: &[PortSpec], age_seconds: u32, snooping: bool) -> Self {
        let networks = specs.iter().map(|spec| spec.network + 1).max().unwrap_or(0);
        let mut bridge = Self {
            specs: specs.to_vec(),
            topology: Topology::default(),
            tables: (0..networks).map(|_| Arc::new(MacTable::new(age_seconds))).collect(),
            groups: snooping.then(|| (0..networks).map(|_| Groups::default()).collect()),
            limiters: specs.iter().map(|spec| Arc::new(Limiter::new(&spec.rules().limits))).collect(),
            meters: specs.iter().map(|spec| Arc::new(Meter::new(&spec.rates))).collect(),
            counters: specs.iter().map(|_| [PortCounters::default()].into()).collect(),
            forwarder: Forwarder::new(0),
        };
        bridge.plug();
        bridge
    }

    /// A new topology with the groups as they are now. What has left must have been taken before.
    fn plug(&mut self) {
        let port = |(number, spec): (u16, &PortSpec)| Port {
            id: PortId(number),
            network: NetworkId(spec.network),
            attachment: 0,
            rules: Arc::new(spec.rules()),
            limiter: self.limiters[usize::from(number)].clone(),
            meter: self.meters[usize::from(number)].clone(),
            // Its frames are the test's own.
            is_guest: false,
            egress: match spec.way {
                Way::Out => Egress::Test(Mutex::default(), spec.takes),
                Way::Down => Egress::Down,
                Way::Quarantined => Egress::Quarantined,
            },
            mirrors: spec.mirrors().collect(),
            is_mirror_target: is_mirror_target(&self.specs, number),
            taps: Box::default(),
            latencies: Box::default(),
            counters: self.counters[usize::from(number)].clone(),
        };
        let bridge = |(number, table): (usize, &Arc<MacTable>)| network::Bridge {
            table: table.clone(),
            groups: self.groups.as_ref().map(|groups| Arc::new(groups[number].snapshot())),
        };
        let ports = (0..).zip(&self.specs).map(|it| Some(port(it))).collect();
        self.topology = Topology::new(ports, self.tables.iter().enumerate().map(|it| Some(bridge(it))).collect());
    }

    /// Forwards a burst; returns what has left at each port.
    fn forward(&mut self, port: u16, packets: &[Packet], now: u32) -> Vec<Vec<Packet>> {
        let now = Duration::from_secs(now.into());
        self.expire_groups(now);
        let asks = self.specs[usize::from(port)].asks;
        let frames: Vec<_> = packets.iter().map(|packet| local(packet, asks)).collect();
        self.forwarder.forward(&self.topology, PortId(port), &mut Burst::Local(&frames), now);
        assert_eq!(self.forwarder.take_faults().count(), 0);
        let left = (0..).zip(&self.specs).map(|(number, _)| self.take(number)).collect();
        self.note_groups(now);
        left
    }

    fn expire_groups(&mut self, now: Duration) {
        let mut changed = false;
        for groups in self.groups.iter_mut().flatten() {
            changed |= groups.expire(now);
        }
        if changed {
            self.plug();
        }
    }

    /// As control does with what was snooped.
    fn note_groups(&mut self, now: Duration) {
        let snooped: Vec<_> = self.forwarder.take_snooped().collect();
        let Some(groups) = &mut self.groups else {
            assert!(snooped.is_empty(), "nobody asked for it");
            return;
        };
        let mut changed = false;
        for (port, vlan, message) in snooped {
            let network = usize::from(self.specs[port.index()].network);
            changed |= groups[network].apply(vlan, port, &message, now);
        }
        if changed {
            self.plug();
        }
    }

    fn sweep(&self, now: u32) {
        self.tables.iter().for_each(|table| table.sweep(now));
    }

    /// What has left at a port since the last call.
    fn take(&self, port: u16) -> Vec<Packet> {
        match &self.topology.port(PortId(port)).unwrap().egress {
            Egress::Test(sink, _) => std::mem::take(&mut *sink.lock().unwrap()),
            _ => Vec::new(),
        }
    }

    fn totals(&self) -> Vec<PortTotals> {
        self.topology.ports().map(|port| PortTotals::sum(&port.counters)).collect()
    }

    fn drops(&self) -> HashMap<(u16, DropReason), u64> {
        let by_port = (0..).zip(self.totals());
        by_port.flat_map(|(port, totals)| totals.drops.into_iter().map(move |d| ((port, d.reason), d.count))).collect()
    }

    /// Nothing is in flight between bursts, so both ledgers of each port are even, and so is the one over all ports.
    fn assert_balance(&self) {
        let totals = self.totals();
        for (port, it) in totals.iter().enumerate() {
            assert_eq!(it.rx_frames, it.forwarded + it.dropped(Direction::Rx), "rx ledger of port {port}");
            assert_eq!(it.offered, it.tx_frames + it.dropped(Direction::Tx), "tx ledger of port {port}");
        }
        let sum = |which: fn(&PortTotals) -> u64| totals.iter().map(which).sum::<u64>();
        assert_eq!(sum(|it| it.copies), sum(|it| it.offered), "copies sent on and frames offered, over all ports");
    }
}

/// A packet of a guest that may ask for `asks`.
fn local(packet: &Packet, asks: Offloads) -> LocalFrame<'_> {
    LocalFrame { bytes: &packet.frame, request: (packet.header.request(), asks) }
}

/// A case: what arrives, and what is counted.
struct Case {
    name: &'static str,
    ports: Vec<PortSpec>,
    /// Second, port, frames of the burst.
    arrivals: Vec<(u32, u16, Vec<Packet>)>,
    /// For each port.
    counted: Vec<Counted>,
    /// Whether control keeps the groups that are snooped.
    snooping: bool,
    /// For each burst, the ports that get it as it is. Where the model does not know the rules of the case; empty elsewhere.
    heard: Vec<&'static [u16]>,
}

const CASE: Case =
    Case { name: "", ports: Vec::new(), arrivals: Vec::new(), counted: Vec::new(), snooping: false, heard: Vec::new() };

/// What a port must have counted at the end.
#[derive(Debug, PartialEq, Eq, Default)]
struct Counted {
    rx: u64,
    forwarded: u64,
    copies: u64,
    not_learned: u64,
    offered: u64,
    tx: u64,
    drops: Vec<(DropReason, u64)>,
}

impl Counted {
    /// Arrived, went on, as how many copies.
    const fn rx(rx: u64, forwarded: u64, copies: u64) -> Self {
        Self { rx, forwarded, copies, not_learned: 0, offered: 0, tx: 0, drops: Vec::new() }
    }

    /// Was offered, left.
    fn tx(self, offered: u64, tx: u64) -> Self {
        Self { offered, tx, ..self }
    }

    fn drops(self, drops: &[(DropReason, u64)]) -> Self {
        Self { drops: drops.to_vec(), ..self }
    }

    fn not_learned(self, not_learned: u64) -> Self {
        Self { not_learned, ..self }
    }

    fn of(totals: &PortTotals) -> Self {
        Self {
            rx: totals.rx_frames,
            forwarded: totals.forwarded,
            copies: totals.copies,
            not_learned: totals.not_learned,
            offered: totals.offered,
            tx: totals.tx_frames,
            drops: totals.drops.iter().map(|drops| (drops.reason, drops.count)).collect(),
        }
    }
}

impl Case {
    fn file(&self, kind: &str) -> PathBuf {
        folder().join(format!("{}.{kind}.pcapng", self.name))
    }

    /// What arrives, as it stands in the file: bursts are told apart by their microsecond.
    fn input(&self) -> Vec<capture::Burst> {
        let bursts = (0..).zip(&self.arrivals).map(|(number, (second, port, packets))| capture::Burst {
            time: Duration::from_secs(u64::from(*second)) + Duration::from_micros(number),
            port: *port,
            packets: packets.clone(),
        });
        bursts.collect()
    }

    fn check(&self) {
        let ports = u16::try_from(self.ports.len()).unwrap();
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(self.file("in"), capture::write(ports, &self.input())).unwrap();
        }
        let input = capture::read(&self.file("in"));
        assert_eq!(input, self.input(), "{}: the file is not what the code says; see BLESS", self.name);

        let mut bridge = Bridge::new(&self.ports, AGE_SECONDS, self.snooping);
        let mut model = model::Model::new(&self.ports, AGE_SECONDS);
        let mut output = Vec::new();
        for (number, burst) in input.iter().enumerate() {
            let now = u32::try_from(burst.time.as_secs()).unwrap();
            let left = bridge.forward(burst.port, &burst.packets, now);
            bridge.assert_balance();
            let expected = match self.heard.get(number) {
                Some(ports) => self.heard_by(ports, &burst.packets),
                None => model.forward(burst.port, &burst.packets, now).left,
            };
            for (port, (left, expected)) in left.iter().zip(expected).enumerate() {
                let place = format!("{}: burst {number}, port {port}", self.name);
                model::assert_delivered(&expected, left, self.ports[port].takes, &place);
            }
            let bursts = (0..).zip(left).map(|(port, packets)| capture::Burst { time: burst.time, port, packets });
            output.extend(bursts.filter(|burst| !burst.packets.is_empty()));
        }
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(self.file("out"), capture::write(ports, &output)).unwrap();
        }
        assert_eq!(output, capture::read(&self.file("out")), "{}", self.name);
        // Byte for byte, not only packet for packet.
        assert!(std::fs::read(self.file("out")).unwrap() == capture::write(ports, &output), "{}", self.name);
        let counted: Vec<_> = bridge.totals().iter().map(Counted::of).collect();
        assert_eq!(counted, self.counted, "{}: counters", self.name);
    }

    fn heard_by(&self, ports: &[u16], packets: &[Packet]) -> Vec<Vec<Packet>> {
        let at = |(port, _): (u16, _)| if ports.contains(&port) { packets.to_vec() } else { Vec::new() };
        (0..).zip(&self.ports).map(at).collect()
    }
}

/// Where the captures are.
fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden")
}

/// Station `number`'s address.
const fn at(number: u8) -> MacAddress {
    MacAddress([0x02, 0, 0, 0, 0, number])
}

/// A frame of `length` bytes, of EtherType 0x88b5 (local experiments, IEEE 802), its payload told by `mark`.
fn frame(destination: MacAddress, source: MacAddress, length: usize, mark: u8) -> Vec<u8> {
    let mut bytes = [destination.0, source.0].concat();
    bytes.extend([0x88, 0xb5]);
    let start = usize::from(mark);
    bytes.extend((start..).map(|n| u8::try_from(n * 7 % 251).unwrap()).take(length.saturating_sub(14)));
    bytes.truncate(length.max(14));
    bytes
}

const ALL: MacAddress = MacAddress::BROADCAST;

/// From `source` to `destination`, 60 bytes.
fn short(destination: MacAddress, source: MacAddress, mark: u8) -> Packet {
    frame(destination, source, 60, mark).into()
}
