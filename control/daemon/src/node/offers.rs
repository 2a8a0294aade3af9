//! What kubelet is offered of the networks: the device plugin is told after each change of what is wanted or runs.

use super::live::LiveNode;
use crate::device_plugin::Offer;

impl LiveNode {
    /// Tells the device plugin what there is to offer, if that is something else than before.
    pub(super) fn offer_ports(&self) {
        let wanted = self.wanted();
        let up_to_date = self.datapath.is_up_to_date();
        let running = self.running();
        let offers = wanted.networks.iter().filter_map(|object| {
            let network = &object.wanted;
            let healthy = up_to_date && running.network(&network.name).is_some();
            Some(Offer { network: network.name.clone(), ports: network.guest_ports?, healthy })
        });
        let offers: Vec<_> = offers.collect();
        drop(running);
        self.offers.send_if_modified(|before| {
            let changed = *before != offers;
            *before = offers;
            changed
        });
    }
}
