//! culvert-translator as a process, with a guest that is another implementation of TCP/IP (smoltcp) in this one: over
//! QEMU's stream socket, without a machine around it. The world is this test, on the loopback of its own network
//! namespace.
//!
//! Frames may be lost, doubled or exchanged on their way in both directions.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    reason = "a test"
)]

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpCidr};

/// What the guest is told where the pod has no interface, as in this test.
const GUEST: Ipv4Addr = Ipv4Addr::new(169, 254, 2, 1);
/// Leads to the host's loopback.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 2, 2);

/// A translator, and its guest.
struct Guest {
    translator: Child,
    interface: Interface,
    wire: Wire,
    sockets: SocketSet<'static>,
}

impl Guest {
    /// Starts both. `trouble` frames of 1000 meet with something on their way, each way.
    fn start(trouble: u32, options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("guest.sock");
        let translator = Command::new(env!("CARGO_BIN_EXE_culvert-translator"))
            .args(["--foreground", "--one-off", "--mtu", "1500", "--socket"])
            .arg(&path)
            .args(options)
            .spawn()
            .unwrap();
        let ours = loop {
            match UnixStream::connect(&path) {
                Ok(stream) => break stream,
                Err(_) => thread::sleep(Duration::from_millis(5)),
            }
        };
        ours.set_nonblocking(true).unwrap();
        let mut wire = Wire { stream: ours, received: Vec::new(), to_guest: VecDeque::new(), trouble, random: 1 };
        let mut config = Config::new(EthernetAddress([2, 0, 0, 0, 0, 1]).into());
        config.random_seed = 1;
        let mut interface = Interface::new(config, &mut wire, Instant::now());
        interface.update_ip_addrs(|addresses| addresses.push(IpCidr::new(GUEST.into(), 24)).unwrap());
        interface.routes_mut().add_default_ipv4_route(GATEWAY).unwrap();
        Self { translator, interface, wire, sockets: SocketSet::new(Vec::new()) }
    }

    fn open(&mut self) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 128 << 10]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        self.sockets.add(socket)
    }

    fn connect(&mut self, port: u16, local_port: u16) -> SocketHandle {
        let handle = self.open();
        let socket = self.sockets.get_mut::<tcp::Socket>(handle);
        socket.connect(self.interface.context(), (GATEWAY, port), local_port).unwrap();
        handle
    }

    fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Lets time pass and frames flow until `done`.
    fn until(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        while !done(self) {
            self.wire.read();
            self.interface.poll(Instant::now(), &mut self.wire, &mut self.sockets);
            if self.wire.to_guest.is_empty() {
                self.wire.wait();
            }
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It ends by itself when its guest has gone.
        self.wire.stream.shutdown(Shutdown::Both).unwrap();
        let status = self.translator.wait().unwrap();
        assert!(status.success() || thread::panicking(), "{status}");
    }
}

/// The guest's end of the stream: frames with their length before them (QEMU, `-netdev stream`).
struct Wire {
    stream: UnixStream,
    received: Vec<u8>,
    to_guest: VecDeque<Vec<u8>>,
    trouble: u32,
    random: u64,
}

impl Wire {
    fn read(&mut self) {
        let mut bytes = [0; 65_536];
        match self.stream.read(&mut bytes) {
            Ok(0) => panic!("the translator has gone"),
            Ok(count) => self.received.extend_from_slice(&bytes[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("{error}"),
        }
        let mut at = 0;
        while let Some(header) = self.received.get(at..at + 4) {
            let length = u32::from_be_bytes(header.try_into().unwrap()) as usize;
            let Some(frame) = self.received.get(at + 4..at + 4 + length) else { break };
            let frame = frame.to_vec();
            at += 4 + length;
            match self.fate() {
                Fate::Arrives => self.to_guest.push_back(frame),
                Fate::IsLost => {}
                Fate::ComesTwice => self.to_guest.extend([frame.clone(), frame]),
                Fate::ComesEarly => self.to_guest.push_front(frame),
            }
        }
        self.received.drain(..at);
    }

    /// Until there is something to read, or a timer of the guest's may have run out.
    fn wait(&self) {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut polled = [PollFd::new(&self.stream, PollFlags::IN)];
        poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 2_000_000 })).unwrap();
    }

    fn send(&mut self, frame: &[u8]) {
        let mut bytes = (frame.len() as u32).to_be_bytes().to_vec();
        bytes.extend_from_slice(frame);
        let times = match self.fate() {
            Fate::Arrives | Fate::ComesEarly => 1,
            Fate::IsLost => 0,
            Fate::ComesTwice => 2,
        };
        for _ in 0..times {
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                match self.stream.write(rest) {
                    Ok(count) => rest = &rest[count..],
                    // What comes meanwhile must be read, or both would wait.
                    Err(error) if error.kind() == ErrorKind::WouldBlock => self.read(),
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }

    fn fate(&mut self) -> Fate {
        // xorshift64
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        if self.random % 1000 >= u64::from(self.trouble) {
            return Fate::Arrives;
        }
        match self.random >> 32 & 3 {
            0 | 1 => Fate::IsLost,
            2 => Fate::ComesTwice,
            _ => Fate::ComesEarly,
        }
    }
}

enum Fate {
    Arrives,
    IsLost,
    ComesTwice,
    ComesEarly,
}

impl Device for Wire {
    type RxToken<'a> = Frame;
    type TxToken<'a> = Sender<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Frame, Sender<'_>)> {
        let frame = self.to_guest.pop_front()?;
        Some((Frame(frame), Sender(self)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sender<'_>> {
        Some(Sender(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

struct Frame(Vec<u8>);

impl RxToken for Frame {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

struct Sender<'a>(&'a mut Wire);

impl TxToken for Sender<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut frame = vec![0; length];
        let result = write(&mut frame);
        self.0.send(&frame);
        result
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32).flat_map(|number| (number.wrapping_mul(0x9e37_79b9)).to_be_bytes()).take(length).collect()
}

/// A server in the world that sends `bytes` to whoever connects, and returns what it gets.
fn server(bytes: Vec<u8>) -> (u16, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (port, thread::spawn(move || exchange(listener.accept().unwrap().0, &bytes)))
}

/// In the foreground nothing tells when forwards are open.
fn connect_to_forward() -> TcpStream {
    let tries = (0..3000).map(|_| {
        thread::sleep(Duration::from_millis(10));
        TcpStream::connect("127.0.0.1:7000")
    });
    tries.flatten().next().unwrap()
}

fn exchange(stream: TcpStream, bytes: &[u8]) -> Vec<u8> {
    thread::scope(|scope| {
        scope.spawn(|| {
            (&stream).write_all(bytes).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        });
        let mut received = Vec::new();
        (&stream).read_to_end(&mut received).unwrap();
        received
    })
}

impl Guest {
    /// Sends `bytes` and closes; returns what came until the peer closed.
    fn exchange(&mut self, handle: SocketHandle, bytes: &[u8]) -> Vec<u8> {
        let (mut sent, mut received) = (0, Vec::new());
        self.until(|guest| {
            let socket = guest.tcp(handle);
            if socket.can_send() && sent < bytes.len() {
                sent += socket.send_slice(&bytes[sent..]).unwrap();
                if sent == bytes.len() {
                    socket.close();
                }
            }
            while socket.can_recv() {
                socket.recv(|bytes| (bytes.len(), received.extend_from_slice(bytes))).unwrap();
            }
            sent == bytes.len() && !socket.may_recv() && !socket.can_recv() && !socket.is_active()
        });
        received
    }
}

/// Both directions at once, with a half close, for several sizes.
#[test]
fn bytes_arrive_as_they_were_sent() {
    for (trouble, longest) in [(0, 3_000_000), (10, 200_000)] {
        let mut guest = Guest::start(trouble, &[]);
        for (local_port, length) in [(2000, 1), (2001, 1460), (2002, 60_000), (2003, longest)] {
            let (up, down) = (pattern(length), pattern(length + 7));
            let (port, server) = server(down.clone());
            let handle = guest.connect(port, local_port);
            assert!(guest.exchange(handle, &up) == down, "{length} bytes down");
            assert!(server.join().unwrap() == up, "{length} bytes up");
        }
    }
}

/// A connection from the world to a forwarded port.
#[test]
fn forwarded_ports_lead_to_the_guest() {
    let mut guest = Guest::start(5, &["--tcp-ports", "127.0.0.1/7000:80"]);
    let handle = guest.open();
    guest.tcp(handle).listen(80).unwrap();
    let (up, down) = (pattern(300_000), pattern(200_000));
    let client = {
        let bytes = down.clone();
        thread::spawn(move || exchange(connect_to_forward(), &bytes))
    };
    guest.until(|guest| guest.tcp(handle).is_active());
    assert!(guest.exchange(handle, &up) == down);
    assert!(client.join().unwrap() == up);
}

/// Nobody listens: the guest is told, at once.
#[test]
fn refused_connections_are_refused_to_the_guest() {
    let mut guest = Guest::start(0, &[]);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let handle = guest.connect(port, 2000);
    guest.until(|guest| !guest.tcp(handle).is_open());
}

/// A peer that resets is a peer that resets.
#[test]
fn resets_pass_both_ways() {
    let mut guest = Guest::start(0, &[]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let handle = guest.connect(port, 2000);
    guest.until(|guest| guest.tcp(handle).may_send());
    let peer = listener.accept().unwrap().0;
    rustix::net::sockopt::set_socket_linger(&peer, Some(Duration::ZERO)).unwrap();
    drop(peer);
    guest.until(|guest| !guest.tcp(handle).is_open());

    let handle = guest.connect(port, 2001);
    guest.until(|guest| guest.tcp(handle).may_send());
    let mut peer = listener.accept().unwrap().0;
    guest.tcp(handle).abort();
    let reader = thread::spawn(move || peer.read(&mut [0; 1]).unwrap_err().kind());
    guest.until(|_| reader.is_finished());
    assert_eq!(reader.join().unwrap(), ErrorKind::ConnectionReset);
}

/// Far more connections than fit into one burst; each with its own bytes.
#[test]
fn many_connections_at_once() {
    const COUNT: usize = 200;
    let mut guest = Guest::start(0, &[]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let echo = thread::spawn(move || {
        let clients = (0..COUNT).map(|_| {
            let mut stream = listener.accept().unwrap().0;
            thread::spawn(move || {
                let mut bytes = Vec::new();
                stream.read_to_end(&mut bytes).unwrap();
                stream.write_all(&bytes).unwrap();
            })
        });
        clients.collect::<Vec<_>>().into_iter().for_each(|client| client.join().unwrap());
    });
    let handles: Vec<_> = (0..COUNT).map(|number| guest.connect(port, 3000 + number as u16)).collect();
    let mut answers = vec![Vec::new(); COUNT];
    let mut closed = [false; COUNT];
    guest.until(|guest| {
        for (number, handle) in handles.iter().enumerate() {
            let socket = guest.tcp(*handle);
            if socket.may_send() && !closed[number] {
                socket.send_slice(&pattern(1000 + number)).unwrap();
                socket.close();
                closed[number] = true;
            }
            while socket.can_recv() {
                socket.recv(|bytes| (bytes.len(), answers[number].extend_from_slice(bytes))).unwrap();
            }
        }
        answers.iter().enumerate().all(|(number, answer)| answer.len() >= 1000 + number)
    });
    for (number, answer) in answers.iter().enumerate() {
        assert!(*answer == pattern(1000 + number), "connection {number}");
    }
    guest.until(|_| echo.is_finished());
    echo.join().unwrap();
}
