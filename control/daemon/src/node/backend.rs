//! What vhost-user sockets ask of the workers: passes each question on to the datapath. Called by the vhost-user
//! server's helper thread.

use std::sync::Arc;

use culvert_frame::MacAddress;
use culvert_guest::device::{RingChange, StoppedRing, Unresponsive};
use culvert_vhost::{Backend, PortKey, SocketState};
use culvert_worker::Datapath;

use super::ports::id;

/// The datapath, as vhost-user sockets see it.
#[derive(Debug)]
pub struct Rings {
    datapath: Arc<Datapath>,
}

impl Rings {
    /// The rings of `datapath`.
    pub fn new(datapath: Arc<Datapath>) -> Self {
        Self { datapath }
    }
}

impl Backend for Rings {
    fn change_rings(&self, port: PortKey, changes: Vec<RingChange>) -> Result<Vec<StoppedRing>, Unresponsive> {
        // All keys come from the datapath's numbers.
        let port = id(port).ok_or(Unresponsive)?;
        self.datapath.change_rings(port, changes)
    }

    fn announce(&self, port: PortKey, mac: MacAddress) {
        if let Some(port) = id(port) {
            self.datapath.announce(port, mac);
        }
    }

    fn state(&self, _: PortKey, _: SocketState) {
        // Whoever wants to know asks the server, and the log has it already.
    }
}
