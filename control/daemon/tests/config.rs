//! The configuration as a user meets it: what is accepted, and the exact text of each mistake.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "these are tests")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use culvert_nic::Hugepages;
use culvert_vhost::{Owner, Place, Role};
use culvertd::config::{
    Attachment, Config, Devices, Kind, MAX_FILE_BYTES, Machine, Mirror, Network, Objects, Pod, Port, Rate, Rates,
    Rebalance, VlanRanges, Vlans,
};
use culvertd::config::{conflicts, read_object, read_objects, write_objects};
use culvertd::name::Name;
use proptest::prelude::*;

fn machine() -> Machine {
    Machine { cores: [0, 1, 2, 3].into(), memory_mb: 4096 }
}

fn parse(text: &str) -> Result<Config, Vec<String>> {
    parse_beside(text, &Objects::default())
}

/// Reads a file while there are objects of `clients`.
fn parse_beside(text: &str, clients: &Objects) -> Result<Config, Vec<String>> {
    Config::parse(text, "f.toml", &machine(), clients)
        .map_err(|mistakes| mistakes.iter().map(ToString::to_string).collect::<Vec<_>>())
}

/// Asserts that `text` has exactly these mistakes, in this order.
#[track_caller]
fn mistakes(text: &str, expected: &[&str]) {
    assert_eq!(parse(text).expect_err("the text should have mistakes"), expected);
}

/// A network and a port named `a` with these further lines; they begin in line 6.
fn port(lines: &str) -> String {
    format!("[[network]]\nname = \"blue\"\n[[port]]\nname = \"a\"\nnetwork = \"blue\"\n{lines}\n")
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

const NO_SUCH: &str = "remove it, or write name, network, socket, device, role, mac, addresses, offloads, follow_link, \
                       socket_root, owner, label, promiscuous, queues, mtu, mac_limit, vlan, trunk, native, qinq, \
                       broadcast_limit, unknown_limit, rx_rate, rx_burst, rx_frame_rate, rx_frame_burst, tx_rate, tx_burst, \
                       tx_frame_rate, tx_frame_burst, isolated or description";

#[test]
fn an_empty_file_is_all_defaults() {
    let config = parse("").unwrap();
    assert_eq!(config.daemon.control_socket, PathBuf::from("/run/culvert/culvertd.sock"));
    assert_eq!(config.daemon.state_dir, PathBuf::from("/var/lib/culvert"));
    assert_eq!(config.daemon.metrics_address, Some("127.0.0.1:9477".parse().unwrap()));
    assert_eq!(config.datapath.worker_cores, [1]);
    assert_eq!(config.datapath.memory_mb, 256);
    assert_eq!(config.datapath.hugepages, Hugepages::Auto);
    assert_eq!(config.datapath.idle_sleep, Some(Duration::from_micros(200)));
    let minute = Duration::from_secs(60);
    assert_eq!(config.datapath.rebalance, Rebalance { auto: false, interval: minute, load: 95, improvement: 25 });
    assert!(!config.objects.use_pci());
    assert!(config.datapath.eal_args.is_empty());
    assert_eq!(config.objects, Objects::default());

    let one_core = Machine { cores: [0].into(), memory_mb: 4096 };
    assert_eq!(Config::parse("", "f.toml", &one_core, &Objects::default()).unwrap().datapath.worker_cores, [0]);
}

#[test]
fn every_key_is_read() {
    let config = parse(
        r#"
        [daemon]
        control_socket = "/run//other/./c.sock"
        state_dir = "/var/lib/other/"
        metrics_address = "[::1]:1234"
        kubelet_device_plugins = "/var/lib/kubelet/device-plugins/"
        device_folder = "/run/devices"
        device_info_folder = "/run/devinfo"
        device_owner = "0:36"
        device_label = "system_u:object_r:container_file_t:s0"

        [datapath]
        worker_cores = [3, 0x1]
        memory_mb = 1_024
        hugepages = "never"
        idle_sleep = "0"
        rebalance = "auto"
        rebalance_interval = "5m"
        rebalance_load = 80
        rebalance_improvement = 10
        eal_args = ["--log-level=lib.eal:8", "--iova-mode=va"]

        [[network]]
        name = "blue"
        mac_age = "5m"
        snooping = true
        guest_ports = 64

        [[port]]
        name = "uplink0"
        network = "blue"
        device = "net_pcap0,rx_pcap=in.pcap,tx_pcap=out.pcap"
        queues = 2
        mtu = 9000
        mac_limit = 7
        trunk = [20, "30-39", 10, "35-40"]
        native = 1
        promiscuous = false

        [[port]]
        name = "nic"
        network = "blue"
        device = "AF:00.1,queues=4"

        [[port]]
        name = "vm-a"
        network = "blue"
        socket = "/run/culvert/ports/vm-a/vhost.sock"
        role = "connect"
        mac = "02:00:00:00:00:0A"
        addresses = ["10.0.0.5", "fd00::/64", "FE80::1"]
        vlan = 10
        qinq = true
        broadcast_limit = 100
        unknown_limit = 1_000
        rx_rate = "1.5gbit"
        rx_burst = 100_000
        rx_frame_rate = 9
        rx_frame_burst = 8
        tx_rate = "9600bit"
        tx_burst = 7
        tx_frame_rate = 1_000_000
        tx_frame_burst = 1
        isolated = true
        offloads = false
        follow_link = "uplink0"
        socket_root = "/run/culvert/ports/"
        owner = "107:36"
        label = "system_u:object_r:container_file_t:s0:c1,c2"
        description = "Anna's \"VM\""

        [[port]]
        name = "vm-b"
        network = "blue"
        socket = "/run/culvert/ports/vm-b/vhost.sock"

        [[mirror]]
        name = "watch"
        from = ["vm-a", "uplink0"]
        to = "nic"
        direction = "rx"
        "#,
    )
    .unwrap();
    assert_eq!(config.daemon.control_socket.to_str(), Some("/run/other/c.sock"));
    assert_eq!(config.daemon.state_dir.to_str(), Some("/var/lib/other"));
    assert_eq!(config.daemon.metrics_address, Some("[::1]:1234".parse().unwrap()));
    let devices = Devices {
        kubelet_device_plugins: Some("/var/lib/kubelet/device-plugins".into()),
        device_folder: "/run/devices".into(),
        device_info_folder: "/run/devinfo".into(),
        device_owner: Owner { uid: 0, gid: 36 },
        device_label: Some("system_u:object_r:container_file_t:s0".to_owned()),
    };
    assert_eq!(config.daemon.devices, devices);
    assert_eq!(config.datapath.worker_cores, [3, 1]);
    assert_eq!(config.datapath.memory_mb, 1024);
    assert_eq!(config.datapath.hugepages, Hugepages::Never);
    assert_eq!(config.datapath.idle_sleep, None);
    let interval = Duration::from_secs(300);
    assert_eq!(config.datapath.rebalance, Rebalance { auto: true, interval, load: 80, improvement: 10 });
    assert_eq!(config.datapath.eal_args, ["--log-level=lib.eal:8", "--iova-mode=va"]);
    let objects = config.objects;
    assert!(objects.use_pci());
    let networks: Vec<_> = objects.networks.into_iter().map(|network| network.wanted).collect();
    let blue = Network {
        mac_age: Duration::from_secs(300),
        snooping: true,
        guest_ports: Some(64),
        ..Network::new(name("blue"))
    };
    assert_eq!(networks, [blue]);

    let nic = |of: &str, device: &str, promiscuous| {
        Port::new(name(of), name("blue"), Attachment::Nic { device: device.to_owned(), promiscuous })
    };
    let guest = |of: &str| {
        let attachment = Attachment::Guest {
            socket: PathBuf::from(format!("/run/culvert/ports/{of}/vhost.sock")).into(),
            role: Role::Listen,
            mac: None,
            addresses: Vec::new(),
            offloads: true,
            follow_link: None,
        };
        Port::new(name(of), name("blue"), attachment)
    };
    let allowed = VlanRanges::new([(1, 1), (10, 10), (20, 20), (30, 40)]);
    let vm_a = Port {
        attachment: Attachment::Guest {
            socket: Place {
                path: "/run/culvert/ports/vm-a/vhost.sock".into(),
                root: Some("/run/culvert/ports".into()),
                owner: Some(Owner { uid: 107, gid: 36 }),
                label: Some("system_u:object_r:container_file_t:s0:c1,c2".to_owned()),
            },
            role: Role::Connect,
            mac: Some("02:00:00:00:00:0a".parse().unwrap()),
            addresses: ["10.0.0.5/32", "fd00::/64", "fe80::1/128"].map(|text| text.parse().unwrap()).into(),
            offloads: false,
            follow_link: Some(name("uplink0")),
        },
        vlans: Vlans::Access { vlan: 10, qinq: true },
        broadcast_limit: Some(100),
        unknown_limit: Some(1_000),
        rates: Rates {
            rx: Rate { bits: Some(1_500_000_000), burst: Some(100_000), frames: Some(9), frame_burst: Some(8) },
            tx: Rate { bits: Some(9_600), burst: Some(7), frames: Some(1_000_000), frame_burst: Some(1) },
        },
        isolated: true,
        description: Some("Anna's \"VM\"".to_owned()),
        ..guest("vm-a")
    };
    let uplink = Port {
        queues: 2,
        mtu: 9000,
        mac_limit: 7,
        vlans: Vlans::Trunk { allowed, native: Some(1) },
        ..nic("uplink0", "net_pcap0,rx_pcap=in.pcap,tx_pcap=out.pcap", false)
    };
    let ports: Vec<_> = objects.ports.into_iter().map(|port| port.wanted).collect();
    assert_eq!(ports, [uplink, nic("nic", "0000:af:00.1,queues=4", true), vm_a, guest("vm-b")]);
    let mirrors: Vec<_> = objects.mirrors.into_iter().map(|mirror| mirror.wanted).collect();
    let from = vec![name("vm-a"), name("uplink0")];
    assert_eq!(mirrors, [Mirror { name: name("watch"), from, to: name("nic"), rx: true, tx: false }]);
}

/// The file that users start from has every key, and the defaults that it tells of.
#[test]
fn the_example_file_shows_the_defaults() {
    let text = include_str!("../../deploy/culvertd.toml");
    let example = parse(text).unwrap();
    let defaults = parse("").unwrap();
    assert_eq!((&example.daemon, &example.datapath), (&defaults.daemon, &defaults.datapath));
    // Without the lines that have a default, the objects stay the same.
    let keys = ["queues", "mtu", "mac_limit", "mac_age", "role", "snooping", "isolated", "offloads", "promiscuous"];
    let has_default =
        |line: &&str| keys.iter().chain(&["qinq", "direction"]).any(|key| line.starts_with(&format!("{key} = ")));
    assert_eq!(text.lines().filter(has_default).count(), 20);
    // So that lines stay lines.
    let short: Vec<_> = text.lines().map(|line| if has_default(&line) { "" } else { line }).collect();
    let short = parse(&short.join("\n")).unwrap();
    assert_eq!(example.objects, short.objects);
}

#[test]
fn how_guests_move_without_kubevirt() {
    assert_eq!(parse("").unwrap().migration, None);
    let plain = parse("[migration]\ndisable_tls = true\n").unwrap().migration.unwrap();
    assert_eq!((plain.tls, plain.ports, plain.networks.len()), (None, None, 1));
    assert_eq!(
        (plain.networks[0].name.as_str(), plain.networks[0].places.interface.as_str()),
        ("migration0", "migration0")
    );
    mistakes(
        "[migration]\nports = \"9-1\"\ncertificate = \"tls.crt\"\n[[migration_network]]\nmigrations = [\"a[\"]\nrate = \"fast\"\n",
        &[
            "f.toml:1: migration.key: is missing; add a line such as key = \"/etc/culvert/migration/tls.key\"; or disable_tls = true, \
             if nobody else is in that network",
            "f.toml:1: migration.authority: is missing; add a line such as authority = \"/etc/culvert/migration/ca.crt\"; or \
             disable_tls = true, if nobody else is in that network",
            "f.toml:2: migration.ports = \"9-1\": is no range of ports; write the first and the last one, like \"49152-49215\"",
            "f.toml:3: migration.certificate = \"tls.crt\": is not an absolute path; start it with /, like \
             \"/etc/culvert/migration/tls.crt\"",
            "f.toml:4: migration_network.name: is missing; add a line such as name = \"fast\"",
            "f.toml:5: migration_network.migrations = \"a[\": is no pattern of names: unclosed character class; missing ']'; write it \
             like \"db-*\"",
            "f.toml:6: migration_network.rate = \"fast\": is no rate; write a number and bit, kbit, mbit or gbit (a second), like \
             \"100mbit\" or \"1.5gbit\"",
        ],
    );
    mistakes(
        "[migration]\ndisable_tls = true\nkey = \"/k\"\n[[migration_network]]\nname = \"a\"\naddress = \"x\"\n\
         [[migration_network]]\nname = \"a\"\ninterface = \"a/b\"\n",
        &[
            "f.toml:3: migration.key = \"/k\": is not used with disable_tls = true; remove one of the two",
            "f.toml:6: migration_network.address = \"x\": is no address; write it like \"203.0.113.9\" or \"fd00::9\"",
            "f.toml:8: migration_network.name = \"a\": is the name of two networks; give each its own",
            "f.toml:9: migration_network.interface = \"a/b\": is no name of a network interface; write 1 to 15 bytes without / and :, \
             like \"tap0\"",
        ],
    );
    mistakes(
        "[[migration_network]]\nname = \"a\"\n",
        &["f.toml:2: migration_network: belongs to no [migration] section; add one, or remove it"],
    );
}

#[test]
fn what_kubelet_is_offered() {
    mistakes(
        "[daemon]\nkubelet_device_plugins = \"kubelet\"\ndevice_owner = \"107\"\ndevice_label = \"\"\n",
        &[
            "f.toml:2: daemon.kubelet_device_plugins = \"kubelet\": is not an absolute path; start it with /, like \
             \"/var/lib/kubelet/device-plugins\"",
            "f.toml:3: daemon.device_owner = \"107\": is no user and group by number; write them with a colon between, like \
             \"107:107\"",
            "f.toml:4: daemon.device_label = \"\": is no SELinux label; write it like \
             \"system_u:object_r:container_file_t:s0\"",
        ],
    );
    mistakes(
        "[[network]]\nname = \"a\"\nguest_ports = 0\n[[network]]\nname = \"b-\"\nguest_ports = 1\n",
        &[
            "f.toml:3: network.guest_ports = 0: is out of range; write a number from 1 to 1024",
            "f.toml:6: network.guest_ports = 1: cannot be offered to kubelet: the network's name begins or ends with a \
             hyphen; choose another name, or remove this key",
        ],
    );
    mistakes(
        "[[network]]\nname = \"a\"\nguest_ports = 1000\n[[network]]\nname = \"b\"\nguest_ports = 25\n",
        &["f.toml:6: network.guest_ports = 25: promises kubelet more than the 1024 ports that all networks can have; \
           write a lower number"],
    );
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_lines() {
    mistakes(
        "[datapath]\nmemory_mb = 1\nhugepage = \"auto\"\n\n[[port]]\nname = \"A\"\nmtu = \"9000\"\n\n[daemons]\n",
        &[
            "f.toml:2: datapath.memory_mb = 1: is out of range; write a number from 64 to 4096",
            "f.toml:3: datapath.hugepage = \"auto\": is no key that culvertd knows here; did you mean \"hugepages\"?",
            "f.toml:5: port.network: is missing; add a line such as network = \"blue\"",
            "f.toml:5: port.socket or device: is missing; add socket = \"/run/culvert/ports/vm-a/vhost.sock\" for a \
             guest or device = \"0000:03:00.0\" for a NIC",
            "f.toml:6: port.name = \"A\": is not a name; use 1 to 63 characters of a-z, 0-9 and -",
            "f.toml:7: port.mtu = \"9000\": must be a whole number, not a text in quotes; write a plain number from \
             68 to 9216",
            "f.toml:9: daemons: is no key that culvertd knows here; did you mean \"daemon\"?",
        ],
    );
}

#[test]
fn keys_of_later_versions_are_unknown() {
    mistakes(
        &port("socket = \"/s\"\ncolour = 10\nrate = { rx = \"1Gbit\" }"),
        &[
            &format!("f.toml:7: port.colour = 10: is no key that culvertd knows here; {NO_SUCH}"),
            &format!("f.toml:8: port.rate: is no key that culvertd knows here; {NO_SUCH}"),
        ],
    );
    mistakes(
        "colour = 1",
        &[
            "f.toml:1: colour = 1: is no key that culvertd knows here; remove it, or write daemon, datapath, migration, \
             migration_network, network, port, mirror or pod",
        ],
    );
}

#[test]
fn a_text_that_is_not_toml() {
    mistakes(
        "[daemon]\nstate_dir = /var\n",
        &[
            "f.toml:2: this line: is not TOML: string values must be quoted, expected literal string; correct the syntax (https://toml.io)",
        ],
    );
    mistakes(
        "a = 1\na = 2\n",
        &["f.toml:2: this line: is not TOML: duplicate key; correct the syntax (https://toml.io)"],
    );
    mistakes(
        "[[port]\nx",
        &[
            "f.toml:1: this line: is not TOML: unclosed array table, expected `]`; correct the syntax (https://toml.io)",
            "f.toml:2: this line: is not TOML: key with no value, expected `=`; correct the syntax (https://toml.io)",
        ],
    );
}

#[test]
fn sections_with_the_wrong_brackets() {
    mistakes(
        "[port]\nname = \"a\"\n",
        &["f.toml:1: port: must be a list of sections; start each port with a line [[port]], in double brackets"],
    );
    mistakes(
        "network = [1]\n",
        &[
            "f.toml:1: network: must be a list of sections; start each network with a line [[network]], in double brackets",
        ],
    );
    mistakes("[[daemon]]\n", &["f.toml:1: daemon: must be a section; start the section with a line [daemon]"]);
    mistakes("datapath = 3\n", &["f.toml:1: datapath: must be a section; start the section with a line [datapath]"]);
}

#[test]
fn daemon_values() {
    let daemon = |line: &str| format!("[daemon]\n{line}\n");
    mistakes(
        &daemon("control_socket = \"culvertd.sock\""),
        &[
            "f.toml:2: daemon.control_socket = \"culvertd.sock\": is not an absolute path; start it with /, like \"/run/culvert/culvertd.sock\"",
        ],
    );
    mistakes(
        &daemon("control_socket = \"/run/../culvertd.sock\""),
        &["f.toml:2: daemon.control_socket = \"/run/../culvertd.sock\": contains \"..\"; write the path without it"],
    );
    mistakes(
        &daemon("control_socket = \"/\""),
        &[
            "f.toml:2: daemon.control_socket = \"/\": names no file; add the socket's name, like \"/run/culvert/culvertd.sock\"",
        ],
    );
    mistakes(
        &daemon("control_socket = \"/a\\u0000b\""),
        &[
            "f.toml:2: daemon.control_socket = \"/a\\u0000b\": contains a control character; write it like \"/run/culvert/culvertd.sock\"",
        ],
    );
    mistakes(
        &daemon(&format!("control_socket = \"/{}\"", "s".repeat(81))),
        &[
            "f.toml:2: daemon.control_socket = \"/ssssssssssssssssssssssssssssssssssssssssssssssssssssssssss...: has a file name of more than 80 bytes; shorten the part behind the last slash",
        ],
    );
    mistakes(
        &daemon("state_dir = 7"),
        &[
            "f.toml:2: daemon.state_dir = 7: must be a text in quotes, not a whole number; write it like \"/var/lib/culvert\"",
        ],
    );
    mistakes(
        &daemon(&format!("state_dir = \"{}\"", "/s".repeat(2048))),
        &[
            "f.toml:2: daemon.state_dir = \"/s/s/s/s/s/s/s/s/s/s/s/s/s/s/s/s/s/s/s/s/s/s/s/s/s/s/s/s/s/...: is longer than 4095 bytes; choose a shorter path",
        ],
    );
    mistakes(
        &daemon("metrics_address = \"localhost\""),
        &[
            "f.toml:2: daemon.metrics_address = \"localhost\": is not an address with a port number; write it like \"127.0.0.1:9477\" or \"[::1]:9477\", or \"off\"",
        ],
    );
}

#[test]
fn datapath_values() {
    let datapath = |line: &str| format!("[datapath]\n{line}\n");
    mistakes(
        &datapath("worker_cores = 1"),
        &["f.toml:2: datapath.worker_cores = 1: must be an array, not a whole number; write it like [1]"],
    );
    mistakes(
        &datapath("worker_cores = []"),
        &["f.toml:2: datapath.worker_cores = []: names no core; write at least one, like [1]"],
    );
    mistakes(
        &datapath("worker_cores = [1, 7, -1, \"2\", 1]"),
        &[
            "f.toml:2: datapath.worker_cores = 7: is no core that culvertd may use; choose from 0-3",
            "f.toml:2: datapath.worker_cores = -1: is out of range; write a number from 0 to 1023",
            "f.toml:2: datapath.worker_cores = \"2\": must be a whole number, not a text in quotes; write a plain number from 0 to 1023",
            "f.toml:2: datapath.worker_cores = 1: names this core twice; write each core once",
        ],
    );
    mistakes(
        &datapath("memory_mb = 8192"),
        &["f.toml:2: datapath.memory_mb = 8192: is out of range; write a number from 64 to 4096"],
    );
    mistakes(
        &datapath("memory_mb = 99999999999999999999999"),
        &["f.toml:2: datapath.memory_mb = 99999999999999999999999: is out of range; write a number from 64 to 4096"],
    );
    mistakes(
        &datapath("memory_mb = 256.0"),
        &[
            "f.toml:2: datapath.memory_mb = 256.0: must be a whole number, not a number with a fraction; write a plain number from 64 to 4096",
        ],
    );
    mistakes(
        &datapath("hugepages = \"2M\""),
        &["f.toml:2: datapath.hugepages = \"2M\": is none of the choices; write \"auto\", \"always\" or \"never\""],
    );
    mistakes(
        &datapath("hugepages = true"),
        &["f.toml:2: datapath.hugepages = true: must be a text in quotes, not true or false; write it like \"auto\""],
    );
    mistakes(
        &datapath("hugepages = \"allways\""),
        &["f.toml:2: datapath.hugepages = \"allways\": is none of the choices; did you mean \"always\"?"],
    );
    mistakes(
        &datapath("idle_sleep = 200"),
        &[
            "f.toml:2: datapath.idle_sleep = 200: must be a duration in quotes, not a whole number; write it like \"200us\"",
        ],
    );
    mistakes(
        &datapath("idle_sleep = \"200\""),
        &[
            "f.toml:2: datapath.idle_sleep = \"200\": is not a duration; write a number and us, ms, s, m or h, like \"200us\"",
        ],
    );
    mistakes(
        &datapath("idle_sleep = \"us\""),
        &[
            "f.toml:2: datapath.idle_sleep = \"us\": is not a duration; write a number and us, ms, s, m or h, like \"200us\"",
        ],
    );
    mistakes(
        &datapath("idle_sleep = \"-1s\""),
        &[
            "f.toml:2: datapath.idle_sleep = \"-1s\": is not a duration; write a number and us, ms, s, m or h, like \"200us\"",
        ],
    );
    mistakes(
        &datapath("idle_sleep = \"1 s\""),
        &[
            "f.toml:2: datapath.idle_sleep = \"1 s\": is not a duration; write a number and us, ms, s, m or h, like \"200us\"",
        ],
    );
    mistakes(
        &datapath("idle_sleep = \"11s\""),
        &["f.toml:2: datapath.idle_sleep = \"11s\": is out of range; write a duration from 0 to 10s"],
    );
    mistakes(
        &datapath("idle_sleep = \"99999999999999999999h\""),
        &["f.toml:2: datapath.idle_sleep = \"99999999999999999999h\": is out of range; write a duration from 0 to 10s"],
    );
    mistakes(
        &datapath("rebalance = \"automatic\""),
        &["f.toml:2: datapath.rebalance = \"automatic\": is none of the choices; write \"manual\" or \"auto\""],
    );
    mistakes(
        &datapath("rebalance_load = 101"),
        &["f.toml:2: datapath.rebalance_load = 101: is out of range; write a number from 0 to 100"],
    );
    mistakes(
        &datapath("eal_args = \"--no-huge\""),
        &[
            "f.toml:2: datapath.eal_args = \"--no-huge\": must be an array, not a text in quotes; write it like [\"--log-level=lib.eal:8\"]",
        ],
    );
    mistakes(
        &datapath("eal_args = [1, \"a\\nb\"]"),
        &[
            "f.toml:2: datapath.eal_args = 1: must be a text in quotes, not a whole number; write it like \"--log-level=lib.eal:8\"",
            "f.toml:2: datapath.eal_args = \"a\\nb\": contains a control character; write it like \"--log-level=lib.eal:8\"",
        ],
    );
}

#[test]
fn network_values() {
    mistakes(
        "[[network]]\nmac_age = \"0\"\n",
        &[
            "f.toml:1: network.name: is missing; add a line such as name = \"blue\"",
            "f.toml:2: network.mac_age = \"0\": is out of range; write a duration from 1s to 24h",
        ],
    );
    mistakes(
        "[[network]]\nname = \"blue\"\n[[network]]\nname = \"blue\"\n",
        &[
            "f.toml:4: network.name = \"blue\": is the network name of line 2 as well; give each network a name of its own",
        ],
    );
    mistakes(
        "[[network]]\nname = \"blue\"\nmac_age = 1979-05-27\n",
        &["f.toml:3: network.mac_age = 1979-05-27: must be a duration in quotes, not a date; write it like \"300s\""],
    );
}

#[test]
fn names_that_break_the_rule() {
    for name in ["../x", "/abs", "", &"a".repeat(300), "a\\nb", "\u{430}", "a b", "\\u0000"] {
        let found = parse(&format!("[[network]]\nname = \"{name}\"\n")).unwrap_err();
        assert!(found.len() == 1 && found[0].contains("f.toml:2: network.name = \""), "{found:?}");
        assert!(
            found[0].contains("is not a name; use 1 to 63") || found[0].contains("a control character; write it like")
        );
        assert!(!found[0].contains(char::is_control));
    }
}

#[test]
fn port_values() {
    let socket = |line: &str| port(&format!("socket = \"/s\"\n{line}"));
    mistakes(
        "[[network]]\nname = \"blue\"\n[[port]]\nname = \"a\"\nnetwork = \"bleu\"\nsocket = \"/s\"\n",
        &["f.toml:5: port.network = \"bleu\": is no network of this file; did you mean \"blue\"?"],
    );
    mistakes(
        "[[port]]\nname = \"a\"\nnetwork = \"red\"\nsocket = \"/s\"\n",
        &[
            "f.toml:3: port.network = \"red\": is no network of this file; add a [[network]] section with name = \"red\"",
        ],
    );
    mistakes(
        "[[network]]\nname = \"b\"\n[[port]]\nsocket = \"/s\"\n",
        &[
            "f.toml:3: port.name: is missing; add a line such as name = \"vm-a\"",
            "f.toml:3: port.network: is missing; add a line such as network = \"blue\"",
        ],
    );
    mistakes(
        &port("socket = \"/s\"\ndevice = \"net_null0\""),
        &[
            "f.toml:7: port.device = \"net_null0\": stands beside socket; keep device for a NIC or socket for a guest, not both",
        ],
    );
    mistakes(
        &port(""),
        &[
            "f.toml:3: port.socket or device: is missing; add socket = \"/run/culvert/ports/vm-a/vhost.sock\" for a guest or device = \"0000:03:00.0\" for a NIC",
        ],
    );
    mistakes(
        &port("socket = \"s\""),
        &[
            "f.toml:6: port.socket = \"s\": is not an absolute path; start it with /, like \"/run/culvert/ports/vm-a/vhost.sock\"",
        ],
    );
    mistakes(
        &port("socket = \"/run/culvert/culvertd.sock\""),
        &[
            "f.toml:6: port.socket = \"/run/culvert/culvertd.sock\": is the control socket; give the port a socket of its own",
        ],
    );
    mistakes(
        &port("device = \"eth0\""),
        &[
            "f.toml:6: port.device = \"eth0\": is no DPDK device; write a PCI address like \"0000:03:00.0\" or a virtual device like \"net_af_packet0,iface=eth0\"",
        ],
    );
    mistakes(
        &port("device = \"net_null0\"\nrole = \"listen\"\nmac = \"02:00:00:00:00:01\""),
        &[
            "f.toml:7: port.role = \"listen\": works only with socket; remove it",
            "f.toml:8: port.mac = \"02:00:00:00:00:01\": works only with socket; remove it",
        ],
    );
    mistakes(
        &socket("role = \"server\""),
        &["f.toml:7: port.role = \"server\": is none of the choices; write \"listen\" or \"connect\""],
    );
    mistakes(&socket("queues = 0"), &["f.toml:7: port.queues = 0: is out of range; write a number from 1 to 16"]);
    mistakes(&socket("queues = 17"), &["f.toml:7: port.queues = 17: is out of range; write a number from 1 to 16"]);
    mistakes(&socket("mtu = 67"), &["f.toml:7: port.mtu = 67: is out of range; write a number from 68 to 9216"]);
    mistakes(&socket("mtu = 70000"), &["f.toml:7: port.mtu = 70000: is out of range; write a number from 68 to 9216"]);
    mistakes(
        &socket("mac_limit = 0"),
        &["f.toml:7: port.mac_limit = 0: is out of range; write a number from 1 to 32768"],
    );
    mistakes(
        &socket("mac = \"02:00:00:00:00\""),
        &["f.toml:7: port.mac = \"02:00:00:00:00\": is not a MAC address; write six bytes like \"02:00:00:00:00:0a\""],
    );
    mistakes(
        &socket("mac = \"01:00:5e:00:00:01\""),
        &[
            "f.toml:7: port.mac = \"01:00:5e:00:00:01\": is not the address of one station; write the guest's own address, like \"02:00:00:00:00:0a\"",
        ],
    );
    mistakes(
        &socket("mac = \"00:00:00:00:00:00\""),
        &[
            "f.toml:7: port.mac = \"00:00:00:00:00:00\": is not the address of one station; write the guest's own address, like \"02:00:00:00:00:0a\"",
        ],
    );
}

#[test]
fn things_that_only_one_port_may_have() {
    let second = "[[port]]\nname = \"b\"\nnetwork = \"blue\"\n";
    mistakes(
        &port("socket = \"/s\"\n[[port]]\nname = \"a\"\nnetwork = \"blue\"\nsocket = \"/t\""),
        &["f.toml:8: port.name = \"a\": is the port name of line 4 as well; give each port a name of its own"],
    );
    mistakes(
        &port(&format!("socket = \"/s/t\"\n{second}socket = \"//s/./t\"")),
        &["f.toml:10: port.socket = \"//s/./t\": is the socket of port a as well; give each port a socket of its own"],
    );
    mistakes(
        &port(&format!("device = \"net_null0\"\n{second}device = \"net_null0,size=64\"")),
        &[
            "f.toml:10: port.device = \"net_null0,size=64\": is the device of port a as well; give each port a device of its own",
        ],
    );
    mistakes(
        &port(&format!("device = \"03:00.0\"\n{second}device = \"0000:03:00.0\"")),
        &[
            "f.toml:10: port.device = \"0000:03:00.0\": is the device of port a as well; give each port a device of its own",
        ],
    );
    let mac = "mac = \"02:00:00:00:00:01\"";
    mistakes(
        &port(&format!("socket = \"/s\"\n{mac}\n{second}socket = \"/t\"\n{mac}")),
        &[
            "f.toml:12: port.mac = \"02:00:00:00:00:01\": is the address of port a as well; give each guest of a network an address of its own",
        ],
    );
    // In another network the same address is another station.
    let other = "[[network]]\nname = \"red\"\n[[port]]\nname = \"b\"\nnetwork = \"red\"\nsocket = \"/t\"\n";
    parse(&port(&format!("socket = \"/s\"\n{mac}\n{other}{mac}"))).unwrap();
}

#[test]
fn vlan_values() {
    let socket = |line: &str| port(&format!("socket = \"/s\"\n{line}"));
    let range = "write a number from 1 to 4094, or a range of them like \"30-39\"";
    for number in ["0", "4095"] {
        mistakes(
            &socket(&format!("vlan = {number}")),
            &[&format!("f.toml:7: port.vlan = {number}: is out of range; write a number from 1 to 4094")],
        );
    }
    mistakes(
        &socket("trunk = [4095, \"39-30\", \"0-1\", \"1-+2\", \"1-2-3\", true]"),
        &[
            "f.toml:7: port.trunk = 4095: is out of range; write a number from 1 to 4094",
            "f.toml:7: port.trunk = \"39-30\": ends before it starts; write the lower VLAN first",
            &format!("f.toml:7: port.trunk = \"0-1\": is no range of VLANs; {range}"),
            &format!("f.toml:7: port.trunk = \"1-+2\": is no range of VLANs; {range}"),
            &format!("f.toml:7: port.trunk = \"1-2-3\": is no range of VLANs; {range}"),
            &format!("f.toml:7: port.trunk = true: must be a number or a range in quotes, not true or false; {range}"),
        ],
    );
    mistakes(
        &socket("trunk = []"),
        &["f.toml:7: port.trunk = []: names no VLAN; write at least one, like [10, \"30-39\"], or remove the key"],
    );
    mistakes(
        &socket("trunk = [1]\nvlan = 2\nnative = 1"),
        &[
            "f.toml:7: port.trunk = [1]: stands beside vlan; keep vlan for one VLAN or trunk for several, not both",
            "f.toml:9: port.native = 1: stands beside vlan; remove it: frames without a tag belong to vlan already",
        ],
    );
    mistakes(
        &socket("native = 1\nqinq = true"),
        &[
            "f.toml:7: port.native = 1: works only with trunk; remove it, or add trunk with the VLANs that have a tag",
            "f.toml:8: port.qinq = true: works only with vlan; remove it, or add vlan: the VLAN that carries the guest's tags",
        ],
    );
    mistakes(
        &socket("vlan = 1\nqinq = \"yes\""),
        &[
            "f.toml:8: port.qinq = \"yes\": must be true or false, not a text in quotes; write true or false, without quotes",
        ],
    );
}

#[test]
fn guard_values() {
    let socket = |line: &str| port(&format!("socket = \"/s\"\n{line}"));
    mistakes(
        &socket("addresses = [\"10.0.0.5/24\", \"host\", \"ff02::1\", \"10.0.0.1\", \"10.0.0.1/32\", 7]"),
        &[
            "f.toml:7: port.addresses = \"10.0.0.5/24\": has bits set behind its first 24; write \"10.0.0.0/24\" for the prefix or \"10.0.0.5\" for one address",
            "f.toml:7: port.addresses = \"host\": is no IP address or prefix; write it like \"10.0.0.5\" or \"fd00::/64\"",
            "f.toml:7: port.addresses = \"ff02::1\": is no address of a station; write the guest's own addresses",
            "f.toml:7: port.addresses = 7: must be a text in quotes, not a whole number; write it like \"10.0.0.5\" or \"fd00::/64\"",
            "f.toml:7: port.addresses = \"10.0.0.1/32\": is there twice; write each address once",
        ],
    );
    mistakes(
        &socket("addresses = []"),
        &["f.toml:7: port.addresses = []: names no address; write at least one, or remove the key to allow any"],
    );
    let many: Vec<_> = (0..65).map(|number| format!("\"10.0.0.{number}\"")).collect();
    let found = parse(&socket(&format!("addresses = [{}]", many.join(",")))).unwrap_err();
    assert!(found[0].ends_with(": has more than 64 entries; write prefixes for many addresses"), "{found:?}");
    for key in ["broadcast_limit", "unknown_limit"] {
        mistakes(
            &socket(&format!("{key} = 0")),
            &[&format!("f.toml:7: port.{key} = 0: is out of range; write a number from 1 to 100000000")],
        );
    }
}

#[test]
fn rate_values() {
    let wrong = "write a number and bit, kbit, mbit or gbit (a second), like \"100mbit\" or \"1.5gbit\"";
    mistakes(
        &port("socket = \"/s\"\nrx_rate = \"fast\"\nrx_frame_rate = 0\ntx_rate = \"1kbit\"\ntx_burst = 0"),
        &[
            &format!("f.toml:7: port.rx_rate = \"fast\": is no rate; {wrong}"),
            "f.toml:8: port.rx_frame_rate = 0: is out of range; write a number from 1 to 1000000000",
            "f.toml:9: port.tx_rate = \"1kbit\": is out of range; write a rate from 8kbit to 400gbit",
            "f.toml:10: port.tx_burst = 0: is out of range; write a number from 1 to 1073741824",
        ],
    );
    mistakes(
        &port("device = \"net_null0\"\nrx_rate = 100\nrx_frame_burst = 9\ntx_burst = 9"),
        &[
            "f.toml:7: port.rx_rate = 100: must be a text in quotes, not a whole number; write it like \"100mbit\" or \"1.5gbit\"",
            "f.toml:8: port.rx_frame_burst = 9: works only with rx_frame_rate; remove it, or add rx_frame_rate",
            "f.toml:9: port.tx_burst = 9: works only with tx_rate; remove it, or add tx_rate",
        ],
    );
}

#[test]
fn keys_of_the_other_kind_of_port() {
    mistakes(
        &port(
            "device = \"net_null0\"\naddresses = [\"10.0.0.1\"]\noffloads = true\nfollow_link = \"a\"\npromiscuous = 1",
        ),
        &[
            "f.toml:7: port.addresses = [\"10.0.0.1\"]: works only with socket; remove it",
            "f.toml:8: port.offloads = true: works only with socket; remove it",
            "f.toml:9: port.follow_link = \"a\": works only with socket; remove it",
            "f.toml:10: port.promiscuous = 1: must be true or false, not a whole number; write true or false, without quotes",
        ],
    );
    mistakes(
        &port("socket = \"/s\"\npromiscuous = true"),
        &["f.toml:7: port.promiscuous = true: works only with device; remove it"],
    );
}

#[test]
fn places_of_sockets() {
    let device = "device = \"net_null0\"\nsocket_root = \"/\"\nowner = \"1:1\"\nlabel = \"x\"\ndescription = \"x\"";
    mistakes(
        &port(device),
        &[
            "f.toml:7: port.socket_root = \"/\": works only with socket; remove it",
            "f.toml:8: port.owner = \"1:1\": works only with socket; remove it",
            "f.toml:9: port.label = \"x\": works only with socket; remove it",
        ],
    );
    let remedy = "name the folder that holds all that is not to be trusted, such as the pod's volume";
    for root in ["/pods/a/s", "/pods/a/s/t", "/pods/ab", "/pods/b"] {
        mistakes(
            &port(&format!("socket = \"/pods/a/s\"\nsocket_root = \"{root}\"")),
            &[&format!("f.toml:7: port.socket_root = \"{root}\": is no folder above the socket /pods/a/s; {remedy}")],
        );
    }
    for root in ["/", "/pods", "/pods/a/"] {
        parse(&port(&format!("socket = \"/pods/a/s\"\nsocket_root = \"{root}\""))).unwrap();
    }
    mistakes(
        &port("socket = \"/s\"\nowner = \"qemu:qemu\"\nlabel = \"a b\"\ndescription = \"\""),
        &[
            "f.toml:7: port.owner = \"qemu:qemu\": is no user and group by number; write them with a colon between, like \"107:107\"",
            "f.toml:8: port.label = \"a b\": is no SELinux label; write it like \"system_u:object_r:container_file_t:s0\"",
            "f.toml:9: port.description = \"\": has not 1 to 200 bytes; shorten it, or remove the key",
        ],
    );
    assert!(parse(&port(&format!("socket = \"/s\"\ndescription = \"{}\"", "x".repeat(201)))).is_err());
    assert!(parse(&port(&format!("socket = \"/s\"\ndescription = \"{}\"", "x".repeat(200)))).is_ok());
    assert!(parse(&port("device = \"net_null0\"\ndescription = \"the way out\"")).is_ok());
}

#[test]
fn followed_links() {
    let second = "[[port]]\nname = \"b\"\nnetwork = \"blue\"\nsocket = \"/t\"\n";
    for (link, problem) in [
        ("b", "is no port with a device; name the port whose link is to be followed"),
        ("uplink0", "is no port of this file; add a [[port]] section with name = \"uplink0\""),
    ] {
        mistakes(
            &port(&format!("socket = \"/s\"\nfollow_link = \"{link}\"\n{second}")),
            &[&format!("f.toml:7: port.follow_link = \"{link}\": {problem}")],
        );
    }
    // A port that is there, but wrong, is no second mistake.
    let broken = "[[port]]\nname = \"up\"\nnetwork = \"blue\"\ndevice = \"eth0\"\n";
    let found = parse(&port(&format!("socket = \"/s\"\nfollow_link = \"up\"\n{broken}"))).unwrap_err();
    assert_eq!(found.len(), 1, "{found:?}");
}

#[test]
fn pod_values() {
    let pod = |lines: &str| format!("[[pod]]\n{lines}");
    let whole = "name = \"d\"\nfolders = [\"/a\", \"/b/\"]\nnetns = \"/n\"\ntap = \"tap0\"\ndescription = \"x\"";
    let read = parse(&pod(whole)).unwrap().objects.pods;
    let folders = vec!["/a".into(), "/b".into()];
    let (netns, tap, description) = (Some("/n".into()), Some("tap0".to_owned()), Some("x".to_owned()));
    assert_eq!(read[0].wanted, Pod { name: name("d"), folders, netns, tap, description });
    mistakes(
        &pod("tap = \"a b\"\nnetns = \"n\""),
        &[
            "f.toml:1: pod.name: is missing; add a line such as name = \"launcher-a\"",
            "f.toml:1: pod.folders: is missing; add a line such as folders = [\"/run/culvert/pods/a\"]",
            "f.toml:2: pod.tap = \"a b\": is no name of a network interface; write 1 to 15 bytes without / and :, like \"tap0\"",
            "f.toml:3: pod.netns = \"n\": is not an absolute path; start it with /, like \"/var/run/netns/a\"",
        ],
    );
    let long = "x".repeat(201);
    mistakes(
        &pod(&format!("name = \"d\"\nfolders = [\"/a\", \"/a\", \"/../b\"]\ntap = \"t\"\ndescription = \"{long}\"")),
        &[
            "f.toml:3: pod.folders = \"/../b\": contains \"..\"; write the path without it",
            "f.toml:3: pod.folders = \"/a\": names this folder twice; write each folder once",
            "f.toml:4: pod.tap = \"t\": is looked for in no namespace; add its namespace, such as netns = \"/var/run/netns/a\"",
            &format!("f.toml:5: pod.description = \"{}...: is longer than 200 bytes; shorten it", "x".repeat(59)),
        ],
    );
    let many: Vec<_> = (0..9).map(|number| format!("\"/{number}\"")).collect();
    let found = parse(&pod(&format!("name = \"d\"\nfolders = [{}]", many.join(", ")))).unwrap_err();
    assert!(found[0].to_string().contains("names more than 8 folders; make several pods"), "{}", found[0]);
    let same = "[[pod]]\nname = \"d\"\nfolders = []";
    mistakes(
        &format!("{}\n{same}", pod("name = \"d\"\nfolders = [\"/a\"]")),
        &[
            "f.toml:5: pod.name = \"d\": is the pod name of line 2 as well; give each pod a name of its own",
            "f.toml:6: pod.folders = []: names no folder; write at least one, like [\"/run/culvert/pods/a\"]",
        ],
    );
}

#[test]
fn mirror_values() {
    let mirror = |lines: &str| {
        let b = "[[port]]\nname = \"b\"\nnetwork = \"blue\"\nsocket = \"/t\"";
        port(&format!("socket = \"/s\"\n{b}\n[[mirror]]\n{lines}"))
    };
    parse(&mirror("name = \"m\"\nfrom = [\"a\"]\nto = \"b\"")).unwrap();
    mistakes(
        &mirror("direction = \"in\""),
        &[
            "f.toml:11: mirror.name: is missing; add a line such as name = \"mirror-a\"",
            "f.toml:11: mirror.from: is missing; add a line such as from = [\"vm-a\"]",
            "f.toml:11: mirror.to: is missing; add a line such as to = \"probe\"",
            "f.toml:12: mirror.direction = \"in\": is none of the choices; write \"both\", \"rx\" or \"tx\"",
        ],
    );
    mistakes(
        &mirror("name = \"m\"\nfrom = [\"a\", \"a\", \"b\"]\nto = \"b\""),
        &[
            "f.toml:13: mirror.from = \"a\": names this port twice; write each port once",
            "f.toml:13: mirror.from = \"b\": is the port in `to` as well; copy the frames to another port",
        ],
    );
    mistakes(
        &mirror("name = \"m\"\nfrom = []\nto = \"vm-c\""),
        &[
            "f.toml:13: mirror.from = []: names no port; write at least one, like [\"vm-a\"]",
            "f.toml:14: mirror.to = \"vm-c\": is no port of this file; add a [[port]] section with name = \"vm-c\"",
        ],
    );
    let second = "[[mirror]]\nname = \"m\"\nfrom = [\"b\"]\nto = \"a\"";
    mistakes(
        &mirror(&format!("name = \"m\"\nfrom = [\"a\"]\nto = \"b\"\n{second}")),
        &[
            "f.toml:13: mirror.from = [\"a\"]: names port a, which gets the frames of a mirror; name ports that have frames of their own",
            "f.toml:16: mirror.name = \"m\": is the mirror name of line 12 as well; give each mirror a name of its own",
            "f.toml:17: mirror.from = [\"b\"]: names port b, which gets the frames of a mirror; name ports that have frames of their own",
        ],
    );
}

/// What clients added at run time.
fn clients(text: &str) -> Objects {
    read_objects(text).unwrap()
}

#[test]
fn a_file_beside_objects_of_clients() {
    let file = port("socket = \"/s\"\nmac = \"02:00:00:00:00:01\"");
    let green = "[[network]]\nname = \"green\"\n";
    let vm = |name: &str, network: &str, lines: &str| {
        format!("[[port]]\nname = \"{name}\"\nnetwork = \"{network}\"\n{lines}\n")
    };
    let beside = |text: &str| parse_beside(&file, &clients(text)).map(|_| ()).unwrap_err();
    let fits = clients(&format!("{green}{}", vm("c", "blue", "socket = \"/c\"")));
    assert_eq!(parse_beside(&file, &fits).unwrap().objects.ports.len(), 1);
    assert_eq!(
        beside(&format!("{green}{}", vm("a", "green", "socket = \"/c\""))),
        [
            "f.toml:4: port.name = \"a\": is the name of a port that was added at run time; choose another name, or remove that one: `culvertctl port del a`"
        ]
    );
    assert_eq!(
        beside(&vm("c", "blue", "socket = \"/s\"\nmac = \"02:00:00:00:00:01\"")),
        [
            "f.toml:6: port.socket = \"/s\": is the socket of port c as well, which was added at run time; give each port a socket of its own",
            "f.toml:7: port.mac = \"02:00:00:00:00:01\": is the address of port c as well, which was added at run time; give each guest of a network an address of its own",
        ]
    );
    assert_eq!(
        beside(&vm("c", "red", "socket = \"/c\"")),
        [
            "f.toml: leaves port c behind, which was added at run time: its network is no network; keep what it needs, or remove it first: `culvertctl port del c`"
        ]
    );
    // The file must be right by itself: it may not name what a client added.
    let red = "[[port]]\nname = \"a\"\nnetwork = \"green\"\nsocket = \"/s\"\n";
    assert_eq!(
        parse_beside(red, &clients(green)).unwrap_err(),
        [
            "f.toml:3: port.network = \"green\": is no network of this file; add a [[network]] section with name = \"green\""
        ]
    );
}

/// A client reads about its mistakes in the words of the file.
#[test]
fn objects_of_clients_have_the_same_mistakes() {
    let read = |kind, keys: &[(&'static str, &str)]| {
        let keys = keys.iter().map(|(key, value)| (*key, (*value).to_owned())).collect();
        let sentences = |mistakes: Vec<_>| mistakes.iter().map(ToString::to_string).collect::<Vec<String>>();
        read_object(kind, &keys).map_err(sentences)
    };
    assert_eq!(
        read(Kind::Port, &[("name", "\"a\""), ("network", "\"blue\""), ("socket", "\"s\""), ("vlan", "4095")]),
        Err(vec![
            "port.socket = \"s\": is not an absolute path; start it with /, like \"/run/culvert/ports/vm-a/vhost.sock\""
                .to_owned(),
            "port.vlan = 4095: is out of range; write a number from 1 to 4094".to_owned(),
        ])
    );
    let port = read(Kind::Port, &[("name", "\"a\""), ("network", "\"bleu\""), ("socket", "\"/s\"")]).unwrap();
    let all = clients("[[network]]\nname = \"blue\"\n").with(port);
    let [(Kind::Port, name, mistake)] = &conflicts(&all, Path::new("/c.sock"))[..] else { panic!("one conflict") };
    assert_eq!(name.as_str(), "a");
    assert_eq!(mistake.to_string(), "port.network = \"bleu\": is no network; did you mean \"blue\"?");
}

#[test]
fn the_number_of_ports_is_limited() {
    let mut text = "[[network]]\nname = \"blue\"\n".to_owned();
    for number in 0..=1024 {
        text.push_str(&format!("[[port]]\nname = \"p{number}\"\nnetwork = \"blue\"\nsocket = \"/s{number}\"\n"));
    }
    mistakes(
        &text,
        &["f.toml:4100: port.name = \"p1024\": is one more than the 1024 ports that there can be; remove a port"],
    );
}

#[test]
fn files_that_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.toml");
    let load =
        |path: &Path| Config::load(path, &machine(), &Objects::default()).map_err(|mistakes| mistakes[0].to_string());
    let name = path.display();
    assert_eq!(
        load(&path),
        Err(format!(
            "{name}: cannot be read: No such file or directory (os error 2); create it, or name another one with --config FILE"
        ))
    );
    std::fs::write(&path, [b'#', 0xff]).unwrap();
    assert!(load(&path).unwrap_err().starts_with(&format!("{name}: is not UTF-8: ")));
    std::fs::write(&path, "#".repeat(MAX_FILE_BYTES)).unwrap();
    load(&path).unwrap();
    std::fs::write(&path, "#".repeat(MAX_FILE_BYTES + 1)).unwrap();
    assert_eq!(
        load(&path),
        Err(format!("{name}: is larger than {MAX_FILE_BYTES} bytes; name culvertd's own configuration"))
    );
}

/// One line of a configuration, right or wrong.
fn line() -> impl Strategy<Value = String> {
    let key = prop::sample::select(vec![
        "name",
        "network",
        "socket",
        "device",
        "role",
        "mac",
        "queues",
        "mtu",
        "mac_limit",
        "mac_age",
        "worker_cores",
        "memory_mb",
        "hugepages",
        "idle_sleep",
        "rebalance",
        "rebalance_interval",
        "rebalance_load",
        "eal_args",
        "control_socket",
        "state_dir",
        "metrics_address",
        "isolation",
        "folders",
        "device_kinds",
        "kubelet_device_plugins",
        "device_owner",
        "device_label",
        "guest_ports",
        "vlan",
        "trunk",
        "native",
        "qinq",
        "addresses",
        "broadcast_limit",
        "rx_rate",
        "tx_burst",
        "tx_frame_rate",
        "tx_frame_burst",
        "isolated",
        "offloads",
        "promiscuous",
        "follow_link",
        "socket_root",
        "owner",
        "label",
        "description",
        "snooping",
        "from",
        "to",
        "direction",
        "x",
        "a.b",
    ]);
    let value = prop_oneof![
        "[ -~]{0,12}".prop_map(|text| format!("{text:?}")),
        any::<i64>().prop_map(|number| number.to_string()),
        (0..20u8).prop_map(|number| number.to_string()),
        prop::sample::select(vec![
            "\"blue\"",
            "\"/s\"",
            "\"net_null0\"",
            "\"listen\"",
            "\"02:00:00:00:00:01\"",
            "\"5s\"",
            "[1]",
            "[]",
            "[10, \"30-39\"]",
            "[\"blue\"]",
            "[\"10.0.0.0/8\", \"fd00::1\"]",
            "{}",
            "[[1], {}]",
            "true",
            "1.5",
            "1979-05-27",
            "nan",
            "\"\\u0000\"",
        ])
        .prop_map(str::to_owned),
    ];
    let section = prop::sample::select(vec![
        "[daemon]",
        "[datapath]",
        "[[network]]",
        "[[port]]",
        "[[mirror]]",
        "[[pod]]",
        "[port]",
        "[[daemon]]",
        "[y.z]",
    ]);
    prop_oneof![3 => (key, value).prop_map(|(key, value)| format!("{key} = {value}")), 1 => section.prop_map(str::to_owned)]
}

proptest! {
    /// Whatever the text, the answer is a configuration or at least one mistake, each on one line of the file.
    #[test]
    fn any_lines_get_an_answer(lines in prop::collection::vec(line(), 0..24)) {
        check_answer(&lines.join("\n"));
    }

    #[test]
    fn any_text_gets_an_answer(text in "\\PC*|[\\[\\]{}a-z=\",.\n#0-9]*") {
        check_answer(&text);
    }
}

fn check_answer(text: &str) {
    match Config::parse(text, "f.toml", &machine(), &Objects::default()) {
        Ok(config) => check_objects(&config.objects),
        Err(mistakes) => {
            assert!(!mistakes.is_empty());
            for mistake in mistakes {
                let line = mistake.line.unwrap();
                assert!(line >= 1 && line <= text.split('\n').count());
                assert!(!mistake.to_string().contains(char::is_control), "{mistake}");
            }
        }
    }
}

/// What was read is consistent, and stays the same when it is written and read again.
fn check_objects(objects: &Objects) {
    let Objects { networks, ports, mirrors, pods } = objects;
    assert!(ports.iter().all(|port| objects.network(&port.wanted.network).is_some()));
    assert!(mirrors.iter().all(|mirror| objects.port(&mirror.wanted.to).is_some()));
    let again = read_objects(&write_objects(objects)).unwrap();
    assert!(again.networks.iter().zip(networks).all(|(one, other)| one.wanted == other.wanted));
    assert!(again.ports.iter().zip(ports).all(|(one, other)| one.wanted == other.wanted));
    assert!(again.mirrors.iter().zip(mirrors).all(|(one, other)| one.wanted == other.wanted));
    assert!(again.pods.iter().zip(pods).all(|(one, other)| one.wanted == other.wanted));
    let lengths =
        |objects: &Objects| (objects.networks.len(), objects.ports.len(), objects.mirrors.len(), objects.pods.len());
    assert_eq!(lengths(&again), lengths(objects));
}

#[test]
fn deep_nesting_gets_an_answer() {
    check_answer(&format!("a = {}", "[".repeat(100_000)));
    check_answer(&format!("a = {}{}", "[".repeat(1_000), "]".repeat(1_000)));
    check_answer(&"{a=".repeat(100_000));
    check_answer(&format!("a{} = 1", ".a".repeat(100_000)));
    check_answer(&format!("[a{}]", ".a".repeat(100_000)));
}
