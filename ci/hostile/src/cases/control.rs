//! Cases of the control socket and paths on the node.

use crate::case::Case;

/// The cases of this folder.
pub const CASES: &[Case] = &[];
