//! Hugepages for packet buffers.

use super::Finding;
use super::node::Node;
use super::settings::Settings;

const CHECK: &str = "hugepages";

/// Whether each NUMA node has free pages for `memory_mb`.
pub fn look(node: &Node, settings: &Settings) -> Vec<Finding> {
    if settings.hugepages == "never" {
        return vec![Finding::ok(CHECK, "hugepages = \"never\": none are wanted")];
    }
    let needed = settings.memory_mb;
    let folders: Vec<_> = node.names(NODES).into_iter().filter(|name| is_numa_node(name)).collect();
    let places: Vec<(String, String)> = if folders.is_empty() {
        vec![("this machine".to_owned(), "/sys/kernel/mm/hugepages".to_owned())]
    } else {
        folders.into_iter().map(|name| (format!("NUMA {name}"), format!("{NODES}/{name}/hugepages"))).collect()
    };
    places.into_iter().map(|(name, folder)| of_place(node, settings, &name, &folder, needed)).collect()
}

fn of_place(node: &Node, settings: &Settings, name: &str, folder: &str, needed: u64) -> Finding {
    let sizes = node.names(folder).into_iter().filter_map(|entry| {
        let kib: u64 = entry.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let free: u64 = node.text(format!("{folder}/{entry}/free_hugepages"))?.parse().ok()?;
        Some(kib.saturating_mul(free) / 1024)
    });
    let free = sizes.fold(0, u64::saturating_add);
    let found = format!("{name} has {free} MiB free in hugepages, {needed} MiB are wanted");
    if free >= needed {
        return Finding::ok(CHECK, found);
    }
    let pages = needed.div_ceil(2);
    let remedy = format!(
        "`sysctl vm.nr_hugepages={pages}` (for each NUMA node), best at boot by hugepages={pages}; a culvertd that runs may have taken \
         them already"
    );
    if settings.hugepages == "always" {
        return Finding::error(CHECK, format!("{found}, and hugepages = \"always\""), remedy);
    }
    Finding::warning(CHECK, format!("{found}: ordinary pages are used, which are slower"), remedy)
}

fn is_numa_node(name: &str) -> bool {
    name.strip_prefix("node").is_some_and(|number| number.parse::<u32>().is_ok())
}

const NODES: &str = "/sys/devices/system/node";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;
    use crate::doctor::node::tests::machine;

    #[test]
    fn free_pages_of_each_node_are_counted() {
        let (_folder, node) = machine(&[
            ("/sys/devices/system/node/node0/hugepages/hugepages-2048kB/free_hugepages", "128"),
            ("/sys/devices/system/node/node1/hugepages/hugepages-2048kB/free_hugepages", "127"),
            ("/sys/devices/system/node/online", "0-1"),
        ]);
        let levels = |hugepages: &str| {
            let settings = Settings { hugepages: hugepages.to_owned(), ..Settings::default() };
            look(&node, &settings).iter().map(|finding| finding.level).collect::<Vec<_>>()
        };
        assert_eq!(levels("auto"), [Level::Ok, Level::Warning]);
        assert_eq!(levels("always"), [Level::Ok, Level::Error]);
        assert_eq!(levels("never"), [Level::Ok]);
    }
}
