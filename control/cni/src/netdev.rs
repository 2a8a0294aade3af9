//! Mode `netdev`: an interface of the kernel's in the container, with the addresses and routes that IPAM gives, on one of culvertd's
//! networks. For programs that are no guests: KubeVirt's virt-handler has one as its migration network.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::link::LinkAttribute;
use serde_json::Value;

use crate::attachment::{Attachment, check_previous, interface};
use crate::config::settings::Port;
use crate::error::{Code, Error};
use crate::name::{self, Mac};
use crate::netlink::{Netlink, finish_checksums};
use crate::netns;
use crate::result::{CniResult, Interface};
use crate::thing::Thing;
use crate::wire::{self, Wire, failed};

/// How the interface is made.
#[derive(Debug)]
pub struct Plan {
    wire: Wire,
    name: String,
    mac: Mac,
    mtu: u32,
}

impl Plan {
    /// Finds out what is to be made. Nothing is made yet.
    ///
    /// # Errors
    /// [`Code::Config`].
    pub fn of(attachment: &Attachment, port: &Port) -> Result<Self, Error> {
        let wire = Wire::of(attachment, port, &name::hex("netdev", &attachment.id))?;
        let mac = port.mac.unwrap_or_else(|| Mac::of(&attachment.id));
        Ok(Self { wire, name: attachment.id.ifname.clone(), mac, mtu: port.mtu })
    }

    /// See [`crate::attachment::Plan::things`].
    pub fn things(&self, attachment: &Attachment) -> Vec<Thing> {
        let alias = wire::alias(attachment);
        let (namespace, name) = (Some(attachment.netns.clone()), self.name.clone());
        let inner = Thing::Link { namespace, name, alias: alias.clone() };
        [inner].into_iter().chain(self.wire.things(&alias)).collect()
    }

    /// See [`crate::attachment::Plan::make`].
    ///
    /// # Errors
    /// [`Code::Exists`] for an interface that is there; the kernel's and culvertd's.
    pub fn make(&self, attachment: &Attachment, ipam: Option<&CniResult>) -> Result<Vec<Interface>, Error> {
        let (addresses, routes) = ipam.map(wishes).transpose()?.unwrap_or_default();
        let daemon = self.wire.daemon(attachment)?;
        let (node, alias) = (wire::node()?, wire::alias(attachment));
        netns::inside(&attachment.netns, || {
            let netlink = Netlink::open().map_err(failed(&self.name))?;
            wire::refuse_existing(&netlink, &self.name)?;
            let make = || {
                self.wire.lay(&netlink, &self.name, &node)?;
                let mac = LinkAttribute::Address(self.mac.bytes().to_vec());
                let link = wire::take_up(&netlink, &self.name, &alias, vec![mac])?;
                addresses.iter().try_for_each(|address| netlink.add_address(link.index, *address))?;
                routes.iter().try_for_each(|(to, gateway)| netlink.add_route(link.index, *to, *gateway))?;
                finish_checksums(link.index)
            };
            make().map_err(failed(&self.name))
        })?;
        self.wire.join(attachment, &daemon, &alias)?;
        Ok(vec![interface(attachment, self.mac.to_string(), self.mtu)])
    }

    /// See [`crate::attachment::Plan::check`].
    ///
    /// # Errors
    /// [`Code::Changed`].
    pub fn check(&self, attachment: &Attachment) -> Result<(), Error> {
        netns::inside(&attachment.netns, || {
            let netlink = Netlink::open().map_err(failed(&self.name))?;
            wire::check_link(&netlink, &self.name, &wire::alias(attachment))
        })?;
        check_previous(attachment, &self.mac.to_string())?;
        self.wire.check(attachment)
    }
}

/// What an interface gets: its addresses; networks, each with the gateway to it, if there is one.
type Wishes = (Vec<IpNet>, Vec<(IpNet, Option<IpAddr>)>);

/// What IPAM gives. A route without a gateway has that of the address of its kind (CNI specification, 1.1.0, "IPAM plugins").
fn wishes(ipam: &CniResult) -> Result<Wishes, Error> {
    let wrong = |what: &Value| Error::new(Code::Decode, format!("{what} of the IPAM plugin is no address or network"));
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    let gateway = |value: Option<&Value>| match text(value).filter(|text| !text.is_empty()) {
        Some(gateway) => gateway.parse::<IpAddr>().map(Some).map_err(|_| wrong(&Value::from(gateway))),
        None => Ok(None),
    };
    let mut addresses = Vec::new();
    let mut gateways = Vec::new();
    for ip in &ipam.ips {
        addresses.push(ip.address.parse().map_err(|_| wrong(&Value::from(ip.address.as_str())))?);
        gateways.extend(gateway(ip.rest.get("gateway"))?);
    }
    let mut routes = Vec::new();
    for route in &ipam.routes {
        let to: IpNet = text(route.get("dst")).and_then(|to| to.parse().ok()).ok_or_else(|| wrong(route))?;
        let of_its_kind = |gateway: &&IpAddr| gateway.is_ipv4() == to.addr().is_ipv4();
        let by = gateway(route.get("gw"))?.or_else(|| gateways.iter().find(of_its_kind).copied());
        routes.push((to, by));
    }
    Ok((addresses, routes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses_and_routes_are_those_of_ipam() {
        let of = |value: Value| wishes(&CniResult::parse("ipam", value).unwrap());
        let (addresses, routes) = of(json!({
            "ips": [{"address": "172.21.42.7/24", "gateway": "172.21.42.1"}, {"address": "fd00:42::7/64"}],
            "routes": [{"dst": "10.0.0.0/8"}, {"dst": "10.1.0.0/16", "gw": "172.21.42.2"}, {"dst": "fd01::/64"}],
        }))
        .unwrap();
        assert_eq!(addresses, ["172.21.42.7/24", "fd00:42::7/64"].map(|text| text.parse::<IpNet>().unwrap()));
        let expected = [("10.0.0.0/8", Some("172.21.42.1")), ("10.1.0.0/16", Some("172.21.42.2")), ("fd01::/64", None)];
        assert_eq!(
            routes,
            expected.map(|(to, by)| (to.parse().unwrap(), by.map(|by: &str| by.parse::<IpAddr>().unwrap())))
        );
        assert!(of(json!({})).unwrap().0.is_empty());
        for (value, said) in [
            (json!({"ips": [{"address": "172.21.42.7"}]}), "\"172.21.42.7\""),
            (json!({"ips": [{"address": "1.2.3.4/8", "gateway": "x"}]}), "\"x\""),
            (json!({"routes": [{"gw": "1.2.3.4"}]}), "{\"gw\":\"1.2.3.4\"}"),
        ] {
            let error = of(value).unwrap_err().to_string();
            assert!(error.contains(&format!("{said} of the IPAM plugin is no address")), "{error}");
        }
    }
}
