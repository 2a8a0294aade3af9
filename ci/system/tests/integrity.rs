//! Ten million random frames between guests that are filled to just below what a ring holds: none lost, none changed, none out of
//! order, none at a third guest, and counters that know exactly how many there were.
#![allow(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "tests")]

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use culvert_driver::Shape;
use culvert_system::daemon::Node;
use culvert_system::frontend::FrontendGuest;
use culvert_system::qemu::Role;

#[test]
fn ten_million_random_frames() -> Result<()> {
    let mut node = Node::new()?;
    let sockets = ["vm-a", "vm-b", "vm-c"].map(|name| node.add_guest(name, Role::Listen, ""));
    let mut daemon = node.start()?;
    // Mergeable and plain buffers; frames that need several of the small buffers.
    let shapes = [
        Shape { receive_bytes: 512, ..Shape::default() },
        Shape { mergeable: false, split_header: true, ..Shape::default() },
        Shape::default(),
    ];
    let mut guests = Vec::new();
    for (socket, shape) in sockets.iter().zip(shapes) {
        guests.push(FrontendGuest::connect(socket, shape)?);
    }
    // Everybody is known from here on: each guest has sent a frame, to all.
    for (from, guest) in [1, 2, 3].into_iter().zip(0..) {
        let hello = [&[0xff; 6][..], &[2, 0, 0, 0, 0, from], &[0x88, 0xb5], &[0; 46]].concat();
        ensure!(guests[guest].send(&hello)?, "a ring is full");
        for other in (0..3).filter(|other| *other != guest) {
            ensure!(guests[other].receive()? == hello, "a broadcast was changed");
        }
    }

    let noise = Random(0x9876_5432_1fed_cba1).noise();
    let start = Instant::now();
    let mut flows = [Flow::new(0, 1), Flow::new(1, 0)];
    let mut progress = Instant::now();
    while flows.iter().any(|flow| flow.received < FRAMES / 2) {
        for flow in &mut flows {
            if flow.send(&mut guests, &noise)? | flow.receive(&mut guests, &noise)? {
                progress = Instant::now();
            }
        }
        ensure!(progress.elapsed() < STALL, "no frame came for {STALL:?}: {flows:?}\n{}", daemon.ctl("stats")?);
    }
    let rate = FRAMES as f64 / start.elapsed().as_secs_f64() / 1e6;
    println!("{FRAMES} frames of {SHORTEST} to {LONGEST} bytes, {rate:.2} million/s with making and checking them");

    ensure!(guests[2].interface.receive().is_none(), "the third guest got a frame that was for another");
    for (flow, port, peer) in [(&flows[0], "vm-a", "vm-b"), (&flows[1], "vm-b", "vm-a")] {
        let (from, to) = (daemon.stats(port)?, daemon.stats(peer)?);
        // The broadcasts of above: one sent by each, one received from each of the two others.
        for (stats, counter, count) in [
            (&from, "rx_frames", flow.sent + 1),
            (&from, "rx_bytes", flow.bytes + 60),
            (&from, "rx_forwarded", flow.sent + 1),
            (&from, "rx_dropped", 0),
            (&to, "tx_frames", flow.received + 2),
            (&to, "tx_bytes", flow.bytes + 120),
            (&to, "tx_dropped", 0),
        ] {
            ensure!(stats[counter] == count, "{counter} is not {count} in {stats}");
        }
    }
    daemon.wait_for_counter("vm-c", "tx_frames", 2)?;
    daemon.check_counters()?;
    daemon.stop()
}

/// Random frames from one guest to another. Sender and receiver draw from generators of the same seed.
#[derive(Debug)]
struct Flow {
    from: usize,
    to: usize,
    sending: Random,
    expecting: Random,
    sent: u64,
    received: u64,
    bytes: u64,
}

impl Flow {
    fn new(from: usize, to: usize) -> Self {
        let seed = Random(0x1234_5678_9abc_def1 + from as u64);
        Self { from, to, sending: seed.clone(), expecting: seed, sent: 0, received: 0, bytes: 0 }
    }

    /// Sends a burst, as far as the receiver has room for it; whether it did.
    fn send(&mut self, guests: &mut [FrontendGuest], noise: &[u8]) -> Result<bool> {
        let burst = (IN_FLIGHT - (self.sent - self.received)).min(FRAMES / 2 - self.sent);
        for _ in 0..burst {
            let frame = self.sending.frame(self.from, self.to, noise);
            self.bytes += frame.len() as u64;
            ensure!(guests[self.from].interface.send(&frame), "the transmit ring is full below its capacity");
        }
        self.sent += burst;
        if burst > 0 {
            guests[self.from].kick()?;
        }
        Ok(burst > 0)
    }

    /// Checks all that has come; whether something has.
    fn receive(&mut self, guests: &mut [FrontendGuest], noise: &[u8]) -> Result<bool> {
        let before = self.received;
        while let Some((_header, frame)) = guests[self.to].interface.receive() {
            let expected = self.expecting.frame(self.from, self.to, noise);
            ensure!(frame == expected, "frame {} was changed, lost or overtaken", self.received);
            self.received += 1;
        }
        Ok(self.received > before)
    }
}

/// Random frames: Marsaglia's xorshift64, fast, and the same on every machine.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Bytes from which frames cut theirs, which is faster than to make them anew.
    fn noise(mut self) -> Vec<u8> {
        (0..NOISE / 8).flat_map(|_| self.next().to_le_bytes()).collect()
    }

    /// A frame of random length, and content from a random place of `noise`.
    fn frame(&mut self, from: usize, to: usize, noise: &[u8]) -> Vec<u8> {
        let (length, place) = (SHORTEST + self.next() % (LONGEST - SHORTEST + 1), self.next() % (NOISE - LONGEST));
        let payload = &noise[place as usize..][..(length - SHORTEST) as usize];
        let mut bytes = Vec::with_capacity(length as usize);
        bytes.extend_from_slice(&[2, 0, 0, 0, 0, to as u8 + 1, 2, 0, 0, 0, 0, from as u8 + 1, 0x88, 0xb5]);
        bytes.extend_from_slice(payload);
        bytes
    }
}

const FRAMES: u64 = 10_000_000;

/// Bytes of a frame: the Ethernet header alone, and all that the MTU allows.
const SHORTEST: u64 = 14;
const LONGEST: u64 = 1514;

/// Bytes of noise.
const NOISE: u64 = 1 << 20;

/// Frames under way at most: the plain guest's receive ring has room for 128, as each frame takes two descriptors; the small
/// buffers, three to a frame of the longest, for 85.
const IN_FLIGHT: u64 = 80;

const STALL: Duration = Duration::from_secs(30);
