//! Frames that no honest guest sends, through culvertd's switch: sizes and tags (N1), headers (N2 to N5), addresses of others (N12, N13),
//! loops (N17), and what could change how others' frames are treated (N18).

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use culvert_driver::Shape;
use serde_json::Value;

use super::packets::checksum;
use crate::case::{Expect, Part};
use crate::field::Field;
use crate::guest::{Guest, TRANSMIT};
use crate::neighbours::{ADDRESSES, ECHO};

/// The victim's address.
pub const VICTIM: [u8; 6] = [2, 0, 0, 0, 0, 0x66];

/// That of a guarded port beside it.
const GUARDED: [u8; 6] = [2, 0, 0, 0, 0, 0x67];

/// N1: from no byte to the most that a chain holds, with tags, half tags and types of any value.
pub fn sizes_and_tags(field: &mut Field) -> Result<()> {
    let receiver = format!("{}-r", field.victim());
    let socket = field.add_port(&receiver, "")?;
    let shape = Shape { queue_size: 1024, ..Shape::default() };
    let mut to = Guest::connect(&socket, shape, 0)?;
    let mut guest = field.connect_victim(Shape::default(), 0)?;
    to.send(&frame([0xff; 6], GUARDED, 0x88b7, &[0; 46]))?;
    let frame_of = |kind: u16, payload: &[u8]| frame(GUARDED, VICTIM, kind, payload);
    // Shorter than a header. A buffer without any byte behind the virtio-net header is no frame either.
    for length in 0..14 {
        guest.send_patiently(&frame_of(0x0800, b"")[..length])?;
    }
    field.expect_drops("runt", 14);
    // Just a header; longer than the receiver's MTU.
    guest.send(&frame_of(0x0800, b""))?;
    for length in [1501, 1505, 4000, 9000] {
        // It lies where the next frames would.
        guest.wait_used(TRANSMIT)?;
        guest.send(&frame_of(0x88b7, &vec![0xaa; length]))?;
        guest.wait_used(TRANSMIT)?;
    }
    field.expect(Expect::Drop { port: receiver, reason: "exceeds-mtu", frames: 4 });
    for tag in [0x8100_u16, 0x88a8, 0x9100] {
        for depth in 1..=40 {
            let tags = [&tag.to_be_bytes()[..], &[0, 1]].concat().repeat(depth);
            let tagged = [&GUARDED[..], &VICTIM, &tags, &[8, 0], &[0x45; 60]].concat();
            guest.send_patiently(&tagged)?;
            guest.send_patiently(&tagged[..12 + 4 * depth])?;
            guest.send_patiently(&tagged[..12 + 4 * depth - 1])?;
            to.drain();
        }
    }
    for kind in (0..=u16::MAX).step_by(97) {
        guest.send_patiently(&frame_of(kind, &[0; 46]))?;
        to.drain();
    }
    echoes(&mut guest)
}

/// N1: an access port and a trunk get each kind of tag that is not theirs.
pub fn tags_of_others(field: &mut Field) -> Result<()> {
    let names = [format!("{}-a", field.victim()), format!("{}-t", field.victim())];
    let sockets = [field.add_port(&names[0], "--vlan 10")?, field.add_port(&names[1], "--trunk 10,20")?];
    let mut access = Guest::connect(&sockets[0], Shape::default(), 0)?;
    let mut trunk = Guest::connect(&sockets[1], Shape::default(), 0)?;
    let tagged = |tags: &[u16]| {
        let tags: Vec<u8> = tags.iter().flat_map(|tag| [[0x81, 0], tag.to_be_bytes()].concat()).collect();
        [&[0xff; 6][..], &VICTIM, &tags, &[0x88, 0xb7], &[0; 60]].concat()
    };
    for vlan in (1..4096).step_by(31) {
        access.send_patiently(&tagged(&[vlan]))?;
        trunk.send_patiently(&tagged(&[vlan | 0xf000, 10]))?;
    }
    trunk.send(&tagged(&[]))?;
    for port in &names {
        field.expect(Expect::Drop { port: port.clone(), reason: "vlan-not-allowed", frames: 132 });
    }
    // Half a tag.
    access.send(&tagged(&[0])[..15])?;
    trunk.send(&tagged(&[10])[..15])?;
    for port in names {
        field.expect(Expect::Drop { port, reason: "runt", frames: 1 });
    }
    // An inner tag does not lead into another VLAN: this frame is one of 10's, and leaves with the tag that is its sender's.
    trunk.send(&tagged(&[10, 99]))?;
    let got = access.wait_for(|frame| frame.get(6..12) == Some(&VICTIM[..]))?;
    ensure!(got.get(12..16) == Some(&[0x81, 0, 0, 99][..]), "the frame came as {:x?}", &got[..18]);
    Ok(())
}

/// N2 to N5: IPv4, fragments, IPv6 and TCP that lie, as far as the guard, snooping and checksums read them.
pub fn headers_that_lie(field: &mut Field) -> Result<()> {
    let guarded = format!("{}-g", field.victim());
    let options = "--mac 02:00:00:00:00:67 --addresses 10.0.0.102,2001:db8::66";
    let socket = field.add_port(&guarded, options)?;
    field.exempt(Part::Log, "what lies is refused in several ways, which depend on how far it is read");
    let shape = Shape { queue_size: 1024, ..Shape::default() };
    let mut open = field.connect_victim(shape, OFFLOADS)?;
    let mut guest = Guest::connect(&socket, shape, OFFLOADS)?;
    let mut refused = 0;
    for packet in lying_packets() {
        let kind = if packet.first().is_some_and(|first| first >> 4 == 6) { 0x86dd } else { 0x0800 };
        open.drain();
        guest.drain();
        for destination in [GUARDED, [0xff; 6], [1, 0, 0x5e, 0, 0, 0xfb], [0x33, 0x33, 0, 0, 0, 0x16]] {
            let bytes = frame(destination, VICTIM, kind, &packet);
            open.send_patiently(&bytes)?;
            guest.send_patiently(&frame(destination, GUARDED, kind, &packet))?;
            refused += 1;
            // The device is to complete a checksum of what is no such packet: wherever.
            for start in [14, 34, 54, 120] {
                open.send_with_patiently(&needs_checksum(start, 16), &bytes)?;
            }
        }
    }
    field.expect(Expect::Drop { port: guarded, reason: "spoofed-address", frames: refused / 2 });
    echoes(&mut open)?;
    // A guarded port speaks IP only.
    let good = frame(VICTIM, GUARDED, 0x0800, &lying_ipv4(|_| {}));
    guest.send_patiently(&good)?;
    open.wait_for(|frame| frame == good).map(drop)
}

/// N12: a guarded port claims to be the router or a neighbour, by ARP, neighbour discovery, router advertisements and RARP.
pub fn claims_of_others(field: &mut Field) -> Result<()> {
    let name = format!("{}-g", field.victim());
    let socket = field.add_port(&name, "--mac 02:00:00:00:00:66 --addresses 10.0.0.102,2001:db8::66")?;
    let mut guest = Guest::connect(&socket, Shape::default(), 0)?;
    let mut watcher = field.connect_victim(Shape { queue_size: 1024, ..Shape::default() }, 0)?;
    let all = [0xff; 6];
    let arp = |source: [u8; 6], operation: u8, sender: [u8; 6], address: [u8; 4], target: [u8; 4]| {
        let body = [&[0, 1, 8, 0, 6, 4, 0, operation][..], &sender, &address, &[0; 6], &target].concat();
        frame(all, source, 0x0806, &body)
    };
    let (own, router) = ([10, 0, 0, 102], [10, 0, 0, 1]);
    let mut spoofed = vec![
        arp(VICTIM, 2, VICTIM, router, own),
        arp(VICTIM, 1, VICTIM, router, router),
        arp(VICTIM, 2, ADDRESSES[0], own, router),
        arp(VICTIM, 1, VICTIM, [0; 4], router),
        arp(VICTIM, 3, VICTIM, router, router),
    ];
    let neighbour = |kind: u8, source: &str, target: &str, option: &[u8]| -> Result<Vec<u8>> {
        let (source, target): (std::net::Ipv6Addr, std::net::Ipv6Addr) = (source.parse()?, target.parse()?);
        let body = [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &target.octets(), option].concat();
        let header = [
            &[0x60, 0, 0, 0, 0, body.len() as u8, 58, 255][..],
            &source.octets(),
            &[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        ];
        Ok(frame([0x33, 0x33, 0, 0, 0, 1], VICTIM, 0x86dd, &[&header.concat()[..], &body].concat()))
    };
    let (link_local, mac) = ("fe80::ff:fe00:66", [&[2, 1][..], &VICTIM].concat());
    spoofed.extend([
        neighbour(136, link_local, "fe80::1", &mac)?,
        neighbour(136, "fe80::1", "fe80::1", &mac)?,
        neighbour(136, "2001:db8::66", "2001:db8::66", &[&[2, 1][..], &ADDRESSES[0]].concat())?,
        neighbour(134, link_local, "::", &mac)?,
        neighbour(137, link_local, "fe80::1", &mac)?,
        // Duplicate address detection for the router's address keeps the router from having it.
        neighbour(135, "::", "fe80::1", b"")?,
    ]);
    let count = spoofed.len() as u64;
    for _ in 0..100 {
        for frame in &spoofed {
            guest.send_patiently(frame)?;
        }
    }
    field.expect(Expect::Drop { port: name.clone(), reason: "spoofed-address", frames: 100 * count });
    let foreign = frame(all, ADDRESSES[0], 0x0806, &[0; 28]);
    guest.send(&foreign)?;
    field.expect(Expect::Drop { port: name, reason: "spoofed-source", frames: 1 });
    // Its own claims pass, in any number that its limit lets pass.
    guest.send(&arp(VICTIM, 1, VICTIM, own, own))?;
    guest.wait_used(TRANSMIT)?;
    let mut seen = 0;
    let deadline = Instant::now() + Duration::from_secs(5);
    while seen == 0 && Instant::now() < deadline {
        while let Some((_, frame)) = watcher.interface.receive() {
            if frame.get(6..12) == Some(&VICTIM[..]) {
                ensure!(frame == arp(VICTIM, 1, VICTIM, own, own), "a claim got through: {frame:x?}");
                seen += 1;
            }
        }
        thread::sleep(Duration::from_millis(1));
    }
    ensure!(seen == 1, "the guest's own claim did not get through");
    Ok(())
}

/// N13: more sources than there are places, addresses of others, and addresses that move all the time.
pub fn addresses_of_others(field: &mut Field) -> Result<()> {
    let sources: u32 = if field.is_full() { 1_000_000 } else { 100_000 };
    let bound = format!("{}-b", field.victim());
    let owner_mac = [2, 0, 0, 0, 0, 0x77];
    let owner_socket = field.add_port(&bound, "--mac 02:00:00:00:00:77")?;
    let mut owner = Guest::connect(&owner_socket, Shape::default(), 0)?;
    let mut guest = field.connect_victim(Shape { queue_size: 1024, ..Shape::default() }, 0)?;
    echoes_from(&mut owner, owner_mac)?;
    for number in 0..sources {
        let [a, b, c, d] = number.to_be_bytes();
        // To a port of the case's own: nobody else's ring is to be filled.
        guest.send_patiently(&frame(owner_mac, [6, 0, a, b, c, d], 0x88b7, &[0; 46]))?;
        if number % 64 == 0 {
            owner.drain();
        }
    }
    field.expect(Expect::Log { port: bound.clone(), sentence: "no-buffer", lines: 0..=1 });
    let port = field.victim();
    let learned = |field: &mut Field| -> Result<usize> {
        let macs = field.daemon().ask("mac list")?;
        let of_victim = |entry: &&Value| entry.get("port").and_then(Value::as_str) == Some(&port);
        Ok(macs.as_array().context("a list")?.iter().filter(of_victim).count())
    };
    let count = learned(field)?;
    ensure!(count <= 64, "{count} addresses were learned behind one port");
    // A neighbour that comes now is learned all the same.
    let late = format!("{}-l", field.victim());
    let late_socket = field.add_port(&late, "")?;
    let mut late_guest = Guest::connect(&late_socket, Shape::default(), 0)?;
    echoes_from(&mut late_guest, [2, 0, 0, 0, 0, 0x88])?;
    let known = field.daemon().ask("mac list")?.to_string();
    ensure!(known.contains("02:00:00:00:00:88"), "after a flood of addresses no other one is learned");
    // The bound address of another port, again and again: its frames go on to the one that has it.
    for _ in 0..1_000 {
        guest.send_patiently(&frame([0xff; 6], owner_mac, 0x88b7, &[0; 46]))?;
    }
    let macs = field.daemon().ask("mac list")?;
    let text = |entry: &Value, key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let is_owners = |entry: &&Value| text(entry, "mac") == "02:00:00:00:00:77";
    let place = macs.as_array().and_then(|list| list.iter().find(is_owners)).map(|entry| text(entry, "port"));
    ensure!(place.as_ref() == Some(&bound), "a bound address was found at {place:?}, not at {bound}");
    echoes_from(&mut owner, owner_mac)?;
    // An address that moves between two ports all the time hurts nobody else.
    for number in 0..2_000 {
        let mover = if number % 2 == 0 { &mut guest } else { &mut late_guest };
        mover.send_patiently(&frame(owner_mac, [2, 0, 0, 0, 0, 0x99], 0x88b7, &[0; 46]))?;
    }
    echoes_from(&mut owner, owner_mac)
}

/// N17: two ports that a bridge outside has joined: what leaves the one comes in at the other, at once.
pub fn a_loop_outside(field: &mut Field) -> Result<()> {
    let lasting = Duration::from_secs(if field.is_full() { 20 } else { 3 });
    let (one, other) = (format!("{}-1", field.victim()), format!("{}-2", field.victim()));
    let limits = "--broadcast-limit 100 --unknown-limit 100";
    let sockets = [field.add_port(&one, limits)?, field.add_port(&other, limits)?];
    let shape = Shape { queue_size: 1024, ..Shape::default() };
    let mut ends = [Guest::connect(&sockets[0], shape, 0)?, Guest::connect(&sockets[1], shape, 0)?];
    for destination in [[0xff; 6], [1, 0, 0x5e, 1, 2, 3]] {
        for number in 0..30 {
            ends[0].send(&frame(destination, [2, 0, 0, 0, 1, number], 0x88b7, &[number; 46]))?;
        }
    }
    let (began, mut turns) = (Instant::now(), 0_u64);
    while began.elapsed() < lasting {
        let [left, right] = &mut ends;
        turns += bridge(left, right)? + bridge(right, left)?;
    }
    let rate = turns / lasting.as_secs();
    println!("    frames turn {rate} times a second");
    field.expect_overflows(&[one.clone(), other.clone()]);
    field.expect(Expect::Drop { port: one, reason: "broadcast-limit", frames: 1 });
    // Most of them end at the first one already.
    field.expect(Expect::Log { port: other, sentence: "broadcast-limit", lines: 0..=1 });
    let mut guest = field.connect_victim(Shape::default(), 0)?;
    echoes(&mut guest)
}

/// What the bridge outside does with what comes; returns how many frames there were.
fn bridge(from: &mut Guest, to: &mut Guest) -> Result<u64> {
    let mut passed = 0;
    for frame in from.drain() {
        passed += 1;
        // What finds no room is lost, as with any bridge.
        to.interface.send(&frame);
    }
    to.kick(TRANSMIT)?;
    Ok(passed)
}

/// N17: a guest that sends nothing but broadcasts, as fast as it can.
pub fn a_flood_of_broadcasts(field: &mut Field) -> Result<()> {
    let lasting = Duration::from_secs(if field.is_full() { 20 } else { 3 });
    let mut guest = field.connect_victim(Shape { queue_size: 1024, ..Shape::default() }, 0)?;
    let floods = [[0xff; 6], [1, 0, 0x5e, 1, 2, 3], [6, 6, 6, 6, 6, 6]].map(|to| frame(to, VICTIM, 0x88b7, &[0; 1400]));
    let (began, mut sent) = (Instant::now(), 0_u64);
    while began.elapsed() < lasting {
        for flood in &floods {
            guest.send_patiently(flood)?;
            sent += 1;
        }
    }
    println!("    {sent} frames for everybody in {lasting:?}");
    field.expect_overflows(&[]);
    echoes(&mut guest)
}

/// N18: frames that are read least, between others' frames of the same addresses: each goes where it would have gone alone.
pub fn nothing_widens_an_entry(field: &mut Field) -> Result<()> {
    let mut guest = field.connect_victim(Shape { queue_size: 1024, ..Shape::default() }, 0)?;
    let protocol_0 = lying_ipv4(|packet| packet[9] = 0);
    let mut padded = protocol_0.clone();
    padded.extend([0xee; 1300]);
    let known = |field: &mut Field| -> Result<String> {
        let macs = field.daemon().ask("mac list")?;
        let of = |entry: &Value| {
            let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            format!("{} {}", text("mac"), text("port"))
        };
        let mut all: Vec<_> = macs.as_array().context("a list")?.iter().map(of).collect();
        all.sort_unstable();
        Ok(all.join("\n"))
    };
    echoes(&mut guest)?;
    let before = known(field)?;
    for _ in 0..100 {
        for packet in [&protocol_0, &padded, &vec![], &vec![0; 1500]] {
            // To a neighbour, in the VLANs that there are not, and to nobody.
            for tags in [&[][..], &[0x81, 0, 0, 0], &[0x81, 0, 0x0f, 0xff], &[0x88, 0xa8, 0, 10, 0x81, 0, 0, 10]] {
                let bytes = [&ADDRESSES[0][..], &VICTIM, tags, &[8, 0], packet].concat();
                guest.send_patiently(&bytes)?;
            }
        }
        echoes(&mut guest)?;
    }
    let after = known(field)?;
    ensure!(before == after, "frames of one station changed where others are:\n{before}\nbecame\n{after}");
    Ok(())
}

/// Packets of both families that are wrong in each way that the tables name.
fn lying_packets() -> Vec<Vec<u8>> {
    let mut packets: Vec<Vec<u8>> = (0..5).map(|words| lying_ipv4(|packet| packet[0] = 0x40 | words)).collect();
    packets.extend(
        [0_u16, 19, 20, 21, 1500, u16::MAX]
            .map(|length| lying_ipv4(|packet| packet[2..4].copy_from_slice(&length.to_be_bytes()))),
    );
    packets.push(lying_ipv4(|packet| packet[8] = 0));
    packets.extend([0, 2, 58, 103, 255].map(|protocol| lying_ipv4(|packet| packet[9] = protocol)));
    packets.extend(
        [[0; 4], [255; 4], [127, 0, 0, 1], [224, 0, 0, 1], [10, 0, 0, 1]]
            .map(|source| lying_ipv4(|packet| packet[12..16].copy_from_slice(&source))),
    );
    packets.extend(
        [0x2000_u16, 0x1fff, 0x3fff, 1]
            .map(|flags| lying_ipv4(|packet| packet[6..8].copy_from_slice(&flags.to_be_bytes()))),
    );
    // Options of no length before IGMP, which snooping reads.
    packets.push(lying_ipv4(|packet| {
        packet[0] = 0x46;
        packet[9] = 2;
        packet[20..24].copy_from_slice(&[0x94, 0, 0, 0]);
    }));
    let v6 = |next: u8, body: &[u8]| {
        let length = (body.len() as u16).to_be_bytes();
        [&[0x60, 0, 0, 0, length[0], length[1], next, 64][..], &[0xfe; 16], &[0xff; 16], body].concat()
    };
    for kind in [0, 43, 44, 51, 60, 135] {
        packets.push(v6(kind, &[kind, 0, 1, 4, 0, 0, 0, 0].repeat(100)));
        packets.push(v6(kind, &[58, 255, 0, 0]));
        packets.push(v6(kind, &[58, 0, 1, 4, 0, 0, 0, 0, 143, 0]));
    }
    // Reports of groups with as many sources as do not fit.
    let report = [&[143, 0, 0, 0, 0, 0, 255, 255][..], &[4, 255, 255, 255], &[0xff; 16]].concat();
    packets.push(v6(0, &[&[58, 0, 5, 2, 0, 0, 1, 0][..], &report].concat()));
    let tcp = |offset: u8| lying_ipv4(|packet| (packet[9], packet[32]) = (6, offset << 4));
    packets.extend((0..16).map(tcp));
    let cuts: Vec<_> = packets
        .iter()
        .flat_map(|packet| [1, 9, 19, 21].map(|length| packet[..length.min(packet.len())].to_vec()))
        .collect();
    packets.extend(cuts);
    packets
}

/// An IPv4 packet of 10.0.0.102's with 40 bytes of payload, changed, with the sum that belongs to it.
fn lying_ipv4(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut packet =
        [&[0x45, 0, 0, 60, 0, 1, 0, 0, 64, 17, 0, 0][..], &[10, 0, 0, 102], &Ipv4Addr::new(10, 0, 0, 1).octets()]
            .concat();
    packet.extend([0; 40]);
    change(&mut packet);
    let sum = checksum(&[&packet[..20]]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// A virtio-net header that leaves a checksum to the device.
fn needs_checksum(start: u16, offset: u16) -> Vec<u8> {
    let ([s0, s1], [o0, o1]) = (start.to_le_bytes(), offset.to_le_bytes());
    vec![1, 0, 0, 0, 0, 0, s0, s1, o0, o1, 0, 0]
}

pub fn frame(destination: [u8; 6], source: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    [&destination[..], &source, &kind.to_be_bytes(), payload].concat()
}

/// A frame to a neighbour comes back: the switch serves the guest.
pub fn echoes(guest: &mut Guest) -> Result<()> {
    echoes_from(guest, VICTIM)
}

/// As [`echoes`], of a guest with another address. What finds the neighbour's ring full is lost: it is sent again.
fn echoes_from(guest: &mut Guest, source: [u8; 6]) -> Result<()> {
    let bytes = [&ADDRESSES[0][..], &source, &ECHO, &[0x5a; 60]].concat();
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        guest.send_patiently(&bytes)?;
        thread::sleep(Duration::from_millis(20));
        let is_back = |frame: &Vec<u8>| frame.starts_with(&source) && frame.get(12..14) == Some(&ECHO[..]);
        if guest.drain().iter().any(is_back) {
            return Ok(());
        }
    }
    bail!("the neighbour does not answer")
}

/// VIRTIO_NET_F_CSUM.
const OFFLOADS: u64 = 1;
