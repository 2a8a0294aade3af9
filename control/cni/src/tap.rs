//! Mode `tap`: a tap device in the pod, for a guest whose memory is not shared. QEMU has the end that is a descriptor; the
//! interface is ours, and silent: no address, no ARP, no IPv6.
//!
//! - Without `network`: for the pod's own network. A translator gets the guest's frames by a packet socket on the tap, which
//!   culvertd opens for it; the namespace is prepared as in mode `translator`.
//! - With `network`: a bridge in the pod joins the tap and one end of a veth, whose other end, on the node, is a port of
//!   culvertd's (DPDK's net_af_packet).
//!
//! Names are those that KubeVirt looks for in a pod with `domainAttachmentType: tap`: for an interface `podX` of the pod the
//! guest's tap is `tapX`, and `podX` has the guest's address and MTU; it is a tap that nobody opens. For the pod's own network
//! they are `tap0` and the pod's `eth0`, which is there.

use std::path::PathBuf;

use culvert_api::v1;
use netlink_packet_route::link::LinkAttribute;

use crate::attachment::{Attachment, check_previous, interface};
use crate::config::settings::{Owner, Tap, Translator};
use crate::daemon::Daemon;
use crate::error::{Code, Error};
use crate::link::{add_tap, prepare};
use crate::name::{self, Mac};
use crate::netlink::{Netlink, finish_checksums};
use crate::result::Interface;
use crate::thing::Thing;
use crate::wire::{self, Wire, failed};
use crate::{netns, translator};

/// How the tap is made.
#[derive(Debug)]
pub struct Plan {
    settings: Tap,
    /// Of the pod, or of the port.
    name: String,
    tap: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// For a translator.
    Primary { preparation: translator::Plan, folders: Vec<PathBuf> },
    /// On a network of culvertd's.
    Secondary { wire: Wire, mac: Mac, names: Names },
}

/// The interfaces in the pod that lead from the tap to culvertd.
#[derive(Debug)]
struct Names {
    /// Has the guest's address and MTU; carries no frames.
    record: String,
    bridge: String,
    /// The veth's end.
    inner: String,
}

/// The tap that KubeVirt looks for on the pod's own network, and the interface that it takes MTU and address from.
const PRIMARY: (&str, &str) = ("tap0", "eth0");
impl Plan {
    /// Finds out what is to be made. Nothing is made yet.
    ///
    /// # Errors
    /// [`Code::Config`].
    pub fn of(attachment: &Attachment, settings: &Tap) -> Result<Self, Error> {
        let (settings, name) = (settings.clone(), name::port(&attachment.id));
        let Some(port) = settings.port.clone() else {
            let wanted = Translator { owner: settings.owner };
            let kind = Kind::Primary {
                preparation: translator::Plan::of(attachment, &wanted)?,
                folders: translator::folders(attachment),
            };
            return Ok(Self { settings, name, tap: PRIMARY.0.to_owned(), kind });
        };
        let ifname = &attachment.id.ifname;
        // As KubeVirt does: `tap` in the place of the first three letters.
        let end = ifname.get(3..).filter(|end| !end.is_empty() && !ifname.starts_with("tap")).ok_or_else(|| {
            let message = format!("interface {ifname:?} cannot have a tap");
            Error::with(Code::Config, message, "its name must have more than 3 letters, and others than \"tap\" first")
        })?;
        let hash = name::hex("tap", &attachment.id);
        let wire = Wire::of(attachment, &port, &hash)?;
        let names = Names { record: ifname.clone(), bridge: format!("br{hash}"), inner: format!("in{hash}") };
        let mac = settings.mac.unwrap_or_else(|| Mac::of(&attachment.id));
        let tap = format!("tap{end}");
        Ok(Self { settings, name, tap, kind: Kind::Secondary { wire, mac, names } })
    }

    /// See [`crate::attachment::Plan::things`].
    pub fn things(&self, attachment: &Attachment) -> Vec<Thing> {
        let alias = wire::alias(attachment);
        let inside = |name: &str| Thing::Link {
            namespace: Some(attachment.netns.clone()),
            name: name.to_owned(),
            alias: alias.clone(),
        };
        match &self.kind {
            Kind::Primary { .. } => vec![inside(&self.tap), Thing::Pod { name: self.name.clone() }],
            Kind::Secondary { wire, names, .. } => {
                let inner = [inside(&self.tap), inside(&names.record), inside(&names.bridge)];
                inner.into_iter().chain(wire.things(&alias)).collect()
            }
        }
    }

    /// See [`crate::attachment::Plan::make`].
    ///
    /// # Errors
    /// [`Code::Exists`] for an interface that is there; the kernel's and culvertd's.
    pub fn make(&self, attachment: &Attachment) -> Result<Vec<Interface>, Error> {
        match &self.kind {
            Kind::Primary { preparation, folders } => {
                self.make_primary(attachment, preparation, folders)?;
                Ok(Vec::new())
            }
            Kind::Secondary { wire, mac, names } => {
                let daemon = wire.daemon(attachment)?;
                self.make_links(attachment, *mac, wire, names)?;
                wire.join(attachment, &daemon, &wire::alias(attachment))?;
                Ok(vec![interface(attachment, mac.to_string(), self.settings.mtu)])
            }
        }
    }

    fn make_primary(
        &self,
        attachment: &Attachment,
        preparation: &translator::Plan,
        folders: &[PathBuf],
    ) -> Result<(), Error> {
        preparation.prepare(attachment)?;
        netns::inside(&attachment.netns, || {
            let netlink = Netlink::open().map_err(failed(&self.tap))?;
            // The guest is told the MTU of the pod's interface: no frame may be too long for the tap.
            let primary = netlink.link(PRIMARY.1).map_err(failed(PRIMARY.1))?;
            let mtu = self.settings.mtu.max(primary.map_or(0, |link| link.mtu));
            self.make_tap(attachment, &netlink, mtu, Vec::new())
        })?;
        let spec = v1::PodSpec {
            folders: folders.iter().map(|folder| folder.display().to_string()).collect(),
            netns: Some(attachment.sandbox()),
            tap: Some(self.tap.clone()),
            description: Some(attachment.description()),
        };
        if spec.folders.is_empty() {
            let details = "CNI_ARGS has no K8S_POD_UID: only a pod has a place for its translator's sockets";
            return Err(Error::with(Code::Config, "mode tap needs `network` here", details));
        }
        Daemon::connect(&attachment.places.control_socket)?.add_pod(&self.name, &spec)
    }

    fn make_links(&self, attachment: &Attachment, mac: Mac, wire: &Wire, names: &Names) -> Result<(), Error> {
        let node = wire::node()?;
        let (alias, mtu) = (wire::alias(attachment), self.settings.mtu);
        netns::inside(&attachment.netns, || {
            let netlink = Netlink::open().map_err(failed(&self.tap))?;
            wire::refuse_existing(&netlink, &names.record)?;
            netlink.add_bridge(&names.bridge).map_err(failed(&names.bridge))?;
            let bridge = prepare(&netlink, &names.bridge, &alias, mtu, Vec::new(), true);
            let bridge = bridge.map_err(failed(&names.bridge))?.index;
            self.make_tap(attachment, &netlink, mtu, vec![LinkAttribute::Controller(bridge)])?;
            // Nobody is to open it: it is not even up.
            let nobody = Owner { uid: 0, gid: 0 };
            add_tap(&names.record, nobody, false).map_err(failed(&names.record))?;
            let address = vec![LinkAttribute::Address(mac.bytes().to_vec())];
            prepare(&netlink, &names.record, &alias, mtu, address, false).map_err(failed(&names.record))?;
            wire.lay(&netlink, &names.inner, &node).map_err(failed(&names.inner))?;
            let joined = vec![LinkAttribute::Controller(bridge)];
            let inner = prepare(&netlink, &names.inner, &alias, mtu, joined, true).map_err(failed(&names.inner))?;
            finish_checksums(inner.index).map_err(failed(&names.inner))
        })
    }

    /// The tap that the guest's QEMU opens, in this thread's namespace.
    fn make_tap(
        &self,
        attachment: &Attachment,
        netlink: &Netlink,
        mtu: u32,
        more: Vec<LinkAttribute>,
    ) -> Result<(), Error> {
        wire::refuse_existing(netlink, &self.tap)?;
        add_tap(&self.tap, self.settings.owner, self.settings.multi_queue).map_err(failed(&self.tap))?;
        prepare(netlink, &self.tap, &wire::alias(attachment), mtu, more, true).map_err(failed(&self.tap)).map(drop)
    }

    /// See [`crate::attachment::Plan::check`].
    ///
    /// # Errors
    /// [`Code::Changed`].
    pub fn check(&self, attachment: &Attachment) -> Result<(), Error> {
        netns::inside(&attachment.netns, || {
            let netlink = Netlink::open().map_err(failed(&self.tap))?;
            wire::check_link(&netlink, &self.tap, &wire::alias(attachment))
        })?;
        match &self.kind {
            Kind::Primary { preparation, .. } => preparation.check(attachment),
            Kind::Secondary { wire, mac, .. } => {
                check_previous(attachment, &mac.to_string())?;
                wire.check(attachment)
            }
        }
    }
}
