//! What a frontend hands over as a kick, call or error descriptor, checked and made harmless.
//!
//! A worker writes to a call and waits for a kick, so both must be what they claim and should not block. An eventfd is
//! made non-blocking, which its frontend can undo: `culvert_guest::call` is ready for that. User-mode Linux has a stream
//! socket for a call. A pipe is opened anew, so that the peer, who shares the descriptor that it sent, cannot make ours
//! block again.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

/// The descriptor is nothing that can signal an event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAnEvent {
    /// Another kind of file.
    #[error("its descriptor is {0}, not an eventfd")]
    Kind(String),
    /// The kernel would not tell or change it.
    #[error("its descriptor cannot be used: {0}")]
    Kernel(Errno),
}

impl From<Errno> for NotAnEvent {
    fn from(errno: Errno) -> Self {
        Self::Kernel(errno)
    }
}

/// Checks a descriptor that we wait on.
///
/// # Errors
/// It is not an eventfd.
pub fn kick(descriptor: OwnedFd) -> Result<OwnedFd, NotAnEvent> {
    if !is_eventfd(&descriptor)? {
        return Err(NotAnEvent::Kind(kind(&descriptor)));
    }
    non_blocking(descriptor)
}

/// Checks a descriptor that we write to.
///
/// # Errors
/// It is neither an eventfd nor a pipe nor a socket.
pub fn call(descriptor: OwnedFd) -> Result<OwnedFd, NotAnEvent> {
    if is_eventfd(&descriptor)? {
        return non_blocking(descriptor);
    }
    match file_type(&descriptor)? {
        FileType::Fifo => {}
        FileType::Socket => return non_blocking(descriptor),
        _ => return Err(NotAnEvent::Kind(kind(&descriptor))),
    }
    match rustix::fs::open(link(&descriptor), OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()) {
        Ok(ours) => Ok(ours),
        // No /proc, as in a translator's empty root.
        Err(Errno::NOENT) => non_blocking(descriptor),
        Err(error) => Err(error.into()),
    }
}

fn is_eventfd(descriptor: &OwnedFd) -> Result<bool, Errno> {
    match rustix::fs::readlink(link(descriptor), Vec::new()) {
        Ok(target) => Ok(target.as_bytes() == b"anon_inode:[eventfd]"),
        // No /proc: at least nothing that has a name, a type or contents.
        Err(Errno::NOENT) => Ok(file_type(descriptor)? == FileType::Unknown),
        Err(error) => Err(error),
    }
}

fn file_type(descriptor: &OwnedFd) -> Result<FileType, Errno> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(descriptor)?.st_mode))
}

fn non_blocking(descriptor: OwnedFd) -> Result<OwnedFd, NotAnEvent> {
    let flags = rustix::fs::fcntl_getfl(&descriptor)?;
    rustix::fs::fcntl_setfl(&descriptor, flags | OFlags::NONBLOCK)?;
    Ok(descriptor)
}

fn kind(descriptor: &OwnedFd) -> String {
    let name = match file_type(descriptor) {
        Ok(FileType::RegularFile) => "a file",
        Ok(FileType::Directory) => "a directory",
        Ok(FileType::Fifo) => "a pipe",
        Ok(FileType::Socket) => "a socket",
        Ok(FileType::CharacterDevice | FileType::BlockDevice) => "a device",
        Ok(FileType::Symlink | FileType::Unknown) | Err(_) => "something else",
    };
    name.to_owned()
}

fn link(descriptor: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", descriptor.as_fd().as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::EventfdFlags;
    use rustix::fs::MemfdFlags;
    use std::fs::File;

    fn is_non_blocking(descriptor: &OwnedFd) -> bool {
        rustix::fs::fcntl_getfl(descriptor).unwrap().contains(OFlags::NONBLOCK)
    }

    #[test]
    fn eventfds_become_non_blocking() {
        for check in [kick, call] {
            let event = check(rustix::event::eventfd(0, EventfdFlags::empty()).unwrap()).unwrap();
            assert!(is_non_blocking(&event));
        }
    }

    /// hostile V6
    #[test]
    fn other_descriptors_are_refused_by_name() {
        let (reader, writer) = std::io::pipe().unwrap();
        let (socket, _) = std::os::unix::net::UnixStream::pair().unwrap();
        for (descriptor, name, stream) in [
            (OwnedFd::from(File::open("/tmp").unwrap()), "a directory", false),
            (OwnedFd::from(File::open("/dev/zero").unwrap()), "a device", false),
            (rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC).unwrap(), "a file", false),
            (
                rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).unwrap(),
                "something else",
                false,
            ),
            (OwnedFd::from(socket), "a socket", true),
            (OwnedFd::from(reader), "a pipe", true),
            (OwnedFd::from(writer), "a pipe", true),
        ] {
            let again = descriptor.try_clone().unwrap();
            assert_eq!(kick(descriptor).unwrap_err(), NotAnEvent::Kind(name.to_owned()));
            assert_eq!(call(again).is_ok(), stream, "{name}");
        }
    }

    #[test]
    fn a_pipe_cannot_be_made_blocking_by_its_sender() {
        let (_reader, writer) = std::io::pipe().unwrap();
        let theirs = OwnedFd::from(writer);
        let ours = call(theirs.try_clone().unwrap()).unwrap();
        assert!(is_non_blocking(&ours));
        assert!(!is_non_blocking(&theirs), "the sender's own description stays as it was");
    }
}
