//! What the two supervisors say to each other: one message of a SOCK_SEQPACKET socket each, a word and what belongs to it, with
//! descriptors where it is about them. Whatever is no such message ends the conversation, and with it the takeover.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::RecvFlags;
use tokio::io::unix::AsyncFd;

use crate::broker::message as wire;

/// The format of the hand-over: its messages, the names under which descriptors are kept, and what these have to say. To be increased
/// whenever an older culvertd would misunderstand a newer one, or the reverse.
pub const FORMAT: u32 = 1;

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// New to old: who it is.
    Hello(Greeting),
    /// Old to new: who it is. With a descriptor of the old supervisor's process.
    Welcome {
        /// Who it is.
        greeting: Greeting,
        /// Whether its memory is in hugepages.
        hugepages: bool,
    },
    /// Old to new: the takeover has ended, and the old one goes on.
    Refused(String),
    /// New to old: the new daemon is prepared. With descriptors of the new supervisor's and the new daemon's process.
    HandOver,
    /// Old to new: the old daemon stands still. With a descriptor of its process.
    Still,
    /// Old to new: what is kept under this name.
    Kept(String),
    /// Old to new: that was all of it, so many names.
    All {
        /// How many names.
        names: usize,
        /// How often the daemon was started again.
        restarts: u64,
        /// Why the last time.
        last_reason: String,
    },
    /// New to old: the new daemon has taken up everything, and moves nothing yet.
    Taken,
    /// Old to new: the old daemon is ended; it may go on.
    Go,
    /// New to old: the new one serves from now on.
    Serving,
}

/// Who somebody is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// The format that it speaks.
    pub format: u32,
    /// Its version of culvertd.
    pub version: String,
}

impl Greeting {
    /// This culvertd's.
    pub fn own(version: &str) -> Self {
        Self { format: FORMAT, version: version.to_owned() }
    }

    /// Why there can be no takeover between this one and `other`; `None`: there can.
    pub fn obstacle(&self, other: &Self) -> Option<String> {
        (self.format != other.format).then(|| {
            format!(
                "culvertd {} hands over in format {}, culvertd {} in format {}; stop the running one, then start the other without \
                 --takeover",
                self.version, self.format, other.version, other.format
            )
        })
    }

    fn text(&self) -> String {
        format!("{} {}", self.format, self.version)
    }

    fn parse(text: &str) -> Option<Self> {
        let (format, version) = text.split_once(' ')?;
        let is_version = !version.is_empty() && version.len() <= MAX_VERSION && !version.contains(' ');
        is_version.then_some(())?;
        Some(Self { format: format.parse().ok()?, version: version.to_owned() })
    }
}

impl Message {
    /// As it is on the socket.
    pub fn text(&self) -> String {
        match self {
            Self::Hello(greeting) => format!("{HELLO} {}", greeting.text()),
            Self::Welcome { greeting, hugepages } => {
                format!("welcome {} {}", if *hugepages { "hugepages" } else { "pages" }, greeting.text())
            }
            Self::Refused(reason) => format!("refused {reason}"),
            Self::HandOver => "hand-over".to_owned(),
            Self::Still => "still".to_owned(),
            Self::Kept(name) => format!("kept {name}"),
            Self::All { names, restarts, last_reason } => format!("all {names} {restarts} {last_reason}"),
            Self::Taken => "taken".to_owned(),
            Self::Go => "go".to_owned(),
            Self::Serving => "serving".to_owned(),
        }
    }

    /// The message of a text; `None` when it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        Some(match word {
            HELLO => Self::Hello(Greeting::parse(rest)?),
            "welcome" => {
                let (pages, greeting) = rest.split_once(' ')?;
                let hugepages = match pages {
                    "hugepages" => true,
                    "pages" => false,
                    _ => return None,
                };
                Self::Welcome { greeting: Greeting::parse(greeting)?, hugepages }
            }
            "refused" => Self::Refused(rest.to_owned()),
            "kept" if !rest.is_empty() => Self::Kept(rest.to_owned()),
            "all" => {
                let mut words = rest.splitn(3, ' ');
                let names = words.next()?.parse().ok()?;
                let restarts = words.next()?.parse().ok()?;
                Self::All { names, restarts, last_reason: words.next()?.to_owned() }
            }
            "hand-over" if rest.is_empty() => Self::HandOver,
            "still" if rest.is_empty() => Self::Still,
            "taken" if rest.is_empty() => Self::Taken,
            "go" if rest.is_empty() => Self::Go,
            "serving" if rest.is_empty() => Self::Serving,
            _ => return None,
        })
    }
}

/// Sends a message with copies of descriptors.
///
/// # Errors
/// The kernel's; [`io::ErrorKind::WouldBlock`]: the other does not read.
pub fn send(socket: impl AsFd, message: &Message, descriptors: &[OwnedFd]) -> io::Result<()> {
    wire::send(socket, &message.text(), descriptors)
}

/// Receives a message with its descriptors.
///
/// # Errors
/// The kernel's; [`io::ErrorKind::UnexpectedEof`] when the other has gone; [`io::ErrorKind::InvalidData`] for what is no message.
pub fn receive(socket: impl AsFd, flags: RecvFlags) -> io::Result<(Message, Vec<OwnedFd>)> {
    let received = loop {
        match wire::receive(&socket, flags) {
            // A reset: the other has gone without reading all that it was told. What it has said comes next.
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionReset) => {}
            received => break received?,
        }
    };
    if received.lost {
        return Err(io::Error::other("this process may not open as many files as it is handed; see `ulimit -n`"));
    }
    let message = Message::parse(&received.text).ok_or(io::ErrorKind::InvalidData)?;
    Ok((message, received.descriptors))
}

/// Waits for the next message, without a limit.
///
/// # Errors
/// As [`receive`].
pub async fn next(socket: &AsyncFd<OwnedFd>) -> io::Result<(Message, Vec<OwnedFd>)> {
    loop {
        let mut ready = socket.readable().await?;
        match ready.try_io(|socket| receive(socket.get_ref(), RecvFlags::DONTWAIT)) {
            Ok(received) => return received,
            Err(_would_block) => {}
        }
    }
}

/// How a hello begins: whoever connects and says something else is no culvertd.
const HELLO: &str = "culvertd-takeover";
/// Longest version, in bytes.
const MAX_VERSION: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    #[test]
    fn each_message_is_read_as_it_was_written() {
        let greeting = || Greeting { format: 7, version: "0.1.0+other".to_owned() };
        let messages = [
            Message::Hello(greeting()),
            Message::Welcome { greeting: greeting(), hugepages: true },
            Message::Welcome { greeting: greeting(), hugepages: false },
            Message::Refused("a sentence, as it is".to_owned()),
            Message::HandOver,
            Message::Still,
            Message::Kept("connection:vm a".to_owned()),
            Message::All { names: 12, restarts: 3, last_reason: "signal 9 (SIGKILL)".to_owned() },
            Message::All { names: 0, restarts: 0, last_reason: String::new() },
            Message::Taken,
            Message::Go,
            Message::Serving,
        ];
        for message in messages {
            assert_eq!(Message::parse(&message.text()), Some(message));
        }
    }

    #[test]
    fn what_is_no_message_is_none() {
        for text in [
            "",
            "hello 1 0.1.0",
            "culvertd-takeover",
            "culvertd-takeover 1",
            "culvertd-takeover 1 ",
            "culvertd-takeover x 0.1.0",
            "culvertd-takeover 1 0.1.0 and more",
            "culvertd-takeover 4294967296 0.1.0",
            "welcome 1 0.1.0",
            "welcome huge 1 0.1.0",
            "kept",
            "kept ",
            "all",
            "all 1",
            "all 1 2",
            "all -1 2 x",
            "go now",
            "GO",
            "serving x",
        ] {
            assert_eq!(Message::parse(text), None, "{text}");
        }
        assert_eq!(Message::parse(&format!("culvertd-takeover 1 {}", "x".repeat(MAX_VERSION + 1))), None);
    }

    #[test]
    fn what_somebody_said_who_has_gone_is_heard() {
        let (near, far) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        send(&near, &Message::HandOver, &[]).unwrap();
        send(&far, &Message::Refused("a sentence".to_owned()), &[]).unwrap();
        // What it was told is not read: without more the kernel says so first.
        drop(far);
        assert_eq!(receive(&near, RecvFlags::empty()).unwrap().0, Message::Refused("a sentence".to_owned()));
        assert_eq!(receive(&near, RecvFlags::empty()).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn another_format_is_refused_with_both_versions_named() {
        let (old, new) =
            (Greeting { format: 1, version: "0.1.0".to_owned() }, Greeting { format: 2, version: "0.2.0".to_owned() });
        assert_eq!(old.obstacle(&old), None);
        assert_eq!(
            old.obstacle(&new).unwrap(),
            "culvertd 0.1.0 hands over in format 1, culvertd 0.2.0 in format 2; stop the running one, then start the other without \
             --takeover"
        );
    }
}
