//! KubeVirt's objects, as far as we use them: virtual machines, and the part of the KubeVirt CR that registers bindings
//! (staging/src/kubevirt.io/api/core/v1 of KubeVirt 1.9).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde::Deserialize;

use crate::files::{documents, root, yaml_files};
use crate::objects::{images, networks};
use crate::typed::{Empty, Metadata};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "for its keys")]
pub struct VirtualMachine {
    api_version: String,
    kind: String,
    pub metadata: Metadata,
    spec: VirtualMachineSpec,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "for its keys")]
struct VirtualMachineSpec {
    run_strategy: String,
    template: Template,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "for its keys")]
struct Template {
    metadata: TemplateMetadata,
    spec: InstanceSpec,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "for its keys")]
struct TemplateMetadata {
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct InstanceSpec {
    eviction_strategy: String,
    domain: Domain,
    networks: Vec<Network>,
    volumes: Vec<Volume>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "for its keys")]
struct Domain {
    cpu: Cpu,
    memory: Memory,
    resources: Option<Resources>,
    devices: Devices,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "for its keys")]
struct Cpu {
    sockets: Option<u32>,
    cores: u32,
    threads: Option<u32>,
    #[serde(default)]
    dedicated_cpu_placement: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "for its keys")]
struct Memory {
    guest: Quantity,
    hugepages: Option<Hugepages>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "for its keys")]
struct Hugepages {
    page_size: Quantity,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Resources {
    #[serde(default)]
    requests: BTreeMap<String, Quantity>,
    #[serde(default)]
    limits: BTreeMap<String, Quantity>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "for its keys")]
struct Devices {
    #[serde(default)]
    network_interface_multiqueue: bool,
    disks: Vec<Disk>,
    interfaces: Vec<Interface>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "for its keys")]
struct Disk {
    name: String,
    disk: DiskTarget,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "for its keys")]
struct DiskTarget {
    bus: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "for its keys")]
struct Interface {
    name: String,
    binding: Option<BindingName>,
    masquerade: Option<Empty>,
    mac_address: Option<String>,
    #[serde(default)]
    ports: Vec<Port>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BindingName {
    name: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "for its keys")]
struct Port {
    name: String,
    port: u16,
    protocol: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Network {
    name: String,
    pod: Option<Empty>,
    multus: Option<Multus>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Multus {
    network_name: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "for its keys")]
struct Volume {
    name: String,
    container_disk: Option<ContainerDisk>,
    cloud_init_no_cloud: Option<CloudInit>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "for its keys")]
struct ContainerDisk {
    image: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "for its keys")]
struct CloudInit {
    user_data: String,
}

/// A patch of the KubeVirt CR.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CrPatch {
    spec: CrSpec,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CrSpec {
    configuration: Configuration,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Configuration {
    #[serde(default)]
    network: NetworkConfiguration,
    migrations: Option<Migrations>,
    #[serde(default)]
    support_container_resources: Vec<SupportContainer>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Migrations {
    network: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct NetworkConfiguration {
    binding: BTreeMap<String, Binding>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Binding {
    pub sidecar_image: Option<String>,
    network_attachment_definition: Option<String>,
    domain_attachment_type: Option<String>,
    migration: Option<Migration>,
    #[serde(rename = "downwardAPI")]
    downward_api: Option<String>,
    compute_resource_overhead: Option<Resources>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Migration {
    method: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SupportContainer {
    r#type: String,
    resources: Resources,
}

fn patches() -> Vec<(String, CrPatch)> {
    let read = |path: &std::path::PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let mut documents = documents(path);
        assert_eq!(documents.len(), 1, "{name}");
        let patch = serde_json::from_value(documents.remove(0)).unwrap_or_else(|error| panic!("{name}: {error}"));
        (name, patch)
    };
    yaml_files(&root().join("kubevirt")).iter().map(read).collect()
}

/// The bindings as they are registered when every patch was applied.
pub fn bindings() -> BTreeMap<String, Binding> {
    let mut bindings = BTreeMap::<String, Binding>::new();
    for (_, patch) in patches() {
        for (name, new) in patch.spec.configuration.network.binding {
            let binding = bindings.entry(name).or_default();
            binding.sidecar_image = new.sidecar_image.or(binding.sidecar_image.take());
            binding.network_attachment_definition =
                new.network_attachment_definition.or(binding.network_attachment_definition.take());
            binding.domain_attachment_type = new.domain_attachment_type.or(binding.domain_attachment_type.take());
            binding.migration = new.migration.or(binding.migration.take());
            binding.downward_api = new.downward_api.or(binding.downward_api.take());
            binding.compute_resource_overhead =
                new.compute_resource_overhead.or(binding.compute_resource_overhead.take());
        }
    }
    bindings
}

#[test]
fn bindings_are_registered_as_kubevirt_reads_them() {
    for (name, binding) in bindings() {
        let attachment = binding.domain_attachment_type.as_deref();
        assert!(attachment.is_none_or(|kind| kind == "tap"), "{name}");
        assert!(binding.downward_api.is_none_or(|kind| kind == "device-info"), "{name}");
        let method = binding.migration.and_then(|migration| migration.method);
        assert!(method.is_none_or(|method| method == "link-refresh"), "{name}");
        assert!(binding.sidecar_image.is_some() || attachment.is_some(), "{name} does nothing");
        let images = images();
        let image = images.iter().find(|image| image.name == "culvert").unwrap();
        let expected = format!("{}:{}", image.new_name, image.new_tag);
        assert!(binding.sidecar_image.is_none_or(|image| image == expected), "{name}: not the image of base/");
        // KubeVirt uses no other.
        let overhead =
            binding.compute_resource_overhead.unwrap_or(Resources { requests: [].into(), limits: [].into() });
        assert!(overhead.requests.keys().all(|key| key == "memory") && overhead.limits.is_empty(), "{name}");
        if let Some(network) = binding.network_attachment_definition {
            assert!(networks().contains_key(&network), "{name} names {network}");
        }
    }
}

/// KubeVirt looks in its own namespace, and its handlers end where their interface has no address.
#[test]
fn migrations_take_a_network_that_gives_addresses() {
    let named = |patch: CrPatch| patch.spec.configuration.migrations;
    let wishes: Vec<_> = patches().into_iter().filter_map(|(_, patch)| named(patch)).collect();
    let [Migrations { network }] = wishes.as_slice() else { panic!("{wishes:?}") };
    let networks = networks();
    assert!(networks.contains_key(&format!("kubevirt/{network}")), "{network}");
    for (name, definition) in networks.iter().filter(|(name, _)| name.starts_with("kubevirt/")) {
        let config: serde_json::Value = serde_json::from_str(&definition.spec.config).unwrap();
        assert!(config["ipam"]["type"].is_string(), "{name}");
    }
}

/// By its DHCP server a guest on the pod's network learns the new pod's address, if it asks again.
#[test]
fn a_guest_on_the_translator_is_made_to_ask_for_its_address_again_when_it_has_migrated() {
    let method = |name: &str| bindings().remove(name).unwrap().migration.map(|migration| migration.method);
    assert_eq!(method("culvert-translator"), Some(Some("link-refresh".to_owned())));
    assert_eq!(method("culvert"), Some(None), "a guest on one of culvertd's networks keeps its address");
}

#[test]
fn bindings_can_be_used_before_migration_and_tap_are_applied() {
    let (_, patch) = patches().into_iter().find(|(name, _)| name == "bindings.yaml").unwrap();
    let names: Vec<_> = patch.spec.configuration.network.binding.into_keys().collect();
    assert_eq!(names, ["culvert", "culvert-translator"]);
    let [support] = patch.spec.configuration.support_container_resources.try_into().unwrap();
    assert_eq!(support.r#type, "sidecar");
    for (name, limit) in [("cpu", "1"), ("memory", "384Mi")] {
        assert_eq!(support.resources.limits[name], Quantity(limit.to_owned()));
        assert!(support.resources.requests.contains_key(name));
    }
}

#[test]
fn virtual_machines_use_what_is_there() {
    let (bindings, networks) = (bindings(), networks());
    let mut used = Vec::new();
    for path in yaml_files(&root().join("examples")) {
        for object in documents(&path).into_iter().filter(|object| object["kind"] == "VirtualMachine") {
            let machine: VirtualMachine = serde_json::from_value(object).unwrap();
            let name = &machine.metadata.name;
            assert_eq!(path.file_stem().unwrap().to_str(), Some(format!("vm-{name}").as_str()));
            let InstanceSpec { domain, networks: own, eviction_strategy, volumes } = machine.spec.template.spec;
            let disks: Vec<_> = domain.devices.disks.iter().map(|disk| &disk.name).collect();
            assert_eq!(disks, volumes.iter().map(|volume| &volume.name).collect::<Vec<_>>(), "{name}");
            assert_eq!(eviction_strategy, "None", "{name}: it cannot migrate");
            assert_eq!(domain.devices.interfaces.len(), own.len(), "{name}");
            for interface in &domain.devices.interfaces {
                let network = own.iter().find(|network| network.name == interface.name).unwrap();
                let Some(BindingName { name: binding }) = &interface.binding else {
                    assert!(interface.masquerade.is_some() && network.pod.is_some(), "{name}");
                    continue;
                };
                assert!(bindings.contains_key(binding), "{name}: nobody registers {binding}");
                used.push(binding.clone());
                match (binding.as_str(), &network.multus) {
                    ("culvert-translator", None) => assert!(network.pod.is_some(), "{name}"),
                    ("culvert", Some(Multus { network_name })) => {
                        let definition = networks.get(network_name).unwrap_or_else(|| panic!("{name}: {network_name}"));
                        assert!(definition.spec.config.contains("vhostuser"), "{name}");
                        // Bindings and definitions are looked up in the VM's namespace unless they name another.
                        assert_eq!(machine.metadata.namespace, definition.metadata.namespace, "{name}");
                    }
                    other => panic!("{name}: {other:?}"),
                }
                let protocols = interface.ports.iter().map(|port| port.protocol.as_str());
                assert!(protocols.into_iter().all(|protocol| ["TCP", "UDP"].contains(&protocol)), "{name}");
            }
        }
    }
    used.sort();
    used.dedup();
    assert_eq!(used, ["culvert", "culvert-translator"]);
}
