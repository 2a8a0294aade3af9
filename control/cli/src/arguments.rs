//! The command line: noun, then verb. This file is also the help.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Shows and changes what culvertd does on this node.
#[derive(Debug, Parser)]
#[command(version, about, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub struct Arguments {
    /// culvertd's control socket; before the command, as ports have a socket too
    #[arg(long = "socket", value_name = "PATH", default_value = "/run/culvert/culvertd.sock")]
    pub control_socket: PathBuf,

    /// How to print: as a table for a person, or as JSON or YAML for a program
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub output: Format,

    /// Show it again and again, every so many seconds (2 without a number), until Ctrl-C
    #[arg(long, global = true, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "2",
        value_parser = seconds)]
    pub watch: Option<Duration>,

    #[command(subcommand)]
    pub command: Command,
}

/// A time between two looks.
fn seconds(text: &str) -> Result<Duration, String> {
    let time = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let range = Duration::from_millis(100)..=Duration::from_secs(86_400);
    time.filter(|time| range.contains(time)).ok_or_else(|| "write 0.1 to 86400 seconds".to_owned())
}

/// What the answer looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Json,
    Yaml,
}

#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    #[command(flatten)]
    Daemon(DaemonCommand),
    /// Migrations between hosts without KubeVirt: the migration proxy, asked without the daemon
    #[command(subcommand)]
    Migration(MigrationCommand),
    /// Translators: processes of their own, asked without culvertd
    Translator(TranslatorArguments),
    /// Moves KubeVirt's objects in YAML from passt: {} and vhostuser: {} to Culvert's bindings; asks nobody
    Convert(ConvertWish),
    /// Looks whether this node has what Culvert needs, and says what to change; culvertd need not run
    Doctor {
        /// culvertd's configuration
        #[arg(long, value_name = "FILE", default_value = "/etc/culvert/culvertd.toml")]
        config: PathBuf,
    },
    /// Writes one archive with all that a report of a fault needs: status, configuration, counters, events, log, doctor. No secrets
    SupportBundle {
        /// The archive [default: culvert-support-TIME.tar.gz]
        file: Option<PathBuf>,
        /// culvertd's configuration
        #[arg(long, value_name = "FILE", default_value = "/etc/culvert/culvertd.toml")]
        config: PathBuf,
    },
    /// Prints a script that completes commands and options in a shell
    Completion {
        /// Whose
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Writes the man pages of culvertctl and its commands
    Man {
        /// The folder for them, such as /usr/share/man/man1
        folder: PathBuf,
    },
}

/// A shell that completion is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    Bash,
    Fish,
    Zsh,
}

/// What culvertd is asked.
#[derive(Clone, Debug, Subcommand)]
pub enum DaemonCommand {
    /// The daemon and its workers, and the node's translators
    Status,
    /// Networks: learning bridges between ports
    #[command(subcommand)]
    Network(NetworkCommand),
    /// Ports: the ways to guests and NICs
    #[command(subcommand)]
    Port(PortCommand),
    /// Workers: polling threads, and the queues that each one polls
    #[command(subcommand)]
    Worker(WorkerCommand),
    /// Mirrors: copies of the frames of some ports
    #[command(subcommand)]
    Mirror(MirrorCommand),
    /// Pods whose translators culvertd knows
    #[command(subcommand)]
    Pod(PodCommand),
    /// Addresses that the networks have learned
    #[command(subcommand)]
    Mac(MacCommand),
    /// Frames and bytes by port; rx is towards culvertd, tx away from it
    Stats {
        /// Only this port
        port: Option<String>,
        /// Frames by worker instead, and how much of its time each one takes
        #[arg(long, conflicts_with = "port")]
        worker: bool,
    },
    /// Ports and workers live on a screen: rates, drops, load; keys sort and filter
    Top {
        /// How often the figures are new
        #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
        interval: Duration,
    },
    /// Refused frames: why, how many, the last one, and what to do
    Drops {
        /// Only this port
        port: Option<String>,
    },
    /// The frames of a port or network as they pass, printed or as pcapng; ends by Ctrl-C
    Capture(CaptureWish),
    /// How long frames of a port stay in culvertd, by the ports that they come from and go to; ends by Ctrl-C
    Latency(LatencyWish),
    /// What the switch would do with a frame, step by step, and why; nothing is sent
    Trace(TraceWish),
    /// Makes culvertd read its configuration file again; a file with mistakes changes nothing
    Reload,
    /// What happened on the node: ports, guests, workers, migrations, the configuration; with --watch, also what happens
    Events {
        /// Only this port
        port: Option<String>,
        /// How many of those that were, at most
        #[arg(long, value_name = "N", default_value_t = 1024)]
        past: u32,
    },
    /// What culvertd's log has; with a filter, changes that until culvertd is started again
    LogLevel {
        /// A level (error, warn, info, debug, trace), or levels by part of the program: info,culvert_vhost=debug
        filter: Option<String>,
        /// Back to what culvertd was started with
        #[arg(long, conflicts_with = "filter")]
        reset: bool,
    },
}

#[derive(Clone, Debug, Subcommand)]
pub enum NetworkCommand {
    /// All networks
    List,
    /// One network
    Show {
        /// Its name
        network: String,
    },
    /// Adds a network; one that is like that already is left alone
    Add {
        /// Its name
        network: String,
        #[command(flatten)]
        keys: NetworkKeys,
    },
    /// Changes a network; what is not named stays
    Set {
        /// Its name
        network: String,
        #[command(flatten)]
        keys: NetworkKeys,
        #[command(flatten)]
        unset: Unset,
    },
    /// Removes a network without ports
    Del {
        /// Its name
        network: String,
    },
}

/// The keys of a [[network]] section.
#[derive(Clone, Debug, Args)]
pub struct NetworkKeys {
    /// How long an address is remembered after its last frame, such as 300s
    #[arg(long, value_name = "TIME")]
    pub mac_age: Option<String>,
    /// Multicast only to the ports that asked for its group
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub snooping: Option<bool>,
    /// How many ports kubelet may give to pods
    #[arg(long, value_name = "COUNT")]
    pub guest_ports: Option<u32>,
}

#[derive(Clone, Debug, Args)]
pub struct Unset {
    /// The keys that get their default back, such as vlan,native
    #[arg(long, value_name = "KEYS", value_delimiter = ',')]
    pub unset: Vec<String>,
}

#[derive(Clone, Debug, Subcommand)]
pub enum PortCommand {
    /// All ports
    List,
    /// One port
    Show {
        /// Its name
        port: String,
    },
    /// Adds a port; one that is like that already is left alone
    Add {
        /// Its name
        port: String,
        #[command(flatten)]
        keys: Box<PortKeys>,
    },
    /// Changes a port; what is not named stays
    Set {
        /// Its name
        port: String,
        #[command(flatten)]
        keys: Box<PortKeys>,
        #[command(flatten)]
        unset: Unset,
    },
    /// Removes a port
    Del {
        /// Its name
        port: String,
    },
}

/// The keys of a [[port]] section. Those that open the port anew when they change say so.
#[derive(Clone, Debug, Args)]
pub struct PortKeys {
    /// The network that it belongs to (reopens)
    #[arg(long, value_name = "NAME")]
    pub network: Option<String>,
    /// A guest's vhost-user socket (reopens)
    #[arg(long, value_name = "PATH")]
    pub socket: Option<String>,
    /// Who creates the socket: listen (culvertd) or connect (QEMU) (reopens)
    #[arg(long, value_name = "ROLE")]
    pub role: Option<String>,
    /// A NIC: a PCI address, or a virtual device with its arguments (reopens)
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<String>,
    /// The only source address that the guest may use (reopens)
    #[arg(long, value_name = "MAC")]
    pub mac: Option<String>,
    /// Queue pairs (reopens)
    #[arg(long, value_name = "N")]
    pub queues: Option<u32>,
    /// Largest payload of a frame, in bytes (reopens)
    #[arg(long, value_name = "BYTES")]
    pub mtu: Option<u32>,
    /// How many addresses may be learned
    #[arg(long, value_name = "N")]
    pub mac_limit: Option<u32>,
    /// The VLAN of its frames, which have no tag here
    #[arg(long, value_name = "VLAN")]
    pub vlan: Option<u32>,
    /// Carry the guest's own tags inside of its VLAN
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub qinq: Option<bool>,
    /// The VLANs whose frames have a tag here, such as 10,20,30-39
    #[arg(long, value_name = "VLANS", value_delimiter = ',')]
    pub trunk: Vec<String>,
    /// The VLAN of frames without a tag on a trunk
    #[arg(long, value_name = "VLAN")]
    pub native: Option<u32>,
    /// The only IPv4 and IPv6 sources that the guest may use, such as 10.0.0.5,fd00::/64
    #[arg(long, value_name = "ADDRESSES", value_delimiter = ',')]
    pub addresses: Vec<String>,
    /// Group-addressed frames a second that it may send
    #[arg(long, value_name = "N")]
    pub broadcast_limit: Option<u32>,
    /// Frames a second to unknown addresses that it may send
    #[arg(long, value_name = "N")]
    pub unknown_limit: Option<u32>,
    /// Bits a second that may arrive (what a guest sends), such as 100mbit or 1.5gbit
    #[arg(long, value_name = "RATE")]
    pub rx_rate: Option<String>,
    /// Bytes that --rx-rate lets pass at once
    #[arg(long, value_name = "BYTES")]
    pub rx_burst: Option<u64>,
    /// Frames a second that may arrive
    #[arg(long, value_name = "N")]
    pub rx_frame_rate: Option<u32>,
    /// Frames that --rx-frame-rate lets pass at once
    #[arg(long, value_name = "N")]
    pub rx_frame_burst: Option<u32>,
    /// Bits a second that may leave (what a guest gets), such as 100mbit or 1.5gbit
    #[arg(long, value_name = "RATE")]
    pub tx_rate: Option<String>,
    /// Bytes that --tx-rate lets pass at once
    #[arg(long, value_name = "BYTES")]
    pub tx_burst: Option<u64>,
    /// Frames a second that may leave
    #[arg(long, value_name = "N")]
    pub tx_frame_rate: Option<u32>,
    /// Frames that --tx-frame-rate lets pass at once
    #[arg(long, value_name = "N")]
    pub tx_frame_burst: Option<u32>,
    /// Exchange frames only with ports that are not isolated
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub isolated: Option<bool>,
    /// Offer checksum and segmentation offloads to the guest (reopens)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub offloads: Option<bool>,
    /// Let the NIC take frames to any address (reopens)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub promiscuous: Option<bool>,
    /// The device port whose link the guest's link follows
    #[arg(long, value_name = "PORT")]
    pub follow_link: Option<String>,
    /// A folder above the socket, such as a pod's volume, below which no link is followed (reopens)
    #[arg(long, value_name = "PATH")]
    pub socket_root: Option<String>,
    /// Owner of the socket that culvertd creates, such as 107:107 (reopens)
    #[arg(long, value_name = "UID:GID")]
    pub owner: Option<String>,
    /// SELinux label of that socket (reopens)
    #[arg(long, value_name = "LABEL")]
    pub label: Option<String>,
    /// For people: what the port is for
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
}

#[derive(Clone, Debug, Subcommand)]
pub enum WorkerCommand {
    /// All workers, with the share of its time that each queue takes, over the last minute
    List,
    /// Moves queues to workers that have less to do, if that is worth it; no frame is lost
    Rebalance {
        /// Only tell what would move
        #[arg(long)]
        dry_run: bool,
        /// By how many percent the variance of the workers' loads must become smaller [default: rebalance_improvement]
        #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(0..=100))]
        improvement: Option<u32>,
    },
}

#[derive(Clone, Debug, Subcommand)]
pub enum MirrorCommand {
    /// All mirrors
    List,
    /// One mirror
    Show {
        /// Its name
        mirror: String,
    },
    /// Adds a mirror; one that is like that already is left alone
    Add {
        /// Its name
        mirror: String,
        /// The ports whose frames are copied, such as vm-a,vm-b
        #[arg(long, value_name = "PORTS", value_delimiter = ',')]
        from: Vec<String>,
        /// The port that gets the copies, and takes no other part in its network
        #[arg(long, value_name = "PORT")]
        to: Option<String>,
        /// Frames that come from those ports (rx), that go to them (tx), or both
        #[arg(long, value_name = "DIRECTION")]
        direction: Option<String>,
    },
    /// Removes a mirror
    Del {
        /// Its name
        mirror: String,
    },
}

#[derive(Clone, Debug, Subcommand)]
pub enum MigrationCommand {
    /// Has this host receive a guest: listens at its address in the migration network
    Listen {
        /// The guest, the same on both hosts
        migration: String,
        /// libvirt's socket [default: virtqemud's or libvirtd's]
        #[arg(long, value_name = "PATH")]
        libvirt: Option<PathBuf>,
        /// Disks that are not shared come along
        #[arg(long)]
        disks: bool,
    },
    /// Has this host send a guest: makes the sockets for libvirt, and shows the command that moves the guest
    Connect {
        /// The guest
        migration: String,
        /// What `listen` has printed at the target with -o json; - reads it from standard input
        #[arg(long, value_name = "FILE", conflicts_with_all = ["address", "ports"])]
        target: Option<PathBuf>,
        /// The target's address
        #[arg(long, value_name = "ADDRESS")]
        address: Option<String>,
        /// A port of the target and its channel, such as 38211=49152; for each of them
        #[arg(long = "port", value_name = "PORT=CHANNEL")]
        ports: Vec<String>,
        /// Bits a second that may be sent, such as 200mbit [default: the network's]
        #[arg(long, value_name = "RATE")]
        rate: Option<String>,
    },
    /// Sets how fast a migration may send, also while it does
    Rate {
        /// The guest
        migration: String,
        /// Bits a second, such as 200mbit, or none
        rate: String,
    },
    /// All migrations, with what has gone and how fast it goes
    List,
    /// One migration
    Show {
        /// The guest
        migration: String,
    },
    /// Ends a migration, with its connections and sockets
    Del {
        /// The guest
        migration: String,
    },
}

#[derive(Clone, Debug, Subcommand)]
pub enum PodCommand {
    /// All pods
    List,
    /// One pod
    Show {
        /// Its name
        pod: String,
    },
    /// Adds a pod; one that is like that already is left alone
    Add {
        /// Its name
        pod: String,
        /// The folders in which its translators have their sockets
        #[arg(long, value_name = "PATHS", value_delimiter = ',')]
        folders: Vec<String>,
        /// Its network namespace, such as /var/run/netns/NAME
        #[arg(long, value_name = "PATH")]
        netns: Option<String>,
        /// The tap there that its translators get a packet socket on
        #[arg(long, value_name = "NAME")]
        tap: Option<String>,
        /// A text for persons
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
    },
    /// Removes a pod
    Del {
        /// Its name
        pod: String,
    },
}

#[derive(Clone, Debug, Subcommand)]
pub enum MacCommand {
    /// All learned addresses
    List {
        /// Only this network
        #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
        network: String,
        /// Only this port
        #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
        port: String,
    },
}

#[derive(Clone, Debug, Args)]
pub struct TranslatorArguments {
    /// The guest's socket, or the control socket beside it [default: the only one in /run/culvert/translators]
    #[arg(long = "socket", id = "translator_socket", value_name = "PATH", global = true)]
    pub socket: Option<PathBuf>,

    #[command(subcommand)]
    pub command: TranslatorCommand,
}

#[derive(Clone, Debug, Subcommand)]
pub enum TranslatorCommand {
    /// All translators in /run/culvert/translators
    List,
    /// Ports that lead to the guest
    #[command(subcommand)]
    Forward(ForwardCommand),
    /// Connections and other flows between the guest and the world
    Flows,
    /// Counters
    Stats,
}

#[derive(Clone, Debug, Subcommand)]
pub enum ForwardCommand {
    /// What is forwarded
    List,
    /// Forwards more ports: all that is named, or nothing
    Add(Forward),
    /// Forwards no longer what is named; flows that are there go on
    Remove(Forward),
}

#[derive(Clone, Debug, Args)]
pub struct Forward {
    /// tcp or udp
    #[arg(value_enum)]
    pub protocol: Protocol,
    /// As in `culvert-translator --tcp-ports`: 80, 2222:22, 8000-8010, 192.0.2.1%eth0/443, all, none
    pub spec: String,
}

/// What is forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    Tcp,
    Udp,
}

#[derive(Clone, Debug, Args)]
pub struct LatencyWish {
    /// Of which port
    pub port: String,
    /// For how long
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub seconds: Duration,
    /// Also write a page with a chart, which a browser shows
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub struct CaptureWish {
    /// The port
    #[arg(required_unless_present = "network")]
    pub port: Option<String>,

    /// All ports of this network that are open; each frame where it comes in, if no --direction is named
    #[arg(long, value_name = "NAME", conflicts_with = "port")]
    pub network: Option<String>,

    /// Only frames of which this is true, as tcpdump has it: 'udp port 53 and host 10.0.0.5'
    #[arg(short, long, value_name = "FILTER", default_value = "", hide_default_value = true)]
    pub filter: String,

    /// Only frames towards culvertd (rx, what a guest sends), or away from it (tx)
    #[arg(long, value_enum, value_name = "DIRECTION")]
    pub direction: Option<Direction>,

    /// Write pcapng to this file, or to standard output with `-` (as in `| wireshark -k -i -`)
    #[arg(short, long, value_name = "FILE")]
    pub write: Option<PathBuf>,

    /// End after so many frames
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,

    /// Keep so many bytes of each frame
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..))]
    pub snaplen: Option<u32>,

    /// Write no more than so many files, FILE.0, FILE.1 and so on: the oldest one is written anew
    #[arg(long, value_name = "N", requires_all = ["write", "size"], value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub files: Option<u32>,

    /// The size at which the next of --files begins
    #[arg(long, value_name = "MB", requires = "files", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub size: Option<u64>,
}

/// Which way frames go, or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Direction {
    Both,
    Rx,
    Tx,
}

#[derive(Clone, Debug, Args)]
pub struct TraceWish {
    /// The port that the frame comes from
    pub port: String,

    /// The frame in hexadecimal, from its destination address on; colons and spaces do not matter
    #[arg(required_unless_present = "from_pcap")]
    pub frame: Option<String>,

    /// Trace every frame of this pcap or pcapng file
    #[arg(long, value_name = "FILE", conflicts_with = "frame")]
    pub from_pcap: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub struct ConvertWish {
    /// Files in YAML or JSON; standard input when none is named, or for -
    pub files: Vec<PathBuf>,

    /// Write the files anew, where something changes, and tell what; without it, the whole text is printed
    #[arg(short, long)]
    pub in_place: bool,

    /// Print what changes, as diff -u does
    #[arg(short, long)]
    pub diff: bool,

    /// Only tell what would change, also by the exit code
    #[arg(long, conflicts_with_all = ["in_place", "diff"])]
    pub check: bool,

    /// The binding that takes passt's place, as it is registered in the KubeVirt CR
    #[arg(long, value_name = "NAME", default_value = "culvert-translator")]
    pub translator_binding: String,

    /// The binding that takes the place of vhostuser
    #[arg(long, value_name = "NAME", default_value = "culvert")]
    pub vhostuser_binding: String,

    /// Also convert KubeVirt's other passt bindings: binding: {name: passt} and passtBinding: {}
    #[arg(long)]
    pub all_passt: bool,
}

/// The exit code when culvertd or a translator refuses, a file is wrong, or the output cannot be written. 2 is clap's, for a wrong command line.
pub const EXIT_FAILED: u8 = 1;
/// The exit code when culvertd or the translator cannot be reached.
pub const EXIT_UNREACHABLE: u8 = 3;
/// The exit code of `convert --check` when something would change.
pub const EXIT_WOULD_CHANGE: u8 = 4;

const EXIT_CODES: &str = "Exit codes:
  0  done
  1  culvertd or the translator refused, a file is wrong, or the output could not be written; doctor: there is an error
  2  the command line is wrong
  3  culvertd or the translator cannot be reached
  4  convert --check: something would change";

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    /// The words of a command, as a shell takes them apart: quotes keep spaces.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut quoted) = (vec![String::new()], false);
        for sign in line.chars() {
            match sign {
                '"' | '\'' => quoted = !quoted,
                ' ' if !quoted => words.push(String::new()),
                sign => words.last_mut().unwrap().push(sign),
            }
        }
        words
    }

    #[test]
    fn the_commands_for_users_of_open_vswitch_are_right() {
        let page = include_str!("../../../docs/OVS.md");
        let commands = page.split('`').skip(1).step_by(2).filter(|code| code.starts_with("culvertctl "));
        let mut count = 0;
        for command in commands {
            let parsed = Arguments::try_parse_from(words(command));
            assert!(parsed.is_ok(), "docs/OVS.md: {command}: {}", parsed.unwrap_err());
            count += 1;
        }
        assert!(count >= 40, "{count}");
        // What is wrong is seen.
        assert!(Arguments::try_parse_from(words("culvertctl port add vm-a --colour red")).is_err());
    }

    #[test]
    fn the_exit_codes_are_the_documented_ones() {
        assert!(EXIT_CODES.contains(&format!("\n  {EXIT_FAILED}  culvertd or the translator refused")));
        assert!(EXIT_CODES.contains(&format!("\n  {EXIT_UNREACHABLE}  culvertd or the translator cannot be reached")));
        assert!(EXIT_CODES.contains(&format!("\n  {EXIT_WOULD_CHANGE}  convert --check")));
    }
}
