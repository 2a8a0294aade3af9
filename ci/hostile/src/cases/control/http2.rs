//! C1: bytes on the control socket that are no HTTP/2, no gRPC, no protobuf, or too much of it.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::field::Field;
use crate::http2::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, End, HEADERS, Http2, PADDED, PING, PRIORITY, PUSH_PROMISE,
    RST_STREAM, SETTINGS, WINDOW_UPDATE, frame, headers, prefixed,
};

/// Frames that break a rule of RFC 9113 each: the connection, or at least the stream, ends.
pub(super) fn frames_that_break_rules(field: &mut Field) -> Result<()> {
    let socket = field.control_socket();
    let good = headers("GetStatus");
    let big = vec![0; 20_000];
    let wrong: [(&str, Vec<u8>); 24] = [
        ("a frame above the size that was agreed on", frame(DATA, 0, 1, &big)),
        (
            "a length of 16 MiB and nothing behind it",
            [&[0xff, 0xff, 0xff, DATA, 0][..], &[0, 0, 0, 1], &[0; 100]].concat(),
        ),
        ("data on an idle stream", frame(DATA, 0, 1, b"x")),
        ("data on the connection", frame(DATA, 0, 0, b"x")),
        ("headers on the connection", frame(HEADERS, END_HEADERS, 0, &good)),
        ("headers on a stream of the server's", frame(HEADERS, END_HEADERS, 2, &good)),
        ("a header block that is none", frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff; 50])),
        ("an index beyond both tables", frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff, 0xff, 0xff, 0xff, 0x0f])),
        ("a table of 4 GiB", frame(HEADERS, END_HEADERS, 1, &[0x3f, 0xe1, 0xff, 0xff, 0xff, 0x0f])),
        ("a broken Huffman code", frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0x04, 0x84, 0xff, 0xff, 0xff, 0xff])),
        ("more padding than there is", frame(HEADERS, END_HEADERS | PADDED, 1, &[255, 0x83])),
        ("a stream that depends on itself", frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 16])),
        ("a priority of four bytes", frame(PRIORITY, 0, 1, &[0; 4])),
        ("a reset of an idle stream", frame(RST_STREAM, 0, 5, &[0; 4])),
        ("a reset of three bytes", frame(RST_STREAM, 0, 1, &[0; 3])),
        ("settings of five bytes", frame(SETTINGS, 0, 0, &[0; 5])),
        ("settings on a stream", frame(SETTINGS, 0, 1, &[])),
        ("an acknowledgement with settings", frame(SETTINGS, ACK, 0, &[0; 6])),
        ("a window of 4 GiB", frame(SETTINGS, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff])),
        ("a frame size of 1", frame(SETTINGS, 0, 0, &[0, 5, 0, 0, 0, 1])),
        ("a ping of seven bytes", frame(PING, 0, 0, &[0; 7])),
        ("a push of a client's", frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x83])),
        ("a window that grows by nothing", frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
        ("a continuation of nothing", frame(CONTINUATION, END_HEADERS, 1, &good)),
    ];
    let count = wrong.len();
    let mut ended = 0;
    for (what, bytes) in wrong {
        let mut client = Http2::connect(&socket)?;
        // It may be closed while we still write. What ends a stream alone leaves the next one as it is.
        let _ = client.send(&bytes).and_then(|()| client.request(9, "GetStatus", &[]));
        match client.wait(9).with_context(|| what.to_owned())? {
            End::Answered => {}
            _ => ended += 1,
        }
        serves(&socket).with_context(|| what.to_owned())?;
    }
    ensure!(ended + 6 >= count, "only {ended} of {count} connections were ended");
    // What other protocols say first, and what is none.
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        b"{\"method\":\"status\"}\n",
        &[0x16, 3, 1, 2, 0, 1, 0, 1],
        &[0; 64],
    ] {
        let mut client = Http2::silent(&socket)?;
        let _ = client.send(bytes);
        client.wait_closed(Duration::from_secs(10))?;
    }
    // What is no mistake is none: frames of unknown types, and all of it in single bytes.
    let mut client = Http2::connect(&socket)?;
    client.frame(0xbb, 0xff, 7, b"from the future")?;
    for byte in frame(HEADERS, END_HEADERS, 1, &good).iter().chain(&frame(DATA, END_STREAM, 1, &prefixed(&[]))) {
        client.send(&[*byte])?;
    }
    ensure!(client.wait(1)? == End::Answered, "a request in single bytes is not answered");
    Ok(())
}

/// Streams that are opened and reset at once, faster than they can be served (CVE-2023-44487), and resets that the server is
/// made to send (CVE-2025-8671).
pub(super) fn rapid_reset(field: &mut Field) -> Result<()> {
    let socket = field.control_socket();
    let streams = if field.is_full() { 200_000 } else { 10_000 };
    let watch = Watch::start(&socket);
    for provoked in [false, true] {
        let mut ended = 0;
        for _ in 0..4 {
            let mut client = Http2::connect(&socket)?;
            for number in 0..streams {
                let stream = 2 * number + 1;
                let mut bytes = frame(HEADERS, END_HEADERS, stream, &headers("ListPorts"));
                // A window that grows by nothing is an error of the stream: the server resets it.
                bytes.extend(if provoked {
                    frame(WINDOW_UPDATE, 0, stream, &[0; 4])
                } else {
                    frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])
                });
                if client.send(&bytes).is_err() {
                    ended += 1;
                    break;
                }
            }
        }
        ensure!(ended > 0, "no connection was ended after {streams} streams (resets provoked: {provoked})");
    }
    watch.end()
}

/// Headers that never end (CVE-2024-27316 and others), and headers of headers.
pub(super) fn continuation_flood(field: &mut Field) -> Result<()> {
    let socket = field.control_socket();
    let watch = Watch::start(&socket);
    // Each adds a short header with a name of its own, or nothing at all.
    let header = |number: u32| [&[0x00, 8][..], format!("x{number:07}").as_bytes(), &[1, b'y']].concat();
    let some = |number: u32| (0..1000).flat_map(|each| header(number * 1000 + each)).collect::<Vec<_>>();
    for empty in [false, true] {
        let mut client = Http2::connect(&socket)?;
        client.frame(HEADERS, 0, 1, &headers("ListPorts"))?;
        let sent = (0..20_000).find(|number| {
            let block = if empty { Vec::new() } else { some(*number) };
            client.frame(CONTINUATION, 0, 1, &block).is_err()
        });
        ensure!(sent.is_some(), "20,000 continuations were taken (empty: {empty})");
    }
    watch.end()
}

/// Frames that cost the sender little: pings, settings, empty data (CVE-2019-9512, -9515, -9518), none of whose answers is read.
pub(super) fn frame_floods(field: &mut Field) -> Result<()> {
    let socket = field.control_socket();
    let watch = Watch::start(&socket);
    let settings = frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]);
    for (what, bytes) in [
        ("pings", frame(PING, 0, 0, &[7; 8])),
        ("settings", settings),
        ("empty data", frame(DATA, 0, 1, &[])),
        ("windows", frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])),
    ] {
        let mut client = Http2::connect(&socket)?;
        client.frame(HEADERS, END_HEADERS, 1, &headers("ListPorts"))?;
        client.stream().set_write_timeout(Some(Duration::from_millis(500)))?;
        let many = bytes.repeat(1000);
        let end = Instant::now() + Duration::from_secs(1);
        while Instant::now() < end && client.send(&many).is_ok() {}
        drop(client);
        serves(&socket).context(what)?;
    }
    watch.end()
}

/// gRPC messages and protobuf that lie: each is refused, and the connection kept.
pub(super) fn messages_that_lie(field: &mut Field) -> Result<()> {
    let socket = field.control_socket();
    let text = |field: u8, text: &[u8]| [&[field << 3 | 2, u8::try_from(text.len()).unwrap_or(0)], text].concat();
    let groups = |count: usize| vec![0x7b; count];
    // Messages in messages: each one's length is that of the rest.
    let nested = (0..10_000).fold(Vec::new(), |inner: Vec<u8>, _| {
        let mut outer = vec![0x12];
        let mut length = inner.len();
        while length > 127 {
            outer.push(u8::try_from(length & 127).unwrap_or(0) | 128);
            length >>= 7;
        }
        outer.push(u8::try_from(length).unwrap_or(0));
        if outer.len() + inner.len() < 60_000 { [outer, inner].concat() } else { inner }
    });
    let lies: Vec<(&str, Vec<u8>)> = vec![
        ("a message of 4 GiB", [&[0, 0xff, 0xff, 0xff, 0xff][..], &[0; 100]].concat()),
        ("a message of 64 KiB and 1", prefixed(&vec![0; 65_537])),
        ("a message that says to be compressed", [&[1, 0, 0, 0, 3][..], &[1, 2, 3]].concat()),
        ("a message that is compressed in an unknown way", [&[9, 0, 0, 0, 3][..], &[1, 2, 3]].concat()),
        ("half a prefix", vec![0, 0, 0]),
        ("half a message", vec![0, 0, 0, 0, 10, 1, 2]),
        ("two messages", [prefixed(&text(1, b"../a")), prefixed(&text(1, b"../b"))].concat()),
        ("a text that is longer than the message", prefixed(&[0x0a, 0x7f, b'a'])),
        ("a number of eleven bytes", prefixed(&[&[0x08][..], &[0xff; 11]].concat())),
        ("field 0", prefixed(&[0x02, 1, b'a'])),
        ("wire type 7", prefixed(&[0x0f])),
        ("a name that is a number", prefixed(&[0x08, 1])),
        ("a group that never ends", prefixed(&groups(1))),
        ("ten thousand groups", prefixed(&groups(10_000))),
        ("ten thousand messages", prefixed(&nested)),
        ("an end without a group", prefixed(&[0x7c])),
        ("text that is not UTF-8", prefixed(&text(1, &[0xff, 0xfe]))),
        ("text with NUL", prefixed(&text(1, b"a\0b"))),
        ("a name of 300 bytes", prefixed(&[&[0x0a, 0xac, 0x02][..], &[b'a'; 300]].concat())),
    ];
    for method in ["AddPort", "SetPort", "RemovePort", "AddNetwork", "AddPod", "ListPorts", "Trace", "Capture"] {
        let mut client = Http2::connect(&socket)?;
        for (number, (what, body)) in (0_u32..).zip(&lies) {
            let stream = 4 * number + 1;
            client.frame(HEADERS, END_HEADERS, stream, &headers(method))?;
            let mut pieces = body.chunks(16_384).peekable();
            while let Some(piece) = pieces.next() {
                let flags = if pieces.peek().is_none() { END_STREAM } else { 0 };
                client.frame(DATA, flags, stream, piece)?;
            }
            let end = client.wait(stream).with_context(|| format!("{method}: {what}"))?;
            // A capture answers first, and then never ends; all others are refused in an answer.
            ensure!(matches!(end, End::Answered | End::Reset(_)), "{method}: {what}: {end:?}");
            // The connection is as good as before.
            client.request(stream + 2, "GetStatus", &[])?;
            ensure!(client.wait(stream + 2)? == End::Answered, "{method}: after {what} the connection is of no use");
        }
    }
    // Fields that are not known yet are left out, one that comes twice counts once.
    let mut client = Http2::connect(&socket)?;
    let unknown = [text(15, b"from the future"), text(1, b"left"), text(1, b"right"), vec![0xf8, 0x7f, 1]].concat();
    client.request(1, "ListPorts", &unknown)?;
    ensure!(client.wait(1)? == End::Answered, "unknown fields are not left out");
    let known = field.daemon().ask("port list")?;
    ensure!(known.as_array().map(Vec::len) == Some(3), "ports have come or gone: {known}");
    Ok(())
}

/// Asserts that a new client is served.
pub(super) fn serves(socket: &std::path::Path) -> Result<()> {
    let mut client = Http2::connect(socket)?;
    client.request(1, "GetStatus", &[])?;
    let end = client.wait(1)?;
    ensure!(end == End::Answered, "a new client is not served: {end:?}");
    Ok(())
}

/// Another client, who asks all the time and must get his answers meanwhile.
pub(super) struct Watch {
    end: std::sync::mpsc::Sender<()>,
    thread: thread::JoinHandle<Result<u32>>,
}

impl Watch {
    pub(super) fn start(socket: &std::path::Path) -> Self {
        let (end, ended) = std::sync::mpsc::channel();
        let socket = socket.to_owned();
        let thread = thread::spawn(move || {
            let mut asked = 0;
            loop {
                serves(&socket)?;
                asked += 1;
                if ended.recv_timeout(Duration::from_millis(20)) != Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                    return Ok(asked);
                }
            }
        });
        Self { end, thread }
    }

    /// Ends it; it must have been served each time.
    pub(super) fn end(self) -> Result<()> {
        drop(self.end);
        let asked = self.thread.join().map_err(|_| anyhow::anyhow!("the other client panicked"))??;
        ensure!(asked > 0, "the other client has not asked");
        Ok(())
    }
}
