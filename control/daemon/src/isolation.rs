//! What the daemon gives up, in stages. docs/ISOLATION.md tells it to administrators.
//!
//! [`begin`] does the first four before there is another thread, so that all have them:
//!
//! 1. no new privileges;
//! 2. [`capabilities`]: those that the configured [`devices`] need stay, and those for other people's files;
//! 3. [`folders`]: Landlock, where the kernel has it: the folders and devices of the configuration stay, no TCP, and no process
//!    outside can be signalled;
//! 4. [`seccomp`]: the system calls that some thread needs stay;
//! 5. [`Isolation::confined`] and [`Isolation::narrow`], once each, when threads start: those that this [`Kind`] of thread needs.
//!    Threads inherit it from the one that starts them.
//!
//! What needs more is asked of the [`broker`](crate::broker): the supervisor keeps what that needs, see [`limit_supervisor`].

pub mod capabilities;
pub mod devices;
pub mod folders;
#[cfg(feature = "inject")]
pub mod probe;
pub mod seccomp;
pub mod system_calls;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use rustix::thread::CapabilitySet;

use crate::config::isolation::Mode;
use crate::config::{Attachment, Config, Migration, Port};
use devices::Family;
use folders::Folders;

/// A kind of thread: what it may ask of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Control: answers clients, opens ports, keeps the journal, helps pods.
    Control,
    /// Offers ports to kubelet.
    DevicePlugin,
    /// DPDK's own threads, and the one that starts it.
    Dpdk,
    /// Writes the log.
    Log,
    /// The metrics process.
    Metrics,
    /// The migration proxy, in its own process.
    Migration,
    /// Talks vhost-user to guests.
    Vhost,
    /// Moves frames.
    Worker,
}

/// What was given up.
#[derive(Debug)]
pub struct Isolation {
    mode: Mode,
    families: BTreeSet<Family>,
    /// Where it may go; `None`: anywhere.
    folders: Option<Folders>,
    /// The capabilities that are left; `None`: none was given up.
    capabilities: Option<CapabilitySet>,
}

/// Stages 1 to 4. To be called on the first thread, before there is another one. `config_file`: it is read again at a reload.
///
/// # Errors
/// What the kernel refuses.
pub fn begin(config: &Config, config_file: &Path) -> Result<Isolation> {
    let mode = config.daemon.isolation.mode;
    let families = devices::families(config);
    if mode == Mode::Off {
        return Ok(Isolation { mode, families, folders: None, capabilities: None });
    }
    rustix::thread::set_no_new_privs(true).context("new privileges cannot be given up")?;
    let held = capabilities::limit(capabilities::of_daemon(&families)).context("capabilities cannot be given up")?;
    // A process without any never had what devices need: let the kernel say so.
    let capabilities = (!held.is_empty()).then_some(held);
    let folders = folders::limit(config, config_file, &families)?;
    seccomp::apply(mode, &seccomp::everything(&families)).context("system calls cannot be limited")?;
    Ok(Isolation { mode, families, folders, capabilities })
}

/// As [`begin`], in the migration proxy's process.
///
/// # Errors
/// What the kernel refuses.
pub fn begin_migration(config: &Config, wanted: &Migration) -> Result<Isolation> {
    let mode = config.daemon.isolation.mode;
    let families = BTreeSet::new();
    if mode == Mode::Off {
        return Ok(Isolation { mode, families, folders: None, capabilities: None });
    }
    rustix::thread::set_no_new_privs(true).context("new privileges cannot be given up")?;
    let held = capabilities::limit(capabilities::of_daemon(&families)).context("capabilities cannot be given up")?;
    let folders = folders::limit_migration(config, wanted)?;
    seccomp::apply(mode, &seccomp::migration()).context("system calls cannot be limited")?;
    Ok(Isolation { mode, families, folders, capabilities: Some(held) })
}

/// As [`begin`], in the metrics process: it keeps nothing but what is open, and the control socket's path.
///
/// # Errors
/// What the kernel refuses.
pub fn begin_metrics(config: &Config) -> Result<Isolation> {
    let mode = config.daemon.isolation.mode;
    let families = BTreeSet::new();
    if mode == Mode::Off {
        return Ok(Isolation { mode, families, folders: None, capabilities: None });
    }
    rustix::thread::set_no_new_privs(true).context("new privileges cannot be given up")?;
    let held = capabilities::limit(CapabilitySet::empty()).context("capabilities cannot be given up")?;
    let folders = folders::limit_metrics()?;
    seccomp::apply(mode, &seccomp::metrics()).context("system calls cannot be limited")?;
    Ok(Isolation { mode, families, folders, capabilities: Some(held) })
}

/// What the supervisor gives up before it starts the daemon, which cannot have more than the supervisor.
///
/// # Errors
/// What the kernel refuses.
pub fn limit_supervisor(config: &Config) -> Result<()> {
    if config.daemon.isolation.mode == Mode::Off {
        return Ok(());
    }
    rustix::thread::set_no_new_privs(true).context("new privileges cannot be given up")?;
    let kept = capabilities::of_daemon(&devices::families(config)) | capabilities::OF_SUPERVISOR;
    capabilities::limit(kept).context("capabilities cannot be given up")?;
    Ok(())
}

impl Isolation {
    /// Does `action` on a thread that may do what `kind` needs, so that the threads that it starts may do no more.
    ///
    /// # Errors
    /// What the kernel refuses, or `action` has panicked.
    pub fn confined<T: Send>(&self, kind: Kind, action: impl FnOnce() -> T + Send) -> Result<T> {
        let there = || self.narrow(kind).map(|()| action());
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name(kind.starter().to_owned());
            let thread = thread.spawn_scoped(scope, there).context("a thread cannot start")?;
            thread.join().map_err(|_| anyhow!("what starts {kind:?} threads failed; see the log"))?
        })
    }

    /// Stage 5 for this thread and those that it starts: no system calls but those that `kind` needs.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn narrow(&self, kind: Kind) -> Result<()> {
        if self.mode == Mode::Off {
            return Ok(());
        }
        seccomp::apply(self.mode, &seccomp::of(kind, &self.families))
            .with_context(|| format!("system calls of {kind:?} threads cannot be limited"))
    }

    /// As [`Self::narrow`] for a thread that cannot tell anybody: what is refused is logged, and the thread goes on with what all have.
    pub fn narrow_here(&self, kind: Kind) {
        if let Err(error) = self.narrow(kind) {
            tracing::error!("{error:#}");
        }
    }

    /// What is less than an administrator may expect, as sentences.
    pub fn warnings(&self) -> impl Iterator<Item = &'static str> {
        let has_landlock = self.folders.is_some();
        let warning = match self.mode {
            Mode::Off => Some("daemon.isolation is \"off\": culvertd keeps all its privileges"),
            _ if !has_landlock => Some("the kernel has no Landlock: the file system stays reachable"),
            Mode::Log => {
                Some("daemon.isolation is \"log\": system calls outside of the lists are made, see the kernel's log")
            }
            Mode::Full | Mode::Kill => None,
        };
        warning.into_iter()
    }

    /// Whether a port can be opened with what is left.
    ///
    /// # Errors
    /// A sentence: what is missing, and how to have it.
    pub fn check(&self, port: &Port) -> Result<(), String> {
        match &port.attachment {
            // Below a root that is in them, a pod may have put what it likes in the place of a folder.
            Attachment::Guest { socket, .. } => {
                let root = socket.root.as_deref().map(|root| self.check_path(root));
                if root == Some(Ok(())) { Ok(()) } else { self.check_path(&socket.path) }
            }
            Attachment::Nic { device, .. } => {
                devices::families_of(device).into_iter().try_for_each(|family| self.check_family(device, family))?;
                let check = |path| self.check_path(path).map_err(|sentence| format!("{device}: {sentence}"));
                devices::paths_of(device).iter().map(PathBuf::as_path).try_for_each(check)
            }
        }
    }

    fn check_path(&self, path: &Path) -> Result<(), String> {
        match &self.folders {
            Some(folders) if !folders.contain(path) => Err(format!(
                "{} is in none of the folders that culvertd may use; name one above it in daemon.folders and restart culvertd",
                path.display()
            )),
            _ => Ok(()),
        }
    }

    fn check_family(&self, device: &str, family: Family) -> Result<(), String> {
        let missing = family.needs() - self.capabilities.unwrap_or(CapabilitySet::all());
        if missing.is_empty() && (self.mode == Mode::Off || self.families.contains(&family)) {
            return Ok(());
        }
        let lost = if missing.is_empty() { String::new() } else { format!(" ({})", capabilities::names(missing)) };
        Err(format!(
            "{device}: culvertd has given up what {family} devices need{lost}, since none was configured when it started, or never \
             had it; add \"{family}\" to daemon.device_kinds in the configuration file, and restart culvertd"
        ))
    }
}

impl Kind {
    /// The name of the thread that starts those of this kind. ci/system-calls knows them by it.
    fn starter(self) -> &'static str {
        match self {
            Self::Control => "as-control",
            Self::DevicePlugin => "as-plugin",
            Self::Dpdk => "as-dpdk",
            Self::Log => "as-log",
            Self::Metrics => "as-metrics",
            Self::Migration => "as-migration",
            Self::Vhost => "as-vhost",
            Self::Worker => "as-worker",
        }
    }
}
