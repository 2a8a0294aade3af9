//! Numbers at all edges of their circle.

use culvert_proofs::{Choices, proofs};

use super::*;

proofs! {
    order_is_that_of_the_shorter_way_around: 280,
    order_from_an_origin_is_that_of_distances: 1_700,
}

const EDGES: [u32; 12] = [
    0,
    1,
    2,
    1460,
    0x7fff_fffe,
    0x7fff_ffff,
    0x8000_0000,
    0x8000_0001,
    0xffff_0000,
    0xffff_fffd,
    0xffff_fffe,
    0xffff_ffff,
];

/// Of two numbers one is after the other by the shorter way around; of two that are just opposite each is after the other; distances, the
/// later and the earlier one agree with that: twelve starts, distances at edges.
fn order_is_that_of_the_shorter_way_around(choices: &mut Choices) {
    let (start, distance) = (choices.of(&EDGES), choices.of(&EDGES));
    let by_subtraction = choices.flag();
    let one = Seq(start);
    let other = if by_subtraction { one - distance } else { one + distance };
    // As a number that does not go around.
    let ahead = if by_subtraction { -i64::from(distance) } else { i64::from(distance) };
    assert_eq!(i64::from(other.0), (i64::from(start) + ahead).rem_euclid(1 << 32));
    let way = ahead.rem_euclid(1 << 32);
    let (is_after, is_before) = ((1..=1 << 31).contains(&way), way >= 1 << 31);
    assert_eq!((other.is_after(one), one.is_before(other)), (is_after, is_after));
    assert_eq!((one.is_after(other), other.is_before(one)), (is_before, is_before));
    assert_eq!(i64::from(other - one), way);
    assert_eq!(i64::from(other.since(one)), if is_after { way } else { 0 });
    if is_after != is_before {
        let (later, earlier) = if is_after { (other, one) } else { (one, other) };
        assert_eq!((one.max(other), other.max(one)), (later, later));
        assert_eq!((one.min(other), other.min(one)), (earlier, earlier));
    }
}

/// Behind an origin numbers have the order of their distances from it, however far they are: all triples of edges.
fn order_from_an_origin_is_that_of_distances(choices: &mut Choices) {
    let (origin, one, other) = (choices.of(&EDGES), choices.of(&EDGES), choices.of(&EDGES));
    let distance = |number: u32| (i64::from(number) - i64::from(origin)).rem_euclid(1 << 32);
    let expected = distance(one).cmp(&distance(other));
    assert_eq!(Seq(one).cmp_from(Seq(origin), Seq(other)), expected);
}
