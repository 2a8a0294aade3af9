//! Landlock: where in the file system the daemon may go. What is open stays open; what is not named here can be neither opened, made
//! nor removed.

use std::collections::BTreeSet;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, make_bitflags,
};

use super::devices::{self, Family};
use crate::config::{Attachment, Config, Migration};

/// The folders in which the daemon may do what its user may. Those that are only read, and devices, are not among them.
#[derive(Debug)]
pub struct Folders(Vec<PathBuf>);

impl Folders {
    /// Whether a path, which need not exist, is in one of them. For messages: the kernel decides.
    pub fn contain(&self, path: &Path) -> bool {
        let Some(existing) = nearest(path) else { return false };
        self.0.iter().any(|folder| existing.starts_with(folder))
    }
}

/// Limits this thread, and those that it will start, to what the configuration names. `None`: the kernel has no Landlock.
///
/// # Errors
/// What the kernel refuses although it has Landlock.
pub fn limit(config: &Config, config_file: &Path, families: &BTreeSet<Family>) -> Result<Option<Folders>> {
    make_own(config);
    let folders = existing(&wanted(config));
    let device = WRITING | AccessFs::IoctlDev;
    let mut rules = common(&folders);
    rules.extend(config_file.parent().map(|folder| (folder.to_owned(), READING)));
    rules.extend(families.iter().flat_map(|family| family.files()).map(|path| (PathBuf::from(path), device)));
    let ruleset = known().and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(KNOWN)));
    Ok(restrict(ruleset, &rules)?.then_some(Folders(folders)))
}

/// As [`limit`], for the migration proxy: its own folders, and those of its certificates to read. Its peers are on the network.
///
/// # Errors
/// As [`limit`].
pub fn limit_migration(config: &Config, wanted: &Migration) -> Result<Option<Folders>> {
    make_own(config);
    let own = config.daemon.control_socket.parent().map(Path::to_owned).into_iter().chain([wanted.folder.clone()]);
    let own = existing(&own.collect::<Vec<_>>());
    let files = wanted.tls.iter().flat_map(|tls| [&tls.certificate, &tls.key, &tls.authority]);
    let files = files.chain(wanted.networks.iter().filter_map(|network| network.places.network_status.as_ref()));
    // A link's folder, and that of what it leads to.
    let read = files.flat_map(|file| [Some(file.clone()), file.canonicalize().ok()]).flatten();
    let mut rules = common(&own);
    rules.extend(read.filter_map(|file| Some((file.parent()?.to_owned(), READING))));
    Ok(restrict(known(), &rules)?.then_some(Folders(own)))
}

/// As [`limit`], for the metrics process: nothing is its own, and it connects to nobody by TCP. The control socket is reached all
/// the same: Landlock does not know connections to sockets with names.
///
/// # Errors
/// As [`limit`].
pub fn limit_metrics() -> Result<Option<Folders>> {
    let ruleset = known().and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(KNOWN)));
    let rules = [(PathBuf::from("/proc/self"), READING)];
    Ok(restrict(ruleset, &rules)?.then_some(Folders(Vec::new())))
}

/// What may be done below a path.
type Rule = (PathBuf, BitFlags<AccessFs>);

/// Everything in these folders but to start programs and make devices; and what the C library and DPDK need.
fn common(folders: &[PathBuf]) -> Vec<Rule> {
    let all = AccessFs::from_all(KNOWN) & !(AccessFs::Execute | AccessFs::MakeBlock | AccessFs::MakeChar);
    let own = folders.iter().map(|folder| (folder.clone(), all));
    let read = READ.iter().map(|path| (PathBuf::from(path), READING));
    let written = WRITTEN.iter().map(|path| (PathBuf::from(path), WRITING));
    own.chain(read).chain(written).collect()
}

/// Rules of files and signals. Later kernels know more than earlier ones: each denies what it knows.
fn known() -> Result<Ruleset, RulesetError> {
    let ruleset =
        Ruleset::default().set_compatibility(CompatLevel::BestEffort).handle_access(AccessFs::from_all(KNOWN))?;
    ruleset.scope(Scope::from_all(KNOWN))
}

/// Limits this thread, and those that it will start, to these rules; whether the kernel has Landlock.
fn restrict(ruleset: Result<Ruleset, RulesetError>, rules: &[Rule]) -> Result<bool> {
    let ruleset = ruleset.and_then(Ruleset::create).context("Landlock's rules cannot be made")?;
    let ruleset = rules.iter().try_fold(ruleset, |ruleset, (path, access)| add(ruleset, path, *access))?;
    let status = ruleset.restrict_self().context("Landlock's rules cannot be applied")?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

/// Allows `access` to what is below `path`, if there is such a thing.
fn add(ruleset: RulesetCreated, path: &Path, access: BitFlags<AccessFs>) -> Result<RulesetCreated> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let Ok(descriptor) = PathFd::new(path) else { return Ok(ruleset) };
    // A file has fewer rights than a folder; asking for others is an error.
    let access = if path.is_dir() { access } else { access & AccessFs::from_file(KNOWN) };
    ruleset.add_rule(PathBeneath::new(descriptor, access)).with_context(|| format!("{}: no rule", path.display()))
}

/// Makes the daemon's own folders, as it would later. What fails is told later, by who needs it.
fn make_own(config: &Config) {
    let make = |path: &Path, mode| DirBuilder::new().recursive(true).mode(mode).create(path);
    let _ = make(&config.daemon.state_dir, 0o700);
    if let Some(folder) = config.daemon.control_socket.parent() {
        let _ = make(folder, 0o755);
    }
    if config.daemon.devices.kubelet_device_plugins.is_some() {
        let _ = make(&config.daemon.devices.device_folder, 0o755);
        let _ = make(&config.daemon.devices.device_info_folder, 0o755);
    }
}

/// All that the configuration names.
fn wanted(config: &Config) -> Vec<PathBuf> {
    let daemon = &config.daemon;
    let mut wanted: Vec<PathBuf> = ALWAYS.iter().map(PathBuf::from).collect();
    wanted.push(daemon.state_dir.clone());
    wanted.extend(daemon.control_socket.parent().map(Path::to_owned));
    if let Some(kubelet) = &daemon.devices.kubelet_device_plugins {
        wanted.push(kubelet.clone());
        wanted.push(daemon.devices.device_folder.clone());
        wanted.push(daemon.devices.device_info_folder.clone());
    }
    wanted.extend(daemon.isolation.folders.iter().cloned());
    for port in &config.objects.ports {
        match &port.wanted.attachment {
            Attachment::Guest { socket, .. } => {
                wanted.extend(socket.root.clone().or_else(|| socket.path.parent().map(Path::to_owned)));
            }
            Attachment::Nic { device, .. } => {
                wanted.extend(devices::paths_of(device).iter().filter_map(|path| path.parent()).map(Path::to_owned));
            }
        }
    }
    wanted.extend(config.objects.pods.iter().flat_map(|pod| pod.wanted.folders.iter().cloned()));
    wanted
}

/// What there is of these paths, or nearest above them. The root is above all: whoever means that turns this off.
fn existing(wanted: &[PathBuf]) -> Vec<PathBuf> {
    let existing: BTreeSet<PathBuf> = wanted.iter().filter_map(|path| nearest(path)).collect();
    existing.into_iter().filter(|path| path.parent().is_some()).collect()
}

/// The path itself or the nearest one above it that exists, without links.
fn nearest(path: &Path) -> Option<PathBuf> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    path.ancestors().find_map(|path| {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        path.canonicalize().ok()
    })
}

/// What is known of Landlock here.
const KNOWN: ABI = ABI::V6;
const READING: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir});
const WRITING: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir | WriteFile});
/// Where sockets are wherever nothing else is said.
const ALWAYS: &[&str] = &["/run/culvert", "/var/lib/kubelet/pods"];
/// What DPDK and the C library read.
const READ: &[&str] = &["/proc", "/sys", "/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/dev/urandom"];
/// What is written to besides. Names of threads are in the second.
const WRITTEN: &[&str] = &["/dev/null", "/proc/self/task"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_exist_yet_is_where_its_parents_are() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("a")).unwrap();
        std::os::unix::fs::symlink("/", root.join("a/out")).unwrap();
        let folders = Folders(vec![root.join("a")]);
        for path in ["a", "a/b", "a/b/c/vhost.sock", "a/../a/x"] {
            assert!(folders.contain(&root.join(path)), "{path}");
        }
        for path in ["", "b", "ab/c", "a/..", "a/out/etc"] {
            assert!(!folders.contain(&root.join(path)), "{path}");
        }
    }
}
