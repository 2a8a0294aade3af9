//! Cases of culvertd killed at any moment.

use crate::case::Case;

/// The cases of this folder.
pub const CASES: &[Case] = &[];
