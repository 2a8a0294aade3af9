//! The server on real sockets, in both roles: against the `vhost` crate's frontend, and against hostile ones.
//!
//! "hostile V1" and so on: see `session.rs`; V16 is about connections, V18 about frontends that are killed.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use culvert_frame::MacAddress;
use culvert_guest::device::{RingChange, StoppedRing, Unresponsive};
use culvert_guest::features::{LOG_ALL, RING_PACKED};
use culvert_vhost::{AddError, Backend, Bar, PortKey, PortSocket, RETRY, Role, Server, SocketState};
use support::request::*;
use support::*;
use vhost::vhost_user::message::VhostUserConfigFlags;
use vhost::vhost_user::message::VhostUserHeaderFlag;
use vhost::vhost_user::{Frontend, VhostUserFrontend, VhostUserProtocolFeatures};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::EventFd;

const PORT: PortKey = PortKey(7);

struct Setup {
    folder: tempfile::TempDir,
    workers: Arc<FakeWorkers>,
    server: Server,
}

impl Setup {
    fn new() -> Self {
        let workers = Arc::new(FakeWorkers::default());
        let server = Server::start(Arc::clone(&workers) as Arc<dyn Backend>, None).unwrap();
        Self { folder: tempfile::tempdir().unwrap(), workers, server }
    }

    fn listening() -> Self {
        let setup = Self::new();
        setup.server.add(setup.port(PORT, Role::Listen)).unwrap();
        setup
    }

    fn path(&self, port: PortKey) -> PathBuf {
        self.folder.path().join(format!("{}/vhost.sock", port.0))
    }

    fn port(&self, port: PortKey, role: Role) -> PortSocket {
        PortSocket {
            port,
            name: format!("vm-{}", port.0),
            place: self.path(port).into(),
            role,
            device: CONFIG,
            records: None,
        }
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(self.path(PORT)).unwrap()
    }

    fn wait_for_state(&self, what: &str, is_it: impl Fn(&SocketState) -> bool) {
        wait_until(what, || self.server.state(PORT).is_some_and(|state| is_it(&state)));
    }

    fn wait_for_waiting(&self) {
        self.wait_for_state("Waiting", |state| *state == SocketState::Waiting);
    }

    /// A frontend with ring 0 running.
    fn running(&self, stream: UnixStream) -> UnixStream {
        for message in dialogue_to_running() {
            send(&stream, &message).unwrap();
        }
        send(&stream, &good(GET_FEATURES, 0)).unwrap();
        let _replies = [(); 3].map(|()| read_number(&stream).unwrap());
        assert!(self.workers.record().running.contains(&0));
        stream
    }
}

fn region(offset: u64, file: &OwnedFd) -> VhostUserMemoryRegionInfo {
    VhostUserMemoryRegionInfo {
        guest_phys_addr: GUEST + offset,
        memory_size: SIZE,
        userspace_addr: USER + offset,
        mmap_offset: 0,
        mmap_handle: file.as_raw_fd(),
    }
}

/// The dialogue that a VMM has, by the `vhost` crate's frontend.
fn vmm(stream: UnixStream, setup: &Setup) {
    let mut vmm = Frontend::from_stream(stream, 4);
    let offered = vmm.get_features().unwrap();
    assert_eq!(offered, CONFIG.offered());
    let protocol = vmm.get_protocol_features().unwrap();
    assert_eq!(protocol.bits(), ALL_PROTOCOL);
    vmm.set_protocol_features(protocol).unwrap();
    vmm.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    vmm.set_owner().unwrap();
    assert_eq!(vmm.get_max_mem_slots().unwrap(), 128);
    vmm.set_features(offered & !RING_PACKED & !LOG_ALL).unwrap();
    let (_, space) = vmm.get_config(8, 4, VhostUserConfigFlags::empty(), &[0; 4]).unwrap();
    assert_eq!(space, [2, 0, 0xdc, 5]);

    let file = memfd(SIZE);
    vmm.set_mem_table(&[region(0, &file)]).unwrap();
    let event = || EventFd::new(0).unwrap();
    for ring in 0..4 {
        let [desc_table_addr, used_ring_addr, avail_ring_addr] = ring_addresses(ring);
        let (queue_max_size, queue_size, flags, log_addr) = (256, 256, 0, None);
        let ring = ring as usize;
        vmm.set_vring_num(ring, queue_size).unwrap();
        vmm.set_vring_base(ring, 0).unwrap();
        let place = VringConfigData {
            queue_max_size,
            queue_size,
            flags,
            desc_table_addr,
            used_ring_addr,
            avail_ring_addr,
            log_addr,
        };
        vmm.set_vring_addr(ring, &place).unwrap();
        vmm.set_vring_call(ring, &event()).unwrap();
        vmm.set_vring_err(ring, &event()).unwrap();
        vmm.set_vring_kick(ring, &event()).unwrap();
        vmm.set_vring_enable(ring, true).unwrap();
    }
    let record = setup.workers.record();
    assert_eq!(record.running, [0, 1, 2, 3].into());
    for setup in record.setups.values() {
        assert_eq!(setup.features, offered & !RING_PACKED & !LOG_ALL);
        assert!(setup.kick.is_some());
    }
    drop(record);
    setup.wait_for_state("Connected", |state| {
        let SocketState::Connected(connection) = state else { return false };
        assert_eq!(connection.peer.pid, std::process::id());
        assert_eq!(connection.peer.uid, rustix::process::getuid().as_raw());
        connection.session.rings.iter().all(|ring| ring.running && ring.enabled)
    });

    assert_eq!(vmm.get_vring_base(1).unwrap(), u32::from(POSITION) + 1);
    assert_eq!(setup.workers.record().running, [0, 2, 3].into());
    // Hot-plug.
    let more = memfd(SIZE);
    let region = region(SIZE, &more);
    vmm.add_mem_region(&region).unwrap();
    vmm.add_mem_region(&region).unwrap_err();
    vmm.remove_mem_region(&region).unwrap();
    vmm.remove_mem_region(&region).unwrap_err();
    vmm.set_vring_num(9, 256).unwrap_err();
    vmm.set_vring_num(1, 255).unwrap_err();
    assert_eq!(setup.workers.record().running, [0, 2, 3].into());
    vmm.reset_device().unwrap();
    assert!(setup.workers.record().running.is_empty());
    // For a network device the answer is in pairs, although this frontend takes it for a number of rings.
    assert_eq!(vmm.get_queue_num().unwrap(), 2);
    let never_offered = VhostUserProtocolFeatures::PAGEFAULT | VhostUserProtocolFeatures::REPLY_ACK;
    vmm.set_protocol_features(never_offered).unwrap_err();
}

#[test]
fn another_implementation_is_served_in_the_listen_role() {
    let setup = Setup::listening();
    for _ in 0..3 {
        vmm(setup.connect(), &setup);
        setup.wait_for_waiting();
    }
}

#[test]
fn another_implementation_is_served_in_the_connect_role() {
    let setup = Setup::new();
    // The folder does not exist yet.
    setup.server.add(setup.port(PORT, Role::Connect)).unwrap();
    setup.wait_for_waiting();
    let path = setup.path(PORT);
    for _ in 0..3 {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        // The same VMM is reconnected to, and, as a new socket, the next.
        for _ in 0..2 {
            vmm(listener.accept().unwrap().0, &setup);
        }
        drop(listener);
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
    let record = setup.workers.record();
    assert!(record.states.contains(&(PORT, SocketState::Waiting)));
}

#[test]
fn what_is_not_a_socket_is_told_and_tried_again() {
    let setup = Setup::new();
    let path = setup.path(PORT);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, "").unwrap();
    setup.server.add(setup.port(PORT, Role::Connect)).unwrap();
    let reason = format!("{} is not a socket; remove it, or correct `socket`", path.display());
    setup.wait_for_state("Failed", |state| *state == SocketState::Failed { reason: reason.clone() });
    std::fs::remove_file(&path).unwrap();
    setup.wait_for_waiting();
    let listener = UnixListener::bind(&path).unwrap();
    vmm(listener.accept().unwrap().0, &setup);
}

#[test]
fn a_port_whose_socket_cannot_be_made_fails_alone() {
    let setup = Setup::listening();
    let file = setup.folder.path().join("8/vhost.sock");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "precious").unwrap();
    let error = setup.server.add(setup.port(PortKey(8), Role::Listen)).unwrap_err();
    assert!(
        error.to_string().ends_with("exists and is not a socket; remove it, or choose another `socket`"),
        "{error}"
    );
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    // Two ports of ours on one path, and a port twice.
    let twice = PortSocket { place: setup.path(PORT).into(), ..setup.port(PortKey(9), Role::Listen) };
    assert!(matches!(setup.server.add(twice), Err(AddError::Bind(_))));
    assert!(matches!(setup.server.add(setup.port(PORT, Role::Listen)), Err(AddError::Duplicate(PORT))));
    vmm(setup.connect(), &setup);
}

#[test]
fn removal_stops_the_rings_and_removes_the_socket() {
    let setup = Setup::listening();
    let client = setup.running(setup.connect());
    setup.server.remove(PORT).unwrap();
    assert!(setup.workers.record().running.is_empty());
    assert!(!setup.path(PORT).exists());
    assert_eq!(setup.server.state(PORT), None);
    assert!(is_closed(&client));
    setup.server.remove(PORT).unwrap();
    setup.server.add(setup.port(PORT, Role::Listen)).unwrap();
    setup.running(setup.connect());
}

#[test]
fn the_end_of_the_server_is_orderly() {
    let setup = Setup::listening();
    setup.server.add(setup.port(PortKey(8), Role::Connect)).unwrap();
    let _client = setup.running(setup.connect());
    let (path, workers) = (setup.path(PORT), Arc::clone(&setup.workers));
    drop(setup.server);
    assert!(workers.record().running.is_empty());
    assert!(!path.exists());
}

/// hostile V16
#[test]
fn a_second_frontend_is_refused_and_the_next_is_served() {
    let setup = Setup::listening();
    let first = setup.running(setup.connect());
    for _ in 0..10 {
        assert!(is_closed(&setup.connect()));
    }
    send(&first, &good(GET_FEATURES, 0)).unwrap();
    assert_eq!(read_number(&first).unwrap(), CONFIG.offered());
    drop(first);
    // It comes before the end of the first is dealt with, or after.
    let next = setup.running(setup.connect());
    send(&next, &good(GET_FEATURES, 0)).unwrap();
    assert_eq!(read_number(&next).unwrap(), CONFIG.offered());
}

/// hostile V16, V18: many come and go, at any point of the dialogue; rings and memory are given back each time, and the
/// one after them is served.
#[test]
fn frontends_may_vanish_at_any_point() {
    let setup = Setup::listening();
    for kept in 0..=dialogue_to_running().len() {
        for half in [false, true] {
            let client = setup.connect();
            let mut dialogue = dialogue_to_running();
            let next = dialogue.drain(kept..).next();
            for message in dialogue {
                // The server may have refused us already: the one before has only just gone.
                let _ = send(&client, &message);
            }
            if let (Some(mut next), true) = (next, half) {
                next.bytes.truncate(15);
                let _ = send(&client, &next);
            }
        }
    }
    wait_until("service", || {
        let client = setup.connect();
        send(&client, &good(GET_FEATURES, 0)).is_ok() && read_number(&client).is_ok()
    });
    setup.wait_for_waiting();
    wait_until("stop of all rings", || setup.workers.record().running.is_empty());
}

/// hostile V16
#[test]
fn a_thousand_connections_do_not_exhaust_the_server() {
    let setup = Setup::listening();
    for _ in 0..1000 {
        drop(setup.connect());
    }
    setup.running(setup.connect());
}

/// hostile V1: frontends that stall in the middle of a message, or say nothing, are alone with it.
#[test]
fn a_stalled_frontend_does_not_hold_up_others() {
    let setup = Setup::listening();
    setup.server.add(setup.port(PortKey(8), Role::Listen)).unwrap();
    setup.server.add(setup.port(PortKey(9), Role::Listen)).unwrap();
    let silent = UnixStream::connect(setup.path(PortKey(8))).unwrap();
    let mut stalled = UnixStream::connect(setup.path(PortKey(9))).unwrap();
    stalled.write_all(&good(SET_FEATURES, 0).bytes[..13]).unwrap();
    vmm(setup.connect(), &setup);
    assert!(is_closed(&stalled), "a half message has its time");
    send(&silent, &good(GET_FEATURES, 0)).unwrap();
    assert_eq!(read_number(&silent).unwrap(), CONFIG.offered(), "silence between messages is allowed");
}

/// A frontend that never reads its replies cannot make us keep more than one.
#[test]
fn replies_that_nobody_reads_are_waited_for() {
    let setup = Setup::listening();
    setup.server.add(setup.port(PortKey(8), Role::Listen)).unwrap();
    let deaf = UnixStream::connect(setup.path(PortKey(8))).unwrap();
    deaf.set_nonblocking(true).unwrap();
    let mut asked = 0_usize;
    while send(&deaf, &good(GET_FEATURES, 0)).is_ok() {
        asked += 1;
        assert!(asked < 1_000_000, "requests are taken although no reply is");
        if asked.is_multiple_of(1000) {
            // Let the server take what it will.
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    vmm(setup.connect(), &setup);
    deaf.set_nonblocking(false).unwrap();
    for _ in 0..asked - 1 {
        assert_eq!(read_number(&deaf).unwrap(), CONFIG.offered());
    }
}

/// A frontend that sends without end is slowed down; all that it sent is answered in the end, and others are served.
#[test]
fn a_flood_of_messages_is_slowed_down() {
    let setup = Setup::listening();
    setup.server.add(setup.port(PortKey(8), Role::Listen)).unwrap();
    let flood = UnixStream::connect(setup.path(PortKey(8))).unwrap();
    let start = std::time::Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..20_000 {
                send(&flood, &good(GET_FEATURES, 0)).unwrap();
            }
        });
        vmm(setup.connect(), &setup);
        for _ in 0..20_000 {
            assert_eq!(read_number(&flood).unwrap(), CONFIG.offered());
        }
    });
    // At least until the second window; a slow machine only makes it longer.
    assert!(start.elapsed() >= Duration::from_secs(1));
}

/// So is one that makes the workers change rings without end.
#[test]
fn a_flood_of_changes_is_slowed_down() {
    let setup = Setup::listening();
    let client = setup.running(setup.connect());
    let start = std::time::Instant::now();
    for state in (0..1200).map(|round| round % 2) {
        send(&client, &message(SET_VRING_ENABLE, NEED_REPLY, &halves(&[0, state]))).unwrap();
        assert_eq!(read_number(&client).unwrap(), 0);
    }
    // 512 in a second, so the third window at the earliest; a slow machine only makes it longer.
    assert!(start.elapsed() >= Duration::from_secs(1));
}

/// hostile V4: the kernel cuts what does not fit, and the connection with it.
#[test]
fn too_many_descriptors_close_the_connection() {
    for count in [9, 253] {
        let setup = Setup::listening();
        let client = setup.connect();
        let mut message = good(SET_MEM_TABLE, 0);
        message.descriptors = (0..count).map(|_| eventfd()).collect();
        send(&client, &message).unwrap();
        assert!(is_closed(&client));
        setup.running(setup.connect());
    }
    // Nor is a message taken whose descriptors are right but for the ones that were cut off.
    let setup = Setup::listening();
    let client = setup.connect();
    for message in dialogue_to_negotiated() {
        send(&client, &message).unwrap();
    }
    let _offered = (read_number(&client).unwrap(), read_number(&client).unwrap());
    let regions: Vec<_> = (0..8).flat_map(|n| [GUEST + n * SIZE, SIZE, USER + n * SIZE, 0]).collect();
    let body = [halves(&[8, 0]), words(&regions)].concat();
    send(&client, &message(SET_MEM_TABLE, NEED_REPLY, &body).with((0..20).map(|_| memfd(SIZE)))).unwrap();
    assert!(is_closed(&client));
    let setup = Setup::listening();
    let client = setup.running(setup.connect());
    send(&client, &message(SET_MEM_TABLE, NEED_REPLY, &body).with((0..8).map(|_| memfd(SIZE)))).unwrap();
    assert_eq!(read_number(&client).unwrap(), 0);
}

#[test]
fn several_messages_in_one_write_are_all_answered() {
    let setup = Setup::listening();
    let client = setup.connect();
    let bytes = [GET_FEATURES, GET_PROTOCOL_FEATURES, GET_FEATURES].map(|request| good(request, 0).bytes).concat();
    (&client).write_all(&bytes).unwrap();
    let replies = [(); 3].map(|()| read_number(&client).unwrap());
    assert_eq!(replies, [CONFIG.offered(), ALL_PROTOCOL, CONFIG.offered()]);
}

#[test]
fn a_move_is_announced_with_the_ports_key() {
    let setup = Setup::listening();
    let client = setup.running(setup.connect());
    setup.workers.take_lines();
    send(&client, &good(SEND_RARP, NEED_REPLY)).unwrap();
    assert_eq!(read_number(&client).unwrap(), 0);
    assert_eq!(setup.workers.take_lines(), ["announce 02:00:00:00:00:0a at 7"]);
}

#[test]
fn a_quarantined_port_says_why_until_the_next_connection() {
    for role in [Role::Listen, Role::Connect] {
        let setup = Setup::new();
        std::fs::create_dir_all(setup.path(PORT).parent().unwrap()).unwrap();
        let listener = (role == Role::Connect).then(|| UnixListener::bind(setup.path(PORT)).unwrap());
        setup.server.add(setup.port(PORT, role)).unwrap();
        let connect = || listener.as_ref().map_or_else(|| setup.connect(), |listener| listener.accept().unwrap().0);
        let client = setup.running(connect());
        let reason = "ring 1: available index jumped".to_owned();
        let start = std::time::Instant::now();
        setup.server.quarantine(PORT, reason.clone());
        assert!(is_closed(&client));
        setup.wait_for_state("Quarantined", |state| *state == SocketState::Quarantined { reason: reason.clone() });
        wait_until("stop of the ring", || setup.workers.record().running.is_empty());
        let again = setup.running(connect());
        // Not at once: it may do the same again. A slow machine only makes it longer.
        assert!(start.elapsed() >= Duration::from_secs(1));
        setup.wait_for_state("Connected", |state| matches!(state, SocketState::Connected(_)));
        drop(again);
        setup.server.quarantine(PortKey(99), "nobody has this number".to_owned());
    }
}

#[test]
fn a_suspended_port_closes_whoever_connects_and_comes_back() {
    let setup = Setup::listening();
    let stream = setup.running(setup.connect());
    setup.server.suspend(PORT, true);
    setup.server.suspend(PORT, true);
    assert!(is_closed(&stream));
    wait_until("rings stopped", || setup.workers.record().running.is_empty());
    for _ in 0..10 {
        assert!(is_closed(&setup.connect()));
    }
    assert_eq!(setup.server.state(PORT), Some(SocketState::Waiting));
    setup.server.suspend(PORT, false);
    setup.running(setup.connect());
}

#[test]
fn a_suspended_port_connects_to_nobody() {
    let setup = Setup::new();
    std::fs::create_dir(setup.path(PORT).parent().unwrap()).unwrap();
    let listener = UnixListener::bind(setup.path(PORT)).unwrap();
    setup.server.add(setup.port(PORT, Role::Connect)).unwrap();
    let (stream, _) = listener.accept().unwrap();
    setup.server.suspend(PORT, true);
    assert!(is_closed(&stream));
    // Neither what appears in the folder nor the time that passes leads to a connection.
    std::fs::write(setup.path(PORT).with_extension("new"), "").unwrap();
    std::thread::sleep(RETRY * 3);
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    listener.set_nonblocking(false).unwrap();
    setup.server.suspend(PORT, false);
    let (stream, _) = listener.accept().unwrap();
    assert_is_served(&stream);
}

#[test]
fn a_suspended_port_can_be_removed_and_its_key_used_again() {
    let setup = Setup::listening();
    setup.server.suspend(PORT, true);
    assert!(is_closed(&setup.connect()));
    setup.server.remove(PORT).unwrap();
    setup.server.suspend(PORT, false);
    assert_eq!(setup.server.state(PORT), None);
    setup.server.add(setup.port(PORT, Role::Listen)).unwrap();
    setup.running(setup.connect());
}

#[test]
fn a_barred_guest_is_kept_away_until_the_bar_is_lifted_or_another_one_comes() {
    let setup = Setup::listening();
    let stream = setup.running(setup.connect());
    let bar = Bar { reason: "for a reason".to_owned(), pid: std::process::id() };
    setup.server.bar(PORT, Some(bar.clone()));
    assert!(is_closed(&stream));
    wait_until("rings stopped", || setup.workers.record().running.is_empty());
    for _ in 0..2 {
        assert!(is_closed(&setup.connect()));
        assert_eq!(setup.server.state(PORT), Some(SocketState::Quarantined { reason: bar.reason.clone() }));
    }
    setup.server.bar(PORT, None);
    assert_eq!(setup.server.state(PORT), Some(SocketState::Waiting));
    drop(setup.running(setup.connect()));
    setup.wait_for_state("Waiting", |state| matches!(state, SocketState::Waiting));
    // A bar for another process does not hold for this one, which lifts it.
    setup.server.bar(PORT, Some(Bar { pid: 1, ..bar.clone() }));
    drop(setup.running(setup.connect()));
    setup.wait_for_state("Waiting", |state| matches!(state, SocketState::Waiting));
    // One whose process is not known holds for all.
    setup.server.bar(PORT, Some(Bar { pid: 0, ..bar }));
    assert!(is_closed(&setup.connect()));
}

#[test]
fn workers_that_do_not_acknowledge_fail_the_request_and_are_asked_again() {
    let setup = Setup::listening();
    let client = setup.running(setup.connect());
    let memory = Arc::downgrade(&setup.workers.record().setups[&0].memory);
    // The request, and then twice the end of the session.
    setup.workers.record().stuck = 3;
    send(&client, &good(SET_MEM_TABLE, NEED_REPLY)).unwrap();
    assert_eq!(read_number(&client).unwrap(), 1);
    assert!(is_closed(&client));
    setup.wait_for_state("Failed", |state| matches!(state, SocketState::Failed { .. }));
    // The next frontend is served when the rings of the last one are stopped, not before.
    let next = setup.connect();
    let next = setup.running(next);
    assert!(memory.upgrade().is_none());
    assert_eq!(setup.workers.record().stuck, 0);
    setup.workers.record().stuck = 2;
    drop(next);
    wait_until("stop", || setup.workers.record().running.is_empty());
    setup.workers.record().stuck = 1;
    let _last = setup.connect();
    wait_until("start", || {
        let connected = |state| matches!(state, Some(SocketState::Connected(_)));
        connected(setup.server.state(PORT))
    });
    setup.server.remove(PORT).unwrap();
}

/// Workers over which the helper fails.
struct FailingWorkers;

impl Backend for FailingWorkers {
    fn change_rings(&self, _: PortKey, _: Vec<RingChange>) -> Result<Vec<StoppedRing>, Unresponsive> {
        Ok(Vec::new())
    }

    fn announce(&self, _: PortKey, _: MacAddress) {}

    fn state(&self, _: PortKey, state: SocketState) {
        assert!(!matches!(state, SocketState::Connected(_)), "on purpose");
    }
}

#[test]
fn a_server_of_which_a_thread_has_failed_says_so() {
    let setup = Setup::new();
    let server = Server::start(Arc::new(FailingWorkers), None).unwrap();
    server.add(setup.port(PORT, Role::Listen)).unwrap();
    assert!(!server.has_failed());
    let _stream = setup.connect();
    wait_until("the failure", || server.has_failed());
}

/// Workers that wait for leave.
struct GatedWorkers {
    inner: FakeWorkers,
    entered: Sender<()>,
    leave: Mutex<Receiver<()>>,
}

impl Backend for GatedWorkers {
    fn change_rings(&self, _: PortKey, changes: Vec<RingChange>) -> Result<Vec<StoppedRing>, Unresponsive> {
        self.entered.send(()).unwrap();
        self.leave.lock().unwrap().recv().unwrap();
        self.inner.change(changes)
    }

    fn announce(&self, _: PortKey, _: MacAddress) {}

    fn state(&self, _: PortKey, _: SocketState) {}
}

/// A server with ports 1 and 2 and gated workers.
struct Gated {
    folder: tempfile::TempDir,
    workers: Arc<GatedWorkers>,
    server: Server,
    has_entered: Receiver<()>,
    leave: Sender<()>,
}

impl Gated {
    fn new() -> Self {
        let (entered, has_entered) = channel();
        let (leave, may_leave) = channel();
        let workers = GatedWorkers { inner: FakeWorkers::default(), entered, leave: Mutex::new(may_leave) };
        let workers = Arc::new(workers);
        let server = Server::start(Arc::clone(&workers) as Arc<dyn Backend>, None).unwrap();
        let folder = tempfile::tempdir().unwrap();
        for key in [1, 2] {
            let (port, name, path) = (PortKey(key), format!("vm-{key}"), folder.path().join(key.to_string()));
            server
                .add(PortSocket { port, name, place: path.into(), role: Role::Listen, device: CONFIG, records: None })
                .unwrap();
        }
        Self { folder, workers, server, has_entered, leave }
    }

    fn connect(&self, key: u32) -> UnixStream {
        UnixStream::connect(self.folder.path().join(key.to_string())).unwrap()
    }

    /// A frontend of port 1 whose ring the workers are asked to start, and do not answer yet.
    fn starting(&self) -> UnixStream {
        let client = self.connect(1);
        for message in dialogue_to_configured() {
            send(&client, &message).unwrap();
        }
        send(&client, &good(SET_VRING_KICK, 0)).unwrap();
        self.has_entered.recv().unwrap();
        client
    }

    fn leave(&self, times: usize) {
        for _ in 0..times {
            self.leave.send(()).unwrap();
        }
    }
}

fn assert_is_served(client: &UnixStream) {
    send(client, &good(GET_FEATURES, 0)).unwrap();
    assert_eq!(read_number(client).unwrap(), CONFIG.offered());
}

/// The loop does not wait for workers: other sockets are served, and a frontend that is killed meanwhile, or a port that
/// is removed or quarantined meanwhile, is dealt with when the workers have answered. hostile V18
#[test]
fn nobody_waits_for_workers_but_the_one_who_asked() {
    for ending in ["killed", "removed", "quarantined"] {
        let gated = Gated::new();
        let one = gated.starting();
        // The helper is inside of change_rings for port 1 now.
        let two = gated.connect(2);
        assert_is_served(&two);
        std::thread::scope(|scope| {
            match ending {
                "killed" => drop(one),
                "quarantined" => gated.server.quarantine(PortKey(1), "test".to_owned()),
                _ => {
                    scope.spawn(|| gated.server.remove(PortKey(1)).unwrap());
                }
            }
            assert_is_served(&two);
            // The start, and the stop.
            gated.leave(2);
        });
        wait_until("start and stop", || gated.workers.inner.record().lines.iter().any(|line| line == "stop 0"));
        assert!(gated.workers.inner.record().running.is_empty());
    }
}

/// hostile V18: the next frontend comes before we can know that the last one is gone. It is not taken for a second one.
#[test]
fn a_frontend_that_is_quickly_replaced_is_served() {
    let gated = Gated::new();
    drop(gated.starting());
    let next = gated.connect(1);
    // Its event is older than this, so it has been looked at.
    assert_is_served(&gated.connect(2));
    gated.leave(2);
    assert_is_served(&next);
}

/// Memory that workers may still use is kept although its session came to its end while they did not answer.
#[test]
fn memory_outlives_a_session_that_ends_while_workers_are_stuck() {
    let gated = Gated::new();
    let client = gated.starting();
    gated.leave(1);
    send(&client, &good(SET_MEM_TABLE, 0)).unwrap();
    gated.has_entered.recv().unwrap();
    let memory = Arc::downgrade(&gated.workers.inner.record().setups[&0].memory);
    gated.server.quarantine(PortKey(1), "test".to_owned());
    assert_is_served(&gated.connect(2)); // the order was received
    let mut record = gated.workers.inner.record();
    record.stuck = 1;
    record.setups.clear();
    drop(record);
    gated.leave(1);
    // The end of the session is at the workers now.
    gated.has_entered.recv().unwrap();
    assert_is_served(&gated.connect(2));
    assert!(memory.upgrade().is_some());
    gated.leave(1);
    wait_until("the end of the memory", || memory.upgrade().is_none());
}

/// hostile C6: a folder that the frontend's side owns may change at any moment. Whatever happens there, we connect to
/// sockets only, and are there again when the right one is.
#[test]
fn a_folder_in_motion_is_survived() {
    let setup = Setup::new();
    setup.server.add(setup.port(PORT, Role::Connect)).unwrap();
    let path = setup.path(PORT);
    let folder = path.parent().unwrap();
    for round in 0..30 {
        let _ = std::fs::remove_dir_all(folder);
        let _ = std::fs::remove_file(folder);
        match round % 5 {
            0 => std::fs::write(folder, "a file").unwrap(),
            1 => std::os::unix::fs::symlink("/nowhere", folder).unwrap(),
            2 => {
                std::fs::create_dir(folder).unwrap();
                std::os::unix::fs::symlink("/dev/null", &path).unwrap();
            }
            3 => {
                std::fs::create_dir(folder).unwrap();
                drop(UnixListener::bind(&path).unwrap());
            }
            _ => {
                std::fs::create_dir(folder).unwrap();
                rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    std::fs::remove_dir_all(folder).unwrap();
    std::fs::create_dir(folder).unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    vmm(listener.accept().unwrap().0, &setup);
}

/// A frontend that accepts and closes at once is not connected to without end.
#[test]
fn a_frontend_that_closes_at_once_is_tried_at_intervals() {
    let setup = Setup::new();
    let path: &Path = &setup.path(PORT);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let listener = UnixListener::bind(path).unwrap();
    setup.server.add(setup.port(PORT, Role::Connect)).unwrap();
    let start = std::time::Instant::now();
    for _ in 0..4 {
        drop(listener.accept().unwrap());
    }
    // At least the interval between the first and the last; a slow machine only makes it longer.
    assert!(start.elapsed() >= 2 * RETRY, "{:?}", start.elapsed());
    vmm(listener.accept().unwrap().0, &setup);
}

#[test]
fn descriptors_reach_the_workers() {
    let setup = Setup::listening();
    let client = setup.connect();
    for message in dialogue_to_configured() {
        send(&client, &message).unwrap();
    }
    let kick: OwnedFd = eventfd();
    let call: OwnedFd = eventfd();
    let ours = |descriptor: &OwnedFd| descriptor.try_clone().unwrap();
    send(&client, &message(SET_VRING_CALL, 0, &words(&[0])).with([ours(&call)])).unwrap();
    send(&client, &message(SET_VRING_KICK, 0, &words(&[0])).with([ours(&kick)])).unwrap();
    wait_until("start", || setup.workers.record().running.contains(&0));
    let record = setup.workers.record();
    let mut counter = [0; 8];
    rustix::io::write(&kick, &3_u64.to_ne_bytes()).unwrap();
    rustix::io::read(record.setups[&0].kick.as_ref().unwrap(), &mut counter).unwrap();
    assert_eq!(u64::from_ne_bytes(counter), 3);
    record.setups[&0].call.signal().unwrap();
    drop(record);
    // One each for those that may have been owed before the call was known and before the ring ran, and this one.
    let mut count = 0;
    wait_until("the interrupts", || {
        if rustix::io::read(&call, &mut counter).is_ok() {
            count += u64::from_ne_bytes(counter);
        }
        count == 3
    });
    let record = setup.workers.record();
    // Another call, while the ring runs: no change for the workers.
    let lines = record.lines.len();
    drop(record);
    let other = eventfd();
    send(&client, &message(SET_VRING_CALL, NEED_REPLY, &words(&[0])).with([ours(&other)])).unwrap();
    let _replies = [(); 3].map(|()| read_number(&client).unwrap());
    let record = setup.workers.record();
    assert_eq!(record.lines.len(), lines);
    record.setups[&0].call.signal().unwrap();
    rustix::io::read(&other, &mut counter).unwrap();
}

/// A TCP socket whose last close waits for a reader: as long as the other socket that is returned is there.
fn lingering() -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let reader = listener.accept().unwrap().0;
    rustix::net::sockopt::set_socket_linger(&sender, Some(Duration::from_secs(600))).unwrap();
    sender.set_nonblocking(true).unwrap();
    while (&mut &sender).write(&[0; 65_536]).is_ok() {}
    (sender.into(), reader)
}

/// hostile V4, V6: closing what a frontend handed over waited in the thread that serves all sockets. Any process of a pod
/// could stop it for ever, wherever in the dialogue it handed such a descriptor over.
#[test]
fn a_descriptor_that_cannot_be_closed_keeps_only_its_own_port_waiting() {
    let setup = Setup::listening();
    let other = PortKey(8);
    setup.server.add(setup.port(other, Role::Listen)).unwrap();
    let neighbour = UnixStream::connect(setup.path(other)).unwrap();
    neighbour.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let nested = |bomb: OwnedFd| {
        let (kept, carrier) = UnixStream::pair().unwrap();
        send(&kept, &Message { bytes: vec![0], descriptors: vec![bomb] }).unwrap();
        OwnedFd::from(carrier)
    };
    let handed = |request, bombs: Vec<OwnedFd>| {
        let mut message = good(request, 0);
        message.descriptors.clear();
        message.with(bombs)
    };
    type Way<'a> = Box<dyn Fn(&UnixStream, OwnedFd) + Sync + 'a>;
    let send_all = |stream: &UnixStream, messages: Vec<Message>| {
        // The server may close before all is sent.
        messages.iter().for_each(|message| drop(send(stream, message)));
    };
    let ways: Vec<(&str, Way)> = vec![
        ("a call", Box::new(|stream, bomb| send_all(stream, vec![handed(SET_VRING_CALL, vec![bomb])]))),
        ("a kick", Box::new(|stream, bomb| send_all(stream, vec![handed(SET_VRING_KICK, vec![bomb])]))),
        ("memory", Box::new(|stream, bomb| send_all(stream, vec![handed(SET_MEM_TABLE, vec![bomb])]))),
        ("a request that has none", Box::new(|stream, bomb| send_all(stream, vec![handed(GET_FEATURES, vec![bomb])]))),
        ("an unknown request", Box::new(|stream, bomb| send_all(stream, vec![handed(99, vec![bomb])]))),
        (
            "a message that ends early",
            Box::new(|stream, bomb| {
                send_all(stream, vec![Message { bytes: vec![1], descriptors: vec![bomb] }]);
            }),
        ),
        (
            "more than any message has",
            Box::new(|stream, bomb| {
                let many = (0..252).map(|_| eventfd()).chain([bomb]).collect();
                send_all(stream, vec![handed(SET_VRING_CALL, many)]);
            }),
        ),
        (
            "in the middle of a message",
            Box::new(|stream, bomb| {
                send_all(
                    stream,
                    vec![
                        Message { bytes: vec![1], descriptors: vec![] },
                        Message { bytes: vec![0], descriptors: vec![bomb] },
                    ],
                );
            }),
        ),
        (
            "behind a message that closes the connection",
            Box::new(|stream, bomb| {
                send_all(stream, vec![message(99, REPLY, &[]), handed(SET_VRING_CALL, vec![bomb])]);
            }),
        ),
        (
            "in the queue of a call",
            Box::new(|stream, bomb| {
                send_all(stream, vec![handed(SET_VRING_CALL, vec![nested(bomb)]), good(SET_VRING_CALL, 0)]);
            }),
        ),
        (
            "in the queue of the channel",
            Box::new(|stream, bomb| {
                let dialogue = dialogue_to_negotiated().into_iter();
                send_all(stream, dialogue.chain([handed(SET_BACKEND_REQ_FD, vec![nested(bomb)])]).collect());
            }),
        ),
        (
            "from a second frontend",
            Box::new(|_, bomb| {
                send_all(&setup.connect(), vec![handed(SET_VRING_CALL, vec![bomb])]);
            }),
        ),
    ];
    for (way, hand_over) in ways {
        let client = setup.connect();
        let (bomb, reader) = lingering();
        std::thread::scope(|scope| {
            // Where the server closes before it is sent, this thread is the one that waits.
            scope.spawn(|| {
                hand_over(&client, bomb);
                drop(client);
            });
            for _ in 0..5 {
                send(&neighbour, &good(GET_FEATURES, 0)).unwrap();
                let answer = read_number(&neighbour);
                assert!(answer.is_ok(), "{way}: the neighbour gets no answer: {answer:?}");
                // The port itself goes on waiting for it meanwhile, or has not met it yet.
                std::thread::sleep(Duration::from_millis(5));
            }
            // It can be closed from now on.
            drop(reader);
        });
        let next = setup.connect();
        send(&next, &good(GET_FEATURES, 0)).unwrap();
        assert_eq!(read_number(&next).unwrap(), CONFIG.offered(), "{way}: the port comes back");
        drop(next);
        setup.wait_for_waiting();
    }

    // People are told of a port that waits, and it can be removed. The one to close last is sometimes we.
    let is_told = || {
        let state = setup.server.state(PORT);
        matches!(state, Some(SocketState::Failed { reason }) if reason.contains("cannot be closed"))
    };
    let is_removed = (0..50).any(|_| {
        let client = setup.connect();
        let (bomb, reader) = lingering();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _ = send(&client, &handed(SET_VRING_KICK, vec![bomb]));
                drop(client);
            });
            let told = (0..40).any(|_| {
                std::thread::sleep(Duration::from_millis(50));
                is_told()
            });
            if told {
                setup.server.remove(PORT).unwrap();
                assert_eq!(setup.server.state(PORT), None);
            }
            drop(reader);
            told
        })
    });
    assert!(is_removed);
}
