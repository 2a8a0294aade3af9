//! The supervisor's end of the broker's socket: takes one request, does it, answers. It outlives the daemon, and so does what it keeps.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use culvert_steer::Steering;
use rustix::net::RecvFlags;

use super::closing::Closing;
use super::message::{self, Received, Reply, Request};
use super::turn::Turn;
use crate::pods::packets::Namespace;
use crate::takeover::state;

/// What the supervisor knows and keeps for the daemon.
#[derive(Debug, Default)]
pub struct Desk {
    kept: BTreeMap<String, Kept>,
    closing: Closing,
    ready: bool,
    alive: bool,
    because: Option<String>,
    restarts: u64,
    last_reason: String,
    /// How far a takeover is.
    pub turn: Turn,
}

#[derive(Debug)]
struct Kept {
    descriptors: Vec<OwnedFd>,
    /// The daemon that runs now has stored or taken them.
    known: bool,
}

impl Desk {
    /// A daemon starts again, for this reason.
    pub fn next_daemon(&mut self, reason: &str) {
        (self.ready, self.alive, self.because) = (false, false, None);
        self.restarts = self.restarts.saturating_add(1);
        reason.clone_into(&mut self.last_reason);
        self.kept.values_mut().for_each(|kept| kept.known = false);
        self.turn = Turn::default();
        // Of a takeover that came to nothing: at once, for the next daemon makes its own.
        self.kept.retain(|name, _| !state::is_for_takeover(name));
    }

    /// What is kept, by names: for another supervisor.
    pub fn kept(&self) -> impl Iterator<Item = (&str, &[OwnedFd])> {
        self.kept.iter().map(|(name, kept)| (name.as_str(), kept.descriptors.as_slice()))
    }

    /// Keeps what another supervisor has kept. What this one's daemon has stored under the same name stays.
    ///
    /// # Errors
    /// A sentence: it is too much.
    pub fn inherit(&mut self, name: String, descriptors: Vec<OwnedFd>) -> Result<(), String> {
        if self.kept.contains_key(&name) {
            self.closing.close(&name, descriptors);
            return Ok(());
        }
        if let Some(reason) = self.refusal(&name, &descriptors, false) {
            self.closing.close(&name, descriptors);
            return Err(format!("{name}: {reason}"));
        }
        self.kept.insert(name, Kept { descriptors, known: false });
        Ok(())
    }

    /// Goes on where another supervisor was.
    pub fn inherit_history(&mut self, restarts: u64, last_reason: String) {
        (self.restarts, self.last_reason) = (restarts, last_reason);
    }

    /// How often the daemon was started again, and why the last time.
    pub fn history(&self) -> (u64, &str) {
        (self.restarts, &self.last_reason)
    }

    /// Drops what was kept of guests' connections: one of them may be what ends one daemon after the other. Returns how many there
    /// were.
    pub fn drop_connections(&mut self) -> usize {
        let before = self.kept.len();
        self.retain(|name, _| !name.starts_with(CONNECTION));
        before - self.kept.len()
    }

    /// Whether signals reach the daemon.
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// How often the daemon was started again.
    pub fn restarts(&self) -> u64 {
        self.restarts
    }

    /// Whether the daemon has told that all goes its way, since this was asked last.
    pub fn take_alive(&mut self) -> bool {
        std::mem::take(&mut self.alive)
    }

    /// Why the daemon ends, as it has said.
    pub fn because(&self) -> Option<&str> {
        self.because.as_deref()
    }

    /// Takes the next request of `socket`, which must not block, and answers it.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`]: there is none. Others: the daemon has gone, or does not keep to the protocol, and this end
    /// of the socket is of no use any more.
    pub fn serve(&mut self, socket: impl AsFd) -> io::Result<()> {
        let received = match message::receive(&socket, RecvFlags::DONTWAIT) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            received => received?,
        };
        let (number, text) = message::number(&received.text).ok_or(io::ErrorKind::InvalidData)?;
        let request = Request::parse(text).ok_or(io::ErrorKind::InvalidData)?;
        let answer = |reply: &Reply, descriptors: &[OwnedFd]| {
            message::send(&socket, &message::numbered(number, &reply.text()), descriptors)
        };
        self.answer(request, received, answer)
    }

    fn answer(
        &mut self,
        request: Request,
        received: Received,
        answer: impl Fn(&Reply, &[OwnedFd]) -> io::Result<()>,
    ) -> io::Result<()> {
        let Received { descriptors, lost, .. } = received;
        let reply = match request {
            Request::Take(name) => {
                return match self.kept.get_mut(&name) {
                    Some(kept) => {
                        kept.known = true;
                        answer(&Reply::Descriptors, &kept.descriptors)
                    }
                    None => answer(&Reply::None, &[]),
                };
            }
            Request::Packets { tap, netns } => match packets(&netns, &tap) {
                Ok(socket) => return answer(&Reply::Descriptors, &[socket]),
                Err(sentence) => Reply::Refused(sentence),
            },
            Request::Steer(netns) => match self.steering(&netns, descriptors) {
                Ok(Steering { link, table }) => return answer(&Reply::Descriptors, &[link, table]),
                Err(sentence) => Reply::Refused(sentence),
            },
            Request::Repair { on, netns } => match self.repair(&netns, descriptors, on) {
                Ok(()) => Reply::Done,
                Err(sentence) => Reply::Refused(sentence),
            },
            Request::Ready => {
                self.ready = true;
                Reply::Done
            }
            Request::Alive => {
                self.alive = true;
                Reply::Done
            }
            Request::History => Reply::History(self.restarts, self.last_reason.clone()),
            Request::Because(reason) => {
                self.because = Some(reason);
                Reply::Done
            }
            Request::Store(name) => match self.refusal(&name, &descriptors, lost) {
                None => {
                    self.forget(&name);
                    self.kept.insert(name, Kept { descriptors, known: true });
                    Reply::Done
                }
                Some(reason) => {
                    self.closing.close(&name, descriptors);
                    Reply::Refused(reason)
                }
            },
            Request::Forget(name) => {
                self.forget(&name);
                Reply::Done
            }
            Request::ForgetOthers => {
                self.retain(|_, kept| kept.known);
                Reply::Done
            }
            Request::Hugepages => self.turn.note_hugepages(),
            Request::Asked => self.turn.tell_wish(),
            Request::Frozen => self.turn.note_frozen(Ok(())),
            Request::NotFrozen(reason) => self.turn.note_frozen(Err(reason)),
            Request::Prepared => self.turn.note_prepared(),
            Request::Taken => self.turn.note_taken(),
            Request::Alone => self.turn.tell_alone(),
        };
        answer(&reply, &[])
    }

    /// Why these are not kept.
    fn refusal(&self, name: &str, descriptors: &[OwnedFd], lost: bool) -> Option<String> {
        let others = self.kept.iter().filter(|(other, _)| *other != name);
        let (names, count) = others
            .fold((0, descriptors.len()), |(names, count), (_, kept)| (names + 1, count + kept.descriptors.len()));
        if lost {
            Some("the supervisor has too many open files, see `ulimit -n`".to_owned())
        } else if descriptors.is_empty() {
            Some("there is no descriptor with it".to_owned())
        } else if names >= MAX_KEPT || count > max_descriptors() {
            Some("too many descriptors are kept already".to_owned())
        } else if self.closing.is_stuck(name) {
            Some("what was kept before cannot be closed".to_owned())
        } else {
            None
        }
    }

    /// What steers a pod's ports to these sockets; in the node's own namespace it would be everybody's.
    fn steering(&mut self, netns: &Path, sockets: Vec<OwnedFd>) -> Result<Steering, String> {
        self.with_sockets(STEERING, netns, sockets, Namespace::steering)
    }

    /// Switches a pod's sockets to repair mode or back.
    fn repair(&mut self, netns: &Path, sockets: Vec<OwnedFd>, on: bool) -> Result<(), String> {
        self.with_sockets(REPAIR, netns, sockets, move |namespace, sockets| namespace.repair(sockets, on))
    }

    /// Does `action` with sockets that a pod has handed over. It can make each use of them last, and their closing.
    fn with_sockets<T: Send + 'static>(
        &mut self,
        what: &str,
        netns: &Path,
        sockets: Vec<OwnedFd>,
        action: impl FnOnce(&Namespace, &[OwnedFd]) -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        let name = format!("{what}{}", netns.display());
        if self.closing.is_stuck(&name) {
            self.closing.close(&name, sockets);
            return Err("what the pod has handed over before is in use still, or cannot be closed".to_owned());
        }
        let busy = self.closing.busy(&name);
        let (result, sockets, _busy) = in_pod(netns, move |namespace: Result<Namespace, String>| {
            (namespace.and_then(|namespace| action(&namespace, &sockets)), sockets, busy)
        })?;
        self.closing.close(&name, sockets);
        result
    }

    fn forget(&mut self, name: &str) {
        if let Some(kept) = self.kept.remove(name) {
            self.closing.close(name, kept.descriptors);
        }
    }

    fn retain(&mut self, stays: impl Fn(&str, &Kept) -> bool) {
        let names: Vec<_> =
            self.kept.iter().filter(|(name, kept)| !stays(name, kept)).map(|(name, _)| name.clone()).collect();
        names.iter().for_each(|name| self.forget(name));
    }
}

/// A packet socket in a pod's namespace. In the node's own the daemon has no business: it would hear everybody.
fn packets(netns: &Path, tap: &str) -> Result<OwnedFd, String> {
    let tap = tap.to_owned();
    in_pod(netns, move |namespace| namespace?.packets(&tap))?
}

/// Does `action` in a thread, with the namespace of a pod.
fn in_pod<T: Send + 'static>(
    netns: &Path,
    action: impl FnOnce(Result<Namespace, String>) -> T + Send + 'static,
) -> Result<T, String> {
    let (answer, answered) = std::sync::mpsc::sync_channel(1);
    let path = netns.to_owned();
    // Whoever can make the path hang must not hang the supervisor.
    let thread = std::thread::Builder::new().name("namespace".to_owned());
    thread
        .spawn(move || {
            let opened = Namespace::open(&path).and_then(|namespace| match namespace.is_own() {
                true => Err(format!("{} is the node's own network namespace; name that of the pod", path.display())),
                false => Ok(namespace),
            });
            let _ = answer.send(action(opened));
        })
        .map_err(|error| format!("a thread cannot start: {error}"))?;
    let late = |_| format!("{} does not answer within {} s", netns.display(), PATIENCE.as_secs());
    answered.recv_timeout(PATIENCE).map_err(late)
}

/// How the names of connections begin, see `node::connections`.
pub const CONNECTION: &str = "connection:";

/// How the names begin under which pods' sockets are closed.
const STEERING: &str = "steering:";
const REPAIR: &str = "repair:";

/// Names that are kept at most: more than there can be ports.
const MAX_KEPT: usize = 4096;
/// How long a namespace's path may take. The daemon waits for longer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Descriptors that are kept at most: the rest of what this process may open is for the daemon's messages.
fn max_descriptors() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    usize::try_from(limit.unwrap_or(u64::MAX) / 2).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::client::tests::broker;
    use super::*;
    use crate::broker::Broker;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use std::io::{Read, Write};

    /// A desk that serves on a thread until its broker has gone; the desk comes back by the thread.
    fn pair(mut desk: Desk) -> (Broker, std::thread::JoinHandle<Desk>) {
        let (near, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let serving = std::thread::spawn(move || {
            loop {
                match desk.serve(&far) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        let mut poll = [rustix::event::PollFd::new(&far, rustix::event::PollFlags::IN)];
                        rustix::event::poll(&mut poll, None).unwrap();
                    }
                    Err(_) => return desk,
                }
            }
        });
        (broker(near), serving)
    }

    #[test]
    fn descriptors_outlive_the_daemon_that_stored_them() {
        let (broker, desk) = pair(Desk::default());
        let (mut reader, writer) = io::pipe().unwrap();
        broker.store("a", &[writer.into()]).unwrap();
        broker.store("b", &[std::fs::File::open("/dev/null").unwrap().into()]).unwrap();
        assert_eq!(broker.history().unwrap(), (0, String::new()));
        broker.because("a worker is stuck\n").unwrap();
        drop(broker);
        let mut desk = desk.join().unwrap();
        assert_eq!(desk.because(), Some("a worker is stuck "));
        desk.next_daemon("exit 75");
        assert!(desk.because().is_none() && !desk.is_ready());

        let (broker, desk) = pair(desk);
        broker.ready().unwrap();
        assert_eq!(broker.history().unwrap(), (1, "exit 75".to_owned()));
        assert!(broker.take("c").unwrap().is_empty());
        let mut writer = std::fs::File::from(broker.take("a").unwrap().remove(0));
        writer.write_all(b"still here").unwrap();
        broker.forget_others().unwrap();
        assert!(broker.take("b").unwrap().is_empty());
        assert_eq!(broker.take("a").unwrap().len(), 1);
        broker.forget("a").unwrap();
        assert!(broker.take("a").unwrap().is_empty());
        drop((broker, writer));
        assert!(desk.join().unwrap().is_ready());
        // Nobody keeps the other end.
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "still here");
    }

    #[test]
    fn the_nodes_own_interfaces_are_not_the_daemons() {
        let (broker, desk) = pair(Desk::default());
        for path in ["/proc/self/ns/net", "/proc/thread-self/ns/../ns/net"] {
            let refused = broker.packets(Path::new(path), "lo").unwrap_err();
            assert!(refused.contains("is the node's own network namespace"), "{refused}");
        }
        let refused = broker.steer(Path::new("/proc/self/ns/net"), &[]).unwrap_err();
        assert!(refused.contains("is the node's own network namespace"), "{refused}");
        assert!(
            broker
                .packets(Path::new("/nowhere/netns"), "lo")
                .unwrap_err()
                .contains("no network namespace at /nowhere/netns")
        );
        drop(broker);
        desk.join().unwrap();
    }

    #[test]
    fn nothing_is_done_for_what_is_no_request() {
        let (near, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let mut desk = Desk::default();
        let long = "x".repeat(9000);
        for bytes in
            [&b"store"[..], b"store a", b"x store a", b"1 store", b"2 stash a", b"\xff", b"3 take \n", long.as_bytes()]
        {
            rustix::net::send(&near, bytes, rustix::net::SendFlags::empty()).unwrap();
            assert_eq!(desk.serve(&far).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        assert_eq!(desk.serve(&far).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        message::send(&near, "7 store a", &[]).unwrap();
        desk.serve(&far).unwrap();
        let received = message::receive(&near, RecvFlags::empty()).unwrap();
        assert_eq!(received.text, "7 refused there is no descriptor with it");
    }

    #[test]
    fn what_another_supervisor_has_kept_is_kept_on_and_sockets_of_a_takeover_are_not() {
        let file = || vec![std::fs::File::open("/dev/null").unwrap().into()];
        let mut desk = Desk::default();
        desk.inherit("connection:vm-a".to_owned(), file()).unwrap();
        desk.inherit(format!("{}vm-a", state::LISTENER), file()).unwrap();
        desk.inherit(state::LOCK.to_owned(), file()).unwrap();
        assert!(desk.inherit("nothing".to_owned(), Vec::new()).unwrap_err().contains("no descriptor"));
        desk.inherit_history(3, "exit 75".to_owned());
        assert_eq!((desk.kept().count(), desk.history()), (3, (3, "exit 75")));
        desk.next_daemon("signal 9 (SIGKILL)");
        assert_eq!(desk.kept().map(|(name, _)| name).collect::<Vec<_>>(), ["connection:vm-a"]);
    }

    #[test]
    fn connections_are_dropped_when_daemons_die_one_after_the_other() {
        let (broker, desk) = pair(Desk::default());
        let (mut reader, writer) = io::pipe().unwrap();
        let (other, _) = io::pipe().unwrap();
        broker.store(&format!("{CONNECTION}vm-a"), &[writer.into(), other.into()]).unwrap();
        assert_eq!(broker.take(&format!("{CONNECTION}vm-a")).unwrap().len(), 2);
        broker.store("configuration", &[std::fs::File::open("/dev/null").unwrap().into()]).unwrap();
        drop(broker);
        let mut desk = desk.join().unwrap();
        assert_eq!(desk.drop_connections(), 1);
        // It is closed, in a thread.
        assert_eq!(reader.read_to_end(&mut Vec::new()).unwrap(), 0);
        let (broker, desk) = pair(desk);
        assert_eq!(broker.take("configuration").unwrap().len(), 1);
        assert!(broker.take(&format!("{CONNECTION}vm-a")).unwrap().is_empty());
        drop(broker);
        desk.join().unwrap();
    }

    #[test]
    fn more_than_a_message_carries_is_refused() {
        let (broker, desk) = pair(Desk::default());
        let (_, writer) = io::pipe().unwrap();
        let writer = OwnedFd::from(writer);
        let many = |count: usize| -> Vec<_> { (0..count).map(|_| writer.try_clone().unwrap()).collect() };
        broker.store("a", &many(message::MAX_DESCRIPTORS)).unwrap();
        assert_eq!(broker.take("a").unwrap().len(), message::MAX_DESCRIPTORS);
        broker.store("b", &many(message::MAX_DESCRIPTORS + 1)).unwrap_err();
        assert!(broker.take("b").unwrap().is_empty());
        drop(broker);
        desk.join().unwrap();
    }
}
