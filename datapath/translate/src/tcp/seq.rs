//! Sequence numbers, which wrap (RFC 9293, 3.4).

use std::cmp::Ordering;
use std::ops::{Add, Sub};

/// A sequence number. Two of one connection are less than 2^31 apart. Of two that are just as far apart each is after
/// the other, so that what a guest makes up is out of bounds on either side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Seq(pub u32);

impl Seq {
    /// How far this is behind `earlier`; 0 where it is not.
    #[must_use]
    pub fn since(self, earlier: Self) -> u32 {
        if self.is_after(earlier) { self - earlier } else { 0 }
    }

    /// Whether this comes before `other`.
    #[must_use]
    pub fn is_before(self, other: Self) -> bool {
        other.is_after(self)
    }

    /// Whether this comes after `other`.
    #[must_use]
    pub const fn is_after(self, other: Self) -> bool {
        let distance = self.0.wrapping_sub(other.0);
        distance != 0 && distance <= 1 << 31
    }

    /// The later of two.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        if self.is_after(other) { self } else { other }
    }

    /// The earlier of two.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        if self.is_after(other) { other } else { self }
    }

    /// The order of two, as seen from `origin`, before which neither is.
    #[must_use]
    pub fn cmp_from(self, origin: Self, other: Self) -> Ordering {
        (self - origin).cmp(&(other - origin))
    }
}

impl Add<u32> for Seq {
    type Output = Self;

    fn add(self, bytes: u32) -> Self {
        Self(self.0.wrapping_add(bytes))
    }
}

impl Sub<u32> for Seq {
    type Output = Self;

    fn sub(self, bytes: u32) -> Self {
        Self(self.0.wrapping_sub(bytes))
    }
}

impl Sub for Seq {
    type Output = u32;

    fn sub(self, other: Self) -> u32 {
        self.0.wrapping_sub(other.0)
    }
}

#[cfg(test)]
mod proofs;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_wraps() {
        let before = Seq(u32::MAX - 1);
        let after = before + 10;
        assert_eq!(after, Seq(8));
        assert!(after.is_after(before) && before.is_before(after));
        assert!(!before.is_after(before));
        assert_eq!(after - before, 10);
        assert_eq!((after.since(before), before.since(after)), (10, 0));
        assert_eq!((before.max(after), before.min(after)), (after, before));
    }

    #[test]
    fn half_the_space_is_out_of_bounds_on_either_side() {
        assert!(Seq(1 << 31).is_after(Seq(0)) && Seq(1 << 31).is_before(Seq(0)));
        assert!(Seq((1 << 31) - 1).is_after(Seq(0)) && !Seq((1 << 31) - 1).is_before(Seq(0)));
    }
}
