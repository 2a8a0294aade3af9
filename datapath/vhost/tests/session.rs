//! The session as a frontend sees it: each request in each state, hostile messages, random sequences.
//!
//! "hostile V3" and the like in a test's comment name a way in which a vhost-user frontend can be hostile or faulty:
//! V1 fragments, V2 sizes, V3 headers, V4 and V5 descriptors, V6 kinds of descriptor, V7 and V8 regions, V9 slots,
//! V10 ring addresses, V11 numbers out of range, V12 order, V13 features, V15 inflight.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::time::{Duration, Instant};

use culvert_guest::device::DeviceConfig;
use culvert_guest::features::LOG_ALL;
use culvert_vhost::session::{CloseReason, Done, MESSAGE_TIMEOUT, Next, Outcome, Session, StateWish, Unchanged, Work};
use culvert_vhost::transcript::Replay;
use support::request::*;
use support::*;

/// A session with fake workers, from the frontend's side.
struct Dialogue {
    session: Session,
    workers: FakeWorkers,
    closed: Option<String>,
    now: Instant,
}

/// How a message was answered.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// Not at all.
    Silence,
    /// By a number: an acknowledgement or a reply.
    Number(u64),
    /// By other bytes.
    Bytes(Vec<u8>),
    /// By closing.
    Closed(String),
}

impl Dialogue {
    fn new(config: DeviceConfig) -> Self {
        Self { session: Session::new(config), workers: FakeWorkers::default(), closed: None, now: Instant::now() }
    }

    fn after(dialogue: impl IntoIterator<Item = Message>) -> Self {
        let mut this = Self::new(CONFIG);
        for message in dialogue {
            let answer = this.send(message);
            assert!(!matches!(answer, Answer::Closed(_)), "{answer:?}");
        }
        this.workers.take_lines();
        this
    }

    /// Sends a message, in as large pieces as the session wants them, and does its work.
    fn send(&mut self, message: Message) -> Answer {
        self.send_in_pieces(message, usize::MAX)
    }

    fn send_in_pieces(&mut self, message: Message, piece: usize) -> Answer {
        let (mut rest, mut descriptors) = (message.bytes.as_slice(), message.descriptors);
        let mut reply = Vec::new();
        while !rest.is_empty() && self.closed.is_none() {
            let wanted = self.session.wanted();
            assert!((1..=4096).contains(&wanted), "{wanted}");
            let (now, later) = rest.split_at(wanted.min(rest.len()).min(piece));
            let outcome = self.session.receive(now, std::mem::take(&mut descriptors), self.now);
            rest = later;
            self.follow(outcome, &mut reply);
        }
        self.answer(reply)
    }

    fn follow(&mut self, outcome: Outcome, reply: &mut Vec<u8>) {
        let mut outcome = outcome;
        loop {
            reply.extend(outcome.reply.into_iter().flatten());
            let work = match outcome.next {
                Next::Read => return,
                Next::Close(reason) => {
                    self.closed = Some(reason.to_string());
                    return;
                }
                Next::Work(work) => work,
            };
            assert_eq!(self.session.wanted(), 0, "a parked session wants nothing");
            let done = match work {
                Work::Map(update) => Done::Mapped(update.map()),
                Work::MapLog(update) => Done::LogMapped(update.map()),
                Work::Announce(mac) => {
                    self.workers.record().lines.push(format!("announce {mac}"));
                    Done::Announced
                }
                Work::State(wish) => {
                    self.workers
                        .record()
                        .lines
                        .push(format!("state {}", if matches!(wish, StateWish::Check) { "check" } else { "file" }));
                    Done::State(true)
                }
                Work::Change { changes, retired } => {
                    Done::Changed(self.workers.change(changes).map_err(|error| Unchanged { error, retired }))
                }
            };
            outcome = self.session.complete(done);
        }
    }

    fn answer(&mut self, reply: Vec<u8>) -> Answer {
        if let Some(reason) = &self.closed {
            return Answer::Closed(reason.clone());
        }
        let Some((header, body)) = reply.split_first_chunk::<12>() else {
            assert_eq!(reply, [0; 0]);
            return Answer::Silence;
        };
        let words: Vec<_> = header.chunks(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap())).collect();
        assert_eq!(words[1], VERSION | REPLY);
        assert_eq!(words[2] as usize, body.len());
        body.try_into().map_or_else(|_| Answer::Bytes(body.to_vec()), |body| Answer::Number(u64::from_ne_bytes(body)))
    }

    /// A new session that has read this one's transcript, if there is one. It refuses nothing and answers nothing.
    fn next(&self) -> Option<Self> {
        let transcript = self.session.transcript().unwrap()?;
        let (mut next, mut replay) = (Self::new(CONFIG), Replay::new(transcript.bytes, transcript.descriptors));
        while !replay.is_over() {
            let (bytes, descriptors) = replay.next(next.session.wanted(), next.session.is_inside_message()).unwrap();
            let outcome = next.session.receive(&bytes, descriptors, next.now);
            let mut reply = Vec::new();
            next.follow(outcome, &mut reply);
            assert_eq!(next.answer(reply), Answer::Silence);
        }
        Some(next)
    }

    /// What brings another session to where this one is.
    fn transcript(&self) -> Option<Vec<u8>> {
        self.session.transcript().unwrap().map(|transcript| transcript.bytes)
    }

    fn expect_refusal(&mut self, message: Message, text: &str) {
        match self.send(message) {
            Answer::Closed(reason) => assert!(reason.contains(text), "{reason}"),
            Answer::Number(1) => {}
            other => panic!("{other:?} instead of a refusal ({text})"),
        }
    }
}

fn ack(ok: bool) -> Answer {
    Answer::Number(u64::from(!ok))
}

// ---------------------------------------------------------------------------------------------------------------
// Each request in each state
// ---------------------------------------------------------------------------------------------------------------

/// Every request number that is or was defined, and what a well-formed message of it gets in four states: just
/// connected; features agreed; ring 0 configured but for its kick; ring 0 running. NEED_REPLY is set in all.
/// `-` nothing (REPLY_ACK is not agreed yet), `ack`, `nack`, `close`, `=N` a reply of this number, `bytes` another reply.
/// hostile V12
const ANSWERS: [(u32, [&str; 4]); 45] = [
    (GET_FEATURES, ["=offered", "=offered", "=offered", "=offered"]),
    (SET_FEATURES, ["-", "ack", "ack", "ack"]),
    (SET_OWNER, ["-", "ack", "ack", "ack"]),
    (RESET_OWNER, ["-", "ack", "ack", "ack"]),
    (SET_MEM_TABLE, ["-", "ack", "ack", "ack stop 0, start 0 enabled=true"]),
    (SET_LOG_BASE, ["-", "ack", "ack", "ack"]),
    (SET_LOG_FD, ["-", "ack", "ack", "ack"]),
    (SET_VRING_NUM, ["-", "ack", "ack", "nack"]),
    (SET_VRING_ADDR, ["-", "ack", "ack", "ack"]),
    (SET_VRING_BASE, ["-", "ack", "ack", "nack"]),
    (GET_VRING_BASE, ["=position 0", "=position 0", "=position 77", "=position 1000 stop 0"]),
    (SET_VRING_KICK, ["-", "ack", "ack start 0 enabled=false", "ack stop 0, start 0 enabled=true"]),
    (SET_VRING_CALL, ["-", "ack", "ack", "ack"]),
    (SET_VRING_ERR, ["-", "ack", "ack", "ack"]),
    (GET_PROTOCOL_FEATURES, ["=protocol", "=protocol", "=protocol", "=protocol"]),
    (SET_PROTOCOL_FEATURES, ["ack", "ack", "ack", "ack"]),
    (GET_QUEUE_NUM, ["close", "=2", "=2", "=2"]),
    (SET_VRING_ENABLE, ["-", "ack", "ack", "ack enable 0 true"]),
    (
        SEND_RARP,
        ["close", "ack announce 02:00:00:00:00:0a", "ack announce 02:00:00:00:00:0a", "ack announce 02:00:00:00:00:0a"],
    ),
    (NET_SET_MTU, ["close", "ack", "ack", "ack"]),
    (SET_BACKEND_REQ_FD, ["close", "ack", "ack", "ack"]),
    (22, ["close", "nack", "nack", "nack"]), // IOTLB_MSG
    (23, ["close", "nack", "nack", "nack"]), // SET_VRING_ENDIAN
    (GET_CONFIG, ["close", "bytes", "bytes", "bytes"]),
    (SET_CONFIG, ["close", "nack", "nack", "nack"]),
    (26, ["close", "nack", "nack", "nack"]), // CREATE_CRYPTO_SESSION
    (27, ["close", "nack", "nack", "nack"]), // CLOSE_CRYPTO_SESSION
    (28, ["close", "nack", "nack", "nack"]), // POSTCOPY_ADVISE
    (29, ["close", "nack", "nack", "nack"]), // POSTCOPY_LISTEN
    (30, ["close", "nack", "nack", "nack"]), // POSTCOPY_END
    (31, ["close", "nack", "nack", "nack"]), // GET_INFLIGHT_FD, hostile V15
    (32, ["close", "nack", "nack", "nack"]), // SET_INFLIGHT_FD, hostile V15
    (33, ["close", "nack", "nack", "nack"]), // GPU_SET_SOCKET
    (RESET_DEVICE, ["close", "ack", "ack", "ack stop 0"]),
    (35, ["close", "nack", "nack", "nack"]), // VRING_KICK
    (GET_MAX_MEM_SLOTS, ["close", "=128", "=128", "=128"]),
    (ADD_MEM_REG, ["close", "ack", "ack", "ack stop 0, start 0 enabled=true"]),
    (REM_MEM_REG, ["close", "nack", "ack", "ack stop 0"]),
    (39, ["close", "nack", "nack", "nack"]),       // SET_STATUS
    (40, ["close", "nack", "nack", "nack"]),       // GET_STATUS
    (41, ["close", "nack", "nack", "nack"]),       // GET_SHARED_OBJECT
    (42, ["close", "nack", "nack", "nack"]),       // SET_DEVICE_STATE_FD
    (43, ["close", "nack", "nack", "nack"]),       // CHECK_DEVICE_STATE
    (44, ["close", "nack", "nack", "nack"]),       // GET_SHMEM_CONFIG
    (u32::MAX, ["close", "nack", "nack", "nack"]), // hostile V3
];

#[test]
fn each_request_is_answered_in_each_state() {
    for (number, expected) in ANSWERS {
        let states = [vec![], dialogue_to_negotiated(), dialogue_to_configured(), dialogue_to_running()];
        for (state, (before, expected)) in states.into_iter().zip(expected).enumerate() {
            let mut dialogue = Dialogue::after(before);
            let answer = match dialogue.send(good(number, NEED_REPLY)) {
                Answer::Silence => "-".to_owned(),
                Answer::Closed(_) => "close".to_owned(),
                Answer::Bytes(_) => "bytes".to_owned(),
                Answer::Number(value) => match number {
                    GET_FEATURES if value == CONFIG.offered() => "=offered".to_owned(),
                    GET_PROTOCOL_FEATURES if value == ALL_PROTOCOL => "=protocol".to_owned(),
                    GET_QUEUE_NUM | GET_MAX_MEM_SLOTS => format!("={value}"),
                    GET_VRING_BASE => format!("=position {}", value >> 32),
                    _ if value == 0 => "ack".to_owned(),
                    _ => "nack".to_owned(),
                },
            };
            let lines = dialogue.workers.take_lines().join(", ");
            assert_eq!(format!("{answer} {lines}").trim_end(), expected, "request {number} in state {state}");
        }
    }
}

#[test]
fn without_need_reply_success_is_silent_and_failure_closes() {
    for (number, [.., expected]) in ANSWERS {
        let answer = Dialogue::after(dialogue_to_running()).send(good(number, 0));
        if number == SET_LOG_BASE {
            assert_eq!(answer, Answer::Number(0), "its own reply");
        } else if expected.starts_with("ack") {
            assert_eq!(answer, Answer::Silence, "request {number}");
        } else if expected.starts_with("nack") {
            assert!(matches!(answer, Answer::Closed(_)), "request {number}: {answer:?}");
        }
    }
}

#[test]
fn a_parked_session_takes_nothing_and_a_closed_one_neither() {
    let mut session = Session::new(CONFIG);
    let table = good(SET_MEM_TABLE, 0);
    let (header, body) = table.bytes.split_at(12);
    session.receive(header, table.descriptors, Instant::now());
    let outcome = session.receive(body, vec![], Instant::now());
    assert!(matches!(outcome.next, Next::Work(Work::Map(_))));
    let outcome = session.receive(&[0], vec![], Instant::now());
    assert!(matches!(outcome.next, Next::Close(CloseReason::OutOfTurn)));
    assert_eq!(session.wanted(), 0);
    assert!(matches!(session.complete(Done::Announced).next, Next::Close(CloseReason::OutOfTurn)));
    assert!(matches!(session.receive(&[0], vec![], Instant::now()).next, Next::Close(CloseReason::OutOfTurn)));
}

// ---------------------------------------------------------------------------------------------------------------
// What is offered
// ---------------------------------------------------------------------------------------------------------------

#[test]
fn mq_and_announce_are_offered_with_several_pairs_only_and_mac_if_there_is_one() {
    let (mac, mtu, announce, mq) = (1 << 5, 1 << 3, 1 << 21, 1 << 22);
    let one = DeviceConfig { queue_pairs: 1, mac: None, ..CONFIG };
    // VERSION_1, LOG_ALL, MRG_RXBUF, INDIRECT_DESC, EVENT_IDX, ANY_LAYOUT, RING_PACKED, IN_ORDER.
    let base =
        1_u64 << 32 | 1 << 26 | 1 << 15 | 1 << 28 | 1 << 29 | 1 << 27 | 1 << 34 | 1 << 35 | mtu | PROTOCOL_FEATURES;
    // CSUM, TSO4, TSO6, ECN and USO, of the device and of the driver.
    let device = 1 << 0 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 56;
    let driver = 1 << 1 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 54 | 1 << 55;
    assert_eq!(DeviceConfig { offloads: false, ..one }.offered(), base);
    assert_eq!(one.offered(), base | device | driver);
    assert_eq!(CONFIG.offered(), base | device | driver | mac | announce | mq);
}

#[test]
fn the_configuration_space_tells_mac_pairs_and_mtu() {
    let mut dialogue = Dialogue::after(dialogue_to_negotiated());
    let get = |offset: u32, size: u32| {
        message(GET_CONFIG, 0, &[halves(&[offset, size, 0]), vec![0; size.min(256) as usize]].concat())
    };
    let space = [2, 0, 0, 0, 0, 10, 0, 0, 2, 0, 0xdc, 5, 0, 0, 0, 0];
    assert_eq!(dialogue.send(get(0, 16)), Answer::Bytes([halves(&[0, 16, 0]), space.to_vec()].concat()));
    assert_eq!(dialogue.send(get(10, 2)), Answer::Bytes([halves(&[10, 2, 0]), vec![0xdc, 5]].concat()));
    for (offset, size) in [(255, 2), (256, 1), (u32::MAX, 1), (u32::MAX, u32::MAX), (0, 257)] {
        assert_eq!(dialogue.send(get(offset, size)), Answer::Bytes(halves(&[offset, 0, 0])), "{offset} {size}");
    }
}

#[test]
fn the_ports_mtu_is_the_limit() {
    for (mtu, ok) in [(0, false), (67, false), (68, true), (1500, true), (1501, false), (u64::MAX, false)] {
        let mut dialogue = Dialogue::after(dialogue_to_negotiated());
        assert_eq!(dialogue.send(message(NET_SET_MTU, NEED_REPLY, &words(&[mtu]))), ack(ok), "{mtu}");
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Rings
// ---------------------------------------------------------------------------------------------------------------

#[test]
fn a_ring_starts_when_the_last_missing_thing_comes_whichever_it_is() {
    let parts = [SET_MEM_TABLE, SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_KICK];
    let orders = (0..256).map(|code| [code & 3, code >> 2 & 3, code >> 4 & 3, code >> 6].map(|part| parts[part]));
    let orders: Vec<_> = orders.filter(|order| parts.iter().all(|part| order.contains(part))).collect();
    assert_eq!(orders.len(), 24);
    for order in orders {
        let mut dialogue = Dialogue::after(dialogue_to_negotiated());
        for (index, &part) in order.iter().enumerate() {
            assert_eq!(dialogue.send(good(part, NEED_REPLY)), ack(true));
            let started = dialogue.workers.record().running.contains(&0);
            assert_eq!(started, index == 3, "{order:?}");
        }
    }
}

#[test]
fn rings_are_enabled_from_the_start_without_protocol_features() {
    let mut dialogue = Dialogue::after([message(SET_FEATURES, 0, &words(&[0]))]);
    for part in [SET_MEM_TABLE, SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_KICK] {
        dialogue.send(good(part, 0));
    }
    assert_eq!(dialogue.workers.take_lines(), ["start 0 enabled=true"]);
}

/// QEMU enables and disables rings before it acknowledges PROTOCOL_FEATURES, or anything.
#[test]
fn rings_may_be_enabled_before_features_are_agreed() {
    let mut dialogue = Dialogue::after([good(GET_FEATURES, 0), good(SET_VRING_ENABLE, 0)]);
    for part in [SET_FEATURES, SET_MEM_TABLE, SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_KICK] {
        dialogue.send(good(part, 0));
    }
    assert_eq!(dialogue.workers.take_lines(), ["start 0 enabled=true"]);
    // What was said in words holds without PROTOCOL_FEATURES, too.
    let disable = message(SET_VRING_ENABLE, 0, &halves(&[0, 0]));
    let mut dialogue = Dialogue::after([disable, message(SET_FEATURES, 0, &words(&[0]))]);
    for part in [SET_MEM_TABLE, SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_KICK] {
        dialogue.send(good(part, 0));
    }
    assert_eq!(dialogue.workers.take_lines(), ["start 0 enabled=false"]);
}

#[test]
fn rings_are_enabled_and_disabled_while_they_run() {
    let mut dialogue = Dialogue::after(dialogue_to_running());
    let enable = |ring: u32, state: u32| message(SET_VRING_ENABLE, NEED_REPLY, &halves(&[ring, state]));
    assert_eq!(dialogue.send(enable(0, 0)), ack(true));
    assert_eq!(dialogue.send(enable(0, 1)), ack(true));
    assert_eq!(dialogue.send(enable(0, 2)), ack(false));
    assert_eq!(dialogue.send(enable(3, 1)), ack(true));
    assert_eq!(dialogue.send(enable(4, 1)), ack(false));
    assert_eq!(dialogue.workers.take_lines(), ["enable 0 false", "enable 0 true"]);
}

/// hostile V5: the flag "no descriptor" is legal, and a missing descriptor without it is not.
#[test]
fn a_ring_without_a_kick_is_polled() {
    let mut dialogue = Dialogue::after(dialogue_to_configured());
    dialogue.send(message(SET_VRING_KICK, 0, &words(&[0x100])));
    dialogue.send(message(SET_VRING_CALL, 0, &words(&[0x100])));
    assert!(dialogue.workers.record().setups[&0].kick.is_none());
    for request in [SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR] {
        assert_eq!(dialogue.send(message(request, NEED_REPLY, &words(&[0]))), ack(false));
        assert_eq!(dialogue.send(message(request, NEED_REPLY, &words(&[0x100])).with([eventfd()])), ack(false));
        assert_eq!(dialogue.send(message(request, NEED_REPLY, &words(&[0x100]))), ack(true));
    }
}

#[test]
fn a_stopped_ring_tells_its_position_and_waits_for_a_new_kick() {
    let mut dialogue = Dialogue::after(dialogue_to_running());
    assert_eq!(dialogue.send(good(GET_VRING_BASE, 0)), Answer::Number(u64::from(POSITION) << 32));
    for part in [SET_VRING_NUM, SET_VRING_BASE, SET_VRING_ADDR, SET_VRING_CALL, SET_VRING_ENABLE] {
        dialogue.send(good(part, 0));
    }
    assert_eq!(dialogue.workers.take_lines(), ["stop 0"]);
    assert_eq!(dialogue.send(good(GET_VRING_BASE, 0)), Answer::Number(77 << 32));
    dialogue.send(good(SET_VRING_KICK, 0));
    assert_eq!(dialogue.workers.take_lines(), ["start 0 enabled=true"]);
}

#[test]
fn a_running_ring_is_moved_by_new_addresses_and_not_by_the_same() {
    let mut dialogue = Dialogue::after(dialogue_to_running());
    let mut body = addresses_body(0);
    assert_eq!(dialogue.send(message(SET_VRING_ADDR, NEED_REPLY, &body)), ack(true));
    assert_eq!(dialogue.workers.take_lines(), [""; 0]);
    body[8..16].copy_from_slice(&(USER + 0x8_0000).to_ne_bytes());
    assert_eq!(dialogue.send(message(SET_VRING_ADDR, NEED_REPLY, &body)), ack(true));
    assert_eq!(dialogue.workers.take_lines(), ["stop 0", "start 0 enabled=true"]);
}

#[test]
fn memory_can_be_added_and_removed_under_running_rings() {
    let mut dialogue = Dialogue::after(dialogue_to_running());
    assert_eq!(dialogue.send(good(ADD_MEM_REG, NEED_REPLY)), ack(true));
    assert_eq!(dialogue.workers.take_lines(), ["stop 0", "start 0 enabled=true"]);
    assert_eq!(dialogue.workers.record().setups[&0].memory.regions().len(), 2);
    // The region that holds the ring goes: the ring waits.
    assert_eq!(dialogue.send(good(REM_MEM_REG, NEED_REPLY)), ack(true));
    assert_eq!(dialogue.workers.take_lines(), ["stop 0"]);
    // It comes back: the ring goes on.
    let again = message(ADD_MEM_REG, NEED_REPLY, &words(&[0, GUEST, SIZE, USER, 0])).with([memfd(SIZE)]);
    assert_eq!(dialogue.send(again), ack(true));
    assert_eq!(dialogue.workers.take_lines(), ["start 0 enabled=true"]);
    // An old QEMU attaches a descriptor to REM_MEM_REG.
    assert_eq!(dialogue.send(good(REM_MEM_REG, NEED_REPLY).with([memfd(SIZE)])), ack(true));
}

#[test]
fn reset_stops_all_and_keeps_memory_and_protocol() {
    let mut dialogue = Dialogue::after(dialogue_to_running());
    assert_eq!(dialogue.send(good(RESET_DEVICE, NEED_REPLY)), ack(true));
    let status = dialogue.session.status();
    assert_eq!((status.features, status.protocol_features, status.memory_bytes), (0, ALL_PROTOCOL, SIZE));
    assert!(status.rings.iter().all(|ring| ring.size == 0 && !ring.running));
    for part in [SET_FEATURES, SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_KICK] {
        assert_eq!(dialogue.send(good(part, NEED_REPLY)), ack(true));
    }
    assert_eq!(dialogue.workers.take_lines(), ["stop 0", "start 0 enabled=false"]);
}

#[test]
fn status_tells_what_was_agreed() {
    let dialogue = Dialogue::after(dialogue_to_running());
    let status = dialogue.session.status();
    assert_eq!(status.features, negotiated());
    assert_eq!((status.memory_regions, status.memory_bytes), (1, SIZE));
    assert_eq!(status.rings.len(), 4);
    let [first, rest @ ..] = status.rings.as_slice() else { panic!() };
    assert_eq!((first.size, first.running, first.enabled), (256, true, true));
    assert!(rest.iter().all(|ring| !ring.running && !ring.enabled));
}

// ---------------------------------------------------------------------------------------------------------------
// Workers that do not answer
// ---------------------------------------------------------------------------------------------------------------

#[test]
fn without_an_acknowledgement_the_request_fails_and_nothing_is_unmapped() {
    let mut dialogue = Dialogue::after(dialogue_to_running());
    let memory = std::sync::Arc::downgrade(&dialogue.workers.record().setups[&0].memory);
    dialogue.workers.record().stuck = 1;
    let mut reply = Vec::new();
    let table = good(SET_MEM_TABLE, NEED_REPLY);
    let (header, body) = table.bytes.split_at(12);
    let outcome = dialogue.session.receive(header, table.descriptors, dialogue.now);
    dialogue.follow(outcome, &mut reply);
    let outcome = dialogue.session.receive(body, vec![], dialogue.now);
    dialogue.follow(outcome, &mut reply);
    assert_eq!(reply[12..], 1_u64.to_ne_bytes(), "the frontend hears of it");
    assert!(dialogue.closed.unwrap().contains("did not acknowledge"));
    // Even if the workers let go of it in the end, the session keeps it until its rings are known to be stopped.
    dialogue.workers.record().setups.clear();
    assert!(memory.upgrade().is_some());
    dialogue.workers.record().stuck = 1;
    let stops = dialogue.session.stop_all();
    assert_eq!(stops.len(), 1);
    assert!(dialogue.workers.change(stops).is_err());
    let stops = dialogue.session.stop_all();
    assert_eq!(stops.len(), 1, "it is asked again");
    drop(dialogue.session);
    assert!(memory.upgrade().is_none());
}

// ---------------------------------------------------------------------------------------------------------------
// Hostile messages
// ---------------------------------------------------------------------------------------------------------------

/// hostile V1
#[test]
fn messages_may_come_one_byte_at_a_time() {
    let mut dialogue = Dialogue::new(CONFIG);
    for message in dialogue_to_running() {
        let answer = dialogue.send_in_pieces(message, 1);
        assert!(!matches!(answer, Answer::Closed(_)), "{answer:?}");
    }
    assert!(dialogue.workers.record().running.contains(&0));
}

/// hostile V1
#[test]
fn a_message_that_is_not_finished_in_time_closes_the_connection() {
    let whole = good(SET_VRING_ADDR, 0).bytes;
    for sent in 1..whole.len() {
        let mut session = Session::new(CONFIG);
        let start = Instant::now();
        assert_eq!(session.deadline(), None, "silence between messages is allowed");
        let (mut rest, mut now) = (&whole[..sent], start);
        while !rest.is_empty() {
            let (piece, later) = rest.split_at(session.wanted().min(rest.len()));
            assert!(matches!(session.receive(piece, vec![], now).next, Next::Read));
            rest = later;
            now += Duration::from_secs(4); // more bytes do not extend the time
        }
        assert_eq!(session.deadline(), Some(start + MESSAGE_TIMEOUT));
        assert!(session.expire(start + MESSAGE_TIMEOUT - Duration::from_millis(1)).is_none());
        assert!(matches!(session.expire(start + MESSAGE_TIMEOUT), Some(CloseReason::Timeout)));
        assert_eq!((session.wanted(), session.deadline()), (0, None));
    }
    let mut dialogue = Dialogue::new(CONFIG);
    dialogue.send(Message { bytes: whole, descriptors: vec![] });
    assert_eq!(dialogue.session.deadline(), None, "a whole message has no deadline");
}

/// hostile V2
#[test]
fn bodies_of_wrong_size_are_refused() {
    for size in [4085_u32, 4096, 65536, u32::MAX] {
        let bytes = [GET_FEATURES, VERSION, size].map(u32::to_ne_bytes).concat();
        let answer = Dialogue::new(CONFIG).send(Message { bytes, descriptors: vec![] });
        assert!(matches!(&answer, Answer::Closed(reason) if reason.contains("more than 4084")), "{answer:?}");
    }
    for (number, _) in ANSWERS {
        let right = good(number, 0).bytes.len() - 12;
        for size in [0, 1, right.saturating_sub(1), right + 1, 4084] {
            // GET_CONFIG, SET_CONFIG and SET_MEM_TABLE have bodies of several sizes.
            let variable = matches!(number, GET_CONFIG | SET_CONFIG) && (12..=268).contains(&size)
                || number == SET_BACKEND_REQ_FD && size == 8
                || number == SET_LOG_FD && size <= 8;
            if size == right || variable {
                continue;
            }
            let mut dialogue = Dialogue::after(dialogue_to_negotiated());
            let message = message(number, NEED_REPLY, &vec![0; size]);
            match dialogue.send(message.with(good(number, 0).descriptors)) {
                Answer::Closed(reason) => assert!(reason.contains("body of"), "request {number}, {size}: {reason}"),
                other => assert_eq!(other, ack(false), "request {number}, {size} bytes"),
            }
        }
    }
}

/// hostile V2
#[test]
fn a_table_that_ends_inside_of_a_region_is_refused() {
    for (extra, ok) in [(0, true), (1, false), (16, false), (31, false), (32, true)] {
        let body = [table_body(), vec![0; extra]].concat();
        let mut dialogue = Dialogue::after(dialogue_to_negotiated());
        assert_eq!(dialogue.send(message(SET_MEM_TABLE, NEED_REPLY, &body).with([memfd(SIZE)])), ack(ok), "{extra}");
    }
}

/// An acknowledgement in place of the reply that a request has of its own would be taken for that reply.
#[test]
fn a_request_with_a_reply_of_its_own_is_never_answered_by_an_acknowledgement() {
    let mut dialogue = Dialogue::after(dialogue_to_running());
    let answer = dialogue.send(message(GET_VRING_BASE, NEED_REPLY, &halves(&[4, 0])));
    assert!(matches!(&answer, Answer::Closed(reason) if reason.contains("port has 4 rings")), "{answer:?}");
    let mut dialogue = Dialogue::after(dialogue_to_running());
    let answer = dialogue.send(message(GET_FEATURES, NEED_REPLY, &[0]));
    assert!(matches!(&answer, Answer::Closed(reason) if reason.contains("body of 1 bytes")), "{answer:?}");
}

/// hostile V3
#[test]
fn bad_headers_close() {
    for (flags, text) in [(0_u32, "version 0"), (2, "version 2"), (3, "version 3"), (VERSION | REPLY, "a reply")] {
        let bytes = [GET_FEATURES, flags, 0].map(u32::to_ne_bytes).concat();
        let answer = Dialogue::new(CONFIG).send(Message { bytes, descriptors: vec![] });
        assert!(matches!(&answer, Answer::Closed(reason) if reason.contains(text)), "{answer:?}");
    }
    // Reserved flags mean nothing.
    let answer = Dialogue::new(CONFIG).send(message(GET_FEATURES, 0xffff_fff0, &[]));
    assert_eq!(answer, Answer::Number(CONFIG.offered()));
}

/// hostile V4
#[test]
fn wrong_counts_of_descriptors_are_refused_and_all_are_closed() {
    for (number, _) in ANSWERS {
        let right = good(number, 0).descriptors.len();
        for count in [0, 1, 2, 8, 9, 253] {
            if count == right || (number == REM_MEM_REG && count == 1) {
                continue;
            }
            let mut message = good(number, NEED_REPLY);
            message.descriptors = (0..count).map(|_| eventfd()).collect();
            let mut dialogue = Dialogue::after(dialogue_to_negotiated());
            match dialogue.send(message) {
                Answer::Closed(reason) => {
                    assert!(reason.contains("descriptors") || reason.contains("unknown"), "request {number}: {reason}");
                }
                other => assert_eq!(other, ack(false), "request {number}, {count} descriptors"),
            }
        }
    }
}

/// hostile V4
#[test]
fn descriptors_in_the_middle_of_a_message_close() {
    let Message { bytes, descriptors } = good(SET_VRING_KICK, 0);
    for at in [1, 11, 12, 15] {
        let mut session = Session::new(CONFIG);
        session.receive(&bytes[..at.min(12)], vec![], Instant::now());
        if at > 12 {
            session.receive(&bytes[12..at], vec![], Instant::now());
        }
        let late = descriptors.iter().map(|descriptor| descriptor.try_clone().unwrap()).collect();
        let outcome = session.receive(&bytes[at..=at], late, Instant::now());
        assert!(matches!(outcome.next, Next::Close(CloseReason::LateDescriptors)));
    }
}

/// hostile V6
#[test]
fn descriptors_of_the_wrong_kind_are_refused() {
    let kinds = || -> Vec<(std::os::fd::OwnedFd, &str)> {
        let (socket, _) = std::os::unix::net::UnixStream::pair().unwrap();
        vec![
            (std::fs::File::open("/tmp").unwrap().into(), "a file, folder or device"),
            (std::fs::File::open("/dev/zero").unwrap().into(), "a file, folder or device"),
            (socket.into(), "a socket"),
        ]
    };
    for request in [SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR] {
        for (descriptor, name) in kinds() {
            if name == "a socket" && request != SET_VRING_KICK {
                continue; // the call of user-mode Linux
            }
            let mut dialogue = Dialogue::after(dialogue_to_configured());
            let answer = dialogue.send(message(request, 0, &words(&[0])).with([descriptor]));
            let text = format!("ring 0: its descriptor is {name}, not an eventfd");
            assert!(matches!(&answer, Answer::Closed(reason) if reason.contains(&text)), "{answer:?}");
        }
    }
    for (descriptor, name) in kinds().into_iter().filter(|(_, name)| *name != "a socket") {
        let mut dialogue = Dialogue::after(dialogue_to_negotiated());
        let answer = dialogue.send(message(SET_BACKEND_REQ_FD, 0, &[]).with([descriptor]));
        let text = format!("the channel for requests: its descriptor is {name}, not a local socket or a pipe");
        assert!(matches!(&answer, Answer::Closed(reason) if reason.contains(&text)), "{answer:?}");
    }
    for request in [SET_MEM_TABLE, ADD_MEM_REG] {
        for descriptor in kinds().into_iter().map(|(descriptor, _)| descriptor).chain([eventfd()]) {
            let mut dialogue = Dialogue::after(dialogue_to_negotiated());
            let mut message = good(request, NEED_REPLY);
            message.descriptors = vec![descriptor];
            assert_eq!(dialogue.send(message), ack(false));
        }
    }
}

/// hostile V7, V8, V9: whatever is wrong with a new table, the old one stays in force and its rings run on.
#[test]
fn a_bad_table_leaves_the_old_one_in_force() {
    let table = |regions: &[[u64; 4]], files: Vec<u64>| {
        let count = u32::try_from(regions.len()).unwrap();
        let body = [halves(&[count, 0]), words(regions.as_flattened())].concat();
        message(SET_MEM_TABLE, NEED_REPLY, &body).with(files.into_iter().map(memfd))
    };
    let max = u64::MAX;
    let page = 0x1000;
    for (name, bad) in [
        ("no regions", table(&[], vec![])),
        ("size 0", table(&[[0, 0, USER, 0]], vec![SIZE])),
        ("guest address overflows", table(&[[max - 5, SIZE, USER, 0]], vec![SIZE])),
        ("user address overflows", table(&[[0, SIZE, max - 5, 0]], vec![SIZE])),
        ("offset overflows", table(&[[0, SIZE, USER, max - 5]], vec![SIZE])),
        ("huge", table(&[[0, max, 0, 0]], vec![SIZE])),
        ("overlap of guest addresses", table(&[[0, SIZE, USER, 0], [SIZE - 1, page, 0, 0]], vec![SIZE, SIZE])),
        ("overlap of user addresses", table(&[[0, SIZE, USER, 0], [SIZE, page, USER + 5, 0]], vec![SIZE, SIZE])),
        ("short file", table(&[[0, SIZE, USER, 0]], vec![SIZE - 1])),
        ("short file because of the offset", table(&[[0, SIZE, USER, page]], vec![SIZE])),
        ("too few descriptors", table(&[[0, page, USER, 0], [page, page, USER + page, 0]], vec![SIZE])),
        ("more regions told than sent", message(SET_MEM_TABLE, NEED_REPLY, &table_body()).with([memfd(1), memfd(1)])),
        ("more than eight regions", table(&[[0, page, USER, 0]; 9], vec![SIZE; 9])),
        ("a region twice", message(ADD_MEM_REG, NEED_REPLY, &words(&[0, GUEST, SIZE, USER, 0])).with([memfd(SIZE)])),
        (
            "removal of a region that is not there",
            message(REM_MEM_REG, NEED_REPLY, &words(&[0, GUEST, SIZE, USER + 1, 0])),
        ),
    ] {
        let mut dialogue = Dialogue::after(dialogue_to_running());
        assert_eq!(dialogue.send(bad), ack(false), "{name}");
        assert_eq!(dialogue.workers.take_lines(), [""; 0], "{name}");
        let status = dialogue.session.status();
        assert_eq!((status.memory_bytes, status.rings[0].running), (SIZE, true), "{name}");
    }
}

/// User-mode Linux sends a table of fixed size, whatever the count.
#[test]
fn a_table_may_have_unused_regions_at_its_end() {
    let body = [table_body(), vec![0xff; 32]].concat();
    let mut dialogue = Dialogue::after(dialogue_to_negotiated());
    assert_eq!(dialogue.send(message(SET_MEM_TABLE, NEED_REPLY, &body).with([memfd(SIZE)])), ack(true));
    assert_eq!(dialogue.session.status().memory_regions, 1);
}

/// hostile V9
#[test]
fn slots_are_limited() {
    let file = memfd(0x1000);
    let mut dialogue = Dialogue::after(dialogue_to_negotiated());
    for slot in 0..512_u64 {
        let region = words(&[0, slot << 12, 0x1000, slot << 12, 0]);
        let add = message(ADD_MEM_REG, NEED_REPLY, &region).with([file.try_clone().unwrap()]);
        assert_eq!(dialogue.send(add), ack(slot < 128), "{slot}");
    }
    assert_eq!(dialogue.session.status().memory_regions, 128);
}

/// hostile V10
#[test]
fn rings_outside_of_memory_are_refused() {
    let body = |[descriptors, used, available]: [u64; 3]| {
        [halves(&[0, 0]), words(&[descriptors, used, available, 0])].concat()
    };
    let [descriptors, used, available] = ring_addresses(0);
    let end = USER + SIZE;
    for bad in [
        [descriptors + 8, used, available],
        [descriptors, used + 2, available],
        [descriptors, used, available + 1],
        [USER - 16, used, available],
        [end - 16 * 255, used, available],
        [descriptors, end - 8, available],
        [descriptors, used, end],
        [u64::MAX - 15, used, available],
        [0, 0, 0],
    ] {
        // The place is known to be bad, before the kick and while the ring runs: the old place stays.
        for (before, lines) in [(dialogue_to_configured(), vec![]), (dialogue_to_running(), vec![])] {
            let mut dialogue = Dialogue::after(before);
            let running = dialogue.session.status().rings[0].running;
            assert_eq!(dialogue.send(message(SET_VRING_ADDR, NEED_REPLY, &body(bad))), ack(false), "{bad:x?}");
            assert_eq!(dialogue.workers.take_lines(), lines as Vec<String>);
            assert_eq!(dialogue.session.status().rings[0].running, running);
        }
        // Before the memory table it cannot be known; the ring does not start, and its kick is refused.
        let mut dialogue = Dialogue::after(dialogue_to_negotiated());
        assert_eq!(dialogue.send(message(SET_VRING_ADDR, NEED_REPLY, &body(bad))), ack(true));
        assert_eq!(dialogue.send(good(SET_VRING_NUM, NEED_REPLY)), ack(true));
        assert_eq!(dialogue.send(good(SET_MEM_TABLE, NEED_REPLY)), ack(true));
        assert_eq!(dialogue.send(good(SET_VRING_KICK, NEED_REPLY)), ack(false), "{bad:x?}");
        assert_eq!(dialogue.workers.take_lines(), [""; 0]);
    }
    // A flag that there is not.
    let mut body = addresses_body(0);
    body[4] = 2;
    Dialogue::after(dialogue_to_configured()).expect_refusal(message(SET_VRING_ADDR, 0, &body), "flags");
}

/// hostile V11
#[test]
fn numbers_out_of_range_are_refused_and_not_cut_off() {
    for ring in [4_u32, 255, 256, 0x1_0000, 0x1_0001, u32::MAX] {
        for request in [SET_VRING_NUM, SET_VRING_BASE, GET_VRING_BASE, SET_VRING_ENABLE] {
            let mut dialogue = Dialogue::after(dialogue_to_running());
            dialogue.expect_refusal(message(request, NEED_REPLY, &halves(&[ring, 1])), "port has 4 rings");
        }
        let mut body = addresses_body(0);
        body[..4].copy_from_slice(&ring.to_ne_bytes());
        Dialogue::after(dialogue_to_running()).expect_refusal(message(SET_VRING_ADDR, 0, &body), "port has 4 rings");
    }
    for index in [4_u64, 255, 0x200, 0x1_0000, 1 << 32, !0x100] {
        for request in [SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR] {
            let mut dialogue = Dialogue::after(dialogue_to_running());
            dialogue.expect_refusal(message(request, 0, &words(&[index])).with([eventfd()]), "ring");
        }
    }
    for size in [0, 3, 2048, 0x8000, 0x1_0000, 0x1_0100, u32::MAX] {
        let mut dialogue = Dialogue::after(dialogue_to_configured());
        dialogue.expect_refusal(message(SET_VRING_NUM, 0, &halves(&[0, size])), "size");
    }
    for position in [0x1_0000, u32::MAX] {
        let mut dialogue = Dialogue::after(dialogue_to_configured());
        dialogue.expect_refusal(message(SET_VRING_BASE, 0, &halves(&[0, position])), "no position");
    }
}

/// Index and wrap counter, once for what is available and once for what is used; a frontend may leave the upper half out.
#[test]
fn a_packed_ring_tells_its_position_twice() {
    for (told, answer) in [(0x8005_8005_u32, 0x8005_8005_u32), (0x0000_8005, 0x8005_8005), (7, 0x0007_0007)] {
        let mut dialogue = Dialogue::after(dialogue_to_negotiated());
        dialogue.send(message(SET_FEATURES, 0, &words(&[CONFIG.offered() & !LOG_ALL])));
        dialogue.send(message(SET_VRING_BASE, 0, &halves(&[0, told])));
        let reply = dialogue.send(message(GET_VRING_BASE, 0, &halves(&[0, 0])));
        assert_eq!(reply, Answer::Number(u64::from(answer) << 32));
    }
    let mut dialogue = Dialogue::after(dialogue_to_negotiated());
    dialogue.send(message(SET_FEATURES, 0, &words(&[CONFIG.offered() & !LOG_ALL])));
    let reply = dialogue.send(message(GET_VRING_BASE, 0, &halves(&[0, 0])));
    assert_eq!(reply, Answer::Number(0x8000_8000 << 32), "a new ring");
}

/// User-mode Linux 7.2 takes the number of queue pairs, which it asks for with MQ, for one of rings.
#[test]
fn one_queue_pair_is_no_multi_queue() {
    let one = DeviceConfig { queue_pairs: 1, ..CONFIG };
    let mut dialogue = Dialogue::new(one);
    let answer = dialogue.send(message(GET_PROTOCOL_FEATURES, 0, &[]));
    assert_eq!(answer, Answer::Number(ALL_PROTOCOL & !1));
}

/// hostile V13
#[test]
fn features_that_were_never_offered_close() {
    // HOST_UFO, STATUS, CTRL_VQ, ACCESS_PLATFORM.
    for bit in [14, 16, 17, 33, 63] {
        let mut dialogue = Dialogue::after(dialogue_to_negotiated());
        let answer = dialogue.send(message(SET_FEATURES, NEED_REPLY, &words(&[PROTOCOL_FEATURES | 1 << bit])));
        assert!(matches!(&answer, Answer::Closed(reason) if reason.contains("never offered")), "{answer:?}");
    }
    // PAGEFAULT, INFLIGHT_SHMFD, INBAND_NOTIFICATIONS, STATUS.
    for bit in [8, 12, 14, 16, 63] {
        let mut dialogue = Dialogue::after(dialogue_to_negotiated());
        let answer = dialogue.send(message(SET_PROTOCOL_FEATURES, NEED_REPLY, &words(&[1 << bit])));
        assert!(matches!(&answer, Answer::Closed(reason) if reason.contains("never offered")), "{answer:?}");
    }
}

/// hostile V13
#[test]
fn running_rings_keep_their_features_until_they_are_stopped() {
    let mut dialogue = Dialogue::after(dialogue_to_running());
    let features = |dialogue: &Dialogue| dialogue.workers.record().setups[&0].features;
    assert_eq!(dialogue.send(message(SET_FEATURES, NEED_REPLY, &words(&[PROTOCOL_FEATURES]))), ack(true));
    assert_eq!(dialogue.workers.take_lines(), [""; 0]);
    dialogue.send(good(SET_MEM_TABLE, 0)); // restarts the ring, but for another reason
    assert_eq!(features(&dialogue), negotiated());
    dialogue.send(good(GET_VRING_BASE, 0));
    dialogue.send(good(SET_VRING_KICK, 0));
    assert_eq!(features(&dialogue), PROTOCOL_FEATURES);
}

// ---------------------------------------------------------------------------------------------------------------
// Transcripts
// ---------------------------------------------------------------------------------------------------------------

/// What a frontend may say of rings that do not run, and what it may have said before it thought better of it.
#[test]
fn a_new_session_takes_what_this_one_took() {
    let far = [halves(&[3, 0]), words(&[USER + SIZE, USER + SIZE, USER + SIZE, 0])].concat();
    let outside = || message(SET_VRING_ADDR, 0, &far);
    let size = || message(SET_VRING_NUM, 0, &halves(&[3, 64]));
    let without = |feature: u64| message(SET_PROTOCOL_FEATURES, 0, &words(&[ALL_PROTOCOL & !feature]));
    let regions =
        || (1..9).map(|n| message(ADD_MEM_REG, 0, &words(&[0, GUEST + n * SIZE, SIZE, USER + 9 * SIZE + n * SIZE, 0])));
    for more in [
        vec![outside(), size()],
        vec![good(SET_BACKEND_REQ_FD, 0), without(1 << 5)],
        regions().map(|region| region.with([memfd(SIZE)])).chain([without(1 << 15)]).collect(),
    ] {
        let mut dialogue = Dialogue::after(dialogue_to_running());
        for message in more {
            assert_eq!(dialogue.send(message), Answer::Silence);
        }
        let next = dialogue.next().expect("a ring runs");
        assert_eq!(next.session.status(), dialogue.session.status());
        assert_eq!(next.transcript(), dialogue.transcript());
    }
}

// ---------------------------------------------------------------------------------------------------------------
// The guest moves
// ---------------------------------------------------------------------------------------------------------------

/// SET_FEATURES with LOG_ALL or without.
fn features(logs: bool) -> Message {
    let bits = if logs { negotiated() | LOG_ALL } else { negotiated() };
    message(SET_FEATURES, NEED_REPLY, &words(&[bits]))
}

/// SET_VRING_ADDR of ring 0 with the flag to log writes to its used ring, or without.
fn addresses(logs: bool) -> Message {
    let [descriptors, used, available] = ring_addresses(0);
    let body = [halves(&[0, u32::from(logs)]), words(&[descriptors, used, available, GUEST + (used - USER)])].concat();
    message(SET_VRING_ADDR, NEED_REPLY, &body)
}

fn log_base(bytes: u64, file_bytes: u64, offset: u64) -> Message {
    message(SET_LOG_BASE, 0, &words(&[bytes, offset])).with([memfd(file_bytes)])
}

/// The messages are QEMU's (`vhost_migration_log`).
#[test]
fn writes_are_logged_while_the_guest_moves_and_again_at_the_next_try() {
    let mut dialogue = Dialogue::after(dialogue_to_running());
    for _ in 0..3 {
        // Without NEED_REPLY: the reply is the request's own.
        assert_eq!(dialogue.send(good(SET_LOG_BASE, 0)), Answer::Number(0));
        assert_eq!(dialogue.workers.take_lines(), [""; 0]);
        assert_eq!(dialogue.send(features(true)), ack(true));
        assert_eq!(dialogue.workers.take_lines(), ["log 0 true"]);
        assert_eq!(dialogue.send(addresses(true)), ack(true));
        assert_eq!(dialogue.workers.take_lines(), ["log 0 true"], "the ring stays where it is, and runs");
        assert_eq!(dialogue.workers.record().setups[&0].log.as_ref().unwrap().used, Some(GUEST + 0x2000));
        assert_eq!(dialogue.session.status().features, negotiated() | LOG_ALL);
        // Cancelled.
        assert_eq!(dialogue.send(features(false)), ack(true));
        assert_eq!(dialogue.send(addresses(false)), ack(true));
        assert_eq!(dialogue.workers.take_lines(), ["log 0 false"]);
    }
    dialogue.send(good(SET_LOG_BASE, 0));
    dialogue.send(features(true));
    assert_eq!(dialogue.send(good(GET_VRING_BASE, 0)), Answer::Number(u64::from(POSITION) << 32));
    assert_eq!(dialogue.workers.take_lines(), ["log 0 true", "stop 0"]);
}

/// QEMU begins so when a device starts, or its frontend connects again, in the middle of a migration (`vhost_net_start`, `vhost_dev_start`).
/// Its rings are enabled by then: what they wrote before they have the log would be missing in it.
#[test]
fn rings_that_are_to_log_wait_for_the_log() {
    for by_flag in [false, true] {
        let mut dialogue = Dialogue::after(dialogue_to_negotiated());
        dialogue.send(good(SET_VRING_ENABLE, 0));
        dialogue.send(features(!by_flag));
        for message in [good(SET_MEM_TABLE, 0), good(SET_VRING_NUM, 0), good(SET_VRING_BASE, 0), addresses(true)] {
            dialogue.send(message);
        }
        dialogue.send(good(SET_VRING_KICK, 0));
        assert_eq!(dialogue.workers.take_lines(), [""; 0]);
        assert!(dialogue.transcript().is_none(), "messages cannot tell that a ring waits");
        assert_eq!(dialogue.send(good(SET_LOG_BASE, 0)), Answer::Number(0));
        assert_eq!(dialogue.workers.take_lines(), ["start 0 enabled=true logs"]);
        // And what starts later logs from the start.
        dialogue.send(good(GET_VRING_BASE, 0));
        dialogue.send(good(SET_VRING_KICK, 0));
        assert_eq!(dialogue.workers.take_lines(), ["stop 0", "start 0 enabled=true logs"]);
    }
}

/// The migration is given up before there was a log.
#[test]
fn rings_that_need_no_log_any_more_do_not_wait_for_it() {
    let mut dialogue = Dialogue::after(dialogue_to_negotiated());
    dialogue.send(features(true));
    for message in [good(SET_MEM_TABLE, 0), good(SET_VRING_NUM, 0), good(SET_VRING_BASE, 0), addresses(true)] {
        dialogue.send(message);
    }
    dialogue.send(good(SET_VRING_KICK, 0));
    assert_eq!(dialogue.send(features(false)), ack(true));
    assert_eq!(dialogue.workers.take_lines(), [""; 0], "its flag is set");
    assert_eq!(dialogue.send(addresses(false)), ack(true));
    assert_eq!(dialogue.workers.take_lines(), ["start 0 enabled=false"]);
}

/// hostile V14: QEMU does not read what the reply to SET_LOG_BASE says; it gives its migration up when LOG_ALL is refused.
#[test]
fn without_a_usable_log_logging_is_refused_and_the_guest_goes_on() {
    let needed = (GUEST + SIZE) / 0x1000 / 8;
    for bad in [
        log_base(needed - 1, needed, 0), // too small for the memory
        log_base(0, needed, 0),
        log_base(needed, needed - 1, 0),
        log_base(needed, needed, 1),
        log_base(needed, needed, u64::MAX),
        log_base(u64::MAX, needed, 0),
        log_base(5 << 30, 5 << 30, 0),
        message(SET_LOG_BASE, 0, &words(&[needed, 0])).with([eventfd()]),
        message(SET_LOG_BASE, 0, &words(&[needed, 0])),
    ] {
        let mut dialogue = Dialogue::after(dialogue_to_running());
        // One from an earlier try is not taken in place of it.
        assert_eq!(dialogue.send(good(SET_LOG_BASE, 0)), Answer::Number(0));
        assert_eq!(dialogue.send(bad), Answer::Number(1));
        assert_eq!(dialogue.send(features(true)), ack(false));
        assert_eq!(dialogue.send(addresses(true)), ack(false));
        assert_eq!(dialogue.session.status().features, negotiated());
        assert_eq!(dialogue.workers.take_lines(), [""; 0]);
        // Exactly as large as it must be.
        assert_eq!(dialogue.send(log_base(needed, needed, 0)), Answer::Number(0));
        assert_eq!(dialogue.send(features(true)), ack(true));
    }
    let mut dialogue = Dialogue::after(dialogue_to_running());
    dialogue.send(good(SET_LOG_BASE, 0));
    dialogue.send(good(SET_PROTOCOL_FEATURES, 0));
    // The same without a way to tell.
    let mut silent = Dialogue::after(dialogue_to_running());
    silent.send(message(SET_PROTOCOL_FEATURES, 0, &words(&[0])));
    silent.expect_refusal(features(true), "no usable log");
}

/// hostile V14: what is written from then on would be known to nobody, and QEMU would go on as if it were.
#[test]
fn a_bad_log_in_the_middle_of_a_migration_closes() {
    for bad in [log_base(8, 8, 0), log_base(0, 8, 0), message(SET_LOG_BASE, 0, &words(&[8, 0]))] {
        let mut dialogue = Dialogue::after(dialogue_to_running());
        dialogue.send(good(SET_LOG_BASE, 0));
        dialogue.send(features(true));
        let answer = dialogue.send(bad);
        assert!(matches!(&answer, Answer::Closed(reason) if reason.contains("SET_LOG_BASE refused")), "{answer:?}");
    }
}

/// hostile V14
#[test]
fn memory_that_the_log_does_not_reach_is_refused_while_writes_are_logged() {
    let needed = (GUEST + SIZE) / 0x1000 / 8;
    let more =
        || message(ADD_MEM_REG, NEED_REPLY, &words(&[0, GUEST + SIZE, SIZE, USER + SIZE, 0])).with([memfd(SIZE)]);
    let mut dialogue = Dialogue::after(dialogue_to_running());
    dialogue.send(log_base(needed, needed, 0));
    dialogue.send(features(true));
    dialogue.workers.take_lines();
    assert_eq!(dialogue.send(more()), ack(false));
    assert_eq!(dialogue.workers.take_lines(), [""; 0]);
    // A larger one first, as QEMU does.
    assert_eq!(dialogue.send(good(SET_LOG_BASE, 0)), Answer::Number(0));
    assert_eq!(dialogue.workers.take_lines(), ["log 0 true"]);
    assert_eq!(dialogue.send(more()), ack(true));
    assert_eq!(dialogue.workers.take_lines(), ["stop 0", "start 0 enabled=true logs"]);
    // A place for the marks of a used ring that the log does not have.
    let [descriptors, used, available] = ring_addresses(0);
    let far = [halves(&[0, 1]), words(&[descriptors, used, available, 1 << 50])].concat();
    assert_eq!(dialogue.send(message(SET_VRING_ADDR, NEED_REPLY, &far)), ack(false));
    assert_eq!(dialogue.workers.take_lines(), [""; 0]);
}

/// hostile V14
#[test]
fn a_log_is_replaced_a_thousand_times_and_none_stays_open() {
    let mut dialogue = Dialogue::after(dialogue_to_running());
    dialogue.send(good(SET_LOG_BASE, 0));
    dialogue.session.take_leftovers();
    let before = open_descriptors();
    for round in 0..1000 {
        assert_eq!(dialogue.send(good(SET_LOG_BASE, 0)), Answer::Number(0));
        assert_eq!(dialogue.send(features(round % 2 == 0)), ack(true));
        dialogue.send(good(SET_LOG_FD, 0));
        dialogue.session.take_leftovers();
    }
    // Other tests of this process come and go.
    assert!(open_descriptors() < before + 500, "{} after {before}", open_descriptors());
}

#[test]
fn a_session_that_goes_on_in_another_process_logs_there() {
    for flag in [false, true] {
        let mut dialogue = Dialogue::after(dialogue_to_running());
        for message in [good(SET_LOG_BASE, 0), good(SET_LOG_FD, 0), features(true), addresses(flag)] {
            dialogue.send(message);
        }
        let next = dialogue.next().expect("a ring runs");
        assert_eq!(next.session.status(), dialogue.session.status());
        assert_eq!(next.transcript(), dialogue.transcript());
        assert_eq!(next.workers.take_lines(), ["start 0 enabled=true logs"]);
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Random sequences
// ---------------------------------------------------------------------------------------------------------------

mod random {
    use super::*;
    use proptest::prelude::*;

    /// A message that is right, nearly right, or nonsense.
    fn any_message() -> impl Strategy<Value = (u32, u32, Option<Vec<u8>>, Vec<u8>, usize)> {
        let number = prop_oneof![9 => 1..45_u32, 1 => any::<u32>()];
        let flags = prop_oneof![9 => prop_oneof![Just(0), Just(NEED_REPLY)], 1 => any::<u32>()];
        // Instead of the right body, one of numbers that mean something somewhere.
        let field = prop_oneof![
            0..5_u64,
            Just(0x100),
            Just(1 << 32),
            Just(256 << 32),
            Just(USER),
            Just(GUEST),
            Just(SIZE),
            Just(u64::MAX),
            any::<u64>()
        ];
        let body = prop_oneof![
            6 => Just(None),
            3 => prop::collection::vec(field, 0..6).prop_map(|fields| Some(words(&fields))),
            1 => prop::collection::vec(any::<u8>(), 0..300).prop_map(Some)
        ];
        let descriptors = prop_oneof![6 => Just(vec![]), 1 => prop::collection::vec(0..4_u8, 1..10)];
        (number, flags, body, descriptors, 1..64_usize)
    }

    fn descriptor(kind: u8) -> std::os::fd::OwnedFd {
        match kind {
            0 => eventfd(),
            1 => memfd(SIZE),
            2 => std::fs::File::open("/dev/null").unwrap().into(),
            _ => std::io::pipe().unwrap().0.into(),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// hostile V12: whatever comes, in whatever order, nothing panics, no ring is started twice or enabled while
        /// it does not run (the fake workers assert it), each message ends in one way, another session can be brought
        /// to where this one is, and at the end every ring can be stopped and all memory given back.
        #[test]
        fn any_sequence_of_messages_is_survived(
            start in 0..4_usize,
            messages in prop::collection::vec(any_message(), 1..30),
            stuck_at in prop::option::of(0..30_usize),
        ) {
            let before = [vec![], dialogue_to_negotiated(), dialogue_to_configured(), dialogue_to_running()];
            let mut dialogue = Dialogue::after(before.into_iter().nth(start).unwrap());
            for (index, (number, flags, body, descriptors, piece)) in messages.into_iter().enumerate() {
                let mut sent = good(number, flags);
                if let Some(body) = body {
                    sent = Message { descriptors: sent.descriptors, ..message(number, flags, &body) };
                }
                sent.descriptors.extend(descriptors.into_iter().map(descriptor));
                if stuck_at == Some(index) {
                    dialogue.workers.record().stuck = 1;
                }
                let answer = dialogue.send_in_pieces(sent, piece);
                if matches!(answer, Answer::Closed(_)) {
                    break;
                }
            }
            dialogue.workers.record().stuck = 0;
            if dialogue.closed.is_none() && let Some(next) = dialogue.next() {
                prop_assert_eq!(next.session.status(), dialogue.session.status());
                prop_assert_eq!(next.transcript(), dialogue.transcript());
            }
            let memory: Vec<_> =
                dialogue.workers.record().setups.values().map(|setup| std::sync::Arc::downgrade(&setup.memory)).collect();
            let stops = dialogue.session.stop_all();
            dialogue.workers.change(stops).unwrap();
            prop_assert!(dialogue.workers.record().running.is_empty());
            drop(dialogue);
            prop_assert!(memory.iter().all(|memory| memory.upgrade().is_none()));
        }
    }
}
