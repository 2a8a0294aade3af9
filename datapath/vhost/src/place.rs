//! Where a port's socket is, whose it is, and how far its surroundings are trusted.
//!
//! Plain values. [`listen`](crate::listen) and [`connect`](crate::connect) act on them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The place of a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The socket. Its folder's path may be longer than a socket address holds (107 bytes).
    pub path: PathBuf,
    /// A folder above it whose content somebody else can change at any time, such as a pod's volume: below it no link is
    /// followed and nothing leads out. It is never made. `None`: all of the path is trusted.
    pub root: Option<PathBuf>,
    /// Owner of the socket and of folders that we make below the root; `None`: we.
    pub owner: Option<Owner>,
    /// SELinux label of the same; `None`: what the node's policy says.
    pub label: Option<String>,
}

/// A user and a group, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A text that is no [`Owner`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a user and a group by number, such as 107:107")]
pub struct NotAnOwner;

impl From<PathBuf> for Place {
    /// A socket of our own in a trusted folder.
    fn from(path: PathBuf) -> Self {
        Self { path, root: None, owner: None, label: None }
    }
}

impl From<&Path> for Place {
    /// As from [`PathBuf`].
    fn from(path: &Path) -> Self {
        path.to_owned().into()
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.uid, self.gid)
    }
}

impl FromStr for Owner {
    type Err = NotAnOwner;

    /// `uid:gid` in decimal digits. 4294967295 is none: chown(2) takes it for "leave it".
    fn from_str(text: &str) -> Result<Self, NotAnOwner> {
        let number = |digits: &str| {
            let only_digits = digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse().ok().filter(|id| only_digits && *id != u32::MAX).ok_or(NotAnOwner)
        };
        let (uid, gid) = text.split_once(':').ok_or(NotAnOwner)?;
        Ok(Self { uid: number(uid)?, gid: number(gid)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_read_as_they_are_written() {
        for text in ["0:0", "107:107", "1:4294967294"] {
            assert_eq!(text.parse::<Owner>().unwrap().to_string(), text);
        }
        for text in [
            "",
            ":",
            "107",
            "107:",
            ":107",
            "+1:1",
            "1:-1",
            "1:1:1",
            " 1:1",
            "qemu:qemu",
            "4294967295:0",
            "0:4294967296",
        ] {
            assert_eq!(text.parse::<Owner>(), Err(NotAnOwner), "{text}");
        }
    }
}
