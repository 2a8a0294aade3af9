//! Clients of another implementation (smoltcp) get their addresses from ours over a wire that loses, doubles and
//! exchanges frames, in simulated time: DHCP with ARP, and router advertisements with neighbour discovery.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test")]

use std::collections::VecDeque;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use culvert_translate::guest::Guest;
use culvert_translate::ndp::Advertiser;
use culvert_translate::settings::{DEFAULT_MAC, Ipv4, Ipv6, Mapping, Services, Settings};
use culvert_translate::time::Instant;
use culvert_translate::{arp, dhcp, ndp};
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{dhcpv4, icmp};
use smoltcp::time::Instant as GuestInstant;
use smoltcp::wire::{EthernetAddress, Icmpv4Packet, Icmpv4Repr, IpCidr};

const GUEST_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, 0x0a);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

fn settings() -> Settings {
    let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    Settings {
        mac: DEFAULT_MAC,
        mtu: Some(1500),
        v4: Some(Ipv4 {
            address: "192.0.2.2/24".parse().unwrap(),
            gateway: GATEWAY,
            ours: GATEWAY,
            resolvers: vec![Ipv4Addr::new(192, 0, 2, 53)],
            mapping: Mapping { host_loopback: Some(GATEWAY), ..Mapping::default() },
        }),
        v6: Some(Ipv6 {
            address: "2001:db8::2".parse().unwrap(),
            gateway: link_local,
            link_local,
            interface_index: 2,
            resolvers: Vec::new(),
            mapping: Mapping { host_loopback: Some(link_local), ..Mapping::default() },
        }),
        search: vec!["example.org".to_owned()],
        hostname: None,
        fqdn: None,
        services: Services::default(),
    }
}

/// Frames on their way. Of 100, `trouble` are lost, and as many doubled or put behind the next.
struct Wire {
    to_guest: VecDeque<Vec<u8>>,
    from_guest: VecDeque<Vec<u8>>,
    trouble: u64,
    random: u64,
}

impl Wire {
    fn new(trouble: u64, seed: u64) -> Self {
        Self { to_guest: VecDeque::new(), from_guest: VecDeque::new(), trouble, random: seed * 2 + 1 }
    }

    fn chance(&mut self) -> bool {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % 100 < self.trouble
    }

    fn carry(&mut self, frame: Vec<u8>, is_for_guest: bool) {
        if self.chance() {
            return;
        }
        let (doubled, exchanged) = (self.chance(), self.chance());
        let queue = if is_for_guest { &mut self.to_guest } else { &mut self.from_guest };
        if doubled {
            queue.push_back(frame.clone());
        }
        queue.push_back(frame);
        if exchanged && queue.len() > 1 {
            let last = queue.len() - 1;
            queue.swap(last, last - 1);
        }
    }
}

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Transmit<'a>;

    fn receive(&mut self, _: GuestInstant) -> Option<(Received, Transmit<'_>)> {
        let frame = self.to_guest.pop_front()?;
        Some((Received(frame), Transmit(self)))
    }

    fn transmit(&mut self, _: GuestInstant) -> Option<Transmit<'_>> {
        Some(Transmit(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

struct Transmit<'a>(&'a mut Wire);

impl TxToken for Transmit<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut frame = vec![0; length];
        let result = f(&mut frame);
        self.0.carry(frame, false);
        result
    }
}

/// A guest, its translator, and the time.
struct Link {
    settings: Settings,
    guest: Guest,
    advertiser: Advertiser,
    wire: Wire,
    interface: Interface,
    sockets: SocketSet<'static>,
    start: Instant,
    now: Duration,
}

impl Link {
    /// `slaac`: the guest listens to router advertisements, for which it needs a link-local address.
    fn new(trouble: u64, seed: u64, slaac: bool) -> Self {
        let (settings, start, mut wire) = (settings(), Instant::now(), Wire::new(trouble, seed));
        let mut config = Config::new(EthernetAddress([2, 0, 0, 0, 0, 0x0a]).into());
        config.random_seed = seed;
        config.slaac = slaac;
        let interface = Interface::new(config, &mut wire, GuestInstant::ZERO);
        Self {
            guest: Guest::new(&settings),
            advertiser: Advertiser::new(start, seed),
            settings,
            wire,
            interface,
            sockets: SocketSet::new(Vec::new()),
            start,
            now: Duration::ZERO,
        }
    }

    /// Both ends have their turns until the guest has nothing to do, and then time goes on, at most by `most`.
    fn step(&mut self, most: Duration) {
        let guest_now = GuestInstant::from_micros(i64::try_from(self.now.as_micros()).unwrap());
        loop {
            self.interface.poll(guest_now, &mut self.wire, &mut self.sockets);
            let Self { settings, guest, wire, .. } = self;
            while let Some(frame) = wire.from_guest.pop_front() {
                guest.learn(settings, &frame);
                for answer in [arp::answer, ndp::answer, dhcp::answer] {
                    answer(settings, guest, &frame).into_iter().for_each(|frame| wire.carry(frame, true));
                }
            }
            if wire.to_guest.is_empty() {
                break;
            }
        }
        let now = self.start + self.now;
        if let Some(frame) = self.advertiser.poll(now, &self.settings, &self.guest) {
            self.wire.carry(frame, true);
        }
        let wait = self.interface.poll_delay(guest_now, &self.sockets).map_or(most, Duration::from);
        self.now += wait.clamp(Duration::from_millis(1), most);
    }
}

/// With 30 of 100 frames lost each way, an exchange of four succeeds once in four.
const TROUBLE: [u64; 4] = [0, 5, 15, 30];

#[test]
fn a_dhcp_client_gets_its_lease_and_finds_the_gateway() {
    for trouble in TROUBLE {
        for seed in 0..25 {
            let mut link = Link::new(trouble, seed, false);
            let client = link.sockets.add(dhcpv4::Socket::new());
            let lease = loop {
                link.step(Duration::from_secs(1));
                assert!(link.now < Duration::from_secs(3600), "trouble {trouble}, seed {seed}");
                match link.sockets.get_mut::<dhcpv4::Socket<'_>>(client).poll() {
                    Some(dhcpv4::Event::Configured(lease)) => {
                        break (lease.address, lease.router, lease.dns_servers.first().copied());
                    }
                    Some(dhcpv4::Event::Deconfigured) | None => {}
                }
            };
            assert_eq!(lease.0.to_string(), "192.0.2.2/24");
            assert_eq!((lease.1, lease.2), (Some(GATEWAY), Some(Ipv4Addr::new(192, 0, 2, 53))));
            link.interface.update_ip_addrs(|addresses| addresses.push(IpCidr::Ipv4(lease.0)).unwrap());
            link.interface.routes_mut().add_default_ipv4_route(GATEWAY).unwrap();
            asks_for_the_gateway(&mut link);
            assert_eq!((link.guest.v4, link.guest.mac.unwrap().0), ([192, 0, 2, 2].into(), [2, 0, 0, 0, 0, 0x0a]));
        }
    }
}

/// Sends echo requests until one has left for the gateway's address, which ARP must have found.
fn asks_for_the_gateway(link: &mut Link) {
    let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 4], vec![0; 512]);
    let echo = link.sockets.add(icmp::Socket::new(buffer(), buffer()));
    let socket = link.sockets.get_mut::<icmp::Socket<'_>>(echo);
    socket.bind(icmp::Endpoint::Ident(7)).unwrap();
    let request = Icmpv4Repr::EchoRequest { ident: 7, seq_no: 1, data: b"who" };
    let room = socket.send(request.buffer_len(), GATEWAY.into()).unwrap();
    request.emit(&mut Icmpv4Packet::new_unchecked(room), &link.wire.capabilities().checksum);
    let limit = link.now + Duration::from_secs(600);
    // It waits in the socket until the neighbour is known.
    while link.sockets.get_mut::<icmp::Socket<'_>>(echo).send_queue() > 0 {
        link.step(Duration::from_secs(1));
        assert!(link.now < limit);
    }
}

/// A day: the address and the route are there as soon as a router was heard, and stay.
#[test]
fn a_guest_that_hears_advertisements_keeps_its_address_and_its_route() {
    for trouble in TROUBLE {
        for seed in 0..5 {
            let mut link = Link::new(trouble, seed, true);
            link.interface.update_ip_addrs(|addresses| {
                addresses.push(IpCidr::new(GUEST_LINK_LOCAL.into(), 64)).unwrap();
            });
            let made: IpCidr = "2001:db8::ff:fe00:a/64".parse().unwrap();
            let mut since = None;
            while link.now < Duration::from_secs(86_400) {
                link.step(Duration::from_secs(60));
                let mut has_route = false;
                link.interface.routes_mut().update(|routes| {
                    has_route = routes.iter().any(|route| route.via_router == "fe80::1".parse().unwrap());
                });
                if link.interface.ip_addrs().contains(&made) && has_route {
                    since.get_or_insert(link.now);
                } else {
                    assert_eq!(since, None, "trouble {trouble}, seed {seed}: lost after {:?}", link.now);
                }
            }
            // The guest asks thrice, and the router tells of itself every ten minutes.
            assert!(since.is_some_and(|since| since < Duration::from_secs(3600)), "trouble {trouble}, seed {seed}");
        }
    }
}
