//! Which of KubeVirt's objects have interfaces, and where: the paths below which a virtual machine instance is described.

/// A kind of object that describes a virtual machine instance.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Kind {
    /// Its API group.
    pub group: &'static str,
    /// Its name.
    pub name: &'static str,
    /// The path of the VirtualMachineInstanceSpec in it.
    pub spec: &'static [&'static str],
}

/// All of them (staging/src/kubevirt.io/api of KubeVirt 1.9).
pub const KINDS: [Kind; 4] = [
    Kind { group: GROUP, name: "VirtualMachine", spec: &["spec", "template", "spec"] },
    Kind { group: GROUP, name: "VirtualMachineInstance", spec: &["spec"] },
    Kind { group: GROUP, name: "VirtualMachineInstanceReplicaSet", spec: &["spec", "template", "spec"] },
    Kind {
        group: "pool.kubevirt.io",
        name: "VirtualMachinePool",
        spec: &["spec", "virtualMachineTemplate", "spec", "template", "spec"],
    },
];

/// The interfaces, below [`Kind::spec`].
pub const INTERFACES: [&str; 3] = ["domain", "devices", "interfaces"];

/// KubeVirt's own group.
pub const GROUP: &str = "kubevirt.io";

/// The kind that installs KubeVirt, and has its feature gates.
pub const KUBEVIRT: &str = "KubeVirt";

/// The path of the feature gates in it.
pub const FEATURE_GATES: [&str; 4] = ["spec", "configuration", "developerConfiguration", "featureGates"];

/// The feature gate of passt's old API.
pub const PASST_GATE: &str = "Passt";

impl Kind {
    /// The kind of objects whose apiVersion is of `group`.
    pub fn of(group: &str, name: &str) -> Option<Self> {
        KINDS.into_iter().find(|kind| kind.group == group && kind.name == name)
    }
}

/// The group of an apiVersion; empty for Kubernetes's core.
pub fn group(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}
