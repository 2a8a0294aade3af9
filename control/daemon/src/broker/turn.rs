//! Whose turn it is when another culvertd takes over: what the supervisor wants of its daemon, and how far that is. Notes only: whoever
//! decides is [`crate::supervisor`].

use std::os::fd::OwnedFd;
use std::time::Duration;

use super::message::{Reply, Wish};
use crate::takeover::process;

/// How far a takeover is, at either of the two supervisors.
#[derive(Debug, Default)]
pub struct Turn {
    hugepages: bool,
    wish: Wish,
    frozen: Option<Result<(), String>>,
    prepared: bool,
    may_take: bool,
    taken: bool,
    may_go: bool,
    /// The daemon before, while it may be there.
    before: Option<OwnedFd>,
}

impl Turn {
    /// Whether the daemon's memory is in hugepages.
    pub fn has_hugepages(&self) -> bool {
        self.hugepages
    }

    /// The daemon is to do this; it has to be told by a signal that there is a wish.
    pub fn set_wish(&mut self, wish: Wish) {
        (self.wish, self.frozen) = (wish, None);
    }

    /// Whether the daemon has stood still, or why it has not, since it was to; once.
    pub fn take_frozen(&mut self) -> Option<Result<(), String>> {
        self.frozen.take()
    }

    /// Whether the daemon is prepared to take over.
    pub fn is_prepared(&self) -> bool {
        self.prepared
    }

    /// The daemon may take everything up.
    pub fn let_take(&mut self) {
        self.may_take = true;
    }

    /// Whether the daemon has taken everything up.
    pub fn is_taken(&self) -> bool {
        self.taken
    }

    /// The daemon may move frames.
    pub fn let_go(&mut self) {
        self.may_go = true;
    }

    /// Until this process has gone the daemon is not alone.
    pub fn set_before(&mut self, process: Option<OwnedFd>) {
        self.before = process;
    }

    pub(super) fn tell_alone(&mut self) -> Reply {
        self.before.take_if(|before| process::wait_for_end(before, Duration::ZERO));
        if self.before.is_none() { Reply::Done } else { Reply::None }
    }

    pub(super) fn note_hugepages(&mut self) -> Reply {
        self.hugepages = true;
        Reply::Done
    }

    pub(super) fn tell_wish(&self) -> Reply {
        Reply::Wish(self.wish)
    }

    pub(super) fn note_frozen(&mut self, outcome: Result<(), String>) -> Reply {
        if self.wish != Wish::Freeze {
            return Reply::Refused("nobody has asked for it".to_owned());
        }
        self.frozen = Some(outcome);
        Reply::Done
    }

    pub(super) fn note_prepared(&mut self) -> Reply {
        self.prepared = true;
        if self.may_take { Reply::Done } else { Reply::None }
    }

    pub(super) fn note_taken(&mut self) -> Reply {
        // Whoever has taken nothing cannot have taken everything up.
        self.taken = self.may_take;
        if self.may_go { Reply::Done } else { Reply::None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_stands_still_only_when_it_was_asked() {
        let mut turn = Turn::default();
        assert!(matches!(turn.note_frozen(Ok(())), Reply::Refused(_)));
        assert!(turn.take_frozen().is_none());
        turn.set_wish(Wish::Freeze);
        assert_eq!(turn.tell_wish(), Reply::Wish(Wish::Freeze));
        assert_eq!(turn.note_frozen(Err("busy".to_owned())), Reply::Done);
        assert_eq!(turn.take_frozen(), Some(Err("busy".to_owned())));
        assert!(turn.take_frozen().is_none());
        turn.set_wish(Wish::Thaw);
        assert!(matches!(turn.note_frozen(Ok(())), Reply::Refused(_)));
    }

    #[test]
    fn a_daemon_that_takes_over_goes_step_by_step() {
        let mut turn = Turn::default();
        assert_eq!(turn.note_taken(), Reply::None);
        assert!(!turn.is_taken() && !turn.is_prepared());
        assert_eq!(turn.note_prepared(), Reply::None);
        assert!(turn.is_prepared());
        turn.let_take();
        assert_eq!(turn.note_prepared(), Reply::Done);
        assert_eq!(turn.note_taken(), Reply::None);
        assert!(turn.is_taken());
        turn.let_go();
        assert_eq!(turn.note_taken(), Reply::Done);
    }
}
