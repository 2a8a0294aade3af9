//! A virtual machine from its pod to its traffic, as KubeVirt makes one, each part real but KubeVirt: containerd makes the pod, culvert-cni is
//! called as Multus calls it, culvert-hook edits the domain, libvirt starts it as uid 107 in the pod, and the guest's three interfaces carry
//! data: the primary one by a translator in the pod, two by culvertd, one in each role. Then culvertd is killed, then all is taken away.
#![allow(clippy::indexing_slicing, reason = "tests")]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_system::cni::{Attachment, bridge, culvert, network, with};
use culvert_system::containerd::{Containerd, Sandbox};
use culvert_system::daemon::{Daemon, Node};
use culvert_system::guest::Guest;
use culvert_system::impairment::Impairment;
use culvert_system::kube_pod::{KubePod, KubeletRoot, check_socket};
use culvert_system::launcher::{KERNEL, Launcher, SERIAL, processes};
use culvert_system::place::{Namespace, ip};
use culvert_system::qemu::{GuestOptions, Role};
use culvert_system::rows::Rows;
use culvert_system::traffic::{self, Endpoint, Host};
use culvert_system::translator::lease;
use culvert_system::wait::wait_until;
use culvert_system::world::{WORLD, World};
use serde_json::{Value, json};

#[test]
fn a_machine_from_its_pod_to_its_traffic() -> Result<()> {
    let mut rows = Rows::default();
    let (mut node, kubelet, world) = (Node::new()?, KubeletRoot::new()?, World::new()?);
    let outside = uplinks(&mut node)?;
    let peer = node.add_guest("peer", Role::Listen, "vlan = 120");
    let mut daemon = node.start()?;
    let mut peer = GuestOptions::new("peer", &peer, 9).boot()?;
    let mut containerd = Containerd::start(&[network("pods", &[bridge(&node, "10.88.0.0/16")])])?;
    let pod = kubelet.pod("virt-launcher-fw-x1", 1)?;
    for volume in VOLUMES {
        pod.add_volume(volume.0)?;
    }
    println!();
    let sandbox = containerd.run_pod(&pod)?;
    let networks = Networks::new(&node, &kubelet, &containerd, &pod, &sandbox);
    let mut results = Vec::new();
    rows.row("Multus adds the machine's networks to its pod", || {
        results = networks.add()?;
        for (interface, result) in [INTERFACES[0], INTERFACES[1]].iter().zip(&results) {
            let made = &result["interfaces"][0];
            ensure!(made["name"] == *interface && made["sandbox"] == json!(sandbox.netns), "the result is {result}");
            daemon.port(&port_name(&sandbox, interface))?;
        }
        let [made, other] = [&results[0], &results[1]].map(|result| &result["interfaces"][0]);
        ensure!(made["mac"] == MAC && results[0]["ips"][0]["interface"] == 0, "the result is {}", results[0]);
        let socket = pod.volume("shared-dir").join(format!("{}.sock", INTERFACES[1]));
        ensure!(other["mtu"] == 9000 && other["socketPath"] == json!(socket), "the result is {}", results[1]);
        // The other one is QEMU's to make.
        check_socket(&socket)
    });
    ensure!(results.len() == 3, "without networks there is no machine: {:?}", rows.end());
    networks.tell(&pod, &results)?;

    let volumes = VOLUMES.map(|(name, place)| (pod.volume(name), place));
    let mut launcher = Launcher::start(&mut containerd, &pod, &sandbox, &volumes)?;
    let mut domain = String::new();
    rows.row("virt-launcher collects both sidecars", || {
        for binding in ["culvert", "culvert-translator"] {
            let environment = [("NETWORK_BINDING_PLUGIN_NAME", binding), ("CULVERT_INTERFACES", DECLARED)];
            let command = ["culvert-hook", "--translator", "/opt/culvert/culvert-translator"];
            launcher.start_sidecar(&mut containerd, &command, &environment)?;
        }
        let sockets = launcher.collect(&containerd)?;
        // virt-launcher would take the second for the first.
        ensure!(sockets.len() == 2 && sockets[0] != sockets[1], "their sockets are {sockets:?}");
        Ok(())
    });
    rows.row("they edit its domain, and change nothing when they are asked again", || {
        domain = launcher.edit(&containerd, &domain_of_kubevirt(), &vmi())?;
        let again = launcher.edit(&containerd, &domain, &vmi())?;
        ensure!(again == domain, "at first they made\n{domain}\nand then\n{again}");
        for part in ["access mode=\"shared\"", "memAccess=\"shared\"", "queues=\"2\"", MAC, "type=\"vhostuser\""] {
            ensure!(domain.contains(part), "there is no {part} in\n{domain}");
        }
        Ok(())
    });
    let mut guest = launcher.boot(&mut containerd, "lab_fw", &domain).with_context(|| daemon.console().last_words())?;
    rows.row("libvirt starts it, and it boots", || {
        guest.console().wait_for("GUEST-READY\n", BOOT_LIMIT).map(drop)?;
        name_interfaces(&mut guest, &results)?;
        let who = launcher.exec(&mut containerd, "stat -c %u:%g /proc/$(pgrep -f ^/usr/bin/qemu-system)")?;
        ensure!(who.trim() == "107:107", "QEMU runs as {who}");
        for interface in [INTERFACES[0], INTERFACES[1]] {
            daemon.wait_for_state(&port_name(&sandbox, interface), "up")?;
        }
        peer.wait_ready()
    });

    let mut beyond = Host::new(world.namespace());
    rows.row("the primary interface has the pod's address", || {
        guest.check("ip link set eth0 up")?;
        let lease = lease(&mut guest, 4)?;
        ensure!(lease.value("ip_address") == sandbox.address, "it is given {}", lease.value("ip_address"));
        Ok(())
    });
    rows.row("it fetches a page of the world", || {
        serve_page(world.namespace().listen(&format!("{WORLD}:80"))?);
        let page = guest.check(&format!("wget -q -O - http://{WORLD}/"))?;
        ensure!(page.contains(PAGE), "it is {page}");
        Ok(())
    });
    rows.row("the world reaches the ports that the machine lists, and no other", || {
        traffic::tcp(&mut beyond, &mut guest, &sandbox.address, 8443, BYTES)?;
        traffic::udp(&mut beyond, &mut guest, &sandbox.address, 53, BYTES, 1400)?;
        ensure!(world.namespace().connect(&format!("{}:8444", sandbox.address)).is_err(), "port 8444 answers");
        Ok(())
    });
    rows.row("a network whose socket is QEMU's: a second guest, and the uplink", || {
        let address = results[0]["ips"][0]["address"].as_str().context("no address")?;
        let address = give_address(&mut guest, "net0", address)?;
        peer.check("ip addr add 198.51.100.60/26 dev eth0")?;
        traffic::tcp(&mut guest, &mut peer, "198.51.100.60", 10001, BYTES)?;
        traffic::tcp(&mut peer, &mut guest, &address, 10001, BYTES)?;
        traffic::tcp(&mut guest, &mut Host::new(&outside), "198.51.100.61", 10001, BYTES).map(drop)
    });
    rows.row("a network whose socket is culvertd's: the uplink", || {
        let address = give_address(&mut guest, "net1", "198.51.100.70/26")?;
        let mtu = guest.check("cat /sys/class/net/net1/mtu")?;
        ensure!(mtu.trim() == "9000", "its MTU is {mtu}");
        traffic::tcp(&mut guest, &mut Host::new(&outside), "198.51.100.125", 10001, BYTES)?;
        traffic::tcp(&mut Host::new(&outside), &mut guest, &address, 10001, BYTES).map(drop)
    });
    rows.row("culvertd is killed: no flow of the translator's notices, and the guest goes on", || {
        let address =
            results[0]["ips"][0]["address"].as_str().and_then(|text| text.split('/').next()).context("none")?;
        peer.send(&format!("ping -i 0.05 {address}"))?;
        peer.console().wait_for("bytes from", LIMIT)?;
        guest.start("receive 8443")?;
        guest.wait_listening()?;
        // One connection from before the end of culvertd until after its return.
        beyond.start(&format!("send {} 8443 {} 100", sandbox.address, 64 * 65536))?;
        daemon.kill();
        peer.console().skip();
        daemon = node.start()?;
        beyond.finish(LIMIT)?;
        Endpoint::finish(&mut guest, LIMIT)?;
        for _ in 0..20 {
            peer.console().wait_for("bytes from", LIMIT)?;
        }
        peer.console().signal("INT").ok();
        traffic::tcp(&mut guest, &mut Host::new(&outside), "198.51.100.125", 10002, BYTES)?;
        traffic::tcp(&mut guest, &mut Host::new(&outside), "198.51.100.61", 10002, BYTES).map(drop)
    });
    rows.row("the machine ends", || {
        launcher.exec(&mut containerd, "virsh destroy lab_fw")?;
        launcher.shut_down()?;
        launcher.stop_containers(&mut containerd)
    });
    rows.row("Multus deletes its networks, and nothing is left", || {
        networks.delete(&results)?;
        networks.delete(&results)?;
        containerd.stop_pod(&sandbox)?;
        check_gone(&daemon, &pod, &sandbox)?;
        containerd.remove_pod(&sandbox)
    });
    daemon.check_counters()?;
    daemon.stop()?;
    rows.end()
}

/// The networks of the machine's pod beside the cluster's own, and the plugin calls for them.
struct Networks(Vec<(Attachment, Value)>);

impl Networks {
    fn new(node: &Node, kubelet: &KubeletRoot, containerd: &Containerd, pod: &KubePod, sandbox: &Sandbox) -> Self {
        let of_both = json!({"volume": "shared-dir", "kubeletRoot": kubelet.path()});
        let vhostuser = with(culvert(node, "vhostuser"), &of_both);
        // Debian's plugin for addresses knows no later version.
        let first = json!({
            "cniVersion": "1.0.0", "name": "lab-net", "vlan": 120, "role": "connect", "runtimeConfig": {"mac": MAC},
            "args": {"cni": {"logicNetworkName": "dpdk-a"}},
            "ipam": {"type": "host-local", "dataDir": node.path("addresses"), "subnet": "198.51.100.0/26"},
        });
        let second = json!({
            "cniVersion": "1.1.0", "name": "other-net", "vlan": 30, "mtu": 9000, "args": {"cni": {"logicNetworkName": "dpdk-b"}},
        });
        let [first, second] = [first, second].map(|keys| with(vhostuser.clone(), &keys));
        let keys = json!({
            "cniVersion": "1.0.0", "name": "culvert-translator", "kubeletRoot": kubelet.path(),
            "args": {"cni": {"logicNetworkName": "default"}},
        });
        let translator = with(culvert(node, "translator"), &keys);
        let netns = sandbox.netns.display().to_string();
        let calls = INTERFACES.into_iter().zip([first, second, translator]).map(|(interface, config)| {
            (Attachment::of_pod(pod, &sandbox.id, &netns, interface, containerd.plugins()), config)
        });
        Self(calls.collect())
    }

    fn add(&self) -> Result<Vec<Value>> {
        self.0.iter().map(|(attachment, config)| attachment.add(config)).collect()
    }

    fn delete(&self, results: &[Value]) -> Result<()> {
        let mut calls = self.0.iter().zip(results).rev();
        calls.try_for_each(|((attachment, config), result)| attachment.delete(config, Some(result)))
    }

    /// What Multus writes into the pod's annotations, as the downward API shows it in the volume `podinfo`.
    fn tell(&self, pod: &KubePod, results: &[Value]) -> Result<()> {
        let entry = |((_, config), result): (&(Attachment, Value), &Value)| {
            let made = &result["interfaces"][0];
            let name = format!("lab/{}", config["name"].as_str().unwrap_or_default());
            let mut entry = json!({"name": name, "interface": made["name"], "dns": {}});
            for key in ["mac", "mtu"] {
                if !made[key].is_null() {
                    entry[key] = made[key].clone();
                }
            }
            entry
        };
        let status: Vec<Value> = self.0.iter().zip(results).take(2).map(entry).collect();
        let line = format!("k8s.v1.cni.cncf.io/network-status={:?}\n", Value::from(status).to_string());
        Ok(std::fs::write(pod.volume("podinfo").join("annotations"), line)?)
    }
}

/// A port in each VLAN to the outside, a namespace that has an address in each.
fn uplinks(node: &mut Node) -> Result<Namespace> {
    let outside = Namespace::new("outside")?;
    for (vlan, address) in [(120, "198.51.100.61/26"), (30, "198.51.100.125/26")] {
        let wire = format!("wire{vlan}");
        ip(&format!("link add {wire} type veth peer name {wire} netns {}", outside.name()))?;
        ip(&format!("link set {wire} up addrgenmode none"))?;
        outside.ip(&format!("addr add {address} dev {wire}"))?;
        Impairment::prepare(&outside, &wire)?;
        outside.ip(&format!("link set {wire} up"))?;
        node.add_nic(&format!("uplink{vlan}"), &format!("net_af_packet{vlan},iface={wire}"), &format!("vlan = {vlan}"));
    }
    Ok(outside)
}

/// What virt-launcher makes of the machine's object, with an emulated processor, and a kernel that it boots.
fn domain_of_kubevirt() -> String {
    let [kernel, initrd] = KERNEL;
    format!(
        r#"<domain type="qemu" xmlns:qemu="http://libvirt.org/schemas/domain/qemu/1.0"><name>lab_fw</name><memory unit="b">268435456</memory>
	<memoryBacking><source type="memfd"></source></memoryBacking>
	<os><type arch="x86_64" machine="q35">hvm</type><kernel>{kernel}</kernel><initrd>{initrd}</initrd><cmdline>console=ttyS0 quiet panic=-1 no_timer_check</cmdline></os>
	<vcpu placement="static">2</vcpu><features><acpi></acpi></features>
	<cpu mode="host-model"><topology sockets="1" cores="2" threads="1"></topology><numa><cell id="0" cpus="0-1" memory="262144" unit="KiB"></cell></numa></cpu>
	<devices><controller type="usb" index="0" model="none"></controller>
		<serial type="unix"><source mode="bind" path="{SERIAL}"></source><target port="0"></target></serial>
	</devices></domain>"#
    )
}

/// The machine's object, as its pod's sidecars see it.
fn vmi() -> Value {
    json!({
        "metadata": {"name": "fw", "namespace": "lab", "uid": "5e5e0000-0000-4000-8000-0000000000aa",
            "annotations": {"sidecar.istio.io/inject": "True"}},
        "spec": {
            "domain": {
                "cpu": {"sockets": 1, "cores": 2, "threads": 1},
                "devices": {
                    "networkInterfaceMultiqueue": true, "useVirtioTransitional": false,
                    "interfaces": [
                        {"name": "default", "binding": {"name": "culvert-translator"},
                            "ports": [{"port": 8443, "protocol": "TCP"}, {"port": 53, "protocol": "udp"}]},
                        {"name": "dpdk-a", "binding": {"name": "culvert"}, "macAddress": MAC, "acpiIndex": 3},
                        {"name": "dpdk-b", "binding": {"name": "culvert"}},
                    ],
                },
            },
            "networks": [
                {"name": "default", "pod": {}},
                {"name": "dpdk-a", "multus": {"networkName": "lab-net"}},
                {"name": "dpdk-b", "multus": {"networkName": "other-net"}},
            ],
        },
        "status": {"interfaces": [{"name": "default", "podInterfaceName": "eth0"}]},
    })
}

/// Names the guest's interfaces eth0 (the primary one), net0 and net1, by their MAC addresses.
fn name_interfaces(guest: &mut Guest, results: &[Value]) -> Result<()> {
    let other = results[1]["interfaces"][0]["mac"].as_str().context("no MAC address")?;
    guest.check(&format!(
        "cd /sys/class/net; for old in eth*; do ip link set $old name x$old; done; \
         for old in xeth*; do case $(cat $old/address) in {MAC}) new=net0;; {other}) new=net1;; *) new=eth0;; esac; \
         ip link set $old name $new; done; ls -d eth0 net0 net1"
    ))?;
    Ok(())
}

/// Gives the guest's interface an address with the length of its network's prefix, and returns it without.
fn give_address(guest: &mut Guest, interface: &str, address: &str) -> Result<String> {
    guest.check(&format!("ip link set {interface} up && ip addr add {address} dev {interface}"))?;
    Ok(address.split('/').next().unwrap_or_default().to_owned())
}

/// Answers one request with a page.
fn serve_page(listener: TcpListener) {
    thread::spawn(move || -> Result<()> {
        let (mut stream, _) = listener.accept()?;
        let mut request = [0; 4096];
        let _ = stream.read(&mut request)?;
        write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{PAGE}", PAGE.len())?;
        Ok(())
    });
}

/// Checks that the pod has left no port, socket, mount, network namespace or process.
fn check_gone(daemon: &Daemon, pod: &KubePod, sandbox: &Sandbox) -> Result<()> {
    for (kind, stay) in [("port", json!(["peer", "uplink120", "uplink30"])), ("pod", json!([]))] {
        let listed = daemon.ask(&format!("{kind} list"))?;
        let mut names: Vec<&Value> = listed.as_array().into_iter().flatten().map(|entry| &entry["name"]).collect();
        names.sort_by_key(|name| name.to_string());
        ensure!(json!(names) == stay, "culvertd has {names:?}");
    }
    for volume in ["shared-dir", "culvert-translator"] {
        pod.check_empty(volume)?;
    }
    ensure!(!Path::new(&sandbox.netns).exists(), "{} is there", sandbox.netns.display());
    // What has ended is there until the first process of the namespace has taken note.
    let ended = ["libvirtd", "culvert-hook", "culvert-transla", "containerd-shim", "culvert-cni"];
    let mut running = Vec::new();
    wait_until("nothing of the pod runs, and of all machines the second guest's", || {
        running = processes()?;
        let machines = running.iter().filter(|name| *name == "qemu-system-x86").count();
        Ok(machines == 1 && !running.iter().any(|name| ended.contains(&name.as_str())))
    })
    .with_context(|| format!("these run: {running:?}"))
}

/// The name of the port of an interface of a pod.
fn port_name(sandbox: &Sandbox, interface: &str) -> String {
    format!("{}-{interface}", &sandbox.id[..12])
}

/// Of the pod: by KubeVirt's rule for the networks dpdk-a and dpdk-b, and what Multus calls the last one.
const INTERFACES: [&str; 3] = ["pod494bb167e44", "pod33d044e5350", "net3"];

const MAC: &str = "02:11:22:aa:bb:01";

/// The pod's volumes, and where they are in its containers.
const VOLUMES: [(&str, &str); 3] = [
    ("shared-dir", "/var/lib/cni/usrcni"),
    ("podinfo", "/etc/podnetinfo"),
    ("culvert-translator", "/var/run/culvert-translator"),
];

/// What culvert-webhook says in the sidecars' environment.
const DECLARED: &str = r#"{"pod494bb167e44":{"folder":"/var/lib/cni/usrcni","role":"connect"},"pod33d044e5350":{"folder":"/var/lib/cni/usrcni","role":"listen"}}"#;

const PAGE: &str = "a page of the world";

/// Bytes of a transfer.
const BYTES: u64 = 1 << 20;

const BOOT_LIMIT: Duration = Duration::from_secs(120);

const LIMIT: Duration = Duration::from_secs(60);
