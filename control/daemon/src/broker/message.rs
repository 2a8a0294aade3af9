//! Requests to the supervisor and its replies: one message of a SOCK_SEQPACKET socket each, a number, a word and what belongs to it,
//! with descriptors where it is about them. A reply has the number of its request.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

/// What the daemon asks for. Descriptors come with [`Request::Store`], [`Request::Steer`] and
/// [`Request::Repair`] alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Tells that signals reach the daemon from now on. Answered by [`Reply::Done`], as all that ask for nothing.
    Ready,
    /// Tells that the ports were opened and all goes its way; again and again, where systemd watches.
    Alive,
    /// Asks how often the daemon was started again, and why: [`Reply::History`].
    History,
    /// Tells why the daemon is about to end with [`EXIT_AGAIN`](crate::arguments::EXIT_AGAIN).
    Because(String),
    /// Gives descriptors into keeping for the next daemon, under a name, in the place of those that have it.
    Store(String),
    /// Asks for copies of the descriptors of that name: [`Reply::Descriptors`] or [`Reply::None`]. They stay in keeping.
    Take(String),
    /// Ends the keeping of the descriptors of that name, if there are any.
    Forget(String),
    /// Ends the keeping of all descriptors that this daemon has neither stored nor taken.
    ForgetOthers,
    /// Asks for a packet socket on an interface of a pod's network namespace: [`Reply::Descriptors`], one.
    Packets {
        /// The interface.
        tap: String,
        /// The namespace's path.
        netns: PathBuf,
    },
    /// Asks for what steers the ports of a pod's network namespace, whose path this is, to two sockets:
    /// [`Reply::Descriptors`], the link and the table.
    Steer(PathBuf),
    /// Asks to have sockets of a pod's network namespace switched to repair mode, or back: [`Reply::Done`].
    Repair {
        /// Whether they are to be in it.
        on: bool,
        /// The namespace's path.
        netns: PathBuf,
    },
    /// Tells that DPDK's memory is in hugepages.
    Hugepages,
    /// Asks what the supervisor wants, which has sent a signal: [`Reply::Wish`].
    Asked,
    /// Tells that the daemon moves nothing any more, and that all the next one needs is kept.
    Frozen,
    /// Tells why it goes on instead.
    NotFrozen(String),
    /// A daemon that takes over is prepared: [`Reply::Done`] when it is its turn, [`Reply::None`] until then.
    Prepared,
    /// Whether the daemon that it has taken over from has gone: [`Reply::Done`], [`Reply::None`] until then.
    Alone,
    /// It has taken everything up, and moves nothing yet: [`Reply::Done`] when it may, [`Reply::None`] until then.
    Taken,
}

/// What the supervisor wants of the daemon when another culvertd takes over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// Nothing.
    #[default]
    Nothing,
    /// That it stands still and gives away what it has.
    Freeze,
    /// That it goes on.
    Thaw,
}

/// What the supervisor answers. Descriptors come with [`Reply::Descriptors`] alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is done.
    Done,
    /// The descriptors that were asked for are here.
    Descriptors,
    /// There is none.
    None,
    /// How often the daemon was started again, and why the last time; empty when it was not.
    History(u64, String),
    /// It is not done, for this reason.
    Refused(String),
    /// What is wanted.
    Wish(Wish),
}

/// The longest message. Paths of sockets are in it.
const MAX_BYTES: usize = 8192;
/// The longest text of a message.
const MAX_TEXT: usize = 6144;

impl Request {
    /// The message.
    pub fn text(&self) -> String {
        match self {
            Self::Ready => "ready".to_owned(),
            Self::Alive => "alive".to_owned(),
            Self::History => "history".to_owned(),
            Self::Because(reason) => format!("because {reason}"),
            Self::Store(name) => format!("store {name}"),
            Self::Take(name) => format!("take {name}"),
            Self::Forget(name) => format!("forget {name}"),
            Self::ForgetOthers => "forget-others".to_owned(),
            Self::Packets { tap, netns } => format!("packets {tap} {}", netns.display()),
            Self::Steer(netns) => format!("steer {}", netns.display()),
            Self::Repair { on, netns } => {
                format!("repair {} {}", if *on { "on" } else { "off" }, netns.display())
            }
            Self::Hugepages => "hugepages".to_owned(),
            Self::Asked => "asked".to_owned(),
            Self::Frozen => "frozen".to_owned(),
            Self::NotFrozen(reason) => format!("not-frozen {reason}"),
            Self::Prepared => "prepared".to_owned(),
            Self::Taken => "taken".to_owned(),
            Self::Alone => "alone".to_owned(),
        }
    }

    /// The request of a message; `None` when it is none.
    pub fn parse(message: &str) -> Option<Self> {
        let (word, rest) = message.split_once(' ').unwrap_or((message, ""));
        let text = || (!rest.is_empty() && rest.len() <= MAX_TEXT).then(|| rest.to_owned());
        match word {
            "because" => text().map(Self::Because),
            "store" => text().map(Self::Store),
            "take" => text().map(Self::Take),
            "forget" => text().map(Self::Forget),
            "packets" => {
                let text = text()?;
                let (tap, netns) = text.split_once(' ')?;
                let netns = PathBuf::from(netns);
                netns.is_absolute().then(|| Self::Packets { tap: tap.to_owned(), netns })
            }
            "steer" => text().map(PathBuf::from).filter(|netns| netns.is_absolute()).map(Self::Steer),
            "repair" => {
                let text = text()?;
                let (mode, netns) = text.split_once(' ')?;
                let netns = PathBuf::from(netns);
                let on = match mode {
                    "on" => true,
                    "off" => false,
                    _ => return None,
                };
                netns.is_absolute().then_some(Self::Repair { on, netns })
            }
            "not-frozen" => text().map(Self::NotFrozen),
            "hugepages" if rest.is_empty() => Some(Self::Hugepages),
            "asked" if rest.is_empty() => Some(Self::Asked),
            "frozen" if rest.is_empty() => Some(Self::Frozen),
            "prepared" if rest.is_empty() => Some(Self::Prepared),
            "taken" if rest.is_empty() => Some(Self::Taken),
            "alone" if rest.is_empty() => Some(Self::Alone),
            "ready" if rest.is_empty() => Some(Self::Ready),
            "alive" if rest.is_empty() => Some(Self::Alive),
            "history" if rest.is_empty() => Some(Self::History),
            "forget-others" if rest.is_empty() => Some(Self::ForgetOthers),
            _ => None,
        }
    }
}

impl Reply {
    /// The message.
    pub fn text(&self) -> String {
        match self {
            Self::Done => "done".to_owned(),
            Self::Descriptors => "descriptors".to_owned(),
            Self::None => "none".to_owned(),
            Self::History(restarts, reason) => format!("history {restarts} {reason}"),
            Self::Refused(reason) => format!("refused {reason}"),
            Self::Wish(Wish::Nothing) => "wish nothing".to_owned(),
            Self::Wish(Wish::Freeze) => "wish freeze".to_owned(),
            Self::Wish(Wish::Thaw) => "wish thaw".to_owned(),
        }
    }

    /// The reply of a message; `None` when it is none.
    pub fn parse(message: &str) -> Option<Self> {
        let (word, rest) = message.split_once(' ').unwrap_or((message, ""));
        match word {
            "done" => Some(Self::Done),
            "descriptors" => Some(Self::Descriptors),
            "none" => Some(Self::None),
            "history" => {
                let (restarts, reason) = rest.split_once(' ')?;
                Some(Self::History(restarts.parse().ok()?, reason.to_owned()))
            }
            "refused" => Some(Self::Refused(rest.to_owned())),
            "wish" => match rest {
                "nothing" => Some(Self::Wish(Wish::Nothing)),
                "freeze" => Some(Self::Wish(Wish::Freeze)),
                "thaw" => Some(Self::Wish(Wish::Thaw)),
                _ => None,
            },
            _ => None,
        }
    }
}

/// A message with a number before it.
pub fn numbered(number: u64, text: &str) -> String {
    format!("{number} {text}")
}

/// The number and the rest of a message.
pub fn number(message: &str) -> Option<(u64, &str)> {
    let (number, text) = message.split_once(' ')?;
    Some((number.parse().ok()?, text))
}

/// Most descriptors of one message (SCM_MAX_FD of the kernel).
pub const MAX_DESCRIPTORS: usize = 253;

/// A message that was received.
#[derive(Debug)]
pub struct Received {
    /// The message.
    pub text: String,
    /// What came with it, close-on-exec.
    pub descriptors: Vec<OwnedFd>,
    /// There were more, for which this process has no room.
    pub lost: bool,
}

/// Sends one message.
///
/// # Errors
/// The kernel's; [`io::ErrorKind::InvalidInput`] for a message that is too long, has control characters, or too many descriptors.
pub fn send(socket: impl AsFd, text: &str, descriptors: &[OwnedFd]) -> io::Result<()> {
    if text.len() > MAX_BYTES || text.contains(char::is_control) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(text.as_bytes())], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one message with its descriptors.
///
/// # Errors
/// The kernel's; [`io::ErrorKind::UnexpectedEof`] when the other end is closed; [`io::ErrorKind::InvalidData`] for what no message can
/// be.
pub fn receive(socket: impl AsFd, flags: RecvFlags) -> io::Result<Received> {
    let mut bytes = vec![0; MAX_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let received = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?;
    let descriptors = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let descriptors = descriptors.flatten().collect();
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    bytes.truncate(received.bytes);
    let text = String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData)?;
    if text.contains(char::is_control) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(Received { text, descriptors, lost: received.flags.contains(ReturnFlags::CTRUNC) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_message_is_read_as_it_was_written() {
        let name = || "port/vm a:/run/x.sock".to_owned();
        let requests = [
            Request::Ready,
            Request::History,
            Request::Because(name()),
            Request::Store(name()),
            Request::Take(name()),
            Request::Forget(name()),
            Request::ForgetOthers,
            Request::Packets { tap: "tap0".to_owned(), netns: "/run/netns/a b".into() },
            Request::Steer("/run/netns/a b".into()),
            Request::Repair { on: true, netns: "/run/netns/a b".into() },
            Request::Repair { on: false, netns: "/run/netns/a".into() },
            Request::Hugepages,
            Request::Asked,
            Request::Frozen,
            Request::NotFrozen(name()),
            Request::Prepared,
            Request::Taken,
            Request::Alone,
        ];
        for request in requests {
            assert_eq!(Request::parse(&request.text()), Some(request));
        }
        let replies = [
            Reply::Done,
            Reply::Descriptors,
            Reply::None,
            Reply::History(7, "signal 9 (SIGKILL)".to_owned()),
            Reply::History(0, String::new()),
            Reply::Refused(name()),
            Reply::Wish(Wish::Nothing),
            Reply::Wish(Wish::Freeze),
            Reply::Wish(Wish::Thaw),
        ];
        for reply in replies {
            assert_eq!(Reply::parse(&reply.text()), Some(reply));
        }
    }

    #[test]
    fn what_is_no_request_is_none() {
        for text in [
            "",
            "ready now",
            "readying",
            "store",
            "store ",
            "take",
            " take x",
            "STORE x",
            "forget-others x",
            "frozen x",
            "not-frozen",
            "packets t",
            "packets t n/s",
            "steer",
            "steer n/s",
            "repair on",
            "repair perhaps /n/s",
            "repair off n/s",
        ] {
            assert_eq!(Request::parse(text), None, "{text}");
        }
        assert_eq!(Request::parse(&format!("store {}", "x".repeat(MAX_TEXT + 1))), None);
    }
}
