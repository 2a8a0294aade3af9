//! Networks, and the topology that workers run: all ports and networks at one moment, never changed.

use std::sync::Arc;

use crate::mac_table::MacTable;
use crate::port::{Port, PortId};

/// A network's place in its topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NetworkId(pub u16);

/// A learning bridge.
#[derive(Clone, Debug)]
pub struct Network {
    /// Which address is behind which port. Shared with the topologies before and after this one.
    pub table: Arc<MacTable>,
    /// The ports, in the order of their numbers.
    pub members: Box<[PortId]>,
}

/// Everything that forwarding looks at, the queues' contents apart.
#[derive(Debug, Default)]
pub struct Topology {
    ports: Box<[Option<Port>]>,
    networks: Box<[Option<Network>]>,
}

impl Topology {
    /// A topology of `ports`, each at the index of its number, and `tables`, each at the index of its network.
    pub fn new(ports: Vec<Option<Port>>, tables: Vec<Option<Arc<MacTable>>>) -> Self {
        let members = |id: usize| {
            let inside = |port: &&Port| usize::from(port.network.0) == id;
            ports.iter().flatten().filter(inside).map(|port| port.id).collect()
        };
        let networks = tables.into_iter().enumerate();
        let networks = networks.map(|(id, table)| table.map(|table| Network { table, members: members(id) })).collect();
        Self { networks, ports: ports.into() }
    }

    /// The port of that number.
    #[inline]
    pub fn port(&self, id: PortId) -> Option<&Port> {
        self.ports.get(id.index())?.as_ref()
    }

    /// All ports.
    pub fn ports(&self) -> impl Iterator<Item = &Port> {
        self.ports.iter().flatten()
    }

    /// The network of that number.
    #[inline]
    pub fn network(&self, id: NetworkId) -> Option<&Network> {
        self.networks.get(usize::from(id.0))?.as_ref()
    }
}
