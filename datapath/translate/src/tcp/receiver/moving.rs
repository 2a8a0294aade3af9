//! What of a [`Receiver`] moves to another machine with the guest. What the socket there has room for is asked there.

use super::Receiver;
use crate::migration::fields::fields;
use crate::tcp::config::Config;
use crate::tcp::seq::Seq;

/// A receiver that moves; its fields are those of [`Receiver`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedReceiver {
    nxt: Seq,
    acked: Seq,
    edge: Seq,
    fin: Option<Seq>,
    is_closed: bool,
    scale: u8,
}

fields!(SavedReceiver { nxt, acked, edge, fin, is_closed, scale });

impl SavedReceiver {
    /// The guest's FIN was taken.
    pub(in crate::tcp) const fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// The guest's FIN is known.
    pub(in crate::tcp) const fn has_fin(&self) -> bool {
        self.fin.is_some()
    }

    /// Whether it can be one.
    pub(in crate::tcp) fn is_whole(&self) -> bool {
        let has_fin = match self.fin {
            None => !self.is_closed,
            Some(fin) if self.is_closed => self.nxt == fin + 1,
            Some(fin) => fin - self.nxt < 1 << 30,
        };
        has_fin && self.nxt - self.acked < 1 << 30 && self.edge - self.acked <= 1 << 30 && self.scale <= 14
    }
}

impl Receiver {
    pub(in crate::tcp) fn saved(&self) -> SavedReceiver {
        let Self { nxt, acked, edge, fin, has_fin, is_closed, scale, .. } = *self;
        SavedReceiver { nxt, acked, edge, fin: has_fin.then_some(fin), is_closed, scale }
    }

    /// It goes on here: the guest hears at once how things stand.
    pub(in crate::tcp) fn from_saved(saved: &SavedReceiver, config: &Config) -> Self {
        let SavedReceiver { nxt, acked, edge, fin, is_closed, scale } = *saved;
        let (fin, has_fin) = (fin.unwrap_or(nxt), fin.is_some());
        Self { nxt, acked, edge, fin, has_fin, is_closed, scale, ask: true, is_due: true, ..Self::new(nxt, config) }
    }
}
