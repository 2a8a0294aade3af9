//! Whether a host's migrations take the network that is meant for them, for `culvertctl doctor`: of the proxy here, and of KubeVirt's
//! virt-handler, which has a proxy of its own and looks for `migration0` when it starts.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::address::{AddressError, INTERFACE, Place, Places};
use crate::rules::Network;

/// How a network is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Migrations take it.
    Good,
    /// There is none: migrations take the host's or pod's own network.
    Absent,
    /// Migrations fail, or it cannot be known.
    Wrong,
}

/// What is to be said of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How it is.
    pub verdict: Verdict,
    /// What it is about, and what was found.
    pub message: String,
    /// What to do; empty where nothing is to be done.
    pub remedy: String,
}

impl Finding {
    fn of(verdict: Verdict, message: String, remedy: &str) -> Self {
        Self { verdict, message, remedy: remedy.to_owned() }
    }
}

/// A network of this host's proxy, in the network namespace of the calling thread.
pub fn network(network: &Network) -> Finding {
    let name = format!("migration network {}", network.name);
    match network.address() {
        Ok((address, Place::Otherwise)) => {
            let message =
                format!("{name}: there is no interface {}, migrations take {address}", network.places.interface);
            Finding::of(
                Verdict::Absent,
                message,
                "make the interface, if migrations are to have a network of their own",
            )
        }
        Ok((address, _)) => Finding::of(Verdict::Good, format!("{name}: migrations take {address}"), ""),
        Err(error) => {
            // Errors tell what is wrong, and behind a semicolon what to do.
            let error = error.to_string();
            let (problem, remedy) = error.split_once("; ").unwrap_or((&error, ""));
            Finding::of(Verdict::Wrong, format!("{name}: {problem}"), remedy)
        }
    }
}

/// The network of the virt-handler that runs here; `None` where none does. `proc`: where processes are, `/proc`. It looks into the network
/// namespace of virt-handler's pod, which takes root.
pub fn virt_handler(proc: &Path) -> Option<Finding> {
    let process = find(proc, "virt-handler")?;
    let places = Places { interface: INTERFACE.to_owned(), network_status: None, otherwise: None };
    Some(match within(&process.join("ns/net"), || places.find()) {
        Ok(Ok((address, _))) => {
            Finding::of(Verdict::Good, format!("virt-handler has {INTERFACE}: migrations take {address}"), "")
        }
        Ok(Err(AddressError::Nowhere { .. })) => {
            let message = format!("virt-handler has no interface {INTERFACE}: migrations take the pods' network");
            let remedy = "if they are to have one of their own: name a NetworkAttachmentDefinition of KubeVirt's namespace as \
                          spec.configuration.migrations.network of the KubeVirt CR";
            Finding::of(Verdict::Absent, message, remedy)
        }
        Ok(Err(AddressError::Unusable { .. })) => {
            let message = format!(
                "virt-handler's interface {INTERFACE} has no address that other nodes reach: virt-handler ends when it starts again"
            );
            let remedy = "give the NetworkAttachmentDefinition that spec.configuration.migrations.network names an ipam, and look \
                          whether that has addresses left";
            Finding::of(Verdict::Wrong, message, remedy)
        }
        Ok(Err(error)) => Finding::of(Verdict::Wrong, format!("virt-handler: {error}"), ""),
        Err(error) => {
            let message = format!("virt-handler's network namespace cannot be looked into: {error}");
            Finding::of(Verdict::Wrong, message, "ask as root, on the node itself")
        }
    })
}

/// The folder of the first process with that name.
fn find(proc: &Path, name: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(proc).ok()?.filter_map(Result::ok);
    let is_process =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit));
    let is_it = |path: &PathBuf| fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name);
    entries.map(|entry| entry.path()).filter(is_process).find(is_it)
}

/// Runs `action` on a thread in a network namespace.
fn within<T: Send>(namespace: &Path, action: impl FnOnce() -> T + Send) -> io::Result<T> {
    let namespace = File::open(namespace)?;
    let there = || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(action())
    };
    let joined = thread::scope(|scope| scope.spawn(there).join());
    joined.unwrap_or_else(|_| Err(io::Error::other("the thread there failed")))
}
