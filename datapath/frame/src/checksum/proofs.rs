//! Sums for all bytes and places within bounds.

use culvert_proofs::{Choices, proofs};

use super::*;

proofs! {
    fold_keeps_the_remainder: 20_000,
    sum_in_pieces_is_that_of_words: 78_000,
    completion_makes_the_sum_right_and_changes_nothing_else: 110_000,
}

/// Word by word, as RFC 1071 describes it, by division in place of carries.
fn plain(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u64::from(pair[0]) * 256 + u64::from(*pair.get(1).unwrap_or(&0)));
    let sum: u64 = words.sum();
    u16::try_from(if sum == 0 { 0 } else { (sum - 1) % 0xffff + 1 }).unwrap()
}

/// Folding leaves the remainder by 0xffff, and 0 of nothing but 0: numbers of four words at edges.
fn fold_keeps_the_remainder(choices: &mut Choices) {
    let words =
        [(); 4].map(|()| choices.of(&[0, 1, 2, 0xff, 0x100, 0x7fff, 0x8000, 0x8001, 0xff00, 0xfffd, 0xfffe, 0xffff]));
    let number = words.iter().fold(0_u64, |number, word| number << 16 | word);
    let folded = fold(number);
    assert_eq!(u64::from(folded) % 0xffff, number % 0xffff);
    assert_eq!(folded == 0, number == 0);
}

/// However bytes are cut into three pieces, their sum is that of their words: up to 5 bytes at edges, behind 0, 31 or 63 others.
fn sum_in_pieces_is_that_of_words(choices: &mut Choices) {
    let before = choices.of(&[0_usize, 31, 63]);
    let mut bytes = vec![0xa5; before];
    bytes.extend(choices.list(5, |choices| choices.of(&[0, 1, 0x80, 0xff])));
    let more = bytes.len() - before;
    let first = before + choices.number(0..=more);
    let second = choices.number(first..=bytes.len());
    let mut sum = Sum::default();
    for piece in [&bytes[..first], &bytes[first..second], &bytes[second..]] {
        sum.add(piece);
    }
    assert_eq!(sum.partial(), plain(&bytes));
    assert_eq!(sum.checksum(), !plain(&bytes));
}

/// What is completed sums up to 0xffff (or 0, where all was 0 before) from its start to its end and differs in its field alone; what lies
/// beyond the frame is left: frames of up to 7 bytes that are no IP, all places within them and behind.
fn completion_makes_the_sum_right_and_changes_nothing_else(choices: &mut Choices) {
    let before = choices.list(7, |choices| choices.of(&[0, 0xff, 0x12]));
    let length = u16::try_from(before.len()).unwrap();
    let partial = PartialChecksum { start: choices.number(0..=length + 1), offset: choices.of(&[0, 2, 4, 6]) };
    let mut after = before.clone();
    complete(&mut after, partial);
    let (start, field) = (usize::from(partial.start), partial.field());
    for (at, (before, after)) in before.iter().zip(&after).enumerate() {
        assert!(before == after || (field..field + 2).contains(&at), "byte {at}");
    }
    if start > before.len() || field + 2 > before.len() {
        assert_eq!(before, after);
        return;
    }
    // The field held a part of the sum, which now is on its other side.
    let sum = plain(&before[start..]);
    let stored = u16::from_be_bytes([after[field], after[field + 1]]);
    assert_ne!(stored, 0);
    assert_eq!(plain(&[stored.to_be_bytes(), sum.to_be_bytes()].concat()), 0xffff);
}
