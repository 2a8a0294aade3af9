//! What Culvert promises of its speed, as ratios within a run, and whether a run has shown it.

use crate::result::RunResult;
use crate::translator::{BACK, BACK_CPU, THERE, THERE_CPU};
use crate::vm_to_vm::OF_ONE;

/// A promise.
pub struct Target {
    /// In a few words.
    pub what: &'static str,
    scenario: &'static str,
    /// Empty: the first one that there is.
    case: &'static str,
    figure: &'static str,
    /// With whom it is compared; none: the figure itself counts.
    pub peer: Option<&'static str>,
    bound: Bound,
}

#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Target {
    /// What was measured, of the last result that has it: Culvert's figure by the peer's, or Culvert's figure.
    pub fn measured(&self, results: &[RunResult]) -> Option<f64> {
        let scenarios = results.iter().rev().flat_map(|result| &result.scenarios);
        let cases = scenarios.filter(|scenario| scenario.name == self.scenario).flat_map(|scenario| &scenario.cases);
        let mut cases = cases.filter(|case| self.case.is_empty() || case.name == self.case);
        cases.find_map(|case| {
            let peer = self.peer.or(case.peers.first().map(String::as_str))?;
            let line = case.summary.iter().find(|line| line.figure == self.figure && line.peer == peer)?;
            if self.peer.is_none() {
                return Some(line.median);
            }
            // Ratios are the first peer's figures by the others'.
            (case.peers.first()? == "culvert").then_some(line.ratio).flatten()
        })
    }

    /// Whether that is what was promised.
    pub fn is_met(&self, measured: f64) -> bool {
        match self.bound {
            Bound::AtLeast(bound) => measured >= bound,
            Bound::AtMost(bound) => measured <= bound,
        }
    }

    /// What was promised.
    pub fn wanted(&self) -> String {
        match self.bound {
            Bound::AtLeast(bound) => format!("≥ {bound}"),
            Bound::AtMost(bound) => format!("≤ {bound}"),
        }
    }
}

const fn target(
    what: &'static str,
    [scenario, case, figure]: [&'static str; 3],
    peer: Option<&'static str>,
    bound: Bound,
) -> Target {
    Target { what, scenario, case, figure, peer, bound }
}

use Bound::{AtLeast, AtMost};

const TESTPMD: Option<&str> = Some("testpmd");
const OVS: Option<&str> = Some("ovs");
const PASST: Option<&str> = Some("passt");
const SOCKETS: Option<&str> = Some("sockets");

const V4: &str = "IPv4, MTU 1500";
const V6: &str = "IPv6, MTU 1500";
const CONNECTIONS: &str = "TCP, a connection for each";
const MANY: &str = "15000 connections";
const FEW: &str = "1,024 descriptors";

/// All of them.
pub const TARGETS: &[Target] = &[
    target("frames/s, 64 B", ["vm-to-vm", "64 B", "rate"], TESTPMD, AtLeast(2.0)),
    target("frames/s, 512 B", ["vm-to-vm", "512 B", "rate"], TESTPMD, AtLeast(1.6)),
    target("frames/s, 1500 B", ["vm-to-vm", "1500 B", "rate"], TESTPMD, AtLeast(1.3)),
    target("busy ns a frame, 64 B, touched", ["vm-to-vm", "64 B, touched", "busy"], TESTPMD, AtMost(0.5)),
    target("busy ns a frame, 512 B, touched", ["vm-to-vm", "512 B, touched", "busy"], TESTPMD, AtMost(0.65)),
    target("busy ns a frame, 1500 B, touched", ["vm-to-vm", "1500 B, touched", "busy"], TESTPMD, AtMost(0.85)),
    target("busy ns a frame, 9000 B, touched", ["vm-to-vm", "9000 B, touched", "busy"], TESTPMD, AtMost(0.65)),
    target("frames/s, 64 B, packed", ["vm-to-vm", "64 B, packed", "rate"], TESTPMD, AtLeast(1.4)),
    target("frames/s, 512 B, packed", ["vm-to-vm", "512 B, packed", "rate"], TESTPMD, AtLeast(1.3)),
    target("frames/s, 1500 B, packed", ["vm-to-vm", "1500 B, packed", "rate"], TESTPMD, AtLeast(1.1)),
    target("frames/s, 64 B", ["vm-to-vm", "64 B", "rate"], OVS, AtLeast(3.0)),
    target("frames/s, 512 B", ["vm-to-vm", "512 B", "rate"], OVS, AtLeast(2.2)),
    target("frames/s, 1500 B", ["vm-to-vm", "1500 B", "rate"], OVS, AtLeast(1.6)),
    target("frames/s to a NIC and back, 64 B", ["vm-to-nic", "64 B, net_ring and back", "rate"], TESTPMD, AtLeast(1.3)),
    target("the same, 1500 B", ["vm-to-nic", "1500 B, net_ring and back", "rate"], TESTPMD, AtLeast(1.15)),
    target("TCP, two QEMU guests", ["tcp", "", "rate"], TESTPMD, AtLeast(1.5)),
    target("the same", ["tcp", "", "rate"], Some("ovs-tso"), AtLeast(1.1)),
    target("TCP, two user-mode Linux guests", ["tcp-uml", "", "rate"], Some("culvert-plain"), AtLeast(3.0)),
    target("ping-pong p99, idle", ["latency", "0 % load", "p99"], TESTPMD, AtMost(0.9)),
    target("ping-pong p99, 50 % load", ["latency", "50 % load", "p99"], TESTPMD, AtMost(0.9)),
    target("processor time when nothing moves, %", ["idle", "", "processor time"], None, AtMost(1.0)),
    target("the next frame then, p99, us", ["idle", "", "first frame, p99"], None, AtMost(100.0)),
    target("256 idle ports, % of the rate alone", ["idle-ports", "256 idle", "of the rate alone"], None, AtLeast(97.0)),
    target("10,000 addresses, % of one", ["vm-to-vm", "64 B, 10,000 addresses", OF_ONE], None, AtLeast(90.0)),
    target("10,000 flows, % of one", ["vm-to-vm", "64 B, 10,000 flows", OF_ONE], None, AtLeast(90.0)),
    target("translator: s/GB to the world, IPv4", ["translator", V4, THERE_CPU], PASST, AtMost(0.75)),
    target("the same, IPv6", ["translator", V6, THERE_CPU], PASST, AtMost(0.75)),
    target("the same, IPv4", ["translator", V4, THERE_CPU], SOCKETS, AtMost(1.3)),
    target("translator: s/GB to the guest, IPv4", ["translator", V4, BACK_CPU], PASST, AtMost(0.4)),
    target("the same, IPv6", ["translator", V6, BACK_CPU], PASST, AtMost(0.4)),
    target("the same, IPv4", ["translator", V4, BACK_CPU], SOCKETS, AtMost(1.3)),
    target("translator: Gbit/s to the world", ["translator-streams", "1 stream", THERE], PASST, AtLeast(2.0)),
    target("translator: Gbit/s to the guest", ["translator-streams", "1 stream", BACK], PASST, AtLeast(2.0)),
    target("to the world, the default MTU", ["translator", "IPv4, the default MTU", THERE], PASST, AtLeast(1.5)),
    target("the same, s/GB", ["translator", "IPv4, the default MTU", THERE_CPU], PASST, AtMost(0.8)),
    target("to the guest, the default MTU", ["translator", "IPv4, the default MTU", BACK], PASST, AtLeast(1.5)),
    target("the same, s/GB", ["translator", "IPv4, the default MTU", BACK_CPU], PASST, AtMost(0.8)),
    target("translator: request and answer, p50", ["translator-requests", "TCP", "p50"], PASST, AtMost(0.8)),
    target("the same, p99", ["translator-requests", "TCP", "p99"], PASST, AtMost(0.8)),
    target("the same, a connection for each", ["translator-requests", CONNECTIONS, "rate"], PASST, AtLeast(1.5)),
    target(
        "translator: UDP to the world, 64 B",
        ["translator-datagrams", "64 B, guest to world", "rate"],
        PASST,
        AtLeast(2.0),
    ),
    target("the same, 1400 B", ["translator-datagrams", "1400 B, guest to world", "rate"], PASST, AtLeast(2.0)),
    target(
        "translator: UDP to the guest, 64 B",
        ["translator-datagrams", "64 B, world to guest", "rate"],
        PASST,
        AtLeast(2.0),
    ),
    target("the same, 1400 B", ["translator-datagrams", "1400 B, world to guest", "rate"], PASST, AtLeast(2.0)),
    target("in trains, 64 B", ["translator-datagrams", "64 B, world to guest, in trains", "rate"], PASST, AtLeast(2.0)),
    target(
        "the same, 1400 B",
        ["translator-datagrams", "1400 B, world to guest, in trains", "rate"],
        PASST,
        AtLeast(2.0),
    ),
    target("translator: to the guest, 1 % lost", ["translator-goodput", "1 % lost near", BACK], PASST, AtLeast(5.0)),
    target(
        "translator: memory of a connection, B",
        ["translator-connections", MANY, "memory of each"],
        None,
        AtMost(300.0),
    ),
    target("15,000 connections, % of 10", ["translator-connections", MANY, "of that with 10"], None, AtMost(120.0)),
    target(
        "translator: wake-ups a second, idle",
        ["translator-idle", "one guest, one connection", "wake-ups"],
        None,
        AtMost(0.1),
    ),
    target("all ports: resident memory, KiB", ["translator-all-ports", FEW, "resident memory"], None, AtMost(6144.0)),
    target(
        "the same: the kernel's slabs, KiB",
        ["translator-all-ports", FEW, "the kernel's slabs"],
        None,
        AtMost(1024.0),
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;
    use crate::scenario::{self, Figure};
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    /// A name that is changed in one place would leave a target unmeasured for ever.
    #[test]
    fn all_targets_are_cases_of_scenarios() {
        let options = Line::parse_from(["bench"]).options;
        for target in TARGETS {
            let scenario = scenario::find(target.scenario).unwrap();
            let cases = (scenario.cases)(&options).unwrap();
            assert!(target.case.is_empty() || cases.iter().any(|case| case.name == target.case), "{}", target.case);
            let peer = |name: &str| scenario.peers.iter().any(|peer| peer.name() == name);
            assert!(target.peer.is_none_or(peer), "{}: {:?}", target.scenario, target.peer);
        }
    }

    #[test]
    fn a_ratio_is_held_against_its_bound() {
        use crate::result::{CaseResult, Round, ScenarioResult};
        let of = |value: f64| [("rate".to_owned(), value)].into();
        let figures = [("culvert".to_owned(), of(6.0)), ("testpmd".to_owned(), of(2.5))].into();
        let rounds = vec![Round { figures, ..Round::default() }];
        let peers = vec!["culvert".to_owned(), "testpmd".to_owned()];
        let mut case = CaseResult { name: "64 B".to_owned(), peers, rounds, ..CaseResult::default() };
        case.sum_up(&[Figure::gain("rate", "frames/s", 0.0)]);
        let scenario = ScenarioResult { name: "vm-to-vm".to_owned(), cases: vec![case], ..ScenarioResult::default() };
        let results = [RunResult { scenarios: vec![scenario], ..RunResult::default() }];
        let first = &TARGETS[0];
        assert_eq!(first.measured(&results), Some(2.4));
        assert!(first.is_met(2.4) && !first.is_met(1.9) && first.wanted() == "≥ 2");
        assert_eq!(TARGETS[1].measured(&results), None);
    }
}
