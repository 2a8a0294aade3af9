//! Configurations as they come from runtimes, and what is read in them.
#![allow(clippy::indexing_slicing, clippy::panic, clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use culvert_cni::config::settings::{Owner, Places, Role, Settings, Vhostuser};
use culvert_cni::config::{Config, Input};
use culvert_cni::environment::{AttachmentId, Pod};
use culvert_cni::error::Code;

fn config(text: &str) -> Config {
    Input::read(&mut text.as_bytes()).unwrap().config().unwrap()
}

fn of_kubernetes() -> Pod {
    Pod { uid: Some("7b1c2d3e-0001-4a4a-9b9b-00112233aabb".to_owned()), ..Pod::default() }
}

fn vhostuser(config: &Config, pod: &Pod) -> Vhostuser {
    match Settings::of(config, pod).unwrap() {
        Settings::Vhostuser(settings) => *settings,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_secondary_network_of_a_virtual_machine() {
    let config = config(
        r#"{"cniVersion":"1.0.0","name":"lab-net","type":"culvert-cni","mode":"vhostuser","network":"sw0","vlan":120,
            "role":"connect","volume":"shared-dir","ipam":{"type":"host-local","subnet":"198.51.100.0/26"},
            "args":{"cni":{"logicNetworkName":"dpdk-a"}},
            "runtimeConfig":{"mac":"02:11:22:aa:bb:01","deviceID":"port-7",
                "CNIDeviceInfoFile":"/var/run/k8s.cni.cncf.io/devinfo/cni/lab-lab-net-0f1e2d_pod494bb167e44"}}"#,
    );
    assert_eq!((config.network_name(), config.ipam_type()), (Ok("lab-net"), Some("host-local")));
    let settings = vhostuser(&config, &of_kubernetes());
    assert_eq!((settings.port.network.as_str(), settings.port.vlan, settings.port.mtu), ("sw0", Some(120), 1500));
    assert_eq!(settings.port.mac.unwrap().to_string(), "02:11:22:aa:bb:01");
    // QEMU makes the socket: `server` in the words of libvirt and device-info.
    assert_eq!((settings.role, settings.role.container()), (Role::Connect, "server"));
    assert_eq!((settings.device.as_deref(), settings.volume.as_str()), (Some("port-7"), "shared-dir"));
    let info = Path::new("/var/run/k8s.cni.cncf.io/devinfo/cni/lab-lab-net-0f1e2d_pod494bb167e44");
    assert_eq!(settings.device_info_file.as_deref(), Some(info));
    assert_eq!((settings.owner, settings.queues), (Owner::QEMU, 16));
    assert_eq!(settings.mount_path, Path::new("/var/lib/cni/usrcni"));
    let places = Places::of(&config).unwrap();
    assert_eq!(places.control_socket, Path::new("/run/culvert/culvertd.sock"));
    assert_eq!(places.state_dir, Path::new("/var/lib/culvert/cni"));
}

#[test]
fn a_network_of_userspace_cni() {
    let text = r#"{"cniVersion":"0.3.1","type":"userspace","name":"lab-net",
        "host":{"engine":"ovs-dpdk","iftype":"vhostuser","netType":"bridge","vhost":{"mode":"client","group":"993"},
            "bridge":{"bridgeName":"sw0","vlanId":30}},
        "container":{"engine":"ovs-dpdk","iftype":"vhostuser","netType":"interface","vhost":{"mode":"server"}},
        "ipam":{"type":"host-local","subnet":"192.0.2.0/25"}}"#;
    let settings = vhostuser(&config(text), &Pod::default());
    assert_eq!((settings.port.network.as_str(), settings.port.vlan), ("sw0", Some(30)));
    assert_eq!((settings.role, settings.owner), (Role::Connect, Owner { uid: 107, gid: 993 }));
    assert_eq!((settings.queues, settings.port.mac), (1, None));
    assert_eq!(settings.mount_path, Path::new("/var/lib/cni/usrspcni"));
    let container = settings.userspace.unwrap();
    assert_eq!(container.net_type.as_deref(), Some("interface"));

    let role = |host: &str, container: &str| {
        let text = format!(r#"{{"host":{{"vhost":{{{host}}}}},"container":{{"vhost":{{{container}}}}}}}"#);
        match Settings::of(&config(&text), &Pod::default()) {
            Ok(Settings::Vhostuser(settings)) => Ok((settings.role, settings.port.network)),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.code),
        }
    };
    let (server, client) = (r#""mode":"server""#, r#""mode":"client""#);
    // Theirs, when nothing is said: the node is the server, of bridge br0.
    assert_eq!(role("", ""), Ok((Role::Listen, "br0".to_owned())));
    for (host, container, expected) in [
        (server, client, Role::Listen),
        (server, "", Role::Listen),
        ("", client, Role::Listen),
        (client, server, Role::Connect),
        (client, "", Role::Connect),
        ("", server, Role::Connect),
    ] {
        assert_eq!(role(host, container).map(|(role, _)| role), Ok(expected), "{host} {container}");
    }
    for (host, container) in [(server, server), (client, client), (r#""mode":"x""#, ""), ("", r#""mode":"x""#)] {
        assert_eq!(role(host, container), Err(Code::Config), "{host} {container}");
    }
}

#[test]
fn what_userspace_cni_has_and_we_have_not() {
    for text in [
        r#"{"host":{"engine":"vpp"}}"#,
        r#"{"host":{"engine":"ovs-dpdk","iftype":"memif"}}"#,
        r#"{"host":{"netType":"interface"}}"#,
        r#"{"host":{"bridge":{"bridgeName":"BR0"}}}"#,
        r#"{"host":{"bridge":{"vlanId":5000}}}"#,
        r#"{"host":{"vhost":{"socketfile":"../x"}}}"#,
        r#"{"container":{"iftype":"memif"}}"#,
    ] {
        assert_eq!(Settings::of(&config(text), &Pod::default()).unwrap_err().code, Code::Config, "{text}");
    }
}

#[test]
fn what_gc_keeps() {
    let config = config(
        r#"{"cniVersion":"1.1.0","name":"lab-net","type":"culvert-cni",
            "cni.dev/valid-attachments":[{"containerID":"0f1e2d","ifname":"pod494bb167e44"}]}"#,
    );
    assert!(config.is_valid(&AttachmentId::new("0f1e2d", "pod494bb167e44").unwrap()));
    assert!(!config.is_valid(&AttachmentId::new("0f1e2d", "net1").unwrap()));
    assert!(!config.is_valid(&AttachmentId::new("0f1e2e", "pod494bb167e44").unwrap()));
}

#[test]
fn the_address_that_counts() {
    let pod = |mac: Option<&str>| Pod { mac: mac.map(str::to_owned), ..Pod::default() };
    let text = |runtime: &str, args: &str| {
        format!(r#"{{"mode":"vhostuser","network":"blue","runtimeConfig":{{{runtime}}},"args":{{"cni":{{{args}}}}}}}"#)
    };
    let (runtime, args) = (r#""mac":"02:00:00:00:00:01""#, r#""mac":"02:00:00:00:00:02""#);
    let variable = Some("02:00:00:00:00:03");
    let last = |text: &str, mac| vhostuser(&config(text), &pod(mac)).port.mac.map(|mac| mac.to_string());
    assert_eq!(last(&text(runtime, args), variable).as_deref(), Some("02:00:00:00:00:01"));
    assert_eq!(last(&text("", args), variable).as_deref(), Some("02:00:00:00:00:02"));
    assert_eq!(last(&text("", ""), variable).as_deref(), Some("02:00:00:00:00:03"));
    // Nobody's: the result has one, the guest may use another.
    assert_eq!(last(&text("", ""), None), None);
    // Multus' cni-args may be anything.
    assert_eq!(last(&text("", r#""mac":5,"x":[1]"#), None), None);
}

#[test]
fn a_wrong_value_does_not_keep_del_from_its_work() {
    let text = r#"{"cniVersion":"1.0.0","name":"lab-net","vlan":"120","stateDir":"/x","ipam":{"type":"host-local"},
        "prevResult":[],"runtimeConfig":5}"#;
    let input = Input::read(&mut text.as_bytes()).unwrap();
    assert_eq!(input.config().unwrap_err().code, Code::Decode);
    let config = input.lenient().unwrap();
    assert_eq!((config.network_name(), config.ipam_type(), config.vlan), (Ok("lab-net"), Some("host-local"), None));
    assert_eq!(Places::of(&config).unwrap().state_dir, Path::new("/x"));
    for text in ["", "[]", "{", "null", "5", "\"x\""] {
        assert_eq!(Input::read(&mut text.as_bytes()).unwrap_err().code, Code::Decode, "{text}");
    }
    let large = vec![b' '; culvert_cni::config::MAX_BYTES + 1];
    assert_eq!(Input::read(&mut large.as_slice()).unwrap_err().code, Code::Decode);
    let deep = format!(r#"{{"prevResult":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    assert_eq!(Input::read(&mut deep.as_bytes()).unwrap().config().unwrap_err().code, Code::Decode);
}
