//! libvirt starts the translator where it would start passt: a domain with an interface of type user, and of type vhostuser, each with
//! forwarded ports. In a Debian 13 of its own (ci/debian13), as Debian 12's libvirt knows neither.

use anyhow::{Context, Result, ensure};
use culvert_system::guest::Guest;
use culvert_system::libvirt::Libvirt;
use culvert_system::rows::Rows;
use culvert_system::traffic::{self, Endpoint, Host};
use culvert_system::translator::{POD, Pod, WORLD, configure};

#[test]
fn libvirt_starts_it() -> Result<()> {
    let (pod, mut rows) = (Pod::new()?, Rows::default());
    let mut libvirt = Libvirt::start(&pod)?;
    println!();
    for kind in ["user", "vhostuser"] {
        let interface = format!(
            "<interface type='{kind}'><backend type='passt' logFile='/tmp/{kind}.log'/><source dev='eth0'/>
             <portForward proto='tcp'><range start='10001' end='10002'/><range start='2222' to='10003'/></portForward>
             <portForward proto='udp' address='192.0.2.15'><range start='10001'/></portForward>
             <model type='virtio'/></interface>"
        );
        rows.row(&format!("an interface of type {kind}"), || {
            let mut guest = libvirt.boot(kind, 1, &interface)?;
            let seen = exchange(&pod, &mut guest).with_context(|| libvirt.log(kind));
            libvirt.destroy(kind)?;
            seen
        });
        rows.row(&format!("its log, type {kind}"), || {
            let log = libvirt.run(&format!("cat /tmp/{kind}.log"))?;
            ensure!(log.contains(POD[0]), "it says:\n{log}");
            Ok(())
        });
    }
    rows.row("nothing is left", || {
        libvirt.run("for i in $(seq 50); do pidof passt || break; sleep 0.1; done; ! pidof passt").map(drop)
    });
    rows.end()
}

/// The guest gets its addresses, and all that was asked for is forwarded.
fn exchange(pod: &Pod, guest: &mut Guest) -> Result<()> {
    guest.wait_booted()?;
    configure(guest)?;
    let mut outside = Host::new(pod.world());
    traffic::tcp(guest, &mut outside, WORLD[0], 10003, BYTES).context("guest to world")?;
    traffic::tcp(&mut outside, guest, POD[0], 10001, BYTES).context("world to guest")?;
    traffic::tcp(&mut outside, guest, POD[1], 10002, BYTES).context("world to guest, the end of the range")?;
    traffic::udp(&mut outside, guest, POD[0], 10001, BYTES, 1400).context("world to guest, UDP")?;
    // Another port of the guest than of the pod.
    guest.start("receive 10003")?;
    guest.wait_listening()?;
    outside.start(&format!("send {} 2222 {BYTES}", POD[0]))?;
    outside.finish(LIMIT).context("world to guest, to another port")?;
    Endpoint::finish(guest, LIMIT).map(drop)
}

/// Bytes of a transfer.
const BYTES: u64 = 256 << 10;

const LIMIT: std::time::Duration = std::time::Duration::from_secs(30);
