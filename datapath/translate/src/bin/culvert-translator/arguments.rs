//! The words of the command line: passt's options, with the same names. This file is also the help.
//!
//! Nothing is decided here: [`crate::options`] checks what was said and says what it means. Where an option is given
//! several times and is no list, the last one counts.

use std::path::PathBuf;

use clap::{Args, Parser};

/// Gives a virtual machine the network of the place it is started in, by ordinary sockets and without privileges.
#[derive(Debug, Parser)]
#[command(version, after_help = AFTER_HELP, args_override_self = true, infer_long_args = true)]
#[command(max_term_width = 120)]
pub struct Arguments {
    #[command(flatten)]
    pub process: Process,
    #[command(flatten)]
    pub guest: Guest,
    #[command(flatten)]
    pub told: Told,
    #[command(flatten)]
    pub network: Network,
    #[command(flatten)]
    pub off: Off,
    #[command(flatten)]
    pub elsewhere: Elsewhere,
}

/// The process and what it writes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Process")]
#[expect(clippy::struct_excessive_bools, reason = "switches of a command line")]
pub struct Process {
    /// Stay in the foreground [default: go to the background once the guest can connect]
    #[arg(short, long)]
    pub foreground: bool,
    /// End when the first guest's connection ends
    #[arg(short = '1', long)]
    pub one_off: bool,
    /// Write the process's number to this file
    #[arg(short = 'P', long = "pid", value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// The user to become: number or name, also with a group [default: nobody, when started as root]
    #[arg(long, value_name = "USER[:GROUP]")]
    pub runas: Option<String>,
    /// Isolate by chroot() where pivot_root() is impossible, as on a root that is an initramfs
    #[arg(long)]
    pub chroot_fallback: bool,
    /// Log to this file alone
    #[arg(short, long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
    /// Bytes that the log file may have; the oldest lines make room
    #[arg(long, value_name = "BYTES", default_value = "1048576")]
    pub log_size: String,
    /// Log more, and to standard error
    #[arg(short, long, overrides_with = "quiet")]
    pub debug: bool,
    /// Log everything, also single packets; implies --debug
    #[arg(long, overrides_with = "quiet")]
    pub trace: bool,
    /// Log only warnings and errors
    #[arg(short, long, overrides_with_all = ["debug", "trace"])]
    pub quiet: bool,
    /// Print statistics this often, in seconds, while they change; only in the foreground
    #[arg(long, value_name = "DELAY")]
    pub stats: Option<String>,
    /// Record the frames of the guest's side in this pcap file
    #[arg(short, long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// Where forwards, flows and statistics can be asked for; "none": nowhere [default: PATH of --socket and ".ctl"]
    #[arg(long, value_name = "PATH")]
    pub control_path: Option<PathBuf>,
    /// Print what this vhost-user backend can do, as JSON
    #[arg(long)]
    pub print_capabilities: bool,
    /// No effect
    #[arg(short = 'e', long = "stderr", hide = true)]
    pub stderr: bool,
    /// pesto's socket; its protocol is not spoken
    #[arg(short, long, value_name = "PATH", hide = true)]
    pub conf_path: Option<PathBuf>,
}

/// The way to the guest.
#[derive(Debug, Args)]
#[command(next_help_heading = "Towards the guest")]
#[expect(clippy::struct_excessive_bools, reason = "switches of a command line")]
pub struct Guest {
    /// The Unix socket that QEMU connects to [default: the first free one of /tmp/passt_1.socket to
    /// /tmp/passt_64.socket]
    #[arg(short, long = "socket", alias = "socket-path", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Speak vhost-user there [default: frames with their length, as QEMU's -netdev stream does]
    #[arg(long)]
    pub vhost_user: bool,
    /// With --vhost-user: wait for the socket, which QEMU creates (server=on), and connect to it; implies --one-off
    #[arg(long, requires = "vhost_user")]
    pub connect: bool,
    /// With --vhost-user: how many queue pairs are offered; each has a thread
    #[arg(long, value_name = "N", requires = "vhost_user")]
    pub queue_pairs: Option<String>,
    /// A connected socket to QEMU that was opened before; implies --one-off
    #[arg(short = 'F', long, value_name = "NUMBER")]
    pub fd: Option<String>,
    /// A packet socket with PACKET_VNET_HDR that was opened before, bound to the guest's tap; implies --one-off
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["fd", "vhost_user"])]
    pub packet_fd: Option<String>,
    /// culvertd gives a packet socket on the guest's tap: listens for it at PATH.help, PATH being that of --socket
    #[arg(long, requires = "socket", conflicts_with_all = ["fd", "vhost_user", "packet_fd"])]
    pub packet_help: bool,
    /// With --vhost-user: the socket for passt-repair or culvertd, who switch sockets to repair mode when the guest migrates;
    /// "none": connections do not migrate [default: PATH of --socket and ".repair"]
    #[arg(long, value_name = "PATH")]
    pub repair_path: Option<PathBuf>,
    /// With --vhost-user: a migration fails, and the guest stays, if a connection or flow of its would be lost
    #[arg(long, requires = "vhost_user")]
    pub migrate_strict: bool,
    /// No effect
    #[arg(long, hide = true)]
    pub migrate_exit: bool,
    /// No effect
    #[arg(long, hide = true)]
    pub migrate_no_linger: bool,
}

/// Addresses, names and resolvers.
#[derive(Debug, Args)]
#[command(next_help_heading = "What the guest is told, by DHCP, DHCPv6 and router advertisements")]
pub struct Told {
    /// Its address, at most one of each family [default: that of the interface]
    #[arg(short, long, value_name = "ADDRESS[/LENGTH]")]
    pub address: Vec<String>,
    /// The mask of its IPv4 address, or the length of the prefix
    #[arg(short = 'n', long, value_name = "MASK")]
    pub netmask: Option<String>,
    /// Its gateway, at most one of each family [default: that of the interface]
    #[arg(short, long, value_name = "ADDRESS")]
    pub gateway: Vec<String>,
    /// The MAC address that frames come from [default: 9a:55:9a:55:9a:55]
    #[arg(short = 'M', long, value_name = "MAC")]
    pub mac_addr: Option<String>,
    /// Its MTU in bytes; 0: it is not told [default: 65520]
    #[arg(short, long, value_name = "BYTES")]
    pub mtu: Option<String>,
    /// A resolver, any number; "none": it is not told [default: those of /etc/resolv.conf]
    #[arg(short = 'D', long, value_name = "ADDRESS")]
    pub dns: Vec<String>,
    /// Domains to search, with spaces between them; "none": it is not told [default: those of /etc/resolv.conf]
    #[arg(short = 'S', long, value_name = "LIST")]
    pub search: Option<String>,
    /// Its host name
    #[arg(short = 'H', long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Its host name with domain
    #[arg(long, value_name = "NAME")]
    pub fqdn: Option<String>,
}

/// Interfaces, mappings and forwards.
#[derive(Debug, Args)]
#[command(next_help_heading = "Towards the network")]
#[expect(clippy::struct_excessive_bools, reason = "switches of a command line")]
pub struct Network {
    /// Where addresses and routes are taken from [default: the interface of the first default route]
    #[arg(short, long, value_name = "INTERFACE")]
    pub interface: Option<String>,
    /// The address that sockets are bound to, at most one of each family [default: as routed]
    #[arg(short, long, value_name = "ADDRESS")]
    pub outbound: Vec<String>,
    /// The interface that IPv4 sockets are bound to [default: as routed]
    #[arg(long, value_name = "INTERFACE")]
    pub outbound_if4: Option<String>,
    /// The interface that IPv6 sockets are bound to [default: as routed]
    #[arg(long, value_name = "INTERFACE")]
    pub outbound_if6: Option<String>,
    /// IPv4 alone
    #[arg(short = '4', long, overrides_with = "ipv6_only")]
    pub ipv4_only: bool,
    /// IPv6 alone
    #[arg(short = '6', long, overrides_with = "ipv4_only")]
    pub ipv6_only: bool,
    /// The address, seen by the guest, that leads to the host's loopback; "none" [default: its gateway]
    #[arg(long, value_name = "ADDRESS")]
    pub map_host_loopback: Vec<String>,
    /// No address leads to the host's loopback unless --map-host-loopback says so
    #[arg(long)]
    pub no_map_gw: bool,
    /// The address, seen by the guest, that leads to the host's own address, which the guest has as well; "none"
    #[arg(long, value_name = "ADDRESS")]
    pub map_guest_addr: Vec<String>,
    /// With --no-map-gw: an address of the host's own, or of a metadata service, that is not refused
    #[arg(long, value_name = "ADDRESS")]
    pub allow_address: Vec<String>,
    /// DNS that the guest sends to this address goes to --dns-host
    #[arg(long, value_name = "ADDRESS")]
    pub dns_forward: Vec<String>,
    /// The resolver for --dns-forward [default: the first one of /etc/resolv.conf]
    #[arg(long, value_name = "ADDRESS")]
    pub dns_host: Vec<String>,
    /// TCP ports that lead to the guest; any number of times
    #[arg(short, long = "tcp-ports", value_name = "SPEC")]
    pub tcp_ports: Vec<String>,
    /// UDP ports that lead to the guest; any number of times
    #[arg(short, long = "udp-ports", value_name = "SPEC")]
    pub udp_ports: Vec<String>,
    /// SPECs may name addresses that the host does not have
    #[arg(long)]
    pub freebind: bool,
}

/// What there would be otherwise.
#[derive(Debug, Args)]
#[command(next_help_heading = "What is switched off")]
#[expect(clippy::struct_excessive_bools, reason = "switches of a command line")]
pub struct Off {
    /// TCP
    #[arg(long)]
    pub no_tcp: bool,
    /// UDP
    #[arg(long)]
    pub no_udp: bool,
    /// ICMP and ICMPv6; implies --no-ndp
    #[arg(long)]
    pub no_icmp: bool,
    /// DHCP
    #[arg(long)]
    pub no_dhcp: bool,
    /// Neighbour discovery
    #[arg(long)]
    pub no_ndp: bool,
    /// DHCPv6
    #[arg(long)]
    pub no_dhcpv6: bool,
    /// Router advertisements
    #[arg(long)]
    pub no_ra: bool,
    /// Resolvers in DHCP, DHCPv6 and router advertisements
    #[arg(long)]
    pub no_dhcp_dns: bool,
    /// Search domains in DHCP, DHCPv6 and router advertisements
    #[arg(long)]
    pub no_dhcp_search: bool,
}

/// Options for network namespaces (pasta), which are refused by name.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "switches of a command line")]
pub struct Elsewhere {
    #[arg(short = 'I', long, value_name = "NAME", hide = true)]
    pub ns_ifname: Option<String>,
    #[arg(short = 'T', long, value_name = "SPEC", hide = true)]
    pub tcp_ns: Option<String>,
    #[arg(short = 'U', long, value_name = "SPEC", hide = true)]
    pub udp_ns: Option<String>,
    #[arg(long, hide = true)]
    pub host_lo_to_ns_lo: bool,
    #[arg(long, value_name = "PATH", hide = true)]
    pub userns: Option<String>,
    #[arg(long, value_name = "PATH", hide = true)]
    pub netns: Option<String>,
    #[arg(long, hide = true)]
    pub netns_only: bool,
    #[arg(long, hide = true)]
    pub no_netns_quit: bool,
    #[arg(long, hide = true)]
    pub no_pidns: bool,
    #[arg(long, hide = true)]
    pub config_net: bool,
    #[arg(long, hide = true)]
    pub no_copy_routes: bool,
    #[arg(long, hide = true)]
    pub no_copy_addrs: bool,
    #[arg(long, value_name = "MAC", hide = true)]
    pub ns_mac_addr: Option<String>,
    #[arg(long, hide = true)]
    pub no_splice: bool,
    #[arg(long, hide = true)]
    pub splice_only: bool,
    #[arg(long, hide = true)]
    pub dhcp_dns: bool,
    #[arg(long, hide = true)]
    pub dhcp_search: bool,
}

impl Elsewhere {
    /// The first of them that was given.
    pub fn given(&self) -> Option<&'static str> {
        let given = [
            ("--ns-ifname", self.ns_ifname.is_some()),
            ("--tcp-ns", self.tcp_ns.is_some()),
            ("--udp-ns", self.udp_ns.is_some()),
            ("--host-lo-to-ns-lo", self.host_lo_to_ns_lo),
            ("--userns", self.userns.is_some()),
            ("--netns", self.netns.is_some()),
            ("--netns-only", self.netns_only),
            ("--no-netns-quit", self.no_netns_quit),
            ("--no-pidns", self.no_pidns),
            ("--config-net", self.config_net),
            ("--no-copy-routes", self.no_copy_routes),
            ("--no-copy-addrs", self.no_copy_addrs),
            ("--ns-mac-addr", self.ns_mac_addr.is_some()),
            ("--no-splice", self.no_splice),
            ("--splice-only", self.splice_only),
            ("--dhcp-dns", self.dhcp_dns),
            ("--dhcp-search", self.dhcp_search),
        ];
        given.into_iter().find(|(_, given)| *given).map(|(name, _)| name)
    }
}

const AFTER_HELP: &str = "\
SPEC, which ports lead where:
  none                       nothing is forwarded (the default)
  [ADDRESS[%INTERFACE]/]PORTS  where PORTS are, with commas between them:
    22                       port 22 to the guest's port 22
    2222:22                  port 2222 to the guest's port 22
    22-80                    ports 22 to 80
    22-80:122-180            ports 22 to 80 to the guest's ports 122 to 180
    5000:192.0.2.5/6000      port 5000 to port 6000 of the guest's address 192.0.2.5
    ~25, ~20-30              leaves out ports, whatever the others say; alone: all but these
    all                      all ports that are free and not ephemeral
    all:192.0.2.5            the same, to the guest's address 192.0.2.5

Exit status: 0 when it was told to end or the one guest has gone, 1 when it could not start or go on.";
