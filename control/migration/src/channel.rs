//! The connections that a migration has, by the numbers that KubeVirt gives them.

use std::fmt;

/// One of a migration's kinds of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Channel {
    /// libvirt talks to libvirt.
    Control,
    /// QEMU sends memory and devices; with multifd by many connections.
    Memory,
    /// QEMU sends disks that are not shared.
    Disks,
}

impl Channel {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Control, Self::Memory, Self::Disks];

    /// Its number: 0, or the TCP port that libvirt takes for it where there is no proxy.
    pub fn number(self) -> u16 {
        match self {
            Self::Control => 0,
            Self::Memory => 49152,
            Self::Disks => 49153,
        }
    }

    /// The channel with that number.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|channel| u32::from(channel.number()) == number)
    }

    /// The name of a migration's socket for it, at the source as at the target: QEMU at the target listens on the path that QEMU at
    /// the source connects to.
    pub fn socket_name(self, migration: &str) -> String {
        match self {
            Self::Control => format!("{migration}-source.sock"),
            Self::Memory | Self::Disks => format!("{migration}-{}-source.sock", self.number()),
        }
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.number())
    }
}
