//! Cases of a port's rules: guard, limits, isolation, mirrors; and of snooping.

use std::net::Ipv6Addr;

use super::packet::{ip, ones_complement};
use super::*;
use crate::ip::build::{ethernet, summed_v6};
use crate::snoop::build::{igmp_query, igmp_report, mld_query, mld_report};

use DropReason::{
    BroadcastLimit, ExceedsMtu, Isolated, MirrorTarget, NoGroupMember, NoOtherPort, PortDown, SamePort, SpoofedAddress,
    SpoofedSource, UnknownLimit,
};

/// A port that may send as station 1, 10.0.0.1 and 2001:db8::1 only.
const GUARDED: PortSpec = PortSpec { mac: Some(at(1)), addresses: &["10.0.0.1/32", "2001:db8::1/128"], ..PORT };

/// A good frame and a bad one, of a guarded port with two others.
fn guard(name: &'static str, good: Vec<u8>, bad: Vec<u8>, reason: DropReason) {
    Case {
        name,
        ports: vec![GUARDED, PORT, PORT],
        arrivals: vec![(1, 0, vec![good.into()]), (1, 0, vec![bad.into()]), (1, 1, vec![short(ALL, at(9), 1)])],
        heard: vec![&[1, 2], &[], &[0, 2]],
        counted: vec![
            Counted::rx(2, 1, 2).tx(1, 1).drops(&[(reason, 1)]),
            Counted::rx(1, 1, 2).tx(1, 1),
            Counted::rx(0, 0, 0).tx(2, 2),
        ],
        ..CASE
    }
    .check();
}

#[test]
fn guard_mac() {
    let udp = |from| ip(ALL, from, "10.0.0.1", "10.0.0.255", 17, &[0x13, 0x88, 0x13, 0x88, 0, 8, 0, 0]);
    guard("guard-mac", udp(at(1)), udp(at(2)), SpoofedSource);
}

#[test]
fn guard_ipv4() {
    let udp = |source| ip(ALL, at(1), source, "10.0.0.255", 17, &[0x13, 0x88, 0x13, 0x88, 0, 8, 0, 0]);
    guard("guard-ipv4", udp("10.0.0.1"), udp("10.0.0.2"), SpoofedAddress);
}

#[test]
fn guard_ipv6() {
    let echo = |source: &str| {
        let message = summed_v6(source, "ff02::1", 58, vec![128, 0, 0, 0, 0, 1, 0, 1]);
        ip(MacAddress([0x33, 0x33, 0, 0, 0, 1]), at(1), source, "ff02::1", 58, &message)
    };
    guard("guard-ipv6", echo("2001:db8::1"), echo("2001:db8::2"), SpoofedAddress);
}

#[test]
fn guard_arp() {
    let request = |sender: [u8; 4]| {
        let packet = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &at(1).0, &sender, &[0; 6], &[10, 0, 0, 9]].concat();
        ethernet(ALL.0, at(1).0, 0x0806, &packet)
    };
    guard("guard-arp", request([10, 0, 0, 1]), request([10, 0, 0, 2]), SpoofedAddress);
}

#[test]
fn guard_ndp() {
    // A neighbour advertisement to all nodes, for the port's own address and for another one.
    let advertisement = |target: &str| {
        let target = target.parse::<Ipv6Addr>().unwrap().octets();
        let body = [&[136, 0, 0, 0, 0x20, 0, 0, 0], &target[..], &[2, 1], &at(1).0].concat();
        let mut frame = ip(
            MacAddress([0x33, 0x33, 0, 0, 0, 1]),
            at(1),
            "2001:db8::1",
            "ff02::1",
            58,
            &summed_v6("2001:db8::1", "ff02::1", 58, body),
        );
        // The hop limit of neighbour discovery.
        frame[21] = 255;
        frame
    };
    guard("guard-ndp", advertisement("2001:db8::1"), advertisement("2001:db8::9"), SpoofedAddress);
}

/// `count` frames, told apart by `mark`.
fn several(to: MacAddress, from: MacAddress, count: u8, mark: u8) -> Vec<Packet> {
    (mark..mark + count).map(|mark| short(to, from, mark)).collect()
}

#[test]
fn limit_broadcast() {
    // Ten broadcasts a second, and 32 at once at the start. Frames to known stations are not counted.
    Case {
        name: "limit-broadcast",
        ports: vec![PortSpec { broadcast_limit: Some(10), ..PORT }, PORT],
        arrivals: vec![
            (1, 1, vec![short(at(1), at(2), 0)]),
            (1, 0, several(ALL, at(1), 32, 1)),
            (1, 0, several(MacAddress([0x33, 0x33, 0, 0, 0, 1]), at(1), 2, 50)),
            (1, 0, several(at(2), at(1), 2, 60)),
            (2, 0, several(ALL, at(1), 10, 70)),
            (2, 0, several(ALL, at(1), 1, 90)),
        ],
        heard: vec![&[0], &[1], &[], &[1], &[1], &[]],
        counted: vec![Counted::rx(47, 44, 44).tx(1, 1).drops(&[(BroadcastLimit, 3)]), Counted::rx(1, 1, 1).tx(44, 44)],
        ..CASE
    }
    .check();
}

#[test]
fn limit_unknown() {
    // The same for frames to stations that nobody knows; broadcasts have a limit of their own, which lets none pass.
    Case {
        name: "limit-unknown",
        ports: vec![PortSpec { broadcast_limit: Some(0), unknown_limit: Some(10), ..PORT }, PORT],
        arrivals: vec![
            (1, 0, several(at(2), at(1), 32, 1)),
            (1, 0, several(at(3), at(1), 2, 50)),
            (1, 0, several(ALL, at(1), 1, 55)),
            (1, 1, several(at(1), at(2), 1, 56)),
            (1, 0, several(at(2), at(1), 2, 60)),
            (2, 0, several(at(3), at(1), 10, 70)),
            (2, 0, several(at(3), at(1), 1, 90)),
        ],
        heard: vec![&[1], &[], &[], &[0], &[1], &[1], &[]],
        counted: vec![
            Counted::rx(48, 44, 44).tx(1, 1).drops(&[(BroadcastLimit, 1), (UnknownLimit, 3)]),
            Counted::rx(1, 1, 1).tx(44, 44),
        ],
        ..CASE
    }
    .check();
}

#[test]
fn isolated() {
    // Two isolated ports see the third one and not each other: no flood, no frame to a known station.
    let isolated = PortSpec { isolated: true, ..PORT };
    Case {
        name: "isolated",
        ports: vec![isolated, isolated, PORT],
        arrivals: vec![
            (1, 0, vec![short(ALL, at(1), 1)]),
            (1, 1, vec![short(at(1), at(2), 2), short(at(9), at(2), 3), short(ALL, at(2), 4)]),
            (2, 2, vec![short(at(1), at(3), 5), short(ALL, at(3), 6)]),
            (2, 0, vec![short(at(3), at(1), 7)]),
        ],
        counted: vec![
            Counted::rx(2, 2, 2).tx(2, 2),
            Counted::rx(3, 2, 2).tx(1, 1).drops(&[(Isolated, 1)]),
            Counted::rx(2, 2, 3).tx(4, 4),
        ],
        ..CASE
    }
    .check();
}

#[test]
fn isolated_alone() {
    // Where all are isolated, nobody has anybody to send to.
    let isolated = PortSpec { isolated: true, ..PORT };
    Case {
        name: "isolated-alone",
        ports: vec![isolated, isolated],
        arrivals: vec![(1, 0, vec![short(ALL, at(1), 1), short(at(9), at(1), 2)])],
        counted: vec![Counted::rx(2, 0, 0).drops(&[(NoOtherPort, 2)]), Counted::rx(0, 0, 0)],
        ..CASE
    }
    .check();
}

/// A port whose frames are copied to `target`.
const fn mirrored(target: u16, rx: bool, tx: bool) -> PortSpec {
    PortSpec { mirrors: [Some(MirrorTo { target: PortId(target), rx, tx }), None], ..PORT }
}

#[test]
fn mirror_rx() {
    // What port 0 sends is copied to port 3, also what is refused for where it goes; not what may not come in. The target
    // is flooded by nobody, and sends nothing.
    Case {
        name: "mirror-rx",
        ports: vec![PortSpec { mac: Some(at(1)), ..mirrored(3, true, false) }, PORT, PORT, PORT],
        arrivals: vec![
            (1, 0, vec![short(ALL, at(1), 1), short(at(1), at(1), 2), short(ALL, at(7), 3)]),
            (2, 1, vec![short(at(1), at(2), 4), short(ALL, at(2), 5)]),
            (3, 3, vec![short(ALL, at(4), 6), short(at(1), at(4), 7)]),
            (3, 1, vec![short(at(4), at(2), 8)]),
        ],
        counted: vec![
            Counted::rx(3, 1, 4).tx(3, 3).drops(&[(SpoofedSource, 1), (SamePort, 1)]),
            Counted::rx(3, 3, 5).tx(1, 1),
            Counted::rx(0, 0, 0).tx(3, 3),
            Counted::rx(2, 0, 0).tx(2, 2).drops(&[(MirrorTarget, 2)]),
        ],
        ..CASE
    }
    .check();
}

#[test]
fn mirror_tx() {
    // What port 0 is to get is copied, whether it takes it or not; what it sends is not.
    Case {
        name: "mirror-tx",
        ports: vec![PortSpec { mtu: 68, ..mirrored(2, false, true) }, PORT, PORT],
        arrivals: vec![
            (1, 0, vec![short(ALL, at(1), 1)]),
            (1, 1, vec![short(at(1), at(2), 2), frame(ALL, at(2), 200, 3).into(), short(at(2), at(2), 4)]),
        ],
        counted: vec![
            Counted::rx(1, 1, 1).tx(2, 1).drops(&[(ExceedsMtu, 1)]),
            Counted::rx(3, 2, 4).tx(1, 1).drops(&[(SamePort, 1)]),
            Counted::rx(0, 0, 0).tx(2, 2),
        ],
        ..CASE
    }
    .check();
}

#[test]
fn mirror_both() {
    // Both directions of port 0, of a network of its own VLAN, to a target in another network. Copies have the tag with
    // which the frame came, and one target gets one copy, however many mirrors lead to it.
    let vlans = VlanSpec::Access(10);
    let both = PortSpec { vlans, ..mirrored(3, true, true) };
    let trunk = VlanSpec::Trunk(&[10], None);
    let tag = [0x81, 0x00, 0x00, 10];
    Case {
        name: "mirror-both",
        ports: vec![
            both,
            PortSpec { vlans: trunk, ..mirrored(3, true, false) },
            both,
            PortSpec { network: 1, vlans, ..PORT },
        ],
        arrivals: vec![
            (1, 0, vec![short(ALL, at(1), 1)]),
            (1, 1, vec![short(at(1), at(2), 2).tagged(&[tag]), short(ALL, at(2), 3).tagged(&[tag])]),
            (2, 2, vec![short(at(2), at(3), 4)]),
        ],
        counted: vec![
            Counted::rx(1, 1, 3).tx(2, 2),
            Counted::rx(2, 2, 5).tx(2, 2),
            Counted::rx(1, 1, 2).tx(2, 2),
            Counted::rx(0, 0, 0).tx(4, 4),
        ],
        ..CASE
    }
    .check();
}

#[test]
fn mirror_to_a_mirrored_port_and_to_one_that_is_down() {
    // Copies are not copied again: port 2 is told of port 0's frames and port 3 not of them. A target without a guest
    // costs its copies, nothing else.
    Case {
        name: "mirror-chain",
        ports: vec![
            mirrored(2, true, true),
            mirrored(4, true, true),
            mirrored(3, true, true),
            PORT,
            PortSpec { way: Way::Down, ..PORT },
        ],
        arrivals: vec![(1, 0, vec![short(ALL, at(1), 1)]), (1, 1, vec![short(at(1), at(2), 2)])],
        counted: vec![
            Counted::rx(1, 1, 3).tx(1, 1),
            Counted::rx(1, 1, 3).tx(1, 1),
            Counted::rx(0, 0, 0).tx(2, 2),
            Counted::rx(0, 0, 0),
            Counted::rx(0, 0, 0).tx(2, 0).drops(&[(PortDown, 2)]),
        ],
        ..CASE
    }
    .check();
}

#[test]
fn a_mirror_to_a_port_that_is_gone_copies_nothing() {
    let mut bridge = Bridge::new(&[mirrored(7, true, true), PORT], AGE_SECONDS, false);
    bridge.forward(0, &[short(ALL, at(1), 1)], 0);
    bridge.forward(1, &[short(at(1), at(2), 2)], 0);
    bridge.assert_balance();
}

/// Stations stay in the table until they age out, also those of a port that gets copies from now on, or other VLANs.
#[test]
fn a_station_behind_a_port_that_left_its_vlan_is_unknown() {
    for now in [PortSpec { vlans: VlanSpec::Access(20), ..PORT }, PortSpec { network: 1, ..PORT }, PORT] {
        let is_target = now.network == 0 && now.vlans == PORT.vlans;
        let first = if is_target { mirrored(2, false, true) } else { PORT };
        let mut bridge = Bridge::new(&[first, PORT, now], AGE_SECONDS, false);
        bridge.tables[0].learn(0, at(9), PortId(2), 1000, 0);
        let left = bridge.forward(1, &[short(at(9), at(1), 1)], 0);
        // It is flooded, and the mirror has one copy of what the first port got.
        assert_eq!([left[0].len(), left[2].len()], [1, usize::from(is_target)], "{now:?}");
        let drops = bridge.drops();
        assert!(drops.is_empty(), "{drops:?}");
        bridge.assert_balance();
        assert_eq!(bridge.totals()[1].copies, 1 + u64::from(is_target));
    }
}

/// With the checksum of the IPv4 header.
fn summed(mut frame: Vec<u8>) -> Packet {
    let header = 14..14 + usize::from(frame[14] % 16) * 4;
    let sum = !ones_complement(&frame[header]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame.into()
}

#[test]
fn snooping_igmp() {
    // Port 0 has the querier, port 1 reports 239.1.2.3. Until the query was answered, all is flooded; then the group goes
    // to port 1 and the querier, other groups to the querier alone, reports to nobody else.
    let to = |group: [u8; 4], mark| short(MacAddress([1, 0, 0x5e, group[1] & 0x7f, group[2], group[3]]), at(9), mark);
    Case {
        name: "snooping-igmp",
        ports: vec![PORT; 4],
        snooping: true,
        arrivals: vec![
            (1, 2, vec![to([239, 1, 2, 3], 1)]),
            (2, 0, vec![summed(igmp_query("224.0.0.1", 100, "0.0.0.0"))]),
            (3, 1, vec![summed(igmp_report("239.1.2.3"))]),
            (4, 2, vec![to([239, 1, 2, 3], 2)]),
            (20, 2, vec![to([239, 1, 2, 3], 3)]),
            (20, 2, vec![to([239, 9, 9, 9], 4)]),
            (20, 0, vec![to([239, 9, 9, 9], 5)]),
            (20, 2, vec![to([224, 0, 0, 251], 6)]),
            (21, 3, vec![summed(igmp_report("239.1.2.3"))]),
            (22, 2, vec![to([239, 1, 2, 3], 7)]),
            (22, 2, vec![short(ALL, at(9), 8)]),
        ],
        heard: vec![
            &[0, 1, 3],
            &[1, 2, 3],
            &[0, 2, 3],
            &[0, 1, 3],
            &[0, 1],
            &[0],
            &[],
            &[0, 1, 3],
            &[0],
            &[0, 1, 3],
            &[0, 1, 3],
        ],
        counted: vec![
            Counted::rx(2, 1, 3).tx(9, 9).drops(&[(NoGroupMember, 1)]),
            Counted::rx(1, 1, 3).tx(7, 7),
            Counted::rx(7, 7, 18).tx(2, 2),
            Counted::rx(1, 1, 1).tx(7, 7),
        ],
    }
    .check();
}

#[test]
fn snooping_mld() {
    // The same for IPv6. IPv4's groups, of which nobody asks, are flooded as before.
    let to = |last, mark| short(MacAddress([0x33, 0x33, 0, 0, 0, last]), at(9), mark);
    Case {
        name: "snooping-mld",
        ports: vec![PORT; 4],
        snooping: true,
        arrivals: vec![
            (1, 0, vec![mld_query("ff02::1", 10_000, "::").into()]),
            (2, 1, vec![mld_report("ff05::77").into()]),
            (3, 2, vec![to(0x77, 1)]),
            (20, 2, vec![to(0x77, 2)]),
            (20, 2, vec![to(0x78, 3)]),
            (20, 2, vec![to(0x01, 4)]),
            (20, 2, vec![short(MacAddress([1, 0, 0x5e, 1, 2, 3]), at(9), 5)]),
            (21, 3, vec![mld_report("ff05::78").into()]),
            (22, 2, vec![to(0x78, 6)]),
        ],
        heard: vec![&[1, 2, 3], &[0, 2, 3], &[0, 1, 3], &[0, 1], &[0], &[0, 1, 3], &[0, 1, 3], &[0], &[0, 3]],
        counted: vec![
            Counted::rx(1, 1, 3).tx(8, 8),
            Counted::rx(1, 1, 3).tx(5, 5),
            Counted::rx(6, 6, 14).tx(2, 2),
            Counted::rx(1, 1, 1).tx(6, 6),
        ],
    }
    .check();
}

#[test]
fn snooping_behind_isolated_ports() {
    // A query of an isolated port is not believed: other isolated ports have not heard it, and would lose their groups.
    let isolated = PortSpec { isolated: true, ..PORT };
    let stream = |mark| short(MacAddress([1, 0, 0x5e, 1, 2, 3]), at(9), mark);
    Case {
        name: "snooping-isolated",
        ports: vec![isolated, isolated, PORT],
        snooping: true,
        arrivals: vec![
            (1, 0, vec![summed(igmp_query("224.0.0.1", 100, "0.0.0.0"))]),
            (20, 2, vec![stream(1)]),
            (20, 1, vec![stream(2)]),
        ],
        heard: vec![&[2], &[0, 1], &[2]],
        counted: vec![Counted::rx(1, 1, 1).tx(1, 1), Counted::rx(1, 1, 1).tx(1, 1), Counted::rx(1, 1, 2).tx(2, 2)],
    }
    .check();
}
