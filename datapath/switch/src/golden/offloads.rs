//! Cases of offloads: what is passed on undone to a receiver that takes it, and done in software for one that does not.

use culvert_frame::Offload;
use culvert_guest::net_header::DATA_VALID;
use culvert_guest::receive::PutError;
use culvert_guest::{NetHeader, Piece};

use super::packet::{ACK, CWR, PSH, Stream, TCP4, TCP6, UDP4, UDP6};
use super::*;
use crate::burst::{Frame, Sink};
use crate::egress::{self, Workspace};
use crate::ingress::{self, Ingress};

use DropReason::{BadOffload, ExceedsMtu, OffloadNotNegotiated};

/// Takes everything.
const MODERN: PortSpec = PortSpec { takes: Offloads::ALL, ..PORT };
/// Takes frames whose checksum is missing, but no unsegmented ones.
const SUMS_ONLY: PortSpec = PortSpec { takes: Offloads::CHECKSUM, ..PORT };
/// Takes complete frames only.
const PLAIN: PortSpec = PORT;

/// Carries VLAN 10 tagged.
const fn trunk(port: PortSpec) -> PortSpec {
    PortSpec { vlans: VlanSpec::Trunk(&[10], None), ..port }
}

const fn access(port: PortSpec) -> PortSpec {
    PortSpec { vlans: VlanSpec::Access(10), ..port }
}

const TAG: [u8; 4] = [0x81, 0x00, 0x20, 10];

/// All three kinds of receivers get a burst of port 0.
fn to_all_kinds(name: &'static str, packets: Vec<Packet>) {
    let count = packets.len() as u64;
    Case {
        name,
        ports: vec![PORT, MODERN, SUMS_ONLY, PLAIN],
        arrivals: vec![(1, 0, packets)],
        counted: vec![
            Counted::rx(count, count, 3 * count),
            Counted::rx(0, 0, 0).tx(count, count),
            Counted::rx(0, 0, 0).tx(count, count),
            Counted::rx(0, 0, 0).tx(count, count),
        ],
        ..CASE
    }
    .check();
}

#[test]
fn offload_checksum() {
    // Missing checksums: left to those who take that, completed for the last port. Between them frames without a request.
    to_all_kinds(
        "offload-checksum",
        vec![
            TCP4.partial(),
            TCP4.whole(),
            Stream { mark: 2, ..TCP6 }.partial(),
            Stream { mark: 3, payload: 101, ..UDP4 }.partial(),
            Stream { mark: 4, payload: 33, ..UDP6 }.partial(),
            UDP4.whole(),
        ],
    );
}

#[test]
fn offload_tso4() {
    // 1000 bytes in segments of 300: the last one is shorter and has PSH.
    to_all_kinds("offload-tso4", vec![Stream { payload: 1000, flags: ACK | PSH, ..TCP4 }.unsegmented(300)]);
}

#[test]
fn offload_tso6() {
    to_all_kinds("offload-tso6", vec![Stream { payload: 900, flags: ACK | PSH, ..TCP6 }.unsegmented(300)]);
}

#[test]
fn offload_uso() {
    // Segments of UDP are datagrams; a frame of one segment is a frame without a checksum.
    let stream = |stream| Stream { payload: 700, ..stream };
    to_all_kinds(
        "offload-uso",
        vec![stream(UDP4).unsegmented(300), stream(UDP6).unsegmented(301), UDP4.unsegmented(100)],
    );
}

#[test]
fn offload_ecn() {
    // CWR goes out in the first segment only. Who takes TSO but not ECN gets segments, of TCP without CWR none.
    let takes = Offloads::CHECKSUM | Offloads::TSO4 | Offloads::TSO6;
    let cwr = |stream| Stream { payload: 500, flags: ACK | CWR, ..stream }.unsegmented(200);
    Case {
        name: "offload-ecn",
        ports: vec![PORT, MODERN, PortSpec { takes, ..PORT }],
        arrivals: vec![(1, 0, vec![cwr(TCP4), cwr(TCP6), Stream { payload: 500, ..TCP4 }.unsegmented(200)])],
        counted: vec![Counted::rx(3, 3, 6), Counted::rx(0, 0, 0).tx(3, 3), Counted::rx(0, 0, 0).tx(3, 3)],
        ..CASE
    }
    .check();
}

#[test]
fn offload_push() {
    // From an access port to trunks: the tag moves the offsets by 4, for those who take the frame undone as in segments.
    Case {
        name: "offload-push",
        ports: vec![access(PORT), trunk(MODERN), trunk(PLAIN)],
        arrivals: vec![(
            1,
            0,
            vec![
                TCP4.partial(),
                UDP6.partial(),
                Stream { payload: 500, ..TCP6 }.unsegmented(300),
                Stream { payload: 500, ..UDP4 }.unsegmented(300),
                TCP4.whole(),
            ],
        )],
        counted: vec![Counted::rx(5, 5, 10), Counted::rx(0, 0, 0).tx(5, 5), Counted::rx(0, 0, 0).tx(5, 5)],
        ..CASE
    }
    .check();
}

#[test]
fn offload_pop() {
    // And back: from a trunk to access ports, and to another trunk, where all stays.
    let tagged = |packet: Packet| packet.tagged(&[TAG]);
    Case {
        name: "offload-pop",
        ports: vec![trunk(PORT), access(MODERN), access(PLAIN), trunk(MODERN)],
        arrivals: vec![(
            1,
            0,
            vec![
                tagged(TCP4.partial()),
                tagged(UDP6.partial()),
                tagged(Stream { payload: 500, ..TCP6 }.unsegmented(300)),
                tagged(Stream { payload: 500, ..UDP4 }.unsegmented(300)),
                tagged(TCP4.whole()),
            ],
        )],
        counted: vec![
            Counted::rx(5, 5, 15),
            Counted::rx(0, 0, 0).tx(5, 5),
            Counted::rx(0, 0, 0).tx(5, 5),
            Counted::rx(0, 0, 0).tx(5, 5),
        ],
        ..CASE
    }
    .check();
}

#[test]
fn offload_priority_tag() {
    // A priority tag gets its VLAN: nothing moves. Behind an inner tag all is as far away as it was.
    let priority = [0x81, 0x00, 0x60, 0];
    let inner = [0x81, 0x00, 0, 7];
    Case {
        name: "offload-priority-tag",
        ports: vec![access(PORT), trunk(MODERN), trunk(PLAIN), access(PLAIN)],
        arrivals: vec![(
            1,
            0,
            vec![
                TCP4.partial().tagged(&[priority]),
                Stream { payload: 500, ..TCP4 }.unsegmented(300).tagged(&[priority, inner]),
            ],
        )],
        counted: vec![
            Counted::rx(2, 2, 6),
            Counted::rx(0, 0, 0).tx(2, 2),
            Counted::rx(0, 0, 0).tx(2, 2),
            Counted::rx(0, 0, 0).tx(2, 2),
        ],
        ..CASE
    }
    .check();
}

#[test]
fn offload_data_valid() {
    // What a guest says of its checksums is not believed: its DATA_VALID goes nowhere, nor do the other fields, which mean
    // nothing without a request.
    let mut packet = TCP4.whole();
    packet.header.flags = 2;
    let mut noise = UDP4.whole();
    noise.header = NetHeader { flags: 4, hdr_len: 7, gso_size: 9, csum_start: 11, csum_offset: 13, gso_type: 0 };
    to_all_kinds("offload-data-valid", vec![packet, noise]);
}

#[test]
fn offload_mirror() {
    // A mirror's copy is treated as its target takes frames, apart from what the receiver gets.
    let mirrors = [Some(MirrorTo { target: PortId(2), rx: true, tx: false }), None];
    Case {
        name: "offload-mirror",
        ports: vec![access(PortSpec { mirrors, ..PORT }), access(MODERN), PLAIN],
        arrivals: vec![(1, 0, vec![TCP4.partial(), Stream { payload: 500, ..TCP4 }.unsegmented(300)])],
        counted: vec![Counted::rx(2, 2, 4), Counted::rx(0, 0, 0).tx(2, 2), Counted::rx(0, 0, 0).tx(2, 2)],
        ..CASE
    }
    .check();
}

#[test]
fn offload_mtu() {
    // Segments must fit, not the whole: 54 bytes of headers and 200 of payload fit an MTU of 240, 201 do not; checksums
    // change nothing about that.
    let small = |port| PortSpec { mtu: 240, ..port };
    let segments = |size| Stream { payload: 1000, ..TCP4 }.unsegmented(size);
    let whole = |payload| Stream { payload, ..TCP4 }.partial();
    Case {
        name: "offload-mtu",
        ports: vec![PORT, small(MODERN), small(PLAIN)],
        arrivals: vec![(1, 0, vec![segments(200), segments(201), whole(200), whole(201)])],
        counted: vec![
            Counted::rx(4, 4, 8),
            Counted::rx(0, 0, 0).tx(4, 2).drops(&[(ExceedsMtu, 2)]),
            Counted::rx(0, 0, 0).tx(4, 2).drops(&[(ExceedsMtu, 2)]),
        ],
        ..CASE
    }
    .check();
}

#[test]
fn offload_bad_requests() {
    // Requests that do not fit their frames, each refused: none of them, and none of their sources, gets in.
    let changed = |packet: &Packet, change: fn(&mut NetHeader)| {
        let mut packet = packet.clone();
        change(&mut packet.header);
        packet
    };
    let (sum, segments) = (TCP4.partial(), Stream { payload: 500, ..TCP4 }.unsegmented(300));
    let tag = [0x81, 0x00, 0, 7];
    let bad = vec![
        changed(&sum, |header| header.csum_start = 2000),
        changed(&sum, |header| header.csum_start = 33),
        changed(&sum, |header| header.csum_offset = 6),
        changed(&sum, |header| (header.csum_start, header.csum_offset) = (0, 6)),
        changed(&segments, |header| header.flags = 0),
        changed(&segments, |header| header.gso_size = 0),
        changed(&segments, |header| header.gso_type = 4),
        changed(&segments, |header| header.gso_type = 5),
        changed(&segments, |header| header.gso_type = 3),
        changed(&segments, |header| header.csum_offset = 6),
        // In more than 1024 segments.
        Packet { header: NetHeader { gso_size: 1, ..segments.header }, ..Stream { payload: 1025, ..TCP4 }.partial() },
        // Behind three tags, and of no protocol.
        segments.clone().tagged(&[tag, tag, tag]),
        Packet { header: segments.header, ..short(at(2), at(1), 1) },
    ];
    let count = bad.len() as u64;
    Case {
        name: "offload-bad-requests",
        ports: vec![PORT, MODERN],
        arrivals: vec![(1, 0, bad), (2, 1, vec![short(at(1), at(2), 2)])],
        heard: vec![&[], &[0]],
        counted: vec![Counted::rx(count, 0, 0).tx(1, 1).drops(&[(BadOffload, count)]), Counted::rx(1, 1, 1)],
        ..CASE
    }
    .check();
}

#[test]
fn offload_not_negotiated() {
    // Each kind is refused by itself to a guest that negotiated all others.
    let port = |asks| PortSpec { asks, ..PORT };
    let (sums, tso4) = (Offloads::CHECKSUM, Offloads::CHECKSUM | Offloads::TSO4);
    let long = |stream| Stream { payload: 500, ..stream };
    Case {
        name: "offload-not-negotiated",
        ports: vec![port(Offloads::NONE), port(sums), port(tso4), MODERN],
        arrivals: vec![
            (1, 0, vec![TCP4.partial()]),
            (1, 1, vec![long(TCP4).unsegmented(300), long(TCP6).unsegmented(300), long(UDP4).unsegmented(300)]),
            (1, 2, vec![long(TCP6).unsegmented(300), Stream { flags: CWR, ..long(TCP4) }.unsegmented(300)]),
            (1, 2, vec![long(TCP4).unsegmented(300)]),
        ],
        counted: vec![
            Counted::rx(1, 0, 0).tx(1, 1).drops(&[(OffloadNotNegotiated, 1)]),
            Counted::rx(3, 0, 0).tx(1, 1).drops(&[(OffloadNotNegotiated, 3)]),
            Counted::rx(3, 1, 3).drops(&[(OffloadNotNegotiated, 2)]),
            Counted::rx(0, 0, 0).tx(1, 1),
        ],
        ..CASE
    }
    .check();
}

#[test]
fn what_a_nic_has_checked_is_told_to_those_who_take_partial_checksums() {
    let bridge = Bridge::new(&[MODERN, PLAIN], AGE_SECONDS, false);
    let ingress = Ingress { offload: Offload::Valid, ..Ingress::default() };
    let packet = TCP4.whole();
    let frame = Frame::local(local(&packet, Offloads::NONE)).unwrap();
    for (port, flags) in [(0, DATA_VALID), (1, 0)] {
        let port = bridge.topology.port(PortId(port)).unwrap();
        let treatment = egress::treat(port, &ingress, frame.length, frame.head).unwrap();
        let mut left: Vec<Packet> = Vec::new();
        egress::deliver(&mut left, port.egress.takes(), &frame, treatment, &mut Workspace::default()).unwrap();
        assert_eq!(left, [Packet { header: NetHeader { flags, ..NetHeader::default() }, ..packet.clone() }]);
    }
}

/// A guest without mergeable buffers, whose buffers hold 400 bytes.
struct SmallBuffers(Vec<Packet>);

impl Sink for SmallBuffers {
    fn put<'p>(
        &mut self,
        header: &NetHeader,
        head: &[u8],
        length: u32,
        rest: impl Iterator<Item = Piece<'p>>,
    ) -> Result<(), PutError> {
        if length > 400 { Err(PutError::SmallBuffer) } else { self.0.put(header, head, length, rest) }
    }

    fn takes_flooded(&mut self) -> Result<bool, PutError> {
        Ok(true)
    }
}

#[test]
fn a_guest_that_takes_unsegmented_frames_and_has_no_buffers_for_them_gets_segments() {
    let bridge = Bridge::new(&[access(PORT), trunk(MODERN)], AGE_SECONDS, false);
    let (from, to) = (bridge.topology.port(PortId(0)).unwrap(), bridge.topology.port(PortId(1)).unwrap());
    let packet = Stream { payload: 700, ..TCP4 }.unsegmented(300);
    let frame = Frame::local(local(&packet, Offloads::ALL)).unwrap();
    let (_, ingress) = ingress::admit(from, &frame).unwrap();
    let treatment = egress::treat(to, &ingress, frame.length, frame.head).unwrap();
    let mut sink = SmallBuffers(Vec::new());
    egress::deliver(&mut sink, Offloads::ALL, &frame, treatment, &mut Workspace::default()).unwrap();
    // 54 bytes of headers and the tag; 300, 300 and 100 of payload.
    assert_eq!(sink.0.iter().map(|packet| packet.frame.len()).collect::<Vec<_>>(), [358, 358, 158]);
    assert!(sink.0.iter().all(|packet| packet.is_valid() && packet.checksum_is_right()));
}

/// A sender that asks for very small segments had the worker cut for as long as it liked, once for each receiver.
#[test]
fn a_burst_is_cut_into_so_many_segments_only() {
    let mut bridge = Bridge::new(&[PORT, PLAIN, PLAIN], AGE_SECONDS, false);
    // 1000 segments of one byte each, for two receivers: two frames fit, and no third one.
    let packets = vec![Stream { payload: 1000, ..TCP4 }.unsegmented(1); 3];
    let segments = |left: Vec<Vec<Packet>>| left.iter().map(Vec::len).sum::<usize>();
    assert_eq!(segments(bridge.forward(0, &packets, 1)), 4000);
    bridge.assert_balance();
    let count = |port: u16| bridge.drops().get(&(port, DropReason::SegmentLimit)).copied().unwrap_or(0);
    assert_eq!(count(1) + count(2), 2);
    // The next burst has the whole limit again.
    assert_eq!(segments(bridge.forward(0, &packets[..1], 1)), 2000);
}
