//! What a translator is told of a guest that comes from another machine: a stream of state, any bytes or records that are nearly
//! right, and then the guest's life goes on: events, segments, time, another move.
//!
//! Checked: what is read is written the same; there are never more flows than allowed; nothing is asked of a socket that is not open, no
//! more is taken from it than it has; a guest that has gone leaves nothing; in the end no flow is left.

use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use culvert_frame::Offload;
use culvert_guest::{NetHeader, Packet};
use culvert_translate::limits::LimitSettings;
use culvert_translate::migration::lost::Lost;
use culvert_translate::migration::{MARK, State, VERSION};
use culvert_translate::sockets::moving::{MovingStreams, StreamState, Wish};
use culvert_translate::sockets::{Readiness, SocketId};
use culvert_translate::time::Instant;
use culvert_translate::translator::Translator;

use crate::network;
use crate::translator::{FLOWS, Guest, Socket, Sockets, outlast};

#[derive(Arbitrary, Debug)]
enum Step {
    /// Any bytes of the guest's.
    Frame(Vec<u8>),
    /// An event of a socket.
    Event { kind: u8, index: u8, readable: bool },
    /// What sockets do from now on.
    Sockets { failing: bool, room: u16, arriving: u16, ended: bool },
    /// Time passes.
    Wait { milliseconds: u32 },
    /// It moves on, and stays, or goes.
    Move { stays: bool, helpless: bool },
}

#[derive(Arbitrary, Debug)]
enum Stream {
    /// All of it.
    Any(Vec<u8>),
    /// Records, of kinds and bodies.
    Records(Vec<(u8, Vec<u8>)>),
}

/// Runs one input.
pub fn run(data: &[u8]) {
    let mut data = Unstructured::new(data);
    let (Ok(choice), Ok(stream)) = (data.arbitrary(), data.arbitrary()) else { return };
    let bytes = match stream {
        Stream::Any(bytes) => bytes,
        Stream::Records(records) => of_records(&records),
    };
    let Ok(state) = State::from_bytes(&bytes) else { return };
    let written = state.to_bytes();
    assert_eq!(State::from_bytes(&written).as_ref(), Ok(&state), "what is written is read");
    // Flows of several kinds may be mixed in what is read.
    assert_eq!(written.len(), bytes.len(), "nothing is left out or added: {written:?} {bytes:?}");

    let mut now = Instant::now();
    let limits = LimitSettings { flows: FLOWS, ..LimitSettings::default() };
    let (mut sockets, mut guest) =
        (Sockets { room: 1000, ..Sockets::default() }, Guest { has_room: true, ..Guest::default() });
    let mut translator = Translator::new(network::settings(choice), limits, now, 1);
    if translator.load(now, state, &mut sockets, &mut guest).is_err() {
        assert!(sockets.open.is_empty() && translator.tcp().is_empty());
        return;
    }
    translator.go_on(now, &mut sockets, &mut guest);
    translator.finish(now, &mut sockets, &mut guest);
    while !data.is_empty() {
        let Ok(step) = data.arbitrary() else { break };
        match step {
            Step::Frame(bytes) => {
                let packet = Packet::of_bytes(NetHeader::default(), &bytes);
                translator.frame(now, &packet, Offload::None, &mut sockets, &mut guest);
            }
            Step::Event { kind, index, readable } => {
                let index = u32::from(index) % FLOWS;
                let id = match kind % 3 {
                    0 => SocketId::Tcp(index),
                    1 => SocketId::Udp(index),
                    _ => SocketId::Echo(index),
                };
                let ready = Readiness { readable, writable: true, failed: readable, stops: true };
                translator.socket_event(now, id, ready, &mut sockets, &mut guest);
            }
            Step::Sockets { failing, room, arriving, ended } => {
                (sockets.failing, sockets.room) = (failing, room.into());
                for socket in sockets.open.values_mut() {
                    if !socket.ended {
                        socket.queue = (socket.queue + u32::from(arriving)).min(1 << 20);
                    }
                    socket.ended |= ended;
                }
            }
            Step::Wait { milliseconds } => {
                now += Duration::from_millis(u64::from(milliseconds % 10_000_000));
                translator.finish(now, &mut sockets, &mut guest);
            }
            Step::Move { stays, helpless } => {
                let was_failing = std::mem::replace(&mut sockets.failing, helpless);
                let mut most = 1 << 16;
                let state = translator.save(now, &[], &mut most, (&mut sockets, &mut guest));
                assert_eq!(State::from_bytes(&state.to_bytes()).as_ref(), Ok(&state), "what is saved can be loaded");
                if stays {
                    translator.go_on(now, &mut sockets, &mut guest);
                } else {
                    translator.forget_all(now, &mut sockets, &mut guest);
                    assert!(sockets.open.is_empty(), "left open: {:?}", sockets.open);
                    translator.load(now, state, &mut sockets, &mut guest).expect("its own state");
                    translator.go_on(now, &mut sockets, &mut guest);
                }
                sockets.failing = was_failing;
            }
        }
        assert!(translator.tcp().len() + translator.udp().len() + translator.echo().len() <= FLOWS as usize);
    }
    outlast(&mut translator, now, &mut sockets, &mut guest);
}

/// A stream of these records, with its mark and its end.
fn of_records(records: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = [&MARK[..], &VERSION.to_le_bytes()].concat();
    for (kind, body) in records {
        bytes.push(*kind);
        bytes.extend((body.len() as u32).to_le_bytes());
        bytes.extend(body);
    }
    bytes.push(0xff);
    bytes.extend(4_u32.to_le_bytes());
    bytes.extend((records.len() as u32).to_le_bytes());
    bytes
}

impl MovingStreams for Sockets {
    fn hold(&mut self, ids: &[SocketId]) -> Result<(), Lost> {
        // A helper that fails has done a part.
        let some = if self.failing { ids.len() / 2 } else { ids.len() };
        for id in &ids[..some] {
            self.open.get_mut(id).expect("it is open").is_held = true;
        }
        if self.failing { Err(Lost::Helper) } else { Ok(()) }
    }

    fn read_stream(&mut self, id: SocketId) -> Result<StreamState, Lost> {
        let socket = &self.open[&id];
        assert!(socket.is_held);
        Ok(StreamState {
            local: "192.0.2.2:40000".parse().expect("an address"),
            far: "198.51.100.1:80".parse().expect("an address"),
            send_next: 1,
            receive_next: 1,
            unsent: 0,
            mss: 1460,
            sack: false,
            scale: None,
            timestamp: None,
            windows: [0; 5],
            is_shut: socket.shut_down,
            has_ended: socket.ended,
            send_queue: Vec::new(),
            receive_queue: vec![7; socket.queue as usize],
        })
    }

    fn let_go(&mut self, ids: &[SocketId]) -> Vec<SocketId> {
        let failing = self.failing;
        let mut stuck = Vec::new();
        for id in ids {
            let socket = self.open.get_mut(id).expect("it is open");
            if failing && socket.is_held {
                stuck.push(*id);
            }
            socket.is_held &= failing;
        }
        stuck
    }

    fn make_streams(&mut self, wishes: Vec<Wish<'_>>) -> Vec<Result<(), Lost>> {
        let make = |wish: Wish<'_>| {
            if self.failing {
                return Err(Lost::Helper);
            }
            let StreamState { is_shut, has_ended, receive_queue, .. } = wish.state;
            let (queue, ended) = (receive_queue.len() as u32, *has_ended);
            let socket = Socket { queue, ended, shut_down: *is_shut, is_held: true };
            assert!(self.open.insert(wish.id, socket).is_none(), "{:?} is open already", wish.id);
            Ok(())
        };
        wishes.into_iter().map(make).collect()
    }
}
