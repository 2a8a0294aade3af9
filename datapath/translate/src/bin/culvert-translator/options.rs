//! What the command line means, checked: [`Options`] from [`Arguments`].
//!
//! Meanings are passt's. What needs a look at the machine (interfaces, addresses, whether a port is free) is not
//! checked here. Called by `main` first of all.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use culvert_frame::MacAddress;
use culvert_translate::settings::Services;
use culvert_vhost::Role;

use crate::arguments::Arguments;
use crate::pod::Wanted;

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The way to the guest.
    pub guest: Guest,
    /// What the guest is told, and mappings.
    pub wanted: Wanted,
    /// Specifications of forwarded TCP ports, in order.
    pub tcp_ports: Vec<String>,
    /// Specifications of forwarded UDP ports, in order.
    pub udp_ports: Vec<String>,
    /// Forwards may bind addresses that the host does not have.
    pub freebind: bool,
    /// Do not go to the background.
    pub foreground: bool,
    /// End with the first guest.
    pub one_off: bool,
    /// Where to write the process's number.
    pub pid_file: Option<PathBuf>,
    /// The user and group to become, as given.
    pub run_as: Option<String>,
    /// Whether chroot() may stand in for pivot_root().
    pub chroot_fallback: bool,
    /// How much is logged.
    pub level: Level,
    /// The file to log to.
    pub log_file: Option<PathBuf>,
    /// How many bytes the file may have.
    pub log_size: u64,
    /// How often to print statistics.
    pub statistics: Option<Duration>,
    /// Where to record frames.
    pub pcap: Option<PathBuf>,
    /// Where to listen for requests; for `Guest::Socket` without a path it follows from the path found.
    pub control: Control,
    /// Where to listen for whoever switches sockets to repair mode.
    pub repair: Control,
    /// A migration in which a flow would be lost fails.
    pub migrate_strict: bool,
    /// What was given and has no effect.
    pub notices: Vec<&'static str>,
}

/// How much is logged, from little to much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Warnings and errors.
    Quiet,
    /// Also what happens rarely.
    Normal,
    /// Also what helps to find faults; to standard error.
    Debug,
    /// Also single packets.
    Trace,
}

impl From<Level> for tracing::Level {
    fn from(level: Level) -> Self {
        match level {
            Level::Quiet => Self::WARN,
            Level::Normal => Self::INFO,
            Level::Debug => Self::DEBUG,
            Level::Trace => Self::TRACE,
        }
    }
}

/// The way to the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guest {
    /// QEMU's stream socket at a path, or at the first free one.
    Stream(Option<PathBuf>),
    /// A vhost-user socket.
    VhostUser {
        /// `None`: the first free one.
        path: Option<PathBuf>,
        /// Who creates it.
        role: Role,
        /// How many queue pairs are offered.
        queue_pairs: u16,
    },
    /// An inherited stream socket.
    StreamDescriptor(RawFd),
    /// An inherited packet socket or tap.
    PacketDescriptor(RawFd),
    /// A packet socket that is handed over at the socket `S.help`; the path of `S`.
    PacketHelp(PathBuf),
}

/// Where the control socket is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// There is none.
    None,
    /// Beside the guest's socket, with `.ctl` after its name.
    BesideGuest,
    /// Elsewhere.
    At(PathBuf),
}

/// Why it cannot be done: one sentence, naming the option and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct OptionError(String);

impl TryFrom<Arguments> for Options {
    type Error = OptionError;

    fn try_from(arguments: Arguments) -> Result<Self, OptionError> {
        if let Some(option) = arguments.elsewhere.given() {
            return fail(format!("{option} is for network namespaces (pasta), not for guests; leave it out"));
        }
        let mut wanted = wanted(&arguments)?;
        // The tap's is not known before there is one; a longer frame would be lost there.
        if arguments.guest.packet_help && wanted.mtu.is_none() {
            wanted.mtu = Some(TAP_MTU);
        }
        let Arguments { process, guest, network, .. } = arguments;
        if process.stats.is_some() && !process.foreground {
            return fail("--stats prints to a terminal: add --foreground, or leave it out".to_owned());
        }
        if (guest.migrate_exit || guest.migrate_no_linger) && !guest.vhost_user {
            let option = if guest.migrate_exit { "--migrate-exit" } else { "--migrate-no-linger" };
            return fail(format!("{option} is for --vhost-user; add that, or leave it out"));
        }
        if guest.fd.is_some() && guest.vhost_user {
            return fail("--fd is for QEMU's -netdev stream, not for --vhost-user; leave out one of them".to_owned());
        }
        let notices = [
            (process.conf_path.is_some(), "--conf-path has no effect: see --control-path"),
            (guest.migrate_exit, "--migrate-exit has no effect"),
            (guest.migrate_no_linger, "--migrate-no-linger has no effect"),
        ];
        let inherited = guest.fd.is_some() || guest.packet_fd.is_some();
        let control = match process.control_path {
            Some(path) if path == Path::new("none") => Control::None,
            Some(path) => Control::At(path),
            // Nothing to be beside of.
            None if inherited && guest.socket.is_none() => Control::None,
            None => guest
                .socket
                .as_deref()
                .filter(|_| inherited)
                .map_or(Control::BesideGuest, |path| Control::At(beside(path))),
        };
        let repair = match guest.repair_path {
            Some(path) if path == Path::new("none") => Control::None,
            _ if !guest.vhost_user => Control::None,
            Some(path) => Control::At(path),
            None => Control::BesideGuest,
        };
        let migrate_strict = guest.migrate_strict;
        // Once isolated, there is no way to connect a second time.
        let once = inherited || guest.connect;
        let queue_pairs = guest
            .queue_pairs
            .map_or(Ok(1), |text| number("--queue-pairs", &text, 1, MAX_QUEUE_PAIRS, "the number of queue pairs"))?;
        let guest = match (guest.fd, guest.packet_fd) {
            (None, None) if guest.packet_help => {
                let Some(path) = guest.socket else {
                    return fail(
                        "--packet-help needs the path that its socket is beside: add --socket PATH".to_owned(),
                    );
                };
                Guest::PacketHelp(path)
            }
            (Some(number), _) => Guest::StreamDescriptor(descriptor("--fd", &number)?),
            (None, Some(number)) => Guest::PacketDescriptor(descriptor("--packet-fd", &number)?),
            (None, None) if guest.vhost_user => {
                if guest.connect && guest.socket.is_none() {
                    return fail(
                        "--connect needs the path of the socket that QEMU creates: add --socket PATH".to_owned(),
                    );
                }
                let role = if guest.connect { Role::Connect } else { Role::Listen };
                Guest::VhostUser { path: guest.socket, role, queue_pairs }
            }
            (None, None) => Guest::Stream(guest.socket),
        };
        let level = match process {
            _ if process.trace => Level::Trace,
            _ if process.debug => Level::Debug,
            _ if process.quiet => Level::Quiet,
            _ => Level::Normal,
        };
        Ok(Self {
            repair,
            migrate_strict,
            wanted,
            tcp_ports: specs("--tcp-ports", network.tcp_ports)?,
            udp_ports: specs("--udp-ports", network.udp_ports)?,
            freebind: network.freebind,
            foreground: process.foreground,
            one_off: process.one_off || once,
            pid_file: process.pid_file,
            run_as: process.runas,
            chroot_fallback: process.chroot_fallback,
            level,
            log_file: process.log_file,
            log_size: number(
                "--log-size",
                &process.log_size,
                MIN_LOG_BYTES,
                u32::MAX.into(),
                "the bytes of the log file",
            )?,
            statistics: process
                .stats
                .map(|text| number("--stats", &text, 1, 86_400, "the delay in seconds").map(Duration::from_secs))
                .transpose()?,
            pcap: process.pcap,
            control,
            guest,
            notices: notices.into_iter().filter(|(given, _)| *given).map(|(_, notice)| notice).collect(),
        })
    }
}

/// The control socket beside a guest's socket: `S.ctl`.
pub fn beside(socket: &Path) -> PathBuf {
    with_suffix(socket, ".ctl")
}

/// The socket for help beside a guest's socket: `S.help`.
pub fn help_beside(socket: &Path) -> PathBuf {
    with_suffix(socket, ".help")
}

/// The socket for repair mode beside a guest's socket: `S.repair`, as passt has it.
pub fn repair_beside(socket: &Path) -> PathBuf {
    with_suffix(socket, ".repair")
}

fn with_suffix(socket: &Path, suffix: &str) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

fn wanted(arguments: &Arguments) -> Result<Wanted, OptionError> {
    let Arguments { told, network, off, .. } = arguments;
    let addresses: Vec<_> = told.address.iter().map(|text| address_and_length(text)).collect::<Result<_, _>>()?;
    let netmask = told.netmask.as_deref().map(prefix_length).transpose()?;
    let has_length = addresses.iter().any(|(address, length)| address.is_ipv4() && length.is_some());
    if netmask.is_some() && has_length {
        return fail("--netmask and the length in --address say the same; leave out one of them".to_owned());
    }
    let mac = told.mac_addr.as_deref().map(mac_address).transpose()?;
    let mtu = told.mtu.as_deref().map(|text| number("--mtu", text, 0, MAX_MTU, "the MTU in bytes"));
    let mut dns = None;
    for text in &told.dns {
        match text.as_str() {
            "none" | "" => dns = Some(Vec::new()),
            text => dns.get_or_insert_default().push(usable("--dns", text, |address| !address.is_unspecified())?),
        }
    }
    let search = match told.search.as_deref() {
        None => None,
        Some("none") => Some(Vec::new()),
        Some(list) => {
            let names = list.split_whitespace().map(|name| host_name("--search", name.trim_end_matches('.')));
            Some(names.collect::<Result<_, _>>()?)
        }
    };
    let addresses_of = |option, texts: &[String]| {
        let usable =
            |text: &String| usable(option, text, |address| !address.is_unspecified() && !address.is_multicast());
        texts.iter().map(usable).collect::<Result<Vec<_>, _>>()
    };
    let mapped = |option, texts: &[String]| {
        let address = |text: &String| match text.as_str() {
            "none" => Ok(None),
            text => usable(option, text, is_unicast).map(Some),
        };
        texts.iter().map(address).collect::<Result<Vec<_>, _>>()
    };
    let gateways = told.gateway.iter().map(|text| usable("--gateway", text, is_unicast));
    Ok(Wanted {
        ipv4: !network.ipv6_only,
        ipv6: !network.ipv4_only,
        mac,
        mtu: mtu.transpose()?,
        addresses,
        netmask,
        gateways: gateways.collect::<Result<_, _>>()?,
        interface: interface("--interface", network.interface.as_deref())?,
        outbound_addresses: addresses_of("--outbound", &network.outbound)?,
        outbound_interface4: interface("--outbound-if4", network.outbound_if4.as_deref())?,
        outbound_interface6: interface("--outbound-if6", network.outbound_if6.as_deref())?,
        dns,
        search,
        dns_forward: addresses_of("--dns-forward", &network.dns_forward)?,
        dns_host: addresses_of("--dns-host", &network.dns_host)?,
        map_host_loopback: mapped("--map-host-loopback", &network.map_host_loopback)?,
        no_map_gateway: network.no_map_gw,
        map_guest_address: mapped("--map-guest-addr", &network.map_guest_addr)?,
        allowed_addresses: addresses_of("--allow-address", &network.allow_address)?,
        hostname: told.hostname.as_deref().map(|name| host_name("--hostname", name)).transpose()?,
        fqdn: told.fqdn.as_deref().map(|name| host_name("--fqdn", name)).transpose()?,
        services: Services {
            tcp: !off.no_tcp,
            udp: !off.no_udp,
            icmp: !off.no_icmp,
            dhcp: !off.no_dhcp,
            dhcp_dns: !off.no_dhcp_dns,
            dhcp_search: !off.no_dhcp_search,
            dhcpv6: !off.no_dhcpv6,
            ndp: !off.no_ndp && !off.no_icmp,
            ra: !off.no_ra,
        },
    })
}

/// Forwards in order. `none` only stands first: after others it would take them back.
fn specs(option: &str, texts: Vec<String>) -> Result<Vec<String>, OptionError> {
    if texts.iter().skip(1).any(|text| text == "none") {
        return fail(format!("{option} none contradicts the {option} before it; leave out one of them"));
    }
    Ok(texts)
}

fn address_and_length(text: &str) -> Result<(IpAddr, Option<u8>), OptionError> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let address = usable("--address", address, is_unicast)?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let length = length.map(|length| number("--address", length, 0, most, "the length of the prefix")).transpose()?;
    Ok((address, length))
}

/// A netmask as prefix length: bits or dotted.
fn prefix_length(text: &str) -> Result<u8, OptionError> {
    let bits = text.parse().ok().filter(|bits| *bits <= 32);
    let dotted = || text.parse::<Ipv4Addr>().ok().and_then(|mask| ipnet::ipv4_mask_to_prefix(mask).ok());
    bits.or_else(dotted).ok_or_else(|| {
        OptionError(format!("--netmask {text} is no netmask; give bits, 0 to 32, or such as 255.255.255.0"))
    })
}

fn mac_address(text: &str) -> Result<MacAddress, OptionError> {
    match MacAddress::from_str(text) {
        Ok(mac) if mac.0[0] & 1 == 0 && mac.0 != [0; 6] => Ok(mac),
        _ => fail(format!("--mac-addr {text} is no MAC address of one host; give one such as 9a:55:9a:55:9a:55")),
    }
}

fn usable(option: &str, text: &str, fits: impl Fn(&IpAddr) -> bool) -> Result<IpAddr, OptionError> {
    text.parse().ok().filter(fits).ok_or_else(|| {
        OptionError(format!("{option} {text} is no address that can be used here; give an IPv4 or IPv6 address"))
    })
}

fn is_unicast(address: &IpAddr) -> bool {
    !address.is_unspecified() && !address.is_multicast() && !address.is_loopback() && !is_broadcast(address)
}

fn is_broadcast(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V4(address) if address.is_broadcast())
}

fn interface(option: &str, name: Option<&str>) -> Result<Option<String>, OptionError> {
    match name {
        Some(name) if name.is_empty() || name.len() > 15 || name.contains(['/', ' ']) => {
            fail(format!("{option} {name:?} is no name of an interface; `ip link` shows them"))
        }
        name => Ok(name.map(str::to_owned)),
    }
}

/// As in RFC 1123, less strict: the guest is told what the person said.
fn host_name(option: &str, name: &str) -> Result<String, OptionError> {
    let fits = name.len() <= MAX_NAME_BYTES
        && name.split('.').all(|label| (1..=63).contains(&label.len()))
        && name.bytes().all(|byte| byte.is_ascii_graphic());
    if !fits {
        return fail(format!("{option} {name:?} is no name; give at most 253 letters, digits, dashes and dots"));
    }
    Ok(name.to_owned())
}

fn descriptor(option: &str, text: &str) -> Result<RawFd, OptionError> {
    number(option, text, 0, i32::MAX.unsigned_abs().into(), "the number of an open descriptor")
}

fn number<T: TryFrom<u64>>(option: &str, text: &str, least: u64, most: u64, what: &str) -> Result<T, OptionError> {
    text.parse()
        .ok()
        .filter(|number| (least..=most).contains(number))
        .and_then(|number: u64| T::try_from(number).ok())
        .ok_or_else(|| OptionError(format!("{option} {text}: give {what}, {least} to {most}")))
}

fn fail<T>(sentence: String) -> Result<T, OptionError> {
    Err(OptionError(sentence))
}

/// What a tap has when nobody says otherwise, in bytes.
const TAP_MTU: u16 = 1500;

/// The largest MTU of passt: 64 KiB less an Ethernet header, and one more.
const MAX_MTU: u64 = 65_521;
/// A log file holds some lines at least.
const MIN_LOG_BYTES: u64 = 4096;
/// A name in DNS.
const MAX_NAME_BYTES: usize = 253;
/// As many as QEMU has at most for vhost-user would be 128; the translator has one thread.
const MAX_QUEUE_PAIRS: u64 = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, Parser};

    fn words(line: &str) -> Result<Options, String> {
        let words = std::iter::once("culvert-translator").chain(line.split_whitespace());
        let arguments = Arguments::try_parse_from(words).map_err(|error| error.to_string())?;
        Options::try_from(arguments).map_err(|error| error.to_string())
    }

    fn options(line: &str) -> Options {
        words(line).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    /// What libvirt 11 and KubeVirt start passt with.
    #[test]
    fn callers_of_passt_are_understood() {
        let libvirt = options(
            "--one-off --socket /run/libvirt/qemu/passt/1-vm-net0.socket --pid /run/libvirt/qemu/passt/1-vm-net0-passt.pid \
             --vhost-user --mac-addr 52:54:00:00:00:01 --interface eth0 --log-file /var/run/kubevirt/passt.log --address \
             10.0.2.15 --netmask 24 --address fd00::15 --mtu 1500 --hostname vm --fqdn vm.example --tcp-ports \
             127.0.0.1%lo/~15000,2222:22,8000-8010 --tcp-ports 443 --udp-ports 53",
        );
        assert!(libvirt.one_off && !libvirt.foreground);
        let path = PathBuf::from("/run/libvirt/qemu/passt/1-vm-net0.socket");
        assert_eq!(libvirt.guest, Guest::VhostUser { path: Some(path), role: Role::Listen, queue_pairs: 1 });
        assert_eq!(libvirt.control, Control::BesideGuest);
        assert_eq!(libvirt.tcp_ports, ["127.0.0.1%lo/~15000,2222:22,8000-8010", "443"]);
        assert_eq!(libvirt.udp_ports, ["53"]);
        let wanted = &libvirt.wanted;
        assert_eq!(wanted.mac, Some(MacAddress([0x52, 0x54, 0, 0, 0, 1])));
        assert_eq!((wanted.netmask, wanted.mtu), (Some(24), Some(1500)));
        assert_eq!(wanted.addresses.len(), 2);
        assert_eq!(wanted.interface.as_deref(), Some("eth0"));
        let kubevirt =
            options("--one-off --socket s --mac-addr 02:00:00:00:00:01 --interface eth0 --log-file l --tcp-ports 80");
        assert_eq!(kubevirt.guest, Guest::Stream(Some("s".into())));
        let ours = options("--vhost-user -s S -f -q --one-off -m 1400 -t 80 -u 53 --no-map-gw");
        assert!(ours.foreground && ours.wanted.no_map_gateway);
        assert_eq!(ours.level, Level::Quiet);
    }

    #[test]
    fn every_option_of_passt_for_guests_is_taken() {
        let all = options(
            "-d --trace -q -f -e -l log --log-size 100000 --runas 107:107 --chroot-fallback -c conf -p pcap -P pid -m 0 -a \
             192.0.2.5/24 -a 2001:db8::5/64 -M 9a:55:9a:55:9a:56 -g 192.0.2.1 -g fe80::1 -i eth0 -o 192.0.2.5 -o \
             2001:db8::5 --outbound-if4 eth0 --outbound-if6 eth1 -D 192.0.2.53 -D 127.0.0.1 --dns-forward 192.0.2.53 \
             --dns-host 127.0.0.53 -S example.org --no-dhcp-dns --no-dhcp-search --no-tcp --no-udp --no-icmp --no-dhcp \
             --no-ndp --no-dhcpv6 --no-ra --freebind --map-host-loopback 192.0.2.1 --no-map-gw --map-guest-addr none -4 -6 \
             -H vm --fqdn vm.example.org -t none -u none -s S --vhost-user --repair-path none --migrate-exit \
             --migrate-no-linger -1 --stats 5 --allow-address 169.254.169.254 --allow-address 2001:db8::5",
        );
        assert_eq!(all.level, Level::Quiet);
        assert_eq!(all.statistics, Some(Duration::from_secs(5)));
        // The last of those that contradict each other.
        assert!(all.wanted.ipv6 && !all.wanted.ipv4);
        assert_eq!(all.wanted.mtu, Some(0));
        assert_eq!(all.wanted.map_guest_address, [None]);
        assert_eq!(all.wanted.allowed_addresses.len(), 2);
        assert!(!all.wanted.services.ndp && !all.wanted.services.tcp);
        assert_eq!(all.notices.len(), 3);
    }

    #[test]
    fn other_spellings_are_the_same() {
        for (one, other) in [
            ("--socket S", "--socket-path S"),
            ("--socket S", "-sS"),
            ("--socket=S", "-s S"),
            ("--vhost-user", "--vhost"),
            ("--tcp-ports 80", "-t80"),
            ("--tcp-ports 80", "--tcp-p 80"),
            ("-f1", "--foreground --one-off"),
            ("-s S -s T", "-s T"),
            ("-m 9000 -m 1500", "-m 1500"),
            ("-n 255.255.255.0", "--netmask 24"),
            ("-D none", "-D 192.0.2.1 -D none"),
            ("-q -d", "-d"),
            ("-d -q", "-q"),
        ] {
            assert_eq!(options(one), options(other), "{one}, {other}");
        }
    }

    #[test]
    fn where_the_control_socket_is() {
        for (line, control) in [
            ("", Control::BesideGuest),
            ("-s S", Control::BesideGuest),
            ("--fd 3", Control::None),
            ("--fd 3 -s S", Control::At("S.ctl".into())),
            ("--packet-fd 3 --control-path C", Control::At("C".into())),
            ("--packet-help -s S", Control::BesideGuest),
            ("-s S --control-path none", Control::None),
            ("-s S --control-path ./none", Control::At("./none".into())),
        ] {
            assert_eq!(options(line).control, control, "{line}");
        }
        assert!(options("--fd 3").one_off && options("--packet-fd 3").one_off);
        assert!(!options("--packet-help -s S").one_off);
        assert_eq!(options("--packet-help -s S").wanted.mtu, Some(1500));
        assert_eq!(options("--packet-help -s S -m 9000").wanted.mtu, Some(9000));
        assert_eq!(options("--packet-help -s S").guest, Guest::PacketHelp("S".into()));
    }

    #[test]
    fn mistakes_are_told_with_the_remedy() {
        for (line, sentence) in [
            ("--netns x", "--netns is for network namespaces (pasta), not for guests; leave it out"),
            ("-T 22", "--tcp-ns is for network namespaces (pasta), not for guests; leave it out"),
            ("--config-net", "--config-net is for network namespaces (pasta), not for guests; leave it out"),
            ("--stats 1", "--stats prints to a terminal: add --foreground, or leave it out"),
            ("-f --stats 0", "--stats 0: give the delay in seconds, 1 to 86400"),
            ("--migrate-exit", "--migrate-exit is for --vhost-user; add that, or leave it out"),
            ("--fd 3 --vhost-user", "--fd is for QEMU's -netdev stream, not for --vhost-user; leave out one of them"),
            ("--fd x", "--fd x: give the number of an open descriptor, 0 to 2147483647"),
            ("-m 70000", "--mtu 70000: give the MTU in bytes, 0 to 65521"),
            ("-m x", "--mtu x: give the MTU in bytes, 0 to 65521"),
            ("--log-size 10", "--log-size 10: give the bytes of the log file, 4096 to 4294967295"),
            (
                "-a 192.0.2.300",
                "--address 192.0.2.300 is no address that can be used here; give an IPv4 or IPv6 address",
            ),
            ("-a 127.0.0.1", "--address 127.0.0.1 is no address that can be used here; give an IPv4 or IPv6 address"),
            ("-a 192.0.2.1/33", "--address 33: give the length of the prefix, 0 to 32"),
            ("-a 192.0.2.1/24 -n 24", "--netmask and the length in --address say the same; leave out one of them"),
            ("-n 255.0.255.0", "--netmask 255.0.255.0 is no netmask; give bits, 0 to 32, or such as 255.255.255.0"),
            ("-n 33", "--netmask 33 is no netmask; give bits, 0 to 32, or such as 255.255.255.0"),
            (
                "-M 01:00:5e:00:00:01",
                "--mac-addr 01:00:5e:00:00:01 is no MAC address of one host; give one such as 9a:55:9a:55:9a:55",
            ),
            ("-g ::1", "--gateway ::1 is no address that can be used here; give an IPv4 or IPv6 address"),
            ("-i a/b", "--interface \"a/b\" is no name of an interface; `ip link` shows them"),
            ("-H a..b", "--hostname \"a..b\" is no name; give at most 253 letters, digits, dashes and dots"),
            ("-t 80 -t none", "--tcp-ports none contradicts the --tcp-ports before it; leave out one of them"),
            ("--vhost-user --connect", "--connect needs the path of the socket that QEMU creates: add --socket PATH"),
            ("--vhost-user --queue-pairs 17", "--queue-pairs 17: give the number of queue pairs, 1 to 16"),
        ] {
            assert_eq!(words(line), Err(sentence.to_owned()), "{line}");
        }
        // Told by the parser.
        for (line, part) in [
            ("--no-such-option", "--no-such-option"),
            ("extra", "extra"),
            ("-t", "--tcp-ports"),
            ("-t -5", "-5"),
            ("--packet-fd 3 --fd 4", "--fd"),
            ("--connect", "--vhost-user"),
            ("--packet-help", "--socket"),
            ("--packet-help -s S --vhost-user", "--vhost-user"),
            ("--no-dhcp-d --no-", "--no-"),
        ] {
            let error = words(line).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
