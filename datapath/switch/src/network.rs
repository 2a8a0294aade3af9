//! Networks, and the topology that workers run: all ports and networks at one moment, never changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::groups::GroupMap;
use crate::mac_table::MacTable;
use crate::port::{Port, PortId};
use crate::vlan::{TRANSPARENT, Vlans};

/// A network's place in its topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NetworkId(pub u16);

/// A learning bridge, before its ports are known.
#[derive(Clone, Debug)]
pub struct Bridge {
    /// Which address is behind which port. Shared with the topologies before and after this one.
    pub table: Arc<MacTable>,
    /// Who listens to which multicast group; `None`: nobody looks, and all of them are flooded.
    pub groups: Option<Arc<GroupMap>>,
}

/// A learning bridge with its ports.
#[derive(Debug)]
pub struct Network {
    /// Which address is behind which port.
    pub table: Arc<MacTable>,
    /// Who listens to which multicast group.
    pub groups: Option<Arc<GroupMap>>,
    /// Ports without VLANs and access ports, by their VLAN.
    access: BTreeMap<u16, Box<[PortId]>>,
    trunks: Box<[(PortId, Vlans)]>,
}

/// Everything that forwarding looks at, the queues' contents apart.
#[derive(Debug, Default)]
pub struct Topology {
    ports: Box<[Option<Port>]>,
    networks: Box<[Option<Network>]>,
    is_timed: bool,
}

impl Network {
    fn new<'p>(bridge: Bridge, members: impl Iterator<Item = &'p Port>) -> Self {
        let mut access: BTreeMap<u16, Vec<PortId>> = BTreeMap::new();
        let mut trunks = Vec::new();
        for port in members {
            match &port.rules.vlans {
                Vlans::Transparent => access.entry(TRANSPARENT).or_default().push(port.id),
                Vlans::Access { vlan, .. } => access.entry(*vlan).or_default().push(port.id),
                vlans @ Vlans::Trunk { .. } => trunks.push((port.id, vlans.clone())),
            }
        }
        let access = access.into_iter().map(|(vlan, ports)| (vlan, ports.into())).collect();
        Self { table: bridge.table, groups: bridge.groups, access, trunks: trunks.into() }
    }

    /// All ports of a VLAN.
    #[inline]
    pub fn members(&self, vlan: u16) -> impl Iterator<Item = PortId> + '_ {
        let access = self.access.get(&vlan).into_iter().flatten().copied();
        access.chain(self.trunks.iter().filter(move |(_, vlans)| vlans.carries(vlan)).map(|(port, _)| *port))
    }
}

impl Topology {
    /// A topology of `ports`, each at the index of its number, and `bridges`, each at the index of its network.
    pub fn new(ports: Vec<Option<Port>>, bridges: Vec<Option<Bridge>>) -> Self {
        let members = |id: usize| {
            let inside = move |port: &&Port| usize::from(port.network.0) == id && !port.is_mirror_target;
            ports.iter().flatten().filter(inside)
        };
        let networks = bridges.into_iter().enumerate();
        let networks = networks.map(|(id, bridge)| bridge.map(|bridge| Network::new(bridge, members(id)))).collect();
        let is_timed = ports.iter().flatten().any(|port| !port.latencies.is_empty());
        Self { networks, ports: ports.into(), is_timed }
    }

    /// The port of that number.
    #[inline]
    pub fn port(&self, id: PortId) -> Option<&Port> {
        self.ports.get(id.index())?.as_ref()
    }

    /// Whether somebody measures how long frames of any port stay.
    #[inline]
    pub const fn is_timed(&self) -> bool {
        self.is_timed
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
