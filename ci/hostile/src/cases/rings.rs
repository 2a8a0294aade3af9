//! Cases of hostile guests: what a driver can write into its rings.

mod attack;
mod chains;
mod features;
mod floods;
mod indices;
mod interrupts;
mod layout;
mod lengths;
mod offloads;
mod packed;
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
    floods::CASES,
    interrupts::CASES,
    resets::CASES,
    features::CASES,
    packed::CASES,
];
