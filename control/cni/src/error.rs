//! What goes wrong in a call, with the code that the CNI specification gives it (1.1.0, section 5, "Error").
//!
//! A runtime decides by the code what to do next: it tries again after [`Code::TryLater`], and gives up after others.

use std::fmt::{self, Display};
use std::io;

use serde_json::{Value, json};

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What kind of failure.
    pub code: Code,
    /// What was wrong, with what.
    pub message: String,
    /// The reason and the remedy; may be empty.
    pub details: String,
}

/// The specification's codes, and ours from 100 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// A version of the specification that we do not speak.
    Version,
    /// The container or its network namespace is not there.
    UnknownContainer,
    /// A CNI_ variable is missing or wrong.
    Environment,
    /// A file or process could not be read, written or run.
    Io,
    /// Standard input is not a configuration.
    Decode,
    /// The configuration asks for what cannot be.
    Config,
    /// Culvertd is not there yet, or cannot do it at present.
    TryLater,
    /// STATUS: no interface can be added at present.
    NotAvailable,
    /// STATUS: interfaces that were added may not work at present.
    Limited,
    /// ADD of an interface that is there.
    Exists,
    /// CHECK: what ADD made is not there any more, or different.
    Changed,
    /// GC: something could not be removed.
    Remains,
    /// A delegated plugin's own code.
    Delegate(u32),
}

impl Code {
    /// As it stands in an error's JSON.
    pub fn number(self) -> u32 {
        match self {
            Self::Version => 1,
            Self::UnknownContainer => 3,
            Self::Environment => 4,
            Self::Io => 5,
            Self::Decode => 6,
            Self::Config => 7,
            Self::TryLater => 11,
            Self::NotAvailable => 50,
            Self::Limited => 51,
            Self::Exists => 100,
            Self::Changed => 101,
            Self::Remains => 102,
            Self::Delegate(number) => number,
        }
    }
}

impl Error {
    /// With a message alone.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: String::new() }
    }

    /// With details: the reason and the remedy.
    pub fn with(code: Code, message: impl Into<String>, details: impl Display) -> Self {
        Self { code, message: message.into(), details: details.to_string() }
    }

    /// A file that could not be used: `what` says what was tried, with the file's path.
    pub fn io(what: impl Into<String>, error: impl Into<io::Error>) -> Self {
        Self::with(Code::Io, what, error.into())
    }

    /// As it is written to standard output.
    pub fn to_json(&self, cni_version: &str) -> Value {
        json!({
            "cniVersion": cni_version, "code": self.code.number(), "msg": self.message, "details": self.details,
        })
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if !self.details.is_empty() {
            write!(f, ": {}", self.details)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_as_runtimes_read_it() {
        let error = Error::with(Code::TryLater, "daemon not ready", "connect /run/ctl.sock: refused");
        let json = json!({
            "cniVersion": "1.0.0", "code": 11, "msg": "daemon not ready", "details": "connect /run/ctl.sock: refused",
        });
        assert_eq!(error.to_json("1.0.0"), json);
        assert_eq!(error.to_string(), "daemon not ready: connect /run/ctl.sock: refused");
        assert_eq!(Error::new(Code::Config, "no mode").to_string(), "no mode");
    }
}
