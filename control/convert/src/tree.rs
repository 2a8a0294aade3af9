//! A YAML text as a tree with places: what the parser tells in its order, put together. Aliases are kept, not followed.

use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError};

use crate::Fault;

/// All documents of a text.
#[derive(Debug)]
pub struct Tree<'t> {
    pub text: &'t str,
    /// The roots of its documents.
    pub documents: Vec<Node>,
}

/// A node.
#[derive(Debug)]
pub struct Node {
    pub place: Place,
    /// What it was called by `&name`: a number, none twice.
    pub anchor: Option<usize>,
    pub content: Content,
}

/// What a node is.
#[derive(Debug)]
pub enum Content {
    Scalar {
        value: String,
        is_plain: bool,
    },
    Sequence(Vec<Node>),
    Mapping(Vec<(Node, Node)>),
    /// The node with this anchor once more.
    Alias(usize),
}

/// Where a node is. The end is that of plain words only: to others the parser counts a comment behind them, too.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// In bytes.
    pub start: usize,
    /// In bytes; behind a plain word.
    pub end: usize,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
}

impl<'t> Tree<'t> {
    /// Reads `text`.
    ///
    /// # Errors
    /// When it is not YAML, or nested too deeply.
    pub fn parse(text: &'t str) -> Result<Self, Fault> {
        let mut builder =
            Builder { places: Places { text, characters: 0, bytes: 0 }, open: Vec::new(), documents: Vec::new() };
        let mut parser = Parser::new_from_str(text);
        while let Some(next) = parser.next_event() {
            let (event, span) = next.map_err(|error| scan_fault(&error))?;
            let place = builder.places.of(span.start, span.end);
            builder.event(event, place)?;
        }
        Ok(Self { text, documents: builder.documents })
    }

    /// A plain word.
    pub fn raw(&self, place: Place) -> &'t str {
        self.text.get(place.start..place.end).unwrap_or_default()
    }

    /// All nodes, each before what is in it.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        let mut left: Vec<&Node> = self.documents.iter().rev().collect();
        std::iter::from_fn(move || {
            let node = left.pop()?;
            match &node.content {
                Content::Sequence(items) => left.extend(items.iter().rev()),
                Content::Mapping(entries) => {
                    left.extend(entries.iter().rev().flat_map(|(key, value)| [value, key]));
                }
                Content::Scalar { .. } | Content::Alias(_) => {}
            }
            Some(node)
        })
    }
}

impl Place {
    /// A fault here.
    pub fn fault(self, text: String) -> Fault {
        Fault { line: self.line, column: self.column, text }
    }
}

/// Nodes that have anchors.
#[derive(Debug)]
pub struct Anchors<'n>(HashMap<usize, &'n Node>);

impl<'n> Anchors<'n> {
    pub fn of(tree: &'n Tree<'_>) -> Self {
        Self(tree.nodes().filter_map(|node| Some((node.anchor?, node))).collect())
    }

    /// What an alias stands for; another node is itself.
    pub fn resolve(&self, node: &'n Node) -> &'n Node {
        match node.content {
            // An alias has no anchor of its own: this is no chain.
            Content::Alias(anchor) => self.0.get(&anchor).copied().unwrap_or(node),
            _ => node,
        }
    }

    /// The entries of a mapping, also those that `<<` merges into it; its own have precedence.
    pub fn entries(&self, node: &'n Node) -> Vec<(&'n Node, &'n Node)> {
        let mut entries = Vec::new();
        self.add_entries(node, &mut entries, MAX_MERGES);
        entries
    }

    fn add_entries(&self, node: &'n Node, entries: &mut Vec<(&'n Node, &'n Node)>, left: usize) {
        let Content::Mapping(own) = &self.resolve(node).content else { return };
        let is_merge = |key: &Node| matches!(&key.content, Content::Scalar { value, is_plain: true } if value == "<<");
        let (merges, own): (Vec<_>, Vec<_>) = own.iter().partition(|(key, _)| is_merge(key));
        let before = entries.len();
        for (key, value) in own {
            // Twice in one mapping is for others to see.
            let is_known =
                |(known, _): &(&Node, &Node)| self.text(known).is_some() && self.text(known) == self.text(key);
            if !entries.get(..before).unwrap_or_default().iter().any(is_known) {
                entries.push((key, value));
            }
        }
        let Some(left) = left.checked_sub(1) else { return };
        for (_, value) in merges {
            match &self.resolve(value).content {
                Content::Sequence(items) => items.iter().for_each(|item| self.add_entries(item, entries, left)),
                _ => self.add_entries(value, entries, left),
            }
        }
    }

    /// A mapping's value, by the first of the keys that is like this.
    pub fn get(&self, node: &'n Node, key: &str) -> Option<&'n Node> {
        let entries = self.entries(node);
        let (_, value) = entries.into_iter().find(|(known, _)| self.text(known) == Some(key))?;
        Some(self.resolve(value))
    }

    /// The value at the end of a path of keys.
    pub fn descend(&self, node: &'n Node, path: &[&str]) -> Option<&'n Node> {
        path.iter().try_fold(node, |node, key| self.get(node, key))
    }

    /// A scalar's value.
    pub fn text(&self, node: &'n Node) -> Option<&'n str> {
        match &self.resolve(node).content {
            Content::Scalar { value, .. } => Some(value),
            _ => None,
        }
    }

    /// Whether a node is nothing, as Kubernetes sees it.
    pub fn is_null(&self, node: &'n Node) -> bool {
        let content = &self.resolve(node).content;
        matches!(content, Content::Scalar { value, is_plain: true } if ["", "~", "null", "Null", "NULL"].contains(&value.as_str()))
    }
}

/// Puts together what the parser tells.
struct Builder<'t> {
    places: Places<'t>,
    open: Vec<Open>,
    documents: Vec<Node>,
}

/// A sequence or a mapping whose end has not come.
struct Open {
    node: Node,
    key: Option<Node>,
}

impl Builder<'_> {
    fn event(&mut self, event: Event<'_>, place: Place) -> Result<(), Fault> {
        match event {
            Event::Scalar(value, style, anchor, _) => {
                let is_plain = style == ScalarStyle::Plain;
                self.add(Node {
                    place,
                    anchor: known(anchor),
                    content: Content::Scalar { value: value.into_owned(), is_plain },
                });
            }
            Event::Alias(anchor) => self.add(Node { place, anchor: None, content: Content::Alias(anchor) }),
            Event::SequenceStart(anchor, _) => self.open(place, anchor, Content::Sequence(Vec::new()))?,
            Event::MappingStart(anchor, _) => self.open(place, anchor, Content::Mapping(Vec::new()))?,
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(open) = self.open.pop() {
                    self.add(open.node);
                }
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => {}
        }
        Ok(())
    }

    fn open(&mut self, place: Place, anchor: usize, content: Content) -> Result<(), Fault> {
        if self.open.len() >= MAX_DEPTH {
            return Err(place.fault(format!("this is nested deeper than {MAX_DEPTH} levels")));
        }
        self.open.push(Open { node: Node { place, anchor: known(anchor), content }, key: None });
        Ok(())
    }

    fn add(&mut self, node: Node) {
        let Some(open) = self.open.last_mut() else {
            self.documents.push(node);
            return;
        };
        match &mut open.node.content {
            Content::Sequence(items) => items.push(node),
            Content::Mapping(entries) => match open.key.take() {
                Some(key) => entries.push((key, node)),
                None => open.key = Some(node),
            },
            Content::Scalar { .. } | Content::Alias(_) => {}
        }
    }
}

/// The parser counts anchors from 1.
fn known(anchor: usize) -> Option<usize> {
    (anchor != 0).then_some(anchor)
}

/// Turns the parser's places, in characters, into bytes. They come almost in their order.
struct Places<'t> {
    text: &'t str,
    characters: usize,
    bytes: usize,
}

impl Places<'_> {
    fn of(&mut self, start: Marker, end: Marker) -> Place {
        let first = self.byte(start.index());
        let place = Place { start: first, end: first, line: start.line(), column: start.col() + 1 };
        // The parser counts spaces behind a word to it.
        let behind = self.byte(end.index().max(start.index()));
        let raw = self.text.get(first..behind).unwrap_or_default();
        Place { end: first + raw.trim_end().len(), ..place }
    }

    fn byte(&mut self, characters: usize) -> usize {
        if characters >= self.characters {
            let rest = self.text.get(self.bytes..).unwrap_or_default();
            let length = characters - self.characters;
            self.bytes += rest.char_indices().nth(length).map_or(rest.len(), |(bytes, _)| bytes);
        } else {
            let before = self.text.get(..self.bytes).unwrap_or_default();
            let back = self.characters - characters;
            self.bytes = before.char_indices().rev().nth(back - 1).map_or(0, |(bytes, _)| bytes);
        }
        self.characters = characters;
        self.bytes
    }
}

fn scan_fault(error: &ScanError) -> Fault {
    let marker = error.marker();
    Fault { line: marker.line(), column: marker.col() + 1, text: format!("this is not YAML: {}", error.info()) }
}

/// Far more than any object has.
const MAX_DEPTH: usize = 128;
/// Mappings that are merged into mappings that are merged, and so on.
const MAX_MERGES: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_in_bytes_and_without_what_follows() {
        let text = "# é\nk\u{e9}: 'v\u{e9}'\n\"x\" : {a: b }\n";
        let tree = Tree::parse(text).unwrap();
        let raw: Vec<_> = tree.nodes().map(|node| (tree.raw(node.place), node.place.line)).collect();
        assert_eq!(raw, [("", 2), ("k\u{e9}", 2), ("'v\u{e9}'", 2), ("\"x\"", 3), ("{", 3), ("a", 3), ("b", 3)]);
    }

    #[test]
    fn what_is_too_deep_or_no_yaml_is_refused() {
        for text in ["[".repeat(100_000), "- ".repeat(100_000), "{a: ".repeat(1000), "a: b\n c: d".to_owned()] {
            assert!(Tree::parse(&text).is_err());
        }
        assert_eq!(Tree::parse("a: b\n c: d").unwrap_err().line, 2);
    }

    #[test]
    fn merged_entries_come_after_the_mappings_own() {
        let text = "a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\nc: {y: 5, <<: [*a, *b]}\nd: &d {<<: *d, w: 6}";
        let tree = Tree::parse(text).unwrap();
        let anchors = Anchors::of(&tree);
        let value = |path: &[&str]| anchors.descend(&tree.documents[0], path).and_then(|node| anchors.text(node));
        assert_eq!(["x", "y", "z"].map(|key| value(&["c", key])), [Some("1"), Some("5"), Some("4")]);
        assert_eq!(value(&["d", "w"]), Some("6"), "and a mapping in itself comes to an end");
    }
}
