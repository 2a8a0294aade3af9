//! All loads of a few inputs on a few workers, against the best that there is.

use culvert_proofs::{Choices, proofs};

use super::*;

proofs! {
    what_moves_makes_the_busiest_worker_less_busy_and_stays: 27_000,
    what_is_reached_is_near_the_best_that_there_is: 2_700,
}

fn loads(workers: usize, shares: &[Share]) -> Vec<u64> {
    let of = |worker| shares.iter().filter(move |share| share.worker == worker).map(|share| u64::from(share.load));
    (0..workers).map(|worker| of(worker).sum()).collect()
}

/// What is to move is each input once, from where it is to another worker; then no worker has more than the busiest had, the variance has
/// become smaller by as much as is told, and nothing is to move any more: up to 4 inputs of four loads on up to 3 workers, in all places.
fn what_moves_makes_the_busiest_worker_less_busy_and_stays(choices: &mut Choices) {
    let workers = choices.number(1..=3_usize);
    let shares =
        choices.list(4, |choices| Share { worker: choices.below(workers), load: choices.of(&[0, 10, 13, 100]) });
    let told = balance(workers, &shares, 1);
    let mut after = shares.clone();
    for &Move { input, from, to } in &told.moves {
        assert!(from != to && to < workers && after[input].worker == from);
        after[input].worker = to;
    }
    let moved = (0..shares.len()).filter(|&input| after[input] != shares[input]).count();
    assert_eq!(moved, told.moves.len());
    let (was, is) = (loads(workers, &shares), loads(workers, &after));
    assert_eq!(told.loads.iter().map(|(before, _)| *before).collect::<Vec<_>>(), was);
    // Times the square of their number.
    let variance = |loads: &[u64]| {
        let (number, sum) = (loads.len() as u64, loads.iter().sum::<u64>());
        number * loads.iter().map(|load| load * load).sum::<u64>() - sum * sum
    };
    if told.moves.is_empty() {
        assert_eq!(is, was);
        return;
    }
    assert_eq!(told.loads.iter().map(|(_, after)| *after).collect::<Vec<_>>(), is);
    assert!(is.iter().max() <= was.iter().max() && variance(&is) < variance(&was));
    assert_eq!(u64::from(told.improvement), 100 * (variance(&was) - variance(&is)) / variance(&was));
    assert_eq!(balance(workers, &after, 0).moves, []);
}

/// The busiest worker has at most four thirds of what it would have if all ways to share had been tried, and what two workers may differ
/// by: up to 5 inputs of four loads, all of them at one of 2 or 3 workers.
fn what_is_reached_is_near_the_best_that_there_is(choices: &mut Choices) {
    let workers = choices.number(2..=3_usize);
    let shares = choices.list(5, |choices| Share { worker: 0, load: choices.of(&[10, 15, 40, 90]) });
    let told = balance(workers, &shares, 0);
    let most = told.loads.iter().map(|(_, after)| *after).max().unwrap();
    let ways = workers.pow(u32::try_from(shares.len()).unwrap());
    let best = (0..ways).map(|way| {
        let mut sums = vec![0; workers];
        let mut rest = way;
        for share in &shares {
            sums[rest % workers] += u64::from(share.load);
            rest /= workers;
        }
        sums.into_iter().max().unwrap_or(0)
    });
    let best = best.min().unwrap();
    assert!(3 * most <= 4 * best + 3 * best / 20, "{most} where {best} can be");
}
