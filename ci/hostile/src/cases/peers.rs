//! Cases of hostile or faulty vhost-user frontends.

use crate::case::Case;

/// The cases of this folder.
pub const CASES: &[Case] = &[];
