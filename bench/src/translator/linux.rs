//! TCP between a Linux guest and the world around its pod.
//!
//! The guest is user-mode Linux of ci/peers, which runs natively, over vhost-user. The world is another network namespace,
//! joined to the pod's by a veth pair. The floor is iperf3 in the pod, without a guest, by calls of 64 and of 256 KiB; the bridge is what a
//! guest has whose tap is joined with the pod's interface in the kernel.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_system::console::Console;
use culvert_system::guest::Guest;
use culvert_system::place::Place;
use culvert_system::qemu::Transport;
use culvert_system::translator::{GATEWAYS, POD, Pod, Translator, WORLD, configure, run_in};
use culvert_system::uml;
use serde_json::Value;

use super::running::{Taken, pod};
use crate::options::Options;
use crate::peer::Peer;
use crate::scenario::{Case, Figure};

pub fn cases(options: &Options) -> Result<Vec<Case>> {
    let case = |(family, &mtu): (&'static str, &u16)| {
        let options = options.clone();
        let name = if mtu == 0 { "the default MTU".to_owned() } else { format!("MTU {mtu}") };
        let address = WORLD[usize::from(family == "IPv6")];
        Case::new(format!("{family}, {name}"), move |peer| match peer {
            Peer::Sockets64 => floor(&options, address, "64K"),
            Peer::Sockets => floor(&options, address, "256K"),
            Peer::Bridge => bridge(&options, address, mtu),
            _ => translated(&options, address, mtu, peer),
        })
    };
    Ok(["IPv4", "IPv6"].iter().flat_map(|family| options.mtus.iter().map(|mtu| (*family, mtu))).map(case).collect())
}

/// With a translator and a guest of its own.
fn translated(options: &Options, address: &str, mtu: u16, peer: Peer) -> Result<Vec<Figure>> {
    // The world shares the translator's core, so that a machine of two cores will do.
    let pod = pod(options, peer, Some(options.switch_core()))?;
    let mut server = serve(options.switch_core(), &pod)?;
    let mtu = if mtu == 0 { String::new() } else { format!("-m {mtu}") };
    let mut translator = pod.translator("vm", Transport::VhostUser, &mtu)?;
    let place = Place { core: Some(options.load_core()), ..Place::default() };
    let mut guest = uml::boot_newest(&place, "vm", translator.socket(), 1)?;
    guest.wait_booted()?;
    configure(&mut guest).with_context(|| translator.last_words())?;
    measure(options, &mut server, &mut guest, address, Some(&translator)).with_context(|| translator.last_words())
}

/// Without a translator: the guest's tap and the pod's interface on a bridge.
fn bridge(options: &Options, address: &str, mtu: u16) -> Result<Vec<Figure>> {
    let pod = pod(options, Peer::Culvert, None)?;
    let mut server = serve(options.switch_core(), &pod)?;
    // The guest has the pod's addresses. What is beyond the veth pair has an MTU of 1500, as the pod.
    let mtu = if mtu == 0 { 1500 } else { mtu };
    for command in [
        "addr flush dev eth0",
        "link add bridge type bridge",
        "tuntap add tap mode tap vnet_hdr",
        "link set eth0 master bridge",
        "link set tap master bridge",
        "link set eth0 up",
        "link set tap up",
        "link set bridge up",
    ] {
        pod.pod().ip(command)?;
    }
    let place =
        Place { core: Some(options.load_core()), namespace: Some(pod.pod().name().to_owned()), ..Place::default() };
    let mut guest = uml::boot_on_tap(&place, "vm", "tap", 1)?;
    guest.wait_prompt()?;
    let [v4, v6] = POD;
    let [via4, via6] = GATEWAYS;
    guest.check(&format!(
        "ip link set vec0 name eth0; ip link set eth0 mtu {mtu} up; ip addr add {v4}/24 dev eth0; ip addr add {v6}/64 dev eth0 nodad; \
         ip route add default via {via4}; ip -6 route add default via {via6} dev eth0"
    ))?;
    ensure!(guest.ping(via4, 3)? > 0, "the bridge passes nothing");
    measure(options, &mut server, &mut guest, address, None)
}

/// iperf3's server in the world.
fn serve(core: usize, pod: &Pod) -> Result<Console> {
    let place = Place { core: Some(core), namespace: Some(pod.world().name().to_owned()), ..Place::default() };
    Console::start_in(&place, "iperf3", "iperf3", &["-s", "--forceflush"])
}

/// From the guest and back.
fn measure(
    options: &Options,
    server: &mut Console,
    guest: &mut Guest,
    address: &str,
    translator: Option<&Translator>,
) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (direction, rate_name, cost_name) in
        [("", super::THERE, super::THERE_CPU), ("-R", super::BACK, super::BACK_CPU)]
    {
        server.wait_for("Server listening", LIMIT)?;
        let taken = || translator.map(|translator| Taken::of(translator.pid())).transpose();
        let before = taken()?;
        let seconds = options.whole_seconds();
        let rate = guest.iperf(address, &format!("-t {seconds} -P {} {direction}", options.streams))?;
        ensure!(rate > 0.0, "iperf3 carried nothing");
        figures.push(Figure::gain(rate_name, "Gbit/s", rate / 1e3));
        if let (Some(before), Some(after)) = (before, taken()?) {
            let gigabytes = rate * f64::from(seconds) / 8e3;
            figures.push(Figure::cost(
                cost_name,
                super::CPU_UNIT,
                after.since(before).running.as_secs_f64() / gigabytes,
            ));
        }
    }
    if let Some(translator) = translator {
        figures.push(Figure::cost("resident memory", "MiB", translator.memory()? as f64 / 1024.0));
        figures.push(Figure::cost("descriptors", "", translator.descriptors()? as f64));
    }
    Ok(figures)
}

/// iperf3 in the pod, which moves the same bytes by calls of this length.
fn floor(options: &Options, address: &str, call: &str) -> Result<Vec<Figure>> {
    let pod = pod(options, Peer::Culvert, None)?;
    let mut server = serve(options.load_core(), &pod)?;
    let mut figures = Vec::new();
    for (direction, rate_name, cost_name) in
        [("", super::THERE, super::THERE_CPU), ("-R", super::BACK, super::BACK_CPU)]
    {
        server.wait_for("Server listening", LIMIT)?;
        let (core, seconds, streams) = (options.switch_core(), options.whole_seconds(), options.streams);
        let command =
            format!("taskset -c {core} iperf3 -J -c {address} -l {call} -t {seconds} -P {streams} {direction}");
        let report: Value = serde_json::from_str(&run_in(pod.pod(), &command)?)?;
        let number = |path: &str| report.pointer(path).and_then(Value::as_f64).with_context(|| path.to_owned());
        let rate = number("/end/sum_received/bits_per_second")? / 1e9;
        let part = number("/end/cpu_utilization_percent/host_total")? / 100.0;
        figures.push(Figure::gain(rate_name, "Gbit/s", rate));
        figures.push(Figure::cost(cost_name, super::CPU_UNIT, part / (rate / 8.0)));
    }
    Ok(figures)
}

const LIMIT: Duration = Duration::from_secs(30);
