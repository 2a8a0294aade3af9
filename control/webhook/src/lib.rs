//! culvert-webhook: gives virt-launcher pods the volumes that Culvert's bindings need, when they are made.
//!
//! KubeVirt has no volume for sockets that a switch on the node shares with QEMU, and none that a sidecar shares with
//! it at one path. So the API server asks this program (a mutating admission webhook) about each virt-launcher pod:
//! - [`server`]: HTTPS, with [`certificate`] from files;
//! - [`admission`]: question and answer;
//! - [`networks`]: which networks the pod asks for, [`cluster`]: their definitions, [`attachment`]: what these mean;
//! - [`pod`]: what the pod gets, [`sidecar`]: in which containers.
//!
//! What it does not do: anything on a node. That is for culvert-cni, culvertd and culvert-hook.
#![forbid(unsafe_code)]

pub mod admission;
pub mod arguments;
pub mod attachment;
pub mod certificate;
pub mod cluster;
pub mod networks;
pub mod pod;
pub mod server;
pub mod sidecar;
