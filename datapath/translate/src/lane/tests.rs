//! Lanes without threads: what they know of each other, and what they send. The threads are tried in `tests/lanes`.

use culvert_frame::MacAddress;
use mio::{Poll, Token};

use super::*;
use crate::forward::Listen;
use crate::limits::{LimitSettings, Limits};
use crate::link::GuestLink as _;
use crate::samples;
use crate::sockets::{Readiness, SocketId};
use crate::time::Instant;
use crate::translator::Translator;
use crate::world::{Frames, Simulated, World, at, ip_frame, tcp_frame, udp_frame};

/// So many, and what keeps their wakers.
fn lanes(count: usize) -> (Arc<Lanes>, Vec<Poll>) {
    let polls: Vec<Poll> = (0..count).map(|_| Poll::new().unwrap()).collect();
    let wakers = polls.iter().map(|poll| Waker::new(poll.registry(), Token(7)).unwrap()).collect();
    (Lanes::new(wakers, Guest::new(&samples::settings())), polls)
}

fn ends(port: u16) -> FlowEnds {
    FlowEnds { guest: SocketAddr::new("192.0.2.2".parse().unwrap(), port), peer: at("198.51.100.7:80") }
}

#[test]
fn a_flow_is_of_one_lane() {
    let (lanes, _polls) = lanes(3);
    let [mut first, mut second, mut third] = [0, 1, 2].map(|number| Lane::new(&lanes, number));
    assert_eq!(second.is_free(Protocol::Tcp, &ends(1)), Ok(()));
    assert_eq!(second.claim(Protocol::Tcp, &ends(1)), Ok(()));
    assert_eq!(second.is_free(Protocol::Tcp, &ends(1)), Ok(()));
    assert_eq!((first.claim(Protocol::Tcp, &ends(1)), first.owner), (Err(Refusal::OtherLane), 1));
    assert_eq!((third.is_free(Protocol::Tcp, &ends(1)), third.owner), (Err(Refusal::OtherLane), 1));
    // Other ends, another protocol.
    assert_eq!(third.claim(Protocol::Udp, &ends(1)), Ok(()));
    assert_eq!(third.claim(Protocol::Tcp, &ends(2)), Ok(()));
    assert_eq!(lanes.flows(), 3);
    second.release(Protocol::Tcp, &ends(1));
    assert_eq!((first.claim(Protocol::Tcp, &ends(1)), lanes.flows()), (Ok(()), 3));
    assert!(second.take_port(5000, at("198.51.100.7:53")));
    assert!(!third.take_port(5000, at("198.51.100.7:53")) && third.take_port(5000, at("198.51.100.7:54")));
    second.leave_port(5000, at("198.51.100.7:53"));
    assert!(first.take_port(5000, at("198.51.100.7:53")));
}

#[test]
fn what_waits_for_a_lane_is_bounded_and_it_is_woken_once() {
    let (lanes, mut polls) = lanes(2);
    let frame = || Letter::Frame { bytes: vec![0; 60_000], offload: Offload::None };
    let sent = (0..1000).take_while(|_| lanes.post(1, frame())).count();
    assert_eq!(sent, (1 << 20) / 60_128);
    // What is of us has its place always.
    assert!(lanes.post(1, Letter::Room));
    let mut events = mio::Events::with_capacity(8);
    polls[1].poll(&mut events, None).unwrap();
    assert_eq!(events.iter().count(), 1);
    assert_eq!(lanes.take_letters(1).len(), sent + 1);
    assert!(lanes.take_letters(1).is_empty() && lanes.post(1, frame()));
    polls[1].poll(&mut events, None).unwrap();
    assert_eq!(events.iter().count(), 1, "woken again");
    assert!(!lanes.post(2, frame()), "there is none");
}

/// Whoever sleeps is woken for what was put into its box meanwhile, whenever that was.
#[test]
fn no_letter_waits_unseen() {
    const EACH: usize = 20_000;
    let (lanes, mut polls) = lanes(2);
    let mut events = mio::Events::with_capacity(8);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..EACH).for_each(|_| assert!(lanes.post(1, Letter::Room))));
        }
        let mut taken = 0;
        while taken < 2 * EACH {
            polls[1].poll(&mut events, Some(std::time::Duration::from_secs(20))).unwrap();
            assert!(!events.is_empty(), "{taken} were taken; nobody woke for the others");
            taken += lanes.take_letters(1).len();
        }
    });
}

/// What the guest sends to a lane must not keep the world's connections from it, nor may those pile up.
#[test]
fn connections_have_room_of_their_own() {
    let (lanes, _polls) = lanes(2);
    let mut first = Lane::new(&lanes, 0);
    lanes.set_takes_connections(1, true);
    while lanes.post(1, Letter::Frame { bytes: vec![0; 60_000], offload: Offload::None }) {}
    let mut given = 0;
    for _ in 0..1000 {
        if let Some(to) = first.next_for_connection() {
            let socket = rustix::fs::memfd_create("socket", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
            let (far, target) = (at("198.51.100.7:4000"), Target { address: None, port: 80 });
            first.give_connection(to, Accepted { socket, far, target });
            given += 1;
        }
    }
    let letters = lanes.take_letters(1);
    assert_eq!(letters.iter().filter(|letter| matches!(letter, Letter::Connection(_))).count(), given);
    assert_eq!(given, 128);
    assert!([(); 2].map(|()| first.next_for_connection()).contains(&Some(1)));
}

#[test]
fn relayed_frames_wait_for_room_and_so_do_those_that_relay() {
    let (lanes, _polls) = lanes(3);
    let [second, third] = [1, 2].map(|number| Relay::new(&lanes, number));
    assert_eq!(second.put(Offload::None, &[1], &[2]), Err(Full), "nobody is there");
    lanes.set_first_is_there(true);
    for lane in [1, 2] {
        assert!(matches!(lanes.take_letters(lane)[..], [Letter::Room]));
    }
    lanes.set_first_is_there(true);
    assert!(lanes.take_letters(1).is_empty(), "nothing has changed");
    assert_eq!(second.put(Offload::Valid, &[1], &[2, 3]), Ok(()));
    let put = (0..1000).take_while(|_| second.put(Offload::None, &[0; 54], &[0; 60_000]).is_ok()).count();
    assert_eq!((third.put(Offload::None, &[0; 54], &[0; 60_000]), put), (Err(Full), 17));
    let frames = lanes.take_relayed();
    assert_eq!((frames.len(), frames[0].parts(), frames[0].offload), (18, (&[1][..], &[2, 3][..]), Offload::Valid));
    for lane in [1, 2] {
        assert!(matches!(lanes.take_letters(lane)[..], [Letter::Room]), "who was refused is told, once");
    }
    assert!(lanes.take_relayed().is_empty());
}

#[test]
fn what_one_lane_learns_of_the_guest_all_know() {
    let (lanes, _polls) = lanes(2);
    let [mut first, mut second] = [0, 1].map(|number| Lane::new(&lanes, number));
    let [mut one, mut two] = [0, 1].map(|_| Guest::new(&samples::settings()));
    one.mac = Some(MacAddress([2; 6]));
    first.tell_of_guest(&mut one);
    // At the same time.
    two.v4 = "192.0.2.77".parse().unwrap();
    second.tell_of_guest(&mut two);
    assert_eq!((two.mac, two.v4), (Some(MacAddress([2; 6])), "192.0.2.77".parse().unwrap()));
    first.look_at_guest(&mut one);
    assert_eq!(one, two);
}

/// Nobody waits for a lane that has ended.
#[test]
fn the_end_of_a_lane_is_told() {
    let (lanes, _polls) = lanes(2);
    let mut rings = RingsElsewhere::new(&lanes);
    std::thread::scope(|scope| {
        let asks = scope.spawn(|| rings.change(vec![RingChange::Stop { ring: 2 }, RingChange::Stop { ring: 3 }]));
        while lanes.boxes[1].is_empty() {
            std::thread::yield_now();
        }
        lanes.end(1, "it was tired".to_owned());
        assert!(asks.join().unwrap().is_empty());
    });
    assert!(matches!(&lanes.take_letters(0)[..], [Letter::Ended(reason)] if reason == "it was tired"));
    assert!(rings.change(vec![RingChange::Stop { ring: 2 }]).is_empty() && lanes.list_flows(10).is_empty());
}

#[test]
fn connections_go_to_lanes_that_have_a_guest_each_in_turn() {
    let (lanes, _polls) = lanes(4);
    let mut first = Lane::new(&lanes, 0);
    assert_eq!([(); 3].map(|()| first.next_for_connection()), [None; 3]);
    lanes.set_takes_connections(1, true);
    lanes.set_takes_connections(3, true);
    assert_eq!([(); 6].map(|()| first.next_for_connection()), [Some(1), Some(3), None, Some(1), Some(3), None]);
    lanes.set_takes_connections(1, false);
    assert_eq!([(); 4].map(|()| first.next_for_connection()), [Some(3), None, Some(3), None]);
}

/// Several translators of one guest.
struct Several {
    lanes: Arc<Lanes>,
    _polls: Vec<Poll>,
    now: Instant,
    each: Vec<(Translator, Simulated, Frames)>,
}

impl Several {
    fn new(count: usize) -> Self {
        Self::within(LimitSettings::default(), count)
    }

    fn within(limits: LimitSettings, count: usize) -> Self {
        let (lanes, _polls) = lanes(count);
        let limits = Limits::shared(limits, count);
        let World { now, .. } = World::new();
        let each = limits.into_iter().enumerate().map(|(number, limits)| {
            let World { sockets, link, .. } = World::new();
            let lane = Lane::new(&lanes, number);
            (Translator::of_lane(samples::settings(), limits, now, 1, lane), sockets, link)
        });
        let mut several = Self { each: each.collect(), lanes, _polls, now };
        let (address, interface, target) = (None, None, None);
        let (protocol, strict) = (Protocol::Tcp, true);
        let listen = Listen { protocol, address, interface, port: 80, target, target_port: 80, strict };
        let (translator, sockets, _) = &mut several.each[0];
        translator.open_forward(&listen, false, sockets).unwrap();
        several
    }

    /// The guest sends a frame by a queue; letters are answered until there are no more.
    fn send(&mut self, queue: usize, frame: &[u8]) {
        let (translator, sockets, link) = &mut self.each[queue];
        let packet = Packet::of_parts(culvert_guest::NetHeader::default(), frame, &[]);
        translator.frame(self.now, &packet, Offload::None, sockets, link);
        self.answer_letters();
    }

    /// Connections from these ports come to a forwarded port.
    fn knock(&mut self, ports: std::ops::Range<u16>) {
        let (translator, sockets, link) = &mut self.each[0];
        let far = "198.51.100.9".parse().unwrap();
        sockets.streams.waiting.extend(ports.map(|port| Ok(SocketAddr::new(far, port))));
        let ready = Readiness { readable: true, writable: false, failed: false, stops: false };
        translator.socket_event(self.now, SocketId::TcpListener(0), ready, sockets, link);
    }

    fn answer_letters(&mut self) {
        for (number, (translator, sockets, link)) in self.each.iter_mut().enumerate() {
            for letter in self.lanes.take_letters(number) {
                translator.letter(self.now, letter, sockets, link);
            }
        }
        for (translator, sockets, link) in &mut self.each {
            translator.finish(self.now, sockets, link);
            link.flush();
        }
        for number in 0..self.each.len() {
            assert!(self.lanes.take_letters(number).is_empty(), "nothing wanders about");
        }
    }

    fn wait(&mut self, seconds: u64) {
        self.now += std::time::Duration::from_secs(seconds);
        for (translator, sockets, link) in &mut self.each {
            translator.finish(self.now, sockets, link);
        }
    }

    /// The first connection of a lane has reached its peer; returns what the guest is told.
    fn connected(&mut self, lane: usize) -> etherparse::TcpHeader {
        let (translator, sockets, link) = &mut self.each[lane];
        let ready = Readiness { readable: false, writable: true, failed: false, stops: false };
        translator.socket_event(self.now, SocketId::Tcp(0), ready, sockets, link);
        translator.finish(self.now, sockets, link);
        let (_, frame) = link.frames.pop().unwrap();
        let sliced = etherparse::SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(etherparse::TransportSlice::Tcp(segment)) = sliced.transport else { panic!("no TCP") };
        assert!(segment.syn() && segment.ack());
        segment.to_header()
    }

    /// Flows of each lane: of TCP, UDP, echo.
    fn flows(&self) -> Vec<[usize; 3]> {
        let count = |(translator, ..): &(Translator, _, _)| {
            [translator.tcp().len(), translator.udp().len(), translator.echo().len()]
        };
        self.each.iter().map(count).collect()
    }

    /// What the lanes know together is what they have.
    fn check(&self) {
        let held = self.lanes.held();
        let mut flows = HashMap::new();
        for (number, (translator, ..)) in self.each.iter().enumerate() {
            let tcp = translator.tcp().iter().map(|(_, ends)| (Protocol::Tcp, ends));
            for (protocol, ends) in tcp.chain(translator.udp().iter().map(|ends| (Protocol::Udp, ends))) {
                assert_eq!(flows.insert((protocol, ends.into()), number), None, "{ends} is there twice");
            }
        }
        assert_eq!(held.flows, flows);
        let sockets =
            |(_, sockets, _): &(Translator, Simulated, Frames)| sockets.open.len() + sockets.streams.open.len();
        assert_eq!(self.each.iter().map(sockets).sum::<usize>(), flows.len());
    }

    fn refused(&self) -> Vec<u64> {
        let count = |(translator, ..): &(Translator, _, _)| {
            Refusal::ALL.iter().map(|reason| translator.counters().refused(*reason)).sum()
        };
        self.each.iter().map(count).collect()
    }
}

#[test]
fn frames_find_their_flow_from_every_queue() {
    let mut several = Several::new(3);
    let (guest, peer) = (at("192.0.2.2:5000"), at("198.51.100.7:80"));
    let syn = etherparse::TcpHeader { syn: true, ..etherparse::TcpHeader::new(5000, 80, 1, 1000) };
    several.send(1, &tcp_frame(guest, peer, syn.clone(), &[]));
    assert_eq!(several.flows(), [[0, 0, 0], [1, 0, 0], [0, 0, 0]]);
    // Again, by others: there is one connection.
    several.send(2, &tcp_frame(guest, peer, syn.clone(), &[]));
    several.send(0, &tcp_frame(guest, peer, syn, &[]));
    assert_eq!(several.flows(), [[0, 0, 0], [1, 0, 0], [0, 0, 0]]);
    assert_eq!(several.refused(), [0; 3]);
    for queue in [2, 0, 1] {
        several.send(queue, &udp_frame(guest, peer, b"x"));
    }
    assert_eq!(several.flows(), [[0, 0, 0], [1, 0, 0], [0, 1, 0]]);
    assert_eq!(several.each[2].1.udp(0).sent.len(), 3);
    // A segment of no flow is answered where it came.
    let lost = etherparse::TcpHeader { ack: true, ..etherparse::TcpHeader::new(5001, 80, 1, 1000) };
    several.send(2, &tcp_frame(at("192.0.2.2:5001"), peer, lost, &[]));
    assert_eq!(several.refused(), [0, 0, 1]);
    // What is not to one peer is for the first.
    several.send(2, &udp_frame(guest, at("224.0.0.251:5353"), b"x"));
    several.send(1, &udp_frame(guest, at("192.0.2.255:138"), b"x"));
    assert_eq!(several.flows(), [[0, 2, 0], [1, 0, 0], [0, 1, 0]]);
    several.send(1, &ip_frame(guest.ip(), peer.ip(), 89, b"x"));
    assert_eq!(several.refused(), [1, 0, 1]);
    assert_eq!(several.lanes.flows(), 4);
}

/// RFC 6528: a connection that comes again begins behind where it ended, on whatever lane.
#[test]
fn connections_that_come_again_begin_where_all_lanes_begin() {
    let mut several = Several::new(3);
    let (guest, peer) = (at("192.0.2.2:5000"), at("198.51.100.7:80"));
    let begins = [2, 0, 1].map(|queue| {
        let syn = etherparse::TcpHeader { syn: true, ..etherparse::TcpHeader::new(5000, 80, 1, 1000) };
        several.send(queue, &tcp_frame(guest, peer, syn, &[]));
        let answer = several.connected(queue);
        let reset = etherparse::TcpHeader { rst: true, ..etherparse::TcpHeader::new(5000, 80, 2, 1000) };
        several.send(queue, &tcp_frame(guest, peer, reset, &[]));
        answer.sequence_number
    });
    assert_eq!(several.flows(), [[0; 3]; 3]);
    assert_eq!(begins, [begins[0]; 3]);
}

/// A connection is in the budget from when it is accepted: no descriptor is open that does not count. The place of one that is given
/// up is another's.
#[test]
fn connections_count_before_their_lane_has_them() {
    let mut several = Several::within(LimitSettings { flows: 8, ..LimitSettings::default() }, 2);
    several.lanes.set_takes_connections(1, true);
    for _ in 0..10 {
        several.knock(1000..1002);
        several.answer_letters();
    }
    assert_eq!(several.flows(), [[1, 0, 0], [1, 0, 0]], "those after the first ones were there already");
    several.knock(2000..2020);
    let waiting = several.lanes.take_letters(1);
    assert_eq!((several.flows()[0][0] + waiting.len(), several.refused()[0] > 0), (1 + 5, true));
    let (translator, sockets, link) = &mut several.each[1];
    waiting.into_iter().for_each(|letter| translator.letter(several.now, letter, sockets, link));
    several.check();
    assert_eq!(several.flows(), [[4, 0, 0], [3, 0, 0]]);
}

/// As many as one lane could send.
#[test]
fn errors_are_counted_for_all_lanes() {
    let mut several = Several::new(3);
    let peer = at("198.51.100.7:80");
    for number in 0..600_u16 {
        let queue = usize::from(number % 3);
        several.each[queue].1.open_errors.push_back(libc::ENETUNREACH);
        several.send(queue, &udp_frame(SocketAddr::new("192.0.2.2".parse().unwrap(), 5000 + number), peer, b"x"));
    }
    // The first lane has advertised the router besides.
    let frames = several.each.iter().flat_map(|(_, _, link)| &link.frames);
    assert_eq!(frames.filter(|(_, frame)| frame[12..14] == [8, 0]).count(), 100);
    assert_eq!(several.flows(), [[0; 3]; 3]);
    assert!(
        several.lanes.held().ports.is_empty() && several.lanes.flows() == 0,
        "nothing is left of flows that failed"
    );
}

#[test]
fn fragments_are_joined_by_the_first_lane_for_all() {
    let mut several = Several::new(2);
    let (guest, peer) = (at("192.0.2.2:5000"), at("198.51.100.7:80"));
    several.send(1, &udp_frame(guest, peer, b"x"));
    let whole = udp_frame(guest, peer, &[7; 1000]);
    for (from, to, more) in [(0, 504, true), (504, 1008_u16, false)] {
        let mut frame = whole[..34].to_vec();
        frame.extend_from_slice(&whole[34 + usize::from(from)..34 + usize::from(to)]);
        frame[16..18].copy_from_slice(&(20 + to - from).to_be_bytes());
        let field = (from / 8) | if more { 0x2000 } else { 0 };
        frame[20..22].copy_from_slice(&field.to_be_bytes());
        frame[24..26].fill(0);
        let sum = crate::packet::internet_checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        several.send(1, &frame);
    }
    assert_eq!((several.flows(), several.refused()), (vec![[0, 0, 0], [0, 1, 0]], vec![0, 0]));
    assert_eq!(several.each[1].1.udp(0).sent.len(), 2);
}

proptest::proptest! {
    /// Whatever a guest sends by whatever queue: each flow is of one lane, all know of which, and of no other.
    #[test]
    fn books_are_right_whatever_happens(steps in proptest::collection::vec((0..8, 0..4_usize, 0..6_u16, 0..3_usize, 0..3_u32), 300)) {
        let mut several = Several::new(4);
        for (kind, queue, port, peer, number) in steps {
            let guest = SocketAddr::new("192.0.2.2".parse().unwrap(), 5000 + port);
            let peer = ["198.51.100.7:80", "198.51.100.8:80", "224.0.0.251:80"].map(at)[peer];
            let bare = etherparse::TcpHeader::new(guest.port(), peer.port(), number, 1000);
            match kind {
                0..3 => several.send(queue, &tcp_frame(guest, peer, etherparse::TcpHeader { syn: true, ..bare }, &[])),
                3 => several.send(queue, &tcp_frame(guest, peer, etherparse::TcpHeader { rst: true, ..bare }, &[])),
                4 => several.send(queue, &tcp_frame(guest, peer, etherparse::TcpHeader { ack: true, ..bare }, b"x")),
                5 | 6 => several.send(queue, &udp_frame(guest, peer, b"x")),
                _ => several.wait(10 * u64::from(number)),
            }
            several.check();
        }
        several.wait(200);
        several.check();
        proptest::prop_assert!(several.flows().iter().all(|[_, udp, echo]| (*udp, *echo) == (0, 0)));
    }
}
