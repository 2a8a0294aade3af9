//! Rows of the tables that have no case here, each with the reason.

/// A row and why it has no case.
pub const EXEMPT: &[(&str, &str)] = &[
    ("P3", "planned upgrades hand over descriptors: they come with the takeover between two versions"),
    ("P16", "migration comes with the dirty log, which is not offered yet"),
    ("V14", "SET_LOG_BASE is not offered before migration is: peers that send it are cases of V3"),
    ("C11", "there is no metrics socket yet"),
];
