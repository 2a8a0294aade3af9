//! Tables for persons, JSON and YAML for programs.

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};
use culvert_api::v1;
use serde::Serialize;

use crate::arguments::Format;

/// How a column is aligned: numbers to the right.
#[derive(Clone, Copy, Debug)]
pub enum Align {
    Left,
    Right,
}

/// A table without lines: headings in capitals, two spaces between columns.
pub fn table(columns: &[(&str, Align)], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(columns.iter().map(|(heading, _)| *heading)).add_rows(rows);
    for (column, (_, align)) in table.column_iter_mut().zip(columns) {
        column.set_padding((0, 2)).set_cell_alignment(match align {
            Align::Left => CellAlignment::Left,
            Align::Right => CellAlignment::Right,
        });
    }
    finish(&table)
}

/// Names and values, one pair on each line.
pub fn pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).add_rows(pairs.into_iter().map(|(name, value)| [name.to_owned(), value]));
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    finish(&table)
}

fn finish(table: &Table) -> String {
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}

/// What programs read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// Indented, or a line for each of many.
    Json,
    /// One document, or a document for each of many.
    Yaml,
}

impl Data {
    /// A whole answer.
    ///
    /// # Errors
    /// None for the types used here.
    pub fn text(self, value: &impl Serialize) -> Result<String> {
        match self {
            Self::Json => Ok(serde_json::to_string_pretty(value)? + "\n"),
            Self::Yaml => Ok(serde_norway::to_string(value)?),
        }
    }

    /// One of many that come one after the other.
    ///
    /// # Errors
    /// None for the types used here.
    pub fn line(self, value: &impl Serialize) -> Result<String> {
        match self {
            Self::Json => Ok(serde_json::to_string(value)? + "\n"),
            Self::Yaml => Ok(format!("---\n{}", serde_norway::to_string(value)?)),
        }
    }
}

impl Format {
    /// How a program wants it; `None` for a person.
    pub fn data(self) -> Option<Data> {
        match self {
            Self::Table => None,
            Self::Json => Some(Data::Json),
            Self::Yaml => Some(Data::Yaml),
        }
    }
}

/// A number of seconds in its two largest units: `3d4h`, `5m12s`.
pub fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, _, _) => format!("{hours}h{}m", minutes % 60),
        (_, _, _) => format!("{days}d{}h", hours % 24),
    }
}

/// `text`, or `-` when there is none.
pub fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

/// Who wants an object.
pub fn origin(origin: v1::Origin) -> &'static str {
    match origin {
        v1::Origin::File => "file",
        v1::Origin::Client => "client",
        v1::Origin::Unspecified => "unknown",
    }
}

/// `yes` or `no`.
pub fn yes_or_no(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}

/// `text`, or nothing in JSON when it is empty.
pub fn present(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_to_the_right_and_no_line_ends_in_spaces() {
        let rows =
            [vec!["vm-a".to_owned(), "7".to_owned(), "x".to_owned()], vec!["b".into(), "1234".into(), "".into()]];
        let text = table(&[("PORT", Align::Left), ("N", Align::Right), ("NOTE", Align::Left)], rows);
        assert_eq!(text, "PORT     N  NOTE\nvm-a     7  x\nb     1234\n");
    }

    #[test]
    fn durations_have_two_units() {
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (60, "1m0s"), (3599, "59m59s"), (7260, "2h1m"), (90_000, "1d1h")]
        {
            assert_eq!(duration(seconds), text);
        }
    }
}
