//! Proof that [`trace`](crate::trace) tells what the switch does: more than 10,000 random frames in random networks are
//! first traced, then forwarded, and what was told is compared with what was counted and what has left.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use culvert_frame::{DropReason, MacAddress, Offload, Offloads};
use culvert_guest::NetHeader;
use culvert_guest::net_header::DATA_VALID;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};

use super::model::{any_packet, any_port, any_stream, headers};
use super::packet::{Layout, Packet};
use super::{Bridge, PORT, PortSpec, VlanSpec, Way, local, rates, short};
use crate::PortId;
use crate::egress::{Treatment, Work};
use crate::rates::Rates;
use crate::snoop::build::{igmp_query, igmp_report};
use crate::trace::{Fate, Trace, trace};
use crate::vlan::{TAG_BYTES, TagEdit};

const NETWORKS: u32 = 400;
const FRAMES: usize = 30;

/// Seconds that pass, then a frame that arrives at a port.
type Arrival = (u32, u16, Packet);

/// How often what was seen: a generator that never gets somewhere proves nothing there.
type Tally = BTreeMap<String, u32>;

/// What every run must see, drops at either side apart.
const MUST_SEE: [&str; 18] = [
    "a copy",
    "to listeners",
    "Rewrite, passed",
    "Keep, passed",
    "Keep, checksum left",
    "Keep, segments left",
    "Keep, completed",
    "Keep, segmented",
    "Push, passed",
    "Push, checksum left",
    "Push, segments left",
    "Push, completed",
    "Push, segmented",
    "Pop, passed",
    "Pop, checksum left",
    "Pop, segments left",
    "Pop, completed",
    "Pop, segmented",
];

/// Drops that depend on rings, queues and pools, or on how a frame lies in them: no trace can know of these.
const UNKNOWN_TO_TRACES: [DropReason; 12] = [
    DropReason::Oversized,
    DropReason::ShortHeader,
    DropReason::QueueDisabled,
    DropReason::NoBuffer,
    DropReason::NoFloodBuffer,
    DropReason::SmallBuffer,
    DropReason::RxBusy,
    DropReason::Failed,
    DropReason::Abandoned,
    DropReason::SegmentLimit,
    DropReason::NicFull,
    DropReason::PoolEmpty,
];

#[test]
fn a_trace_tells_what_the_switch_does() {
    let tally = RefCell::new(Tally::new());
    let config = Config { cases: NETWORKS, failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config).run(&any_network(), |(ports, snooping, arrivals)| {
        let mut bridge = Bridge::new(&ports, super::AGE_SECONDS, snooping);
        let mut now = 0;
        for (seconds, port, packet) in arrivals {
            now += seconds;
            check(&mut bridge, port, &packet, now, &mut tally.borrow_mut());
        }
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));

    let tally = tally.into_inner();
    assert!(tally["frames"] >= 10_000);
    let drops = DropReason::ALL.into_iter().filter(|reason| !UNKNOWN_TO_TRACES.contains(reason));
    let wanted = drops.map(|reason| reason.to_string()).chain(MUST_SEE.map(str::to_owned));
    let missing: Vec<_> = wanted.filter(|what| !tally.contains_key(what)).collect();
    assert!(missing.is_empty(), "never seen: {missing:?}; seen: {tally:?}");
}

#[test]
fn traces_use_up_no_limit() {
    let port = PortSpec { broadcast_limit: Some(1), ..PORT };
    let mut bridge = Bridge::new(&[port, PORT], super::AGE_SECONDS, false);
    let packet = short(MacAddress::BROADCAST, super::at(1), 1);
    for _ in 0..100 {
        let frame = local(&packet, Offloads::NONE);
        let told = trace(&bridge.topology, PortId(0), frame, Duration::ZERO, &|_| String::new()).unwrap();
        assert_eq!(told.refused, None);
    }
    assert_eq!(bridge.forward(0, &vec![packet; 32], 0)[1].len(), 32);
}

/// Traces a frame, forwards it, and compares.
fn check(bridge: &mut Bridge, port: u16, packet: &Packet, now: u32, tally: &mut Tally) {
    let time = Duration::from_secs(now.into());
    bridge.expire_groups(time);
    let (totals, drops, known) = (bridge.totals(), bridge.drops(), addresses(bridge, now));
    let ask = || {
        let frame = local(packet, bridge.specs[usize::from(port)].asks);
        trace(&bridge.topology, PortId(port), frame, time, &|id| format!("p{}", id.0)).unwrap()
    };
    let told = ask();
    // It has changed nothing, its own answer included.
    assert_eq!(ask(), told);
    assert_eq!((bridge.totals(), addresses(bridge, now)), (totals.clone(), known));

    let left = bridge.forward(port, std::slice::from_ref(packet), now);
    bridge.assert_balance();
    let mut expected = drops;
    for (at, reason) in refusals(port, &told) {
        *expected.entry((at, reason)).or_default() += 1;
        *tally.entry(reason.to_string()).or_default() += 1;
    }
    assert_eq!(bridge.drops(), expected, "{told:?}");
    for (number, (after, before)) in (0..).zip(bridge.totals().iter().zip(&totals)) {
        let here = u64::from(number == port);
        let forwarded = if told.refused.is_none() { here } else { 0 };
        assert_eq!(after.rx_frames - before.rx_frames, here);
        assert_eq!(after.forwarded - before.forwarded, forwarded, "{told:?}");
        assert_eq!(after.copies - before.copies, here * told.fates.len() as u64, "{told:?}");

        let fates: Vec<_> = told.fates.iter().filter(|fate| fate.port == PortId(number)).collect();
        assert!(fates.len() <= 1, "{told:?}");
        assert_eq!(after.offered - before.offered, fates.len() as u64, "{told:?}");
        let length = u32::try_from(packet.frame.len()).unwrap();
        let leaving = fates.iter().filter_map(|fate| fate.treatment.ok());
        let bytes: u64 = leaving.map(|treatment| u64::from(treatment.edit.length(length))).sum();
        assert_eq!(after.tx_bytes - before.tx_bytes, bytes, "{told:?}");

        let (left, takes) = (&left[usize::from(number)], bridge.specs[usize::from(number)].takes);
        match fates.first() {
            Some(Fate { treatment: Ok(treatment), .. }) => assert_treated(*treatment, packet, left, takes),
            Some(Fate { treatment: Err(_), .. }) | None => assert_eq!(left.len(), 0, "{told:?}"),
        }
    }
    assert_steps(&told);
    count(&told, tally);
}

/// Everything that is in the tables.
fn addresses(bridge: &Bridge, now: u32) -> Vec<String> {
    let all = bridge.tables.iter().flat_map(|table| table.entries(now));
    let mut all: Vec<_> = all.map(|entry| format!("{entry:?}")).collect();
    all.sort();
    all
}

/// What a trace says of drops: at which port, and why.
fn refusals(port: u16, told: &Trace) -> Vec<(u16, DropReason)> {
    let at_tx = told.fates.iter().filter_map(|fate| Some((fate.port.0, fate.treatment.err()?)));
    let at_rx = told.refused.map(|reason| (port, reason));
    at_tx.chain(at_rx).collect()
}

/// Panics unless what left a port is the packet in that treatment.
fn assert_treated(Treatment { edit, work }: Treatment, packet: &Packet, left: &[Packet], takes: Offloads) {
    let mut edited = vec![0; packet.frame.len() + TAG_BYTES];
    let length = edit.apply(&packet.frame, &mut edited);
    edited.truncate(length);
    for packet in left {
        let headers = headers(&edited).min(edited.len());
        assert_eq!(packet.frame[..headers], edited[..headers]);
    }
    let made =
        NetHeader { flags: if takes.contains(Offloads::CHECKSUM) { DATA_VALID } else { 0 }, ..NetHeader::default() };
    match (work, left) {
        (Work::Pass(offload), [left]) => {
            assert_eq!(left.header, NetHeader::of(&offload.moved(edit.growth()).fields()));
            assert_eq!(left.frame, edited);
        }
        (Work::Complete(partial), [left]) => {
            assert_eq!((left.header, left.frame.len()), (made, edited.len()));
            let field = usize::from(partial.start + partial.offset).checked_add_signed(edit.growth().into()).unwrap();
            assert_eq!(left.frame[..field], edited[..field]);
            assert_eq!(left.frame[field + 2..], edited[field + 2..]);
        }
        (Work::Segment(segmentation), left) => {
            let whole = u32::try_from(packet.frame.len()).unwrap();
            assert_eq!(left.len() as u64, u64::from(segmentation.segments(whole)));
            let mut payload: Vec<u8> = Vec::new();
            for segment in left {
                assert_eq!(segment.header, made);
                assert!(segment.checksum_is_right());
                payload.extend(&segment.frame[Layout::of(&segment.frame).unwrap().payload..]);
            }
            assert_eq!(payload, packet.frame[usize::from(segmentation.header_bytes)..]);
        }
        (work, left) => panic!("{} frames left: {work:?}", left.len()),
    }
}

/// Panics unless the steps for persons say what the fates for programs do.
fn assert_steps(told: &Trace) {
    let steps = |start: &str| told.steps.iter().filter(|step| step.what.starts_with(start)).count();
    let leaving = told.fates.iter().filter(|fate| fate.treatment.is_ok()).count();
    assert_eq!(steps("leaves at "), leaving, "{told:?}");
    assert_eq!(steps("is dropped at "), told.fates.len() - leaving, "{told:?}");
    assert_eq!(steps("refused: "), usize::from(told.refused.is_some()), "{told:?}");
    assert!(told.steps.first().is_some_and(|step| step.what.starts_with("arrives at ")), "{told:?}");
}

fn count(told: &Trace, tally: &mut Tally) {
    let mut saw = |what: &str| *tally.entry(what.to_owned()).or_default() += 1;
    saw("frames");
    if told.steps.iter().any(|step| step.what == "goes to listeners and routers") {
        saw("to listeners");
    }
    for fate in &told.fates {
        if fate.is_copy {
            saw("a copy");
        }
        let Ok(Treatment { edit, work }) = fate.treatment else { continue };
        let edit = match edit {
            TagEdit::Keep => "Keep",
            TagEdit::Push(_) => "Push",
            TagEdit::Pop => "Pop",
            TagEdit::Rewrite(_) => "Rewrite",
        };
        let work = match work {
            Work::Pass(Offload::None | Offload::Valid) => "passed",
            Work::Pass(Offload::Checksum(_)) => "checksum left",
            Work::Pass(Offload::Segment(_)) => "segments left",
            Work::Complete(_) => "completed",
            Work::Segment(_) => "segmented",
        };
        saw(&format!("{edit}, {work}"));
    }
}

/// Ports with all that can be set, and what arrives.
fn any_network() -> impl Strategy<Value = (Vec<PortSpec>, bool, Vec<Arrival>)> {
    const PORTS: u16 = 6;
    let ports = prop::collection::vec(any_guarded_port(PORTS), usize::from(PORTS));
    let seconds = prop_oneof![4 => Just(0_u32), 4 => 1..20_u32, 1 => 100..400_u32];
    let arrivals = prop::collection::vec((seconds, 0..PORTS, any_arrival()), FRAMES);
    // Among any six ports of two networks few frames get far: in most runs the ports have more in common.
    let vlans = prop_oneof![
        2 => Just(None),
        3 => prop::collection::vec(any_common_vlans(), usize::from(PORTS)).prop_map(Some),
        1 => Just(Some(vec![VlanSpec::Transparent; usize::from(PORTS)])),
    ];
    (ports, vlans, any::<[bool; 3]>(), arrivals).prop_map(
        |(mut ports, vlans, [is_one, is_open, snooping], arrivals)| {
            for (number, port) in ports.iter_mut().enumerate() {
                if let Some(vlans) = &vlans {
                    port.vlans = vlans[number];
                }
                if is_one {
                    port.network = 0;
                }
                if is_open {
                    (port.mac, port.addresses, port.way, port.mtu) = (None, &[], Way::Out, 9000);
                    (port.broadcast_limit, port.unknown_limit, port.rates) = (None, None, rates::NONE);
                }
            }
            (ports, snooping, arrivals)
        },
    )
}

fn any_common_vlans() -> impl Strategy<Value = VlanSpec> {
    prop_oneof![
        2 => Just(VlanSpec::Access(2)),
        1 => Just(VlanSpec::Qinq(2)),
        2 => Just(VlanSpec::Trunk(&[1, 2], None)),
        1 => Just(VlanSpec::Trunk(&[1], Some(2))),
    ]
}

fn any_guarded_port(ports: u16) -> impl Strategy<Value = PortSpec> {
    const ADDRESSES: &[&[&str]] = &[&["10.0.0.1/32", "fd00::1/128"], &["10.0.0.2/32"]];
    let addresses = prop_oneof![6 => Just(&[][..]), 1 => select(ADDRESSES)];
    let limit = || prop_oneof![6 => Just(None), 1 => Just(Some(0)), 1 => Just(Some(1))];
    let rates = prop_oneof![
        6 => Just(rates::NONE),
        1 => Just(Rates { rx: rates::TRICKLE, ..rates::NONE }),
        1 => Just(Rates { tx: rates::TRICKLE, ..rates::NONE }),
    ];
    (any_port(2, ports), addresses, limit(), limit(), rates).prop_map(
        |(port, addresses, broadcast_limit, unknown_limit, rates)| PortSpec {
            addresses,
            broadcast_limit,
            unknown_limit,
            rates,
            ..port
        },
    )
}

fn any_arrival() -> impl Strategy<Value = Packet> {
    let group = select(&[[1, 2, 3], [1, 2, 4], [0, 0, 251]][..]);
    let to_group =
        (group, 0..8_u8).prop_map(|([b, c, d], from)| short(MacAddress([1, 0, 0x5e, b, c, d]), super::at(from), 1));
    let message = prop_oneof![Just(igmp_query("224.0.0.1", 50, "0.0.0.0")), Just(igmp_report("239.1.2.3"))];
    prop_oneof![
        6 => any_packet(),
        8 => any_stream(),
        1 => any_bad_request(),
        4 => to_group,
        3 => message.prop_map(Packet::from),
    ]
}

/// A request with another field than its sender meant.
fn any_bad_request() -> impl Strategy<Value = Packet> {
    (any_stream(), 0..5_u8, prop_oneof![0..70_u16, any::<u16>()]).prop_map(|(mut packet, field, value)| {
        let header = &mut packet.header;
        match field {
            0 => header.gso_type = value.to_le_bytes()[0],
            1 => header.gso_size = value,
            2 => header.csum_start = value,
            3 => header.csum_offset = value,
            _ => header.flags = value.to_le_bytes()[0],
        }
        packet
    })
}
