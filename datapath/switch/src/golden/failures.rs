//! Panics on a burst's way: what was on its way is accounted for, and the next burst passes. And bursts that cost too much.

use std::panic::{AssertUnwindSafe, catch_unwind};

use culvert_frame::{DropReason, MacAddress};

use super::{Bridge, PORT, Packet, PortSpec, frame};
use crate::forward::{COPY_COST, TURN_COST};
use crate::port::{Egress, PortId};

/// A frame for everybody.
fn flooded(length: usize) -> Packet {
    frame(MacAddress::BROADCAST, MacAddress([2, 0, 0, 0, 0, 1]), length, 7).into()
}

/// Makes the next delivery at a port panic.
fn poison(bridge: &Bridge, port: u16) {
    let Egress::Test(sink, _) = &bridge.topology.port(PortId(port)).unwrap().egress else { panic!("no test port") };
    let poisoned = catch_unwind(AssertUnwindSafe(|| {
        let _held = sink.lock().unwrap();
        panic!("on purpose");
    }));
    assert!(poisoned.is_err());
}

fn heal(bridge: &Bridge, port: u16) {
    let Egress::Test(sink, _) = &bridge.topology.port(PortId(port)).unwrap().egress else { panic!("no test port") };
    sink.clear_poison();
}

#[test]
fn a_panic_while_frames_are_delivered_leaves_no_frame_unaccounted_for() {
    let mut bridge = Bridge::new(&[PortSpec { ..PORT }; 5], 300, false);
    let flood: Vec<_> = (0..3).map(|_| flooded(100)).collect();
    poison(&bridge, 2);
    let failed = catch_unwind(AssertUnwindSafe(|| bridge.forward(0, &flood, 1)));
    assert!(failed.is_err());
    assert_eq!(bridge.forwarder.recover(&bridge.topology), None, "no guest's buffers were at fault");
    bridge.assert_balance();
    let drops = bridge.drops();
    let abandoned = |port| drops.get(&(port, DropReason::Abandoned)).copied().unwrap_or(0);
    assert_eq!([0, 1, 2, 3, 4].map(abandoned), [0, 0, 3, 3, 3], "port 1 had its frames already");
    heal(&bridge, 2);
    bridge.take(1);
    let left = bridge.forward(0, &flood, 1);
    assert_eq!(left.iter().map(Vec::len).collect::<Vec<_>>(), [0, 3, 3, 3, 3]);
    bridge.assert_balance();
}

#[test]
fn a_panic_while_frames_are_admitted_counts_them_as_failed() {
    let mut bridge = Bridge::new(&[PortSpec { ..PORT }; 2], 300, false);
    // As the forwarder leaves it: the burst is counted, one frame of it is refused, another one is marked for port 1.
    let [counters] = &*bridge.counters[0] else { panic!("one worker") };
    counters.rx_frames.add(4);
    counters.drop_frame(DropReason::Runt, 4, &[0; 4]);
    bridge.forwarder.want(PortId(1), 0b10);
    bridge.forwarder.recover(&bridge.topology);
    bridge.assert_balance();
    assert_eq!(bridge.drops().get(&(0, DropReason::Failed)), Some(&3));
    assert_eq!(bridge.drops().get(&(1, DropReason::Abandoned)), None, "it was never offered");
}

#[test]
fn a_costly_burst_that_cannot_be_left_where_it_is_goes_on_whole() {
    let mut bridge = Bridge::new(&[PortSpec { ..PORT }; 8], 300, false);
    let flood: Vec<_> = (0..32).map(|_| flooded(1514)).collect();
    let cost = (1514 + COPY_COST) * 7 * 32;
    assert!(cost > TURN_COST, "{cost}");
    let left = bridge.forward(0, &flood, 1);
    assert!(left.iter().skip(1).all(|frames| frames.len() == 32));
    bridge.assert_balance();
}
