//! Cases of hostile guests: what a driver can write into its rings.

mod attack;
mod chains;
mod features;
mod indices;
mod layout;
mod lengths;
mod notifications;
mod offloads;
mod races;
mod resets;

use crate::case::Case;

/// The cases of each file of this folder.
pub const FILES: &[&[Case]] = &[
    chains::CASES,
    indices::CASES,
    lengths::CASES,
    races::CASES,
    layout::CASES,
    offloads::CASES,
    notifications::CASES,
    resets::CASES,
    features::CASES,
];
