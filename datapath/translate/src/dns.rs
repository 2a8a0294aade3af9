//! Where DNS goes: which resolver a question of the guest's is sent to, and which resolvers the guest is told of.
//!
//! Only addresses: no message is read, changed or answered here. Used by the mapping of destinations, and by whoever
//! makes [`crate::settings::Settings`].

use crate::settings::Mapping;

/// Ports of DNS (RFC 1035) and DNS over TLS (RFC 7858), over UDP and TCP alike.
pub const PORTS: [u16; 2] = [53, 853];

/// The resolver of the host's that what is sent to `destination` and `port` goes to; `None` where it is not for one.
/// Comes before all other mapping.
pub fn forwarded<A: Copy + PartialEq>(mapping: &Mapping<A>, destination: A, port: u16) -> Option<A> {
    if mapping.dns_forward? == destination && PORTS.contains(&port) { mapping.dns_host } else { None }
}
