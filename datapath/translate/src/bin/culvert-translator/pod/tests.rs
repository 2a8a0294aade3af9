//! Tests of what is taken from the pod: choices from lists of addresses and routes, and a real network namespace.

use std::process::Command;

use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::*;

fn address(interface: u32, net: &str) -> Address {
    Address { interface, net: net.parse().unwrap(), global: true, unfit: false }
}

fn default_route(interface: u32, gateway: &str, metric: u32) -> Route {
    let gateway: IpAddr = gateway.parse().unwrap();
    Route { is_v6: gateway.is_ipv6(), is_default: true, interface, gateway: Some(gateway), source: None, metric }
}

fn link_route(interface: u32) -> Route {
    Route { is_v6: false, is_default: false, interface, gateway: None, source: None, metric: 0 }
}

fn found_v4(asked: Option<u32>, addresses: &[Address], routes: &[Route]) -> Option<(u32, String)> {
    let found = uplink(false, asked, addresses, routes)?;
    Some((found.index, format!("{}/{} {:?}", found.address, found.prefix, found.gateway.map(|ip| ip.to_string()))))
}

#[test]
fn the_interface_with_the_best_default_route_is_taken() {
    let addresses = [address(2, "192.0.2.2/24"), address(3, "198.51.100.2/24"), address(4, "203.0.113.2/24")];
    let routes = [
        default_route(2, "192.0.2.1", 100),
        default_route(3, "198.51.100.1", 50),
        default_route(4, "203.0.113.1", 50),
        link_route(2),
    ];
    let found = found_v4(None, &addresses, &routes);
    assert_eq!(found, Some((3, "198.51.100.2/24 Some(\"198.51.100.1\")".to_owned())));
    let found = found_v4(Some(2), &addresses, &routes);
    assert_eq!(found, Some((2, "192.0.2.2/24 Some(\"192.0.2.1\")".to_owned())));
    // Its routes are of the other family.
    assert_eq!(uplink(true, None, &addresses, &routes), None);
}

#[test]
fn without_a_default_route_the_only_interface_with_routes_is_taken() {
    let addresses = [address(2, "192.0.2.2/24"), address(3, "198.51.100.2/24")];
    let one = found_v4(None, &addresses, &[link_route(3), link_route(3)]);
    assert_eq!(one, Some((3, "198.51.100.2/24 None".to_owned())));
    assert_eq!(found_v4(None, &addresses, &[link_route(3), link_route(2)]), None);
    assert_eq!(found_v4(None, &addresses, &[]), None);
    assert_eq!(found_v4(None, &[], &[link_route(3)]), None);
}

#[test]
fn the_first_fit_global_address_is_taken_or_the_one_that_the_route_prefers() {
    let addresses = [
        Address { global: false, ..address(2, "169.254.9.9/16") },
        Address { unfit: true, ..address(2, "192.0.2.9/24") },
        address(2, "192.0.2.2/32"),
        address(2, "192.0.2.3/24"),
    ];
    let route = default_route(2, "169.254.1.1", 0);
    let found = found_v4(None, &addresses, &[route]);
    assert_eq!(found, Some((2, "192.0.2.2/32 Some(\"169.254.1.1\")".to_owned())));
    let route = Route { source: Some(IpAddr::from([192, 0, 2, 3])), ..route };
    let found = found_v4(None, &addresses, &[route]);
    assert_eq!(found, Some((2, "192.0.2.3/24 Some(\"169.254.1.1\")".to_owned())));
    // Better one that is not global than none.
    let found = found_v4(None, &addresses[..1], &[link_route(2)]);
    assert_eq!(found, Some((2, "169.254.9.9/16 None".to_owned())));
}

#[test]
fn an_address_that_ipv6_was_assigned_comes_before_those_made_up() {
    let addresses = [address(2, "fe80::1/64"), address(2, "2001:db8::ff:fe00:1/64"), address(2, "2001:db8::15/128")];
    let route = default_route(2, "fe80::9", 1024);
    let found = uplink(true, None, &addresses, &[route]).unwrap();
    assert_eq!((found.address, found.prefix), ("2001:db8::15".parse().unwrap(), 128));
    assert_eq!((found.link_local, found.gateway), (Some("fe80::1".parse().unwrap()), route.gateway));
    let found = uplink(true, None, &addresses[..2], &[route]).unwrap();
    assert_eq!(found.address, "2001:db8::ff:fe00:1".parse::<IpAddr>().unwrap());
    assert_eq!(uplink(true, None, &addresses[..1], &[route]), None);
}

/// Reads a network namespace in which `ip` was run with each of `commands`. Needs root, as `ci/isolated` gives it.
fn read_namespace(commands: &[&str], wanted: &Wanted) -> Result<Pod, ReadError> {
    let commands: Vec<String> = commands.iter().map(|command| (*command).to_owned()).collect();
    let wanted = wanted.clone();
    std::thread::spawn(move || {
        enter_new_namespace();
        for command in commands {
            let status = Command::new("ip").args(command.split(' ')).status().expect("iproute2");
            assert!(status.success(), "ip {command}");
        }
        read(&wanted)
    })
    .join()
    .unwrap()
}

#[expect(unsafe_code, reason = "rustix calls all kinds of unshare unsafe")]
fn enter_new_namespace() {
    // SAFETY: descriptors, which unshare could make this thread alone have, stay shared: only the network is left.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("root's rights: run this in ci/isolated");
}

#[test]
fn a_pod_of_an_ordinary_network() {
    let commands = [
        "link set lo up",
        "link add eth0 type veth peer name other",
        "link set eth0 up",
        "link set other up",
        "addr add 10.244.1.7/24 dev eth0",
        "route add default via 10.244.1.1",
        "addr add fd00:1::7/64 dev eth0 nodad",
        "-6 route add default via fd00:1::1",
    ];
    let pod = read_namespace(&commands, &Wanted::default()).unwrap();
    let v4 = pod.v4.unwrap();
    assert_eq!((v4.interface.as_str(), v4.address, v4.prefix), ("eth0", [10, 244, 1, 7].into(), 24));
    assert_eq!(v4.gateway, Some([10, 244, 1, 1].into()));
    let v6 = pod.v6.unwrap();
    assert_eq!((v6.interface.as_str(), v6.address, v6.prefix), ("eth0", "fd00:1::7".parse().unwrap(), 64));
    assert_eq!((v6.gateway, v6.index), (Some("fd00:1::1".parse().unwrap()), v4.index));
    assert!(v6.link_local.unwrap().is_unicast_link_local());
    assert!(pod.addresses.contains(&IpAddr::from([10, 244, 1, 7])));
    assert!(!pod.addresses.contains(&IpAddr::from([127, 0, 0, 1])));
}

#[test]
fn a_pod_of_a_routed_network() {
    let commands = [
        "link add eth0 type veth peer name other",
        "link set eth0 up",
        "link set other up",
        "addr add 10.1.2.3/32 dev eth0",
        "route add 169.254.1.1 dev eth0 scope link",
        "route add default via 169.254.1.1 dev eth0",
        "addr add fd00:1::7/128 dev eth0 nodad",
        "-6 route add default via fe80::ecee:eeff:feee:eeee dev eth0",
    ];
    let pod = read_namespace(&commands, &Wanted::default()).unwrap();
    let v4 = pod.v4.unwrap();
    assert_eq!((v4.address, v4.prefix, v4.gateway), ([10, 1, 2, 3].into(), 32, Some([169, 254, 1, 1].into())));
    let v6 = pod.v6.unwrap();
    let gateway = Some("fe80::ecee:eeff:feee:eeee".parse().unwrap());
    assert_eq!((v6.address, v6.prefix, v6.gateway), ("fd00:1::7".parse().unwrap(), 128, gateway));
}

#[test]
fn a_pod_with_several_next_hops_and_interfaces() {
    let commands = [
        "link add eth0 type veth peer name eth1",
        "link set eth0 up",
        "link set eth1 up",
        "addr add 192.0.2.2/24 dev eth0",
        "addr add 198.51.100.2/24 dev eth1",
        "route add default nexthop via 192.0.2.1 weight 1 nexthop via 198.51.100.1 weight 9",
        "route add unreachable 203.0.113.0/24",
    ];
    let pod = read_namespace(&commands, &Wanted::default()).unwrap();
    let v4 = pod.v4.unwrap();
    assert_eq!((v4.interface.as_str(), v4.gateway), ("eth1", Some([198, 51, 100, 1].into())));
    let wanted = Wanted { interface: Some("eth0".to_owned()), ..Wanted::default() };
    let pod = read_namespace(&commands, &wanted).unwrap();
    assert_eq!(pod.v4.unwrap().address, Ipv4Addr::new(192, 0, 2, 2));
    let wanted = Wanted { outbound_interface4: Some("eth1".to_owned()), ..Wanted::default() };
    let pod = read_namespace(&commands, &wanted).unwrap();
    assert_eq!(pod.v4.unwrap().address, Ipv4Addr::new(198, 51, 100, 2));
}

#[test]
fn a_pod_without_any_network() {
    let pod = read_namespace(&["link set lo up"], &Wanted::default()).unwrap();
    assert_eq!((pod.v4, pod.v6, pod.addresses), (None, None, Vec::new()));
    let wanted = Wanted { interface: Some("eth7".to_owned()), ..Wanted::default() };
    let error = read_namespace(&[], &wanted).unwrap_err().to_string();
    assert!(error.starts_with("there is no interface \"eth7\" to take addresses from:"), "{error}");
}

#[test]
fn more_addresses_than_one_answer_of_the_kernel_holds() {
    let mut commands = vec!["link add eth0 type veth peer name other".to_owned()];
    commands.extend((1..=250).map(|last| format!("addr add 192.0.2.{last}/32 dev eth0")));
    let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    let pod = read_namespace(&commands, &Wanted::default()).unwrap();
    assert_eq!(pod.addresses.iter().filter(|address| address.is_ipv4()).count(), 250);
}
