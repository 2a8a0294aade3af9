//! The event loop: waits for the guest, for sockets, for the control socket and for time, and has the translator act.
//!
//! One thread does everything. It sleeps in epoll, after a short look for more where that is worth its time
//! ([`patience`](crate::patience)); each round serves what the events told of, takes a bounded number of frames from the
//! guest, and ends with what is due. What the control socket may ask is answered by [`running`](crate::running).

use std::hash::{BuildHasher, RandomState};
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use culvert_guest::RingFault;
use culvert_guest::device::DeviceConfig;
use culvert_translate::forward::ForwardTable;
use culvert_translate::limits::{LimitSettings, MAX_FLOWS};
use culvert_translate::settings::DEFAULT_MTU;
use culvert_translate::socket::KernelSockets;
use culvert_translate::sockets::{Readiness, SocketId};
use culvert_translate::time::Instant;
use culvert_translate::translator::Translator;
use culvert_translate::transport::{PacketSocket, QemuStream, Transport, VhostUser};
use culvert_vhost::{PortKey, PortSocket, Role};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::Resource;

use crate::control::ControlSocket;
use crate::help::HelpSocket;
use crate::patience::{Patience, SPAN};
use crate::pcap::Pcap;
use crate::recorded::Recorded;
use crate::running::{Running, Steers};
use crate::setup::{self, Setup};
use crate::statistics::Statistics;

/// Everything that is waited for.
#[derive(Debug)]
pub struct EventLoop {
    poll: Poll,
    running: Running,
    control: Option<ControlSocket>,
    help: Option<HelpSocket>,
    pcap: Option<Pcap>,
    statistics: Option<Statistics>,
    one_off: bool,
    patience: Patience,
    /// As they were counted in the round before.
    memory_faults: u64,
    /// Readable when the process is to end.
    _quit: UnixStream,
}

/// Tokens of sockets are below 2^35.
const QUIT: Token = Token(1 << 40);
const CONTROL: Token = Token(2 << 40);
const TRANSPORT: Token = Token(3 << 40);
const HELP: Token = Token(4 << 40);

/// Bursts that are taken from the guest before sockets have their turn again.
const BURSTS: usize = 8;

/// Events that are taken at once.
const EVENTS: usize = 256;

impl EventLoop {
    /// Opens what needs a name or a right: the guest's socket and the forwards. Starts no thread.
    ///
    /// # Errors
    /// What could not be opened, with the remedy.
    pub fn open(mut setup: Setup) -> Result<Self> {
        let poll = Poll::new().context("cannot wait for events (epoll_create1)")?;
        let registry = poll.registry();
        let mtu = setup.settings.mtu.unwrap_or(DEFAULT_MTU);
        let transport = open_transport(setup.transport, mtu, registry, &setup.quit)?;
        if let (Some(told), Some(most)) = (&mut setup.settings.mtu, transport.mtu()) {
            *told = u16::try_from(most).map_or(*told, |most| most.min(*told));
        }
        let mut sockets = KernelSockets::new(registry.try_clone()?).context("cannot make sockets")?;
        // The standard library's hasher has random keys.
        let seed = RandomState::new().hash_one(0);
        let steering = Steers::begin(&setup.forwards, &mut sockets, setup.first_unprivileged_port);
        let (limits, most_best_effort) = limits(&setup.forwards.listened(steering.is_working()));
        let translator = Translator::new(setup.settings, limits, Instant::now(), seed);
        let mut control = setup.control;
        if let Some(control) = &mut control {
            control.register(registry, CONTROL).context("cannot wait for the control socket")?;
        }
        let mut help = setup.help;
        if let Some(help) = &mut help {
            help.register(registry, HELP).context("cannot wait for the socket for help")?;
        }
        registry.register(&mut SourceFd(&setup.quit.as_raw_fd()), QUIT, Interest::READABLE)?;
        let Setup { forwards, freebind, .. } = setup;
        let running = Running::new(translator, sockets, transport, forwards, freebind, most_best_effort, steering)?;
        Ok(Self {
            running,
            control,
            help,
            pcap: setup.pcap,
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
        ready()?;
        let mut events = Events::with_capacity(EVENTS);
        loop {
            self.wait(&mut events)?;
            if events.iter().any(|event| event.token() == QUIT) || self.round(&events, Instant::now()) {
                return Ok(());
            }
        }
    }

    /// Waits until something has come or is due: looks for it for a while, or sleeps.
    fn wait(&mut self, events: &mut Events) -> Result<()> {
        let begin = Instant::now();
        let deadline = self.deadline(begin);
        let looks = deadline > begin && self.patience.is_worth_it();
        let timeout = if looks { Duration::ZERO } else { deadline.saturating_duration_since(begin) };
        loop {
            match self.poll.poll(events, Some(timeout)) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("cannot wait for events (epoll_wait)"),
            }
            if !events.is_empty() || self.running.transport.has_frames() {
                let counters = self.running.translator.counters();
                self.patience.came(Instant::now(), counters.rx_bytes + counters.tx_bytes);
                break;
            }
            if !looks {
                break;
            }
            let now = Instant::now();
            if now >= begin + SPAN {
                self.patience.was_in_vain();
            } else if now < deadline {
                continue;
            }
            break;
        }
        self.running.transport.stay_awake(self.patience.is_worth_it());
        Ok(())
    }

    fn deadline(&self, now: Instant) -> Instant {
        let Running { translator, transport, .. } = &self.running;
        let statistics = self.statistics.as_ref().map(Statistics::deadline);
        let others = [transport.deadline(now), statistics, self.running.deadline()];
        others.into_iter().flatten().fold(translator.deadline(), Instant::min)
    }

    /// One round; whether it was the last.
    fn round(&mut self, events: &Events, now: Instant) -> bool {
        for event in events {
            let token = event.token();
            if token >= HELP {
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
        let Running { translator, sockets, transport, .. } = &mut self.running;
        let news = transport.turn(now);
        let (mut source, link) = transport.halves();
        let mut link = Recorded { link, pcap: self.pcap.as_mut() };
        if news.came {
            translator.guest_came(&mut link);
        }
        if news.room {
            translator.link_ready(now, sockets, &mut link);
        }
        for event in events {
            if let Some(id) = SocketId::from_token(event.token().0) {
                let failed = event.is_error();
                let readable = event.is_readable() || event.is_read_closed() || failed;
                let writable = event.is_writable() || event.is_write_closed() || failed;
                let stops = event.is_read_closed() || event.is_priority() || failed;
                let ready = Readiness { readable, writable, failed, stops };
                translator.socket_event(now, id, ready, sockets, &mut link);
            }
        }
        for _ in 0..BURSTS {
            let burst = source.receive();
            if burst.is_empty() {
                break;
            }
            for index in 0..burst.len() {
                match burst.frame(index) {
                    Ok((frame, offload)) => {
                        link.record_from_guest(&frame);
                        translator.frame(now, &frame, offload, sockets, &mut link);
                    }
                    Err(reason) => translator.no_frame(reason),
                }
            }
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
        news.left && self.one_off
    }
}

/// What the descriptors are for: forwards, of which those by best effort get at most half of what is left, and flows.
/// The second is how many those by best effort may be.
fn limits(forwards: &ForwardTable) -> (LimitSettings, usize) {
    let limit = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let strict = forwards.listens().filter(|listen| listen.strict).count();
    let best_effort = forwards.listens().count() - strict;
    let left = limit.saturating_sub(RESERVE).saturating_sub(strict as u64);
    let most_best_effort = usize::try_from(left / 2).unwrap_or(usize::MAX);
    let left = left.saturating_sub(best_effort.min(most_best_effort) as u64);
    let flows = u32::try_from(left).unwrap_or(u32::MAX).clamp(1, MAX_FLOWS);
    (LimitSettings { flows, ..LimitSettings::default() }, most_best_effort)
}

/// Descriptors for the transport, the log, clients of the control socket, and ports that are forwarded later.
const RESERVE: u64 = 256;

fn open_transport(transport: setup::Transport, mtu: u16, registry: &Registry, quit: &UnixStream) -> Result<Transport> {
    Ok(match transport {
        setup::Transport::VhostUser { path, role, queue_pairs } => {
            let device = DeviceConfig { queue_pairs, mtu, mac: None, offloads: true };
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
