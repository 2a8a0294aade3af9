//! A guest of frames behind a translator with real sockets, in the test's own thread.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use culvert_frame::{MacAddress, Offload, Offloads, checksum};
use culvert_guest::{NetHeader, Packet};
use culvert_translate::forward::{Listen, Protocol};
use culvert_translate::limits::LimitSettings;
use culvert_translate::link::{Full, GuestLink};
use culvert_translate::settings::{DEFAULT_MAC, Ipv4, Ipv6, Mapping, Services, Settings};
use culvert_translate::socket::KernelSockets;
use culvert_translate::sockets::{Readiness, SocketId};
use culvert_translate::time::Instant;
use culvert_translate::translator::Translator;
use culvert_translate::transport::Reservation;
use etherparse::{IpFragOffset, IpHeaders, NetSlice, PacketBuilder, PacketBuilderStep, SlicedPacket, TransportSlice};
use mio::{Events, Poll};

const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 10]);

/// The guest, and its translator.
pub struct Guest {
    pub translator: Translator,
    sockets: KernelSockets,
    poll: Poll,
    link: Frames,
}

#[derive(Default)]
struct Frames(Vec<Vec<u8>>);

impl GuestLink for Frames {
    fn takes(&self) -> Offloads {
        Offloads::NONE
    }

    fn put(&mut self, offload: Offload, head: &[u8], payload: &[u8]) -> Result<(), Full> {
        let mut frame = [head, payload].concat();
        if let Offload::Checksum(partial) = offload {
            checksum::complete(&mut frame, partial);
        }
        self.0.push(frame);
        Ok(())
    }

    fn reserve(&mut self, _: Offload, _: &[u8], _: u32) -> Result<Option<Reservation<'_>>, Full> {
        Ok(None)
    }

    fn flush(&mut self) {}
}

/// What a frame says to the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub hop_limit: u8,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// From a port to a port.
    Udp(u16, u16, Vec<u8>),
    /// Type, code, and what follows.
    Icmp(u8, u8, Vec<u8>),
    Fragment(Vec<u8>),
    /// Requests of ARP, advertisements and the like.
    Other,
}

impl Guest {
    /// As the pod of [`crate::network`], with the MTU that it has.
    pub fn new() -> Self {
        let poll = Poll::new().unwrap();
        let settings = Settings {
            mac: DEFAULT_MAC,
            mtu: Some(1500),
            v4: Some(Ipv4 {
                address: "10.1.0.2/24".parse().unwrap(),
                gateway: Ipv4Addr::new(10, 1, 0, 1),
                ours: Ipv4Addr::new(10, 1, 0, 1),
                resolvers: Vec::new(),
                mapping: Mapping::default(),
            }),
            v6: Some(Ipv6 {
                address: "fd00:1::2".parse().unwrap(),
                gateway: "fe80::1".parse().unwrap(),
                link_local: "fe80::1".parse().unwrap(),
                interface_index: 2,
                resolvers: Vec::new(),
                mapping: Mapping::default(),
            }),
            search: Vec::new(),
            hostname: None,
            fqdn: None,
            services: Services::default(),
        };
        Self {
            translator: Translator::new(settings, LimitSettings::default(), Instant::now(), 1),
            sockets: KernelSockets::new(poll.registry().try_clone().unwrap()).unwrap(),
            poll,
            link: Frames::default(),
        }
    }

    pub fn forward_udp(&mut self, port: u16, target_port: u16) {
        let (protocol, address, interface, target) = (Protocol::Udp, None, None, None);
        let listen = Listen { protocol, address, interface, port, target, target_port, strict: true };
        self.translator.open_forward(&listen, false, &mut self.sockets).unwrap();
    }

    /// Sends a frame.
    pub fn frame(&mut self, frame: &[u8]) {
        let packet = Packet::of_bytes(NetHeader::default(), frame);
        let now = Instant::now();
        self.translator.frame(now, &packet, Offload::None, &mut self.sockets, &mut self.link);
        self.translator.finish(now, &mut self.sockets, &mut self.link);
    }

    pub fn udp(&mut self, from: &str, to: &str, hop_limit: u8, payload: &[u8]) {
        let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
        let mut frame = Vec::new();
        let ip = builder(from.ip(), to.ip(), hop_limit);
        ip.udp(from.port(), to.port()).write(&mut frame, payload).unwrap();
        self.frame(&frame);
    }

    /// As if so much time had gone.
    pub fn wait(&mut self, time: Duration) {
        self.translator.finish(Instant::now() + time, &mut self.sockets, &mut self.link);
    }

    pub fn ping(&mut self, to: &str, hop_limit: u8, identifier: u16, payload: &[u8]) {
        let to: IpAddr = to.parse().unwrap();
        let mut frame = Vec::new();
        if to.is_ipv4() {
            let ip = builder(Ipv4Addr::new(10, 1, 0, 2).into(), to, hop_limit);
            ip.icmpv4_echo_request(identifier, 1).write(&mut frame, payload).unwrap();
        } else {
            let ip = builder("fd00:1::2".parse().unwrap(), to, hop_limit);
            ip.icmpv6_echo_request(identifier, 1).write(&mut frame, payload).unwrap();
        }
        self.frame(&frame);
    }

    /// What the guest hears next; waits for it.
    pub fn hear(&mut self) -> Heard {
        loop {
            while !self.link.0.is_empty() {
                let heard = heard(&self.link.0.remove(0));
                if heard.what != What::Other {
                    return heard;
                }
            }
            let mut events = Events::with_capacity(16);
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                result => result.unwrap(),
            }
            let now = Instant::now();
            for event in &events {
                let id = SocketId::from_token(event.token().0).unwrap();
                let (writable, failed) = (event.is_writable(), event.is_error());
                let ready = Readiness { readable: true, writable, failed, stops: true };
                self.translator.socket_event(now, id, ready, &mut self.sockets, &mut self.link);
            }
            self.translator.finish(now, &mut self.sockets, &mut self.link);
        }
    }

    /// The next datagram: who sent it, and what; put together if it came in fragments.
    pub fn hear_udp(&mut self) -> (SocketAddr, Vec<u8>) {
        let mut parts = Vec::new();
        loop {
            let heard = self.hear();
            match heard.what {
                What::Udp(from, _, payload) => return (SocketAddr::new(heard.source, from), payload),
                What::Fragment(part) => {
                    parts.extend(part);
                    let length = usize::from(u16::from_be_bytes([parts[4], parts[5]]));
                    if parts.len() == length {
                        let from = u16::from_be_bytes([parts[0], parts[1]]);
                        return (SocketAddr::new(heard.source, from), parts[8..].to_vec());
                    }
                }
                What::Icmp(..) | What::Other => panic!("{heard:?}"),
            }
        }
    }
}

pub fn builder(from: IpAddr, to: IpAddr, hop_limit: u8) -> PacketBuilderStep<IpHeaders> {
    let ethernet = PacketBuilder::ethernet2(MAC.0, DEFAULT_MAC.0);
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), hop_limit),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), hop_limit),
        _ => panic!("two families"),
    }
}

/// A UDP datagram in fragments of IPv4, as the guest sends it: frames.
pub fn fragments(from: &str, to: &str, payload: &[u8]) -> Vec<Vec<u8>> {
    let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
    let mut whole = Vec::new();
    builder(from.ip(), to.ip(), 64).udp(from.port(), to.port()).write(&mut whole, payload).unwrap();
    let datagram = &whole[34..];
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (from.ip(), to.ip()) else { panic!("of IPv4") };
    let parts = datagram.chunks(1480).enumerate();
    parts
        .map(|(number, part)| {
            let mut header = etherparse::Ipv4Header::new(
                u16::try_from(part.len()).unwrap(),
                64,
                etherparse::IpNumber::UDP,
                source.octets(),
                destination.octets(),
            )
            .unwrap();
            header.identification = 7;
            header.dont_fragment = false;
            header.more_fragments = (number + 1) * 1480 < datagram.len();
            header.fragment_offset = IpFragOffset::try_new(u16::try_from(number * 185).unwrap()).unwrap();
            header.header_checksum = header.calc_header_checksum();
            [&whole[..14], &header.to_bytes(), part].concat()
        })
        .collect()
}

fn heard(frame: &[u8]) -> Heard {
    let other = |address: IpAddr| Heard { source: address, destination: address, hop_limit: 0, what: What::Other };
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let (source, destination, hop_limit, payload, is_fragment): (IpAddr, IpAddr, _, _, _) = match &sliced.net {
        Some(NetSlice::Ipv4(v4)) => {
            let header = v4.header();
            let is_fragment = header.is_fragmenting_payload();
            let (source, destination) = (header.source_addr().into(), header.destination_addr().into());
            (source, destination, header.ttl(), v4.payload().payload, is_fragment)
        }
        Some(NetSlice::Ipv6(v6)) => {
            let header = v6.header();
            let (source, destination) = (header.source_addr().into(), header.destination_addr().into());
            (source, destination, header.hop_limit(), v6.payload().payload, v6.is_payload_fragmented())
        }
        _ => return other(Ipv6Addr::UNSPECIFIED.into()),
    };
    let what = match sliced.transport {
        _ if is_fragment => What::Fragment(payload.to_vec()),
        Some(TransportSlice::Udp(udp)) => What::Udp(udp.source_port(), udp.destination_port(), udp.payload().to_vec()),
        // Neighbour discovery is of no interest.
        Some(TransportSlice::Icmpv6(icmp)) if icmp.slice()[0] > 129 => What::Other,
        Some(TransportSlice::Icmpv4(icmp)) => What::Icmp(icmp.slice()[0], icmp.slice()[1], icmp.payload().to_vec()),
        Some(TransportSlice::Icmpv6(icmp)) => What::Icmp(icmp.slice()[0], icmp.slice()[1], icmp.payload().to_vec()),
        _ => What::Other,
    };
    Heard { source, destination, hop_limit, what }
}
