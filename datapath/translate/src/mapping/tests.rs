//! Which addresses mean what, both ways.

use super::*;
use crate::samples;

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The sample network, with every address that means another.
fn mapped() -> Settings {
    let mut settings = samples::settings();
    let v4 = &mut settings.v4.as_mut().unwrap().mapping;
    v4.guest_address = Some("192.0.2.100".parse().unwrap());
    v4.dns_forward = Some("192.0.2.1".parse().unwrap());
    v4.dns_host = Some("127.0.0.53".parse().unwrap());
    let v6 = &mut settings.v6.as_mut().unwrap().mapping;
    v6.guest_address = Some("2001:db8::100".parse().unwrap());
    v6.dns_forward = Some("2001:db8::5353".parse().unwrap());
    v6.dns_host = Some("::1".parse().unwrap());
    settings
}

fn outwards(settings: &Settings, to: &str) -> Result<String, Refusal> {
    towards_host(settings, at(to)).map(|to| to.to_string())
}

#[test]
fn outwards_the_first_rule_that_fits_counts() {
    let settings = mapped();
    let cases = [
        // DNS, also where the address has another meaning for other ports.
        ("192.0.2.1:53", "127.0.0.53:53"),
        ("192.0.2.1:853", "127.0.0.53:853"),
        ("[2001:db8::5353]:53", "[::1]:53"),
        // The host's loopback.
        ("192.0.2.1:80", "127.0.0.1:80"),
        ("[fe80::1]:80", "[::1]:80"),
        // The pod's own address, which the guest has as well.
        ("192.0.2.100:80", "192.0.2.2:80"),
        ("[2001:db8::100]:80", "[2001:db8::2]:80"),
        // All others as they are; link-local ones through the pod's interface.
        ("198.51.100.7:53", "198.51.100.7:53"),
        ("169.254.20.10:53", "169.254.20.10:53"),
        ("[2001:db8::5353]:80", "[2001:db8::5353]:80"),
        ("[fe80::7]:80", "[fe80::7%2]:80"),
        ("[ff02::fb]:5353", "[ff02::fb%2]:5353"),
    ];
    for (to, expected) in cases {
        assert_eq!(outwards(&settings, to).as_deref(), Ok(expected), "{to}");
    }
}

/// N16.
#[test]
fn the_host_is_reached_only_where_a_rule_leads() {
    let mut settings = mapped();
    for to in ["0.0.0.0:80", "0.1.2.3:80", "[::]:80", "[::ffff:127.0.0.1]:80"] {
        assert_eq!(outwards(&settings, to), Err(Refusal::BadDestination), "{to}");
    }
    for to in ["127.0.0.1:80", "127.1.2.3:80", "[::1]:80"] {
        assert_eq!(outwards(&settings, to), Err(Refusal::DestinationNotAllowed), "{to}");
    }
    let v4 = &mut settings.v4.as_mut().unwrap().mapping;
    (v4.host_refused, v4.host_loopback) = (true, None);
    v4.host_addresses = vec!["203.0.113.5".parse().unwrap(), "192.0.2.2".parse().unwrap()];
    assert_eq!(outwards(&settings, "203.0.113.5:10250"), Err(Refusal::DestinationNotAllowed));
    assert_eq!(outwards(&settings, "192.0.2.100:80").as_deref(), Ok("192.0.2.2:80"), "a rule leads there");
    assert_eq!(outwards(&settings, "192.0.2.1:80").as_deref(), Ok("192.0.2.1:80"), "the gateway is itself");
    assert_eq!(outwards(&settings, "169.254.1.1:53").as_deref(), Ok("169.254.1.1:53"));
    assert_eq!(outwards(&settings, "169.254.169.254:80"), Err(Refusal::DestinationNotAllowed));
    let v4 = &mut settings.v4.as_mut().unwrap().mapping;
    v4.allowed = vec!["203.0.113.5".parse().unwrap(), "169.254.169.254".parse().unwrap()];
    for to in ["203.0.113.5:10250", "169.254.169.254:80"] {
        assert_eq!(outwards(&settings, to).as_deref(), Ok(to), "one by one");
    }
    settings.v6.as_mut().unwrap().mapping.host_refused = true;
    for to in ["[fd00:ec2::254]:80", "[fd20:ce::254]:80"] {
        assert_eq!(outwards(&settings, to), Err(Refusal::DestinationNotAllowed), "{to}");
    }
    (settings.v4, settings.v6) = (None, None);
    assert_eq!(outwards(&settings, "198.51.100.7:80"), Err(Refusal::BadDestination));
    assert_eq!(outwards(&settings, "[2001:db8::7]:80"), Err(Refusal::BadDestination));
}

/// What the host has besides is for the kernel to say, where no rule leads to an address and none allows it.
#[test]
fn which_destinations_must_not_be_the_hosts() {
    let mut settings = mapped();
    let asks = |settings: &Settings, from: &str, to: &str| must_be_elsewhere(settings, at(from), at(to));
    assert!(!asks(&settings, "198.51.100.7:80", "198.51.100.7:80"), "the host is not refused");
    let v4 = &mut settings.v4.as_mut().unwrap().mapping;
    (v4.host_refused, v4.allowed) = (true, vec!["198.51.100.8".parse().unwrap()]);
    assert!(asks(&settings, "198.51.100.7:80", "198.51.100.7:80"));
    for (from, to) in [
        ("192.0.2.1:53", "127.0.0.53:53"),
        ("198.51.100.8:80", "198.51.100.8:80"),
        ("224.0.0.251:5353", "224.0.0.251:5353"),
        ("[2001:db8::7]:80", "[2001:db8::7]:80"),
    ] {
        assert!(!asks(&settings, from, to), "{from}");
    }
}

#[test]
fn sockets_for_the_world_are_bound_as_configured_and_those_for_the_host_are_not() {
    let mut settings = samples::settings();
    assert_eq!(outbound(&settings, ip("198.51.100.7")), Outbound::default());
    let v4 = &mut settings.v4.as_mut().unwrap().mapping;
    (v4.outbound_address, v4.outbound_interface) = (Some("192.0.2.99".parse().unwrap()), Some("eth1".to_owned()));
    let expected = Outbound { address: Some(ip("192.0.2.99")), interface: Some("eth1") };
    assert_eq!(outbound(&settings, ip("198.51.100.7")), expected);
    assert_eq!(outbound(&settings, ip("127.0.0.1")), Outbound::default());
    assert_eq!(outbound(&settings, ip("2001:db8::7")), Outbound::default());
}

#[test]
fn inwards_nobody_seems_to_be_the_guest_or_its_loopback() {
    let mut settings = mapped();
    let mut guest = Guest::new(&settings);
    guest.v6_link_local = Some(samples::GUEST_LINK_LOCAL);
    let inwards = |settings: &Settings, guest: &Guest, peer: &str| {
        towards_guest(settings, guest, ip(peer)).map(|(seen, own)| [seen.to_string(), own.to_string()])
    };
    let link_local = samples::GUEST_LINK_LOCAL.to_string();
    let cases = [
        ("198.51.100.7", "198.51.100.7", "192.0.2.2"),
        ("::ffff:198.51.100.7", "198.51.100.7", "192.0.2.2"),
        ("127.0.0.1", "192.0.2.1", "192.0.2.2"),
        ("127.9.9.9", "192.0.2.1", "192.0.2.2"),
        ("192.0.2.2", "192.0.2.100", "192.0.2.2"),
        ("2001:db8:1::7", "2001:db8:1::7", "2001:db8::2"),
        ("2001:db8::2", "2001:db8::100", "2001:db8::2"),
        ("fe80::7", "fe80::7", &link_local),
        ("::1", "fe80::1", &link_local),
    ];
    for (peer, seen, own) in cases {
        assert_eq!(inwards(&settings, &guest, peer), Ok([seen.to_owned(), own.to_owned()]), "{peer}");
    }
    // Wherever the guest is now.
    guest.v4 = "192.0.2.50".parse().unwrap();
    let seen = inwards(&settings, &guest, "192.0.2.50").unwrap();
    assert_eq!(seen, ["192.0.2.100", "192.0.2.50"]);
    // Without such rules the gateway speaks for the host.
    let v4 = &mut settings.v4.as_mut().unwrap().mapping;
    (v4.host_loopback, v4.guest_address) = (None, None);
    assert_eq!(inwards(&settings, &guest, "127.0.0.1").unwrap()[0], "192.0.2.1");
    assert_eq!(inwards(&settings, &guest, "192.0.2.2").unwrap()[0], "192.0.2.1");
    settings.v4 = None;
    assert_eq!(inwards(&settings, &guest, "198.51.100.7"), Err(Refusal::BadDestination));
}
