//! Golden captures: what the switch does with given frames, compared byte for byte with committed files.
//!
//! Each case is a pair of files in `datapath/switch/golden/`: `<case>.in.pcapng` arrives, `<case>.out.pcapng` must leave.
//! The code below says in words what arrives, and which counters each port must show; `BLESS=1 cargo test -p
//! culvert-switch golden` writes both files anew from it. Look at them then, and at `git diff`: whoever blesses, vouches.
//! An independent model ([`model`]) forwards the same frames and must agree with the files, so a mistake of the switch
//! cannot be blessed.

mod capture;
mod model;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use culvert_frame::{Direction, DropReason, MacAddress};

use crate::network::NetworkId;
use crate::{Burst, Egress, Forwarder, MacTable, Port, PortCounters, PortId, PortTotals, Topology};

use DropReason::{
    ExceedsMtu, GroupSource, LinkLocal, NoOtherPort, PortDown, Quarantined, Runt, SamePort, SpoofedSource,
};

const AGE_SECONDS: u32 = 300;

/// What is particular to a port.
#[derive(Clone, Copy, Debug)]
struct PortSpec {
    network: u16,
    mtu: u16,
    way: Way,
    source: Option<MacAddress>,
    mac_limit: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Out,
    Down,
    Quarantined,
}

const PORT: PortSpec = PortSpec { network: 0, mtu: 1500, way: Way::Out, source: None, mac_limit: 1000 };

/// A switch whose ports keep what leaves them.
struct Bridge {
    topology: Topology,
    tables: Vec<Arc<MacTable>>,
    forwarder: Forwarder,
}

impl Bridge {
    fn new(specs: &[PortSpec], age_seconds: u32) -> Self {
        let ports = (0..).zip(specs).map(|(number, spec)| {
            Some(Port {
                id: PortId(number),
                network: NetworkId(spec.network),
                source: spec.source,
                mac_limit: spec.mac_limit,
                attachment: 0,
                mtu: spec.mtu,
                egress: match spec.way {
                    Way::Out => Egress::Test(Mutex::default()),
                    Way::Down => Egress::Down,
                    Way::Quarantined => Egress::Quarantined,
                },
                taps: Box::default(),
                counters: Arc::new([PortCounters::default()]),
            })
        });
        let networks = specs.iter().map(|spec| spec.network + 1).max().unwrap_or(0);
        let tables: Vec<_> = (0..networks).map(|_| Arc::new(MacTable::new(age_seconds))).collect();
        let topology = Topology::new(ports.collect(), tables.iter().cloned().map(Some).collect());
        Self { topology, tables, forwarder: Forwarder::new(0) }
    }

    fn forward(&mut self, port: u16, frames: &[Vec<u8>], now: u32) {
        let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
        self.forwarder.forward(&self.topology, PortId(port), &mut Burst::Local(&frames), now);
        assert_eq!(self.forwarder.take_faults().count(), 0);
    }

    fn sweep(&self, now: u32) {
        self.tables.iter().for_each(|table| table.sweep(now));
    }

    /// What has left at a port since the last call.
    fn take(&self, port: u16) -> Vec<Vec<u8>> {
        match &self.topology.port(PortId(port)).unwrap().egress {
            Egress::Test(sink) => std::mem::take(&mut *sink.lock().unwrap()),
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

/// A case: what arrives, and what is counted.
struct Case {
    name: &'static str,
    ports: Vec<PortSpec>,
    /// Second, port, frames of the burst.
    arrivals: Vec<(u32, u16, Vec<Vec<u8>>)>,
    /// For each port.
    counted: Vec<Counted>,
}

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
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden").join(format!("{}.{kind}.pcapng", self.name))
    }

    /// What arrives, as it stands in the file: bursts are told apart by their microsecond.
    fn input(&self) -> Vec<capture::Burst> {
        let bursts = (0..).zip(&self.arrivals).map(|(number, (second, port, frames))| capture::Burst {
            time: Duration::from_secs(u64::from(*second)) + Duration::from_micros(number),
            port: *port,
            frames: frames.clone(),
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

        let mut bridge = Bridge::new(&self.ports, AGE_SECONDS);
        let mut model = model::Model::new(&self.ports, AGE_SECONDS);
        let mut output = Vec::new();
        let mut expected_by_model = Vec::new();
        for burst in &input {
            let now = u32::try_from(burst.time.as_secs()).unwrap();
            bridge.forward(burst.port, &burst.frames, now);
            bridge.assert_balance();
            let fate = model.forward(burst.port, &burst.frames, now);
            let at_port = |port, frames| capture::Burst { time: burst.time, port, frames };
            output.extend((0..ports).map(|port| at_port(port, bridge.take(port))));
            expected_by_model.extend((0..).zip(fate.left).map(|(port, frames)| at_port(port, frames)));
        }
        assert_eq!(output, expected_by_model, "{}: the switch and the model disagree", self.name);
        output.retain(|burst| !burst.frames.is_empty());

        if std::env::var_os("BLESS").is_some() {
            std::fs::write(self.file("out"), capture::write(ports, &output)).unwrap();
        }
        assert_eq!(output, capture::read(&self.file("out")), "{}", self.name);
        // Byte for byte, not only packet for packet.
        assert!(std::fs::read(self.file("out")).unwrap() == capture::write(ports, &output), "{}", self.name);
        let counted: Vec<_> = bridge.totals().iter().map(Counted::of).collect();
        assert_eq!(counted, self.counted, "{}: counters", self.name);
    }
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
fn short(destination: MacAddress, source: MacAddress, mark: u8) -> Vec<u8> {
    frame(destination, source, 60, mark)
}

#[test]
fn flood() {
    // A broadcast, alone and in a burst with two more, goes everywhere but back.
    Case {
        name: "flood",
        ports: vec![PORT; 4],
        arrivals: vec![
            (1, 0, vec![short(ALL, at(1), 1)]),
            (1, 3, vec![short(ALL, at(4), 2), short(ALL, at(5), 3), short(ALL, at(4), 4)]),
        ],
        counted: vec![
            Counted::rx(1, 1, 3).tx(3, 3),
            Counted::rx(0, 0, 0).tx(4, 4),
            Counted::rx(0, 0, 0).tx(4, 4),
            Counted::rx(3, 3, 9).tx(1, 1),
        ],
    }
    .check();
}

#[test]
fn learning() {
    // Two stations get to know each other; the third port sees the first frame only. A burst keeps its order at each
    // port, whatever went elsewhere in between.
    Case {
        name: "learning",
        ports: vec![PORT; 3],
        arrivals: vec![
            (1, 0, vec![short(ALL, at(1), 1)]),
            (1, 1, vec![short(at(1), at(2), 2)]),
            (2, 0, vec![short(at(2), at(1), 3), short(ALL, at(1), 4), short(at(2), at(1), 5), short(at(3), at(1), 6)]),
            (3, 2, vec![short(at(1), at(3), 7), short(at(2), at(3), 8)]),
            (3, 1, vec![short(at(3), at(2), 9), short(at(1), at(2), 10), short(at(3), at(2), 11)]),
        ],
        counted: vec![Counted::rx(5, 5, 8).tx(3, 3), Counted::rx(4, 4, 4).tx(6, 6), Counted::rx(2, 2, 2).tx(5, 5)],
    }
    .check();
}

#[test]
fn same_port() {
    // Two stations behind one port: what is for the other one does not come back. The second is learned within the burst.
    Case {
        name: "same-port",
        ports: vec![PORT; 2],
        arrivals: vec![(1, 0, vec![short(at(2), at(1), 1), short(at(1), at(2), 2), short(at(2), at(1), 3)])],
        counted: vec![Counted::rx(3, 1, 1).drops(&[(SamePort, 2)]), Counted::rx(0, 0, 0).tx(1, 1)],
    }
    .check();
}

#[test]
fn ageing() {
    // Known up to its age and not a second longer; a frame of its own renews it.
    Case {
        name: "ageing",
        ports: vec![PORT; 3],
        arrivals: vec![
            (10, 0, vec![short(ALL, at(1), 1)]),
            (10 + AGE_SECONDS, 1, vec![short(at(1), at(2), 2)]),
            (11 + AGE_SECONDS, 1, vec![short(at(1), at(2), 3)]),
            (400, 0, vec![short(at(2), at(1), 4)]),
            (400 + AGE_SECONDS, 1, vec![short(at(1), at(2), 5)]),
            (402 + AGE_SECONDS, 1, vec![short(at(1), at(2), 6)]),
        ],
        counted: vec![Counted::rx(2, 2, 3).tx(4, 4), Counted::rx(4, 4, 6).tx(2, 2), Counted::rx(0, 0, 0).tx(3, 3)],
    }
    .check();
}

#[test]
fn unknown_unicast() {
    // Flooded until the station says a word.
    Case {
        name: "unknown-unicast",
        ports: vec![PORT; 3],
        arrivals: vec![
            (1, 0, vec![short(at(9), at(1), 1), short(at(9), at(1), 2)]),
            (2, 2, vec![short(at(1), at(9), 3)]),
            (3, 0, vec![short(at(9), at(1), 4)]),
        ],
        counted: vec![Counted::rx(3, 3, 5).tx(1, 1), Counted::rx(0, 0, 0).tx(2, 2), Counted::rx(1, 1, 1).tx(3, 3)],
    }
    .check();
}

#[test]
fn moved_station() {
    // A station speaks at another port: what is for it goes there from the next frame on, and back again.
    Case {
        name: "moved-station",
        ports: vec![PORT; 3],
        arrivals: vec![
            (1, 0, vec![short(ALL, at(1), 1)]),
            (1, 2, vec![short(at(1), at(3), 2)]),
            (2, 1, vec![short(at(3), at(1), 3)]),
            (2, 2, vec![short(at(1), at(3), 4)]),
            (2, 0, vec![short(at(3), at(1), 5)]),
            (2, 2, vec![short(at(1), at(3), 6)]),
        ],
        counted: vec![Counted::rx(2, 2, 3).tx(2, 2), Counted::rx(1, 1, 1).tx(2, 2), Counted::rx(3, 3, 3).tx(3, 3)],
    }
    .check();
}

#[test]
fn jumbo() {
    // Ports of MTU 9000, 1500 and 68: each takes what its MTU allows behind the Ethernet header and VLAN tags, the others
    // are not affected, and order is kept around what is refused.
    let untagged = [(60, 0), (82, 0), (83, 0), (1514, 0), (1515, 0), (9014, 0), (9015, 0)];
    let lengths = untagged.into_iter().chain([(1514, 1), (1514, 2), (1515, 1), (60, 0)]);
    let burst = |to| {
        let tagged = |(mark, (length, tags)): (u8, (usize, usize))| {
            let mut frame = frame(to, at(1), length, mark);
            (0..tags).for_each(|_| drop(frame.splice(12..12, [0x81, 0x00, 0x00, 0x2a])));
            frame
        };
        (0..).zip(lengths.clone()).map(tagged).collect()
    };
    Case {
        name: "jumbo",
        ports: vec![PortSpec { mtu: 9000, ..PORT }, PortSpec { mtu: 9000, ..PORT }, PORT, PortSpec { mtu: 68, ..PORT }],
        arrivals: vec![(1, 0, burst(ALL)), (2, 2, vec![short(at(1), at(2), 0)]), (3, 0, burst(at(2)))],
        counted: vec![
            Counted::rx(22, 22, 44).tx(1, 1),
            Counted::rx(0, 0, 0).tx(11, 10).drops(&[(ExceedsMtu, 1)]),
            Counted::rx(1, 1, 1).tx(22, 14).drops(&[(ExceedsMtu, 8)]),
            Counted::rx(0, 0, 0).tx(11, 3).drops(&[(ExceedsMtu, 8)]),
        ],
    }
    .check();
}

#[test]
fn runts() {
    // All lengths below an Ethernet header are refused, and teach nothing; the header alone passes.
    let mut burst: Vec<_> = (0..=14).map(|length| short(ALL, at(1), 1)[..length].to_vec()).collect();
    burst.push(short(ALL, at(1), 2));
    Case {
        name: "runts",
        ports: vec![PORT; 2],
        arrivals: vec![
            (1, 0, vec![short(ALL, at(7), 0)[..13].to_vec()]),
            (1, 1, vec![short(at(7), at(2), 3)]),
            (2, 0, burst),
        ],
        counted: vec![Counted::rx(17, 2, 2).tx(1, 1).drops(&[(Runt, 15)]), Counted::rx(1, 1, 1).tx(2, 2)],
    }
    .check();
}

#[test]
fn link_local() {
    // 01:80:c2:00:00:00 to :0f stay on their link, :10 and neighbours do not; their source is learned all the same.
    let group = |last| MacAddress([0x01, 0x80, 0xc2, 0, 0, last]);
    let mut burst: Vec<_> = (0..=16).map(|last| short(group(last), at(1), last)).collect();
    burst.push(short(MacAddress([0x01, 0x80, 0xc2, 0, 1, 0]), at(1), 20));
    burst.push(short(MacAddress([0x01, 0x80, 0xc1, 0, 0, 0]), at(1), 21));
    Case {
        name: "link-local",
        ports: vec![PORT; 3],
        arrivals: vec![
            (1, 0, burst),
            (2, 1, vec![short(at(1), at(2), 22)]),
            (3, 2, vec![short(group(0), at(3), 23)]),
            (3, 1, vec![short(at(3), at(2), 24)]),
        ],
        counted: vec![
            Counted::rx(19, 3, 6).tx(1, 1).drops(&[(LinkLocal, 16)]),
            Counted::rx(2, 2, 2).tx(3, 3),
            Counted::rx(1, 0, 0).tx(4, 4).drops(&[(LinkLocal, 1)]),
        ],
    }
    .check();
}

#[test]
fn source_bound() {
    // A port that is bound to one address sends from no other: not as itself, not as its neighbour, not as a group. What
    // it pretends is not learned.
    Case {
        name: "source-bound",
        ports: vec![PortSpec { source: Some(at(1)), ..PORT }, PORT, PORT],
        arrivals: vec![
            (1, 1, vec![short(ALL, at(2), 1)]),
            (1, 0, vec![short(ALL, at(9), 2), short(at(2), at(1), 3), short(ALL, at(2), 4), short(ALL, ALL, 5)]),
            (2, 2, vec![short(at(2), at(3), 6), short(at(9), at(3), 7), short(at(1), at(3), 8)]),
        ],
        counted: vec![
            Counted::rx(4, 1, 1).tx(3, 3).drops(&[(GroupSource, 1), (SpoofedSource, 2)]),
            Counted::rx(1, 1, 2).tx(3, 3),
            Counted::rx(3, 3, 4).tx(1, 1),
        ],
    }
    .check();
}

#[test]
fn group_source() {
    // No station may send from a group address.
    let multicast = MacAddress([0x03, 0, 0, 0, 0, 1]);
    Case {
        name: "group-source",
        ports: vec![PORT; 2],
        arrivals: vec![(1, 0, vec![short(at(2), ALL, 1), short(ALL, multicast, 2), short(at(2), at(1), 3)])],
        counted: vec![Counted::rx(3, 1, 1).drops(&[(GroupSource, 2)]), Counted::rx(0, 0, 0).tx(1, 1)],
    }
    .check();
}

#[test]
fn mac_limit() {
    // A port with room for two addresses: the third and fourth send as well, but are not learned, and what is for them is
    // flooded. A full port cannot take a station away from another port either.
    Case {
        name: "mac-limit",
        ports: vec![PortSpec { mac_limit: 2, ..PORT }, PORT, PORT],
        arrivals: vec![
            (1, 0, vec![short(ALL, at(1), 1), short(ALL, at(2), 2), short(ALL, at(3), 3), short(ALL, at(4), 4)]),
            (
                2,
                1,
                vec![short(at(1), at(9), 5), short(at(2), at(9), 6), short(at(3), at(9), 7), short(at(4), at(9), 8)],
            ),
            (3, 0, vec![short(ALL, at(9), 9), short(ALL, at(1), 10)]),
            (4, 2, vec![short(at(9), at(8), 11)]),
        ],
        counted: vec![
            Counted::rx(6, 6, 12).tx(4, 4).not_learned(3),
            Counted::rx(4, 4, 6).tx(7, 7),
            Counted::rx(1, 1, 1).tx(8, 8),
        ],
    }
    .check();
}

#[test]
fn multicast() {
    // IPv4 and IPv6 groups and the groups of protocols are flooded, also after a station was heard by that name's unicast
    // neighbour.
    let groups = [[0x01, 0, 0x5e, 0, 0, 0xfb], [0x33, 0x33, 0, 0, 0, 1], [0x01, 0, 0x0c, 0xcc, 0xcc, 0xcc]];
    let burst = (1..).zip(groups).map(|(mark, group)| short(MacAddress(group), at(1), mark)).collect();
    Case {
        name: "multicast",
        ports: vec![PORT; 3],
        arrivals: vec![
            (1, 0, burst),
            (2, 1, vec![short(MacAddress(groups[0]), MacAddress([0, 0, 0x5e, 0, 0, 0xfb]), 4)]),
        ],
        counted: vec![Counted::rx(3, 3, 6).tx(1, 1), Counted::rx(1, 1, 2).tx(3, 3), Counted::rx(0, 0, 0).tx(4, 4)],
    }
    .check();
}

#[test]
fn networks() {
    // Two networks have nothing to do with each other, though a station of one name is in each; a port alone in a third
    // one has nobody to send to.
    let network = |network| PortSpec { network, ..PORT };
    Case {
        name: "networks",
        ports: vec![network(0), network(0), network(1), network(1), network(2)],
        arrivals: vec![
            (1, 0, vec![short(ALL, at(1), 1)]),
            (1, 2, vec![short(ALL, at(1), 2)]),
            (2, 1, vec![short(at(1), at(2), 3)]),
            (2, 3, vec![short(at(1), at(3), 4), short(at(2), at(3), 5)]),
            (3, 4, vec![short(ALL, at(5), 6), short(at(1), at(5), 7)]),
        ],
        counted: vec![
            Counted::rx(1, 1, 1).tx(1, 1),
            Counted::rx(1, 1, 1).tx(1, 1),
            Counted::rx(1, 1, 1).tx(2, 2),
            Counted::rx(2, 2, 2).tx(1, 1),
            Counted::rx(2, 0, 0).drops(&[(NoOtherPort, 2)]),
        ],
    }
    .check();
}

/// An address is forgotten only after its port has left the plan: frames to it meanwhile were counted as sent on.
#[test]
fn an_address_behind_a_port_that_is_gone_is_unknown() {
    let mut bridge = Bridge::new(&[PORT; 2], AGE_SECONDS);
    bridge.tables[0].learn(at(9), PortId(9), 1000, 0);
    bridge.forward(0, &[frame(at(9), at(1), 60, 1)], 0);
    bridge.assert_balance();
    assert_eq!(bridge.take(1).len(), 1);
}

#[test]
fn stopped_ports() {
    // A port without a guest, and one whose guest was stopped for a fault, refuse what is for them; the last is served.
    let (down, quarantined) = (PortSpec { way: Way::Down, ..PORT }, PortSpec { way: Way::Quarantined, ..PORT });
    Case {
        name: "stopped-ports",
        ports: vec![PORT, down, quarantined, PORT],
        arrivals: vec![(1, 0, vec![short(ALL, at(1), 1), short(at(9), at(1), 2)])],
        counted: vec![
            Counted::rx(2, 2, 6),
            Counted::rx(0, 0, 0).tx(2, 0).drops(&[(PortDown, 2)]),
            Counted::rx(0, 0, 0).tx(2, 0).drops(&[(Quarantined, 2)]),
            Counted::rx(0, 0, 0).tx(2, 2),
        ],
    }
    .check();
}
