//! /etc/resolv.conf (resolv.conf(5)): resolvers and search domains.
//!
//! Read as libraries read it: what is not understood is passed over, the last `search` or `domain` counts. Options and
//! the rest are the guest's own business.
//! The program reads it at start, to tell the guest what the pod knows.

use std::net::IpAddr;

/// What it says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// In order.
    pub resolvers: Vec<IpAddr>,
    /// In order, without final dots.
    pub search: Vec<String>,
}

impl ResolvConf {
    /// Reads the text of the file.
    pub fn parse(text: &str) -> Self {
        let mut read = Self::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => read.resolvers.extend(words.next().and_then(address)),
                Some("search") => read.search = words.filter_map(domain).collect(),
                Some("domain") => read.search = words.take(1).filter_map(domain).collect(),
                _ => {}
            }
        }
        read
    }
}

/// Without the zone of a link-local address (RFC 4007, section 11): the guest has but one link.
fn address(word: &str) -> Option<IpAddr> {
    word.split('%').next()?.parse().ok()
}

fn domain(word: &str) -> Option<String> {
    let domain = word.trim_end_matches('.');
    (!domain.is_empty()).then(|| domain.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_file() {
        let text = "search default.svc.cluster.local svc.cluster.local cluster.local\n\
                    nameserver 10.96.0.10\noptions ndots:5\n";
        let read = ResolvConf::parse(text);
        assert_eq!(read.resolvers, [IpAddr::from([10, 96, 0, 10])]);
        assert_eq!(read.search, ["default.svc.cluster.local", "svc.cluster.local", "cluster.local"]);
    }

    #[test]
    fn zones_dots_comments_and_nonsense() {
        let text = "# nameserver 192.0.2.1\nnameserver fe80::1%eth0\n\tnameserver\t127.0.0.53 ; stub\nnameserver\n\
                    nameserver example.org\nnameservers 192.0.2.3\nsearch .\ndomain a.example. b.example\r\n";
        let read = ResolvConf::parse(text);
        assert_eq!(read.resolvers, ["fe80::1".parse().unwrap(), IpAddr::from([127, 0, 0, 53])]);
        assert_eq!(read.search, ["a.example"]);
        assert_eq!(ResolvConf::parse(""), ResolvConf::default());
        assert_eq!(
            ResolvConf::parse("search a.example\nsearch b.example c.example").search,
            ["b.example", "c.example"]
        );
    }
}
