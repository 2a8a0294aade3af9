//! Cases of VLANs: who may send into which, with which tag a frame leaves, and that each VLAN learns for itself.

use super::*;

use DropReason::{ExceedsMtu, NoOtherPort, Runt, SamePort, VlanNotAllowed};
use VlanSpec::{Access, Qinq, Transparent, Trunk};

const fn port(vlans: VlanSpec) -> PortSpec {
    PortSpec { vlans, ..PORT }
}

/// A tag of 802.1Q with this control information.
const fn tag(control: u16) -> [u8; 4] {
    let [high, low] = control.to_be_bytes();
    [0x81, 0x00, high, low]
}

/// A service tag (802.1ad).
const fn service(vlan: u8) -> [u8; 4] {
    [0x88, 0xa8, 0x00, vlan]
}

#[test]
fn vlan_access_and_trunk() {
    // Two access ports of VLAN 10, one of 20, a trunk of both and a trunk of 20 alone. Frames are in the VLAN of their
    // port or tag, and get their tag where they leave at a trunk.
    Case {
        name: "vlan-access-and-trunk",
        ports: vec![
            port(Access(10)),
            port(Access(10)),
            port(Access(20)),
            port(Trunk(&[10, 20], None)),
            port(Trunk(&[20], None)),
        ],
        arrivals: vec![
            (1, 0, vec![short(ALL, at(1), 1)]),
            (1, 2, vec![short(ALL, at(3), 2)]),
            // The priority of a tag is its sender's.
            (2, 3, vec![short(ALL, at(4), 3).tagged(&[tag(10)]), short(ALL, at(4), 4).tagged(&[tag(0x6014)])]),
            (3, 1, vec![short(at(1), at(2), 5), short(at(4), at(2), 6)]),
            (4, 4, vec![short(at(3), at(5), 7).tagged(&[tag(20)])]),
        ],
        counted: vec![
            Counted::rx(1, 1, 2).tx(2, 2),
            Counted::rx(2, 2, 2).tx(2, 2),
            Counted::rx(1, 1, 2).tx(2, 2),
            Counted::rx(2, 2, 4).tx(3, 3),
            Counted::rx(1, 1, 1).tx(2, 2),
        ],
        ..CASE
    }
    .check();
}

#[test]
fn vlan_native() {
    // A trunk whose native VLAN is 10: its frames of 10 have no tag on the way out, and with or without one are taken in
    // where 10 is in the list. The other trunk's native VLAN is not in its list: its tag is refused.
    Case {
        name: "vlan-native",
        ports: vec![port(Trunk(&[10, 20], Some(10))), port(Trunk(&[20], Some(10))), port(Access(10)), port(Access(20))],
        arrivals: vec![
            (1, 0, vec![short(ALL, at(1), 1), short(ALL, at(1), 2).tagged(&[tag(10)])]),
            (1, 1, vec![short(ALL, at(2), 3), short(ALL, at(2), 4).tagged(&[tag(10)])]),
            (1, 0, vec![short(ALL, at(1), 5).tagged(&[tag(20)])]),
            (2, 2, vec![short(at(1), at(3), 6), short(ALL, at(3), 7)]),
            (2, 3, vec![short(at(1), at(4), 8)]),
        ],
        counted: vec![
            Counted::rx(3, 3, 6).tx(4, 4),
            Counted::rx(2, 1, 2).tx(4, 4).drops(&[(VlanNotAllowed, 1)]),
            Counted::rx(2, 2, 3).tx(3, 3),
            Counted::rx(1, 1, 1).tx(1, 1),
        ],
        ..CASE
    }
    .check();
}

#[test]
fn vlan_priority_tags() {
    // A tag of VLAN 0 is priority alone: kept between access ports, given the VLAN's number on a trunk. A trunk takes it
    // only where there is a native VLAN.
    let priority = |to, from, mark| short(to, at(from), mark).tagged(&[tag(0xa000)]);
    Case {
        name: "vlan-priority-tags",
        ports: vec![
            port(Access(10)),
            port(Access(10)),
            port(Trunk(&[10], None)),
            port(Trunk(&[], Some(10))),
            port(Transparent),
        ],
        arrivals: vec![
            (1, 0, vec![priority(ALL, 1, 1)]),
            (2, 3, vec![priority(ALL, 4, 2)]),
            (3, 2, vec![priority(ALL, 3, 3), short(at(1), at(3), 4).tagged(&[tag(0xa00a)])]),
            (4, 1, vec![short(at(1), at(2), 5).tagged(&[[0x88, 0xa8, 0x20, 0]])]),
            (4, 1, vec![short(ALL, at(2), 6).tagged(&[[0x88, 0xa8, 0x20, 0]])]),
        ],
        counted: vec![
            Counted::rx(1, 1, 3).tx(4, 4),
            Counted::rx(2, 2, 4).tx(2, 2),
            Counted::rx(2, 1, 1).tx(3, 3).drops(&[(VlanNotAllowed, 1)]),
            Counted::rx(1, 1, 3).tx(2, 2),
            Counted::rx(0, 0, 0),
        ],
        ..CASE
    }
    .check();
}

#[test]
fn vlan_qinq() {
    // Customers' tags travel inside VLAN 10: pushed around on trunks, handed out as they were. What has tags stays
    // outside where an access port is not for them.
    Case {
        name: "vlan-qinq",
        ports: vec![port(Qinq(10)), port(Qinq(10)), port(Trunk(&[10], None)), port(Access(10))],
        arrivals: vec![
            (1, 0, vec![short(ALL, at(1), 1).tagged(&[tag(7)])]),
            (1, 0, vec![short(at(9), at(1), 2).tagged(&[service(7), tag(8)]), short(at(9), at(1), 3)]),
            (2, 2, vec![short(at(1), at(3), 4).tagged(&[service(10), tag(7)])]),
            (2, 2, vec![short(at(1), at(3), 5).tagged(&[tag(10), tag(7), tag(8)])]),
            (3, 3, vec![short(at(1), at(4), 6).tagged(&[tag(10)])]),
        ],
        counted: vec![
            Counted::rx(3, 3, 9).tx(2, 2),
            Counted::rx(0, 0, 0).tx(3, 3),
            Counted::rx(2, 2, 2).tx(3, 3),
            Counted::rx(1, 0, 0).tx(3, 3).drops(&[(VlanNotAllowed, 1)]),
        ],
        ..CASE
    }
    .check();
}

#[test]
fn vlan_transparent() {
    // Ports without VLANs pass tags as they are, among themselves only: a frame's tag does not lead it into a VLAN.
    Case {
        name: "vlan-transparent",
        ports: vec![port(Transparent), port(Transparent), port(Access(10)), port(Trunk(&[10], None))],
        arrivals: vec![
            (1, 0, vec![short(ALL, at(1), 1).tagged(&[tag(10)]), short(ALL, at(1), 2)]),
            (2, 1, vec![short(at(1), at(2), 3).tagged(&[service(3), tag(4)])]),
            (3, 2, vec![short(at(1), at(3), 4)]),
        ],
        counted: vec![
            Counted::rx(2, 2, 2).tx(1, 1),
            Counted::rx(1, 1, 1).tx(2, 2),
            Counted::rx(1, 1, 1),
            Counted::rx(0, 0, 0).tx(1, 1),
        ],
        ..CASE
    }
    .check();
}

#[test]
fn vlan_learning() {
    // Station 1 is at port 0 in VLAN 10 and at port 1 in VLAN 20, and both are right. What is known in one VLAN is not in
    // the other, and a station behind the trunk may be in both.
    let through = |vlan, to, from, mark| short(to, at(from), mark).tagged(&[tag(vlan)]);
    Case {
        name: "vlan-learning",
        ports: vec![
            port(Access(10)),
            port(Access(20)),
            port(Trunk(&[10, 20], None)),
            port(Access(10)),
            port(Access(20)),
        ],
        arrivals: vec![
            (1, 0, vec![short(ALL, at(1), 1)]),
            (1, 1, vec![short(ALL, at(1), 2)]),
            (2, 2, vec![through(10, at(1), 3, 3), through(20, at(1), 3, 4)]),
            (3, 3, vec![short(at(3), at(4), 5), short(at(1), at(4), 6)]),
            (4, 4, vec![short(at(3), at(5), 7), short(at(4), at(5), 8)]),
            (5, 2, vec![through(20, at(3), 6, 9)]),
        ],
        counted: vec![
            Counted::rx(1, 1, 2).tx(2, 2),
            Counted::rx(1, 1, 2).tx(2, 2),
            Counted::rx(3, 2, 2).tx(5, 5).drops(&[(SamePort, 1)]),
            Counted::rx(2, 2, 2).tx(1, 1),
            Counted::rx(2, 2, 3).tx(1, 1),
        ],
        ..CASE
    }
    .check();
}

#[test]
fn vlan_not_allowed() {
    // Every frame that a port's VLANs do not let in; and one that is let in and finds no other port in its VLAN.
    let cut = |length: usize| Packet::from(short(ALL, at(1), 6).tagged(&[tag(10)]).frame[..length].to_vec());
    Case {
        name: "vlan-not-allowed",
        ports: vec![port(Access(10)), port(Trunk(&[10, 30], None)), port(Access(20))],
        arrivals: vec![
            (1, 0, vec![short(ALL, at(1), 1).tagged(&[tag(10)]), short(ALL, at(1), 2).tagged(&[service(20)])]),
            (1, 1, vec![short(ALL, at(2), 3), short(ALL, at(2), 4).tagged(&[tag(20)])]),
            (1, 1, vec![short(ALL, at(2), 5).tagged(&[tag(30)]), short(ALL, at(2), 5).tagged(&[tag(4095)])]),
            // Frames that end behind, and within, their tag.
            (2, 1, vec![cut(16), cut(15), cut(14)]),
            // What was refused has taught nobody.
            (3, 2, vec![short(at(1), at(3), 7)]),
        ],
        counted: vec![
            Counted::rx(2, 0, 0).tx(1, 1).drops(&[(VlanNotAllowed, 2)]),
            Counted::rx(7, 1, 1).drops(&[(Runt, 2), (VlanNotAllowed, 3), (NoOtherPort, 1)]),
            Counted::rx(1, 0, 0).drops(&[(NoOtherPort, 1)]),
        ],
        ..CASE
    }
    .check();
}

#[test]
fn vlan_and_mtu() {
    // The MTU is that of what lies behind the tags: a full frame passes a trunk with its tag and without.
    let long = |length, mark| Packet::from(frame(ALL, at(1), length, mark));
    Case {
        name: "vlan-and-mtu",
        ports: vec![port(Access(10)), port(Trunk(&[10], None)), port(Access(10))],
        arrivals: vec![
            (1, 0, vec![long(1514, 1), long(1515, 2)]),
            (1, 1, vec![long(1514, 3).tagged(&[tag(10)]), long(1515, 4).tagged(&[tag(10)])]),
        ],
        counted: vec![
            Counted::rx(2, 2, 4).tx(2, 1).drops(&[(ExceedsMtu, 1)]),
            Counted::rx(2, 2, 4).tx(2, 1).drops(&[(ExceedsMtu, 1)]),
            Counted::rx(0, 0, 0).tx(4, 2).drops(&[(ExceedsMtu, 2)]),
        ],
        ..CASE
    }
    .check();
}
