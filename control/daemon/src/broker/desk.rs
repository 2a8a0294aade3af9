//! The supervisor's end of the broker's socket: takes one request, does it, answers. It outlives the daemon, and so does what it keeps.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::RecvFlags;

use super::message::{self, Reply, Request};

/// What the supervisor knows and keeps for the daemon.
#[derive(Debug, Default)]
pub struct Desk {
    kept: BTreeMap<String, Kept>,
    ready: bool,
    because: Option<String>,
    restarts: u64,
    last_reason: String,
}

#[derive(Debug)]
struct Kept {
    descriptor: OwnedFd,
    /// The daemon that runs now has stored or taken it.
    known: bool,
}

impl Desk {
    /// A daemon starts again, for this reason.
    pub fn next_daemon(&mut self, reason: &str) {
        (self.ready, self.because) = (false, None);
        self.restarts = self.restarts.saturating_add(1);
        reason.clone_into(&mut self.last_reason);
        self.kept.values_mut().for_each(|kept| kept.known = false);
    }

    /// Whether signals reach the daemon.
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// How often the daemon was started again.
    pub fn restarts(&self) -> u64 {
        self.restarts
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
        let (text, descriptor) = match message::receive(&socket, RecvFlags::DONTWAIT) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            received => received?,
        };
        let request = Request::parse(&text).ok_or(io::ErrorKind::InvalidData)?;
        let (reply, descriptor) = self.answer(request, descriptor);
        message::send(&socket, &reply.text(), descriptor.as_ref())
    }

    fn answer(&mut self, request: Request, descriptor: Option<OwnedFd>) -> (Reply, Option<OwnedFd>) {
        let reply = match (request, descriptor) {
            (Request::Ready, _) => {
                self.ready = true;
                Reply::Done
            }
            (Request::History, _) => Reply::History(self.restarts, self.last_reason.clone()),
            (Request::Because(reason), _) => {
                self.because = Some(reason);
                Reply::Done
            }
            (Request::Store(name), Some(descriptor)) => {
                if self.kept.len() >= MAX_KEPT && !self.kept.contains_key(&name) {
                    Reply::Refused(format!("{MAX_KEPT} descriptors are kept already"))
                } else {
                    self.kept.insert(name, Kept { descriptor, known: true });
                    Reply::Done
                }
            }
            (Request::Store(_), None) => Reply::Refused("there is no descriptor with it".to_owned()),
            (Request::Take(name), _) => return self.take(&name),
            (Request::Forget(name), _) => {
                self.kept.remove(&name);
                Reply::Done
            }
            (Request::ForgetOthers, _) => {
                self.kept.retain(|_, kept| kept.known);
                Reply::Done
            }
        };
        (reply, None)
    }

    fn take(&mut self, name: &str) -> (Reply, Option<OwnedFd>) {
        let Some(kept) = self.kept.get_mut(name) else { return (Reply::None, None) };
        match kept.descriptor.try_clone() {
            Ok(copy) => {
                kept.known = true;
                (Reply::Descriptor, Some(copy))
            }
            Err(error) => (Reply::Refused(format!("the descriptor cannot be copied: {error}")), None),
        }
    }
}

/// Descriptors that are kept at most: more than there can be ports.
const MAX_KEPT: usize = 4096;

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
        broker.store("a", &writer.into()).unwrap();
        broker.store("b", &std::fs::File::open("/dev/null").unwrap().into()).unwrap();
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
        assert!(broker.take("c").unwrap().is_none());
        let mut writer = std::fs::File::from(broker.take("a").unwrap().unwrap());
        writer.write_all(b"still here").unwrap();
        broker.forget_others().unwrap();
        assert!(broker.take("b").unwrap().is_none());
        assert!(broker.take("a").unwrap().is_some());
        broker.forget("a").unwrap();
        assert!(broker.take("a").unwrap().is_none());
        drop((broker, writer));
        assert!(desk.join().unwrap().is_ready());
        // Nobody keeps the other end.
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "still here");
    }

    #[test]
    fn nothing_is_done_for_what_is_no_request() {
        let (near, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let mut desk = Desk::default();
        let long = "x".repeat(9000);
        for bytes in [&b"store"[..], b"stash a", b"\xff", b"take \n", long.as_bytes()] {
            rustix::net::send(&near, bytes, rustix::net::SendFlags::empty()).unwrap();
            assert_eq!(desk.serve(&far).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        assert_eq!(desk.serve(&far).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        message::send(&near, "store a", None).unwrap();
        desk.serve(&far).unwrap();
        let (text, _) = message::receive(&near, RecvFlags::empty()).unwrap();
        assert_eq!(text, "refused there is no descriptor with it");
    }
}
