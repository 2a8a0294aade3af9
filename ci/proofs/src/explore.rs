//! All sequences of choices, one after the other.

use crate::choices::Choices;

/// Runs a harness for every sequence of choices, and prints how many there are: `least` or more.
///
/// # Panics
/// Where the harness does, after the choices were printed that it did so with; where there are fewer cases than `least`.
pub fn explore(name: &str, least: usize, harness: impl Fn(&mut Choices)) {
    let mut case = Case { name, number: 1, choices: Choices::default() };
    loop {
        case.choices.next = 0;
        harness(&mut case.choices);
        if !case.advance() {
            break;
        }
    }
    println!("{name}: {} cases", case.number);
    assert!(case.number >= least, "{name} has {} cases, and should have {least} at least", case.number);
}

/// The one that is tried.
struct Case<'n> {
    name: &'n str,
    number: usize,
    choices: Choices,
}

impl Case<'_> {
    /// Goes on to the next sequence, as an odometer does: the last point at which something is left takes its next. `false`: none is left.
    fn advance(&mut self) -> bool {
        let points = &mut self.choices.points;
        assert!(self.choices.next == points.len(), "the harness depends on something else than its choices");
        while points.pop_if(|(taken, of)| taken.saturating_add(1) == *of).is_some() {}
        let Some((taken, _)) = points.last_mut() else { return false };
        *taken = taken.saturating_add(1);
        self.number = self.number.saturating_add(1);
        true
    }
}

impl Drop for Case<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let taken: Vec<_> = self.choices.points.iter().map(|(taken, _)| taken).collect();
            eprintln!("{}: case {} with the choices {taken:?}", self.name, self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    #[test]
    fn every_sequence_comes_once_and_in_order() {
        let seen = RefCell::new(Vec::new());
        explore("sequences", 5, |choices| {
            let first = choices.number(3..=5_u16);
            // What is chosen may depend on what was chosen before.
            let rest = if first == 4 { choices.list(1, |choices| choices.of(&['a', 'b'])) } else { Vec::new() };
            seen.borrow_mut().push((first, rest));
        });
        let expected = [(3, vec![]), (4, vec![]), (4, vec!['a']), (4, vec!['b']), (5, vec![])];
        assert_eq!(seen.into_inner(), expected);
    }

    #[test]
    fn a_harness_without_choices_is_one_case() {
        let runs = Cell::new(0);
        explore("nothing", 1, |_| runs.set(runs.get() + 1));
        assert_eq!(runs.get(), 1);
    }

    #[test]
    fn all_of_a_range_are_chosen() {
        let sum = Cell::new(0);
        explore("numbers", 1000, |choices| {
            let numbers = [(); 3].map(|()| choices.number(u64::MAX - 9..=u64::MAX));
            sum.set(sum.get() + numbers.iter().map(|number| u64::MAX - number).sum::<u64>());
        });
        assert_eq!(sum.get(), 3 * 100 * 45);
    }

    #[test]
    #[should_panic(expected = "has 2 cases, and should have 3 at least")]
    fn too_few_cases_are_a_failure() {
        explore("flags", 3, |choices| _ = choices.flag());
    }

    #[test]
    #[should_panic(expected = "the last one")]
    fn the_last_case_counts_as_well() {
        explore("flags", 4, |choices| assert!(!(choices.flag() & choices.flag()), "the last one"));
    }

    #[test]
    #[should_panic(expected = "something else than its choices")]
    fn a_harness_that_changes_its_mind_is_refused() {
        let calls = Cell::new(1);
        explore("moody", 1, |choices| {
            calls.set(calls.get() + 1);
            choices.below(calls.get());
            choices.flag();
        });
    }
}
