//! A guest goes from one translator to another, in simulated time.

use std::time::Duration;

use culvert_frame::Offload;
use culvert_guest::{NetHeader, Packet};
use etherparse::{SlicedPacket, TcpHeader, TcpOptionElement, TransportSlice};

use super::*;
use crate::forward::Listen;
use crate::limits::LimitSettings;
use crate::migration::Damaged;
use crate::migration::lost::Lost;
use crate::samples;
use crate::sockets::Readiness;
use crate::world::{Frames, Simulated, World, at, tcp_frame, udp_frame};

const SERVER: &str = "198.51.100.7:80";
const BOTH: Readiness = Readiness { readable: true, writable: true, failed: false, stops: false };

/// One machine, with a translator.
struct Place {
    now: Instant,
    sockets: Simulated,
    link: Frames,
    translator: Translator,
}

impl Place {
    fn new(settings: Settings) -> Self {
        let World { now, sockets, link, .. } = World::new();
        // Machines do not start at the same time.
        let translator = Translator::new(settings, LimitSettings::default(), now, 1);
        Self { now, sockets, link, translator }
    }

    fn frame(&mut self, bytes: &[u8]) {
        let frame = Packet::of_parts(NetHeader::default(), bytes, &[]);
        self.translator.frame(self.now, &frame, Offload::None, &mut self.sockets, &mut self.link);
        self.finish();
    }

    fn finish(&mut self) {
        self.translator.finish(self.now, &mut self.sockets, &mut self.link);
    }

    fn event(&mut self, id: SocketId) {
        self.translator.socket_event(self.now, id, BOTH, &mut self.sockets, &mut self.link);
        self.finish();
    }

    /// What the guest is told by TCP, with the bytes of payload.
    fn heard(&mut self) -> Vec<(TcpHeader, usize)> {
        let frames = std::mem::take(&mut self.link.frames);
        let tcp = frames.iter().filter_map(|(_, frame)| match SlicedPacket::from_ethernet(frame).unwrap().transport {
            Some(TransportSlice::Tcp(tcp)) => Some((tcp.to_header(), tcp.payload().len())),
            _ => None,
        });
        tcp.collect()
    }

    fn tcp(&mut self, port: u16, header: TcpHeader, payload: &[u8]) {
        let header = TcpHeader { window_size: 60_000, ..header };
        self.frame(&tcp_frame(at(&format!("192.0.2.2:{port}")), at(SERVER), header, payload));
    }

    /// A connection from this port: the number of our first byte, and its socket.
    fn establish(&mut self, port: u16) -> (u32, SocketId) {
        self.tcp(port, TcpHeader { syn: true, sequence_number: 1000, ..TcpHeader::default() }, b"");
        let id = self.translator.tcp().iter().find(|(_, ends)| ends.guest.port() == port).unwrap().0;
        self.event(SocketId::Tcp(id));
        let (answer, _) = self.heard().pop().unwrap();
        assert!(answer.syn && answer.ack);
        let next = answer.sequence_number.wrapping_add(1);
        self.tcp(port, acknowledge(1001, next), b"");
        (next, SocketId::Tcp(id))
    }

    /// Port 80 leads to the guest: the listener 0.
    fn forward(&mut self) {
        let (protocol, target_port) = (Protocol::Tcp, 80);
        let listen =
            Listen { protocol, address: None, interface: None, port: 80, target: None, target_port, strict: true };
        self.translator.open_forward(&listen, false, &mut self.sockets).unwrap();
    }

    fn save(&mut self) -> State {
        let mut most = 1 << 20;
        self.translator.save(self.now, &[], &mut most, (&mut self.sockets, &mut self.link))
    }

    fn load(&mut self, state: State) -> Result<(), Misfit> {
        self.translator.load(self.now, state, &mut self.sockets, &mut self.link)
    }

    fn go_on(&mut self) {
        self.translator.go_on(self.now, &mut self.sockets, &mut self.link);
        self.finish();
    }

    fn lost(&self, reason: Lost) -> u64 {
        self.translator.moved().lost(reason)
    }
}

fn acknowledge(sequence_number: u32, acknowledgment_number: u32) -> TcpHeader {
    TcpHeader { ack: true, sequence_number, acknowledgment_number, ..TcpHeader::default() }
}

/// Over the wire.
fn carried(state: &State) -> State {
    let bytes = state.to_bytes();
    let read = State::from_bytes(&bytes).unwrap();
    assert_eq!(read, *state);
    read
}

/// A guest with one connection: 300 bytes wait for it, of which 100 were sent and are not acknowledged.
fn with_a_connection() -> (Place, u32, SocketId) {
    let mut old = Place::new(samples::settings());
    let (next, id) = old.establish(5000);
    old.tcp(5000, acknowledge(1001, next), b"hello");
    assert_eq!(old.heard().last().unwrap().0.acknowledgment_number, 1006);
    old.sockets.streams.open.get_mut(&id).unwrap().queue = 100;
    old.event(id);
    assert_eq!(old.heard().pop().unwrap().1, 100);
    old.sockets.streams.open.get_mut(&id).unwrap().queue = 300;
    (old, next, id)
}

#[test]
fn a_connection_goes_on_at_another_place() {
    let (mut old, next, id) = with_a_connection();
    let state = old.save();
    assert!(old.translator.is_waiting() && old.translator.deadline().is_none());
    // Nothing is done while it is not known where the guest goes on.
    old.event(id);
    assert!(old.heard().is_empty());

    let mut new = Place::new(samples::settings());
    new.now += Duration::from_secs(5);
    new.load(carried(&state)).unwrap();
    new.event(SocketId::Tcp(0));
    assert!(new.heard().is_empty());
    new.go_on();
    let heard = new.heard();
    // What was not sent yet comes behind what was.
    let data = heard.iter().find(|(_, bytes)| *bytes > 0).unwrap();
    assert_eq!((data.0.sequence_number, data.1), (next.wrapping_add(100), 200));
    assert_eq!(data.0.acknowledgment_number, 1006);
    // What was in flight is acknowledged, or sent again.
    new.now += Duration::from_secs(2);
    new.finish();
    let again = new.heard();
    assert_eq!(again[0].0.sequence_number, next, "{again:?}");
    new.tcp(5000, acknowledge(1006, next.wrapping_add(300)), b"more");
    let stream = &new.sockets.streams.open[&SocketId::Tcp(0)];
    assert_eq!((stream.queue, stream.written), (0, 4));
    assert_eq!(new.translator.moved().loaded, [1, 0, 0]);
    assert_eq!((old.translator.moved().saved, new.translator.moved().all_lost()), ([1, 0, 0], 0));

    // The guest has left the old place.
    old.translator.forget_all(old.now, &mut old.sockets, &mut old.link);
    old.finish();
    assert!(old.sockets.streams.open.is_empty() && old.translator.tcp().is_empty() && old.heard().is_empty());
}

#[test]
fn a_guest_that_stays_notices_nothing() {
    let (mut old, next, id) = with_a_connection();
    for _ in 0..3 {
        let _ = old.save();
        assert!(old.sockets.streams.open[&id].is_held);
        old.now += Duration::from_secs(3);
        old.go_on();
        assert!(!old.sockets.streams.open[&id].is_held);
    }
    old.tcp(5000, acknowledge(1006, next.wrapping_add(300)), b"more");
    assert_eq!(old.sockets.streams.open[&id].queue, 0);
    assert_eq!(old.sockets.streams.open[&id].written, 9);
}

/// Segments of ours must not seem older than those that the guest had.
#[test]
fn the_clock_towards_the_guest_goes_on() {
    let (mut old, ..) = with_a_connection();
    old.now += Duration::from_secs(1_000_000);
    let state = old.save();
    let mut new = Place::new(samples::settings());
    new.load(carried(&state)).unwrap();
    assert!(new.translator.tcp.clock(new.now).wrapping_sub(state.clock) < 1000);
    assert_eq!(state.clock, 1_000_000_000);
}

/// What cannot live is over at once, for a reason that is counted.
#[test]
fn the_guest_hears_of_connections_that_are_lost() {
    let (mut old, next, _) = with_a_connection();
    let state = old.save();
    // The pod has another address.
    let mut new = Place::new(samples::settings());
    new.sockets.streams.missing.push("192.0.2.2".parse().unwrap());
    new.load(carried(&state)).unwrap();
    new.go_on();
    let (reset, _) = new.heard().pop().unwrap();
    assert!(reset.rst);
    assert_eq!(reset.sequence_number, next.wrapping_add(100));
    assert_eq!((new.lost(Lost::Address), new.translator.tcp().len()), (1, 0));

    // Nobody helps there.
    let mut new = Place::new(samples::settings());
    new.sockets.streams.is_helpless = true;
    new.load(carried(&state)).unwrap();
    new.go_on();
    assert!(new.heard().pop().unwrap().0.rst);
    assert_eq!((new.lost(Lost::Helper), new.translator.tcp().len()), (1, 0));

    // Nobody helps here: if the guest stays, nothing has happened.
    let (mut old, next, id) = with_a_connection();
    old.sockets.streams.is_helpless = true;
    let state = old.save();
    assert_eq!(old.lost(Lost::Helper), 1);
    let mut new = Place::new(samples::settings());
    new.load(carried(&state)).unwrap();
    new.go_on();
    assert!(new.heard().pop().unwrap().0.rst);
    assert_eq!(new.translator.moved().all_lost(), 0, "it was counted where it was lost");
    old.go_on();
    old.tcp(5000, acknowledge(1006, next.wrapping_add(300)), b"more");
    assert_eq!(old.sockets.streams.open[&id].queue, 0);
}

/// A guest may not be led where it may not go.
#[test]
fn flows_that_are_not_permitted_are_lost() {
    let (mut old, ..) = with_a_connection();
    let good = old.save();
    for far in ["127.0.0.1:80", "198.51.100.8:80", "198.51.100.7:81"] {
        let mut state = good.clone();
        state.tcp[0].stream.as_mut().unwrap().far = at(far);
        let mut new = Place::new(samples::settings());
        new.load(carried(&state)).unwrap();
        new.go_on();
        assert_eq!(new.lost(Lost::NotAllowed), 1, "{far}");
        assert!(new.sockets.streams.open.is_empty(), "{far}");
        assert!(new.heard().pop().unwrap().0.rst, "{far}");
    }
}

/// Nor by an answer to a datagram that it claims to have got: clouds tell machines' secrets there.
#[test]
fn nobody_begins_a_flow_at_a_refused_address() {
    let mut old = Place::new(samples::settings());
    old.frame(&udp_frame(at("192.0.2.2:6000"), at("198.51.100.9:53"), b"who?"));
    let mut state = old.save();
    for (peer, is_lost) in [("198.51.100.9:53", 0), ("169.254.169.254:53", 1)] {
        let flow = &mut state.udp[0];
        (flow.ends.peer, flow.peer, flow.local) = (at(peer), at(peer), Some("192.0.2.2".parse().unwrap()));
        let mut settings = samples::settings();
        settings.v4.as_mut().unwrap().mapping.host_refused = true;
        let mut new = Place::new(settings);
        new.load(carried(&state)).unwrap();
        assert_eq!(new.lost(Lost::NotAllowed), is_lost, "{peer}");
    }
}

/// A connection about which its two ends do not agree is over: the guest hears so, rather than nothing.
#[test]
fn what_does_not_fit_together_is_reset() {
    let (mut old, next, _) = with_a_connection();
    // The guest closes, of which the simulated socket will know nothing.
    old.tcp(5000, TcpHeader { fin: true, ..acknowledge(1006, next.wrapping_add(100)) }, b"");
    let state = old.save();
    assert_eq!((old.lost(Lost::State), old.translator.moved().saved), (1, [0; 3]));
    let mut new = Place::new(samples::settings());
    new.load(carried(&state)).unwrap();
    new.go_on();
    assert!(new.heard().pop().unwrap().0.rst);
}

/// A guest that was never heard has told of no window, and of no end.
#[test]
fn connections_that_begin_are_checked() {
    let mut old = Place::new(samples::settings());
    old.sockets.streams.waiting.push_back(Ok(at("198.51.100.7:80")));
    old.forward();
    old.event(SocketId::TcpListener(0));
    let bytes = old.save().to_bytes();
    assert_eq!(State::from_bytes(&bytes).unwrap().tcp[0].connection.stage(), crate::tcp::Stage::SynSent);
    for place in 0..bytes.len() {
        for value in [0xff, 0x80, 0x20, 1] {
            let mut other = bytes.clone();
            other[place] ^= value;
            let Ok(state) = State::from_bytes(&other) else { continue };
            let mut new = Place::new(samples::settings());
            if new.load(state).is_err() {
                continue;
            }
            new.go_on();
            let Some((syn, _)) = new.heard().pop() else { continue };
            // The guest answers, and says and gets something.
            let ends = new.translator.tcp().iter().next().map(|(_, ends)| ends);
            let Some(ends) = ends else { continue };
            let next = syn.sequence_number.wrapping_add(1);
            let mut answer = TcpHeader { syn: true, window_size: 60_000, ..acknowledge(1000, next) };
            answer.set_options(&[TcpOptionElement::WindowScale(7)]).unwrap();
            new.frame(&tcp_frame(ends.guest, ends.peer, answer, b""));
            new.frame(&tcp_frame(ends.guest, ends.peer, acknowledge(1001, next), b"hello"));
            new.now += Duration::from_secs(9);
            new.finish();
        }
    }
}

/// Whoever comes after a guest that did not stay finds the translator as it was configured.
#[test]
fn nothing_is_left_of_a_guest_that_has_gone() {
    let old = Place::new(samples::settings()).save();
    let mut settings = samples::settings();
    let v4 = settings.v4.as_mut().unwrap();
    v4.address = "10.9.8.7/24".parse().unwrap();
    (v4.gateway, v4.ours) = ("10.9.8.1".parse().unwrap(), "10.9.8.1".parse().unwrap());
    let mut new = Place::new(settings.clone());
    for _ in 0..2 {
        new.load(carried(&old)).unwrap();
        assert_ne!(*new.translator.settings(), settings);
    }
    new.translator.forget_all(new.now, &mut new.sockets, &mut new.link);
    assert_eq!((new.translator.settings(), new.translator.shared.leased()), (&settings, &settings));
    assert_eq!(new.save().told, Told::of(&settings));
}

/// What came to forwarded ports while the guest was on its way is looked at when it has gone.
#[test]
fn listeners_are_looked_at_again() {
    let mut place = Place::new(samples::settings());
    place.forward();
    let _ = place.save();
    place.sockets.streams.waiting.push_back(Ok(at("198.51.100.7:4000")));
    place.event(SocketId::TcpListener(0));
    place.translator.forget_all(place.now, &mut place.sockets, &mut place.link);
    place.finish();
    assert!(place.sockets.streams.waiting.is_empty());
}

#[test]
fn connections_that_begin_go_on_beginning() {
    let mut old = Place::new(samples::settings());
    // The far end has not answered.
    old.tcp(5000, TcpHeader { syn: true, sequence_number: 1000, ..TcpHeader::default() }, b"");
    // The guest has not.
    old.tcp(5001, TcpHeader { syn: true, sequence_number: 2000, ..TcpHeader::default() }, b"");
    old.event(SocketId::Tcp(1));
    let (answer, _) = old.heard().pop().unwrap();
    let state = old.save();
    let mut new = Place::new(samples::settings());
    new.load(carried(&state)).unwrap();
    new.go_on();
    let (again, _) = new.heard().pop().unwrap();
    assert!(again.syn && again.ack);
    assert_eq!((again.sequence_number, again.acknowledgment_number), (answer.sequence_number, 2001));
    new.event(SocketId::Tcp(0));
    let (first, _) = new.heard().pop().unwrap();
    assert!(first.syn && first.ack && first.acknowledgment_number == 1001);
}

#[test]
fn datagrams_and_groups_go_on() {
    let mut old = Place::new(samples::settings());
    old.frame(&udp_frame(at("192.0.2.2:6000"), at("198.51.100.9:53"), b"who?"));
    let group: std::net::IpAddr = "239.1.2.3".parse().unwrap();
    old.translator.groups.listen_to(group);
    old.sockets.groups.insert(group);
    let state = old.save();
    let mut new = Place::new(samples::settings());
    new.load(carried(&state)).unwrap();
    new.go_on();
    let socket = new.sockets.udp(0);
    assert_eq!((socket.local.unwrap().port(), socket.peer), (6000, Some(at("198.51.100.9:53"))));
    assert!(new.sockets.groups.contains(&"239.1.2.3".parse::<std::net::IpAddr>().unwrap()));
    new.frame(&udp_frame(at("192.0.2.2:6000"), at("198.51.100.9:53"), b"well?"));
    assert_eq!(new.sockets.udp(0).sent[0].payload, b"well?");
    assert_eq!(new.translator.moved().loaded, [0, 1, 0]);
    old.translator.forget_all(old.now, &mut old.sockets, &mut old.link);
    assert!(old.sockets.open.is_empty() && old.sockets.groups.is_empty());
}

/// The guest keeps its address and its gateway, whatever the new pod has.
#[test]
fn a_pod_with_another_address_takes_the_guest_as_it_is() {
    let old = Place::new(samples::settings()).save();
    let mut settings = samples::settings();
    if let Some(v4) = &mut settings.v4 {
        v4.address = "10.9.8.7/24".parse().unwrap();
        v4.gateway = "10.9.8.1".parse().unwrap();
        v4.ours = v4.gateway;
    }
    let own = settings.clone();
    let mut new = Place::new(settings);
    new.load(carried(&old)).unwrap();
    let (now, leased) = (new.translator.settings(), new.translator.shared.leased());
    let there = samples::settings();
    assert_eq!(leased.v4.as_ref().unwrap().address, there.v4.as_ref().unwrap().address);
    assert_eq!(now.v4.as_ref().unwrap().address, own.v4.as_ref().unwrap().address);
    assert_eq!(now.v4.as_ref().unwrap().ours, there.v4.as_ref().unwrap().ours);
    assert_eq!(new.translator.shared.guest.v4, std::net::Ipv4Addr::new(192, 0, 2, 2));
    // And once more, to a third one.
    assert_eq!(new.save().told, old.told);
}

#[test]
fn what_does_not_fit_is_refused() {
    let old = Place::new(samples::settings()).save();
    let mut none = samples::settings();
    none.v6 = None;
    assert_eq!(Place::new(none).load(old.clone()), Err(Misfit::Family("IPv6")));
    let mut other = samples::settings();
    other.mac = culvert_frame::MacAddress([2, 0, 0, 0, 0, 1]);
    let mut new = Place::new(other);
    assert!(matches!(new.load(old), Err(Misfit::Mac { .. })));
    assert!(!new.translator.is_waiting());
}

#[test]
fn streams_that_are_damaged_are_refused() {
    let (mut old, ..) = with_a_connection();
    old.frame(&udp_frame(at("192.0.2.2:6000"), at("198.51.100.9:53"), b"who?"));
    let bytes = old.save().to_bytes();
    for length in 0..bytes.len() {
        assert!(State::from_bytes(&bytes[..length]).is_err(), "{length}");
    }
    assert_eq!(State::from_bytes(b"passt is another"), Err(Damaged::Foreign));
    let mut later = bytes.clone();
    later[8] = 9;
    assert_eq!(State::from_bytes(&later), Err(Damaged::Version(9)));
    let more = [&bytes[..], &[0]].concat();
    assert_eq!(State::from_bytes(&more), Err(Damaged::Trailing));
    // Whatever byte is another, it is refused or is a state that can be loaded.
    for place in 0..bytes.len() {
        for bit in 0..8 {
            let mut other = bytes.clone();
            other[place] ^= 1 << bit;
            if let Ok(state) = State::from_bytes(&other) {
                let mut new = Place::new(samples::settings());
                if new.load(state).is_ok() {
                    new.go_on();
                    new.now += Duration::from_secs(9);
                    new.finish();
                }
            }
        }
    }
}
