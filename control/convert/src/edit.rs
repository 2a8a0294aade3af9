//! Small changes of a text at places that the parser found.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::tree::{Content, Node, Tree};
use crate::{Fault, Warning};

/// The changes of one text: none overlaps another. The same one may be asked for twice, by two uses of an anchor.
#[derive(Debug, Default)]
pub struct Edits {
    /// By where they begin: what is replaced, and by what.
    replacements: BTreeMap<usize, (usize, String)>,
    /// Where aliases stand that are replaced.
    aliases: BTreeSet<usize>,
    /// Anchors of mappings that were empty and are so no more, and where.
    filled: BTreeMap<usize, crate::tree::Place>,
    /// Where keys stand that were changed, or told of.
    seen: BTreeSet<usize>,
}

/// How a word is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Quotes {
    None,
    Single,
    Double,
}

impl Edits {
    /// The key is dealt with: [`Edits::left_over`] does not tell of it.
    pub fn see(&mut self, key: &Node) {
        self.seen.insert(key.place.start);
    }

    /// Replaces a scalar that is written as `word`, with whatever quotes.
    ///
    /// # Errors
    /// When it is written in another way.
    pub fn replace_word(&mut self, tree: &Tree<'_>, node: &Node, word: &str, by: &str) -> Result<Quotes, Fault> {
        let raw = tree.text.get(node.place.start..).unwrap_or_default();
        let written = [
            (Quotes::None, word.to_owned()),
            (Quotes::Single, format!("'{word}'")),
            (Quotes::Double, format!("\"{word}\"")),
        ];
        let found = written.into_iter().find(|(quotes, written)| match quotes {
            Quotes::None => tree.raw(node.place) == word,
            _ => raw.starts_with(written.as_str()),
        });
        let Some((quotes, written)) = found.filter(|_| node.anchor.is_none()) else {
            return Err(node.place.fault(format!("write {word} here as a plain word, without anchor, tag or escapes")));
        };
        self.replace(node.place.start..node.place.start + written.len(), quotes.quote(by));
        Ok(quotes)
    }

    /// Puts `name: <name>` into an empty mapping, which may be an alias for one. The quotes are those of its key.
    ///
    /// # Errors
    /// When it is written in a way that is not understood.
    pub fn fill(&mut self, tree: &Tree<'_>, node: &Node, name: &str, quotes: Quotes) -> Result<(), Fault> {
        // In a text that is JSON, everything has double quotes.
        let quotes = if quotes == Quotes::Double { quotes } else { Quotes::None };
        let entry = format!("{}: {}", quotes.quote("name"), quotes.quote(name));
        if let Content::Alias(_) = node.content {
            let raw = tree.text.get(node.place.start..).unwrap_or_default();
            let end = raw.find(|byte: char| byte.is_whitespace() || ",[]{}".contains(byte)).unwrap_or(raw.len());
            self.aliases.insert(node.place.start);
            self.replace(node.place.start..node.place.start + end, format!("{{{entry}}}"));
            return Ok(());
        }
        let Some(inside) = opening(tree.text, node.place.start) else {
            return Err(node.place.fault("write {} here".to_owned()));
        };
        if let Some(anchor) = node.anchor {
            self.filled.insert(anchor, node.place);
        }
        self.replace(inside..inside, entry);
        Ok(())
    }

    fn replace(&mut self, range: Range<usize>, by: String) {
        self.replacements.insert(range.start, (range.end, by));
    }

    /// An empty mapping with an anchor must stay empty where others use it.
    ///
    /// # Errors
    /// When one does not.
    pub fn check_anchors(&self, tree: &Tree<'_>) -> Result<(), Fault> {
        for node in tree.nodes() {
            let Content::Alias(anchor) = node.content else { continue };
            if let Some(place) = self.filled.get(&anchor)
                && !self.aliases.contains(&node.place.start)
            {
                let what = format!(
                    "what stands here is used in line {} as well, where it must stay as it is: write {{}} here",
                    node.place.line
                );
                return Err(place.fault(what));
            }
        }
        Ok(())
    }

    /// What looks like an interface of the old APIs, and is in no object that is known.
    pub fn left_over(&self, tree: &Tree<'_>) -> Vec<Warning> {
        let entries = tree.nodes().filter_map(|node| match &node.content {
            Content::Mapping(entries) => Some(entries),
            _ => None,
        });
        let mut warnings = Vec::new();
        for (key, value) in entries.flatten() {
            let Content::Scalar { value: word, .. } = &key.content else { continue };
            let is_empty = matches!(&value.content, Content::Mapping(entries) if entries.is_empty());
            if OLD.contains(&word.as_str()) && is_empty && !self.seen.contains(&key.place.start) {
                let text = format!("{word}: {{}} is in no object whose interfaces are known: it stays as it is");
                warnings.push(Warning { line: key.place.line, text });
            }
        }
        warnings
    }

    /// The text with all changes.
    pub fn apply(&self, text: &str) -> String {
        let mut changed = String::with_capacity(text.len() + 64 * self.replacements.len());
        let mut done = 0;
        for (&start, (end, by)) in &self.replacements {
            changed += text.get(done..start).unwrap_or_default();
            changed += by;
            done = *end;
        }
        changed + text.get(done..).unwrap_or_default()
    }
}

impl Quotes {
    fn quote(self, word: &str) -> String {
        match self {
            Self::None => word.to_owned(),
            Self::Single => format!("'{word}'"),
            Self::Double => format!("\"{word}\""),
        }
    }
}

/// The place behind the brace of a mapping that begins at `start`, maybe with an anchor and a tag.
fn opening(text: &str, start: usize) -> Option<usize> {
    let mut place = start;
    loop {
        let rest = text.get(place..)?;
        let first = rest.chars().next()?;
        place += match first {
            '{' => return Some(place + 1),
            '#' => rest.find('\n')?,
            '&' | '!' => rest.find(|character: char| character.is_whitespace() || character == '{')?,
            _ if first.is_whitespace() => first.len_utf8(),
            _ => return None,
        };
    }
}

/// The keys of the old interface APIs.
pub const OLD: [&str; 2] = [PASST, VHOSTUSER];
/// KubeVirt 1.0 to 1.2.
pub const PASST: &str = "passt";
/// Proposed for KubeVirt, and in forks.
pub const VHOSTUSER: &str = "vhostuser";
