//! What a guest sees of its translator, row by row: addresses from DHCP, router advertisements and DHCPv6; TCP, UDP and echo in every
//! direction; the end. With a guest in QEMU over vhost-user, and over QEMU's stream socket. passt passes all of it (see
//! `culvert_system::translator`).
#![allow(clippy::indexing_slicing, reason = "tests")]

use anyhow::{Context, Result, ensure};
use culvert_system::guest::Guest;
use culvert_system::qemu::Transport;
use culvert_system::rows::Rows;
use culvert_system::traffic::{self, Host};
use culvert_system::translator::{GATEWAYS, Lease, POD, Pod, RESOLVERS, SEARCH, WORLD, configure};

#[test]
fn guest_and_pod_over_vhost_user() -> Result<()> {
    guest_and_pod(Transport::VhostUser)
}

#[test]
fn guest_and_pod_over_the_stream_socket() -> Result<()> {
    guest_and_pod(Transport::Stream)
}

#[test]
fn guest_pod_and_world_over_vhost_user() -> Result<()> {
    guest_pod_and_world(Transport::VhostUser)
}

#[test]
fn guest_pod_and_world_over_the_stream_socket() -> Result<()> {
    guest_pod_and_world(Transport::Stream)
}

/// With the mapping that is the default: the guest's gateway is the pod's loopback.
fn guest_and_pod(transport: Transport) -> Result<()> {
    let (pod, mut rows) = (Pod::new()?, Rows::default());
    let options = format!("-H hostname1 --fqdn fqdn1.passt.test -t {INBOUND} -u {INBOUND}");
    let mut translator = pod.translator("vm", transport, &options)?;
    let mut guest = translator.guest("vm", 1).boot()?;
    guest.wait_booted()?;
    println!();
    let leases = configure(&mut guest).with_context(|| translator.last_words())?;
    addresses(&mut rows, &mut guest, &leases)?;
    for (family, number) in [(0, 1), (1, 5)] {
        let (version, loopback) = (["IPv4", "IPv6"][family], ["127.0.0.1", "::1"][family]);
        for (size, bytes, number) in [("big", BIG, number), ("small", SMALL, number + 1)] {
            rows.row(&format!("TCP-{number} {version}, pod's loopback to guest, {size}"), || {
                traffic::tcp(&mut Host::new(pod.pod()), &mut guest, loopback, INBOUND, bytes).map(drop)
            });
            rows.row(&format!("TCP-{} {version}, guest to its gateway, {size}", number + 2), || {
                traffic::tcp(&mut guest, &mut Host::new(pod.pod()), GATEWAY_SEEN[family], OUTBOUND, bytes).map(drop)
            });
        }
        rows.row(&format!("UDP-{} {version}, pod's loopback to guest", number / 4 * 2 + 1), || {
            traffic::udp(&mut Host::new(pod.pod()), &mut guest, loopback, INBOUND, MEDIUM, DATAGRAM).map(drop)
        });
        rows.row(&format!("UDP-{} {version}, guest to its gateway", number / 4 * 2 + 2), || {
            traffic::udp(&mut guest, &mut Host::new(pod.pod()), GATEWAY_SEEN[family], OUTBOUND, MEDIUM, DATAGRAM)
                .map(drop)
        });
    }
    let told = translator.told();
    rows.row("END-1 SIGTERM ends it, with status 0", || {
        let status = translator.stop()?;
        ensure!(status.success(), "it ended with {status}");
        Ok(())
    });
    rows.end().with_context(|| format!("the translator tells:\n{told}"))
}

/// What the guest was told, and has made of it.
fn addresses(rows: &mut Rows, guest: &mut Guest, [v4, v6]: &[Lease; 2]) -> Result<()> {
    let domains = SEARCH.map(|domain| format!("{domain}.")).join(" ");
    rows.same("DHCP-1 the pod's address", v4.value("ip_address"), POD[0]);
    rows.same("DHCP-1 its subnet", v4.value("subnet_mask"), "255.255.255.0");
    rows.same("DHCP-2 the pod's gateway", v4.value("routers"), GATEWAYS[0]);
    let shown = guest.check("cat /sys/class/net/eth0/mtu")?;
    rows.same("DHCP-3 the largest MTU", (v4.value("interface_mtu"), shown.trim()), ("65520", "65520"));
    rows.same("DHCP-4 resolvers", v4.value("domain_name_servers"), &RESOLVERS[..2].join(" "));
    rows.same("DHCP-5 search list", v4.value("domain_search"), &domains);
    rows.same("DHCP-6 host name", v4.value("host_name"), "hostname1");
    rows.same("DHCP-7 domain name", v4.value("fqdn_fqdn"), "fqdn1.passt.test");
    rows.same("DHCP a lease without an end", v4.value("dhcp_lease_time"), "4294967295");

    let given = (v6.value("ip6_address"), v6.value("ip6_prefixlen"));
    rows.same("DHCP6-1 the pod's address, alone", given, (POD[1], "128"));
    let routes = guest.check("ip -6 route show default")?;
    let via = format!("default via {} dev eth0 proto ra", GATEWAYS[1]);
    let one = routes.lines().count() == 1 && routes.starts_with(&via);
    rows.same("DHCP6-2 one default route", (one, &routes), (true, &routes));
    rows.same("DHCP6-3 resolvers", v6.value("dhcp6_name_servers"), &RESOLVERS[2..].join(" "));
    rows.same("DHCP6-4 search list", v6.value("dhcp6_domain_search"), &domains);
    rows.same("DHCP6-5 domain name", v6.value("fqdn_fqdn"), "fqdn1.passt.test");
    rows.same("DHCP6 an address without an end", v6.value("max_life"), "4294967295");

    let shown = guest.check("ip -6 addr show dev eth0 scope global dynamic")?;
    rows.same("NDP-1 an address in the pod's /64", shown.contains("inet6 2001:db8:1::ff:fe00:1/64"), true);
    rows.same("NDP-2 the pod's gateway", routes.starts_with(&via), true);
    Ok(())
}

/// With mappings of their own for the pod's loopback and its address, so that the gateway is nobody but itself.
fn guest_pod_and_world(transport: Transport) -> Result<()> {
    let (pod, mut rows) = (Pod::new()?, Rows::default());
    let [[loopback4, own4], [loopback6, own6]] = MAPPED;
    let options = format!(
        "-t {INBOUND} -u {INBOUND} --map-host-loopback {loopback4} --map-host-loopback {loopback6} \
         --map-guest-addr {own4} --map-guest-addr {own6}"
    );
    let mut translator = pod.translator("vm", transport, &options)?;
    let mut guest = translator.guest("vm", 1).boot()?;
    guest.wait_booted()?;
    println!();
    configure(&mut guest).with_context(|| translator.last_words())?;
    let (mut inside, mut outside) = (Host::new(pod.pod()), Host::new(pod.world()));
    for family in [0, 1] {
        let version = ["IPv4", "IPv6"][family];
        for (what, bytes) in [("TCP big", BIG), ("TCP small", SMALL), ("UDP", MEDIUM)] {
            let send = |from: &mut dyn traffic::Endpoint, to: &mut dyn traffic::Endpoint, address: &str, port: u16| {
                if what == "UDP" {
                    traffic::udp(from, to, address, port, bytes, DATAGRAM).map(drop)
                } else {
                    traffic::tcp(from, to, address, port, bytes).map(drop)
                }
            };
            let mut row = |name: &str, action: &mut dyn FnMut() -> Result<()>| {
                rows.row(&format!("NS-{what} {version}, {name}"), action);
            };
            row("world to guest", &mut || send(&mut outside, &mut guest, POD[family], INBOUND));
            row("guest to world", &mut || send(&mut guest, &mut outside, WORLD[family], OUTBOUND));
            row("pod's loopback to guest", &mut || {
                send(&mut inside, &mut guest, ["127.0.0.1", "::1"][family], INBOUND)
            });
            row("pod's address to guest", &mut || send(&mut inside, &mut guest, POD[family], INBOUND));
            row("guest to pod's loopback", &mut || send(&mut guest, &mut inside, MAPPED[family][0], OUTBOUND));
            row("guest to pod's address", &mut || send(&mut guest, &mut inside, MAPPED[family][1], OUTBOUND));
        }
        let targets = [("world", WORLD[family]), ("pod's loopback", MAPPED[family][0]), ("pod", MAPPED[family][1])];
        for (name, address) in targets {
            rows.row(&format!("ICMP-{} {version} echo, guest to {name}", family + 1), || {
                let answered = guest.ping(address, 3)?;
                ensure!(answered == 3, "{answered} of 3 were answered");
                Ok(())
            });
        }
    }
    let told = translator.told();
    translator.stop()?;
    rows.end().with_context(|| format!("the translator tells:\n{told}"))
}

/// The gateways as the guest has to write them.
const GATEWAY_SEEN: [&str; 2] = [GATEWAYS[0], "fe80::1%eth0"];

/// Where the guest finds the pod's loopback and the pod's own address, by family.
const MAPPED: [[&str; 2]; 2] = [["192.0.2.250", "192.0.2.251"], ["2001:db8:1::250", "2001:db8:1::251"]];

/// A port that is forwarded to the guest, and one on which others than the guest receive.
const INBOUND: u16 = 10001;
const OUTBOUND: u16 = 10003;

/// Bytes of a transfer.
const BIG: u64 = 8 << 20;
const MEDIUM: u64 = 512 << 10;
const SMALL: u64 = 2048;

/// Bytes in a datagram.
const DATAGRAM: u32 = 1400;
