//! culvert-cni: what a container runtime calls to give a pod an interface of Culvert's, and to take it away (CNI specification,
//! 0.3.0 to 1.1.0). docs/CNI.md is for those who write its configuration.
//!
//! A call is one process: [`run`] reads the variables ([`environment`]) and standard input ([`config`]), does what the verb says
//! ([`verb`]) and writes a [`result`] or an [`error`]. What ADD makes is planned by a mode ([`vhostuser`], [`translator`],
//! [`tap`], [`netdev`]) as a list of [`thing`]s, which is written down ([`record`]) before any of them is made: undo, DEL and GC read it.
#![forbid(unsafe_code)]

pub mod application;
pub mod attachment;
pub mod beneath;
pub mod config;
pub mod daemon;
pub mod device_info;
pub mod environment;
pub mod error;
pub mod group;
pub mod ipam;
pub mod kubeconfig;
pub mod kubernetes;
pub mod link;
pub mod location;
pub mod name;
pub mod netdev;
pub mod netlink;
pub mod netns;
pub mod record;
pub mod result;
pub mod tap;
pub mod thing;
pub mod translator;
pub mod verb;
pub mod version;
pub mod vhostuser;
pub mod wire;

use std::io::{Read, Write};
use std::process::ExitCode;

use serde_json::Value;

use config::Input;
use environment::{Variables, Verb};
use error::Error;
use version::Version;

/// Answers one call: the whole of culvert-cni. The answer is one JSON object on `output`; nothing for a verb without one.
pub fn run(variables: &Variables, input: &mut dyn Read, output: &mut dyn Write) -> ExitCode {
    let mut asked = None;
    let answer = call(variables, input, &mut asked);
    let (answer, code) = match answer {
        Ok(answer) => (answer, ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("culvert-cni: {error}");
            let version = asked.as_deref().unwrap_or(Version::V1_1_0.as_str());
            (Some(error.to_json(version)), ExitCode::FAILURE)
        }
    };
    let Some(answer) = answer else { return code };
    match writeln!(output, "{answer}").and_then(|()| output.flush()) {
        Ok(()) => code,
        Err(error) => {
            eprintln!("culvert-cni: standard output: {error}");
            ExitCode::FAILURE
        }
    }
}

/// `asked` becomes the version that the runtime speaks.
fn call(variables: &Variables, input: &mut dyn Read, asked: &mut Option<String>) -> Result<Option<Value>, Error> {
    let Some(verb) = variables.verb()? else {
        eprintln!(
            "culvert-cni {} is a CNI plugin: container runtimes call it, with CNI_COMMAND set. It speaks {}",
            env!("CARGO_PKG_VERSION"),
            Version::ALL.map(Version::as_str).join(", ")
        );
        return Ok(None);
    };
    let input = Input::read(input)?;
    asked.clone_from(&input.cni_version);
    if verb == Verb::Version {
        return Ok(Some(version::answer(input.cni_version.as_deref())));
    }
    let version = Version::parse(input.cni_version.as_deref())?;
    match verb {
        Verb::Add => verb::add::run(version, variables, &input).map(Some),
        Verb::Del => verb::del::run(variables, &input).map(|()| None),
        Verb::Check => verb::check::run(version, variables, &input).map(|()| None),
        Verb::Gc => verb::gc::run(version, variables, &input).map(|()| None),
        Verb::Status => verb::status::run(version, variables, &input).map(|()| None),
        Verb::Version => Ok(None),
    }
}
