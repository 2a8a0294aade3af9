//! Help for translators at `S.help`, for what needs a privilege: a packet socket on the tap that their guest has the other end
//! of, and steering of the pod's ports to their sockets. docs/TRANSLATOR.md has the messages.
//!
//! The sockets are in folders of pods, so whoever answers may be anybody in that pod: it gets what is registered for the
//! pod, from the namespace that is registered, and nothing else. Nothing here waits for anybody: sockets are looked for
//! and served once a second, each with few messages. A connection stays as long as the translator, which asks by it when
//! its tap is gone and another one is there.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use culvert_api::translator::HELP_SUFFIX;
use culvert_steer::Steering;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use super::folder;
use crate::config::Pod;
use crate::name::Name;

/// Opens a packet socket on an interface of a network namespace, or says why not, as [`packets::open`](super::packets::open) does.
type Open = dyn Fn(&Path, &str) -> Result<OwnedFd, String> + Send;

/// Steers the ports of a network namespace to two sockets, or says why not, as [`steering::open`](super::steering::open)
/// does.
type Steer = dyn Fn(&Path, &[OwnedFd]) -> Result<Steering, String> + Send;

/// All translators that are helped.
pub struct Helper {
    connections: BTreeMap<(Name, PathBuf), Connection>,
    open: Box<Open>,
    steer: Box<Steer>,
    /// Turns to come before ports of a pod are steered again.
    pauses: BTreeMap<Name, u32>,
}

/// How one pod is helped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodHelp {
    /// The guests' sockets of the translators that have their packet socket, or the pod's ports.
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
    steering: Ports,
}

/// How far it is with the pod's ports.
#[derive(Debug)]
enum Ports {
    /// It asks for nothing.
    Quiet,
    /// It wants ports to come to these sockets; it is tried after so many turns.
    Asks(Vec<OwnedFd>, u32),
    /// It was sent what does that, so many turns ago.
    Offered(u32),
    /// It has them, maybe of an earlier culvertd.
    Steered,
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
/// Turns after which steering that was impossible is tried again for the same translator.
const AGAIN: u32 = 60;
/// Turns between two tries for a pod, whoever asks: each takes a fraction of a second of a processor.
const PAUSE: u32 = 10;

impl Helper {
    /// Helps nobody yet. What needs a privilege is done by `open`.
    pub fn new(open: impl Fn(&Path, &str) -> Result<OwnedFd, String> + Send + 'static) -> Self {
        let nobody = |_: &Path, _: &[OwnedFd]| Err("ports are not steered here".to_owned());
        Self { connections: BTreeMap::new(), open: Box::new(open), steer: Box::new(nobody), pauses: BTreeMap::new() }
    }

    /// Steers ports as well, by `steer`.
    #[must_use]
    pub fn with_steering(self, steer: impl Fn(&Path, &[OwnedFd]) -> Result<Steering, String> + Send + 'static) -> Self {
        Self { steer: Box::new(steer), ..self }
    }

    /// Looks for translators of these pods, and helps them. To be called about once a second. Returns the pods that have a
    /// namespace, and how they are helped.
    pub fn turn(&mut self, pods: &[Pod]) -> BTreeMap<Name, PodHelp> {
        let mut all = BTreeMap::new();
        let mut found = BTreeSet::new();
        for pod in pods {
            let Some(netns) = &pod.netns else { continue };
            let mut help = PodHelp::default();
            for folder in &pod.folders {
                self.look(pod, folder, &mut found, &mut help);
            }
            self.serve(pod, netns, pod.tap.as_deref(), &mut help);
            all.insert(pod.name.clone(), help);
        }
        self.pauses.retain(|name, _| all.contains_key(name));
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
                    let (state, steering) = (State::Quiet, Ports::Quiet);
                    let connection = Connection { socket, identity, pod, state, problem: None, steering };
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
    fn serve(&mut self, pod: &Pod, netns: &Path, tap: Option<&str>, help: &mut PodHelp) {
        let mut over = Vec::new();
        let pause = Cell::new(self.pauses.get(&pod.name).map_or(0, |turns| turns.saturating_sub(1)));
        for (key, connection) in self.connections.iter_mut().filter(|((name, _), _)| *name == pod.name) {
            let open = || match tap {
                Some(tap) => (self.open)(netns, tap),
                None => Err("no tap is registered for this pod: name it by `culvertctl pod add --tap`".to_owned()),
            };
            let steer = |sockets: &[OwnedFd]| {
                (pause.get() == 0).then(|| {
                    pause.set(PAUSE);
                    (self.steer)(netns, sockets)
                })
            };
            if connection.serve(open, steer).is_err() {
                over.push(key.clone());
                continue;
            }
            let path = key.1.to_string_lossy();
            if connection.state == State::Helped || matches!(connection.steering, Ports::Steered) {
                help.helped.push(path.strip_suffix(HELP_SUFFIX).unwrap_or(&path).to_owned());
            }
            help.problems.extend(connection.problem.clone());
        }
        self.pauses.insert(pod.name.clone(), pause.get());
        over.into_iter().for_each(|key| drop(self.connections.remove(&key)));
    }
}

impl Connection {
    /// Takes what it has said, and gives what it asks for. An error: it has gone, or is not to be talked to.
    fn serve(
        &mut self,
        open: impl Fn() -> Result<OwnedFd, String>,
        steer: impl Fn(&[OwnedFd]) -> Option<Result<Steering, String>>,
    ) -> Result<(), Errno> {
        for _ in 0..MAX_MESSAGES {
            match hear(&self.socket) {
                Err(Errno::AGAIN) => return self.answer(open).and_then(|()| self.answer_ports(steer)),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
                Ok((text, sockets)) if text == "ports" => self.steering = Ports::Asks(sockets, 0),
                Ok((text, _)) if text == "steered" => (self.steering, self.problem) = (Ports::Steered, None),
                Ok((refusal, _)) if matches!(self.steering, Ports::Offered(_)) && refusal.starts_with("error: ") => {
                    self.problem = Some(format!("a translator does not take the pod's ports: {refusal}"));
                    self.steering = Ports::Quiet;
                }
                Ok((text, _)) => match (text.as_str(), self.state) {
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
                    say(&self.socket, "packet", &[packets])?;
                    self.state = State::Offered(0);
                    Ok(())
                }
                Err(sentence) if self.problem.as_deref() == Some(&sentence) => Ok(()),
                Err(sentence) => {
                    say(&self.socket, &format!("error: {sentence}"), &[])?;
                    self.problem = Some(sentence);
                    Ok(())
                }
            },
        }
    }

    /// `steer` gives nothing while it is not to be tried.
    fn answer_ports(&mut self, steer: impl Fn(&[OwnedFd]) -> Option<Result<Steering, String>>) -> Result<(), Errno> {
        match &mut self.steering {
            Ports::Quiet | Ports::Steered => {}
            Ports::Offered(turns) if *turns >= PATIENCE => return Err(Errno::TIMEDOUT),
            Ports::Offered(turns) => *turns += 1,
            Ports::Asks(_, turns @ 1..) => *turns -= 1,
            Ports::Asks(sockets, turns) => match steer(sockets) {
                None => {}
                Some(Ok(Steering { link, table })) => {
                    say(&self.socket, "ports", &[link, table])?;
                    self.steering = Ports::Offered(0);
                }
                Some(Err(sentence)) => {
                    *turns = AGAIN;
                    if self.problem.as_deref() != Some(&sentence) {
                        say(&self.socket, &format!("error: {sentence}"), &[])?;
                        self.problem = Some(sentence);
                    }
                }
            },
        }
        Ok(())
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

/// The next message, and what came with it. Of more than two descriptors the kernel closes the others: there is no room
/// for them.
fn hear(socket: &OwnedFd) -> Result<(String, Vec<OwnedFd>), Errno> {
    let mut bytes = [0; MAX_MESSAGE_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?;
    let rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let descriptors = rights.flatten().collect();
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(Errno::MSGSIZE);
    }
    // Also an empty message, which cannot be told from the end.
    if received.bytes == 0 {
        return Err(Errno::PIPE);
    }
    let text = str::from_utf8(bytes.get(..received.bytes).unwrap_or_default()).map_err(|_| Errno::PROTO)?;
    if text.contains(char::is_control) {
        return Err(Errno::PROTO);
    }
    Ok((text.to_owned(), descriptors))
}

fn say(socket: &OwnedFd, text: &str, descriptors: &[OwnedFd]) -> Result<(), Errno> {
    let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(Errno::NOBUFS);
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    rustix::net::sendmsg(socket, &[IoSlice::new(text.as_bytes())], &mut control, flags).map(drop)
}
