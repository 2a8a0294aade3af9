//! Headers with all that their length fields can say.

use culvert_proofs::{Choices, proofs};

use super::*;

proofs! {
    ipv4_headers_are_found_where_their_lengths_say: 47_000,
    ipv6_extensions_end_and_are_passed_over: 200_000,
}

/// The headers of a frame are found where a plain reading of RFC 791 finds them, or not at all: up to two tags, header lengths, total
/// lengths, flags and protocols at edges, frames cut at edges.
fn ipv4_headers_are_found_where_their_lengths_say(choices: &mut Choices) {
    let tags = choices.number(0..=2_u16);
    let mut frame = vec![0; 12];
    (0..tags).for_each(|_| frame.extend([0x81, 0, 0, 7]));
    frame.extend([8, 0]);
    let network = 14 + 4 * tags;
    let (first, total) = (choices.of(&[0x44, 0x45, 0x46, 0x4f, 0x65]), choices.of(&[0, 19, 20, 24, 60, 61, u16::MAX]));
    let fragment = choices.of(&[0, 1, 0x2000, 0x4000, 0x8000_u16]);
    let protocol = choices.of(&[TCP, UDP, 1]);
    let header = u16::from(first & 15) * 4;
    frame.push(first);
    frame.push(0);
    frame.extend(total.to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(fragment.to_be_bytes());
    frame.extend([64, protocol]);
    frame.resize(usize::from(network + header.max(12)) + 12, 0);
    let offset = choices.of(&[0x40, 0x50, 0xf0]);
    frame.extend([offset; 30]);
    let cut = choices.of(&[0_u16, 9, 19, 20, 24, 60, 12, 13, 43, 200]);
    frame.truncate(usize::from(network + cut));
    let at_hand = u16::try_from(frame.len()).unwrap() - network;

    let is_whole = at_hand >= 10 && first >> 4 == 4 && header >= 20 && (total == 0 || total >= header);
    let is_readable = is_whole && fragment & 0x3fff == 0 && header <= at_hand;
    let behind = match protocol {
        TCP => (at_hand > header + 12 && offset >= 0x50).then(|| u16::from(offset >> 4) * 4),
        UDP => Some(8),
        _ => Some(0),
    };
    let expected = behind.filter(|_| is_readable).map(|behind| Layers {
        version: IpVersion::V4,
        protocol,
        network,
        transport: network + header,
        header_bytes: network + header + behind,
        packet_end: (total != 0).then(|| u32::from(network) + u32::from(total)),
    });
    assert_eq!(Layers::parse(&frame), expected);
}

/// Up to three extension headers of all kinds and lengths are passed over one by one until a header that is none, within the bytes at hand.
fn ipv6_extensions_end_and_are_passed_over(choices: &mut Choices) {
    let kinds = [HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS, UDP];
    let mut frame = [&[0; 12][..], &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 0], &[choices.of(&kinds), 64], &[0; 32]].concat();
    let segments_left = choices.of(&[0, 1]);
    for _ in 0..3 {
        let units = choices.of(&[0, 1, 255]);
        frame.extend([choices.of(&kinds), units, 4, segments_left]);
        frame.extend(vec![0; if units == 1 { 12 } else { 4 }]);
    }
    frame.truncate(54 + choices.of(&[0, 3, 4, 8, 24, 100]));

    // Step by step, as RFC 8200 has it.
    let (mut protocol, mut at) = (frame[20], 54);
    let found = loop {
        match protocol {
            HOP_BY_HOP | DESTINATION_OPTIONS | ROUTING => {
                if frame.len() < at + 4 {
                    break None;
                }
                if protocol == ROUTING && frame[at + 3] > 0 {
                    break Some(0);
                }
                protocol = frame[at];
                at += 8 * (1 + usize::from(frame[at + 1]));
            }
            FRAGMENT => break None,
            UDP => break Some(8),
            _ => break Some(0),
        }
    };
    let found = found.filter(|_| at <= frame.len());
    let layers = Layers::parse(&frame);
    let read = layers.map(|it| (it.protocol, usize::from(it.transport), usize::from(it.header_bytes)));
    assert_eq!(read, found.map(|behind| (protocol, at, at + behind)));
}
