//! The run for a release's record: of each scenario what the targets and docs/PERFORMANCE.md want, in rounds so short and few that all
//! takes less than half an hour.

use crate::options::Options;
use crate::peer::Peer::{
    self, Bridge, Culvert, CulvertPlain, Ovs, OvsTso, Passt, RustVmm, Sockets, Sockets64, Testpmd, TestpmdTso,
};

/// What is measured of a scenario.
pub struct Part {
    /// Its name.
    pub scenario: &'static str,
    /// The names of its cases; none: all that there are.
    pub cases: &'static [&'static str],
    /// Which peers.
    pub peers: &'static [Peer],
    rounds: usize,
    seconds: f64,
}

impl Part {
    /// The options of a run with this part's rounds, of those that are wanted at most, and seconds.
    pub fn options(&self, options: &Options) -> Options {
        Options { rounds: self.rounds.min(options.rounds), seconds: self.seconds, ..options.clone() }
    }
}

const fn part(
    scenario: &'static str,
    cases: &'static [&'static str],
    peers: &'static [Peer],
    rounds: usize,
    seconds: f64,
) -> Part {
    Part { scenario, cases, peers, rounds, seconds }
}

/// All of them, the shortest figures first: a run that is ended has those that matter most.
pub const PARTS: &[Part] = &[
    part("vm-to-vm", &["64 B", "1500 B"], &[Culvert, Testpmd, Ovs, RustVmm], 5, 0.6),
    part(
        "vm-to-vm",
        &[
            "512 B",
            "9000 B",
            "mix",
            "64 B, touched",
            "512 B, touched",
            "1500 B, touched",
            "9000 B, touched",
            "64 B, one way",
            "64 B, packed",
            "512 B, packed",
            "1500 B, packed",
        ],
        &[Culvert, Testpmd, Ovs],
        3,
        0.8,
    ),
    part("vm-to-vm", &["64 B, 10,000 flows", "64 B, 10,000 addresses"], &[Culvert, Ovs], 3, 1.0),
    part("latency", &[], &[Culvert, Testpmd, Ovs], 3, 1.0),
    part("loss-free", &["64 B", "1500 B"], &[Culvert, Testpmd, Ovs], 2, 1.0),
    part(
        "vm-to-nic",
        &[
            "64 B, net_ring and back",
            "1500 B, net_ring and back",
            "64 B, net_memif and back",
            "1500 B, net_memif and back",
            "64 B, net_pcap, both ways",
            "1500 B, net_pcap, both ways",
            "64 B, net_null",
            "1500 B, af_packet, veth and back",
        ],
        &[Culvert, Testpmd],
        3,
        0.6,
    ),
    part("broadcast", &[], &[Culvert, Ovs], 2, 0.6),
    part("idle-ports", &[], &[Culvert, Ovs], 2, 1.0),
    part("idle", &[], &[Culvert, Testpmd, Ovs], 2, 2.0),
    part("memory", &[], &[Culvert, Ovs], 1, 1.0),
    part("workers", &[], &[Culvert, Ovs], 2, 1.0),
    part("virtio-user", &["64 B", "1500 B", "64 B, packed"], &[Culvert, Testpmd], 2, 1.0),
    part("tcp", &[], &[Culvert, Testpmd, TestpmdTso, Ovs, OvsTso], 2, 3.0),
    part("tcp-uml", &[], &[Culvert, CulvertPlain], 3, 3.0),
    part("two-nodes", &[], &[Culvert, Testpmd], 2, 3.0),
    part("translator", &[], &[Culvert, Passt, Sockets, Bridge], 2, 3.0),
    part("translator-streams", &[], &[Culvert, Passt, Sockets, Sockets64], 2, 1.0),
    part("translator-guests", &[], &[Culvert, Passt], 2, 1.0),
    part("translator-requests", &[], &[Culvert, Passt], 3, 1.0),
    part("translator-datagrams", &[], &[Culvert, Passt], 2, 1.0),
    part(
        "translator-goodput",
        &["1 % lost near", "1 % lost far, 0 ms", "0 % lost far, 1 ms", "0.1 % lost far, 10 ms", "0 % lost far, 100 ms"],
        &[Culvert, Passt],
        2,
        3.0,
    ),
    part("translator-connections", &["8000 connections", "15000 connections"], &[Culvert, Passt], 2, 1.0),
    part("translator-idle", &[], &[Culvert, Passt], 1, 10.0),
    part("translator-all-ports", &[], &[Culvert, Passt], 1, 1.0),
];

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::scenario;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn all_parts_are_there() {
        let options = Line::parse_from(["bench"]).options;
        for part in PARTS {
            let scenario = scenario::find(part.scenario).unwrap();
            let cases = (scenario.cases)(&options).unwrap();
            for name in part.cases {
                assert!(cases.iter().any(|case| case.name == *name), "{} has no case {name}", part.scenario);
            }
            assert!(part.peers.iter().all(|peer| scenario.peers.contains(peer)), "{}", part.scenario);
        }
    }
}
