//! What options change for a guest: addresses of its own, the MTU, names, whence it comes and where it is found. passt passes all of it.

use anyhow::{Context, Result, ensure};
use culvert_system::dns;
use culvert_system::qemu::Transport;
use culvert_system::rows::Rows;
use culvert_system::traffic::{Endpoint, Host};
use culvert_system::translator::{POD, Pod, WORLD, lease};

#[test]
fn a_guest_with_addresses_and_rules_of_its_own() -> Result<()> {
    let (pod, mut rows) = (Pod::new()?, Rows::default());
    pod.pod().ip("addr add 192.0.2.16/24 dev eth0")?;
    dns::serve(pod.world(), &format!("{}:53", WORLD[0]))?;
    let mut translator = pod.translator("vm", Transport::VhostUser, OPTIONS)?;
    let mut guest = translator.guest("vm", 1).boot()?;
    guest.wait_booted()?;
    println!();
    guest.check("ip link set eth0 up")?;
    let given = lease(&mut guest, 4).with_context(|| translator.last_words())?;
    let address = ["ip_address", "subnet_mask", "routers"].map(|name| given.value(name));
    rows.same("-a, -n, -g", address, ["10.1.1.5", "255.255.255.0", "10.1.1.1"]);
    rows.same("-m", given.value("interface_mtu"), "1400");
    rows.same("-S none", given.value("domain_search"), "");
    rows.row("-M", || {
        let (neighbour, _) = guest.run("ping -c 1 -W 1 10.1.1.1; ip neigh show 10.1.1.1")?;
        ensure!(neighbour.contains("02:00:00:00:11:11"), "it is {neighbour}");
        Ok(())
    });
    rows.row("--dns-forward", || {
        let (found, _) = guest.run("nslookup www.culvert.test 10.1.1.53")?;
        ensure!(found.contains(WORLD[0]), "it found:\n{found}");
        Ok(())
    });
    rows.row("-o is whence connections come", || {
        let listener = pod.world().listen(&format!("{}:10005", WORLD[0]))?;
        guest.send(&format!("timeout 5 guest-traffic send {} 10005 1 2>/dev/null", WORLD[0]))?;
        let (stream, from) = listener.accept()?;
        drop(stream);
        guest.finish()?;
        ensure!(from.ip().to_string() == "192.0.2.16", "they come from {from}");
        Ok(())
    });
    rows.row("--no-map-gw: the gateway is not the pod's loopback", || {
        let listener = pod.pod().listen("127.0.0.1:10006")?;
        listener.set_nonblocking(true)?;
        let (printed, status) = guest.run("timeout 2 guest-traffic send 10.1.1.1 10006 1 2>&1")?;
        ensure!(status != 0 && listener.accept().is_err(), "it is:\n{printed}");
        Ok(())
    });
    rows.row("-t to other ports of the guest", || {
        guest.start("receive 20002")?;
        guest.wait_listening()?;
        let mut outside = Host::new(pod.world());
        outside.start(&format!("send {} 10002 {BYTES}", POD[0]))?;
        outside.finish(LIMIT)?;
        Endpoint::finish(&mut guest, LIMIT).map(drop)
    });
    rows.row("-t on one address, without what is left out", || {
        for address in [format!("{}:10003", POD[0]), "192.0.2.16:10002".to_owned()] {
            ensure!(pod.world().connect(&address).is_err(), "{address} is forwarded");
        }
        Ok(())
    });
    let told = translator.told();
    translator.stop()?;
    rows.end().with_context(|| format!("the translator tells:\n{told}"))
}

const OPTIONS: &str = "-4 -a 10.1.1.5 -n 255.255.255.0 -g 10.1.1.1 -m 1400 -M 02:00:00:00:11:11 -S none --no-map-gw -o 192.0.2.16 \
                       --dns-forward 10.1.1.53 --dns-host 198.51.100.1 -t 192.0.2.15/10001-10003:20001-20003,~10003";

/// Bytes of a transfer.
const BYTES: u64 = 100_000;

const LIMIT: std::time::Duration = std::time::Duration::from_secs(30);
