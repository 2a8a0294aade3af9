//! What a translator answers itself, and where it lets nobody: DHCP and DHCPv6 (N14), DNS (N15), destinations (N16), groups (N17).

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::packets::{GUEST_MAC, ICMP, IP, Segment, checksum_v6, flag, icmp, icmp_of, ipv4, ipv4_from, udp};
use crate::field::Field;
use crate::translators::Victim;

/// N14: requests for addresses with options that run past their end, relayed ones, and too many of them.
pub fn requests_for_addresses(field: &mut Field) -> Result<()> {
    let floods = if field.is_full() { 100_000 } else { 5_000 };
    field.translators()?.play("", |victim| {
        let memory = victim.memory()?;
        let flows = victim.count("udp_flows")?;
        let from_nobody = |payload: &[u8]| {
            let length = (8 + payload.len()) as u16;
            let header = [&[0, 68, 0, 67][..], &length.to_be_bytes(), &[0, 0]].concat();
            ipv4_from(Ipv4Addr::UNSPECIFIED, 17, Ipv4Addr::BROADCAST, &[&header, payload].concat())
        };
        let bootp = |magic: [u8; 4], options: &[u8]| {
            let mut message = vec![0; 236];
            message[..4].copy_from_slice(&[1, 1, 6, 0]);
            message[28..34].copy_from_slice(&GUEST_MAC);
            message.extend(magic);
            message.extend(options);
            message
        };
        const MAGIC: [u8; 4] = [99, 130, 83, 99];
        let discover = [53, 1, 1, 255];
        let bad: [&[u8]; 9] = [
            &[53, 255, 1],
            &[53, 1],
            &[53],
            &[53, 0, 255],
            &[53, 1, 1, 12, 255, b'x'],
            &[53, 1, 99, 255],
            // Options go on in the fields of file and name, which do not end.
            &[52, 1, 3, 53, 255],
            &[55, 255, 1, 3, 6],
            &[61, 0, 53, 200],
        ];
        let mut frames: Vec<_> = bad.iter().map(|options| from_nobody(&bootp(MAGIC, options))).collect();
        frames.push(from_nobody(&bootp([0; 4], &discover)));
        frames.extend((0..240).step_by(7).map(|length| from_nobody(&bootp(MAGIC, &discover)[..length])));
        let mut relayed = bootp(MAGIC, &discover);
        relayed[24..28].copy_from_slice(&[10, 0, 0, 1]);
        relayed[3] = 16;
        frames.push(from_nobody(&relayed));
        let mut token_ring = bootp(MAGIC, &discover);
        token_ring[1..3].copy_from_slice(&[6, 255]);
        frames.push(from_nobody(&token_ring));
        victim.send_all(frames)?;
        // DHCPv6: each cut of a Solicit, options in options, relayed ones.
        let server: Ipv6Addr = "ff02::1:2".parse()?;
        let dhcpv6 = |message: &[u8]| {
            let mut frame = udp(server, 546, 547, message);
            let source: Ipv6Addr = "fe80::66".parse().unwrap_or(Ipv6Addr::LOCALHOST);
            frame[IP + 8..IP + 24].copy_from_slice(&source.octets());
            frame[IP + 46..IP + 48].fill(0);
            let sum = checksum_from(source, server, &frame[IP + 40..]);
            frame[IP + 46..IP + 48].copy_from_slice(&sum.to_be_bytes());
            frame
        };
        let solicit = [
            &[1, 0, 0, 7][..],
            &[0, 1, 0, 10, 0, 3, 0, 1],
            &GUEST_MAC,
            &[0, 3, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        ]
        .concat();
        victim.send_all((0..solicit.len()).map(|length| dhcpv6(&solicit[..length])))?;
        let nested = [&[12, 0][..], &[0; 32], &[0, 9, 255, 255], &solicit].concat();
        let within = [&solicit[..], &[0, 3, 0, 40][..], &[0; 12], &[0, 5, 0, 255]].concat();
        victim.send_all([dhcpv6(&nested), dhcpv6(&within)])?;
        victim.heard();
        // Many good ones: all are answered from the one address that there is.
        victim.send_all((0..floods).map(|_| dhcpv6(&solicit)))?;
        victim.send_all((0..floods).map(|_| from_nobody(&bootp(MAGIC, &discover))))?;
        victim.heard();
        victim.send(&from_nobody(&bootp(MAGIC, &discover)))?;
        let offered = victim.wait_for("an offer", |frame| {
            (frame.get(IP + 9) == Some(&17) && frame.get(IP + 20..IP + 24)? == [0, 67, 0, 68])
                .then(|| frame.get(IP + 44..IP + 48).map(<[u8]>::to_vec))?
        })?;
        ensure!(offered == [192, 0, 2, 15], "another address was offered: {offered:?}");
        let grown = victim.memory()?.saturating_sub(memory);
        println!("    {floods} Solicits and Discovers: the translator grew by {grown} KiB");
        ensure!(grown < 2048, "the translator grew by {grown} KiB for requests");
        ensure!(victim.count("udp_flows")? == flows, "requests for addresses left as datagrams");
        Ok(())
    })
}

/// N15: DNS that goes to the host's resolver: messages with loops, of 64 KiB, and many that are never answered.
pub fn names_without_end(field: &mut Field) -> Result<()> {
    field.translators()?.play("--dns-forward 192.0.2.53 --dns-host 198.51.100.1", |victim| {
        let resolver = victim.world().udp("198.51.100.1:53")?;
        resolver.set_read_timeout(Some(Duration::from_secs(5)))?;
        let at = Ipv4Addr::new(192, 0, 2, 53);
        // A name that points to itself: nobody here reads it.
        let query = [&[0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &[0xc0, 12, 0, 1, 0, 1]].concat();
        victim.send(&udp(at, 5000, 53, &query))?;
        let mut bytes = vec![0; 65_536];
        let (count, from) = resolver.recv_from(&mut bytes)?;
        ensure!(bytes[..count] == query, "a query was changed on its way");
        let mut answer = query.clone();
        answer.resize(1400, 0xc0);
        resolver.send_to(&answer, from)?;
        let back = victim.wait_for("an answer", |frame| (frame.len() > 1400).then(|| frame.to_vec()))?;
        ensure!(back[IP + 12..IP + 16] == at.octets() && back.ends_with(&answer), "another answer came");
        // 10,000 that nobody answers, each from a port of its own.
        let before = victim.memory()?;
        victim.send_all((0..10_000).map(|number| udp(at, 10_000 + number, 53, &query)))?;
        let (flows, grown) = (victim.count("udp_flows")?, victim.memory()?.saturating_sub(before));
        println!("    10,000 queries that wait: {flows} flows, {grown} KiB");
        ensure!(flows <= 32_768, "{flows} flows wait for the resolver");
        while resolver.recv(&mut bytes).is_ok_and(|_| resolver.set_nonblocking(true).is_ok()) {}
        resolver.set_nonblocking(false)?;
        victim.send(&udp(at, 60_000, 53, &query))?;
        resolver.recv(&mut bytes).context("the next query does not come")?;
        Ok(())
    })
}

/// N16: the node's own services, by any name; allowed is what a rule allows.
pub fn where_no_guest_may_go(field: &mut Field) -> Result<()> {
    let translators = field.translators()?;
    // The node's services, on all its addresses, and those of another guest.
    let service = translators.pod().pod().listen("0.0.0.0:10250")?;
    let service_v6 = translators.pod().pod().listen("[::]:10251")?;
    service.set_nonblocking(true)?;
    service_v6.set_nonblocking(true)?;
    let datagrams = translators.pod().pod().udp("0.0.0.0:10250")?;
    datagrams.set_nonblocking(true)?;
    let untouched = || -> Result<()> {
        ensure!(service.accept().is_err() && service_v6.accept().is_err(), "the node's service was reached");
        ensure!(datagrams.recv(&mut [0; 64]).is_err(), "a datagram reached the node");
        Ok(())
    };
    translators.play("", |victim| {
        let own = ["127.0.0.1", "127.255.255.254", "192.0.2.15", "169.254.169.254"];
        for destination in own {
            refused(victim, destination.parse()?)?;
        }
        // Addresses that the pod gets later, on any interface, and those that only a route makes its own.
        victim.pod().ip("addr add 192.0.2.77/24 dev eth0")?;
        victim.pod().ip("addr add 203.0.113.77/32 dev lo")?;
        victim.pod().ip("route add local 203.0.113.128/25 dev lo")?;
        for destination in ["192.0.2.77", "203.0.113.77", "203.0.113.200"] {
            refused(victim, destination.parse()?).context("an address that came later")?;
        }
        for destination in ["::1", "2001:db8:1::15", "fd00:ec2::254", "fd20:ce::254"] {
            refused_v6(victim, destination.parse()?)?;
        }
        let nowhere = [[0, 0, 0, 0], [0, 1, 2, 3]].map(|octets| udp(Ipv4Addr::from(octets), 5000, 10250, b"x"));
        victim.must_refuse("bad_destination", "addresses of nobody", nowhere)?;
        untouched()?;
        // What is not refused: the world.
        let _listener = victim.world().listen("198.51.100.1:9000")?;
        victim.open(5000, 9000)?;
        Ok(())
    })?;
    for command in [
        "addr del 192.0.2.77/24 dev eth0",
        "addr del 203.0.113.77/32 dev lo",
        "route del local 203.0.113.128/25 dev lo",
    ] {
        translators.pod().pod().ip(command)?;
    }
    translators.play("--allow-address 192.0.2.15", |victim| {
        refused(victim, Ipv4Addr::LOCALHOST)?;
        untouched()?;
        victim.open_as(&Segment {
            destination: Ipv4Addr::new(192, 0, 2, 15),
            from: 5000,
            to: 10250,
            ..Segment::default()
        })?;
        ensure!(service.accept().is_ok(), "a rule allows it, and it is refused");
        Ok(())
    })
}

/// N17: a guest that sends to groups which it has joined itself, by a port that is forwarded to it.
pub fn a_group_that_answers_itself(field: &mut Field) -> Result<()> {
    field.translators()?.play("-u 5353", |victim| {
        let group = Ipv4Addr::new(224, 0, 0, 251);
        let report = ipv4(2, group, &icmp(0x16, 0, u32::from(group), b""));
        victim.send(&report)?;
        victim.heard();
        // As often as it hears something it says it again, from the port that is forwarded: that would never end.
        let shout = udp(group, 5353, 5353, b"shout");
        victim.send(&shout)?;
        let mut heard = 0_u32;
        for _ in 0..200 {
            let came = victim.heard().iter().filter(|frame| frame.ends_with(b"shout")).count();
            heard += came as u32;
            victim.send_all(std::iter::repeat_n(shout.clone(), came))?;
            std::thread::sleep(Duration::from_millis(2));
        }
        ensure!(heard == 0, "the guest heard itself {heard} times");
        // Others are heard.
        let world = victim.world().udp("192.0.2.1:5353")?;
        world.send_to(b"from the world", "224.0.0.251:5353")?;
        victim
            .wait_for("what the world says to the group", |frame| frame.ends_with(b"from the world").then_some(()))?;
        Ok(())
    })
}

/// TCP, UDP and echo to `destination` are refused, each counted and told.
fn refused(victim: &mut Victim<'_>, destination: Ipv4Addr) -> Result<()> {
    let syn = Segment { destination, from: 6000, to: 10250, flags: flag::SYN, ..Segment::default() }.frame();
    let ping = ipv4(ICMP, destination, &icmp(8, 0, 0x0102_0001, b"ping"));
    let frames = [syn, udp(destination, 6000, 10250, b"secret"), ping];
    victim.heard();
    victim.must_refuse("destination_not_allowed", &format!("{destination}"), frames)?;
    let rst = victim.wait_for_segment(6000, "a RST", |_| true)?;
    ensure!(rst.flags & flag::RST != 0, "{destination}: {rst:?}");
    victim.wait_for("that it is prohibited", |frame| icmp_of(frame).filter(|told| *told == (3, 13)))?;
    Ok(())
}

fn refused_v6(victim: &mut Victim<'_>, destination: Ipv6Addr) -> Result<()> {
    let datagram = udp(destination, 6000, 10251, b"secret");
    let mut syn =
        [&6000_u16.to_be_bytes()[..], &10251_u16.to_be_bytes(), &[0; 8], &[0x50, flag::SYN, 0xff, 0, 0, 0, 0, 0]]
            .concat();
    let sum = checksum_v6(6, destination, &syn);
    syn[16..18].copy_from_slice(&sum.to_be_bytes());
    let frames = [datagram, super::packets::ipv6(6, destination, &syn)];
    victim.must_refuse("destination_not_allowed", &format!("{destination}"), frames)
}

/// The checksum of UDP from one address to another.
fn checksum_from(source: Ipv6Addr, to: Ipv6Addr, datagram: &[u8]) -> u16 {
    let length = (datagram.len() as u32).to_be_bytes();
    let parts: [&[u8]; 5] = [&source.octets(), &to.octets(), &length, &[0, 0, 0, 17], datagram];
    super::packets::checksum(&parts)
}
