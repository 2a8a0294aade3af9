//! A configuration, checked: what ADD and CHECK work with, each value once and of its own type. [`Places`], where things are
//! kept, is apart: DEL, GC and STATUS need it of a configuration that may be wrong otherwise.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::environment::Pod;
use crate::error::{Code, Error};
use crate::name::Mac;

use super::Config;
use super::rates::Rates;
use super::userspace::{Meaning, Side};

/// Where culvertd listens and where we keep what is to be remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// Culvertd's socket.
    pub control_socket: PathBuf,
    /// Of the records.
    pub state_dir: PathBuf,
    /// Of the removals for a culvertd that does not run.
    pub removals_dir: PathBuf,
    /// Kubelet's folder.
    pub kubelet_root: PathBuf,
}

/// What an attachment is to be.
#[derive(Clone, Debug)]
pub enum Settings {
    /// A guest's port on one of culvertd's networks.
    Vhostuser(Box<Vhostuser>),
    /// A pod's network namespace that is ready for a translator.
    Translator(Translator),
    /// A tap device for a guest without shared memory.
    Tap(Tap),
    /// An interface of the kernel's on one of culvertd's networks.
    Netdev(Port),
}

/// Mode `vhostuser`.
#[derive(Clone, Debug)]
pub struct Vhostuser {
    /// The port.
    pub port: Port,
    /// Who makes the socket.
    pub role: Role,
    /// Queue pairs that the guest may use.
    pub queues: u32,
    /// Of sockets and folders.
    pub owner: Owner,
    /// SELinux label of sockets and folders.
    pub label: Option<String>,
    /// The device that kubelet gave to the pod.
    pub device: Option<String>,
    /// Where the device plugin's folders are.
    pub devices_dir: PathBuf,
    /// The pod's volume.
    pub volume: String,
    /// Where the volume is mounted in the container, when nobody can be asked.
    pub mount_path: PathBuf,
    /// Folders for pods that have no such volume.
    pub shared_dir: Option<PathBuf>,
    /// How to reach Kubernetes.
    pub kubeconfig: Option<PathBuf>,
    /// The socket's file name, when it is not the interface's.
    pub socket_file: Option<String>,
    /// Where to tell of the device (device-info specification 1.1.0).
    pub device_info_file: Option<PathBuf>,
    /// The container's side in Userspace CNI's words, when the configuration was written in them.
    pub userspace: Option<Side>,
}

/// A port on one of culvertd's networks, as far as it does not matter what is behind it.
#[derive(Clone, Debug)]
pub struct Port {
    /// Culvertd's network.
    pub network: String,
    /// Its VLAN.
    pub vlan: Option<u32>,
    /// In bytes.
    pub mtu: u32,
    /// The address that somebody chose for the guest: no other source may be used then.
    pub mac: Option<Mac>,
    /// How much the guest may send and get.
    pub rates: Rates,
}

/// Mode `translator`.
#[derive(Clone, Debug)]
pub struct Translator {
    /// Who runs the translator.
    pub owner: Owner,
}

/// Mode `tap`.
#[derive(Clone, Debug)]
pub struct Tap {
    /// The network that it leads to; `None` for one that a translator serves.
    pub port: Option<Port>,
    /// The address that somebody chose for the guest.
    pub mac: Option<Mac>,
    /// In bytes.
    pub mtu: u32,
    /// Who may open the tap.
    pub owner: Owner,
    /// Whether QEMU opens it for more than one queue.
    pub multi_queue: bool,
}

/// Who makes a guest's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Culvertd.
    Listen,
    /// The guest's process; culvertd connects.
    Connect,
}

/// `uid:gid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Role {
    /// Culvertd's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Listen => "listen",
            Self::Connect => "connect",
        }
    }

    /// The container's role in the words of libvirt, of device-info and of Userspace CNI.
    pub fn container(self) -> &'static str {
        match self {
            Self::Listen => "client",
            Self::Connect => "server",
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.uid, self.gid)
    }
}

impl Owner {
    /// KubeVirt's `qemu` user.
    pub const QEMU: Self = Self { uid: 107, gid: 107 };

    fn parse(text: &str) -> Option<Self> {
        let (uid, gid) = text.split_once(':')?;
        let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        // The kernel's "no change".
        let possible = |id: &u32| *id != u32::MAX;
        Some(Self { uid: number(uid).filter(possible)?, gid: number(gid).filter(possible)? })
    }
}

impl Places {
    /// Those that a configuration names, or ours.
    ///
    /// # Errors
    /// [`Code::Config`] for a path that is not absolute.
    pub fn of(config: &Config) -> Result<Self, Error> {
        Ok(Self {
            control_socket: path("control_socket", config.control_socket.as_deref())?
                .unwrap_or_else(|| PathBuf::from("/run/culvert/culvertd.sock")),
            state_dir: path("stateDir", config.state_dir.as_deref())?
                .unwrap_or_else(|| PathBuf::from("/var/lib/culvert/cni")),
            removals_dir: path("removalsDir", config.removals_dir.as_deref())?
                .unwrap_or_else(|| PathBuf::from("/var/lib/culvert/removals")),
            kubelet_root: path("kubeletRoot", config.kubelet_root.as_deref())?
                .unwrap_or_else(|| PathBuf::from("/var/lib/kubelet")),
        })
    }
}

impl Settings {
    /// The port of culvertd's that there is to be.
    pub fn port(&self) -> Option<&Port> {
        match self {
            Self::Vhostuser(settings) => Some(&settings.port),
            Self::Tap(settings) => settings.port.as_ref(),
            Self::Netdev(port) => Some(port),
            Self::Translator(_) => None,
        }
    }

    /// Checks a configuration for the attachment of `pod`.
    ///
    /// # Errors
    /// [`Code::Config`], with the key, its value and what is possible.
    pub fn of(config: &Config, pod: &Pod) -> Result<Self, Error> {
        if is_userspace(config) {
            return vhostuser_of_userspace(config, pod);
        }
        match config.mode.as_deref() {
            Some("vhostuser") => Ok(Self::Vhostuser(Box::new(vhostuser(config, pod, needed_port(config, pod)?)?))),
            Some("netdev") => Ok(Self::Netdev(needed_port(config, pod)?)),
            Some("translator") => Ok(Self::Translator(Translator { owner: owner(config)? })),
            Some("tap") => Ok(Self::Tap(Tap {
                port: port(config, pod)?,
                mac: mac(config, pod)?,
                mtu: mtu(config)?,
                owner: owner(config)?,
                multi_queue: within("queues", config.queues.unwrap_or(1), 1, MAX_QUEUES)? > 1,
            })),
            Some(other) => Err(Error::with(Code::Config, format!("mode {other:?} is unknown"), MODES)),
            None => Err(missing("mode", MODES)),
        }
    }
}

fn vhostuser_of_userspace(config: &Config, pod: &Pod) -> Result<Settings, Error> {
    let host = config.host.clone().unwrap_or_default();
    let meaning = Meaning::of(&host, config.container.as_ref())?;
    let port = Port {
        network: network("host.bridge.bridgeName", &meaning.network)?,
        vlan: vlan("host.bridge.vlanId", meaning.vlan)?,
        mtu: mtu(config)?,
        mac: mac(config, pod)?,
        rates: Rates::of(config)?,
    };
    let mut vhostuser = vhostuser(config, pod, port)?;
    vhostuser.role = meaning.role;
    if let Some(group) = meaning.group {
        vhostuser.owner.gid = crate::group::find(Path::new("/etc/group"), &group)?;
    }
    if let Some(name) = &meaning.socket_file {
        let plain = !name.contains('/') && name.len() <= 100 && !matches!(name.as_str(), "." | "..");
        let wrong = || Error::with(Code::Config, format!("socketfile {name:?} is not possible"), "it is a file's name");
        vhostuser.socket_file = Some(plain.then(|| name.clone()).ok_or_else(wrong)?);
    }
    vhostuser.userspace = Some(meaning.container);
    Ok(Settings::Vhostuser(Box::new(vhostuser)))
}

/// What both grammars say in the same words.
fn vhostuser(config: &Config, pod: &Pod, port: Port) -> Result<Vhostuser, Error> {
    let volume = config.volume.as_deref().unwrap_or(DEFAULT_VOLUME);
    if !is_label(volume) {
        let details = "it is the name of one of the pod's volumes";
        return Err(Error::with(Code::Config, format!("volume {volume:?} is not possible"), details));
    }
    let device = config.runtime("deviceID");
    if let Some(device) = device.filter(|device| !crate::environment::is_word(device)) {
        return Err(Error::new(Code::Config, format!("runtimeConfig.deviceID {device:?} is not one of Culvert's")));
    }
    Ok(Vhostuser {
        role: role(config.role.as_deref())?,
        queues: within("queues", config.queues.unwrap_or_else(|| default_queues(config, pod)), 1, MAX_QUEUES)?,
        owner: owner(config)?,
        label: config.label.clone().filter(|label| !label.is_empty()),
        device: device.map(str::to_owned),
        devices_dir: path("devicesDir", config.devices_dir.as_deref())?
            .unwrap_or_else(|| PathBuf::from("/run/culvert/devices")),
        volume: volume.to_owned(),
        mount_path: path("mountPath", config.mount_path.as_deref())?
            .unwrap_or_else(|| default_mount_path(config, volume)),
        shared_dir: path("sharedDir", config.shared_dir.as_deref())?,
        kubeconfig: path("kubeconfig", config.kubeconfig.as_deref())?,
        socket_file: None,
        device_info_file: path("runtimeConfig.CNIDeviceInfoFile", config.runtime("CNIDeviceInfoFile"))?,
        userspace: None,
        port,
    })
}

/// QEMU asks for as many as its guest has, and a virtual machine of Kubernetes' may have up to 16. Programs that take the offered
/// features literally (DPDK's virtio-user, user-mode Linux) refuse more than one pair without a control queue: containers that are
/// no pods, and users of Userspace CNI's grammar, are such programs.
fn default_queues(config: &Config, pod: &Pod) -> u32 {
    if pod.uid.is_some() && !is_userspace(config) { MAX_QUEUES } else { 1 }
}

fn is_userspace(config: &Config) -> bool {
    config.host.is_some() || config.container.is_some()
}

/// Where KubeVirt's proposal of a vhostuser interface, Userspace CNI and Culvert's webhook mount the volume.
fn default_mount_path(config: &Config, volume: &str) -> PathBuf {
    match volume {
        DEFAULT_VOLUME if is_userspace(config) => PathBuf::from("/var/lib/cni/usrspcni"),
        DEFAULT_VOLUME => PathBuf::from("/var/lib/cni/usrcni"),
        other => Path::new("/var/lib/cni").join(other),
    }
}

fn port(config: &Config, pod: &Pod) -> Result<Option<Port>, Error> {
    let Some(name) = config.network.as_deref().filter(|name| !name.is_empty()) else { return Ok(None) };
    Ok(Some(Port {
        network: network("network", name)?,
        vlan: vlan("vlan", config.vlan)?,
        mtu: mtu(config)?,
        mac: mac(config, pod)?,
        rates: Rates::of(config)?,
    }))
}

fn needed_port(config: &Config, pod: &Pod) -> Result<Port, Error> {
    port(config, pod)?.ok_or_else(|| missing("network", "name one of culvertd's networks"))
}

/// A key that must be there.
fn missing(key: &str, remedy: &str) -> Error {
    Error::with(Code::Config, format!("{key} is missing"), remedy)
}

fn path(key: &str, text: Option<&str>) -> Result<Option<PathBuf>, Error> {
    match text.filter(|text| !text.is_empty()).map(PathBuf::from) {
        Some(path) if !path.is_absolute() || path.as_os_str().as_encoded_bytes().contains(&0) => {
            Err(Error::new(Code::Config, format!("{key} {:?} is no absolute path", path.display().to_string())))
        }
        path => Ok(path),
    }
}

fn network(key: &str, name: &str) -> Result<String, Error> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.is_empty() || name.len() > 63 || !name.bytes().all(allowed) {
        let details = "culvertd's networks have names of 1 to 63 characters of a-z, 0-9 and -";
        return Err(Error::with(Code::Config, format!("{key} {name:?} is no network's name"), details));
    }
    Ok(name.to_owned())
}

fn role(text: Option<&str>) -> Result<Role, Error> {
    match text {
        None | Some("listen") => Ok(Role::Listen),
        Some("connect") => Ok(Role::Connect),
        Some(other) => {
            let details = "use listen (culvertd makes the socket) or connect (the guest's process makes it)";
            Err(Error::with(Code::Config, format!("role {other:?} is unknown"), details))
        }
    }
}

fn vlan(key: &str, number: Option<u32>) -> Result<Option<u32>, Error> {
    number.map(|number| within(key, number, 1, 4094)).transpose()
}

fn mtu(config: &Config) -> Result<u32, Error> {
    within("mtu", config.mtu.unwrap_or(1500), 68, MAX_MTU)
}

fn within(key: &str, number: u32, least: u32, most: u32) -> Result<u32, Error> {
    if (least..=most).contains(&number) {
        return Ok(number);
    }
    Err(Error::with(Code::Config, format!("{key} {number} is not possible"), format!("use {least} to {most}")))
}

fn owner(config: &Config) -> Result<Owner, Error> {
    let Some(text) = config.owner.as_deref().filter(|text| !text.is_empty()) else { return Ok(Owner::QEMU) };
    let wrong = || Error::with(Code::Config, format!("owner {text:?} is not possible"), "use uid:gid, such as 107:107");
    Owner::parse(text).ok_or_else(wrong)
}

/// The runtime's wish comes first, then the person's.
fn mac(config: &Config, pod: &Pod) -> Result<Option<Mac>, Error> {
    let wishes = [
        ("runtimeConfig.mac", config.runtime("mac")),
        ("args.cni.mac", config.args_mac()),
        ("MAC in CNI_ARGS", pod.mac.as_deref()),
    ];
    let Some((key, text)) = wishes.into_iter().find_map(|(key, text)| Some((key, text?))) else { return Ok(None) };
    let wrong = || {
        let message = format!("{key} {text:?} is no address of an interface");
        Error::with(Code::Config, message, "use one such as 02:00:00:00:00:0a")
    };
    Mac::parse(text).ok_or_else(wrong).map(Some)
}

/// A name of a Kubernetes volume: a DNS label (RFC 1123).
fn is_label(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.len() <= 63 && text.bytes().all(allowed) && !text.starts_with('-')
}

const MODES: &str = "use vhostuser, translator, tap or netdev";

/// culvertd's limits: queue pairs of a port, and its MTU in bytes.
const MAX_QUEUES: u32 = 16;
const MAX_MTU: u32 = 9216;
const DEFAULT_VOLUME: &str = "shared-dir";
