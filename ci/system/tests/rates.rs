//! A port's rate with all of culvertd: set and removed while frames pass, and what passes is what it says. How exact it is is proved in
//! simulated time (`datapath/switch/src/golden/rates.rs`); a machine's clock can only show that nothing passes too soon.
#![allow(clippy::indexing_slicing, reason = "a test")]

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use culvert_driver::Shape;
use culvert_system::daemon::Node;
use culvert_system::frontend::FrontendGuest;

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
        FrontendGuest::connect(&socket, Shape::default())
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
