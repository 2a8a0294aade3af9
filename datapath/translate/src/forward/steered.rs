//! Ports that are steered: all of a protocol's come to one socket, and what arrives there tells for which port it was.

use std::collections::BTreeSet;

use super::{ForwardTable, Protocol, Rule};
use crate::flow::Target;

/// Which ports are steered, and where they lead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steered {
    /// Those that can be steered, by protocol and first port. No two have a port in common.
    rules: Vec<Rule>,
    left: Left,
}

/// Ports that are left alone, whatever is forwarded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Those that others in the pod have.
    pub taken: BTreeSet<(Protocol, u16)>,
    /// UDP's below this one: sockets of flows cannot be bound there.
    pub udp_below: u16,
}

impl Steered {
    /// Of a table what can be steered, but for what is left alone.
    pub fn of(table: &ForwardTable, left: Left) -> Self {
        let mut rules: Vec<_> = table.rules().iter().filter(|rule| rule.can_be_steered()).cloned().collect();
        rules.sort_by_key(|rule| (rule.protocol, rule.first));
        Self { rules, left }
    }

    /// Where a port leads to; `None`: it is not steered.
    pub fn target(&self, protocol: Protocol, port: u16) -> Option<Target> {
        let behind = self.rules.partition_point(|rule| (rule.protocol, rule.first) <= (protocol, port));
        let rule = self.rules.get(behind.checked_sub(1)?)?;
        let is_ours = rule.protocol == protocol && rule.ports().contains(&port) && !self.left.contains(protocol, port);
        is_ours.then(|| Target { address: rule.target, port: rule.target_of(port) })
    }

    /// All ports that are steered, in order.
    pub fn ports(&self, protocol: Protocol) -> impl Iterator<Item = u16> + '_ {
        let rules = self.rules.iter().filter(move |rule| rule.protocol == protocol);
        rules.flat_map(Rule::ports).filter(move |&port| !self.left.contains(protocol, port))
    }

    /// What is left alone.
    pub fn left(&self) -> &Left {
        &self.left
    }
}

impl Left {
    fn contains(&self, protocol: Protocol, port: u16) -> bool {
        (protocol == Protocol::Udp && port < self.udp_below) || self.taken.contains(&(protocol, port))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::table;
    use super::*;

    #[test]
    fn all_ports_are_steered_but_those_that_are_not_meant() {
        let mut table = table();
        table.add(Protocol::Tcp, "~25,~100-200").unwrap();
        table.add(Protocol::Tcp, "150:22").unwrap();
        table.add(Protocol::Udp, "all:192.0.2.9").unwrap_err();
        table.add(Protocol::Udp, "all").unwrap();
        assert!(table.can_be_steered());
        let left = Left { taken: [(Protocol::Tcp, 80), (Protocol::Udp, 5000)].into(), udp_below: 1024 };
        let steered = Steered::of(&table, left);
        for (protocol, port, is_steered) in [
            (Protocol::Tcp, 1, true),
            (Protocol::Tcp, 24, true),
            (Protocol::Tcp, 25, false),
            (Protocol::Tcp, 26, true),
            (Protocol::Tcp, 80, false),
            // Named, and so a listener's.
            (Protocol::Tcp, 150, false),
            (Protocol::Tcp, 201, true),
            (Protocol::Tcp, 5000, true),
            (Protocol::Tcp, 32_767, true),
            (Protocol::Tcp, 32_768, false),
            (Protocol::Tcp, 60_999, false),
            (Protocol::Tcp, 61_000, true),
            (Protocol::Tcp, 65_535, true),
            (Protocol::Tcp, 0, false),
            (Protocol::Udp, 80, false),
            (Protocol::Udp, 1024, true),
            (Protocol::Udp, 5000, false),
            (Protocol::Udp, 0, false),
        ] {
            let target = steered.target(protocol, port);
            assert_eq!(target, is_steered.then_some(Target { address: None, port }), "{protocol} {port}");
            assert_eq!(steered.ports(protocol).any(|steered| steered == port), is_steered, "{protocol} {port}");
        }
        let listened: Vec<_> = table.listened(true).rules().iter().map(ToString::to_string).collect();
        assert_eq!(listened, ["TCP *:150 => 22"]);
        assert_eq!(table.listened(false), table);
        assert!(!table.listened(true).can_be_steered());
    }

    #[test]
    fn only_all_addresses_are_steered() {
        let mut table = table();
        table.add(Protocol::Tcp, "127.0.0.1/all").unwrap();
        table.add(Protocol::Udp, "%lo/all").unwrap();
        assert!(!table.can_be_steered());
        assert_eq!(Steered::of(&table, Left::default()).ports(Protocol::Tcp).count(), 0);
    }
}
