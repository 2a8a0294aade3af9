//! A device as a person names it: `net_pcap0,rx_pcap=in.pcap` or `0000:3b:00.0`.
//!
//! Drivers seldom tell why they fail: "-1", or "Operation not permitted" for a file that does not exist. After a
//! failure [`Device::diagnose`] looks at what the device needs and finds the cause and its remedy. It opens nothing.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use rustix::fs::{Access, access};

use crate::bond;

/// A parsed device string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) bus: Bus,
    /// `net_pcap0`, or the PCI address with its domain.
    pub(crate) name: String,
    /// The driver's arguments: `key=value`, separated by commas.
    pub(crate) arguments: String,
    /// The devices that it bonds, to be opened before it.
    pub(crate) members: Vec<Device>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bus {
    Virtual,
    Pci,
}

impl Bus {
    /// DPDK's name of it.
    pub(crate) fn name(self) -> &'static std::ffi::CStr {
        match self {
            Bus::Virtual => c"vdev",
            Bus::Pci => c"pci",
        }
    }
}

/// What is wrong and what to do about it, both as clauses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Diagnosis {
    pub(crate) reason: String,
    pub(crate) remedy: String,
}

impl Diagnosis {
    pub(crate) fn new(reason: impl Into<String>, remedy: impl Into<String>) -> Diagnosis {
        Diagnosis { reason: reason.into(), remedy: remedy.into() }
    }
}

impl Device {
    pub(crate) fn parse(text: &str) -> Result<Device, Diagnosis> {
        let (name, arguments) = text.split_once(',').unwrap_or((text, ""));
        let wrong = |reason: &str| {
            let remedy = "name a PCI address (0000:3b:00.0) or a virtual device of DPDK with its number (net_pcap0,rx_pcap=FILE)";
            Err(Diagnosis::new(reason, remedy))
        };
        if text.contains('\0') {
            return wrong("it contains a zero byte");
        }
        let (bus, name) = match pci_address(name) {
            Some(address) => (Bus::Pci, address),
            None => (Bus::Virtual, name.to_owned()),
        };
        if bus == Bus::Virtual && !name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_') {
            return wrong("it is neither a PCI address nor a virtual device's name");
        }
        if name.is_empty() || name.len() >= NAME_ROOM {
            return wrong("its name is empty or too long");
        }
        let (members, arguments) = if bus == Bus::Virtual && name.starts_with("net_bonding") {
            bond::split(arguments)?
        } else {
            (Vec::new(), arguments.to_owned())
        };
        Ok(Device { bus, name, arguments, members })
    }

    /// The value of the first argument of that name.
    pub(crate) fn argument(&self, name: &str) -> Option<&str> {
        self.pairs().find_map(|(key, value)| (key == name).then_some(value))
    }

    /// Whether it is one of this driver's, as `net_pcap`.
    pub(crate) fn is(&self, driver: &str) -> bool {
        self.bus == Bus::Virtual && self.name.starts_with(driver)
    }

    /// The existing kernel interface whose link is the device's, where the driver does not look at it.
    pub(crate) fn interface(&self) -> Option<&str> {
        let drivers = ["net_af_packet", "net_af_xdp", "net_pcap"];
        let keys = ["iface", "rx_iface", "rx_iface_in"];
        drivers.iter().any(|driver| self.is(driver)).then(|| keys.iter().find_map(|key| self.argument(key)))?
    }

    /// What makes it hopeless or harmful to open it. A PCI device that the kernel drives is left alone: some of
    /// DPDK's drivers would take it away from under the kernel.
    pub(crate) fn refuse(&self) -> Option<Diagnosis> {
        match self.bus {
            Bus::Pci => self.diagnose_pci(Path::new("/sys/bus/pci")),
            // The driver would keep us waiting for its peer, with signals blocked.
            Bus::Virtual if self.is("net_virtio_user") && self.argument("server").is_some_and(|value| value != "0") => {
                Some(Diagnosis::new(
                    "as a server it cannot be opened before somebody connects to it",
                    "let the other switch create the socket, and leave server out",
                ))
            }
            Bus::Virtual => None,
        }
    }

    /// The probable cause of a failure to open it. None where everything that can be checked is in order.
    pub(crate) fn diagnose(&self) -> Option<Diagnosis> {
        self.refuse()
            .or_else(|| self.diagnose_files())
            .or_else(|| self.diagnose_sockets())
            .or_else(|| self.diagnose_interfaces())
            .or_else(|| self.diagnose_rights())
            .or_else(|| self.members.iter().find_map(Device::diagnose))
    }

    fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.arguments.split(',').filter_map(|argument| argument.split_once('='))
    }

    fn diagnose_files(&self) -> Option<Diagnosis> {
        self.pairs().find_map(|(key, value)| match key {
            "rx_pcap" => {
                let error = File::open(value).err()?;
                Some(Diagnosis::new(
                    format!("{value} (its rx_pcap) cannot be read: {error}"),
                    "give an existing capture file in pcap format",
                ))
            }
            "tx_pcap" => {
                let path = Path::new(value);
                let place = match path.parent() {
                    _ if path.exists() => path,
                    Some(folder) if !folder.as_os_str().is_empty() => folder,
                    _ => Path::new("."),
                };
                let error = access(place, Access::WRITE_OK).err()?;
                let reason = format!("{value} (its tx_pcap) cannot be written: {}: {error}", place.display());
                Some(Diagnosis::new(reason, "give a file in a folder that this process may write to"))
            }
            _ => None,
        })
    }

    fn diagnose_sockets(&self) -> Option<Diagnosis> {
        if self.is("net_virtio_user") {
            let Some(path) = self.argument("path") else {
                return Some(Diagnosis::new(
                    "it has no path",
                    "name the vhost-user socket to connect to: path=/run/x.sock",
                ));
            };
            return Some(match fs::metadata(path) {
                Err(error) => Diagnosis::new(
                    format!("{path} (its path) cannot be reached: {error}"),
                    "start the other switch first, which creates that socket",
                ),
                Ok(_) => Diagnosis::new(
                    format!("it did not come to terms with the vhost-user backend at {path} (its path)"),
                    "look whether one listens there, that nobody else is connected to it, and at DPDK's messages",
                ),
            });
        }
        let path = self.argument("iface").filter(|_| self.is("net_vhost"))?;
        let folder = Path::new(path).parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let error = access(folder, Access::WRITE_OK).err()?;
        let reason = format!("{path} (its iface, a socket) cannot be made in {}: {error}", folder.display());
        Some(Diagnosis::new(reason, "give a path in a folder that this process may write to"))
    }

    fn diagnose_interfaces(&self) -> Option<Diagnosis> {
        // Of net_tap, iface names the interface to be made, of net_vhost a socket.
        if self.is("net_tap") || self.is("net_vhost") {
            return None;
        }
        let names = self.pairs().filter(|(key, _)| ["iface", "rx_iface", "rx_iface_in", "tx_iface"].contains(key));
        names.map(|(_, name)| name).find_map(|name| match interface(name, Question::Flags) {
            None => Some(Diagnosis::new(
                format!("there is no network interface {name} in this network namespace"),
                "give one that `ip link` lists, or create it first",
            )),
            Some(flags) if flags & libc::IFF_UP == 0 => Some(Diagnosis::new(
                format!("the network interface {name} is down"),
                format!("bring it up: `ip link set {name} up`"),
            )),
            Some(_) => None,
        })
    }

    fn diagnose_rights(&self) -> Option<Diagnosis> {
        let on_interface = self.pairs().any(|(key, _)| key.contains("iface"));
        let needed: &[(&str, u32)] = if self.is("net_tap") {
            &[("CAP_NET_ADMIN", CAP_NET_ADMIN)]
        } else if self.is("net_af_xdp") {
            &[("CAP_NET_ADMIN", CAP_NET_ADMIN), ("CAP_NET_RAW", CAP_NET_RAW), ("CAP_BPF", CAP_BPF)]
        } else if self.is("net_af_packet") {
            // Its socket needs the one; setting the interface's address and mode, which DPDK insists on, the other.
            &[("CAP_NET_ADMIN", CAP_NET_ADMIN), ("CAP_NET_RAW", CAP_NET_RAW)]
        } else if self.is("net_pcap") && on_interface {
            &[("CAP_NET_RAW", CAP_NET_RAW)]
        } else {
            &[]
        };
        let held = capabilities();
        let missing: Vec<&str> =
            needed.iter().filter(|(_, bit)| held & (1 << bit) == 0).map(|(name, _)| *name).collect();
        if !missing.is_empty() {
            let remedy = "run the daemon as root or give it what is missing";
            return Some(Diagnosis::new(format!("this process does not have {}", missing.join(", ")), remedy));
        }
        if self.is("net_tap") {
            let error = File::options().read(true).write(true).open("/dev/net/tun").err()?;
            return Some(Diagnosis::new(
                format!("/dev/net/tun cannot be opened: {error}"),
                "load the module: `modprobe tun`",
            ));
        }
        None
    }

    fn diagnose_pci(&self, bus: &Path) -> Option<Diagnosis> {
        let device = bus.join("devices").join(&self.name);
        if !device.exists() {
            return Some(Diagnosis::new("there is no PCI device of this address", "give one that `lspci -D` lists"));
        }
        let bind = format!("bind it to vfio-pci: `modprobe vfio-pci && dpdk-devbind.py -b vfio-pci {}`", self.name);
        let driver = fs::read_link(device.join("driver")).ok();
        let driver = driver.as_deref().and_then(Path::file_name).and_then(|name| name.to_str());
        match driver {
            None => Some(Diagnosis::new("no kernel driver holds it", bind)),
            // DPDK works beside the first two and through the others.
            Some("mlx4_core" | "mlx5_core" | "uio_pci_generic" | "igb_uio") => None,
            Some(vfio) if vfio.contains("vfio") => {
                let group = fs::read_link(device.join("iommu_group")).ok()?;
                let group = Path::new("/dev/vfio").join(group.file_name()?);
                let error = access(&group, Access::READ_OK | Access::WRITE_OK).err()?;
                let remedy = format!("give this process's user that file: `chown USER {}`", group.display());
                Some(Diagnosis::new(format!("{} cannot be opened: {error}", group.display()), remedy))
            }
            Some(other) => Some(Diagnosis::new(format!("it is held by the kernel driver {other}"), bind)),
        }
    }
}

/// Whether a device, written as in [`crate::PortConfig::device`], or a member of it if it is a bond, is a PCI device, for
/// which [`crate::EalConfig::pci`] has to be set.
#[must_use]
pub fn needs_pci(device: &str) -> bool {
    let is_pci = |device: &Device| device.bus == Bus::Pci;
    Device::parse(device).is_ok_and(|device| is_pci(&device) || device.members.iter().any(is_pci))
}

/// Room for a device's name with its final zero, RTE_DEV_NAME_MAX_LEN.
const NAME_ROOM: usize = 64;

/// Bits of capabilities(7).
const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;
const CAP_BPF: u32 = 39;

/// `[dddd:]bb:dd.f` in full, None for anything else.
fn pci_address(text: &str) -> Option<String> {
    let (rest, function) = text.split_once('.')?;
    let mut parts = rest.split(':').rev();
    let (device, bus, domain) = (parts.next()?, parts.next()?, parts.next().unwrap_or("0000"));
    let hex = |text: &str, length: std::ops::RangeInclusive<usize>| {
        length.contains(&text.len()) && text.chars().all(|digit| digit.is_ascii_hexdigit())
    };
    let right =
        parts.next().is_none() && hex(domain, 4..=8) && hex(bus, 2..=2) && hex(device, 2..=2) && hex(function, 1..=1);
    right.then(|| format!("{domain}:{bus}:{device}.{function}").to_ascii_lowercase())
}

/// The effective capabilities of this thread, a bit each.
fn capabilities() -> u64 {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(u64::MAX)
}

/// What to ask of an interface, or to set.
#[derive(Clone, Copy, Debug)]
enum Question {
    Flags,
    Mtu,
    SetMtu(u16),
}

/// MTU of a kernel interface of this network namespace, None where there is no such interface.
pub(crate) fn interface_mtu(name: &str) -> Option<u32> {
    u32::try_from(interface(name, Question::Mtu)?).ok()
}

/// Whether a kernel interface is up and has a link; false where there is no such interface.
pub(crate) fn interface_is_running(name: &str) -> bool {
    let both = libc::IFF_UP | libc::IFF_RUNNING;
    interface(name, Question::Flags).is_some_and(|flags| flags & both == both)
}

/// Gives a kernel interface this MTU, in bytes, unless it has a larger one. Needs CAP_NET_ADMIN.
pub(crate) fn raise_interface_mtu(name: &str, mtu: u16) -> io::Result<()> {
    match interface_mtu(name) {
        Some(has) if has >= u32::from(mtu) => Ok(()),
        _ => ask(name, Question::SetMtu(mtu)).map(|_| ()),
    }
}

fn interface(name: &str, question: Question) -> Option<i32> {
    ask(name, question).ok()
}

/// By ioctl: what sysfs shows is of the namespace that it was mounted in.
fn ask(name: &str, question: Question) -> io::Result<i32> {
    let name = CString::new(name)?;
    let name = name.as_bytes_with_nul();
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    // SAFETY: all-zero bytes are a valid ifreq: integers, addresses and null pointers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() > request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name) {
        *to = from.cast_signed();
    }
    let number = match question {
        Question::Flags => libc::SIOCGIFFLAGS,
        Question::Mtu => libc::SIOCGIFMTU,
        Question::SetMtu(mtu) => {
            request.ifr_ifru.ifru_mtu = i32::from(mtu);
            libc::SIOCSIFMTU
        }
    };
    // SAFETY: a live socket; these requests read the name, and the MTU, from an ifreq and write their answer into it.
    if unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&socket), number, &raw mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    match question {
        // SAFETY: the member that SIOCGIFFLAGS has written.
        Question::Flags => Ok(i32::from(unsafe { request.ifr_ifru.ifru_flags })),
        // SAFETY: the member that SIOCGIFMTU has written, or that was set above.
        Question::Mtu | Question::SetMtu(_) => Ok(unsafe { request.ifr_ifru.ifru_mtu }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(text: &str) -> Device {
        Device::parse(text).unwrap()
    }

    #[test]
    fn virtual_devices_have_a_name_and_arguments() {
        let pcap = device("net_pcap0,rx_pcap=a b.pcap,tx_pcap=out.pcap,infinite_rx=1");
        assert_eq!((pcap.bus, pcap.name.as_str()), (Bus::Virtual, "net_pcap0"));
        assert_eq!(pcap.argument("rx_pcap"), Some("a b.pcap"));
        assert_eq!(pcap.argument("infinite_rx"), Some("1"));
        assert_eq!(pcap.argument("iface"), None);
        assert_eq!(device("net_ring0").arguments, "");
    }

    #[test]
    fn pci_addresses_get_their_domain() {
        for (text, name) in
            [("3b:00.0", "0000:3b:00.0"), ("0001:3B:00.1", "0001:3b:00.1"), ("10000:01:00.0", "10000:01:00.0")]
        {
            let device = device(text);
            assert_eq!((device.bus, device.name.as_str()), (Bus::Pci, name));
        }
        assert_eq!(device("3b:00.0,representor=[0-3]").arguments, "representor=[0-3]");
    }

    #[test]
    fn a_bond_of_pci_devices_needs_pci() {
        for text in ["3b:00.0", "net_bonding0,mode=1,member=net_null0,member=(0000:3b:00.0,x=1)"] {
            assert!(needs_pci(text), "{text}");
        }
        for text in ["net_null0", "net_bonding0,mode=1,member=net_null0", "eth 0"] {
            assert!(!needs_pci(text), "{text}");
        }
    }

    #[test]
    fn other_things_are_no_devices() {
        for text in ["", ",", "eth 0", "3b:00", "3b:00.g", "net_pcap0\0", "a:b:c:d.0", "../x", &"n".repeat(64)] {
            let diagnosis = Device::parse(text).unwrap_err();
            assert!(diagnosis.remedy.contains("PCI address"), "{text:?}: {diagnosis:?}");
        }
    }

    #[test]
    fn a_missing_capture_is_found() {
        let diagnosis = device("net_pcap0,rx_pcap=/nowhere/in.pcap").diagnose().unwrap();
        assert!(
            diagnosis.reason.contains("/nowhere/in.pcap (its rx_pcap) cannot be read: No such file"),
            "{diagnosis:?}"
        );
    }

    #[test]
    fn a_folder_that_is_not_there_is_found() {
        let diagnosis = device("net_pcap0,tx_pcap=/nowhere/out.pcap").diagnose().unwrap();
        assert!(
            diagnosis.reason.contains("/nowhere/out.pcap (its tx_pcap) cannot be written: /nowhere: No such"),
            "{diagnosis:?}"
        );
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.pcap");
        assert_eq!(device(&format!("net_pcap0,tx_pcap={}", path.display())).diagnose(), None);
    }

    #[test]
    fn a_missing_interface_is_found() {
        for text in [
            "net_af_packet0,iface=nowhere0",
            "net_pcap0,rx_iface=nowhere0",
            "net_pcap0,iface=name_that_is_longer_than_any",
        ] {
            let diagnosis = device(text).diagnose().unwrap();
            assert!(diagnosis.reason.contains("there is no network interface n"), "{diagnosis:?}");
        }
        assert!(interface_mtu("lo").is_some());
        assert_eq!(interface_mtu("nowhere0"), None);
    }

    #[test]
    fn the_driver_of_a_pci_device_is_looked_at() {
        let bus = tempfile::tempdir().unwrap();
        let nic = bus.path().join("devices/0000:3b:00.0");
        let diagnose = || device("3b:00.0").diagnose_pci(bus.path());
        assert!(diagnose().unwrap().reason.contains("no PCI device of this address"));
        fs::create_dir_all(&nic).unwrap();
        assert!(diagnose().unwrap().reason.contains("no kernel driver"));
        std::os::unix::fs::symlink("../../drivers/ixgbe", nic.join("driver")).unwrap();
        let held = diagnose().unwrap();
        assert!(
            held.reason.contains("kernel driver ixgbe") && held.remedy.contains("-b vfio-pci 0000:3b:00.0"),
            "{held:?}"
        );
        fs::remove_file(nic.join("driver")).unwrap();
        std::os::unix::fs::symlink("../../drivers/vfio-pci", nic.join("driver")).unwrap();
        std::os::unix::fs::symlink("../../../kernel/iommu_groups/123456", nic.join("iommu_group")).unwrap();
        assert!(diagnose().unwrap().reason.contains("/dev/vfio/123456 cannot be opened"));
    }
}
