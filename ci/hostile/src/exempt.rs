//! Rows of the tables that have no case here, each with the reason.

use crate::case::{Case, TABLES, rows};

/// A row and why it has no case.
pub const EXEMPT: &[(&str, &str)] =
    &[("P16", "it takes two nodes: ci/system/tests/migration.rs, translator_migration.rs")];

/// The rows that have neither a case nor a reason.
pub fn missing(cases: &[Case]) -> Vec<String> {
    let has_case = |row: &String| cases.iter().any(|case| case.row == row);
    let has_reason = |row: &String| EXEMPT.iter().any(|(exempt, _)| exempt == row);
    rows().into_iter().filter(|row| !has_case(row) && !has_reason(row)).collect()
}

/// The counts of rows and cases by table, as docs/PROMISES.md has them.
pub fn counts(cases: &[Case]) -> String {
    let mut text =
        "| table | rows | cases | of them *full* | rows without a case |\n|---|---|---|---|---|\n".to_owned();
    for (letter, count, what) in TABLES {
        let of_table = || cases.iter().filter(|case| case.row.starts_with(letter));
        let full = of_table().filter(|case| case.full).count();
        let reasons = EXEMPT.iter().filter(|(row, _)| row.starts_with(letter));
        let reasons: Vec<String> = reasons.map(|(row, reason)| format!("{row}: {reason}")).collect();
        let (cases, reasons) = (of_table().count(), reasons.join("; "));
        text.push_str(&format!("| {letter}: {what} | {count} | {cases} | {full} | {reasons} |\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::all;

    #[test]
    fn each_row_has_a_case_or_a_reason() {
        let missing = missing(&all());
        assert!(missing.is_empty(), "no case and no reason: {missing:?}");
        let both: Vec<_> = EXEMPT.iter().filter(|(row, _)| all().iter().any(|case| case.row == *row)).collect();
        assert!(both.is_empty(), "a case, and a reason why there is none: {both:?}");
    }

    #[test]
    fn the_page_has_the_counts_that_are_true() {
        let page = include_str!("../../../docs/PROMISES.md");
        let counts = counts(&all());
        assert!(page.contains(&counts), "docs/PROMISES.md must have what `culvert-hostile counts` prints:\n{counts}");
    }
}
