//! The socket in the hook folder: virt-launcher calls every file there as a hook, and gives up when one accepts without
//! answering.
//!
//! So the socket gets its name only when its server is there: it is bound in a folder below, which virt-launcher passes
//! over, and then renamed. That also replaces what an earlier container of the same name has left. virt-launcher knows sockets
//! by their file names alone, across all sidecars: the name has the container's in it.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// A socket that listens under a name that nobody looks for.
#[derive(Debug)]
pub struct HookSocket {
    listener: UnixListener,
    hidden: PathBuf,
    path: PathBuf,
}

/// The name of a socket that is seen; dropping this removes it.
#[derive(Debug)]
pub struct Published(PathBuf);

impl HookSocket {
    /// Makes the socket that [`HookSocket::publish`] will call `path`. `subfolder` is below its folder, and is made.
    ///
    /// # Errors
    /// The folder of `path` is not there or not ours to write to, or something else than a socket has the name.
    pub fn bind(path: &Path, subfolder: &Path) -> Result<Self> {
        let name = path.file_name().with_context(|| format!("{} has no file name", path.display()))?;
        if fs::symlink_metadata(path).is_ok_and(|found| !found.file_type().is_socket()) {
            bail!("{} is there and no socket; remove it", path.display());
        }
        make_folder(subfolder)?;
        let hidden = subfolder.join(name);
        match fs::remove_file(&hidden) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("{} cannot be removed", hidden.display()));
            }
            _ => {}
        }
        let listener =
            UnixListener::bind(&hidden).with_context(|| format!("the socket {} cannot be made", hidden.display()))?;
        fs::set_permissions(&hidden, Permissions::from_mode(0o770))
            .with_context(|| format!("the mode of {} cannot be set", hidden.display()))?;
        Ok(Self { listener, hidden, path: path.to_owned() })
    }

    /// A descriptor of the socket for its server.
    ///
    /// # Errors
    /// No descriptor is free.
    pub fn listener(&self) -> io::Result<tokio::net::UnixListener> {
        let listener = self.listener.try_clone()?;
        listener.set_nonblocking(true)?;
        tokio::net::UnixListener::from_std(listener)
    }

    /// Gives the socket its name. Its server must run.
    ///
    /// # Errors
    /// The kernel's.
    pub fn publish(self) -> Result<Published> {
        fs::rename(&self.hidden, &self.path)
            .with_context(|| format!("the socket cannot be called {}", self.path.display()))?;
        Ok(Published(self.path))
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::warn!("{} stays behind: {error}", self.0.display());
        }
    }
}

/// The socket's name in the hook folder. Without a container's name, which KubeVirt gives, one that nobody else has; and
/// sockets of that kind whose processes have ended are removed.
///
/// # Errors
/// The container's name cannot be part of a file name, or the kernel gives no random number.
pub fn name(folder: &Path, container: Option<&str>) -> Result<String> {
    let Some(container) = container else {
        remove_dead(folder);
        let random = fs::read_to_string("/proc/sys/kernel/random/uuid").context("the kernel gives no random name")?;
        return Ok(format!("{PREFIX}{}.sock", random.trim()));
    };
    let plain = container.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if !plain || container.is_empty() || container.len() > 63 {
        bail!("CONTAINER_NAME is {container:?}; it must have 1 to 63 letters, digits, \"-\", \"_\" or \".\"");
    }
    Ok(format!("{PREFIX}{container}.sock"))
}

/// Makes a folder for our user and group, if it is not there.
///
/// # Errors
/// The kernel's.
pub fn make_folder(folder: &Path) -> Result<()> {
    match fs::DirBuilder::new().mode(0o770).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        result => {
            result.with_context(|| format!("the folder {} cannot be made; is its volume mounted?", folder.display()))
        }
    }
}

/// Removes the sockets with our prefix that nobody listens on.
fn remove_dead(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.filter_map(Result::ok) {
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        let is_socket = entry.file_type().is_ok_and(|kind| kind.is_socket());
        let dead =
            || UnixStream::connect(entry.path()).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
        if ours && is_socket && dead() {
            // If it cannot be removed, it is refused to virt-launcher as to us.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// What our sockets' names begin with.
const PREFIX: &str = "culvert-hook-";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_seen_when_it_is_published_and_no_longer_than_its_server() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let files =
            || fs::read_dir(folder.path()).unwrap().filter(|entry| !entry.as_ref().unwrap().path().is_dir()).count();
        // What an earlier container has left.
        drop(UnixListener::bind(&path).unwrap());
        let socket = HookSocket::bind(&path, &folder.path().join("culvert")).unwrap();
        UnixStream::connect(&path).unwrap_err();
        let published = socket.publish().unwrap();
        UnixStream::connect(&path).unwrap_err();
        let socket = HookSocket::bind(&path, &folder.path().join("culvert")).unwrap();
        let listener = socket.listener.try_clone().unwrap();
        let again = socket.publish().unwrap();
        UnixStream::connect(&path).unwrap();
        assert_eq!((files(), fs::read_dir(folder.path().join("culvert")).unwrap().count()), (1, 0));
        drop((again, listener));
        assert_eq!(files(), 0);
        drop(published);
    }

    #[test]
    fn what_is_no_socket_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        fs::write(&path, "precious").unwrap();
        let error = HookSocket::bind(&path, &folder.path().join("culvert")).unwrap_err().to_string();
        assert!(error.contains("a.sock is there and no socket"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn names_are_by_container_or_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(name(folder.path(), Some("hook-sidecar-0")).unwrap(), "culvert-hook-hook-sidecar-0.sock");
        for wrong in ["", "a/b", "a b", "ä"] {
            name(folder.path(), Some(wrong)).unwrap_err();
        }
        drop(UnixListener::bind(folder.path().join("culvert-hook-dead.sock")).unwrap());
        let _live = UnixListener::bind(folder.path().join("culvert-hook-live.sock")).unwrap();
        drop(UnixListener::bind(folder.path().join("foreign.sock")).unwrap());
        assert_ne!(name(folder.path(), None).unwrap(), name(folder.path(), None).unwrap());
        assert!(!folder.path().join("culvert-hook-dead.sock").exists());
        assert!(folder.path().join("culvert-hook-live.sock").exists() && folder.path().join("foreign.sock").exists());
    }
}
