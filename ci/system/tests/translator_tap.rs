//! A guest whose memory is not shared: QEMU has a tap device in the pod, and the translator, which it knows nothing of, has a packet
//! socket on that device: inherited, or from culvertd. passt has no such thing: ours only.

use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use culvert_system::cni::{Attachment, culvert, with};
use culvert_system::console::Console;
use culvert_system::daemon::{BUILDS, Daemon, Node};
use culvert_system::guest::Guest;
use culvert_system::kube_pod::KubeletRoot;
use culvert_system::paths::program;
use culvert_system::place::Place;
use culvert_system::qemu::{GuestOptions, Transport};
use culvert_system::rows::Rows;
use culvert_system::traffic::{self, Host};
use culvert_system::translator::{POD, Pod, WORLD, configure};
use rustix::io::FdFlags;
use serde_json::{Value, json};

#[test]
fn a_guest_behind_a_tap_is_translated() -> Result<()> {
    let (pod, mut rows) = (Pod::new()?, Rows::default());
    // The pod's kernel is not to speak on the guest's wire.
    pod.pod().set_parameter("net/ipv6/conf/default/disable_ipv6", "1")?;
    pod.pod().ip("tuntap add guest mode tap vnet_hdr")?;
    pod.pod().ip("link set guest up")?;
    let socket = pod.pod().packets("guest")?;
    rustix::io::fcntl_setfd(&socket, FdFlags::empty())?;
    let options = format!("-f --packet-fd {} -t {PORT} -u {PORT}", socket.as_raw_fd());
    let mut translator = pod.launch("vm", &options)?;
    drop(socket);

    let mut guest = boot(&pod, "guest")?;
    println!();
    let [v4, v6] = configure(&mut guest)?;
    rows.same("addresses", [v4.value("ip_address"), v6.value("ip6_address")], POD);
    let offloads = guest.offloads()?;
    let has = |name: &str| offloads.iter().any(|offload| offload == name);
    rows.same("offloads of the guest", [has("tx-checksumming"), has("tcp-segmentation-offload")], [true, true]);
    let world = &mut Host::new(pod.world());
    for (family, name) in [(0, "IPv4"), (1, "IPv6")] {
        rows.row(&format!("echo over {name}"), || guest.check(&format!("ping -c 2 -W 5 {}", WORLD[family])).map(drop));
        rows.row(&format!("TCP over {name}, guest to world"), || {
            traffic::tcp(&mut guest, world, WORLD[family], PORT, BYTES).map(drop)
        });
        rows.row(&format!("TCP over {name}, world to guest"), || {
            traffic::tcp(world, &mut guest, POD[family], PORT, BYTES).map(drop)
        });
        rows.row(&format!("UDP over {name}, guest to world"), || {
            traffic::udp(&mut guest, world, WORLD[family], PORT, BYTES, 1400).map(drop)
        });
        rows.row(&format!("UDP over {name}, world to guest"), || {
            traffic::udp(world, &mut guest, POD[family], PORT, BYTES, 1400).map(drop)
        });
    }
    translator.signal("TERM")?;
    let status = translator.wait(Duration::from_secs(10))?;
    ensure!(status.success(), "it ended with {status}; {}", translator.last_words());
    rows.end()
}

/// culvert-cni makes the tap that KubeVirt looks for and tells culvertd of the pod; culvertd gives the translator its packet socket.
/// Guest and translator do not notice that culvertd ends; a translator that is new, or whose tap is, is helped again.
#[test]
fn culvertd_gives_the_packet_socket() -> Result<()> {
    let (pod, kubelet, mut rows) = (Pod::new()?, KubeletRoot::new()?, Rows::default());
    let kube_pod = kubelet.pod("virt-launcher-vm", 1)?;
    let folder = kube_pod.add_volume("culvert-translator")?;
    let node = Node::new()?;
    let mut daemon = node.start()?;
    let config = with(
        culvert(&node, "tap"),
        &json!({"cniVersion": "1.1.0", "name": "pods", "network": "", "kubeletRoot": kubelet.path(), "owner": "0:0"}),
    );
    let netns = format!("/run/netns/{}", pod.pod().name());
    let plugin = program("culvert-cni")?;
    let plugins = plugin.parent().context("no folder")?;
    let attachment = Attachment::of_pod(&kube_pod, "0f1e2d3c4b5a69788796a5b4c3d2e1f0", &netns, "net1", plugins);
    let result = attachment.call("ADD", &config)?;
    println!();
    rows.same("interfaces in the result", result.get("interfaces").and_then(Value::as_array).map_or(0, Vec::len), 0);
    rows.row("CHECK", || attachment.call("CHECK", &with(config.clone(), &json!({"prevResult": result}))).map(drop));
    let shown = daemon.ask("pod show 0f1e2d3c4b5a-net1")?;
    rows.same("tap that culvertd knows", shown.get("tap").and_then(Value::as_str), Some("tap0"));

    let socket = folder.join("vm.sock");
    let options = format!("-f --packet-help -s {} -t {PORT} -u {PORT}", socket.display());
    let mut translator = pod.launch("vm", &options)?;
    wait_helped(&daemon, &mut translator)?;
    let mut guest = boot(&pod, "tap0")?;
    let [v4, _] = configure(&mut guest)?;
    rows.same("address of the guest", v4.value("ip_address"), POD[0]);
    let world = &mut Host::new(pod.world());
    rows.row("TCP, guest to world", || traffic::tcp(&mut guest, world, WORLD[0], PORT, BYTES).map(drop));
    rows.row("TCP, world to guest", || traffic::tcp(world, &mut guest, POD[1], PORT, BYTES).map(drop));
    let status = daemon.ask("status")?;
    let found = status.get("translators").and_then(Value::as_array).cloned().unwrap_or_default();
    rows.same("translators in culvertctl status", found.len(), 1);
    rows.same(
        "its pod",
        found.first().and_then(|found| found.get("pod")).and_then(Value::as_str),
        Some("0f1e2d3c4b5a-net1"),
    );

    // Another culvertd takes over while data flows: the translator's connections are its own.
    let over = AtomicBool::new(false);
    let taken = thread::scope(|scope| {
        let (guest, world, over) = (&mut guest, &mut *world, &over);
        // In another thread than this one, with which culvertd ends.
        let transfers = scope.spawn(move || -> Result<()> {
            loop {
                let last = over.load(Ordering::Relaxed);
                traffic::tcp(guest, world, WORLD[0], PORT, BYTES)?;
                if last {
                    return Ok(());
                }
            }
        });
        let taken = node.take_over(&mut daemon, BUILDS[1]);
        over.store(true, Ordering::Relaxed);
        rows.row("TCP while another culvertd takes over", || {
            transfers.join().map_err(|_| anyhow!("it has panicked"))?
        });
        taken
    });
    let mut daemon = taken?;
    rows.row("the one that has taken over knows it", || wait_helped(&daemon, &mut translator));
    rows.same("packet sockets that were given before and after", packet_sockets(&mut translator), 1);

    // culvertd is not needed any more; the next one finds everything as it is.
    daemon.kill();
    rows.row("TCP without culvertd", || traffic::tcp(&mut guest, world, WORLD[1], PORT, BYTES).map(drop));
    let daemon = node.start()?;
    rows.row("the next culvertd knows it", || wait_helped(&daemon, &mut translator));
    rows.row("TCP with it", || traffic::tcp(world, &mut guest, POD[0], PORT, BYTES).map(drop));
    rows.same("packet sockets that were given", packet_sockets(&mut translator), 1);

    // A translator that is killed has left its names.
    translator.signal("KILL")?;
    translator.wait(Duration::from_secs(10))?;
    let mut translator = pod.launch("vm", &options)?;
    rows.row("another translator is helped", || wait_helped(&daemon, &mut translator));
    configure(&mut guest)?;
    rows.row("TCP with it", || traffic::tcp(&mut guest, world, WORLD[0], PORT, BYTES).map(drop));

    rows.row("DEL", || attachment.delete(&config, Some(&result)));
    rows.row("DEL again", || attachment.delete(&config, None));
    rows.same("pods that culvertd knows", daemon.ask("pod list")?, json!([]));
    rows.same("the tap is there", pod.pod().ip("link show tap0").is_ok(), false);
    rows.row("the translator is alive", || {
        let ended = translator.ended()?;
        ensure!(ended.is_none(), "it has ended: {}", translator.last_words());
        Ok(())
    });
    daemon.stop()?;
    rows.end()
}

fn boot(pod: &Pod, tap: &str) -> Result<Guest> {
    let place = Place { namespace: Some(pod.pod().name().to_owned()), ..Place::default() };
    let options = GuestOptions { transport: Transport::Tap, place, ..GuestOptions::new("vm", Path::new(tap), 1) };
    let mut guest = options.boot()?;
    guest.wait_booted()?;
    Ok(guest)
}

/// Waits until culvertd has seen that a translator of the one pod has its packet socket.
fn wait_helped(daemon: &Daemon, translator: &mut Console) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let pods = daemon.ask("pod list")?;
        let helped = pods.pointer("/0/helped").and_then(Value::as_array);
        if helped.is_some_and(|helped| helped.len() == 1) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "it is not helped: {pods}; {}", translator.last_words());
        thread::sleep(Duration::from_millis(50));
    }
}

fn packet_sockets(translator: &mut Console) -> usize {
    translator.last_words().matches("culvertd has given a packet socket").count()
}

const PORT: u16 = 10001;

const BYTES: u64 = 4 << 20;
