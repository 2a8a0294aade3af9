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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::samples;

    #[test]
    fn dns_to_the_forwarded_address_goes_to_the_hosts_resolver() {
        let mut mapping = samples::settings().v4.unwrap().mapping;
        let (seen, host) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(127, 0, 0, 53));
        assert_eq!(forwarded(&mapping, seen, 53), None);
        (mapping.dns_forward, mapping.dns_host) = (Some(seen), Some(host));
        for port in [53, 853] {
            assert_eq!(forwarded(&mapping, seen, port), Some(host));
            assert_eq!(forwarded(&mapping, Ipv4Addr::new(192, 0, 2, 9), port), None);
        }
        for port in [0, 52, 54, 80, 5353, 852, 854] {
            assert_eq!(forwarded(&mapping, seen, port), None);
        }
        mapping.dns_host = None;
        assert_eq!(forwarded(&mapping, seen, 53), None);
    }
}
