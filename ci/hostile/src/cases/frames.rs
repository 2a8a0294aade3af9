//! Cases of hostile frames and sockets.

use crate::case::Case;

/// The cases of this folder.
pub const CASES: &[Case] = &[];
