//! Guests' connections in the supervisor's keeping: the next daemon goes on with them, and guests do not notice that one has died.
//!
//! Used by the vhost-user server's keeper thread ([`Keeper`]), and by [`ports`](super::ports) when a port is opened. The supervisor
//! drops all of them when daemons die one after the other, see [`Desk::drop_connections`](crate::broker::Desk::drop_connections).

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use culvert_vhost::Keeper;

use crate::broker::{Broker, CONNECTION};
use crate::name::Name;
use crate::takeover::state::LISTENER;

/// What keeps them.
#[derive(Debug)]
pub struct Connections {
    broker: Arc<Broker>,
    /// There was a daemon before this one.
    is_next: bool,
}

impl Connections {
    /// In this supervisor's keeping. `is_next`: it has had a daemon before this one.
    pub fn new(broker: Arc<Broker>, is_next: bool) -> Self {
        Self { broker, is_next }
    }

    /// What an earlier daemon has kept for a port; empty when there is nothing.
    pub fn take(&self, port: &Name) -> Vec<OwnedFd> {
        if !self.is_next {
            return Vec::new();
        }
        self.broker.take(&format!("{CONNECTION}{port}")).unwrap_or_else(|error| {
            tracing::warn!(port = port.as_str(), "the guest has to connect again: {error}");
            self.forget(port.as_str());
            Vec::new()
        })
    }
}

impl Connections {
    /// The socket of a port that an earlier daemon has handed over; `None`: there is none.
    pub fn take_listener(&self, port: &Name) -> Option<OwnedFd> {
        let name = format!("{LISTENER}{port}");
        if !self.is_next {
            return None;
        }
        let taken = self.broker.take(&name).unwrap_or_default().pop();
        // From now on it is this daemon's alone.
        if taken.is_some()
            && let Err(error) = self.broker.forget(&name)
        {
            tracing::warn!(port = port.as_str(), "the supervisor keeps a socket: {error}");
        }
        taken
    }
}

impl Keeper for Connections {
    fn keep(&self, port: &str, descriptors: &[OwnedFd]) -> io::Result<()> {
        self.broker.store(&format!("{CONNECTION}{port}"), descriptors)
    }

    fn forget(&self, port: &str) {
        if let Err(error) = self.broker.forget(&format!("{CONNECTION}{port}")) {
            tracing::warn!(port, "the supervisor keeps an old connection: {error}");
        }
    }
}
