//! Reading one TOML table key by key, collecting every mistake.
//!
//! The key names are written down once: where they are read. A key that nobody asked for is unknown, and the
//! message suggests those that were asked for.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::mistake::{Mistake, either, nearest};
use super::source::Source;
use super::value::{self, Wrong};
use crate::name::Name;

/// All mistakes found so far in one file.
pub(super) struct Report<'a> {
    pub(super) source: Source<'a>,
    mistakes: Vec<Mistake>,
}

impl<'a> Report<'a> {
    pub(super) fn new(source: Source<'a>) -> Self {
        Self { source, mistakes: Vec::new() }
    }

    /// Adds a mistake about the value of `key` at `span`.
    pub(super) fn value(&mut self, key: String, span: &Range<usize>, wrong: Wrong) {
        let value = Some(self.source.snippet(span));
        self.add(Some(span.start), key, value, wrong);
    }

    /// Adds a mistake without a value: at `offset`, about `key`.
    pub(super) fn place(&mut self, key: String, offset: usize, wrong: Wrong) {
        self.add(Some(offset), key, None, wrong);
    }

    /// Adds a mistake about the whole file.
    pub(super) fn whole(&mut self, wrong: Wrong) {
        self.add(None, String::new(), None, wrong);
    }

    fn add(&mut self, offset: Option<usize>, key: String, value: Option<String>, wrong: Wrong) {
        let line = offset.map(|offset| self.source.line(offset));
        let Wrong { problem, remedy } = wrong;
        self.mistakes.push(Mistake { file: self.source.file.to_owned(), line, key, value, problem, remedy });
    }

    /// All mistakes, in the order of their lines.
    pub(super) fn into_mistakes(mut self) -> Vec<Mistake> {
        self.mistakes.sort_by_key(|mistake| mistake.line);
        self.mistakes
    }
}

/// A value that was read, and where it stands in the file.
#[derive(Clone, Debug)]
pub(super) struct Found<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
}

/// One table while it is read.
pub(super) struct Section<'t> {
    /// The table's name in messages: `port` for `[[port]]`, empty for the top of the file.
    title: &'static str,
    table: &'t DeTable<'t>,
    /// Where the table starts in the file.
    start: usize,
    asked: Vec<&'static str>,
}

impl<'t> Section<'t> {
    pub(super) fn new(title: &'static str, table: &'t DeTable<'t>, start: usize) -> Self {
        Self { title, table, start, asked: Vec::new() }
    }

    /// The full name of a key, for messages.
    pub(super) fn path(&self, key: &str) -> String {
        if self.title.is_empty() { key.to_owned() } else { format!("{}.{key}", self.title) }
    }

    /// Whether the section has `key`; this does not make it a known one.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Whether somebody asked for `key`.
    pub(super) fn knows(&self, key: &str) -> bool {
        self.asked.contains(&key)
    }

    /// Whether `key` holds an array without elements.
    pub(super) fn is_empty_list(&self, key: &str) -> bool {
        matches!(self.table.get(key).map(|value| value.get_ref()), Some(DeValue::Array(array)) if array.is_empty())
    }

    /// The object's name, if it has one that keeps the rule.
    pub(super) fn name(&self) -> Option<Name> {
        self.table.get("name").and_then(|value| value::name(value.get_ref()).ok())
    }

    /// The offset of `key`'s value, or of the section when it has none.
    pub(super) fn offset(&self, key: &str) -> usize {
        self.table.get(key).map_or(self.start, |value| value.span().start)
    }

    /// Reports `wrong` about `key`, whether the section has it or not.
    pub(super) fn conflict(&self, report: &mut Report<'_>, key: &str, wrong: Wrong) {
        if self.has(key) {
            self.refuse(report, key, wrong);
        } else {
            report.place(self.path(key), self.start, wrong);
        }
    }

    /// Reports `wrong` about `key` if the section has it.
    pub(super) fn refuse(&self, report: &mut Report<'_>, key: &str, wrong: Wrong) {
        if let Some(value) = self.table.get(key) {
            report.value(self.path(key), &value.span(), wrong);
        }
    }

    /// The value of `key` as it was parsed, and its place.
    fn get(&mut self, key: &'static str) -> Option<(&'t DeValue<'t>, Range<usize>)> {
        self.asked.push(key);
        self.table.get(key).map(|value| (value.get_ref(), value.span()))
    }

    /// Reads a key that may be absent. `None` when it is absent or wrong; a wrong one is reported.
    pub(super) fn optional<T>(
        &mut self,
        report: &mut Report<'_>,
        key: &'static str,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, Wrong>,
    ) -> Option<Found<T>> {
        let (value, span) = self.get(key)?;
        match read(value) {
            Ok(value) => Some(Found { value, span }),
            Err(wrong) => {
                report.value(self.path(key), &span, wrong);
                None
            }
        }
    }

    /// Reads a key that must be there; `example` is what its value looks like.
    pub(super) fn required<T>(
        &mut self,
        report: &mut Report<'_>,
        key: &'static str,
        example: &str,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, Wrong>,
    ) -> Option<Found<T>> {
        if !self.has(key) {
            self.missing(report, key, &format!("add a line such as {key} = {example}"));
        }
        self.optional(report, key, read)
    }

    /// Reads a key that holds an array; each wrong element is reported by itself. `None` when the key is absent or
    /// not an array.
    pub(super) fn list<T>(
        &mut self,
        report: &mut Report<'_>,
        key: &'static str,
        example: &str,
        read: impl Fn(&DeValue<'_>) -> Result<T, Wrong>,
    ) -> Option<Found<Vec<Found<T>>>> {
        let (value, span) = self.get(key)?;
        let DeValue::Array(array) = value else {
            report.value(self.path(key), &span, Wrong::kind("an array", value, example));
            return None;
        };
        let mut elements = Vec::new();
        for element in array.iter() {
            match read(element.get_ref()) {
                Ok(value) => elements.push(Found { value, span: element.span() }),
                Err(wrong) => report.value(self.path(key), &element.span(), wrong),
            }
        }
        Some(Found { value: elements, span })
    }

    /// The table under `key`, if there is one.
    pub(super) fn table(&mut self, report: &mut Report<'_>, key: &'static str) -> Option<Section<'t>> {
        let (value, span) = self.get(key)?;
        if let DeValue::Table(table) = value {
            return Some(Section::new(key, table, span.start));
        }
        let remedy = format!("start the section with a line [{key}]");
        report.place(self.path(key), span.start, Wrong::new("must be a section", remedy));
        None
    }

    /// The tables of the `[[key]]` sections.
    pub(super) fn tables(&mut self, report: &mut Report<'_>, key: &'static str) -> Vec<Section<'t>> {
        let Some((value, span)) = self.get(key) else { return Vec::new() };
        let mut sections = Vec::new();
        let mut wrong_places = Vec::new();
        if let DeValue::Array(array) = value {
            for element in array.iter() {
                match element.get_ref() {
                    DeValue::Table(table) => sections.push(Section::new(key, table, element.span().start)),
                    _ => wrong_places.push(element.span().start),
                }
            }
        } else {
            wrong_places.push(span.start);
        }
        for place in wrong_places {
            let remedy = format!("start each {key} with a line [[{key}]], in double brackets");
            report.place(self.path(key), place, Wrong::new("must be a list of sections", remedy));
        }
        sections
    }

    /// Reports that `key` is not there.
    pub(super) fn missing(&self, report: &mut Report<'_>, key: &str, remedy: &str) {
        report.place(self.path(key), self.start, Wrong::new("is missing", remedy));
    }

    /// Reports the keys that nobody asked for. Call it after everything was read.
    pub(super) fn finish(&self, report: &mut Report<'_>) {
        for (key, value) in self.table.iter() {
            let word: &str = key.get_ref();
            if self.asked.contains(&word) {
                continue;
            }
            let asked = self.asked.iter().copied();
            let remedy = match nearest(word, asked.clone()) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("remove it, or write {}", either(asked)),
            };
            let written = self.path(&report.source.snippet(&key.span()));
            let wrong = Wrong::new("is no key that culvertd knows here", remedy);
            if matches!(value.get_ref(), DeValue::Table(_) | DeValue::Array(_)) {
                report.place(written, key.span().start, wrong);
            } else {
                report.value(written, &value.span(), wrong);
            }
        }
    }
}
