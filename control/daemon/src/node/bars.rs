//! Ports whose guests may not come back, for a worker came to no end over them: kept in the file `barred` of the state folder, since
//! the process ends over it, and a guest that connected again at once would end the next one.
//!
//! A bar is lifted when another process than the barred frontend connects, which is another guest or the same one started
//! anew; when a person sets or removes the port (`culvertctl port set`, `port del`); and for all ports when the configuration
//! file is read again. Called by [`live`](super::live), [`faults`](super::faults) and [`upkeep`](super::upkeep).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use culvert_vhost::{Bar, SocketState};

use super::live::LiveNode;
use super::ports::{Opened, key};
use crate::name::Name;

/// The bars of a node.
#[derive(Debug)]
pub struct Bars {
    path: PathBuf,
    bars: Mutex<BTreeMap<String, Bar>>,
}

/// The file's name in the state folder.
const FILE: &str = "barred";

impl Bars {
    /// Reads what the process before has left. Lines that cannot be read are left out.
    pub fn read(state_dir: &Path) -> Self {
        let path = state_dir.join(FILE);
        let text = fs::read_to_string(&path).unwrap_or_default();
        let bars = Mutex::new(text.lines().filter_map(parse).collect());
        Self { path, bars }
    }

    /// The bar of a port.
    pub fn of(&self, port: &Name) -> Option<Bar> {
        self.list().get(port.as_str()).cloned()
    }

    /// Bars a port. It holds when this returns, whatever becomes of the process.
    ///
    /// # Errors
    /// The file cannot be written; it holds as long as this process lives.
    fn add(&self, port: &str, bar: Bar) -> io::Result<()> {
        let mut bars = self.list();
        bars.insert(port.to_owned(), bar);
        self.write(&bars)
    }

    /// Lifts the bars of the ports that `lifted` tells; returns those.
    fn lift(&self, lifted: impl Fn(&str) -> bool) -> Vec<String> {
        let mut bars = self.list();
        let names: Vec<_> = bars.keys().filter(|name| lifted(name)).cloned().collect();
        if !names.is_empty() {
            bars.retain(|name, _| !names.contains(name));
            if let Err(error) = self.write(&bars) {
                let path = self.path.display();
                tracing::error!(
                    "{path} cannot be written: {error}; a port that is served again is not after a restart"
                );
            }
        }
        names
    }

    fn write(&self, bars: &BTreeMap<String, Bar>) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let mut file = File::create(&new)?;
        for (port, Bar { reason, pid }) in bars {
            writeln!(file, "{port} {pid} {}", reason.replace('\n', " "))?;
        }
        file.sync_all()?;
        fs::rename(&new, &self.path)
    }

    fn list(&self) -> MutexGuard<'_, BTreeMap<String, Bar>> {
        self.bars.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A line: port, process, reason.
fn parse(line: &str) -> Option<(String, Bar)> {
    let mut words = line.splitn(3, ' ');
    let (port, pid, reason) = (words.next()?, words.next()?, words.next()?);
    Some((port.to_owned(), Bar { reason: reason.to_owned(), pid: pid.parse().ok()? }))
}

impl LiveNode {
    /// Bars the guest of a port.
    pub(super) fn bar(&self, port: &str, reason: &str) {
        let id = self.open_port(port);
        let pid = match id.and_then(|id| self.server.state(key(id))) {
            Some(SocketState::Connected(connection)) => connection.peer.pid,
            _ => 0,
        };
        tracing::error!(port, "{reason}");
        if let Err(error) = self.bars.add(port, Bar { reason: reason.to_owned(), pid }) {
            tracing::error!(
                port,
                "the port is served again after the restart: the state folder cannot be written: {error}"
            );
        }
    }

    /// Lifts the bar of a port, or of all, because a person wishes so.
    pub(super) fn lift_bars(&self, port: Option<&str>) {
        let lifted = self.bars.lift(|name| port.is_none_or(|port| port == name));
        for name in lifted {
            tracing::info!(port = name, "its guest may come back");
            if let Some(id) = self.open_port(&name) {
                self.server.bar(key(id), None);
            }
        }
    }

    /// Forgets the bars of ports that another guest has come to, or that are wanted no more. To be called now and then.
    pub(super) fn forget_bars(&self) {
        if self.bars.list().is_empty() {
            return;
        }
        let wanted = self.wanted();
        let running = self.running();
        let is_over = |name: &str| {
            let port = running.ports.iter().find(|port| port.config.name.as_str() == name);
            let state = port.and_then(|port| match port.opened {
                Opened::Guest { id, .. } => self.server.state(key(id)),
                Opened::Nic(..) | Opened::Failed(_) => None,
            });
            let is_wanted = wanted.ports.iter().any(|port| port.wanted.name.as_str() == name);
            !is_wanted || matches!(state, Some(SocketState::Connected(_)))
        };
        self.bars.lift(is_over);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_outlive_the_process_until_they_are_lifted() {
        let folder = tempfile::tempdir().unwrap();
        let bar = |pid| Bar { reason: "a worker did not\ncome to an end; see".to_owned(), pid };
        let bars = Bars::read(folder.path());
        bars.add("vm-a", bar(7)).unwrap();
        bars.add("vm-b", bar(0)).unwrap();
        let bars = Bars::read(folder.path());
        let [a, b] = ["vm-a", "vm-b"].map(|name| Name::parse(name).unwrap());
        assert_eq!(bars.of(&a).unwrap(), Bar { reason: "a worker did not come to an end; see".to_owned(), pid: 7 });
        assert_eq!(bars.lift(|name| name == "vm-a"), ["vm-a"]);
        let bars = Bars::read(folder.path());
        assert_eq!((bars.of(&a), bars.of(&b).map(|bar| bar.pid)), (None, Some(0)));
    }

    #[test]
    fn a_file_that_was_written_by_somebody_else_is_no_obstacle() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), b"\n\xff\xff x\nvm-a\nvm-a x y\n").unwrap();
        assert!(Bars::read(folder.path()).list().is_empty());
        fs::write(folder.path().join(FILE), b"\nvm-a\nvm-a x y\nvm-b 1 why not\n").unwrap();
        assert_eq!(Bars::read(folder.path()).list().len(), 1);
    }
}
