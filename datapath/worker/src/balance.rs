//! Which inputs should go to which worker, so that no worker has much more to do than the others. Pure: loads in, moves out.
//!
//! Theory of operation. From where everything is now, step by step: the worker that has most to do gives one of its inputs to
//! the one that has least, the one that makes the two most alike; where no single input does, it exchanges one of its own for a
//! smaller one of another worker; where that does not help either, the next one in the order of loads tries. Two workers that differ by
//! less than a twentieth of what a worker has on average are alike, and inputs that have next to nothing to do stay where they are.
//! Each step leaves both workers with less than the first of them had, so no worker ever gets more to do than the one that had most
//! before; and where no step is left, a second look with the same loads finds none either. Open vSwitch, which distributes all anew (its
//! "group" assignment), moves more.
//!
//! Not here: how loads are measured (`load`), and how inputs move (`datapath/rebalance.rs`).

use std::cmp::Reverse;

/// An input as the decision sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The worker that polls it.
    pub worker: usize,
    /// What it takes of that worker: busy nanoseconds a second, or any other measure that is the same for all.
    pub load: u32,
}

/// One input that should go to another worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// Its place in the list that was asked about.
    pub input: usize,
    /// The worker that polls it.
    pub from: usize,
    /// The worker that should.
    pub to: usize,
}

/// What should be done, and what that is worth.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// Each input once at most. Empty when it is worth less than asked for.
    pub moves: Vec<Move>,
    /// By how many percent the variance of the workers' loads could become smaller, as Open vSwitch's `pmd-auto-lb` reckons. 0 when nothing
    /// could be done.
    pub improvement: u8,
    /// The load of each worker as it is, and as it would be after what could be done.
    pub loads: Vec<(u64, u64)>,
}

/// What should move between so many workers, if that makes the variance of their loads smaller by `least_improvement` percent. An input
/// of a worker that is not there is left alone.
pub fn balance(workers: usize, inputs: &[Share], least_improvement: u8) -> Balance {
    let mut places = Places::new(workers, inputs);
    let (before, loads) = (places.unevenness(), places.loads.clone());
    while places.step() {}
    let gain = before.saturating_sub(places.unevenness()).saturating_mul(100).checked_div(before).unwrap_or(0);
    let improvement = u8::try_from(gain).unwrap_or(100);
    let moves = inputs.iter().zip(&places.workers).enumerate().filter(|(_, (share, to))| share.worker != **to);
    let moves = moves.map(|(input, (share, to))| Move { input, from: share.worker, to: *to });
    let moves = if improvement >= least_improvement { moves.collect() } else { Vec::new() };
    Balance { moves, improvement, loads: loads.into_iter().zip(places.loads).collect() }
}

/// What is less than one part in so many does not count: what two workers differ by, of the mean load; an input's load, of the mean of all
/// inputs.
const PARTS: u64 = 20;

/// Who has what.
struct Places {
    /// By input: its load, and its worker.
    inputs: Vec<u32>,
    workers: Vec<usize>,
    /// By worker: the sum of its inputs' loads, and those inputs that may move, the smallest first.
    loads: Vec<u64>,
    owned: Vec<Vec<usize>>,
}

impl Places {
    fn new(workers: usize, shares: &[Share]) -> Self {
        let (mut loads, mut owned) = (vec![0_u64; workers], vec![Vec::new(); workers]);
        let total = shares.iter().map(|share| u64::from(share.load)).fold(0, u64::saturating_add);
        let is_idle = |load: u64| load.saturating_mul(PARTS).saturating_mul(shares.len() as u64) < total.max(1);
        let mut order: Vec<_> = shares.iter().enumerate().collect();
        order.sort_by_key(|(_, share)| share.load);
        for (input, share) in order {
            if let (Some(load), Some(owned)) = (loads.get_mut(share.worker), owned.get_mut(share.worker)) {
                *load = load.saturating_add(share.load.into());
                if !is_idle(share.load.into()) {
                    owned.push(input);
                }
            }
        }
        let inputs = shares.iter().map(|share| share.load).collect();
        Self { inputs, workers: shares.iter().map(|share| share.worker).collect(), loads, owned }
    }

    /// The variance of the workers' loads, times the square of their number: a whole number.
    fn unevenness(&self) -> u128 {
        let number = self.loads.len() as u128;
        let (mut sum, mut squares) = (0_u128, 0_u128);
        for &load in &self.loads {
            sum = sum.saturating_add(load.into());
            squares = squares.saturating_add(u128::from(load).saturating_mul(load.into()));
        }
        squares.saturating_mul(number).saturating_sub(sum.saturating_mul(sum))
    }

    fn load_of(&self, worker: usize) -> u64 {
        self.loads.get(worker).copied().unwrap_or(0)
    }

    fn owned_by(&self, worker: usize) -> &[usize] {
        self.owned.get(worker).map_or(&[], Vec::as_slice)
    }

    fn input(&self, input: usize) -> u64 {
        self.inputs.get(input).copied().unwrap_or(0).into()
    }

    /// One step; `false` when none is worth it.
    fn step(&mut self) -> bool {
        let mut order: Vec<usize> = (0..self.loads.len()).collect();
        order.sort_by_key(|&worker| (Reverse(self.load_of(worker)), worker));
        let Some((&lightest, others)) = order.split_last() else { return false };
        let (number, total) =
            (self.loads.len() as u64, self.loads.iter().fold(0, |sum: u64, &load| sum.saturating_add(load)));
        // Of two workers that differ by so much, when so much goes from one to the other: they must not just change their places.
        let is_worth_it = |difference: u64, amount: u64| {
            let left = difference.saturating_sub(amount).saturating_mul(PARTS);
            amount > 0 && difference.saturating_mul(PARTS) >= total / number && left >= difference.max(1)
        };
        for (place, &heavy) in others.iter().enumerate() {
            let difference = |light| self.load_of(heavy).saturating_sub(self.load_of(light));
            if let Some((input, amount)) = self.best_single(heavy, difference(lightest))
                && is_worth_it(difference(lightest), amount)
            {
                self.give(input, lightest);
                return true;
            }
            for &light in order.iter().skip(place.saturating_add(1)).rev() {
                if let Some((input, other, amount)) = self.best_exchange(heavy, light, difference(light))
                    && is_worth_it(difference(light), amount)
                    && amount.saturating_mul(PARTS) >= difference(light)
                {
                    self.give(input, light);
                    self.give(other, heavy);
                    return true;
                }
            }
        }
        false
    }

    /// The input of a worker whose load is nearest to half of what the worker has more than another one, and its load.
    fn best_single(&self, heavy: usize, difference: u64) -> Option<(usize, u64)> {
        let inputs = self.owned_by(heavy).iter().map(|&input| (input, self.input(input)));
        inputs.min_by_key(|&(_, load)| load.saturating_mul(2).abs_diff(difference))
    }

    /// The inputs of two workers whose loads differ by what is nearest to half of what the first worker has more, and by how much
    /// they differ.
    fn best_exchange(&self, heavy: usize, light: usize, difference: u64) -> Option<(usize, usize, u64)> {
        let smaller = self.owned_by(light);
        let pairs = self.owned_by(heavy).iter().flat_map(|&input| {
            let load = self.input(input);
            let wanted = load.saturating_sub(difference / 2);
            let at = smaller.partition_point(|&other| self.input(other) < wanted);
            let near = smaller.get(at.saturating_sub(1)..).unwrap_or_default().iter().take(2);
            near.map(move |&other| (input, other, load.saturating_sub(self.input(other))))
        });
        pairs.min_by_key(|&(_, _, amount)| amount.saturating_mul(2).abs_diff(difference))
    }

    fn give(&mut self, input: usize, to: usize) {
        let Some(worker) = self.workers.get_mut(input) else { return };
        let (from, load) = (std::mem::replace(worker, to), self.input(input));
        if let (Some(less), Some(owned)) = (self.loads.get_mut(from), self.owned.get_mut(from)) {
            *less = less.saturating_sub(load);
            owned.retain(|&other| other != input);
        }
        if let (Some(more), Some(owned)) = (self.loads.get_mut(to), self.owned.get_mut(to)) {
            *more = more.saturating_add(load);
            let inputs = &self.inputs;
            let at = owned.partition_point(|&other| inputs.get(other).is_some_and(|&other| u64::from(other) < load));
            owned.insert(at, input);
        }
    }
}

#[cfg(test)]
mod proofs;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn share(worker: usize, load: u32) -> Share {
        Share { worker, load }
    }

    fn move_of(input: usize, from: usize, to: usize) -> Move {
        Move { input, from, to }
    }

    #[test]
    fn of_two_busy_inputs_one_goes_to_the_idle_worker() {
        let inputs = [share(0, 500), share(1, 0), share(0, 400), share(1, 0)];
        let balance = balance(2, &inputs, 25);
        assert_eq!(balance.moves, [move_of(2, 0, 1)]);
        assert_eq!(balance.loads, [(900, 500), (0, 400)]);
        assert_eq!(balance.improvement, 98);
    }

    #[test]
    fn what_cannot_be_shared_stays() {
        assert_eq!(balance(2, &[share(0, 900), share(0, 0)], 0).moves, []);
        assert_eq!(balance(1, &[share(0, 900), share(0, 900)], 0).moves, []);
        assert_eq!(balance(0, &[share(0, 900)], 0).moves, []);
        assert_eq!(balance(3, &[], 0).moves, []);
        // The first worker's only input is the largest: the others share what is left.
        let inputs = [share(0, 900), share(1, 400), share(1, 400)];
        assert_eq!(balance(3, &inputs, 0).moves, [move_of(1, 1, 2)]);
    }

    #[test]
    fn many_small_inputs_are_shared_as_well_as_few_large_ones() {
        for number in [2, 16, 1000] {
            let inputs = vec![share(2, 7); number];
            let told = balance(4, &inputs, 25);
            let loads: Vec<_> = told.loads.iter().map(|(_, after)| *after).collect();
            let mean = 7 * (number as u64).div_ceil(4);
            assert!(loads.iter().all(|&load| load <= mean + mean / 20), "{loads:?}");
        }
    }

    #[test]
    fn where_no_single_input_fits_two_are_exchanged() {
        let inputs = [share(0, 60), share(0, 60), share(1, 40), share(1, 40)];
        let balance = balance(2, &inputs, 25);
        assert_eq!(balance.improvement, 100);
        assert_eq!(balance.moves.len(), 2);
    }

    #[test]
    fn what_is_worth_too_little_is_not_done() {
        // A variance of 100 becomes one of 49.
        let inputs = [share(0, 97), share(0, 3), share(1, 80)];
        let told = balance(2, &inputs, 52);
        assert_eq!((told.moves.len(), told.improvement), (0, 51));
        assert_eq!(balance(2, &inputs, 51).moves, [move_of(1, 0, 1)]);
        // Workers that are alike, and inputs without work.
        assert_eq!(balance(2, &[share(0, 100), share(0, 4), share(1, 100)], 0).moves, []);
        assert_eq!(balance(2, &[share(0, 100), share(0, 1), share(1, 1), share(1, 80)], 0).moves, []);
    }

    fn shares() -> impl Strategy<Value = (usize, Vec<Share>)> {
        (1_usize..9).prop_flat_map(|workers| {
            let load = prop_oneof![Just(0), 0_u32..10, 0_u32..1_000_000_000, any::<u32>()];
            let share = (0..workers, load).prop_map(|(worker, load)| Share { worker, load });
            (Just(workers), prop::collection::vec(share, 0..40))
        })
    }

    proptest! {
        #[test]
        fn no_worker_gets_more_than_the_busiest_had((workers, inputs) in shares(), least in 0_u8..=100) {
            let told = balance(workers, &inputs, least);
            let mut after = inputs.clone();
            for Move { input, from, to } in told.moves.iter().copied() {
                prop_assert_ne!(from, to);
                prop_assert_eq!(after[input].worker, from);
                prop_assert!(to < workers && after[input].load > 0);
                after[input].worker = to;
            }
            let loads = |inputs: &[Share]| -> Vec<u64> {
                let of = |worker| inputs.iter().filter(move |share| share.worker == worker);
                (0..workers).map(|worker| of(worker).map(|share| u64::from(share.load)).sum()).collect()
            };
            let (is, was) = (loads(&after), loads(&inputs));
            prop_assert!(is.iter().max() <= was.iter().max());
            prop_assert!(told.loads.iter().map(|(before, _)| before).eq(&was));
            if told.moves.is_empty() {
                prop_assert_eq!(is, was);
            } else {
                prop_assert!(told.improvement >= least);
                prop_assert!(told.loads.iter().map(|(_, after)| after).eq(&is));
                // In floating point, for the sake of another way to reckon.
                let variance = |loads: &[u64]| {
                    let mean = loads.iter().map(|&load| load as f64).sum::<f64>() / workers as f64;
                    loads.iter().map(|&load| (load as f64 - mean).powi(2)).sum::<f64>()
                };
                let improvement = 100.0 * (1.0 - variance(&is) / variance(&was));
                prop_assert!((improvement - f64::from(told.improvement)).abs() < 1.1, "{}", improvement);
            }
            // A second time nothing moves.
            if !told.moves.is_empty() {
                prop_assert_eq!(balance(workers, &after, 0).moves, []);
            }
        }

        /// No worker has more than twice its part, unless that is one input.
        #[test]
        fn what_can_be_shared_is((workers, inputs) in shares()) {
            let told = balance(workers, &inputs, 0);
            let total: u64 = inputs.iter().map(|share| u64::from(share.load)).sum();
            let largest = inputs.iter().map(|share| u64::from(share.load)).max().unwrap_or(0);
            let most = told.loads.iter().map(|(_, after)| *after).max().unwrap_or(0);
            prop_assert!(most <= 2 * (total / workers as u64 + 1).max(largest), "{} of {}", most, total);
        }
    }
}
