//! What `kustomize build` makes of a folder, as far as ours use it: resources, components, patches (strategic merge),
//! generators without their hashes, images, labels and the namespace. Anything else in a kustomization is an error here.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::files::{documents, read};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Kustomization {
    api_version: String,
    kind: String,
    namespace: Option<String>,
    #[serde(default)]
    pub resources: Vec<String>,
    #[serde(default)]
    pub components: Vec<String>,
    #[serde(default)]
    pub patches: Vec<Patch>,
    #[serde(default)]
    config_map_generator: Vec<Generator>,
    #[serde(default)]
    secret_generator: Vec<Generator>,
    #[serde(default)]
    pub images: Vec<Image>,
    #[serde(default)]
    labels: Vec<Labels>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Patch {
    pub path: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Generator {
    name: String,
    namespace: Option<String>,
    r#type: Option<String>,
    files: Vec<String>,
    #[expect(dead_code, reason = "no hashes are made here")]
    options: Option<GeneratorOptions>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(dead_code, reason = "for its keys")]
struct GeneratorOptions {
    disable_name_suffix_hash: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Image {
    pub name: String,
    pub new_name: String,
    pub new_tag: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Labels {
    pairs: Map<String, Value>,
}

impl Kustomization {
    pub fn read(path: &Path) -> Self {
        let read: Self =
            serde_norway::from_str(&read(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let expected = match read.kind.as_str() {
            "Component" => "kustomize.config.k8s.io/v1alpha1",
            "Kustomization" => "kustomize.config.k8s.io/v1beta1",
            other => panic!("{}: kind {other}", path.display()),
        };
        assert_eq!(read.api_version, expected, "{}", path.display());
        read
    }
}

/// The objects that a folder stands for.
pub fn build(folder: &Path) -> Vec<Value> {
    let mut objects = Vec::new();
    add(folder, &mut objects);
    objects
}

fn add(folder: &Path, objects: &mut Vec<Value>) {
    let kustomization = Kustomization::read(&folder.join("kustomization.yaml"));
    let mut own = Vec::new();
    for resource in &kustomization.resources {
        let path = folder.join(resource);
        if path.is_dir() { add(&path, &mut own) } else { own.extend(documents(&path)) }
    }
    for generator in &kustomization.config_map_generator {
        own.push(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(generator), "data": files(folder, generator)}));
    }
    for generator in &kustomization.secret_generator {
        own.push(json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": metadata(generator), "type": generator.r#type,
            "stringData": files(folder, generator),
        }));
    }
    // A component works on everything that its user has.
    if kustomization.kind == "Component" {
        objects.append(&mut own);
    }
    let all = if kustomization.kind == "Component" { &mut *objects } else { &mut own };
    for component in &kustomization.components {
        add(&folder.join(component), all);
    }
    for patch in &kustomization.patches {
        for document in documents(&folder.join(&patch.path)) {
            let found = all.iter_mut().find(|object| identity(object) == identity(&document));
            let target = found.unwrap_or_else(|| panic!("{}: no object {:?}", patch.path, identity(&document)));
            merge(target, &document);
        }
    }
    for object in all.iter_mut() {
        transform(object, &kustomization);
    }
    if kustomization.kind == "Kustomization" {
        objects.append(&mut own);
    }
}

fn metadata(generator: &Generator) -> Value {
    json!({"name": generator.name, "namespace": generator.namespace})
}

fn files(folder: &Path, generator: &Generator) -> Value {
    generator
        .files
        .iter()
        .map(|file| (file.clone(), Value::from(read(&folder.join(file)))))
        .collect::<Map<_, _>>()
        .into()
}

pub fn kind(object: &Value) -> &str {
    object["kind"].as_str().unwrap()
}

pub fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap()
}

fn identity(object: &Value) -> (&str, &str) {
    (kind(object), name(object))
}

/// Strategic merge: objects by key, the lists of Kubernetes that have a key by that, other lists as a whole.
fn merge(target: &mut Value, patch: &Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (key, value) in patch {
                match (target.get_mut(key), value) {
                    (Some(Value::Array(list)), Value::Array(new)) => merge_list(key, list, new),
                    (Some(old), _) => merge(old, value),
                    (None, _) => drop(target.insert(key.clone(), value.clone())),
                }
            }
        }
        (target, patch) => *target = patch.clone(),
    }
}

fn merge_list(key: &str, list: &mut Vec<Value>, new: &[Value]) {
    let by = match key {
        "containers" | "env" | "initContainers" | "volumes" | "webhooks" => "name",
        "volumeMounts" => "mountPath",
        _ => {
            *list = new.to_vec();
            return;
        }
    };
    for value in new {
        match list.iter_mut().find(|old| old[by] == value[by]) {
            Some(old) => merge(old, value),
            None => list.push(value.clone()),
        }
    }
}

fn transform(object: &mut Value, kustomization: &Kustomization) {
    let is_clusters = CLUSTER_SCOPED.contains(&kind(object));
    if let Some(namespace) = &kustomization.namespace
        && !is_clusters
    {
        object["metadata"]["namespace"] = namespace.as_str().into();
    }
    for labels in &kustomization.labels {
        let metadata = object["metadata"].as_object_mut().unwrap();
        let own = metadata.entry("labels").or_insert_with(|| json!({}));
        own.as_object_mut().unwrap().extend(labels.pairs.clone());
    }
    for list in ["containers", "initContainers"] {
        let containers = object.pointer_mut(&format!("/spec/template/spec/{list}")).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let image = kustomization.images.iter().find(|image| container["image"] == image.name.as_str());
            if let Some(Image { new_name, new_tag, .. }) = image {
                container["image"] = format!("{new_name}:{new_tag}").into();
            }
        }
    }
}

pub const CLUSTER_SCOPED: [&str; 5] = [
    "ClusterRole",
    "ClusterRoleBinding",
    "MutatingWebhookConfiguration",
    "Namespace",
    "ValidatingWebhookConfiguration",
];
