//! The grammar of Userspace CNI (github.com/intel/userspace-cni-network-plugin), `host` and `container`, in our terms: an OVS
//! bridge is a network, its vhost-user port a guest's port. Other engines and interfaces are refused: they cannot be had here.

use serde::{Deserialize, Serialize};

use crate::error::{Code, Error};

use super::settings::Role;

/// What is to be on one side of an interface.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Side {
    /// `ovs-dpdk`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// `vhostuser`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iftype: Option<String>,
    /// `bridge`, `none` or nothing on the node.
    #[serde(rename = "netType", skip_serializing_if = "Option::is_none")]
    pub net_type: Option<String>,
    /// The socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vhost: Option<Vhost>,
    /// The network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bridge: Option<Bridge>,
}

/// The socket of a vhost-user interface.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Vhost {
    /// Whether this side is `client` or `server` of the socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// The group that may use the socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Its file name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socketfile: Option<String>,
}

/// The bridge of the node's side.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Bridge {
    /// Its name; `br0` when it is missing.
    #[serde(rename = "bridgeName", skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The VLAN of the port; 0 is none.
    #[serde(rename = "vlanId", skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u32>,
}

/// What the two objects mean.
#[derive(Clone, Debug)]
pub struct Meaning {
    /// Culvertd's network.
    pub network: String,
    /// The port's VLAN.
    pub vlan: Option<u32>,
    /// Who makes the socket.
    pub role: Role,
    /// The group that may use the socket.
    pub group: Option<String>,
    /// The socket's file name.
    pub socket_file: Option<String>,
    /// The container's side with everything said, as applications read it from `userspace/configuration-data`.
    pub container: Side,
}

impl Meaning {
    /// Reads the two sides.
    ///
    /// # Errors
    /// [`Code::Config`] for an interface that Culvert does not make.
    pub fn of(host: &Side, container: Option<&Side>) -> Result<Self, Error> {
        let expect = |key: &str, value: &Option<String>, possible: &[&str]| match value.as_deref() {
            Some(value) if !possible.contains(&value) => {
                let details = format!("use {}", possible.join(" or "));
                Err(Error::with(Code::Config, format!("{key} {value:?} is not possible"), details))
            }
            _ => Ok(()),
        };
        expect("host.engine", &host.engine, &["ovs-dpdk"])?;
        expect("host.iftype", &host.iftype, &["vhostuser"])?;
        expect("host.netType", &host.net_type, &["bridge", "none", ""])?;
        let vhost = host.vhost.clone().unwrap_or_default();
        let there = container.cloned().unwrap_or_default();
        expect("container.iftype", &there.iftype, &["vhostuser"])?;
        let role = role(&vhost, there.vhost.as_ref())?;
        let bridge = host.bridge.clone().unwrap_or_default();
        let there_vhost = there.vhost.clone().unwrap_or_default();
        let meaning = Self {
            network: bridge.name.filter(|name| !name.is_empty()).unwrap_or_else(|| "br0".to_owned()),
            vlan: bridge.vlan.filter(|vlan| *vlan != 0),
            role,
            group: vhost.group.filter(|group| !group.is_empty()),
            socket_file: vhost.socketfile.or(there_vhost.socketfile.clone()).filter(|name| !name.is_empty()),
            container: Side {
                engine: there.engine.clone().or_else(|| Some("ovs-dpdk".to_owned())),
                iftype: Some("vhostuser".to_owned()),
                net_type: there.net_type.clone().or_else(|| Some("interface".to_owned())),
                vhost: Some(Vhost { mode: Some(role.container().to_owned()), ..there_vhost }),
                bridge: there.bridge,
            },
        };
        Ok(meaning)
    }
}

/// Each side may say what it is; what neither says is Userspace CNI's default: the node is the server.
fn role(host: &Vhost, container: Option<&Vhost>) -> Result<Role, Error> {
    let read = |side: &str, mode: Option<&str>| match mode {
        None | Some("") => Ok(None),
        Some("server") => Ok(Some(true)),
        Some("client") => Ok(Some(false)),
        Some(other) => {
            let message = format!("{side}.vhost.mode {other:?} is unknown");
            Err(Error::with(Code::Config, message, "use client or server"))
        }
    };
    let host = read("host", host.mode.as_deref())?;
    let container = read("container", container.and_then(|vhost| vhost.mode.as_deref()))?;
    match (host, container) {
        (Some(true), Some(true)) | (Some(false), Some(false)) => {
            let message = "host.vhost.mode and container.vhost.mode are the same";
            Err(Error::with(Code::Config, message, "one is the server, the other its client"))
        }
        (Some(true), _) | (None, Some(false) | None) => Ok(Role::Listen),
        (Some(false), _) | (None, Some(true)) => Ok(Role::Connect),
    }
}
