//! Any message of a DHCPv6 client. The first byte chooses settings, the rest is the payload of a datagram to the servers.
//!
//! Checked: the answer repeats the transaction, its options can be read, and no address but the guest's is leased.

use std::net::Ipv6Addr;

use culvert_translate::dhcpv6;
use etherparse::PacketBuilder;

use crate::network::{self, GUEST_LINK_LOCAL, GUEST_MAC};

const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

/// Runs one input.
pub fn run(data: &[u8]) {
    let Some((choice, message)) = data.split_first() else { return };
    let settings = network::settings(*choice);
    let builder = PacketBuilder::ethernet2(GUEST_MAC.0, [0x33, 0x33, 0, 1, 0, 2])
        .ipv6(GUEST_LINK_LOCAL.octets(), SERVERS.octets(), 1)
        .udp(546, dhcpv6::SERVER_PORT);
    let mut frame = Vec::new();
    builder.write_to_vec(&mut frame, message).expect("a message that is not too long");
    let Some(answer) = network::ask(&settings, &frame, dhcpv6::answer) else { return };
    let answer = network::payload(&answer);
    assert!(matches!(answer[0], 2 | 7));
    assert_eq!(answer[1..4], message[1..4]);
    let address = settings.v6.map(|v6| v6.address.octets());
    for (code, data) in options(&answer[4..]) {
        if code != 3 {
            continue;
        }
        for (code, data) in options(&data[12..]) {
            let is_leased = code == 5 && data[20..24] != [0; 4];
            assert!(!is_leased || address.is_some_and(|address| data[..16] == address && address != [0; 16]));
        }
    }
}

/// Options that fill `rest` exactly.
fn options(mut rest: &[u8]) -> Vec<(u16, &[u8])> {
    let mut options = Vec::new();
    while !rest.is_empty() {
        let length = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
        options.push((u16::from_be_bytes([rest[0], rest[1]]), &rest[4..4 + length]));
        rest = &rest[4 + length..];
    }
    options
}
