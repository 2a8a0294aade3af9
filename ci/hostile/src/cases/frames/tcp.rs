//! TCP that no honest guest sends, against a translator: segments (N5), slow readers (N8), storms of ends (N9).

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::packets::{Received, Segment, flag, ipv4_from};
use crate::field::Field;
use crate::translators::Victim;

/// N5: all sets of flags, headers that lie, options without end, windows, numbers and urgent pointers of any value.
pub fn segments_that_lie(field: &mut Field) -> Result<()> {
    field.translators()?.play("", |victim| {
        let listener = echoing(victim)?;
        let mut healthy = victim.open(4000, PORT)?;
        // Of no connection: an answer to each, or silence to RST; nothing remains.
        let flags = |from: u16, to: u16| {
            (0..=u8::MAX).map(move |flags| Segment { from, to, flags, seq: 7, ack: 9, ..Segment::default() })
        };
        let of = |segment: &Segment<'_>, bits: u8| segment.flags & bits;
        let opens = |segment: &Segment<'_>| of(segment, flag::SYN) != 0;
        let also_ends = |segment: &Segment<'_>| of(segment, flag::FIN | flag::RST) != 0;
        let contradict = flags(4001, PORT).filter(|segment| opens(segment) && also_ends(segment));
        victim.must_refuse("bad_transport", "SYN with FIN or RST", contradict.map(|segment| segment.frame()))?;
        let unknown =
            flags(4001, PORT).filter(|segment| !opens(segment) || !also_ends(segment) && of(segment, flag::ACK) != 0);
        victim.must_refuse("no_connection", "flags without connection", unknown.map(|segment| segment.frame()))?;
        // Of a connection, with its numbers and with others.
        for (number, offset) in [(0, 0), (1, 1), (2, 0x8000_0000), (3, u32::MAX)] {
            let from = 4100 + number;
            let attacked = victim.open(from, PORT)?;
            let numbers = flags(from, PORT).map(|segment| {
                let (seq, ack) = (attacked.seq.wrapping_add(offset), attacked.ack.wrapping_sub(offset));
                Segment { seq, ack, payload: b"x", ..segment }.frame()
            });
            victim.send_all(numbers)?;
        }
        // Data offsets into the header and beyond the segment; cut off anywhere.
        let good = Segment { payload: b"0123456789", ..healthy.segment() }.frame();
        let offset = |words: u8| {
            let mut frame = good.clone();
            frame[46] = words << 4;
            frame
        };
        victim.must_refuse("bad_transport", "a data offset that lies", (0..5).chain(8..16).map(offset))?;
        let cut =
            (0..20).map(|length| ipv4_from(super::packets::GUEST, 6, super::packets::WORLD, &good[34..34 + length]));
        victim.must_refuse("bad_transport", "headers cut short", cut)?;
        // Options on segments of a connection: of no length, of one byte, beyond the end, 40 bytes of each kind, wrapped SACK.
        let mut options: Vec<Vec<u8>> =
            (0..=u8::MAX).flat_map(|kind| [0, 1, 2, 40, 255].map(|length| vec![kind, length, 0, 0])).collect();
        options.extend((0..=u8::MAX).map(|kind| [&[kind, 40][..], &[0xff; 38]].concat()));
        let edge = |at: u32| at.to_be_bytes();
        for (left, right) in
            [(healthy.ack.wrapping_sub(1), healthy.ack.wrapping_add(1 << 30)), (u32::MAX, 0), (5, 5), (0, u32::MAX)]
        {
            options.push([&[1, 1, 5, 34][..], &[edge(left), edge(right)].concat().repeat(4)].concat());
        }
        let optional = options.iter().map(|options| Segment { options, ..healthy.segment() }.frame());
        victim.send_all(optional)?;
        // On a SYN: scales beyond 14, an MSS of 0 and 65535.
        for (number, options) in [[3, 3, 255, 0], [2, 4, 0, 0], [2, 4, 255, 255], [3, 3, 15, 0]].into_iter().enumerate()
        {
            let from = 4200 + number as u16;
            let syn = Segment { from, to: PORT, seq: 1, options: &options, ..Segment::default() };
            let mut connection = victim.open_as(&syn)?;
            victim.echo(&mut connection, b"with options")?;
            victim.reset(&connection)?;
        }
        // Urgent pointers change nothing: it is plain data.
        for urgent in [0, 1, 4, 5, u16::MAX] {
            let flags = flag::ACK | flag::URG;
            victim.send(&Segment { flags, urgent, payload: b"plain", ..healthy.segment() }.frame())?;
            let back = victim.wait_for_segment(healthy.from, "its bytes", |segment| !segment.payload.is_empty())?;
            ensure!(back.payload == b"plain", "urgent data became {:?}", back.payload);
            healthy.seq = healthy.seq.wrapping_add(5);
            healthy.ack = healthy.ack.wrapping_add(5);
            victim.send(&healthy.segment().frame())?;
        }
        // Acknowledgements of what was never sent, sequence numbers outside of the window.
        let beyond = [1, 1000, 1 << 20, 1 << 31]
            .map(|by| Segment { ack: healthy.ack.wrapping_add(by), ..healthy.segment() }.frame());
        victim.send_all(beyond)?;
        let outside = [1 << 25, 1 << 31, (1 << 31) + 1]
            .map(|by| Segment { seq: healthy.seq.wrapping_add(by), payload: b"lost", ..healthy.segment() }.frame());
        victim.send_all(outside)?;
        // The same bytes again, with another content, in one piece with new ones: the first ones count.
        victim.echo(&mut healthy, b"original")?;
        let overlapping =
            Segment { seq: healthy.seq.wrapping_sub(8), payload: b"FORGED!!tail", ..healthy.segment() }.frame();
        victim.send(&overlapping)?;
        let back = victim.wait_for_segment(healthy.from, "the new bytes", |segment| !segment.payload.is_empty())?;
        ensure!(back.payload == b"tail", "what was there was written again: {:?}", back.payload);
        healthy.seq = healthy.seq.wrapping_add(4);
        healthy.ack = healthy.ack.wrapping_add(4);
        // No window, then a little, then all.
        for window in [0, 1, 60_000] {
            victim.send(&Segment { window, ..healthy.segment() }.frame())?;
        }
        victim.echo(&mut healthy, b"the end")?;
        victim.reset(&healthy)?;
        // Numbers that wrap.
        let mut wrapping =
            victim.open_as(&Segment { from: 4300, to: PORT, seq: u32::MAX - 3, ..Segment::default() })?;
        victim.echo(&mut wrapping, b"over the edge")?;
        victim.reset(&wrapping)?;
        // From nobody, to nobody.
        let from_nobody = Segment { from: 4400, to: PORT, flags: flag::SYN, ..Segment::default() }.frame();
        victim.must_refuse(
            "bad_source",
            "a SYN from 0.0.0.0",
            [ipv4_from([0; 4].into(), 6, super::packets::WORLD, &from_nobody[34..])],
        )?;
        let port_0 = [(0, PORT), (4400, 0)]
            .map(|(from, to)| Segment { from, to, flags: flag::SYN, ..Segment::default() }.frame());
        victim.must_refuse("bad_transport", "a SYN from or to port 0", port_0)?;
        drop(listener);
        Ok(())
    })
}

/// N8: a guest that reads nothing from many connections, and a far end that takes nothing.
pub fn slow_readers(field: &mut Field) -> Result<()> {
    let count: u16 = if field.is_full() { 10_000 } else { 500 };
    field.translators()?.play("", |victim| {
        // A world that sends without end, and one that reads nothing.
        let sender = victim.world().listen(&format!("198.51.100.1:{PORT}"))?;
        let sink = victim.world().listen("198.51.100.2:7000")?;
        sender.set_nonblocking(true)?;
        let before = victim.memory()?;
        let mut world = Vec::new();
        let mut connections = Vec::new();
        for number in 0..count {
            let syn = Segment { from: 10_000 + number, to: PORT, window: 0, ..Segment::default() };
            let connection = victim.open_as(&syn)?;
            let stream = accept(&sender)?;
            stream.set_nonblocking(true)?;
            fill(&stream);
            world.push(stream);
            connections.push(connection);
        }
        let grown = victim.memory()?.saturating_sub(before);
        println!(
            "    {count} connections that the guest does not read: {grown} KiB in the translator, {} pages of the kernel's",
            socket_pages(victim)?
        );
        ensure!(grown < 2048 + 4 * u64::from(count), "{grown} KiB for {count} connections that nobody reads");
        // The other way: the guest sends what the far end does not take.
        let mut pushed = 0_u64;
        let payload = [0x55; 1400];
        let syn = Segment { destination: [198, 51, 100, 2].into(), from: 9_999, to: 7000, ..Segment::default() };
        let mut pushing = victim.open_as(&syn)?;
        let mut accepted = sink.accept()?.0;
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let segment = Segment { payload: &payload, ..pushing.segment() };
            victim.send(&segment.frame())?;
            let expected = pushing.seq.wrapping_add(1400);
            thread::sleep(Duration::from_micros(500));
            let acknowledged = newest(victim, pushing.from).map_or(pushing.seq, |segment| segment.ack);
            if acknowledged.wrapping_sub(pushing.seq) < 1 << 31 && acknowledged != pushing.seq {
                pushed += u64::from(acknowledged.wrapping_sub(pushing.seq));
                pushing.seq = acknowledged;
            } else if expected != acknowledged && pushed > 0 && Instant::now() > deadline - Duration::from_secs(17) {
                break;
            }
            ensure!(Instant::now() < deadline && pushed < 64 << 20, "the kernel takes {pushed} bytes that nobody reads");
        }
        println!("    {pushed} bytes were taken for a far end that reads nothing");
        // All that was taken arrives.
        accepted.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut bytes = vec![0; 1 << 16];
        let mut read = 0;
        while read < pushed {
            let more = accepted.read(&mut bytes).context("what was acknowledged does not come")?;
            ensure!(more > 0 && bytes[..more].iter().all(|&byte| byte == 0x55), "other bytes");
            read += more as u64;
        }
        // One of the many reads at last.
        let one = *connections.first().context("a connection")?;
        victim.send(&Segment { window: 60_000, ..one.segment() }.frame())?;
        let more = victim.wait_for_segment(one.from, "what waited for it", |segment| !segment.payload.is_empty())?;
        ensure!(more.seq == one.ack, "the stream has a hole");
        let resets: Vec<_> = connections.iter().map(|connection| Segment { flags: flag::RST | flag::ACK, ..connection.segment() }.frame()).collect();
        victim.send_all(resets)?;
        victim.reset(&pushing)?;
        victim.wait_until_at_most("tcp_flows", 0, Duration::from_secs(20))?;
        drop(world);
        Ok(())
    })
}

/// N9: RST and FIN storms, halves of connections, both ends at once, the same ends again at once. The table is empty in the end.
pub fn storms_of_ends(field: &mut Field) -> Result<()> {
    let count: u16 = if field.is_full() { 20_000 } else { 1_000 };
    let full = field.is_full();
    field.translators()?.play("-t 8000", |victim| {
        let listener = victim.world().listen(&format!("198.51.100.1:{PORT}"))?;
        listener.set_nonblocking(true)?;
        let before = victim.translator().descriptors()?;
        let memory = victim.memory()?;
        // RST and FIN for whatever is not there.
        let storm = |flags: u8| {
            (0..count).map(move |number| {
                Segment { from: 10_000 + number, to: PORT, flags, seq: 77, ack: 99, ..Segment::default() }.frame()
            })
        };
        victim.must_refuse("no_connection", "RST without connection", storm(flag::RST))?;
        victim.must_refuse("no_connection", "FIN without connection", storm(flag::FIN | flag::ACK))?;
        // Opened and reset, in one burst.
        victim.send_all((0..count).flat_map(|number| {
            let segment = Segment { from: 10_000 + number, to: PORT, seq: 1, ..Segment::default() };
            [
                Segment { flags: flag::SYN, ..segment.clone() }.frame(),
                Segment { flags: flag::RST, seq: 2, ..segment }.frame(),
            ]
        }))?;
        victim.wait_until_at_most("tcp_flows", 0, Duration::from_secs(30)).context("opened and reset")?;
        while listener.accept().is_ok() {}
        // Opened, and closed by both ends at once; the same ends again at once, in TIME-WAIT.
        for round in 0..50_u32 {
            let from = 9_000;
            let seq = 5_000_000 + round * 100_000;
            let connection = victim.open_as(&Segment { from, to: PORT, seq, ..Segment::default() })?;
            drop(accept(&listener)?);
            victim.send(&Segment { flags: flag::FIN | flag::ACK, ..connection.segment() }.frame())?;
            victim.wait_for_segment(from, "the world's FIN", |segment| segment.flags & flag::FIN != 0)?;
            let end = Segment {
                seq: connection.seq.wrapping_add(1),
                ack: connection.ack.wrapping_add(1),
                ..connection.segment()
            };
            victim.send(&end.frame())?;
        }
        victim.wait_until_at_most("tcp_flows", 0, Duration::from_secs(30)).context("closed by both ends")?;
        // Opened from the world to a guest that answers with SYN, as if it had opened at the same moment; and one that does not answer.
        let pod = victim.pod();
        let dial = thread::scope(|scope| {
            let dial = scope.spawn(|| pod.connect("192.0.2.15:8000"));
            let syn =
                victim.wait_for_segment(8000, "a SYN from the world", |segment| segment.flags & flag::SYN != 0)?;
            let own = Segment {
                from: 8000,
                destination: syn.source,
                to: syn.from,
                seq: 1,
                flags: flag::SYN,
                ..Segment::default()
            };
            victim.send(&own.frame())?;
            let both = Segment { flags: flag::SYN | flag::ACK, ack: syn.seq.wrapping_add(1), ..own.clone() };
            victim.send(&both.frame())?;
            let rest = Segment { flags: flag::RST | flag::ACK, seq: 2, ack: syn.seq.wrapping_add(1), ..own };
            victim.send(&rest.frame())?;
            anyhow::Ok(dial.join().is_ok())
        })?;
        ensure!(dial, "the one who dialled has gone");
        victim.wait_until_at_most("tcp_flows", 0, Duration::from_secs(30)).context("opened at once by both")?;
        if full {
            // The guest says nothing at all after its SYN.
            victim.send_all(storm(flag::SYN))?;
            victim.wait_until_at_most("tcp_flows", 0, Duration::from_secs(300)).context("half-open connections")?;
        }
        // The last of those who asked for counters may still be there.
        let deadline = Instant::now() + Duration::from_secs(5);
        while victim.translator().descriptors()? > before {
            let now = victim.translator().descriptors()?;
            ensure!(Instant::now() < deadline, "{now} descriptors, {before} before");
            thread::sleep(Duration::from_millis(20));
        }
        let grown = victim.memory()?.saturating_sub(memory);
        println!("    {grown} KiB remain of {count} connections at a time");
        Ok(())
    })
}

/// A server in the world that echoes all connections, until it is dropped.
fn echoing(victim: &Victim<'_>) -> Result<Echoing> {
    let listener = victim.world().listen(&format!("198.51.100.1:{PORT}"))?;
    let stopped = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flag = std::sync::Arc::clone(&stopped);
    listener.set_nonblocking(true)?;
    thread::spawn(move || {
        while !flag.load(std::sync::atomic::Ordering::Relaxed) {
            let Ok((mut stream, _)) = listener.accept() else {
                thread::sleep(Duration::from_millis(1));
                continue;
            };
            thread::spawn(move || {
                let _ = stream.set_nonblocking(false);
                let mut bytes = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut bytes) {
                    if stream.write_all(&bytes[..count]).is_err() {
                        break;
                    }
                }
            });
        }
    });
    Ok(Echoing(stopped))
}

struct Echoing(std::sync::Arc<std::sync::atomic::AtomicBool>);

impl Drop for Echoing {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

fn accept(listener: &TcpListener) -> Result<TcpStream> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Ok((stream, _)) = listener.accept() {
            return Ok(stream);
        }
        ensure!(Instant::now() < deadline, "nobody connects");
        thread::sleep(Duration::from_micros(200));
    }
}

/// Writes as much as the socket takes, up to 1 MiB.
fn fill(mut stream: &TcpStream) {
    let bytes = [0xaa; 1 << 16];
    for _ in 0..16 {
        if stream.write(&bytes).is_err() {
            break;
        }
    }
}

/// The last segment that came for a port.
fn newest(victim: &mut Victim<'_>, port: u16) -> Option<Received> {
    victim.heard().iter().filter_map(|frame| Received::of(frame)).rfind(|segment| segment.to == port)
}

/// The pages that the sockets of the victim's pod hold in the kernel.
fn socket_pages(victim: &Victim<'_>) -> Result<String> {
    let text = culvert_system::translator::run_in(victim.pod(), "cat /proc/net/sockstat")?;
    let line = text.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default();
    Ok(line.rsplit(' ').next().unwrap_or_default().to_owned())
}

/// Where the world echoes.
const PORT: u16 = 7;
