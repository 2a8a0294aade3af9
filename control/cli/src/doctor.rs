//! `culvertctl doctor`: whether this node has what Culvert needs, and what to change. It asks files below /proc, /sys and /dev, and the
//! configuration; culvertd need not run.
//!
//! Each file beside this one is an area and looks at one thing after the other. All that they look at is below one folder, which
//! is `/` but in tests.

mod cores;
mod daemon;
mod devices;
mod folders;
mod hugepages;
mod kernel;
mod kubevirt;
mod migration;
mod node;
mod settings;

use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use crate::arguments::Format;
use crate::colour::{self, Colour};
use node::Node;
use settings::Settings;

/// What was found at one place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, such as `hugepages`.
    pub check: &'static str,
    /// Whether it is well.
    pub level: Level,
    /// What was found, as a sentence.
    pub found: String,
    /// What to change; nothing where it is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// Whether something is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// It is.
    Ok,
    /// Culvert works, but not as well as it could, or not all of it.
    Warning,
    /// Culvert, or a part of it that is configured, does not work.
    Error,
}

impl Finding {
    /// It is well.
    pub fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, level: Level::Ok, found: found.into(), remedy: None }
    }

    /// It could be better.
    pub fn warning(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, level: Level::Warning, found: found.into(), remedy: Some(remedy.into()) }
    }

    /// It does not work.
    pub fn error(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, level: Level::Error, found: found.into(), remedy: Some(remedy.into()) }
    }
}

/// Looks at everything. The text, and whether there is an error.
///
/// # Errors
/// None for the types used here.
pub async fn run(config: &Path, control_socket: &Path, format: Format) -> Result<(String, bool)> {
    let findings = look(&Node::of_this_machine(), config, control_socket).await;
    let failed = findings.iter().any(|finding| finding.level == Level::Error);
    let text = match format.data() {
        Some(data) => data.text(&findings)?,
        None => text(&findings),
    };
    Ok((text, failed))
}

/// Everything, in the order in which one would set up a node.
pub async fn look(node: &Node, config: &Path, control_socket: &Path) -> Vec<Finding> {
    let (settings, finding) = Settings::read(config);
    let mut findings = vec![finding];
    findings.extend(kernel::look(node));
    findings.extend(hugepages::look(node, &settings));
    findings.extend(cores::look(node, &settings));
    findings.extend(devices::look(node, &settings));
    findings.extend(folders::look(node, &settings, control_socket));
    findings.extend(kubevirt::look(node));
    findings.extend(migration::look(node, &settings));
    findings.extend(daemon::look(control_socket).await);
    findings
}

fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    for Finding { check, level, found, remedy } in findings {
        let (word, colour) = match level {
            Level::Ok => ("ok", Colour::Green),
            Level::Warning => ("warning", Colour::Yellow),
            Level::Error => ("error", Colour::Red),
        };
        let word = colour::paint(&format!("{word:<8}"), colour);
        text.push_str(&format!("{word} {check:<12} {found}\n"));
        if let Some(remedy) = remedy {
            text.push_str(&format!("{:<21} -> {remedy}\n", ""));
        }
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    text.push_str(&format!("\n{} errors, {} warnings\n", count(Level::Error), count(Level::Warning)));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_change_stands_below_what_was_found() {
        let findings =
            [Finding::ok("kernel", "Linux 6.1"), Finding::error("cores", "core 9 is not there", "name another")];
        let expected = "\
ok       kernel       Linux 6.1
error    cores        core 9 is not there
                      -> name another

1 errors, 0 warnings
";
        assert_eq!(text(&findings), expected);
    }
}
