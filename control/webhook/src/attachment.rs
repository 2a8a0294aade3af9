//! What a NetworkAttachmentDefinition (NAD) means for the pod: which folder its sockets are in, and who makes them.
//!
//! Only what the webhook must know is read: the grammar belongs to culvert-cni, which refuses what is wrong in it. A
//! definition of other plugins is [`Attachment::Other`]. [`crate::cluster`] fetches the definitions.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::networks::is_label;

/// What a pod needs for one network.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Attachment {
    /// The guest's port is in culvertd; QEMU reaches it by a socket in this folder.
    Vhostuser {
        /// The socket's.
        folder: Folder,
        /// culvertd's.
        role: Role,
    },
    /// culvert-translator runs in the pod and has its sockets in a volume of the pod (modes `translator` and `tap`).
    Translator,
    /// None of ours.
    Other,
}

/// Where an interface's socket is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Folder {
    /// In a volume of the pod, of this name.
    Volume(String),
    /// In a folder that the device plugin puts into the container that asks for a port of this network.
    Device(String),
}

/// Who makes the socket, from culvertd's side.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// QEMU makes it, and culvertd connects.
    Connect,
    /// culvertd makes it, and QEMU connects.
    Listen,
}

impl Role {
    /// The word for it in configurations.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Listen => "listen",
        }
    }
}

/// A NetworkAttachmentDefinition, as the API server gives it; the rest of it is of no interest here.
#[derive(Debug, Default, Deserialize)]
pub struct Definition {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
}

#[derive(Debug, Default, Deserialize)]
struct Metadata {
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Default, Deserialize)]
struct Spec {
    config: Option<String>,
}

impl Definition {
    /// What it means. A configuration that is not JSON is not ours: Multus will refuse it.
    pub fn attachment(&self) -> Attachment {
        let config = self.spec.config.as_deref().and_then(|text| serde_json::from_str::<Value>(text).ok());
        let Some(config) = config else { return Attachment::Other };
        let Some(plugin) = plugins(&config).find(|plugin| is_ours(plugin)) else { return Attachment::Other };
        match plugin.get("mode").and_then(Value::as_str) {
            Some("translator" | "tap") => Attachment::Translator,
            _ => Attachment::Vhostuser { folder: self.folder(plugin), role: role(plugin) },
        }
    }

    fn folder(&self, plugin: &Value) -> Folder {
        let annotations = self.metadata.annotations.as_ref();
        let resource =
            annotations.and_then(|all| all.get(RESOURCE_ANNOTATION)).and_then(|it| it.strip_prefix(RESOURCE));
        let volume = plugin.get("volume").and_then(Value::as_str).filter(|name| is_label(name));
        match resource {
            Some(network) if is_label(network) => Folder::Device(network.to_owned()),
            _ => Folder::Volume(volume.unwrap_or(SHARED_DIR).to_owned()),
        }
    }
}

/// The plugins of a configuration, which may be a list of them, or itself one.
fn plugins(config: &Value) -> impl Iterator<Item = &Value> {
    match config.get("plugins").and_then(Value::as_array) {
        Some(list) => list.iter(),
        None => std::slice::from_ref(config).iter(),
    }
}

/// Also under the name of the plugin that it replaces.
fn is_ours(plugin: &Value) -> bool {
    matches!(plugin.get("type").and_then(Value::as_str), Some("culvert-cni" | "userspace"))
}

/// Our grammar has `role`; userspace CNI's has what the host's side does, or that of the container, its opposite.
fn role(plugin: &Value) -> Role {
    let at = |path: &str| plugin.pointer(path).and_then(Value::as_str);
    match (at("/role"), at("/host/vhost/mode"), at("/container/vhost/mode")) {
        (Some("connect"), _, _) | (None, Some("client"), _) | (None, None, Some("server")) => Role::Connect,
        _ => Role::Listen,
    }
}

/// The volume that sockets are in when the configuration does not name another.
pub const SHARED_DIR: &str = "shared-dir";

/// Says which resource of the kubelet an attachment takes: KubeVirt asks for one for each interface.
const RESOURCE_ANNOTATION: &str = "k8s.v1.cni.cncf.io/resourceName";
/// What the names of culvertd's resources begin with; a network's name follows.
const RESOURCE: &str = "culvert.dev/";

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(config: &str, resource: Option<&str>) -> Definition {
        let annotations = resource.map(|name| serde_json::json!({RESOURCE_ANNOTATION: name}));
        let object = serde_json::json!({
            "apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
            "metadata": {"name": "lab-net", "namespace": "lab", "annotations": annotations},
            "spec": {"config": config},
        });
        serde_json::from_value(object).unwrap()
    }

    fn volume(name: &str, role: Role) -> Attachment {
        Attachment::Vhostuser { folder: Folder::Volume(name.to_owned()), role }
    }

    #[test]
    fn our_grammar() {
        let cases = [
            (r#"{"type":"culvert-cni","mode":"vhostuser","network":"blue"}"#, volume("shared-dir", Role::Listen)),
            (r#"{"type":"culvert-cni","network":"blue","role":"connect","volume":"v"}"#, volume("v", Role::Connect)),
            (r#"{"type":"culvert-cni","mode":"translator"}"#, Attachment::Translator),
            (r#"{"type":"culvert-cni","mode":"tap","network":"blue"}"#, Attachment::Translator),
            (r#"{"type":"bridge","mode":"translator"}"#, Attachment::Other),
            (r#"{"plugins":[{"type":"tuning"},{"type":"culvert-cni","mode":"translator"}]}"#, Attachment::Translator),
            (r#"{"plugins":[{"type":"tuning"}]}"#, Attachment::Other),
            (r#"{"plugins":{"type":"culvert-cni"}}"#, Attachment::Other),
            ("", Attachment::Other),
            ("not JSON", Attachment::Other),
            ("[]", Attachment::Other),
        ];
        for (config, expected) in cases {
            assert_eq!(definition(config, None).attachment(), expected, "{config}");
        }
    }

    #[test]
    fn a_volume_with_a_name_that_no_volume_can_have_is_the_usual_one() {
        let config = r#"{"type":"culvert-cni","volume":"../x"}"#;
        assert_eq!(definition(config, None).attachment(), volume("shared-dir", Role::Listen));
    }

    #[test]
    fn a_network_with_a_resource_of_ours_needs_no_volume() {
        let config = r#"{"type":"culvert-cni","mode":"vhostuser","network":"blue"}"#;
        let device = Attachment::Vhostuser { folder: Folder::Device("blue".to_owned()), role: Role::Listen };
        assert_eq!(definition(config, Some("culvert.dev/blue")).attachment(), device);
        assert_eq!(definition(config, Some("intel.com/sriov")).attachment(), volume("shared-dir", Role::Listen));
        assert_eq!(definition(config, Some("culvert.dev/../x")).attachment(), volume("shared-dir", Role::Listen));
    }

    #[test]
    fn userspace_cnis_grammar() {
        let host = |mode: &str| {
            format!(r#"{{"type":"userspace","host":{{"engine":"ovs-dpdk","vhost":{{"mode":"{mode}"}}}}}}"#)
        };
        assert_eq!(definition(&host("client"), None).attachment(), volume("shared-dir", Role::Connect));
        assert_eq!(definition(&host("server"), None).attachment(), volume("shared-dir", Role::Listen));
        let container = r#"{"type":"culvert-cni","host":{},"container":{"vhost":{"mode":"server"}}}"#;
        assert_eq!(definition(container, None).attachment(), volume("shared-dir", Role::Connect));
    }

    #[test]
    fn a_definition_without_metadata_or_spec_is_none_of_ours() {
        assert_eq!(serde_json::from_str::<Definition>("{}").unwrap().attachment(), Attachment::Other);
    }
}
