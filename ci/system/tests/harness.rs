//! The tools themselves, without culvertd: two guests that DPDK's own vhost-user backend connects. What fails here is no fault
//! of culvertd.

use anyhow::{Result, ensure};
use culvert_system::qemu::{Guest, GuestOptions, Virtio};
use culvert_system::testpmd::Testpmd;

#[test]
fn two_guests_exchange_frames_through_testpmd() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let sockets = ["a", "b"].map(|name| folder.path().join(name));
    let _switch = Testpmd::switch([&sockets[0], &sockets[1]])?;
    let mut a = Guest::start(&GuestOptions::new("a", &sockets[0], 1))?;
    let mut b = Guest::start(&GuestOptions { virtio: Virtio::Legacy, ..GuestOptions::new("b", &sockets[1], 2) })?;
    a.wait_ready()?;
    b.wait_ready()?;
    ensure!(a.ping(b.address(), 5)? > 0, "no answer to a ping");
    b.serve_iperf()?;
    for flags in ["", "-R"] {
        let rate = a.iperf(b.address(), flags)?;
        println!("iperf3 {flags}: {rate:.0} Mbit/s");
        ensure!(rate > 0.0, "iperf3 {flags} carried nothing");
    }
    Ok(())
}
