//! Connections that outlive the process: whoever does ([`Keeper`], culvertd's supervisor) has a copy of the connection and of all that
//! the frontend has handed over, with the [`transcript`](crate::transcript) of the session. The next process takes it up, and neither
//! frontend nor guest notice.
//!
//! - [`Kept`]: the port's side of it. What is kept holds only while the frontend says nothing: it is void *before* anything more is read
//!   from the socket, by one system call that takes effect whatever becomes of either process (the file with the transcript becomes
//!   empty), and the connection is kept anew when the frontend has been quiet for [`QUIET`];
//! - [`run`]: the thread that asks the keeper, which may take its time; [`take_up`] reads what was kept.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

use mio::net::UnixStream;
use rustix::fs::MemfdFlags;
use rustix::net::AddressFamily;

use crate::aside::Aside;
use crate::helper::JobResult;
use crate::port::{PortSocket, Results};
use crate::transcript::{Replay, Transcript};

/// How long a frontend must have been quiet before its connection is kept: it sends dozens of messages in a row.
pub const QUIET: Duration = Duration::from_millis(50);

/// How often a port's connection may be kept in a second: each time costs the keeper, which others need as well.
pub const KEPT_PER_SECOND: u32 = 2;

/// Most descriptors of a connection that is kept, as many as a message may carry.
pub const MAX_KEPT_DESCRIPTORS: usize = crate::message::MOST_DESCRIPTORS;

/// Something that outlives the process, and keeps descriptors for the next one. It is called by a thread that may wait.
pub trait Keeper: Send + Sync {
    /// Keeps copies of these for a port, in the place of what it has for that port.
    ///
    /// # Errors
    /// It cannot; nothing is kept for that port then.
    fn keep(&self, port: &str, descriptors: &[OwnedFd]) -> io::Result<()>;

    /// Closes what it has for a port.
    fn forget(&self, port: &str);
}

/// What is asked of the keeper.
#[derive(Debug)]
pub enum KeeperJob {
    /// [`Keeper::keep`].
    Keep {
        /// The server's number of the port, returned with the answer.
        slot: usize,
        /// Of the port.
        port: String,
        /// First the file of the transcript, then the connection, then the session's.
        descriptors: Vec<OwnedFd>,
        /// Where they are closed.
        aside: Aside,
    },
    /// [`Keeper::forget`].
    Forget {
        /// Of the port.
        port: String,
    },
}

/// Asks the keeper until there is nobody left who could.
pub fn run(keeper: &dyn Keeper, jobs: &Receiver<KeeperJob>, results: &Results) {
    for job in jobs {
        match job {
            KeeperJob::Keep { slot, port, descriptors, aside } => {
                let answer = if is_void(&descriptors) { Ok(()) } else { keeper.keep(&port, &descriptors) };
                if answer.is_err() {
                    keeper.forget(&port);
                }
                aside.end(descriptors);
                results.put(JobResult::Kept { slot, answer });
            }
            KeeperJob::Forget { port } => keeper.forget(&port),
        }
    }
}

/// Whether the frontend has said something meanwhile: the next process would not have it.
fn is_void(descriptors: &[OwnedFd]) -> bool {
    descriptors.first().is_none_or(|file| rustix::fs::fstat(file).is_ok_and(|status| status.st_size == 0))
}

/// A connection that is being kept.
#[derive(Debug)]
pub struct Kept {
    /// With the transcript; empty: void.
    file: Arc<File>,
}

impl Kept {
    /// Has a connection kept.
    ///
    /// # Errors
    /// The kernel's; [`io::ErrorKind::ArgumentListTooLong`]: it has too many descriptors.
    pub fn new(
        socket: &PortSocket,
        slot: usize,
        stream: &UnixStream,
        transcript: Transcript,
        aside: &Aside,
        keeper: &Sender<KeeperJob>,
    ) -> io::Result<Self> {
        let (kept, descriptors) = Self::prepare(socket, stream, transcript, aside)?;
        // The keeper's thread lives as long as the loop.
        let (port, aside) = (socket.name.clone(), aside.clone());
        let _ = keeper.send(KeeperJob::Keep { slot, port, descriptors, aside });
        Ok(kept)
    }

    /// What a keeper is to have of a connection: first the file of the transcript, then the connection, then the session's descriptors.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn prepare(
        socket: &PortSocket,
        stream: &UnixStream,
        transcript: Transcript,
        aside: &Aside,
    ) -> io::Result<(Self, Vec<OwnedFd>)> {
        let Transcript { bytes, descriptors } = transcript;
        let mut all = Vec::with_capacity(descriptors.len() + 2);
        let made = state_file(&terms(socket), &bytes).and_then(|file| {
            all.push(OwnedFd::from(file.try_clone()?));
            all.push(stream.as_fd().try_clone_to_owned()?);
            Ok(file)
        });
        all.extend(descriptors);
        let made = made.and_then(|file| {
            if all.len() > MAX_KEPT_DESCRIPTORS { Err(io::ErrorKind::ArgumentListTooLong.into()) } else { Ok(file) }
        });
        let file = match made {
            Ok(file) => Arc::new(file),
            Err(error) => {
                aside.end(all);
                return Err(error);
            }
        };
        Ok((Self { file }, all))
    }

    /// Whether somebody has gone on with it: what this process knows of the dialogue is not true any more.
    pub fn is_void(&self) -> bool {
        self.file.metadata().is_ok_and(|metadata| metadata.len() == 0)
    }

    /// Makes it void, whatever the keeper still has: the frontend has something to say. Takes no time.
    pub fn end(self, port: &str, keeper: Option<&Sender<KeeperJob>>) {
        if let Err(error) = self.file.set_len(0) {
            // A file in memory of our own: it cannot be.
            tracing::error!(port, %error, "the connection may be taken up after a crash as it was before its last message");
        }
        if let Some(keeper) = keeper {
            let _ = keeper.send(KeeperJob::Forget { port: port.to_owned() });
        }
    }
}

/// A connection that was kept by an earlier process.
#[derive(Debug)]
pub struct TakenUp {
    /// It is still kept.
    pub kept: Kept,
    /// The connection.
    pub stream: UnixStream,
    /// What brings a session to where it was.
    pub replay: Replay,
}

/// Reads what was kept for a port. `None`: it is void, or the port is not what it was. The descriptors that are not used are
/// left in `descriptors`.
pub fn take_up(socket: &PortSocket, descriptors: &mut Vec<OwnedFd>) -> Option<TakenUp> {
    let [file, stream, ..] = descriptors.as_slice() else { return None };
    // Whoever had taken the last process over may have left others: files and sockets whose owner never answers.
    rustix::fs::fcntl_get_seals(file).ok()?;
    if rustix::net::sockopt::socket_domain(stream) != Ok(AddressFamily::UNIX) {
        return None;
    }
    let file = File::from(file.try_clone().ok()?);
    let bytes = read_state(&file, &terms(socket))?;
    let mut all = std::mem::take(descriptors).into_iter();
    let (_, stream) = (all.next(), all.next()?);
    let stream = UnixStream::from_std(std::os::unix::net::UnixStream::from(stream));
    Some(TakenUp { kept: Kept { file: Arc::new(file) }, stream, replay: Replay::new(bytes, all.collect()) })
}

/// What must be the same in the next process: where the port is, and what its guest was offered.
fn terms(socket: &PortSocket) -> String {
    format!("{:?} {:?} {:?}", socket.role, socket.place, socket.device)
}

fn state_file(terms: &str, transcript: &[u8]) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("connection", MemfdFlags::CLOEXEC)?);
    let length = u32::try_from(terms.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    file.write_all(&[&length.to_ne_bytes(), terms.as_bytes(), transcript].concat())?;
    Ok(file)
}

fn read_state(file: &File, terms: &str) -> Option<Vec<u8>> {
    let length = file.metadata().ok()?.len();
    let mut bytes = vec![0; usize::try_from(length).ok().filter(|&length| length <= MAX_STATE_BYTES)?];
    file.read_exact_at(&mut bytes, 0).ok()?;
    let (head, rest) = bytes.split_first_chunk()?;
    let (found, transcript) = rest.split_at_checked(usize::try_from(u32::from_ne_bytes(*head)).ok()?)?;
    (found == terms.as_bytes()).then(|| transcript.to_vec())
}

/// More than the transcript of any session that is kept has.
const MAX_STATE_BYTES: usize = 256 * 1024;
