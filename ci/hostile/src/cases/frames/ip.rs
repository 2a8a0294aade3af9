//! Packets that lie, against a translator: IPv4 (N2), fragments (N3), IPv6 (N4), ICMP (N11), and what could widen a flow (N18).

use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::packets::{
    GUEST, GUEST_MAC, GUEST6, ICMP, ICMPV6, IP, Received, Segment, TCP, UDP, WORLD, WORLD6, checksum_v6, ethernet,
    flag, fragment, icmp, icmp_of, ipv4, ipv4_from, ipv6, summed, udp,
};
use crate::field::Field;
use crate::translators::Victim;

/// N2: headers that contradict themselves or their packet, sources that no guest has.
pub fn ipv4_headers_that_lie(field: &mut Field) -> Result<()> {
    field.translators()?.play("", |victim| {
        let heard = victim.world().udp("198.51.100.1:9000")?;
        heard.set_read_timeout(Some(Duration::from_secs(5)))?;
        let good = udp(WORLD, 5000, 9000, b"good");
        let with = |at: usize, value: u8| {
            let mut frame = good.clone();
            frame[IP + at] = value;
            summed(frame)
        };
        victim.must_refuse("malformed", "header of less than 5 words", (0..5).map(|words| with(0, 0x40 | words)))?;
        victim.must_refuse("malformed", "another version", [0x05, 0x55, 0x65, 0xf5].map(|first| with(0, first)))?;
        let of_length = |length: u16| {
            let mut frame = good.clone();
            frame[IP + 2..IP + 4].copy_from_slice(&length.to_be_bytes());
            summed(frame)
        };
        victim.must_refuse("malformed", "a length below the header's", (0..20).map(of_length))?;
        let end = good.len() as u16 - IP as u16;
        victim.must_refuse("truncated", "a length above the frame's", [end + 1, 1500, u16::MAX].map(of_length))?;
        victim.must_refuse("malformed", "no time to live", [with(8, 0)])?;
        let unsummed = {
            let mut frame = good.clone();
            frame[IP + 10] ^= 1;
            frame
        };
        victim.must_refuse("malformed", "a wrong checksum", [unsummed])?;
        for protocol in [0, 2, 4, 41, 47, 50, 89, 132, 255] {
            // IGMP (2) is read here: as a message that is none.
            let reason = if protocol == 2 { "bad_request" } else { "other_protocol" };
            let frame = ipv4(protocol, WORLD, &[0xff; 40]);
            if protocol != 2 {
                victim.must_refuse(reason, "a protocol that no socket carries", [frame])?;
            } else {
                victim.send(&frame)?;
            }
        }
        let impossible = [[255; 4], [127, 0, 0, 1], [224, 0, 0, 1], [239, 255, 255, 250], [240, 0, 0, 1], [0, 1, 2, 3]];
        let from = |source: [u8; 4], payload: &[u8]| ipv4_from(source.into(), UDP, WORLD, payload);
        let datagram = good[IP + 20..].to_vec();
        victim.must_refuse("bad_source", "a source of no host", impossible.map(|source| from(source, &datagram)))?;
        // 0.0.0.0 has whoever asks for an address, and nobody else.
        victim.must_refuse("bad_source", "no source", [from([0; 4], &datagram)])?;
        victim.must_refuse(
            "bad_source",
            "the router's own address",
            [from([192, 0, 2, 1], &datagram), ipv4_from([192, 0, 2, 1].into(), TCP, WORLD, &good[IP + 20..])],
        )?;
        // Options: of lengths 0, 1 and beyond, and 40 bytes of any: they are no affair of ours, and the packet is good.
        for options in [[7, 0, 0, 0], [7, 1, 0, 0], [7, 255, 4, 0], [0x83, 3, 4, 0], [0, 0, 0, 0]] {
            let mut frame = good[..IP + 20].to_vec();
            frame.extend(options.repeat(10));
            frame.extend(&datagram);
            frame[IP] = 0x4f;
            let length = (frame.len() - IP) as u16;
            frame[IP + 2..IP + 4].copy_from_slice(&length.to_be_bytes());
            victim.send(&summed(frame))?;
            ensure!(receive(&heard)? == b"good", "options changed the payload");
        }
        works(victim, &heard)
    })
}

/// N3: fragments that overlap, that are small, too long or too many.
pub fn fragments(field: &mut Field) -> Result<()> {
    let floods = if field.is_full() { 100_000 } else { 10_000 };
    field.translators()?.play("", |victim| {
        let heard = victim.world().udp("198.51.100.1:9000")?;
        heard.set_read_timeout(Some(Duration::from_secs(5)))?;
        let before = victim.memory()?;
        // Header of a datagram of 24 bytes, in a first fragment of 16.
        let first = [&5000_u16.to_be_bytes()[..], &9000_u16.to_be_bytes(), &24_u16.to_be_bytes(), &[0, 0], b"AAAAAAAA"]
            .concat();
        let part = |id, offset, more, payload: &[u8]| fragment(id, offset, more, UDP, payload);
        // The second lies wholly inside of the first, begins in it with other bytes, or ends in it.
        for (id, offset, bytes) in [(1, 8, 4), (2, 8, 16), (3, 0, 8)] {
            victim.send(&part(id, 0, true, &first))?;
            victim.must_refuse("bad_fragment", "an overlap", [part(id, offset, id == 3, &vec![b'B'; bytes])])?;
            // Nothing becomes of it any more.
            victim.must_refuse("bad_fragment", "what follows an overlap", [part(id, 16, false, b"CCCCCCCC")])?;
        }
        victim.must_refuse("bad_fragment", "a first part of 7 bytes", [part(4, 0, true, &first[..7])])?;
        victim.must_refuse("bad_fragment", "an empty part", [part(5, 0, true, b""), part(5, 64, false, b"")])?;
        victim.must_refuse("bad_fragment", "an end behind 64 KiB", [part(6, 65_528, false, &[0; 64])])?;
        // In the first part there is not even a whole header: the datagram is good all the same.
        victim.send_all([part(7, 0, true, &first[..8]), part(7, 8, false, &first[8..])])?;
        // The length that the header tells is not the length that came together.
        victim.send_all([part(8, 0, true, &first), part(8, 16, false, b"BBBBBBBB")])?;
        ensure!(receive(&heard)? == b"AAAAAAAABBBBBBBB", "a good datagram in two parts");
        victim.send_all((0..floods).map(|id| part(id as u16, 0, true, &[0; 1400])))?;
        victim.send_all((0..floods / 10).map(|id| part(id as u16, 1480, false, &[0; 1400])))?;
        let grown = victim.memory()?.saturating_sub(before);
        println!("    {floods} first fragments: the translator grew by {grown} KiB");
        ensure!(grown < 4096, "the translator grew by {grown} KiB for fragments");
        // Between the parts of an honest one, there are many others.
        let others = (0..32).map(|id| part(20_000 + id, 0, true, &[0; 1400]));
        victim.send_all([part(9, 0, true, &first)].into_iter().chain(others))?;
        victim.send(&part(9, 16, false, b"DDDDDDDD"))?;
        ensure!(receive(&heard)? == b"AAAAAAAADDDDDDDD", "a good datagram among others");
        works(victim, &heard)
    })
}

/// N4: extension headers without end, routing headers, parts that are the whole, jumbograms, packets that end within a header.
pub fn ipv6_headers(field: &mut Field) -> Result<()> {
    field.translators()?.play("", |victim| {
        let heard = victim.world().udp("[2001:db8:2::1]:9000")?;
        heard.set_read_timeout(Some(Duration::from_secs(5)))?;
        let good = udp(WORLD6, 5000, 9000, b"good");
        let datagram = &good[IP + 40..];
        let options = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
        let chain = |kind: u8, count: usize, last: u8| {
            let mut bytes = Vec::new();
            for number in 0..count {
                bytes.extend(options(if number + 1 == count { last } else { kind }));
            }
            bytes
        };
        for kind in [0, 60, 43] {
            let mut headers = chain(kind, 100, UDP);
            if kind == 43 {
                // Routing headers that are through with routing.
                headers.chunks_mut(8).for_each(|header| header[2..4].copy_from_slice(&[0, 0]));
            }
            victim.must_refuse(
                "truncated",
                "100 extension headers",
                [ipv6(kind, WORLD6, &[&headers, datagram].concat())],
            )?;
        }
        // A header of 2 KiB, beyond the packet and within it.
        let long = [&[UDP, 255][..], &[0; 6]].concat();
        victim.must_refuse("truncated", "a header behind the end", [ipv6(60, WORLD6, &[&long, datagram].concat())])?;
        let routed = [UDP, 0, 0, 1, 0, 0, 0, 0];
        victim.must_refuse(
            "other_protocol",
            "a routing header that still leads somewhere",
            [ipv6(43, WORLD6, &[&routed[..], datagram].concat())],
        )?;
        // RFC 2675: a length of 0, the real one in an option.
        let jumbo = [UDP, 0, 0xc2, 4, 0, 1, 0, 0];
        let mut jumbo = ipv6(0, WORLD6, &[&jumbo[..], datagram].concat());
        jumbo[IP + 4..IP + 6].fill(0);
        victim.must_refuse("malformed", "a jumbogram", [jumbo])?;
        let twice = [[44, 0, 0, 1, 0, 0, 0, 9], [UDP, 0, 0, 0, 0, 0, 0, 9]].concat();
        victim.send(&ipv6(44, WORLD6, &[&twice, datagram].concat()))?;
        let cuts = (IP..good.len()).map(|length| good[..length].to_vec());
        victim.must_refuse("truncated", "packets cut short", cuts)?;
        let from = |source: Ipv6Addr| {
            let mut frame = good.clone();
            frame[IP + 8..IP + 24].copy_from_slice(&source.octets());
            frame
        };
        let impossible = ["::1", "ff02::1", "::ffff:192.0.2.15"].map(|text| text.parse().unwrap_or(GUEST6));
        victim.must_refuse("bad_source", "a source of no host", impossible.map(from))?;
        // Well-formed: a part that is the whole (RFC 6946), headers in order, as many as fit.
        let atomic = [UDP, 0, 0, 0, 0, 0, 0, 7];
        let few = chain(60, 5, UDP);
        for (kind, headers) in [(44, &atomic[..]), (60, &few), (0, &options(UDP))] {
            victim.send(&ipv6(kind, WORLD6, &[headers, datagram].concat()))?;
            ensure!(receive(&heard)? == b"good", "what followed header {kind}");
        }
        victim.send(&good)?;
        ensure!(receive(&heard)? == b"good", "a plain datagram");
        Ok(())
    })
}

/// N11: errors about what was never sent, echo requests whose lengths lie, redirects.
pub fn icmp_that_lies(field: &mut Field) -> Result<()> {
    field.translators()?.play("", |victim| {
        let heard = victim.world().udp("198.51.100.1:9000")?;
        heard.set_read_timeout(Some(Duration::from_secs(5)))?;
        victim.send(&udp(WORLD, 5000, 9000, b"first"))?;
        let mut bytes = [0; 64];
        let (_, own) = heard.recv_from(&mut bytes)?;
        // The datagram that the guest claims to have had from the world.
        let quoted = |source: Ipv4Addr, from: u16, to: u16| {
            let datagram = [&from.to_be_bytes()[..], &to.to_be_bytes(), &[0, 13, 0, 0], b"first"].concat();
            ipv4_from(source, UDP, GUEST, &datagram)[IP..].to_vec()
        };
        let error = |kind, code, quote: &[u8]| ipv4(ICMP, WORLD, &icmp(kind, code, 0, quote));
        let forged = quoted(WORLD, 9000, 5000);
        let mut errors =
            vec![error(3, 3, &quoted([203, 0, 113, 9].into(), 9000, 5000)), error(3, 3, &quoted(WORLD, 1, 1))];
        errors.extend((0..forged.len()).map(|length| error(3, 3, &forged[..length])));
        errors.extend((0..16).map(|code| error(3, code, &forged)));
        errors.extend([4, 5, 11, 12].map(|kind| error(kind, 0, &forged)));
        // A redirect of all that goes to the world, to the guest itself.
        errors.push(ipv4(ICMP, WORLD, &icmp(5, 1, u32::from(GUEST), &forged)));
        victim.must_refuse("icmp_not_carried", "errors and redirects", errors)?;
        let wrong = {
            let mut frame = error(3, 3, &forged);
            frame[IP + 22] ^= 1;
            frame
        };
        victim.must_refuse("bad_transport", "a wrong checksum", [wrong])?;
        // The flow is as it was, in both directions.
        victim.send(&udp(WORLD, 5000, 9000, b"second"))?;
        let (count, again) = heard.recv_from(&mut bytes)?;
        ensure!((&bytes[..count], again) == (&b"second"[..], own), "an error that the guest made up changed its flow");
        heard.send_to(b"back", own)?;
        victim.wait_for("what the world answers", |frame| frame.ends_with(b"back").then_some(()))?;
        // Echo: what comes back is what was sent, not a byte more, whatever the lengths say.
        let echo = icmp(8, 0, 0x0102_0001, b"0123456789");
        let mut long = ipv4(ICMP, WORLD, &echo);
        long[IP + 2..IP + 4].copy_from_slice(&1200_u16.to_be_bytes());
        victim.must_refuse("truncated", "an echo request longer than its frame", [summed(long)])?;
        victim.must_refuse("truncated", "half an echo header", [ipv4(ICMP, WORLD, &echo[..6])])?;
        let mut padded = ipv4(ICMP, WORLD, &echo);
        padded.extend([0xee; 400]);
        victim.send(&padded)?;
        let reply = victim
            .wait_for("an echo reply", |frame| icmp_of(frame).filter(|kind| kind.0 == 0).map(|_| frame.to_vec()))?;
        ensure!(reply.len() == IP + 20 + echo.len(), "a reply of {} bytes to {}", reply.len() - IP - 20, echo.len());
        let wrong_v6 = ipv6(ICMPV6, WORLD6, &icmp(128, 0, 1, b"with IPv4's checksum"));
        victim.must_refuse("bad_transport", "an echo request with a wrong checksum", [wrong_v6])?;
        victim.must_refuse("malformed", "ICMPv6 over IPv4", [ipv4(ICMPV6, WORLD, &echo)])?;
        Ok(())
    })
}

/// N18: bytes behind a packet's end, and flows that share all but one field: none may become part of another.
pub fn nothing_widens_a_flow(field: &mut Field) -> Result<()> {
    field.translators()?.play("", |victim| {
        let heard = victim.world().udp("198.51.100.1:9000")?;
        let other = victim.world().udp("198.51.100.2:9000")?;
        let tcp = victim.world().listen("198.51.100.1:9000")?;
        for socket in [&heard, &other] {
            socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        }
        // Padding is not part of the datagram; nor is what UDP's own length leaves out.
        let mut padded = udp(WORLD, 5000, 9000, b"padded");
        padded.extend([0xee; 600]);
        victim.send(&padded)?;
        ensure!(receive(&heard)? == b"padded", "padding reached the world");
        // The same ports by another protocol, another address, another family.
        let connection = victim.open(5000, 9000)?;
        victim.send(&udp(Ipv4Addr::new(198, 51, 100, 2), 5000, 9000, b"other"))?;
        victim.send(&udp(WORLD, 5000, 9000, b"again"))?;
        ensure!(receive(&other)? == b"other" && receive(&heard)? == b"again", "datagrams went astray");
        victim.must_refuse(
            "other_protocol",
            "protocol 0 with the ports of a flow",
            [ipv4(0, WORLD, &padded[IP + 20..IP + 34])],
        )?;
        let fin = Segment {
            flags: flag::FIN | flag::ACK,
            destination: Ipv4Addr::new(198, 51, 100, 2),
            ..connection.segment()
        };
        victim.must_refuse("no_connection", "a FIN for the connection's ports at another address", [fin.frame()])?;
        victim.wait_for_segment(5000, "a RST", |segment| segment.flags & flag::RST != 0)?;
        let (mut stream, _) = tcp.accept()?;
        std::io::Write::write_all(&mut stream, b"still there")?;
        let more = victim.wait_for_segment(5000, "data", |segment: &Received| !segment.payload.is_empty())?;
        ensure!(more.payload == b"still there", "other data");
        victim.reset(&connection)
    })
}

/// The victim's next datagram reaches the world.
fn works(victim: &mut Victim<'_>, heard: &UdpSocket) -> Result<()> {
    victim.send(&udp(WORLD, 5001, 9000, b"works"))?;
    ensure!(receive(heard)? == b"works", "another datagram came");
    Ok(())
}

fn receive(socket: &UdpSocket) -> Result<Vec<u8>> {
    let mut bytes = [0; 2048];
    let count = socket.recv(&mut bytes).context("a datagram of the victim's does not come")?;
    Ok(bytes[..count].to_vec())
}

/// N12: claims to be the router, a neighbour or somebody whom the router asks for.
pub fn a_translator_keeps_its_addresses(field: &mut Field) -> Result<()> {
    field.translators()?.play("", |victim| {
        let listener = victim.world().listen("198.51.100.1:9000")?;
        let arp = |operation: u8, sender: Ipv4Addr, target: Ipv4Addr| {
            let addresses = [&GUEST_MAC[..], &sender.octets(), &[0xff; 6], &target.octets()].concat();
            ethernet(0x0806, &[&[0, 1, 8, 0, 6, 4, 0, operation][..], &addresses].concat())
        };
        let gateway = Ipv4Addr::new(192, 0, 2, 1);
        victim.send_all((0..1000).flat_map(|_| [arp(1, gateway, gateway), arp(2, gateway, GUEST)]))?;
        let neighbour = |kind: u8, target: &str, option: u8| -> Result<Vec<u8>> {
            let target: Ipv6Addr = target.parse()?;
            let all: Ipv6Addr = "ff02::1".parse()?;
            let mut message =
                [&[kind, 0, 0, 0, 0xe0, 0, 0, 0][..], &target.octets(), &[option, 1], &GUEST_MAC].concat();
            let sum = checksum_v6(ICMPV6, all, &message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            let mut frame = ipv6(ICMPV6, all, &message);
            frame[IP + 7] = 255;
            Ok(frame)
        };
        // Advertisements for the router's address, a router advertisement, a redirect.
        for frame in [neighbour(136, "fe80::1", 2)?, neighbour(134, "::", 1)?, neighbour(137, "fe80::1", 2)?] {
            victim.send_all(std::iter::repeat_n(frame, 1000))?;
        }
        // Nobody is at the router's address but the router; what the world sends comes to the guest.
        victim.heard();
        victim.send(&arp(1, GUEST, gateway))?;
        victim.wait_for("the router's ARP reply", |frame| {
            (frame.get(12..14)? == [8, 6] && frame.get(28..32)? == gateway.octets()).then_some(())
        })?;
        let connection = victim.open(5000, 9000)?;
        drop(listener.accept()?);
        victim.wait_for_segment(5000, "the world's FIN", |segment| segment.flags & flag::FIN != 0)?;
        victim.reset(&connection)
    })
}
