//! Cases of a port's rates, and rates over simulated time.

use super::packet::{Stream, TCP4};
use super::*;
use crate::rates::{Allowance, LEAST_BURST_BYTES, Rate};

use DropReason::{ExceedsMtu, GroupSource, PortDown, RxRate, TxRate};

/// No rates.
pub const NONE: Rates = Rates { rx: OPEN, tx: OPEN };
const OPEN: Rate = Rate { bytes: None, frames: None };

/// Ten frames a second, four at once.
const SLOW: Rate = Rate { bytes: None, frames: Some(Allowance { per_second: 10, burst: 4 }) };

/// A frame a minute, or so.
pub const TRICKLE: Rate =
    Rate { bytes: Some(Allowance { per_second: 1, burst: 60 }), frames: Some(Allowance { per_second: 1, burst: 2 }) };

/// 10 Mbit/s, with the usual burst.
const TEN_MBIT: Rate =
    Rate { bytes: Some(Allowance { per_second: 1_250_000, burst: LEAST_BURST_BYTES }), frames: None };

/// `count` frames, told apart by `mark`.
fn several(to: MacAddress, from: MacAddress, count: u8, mark: u8) -> Vec<Packet> {
    (mark..mark + count).map(|mark| short(to, from, mark)).collect()
}

#[test]
fn rate_rx() {
    // Four frames at once may come in, broken ones among them; what follows is dropped. Later as much comes in as the time was
    // worth. Towards the port there is no rate.
    let mut broken = short(ALL, at(1), 50);
    broken.frame[6] = 1;
    Case {
        name: "rate-rx",
        ports: vec![PortSpec { rates: Rates { rx: SLOW, ..NONE }, ..PORT }, PORT],
        arrivals: vec![
            (1, 1, several(at(1), at(2), 8, 100)),
            (1, 0, several(ALL, at(1), 4, 1)),
            (1, 0, several(ALL, at(1), 2, 10)),
            (2, 0, several(at(2), at(1), 4, 20)),
            (2, 0, several(at(2), at(1), 2, 30)),
            (2, 1, several(at(1), at(2), 8, 110)),
            (3, 0, vec![broken]),
            (3, 0, several(at(2), at(1), 3, 40)),
            (3, 0, several(at(2), at(1), 1, 60)),
        ],
        heard: vec![&[0], &[1], &[], &[1], &[], &[0], &[], &[1], &[]],
        counted: vec![
            Counted::rx(17, 11, 11).tx(16, 16).drops(&[(GroupSource, 1), (RxRate, 5)]),
            Counted::rx(16, 16, 16).tx(11, 11),
        ],
        ..CASE
    }
    .check();
}

#[test]
fn rate_tx() {
    // Four frames at once may leave to port 1, whoever sends them; port 2 gets all of what is for both. What port 1 does not take
    // for another reason is not counted.
    let long = |mark| Packet::from(frame(ALL, at(1), 200, mark));
    Case {
        name: "rate-tx",
        ports: vec![PORT, PortSpec { mtu: 68, rates: Rates { tx: SLOW, ..NONE }, ..PORT }, PORT],
        arrivals: vec![
            (1, 0, vec![long(1), long(2)]),
            (1, 0, several(ALL, at(1), 3, 10)),
            (1, 2, several(ALL, at(3), 1, 20)),
            (1, 0, several(ALL, at(1), 2, 30)),
            (1, 1, several(ALL, at(2), 9, 40)),
            (2, 0, several(at(2), at(1), 4, 50)),
            (2, 2, several(at(2), at(3), 1, 60)),
        ],
        heard: vec![&[2], &[1, 2], &[0, 1], &[2], &[0, 2], &[1], &[]],
        counted: vec![
            Counted::rx(11, 11, 18).tx(10, 10),
            Counted::rx(9, 9, 18).tx(13, 8).drops(&[(TxRate, 3), (ExceedsMtu, 2)]),
            Counted::rx(2, 2, 3).tx(16, 16),
        ],
        ..CASE
    }
    .check();
}

#[test]
fn a_burst_passes_as_far_as_the_rate_allows_in_the_order_of_its_frames() {
    for (rates, other) in [([SLOW, OPEN], [OPEN; 2]), ([OPEN; 2], [OPEN, SLOW])] {
        let port = |[rx, tx]: [Rate; 2]| PortSpec { rates: Rates { rx, tx }, ..PORT };
        let mut bridge = Bridge::new(&[port(rates), port(other)], AGE_SECONDS, false);
        let burst = several(ALL, at(1), 9, 1);
        assert_eq!(bridge.forward(0, &burst, 1)[1], burst[..4]);
        assert_eq!(bridge.forward(0, &burst, 1)[1], []);
        bridge.assert_balance();
    }
}

/// Both directions, frames of several lengths, one of which is still to be cut: 10 Mbit/s are 10 Mbit/s on the wire.
#[test]
fn ten_megabits_a_second_are_that_for_a_hundred_seconds() {
    let long = Stream { to: at(2), payload: 40_000, ..TCP4 }.unsegmented(1446);
    // 54 bytes of headers for each segment.
    let (segments, headers) = (40_000_u64.div_ceil(1446), long.frame.len() as u64 - 40_000);
    let on_wire = 40_000 + segments * headers;
    let full: Packet = frame(at(2), at(1), 1514, 1).into();
    let tiny = short(at(2), at(1), 2);
    for (packet, bytes, takes) in [
        (long.clone(), on_wire, Offloads::ALL),
        (long, on_wire, Offloads::NONE),
        (full, 1514, Offloads::NONE),
        (tiny, 60, Offloads::NONE),
    ] {
        for is_rx in [true, false] {
            let limited = |limited: bool| if limited { TEN_MBIT } else { OPEN };
            let sender = PortSpec { rates: Rates { rx: limited(is_rx), tx: OPEN }, ..PORT };
            let receiver = PortSpec { takes, rates: Rates { rx: OPEN, tx: limited(!is_rx) }, ..PORT };
            let mut bridge = Bridge::new(&[sender, receiver], AGE_SECONDS, false);
            bridge.tables[0].learn(0, at(2), PortId(1), 1000, 100);
            // Up to 20 Mbit/s or more are sent all the time: a frame each time that one or half of one could have passed.
            let (mut sent, steps) = (0_u64, 2 * 125_000_000 / bytes);
            for step in 0..steps {
                let now = Duration::from_secs(100) + Duration::from_nanos(step * 100_000_000_000 / steps);
                let arrives = [local(&packet, Offloads::ALL)];
                bridge.forwarder.forward(&bridge.topology, PortId(0), &mut Burst::Local(&arrives), now);
                let left = bridge.take(1).iter().map(|packet| packet.frame.len() as u64).sum::<u64>();
                sent += if left > 0 { bytes } else { 0 };
            }
            let most = 125_000_000 + LEAST_BURST_BYTES + bytes;
            assert!((125_000_000 - bytes..=most).contains(&sent), "{bytes} bytes, rx {is_rx}: {sent}");
            bridge.assert_balance();
            let reason = if is_rx { RxRate } else { TxRate };
            assert!(bridge.drops().get(&(u16::from(!is_rx), reason)).is_some_and(|&drops| drops > steps / 3));
        }
    }
}

#[test]
fn a_tag_that_is_pushed_counts_where_the_frame_leaves() {
    // Room for two frames of 60 bytes and one more byte: a third one passes. Of frames with a tag, just two pass.
    let rates = Rates { tx: Rate { bytes: Some(Allowance { per_second: 1, burst: 121 }), frames: None }, ..NONE };
    for (vlans, passed) in [(VlanSpec::Access(10), 3), (VlanSpec::Trunk(&[10], None), 2)] {
        let sender = PortSpec { vlans: VlanSpec::Access(10), ..PORT };
        let mut bridge = Bridge::new(&[sender, PortSpec { vlans, rates, ..PORT }], AGE_SECONDS, false);
        assert_eq!(bridge.forward(0, &several(ALL, at(1), 5, 1), 1)[1].len(), passed);
    }
}

#[test]
fn a_port_that_takes_nothing_spends_nothing() {
    let rates = Rates { tx: SLOW, ..NONE };
    let mut bridge = Bridge::new(&[PORT, PortSpec { rates, way: Way::Down, ..PORT }], AGE_SECONDS, false);
    bridge.forward(0, &several(ALL, at(1), 9, 1), 1);
    assert_eq!(bridge.drops(), HashMap::from([((1, PortDown), 9)]));
    bridge.specs[1].way = Way::Out;
    bridge.plug();
    assert_eq!(bridge.forward(0, &several(ALL, at(1), 9, 1), 1)[1].len(), 4);
}
