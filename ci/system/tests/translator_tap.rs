//! A guest whose memory is not shared: QEMU has a tap device in the pod, and the translator, which it knows nothing of, has
//! inherited a packet socket on that device. passt has no such thing: ours only.

use std::os::fd::AsRawFd;
use std::path::Path;

use anyhow::{Result, ensure};
use culvert_system::place::Place;
use culvert_system::qemu::{GuestOptions, Transport};
use culvert_system::rows::Rows;
use culvert_system::traffic::{self, Host};
use culvert_system::translator::{POD, Pod, WORLD, configure};
use rustix::io::FdFlags;

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

    let place = Place { namespace: Some(pod.pod().name().to_owned()), core: None };
    let options = GuestOptions { transport: Transport::Tap, place, ..GuestOptions::new("vm", Path::new("guest"), 1) };
    let mut guest = options.boot()?;
    guest.wait_booted()?;
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
    let status = translator.wait(std::time::Duration::from_secs(10))?;
    ensure!(status.success(), "it ended with {status}; {}", translator.last_words());
    rows.end()
}

const PORT: u16 = 10001;

const BYTES: u64 = 4 << 20;
