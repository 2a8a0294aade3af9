//! Workers, plans and rings together: guests played in this process, frames through real polling threads.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, clippy::indexing_slicing, reason = "a test")]

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_driver::Shape;
use culvert_frame::{Direction, DropReason, MacAddress};
use culvert_guest::device::{RingChange, RingSetup};
use culvert_guest::{DirtyLog, RingLog};
use culvert_switch::guard::Guard;
use culvert_switch::{PortId, Rules, Tap, Vlans};
use culvert_worker::{Datapath, Event, LearnedAddress, Mirror, NetworkSettings};
use rustix::event::{EventfdFlags, eventfd};

mod setup;
use setup::{Guest, SETTINGS, datapath, start_all, wait};

#[test]
fn frames_pass_between_guests_that_sleep_and_wake() {
    for event_idx in [false, true] {
        let (datapath, network) = datapath(1, Some(Duration::from_micros(200)));
        let shape = Shape { event_idx, ..Shape::default() };
        let mut a = Guest::new(&datapath, network, 1, shape);
        let mut b = Guest::new(&datapath, network, 2, shape);
        a.start(&datapath);
        b.start(&datapath);
        for number in 0..50 {
            let there = a.frame(b.mac, number);
            a.send(&there);
            assert_eq!(b.receive(), there);
            let back = b.frame(a.mac, number);
            b.send(&back);
            assert_eq!(a.receive(), back);
            // Longer than idle_sleep: the worker sleeps in between.
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(datapath.workers()[0].sleeps > 10);
        let totals = datapath.totals(a.port).unwrap();
        assert_eq!((totals.rx_frames, totals.forwarded, totals.tx_frames), (50, 50, 50));
        assert_eq!(totals.drops, []);
        assert_eq!(datapath.macs(network).len(), 2);
    }
}

#[test]
fn frames_that_are_held_find_the_ports_that_came_meanwhile() {
    let (datapath, network) = datapath(1, Some(Duration::from_micros(200)));
    let mut a = Guest::new(&datapath, network, 1, Shape::default());
    datapath.hold().unwrap();
    a.start(&datapath);
    let frame = a.frame(MacAddress::BROADCAST, 1);
    a.send(&frame);
    let mut b = Guest::new(&datapath, network, 2, Shape::default());
    b.start(&datapath);
    assert_eq!(datapath.totals(a.port).unwrap().rx_frames, 0);
    datapath.release().unwrap();
    assert_eq!(b.receive(), frame);
}

#[test]
fn a_guest_without_a_kick_is_polled() {
    let (datapath, network) = datapath(1, Some(Duration::from_micros(200)));
    let mut a = Guest::new(&datapath, network, 1, Shape::default());
    let mut b = Guest::new(&datapath, network, 2, Shape::default());
    b.start(&datapath);
    let (receive, transmit) = (a.setup(&a.driver.receive), RingSetup { kick: None, ..a.setup(&a.driver.transmit) });
    let start = |ring, setup| RingChange::Start { ring, setup };
    datapath.change_rings(a.port, vec![start(0, receive), start(1, transmit)]).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    let frame = a.frame(b.mac, 1);
    wait(|| a.driver.send(&frame));
    assert_eq!(b.receive(), frame);
}

#[test]
fn stopped_rings_tell_their_position_and_go_on_from_there() {
    let (datapath, network) = datapath(2, Some(Duration::ZERO));
    let mut a = Guest::new(&datapath, network, 1, Shape::default());
    let mut b = Guest::new(&datapath, network, 2, Shape::default());
    b.start(&datapath);
    for round in 0..20_u16 {
        a.start(&datapath);
        let frame = a.frame(b.mac, u32::from(round));
        a.send(&frame);
        assert_eq!(b.receive(), frame);
        wait(|| a.driver.transmit.used_index() == round + 1);
        let stops = vec![RingChange::Stop { ring: 0 }, RingChange::Stop { ring: 1 }, RingChange::Stop { ring: 5 }];
        let mut stopped = datapath.change_rings(a.port, stops).unwrap();
        stopped.sort_by_key(|ring| ring.ring);
        let positions: Vec<_> = stopped.iter().map(|ring| (ring.ring, ring.position)).collect();
        assert_eq!(positions, [(0, 0), (1, round + 1), (5, 0)]);
        assert_eq!(Arc::strong_count(&a.memory), 1, "nobody uses the memory of stopped rings");
    }
    // With its rings stopped the guest is down.
    let frame = b.frame(a.mac, 1);
    b.send(&frame);
    wait(|| datapath.totals(a.port).unwrap().dropped(Direction::Tx) == 1);
    assert_eq!(datapath.totals(a.port).unwrap().drops[0].reason, DropReason::PortDown);
}

#[test]
fn a_disabled_transmit_queue_is_drained_and_its_frames_are_counted() {
    let (datapath, network) = datapath(1, Some(Duration::from_micros(100)));
    let mut a = Guest::new(&datapath, network, 1, Shape::default());
    let mut b = Guest::new(&datapath, network, 2, Shape::default());
    a.start(&datapath);
    b.start(&datapath);
    let enable = |enabled| vec![RingChange::Enable { ring: 1, enabled }];
    datapath.change_rings(a.port, enable(false)).unwrap();
    let frame = a.frame(b.mac, 1);
    a.send(&frame);
    wait(|| a.driver.transmit.used_index() == 1);
    assert_eq!(datapath.totals(a.port).unwrap().drops[0].reason, DropReason::QueueDisabled);
    datapath.change_rings(a.port, enable(true)).unwrap();
    a.send(&frame);
    assert_eq!(b.receive(), frame);
}

#[test]
fn a_broken_ring_stops_its_port_and_no_other() {
    let (datapath, network) = datapath(1, Some(Duration::from_micros(100)));
    let events = datapath.take_events().unwrap();
    let mut a = Guest::new(&datapath, network, 1, Shape::default());
    let mut b = Guest::new(&datapath, network, 2, Shape::default());
    let mut c = Guest::new(&datapath, network, 3, Shape::default());
    start_all(&datapath, &[&a, &b, &c]);
    a.driver.transmit.set_available_index(9999);
    rustix::io::write(a.kick.as_fd(), &1_u64.to_ne_bytes()).unwrap();
    let event = events.recv_timeout(Duration::from_secs(20)).unwrap();
    let Event::Fault { port, attachment, .. } = event else { panic!("another event") };
    assert_eq!(port, a.port);
    assert!(datapath.quarantine(a.port, attachment).unwrap());
    assert!(!datapath.quarantine(a.port, attachment).unwrap(), "it is done already");
    let frame = b.frame(c.mac, 1);
    b.send(&frame);
    assert_eq!(c.receive(), frame);
    // The flooded frame counts as refused at the quarantined port.
    assert_eq!(datapath.totals(a.port).unwrap().drops[0].reason, DropReason::Quarantined);
    // Its driver starts anew.
    datapath.change_rings(a.port, vec![RingChange::Stop { ring: 0 }, RingChange::Stop { ring: 1 }]).unwrap();
    a.driver.transmit.reset();
    a.driver.receive.reset();
    a.driver.refill();
    a.start(&datapath);
    assert!(!datapath.quarantine(a.port, attachment).unwrap(), "that was the guest before");
    let frame = a.frame(b.mac, 1);
    a.send(&frame);
    assert_eq!(b.receive(), frame);
}

#[test]
fn a_ring_that_cannot_start_is_told() {
    let (datapath, network) = datapath(1, None);
    let events = datapath.take_events().unwrap();
    let a = Guest::new(&datapath, network, 1, Shape::default());
    a.driver.transmit.set_available_index(9999);
    a.start(&datapath);
    let event = events.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(matches!(event, Event::NotStarted { port, .. } if port == a.port));
}

#[test]
fn truncated_memory_is_noticed_and_the_neighbours_go_on() {
    let (datapath, network) = datapath(1, Some(Duration::from_micros(100)));
    let events = datapath.take_events().unwrap();
    let a = Guest::new(&datapath, network, 1, Shape::default());
    let mut b = Guest::new(&datapath, network, 2, Shape::default());
    let mut c = Guest::new(&datapath, network, 3, Shape::default());
    start_all(&datapath, &[&a, &b, &c]);
    rustix::fs::ftruncate(a.driver.ram().file(), 0).unwrap();
    rustix::io::write(a.kick.as_fd(), &1_u64.to_ne_bytes()).unwrap();
    wait(|| events.recv_timeout(Duration::from_secs(20)).unwrap() == Event::MemoryLost);
    assert_eq!(datapath.ports_with_lost_memory(), [(a.port, 1)]);
    assert!(datapath.quarantine(a.port, 1).unwrap());
    let frame = b.frame(c.mac, 1);
    b.send(&frame);
    assert_eq!(c.receive(), frame);
}

#[test]
fn several_workers_deliver_to_one_guest_and_every_frame_is_accounted_for() {
    let (datapath, network) = datapath(3, Some(Duration::from_micros(50)));
    let shape = Shape { queue_size: 256, ..Shape::default() };
    let mut sink = Guest::new(&datapath, network, 9, shape);
    sink.start(&datapath);
    let hello = sink.frame(MacAddress::BROADCAST, 0);
    sink.send(&hello);
    wait(|| datapath.macs(network).len() == 1);
    const EACH: u32 = 3000;
    let mut seen = [0; 4];
    let mut received = 0;
    std::thread::scope(|scope| {
        for number in 1..=3_u8 {
            let (datapath, to) = (&datapath, sink.mac);
            scope.spawn(move || {
                let mut source = Guest::new(datapath, network, number, shape);
                source.start(datapath);
                for i in 0..EACH {
                    let frame = source.frame(to, i);
                    source.send(&frame);
                }
                wait(|| datapath.totals(source.port).unwrap().forwarded == u64::from(EACH));
                datapath.remove_port(source.port).unwrap();
            });
        }
        // The sink reads meanwhile; what its ring had no room for is counted.
        let port = sink.port;
        wait(|| {
            while let Some((_, frame)) = sink.driver.receive() {
                let (from, number) = (usize::from(frame[11]), u32::from_be_bytes(frame[14..18].try_into().unwrap()));
                assert!(
                    number >= seen[from],
                    "frames of one source stay in order: {number} after {} from {from}",
                    seen[from]
                );
                seen[from] = number;
                received += 1;
            }
            let totals = datapath.totals(port).unwrap();
            totals.offered == 3 * u64::from(EACH) && totals.tx_frames == received
        });
    });
    let totals = datapath.totals(sink.port).unwrap();
    assert_eq!(totals.offered, totals.tx_frames + totals.dropped(Direction::Tx));
    assert_eq!(totals.tx_in_flight(), 0);
    let expected = |reason| {
        matches!(
            reason,
            DropReason::NoBuffer | DropReason::NoFloodBuffer | DropReason::RxBusy | DropReason::NoOtherPort
        )
    };
    assert!(totals.drops.iter().all(|drops| expected(drops.reason)), "{totals:?}");
}

#[test]
fn floods_leave_half_of_a_guests_buffers_for_what_is_addressed_to_it() {
    let (datapath, network) = datapath(1, Some(Duration::from_micros(200)));
    let shape = Shape::default();
    let mut a = Guest::new(&datapath, network, 1, shape);
    let mut b = Guest::new(&datapath, network, 2, shape);
    start_all(&datapath, &[&a, &b]);
    let hello = b.frame(a.mac, 0);
    b.send(&hello);
    assert_eq!(a.receive(), hello);
    let half = u32::from(shape.queue_size) / 2;
    let totals = || datapath.totals(b.port).unwrap();
    for number in 0..4 * half {
        let flood =
            a.frame(if number % 2 == 0 { MacAddress::BROADCAST } else { MacAddress([2, 0, 0, 0, 0, 99]) }, number);
        a.send(&flood);
    }
    wait(|| totals().tx_frames + totals().dropped(Direction::Tx) == u64::from(4 * half));
    assert_eq!(totals().tx_frames, u64::from(half));
    assert_eq!(totals().drops[0].reason, DropReason::NoFloodBuffer);
    let addressed: Vec<_> = (0..half).map(|number| a.frame(b.mac, number)).collect();
    addressed.iter().for_each(|frame| a.send(frame));
    (0..half).for_each(|_| drop(b.receive()));
    for frame in addressed {
        assert_eq!(b.receive(), frame);
    }
    // There is room again.
    let flood = a.frame(MacAddress::BROADCAST, 1);
    a.send(&flood);
    assert_eq!(b.receive(), flood);
}

#[test]
fn captures_see_both_directions_and_are_bounded() {
    let (datapath, network) = datapath(1, Some(Duration::from_micros(100)));
    let mut a = Guest::new(&datapath, network, 1, Shape::default());
    let mut b = Guest::new(&datapath, network, 2, Shape::default());
    start_all(&datapath, &[&a, &b]);
    let (all, short) = (Arc::new(Tap::new(2000, 16)), Arc::new(Tap::new(20, 1)));
    datapath.add_tap(a.port, all.clone()).unwrap();
    datapath.add_tap(a.port, short.clone()).unwrap();
    let (there, back) = (a.frame(b.mac, 300), b.frame(a.mac, 1));
    a.send(&there);
    assert_eq!(b.receive(), there);
    b.send(&back);
    assert_eq!(a.receive(), back);
    datapath.remove_tap(a.port, &all).unwrap();
    a.send(&there);
    assert_eq!(b.receive(), there);
    let (first, second) = (all.next().unwrap(), all.next().unwrap());
    assert_eq!((first.direction, &first.bytes, first.length), (Direction::Rx, &there, there.len() as u32));
    assert_eq!((second.direction, &second.bytes), (Direction::Tx, &back));
    assert!(all.next().is_none());
    assert_eq!(short.next().unwrap().bytes, there[..20]);
    assert_eq!(short.missed(), 2);
}

#[test]
fn an_announcement_reaches_the_other_ports_and_teaches_the_address() {
    let (datapath, network) = datapath(1, Some(Duration::from_micros(100)));
    let a = Guest::new(&datapath, network, 1, Shape::default());
    let mut b = Guest::new(&datapath, network, 2, Shape::default());
    start_all(&datapath, &[&a, &b]);
    datapath.announce(a.port, a.mac);
    assert_eq!(b.receive(), culvert_worker::announce::rarp(a.mac));
    assert_eq!(datapath.macs(network)[0].port, a.port);
}

/// A frontend may take back the O_NONBLOCK of the call descriptor that it shares with us, and fill its counter.
#[test]
fn a_call_that_blocks_does_not_stop_a_worker() {
    let (datapath, network) = datapath(1, Some(Duration::from_micros(100)));
    let mut a = Guest::new(&datapath, network, 1, Shape::default());
    let mut c = Guest::new(&datapath, network, 3, Shape::default());
    let b = Guest::new(&datapath, network, 2, Shape::default());
    start_all(&datapath, &[&a, &c]);
    let call = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    let setup = b.setup(&b.driver.receive);
    assert!(setup.call.set(Some(call.try_clone().unwrap())).is_none());
    datapath.change_rings(b.port, vec![RingChange::Start { ring: 0, setup }]).unwrap();
    let flags = rustix::fs::fcntl_getfl(&call).unwrap();
    rustix::fs::fcntl_setfl(&call, flags & !rustix::fs::OFlags::NONBLOCK).unwrap();
    rustix::io::write(&call, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    let frame = a.frame(MacAddress::BROADCAST, 1);
    a.send(&frame);
    assert_eq!(c.receive(), frame);
    datapath.hold().unwrap();
}

/// A worker's rounds go by those that it polls: who sleeps among many others is polled again once it kicks, and all have their turns.
#[test]
fn guests_that_sleep_among_others_wake_alone() {
    let (datapath, network) = datapath(1, Some(Duration::from_micros(200)));
    let mut guests: Vec<_> = (1..=9).map(|number| Guest::new(&datapath, network, number, Shape::default())).collect();
    start_all(&datapath, &guests.iter().collect::<Vec<_>>());
    let mut sink = Guest::new(&datapath, network, 10, Shape::default());
    sink.start(&datapath);
    let announce = sink.frame(MacAddress::BROADCAST, 0);
    sink.send(&announce);
    guests.iter_mut().for_each(|guest| drop(guest.receive()));
    for round in 0..60_u32 {
        // One is busy for longer than it takes the others to sleep, then another one wakes.
        let (busy, waking) = (round as usize % 9, (round as usize * 4 + 1) % 9);
        let started = Instant::now();
        while started.elapsed() < Duration::from_micros(600) {
            let frame = guests[busy].frame(sink.mac, round);
            guests[busy].send(&frame);
            assert_eq!(sink.receive(), frame);
        }
        let frame = guests[waking].frame(sink.mac, 1000 + round);
        guests[waking].send(&frame);
        assert_eq!(sink.receive(), frame);
    }
    let totals = datapath.totals(sink.port).unwrap();
    assert_eq!(totals.drops, []);
}

/// A look for kicks could take the waker's event just before the worker slept: the change then waited for a frame.
#[test]
fn changes_reach_a_worker_that_is_about_to_sleep() {
    let (datapath, network) = datapath(1, Some(Duration::from_micros(60)));
    let a = Guest::new(&datapath, network, 1, Shape::default());
    a.start(&datapath);
    let tap = Arc::new(Tap::new(64, 1));
    for round in 0..3000 {
        datapath.add_tap(a.port, tap.clone()).unwrap();
        datapath.remove_tap(a.port, &tap).unwrap();
        std::thread::sleep(Duration::from_micros(round % 200));
    }
}

fn access(vlan: u16) -> Rules {
    Rules { vlans: Vlans::Access { vlan, qinq: false }, ..Rules::default() }
}

#[test]
fn rules_change_while_frames_pass_and_lose_none() {
    let (datapath, network) = datapath(2, Some(Duration::ZERO));
    let mut a = Guest::new(&datapath, network, 1, Shape::default());
    let mut b = Guest::new(&datapath, network, 2, Shape::default());
    let mut other = Guest::new(&datapath, network, 3, Shape::default());
    start_all(&datapath, &[&a, &b, &other]);
    for number in 0..100_u32 {
        // Rules of another port, the limits of one of these, another network.
        let vlan = 1 + u16::try_from(number).unwrap() % 4;
        datapath.set_port(other.port, access(vlan)).unwrap();
        datapath.set_port(a.port, Rules { mac_limit: 100 + number, ..Rules::default() }).unwrap();
        let more = datapath.add_network(SETTINGS).unwrap();
        let frame = a.frame(b.mac, number);
        a.send(&frame);
        datapath.set_network(network, NetworkSettings { snooping: number % 2 == 0, ..SETTINGS }).unwrap();
        assert_eq!(b.receive(), frame);
        datapath.remove_network(more).unwrap();
    }
    assert_eq!(datapath.totals(a.port).unwrap().drops, []);
    // The first frame was flooded and the other port is in a VLAN of its own: nothing has come there.
    assert_eq!(datapath.totals(other.port).unwrap().offered, 0);
    assert!(other.driver.receive().is_none());
}

#[test]
fn a_port_that_changes_its_vlan_leaves_its_addresses_behind() {
    let (datapath, network) = datapath(1, Some(Duration::ZERO));
    let mut a = Guest::new(&datapath, network, 1, Shape::default());
    let mut b = Guest::new(&datapath, network, 2, Shape::default());
    start_all(&datapath, &[&a, &b]);
    datapath.set_port(a.port, access(10)).unwrap();
    let guard = Guard { mac: Some(b.mac), ..Guard::default() };
    datapath.set_port(b.port, Rules { guard: guard.clone(), ..access(10) }).unwrap();
    let frame = a.frame(b.mac, 1);
    a.send(&frame);
    assert_eq!(b.receive(), frame);
    let known = |datapath: &Datapath| {
        let mut macs: Vec<_> = datapath.macs(network).iter().map(|mac| (mac.vlan, mac.address, mac.port)).collect();
        macs.sort_unstable();
        macs
    };
    assert_eq!(known(&datapath), [(10, a.mac, a.port), (10, b.mac, b.port)]);
    datapath.set_port(b.port, Rules { guard, ..access(11) }).unwrap();
    assert_eq!(known(&datapath), [(10, a.mac, a.port), (11, b.mac, b.port)]);
    a.send(&frame);
    wait(|| datapath.totals(a.port).unwrap().drops.iter().any(|drops| drops.reason == DropReason::NoOtherPort));
    assert!(b.driver.receive().is_none());
}

#[test]
fn what_another_process_has_learned_is_learned_by_the_ports_rules() {
    let (before, network) = datapath(1, Some(Duration::ZERO));
    let mut a = Guest::new(&before, network, 1, Shape::default());
    let mut b = Guest::new(&before, network, 2, Shape::default());
    start_all(&before, &[&a, &b]);
    let frame = a.frame(b.mac, 1);
    a.send(&frame);
    assert_eq!(b.receive(), frame);
    let learned = before.learned(network);
    let [LearnedAddress { port, vlan: 0, address, seen }] = learned[..] else { panic!("{learned:?}") };
    assert_eq!((port, address), (a.port, a.mac));

    let mac = |number| MacAddress([2, 0, 0, 0, 0, number]);
    let at = |port, vlan, address| LearnedAddress { port, vlan, address, seen };
    let (datapath, network) = datapath(1, Some(Duration::ZERO));
    let limited = Rules { mac_limit: 2, ..access(10) };
    let port = datapath.add_guest_port(network, limited).unwrap();
    let all = [at(port, 0, mac(1)), at(port, 11, mac(2)), at(port, 10, MacAddress([1, 0, 0, 0, 0, 0]))];
    assert_eq!(datapath.restore_learned(port, 0, &all), 0, "in no VLAN of the port, and no station");
    let old = LearnedAddress { seen: 0, ..at(port, 10, mac(3)) };
    let has_age = datapath.restore_learned(port, 0, &[old]) == 0;
    assert!(has_age || seen < 300, "the machine has not run for longer");
    assert_eq!(datapath.restore_learned(port, 1, &[at(port, 10, mac(4))]), 0, "of another guest");
    let many: Vec<_> = (4..20).map(|number| at(port, 10, mac(number))).collect();
    assert_eq!(datapath.restore_learned(port, 0, &many), if has_age { 2 } else { 1 });
    let known: Vec<_> = datapath.learned(network).iter().map(|learned| learned.address).collect();
    assert!(known.contains(&mac(4)) && known.len() == 2, "{known:?}");

    let guard = Guard { mac: Some(mac(30)), ..Guard::default() };
    let bound = datapath.add_guest_port(network, Rules { guard, ..access(10) }).unwrap();
    let all = [at(bound, 10, mac(30)), at(bound, 10, mac(31)), at(bound, 10, mac(4))];
    assert_eq!(datapath.restore_learned(bound, 0, &all), 1, "its own; the others are not");
    assert_eq!(datapath.restore_learned(PortId(7), 0, &[at(PortId(7), 0, mac(1))]), 0);
    // A guest that attaches may be another one.
    drop(before);
    Guest { port, ..a }.start(&datapath);
    let known: Vec<_> = datapath.learned(network).iter().map(|learned| learned.address).collect();
    assert_eq!(known, [mac(30)]);
    Guest { port: bound, ..b }.start(&datapath);
    assert_eq!(datapath.learned(network), [], "it is bound");
}

#[test]
fn a_mirror_begins_and_ends_while_frames_pass() {
    let (datapath, network) = datapath(1, Some(Duration::ZERO));
    let mut a = Guest::new(&datapath, network, 1, Shape::default());
    let mut b = Guest::new(&datapath, network, 2, Shape::default());
    let mut probe = Guest::new(&datapath, network, 3, Shape::default());
    start_all(&datapath, &[&a, &b, &probe]);
    let mirror = Mirror { sources: vec![a.port], rx: true, tx: true, target: probe.port };
    datapath.set_mirrors(vec![mirror]).unwrap();
    for number in 0..10 {
        let there = a.frame(b.mac, number);
        a.send(&there);
        assert_eq!((b.receive(), probe.receive()), (there.clone(), there));
        let back = b.frame(a.mac, number);
        b.send(&back);
        assert_eq!((a.receive(), probe.receive()), (back.clone(), back));
    }
    let frame = probe.frame(b.mac, 1);
    probe.send(&frame);
    wait(|| datapath.totals(probe.port).unwrap().drops.iter().any(|drops| drops.reason == DropReason::MirrorTarget));
    datapath.set_mirrors(vec![]).unwrap();
    let frame = a.frame(b.mac, 1);
    a.send(&frame);
    assert_eq!(b.receive(), frame);
    assert!(probe.driver.receive().is_none());
}

#[test]
fn a_trace_tells_of_running_ports() {
    let (datapath, network) = datapath(1, Some(Duration::ZERO));
    let mut a = Guest::new(&datapath, network, 1, Shape::default());
    let b = Guest::new(&datapath, network, 2, Shape::default());
    start_all(&datapath, &[&a, &b]);
    let frame = b.frame(a.mac, 1);
    let name = |port: PortId| format!("port {}", port.0);
    let ports = |trace: culvert_switch::trace::Trace| trace.fates.iter().map(|fate| fate.port).collect::<Vec<_>>();
    assert_eq!(ports(datapath.trace(b.port, &frame, &name).unwrap()), [a.port]);
    let announce = a.frame(b.mac, 2);
    a.send(&announce);
    wait(|| !datapath.macs(network).is_empty());
    let trace = datapath.trace(b.port, &frame, &name).unwrap();
    assert!(trace.steps.iter().any(|step| step.why.contains("was learned there")), "{trace:?}");
    assert_eq!(datapath.totals(b.port).unwrap().rx_frames, 0, "nothing was sent");
    assert_eq!(datapath.trace(PortId(77), &frame, &name), None);
}

/// RFC 3376, 4: an IGMPv2 message in IPv4 with the router alert option.
fn igmp(source: MacAddress, group: [u8; 4], kind: u8) -> Vec<u8> {
    let (all, destination) = ([224, 0, 0, 1], if kind == 0x11 { [224, 0, 0, 1] } else { group });
    let mut message =
        [&[kind, if kind == 0x11 { 10 } else { 0 }, 0, 0][..], if kind == 0x11 { &[0; 4] } else { &group }].concat();
    let mut packet = vec![0x46, 0xc0, 0, 32, 0, 0, 0, 0, 1, 2, 0, 0, 10, 0, 0, 1];
    packet.extend(if kind == 0x11 { all } else { destination });
    packet.extend([0x94, 4, 0, 0]);
    for (bytes, at) in [(&mut packet, 10), (&mut message, 2)] {
        let sum = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>();
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    let [_, b, c, d] = destination;
    let mut frame = [&[0x01, 0x00, 0x5e, b & 0x7f, c, d][..], &source.0, &[0x08, 0x00], &packet, &message].concat();
    frame.resize(60, 0);
    frame
}

#[test]
fn multicast_goes_to_listeners_once_a_querier_asked() {
    let (datapath, network) = datapath(1, Some(Duration::ZERO));
    let mut router = Guest::new(&datapath, network, 1, Shape::default());
    let mut listener = Guest::new(&datapath, network, 2, Shape::default());
    let mut deaf = Guest::new(&datapath, network, 3, Shape::default());
    start_all(&datapath, &[&router, &listener, &deaf]);
    // A guest that comes later has all groups for a while.
    datapath.set_network(network, NetworkSettings { snooping: true, ..SETTINGS }).unwrap();
    let group = [239, 1, 2, 3];
    router.send(&igmp(router.mac, group, 0x11));
    assert_eq!((listener.receive().len(), deaf.receive().len()), (60, 60), "queries reach everybody");
    listener.send(&igmp(listener.mac, group, 0x16));
    assert_eq!(router.receive().len(), 60);
    let to_group = [&[0x01, 0x00, 0x5e, 1, 2, 3][..], &router.mac.0, &[0x88, 0xb5], &[7; 46]].concat();
    // All have had time to answer the query after a little more than the second that it grants.
    wait(|| {
        datapath.update_groups().unwrap();
        let trace = datapath.trace(router.port, &to_group, &|port| port.0.to_string()).unwrap();
        trace.fates.iter().map(|fate| fate.port).eq([listener.port])
    });
    while deaf.driver.receive().is_some() {}
    router.send(&to_group);
    assert_eq!(listener.receive(), to_group);
    assert!(deaf.driver.receive().is_none());
}

/// A worker's late word about the guest of a removed port hit the port that got its number.
#[test]
fn a_fault_is_not_held_against_the_next_port_of_that_number() {
    let (datapath, network) = datapath(1, Some(Duration::ZERO));
    let before = Guest::new(&datapath, network, 1, Shape::default());
    before.start(&datapath);
    let events = datapath.take_events().unwrap();
    before.driver.transmit.set_available_index(9999);
    rustix::io::write(before.kick.as_fd(), &1_u64.to_ne_bytes()).unwrap();
    let event = events.recv_timeout(Duration::from_secs(20)).unwrap();
    let Event::Fault { port, attachment, .. } = event else { panic!("another event") };
    datapath.remove_port(before.port).unwrap();
    let next = Guest::new(&datapath, network, 2, Shape::default());
    next.start(&datapath);
    assert_eq!(next.port, port);
    assert!(!datapath.quarantine(port, attachment).unwrap());
}

/// What a removed port had said about groups, and mirrors of it, were the next port's of its number.
#[test]
fn a_port_inherits_nothing_by_its_number() {
    let (datapath, network) = datapath(1, Some(Duration::ZERO));
    let mut router = Guest::new(&datapath, network, 1, Shape::default());
    let mut before = Guest::new(&datapath, network, 2, Shape::default());
    let mut probe = Guest::new(&datapath, network, 3, Shape::default());
    start_all(&datapath, &[&router, &before, &probe]);
    datapath.set_network(network, NetworkSettings { snooping: true, ..SETTINGS }).unwrap();
    let mirror = Mirror { sources: vec![before.port], rx: true, tx: false, target: probe.port };
    datapath.set_mirrors(vec![mirror]).unwrap();
    let group = [239, 1, 2, 3];
    router.send(&igmp(router.mac, group, 0x11));
    before.receive();
    before.send(&igmp(before.mac, group, 0x16));
    assert_eq!((router.receive().len(), probe.receive().len()), (60, 60));
    datapath.remove_port(before.port).unwrap();
    let mut next = Guest::new(&datapath, network, 4, Shape::default());
    assert_eq!(next.port, before.port);
    let to_group = [&[0x01, 0x00, 0x5e, 1, 2, 3][..], &router.mac.0, &[0x88, 0xb5], &[7; 46]].concat();
    wait(|| {
        datapath.update_groups().unwrap();
        datapath.trace(router.port, &to_group, &|port| port.0.to_string()).unwrap().fates.is_empty()
    });
    next.start(&datapath);
    let frame = next.frame(router.mac, 1);
    next.send(&frame);
    assert_eq!(router.receive(), frame);
    assert!(probe.driver.receive().is_none());
}

/// A guest moves to another machine while it sends and receives: no frame is lost when its writes begin to be logged, or cease to be.
#[test]
fn logging_comes_and_goes_under_traffic() {
    let (datapath, network) = datapath(1, Some(Duration::from_micros(100)));
    for packed in [false, true] {
        let shape = Shape { packed, ..Shape::default() };
        let mut a = Guest::new(&datapath, network, 1, shape);
        let mut b = Guest::new(&datapath, network, 2, shape);
        start_all(&datapath, &[&a, &b]);
        let (marks, log) = dirty_log(&a);
        let mut number = 0;
        for round in 0..40 {
            let to = (round % 2 == 0).then(|| log.clone());
            let changes = [0, 1].map(|ring| RingChange::Log { ring, log: to.clone() });
            for _ in 0..round {
                number += 1;
                let (there, back) = (a.frame(b.mac, number), b.frame(a.mac, number));
                wait(|| a.driver.send(&there));
                wait(|| b.driver.send(&back));
            }
            for guest in [&a, &b] {
                rustix::io::write(guest.kick.as_fd(), &1_u64.to_ne_bytes()).unwrap();
            }
            datapath.change_rings(a.port, changes.into()).unwrap();
            for number in number - round + 1..=number {
                assert_eq!((b.receive(), a.receive()), (a.frame(b.mac, number), b.frame(a.mac, number)));
            }
            if round % 2 == 0 {
                assert!(take_marks(&marks) > 0);
            }
        }
        let macs: Vec<_> = datapath.macs(network).iter().map(|entry| entry.port).collect();
        assert!(macs.contains(&a.port), "the guest is still known");
        // It leaves.
        datapath
            .change_rings(a.port, [0, 1].map(|ring| RingChange::Log { ring, log: Some(log.clone()) }).into())
            .unwrap();
        take_marks(&marks);
        let stops = [0, 1].map(|ring| RingChange::Stop { ring });
        for (ring, stop) in stops.into_iter().enumerate() {
            let stopped = datapath.change_rings(a.port, vec![stop]).unwrap();
            let position =
                if packed { (number % 256) as u16 | u16::from(number / 256 % 2 == 0) << 15 } else { number as u16 };
            assert_eq!((stopped.len(), stopped[0].ring, stopped[0].position), (1, ring as u16, position));
        }
        let macs: Vec<_> = datapath.macs(network).iter().map(|entry| entry.port).collect();
        assert_eq!(macs, [b.port], "others find the guest elsewhere");
        assert_eq!(Arc::strong_count(&log.log), 1, "nobody uses the log of stopped rings");
        for guest in [&a, &b] {
            datapath.remove_port(guest.port).unwrap();
        }
    }
}

/// The port of a guest that is to come is there before it: until then its address may be anywhere, and is again when it has left.
#[test]
fn a_ports_own_address_is_bound_while_its_guest_is_there() {
    let (datapath, network) = datapath(1, Some(Duration::from_micros(100)));
    let [a, mut b, mut uplink] = [1, 2, 3].map(|number| Guest::new(&datapath, network, number, Shape::default()));
    let rules = Rules { guard: Guard { mac: Some(a.mac), ..Guard::default() }, ..Rules::default() };
    datapath.set_port(a.port, rules).unwrap();
    start_all(&datapath, &[&b, &uplink]);
    // The guest, where it was before: it is behind the uplink.
    let (there, back) = (b.frame(a.mac, 1), a.frame(b.mac, 2));
    uplink.send(&back);
    assert_eq!(b.receive(), back);
    b.send(&there);
    assert_eq!(uplink.receive(), there);
    a.start(&datapath);
    let at = |datapath: &Datapath| {
        datapath.macs(network).iter().find(|entry| entry.address == a.mac).map(|entry| entry.port)
    };
    assert_eq!(at(&datapath), Some(a.port), "it has come");
    let (_, log) = dirty_log(&a);
    datapath.change_rings(a.port, [0, 1].map(|ring| RingChange::Log { ring, log: Some(log.clone()) }).into()).unwrap();
    assert_eq!(at(&datapath), Some(a.port));
    datapath.change_rings(a.port, [0, 1].map(|ring| RingChange::Stop { ring }).into()).unwrap();
    assert_eq!(at(&datapath), None, "it has left");
    uplink.send(&back);
    assert_eq!(b.receive(), back);
    b.send(&there);
    assert_eq!(uplink.receive(), there);
}

/// Its address stays where it is known while the port is made ready, and changed: the guest runs elsewhere, and is spoken to.
#[test]
fn a_port_that_is_made_ready_takes_nothing_from_where_its_guest_is() {
    let (datapath, network) = datapath(1, Some(Duration::from_micros(100)));
    let [mut b, mut uplink] = [2, 3].map(|number| Guest::new(&datapath, network, number, Shape::default()));
    start_all(&datapath, &[&b, &uplink]);
    let moving = MacAddress([2, 0, 0, 0, 0, 77]);
    let hello = [&b.mac.0[..], &moving.0, &[0x88, 0xb5], &[7; 46]].concat();
    uplink.send(&hello);
    assert_eq!(b.receive(), hello);
    let at = || datapath.macs(network).iter().find(|entry| entry.address == moving).map(|entry| entry.port);
    assert_eq!(at(), Some(uplink.port));
    let rules = Rules { guard: Guard { mac: Some(moving), ..Guard::default() }, ..Rules::default() };
    let port = datapath.add_guest_port(network, rules.clone()).unwrap();
    assert_eq!(at(), Some(uplink.port), "it was added");
    datapath.set_port(port, Rules::default()).unwrap();
    datapath.set_port(port, rules).unwrap();
    assert_eq!(at(), Some(uplink.port), "it was changed");
}

/// Nobody can keep a guest that comes from its own address, and take it, by filling the table before.
#[test]
fn a_full_table_keeps_no_guest_from_its_address() {
    let (datapath, network) = datapath(1, Some(Duration::from_micros(100)));
    let [a, b] = [1, 2].map(|number| Guest::new(&datapath, network, number, Shape::default()));
    let rules = Rules { guard: Guard { mac: Some(a.mac), ..Guard::default() }, ..Rules::default() };
    datapath.set_port(a.port, rules).unwrap();
    datapath.set_port(b.port, Rules { mac_limit: u32::MAX, ..Rules::default() }).unwrap();
    start_all(&datapath, &[&b]);
    let flood: Vec<_> = (0x10_0000..0x18_0000)
        .map(|number: u32| {
            let [_, high, middle, low] = number.to_be_bytes();
            let address = MacAddress([2, 9, 9, high, middle, low]);
            LearnedAddress { port: b.port, vlan: 0, address, seen: u32::MAX }
        })
        .collect();
    let attachment = datapath.attachment(b.port);
    assert!(datapath.restore_learned(b.port, attachment, &flood) > 20_000);
    // All of the places where its address may lie.
    a.start(&datapath);
    let known = datapath.macs(network);
    let own = known.iter().find(|entry| entry.address == a.mac).map(|entry| (entry.port, entry.age_seconds));
    assert_eq!(own, Some((a.port, None)));
}

/// A guest whose rings stop for another reason is known on.
#[test]
fn a_guest_that_only_stops_is_not_forgotten() {
    let (datapath, network) = datapath(1, Some(Duration::from_micros(100)));
    let mut a = Guest::new(&datapath, network, 1, Shape::default());
    let mut b = Guest::new(&datapath, network, 2, Shape::default());
    start_all(&datapath, &[&a, &b]);
    let frame = a.frame(b.mac, 1);
    a.send(&frame);
    assert_eq!(b.receive(), frame);
    datapath.change_rings(a.port, [0, 1].map(|ring| RingChange::Stop { ring }).into()).unwrap();
    assert_eq!(datapath.macs(network).len(), 1);
}

/// hostile V14: a frontend that takes its log away is found out, as one that takes its memory away.
#[test]
fn a_log_that_is_taken_away_is_lost_memory() {
    let (datapath, network) = datapath(1, Some(Duration::from_micros(100)));
    let events = datapath.take_events().unwrap();
    let mut a = Guest::new(&datapath, network, 1, Shape::default());
    let b = Guest::new(&datapath, network, 2, Shape::default());
    start_all(&datapath, &[&a, &b]);
    let (marks, log) = dirty_log(&b);
    let log_all = [0, 1].map(|ring| RingChange::Log { ring, log: Some(log.clone()) });
    datapath.change_rings(b.port, log_all.into()).unwrap();
    rustix::fs::ftruncate(&marks, 0).unwrap();
    let frame = a.frame(b.mac, 1);
    a.send(&frame);
    assert_eq!(events.recv_timeout(Duration::from_secs(20)).unwrap(), Event::MemoryLost);
    assert_eq!(datapath.ports_with_lost_memory().iter().map(|(port, _)| *port).collect::<Vec<_>>(), [b.port]);
}

/// A dirty log for a guest's memory, and its file.
fn dirty_log(guest: &Guest) -> (OwnedFd, RingLog) {
    let bytes = DirtyLog::needed(guest.memory.end());
    let file = rustix::fs::memfd_create("log", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&file, bytes).unwrap();
    let log = Arc::new(DirtyLog::map(file.try_clone().unwrap(), bytes, 0).unwrap());
    (file, RingLog { log, used: None, call: Arc::default() })
}

/// How many pages are marked; none are after that.
fn take_marks(file: &OwnedFd) -> u32 {
    let mut bytes = vec![0; usize::try_from(rustix::fs::fstat(file).unwrap().st_size).unwrap()];
    rustix::io::pread(file, &mut bytes, 0).unwrap();
    rustix::io::pwrite(file, &vec![0; bytes.len()], 0).unwrap();
    bytes.iter().map(|byte| byte.count_ones()).sum()
}
