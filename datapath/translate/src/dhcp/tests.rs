//! Tests of DHCP: requests as clients send them, byte for byte, and malformed ones.

use super::*;
use crate::samples;

/// A client's message without options.
fn header() -> Vec<u8> {
    let mut message = vec![BOOT_REQUEST, ETHERNET, MAC_BYTES, 0, 0x11, 0x22, 0x33, 0x44, 0, 0, 0, 0];
    message.extend([0; 16]);
    message.extend(samples::GUEST_MAC.0);
    message.extend([0; 10 + 64 + 128]);
    message.extend(MAGIC);
    message
}

fn frame(message: &[u8]) -> Vec<u8> {
    let link = Link { source: samples::GUEST_MAC, destination: culvert_frame::MacAddress::BROADCAST };
    let source = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT);
    reply::udp_v4(link, source, SocketAddrV4::new(Ipv4Addr::BROADCAST, SERVER_PORT), message).unwrap()
}

fn ask(settings: &Settings, message: &[u8]) -> Option<Vec<u8>> {
    answer(settings, &Guest::new(settings), &frame(message))
}

/// What was answered: the address assigned, and the options in order.
fn read(frame: &[u8]) -> (Ipv4Addr, Vec<(u8, Vec<u8>)>) {
    let (_, source, destination, message) = reply::read_udp_v4(frame).unwrap();
    assert_eq!((source.port(), destination.port()), (SERVER_PORT, CLIENT_PORT));
    assert!(message.len() >= MIN_MESSAGE_BYTES);
    let assigned: [u8; 4] = message[16..20].try_into().unwrap();
    let mut options = Vec::new();
    let mut rest = &message[240..];
    while rest[0] != 255 {
        let length = usize::from(rest[1]);
        options.push((rest[0], rest[2..2 + length].to_vec()));
        rest = &rest[2 + length..];
    }
    (assigned.into(), options)
}

#[test]
fn a_discover_is_offered_the_address() {
    let settings = samples::settings();
    let message = [&header()[..], &[53, 1, 1, 255]].concat();
    let (assigned, options) = read(&ask(&settings, &message).unwrap());
    assert_eq!(assigned, Ipv4Addr::new(192, 0, 2, 2));
    let expected: Vec<(u8, Vec<u8>)> = vec![
        (53, vec![2]),
        (54, vec![192, 0, 2, 1]),
        (51, vec![255, 255, 255, 255]),
        (1, vec![255, 255, 255, 0]),
        (3, vec![192, 0, 2, 1]),
        (6, vec![192, 0, 2, 53, 192, 0, 2, 54]),
        (12, b"guest".to_vec()),
        (26, vec![0xff, 0xf0]),
        (81, [&[12, 255, 255][..], b"\x05guest\x07example\x03org\0"].concat()),
        (119, b"\x01a\x07example\x03org\0\x01b\xc0\x02".to_vec()),
    ];
    assert_eq!(options, expected);
}
