//! A network configuration as it stands on standard input: read into plain values here, made into validated settings in
//! [`settings`]. Keys that we do not know are ignored, as CNI plugins do; docs/CNI.md explains those that we know.
//!
//! There is one grammar with two faces: ours, and that of Userspace CNI, recognised by its `host` or `container` object
//! ([`userspace`]).

use std::io::Read;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::environment::AttachmentId;
use crate::error::{Code, Error};

pub mod rates;
pub mod settings;
pub mod userspace;

/// A configuration as it was written.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Config {
    /// The network's name, for which addresses are kept.
    pub name: Option<String>,
    /// `vhostuser`, `translator`, `tap` or `netdev`.
    pub mode: Option<String>,
    /// Culvertd's network.
    pub network: Option<String>,
    /// The VLAN of the guest's port.
    pub vlan: Option<u32>,
    /// `listen` or `connect`.
    pub role: Option<String>,
    /// The pod's volume where the socket is to be.
    pub volume: Option<String>,
    /// Where that volume is mounted in the container, when nobody can be asked.
    #[serde(rename = "mountPath")]
    pub mount_path: Option<String>,
    /// Culvertd's socket.
    pub control_socket: Option<String>,
    /// In bytes.
    pub mtu: Option<u32>,
    /// Queue pairs.
    pub queues: Option<u32>,
    /// `uid:gid` of sockets and folders.
    pub owner: Option<String>,
    /// SELinux label of sockets and folders.
    pub label: Option<String>,
    /// How much the guest may send and get.
    pub rate: Option<rates::Rates>,
    /// Who gives addresses.
    pub ipam: Option<Ipam>,
    /// Kubelet's folder.
    #[serde(rename = "kubeletRoot")]
    pub kubelet_root: Option<String>,
    /// Where records are kept.
    #[serde(rename = "stateDir")]
    pub state_dir: Option<String>,
    /// Where removals are left for a culvertd that does not run.
    #[serde(rename = "removalsDir")]
    pub removals_dir: Option<String>,
    /// Where the device plugin's folders are.
    #[serde(rename = "devicesDir")]
    pub devices_dir: Option<String>,
    /// Where sockets are of pods that have no volume for them.
    #[serde(rename = "sharedDir")]
    pub shared_dir: Option<String>,
    /// How to reach Kubernetes.
    pub kubeconfig: Option<String>,
    /// Userspace CNI's view of the node.
    pub host: Option<userspace::Side>,
    /// Userspace CNI's view of the container.
    pub container: Option<userspace::Side>,
    /// What a person adds; `args.cni.mac` is ours.
    pub args: Option<Map<String, Value>>,
    /// What a runtime adds for this attachment.
    #[serde(rename = "runtimeConfig")]
    pub runtime_config: Option<Map<String, Value>>,
    /// What the plugins before us have made.
    #[serde(rename = "prevResult")]
    pub prev_result: Option<Value>,
    /// GC: the attachments that are to stay.
    #[serde(rename = "cni.dev/valid-attachments")]
    pub valid_attachments: Option<Vec<ValidAttachment>>,
}

/// Who gives addresses; its other keys are its own.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Ipam {
    /// The plugin's name.
    pub r#type: Option<String>,
}

/// An attachment that the runtime knows.
#[derive(Clone, Debug, Deserialize)]
pub struct ValidAttachment {
    /// The container's id.
    #[serde(rename = "containerID")]
    pub container: String,
    /// The interface.
    pub ifname: String,
}

/// Standard input: the configuration, and the bytes for those we delegate to.
#[derive(Clone, Debug)]
pub struct Input {
    /// As it came.
    pub bytes: Vec<u8>,
    /// `cniVersion`.
    pub cni_version: Option<String>,
}

impl Input {
    /// Reads all of it.
    ///
    /// # Errors
    /// [`Code::Decode`] for more than [`MAX_BYTES`] and for what is no JSON object; [`Code::Io`].
    pub fn read(input: &mut dyn Read) -> Result<Self, Error> {
        let mut bytes = Vec::new();
        let limit = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX).saturating_add(1);
        input.take(limit).read_to_end(&mut bytes).map_err(|error| Error::io("standard input", error))?;
        if bytes.len() > MAX_BYTES {
            return Err(Error::new(Code::Decode, format!("the configuration has more than {MAX_BYTES} bytes")));
        }
        let only: VersionOnly = serde_json::from_slice(&bytes).map_err(|error| undecodable(&error))?;
        Ok(Self { cni_version: only.cni_version, bytes })
    }

    /// The configuration.
    ///
    /// # Errors
    /// [`Code::Decode`] for what is no JSON object, nests too deep, or has a value of the wrong type.
    pub fn config(&self) -> Result<Config, Error> {
        serde_json::from_slice(&self.bytes).map_err(|error| undecodable(&error))
    }

    /// The configuration without what is wrong in it: for the verbs that remove what an ADD, which may have been refused, has
    /// left.
    ///
    /// # Errors
    /// [`Code::Decode`] for what is no JSON object.
    pub fn lenient(&self) -> Result<Config, Error> {
        if let Ok(config) = self.config() {
            return Ok(config);
        }
        let object: Map<String, Value> = serde_json::from_slice(&self.bytes).map_err(|error| undecodable(&error))?;
        let is_right = |(key, value): &(String, Value)| {
            let alone = Map::from_iter([(key.clone(), value.clone())]);
            serde_json::from_value::<Config>(Value::Object(alone)).is_ok()
        };
        let right = Value::Object(object.into_iter().filter(is_right).collect());
        Ok(serde_json::from_value(right).unwrap_or_default())
    }
}

fn undecodable(error: &serde_json::Error) -> Error {
    Error::with(Code::Decode, "standard input is no network configuration", error)
}

#[derive(Deserialize)]
struct VersionOnly {
    #[serde(rename = "cniVersion")]
    cni_version: Option<String>,
}

impl Config {
    /// The network's name.
    ///
    /// # Errors
    /// [`Code::Config`] for one that is missing or breaks the specification's rule.
    pub fn network_name(&self) -> Result<&str, Error> {
        let name = self.name.as_deref().unwrap_or_default();
        if crate::environment::is_word(name) {
            return Ok(name);
        }
        let details = "it has 1 to 200 letters, digits, '.', '_' and '-', the first a letter or digit";
        Err(Error::with(Code::Config, format!("name {name:?} is no network's name"), details))
    }

    /// The plugin that gives addresses; `None` when there are to be none.
    pub fn ipam_type(&self) -> Option<&str> {
        self.ipam.as_ref()?.r#type.as_deref().filter(|name| !name.is_empty())
    }

    /// A text in `runtimeConfig`.
    pub fn runtime(&self, key: &str) -> Option<&str> {
        self.runtime_config.as_ref()?.get(key)?.as_str().filter(|text| !text.is_empty())
    }

    /// The address that `args.cni.mac` asks for.
    pub fn args_mac(&self) -> Option<&str> {
        self.args.as_ref()?.get("cni")?.get("mac")?.as_str().filter(|text| !text.is_empty())
    }

    /// GC: whether an attachment is to stay.
    pub fn is_valid(&self, id: &AttachmentId) -> bool {
        let valid = self.valid_attachments.as_deref().unwrap_or_default();
        valid.iter().any(|valid| valid.container == id.container && valid.ifname == id.ifname)
    }
}

/// The largest configuration, in bytes: far more than one with the results of a long chain.
pub const MAX_BYTES: usize = 1 << 20;
