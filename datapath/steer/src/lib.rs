//! Steering: connections and datagrams for many ports of a network namespace come to two sockets, without a listener
//! for each port.
//!
//! A program in the kernel (`steer.bpf.c`) decides by a table with a byte for each port, which is memory that the kernel
//! and the owner of the sockets share: changes take no system call. [`attach`] loads and attaches it, which takes
//! CAP_BPF and CAP_NET_ADMIN in the first user namespace; what it hands over ([`Steering`]) works as long as somebody
//! holds it, without any right, and without whoever attached it. [`bound`] tells which ports others have. What is
//! forwarded is not decided here: the translator does that, and culvertd attaches for those that may not.

pub mod bound;
pub mod netlink;

use std::collections::BTreeSet;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use aya::Ebpf;
use aya::maps::{Map, SockMap};
use aya::programs::SkLookup;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

/// What holds the program in its place.
#[derive(Debug)]
pub struct Steering {
    /// While this is open somewhere, the program is attached.
    pub link: OwnedFd,
    /// The table, [`TABLE_BYTES`], to be mapped: a [`Fate`] for each port of TCP from the start, of UDP from
    /// [`UDP_AT`] on. All of them [`Fate::Leave`] at first.
    pub table: OwnedFd,
}

/// What becomes of what arrives for a port and belongs to no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fate {
    /// The kernel looks for a socket, as without steering.
    Leave = 0,
    /// It comes to the socket of its protocol.
    Steer = 1,
    /// It finds nobody, whoever listens.
    Close = 2,
}

/// Length of the table.
pub const TABLE_BYTES: usize = 2 * PORTS;
/// Where UDP's ports begin in it.
pub const UDP_AT: usize = PORTS;
const PORTS: usize = 65_536;

/// Why there is no steering.
#[derive(Debug, thiserror::Error)]
pub enum SteerError {
    /// The kernel does not take the program, or we may not load it.
    #[error(
        "the kernel does not load the program that steers ports (Linux 5.9, CAP_BPF and CAP_NET_ADMIN are needed): {0}"
    )]
    Load(String),
    /// The sockets are not of the kinds that can be steered to.
    #[error("connections cannot be steered to these sockets: {0}")]
    Sockets(String),
    /// The program cannot be attached to the network namespace.
    #[error("the program that steers ports cannot be attached: {0}")]
    Attach(String),
    /// Whoever was to do it has not.
    #[error("{0}")]
    Told(String),
    /// The kernel's, about the way between two processes.
    #[error("what steers ports cannot be handed over: {0}")]
    HandOver(#[from] io::Error),
}

/// Steers in network namespace `netns` to `tcp`, which listens, and `udp`, which is bound, and sends what holds the
/// steering, or why there is none, to whoever has the other end of `to` and calls [`receive`].
///
/// Best called in a process that ends soon: what is read to load the program takes 40 MB for a moment.
///
/// # Errors
/// The other end is gone.
pub fn attach(netns: impl AsFd, tcp: impl AsFd, udp: impl AsFd, to: impl AsFd) -> io::Result<()> {
    // Links are told apart by what there was before.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let socket = to.as_fd().as_raw_fd();
    let say = |text: &str, descriptors: &[RawFd]| {
        let rights = [ControlMessage::ScmRights(descriptors)];
        let rights = if descriptors.is_empty() { &[][..] } else { &rights };
        sendmsg::<()>(socket, &[IoSlice::new(text.as_bytes())], rights, MsgFlags::MSG_NOSIGNAL, None)
    };
    // What is attached is on its way when it is closed here.
    match attached(netns, tcp, udp) {
        Ok(Attached { link, table, _program }) => say(STEERED, &[link, table])?,
        Err(error) => say(&error.to_string().replace(char::is_control, " "), &[])?,
    };
    Ok(())
}

/// Receives what [`attach`] sends by the other end of `from`. Waits for it.
///
/// # Errors
/// Why there is no steering.
pub fn receive(from: impl AsFd) -> Result<Steering, SteerError> {
    let mut bytes = [0; MAX_MESSAGE_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = loop {
        match rustix::net::recvmsg(&from, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
            Err(rustix::io::Errno::INTR) => {}
            received => break received.map_err(io::Error::from)?,
        }
    };
    let rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let mut descriptors: Vec<_> = rights.flatten().collect();
    let text = String::from_utf8_lossy(bytes.get(..received.bytes).unwrap_or_default());
    match (text.as_ref(), descriptors.pop(), descriptors.pop()) {
        (STEERED, Some(table), Some(link)) => Ok(Steering { link, table }),
        ("", _, _) => Err(SteerError::Told("what loads the program that steers ports has failed".to_owned())),
        _ => Err(SteerError::Told(text.into_owned())),
    }
}

/// A program in its place. Numbers of descriptors: the library does not lend them.
struct Attached {
    link: RawFd,
    table: RawFd,
    _program: Ebpf,
}

fn attached(netns: impl AsFd, tcp: impl AsFd, udp: impl AsFd) -> Result<Attached, SteerError> {
    let load = |error: &dyn std::error::Error| SteerError::Load(causes(error));
    let sockets_failed = |error: &dyn std::error::Error| SteerError::Sockets(causes(error));
    let mut program = Ebpf::load(OBJECT).map_err(|error| load(&error))?;
    let missing = || SteerError::Load("a part of it is missing".to_owned());
    {
        let map = program.map_mut("sockets").ok_or_else(missing)?;
        let mut sockets = SockMap::try_from(map).map_err(|error| load(&error))?;
        sockets.set(0, &tcp.as_fd(), 0).map_err(|error| sockets_failed(&error))?;
        sockets.set(1, &udp.as_fd(), 0).map_err(|error| sockets_failed(&error))?;
    }
    let Some(Map::Array(table)) = program.map("ports") else { return Err(missing()) };
    let table = table.fd().as_fd().as_raw_fd();
    let steer: &mut SkLookup =
        program.program_mut("steer").ok_or_else(missing)?.try_into().map_err(|error| load(&error))?;
    steer.load().map_err(|error| load(&error))?;
    let before = links()?;
    steer.attach(netns).map_err(|error| SteerError::Attach(causes(&error)))?;
    let link = links()?.difference(&before).next().copied();
    let link = link.ok_or_else(|| SteerError::Attach("its link is not in /proc/self/fd".to_owned()))?;
    Ok(Attached { link, table, _program: program })
}

/// The descriptors of links of BPF programs that this process has.
fn links() -> io::Result<BTreeSet<RawFd>> {
    let mut links = BTreeSet::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let path = entry?.path();
        // The descriptor by which the folder is read is gone by then.
        let Ok(target) = std::fs::read_link(&path) else { continue };
        let number = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse::<RawFd>().ok());
        if target.starts_with(Path::new("anon_inode:bpf_link")) || target.starts_with(Path::new("anon_inode:bpf-link"))
        {
            links.extend(number);
        }
    }
    Ok(links)
}

/// An error with all that it was caused by: the kernel's is the last one.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    // The kernel's can be long.
    text.truncate(text.floor_char_boundary(MAX_CAUSE_BYTES));
    text
}

/// What clang has made of `steer.bpf.c`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steer.bpf.o"));
/// The message with which descriptors come.
const STEERED: &str = "steered";
/// The longest text of what has gone wrong.
const MAX_CAUSE_BYTES: usize = 400;
/// Room for the longest message.
const MAX_MESSAGE_BYTES: usize = 1024;
