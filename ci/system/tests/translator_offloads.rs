//! The translator with a Linux guest that takes and leaves undone nothing, each of checksums and segmentation alone, and all: what arrives is
//! right each way, and passes whole where that is meant to be.
#![allow(clippy::indexing_slicing, reason = "tests")]

use anyhow::{Context, Result, ensure};
use culvert_system::guest::Guest;
use culvert_system::qemu::{GuestOptions, Transport};
use culvert_system::rows::Rows;
use culvert_system::traffic::{self, Host};
use culvert_system::translator::{POD, Pod, WORLD, configure};

#[test]
fn each_offload_alone_none_and_all() -> Result<()> {
    let (pod, mut rows) = (Pod::new()?, Rows::default());
    let mut outside = Host::new(pod.world());
    let mut translator = pod.translator("vm", Transport::VhostUser, "-m 1500 -t 10001 -u 10001")?;
    println!();
    for (takes, properties, whole) in RECEIVERS {
        let options = GuestOptions { properties: properties.to_owned(), ..translator.guest("vm", 1) };
        let mut guest = options.boot()?;
        guest.wait_booted()?;
        configure(&mut guest).with_context(|| translator.last_words())?;
        for (family, version) in ["IPv4", "IPv6"].into_iter().enumerate() {
            rows.row(&format!("the guest takes {takes}: TCP over {version}"), || {
                let before = guest.received()?;
                traffic::tcp(&mut outside, &mut guest, POD[family], 10001, BYTES)?;
                passes_whole(before, guest.received()?, whole[family])
            });
            rows.row(&format!("the guest takes {takes}: UDP over {version}"), || {
                traffic::udp(&mut outside, &mut guest, POD[family], 10001, BYTES / 4, 1400).map(drop)
            });
        }
        // What it leaves undone has little to do with what it takes.
        if takes != "all" {
            continue;
        }
        for (leaves, switches, whole) in SENDERS {
            for switch in switches {
                guest.check(&format!("ethtool -K eth0 {switch}"))?;
            }
            for (family, version) in ["IPv4", "IPv6"].into_iter().enumerate() {
                rows.row(&format!("the guest leaves {leaves}: TCP over {version}"), || {
                    let before = sent(&mut guest)?;
                    traffic::tcp(&mut guest, &mut outside, WORLD[family], 10003, BYTES)?;
                    passes_whole(before, sent(&mut guest)?, whole[family])
                });
                rows.row(&format!("the guest leaves {leaves}: UDP over {version}"), || {
                    traffic::udp(&mut guest, &mut outside, WORLD[family], 10003, BYTES / 4, 1400).map(drop)
                });
            }
        }
    }
    let told = translator.told();
    translator.stop()?;
    rows.end().with_context(|| format!("the translator tells:\n{told}"))
}

/// A driver that merges no buffers and takes nothing unsegmented has buffers for 1500 bytes, whatever its MTU (virtio 1.3, section 5.1.6.3.1).
#[test]
fn a_guest_with_small_buffers_is_told_what_they_hold() -> Result<()> {
    let (pod, mut rows) = (Pod::new()?, Rows::default());
    let mut outside = Host::new(pod.world());
    let mut translator = pod.translator("vm", Transport::VhostUser, "-t 10001 -u 10001")?;
    println!();
    let options = GuestOptions { properties: RECEIVERS[0].1.to_owned(), ..translator.guest("vm", 1) };
    let mut guest = options.boot()?;
    guest.wait_booted()?;
    configure(&mut guest).with_context(|| translator.last_words())?;
    rows.same("the MTU", guest.check("cat /sys/class/net/eth0/mtu")?.trim(), "1500");
    for (family, version) in ["IPv4", "IPv6"].into_iter().enumerate() {
        rows.row(&format!("TCP over {version}"), || {
            traffic::tcp(&mut outside, &mut guest, POD[family], 10001, BYTES)?;
            traffic::tcp(&mut guest, &mut outside, WORLD[family], 10003, BYTES).map(drop)
        });
        rows.row(&format!("UDP over {version}"), || {
            traffic::udp(&mut outside, &mut guest, POD[family], 10001, BYTES / 4, 1400).map(drop)
        });
    }
    translator.stop()?;
    rows.end()
}

/// Frames that the guest has sent, and their bytes.
fn sent(guest: &mut Guest) -> Result<(u64, u64)> {
    let printed = guest.check("cd /sys/class/net/eth0/statistics && cat tx_packets tx_bytes")?;
    let mut numbers = printed.split_whitespace().map(str::parse);
    let mut next = || numbers.next().with_context(|| format!("the statistics are:\n{printed}"));
    Ok((next()??, next()??))
}

/// What left or came whole is told by the frames' length.
fn passes_whole(before: (u64, u64), after: (u64, u64), should: bool) -> Result<()> {
    let length = (after.1 - before.1) / (after.0 - before.0).max(1);
    ensure!((length > 2000) == should, "frames had {length} bytes on average");
    Ok(())
}

/// What the guest takes, QEMU's device properties for that, and whether this includes TCP unsegmented, over IPv4 and IPv6. With nothing it has the
/// plainest rings as well.
const RECEIVERS: [(&str, &str, [bool; 2]); 6] = [
    (
        "nothing",
        "guest_csum=off,guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_uso4=off,guest_uso6=off,mrg_rxbuf=off,event_idx=off,\
         indirect_desc=off",
        [false, false],
    ),
    ("checksums", "guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_uso4=off,guest_uso6=off", [false, false]),
    ("TCP of IPv4", "guest_tso6=off,guest_ecn=off,guest_uso4=off,guest_uso6=off", [true, false]),
    ("TCP of IPv6", "guest_tso4=off,guest_ecn=off,guest_uso4=off,guest_uso6=off", [false, true]),
    ("UDP", "guest_tso4=off,guest_tso6=off,guest_ecn=off", [false, false]),
    ("all", "", [true, true]),
];

/// What the guest leaves to its device, how ethtool is told so, and whether this includes segmentation of TCP, over IPv4 and IPv6. QEMU 10 keeps
/// segmentation of UDP from guests with vhost-user, so their kernel does it.
const SENDERS: [(&str, &[&str], [bool; 2]); 6] = [
    ("nothing", &["tx off"], [false, false]),
    ("checksums", &["tx on tso off"], [false, false]),
    ("TCP of IPv4", &["tx on tso off", "tx-tcp-segmentation on"], [true, false]),
    ("TCP of IPv6", &["tx on tso off", "tx-tcp6-segmentation on"], [false, true]),
    ("TCP with ECN", &["tx on tso on", "tx-tcp-ecn-segmentation on"], [true, true]),
    ("all", &["tx on tso on"], [true, true]),
];

/// What each combination transfers over TCP.
const BYTES: u64 = 1 << 20;
