//! Wanted networks and ports in the words of the datapath: the only place that translates.

use culvert_nic::{Pool, RxQueue, TxQueue};
use culvert_switch::PortId;
use culvert_switch::network::NetworkId;
use culvert_worker::{Datapath, DatapathError, GuestPort, NicPort};

use crate::config::{Attachment, Network, Port};

/// Makes a network.
pub fn add_network(datapath: &Datapath, network: &Network) -> Result<NetworkId, DatapathError> {
    datapath.add_network(network.mac_age)
}

/// Makes a port for a guest.
pub fn add_guest_port(datapath: &Datapath, network: NetworkId, port: &Port) -> Result<PortId, DatapathError> {
    let source = match &port.attachment {
        Attachment::Guest { mac, .. } => *mac,
        Attachment::Nic { .. } => None,
    };
    datapath.add_guest_port(&GuestPort { network, source, mtu: port.mtu, mac_limit: port.mac_limit })
}

/// Makes a port for a NIC that takes payloads of `mtu` bytes.
pub fn add_nic_port(
    datapath: &Datapath,
    network: NetworkId,
    port: &Port,
    mtu: u16,
    (rx, tx): (Vec<RxQueue>, Vec<TxQueue>),
    pool: Pool,
) -> Result<PortId, DatapathError> {
    datapath.add_nic_port(NicPort { network, mtu, mac_limit: port.mac_limit, rx, tx, pool })
}
