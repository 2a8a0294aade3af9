//! Any message of a DHCP client. The first byte chooses settings, the rest is the payload of a datagram to the server.
//!
//! Checked: the answer repeats the transaction, assigns the guest's address or none, and its options can be read.

use culvert_translate::dhcp;
use etherparse::PacketBuilder;

use crate::network::{self, GUEST_MAC};

/// Runs one input.
pub fn run(data: &[u8]) {
    let Some((choice, message)) = data.split_first() else { return };
    let settings = network::settings(*choice);
    let builder =
        PacketBuilder::ethernet2(GUEST_MAC.0, [0xff; 6]).ipv4([0; 4], [255; 4], 64).udp(68, dhcp::SERVER_PORT);
    let mut frame = Vec::new();
    builder.write_to_vec(&mut frame, message).expect("a message that is not too long");
    let Some(answer) = network::ask(&settings, &frame, dhcp::answer) else { return };
    let answer = network::payload(&answer);
    assert!(answer.len() >= 300);
    assert_eq!((answer[0], &answer[4..8]), (2, &message[4..8]));
    assert_eq!(answer[28..44], message[28..44]);
    let mut message_type = None;
    let mut rest = &answer[240..];
    while rest[0] != 255 {
        let length = usize::from(rest[1]);
        if rest[0] == 53 {
            message_type = Some(rest[2]);
        }
        rest = &rest[2 + length..];
    }
    assert!(rest.iter().skip(1).all(|byte| *byte == 0));
    let assigned = &answer[16..20];
    match message_type {
        // BOOTP, OFFER; ACK may be for INFORM; NAK.
        None | Some(2) => assert_eq!(assigned, [192, 0, 2, 2]),
        Some(5) => assert!(assigned == [192, 0, 2, 2] || assigned == [0; 4]),
        Some(6) => assert_eq!(assigned, [0; 4]),
        other => panic!("message type {other:?}"),
    }
}
