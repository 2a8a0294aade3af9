//! What goes on over a takeover beside guests: devices with traffic, counters of all ports, the metrics process; and the log tells when the
//! link of a device is up again. `takeover.rs` has the guests, `translator_tap.rs` a translator.
#![allow(clippy::indexing_slicing, reason = "tests")]

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_driver::Shape;
use culvert_system::daemon::{BUILDS, Daemon, Node};
use culvert_system::frontend::FrontendGuest;
use culvert_system::pcap;
use culvert_system::place::ip;
use culvert_system::qemu::Role;
use culvert_system::veth::Veth;
use nix::net::if_::if_nametoindex;

/// A port, and the interface from which frames reach it.
const DEVICES: [(&str, &str, &str); 3] = [
    ("packet", "net_af_packet0,iface=in0", "out0"),
    ("tap", "net_tap0,iface=own0", "own0"),
    ("kept", "net_tap1,iface=own1,persist", "own1"),
];

/// Frames go on in both directions at virtual devices, which are closed and opened again; no counter goes back.
#[test]
fn devices_go_on() -> Result<()> {
    let _wire = Veth::new("in0", "out0")?;
    let mut node = Node::new()?;
    // A system call that is not in the lists ends culvertd.
    node.set_isolation("kill");
    let metrics = "127.0.0.1:9478";
    *node.config() = node.config().replace("metrics_address = \"off\"", &format!("metrics_address = \"{metrics}\""));
    let socket = node.add_guest("vm-a", Role::Listen, "");
    for (port, device, _) in DEVICES {
        node.add_nic(port, device, "");
    }
    let mut daemon = node.start()?;
    let mut guest = FrontendGuest::connect(&socket, Shape::default())?;
    let file = node.path("send.pcap");
    exchange(&mut guest, &daemon, &file)?;
    // Refused: the port's own address is nobody else's, and it is too short to be a frame.
    guest.send(&[0; 10])?;
    wait_for(&daemon, "vm-a", "rx_dropped", 1)?;
    for build in BUILDS.into_iter().rev() {
        let (before, kept) = (counters(&daemon)?, if_nametoindex("own1")?);
        ensure!(before.iter().all(|(_, counts)| counts[..4].iter().all(|count| *count > 0)), "{before:?}");
        daemon = node.take_over(&mut daemon, build)?;
        for (port, counts) in &before {
            let after = daemon.stats(port)?;
            for (counter, count) in COUNTERS.iter().zip(counts) {
                let after = after[*counter].as_u64().context("a number")?;
                ensure!(after >= *count, "{build}: {counter} of {port} was {count}, and is {after}");
            }
        }
        let now = if_nametoindex("own1")?;
        ensure!(now == kept, "the tap that persists was interface {kept}, and is {now}");
        exchange(&mut guest, &daemon, &file).with_context(|| format!("after {build} has taken over"))?;
        daemon.check_counters()?;
        // The address was the other one's until that one had gone.
        let page = daemon.console().wait_for("metrics are served", LIMIT)?;
        ensure!(!page.contains("the metrics process ended"), "it was started before its turn: {page}");
        ensure!(std::net::TcpStream::connect(metrics).is_ok(), "metrics are not served");
    }
    daemon.stop()
}

/// A device whose link takes its time: the gap at it is as long, and the log has it.
#[test]
fn the_log_tells_when_a_link_is_up_again() -> Result<()> {
    let _wire = Veth::new("in0", "out0")?;
    let mut node = Node::new()?;
    let (port, device, far) = DEVICES[0];
    node.add_nic(port, device, "");
    let mut daemon = node.start()?;
    daemon.wait_for_state(port, "up")?;
    ip(&format!("link set {far} down"))?;
    daemon.wait_for_state(port, "down")?;
    daemon = node.take_over(&mut daemon, BUILDS[1])?;
    daemon.wait_for_state(port, "down")?;
    // For some looks of culvertd's longer.
    std::thread::sleep(Duration::from_secs(1));
    let told = "link is up again after the takeover";
    ensure!(!daemon.console().transcript().contains(told), "it is down: {}", daemon.console().last_words());
    ip(&format!("link set {far} up"))?;
    daemon.console().wait_for(told, LIMIT)?;
    daemon.wait_for_state(port, "up")?;
    daemon.stop()
}

/// A frame goes from the guest to each device's far end, and one from there to the guest.
fn exchange(guest: &mut FrontendGuest, daemon: &Daemon, file: &Path) -> Result<()> {
    for (number, (port, _, far)) in (1..).zip(DEVICES) {
        let count = |counter: &str| daemon.stats(port)?[counter].as_u64().context("a number");
        let (sent, came) = (count("tx_frames")?, count("rx_frames")?);
        let frame = |to: [u8; 6], from: [u8; 6]| {
            let mut frame = [&to[..], &from, &[0x88, 0xb5]].concat();
            frame.resize(60, number);
            frame
        };
        guest.send(&frame([0xff; 6], GUEST))?;
        wait_for(daemon, port, "tx_frames", sent + 1)?;
        let wanted = frame(GUEST, [2, 0, 0, 0, 9, number]);
        pcap::write(file, [&wanted[..]])?;
        let deadline = Instant::now() + LIMIT;
        // Again and again: an interface takes its time until it is up.
        loop {
            pcap::send(file, far)?;
            let received = std::iter::from_fn(|| guest.interface.receive()).any(|(_, frame)| frame == wanted);
            if received && count("rx_frames")? > came {
                break;
            }
            ensure!(Instant::now() < deadline, "nothing comes in by {port}: {}", daemon.ctl("stats")?);
        }
        guest.kick_receive()?;
    }
    Ok(())
}

fn counters(daemon: &Daemon) -> Result<Vec<(&'static str, Vec<u64>)>> {
    let of_port = |port: &'static str| {
        let stats = daemon.stats(port)?;
        let counts = COUNTERS.iter().map(|counter| stats[*counter].as_u64().context("a number"));
        Ok((port, counts.collect::<Result<_>>()?))
    };
    DEVICES.iter().map(|(port, ..)| *port).chain(["vm-a"]).map(of_port).collect()
}

fn wait_for(daemon: &Daemon, port: &str, counter: &str, least: u64) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while daemon.stats(port)?[counter].as_u64().context("a number")? < least {
        ensure!(Instant::now() < deadline, "{counter} of {port} does not reach {least}: {}", daemon.ctl("stats")?);
    }
    Ok(())
}

const GUEST: [u8; 6] = [2, 0, 0, 0, 0, 1];
const COUNTERS: [&str; 5] = ["rx_frames", "rx_bytes", "tx_frames", "tx_bytes", "rx_dropped"];
const LIMIT: Duration = Duration::from_secs(30);
