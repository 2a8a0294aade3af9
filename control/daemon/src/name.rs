//! The one rule for names of ports and networks: 1 to 63 characters of `a-z`, `0-9` and `-`.
//!
//! Names become parts of paths, metric labels and table columns; with this rule no place needs to quote or escape
//! them. Both the configuration and the control socket read names through [`Name::parse`].

use std::fmt;

/// A name that keeps the rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

/// A text that breaks the rule for names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAName;

impl Name {
    /// Longest name, in bytes.
    pub const MAX_BYTES: usize = 63;

    /// Reads a name.
    ///
    /// # Errors
    /// [`NotAName`] for an empty text, one of more than [`Self::MAX_BYTES`], or one with other characters than
    /// `a-z`, `0-9` and `-`.
    pub fn parse(text: &str) -> Result<Self, NotAName> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if text.is_empty() || text.len() > Self::MAX_BYTES || !text.bytes().all(allowed) {
            return Err(NotAName);
        }
        Ok(Self(text.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Display for NotAName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a name: use 1 to 63 characters of a-z, 0-9 and -")
    }
}

impl std::error::Error for NotAName {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule() {
        let longest = "a".repeat(63);
        for good in ["a", "0", "-", "vm-a", "uplink0", &longest] {
            assert_eq!(Name::parse(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn hostile_names_are_refused() {
        let (long, longer) = ("a".repeat(64), "a".repeat(300));
        for bad in
            ["", "../x", "/abs", ".", "a b", "a\n", "VM", "a_b", "a\0", "\u{430}", "\u{ff41}", "a.b", &long, &longer]
        {
            assert_eq!(Name::parse(bad), Err(NotAName), "{bad:?}");
        }
    }
}
