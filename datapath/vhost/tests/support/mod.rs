//! What the tests of the session and of the server share: messages as a frontend sends them, memory, fake workers.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard};

use culvert_frame::MacAddress;
use culvert_guest::device::{DeviceConfig, RingChange, StoppedRing, Unresponsive};
use culvert_guest::features::{LOG_ALL, RING_PACKED};
use culvert_vhost::{Backend, PortKey, SocketState};
use rustix::event::EventfdFlags;
use rustix::fs::MemfdFlags;

/// The numbers of the requests, from the specification, not from our code.
pub mod request {
    pub const GET_FEATURES: u32 = 1;
    pub const SET_FEATURES: u32 = 2;
    pub const SET_OWNER: u32 = 3;
    pub const RESET_OWNER: u32 = 4;
    pub const SET_MEM_TABLE: u32 = 5;
    pub const SET_LOG_BASE: u32 = 6;
    pub const SET_LOG_FD: u32 = 7;
    pub const SET_VRING_NUM: u32 = 8;
    pub const SET_VRING_ADDR: u32 = 9;
    pub const SET_VRING_BASE: u32 = 10;
    pub const GET_VRING_BASE: u32 = 11;
    pub const SET_VRING_KICK: u32 = 12;
    pub const SET_VRING_CALL: u32 = 13;
    pub const SET_VRING_ERR: u32 = 14;
    pub const GET_PROTOCOL_FEATURES: u32 = 15;
    pub const SET_PROTOCOL_FEATURES: u32 = 16;
    pub const GET_QUEUE_NUM: u32 = 17;
    pub const SET_VRING_ENABLE: u32 = 18;
    pub const SEND_RARP: u32 = 19;
    pub const NET_SET_MTU: u32 = 20;
    pub const SET_BACKEND_REQ_FD: u32 = 21;
    pub const GET_CONFIG: u32 = 24;
    pub const SET_CONFIG: u32 = 25;
    pub const RESET_DEVICE: u32 = 34;
    pub const GET_MAX_MEM_SLOTS: u32 = 36;
    pub const ADD_MEM_REG: u32 = 37;
    pub const REM_MEM_REG: u32 = 38;
}

pub const VERSION: u32 = 1;
pub const REPLY: u32 = 4;
pub const NEED_REPLY: u32 = 8;

pub const PROTOCOL_FEATURES: u64 = 1 << 30;
/// MQ, LOG_SHMFD, RARP, REPLY_ACK, MTU, BACKEND_REQ, CONFIG, RESET_DEVICE, CONFIGURE_MEM_SLOTS.
pub const ALL_PROTOCOL: u64 = 1 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 9 | 1 << 13 | 1 << 15;

/// User address and guest address of the test memory, and its size.
pub const USER: u64 = 0x7f00_0000_0000;
pub const GUEST: u64 = 0x4000_0000;
pub const SIZE: u64 = 0x10_0000;

pub const CONFIG: DeviceConfig = DeviceConfig {
    queue_pairs: 2,
    mtu: 1500,
    mac: Some(MacAddress([2, 0, 0, 0, 0, 10])),
    offloads: true,
    migrates: true,
};

/// Bytes of a dirty log that has a bit for each page of the test memory, and for as much behind it.
pub const LOG_BYTES: u64 = (GUEST + 2 * SIZE) / 0x1000 / 8;

/// The features that a frontend acknowledges whose guest does not move.
pub fn negotiated() -> u64 {
    CONFIG.offered() & !RING_PACKED & !LOG_ALL
}

/// A message as it is on the wire, and its descriptors.
#[derive(Debug)]
pub struct Message {
    pub bytes: Vec<u8>,
    pub descriptors: Vec<OwnedFd>,
}

pub fn message(request: u32, flags: u32, body: &[u8]) -> Message {
    let size = u32::try_from(body.len()).unwrap();
    let header = [request, VERSION | flags, size].map(u32::to_ne_bytes).concat();
    Message { bytes: [header.as_slice(), body].concat(), descriptors: Vec::new() }
}

impl Message {
    pub fn with(mut self, descriptors: impl IntoIterator<Item = OwnedFd>) -> Self {
        self.descriptors.extend(descriptors);
        self
    }
}

pub fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

pub fn halves(halves: &[u32]) -> Vec<u8> {
    halves.iter().flat_map(|half| half.to_ne_bytes()).collect()
}

pub fn memfd(size: u64) -> OwnedFd {
    let file = rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&file, size).unwrap();
    file
}

pub fn eventfd() -> OwnedFd {
    rustix::event::eventfd(0, EventfdFlags::CLOEXEC).unwrap()
}

pub fn table_body() -> Vec<u8> {
    [halves(&[1, 0]), words(&[GUEST, SIZE, USER, 0])].concat()
}

/// User addresses of a ring of up to 256 entries: descriptors, used, available.
pub fn ring_addresses(ring: u32) -> [u64; 3] {
    let start = USER + u64::from(ring) * 0x4000;
    [start, start + 0x2000, start + 0x1000]
}

pub fn addresses_body(ring: u32) -> Vec<u8> {
    let [descriptors, used, available] = ring_addresses(ring);
    [halves(&[ring, 0]), words(&[descriptors, used, available, 0])].concat()
}

/// A well-formed message of each kind that we know, for ring 0.
pub fn good(request: u32, flags: u32) -> Message {
    use request::*;
    match request {
        SET_FEATURES => message(request, flags, &words(&[negotiated()])),
        SET_PROTOCOL_FEATURES => message(request, flags, &words(&[ALL_PROTOCOL])),
        SET_MEM_TABLE => message(request, flags, &table_body()).with([memfd(SIZE)]),
        SET_LOG_BASE => message(request, flags, &words(&[LOG_BYTES, 0])).with([memfd(LOG_BYTES)]),
        SET_LOG_FD => message(request, flags, &[]).with([eventfd()]),
        SET_VRING_NUM => message(request, flags, &halves(&[0, 256])),
        SET_VRING_ADDR => message(request, flags, &addresses_body(0)),
        SET_VRING_BASE => message(request, flags, &halves(&[0, 77])),
        GET_VRING_BASE => message(request, flags, &halves(&[0, 0])),
        SET_VRING_KICK | SET_VRING_CALL | SET_VRING_ERR => message(request, flags, &words(&[0])).with([eventfd()]),
        SET_BACKEND_REQ_FD => {
            let (ours, _) = std::os::unix::net::UnixStream::pair().unwrap();
            message(request, flags, &[]).with([OwnedFd::from(ours)])
        }
        SET_VRING_ENABLE => message(request, flags, &halves(&[0, 1])),
        SEND_RARP => message(request, flags, &words(&[u64::from_ne_bytes([2, 0, 0, 0, 0, 10, 0, 0])])),
        NET_SET_MTU => message(request, flags, &words(&[1500])),
        GET_CONFIG => message(request, flags, &[halves(&[0, 12, 0]), vec![0; 12]].concat()),
        SET_CONFIG => message(request, flags, &[halves(&[0, 6, 0]), vec![0; 6]].concat()),
        ADD_MEM_REG => message(request, flags, &words(&[0, GUEST + SIZE, SIZE, USER + SIZE, 0])).with([memfd(SIZE)]),
        REM_MEM_REG => message(request, flags, &words(&[0, GUEST, SIZE, USER, 0])),
        _ => message(request, flags, &[]),
    }
}

/// What brings a session to running ring 0 with everything negotiated.
pub fn dialogue_to_running() -> Vec<Message> {
    use request::*;
    let mut dialogue = dialogue_to_configured();
    dialogue.extend([SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ENABLE].map(|request| good(request, 0)));
    dialogue
}

/// All but the kick.
pub fn dialogue_to_configured() -> Vec<Message> {
    use request::*;
    let mut dialogue = dialogue_to_negotiated();
    dialogue.extend([SET_MEM_TABLE, SET_VRING_NUM, SET_VRING_BASE, SET_VRING_ADDR].map(|request| good(request, 0)));
    dialogue
}

/// Owner and features.
pub fn dialogue_to_negotiated() -> Vec<Message> {
    use request::*;
    [GET_FEATURES, GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, SET_OWNER, SET_FEATURES].map(|r| good(r, 0)).into()
}

/// Open descriptors of this process.
pub fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Workers that do at once what they are told, and keep a record.
#[derive(Debug, Default)]
pub struct FakeWorkers {
    record: Mutex<Record>,
}

/// What fake workers were told.
#[derive(Debug, Default)]
pub struct Record {
    /// A line for each change, announcement and state.
    pub lines: Vec<String>,
    /// The rings that run now.
    pub running: std::collections::BTreeSet<u16>,
    /// The set-ups of the running rings.
    pub setups: std::collections::BTreeMap<u16, culvert_guest::device::RingSetup>,
    /// The states of the sockets, in order.
    pub states: Vec<(PortKey, SocketState)>,
    /// How often to be stuck from now on.
    pub stuck: u32,
}

/// The position that a fake worker tells of ring N is this plus N.
pub const POSITION: u16 = 1000;

impl FakeWorkers {
    pub fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap()
    }

    pub fn take_lines(&self) -> Vec<String> {
        std::mem::take(&mut self.record().lines)
    }

    pub fn change(&self, changes: Vec<RingChange>) -> Result<Vec<StoppedRing>, Unresponsive> {
        let mut record = self.record();
        if record.stuck > 0 {
            record.stuck -= 1;
            record.lines.push("stuck".to_owned());
            return Err(Unresponsive);
        }
        let mut stopped = Vec::new();
        for change in changes {
            match change {
                RingChange::Stop { ring } => {
                    record.lines.push(format!("stop {ring}"));
                    record.setups.remove(&ring);
                    let ran = record.running.remove(&ring);
                    stopped.push(StoppedRing { ring, position: if ran { POSITION + ring } else { 0 } });
                }
                RingChange::Start { ring, setup } => {
                    setup.layout.check(&setup.memory, setup.features).unwrap();
                    let logs = if setup.log.is_some() { " logs" } else { "" };
                    record.lines.push(format!("start {ring} enabled={}{logs}", setup.enabled));
                    assert!(record.running.insert(ring), "ring {ring} was started twice");
                    record.setups.insert(ring, setup);
                }
                RingChange::Log { ring, log } => {
                    assert!(record.running.contains(&ring), "ring {ring} does not run");
                    record.lines.push(format!("log {ring} {}", log.is_some()));
                    if let Some(setup) = record.setups.get_mut(&ring) {
                        setup.log = log;
                    }
                }
                RingChange::Enable { ring, enabled } => {
                    assert!(record.running.contains(&ring), "ring {ring} does not run");
                    record.lines.push(format!("enable {ring} {enabled}"));
                }
            }
        }
        Ok(stopped)
    }
}

impl Backend for FakeWorkers {
    fn change_rings(&self, _: PortKey, changes: Vec<RingChange>) -> Result<Vec<StoppedRing>, Unresponsive> {
        self.change(changes)
    }

    fn announce(&self, port: PortKey, mac: MacAddress) {
        self.record().lines.push(format!("announce {mac} at {}", port.0));
    }

    fn state(&self, port: PortKey, state: SocketState) {
        self.record().states.push((port, state));
    }
}

/// Waits for something that is bound to come; fails after a time that no machine needs.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !is_so() {
        assert!(start.elapsed() < std::time::Duration::from_secs(60), "{what} did not come");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

/// Sends a message to a socket, descriptors with the first byte.
pub fn send(stream: &std::os::unix::net::UnixStream, message: &Message) -> std::io::Result<()> {
    use std::io::{IoSlice, Write};
    use std::mem::MaybeUninit;
    use std::os::fd::AsFd;

    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<_> = message.descriptors.iter().map(AsFd::as_fd).collect();
    if !descriptors.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    }
    let sent = sendmsg(stream, &[IoSlice::new(&message.bytes)], &mut control, SendFlags::NOSIGNAL)?;
    (&mut &*stream).write_all(&message.bytes[sent..])
}

/// Reads a reply that is one number.
pub fn read_number(stream: &std::os::unix::net::UnixStream) -> std::io::Result<u64> {
    use std::io::Read;
    let mut reply = [0; 20];
    (&mut &*stream).read_exact(&mut reply)?;
    Ok(u64::from_ne_bytes(reply[12..].try_into().unwrap()))
}

/// Whether the server has closed a connection: waits for the end or for bytes.
pub fn is_closed(stream: &std::os::unix::net::UnixStream) -> bool {
    use std::io::Read;
    (&mut &*stream).read(&mut [0; 256]).map_or(true, |count| count == 0)
}
