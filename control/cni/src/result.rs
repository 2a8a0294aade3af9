//! Results: what an ADD has made, for the runtime and the plugins after us; what the plugins before us and the IPAM plugin
//! have made, for us. Fields that we do not know pass through as they are.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Code, Error};
use crate::version::Version;

/// A result as it is read and written.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct CniResult {
    /// The interfaces.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<Interface>,
    /// Their addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<Ip>,
    /// Routes, as they are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Value>,
    /// Name servers, as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<Value>,
    /// What else there is; `cniVersion` among it.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its address.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// In bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The network namespace that it is in; empty for the node's own.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
    /// The path of its vhost-user socket on the node.
    #[serde(rename = "socketPath", skip_serializing_if = "String::is_empty")]
    pub socket_path: String,
    /// What else there is.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// An address of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Ip {
    /// `4` or `6`, before 1.0.0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The address with its prefix's length.
    pub address: String,
    /// The number of its interface in the result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
    /// What else there is; `gateway` among it.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl CniResult {
    /// Reads the result of `whom`.
    ///
    /// # Errors
    /// [`Code::Decode`].
    pub fn parse(whom: &str, value: Value) -> Result<Self, Error> {
        serde_json::from_value(value)
            .map_err(|error| Error::with(Code::Decode, format!("{whom} is no result of a plugin"), error))
    }

    /// This result and what we made: `interfaces`, the first of which has the addresses that IPAM gave.
    #[must_use]
    pub fn with(mut self, version: Version, mut interfaces: Vec<Interface>, ipam: Option<Self>) -> Self {
        if !version.has_sockets() {
            for interface in &mut interfaces {
                interface.mtu = None;
                interface.socket_path.clear();
            }
        }
        let first = self.interfaces.len();
        self.interfaces.append(&mut interfaces);
        let Some(ipam) = ipam else { return self };
        self.ips.extend(ipam.ips.into_iter().map(|ip| ip.of(first, version)));
        self.routes.extend(ipam.routes);
        if !has_servers(self.dns.as_ref()) {
            self.dns = ipam.dns.or(self.dns);
        }
        self
    }

    /// As it is written to standard output.
    pub fn to_json(&self, version: Version) -> Value {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        if let Value::Object(object) = &mut value {
            object.insert("cniVersion".to_owned(), Value::from(version.as_str()));
        }
        value
    }
}

impl Ip {
    /// As the address of interface number `interface`, in a version's form.
    fn of(mut self, interface: usize, version: Version) -> Self {
        self.interface = Some(interface);
        let family = if self.address.contains(':') { "6" } else { "4" };
        self.version = version.marks_addresses().then(|| family.to_owned());
        self
    }
}

/// Whether `dns` says anything.
fn has_servers(dns: Option<&Value>) -> bool {
    dns.and_then(Value::as_object).is_some_and(|dns| !dns.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ours() -> Interface {
        Interface {
            name: "pod494bb167e44".to_owned(),
            mac: "02:11:22:aa:bb:01".to_owned(),
            mtu: Some(1500),
            sandbox: "/run/netns/cni-1".to_owned(),
            socket_path: "/run/culvert/devices/sw0/port-7/pod494bb167e44.sock".to_owned(),
            rest: Map::new(),
        }
    }

    fn ipam() -> Option<CniResult> {
        let value = json!({"cniVersion": "1.0.0", "ips": [{"address": "198.51.100.5/26"}], "dns": {}});
        Some(CniResult::parse("ipam", value).unwrap())
    }

    #[test]
    fn a_result_in_each_version() {
        let made = |version| CniResult::default().with(version, vec![ours()], ipam()).to_json(version);
        let newest = json!({
            "cniVersion": "1.1.0",
            "interfaces": [{
                "name": "pod494bb167e44", "mac": "02:11:22:aa:bb:01", "mtu": 1500, "sandbox": "/run/netns/cni-1",
                "socketPath": "/run/culvert/devices/sw0/port-7/pod494bb167e44.sock",
            }],
            "ips": [{"address": "198.51.100.5/26", "interface": 0}],
            "dns": {},
        });
        assert_eq!(made(Version::V1_1_0), newest);
        let older = json!({
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "pod494bb167e44", "mac": "02:11:22:aa:bb:01", "sandbox": "/run/netns/cni-1"}],
            "ips": [{"address": "198.51.100.5/26", "interface": 0}],
            "dns": {},
        });
        assert_eq!(made(Version::V1_0_0), older);
        for version in [Version::V0_3_0, Version::V0_3_1, Version::V0_4_0] {
            let made = made(version);
            assert_eq!(made["ips"], json!([{"version": "4", "address": "198.51.100.5/26", "interface": 0}]));
            assert_eq!((&made["cniVersion"], &made["interfaces"]), (&json!(version.as_str()), &older["interfaces"]));
        }
        assert_eq!(CniResult::default().to_json(Version::V0_3_0), json!({"cniVersion": "0.3.0"}));
    }

    #[test]
    fn what_others_made_passes_through() {
        let previous = json!({
            "cniVersion": "1.1.0", "future": {"a": 1},
            "interfaces": [{"name": "eth0", "sandbox": "/ns", "mtu": 9000, "pciID": "0000:00:05.0"}, {"name": "br0"}],
            "ips": [{"address": "fd00::5/64", "gateway": "fd00::1", "interface": 0}],
            "routes": [{"dst": "::/0", "table": 5}],
            "dns": {"nameservers": ["fd00::53"]},
        });
        let parsed = CniResult::parse("prevResult", previous.clone()).unwrap();
        assert_eq!(parsed.to_json(Version::V1_1_0), previous);
        let ipam = json!({"ips": [{"version": "6", "address": "fd01::2/64"}], "routes": [{"dst": "fd02::/16"}]});
        let ipam = CniResult::parse("ipam", ipam).unwrap();
        let merged = parsed.with(Version::V1_1_0, vec![ours()], Some(ipam)).to_json(Version::V1_1_0);
        assert_eq!(merged["interfaces"].as_array().unwrap().len(), 3);
        assert_eq!(merged["ips"][0], previous["ips"][0]);
        assert_eq!(merged["ips"][1], json!({"address": "fd01::2/64", "interface": 2}));
        assert_eq!(merged["routes"], json!([{"dst": "::/0", "table": 5}, {"dst": "fd02::/16"}]));
        assert_eq!((&merged["dns"], &merged["future"]), (&previous["dns"], &previous["future"]));
    }

    #[test]
    fn what_is_no_result() {
        for value in [json!([]), json!({"interfaces": 1}), json!({"ips": [{"address": 5}]}), json!("x")] {
            assert_eq!(CniResult::parse("prevResult", value).unwrap_err().code, Code::Decode);
        }
    }
}
