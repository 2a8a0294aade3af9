//! Open vSwitch with DPDK in a folder of its own, from what bench/peers has fetched: nothing of it is installed, and a
//! switch that the machine may have is left alone.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use culvert_system::console::Console;
use culvert_system::paths::peer;
use culvert_system::place::Place;
use tempfile::TempDir;

use super::{Count, Running, Setup};

/// A running Open vSwitch: its switch and its database.
pub struct Switch {
    daemon: Console,
    _database: Console,
    folder: TempDir,
    root: PathBuf,
}

/// Starts it with one bridge, whose one flow is NORMAL, as it is for a new bridge; `tso`: segmentation requests pass, and the guests
/// listen.
pub fn start(setup: &Setup, tso: bool) -> Result<(Vec<PathBuf>, Running)> {
    ensure!(setup.nics.is_empty(), "Open vSwitch is measured between guests only");
    let (folder, root) = (tempfile::Builder::new().prefix("ovs-").tempdir()?, peer("ovs")?);
    let at = |name: &str| folder.path().join(name).display().to_string();
    let share = root.join("usr/share/openvswitch");
    let variables = ["OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR"].map(|name| format!("{name}={}", folder.path().display()));
    let mut variables = variables.to_vec();
    variables.push(format!("OVS_PKGDATADIR={}", share.display()));

    run(&root, "usr/bin/ovsdb-tool", &["create", &at("db"), &share.join("vswitch.ovsschema").display().to_string()])?;
    let place = Place { variables: variables.clone(), ..Place::default() };
    let remote = format!("--remote=punix:{}", at("db.sock"));
    let arguments = [at("db"), remote, format!("--unixctl={}", at("db.ctl"))];
    let database = Console::start_in(&place, "ovsdb-server", root.join("usr/sbin/ovsdb-server"), &arguments)?;
    wait(&folder.path().join("db.sock"), &database)?;

    let vsctl = |words: &[String]| {
        let db = format!("--db=unix:{}", at("db.sock"));
        run(&root, "usr/bin/ovs-vsctl", &[&[db, "--timeout=30".to_owned()], words].concat())
    };
    let words = |line: String| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let mut settings = words("--no-wait init -- set Open_vSwitch . other_config:dpdk-init=true".to_owned());
    // Without hugepages, as all peers here. With --legacy-mem it does not add --in-memory, which DPDK refuses then.
    settings.extend([
        "other_config:dpdk-extra=--no-huge --legacy-mem -m 2048 --no-pci --no-shconf --no-telemetry".to_owned(),
        format!("other_config:pmd-cpu-mask={:#x}", setup.cores.iter().fold(0, |mask, core| mask | 1_u64 << core)),
        format!("other_config:dpdk-lcore-mask={:#x}", 1_u64 << (if setup.core() == 0 { 1 } else { 0 })),
    ]);
    if tso {
        // It is read once, when DPDK starts.
        settings.push("other_config:userspace-tso-enable=true".to_owned());
    }
    vsctl(&settings)?;
    let place = Place { variables, ..Place::default() };
    let arguments = [format!("unix:{}", at("db.sock")), format!("--unixctl={}", at("ctl"))];
    let program = root.join("usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk");
    let daemon = Console::start_in(&place, "ovs-vswitchd", program, &arguments)?;
    wait(&folder.path().join("ctl"), &daemon)?;

    let mut ports = words("add-br br0 -- set bridge br0 datapath_type=netdev".to_owned());
    ports.push("other_config:mac-table-size=131072".to_owned());
    let mtu = setup.mtu;
    // Ports that listen themselves have no checksum offload in Open vSwitch 3.1, so that with TSO it drops what TCP sends to them ("No TCP
    // checksum support"): there the guests listen, and it connects.
    let kind = |guest: usize| match tso {
        false => "type=dpdkvhostuser".to_owned(),
        true => format!("type=dpdkvhostuserclient options:vhost-server-path={}", at(&format!("vm{guest}"))),
    };
    for guest in 0..setup.guests {
        let kind = kind(guest);
        let port = format!(
            "-- add-port br0 vm{guest} -- set interface vm{guest} {kind} -- set interface vm{guest} mtu_request={mtu}"
        );
        ports.extend(words(port));
    }
    vsctl(&ports).with_context(|| daemon.last_words())?;
    let sockets: Vec<PathBuf> = (0..setup.guests).map(|guest| folder.path().join(format!("vm{guest}"))).collect();
    for socket in sockets.iter().filter(|_| !tso) {
        wait(socket, &daemon)?;
    }
    Ok((sockets, Running::Ovs(Switch { daemon, _database: database, folder, root })))
}

impl Switch {
    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// By `dpif-netdev/pmd-perf-show`: iterations that had frames.
    pub fn busy(&mut self) -> Result<Count> {
        let shown = self.show("dpif-netdev/pmd-perf-show")?;
        parse(&shown).with_context(|| format!("no cycles in what ovs-appctl shows:\n{shown}"))
    }

    pub fn explain(&mut self) -> String {
        let shown = self.show("dpif-netdev/pmd-perf-show").unwrap_or_else(|error| format!("{error:#}"));
        format!("Open vSwitch shows:\n{shown}\n{}", self.daemon.last_words())
    }

    fn show(&self, what: &str) -> Result<String> {
        let control = self.folder.path().join("ctl").display().to_string();
        run(&self.root, "usr/bin/ovs-appctl", &["-t", &control, what])
    }
}

/// From lines such as "- Used TSC cycles:  1718308878  ( 77.1 % of total cycles)", "- busy iterations:  8  ( 25.0 % of used
/// cycles)" and "Rx packets:  640  (...)".
fn parse(shown: &str) -> Option<Count> {
    let after = |name: &str| shown.lines().find_map(|line| line.split_once(name)).map(|(_, rest)| rest.trim());
    let number = |text: &str| text.split([' ', '%']).find(|word| !word.is_empty())?.parse::<f64>().ok();
    let in_brackets = |text: &str| number(text.split_once('(')?.1.trim());
    let used = number(after("Used TSC cycles:")?)?;
    let (busy, packets) = (in_brackets(after("busy iterations:")?)? / 100.0, number(after("Rx packets:")?)?);
    Some(Count { nanoseconds: used * busy / crate::clock::ticks_per_nanosecond(), frames: packets })
}

/// Runs one of its programs, which must succeed, and returns what it printed.
fn run<A: AsRef<std::ffi::OsStr>>(root: &Path, program: &str, arguments: &[A]) -> Result<String> {
    let output = Command::new(root.join(program)).args(arguments).output().context("Open vSwitch: run bench/peers")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} failed with {}: {said}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn wait(path: &Path, console: &Console) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while !path.exists() {
        if Instant::now() > deadline {
            bail!("{} does not come; {}", path.display(), console.last_words());
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

const LIMIT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cycles_are_found_in_what_ovs_shows() {
        let shown = "pmd thread numa_id 0 core_id 1:\n\n  Iterations:            112108196  (0.28 us/it)\n  \
                     - Used TSC cycles:     1000000  ( 99.6 % of total cycles)\n  \
                     - idle iterations:     112108175  ( 75.0 % of used cycles)\n  \
                     - busy iterations:            21  ( 25.0 % of used cycles)\n  \
                     Rx packets:                   50  (0 Kpps, 4053902 cycles/pkt)\n";
        let count = parse(shown).unwrap();
        let expected = 250_000.0 / crate::clock::ticks_per_nanosecond();
        assert_eq!((count.nanoseconds, count.frames), (expected, 50.0));
        assert!(parse("pmd thread numa_id 0 core_id 1:\n").is_none());
    }
}
