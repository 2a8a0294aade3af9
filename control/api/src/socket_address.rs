//! The address of a control socket, whose path may be longer than an address holds (unix(7)).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// Where a socket is connected to: at its path, or through the descriptor of its folder, which stays open as long as this.
#[derive(Debug)]
pub struct SocketAddress {
    path: PathBuf,
    _folder: Option<File>,
}

impl SocketAddress {
    /// That of the socket at `path`, which need not be there yet.
    ///
    /// # Errors
    /// The kernel's, when the folder of a long path cannot be opened.
    pub fn new(path: &Path) -> io::Result<Self> {
        match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) if path.as_os_str().len() > MAX_ADDRESS_BYTES => {
                let folder = File::open(parent)?;
                let path = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
                Ok(Self { path, _folder: Some(folder) })
            }
            _ => Ok(Self { path: path.to_owned(), _folder: None }),
        }
    }

    /// What to connect to.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Longest path in a socket address.
const MAX_ADDRESS_BYTES: usize = 107;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn a_long_path_is_reached_through_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let long = folder.path().join("l".repeat(120));
        std::fs::create_dir(&long).unwrap();
        for path in [folder.path().join("s"), long.join("s")] {
            let address = SocketAddress::new(&path).unwrap();
            let _listener = UnixListener::bind(address.path()).unwrap();
            assert!(path.exists() && UnixStream::connect(address.path()).is_ok());
        }
        assert!(SocketAddress::new(&long.join("no-such").join("s")).is_err());
    }
}
