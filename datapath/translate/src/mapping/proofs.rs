//! All kinds of addresses, under all kinds of rules.

use culvert_proofs::{Choices, proofs};

use super::*;
use crate::samples;

proofs! {
    nothing_leads_to_the_host_but_a_rule: 13_000,
    nobody_seems_to_be_the_guest_and_answers_lead_back: 160,
}

const OURS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const ALIAS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
const HOST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
const WORLD: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const LOOPBACKS: [Ipv4Addr; 2] = [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 255, 0, 53)];

/// Settings with these rules and no others.
fn with(mapping: Mapping<Ipv4Addr>) -> Settings {
    let mut settings = samples::settings();
    settings.v4.as_mut().unwrap().mapping = mapping;
    settings
}

/// A destination leads where the first rule says that is for it, with its port, and else to itself; to the host's loopback nothing leads
/// but a rule, and neither to its addresses nor to those of metadata where it is refused, unless they are allowed: nine kinds of
/// destinations, ports of DNS and another, all rules there or not.
fn nothing_leads_to_the_host_but_a_rule(choices: &mut Choices) {
    let (to, port) = (
        choices.of(&[OURS, OWN, ALIAS, HOST, WORLD, METADATA_V4, LOOPBACKS[0], LOOPBACKS[1], Ipv4Addr::UNSPECIFIED]),
        choices.of(&[53, 853, 80]),
    );
    let mapping = Mapping {
        host_loopback: choices.of(&[None, Some(OURS), Some(WORLD)]),
        guest_address: choices.of(&[None, Some(ALIAS), Some(OURS)]),
        dns_forward: choices.of(&[None, Some(OURS), Some(ALIAS)]),
        dns_host: choices.of(&[None, Some(LOOPBACKS[1]), Some(WORLD)]),
        host_refused: choices.flag(),
        host_addresses: vec![HOST, OWN],
        allowed: choices.of(&[&[][..], &[HOST], &[METADATA_V4]]).to_vec(),
        ..Mapping::default()
    };
    let is_dns = port == 53 || port == 853;
    let rules = [
        (mapping.dns_forward.filter(|_| is_dns && mapping.dns_host.is_some()), mapping.dns_host),
        (mapping.host_loopback, Some(Ipv4Addr::LOCALHOST)),
        (mapping.guest_address, Some(OWN)),
    ];
    let by_rule = rules.into_iter().find(|(from, _)| *from == Some(to)).and_then(|(_, to)| to);
    let is_host = [HOST, OWN, METADATA_V4].contains(&to) && mapping.host_refused && !mapping.allowed.contains(&to);
    let expected = match by_rule {
        Some(to) => Ok(to),
        None if to.is_unspecified() => Err(Refusal::BadDestination),
        None if LOOPBACKS.contains(&to) || is_host => Err(Refusal::DestinationNotAllowed),
        None => Ok(to),
    };
    let settings = with(mapping);
    let found = towards_host(&settings, SocketAddr::from((to, port)));
    assert_eq!(found, expected.map(|to| SocketAddr::from((to, port))));
    // What a rule leads to needs no further question.
    if let Ok(found) = found
        && by_rule.is_some_and(|by_rule| by_rule != to)
    {
        assert!(!must_be_elsewhere(&settings, SocketAddr::from((to, port)), found));
    }
}

/// Whoever speaks to the guest has another address than the guest, and none that it would take for itself; what it answers there goes back
/// to where it came from, if there is a rule for that: seven kinds of peers, as IPv4 and in the guise of IPv6, rules there or not, wherever
/// the guest is.
fn nobody_seems_to_be_the_guest_and_answers_lead_back(choices: &mut Choices) {
    let guest_address = Ipv4Addr::new(192, 0, 2, 50);
    let peers = [OWN, HOST, WORLD, LOOPBACKS[0], LOOPBACKS[1], Ipv4Addr::UNSPECIFIED, guest_address];
    let peer = choices.of(&peers);
    let (host_loopback, alias) =
        (choices.of(&[None, Some(OURS), Some(Ipv4Addr::new(192, 0, 2, 9))]), choices.of(&[None, Some(ALIAS)]));
    let settings = with(Mapping { host_loopback, guest_address: alias, ..Mapping::default() });
    let mut guest = Guest::new(&settings);
    assert_eq!(guest.v4, OWN);
    if choices.flag() {
        guest.v4 = guest_address;
    }
    let told = if choices.flag() { peer.to_ipv6_mapped().into() } else { IpAddr::from(peer) };
    let (IpAddr::V4(seen), own) = towards_guest(&settings, &guest, told).unwrap() else {
        panic!("of the other family")
    };
    assert_eq!(own, IpAddr::from(guest.v4));
    assert!(seen != guest.v4 && !seen.is_loopback() && !seen.is_unspecified());
    let back = towards_host(&settings, SocketAddr::from((seen, 80))).unwrap().ip();
    if peer == OWN || peer == guest.v4 {
        assert!(seen != OWN);
        assert!(alias.is_none() || back == IpAddr::from(OWN));
    } else if peer.is_loopback() || peer.is_unspecified() {
        assert!(host_loopback.is_none() || back == IpAddr::from(Ipv4Addr::LOCALHOST));
    } else {
        assert_eq!((seen, back), (peer, IpAddr::from(peer)));
    }
}
