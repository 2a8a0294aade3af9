//! What a virt-launcher pod gets: volumes for sockets, their mounts, and for our hook sidecars the environment variable
//! that tells where each interface's socket is.
//!
//! Pure: a pod in, a pod out. The pod is a tree of JSON, so that nothing is lost that this program does not know, and
//! doing it twice is doing it once. Volumes and mounts that are there already stay as they are: a KubeVirt or another
//! webhook may have its own way. [`crate::admission`] calls this.

use serde_json::{Map, Value, json};

use crate::attachment::{Attachment, Folder};
use crate::sidecar::Sidecars;

/// An interface of the pod and what it needs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Interface {
    /// Its name in the pod, which is its socket's name too.
    pub name: String,
    /// What it needs.
    pub attachment: Attachment,
}

/// Gives `pod` what `interfaces` and its sidecars need. What is returned are sentences about what was left undone.
pub fn edit(pod: &mut Value, interfaces: &[Interface], sidecars: &Sidecars) -> Vec<String> {
    let mut undone = Vec::new();
    let Some(compute) = container(pod, COMPUTE) else { return undone };
    let folders = Folders::of(compute, interfaces);

    let mut volumes = folders.volumes();
    if !volumes.is_empty() {
        volumes.push(Volume { name: PODINFO, path: PODINFO_FOLDER.to_owned(), source: podinfo() });
    }
    let translator_asked = interfaces.iter().any(|interface| interface.attachment == Attachment::Translator);
    if translator_asked || containers(pod).iter().any(|container| sidecars.is_translators(container)) {
        volumes.push(Volume { name: TRANSLATOR, path: TRANSLATOR_FOLDER.to_owned(), source: json!({"emptyDir": {}}) });
    }

    for volume in &volumes {
        add_volume(pod, volume);
    }
    for container in containers_mut(pod) {
        let is_sidecar = sidecars.is_ours(container);
        if !is_sidecar && container.get("name").and_then(Value::as_str) != Some(COMPUTE) {
            continue;
        }
        undone.extend(volumes.iter().filter_map(|volume| add_mount(container, volume)));
        if is_sidecar && !folders.0.is_empty() {
            set_environment(container, INTERFACES, &folders.text());
        }
    }
    undone
}

/// Where the socket of each vhost-user interface is.
struct Folders<'a>(Vec<Place<'a>>);

struct Place<'a> {
    interface: &'a str,
    /// `None` for a folder of the device plugin's.
    volume: Option<&'a str>,
    /// In the containers.
    folder: String,
    role: &'static str,
    queues: u32,
}

impl<'a> Folders<'a> {
    /// A volume that `compute` has mounted already is where it is. It is at one place, even when two definitions differ.
    fn of(compute: &Value, interfaces: &'a [Interface]) -> Self {
        let mut places: Vec<Place<'_>> = Vec::new();
        for Interface { name: interface, attachment } in interfaces {
            let Attachment::Vhostuser { folder, role, queues } = attachment else { continue };
            let (volume, folder) = match folder {
                Folder::Device(network) => (None, format!("{DEVICE_FOLDER}/{network}")),
                Folder::Volume { name, path } => {
                    let before = places.iter().find(|place| place.volume == Some(name)).map(|place| &place.folder);
                    let there = before.map(String::as_str).or_else(|| mount_of(compute, name));
                    (Some(name.as_str()), there.unwrap_or(path).to_owned())
                }
            };
            places.push(Place { interface, volume, folder, role: role.as_str(), queues: *queues });
        }
        Self(places)
    }

    /// Each volume once.
    fn volumes(&self) -> Vec<Volume<'a>> {
        let mut volumes: Vec<Volume<'_>> = Vec::new();
        for place in &self.0 {
            let Some(name) = place.volume else { continue };
            if !volumes.iter().any(|volume| volume.name == name) {
                volumes.push(Volume { name, path: place.folder.clone(), source: json!({"emptyDir": {}}) });
            }
        }
        volumes
    }

    /// As culvert-hook reads it.
    fn text(&self) -> String {
        let entry = |place: &Place<'_>| {
            (place.interface.to_owned(), json!({"folder": place.folder, "role": place.role, "queues": place.queues}))
        };
        Value::Object(self.0.iter().map(entry).collect::<Map<_, _>>()).to_string()
    }
}

struct Volume<'a> {
    name: &'a str,
    path: String,
    source: Value,
}

/// The pod's labels and annotations as files.
fn podinfo() -> Value {
    let item = |name: &str| json!({"path": name, "fieldRef": {"fieldPath": format!("metadata.{name}")}});
    json!({"downwardAPI": {"items": [item("labels"), item("annotations")]}})
}

fn add_volume(pod: &mut Value, volume: &Volume<'_>) {
    let Some(volumes) = pod.get_mut("spec").and_then(|spec| list(spec, "volumes")) else { return };
    if volumes.iter().any(|other| is_named(other, volume.name)) {
        return;
    }
    let mut source = volume.source.clone();
    if let Value::Object(fields) = &mut source {
        fields.insert("name".to_owned(), volume.name.into());
    }
    volumes.push(source);
}

/// Mounts `volume` unless it is mounted already; a sentence when another volume is in its place.
fn add_mount(container: &mut Value, volume: &Volume<'_>) -> Option<String> {
    if mount_of(container, volume.name).is_some() {
        return None;
    }
    let name = container.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let mounts = list(container, "volumeMounts")?;
    let path_of = |mount: &Value| mount.get("mountPath").and_then(Value::as_str).map(str::to_owned);
    if mounts.iter().filter_map(path_of).any(|path| path.trim_end_matches('/') == volume.path.trim_end_matches('/')) {
        return Some(format!(
            "culvert: container {name} has another volume at {}, so volume {} was not mounted; take that other one away",
            volume.path, volume.name
        ));
    }
    let mut mount = json!({"name": volume.name, "mountPath": volume.path});
    if volume.name == PODINFO
        && let Some(mount) = mount.as_object_mut()
    {
        mount.insert("readOnly".to_owned(), true.into());
    }
    mounts.push(mount);
    None
}

fn set_environment(container: &mut Value, name: &str, value: &str) {
    let Some(variables) = list(container, "env") else { return };
    variables
        .retain(|variable| !is_named(variable, name) || variable.get("value").and_then(Value::as_str) == Some(value));
    if !variables.iter().any(|variable| is_named(variable, name)) {
        variables.push(json!({"name": name, "value": value}));
    }
}

/// Where `container` has `volume`, as a whole.
fn mount_of<'a>(container: &'a Value, volume: &str) -> Option<&'a str> {
    let mounts = container.get("volumeMounts")?.as_array()?;
    mounts.iter().find(|mount| is_named(mount, volume))?.get("mountPath")?.as_str()
}

fn containers(pod: &Value) -> &[Value] {
    pod.pointer("/spec/containers").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn containers_mut(pod: &mut Value) -> &mut [Value] {
    pod.pointer_mut("/spec/containers").and_then(Value::as_array_mut).map_or(&mut [], Vec::as_mut_slice)
}

fn container<'a>(pod: &'a Value, name: &str) -> Option<&'a Value> {
    containers(pod).iter().find(|container| is_named(container, name))
}

/// The list `object[key]`, made if it is not there; `None` where something else is.
fn list<'a>(object: &'a mut Value, key: &str) -> Option<&'a mut Vec<Value>> {
    let value = object.as_object_mut()?.entry(key).or_insert(Value::Null);
    if value.is_null() {
        *value = json!([]);
    }
    value.as_array_mut()
}

fn is_named(object: &Value, name: &str) -> bool {
    object.get("name").and_then(Value::as_str) == Some(name)
}

/// The container of virt-launcher that QEMU runs in.
const COMPUTE: &str = "compute";
/// The environment variable that culvert-hook reads.
const INTERFACES: &str = "CULVERT_INTERFACES";
/// Where the device plugin puts a network's folder.
const DEVICE_FOLDER: &str = "/var/run/culvert";
const PODINFO: &str = "podinfo";
const PODINFO_FOLDER: &str = "/etc/podnetinfo";
const TRANSLATOR: &str = "culvert-translator";
const TRANSLATOR_FOLDER: &str = "/var/run/culvert-translator";

#[cfg(test)]
mod tests;
