//! The physical side (N19): runts, jumbo frames, nonsense and wrong checksums at the rate of the line, and a link that goes and comes.

use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_driver::Shape;
use culvert_system::place::{Namespace, ip};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::packets::{IP, udp};
use crate::case::Part;
use crate::field::Field;
use crate::guest::Guest;

/// The victim's address, and the one of who is outside.
const VICTIM: [u8; 6] = [2, 0, 0, 0, 0, 0x66];
const OUTSIDE: [u8; 6] = [2, 0, 0, 0, 0, 0x55];

/// N19.
pub fn a_physical_port_in_trouble(field: &mut Field) -> Result<()> {
    let rounds = if field.is_full() { 100_000 } else { 5_000 };
    let outside = Namespace::new("physical")?;
    ip(&format!("link add nic0 mtu 1500 type veth peer name wire mtu 9000 netns {}", outside.name()))?;
    ip("link set nic0 addrgenmode none arp off up")?;
    outside.ip("link set wire addrgenmode none arp off up")?;
    let played = play(field, &outside, rounds);
    // culvertd has the other end open until it ends.
    let _ = ip("link del nic0");
    played
}

fn play(field: &mut Field, outside: &Namespace, rounds: usize) -> Result<()> {
    field.exempt(Part::Process, "it runs with a physical port");
    field.exempt(Part::Resources, "it runs with a physical port");
    field.restart_with(|config| {
        config.push_str("\n[[port]]\nname = \"uplink0\"\nnetwork = \"blue\"\ndevice = \"net_af_packet0,iface=nic0\"\n");
    })?;
    field.exempt(
        Part::Log,
        "DPDK says what an interface of the kernel's has not; nonsense is refused for several reasons",
    );
    let wire = outside.packets("wire")?;
    let mut guest = field.connect_victim(Shape { queue_size: 1024, ..Shape::default() }, 0)?;
    passes(&mut guest, &wire, b"before")?;
    let frame = |destination: [u8; 6], kind: u16, payload: &[u8]| {
        [&destination[..], &OUTSIDE, &kind.to_be_bytes(), payload].concat()
    };
    let good = udp(super::packets::WORLD, 5000, 9000, &[0x5a; 400]);
    let mut nonsense: Vec<Vec<u8>> = (0..46).map(|length| frame(VICTIM, 0x0800, &good[IP..IP + length])).collect();
    nonsense.extend((0..46).map(|length| frame([0xff; 6], 0x8100, &good[IP..IP + length])));
    nonsense.extend([1501, 4000, 8986].map(|length| frame(VICTIM, 0x88b7, &vec![0xaa; length])));
    for place in [24, 25, 36, 60] {
        let mut wrong = good.clone();
        wrong[place] ^= 0xff;
        nonsense.push([&VICTIM[..], &OUTSIDE, &wrong[12..]].concat());
    }
    nonsense.push([&VICTIM[..], &[0xff; 6], &good[12..]].concat());
    nonsense.push(frame([1, 0x80, 0xc2, 0, 0, 1], 0x8808, &[0, 1, 0xff, 0xff]));
    for number in 0..rounds {
        let frame = &nonsense[number % nonsense.len()];
        // Not more than the line takes.
        match send(&wire, frame, SendFlags::DONTWAIT) {
            Ok(_) | Err(Errno::AGAIN | Errno::NOBUFS | Errno::MSGSIZE | Errno::INVAL) => {}
            Err(error) => return Err(error).context("the wire"),
        }
        if number % 256 == 0 {
            guest.drain();
        }
    }
    passes(&mut guest, &wire, b"after nonsense")?;
    for _ in 0..100 {
        outside.ip("link set wire down")?;
        outside.ip("link set wire up")?;
    }
    let began = Instant::now();
    passes(&mut guest, &wire, b"after 100 flaps")?;
    println!("    after the last of 100 flaps frames pass again within {:?}", began.elapsed());
    Ok(())
}

/// A frame gets out and another one in, at last.
fn passes(guest: &mut Guest, wire: &impl AsFd, what: &[u8]) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let out = [&OUTSIDE[..], &VICTIM, &[0x88, 0xb7], what, &[0; 60]].concat();
    let back = [&VICTIM[..], &OUTSIDE, &[0x88, 0xb7], what, &[0; 60]].concat();
    let mut bytes = [0; 9100];
    loop {
        guest.send_patiently(&out)?;
        // While the link is down it takes none.
        let _ = send(wire, &back, SendFlags::DONTWAIT);
        thread::sleep(Duration::from_millis(5));
        let mut got = false;
        while let Ok((count, _)) = recv(wire, &mut bytes[..], RecvFlags::DONTWAIT) {
            got |= bytes[..count].starts_with(&out);
        }
        let came = guest.drain().contains(&back);
        if got && came {
            return Ok(());
        }
        let what = String::from_utf8_lossy(what);
        ensure!(Instant::now() < deadline, "{what}: a frame got out: {got}, one came in: {came}");
    }
}
