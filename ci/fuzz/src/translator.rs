//! A whole translator between a guest that sends anything and sockets that do anything: frames, segments of connections
//! that exist, events, errors, a guest without room, and time.
//!
//! Checked: nothing is asked of a socket that is not open, no more is taken from it than it has, every frame to the guest
//! can be read, and in the end, when nobody says anything any more, no flow is left.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use culvert_frame::{Offload, Offloads};
use culvert_guest::{NetHeader, Packet, Rooms};
use culvert_translate::limits::LimitSettings;
use culvert_translate::link::{Full, GuestLink};
use culvert_translate::mapping::Outbound;
use culvert_translate::packet::Payload;
use culvert_translate::settings::DEFAULT_MAC;
use culvert_translate::sockets::datagram::{Burst, Cause, Datagram, DatagramSockets, Marks, NetworkError, UdpWish};
use culvert_translate::sockets::{Host, ListenAt, Readiness, SocketId, TcpSockets};
use culvert_translate::tcp::SocketInfo;
use culvert_translate::time::Instant;
use culvert_translate::translator::Translator;
use etherparse::{PacketBuilder, SlicedPacket};

use crate::network::{self, GUEST_MAC};
use culvert_translate::transport::Reservation;

#[derive(Arbitrary, Debug)]
enum Step {
    /// Any bytes.
    Frame(Vec<u8>),
    /// A segment of one of a few connections.
    Segment { port: u8, flags: u8, seq: Number, ack: Number, window: u16, length: u8 },
    /// A datagram of one of a few flows.
    Datagram { port: u8, to: u8, length: u8 },
    /// An event of a socket.
    Event { kind: u8, index: u8, readable: bool, writable: bool },
    /// What sockets do from now on.
    Sockets { failing: bool, room: u16, arriving: u16, ended: bool },
    /// Whether the guest has room.
    Room(bool),
    /// Time passes.
    Wait { milliseconds: u32 },
    /// The end of a round.
    Finish,
}

/// A number relative to what was seen last, so that some fit.
#[derive(Arbitrary, Debug)]
enum Number {
    Fitting(i8),
    Any(u32),
}

impl Number {
    fn of(&self, fitting: u32) -> u32 {
        match *self {
            Self::Fitting(offset) => fitting.wrapping_add_signed(i32::from(offset)),
            Self::Any(number) => number,
        }
    }
}

/// As many as the translator may have.
pub(crate) const FLOWS: u32 = 16;

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut data = Unstructured::new(data);
    let Ok(choice) = data.arbitrary() else { return };
    let mut now = Instant::now();
    let limits = LimitSettings { flows: FLOWS, ..LimitSettings::default() };
    let mut translator = Translator::new(network::settings(choice), limits, now, 1);
    let mut sockets = Sockets::default();
    let mut guest = Guest { has_room: true, ..Guest::default() };
    while !data.is_empty() {
        let Ok(step) = data.arbitrary() else { break };
        match step {
            Step::Frame(bytes) => send(&mut translator, now, &bytes, &mut sockets, &mut guest),
            Step::Segment { port, flags, seq, ack, window, length } => {
                let (expected, sent) = guest.connections.get(&port_of(port)).copied().unwrap_or((1000, 0));
                let mut header = etherparse::TcpHeader::new(port_of(port), 80, seq.of(expected), window);
                (header.fin, header.syn, header.rst) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
                (header.psh, header.ack, header.urg) = (flags & 8 != 0, flags & 16 != 0, flags & 32 != 0);
                (header.ece, header.cwr) = (flags & 64 != 0, flags & 128 != 0);
                header.acknowledgment_number = ack.of(sent);
                let builder = PacketBuilder::ethernet2(GUEST_MAC.0, DEFAULT_MAC.0)
                    .ipv4([192, 0, 2, 2], [198, 51, 100, 1], 64)
                    .tcp_header(header);
                let mut frame = Vec::new();
                builder.write_to_vec(&mut frame, &vec![7; usize::from(length)]).expect("a short payload");
                send(&mut translator, now, &frame, &mut sockets, &mut guest);
            }
            Step::Datagram { port, to, length } => {
                let builder = PacketBuilder::ethernet2(GUEST_MAC.0, DEFAULT_MAC.0)
                    .ipv4([192, 0, 2, 2], [198, 51, 100, to], 64)
                    .udp(port_of(port), 5000);
                let mut frame = Vec::new();
                builder.write_to_vec(&mut frame, &vec![7; usize::from(length)]).expect("a short payload");
                send(&mut translator, now, &frame, &mut sockets, &mut guest);
            }
            Step::Event { kind, index, readable, writable } => {
                let index = u32::from(index) % FLOWS;
                let id = match kind % 5 {
                    0 => SocketId::Tcp(index),
                    1 => SocketId::Udp(index),
                    2 => SocketId::Echo(index),
                    3 => SocketId::TcpListener(index),
                    _ => SocketId::UdpListener(index),
                };
                let ready = Readiness { readable, writable, failed: readable, stops: true };
                translator.socket_event(now, id, ready, &mut sockets, &mut guest);
            }
            Step::Sockets { failing, room, arriving, ended } => {
                sockets.failing = failing;
                sockets.room = room.into();
                for socket in sockets.open.values_mut() {
                    // Nothing comes after the end.
                    if !socket.ended {
                        socket.queue = (socket.queue + u32::from(arriving)).min(1 << 20);
                    }
                    socket.ended |= ended;
                }
            }
            Step::Room(has_room) => {
                guest.has_room = has_room;
                if has_room {
                    translator.link_ready(now, &mut sockets, &mut guest);
                }
            }
            Step::Wait { milliseconds } => {
                now += Duration::from_millis(u64::from(milliseconds % 10_000_000));
                translator.finish(now, &mut sockets, &mut guest);
            }
            Step::Finish => translator.finish(now, &mut sockets, &mut guest),
        }
        assert!(translator.tcp().len() + translator.udp().len() + translator.echo().len() <= FLOWS as usize);
    }
    guest.has_room = true;
    translator.link_ready(now, &mut sockets, &mut guest);
    outlast(&mut translator, now, &mut sockets, &mut guest);
}

/// Nobody says anything any more. Keep-alive, retransmissions and timeouts end everything in the end.
pub(crate) fn outlast(translator: &mut Translator, mut now: Instant, sockets: &mut Sockets, guest: &mut Guest) {
    // The kernel lets no attempt to connect go on for ever.
    sockets.failing = false;
    for index in 0..FLOWS {
        let ready = Readiness { readable: false, writable: true, failed: false, stops: true };
        translator.socket_event(now, SocketId::Tcp(index), ready, sockets, guest);
    }
    for _ in 0..50_000 {
        if translator.tcp().is_empty() && translator.udp().is_empty() && translator.echo().is_empty() {
            assert!(sockets.open.is_empty(), "left open: {:?}", sockets.open);
            return;
        }
        now = translator.deadline().map_or(now, |deadline| now.max(deadline));
        translator.finish(now, sockets, guest);
    }
    panic!("{} connections never end: {:?}", translator.tcp().len(), translator.tcp());
}

fn port_of(choice: u8) -> u16 {
    2000 + u16::from(choice % 8)
}

fn send(translator: &mut Translator, now: Instant, bytes: &[u8], sockets: &mut Sockets, guest: &mut Guest) {
    let packet = Packet::of_bytes(NetHeader::default(), bytes);
    translator.frame(now, &packet, Offload::None, sockets, guest);
}

#[derive(Default)]
pub(crate) struct Guest {
    pub(crate) has_room: bool,
    /// For each port of the guest's: the sequence number that is expected of it, and the next one of ours.
    pub(crate) connections: BTreeMap<u16, (u32, u32)>,
}

impl GuestLink for Guest {
    fn takes(&self) -> Offloads {
        Offloads::ALL
    }

    fn put(&mut self, _: Offload, head: &[u8], payload: &[u8]) -> Result<(), Full> {
        if !self.has_room {
            return Err(Full);
        }
        let frame = [head, payload].concat();
        let sliced = SlicedPacket::from_ethernet(&frame).expect("a frame that can be read");
        if let Some(etherparse::TransportSlice::Tcp(tcp)) = sliced.transport {
            let span = payload.len() as u32 + u32::from(tcp.syn()) + u32::from(tcp.fin());
            let next = tcp.sequence_number().wrapping_add(span);
            self.connections.insert(tcp.destination_port(), (tcp.acknowledgment_number(), next));
        }
        Ok(())
    }

    fn reserve(&mut self, _: Offload, _: &[u8], _: u32) -> Result<Option<Reservation<'_>>, Full> {
        Ok(None)
    }

    fn flush(&mut self) {}
}

#[derive(Default)]
pub(crate) struct Sockets {
    pub(crate) open: BTreeMap<SocketId, Socket>,
    pub(crate) failing: bool,
    pub(crate) room: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Socket {
    pub(crate) queue: u32,
    pub(crate) ended: bool,
    pub(crate) shut_down: bool,
    pub(crate) is_held: bool,
}

impl Sockets {
    fn open(&mut self, id: SocketId) -> io::Result<()> {
        if self.failing {
            return Err(ErrorKind::ConnectionRefused.into());
        }
        assert!(self.open.insert(id, Socket::default()).is_none(), "{id:?} is open already");
        Ok(())
    }

    fn socket(&mut self, id: SocketId) -> &mut Socket {
        self.open.get_mut(&id).unwrap_or_else(|| panic!("{id:?} is not open"))
    }

    fn close(&mut self, id: SocketId) {
        self.open.remove(&id);
    }
}

impl Host for Sockets {
    fn has_address(&mut self, _: SocketAddr) -> bool {
        false
    }
}

impl TcpSockets for Sockets {
    fn connect(&mut self, id: SocketId, _: SocketAddr, _: &Outbound<'_>) -> io::Result<()> {
        self.open(id)
    }

    fn listen(&mut self, _: u32, _: &ListenAt<'_>) -> io::Result<()> {
        Ok(())
    }

    fn stop_listening(&mut self, _: u32) {}

    fn accept(&mut self, _: SocketId, _: SocketId) -> io::Result<(SocketAddr, SocketAddr)> {
        Err(ErrorKind::WouldBlock.into())
    }

    fn connected(&mut self, id: SocketId) -> io::Result<bool> {
        self.socket(id);
        if self.failing { Err(ErrorKind::ConnectionRefused.into()) } else { Ok(true) }
    }

    fn write(&mut self, id: SocketId, bytes: Payload<'_>) -> io::Result<u32> {
        assert!(!self.socket(id).shut_down, "{id:?} was shut down");
        assert!(bytes.length() > 0);
        match (self.failing, self.room) {
            (true, _) => Err(ErrorKind::ConnectionReset.into()),
            (false, 0) => Err(ErrorKind::WouldBlock.into()),
            (false, room) => Ok(bytes.length().min(room)),
        }
    }

    fn peek(&mut self, id: SocketId, offset: u32, into: Rooms<'_>) -> io::Result<u32> {
        let failing = self.failing;
        let socket = self.socket(id);
        assert!(offset <= socket.queue && into.bytes() > 0);
        match socket.queue - offset {
            _ if failing => Err(ErrorKind::ConnectionReset.into()),
            0 if socket.ended => Ok(0),
            0 => Err(ErrorKind::WouldBlock.into()),
            bytes => Ok(bytes.min(into.bytes())),
        }
    }

    fn discard(&mut self, id: SocketId, bytes: u32) {
        let socket = self.socket(id);
        socket.queue = socket.queue.checked_sub(bytes).expect("no more than there is");
    }

    fn await_writable(&mut self, id: SocketId) {
        self.socket(id);
    }

    fn shutdown(&mut self, id: SocketId) {
        self.socket(id).shut_down = true;
    }

    fn info(&mut self, id: SocketId) -> Option<SocketInfo> {
        self.socket(id);
        let rtt = Duration::from_millis(1);
        Some(SocketInfo { send_room: self.room, rtt })
    }

    fn close(&mut self, id: SocketId) {
        Self::close(self, id);
    }

    fn reset(&mut self, id: SocketId) {
        Self::close(self, id);
    }
}

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

impl DatagramSockets for Sockets {
    fn open_udp(&mut self, index: u32, wish: &UdpWish<'_>) -> io::Result<SocketAddr> {
        self.open(SocketId::Udp(index))?;
        Ok(SocketAddr::new(LOCAL, wish.local.port()))
    }

    fn open_udp_listener(&mut self, _: u32, _: &ListenAt<'_>) -> io::Result<()> {
        Ok(())
    }

    fn open_echo(&mut self, index: u32, _: bool, identifier: u16, _: Outbound<'_>) -> io::Result<u16> {
        self.open(SocketId::Echo(index)).map(|()| identifier)
    }

    fn send_datagram(
        &mut self,
        socket: SocketId,
        _: Payload<'_>,
        _: Option<u16>,
        _: Option<SocketAddr>,
        _: Marks,
    ) -> io::Result<()> {
        self.socket(socket);
        if self.failing { Err(ErrorKind::HostUnreachable.into()) } else { Ok(()) }
    }

    fn receive_datagrams(&mut self, socket: SocketId, burst: &mut Burst) -> io::Result<()> {
        let open = self.socket(socket);
        let bytes = std::mem::take(&mut open.queue).min(9000);
        if bytes == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        let marks = Marks { hop_limit: 60, traffic_class: 0 };
        let source = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), 5000);
        let local = Some(SocketAddr::new(LOCAL, 2000));
        let datagram = Datagram { source, destination: local, local, marks };
        // As the kernel gives several that came together.
        let segment = NonZeroU16::new((bytes % 3 * 500) as u16);
        burst.received(datagram, bytes as usize, segment);
        Ok(())
    }

    fn receive_error(&mut self, socket: SocketId, _: &mut [u8]) -> io::Result<NetworkError> {
        let open = self.socket(socket);
        if !std::mem::take(&mut open.ended) {
            return Err(ErrorKind::WouldBlock.into());
        }
        let from = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 254));
        let destination = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), 5000);
        let cause = Cause::Icmp { from, kind: 11, code: 0, information: 0 };
        Ok(NetworkError { cause, destination, quoted_bytes: 0 })
    }

    fn join(&mut self, _: IpAddr, _: u32) -> io::Result<()> {
        Ok(())
    }

    fn leave(&mut self, _: IpAddr, _: u32) {}

    fn close_datagrams(&mut self, socket: SocketId) {
        self.close(socket);
    }
}
