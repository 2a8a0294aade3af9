//! Where it is noted how far guests' packed rings are, for the next daemon: one file a port, in memory, beside the control socket.
//!
//! The vhost-user server makes a port's file when its guest has packed rings ([`culvert_guest::record`]). It stays when the guest goes, for
//! its frontend may come again, and goes with the port.

use std::collections::BTreeSet;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The folder of the files.
#[derive(Debug)]
pub(super) struct RingRecords {
    folder: Option<PathBuf>,
}

impl RingRecords {
    /// Makes the folder, if that is possible; the files of ports other than these are removed.
    pub(super) fn open(control_socket: &Path, ports: &BTreeSet<&str>) -> Self {
        let folder = control_socket.parent().map(|folder| folder.join("rings"));
        if let Some(folder) = &folder {
            // If not, the port tells when it needs its file.
            let _ = DirBuilder::new().recursive(true).mode(0o700).create(folder);
            for file in folder.read_dir().into_iter().flatten().flatten() {
                if !file.file_name().to_str().is_some_and(|name| ports.contains(name)) {
                    let _ = std::fs::remove_file(file.path());
                }
            }
        }
        Self { folder }
    }

    /// The file of a port, which need not be there.
    pub(super) fn of(&self, port: &str) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.join(port))
    }

    /// Removes the file of a port that there is no more.
    pub(super) fn forget(&self, port: &str) {
        let removed = self.of(port).map_or(Ok(()), std::fs::remove_file);
        if let Err(error) = removed
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(port, "where its rings were stays noted: {error}");
        }
    }
}
