//! What the guest is told, in words for the log: one line for each family, and what looks like a mistake.

use std::fmt::{Display, Write as _};

use culvert_translate::settings::{Mapping, Settings};

use super::{Pod, Wanted};

/// Lines about what there is, and lines about what looks wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// For information.
    pub lines: Vec<String>,
    /// Warnings.
    pub warnings: Vec<String>,
}

impl Summary {
    /// Of settings that were made from `pod` and `wanted`.
    pub fn of(pod: &Pod, wanted: &Wanted, settings: &Settings) -> Self {
        let mut summary = Self::default();
        if let Some(v4) = &settings.v4 {
            let interface = pod.v4.as_ref().map(|uplink| uplink.interface.as_str());
            let mut line = format!("the guest's IPv4 ({}): {}, gateway {}", origin(interface), v4.address, v4.gateway);
            describe(&mut line, &v4.resolvers, &v4.mapping);
            summary.lines.push(line);
        }
        if let Some(v6) = &settings.v6 {
            let interface = pod.v6.as_ref().map(|uplink| uplink.interface.as_str());
            let address =
                if v6.address.is_unspecified() { "no address".to_owned() } else { format!("{}/64", v6.address) };
            let mut line = format!("the guest's IPv6 ({}): {address}, router {}", origin(interface), v6.link_local);
            describe(&mut line, &v6.resolvers, &v6.mapping);
            summary.lines.push(line);
        }
        summary.warn_of_mtu(settings);
        let told =
            settings.v4.iter().map(|v4| v4.resolvers.len()).chain(settings.v6.iter().map(|v6| v6.resolvers.len()));
        if told.sum::<usize>() == 0 && wanted.dns.is_none() && !pod.resolvers.is_empty() {
            let resolvers = list(&pod.resolvers);
            summary.warnings.push(format!(
                "the guest is told of no resolver: it cannot reach {resolvers} of /etc/resolv.conf; give --dns, or \
                 --dns-forward with an address that shall lead there"
            ));
        }
        summary
    }

    /// RFC 791, section 3.2; RFC 8200, section 5.
    fn warn_of_mtu(&mut self, settings: &Settings) {
        let least = if settings.v6.is_some() { 1280 } else { 68 };
        if let Some(mtu) = settings.mtu.filter(|mtu| *mtu < least) {
            let family = if settings.v6.is_some() { "IPv6" } else { "IPv4" };
            self.warnings.push(format!("--mtu {mtu}: guests need {least} bytes for {family}; they may not take less"));
        }
    }
}

fn origin(interface: Option<&str>) -> String {
    interface.map_or_else(|| "of no interface".to_owned(), |name| format!("as of {name}"))
}

fn describe<A: Display>(line: &mut String, resolvers: &[A], mapping: &Mapping<A>) {
    let mut add = |what: &str, value: &str| {
        // Writing to a String does not fail.
        let _ = write!(line, ", {what} {value}");
    };
    if !resolvers.is_empty() {
        add("resolvers", &list(resolvers));
    }
    let mapped = [
        ("the host's loopback is", &mapping.host_loopback),
        ("the pod's own address is", &mapping.guest_address),
        ("DNS is forwarded from", &mapping.dns_forward),
        ("to", &mapping.dns_host),
    ];
    for (what, address) in mapped {
        if let Some(address) = address {
            add(what, &address.to_string());
        }
    }
}

fn list<A: Display>(values: &[A]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::settings;
    use super::*;

    #[test]
    fn a_pod_without_a_network() {
        let pod = Pod { resolvers: vec![[127, 0, 0, 53].into()], ..Pod::default() };
        let summary = Summary::of(&pod, &Wanted::default(), &settings(&pod, &Wanted::default()).unwrap());
        let expected = [
            "the guest's IPv4 (of no interface): 169.254.2.1/16, gateway 169.254.2.2, resolvers 169.254.2.2, the host's \
             loopback is 169.254.2.2, DNS is forwarded from 169.254.2.2, to 127.0.0.53",
            "the guest's IPv6 (of no interface): no address, router fe80::1, the host's loopback is fe80::1",
        ];
        assert_eq!((summary.lines.as_slice(), summary.warnings), (&expected.map(str::to_owned)[..], Vec::new()));
    }

    #[test]
    fn what_looks_wrong() {
        let pod = Pod { resolvers: vec![[127, 0, 0, 53].into()], ..Pod::default() };
        let warnings = |wanted: &Wanted| Summary::of(&pod, wanted, &settings(&pod, wanted).unwrap()).warnings;
        let unreachable = warnings(&Wanted { no_map_gateway: true, ..Wanted::default() });
        assert!(unreachable[0].starts_with("the guest is told of no resolver: it cannot reach 127.0.0.53 of"));
        let none = Wanted { no_map_gateway: true, dns: Some(Vec::new()), ..Wanted::default() };
        assert_eq!(warnings(&none).len(), 0);
        let small = warnings(&Wanted { mtu: Some(1279), ..Wanted::default() });
        assert_eq!(small, ["--mtu 1279: guests need 1280 bytes for IPv6; they may not take less"]);
        assert_eq!(warnings(&Wanted { mtu: Some(1279), ipv6: false, ..Wanted::default() }).len(), 0);
        assert_eq!(warnings(&Wanted { mtu: Some(67), ipv6: false, ..Wanted::default() }).len(), 1);
        assert_eq!(warnings(&Wanted { mtu: Some(0), ..Wanted::default() }).len(), 0);
    }
}
