//! A guest whose memory is not shared on one of culvertd's networks: culvert-cni makes its tap, and a bridge and a veth that lead to a
//! port. Its frames reach a guest that culvertd serves over vhost-user, and are as they should be: what it leaves to its device
//! (checksums, segmentation) is done on the way. And pods with an interface of their own on such a network (mode netdev), as KubeVirt's
//! virt-handler has one for migrations.
#![allow(clippy::indexing_slicing, reason = "tests")]

use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, ensure};
use culvert_system::cni::{Attachment, culvert, with};
use culvert_system::daemon::Node;
use culvert_system::kube_pod::KubeletRoot;
use culvert_system::paths::program;
use culvert_system::place::{Namespace, Place, ip};
use culvert_system::qemu::{GuestOptions, Role, Transport};
use culvert_system::rows::Rows;
use serde_json::{Value, json};

const SANDBOX: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";
/// KubeVirt's name for an interface of the network `dpdk-a`, and of its tap.
const INTERFACE: &str = "pod494bb167e44";
const TAP: &str = "tap494bb167e44";
const PORT: &str = "0f1e2d3c4b5a-pod494bb167e44";

#[test]
fn a_guest_on_a_tap_reaches_another_one() -> Result<()> {
    let (pod, kubelet, mut rows) = (Namespace::new("pod")?, KubeletRoot::new()?, Rows::default());
    let mut node = node()?;
    let socket = node.add_guest("other", Role::Listen, "");
    let daemon = node.start()?;
    let attachment = attachment(&pod, &kubelet)?;
    let config = config(&node, &json!({"mtu": 1400, "runtimeConfig": {"mac": "02:00:00:00:00:01"}}));
    println!();
    let result = attachment.call("ADD", &config)?;
    let interface = json!([{"name": INTERFACE, "mac": "02:00:00:00:00:01", "mtu": 1400, "sandbox": attachment.netns}]);
    rows.same("result", result.get("interfaces"), Some(&interface));
    rows.row("CHECK", || attachment.call("CHECK", &with(config.clone(), &json!({"prevResult": result}))).map(drop));

    // What KubeVirt's core looks at, and what QEMU opens.
    let read = |name: &str, file: &str| parameter(&pod, name, file);
    rows.same("address for the guest", read(INTERFACE, "address")?.as_str(), "02:00:00:00:00:01");
    rows.same("MTUs", [read(INTERFACE, "mtu")?, read(TAP, "mtu")?], ["1400".to_owned(), "1400".to_owned()]);
    rows.same("owner of the tap", [read(TAP, "owner")?, read(TAP, "group")?], ["107".to_owned(), "107".to_owned()]);
    // IFF_TAP, IFF_NO_PI and IFF_PERSIST; not IFF_MULTI_QUEUE (linux/if_tun.h).
    rows.same("flags of the tap", number(&read(TAP, "tun_flags")?)? & 0x1903, 0x1002 | 0x0800);
    // IFF_UP and IFF_NOARP.
    rows.same("the tap is up, without ARP", number(&read(TAP, "flags")?)? & 0x81, 0x81);
    rows.same("addresses in the pod", addresses(&pod)?, Vec::<String>::new());

    let place = Place { namespace: Some(pod.name().to_owned()), ..Place::default() };
    let tap = GuestOptions { transport: Transport::Tap, place, ..GuestOptions::new("vm", Path::new(TAP), 1) };
    let mut guests = [tap.boot()?, GuestOptions::new("other", &socket, 2).boot()?];
    let [vm, other] = &mut guests;
    vm.wait_ready()?;
    other.wait_ready()?;
    other.check("ip link set eth0 mtu 1400")?;
    vm.check("ip link set eth0 mtu 1400")?;
    let offloads = vm.offloads()?;
    let has = |name: &str| offloads.iter().any(|offload| offload == name);
    rows.same("offloads of the guest", [has("tx-checksumming"), has("tcp-segmentation-offload")], [true, true]);
    let addresses = [vm.address().to_owned(), other.address().to_owned()];
    rows.same("echo", [vm.ping(&addresses[1], 3)?, other.ping(&addresses[0], 3)?], [3, 3]);
    rows.row("TCP to the other guest", || vm.send_tcp(other, &addresses[1], BYTES).map(drop));
    rows.row("TCP from the other guest", || other.send_tcp(vm, &addresses[0], BYTES).map(drop));
    rows.row("UDP to the other guest", || vm.send_udp(other, &addresses[1], BYTES, 1300).map(drop));
    rows.row("UDP from the other guest", || other.send_udp(vm, &addresses[0], BYTES, 1300).map(drop));
    rows.row("counters", || daemon.check_counters());

    rows.row("DEL", || attachment.delete(&config, Some(&result)));
    rows.row("DEL again", || attachment.delete(&config, None));
    rows.same("interfaces in the pod", links(&pod)?, vec!["lo".to_owned()]);
    rows.same("the node's end is there", ip(&format!("link show {}", outer()?)).is_ok(), false);
    rows.same("the port is there", daemon.port(PORT).is_ok(), false);
    daemon.stop()?;
    rows.end()
}

/// Whatever does not go, nothing is left of it, and what was there is not touched.
#[test]
fn what_fails_is_undone() -> Result<()> {
    let (pod, kubelet, mut rows) = (Namespace::new("pod")?, KubeletRoot::new()?, Rows::default());
    let node = node()?;
    let attachment = attachment(&pod, &kubelet)?;
    println!();
    let refused = |config: &Value| match attachment.call("ADD", config) {
        Ok(result) => Err(anyhow::anyhow!("it succeeded: {result}")),
        Err(error) => Ok(error.to_string()),
    };
    let error = refused(&config(&node, &json!({})))?;
    rows.same("without culvertd", error.contains("\"code\":11"), true);
    let daemon = node.start()?;
    let error = refused(&config(&node, &json!({"network": "green"})))?;
    rows.same("without the network", error.contains("culvertd has no network green"), true);
    let error = refused(&config(&node, &json!({"mtu": 9200})))?;
    rows.same("with too large an MTU", error.contains("use at most 9100"), true);
    rows.same("interfaces in the pod", links(&pod)?, vec!["lo".to_owned()]);

    for (name, kind) in [(INTERFACE, "bridge"), (TAP, "tap")] {
        let add =
            if kind == "tap" { format!("tuntap add {name} mode tap") } else { format!("link add {name} type {kind}") };
        pod.ip(&add)?;
        let error = refused(&config(&node, &json!({})))?;
        rows.same(
            &format!("with a {kind} in the way"),
            error.contains(&format!("the pod has an interface {name}")),
            true,
        );
        rows.same("interfaces in the pod", links(&pod)?, vec!["lo".to_owned(), name.to_owned()]);
        pod.ip(&format!("link del {name}"))?;
    }
    // culvertd has no buffers for such frames, and says so at the very end.
    let error = refused(&config(&node, &json!({"mtu": 9000})))?;
    rows.same("with a port that cannot be opened", error.contains("culvertd cannot open port"), true);
    rows.same("interfaces in the pod", links(&pod)?, vec!["lo".to_owned()]);
    rows.same("the node's end is there", outer()?, "cv-none".to_owned());
    rows.same("ports of culvertd", daemon.ask("port list")?, json!([]));

    // More queues, and culvertd away when it ends.
    let config = config(&node, &json!({"queues": 4, "owner": "1000:1001"}));
    let result = attachment.call("ADD", &config)?;
    rows.same("IFF_MULTI_QUEUE", number(&parameter(&pod, TAP, "tun_flags")?)? & 0x100, 0x100);
    rows.same("owner of the tap", parameter(&pod, TAP, "owner")?.as_str(), "1000");
    daemon.stop()?;
    rows.row("DEL without culvertd", || attachment.delete(&config, Some(&result)));
    rows.same("interfaces in the pod", links(&pod)?, vec!["lo".to_owned()]);
    let daemon = node.start()?;
    rows.same("ports of the next culvertd", daemon.ask("port list")?, json!([]));
    let left: Vec<PathBuf> = std::fs::read_dir(node.path("state/removals"))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    rows.same("removals that are left", left, Vec::new());
    daemon.stop()?;
    rows.end()
}

/// KubeVirt's virt-handlers with migration0, as control/deploy/networks/migration.yaml has it.
#[test]
fn pods_reach_each_other_by_interfaces_of_their_own() -> Result<()> {
    let (kubelet, mut rows) = (KubeletRoot::new()?, Rows::default());
    let node = node()?;
    let plugins = node.path("plugins");
    std::fs::create_dir(&plugins)?;
    symlink(program("culvert-cni")?, plugins.join("culvert-cni"))?;
    symlink("/usr/lib/cni/host-local", plugins.join("host-local"))?;
    let daemon = node.start()?;
    let addresses_of = |subnet: &str| {
        json!({
            "type": "host-local", "dataDir": node.path("addresses"), "ranges": [[{"subnet": subnet}], [{"subnet": "fd00:42::/64"}]],
            "routes": [{"dst": "10.42.0.0/16"}],
        })
    };
    let config = |keys: &Value| {
        let ours = with(culvert(&node, "netdev"), &json!({"cniVersion": "1.0.0", "name": "migration"}));
        with(with(ours, &json!({"mtu": 9000, "vlan": 42, "ipam": addresses_of("172.21.42.0/24")})), keys)
    };
    println!();
    let pods = [Namespace::new("handler-a")?, Namespace::new("handler-b")?];
    let attach = |(number, pod): (u8, &Namespace)| -> Result<Attachment> {
        let kube_pod = kubelet.pod(&format!("virt-handler-{number}"), number)?;
        let sandbox = format!("{number}f1e2d3c4b5a69788796a5b4c3d2e1f0");
        Ok(Attachment::of_pod(&kube_pod, &sandbox, &format!("/run/netns/{}", pod.name()), "migration0", &plugins))
    };
    let attachments = (1..).zip(&pods).map(attach).collect::<Result<Vec<_>>>()?;
    let [one, other] = attachments.as_slice() else { anyhow::bail!("two pods") };

    let refused = |config: &Value| match one.call("ADD", config) {
        Ok(result) => Err(anyhow::anyhow!("it succeeded: {result}")),
        Err(error) => Ok(error.to_string()),
    };
    rows.same(
        "without the network",
        refused(&config(&json!({"network": "green"})))?.contains("no network green"),
        true,
    );
    rows.same("with too large an MTU", refused(&config(&json!({"mtu": 9200})))?.contains("use at most 9100"), true);
    rows.same(
        "with an IPAM plugin that is not there",
        refused(&config(&json!({"ipam": {"type": "nobody"}})))?.contains("nobody"),
        true,
    );
    rows.same("interfaces in the pod", links(&pods[0])?, vec!["lo".to_owned()]);

    let config = config(&json!({"mtu": 1500}));
    let results = [one.add(&config)?, other.add(&config)?];
    let told = |result: &Value, number: usize| {
        let address = result.pointer(&format!("/ips/{number}/address")).and_then(Value::as_str).unwrap_or_default();
        address.split('/').next().unwrap_or_default().to_owned()
    };
    rows.same("its MTU", parameter(&pods[0], "migration0", "mtu")?.as_str(), "1500");
    let mac = results[0].pointer("/interfaces/0/mac").and_then(Value::as_str).unwrap_or_default().to_owned();
    rows.same("its address", parameter(&pods[0], "migration0", "address")?, mac);
    let route = inside(&pods[0], &["ip", "-json", "route", "get", "10.42.1.1"])?;
    rows.same("the route by the gateway", route.contains("\"172.21.42.1\""), true);
    for number in [0, 1] {
        let address = std::net::SocketAddr::new(told(&results[1], number).parse()?, 49152).to_string();
        rows.row(&format!("TCP to {address}, and its checksums"), || {
            let listener = pods[1].listen(&address)?;
            let mut from = pods[0].connect(&address)?;
            let bytes = vec![7; usize::try_from(BYTES)?];
            let sender = thread::spawn(move || from.write_all(&bytes));
            let (mut stream, peer) = listener.accept()?;
            let mut came = Vec::new();
            stream.read_to_end(&mut came)?;
            ensure!(came.len() as u64 == BYTES && came.iter().all(|byte| *byte == 7), "{} bytes", came.len());
            ensure!(peer.ip().to_string() == told(&results[0], number), "it comes from {peer}");
            sender.join().map_err(|_| anyhow::anyhow!("the sender"))?.map_err(Into::into)
        });
    }
    rows.row("counters", || daemon.check_counters());
    rows.row("DEL", || one.delete(&config, Some(&results[0])));
    rows.row("DEL again", || one.delete(&config, None));
    rows.same("interfaces in the pod", links(&pods[0])?, vec!["lo".to_owned()]);
    other.delete(&config, Some(&results[1]))?;
    rows.same("the node's end is there", outer()?, "cv-none".to_owned());
    rows.same("ports of culvertd", daemon.ask("port list")?, json!([]));
    daemon.stop()?;
    rows.end()
}

/// A node whose culvertd may connect interfaces of the kernel.
fn node() -> Result<Node> {
    let mut node = Node::new()?;
    *node.config() = node.config().replacen("[daemon]\n", "[daemon]\ndevice_kinds = [\"net_af_packet\"]\n", 1);
    Ok(node)
}

fn attachment(pod: &Namespace, kubelet: &KubeletRoot) -> Result<Attachment> {
    let plugin = program("culvert-cni")?;
    let netns = format!("/run/netns/{}", pod.name());
    let kube_pod = kubelet.pod("virt-launcher-vm", 1)?;
    Ok(Attachment::of_pod(&kube_pod, SANDBOX, &netns, INTERFACE, plugin.parent().context("no folder")?))
}

fn config(node: &Node, keys: &Value) -> Value {
    with(with(culvert(node, "tap"), &json!({"cniVersion": "1.1.0", "name": "lab-net"})), keys)
}

/// What /sys tells of an interface in a namespace.
fn parameter(namespace: &Namespace, interface: &str, name: &str) -> Result<String> {
    let path = format!("/sys/class/net/{interface}/{name}");
    inside(namespace, &["sh", "-c", &format!("mount -t sysfs none /sys && cat {path}")])
}

fn links(namespace: &Namespace) -> Result<Vec<String>> {
    let printed = inside(namespace, &["ip", "-json", "link", "show"])?;
    let links: Value = serde_json::from_str(&printed)?;
    let names = links.as_array().into_iter().flatten().filter_map(|link| link.get("ifname").and_then(Value::as_str));
    Ok(names.map(str::to_owned).collect())
}

fn addresses(namespace: &Namespace) -> Result<Vec<String>> {
    let printed = inside(namespace, &["ip", "-json", "addr", "show"])?;
    let links: Value = serde_json::from_str(&printed)?;
    let others = links.as_array().into_iter().flatten().filter(|link| link.get("ifname") != Some(&json!("lo")));
    let addresses = others.flat_map(|link| link.get("addr_info").and_then(Value::as_array).into_iter().flatten());
    Ok(addresses.map(Value::to_string).collect())
}

/// The node's end of the veth, by its first letters.
fn outer() -> Result<String> {
    let output = std::process::Command::new("ip").args(["-json", "link", "show"]).output()?;
    let links: Value = serde_json::from_slice(&output.stdout)?;
    let names = links.as_array().into_iter().flatten().filter_map(|link| link.get("ifname").and_then(Value::as_str));
    Ok(names.into_iter().find(|name| name.starts_with("cv")).unwrap_or("cv-none").to_owned())
}

fn inside(namespace: &Namespace, command: &[&str]) -> Result<String> {
    let net = format!("--net=/run/netns/{}", namespace.name());
    let output =
        std::process::Command::new("nsenter").args([&net, "--", "unshare", "--mount", "--"]).args(command).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {said}");
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn number(text: &str) -> Result<u32> {
    u32::from_str_radix(text.trim_start_matches("0x"), 16).with_context(|| text.to_owned())
}

const BYTES: u64 = 4 << 20;
