//! Which ports of a network listen to which multicast groups (RFC 4541).
//!
//! [`Groups`] is control's: it is told what was snooped, keeps the timers, and makes a [`GroupMap`], the immutable table
//! that workers look into.

use std::time::Duration;

use culvert_frame::MacAddress;

use crate::port::PortId;
use crate::snoop::{Family, Snooped};

/// Who listens to what in one network, and until when. Time is an argument, since any fixed moment.
#[derive(Debug, Default)]
pub struct Groups {}

/// Who is to have a frame to a group; the port that it came from is not excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery<'a> {
    /// Every port of the VLAN.
    FloodAll,
    /// These ports, each once, in the order of their numbers. Some may be gone or may have left the VLAN: the caller looks.
    Ports(&'a [PortId]),
}

/// A table of groups at one moment. The default one floods everything.
#[derive(Debug, Default)]
pub struct GroupMap {}

impl Groups {
    /// Takes note of a message that came from `port` in `vlan` (0: without VLANs). Whether the map has changed: then a new
    /// [`Self::snapshot`] is due; one for several changes will do.
    ///
    /// Only messages that were forwarded are to be told. Queries of a port whose frames do not reach all others (an
    /// isolated one) must not be: who does not hear the question cannot answer, and would lose its groups.
    pub fn apply(&mut self, vlan: u16, port: PortId, snooped: &Snooped, now: Duration) -> bool {
        let _ = (vlan, port, snooped, now);
        false
    }

    /// A guest or link has come up at `port`: it has all groups until it had time to answer a query. Whether the map has
    /// changed.
    pub fn welcome(&mut self, port: PortId, now: Duration) -> bool {
        let _ = (port, now);
        false
    }

    /// Forgets what is past its time; to be called once a second. Whether the map has changed.
    pub fn expire(&mut self, now: Duration) -> bool {
        let _ = now;
        false
    }

    /// Forgets a port that is gone. Whether the map has changed.
    pub fn forget(&mut self, port: PortId) -> bool {
        let _ = port;
        false
    }

    /// The table as of the last call.
    pub fn snapshot(&self) -> GroupMap {
        GroupMap::default()
    }
}

impl GroupMap {
    /// Who is to have a frame to the group address `destination`.
    #[inline]
    pub fn members(&self, vlan: u16, destination: MacAddress) -> Delivery<'_> {
        let _ = (vlan, destination);
        Delivery::FloodAll
    }

    /// Who is to have a host's [report](Snooped::Report).
    pub fn reports(&self, vlan: u16, family: Family) -> Delivery<'_> {
        let _ = (vlan, family);
        Delivery::FloodAll
    }
}
