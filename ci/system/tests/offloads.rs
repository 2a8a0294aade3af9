//! Checksum and segmentation offloads: whatever the sender leaves to its device and whatever the receiver takes, what arrives is right.
//!
//! All combinations of the two sides' bits are tried by guests that a test plays, frame by frame; the combinations that matter by Linux
//! guests. `CULVERT_OFFLOAD_MB` is how much each combination transfers, in megabytes, if not the little that makes the test short.
#![allow(clippy::indexing_slicing, reason = "tests")]

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_driver::{Kind, OffloadBits, Shape, Side, Stream};
use culvert_system::daemon::{Daemon, Node};
use culvert_system::frontend::FrontendGuest;
use culvert_system::qemu::{GuestOptions, Role};

#[test]
fn all_combinations_of_both_sides_bits() -> Result<()> {
    let mut node = Node::new()?;
    let sockets = ["vm-a", "vm-b"].map(|name| node.add_guest(name, Role::Listen, ""));
    let daemon = node.start()?;
    let bytes = megabytes()?.map_or(FEW_BYTES, |megabytes| megabytes * 1_000_000);
    let (mut combinations, mut whole, mut pieces) = (0, 0, 0);
    let start = Instant::now();
    for sender in OffloadBits::all(Side::Sender) {
        let shape = Shape::default();
        let mut a = FrontendGuest::connect_with(&sockets[0], shape, sender.features(Side::Sender), LARGEST)?;
        for receiver in OffloadBits::all(Side::Receiver) {
            for mergeable in [false, true] {
                let mut b = receiving_guest(&sockets[1], receiver, mergeable)?;
                for kind in Kind::ALL {
                    let mut stream = Stream::new(kind, A, B, sender, receiver);
                    transfer(&mut a, &mut b, &mut stream, bytes / 4).with_context(|| {
                        format!("{kind:?}, from {sender:?} to {receiver:?}, mergeable: {mergeable}\n{}", shown(&daemon))
                    })?;
                    let seen = stream.seen();
                    (whole, pieces) = (whole + seen.0, pieces + seen.1);
                }
                combinations += 1;
            }
        }
    }
    println!(
        "{combinations} combinations, {bytes} bytes each, in {:.1?}: {whole} frames stayed whole, {pieces} segments were made",
        start.elapsed()
    );
    ensure!(whole > 0 && pieces > 0, "nothing was left to the device");
    daemon.check_counters()?;
    daemon.stop()
}

#[test]
fn linux_guests_with_offloads_on_and_off() -> Result<()> {
    let mut node = Node::new()?;
    let sockets = ["vm-a", "vm-b"].map(|name| node.add_guest(name, Role::Listen, ""));
    let mut daemon = node.start()?;
    let mut sender = GuestOptions::new("vm-a", &sockets[0], 1).boot()?;
    sender.wait_ready()?;
    sender.add_ipv6()?;
    let asked = megabytes()?;
    let bytes = asked.map_or(FEW_BYTES, |megabytes| megabytes * 1_000_000);
    for (receives, properties, takes) in RECEIVERS {
        for mergeable in ["on", "off"] {
            // The short test leaves out what lies between the extremes.
            if asked.is_none() && (receives == "checksums") != (mergeable == "on") && receives != "all" {
                continue;
            }
            let properties = format!("{properties}mrg_rxbuf={mergeable}");
            let mut receiver = GuestOptions { properties, ..GuestOptions::new("vm-b", &sockets[1], 2) }.boot()?;
            receiver.wait_ready()?;
            let addresses = [receiver.address().to_owned(), receiver.add_ipv6()?];
            for (sends, switches, leaves) in SENDERS {
                sender.check(&format!("ethtool -K eth0 {switches}"))?;
                let before = [sent(&daemon)?, receiver.received()?];
                for address in &addresses {
                    let case =
                        || format!("from {sends} to {receives}, mergeable {mergeable}, {address}\n{}", shown(&daemon));
                    let tcp = sender.send_tcp(&mut receiver, address, bytes).with_context(case)?;
                    let udp = sender.send_udp(&mut receiver, address, bytes / 10, 1400).with_context(case)?;
                    println!(
                        "from {sends:9} to {receives:9} mergeable {mergeable:3} {address:8}: {:4.0} Mbit/s TCP, {:4.0} UDP",
                        8.0 * bytes as f64 / tcp.as_secs_f64() / 1e6,
                        0.8 * bytes as f64 / udp.as_secs_f64() / 1e6
                    );
                }
                // What left the one guest whole, and what came whole to the other, is told by the frames' length.
                let after = [sent(&daemon)?, receiver.received()?];
                let lengths =
                    [0, 1].map(|side| (after[side].1 - before[side].1) / (after[side].0 - before[side].0).max(1));
                ensure!((lengths[0] > 2000) == leaves, "{sends} sent frames of {} bytes on average", lengths[0]);
                ensure!(
                    (lengths[1] > 2000) == (leaves && takes),
                    "from {sends} {receives} got frames of {} bytes on average",
                    lengths[1]
                );
            }
            drop(receiver);
            daemon.wait_for_state("vm-b", "waiting")?;
        }
    }
    daemon.check_counters()?;
    daemon.stop()
}

/// A guest that takes such frames. Without mergeable buffers each buffer must hold the largest frame, in a chain of pieces.
fn receiving_guest(socket: &Path, offloads: OffloadBits, mergeable: bool) -> Result<FrontendGuest> {
    let segments = offloads.tso4 || offloads.tso6 || offloads.uso4 || offloads.uso6;
    let plain = Shape { mergeable, queue_size: 1024, ..Shape::default() };
    let shape = match (mergeable, segments) {
        // So that there are enough for a frame that must be cut into its most segments.
        (false, true) => Shape { receive_bytes: 12 + LARGEST, receive_piece_bytes: 8192, ..plain },
        _ => plain,
    };
    FrontendGuest::connect_with(socket, shape, offloads.features(Side::Receiver), 2048)
}

/// Sends so many bytes of a stream and checks all that arrives.
fn transfer(a: &mut FrontendGuest, b: &mut FrontendGuest, stream: &mut Stream, bytes: u64) -> Result<()> {
    let mut progress = Instant::now();
    // As many as both rings can hold: a frame may have five descriptors, and become a hundred segments.
    let most = if stream.is_unsegmented() { 1 } else { 50 };
    while stream.sent() < bytes || !stream.is_complete() {
        if stream.sent() < bytes && stream.in_flight() <= most / 2 {
            while stream.sent() < bytes && stream.in_flight() < most {
                let (header, frame, cuts) = stream.frame(usize::try_from(bytes - stream.sent())?);
                ensure!(a.interface.send_with(&header, &frame, &cuts), "the transmit ring is full");
            }
            a.kick()?;
        }
        while let Some((header, frame)) = b.interface.receive() {
            stream.accept(&header, &frame).map_err(anyhow::Error::msg)?;
            progress = Instant::now();
        }
        ensure!(progress.elapsed() < STALL, "no frame came for {STALL:?}");
    }
    Ok(())
}

/// How many frames the sending guest has sent, and their bytes.
fn sent(daemon: &Daemon) -> Result<(u64, u64)> {
    let stats = daemon.stats("vm-a")?;
    let number = |key: &str| stats[key].as_u64().with_context(|| format!("no {key} in {stats}"));
    Ok((number("rx_frames")?, number("rx_bytes")?))
}

fn shown(daemon: &Daemon) -> String {
    ["port list", "stats", "drops"].map(|what| daemon.ctl(what).unwrap_or_else(|error| error.to_string())).join("\n")
}

fn megabytes() -> Result<Option<u64>> {
    std::env::var("CULVERT_OFFLOAD_MB").ok().map(|text| text.parse().context("CULVERT_OFFLOAD_MB")).transpose()
}

/// What a receiving guest takes, QEMU's device properties for that, and whether this includes TCP unsegmented.
const RECEIVERS: [(&str, &str, bool); 4] = [
    ("nothing", "guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_uso4=off,guest_uso6=off,", false),
    ("checksums", "guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_uso4=off,guest_uso6=off,", false),
    ("TCP", "guest_ecn=off,guest_uso4=off,guest_uso6=off,", true),
    ("all", "", true),
];

/// What the sending guest leaves to its device, how ethtool is told so, and whether this includes segmentation of TCP. QEMU 10 keeps
/// segmentation of UDP from guests with vhost-user, so their kernel does it.
const SENDERS: [(&str, &str, bool); 4] = [
    ("nothing", "tx off", false),
    ("checksums", "tx on tso off", false),
    ("TCP", "tx on tso on tx-tcp-ecn-segmentation off", true),
    ("all", "tx on tso on", true),
];

const A: [u8; 6] = [2, 0, 0, 0, 0, 1];
const B: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// Bytes of the largest frame with a VLAN tag.
const LARGEST: u32 = 65_535 + 18;

/// What each combination transfers, in bytes.
const FEW_BYTES: u64 = 1 << 20;

const STALL: Duration = Duration::from_secs(30);
