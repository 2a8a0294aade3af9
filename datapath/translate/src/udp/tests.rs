//! Flows of datagrams in a simulated world.

use culvert_frame::Offloads;
use etherparse::{Icmpv4Type, Icmpv6Type, icmpv4};

use super::*;
use crate::head::{ICMP, ICMPV6};
use crate::limits::{LimitSettings, Limits};
use crate::samples::GUEST_MAC;
use crate::sockets::datagram::{BURST, BURSTS, Cause, NetworkError};
use crate::world::{GUEST_MARKS, Heard, World, at, datagram, ip_frame, udp_frame, with_packet};

const GUEST: &str = "192.0.2.2:5000";
const PEER: &str = "198.51.100.7:7000";
const GUEST6: &str = "[2001:db8::2]:5000";
const PEER6: &str = "[2001:db8:1::7]:7000";

/// A world with UDP in it.
struct Udp {
    world: World,
    flows: UdpFlows,
    groups: Groups,
}

impl Udp {
    fn new() -> Self {
        Self::with(UdpSettings::default())
    }

    fn with(settings: UdpSettings) -> Self {
        Self { world: World::new(), flows: UdpFlows::new(settings), groups: Groups::default() }
    }

    fn send(&mut self, from: &str, to: &str, payload: &[u8]) -> Result<(), Refusal> {
        self.frame(&udp_frame(at(from), at(to), payload), None)
    }

    fn frame(&mut self, frame: &[u8], segment: Option<u16>) -> Result<(), Refusal> {
        let result = with_packet(frame, |ip| self.flows.from_guest(&mut self.world.context(), ip, segment));
        self.flows.flush(&mut self.world.context());
        result
    }

    /// A peer answers in flow `index`.
    fn answer(&mut self, index: u32, from: &str, payload: &[u8]) {
        self.world.sockets.udp(index).inbox.push_back((datagram(from), payload.to_vec()));
        assert!(!self.flows.from_socket(&mut self.world.context(), index, true));
    }

    /// A datagram arrives at a forwarded port.
    fn arrive(&mut self, from: &str, to: &str, target: Target, payload: &[u8]) {
        let (destination, local) = (Some(at(to)), Some(at("192.0.2.2:53")));
        let arrived = Datagram { destination, local, ..datagram(from) };
        self.world.sockets.listener().inbox.push_back((arrived, payload.to_vec()));
        assert!(!self.flows.from_listener(&mut self.world.context(), &self.groups, 0, &target));
    }

    fn heard(&mut self) -> Vec<Heard> {
        self.world.heard()
    }

    fn expire(&mut self) {
        self.flows.expire(&mut self.world.context());
    }

    fn assert_consistent(&self) {
        assert_eq!(self.flows.len(), self.world.limits.in_use() as usize);
        let open = self.world.sockets.open.keys().filter(|id| matches!(id, SocketId::Udp(_))).count();
        assert_eq!(self.flows.len(), open);
        let groups: u32 = self.flows.group_ports.values().sum();
        assert_eq!(self.flows.len(), self.flows.taken.len() + groups as usize);
    }
}

#[test]
fn out_and_back() {
    for (guest, peer) in [(GUEST, PEER), (GUEST6, PEER6)] {
        let mut udp = Udp::new();
        udp.send(guest, peer, b"hello").unwrap();
        let socket = udp.world.sockets.udp(0);
        assert_eq!((socket.local.unwrap().port(), socket.peer), (5000, Some(at(peer))));
        let sent = socket.sent.pop().unwrap();
        assert_eq!((&sent.payload[..], sent.segment, sent.to, sent.marks), (&b"hello"[..], None, None, GUEST_MARKS));

        for payload in [&b"and back"[..], b"", &[9; 1400]] {
            udp.answer(0, peer, payload);
            let [heard] = &udp.heard()[..] else { panic!("one frame") };
            assert_eq!((heard.source, heard.destination), (at(peer).ip(), at(guest).ip()));
            assert_eq!((heard.ports, &heard.payload[..]), (Some((7000, 5000)), payload));
            assert_eq!((heard.mac(), heard.marks), (&GUEST_MAC.0[..], datagram(peer).marks));
        }
        udp.send(guest, peer, b"").unwrap();
        assert_eq!(udp.flows.len(), 1);
        assert_eq!(udp.world.counters.udp_flows, 1);
        udp.assert_consistent();
    }
}

#[test]
fn what_is_sent_in_one_round_leaves_by_one_call_in_its_order() {
    let mut udp = Udp::new();
    let round = |udp: &mut Udp, datagrams: &[(&str, usize)]| {
        for &(peer, bytes) in datagrams {
            let frame = udp_frame(at(GUEST), at(peer), &vec![3; bytes]);
            with_packet(&frame, |ip| udp.flows.from_guest(&mut udp.world.context(), ip, None)).unwrap();
        }
        udp.flows.flush(&mut udp.world.context());
    };
    let other = "198.51.100.8:7000";
    round(
        &mut udp,
        &[(PEER, 100), (PEER, 100), (PEER, 60), (PEER, 60), (other, 60), (PEER, 0), (PEER, 60), (PEER, 90)],
    );
    let sent = |udp: &mut Udp, index| {
        let sent = std::mem::take(&mut udp.world.sockets.udp(index).sent);
        sent.iter().map(|sent| (sent.payload.len(), sent.segment)).collect::<Vec<_>>()
    };
    assert_eq!(sent(&mut udp, 0), [(260, Some(100)), (60, None), (0, None), (60, None), (90, None)]);
    assert_eq!(sent(&mut udp, 1), [(60, None)]);
    // A flow that ends has sent what it had.
    let frame = udp_frame(at(GUEST), at(PEER), b"last");
    with_packet(&frame, |ip| udp.flows.from_guest(&mut udp.world.context(), ip, None)).unwrap();
    udp.flows.make_room(&mut udp.world.context());
    udp.flows.make_room(&mut udp.world.context());
    assert_eq!(udp.flows.train.content(), None);
    udp.assert_consistent();
}

#[test]
fn bytes_behind_the_datagram_are_not_sent() {
    let mut udp = Udp::new();
    let datagram = [0x13, 0x88, 0x1b, 0x58, 0, 10, 0, 0, b'o', b'k', b'n', b'o'];
    let frame = ip_frame(at(GUEST).ip(), at(PEER).ip(), UDP, &datagram);
    udp.frame(&frame, None).unwrap();
    assert_eq!(udp.world.sockets.udp(0).sent[0].payload, b"ok");
}

#[test]
fn the_gateway_leads_to_the_hosts_loopback_and_back() {
    let mut udp = Udp::new();
    udp.send(GUEST, "192.0.2.1:53", b"q").unwrap();
    assert_eq!(udp.world.sockets.udp(0).peer, Some(at("127.0.0.1:53")));
    udp.answer(0, "127.0.0.1:53", b"a");
    assert_eq!(udp.heard()[0].source, at("192.0.2.1:53").ip());
}

#[test]
fn sockets_are_bound_as_configured() {
    let mut udp = Udp::new();
    let mapping = &mut udp.world.settings.v4.as_mut().unwrap().mapping;
    mapping.outbound_address = Some("192.0.2.99".parse().unwrap());
    mapping.outbound_interface = Some("eth1".to_owned());
    udp.send(GUEST, PEER, b"x").unwrap();
    let socket = udp.world.sockets.udp(0);
    assert_eq!((socket.local, socket.interface.as_deref()), (Some(at("192.0.2.99:5000")), Some("eth1")));
    udp.send(GUEST, "192.0.2.1:53", b"x").unwrap();
    assert_eq!(udp.world.sockets.udp(1).interface, None, "the loopback is not there");
}

#[test]
fn two_flows_that_the_kernel_could_not_tell_apart_have_ports_of_their_own() {
    let mut udp = Udp::new();
    let mapping = &mut udp.world.settings.v4.as_mut().unwrap().mapping;
    mapping.dns_forward = Some("192.0.2.3".parse().unwrap());
    mapping.dns_host = Some("198.51.100.53".parse().unwrap());
    udp.send(GUEST, "192.0.2.3:53", b"x").unwrap();
    udp.send(GUEST, "198.51.100.53:53", b"x").unwrap();
    let [one, other] = [0, 1].map(|index| udp.world.sockets.udp(index).local.unwrap().port());
    assert_eq!(one, 5000);
    assert_ne!(other, 5000);
    udp.answer(0, "198.51.100.53:53", b"a");
    udp.answer(1, "198.51.100.53:53", b"b");
    let sources: Vec<_> = udp.heard().iter().map(|heard| heard.source.to_string()).collect();
    assert_eq!(sources, ["192.0.2.3", "198.51.100.53"]);
    udp.assert_consistent();
}

#[test]
fn flows_end_after_30_seconds_and_streams_after_120() {
    let mut udp = Udp::new();
    assert_eq!(udp.flows.deadline(), None);
    udp.send(GUEST, PEER, b"x").unwrap();
    udp.send("192.0.2.2:6000", PEER, b"x").unwrap();
    udp.answer(1, PEER, b"y");
    assert_eq!(udp.flows.deadline(), Some(udp.world.now + Duration::from_secs(30)));
    udp.world.wait(29);
    udp.expire();
    assert_eq!(udp.flows.len(), 2);
    udp.send(GUEST, PEER, b"x").unwrap();
    udp.world.wait(29);
    udp.expire();
    assert_eq!(udp.flows.len(), 2, "it was used again");
    udp.world.wait(1);
    udp.expire();
    assert_eq!(udp.flows.iter().map(|ends| ends.guest.port()).collect::<Vec<_>>(), [6000]);
    assert_eq!(udp.flows.deadline(), Some(udp.world.now + Duration::from_secs(61)));
    udp.world.wait(61);
    udp.expire();
    assert!(udp.flows.is_empty());
    assert_eq!(udp.flows.deadline(), None);
    udp.assert_consistent();
    // An event that comes late, and a new flow in the old one's place.
    assert!(!udp.flows.from_socket(&mut udp.world.context(), 0, true));
    udp.send(GUEST, PEER, b"x").unwrap();
    assert_eq!(udp.flows.len(), 1);
}

#[test]
fn a_day_of_questions_leaves_nothing() {
    let mut udp = Udp::new();
    for second in 0..86_400_u32 {
        let guest = format!("192.0.2.2:{}", 1024 + second % 60_000);
        udp.send(&guest, "198.51.100.53:53", b"q").unwrap();
        let index = udp.flows.flows.find(&FlowEnds { guest: at(&guest), peer: at("198.51.100.53:53") }).unwrap();
        udp.answer(index, "198.51.100.53:53", b"a");
        udp.world.link.frames.clear();
        udp.world.wait(1);
        udp.expire();
        assert!(udp.flows.len() <= 120);
    }
    udp.world.wait(120);
    udp.expire();
    udp.assert_consistent();
    assert!(udp.flows.is_empty());
    assert!(udp.flows.flows.capacity() <= 256);
}

/// N10: 10^5 five-tuples.
#[test]
fn the_flow_that_was_used_longest_ago_makes_room() {
    let mut udp = Udp::with(UdpSettings { flows: 100, ..UdpSettings::default() });
    udp.world.limits = Limits::new(LimitSettings { burst: 200_000, ..LimitSettings::default() });
    udp.send("192.0.2.2:1", PEER, b"x").unwrap();
    udp.answer(0, PEER, b"y");
    for number in 0..100_000_u32 {
        let peer = format!("10.{}.{}.{}:9", number >> 16, number >> 8 & 255, number & 255);
        udp.send("192.0.2.2:2", &peer, b"x").unwrap();
        assert!(udp.flows.len() <= 100);
    }
    udp.assert_consistent();
    assert_eq!(udp.flows.len(), 100);
    let has = |port| udp.flows.iter().any(|ends| ends.guest.port() == port);
    assert!(has(1), "a stream stays when there are others");
    assert_eq!(udp.world.sockets.closed, 100_001 - 100);
}

#[test]
fn other_protocols_keep_their_share() {
    let limits = |flows| UdpSettings::within(&LimitSettings { flows, ..LimitSettings::default() }).flows;
    assert_eq!((limits(1000), limits(1_000_000)), (500, UdpSettings::default().flows));
}

#[test]
fn n10_opening_too_fast_is_refused() {
    let mut udp = Udp::new();
    udp.world.limits = Limits::new(LimitSettings { flows: 10, new_flows: 1, burst: 2 });
    for port in [1, 2] {
        udp.send(&format!("192.0.2.2:{port}"), PEER, b"x").unwrap();
    }
    assert_eq!(udp.send("192.0.2.2:3", PEER, b"x"), Err(Refusal::TooFast));
    udp.send("192.0.2.2:1", PEER, b"x").unwrap();
    udp.world.wait(1);
    udp.send("192.0.2.2:3", PEER, b"x").unwrap();
    udp.assert_consistent();
}

/// N7.
#[test]
fn without_descriptors_a_flow_makes_room_or_the_guest_is_told() {
    let mut udp = Udp::new();
    udp.send("192.0.2.2:1", PEER, b"x").unwrap();
    udp.world.sockets.open_errors.push_back(libc::EMFILE);
    udp.send("192.0.2.2:2", PEER, b"x").unwrap();
    assert_eq!(udp.flows.iter().map(|ends| ends.guest.port()).collect::<Vec<_>>(), [2]);
    udp.assert_consistent();
    udp.world.sockets.open_errors.extend([libc::EMFILE, libc::EMFILE]);
    assert_eq!(udp.send("192.0.2.2:3", PEER, b"x"), Err(Refusal::NoDescriptor));
    assert!(udp.flows.is_empty());
    udp.assert_consistent();
    assert_eq!(unreachable(&udp.heard()[0]), (icmpv4::CODE_DST_UNREACH_HOST, 3));
    // All flows are TCP's.
    udp.world.limits = Limits::new(LimitSettings { flows: 0, ..LimitSettings::default() });
    assert_eq!(udp.send("192.0.2.2:3", PEER, b"x"), Err(Refusal::TooManyFlows));
    udp.assert_consistent();
}

/// The code and the guest's port, of "destination unreachable" about a UDP datagram.
fn unreachable(heard: &Heard) -> (u8, u16) {
    let sliced = etherparse::SlicedPacket::from_ethernet(&heard.frame).unwrap();
    let (kind, quote) = match sliced.transport.unwrap() {
        etherparse::TransportSlice::Icmpv4(icmp) => {
            (matches!(icmp.icmp_type(), Icmpv4Type::DestinationUnreachable(_)), icmp.payload())
        }
        etherparse::TransportSlice::Icmpv6(icmp) => {
            (matches!(icmp.icmp_type(), Icmpv6Type::DestinationUnreachable(_)), icmp.payload())
        }
        other => panic!("{other:?}"),
    };
    assert!(kind, "{heard:?}");
    let code = heard.packet[1];
    let quoted = etherparse::LaxSlicedPacket::from_ip(quote).unwrap();
    match quoted.transport.unwrap() {
        etherparse::TransportSlice::Udp(udp) => (code, udp.source_port()),
        other => panic!("{other:?}"),
    }
}

/// N10: length lies, port 0, no checksum in IPv6, segmentation without end; N2 and CVE-2014-3640.
#[test]
fn malformed_datagrams_are_refused() {
    let datagram = |from: u16, to: u16, length: u16, checksum: u16| {
        [from, to, length, checksum].iter().flat_map(|field| field.to_be_bytes()).chain(*b"abcd").collect::<Vec<_>>()
    };
    let cases = [
        (datagram(1, 2, 7, 1), Refusal::BadTransport),
        (datagram(1, 2, 0, 1), Refusal::BadTransport),
        (datagram(1, 2, 13, 1), Refusal::BadTransport),
        (datagram(1, 2, u16::MAX, 1), Refusal::BadTransport),
        (datagram(0, 2, 12, 1), Refusal::BadTransport),
        (datagram(1, 0, 12, 1), Refusal::BadTransport),
        (datagram(0, 0, 12, 1), Refusal::BadTransport),
        (datagram(1, 2, 12, 1)[..7].to_vec(), Refusal::Truncated),
        (Vec::new(), Refusal::Truncated),
    ];
    for (payload, reason) in cases {
        for (guest, peer) in [(GUEST, PEER), (GUEST6, PEER6)] {
            let mut udp = Udp::new();
            let frame = ip_frame(at(guest).ip(), at(peer).ip(), UDP, &payload);
            assert_eq!(udp.frame(&frame, None), Err(reason), "{payload:?}");
            assert!(udp.world.sockets.open.is_empty() && udp.heard().is_empty());
        }
    }
    let mut udp = Udp::new();
    let frame = ip_frame(at(GUEST6).ip(), at(PEER6).ip(), UDP, &datagram(1, 2, 12, 0));
    assert_eq!(udp.frame(&frame, None), Err(Refusal::BadTransport));
    let frame = ip_frame(at(GUEST).ip(), at(PEER).ip(), UDP, &datagram(1, 2, 12, 0));
    udp.frame(&frame, None).unwrap();
    assert_eq!(udp.send("0.0.0.0:1", PEER, b"x"), Err(Refusal::BadSource));

    let frame = udp_frame(at(GUEST), at(PEER), &[]);
    assert_eq!(udp.frame(&frame, Some(0)), Err(Refusal::BadOffload));
    let frame = udp_frame(at(GUEST), at(PEER), &[5; 1300]);
    for (segment, result) in
        [(0, Err(Refusal::BadOffload)), (1, Err(Refusal::BadOffload)), (10, Err(Refusal::BadOffload)), (11, Ok(()))]
    {
        assert_eq!(udp.frame(&frame, Some(segment)), result);
    }
    assert_eq!(udp.world.sockets.udp(1).sent[0].segment, Some(11));
}

/// N16.
#[test]
fn destinations_that_no_rule_leads_to_are_refused_and_the_guest_is_told() {
    let mut udp = Udp::new();
    for (peer, own) in [("0.0.0.0:53", GUEST), ("[::]:53", GUEST6)] {
        assert_eq!(udp.send(own, peer, b"x"), Err(Refusal::BadDestination), "{peer}");
    }
    assert!(udp.heard().is_empty(), "where nobody can be, nobody answers");
    for (peer, own) in [("127.0.0.1:53", GUEST), ("127.8.9.10:53", GUEST), ("[::1]:53", GUEST6)] {
        assert_eq!(udp.send(own, peer, b"x"), Err(Refusal::DestinationNotAllowed), "{peer}");
    }
    assert_eq!(udp.heard().len(), 3);
    let v4 = udp.world.settings.v4.as_mut().unwrap();
    v4.mapping.host_refused = true;
    v4.mapping.host_loopback = None;
    v4.mapping.host_addresses = vec!["203.0.113.5".parse().unwrap()];
    let v6 = udp.world.settings.v6.as_mut().unwrap();
    v6.mapping.host_refused = true;
    v6.mapping.host_addresses = vec!["2001:db8:1::7".parse().unwrap()];
    assert_eq!(udp.send(GUEST, "203.0.113.5:53", b"secret"), Err(Refusal::DestinationNotAllowed));
    assert_eq!(udp.send(GUEST6, PEER6, b"secret"), Err(Refusal::DestinationNotAllowed));
    let [v4, v6] = &udp.heard()[..] else { panic!("two frames") };
    assert_eq!(unreachable(v4), (icmpv4::CODE_DST_UNREACH_FILTER_PROHIB, 5000));
    assert_eq!(v4.source, at("192.0.2.1:0").ip());
    // All of it is quoted, just as it was sent.
    assert_eq!(v4.payload, udp_frame(at(GUEST), at("203.0.113.5:53"), b"secret")[14..]);
    assert_eq!(unreachable(v6), (1, 5000));
    assert_eq!(v6.payload, udp_frame(at(GUEST6), at(PEER6), b"secret")[14..]);
    // An address that came later, and credentials of the cloud.
    udp.world.sockets.own.insert("203.0.113.6".parse().unwrap());
    for refused in ["203.0.113.6:53", "169.254.169.254:80"] {
        assert_eq!(udp.send(GUEST, refused, b"secret"), Err(Refusal::DestinationNotAllowed), "{refused}");
    }
    assert_eq!(udp.heard().len(), 2);
    // What is link-local is nobody's secret.
    udp.send(GUEST, "169.254.20.10:53", b"x").unwrap();
    assert_eq!(udp.world.sockets.open.len(), 1);
}

#[test]
fn failures_of_the_kernel_are_told_by_icmp() {
    let cases = [(libc::ENETUNREACH, 0, 0), (libc::EHOSTUNREACH, 1, 3), (libc::EACCES, 13, 1), (libc::EPERM, 13, 1)];
    for (errno, code4, code6) in cases {
        for (guest, peer, code) in [(GUEST, PEER, code4), (GUEST6, PEER6, code6)] {
            let mut udp = Udp::new();
            udp.world.sockets.open_errors.push_back(errno);
            assert_eq!(udp.send(guest, peer, b"x"), Err(Refusal::SocketError));
            udp.assert_consistent();
            udp.send(guest, peer, b"x").unwrap();
            udp.world.sockets.send_errors.push_back(errno);
            udp.send(guest, peer, b"x").unwrap();
            assert_eq!(udp.world.refused(Refusal::SocketError), 1);
            let codes: Vec<_> = udp.heard().iter().map(unreachable).collect();
            assert_eq!(codes, [(code, 5000); 2]);
        }
    }
    let mut udp = Udp::new();
    udp.send(GUEST, PEER, b"x").unwrap();
    udp.world.sockets.send_errors.push_back(libc::EAGAIN);
    udp.send(GUEST, PEER, b"x").unwrap();
    assert_eq!(udp.world.refused(Refusal::SocketError), 1);
    assert!(udp.heard().is_empty(), "a full buffer is no news");
}

#[test]
fn datagrams_to_groups_are_answered_by_others() {
    for (guest, group, member) in [
        (GUEST, "239.1.2.3:1900", "192.0.2.77:1234"),
        (GUEST, "255.255.255.255:1900", "192.0.2.77:1234"),
        (GUEST, "192.0.2.255:1900", "192.0.2.77:1234"),
        (GUEST6, "[ff02::c]:1900", "[2001:db8::77]:1234"),
    ] {
        let mut udp = Udp::new();
        udp.send(guest, group, b"who?").unwrap();
        let socket = udp.world.sockets.udp(0);
        assert_eq!(socket.peer, None);
        let to = socket.sent[0].to.unwrap();
        assert_eq!((to.ip(), to.port()), (at(group).ip(), 1900));
        udp.answer(0, member, b"me");
        let [heard] = &udp.heard()[..] else { panic!("one frame") };
        assert_eq!((heard.source, heard.ports), (at(member).ip(), Some((1234, 5000))));
        udp.assert_consistent();
        // N17: what we sent ourselves does not come back.
        let own = SocketAddr::new(at(guest).ip(), 5000).to_string();
        udp.answer(0, &own, b"who?");
        assert!(udp.heard().is_empty());
        // There is no header for addresses of two families.
        let other = if guest == GUEST6 { "192.0.2.77:1234" } else { "[2001:db8::77]:1234" };
        udp.answer(0, other, b"me");
        assert!(udp.heard().is_empty());
        udp.world.wait(120);
        udp.expire();
        udp.assert_consistent();
        assert!(udp.flows.group_ports.is_empty());
    }
}

#[test]
fn only_the_peer_is_heard_in_a_flow() {
    let mut udp = Udp::new();
    udp.send(GUEST, PEER, b"x").unwrap();
    udp.answer(0, "198.51.100.8:7000", b"y");
    udp.answer(0, "198.51.100.7:7001", b"y");
    assert!(udp.heard().is_empty());
}

const TARGET: Target = Target { address: None, port: 5353 };

#[test]
fn a_forwarded_port_opens_a_flow_with_a_socket_of_its_own() {
    let mut udp = Udp::new();
    udp.arrive(PEER, "192.0.2.2:53", TARGET, b"q");
    let socket = udp.world.sockets.udp(0);
    assert_eq!((socket.local, socket.peer), (Some(at("192.0.2.2:53")), Some(at(PEER))));
    let [heard] = &udp.heard()[..] else { panic!("one frame") };
    assert_eq!((heard.source, heard.destination), (at(PEER).ip(), at(GUEST).ip()));
    assert_eq!((heard.ports, &heard.payload[..]), (Some((7000, 5353)), &b"q"[..]));
    // More that came before the socket was there, and the answer.
    udp.arrive(PEER, "192.0.2.2:53", TARGET, b"q2");
    udp.send("192.0.2.2:5353", PEER, b"a").unwrap();
    assert_eq!(udp.world.sockets.udp(0).sent[0].payload, b"a");
    assert_eq!((udp.flows.len(), udp.heard().len()), (1, 1));
    // Nobody is told what the guest's answer did not find.
    udp.assert_consistent();
    udp.world.wait(119);
    udp.expire();
    assert_eq!(udp.flows.len(), 1, "both sides were heard");
}

#[test]
fn a_forwarded_port_leads_where_it_was_told() {
    let mut udp = Udp::new();
    let target = Target { address: Some("192.0.2.3".parse().unwrap()), port: 9 };
    udp.arrive("127.0.0.1:7000", "127.0.0.1:53", target, b"q");
    let heard = udp.heard().remove(0);
    assert_eq!((heard.source, heard.destination), (at("192.0.2.1:0").ip(), at("192.0.2.3:0").ip()));
    udp.send("192.0.2.3:9", "192.0.2.1:7000", b"a").unwrap();
    assert_eq!(udp.world.sockets.udp(0).sent.len(), 1);
    // Of the other family, and without a port to answer to.
    udp.arrive(PEER6, "[2001:db8::2]:53", target, b"q");
    assert_eq!(udp.world.refused(Refusal::BadDestination), 1);
    udp.arrive("198.51.100.7:0", "192.0.2.2:53", target, b"q");
    assert_eq!(udp.world.refused(Refusal::BadTransport), 1);
    assert_eq!(udp.flows.len(), 1);
    udp.assert_consistent();
}

/// N11: what the guest says of a datagram ends the flow in which it came, and no other.
#[test]
fn a_flow_that_the_guest_has_nobody_for_ends() {
    let cases = [("192.0.2.2:53", GUEST, PEER, ICMP, [3, 3]), ("[2001:db8::2]:53", GUEST6, PEER6, ICMPV6, [1, 4])];
    for (to, guest, peer, protocol, [kind, code]) in cases {
        let mut udp = Udp::new();
        udp.arrive(peer, to, TARGET, b"anybody?");
        let quote = udp.heard()[0].frame[14..].to_vec();
        udp.send(guest, peer, b"x").unwrap();
        let say = |udp: &mut Udp, message: &[u8]| {
            let frame = ip_frame(at(guest).ip(), at(peer).ip(), protocol, message);
            let ends = with_packet(&frame, icmp_error::unreachable_port);
            if let Some(ends) = ends {
                udp.flows.refused_by_guest(&mut udp.world.context(), &ends);
            }
            ends
        };
        let message = |kind, code, quote: &[u8]| [&[kind, code, 0, 0, 0, 0, 0, 0], quote].concat();
        // Of another kind, cut off anywhere, about another's datagram, or one in which the guest has spoken.
        assert_eq!(say(&mut udp, &message(kind, 0, &quote)), None);
        let header = quote.len() - b"anybody?".len();
        for length in 0..header {
            assert_eq!(say(&mut udp, &message(kind, code, &quote[..length])), None);
        }
        let mut forged = quote.clone();
        forged[if protocol == ICMP { 16 } else { 24 }] ^= 1;
        assert_eq!(say(&mut udp, &message(kind, code, &forged)), None);
        let mut other = quote.clone();
        // From port 7000 to 5000.
        other[header - 6..header - 4].copy_from_slice(&5000_u16.to_be_bytes());
        assert!(say(&mut udp, &message(kind, code, &other)).is_some());
        assert_eq!(udp.flows.len(), 2);

        say(&mut udp, &message(kind, code, &quote));
        assert_eq!(udp.flows.iter().map(|ends| ends.guest.port()).collect::<Vec<_>>(), [5000]);
        say(&mut udp, &message(kind, code, &quote));
        udp.assert_consistent();
    }
}

#[test]
fn a_flood_to_a_forwarded_port_is_bounded() {
    let mut udp = Udp::with(UdpSettings { flows: 50, ..UdpSettings::default() });
    udp.send(GUEST, PEER, b"x").unwrap();
    udp.answer(0, PEER, b"y");
    for number in 0..5_000_u32 {
        let peer = format!("10.0.{}.{}:9", number >> 8, number & 255);
        udp.arrive(&peer, "192.0.2.2:53", TARGET, b"spoofed");
    }
    assert_eq!(udp.flows.len(), 50);
    assert!(udp.flows.iter().any(|ends| ends.peer == at(PEER)));
    udp.assert_consistent();
}

#[test]
fn multicast_comes_in_where_the_guest_listens() {
    let mut udp = Udp::new();
    let arrive = |udp: &mut Udp, group: &str| {
        udp.arrive("192.0.2.77:5353", group, TARGET, b"hi");
        udp.heard()
    };
    assert!(arrive(&mut udp, "224.0.0.251:5353").is_empty());
    udp.groups.listen_to("224.0.0.251".parse().unwrap());
    let [heard] = &arrive(&mut udp, "224.0.0.251:5353")[..] else { panic!("one frame") };
    assert_eq!(heard.destination, at("224.0.0.251:0").ip());
    assert_eq!((heard.mac(), heard.ports), (&[0x01, 0x00, 0x5e, 0, 0, 251][..], Some((5353, 5353))));
    let [heard] = &arrive(&mut udp, "192.0.2.255:5353")[..] else { panic!("one frame") };
    assert_eq!((heard.mac(), heard.destination), (&[0xff; 6][..], at("192.0.2.255:0").ip()));
    assert!(udp.flows.is_empty());
    // N17: what the guest itself has sent to the group comes to the listener as well.
    udp.send("192.0.2.2:5353", "224.0.0.251:5353", b"hi").unwrap();
    udp.arrive("192.0.2.2:5353", "224.0.0.251:5353", TARGET, b"hi");
    assert!(udp.heard().is_empty());
    // A neighbour with the same port is heard.
    assert_eq!(arrive(&mut udp, "224.0.0.251:5353").len(), 1);

    udp.groups.listen_to("ff02::fb".parse().unwrap());
    udp.arrive("[2001:db8::77]:5353", "[ff02::fb]:5353", TARGET, b"hi");
    assert_eq!(udp.heard()[0].mac(), [0x33, 0x33, 0, 0, 0, 0xfb]);
}

#[test]
fn what_is_longer_than_the_mtu_comes_in_fragments() {
    let payload: Vec<u8> = (0..60_000_u32).map(|at| (at % 253) as u8).collect();
    for mtu in [1280, 1500, 9000] {
        for (guest, peer) in [(GUEST, PEER), (GUEST6, PEER6)] {
            let mut udp = Udp::new();
            udp.world.settings.mtu = Some(mtu);
            udp.send(guest, peer, b"x").unwrap();
            udp.answer(0, peer, &payload);
            let frames = udp.heard();
            assert!(frames.iter().all(|heard| heard.is_fragment && heard.frame.len() <= usize::from(mtu) + 14));
            let mut reassembler = fragment::Reassembler::default();
            let mut whole = None;
            for heard in frames {
                assert!(whole.is_none());
                let added = with_packet(&heard.frame, |ip| reassembler.add(udp.world.now, ip));
                whole = added.unwrap();
            }
            let whole = whole.unwrap();
            let (ends, datagram) = header::parse(&whole.packet(), None).unwrap();
            assert_eq!(ends, FlowEnds { guest: at(peer), peer: at(guest) });
            let mut bytes = vec![0; payload.len()];
            assert_eq!((datagram.length() as usize, datagram.copy_to(&mut bytes)), (payload.len(), payload.len()));
            assert_eq!(bytes, payload);
            // The checksum is over all of it.
            let header: [u8; 8] = *whole.packet().payload.first_bytes().first_chunk().unwrap();
            let ends = Ends {
                source_mac: MacAddress::default(),
                destination_mac: MacAddress::default(),
                source: at(peer).ip(),
                destination: at(guest).ip(),
                hop_limit: 0,
                traffic_class: 0,
            };
            assert_eq!(header, header::header(&ends, 7000, 5000, &payload));
        }
    }
}

#[test]
fn what_the_guest_has_no_room_for_is_dropped_and_counted() {
    let mut udp = Udp::new();
    udp.send(GUEST, PEER, b"x").unwrap();
    udp.world.link.room = 1;
    for _ in 0..3 {
        udp.answer(0, PEER, b"y");
    }
    assert_eq!((udp.heard().len(), udp.world.refused(Refusal::GuestFull)), (1, 2));
    udp.answer(0, PEER, b"y");
    assert_eq!(udp.heard().len(), 1);
}

/// Where the guest tells when it has room again, nothing is lost and nobody is overtaken, neither in a flow nor by another socket.
#[test]
fn what_the_guest_has_no_room_for_waits_for_it() {
    for takes in [Offloads::NONE, Offloads::ALL] {
        let mut udp = Udp::new();
        udp.world.link.takes = takes;
        udp.world.link.is_there = true;
        let other = "198.51.100.8:7000";
        udp.send(GUEST, PEER, b"x").unwrap();
        udp.send(GUEST, other, b"x").unwrap();
        // Each longer than the one before: they do not go together.
        let sent = |from| (1..=40).map(move |bytes| (datagram(from), vec![7; bytes]));
        udp.world.sockets.udp(0).inbox.extend(sent(PEER));
        udp.world.sockets.udp(1).inbox.extend(sent(other));
        udp.world.link.room = 3;
        for index in [0, 1, 0] {
            assert!(!udp.flows.from_socket(&mut udp.world.context(), index, false));
        }
        assert_eq!(udp.flows.waiting(), 2);
        let (mut heard, mut rounds) = (udp.heard(), 0);
        while udp.flows.waiting() > 0 {
            for _ in 0..udp.flows.waiting() {
                let Some(SocketId::Udp(index)) = udp.flows.next_waiting() else { panic!("a flow's socket") };
                while udp.flows.from_socket(&mut udp.world.context(), index, false) {}
            }
            heard.extend(udp.heard());
            rounds += 1;
            assert!(rounds < 100);
        }
        for peer in [PEER, other] {
            let lengths = heard.iter().filter(|heard| heard.source == at(peer).ip()).map(|heard| heard.payload.len());
            assert!(lengths.eq(1..=40), "from {peer}");
        }
        assert_eq!(udp.world.refused(Refusal::GuestFull), 0);
        udp.assert_consistent();
    }
}

/// A peer that sends more than the guest ever takes does not keep the others away.
#[test]
fn a_flood_for_the_guest_leaves_others_their_turn() {
    let mut udp = Udp::new();
    udp.world.link.is_there = true;
    let other = "198.51.100.8:7000";
    udp.send(GUEST, PEER, b"x").unwrap();
    udp.send(GUEST, other, b"x").unwrap();
    udp.world.sockets.udp(0).inbox.extend((0..10_000).map(|_| (datagram(PEER), vec![7; 100])));
    udp.world.link.room = 40;
    let mut again: Vec<_> = [0].into();
    for round in 0..20 {
        if round == 1 {
            udp.world.sockets.udp(1).inbox.push_back((datagram(other), vec![1]));
            again.push(1);
        }
        // As the translator does: those that wait, then events and what is left over.
        for _ in 0..udp.flows.waiting() {
            let Some(SocketId::Udp(index)) = udp.flows.next_waiting() else { panic!("a flow's socket") };
            if udp.flows.from_socket(&mut udp.world.context(), index, false) {
                again.push(index);
            }
        }
        again.retain(|&index| udp.flows.from_socket(&mut udp.world.context(), index, false));
        let heard = udp.heard();
        assert_eq!(heard.len(), 40, "all of the room is used");
        if heard.iter().any(|heard| heard.source == at(other).ip()) {
            return;
        }
    }
    panic!("the other one has no turn");
}

/// What came while a few waited has told of itself while nothing could be done: nobody tells again.
#[test]
fn what_comes_while_others_wait_is_not_left_behind() {
    let mut udp = Udp::new();
    udp.world.link.is_there = true;
    udp.send(GUEST, PEER, b"x").unwrap();
    let arrives = |udp: &mut Udp, count: usize| {
        udp.world.sockets.udp(0).inbox.extend((0..count).map(|_| (datagram(PEER), vec![7; 100])));
        udp.flows.from_socket(&mut udp.world.context(), 0, false)
    };
    udp.world.link.room = 2;
    assert!(!arrives(&mut udp, 3) && !arrives(&mut udp, 5));
    udp.world.link.room = 100;
    assert_eq!(udp.flows.next_waiting(), Some(SocketId::Udp(0)));
    while udp.flows.from_socket(&mut udp.world.context(), 0, false) {}
    assert_eq!((udp.heard().len(), udp.flows.waiting()), (8, 0));
}

/// A flow that ends takes what waits along, and others have their turn.
#[test]
fn what_waits_ends_with_its_flow() {
    let mut udp = Udp::new();
    udp.world.link.is_there = true;
    udp.send(GUEST, PEER, b"x").unwrap();
    udp.send(GUEST, "198.51.100.8:7000", b"x").unwrap();
    udp.world.sockets.udp(0).inbox.extend([(datagram(PEER), vec![1]), (datagram(PEER), vec![2])]);
    udp.world.sockets.udp(1).inbox.push_back((datagram("198.51.100.8:7000"), vec![3]));
    udp.world.link.room = 1;
    for index in [0, 1] {
        assert!(!udp.flows.from_socket(&mut udp.world.context(), index, false));
    }
    assert_eq!((udp.heard().len(), udp.flows.held), (1, Some(SocketId::Udp(0))));
    udp.flows.close(&mut udp.world.context(), 0);
    assert_eq!((udp.flows.held, udp.world.refused(Refusal::GuestFull)), (None, 1));
    assert_eq!(udp.flows.next_waiting(), Some(SocketId::Udp(1)));
    udp.flows.from_socket(&mut udp.world.context(), 1, false);
    assert_eq!((udp.heard().len(), udp.flows.waiting()), (1, 0));
}

/// A small ring may never have room for all of it, and others would wait for that. Nor are fragments sent again of which some found room.
#[test]
fn a_long_datagram_does_not_wait() {
    let mut udp = Udp::new();
    udp.world.settings.mtu = Some(65_520);
    udp.world.link.is_there = true;
    udp.send(GUEST, PEER, b"x").unwrap();
    udp.world.link.room = 1;
    udp.world.sockets.udp(0).inbox.extend([10, 20_000, 20_000].map(|bytes| (datagram(PEER), vec![1; bytes])));
    assert!(!udp.flows.from_socket(&mut udp.world.context(), 0, false));
    assert_eq!((udp.heard().len(), udp.flows.waiting(), udp.world.refused(Refusal::GuestFull)), (1, 0, 2));
}

#[test]
fn a_datagram_in_fragments_does_not_wait() {
    let mut udp = Udp::new();
    udp.world.settings.mtu = Some(1500);
    udp.world.link.is_there = true;
    udp.send(GUEST, PEER, b"x").unwrap();
    udp.world.link.room = 2;
    udp.world.sockets.udp(0).inbox.push_back((datagram(PEER), vec![1; 9000]));
    assert!(!udp.flows.from_socket(&mut udp.world.context(), 0, false));
    assert_eq!((udp.heard().len(), udp.flows.waiting(), udp.world.refused(Refusal::GuestFull)), (2, 0, 1));
}

#[test]
fn many_datagrams_take_turns_with_other_sockets() {
    let mut udp = Udp::new();
    udp.send(GUEST, PEER, b"x").unwrap();
    for _ in 0..BURST * BURSTS + 1 {
        udp.world.sockets.udp(0).inbox.push_back((datagram(PEER), vec![1]));
    }
    assert!(udp.flows.from_socket(&mut udp.world.context(), 0, true));
    assert!(!udp.flows.from_socket(&mut udp.world.context(), 0, true));
    assert_eq!(udp.heard().len(), BURST * BURSTS + 1);
}

/// Cuts a frame as its offload says, as the guest does.
fn cut((offload, frame): (Offload, Vec<u8>)) -> Vec<Vec<u8>> {
    let Offload::Segment(segmentation) = offload else { panic!("{offload:?}") };
    let length = u32::try_from(frame.len()).unwrap();
    let mut segmenter = culvert_frame::Segmenter::new(&frame, segmentation, length);
    let mut rest = &frame[usize::from(segmentation.header_bytes)..];
    let (mut room, mut segments) = (vec![0; 70_000], Vec::new());
    while let Some(segment) = segmenter.next(&mut room, |payload| {
        let (now, later) = rest.split_at(payload.len());
        payload.copy_from_slice(now);
        rest = later;
    }) {
        segments.push(segment.to_vec());
    }
    segments
}

#[test]
fn what_arrives_together_reaches_a_guest_that_takes_segments_in_one_frame() {
    for (guest, peer) in [(GUEST, PEER), (GUEST6, PEER6)] {
        let mut udp = Udp::new();
        udp.world.settings.mtu = Some(1500);
        udp.world.link.takes = Offloads::ALL;
        udp.send(guest, peer, b"x").unwrap();
        let sizes = [1000, 1000, 1000, 300, 300, 0, 1400, 2000, 1400, 1400];
        for (number, bytes) in sizes.into_iter().enumerate() {
            let payload = vec![u8::try_from(number).unwrap(); bytes];
            udp.world.sockets.udp(0).inbox.push_back((datagram(peer), payload));
        }
        assert!(!udp.flows.from_socket(&mut udp.world.context(), 0, true));
        let frames = std::mem::take(&mut udp.world.link.frames);
        // Three and a shorter one, one, an empty one, one, a long one in fragments, and two.
        let kinds: Vec<_> = frames.iter().map(|(offload, _)| std::mem::discriminant(offload)).collect();
        assert_eq!(kinds.len(), 7);
        let mut heard = Vec::new();
        for (offload, frame) in frames {
            match offload {
                Offload::Segment(segmentation) => {
                    // It is as a guest's own request would have to be.
                    let request = offload.fields().request;
                    let length = u32::try_from(frame.len()).unwrap();
                    assert_eq!(Offload::check(request, Offloads::ALL, &frame, length), Ok(offload));
                    assert!(segmentation.size < 1473);
                    heard.extend(cut((offload, frame)).into_iter().map(|frame| (Offload::None, frame)));
                }
                offload => heard.push((offload, frame)),
            }
        }
        udp.world.link.frames = heard;
        let heard: Vec<_> = udp.heard().into_iter().filter(|heard| !heard.is_fragment).collect();
        assert!(heard.iter().all(|heard| heard.ports == Some((7000, 5000)) && heard.marks == datagram(peer).marks));
        let payloads: Vec<_> = heard.into_iter().map(|heard| heard.payload).collect();
        let expected = sizes.into_iter().enumerate().filter(|&(_, bytes)| bytes != 2000);
        let expected: Vec<_> = expected.map(|(number, bytes)| vec![u8::try_from(number).unwrap(); bytes]).collect();
        assert_eq!(payloads, expected);
    }
}

fn report(from: &str, kind: u8, code: u8, information: u32, destination: &str) -> NetworkError {
    let cause = Cause::Icmp { from: from.parse().unwrap(), kind, code, information };
    NetworkError { cause, destination: at(destination), quoted_bytes: 0 }
}

#[test]
fn what_the_network_reports_reaches_the_guest() {
    let cases = [
        (GUEST, PEER, report("10.9.8.7", 11, 0, 0, PEER), [11, 0]),
        (GUEST, PEER, report("198.51.100.7", 3, 3, 0, PEER), [3, 3]),
        (GUEST, PEER, report("10.9.8.7", 3, 4, 1400, PEER), [3, 4]),
        (GUEST6, PEER6, report("2001:db8:9::1", 3, 0, 0, PEER6), [3, 0]),
        (GUEST6, PEER6, report("2001:db8:1::7", 1, 4, 0, PEER6), [1, 4]),
        (GUEST6, PEER6, report("2001:db8:9::1", 2, 0, 1400, PEER6), [2, 0]),
    ];
    for (guest, peer, error, [kind, code]) in cases {
        let mut udp = Udp::new();
        udp.send(guest, peer, b"probe").unwrap();
        udp.world.sockets.udp(0).errors.push_back((error, b"probe".to_vec()));
        assert!(!udp.flows.from_socket(&mut udp.world.context(), 0, true));
        let [heard] = &udp.heard()[..] else { panic!("one frame") };
        let Cause::Icmp { from, information, .. } = error.cause else { panic!("of the network") };
        assert_eq!((heard.source, heard.destination), (from, at(guest).ip()));
        assert_eq!(heard.packet[..2], [kind, code]);
        assert_eq!(heard.packet[4..8], information.to_be_bytes());
        // The packet is quoted as the guest had sent it, but for the identification and "don't fragment" of IPv4.
        let mut sent = udp_frame(at(guest), at(peer), b"probe")[14..].to_vec();
        let mut quoted = heard.payload.clone();
        for packet in [&mut sent, &mut quoted] {
            if at(guest).is_ipv4() {
                packet[4..8].fill(0);
                packet[10..12].fill(0);
            }
        }
        assert_eq!(quoted, sent);
    }
}

#[test]
fn a_report_from_this_host_seems_to_come_from_the_gateway() {
    let mut udp = Udp::new();
    udp.send(GUEST, "192.0.2.1:9", b"probe").unwrap();
    let error = report("127.0.0.1", 3, 3, 0, "127.0.0.1:9");
    udp.world.sockets.udp(0).errors.push_back((error, b"probe".to_vec()));
    udp.flows.from_socket(&mut udp.world.context(), 0, true);
    let heard = udp.heard().remove(0);
    assert_eq!(heard.source, at("192.0.2.1:0").ip());
    assert_eq!(heard.payload[16..20], [192, 0, 2, 1]);
}

/// That question would be a system call for each event.
#[test]
fn a_socket_that_has_not_failed_is_not_asked_for_reports() {
    let mut udp = Udp::new();
    udp.send(GUEST, PEER, b"probe").unwrap();
    udp.world.sockets.udp(0).errors.push_back((report("10.9.8.7", 11, 0, 0, PEER), b"probe".to_vec()));
    assert!(!udp.flows.from_socket(&mut udp.world.context(), 0, false));
    assert!(udp.heard().is_empty());
    assert!(!udp.flows.from_socket(&mut udp.world.context(), 0, true));
    assert_eq!(udp.heard().len(), 1);
}

/// N11.
#[test]
fn reports_that_mean_nothing_to_a_guest_are_not_passed_on() {
    let mut udp = Udp::new();
    udp.send(GUEST, PEER, b"probe").unwrap();
    let quench = report("10.9.8.7", 4, 0, 0, PEER);
    let redirect = report("10.9.8.7", 5, 1, 0x0a00_0001, PEER);
    let other_family = report("2001:db8::9", 1, 4, 0, PEER);
    let local = NetworkError { cause: Cause::Local(libc::EMSGSIZE), ..quench };
    for error in [quench, redirect, other_family, local] {
        udp.world.sockets.udp(0).errors.push_back((error, b"probe".to_vec()));
    }
    assert!(!udp.flows.from_socket(&mut udp.world.context(), 0, true));
    assert!(udp.heard().is_empty());
}

#[test]
fn quotes_are_as_long_as_they_may_be() {
    for (guest, peer, from, longest) in [(GUEST, PEER, "10.9.8.7", 576), (GUEST6, PEER6, "2001:db8:9::1", 1280)] {
        let mut udp = Udp::new();
        udp.send(guest, peer, &[1; 3000]).unwrap();
        let error = report(from, if at(guest).is_ipv4() { 11 } else { 3 }, 0, 0, peer);
        udp.world.sockets.udp(0).errors.push_back((error, vec![1; 3000]));
        udp.flows.from_socket(&mut udp.world.context(), 0, true);
        assert_eq!(udp.heard()[0].frame.len(), 14 + longest);
    }
}

#[test]
fn errors_are_sent_at_a_bounded_rate() {
    let mut udp = Udp::new();
    udp.send(GUEST, PEER, b"probe").unwrap();
    for _ in 0..1000 {
        let error = report("10.9.8.7", 11, 0, 0, PEER);
        udp.world.sockets.udp(0).errors.push_back((error, b"probe".to_vec()));
    }
    while udp.flows.from_socket(&mut udp.world.context(), 0, true) {}
    assert_eq!(udp.heard().len(), 100);
    udp.world.wait(1);
    assert!(udp.world.errors.take(udp.world.now));
}

#[test]
fn all_kinds_of_flows_end_by_time() {
    let mut udp = Udp::new();
    udp.send(GUEST, PEER, b"x").unwrap();
    udp.send(GUEST, "239.1.2.3:1900", b"x").unwrap();
    udp.answer(0, PEER, b"y");
    udp.world.wait(120);
    udp.expire();
    assert!(udp.flows.is_empty() && udp.world.sockets.open.is_empty());
    udp.assert_consistent();
}

/// Each datagram tells its port; those for others' are refused.
#[test]
fn steered_datagrams_go_where_their_port_leads() {
    let mut udp = Udp::new();
    let steered = udp.world.sockets.open.entry(SocketId::SteeredUdp).or_default();
    for (port, payload) in [(53, b"name"), (54, b"none"), (55, b"move")] {
        let to = Some(SocketAddr::new("192.0.2.2".parse().unwrap(), port));
        let arrived = Datagram { destination: to, local: to, ..datagram("198.51.100.9:5000") };
        steered.inbox.push_back((arrived, payload.to_vec()));
    }
    let target = |port| [(53, 53), (55, 5555)].into_iter().find(|(from, _)| *from == port);
    let target = |port| target(port).map(|(_, port)| Target { address: None, port });
    assert!(!udp.flows.from_steered(&mut udp.world.context(), &udp.groups, target));
    let heard: Vec<_> = udp.heard().into_iter().map(|heard| (heard.ports, heard.payload)).collect();
    assert_eq!(heard, [(Some((5000, 53)), b"name".to_vec()), (Some((5000, 5555)), b"move".to_vec())]);
    assert_eq!(udp.world.refused(Refusal::BadDestination), 1);
    // The flows' sockets have the ports that the peer has sent to.
    assert_eq!([0, 1].map(|index| udp.world.sockets.udp(index).local.unwrap().port()), [53, 55]);
    udp.world.sockets.open.remove(&SocketId::SteeredUdp);
    udp.assert_consistent();
}

/// Of a flow there are its entry, what finds it by its ends and keeps its socket's name from others (with room to grow), its places in two
/// lists, and its socket's entry.
#[test]
fn a_flow_takes_less_than_300_bytes() {
    let found = 2 * 5 + 2 * (1 + size_of::<(u16, SocketAddr)>());
    let bytes = size_of::<Flow>() + found + 2 * Recency::BYTES_OF_EACH + 16;
    assert!(bytes < 300, "{bytes}");
}
