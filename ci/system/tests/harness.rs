//! The tools themselves, without culvertd: two guests that DPDK's own vhost-user backend connects. What fails here is no fault
//! of culvertd.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use culvert_driver::Shape;
use culvert_system::frame::{End, echo_request};
use culvert_system::frontend::FrontendGuest;
use culvert_system::pcap;
use culvert_system::qemu::{GuestOptions, Virtio};
use culvert_system::testpmd::{Testpmd, VirtioUser};

#[test]
fn two_guests_exchange_frames_through_testpmd() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let sockets = ["a", "b"].map(|name| folder.path().join(name));
    let _switch = Testpmd::switch([&sockets[0], &sockets[1]])?;
    let mut a = GuestOptions::new("a", &sockets[0], 1).boot()?;
    let mut b = GuestOptions { virtio: Virtio::Legacy, ..GuestOptions::new("b", &sockets[1], 2) }.boot()?;
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

#[test]
fn guests_without_a_machine_exchange_frames_through_testpmd() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let sockets = ["a", "b"].map(|name| folder.path().join(name));
    let _switch = Testpmd::switch([&sockets[0], &sockets[1]])?;
    let mut a = FrontendGuest::connect(&sockets[0], Shape::default())?;
    let mut b = FrontendGuest::connect(&sockets[1], Shape { mergeable: false, ..Shape::default() })?;
    // testpmd answers before it is ready, and drops what comes too early.
    let hello = echo_request(End::new(1), End::new(2), b"hello")?;
    while b.interface.receive().is_none() {
        a.send(&hello)?;
        thread::sleep(Duration::from_millis(10));
    }
    for round in 0..1000_u32 {
        let frame = echo_request(End::new(1), End::new(2), &round.to_le_bytes())?;
        ensure!(a.send(&frame)?, "a's ring is full");
        ensure!(next(&mut b, &hello)? == frame, "frame {round} does not come through");
        ensure!(b.send(&frame)?, "b's ring is full");
        ensure!(a.receive()? == frame, "frame {round} does not come back");
    }
    Ok(())
}

/// The next frame that is not `hello`.
fn next(guest: &mut FrontendGuest, hello: &[u8]) -> Result<Vec<u8>> {
    loop {
        let frame = guest.receive()?;
        if frame != hello {
            return Ok(frame);
        }
    }
}

#[test]
fn virtio_user_guests_exchange_captures_through_testpmd() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let [a, b, input, output] = ["a", "b", "in.pcap", "out.pcap"].map(|name| folder.path().join(name));
    let _switch = Testpmd::switch([&a, &b])?;
    let frames = (0..100_u8).map(|n| echo_request(End::new(1), End::new(2), &[n; 300])).collect::<Result<Vec<_>>>()?;
    pcap::write(&input, frames.iter().map(Vec::as_slice))?;
    let device = VirtioUser { queues: 1, mergeable: true, in_order: true, packed: false };
    let mut receiver = Testpmd::player("receiver", &b, device, &format!("tx_pcap={}", output.display()))?;
    receiver.command("start")?;
    let mut sender = Testpmd::player("sender", &a, device, &format!("rx_pcap={}", input.display()))?;
    sender.command("start")?;
    receiver.wait_for_counter(1, "TX-packets", 100)?;
    ensure!(pcap::read(&output)? == frames, "frames were changed");
    Ok(())
}
