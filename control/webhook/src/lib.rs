//! culvert-webhook: gives virt-launcher pods the volumes that Culvert's bindings need, when they are made; and warns of virtual
//! machines that use old interface APIs, or refuses them.
//!
//! KubeVirt has no volume for sockets that a switch on the node shares with QEMU, and none that a sidecar shares with
//! it at one path. So the API server asks this program (a mutating admission webhook) about each virt-launcher pod:
//! - [`server`]: HTTPS, with [`certificate`] from files;
//! - [`review`]: question and answer, `about`: of what, where they cannot be read; [`admission`]: what is answered about pods;
//! - [`networks`]: which networks the pod asks for, [`cluster`]: their definitions, [`attachment`]: what these mean;
//! - [`pod`]: what the pod gets, [`sidecar`]: in which containers.
//!
//! And (a validating admission webhook) about virtual machines, whatever makes them, and KubeVirt's configuration:
//! - [`retirement`]: what becomes of them, by [`stage`].
//!
//! What it does not do: anything on a node. That is for culvert-cni, culvertd and culvert-hook.
#![forbid(unsafe_code)]

mod about;
pub mod admission;
pub mod arguments;
pub mod attachment;
pub mod certificate;
pub mod cluster;
pub mod networks;
pub mod pod;
pub mod retirement;
pub mod review;
pub mod server;
pub mod sidecar;
pub mod stage;
