//! What Multus is told of each device: a file of the device information specification (k8snetworkplumbingwg, 1.1.0) in the
//! folder where device plugins leave it. Multus copies it for culvert-cni, which puts the interface's socket in the place
//! of the folder's path.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

use super::service::container_folder;
use super::{Offer, resource_name};
use crate::name::Name;

/// The files of all devices.
#[derive(Debug)]
pub struct InfoFiles {
    folder: PathBuf,
}

impl InfoFiles {
    /// Nothing is written yet.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// Writes what is missing for these offers, and removes what is there for others: the resources are all ours.
    ///
    /// # Errors
    /// A sentence; what can be done is.
    pub fn publish(&mut self, offers: &[Offer]) -> Result<(), String> {
        let wanted = offers.iter().flat_map(|offer| {
            let text = text(&offer.network);
            offer.ids().map(move |id| (file_name(&offer.network, &id), text.clone()))
        });
        self.bring_about(&wanted.collect()).map_err(|error| {
            let folder = self.folder.display();
            format!(
                "Multus is not told of devices in {folder}: {error}; correct that, or set daemon.device_info_folder"
            )
        })
    }

    /// Removes all files.
    pub fn remove(&mut self) {
        if let Err(sentence) = self.publish(&[]) {
            tracing::warn!("{sentence}");
        }
    }

    fn bring_about(&self, wanted: &BTreeMap<String, String>) -> io::Result<()> {
        if !wanted.is_empty() {
            std::fs::DirBuilder::new().recursive(true).mode(0o755).create(&self.folder)?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = match rustix::fs::open(&self.folder, flags, Mode::empty()) {
            Err(Errno::NOENT) if wanted.is_empty() => return Ok(()),
            other => other?,
        };
        let mut outcome = Ok(());
        for entry in Dir::read_from(&folder)? {
            let name = entry?.file_name().to_bytes().to_owned();
            if is_ours(&name) && !std::str::from_utf8(&name).is_ok_and(|name| wanted.contains_key(name)) {
                let removed = rustix::fs::unlinkat(&folder, OsStr::from_bytes(&name), AtFlags::empty());
                outcome = outcome.and(removed.map_err(io::Error::from));
            }
        }
        for (name, text) in wanted {
            if !holds(&folder, name, text) {
                outcome = outcome.and(write(&folder, name, text));
            }
        }
        outcome
    }
}

/// `culvert.dev-<network>-<device>-device.json`, as the specification makes it of resource and device.
fn file_name(network: &Name, id: &str) -> String {
    format!("{}-{id}{SUFFIX}", resource_name(network).replace('/', "-"))
}

fn is_ours(name: &[u8]) -> bool {
    name.starts_with(PREFIX) && name.ends_with(SUFFIX.as_bytes())
}

/// The mode is the container's role: a client of the socket that culvertd listens on. A name needs no quoting.
fn text(network: &Name) -> String {
    let path = container_folder(network.as_str());
    format!(
        "{{\"type\":\"vhost-user\",\"version\":\"1.1.0\",\"vhost-user\":{{\"mode\":\"client\",\"path\":\"{path}\"}}}}\n"
    )
}

/// Whether a file has that text already.
fn holds(folder: &OwnedFd, name: &str, text: &str) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::openat(folder, name, flags, Mode::empty()) else { return false };
    let mut found = Vec::new();
    let most = u64::try_from(text.len()).unwrap_or(0).saturating_add(1);
    std::fs::File::from(file).take(most).read_to_end(&mut found).is_ok() && found == text.as_bytes()
}

/// Writes a file that appears whole, in the place of one that is there.
fn write(folder: &OwnedFd, name: &str, text: &str) -> io::Result<()> {
    let new_name = format!(".culvertd-{}", std::process::id());
    match rustix::fs::unlinkat(folder, &new_name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = std::fs::File::from(rustix::fs::openat(folder, &new_name, flags, Mode::from_raw_mode(0o600))?);
    let written = file.write_all(text.as_bytes()).and_then(|()| {
        rustix::fs::fchmod(&file, Mode::from_raw_mode(0o444))?;
        Ok(rustix::fs::renameat(folder, &new_name, folder, name)?)
    });
    if written.is_err() {
        // Best effort: the first error is the one to tell.
        let _ = rustix::fs::unlinkat(folder, &new_name, AtFlags::empty());
    }
    written
}

/// What the names of our resources' files start with.
const PREFIX: &[u8] = b"culvert.dev-";
const SUFFIX: &str = "-device.json";

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn offer(network: &str, ports: u32) -> Offer {
        Offer { network: Name::parse(network).unwrap(), ports, healthy: true }
    }

    fn names(folder: &Path) -> Vec<String> {
        let names = folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn files_come_and_go_with_their_devices() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("devinfo/dp");
        let mut files = InfoFiles::new(&folder);
        files.publish(&[]).unwrap();
        assert!(!folder.exists());
        files.publish(&[offer("blue", 2), offer("red", 1)]).unwrap();
        let blue = folder.join("culvert.dev-blue-port-1-device.json");
        assert_eq!(
            std::fs::read_to_string(&blue).unwrap(),
            "{\"type\":\"vhost-user\",\"version\":\"1.1.0\",\"vhost-user\":{\"mode\":\"client\",\"path\":\
             \"/var/run/culvert/blue\"}}\n"
        );
        assert_eq!(blue.metadata().unwrap().permissions().mode() & 0o7777, 0o444);
        std::fs::write(folder.join("other.dev-blue-port-1-device.json"), "").unwrap();
        files.publish(&[offer("blue", 1)]).unwrap();
        assert_eq!(names(&folder), ["culvert.dev-blue-port-0-device.json", "other.dev-blue-port-1-device.json"]);
        files.remove();
        assert_eq!(names(&folder), ["other.dev-blue-port-1-device.json"]);
    }

    #[test]
    fn what_has_the_name_of_a_file_is_replaced() {
        let place = tempfile::tempdir().unwrap();
        let precious = place.path().join("precious");
        std::fs::write(&precious, "precious").unwrap();
        let folder = place.path().join("dp");
        std::fs::create_dir(&folder).unwrap();
        let file = |number: u8| folder.join(format!("culvert.dev-blue-port-{number}-device.json"));
        symlink(&precious, file(0)).unwrap();
        std::fs::write(file(1), "{}").unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, file(2), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        InfoFiles::new(&folder).publish(&[offer("blue", 3)]).unwrap();
        for number in 0..3 {
            assert!(file(number).symlink_metadata().unwrap().is_file());
            assert!(std::fs::read_to_string(file(number)).unwrap().contains("\"/var/run/culvert/blue\""));
        }
        assert_eq!(std::fs::read(precious).unwrap(), b"precious");
    }

    #[test]
    fn a_folder_that_cannot_be_used_is_told() {
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("file"), "").unwrap();
        let error = InfoFiles::new(&place.path().join("file/dp")).publish(&[offer("blue", 1)]).unwrap_err();
        assert!(
            error.contains("file/dp: ") && error.ends_with("correct that, or set daemon.device_info_folder"),
            "{error}"
        );
    }
}
