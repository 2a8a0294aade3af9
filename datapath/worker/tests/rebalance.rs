//! Queues that go from one worker to another while frames pass.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, clippy::indexing_slicing, reason = "a test")]

use std::time::Duration;

use culvert_driver::Shape;
use culvert_frame::MacAddress;
use culvert_switch::PortId;
use culvert_worker::{Datapath, Moved};

mod setup;
use setup::{Guest, datapath, start_all, wait};

/// The worker that polls a port's first queue.
fn worker(datapath: &Datapath, port: PortId) -> usize {
    datapath.inputs().iter().find(|input| input.port == port).unwrap().worker
}

/// The frames that each worker took.
fn frames(datapath: &Datapath) -> Vec<u64> {
    datapath.workers().iter().map(|worker| worker.frames).collect()
}

fn moved(port: PortId, from: usize, to: usize) -> Moved {
    Moved { port, queue: 0, from, to, load: 0 }
}

/// Makes the addresses of all known.
fn introduce(guests: &mut [Guest]) {
    for speaker in 0..guests.len() {
        let frame = guests[speaker].frame(MacAddress::BROADCAST, 0);
        guests[speaker].send(&frame);
        for (_, listener) in guests.iter_mut().enumerate().filter(|(listener, _)| *listener != speaker) {
            assert_eq!(listener.receive(), frame);
        }
    }
}

#[test]
fn no_frame_is_lost_or_overtaken_when_queues_move() {
    for (packed, idle_sleep) in [(false, Some(Duration::ZERO)), (true, None)] {
        let (datapath, network) = datapath(2, idle_sleep);
        let shape = Shape { packed, ..Shape::default() };
        let mut guests = [1, 2, 3, 4].map(|number| Guest::new(&datapath, network, number, shape));
        start_all(&datapath, &guests.each_ref());
        introduce(&mut guests);
        let [a, b, c, d] = &mut guests;
        let ports = [a.port, c.port];
        std::thread::scope(|scope| {
            let datapath = &datapath;
            let mover = scope.spawn(move || {
                for number in 0..300 {
                    // Now one, now the other, now both.
                    let which = &ports[usize::from(number % 3 == 0)..1 + usize::from(number % 3 != 1)];
                    let moves = which.iter().map(|&port| {
                        let from = worker(datapath, port);
                        moved(port, from, 1 - from)
                    });
                    let moves: Vec<_> = moves.collect();
                    datapath.move_queues(&moves).unwrap();
                    assert!(moves.iter().all(|moved| worker(datapath, moved.port) == moved.to));
                }
            });
            // Frames of two flows, never more on their way than the receivers have room for.
            let (mut sent, mut received) = (0, [0; 2]);
            while !mover.is_finished() || received != [sent; 2] {
                if !mover.is_finished() && received.iter().all(|received| sent - received < 32) {
                    for (from, to) in [(&mut *a, b.mac), (&mut *c, d.mac)] {
                        let frame = from.frame(to, sent);
                        from.send(&frame);
                    }
                    sent += 1;
                }
                for (received, (to, from)) in received.iter_mut().zip([(&mut *b, &*a), (&mut *d, &*c)]) {
                    if let Some((_, frame)) = to.driver.receive() {
                        assert_eq!(frame, from.frame(to.mac, *received), "frame {received}");
                        *received += 1;
                    }
                }
                std::thread::yield_now();
            }
            assert!(sent > 0);
            for guest in [&*a, c] {
                let totals = datapath.totals(guest.port).unwrap();
                assert_eq!((totals.rx_frames, totals.drops.len()), (u64::from(sent) + 1, 0), "{totals:?}");
            }
        });
    }
}

#[test]
fn a_queue_that_has_moved_wakes_its_new_worker() {
    let (datapath, network) = datapath(2, Some(Duration::from_micros(200)));
    let mut guests = [1, 2].map(|number| Guest::new(&datapath, network, number, Shape::default()));
    start_all(&datapath, &guests.each_ref());
    introduce(&mut guests);
    let [mut a, mut b] = guests;
    for number in 1..=10 {
        let (from, to) = (worker(&datapath, a.port), 1 - worker(&datapath, a.port));
        datapath.move_queues(&[moved(a.port, from, to)]).unwrap();
        // Both sleep by then.
        let sleeps = datapath.workers().iter().map(|worker| worker.sleeps).collect::<Vec<_>>();
        wait(|| datapath.workers().iter().zip(&sleeps).all(|(worker, before)| worker.sleeps > *before));
        let before = frames(&datapath);
        let frame = a.frame(b.mac, number);
        a.send(&frame);
        assert_eq!(b.receive(), frame);
        wait(|| frames(&datapath)[to] == before[to] + 1);
        assert_eq!(frames(&datapath)[from], before[from]);
    }
    // It can be stopped like any other one.
    datapath.remove_port(a.port).unwrap();
    assert_eq!(datapath.inputs().len(), 1);
}

#[test]
fn of_two_busy_queues_at_one_worker_one_goes_to_the_other() {
    let (datapath, network) = datapath(2, Some(Duration::from_micros(200)));
    let mut guests = [1, 2, 3, 4].map(|number| Guest::new(&datapath, network, number, Shape::default()));
    start_all(&datapath, &guests.each_ref());
    let workers = guests.each_ref().map(|guest| worker(&datapath, guest.port));
    assert_eq!(workers, [0, 1, 0, 1]);
    assert_eq!(datapath.balance(25).moves, [], "nobody has done anything");
    introduce(&mut guests);
    datapath.measure_loads();
    let [a, b, c, _] = &mut guests;
    // Where the machine has other work, one may seem to take much more than the other for a while.
    let mut proposal = datapath.balance(5);
    wait(|| {
        for number in 0..2000 {
            let (first, second) = (a.frame(b.mac, number), c.frame(b.mac, number));
            a.send(&first);
            c.send(&second);
            b.receive();
            b.receive();
        }
        proposal = datapath.balance(5);
        proposal.moves.len() == 1
    });
    let [Moved { port, queue: 0, from: 0, to: 1, load }] = proposal.moves[..] else { panic!("{proposal:?}") };
    assert!([a.port, c.port].contains(&port) && load > 0 && proposal.improvement >= 5, "{proposal:?}");
    assert!(proposal.loads[0].1 < proposal.loads[0].0 && proposal.loads[1].1 > proposal.loads[1].0);
    assert_eq!(worker(&datapath, port), 0, "that was a proposal");
    assert_eq!(datapath.move_queues(&proposal.moves).unwrap(), proposal.moves);
    assert_eq!(worker(&datapath, port), 1);
    assert_eq!(datapath.balance(5).moves, []);
    // What is not where it is said to be stays, as does what is not there, or was to go where nobody is.
    let stale = [moved(port, 0, 1), moved(PortId(77), 0, 1), moved(port, 1, 9)];
    assert_eq!(datapath.move_queues(&stale).unwrap(), []);
    assert_eq!(worker(&datapath, port), 1);
    // Frames of all pass.
    for number in 0..10 {
        let frame = a.frame(b.mac, number);
        a.send(&frame);
        assert_eq!(b.receive(), frame);
        let frame = b.frame(a.mac, number);
        b.send(&frame);
        assert_eq!(a.receive(), frame);
    }
}
