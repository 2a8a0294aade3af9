//! What one TCP connection carries in a time that begins with it, where frames are lost and take their time.
//!
//! The guest is another implementation of TCP (smoltcp) behind the played guest's rings. Loss *near* is between the translator and the guest:
//! frames that came to the guest and that it does not look at, so that the translator has to notice. Loss *far* and the time are on a wire between
//! the world and a far end, in both directions, where the kernels of pod and far end have to notice.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use culvert_system::translator::{self as system, GATEWAYS, POD, WORLD};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant as Clock;
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr};

use super::far::{Far, PORT};
use super::packet::STATION;
use super::running::{Running, on_core, set_congestion};
use super::station::{Room, Station};
use crate::options::Options;
use crate::peer::Peer;
use crate::scenario::{Case, Figure};

/// What frames meet with.
#[derive(Clone, Copy, Debug, Default)]
struct Trouble {
    /// One frame in so many is lost between the translator and the guest; 0: none.
    near: u32,
    /// The same on the wire to the far end.
    far: u32,
    /// There and back on that wire.
    round_trip: Duration,
}

pub fn cases(options: &Options) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    let mut add = |name: String, trouble: Trouble| {
        let options = options.clone();
        cases.push(Case::new(name, move |peer| {
            let mut figures = vec![Figure::gain(super::BACK, "Gbit/s", measure(&options, peer, trouble, true)?)];
            // What is lost near is lost on the way to the guest.
            if trouble.near == 0 {
                figures.push(Figure::gain(super::THERE, "Gbit/s", measure(&options, peer, trouble, false)?));
            }
            Ok(figures)
        }));
    };
    for (percent, near) in [("0.1", 1000), ("1", 100)] {
        add(format!("{percent} % lost near"), Trouble { near, ..Trouble::default() });
    }
    for (percent, far) in [("0", 0), ("0.1", 1000), ("1", 100)] {
        for micros in [0, 200, 1000, 10_000, 100_000] {
            let round_trip = Duration::from_micros(micros);
            add(format!("{percent} % lost far, {} ms", micros as f64 / 1e3), Trouble { far, round_trip, near: 0 });
        }
    }
    Ok(cases)
}

/// Gbit/s of payload.
fn measure(options: &Options, peer: Peer, trouble: Trouble, back: bool) -> Result<f64> {
    let running = Running::start(options, peer, 1, "-m 1500")?;
    let long = trouble.far > 0 || !trouble.round_trip.is_zero();
    let wire = long.then(|| system::Far::new(&running.pod, trouble.round_trip / 2, trouble.far)).transpose()?;
    if let Some(far) = &wire {
        set_congestion(options, far.namespace())?;
    }
    let (namespace, address) = match &wire {
        Some(far) => (far.namespace(), system::FAR[0]),
        None => (running.world(), WORLD[0]),
    };
    let far = Far::at(namespace, address)?;
    let translator = running.translators.first().context("a translator")?;
    on_core(options.load_core(), || {
        let station = Station::connect(translator.socket(), options.ring, Room::FRAMES)?;
        Guest::new(station, trouble.near, address)?.carry(far, options.time(), back)
    })
}

/// The other implementation on its rings.
struct Guest {
    interface: Interface,
    wire: Wire,
    sockets: SocketSet<'static>,
    socket: SocketHandle,
}

impl Guest {
    /// Begins a connection to an address.
    fn new(station: Station, lost: u32, address: &str) -> Result<Self> {
        let mut wire = Wire { station, came: VecDeque::new(), spare: Vec::new(), lost, random: 1 };
        let mut interface = Interface::new(Config::new(EthernetAddress(STATION).into()), &mut wire, Clock::now());
        let own = IpCidr::new(IpAddress::Ipv4(POD[0].parse()?), 24);
        // There is room for one.
        interface.update_ip_addrs(|addresses| addresses.extend([own]));
        interface.routes_mut().add_default_ipv4_route(GATEWAYS[0].parse()?).map_err(|error| anyhow!("{error}"))?;
        let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER_BYTES]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        let there = (IpAddress::Ipv4(address.parse()?), PORT);
        socket.connect(interface.context(), there, 20_000).map_err(|error| anyhow!("{error}"))?;
        let mut sockets = SocketSet::new(Vec::new());
        let socket = sockets.add(socket);
        Ok(Self { interface, wire, sockets, socket })
    }

    /// Carries as much as goes in a time; returns Gbit/s of what arrived.
    fn carry(mut self, mut far: Far, time: Duration, back: bool) -> Result<f64> {
        let (begin, mut start, mut bytes) = (Instant::now(), None, 0_u64);
        loop {
            self.turn()?;
            let socket = self.sockets.get_mut::<tcp::Socket<'_>>(self.socket);
            let started = match start {
                Some(started) => started,
                None if socket.may_send() && far.try_accept()? => {
                    far.watch(back)?;
                    *start.insert(Instant::now())
                }
                None => {
                    ensure!(begin.elapsed() < LIMIT, "no connection within {LIMIT:?}");
                    continue;
                }
            };
            if back {
                while socket.can_recv() {
                    bytes +=
                        socket.recv(|bytes| (bytes.len(), bytes.len() as u64)).map_err(|error| anyhow!("{error}"))?;
                }
                far.turn(true)?;
            } else {
                while socket.can_send() {
                    socket.send(|room| (room.len(), ())).map_err(|error| anyhow!("{error}"))?;
                }
                bytes += far.turn(false)?;
            }
            if started.elapsed() >= time {
                return Ok(8e-9 * bytes as f64 / started.elapsed().as_secs_f64());
            }
        }
    }

    fn turn(&mut self) -> Result<()> {
        self.wire.take()?;
        self.interface.poll(Clock::now(), &mut self.wire, &mut self.sockets);
        self.wire.station.send()
    }
}

/// The rings as smoltcp sees them.
struct Wire {
    station: Station,
    came: VecDeque<Vec<u8>>,
    spare: Vec<Vec<u8>>,
    lost: u32,
    random: u32,
}

impl Wire {
    /// Takes what has come, and loses some.
    fn take(&mut self) -> Result<()> {
        let Self { station, came, spare, lost, random } = self;
        station.take(|frame| {
            // Xorshift (Marsaglia, 2003).
            *random ^= *random << 13;
            *random ^= *random >> 17;
            *random ^= *random << 5;
            if *lost != 0 && random.is_multiple_of(*lost) {
                return;
            }
            let mut bytes = spare.pop().unwrap_or_default();
            bytes.clear();
            bytes.extend_from_slice(frame);
            came.push_back(bytes);
        })?;
        Ok(())
    }
}

impl Device for Wire {
    type RxToken<'a> = Frame<'a>;
    type TxToken<'a> = Sender<'a>;

    fn receive(&mut self, _: Clock) -> Option<(Frame<'_>, Sender<'_>)> {
        if self.station.room() == 0 {
            return None;
        }
        let frame = self.came.pop_front()?;
        Some((Frame(frame, &mut self.spare), Sender(&mut self.station)))
    }

    fn transmit(&mut self, _: Clock) -> Option<Sender<'_>> {
        (self.station.room() > 0).then_some(Sender(&mut self.station))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME_BYTES;
        // What comes has been checked (GUEST_CSUM); what is sent has none to save, whoever translates.
        capabilities.checksum = ChecksumCapabilities::default();
        capabilities.checksum.tcp = smoltcp::phy::Checksum::Tx;
        capabilities
    }
}

struct Frame<'a>(Vec<u8>, &'a mut Vec<Vec<u8>>);

impl RxToken for Frame<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        let result = read(&self.0);
        self.1.push(self.0);
        result
    }
}

struct Sender<'a>(&'a mut Station);

impl TxToken for Sender<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut frame = [0; FRAME_BYTES];
        let frame = frame.get_mut(..length).unwrap_or_default();
        let result = write(frame);
        self.0.lay(&[0; 12], frame, frame.len() as u32);
        result
    }
}

/// An MTU of 1500, and the Ethernet header.
const FRAME_BYTES: usize = 1514;

/// What the guest takes, and keeps to send again.
const BUFFER_BYTES: usize = 4 << 20;

/// The longest that a connection may take to be made.
const LIMIT: Duration = Duration::from_secs(20);
