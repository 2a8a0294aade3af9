//! The device-info file by which Multus learns of the socket (device-info specification 1.1.0).

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::config::settings::Role;
use crate::error::{Code, Error};

/// What is told of a socket that is at `path` in the container.
pub fn describe(role: Role, path: &Path) -> Value {
    // `mode` is the container's role.
    let socket = json!({ "mode": role.container(), "path": path.display().to_string() });
    json!({ "type": "vhost-user", "version": "1.1.0", "vhost-user": socket })
}

/// Writes the file `path`, in place of one that the device plugin's was copied to.
///
/// # Errors
/// [`Code::Io`].
pub fn write(path: &Path, role: Role, socket: &Path) -> Result<(), Error> {
    let broken = |error: std::io::Error| Error::io(format!("{} cannot be written", path.display()), error);
    let Some(folder) = path.parent() else {
        return Err(Error::new(Code::Config, format!("{} is no file's path", path.display())));
    };
    fs::create_dir_all(folder).map_err(broken)?;
    let hidden = unfinished(path);
    // Left behind by a killed call.
    let _ = fs::remove_file(&hidden);
    let mut file = fs::File::options().write(true).create_new(true).mode(0o444).open(&hidden).map_err(broken)?;
    let written = file.write_all(describe(role, socket).to_string().as_bytes());
    written.and_then(|()| fs::rename(&hidden, path)).map_err(|error| {
        let _ = fs::remove_file(&hidden);
        broken(error)
    })
}

/// Where the file `path` is while it is written.
pub fn unfinished(path: &Path) -> PathBuf {
    let mut hidden = OsString::from(".");
    hidden.push(path.file_name().unwrap_or_default());
    path.with_file_name(hidden)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn it_replaces_the_device_plugins() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("devinfo/cni/lab-lab-net-0f1e2d_pod494bb167e44");
        for role in [Role::Listen, Role::Connect] {
            write(&path, role, Path::new("/var/run/culvert/sw0/pod494bb167e44.sock")).unwrap();
            let told: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            let mode = if role == Role::Listen { "client" } else { "server" };
            let expected = json!({
                "type": "vhost-user", "version": "1.1.0",
                "vhost-user": {"mode": mode, "path": "/var/run/culvert/sw0/pod494bb167e44.sock"},
            });
            assert_eq!(told, expected);
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o444);
        }
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }
}
