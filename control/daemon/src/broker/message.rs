//! Requests to the supervisor and its replies: one message of a SOCK_SEQPACKET socket each, a word and what belongs to it, with at
//! most one descriptor.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

/// What the daemon asks for. A descriptor comes with [`Request::Store`] alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Tells that signals reach the daemon from now on. Answered by [`Reply::Done`], as all that ask for nothing.
    Ready,
    /// Asks how often the daemon was started again, and why: [`Reply::History`].
    History,
    /// Tells why the daemon is about to end with [`EXIT_AGAIN`](crate::arguments::EXIT_AGAIN).
    Because(String),
    /// Gives a descriptor into keeping for the next daemon, under a name, in the place of one that has it.
    Store(String),
    /// Asks for a copy of the descriptor of that name: [`Reply::Descriptor`] or [`Reply::None`]. It stays in keeping.
    Take(String),
    /// Ends the keeping of the descriptor of that name, if there is one.
    Forget(String),
    /// Ends the keeping of all descriptors that this daemon has neither stored nor taken.
    ForgetOthers,
}

/// What the supervisor answers. A descriptor comes with [`Reply::Descriptor`] alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It is done.
    Done,
    /// The descriptor that was asked for is here.
    Descriptor,
    /// There is none.
    None,
    /// How often the daemon was started again, and why the last time; empty when it was not.
    History(u64, String),
    /// It is not done, for this reason.
    Refused(String),
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
            Self::History => "history".to_owned(),
            Self::Because(reason) => format!("because {reason}"),
            Self::Store(name) => format!("store {name}"),
            Self::Take(name) => format!("take {name}"),
            Self::Forget(name) => format!("forget {name}"),
            Self::ForgetOthers => "forget-others".to_owned(),
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
            "ready" if rest.is_empty() => Some(Self::Ready),
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
            Self::Descriptor => "descriptor".to_owned(),
            Self::None => "none".to_owned(),
            Self::History(restarts, reason) => format!("history {restarts} {reason}"),
            Self::Refused(reason) => format!("refused {reason}"),
        }
    }

    /// The reply of a message; `None` when it is none.
    pub fn parse(message: &str) -> Option<Self> {
        let (word, rest) = message.split_once(' ').unwrap_or((message, ""));
        match word {
            "done" => Some(Self::Done),
            "descriptor" => Some(Self::Descriptor),
            "none" => Some(Self::None),
            "history" => {
                let (restarts, reason) = rest.split_once(' ')?;
                Some(Self::History(restarts.parse().ok()?, reason.to_owned()))
            }
            "refused" => Some(Self::Refused(rest.to_owned())),
            _ => None,
        }
    }
}

/// Sends one message.
///
/// # Errors
/// The kernel's; [`io::ErrorKind::InvalidInput`] for a message that is too long or has control characters.
pub fn send(socket: impl AsFd, text: &str, descriptor: Option<&OwnedFd>) -> io::Result<()> {
    if text.len() > MAX_BYTES || text.contains(char::is_control) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let descriptors: Vec<_> = descriptor.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(text.as_bytes())], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one message with its descriptor, close-on-exec.
///
/// # Errors
/// The kernel's; [`io::ErrorKind::UnexpectedEof`] when the other end is closed; [`io::ErrorKind::InvalidData`] for what no message can
/// be.
pub fn receive(socket: impl AsFd, flags: RecvFlags) -> io::Result<(String, Option<OwnedFd>)> {
    let mut bytes = vec![0; MAX_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let received = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?;
    let descriptors = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let mut descriptors = descriptors.flatten();
    let descriptor = descriptors.next();
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    // Of several descriptors the kernel closes those that there is no room for, and says so.
    if descriptors.next().is_some() || received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    bytes.truncate(received.bytes);
    let text = String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData)?;
    if text.contains(char::is_control) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok((text, descriptor))
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
        ];
        for request in requests {
            assert_eq!(Request::parse(&request.text()), Some(request));
        }
        let replies = [
            Reply::Done,
            Reply::Descriptor,
            Reply::None,
            Reply::History(7, "signal 9 (SIGKILL)".to_owned()),
            Reply::History(0, String::new()),
            Reply::Refused(name()),
        ];
        for reply in replies {
            assert_eq!(Reply::parse(&reply.text()), Some(reply));
        }
    }

    #[test]
    fn what_is_no_request_is_none() {
        for text in ["", "ready now", "readying", "store", "store ", "take", " take x", "STORE x", "forget-others x"] {
            assert_eq!(Request::parse(text), None, "{text}");
        }
        assert_eq!(Request::parse(&format!("store {}", "x".repeat(MAX_TEXT + 1))), None);
    }
}
