//! The part of a VirtualMachineInstance that this program looks at, from the JSON that virt-launcher sends.
//!
//! Anything else in it is passed over, and `null` is what is absent, as Go writes and reads it.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// Longest JSON that is read, in bytes: etcd keeps no object of that size.
pub const MAX_VMI_BYTES: usize = 4 * 1024 * 1024;

/// A VirtualMachineInstance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "KubeVirt's fields")]
pub struct Vmi {
    #[serde(deserialize_with = "or_default")]
    pub metadata: Metadata,
    #[serde(deserialize_with = "or_default")]
    pub spec: Spec,
    #[serde(deserialize_with = "or_default")]
    pub status: Status,
}

/// Why it cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VmiError {
    /// Too long.
    #[error("the VMI has {0} bytes of JSON; {MAX_VMI_BYTES} are read")]
    TooLong(usize),
    /// No JSON, or not of that form.
    #[error("the VMI cannot be read: {0}")]
    Json(String),
}

impl Vmi {
    /// Reads it.
    ///
    /// # Errors
    /// [`VmiError`], with line and column.
    pub fn parse(json: &[u8]) -> Result<Self, VmiError> {
        if json.len() > MAX_VMI_BYTES {
            return Err(VmiError::TooLong(json.len()));
        }
        serde_json::from_slice(json).map_err(|error| VmiError::Json(error.to_string()))
    }

    /// `namespace/name`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.metadata.namespace, self.metadata.name)
    }

    /// The network of an interface: both have one name.
    pub fn network(&self, interface: &str) -> Option<&Network> {
        self.spec.networks.iter().find(|network| network.name == interface)
    }

    /// What the pod's interface is called behind an interface, if the status says so.
    pub fn pod_interface(&self, interface: &str) -> Option<&str> {
        let status = self.status.interfaces.iter().find(|status| status.name == interface)?;
        Some(status.pod_interface_name.as_str()).filter(|name| !name.is_empty())
    }

    /// An annotation.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata.annotations.get(key).map(String::as_str)
    }

    /// Virtual processors as the VMI gives them: sockets × cores × threads, of which 0 means 1. `None` if it gives none.
    pub fn processors(&self) -> Option<u64> {
        let Cpu { sockets, cores, threads } = self.spec.domain.cpu;
        if [sockets, cores, threads] == [0; 3] {
            return None;
        }
        Some([sockets, cores, threads].iter().fold(1, |product: u64, factor| product.saturating_mul((*factor).max(1))))
    }

    /// A migration is under way, and this is its target.
    pub fn is_migrating(&self) -> bool {
        self.status.migration_state.as_ref().is_some_and(|state| !state.completed)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "Kubernetes' fields")]
pub struct Metadata {
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    #[serde(deserialize_with = "or_default")]
    pub namespace: String,
    #[serde(deserialize_with = "or_default")]
    pub uid: String,
    #[serde(deserialize_with = "or_default")]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "KubeVirt's fields")]
pub struct Spec {
    #[serde(deserialize_with = "or_default")]
    pub domain: DomainSpec,
    #[serde(deserialize_with = "or_default")]
    pub networks: Vec<Network>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "KubeVirt's fields")]
pub struct DomainSpec {
    #[serde(deserialize_with = "or_default")]
    pub cpu: Cpu,
    #[serde(deserialize_with = "or_default")]
    pub devices: Devices,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "KubeVirt's fields")]
pub struct Cpu {
    #[serde(deserialize_with = "or_default")]
    pub sockets: u64,
    #[serde(deserialize_with = "or_default")]
    pub cores: u64,
    #[serde(deserialize_with = "or_default")]
    pub threads: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(missing_docs, reason = "KubeVirt's fields")]
pub struct Devices {
    #[serde(deserialize_with = "or_default")]
    pub network_interface_multiqueue: bool,
    #[serde(deserialize_with = "or_default")]
    pub use_virtio_transitional: bool,
    #[serde(deserialize_with = "or_default")]
    pub interfaces: Vec<Interface>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(missing_docs, reason = "KubeVirt's fields")]
pub struct Interface {
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    pub binding: Option<BindingName>,
    #[serde(deserialize_with = "or_default")]
    pub mac_address: String,
    #[serde(deserialize_with = "or_default")]
    pub model: String,
    #[serde(deserialize_with = "or_default")]
    pub ports: Vec<Port>,
    #[serde(deserialize_with = "or_default")]
    pub pci_address: String,
    #[serde(deserialize_with = "or_default")]
    pub acpi_index: i64,
    pub boot_order: Option<u64>,
    #[serde(deserialize_with = "or_default")]
    pub state: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "KubeVirt's fields")]
pub struct BindingName {
    #[serde(deserialize_with = "or_default")]
    pub name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "KubeVirt's fields")]
pub struct Port {
    #[serde(deserialize_with = "or_default")]
    pub port: i64,
    #[serde(deserialize_with = "or_default")]
    pub protocol: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "KubeVirt's fields")]
pub struct Network {
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    pub pod: Option<PodNetwork>,
    pub multus: Option<Multus>,
}

/// The pod network; its fields are of no interest here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct PodNetwork {}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "KubeVirt's fields")]
pub struct Multus {
    #[serde(deserialize_with = "or_default")]
    pub default: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(missing_docs, reason = "KubeVirt's fields")]
pub struct Status {
    #[serde(deserialize_with = "or_default")]
    pub interfaces: Vec<InterfaceStatus>,
    pub migration_state: Option<MigrationState>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(missing_docs, reason = "KubeVirt's fields")]
pub struct InterfaceStatus {
    #[serde(deserialize_with = "or_default")]
    pub name: String,
    #[serde(deserialize_with = "or_default")]
    pub pod_interface_name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "KubeVirt's fields")]
pub struct MigrationState {
    #[serde(deserialize_with = "or_default")]
    pub completed: bool,
}

/// Reads `null` as the default.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}
