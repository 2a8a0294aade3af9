//! All ports on two sockets, with culvert-translator as a process: a pod between a world and a guest, each a network
//! namespace with the kernel's own TCP/IP in it. What culvertd does of it is in ci/system.
//!
//! Needs root, and network and process namespaces of its own: ci/isolated.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]
#![allow(
    missing_docs,
    dead_code,
    unsafe_code,
    clippy::cast_possible_truncation,
    reason = "tests; not all of what is shared is used"
)]

#[path = "../datagrams/network.rs"]
mod network;
#[path = "../transport/packets.rs"]
mod packets;
mod place;

use std::io::ErrorKind;
use std::net::{TcpListener, UdpSocket};
use std::time::Duration;

use culvert_steer::bound::Question;
use place::{ADDRESSES, Place, with_port};

/// Privileged and not, below and above the ports that the kernel gives out.
const PORTS: [u16; 4] = [80, 443, 12_345, 65_000];

/// How long a datagram is waited for that may not come, and one that must.
const SHORT: Duration = Duration::from_millis(300);
/// See [`SHORT`].
const LONG: Duration = Duration::from_secs(20);

/// An ordinary limit of descriptors is enough, and it is as isolated as ever.
#[test]
fn all_ports_lead_to_the_guest() {
    let place = Place::new();
    let translator = place.start(&["prlimit", "--nofile=1024"], "-t ~8080 -u ~8080");
    for address in ADDRESSES {
        for port in PORTS {
            place.reaches_guest(address, port);
        }
        for (port, why) in [(8080, "excluded"), (40_000, "the kernel's to give out")] {
            assert_eq!(place.connect(address, port).unwrap_err().kind(), ErrorKind::ConnectionRefused, "{why}");
            assert!(!place.datagram_arrives(address, port, SHORT), "{why}");
        }
    }
    // Nor do the ports that the two sockets have themselves.
    let own = Question::new().unwrap().ask().unwrap();
    assert_eq!(own.len(), 2, "{own:?}");
    for bound in own {
        match bound.is_udp {
            false => {
                assert_eq!(place.connect(ADDRESSES[0], bound.port).unwrap_err().kind(), ErrorKind::ConnectionRefused)
            }
            true => assert!(!place.datagram_arrives(ADDRESSES[1], bound.port, SHORT)),
        }
    }
    assert_eq!(translator.status("CapEff"), "0000000000000000");
    assert_eq!(translator.status("CapBnd"), "0000000000000000");
    assert_eq!(translator.status("Seccomp"), "2");
    let said = translator.stop();
    assert!(!said.contains("WARNING"), "{said}");
    // What steered has gone with it.
    assert_eq!(place.connect(ADDRESSES[0], 12_345).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

/// Datagrams of one peer stay together, and answers come from where they were sent to.
#[test]
fn each_peer_has_its_flow() {
    let place = Place::new();
    let translator = place.start(&[], "-u all");
    for address in ADDRESSES {
        let guest = place.guest.run(|| UdpSocket::bind("[::]:5353").unwrap());
        guest.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let peers: Vec<_> = (0..3)
            .map(|_| {
                let peer = place.world.run(move || UdpSocket::bind(with_port(place::any(address), 0)).unwrap());
                peer.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                peer.connect(with_port(address, 5353)).unwrap();
                peer
            })
            .collect();
        for round in 0..20_u8 {
            for (number, peer) in peers.iter().enumerate() {
                peer.send(&[number as u8, round]).unwrap();
            }
            for _ in &peers {
                let mut bytes = [0; 10];
                let (length, from) = guest.recv_from(&mut bytes).unwrap();
                assert_eq!((length, bytes[1]), (2, round));
                guest.send_to(&bytes[..2], from).unwrap();
            }
            for (number, peer) in peers.iter().enumerate() {
                let mut bytes = [0; 10];
                assert_eq!(peer.recv(&mut bytes).unwrap(), 2);
                assert_eq!(bytes[..2], [number as u8, round]);
            }
        }
        // Three flows, the guest's own apart.
        let flows = place.ask("flows").unwrap();
        assert_eq!(flows.iter().filter(|flow| flow.contains(":5353 peer")).count() % 3, 0, "{flows:?}");
    }
    assert_eq!(place.stat("refused_bad_destination"), 0);
    translator.stop();
}

#[test]
fn what_others_in_the_pod_have_is_theirs() {
    let place = Place::new();
    let before = (TcpListener::bind("0.0.0.0:9000").unwrap(), UdpSocket::bind("[::]:9000").unwrap());
    let translator = place.start(&[], "-t all -u all");
    let is_pods = |pods: &(TcpListener, UdpSocket), port: u16| {
        let stream = place.connect(ADDRESSES[0], port).unwrap();
        pods.0.set_nonblocking(false).unwrap();
        assert_eq!(pods.0.accept().unwrap().1, stream.local_addr().unwrap());
        pods.1.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        place.send(ADDRESSES[1], port, b"for the pod");
        let mut bytes = [0; 100];
        assert_eq!(pods.1.recv(&mut bytes).unwrap(), 11);
    };
    is_pods(&before, 9000);
    place.tcp_reaches_guest(ADDRESSES[0], 9001);
    let steered = place.stat("steered_ports");

    // It need not be the first that comes after it has begun to listen: that one is told that there is nobody.
    let after = (TcpListener::bind("0.0.0.0:9001").unwrap(), UdpSocket::bind("[::]:9001").unwrap());
    std::thread::sleep(Duration::from_millis(1100));
    let first = place.connect(ADDRESSES[0], 9001);
    assert!(first.is_err() || place::is_reset(first.unwrap()));
    is_pods(&after, 9001);
    is_pods(&before, 9000);
    assert_eq!(place.stat("steered_ports"), steered - 2);
    // Without that: by itself.
    let later = (TcpListener::bind("0.0.0.0:9002").unwrap(), UdpSocket::bind("[::]:9002").unwrap());
    place.wait_until("the port is left alone", || place.stat("steered_ports") == steered - 4);
    is_pods(&later, 9002);

    drop((before, after, later));
    place.wait_until("the ports are the guest's", || place.stat("steered_ports") == steered + 2);
    for port in 9000..9003 {
        place.reaches_guest(ADDRESSES[0], port);
    }
    translator.stop();
}

/// `forward add` and `forward remove` edit the table.
#[test]
fn what_is_steered_changes_while_it_runs() {
    let place = Place::new();
    let translator = place.start(&[], "-t all");
    assert!(!place.datagram_arrives(ADDRESSES[0], 7000, SHORT));
    place.ask("forward add udp all").unwrap();
    place.reaches_guest(ADDRESSES[0], 7000);
    place.ask("forward remove tcp 7000").unwrap();
    assert_eq!(place.connect(ADDRESSES[0], 7000).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    // A port that is named has a listener of its own, beside those that are steered.
    place.ask("forward add tcp 7000:7001").unwrap();
    let listener = place.guest.run(|| TcpListener::bind("[::]:7001").unwrap());
    let stream = place.connect(ADDRESSES[1], 7000).unwrap();
    assert_eq!(listener.accept().unwrap().1.port(), stream.local_addr().unwrap().port());
    place.ask("forward remove tcp none").unwrap();
    for port in [7000, 12_345] {
        assert_eq!(place.connect(ADDRESSES[1], port).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
    place.ask("forward add tcp ~5000").unwrap();
    place.reaches_guest(ADDRESSES[1], 12_345);
    assert_eq!(Question::new().unwrap().ask().unwrap().len(), 2);
    let refused = place.ask("stats").unwrap().into_iter().find(|line| line.starts_with("refused_socket_error"));
    assert_eq!(refused.as_deref(), Some("refused_socket_error 0"));
    translator.stop();
}

/// Without the right to steer there is a listener for each port, as many as descriptors allow.
#[test]
fn without_rights_each_port_has_a_listener() {
    let place = Place::new();
    let without = ["setpriv", "--bounding-set=-bpf,-net_admin,-sys_admin", "--inh-caps=-all"];
    let wrap: Vec<_> = without.into_iter().chain(["prlimit", "--nofile=1024"]).collect();
    let translator = place.start(&wrap, "-t all");
    assert_eq!(place.stat("steered_ports"), 0);
    assert!(Question::new().unwrap().ask().unwrap().len() > 300);
    let said = translator.stop();
    assert!(said.contains("of the ports that \"all\" means are not forwarded"), "{said}");
}

/// UDP's flows could not be bound at ports that take a right; nothing is promised there.
#[test]
fn udp_ports_that_take_a_right_are_left_alone() {
    let place = Place::new();
    network::sysctl("ipv4/ip_unprivileged_port_start", "1024");
    let translator = place.start(&[], "-t all -u all");
    assert!(!place.datagram_arrives(ADDRESSES[0], 443, SHORT));
    assert!(place.datagram_arrives(ADDRESSES[0], 1024, LONG));
    place.tcp_reaches_guest(ADDRESSES[0], 443);
    translator.stop();
}

/// The last of two programs would get everything: only one translator of a namespace steers.
#[test]
fn a_second_translator_takes_what_is_left() {
    let place = Place::new();
    let translator = place.start(&[], "-t ~7000");
    let second = place.start_another("-t ~1-6999,~7001-65535");
    place.wait_until("it has told", || second.words().contains("another translator has all ports"));
    place.tcp_reaches_guest(ADDRESSES[0], 7001);
    drop(second);
    translator.stop();
}
