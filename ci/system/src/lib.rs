//! What the system tests are made of: programs that a test starts, talks to and stops.
//!
//! - [`console`]: any program that is driven by lines on its standard input;
//! - [`daemon`]: culvertd with a configuration of the test's own, and culvertctl;
//! - [`device_manager`]: the part of kubelet that device plugins meet;
//! - [`frame`], [`pcap`]: frames, and captures of them;
//! - [`frontend`]: a guest without a machine, whose frames and rings a test makes byte by byte;
//! - [`guest`]: a Linux guest; [`qemu`] emulates one, [`uml`] runs one as a process;
//! - [`traffic`]: data between two ends, all of it checked;
//! - [`translator`]: culvert-translator in a pod, and a world that it translates to;
//! - [`testpmd`]: DPDK's own guest (virtio-user) and its own switch (net_vhost), to compare with;
//! - [`veth`]: a pair of network interfaces; [`place`]: cores and network namespaces;
//! - [`libvirt`]: a guest that libvirt starts, and its translator;
//! - [`containerd`]: a container runtime, called as kubelet calls it, for a [`kube_pod`], with an [`image`] made here;
//! - [`podman`]: another runtime; [`cni`]: network plugins, called without one;
//! - [`launcher`]: the pod of a virtual machine, as virt-launcher runs it;
//! - [`lab`]: two nodes; [`moving`]: a guest that moves between them, by [`qmp`], QEMU's monitor;
//! - [`pod_lab`]: two nodes with a pod each, and a translator in each, whose sockets [`passt_repair`] or culvertd switches;
//! - [`activity`], [`streams`]: what it does meanwhile; [`pings`]: how long it does not answer;
//! - [`world`]: what is beyond a node; [`gaps`]: how long guests do not hear of each other; [`beat`]: two guests
//!   that note it themselves;
//! - [`rows`]: numbered checks in one test; [`wait`]: for what comes by itself;
//! - [`dns`]: a name server;
//! - [`impairment`]: a long, bad wire;
//! - [`paths`]: where the programs and the guest's kernel are.
//!
//! The tests are in `tests/`, one file per topic. They need `ci/setup`, and root where they say so; `ci/test` runs them
//! with all they need. Whatever a value here has started ends when that value is dropped.

pub mod activity;
pub mod beat;
pub mod cni;
pub mod console;
pub mod containerd;
pub mod daemon;
pub mod device_manager;
pub mod dns;
pub mod frame;
pub mod frontend;
pub mod gaps;
pub mod guest;
pub mod image;
pub mod impairment;
pub mod kube_pod;
pub mod lab;
pub mod launcher;
pub mod libvirt;
pub mod moving;
pub mod passt_repair;
pub mod paths;
pub mod pcap;
pub mod pings;
pub mod place;
pub mod pod_lab;
pub mod podman;
pub mod qemu;
pub mod qmp;
pub mod rows;
pub mod streams;
pub mod testpmd;
pub mod traffic;
pub mod translator;
pub mod uml;
pub mod veth;
pub mod wait;
pub mod world;
