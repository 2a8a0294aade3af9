//! Wanted networks and ports in the words of the datapath: the only place that translates.

use std::sync::Arc;

use culvert_switch::guard::Guard;
use culvert_switch::limits::Limits;
use culvert_switch::port::Rules;
use culvert_switch::vlan::VlanSet;
use culvert_worker::NetworkSettings;

use crate::config::{Attachment, Network, Port, Vlans};

/// What may change while a network runs.
pub fn settings(network: &Network) -> NetworkSettings {
    NetworkSettings { mac_age: network.mac_age, snooping: network.snooping }
}

/// What may change while a port runs.
pub fn rules(port: &Port) -> Rules {
    let guard = match &port.attachment {
        Attachment::Guest { mac, addresses, .. } => {
            Guard { mac: *mac, addresses: addresses.clone().into_boxed_slice() }
        }
        Attachment::Nic { .. } => Guard::default(),
    };
    Rules {
        vlans: vlans(&port.vlans),
        guard,
        limits: Limits { broadcast: port.broadcast_limit, unknown: port.unknown_limit },
        rates: culvert_switch::rates::Rates::default(),
        isolated: port.isolated,
        mac_limit: port.mac_limit,
        mtu: port.mtu,
    }
}

fn vlans(vlans: &Vlans) -> culvert_switch::vlan::Vlans {
    match vlans {
        Vlans::Transparent => culvert_switch::vlan::Vlans::Transparent,
        Vlans::Access { vlan, qinq } => culvert_switch::vlan::Vlans::Access { vlan: *vlan, qinq: *qinq },
        Vlans::Trunk { allowed, native } => {
            let allowed = Arc::new(allowed.iter().collect::<VlanSet>());
            culvert_switch::vlan::Vlans::Trunk { allowed, native: *native }
        }
    }
}
