//! What a NetworkAttachmentDefinition (NAD) means for the pod: which folder its sockets are in, and who makes them.
//!
//! The grammar is culvert-cni's, which will be called with the same text: what it would refuse later is refused here, where
//! people see the reason at once. A definition of other plugins is [`Attachment::Other`]. [`crate::cluster`] fetches the
//! definitions.

use std::collections::BTreeMap;
use std::path::PathBuf;

use culvert_cni::config::Config;
use culvert_cni::config::settings::{Role, Settings, Vhostuser};
use culvert_cni::environment::Pod;
use serde::Deserialize;
use serde_json::Value;

/// What a pod needs for one network.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Attachment {
    /// The guest's port is in culvertd; QEMU reaches it by a socket.
    Vhostuser {
        /// Where the socket is.
        folder: Folder,
        /// Whether culvertd makes it.
        role: Role,
        /// Queue pairs of the port: QEMU may ask for so many.
        queues: u32,
    },
    /// culvert-translator runs in the pod and has its sockets in a volume of the pod: mode `translator`, and `tap` without a
    /// network.
    Translator,
    /// None of ours.
    Other,
}

/// Where an interface's socket is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Folder {
    /// In a volume of the pod.
    Volume {
        /// Its name.
        name: String,
        /// Where it is mounted in containers, if it is not yet.
        path: String,
    },
    /// In a folder that the device plugin puts into the container that asks for a port of this network.
    Device(String),
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
    ///
    /// # Errors
    /// The sentence of culvert-cni, for a configuration that it would refuse.
    pub fn attachment(&self) -> Result<Attachment, String> {
        let config = self.spec.config.as_deref().and_then(|text| serde_json::from_str::<Value>(text).ok());
        let Some(config) = config else { return Ok(Attachment::Other) };
        let Some(plugin) = plugins(&config).find(|plugin| is_ours(plugin)) else { return Ok(Attachment::Other) };
        let mut config = Config::deserialize(plugin).map_err(|error| error.to_string())?;
        // Names of groups are known on the node only.
        if let Some(vhost) = config.host.as_mut().and_then(|host| host.vhost.as_mut()) {
            vhost.group = None;
        }
        // It will be a Kubernetes pod's; whose, makes no difference.
        let pod = Pod { uid: Some(String::new()), ..Pod::default() };
        match Settings::of(&config, &pod).map_err(|error| error.to_string())? {
            // A tap on a network of culvertd's is attached by KubeVirt, and nothing in the pod has a socket.
            Settings::Tap(tap) if tap.port.is_some() => Ok(Attachment::Other),
            Settings::Netdev(_) => Ok(Attachment::Other),
            Settings::Tap(_) | Settings::Translator(_) => Ok(Attachment::Translator),
            Settings::Vhostuser(settings) => {
                let Vhostuser { role, queues, .. } = *settings;
                Ok(Attachment::Vhostuser { folder: self.folder(&config, &settings)?, role, queues })
            }
        }
    }

    /// The device plugin's folder is named after the resource, which culvert-cni does not see: both must be of one network.
    fn folder(&self, config: &Config, settings: &Vhostuser) -> Result<Folder, String> {
        let annotations = self.metadata.annotations.as_ref();
        let resource =
            annotations.and_then(|all| all.get(RESOURCE_ANNOTATION)).and_then(|it| it.strip_prefix(RESOURCE));
        let network = &settings.port.network;
        match resource {
            Some(resource) if resource == network => Ok(Folder::Device(network.clone())),
            Some(resource) => Err(format!(
                "the annotation {RESOURCE_ANNOTATION} is {RESOURCE}{resource}, but the network is {network}; write \
                 {RESOURCE}{network}"
            )),
            None => {
                let name = settings.volume.clone();
                // Two volumes of one pod cannot be at the same place.
                let usual = config.mount_path.is_some() || name == SHARED_DIR;
                let path = if usual { settings.mount_path.clone() } else { PathBuf::from(OTHER_VOLUMES).join(&name) };
                Ok(Folder::Volume { name, path: path.to_string_lossy().into_owned() })
            }
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

/// The volume that sockets are in when the configuration does not name another.
const SHARED_DIR: &str = "shared-dir";
/// Where volumes of other names are, each under its own.
const OTHER_VOLUMES: &str = "/var/lib/cni";
/// Says which resource of the kubelet an attachment takes: KubeVirt asks for one for each interface.
const RESOURCE_ANNOTATION: &str = "k8s.v1.cni.cncf.io/resourceName";
/// What the names of culvertd's resources begin with; a network's name follows.
const RESOURCE: &str = "culvert.dev/";

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(config: &str, resource: Option<&str>) -> Result<Attachment, String> {
        let annotations = resource.map(|name| serde_json::json!({RESOURCE_ANNOTATION: name}));
        let object = serde_json::json!({
            "apiVersion": "k8s.cni.cncf.io/v1", "kind": "NetworkAttachmentDefinition",
            "metadata": {"name": "lab-net", "namespace": "lab", "annotations": annotations},
            "spec": {"config": config},
        });
        serde_json::from_value::<Definition>(object).unwrap().attachment()
    }

    fn volume(name: &str, path: &str, role: Role) -> Attachment {
        let folder = Folder::Volume { name: name.to_owned(), path: path.to_owned() };
        Attachment::Vhostuser { folder, role, queues: 16 }
    }

    #[test]
    fn our_grammar() {
        let usual = volume("shared-dir", "/var/lib/cni/usrcni", Role::Listen);
        let cases = [
            (r#"{"type":"culvert-cni","mode":"vhostuser","network":"blue"}"#, usual),
            (
                r#"{"type":"culvert-cni","mode":"vhostuser","network":"blue","role":"connect","volume":"v"}"#,
                volume("v", "/var/lib/cni/v", Role::Connect),
            ),
            (
                r#"{"type":"culvert-cni","mode":"vhostuser","network":"blue","volume":"v","mountPath":"/x"}"#,
                volume("v", "/x", Role::Listen),
            ),
            (r#"{"type":"culvert-cni","mode":"translator"}"#, Attachment::Translator),
            (r#"{"type":"culvert-cni","mode":"tap"}"#, Attachment::Translator),
            (r#"{"type":"culvert-cni","mode":"tap","network":"blue"}"#, Attachment::Other),
            (r#"{"type":"culvert-cni","mode":"netdev","network":"blue"}"#, Attachment::Other),
            (r#"{"type":"bridge","mode":"translator"}"#, Attachment::Other),
            (r#"{"plugins":[{"type":"tuning"},{"type":"culvert-cni","mode":"translator"}]}"#, Attachment::Translator),
            (r#"{"plugins":[{"type":"tuning"}]}"#, Attachment::Other),
            (r#"{"plugins":{"type":"culvert-cni"}}"#, Attachment::Other),
            ("", Attachment::Other),
            ("not JSON", Attachment::Other),
            ("[]", Attachment::Other),
        ];
        for (config, expected) in cases {
            assert_eq!(meaning(config, None), Ok(expected), "{config}");
        }
    }

    #[test]
    fn what_culvert_cni_would_refuse_is_refused_with_its_sentence() {
        let cases = [
            (r#"{"type":"culvert-cni"}"#, "mode is missing"),
            (r#"{"type":"culvert-cni","mode":"vhostuser"}"#, "network is missing"),
            (r#"{"type":"culvert-cni","mode":"vhost","network":"blue"}"#, r#"mode "vhost" is unknown"#),
            (r#"{"type":"culvert-cni","mode":"vhostuser","network":"blue","volume":"../x"}"#, r#"volume "../x""#),
            (r#"{"type":"culvert-cni","mode":7}"#, "expected a string"),
        ];
        for (config, expected) in cases {
            let sentence = meaning(config, None).unwrap_err();
            assert!(sentence.contains(expected), "{config}: {sentence}");
        }
    }

    #[test]
    fn a_network_with_a_resource_of_ours_needs_no_volume() {
        let config = r#"{"type":"culvert-cni","mode":"vhostuser","network":"blue"}"#;
        let device =
            Attachment::Vhostuser { folder: Folder::Device("blue".to_owned()), role: Role::Listen, queues: 16 };
        assert_eq!(meaning(config, Some("culvert.dev/blue")), Ok(device));
        let usual = volume("shared-dir", "/var/lib/cni/usrcni", Role::Listen);
        assert_eq!(meaning(config, Some("intel.com/sriov")), Ok(usual));
        let sentence = meaning(config, Some("culvert.dev/green")).unwrap_err();
        assert!(sentence.ends_with("the network is blue; write culvert.dev/blue"), "{sentence}");
    }

    #[test]
    fn userspace_cnis_grammar_with_its_place() {
        let config = |mode: &str| {
            let host =
                format!(r#""engine":"ovs-dpdk","iftype":"vhostuser","vhost":{{"mode":"{mode}","group":"kvmg"}}"#);
            format!(r#"{{"type":"userspace","host":{{{host}}},"container":{{"engine":"ovs-dpdk"}}}}"#)
        };
        let there = |role: Role| {
            let folder = Folder::Volume { name: "shared-dir".to_owned(), path: "/var/lib/cni/usrspcni".to_owned() };
            Attachment::Vhostuser { folder, role, queues: 1 }
        };
        assert_eq!(meaning(&config("client"), None), Ok(there(Role::Connect)));
        assert_eq!(meaning(&config("server"), None), Ok(there(Role::Listen)));
    }

    #[test]
    fn a_definition_without_metadata_or_spec_is_none_of_ours() {
        assert_eq!(serde_json::from_str::<Definition>("{}").unwrap().attachment(), Ok(Attachment::Other));
    }
}
