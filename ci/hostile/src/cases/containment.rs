//! Cases of faults of culvertd's own, and guests that take more than their share.

use crate::case::Case;

/// The cases of this folder.
pub const CASES: &[Case] = &[];
