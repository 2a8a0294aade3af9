//! A network for tests: what most of them start from.

use std::net::{Ipv4Addr, Ipv6Addr};

use culvert_frame::MacAddress;

use crate::settings::{DEFAULT_MAC, DEFAULT_MTU, Ipv4, Ipv6, Mapping, Services, Settings};

/// The guest's MAC address.
pub const GUEST_MAC: MacAddress = MacAddress([0x02, 0, 0, 0, 0, 0x0a]);

/// What the guest makes of it (RFC 4291, appendix A).
pub const GUEST_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, 0x0a);

/// 192.0.2.2/24 behind .1 and 2001:db8::2 behind fe80::1, with everything configured that can be.
pub fn settings() -> Settings {
    Settings {
        mac: DEFAULT_MAC,
        mtu: Some(DEFAULT_MTU),
        v4: Some(Ipv4 {
            address: "192.0.2.2/24".parse().unwrap(),
            gateway: Ipv4Addr::new(192, 0, 2, 1),
            ours: Ipv4Addr::new(192, 0, 2, 1),
            resolvers: vec![Ipv4Addr::new(192, 0, 2, 53), Ipv4Addr::new(192, 0, 2, 54)],
            mapping: Mapping { host_loopback: Some(Ipv4Addr::new(192, 0, 2, 1)), ..Mapping::default() },
        }),
        v6: Some(Ipv6 {
            address: "2001:db8::2".parse().unwrap(),
            gateway: "fe80::1".parse().unwrap(),
            link_local: "fe80::1".parse().unwrap(),
            interface_index: 2,
            resolvers: vec!["2001:db8::53".parse().unwrap()],
            mapping: Mapping { host_loopback: Some("fe80::1".parse().unwrap()), ..Mapping::default() },
        }),
        search: vec!["a.example.org".to_owned(), "b.example.org".to_owned()],
        hostname: Some("guest".to_owned()),
        fqdn: Some("guest.example.org".to_owned()),
        services: Services::default(),
    }
}

/// A client's frame, and the answer to it.
pub struct Captured<'a> {
    /// Which client, and what it says.
    pub name: &'a str,
    /// What it sends.
    pub frame: Vec<u8>,
    /// What it gets.
    pub answer: Option<Vec<u8>>,
}

/// Reads files `captured.txt`: a name, the frame behind `>`, the answer behind `<`, all in lines of their own.
pub fn captured(text: &str) -> Vec<Captured<'_>> {
    let mut all: Vec<Captured<'_>> = Vec::new();
    for line in text.lines() {
        match line.split_at_checked(2) {
            Some(("> ", hex)) => all.last_mut().unwrap().frame = bytes(hex),
            Some(("< ", "none") | ("# ", _)) | None => {}
            Some(("< ", hex)) => all.last_mut().unwrap().answer = Some(bytes(hex)),
            Some(_) => all.push(Captured { name: line, frame: Vec::new(), answer: None }),
        }
    }
    all
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2).map(|digits| std::str::from_utf8(digits).unwrap());
    digits.map(|digits| u8::from_str_radix(digits, 16).unwrap()).collect()
}
