//! What can be measured: one table, from which the command line, the runs and the reports are made.

use anyhow::Result;
use serde::Serialize;

use crate::options::Options;
use crate::peer::Peer;
use crate::{
    broadcast, idle, idle_ports, latency, loss_free, memory, onlookers, tcp, translator, two_nodes, virtio_user,
    vm_to_nic, vm_to_vm, workers,
};

/// One thing to measure.
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it measures, in a sentence.
    pub what: &'static str,
    /// Who can be measured; the first one is what the others are compared with.
    pub peers: &'static [Peer],
    /// Its cases, as the options want them.
    pub cases: fn(&Options) -> Result<Vec<Case>>,
}

/// One case of a scenario, such as a length of frames.
pub struct Case {
    /// What it is, in a few words, different from all others of the scenario.
    pub name: String,
    /// Measures a peer once.
    pub run: Box<dyn Fn(Peer) -> Result<Vec<Figure>>>,
    /// Peers of the scenario that cannot do it.
    pub without: &'static [Peer],
}

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// Of what, the same for all peers.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// Whether more is better.
    pub more_is_better: bool,
    /// How much.
    pub value: f64,
}

impl Case {
    /// A case.
    pub fn new(name: impl Into<String>, run: impl Fn(Peer) -> Result<Vec<Figure>> + 'static) -> Self {
        Self { name: name.into(), run: Box::new(run), without: &[] }
    }

    /// The same without some peers, which cannot do it.
    pub fn without(self, peers: &'static [Peer]) -> Self {
        Self { without: peers, ..self }
    }
}

impl Figure {
    /// A figure of which more is better.
    pub fn gain(name: &'static str, unit: &'static str, value: f64) -> Self {
        Self { name, unit, more_is_better: true, value }
    }

    /// A figure of which less is better.
    pub fn cost(name: &'static str, unit: &'static str, value: f64) -> Self {
        Self { name, unit, more_is_better: false, value }
    }
}

/// The scenario of a name.
pub fn find(name: &str) -> Option<&'static Scenario> {
    SCENARIOS.iter().find(|scenario| scenario.name == name)
}

use Peer::{
    Bridge, Culvert, CulvertGuestsOff, CulvertPlain, Ovs, OvsTso, Passt, RustVmm, Sockets, Sockets64, Testpmd,
    TestpmdMac, TestpmdTso,
};

/// All of them.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "vm-to-vm",
        what: "frames between two guests as fast as they go: lengths, one and both directions, data touched, packed rings, flows, addresses",
        peers: &[Culvert, Testpmd, TestpmdMac, Ovs, RustVmm],
        cases: vm_to_vm::cases,
    },
    Scenario {
        name: "latency",
        what: "the time from a guest to another one and back, beside a load of 0, 10, 50 and 90 % of what the peer carries",
        peers: &[Culvert, Testpmd, Ovs, RustVmm],
        cases: latency::cases,
    },
    Scenario {
        name: "loss-free",
        what: "the highest rate at which no frame is lost (RFC 2544, 26.1)",
        peers: &[Culvert, Testpmd, Ovs, RustVmm],
        cases: loss_free::cases,
    },
    Scenario {
        name: "broadcast",
        what: "frames from one guest to all others",
        peers: &[Culvert, Ovs],
        cases: broadcast::cases,
    },
    Scenario {
        name: "vm-to-nic",
        what: "frames between guests and DPDK devices; with af_packet: root, in ci/isolated",
        peers: &[Culvert, Testpmd],
        cases: vm_to_nic::cases,
    },
    Scenario {
        name: "virtio-user",
        what: "frames between two guests that DPDK's own driver plays",
        peers: &[Culvert, Testpmd, Ovs],
        cases: virtio_user::cases,
    },
    Scenario {
        name: "workers",
        what: "frames between pairs of guests, a worker and a core for each pair",
        peers: &[Culvert, Ovs],
        cases: workers::cases,
    },
    Scenario {
        name: "idle-ports",
        what: "frames between two guests beside others that do nothing",
        peers: &[Culvert, Ovs],
        cases: idle_ports::cases,
    },
    Scenario {
        name: "onlookers",
        what: "frames between two pairs of guests while somebody captures or measures a port of one, or reads all metrics each second",
        peers: &[Culvert],
        cases: onlookers::cases,
    },
    Scenario {
        name: "memory",
        what: "memory that a guest's port takes in the switch",
        peers: &[Culvert, Ovs],
        cases: memory::cases,
    },
    Scenario {
        name: "idle",
        what: "processor time when nothing moves, and how long the first frame takes then",
        peers: &[Culvert, Testpmd, Ovs],
        cases: idle::cases,
    },
    Scenario {
        name: "tcp",
        what: "TCP between two Linux guests, QEMU (tcg)",
        peers: &[Culvert, Testpmd, TestpmdTso, Ovs, OvsTso],
        cases: tcp::cases,
    },
    Scenario {
        name: "tcp-uml",
        what: "TCP between two user-mode Linux guests, with and without offloads",
        peers: &[Culvert, CulvertPlain, CulvertGuestsOff],
        cases: tcp::cases_uml,
    },
    Scenario {
        name: "two-nodes",
        what: "TCP between guests on two nodes, joined by af_packet and a veth pair; root, in ci/isolated",
        peers: &[Culvert, Testpmd],
        cases: two_nodes::cases,
    },
    Scenario {
        name: "translator",
        what: "TCP between a guest on the translator and the world around its pod; ci/peers, root, in ci/isolated",
        peers: &[Culvert, Passt, Sockets, Sockets64, Bridge],
        cases: translator::cases,
    },
    Scenario {
        name: "translator-streams",
        what: "TCP between a played guest on the translator and the world, on 1 to 1,000 connections",
        peers: &[Culvert, Passt, Sockets, Sockets64],
        cases: translator::cases_of_streams,
    },
    Scenario {
        name: "translator-guests",
        what: "the same with 1 to 16 guests on one core, 4 connections each",
        peers: &[Culvert, Passt],
        cases: translator::cases_of_guests,
    },
    Scenario {
        name: "translator-requests",
        what: "requests of a played guest on the translator, one after the other",
        peers: &[Culvert, Passt],
        cases: translator::cases_of_requests,
    },
    Scenario {
        name: "translator-datagrams",
        what: "the highest rate of UDP at which nothing is lost between a played guest on the translator and the world",
        peers: &[Culvert, Passt],
        cases: translator::cases_of_datagrams,
    },
    Scenario {
        name: "translator-goodput",
        what: "what one connection of a guest carries where frames are lost, near it or far from it, and take their time",
        peers: &[Culvert, Passt],
        cases: translator::cases_of_goodput,
    },
    Scenario {
        name: "translator-connections",
        what: "many connections at the same time: memory of each, and what a frame takes of the translator beside 10 connections",
        peers: &[Culvert, Passt],
        cases: translator::cases_of_many,
    },
    Scenario {
        name: "translator-idle",
        what: "a translator whose guest does nothing: wake-ups, memory",
        peers: &[Culvert, Passt],
        cases: translator::cases_of_rest,
    },
    Scenario {
        name: "translator-all-ports",
        what: "a translator that forwards all ports, with a limit of 1,024 descriptors and with a high one",
        peers: &[Culvert, Passt],
        cases: translator::cases_of_all_ports,
    },
];
