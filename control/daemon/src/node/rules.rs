//! Wanted networks and ports in the words of the datapath: the only place that translates.

use std::sync::Arc;

use culvert_switch::guard::Guard;
use culvert_switch::limits::Limits;
use culvert_switch::port::Rules;
use culvert_switch::rates::{Allowance, Rate, Rates};
use culvert_switch::vlan::VlanSet;
use culvert_worker::NetworkSettings;

use crate::config::{self, Attachment, Network, Port, Vlans};

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
        rates: Rates { rx: rate(&port.rates.rx), tx: rate(&port.rates.tx) },
        isolated: port.isolated,
        mac_limit: port.mac_limit,
        mtu: port.mtu,
    }
}

fn rate(rate: &config::Rate) -> Rate {
    let config::Rate { bits, burst, frames, frame_burst } = rate;
    Rate {
        bytes: bits.map(|bits| Allowance::of_bytes(bits / 8, *burst)),
        frames: frames.map(|frames| Allowance::of_frames(frames.into(), frame_burst.map(u64::from))),
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
