//! Translators' control sockets as their clients see them: where they are, and how to ask.
//!
//! A translator listens on a Unix socket of its own, of type SOCK_SEQPACKET, beside the socket of its guest: one text
//! request, one text reply (docs/TRANSLATOR.md). culvertctl asks one, culvertd all that it finds. Whoever answers is not
//! trusted: a reply has a size and a time, and is text or nothing.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

/// Where translators' sockets are looked for.
pub const FOLDER: &str = "/run/culvert/translators";

/// What a control socket's name ends in; the guest's socket is called the same without it.
pub const SUFFIX: &str = ".ctl";

/// What the name of the socket ends in at which culvertd helps a translator; the guest's socket is called the same without it.
pub const HELP_SUFFIX: &str = ".help";

/// What the name of the socket ends in at which somebody switches a translator's sockets to repair mode; the guest's socket is
/// called the same without it.
pub const REPAIR_SUFFIX: &str = ".repair";

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// There is no translator, or it does not answer.
    #[error("the translator at {path} cannot be reached: {error}; does it run, and may you write to its socket?")]
    Unreachable {
        /// Of the control socket.
        path: PathBuf,
        /// The kernel's reason.
        error: io::Error,
    },
    /// The translator refused.
    #[error("{0}")]
    Refused(String),
    /// What answers is no translator.
    #[error("what answers at {0} is no translator; name another socket")]
    NoTranslator(PathBuf),
}

/// The control socket that belongs to a guest's socket; one that is a control socket already stays.
pub fn control_socket(guest: &Path) -> PathBuf {
    if guest.to_string_lossy().ends_with(SUFFIX) {
        return guest.to_owned();
    }
    let mut path = guest.as_os_str().to_owned();
    path.push(SUFFIX);
    path.into()
}

/// The control sockets in `folder`, in the order of their names; at most [`MAX_FOUND`]. Names that translators have left
/// behind are no control sockets. None if there is no such folder.
///
/// # Errors
/// The folder cannot be read.
pub fn find(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(SUFFIX))
        .map(|entry| entry.path())
        .take(MAX_FOUND)
        .filter(|path| {
            let connected = open(path).and_then(|found| connect(found.as_fd(), Duration::from_millis(100)));
            connected.err() != Some(Errno::CONNREFUSED)
        })
        .collect();
    found.sort();
    Ok(found)
}

/// Asks the translator whose control socket is `path`, and waits at most `patience` for each step. The lines of its reply.
///
/// # Errors
/// Any [`AskError`].
pub fn ask(path: &Path, request: &str, patience: Duration) -> Result<Vec<String>, AskError> {
    let found = open(path).map_err(|errno| AskError::Unreachable { path: path.to_owned(), error: errno.into() })?;
    ask_found(found, path, request, patience)
}

/// Asks the translator whose control socket was found: `found` is a handle (`O_PATH`) of it. `path` is for messages.
///
/// # Errors
/// Any [`AskError`].
pub fn ask_found(found: impl AsFd, path: &Path, request: &str, patience: Duration) -> Result<Vec<String>, AskError> {
    let reply = exchange(found.as_fd(), request, patience)
        .map_err(|errno| AskError::Unreachable { path: path.to_owned(), error: errno.into() })?;
    read_reply(reply, path)
}

/// The lines of a reply. `path` is for messages.
///
/// # Errors
/// [`AskError::Refused`], [`AskError::NoTranslator`].
pub fn read_reply(reply: Vec<u8>, path: &Path) -> Result<Vec<String>, AskError> {
    let no_translator = || AskError::NoTranslator(path.to_owned());
    let text = String::from_utf8(reply).map_err(|_| no_translator())?;
    if text.contains(|c: char| c.is_control() && c != '\n') {
        return Err(no_translator());
    }
    let mut lines = text.lines();
    match lines.next() {
        Some("ok") => Ok(lines.map(str::to_owned).collect()),
        Some(line) => match line.strip_prefix("error: ") {
            Some(sentence) => Err(AskError::Refused(sentence.to_owned())),
            None => Err(no_translator()),
        },
        None => Err(no_translator()),
    }
}

/// What is found is what is connected to, however names change meanwhile.
fn open(path: &Path) -> Result<OwnedFd, Errno> {
    let found = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode) != FileType::Socket {
        return Err(Errno::NOTSOCK);
    }
    Ok(found)
}

fn connect(found: BorrowedFd<'_>, patience: Duration) -> Result<OwnedFd, Errno> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(patience))?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(format!("/proc/self/fd/{}", found.as_raw_fd()))?)?;
    Ok(socket)
}

fn exchange(found: BorrowedFd<'_>, request: &str, patience: Duration) -> Result<Vec<u8>, Errno> {
    let socket = connect(found, patience)?;
    rustix::net::send(&socket, request.as_bytes(), SendFlags::NOSIGNAL)?;
    let mut reply = vec![0; MAX_REPLY_BYTES];
    let (length, whole) = rustix::net::recv(&socket, &mut reply, RecvFlags::TRUNC)?;
    if whole > length {
        return Err(Errno::MSGSIZE);
    }
    reply.truncate(length);
    Ok(reply)
}

/// The longest reply of a translator.
const MAX_REPLY_BYTES: usize = 64 * 1024;
/// More translators than a node can have guests.
const MAX_FOUND: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    /// Replies once, whatever is asked.
    fn served(path: &Path, reply: Vec<u8>) -> thread::JoinHandle<String> {
        let flags = SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        rustix::net::bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
        rustix::net::listen(&socket, 8).unwrap();
        thread::spawn(move || {
            let client: OwnedFd = rustix::net::accept(&socket).unwrap();
            let mut request = vec![0; 1000];
            let (length, _) = rustix::net::recv(&client, &mut request, RecvFlags::empty()).unwrap();
            // Who asks may be satisfied with less.
            let _ = rustix::net::send(&client, &reply, SendFlags::NOSIGNAL);
            String::from_utf8(request[..length].to_vec()).unwrap()
        })
    }

    fn answer(reply: &[u8]) -> Result<Vec<String>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vm.sock.ctl");
        let server = served(&path, reply.to_vec());
        let answer = ask(&path, "forward list", Duration::from_secs(10));
        assert_eq!(server.join().unwrap(), "forward list");
        let folder = format!("{}/", folder.path().display());
        answer.map_err(|error| error.to_string().replace(&folder, ""))
    }

    #[test]
    fn replies_are_lines_or_a_refusal() {
        assert_eq!(answer(b"ok\n"), Ok(vec![]));
        assert_eq!(answer(b"ok\na b\nc\n"), Ok(vec!["a b".to_owned(), "c".to_owned()]));
        assert_eq!(answer(b"error: there is no such thing\n"), Err("there is no such thing".to_owned()));
    }

    #[test]
    fn who_answers_is_not_trusted() {
        for reply in [&b""[..], b"hello\n", b"ok\n\xff", b"ok\n\x1b[2J\n", b"error\n"] {
            let error = "what answers at vm.sock.ctl is no translator; name another socket";
            assert_eq!(answer(reply), Err(error.to_owned()), "{reply:?}");
        }
        let long = [b"ok\n".to_vec(), vec![b'x'; MAX_REPLY_BYTES]].concat();
        assert!(answer(&long).unwrap_err().contains("Message too long"));
    }

    #[test]
    fn who_does_not_answer_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vm.sock.ctl");
        let flags = SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        rustix::net::bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        let patience = Duration::from_millis(20);
        let error = |path: &Path| ask(path, "stats", patience).unwrap_err().to_string();
        assert!(error(&path).contains("Connection refused"));
        rustix::net::listen(&socket, 0).unwrap();
        // Nobody accepts; the second has no room to wait in.
        for _ in 0..3 {
            assert!(error(&path).contains("Resource temporarily unavailable"), "{}", error(&path));
        }
        assert!(error(&folder.path().join("no")).contains("No such file"));
        let link = folder.path().join("link.ctl");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(error(&link).contains("not a socket") || error(&link).contains("Socket operation on non-socket"));
    }

    #[test]
    fn names_belong_together() {
        assert_eq!(control_socket(Path::new("/run/vm.sock")), Path::new("/run/vm.sock.ctl"));
        assert_eq!(control_socket(Path::new("/run/vm.sock.ctl")), Path::new("/run/vm.sock.ctl"));
        let folder = tempfile::tempdir().unwrap();
        assert!(find(&folder.path().join("no")).unwrap().is_empty());
        for name in ["b.sock.ctl", "a.sock.ctl", "a.sock"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        // Left behind.
        drop(std::os::unix::net::UnixListener::bind(folder.path().join("c.sock.ctl")).unwrap());
        let found = find(folder.path()).unwrap();
        let names: Vec<_> = found.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["a.sock.ctl", "b.sock.ctl"]);
    }
}
