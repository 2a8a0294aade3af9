//! Cases of faults of processes.

use crate::case::Case;

/// The cases of this folder.
pub const CASES: &[Case] = &[];
