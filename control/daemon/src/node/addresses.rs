//! Learned addresses outlive the daemon: without them the next one floods every frame until each guest has spoken, so that guests see
//! each other's frames, and miss some of their own.
//!
//! [`upkeep`](super::upkeep) writes what is known, once a second, into two files in memory that the supervisor keeps, in turn: when the
//! daemon is killed at one of them, the other is whole. The next daemon reads the newer one before it forwards a frame
//! ([`live`](super::live)), and learns from it as from frames that came when those did: for ports that are there, in the same network, by
//! their rules of now. At a port with another frontend than before nothing is learned. A file is text, see [`Snapshot::text`]; whatever
//! else is found there is left alone. A culvertd that somebody has stopped has nothing to read: its supervisor ends with it.

use std::fmt::Write;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use culvert_frame::MacAddress;
use culvert_switch::{NetworkId, PortId};
use culvert_vhost::SocketState;
use culvert_worker::LearnedAddress;
use rustix::fs::MemfdFlags;

use super::live::LiveNode;
use super::ports::{Opened, key};
use crate::broker::Broker;
use crate::name::Name;

/// What the supervisor keeps.
#[derive(Debug, Default)]
pub(super) struct Kept {
    files: Mutex<Option<Files>>,
}

/// Two files, one of which is whole at any time.
#[derive(Debug)]
struct Files {
    files: [File; 2],
    /// How often they were written.
    number: u64,
    /// Of the newer one's text.
    checksum: u32,
}

/// What was learned at all ports.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Snapshot {
    ports: Vec<PortAddresses>,
}

/// What was learned at a port.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PortAddresses {
    network: Name,
    port: Name,
    /// The process of its frontend, if there was one; 0 if it is in another namespace.
    frontend: Option<u32>,
    /// VLAN, address, and when it was seen, see [`LearnedAddress`].
    addresses: Vec<(u16, MacAddress, u32)>,
}

impl Kept {
    /// What an earlier daemon has left. What cannot be read is told and left.
    pub fn take(&self, broker: &Broker) -> Snapshot {
        let taken = broker.take(NAME).and_then(|descriptors| match <[OwnedFd; 2]>::try_from(descriptors) {
            Ok(descriptors) => Files::open(descriptors.map(File::from)).map(Some),
            Err(descriptors) if descriptors.is_empty() => Ok(None),
            Err(_) => Err(io::ErrorKind::InvalidData.into()),
        });
        match taken {
            Ok(None) => Snapshot::default(),
            Ok(Some((files, snapshot))) => {
                *self.files.lock().unwrap_or_else(PoisonError::into_inner) = Some(files);
                snapshot
            }
            Err(error) => {
                tracing::warn!("addresses have to be learned again, those of the last daemon cannot be read: {error}");
                Snapshot::default()
            }
        }
    }

    /// Has the files from the start, whatever there is to write.
    pub fn begin(&self, broker: &Broker) {
        let there = self.files.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        if !there && let Err(error) = self.keep(broker, &Snapshot::default()) {
            tracing::warn!("learned addresses do not outlive the daemon: {error}; it is tried again");
        }
    }

    /// Keeps this for the next daemon.
    ///
    /// # Errors
    /// There is no memory for it, or the supervisor does not keep it; what was kept before is.
    fn keep(&self, broker: &Broker, snapshot: &Snapshot) -> io::Result<()> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let text = snapshot.text();
        if let Some(files) = &mut *files {
            return files.write(&text);
        }
        let mut new = Files { files: [memory_file()?, memory_file()?], number: 0, checksum: 0 };
        new.write(&text)?;
        let [first, second] = &new.files;
        broker.store(NAME, &[first.try_clone()?.into(), second.try_clone()?.into()])?;
        *files = Some(new);
        Ok(())
    }
}

impl Files {
    /// The files of an earlier daemon, and what the newer whole one says.
    fn open(files: [File; 2]) -> io::Result<(Self, Snapshot)> {
        let read = files.each_ref().map(read);
        let newer = read.into_iter().flatten().max_by_key(|(number, _)| *number);
        let (number, text) = newer.ok_or_else(|| io::Error::other("neither file is whole"))?;
        let checksum = crc32fast::hash(text.as_bytes());
        let snapshot = Snapshot::parse(&text).ok_or_else(|| io::Error::other("a line is none of ours"))?;
        Ok((Self { files, number, checksum }, snapshot))
    }

    /// Writes into the older one, if there is anything new.
    fn write(&mut self, text: &str) -> io::Result<()> {
        let (number, checksum) = (self.number.wrapping_add(1), crc32fast::hash(text.as_bytes()));
        if self.number > 0 && checksum == self.checksum {
            return Ok(());
        }
        let [even, odd] = &self.files;
        let file = if number.is_multiple_of(2) { even } else { odd };
        let rest = format!("{number}\n{text}");
        let bytes = format!("{HEAD} {}\n{rest}", crc32fast::hash(rest.as_bytes())).into_bytes();
        file.write_all_at(&bytes, 0)?;
        file.set_len(u64::try_from(bytes.len()).unwrap_or(u64::MAX))?;
        (self.number, self.checksum) = (number, checksum);
        Ok(())
    }
}

/// The number and the text of a file that is whole.
fn read(file: &File) -> Option<(u64, String)> {
    let length = usize::try_from(file.metadata().ok()?.len()).ok().filter(|&length| length <= MAX_BYTES)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0).ok()?;
    let whole = String::from_utf8(bytes).ok()?;
    let (checksum, rest) = whole.strip_prefix(HEAD)?.strip_prefix(' ')?.split_once('\n')?;
    if checksum.parse() != Ok(crc32fast::hash(rest.as_bytes())) {
        return None;
    }
    let (number, text) = rest.split_once('\n')?;
    Some((number.parse().ok()?, text.to_owned()))
}

fn memory_file() -> io::Result<File> {
    Ok(File::from(rustix::fs::memfd_create(NAME, MemfdFlags::CLOEXEC)?))
}

impl Snapshot {
    /// For each port a line `port NETWORK PORT FRONTEND`, and one for each address: VLAN, address, second, the first and the last in
    /// decimal digits, the address in hexadecimal ones. FRONTEND is a process, or `-`.
    fn text(&self) -> String {
        let mut text = String::new();
        for PortAddresses { network, port, frontend, addresses } in &self.ports {
            let frontend = frontend.map_or("-".to_owned(), |frontend| frontend.to_string());
            // Nothing can go wrong when a string is written.
            let _ = writeln!(text, "port {network} {port} {frontend}");
            for (vlan, address, seen) in addresses {
                let _ = writeln!(text, "{vlan} {:012x} {seen}", address.to_u64());
            }
        }
        text
    }

    /// The reverse of [`Self::text`]; `None` for any other text.
    fn parse(text: &str) -> Option<Self> {
        let mut ports: Vec<PortAddresses> = Vec::new();
        for line in text.lines() {
            let words: Vec<_> = line.splitn(5, ' ').collect();
            match *words.as_slice() {
                ["port", network, port, frontend] => ports.push(PortAddresses {
                    network: Name::parse(network).ok()?,
                    port: Name::parse(port).ok()?,
                    frontend: if frontend == "-" { None } else { Some(frontend.parse().ok()?) },
                    addresses: Vec::new(),
                }),
                [vlan, address, seen] => {
                    let address = u64::from_str_radix(address, 16).ok().filter(|address| address >> 48 == 0)?;
                    let address = (vlan.parse().ok()?, MacAddress::from_u64(address), seen.parse().ok()?);
                    ports.last_mut()?.addresses.push(address);
                }
                _ => return None,
            }
        }
        Some(Self { ports })
    }

    /// Adds what was learned in a network, `most` addresses of it at most: those that were seen last.
    fn add(
        &mut self,
        network: &Name,
        mut learned: Vec<LearnedAddress>,
        most: usize,
        port_of: impl Fn(PortId) -> Option<(Name, Option<u32>)>,
    ) {
        if learned.len() > most {
            learned.sort_unstable_by_key(|learned| std::cmp::Reverse(learned.seen));
            learned.truncate(most);
        }
        // The same each time, so that nothing is written while nothing changes.
        learned.sort_unstable_by_key(|learned| (learned.port, learned.vlan, learned.address.to_u64()));
        for of_port in learned.chunk_by(|one, other| one.port == other.port) {
            let Some((port, frontend)) = of_port.first().and_then(|learned| port_of(learned.port)) else { continue };
            let addresses = of_port.iter().map(|learned| (learned.vlan, learned.address, learned.seen)).collect();
            self.ports.push(PortAddresses { network: network.clone(), port, frontend, addresses });
        }
    }
}

impl LiveNode {
    /// Keeps what is known for the next daemon. To be called once a second.
    pub(super) fn keep_addresses(&self) {
        let running = self.running();
        let networks: Vec<(Name, NetworkId)> =
            running.networks.iter().map(|(network, id)| (network.name.clone(), *id)).collect();
        let ports: Vec<_> =
            running.ports.iter().filter_map(|port| Some((port.id()?, port.config.name.clone()))).collect();
        drop(running);
        let most = MAX_ADDRESSES / networks.len().max(1);
        let mut snapshot = Snapshot::default();
        for (network, id) in &networks {
            snapshot.add(network, self.datapath.learned(*id), most, |id| {
                let (_, name) = ports.iter().find(|(port, _)| *port == id)?;
                Some((name.clone(), self.frontend(id)))
            });
        }
        if let Err(error) = self.addresses.keep(&self.broker, &snapshot) {
            tracing::debug!(%error, "learned addresses do not outlive the daemon");
        }
    }

    /// Learns what the last daemon had learned at ports that are open by now; what remains is of others.
    pub(super) fn restore_addresses(&self, snapshot: &mut Snapshot) {
        let mut restored = 0_usize;
        snapshot.ports.retain(|kept| {
            let running = self.running();
            let in_network = |port: &&super::ports::Port| port.config.network == kept.network;
            let Some(port) = running.port(&kept.port).filter(in_network) else { return true };
            let Some(id) = port.id() else { return true };
            let is_guest = matches!(port.opened, Opened::Guest { .. });
            drop(running);
            // Before the look at the frontend: of one that comes later it is seen by this number.
            let attachment = self.datapath.attachment(id);
            let frontend = self.frontend(id);
            if is_guest && frontend.is_some() && frontend != kept.frontend {
                return false;
            }
            let learned = |&(vlan, address, seen)| LearnedAddress { port: id, vlan, address, seen };
            let addresses: Vec<_> = kept.addresses.iter().map(learned).collect();
            restored = restored.saturating_add(self.datapath.restore_learned(id, attachment, &addresses));
            false
        });
        if restored > 0 {
            tracing::info!(addresses = restored, "what the last daemon had learned is known again");
        }
    }

    /// The process of the frontend that is connected to a port.
    fn frontend(&self, port: PortId) -> Option<u32> {
        match self.server.state(key(port))? {
            SocketState::Connected(connection) => Some(connection.peer.pid),
            SocketState::Waiting | SocketState::Quarantined { .. } | SocketState::Failed { .. } => None,
        }
    }
}

/// The name at the supervisor.
const NAME: &str = "addresses";
/// How a file begins.
const HEAD: &str = "culvert-addresses-1";
/// Addresses that are kept at most, of all networks, each of which has an equal share.
const MAX_ADDRESSES: usize = 131_072;
/// More than they take: 29 at most for each, and 144 for each port.
const MAX_BYTES: usize = 8 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn mac(number: u64) -> MacAddress {
        MacAddress::from_u64(0x0200_0000_0000 | number)
    }

    fn learned(port: u16, number: u64, seen: u32) -> LearnedAddress {
        LearnedAddress { port: PortId(port), vlan: 0, address: mac(number), seen }
    }

    fn snapshot() -> Snapshot {
        let port = |network, port, frontend, addresses| {
            let (network, port) = (name(network), name(port));
            PortAddresses { network, port, frontend, addresses }
        };
        let ports = vec![
            port("blue", "vm-a", Some(4711), vec![(0, mac(1), 100), (0, mac(2), u32::MAX)]),
            port("blue", "uplink0", None, vec![(4094, MacAddress::from_u64(0xfeff_ffff_ffff), 0)]),
            port("red", "vm-b", Some(0), vec![(7, mac(1), 3)]),
        ];
        Snapshot { ports }
    }

    fn files() -> Files {
        Files { files: [memory_file().unwrap(), memory_file().unwrap()], number: 0, checksum: 0 }
    }

    fn reopened(files: &Files) -> io::Result<(Files, Snapshot)> {
        Files::open(files.files.each_ref().map(|file| file.try_clone().unwrap()))
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(Snapshot::parse(&snapshot().text()), Some(snapshot()));
        assert_eq!(Snapshot::parse(""), Some(Snapshot::default()));
        let mut files = files();
        for number in 1..5 {
            let mut written = snapshot();
            written.ports[0].addresses[0].2 = number;
            files.write(&written.text()).unwrap();
            let (mut next, read) = reopened(&files).unwrap();
            assert_eq!((&read, next.number), (&written, u64::from(number)));
            // The next daemon has nothing new to tell, and writes nothing.
            next.write(&read.text()).unwrap();
            assert_eq!(next.number, u64::from(number));
        }
        files.write("").unwrap();
        assert_eq!(reopened(&files).unwrap().1, Snapshot::default());
    }

    #[test]
    fn whatever_becomes_of_one_file_the_other_is_read() {
        let mut files = files();
        let (mut first, second) = (snapshot(), snapshot());
        first.ports.truncate(1);
        files.write(&first.text()).unwrap();
        files.write(&second.text()).unwrap();
        let newer = files.files[0].try_clone().unwrap();
        let mut whole = vec![0; usize::try_from(newer.metadata().unwrap().len()).unwrap()];
        newer.read_exact_at(&mut whole, 0).unwrap();
        assert_eq!(reopened(&files).unwrap().1, second);
        for damaged in 0..whole.len() {
            newer.write_all_at(&[whole[damaged] ^ 1], damaged as u64).unwrap();
            assert_eq!(reopened(&files).unwrap().1, first, "byte {damaged}");
            newer.write_all_at(&[whole[damaged]], damaged as u64).unwrap();
            // As if it was killed there.
            newer.set_len(damaged as u64).unwrap();
            assert_eq!(reopened(&files).unwrap().1, first, "{damaged} bytes");
            newer.write_all_at(&whole, 0).unwrap();
        }
        for file in &files.files {
            file.set_len(0).unwrap();
        }
        assert_eq!(reopened(&files).unwrap_err().to_string(), "neither file is whole");
        newer.set_len(u64::MAX >> 2).unwrap();
        assert_eq!(reopened(&files).unwrap_err().to_string(), "neither file is whole");
    }

    #[test]
    fn text_that_is_none_of_ours_is_no_snapshot() {
        for text in [
            "\n",
            "0 020000000001 3\n",
            "port blue\n",
            "port blue vm-a\n",
            "port blue vm-a 1 2\n",
            "port blue ../vm-a 1\n",
            "port blue vm-a -1\n",
            "port blue vm-a 1\n65536 020000000001 3\n",
            "port blue vm-a 1\n0 1020000000001 3\n",
            "port blue vm-a 1\n0 02:00:00:00:00:01 3\n",
            "port blue vm-a 1\n0 020000000001 4294967296\n",
            "port blue vm-a 1\n0 020000000001\n",
            "port blue vm-a 1\n0 020000000001 3 4 5 6\n",
        ] {
            assert_eq!(Snapshot::parse(text), None, "{text}");
            let mut files = files();
            files.write(text).unwrap();
            assert!(reopened(&files).is_err(), "{text}");
        }
        let mut files = files();
        files.write(&"port a b 1\n".repeat(MAX_BYTES / 11 + 1)).unwrap();
        assert!(reopened(&files).is_err());
    }

    #[test]
    fn a_network_with_too_many_keeps_those_that_were_seen_last() {
        let port_of = |port: PortId| (port.0 < 3).then(|| (name(&format!("vm-{}", port.0)), Some(9)));
        let mut snapshot = Snapshot::default();
        let all = (0..100_u32).map(|number| learned(u16::try_from(number % 4).unwrap(), number.into(), number));
        snapshot.add(&name("blue"), all.collect(), 10, port_of);
        let kept: Vec<_> = snapshot
            .ports
            .iter()
            .flat_map(|port| port.addresses.iter().map(|(_, _, seen)| (port.port.to_string(), *seen)))
            .collect();
        let expected =
            [("vm-0", 92), ("vm-0", 96), ("vm-1", 93), ("vm-1", 97), ("vm-2", 90), ("vm-2", 94), ("vm-2", 98)];
        assert_eq!(kept, expected.map(|(port, seen)| (port.to_owned(), seen)));
    }
}
