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
