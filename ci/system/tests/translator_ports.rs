//! All ports of a pod on two sockets, steered by culvertd for a translator that may not: while culvertd is there, without it, with the
//! next one. The guest is a network namespace with the kernel's own TCP/IP, behind a wire in place of a tap. What a translator does
//! of it that root has started is in the translator's own tests. passt has no such thing: ours only.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use culvert_api::translator;
use culvert_system::console::Console;
use culvert_system::daemon::{Daemon, Node};
use culvert_system::place::Namespace;
use culvert_system::rows::Rows;
use culvert_system::traffic::{self, Host};
use culvert_system::translator::{POD, Pod};
use culvert_system::wait::wait_until;
use serde_json::Value;

#[test]
fn culvertd_steers_all_ports() -> Result<()> {
    let (pod, mut rows) = (Pod::new()?, Rows::default());
    let namespace = guest(&pod)?;
    let (guest, world) = (&mut Host::new(&namespace), &mut Host::new(pod.world()));
    let node = Node::new()?;
    let mut daemon = node.start()?;
    let (folder, netns) = (pod.path(""), format!("/run/netns/{}", pod.pod().name()));
    let folder = folder.display().to_string();
    daemon.ctl(&format!("pod add launcher --folders {} --netns {netns} --tap tap0", folder.trim_end_matches('/')))?;
    println!();

    // An ordinary user without a capability, and few descriptors.
    let by = ["setpriv", "--reuid=107", "--regid=107", "--clear-groups", "--bounding-set=-all"];
    let by: Vec<_> = by.into_iter().chain(["prlimit", "--nofile=1024"]).collect();
    let socket = pod.path("vm.sock");
    let control = pod.path("vm.sock.ctl");
    let options = format!("-f --packet-help -s {} -t ~8080 -u ~8080", socket.display());
    let before = pod.pod().listen("0.0.0.0:9000")?;
    let mut translator = pod.launch_by("vm", &by, &options)?;
    wait_steered(&control, &mut translator)?;
    rows.same("ports that are steered", stat(&control, "steered_ports")?, 2 * 37_303 - 3);
    rows.same("sockets that listen in the pod, the other's among them", listening(&pod)?, 2);
    for port in [80, 443, 12_345, 65_000] {
        reach(&mut rows, world, guest, port);
    }
    rows.row("another's port is the other's", || is_others(&pod, &before, 9000));
    rows.row("an excluded port is closed", || is_closed(&pod, 8080));
    rows.row("a port of those that the kernel gives out is closed", || is_closed(&pod, 40_000));
    rows.row("culvertd knows whom it has helped", || wait_helped(&daemon));

    daemon.kill();
    for port in [81, 12_346] {
        reach(&mut rows, world, guest, port);
    }
    rows.row("without culvertd ports are taken away", || {
        ask(&control, "forward remove tcp 7000")?;
        is_closed(&pod, 7000)
    });
    let ports = stat(&control, "steered_ports")?;
    let after = pod.pod().listen("0.0.0.0:9001")?;
    rows.row("without culvertd others get their ports", || {
        wait_until("the port is left alone", || Ok(stat(&control, "steered_ports")? < ports))?;
        is_others(&pod, &after, 9001)
    });
    let daemon = node.start()?;
    rows.row("the next culvertd knows it", || wait_helped(&daemon));
    reach(&mut rows, world, guest, 82);
    rows.same("times that ports were given", translator.last_words().matches("culvertd steers all ports").count(), 1);

    // What holds the program has gone with the translator; the next one asks again.
    translator.signal("KILL")?;
    translator.wait(Duration::from_secs(10))?;
    rows.row("nobody is there without a translator", || is_closed(&pod, 12_345));
    let mut translator = pod.launch_by("vm", &by, &options)?;
    rows.row("another translator is helped", || wait_steered(&control, &mut translator));
    reach(&mut rows, world, guest, 83);
    daemon.stop()?;
    rows.end()
}

/// A guest that has the pod's addresses, at the other end of the pod's `tap0`.
fn guest(pod: &Pod) -> Result<Namespace> {
    let guest = Namespace::new("guest")?;
    // The pod's kernel is not to speak on the guest's wire.
    pod.pod().set_parameter("net/ipv6/conf/default/disable_ipv6", "1")?;
    for name in ["accept_dad", "accept_ra"] {
        guest.set_parameter(&format!("net/ipv6/conf/default/{name}"), "0")?;
    }
    pod.pod().ip(&format!("link add tap0 type veth peer name eth0 netns {}", guest.name()))?;
    pod.pod().set_parameter("net/ipv4/conf/tap0/arp_ignore", "8")?;
    pod.pod().ip("link set tap0 up")?;
    guest.ip(&format!("addr add {}/24 dev eth0", POD[0]))?;
    guest.ip(&format!("addr add {}/64 dev eth0", POD[1]))?;
    guest.ip("link set eth0 up")?;
    guest.ip("route add default via 192.0.2.1")?;
    guest.ip("route add default via fe80::1 dev eth0")?;
    Ok(guest)
}

fn reach(rows: &mut Rows, world: &mut Host, guest: &mut Host, port: u16) {
    for (address, name) in POD.into_iter().zip(["IPv4", "IPv6"]) {
        rows.row(&format!("TCP over {name} to port {port}"), || {
            traffic::tcp(world, guest, address, port, BYTES).map(drop)
        });
        rows.row(&format!("UDP over {name} to port {port}"), || {
            traffic::udp(world, guest, address, port, BYTES, 1400).map(drop)
        });
    }
}

fn is_others(pod: &Pod, listener: &std::net::TcpListener, port: u16) -> Result<()> {
    let stream = pod.world().connect(&format!("{}:{port}", POD[0]))?;
    listener.set_nonblocking(true)?;
    wait_until("a connection", || {
        Ok(listener.accept().is_ok_and(|(_, from)| stream.local_addr().is_ok_and(|at| at == from)))
    })
}

fn is_closed(pod: &Pod, port: u16) -> Result<()> {
    let connected = pod.world().connect(&format!("{}:{port}", POD[0]));
    ensure!(connected.is_err(), "somebody listens");
    Ok(())
}

fn ask(control: &Path, request: &str) -> Result<Vec<String>> {
    translator::ask(control, request, Duration::from_secs(10)).map_err(|error| anyhow!("{request}: {error}"))
}

fn stat(control: &Path, name: &str) -> Result<u64> {
    let stats = ask(control, "stats")?;
    let value = stats.iter().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    value.with_context(|| format!("no {name} in {stats:?}"))
}

/// How many TCP sockets listen in the pod.
fn listening(pod: &Pod) -> Result<usize> {
    pod.pod().run(|| {
        let listed = std::process::Command::new("ss").args(["-Hltn"]).output()?;
        Ok(String::from_utf8_lossy(&listed.stdout).lines().count())
    })
}

fn wait_steered(control: &Path, translator: &mut Console) -> Result<()> {
    let steered = || Ok(stat(control, "steered_ports").unwrap_or(0) > 0);
    wait_until("ports are steered", steered).map_err(|error| anyhow!("{error}; {}", translator.last_words()))
}

fn wait_helped(daemon: &Daemon) -> Result<()> {
    wait_until("culvertd tells whom it helps", || {
        let pods = daemon.ask("pod list")?;
        Ok(pods.pointer("/0/helped").and_then(Value::as_array).is_some_and(|helped| helped.len() == 1))
    })
}

const BYTES: u64 = 100_000;
