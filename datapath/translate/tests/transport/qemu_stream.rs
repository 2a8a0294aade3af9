//! Over QEMU's stream socket: frames however the socket cuts them, hostile lengths, a peer that does not read, peers
//! that go.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

use culvert_driver::{Kind, OffloadBits, Stream};
use culvert_frame::{MAX_FRAME_BYTES, Offload, Offloads};
use culvert_guest::NetHeader;
use culvert_translate::transport::{QemuStream, Transport};

use crate::echo::{Echo, wait_until};

struct Setup {
    folder: tempfile::TempDir,
    echo: Echo,
}

impl Setup {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("guest.sock");
        let echo = Echo::start(|registry, first| {
            Transport::Stream(Box::new(QemuStream::listen(&path, registry, first).unwrap()))
        });
        Self { folder, echo }
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(self.folder.path().join("guest.sock")).unwrap()
    }

    fn guest(&self) -> UnixStream {
        let stream = self.connect();
        self.echo.wait_for("the guest", |news| news.came);
        stream
    }
}

fn frame(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 7 + length) as u8).collect()
}

/// As it is on the socket.
fn framed(frame: &[u8]) -> Vec<u8> {
    [&(frame.len() as u32).to_be_bytes(), frame].concat()
}

fn read(stream: &mut UnixStream) -> Vec<u8> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut frame).unwrap();
    frame
}

/// Whether the transport has closed the connection.
fn is_closed(stream: &mut UnixStream) -> bool {
    match stream.read(&mut [0; 4096]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

#[test]
fn frames_come_back_and_the_loop_sleeps() {
    let setup = Setup::new();
    let mut guest = setup.guest();
    for length in [14, 60, 1514, 65_534, MAX_FRAME_BYTES as usize] {
        guest.write_all(&framed(&frame(length))).unwrap();
        assert!(read(&mut guest) == frame(length), "{length}");
        setup.echo.wait_until_idle();
    }
}

#[test]
fn frames_may_be_cut_anywhere() {
    let setup = Setup::new();
    let mut guest = setup.guest();
    for byte in framed(&frame(300)) {
        guest.write_all(&[byte]).unwrap();
    }
    assert_eq!(read(&mut guest), frame(300));
    // All cuts of two frames into two writes, seen apart by the reader.
    let both = [framed(&frame(30)), framed(&frame(20))].concat();
    for cut in 1..both.len() {
        let turns = setup.echo.turns();
        guest.write_all(&both[..cut]).unwrap();
        wait_until("a turn", || setup.echo.turns() > turns);
        guest.write_all(&both[cut..]).unwrap();
        assert_eq!((read(&mut guest), read(&mut guest)), (frame(30), frame(20)), "cut at {cut}");
    }
    // Many in one write, more than fit into a burst or into the buffer.
    let many: Vec<u8> = (0..3000).flat_map(|number| framed(&frame(100 + number % 1400))).collect();
    let mut writer = guest.try_clone().unwrap();
    let writing = std::thread::spawn(move || writer.write_all(&many).unwrap());
    for number in 0..3000 {
        assert_eq!(read(&mut guest), frame(100 + number % 1400));
    }
    writing.join().unwrap();
    assert!(setup.echo.reserved() > 1000);
}

#[test]
fn empty_and_short_frames_are_frames() {
    let setup = Setup::new();
    let mut guest = setup.guest();
    guest.write_all(&vec![0; 4 * 1000]).unwrap();
    guest.write_all(&framed(&[7])).unwrap();
    for _ in 0..1000 {
        assert_eq!(read(&mut guest), []);
    }
    assert_eq!(read(&mut guest), [7]);
}

#[test]
fn hostile_lengths_end_the_connection() {
    let setup = Setup::new();
    for (round, length) in (1..).zip([MAX_FRAME_BYTES + 1, 1 << 31, u32::MAX]) {
        let mut guest = setup.guest();
        guest.write_all(&framed(&frame(60))).unwrap();
        guest.write_all(&length.to_be_bytes()).unwrap();
        let _ = guest.write_all(&frame(60));
        assert_eq!(read(&mut guest), frame(60));
        wait_until("the end of the connection", || is_closed(&mut guest));
        setup.echo.wait_for("the end", |news| news.left);
        assert_eq!(setup.echo.totals().quarantined, round);
    }
    setup.echo.wait_until_idle();
}

#[test]
fn a_peer_that_does_not_read_makes_the_link_full() {
    let setup = Setup::new();
    let mut guest = setup.guest();
    let frames = (0..2000).map(|number| (Offload::None, frame(1000 + number % 500))).collect();
    setup.echo.send(frames);
    setup.echo.wait_until_idle();
    for number in 0..2000 {
        assert_eq!(read(&mut guest), frame(1000 + number % 500));
    }
    setup.echo.wait_for("room", |news| news.room);
    guest.write_all(&framed(&frame(60))).unwrap();
    assert_eq!(read(&mut guest), frame(60));
}

#[test]
fn frames_are_finished() {
    let sender = OffloadBits { checksum: true, tso4: true, tso6: true, ecn: true, uso4: true, uso6: true };
    for kind in Kind::ALL {
        let setup = Setup::new();
        let mut guest = setup.guest();
        let mut stream = Stream::new(kind, [2; 6], [4; 6], sender, OffloadBits::default());
        for _ in 0..20 {
            let (header, frame, _) = stream.frame(60_000);
            let request = NetHeader::parse(&header).unwrap().request();
            let head = &frame[..frame.len().min(128)];
            let offload = Offload::check(request, Offloads::ALL, head, frame.len() as u32).unwrap();
            setup.echo.send(vec![(offload, frame)]);
            while !stream.is_complete() {
                stream.accept(&[0; 12], &read(&mut guest)).unwrap();
            }
        }
        assert!(setup.echo.totals().tx_segmented > 5);
    }
}

/// Segments that come together are one frame to us; sent back they are what they were.
#[test]
fn segments_are_joined() {
    let setup = Setup::new();
    let mut guest = setup.guest();
    let mut segments = Vec::new();
    for number in 0..40 {
        let mut bytes = Vec::new();
        let builder = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6([1; 16], [2; 16], 64);
        let builder = builder.tcp(1, 2, number * 1428, 500).ack(7);
        builder.write(&mut bytes, &frame(if number < 39 { 1428 } else { 100 })).unwrap();
        segments.push(bytes);
    }
    let together: Vec<u8> = segments.iter().flat_map(|segment| framed(segment)).collect();
    guest.write_all(&together).unwrap();
    for segment in &segments {
        assert!(read(&mut guest) == *segment);
    }
    assert!(setup.echo.frames() < 10, "{} frames", setup.echo.frames());
}

#[test]
fn peers_come_again_and_a_second_one_is_refused() {
    let setup = Setup::new();
    for length in 60..80 {
        let mut guest = setup.guest();
        assert!(is_closed(&mut setup.connect()));
        guest.write_all(&framed(&frame(length))).unwrap();
        assert_eq!(read(&mut guest), frame(length));
        // In the middle of a frame.
        guest.write_all(&framed(&frame(1000))[..500]).unwrap();
        drop(guest);
        setup.echo.wait_for("the end", |news| news.left);
    }
    assert_eq!((setup.echo.totals().connections, setup.echo.totals().quarantined), (20, 0));
    setup.echo.wait_until_idle();
}

#[test]
fn who_connects_right_behind_the_last_one_is_served() {
    let setup = Setup::new();
    for length in 60..80 {
        let mut guest = setup.connect();
        guest.write_all(&framed(&frame(length))).unwrap();
        assert_eq!(read(&mut guest), frame(length));
    }
    wait_until("all connections", || setup.echo.totals().connections == 20);
}

/// hostile V16
#[test]
fn many_connections_and_closes_cost_nothing() {
    let setup = Setup::new();
    for _ in 0..500 {
        drop(setup.connect());
    }
    let mut guest = None;
    wait_until("a connection that is served", || {
        let mut stream = setup.connect();
        let served = stream.write_all(&framed(&frame(60))).is_ok() && stream.read_exact(&mut [0; 4]).is_ok();
        guest = served.then_some(stream);
        served
    });
    let mut rest = [0; 60];
    guest.unwrap().read_exact(&mut rest).unwrap();
    assert_eq!(rest[..], frame(60));
    setup.echo.wait_until_idle();
}

#[test]
fn an_inherited_connection_is_the_only_one() {
    let (ours, mut guest) = UnixStream::pair().unwrap();
    let echo = Echo::start(|registry, first| {
        Transport::Stream(Box::new(QemuStream::connected(ours, registry, first).unwrap()))
    });
    guest.write_all(&framed(&frame(60))).unwrap();
    assert_eq!(read(&mut guest), frame(60));
    drop(guest);
    echo.wait_for("the end", |news| news.left);
    echo.wait_until_idle();
}

#[test]
fn quarantine_by_the_owner_ends_the_connection() {
    let setup = Setup::new();
    let mut guest = setup.guest();
    setup.echo.quarantine();
    wait_until("the end of the connection", || is_closed(&mut guest));
    setup.echo.wait_for("the end", |news| news.left);
}
