//! What lanes send each other, and the box in which it waits until the next round of whom it is for.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;

use culvert_frame::Offload;
use culvert_guest::device::{RingChange, StoppedRing};
use mio::Waker;

use super::{Accepted, Report, locked};
use crate::fragment::Whole;
use crate::link::Full;
use crate::translator::{MoveAnswer, MoveOrder};

/// A letter.
#[derive(Debug)]
pub enum Letter {
    /// A frame of the guest's: its flow is yours, or it is for the first lane.
    Frame {
        /// All of it.
        bytes: Vec<u8>,
        /// What its sender left undone, checked.
        offload: Offload,
    },
    /// A packet of the guest's that came in fragments.
    Whole(Box<Whole>),
    /// A connection from the world.
    Connection(Accepted),
    /// To the others: change your rings, and tell where those are that were stopped.
    Rings {
        /// In this order.
        changes: Vec<RingChange>,
        /// By which what is told of these rings is known: [`Letter::Fault`].
        epoch: u64,
        /// Where the answer goes.
        answer: Sender<Vec<StoppedRing>>,
    },
    /// To the others: tell your flows, a line each, at most so many.
    ListFlows {
        /// How many.
        most: usize,
        /// Where the answer goes.
        answer: Sender<Vec<String>>,
    },
    /// To the others: do your part of what becomes of a guest that moves.
    Move {
        /// What.
        order: Box<MoveOrder>,
        /// Where the answer goes.
        answer: Sender<MoveAnswer>,
    },
    /// To the others: there may be room for what could not be relayed.
    Room,
    /// To the first: the guest broke a ring, or its memory is gone.
    Fault {
        /// Whose ring.
        lane: usize,
        /// As it came with the rings.
        epoch: u64,
        /// What it did.
        reason: String,
    },
    /// To the first: a lane has ended, and the process is to end with it.
    Ended(String),
}

impl Letter {
    /// How much memory it takes, about, in bytes; 0: it is for us to send no more of them than there may be.
    fn weight(&self) -> usize {
        match self {
            Self::Frame { bytes, .. } => bytes.len() + OVERHEAD,
            Self::Whole(packet) => packet.packet().payload.length() as usize + OVERHEAD,
            Self::Connection(_)
            | Self::Rings { .. }
            | Self::ListFlows { .. }
            | Self::Move { .. }
            | Self::Room
            | Self::Fault { .. }
            | Self::Ended(_) => 0,
        }
    }
}

/// A frame for the guest from a lane that cannot put it itself.
#[derive(Debug)]
pub struct ToGuest {
    /// What is left undone of it.
    pub offload: Offload,
    bytes: Vec<u8>,
    head_bytes: usize,
}

impl ToGuest {
    /// Its head and its payload.
    pub fn parts(&self) -> (&[u8], &[u8]) {
        self.bytes.split_at_checked(self.head_bytes).unwrap_or((&self.bytes, &[]))
    }
}

/// What waits for one lane, and what it tells of itself: on cache lines of its own, for it is looked at in each round.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct PostBox {
    waker: Waker,
    /// None: nobody takes them any more.
    letters: Mutex<Option<Waiting<Vec<Letter>>>>,
    relayed: Mutex<Relayed>,
    pub(super) takes_connections: AtomicBool,
    pub(super) report: Mutex<Report>,
}

#[derive(Debug, Default)]
struct Waiting<T> {
    things: T,
    /// How much memory they take.
    bytes: usize,
    /// How many of them are connections.
    connections: usize,
}

#[derive(Debug, Default)]
struct Relayed {
    frames: Waiting<VecDeque<ToGuest>>,
    /// Lanes that had one more.
    refused: Vec<usize>,
}

impl PostBox {
    pub(super) fn new(waker: Waker) -> Self {
        Self {
            waker,
            letters: Mutex::new(Some(Waiting::default())),
            relayed: Mutex::default(),
            takes_connections: AtomicBool::new(false),
            report: Mutex::default(),
        }
    }

    /// False: there is no room, or nobody.
    pub(super) fn put(&self, letter: Letter) -> bool {
        let weight = letter.weight();
        let mut held = locked(&self.letters);
        let Some(letters) = held.as_mut() else { return false };
        if weight > 0 && letters.bytes + weight > MOST_BYTES {
            return false;
        }
        let is_first = letters.things.is_empty();
        letters.bytes += weight;
        letters.connections += usize::from(matches!(letter, Letter::Connection(_)));
        letters.things.push(letter);
        drop(held);
        self.wake(is_first);
        true
    }

    pub(super) fn can_take_connection(&self) -> bool {
        let has_room = |letters: &Waiting<_>| letters.connections < MOST_CONNECTIONS;
        self.takes_connections.load(Ordering::Relaxed) && locked(&self.letters).as_ref().is_some_and(has_room)
    }

    pub(super) fn take(&self) -> Vec<Letter> {
        locked(&self.letters).as_mut().map(std::mem::take).unwrap_or_default().things
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        locked(&self.letters).as_ref().is_none_or(|letters| letters.things.is_empty())
    }

    /// Nobody takes letters any more: those that wait are lost, and whoever waits for an answer is told so.
    pub(super) fn close(&self) {
        *locked(&self.letters) = None;
    }

    pub(super) fn relay(&self, from: usize, offload: Offload, head: &[u8], payload: &[u8]) -> Result<(), Full> {
        let weight = head.len() + payload.len() + OVERHEAD;
        let mut relayed = locked(&self.relayed);
        if relayed.frames.bytes + weight > MOST_BYTES {
            if !relayed.refused.contains(&from) {
                relayed.refused.push(from);
            }
            return Err(Full);
        }
        let is_first = relayed.frames.things.is_empty();
        let frame = ToGuest { offload, bytes: [head, payload].concat(), head_bytes: head.len() };
        relayed.frames.bytes += weight;
        relayed.frames.things.push_back(frame);
        drop(relayed);
        self.wake(is_first);
        Ok(())
    }

    /// The frames, and the lanes that had more.
    pub(super) fn take_relayed(&self) -> (VecDeque<ToGuest>, Vec<usize>) {
        let Relayed { frames, refused } = std::mem::take(&mut *locked(&self.relayed));
        (frames.things, refused)
    }

    /// Whoever takes takes all: only the first needs to be told of.
    fn wake(&self, is_first: bool) {
        if is_first {
            // It cannot fail: the counter behind it is far from full.
            let _ = self.waker.wake();
        }
    }
}

/// What may wait for one lane, in bytes, of letters and of relayed frames each.
const MOST_BYTES: usize = 1 << 20;

/// How many connections may wait for one lane; what comes then is another's. They do not count in bytes: frames of the guest's
/// must not keep the world's connections out.
const MOST_CONNECTIONS: usize = 128;

/// What a frame takes besides its bytes.
const OVERHEAD: usize = 128;
