//! Tests of DHCPv6: requests as clients send them, byte for byte, and malformed ones.

use super::*;
use crate::samples;

fn ask(settings: &Settings, message: &[u8]) -> Option<Vec<u8>> {
    let link = Link { source: samples::GUEST_MAC, destination: reply::multicast_mac(SERVERS) };
    let source = SocketAddrV6::new(samples::GUEST_LINK_LOCAL, CLIENT_PORT, 0, 0);
    let frame = reply::udp_v6(link, source, SocketAddrV6::new(SERVERS, SERVER_PORT, 0, 0), message).unwrap();
    answer(settings, &Guest::new(settings), &frame)
}

fn read(frame: &[u8]) -> Vec<u8> {
    let (_, source, destination, message) = reply::read_udp_v6(frame).unwrap();
    assert_eq!((source.port(), destination.port()), (SERVER_PORT, CLIENT_PORT));
    assert_eq!(*destination.ip(), samples::GUEST_LINK_LOCAL);
    message.to_vec()
}

const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

#[test]
fn a_solicit_is_advertised_the_address() {
    let settings = samples::settings();
    let message = [1, 7, 8, 9, 0, 1, 0, 4, 0, 3, 0, 9, 0, 3, 0, 12, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0];
    let answer = read(&ask(&settings, &message).unwrap());
    let expected = [
        &[2, 7, 8, 9, 0, 1, 0, 4, 0, 3, 0, 9][..],
        &[0, 2, 0, 10, 0, 3, 0, 1, 0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55],
        &[0, 7, 0, 1, 255],
        &[0, 3, 0, 40, 1, 2, 3, 4, 255, 255, 255, 255, 255, 255, 255, 255],
        &[0, 5, 0, 24, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2],
        &[255, 255, 255, 255, 255, 255, 255, 255],
        &[0, 23, 0, 16, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x53],
        &[0, 24, 0, 30],
        b"\x01a\x07example\x03org\0\x01b\x07example\x03org\0",
        &[0, 39, 0, 20, 4],
        b"\x05guest\x07example\x03org\0",
    ]
    .concat();
    assert_eq!(answer, expected);
}

#[test]
fn clients_as_captured_get_exactly_these_answers() {
    let settings = samples::settings();
    let all = samples::captured(include_str!("captured.txt"));
    assert!(all.len() >= 15);
    for client in all {
        assert!(!client.frame.is_empty(), "{}", client.name);
        assert_eq!(answer(&settings, &Guest::new(&settings), &client.frame), client.answer, "{}", client.name);
    }
}

const TRANSACTION: [u8; 3] = [1, 2, 3];

/// Option 1 of a client that will do.
const CLIENT: [u8; 8] = [0, 1, 0, 4, 0, 3, 0, 9];

/// Option 2: us.
const SERVER: [u8; 14] = [0, 2, 0, 10, 0, 3, 0, 1, 0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55];

/// An option.
fn tlv(code: u16, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).unwrap();
    [&code.to_be_bytes()[..], &length.to_be_bytes(), data].concat()
}

/// IA_NA 7, with these addresses.
fn association(addresses: &[&str]) -> Vec<u8> {
    let mut data = vec![0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0];
    for address in addresses {
        let address: Ipv6Addr = address.parse().unwrap();
        data.extend(tlv(5, &[&address.octets()[..], &[0; 8]].concat()));
    }
    tlv(3, &data)
}

fn message(kind: u8, options: &[&[u8]]) -> Vec<u8> {
    [&[kind], &TRANSACTION[..], &options.concat()].concat()
}

/// The message type of an answer, and its options.
fn options(frame: &[u8]) -> (u8, Vec<(u16, Vec<u8>)>) {
    let message = read(frame);
    assert_eq!(message[1..4], TRANSACTION);
    (message[0], split(&message[4..]))
}

fn split(mut rest: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut options = Vec::new();
    while !rest.is_empty() {
        let length = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
        options.push((u16::from_be_bytes([rest[0], rest[1]]), rest[4..4 + length].to_vec()));
        rest = &rest[4 + length..];
    }
    options
}

/// What an answer says of IA_NA 7: addresses with their valid lifetimes, or a status.
fn leased(frame: &[u8]) -> Result<Vec<(Ipv6Addr, u32)>, u8> {
    let (_, all) = options(frame);
    let (_, data) = all.iter().find(|(code, _)| *code == 3).unwrap();
    let mut addresses = Vec::new();
    for (code, data) in split(&data[12..]) {
        match code {
            13 => return Err(data[1]),
            5 => {
                let address: [u8; 16] = data[..16].try_into().unwrap();
                let valid: [u8; 4] = data[20..24].try_into().unwrap();
                addresses.push((Ipv6Addr::from(address), u32::from_be_bytes(valid)));
            }
            other => panic!("option {other}"),
        }
    }
    Ok(addresses)
}

fn ours(lifetime: u32) -> (Ipv6Addr, u32) {
    ("2001:db8::2".parse().unwrap(), lifetime)
}

fn theirs(lifetime: u32) -> (Ipv6Addr, u32) {
    ("2001:db8:9::9".parse().unwrap(), lifetime)
}

#[test]
fn the_address_is_leased_for_ever() {
    let settings = samples::settings();
    for (kind, server) in [(3, &SERVER[..]), (5, &SERVER), (6, &[])] {
        let frame = ask(&settings, &message(kind, &[&CLIENT, server, &association(&["2001:db8::2"])])).unwrap();
        assert_eq!((options(&frame).0, leased(&frame)), (7, Ok(vec![ours(u32::MAX)])), "{kind}");
    }
    let frame = ask(&settings, &message(1, &[&CLIENT, &tlv(14, &[]), &association(&[])])).unwrap();
    let (kind, all) = options(&frame);
    assert_eq!((kind, leased(&frame)), (7, Ok(vec![ours(u32::MAX)])));
    assert!(all.contains(&(14, Vec::new())));
}

/// RFC 8415, sections 18.3.2, 18.3.4 and 18.3.5.
#[test]
fn another_address_is_taken_away() {
    let settings = samples::settings();
    let asked = association(&["2001:db8:9::9"]);
    let ask = |kind, server: &[u8]| leased(&ask(&settings, &message(kind, &[&CLIENT, server, &asked])).unwrap());
    assert_eq!(ask(1, &[]), Ok(vec![ours(u32::MAX)]));
    assert_eq!(ask(3, &SERVER), Err(4));
    assert_eq!(ask(5, &SERVER), Ok(vec![ours(u32::MAX), theirs(0)]));
    assert_eq!(ask(6, &[]), Ok(vec![ours(u32::MAX), theirs(0)]));
}

/// RFC 8415, sections 18.3.3, 18.3.7 and 18.3.8.
#[test]
fn confirm_release_and_decline_get_a_status() {
    let settings = samples::settings();
    let status = |kind, server: &[u8], addresses: &[&str]| {
        let frame = ask(&settings, &message(kind, &[&CLIENT, server, &association(addresses)]))?;
        let (kind, all) = options(&frame);
        assert_eq!((kind, all.len()), (7, 3));
        Some(all[2].clone())
    };
    assert_eq!(status(4, &[], &["2001:db8::2"]), Some((13, vec![0, 0])));
    assert_eq!(status(4, &[], &["2001:db8::2", "2001:db8:9::9"]), Some((13, vec![0, 4])));
    assert_eq!(status(4, &[], &[]), None);
    assert_eq!(status(4, &SERVER, &["2001:db8::2"]), None);
    for kind in [8, 9] {
        assert_eq!(status(kind, &SERVER, &["2001:db8::2"]), Some((13, vec![0, 0])));
        assert_eq!(status(kind, &[], &["2001:db8::2"]), None);
    }
}

#[test]
fn what_there_is_none_of_is_refused() {
    let settings = samples::settings();
    let second = tlv(3, &[0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0]);
    let prefix = tlv(25, &[0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0]);
    let temporary = tlv(4, &[0, 0, 0, 10]);
    let asked = message(1, &[&CLIENT, &association(&[]), &second, &prefix, &temporary]);
    let (_, all) = options(&ask(&settings, &asked).unwrap());
    let refused = |id: u8, status: u8| [&[0, 0, 0, id][..], &[0; 8], &[0, 13, 0, 2, 0, status]].concat();
    assert!(all.contains(&(3, refused(8, 2))));
    assert!(all.contains(&(25, refused(9, 6))));
    assert!(all.contains(&(4, vec![0, 0, 0, 10, 0, 13, 0, 2, 0, 2])));
    // A guest without an address of its own is told the same of the first.
    let mut settings = settings;
    settings.v6.as_mut().unwrap().address = Ipv6Addr::UNSPECIFIED;
    let frame = ask(&settings, &message(1, &[&CLIENT, &association(&[])])).unwrap();
    assert_eq!(leased(&frame), Err(2));
}

#[test]
fn parameters_alone() {
    let mut settings = samples::settings();
    let question = message(11, &[]);
    let codes = |settings: &Settings| -> Vec<u16> {
        options(&ask(settings, &question).unwrap()).1.iter().map(|(code, _)| *code).collect()
    };
    assert_eq!(codes(&settings), [2, 23, 24, 39]);
    (settings.services.dhcp_dns, settings.services.dhcp_search, settings.fqdn) = (false, false, None);
    assert_eq!(codes(&settings), [2]);
    settings.services.dhcpv6 = false;
    assert_eq!(ask(&settings, &question), None);
    settings = samples::settings();
    settings.v6 = None;
    assert_eq!(ask(&settings, &question), None);
}

#[test]
fn the_longest_answer_fits_the_smallest_link() {
    let mut settings = samples::settings();
    settings.search = (0..100).map(|n| format!("a-rather-long-label-{n}.example.org")).collect();
    settings.fqdn = Some(format!("{0}.{0}.{0}.{1}", "x".repeat(63), "y".repeat(61)));
    settings.v6.as_mut().unwrap().resolvers = vec![Ipv6Addr::LOCALHOST; 100];
    let client = tlv(1, &[9; 130]);
    let addresses: Vec<String> = (0..50).map(|n| format!("2001:db8:9::{n}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let associations = association(&addresses).repeat(40);
    let frame = ask(&settings, &message(6, &[&client, &associations])).unwrap();
    assert!((1100..=14 + 1280).contains(&frame.len()), "{}", frame.len());
}

#[test]
fn malformed_messages_are_not_answered() {
    let settings = samples::settings();
    let ask = |options: &[&[u8]]| ask(&settings, &message(1, options));
    assert!(ask(&[&CLIENT]).is_some());
    assert!(ask(&[&CLIENT, &tlv(16, &[]), &tlv(17, &[1]), &tlv(6, &[0])]).is_some(), "options of no interest");
    for bad in [
        // Of a code or length there is half; longer than the message.
        &[0][..],
        &[0, 14, 0],
        &[0, 99, 0, 1],
        &[0, 99, 255, 255, 1, 2, 3],
        // Identifiers too short and too long.
        &tlv(1, &[0, 3]),
        &tlv(1, &[0; 131]),
        &tlv(2, &[]),
        // Associations without identifiers or times, and addresses in them cut short.
        &tlv(3, &[0; 3]),
        &tlv(3, &[0; 11]),
        &tlv(25, &[0; 11]),
        &tlv(4, &[0; 3]),
        &tlv(3, &[&[0; 12][..], &tlv(5, &[0; 23])].concat()),
        &tlv(3, &[&[0; 12][..], &[0, 5, 0, 24, 1]].concat()),
        &tlv(4, &[&[0; 4][..], &[0, 5]].concat()),
    ] {
        assert_eq!(ask(&[&CLIENT, bad]), None, "{bad:?}");
        assert_eq!(ask(&[bad, &CLIENT]), None, "{bad:?}");
    }
}

#[test]
fn messages_of_other_kinds_and_for_others_are_not_answered() {
    let settings = samples::settings();
    for kind in [0, 2, 7, 10, 12, 13, 14, 20, 22, 255] {
        assert_eq!(ask(&settings, &message(kind, &[&CLIENT, &association(&[])])), None, "{kind}");
    }
    for length in 0..4 {
        assert_eq!(ask(&settings, &[11, 1, 2][..length.min(3)]), None);
    }
    for kind in [1, 3, 4, 5, 6, 8, 9] {
        assert_eq!(ask(&settings, &message(kind, &[&association(&["2001:db8::2"])])), None, "{kind} of nobody");
        let other = tlv(2, &[0, 3, 0, 1, 2, 2, 2, 2, 2, 2]);
        let asked = message(kind, &[&CLIENT, &other, &association(&["2001:db8::2"])]);
        assert_eq!(ask(&settings, &asked), None, "{kind} for another server");
    }
}

#[test]
fn frames_that_are_not_ours_are_not_answered() {
    let settings = samples::settings();
    let send = |source: Ipv6Addr, port| {
        let link = Link { source: samples::GUEST_MAC, destination: reply::multicast_mac(SERVERS) };
        let source = SocketAddrV6::new(source, CLIENT_PORT, 0, 0);
        reply::udp_v6(link, source, SocketAddrV6::new(SERVERS, port, 0, 0), &message(11, &[])).unwrap()
    };
    let ask = |frame: &[u8]| answer(&settings, &Guest::new(&settings), frame);
    let whole = send(samples::GUEST_LINK_LOCAL, SERVER_PORT);
    assert!(ask(&whole).is_some());
    assert_eq!(ask(&send(samples::GUEST_LINK_LOCAL, CLIENT_PORT)), None);
    for source in [Ipv6Addr::UNSPECIFIED, Ipv6Addr::LOCALHOST, SERVERS] {
        assert_eq!(ask(&send(source, SERVER_PORT)), None, "{source}");
    }
    for length in 0..whole.len() {
        assert_eq!(ask(&whole[..length]), None, "{length} bytes");
    }
}

#[test]
fn messages_cut_anywhere_are_answered_between_options_only() {
    let settings = samples::settings();
    for samples::Captured { name, frame, .. } in samples::captured(include_str!("captured.txt")) {
        let message = reply::read_udp_v6(&frame).unwrap().3.to_vec();
        let mut between = 4;
        for length in 0..message.len() {
            let answer = ask(&settings, &message[..length]);
            if length < between {
                assert_eq!(answer, None, "{name}: {length} bytes");
            } else {
                between += 4 + usize::from(u16::from_be_bytes([message[length + 2], message[length + 3]]));
            }
        }
        assert_eq!(between, message.len());
    }
}

/// No question leaves anything behind: the ten thousandth is answered as the first.
#[test]
fn ten_thousand_solicits() {
    let settings = samples::settings();
    let question = message(1, &[&CLIENT, &association(&[])]);
    let first = ask(&settings, &question);
    assert!(first.is_some());
    for _ in 0..10_000 {
        assert_eq!(ask(&settings, &question), first);
    }
}

proptest::proptest! {
    #[test]
    fn any_options_get_an_answer_that_fits_or_none(
        kind in 0_u8..14,
        known in proptest::collection::vec((0_u16..30, proptest::collection::vec(0_u8.., 0..60)), 0..12),
        rubbish in proptest::collection::vec(0_u8.., 0..8),
    ) {
        let mut all: Vec<Vec<u8>> = known.iter().map(|(code, data)| tlv(*code, data)).collect();
        all.push(CLIENT.to_vec());
        all.push(rubbish);
        let all: Vec<&[u8]> = all.iter().map(Vec::as_slice).collect();
        if let Some(frame) = ask(&samples::settings(), &message(kind, &all)) {
            assert!(frame.len() <= 14 + 1280);
            options(&frame);
        }
    }
}
