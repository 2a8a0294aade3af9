//! Random objects of clients that keep all rules, of so few names that random ones meet.

use std::path::Path;

use culvertd::change::admit;
use culvertd::config::{Objects, read_objects, write_objects};
use proptest::prelude::*;

/// A control socket that no port has.
pub const CONTROL_SOCKET: &str = "/run/c.sock";

/// The objects of a text of sections.
pub fn read(text: &str) -> Objects {
    read_objects(text).unwrap_or_else(|mistakes| panic!("{}\n{text}", mistakes[0]))
}

fn network() -> impl Strategy<Value = String> {
    (0..3u8, 1..4u8, any::<bool>(), 1..500u16).prop_map(|(name, age, snooping, guest_ports)| {
        format!(
            "[[network]]\nname = \"n{name}\"\nmac_age = \"{age}00s\"\nsnooping = {snooping}\nguest_ports = \
             {guest_ports}\n"
        )
    })
}

fn guest() -> impl Strategy<Value = String> {
    let keys = prop::sample::subsequence(
        vec![
            "role = \"connect\"",
            "addresses = [\"10.0.0.1\", \"fd00::/64\"]",
            "offloads = false",
            "follow_link = \"p0\"",
            "queues = 2",
            "mtu = 9000",
            "mac_limit = 5",
            "broadcast_limit = 7",
            "unknown_limit = 8",
            "rx_rate = \"1.25gbit\"\nrx_burst = 9000",
            "rx_frame_rate = 10",
            "tx_rate = \"8001bit\"",
            "tx_frame_rate = 12\ntx_frame_burst = 13",
            "isolated = true",
            "socket_root = \"/\"",
            "owner = \"107:107\"",
            "label = \"a:b:c\"",
            "description = \"it's \\\"mine\\\"\"",
        ],
        0..18,
    );
    let vlans =
        prop::sample::select(vec!["", "vlan = 10", "vlan = 4094\nqinq = true", "trunk = [1, \"3-9\"]\nnative = 5"]);
    let mac = prop::option::of(1..4u8);
    (1..6u8, 0..3u8, 0..4u8, mac, keys, vlans).prop_map(|(name, network, socket, mac, keys, vlans)| {
        let mac = mac.map(|mac| format!("mac = \"02:00:00:00:00:0{mac}\"")).unwrap_or_default();
        let place = format!("network = \"n{network}\"\nsocket = \"/s{socket}\"");
        format!("[[port]]\nname = \"p{name}\"\n{place}\n{mac}\n{}\n{vlans}\n", keys.join("\n"))
    })
}

fn nic() -> impl Strategy<Value = String> {
    (0..2u8, 0..3u8, 0..3u8, any::<bool>()).prop_map(|(name, network, device, promiscuous)| {
        let place = format!("network = \"n{network}\"\ndevice = \"net_null{device}\"");
        format!("[[port]]\nname = \"p{name}\"\n{place}\npromiscuous = {promiscuous}\n")
    })
}

fn mirror() -> impl Strategy<Value = String> {
    let direction = prop::sample::select(vec!["both", "rx", "tx"]);
    (0..2u8, 1..4u8, 4..6u8, direction).prop_map(|(name, from, to, direction)| {
        format!("[[mirror]]\nname = \"m{name}\"\nfrom = [\"p{from}\"]\nto = \"p{to}\"\ndirection = \"{direction}\"\n")
    })
}

fn pod() -> impl Strategy<Value = String> {
    let keys = vec!["description = \"of vm-a\"", "netns = \"/n\"", "netns = \"/n\"\ntap = \"tap0\"", ""];
    (0..3u8, 0..2u8, prop::sample::select(keys)).prop_map(|(name, folder, keys)| {
        format!("[[pod]]\nname = \"d{name}\"\nfolders = [\"/f{folder}\", \"/g\"]\n{keys}\n")
    })
}

/// Any objects that keep the rules. Each was written and read once.
pub fn objects() -> impl Strategy<Value = Objects> {
    let networks = prop::collection::vec(network(), 0..4);
    let (guests, nics) = (prop::collection::vec(guest(), 0..6), prop::collection::vec(nic(), 0..2));
    let mirrors = prop::collection::vec(mirror(), 0..3);
    let pods = prop::collection::vec(pod(), 0..3);
    (networks, guests, nics, mirrors, pods).prop_map(|(networks, guests, nics, mirrors, pods)| {
        let text = [networks, nics, guests, mirrors, pods].concat().concat();
        // What breaks a rule is left out, as after a restart.
        let (objects, _) = admit(Objects::default(), read(&text), Path::new(CONTROL_SOCKET));
        assert_eq!(read(&write_objects(&objects)), objects);
        objects
    })
}
