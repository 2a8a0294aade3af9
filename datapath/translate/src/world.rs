//! A world for tests: simulated sockets that remember what they were asked for, and a guest that reads what it is sent
//! with an independent parser. What sockets receive, tests put there. TCP's are in [`streams`]; tests of one connection
//! have a world of their own (`tcp/tests`).

pub mod streams;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use culvert_frame::{Offload, Offloads, checksum};
use culvert_guest::{NetHeader, Packet};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};

use crate::context::{Context, SCRATCH_BYTES};
use crate::guest::Guest;
use crate::icmp_error::Budget;
use crate::limits::{LimitSettings, Limits};
use crate::link::{Full, GuestLink};
use crate::mapping::Outbound;
use crate::packet::{Content, IpPacket, Payload, internet_checksum, parse};
use crate::refusal::{Counters, Refusal};
use crate::samples;
use crate::settings::Settings;
use crate::sockets::datagram::{BURST, Burst, Datagram, DatagramSockets, Marks, NetworkError, UdpWish};
use crate::sockets::{Host, ListenAt, SocketId};
use crate::time::Instant;
use crate::transport::Reservation;

/// Everything that a [`Context`] lends.
pub struct World {
    pub now: Instant,
    pub settings: Settings,
    pub guest: Guest,
    pub sockets: Simulated,
    pub link: Frames,
    pub limits: Limits,
    pub errors: Budget,
    pub counters: Counters,
    scratch: Vec<u8>,
}

impl World {
    /// The sample network, and a guest that was heard.
    pub fn new() -> Self {
        let settings = samples::settings();
        let mut guest = Guest::new(&settings);
        guest.mac = Some(samples::GUEST_MAC);
        Self {
            now: Instant::now(),
            settings,
            guest,
            sockets: Simulated::default(),
            link: Frames { takes: Offloads::NONE, is_there: false, room: usize::MAX, frames: Vec::new() },
            limits: Limits::new(LimitSettings::default()),
            errors: Budget::default(),
            counters: Counters::default(),
            scratch: vec![0; SCRATCH_BYTES],
        }
    }

    pub fn context(&mut self) -> Context<'_, Simulated, Frames> {
        Context {
            now: self.now,
            settings: &self.settings,
            guest: &self.guest,
            sockets: &mut self.sockets,
            link: &mut self.link,
            limits: &mut self.limits,
            errors: &mut self.errors,
            lane: None,
            counters: &mut self.counters,
            scratch: &mut self.scratch,
        }
    }

    pub fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    /// The frames that the guest was sent since the last time, each checked.
    pub fn heard(&mut self) -> Vec<Heard> {
        std::mem::take(&mut self.link.frames).into_iter().map(Heard::of).collect()
    }

    pub fn refused(&self, reason: Refusal) -> u64 {
        self.counters.refused(reason)
    }
}

/// Frames to the guest.
pub struct Frames {
    pub takes: Offloads,
    /// Whether it tells when it has room again.
    pub is_there: bool,
    pub room: usize,
    pub frames: Vec<(Offload, Vec<u8>)>,
}

impl GuestLink for Frames {
    fn takes(&self) -> Offloads {
        self.takes
    }

    fn put(&mut self, offload: Offload, head: &[u8], payload: &[u8]) -> Result<(), Full> {
        if self.frames.len() >= self.room {
            return Err(Full);
        }
        self.frames.push((offload, [head, payload].concat()));
        Ok(())
    }

    fn reserve(&mut self, _: Offload, _: &[u8], _: u32) -> Result<Option<Reservation<'_>>, Full> {
        Ok(None)
    }

    fn is_full(&self) -> bool {
        self.is_there && self.frames.len() >= self.room
    }

    fn is_there(&self) -> bool {
        self.is_there
    }

    fn flush(&mut self) {}
}

/// What a frame says to the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    pub frame: Vec<u8>,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub marks: Marks,
    /// Behind the IP headers; a fragment's part.
    pub packet: Vec<u8>,
    pub is_fragment: bool,
    /// UDP's ports, from and to.
    pub ports: Option<(u16, u16)>,
    /// UDP's payload, or an ICMP message's behind its eight bytes.
    pub payload: Vec<u8>,
}

impl Heard {
    fn of((offload, mut frame): (Offload, Vec<u8>)) -> Self {
        if let Offload::Checksum(partial) = offload {
            checksum::complete(&mut frame, partial);
        }
        let sliced = SlicedPacket::from_ethernet(&frame).unwrap();
        let (source, destination, marks, packet, is_fragment) = match sliced.net.as_ref().unwrap() {
            NetSlice::Ipv4(v4) => {
                let header = v4.header();
                assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum());
                let marks = Marks { hop_limit: header.ttl(), traffic_class: header.slice()[1] };
                let (source, destination) = (header.source_addr().into(), header.destination_addr().into());
                (source, destination, marks, v4.payload().payload.to_vec(), header.is_fragmenting_payload())
            }
            NetSlice::Ipv6(v6) => {
                let header = v6.header();
                let marks = Marks { hop_limit: header.hop_limit(), traffic_class: header.traffic_class() };
                let (source, destination) = (header.source_addr().into(), header.destination_addr().into());
                (source, destination, marks, v6.payload().payload.to_vec(), v6.is_payload_fragmented())
            }
            NetSlice::Arp(_) => panic!("no ARP here"),
        };
        let (mut ports, mut payload) = (None, Vec::new());
        if !is_fragment {
            match sliced.transport.as_ref().unwrap() {
                TransportSlice::Udp(udp) => {
                    let header = udp.to_header();
                    let calculated = match sliced.net.as_ref().unwrap() {
                        NetSlice::Ipv4(v4) => header.calc_checksum_ipv4(&v4.header().to_header(), udp.payload()),
                        NetSlice::Ipv6(v6) => header.calc_checksum_ipv6(&v6.header().to_header(), udp.payload()),
                        NetSlice::Arp(_) => panic!("no ARP here"),
                    };
                    assert_eq!(header.checksum, calculated.unwrap());
                    (ports, payload) = (Some((header.source_port, header.destination_port)), udp.payload().to_vec());
                }
                TransportSlice::Icmpv4(icmp) => {
                    let calculated = icmp.icmp_type().calc_checksum(icmp.payload());
                    assert_eq!(icmp.checksum(), calculated);
                    payload = icmp.payload().to_vec();
                }
                TransportSlice::Icmpv6(icmp) => {
                    let (IpAddr::V6(from), IpAddr::V6(to)) = (source, destination) else { panic!("ICMPv6 in IPv4") };
                    assert!(icmp.is_checksum_valid(from.octets(), to.octets()));
                    payload = icmp.payload().to_vec();
                }
                other => panic!("{other:?}"),
            }
        }
        Self { source, destination, marks, packet, is_fragment, ports, payload, frame: frame.clone() }
    }

    pub fn mac(&self) -> &[u8] {
        &self.frame[..6]
    }
}

/// Sockets that remember.
#[derive(Default)]
pub struct Simulated {
    pub open: BTreeMap<SocketId, Socket>,
    pub groups: BTreeSet<IpAddr>,
    /// Errors of the next calls that open a socket.
    pub open_errors: VecDeque<i32>,
    /// Errors of the next calls that send.
    pub send_errors: VecDeque<i32>,
    /// Ports and identifiers that others have.
    pub taken: BTreeSet<u16>,
    pub closed: usize,
    /// The machine's own addresses.
    pub own: BTreeSet<IpAddr>,
    pub streams: streams::Streams,
}

/// A socket, and what happened to it.
#[derive(Default)]
pub struct Socket {
    pub local: Option<SocketAddr>,
    pub peer: Option<SocketAddr>,
    pub interface: Option<String>,
    pub sent: Vec<Sent>,
    pub inbox: VecDeque<(Datagram, Vec<u8>)>,
    pub errors: VecDeque<(NetworkError, Vec<u8>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub payload: Vec<u8>,
    pub segment: Option<u16>,
    pub to: Option<SocketAddr>,
    pub marks: Marks,
}

impl Simulated {
    pub fn udp(&mut self, index: u32) -> &mut Socket {
        self.open.get_mut(&SocketId::Udp(index)).unwrap()
    }

    pub fn echo(&mut self, index: u32) -> &mut Socket {
        self.open.get_mut(&SocketId::Echo(index)).unwrap()
    }

    pub fn listener(&mut self) -> &mut Socket {
        self.open.entry(SocketId::UdpListener(0)).or_default()
    }

    fn open(&mut self, id: SocketId, socket: Socket) -> io::Result<()> {
        if let Some(error) = self.open_errors.pop_front() {
            return Err(io::Error::from_raw_os_error(error));
        }
        assert!(self.open.insert(id, socket).is_none(), "{id:?} is open already");
        Ok(())
    }
}

impl Host for Simulated {
    fn has_address(&mut self, address: SocketAddr) -> bool {
        self.own.contains(&address.ip())
    }
}

impl DatagramSockets for Simulated {
    fn open_udp(&mut self, index: u32, wish: &UdpWish<'_>) -> io::Result<SocketAddr> {
        let mut local = wish.local;
        if wish.any_port && (self.taken.contains(&local.port()) || local.port() == 0) {
            local.set_port(40_000 + u16::try_from(index).unwrap());
        }
        let interface = wish.interface.map(str::to_owned);
        self.open(
            SocketId::Udp(index),
            Socket { local: Some(local), peer: wish.peer, interface, ..Socket::default() },
        )?;
        Ok(local)
    }

    fn open_udp_listener(&mut self, index: u32, _at: &ListenAt<'_>) -> io::Result<()> {
        self.open(SocketId::UdpListener(index), Socket::default())
    }

    fn open_echo(&mut self, index: u32, v6: bool, identifier: u16, outbound: Outbound<'_>) -> io::Result<u16> {
        let identifier = if identifier == 0 || self.taken.contains(&identifier) { 40_000 } else { identifier };
        let any: IpAddr = if v6 { "::".parse().unwrap() } else { "0.0.0.0".parse().unwrap() };
        let local = Some(SocketAddr::new(outbound.address.unwrap_or(any), identifier));
        let interface = outbound.interface.map(str::to_owned);
        self.open(SocketId::Echo(index), Socket { local, interface, ..Socket::default() })?;
        Ok(identifier)
    }

    fn send_datagram(
        &mut self,
        socket: SocketId,
        payload: Payload<'_>,
        segment: Option<u16>,
        to: Option<SocketAddr>,
        marks: Marks,
    ) -> io::Result<()> {
        let socket = self.open.get_mut(&socket).expect("an open socket");
        assert!(socket.peer.is_none() || to.is_none());
        if let Some(error) = self.send_errors.pop_front() {
            return Err(io::Error::from_raw_os_error(error));
        }
        let mut bytes = vec![0; payload.length() as usize];
        payload.copy_to(&mut bytes);
        socket.sent.push(Sent { payload: bytes, segment, to, marks });
        Ok(())
    }

    fn receive_datagrams(&mut self, socket: SocketId, burst: &mut Burst) -> io::Result<()> {
        burst.clear();
        let socket = self.open.get_mut(&socket).expect("an open socket");
        let received: Vec<_> = socket.inbox.drain(..socket.inbox.len().min(BURST)).collect();
        for (slot, (_, payload)) in burst.slots().zip(&received) {
            slot[..payload.len()].copy_from_slice(payload);
        }
        for (datagram, payload) in &received {
            burst.received(*datagram, payload.len(), None);
        }
        if received.is_empty() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    }

    fn receive_error(&mut self, socket: SocketId, quoted: &mut [u8]) -> io::Result<NetworkError> {
        let socket = self.open.get_mut(&socket).expect("an open socket");
        let (error, bytes) = socket.errors.pop_front().ok_or(io::ErrorKind::WouldBlock)?;
        let count = bytes.len().min(quoted.len());
        quoted[..count].copy_from_slice(&bytes[..count]);
        Ok(NetworkError { quoted_bytes: count, ..error })
    }

    fn join(&mut self, group: IpAddr, _interface: u32) -> io::Result<()> {
        assert!(self.groups.insert(group), "{group} was joined already");
        Ok(())
    }

    fn leave(&mut self, group: IpAddr, _interface: u32) {
        assert!(self.groups.remove(&group), "{group} was not joined");
    }

    fn close_datagrams(&mut self, socket: SocketId) {
        assert!(self.open.remove(&socket).is_some(), "{socket:?} is not open");
        self.closed += 1;
    }
}

/// An address with a port.
pub fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A datagram as a socket receives it.
pub fn datagram(source: &str) -> Datagram {
    Datagram { source: at(source), destination: None, local: None, marks: Marks { hop_limit: 57, traffic_class: 2 } }
}

/// A frame of the guest's up to its IP header.
pub fn builder(from: IpAddr, to: IpAddr) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    let ethernet = PacketBuilder::ethernet2(samples::GUEST_MAC.0, crate::settings::DEFAULT_MAC.0);
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ip(etherparse::IpHeaders::Ipv4(
            etherparse::Ipv4Header {
                source: from.octets(),
                destination: to.octets(),
                time_to_live: 61,
                dscp: etherparse::IpDscp::try_new(10).unwrap(),
                ..etherparse::Ipv4Header::default()
            },
            etherparse::Ipv4Extensions::default(),
        )),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ip(etherparse::IpHeaders::Ipv6(
            etherparse::Ipv6Header {
                source: from.octets(),
                destination: to.octets(),
                hop_limit: 61,
                traffic_class: 40,
                ..etherparse::Ipv6Header::default()
            },
            etherparse::Ipv6Extensions::default(),
        )),
        _ => panic!("two families"),
    }
}

/// What [`builder`] gives packets.
pub const GUEST_MARKS: Marks = Marks { hop_limit: 61, traffic_class: 40 };

/// A UDP frame of the guest's.
pub fn udp_frame(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    builder(from.ip(), to.ip()).udp(from.port(), to.port()).write(&mut frame, payload).unwrap();
    frame
}

/// A TCP frame of the guest's.
pub fn tcp_frame(from: SocketAddr, to: SocketAddr, header: etherparse::TcpHeader, payload: &[u8]) -> Vec<u8> {
    let header = etherparse::TcpHeader { source_port: from.port(), destination_port: to.port(), ..header };
    let mut frame = Vec::new();
    builder(from.ip(), to.ip()).tcp_header(header).write(&mut frame, payload).unwrap();
    frame
}

/// A frame of the guest's with any payload behind the IP header.
pub fn ip_frame(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    // The builder knows what must follow some protocols' numbers: tell it of another.
    builder(from, to).write(&mut frame, etherparse::IpNumber::EXPERIMENTAL_AND_TESTING_0, payload).unwrap();
    if from.is_ipv4() {
        frame[14 + 9] = protocol;
        frame[24..26].fill(0);
        let checksum = internet_checksum(&frame[14..34]).to_be_bytes();
        frame[24..26].copy_from_slice(&checksum);
    } else {
        frame[14 + 6] = protocol;
    }
    frame
}

/// Hands a frame of the guest's to `call`, parsed.
pub fn with_packet<T>(frame: &[u8], call: impl FnOnce(&IpPacket<'_>) -> T) -> T {
    let packet = Packet::of_bytes(NetHeader::default(), frame);
    match parse(&packet).unwrap() {
        Content::Ip(ip) => call(&ip),
        Content::Arp => panic!("ARP"),
    }
}
