//! Many connections at a time, and what is left of them: rows N6, N7 and N8, descriptors, places in line, timers.

use std::time::Duration;

use etherparse::{SlicedPacket, TcpHeader, TcpOptionElement, TransportSlice};

use super::*;
use crate::limits::{LimitSettings, Limits};
use crate::socket::KernelSockets;
use crate::world::{World, at, tcp_frame, with_packet};

const SERVER: &str = "198.51.100.7:80";
const GUEST_ADDRESS: &str = "192.0.2.2";

struct Setup {
    world: World,
    flows: TcpFlows,
}

impl Setup {
    fn new() -> Self {
        let world = World::new();
        Self { flows: TcpFlows::new(world.now, &world.settings), world }
    }

    /// A segment of the guest's, from `port`.
    fn send(&mut self, port: u16, header: TcpHeader) -> Result<(), Refusal> {
        let frame = tcp_frame(at(&format!("{GUEST_ADDRESS}:{port}")), at(SERVER), header, &[]);
        let Self { world, flows } = self;
        with_packet(&frame, |packet| flows.from_guest(&mut world.context(), packet))
    }

    fn open(&mut self, port: u16) -> Result<(), Refusal> {
        self.send(port, TcpHeader { syn: true, sequence_number: 1000, window_size: 60_000, ..TcpHeader::default() })
    }

    fn finish(&mut self) {
        let mut ctx = self.world.context();
        self.flows.expire(&mut ctx);
        self.flows.finish(&mut ctx);
    }

    fn ready(&mut self, index: u32) {
        let ready = Readiness { readable: true, writable: true, failed: false, stops: false };
        self.flows.from_socket(&mut self.world.context(), index, ready);
        self.finish();
    }

    /// What the guest was told since the last time.
    fn heard(&mut self) -> Vec<TcpHeader> {
        let frames = std::mem::take(&mut self.world.link.frames);
        let tcp = frames.iter().filter_map(|(_, frame)| match SlicedPacket::from_ethernet(frame).unwrap().transport {
            Some(TransportSlice::Tcp(tcp)) => Some(tcp.to_header()),
            _ => None,
        });
        tcp.collect()
    }

    /// Opens a connection from `port`, up to its first data: our sequence number.
    fn establish(&mut self, port: u16, window: u16) -> u32 {
        self.open(port).unwrap();
        let (index, _) = self.flows.iter().find(|(_, ends)| ends.guest.port() == port).unwrap();
        self.ready(index);
        let answer = self.heard().pop().unwrap();
        assert!(answer.syn && answer.ack);
        let next = answer.sequence_number.wrapping_add(1);
        self.acknowledge(port, next, window).unwrap();
        self.finish();
        next
    }

    fn acknowledge(&mut self, port: u16, number: u32, window: u16) -> Result<(), Refusal> {
        let header = TcpHeader {
            ack: true,
            sequence_number: 1001,
            acknowledgment_number: number,
            window_size: window,
            ..TcpHeader::default()
        };
        self.send(port, header)
    }

    fn limit(&mut self, flows: u32, new_flows: u32, burst: u32) {
        self.world.limits = Limits::new(LimitSettings { flows, new_flows, burst });
    }

    /// Time goes by until all have ended.
    fn wait_for_the_end(&mut self) {
        for _ in 0..100_000 {
            let Some(deadline) = self.flows.deadline() else { break };
            self.world.now = self.world.now.max(deadline);
            self.finish();
        }
        assert_eq!(self.flows.len(), 0);
        assert!(self.flows.timers.deadline().is_none() && self.flows.blocked.is_empty());
        assert!(self.world.sockets.streams.open.is_empty());
        assert_eq!(self.world.limits.in_use(), 0);
    }
}

/// A guest in TIME-WAIT drops a SYN whose timestamp is older than the last one of the connection before (RFC 7323,
/// 5.2).
#[test]
fn timestamps_go_on_from_connection_to_connection() {
    let mut setup = Setup::new();
    let mut told = Vec::new();
    for (index, port) in [(0, 1), (1, 2)] {
        let mut syn = TcpHeader { syn: true, sequence_number: 1000, window_size: 60_000, ..TcpHeader::default() };
        syn.set_options(&[TcpOptionElement::Timestamp(1, 0)]).unwrap();
        setup.send(port, syn).unwrap();
        setup.ready(index);
        let answer = setup.heard().pop().unwrap();
        told.extend(answer.options_iterator().filter_map(|option| match option {
            Ok(TcpOptionElement::Timestamp(value, _)) => Some(value),
            _ => None,
        }));
        setup.world.now += Duration::from_secs(5);
    }
    assert_eq!(told, [0, 5000]);
}

/// N6.
#[test]
fn a_flood_of_new_connections_is_limited_and_disturbs_no_other() {
    let mut setup = Setup::new();
    setup.limit(100, 50, 20);
    let next = setup.establish(1, 60_000);
    let refused: Vec<_> = (2..10_000).filter_map(|port| setup.open(port).err()).collect();
    assert!(refused.iter().all(|&reason| reason == Refusal::TooFast));
    assert_eq!((setup.flows.len(), refused.len()), (20, 9_998 - 19));
    let answers = setup.heard();
    assert_eq!(answers.len(), refused.len());
    assert!(answers.iter().all(|answer| answer.rst && answer.acknowledgment_number == 1001));
    // One that was there goes on.
    setup.world.sockets.streams.open.get_mut(&SocketId::Tcp(0)).unwrap().queue = 1000;
    setup.ready(0);
    assert_eq!(setup.heard().first().map(|data| data.sequence_number), Some(next));
    for _ in 0..10 {
        setup.world.wait(1);
        let _ = (10_000..10_100).map(|port| setup.open(port)).count();
    }
    // A fifth is for others.
    assert_eq!(setup.flows.len(), 80);
    assert_eq!(setup.open(20_000), Err(Refusal::TooManyFlows));
}

/// N7.
#[test]
fn without_descriptors_or_ports_the_guest_is_told_and_nothing_is_left() {
    let mut setup = Setup::new();
    setup.world.sockets.streams.connect_errors.extend([libc::EMFILE, libc::ENFILE, libc::ENOBUFS]);
    for port in 1..4 {
        assert_eq!(setup.open(port), Err(Refusal::NoDescriptor));
    }
    assert_eq!(setup.heard().iter().filter(|answer| answer.rst).count(), 3);
    assert_eq!(setup.world.limits.in_use(), 0);
    setup.world.sockets.streams.connect_errors.extend([libc::EADDRNOTAVAIL, libc::ECONNREFUSED, libc::EACCES]);
    for port in 4..7 {
        assert_eq!(setup.open(port), Ok(()));
        setup.finish();
        assert!(!std::mem::take(&mut setup.world.link.frames).is_empty(), "the guest is told");
    }
    setup.wait_for_the_end();
}

/// N8: nothing is kept for a guest that does not read, and it is not waited for for ever.
#[test]
fn connections_that_nobody_reads_cost_a_timer_each() {
    let mut setup = Setup::new();
    for port in 1..=1000 {
        setup.establish(port, 0);
    }
    for stream in setup.world.sockets.streams.open.values_mut() {
        stream.queue = 1 << 20;
    }
    for index in 0..1000 {
        setup.ready(index);
    }
    for _ in 0..1000 {
        setup.world.now += Duration::from_millis(100);
        setup.finish();
        assert!(setup.flows.timers.len() <= 1000);
    }
    assert!(setup.world.sockets.streams.open.values().all(|stream| stream.queue == 1 << 20));
    setup.wait_for_the_end();
}

/// Each retransmission timer sets the clock of a connection forward: the time that it had before is not kept.
#[test]
fn a_busy_connection_has_one_timer() {
    let mut setup = Setup::new();
    let mut next = setup.establish(1, 60_000);
    for _ in 0..1000 {
        setup.world.sockets.streams.open.get_mut(&SocketId::Tcp(0)).unwrap().queue += 1000;
        setup.ready(0);
        next = next.wrapping_add(1000);
        setup.acknowledge(1, next, 60_000).unwrap();
        setup.finish();
        setup.world.wait(2);
        setup.finish();
        assert_eq!(setup.flows.timers.len(), 1);
    }
    assert_eq!(setup.heard().iter().filter(|segment| segment.psh).count(), 1000);
    setup.wait_for_the_end();
}

/// Connections from outside to a guest that is not there: they end, and so do their places in line.
#[test]
fn nothing_is_left_of_those_that_never_found_room() {
    let mut setup = Setup::new();
    setup.world.link.room = 0;
    let target = Target { address: None, port: 80 };
    for round in 0..10_u16 {
        for port in 0..10 {
            let peer = SocketAddr::new("198.51.100.9".parse().unwrap(), 5000 + 10 * round + port);
            setup.world.sockets.streams.waiting.push_back(Ok(peer));
        }
        assert_eq!(setup.flows.from_listener(&mut setup.world.context(), 0, target), None);
        setup.finish();
        assert_eq!((setup.flows.len(), setup.flows.blocked.len()), (10, 10));
        setup.wait_for_the_end();
    }
    assert!(setup.heard().is_empty());
}

/// Those that found no room get it in the order in which they came.
#[test]
fn room_goes_to_those_who_wait_longest() {
    let mut setup = Setup::new();
    setup.world.link.room = 0;
    for port in 1..=3 {
        setup.open(port).unwrap();
        setup.ready(u32::from(port) - 1);
    }
    assert_eq!(setup.flows.blocked.len(), 3);
    // Of a guest that tells when it has room, nobody behind the first that finds none is asked.
    setup.world.link.is_there = true;
    for port in 1..=3 {
        setup.world.link.room = 1;
        setup.flows.link_ready(&mut setup.world.context());
        assert_eq!(setup.heard().iter().map(|answer| answer.destination_port).collect::<Vec<_>>(), [port]);
    }
    assert!(setup.flows.blocked.is_empty());
}

/// A peer that connects with the very ends that there are already, or from itself, is not accepted; its socket is
/// closed.
#[test]
fn who_cannot_be_told_apart_is_not_accepted() {
    let mut setup = Setup::new();
    let target = Target { address: None, port: 80 };
    let peer = at("198.51.100.9:5000");
    setup.world.sockets.streams.waiting.extend([Ok(peer), Ok(peer), Err(io::ErrorKind::ConnectionAborted.into())]);
    assert_eq!(setup.flows.from_listener(&mut setup.world.context(), 0, target), None);
    assert_eq!((setup.flows.len(), setup.world.sockets.streams.open.len(), setup.world.limits.in_use()), (1, 1, 1));
    assert_eq!(setup.world.refused(Refusal::BadDestination), 1);
    setup.finish();
    setup.wait_for_the_end();
}

/// Those that come for a port which has become another's are reset.
#[test]
fn steered_connections_go_where_their_port_leads() {
    let mut setup = Setup::new();
    let accept = |setup: &mut Setup, target: Option<Target>| {
        setup.world.sockets.streams.waiting.push_back(Ok(at("198.51.100.9:5000")));
        // That of the simulated sockets.
        let target = |port| target.filter(|_| port == 80);
        assert_eq!(setup.flows.from_steered(&mut setup.world.context(), target), None);
    };
    accept(&mut setup, None);
    assert_eq!((setup.flows.len(), setup.world.sockets.streams.open.len(), setup.world.limits.in_use()), (0, 0, 0));
    assert_eq!(setup.world.refused(Refusal::BadDestination), 1);
    accept(&mut setup, Some(Target { address: None, port: 8080 }));
    setup.finish();
    assert_eq!(setup.heard().iter().map(|segment| segment.destination_port).collect::<Vec<_>>(), [8080]);
    setup.wait_for_the_end();
}

/// The second look would be a system call for each request.
#[test]
fn a_socket_whose_queue_was_not_full_is_looked_at_once() {
    for (stops, looks) in [(false, 1), (true, 2)] {
        let mut setup = Setup::new();
        setup.establish(1, 60_000);
        let id = SocketId::Tcp(0);
        let stream = setup.world.sockets.streams.open.get_mut(&id).unwrap();
        (stream.queue, stream.looks) = (1000, 0);
        let ready = Readiness { readable: true, writable: false, failed: false, stops };
        setup.flows.from_socket(&mut setup.world.context(), 0, ready);
        setup.finish();
        let stream = setup.world.sockets.streams.open.get_mut(&id).unwrap();
        assert_eq!(stream.looks, looks);
        // More is told by another event.
        stream.queue += 500;
        setup.flows.from_socket(&mut setup.world.context(), 0, ready);
        setup.finish();
        let sent: usize = setup.world.link.frames.iter().map(|(_, frame)| frame.len() - 54).sum();
        assert_eq!(sent, 1500);
    }
}

/// A kernel that has lost what it gave before: the connection ends, and it is not asked for ever.
#[test]
fn what_cannot_be_sent_again_ends_its_connection() {
    let mut setup = Setup::new();
    setup.establish(1, 60_000);
    setup.world.sockets.streams.open.get_mut(&SocketId::Tcp(0)).unwrap().queue = 1000;
    setup.ready(0);
    setup.world.sockets.streams.open.get_mut(&SocketId::Tcp(0)).unwrap().queue = 0;
    setup.world.wait(1);
    setup.finish();
    assert!(setup.heard().last().unwrap().rst);
    setup.wait_for_the_end();
}

/// Of a flow there are its entry, its timer, what finds it by its ends (with room to grow) and its socket's entry.
#[test]
fn a_flow_takes_less_than_280_bytes() {
    let bytes = size_of::<Flow>() + TimerWheel::BYTES_OF_EACH + 2 * 5 + KernelSockets::BYTES_OF_A_STREAM;
    assert!(bytes < 280, "{bytes}");
}

/// A byte that probes a closed window lies behind it. An acknowledgement from there is none for a guest that goes by the letter (RFC 9293, 3.10.7.4;
/// smoltcp does): it would send for ever again what it was told long ago to have arrived.
#[test]
fn acknowledgements_are_not_from_behind_a_closed_window() {
    let mut setup = Setup::new();
    let next = setup.establish(1, 60_000);
    let (index, _) = setup.flows.iter().next().unwrap();
    setup.acknowledge(1, next, 0).unwrap();
    setup.finish();
    setup.world.sockets.streams.open.get_mut(&SocketId::Tcp(index)).unwrap().queue = 100;
    setup.ready(index);
    setup.heard();
    let mut probes = Vec::new();
    for _ in 0..20 {
        setup.world.now += Duration::from_millis(500);
        setup.finish();
        probes.extend(setup.heard());
    }
    assert!(!probes.is_empty() && probes.iter().all(|probe| probe.sequence_number == next), "{probes:?}");
    // What came before comes again.
    let old = TcpHeader {
        ack: true,
        sequence_number: 900,
        acknowledgment_number: next,
        window_size: 0,
        ..TcpHeader::default()
    };
    setup.send(1, old).unwrap();
    setup.finish();
    let answer = setup.heard().pop().unwrap();
    assert_eq!((answer.sequence_number, answer.acknowledgment_number), (next, 1001));
}
