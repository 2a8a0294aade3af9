//! What an application in the container reads of its socket, in Userspace CNI's form, which its helper library app-netutil knows:
//! the pod's annotations `userspace/configuration-data` (a list) and `userspace/mapped-dir` where there is a kubeconfig, else a file
//! `configData-<container>-<interface>.json` (one element) beside the socket.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};
use serde_json::{Value, json};

use crate::attachment::Attachment;
use crate::beneath::Folder;
use crate::config::settings::Vhostuser;
use crate::config::userspace::{Side, Vhost};
use crate::environment::{self, AttachmentId};
use crate::error::Error;
use crate::kubernetes::Kubernetes;
use crate::name::short;
use crate::result::CniResult;

/// What is told of an attachment.
pub fn data(attachment: &Attachment, settings: &Vhostuser, socket: &OsStr, result: &CniResult) -> Value {
    let AttachmentId { container, ifname } = &attachment.id;
    let mut side = settings.userspace.clone().unwrap_or_else(|| Side {
        engine: Some("ovs-dpdk".to_owned()),
        iftype: Some("vhostuser".to_owned()),
        net_type: Some("interface".to_owned()),
        ..Side::default()
    });
    let vhost = side.vhost.get_or_insert_with(Vhost::default);
    vhost.mode = Some(settings.role.container().to_owned());
    vhost.socketfile = Some(socket.to_string_lossy().into_owned());
    json!({
        "containerId": container, "ifName": ifname, "name": attachment.network_name, "config": side,
        "ipResult": result.to_json(attachment.version),
    })
}

/// Tells it in the pod's annotations, among what they say of the pod's other interfaces.
///
/// # Errors
/// Kubernetes': [`crate::error::Code::TryLater`].
pub fn annotate(kubernetes: &Kubernetes, pod: &environment::Pod, mapped: &Path, data: &Value) -> Result<(), Error> {
    kubernetes.annotate(pod, |pod| {
        let before = pod.metadata.annotations.get(DATA).map(String::as_str);
        let list = with(before, data).to_string();
        let mapped = mapped.display().to_string();
        BTreeMap::from([(DATA.to_owned(), list), (FOLDER.to_owned(), mapped)])
    })
}

/// The list `before`, with `data` in place of what was said of the same interface.
fn with(before: Option<&str>, data: &Value) -> Value {
    let before: Vec<Value> = before.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let is_other = |known: &Value| known.get("ifName") != data.get("ifName");
    before.into_iter().filter(is_other).chain([data.clone()]).collect()
}

/// The name of an attachment's file.
pub fn file_name(id: &AttachmentId) -> OsString {
    format!("configData-{}-{}.json", short(&id.container), id.ifname).into()
}

/// Writes the file `name`, anew: what the pod may have put there is removed, and not followed.
///
/// # Errors
/// [`crate::error::Code::Io`].
pub fn write(folder: &Folder, name: &OsStr, data: &Value) -> Result<(), Error> {
    let broken = |error| Error::io(format!("{} cannot be written", name.display()), error);
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(broken(error)),
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mode = Mode::from_raw_mode(0o644);
    let file = rustix::fs::openat(folder, name, flags, mode).map_err(broken)?;
    // Whatever the mask of this process is.
    rustix::fs::fchmod(&file, mode).map_err(broken)?;
    let mut file = std::fs::File::from(file);
    std::io::Write::write_all(&mut file, data.to_string().as_bytes())
        .map_err(|error| Error::io(format!("{} cannot be written", name.display()), error))
}

const DATA: &str = "userspace/configuration-data";
const FOLDER: &str = "userspace/mapped-dir";

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn interfaces_are_listed_once() {
        let (one, other) = (json!({"ifName": "net1", "a": 1}), json!({"ifName": "net2"}));
        let again = json!({"ifName": "net1", "a": 2});
        assert_eq!(with(None, &one), json!([one]));
        assert_eq!(with(Some("no list"), &one), json!([one]));
        let both = with(Some(&json!([one]).to_string()), &other);
        assert_eq!(both, json!([one, other]));
        assert_eq!(with(Some(&both.to_string()), &again), json!([other, again]));
    }

    #[test]
    fn a_link_in_the_files_place_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let victim = folder.path().join("victim");
        fs::write(&victim, "untouched").unwrap();
        let pod = folder.path().join("pod");
        fs::create_dir(&pod).unwrap();
        let name = file_name(&AttachmentId::new("0f1e2d3c4b5a69788796", "net1").unwrap());
        assert_eq!(name, "configData-0f1e2d3c4b5a-net1.json");
        std::os::unix::fs::symlink(&victim, pod.join(&name)).unwrap();
        write(&Folder::open(&pod).unwrap(), &name, &json!({"a": 1})).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
        assert_eq!(fs::read_to_string(pod.join(&name)).unwrap(), r#"{"a":1}"#);
        // A folder in its place is left alone.
        fs::remove_file(pod.join(&name)).unwrap();
        fs::create_dir(pod.join(&name)).unwrap();
        assert!(write(&Folder::open(&pod).unwrap(), &name, &json!({})).is_err());
    }
}
