//! Streams move between two sets of sockets on one machine. This takes CAP_NET_ADMIN: without it the tests say so and pass;
//! `ci/isolated` runs them with it.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use culvert_guest::Rooms;
use mio::{Events, Poll};

use super::*;
use crate::mapping::Outbound;
use crate::packet::Payload;
use crate::sockets::{ListenAt, TcpSockets};

const ID: SocketId = SocketId::Tcp(3);

/// Sockets of one machine.
fn sockets() -> (KernelSockets, Poll) {
    let poll = Poll::new().unwrap();
    let mut sockets = KernelSockets::new(poll.registry().try_clone().unwrap()).unwrap();
    sockets.set_repairer(Arc::new(OwnRight));
    (sockets, poll)
}

fn may_repair() -> bool {
    let probe = socket_with(AddressFamily::INET, SocketType::STREAM, FLAGS, None).unwrap();
    let may = option::set_repair(probe.as_fd(), true).is_ok();
    if !may {
        eprintln!("not tested: repair mode takes CAP_NET_ADMIN; run it by ci/isolated");
    }
    may
}

fn wait(poll: &mut Poll) {
    let _ = poll.poll(&mut Events::with_capacity(8), Some(Duration::from_millis(500)));
}

/// A connection, and its far end.
fn connected(sockets: &mut KernelSockets, poll: &mut Poll, address: &str) -> TcpStream {
    let listener = TcpListener::bind((address, 0)).unwrap();
    sockets.connect(ID, listener.local_addr().unwrap(), &Outbound::default()).unwrap();
    let far = listener.accept().unwrap().0;
    wait(poll);
    assert!(sockets.connected(ID).unwrap());
    far
}

fn everything(sockets: &mut KernelSockets, poll: &mut Poll, bytes: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < bytes {
        let mut part = [0; 1000];
        match sockets.peek(ID, 0, Rooms::from(&mut part[..])) {
            Ok(0) => break,
            Ok(count) => {
                all.extend(&part[..count as usize]);
                sockets.discard(ID, count);
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                wait(poll);
            }
        }
    }
    all
}

/// Moves the stream from one set of sockets to the next.
fn move_it(from: &mut KernelSockets) -> (KernelSockets, Poll) {
    from.hold(&[ID]).unwrap();
    let mut state = from.read_stream(ID).unwrap();
    let bytes = {
        let mut bytes = Vec::new();
        crate::migration::fields::Field::write(&state, &mut bytes);
        bytes
    };
    let read: StreamState = crate::migration::fields::Field::read(&mut &bytes[..]).unwrap();
    assert_eq!(read, state);
    // Both cannot be on one machine.
    from.reset(ID);
    let (mut to, poll) = sockets();
    assert_eq!(to.make_streams(vec![Wish { id: ID, interface: None, state: &mut state }]), [Ok(())]);
    assert_eq!(to.let_go(&[ID]), []);
    (to, poll)
}

#[test]
fn a_stream_moves_with_what_waits_in_it() {
    if !may_repair() {
        return;
    }
    for address in ["127.0.0.1", "::1"] {
        let (mut sockets, mut poll) = sockets();
        let mut far = connected(&mut sockets, &mut poll, address);
        let (mut expected, mut sent) = (0, 0_u32);
        for round in 0..4_u8 {
            far.write_all(&[round; 3000]).unwrap();
            wait(&mut poll);
            sent += sockets.write(ID, Payload::of_bytes(&[round; 2000])).unwrap();
            let mut part = [0; 100];
            assert_eq!(sockets.peek(ID, 0, Rooms::from(&mut part[..])).unwrap(), 100);
            let (to, next) = move_it(&mut sockets);
            (sockets, poll) = (to, next);
            far.write_all(&[round; 500]).unwrap();
            expected += 3500;
        }
        let all = everything(&mut sockets, &mut poll, expected);
        let rounds: Vec<u8> = (0..4).flat_map(|round| [round; 3500]).collect();
        assert!(all == rounds, "{address}: {} of {}", all.len(), rounds.len());
        let mut heard = vec![0; sent as usize];
        far.read_exact(&mut heard).unwrap();
        assert!(heard == (0..4).flat_map(|round| [round; 2000]).collect::<Vec<u8>>(), "{address}");
        far.shutdown(std::net::Shutdown::Write).unwrap();
        wait(&mut poll);
        assert_eq!(sockets.peek(ID, 0, Rooms::from(&mut [0; 1][..])).unwrap(), 0);
    }
}

/// A helper that does no more than so many sockets with each message.
#[derive(Debug)]
struct Short(std::sync::Mutex<Vec<usize>>);

impl Repairer for Short {
    fn switch(&self, sockets: &[BorrowedFd<'_>], mode: Repair) -> io::Result<()> {
        let most = self.0.lock().unwrap().remove(0);
        OwnRight.switch(&sockets[..most.min(sockets.len())], mode)?;
        if most < sockets.len() { Err(ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    }
}

/// It is known which streams a helper that fails has left behind in repair mode: those would never send again.
#[test]
fn a_helper_that_fails_halfway() {
    if !may_repair() {
        return;
    }
    // It switches one of two; and then none, or that one back.
    for (does, stuck) in [([1, 0], vec![ID]), ([1, 1], Vec::new())] {
        let (mut sockets, mut poll) = sockets();
        sockets.set_repairer(Arc::new(Short(does.to_vec().into())));
        let mut far = connected(&mut sockets, &mut poll, "127.0.0.1");
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        sockets.connect(SocketId::Tcp(4), other.local_addr().unwrap(), &Outbound::default()).unwrap();
        let ids = [ID, SocketId::Tcp(4)];
        assert_eq!(sockets.hold(&ids), Err(Lost::Helper));
        assert_eq!(sockets.let_go(&ids), stuck);
        if stuck.is_empty() {
            assert_eq!(sockets.write(ID, Payload::of_bytes(b"yes")).unwrap(), 3);
            far.read_exact(&mut [0; 3]).unwrap();
        }
    }
}

/// The port of a connection that has been held can be listened at again, as that of any other.
#[test]
fn ports_of_streams_can_be_listened_at() {
    if !may_repair() {
        return;
    }
    let (mut sockets, mut poll) = sockets();
    let at = |port| ListenAt { address: Some([127, 0, 0, 1].into()), port, interface: None, freebind: false };
    sockets.listen(0, &at(0)).unwrap();
    let port = SocketAddr::try_from(getsockname(sockets.listeners.get(0).unwrap()).unwrap()).unwrap().port();
    let _far = TcpStream::connect(("127.0.0.1", port)).unwrap();
    wait(&mut poll);
    sockets.accept(SocketId::TcpListener(0), ID).unwrap();
    sockets.hold(&[ID]).unwrap();
    assert_eq!(sockets.let_go(&[ID]), []);
    sockets.stop_listening(0);
    sockets.listen(0, &at(port)).unwrap();
    // At its new place as well.
    sockets.stop_listening(0);
    let (mut sockets, _poll) = move_it(&mut sockets);
    sockets.listen(0, &at(port)).unwrap();
}

/// What the far end has no room for waits on our side.
#[test]
fn a_full_stream_moves() {
    if !may_repair() {
        return;
    }
    let (mut sockets, mut poll) = sockets();
    let mut far = connected(&mut sockets, &mut poll, "127.0.0.1");
    let mut written = Vec::new();
    let mut next = 0_u32;
    loop {
        let part: Vec<u8> = (0..1000).flat_map(|number: u32| (next + number).to_le_bytes()).collect();
        match sockets.write(ID, Payload::of_bytes(&part)) {
            Ok(count) => {
                written.extend(&part[..count as usize]);
                if count < 4000 {
                    break;
                }
            }
            Err(_) => break,
        }
        next += 1000;
    }
    assert!(written.len() > 100_000, "{}", written.len());
    // What the far end still has to say would find nobody here while it moves.
    std::thread::sleep(Duration::from_millis(100));
    let (mut sockets, mut poll) = move_it(&mut sockets);
    let mut heard = vec![0; written.len()];
    far.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut read = 0;
    for _ in 0..500 {
        match far.read(&mut heard[read..]) {
            Ok(count) => read += count,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        if read == heard.len() {
            break;
        }
        sockets.write_on(ID);
        let _ = poll.poll(&mut Events::with_capacity(8), Some(Duration::ZERO));
    }
    assert_eq!(read, heard.len());
    assert!(heard == written);
    // It goes on as any.
    assert_eq!(sockets.write(ID, Payload::of_bytes(b"more")).unwrap(), 4);
    let mut more = [0; 4];
    far.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    far.read_exact(&mut more).unwrap();
    assert_eq!(&more, b"more");
}

#[test]
fn half_closed_streams_move() {
    if !may_repair() {
        return;
    }
    // The far end has closed its half.
    let (mut sockets, mut poll) = sockets();
    let mut far = connected(&mut sockets, &mut poll, "127.0.0.1");
    far.write_all(b"last words").unwrap();
    far.shutdown(std::net::Shutdown::Write).unwrap();
    wait(&mut poll);
    let (mut sockets, mut poll) = move_it(&mut sockets);
    assert_eq!(everything(&mut sockets, &mut poll, 100), b"last words");
    assert_eq!(sockets.write(ID, Payload::of_bytes(b"answer")).unwrap(), 6);
    sockets.shutdown(ID);
    let mut heard = Vec::new();
    far.read_to_end(&mut heard).unwrap();
    assert_eq!(heard, b"answer");

    // We have.
    let (mut sockets, mut poll) = self::sockets();
    let mut far = connected(&mut sockets, &mut poll, "127.0.0.1");
    assert_eq!(sockets.write(ID, Payload::of_bytes(b"question")).unwrap(), 8);
    sockets.shutdown(ID);
    let (mut sockets, mut poll) = move_it(&mut sockets);
    let mut heard = Vec::new();
    far.read_to_end(&mut heard).unwrap();
    assert_eq!(heard, b"question");
    far.write_all(b"answer").unwrap();
    drop(far);
    assert_eq!(everything(&mut sockets, &mut poll, 100), b"answer");
}

/// A far end that does not scale windows is told of whole ones still.
#[test]
fn windows_that_are_not_scaled() {
    const SCALING: &str = "/proc/sys/net/ipv4/tcp_window_scaling";
    if !may_repair() {
        return;
    }
    // Other tests that run meanwhile can do without it.
    std::fs::write(SCALING, "0").unwrap();
    let (mut sockets, mut poll) = sockets();
    let _far = connected(&mut sockets, &mut poll, "127.0.0.1");
    std::fs::write(SCALING, "1").unwrap();
    let info = |sockets: &KernelSockets| option::connection_info(sockets.stream(ID).unwrap().socket.as_fd()).unwrap();
    assert_eq!(info(&sockets).scale, None);
    let (sockets, _poll) = move_it(&mut sockets);
    assert_eq!(info(&sockets).scale, Some((0, 0)));
}

/// Nothing that the far end sends is acknowledged while it is held; and it goes on where it was.
#[test]
fn a_stream_that_stays_goes_on() {
    if !may_repair() {
        return;
    }
    let (mut sockets, mut poll) = sockets();
    let mut far = connected(&mut sockets, &mut poll, "127.0.0.1");
    far.write_all(b"before ").unwrap();
    wait(&mut poll);
    for _ in 0..3 {
        sockets.hold(&[ID]).unwrap();
        let before = sockets.read_stream(ID).unwrap();
        far.write_all(b"held ").unwrap();
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(sockets.read_stream(ID).unwrap().receive_next, before.receive_next, "nothing comes in");
        assert_eq!(sockets.let_go(&[ID]), []);
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(everything(&mut sockets, &mut poll, 22), b"before held held held ");
    assert_eq!(sockets.write(ID, Payload::of_bytes(b"yes")).unwrap(), 3);
    let mut heard = [0; 3];
    far.read_exact(&mut heard).unwrap();
}

/// Switches no more sockets of a message than this, and says that it has.
#[derive(Debug)]
struct FewAtATime(usize);

impl Repairer for FewAtATime {
    fn switch(&self, sockets: &[BorrowedFd<'_>], mode: Repair) -> io::Result<()> {
        OwnRight.switch(sockets.get(..self.0).unwrap_or(sockets), mode)
    }
}

/// passt-repair does so: its room for sockets is what the message before has left of it.
#[test]
fn who_helps_may_take_fewer_than_it_says() {
    if !may_repair() {
        return;
    }
    let (mut own, _poll) = sockets();
    let open = || socket_with(AddressFamily::INET, SocketType::STREAM, FLAGS, None).unwrap();
    let many: Vec<OwnedFd> = (0..300).map(|_| open()).collect();
    let many: Vec<_> = many.iter().map(AsFd::as_fd).collect();
    let in_repair = || many.iter().filter(|&&socket| option::is_in_repair(socket).unwrap()).count();
    own.set_repairer(Arc::new(FewAtATime(4)));
    assert_eq!(own.switch_all(&many, Repair::On), Ok(()));
    assert_eq!(in_repair(), 300);
    assert_eq!(own.switch_all(&many, Repair::Off), Ok(()));
    assert_eq!(in_repair(), 0);
    own.set_repairer(Arc::new(FewAtATime(0)));
    assert_eq!(own.switch_all(&many, Repair::On), Err(Lost::Helper));
}

#[test]
fn without_help_all_stays_as_it_was() {
    let (mut sockets, mut poll) = sockets();
    let mut far = connected(&mut sockets, &mut poll, "127.0.0.1");
    sockets.repairer = None;
    assert_eq!(sockets.hold(&[ID]), Err(Lost::Helper));
    assert_eq!(sockets.let_go(&[ID]), []);
    far.write_all(b"hello").unwrap();
    assert_eq!(everything(&mut sockets, &mut poll, 5), b"hello");
    let mut state = StreamState {
        local: "127.0.0.1:4000".parse().unwrap(),
        far: "127.0.0.1:5000".parse().unwrap(),
        send_next: 1,
        receive_next: 1,
        unsent: 0,
        mss: 1000,
        sack: false,
        scale: None,
        timestamp: None,
        windows: [0; 5],
        is_shut: false,
        has_ended: false,
        send_queue: Vec::new(),
        receive_queue: Vec::new(),
    };
    let wish = Wish { id: SocketId::Tcp(9), interface: None, state: &mut state };
    assert_eq!(sockets.make_streams(vec![wish]), [Err(Lost::Helper)]);
}
