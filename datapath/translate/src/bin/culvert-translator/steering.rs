//! All ports that nobody has come to two sockets, one of TCP and one of UDP, in place of a listener for each (`culvert-steer`).
//!
//! Whoever attaches the kernel's program needs rights: the translator itself when root has started it and before it gives
//! them up ([`Prepared::attach`]), or culvertd, which gets the sockets at `S.help` and gives back what holds the program
//! ([`crate::help`]). From then on [`Steering`] edits the table of ports, with no right and no help. Which ports others in
//! the pod have the kernel tells nobody who does not ask: it is asked when something arrives that could be theirs, if the
//! last answer is older than [`FRESH`], and at intervals.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use culvert_steer::bound::Question;
use culvert_steer::{Fate, SteerError, Steering as Held};
use culvert_translate::forward::{ForwardTable, Left, Protocol, Steered};
use culvert_translate::socket::KernelSockets;
use culvert_translate::socket::port_table::PortTable;
use culvert_translate::socket::steered::OwnPorts;
use culvert_translate::time::Instant;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::thread::CapabilitySet;

use crate::process::{Forked, fork};

/// What it takes but for the program in the kernel: the sockets are open.
#[derive(Debug)]
pub struct Prepared {
    question: Question,
    own: OwnPorts,
    udp_below: u16,
    /// A name that only one translator of a network namespace has: the last of several programs would get everything.
    _name: OwnedFd,
}

/// Steering that works.
#[derive(Debug)]
pub struct Steering {
    prepared: Prepared,
    table: PortTable,
    /// While this is open the program stays.
    _link: OwnedFd,
    steered: Steered,
    looked: Instant,
}

/// Whether this process may attach the program itself.
pub fn is_permitted() -> bool {
    let needed = CapabilitySet::BPF | CapabilitySet::NET_ADMIN;
    rustix::thread::capabilities(None).is_ok_and(|have| have.effective.contains(needed))
}

impl Prepared {
    /// Opens the sockets. UDP's ports below `udp_below` are left alone.
    ///
    /// # Errors
    /// A sentence: another translator steers here, or the kernel does not tell which ports others have.
    pub fn open(sockets: &mut KernelSockets, udp_below: u16) -> Result<Self> {
        let name = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        match rustix::net::bind(&name, &SocketAddrUnix::new_abstract_name(NAME)?) {
            Err(Errno::ADDRINUSE) => {
                return Err(anyhow!(
                    "another translator has all ports of this network namespace; what it forwards does not come here"
                ));
            }
            bound => bound?,
        }
        let question = Question::new().context(UNKNOWN)?;
        question.ask().context(UNKNOWN)?;
        let own = sockets.open_steered()?;
        Ok(Self { question, own, udp_below, _name: name })
    }

    /// Has a child attach the program to this network namespace; it reads much for a moment.
    ///
    /// # Errors
    /// Why there is no program.
    pub fn attach(sockets: &KernelSockets) -> Result<Held, SteerError> {
        let [tcp, udp] = sockets.steered().ok_or(io::ErrorKind::NotConnected).map_err(io::Error::from)?;
        let flags = SocketFlags::CLOEXEC;
        let (near, far) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .map_err(io::Error::from)?;
        match fork()? {
            Forked::Child => {
                // A panic must not unwind into what is the parent's.
                let attached = std::panic::catch_unwind(AssertUnwindSafe(|| {
                    let netns = std::fs::File::open("/proc/self/ns/net")?;
                    culvert_steer::attach(netns, tcp, udp, &far)
                }));
                // Without the destructors: they are the parent's.
                std::process::exit(i32::from(!matches!(attached, Ok(Ok(())))));
            }
            Forked::Parent(child) => {
                drop(far);
                let held = culvert_steer::receive(near);
                let end = || rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty());
                while matches!(end(), Err(Errno::INTR)) {}
                held
            }
        }
    }
}

impl Steering {
    /// Begins with what holds the program; nothing is steered before [`Self::forward`].
    ///
    /// # Errors
    /// It is no such thing.
    pub fn new(prepared: Prepared, held: Held, now: Instant) -> Result<Self, (Prepared, io::Error)> {
        match PortTable::map(&held.table) {
            Ok(table) => Ok(Self { prepared, table, _link: held.link, steered: Steered::default(), looked: now }),
            Err(error) => Err((prepared, error)),
        }
    }

    /// Steers what `forwards` says and others do not have; tells if that is not what was steered before. Ports of `ours`
    /// are not others', though somebody listens there.
    pub fn forward(
        &mut self,
        forwards: &ForwardTable,
        ours: &HashSet<(Protocol, u16)>,
        sockets: &KernelSockets,
        now: Instant,
    ) -> bool {
        self.looked = now;
        let left = Left { taken: self.taken(ours, sockets), udp_below: self.prepared.udp_below };
        let steered = Steered::of(forwards, left);
        if steered == self.steered {
            return false;
        }
        for (protocol, own) in [(Protocol::Tcp, self.prepared.own.tcp), (Protocol::Udp, self.prepared.own.udp)] {
            let mut wanted: BTreeSet<u16> = steered.ports(protocol).collect();
            for port in self.steered.ports(protocol).filter(|port| !wanted.contains(port)) {
                self.table.set(protocol, port, Fate::Leave);
            }
            if !wanted.remove(&own) {
                self.table.set(protocol, own, Fate::Close);
            } else {
                self.table.set(protocol, own, Fate::Steer);
            }
            for port in wanted {
                self.table.set(protocol, port, Fate::Steer);
            }
        }
        for &(protocol, port) in steered.left().taken.difference(&self.steered.left().taken) {
            tracing::debug!("{protocol} port {port} is another's: it is left alone");
        }
        self.steered = steered;
        true
    }

    /// Ports that others have. As they were known if the kernel does not answer.
    fn taken(&mut self, ours: &HashSet<(Protocol, u16)>, sockets: &KernelSockets) -> BTreeSet<(Protocol, u16)> {
        match self.prepared.question.ask() {
            Ok(bound) => {
                let own = sockets.own_unconnected();
                let others = bound.into_iter().filter(|bound| !own.contains(&bound.inode));
                let ports = others.map(|bound| (if bound.is_udp { Protocol::Udp } else { Protocol::Tcp }, bound.port));
                ports.filter(|port| !ours.contains(port)).collect()
            }
            Err(error) => {
                tracing::debug!(%error, "the kernel does not tell which ports others have");
                self.steered.left().taken.clone()
            }
        }
    }

    /// What is steered.
    pub fn steered(&self) -> &Steered {
        &self.steered
    }

    /// When the kernel is to be asked again: when something has arrived, or anyway.
    pub fn deadline(&self, has_arrived: bool) -> Instant {
        self.looked + if has_arrived { FRESH } else { INTERVAL }
    }

    /// How many ports are steered.
    pub fn len(&self) -> usize {
        [Protocol::Tcp, Protocol::Udp].map(|protocol| self.steered.ports(protocol).count()).iter().sum()
    }
}

/// How old an answer of the kernel's may be when something arrives.
const FRESH: Duration = Duration::from_secs(1);
/// How often it is asked when nothing arrives.
const INTERVAL: Duration = Duration::from_secs(10);
/// An abstract name of Unix sockets, which are each network namespace's own.
const NAME: &[u8] = b"culvert-translator/steered";
const UNKNOWN: &str = "the kernel does not tell which ports others have (sock_diag: its modules tcp_diag and udp_diag)";
