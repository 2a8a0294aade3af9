//! Random numbers that come again with their seed (xorshift64*), so that a failure can be played again.

/// The generator.
#[derive(Clone, Copy, Debug)]
pub struct Dice(u64);

impl Dice {
    /// From a seed; 0 is none.
    pub fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    /// A number below `limit`, 0 for a limit of 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d).checked_rem(limit).unwrap_or(0)
    }

    /// True once in `times`.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_numbers_and_all_of_them() {
        let (mut one, mut other) = (Dice::new(7), Dice::new(7));
        let mut seen = [false; 10];
        for _ in 0..1000 {
            let number = one.below(10);
            assert_eq!(number, other.below(10));
            seen[usize::try_from(number).unwrap()] = true;
        }
        assert!(seen.iter().all(|seen| *seen));
        assert_eq!(Dice::new(0).below(0), 0);
    }
}
