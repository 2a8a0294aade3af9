//! Where a program runs: on which processor core, and in which network namespace.
//!
//! [`Console`](crate::console::Console) starts programs in a place. [`Namespace`] is a network namespace for a second node: culvertd in
//! it sees only the interfaces that were moved there, while unix sockets work across.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, bind, socket};
use rustix::thread::LinkNameSpaceType;

/// A core, a network namespace, an environment, and a folder. The default is that of the test itself.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// The one core that it may use.
    pub core: Option<usize>,
    /// Without `core`: it may use all of the machine's, also where the test keeps itself off some.
    pub any_core: bool,
    /// The name of its network namespace, see [`Namespace`].
    pub namespace: Option<String>,
    /// Faults that culvertd-inject is to offer, see culvert-worker's `inject.rs`.
    pub faults: Option<String>,
    /// Further variables of its environment, as `NAME=VALUE`.
    pub variables: Vec<String>,
    /// A folder, and another one in whose place this program alone sees it.
    pub folder: Option<[PathBuf; 2]>,
}

impl Place {
    /// The words in front of a command that bring it to this place. Each replaces itself by the next, so the process id stays.
    pub(crate) fn prefix(&self) -> Vec<String> {
        let mut words = Vec::new();
        if let Some(name) = &self.namespace {
            words.extend(["nsenter".to_owned(), format!("--net={FOLDER}/{name}"), "--".to_owned()]);
        }
        if let Some([folder, seen_as]) = &self.folder {
            let mount = "mount --bind \"$1\" \"$2\" && shift 2 && exec \"$@\"";
            words.extend(["unshare", "--mount", "--", "sh", "-c", mount, "sh"].map(str::to_owned));
            words.extend([folder, seen_as].map(|path| path.display().to_string()));
        }
        let cores = match self.core {
            None if self.any_core => Some("0-1023".to_owned()),
            core => core.map(|core| core.to_string()),
        };
        if let Some(cores) = cores {
            words.extend(["taskset".to_owned(), "--cpu-list".to_owned(), cores]);
        }
        if let Some(faults) = &self.faults {
            words.extend(["env".to_owned(), format!("CULVERT_INJECT={faults}")]);
        }
        if !self.variables.is_empty() {
            words.push("env".to_owned());
            words.extend(self.variables.iter().cloned());
        }
        words
    }
}

/// A network namespace with nothing but its loopback, removed when this is dropped.
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one. The test's process number becomes part of its name, because names are known to the whole machine.
    ///
    /// # Errors
    /// The test is not root.
    pub fn new(name: &str) -> Result<Self> {
        let name = format!("culvert-{}-{name}", std::process::id());
        ip(&format!("netns add {name}"))?;
        let namespace = Self { name };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` in it.
    ///
    /// # Errors
    /// ip failed; the error has what it said.
    pub fn ip(&self, arguments: &str) -> Result<()> {
        ip(&format!("-n {} {arguments}", self.name))
    }
}

impl Namespace {
    /// Runs `action` on a thread in it. Sockets that are made there stay there, whoever uses them.
    ///
    /// # Errors
    /// The namespace has gone, or `action` failed.
    pub fn run<T: Send>(&self, action: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let namespace = File::open(format!("{FOLDER}/{}", self.name))?;
        let there = || {
            rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            action()
        };
        thread::scope(|scope| scope.spawn(there).join()).unwrap_or_else(|_| bail!("a thread in {} panicked", self.name))
    }

    /// Sets a kernel parameter of it, such as `net/ipv4/ip_forward`.
    ///
    /// # Errors
    /// There is none of that name, or it does not take the value.
    pub fn set_parameter(&self, name: &str, value: &str) -> Result<()> {
        self.run(|| fs::write(format!("/proc/sys/{name}"), value).with_context(|| format!("{name} = {value}")))
    }

    /// A socket that listens for TCP connections in it.
    ///
    /// # Errors
    /// The address is not free.
    pub fn listen(&self, address: &str) -> Result<TcpListener> {
        self.run(|| TcpListener::bind(address).with_context(|| address.to_owned()))
    }

    /// A TCP connection from it.
    ///
    /// # Errors
    /// Nobody takes it.
    pub fn connect(&self, address: &str) -> Result<TcpStream> {
        self.run(|| TcpStream::connect(address).with_context(|| address.to_owned()))
    }

    /// A UDP socket in it.
    ///
    /// # Errors
    /// The address is not free.
    pub fn udp(&self, address: &str) -> Result<UdpSocket> {
        self.run(|| UdpSocket::bind(address).with_context(|| address.to_owned()))
    }
}

impl Namespace {
    /// A packet socket with all frames of one of its interfaces.
    ///
    /// # Errors
    /// There is no such interface, or the test is not root.
    pub fn packets(&self, interface: &str) -> Result<OwnedFd> {
        self.run(|| {
            let (family, kind, flags) = (AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC);
            let socket = socket(family, kind, flags, SockProtocol::EthAll).context("a packet socket needs root")?;
            let link = |address: nix::ifaddrs::InterfaceAddress| -> Option<LinkAddr> {
                (address.interface_name == interface).then(|| address.address?.as_link_addr().copied())?
            };
            let address = getifaddrs()?.find_map(link).with_context(|| format!("no interface {interface}"))?;
            bind(socket.as_raw_fd(), &address)?;
            Ok(socket)
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // It fails only when it has gone already.
        let _ = ip(&format!("netns del {}", self.name));
    }
}

/// Runs `ip` where the test is.
///
/// # Errors
/// ip failed; the error has what it said.
pub fn ip(arguments: &str) -> Result<()> {
    let output = Command::new("ip").args(arguments.split(' ')).output().context("ip: run ci/setup")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {arguments}: {said} (tests with interfaces need root: ci/isolated)");
    Ok(())
}

/// Where `ip netns` keeps names.
const FOLDER: &str = "/run/netns";
