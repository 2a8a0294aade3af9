//! A guest whose link goes down and up asks for its address again. KubeVirt does that to guests that have migrated where a binding is
//! registered with `migration: {method: link-refresh}`: virt-launcher has QEMU take the link down, and up again (`set_link`).
#![allow(clippy::indexing_slicing, reason = "tests")]

use std::path::Path;

use anyhow::{Context, Result, ensure};
use culvert_system::guest::Guest;
use culvert_system::qemu::{GuestOptions, Start, Transport};
use culvert_system::qmp::Monitor;
use culvert_system::translator::{POD, Pod, Translator, WORLD, lease};
use serde_json::json;

/// A guest's vhost-user device stops with its link and starts again: twice, and frames pass each time.
#[test]
fn a_guest_on_the_translator_has_its_link_taken_down_and_up() -> Result<()> {
    let pod = Pod::new()?;
    let mut translator = pod.translator("vm", Transport::VhostUser, "-4")?;
    let (mut guest, mut monitor) = start(&pod, &translator)?;
    for time in 1..=2 {
        refresh(&mut guest, &mut monitor, time).with_context(|| translator.last_words())?;
        ensure!(guest.ping(WORLD[0], 3)? == 3, "no answers after link-refresh {time}; {}", translator.last_words());
        ensure!(addresses(&mut guest)? == [format!("{}/24", POD[0])]);
    }
    let told = guest.check("cat /tmp/refresh")?;
    ensure!(told.matches("DHCPACK").count() == 2, "the guest did not ask each time:\n{told}");
    translator.stop()?;
    Ok(())
}

/// A guest that comes to another pod keeps what it was told in the first one, until its link goes down and up.
#[test]
fn a_guest_that_has_moved_to_another_pod_gets_that_ones_address() -> Result<()> {
    let (pod, other) = (Pod::named("first")?, Pod::named("second")?);
    for command in
        ["addr del 192.0.2.15/24 dev eth0", "addr add 192.0.2.77/24 dev eth0", "route add default via 192.0.2.1"]
    {
        other.pod().ip(command)?;
    }
    let [here, there] = [&pod, &other].map(|pod| pod.translator("vm", Transport::Stream, "-4"));
    let (here, mut there) = (here?, there?);
    let (mut guest, mut monitor) = start(&pod, &here)?;

    let (arriving, mut other_monitor) = launch(&other, &there, Start::Arrive)?;
    let uri = json!({ "uri": format!("unix:{}", other.path("migration").display()) });
    other_monitor.run("migrate-incoming", uri.clone())?;
    monitor.run("migrate", uri)?;
    other_monitor.wait_for("RESUME", std::time::Duration::from_secs(120)).context("the guest does not arrive")?;
    drop(guest.move_to(arriving));

    let carriers = guest.check("cat /sys/class/net/eth0/carrier_changes")?;
    ensure!(addresses(&mut guest)? == [format!("{}/24", POD[0])], "the move itself has changed its address");
    refresh(&mut guest, &mut other_monitor, 1).with_context(|| there.last_words())?;
    ensure!(
        guest.check("cat /sys/class/net/eth0/carrier_changes")? != carriers,
        "the guest did not see its link change"
    );
    ensure!(addresses(&mut guest)? == ["192.0.2.77/24"], "{:?}; {}", addresses(&mut guest)?, there.last_words());
    let told = guest.check("cat /tmp/refresh")?;
    ensure!(told.contains("DHCPNAK") && told.contains("ip_address=192.0.2.77"), "the guest was told:\n{told}");
    ensure!(guest.ping(WORLD[0], 3)? == 3, "no answers with the new address; {}", there.last_words());
    here.stop()?;
    there.stop()?;
    Ok(())
}

/// A guest that has an address, and asks again whenever its link comes up, as network managers do; and QEMU's monitor.
fn start(pod: &Pod, translator: &Translator) -> Result<(Guest, Monitor)> {
    let options = options(pod, translator, Start::Boot);
    let mut guest = options.boot()?;
    let monitor = connect(&options)?;
    guest.wait_booted()?;
    guest.check("ip link set eth0 up")?;
    lease(&mut guest, 4)?;
    ensure!(guest.ping(WORLD[0], 3)? == 3, "no answers at first");
    let carrier = |wanted: u8| format!("until [ $(cat /sys/class/net/eth0/carrier) = {wanted} ]; do sleep 0.1; done");
    let ask = "timeout 40 dhclient -4 -1 -v -pf /tmp/lease/pid4 -lf /tmp/lease/4 -sf /bin/guest-lease eth0";
    let (down, up) = (carrier(0), carrier(1));
    let watch = format!(
        "while :; do {down}; kill $(cat /tmp/lease/pid4); ip -4 addr flush dev eth0; echo DOWN; {up}; {ask}; echo DONE; done"
    );
    guest.check(&format!("touch /tmp/refresh; ( {watch} ) >>/tmp/refresh 2>&1 </dev/null &"))?;
    Ok((guest, monitor))
}

/// A guest's QEMU, and its monitor.
fn launch(pod: &Pod, translator: &Translator, start: Start) -> Result<(culvert_system::console::Console, Monitor)> {
    let options = options(pod, translator, start);
    let console = options.launch()?;
    let monitor = connect(&options)?;
    Ok((console, monitor))
}

fn options(pod: &Pod, translator: &Translator, start: Start) -> GuestOptions {
    GuestOptions { monitor: Some(pod.path("monitor")), start, ..translator.guest("vm", 1) }
}

fn connect(options: &GuestOptions) -> Result<Monitor> {
    Monitor::connect(options.monitor.as_deref().unwrap_or(Path::new("")))
}

/// Takes the link down, and up when the guest has seen that, and waits until it has asked for an address: for the `time`th time.
fn refresh(guest: &mut Guest, monitor: &mut Monitor, time: usize) -> Result<()> {
    let seen = |what: &str| format!("until [ $(grep -c {what} /tmp/refresh) = {time} ]; do sleep 0.1; done");
    monitor.run("set_link", json!({ "name": "net", "up": false }))?;
    guest.check(&seen("DOWN")).context("the guest does not see its link go down")?;
    monitor.run("set_link", json!({ "name": "net", "up": true }))?;
    guest.check(&seen("DONE")).context("the guest does not ask again")?;
    Ok(())
}

/// The guest's IPv4 addresses.
fn addresses(guest: &mut Guest) -> Result<Vec<String>> {
    let printed = guest.check("ip -4 addr show dev eth0")?;
    let words: Vec<_> = printed.split_whitespace().collect();
    Ok(words.windows(2).filter(|pair| pair[0] == "inet").map(|pair| pair[1].to_owned()).collect())
}
