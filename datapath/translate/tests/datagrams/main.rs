//! Datagrams of a guest through real sockets, in network namespaces with a router between: what only a kernel can tell.
//! Needs root: `ci/isolated` gives each test program namespaces of its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a test"
)]

mod guest;
mod network;

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use culvert_translate::refusal::Refusal;
use guest::{Guest, What, builder, fragments};
use network::{Namespace, routed};

const FAMILIES: [Family; 2] = [
    Family { own: "10.1.0.2", router: "10.1.0.1", far: "10.2.0.2", too_many_hops: [11, 0], port_unreachable: [3, 3] },
    Family { own: "fd00:1::2", router: "fd00:1::1", far: "fd00:2::2", too_many_hops: [3, 0], port_unreachable: [1, 4] },
];

/// Addresses, and what ICMP calls things.
struct Family {
    own: &'static str,
    router: &'static str,
    far: &'static str,
    too_many_hops: [u8; 2],
    port_unreachable: [u8; 2],
}

fn with_port(ip: &str, port: u16) -> String {
    SocketAddr::new(ip.parse().unwrap(), port).to_string()
}

/// A UDP socket in a namespace.
fn bound(namespace: &Namespace, address: &str) -> UdpSocket {
    let address = address.to_owned();
    namespace.run(move || UdpSocket::bind(address).unwrap())
}

/// What a quoted packet was sent from and to: ports of UDP, type and identifier of echo.
fn quoted(quote: &[u8]) -> (IpAddr, [u8; 8]) {
    let (destination, header): (IpAddr, _) = match quote[0] >> 4 {
        4 => (IpAddr::from(*quote[16..20].first_chunk::<4>().unwrap()), 20),
        _ => (IpAddr::from(*quote[24..40].first_chunk::<16>().unwrap()), 40),
    };
    (destination, *quote[header..].first_chunk().unwrap())
}

#[test]
fn datagrams_go_there_and_back() {
    let (_router, far) = routed();
    let mut guest = Guest::new();
    for family in FAMILIES {
        let socket = bound(&far, &with_port(family.far, 7000));
        guest.udp(&with_port(family.own, 5000), &with_port(family.far, 7000), 64, b"hello");
        let mut bytes = [0; 100];
        let (length, from) = socket.recv_from(&mut bytes).unwrap();
        assert_eq!((&bytes[..length], from.to_string()), (&b"hello"[..], with_port(family.own, 5000)));
        socket.send_to(b"and back", from).unwrap();
        let heard = guest.hear();
        // One router has passed it on, on its way here.
        assert_eq!((heard.source.to_string(), heard.hop_limit), (family.far.to_owned(), 63));
        assert_eq!(heard.what, What::Udp(7000, 5000, b"and back".to_vec()));
    }
    assert_eq!(guest.translator.udp().len(), 2);
}

/// Traceroute, by UDP and by ICMP.
#[test]
fn routers_on_the_way_are_heard() {
    let (_router, _far) = routed();
    let mut guest = Guest::new();
    for family in FAMILIES {
        for (hops, from, [kind, code]) in
            [(1, family.router, family.too_many_hops), (2, family.far, family.port_unreachable)]
        {
            let to = with_port(family.far, 33_434 + u16::from(hops));
            guest.udp(&with_port(family.own, 5000), &to, hops, b"probe");
            let heard = guest.hear();
            assert_eq!(heard.source.to_string(), from, "{hops} hops");
            let What::Icmp(heard_kind, heard_code, quote) = heard.what else { panic!("{heard:?}") };
            assert_eq!([heard_kind, heard_code], [kind, code]);
            let (destination, [s0, s1, d0, d1, ..]) = quoted(&quote);
            assert_eq!(destination.to_string(), family.far);
            assert_eq!((u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1])), (5000, 33_434 + u16::from(hops)));
        }
        guest.ping(family.far, 1, 77, b"probe");
        let heard = guest.hear();
        assert_eq!(heard.source.to_string(), family.router);
        let What::Icmp(kind, code, quote) = heard.what else { panic!("{heard:?}") };
        assert_eq!([kind, code], family.too_many_hops);
        let (destination, [_, _, _, _, i0, i1, s0, s1]) = quoted(&quote);
        assert_eq!((destination.to_string(), [i0, i1, s0, s1]), (family.far.to_owned(), [0, 77, 0, 1]));
        guest.ping(family.far, 2, 77, b"probe");
        let heard = guest.hear();
        assert_eq!((heard.source.to_string(), heard.hop_limit), (family.far.to_owned(), 63));
        let kind = if heard.source.is_ipv4() { 0 } else { 129 };
        assert_eq!(heard.what, What::Icmp(kind, 0, b"probe".to_vec()));
    }
}

#[test]
fn echo_has_the_guests_identifier_also_where_the_pod_uses_it_itself() {
    let (_router, _far) = routed();
    let mut guest = Guest::new();
    // Another translator's flow has it.
    let mut other = Guest::new();
    for family in FAMILIES {
        other.ping(family.far, 64, 9, b"other");
        for payload in [&b"mine"[..], &[1; 1400]] {
            guest.ping(family.far, 64, 9, payload);
            let heard = guest.hear();
            assert!(matches!(&heard.what, What::Icmp(0 | 129, 0, echoed) if *echoed == payload), "{heard:?}");
        }
        assert!(matches!(other.hear().what, What::Icmp(0 | 129, 0, echoed) if echoed == b"other"));
    }
    assert_eq!(guest.translator.echo().len(), 2);
}

#[test]
fn where_echo_sockets_are_forbidden_the_guest_is_told() {
    let (_router, _far) = routed();
    network::forbid_echo();
    let mut guest = Guest::new();
    for (family, prohibited) in FAMILIES.into_iter().zip([[3, 13], [1, 1]]) {
        guest.ping(family.far, 64, 77, b"probe");
        let What::Icmp(kind, code, quote) = guest.hear().what else { panic!("an error") };
        assert_eq!([kind, code], prohibited);
        assert_eq!(quoted(&quote).0.to_string(), family.far);
    }
    assert_eq!((guest.translator.echo().len(), guest.translator.counters().refused(Refusal::SocketError)), (0, 2));
}

#[test]
fn long_datagrams_pass_in_fragments_on_both_sides() {
    let (_router, far) = routed();
    let mut guest = Guest::new();
    let socket = bound(&far, "10.2.0.2:7000");
    let payload: Vec<u8> = (0..60_000_u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
    for frame in fragments("10.1.0.2:5000", "10.2.0.2:7000", &payload) {
        guest.frame(&frame);
    }
    let mut bytes = vec![0; 65_536];
    let (length, from) = socket.recv_from(&mut bytes).unwrap();
    assert!(bytes[..length] == payload);
    socket.send_to(&payload, from).unwrap();
    let (from, bytes) = guest.hear_udp();
    assert_eq!(from.to_string(), "10.2.0.2:7000");
    assert!(bytes == payload);
}

/// UDP and echo sockets of this thread's namespace. Some are in two lists: their inodes tell.
fn sockets() -> usize {
    let lists = ["udp", "udp6", "icmp", "icmp6"].map(|name| format!("/proc/thread-self/net/{name}"));
    let lists = lists.map(|file| std::fs::read_to_string(file).unwrap());
    let lines = lists.iter().flat_map(|list| list.lines().skip(1));
    lines.map(|line| line.split_whitespace().nth(9).unwrap()).collect::<HashSet<_>>().len()
}

#[test]
fn flows_leave_no_sockets_behind() {
    let (_router, _far) = routed();
    let mut guest = Guest::new();
    assert_eq!(sockets(), 0);
    for round in 0..3 {
        for number in 0..50_u16 {
            for family in FAMILIES {
                guest.udp(&with_port(family.own, 5000 + round), &with_port(family.far, 7000 + number), 64, b"x");
                guest.udp(&with_port(family.own, 6000 + number), &with_port(family.far, 53), 64, b"x");
                guest.ping(family.far, 64, 1 + number, b"x");
            }
        }
        assert_eq!((sockets(), guest.translator.udp().len(), guest.translator.echo().len()), (300, 200, 100));
        guest.wait(Duration::from_secs(120));
        assert_eq!((guest.translator.udp().len(), guest.translator.echo().len()), (0, 0));
        // Programs that other tests start hold them as well, between fork and exec.
        while sockets() > 0 {
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_request_for_an_address_does_not_leave_in_parts() {
    let (_router, _far) = routed();
    let mut guest = Guest::new();
    for frame in fragments("10.1.0.2:68", "255.255.255.255:67", &[1; 2000]) {
        guest.frame(&frame);
    }
    assert_eq!((guest.translator.udp().len(), guest.translator.counters().refused(Refusal::BadRequest)), (0, 1));
}

#[test]
fn what_has_no_route_is_told() {
    let (_router, _far) = routed();
    let mut guest = Guest::new();
    let cases = [
        // Nobody's, ours to refuse, and the router's to refuse.
        ("10.1.0.2", "192.0.2.1", [3, 0]),
        ("10.1.0.2", "10.9.0.1", [3, 13]),
        ("10.1.0.2", "10.8.0.1", [3, 1]),
        ("fd00:1::2", "2001:db8::1", [1, 0]),
        ("fd00:1::2", "fd00:9::1", [1, 1]),
        ("fd00:1::2", "fd00:8::1", [1, 0]),
    ];
    for (own, to, expected) in cases {
        guest.udp(&with_port(own, 5000), &with_port(to, 7), 64, b"x");
        let What::Icmp(kind, code, quote) = guest.hear().what else { panic!("an error") };
        assert_eq!([kind, code], expected, "{to}");
        assert_eq!(quoted(&quote).0.to_string(), to);
    }
}

#[test]
fn the_guest_learns_of_a_narrow_path_and_datagrams_pass_it() {
    let (router, far) = routed();
    router.run(|| network::ip(&["link set far mtu 1300"]));
    let mut guest = Guest::new();
    for (family, [kind, code]) in FAMILIES.into_iter().zip([[3, 4], [2, 0]]) {
        let socket = bound(&far, &with_port(family.far, 7000));
        let (own, to) = (with_port(family.own, 5000), with_port(family.far, 7000));
        guest.udp(&own, &to, 64, &[7; 1400]);
        let What::Icmp(heard_kind, heard_code, quote) = guest.hear().what else { panic!("an error") };
        assert_eq!([heard_kind, heard_code], [kind, code]);
        assert_eq!(quoted(&quote).0.to_string(), family.far);
        guest.udp(&own, &to, 64, &[7; 1400]);
        let mut bytes = [0; 2000];
        assert_eq!(socket.recv(&mut bytes).unwrap(), 1400);
    }
}

#[test]
fn groups_are_reached_and_their_members_answer() {
    let (router, _far) = routed();
    let mut guest = Guest::new();
    // It does not hear itself: broadcasts come back to this host, and to the listener.
    guest.forward_udp(1900, 1900);
    let pod = Ipv4Addr::new(10, 1, 0, 1);
    let socket = bound(&router, "0.0.0.0:1900");
    socket.join_multicast_v4(&Ipv4Addr::new(239, 1, 2, 3), &pod).unwrap();
    for to in ["239.1.2.3:1900", "10.1.0.255:1900", "255.255.255.255:1900"] {
        guest.udp("10.1.0.2:5000", to, 1, b"who?");
        let mut bytes = [0; 100];
        let (length, from) = socket.recv_from(&mut bytes).unwrap();
        assert_eq!((&bytes[..length], from.port()), (&b"who?"[..], 5000), "{to}");
        socket.send_to(b"me", from).unwrap();
        let (from, payload) = guest.hear_udp();
        assert_eq!((from.to_string(), &payload[..]), ("10.1.0.1:1900".to_owned(), &b"me"[..]));
    }
    let socket = bound(&router, "[::]:1901");
    let index = router.run(|| index_of("pod"));
    socket.join_multicast_v6(&"ff02::c".parse().unwrap(), index).unwrap();
    guest.udp("[fd00:1::2]:5000", "[ff02::c]:1901", 1, b"who?");
    let mut bytes = [0; 100];
    let (length, from) = socket.recv_from(&mut bytes).unwrap();
    assert_eq!((&bytes[..length], from.port()), (&b"who?"[..], 5000));
    socket.send_to(b"me", from).unwrap();
    assert_eq!(guest.hear_udp().1, b"me");
}

fn index_of(interface: &str) -> u32 {
    let output = std::process::Command::new("ip").args(["-o", "link", "show", interface]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(':').next().unwrap().parse().unwrap()
}

/// An IGMP or MLD report of version 1: the guest listens to a group.
fn report(own: &str, group: &str) -> Vec<u8> {
    let (own, group): (IpAddr, IpAddr) = (own.parse().unwrap(), group.parse().unwrap());
    let mut frame = Vec::new();
    match group {
        IpAddr::V4(address) => {
            let mut message = [&[0x16, 0, 0, 0][..], &address.octets()].concat();
            let sum: u32 = message.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
            let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            builder(own, group, 1).write(&mut frame, 2.into(), &message).unwrap();
        }
        IpAddr::V6(address) => {
            let builder = builder(own, group, 1).icmpv6_raw(131, 0, [0; 4]);
            builder.write(&mut frame, &address.octets()).unwrap();
        }
    }
    frame
}

#[test]
fn multicast_comes_in_on_a_forwarded_port_once_the_guest_listens() {
    let (router, _far) = routed();
    let mut guest = Guest::new();
    guest.forward_udp(5353, 5353);
    for (own, group, sender) in [("10.1.0.2", "224.0.0.251", "10.1.0.1:0"), ("fd00:1::2", "ff02::fb", "[fd00:1::1]:0")]
    {
        guest.frame(&report(own, group));
        let socket = bound(&router, sender);
        let to = match group.parse().unwrap() {
            IpAddr::V4(_) => with_port(group, 5353),
            IpAddr::V6(_) => format!("[{group}%{}]:5353", router.run(|| index_of("pod"))),
        };
        let port = socket.local_addr().unwrap().port();
        socket.send_to(b"hello, all", &to).unwrap();
        let heard = guest.hear();
        assert_eq!(heard.destination.to_string(), group);
        assert_eq!(heard.what, What::Udp(port, 5353, b"hello, all".to_vec()));
        // The guest's own does not come back to it, an answer to it does.
        guest.udp(&with_port(own, 5353), &with_port(group, 5353), 255, b"hello, too");
        guest.udp(&with_port(own, 5353), &socket.local_addr().unwrap().to_string(), 64, b"hello, you");
        let mut bytes = [0; 100];
        let length = socket.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"hello, you");
        socket.send_to(b"bye", with_port(own, 5353)).unwrap();
        assert_eq!(guest.hear_udp().1, b"bye");
    }
}

#[test]
fn a_forwarded_port_serves_many_peers() {
    let (router, far) = routed();
    let mut guest = Guest::new();
    guest.forward_udp(53, 5353);
    for family in FAMILIES {
        let peers: Vec<_> = (0..20)
            .map(|number| {
                if number % 2 == 0 {
                    bound(&far, &with_port(family.far, 0))
                } else {
                    bound(&router, &with_port(family.router, 0))
                }
            })
            .collect();
        for round in 0..3_u8 {
            for (number, peer) in peers.iter().enumerate() {
                let question = [round, u8::try_from(number).unwrap()];
                peer.send_to(&question, with_port(family.own, 53)).unwrap();
                let heard = guest.hear();
                let What::Udp(from, 5353, payload) = heard.what else { panic!("{heard:?}") };
                assert_eq!(payload, question);
                guest.udp(&with_port(family.own, 5353), &with_port(&heard.source.to_string(), from), 64, &payload);
                let mut answer = [0; 10];
                let (length, from) = peer.recv_from(&mut answer).unwrap();
                assert_eq!((&answer[..length], from.to_string()), (&question[..], with_port(family.own, 53)));
            }
        }
    }
    assert_eq!(guest.translator.udp().len(), 40);
}
