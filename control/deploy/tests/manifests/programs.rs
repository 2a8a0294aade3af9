//! What the manifests tell our programs, as the programs read it: command lines, configurations, folders.

use std::path::Path;

use clap::Parser;
use culvert_cni::config::Config as NetworkConfig;
use culvert_cni::config::settings::{Places, Role, Settings};
use culvert_cni::environment::Pod;
use culvert_webhook::arguments::Arguments as WebhookArguments;
use culvert_webhook::attachment::{Attachment, Definition, Folder};
use culvert_webhook::retirement::Policy;
use culvert_webhook::stage::Stage;
use culvertd::arguments::Arguments as DaemonArguments;
use culvertd::config::{Config as DaemonConfig, Machine, Objects};
use serde_json::Value;

use crate::files::{documents, root, yaml_files};
use crate::kubevirt::bindings;
use crate::kustomize::name;
use crate::objects::{images, networks, object, overlays};

fn daemon_config(path: &Path) -> DaemonConfig {
    let machine = Machine { cores: (0..4).collect(), memory_mb: 8192 };
    DaemonConfig::load(path, &machine, &Objects::default()).unwrap_or_else(|mistakes| panic!("{mistakes:?}"))
}

fn args<'a>(program: &'a str, container: &'a Value) -> Vec<&'a str> {
    let args = container["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap());
    std::iter::once(program).chain(args).collect()
}

fn mounts(pod: &Value) -> Vec<(&str, &str)> {
    let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
    let path_of = |name: &Value| {
        let volume = pod["volumes"].as_array().unwrap().iter().find(|volume| &volume["name"] == name).unwrap();
        volume["hostPath"]["path"].as_str().unwrap_or_default()
    };
    mounts.iter().map(|mount| (mount["mountPath"].as_str().unwrap(), path_of(&mount["name"]))).collect()
}

#[test]
fn culvertd_reads_its_configuration_and_its_command_line() {
    let config = daemon_config(&root().join("base/culvertd.toml"));
    daemon_config(&root().join("culvertd.toml"));
    for (_, objects) in overlays() {
        let map = object(&objects, ("ConfigMap", "culvertd-config"));
        assert!(map["data"]["culvertd.toml"].as_str().unwrap().contains("[datapath]"));
        let pod = &object(&objects, ("DaemonSet", "culvertd"))["spec"]["template"]["spec"];
        let arguments = DaemonArguments::try_parse_from(args("culvertd", &pod["containers"][0])).unwrap();
        assert_eq!(arguments.config, Path::new("/etc/culvert/culvertd.toml"));

        // What others are told of is at the node's own paths.
        let mounts = mounts(pod);
        let is_shared = |path: &Path| {
            let same = |(inside, outside): &&(&str, &str)| inside == outside && path.starts_with(inside);
            assert!(mounts.iter().any(|mount| same(&mount)), "{} is not the node's", path.display());
        };
        is_shared(&config.daemon.control_socket);
        is_shared(&config.daemon.state_dir);
        is_shared(config.daemon.devices.kubelet_device_plugins.as_deref().expect("the device plugin is on"));
        let places = Places::of(&NetworkConfig::default()).unwrap();
        assert_eq!(places.control_socket, config.daemon.control_socket);
        is_shared(&places.removals_dir);
        is_shared(&places.kubelet_root.join("pods"));
        for path in ["/run/culvert/devices", "/run/culvert/pods", "/run/netns", "/run/k8s.cni.cncf.io/devinfo/dp"] {
            is_shared(Path::new(path));
        }
    }
}

#[test]
fn the_webhook_reads_its_command_line() {
    for (overlay, objects) in overlays() {
        let pod = &object(&objects, ("Deployment", "culvert-webhook"))["spec"]["template"]["spec"];
        let container = &pod["containers"][0];
        let args = [&args("culvert-webhook", container)[..], &["--api-host=10.96.0.1"]].concat();
        let arguments = WebhookArguments::try_parse_from(args).unwrap();
        assert_eq!(arguments.listen.port(), 8443);
        let folder = Path::new(container["volumeMounts"][0]["mountPath"].as_str().unwrap());
        for file in [&arguments.certificate, &arguments.key] {
            assert!(file.starts_with(folder), "{overlay}: {}", file.display());
        }
        // KubeVirt before 1.3 is not supported, and later ones refuse passt's old API.
        assert_eq!(arguments.policy(), Policy { passt: Stage::Block, vhostuser: Stage::Allow }, "{overlay}");
        // It knows each sidecar that the bindings make, by both of its ways.
        for (binding, registered) in bindings() {
            if registered.sidecar_image.is_some() {
                assert!(arguments.binding.contains(&binding), "{overlay}: --binding has no {binding}");
            }
        }
        let images = images();
        let image = images.iter().find(|image| image.name == "culvert").unwrap();
        assert_eq!(arguments.sidecar_image, std::slice::from_ref(&image.new_name), "{overlay}");
    }
}

#[test]
fn networks_are_of_the_plugins_grammar_and_mean_what_their_files_say() {
    let volume = |path: &str, role, queues| Attachment::Vhostuser {
        folder: Folder::Volume { name: "shared-dir".to_owned(), path: path.to_owned() },
        role,
        queues,
    };
    let device = Attachment::Vhostuser { folder: Folder::Device("blue".to_owned()), role: Role::Listen, queues: 16 };
    let expected = [
        ("culvert-system/culvert-tap", Attachment::Translator),
        ("culvert-system/culvert-translator", Attachment::Translator),
        ("kubevirt/culvert-migration", Attachment::Other),
        ("kubevirt/plain-migration", Attachment::Other),
        ("lab/blue", volume("/var/lib/cni/usrcni", Role::Listen, 16)),
        ("lab/blue-counted", device),
        ("lab/blue-tap", Attachment::Other),
        ("lab/blue-vlan120", volume("/var/lib/cni/usrcni", Role::Listen, 16)),
        ("lab/from-userspace", volume("/var/lib/cni/usrspcni", Role::Connect, 1)),
    ];
    let files = yaml_files(&root().join("networks"));
    let objects: Vec<_> =
        files.iter().filter(|path| !path.ends_with("kustomization.yaml")).flat_map(|path| documents(path)).collect();
    assert_eq!(objects.len(), expected.len());
    for object in objects {
        let full = format!("{}/{}", object["metadata"]["namespace"].as_str().unwrap(), name(&object));
        let (_, meaning) = expected.iter().find(|(name, _)| *name == full).unwrap_or_else(|| panic!("{full} is new"));
        let definition: Definition = serde_json::from_value(object).unwrap();
        assert_eq!(definition.attachment().as_ref(), Ok(meaning), "{full}");
    }
}

#[test]
fn networks_lead_to_networks_of_culvertd_with_ports_where_they_are_counted() {
    let config = daemon_config(&root().join("base/culvertd.toml"));
    for (full, network) in networks() {
        let text = &network.spec.config;
        let value: Value = serde_json::from_str(text).unwrap();
        // CNI's name of the network is the definition's, so that records and addresses are found by it.
        assert_eq!(value["name"], network.metadata.name.as_str(), "{full}");
        if full == "kubevirt/plain-migration" {
            continue;
        }
        assert_eq!(value["type"], "culvert-cni", "{full}");
        let config_of_network: NetworkConfig = serde_json::from_str(text).unwrap();
        let settings = Settings::of(&config_of_network, &Pod::default());
        let find = |name: &str| config.objects.networks.iter().find(|known| known.wanted.name.as_str() == name);
        if let Ok(Settings::Netdev(port)) = &settings {
            assert!(find(&port.network).is_some(), "{full}: {}", port.network);
        }
        let Ok(Settings::Vhostuser(settings)) = settings else { continue };
        let found = find(&settings.port.network);
        // Userspace CNI's grammar makes its networks.
        assert!(found.is_some() || settings.userspace.is_some(), "{full}: {}", settings.port.network);
        if let Some(resource) = network.metadata.annotations.get("k8s.v1.cni.cncf.io/resourceName") {
            assert_eq!(resource, &format!("culvert.dev/{}", settings.port.network), "{full}");
            assert!(found.unwrap().wanted.guest_ports.is_some(), "{full}: culvertd offers no ports");
            // Multus tells the plugin of the device only if it asks.
            for capability in ["deviceID", "CNIDeviceInfoFile"] {
                assert_eq!(value["capabilities"][capability], true, "{full}");
            }
        }
    }
}
