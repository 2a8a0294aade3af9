//! Why a flow does not come along when its guest moves to another machine. Each one is a counter.

use std::fmt;

/// Why a flow was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Lost {
    /// Nobody switches sockets to repair mode: there is no helper, or it failed.
    Helper,
    /// The pod does not have the address that the far end knows.
    Address,
    /// It leads where this translator lets its guest not go, or where the guest has no address.
    NotAllowed,
    /// The kernel holds it in a state in which it cannot be read: it is closed, or has urgent data.
    State,
    /// The kernel refused what it was to be made of.
    Socket,
    /// More waits in its queues than can be carried or than the kernel takes.
    TooMuch,
    /// There are as many flows as there may be, or one with the same ends.
    NoRoom,
}

impl Lost {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// All, in the order of their numbers.
    pub const ALL: [Self; 7] =
        [Self::Helper, Self::Address, Self::NotAllowed, Self::State, Self::Socket, Self::TooMuch, Self::NoRoom];

    /// Its name among the statistics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Helper => "migration_lost_no_helper",
            Self::Address => "migration_lost_address",
            Self::NotAllowed => "migration_lost_not_allowed",
            Self::State => "migration_lost_state",
            Self::Socket => "migration_lost_socket",
            Self::TooMuch => "migration_lost_too_much",
            Self::NoRoom => "migration_lost_no_room",
        }
    }

    /// The same for people.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Helper => "nobody helped with its socket (TCP_REPAIR takes CAP_NET_ADMIN)",
            Self::Address => "this pod does not have its address",
            Self::NotAllowed => "it leads where this guest may not go",
            Self::State => "its socket cannot be read in its state",
            Self::Socket => "the kernel refused to make its socket",
            Self::TooMuch => "too much waits in its queues",
            Self::NoRoom => "there are too many flows here, or one like it",
        }
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What moved, counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Flows that were saved: of TCP, UDP and echo.
    pub saved: [u64; 3],
    /// Flows that were loaded and live.
    pub loaded: [u64; 3],
    lost: [u64; Lost::COUNT],
}

impl Moved {
    /// Counts one that is lost.
    pub fn lose(&mut self, reason: Lost) {
        if let Some(count) = self.lost.get_mut(reason as usize) {
            *count += 1;
        }
    }

    /// How many were lost for this reason.
    pub fn lost(&self, reason: Lost) -> u64 {
        self.lost.get(reason as usize).copied().unwrap_or(0)
    }

    /// How many were lost.
    pub fn all_lost(&self) -> u64 {
        self.lost.iter().sum()
    }

    /// Adds what another thread has counted.
    pub fn add(&mut self, other: &Self) {
        let Self { saved, loaded, lost } = self;
        let pairs = saved.iter_mut().zip(&other.saved);
        let pairs = pairs.chain(loaded.iter_mut().zip(&other.loaded)).chain(lost.iter_mut().zip(&other.lost));
        for (count, other) in pairs {
            *count += other;
        }
    }
}
