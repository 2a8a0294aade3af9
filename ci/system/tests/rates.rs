//! A port's rate with all of culvertd: set and removed while frames pass, and what passes is what it says. How exact it is is proved in
//! simulated time (`datapath/switch/src/golden/rates.rs`); a machine's clock can only show that nothing passes too soon.
#![allow(clippy::indexing_slicing, reason = "a test")]

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use culvert_driver::Shape;
use culvert_system::daemon::Node;
use culvert_system::frontend::FrontendGuest;
use culvert_system::place::Namespace;
use culvert_system::qemu::Role;
use culvert_system::veth::Veth;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];

/// Bytes a second of 10 Mbit/s, and those that pass at once.
const RATE: u32 = 1_250_000;
const BURST: usize = 73_728;

const FRAME: usize = 1514;
const FRAMES: usize = 1000;

#[test]
fn ten_megabits_a_second_are_that() -> Result<()> {
    let node = Node::new()?;
    let mut daemon = node.start()?;
    let connect = |name: &str| {
        let socket = node.path(&format!("{name}.sock"));
        daemon.ctl(&format!("port add {name} --network blue --socket {}", socket.display()))?;
        // Room for all frames: the test may get no processor for a while.
        FrontendGuest::connect(&socket, Shape { queue_size: 1024, ..Shape::default() })
    };
    let (mut sender, mut receiver) = (connect("vm-a")?, connect("vm-b")?);
    // Where the receiver is, before anything is limited.
    ensure!(receiver.send(&frame(1, 0, 60, 0))?, "a ring is full");
    sender.receive()?;

    // What a guest sends: all of it comes, in order, and not too soon.
    daemon.ctl("port set vm-a --rx-rate 10mbit")?;
    ensure!(daemon.port("vm-a")?["rx_rate"] == "10mbit", "the rate is not shown");
    let (begin, mut sent) = (Instant::now(), 0);
    for number in 0..FRAMES {
        while sent < FRAMES && sender.send(&frame(0, 1, FRAME, sent))? {
            sent += 1;
        }
        ensure!(receiver.receive()? == frame(0, 1, FRAME, number), "frame {number} is another one");
    }
    let (took, least) = (begin.elapsed(), time_of(FRAMES));
    println!("{FRAMES} frames took {took:.2?}, {:.2} of the least time", took.as_secs_f64() / least.as_secs_f64());
    ensure!(took >= least, "{FRAMES} frames took {took:?} only, not {least:?}");
    // Generous: the machine may have had other work for most of the time.
    ensure!(took < 5 * least, "{FRAMES} frames took {took:?}, and should have taken {least:?}");
    let stats = daemon.stats("vm-a")?;
    ensure!(stats["rx_forwarded"] == FRAMES && stats["rx_dropped"] == 0 && stats["rx_held"] != 0, "{stats}");

    // What a guest gets: the burst and what the time is worth, the rest is dropped and counted.
    daemon.ctl("port set vm-a --unset rx_rate")?;
    daemon.ctl("port set vm-b --tx-rate 10mbit")?;
    let (begin, mut came, mut sent) = (Instant::now(), 0, 0);
    while sent < FRAMES {
        sent += usize::from(sender.send(&frame(0, 1, FRAME, sent))?);
        came += std::iter::from_fn(|| receiver.interface.receive()).count();
    }
    daemon.wait_for_counter("vm-a", "rx_forwarded", 2 * FRAMES as u64)?;
    came += std::iter::from_fn(|| receiver.interface.receive()).count();
    let worth = usize::try_from(begin.elapsed().as_micros() * u128::from(RATE) / 1_000_000)?;
    let most = BURST + worth + FRAME;
    ensure!((BURST..=most).contains(&(came * FRAME)), "{came} frames came, of {most} bytes at most");
    let drops = daemon.ctl("drops")?;
    ensure!(drops.contains("tx-rate"), "{drops}");
    daemon.check_counters()?;
    daemon.stop()
}

/// A port with a device: what arrives too much is dropped, as is what is to leave too much; a device has no ring in which it could wait.
#[test]
fn a_device_has_rates_too() -> Result<()> {
    let [here, far] = [Namespace::new("here")?, Namespace::new("far")?];
    Veth::between([("wire", &here), ("wire", &far)], 1500)?;
    let mut node = Node::new()?;
    node.set_namespace(&here);
    *node.config() = node.config().replace("[daemon]\n", "[daemon]\ndevice_kinds = [\"net_af_packet\"]\n");
    let socket = node.add_guest("vm-a", Role::Listen, "");
    let mut daemon = node.start()?;
    daemon.ctl("port add uplink0 --network blue --device net_af_packet0,iface=wire")?;
    let mut guest = FrontendGuest::connect(&socket, Shape::default())?;
    daemon.wait_for_state("uplink0", "up")?;
    let wire = far.packets("wire")?;
    // Ten frames at once, and then one in a while that no test takes.
    let (inwards, outwards) = ("--rx-frame-rate 1 --rx-frame-burst 10", "--tx-frame-rate 1 --tx-frame-burst 10");

    daemon.ctl(&format!("port set uplink0 {inwards}"))?;
    let begin = Instant::now();
    for number in 0..FRAMES {
        send(&wire, &frame(1, 0, 1000, number), SendFlags::empty())?;
        // The socket's memory is that of the interface's ring: the worker has taken some.
        if number % 32 == 31 {
            daemon.wait_for_counter("uplink0", "rx_frames", number as u64 + 1)?;
        }
    }
    daemon.wait_for_counter("uplink0", "rx_frames", FRAMES as u64)?;
    let stats = daemon.stats("uplink0")?;
    let (forwarded, dropped) = (stats["rx_forwarded"].as_u64(), stats["rx_dropped"].as_u64());
    let most = 11 + begin.elapsed().as_secs();
    ensure!((10..=most).contains(&forwarded.unwrap_or(0)), "{most} frames may come in: {stats}");
    ensure!(forwarded.zip(dropped).map(|(some, others)| some + others) == Some(FRAMES as u64), "{stats}");
    ensure!(stats["rx_held"] == 0, "{stats}");
    ensure!(daemon.ctl("drops uplink0")?.contains("rx-rate"), "another reason");
    // The first ones are those that came.
    for number in 0..10 {
        ensure!(guest.receive()? == frame(1, 0, 1000, number), "frame {number} is another one");
    }

    daemon.ctl(&format!("port set uplink0 --unset rx_frame_rate,rx_frame_burst {outwards}"))?;
    let begin = Instant::now();
    for number in 0..FRAMES {
        while !guest.send(&frame(0, 1, 1000, number))? {}
    }
    daemon.wait_for_counter("vm-a", "rx_forwarded", FRAMES as u64)?;
    let stats = daemon.stats("uplink0")?;
    let most = 11 + begin.elapsed().as_secs();
    ensure!((10..=most).contains(&stats["tx_frames"].as_u64().unwrap_or(0)), "{most} frames may leave: {stats}");
    ensure!(stats["tx_offered"] == FRAMES, "{stats}");
    ensure!(daemon.ctl("drops uplink0")?.contains("tx-rate"), "another reason");
    for number in 0..10 {
        ensure!(next(&wire)? == frame(0, 1, 1000, number), "frame {number} is another one");
    }

    // Without rates all pass again.
    daemon.ctl("port set uplink0 --unset tx_frame_rate,tx_frame_burst")?;
    ensure!(guest.send(&frame(0, 1, 1000, FRAMES))?, "the ring is full");
    while next(&wire)? != frame(0, 1, 1000, FRAMES) {}
    send(&wire, &frame(1, 0, 1000, FRAMES), SendFlags::empty())?;
    while guest.receive()? != frame(1, 0, 1000, FRAMES) {}
    daemon.check_counters()?;
    daemon.stop()
}

/// The next frame that comes out of the wire; those that the test has put in come to their socket as well.
fn next(wire: &OwnedFd) -> Result<Vec<u8>> {
    let (mut bytes, deadline) = ([0; 2000], Instant::now() + Duration::from_secs(20));
    while Instant::now() < deadline {
        match recv(wire, &mut bytes, RecvFlags::DONTWAIT) {
            Ok((_, length)) if bytes.get(6..12) == Some(&MACS[0]) => return Ok(bytes[..length].to_vec()),
            Ok(_) => {}
            Err(Errno::AGAIN) => std::thread::sleep(Duration::from_millis(1)),
            Err(error) => return Err(error).context("the wire"),
        }
    }
    bail!("no frame came")
}

/// The least time that so many frames take.
fn time_of(frames: usize) -> Duration {
    // The last one passes when a byte of room is left.
    Duration::from_secs(((frames - 1) * FRAME - BURST) as u64) / RATE
}

/// A frame from one guest to another, told by its number.
fn frame(from: usize, to: usize, length: usize, number: usize) -> Vec<u8> {
    let mut frame = [&MACS[to][..], &MACS[from], &[0x88, 0xb5]].concat();
    frame.extend(number.to_be_bytes());
    frame.resize(length, 0);
    frame
}
