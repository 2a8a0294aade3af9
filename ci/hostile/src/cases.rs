//! All cases, by table. Each table has a folder of its own under `cases/`.

pub mod containment;
pub mod control;
pub mod frames;
pub mod peers;
pub mod process;
pub mod restart;
pub mod rings;

use crate::case::Case;

/// All cases, in the order of the tables.
pub fn all() -> Vec<Case> {
    let others = [peers::CASES, frames::CASES, control::CASES, process::CASES, containment::CASES, restart::CASES];
    [rings::FILES, &others].concat().concat()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::case::rows;

    #[test]
    fn names_are_unique_and_can_be_ports() {
        let mut seen = HashSet::new();
        for case in all() {
            let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            assert!(!case.name.is_empty() && case.name.len() <= 58 && case.name.bytes().all(fits), "{}", case.name);
            assert!(seen.insert(case.name), "two cases are named {}", case.name);
            assert!(!case.what.is_empty(), "{}: what does it do?", case.name);
            assert!(rows().iter().any(|row| row == case.row), "{}: there is no row {}", case.name, case.row);
        }
    }
}
