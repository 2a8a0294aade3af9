//! What a guest is told where its pod is not as usual, and that it works: a routed pod, one without any network, one whose resolver is on
//! its loopback, and one that the guest comes to with another's lease. passt passes all of it (see `culvert_system::translator`).
#![allow(clippy::indexing_slicing, reason = "tests")]

use std::fs;

use anyhow::{Context, Result, ensure};
use culvert_system::dns;
use culvert_system::guest::Guest;
use culvert_system::qemu::Transport;
use culvert_system::rows::Rows;
use culvert_system::traffic::{self, Host};
use culvert_system::translator::{POD, Pod, Translator, WORLD, configure, is_ours};

/// As CNIs do it that route instead of bridging: an address alone, and a gateway that is the same everywhere.
#[test]
fn a_routed_pod() -> Result<()> {
    let (pod, mut rows) = (Pod::new()?, Rows::default());
    let [gateway4, gateway6] = ["169.254.1.1", "fe80::ecee:eeff:feee:eeee"];
    pod.world().ip(&format!("addr add {gateway4}/32 dev pod"))?;
    pod.world().ip(&format!("addr add {gateway6}/64 dev pod"))?;
    let inside = pod.pod();
    inside.ip("addr del 192.0.2.15/24 dev eth0")?;
    inside.ip("addr del 2001:db8:1::15/64 dev eth0")?;
    inside.ip("addr add 192.0.2.15/32 dev eth0")?;
    inside.ip("addr add 2001:db8:1::15/128 dev eth0")?;
    inside.ip(&format!("route add {gateway4} dev eth0 scope link"))?;
    inside.ip(&format!("route add default via {gateway4} dev eth0"))?;
    inside.ip(&format!("-6 route replace default via {gateway6} dev eth0"))?;

    let (mut translator, mut guest) = start(&pod, &format!("-t {INBOUND}"))?;
    let [v4, v6] = configure(&mut guest).with_context(|| translator.last_words())?;
    let told = [v4.value("ip_address"), v4.value("subnet_mask"), v4.value("routers")];
    rows.same("DHCP the pod's address, alone, and its gateway", told, [POD[0], "255.255.255.255", gateway4]);
    rows.same("DHCP6 the pod's address", v6.value("ip6_address"), POD[1]);
    let routes = guest.check("ip -6 route show default")?;
    rows.same("NDP the pod's gateway", routes.split(" dev").next(), Some(&*format!("default via {gateway6}")));
    let (mut outside, mut inside) = (Host::new(pod.world()), Host::new(pod.pod()));
    for family in [0, 1] {
        let version = ["IPv4", "IPv6"][family];
        rows.row(&format!("TCP {version}, guest to world"), || {
            traffic::tcp(&mut guest, &mut outside, WORLD[family], OUTBOUND, BYTES).map(drop)
        });
        rows.row(&format!("TCP {version}, world to guest"), || {
            traffic::tcp(&mut outside, &mut guest, POD[family], INBOUND, BYTES).map(drop)
        });
        let gateway = [gateway4, "fe80::ecee:eeff:feee:eeee%eth0"][family];
        rows.row(&format!("TCP {version}, guest to its gateway"), || {
            traffic::tcp(&mut guest, &mut inside, gateway, OUTBOUND, BYTES).map(drop)
        });
        rows.row(&format!("{version} echo, guest to world"), || {
            let answered = guest.ping(WORLD[family], 3)?;
            ensure!(answered == 3, "{answered} of 3 were answered");
            Ok(())
        });
    }
    end(rows, translator)
}

#[test]
fn a_pod_without_a_network() -> Result<()> {
    let (pod, mut rows) = (Pod::new()?, Rows::default());
    pod.pod().ip("link del eth0")?;
    let (mut translator, mut guest) = start(&pod, &format!("-t {INBOUND}"))?;
    let told = dhcp(&mut guest).with_context(|| translator.last_words())?;
    let value = |name: &str| told.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned();
    rows.same("DHCP an address of the link", value("ip_address="), "169.254.2.1".to_owned());
    rows.same("DHCP a gateway there, too", value("routers="), "169.254.2.2".to_owned());
    rows.row("NDP a router, and no address", || {
        // The guest asks when its interface comes up, and has a link-local address of its own a second later.
        guest.check("until ip -6 route show default | grep -q 'via fe80::1 dev eth0'; do sleep 0.1; done")?;
        let global = guest.check("ip -6 addr show dev eth0 scope global")?;
        ensure!(global.is_empty(), "there is {global}");
        Ok(())
    });
    let mut inside = Host::new(pod.pod());
    for (version, gateway, loopback) in [("IPv4", "169.254.2.2", "127.0.0.1"), ("IPv6", "fe80::1%eth0", "::1")] {
        rows.row(&format!("TCP {version}, guest to its gateway"), || {
            traffic::tcp(&mut guest, &mut inside, gateway, OUTBOUND, BYTES).map(drop)
        });
        rows.row(&format!("TCP {version}, pod's loopback to guest"), || {
            traffic::tcp(&mut inside, &mut guest, loopback, INBOUND, BYTES).map(drop)
        });
    }
    end(rows, translator)
}

#[test]
fn a_pod_with_a_resolver_on_its_loopback() -> Result<()> {
    let (pod, mut rows) = (Pod::new()?, Rows::default());
    fs::write(pod.path("resolv.conf"), "nameserver 127.0.0.53\noptions edns0 trust-ad\n")?;
    dns::serve(pod.pod(), "127.0.0.53:53")?;
    let (mut translator, mut guest) = start(&pod, "-4")?;
    let told = dhcp(&mut guest).with_context(|| translator.last_words())?;
    let resolvers = told.lines().find_map(|line| line.strip_prefix("domain_name_servers="));
    rows.same("DHCP the gateway is the resolver", resolvers, Some("192.0.2.1"));
    rows.row("a name is resolved there", || guest.check("nslookup -type=a www.culvert.test 192.0.2.1").map(drop));
    rows.row("no IPv6 was told of", || {
        let routes = guest.check("ip -6 route show default")?;
        ensure!(routes.is_empty(), "there is {routes}");
        Ok(())
    });
    end(rows, translator)
}

/// RFC 2131, section 4.3.2: a guest that was moved here asks for the address that it had.
#[test]
fn a_guest_with_the_lease_of_another_pod() -> Result<()> {
    let (pod, mut rows) = (Pod::new()?, Rows::default());
    let (mut translator, mut guest) = start(&pod, "-4")?;
    let lease = "lease { interface \"eth0\"; fixed-address 10.9.9.9; option subnet-mask 255.255.255.0; \
                 option dhcp-server-identifier 10.9.9.1; expire never; }";
    guest.check(&format!("mkdir -p /tmp/lease; echo '{lease}' >/tmp/lease/4"))?;
    let told = dhcp(&mut guest).with_context(|| translator.last_words())?;
    if is_ours() {
        rows.same("DHCP the other address is refused", told.contains("DHCPNAK from 192.0.2.1"), true);
    }
    rows.same("DHCP the pod's address takes its place", told.contains("\nip_address=192.0.2.15\n"), true);
    let addresses = guest.check("ip -4 addr show dev eth0")?;
    rows.same("it is the only one", addresses.matches("inet ").count(), 1);
    end(rows, translator)
}

/// A translator and a guest that has booted.
fn start(pod: &Pod, options: &str) -> Result<(Translator, Guest)> {
    let mut translator = pod.translator("vm", Transport::Stream, options)?;
    let mut guest = translator.guest("vm", 1).boot()?;
    guest.wait_booted().with_context(|| translator.last_words())?;
    println!();
    Ok((translator, guest))
}

/// Brings up a guest's interface with IPv4 from DHCP. Returns what the server sent, as `NAME=VALUE` lines.
fn dhcp(guest: &mut Guest) -> Result<String> {
    guest.check("echo 1 >/proc/sys/net/ipv6/conf/eth0/accept_ra; mkdir -p /tmp/lease; ip link set eth0 up")?;
    guest.check("timeout 40 dhclient -4 -1 -v -pf /tmp/lease/pid -lf /tmp/lease/4 -sf /bin/guest-lease eth0 2>&1")
}

fn end(rows: Rows, mut translator: Translator) -> Result<()> {
    let log = translator.console().transcript();
    translator.stop()?;
    rows.end().with_context(|| format!("the translator's log:\n{log}"))
}

/// A port that is forwarded to the guest, and one on which others than the guest receive.
const INBOUND: u16 = 10001;
const OUTBOUND: u16 = 10003;

/// For one connection.
const BYTES: u64 = 1_000_000;
