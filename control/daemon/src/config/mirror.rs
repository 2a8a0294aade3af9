//! A mirror as it is wanted: its keys, read and written.

use super::section::{Report, Section};
use super::value::{self, Wrong};
use crate::name::Name;

/// One `[[mirror]]`: the frames of some ports are copied to another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Its name, unique among mirrors.
    pub name: Name,
    /// The ports whose frames are copied, at least one, none twice.
    pub from: Vec<Name>,
    /// The port that gets the copies, and takes no other part in its network.
    pub to: Name,
    /// Whether frames that come from those ports are copied; so by default.
    pub rx: bool,
    /// Whether frames that go to those ports are copied; so by default.
    pub tx: bool,
}

/// Most ports in `from`.
pub const MAX_SOURCES: usize = 64;

impl Mirror {
    /// Reads a section. `None` when it has no name, no ports or no target.
    pub(super) fn read(report: &mut Report<'_>, section: &mut Section<'_>) -> Option<Self> {
        let name = section.required(report, "name", "\"mirror-a\"", value::name);
        if !section.has("from") {
            section.missing(report, "from", "add a line such as from = [\"vm-a\"]");
        }
        let from = section.list(report, "from", "[\"vm-a\"]", value::name);
        let to = section.required(report, "to", "\"probe\"", value::name);
        let both = (true, true);
        let directions = [("both", both), ("rx", (true, false)), ("tx", (false, true))];
        let direction = section.optional(report, "direction", |value| value::choice(value, &directions));
        if section.is_empty_list("from") {
            section.refuse(report, "from", Wrong::new("names no port", "write at least one, like [\"vm-a\"]"));
        }
        let (name, to) = (name?.value, to?.value);
        let mut distinct = Vec::new();
        for found in from?.value {
            let wrong = if distinct.contains(&found.value) {
                Wrong::new("names this port twice", "write each port once")
            } else if found.value == to {
                Wrong::new("is the port in `to` as well", "copy the frames to another port")
            } else {
                distinct.push(found.value);
                continue;
            };
            report.value(section.path("from"), &found.span, wrong);
        }
        if distinct.len() > MAX_SOURCES {
            let wrong = Wrong::new(format!("names more than {MAX_SOURCES} ports"), "make several mirrors");
            section.refuse(report, "from", wrong);
        }
        let (rx, tx) = direction.map_or(both, |found| found.value);
        Some(Self { name, from: distinct, to, rx, tx })
    }

    /// The keys that [`Self::read`] reads this from, with their values as TOML; those with their default are left out.
    pub fn keys(&self) -> Vec<(&'static str, String)> {
        let from: Vec<_> = self.from.iter().map(|port| value::toml_text(port.as_str())).collect();
        let mut keys = vec![
            ("name", value::toml_text(self.name.as_str())),
            ("from", format!("[{}]", from.join(", "))),
            ("to", value::toml_text(self.to.as_str())),
        ];
        if !(self.rx && self.tx) {
            keys.push(("direction", value::toml_text(self.direction())));
        }
        keys
    }

    /// The value of `direction`.
    pub fn direction(&self) -> &'static str {
        match (self.rx, self.tx) {
            (true, false) => "rx",
            (false, true) => "tx",
            (true, true) | (false, false) => "both",
        }
    }
}
