//! The address by which this host, or pod, takes part in migrations.
//!
//! 1. There is an interface of the network's name (`migration0`): its first address that is one of the world. None is an error: a
//!    migration that silently takes another network is what the network is there against.
//! 2. There is none, and the pod's `network-status` (Multus writes it, the downward API shows it) names one: that one.
//! 3. The address of the pod or host itself.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use nix::ifaddrs::getifaddrs;
use serde::Deserialize;
use thiserror::Error;

/// The interface that KubeVirt gives its handlers.
pub const INTERFACE: &str = "migration0";

/// Where an address is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The network interface.
    pub interface: String,
    /// The downward API's file.
    pub network_status: Option<PathBuf>,
    /// The address of the pod or host.
    pub otherwise: Option<IpAddr>,
}

/// Where an address was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It is the interface's.
    Interface,
    /// `network-status` names it.
    NetworkStatus,
    /// It is the pod's or host's own.
    Otherwise,
}

/// Why there is no address.
#[derive(Debug, Error)]
pub enum AddressError {
    /// The kernel does not tell.
    #[error("the addresses of interface {interface} cannot be listed: {error}")]
    Unlisted {
        /// The interface.
        interface: String,
        /// The kernel's error.
        error: io::Error,
    },
    /// It is there and of no use.
    #[error(
        "interface {interface} has no address that other hosts reach (link-local, loopback and multicast ones do not count); give it one"
    )]
    Unusable {
        /// The interface.
        interface: String,
    },
    /// The file is there and cannot be understood.
    #[error("{}: {problem}; correct it, or name another file as network_status", path.display())]
    Status {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Nothing was found.
    #[error("there is no interface {interface} on this host; make it, or write the host's own address as address")]
    Nowhere {
        /// The interface.
        interface: String,
    },
}

impl Places {
    /// Looks.
    ///
    /// # Errors
    /// [`AddressError`].
    pub fn find(&self) -> Result<(IpAddr, Place), AddressError> {
        let listed = interface_addresses(&self.interface);
        let interface = || self.interface.clone();
        let addresses = listed.map_err(|error| AddressError::Unlisted { interface: interface(), error })?;
        if let Some(addresses) = addresses {
            let usable = addresses.into_iter().find(|address| is_of_the_world(*address));
            let usable = usable.ok_or_else(|| AddressError::Unusable { interface: interface() })?;
            return Ok((usable, Place::Interface));
        }
        if let Some(path) = &self.network_status
            && let Some(address) = status_address(path, &self.interface)?
        {
            return Ok((address, Place::NetworkStatus));
        }
        let otherwise = self.otherwise.ok_or_else(|| AddressError::Nowhere { interface: interface() })?;
        Ok((otherwise, Place::Otherwise))
    }
}

/// The addresses of an interface in the kernel's order; `None` where there is no such interface.
fn interface_addresses(interface: &str) -> io::Result<Option<Vec<IpAddr>>> {
    let mut names = BTreeSet::new();
    let mut addresses = Vec::new();
    for entry in getifaddrs()? {
        // An address may have a label, such as eth0:1.
        let name = entry.interface_name.split(':').next().unwrap_or_default().to_owned();
        if name == interface
            && let Some(address) = &entry.address
        {
            let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
            let v6 = address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip()));
            addresses.extend(v4.or(v6));
        }
        names.insert(name);
    }
    Ok(names.contains(interface).then_some(addresses))
}

/// Whether other hosts can reach an address: Go's `IsGlobalUnicast`, which KubeVirt asks.
fn is_of_the_world(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address == Ipv4Addr::BROADCAST,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !(link_local || address.is_loopback() || address.is_multicast() || address.is_unspecified())
}

/// One of the networks that Multus tells of (`k8s.v1.cni.cncf.io/network-status`).
#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    interface: String,
    #[serde(default)]
    ips: Vec<String>,
}

/// The first address that the file has for an interface; `None` where there is no file, or nothing of that interface in it.
fn status_address(path: &Path, interface: &str) -> Result<Option<IpAddr>, AddressError> {
    let wrong = |problem: String| AddressError::Status { path: path.to_owned(), problem };
    let text = match read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|error| wrong(error.to_string()))?,
    };
    told(&text, interface).map_err(wrong)
}

/// The first address that a network status has for an interface; `None` where there is nothing of it.
///
/// # Errors
/// What is wrong with it.
pub fn told(text: &str, interface: &str) -> Result<Option<IpAddr>, String> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    // What serde says repeats the text, however long it is.
    let wrong = |error: serde_json::Error| {
        format!("is no network status: line {} column {} is not as Multus writes it", error.line(), error.column())
    };
    let all: Vec<Status> = serde_json::from_str(text).map_err(wrong)?;
    let Some(ours) = all.into_iter().find(|status| status.interface == interface) else { return Ok(None) };
    let first = ours.ips.first().ok_or_else(|| format!("{interface} has no address in it"))?;
    let wrong = |_| format!("{interface}: {:?} is no address", first.chars().take(MAX_SHOWN).collect::<String>());
    first.parse().map(Some).map_err(wrong)
}

/// A file of a sensible size.
fn read(path: &Path) -> io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_STATUS_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// An annotation of Kubernetes has at most 256 KiB.
const MAX_STATUS_BYTES: u64 = 256 * 1024;
/// What of a text is shown, in characters.
const MAX_SHOWN: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn places(interface: &str, status: Option<PathBuf>) -> Places {
        let otherwise = Some("203.0.113.9".parse().unwrap());
        Places { interface: interface.to_owned(), network_status: status, otherwise }
    }

    #[test]
    fn addresses_of_the_world_are_those_of_go() {
        for (address, is) in [
            ("172.21.42.7", true),
            ("10.0.0.1", true),
            ("fd00:42::7", true),
            ("2001:db8::1", true),
            ("169.254.1.1", false),
            ("fe80::1", false),
            ("127.0.0.1", false),
            ("::1", false),
            ("224.0.0.1", false),
            ("ff02::1", false),
            ("0.0.0.0", false),
            ("::", false),
            ("255.255.255.255", false),
        ] {
            assert_eq!(is_of_the_world(address.parse().unwrap()), is, "{address}");
        }
    }

    #[test]
    fn an_interface_without_a_usable_address_is_an_error() {
        let error = places("lo", None).find().unwrap_err().to_string();
        assert!(error.starts_with("interface lo has no address that other hosts reach"), "{error}");
    }

    #[test]
    fn without_the_interface_it_is_what_multus_says_or_the_pods_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("network-status");
        let find = || places("culvert-none", Some(path.clone())).find();
        let own = ("203.0.113.9".parse().unwrap(), Place::Otherwise);
        assert_eq!(find().unwrap(), own);
        for (text, expected) in [
            ("", own),
            ("[]", own),
            (r#"[{"name":"k8s-pod-network","interface":"eth0","ips":["10.2.0.3"],"default":true}]"#, own),
            (
                r#"[{"name":"a","ips":["10.2.0.3"]},{"name":"b","interface":"culvert-none","ips":["172.21.42.7","fd00::1"]}]"#,
                ("172.21.42.7".parse().unwrap(), Place::NetworkStatus),
            ),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(find().unwrap(), expected, "{text}");
        }
        for (text, problem) in [
            ("{", "is no network status"),
            (r#"[{"interface":"culvert-none"}]"#, "culvert-none has no address in it"),
            (r#"[{"interface":"culvert-none","ips":["x"]}]"#, "\"x\" is no address"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = find().unwrap_err().to_string();
            assert!(error.contains(problem) && error.starts_with(path.to_str().unwrap()), "{error}");
        }
    }

    #[test]
    fn nothing_at_all_is_an_error() {
        let error = Places { otherwise: None, ..places("culvert-none", None) }.find().unwrap_err().to_string();
        assert!(error.starts_with("there is no interface culvert-none"), "{error}");
    }
}
