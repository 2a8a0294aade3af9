//! Links of devices that guests follow: a guest's port is suspended while the link of the device that its `follow_link`
//! names is down, or that device is not open.

use std::collections::BTreeMap;

use super::live::LiveNode;
use super::ports::{Opened, key};
use crate::config::Attachment;

/// Looks at the links, and suspends and resumes ports. Called a few times a second, and when ports have changed.
pub fn follow(node: &LiveNode) {
    let mut running = node.running();
    let links: BTreeMap<_, _> = running
        .ports
        .iter()
        .filter_map(|port| match &port.opened {
            Opened::Nic(_, nic) => Some((port.config.name.clone(), nic)),
            Opened::Guest { .. } | Opened::Failed(_) => None,
        })
        .map(|(name, nic)| (name, nic.device.link().up))
        .collect();
    for port in &mut running.ports {
        let Opened::Guest { id, suspended } = &mut port.opened else { continue };
        let is_down = match &port.config.attachment {
            Attachment::Guest { follow_link: Some(link), .. } => !links.get(link).copied().unwrap_or(false),
            Attachment::Guest { follow_link: None, .. } | Attachment::Nic { .. } => false,
        };
        if std::mem::replace(suspended, is_down) != is_down {
            let link = if is_down { "down" } else { "up" };
            tracing::info!(port = port.config.name.as_str(), "the link that it follows is {link}");
            node.suspend(key(*id), is_down);
        }
    }
}
