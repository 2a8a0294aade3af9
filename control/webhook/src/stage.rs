//! The stages in which KubeVirt retired passt's interface API, and what each means for a virtual machine: a pure table.
//!
//! Source: KubeVirt's design "Passt binding plugin replacement": 1.2 warns, and machines go on working; from 1.3 on new ones are
//! refused, those that exist do not start again, and those that run are left alone.

use std::str::FromStr;

use clap::ValueEnum;
use thiserror::Error;

/// How far the retirement is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Stage {
    /// Nothing is said.
    Allow,
    /// Whoever uses it is told.
    Warn,
    /// It may not be used any more.
    Block,
}

/// What a request does to a virtual machine that uses the API.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Life {
    /// It begins to use it.
    New,
    /// It used it before, and is started.
    Restarted,
    /// It used it before, and goes on: it runs, or lies stopped.
    Running,
}

/// What becomes of the request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Decision {
    /// It is allowed.
    Allow,
    /// It is allowed with a warning.
    Warn,
    /// It is refused.
    Refuse,
}

/// What becomes of a request.
pub fn decide(stage: Stage, life: Life) -> Decision {
    match (stage, life) {
        (Stage::Allow, _) => Decision::Allow,
        (Stage::Warn, _) | (Stage::Block, Life::Running) => Decision::Warn,
        (Stage::Block, Life::New | Life::Restarted) => Decision::Refuse,
    }
}

impl Stage {
    /// The stage of passt's API in a version of KubeVirt.
    pub fn of(version: KubevirtVersion) -> Self {
        match version {
            KubevirtVersion { major: 0, .. } | KubevirtVersion { major: 1, minor: 0 | 1 } => Self::Allow,
            KubevirtVersion { major: 1, minor: 2 } => Self::Warn,
            _ => Self::Block,
        }
    }
}

/// A version of KubeVirt, as far as it matters.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct KubevirtVersion {
    /// 1 since 2023.
    pub major: u32,
    /// Which release.
    pub minor: u32,
}

/// What is no version.
#[derive(Debug, Eq, Error, PartialEq)]
#[error("this is no version of KubeVirt: write one such as v1.6.0 or 1.6")]
pub struct NoVersion;

impl FromStr for KubevirtVersion {
    type Err = NoVersion;

    fn from_str(text: &str) -> Result<Self, NoVersion> {
        let mut numbers = text.strip_prefix('v').unwrap_or(text).split(['.', '-', '+']);
        let mut number = || numbers.next().and_then(|number| number.parse().ok()).ok_or(NoVersion);
        Ok(Self { major: number()?, minor: number()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table() {
        let table = [
            (Stage::Allow, [Decision::Allow, Decision::Allow, Decision::Allow]),
            (Stage::Warn, [Decision::Warn, Decision::Warn, Decision::Warn]),
            (Stage::Block, [Decision::Refuse, Decision::Refuse, Decision::Warn]),
        ];
        for (stage, decisions) in table {
            let decided = [Life::New, Life::Restarted, Life::Running].map(|life| decide(stage, life));
            assert_eq!(decided, decisions, "{stage:?}");
        }
    }

    #[test]
    fn stages_by_version() {
        for (version, stage) in [
            ("v0.59.2", Stage::Allow),
            ("1.0", Stage::Allow),
            ("v1.1.1", Stage::Allow),
            ("v1.2.0-alpha.0", Stage::Warn),
            ("v1.2.2", Stage::Warn),
            ("v1.3.0", Stage::Block),
            ("1.6", Stage::Block),
            ("v1.10.0", Stage::Block),
            ("v2.0.0", Stage::Block),
        ] {
            assert_eq!(version.parse().map(Stage::of), Ok(stage), "{version}");
        }
        for text in ["", "v", "1", "latest", "v1.x", "-1.2", "1.2.3.99999999999 "] {
            let parsed = text.parse::<KubevirtVersion>();
            assert_eq!(parsed.is_err(), !text.starts_with("1.2"), "{text}");
        }
    }
}
