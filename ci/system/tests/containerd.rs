//! Pods of containerd, run as kubelet runs them, whose network plugins are culvert-cni and Debian's: ports and sockets come with a pod and
//! go with it, culvertd running or not.
#![allow(clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use culvert_system::cni::{bridge, culvert, network, with};
use culvert_system::containerd::{Container, Containerd, Sandbox};
use culvert_system::daemon::{Daemon, Node};
use culvert_system::kube_pod::{KubePod, KubeletRoot, check_socket};
use culvert_system::qemu::{GuestOptions, Role};
use culvert_system::rows::Rows;
use culvert_system::uml;
use serde_json::{Value, json};

#[test]
fn pods_have_ports() -> Result<()> {
    let (mut lab, mut rows) = (Lab::new()?, Rows::default());
    let peer = lab.node.add_guest("peer", Role::Listen, "");
    let mut daemon = lab.node.start()?;
    let pod = lab.pod(1)?;
    let sandbox = lab.containerd.run_pod(&pod)?;
    println!();
    rows.same("the pod's address is the bridge's", sandbox.address.starts_with("10.88."), true);
    rows.row("a socket and a port for each interface", || {
        for interface in INTERFACES {
            check_socket(&pod.volume("shared-dir").join(format!("{interface}.sock")))?;
            daemon.port(&port_name(&sandbox, interface))?;
        }
        Ok(())
    });
    rows.row("a container of the pod may use them, and has low ports", || {
        let mounts = vec![(pod.volume("shared-dir"), SHARED, false)];
        let compute = Container { name: "compute", mounts, ..Container::default() };
        let compute = lab.containerd.start_container(&sandbox, &compute)?;
        let look = format!("cd {SHARED} && ls && for name in *; do test -S $name && test -w $name || exit 1; done");
        let seen = lab.containerd.exec(&compute, &look)?;
        ensure!(seen == "eth1.sock\neth2.sock\n", "it sees {seen}");
        let keys = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range";
        let values = lab.containerd.exec(&compute, keys)?;
        ensure!(values == "0\n107\t107\n", "ports and groups are {values:?}");
        Ok(())
    });
    rows.row("a guest of the pod, on both interfaces in turn, and another", || {
        let mut peer = uml::boot("peer", &peer, 2)?;
        // By a path that is short enough.
        let short = lab.node.path("v");
        symlink(pod.volume("shared-dir"), &short)?;
        for (number, interface) in (11..).zip(INTERFACES) {
            let mut guest = GuestOptions::new(interface, &short.join(format!("{interface}.sock")), number).boot()?;
            if number == 11 {
                peer.wait_ready()?;
            }
            guest.wait_ready()?;
            daemon.wait_for_state(&port_name(&sandbox, interface), "up")?;
            let address = guest.address().to_owned();
            guest.send_tcp(&mut peer, "10.0.0.2", 1 << 20)?;
            peer.send_tcp(&mut guest, &address, 1 << 20)?;
        }
        Ok(())
    });
    rows.row("a stopped pod leaves nothing", || {
        lab.containerd.stop_pod(&sandbox)?;
        lab.check_gone(&daemon, &pod, &sandbox)
    });
    rows.row("it can be stopped again", || lab.containerd.stop_pod(&sandbox));
    rows.row("and removed", || {
        lab.containerd.remove_pod(&sandbox)?;
        daemon.check_counters()
    });
    daemon.stop()?;
    rows.end()
}

#[test]
fn pods_while_culvertd_is_down() -> Result<()> {
    let (mut lab, mut rows) = (Lab::new()?, Rows::default());
    let pod = lab.pod(1)?;
    println!();
    rows.row("no pod without culvertd, and kubelet is told to try again", || {
        let error = lab.containerd.run_pod(&pod).err().context("it runs")?.to_string();
        ensure!(error.contains("culvertd"), "it says {error}");
        pod.check_empty("shared-dir")?;
        ensure!(lab.records()?.is_empty(), "recorded are {:?}", lab.records()?);
        Ok(())
    });
    let mut daemon = lab.node.start()?;
    let sandbox = lab.containerd.run_pod(&pod)?;
    rows.row("a killed culvertd has the ports again", || {
        daemon.kill();
        daemon = lab.node.start()?;
        for interface in INTERFACES {
            daemon.port(&port_name(&sandbox, interface))?;
            check_socket(&pod.volume("shared-dir").join(format!("{interface}.sock")))?;
        }
        Ok(())
    });
    rows.row("a pod ends while culvertd is down", || {
        daemon.kill();
        lab.containerd.stop_pod(&sandbox)?;
        pod.check_empty("shared-dir")
    });
    // What kubelet does then.
    fs::remove_dir(pod.volume("shared-dir"))?;
    daemon = lab.node.start()?;
    rows.row("culvertd forgets its ports when it comes back", || {
        lab.check_gone(&daemon, &pod, &sandbox)?;
        let left = fs::read_dir(lab.node.path("state/removals"))?.count();
        ensure!(left == 0, "{left} removals are left");
        Ok(())
    });
    rows.row("kubelet's further calls", || {
        lab.containerd.stop_pod(&sandbox)?;
        lab.containerd.remove_pod(&sandbox)
    });
    daemon.stop()?;
    rows.end()
}

/// A node with three networks for its pods: Debian's bridge and culvert-cni for a translator, and ports, one of them chained.
struct Lab {
    node: Node,
    kubelet: KubeletRoot,
    containerd: Containerd,
}

impl Lab {
    fn new() -> Result<Self> {
        let (node, kubelet) = (Node::new()?, KubeletRoot::new()?);
        let of_kubelet = json!({"kubeletRoot": kubelet.path()});
        let vhostuser = with(culvert(&node, "vhostuser"), &of_kubelet);
        let ipam =
            json!({"ipam": {"type": "host-local", "dataDir": node.path("addresses"), "subnet": "10.0.0.128/25"}});
        let vhostuser = with(vhostuser, &ipam);
        let networks = [
            network("pods", &[bridge(&node, "10.88.0.0/16"), culvert(&node, "translator")]),
            network("blue", &[json!({"type": "loopback"}), vhostuser.clone()]),
            network("more", &[vhostuser]),
        ];
        Ok(Self { containerd: Containerd::start(&networks)?, node, kubelet })
    }

    fn pod(&self, number: u8) -> Result<KubePod> {
        let pod = self.kubelet.pod(&format!("virt-launcher-{number}"), number)?;
        pod.add_volume("shared-dir")?;
        Ok(pod)
    }

    /// Checks that a pod has left no port, no record, no socket, no mount and no network namespace.
    fn check_gone(&self, daemon: &Daemon, pod: &KubePod, sandbox: &Sandbox) -> Result<()> {
        for kind in ["port", "pod"] {
            let listed = daemon.ask(&format!("{kind} list"))?;
            let of_pod =
                |entry: &&Value| entry["name"].as_str().is_some_and(|name| name.starts_with(&sandbox.id[..12]));
            let left: Vec<_> = listed.as_array().into_iter().flatten().filter(of_pod).collect();
            ensure!(left.is_empty(), "culvertd still has {left:?}");
        }
        ensure!(self.records()?.is_empty(), "recorded are {:?}", self.records()?);
        pod.check_empty("shared-dir")?;
        ensure!(!sandbox.netns.exists(), "{} is there", sandbox.netns.display());
        for network in NETWORKS {
            let addresses = fs::read_dir(self.node.path("addresses").join(network))?;
            let held = addresses.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
            let held: Vec<_> = held.filter(|name| name.starts_with("10.")).collect();
            ensure!(held.is_empty(), "addresses are held: {held:?}");
        }
        Ok(())
    }

    /// culvert-cni's records.
    fn records(&self) -> Result<Vec<PathBuf>> {
        let mut records = Vec::new();
        for name in NETWORKS {
            let folder = self.node.path("cni").join(name);
            if folder.exists() {
                for entry in fs::read_dir(folder)? {
                    records.push(entry?.path());
                }
            }
        }
        Ok(records)
    }
}

/// The name of the port of an interface of a pod.
fn port_name(sandbox: &Sandbox, interface: &str) -> String {
    format!("{}-{interface}", &sandbox.id[..12])
}

const NETWORKS: [&str; 3] = ["pods", "blue", "more"];

/// Those with ports.
const INTERFACES: [&str; 2] = ["eth1", "eth2"];

/// Where a machine's pod has its sockets.
const SHARED: &str = "/var/lib/cni/usrcni";
