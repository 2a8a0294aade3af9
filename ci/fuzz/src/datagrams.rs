//! A guest's packets of UDP, ICMP, IGMP and MLD, right and wrong ones, against simulated sockets with peers that send anything
//! and a network that reports anything.
//!
//! Checked: there is a socket for each flow and no other; there are never more flows than allowed; frames to the guest are
//! right and fit its MTU; nothing but the guest's own bytes is sent; when everybody is silent, all of it ends.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use culvert_frame::checksum::{self, Sum};
use culvert_frame::{Offload, Offloads, Segmentation, Segmenter};
use culvert_guest::{NetHeader, Packet};
use culvert_translate::context::{Context, SCRATCH_BYTES};
use culvert_translate::flow::Target;
use culvert_translate::fragment::Reassembler;
use culvert_translate::guest::Guest;
use culvert_translate::head::{ICMP, ICMPV6, IGMP, UDP};
use culvert_translate::icmp::{EchoFlows, EchoSettings};
use culvert_translate::icmp_error::{self, Budget};
use culvert_translate::limits::{LimitSettings, Limits};
use culvert_translate::link::{Full, GuestLink};
use culvert_translate::mapping::Outbound;
use culvert_translate::multicast::Groups;
use culvert_translate::packet::{self, Content, IpPacket, Payload};
use culvert_translate::refusal::{Counters, Refusal};
use culvert_translate::settings::Settings;
use culvert_translate::sockets::datagram::{
    BURST, Burst, Cause, Datagram, DatagramSockets, Marks, NetworkError, UdpWish,
};
use culvert_translate::sockets::{Host, ListenAt, SocketId};
use culvert_translate::time::Instant;
use culvert_translate::udp::{UdpFlows, UdpSettings};
use etherparse::checksum::Sum16BitWords;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use crate::network::{self, DESTINATIONS, GUEST_MAC, address, ip_frame};
use culvert_translate::transport::Reservation;

#[derive(Arbitrary, Debug)]
enum Operation {
    /// A UDP datagram, perhaps with another length than it has, and to be cut.
    Udp { v6: bool, ends: [u8; 2], ports: [u8; 2], length: Option<u16>, segment: Option<u16>, payload: Vec<u8> },
    /// UDP datagrams of one round: to which of a few peers, and how long.
    Round(Vec<(u8, u16)>),
    /// A message of ICMP or ICMPv6, with a right checksum or not.
    Icmp { v6: bool, ends: [u8; 2], kind: u8, code: u8, right: bool, rest: Vec<u8> },
    /// A message of IGMP.
    Igmp { kind: u8, rest: Vec<u8> },
    /// Any packet.
    Packet { v6: bool, protocol: u8, ends: [u8; 2], payload: Vec<u8> },
    /// Any bytes behind an Ethernet header.
    Frame { v6: bool, bytes: Vec<u8> },
    /// Datagrams come to an open socket, or the listener.
    Arrive { socket: u8, v6: bool, source: u8, port: u8, destination: u8, bytes: u16, count: u8, head: [u8; 8] },
    /// The network reports something.
    Report { socket: u8, v6: bool, from: u8, kind: u8, code: u8, information: u32, local: bool, quoted: Vec<u8> },
    /// The next system call fails.
    Fail(u8),
    /// Some seconds.
    Wait(u8),
    /// How many frames the guest takes until the next time, and which offloads.
    Room(u8, bool),
}

/// Runs one input.
pub fn run(data: &[u8]) {
    let [choice, rest @ ..] = data else { return };
    let Ok(operations) = Vec::<Operation>::arbitrary_take_rest(Unstructured::new(rest)) else { return };
    let mut world = World::new(network::settings(*choice));
    for operation in operations.iter().take(200) {
        world.step(operation);
        world.check();
    }
    world.now += Duration::from_secs(120);
    world.expire();
    assert_eq!((world.udp.len(), world.echo.len(), world.sockets.open.len()), (0, 0, 1), "{world:?}");
    assert!(world.fragments.is_empty());
}

#[derive(Debug)]
struct World {
    now: Instant,
    udp: UdpFlows,
    echo: EchoFlows,
    groups: Groups,
    fragments: Reassembler,
    sockets: Simulated,
    link: Frames,
    shared: Shared,
}

#[derive(Debug)]
struct Shared {
    settings: Settings,
    guest: Guest,
    limits: Limits,
    errors: Budget,
    counters: Counters,
    scratch: Vec<u8>,
}

impl Shared {
    fn context<'a>(
        &'a mut self,
        now: Instant,
        sockets: &'a mut Simulated,
        link: &'a mut Frames,
    ) -> Context<'a, Simulated, Frames> {
        Context {
            now,
            settings: &self.settings,
            guest: &self.guest,
            sockets,
            link,
            limits: &mut self.limits,
            errors: &mut self.errors,
            lane: None,
            counters: &mut self.counters,
            scratch: &mut self.scratch,
        }
    }
}

/// Few enough that they are reached.
const UDP_FLOWS: u32 = 6;
const ECHO_FLOWS: u32 = 3;
const FLOWS: u32 = 8;
/// How many bytes arrive at once, but for one datagram.
const BYTES_AT_ONCE: usize = 100_000;
const LISTENER: SocketId = SocketId::UdpListener(0);

impl World {
    fn new(settings: Settings) -> Self {
        let mut guest = Guest::new(&settings);
        guest.mac = Some(GUEST_MAC);
        Self {
            now: Instant::now(),
            udp: UdpFlows::new(UdpSettings { flows: UDP_FLOWS, ..UdpSettings::default() }),
            echo: EchoFlows::new(EchoSettings { flows: ECHO_FLOWS, ..EchoSettings::default() }),
            groups: Groups::default(),
            fragments: Reassembler::default(),
            sockets: Simulated { open: BTreeMap::from([(LISTENER, Socket::default())]), ..Simulated::default() },
            link: Frames { room: 255, takes: Offloads::NONE, frames: Vec::new() },
            shared: Shared {
                guest,
                limits: Limits::new(LimitSettings { flows: FLOWS, ..LimitSettings::default() }),
                errors: Budget::default(),
                counters: Counters::default(),
                scratch: vec![0; SCRATCH_BYTES],
                settings,
            },
        }
    }

    fn step(&mut self, operation: &Operation) {
        match operation {
            Operation::Udp { v6, ends, ports, length, segment, payload } => {
                let true_length = u16::try_from(payload.len() + 8).unwrap_or(u16::MAX);
                let length = length.unwrap_or(true_length).to_be_bytes();
                let header = [0, ports[0], 0, ports[1], length[0], length[1], 1, 1];
                self.frame(&ip_frame(*v6, UDP, *ends, &[&header[..], payload].concat()), *segment);
            }
            Operation::Round(datagrams) => self.round(datagrams),
            Operation::Icmp { v6, ends, kind, code, right, rest } => {
                let message = [&[*kind, *code, 0, 0], &rest[..]].concat();
                let mut frame = ip_frame(*v6, if *v6 { ICMPV6 } else { ICMP }, *ends, &message);
                if *right {
                    mend(&mut frame, *v6);
                }
                self.frame(&frame, None);
            }
            Operation::Igmp { kind, rest } => {
                let mut frame = ip_frame(false, IGMP, [0, 4], &[&[*kind, 0, 0, 0], &rest[..]].concat());
                mend(&mut frame, false);
                self.frame(&frame, None);
            }
            Operation::Packet { v6, protocol, ends, payload } => {
                self.frame(&ip_frame(*v6, *protocol, *ends, payload), None);
            }
            Operation::Frame { v6, bytes } => {
                let kind = if *v6 { [0x86, 0xdd] } else { [8, 0] };
                self.frame(&[&[2; 6][..], &GUEST_MAC.0, &kind, bytes].concat(), None);
            }
            Operation::Arrive { socket, v6, source, port, destination, bytes, count, head } => {
                let (id, open) = self.sockets.nth(*socket);
                let address = SocketAddr::new(address(*v6, DESTINATIONS, *source), (*port).into());
                // Mostly the peer itself.
                let source = open.peer.filter(|_| *port < 128).unwrap_or(address);
                let destination = Some(SocketAddr::new(network::address(*v6, DESTINATIONS, *destination), 53));
                let marks = Marks { hop_limit: *count, traffic_class: *port };
                let datagram = Datagram { source, destination, local: destination, marks };
                let payload = [&head[..], &vec![7; usize::from(*bytes)]].concat();
                // Long ones are few: they take long.
                for _ in 0..=(BYTES_AT_ONCE / payload.len()).min(usize::from(*count)) {
                    open.inbox.push_back((datagram, payload.clone()));
                }
                self.ready(id);
            }
            Operation::Report { socket, v6, from, kind, code, information, local, quoted } => {
                let (id, open) = self.sockets.nth(*socket);
                let from = address(*v6, DESTINATIONS, *from);
                let cause = match local {
                    true => Cause::Local((*kind).into()),
                    false => Cause::Icmp { from, kind: *kind, code: *code, information: *information },
                };
                let destination = open.peer.unwrap_or(SocketAddr::new(from, 0));
                open.errors.push_back((NetworkError { cause, destination, quoted_bytes: 0 }, quoted.clone()));
                self.ready(id);
            }
            Operation::Fail(errno) => self.sockets.failure = Some((*errno).into()),
            Operation::Wait(seconds) => {
                self.now += Duration::from_secs((*seconds).into());
                self.expire();
            }
            Operation::Room(room, offloads) => {
                self.link.room = usize::from(*room);
                self.link.takes = if *offloads { Offloads::ALL } else { Offloads::NONE };
            }
        }
    }

    fn frame(&mut self, frame: &[u8], segment: Option<u16>) {
        let packet = Packet::of_bytes(NetHeader::default(), frame);
        let Ok(Content::Ip(ip)) = packet::parse(&packet) else { return };
        if ip.check_ends().is_err() {
            return;
        }
        let sent = self.sockets.sent.len();
        let whole;
        let ip = if ip.fragment.is_none() {
            &ip
        } else {
            let Ok(Some(joined)) = self.fragments.add(self.now, &ip) else { return };
            whole = joined;
            &whole.packet()
        };
        let failed = self.shared.counters.refused(Refusal::SocketError);
        let result = self.packet(ip, segment);
        self.udp.flush(&mut self.shared.context(self.now, &mut self.sockets, &mut self.link));
        let is_sent = self.shared.counters.refused(Refusal::SocketError) == failed;
        let Some(new) = self.sockets.sent.get(sent..) else { return };
        match (result, new) {
            (Ok(()), [bytes]) => {
                let all = ip.payload.first_bytes();
                // As far as it was copied, it is the guest's own.
                let of_guest = if ip.protocol == UDP { &all[8..] } else { all };
                assert!(bytes.iter().zip(of_guest).all(|(sent, own)| sent == own));
                assert!(bytes.len() <= ip.payload.length() as usize);
            }
            (Ok(()), new) => {
                assert!(new.is_empty() && (!is_sent || matches!(ip.protocol, IGMP | ICMPV6)));
            }
            (Err(_), new) => assert!(new.is_empty()),
        }
    }

    /// All of the bytes leave in their order, whatever goes together.
    fn round(&mut self, datagrams: &[(u8, u16)]) {
        self.sockets.failure = None;
        let (before, mut expected) = (self.sockets.sent.len(), BTreeMap::<u8, Vec<u8>>::new());
        for (number, (peer, bytes)) in datagrams.iter().take(200).enumerate() {
            // Each peer's datagrams say whose they are, so that they can be told apart.
            let peer = peer % 3;
            let payload: Vec<u8> = (0..bytes % 2000).map(|at| ((at as u8 ^ number as u8) % 64) * 3 + peer).collect();
            let length = u16::try_from(payload.len() + 8).expect("a short datagram").to_be_bytes();
            let header = [1, 0, 0, 53, length[0], length[1], 1, 1];
            let frame = ip_frame(false, UDP, [0, peer], &[&header[..], &payload].concat());
            let packet = Packet::of_bytes(NetHeader::default(), &frame);
            let Ok(Content::Ip(ip)) = packet::parse(&packet) else { panic!("it is right") };
            let ctx = &mut self.shared.context(self.now, &mut self.sockets, &mut self.link);
            if self.udp.from_guest(ctx, &ip, None).is_ok() {
                expected.entry(peer).or_default().extend(&payload);
            }
        }
        self.udp.flush(&mut self.shared.context(self.now, &mut self.sockets, &mut self.link));
        let mut sent = BTreeMap::<u8, Vec<u8>>::new();
        for bytes in self.sockets.sent.get(before..).unwrap_or_default() {
            if let Some(first) = bytes.first() {
                sent.entry(first % 3).or_default().extend(bytes);
            }
        }
        expected.retain(|_, bytes| !bytes.is_empty());
        assert_eq!(sent, expected);
    }

    fn packet(&mut self, ip: &IpPacket<'_>, segment: Option<u16>) -> Result<(), Refusal> {
        let ctx = &mut self.shared.context(self.now, &mut self.sockets, &mut self.link);
        match ip.protocol {
            UDP => self.udp.from_guest(ctx, ip, segment),
            IGMP => self.groups.from_guest(ctx, ip).map(|_| ()),
            ICMPV6 if self.groups.from_guest(ctx, ip)? => Ok(()),
            ICMP | ICMPV6 => self.echo.from_guest(ctx, ip).inspect_err(|_| {
                if let Some(ends) = icmp_error::unreachable_port(ip) {
                    self.udp.refused_by_guest(ctx, &ends);
                }
            }),
            _ => Err(Refusal::OtherProtocol),
        }
    }

    fn ready(&mut self, id: SocketId) {
        loop {
            let ctx = &mut self.shared.context(self.now, &mut self.sockets, &mut self.link);
            let more = match id {
                SocketId::Udp(index) => self.udp.from_socket(ctx, index, true),
                SocketId::Echo(index) => self.echo.from_socket(ctx, index, true),
                _ => self.udp.from_listener(ctx, &self.groups, 0, &Target { address: None, port: 53 }),
            };
            if !more {
                break;
            }
        }
        let left = self.sockets.open.get(&id).map_or(0, |open| open.inbox.len());
        assert!(left == 0 || self.sockets.failed);
        self.sockets.failed = false;
    }

    fn expire(&mut self) {
        self.fragments.expire(self.now);
        let ctx = &mut self.shared.context(self.now, &mut self.sockets, &mut self.link);
        self.udp.expire(ctx);
        self.echo.expire(ctx);
        let deadlines = [self.udp.deadline(), self.echo.deadline(), self.fragments.deadline()];
        assert!(deadlines.into_iter().flatten().all(|deadline| deadline > self.now));
    }

    fn check(&mut self) {
        let (udp, echo) = (self.udp.len(), self.echo.len());
        assert!(udp <= UDP_FLOWS as usize && echo <= ECHO_FLOWS as usize && udp + echo <= FLOWS as usize);
        assert_eq!(udp + echo + 1, self.sockets.open.len());
        assert_eq!(udp + echo, self.shared.limits.in_use() as usize);
        assert!(self.sockets.groups.len() <= 32);
        assert!(self.sockets.groups.iter().all(|&group| self.groups.contains(group)));
        for (offload, frame) in self.link.frames.drain(..) {
            match offload {
                Offload::Segment(segmentation) => {
                    assert!(self.link.takes.contains(segmentation.needs()));
                    for segment in cut(&frame, segmentation) {
                        judge(&self.shared.settings, Offload::None, segment);
                    }
                }
                offload => judge(&self.shared.settings, offload, frame),
            }
        }
    }
}

/// What the guest makes of a frame that is several.
fn cut(frame: &[u8], segmentation: Segmentation) -> Vec<Vec<u8>> {
    let length = u32::try_from(frame.len()).expect("a frame");
    let offload = Offload::Segment(segmentation);
    let request = offload.fields().request;
    assert_eq!(Offload::check(request, Offloads::ALL, frame, length), Ok(offload));
    let mut segmenter = Segmenter::new(frame, segmentation, length);
    let mut rest = &frame[usize::from(segmentation.header_bytes)..];
    let (mut room, mut segments) = (vec![0; segmentation.segment_bytes() as usize], Vec::new());
    while let Some(segment) = segmenter.next(&mut room, |payload| {
        let (now, later) = rest.split_at(payload.len());
        payload.copy_from_slice(now);
        rest = later;
    }) {
        segments.push(segment.to_vec());
    }
    segments
}

/// A frame for the guest that is right.
fn judge(settings: &Settings, offload: Offload, mut frame: Vec<u8>) {
    assert!(frame.len() - 14 <= usize::from(settings.mtu.unwrap_or(1500)));
    assert!(frame[..6] == GUEST_MAC.0 || frame[0] & 1 == 1);
    assert_eq!(frame[6..12], settings.mac.0);
    if let Offload::Checksum(partial) = offload {
        checksum::complete(&mut frame, partial);
    }
    let packet = SlicedPacket::from_ethernet(&frame).expect("a frame that can be read");
    match (&packet.net, &packet.transport) {
        (Some(NetSlice::Ipv4(ip)), transport) => {
            let header = ip.header();
            assert_eq!(header.to_header().calc_header_checksum(), header.header_checksum());
            assert_eq!(usize::from(header.total_len()), frame.len() - 14);
            match transport {
                Some(TransportSlice::Udp(udp)) => {
                    let (from, to) = (header.source(), header.destination());
                    assert_eq!(Ok(udp.checksum()), udp.to_header().calc_checksum_ipv4_raw(from, to, udp.payload()));
                }
                Some(TransportSlice::Icmpv4(icmp)) => {
                    // Of the bytes: etherparse's types leave out what a code gives no meaning to.
                    assert_eq!(Sum16BitWords::new().add_slice(icmp.slice()).ones_complement(), 0);
                }
                other => assert!(other.is_none() && header.is_fragmenting_payload(), "{other:?}"),
            }
        }
        (Some(NetSlice::Ipv6(ip)), transport) => {
            let (from, to) = (ip.header().source(), ip.header().destination());
            assert_eq!(usize::from(ip.header().payload_length()), frame.len() - 54);
            match transport {
                Some(TransportSlice::Udp(udp)) => {
                    assert_eq!(Ok(udp.checksum()), udp.to_header().calc_checksum_ipv6_raw(from, to, udp.payload()));
                }
                Some(TransportSlice::Icmpv6(icmp)) => assert!(icmp.is_checksum_valid(from, to)),
                other => assert!(other.is_none() && ip.is_payload_fragmented(), "{other:?}"),
            }
        }
        other => panic!("not IP: {other:?}"),
    }
}

/// Puts a right checksum into a message of ICMP, ICMPv6 or IGMP.
fn mend(frame: &mut [u8], v6: bool) {
    let at = if v6 { 54 } else { 34 };
    let mut sum = Sum::default();
    if v6 {
        sum.add(&frame[22..54]);
        let bytes = u32::try_from(frame.len() - at).expect("a short frame");
        sum.add(&bytes.to_be_bytes());
        sum.add(&[0, 0, 0, ICMPV6]);
    }
    sum.add(&frame[at..]);
    let checksum = sum.checksum().to_be_bytes();
    frame[at + 2..at + 4].copy_from_slice(&checksum);
}

#[derive(Debug)]
struct Frames {
    room: usize,
    takes: Offloads,
    frames: Vec<(Offload, Vec<u8>)>,
}

impl GuestLink for Frames {
    fn takes(&self) -> Offloads {
        self.takes
    }

    fn put(&mut self, offload: Offload, head: &[u8], payload: &[u8]) -> Result<(), Full> {
        self.room = self.room.checked_sub(1).ok_or(Full)?;
        self.frames.push((offload, [head, payload].concat()));
        Ok(())
    }

    fn reserve(&mut self, _: Offload, _: &[u8], _: u32) -> Result<Option<Reservation<'_>>, Full> {
        Ok(None)
    }

    fn flush(&mut self) {}
}

#[derive(Debug, Default)]
struct Simulated {
    open: BTreeMap<SocketId, Socket>,
    groups: BTreeSet<IpAddr>,
    sent: Vec<Vec<u8>>,
    /// What the next call fails with.
    failure: Option<i32>,
    /// Whether a call that receives did.
    failed: bool,
}

#[derive(Debug, Default)]
struct Socket {
    peer: Option<SocketAddr>,
    inbox: VecDeque<(Datagram, Vec<u8>)>,
    errors: VecDeque<(NetworkError, Vec<u8>)>,
}

impl Simulated {
    /// Any open socket; there is the listener at least.
    fn nth(&mut self, choice: u8) -> (SocketId, &mut Socket) {
        let place = usize::from(choice) % self.open.len();
        let (id, socket) = self.open.iter_mut().nth(place).expect("a socket");
        (*id, socket)
    }

    fn fail(&mut self) -> io::Result<()> {
        self.failure.take().map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
    }

    fn open(&mut self, id: SocketId, peer: Option<SocketAddr>) -> io::Result<()> {
        self.fail()?;
        let before = self.open.insert(id, Socket { peer, ..Socket::default() });
        assert!(before.is_none(), "{id:?} is open already");
        Ok(())
    }
}

impl Host for Simulated {
    fn has_address(&mut self, _: SocketAddr) -> bool {
        false
    }
}

impl DatagramSockets for Simulated {
    fn open_udp(&mut self, index: u32, wish: &UdpWish<'_>) -> io::Result<SocketAddr> {
        assert!(wish.peer.is_none_or(|peer| peer.is_ipv4() == wish.local.is_ipv4()));
        self.open(SocketId::Udp(index), wish.peer)?;
        let port = if wish.local.port() == 0 { 40_000 + index as u16 } else { wish.local.port() };
        Ok(SocketAddr::new(wish.local.ip(), port))
    }

    fn open_udp_listener(&mut self, _: u32, _: &ListenAt<'_>) -> io::Result<()> {
        Ok(())
    }

    fn open_echo(&mut self, index: u32, _: bool, identifier: u16, _: Outbound<'_>) -> io::Result<u16> {
        self.open(SocketId::Echo(index), None)?;
        Ok(identifier.max(1))
    }

    fn send_datagram(
        &mut self,
        socket: SocketId,
        payload: Payload<'_>,
        segment: Option<u16>,
        to: Option<SocketAddr>,
        _: Marks,
    ) -> io::Result<()> {
        let open = self.open.get(&socket).expect("an open socket");
        assert_eq!(open.peer.is_some(), to.is_none());
        assert_ne!(segment, Some(0));
        self.fail()?;
        let mut bytes = vec![0; payload.length() as usize];
        assert_eq!(payload.copy_to(&mut bytes), bytes.len());
        self.sent.push(bytes);
        Ok(())
    }

    fn receive_datagrams(&mut self, socket: SocketId, burst: &mut Burst) -> io::Result<()> {
        burst.clear();
        self.failed |= self.failure.is_some();
        self.fail()?;
        let open = self.open.get_mut(&socket).expect("an open socket");
        let received: Vec<_> = open.inbox.drain(..open.inbox.len().min(BURST)).collect();
        for (slot, (_, payload)) in burst.slots().zip(&received) {
            slot[..payload.len().min(65_507)].copy_from_slice(&payload[..payload.len().min(65_507)]);
        }
        for (datagram, payload) in &received {
            burst.received(*datagram, payload.len().min(65_507), None);
        }
        if received.is_empty() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    }

    fn receive_error(&mut self, socket: SocketId, quoted: &mut [u8]) -> io::Result<NetworkError> {
        let open = self.open.get_mut(&socket).expect("an open socket");
        let (error, bytes) = open.errors.pop_front().ok_or(io::ErrorKind::WouldBlock)?;
        let count = bytes.len().min(quoted.len());
        quoted[..count].copy_from_slice(&bytes[..count]);
        Ok(NetworkError { quoted_bytes: count, ..error })
    }

    fn join(&mut self, group: IpAddr, _: u32) -> io::Result<()> {
        self.fail()?;
        assert!(group.is_multicast() && self.groups.insert(group));
        Ok(())
    }

    fn leave(&mut self, group: IpAddr, _: u32) {
        assert!(self.groups.remove(&group));
    }

    fn close_datagrams(&mut self, socket: SocketId) {
        assert!(self.open.remove(&socket).is_some());
    }
}
