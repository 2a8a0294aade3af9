//! Mode `translator`: a pod's network namespace made ready for a culvert-translator without any capability: it may listen on
//! every port and send echo requests. As KubeVirt's `kubevirt-passt-binding` does for passt. No interface is made.

use crate::attachment::Attachment;
use crate::config::settings::Translator;
use crate::error::{Code, Error};
use crate::netns;
use crate::result::Interface;
use crate::thing::Thing;

/// How the namespace is prepared.
#[derive(Debug)]
pub struct Plan {
    /// Kernel parameters, by their paths in /proc/sys, and their values.
    parameters: [(&'static str, String); 2],
}

impl Plan {
    /// For a translator of `settings.owner`.
    ///
    /// # Errors
    /// None at present.
    pub fn of(_attachment: &Attachment, settings: &Translator) -> Result<Self, Error> {
        let group = settings.owner.gid;
        Ok(Self {
            parameters: [
                ("net/ipv4/ip_unprivileged_port_start", "0".to_owned()),
                ("net/ipv4/ping_group_range", format!("{group}\t{group}")),
            ],
        })
    }

    /// See [`crate::attachment::Plan::things`].
    pub fn things(&self) -> Vec<Thing> {
        Vec::new()
    }

    /// See [`crate::attachment::Plan::make`].
    ///
    /// # Errors
    /// Those of [`netns::inside`]; [`Code::Io`].
    pub fn make(&self, attachment: &Attachment) -> Result<Vec<Interface>, Error> {
        netns::inside(&attachment.netns, || {
            for (name, value) in &self.parameters {
                std::fs::write(format!("/proc/sys/{name}"), value)
                    .map_err(|error| Error::io(format!("{name} cannot be set to {value:?}"), error))?;
            }
            Ok(Vec::new())
        })
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
