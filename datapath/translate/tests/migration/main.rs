//! A guest moves between two translators in two network namespaces that have one address, with another implementation of TCP/IP
//! (smoltcp) on queues that this test plays, and streams to a world that knows nothing of it.
//!
//! ```text
//! world 10.1.0.1 -- 10.1.0.2 a, translator \
//!                                            the guest, 10.1.0.2
//! world 10.1.0.1 -- 10.1.0.2 b, translator /
//! ```

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    reason = "a test"
)]

#[path = "../transport/dialogue.rs"]
#[allow(dead_code, reason = "another test's")]
mod dialogue;
#[path = "../lanes/guest.rs"]
#[allow(dead_code, reason = "another test's")]
mod guest;
#[path = "../datagrams/network.rs"]
#[allow(dead_code, reason = "another test's")]
mod network;
#[path = "../lanes/queues.rs"]
#[allow(dead_code, reason = "another test's")]
mod queues;

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use culvert_translate::socket::repair::OwnRight;
use culvert_translate::sockets::moving::{Repair, Repairer};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};

use guest::{Guest, Translator};
use network::{Namespace, enter_new_namespace, ip, sysctl};

const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const WORLD: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
/// The world's interfaces.
const NAMES: [&str; 2] = ["to-a", "to-b"];

/// The world, which this thread is in from now on, and two places with these addresses. It leads to the first one.
fn places(addresses: [&'static str; 2]) -> [Namespace; 2] {
    enter_new_namespace();
    network::start();
    sysctl("ipv4/conf/all/rp_filter", "0");
    sysctl("ipv4/conf/default/rp_filter", "0");
    let places = [Namespace::new(), Namespace::new()];
    for ((place, name), address) in places.iter().zip(NAMES).zip(addresses) {
        ip(&[
            &format!("link add {name} type veth peer name eth0 netns {}", place.thread),
            &format!("addr add 10.1.0.1/32 dev {name}"),
            &format!("link set {name} up"),
            &format!("route replace {address}/32 dev {name}"),
        ]);
        place.run(move || {
            ip(&[&format!("addr add {address}/24 dev eth0"), "link set eth0 up", "route add default via 10.1.0.1"]);
        });
    }
    lead(NAMES[0]);
    places
}

/// The world finds the guest's address there from now on.
fn lead(name: &str) {
    ip(&[&format!("route replace {ADDRESS}/32 dev {name}")]);
}

fn start(place: &Namespace, pairs: usize, options: &'static [&'static str]) -> Translator {
    place.run(move || Translator::start(&[], pairs, &[&["--no-map-gw"], options].concat()))
}

/// Does as passt-repair does, until the translator ends.
fn help(socket: &Path) {
    let path = socket.with_added_extension("repair");
    thread::spawn(move || {
        let stream = loop {
            match UnixStream::connect(&path) {
                Ok(stream) => break stream,
                Err(_) => thread::sleep(Duration::from_millis(5)),
            }
        };
        loop {
            let mut byte = [0];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::CMSG_CLOEXEC;
            let received = rustix::net::recvmsg(&stream, &mut [IoSliceMut::new(&mut byte)], &mut control, flags);
            if received.is_err() || received.unwrap().bytes == 0 {
                return;
            }
            let sockets: Vec<OwnedFd> = control
                .drain()
                .filter_map(|message| match message {
                    RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
                    _ => None,
                })
                .flatten()
                .collect();
            let sockets: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
            OwnRight.switch(&sockets, if byte == [1] { Repair::On } else { Repair::Off }).unwrap();
            (&stream).write_all(&byte).unwrap();
        }
    });
}

/// SET_DEVICE_STATE_FD or CHECK_DEVICE_STATE, as bytes: the crate has neither. The number that comes back.
fn state_message(stream: &UnixStream, request: u32, body: &[u32], file: Option<&OwnedFd>) -> u64 {
    let header = [request, 1, 4 * body.len() as u32];
    let bytes: Vec<u8> = header.iter().chain(body).flat_map(|word| word.to_ne_bytes()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let file = file.map(|file| [file.as_fd()]);
    if let Some(file) = &file {
        assert!(control.push(SendAncillaryMessage::ScmRights(file)));
    }
    rustix::net::sendmsg(stream, &[IoSlice::new(&bytes)], &mut control, SendFlags::empty()).unwrap();
    let mut reply = [0; 20];
    let mut stream = stream;
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply[..4], request.to_ne_bytes());
    u64::from_ne_bytes(reply[12..].try_into().unwrap())
}

const SET_STATE: u32 = 42;
const CHECK_STATE: u32 = 43;
/// We read and write the file that was handed over.
const OWN_FILE: u64 = 1 << 8;

/// The state, or which step failed.
fn save(stream: &UnixStream) -> Result<Vec<u8>, &'static str> {
    let (read, write) = std::io::pipe().unwrap();
    let (read, write) = (OwnedFd::from(read), OwnedFd::from(write));
    if state_message(stream, SET_STATE, &[0, 0], Some(&write)) != OWN_FILE {
        return Err("begin");
    }
    drop(write);
    let mut bytes = Vec::new();
    std::fs::File::from(read).read_to_end(&mut bytes).unwrap();
    if state_message(stream, CHECK_STATE, &[], None) == 0 { Ok(bytes) } else { Err("check") }
}

fn load(stream: &UnixStream, bytes: &[u8]) -> Result<(), &'static str> {
    let (read, write) = std::io::pipe().unwrap();
    let (read, write) = (OwnedFd::from(read), OwnedFd::from(write));
    if state_message(stream, SET_STATE, &[1, 0], Some(&read)) != OWN_FILE {
        return Err("begin");
    }
    drop(read);
    std::fs::File::from(write).write_all(bytes).unwrap();
    if state_message(stream, CHECK_STATE, &[], None) == 0 { Ok(()) } else { Err("check") }
}

/// The guest moves to `to`, whose namespace has this name.
fn move_to(guest: &mut Guest, to: Translator, name: &str) {
    let (old, stream) = guest.queues().leave();
    let began = Instant::now();
    let state = save(&stream).unwrap();
    guest.queues().arrive(to.connect(), |stream| load(stream, &state).unwrap());
    lead(name);
    eprintln!("moved {} bytes in {:?}", state.len(), began.elapsed());
    // The old place: its process ends as its QEMU does.
    drop((old, stream));
    guest.translator = to;
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32 / 4 + 1)
        .flat_map(|number| (number.wrapping_mul(0x9e37_79b9)).to_be_bytes())
        .take(length)
        .collect()
}

/// A server in the world that sends `bytes` and its end to the first that connects, and returns what it gets. Not faster than
/// a migration can interrupt.
fn server(bytes: Vec<u8>) -> (u16, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind((WORLD, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (port, thread::spawn(move || exchange(listener.accept().unwrap().0, &bytes)))
}

fn exchange(stream: TcpStream, bytes: &[u8]) -> Vec<u8> {
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            for part in bytes.chunks(50_000) {
                (&stream).write_all(part).unwrap();
                thread::sleep(Duration::from_millis(2));
            }
            stream.shutdown(Shutdown::Write).unwrap();
        });
        let mut received = Vec::new();
        (&stream).read_to_end(&mut received).unwrap();
        received
    })
}

/// MIG-1 to 4, 11, 12: every byte of streams in both directions arrives once and in order, through several moves.
fn streams_go_on(pairs: usize) {
    let places = places(["10.1.0.2", "10.1.0.2"]);
    let translator = start(&places[0], pairs, &["--migrate-strict"]);
    help(translator.path());
    let mut guest = Guest::of(translator, pairs, ADDRESS, WORLD);
    let flows: Vec<_> = (0..4)
        .map(|number| {
            let (up, down) = (pattern(6_000_000 + number), pattern(5_000_000 - number));
            let (port, server) = server(down.clone());
            (guest.connect(port, 3000 + number as u16), server, up, down)
        })
        .collect();
    guest.until(|guest| flows.iter().all(|(handle, ..)| guest.tcp(*handle).may_send()));
    let mut states = vec![(0, Vec::new()); flows.len()];
    for round in 1..=3_usize {
        guest.until(|guest| {
            for ((handle, _, up, _), (sent, received)) in flows.iter().zip(&mut states) {
                guest.exchange_some(*handle, &up[..round * 800_000], sent, received);
            }
            states.iter().all(|(sent, received)| *sent == round * 800_000 && received.len() >= round * 700_000)
        });
        let to = start(&places[round % 2], pairs, &["--migrate-strict"]);
        help(to.path());
        move_to(&mut guest, to, NAMES[round % 2]);
        assert_eq!(guest.stat("migration_loaded_tcp"), 4);
    }
    guest.until(|guest| {
        let mut all = true;
        for ((handle, _, up, _), (sent, received)) in flows.iter().zip(&mut states) {
            all &= guest.go_on(*handle, up, sent, received);
        }
        all
    });
    for ((_, server, up, down), (_, received)) in flows.into_iter().zip(states) {
        assert!(received == down, "{} of {}", received.len(), down.len());
        assert!(server.join().unwrap() == up);
    }
}

#[test]
fn streams_go_on_at_the_guests_new_place() {
    streams_go_on(1);
}

#[test]
fn streams_of_several_queue_pairs_go_on() {
    streams_go_on(3);
}

/// Whatever fails, the guest goes on where it was: nobody helps, the other place refuses, the move is called off.
#[test]
fn a_move_that_fails_costs_nothing() {
    let places = places(["10.1.0.2", "10.1.0.2"]);
    let translator = start(&places[0], 1, &["--migrate-strict"]);
    let path = translator.path().to_owned();
    let mut guest = Guest::of(translator, 1, ADDRESS, WORLD);
    // So much that neither end is done before the last time.
    let (up, down) = (pattern(12_000_000), pattern(12_000_000));
    let (port, server) = server(down.clone());
    let handle = guest.connect(port, 3000);
    let (mut sent, mut received) = (0, Vec::new());
    let mut go_on = |guest: &mut Guest, to: usize| {
        guest.until(|guest| {
            guest.go_on(handle, &up, &mut sent, &mut received);
            received.len() >= to
        });
    };
    go_on(&mut guest, 300_000);
    // Nobody helps here.
    let (old, stream) = guest.queues().leave();
    assert_eq!(save(&stream), Err("begin"));
    guest.queues().stay(old);
    go_on(&mut guest, 600_000);
    assert_eq!(guest.stat("migration_lost_no_helper"), 1);
    help(&path);
    // The other place has no helper, is of another kind, or reads something else.
    let others: [(&'static [&'static str], bool); 3] =
        [(&["--migrate-strict"], false), (&["-M", "02:00:00:00:00:77"], false), (&[], true)];
    for (number, (options, damage)) in others.into_iter().enumerate() {
        let other = start(&places[1], 1, options);
        let (old, stream) = guest.queues().leave();
        let mut state = save(&stream).unwrap();
        if damage {
            state[8] ^= 0xff;
        }
        let there = other.connect();
        let ram = culvert_driver::Ram::new(1 << 20, false);
        let frontend = dialogue::begin(there.try_clone().unwrap(), &ram, dialogue::MRG_RXBUF, 2);
        assert_eq!(load(&there, &state), Err("check"), "{options:?}");
        drop((frontend, there));
        guest.queues().stay(old);
        let more = guest.stat("tcp_flows");
        assert_eq!(more, 1);
        // Until it does go on, it cannot leave again.
        go_on(&mut guest, 650_000 + number * 50_000);
    }
    // Called off, again and again.
    for round in 0..5 {
        let (old, stream) = guest.queues().leave();
        save(&stream).unwrap();
        guest.queues().stay(old);
        go_on(&mut guest, 800_000 + round * 100_000);
    }
    guest.until(|guest| guest.go_on(handle, &up, &mut sent, &mut received));
    assert!(received == down);
    assert!(server.join().unwrap() == up);
}

/// Where the pod has another address the guest keeps its own; connections of before are over at once, new ones begin.
#[test]
fn a_pod_with_another_address() {
    let places = places(["10.1.0.2", "10.1.0.3"]);
    let translator = start(&places[0], 1, &[]);
    help(translator.path());
    let mut guest = Guest::of(translator, 1, ADDRESS, WORLD);
    let (port, _server) = server(pattern(100));
    let handle = guest.connect(port, 3000);
    guest.until(|guest| guest.tcp(handle).may_send());
    let to = start(&places[1], 1, &[]);
    help(to.path());
    let began = Instant::now();
    move_to(&mut guest, to, NAMES[0]);
    guest.until(|guest| !guest.tcp(handle).is_open());
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!((guest.stat("migration_lost_address"), guest.stat("migration_loaded_tcp")), (1, 0));
    let (up, down) = (pattern(100_000), pattern(200_000));
    let (port, server) = server(down.clone());
    let handle = guest.connect(port, 3001);
    assert!(guest.exchange(handle, &up) == down);
    assert!(server.join().unwrap() == up);
}

/// Idle connections, many: they answer at the new place.
#[test]
fn a_thousand_idle_connections() {
    const MANY: usize = 1000;
    let places = places(["10.1.0.2", "10.1.0.2"]);
    let translator = start(&places[0], 1, &["--migrate-strict"]);
    help(translator.path());
    let mut guest = Guest::of(translator, 1, ADDRESS, WORLD);
    let listener = TcpListener::bind((WORLD, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let accepting = thread::spawn(move || (0..MANY).map(|_| listener.accept().unwrap().0).collect::<Vec<_>>());
    let mut handles = Vec::new();
    for number in 0..MANY {
        handles.push(guest.connect_small(port, 3000 + number as u16));
        if number % 50 == 49 {
            guest.until(|guest| handles.iter().all(|handle| guest.tcp(*handle).may_send()));
        }
    }
    let far = accepting.join().unwrap();
    let to = start(&places[1], 1, &["--migrate-strict"]);
    help(to.path());
    move_to(&mut guest, to, NAMES[1]);
    assert_eq!(guest.stat("migration_loaded_tcp"), MANY as u64);
    for mut stream in &far {
        stream.write_all(b"well?").unwrap();
    }
    for &handle in &handles {
        guest.until(|guest| guest.tcp(handle).recv_queue() == 5);
    }
    let to_far: Vec<u16> = far.iter().map(|stream| stream.peer_addr().unwrap().port()).collect();
    assert_eq!(to_far.len(), MANY);
}
