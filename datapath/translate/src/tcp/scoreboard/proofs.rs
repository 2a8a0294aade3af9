//! Ranges within some bytes, against a bit for each.

use culvert_proofs::{Choices, proofs};

use super::*;

proofs! {
    what_is_sacked_is_known_byte_by_byte: 260_000,
    a_full_scoreboard_forgets_nothing_but_the_last: 1_000,
}

/// Bytes that a scoreboard knows of, behind `una`.
fn known(scoreboard: &Scoreboard, una: Seq) -> Vec<u32> {
    let ranges: Vec<_> = scoreboard.iter().map(|(first, end)| (first - una, end - una)).collect();
    assert!(ranges.iter().all(|(first, end)| first < end), "none is empty");
    assert!(ranges.windows(2).all(|pair| pair[0].1 < pair[1].0), "in order and apart");
    ranges.into_iter().flat_map(|(first, end)| first..end).collect()
}

/// After three ranges and an acknowledgement exactly those bytes are known that were told and not acknowledged, and holes, what follows
/// them, numbers of bytes and of new ones are theirs: all ranges of 7 bytes, which lie together or apart, wherever numbers go around.
fn what_is_sacked_is_known_byte_by_byte(choices: &mut Choices) {
    const BYTES: u32 = 7;
    let una = Seq(choices.of(&[0, u32::MAX - 3, 0x7fff_fffd]));
    let mut scoreboard = Scoreboard::default();
    let mut bits = [false; BYTES as usize];
    for _ in 0..3 {
        let first = choices.number(0..=BYTES - 1);
        let end = choices.number(first + 1..=BYTES);
        let mut new = 0;
        for bit in &mut bits[first as usize..end as usize] {
            new += u32::from(!std::mem::replace(bit, true));
        }
        assert_eq!(scoreboard.add(una, una + first, una + end), new);
    }
    let acknowledged = choices.of(&[0, 1, 4, BYTES]);
    scoreboard.acknowledge(una + acknowledged);
    bits[..acknowledged as usize].fill(false);
    let is_there = |at: u32| bits.get(at as usize).is_some_and(|bit| *bit);
    let all: Vec<_> = (0..BYTES).filter(|&at| is_there(at)).collect();
    assert_eq!(known(&scoreboard, una), all);
    assert_eq!((scoreboard.bytes() as usize, scoreboard.is_empty()), (all.len(), all.is_empty()));
    for from in acknowledged..=BYTES {
        let behind = (from..=BYTES).find(|&at| !is_there(at)).unwrap();
        assert_eq!(scoreboard.skip(una + from), una + behind);
        let hole = (behind..BYTES).find(|&at| is_there(at)).map(|end| (una + behind, una + end));
        assert_eq!(scoreboard.hole(una + from), hole);
    }
}

/// Where there are as many ranges as can be, one more costs the last of them and nothing else: sixteen ranges of a byte at even places, one
/// more of up to 5 bytes anywhere, wherever numbers go around.
fn a_full_scoreboard_forgets_nothing_but_the_last(choices: &mut Choices) {
    let una = Seq(choices.of(&[0, u32::MAX, u32::MAX - 15, u32::MAX - 31, 0x7fff_fff0]));
    let mut scoreboard = Scoreboard::default();
    let mut bits = [false; 48];
    for at in (0..16).map(|number| 2 * number + 2) {
        scoreboard.add(una, una + at, una + at + 1);
        bits[at as usize] = true;
    }
    assert_eq!(scoreboard.count, RANGES);
    let first = choices.number(0..=40_u32);
    let end = first + choices.number(1..=5_u32);
    scoreboard.add(una, una + first, una + end);
    bits[first as usize..end as usize].fill(true);
    let all: Vec<u32> = (0..48).filter(|&at| bits[at as usize]).collect();
    let known = known(&scoreboard, una);
    if known != all {
        // What is missing is the last range of seventeen.
        let missing = &all[known.len()..];
        assert_eq!(all[..known.len()], known);
        assert!(missing.windows(2).all(|pair| pair[1] == pair[0] + 1) && known.last().unwrap() + 1 < missing[0]);
        assert_eq!(scoreboard.count, RANGES);
    }
}
