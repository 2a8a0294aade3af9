//! What Multus and KubeVirt say of a pod's networks: the annotation `k8s.v1.cni.cncf.io/network-status` and the file
//! `network-info`, and in both the device information of the vhost-user kind.
//!
//! Versions of the device information are not compared: 1.0 had none, and what is read here is the same in all. Whoever
//! may annotate the pod decides what is written there: sizes are limited, and contents checked where they are used.

use serde::Deserialize;

/// Longest JSON that is read, in bytes: all annotations of a pod together have at most 256 KiB.
pub const MAX_JSON_BYTES: usize = 1024 * 1024;

/// Why a file or variable about networks cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} cannot be read: {reason}")]
pub struct ReadError {
    /// Which one.
    pub what: String,
    /// Why.
    pub reason: String,
}

/// The file `network-info`: the networks of a binding that is registered with `downwardAPI: device-info`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct NetworkInfo {
    /// One for each network.
    #[serde(default)]
    pub interfaces: Vec<InfoInterface>,
}

/// A network in `network-info`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "KubeVirt's fields")]
pub struct InfoInterface {
    pub network: String,
    pub device_info: Option<DeviceInfo>,
    pub mac: Option<String>,
    pub mtu: Option<u64>,
}

/// An entry of `network-status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "Multus' fields")]
pub struct StatusEntry {
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub interface: String,
    pub mac: Option<String>,
    pub mtu: Option<u64>,
    pub device_info: Option<DeviceInfo>,
}

/// Device information; kinds other than vhost-user are passed over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[expect(missing_docs, reason = "the specification's fields")]
pub struct DeviceInfo {
    #[serde(rename = "type", default)]
    pub kind: String,
    #[serde(rename = "vhost-user")]
    pub vhost_user: Option<VhostUser>,
}

/// A vhost-user socket as the container sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct VhostUser {
    /// The container's role: `client` or `server`.
    pub mode: String,
    /// In the container; a relative one is below the shared folder.
    pub path: String,
}

impl DeviceInfo {
    /// The socket, if it is of that kind.
    pub fn socket(&self) -> Option<&VhostUser> {
        self.vhost_user.as_ref().filter(|_| self.kind == "vhost-user")
    }
}

impl NetworkInfo {
    /// Reads the file's contents; an empty file is one that is not written yet.
    ///
    /// # Errors
    /// It is too long or not of that form.
    pub fn parse(text: &[u8]) -> Result<Self, ReadError> {
        if text.trim_ascii().is_empty() {
            return Ok(Self::default());
        }
        parse("/etc/podinfo/network-info", text)
    }

    /// The entry of a network.
    pub fn find(&self, network: &str) -> Option<&InfoInterface> {
        self.interfaces.iter().find(|interface| interface.network == network)
    }
}

/// Reads the value of the annotation `network-status`; an empty one has no entries.
///
/// # Errors
/// It is too long or not of that form.
pub fn network_status(text: &[u8]) -> Result<Vec<StatusEntry>, ReadError> {
    if text.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    parse("the pod's annotation k8s.v1.cni.cncf.io/network-status", text)
}

/// Reads JSON of limited length.
pub(crate) fn parse<'a, T: Deserialize<'a>>(what: &str, text: &'a [u8]) -> Result<T, ReadError> {
    let fail = |reason: String| Err(ReadError { what: what.to_owned(), reason });
    if text.len() > MAX_JSON_BYTES {
        return fail(format!("it has {} bytes; {MAX_JSON_BYTES} are read", text.len()));
    }
    serde_json::from_slice(text).or_else(|error| fail(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Multus' annotation with KubeVirt's names.
    pub const STATUS: &str = r#"[
 {"name":"lab/default","interface":"eth0","ips":["203.0.113.9"],"mac":"0a:58:cb:00:71:09","default":true,"dns":{}},
 {"name":"lab/lab-net","interface":"pod494bb167e44","ips":["198.51.100.5"],"mac":"02:11:22:aa:bb:01","mtu":1500,"dns":{},
  "device-info":{"type":"vhost-user","version":"1.1.0","vhost-user":{"mode":"server","path":"0f1e2d3c4b5a-pod494bb167e44"}}}]"#;

    /// KubeVirt's file.
    pub const INFO: &str = r#"{"interfaces":[{"network":"dpdk-a","deviceInfo":{"type":"vhost-user","version":"1.1.0",
 "vhost-user":{"mode":"server","path":"/var/run/vsw/dpdk-a/vhost.sock"}},"mac":"02:11:22:aa:bb:01","mtu":1500}]}"#;

    fn socket(mode: &str, path: &str) -> VhostUser {
        VhostUser { mode: mode.to_owned(), path: path.to_owned() }
    }

    #[test]
    fn network_status_is_read_with_a_relative_path() {
        let entries = network_status(STATUS.as_bytes()).unwrap();
        assert_eq!((entries[0].interface.as_str(), &entries[0].device_info), ("eth0", &None));
        assert_eq!((entries[1].interface.as_str(), entries[1].mtu), ("pod494bb167e44", Some(1500)));
        let device = entries[1].device_info.as_ref().unwrap();
        assert_eq!(device.socket(), Some(&socket("server", "0f1e2d3c4b5a-pod494bb167e44")));
    }

    #[test]
    fn network_status_without_version_is_read() {
        let text = r#"[{"name":"n","interface":"net1","mac":"02:c6:da:d3:ab:07","device-info":
            {"type":"vhost-user","vhost-user":{"mode":"server","path":"2ea1931c-2935-net1"}}}]"#;
        let entries = network_status(text.as_bytes()).unwrap();
        let device = entries[0].device_info.as_ref().unwrap();
        assert_eq!(device.socket(), Some(&socket("server", "2ea1931c-2935-net1")));
        assert_eq!(entries[0].mtu, None);
    }

    #[test]
    fn network_info_is_read_with_an_absolute_path() {
        let info = NetworkInfo::parse(INFO.as_bytes()).unwrap();
        let found = info.find("dpdk-a").unwrap();
        assert_eq!((found.mac.as_deref(), found.mtu), (Some("02:11:22:aa:bb:01"), Some(1500)));
        let device = found.device_info.as_ref().unwrap();
        assert_eq!(device.socket(), Some(&socket("server", "/var/run/vsw/dpdk-a/vhost.sock")));
        assert_eq!(info.find("dpdk-b"), None);
    }

    /// KubeVirt 1.7 writes neither mac nor mtu; without device information there is only the name.
    #[test]
    fn what_is_missing_is_absent() {
        let info =
            NetworkInfo::parse(br#"{"interfaces":[{"network":"a"},{"network":"b","deviceInfo":null}]}"#).unwrap();
        assert_eq!(info.find("a"), Some(&InfoInterface { network: "a".to_owned(), ..InfoInterface::default() }));
        assert_eq!(info.find("b").unwrap().device_info, None);
        assert_eq!(NetworkInfo::parse(b" \n").unwrap(), NetworkInfo::default());
        assert_eq!(NetworkInfo::parse(b"{}").unwrap(), NetworkInfo::default());
        assert_eq!(network_status(b"").unwrap(), []);
        let pci = br#"[{"interface":"net1","device-info":{"type":"pci","pci":{"pci-address":"0000:01:00.0"}}}]"#;
        assert_eq!(network_status(pci).unwrap()[0].device_info.as_ref().unwrap().socket(), None);
    }

    #[test]
    fn what_is_malformed_is_an_error_that_names_it() {
        let deep = "[".repeat(100_000);
        let long = " ".repeat(MAX_JSON_BYTES) + "1";
        let inputs = ["{", "[1]", "1", "{\"interfaces\":[{}]}", "{\"interfaces\":[{\"network\":1}]}", &deep, &long];
        for text in inputs {
            let error = NetworkInfo::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with("/etc/podinfo/network-info cannot be read: "), "{error}");
        }
        for end in 1..INFO.len() {
            NetworkInfo::parse(&INFO.as_bytes()[..end]).unwrap_err();
        }
        let error = network_status(b"{}").unwrap_err().to_string();
        assert!(error.contains("network-status") && error.contains("line 1"), "{error}");
    }
}
