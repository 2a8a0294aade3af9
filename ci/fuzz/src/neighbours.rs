//! Any ARP packet, any message of neighbour discovery, any frame. The first byte chooses settings, the second which of
//! the three the rest becomes.
//!
//! Checked: what is told of an address is told of the one that was asked for, with our own MAC address.

use culvert_translate::settings::DEFAULT_MAC;
use culvert_translate::{arp, dhcp, dhcpv6, ndp};
use etherparse::PacketBuilder;

use crate::network::{self, GUEST_LINK_LOCAL, GUEST_MAC};

/// Runs one input.
pub fn run(data: &[u8]) {
    let [choice, kind, rest @ ..] = data else { return };
    let settings = network::settings(*choice);
    match kind % 3 {
        0 => {
            let frame = [&[0xff; 6][..], &GUEST_MAC.0, &[8, 6], rest].concat();
            let Some(answer) = network::ask(&settings, &frame, arp::answer) else { return };
            assert_eq!(answer[20..22], [0, 2]);
            assert_eq!((&answer[22..28], &answer[28..32]), (&DEFAULT_MAC.0[..], &frame[38..42]));
        }
        1 => {
            let [message_type, a, b, c, d, body @ ..] = rest else { return };
            let builder = PacketBuilder::ethernet2(GUEST_MAC.0, [0x33, 0x33, 0, 0, 0, 2])
                .ipv6(GUEST_LINK_LOCAL.octets(), [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2], 255)
                .icmpv6_raw(*message_type, 0, [*a, *b, *c, *d]);
            let mut frame = Vec::new();
            builder.write_to_vec(&mut frame, body).expect("a message that is not too long");
            let Some(answer) = network::ask(&settings, &frame, ndp::answer) else { return };
            match message_type {
                133 => assert_eq!(answer[54], 134),
                135 => {
                    assert_eq!((answer[54], &answer[62..78], &answer[80..86]), (136, &body[..16], &DEFAULT_MAC.0[..]))
                }
                other => panic!("type {other} was answered"),
            }
        }
        _ => {
            for answer in [arp::answer, ndp::answer, dhcp::answer, dhcpv6::answer] {
                network::ask(&settings, rest, answer);
            }
        }
    }
}
