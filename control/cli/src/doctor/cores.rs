//! The cores of the polling threads.

use super::Finding;
use super::node::{Node, numbers};
use super::settings::Settings;

const CHECK: &str = "cores";
const CPUS: &str = "/sys/devices/system/cpu";

/// Whether they are there, theirs alone, and fast.
pub fn look(node: &Node, settings: &Settings) -> Vec<Finding> {
    let workers = &settings.worker_cores;
    let online = numbers(&node.text(format!("{CPUS}/online")).unwrap_or_default());
    let missing: Vec<_> = workers.iter().copied().filter(|core| !online.contains(core)).collect();
    if !missing.is_empty() {
        let found = format!("worker_cores names {}, and this machine has {}", list(&missing), list(&online));
        return vec![Finding::error(CHECK, found, "name cores that there are in datapath.worker_cores")];
    }
    let mut findings = Vec::new();
    if online.iter().all(|core| workers.contains(core)) {
        let found = "all cores are worker cores: control and guests take time from the workers";
        findings.push(Finding::warning(CHECK, found, "leave at least one core out of datapath.worker_cores"));
    }
    let isolated = numbers(&node.text(format!("{CPUS}/isolated")).unwrap_or_default());
    let shared: Vec<_> = workers.iter().copied().filter(|core| !isolated.contains(core)).collect();
    if shared.is_empty() {
        findings.push(Finding::ok(CHECK, format!("worker cores {} are isolated", list(workers))));
    } else {
        let found = format!("worker cores {} are not isolated: other work may hold up frames", list(&shared));
        let remedy =
            format!("boot with isolcpus={0} nohz_full={0}, or give other work other cores by cpusets", list(workers));
        findings.push(Finding::warning(CHECK, found, remedy));
    }
    findings.extend(siblings(node, workers));
    let slow = |core: &&usize| {
        let governor = node.text(format!("{CPUS}/cpu{core}/cpufreq/scaling_governor"));
        governor.is_some_and(|governor| governor != "performance")
    };
    let slow: Vec<_> = workers.iter().filter(slow).copied().collect();
    if !slow.is_empty() {
        let found = format!("worker cores {} change their clock", list(&slow));
        findings.push(Finding::warning(CHECK, found, "`cpupower -c CORES frequency-set -g performance`"));
    }
    findings
}

/// Workers that share a core's execution units.
fn siblings(node: &Node, workers: &[usize]) -> Option<Finding> {
    let shares = |core: &usize| {
        let threads =
            numbers(&node.text(format!("{CPUS}/cpu{core}/topology/thread_siblings_list")).unwrap_or_default());
        threads.iter().any(|thread| thread != core && workers.contains(thread))
    };
    let sharing: Vec<_> = workers.iter().copied().filter(shares).collect();
    let found = format!("worker cores {} are threads of the same core: each has half of it", list(&sharing));
    (!sharing.is_empty())
        .then(|| Finding::warning(CHECK, found, "name one thread of each core in datapath.worker_cores"))
}

fn list(cores: &[usize]) -> String {
    cores.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level::{self, Error, Ok, Warning};
    use crate::doctor::node::tests::machine;

    fn levels(files: &[(&str, &str)], cores: &[usize]) -> Vec<Level> {
        let (_folder, node) = machine(files);
        let settings = Settings { worker_cores: cores.to_vec(), ..Settings::default() };
        look(&node, &settings).iter().map(|finding| finding.level).collect()
    }

    #[test]
    fn cores_are_there_isolated_and_fast() {
        let online = ("/sys/devices/system/cpu/online", "0-3");
        let isolated = ("/sys/devices/system/cpu/isolated", "2-3");
        assert_eq!(levels(&[online, isolated], &[2, 3]), [Ok]);
        assert_eq!(levels(&[online, isolated], &[9]), [Error]);
        assert_eq!(levels(&[online], &[1]), [Warning]);
        assert_eq!(levels(&[online], &[0, 1, 2, 3]), [Warning, Warning]);
        let threads = ("/sys/devices/system/cpu/cpu2/topology/thread_siblings_list", "2-3");
        let governor = ("/sys/devices/system/cpu/cpu3/cpufreq/scaling_governor", "powersave");
        assert_eq!(levels(&[online, isolated, threads], &[2, 3]), [Ok, Warning]);
        assert_eq!(levels(&[online, isolated, threads], &[2]), [Ok]);
        assert_eq!(levels(&[online, isolated, governor], &[3]), [Ok, Warning]);
    }
}
