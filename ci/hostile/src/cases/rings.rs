//! Cases of hostile guests: what a driver can write into its rings.

mod attack;
mod chains;
mod indices;
mod lengths;
mod offloads;

use crate::case::Case;

/// The cases of each file of this folder.
pub const FILES: &[&[Case]] = &[chains::CASES, indices::CASES, lengths::CASES, offloads::CASES];
