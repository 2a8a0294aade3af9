//! A port's rates, seen from its guest: nothing that it sends is lost, and others do not notice. How exact rates are is proved
//! in simulated time (`datapath/switch/src/golden/rates.rs`); here the clock is the worker's, and only what it may not do is asserted.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, clippy::indexing_slicing, reason = "a test")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_driver::Shape;
use culvert_frame::{Direction, DropReason, MacAddress};
use culvert_guest::device::RingChange;
use culvert_switch::guard::Guard;
use culvert_switch::rates::{Allowance, Rate, Rates};
use culvert_switch::{Rules, Vlans};
use culvert_worker::Datapath;

mod setup;
use setup::{Guest, datapath, start_all, wait};

/// Nothing but the first frames: what follows waits for ever.
const NEARLY_NOTHING: Rate = Rate { bytes: None, frames: Some(Allowance { per_second: 0, burst: 10 }) };

fn rules(rx: Rate, tx: Rate) -> Rules {
    Rules { rates: Rates { rx, tx }, ..Rules::default() }
}

fn drops(datapath: &Datapath, guest: &Guest, reason: DropReason) -> u64 {
    let totals = datapath.totals(guest.port).unwrap();
    totals.drops.iter().filter(|drops| drops.reason == reason).map(|drops| drops.count).sum()
}

/// Makes an address known behind a guest's port.
fn speak(guest: &mut Guest) {
    let frame = guest.frame(MacAddress([2, 0, 0, 0, 0, 99]), 0);
    guest.send(&frame);
}

#[test]
fn what_a_guest_sends_too_much_stays_in_its_ring_and_neighbours_go_on() {
    for idle_sleep in [None, Some(Duration::ZERO), Some(Duration::from_micros(200))] {
        let (datapath, network) = datapath(1, idle_sleep);
        let mut greedy = Guest::new(&datapath, network, 1, Shape::default());
        let mut modest = Guest::new(&datapath, network, 2, Shape::default());
        let mut receiver = Guest::new(&datapath, network, 3, Shape::default());
        datapath.set_port(greedy.port, rules(NEARLY_NOTHING, Rate::default())).unwrap();
        start_all(&datapath, &[&greedy, &modest, &receiver]);
        speak(&mut receiver);
        wait(|| modest.driver.receive().is_some());
        // Ten pass, and what is behind them stays where it is.
        for number in 0..64 {
            let frame = greedy.frame(receiver.mac, number);
            greedy.send(&frame);
        }
        for number in 0..10 {
            assert_eq!(receiver.receive(), greedy.frame(receiver.mac, number));
        }
        // The other guest is served all the while, by the same worker.
        for number in 0..500 {
            let frame = modest.frame(receiver.mac, number);
            modest.send(&frame);
            assert_eq!(receiver.receive(), frame);
        }
        assert_eq!(greedy.driver.transmit.used_index(), 10);
        let totals = datapath.totals(greedy.port).unwrap();
        assert_eq!((totals.rx_frames, totals.dropped(Direction::Rx)), (10, 0));
        assert!(totals.held > 0, "{totals:?}");
        let told = datapath.trace(greedy.port, &greedy.frame(receiver.mac, 1), &|_| String::new()).unwrap();
        assert!(told.refused.is_none() && told.steps[1].what.starts_with("waits in the guest's ring"), "{told:?}");
        // Without the rate all of it goes on, in order.
        datapath.set_port(greedy.port, Rules::default()).unwrap();
        for number in 10..64 {
            assert_eq!(receiver.receive(), greedy.frame(receiver.mac, number), "{idle_sleep:?}");
        }
        wait(|| greedy.driver.transmit.used_index() == 64);
        let totals = datapath.totals(greedy.port).unwrap();
        assert_eq!((totals.rx_frames, totals.forwarded, totals.rx_in_flight()), (64, 64, 0));
    }
}

#[test]
fn a_throttled_guest_gets_its_frames_through_in_time_and_not_before() {
    // 100 frames at once, then 2000 a second: 300 more take 150 ms at least. The worker sleeps in between, and wakes by itself.
    let (datapath, network) = datapath(1, Some(Duration::ZERO));
    let mut sender = Guest::new(&datapath, network, 1, Shape { queue_size: 512, ..Shape::default() });
    let mut receiver = Guest::new(&datapath, network, 2, Shape { queue_size: 512, ..Shape::default() });
    let rate = Rate { bytes: None, frames: Some(Allowance { per_second: 2000, burst: 100 }) };
    datapath.set_port(sender.port, rules(rate, Rate::default())).unwrap();
    start_all(&datapath, &[&sender, &receiver]);
    speak(&mut receiver);
    wait(|| sender.driver.receive().is_some());
    let begin = Instant::now();
    for number in 0..400 {
        let frame = sender.frame(receiver.mac, number);
        wait(|| sender.driver.send(&frame));
    }
    rustix::io::write(&sender.kick, &1_u64.to_ne_bytes()).unwrap();
    for number in 0..400 {
        assert_eq!(receiver.receive(), sender.frame(receiver.mac, number));
    }
    assert!(begin.elapsed() >= Duration::from_millis(150), "{:?}", begin.elapsed());
    assert_eq!(datapath.totals(sender.port).unwrap().drops, []);
}

#[test]
fn what_is_too_much_for_a_port_is_dropped_and_other_ports_get_it() {
    let (datapath, network) = datapath(1, Some(Duration::ZERO));
    let mut sender = Guest::new(&datapath, network, 1, Shape::default());
    let mut slow = Guest::new(&datapath, network, 2, Shape::default());
    let mut other = Guest::new(&datapath, network, 3, Shape::default());
    datapath.set_port(slow.port, rules(Rate::default(), NEARLY_NOTHING)).unwrap();
    start_all(&datapath, &[&sender, &slow, &other]);
    for number in 0..40 {
        let frame = sender.frame(MacAddress::BROADCAST, number);
        sender.send(&frame);
        assert_eq!(other.receive(), frame);
    }
    wait(|| drops(&datapath, &slow, DropReason::TxRate) == 30);
    for number in 0..10 {
        assert_eq!(slow.receive(), sender.frame(MacAddress::BROADCAST, number));
    }
    assert!(slow.driver.receive().is_none());
    assert_eq!(datapath.totals(slow.port).unwrap().tx_in_flight(), 0);
}

#[test]
fn a_worker_whose_only_frames_are_held_back_sleeps() {
    let (datapath, network) = datapath(1, Some(Duration::from_micros(200)));
    let mut greedy = Guest::new(&datapath, network, 1, Shape::default());
    let receiver = Guest::new(&datapath, network, 2, Shape::default());
    datapath.set_port(greedy.port, rules(NEARLY_NOTHING, Rate::default())).unwrap();
    start_all(&datapath, &[&greedy, &receiver]);
    for number in 0..64 {
        let frame = greedy.frame(MacAddress::BROADCAST, number);
        greedy.send(&frame);
    }
    wait(|| datapath.totals(receiver.port).unwrap().offered == 10);
    let before = datapath.workers()[0].sleeps;
    wait(|| datapath.workers()[0].sleeps > before);
    // Each sleep lasts as long as the rate holds, or a quarter of a second; in between it looks around for 200 us at most. A worker
    // that looked at the ring all the while would have made hundreds of thousands of rounds.
    let (rounds, sleeps) = (datapath.workers()[0].rounds, datapath.workers()[0].sleeps);
    wait(|| datapath.workers()[0].sleeps >= sleeps + 3);
    let rounds = datapath.workers()[0].rounds - rounds;
    assert!(rounds < 30_000, "{rounds} rounds");
    assert_eq!(greedy.driver.transmit.used_index(), 10);
}

/// The rules were put back, and what was spent of them was not.
#[test]
fn a_change_that_fails_leaves_the_rate_as_it_was() {
    let (datapath, network) = datapath(1, Some(Duration::ZERO));
    let mut sender = Guest::new(&datapath, network, 1, Shape::default());
    let mut receiver = Guest::new(&datapath, network, 2, Shape::default());
    datapath.set_port(sender.port, rules(NEARLY_NOTHING, Rate::default())).unwrap();
    start_all(&datapath, &[&sender, &receiver]);
    // Each of these has its address in as many VLANs as count, and a guest: they fill the table.
    let everywhere = |number: u32| {
        let [.., high, low] = number.to_be_bytes();
        Rules {
            vlans: Vlans::Trunk { allowed: Arc::new((1..=64).collect()), native: None },
            guard: Guard { mac: Some(MacAddress([2, 0, 0, 1, high, low])), ..Guard::default() },
            ..Rules::default()
        }
    };
    let idle = Guest::new(&datapath, network, 3, Shape::default());
    let attach = |number| {
        let Ok(port) = datapath.add_guest_port(network, everywhere(number)) else { return false };
        datapath
            .change_rings(port, vec![RingChange::Start { ring: 0, setup: idle.setup(&idle.driver.receive) }])
            .unwrap();
        true
    };
    let refused = (0..1000).filter(|&number| !attach(number)).count();
    assert!(refused > 300, "{refused}");
    let refuses = |number| {
        datapath.set_port(sender.port, rules(NEARLY_NOTHING, Rate::default())).unwrap();
        datapath.set_port(sender.port, everywhere(number)).is_err()
    };
    assert!((1000..1100).any(refuses));
    for number in 0..20 {
        let frame = sender.frame(MacAddress::BROADCAST, number);
        sender.send(&frame);
    }
    (0..10).for_each(|_| drop(receiver.receive()));
    wait(|| datapath.totals(sender.port).unwrap().held > 0);
    assert_eq!(datapath.totals(sender.port).unwrap().forwarded, 10);
}
