//! culvert-translator as a process that serves a guest of several queue pairs by several threads, and a guest that is another
//! implementation of TCP/IP (smoltcp) on queues that this test plays. The world is this test, on the loopback of its own
//! network namespace.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    reason = "a test"
)]

#[path = "../transport/dialogue.rs"]
mod dialogue;
#[allow(dead_code, reason = "the test of migration uses it as well")]
mod guest;
#[allow(dead_code, reason = "the test of migration uses it as well")]
mod queues;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use guest::Guest;
use queues::Way;

const PAIRS: usize = 3;

fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32).flat_map(|number| (number.wrapping_mul(0x9e37_79b9)).to_be_bytes()).take(length).collect()
}

/// A server in the world that sends `bytes` to the first that connects, and returns what it gets. Nobody else may connect.
fn server(bytes: Vec<u8>) -> (u16, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = move || {
        let received = exchange(listener.accept().unwrap().0, &bytes);
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err(), "a second connection");
        received
    };
    (port, thread::spawn(serve))
}

/// A server that sends for as long as it can.
fn endless() -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = move || {
        let mut stream = listener.accept().unwrap().0;
        while stream.write_all(&[7; 10_000]).is_ok() {}
    };
    (port, thread::spawn(serve))
}

fn exchange(stream: TcpStream, bytes: &[u8]) -> Vec<u8> {
    thread::scope(|scope| {
        scope.spawn(|| {
            (&stream).write_all(bytes).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        });
        let mut received = Vec::new();
        (&stream).read_to_end(&mut received).unwrap();
        received
    })
}

/// A flow is served where it began: what comes back comes by the queue pair by which the guest has sent.
#[test]
fn each_flow_has_its_queue_pair() {
    let mut guest = Guest::start(PAIRS, &[]);
    for local_port in 3000..3009 {
        let (up, down) = (pattern(100_000), pattern(150_007));
        let (port, server) = server(down.clone());
        let handle = guest.connect(port, local_port);
        assert!(guest.exchange(handle, &up) == down);
        assert!(server.join().unwrap() == up);
        assert_eq!(guest.queues_of(local_port), [usize::from(local_port) % PAIRS], "port {local_port}");
    }
    assert_eq!(guest.stat("tcp_flows_total"), 9);
    assert_eq!(guest.stat("refused_other_lane"), 0);
}

/// Several at once, each by its own queue pair, and all are told of.
#[test]
fn flows_of_all_queue_pairs_go_on_at_once() {
    let mut guest = Guest::start(PAIRS, &[]);
    let flows: Vec<_> = (0..6)
        .map(|number| {
            let (up, down) = (pattern(200_000 + number), pattern(300_000 - number));
            let (port, server) = server(down.clone());
            (guest.connect(port, 3000 + number as u16), server, up, down)
        })
        .collect();
    guest.until(|guest| flows.iter().all(|(handle, ..)| guest.tcp(*handle).may_send()));
    let told = guest.ask("flows");
    assert_eq!(told.iter().filter(|line| line.starts_with("tcp ")).count(), 6, "{told:?}");
    assert_eq!(guest.stat("tcp_flows"), 6);
    let wanted: Vec<_> = flows.iter().map(|(handle, _, up, _)| (*handle, up.as_slice())).collect();
    let received = guest.exchange_all(&wanted);
    for ((_, server, up, down), received) in flows.into_iter().zip(received) {
        assert!(received == down && server.join().unwrap() == up);
    }
    assert_eq!(guest.stat("refused_other_lane"), 0);
}

/// A guest may send frames of one flow by all its queues: it is one connection, and answers come by the queue of its start.
#[test]
fn a_flow_may_move_to_other_queues() {
    let mut guest = Guest::start(PAIRS, &[]);
    // Segments that overtake each other are sent again: a guest that sends each by another queue has only itself to blame.
    for (local_port, first, frames, length) in [(4000, 1, 200, 300_000), (4001, 0, 50, 100_000), (4002, 2, 1, 5_000)] {
        let (up, down) = (pattern(length), pattern(length + 1));
        let (port, server) = server(down.clone());
        guest.queues().way = Way::Always(first);
        let handle = guest.connect(port, local_port);
        guest.until(|guest| guest.tcp(handle).may_send());
        guest.queues().way = Way::InTurn(frames);
        assert!(guest.exchange(handle, &up) == down);
        assert!(server.join().unwrap() == up);
        assert_eq!(guest.queues_of(local_port), [first]);
    }
    assert_eq!((guest.stat("tcp_flows_total"), guest.stat("refused_other_lane")), (3, 0));
}

/// Connections from the world go to each queue pair in turn.
#[test]
fn connections_from_the_world_spread() {
    let mut guest = Guest::start(PAIRS, &["--tcp-ports", "127.0.0.1/7000:80"]);
    guest.wait_served();
    let mut queues = Vec::new();
    for number in 0..6_usize {
        let handle = guest.listen(80);
        let (up, down) = (pattern(100_000 + number), pattern(200_000 + number));
        let client = {
            let bytes = down.clone();
            thread::spawn(move || exchange(TcpStream::connect("127.0.0.1:7000").unwrap(), &bytes))
        };
        guest.queues().arrived.clear();
        guest.until(|guest| guest.tcp(handle).is_active());
        assert!(guest.exchange(handle, &up) == down);
        assert!(client.join().unwrap() == up);
        queues.extend(guest.queues_of(80));
    }
    queues.sort_unstable();
    assert_eq!(queues, [0, 0, 1, 1, 2, 2]);
    assert_eq!(guest.stat("refused_other_lane"), 0);
}

/// A queue pair is disabled, stopped and started again while it carries a flow: what is for the guest comes by the first one
/// meanwhile.
#[test]
fn flows_survive_their_queue_pair() {
    let mut guest = Guest::start(PAIRS, &[]);
    // Much more than lies in a ring.
    let (up, down) = (pattern(900_000), pattern(2_500_000));
    let (port, server) = server(down.clone());
    let handle = guest.connect(port, 4000);
    let own = 4000 % PAIRS;
    assert_ne!(own, 0);
    let (mut sent, mut received, mut steps) = (0, Vec::new(), [1, 4, 5, 8].into_iter().peekable());
    guest.until(|guest| {
        if let Some(step) = steps.next_if(|step| received.len() * 10 / down.len() >= *step) {
            match step {
                1 | 5 => {
                    guest.queues().way = Way::Always(0);
                    if step == 1 { guest.queues().enable(own, false) } else { guest.queues().stop(own) }
                }
                _ => {
                    assert_eq!(guest.queues_of(4000).first(), Some(&0), "by the first one");
                    if step == 4 {
                        guest.queues().enable(own, true)
                    } else {
                        guest.queues().restart(own)
                    }
                    guest.queues().way = Way::ByPort;
                }
            }
            guest.queues().arrived.clear();
        }
        guest.go_on(handle, &up, &mut sent, &mut received)
    });
    assert!(received == down && server.join().unwrap() == up);
    assert!(guest.queues_of(4000).contains(&own), "by its own again");
}

/// The guest's connection ends and comes again, as with a restart of QEMU's: flows of all queue pairs go on.
#[test]
fn flows_survive_a_new_connection() {
    let mut guest = Guest::start(PAIRS, &[]);
    for local_port in [4000, 4001, 4002] {
        let (up, down) = (pattern(300_000), pattern(300_000));
        let (port, server) = server(down.clone());
        let handle = guest.connect(port, local_port);
        let (mut sent, mut received, mut again) = (0, Vec::new(), false);
        guest.until(|guest| {
            if !again && received.len() > 100_000 {
                again = true;
                guest.connect_again();
            }
            guest.go_on(handle, &up, &mut sent, &mut received)
        });
        assert!(received == down && server.join().unwrap() == up);
    }
    assert_eq!((guest.stat("guest_connections"), guest.stat("guest_faults")), (4, 0));
}

/// What waits for room in a guest's ring is for that guest. The next one may come much later, and be another.
#[test]
fn datagrams_do_not_wait_for_a_guest_that_has_gone() {
    for pairs in [1, PAIRS] {
        let mut guest = Guest::start(pairs, &["--udp-ports", "127.0.0.1/7000"]);
        guest.wait_served();
        let world = UdpSocket::bind("127.0.0.1:0").unwrap();
        world.connect("127.0.0.1:7000").unwrap();
        // Each longer than the one before: they do not go together.
        for length in 1..=200 {
            world.send(&vec![7; length]).unwrap();
        }
        let wait_for = |what: &str, is_so: &mut dyn FnMut() -> bool| {
            let deadline = Instant::now() + Duration::from_secs(10);
            while !is_so() {
                assert!(Instant::now() < deadline, "{what}");
                thread::sleep(Duration::from_millis(5));
            }
        };
        wait_for("the ring is not full", &mut || guest.queues().is_full(0));
        // It is, and all have come, on a busy machine too: nothing else happens.
        thread::sleep(Duration::from_secs(1));
        let before = guest.stat("refused_guest_full");
        guest.queues().detach();
        wait_for("datagrams wait for nobody", &mut || guest.stat("refused_guest_full") >= before + 200 - 128);
    }
}

/// One broken ring of many costs the guest its connection, and nobody else anything: the next one works.
#[test]
fn a_broken_ring_of_any_queue_pair_is_noticed() {
    let mut guest = Guest::start(PAIRS, &[]);
    for (round, ring) in [5, 2, 1, 3].into_iter().enumerate() {
        let (up, down) = (pattern(50_000), pattern(50_000));
        let (port, server) = server(down.clone());
        let handle = guest.connect(port, 5000 + round as u16);
        assert!(guest.exchange(handle, &up) == down && server.join().unwrap() == up);
        guest.queues().break_ring(ring);
        // A receive ring is looked at when there is something for it.
        if ring % 2 == 0 {
            let (port, _server) = endless();
            guest.queues().way = Way::Always(ring / 2);
            let handle = guest.connect(port, 5100 + round as u16);
            let (mut sent, mut received) = (0, Vec::new());
            guest.until(|guest| {
                guest.go_on(handle, &up, &mut sent, &mut received);
                guest.queues().is_closed()
            });
            guest.tcp(handle).abort();
            guest.queues().way = Way::ByPort;
        }
        guest.queues().wait_closed();
        guest.connect_again();
        assert_eq!(guest.stat("guest_faults"), round as u64 + 1);
    }
}

/// Rings that are stopped and started at once, for a new table of memory, are watched like those before.
#[test]
fn a_ring_that_breaks_after_its_memory_changed_is_noticed() {
    let mut guest = Guest::start(PAIRS, &[]);
    for (round, ring) in [3, 5, 1].into_iter().enumerate() {
        guest.wait_served();
        guest.queues().set_memory_again();
        guest.queues().break_ring(ring);
        guest.queues().wait_closed();
        guest.connect_again();
        assert_eq!(guest.stat("guest_faults"), round as u64 + 1);
    }
}

/// Memory that vanishes costs the guest its connection, whichever thread meets it (SIGBUS), and nobody else anything: at once,
/// with nothing to do and in the middle of frames.
#[test]
fn lost_memory_ends_the_connection() {
    let mut guest = Guest::start(PAIRS, &[]);
    for round in 0..9 {
        let pair = round % PAIRS;
        if round >= PAIRS {
            let (up, down) = (pattern(50_000), pattern(50_000));
            let (port, server) = server(down.clone());
            guest.queues().way = Way::Always(pair);
            let handle = guest.connect(port, 5000 + round as u16);
            assert!(guest.exchange(handle, &up) == down && server.join().unwrap() == up);
        }
        let mut flows = Vec::new();
        if round >= 2 * PAIRS {
            guest.queues().way = Way::ByPort;
            for number in 0..PAIRS {
                let (port, _server) = endless();
                flows.push(guest.connect(port, (5100 + 10 * round + number) as u16));
            }
            guest.until(|guest| flows.iter().all(|handle| guest.tcp(*handle).recv_queue() > 20_000));
        }
        let begin = Instant::now();
        guest.queues().lose_memory(pair);
        guest.queues().wait_closed();
        assert!(begin.elapsed() < Duration::from_secs(2), "round {round}: after {:?}", begin.elapsed());
        guest.queues().find_memory();
        flows.into_iter().for_each(|handle| guest.tcp(handle).abort());
        guest.connect_again();
        assert_eq!(guest.stat("guest_faults"), round as u64 + 1);
    }
    let (port, server) = server(pattern(100_000));
    let handle = guest.connect(port, 6000);
    assert!(guest.exchange(handle, b"x") == pattern(100_000) && server.join().unwrap() == b"x");
}

/// A guest that floods one thread with what is another's: that is bounded, and nothing stands still.
#[test]
fn a_flood_for_other_queue_pairs_is_bounded() {
    let mut guest = Guest::start(PAIRS, &[]);
    let before = guest.resident_kib();
    // ARP is for the first thread, whoever gets it.
    let mut request = vec![0xff; 6];
    request.extend([2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 169, 254, 2, 1]);
    request.extend([0; 6]);
    request.extend([169, 254, 2, 2]);
    request.resize(1514, 0);
    for number in 0..20_000 {
        guest.queues().send_by(1 + number % 2, &request);
        if number % 64 == 0 {
            guest.queues().drop_received();
        }
    }
    let (up, down) = (pattern(10_000), pattern(10_000));
    let (port, server) = server(down.clone());
    let handle = guest.connect(port, 4000);
    assert!(guest.exchange(handle, &up) == down && server.join().unwrap() == up);
    let grown = guest.resident_kib().saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB more");
    assert!(guest.stat("rx_frames") >= 20_000);
}

/// With one queue pair there is one thread, with several as many.
#[test]
fn there_are_as_many_threads_as_queue_pairs() {
    for pairs in [1, 2, 16] {
        let mut guest = Guest::start(pairs, &[]);
        guest.wait_served();
        assert_eq!(guest.status("Threads"), pairs.to_string());
        thread::sleep(Duration::from_millis(1));
    }
}
