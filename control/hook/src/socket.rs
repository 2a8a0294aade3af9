//! Where the vhost-user socket of an interface is, and which end QEMU is: from what the pod's files say, or by the rule that
//! culvert-cni goes by.
//!
//! The path must be the same on every node, since a domain that migrates takes it along: it depends on the pod's interface,
//! whose name KubeVirt derives from the network's.

use sha2::{Digest, Sha256};

use crate::context::{Context, Role};
use crate::error::InterfaceFault;
use crate::network_info::VhostUser;
use crate::vmi::{Network, Vmi};

/// A socket and what is known of its port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// In the compute container.
    pub path: String,
    /// What QEMU is.
    pub mode: Mode,
    /// The MAC address that the pod's files give.
    pub mac: Option<String>,
    /// The MTU that the pod's files give, in bytes.
    pub mtu: Option<u64>,
    /// Queue pairs of the port, where they are told.
    pub queues: Option<u64>,
}

/// What QEMU is at a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It connects; culvertd has role `listen`.
    Client,
    /// It creates the socket; culvertd has role `connect`.
    Server,
}

impl From<Role> for Mode {
    fn from(role: Role) -> Self {
        match role {
            Role::Listen => Self::Client,
            Role::Connect => Self::Server,
        }
    }
}

impl Mode {
    /// libvirt's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

/// Finds the socket behind the VMI's interface of this network.
///
/// # Errors
/// What the pod's files say is wrong, or not there yet.
pub fn find(vmi: &Vmi, network: &Network, context: &Context) -> Result<Socket, InterfaceFault> {
    let pod_interface = pod_interface(vmi, network);
    let info = context.network_info.as_ref().map(|info| info.find(&network.name));
    if info == Some(None) && !vmi.is_migrating() {
        return Err(InterfaceFault::NotInNetworkInfo);
    }
    let info = info.flatten();
    let status = context.network_status.iter().find(|entry| entry.interface == pod_interface);

    let declared = context.declared.get(&pod_interface);
    let folder = declared.map_or(SHARED_FOLDER, |declared| declared.folder.as_str());
    let from_info = info.and_then(|info| info.device_info.as_ref()?.socket());
    let from_status = || status.and_then(|status| status.device_info.as_ref()?.socket());
    let (path, mode) = match (from_info, declared) {
        (Some(socket), _) => at(socket, folder)?,
        (None, Some(declared)) => (format!("{folder}/{pod_interface}.sock"), declared.role.into()),
        (None, None) => match from_status() {
            Some(socket) => at(socket, folder)?,
            None => (format!("{folder}/{pod_interface}.sock"), Mode::Client),
        },
    };
    check_path(&path)?;
    let mac = info.and_then(|info| info.mac.clone()).or_else(|| status?.mac.clone());
    let mtu = info.and_then(|info| info.mtu).or_else(|| status?.mtu);
    Ok(Socket {
        path,
        mode,
        mac: mac.filter(|mac| !mac.is_empty()),
        mtu: mtu.filter(|mtu| *mtu != 0),
        queues: declared.and_then(|declared| declared.queues),
    })
}

/// What the pod's interface is called behind the VMI's: as its status says, else by KubeVirt's rule.
pub fn pod_interface(vmi: &Vmi, network: &Network) -> String {
    match vmi.pod_interface(&network.name) {
        Some(name) => name.to_owned(),
        None if network.pod.is_some() || network.multus.as_ref().is_some_and(|multus| multus.default) => {
            "eth0".to_owned()
        }
        None => hashed_name(&network.name),
    }
}

/// KubeVirt's name for the pod's interface of a secondary network: `pod` and 11 hexadecimal digits.
pub fn hashed_name(network: &str) -> String {
    let digest: String = Sha256::digest(network).iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("pod{}", digest.get(..11).unwrap_or_default())
}

/// Whether a path may stand in the domain.
///
/// # Errors
/// [`InterfaceFault::Path`].
pub fn check_path(path: &str) -> Result<(), InterfaceFault> {
    let printable = path.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    let plain = path.starts_with('/') && !path.split('/').any(|part| part == "..");
    if printable && plain && path.len() <= MAX_PATH_BYTES {
        return Ok(());
    }
    Err(InterfaceFault::Path(path.chars().take(200).collect()))
}

/// What device information says of a socket; its mode is QEMU's.
fn at(socket: &VhostUser, folder: &str) -> Result<(String, Mode), InterfaceFault> {
    let mode = match socket.mode.as_str() {
        "client" => Mode::Client,
        "server" => Mode::Server,
        other => return Err(InterfaceFault::Mode(other.chars().take(100).collect())),
    };
    if socket.path.is_empty() {
        return Err(InterfaceFault::Path(String::new()));
    }
    let absolute = socket.path.starts_with('/');
    Ok((if absolute { socket.path.clone() } else { format!("{folder}/{}", socket.path) }, mode))
}

/// Where the volume `shared-dir` is mounted, when nothing else is said.
const SHARED_FOLDER: &str = "/var/lib/cni/usrcni";

/// Longest path of a socket's address.
const MAX_PATH_BYTES: usize = 107;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pod_s_interfaces_are_called_as_kubevirt_calls_them() {
        for (network, interface) in [
            ("net1", "pod6c270ef2f25"),
            ("blue", "pod16477688c0e"),
            ("dpdk-a", "pod494bb167e44"),
            ("dpdk-b", "pod33d044e5350"),
            ("vhost-user-vn-blue", "pod70e862d9481"),
        ] {
            assert_eq!(hashed_name(network), interface);
        }
    }
}
