//! More than a guest may have, against a translator: new connections (N6), ports and descriptors (N7), datagrams (N10).

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::packets::{IP, Segment, UDP, WORLD, WORLD6, flag, icmp_of, ipv4, ipv6, udp};
use crate::field::Field;
use crate::translators::Victim;

/// N6: a flood of SYNs, to a port where somebody is and to addresses where nobody is.
pub fn syn_flood(field: &mut Field) -> Result<()> {
    let full = field.is_full();
    let lasting = Duration::from_secs(if full { 20 } else { 3 });
    let translators = field.translators()?;
    let calm = translators.neighbour();
    calm.mark();
    let calm = calm.wait(|seen| seen.openings.len() >= 10)?.opening().context("no connection was opened")?;
    translators.play("", |victim| {
        let listener = victim.world().listen("198.51.100.1:9000")?;
        listener.set_nonblocking(true)?;
        let began = Instant::now();
        let mut number = 0_u32;
        while began.elapsed() < lasting {
            let frames = (number..number + 4096).map(|number| {
                let destination = if number % 2 == 0 { WORLD } else { Ipv4Addr::from(0xc612_0000 | number) };
                let from = 1024 + (number / 2 % 60_000) as u16;
                Segment { destination, from, to: 9000, seq: number, flags: flag::SYN, ..Segment::default() }.frame()
            });
            victim.send_all(frames)?;
            number += 4096;
            // Those that wait to be accepted are not the translator's.
            while listener.accept().is_ok() {}
        }
        let stats = victim.stats()?;
        let of = |name: &str| stats.get(name).copied().unwrap_or(0);
        let (open, fast, many) = (of("tcp_flows"), of("refused_too_fast"), of("refused_too_many_flows"));
        println!(
            "    {number} SYNs in {:?}: {open} open, {fast} refused for their rate, {many} for their number, {} KiB",
            began.elapsed(),
            victim.memory()?
        );
        ensure!(open <= 98_304, "{open} connections are open");
        // Its own datagrams pass all the while.
        let heard = victim.world().udp("198.51.100.1:9001")?;
        heard.set_read_timeout(Some(Duration::from_secs(5)))?;
        victim.send(&udp(WORLD, 5000, 9001, b"through"))?;
        heard.recv(&mut [0; 64]).context("in a flood of SYNs no datagram leaves")?;
        Ok(())
    })?;
    let seen = translators.neighbour().seen();
    let busy = seen.opening().context("the neighbour has opened no connection in the flood")?;
    println!("    a neighbour's connection opens in {busy:?}, {calm:?} without the flood; {} did not", seen.unopened);
    ensure!(seen.unopened == 0, "{} of the neighbour's connections did not open", seen.unopened);
    ensure!(
        !full || busy < 2 * calm.max(Duration::from_millis(2)),
        "a neighbour's connection opens in {busy:?}, not {calm:?}"
    );
    Ok(())
}

/// N7: connections to one address until there are no ports for more.
pub fn no_ports_left(field: &mut Field) -> Result<()> {
    // Fewer ports than flows that this machine's descriptors give.
    let (ports, connects) = if field.is_full() { ("10000 19999", 30_000) } else { ("10000 10999", 3_000) };
    let translators = field.translators()?;
    let range = "net/ipv4/ip_local_port_range";
    translators.pod().pod().set_parameter(range, ports)?;
    let played = translators.play("", |victim| {
        let listener = victim.world().listen("198.51.100.1:9000")?;
        let other = victim.world().listen("198.51.100.2:9000")?;
        listener.set_nonblocking(true)?;
        for first in (0..connects).step_by(500) {
            let syns = (first..first + 500).map(|number| {
                let (destination, from, seq) = (WORLD, 1024 + number, u32::from(number));
                Segment { destination, from, to: 9000, seq, flags: flag::SYN, ..Segment::default() }.frame()
            });
            victim.send_all(syns)?;
        }
        let told = victim.wait_for_icmp("an ICMP error for what has no port")?;
        ensure!(told == (3, 1), "ICMP {told:?} for a connection without a port");
        println!("    {connects} connections: {} open", victim.count("tcp_flows")?);
        // Another address has ports of its own.
        let destination = Ipv4Addr::new(198, 51, 100, 2);
        let connection = victim.open_as(&Segment { destination, from: 900, to: 9000, ..Segment::default() })?;
        drop(other.accept()?);
        victim.reset(&connection)?;
        let heard = victim.world().udp("198.51.100.1:9001")?;
        heard.set_read_timeout(Some(Duration::from_secs(5)))?;
        victim.send(&udp(WORLD, 5000, 9001, b"through"))?;
        heard.recv(&mut [0; 64]).context("without TCP ports no datagram leaves")?;
        Ok(())
    });
    translators.pod().pod().set_parameter(range, "32768 60999")?;
    played
}

/// N7: few descriptors, and a guest that takes them all: what is kept for others is there.
pub fn no_descriptors_left(field: &mut Field) -> Result<()> {
    field.translators()?.play_by(&["prlimit", "--nofile=512:512"], "-t 8000", |victim| {
        let _listener = victim.world().listen("198.51.100.1:9000")?;
        let heard = victim.world().udp("198.51.100.1:9001")?;
        heard.set_read_timeout(Some(Duration::from_secs(5)))?;
        let syns = (0..2_000)
            .map(|number| Segment { from: 1024 + number, to: 9000, flags: flag::SYN, ..Segment::default() }.frame());
        victim.send_all(syns)?;
        let (open, refused) = (victim.count("tcp_flows")?, victim.count("refused_too_many_flows")?);
        let descriptors = victim.translator().descriptors()?;
        println!("    512 descriptors: {open} connections, {refused} refused, {descriptors} descriptors in use");
        ensure!(refused >= 1_000 && open < 256, "{open} connections and {refused} refused with 512 descriptors");
        // Datagrams have flows of their own, and more of them than there are descriptors.
        for number in 0..600 {
            victim.send(&udp(WORLD, 5000 + number, 9001, b"through"))?;
            heard.recv(&mut [0; 64]).with_context(|| format!("with TCP full, datagram {number} does not leave"))?;
        }
        let echo = ipv4(super::packets::ICMP, WORLD, &super::packets::icmp(8, 0, 0x0102_0001, b"ping"));
        victim.send(&echo)?;
        victim.wait_for("an echo reply", |frame| icmp_of(frame).filter(|kind| kind.0 == 0))?;
        // The control socket, with more clients than there are; a port that is forwarded now; another guest.
        for _ in 0..16 {
            victim.stats()?;
        }
        let told = victim.translator().ask("forward add tcp 8001")?;
        ensure!(told.starts_with("ok"), "with all flows in use: {told}");
        victim.reconnect()?;
        victim.send(&udp(WORLD, 7000, 9001, b"through"))?;
        heard.recv(&mut [0; 64]).context("the next guest's datagram does not leave")?;
        Ok(())
    })
}

/// N10: datagrams whose headers lie, and more flows than there may be.
pub fn datagrams(field: &mut Field) -> Result<()> {
    let count: u32 = if field.is_full() { 100_000 } else { 15_000 };
    field.translators()?.play("", |victim| {
        let heard = victim.world().udp("198.51.100.1:9000")?;
        heard.set_read_timeout(Some(Duration::from_secs(5)))?;
        let good = udp(WORLD, 5000, 9000, b"datagram");
        let of_length = |length: u16| {
            let mut frame = good.clone();
            frame[IP + 24..IP + 26].copy_from_slice(&length.to_be_bytes());
            frame
        };
        victim.must_refuse("bad_transport", "a length that lies", [0, 1, 7, 17, 1500, u16::MAX].map(of_length))?;
        let cut = (0..8).map(|length| ipv4(UDP, WORLD, &good[IP + 20..IP + 20 + length]));
        victim.must_refuse("truncated", "half a header", cut)?;
        victim.must_refuse(
            "bad_transport",
            "to or from port 0",
            [udp(WORLD, 5000, 0, b"x"), udp(WORLD, 0, 9000, b"x")],
        )?;
        let mut unsummed = udp(WORLD6, 5000, 9000, b"x");
        unsummed[IP + 46..IP + 48].fill(0);
        victim.must_refuse("bad_transport", "IPv6 without checksum", [unsummed])?;
        let too_long = ipv6(UDP, WORLD6, &[&udp(WORLD6, 5000, 9000, b"")[IP + 40..IP + 44], &[0xff; 4][..]].concat());
        victim.must_refuse("bad_transport", "a length of 64 KiB", [too_long])?;
        let before = victim.memory()?;
        victim.send_all((0..count).map(|number| {
            let destination = Ipv4Addr::from(u32::from(WORLD) + (number >> 15 & 1));
            udp(destination, 1024 + (number % 32_000) as u16, 9_000 + (number / 32_000) as u16, b"flood")
        }))?;
        let (open, fast) = (victim.count("udp_flows")?, victim.count("refused_too_fast")?);
        let grown = victim.memory()?.saturating_sub(before);
        println!("    {count} flows of datagrams: {open} open, {fast} refused for their rate, {grown} KiB");
        ensure!(open <= 32_768, "{open} flows of datagrams are open");
        drain(&heard);
        victim.send(&udp(WORLD, 60_000, 9000, b"one more"))?;
        let mut bytes = [0; 64];
        while heard.recv(&mut bytes).context("after a flood of flows no datagram leaves")? != 8 {}
        // One that leaves it to us to cut 60 KB into datagrams of a byte each is one frame, and no hour of work.
        crowds(victim)
    })
}

/// The victim's translator answers while it has much to do.
fn crowds(victim: &mut Victim<'_>) -> Result<()> {
    let began = Instant::now();
    victim.stats()?;
    let took = began.elapsed();
    ensure!(took < Duration::from_secs(2), "the control socket answers after {took:?}");
    Ok(())
}

fn drain(socket: &std::net::UdpSocket) {
    let _ = socket.set_nonblocking(true);
    while socket.recv(&mut [0; 64]).is_ok() {}
    let _ = socket.set_nonblocking(false);
}
