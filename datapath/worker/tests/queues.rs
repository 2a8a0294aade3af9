//! A guest with several queue pairs: flows are spread over those that it has enabled, and each flow stays at one.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, clippy::indexing_slicing, reason = "a test")]

use std::time::Duration;

use culvert_driver::Shape;
use culvert_frame::DropReason;
use culvert_guest::device::RingChange;
use culvert_worker::Datapath;

mod setup;
use setup::{Guest, datapath, wait};

/// Flows of UDP, told apart by their source port.
const FLOWS: u16 = 32;

/// The `number`th datagram of a flow from one guest to another, with a VLAN tag or without.
fn datagram(from: &Guest, to: &Guest, flow: u16, tag: bool, number: u8) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 60, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    packet.extend([flow.to_be_bytes(), [0, 53], [0, 40], [0, 0]].concat());
    packet.resize(60, number);
    let tag: &[u8] = if tag { &[0x81, 0, 0, 7] } else { &[] };
    [&to.mac.0[..], &from.mac.0, tag, &[8, 0], &packet].concat()
}

/// Sends some datagrams of each flow, and returns the queue at which each flow has come, always.
fn queues_of_flows(from: &mut Guest, to: &mut [Guest; 2], tag: bool) -> Vec<usize> {
    let mut queues = vec![None; FLOWS.into()];
    for number in 0..3 {
        for flow in 0..FLOWS {
            let frame = datagram(from, &to[0], flow, tag, number);
            from.send(&frame);
            let mut came = None;
            wait(|| {
                came = (0..to.len()).find_map(|queue| Some((queue, to[queue].driver.receive()?.1)));
                came.is_some()
            });
            let (queue, received) = came.unwrap();
            assert_eq!(received, frame);
            assert_eq!(*queues[usize::from(flow)].get_or_insert(queue), queue, "flow {flow} has changed its queue");
        }
    }
    queues.into_iter().flatten().collect()
}

fn enable(datapath: &Datapath, guest: &Guest, ring: u16, enabled: bool) {
    datapath.change_rings(guest.port, vec![RingChange::Enable { ring, enabled }]).unwrap();
}

#[test]
fn flows_are_spread_over_the_queues_that_a_guest_has_enabled() {
    let (datapath, network) = datapath(2, Some(Duration::from_micros(200)));
    let mut sender = Guest::new(&datapath, network, 1, Shape::default());
    sender.start(&datapath);
    // One guest with two pairs: each has a driver of its own here, and memory of its own.
    let mut pairs = [2, 3].map(|number| Guest::new(&datapath, network, number, Shape::default()));
    datapath.remove_port(pairs[1].port).unwrap();
    let rings = pairs.iter().flat_map(|pair| [pair.setup(&pair.driver.receive), pair.setup(&pair.driver.transmit)]);
    let changes = (0..).zip(rings).map(|(ring, setup)| RingChange::Start { ring, setup }).collect();
    datapath.change_rings(pairs[0].port, changes).unwrap();
    assert_eq!(datapath.running_queues(pairs[0].port), (2, 2));
    // Its transmit queues are polled by a worker each.
    let mut polled = datapath.inputs();
    polled.retain(|input| input.port == pairs[0].port);
    assert_eq!(polled.iter().map(|input| input.queue).collect::<Vec<_>>(), [0, 1]);
    assert_ne!(polled[0].worker, polled[1].worker);

    for tag in [false, true] {
        let both = queues_of_flows(&mut sender, &mut pairs, tag);
        assert!(both.contains(&0) && both.contains(&1), "{both:?}");
        // The driver uses one pair only (VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET; virtio 1.3, 5.1.6.5.6): its frontend disables the other rings.
        enable(&datapath, &pairs[0], 2, false);
        enable(&datapath, &pairs[0], 3, false);
        assert_eq!(queues_of_flows(&mut sender, &mut pairs, tag), vec![0; FLOWS.into()]);
        enable(&datapath, &pairs[0], 2, true);
        enable(&datapath, &pairs[0], 3, true);
        assert_eq!(queues_of_flows(&mut sender, &mut pairs, tag), both);
    }
    let totals = datapath.totals(pairs[0].port).unwrap();
    assert_eq!((totals.tx_frames, totals.drops), (18 * u64::from(FLOWS), vec![]));

    // What its driver sends on a queue that it said it does not use is thrown away, and counted.
    enable(&datapath, &pairs[0], 3, false);
    let frame = datagram(&pairs[1], &sender, 1, false, 0);
    pairs[1].send(&frame);
    wait(|| {
        datapath.totals(pairs[0].port).unwrap().drops.iter().any(|drops| drops.reason == DropReason::QueueDisabled)
    });
    let frame = datagram(&pairs[0], &sender, 2, false, 0);
    pairs[0].send(&frame);
    assert_eq!(sender.receive(), frame);
}
