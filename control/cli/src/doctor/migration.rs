//! The networks that migrations take: those of this host's proxy, and virt-handler's.

use culvert_migration::doctor::{self, Verdict};

use super::Finding;
use super::node::Node;
use super::settings::Settings;

const CHECK: &str = "migration";

/// Whether migrations take the network that is meant for them.
pub fn look(node: &Node, settings: &Settings) -> Vec<Finding> {
    let networks = settings.migration_networks.iter().map(doctor::network);
    networks.chain(doctor::virt_handler(&node.path("/proc"))).map(finding).collect()
}

fn finding(doctor::Finding { verdict, message, remedy }: doctor::Finding) -> Finding {
    match verdict {
        Verdict::Good => Finding::ok(CHECK, message),
        Verdict::Absent => Finding::warning(CHECK, message, remedy),
        Verdict::Wrong if remedy.is_empty() => Finding::error(CHECK, message, "see docs/MIGRATION.md"),
        Verdict::Wrong => Finding::error(CHECK, message, remedy),
    }
}

#[cfg(test)]
mod tests {
    use culvert_migration::address::Places;
    use culvert_migration::rules::Network;

    use super::*;
    use crate::doctor::Level;
    use crate::doctor::node::tests::machine;

    fn network(interface: &str, otherwise: Option<&str>) -> Network {
        let otherwise = otherwise.map(|address| address.parse().unwrap());
        let places = Places { interface: interface.to_owned(), network_status: None, otherwise };
        Network { name: "fast".to_owned(), migrations: Vec::new(), places, rate: None }
    }

    #[test]
    fn networks_of_the_proxy() {
        let (_folder, node) = machine(&[]);
        let migration_networks =
            vec![network("no-such", Some("203.0.113.9")), network("no-such", None), network("lo", None)];
        let findings = look(&node, &Settings { migration_networks, ..Settings::default() });
        let levels: Vec<_> = findings.iter().map(|finding| finding.level).collect();
        assert_eq!(levels, [Level::Warning, Level::Error, Level::Error], "{findings:?}");
        assert!(findings.iter().all(|finding| finding.found.contains("fast") && finding.remedy.is_some()));
        assert_eq!(look(&node, &Settings::default()), []);
    }

    #[test]
    fn virt_handler_is_found_by_its_name() {
        let (_folder, node) = machine(&[("/proc/7/comm", "virt-handler\n")]);
        let findings = look(&node, &Settings::default());
        assert_eq!(findings[0].level, Level::Error, "it has no namespace that could be looked into");
        assert!(findings[0].found.contains("virt-handler"));
    }
}
