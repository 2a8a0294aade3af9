//! Cases of plain bridging: learning, flooding, ageing, what is refused without any rule.

use super::*;

use DropReason::{
    ExceedsMtu, GroupSource, LinkLocal, NoOtherPort, PortDown, Quarantined, Runt, SamePort, SpoofedSource,
};

#[test]
fn flood() {
    // A broadcast, alone and in a burst with two more, goes everywhere but back.
    Case {
        name: "flood",
        ports: vec![PORT; 4],
        arrivals: vec![
            (1, 0, vec![short(ALL, at(1), 1)]),
            (1, 3, vec![short(ALL, at(4), 2), short(ALL, at(5), 3), short(ALL, at(4), 4)]),
        ],
        counted: vec![
            Counted::rx(1, 1, 3).tx(3, 3),
            Counted::rx(0, 0, 0).tx(4, 4),
            Counted::rx(0, 0, 0).tx(4, 4),
            Counted::rx(3, 3, 9).tx(1, 1),
        ],
        ..CASE
    }
    .check();
}

#[test]
fn learning() {
    // Two stations get to know each other; the third port sees the first frame only. A burst keeps its order at each
    // port, whatever went elsewhere in between.
    Case {
        name: "learning",
        ports: vec![PORT; 3],
        arrivals: vec![
            (1, 0, vec![short(ALL, at(1), 1)]),
            (1, 1, vec![short(at(1), at(2), 2)]),
            (2, 0, vec![short(at(2), at(1), 3), short(ALL, at(1), 4), short(at(2), at(1), 5), short(at(3), at(1), 6)]),
            (3, 2, vec![short(at(1), at(3), 7), short(at(2), at(3), 8)]),
            (3, 1, vec![short(at(3), at(2), 9), short(at(1), at(2), 10), short(at(3), at(2), 11)]),
        ],
        counted: vec![Counted::rx(5, 5, 8).tx(3, 3), Counted::rx(4, 4, 4).tx(6, 6), Counted::rx(2, 2, 2).tx(5, 5)],
        ..CASE
    }
    .check();
}

#[test]
fn same_port() {
    // Two stations behind one port: what is for the other one does not come back. The second is learned within the burst.
    Case {
        name: "same-port",
        ports: vec![PORT; 2],
        arrivals: vec![(1, 0, vec![short(at(2), at(1), 1), short(at(1), at(2), 2), short(at(2), at(1), 3)])],
        counted: vec![Counted::rx(3, 1, 1).drops(&[(SamePort, 2)]), Counted::rx(0, 0, 0).tx(1, 1)],
        ..CASE
    }
    .check();
}

#[test]
fn ageing() {
    // Known up to its age and not a second longer; a frame of its own renews it.
    Case {
        name: "ageing",
        ports: vec![PORT; 3],
        arrivals: vec![
            (10, 0, vec![short(ALL, at(1), 1)]),
            (10 + AGE_SECONDS, 1, vec![short(at(1), at(2), 2)]),
            (11 + AGE_SECONDS, 1, vec![short(at(1), at(2), 3)]),
            (400, 0, vec![short(at(2), at(1), 4)]),
            (400 + AGE_SECONDS, 1, vec![short(at(1), at(2), 5)]),
            (402 + AGE_SECONDS, 1, vec![short(at(1), at(2), 6)]),
        ],
        counted: vec![Counted::rx(2, 2, 3).tx(4, 4), Counted::rx(4, 4, 6).tx(2, 2), Counted::rx(0, 0, 0).tx(3, 3)],
        ..CASE
    }
    .check();
}

#[test]
fn unknown_unicast() {
    // Flooded until the station says a word.
    Case {
        name: "unknown-unicast",
        ports: vec![PORT; 3],
        arrivals: vec![
            (1, 0, vec![short(at(9), at(1), 1), short(at(9), at(1), 2)]),
            (2, 2, vec![short(at(1), at(9), 3)]),
            (3, 0, vec![short(at(9), at(1), 4)]),
        ],
        counted: vec![Counted::rx(3, 3, 5).tx(1, 1), Counted::rx(0, 0, 0).tx(2, 2), Counted::rx(1, 1, 1).tx(3, 3)],
        ..CASE
    }
    .check();
}

#[test]
fn moved_station() {
    // A station speaks at another port: what is for it goes there from the next frame on, and back again.
    Case {
        name: "moved-station",
        ports: vec![PORT; 3],
        arrivals: vec![
            (1, 0, vec![short(ALL, at(1), 1)]),
            (1, 2, vec![short(at(1), at(3), 2)]),
            (2, 1, vec![short(at(3), at(1), 3)]),
            (2, 2, vec![short(at(1), at(3), 4)]),
            (2, 0, vec![short(at(3), at(1), 5)]),
            (2, 2, vec![short(at(1), at(3), 6)]),
        ],
        counted: vec![Counted::rx(2, 2, 3).tx(2, 2), Counted::rx(1, 1, 1).tx(2, 2), Counted::rx(3, 3, 3).tx(3, 3)],
        ..CASE
    }
    .check();
}

#[test]
fn jumbo() {
    // Ports of MTU 9000, 1500 and 68: each takes what its MTU allows behind the Ethernet header and VLAN tags, the others
    // are not affected, and order is kept around what is refused.
    let untagged = [(60, 0), (82, 0), (83, 0), (1514, 0), (1515, 0), (9014, 0), (9015, 0)];
    let lengths = untagged.into_iter().chain([(1514, 1), (1514, 2), (1515, 1), (60, 0)]);
    let burst = |to| {
        let tagged = |(mark, (length, tags)): (u8, (usize, usize))| {
            let mut frame = frame(to, at(1), length, mark);
            (0..tags).for_each(|_| drop(frame.splice(12..12, [0x81, 0x00, 0x00, 0x2a])));
            Packet::from(frame)
        };
        (0..).zip(lengths.clone()).map(tagged).collect()
    };
    Case {
        name: "jumbo",
        ports: vec![PortSpec { mtu: 9000, ..PORT }, PortSpec { mtu: 9000, ..PORT }, PORT, PortSpec { mtu: 68, ..PORT }],
        arrivals: vec![(1, 0, burst(ALL)), (2, 2, vec![short(at(1), at(2), 0)]), (3, 0, burst(at(2)))],
        counted: vec![
            Counted::rx(22, 22, 44).tx(1, 1),
            Counted::rx(0, 0, 0).tx(11, 10).drops(&[(ExceedsMtu, 1)]),
            Counted::rx(1, 1, 1).tx(22, 14).drops(&[(ExceedsMtu, 8)]),
            Counted::rx(0, 0, 0).tx(11, 3).drops(&[(ExceedsMtu, 8)]),
        ],
        ..CASE
    }
    .check();
}

#[test]
fn runts() {
    // All lengths below an Ethernet header are refused, and teach nothing; the header alone passes.
    let mut burst: Vec<_> =
        (0..=14).map(|length| Packet::from(short(ALL, at(1), 1).frame[..length].to_vec())).collect();
    burst.push(short(ALL, at(1), 2));
    Case {
        name: "runts",
        ports: vec![PORT; 2],
        arrivals: vec![
            (1, 0, vec![short(ALL, at(7), 0).frame[..13].to_vec().into()]),
            (1, 1, vec![short(at(7), at(2), 3)]),
            (2, 0, burst),
        ],
        counted: vec![Counted::rx(17, 2, 2).tx(1, 1).drops(&[(Runt, 15)]), Counted::rx(1, 1, 1).tx(2, 2)],
        ..CASE
    }
    .check();
}

#[test]
fn link_local() {
    // 01:80:c2:00:00:00 to :0f stay on their link, :10 and neighbours do not; their source is learned all the same.
    let group = |last| MacAddress([0x01, 0x80, 0xc2, 0, 0, last]);
    let mut burst: Vec<_> = (0..=16).map(|last| short(group(last), at(1), last)).collect();
    burst.push(short(MacAddress([0x01, 0x80, 0xc2, 0, 1, 0]), at(1), 20));
    burst.push(short(MacAddress([0x01, 0x80, 0xc1, 0, 0, 0]), at(1), 21));
    Case {
        name: "link-local",
        ports: vec![PORT; 3],
        arrivals: vec![
            (1, 0, burst),
            (2, 1, vec![short(at(1), at(2), 22)]),
            (3, 2, vec![short(group(0), at(3), 23)]),
            (3, 1, vec![short(at(3), at(2), 24)]),
        ],
        counted: vec![
            Counted::rx(19, 3, 6).tx(1, 1).drops(&[(LinkLocal, 16)]),
            Counted::rx(2, 2, 2).tx(3, 3),
            Counted::rx(1, 0, 0).tx(4, 4).drops(&[(LinkLocal, 1)]),
        ],
        ..CASE
    }
    .check();
}

#[test]
fn source_bound() {
    // A port that is bound to one address sends from no other: not as itself, not as its neighbour, not as a group. What
    // it pretends is not learned.
    Case {
        name: "source-bound",
        ports: vec![PortSpec { mac: Some(at(1)), ..PORT }, PORT, PORT],
        arrivals: vec![
            (1, 1, vec![short(ALL, at(2), 1)]),
            (1, 0, vec![short(ALL, at(9), 2), short(at(2), at(1), 3), short(ALL, at(2), 4), short(ALL, ALL, 5)]),
            (2, 2, vec![short(at(2), at(3), 6), short(at(9), at(3), 7), short(at(1), at(3), 8)]),
        ],
        counted: vec![
            Counted::rx(4, 1, 1).tx(3, 3).drops(&[(GroupSource, 1), (SpoofedSource, 2)]),
            Counted::rx(1, 1, 2).tx(3, 3),
            Counted::rx(3, 3, 4).tx(1, 1),
        ],
        ..CASE
    }
    .check();
}

#[test]
fn group_source() {
    // No station may send from a group address.
    let multicast = MacAddress([0x03, 0, 0, 0, 0, 1]);
    Case {
        name: "group-source",
        ports: vec![PORT; 2],
        arrivals: vec![(1, 0, vec![short(at(2), ALL, 1), short(ALL, multicast, 2), short(at(2), at(1), 3)])],
        counted: vec![Counted::rx(3, 1, 1).drops(&[(GroupSource, 2)]), Counted::rx(0, 0, 0).tx(1, 1)],
        ..CASE
    }
    .check();
}

#[test]
fn mac_limit() {
    // A port with room for two addresses: the third and fourth send as well, but are not learned, and what is for them is
    // flooded. A full port cannot take a station away from another port either.
    Case {
        name: "mac-limit",
        ports: vec![PortSpec { mac_limit: 2, ..PORT }, PORT, PORT],
        arrivals: vec![
            (1, 0, vec![short(ALL, at(1), 1), short(ALL, at(2), 2), short(ALL, at(3), 3), short(ALL, at(4), 4)]),
            (
                2,
                1,
                vec![short(at(1), at(9), 5), short(at(2), at(9), 6), short(at(3), at(9), 7), short(at(4), at(9), 8)],
            ),
            (3, 0, vec![short(ALL, at(9), 9), short(ALL, at(1), 10)]),
            (4, 2, vec![short(at(9), at(8), 11)]),
        ],
        counted: vec![
            Counted::rx(6, 6, 12).tx(4, 4).not_learned(3),
            Counted::rx(4, 4, 6).tx(7, 7),
            Counted::rx(1, 1, 1).tx(8, 8),
        ],
        ..CASE
    }
    .check();
}

#[test]
fn multicast() {
    // IPv4 and IPv6 groups and the groups of protocols are flooded, also after a station was heard by that name's unicast
    // neighbour.
    let groups = [[0x01, 0, 0x5e, 0, 0, 0xfb], [0x33, 0x33, 0, 0, 0, 1], [0x01, 0, 0x0c, 0xcc, 0xcc, 0xcc]];
    let burst = (1..).zip(groups).map(|(mark, group)| short(MacAddress(group), at(1), mark)).collect();
    Case {
        name: "multicast",
        ports: vec![PORT; 3],
        arrivals: vec![
            (1, 0, burst),
            (2, 1, vec![short(MacAddress(groups[0]), MacAddress([0, 0, 0x5e, 0, 0, 0xfb]), 4)]),
        ],
        counted: vec![Counted::rx(3, 3, 6).tx(1, 1), Counted::rx(1, 1, 2).tx(3, 3), Counted::rx(0, 0, 0).tx(4, 4)],
        ..CASE
    }
    .check();
}

#[test]
fn networks() {
    // Two networks have nothing to do with each other, though a station of one name is in each; a port alone in a third
    // one has nobody to send to.
    let network = |network| PortSpec { network, ..PORT };
    Case {
        name: "networks",
        ports: vec![network(0), network(0), network(1), network(1), network(2)],
        arrivals: vec![
            (1, 0, vec![short(ALL, at(1), 1)]),
            (1, 2, vec![short(ALL, at(1), 2)]),
            (2, 1, vec![short(at(1), at(2), 3)]),
            (2, 3, vec![short(at(1), at(3), 4), short(at(2), at(3), 5)]),
            (3, 4, vec![short(ALL, at(5), 6), short(at(1), at(5), 7)]),
        ],
        counted: vec![
            Counted::rx(1, 1, 1).tx(1, 1),
            Counted::rx(1, 1, 1).tx(1, 1),
            Counted::rx(1, 1, 1).tx(2, 2),
            Counted::rx(2, 2, 2).tx(1, 1),
            Counted::rx(2, 0, 0).drops(&[(NoOtherPort, 2)]),
        ],
        ..CASE
    }
    .check();
}

/// An address is forgotten only after its port has left the plan: frames to it meanwhile were counted as sent on.
#[test]
fn an_address_behind_a_port_that_is_gone_is_unknown() {
    let mut bridge = Bridge::new(&[PORT; 2], AGE_SECONDS, false);
    bridge.tables[0].learn(0, at(9), PortId(9), 1000, 0);
    let left = bridge.forward(0, &[short(at(9), at(1), 1)], 0);
    bridge.assert_balance();
    assert_eq!(left[1].len(), 1);
}

#[test]
fn stopped_ports() {
    // A port without a guest, and one whose guest was stopped for a fault, refuse what is for them; the last is served.
    let (down, quarantined) = (PortSpec { way: Way::Down, ..PORT }, PortSpec { way: Way::Quarantined, ..PORT });
    Case {
        name: "stopped-ports",
        ports: vec![PORT, down, quarantined, PORT],
        arrivals: vec![(1, 0, vec![short(ALL, at(1), 1), short(at(9), at(1), 2)])],
        counted: vec![
            Counted::rx(2, 2, 6),
            Counted::rx(0, 0, 0).tx(2, 0).drops(&[(PortDown, 2)]),
            Counted::rx(0, 0, 0).tx(2, 0).drops(&[(Quarantined, 2)]),
            Counted::rx(0, 0, 0).tx(2, 2),
        ],
        ..CASE
    }
    .check();
}
