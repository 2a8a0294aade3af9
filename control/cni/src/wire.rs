//! The way from an interface of the kernel's in a container to one of culvertd's networks: a veth, whose end on the node is a port of
//! culvertd's (DPDK's net_af_packet).

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use culvert_api::v1;
use netlink_packet_route::link::{LinkAttribute, LinkFlags};

use crate::attachment::Attachment;
use crate::config::settings::Port;
use crate::daemon::Daemon;
use crate::error::{Code, Error};
use crate::link::prepare;
use crate::name;
use crate::netlink::{Link, Netlink};
use crate::thing::Thing;

/// A way that is there, or is to be.
#[derive(Debug)]
pub struct Wire {
    port: Port,
    /// Of the port in culvertd.
    name: String,
    /// The end on the node.
    outer: String,
}

impl Wire {
    /// The way of an attachment; the letters and digits of its interface's name on the node are `hash`.
    ///
    /// # Errors
    /// [`Code::Config`] for an MTU that there cannot be.
    pub fn of(attachment: &Attachment, port: &Port, hash: &str) -> Result<Self, Error> {
        if port.mtu > LONG_MTU {
            let message = format!("mtu {} is not possible with an interface of the kernel's on a network", port.mtu);
            return Err(Error::with(Code::Config, message, format!("use at most {LONG_MTU}")));
        }
        Ok(Self { port: port.clone(), name: name::port(&attachment.id), outer: format!("cv{hash}") })
    }

    /// See [`crate::attachment::Plan::things`]. They go with the end in the container.
    pub fn things(&self, alias: &str) -> [Thing; 2] {
        let outer = Thing::Link { namespace: None, name: self.outer.clone(), alias: alias.to_owned() };
        [outer, Thing::Port { name: self.name.clone() }]
    }

    /// The culvertd that has the network.
    ///
    /// # Errors
    /// There is no such network, or no culvertd.
    pub fn daemon(&self, attachment: &Attachment) -> Result<Daemon, Error> {
        let daemon = Daemon::connect(&attachment.places.control_socket)?;
        daemon.require_network(&self.port.network)?;
        Ok(daemon)
    }

    /// Makes both ends: `inner` in this thread's namespace, which is the container's, the other one on the node, whose namespace `node` is.
    ///
    /// # Errors
    /// The kernel's.
    pub fn lay(&self, netlink: &Netlink, inner: &str, node: &File) -> io::Result<()> {
        netlink.add_veth(inner, self.port.mtu, &self.outer, node.as_fd())
    }

    /// Makes the end on the node a port.
    ///
    /// # Errors
    /// The kernel's and culvertd's.
    pub fn join(&self, attachment: &Attachment, daemon: &Daemon, alias: &str) -> Result<(), Error> {
        let netlink = Netlink::open().map_err(failed(&self.outer))?;
        prepare(&netlink, &self.outer, alias, self.port.mtu, Vec::new(), true).map_err(failed(&self.outer))?;
        let slots = if self.port.mtu > SHORT_MTU { LONG_SLOTS } else { "" };
        let spec = v1::PortSpec {
            network: Some(self.port.network.clone()),
            device: Some(format!("net_af_packet_{outer},iface={outer}{slots}", outer = self.outer)),
            mtu: Some(self.port.mtu),
            mac_limit: Some(MAC_LIMIT),
            vlan: self.port.vlan,
            description: Some(attachment.description()),
            ..v1::PortSpec::default()
        };
        daemon.add_port(&self.name, &self.port.rates.clone().within(spec))?;
        self.check_port(daemon).map_err(|error| Error { code: Code::TryLater, ..error })
    }

    /// Looks whether the port is there, and open.
    ///
    /// # Errors
    /// [`Code::Changed`].
    pub fn check(&self, attachment: &Attachment) -> Result<(), Error> {
        self.check_port(&Daemon::connect(&attachment.places.control_socket)?)
    }

    fn check_port(&self, daemon: &Daemon) -> Result<(), Error> {
        let name = &self.name;
        match daemon.port(name)? {
            None => Err(changed(format!("culvertd has no port {name}"))),
            Some(port) if port.state() == v1::PortState::Failed => {
                Err(Error::with(Code::Changed, format!("culvertd cannot open port {name}"), port.reason))
            }
            Some(_) => Ok(()),
        }
    }
}

/// The text by which an attachment's interfaces are known.
pub fn alias(attachment: &Attachment) -> String {
    format!("culvert {}", name::port(&attachment.id))
}

/// The node's namespace, which is this process's.
///
/// # Errors
/// The kernel's.
pub fn node() -> Result<File, Error> {
    File::open("/proc/self/ns/net").map_err(failed("the node's namespace"))
}

/// Refuses a name that an interface of this thread's namespace has already.
///
/// # Errors
/// [`Code::Exists`].
pub fn refuse_existing(netlink: &Netlink, name: &str) -> Result<(), Error> {
    match netlink.link(name).map_err(failed(name))? {
        None => Ok(()),
        Some(_) => {
            let message = format!("the pod has an interface {name}");
            Err(Error::with(Code::Exists, message, "give each attachment of a pod a name of its own"))
        }
    }
}

/// Looks whether an interface of this thread's namespace is there, ours, and up.
///
/// # Errors
/// [`Code::Changed`].
pub fn check_link(netlink: &Netlink, name: &str, alias: &str) -> Result<(), Error> {
    match netlink.link(name).map_err(failed(name))? {
        Some(link) if link.alias == alias && link.up => Ok(()),
        Some(_) => Err(changed(format!("{name} is another interface, or down"))),
        None => Err(changed(format!("there is no interface {name}"))),
    }
}

/// Gives an interface that was just made its text and what else is wanted, and takes it up.
///
/// # Errors
/// The kernel's.
pub fn take_up(netlink: &Netlink, name: &str, alias: &str, mut more: Vec<LinkAttribute>) -> io::Result<Link> {
    let link = netlink.link(name)?.ok_or(io::ErrorKind::NotFound)?;
    more.push(LinkAttribute::IfAlias(alias.to_owned()));
    netlink.set(link.index, more, LinkFlags::empty())?;
    netlink.set(link.index, Vec::new(), LinkFlags::Up)?;
    Ok(link)
}

/// The error for an interface that cannot be made.
pub fn failed(name: &str) -> impl FnOnce(io::Error) -> Error {
    let message = format!("interface {name} cannot be made");
    move |error| Error::io(message, error)
}

fn changed(message: String) -> Error {
    Error::with(Code::Changed, message, "DEL, then ADD it again")
}

/// net_af_packet's slots have room for so much without further arguments.
const SHORT_MTU: u32 = 1960;
/// With [`LONG_SLOTS`].
const LONG_MTU: u32 = 9100;
const LONG_SLOTS: &str = ",framesz=9216,blocksz=36864";
/// A guest, or a container, has few addresses.
const MAC_LIMIT: u32 = 64;
