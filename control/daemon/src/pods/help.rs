//! Help for translators at `S.help`, for what needs a privilege: a packet socket on the tap that their guest has the other end
//! of. docs/TRANSLATOR.md has the messages.
//!
//! The sockets are in folders of pods, so whoever answers may be anybody in that pod: it gets what is registered for the
//! pod, from the namespace that is registered, and nothing else. Nothing here waits for anybody: sockets are looked for
//! and served once a second, each with few messages. A connection stays as long as the translator, which asks by it when
//! its tap is gone and another one is there.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use culvert_api::translator::HELP_SUFFIX;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType,
};

use super::folder;
use crate::config::Pod;
use crate::name::Name;

/// Opens a packet socket on an interface of a network namespace, or says why not, as [`packets::open`](super::packets::open) does.
type Open = dyn Fn(&Path, &str) -> Result<OwnedFd, String> + Send;

/// All translators that are helped.
pub struct Helper {
    connections: BTreeMap<(Name, PathBuf), Connection>,
    open: Box<Open>,
}

/// How one pod is helped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodHelp {
    /// The guests' sockets of the translators that have their packet socket.
    pub helped: Vec<String>,
    /// What could not be done, as sentences.
    pub problems: Vec<String>,
}

/// One translator's socket.
#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    /// As which it was found.
    identity: (u64, u64),
    /// The pod as it was then: for another tap there is another connection.
    pod: Pod,
    state: State,
    /// Why it got nothing, as it was told.
    problem: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It asks for nothing yet, or refused what it got.
    Quiet,
    /// It wants a packet socket.
    Asks,
    /// It was sent one, so many turns ago.
    Offered(u32),
    /// It has one, maybe of an earlier culvertd.
    Helped,
}

/// Translators of one pod that are helped.
const MAX_OF_A_POD: usize = 16;
/// Messages that are taken of one translator in one turn.
const MAX_MESSAGES: usize = 8;
/// The longest message.
const MAX_MESSAGE_BYTES: usize = 1024;
/// Turns in which one may say nothing to what it was sent.
const PATIENCE: u32 = 10;

impl Helper {
    /// Helps nobody yet. What needs a privilege is done by `open`.
    pub fn new(open: impl Fn(&Path, &str) -> Result<OwnedFd, String> + Send + 'static) -> Self {
        Self { connections: BTreeMap::new(), open: Box::new(open) }
    }

    /// Looks for translators of these pods, and helps them. To be called about once a second. Returns the pods that have a
    /// tap, and how they are helped.
    pub fn turn(&mut self, pods: &[Pod]) -> BTreeMap<Name, PodHelp> {
        let mut all = BTreeMap::new();
        let mut found = BTreeSet::new();
        for pod in pods {
            let (Some(netns), Some(tap)) = (&pod.netns, &pod.tap) else { continue };
            let mut help = PodHelp::default();
            for folder in &pod.folders {
                self.look(pod, folder, &mut found, &mut help);
            }
            self.serve(pod, netns, tap, &mut help);
            all.insert(pod.name.clone(), help);
        }
        // A name that is gone ends the help: so does a pod.
        self.connections.retain(|key, _| found.contains(key));
        all
    }

    /// Connects to the sockets in a folder that are not connected yet.
    fn look(&mut self, pod: &Pod, folder: &Path, all: &mut BTreeSet<(Name, PathBuf)>, help: &mut PodHelp) {
        let found = match folder::sockets(folder, HELP_SUFFIX) {
            Ok(found) => found,
            Err(error) => {
                help.problems.push(error.to_string());
                return;
            }
        };
        for found in found {
            if all.iter().filter(|(name, _)| *name == pod.name).count() >= MAX_OF_A_POD {
                help.problems.push(format!("more than {MAX_OF_A_POD} translators ask for help; others get none"));
                return;
            }
            let key = (pod.name.clone(), found.path.clone());
            all.insert(key.clone());
            let known = self.connections.get(&key);
            if known.is_some_and(|known| known.identity == found.identity && known.pod == *pod) {
                continue;
            }
            match connect(&found) {
                Ok(socket) => {
                    let (identity, pod) = (found.identity, pod.clone());
                    let connection = Connection { socket, identity, pod, state: State::Quiet, problem: None };
                    self.connections.insert(key, connection);
                }
                // Left behind by one that has ended, or busy.
                Err(Errno::CONNREFUSED | Errno::AGAIN) => drop(self.connections.remove(&key)),
                Err(errno) => {
                    self.connections.remove(&key);
                    help.problems.push(format!("{} cannot be connected to: {errno}", found.path.display()));
                }
            }
        }
    }

    /// Answers the translators of one pod.
    fn serve(&mut self, pod: &Pod, netns: &Path, tap: &str, help: &mut PodHelp) {
        let mut over = Vec::new();
        for (key, connection) in self.connections.iter_mut().filter(|((name, _), _)| *name == pod.name) {
            if connection.serve(|| (self.open)(netns, tap)).is_err() {
                over.push(key.clone());
                continue;
            }
            let path = key.1.to_string_lossy();
            if connection.state == State::Helped {
                help.helped.push(path.strip_suffix(HELP_SUFFIX).unwrap_or(&path).to_owned());
            }
            help.problems.extend(connection.problem.clone());
        }
        over.into_iter().for_each(|key| drop(self.connections.remove(&key)));
    }
}

impl Connection {
    /// Takes what it has said, and gives what it asks for. An error: it has gone, or is not to be talked to.
    fn serve(&mut self, open: impl Fn() -> Result<OwnedFd, String>) -> Result<(), Errno> {
        for _ in 0..MAX_MESSAGES {
            match hear(&self.socket) {
                Err(Errno::AGAIN) => return self.answer(open),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
                Ok(text) => match (text.as_str(), self.state) {
                    ("packet", _) => self.state = State::Asks,
                    ("ok", State::Offered(_) | State::Quiet) => (self.state, self.problem) = (State::Helped, None),
                    (refusal, State::Offered(_)) if refusal.starts_with("error: ") => {
                        self.problem = Some(format!("a translator does not take the packet socket: {refusal}"));
                        // It asks again when it wants another one.
                        self.state = State::Quiet;
                    }
                    _ => return Err(Errno::PROTO),
                },
            }
        }
        // Nobody has so much to say.
        Err(Errno::PROTO)
    }

    fn answer(&mut self, open: impl Fn() -> Result<OwnedFd, String>) -> Result<(), Errno> {
        match self.state {
            State::Quiet | State::Helped => Ok(()),
            State::Offered(turns) if turns >= PATIENCE => Err(Errno::TIMEDOUT),
            State::Offered(turns) => {
                self.state = State::Offered(turns.saturating_add(1));
                Ok(())
            }
            State::Asks => match open() {
                Ok(packets) => {
                    say(&self.socket, "packet", Some(packets))?;
                    self.state = State::Offered(0);
                    Ok(())
                }
                Err(sentence) if self.problem.as_deref() == Some(&sentence) => Ok(()),
                Err(sentence) => {
                    say(&self.socket, &format!("error: {sentence}"), None)?;
                    self.problem = Some(sentence);
                    Ok(())
                }
            },
        }
    }
}

/// Connects to what was found, however names change meanwhile. Never waits.
fn connect(found: &folder::Found) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}", found.as_fd().as_raw_fd()))?;
    rustix::net::connect(&socket, &address)?;
    Ok(socket)
}

/// The next message. Descriptors that come with it are closed by the kernel: there is no room for them.
fn hear(socket: &OwnedFd) -> Result<String, Errno> {
    let mut bytes = [0; MAX_MESSAGE_BYTES];
    let (length, whole) = rustix::net::recv(socket, &mut bytes, RecvFlags::DONTWAIT | RecvFlags::TRUNC)?;
    if whole > length {
        return Err(Errno::MSGSIZE);
    }
    // Also an empty message, which cannot be told from the end.
    if length == 0 {
        return Err(Errno::PIPE);
    }
    let text = str::from_utf8(bytes.get(..length).unwrap_or_default()).map_err(|_| Errno::PROTO)?;
    if text.contains(char::is_control) {
        return Err(Errno::PROTO);
    }
    Ok(text.to_owned())
}

fn say(socket: &OwnedFd, text: &str, descriptor: Option<OwnedFd>) -> Result<(), Errno> {
    let descriptors: Vec<_> = descriptor.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(Errno::NOBUFS);
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    rustix::net::sendmsg(socket, &[IoSlice::new(text.as_bytes())], &mut control, flags).map(drop)
}
