//! Connections that outlive a server: what a keeper has is taken up by the next one, and a frontend notices nothing; what is void, or
//! does not fit, is closed.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use culvert_guest::device::DeviceConfig;
use culvert_vhost::{Backend, Bar, Keeper, PortKey, PortSocket, Role, Server, SocketState};
use support::request::*;
use support::*;

const PORT: PortKey = PortKey(7);

/// As a supervisor: has copies.
#[derive(Debug, Default)]
struct FakeKeeper {
    kept: Mutex<BTreeMap<String, Vec<OwnedFd>>>,
    /// How often it was asked to keep something.
    asked: AtomicU64,
    /// How often it refuses from now on.
    refusals: AtomicU64,
    /// It does not answer while this is held.
    busy: Mutex<()>,
}

impl FakeKeeper {
    fn has_one(&self) -> bool {
        self.kept.lock().unwrap().contains_key("vm")
    }

    /// Has something that is not void.
    fn has_state(&self) -> bool {
        self.copies().into_iter().next().is_some_and(|file| File::from(file).metadata().unwrap().len() > 0)
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// What the next process gets.
    fn copies(&self) -> Vec<OwnedFd> {
        let kept = self.kept.lock().unwrap();
        kept.get("vm").into_iter().flatten().map(|descriptor| descriptor.try_clone().unwrap()).collect()
    }
}

impl Keeper for FakeKeeper {
    fn keep(&self, port: &str, descriptors: &[OwnedFd]) -> io::Result<()> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        drop(self.busy.lock().unwrap());
        if self.refusals.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
            return Err(io::Error::other("there is no room"));
        }
        let copies = descriptors.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>()?;
        self.kept.lock().unwrap().insert(port.to_owned(), copies);
        Ok(())
    }

    fn forget(&self, port: &str) {
        self.kept.lock().unwrap().remove(port);
    }
}

/// A process with the server of one port.
struct Process {
    workers: Arc<FakeWorkers>,
    keeper: Arc<FakeKeeper>,
    server: Server,
}

impl Process {
    fn start() -> Self {
        let (workers, keeper) = (Arc::new(FakeWorkers::default()), Arc::new(FakeKeeper::default()));
        let server = Server::start(Arc::clone(&workers) as Arc<dyn Backend>, Some(Arc::clone(&keeper) as _)).unwrap();
        Self { workers, keeper, server }
    }

    /// Takes up what was kept.
    fn take_up(port: PortSocket, kept: Kept) -> Self {
        let next = Self::start();
        *next.keeper.kept.lock().unwrap() = kept.clone_all();
        next.server.add_kept(port, kept.descriptors).unwrap();
        next.server.wait_taken_up(Duration::from_secs(60));
        next
    }

    /// What this process would leave if it died now. It does not, and would go on to answer: so the connection in it is another one,
    /// whose end at the frontend is the second result.
    fn kept(&self) -> (Kept, UnixStream) {
        wait_until("the keeper's copies", || self.keeper.has_one());
        let mut descriptors = self.keeper.copies();
        let (frontend, ours) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        descriptors[1] = ours.into();
        (Kept { descriptors }, frontend)
    }

    fn is_waiting(&self) -> bool {
        self.server.state(PORT) == Some(SocketState::Waiting)
    }
}

struct Kept {
    descriptors: Vec<OwnedFd>,
}

impl Kept {
    fn clone_all(&self) -> BTreeMap<String, Vec<OwnedFd>> {
        BTreeMap::from([("vm".to_owned(), self.descriptors.iter().map(|one| one.try_clone().unwrap()).collect())])
    }

    fn file(&self) -> File {
        File::from(self.descriptors[0].try_clone().unwrap())
    }
}

struct Setup {
    folder: tempfile::TempDir,
}

impl Setup {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// In the connect role with nobody who listens: there is no other connection than the kept one.
    fn port(&self) -> PortSocket {
        let place = self.folder.path().join("vhost.sock").into();
        PortSocket { port: PORT, name: "vm".to_owned(), place, role: Role::Connect, device: CONFIG, records: None }
    }

    /// A process whose port has a frontend with ring 0 running and ring 3 configured.
    fn running(&self) -> (Process, UnixStream) {
        let process = Process::start();
        let listener = UnixListener::bind(self.folder.path().join("vhost.sock")).unwrap();
        process.server.add(self.port()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        std::fs::remove_file(self.folder.path().join("vhost.sock")).unwrap();
        for message in dialogue_to_running() {
            send(&stream, &message).unwrap();
        }
        send(&stream, &message(SET_VRING_NUM, 0, &halves(&[3, 64]))).unwrap();
        let _replies = [(); 2].map(|()| read_number(&stream).unwrap());
        (process, stream)
    }
}

#[test]
fn the_next_process_goes_on() {
    let setup = Setup::new();
    let (first, _stream) = setup.running();
    let (kept, frontend) = first.kept();
    let next = Process::take_up(setup.port(), kept);
    // Each ring starts once, as it is to be.
    assert_eq!(next.workers.take_lines(), ["start 0 enabled=true"]);
    let session = |process: &Process| match process.server.state(PORT) {
        Some(SocketState::Connected(connection)) => connection.session,
        other => panic!("{other:?}"),
    };
    assert_eq!(session(&next), session(&first));
    let [before, after] = [&first, &next].map(|process| process.workers.record().setups[&0].clone());
    assert_eq!((after.layout, after.features), (before.layout, before.features));
    assert!(after.memory.regions().eq(before.memory.regions()));
    let inode = |kick: &Option<Arc<OwnedFd>>| {
        let status = rustix::fs::fstat(kick.as_ref().unwrap()).unwrap();
        (status.st_dev, status.st_ino)
    };
    assert_eq!(inode(&after.kick), inode(&before.kick));
    // It is kept still, for the next but one.
    assert!(next.keeper.has_one());
    let (again, _frontend) = next.kept();
    assert!(again.file().metadata().unwrap().len() > 0);

    // The dialogue goes on where it was.
    send(&frontend, &good(GET_FEATURES, 0)).unwrap();
    assert_eq!(read_number(&frontend).unwrap(), CONFIG.offered());
    assert_eq!(again.file().metadata().unwrap().len(), 0, "what was kept is void");
    send(&frontend, &good(GET_VRING_BASE, 0)).unwrap();
    assert_eq!(read_number(&frontend).unwrap(), u64::from(POSITION) << 32);
    // No ring runs any more: there is nothing to keep.
    wait_until("the end of keeping", || !next.keeper.has_one());
    send(&frontend, &good(SET_VRING_KICK, 0)).unwrap();
    wait_until("kept anew", || next.keeper.has_one());
    drop(frontend);
    wait_until("the end", || next.is_waiting() && !next.keeper.has_one());
}

/// Whatever the frontend says, by the time that it is acted on nothing is kept.
#[test]
fn what_was_kept_is_void_before_a_message_is_read() {
    let setup = Setup::new();
    let (first, stream) = setup.running();
    let (kept, frontend) = first.kept();
    assert!(kept.file().metadata().unwrap().len() > 0);
    // One byte of a message is enough.
    io::Write::write_all(&mut &stream, &[1]).unwrap();
    wait_until("void", || kept.file().metadata().unwrap().len() == 0);
    wait_until("forgotten", || !first.keeper.has_one());
    let next = Process::take_up(setup.port(), kept);
    assert!(is_closed(&frontend));
    wait_until("forgotten", || next.is_waiting() && !next.keeper.has_one());
    assert!(next.workers.take_lines().is_empty());
}

#[test]
fn a_port_that_changed_has_its_guest_connect_again() {
    let setup = Setup::new();
    let (first, _stream) = setup.running();
    let elsewhere = setup.folder.path().join("other.sock").into();
    for port in [
        PortSocket { device: DeviceConfig { mtu: 1400, ..CONFIG }, ..setup.port() },
        PortSocket { device: DeviceConfig { offloads: false, ..CONFIG }, ..setup.port() },
        PortSocket { place: elsewhere, ..setup.port() },
        PortSocket { role: Role::Listen, ..setup.port() },
    ] {
        let (kept, frontend) = first.kept();
        let next = Process::take_up(port, kept);
        assert!(is_closed(&frontend));
        wait_until("forgotten", || next.is_waiting() && !next.keeper.has_one());
        assert!(next.workers.take_lines().is_empty());
    }
}

/// The next process believes nothing: what is damaged ends the connection, and the port goes on.
#[test]
fn damage_ends_the_connection_only() {
    let setup = Setup::new();
    let (first, _stream) = setup.running();
    let (kept, _frontend) = first.kept();
    let length = kept.file().metadata().unwrap().len();
    for at in (0..length).step_by(7) {
        let (kept, frontend) = first.kept();
        // A file of its own, for the first process's is shared.
        let copy = File::from(rustix::fs::memfd_create("copy", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        let mut bytes = vec![0; usize::try_from(length).unwrap()];
        kept.file().read_exact_at(&mut bytes, 0).unwrap();
        if at % 2 == 0 {
            bytes[usize::try_from(at).unwrap()] ^= 0x41;
        } else {
            bytes.truncate(usize::try_from(at).unwrap());
        }
        copy.write_all_at(&bytes, 0).unwrap();
        let mut descriptors = kept.descriptors;
        descriptors[0] = copy.into();
        let next = Process::take_up(setup.port(), Kept { descriptors });
        // Some damage does no harm, a region that lies elsewhere for example; but the port is served, or waits.
        if next.is_waiting() {
            assert!(is_closed(&frontend));
        }
        drop(next);
    }
    // Fewer descriptors, more, other ones.
    for change in [
        (|descriptors| drop(descriptors.pop())) as fn(&mut Vec<OwnedFd>),
        |descriptors| descriptors.push(eventfd()),
        |descriptors| descriptors.reverse(),
        |descriptors| descriptors[2..].reverse(),
        |descriptors| descriptors.truncate(1),
    ] {
        let (mut kept, frontend) = first.kept();
        change(&mut kept.descriptors);
        let next = Process::take_up(setup.port(), kept);
        *next.keeper.kept.lock().unwrap() = BTreeMap::new();
        wait_until("the end", || next.is_waiting());
        assert!(is_closed(&frontend));
    }
}

/// A guest that was barred, quarantined or suspended is not kept.
#[test]
fn who_is_sent_away_is_not_kept() {
    for send_away in [
        (|server| server.quarantine(PORT, "it broke a ring".to_owned())) as fn(&Server),
        |server| server.bar(PORT, Some(Bar { reason: "it hung a worker".to_owned(), pid: 0 })),
        |server| server.suspend(PORT, true),
        |server| server.remove(PORT).unwrap(),
    ] {
        let setup = Setup::new();
        let (first, stream) = setup.running();
        let (kept, _frontend) = first.kept();
        send_away(&first.server);
        wait_until("forgotten", || !first.keeper.has_one());
        assert_eq!(kept.file().metadata().unwrap().len(), 0);
        assert!(is_closed(&stream));
    }
}

/// Without a running ring there is nothing that a guest would miss.
#[test]
fn who_has_no_running_ring_is_not_kept() {
    let setup = Setup::new();
    let (first, stream) = setup.running();
    let (_, _frontend) = first.kept();
    send(&stream, &good(RESET_DEVICE, NEED_REPLY)).unwrap();
    assert_eq!(read_number(&stream).unwrap(), 0);
    wait_until("forgotten", || !first.keeper.has_one());
    std::thread::sleep(culvert_vhost::keep::QUIET * 3);
    assert!(!first.keeper.has_one());
}

/// A frontend that says something as soon as it is kept.
fn chat(stream: &UnixStream, times: u32) {
    for _ in 0..times {
        send(stream, &good(GET_FEATURES, 0)).unwrap();
        assert_eq!(read_number(stream).unwrap(), CONFIG.offered());
        std::thread::sleep(culvert_vhost::keep::QUIET * 2);
    }
}

/// What is to be kept has descriptors, up to 253: they must not pile up while the keeper takes its time.
#[test]
fn a_port_asks_the_keeper_for_one_thing_at_a_time() {
    let setup = Setup::new();
    let (process, stream) = setup.running();
    wait_until("the keeper's copies", || process.keeper.has_state());
    let before = process.keeper.asked();
    let busy = process.keeper.busy.lock().unwrap();
    chat(&stream, 10);
    drop(busy);
    wait_until("kept", || process.keeper.has_state());
    let asked = process.keeper.asked() - before;
    assert!(asked <= 2, "{asked} times");
}

/// Each time costs the supervisor, which has the other guests to keep as well.
#[test]
fn who_talks_all_the_time_is_kept_now_and_then() {
    let setup = Setup::new();
    let (process, stream) = setup.running();
    let start = Instant::now();
    chat(&stream, 20);
    let most = u64::from(culvert_vhost::keep::KEPT_PER_SECOND) * (start.elapsed().as_secs() + 2);
    let asked = process.keeper.asked();
    assert!(asked <= most, "{asked} times, {most} at most");
    wait_until("kept", || process.keeper.has_state());
}

/// A supervisor that was busy or full for a moment has not given a guest up that has nothing more to say.
#[test]
fn who_was_not_kept_is_kept_later() {
    let setup = Setup::new();
    let (process, stream) = setup.running();
    wait_until("the keeper's copies", || process.keeper.has_state());
    process.keeper.refusals.store(1, Ordering::Relaxed);
    chat(&stream, 1);
    wait_until("a refusal", || process.keeper.refusals.load(Ordering::Relaxed) == 0);
    wait_until("kept", || process.keeper.has_state());
}

/// The kernel says that there is something to read, and there is nothing.
#[test]
fn who_says_nothing_is_kept_on() {
    let setup = Setup::new();
    let (process, stream) = setup.running();
    wait_until("the keeper's copies", || process.keeper.has_state());
    // Kernels without urgent bytes for these sockets refuse it, which is as well.
    let _ = rustix::net::send(&stream, b"!", rustix::net::SendFlags::OOB);
    wait_until("kept or void", || process.keeper.has_state());
    std::thread::sleep(culvert_vhost::keep::QUIET * 2);
    wait_until("kept", || process.keeper.has_state());
    chat(&stream, 1);
}

/// The kernel has it for the next process: whole, in halves, and with descriptors.
#[test]
fn what_is_said_while_there_is_no_process_is_answered() {
    let setup = Setup::new();
    let (first, _stream) = setup.running();
    let (kept, frontend) = first.kept();
    let question = good(GET_FEATURES, 0);
    let (half, rest) = question.bytes.split_at(5);
    send(&frontend, &good(SET_VRING_CALL, NEED_REPLY)).unwrap();
    io::Write::write_all(&mut &frontend, half).unwrap();
    let next = Process::take_up(setup.port(), kept);
    assert_eq!(read_number(&frontend).unwrap(), 0);
    io::Write::write_all(&mut &frontend, rest).unwrap();
    assert_eq!(read_number(&frontend).unwrap(), CONFIG.offered());
    assert_eq!(next.workers.take_lines(), ["start 0 enabled=true"]);
    wait_until("kept anew", || next.keeper.has_state());
}

#[test]
fn a_frontend_that_has_gone_meanwhile_makes_room_for_another() {
    let setup = Setup::new();
    let (first, _stream) = setup.running();
    let (kept, frontend) = first.kept();
    // Its last words do not matter any more.
    send(&frontend, &good(SET_VRING_CALL, 0)).unwrap();
    drop(frontend);
    let listener = UnixListener::bind(setup.folder.path().join("vhost.sock")).unwrap();
    let next = Process::take_up(setup.port(), kept);
    let (stream, _) = listener.accept().unwrap();
    for message in dialogue_to_running() {
        send(&stream, &message).unwrap();
    }
    wait_until("the other's", || next.keeper.has_state());
}

#[test]
fn memory_that_was_truncated_meanwhile_ends_the_connection() {
    let setup = Setup::new();
    let (first, _stream) = setup.running();
    let (kept, frontend) = first.kept();
    // After the state and the connection comes the table's file.
    let memory = File::from(kept.descriptors[2].try_clone().unwrap());
    memory.set_len(SIZE / 2).unwrap();
    let next = Process::take_up(setup.port(), kept);
    assert!(is_closed(&frontend));
    wait_until("forgotten", || next.is_waiting() && !next.keeper.has_one());
    assert!(next.workers.take_lines().is_empty());
}

/// Whoever has taken a daemon over could leave a file for the next one whose file system, a process of his, never answers.
#[test]
fn what_others_serve_is_not_read() {
    let setup = Setup::new();
    let (first, _stream) = setup.running();
    let (mut kept, frontend) = first.kept();
    let mut bytes = vec![0; usize::try_from(kept.file().metadata().unwrap().len()).unwrap()];
    kept.file().read_exact_at(&mut bytes, 0).unwrap();
    let path = setup.folder.path().join("state");
    std::fs::write(&path, bytes).unwrap();
    kept.descriptors[0] = File::options().read(true).write(true).open(path).unwrap().into();
    let next = Process::take_up(setup.port(), kept);
    wait_until("forgotten", || next.is_waiting() && !next.keeper.has_one());
    assert!(is_closed(&frontend));
    // Nor is anything but a local socket listened to.
    let (mut kept, _frontend) = first.kept();
    kept.descriptors[1] = eventfd();
    let next = Process::take_up(setup.port(), kept);
    wait_until("forgotten", || next.is_waiting() && !next.keeper.has_one());
    assert!(next.workers.take_lines().is_empty());
}
