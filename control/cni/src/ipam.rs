//! The IPAM plugin: another program in CNI_PATH, called with our variables and our standard input, whose result has the
//! addresses (CNI 1.1.0, section 4, "Plugin Delegation").

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::environment::{AttachmentId, Verb};
use crate::error::{Code, Error};
use crate::result::CniResult;

/// The plugin that a configuration names.
#[derive(Clone, Debug)]
pub struct Ipam<'a> {
    program: PathBuf,
    input: &'a [u8],
}

impl<'a> Ipam<'a> {
    /// Finds the plugin called `name` in `folders`; `input` is our standard input.
    ///
    /// # Errors
    /// [`Code::Config`] for a name that is a path, or that no folder has.
    pub fn find(name: &str, folders: &[&Path], input: &'a [u8]) -> Result<Self, Error> {
        if name.contains('/') || name.contains('\0') || matches!(name, "." | "..") {
            return Err(Error::new(Code::Config, format!("ipam.type {name:?} is no plugin's name")));
        }
        let is_program =
            |path: &PathBuf| path.metadata().is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0);
        let program = folders.iter().map(|folder| folder.join(name)).find(is_program);
        let missing = || {
            let message = format!("the IPAM plugin {name:?} is in no folder of CNI_PATH");
            Error::with(Code::Config, message, "install it there, or correct ipam.type")
        };
        Ok(Self { program: program.ok_or_else(missing)?, input })
    }

    /// Asks for addresses. None is an error: the plugin promised some.
    ///
    /// # Errors
    /// The plugin's, with its code; [`Code::Io`] when it cannot be run, [`Code::Decode`] when its answer is no result.
    pub fn add(&self) -> Result<CniResult, Error> {
        let answer = self.call(Verb::Add, None)?;
        let value: Value = serde_json::from_slice(&answer).map_err(|error| {
            Error::with(Code::Decode, format!("{} answered no JSON", self.program.display()), error)
        })?;
        let result = CniResult::parse(&format!("the answer of {}", self.program.display()), value)?;
        if result.ips.is_empty() {
            return Err(Error::new(Code::Config, format!("{} gave no address", self.program.display())));
        }
        Ok(result)
    }

    /// Gives the addresses back: those of this call's attachment, or of `id`.
    ///
    /// # Errors
    /// As of [`Ipam::add`].
    pub fn del(&self, id: Option<&AttachmentId>) -> Result<(), Error> {
        self.call(Verb::Del, id).map(drop)
    }

    /// Passes on a verb without a result. A plugin that is older than GC and STATUS has nothing to say to them.
    ///
    /// # Errors
    /// As of [`Ipam::add`].
    pub fn pass(&self, verb: Verb) -> Result<(), Error> {
        match self.call(verb, None) {
            Err(error) if error.code == UNKNOWN_VERB && matches!(verb, Verb::Gc | Verb::Status) => Ok(()),
            result => result.map(drop),
        }
    }

    fn call(&self, verb: Verb, id: Option<&AttachmentId>) -> Result<Vec<u8>, Error> {
        let shown = self.program.display();
        let broken = |error: std::io::Error| Error::io(format!("the IPAM plugin {shown} cannot be run"), error);
        let mut command = Command::new(&self.program);
        command.env("CNI_COMMAND", verb.as_str()).stdin(Stdio::piped()).stdout(Stdio::piped());
        if let Some(id) = id {
            command.env("CNI_CONTAINERID", &id.container).env("CNI_IFNAME", &id.ifname);
            command.env_remove("CNI_NETNS");
        }
        let mut child = command.spawn().map_err(broken)?;
        // It may end without reading all, and it may answer before it has: the answer says what matters.
        let written = child.stdin.take().map(|mut stdin| {
            let input = self.input.to_vec();
            std::thread::spawn(move || stdin.write_all(&input))
        });
        let mut answer = Vec::new();
        let read = match child.stdout.take() {
            Some(stdout) => stdout.take(MAX_ANSWER_BYTES).read_to_end(&mut answer),
            None => Ok(0),
        };
        let status = child.wait().map_err(broken)?;
        drop(written.map(std::thread::JoinHandle::join));
        read.map_err(broken)?;
        if status.success() { Ok(answer) } else { Err(self.refusal(&answer, status)) }
    }

    /// The plugin's error, as it wrote it.
    fn refusal(&self, answer: &[u8], status: std::process::ExitStatus) -> Error {
        let shown = self.program.display();
        let told: Value = serde_json::from_slice(answer).unwrap_or_default();
        let text = |key: &str| told.get(key).and_then(Value::as_str).unwrap_or_default();
        match told.get("code").and_then(Value::as_u64).and_then(|code| u32::try_from(code).ok()) {
            Some(code) => {
                Error::with(Code::Delegate(code), format!("IPAM plugin {shown}: {}", text("msg")), text("details"))
            }
            None => Error::with(Code::Io, format!("the IPAM plugin {shown} failed"), status),
        }
    }
}

/// What plugins say of a CNI_COMMAND that they do not know.
const UNKNOWN_VERB: Code = Code::Delegate(4);

/// The longest answer that is read, in bytes.
const MAX_ANSWER_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    /// A plugin that does what the script says.
    fn plugin(folder: &Path, script: &str) {
        let path = folder.join("fake");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    }

    fn add(script: &str) -> Result<CniResult, Error> {
        let folder = tempfile::tempdir().unwrap();
        plugin(folder.path(), script);
        Ipam::find("fake", &[Path::new("/nonexistent"), folder.path()], b"{\"name\":\"x\"}").unwrap().add()
    }

    #[test]
    fn it_gets_our_input_and_its_answer_is_read() {
        let script = r#"[ "$CNI_COMMAND" = ADD ] && [ "$(cat)" = '{"name":"x"}' ] && echo '{"ips":[{"address":"192.0.2.5/25"}]}'"#;
        assert_eq!(add(script).unwrap().ips[0].address, "192.0.2.5/25");
        // It may leave our input unread.
        assert!(add(r#"echo '{"ips":[{"address":"192.0.2.5/25"}]}'"#).is_ok());
    }

    #[test]
    fn its_failures_are_told() {
        let error = add(r#"cat >/dev/null; echo '{"code":11,"msg":"full","details":"later"}'; exit 1"#).unwrap_err();
        assert_eq!((error.code.number(), error.details.as_str()), (11, "later"));
        assert!(error.message.ends_with("fake: full"), "{error}");
        assert_eq!(add("exit 3").unwrap_err().code, Code::Io);
        assert_eq!(add("echo hello").unwrap_err().code, Code::Decode);
        assert_eq!(add(r#"echo '{"ips":[]}'"#).unwrap_err().code, Code::Config);
        for name in ["../fake", "/bin/true", "..", "nonexistent"] {
            assert_eq!(Ipam::find(name, &[Path::new("/bin")], b"").unwrap_err().code, Code::Config, "{name}");
        }
    }
}
