//! The event loop: waits for the guest, for sockets, for the control socket and for time, and has the translator act.
//!
//! One thread does everything. It sleeps in epoll, after a short look for more where that is worth its time
//! ([`patience`](crate::patience)); each round serves what the events told of, takes a bounded number of frames from the
//! guest, and ends with what is due. What the control socket may ask is answered by [`running`](crate::running).

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use culvert_guest::RingFault;
use culvert_guest::device::DeviceConfig;
use culvert_translate::forward::ForwardTable;
use culvert_translate::guest::Guest;
use culvert_translate::lane::letter::{Letter, ToGuest};
use culvert_translate::lane::{Lane, Lanes, RingsElsewhere};
use culvert_translate::limits::{LimitSettings, Limits, MAX_FLOWS};
use culvert_translate::link::GuestLink;
use culvert_translate::settings::{DEFAULT_MTU, Settings};
use culvert_translate::socket::KernelSockets;
use culvert_translate::sockets::SocketId;
use culvert_translate::time::Instant;
use culvert_translate::translator::Translator;
use culvert_translate::transport::{Link, News, PacketSocket, QemuStream, Transport, VhostUser};
use culvert_vhost::{PortKey, PortSocket, Role};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token, Waker};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::Resource;

use crate::control::ControlSocket;
use crate::help::HelpSocket;
use crate::lane_loop::{LETTERS, LaneLoop, Parts};
use crate::migration::Migration;
use crate::patience::Patience;
use crate::pcap::Pcap;
use crate::recorded::Recorded;
use crate::repair::RepairSocket;
use crate::round;
use crate::running::{Running, Steers};
use crate::setup::{self, Setup};
use crate::statistics::Statistics;
use crate::wait::wait;

/// Everything that is waited for.
#[derive(Debug)]
pub struct EventLoop {
    poll: Poll,
    running: Running,
    control: Option<ControlSocket>,
    help: Option<HelpSocket>,
    repair: Option<Arc<RepairSocket>>,
    migration: Migration,
    pcap: Option<Arc<Mutex<Pcap>>>,
    /// The threads beside this one, until they are started.
    loops: Vec<LaneLoop>,
    /// Frames of theirs that are to be put here.
    relayed: VecDeque<ToGuest>,
    statistics: Option<Statistics>,
    one_off: bool,
    patience: Patience,
    /// As they were counted in the round before.
    memory_faults: u64,
    /// Readable when the process is to end.
    _quit: UnixStream,
}

/// Tokens of sockets are below 2^35.
/// Those from here up to [`LETTERS`] are ours.
const QUIT: Token = Token(1 << 40);
const CONTROL: Token = Token(2 << 40);
const TRANSPORT: Token = Token(3 << 40);
const HELP: Token = Token(4 << 40);
const STATE: Token = Token(5 << 40);

/// Events that are taken at once.
const EVENTS: usize = 256;

impl EventLoop {
    /// Opens what needs a name or a right: the guest's socket and the forwards. Starts no thread.
    ///
    /// # Errors
    /// What could not be opened, with the remedy.
    pub fn open(mut setup: Setup) -> Result<Self> {
        let poll = Poll::new().context(NO_POLL)?;
        let registry = poll.registry();
        let mtu = setup.settings.mtu.unwrap_or(DEFAULT_MTU);
        let queue_pairs = match &setup.transport {
            setup::Transport::VhostUser { queue_pairs, .. } => usize::from(*queue_pairs),
            _ => 1,
        };
        let mut transport = open_transport(setup.transport, mtu, registry, &setup.quit)?;
        if let (Some(told), Some(most)) = (&mut setup.settings.mtu, transport.mtu()) {
            *told = most.min(*told);
        }
        let mut sockets = KernelSockets::new(registry.try_clone()?).context("cannot make sockets")?;
        let repair = setup.repair.map(Arc::new);
        if let Some(repair) = &repair {
            sockets.set_repairer(Arc::<RepairSocket>::clone(repair));
        }
        // The standard library's hasher has random keys.
        let seed = RandomState::new().hash_one(0);
        let steering = Steers::begin(&setup.forwards, &mut sockets, setup.first_unprivileged_port);
        let (limits, most_best_effort) = limits(&setup.forwards.listened(steering.is_working()), queue_pairs);
        let pcap = setup.pcap.map(|pcap| Arc::new(Mutex::new(pcap)));
        let now = Instant::now();
        let (translator, loops, lanes) = if queue_pairs > 1
            && let Transport::VhostUser(transport) = &mut transport
        {
            let (loops, lanes, limits) =
                open_lanes(queue_pairs, &setup.settings, limits, (pcap.as_ref(), repair.as_ref()), registry)?;
            transport.spread(RingsElsewhere::new(&lanes));
            let first = Lane::new(&lanes, 0);
            (Translator::of_lane(setup.settings, limits, now, seed, first), loops, Some(lanes))
        } else {
            (Translator::new(setup.settings, limits, now, seed), Vec::new(), None)
        };
        let mut control = setup.control;
        if let Some(control) = &mut control {
            control.register(registry, CONTROL).context("cannot wait for the control socket")?;
        }
        let mut help = setup.help;
        if let Some(help) = &mut help {
            help.register(registry, HELP).context("cannot wait for the socket for help")?;
        }
        registry.register(&mut SourceFd(&setup.quit.as_raw_fd()), QUIT, Interest::READABLE)?;
        let migration = Migration::new(registry, STATE, setup.migrate_strict)?;
        let Setup { forwards, freebind, .. } = setup;
        let running =
            Running::new(translator, sockets, (transport, lanes), forwards, freebind, most_best_effort, steering)?;
        Ok(Self {
            running,
            control,
            help,
            repair,
            migration,
            pcap,
            loops,
            relayed: VecDeque::new(),
            statistics: setup.statistics.map(Statistics::every),
            one_off: setup.one_off,
            patience: Patience::new(Instant::now()),
            memory_faults: 0,
            _quit: setup.quit,
            poll,
        })
    }

    /// Starts threads, calls `ready` once guests can connect, and serves until it is told to end or, with `one_off`,
    /// the guest has gone.
    ///
    /// # Errors
    /// Why it could not be started or cannot go on.
    pub fn run(mut self, ready: impl FnOnce() -> Result<()>) -> Result<()> {
        self.running.transport.leave_name();
        if let Some(control) = &mut self.control {
            control.leave_name();
        }
        if let Some(help) = &mut self.help {
            help.leave_name();
        }
        if let Some(repair) = &self.repair {
            repair.leave_name();
        }
        let starting: Vec<_> =
            std::mem::take(&mut self.loops).into_iter().map(LaneLoop::start).collect::<Result<_>>()?;
        for started in starting {
            // One that fails tells why.
            let _ = started.recv();
        }
        ready()?;
        let mut events = Events::with_capacity(EVENTS);
        loop {
            self.wait(&mut events)?;
            if events.iter().any(|event| event.token() == QUIT) || self.round(&events, Instant::now())? {
                return Ok(());
            }
        }
    }

    /// Waits until something has come or is due: looks for it for a while, or sleeps.
    fn wait(&mut self, events: &mut Events) -> Result<()> {
        let deadline = self.deadline(Instant::now());
        let Running { translator, transport, .. } = &mut self.running;
        let moved = translator.counters().rx_bytes + translator.counters().tx_bytes;
        wait(&mut self.poll, events, &mut self.patience, deadline, moved, || transport.has_frames())?;
        self.running.transport.stay_awake(self.patience.is_worth_it());
        Ok(())
    }

    fn deadline(&self, now: Instant) -> Instant {
        let Running { translator, transport, .. } = &self.running;
        let statistics = self.statistics.as_ref().map(Statistics::deadline);
        let others = [translator.deadline(), transport.deadline(now), statistics, self.running.deadline()];
        others.into_iter().flatten().fold(now + LONG, Instant::min)
    }

    /// One round; whether it was the last.
    fn round(&mut self, events: &Events, now: Instant) -> Result<bool> {
        let letters = self.take_letters()?;
        for event in events {
            let token = event.token();
            if token >= LETTERS {
                // They were taken.
            } else if token >= STATE {
                self.migration.ready();
            } else if token >= HELP {
                if let Some(help) = &mut self.help {
                    help.ready(token, &mut self.running);
                }
            } else if token >= TRANSPORT {
                self.running.transport.event(token, now);
            } else if token >= CONTROL
                && let Some(control) = &mut self.control
            {
                control.ready(token, now, &mut self.running);
            }
        }
        let is_steered = |id| matches!(id, Some(SocketId::SteeredTcp | SocketId::SteeredUdp));
        let has_arrived = events.iter().any(|event| is_steered(SocketId::from_token(event.token().0)));
        self.running.look_if_due(now, has_arrived);
        self.running.translator.begin();
        let news = self.running.transport.turn(now);
        self.move_guest(now, &news);
        let Running { translator, sockets, transport, lanes, .. } = &mut self.running;
        if let (Some(lanes), Transport::VhostUser(transport)) = (&lanes, &transport) {
            lanes.set_first_is_there(transport.is_there());
            if news.left {
                self.relayed.clear();
            }
        }
        let longest_packet = if news.came { transport.mtu() } else { None };
        let (mut source, link) = transport.halves();
        let mut link = Recorded { link, pcap: self.pcap.as_deref() };
        if news.came {
            translator.guest_came(longest_packet, &mut link);
        }
        if news.room {
            translator.link_ready(now, sockets, &mut link);
        }
        round::serve(now, events, letters, translator, sockets, &mut source, &mut link);
        if let Some(lanes) = lanes {
            relay(lanes, &mut self.relayed, &mut link.link);
        }
        translator.finish(now, sockets, &mut link);
        let memory_faults = translator.counters().memory_faults;
        if memory_faults > self.memory_faults {
            self.memory_faults = memory_faults;
            transport.quarantine(RingFault::MemoryLost.to_string());
        }
        if let Some(help) = &mut self.help {
            help.ask(&mut self.running);
        }
        if let Some(statistics) = &mut self.statistics {
            statistics.print(now, &self.running);
        }
        Ok(news.left && self.one_off)
    }

    /// What becomes of a guest that moves.
    fn move_guest(&mut self, now: Instant, news: &News) {
        let Self { running, migration, .. } = self;
        if news.left {
            migration.guest_left(now, running);
        }
        if let Transport::VhostUser(transport) = &mut running.transport
            && let Some(wish) = transport.take_state_wish()
        {
            let done = migration.wish(now, wish, running);
            if let Transport::VhostUser(transport) = &mut running.transport {
                transport.answer_state(done, now);
            }
        }
        if news.came {
            migration.guest_came(now, running);
        }
    }

    /// What other threads have sent for the translator; the rest is dealt with.
    fn take_letters(&mut self) -> Result<Vec<Letter>> {
        let Running { lanes: Some(lanes), transport, .. } = &mut self.running else { return Ok(Vec::new()) };
        let mut letters = Vec::new();
        for letter in lanes.take_letters(0) {
            match letter {
                Letter::Ended(reason) => bail!("a thread of a queue pair has ended: {reason}"),
                Letter::Fault { lane, epoch, reason } => {
                    if let Transport::VhostUser(transport) = transport {
                        transport.fault_elsewhere(lane, epoch, reason);
                    }
                }
                letter => letters.push(letter),
            }
        }
        Ok(letters)
    }
}

/// Puts frames of other threads' whose queues take none, as far as there is room.
fn relay(lanes: &Lanes, waiting: &mut VecDeque<ToGuest>, link: &mut Link<'_>) {
    // As many again may come while these are put: then it is somebody else's turn.
    for _ in 0..2 {
        while let Some(frame) = waiting.front() {
            let (head, payload) = frame.parts();
            if link.put(frame.offload, head, payload).is_err() {
                return;
            }
            waiting.pop_front();
        }
        *waiting = lanes.take_relayed();
    }
}

/// The threads beside the first one, not started, and what is theirs of the first: its lane and its part of the limits.
fn open_lanes(
    count: usize,
    settings: &Settings,
    limits: LimitSettings,
    (pcap, repairer): (Option<&Arc<Mutex<Pcap>>>, Option<&Arc<RepairSocket>>),
    registry: &Registry,
) -> Result<(Vec<LaneLoop>, Arc<Lanes>, Limits)> {
    let polls: Vec<Poll> = (1..count).map(|_| Poll::new()).collect::<Result<_, _>>().context(NO_POLL)?;
    let registries = std::iter::once(registry).chain(polls.iter().map(Poll::registry));
    let wakers = registries.map(|registry| Waker::new(registry, LETTERS)).collect::<Result<_, _>>()?;
    let lanes = Lanes::new(wakers, Guest::new(settings));
    let mut limits = Limits::shared(limits, count);
    let first = limits.remove(0);
    let loops = (1..).zip(polls).zip(limits).map(|((number, poll), limits)| {
        let (lanes, settings) = (Arc::clone(&lanes), settings.clone());
        LaneLoop::open(
            poll,
            Parts { number, lanes, settings, limits, pcap: pcap.cloned(), repairer: repairer.cloned() },
        )
    });
    Ok((loops.collect::<Result<_>>()?, Arc::clone(&lanes), first))
}

const NO_POLL: &str = "cannot wait for events (epoll_create1)";

/// Nothing is due for longer.
const LONG: Duration = Duration::from_secs(3600);

/// What the descriptors are for: forwards, of which those by best effort get at most half of what is left, and flows.
/// The second is how many those by best effort may be.
fn limits(forwards: &ForwardTable, queue_pairs: usize) -> (LimitSettings, usize) {
    let limit = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let strict = forwards.listens().filter(|listen| listen.strict).count();
    let best_effort = forwards.listens().count() - strict;
    let threads = OF_A_THREAD.saturating_mul(queue_pairs.saturating_sub(1) as u64);
    let left = limit.saturating_sub(RESERVE).saturating_sub(threads).saturating_sub(strict as u64);
    let most_best_effort = usize::try_from(left / 2).unwrap_or(usize::MAX);
    let left = left.saturating_sub(best_effort.min(most_best_effort) as u64);
    let flows = u32::try_from(left).unwrap_or(u32::MAX).clamp(1, MAX_FLOWS);
    (LimitSettings { flows, ..LimitSettings::default() }, most_best_effort)
}

/// Descriptors for the transport, the log, clients of the control socket, and ports that are forwarded later.
const RESERVE: u64 = 256;

/// Descriptors of each further thread: its event loop, also as its sockets and rings have it, what wakes it, and three sockets that
/// tell which addresses are the machine's own.
const OF_A_THREAD: u64 = 7;

fn open_transport(transport: setup::Transport, mtu: u16, registry: &Registry, quit: &UnixStream) -> Result<Transport> {
    Ok(match transport {
        setup::Transport::VhostUser { path, role, queue_pairs } => {
            // Connections would stay behind: a guest that is to move is told so before it does.
            let device = DeviceConfig { queue_pairs, mtu, mac: None, offloads: true, migrates: true };
            let connected = match role {
                Role::Listen => None,
                Role::Connect => Some(connect(&path, quit)?),
            };
            let place = path.into();
            let name = "guest".to_owned();
            let socket = PortSocket { port: PortKey(0), name, place, role, device, records: None };
            Transport::VhostUser(Box::new(VhostUser::new(socket, connected, registry, TRANSPORT)?))
        }
        setup::Transport::Stream { path } => {
            Transport::Stream(Box::new(QemuStream::listen(&path, registry, TRANSPORT)?))
        }
        setup::Transport::StreamDescriptor(descriptor) => {
            Transport::Stream(Box::new(QemuStream::connected(descriptor.into(), registry, TRANSPORT)?))
        }
        setup::Transport::PacketHelp { .. } => Transport::Packet(Box::new(PacketSocket::waiting(registry, TRANSPORT)?)),
        setup::Transport::PacketDescriptor(descriptor) => {
            Transport::Packet(Box::new(PacketSocket::new(descriptor, registry, TRANSPORT)?))
        }
    })
}

/// Connects to a socket that somebody else creates, as soon as it is there; later there would be no way to it.
fn connect(path: &Path, quit: &UnixStream) -> Result<UnixStream> {
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {}
            Err(error) => return Err(error).with_context(|| format!("cannot connect to {}", path.display())),
        }
        let mut asked_to_end = [PollFd::new(quit, PollFlags::IN)];
        match poll(&mut asked_to_end, Some(&LOOK_AGAIN)) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => bail!("told to end before there was a socket at {}", path.display()),
            Err(error) => return Err(error).context("cannot wait for the guest's socket"),
        }
    }
}

/// How soon after a socket was not there it is looked for again.
const LOOK_AGAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
