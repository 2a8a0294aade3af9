//! Mistakes of ours while frames pass: they stop one port, and nobody else notices. Needs the feature `inject`.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, clippy::indexing_slicing, reason = "a test")]

use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use culvert_driver::Shape;
use culvert_frame::MacAddress;
use culvert_guest::device::RingChange;
use culvert_switch::{NetworkId, PortTotals, Rules};
use culvert_worker::{Datapath, Event, inject};

mod setup;
use setup::{Guest, start_all, wait};

/// A datapath of one worker that offers faults.
fn datapath() -> (Datapath, NetworkId) {
    inject::offer("frames");
    setup::datapath(1, Some(Duration::from_micros(100)))
}

/// Sends a frame that brings a fault about.
fn inject_by(guest: &mut Guest, fault: &str) {
    let mut frame = [MacAddress::BROADCAST.0, guest.mac.0].concat();
    frame.extend(b"\x88\xb7inject ");
    frame.extend(fault.as_bytes());
    frame.resize(60, 0);
    guest.send(&frame);
}

/// Frames pass both ways.
fn exchange(a: &mut Guest, b: &mut Guest) {
    for number in 0..20 {
        let there = a.frame(b.mac, number);
        a.send(&there);
        assert_eq!(receive_own(b), there);
        let back = b.frame(a.mac, number);
        b.send(&back);
        assert_eq!(receive_own(a), back);
    }
}

/// The next frame that is for this guest and nobody else: others are flooded while its address is not known.
fn receive_own(guest: &mut Guest) -> Vec<u8> {
    loop {
        let frame = guest.receive();
        if frame[..6] == guest.mac.0 {
            return frame;
        }
    }
}

fn assert_balance(datapath: &Datapath, guests: &[&Guest]) -> Vec<PortTotals> {
    let totals: Vec<_> = guests.iter().map(|guest| datapath.totals(guest.port).unwrap()).collect();
    for it in &totals {
        assert_eq!((it.rx_in_flight(), it.tx_in_flight()), (0, 0), "{it:?}");
    }
    let sum = |which: fn(&PortTotals) -> u64| totals.iter().map(which).sum::<u64>();
    assert_eq!(sum(|it| it.copies), sum(|it| it.offered));
    totals
}

#[test]
fn a_panic_in_the_turn_of_a_port_stops_that_port_and_gives_its_buffers_back() {
    let (datapath, network) = datapath();
    let events = datapath.take_events().unwrap();
    let [mut a, mut b, mut c] = [1, 2, 3].map(|number| Guest::new(&datapath, network, number, Shape::default()));
    start_all(&datapath, &[&a, &b, &c]);
    exchange(&mut b, &mut c);
    inject_by(&mut a, "panic");
    let event = events.recv_timeout(Duration::from_secs(20)).unwrap();
    let Event::Panicked { port, attachment } = event else { panic!("another event: {event:?}") };
    assert_eq!(port, a.port);
    exchange(&mut b, &mut c);
    assert!(datapath.quarantine(a.port, attachment).unwrap());
    exchange(&mut b, &mut c);
    let stop = [0, 1].map(|ring| RingChange::Stop { ring }).to_vec();
    let stopped = datapath.change_rings(a.port, stop).unwrap();
    assert_eq!(a.driver.transmit.used_index(), 1, "the burst was given back");
    assert_eq!(stopped.iter().find(|ring| ring.ring == 1).unwrap().position, 1);
    assert_balance(&datapath, &[&a, &b, &c]);
    assert!(events.try_recv().is_err(), "one event only");
}

#[test]
fn receive_queues_that_were_held_go_on_and_their_guests_are_not_blamed() {
    let (datapath, network) = datapath();
    let events = datapath.take_events().unwrap();
    let [mut a, mut b, mut c] = [1, 2, 3].map(|number| Guest::new(&datapath, network, number, Shape::default()));
    start_all(&datapath, &[&a, &b, &c]);
    exchange(&mut b, &mut c);
    inject_by(&mut a, "panic-holding");
    let event = events.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(matches!(event, Event::Panicked { port, .. } if port == a.port), "{event:?}");
    exchange(&mut b, &mut c);
    assert!(events.try_recv().is_err(), "nobody else is blamed");
    assert_balance(&datapath, &[&a, &b, &c]);
}

/// A thread of control that lost its core while it had a guest's receive queue cost the guest frames, at each change of any port.
#[test]
fn changes_take_no_receive_queue_from_workers() {
    let (datapath, network) = datapath();
    let [mut a, mut b] = [1, 2].map(|number| Guest::new(&datapath, network, number, Shape::default()));
    start_all(&datapath, &[&a, &b]);
    exchange(&mut a, &mut b);
    inject_by(&mut a, "hold");
    wait(inject::is_held);
    let changed = thread::scope(|scope| {
        let (done, changed) = channel();
        let (datapath, port) = (&datapath, a.port);
        scope.spawn(move || {
            let another = datapath.add_guest_port(network, Rules::default()).unwrap();
            datapath.set_port(port, Rules::default()).unwrap();
            datapath.remove_port(another).unwrap();
            done.send(())
        });
        let changed = changed.recv_timeout(Duration::from_secs(20));
        inject::let_go();
        changed
    });
    changed.expect("control waits for whoever has a receive queue");
    exchange(&mut a, &mut b);
}

#[test]
fn a_worker_that_failed_goes_on_and_one_that_fails_again_gives_its_queues_back() {
    let (datapath, network) = datapath();
    let events = datapath.take_events().unwrap();
    let [mut a, mut b, mut c] = [1, 2, 3].map(|number| Guest::new(&datapath, network, number, Shape::default()));
    start_all(&datapath, &[&a, &b, &c]);
    inject_by(&mut a, "panic-worker");
    let event = events.recv_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!(event, Event::WorkerFailed { worker: 0 });
    exchange(&mut b, &mut c);
    exchange(&mut a, &mut c);
    // Changes are taken up as before.
    let mut d = Guest::new(&datapath, network, 4, Shape::default());
    d.start(&datapath);
    exchange(&mut c, &mut d);
    assert_balance(&datapath, &[&a, &b, &c, &d]);
    inject_by(&mut a, "panic-worker");
    let event = events.recv_timeout(Duration::from_secs(20)).unwrap();
    assert_eq!(event, Event::WorkerEnded { worker: 0, port: None });
    assert_eq!(datapath.watch_workers(), [], "it is not stuck");
}

#[test]
fn a_pause_is_counted_and_nobody_is_blamed() {
    let (datapath, network) = datapath();
    let events = datapath.take_events().unwrap();
    let [mut a, mut b] = [1, 2].map(|number| Guest::new(&datapath, network, number, Shape::default()));
    start_all(&datapath, &[&a, &b]);
    exchange(&mut a, &mut b);
    inject_by(&mut a, "doze");
    wait(|| {
        assert_eq!(datapath.watch_workers(), []);
        datapath.workers()[0].longest_gap >= inject::DOZE
    });
    exchange(&mut a, &mut b);
    assert!(events.try_recv().is_err());
}
