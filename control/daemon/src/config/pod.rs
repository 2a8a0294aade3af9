//! A pod as it is wanted: its keys, read and written.
//!
//! A pod is where translators run that culvertd did not start. Its folders belong to the pod: whether they are there, and
//! what is in them, is looked at when it is needed and never trusted; see `pods`.

use std::path::PathBuf;

use toml::de::DeValue;

use super::section::{Report, Section};
use super::value::{self, Wrong};
use crate::name::Name;

/// One `[[pod]]`: a place of translators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its name, unique among pods.
    pub name: Name,
    /// The folders in which its translators have their sockets, at least one, none twice.
    pub folders: Vec<PathBuf>,
    /// Its network namespace.
    pub netns: Option<PathBuf>,
    /// The tap in that namespace that its translators get a packet socket on.
    pub tap: Option<String>,
    /// A text for persons.
    pub description: Option<String>,
}

/// Most entries of `folders`.
pub const MAX_FOLDERS: usize = 8;
/// Longest `description`, in bytes.
pub const MAX_DESCRIPTION_BYTES: usize = 200;

impl Pod {
    /// Reads a section. `None` when it has no name or no folders, or a tap without a namespace.
    pub(super) fn read(report: &mut Report<'_>, section: &mut Section<'_>) -> Option<Self> {
        let name = section.required(report, "name", "\"launcher-a\"", value::name);
        if !section.has("folders") {
            section.missing(report, "folders", "add a line such as folders = [\"/run/culvert/pods/a\"]");
        }
        let read_folder = |value: &DeValue<'_>| value::absolute_path(value, "\"/run/culvert/pods/a\"");
        let folders = section.list(report, "folders", "[\"/run/culvert/pods/a\"]", read_folder);
        let read_netns = |value: &DeValue<'_>| value::absolute_path(value, "\"/var/run/netns/a\"");
        let netns = section.optional(report, "netns", read_netns);
        let tap = section.optional(report, "tap", value::interface);
        let description = section.optional(report, "description", description);
        if section.is_empty_list("folders") {
            let remedy = "write at least one, like [\"/run/culvert/pods/a\"]";
            section.refuse(report, "folders", Wrong::new("names no folder", remedy));
        }
        if tap.is_some() && !section.has("netns") {
            let remedy = "add its namespace, such as netns = \"/var/run/netns/a\"";
            section.refuse(report, "tap", Wrong::new("is looked for in no namespace", remedy));
        }
        let mut distinct = Vec::new();
        for found in folders?.value {
            if distinct.contains(&found.value) {
                let wrong = Wrong::new("names this folder twice", "write each folder once");
                report.value(section.path("folders"), &found.span, wrong);
            } else {
                distinct.push(found.value);
            }
        }
        if distinct.len() > MAX_FOLDERS {
            let wrong = Wrong::new(format!("names more than {MAX_FOLDERS} folders"), "make several pods");
            section.refuse(report, "folders", wrong);
        }
        Some(Self {
            name: name?.value,
            folders: distinct,
            netns: netns.map(|found| found.value),
            tap: tap.map(|found| found.value),
            description: description.map(|found| found.value),
        })
    }

    /// The keys that [`Self::read`] reads this from, with their values as TOML.
    pub fn keys(&self) -> Vec<(&'static str, String)> {
        let folders: Vec<_> = self.folders.iter().map(|folder| value::toml_text(&folder.to_string_lossy())).collect();
        let mut keys =
            vec![("name", value::toml_text(self.name.as_str())), ("folders", format!("[{}]", folders.join(", ")))];
        if let Some(netns) = &self.netns {
            keys.push(("netns", value::toml_text(&netns.to_string_lossy())));
        }
        if let Some(tap) = &self.tap {
            keys.push(("tap", value::toml_text(tap)));
        }
        if let Some(description) = &self.description {
            keys.push(("description", value::toml_text(description)));
        }
        keys
    }
}

fn description(value: &DeValue<'_>) -> Result<String, Wrong> {
    let text = value::text(value, "\"virt-launcher of vm-a\"")?;
    if text.len() > MAX_DESCRIPTION_BYTES {
        return Err(Wrong::new(format!("is longer than {MAX_DESCRIPTION_BYTES} bytes"), "shorten it"));
    }
    Ok(text.to_owned())
}
