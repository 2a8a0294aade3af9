//! The versions of the CNI specification that we speak. What differs between them is asked of [`Version`]; everything else is
//! the same for all.

use std::fmt;

use serde_json::{Value, json};

use crate::error::{Code, Error};

/// A version, older ones first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 0.3.0
    V0_3_0,
    /// 0.3.1
    V0_3_1,
    /// 0.4.0: CHECK; `prevResult` with DEL.
    V0_4_0,
    /// 1.0.0: addresses without `version`.
    V1_0_0,
    /// 1.1.0: GC and STATUS; interfaces with `mtu` and `socketPath`.
    V1_1_0,
}

impl Version {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    /// Reads a configuration's `cniVersion`. One that is missing stands for 0.1.0.
    ///
    /// # Errors
    /// [`Code::Version`] for one that we do not speak.
    pub fn parse(text: Option<&str>) -> Result<Self, Error> {
        let text = text.unwrap_or("0.1.0");
        Self::ALL.into_iter().find(|version| version.as_str() == text).ok_or_else(|| {
            let details = format!("use one of {}", Self::ALL.map(Self::as_str).join(", "));
            Error::with(Code::Version, format!("cniVersion {text:?} is not supported"), details)
        })
    }

    /// As in `cniVersion`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// Whether addresses in results say whether they are of IPv4 or IPv6.
    pub fn marks_addresses(self) -> bool {
        self < Self::V1_0_0
    }

    /// Whether interfaces in results have `mtu` and `socketPath`.
    pub fn has_sockets(self) -> bool {
        self >= Self::V1_1_0
    }

    /// Whether there is the verb CHECK.
    pub fn has_check(self) -> bool {
        self >= Self::V0_4_0
    }

    /// Whether there are the verbs GC and STATUS.
    pub fn has_gc_and_status(self) -> bool {
        self >= Self::V1_1_0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The answer to VERSION, asked in version `asked`.
pub fn answer(asked: Option<&str>) -> Value {
    let asked = asked.unwrap_or(Version::V1_1_0.as_str());
    json!({ "cniVersion": asked, "supportedVersions": Version::ALL.map(Version::as_str) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for version in Version::ALL {
            assert_eq!(Version::parse(Some(version.as_str())), Ok(version));
        }
        for unknown in [None, Some("0.2.0"), Some("1.2.0"), Some(""), Some("1.0")] {
            assert_eq!(Version::parse(unknown).unwrap_err().code, Code::Version, "{unknown:?}");
        }
        let answer = answer(Some("0.4.0")).to_string();
        assert_eq!(answer, r#"{"cniVersion":"0.4.0","supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}"#);
    }
}
