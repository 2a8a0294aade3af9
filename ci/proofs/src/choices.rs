//! What a harness chooses.

use std::ops::RangeInclusive;

/// One sequence of choices; with Kani, any.
#[derive(Debug, Default)]
pub struct Choices {
    /// What is taken at each point, and of how many.
    #[cfg(not(kani))]
    pub(crate) points: Vec<(usize, usize)>,
    /// The next point.
    #[cfg(not(kani))]
    pub(crate) next: usize,
}

/// A number that can be chosen.
pub trait Number: Copy {
    /// The same as the widest.
    fn widened(self) -> u64;

    /// The number of this kind that is `number`, which is one.
    fn narrowed(number: u64) -> Self;
}

impl Choices {
    /// Any of the numbers below `count`, which is not 0.
    #[cfg(not(kani))]
    pub fn below(&mut self, count: usize) -> usize {
        assert!(count > 0, "there is nothing to choose");
        if self.next == self.points.len() {
            self.points.push((0, count));
        }
        let (taken, of) = self.points.get(self.next).copied().unwrap_or_default();
        assert!(of == count, "the harness depends on something else than its choices");
        self.next = self.next.saturating_add(1);
        taken
    }

    /// Any of the numbers below `count`, which is not 0.
    #[cfg(kani)]
    pub fn below(&mut self, count: usize) -> usize {
        let taken = kani::any();
        kani::assume(taken < count);
        taken
    }

    /// Choices for Kani.
    #[cfg(kani)]
    pub fn any() -> Self {
        Self {}
    }

    /// Yes or no.
    pub fn flag(&mut self) -> bool {
        self.below(2) == 1
    }

    /// Any of these.
    pub fn of<T: Copy>(&mut self, all: &[T]) -> T {
        let at = self.below(all.len());
        all.iter().copied().nth(at).unwrap_or_else(|| unreachable_choice())
    }

    /// Any number of a range.
    pub fn number<N: Number>(&mut self, range: RangeInclusive<N>) -> N {
        let (first, last) = (range.start().widened(), range.end().widened());
        let count = last.saturating_sub(first).saturating_add(1);
        N::narrowed(first.saturating_add(self.below(usize::narrowed(count)).widened()))
    }

    /// Any list of up to `most` things.
    pub fn list<T>(&mut self, most: usize, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let count = self.number(0..=most);
        (0..count).map(|_| one(self)).collect()
    }
}

#[expect(clippy::panic, reason = "a mistake in a harness, which is a test")]
fn unreachable_choice() -> ! {
    panic!("a choice is one of those that there are")
}

macro_rules! numbers {
    ($($kind:ident),+) => {
        $(impl Number for $kind {
            fn widened(self) -> u64 {
                u64::try_from(self).unwrap_or(u64::MAX)
            }

            fn narrowed(number: u64) -> Self {
                Self::try_from(number).unwrap_or(Self::MAX)
            }
        })+
    };
}

numbers!(u8, u16, u32, u64, usize);
