//! Why a domain was not edited: one sentence for the person who reads the VMI's events, with the remedy.

use crate::domain::DomainError;
use crate::network_info::ReadError;

/// No edit was made: the VMI, by namespace and name, and the reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("VMI {vmi}: {reason}")]
pub struct EditError {
    /// `namespace/name`.
    pub vmi: String,
    /// What was wrong.
    pub reason: Reason,
}

/// What was wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The domain's XML cannot be read, or lacks what every domain has.
    #[error(transparent)]
    Domain(#[from] DomainError),
    /// A file about the pod's networks, or an environment variable, cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// No interface uses the binding.
    #[error(
        "no interface uses the network binding {binding}; register this image under the name that the VM's interfaces use, or set CULVERT_BINDING"
    )]
    Unused {
        /// The name, or names, looked for.
        binding: String,
    },
    /// Something is wrong with one interface.
    #[error("interface {interface:?}: {fault}")]
    Interface {
        /// Its name in the VMI.
        interface: String,
        /// What.
        fault: InterfaceFault,
    },
    /// The guest's memory cannot be shared.
    #[error("the guest's memory cannot be shared with a vhost-user backend: {0}")]
    Memory(MemoryFault),
}

/// What is wrong with one interface.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InterfaceFault {
    /// Its name is no alias of libvirt's and no file name.
    #[error("its name may have letters, digits, \"-\" and \"_\", at most 63; rename it")]
    Name,
    /// There are two of its name.
    #[error("the VMI has several interfaces of its name; rename one")]
    Twice,
    /// There is no network of the same name.
    #[error("spec.networks has no network of its name; add it")]
    NoNetwork,
    /// The vhostuser binding on the pod network.
    #[error(
        "the pod network has no vhost-user port; use a multus network, or the binding culvert-translator for the pod network"
    )]
    PodNetwork,
    /// The translator binding on a secondary network.
    #[error("the translator serves the pod network only; use the binding culvert for a multus network")]
    NotPodNetwork,
    /// The VMI's status does not say which interface the pod has.
    #[error(
        "status.interfaces has no podInterfaceName for it; KubeVirt before 1.6 does not write it: set CULVERT_POD_INTERFACE there"
    )]
    NoPodInterface,
    /// network-info does not know the network yet.
    #[error(
        "/etc/podinfo/network-info has no entry for its network yet; if it stays so, see the pod's annotation k8s.v1.cni.cncf.io/network-status"
    )]
    NotInNetworkInfo,
    /// A path of a socket.
    #[error(
        "the socket's path {0:?} cannot be used: it must be printable ASCII without \"..\" and have at most 107 bytes"
    )]
    Path(String),
    /// A mode of a socket.
    #[error("device-info has mode {0:?}; it must be \"client\" or \"server\"")]
    Mode(String),
    /// A MAC address.
    #[error("{0:?} is no MAC address of one host; write it as 02:00:00:00:00:0a")]
    Mac(String),
    /// An MTU.
    #[error("the MTU {0} is out of range; it must be 68 to 65535")]
    Mtu(u64),
    /// A PCI address.
    #[error("pciAddress {0:?} is none; write it as 0000:81:01.0")]
    PciAddress(String),
    /// A model.
    #[error("model {0:?} has other characters than letters, digits, \"-\" and \"_\"")]
    Model(String),
    /// A forwarded port.
    #[error("port {0} is out of range; it must be 1 to 65535")]
    Port(i64),
    /// The translator's socket has no place that the compute container sees under a known name.
    #[error(
        "the VM has several hook sidecars, and the volume culvert-translator is not mounted, so that the translator's socket would have no stable path; install culvert-webhook, which adds the volume"
    )]
    NoTranslatorFolder,
}

/// Why memory cannot be shared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryFault {
    /// Somebody asked for private memory.
    #[error("{place} has access {access:?}; remove what sets it (another hook sidecar), or set it to \"shared\"")]
    Access {
        /// The element.
        place: String,
        /// Its access mode.
        access: String,
    },
    /// Memory that is no file.
    #[error("<memoryBacking> has source {0:?}, which has no file to share; it must be \"memfd\" or \"file\"")]
    Source(String),
    /// The annotation forbids memfd, and there are no hugepages.
    #[error(
        "the annotation kubevirt.io/memfd is \"false\" and there are no hugepages; remove it, or give the VM hugepages"
    )]
    Annotation,
}
