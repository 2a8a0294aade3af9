//! The neighbour: a guest with an honest TCP/IP on a translator of its own, which notices when others disturb it.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use culvert_driver::Shape;
use culvert_system::frontend::FrontendGuest;
use culvert_system::translator::{GATEWAYS, POD, Pod, Translator, WORLD};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant as Moment;
use smoltcp::wire::{EthernetAddress, IpCidr};

/// What the neighbour has seen, since the last mark where that is said.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Numbers that were sent.
    pub sent: u64,
    /// Numbers that came back.
    pub received: u64,
    /// Numbers that came back out of order, or changed.
    pub wrong: u64,
    /// The longest time without an answer, since the mark.
    pub longest_gap: Duration,
    /// How long each new connection took to open, since the mark.
    pub openings: Vec<Duration>,
    /// Connections that did not open, since the mark.
    pub unopened: u64,
    /// Why it cannot go on.
    broken: Option<String>,
}

impl Seen {
    /// The median time that a new connection took to open.
    pub fn opening(&self) -> Option<Duration> {
        let mut times = self.openings.clone();
        times.sort_unstable();
        times.get(times.len() / 2).copied()
    }
}

/// The neighbour at work. It ends when this is dropped.
pub struct Neighbour {
    translator: Translator,
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    guest: Option<JoinHandle<()>>,
}

impl Neighbour {
    /// Starts it, with its server in the pod's world.
    ///
    /// # Errors
    /// It cannot connect to the translator, or its connection does not come to be.
    pub fn start(pod: &Pod, translator: Translator) -> Result<Self> {
        let listener = pod.world().listen(&format!("{}:{PORT}", WORLD[0]))?;
        listener.set_nonblocking(true)?;
        let (seen, stop) = (Arc::<Mutex<Seen>>::default(), Arc::<AtomicBool>::default());
        {
            let stop = Arc::clone(&stop);
            thread::spawn(move || serve(&listener, &stop));
        }
        let guest = {
            let (seen, stop) = (Arc::clone(&seen), Arc::clone(&stop));
            let socket = translator.socket().to_owned();
            thread::spawn(move || {
                if let Err(error) = Honest::connect(&socket).and_then(|mut guest| guest.run(&seen, &stop)) {
                    lock(&seen).broken = Some(format!("{error:#}"));
                }
            })
        };
        let neighbour = Self { translator, seen, stop, guest: Some(guest) };
        neighbour.wait(|seen| seen.received > 0)?;
        Ok(neighbour)
    }

    /// Forgets times that were taken so far.
    pub fn mark(&self) {
        let mut seen = lock(&self.seen);
        (seen.longest_gap, seen.unopened) = (Duration::ZERO, 0);
        seen.openings.clear();
    }

    /// What it has seen.
    pub fn seen(&self) -> Seen {
        lock(&self.seen).clone()
    }

    /// Waits until what it has sent by now has come back.
    ///
    /// # Errors
    /// It does not come back, or the connection is broken.
    pub fn settle(&self) -> Result<Seen> {
        let sent = lock(&self.seen).sent;
        self.wait(|seen| seen.received >= sent)
    }

    /// Its translator.
    pub fn translator(&self) -> &Translator {
        &self.translator
    }

    /// Waits until it has seen something.
    ///
    /// # Errors
    /// It does not within the limit, or the connection is broken.
    pub fn wait(&self, until: impl Fn(&Seen) -> bool) -> Result<Seen> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let seen = self.seen();
            if let Some(why) = &seen.broken {
                bail!("the neighbour on the other translator: {why}");
            }
            if until(&seen) {
                return Ok(seen);
            }
            ensure!(Instant::now() < deadline, "the neighbour on the other translator has seen only {seen:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(guest) = self.guest.take() {
            let _ = guest.join();
        }
    }
}

/// Sends back what comes, on each connection.
fn serve(listener: &TcpListener, stop: &Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let Ok((mut stream, _)) = listener.accept() else {
            thread::sleep(Duration::from_millis(1));
            continue;
        };
        thread::spawn(move || {
            let _ = stream.set_nonblocking(false);
            let _ = stream.set_nodelay(true);
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut bytes) {
                if stream.write_all(&bytes[..count]).is_err() {
                    break;
                }
            }
        });
    }
}

/// The guest.
struct Honest {
    wire: Wire,
    interface: Interface,
    sockets: SocketSet<'static>,
    echo: SocketHandle,
    opener: SocketHandle,
    port: u16,
    on_way: VecDeque<u64>,
    answers: Vec<u8>,
}

impl Honest {
    fn connect(socket: &Path) -> Result<Self> {
        let mut wire = Wire(FrontendGuest::connect(&PathBuf::from(socket), Shape::default())?);
        let mut config = Config::new(EthernetAddress([2, 0, 0, 0, 0, 0x77]).into());
        config.random_seed = 1;
        let mut interface = Interface::new(config, &mut wire, Moment::now());
        let own: Ipv4Addr = POD[0].parse()?;
        interface.update_ip_addrs(|addresses| addresses.push(IpCidr::new(own.into(), 24)).unwrap_or(()));
        let gateway: Ipv4Addr = GATEWAYS[0].parse()?;
        interface.routes_mut().add_default_ipv4_route(gateway).ok().context("a route")?;
        let mut sockets = SocketSet::new(Vec::new());
        let mut open = || {
            let buffer = || tcp::SocketBuffer::new(vec![0; 16 << 10]);
            let mut socket = tcp::Socket::new(buffer(), buffer());
            socket.set_nagle_enabled(false);
            socket.set_ack_delay(None);
            sockets.add(socket)
        };
        let (echo, opener) = (open(), open());
        let mut honest =
            Self { wire, interface, sockets, echo, opener, port: 20_000, on_way: VecDeque::new(), answers: Vec::new() };
        honest.dial(echo)?;
        Ok(honest)
    }

    fn dial(&mut self, handle: SocketHandle) -> Result<()> {
        self.port = if self.port == 60_000 { 20_000 } else { self.port + 1 };
        let world: Ipv4Addr = WORLD[0].parse()?;
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        let dialled = socket.connect(self.interface.context(), (world, PORT), self.port);
        dialled.map_err(|error| anyhow::anyhow!("it cannot connect: {error:?}"))
    }

    fn run(&mut self, seen: &Mutex<Seen>, stop: &AtomicBool) -> Result<()> {
        let (mut due, mut last) = (Instant::now(), None);
        let (mut opening, mut next_opening) = (None, Instant::now());
        while !stop.load(Ordering::Relaxed) {
            self.interface.poll(Moment::now(), &mut self.wire, &mut self.sockets);
            let now = Instant::now();
            if now >= due && self.ask(seen)? {
                due = now + INTERVAL;
            }
            if self.hear(seen)?
                && let Some(last) = last.replace(now)
            {
                let mut seen = lock(seen);
                seen.longest_gap = seen.longest_gap.max(now - last);
            }
            let socket = self.sockets.get_mut::<tcp::Socket<'_>>(self.opener);
            match opening {
                None if now >= next_opening && !socket.is_open() => {
                    self.dial(self.opener)?;
                    opening = Some(now);
                }
                None => {}
                Some(since) if socket.may_send() => {
                    lock(seen).openings.push(now - since);
                    socket.abort();
                    (opening, next_opening) = (None, now + OPENING_INTERVAL);
                }
                Some(since) if !socket.is_open() || now - since > OPENING_LIMIT => {
                    lock(seen).unopened += 1;
                    socket.abort();
                    (opening, next_opening) = (None, now + OPENING_INTERVAL);
                }
                Some(_) => {}
            }
            self.interface.poll(Moment::now(), &mut self.wire, &mut self.sockets);
            thread::sleep(TICK);
        }
        Ok(())
    }

    /// Sends the next number; whether there was room.
    fn ask(&mut self, seen: &Mutex<Seen>) -> Result<bool> {
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(self.echo);
        ensure!(socket.is_open(), "its connection has ended");
        if !socket.may_send() || socket.send_capacity() - socket.send_queue() < 8 {
            return Ok(false);
        }
        let mut seen = lock(seen);
        let sent = socket.send_slice(&seen.sent.to_be_bytes());
        ensure!(sent == Ok(8), "its connection takes nothing: {sent:?}");
        self.on_way.push_back(seen.sent);
        seen.sent += 1;
        Ok(true)
    }

    /// Takes in answers; whether there was one.
    fn hear(&mut self, seen: &Mutex<Seen>) -> Result<bool> {
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(self.echo);
        let mut heard = false;
        while socket.can_recv() {
            let read = socket.recv(|bytes| (bytes.len(), bytes.to_vec()));
            self.answers.extend(read.map_err(|error| anyhow::anyhow!("its connection: {error:?}"))?);
        }
        while let Some((answer, rest)) = self.answers.split_first_chunk::<8>() {
            let expected = self.on_way.pop_front();
            let mut seen = lock(seen);
            seen.wrong += u64::from(expected != Some(u64::from_be_bytes(*answer)));
            seen.received += 1;
            self.answers = rest.to_vec();
            heard = true;
        }
        Ok(heard)
    }
}

/// The way from smoltcp to the rings.
struct Wire(FrontendGuest);

impl Device for Wire {
    type RxToken<'a> = Frame;
    type TxToken<'a> = Way<'a>;

    fn receive(&mut self, _: Moment) -> Option<(Frame, Way<'_>)> {
        let (_, frame) = self.0.interface.receive()?;
        Some((Frame(frame), Way(&mut self.0)))
    }

    fn transmit(&mut self, _: Moment) -> Option<Way<'_>> {
        Some(Way(&mut self.0))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

/// A frame that came.
struct Frame(Vec<u8>);

impl RxToken for Frame {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

/// Room for a frame.
struct Way<'a>(&'a mut FrontendGuest);

impl TxToken for Way<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut frame = vec![0; length];
        let result = f(&mut frame);
        // One that finds no room is lost; TCP sends it again.
        let _ = self.0.send(&frame);
        result
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where its server listens.
const PORT: u16 = 7;

/// How often it sends a number.
const INTERVAL: Duration = Duration::from_millis(5);

/// How often it looks at its rings.
const TICK: Duration = Duration::from_millis(1);

/// How long after a connection was opened the next one is.
const OPENING_INTERVAL: Duration = Duration::from_millis(50);

/// A connection that has not opened by then does not.
const OPENING_LIMIT: Duration = Duration::from_secs(5);

/// The longest that an answer may take.
const LIMIT: Duration = Duration::from_secs(20);
