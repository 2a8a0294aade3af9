//! Mode `vhostuser`: a guest's port on one of culvertd's networks, and the folder and name of its socket. No netdev is made; the
//! result has the interface all the same, because KubeVirt and Multus read it there.

use std::ffi::OsString;
use std::path::PathBuf;

use culvert_api::v1;

use crate::attachment::{Attachment, check_previous, interface};
use crate::beneath::Folder;
use crate::config::settings::{Role, Vhostuser};
use crate::daemon::Daemon;
use crate::environment::AttachmentId;
use crate::error::{Code, Error};
use crate::kubernetes::Kubernetes;
use crate::location::Location;
use crate::name::{self, Mac};
use crate::result::{CniResult, Interface};
use crate::thing::{Thing, mark_network};
use crate::{application, device_info, netns};

/// How the port is made.
pub struct Plan {
    settings: Vhostuser,
    port: String,
    mac: Mac,
    location: Location,
    socket_name: OsString,
    /// Whom to tell, when there is a kubeconfig and a pod.
    kubernetes: Option<Kubernetes>,
}

impl Plan {
    /// Finds out where everything is to be.
    ///
    /// # Errors
    /// [`Code::Config`] when the pod has no place for the socket.
    pub fn of(attachment: &Attachment, settings: &Vhostuser) -> Result<Self, Error> {
        let kubernetes = match (&settings.kubeconfig, &attachment.pod.name) {
            (Some(kubeconfig), Some(_)) => Some(Kubernetes::of(kubeconfig)?),
            _ => None,
        };
        let pod = match &kubernetes {
            Some(kubernetes) => Some(kubernetes.pod(&attachment.pod)?),
            None => None,
        };
        let location = Location::find(attachment, settings, pod.as_ref())?;
        let AttachmentId { container, ifname } = &attachment.id;
        let socket = match &settings.socket_file {
            Some(name) => name.clone(),
            None if location.is_shared => format!("{}-{ifname}", name::short(container)),
            None => format!("{ifname}.sock"),
        };
        Ok(Self {
            kubernetes,
            settings: settings.clone(),
            port: name::port(&attachment.id),
            mac: settings.port.mac.unwrap_or_else(|| Mac::of(&attachment.id)),
            location,
            socket_name: socket.into(),
        })
    }

    /// See [`crate::attachment::Plan::things`].
    pub fn things(&self, attachment: &Attachment) -> Vec<Thing> {
        let mut things = Vec::new();
        if self.settings.userspace.is_some() {
            things.push(Thing::Network { name: self.settings.port.network.clone() });
        }
        if self.location.is_ours {
            things.push(Thing::Folder { path: self.location.folder.clone() });
        }
        things.push(Thing::Socket { folder: self.location.folder.clone(), name: self.socket_name.clone() });
        things.push(Thing::Port { name: self.port.clone() });
        if self.has_data_file() {
            let name = application::file_name(&attachment.id);
            things.push(Thing::Data { folder: self.location.folder.clone(), name });
        }
        if let Some(path) = &self.settings.device_info_file {
            things.push(Thing::File { path: path.clone() });
            things.push(Thing::File { path: device_info::unfinished(path) });
        }
        things
    }

    /// See [`crate::attachment::Plan::make`].
    ///
    /// # Errors
    /// [`Code::TryLater`] without culvertd, [`Code::Config`] for what it refuses, [`Code::Io`].
    pub fn make(&self, attachment: &Attachment, ipam: Option<&CniResult>) -> Result<Vec<Interface>, Error> {
        if netns::has_interface(&attachment.netns, &attachment.id.ifname)? {
            let message = format!("{} has an interface {}", attachment.netns.display(), attachment.id.ifname);
            return Err(Error::with(Code::Exists, message, "choose another name for one of them"));
        }
        let daemon = Daemon::connect(&attachment.places.control_socket)?;
        let folder = self.location.open(&self.settings)?;
        self.add_port(attachment, &daemon)?;
        self.check_port(&daemon, &folder).map_err(|error| Error { code: later(error.code), ..error })?;
        if let Some(path) = &self.settings.device_info_file {
            device_info::write(path, self.settings.role, &self.location.inside.join(&self.socket_name))?;
        }
        let mut made = interface(attachment, self.mac.to_string(), self.settings.port.mtu);
        made.socket_path = self.socket().display().to_string();
        self.tell_applications(attachment, &folder, &made, ipam)?;
        Ok(vec![made])
    }

    /// Without Kubernetes, Userspace CNI leaves a file for the container's application.
    fn has_data_file(&self) -> bool {
        self.settings.userspace.is_some() && self.kubernetes.is_none()
    }

    fn tell_applications(
        &self,
        attachment: &Attachment,
        folder: &Folder,
        made: &Interface,
        ipam: Option<&CniResult>,
    ) -> Result<(), Error> {
        if self.kubernetes.is_none() && !self.has_data_file() {
            return Ok(());
        }
        let result = CniResult::default().with(attachment.version, vec![made.clone()], ipam.cloned());
        let data = application::data(attachment, &self.settings, &self.socket_name, &result);
        match &self.kubernetes {
            Some(kubernetes) => application::annotate(kubernetes, &attachment.pod, &self.location.inside, &data),
            None => application::write(folder, &application::file_name(&attachment.id), &data),
        }
    }

    /// See [`crate::attachment::Plan::check`].
    ///
    /// # Errors
    /// [`Code::Changed`], [`Code::TryLater`].
    pub fn check(&self, attachment: &Attachment) -> Result<(), Error> {
        check_previous(attachment, &self.mac.to_string())?;
        let changed = |error| Error::io(format!("folder {} has gone", self.location.folder.display()), error);
        let folder = Folder::open(&self.location.folder).map_err(changed)?;
        self.check_port(&Daemon::connect(&attachment.places.control_socket)?, &folder)
    }

    /// The socket's path on the node.
    fn socket(&self) -> PathBuf {
        self.location.folder.join(&self.socket_name)
    }

    fn add_port(&self, attachment: &Attachment, daemon: &Daemon) -> Result<(), Error> {
        let network = &self.settings.port.network;
        let create = self.settings.userspace.is_some();
        for attempt in 1.. {
            let known = daemon.networks()?.iter().any(|known| known.name == *network);
            if !known && !create {
                let details = format!("add it with `culvertctl network add {network}`, or name another in `network`");
                return Err(Error::with(Code::Config, format!("culvertd has no network {network}"), details));
            }
            if !known {
                mark_network(&attachment.places, network)?;
                daemon.add_network(network)?;
            }
            match daemon.add_port(&self.port, &self.spec(attachment)) {
                // The last other port of the network has gone, and the network with it.
                Err(error) if create && attempt < MOST_ATTEMPTS && error.code == Code::Config => {
                    if daemon.networks()?.iter().any(|known| known.name == *network) {
                        return Err(error);
                    }
                }
                result => return result,
            }
        }
        Ok(())
    }

    fn spec(&self, attachment: &Attachment) -> v1::PortSpec {
        let Vhostuser { port, role, queues, owner, label, .. } = &self.settings;
        let spec = v1::PortSpec {
            network: Some(port.network.clone()),
            socket: Some(self.socket().display().to_string()),
            role: Some(role.as_str().to_owned()),
            queues: Some(*queues),
            mtu: Some(port.mtu),
            mac: port.mac.map(|mac| mac.to_string()),
            vlan: port.vlan,
            socket_root: Some(self.location.folder.display().to_string()),
            owner: Some(owner.to_string()),
            label: label.clone(),
            description: Some(attachment.description()),
            ..v1::PortSpec::default()
        };
        port.rates.clone().within(spec)
    }

    /// The port is there and open; in the role `listen` its socket, too.
    fn check_port(&self, daemon: &Daemon, folder: &Folder) -> Result<(), Error> {
        let port = daemon.port(&self.port)?;
        let changed = |message: String, details: &str| Err(Error::with(Code::Changed, message, details));
        let Some(port) = port else {
            return changed(format!("culvertd has no port {}", self.port), "DEL, then ADD it again");
        };
        if port.state() == v1::PortState::Failed {
            return changed(format!("culvertd cannot open port {}", self.port), &port.reason);
        }
        if port.network != self.settings.port.network {
            let message = format!("port {} is on network {}", self.port, port.network);
            return changed(message, "DEL, then ADD it again");
        }
        let is_socket = || folder.kind(&self.socket_name).is_ok_and(|kind| kind == rustix::fs::FileType::Socket);
        if self.settings.role == Role::Listen && !is_socket() {
            return changed(format!("there is no socket {}", self.socket().display()), "see culvertd's log");
        }
        Ok(())
    }
}

/// What is not as it was for CHECK is not to be had at present for ADD.
fn later(code: Code) -> Code {
    if code == Code::Changed { Code::Io } else { code }
}

/// Ports of other pods come and go meanwhile.
const MOST_ATTEMPTS: u32 = 5;
