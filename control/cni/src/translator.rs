//! Mode `translator`: a pod's network namespace made ready for a culvert-translator without any capability: it may listen on
//! every port and send echo requests. As KubeVirt's `kubevirt-passt-binding` does for passt. No interface is made.
//!
//! Culvertd is told where the pod's translators will be, so that it can ask them for their figures and do for them what they may
//! not. They work without: so does this.

use std::path::{Path, PathBuf};

use culvert_api::v1;

use crate::attachment::Attachment;
use crate::config::settings::Translator;
use crate::daemon::Daemon;
use crate::error::{Code, Error};
use crate::result::Interface;
use crate::thing::Thing;
use crate::{name, netns};

/// How the namespace is prepared.
#[derive(Debug)]
pub struct Plan {
    /// Kernel parameters, by their paths in /proc/sys, and their values.
    parameters: [(&'static str, String); 2],
    /// The name of the pod's registration.
    name: String,
    /// Where the pod's translators have their sockets.
    folders: Vec<PathBuf>,
}

impl Plan {
    /// For a translator of `settings.owner`.
    ///
    /// # Errors
    /// None at present.
    pub fn of(attachment: &Attachment, settings: &Translator) -> Result<Self, Error> {
        let group = settings.owner.gid;
        Ok(Self {
            name: name::port(&attachment.id),
            folders: folders(attachment),
            parameters: [
                ("net/ipv4/ip_unprivileged_port_start", "0".to_owned()),
                ("net/ipv4/ping_group_range", format!("{group}\t{group}")),
            ],
        })
    }

    /// See [`crate::attachment::Plan::things`].
    pub fn things(&self) -> Vec<Thing> {
        if self.folders.is_empty() { Vec::new() } else { vec![Thing::Pod { name: self.name.clone() }] }
    }

    /// See [`crate::attachment::Plan::make`].
    ///
    /// # Errors
    /// Those of [`netns::inside`]; [`Code::Io`].
    pub fn make(&self, attachment: &Attachment) -> Result<Vec<Interface>, Error> {
        self.prepare(attachment)?;
        if !self.folders.is_empty()
            && let Err(error) = self.register(attachment)
        {
            eprintln!("culvert-cni: culvertd does not know of the translators of {}: {error}", attachment.id);
        }
        Ok(Vec::new())
    }

    /// Sets the namespace's parameters.
    ///
    /// # Errors
    /// Those of [`netns::inside`]; [`Code::Io`].
    pub fn prepare(&self, attachment: &Attachment) -> Result<(), Error> {
        netns::inside(&attachment.netns, || {
            for (name, value) in &self.parameters {
                std::fs::write(format!("/proc/sys/{name}"), value)
                    .map_err(|error| Error::io(format!("{name} cannot be set to {value:?}"), error))?;
            }
            Ok(())
        })
    }

    fn register(&self, attachment: &Attachment) -> Result<(), Error> {
        let spec = v1::PodSpec {
            folders: self.folders.iter().map(|folder| folder.display().to_string()).collect(),
            netns: Some(attachment.sandbox()),
            tap: None,
            description: Some(attachment.description()),
        };
        Daemon::connect(&attachment.places.control_socket)?.add_pod(&self.name, &spec)
    }

    /// See [`crate::attachment::Plan::check`].
    ///
    /// # Errors
    /// [`Code::Changed`].
    pub fn check(&self, attachment: &Attachment) -> Result<(), Error> {
        netns::inside(&attachment.netns, || {
            for (name, value) in &self.parameters {
                let there = std::fs::read_to_string(format!("/proc/sys/{name}"))
                    .map_err(|error| Error::io(format!("{name} cannot be read"), error))?;
                if there.trim() != value {
                    let message = format!("{name} is {:?} instead of {value:?}", there.trim());
                    return Err(Error::with(Code::Changed, message, "DEL, then ADD it again"));
                }
            }
            Ok(())
        })
    }
}

/// The folders in which translators of a pod have their sockets, as Culvert's webhook and hook place them; none for a container
/// that is no pod.
pub fn folders(attachment: &Attachment) -> Vec<PathBuf> {
    let Some(uid) = &attachment.pod.uid else { return Vec::new() };
    let volumes = attachment.places.kubelet_root.join("pods").join(uid).join("volumes/kubernetes.io~empty-dir");
    // The hook's own folder is used when the webhook gave the pod no volume; it is the only hook's then.
    let places = ["culvert-translator", "hook-sidecar-sockets/hook-sidecar-0/culvert"];
    places.iter().map(|place| volumes.join(Path::new(place))).collect()
}
