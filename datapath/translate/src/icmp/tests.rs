//! Echo in a simulated world.

use super::*;
use crate::sockets::datagram::Cause;
use crate::world::{GUEST_MARKS, Heard, World, at, builder, datagram, ip_frame, with_packet};

const GUEST: &str = "192.0.2.2";
const PEER: &str = "198.51.100.7";
const GUEST6: &str = "2001:db8::2";
const PEER6: &str = "2001:db8:1::7";

/// A world with echo in it.
struct Echo {
    world: World,
    flows: EchoFlows,
}

impl Echo {
    fn new() -> Self {
        Self { world: World::new(), flows: EchoFlows::new(EchoSettings::default()) }
    }

    fn frame(&mut self, frame: &[u8]) -> Result<(), Refusal> {
        with_packet(frame, |ip| self.flows.from_guest(&mut self.world.context(), ip))
    }

    fn ping(&mut self, from: &str, to: &str, identifier: u16, payload: &[u8]) -> Result<(), Refusal> {
        let mut frame = Vec::new();
        match (ip(from), ip(to)) {
            (from @ IpAddr::V4(_), to) => {
                builder(from, to).icmpv4_echo_request(identifier, 3).write(&mut frame, payload).unwrap();
            }
            (from, to) => builder(from, to).icmpv6_echo_request(identifier, 3).write(&mut frame, payload).unwrap(),
        }
        self.frame(&frame)
    }

    /// A message comes to the socket of flow `index`.
    fn message(&mut self, index: u32, from: &str, message: &[u8]) {
        let from = SocketAddr::new(ip(from), 0).to_string();
        self.world.sockets.echo(index).inbox.push_back((datagram(&from), message.to_vec()));
        assert!(!self.flows.from_socket(&mut self.world.context(), index, true));
    }

    /// What the far end makes of the last request.
    fn reply(&mut self, index: u32, from: &str) {
        let socket = self.world.sockets.echo(index);
        let identifier = socket.local.unwrap().port().to_be_bytes();
        let mut message = socket.sent.last().unwrap().payload.clone();
        message[0] = if ip(from).is_ipv4() { REPLY_V4 } else { REPLY_V6 };
        message[4..6].copy_from_slice(&identifier);
        self.message(index, from, &message);
    }

    fn heard(&mut self) -> Vec<Heard> {
        self.world.heard()
    }

    fn assert_consistent(&self) {
        assert_eq!(self.flows.len(), self.flows.by_key.len());
        assert_eq!(self.flows.len(), self.world.limits.in_use() as usize);
        assert_eq!(self.flows.len(), self.world.sockets.open.len());
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn requests_go_out_and_replies_come_back_with_the_guests_identifier() {
    for (guest, peer) in [(GUEST, PEER), (GUEST6, PEER6)] {
        // Free, taken by others, and 0, which asks the kernel for any.
        for (identifier, sent_as) in [(77, 77), (78, 40_000), (0, 40_000)] {
            let mut echo = Echo::new();
            echo.world.sockets.taken.insert(78);
            echo.ping(guest, peer, identifier, b"payload").unwrap();
            let socket = echo.world.sockets.echo(0);
            assert_eq!(socket.local.unwrap().port(), sent_as);
            assert_eq!((socket.sent[0].to.unwrap().ip(), socket.sent[0].marks), (ip(peer), GUEST_MARKS));
            echo.reply(0, peer);
            let [heard] = &echo.heard()[..] else { panic!("one frame") };
            assert_eq!((heard.source, heard.destination), (ip(peer), ip(guest)));
            assert_eq!(heard.packet[0], if ip(guest).is_ipv4() { REPLY_V4 } else { REPLY_V6 });
            assert_eq!(heard.packet[4..8], [identifier.to_be_bytes(), 3_u16.to_be_bytes()].concat());
            assert_eq!((&heard.payload[..], heard.marks), (&b"payload"[..], datagram("1.1.1.1:0").marks));
            echo.assert_consistent();
        }
    }
}

#[test]
fn one_socket_serves_all_destinations_of_an_identifier() {
    let mut echo = Echo::new();
    for number in 1..=250 {
        echo.ping(GUEST, &format!("198.51.100.{number}"), 7, b"").unwrap();
    }
    echo.ping(GUEST, PEER, 8, b"").unwrap();
    echo.ping("192.0.2.9", PEER, 7, b"").unwrap();
    assert_eq!(echo.flows.len(), 3);
    echo.message(0, "198.51.100.200", &[0, 0, 0, 0, 0, 7, 0, 3]);
    assert_eq!(echo.heard()[0].source, ip("198.51.100.200"));
    echo.assert_consistent();
}

#[test]
fn the_gateway_is_the_host_itself() {
    let mut echo = Echo::new();
    echo.world.settings.v4.as_mut().unwrap().mapping.outbound_interface = Some("eth1".to_owned());
    echo.ping(GUEST, "192.0.2.1", 7, b"").unwrap();
    let socket = echo.world.sockets.echo(0);
    assert_eq!((socket.interface.clone(), socket.sent[0].to), (None, Some(at("127.0.0.1:0"))));
    echo.reply(0, "127.0.0.1");
    assert_eq!(echo.heard()[0].source, ip("192.0.2.1"));
    // What leaves through the interface does so by another socket.
    echo.ping(GUEST, PEER, 7, b"").unwrap();
    assert_eq!(echo.world.sockets.echo(1).interface.as_deref(), Some("eth1"));
}

/// N11, CVE-2020-10756.
#[test]
fn malformed_requests_are_refused() {
    for (guest, peer, protocol, request) in [(GUEST, PEER, ICMP, REQUEST_V4), (GUEST6, PEER6, ICMPV6, REQUEST_V6)] {
        let mut echo = Echo::new();
        let (from, to) = (ip(guest), ip(peer));
        let good = [&with_checksum(from, to, [request, 0, 0, 0, 0, 7, 0, 1], b"abc")[..], b"abc"].concat();
        let mut wrong = good.clone();
        *wrong.last_mut().unwrap() ^= 1;
        for (message, refusal) in [
            (&good[..7], Refusal::Truncated),
            (&[], Refusal::Truncated),
            (&good[..10], Refusal::BadTransport),
            (&wrong, Refusal::BadTransport),
        ] {
            assert_eq!(echo.frame(&ip_frame(from, to, protocol, message)), Err(refusal));
        }
        assert!(echo.world.sockets.open.is_empty());
        echo.frame(&ip_frame(from, to, protocol, &good)).unwrap();
        assert_eq!(echo.world.sockets.echo(0).sent[0].payload, good);
        // The other family's protocol, and nobody's address.
        let other = if protocol == ICMP { ICMPV6 } else { ICMP };
        assert_eq!(echo.frame(&ip_frame(from, to, other, &good)), Err(Refusal::Malformed));
        let nobody = if from.is_ipv4() { ip("0.0.0.0") } else { ip("::") };
        assert_eq!(echo.frame(&ip_frame(nobody, to, protocol, &good)), Err(Refusal::Malformed));
        assert!(echo.heard().is_empty());
        echo.assert_consistent();
    }
}

/// N11: errors that quote anything, redirects, replies to nobody: nothing happens, and no error answers an error.
#[test]
fn what_sockets_cannot_carry_is_refused() {
    let mut echo = Echo::new();
    echo.ping(GUEST, PEER, 7, b"").unwrap();
    echo.ping(GUEST6, PEER6, 7, b"").unwrap();
    let quotes =
        [Vec::new(), vec![0x45; 3], ip_frame(ip(PEER), ip(GUEST), ICMP, &[0; 8])[14..].to_vec(), vec![0xff; 600]];
    for quote in quotes {
        for (guest, peer, protocol, kinds) in [
            (GUEST, PEER, ICMP, &[0, 3, 4, 5, 9, 10, 11, 12, 13, 14, 15, 17, 18, 255][..]),
            (GUEST6, PEER6, ICMPV6, &[0, 1, 2, 3, 4, 100, 127, 129, 130, 137, 139, 255][..]),
        ] {
            let (from, to) = (ip(guest), ip(peer));
            for &kind in kinds {
                let header = with_checksum(from, to, [kind, 0, 0, 0, 1, 2, 3, 4], &quote);
                let frame = ip_frame(from, to, protocol, &[&header[..], &quote].concat());
                assert_eq!(echo.frame(&frame), Err(Refusal::IcmpNotCarried), "{kind}");
            }
            let code = with_checksum(from, to, [if protocol == ICMP { 8 } else { 128 }, 1, 0, 0, 1, 2, 3, 4], &quote);
            let frame = ip_frame(from, to, protocol, &[&code[..], &quote].concat());
            assert_eq!(echo.frame(&frame), Err(Refusal::IcmpNotCarried));
        }
    }
    assert!(echo.heard().is_empty());
    assert_eq!((echo.flows.len(), echo.world.sockets.echo(0).sent.len()), (2, 1));
}

#[test]
fn what_a_socket_receives_is_looked_at() {
    let mut echo = Echo::new();
    echo.ping(GUEST, PEER, 7, b"").unwrap();
    for message in [&[][..], &[0; 7], &[8, 0, 0, 0, 0, 7, 0, 1], &[129, 0, 0, 0, 0, 7, 0, 1]] {
        echo.message(0, PEER, message);
    }
    echo.message(0, PEER6, &[0, 0, 0, 0, 0, 7, 0, 1]);
    assert!(echo.heard().is_empty());
    echo.message(0, PEER, &[0, 0, 0, 0, 0, 7, 0, 1]);
    assert_eq!(echo.heard().len(), 1);
}

#[test]
fn long_replies_come_in_fragments() {
    for (guest, peer) in [(GUEST, PEER), (GUEST6, PEER6)] {
        let mut echo = Echo::new();
        echo.world.settings.mtu = Some(1500);
        let payload = vec![7; 4000];
        echo.ping(guest, peer, 7, &payload).unwrap();
        echo.reply(0, peer);
        let frames = echo.heard();
        assert_eq!(frames.len(), 3);
        let mut reassembler = fragment::Reassembler::default();
        let now = echo.world.now;
        let whole = frames.iter().find_map(|heard| with_packet(&heard.frame, |ip| reassembler.add(now, ip)).unwrap());
        let whole = whole.unwrap();
        let bytes = whole.packet().payload.first_bytes();
        let header: [u8; 8] = *bytes.first_chunk().unwrap();
        assert_eq!((header, &bytes[8..]), (with_checksum(ip(peer), ip(guest), header, &payload), &payload[..]));
    }
}

/// As traceroute does it.
#[test]
fn a_router_that_drops_a_request_is_heard() {
    for (guest, peer, router, kind) in [(GUEST, PEER, "10.9.8.7", 11), (GUEST6, PEER6, "2001:db8:9::1", 3)] {
        let mut echo = Echo::new();
        echo.world.sockets.taken.insert(7);
        echo.ping(guest, peer, 7, b"probe").unwrap();
        let socket = echo.world.sockets.echo(0);
        // What the world saw has the socket's identifier and a checksum for that.
        let seen = socket.sent[0].payload.clone();
        let header = [seen[0], seen[1], 0, 0, 0x9c, 0x40, seen[6], seen[7]];
        let seen = [&with_checksum(ip(guest), ip(peer), header, b"probe")[..], b"probe"].concat();
        let cause = Cause::Icmp { from: ip(router), kind, code: 0, information: 0 };
        let error = NetworkError { cause, destination: SocketAddr::new(ip(peer), 0), quoted_bytes: 0 };
        socket.errors.push_back((error, seen));
        assert!(!echo.flows.from_socket(&mut echo.world.context(), 0, true));
        let [heard] = &echo.heard()[..] else { panic!("one frame") };
        assert_eq!((heard.source, heard.destination, heard.packet[0]), (ip(router), ip(guest), kind));
        let quoted = &heard.payload[if ip(guest).is_ipv4() { 20 } else { 40 }..];
        assert_eq!(quoted, echo.world.sockets.echo(0).sent[0].payload);
    }
}

#[test]
fn flows_end_after_60_seconds_and_make_room() {
    let mut echo = Echo::new();
    assert_eq!(echo.flows.deadline(), None);
    for identifier in 0..2000 {
        echo.ping(GUEST, PEER, identifier, b"").unwrap();
        assert!(echo.flows.len() <= 1024);
    }
    echo.assert_consistent();
    echo.world.wait(59);
    echo.ping(GUEST, PEER, 1999, b"").unwrap();
    echo.flows.expire(&mut echo.world.context());
    assert_eq!(echo.flows.len(), 1024);
    echo.world.wait(1);
    echo.flows.expire(&mut echo.world.context());
    assert_eq!(echo.flows.len(), 1);
    echo.world.wait(59);
    echo.flows.expire(&mut echo.world.context());
    assert!(echo.flows.is_empty());
    echo.assert_consistent();
    assert!(!echo.flows.from_socket(&mut echo.world.context(), 0, true));
}

#[test]
fn where_echo_sockets_are_not_permitted_the_guest_is_told() {
    let mut echo = Echo::new();
    echo.world.sockets.open_errors.push_back(libc::EACCES);
    assert_eq!(echo.ping(GUEST, PEER, 7, b""), Err(Refusal::SocketError));
    assert_eq!(echo.heard()[0].packet[..2], [3, 13]);
    let v4 = echo.world.settings.v4.as_mut().unwrap();
    (v4.mapping.host_refused, v4.mapping.host_addresses) = (true, vec!["198.51.100.7".parse().unwrap()]);
    assert_eq!(echo.ping(GUEST, PEER, 7, b""), Err(Refusal::DestinationNotAllowed));
    assert_eq!(echo.heard()[0].packet[..2], [3, 13]);
    // Nobody tells what became of what went to a group.
    echo.world.sockets.send_errors.push_back(libc::ENETUNREACH);
    assert_eq!(echo.ping(GUEST, "224.0.0.1", 7, b""), Err(Refusal::SocketError));
    assert!(echo.heard().is_empty());
}
