//! What the edit knows besides domain and VMI: who this sidecar is, and what the pod says of its networks.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use crate::binding::Binding;
use crate::network_info::{self, NetworkInfo, ReadError, StatusEntry};

/// Everything besides domain and VMI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// The binding's name in the KubeVirt CR (NETWORK_BINDING_PLUGIN_NAME); `None` where KubeVirt does not tell it.
    pub binding_name: Option<String>,
    /// What the binding is, when its name does not say it (CULVERT_BINDING).
    pub binding: Option<Binding>,
    /// A VMI without interfaces of ours is left as it is, where KubeVirt calls the hook for any VMI.
    pub may_be_unused: bool,
    /// The file `network-info`, where it is mounted.
    pub network_info: Option<NetworkInfo>,
    /// What culvert-webhook has written for this pod (CULVERT_INTERFACES), by the pod's interface.
    pub declared: BTreeMap<String, Declared>,
    /// The pod's annotation `network-status`, where podinfo is mounted.
    pub network_status: Vec<StatusEntry>,
    /// Where translators' sockets are.
    pub translator_folder: TranslatorFolder,
    /// The pod's primary interface (CULVERT_POD_INTERFACE), where the VMI's status does not tell it.
    pub pod_interface: Option<String>,
}

impl Default for Context {
    /// A sidecar of the usual names, whose pod says nothing.
    fn default() -> Self {
        Self {
            binding_name: None,
            binding: None,
            may_be_unused: false,
            network_info: None,
            declared: BTreeMap::new(),
            network_status: Vec::new(),
            translator_folder: TranslatorFolder::Volume(TRANSLATOR_VOLUME.into()),
            pod_interface: None,
        }
    }
}

/// Where an interface's socket is, as culvert-webhook declares it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Declared {
    /// The folder, in the compute container.
    pub folder: String,
    /// Our role.
    #[serde(default)]
    pub role: Role,
    /// How many queue pairs the port has, if not as many as a guest wants.
    #[serde(default)]
    pub queues: Option<u64>,
}

/// Who creates a socket, in culvertd's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// culvertd does.
    #[default]
    Listen,
    /// QEMU does.
    Connect,
}

/// Where translators' sockets are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TranslatorFolder {
    /// In a volume that compute and sidecar see under one name, the same on every node.
    Volume(PathBuf),
    /// Below the hook folder, whose name in the compute container depends on the sidecar's.
    HookFolder {
        /// As this program sees it.
        here: PathBuf,
        /// As QEMU sees it.
        compute: PathBuf,
    },
}

/// Reads CULVERT_INTERFACES.
///
/// # Errors
/// It is not of that form.
pub fn declared(text: &str) -> Result<BTreeMap<String, Declared>, ReadError> {
    network_info::parse("CULVERT_INTERFACES", text.as_bytes())
}

/// Where culvert-webhook mounts the volume for translators' sockets.
pub const TRANSLATOR_VOLUME: &str = "/var/run/culvert-translator";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_webhook_s_variable_is_read() {
        let text =
            r#"{"pod494bb167e44":{"folder":"/var/lib/cni/usrcni","role":"connect"},"podb":{"folder":"/a","queues":1}}"#;
        let read = declared(text).unwrap();
        let expected = Declared { folder: "/var/lib/cni/usrcni".to_owned(), role: Role::Connect, queues: None };
        assert_eq!(read.get("pod494bb167e44"), Some(&expected));
        let podb = read.get("podb").unwrap();
        assert_eq!((podb.role, podb.queues), (Role::Listen, Some(1)));
        let error = declared(r#"{"a":{"folder":"/a","role":"server"}}"#).unwrap_err().to_string();
        assert!(error.starts_with("CULVERT_INTERFACES cannot be read: ") && error.contains("server"), "{error}");
    }
}
