//! What the old daemon tells the next one beside descriptors: which sockets these are, and its statistics. A file in memory: a first line
//! with version, length and checksum as the journal has one, then TOML. Whatever else is found is refused: it may come from a daemon that
//! somebody has taken over.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use culvert_frame::{Direction, DropReason};
use culvert_switch::PortTotals;
use culvert_switch::counters::Drops;
use rustix::fs::MemfdFlags;
use serde::{Deserialize, Serialize};

use super::message::FORMAT;

/// What is kept under these names: the state itself, the socket that clients connect to, and the lock of the state folder.
pub const STATE: &str = "takeover-state";
/// The socket that clients connect to.
pub const CONTROL_SOCKET: &str = "control-socket";
/// The lock of the state folder.
pub const LOCK: &str = "state-lock";
/// Before the name of a port: the socket that its frontend connects to.
pub const LISTENER: &str = "listener:";

/// Whether what is kept under this name is of no use but in a takeover.
pub fn is_for_takeover(name: &str) -> bool {
    [STATE, CONTROL_SOCKET, LOCK].contains(&name) || name.starts_with(LISTENER)
}

/// What the next daemon is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct State {
    /// The name of the control socket.
    pub control_socket: Option<Identity>,
    /// The names of the sockets of ports, by ports.
    pub listeners: BTreeMap<String, Identity>,
    /// What happened to frames so far, by ports.
    pub ports: BTreeMap<String, Statistics>,
}

/// Device and inode of a name: no system call leads from a socket to its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The file system's number.
    pub device: u64,
    /// The number in it.
    pub inode: u64,
}

/// What happened to a port's frames, see [`PortTotals`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statistics {
    rx_frames: u64,
    rx_bytes: u64,
    forwarded: u64,
    copies: u64,
    not_learned: u64,
    held: u64,
    offered: u64,
    tx_frames: u64,
    tx_bytes: u64,
    drops: Vec<Refused>,
}

/// Frames that were refused for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Refused {
    reason: String,
    /// On which side: another version may not know the reason, and each side's numbers must add up.
    is_rx: bool,
    count: u64,
    last_length: u32,
    /// In hexadecimal digits.
    last_header: String,
}

impl State {
    /// In a file in memory.
    ///
    /// # Errors
    /// The kernel's.
    pub fn into_file(self) -> io::Result<OwnedFd> {
        let text = toml::to_string(&self).map_err(io::Error::other)?;
        let head = format!("{MAGIC} {FORMAT} {} {:08x}\n", text.len(), crc32fast::hash(text.as_bytes()));
        let file = File::from(rustix::fs::memfd_create(STATE, MemfdFlags::CLOEXEC)?);
        file.write_all_at(format!("{head}{text}").as_bytes(), 0)?;
        Ok(file.into())
    }

    /// What is in such a file.
    ///
    /// # Errors
    /// It is none, as a sentence; the kernel's.
    pub fn from_file(file: OwnedFd) -> io::Result<Self> {
        // Only of files in memory nobody can make us wait.
        rustix::fs::fcntl_get_seals(&file)?;
        let file = File::from(file);
        let length = usize::try_from(file.metadata()?.len()).ok().filter(|&length| length <= MAX_BYTES);
        let mut bytes = vec![0; length.ok_or_else(|| io::Error::other("it is too long"))?];
        file.read_exact_at(&mut bytes, 0)?;
        Self::parse(&bytes).map_err(io::Error::other)
    }

    /// What these bytes say.
    ///
    /// # Errors
    /// It is nothing that we write, as a sentence.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let whole = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
        let (head, text) = whole.split_once('\n').ok_or("it has no first line")?;
        let mut words = head.strip_prefix(MAGIC).ok_or("it is not what culvertd hands over")?.split_whitespace();
        let mut word = || words.next().unwrap_or_default();
        let format = word();
        if format != FORMAT.to_string() {
            return Err(format!("it has format {format}; this culvertd ({}) knows {FORMAT}", super::VERSION));
        }
        if word() != text.len().to_string() {
            return Err("it has another length than it says".to_owned());
        }
        if word() != format!("{:08x}", crc32fast::hash(text.as_bytes())) {
            return Err("its checksum is wrong".to_owned());
        }
        toml::from_str(text).map_err(|error| error.message().to_owned())
    }
}

impl From<&PortTotals> for Statistics {
    fn from(totals: &PortTotals) -> Self {
        let refused = |drops: &Drops| Refused {
            reason: drops.reason.name().to_owned(),
            is_rx: drops.reason.direction() == Direction::Rx,
            count: drops.count,
            last_length: drops.last_length,
            last_header: drops.last_header.iter().map(|byte| format!("{byte:02x}")).collect(),
        };
        Self {
            rx_frames: totals.rx_frames,
            rx_bytes: totals.rx_bytes,
            forwarded: totals.forwarded,
            copies: totals.copies,
            not_learned: totals.not_learned,
            held: totals.held,
            offered: totals.offered,
            tx_frames: totals.tx_frames,
            tx_bytes: totals.tx_bytes,
            drops: totals.drops.iter().map(refused).collect(),
        }
    }
}

impl From<Statistics> for PortTotals {
    fn from(statistics: Statistics) -> Self {
        let drops = |refused: Refused| {
            let known = DropReason::ALL.into_iter().find(|reason| reason.name() == refused.reason);
            let unknown = if refused.is_rx { DropReason::Failed } else { DropReason::Abandoned };
            let digits = refused.last_header.as_bytes().chunks(2);
            let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
            Drops {
                reason: known.unwrap_or(unknown),
                count: refused.count,
                last_length: refused.last_length,
                last_header: digits.take(culvert_switch::counters::LAST_HEADER_BYTES).filter_map(byte).collect(),
            }
        };
        Self {
            rx_frames: statistics.rx_frames,
            rx_bytes: statistics.rx_bytes,
            forwarded: statistics.forwarded,
            copies: statistics.copies,
            not_learned: statistics.not_learned,
            held: statistics.held,
            offered: statistics.offered,
            tx_frames: statistics.tx_frames,
            tx_bytes: statistics.tx_bytes,
            drops: statistics.drops.into_iter().map(drops).collect(),
        }
    }
}

const MAGIC: &str = "culvertd takeover-state";
/// More than the statistics of all ports take.
const MAX_BYTES: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn totals() -> PortTotals {
        let drops =
            |reason, count, header: &[u8]| Drops { reason, count, last_length: 60, last_header: header.to_vec() };
        PortTotals {
            rx_frames: 10,
            rx_bytes: u64::MAX >> 1,
            forwarded: 7,
            drops: vec![drops(DropReason::Runt, 3, &[0, 0xff, 16]), drops(DropReason::NoBuffer, 1, &[])],
            ..PortTotals::default()
        }
    }

    fn state() -> State {
        State {
            control_socket: Some(Identity { device: 1, inode: 2 }),
            listeners: BTreeMap::from([("vm-a".to_owned(), Identity { device: 3, inode: 4 })]),
            ports: BTreeMap::from([("vm-a".to_owned(), Statistics::from(&totals()))]),
        }
    }

    fn bytes(state: State) -> Vec<u8> {
        let file = File::from(state.into_file().unwrap());
        let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(State::from_file(state().into_file().unwrap()).unwrap(), state());
        assert_eq!(State::from_file(State::default().into_file().unwrap()).unwrap(), State::default());
        let back = PortTotals::from(state().ports.remove("vm-a").unwrap());
        assert_eq!(back, totals());
    }

    #[test]
    fn what_is_damaged_is_refused() {
        let whole = bytes(state());
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            State::parse(&damaged).unwrap_err();
            State::parse(&whole[..at]).unwrap_err();
        }
        State::from_file(File::open("/dev/null").unwrap().into()).unwrap_err();
    }

    #[test]
    fn another_format_is_refused_by_name() {
        let text = String::from_utf8(bytes(state())).unwrap();
        let other = text.replacen(&format!("{MAGIC} {FORMAT}"), &format!("{MAGIC} 77"), 1);
        let refused = State::parse(other.as_bytes()).unwrap_err();
        assert!(refused.contains("format 77") && refused.contains(&format!("knows {FORMAT}")), "{refused}");
    }

    #[test]
    fn a_reason_that_is_unknown_here_still_counts_on_its_side() {
        let refused = |is_rx| Refused {
            reason: "of-another-version".to_owned(),
            is_rx,
            count: 2,
            last_length: 1,
            last_header: "zz".to_owned(),
        };
        let statistics = Statistics { drops: vec![refused(true), refused(false)], ..Statistics::default() };
        let totals = PortTotals::from(statistics);
        assert_eq!((totals.dropped(Direction::Rx), totals.dropped(Direction::Tx)), (2, 2));
    }
}
