//! What a frame costs the translator's core with many connections: simulated sockets, and a guest that is a few numbers for each of them, so that
//! there may be more than descriptors allow, and instructions can be counted where times say nothing.
//!
//! `many_flows [FLOWS [SECONDS]]`: so many connections (10), of which ten at a time, each time others, send a request, have its answer
//! and acknowledge it, for so many seconds (1). It prints the time that [`work`] took for a frame, and the memory of each connection. For
//! instructions:
//!
//! ```text
//! valgrind --tool=callgrind --toggle-collect='*many_flows*work*' --callgrind-out-file=FILE target/release/examples/many_flows 10
//! ```
//!
//! and the sum, divided by the frames that were printed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "for developers")]
#![allow(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "for developers")]

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use culvert_frame::{MacAddress, Offload, Offloads};
use culvert_guest::{NetHeader, Packet, Rooms};
use culvert_translate::limits::LimitSettings;
use culvert_translate::link::{Full, GuestLink};
use culvert_translate::mapping::Outbound;
use culvert_translate::packet::Payload;
use culvert_translate::settings::{DEFAULT_MAC, Ipv4, Mapping, Services, Settings};
use culvert_translate::sockets::datagram::{Burst, DatagramSockets, Marks, NetworkError, UdpWish};
use culvert_translate::sockets::{Host, ListenAt, Readiness, SocketId, TcpSockets};
use culvert_translate::tcp::SocketInfo;
use culvert_translate::time::Instant;
use culvert_translate::translator::Translator;
use culvert_translate::transport::Reservation;
use etherparse::{PacketBuilder, TcpHeader, TcpOptionElement};

/// Bytes of a request, and of an answer.
const BYTES: u32 = 100;
/// Connections that have their turn together.
const AT_ONCE: usize = 10;
/// Ports that the guest uses, for each of its peers.
const PORTS: usize = 60_000;
/// The first of them.
const FIRST_PORT: usize = 1024;

fn main() {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u64>().expect("a number"));
    let count = numbers.next().unwrap_or(10) as usize;
    let seconds = numbers.next().unwrap_or(1);
    assert!(count.is_multiple_of(AT_ONCE), "{AT_ONCE} connections have their turn together");
    let flows = count as u32 * 2;
    let limits = LimitSettings { flows, new_flows: 1_000_000_000, burst: flows };
    let mut bench = Bench {
        now: Instant::now(),
        translator: Translator::new(settings(), limits, Instant::now(), 1),
        sockets: Simulated(vec![0; count]),
        guest: Guest { peers: vec![Peer { sent: 1, received: 0 }; count], frames: 0 },
        frames: (0..=count / PORTS).map(Frames::new).collect(),
    };
    let mut memory = 0;
    for index in 0..count {
        if index == AT_ONCE {
            memory = resident();
        }
        bench.open(index);
    }
    let each = (resident() - memory).checked_div(count - AT_ONCE).unwrap_or(0);
    (0..count).step_by(AT_ONCE).take(10_000).for_each(|first| bench.turn(first));
    let (before, start, mut first) = (bench.guest.frames, Instant::now(), 0);
    let mut taken = Duration::ZERO;
    let mut turns = 0;
    while Instant::now() - start < Duration::from_secs(seconds) || turns < 1000 {
        taken += bench.timed_turn(first);
        first = (first + AT_ONCE) % count;
        turns += 1;
    }
    // A request, an acknowledgement, and what the guest was sent.
    let frames = bench.guest.frames - before + 2 * turns * AT_ONCE as u64;
    println!(
        "{frames} frames, {} ns a frame, {each} bytes for each connection beyond ten",
        taken.as_nanos() / u128::from(frames)
    );
}

struct Bench {
    now: Instant,
    translator: Translator,
    sockets: Simulated,
    guest: Guest,
    /// For each address of a peer.
    frames: Vec<Frames>,
}

impl Bench {
    fn open(&mut self, index: usize) {
        self.segment(index, Kind::Syn);
        let ready = Readiness { writable: true, ..Readiness::default() };
        let Self { now, translator, sockets, guest, .. } = self;
        translator.socket_event(*now, SocketId::Tcp(index as u32), ready, sockets, guest);
        translator.finish(*now, sockets, guest);
        assert_eq!(translator.tcp().len(), index + 1);
        self.segment(index, Kind::Acknowledgement);
        self.translator.finish(self.now, &mut self.sockets, &mut self.guest);
        self.now += Duration::from_micros(10);
    }

    fn turn(&mut self, first: usize) {
        self.timed_turn(first);
    }

    /// Ten connections, a request and an answer each. The time that the translator took.
    fn timed_turn(&mut self, first: usize) -> Duration {
        let which = first..first + AT_ONCE;
        let mut taken = Duration::ZERO;
        for kind in [Kind::Request, Kind::Acknowledgement] {
            let frames: Vec<_> = which.clone().map(|index| self.frame(index, kind).to_vec()).collect();
            let Self { now, translator, sockets, guest, .. } = self;
            taken += work(*now, translator, sockets, guest, &frames, &[]);
            if kind == Kind::Request {
                which.clone().for_each(|index| sockets.0[index] = BYTES);
                let events: Vec<_> = which.clone().map(|index| SocketId::Tcp(index as u32)).collect();
                taken += work(*now, translator, sockets, guest, &[], &events);
            }
            self.now += Duration::from_micros(20);
        }
        taken
    }

    fn segment(&mut self, index: usize, kind: Kind) {
        let frame = self.frame(index, kind).to_vec();
        let Self { now, translator, sockets, guest, .. } = self;
        let packet = Packet::of_bytes(NetHeader::default(), &frame);
        translator.frame(*now, &packet, Offload::Valid, sockets, guest);
    }

    /// The guest's next segment.
    fn frame(&mut self, index: usize, kind: Kind) -> &[u8] {
        let Peer { sent, received } = &mut self.guest.peers[index];
        let frames = &mut self.frames[index / PORTS];
        let frame = match kind {
            Kind::Syn => &mut frames.syn,
            Kind::Request => &mut frames.request,
            Kind::Acknowledgement => &mut frames.acknowledgement,
        };
        let seq = if kind == Kind::Syn { 0 } else { *sent };
        frame[34..36].copy_from_slice(&((FIRST_PORT + index % PORTS) as u16).to_be_bytes());
        frame[38..42].copy_from_slice(&seq.to_be_bytes());
        frame[42..46].copy_from_slice(&received.to_be_bytes());
        if kind == Kind::Request {
            *sent = sent.wrapping_add(BYTES);
        }
        frame
    }
}

/// What counts.
#[inline(never)]
fn work(
    now: Instant,
    translator: &mut Translator,
    sockets: &mut Simulated,
    guest: &mut Guest,
    frames: &[Vec<u8>],
    events: &[SocketId],
) -> Duration {
    let start = Instant::now();
    for frame in frames {
        translator.frame(now, &Packet::of_bytes(NetHeader::default(), frame), Offload::Valid, sockets, guest);
    }
    for &event in events {
        let ready = Readiness { readable: true, writable: true, ..Readiness::default() };
        translator.socket_event(now, event, ready, sockets, guest);
    }
    translator.finish(now, sockets, guest);
    Instant::now() - start
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Syn,
    Request,
    Acknowledgement,
}

/// The guest's frames to one peer, but for ports and numbers.
struct Frames {
    syn: Vec<u8>,
    request: Vec<u8>,
    acknowledgement: Vec<u8>,
}

impl Frames {
    fn new(peer: usize) -> Self {
        let frame = |is_syn: bool, payload: u32| {
            let mut header = TcpHeader { syn: is_syn, ack: !is_syn, ..TcpHeader::new(0, 80, 0, 60_000) };
            header.set_options(&[TcpOptionElement::Timestamp(1, 0)]).unwrap();
            let mut frame = Vec::new();
            PacketBuilder::ethernet2([2, 0, 0, 0, 0, 10], DEFAULT_MAC.0)
                .ipv4([192, 0, 2, 2], [198, 51, 100, peer as u8 + 1], 64)
                .tcp_header(header)
                .write(&mut frame, &vec![7; payload as usize])
                .unwrap();
            frame
        };
        Self { syn: frame(true, 0), request: frame(false, BYTES), acknowledgement: frame(false, 0) }
    }
}

/// What the guest knows of a connection: its next number, and the one that it expects.
#[derive(Clone)]
struct Peer {
    sent: u32,
    received: u32,
}

struct Guest {
    peers: Vec<Peer>,
    frames: u64,
}

impl GuestLink for Guest {
    fn takes(&self) -> Offloads {
        Offloads::ALL
    }

    fn put(&mut self, _: Offload, head: &[u8], payload: &[u8]) -> Result<(), Full> {
        let number = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().unwrap());
        let port = usize::from(u16::from_be_bytes([head[36], head[37]]));
        let index = port - FIRST_PORT + (usize::from(head[29]) - 1) * PORTS;
        let is_syn = head[47] & 2 != 0;
        self.peers[index].received = number(38).wrapping_add(payload.len() as u32 + u32::from(is_syn));
        self.frames += 1;
        Ok(())
    }

    fn reserve(&mut self, _: Offload, _: &[u8], _: u32) -> Result<Option<Reservation<'_>>, Full> {
        Ok(None)
    }

    fn flush(&mut self) {}
}

/// What lies in each connection's receive queue.
struct Simulated(Vec<u32>);

impl Simulated {
    fn queue(&mut self, id: SocketId) -> &mut u32 {
        let SocketId::Tcp(index) = id else { panic!("{id:?} is none of TCP") };
        &mut self.0[index as usize]
    }
}

impl Host for Simulated {
    fn has_address(&mut self, _: SocketAddr) -> bool {
        false
    }
}

impl TcpSockets for Simulated {
    fn connect(&mut self, _: SocketId, _: SocketAddr, _: &Outbound<'_>) -> io::Result<()> {
        Ok(())
    }

    fn listen(&mut self, _: u32, _: &ListenAt<'_>) -> io::Result<()> {
        Ok(())
    }

    fn stop_listening(&mut self, _: u32) {}

    fn accept(&mut self, _: SocketId, _: SocketId) -> io::Result<(SocketAddr, SocketAddr)> {
        Err(ErrorKind::WouldBlock.into())
    }

    fn connected(&mut self, _: SocketId) -> io::Result<bool> {
        Ok(true)
    }

    fn write(&mut self, _: SocketId, bytes: Payload<'_>) -> io::Result<u32> {
        Ok(bytes.length())
    }

    fn peek(&mut self, id: SocketId, offset: u32, into: Rooms<'_>) -> io::Result<u32> {
        match *self.queue(id) - offset {
            0 => Err(ErrorKind::WouldBlock.into()),
            bytes => Ok(bytes.min(into.bytes())),
        }
    }

    fn discard(&mut self, id: SocketId, bytes: u32) {
        *self.queue(id) -= bytes;
    }

    fn await_writable(&mut self, _: SocketId) {}

    fn shutdown(&mut self, _: SocketId) {}

    fn info(&mut self, _: SocketId) -> Option<SocketInfo> {
        Some(SocketInfo { send_room: 1 << 16, rtt: Duration::from_micros(50) })
    }

    fn close(&mut self, _: SocketId) {}

    fn reset(&mut self, id: SocketId) {
        panic!("{id:?} is reset");
    }
}

/// There are none.
impl DatagramSockets for Simulated {
    fn open_udp(&mut self, _: u32, _: &UdpWish<'_>) -> io::Result<SocketAddr> {
        Err(ErrorKind::Unsupported.into())
    }

    fn open_udp_listener(&mut self, _: u32, _: &ListenAt<'_>) -> io::Result<()> {
        Err(ErrorKind::Unsupported.into())
    }

    fn open_echo(&mut self, _: u32, _: bool, _: u16, _: Outbound<'_>) -> io::Result<u16> {
        Err(ErrorKind::Unsupported.into())
    }

    fn send_datagram(
        &mut self,
        _: SocketId,
        _: Payload<'_>,
        _: Option<u16>,
        _: Option<SocketAddr>,
        _: Marks,
    ) -> io::Result<()> {
        Err(ErrorKind::Unsupported.into())
    }

    fn receive_datagrams(&mut self, _: SocketId, _: &mut Burst) -> io::Result<()> {
        Err(ErrorKind::WouldBlock.into())
    }

    fn receive_error(&mut self, _: SocketId, _: &mut [u8]) -> io::Result<NetworkError> {
        Err(ErrorKind::WouldBlock.into())
    }

    fn join(&mut self, _: IpAddr, _: u32) -> io::Result<()> {
        Ok(())
    }

    fn leave(&mut self, _: IpAddr, _: u32) {}

    fn close_datagrams(&mut self, _: SocketId) {}
}

fn settings() -> Settings {
    let gateway = "192.0.2.1".parse().unwrap();
    Settings {
        mac: MacAddress(DEFAULT_MAC.0),
        mtu: Some(1500),
        v4: Some(Ipv4 {
            address: "192.0.2.2/24".parse().unwrap(),
            gateway,
            ours: gateway,
            resolvers: Vec::new(),
            mapping: Mapping::default(),
        }),
        v6: None,
        search: Vec::new(),
        hostname: None,
        fqdn: None,
        services: Services::default(),
    }
}

/// The memory of this process, in bytes.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}
