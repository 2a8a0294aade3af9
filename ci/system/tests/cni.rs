//! culvert-cni as runtimes call it: every verb in every version of the specification, both grammars, all places for a socket, what is
//! refused and with which code. It needs root, for network namespaces.
#![allow(clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};

use anyhow::{Result, ensure};
use culvert_system::cni::with_result;
use serde_json::{Value, json};

#[path = "cni/runner.rs"]
#[allow(dead_code, reason = "two tests use it")]
mod runner;

use runner::{CONTAINER, Field, INTERFACE, files};

const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// An IPAM plugin of version 1.1.0, as Debian's are not yet, that notes the verbs.
const IPAM: &str = r#"cat > /dev/null
echo "$CNI_COMMAND" >> "$0.verbs"
[ "$CNI_COMMAND" != ADD ] || echo '{"cniVersion":"1.1.0","ips":[{"address":"198.51.100.5/26"}]}'"#;

#[test]
fn all_verbs_in_all_versions() -> Result<()> {
    let field = Field::new()?;
    field.plugin("newest", IPAM)?;
    let daemon = field.node.start()?;
    for version in VERSIONS {
        let newest = version == "1.1.0";
        let ipam = if newest { json!({"type": "newest"}) } else { field.host_local() };
        let keys = json!({
            "vlan": 120, "ipam": ipam, "rate": {"rx": "1.5gbit", "rx_frames": 9000, "tx": "1gbit"},
            "runtimeConfig": {"mac": "02:11:22:AA:bb:01", "bandwidth": {"ingressRate": 20_000_000, "ingressBurst": 800_000}},
            "args": {"cni": {"logicNetworkName": "dpdk-a"}},
        });
        let config = field.config(version, &keys);
        let versions = field.call("VERSION").succeed(&json!({"cniVersion": version}))?;
        ensure!(versions == json!({"cniVersion": version, "supportedVersions": VERSIONS}), "{versions}");
        let result = field.call("ADD").succeed(&config)?;
        let mut interface = json!({"name": INTERFACE, "mac": "02:11:22:aa:bb:01", "sandbox": field.netns()});
        let socket = field.volume.join(format!("{INTERFACE}.sock"));
        if newest {
            interface["mtu"] = json!(1500);
            interface["socketPath"] = json!(socket.display().to_string());
        }
        ensure!(result["cniVersion"] == version && result["interfaces"] == json!([interface]), "{version}: {result}");
        let ip = &result["ips"][0];
        ensure!(ip["address"].as_str().is_some_and(|address| address.ends_with("/26")), "{result}");
        ensure!(ip["interface"] == 0, "{result}");
        ensure!(ip["version"] == if version < "1.0.0" { json!("4") } else { Value::Null }, "{version}: {result}");

        let port = daemon.port(&format!("0f1e2d3c4b5a-{INTERFACE}"))?;
        ensure!(port["network"] == "blue" && port["vlan"] == 120 && port["mac"] == "02:11:22:aa:bb:01", "{port}");
        let rates = ["rx_rate", "rx_burst", "rx_frame_rate", "tx_rate", "tx_burst"].map(|key| port[key].clone());
        let told = [json!("1500mbit"), Value::Null, json!(9000), json!("20mbit"), json!(100_000)];
        ensure!(rates == told, "{port}");
        let metadata = fs::symlink_metadata(&socket)?;
        ensure!(metadata.file_type().is_socket() && (metadata.uid(), metadata.gid()) == (107, 107), "{metadata:?}");

        field.call("ADD").fail(&config, 100)?;
        let known = with_result(&config, &result);
        if version < "0.4.0" {
            field.call("CHECK").fail(&known, 1)?;
        } else {
            field.call("CHECK").succeed(&known)?;
            field.call("CHECK").fail(&config, 7)?;
            let mut other = known.clone();
            other["prevResult"]["interfaces"][0]["mac"] = json!("02:00:00:00:00:01");
            field.call("CHECK").fail(&other, 101)?;
            other["prevResult"]["interfaces"] = json!([]);
            field.call("CHECK").fail(&other, 101)?;
        }
        if newest {
            field.call("STATUS").succeed(&config)?;
        } else {
            field.call("STATUS").fail(&config, 1)?;
            field.call("GC").fail(&config, 1)?;
        }
        field.call("DEL").succeed(&known)?;
        field.check_clean(&daemon)?;
        // Again; without what a runtime may have lost; what was never added.
        field.call("DEL").succeed(&config)?;
        field.call("DEL").with("CNI_NETNS", None).with("CNI_ARGS", None).succeed(&config)?;
        field.call_for("DEL", "never-added", "net9").succeed(&config)?;
        field.check_clean(&daemon)?;
    }
    let verbs = fs::read_to_string(field.plugins.join("newest.verbs"))?;
    let verbs: Vec<_> = verbs.lines().collect();
    ensure!(verbs == ["ADD", "CHECK", "STATUS", "DEL", "DEL", "DEL", "DEL"], "{verbs:?}");
    daemon.stop()
}

#[test]
fn what_cannot_be_is_refused_with_its_code() -> Result<()> {
    let field = Field::new()?;
    let config = field.config("1.0.0", &json!({}));
    let add = field.call("ADD");
    // Nobody listens yet.
    let said = add.fail(&config, 11)?;
    ensure!(said.contains("culvertd is not there yet") && said.contains("culvertd.sock"), "{said}");
    let daemon = field.node.start()?;
    let with = |keys: Value| field.config("1.0.0", &keys);
    for (keys, code) in [
        (json!({"cniVersion": null}), 1),
        (json!({"cniVersion": "0.2.0"}), 1),
        (json!({"cniVersion": "2.0.0"}), 1),
        (json!({"vlan": "120"}), 6),
        (json!({"rate": {"rx": 100}}), 6),
        (json!({"rate": {"up": "1mbit"}}), 6),
        (json!({"prevResult": {"interfaces": 5}}), 6),
        (json!({"network": "green"}), 7),
        (json!({"network": null}), 7),
        (json!({"network": "../x"}), 7),
        (json!({"mode": null}), 7),
        (json!({"mode": "bridge"}), 7),
        (json!({"name": "../lab"}), 7),
        (json!({"vlan": 4095}), 7),
        (json!({"role": "server"}), 7),
        (json!({"rate": {"rx": "fast"}}), 7),
        (json!({"runtimeConfig": {"bandwidth": 5}}), 7),
        (json!({"queues": 0}), 7),
        (json!({"mtu": 10}), 7),
        (json!({"owner": "qemu"}), 7),
        (json!({"volume": "../other"}), 7),
        (json!({"volume": "missing", "sharedDir": null}), 7),
        (json!({"control_socket": "relative.sock"}), 7),
        (json!({"runtimeConfig": {"mac": "01:00:5e:00:00:01"}}), 7),
        (json!({"runtimeConfig": {"deviceID": "../x"}}), 7),
        (json!({"ipam": {"type": "missing"}}), 7),
        (json!({"ipam": {"type": "../culvert-cni"}}), 7),
        (json!({"host": {"engine": "vpp", "iftype": "memif"}}), 7),
        (json!({"kubeconfig": "/nonexistent"}), 5),
        (json!({"runtimeConfig": {"deviceID": "port-7"}}), 5),
    ] {
        let config = with(keys.clone());
        add.fail(&config, code).map_err(|error| error.context(format!("{keys}")))?;
        // What ADD refused, DEL does not, except for a version that nobody speaks.
        if code != 1 {
            field.call("DEL").succeed(&config).map_err(|error| error.context(format!("DEL {keys}")))?;
        }
        field.check_clean(&daemon)?;
    }
    for (name, value, code) in [
        ("CNI_COMMAND", Some("add"), 4),
        ("CNI_CONTAINERID", None, 4),
        ("CNI_CONTAINERID", Some("../x"), 4),
        ("CNI_IFNAME", None, 4),
        ("CNI_IFNAME", Some("a/b"), 4),
        ("CNI_NETNS", None, 4),
        ("CNI_NETNS", Some("relative"), 4),
        ("CNI_NETNS", Some("/proc/self/ns/net"), 4),
        ("CNI_NETNS", Some("/run/netns/nonexistent"), 3),
        ("CNI_ARGS", Some("K8S_POD_UID=../.."), 4),
        ("CNI_ARGS", Some("nonsense"), 4),
    ] {
        let call = add.clone().with(name, value);
        call.fail(&config, code).map_err(|error| error.context(format!("{name} {value:?}")))?;
        field.check_clean(&daemon)?;
    }
    let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
    let deep_value = [br#"{"cniVersion":"1.0.0","name":"x","args":"#.as_slice(), &deep, b"}"].concat();
    for input in [b"".as_slice(), b"{", b"[]", b"null", b"\xff", &deep] {
        add.fail_with(input, 6)?;
    }
    add.fail_with(&deep_value, 6)?;
    add.fail_with(&[b' '].repeat(2 << 20), 6)?;
    add.fail_with(br#"{"cniVersion":"1.0.0","mode":"tap","mode":"vhostuser"}"#, 6)?;
    // Not called by a runtime.
    let outcome = add.clone().with("CNI_COMMAND", None).run_with(b"")?;
    ensure!(outcome.success && outcome.answer.is_null() && outcome.log.contains("CNI plugin"), "{outcome:?}");
    // An interface of that name.
    field.namespace.ip(&format!("link add {INTERFACE} type veth peer name other"))?;
    add.fail(&config, 100)?;
    let made = json!({"interfaces": [{"name": "net5", "sandbox": field.netns()}]});
    field.call_for("ADD", CONTAINER, "net5").fail(&with(json!({"prevResult": made})), 100)?;
    field.check_clean(&daemon)?;
    // Short containers' ids are as good as any.
    let short = field.call_for("ADD", "a", "x");
    short.succeed(&config)?;
    field.call_for("DEL", "a", "x").succeed(&config)?;
    field.check_clean(&daemon)?;
    daemon.stop()
}

#[test]
fn what_fails_is_undone() -> Result<()> {
    let field = Field::new()?;
    let daemon = field.node.start()?;
    let note = r#"cat > /dev/null; echo "$CNI_COMMAND" >> "$0.verbs""#;
    let answers = [
        ("refuses", r#"echo '{"code":11,"msg":"no address is free"}'; exit 1"#, 11),
        ("empty", r#"echo '{"ips":[]}'"#, 7),
        ("nonsense", "echo hello", 6),
        ("silent", "exit 3", 5),
    ];
    for (name, answer, code) in answers {
        field.plugin(name, &format!("{note}\n[ \"$CNI_COMMAND\" = DEL ] && exit\n{answer}"))?;
        let said = field.call("ADD").fail(&field.config("1.0.0", &json!({"ipam": {"type": name}})), code)?;
        ensure!(said.contains(name), "{said}");
        let verbs = fs::read_to_string(field.plugins.join(format!("{name}.verbs")))?;
        ensure!(verbs == "ADD\nDEL\n", "{verbs}");
        field.check_clean(&daemon)?;
    }
    // The last step fails: the device-info file's folder cannot be made.
    fs::write(field.node.path("file"), "")?;
    let info = field.node.path("file/devinfo").display().to_string();
    let keys = json!({"ipam": field.host_local(), "runtimeConfig": {"CNIDeviceInfoFile": info}});
    field.call("ADD").fail(&field.config("1.0.0", &keys), 5)?;
    field.check_clean(&daemon)?;
    // The socket's place is taken: the port cannot be opened, and the reason is told.
    let socket = field.volume.join(format!("{INTERFACE}.sock"));
    fs::write(&socket, "the pod's")?;
    let said = field.call("ADD").fail(&field.config("1.0.0", &json!({"ipam": field.host_local()})), 5)?;
    ensure!(said.contains("not a socket"), "{said}");
    ensure!(daemon.ask("port list")? == json!([]), "a port is left");
    daemon.stop()
}

#[test]
fn gc_and_status() -> Result<()> {
    let field = Field::new()?;
    let gone = field.node.path("nonexistent.sock").display().to_string();
    // Without culvertd.
    let config = field.config("1.1.0", &json!({}));
    field.call("STATUS").fail(&config, 50)?;
    field.call("STATUS").succeed(&field.config("1.1.0", &json!({"mode": "translator"})))?;
    let daemon = field.node.start()?;
    field.call("STATUS").succeed(&config)?;
    field.call("STATUS").fail(&field.config("1.1.0", &json!({"network": "green"})), 50)?;
    field.call("STATUS").fail(&field.config("1.1.0", &json!({"mode": "x"})), 7)?;
    field.plugin("down", "cat > /dev/null; echo '{\"code\":50,\"msg\":\"down\"}'; exit 1")?;
    field.call("STATUS").fail(&field.config("1.1.0", &json!({"ipam": {"type": "down"}})), 50)?;
    // An IPAM plugin that does not know the verb stands in nobody's way.
    field.call("STATUS").succeed(&field.config("1.1.0", &json!({"ipam": field.host_local()})))?;

    field.plugin("newest", IPAM)?;
    let config = field.config("1.1.0", &json!({"ipam": {"type": "newest"}}));
    let other = field.config("1.1.0", &json!({"name": "other-net"}));
    for (container, ifname) in [(CONTAINER, INTERFACE), (CONTAINER, "net2"), ("ffffffffffff0000", "net1")] {
        field.call_for("ADD", container, ifname).succeed(&config)?;
    }
    field.call_for("ADD", "eeeeeeeeeeee0000", "net3").succeed(&other)?;
    let mut gc = config.clone();
    field.call("GC").fail(&gc, 7)?;
    gc["cni.dev/valid-attachments"] = json!([{"containerID": CONTAINER, "ifname": INTERFACE}]);
    // As runtimes call it: without a container.
    let call = field.call("GC").with("CNI_CONTAINERID", None).with("CNI_IFNAME", None).with("CNI_NETNS", None);
    call.succeed(&gc)?;
    let names = |daemon: &culvert_system::daemon::Daemon| -> Result<Vec<Value>> {
        Ok(daemon.ask("port list")?.as_array().into_iter().flatten().map(|port| port["name"].clone()).collect())
    };
    let left = names(&daemon)?;
    ensure!(left == [format!("0f1e2d3c4b5a-{INTERFACE}"), "eeeeeeeeeeee-net3".to_owned()], "{left:?}");
    // Each of those, and the verb itself, was passed on.
    let verbs = fs::read_to_string(field.plugins.join("newest.verbs"))?;
    ensure!(verbs.lines().collect::<Vec<_>>() == ["ADD", "ADD", "ADD", "DEL", "DEL", "GC"], "{verbs}");
    // Those that are left carry nothing without culvertd.
    field.call("STATUS").fail(&field.config("1.1.0", &json!({"control_socket": gone})), 51)?;
    field.call("DEL").succeed(&config)?;
    field.call_for("DEL", "eeeeeeeeeeee0000", "net3").succeed(&other)?;
    field.check_clean(&daemon)?;
    daemon.stop()
}

#[test]
fn userspace_cnis_grammar() -> Result<()> {
    let field = Field::new()?;
    let daemon = field.node.start()?;
    let side = |mode: &str| json!({"engine": "ovs-dpdk", "iftype": "vhostuser", "vhost": {"mode": mode}});
    let mut host = side("client");
    host["netType"] = json!("bridge");
    host["vhost"]["group"] = json!("root");
    host["bridge"] = json!({"bridgeName": "sw0", "vlanId": 30});
    let keys = json!({
        "type": "userspace", "mode": null, "network": null, "host": host, "container": side("server"),
        "ipam": field.host_local(),
    });
    let config = field.config("0.3.1", &keys);
    let call = |verb| field.call(verb).plugin("userspace");
    let result = call("ADD").succeed(&config)?;
    ensure!(result["cniVersion"] == "0.3.1" && result["interfaces"][0]["name"] == INTERFACE, "{result}");
    let port = daemon.port(&format!("0f1e2d3c4b5a-{INTERFACE}"))?;
    ensure!(port["network"] == "sw0" && port["vlan"] == 30 && port["role"] == "connect", "{port}");
    // What app-netutil reads.
    let told: Value =
        serde_json::from_slice(&fs::read(field.volume.join(format!("configData-0f1e2d3c4b5a-{INTERFACE}.json")))?)?;
    let vhost = json!({"mode": "server", "socketfile": format!("{INTERFACE}.sock")});
    ensure!(
        told["containerId"] == CONTAINER && told["name"] == "lab-net" && told["config"]["vhost"] == vhost,
        "{told}"
    );
    ensure!(told["ipResult"]["ips"] == result["ips"], "{told}");
    // A second port keeps the network; it goes with the last.
    field.call_for("ADD", CONTAINER, "net2").succeed(&config)?;
    call("DEL").succeed(&with_result(&config, &result))?;
    let networks = |daemon: &culvert_system::daemon::Daemon| daemon.ask("network list").map(|list| list.to_string());
    ensure!(networks(&daemon)?.contains("sw0"), "{}", networks(&daemon)?);
    field.call_for("DEL", CONTAINER, "net2").succeed(&config)?;
    ensure!(!networks(&daemon)?.contains("sw0"), "{}", networks(&daemon)?);
    field.check_clean(&daemon)?;
    // One that is not ours stays, and containers that are no pods have a folder of their own.
    let mut config = field.config("1.0.0", &keys);
    config["host"]["bridge"]["bridgeName"] = json!("blue");
    config["host"]["vhost"] = json!({"mode": "server"});
    config["container"] = json!({});
    let podman = |verb| call(verb).with("CNI_ARGS", Some("IgnoreUnknown=1;K8S_POD_NAME=c1"));
    podman("ADD").succeed(&config)?;
    let folder = field.node.path("shared/0f1e2d3c4b5a");
    let metadata = fs::metadata(&folder)?;
    ensure!(
        (metadata.uid(), metadata.gid(), metadata.permissions().mode() & 0o7777) == (107, 107, 0o750),
        "{metadata:?}"
    );
    ensure!(fs::symlink_metadata(folder.join(format!("{INTERFACE}.sock")))?.file_type().is_socket(), "no socket");
    podman("DEL").succeed(&config)?;
    ensure!(!folder.exists() && networks(&daemon)?.contains("blue"), "{folder:?}");
    field.check_clean(&daemon)?;
    daemon.stop()
}

#[test]
fn a_device_plugins_folder() -> Result<()> {
    let field = Field::new()?;
    let daemon = field.node.start()?;
    let devices = field.node.path("devices/blue");
    fs::create_dir_all(devices.join("port-3"))?;
    symlink("port-3", devices.join("port-7"))?;
    let info = field.node.path("devinfo/lab-lab-net-0f1e2d_pod494bb167e44");
    fs::create_dir_all(info.parent().unwrap_or(&info))?;
    // The device plugin's, which Multus copies.
    fs::write(&info, "{}")?;
    let keys = |device: &str| {
        json!({
            "vlan": 120, "role": "connect", "ipam": field.host_local(), "args": {"cni": {"logicNetworkName": "dpdk-a"}},
            "runtimeConfig": {
                "mac": "02:11:22:aa:bb:01", "deviceID": device, "CNIDeviceInfoFile": info.display().to_string(),
            },
        })
    };
    let config = field.config("1.0.0", &keys("port-7"));
    let result = field.call("ADD").succeed(&config)?;
    let port = daemon.port(&format!("0f1e2d3c4b5a-{INTERFACE}"))?;
    let socket = devices.join(format!("port-3/{INTERFACE}.sock"));
    ensure!(port["socket"] == json!(socket.display().to_string()) && port["role"] == "connect", "{port}");
    let told: Value = serde_json::from_slice(&fs::read(&info)?)?;
    let path = format!("/var/run/culvert/blue/{INTERFACE}.sock");
    ensure!(
        told == json!({"type": "vhost-user", "version": "1.1.0", "vhost-user": {"mode": "server", "path": path}}),
        "{told}"
    );
    ensure!(fs::metadata(&info)?.permissions().mode() & 0o7777 == 0o444, "its mode");
    // QEMU's socket goes, too.
    drop(std::os::unix::net::UnixListener::bind(&socket)?);
    field.call("DEL").succeed(&with_result(&config, &result))?;
    ensure!(
        !info.exists() && files(&devices)? == [devices.join("port-7").display().to_string()],
        "{:?}",
        files(&devices)?
    );
    field.check_clean(&daemon)?;
    // A link that leads out.
    fs::create_dir(field.node.path("outside"))?;
    symlink(field.node.path("outside"), devices.join("port-9"))?;
    let said = field.call("ADD").fail(&field.config("1.0.0", &keys("port-9")), 7)?;
    ensure!(said.contains("outside of"), "{said}");
    daemon.stop()
}

#[test]
fn a_pod_is_made_ready_for_a_translator() -> Result<()> {
    let field = Field::new()?;
    let parameter = |name: &str| {
        let path = format!("/proc/sys/net/ipv4/{name}");
        field.namespace.run(move || Ok(fs::read_to_string(path)?.split_whitespace().collect::<Vec<_>>().join(" ")))
    };
    let config = field.config("1.0.0", &json!({"mode": "translator", "network": null}));
    // Alone, and without culvertd.
    let outcome = field.call("ADD").run(&config)?;
    ensure!(outcome.success && outcome.answer == json!({"cniVersion": "1.0.0"}), "{outcome:?}");
    ensure!(outcome.log.contains("culvertd is not there yet"), "{outcome:?}");
    ensure!(
        parameter("ip_unprivileged_port_start")? == "0" && parameter("ping_group_range")? == "107 107",
        "parameters"
    );
    field.call("CHECK").succeed(&with_result(&config, &outcome.answer))?;
    field.namespace.set_parameter("net/ipv4/ip_unprivileged_port_start", "1024")?;
    field.call("CHECK").fail(&with_result(&config, &outcome.answer), 101)?;
    field.call("DEL").succeed(&config)?;
    // In a chain.
    let daemon = field.node.start()?;
    let before = json!({
        "cniVersion": "0.4.0", "interfaces": [{"name": INTERFACE, "sandbox": field.netns()}],
        "ips": [{"version": "4", "address": "203.0.113.9/24", "interface": 0}], "dns": {"nameservers": ["203.0.113.53"]},
    });
    let keys = json!({"mode": "translator", "network": null, "prevResult": before, "owner": "0:1000"});
    let config = field.config("0.4.0", &keys);
    let result = field.call("ADD").succeed(&config)?;
    ensure!(result == before, "{result}");
    ensure!(parameter("ping_group_range")? == "1000 1000", "parameters");
    let pods = daemon.ask("pod list")?;
    ensure!(pods[0]["name"] == format!("0f1e2d3c4b5a-{INTERFACE}") && pods[0]["netns"] == field.netns(), "{pods}");
    let folder = pods[0]["folders"][0].as_str().unwrap_or_default().to_owned();
    ensure!(folder.ends_with("volumes/kubernetes.io~empty-dir/culvert-translator"), "{pods}");
    field.call("DEL").succeed(&with_result(&config, &result))?;
    ensure!(daemon.ask("pod list")? == json!([]), "{}", daemon.ask("pod list")?);
    field.check_clean(&daemon)?;
    daemon.stop()
}
