//! Two guests in one pod, each with a translator of its own and another forwarded port: both get the pod's addresses, and reach each other
//! through the pod's loopback, which is their gateway. One is on vhost-user, the other on QEMU's stream socket.
#![allow(clippy::indexing_slicing, reason = "tests")]

use anyhow::{Result, ensure};
use culvert_system::qemu::Transport;
use culvert_system::rows::Rows;
use culvert_system::traffic;
use culvert_system::translator::{GATEWAYS, POD, Pod, configure};

#[test]
fn two_guests_reach_each_other() -> Result<()> {
    let (pod, mut rows) = (Pod::new()?, Rows::default());
    let translators = [
        pod.translator("vm-a", Transport::VhostUser, &format!("-t {0} -u {0}", PORTS[0]))?,
        pod.translator("vm-b", Transport::Stream, &format!("-t {0} -u {0}", PORTS[1]))?,
    ];
    let mut guests = [translators[0].guest("vm-a", 1).boot()?, translators[1].guest("vm-b", 2).boot()?];
    println!();
    for (number, guest) in (1..).zip(&mut guests) {
        guest.wait_booted()?;
        let [v4, v6] = configure(guest)?;
        rows.same(
            &format!("VV-{number} guest {number}'s addresses"),
            [v4.value("ip_address"), v6.value("ip6_address")],
            POD,
        );
    }
    let [a, b] = &mut guests;
    let gateways = [GATEWAYS[0], "fe80::1%eth0"];
    rows.row("VV-3 TCP over IPv4, guest 1 to guest 2", || traffic::tcp(a, b, gateways[0], PORTS[1], BYTES).map(drop));
    rows.row("VV-4 TCP over IPv6, guest 2 to guest 1", || traffic::tcp(b, a, gateways[1], PORTS[0], BYTES).map(drop));
    rows.row("VV-5 UDP over IPv4, guest 1 to guest 2", || {
        traffic::udp(a, b, gateways[0], PORTS[1], BYTES, 1400).map(drop)
    });
    rows.row("VV-6 UDP over IPv6, guest 2 to guest 1", || {
        traffic::udp(b, a, gateways[1], PORTS[0], BYTES, 1400).map(drop)
    });
    for translator in translators {
        let status = translator.stop()?;
        ensure!(status.success(), "it ended with {status}");
    }
    rows.end()
}

/// What each guest has forwarded.
const PORTS: [u16; 2] = [10001, 10002];

const BYTES: u64 = 2 << 20;
