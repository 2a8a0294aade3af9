//! What one guest takes of a worker, seen by the order in which frames of two come out that were all there before.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, clippy::indexing_slicing, reason = "a test")]

use std::sync::Arc;

use culvert_driver::Shape;
use culvert_frame::MacAddress;
use culvert_guest::device::RingChange;
use culvert_switch::{NetworkId, Rules, Tap};
use culvert_worker::Datapath;

mod setup;
use setup::{Guest, datapath, start_all, wait};

fn new(datapath: &Datapath, network: NetworkId, number: u8) -> Guest {
    Guest::new(datapath, network, number, Shape { queue_size: 1024, ..Shape::default() })
}

/// A frame for everybody.
fn flood(from: MacAddress, length: usize) -> Vec<u8> {
    let mut frame = [MacAddress::BROADCAST.0, from.0].concat();
    frame.extend([0x88, 0xb4]);
    frame.resize(length, 0);
    frame
}

/// From whom `count` frames came, in order.
fn sources(guest: &mut Guest, count: usize) -> Vec<u8> {
    (0..count).map(|_| guest.receive()[11]).collect()
}

/// How many frames of `other` came before the last one of `of`.
fn before_the_last(sources: &[u8], of: u8, other: u8) -> usize {
    let last = sources.iter().rposition(|source| *source == of).unwrap();
    sources[..last].iter().filter(|source| **source == other).count()
}

#[test]
fn a_guest_with_eight_queues_has_the_share_of_one() {
    let (datapath, network) = datapath(1, None);
    let mut greedy: Vec<_> = (0..8).map(|_| new(&datapath, network, 1)).collect();
    let mut modest = new(&datapath, network, 2);
    let mut receiver = new(&datapath, network, 3);
    datapath.hold().unwrap();
    start_all(&datapath, &[&modest, &receiver]);
    // All eight are queues of the first one's port.
    let queue = |(number, guest): (u16, &Guest)| RingChange::Start {
        ring: 2 * number + 1,
        setup: guest.setup(&guest.driver.transmit),
    };
    datapath.change_rings(greedy[0].port, (0..).zip(&greedy).map(queue).collect()).unwrap();
    for guest in greedy.iter_mut().chain([&mut modest]) {
        let frame = flood(guest.mac, 1514);
        (0..64).for_each(|_| assert!(guest.driver.send(&frame)));
    }
    datapath.release().unwrap();
    let sources = sources(&mut receiver, 9 * 64);
    // Two bursts of the modest guest, while the other one has two rounds as well, and half a turn more.
    let greedy_first = before_the_last(&sources, 2, 1);
    assert!(greedy_first <= 4 * 32, "{greedy_first} frames of the greedy guest came before the last of the modest one");
}

#[test]
fn a_turn_ends_when_its_frames_have_cost_enough() {
    let (datapath, network) = datapath(1, None);
    let mut greedy = new(&datapath, network, 1);
    let mut modest = new(&datapath, network, 2);
    let mut receivers: Vec<_> = (3..11).map(|number| new(&datapath, network, number)).collect();
    for receiver in &receivers {
        datapath.set_port(receiver.port, Rules { mtu: 9000, ..Rules::default() }).unwrap();
    }
    datapath.hold().unwrap();
    start_all(&datapath, &receivers.iter().chain([&greedy, &modest]).collect::<Vec<_>>());
    let (large, small) = (flood(greedy.mac, 9014), flood(modest.mac, 60));
    (0..64).for_each(|_| assert!(greedy.driver.send(&large)));
    (0..64).for_each(|_| assert!(modest.driver.send(&small)));
    datapath.release().unwrap();
    // Each of the large frames costs 74 KiB, and nine of the small ones' copies 3 KiB.
    let sources = sources(&mut receivers[0], 128);
    let greedy_first = before_the_last(&sources, 2, 1);
    assert!(greedy_first <= 8, "{greedy_first} large frames came before the last small one");
    // Nothing is lost over it, and all chains come back.
    wait(|| greedy.driver.transmit.used_index() == 64);
    let totals = datapath.totals(greedy.port).unwrap();
    assert_eq!((totals.rx_frames, totals.forwarded, totals.rx_in_flight()), (64, 64, 0));
}

#[test]
fn who_is_looked_at_has_fewer_turns_while_others_have_theirs() {
    let (datapath, network) = datapath(1, None);
    let mut watched = new(&datapath, network, 1);
    let mut other = new(&datapath, network, 2);
    let mut receiver = new(&datapath, network, 3);
    start_all(&datapath, &[&watched, &other, &receiver]);
    let hello = flood(receiver.mac, 60);
    receiver.send(&hello);
    assert_eq!((watched.receive(), other.receive()), (hello.clone(), hello));
    let tap = Arc::new(Tap::new(2000, 48));
    datapath.add_tap(watched.port, Arc::clone(&tap)).unwrap();
    datapath.hold().unwrap();
    for guest in [&mut watched, &mut other] {
        (0..64).for_each(|number| assert!(guest.driver.send(&guest.frame(receiver.mac, number))));
    }
    datapath.release().unwrap();
    // Each look costs what a port has in a round, and a turn ends with five of them; the other one needs two turns.
    let sources = sources(&mut receiver, 128);
    let watched_first = before_the_last(&sources, 2, 1);
    assert!(watched_first <= 10, "{watched_first} frames of the watched guest came before the last of the other one");
    // Once there is no room for copies, frames are counted, and pass as those of others.
    assert_eq!((std::iter::from_fn(|| tap.next()).count(), tap.missed()), (48, 16));
}
