//! Containers of podman, with the CNI as its network backend, whose network plugins are culvert-cni and Debian's: a guest on a port of
//! culvertd's, and one on a translator in its container.
#![allow(clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_system::cni::{bridge, culvert, network, with};
use culvert_system::console::Console;
use culvert_system::daemon::Node;
use culvert_system::kube_pod::check_socket;
use culvert_system::podman::Podman;
use culvert_system::qemu::{GuestOptions, Role};
use culvert_system::rows::Rows;
use culvert_system::traffic::{self, Host};
use culvert_system::translator::{lease, translator_program};
use culvert_system::uml;
use culvert_system::world::{WORLD, World};
use serde_json::{Value, json};

#[test]
fn containers_have_ports() -> Result<()> {
    let (mut node, mut rows) = (Node::new()?, Rows::default());
    let peer = node.add_guest("peer", Role::Listen, "");
    let mut daemon = node.start()?;
    let ipam = json!({"ipam": {"type": "host-local", "dataDir": node.path("addresses"), "subnet": "10.0.0.128/25"}});
    // User-mode Linux has no device when it is offered more queues, see docs/ARCHITECTURE.md.
    let vhostuser = with(culvert(&node, "vhostuser"), &json!({"queues": 1}));
    let podman = Podman::new(&[
        network("blue", &[with(vhostuser.clone(), &ipam)]),
        network("more", &[json!({"type": "loopback"}), vhostuser]),
    ])?;
    println!();
    let id = podman.start("vm", &["blue", "more"], &[])?;
    let sockets = node.path("pods").join(&id[..12]);
    rows.row("a socket and a port for each interface", || {
        for interface in ["eth0", "eth1"] {
            check_socket(&sockets.join(format!("{interface}.sock")))?;
            daemon.port(&format!("{}-{interface}", &id[..12]))?;
        }
        Ok(())
    });
    rows.row("guests on both of them and another", || {
        let mut peer = uml::boot("peer", &peer, 2)?;
        let mut guests = [
            uml::boot("eth0", &sockets.join("eth0.sock"), 11)?,
            GuestOptions::new("eth1", &sockets.join("eth1.sock"), 12).boot()?,
        ];
        peer.wait_ready()?;
        for guest in &mut guests {
            guest.wait_ready()?;
            let address = guest.address().to_owned();
            guest.send_tcp(&mut peer, "10.0.0.2", 1 << 20)?;
            peer.send_tcp(guest, &address, 1 << 20)?;
        }
        Ok(())
    });
    rows.row("a removed container leaves nothing", || {
        podman.remove("vm")?;
        ensure!(ports(&daemon.ask("port list")?) == ["peer"], "culvertd has {}", daemon.ctl("port list")?);
        ensure!(!sockets.exists(), "{} is there", sockets.display());
        daemon.check_counters()
    });
    rows.row("nor does one whose culvertd is down meanwhile", || {
        let id = podman.start("vm", &["blue"], &[])?;
        daemon.kill();
        podman.remove("vm")?;
        let sockets = node.path("pods").join(&id[..12]);
        ensure!(!sockets.exists(), "{} is there", sockets.display());
        daemon = node.start()?;
        ensure!(ports(&daemon.ask("port list")?) == ["peer"], "culvertd has {}", daemon.ctl("port list")?);
        Ok(())
    });
    rows.row("no container without culvertd, and the next has its addresses", || {
        daemon.kill();
        let error = podman.start("vm", &["blue"], &[]).err().context("it runs")?.to_string();
        ensure!(error.contains("culvertd"), "it says {error}");
        podman.remove("vm")?;
        let held =
            fs::read_dir(node.path("addresses/blue"))?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let held: Vec<_> = held.filter(|name| name.starts_with("10.")).collect();
        ensure!(held.is_empty(), "addresses are held: {held:?}");
        daemon = node.start()?;
        podman.start("vm", &["blue"], &[])?;
        podman.remove("vm")
    });
    daemon.stop()?;
    rows.end()
}

#[test]
fn a_container_has_a_translator() -> Result<()> {
    let (node, world, mut rows) = (Node::new()?, World::new()?, Rows::default());
    // No culvertd runs: this mode needs none.
    let podman = Podman::new(&[network("pods", &[bridge(&node, "10.89.0.0/16"), culvert(&node, "translator")])])?;
    println!();
    podman.start("vm", &["pods"], &[])?;
    let said = podman.run(&[
        "inspect",
        "--format",
        "{{.NetworkSettings.SandboxKey}} {{.NetworkSettings.Networks.pods.IPAddress}}",
        "vm",
    ])?;
    let (netns, address) = said.trim().split_once(' ').context("no namespace")?;
    // As QEMU's user, without any capability: low ports and echo are the plugin's.
    let folder = tempfile::Builder::new().prefix("culvert-").tempdir()?;
    std::os::unix::fs::chown(folder.path(), Some(107), Some(107))?;
    let socket = folder.path().join("guest.sock");
    let mut words = vec![format!("--net={netns}"), "--".to_owned()];
    words.extend(
        "setpriv --reuid 107 --regid 107 --clear-groups --bounding-set -all --inh-caps -all --no-new-privs"
            .split(' ')
            .map(str::to_owned),
    );
    words.push(translator_program()?.display().to_string());
    words.extend(["-f", "--vhost-user", "--no-map-gw", "-t", "443", "-s"].map(str::to_owned));
    words.push(socket.display().to_string());
    let mut translator = Console::start("translator", "nsenter", &words)?;
    wait_for(&socket)?;
    let mut guest = GuestOptions::new("vm", &socket, 1).boot()?;
    let mut outside = Host::new(world.namespace());
    rows.row("its guest has the container's address", || {
        guest.wait_booted()?;
        guest.check("ip link set eth0 up")?;
        let lease = lease(&mut guest, 4)?;
        ensure!(
            lease.value("ip_address") == address,
            "it has {}, and the container {address}",
            lease.value("ip_address")
        );
        Ok(())
    });
    rows.row("data to the world", || traffic::tcp(&mut guest, &mut outside, WORLD, 10001, 1 << 20).map(drop));
    rows.row("data from the world, on a low port", || {
        traffic::tcp(&mut outside, &mut guest, address, 443, 1 << 20).map(drop)
    });
    rows.row("echo", || {
        let answered = guest.ping(WORLD, 3)?;
        ensure!(answered == 3, "{answered} of 3 are answered; {}", translator.last_words());
        Ok(())
    });
    rows.row("it is removed while the translator runs", || {
        podman.remove("vm")?;
        ensure!(translator.ended()?.is_none(), "the translator has ended; {}", translator.last_words());
        Ok(())
    });
    rows.end()
}

/// The names of ports.
fn ports(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(|port| port["name"].as_str()).collect()
}

fn wait_for(path: &Path) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !path.exists() {
        ensure!(Instant::now() < deadline, "there is no {}", path.display());
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
