//! All short histories of three flows.

use std::time::Duration;

use culvert_proofs::{Choices, proofs};

use super::*;

proofs! {
    the_oldest_is_the_one_that_was_used_longest_ago: 46_000,
}

/// The list is a plain one from which each use takes the index out and puts it at the end, with its links in both directions: three
/// indices, all series of six uses and removals.
fn the_oldest_is_the_one_that_was_used_longest_ago(choices: &mut Choices) {
    let start = Instant::now();
    let (mut recency, mut model) = (Recency::default(), Vec::new());
    for second in 0..6 {
        let now = start + Duration::from_secs(second);
        let index = choices.number(0..=2_u32);
        model.retain(|(other, _)| *other != index);
        if choices.flag() {
            recency.touch(index, now);
            model.push((index, now));
        } else {
            recency.remove(index);
        }
        assert_eq!(recency.oldest(), model.first().copied());
        assert_eq!(recency.newest, model.last().map(|(index, _)| *index));
        let link = |index: Option<u32>| index.and_then(|index| recency.links[index as usize].as_ref());
        let forwards: Vec<_> =
            std::iter::successors(recency.oldest, |index| link(Some(*index))?.newer).take(9).collect();
        let backwards: Vec<_> =
            std::iter::successors(recency.newest, |index| link(Some(*index))?.older).take(9).collect();
        assert!(model.iter().map(|(index, _)| index).eq(&forwards));
        assert!(model.iter().rev().map(|(index, _)| index).eq(&backwards));
    }
}
