//! The text of a configuration file: which line a place is in, and a piece of it for a message.

use std::ops::Range;

/// A configuration's text and its lines.
pub(super) struct Source<'a> {
    /// The file's name for messages.
    pub(super) file: &'a str,
    text: &'a str,
    /// Where each line starts, in bytes; the first is 0.
    line_starts: Vec<usize>,
}

impl<'a> Source<'a> {
    pub(super) fn new(file: &'a str, text: &'a str) -> Self {
        let after_newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self { file, text, line_starts: std::iter::once(0).chain(after_newlines).collect() }
    }

    /// The line of a byte offset, from 1.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= offset)
    }

    /// The text in `span` as one printable line of at most [`MAX_SNIPPET`] characters.
    pub(super) fn snippet(&self, span: &Range<usize>) -> String {
        let text = self.text.get(span.clone()).unwrap_or_default();
        let mut snippet: String = text.chars().take(MAX_SNIPPET).flat_map(printable).collect();
        if text.chars().nth(MAX_SNIPPET).is_some() {
            snippet.push_str("...");
        }
        snippet
    }
}

/// `character` itself, or its escape when it would disturb a terminal.
fn printable(character: char) -> impl Iterator<Item = char> {
    let escaped = character.is_control() || is_direction_mark(character);
    let escape = escaped.then(|| character.escape_default());
    let plain = (!escaped).then_some(character);
    plain.into_iter().chain(escape.into_iter().flatten())
}

/// Characters that turn the direction of the text after them (Unicode UAX 9, section 2).
fn is_direction_mark(character: char) -> bool {
    matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

const MAX_SNIPPET: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_count_from_one() {
        let source = Source::new("f", "a\nbb\n\nc");
        let lines: Vec<_> = (0..9).map(|offset| source.line(offset)).collect();
        assert_eq!(lines, [1, 1, 2, 2, 2, 3, 4, 4, 4]);
        assert_eq!(Source::new("f", "").line(0), 1);
    }

    #[test]
    fn snippets_are_short_and_harmless() {
        let long = "x".repeat(100);
        assert_eq!(Source::new("f", &long).snippet(&(0..100)), format!("{}...", "x".repeat(60)));
        assert_eq!(Source::new("f", "a\u{1b}[2J\n\u{202e}b").snippet(&(0..10)), "a\\u{1b}[2J\\n\\u{202e}b");
        assert_eq!(Source::new("f", "\u{e4}").snippet(&(1..2)), "");
        assert_eq!(Source::new("f", "a").snippet(&(5..9)), "");
    }
}
