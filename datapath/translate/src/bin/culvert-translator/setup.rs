//! What the event loop is given: everything that was decided at the start.
//!
//! Made by `main` from the command line and the pod's network; consumed by `event_loop`. `EventLoop::open` opens what
//! needs a name or a right (the guest's socket, the forwards) and starts no thread: the process is still what it was
//! when it was started, and may yet fork. `EventLoop::run` calls `ready`, which applies the filter of system calls and
//! lets whoever started us go on; then it serves until the end.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use culvert_translate::forward::ForwardTable;
use culvert_translate::settings::Settings;

use crate::control::ControlSocket;
use crate::help::HelpSocket;
use crate::pcap::Pcap;
use crate::repair::RepairSocket;

/// What the event loop needs.
#[derive(Debug)]
pub struct Setup {
    /// What the guest is told, and what is mapped.
    pub settings: Settings,
    /// The way to the guest.
    pub transport: Transport,
    /// What is forwarded at first. Nothing of it is open.
    pub forwards: ForwardTable,
    /// The first port that may be bound without a right (net.ipv4.ip_unprivileged_port_start).
    pub first_unprivileged_port: u16,
    /// Whether forwards may bind addresses that the pod does not have (IP_FREEBIND).
    pub freebind: bool,
    /// End with exit status 0 once the first guest's connection has ended.
    pub one_off: bool,
    /// The socket `S.ctl`, which listens; none where there is no S.
    pub control: Option<ControlSocket>,
    /// The socket `S.help`, which listens; only with [`Transport::PacketHelp`], or where ports could be steered.
    pub help: Option<HelpSocket>,
    /// The socket `S.repair`, which listens.
    pub repair: Option<RepairSocket>,
    /// A move of the guest's in which a flow would be lost fails.
    pub migrate_strict: bool,
    /// Where frames of the guest are recorded.
    pub pcap: Option<Pcap>,
    /// How often statistics are printed to standard error, if anything happened.
    pub statistics: Option<Duration>,
    /// Readable once SIGTERM or SIGINT came: end with exit status 0.
    pub quit: UnixStream,
}

/// The way to the guest.
#[derive(Debug)]
pub enum Transport {
    /// vhost-user; we create the socket, as passt does, or connect to one that QEMU creates.
    VhostUser {
        /// Of the socket.
        path: PathBuf,
        /// Who creates it.
        role: culvert_vhost::Role,
        /// Queue pairs that are offered, 1 or more.
        queue_pairs: u16,
    },
    /// QEMU's `-netdev stream`; we create the socket.
    Stream {
        /// Of the socket.
        path: PathBuf,
    },
    /// QEMU's `-netdev stream` over a connected socket that we inherited. The process ends with it.
    StreamDescriptor(OwnedFd),
    /// A packet socket or tap, bound and configured, that we inherited. The process ends with it.
    PacketDescriptor(OwnedFd),
    /// A packet socket that is handed over while it runs.
    PacketHelp {
        /// Of the socket that there would be without.
        path: PathBuf,
    },
}
