//! What of a [`Connection`] moves to another machine with the guest, and how it goes on there.

use std::sync::Arc;

use super::{Connection, Ending, Offer, State};
use crate::migration::Damaged;
use crate::migration::fields::{Field, fields};
use crate::sockets::moving::StreamState;
use crate::tcp::action::Failure;
use crate::tcp::config::Config;
use crate::tcp::receiver::{Receiver, SavedReceiver};
use crate::tcp::sender::{SavedSender, Sender};
use crate::tcp::seq::Seq;
use crate::time::Instant;

/// A connection that moves; its fields are those of [`Connection`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedConnection {
    stage: Stage,
    sender: SavedSender,
    receiver: SavedReceiver,
    clock: Option<u32>,
    offer: Offer,
    is_synchronised: bool,
    guest_closed_first: bool,
    echoes_congestion: bool,
}

/// Where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The guest waits for its socket to be connected: it connects anew.
    Connecting,
    /// The far end opened, and the guest has not answered.
    SynSent,
    /// The guest's SYN was answered.
    SynReceived,
    /// Both ends are open, or one is closed.
    Open,
    /// All is said; late segments are answered.
    TimeWait,
    /// The guest is to hear that it is over.
    Refusing,
}

fields!(SavedConnection {
    stage,
    sender,
    receiver,
    clock,
    offer,
    is_synchronised,
    guest_closed_first,
    echoes_congestion,
});
fields!(Offer { mss, scale, sack, ecn });

impl Field for Seq {
    fn write(&self, out: &mut Vec<u8>) {
        self.0.write(out);
    }

    fn read(from: &mut &[u8]) -> Result<Self, Damaged> {
        u32::read(from).map(Self)
    }
}

impl Field for Stage {
    fn write(&self, out: &mut Vec<u8>) {
        out.push(match self {
            Self::Connecting => 0,
            Self::SynSent => 1,
            Self::SynReceived => 2,
            Self::Open => 3,
            Self::TimeWait => 4,
            Self::Refusing => 5,
        });
    }

    fn read(from: &mut &[u8]) -> Result<Self, Damaged> {
        Ok(match u8::read(from)? {
            0 => Self::Connecting,
            1 => Self::SynSent,
            2 => Self::SynReceived,
            3 => Self::Open,
            4 => Self::TimeWait,
            5 => Self::Refusing,
            _ => return Err(Damaged::Value("a connection's stage")),
        })
    }
}

impl SavedConnection {
    /// Where it stands.
    #[must_use]
    pub const fn stage(&self) -> Stage {
        self.stage
    }

    /// Whether there is a socket to it that is connected.
    #[must_use]
    pub const fn has_stream(&self) -> bool {
        matches!(self.stage, Stage::SynSent | Stage::SynReceived | Stage::Open)
    }

    /// Bytes that the guest was sent and has not acknowledged.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        if self.stage == Stage::Open { self.sender.in_flight() } else { 0 }
    }

    /// Whether its socket can be this one: both know of the same ends.
    #[must_use]
    pub fn agrees_with(&self, stream: &StreamState) -> bool {
        let waiting = u32::try_from(stream.receive_queue.len()).unwrap_or(u32::MAX);
        let is_shut = self.is_synchronised && self.receiver.is_closed();
        let has_end = self.stage != Stage::Open || self.sender.can_end_behind(waiting, stream.has_ended);
        self.has_stream() && is_shut == stream.is_shut && has_end
    }

    /// Whether it can be one.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let is_known = self.is_synchronised || matches!(self.stage, Stage::SynSent | Stage::Refusing);
        let sender = match self.stage {
            Stage::Open | Stage::TimeWait => self.sender.is_whole(),
            Stage::Connecting | Stage::SynSent | Stage::SynReceived => {
                self.sender.has_windows() && !self.sender.has_end()
            }
            Stage::Refusing => self.sender.has_windows(),
        };
        // Of a guest that was not heard there is no FIN either.
        let receiver = self.receiver.is_whole() && (self.is_synchronised || !self.receiver.has_fin());
        is_known && sender && receiver && self.offer.scale.is_none_or(|shift| shift <= 14)
    }
}

impl Connection {
    /// As it moves. `None`: it is at its end, and there is nothing more to say.
    #[must_use]
    pub fn saved(&self) -> Option<SavedConnection> {
        let stage = match self.state {
            State::Connecting => Stage::Connecting,
            State::SynSent => Stage::SynSent,
            State::SynReceived => Stage::SynReceived,
            State::Open => Stage::Open,
            State::TimeWait => Stage::TimeWait,
            State::Refusing { .. } => Stage::Refusing,
            State::Ending(_) | State::Over => return None,
        };
        Some(SavedConnection {
            stage,
            sender: self.sender.saved(),
            receiver: self.receiver.saved(),
            clock: self.has_clock.then_some(self.clock),
            offer: self.offer,
            is_synchronised: self.is_synchronised,
            guest_closed_first: self.guest_closed_first,
            echoes_congestion: self.echoes_congestion,
        })
    }

    /// It goes on here. `is_lost`: its socket does not, so the guest gets a RST.
    #[must_use]
    pub fn from_saved(now: Instant, saved: &SavedConnection, is_lost: bool, config: Arc<Config>) -> Self {
        let state = match saved.stage {
            Stage::Connecting => State::Connecting,
            Stage::SynSent => State::SynSent,
            Stage::SynReceived => State::SynReceived,
            Stage::Open => State::Open,
            Stage::TimeWait => State::TimeWait,
            Stage::Refusing => State::Refusing { then: Ending::Close },
        };
        let mut connection = Self::new(now, Seq(0), state, Arc::clone(&config));
        connection.sender = Sender::from_saved(now, &saved.sender, state == State::Open, &config);
        connection.receiver = Receiver::from_saved(&saved.receiver, &config);
        (connection.clock, connection.has_clock) = (saved.clock.unwrap_or(0), saved.clock.is_some());
        connection.offer = saved.offer;
        connection.is_synchronised = saved.is_synchronised;
        connection.guest_closed_first = saved.guest_closed_first;
        connection.echoes_congestion = saved.echoes_congestion;
        match state {
            State::SynSent | State::SynReceived => connection.start_handshake(now),
            State::TimeWait => connection.sender.set_timer(Some(now + config.time_wait)),
            State::Refusing { then } => connection.refuse_guest(now, then),
            _ => {}
        }
        if is_lost {
            connection.on_failed(now, Failure::Reset);
        }
        connection
    }
}
