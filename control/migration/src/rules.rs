//! Which network a migration takes: the first whose patterns its name fits.

use std::net::IpAddr;

use globset::{Glob, GlobMatcher};

use crate::address::{AddressError, Place, Places};

/// A network that migrations may take.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// The names of the migrations that take it; none: all.
    pub migrations: Vec<Pattern>,
    /// Where this host's address in it is looked for.
    pub places: Places,
    /// Bits a second that each migration may send on it.
    pub rate: Option<u64>,
}

/// A pattern of names: `*` stands for anything, `?` for one character, `[ab]` for one of these.
#[derive(Clone, Debug)]
pub struct Pattern(GlobMatcher);

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        Glob::new(text).map(|glob| Self(glob.compile_matcher())).map_err(|error| error.kind().to_string())
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        self.0.glob().glob()
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Network {
    /// Whether a migration takes it.
    fn is_for(&self, migration: &str) -> bool {
        self.migrations.is_empty() || self.migrations.iter().any(|pattern| pattern.0.is_match(migration))
    }

    /// This host's address in it.
    ///
    /// # Errors
    /// [`AddressError`].
    pub fn address(&self) -> Result<(IpAddr, Place), AddressError> {
        self.places.find()
    }
}

/// The network of a migration.
pub fn network<'n>(networks: &'n [Network], migration: &str) -> Option<&'n Network> {
    networks.iter().find(|network| network.is_for(migration))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, patterns: &[&str]) -> Network {
        let places = Places { interface: name.to_owned(), network_status: None, otherwise: None };
        let migrations = patterns.iter().map(|pattern| Pattern::parse(pattern).unwrap()).collect();
        Network { name: name.to_owned(), migrations, places, rate: None }
    }

    #[test]
    fn the_first_that_fits_is_taken() {
        let networks = [named("fast", &["db-*", "cache-[12]"]), named("slow", &["*-test"]), named("rest", &[])];
        for (migration, expected) in [
            ("db-1", "fast"),
            ("db-test", "fast"),
            ("cache-2", "fast"),
            ("cache-3", "rest"),
            ("web-test", "slow"),
            ("db", "rest"),
        ] {
            assert_eq!(network(&networks, migration).unwrap().name, expected, "{migration}");
        }
        assert!(network(&networks[..2], "web").is_none());
        assert!(Pattern::parse("a[").is_err());
    }
}
