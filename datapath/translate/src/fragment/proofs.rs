//! All series of a few fragments of a small packet.

use culvert_frame::MacAddress;
use culvert_proofs::{Choices, proofs};

use super::*;

proofs! {
    three_fragments_make_their_packet_or_none: 4_600,
}

/// Three fragments make a packet if, and only if, none overlaps another in part or contradicts it, none lies behind the end, and they leave
/// no gap; its bytes are theirs: of a packet of up to 24 bytes all parts of 8, 16 and 24, last ones or not, and one that differs in a byte.
fn three_fragments_make_their_packet_or_none(choices: &mut Choices) {
    let now = Instant::now();
    let mut reassembler = Reassembler::default();
    // By 8 bytes: what they are filled with.
    let (mut blocks, mut end, mut is_bad) = ([None::<u8>; 3], None::<usize>, false);
    let mut is_whole = false;
    for _ in 0..3 {
        if is_whole {
            // What comes behind it begins another packet.
            return;
        }
        let first = choices.number(0..=2_usize);
        let behind = choices.number(first + 1..=3_usize);
        let (more, fill) = choices.of(&[(true, 7), (false, 7), (true, 8)]);
        let bytes = vec![fill; 8 * (behind - first)];
        let fragment = Fragment { identification: 9, offset: u16::try_from(8 * first).unwrap(), more };
        let ip = IpPacket {
            source_mac: MacAddress([2; 6]),
            destination_mac: MacAddress([4; 6]),
            source: IpAddr::from([192, 0, 2, 2]),
            destination: IpAddr::from([192, 0, 2, 9]),
            protocol: 17,
            hop_limit: 64,
            traffic_class: 0,
            fragment: Some(fragment),
            header: &[0x45; 20],
            payload: Payload::of_bytes(&bytes),
        };
        let highest = blocks.iter().rposition(Option::is_some).map_or(0, |block| block + 1);
        let is_repeated = blocks[first..behind].iter().all(|block| *block == Some(fill));
        let is_new = blocks[first..behind].iter().all(Option::is_none);
        let fits = match end {
            Some(end) => {
                if more {
                    behind < end
                } else {
                    behind == end
                }
            }
            None => more || behind >= highest,
        };
        is_bad |= !fits || !(is_repeated || is_new);
        if !is_bad && is_new {
            blocks[first..behind].fill(Some(fill));
            end = end.or((!more).then_some(behind));
        }
        is_whole = !is_bad && end.is_some_and(|end| blocks[..end].iter().all(Option::is_some));
        let result = reassembler.add(now, &ip);
        assert_eq!(result.is_err(), is_bad);
        let whole = result.ok().flatten();
        assert_eq!(whole.is_some(), is_whole);
        assert_eq!(reassembler.len(), usize::from(!is_whole));
        if let Some(whole) = whole {
            let packet = whole.packet();
            let expected: Vec<u8> = blocks.iter().flatten().flat_map(|fill| [*fill; 8]).collect();
            let mut found = vec![0; expected.len() + 1];
            assert_eq!(packet.payload.copy_to(&mut found), expected.len());
            assert_eq!((found[..expected.len()].to_vec(), packet.fragment), (expected, None));
            assert_eq!(reassembler.bytes, 0);
        }
    }
}
