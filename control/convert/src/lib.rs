//! Moves KubeVirt's objects off two old interface APIs: `passt: {}` and `vhostuser: {}` become Culvert's network bindings.
//!
//! Text in, text out: the YAML is parsed (by saphyr-parser) only to find places in it, and what is changed are some words
//! there. All other bytes stay as they are: comments, order, quotes, anchors, line ends. JSON is YAML, too.
//! - [`kinds`]: which objects have interfaces, and where in them; for culvert-webhook, too;
//! - [`tree`]: what the parser found, with places;
//! - [`objects`]: the objects of a file, [`interface`]: what one of their interfaces needs, [`edit`]: how it is written.
//!
//! A file in which anything cannot be converted is not converted at all. What comes out needs no second time.
#![forbid(unsafe_code)]

pub mod kinds;

mod edit;
mod interface;
mod objects;
mod tree;

use std::fmt;

use thiserror::Error;

use tree::Tree;

/// What the interfaces become.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Wish {
    /// The binding, as registered in the KubeVirt CR, that takes passt's place.
    pub translator: BindingName,
    /// The binding that takes the place of vhostuser.
    pub vhostuser: BindingName,
    /// Also convert what uses KubeVirt's other passt bindings, `binding: {name: passt}` and `passtBinding: {}`.
    pub all_passt: bool,
}

impl Default for Wish {
    fn default() -> Self {
        Self {
            translator: BindingName("culvert-translator".to_owned()),
            vhostuser: BindingName("culvert".to_owned()),
            all_passt: false,
        }
    }
}

/// The name of a binding: such that it can be written without quotes, and stays a text.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BindingName(String);

impl BindingName {
    /// Takes lower case letters, digits and dashes, with a letter first; no word that YAML takes for something else.
    ///
    /// # Errors
    /// Another name.
    pub fn new(name: &str) -> Result<Self, NoBindingName> {
        let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let is_name = name.starts_with(|first: char| first.is_ascii_lowercase()) && name.bytes().all(is_inner);
        if !is_name || name.len() > MAX_NAME || NO_TEXTS.contains(&name) {
            return Err(NoBindingName(name.chars().take(100).collect()));
        }
        Ok(Self(name.to_owned()))
    }

    fn as_str(&self) -> &str {
        &self.0
    }
}

/// What cannot be the name of a binding.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("{0:?} is no name of a binding: use lower case letters, digits and dashes, with a letter first")]
pub struct NoBindingName(String);

/// What became of a text.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Conversion {
    /// The text, converted.
    pub text: String,
    /// What was changed, in the order of the text.
    pub changes: Vec<Change>,
    /// What a person should look at.
    pub warnings: Vec<Warning>,
}

/// An interface that was changed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Change {
    /// Where, from 1.
    pub line: usize,
    /// Kind, namespace and name of its object.
    pub object: String,
    /// The interface's name.
    pub interface: String,
    /// What stood there.
    pub from: String,
    /// The binding that it uses now.
    pub binding: String,
}

/// Something to look at.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Warning {
    /// Where, from 1.
    pub line: usize,
    /// A sentence.
    pub text: String,
}

/// Why a text is not converted.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub struct Fault {
    /// Where, from 1.
    pub line: usize,
    /// Where in the line, from 1, in characters.
    pub column: usize,
    /// A sentence.
    pub text: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}: {}", self.line, self.column, self.text)
    }
}

/// Converts all documents of `text`.
///
/// # Errors
/// When it is no YAML, or has an interface that cannot be converted.
pub fn convert(text: &[u8], wish: &Wish) -> Result<Conversion, Fault> {
    let text = str::from_utf8(text).map_err(|error| no_text(text, error.valid_up_to()))?;
    let pass = once(text, wish)?;
    if pass.conversion.text != text {
        check(&pass, wish)?;
    }
    Ok(pass.conversion)
}

/// One pass over a text.
struct Pass {
    conversion: Conversion,
    /// How each interface is to be served afterwards, in the order of the text.
    outcomes: Vec<Outcome>,
}

/// How an interface is to be served, and where it stands.
struct Outcome {
    place: tree::Place,
    what: String,
    /// Such as `masquerade`, or `binding culvert`.
    method: String,
}

fn once(text: &str, wish: &Wish) -> Result<Pass, Fault> {
    let tree = Tree::parse(text)?;
    let mut found = interface::Found::new(&tree, wish);
    for object in objects::of(&tree) {
        found.look_at(&object)?;
    }
    let interface::Found { edits, changes, mut warnings, outcomes, .. } = found;
    edits.check_anchors(&tree)?;
    warnings.extend(edits.left_over(&tree));
    warnings.sort();
    warnings.dedup();
    Ok(Pass { conversion: Conversion { text: edits.apply(text), changes, warnings }, outcomes })
}

/// Looks whether what came out says what it should. What interfaces share by anchors may have changed for one that should not.
fn check(before: &Pass, wish: &Wish) -> Result<(), Fault> {
    let after = once(&before.conversion.text, wish).map_err(|fault| bug(&fault.to_string()))?;
    if after.conversion.text != before.conversion.text || after.outcomes.len() != before.outcomes.len() {
        return Err(bug("the second time something else comes out"));
    }
    let mut pairs = before.outcomes.iter().zip(&after.outcomes);
    match pairs.find(|(wanted, outcome)| wanted.method != outcome.method) {
        Some((Outcome { place, what, method }, outcome)) => Err(place.fault(format!(
            "{what} shares keys with others by an anchor, and would change with them from {method} to {}: write it out",
            outcome.method
        ))),
        None => Ok(()),
    }
}

fn no_text(bytes: &[u8], valid: usize) -> Fault {
    let before = bytes.get(..valid).unwrap_or_default();
    let line = before.split(|&byte| byte == b'\n').count();
    let begun = before.rsplit(|&byte| byte == b'\n').next().unwrap_or_default();
    let column = String::from_utf8_lossy(begun).chars().count() + 1;
    Fault { line, column, text: "this is not UTF-8".to_owned() }
}

fn bug(what: &str) -> Fault {
    Fault {
        line: 1,
        column: 1,
        text: format!("it is not converted, for what comes out is wrong, which is a bug ({what})"),
    }
}

const MAX_NAME: usize = 253;
/// Words that YAML 1.1, which Kubernetes reads, takes for a truth value or nothing.
const NO_TEXTS: [&str; 9] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_bindings() {
        for name in ["culvert", "x", "a-b-1"] {
            assert_eq!(BindingName::new(name).unwrap().as_str(), name);
        }
        for name in ["", "A", "1a", "-a", "a b", "a: b", "no", "true", "é", "a\n"] {
            assert_eq!(BindingName::new(name), Err(NoBindingName(name.to_owned())));
        }
    }

    #[test]
    fn what_is_no_text_is_told_with_its_place() {
        let fault = convert(b"a: b\nc: \xc3\xa9\xff", &Wish::default()).unwrap_err();
        assert_eq!(fault.to_string(), "2:5: this is not UTF-8");
    }
}
