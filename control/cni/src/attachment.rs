//! One call for one attachment, with all that is known of it: what the modes work with.

use std::path::PathBuf;

use serde_json::Value;

use crate::config::rates::Rates;
use crate::config::settings::{Places, Settings};
use crate::config::{Config, Input};
use crate::environment::{AttachmentId, Pod, Variables};
use crate::error::{Code, Error};
use crate::ipam::Ipam;
use crate::result::{CniResult, Interface};
use crate::thing::Thing;
use crate::version::Version;
use crate::{netdev, tap, translator, vhostuser};

/// An attachment that is to be made or checked.
#[derive(Debug)]
pub struct Attachment {
    /// Of the configuration.
    pub version: Version,
    /// The runtime's name of the network.
    pub network_name: String,
    /// Which one.
    pub id: AttachmentId,
    /// The container's network namespace.
    pub netns: PathBuf,
    /// What is known of the pod.
    pub pod: Pod,
    /// Where things are kept.
    pub places: Places,
    /// What it is to be.
    pub settings: Settings,
    /// What the plugins before us have made.
    pub previous: CniResult,
}

/// How an attachment is made: what there is to know before anything is made.
pub enum Plan {
    /// Mode `vhostuser`.
    Vhostuser(Box<vhostuser::Plan>),
    /// Mode `translator`.
    Translator(translator::Plan),
    /// Mode `tap`.
    Tap(Box<tap::Plan>),
    /// Mode `netdev`.
    Netdev(Box<netdev::Plan>),
}

impl Attachment {
    /// Of a call of ADD or CHECK.
    ///
    /// # Errors
    /// [`Code::Environment`], [`Code::Config`], [`Code::Decode`].
    pub fn of(version: Version, variables: &Variables, config: &Config) -> Result<Self, Error> {
        let id = variables.attachment()?;
        let missing = || Error::new(Code::Environment, "CNI_NETNS is not set");
        let netns = variables.netns()?.ok_or_else(missing)?;
        let pod = variables.pod()?;
        let settings = Settings::of(config, &pod)?;
        if settings.port().is_none() && !Rates::of(config)?.is_none() {
            eprintln!(
                "culvert-cni: only ports on culvertd's networks have rates: `rate` and `bandwidth` have no effect"
            );
        }
        let previous = match config.prev_result.clone().filter(|previous| !previous.is_null()) {
            Some(previous) => CniResult::parse("prevResult", previous)?,
            None => CniResult::default(),
        };
        Ok(Self {
            version,
            network_name: config.network_name()?.to_owned(),
            id,
            netns,
            pod,
            places: Places::of(config)?,
            settings,
            previous,
        })
    }

    /// What a person sees of it in culvertd: at most 200 bytes.
    pub fn description(&self) -> String {
        let pod = match (&self.pod.namespace, &self.pod.name) {
            (Some(namespace), Some(name)) => format!("pod {namespace}/{name}"),
            (None, Some(name)) => format!("container {name}"),
            _ => format!("container {}", crate::name::short(&self.id.container)),
        };
        let mut text = format!("{pod}, {} of {}", self.id.ifname, self.network_name);
        while text.len() > 200 {
            text.pop();
        }
        text
    }

    /// The network namespace as results name it.
    pub fn sandbox(&self) -> String {
        self.netns.display().to_string()
    }

    /// How it is made.
    ///
    /// # Errors
    /// The mode's.
    pub fn plan(&self) -> Result<Plan, Error> {
        Ok(match &self.settings {
            Settings::Vhostuser(settings) => Plan::Vhostuser(Box::new(vhostuser::Plan::of(self, settings)?)),
            Settings::Translator(settings) => Plan::Translator(translator::Plan::of(self, settings)?),
            Settings::Tap(settings) => Plan::Tap(Box::new(tap::Plan::of(self, settings)?)),
            Settings::Netdev(port) => Plan::Netdev(Box::new(netdev::Plan::of(self, port)?)),
        })
    }
}

impl Plan {
    /// All that [`Plan::make`] may make, in its order.
    pub fn things(&self, attachment: &Attachment) -> Vec<Thing> {
        match self {
            Self::Vhostuser(plan) => plan.things(attachment),
            Self::Translator(plan) => plan.things(),
            Self::Tap(plan) => plan.things(attachment),
            Self::Netdev(plan) => plan.things(attachment),
        }
    }

    /// Makes it, with the addresses that IPAM gave. Whoever calls has written [`Plan::things`] down and removes them when this
    /// fails. Returns the interfaces, that with the addresses first.
    ///
    /// # Errors
    /// The mode's.
    pub fn make(&self, attachment: &Attachment, ipam: Option<&CniResult>) -> Result<Vec<Interface>, Error> {
        match self {
            Self::Vhostuser(plan) => plan.make(attachment, ipam),
            Self::Translator(plan) => plan.make(attachment),
            Self::Tap(plan) => plan.make(attachment),
            Self::Netdev(plan) => plan.make(attachment, ipam),
        }
    }

    /// Whether nothing can be made without culvertd.
    pub fn needs_daemon(&self) -> bool {
        !matches!(self, Self::Translator(_))
    }

    /// Looks whether it is as ADD made it.
    ///
    /// # Errors
    /// [`Code::Changed`] when it is not; [`Code::TryLater`] when it cannot be seen at present.
    pub fn check(&self, attachment: &Attachment) -> Result<(), Error> {
        match self {
            Self::Vhostuser(plan) => plan.check(attachment),
            Self::Translator(plan) => plan.check(attachment),
            Self::Tap(plan) => plan.check(attachment),
            Self::Netdev(plan) => plan.check(attachment),
        }
    }

    /// Whether an interface is made: it must not be there before, and gets the addresses of the IPAM plugin.
    pub fn has_interface(&self) -> bool {
        !matches!(self, Self::Translator(_))
    }
}

/// The IPAM plugin of a configuration; `None` when it names none.
///
/// # Errors
/// [`Code::Config`] when it cannot be found.
pub fn ipam<'a>(variables: &Variables, config: &Config, input: &'a Input) -> Result<Option<Ipam<'a>>, Error> {
    let Some(name) = config.ipam_type() else { return Ok(None) };
    Ipam::find(name, &variables.folders()?, &input.bytes).map(Some)
}

/// The error for a result that already has our interface.
///
/// # Errors
/// [`Code::Exists`].
pub fn refuse_duplicate(attachment: &Attachment) -> Result<(), Error> {
    let ours =
        |interface: &&Interface| interface.name == attachment.id.ifname && interface.sandbox == attachment.sandbox();
    match attachment.previous.interfaces.iter().find(ours) {
        None => Ok(()),
        Some(_) => {
            let message = format!("a plugin before this one has made {}", attachment.id);
            Err(Error::with(Code::Exists, message, "give this network an attachment of its own"))
        }
    }
}

/// An interface of `name` in the attachment's network namespace.
pub fn interface(attachment: &Attachment, mac: String, mtu: u32) -> Interface {
    Interface {
        name: attachment.id.ifname.clone(),
        mac,
        mtu: Some(mtu),
        sandbox: attachment.sandbox(),
        ..Interface::default()
    }
}

/// What a runtime passes to CHECK as the result of ADD has our interface as it is to be.
///
/// # Errors
/// [`Code::Changed`].
pub fn check_previous(attachment: &Attachment, mac: &str) -> Result<(), Error> {
    let ours = |interface: &&Interface| interface.name == attachment.id.ifname;
    let changed = |what: String| Err(Error::with(Code::Changed, what, "DEL, then ADD it again"));
    match attachment.previous.interfaces.iter().find(ours) {
        None => changed(format!("prevResult does not have {}", attachment.id)),
        Some(there) if there.sandbox != attachment.sandbox() => {
            changed(format!("prevResult has {} in {}", attachment.id, there.sandbox))
        }
        Some(there) if !there.mac.eq_ignore_ascii_case(mac) => {
            changed(format!("prevResult has {} with {} instead of {mac}", attachment.id, there.mac))
        }
        Some(_) => Ok(()),
    }
}

/// Whether a value is there and not null.
pub fn is_present(value: Option<&Value>) -> bool {
    value.is_some_and(|value| !value.is_null())
}
