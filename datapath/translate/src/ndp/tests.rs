//! Tests of neighbour discovery: solicitations as guests send them, malformed ones, and advertisements in their time.

use super::*;
use crate::samples::{self, GUEST_LINK_LOCAL, GUEST_MAC};

/// A message of the guest's to all routers.
fn message(source: Ipv6Addr, message_type: u8, rest: [u8; 4], body: &[u8]) -> Vec<u8> {
    let routers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
    let link = Link { source: GUEST_MAC, destination: reply::multicast_mac(routers) };
    reply::neighbour_discovery(link, source, routers, message_type, rest, body).unwrap()
}

fn solicit(source: Ipv6Addr, target: &str, options: &[u8]) -> Vec<u8> {
    let target: Ipv6Addr = target.parse().unwrap();
    message(source, NEIGHBOUR_SOLICITATION, [0; 4], &[&target.octets()[..], options].concat())
}

fn ask(settings: &Settings, frame: &[u8]) -> Option<Vec<u8>> {
    answer(settings, &Guest::new(settings), frame)
}

/// The source and destination of an answer, and its ICMPv6 message, whose checksum is right.
fn read(frame: &[u8]) -> (Ipv6Addr, Ipv6Addr, Vec<u8>) {
    let (mac, packet) = reply::read(frame).unwrap();
    let (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Icmpv6(message))) = (packet.net, packet.transport) else {
        panic!("no ICMPv6")
    };
    let header = ip.header();
    assert_eq!((mac, header.hop_limit()), (crate::settings::DEFAULT_MAC, 255));
    assert!(message.is_checksum_valid(header.source(), header.destination()));
    let (type_and_code, rest) = message.slice().split_at(4);
    (header.source_addr(), header.destination_addr(), [&type_and_code[..2], rest].concat())
}

const SOURCE_OPTION: [u8; 8] = [1, 1, 2, 0, 0, 0, 0, 0x0a];

#[test]
fn every_neighbour_is_at_our_address() {
    let settings = samples::settings();
    for target in ["fe80::1", "2001:db8::77", "2606:4700::1111", "fe80::abcd"] {
        let frame = ask(&settings, &solicit(GUEST_LINK_LOCAL, target, &SOURCE_OPTION)).unwrap();
        assert_eq!(frame[..6], GUEST_MAC.0);
        let (source, destination, message) = read(&frame);
        let target: Ipv6Addr = target.parse().unwrap();
        assert_eq!((source, destination), (target, GUEST_LINK_LOCAL));
        // Router, solicited, override.
        let expected =
            [&[136, 0, 0xe0, 0, 0, 0][..], &target.octets(), &[2, 1, 0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55]].concat();
        assert_eq!(message, expected);
    }
    // Without options, as one that asks a neighbour that it knows.
    assert!(ask(&settings, &solicit(GUEST_LINK_LOCAL, "fe80::1", &[])).is_some());
}

/// RFC 4862, section 5.4: silence means that an address is free.
#[test]
fn duplicate_address_detection_is_never_answered() {
    let settings = samples::settings();
    for target in ["2001:db8::2", "2001:db8::77", "fe80::1", "fe80::ff:fe00:a"] {
        assert_eq!(ask(&settings, &solicit(Ipv6Addr::UNSPECIFIED, target, &[])), None, "{target}");
    }
}

#[test]
fn the_guests_own_addresses_and_groups_are_nobody_elses() {
    let settings = samples::settings();
    for target in ["2001:db8::2", "ff02::1", "::"] {
        assert_eq!(ask(&settings, &solicit(GUEST_LINK_LOCAL, target, &[])), None, "{target}");
    }
    let mut guest = Guest::new(&settings);
    guest.v6 = "2001:db8::9".parse().unwrap();
    guest.v6_link_local = Some(GUEST_LINK_LOCAL);
    for target in ["2001:db8::9", "fe80::ff:fe00:a"] {
        assert_eq!(answer(&settings, &guest, &solicit(guest.v6, target, &[])), None, "{target}");
    }
}

#[test]
fn a_router_solicitation_is_answered_with_everything() {
    let settings = samples::settings();
    // As Linux sends it.
    let frame = ask(&settings, &message(GUEST_LINK_LOCAL, 133, [0; 4], &SOURCE_OPTION)).unwrap();
    assert_eq!(frame[..6], GUEST_MAC.0);
    let (source, destination, message) = read(&frame);
    assert_eq!((source, destination), ("fe80::1".parse().unwrap(), GUEST_LINK_LOCAL));
    let expected = [
        // Hop limit 255, managed, 65,535 s.
        &[134, 0, 255, 0x80, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0][..],
        // 2001:db8::/64 on the link and for own addresses.
        &[3, 4, 64, 0xc0, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0],
        &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        // 65,520 bytes.
        &[5, 1, 0, 0, 0, 0, 0xff, 0xf0],
        &[25, 3, 0, 0, 255, 255, 255, 255],
        &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x53],
        &[31, 5, 0, 0, 255, 255, 255, 255],
        b"\x01a\x07example\x03org\0\x01b\x07example\x03org\0\0\0",
        &[1, 1, 0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55],
    ]
    .concat();
    assert_eq!(message, expected);
}

#[test]
fn a_guest_without_addresses_asks_for_all_to_hear() {
    let settings = samples::settings();
    let frame = ask(&settings, &message(Ipv6Addr::UNSPECIFIED, 133, [0; 4], &[])).unwrap();
    assert_eq!(read(&frame).1, ALL_NODES);
}

#[test]
fn what_is_not_configured_is_not_advertised() {
    let mut settings = samples::settings();
    let question = message(GUEST_LINK_LOCAL, 133, [0; 4], &[]);
    settings.mtu = None;
    (settings.services.dhcp_dns, settings.services.dhcp_search, settings.services.dhcpv6) = (false, false, false);
    let (_, _, advertised) = read(&ask(&settings, &question).unwrap());
    assert_eq!((advertised[3], advertised.len()), (0, 14 + 32 + 8));
    // Without an address there is no prefix, and nothing to ask DHCPv6 for.
    settings.services.dhcpv6 = true;
    settings.v6.as_mut().unwrap().address = Ipv6Addr::UNSPECIFIED;
    let (_, _, advertised) = read(&ask(&settings, &question).unwrap());
    assert_eq!((advertised[3], advertised.len()), (0, 14 + 8));
    settings.services.ra = false;
    assert_eq!(ask(&settings, &question), None);
    assert!(ask(&settings, &solicit(GUEST_LINK_LOCAL, "fe80::1", &[])).is_some());
    settings.services.ndp = false;
    assert_eq!(ask(&settings, &solicit(GUEST_LINK_LOCAL, "fe80::1", &[])), None);
    assert_eq!(solicitation(&settings, &Guest::new(&settings)), None);
    settings.v6 = None;
    assert_eq!(ask(&settings, &question), None);
}

#[test]
fn the_longest_advertisement_fits_the_smallest_link() {
    let mut settings = samples::settings();
    settings.search = (0..100).map(|n| format!("a-rather-long-label-{n}.example.org")).collect();
    settings.v6.as_mut().unwrap().resolvers = vec![Ipv6Addr::LOCALHOST; 100];
    let frame = ask(&settings, &message(GUEST_LINK_LOCAL, 133, [0; 4], &[])).unwrap();
    assert!((800..=14 + 1280).contains(&frame.len()), "{}", frame.len());
    let (_, _, message) = read(&frame);
    assert_eq!(options_are_whole(&message[14..]), Some(()));
}

#[test]
fn malformed_messages_are_not_answered() {
    let settings = samples::settings();
    let router = message(GUEST_LINK_LOCAL, 133, [0; 4], &SOURCE_OPTION);
    let neighbour = solicit(GUEST_LINK_LOCAL, "fe80::1", &SOURCE_OPTION);
    for whole in [&router, &neighbour] {
        assert!(ask(&settings, whole).is_some());
        for length in 0..whole.len() {
            assert_eq!(ask(&settings, &whole[..length]), None, "{length} bytes");
        }
        // From beyond the link; with a code; from a group and the loopback.
        for (offset, value) in [(21, 254), (21, 64), (55, 1), (22, 0xff)] {
            let mut frame = whole.clone();
            frame[offset] = value;
            assert_eq!(ask(&settings, &frame), None, "byte {offset} is {value}");
        }
    }
    assert_eq!(ask(&settings, &solicit(Ipv6Addr::LOCALHOST, "fe80::1", &[])), None);
    // Options that are empty, too long, or half there; half a target.
    for options in [&[1, 0, 0, 0, 0, 0, 0, 0][..], &[1, 2, 0, 0, 0, 0, 0, 0], &[1], &[1, 1, 0, 0], &[14, 255]] {
        assert_eq!(ask(&settings, &solicit(GUEST_LINK_LOCAL, "fe80::1", options)), None, "{options:?}");
        assert_eq!(ask(&settings, &message(GUEST_LINK_LOCAL, 133, [0; 4], options)), None, "{options:?}");
    }
    assert_eq!(ask(&settings, &message(GUEST_LINK_LOCAL, 135, [0; 4], &[0xfe, 0x80, 0, 0, 0, 0, 0, 0])), None);
}

#[test]
fn a_guest_that_plays_the_router_is_not_heard() {
    let settings = samples::settings();
    let mut guest = Guest::new(&settings);
    let advertisement = message(GUEST_LINK_LOCAL, 134, [64, 0, 255, 255], &[0; 8]);
    let gateway: Ipv6Addr = "fe80::1".parse().unwrap();
    let spoofed = message(gateway, 136, [0x20, 0, 0, 0], &gateway.octets());
    let redirect = message(GUEST_LINK_LOCAL, 137, [0; 4], &[0; 32]);
    for frame in [advertisement, spoofed, redirect] {
        assert_eq!(answer(&settings, &guest, &frame), None);
        guest.learn(&settings, &frame);
    }
    assert_eq!((guest.v6_link_local, guest.v6), (Some(GUEST_LINK_LOCAL), "2001:db8::2".parse().unwrap()));
}

#[test]
fn a_new_guest_is_asked_for() {
    let settings = samples::settings();
    let mut guest = Guest::new(&settings);
    let frame = solicitation(&settings, &guest).unwrap();
    assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0, 0, 2]);
    let (source, destination, message) = read(&frame);
    assert_eq!((source, destination), ("fe80::1".parse().unwrap(), "ff02::1:ff00:2".parse().unwrap()));
    let target: Ipv6Addr = "2001:db8::2".parse().unwrap();
    let source_option = [1, 1, 0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55];
    assert_eq!(message, [&[135, 0, 0, 0, 0, 0][..], &target.octets(), &source_option].concat());
    guest.mac = Some(GUEST_MAC);
    assert_eq!(solicitation(&settings, &guest).unwrap()[..6], GUEST_MAC.0);
    guest.v6 = Ipv6Addr::UNSPECIFIED;
    assert_eq!(solicitation(&settings, &guest), None);
    guest.v6_link_local = Some(GUEST_LINK_LOCAL);
    assert!(solicitation(&settings, &guest).is_some());
}

/// A day of simulated time.
#[test]
fn advertisements_come_unasked_every_200_to_600_seconds() {
    let settings = samples::settings();
    let start = Instant::now();
    for seed in [0, 1, u64::MAX] {
        let guest = Guest::new(&settings);
        let mut advertiser = Advertiser::new(start, seed);
        let mut now = start;
        let mut intervals = Vec::new();
        while now < start + Duration::from_secs(86_400) {
            assert_eq!(advertiser.deadline(), now);
            let frame = advertiser.poll(now, &settings, &guest).unwrap();
            assert_eq!((frame[..6].to_vec(), read(&frame).1), (vec![0x33, 0x33, 0, 0, 0, 1], ALL_NODES));
            assert_eq!(advertiser.poll(now, &settings, &guest), None);
            let interval = advertiser.deadline() - now;
            assert!((200_000..=600_000).contains(&interval.as_millis()), "{interval:?}");
            assert_eq!(advertiser.poll(advertiser.deadline() - Duration::from_millis(1), &settings, &guest), None);
            intervals.push(interval);
            now = advertiser.deadline();
        }
        assert!((140..440).contains(&intervals.len()));
        assert!(intervals.iter().max().unwrap().as_secs() > 550 && intervals.iter().min().unwrap().as_secs() < 250);
    }
}

#[test]
fn where_there_is_nothing_to_advertise_time_passes_all_the_same() {
    let mut settings = samples::settings();
    settings.services.ra = false;
    let start = Instant::now();
    let mut advertiser = Advertiser::new(start, 1);
    assert_eq!(advertiser.poll(start, &settings, &Guest::new(&settings)), None);
    assert!(advertiser.deadline() > start);
}

proptest::proptest! {
    #[test]
    fn any_message_gets_an_answer_that_can_be_read_or_none(
        message_type in 130_u8..140,
        body in proptest::collection::vec(0_u8.., 0..80),
    ) {
        if let Some(frame) = ask(&samples::settings(), &message(GUEST_LINK_LOCAL, message_type, [0; 4], &body)) {
            read(&frame);
        }
    }
}
