//! What a frontend hands over as a kick, call or error descriptor, checked and made harmless.
//!
//! A worker writes to a call and waits for a kick, so both must be what they claim and should not block. An eventfd is
//! made non-blocking, which its frontend can undo: `culvert_guest::call` is ready for that. User-mode Linux has a stream
//! socket for a call. A pipe is opened anew, so that the peer, who shares the descriptor that it sent, cannot make ours
//! block again.
//!
//! What a descriptor is, the kernel's name for it tells: fstat(2) would ask the file system, which may be a process of the
//! frontend's that does not answer. Nothing is closed here, for the same reason.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::AddressFamily;

/// The descriptor is nothing that can signal an event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAnEvent {
    /// Another kind of file.
    #[error("its descriptor is {0}, not {1}")]
    Kind(&'static str, &'static str),
    /// The kernel would not tell or change it.
    #[error("its descriptor cannot be used: {0}")]
    Kernel(Errno),
}

impl From<Errno> for NotAnEvent {
    fn from(errno: Errno) -> Self {
        Self::Kernel(errno)
    }
}

/// Checks a descriptor that we wait on, and makes it non-blocking.
///
/// # Errors
/// It is not an eventfd.
pub fn kick(descriptor: &OwnedFd) -> Result<(), NotAnEvent> {
    match kind(descriptor)? {
        Kind::Event => non_blocking(descriptor),
        other => Err(NotAnEvent::Kind(other.name(), "an eventfd")),
    }
}

/// Checks a descriptor that we write to, and makes it non-blocking; returns what is to be written to in its place, if
/// anything is.
///
/// # Errors
/// It is neither an eventfd nor a pipe nor a local socket.
pub fn call(descriptor: &OwnedFd) -> Result<Option<OwnedFd>, NotAnEvent> {
    match kind(descriptor)? {
        Kind::Event => non_blocking(descriptor).map(|()| None),
        Kind::Socket if is_local(descriptor) => non_blocking(descriptor).map(|()| None),
        Kind::Pipe => {
            match rustix::fs::open(link(descriptor), OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
            {
                Ok(ours) => Ok(Some(ours)),
                // No /proc, as in a translator's empty root.
                Err(Errno::NOENT) => non_blocking(descriptor).map(|()| None),
                Err(error) => Err(error.into()),
            }
        }
        other => Err(NotAnEvent::Kind(other.name(), "an eventfd")),
    }
}

/// Checks where requests of ours would go: a local socket, as QEMU has it, or a pipe, as user-mode Linux has it.
///
/// # Errors
/// It is neither.
pub fn channel(descriptor: &OwnedFd) -> Result<(), NotAnEvent> {
    match kind(descriptor)? {
        Kind::Pipe => Ok(()),
        Kind::Socket if is_local(descriptor) => Ok(()),
        other => Err(NotAnEvent::Kind(other.name(), "a local socket or a pipe")),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Event,
    Pipe,
    Socket,
    Other(&'static str),
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Event => "an eventfd",
            Self::Pipe => "a pipe",
            Self::Socket => "a socket",
            Self::Other(name) => name,
        }
    }
}

fn kind(descriptor: &OwnedFd) -> Result<Kind, Errno> {
    match rustix::fs::readlink(link(descriptor), Vec::new()) {
        Ok(target) => Ok(match target.as_bytes() {
            b"anon_inode:[eventfd]" => Kind::Event,
            name if name.starts_with(b"pipe:[") => Kind::Pipe,
            name if name.starts_with(b"socket:[") => Kind::Socket,
            name if name.starts_with(b"/") => Kind::Other("a file, folder or device"),
            _ => Kind::Other("something else"),
        }),
        // No /proc, as in a translator's empty root: there is no other guest that would wait. An eventfd is at least nothing
        // that has a name, a type or contents.
        Err(Errno::NOENT) => {
            let status = rustix::fs::fstat(descriptor)?;
            Ok(match FileType::from_raw_mode(status.st_mode) {
                FileType::Unknown => Kind::Event,
                FileType::Fifo => Kind::Pipe,
                FileType::Socket => Kind::Socket,
                _ => Kind::Other("a file, folder or device"),
            })
        }
        Err(error) => Err(error),
    }
}

/// Others could be told to do much with eight bytes, and closing them may take long.
fn is_local(socket: &OwnedFd) -> bool {
    rustix::net::sockopt::socket_domain(socket) == Ok(AddressFamily::UNIX)
}

fn non_blocking(descriptor: &OwnedFd) -> Result<(), NotAnEvent> {
    let flags = rustix::fs::fcntl_getfl(descriptor)?;
    rustix::fs::fcntl_setfl(descriptor, flags | OFlags::NONBLOCK)?;
    Ok(())
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
        for check in [(|event| kick(event)) as fn(&OwnedFd) -> _, |event| call(event).map(drop)] {
            let event = rustix::event::eventfd(0, EventfdFlags::empty()).unwrap();
            check(&event).unwrap();
            assert!(is_non_blocking(&event));
        }
    }

    /// hostile V6
    #[test]
    fn other_descriptors_are_refused_by_name() {
        let (reader, writer) = std::io::pipe().unwrap();
        let (local, _) = std::os::unix::net::UnixStream::pair().unwrap();
        let other = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let epoll = rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("pipe:[1]");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let fifo = File::options().read(true).write(true).open(fifo).unwrap();
        let file = "a file, folder or device";
        for (descriptor, name, is_call, is_channel) in [
            (OwnedFd::from(File::open("/tmp").unwrap()), file, false, false),
            (OwnedFd::from(File::open("/dev/zero").unwrap()), file, false, false),
            (rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC).unwrap(), file, false, false),
            (OwnedFd::from(fifo), file, false, false),
            (epoll, "something else", false, false),
            (OwnedFd::from(local), "a socket", true, true),
            (OwnedFd::from(other), "a socket", false, false),
            (OwnedFd::from(reader), "a pipe", true, true),
            (OwnedFd::from(writer), "a pipe", true, true),
        ] {
            assert_eq!(kick(&descriptor).unwrap_err(), NotAnEvent::Kind(name, "an eventfd"));
            assert_eq!(channel(&descriptor).is_ok(), is_channel, "{name}");
            assert_eq!(call(&descriptor).is_ok(), is_call, "{name}");
        }
        assert!(channel(&rustix::event::eventfd(0, EventfdFlags::empty()).unwrap()).is_err());
    }

    #[test]
    fn a_pipe_cannot_be_made_blocking_by_its_sender() {
        let (_reader, writer) = std::io::pipe().unwrap();
        let theirs = OwnedFd::from(writer);
        let ours = call(&theirs).unwrap().unwrap();
        assert!(is_non_blocking(&ours));
        assert!(!is_non_blocking(&theirs), "the sender's own description stays as it was");
    }
}
