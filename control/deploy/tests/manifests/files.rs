//! The files of control/deploy: where they are, what is in them, and that none was forgotten.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::kustomize::Kustomization;
use crate::typed;

/// control/deploy.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The documents of a YAML file.
pub fn documents(path: &Path) -> Vec<Value> {
    let text = read(path);
    let documents = serde_norway::Deserializer::from_str(&text);
    documents
        .map(|document| Value::deserialize(document).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
        .collect()
}

/// All YAML files below a folder.
pub fn yaml_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(yaml_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// Whether a file is a patch: a part of an object.
fn is_patch(path: &Path) -> bool {
    let folder = path.parent().unwrap();
    let kustomization = folder.join("kustomization.yaml");
    kustomization.exists()
        && Kustomization::read(&kustomization).patches.iter().any(|patch| folder.join(&patch.path) == path)
}

/// Whether make-certificate makes a file.
fn is_made(path: &Path) -> bool {
    path.file_name().unwrap().to_str().unwrap().starts_with("ca-bundle")
}

#[test]
fn every_file_is_of_a_known_kind_and_has_known_keys_only() {
    let mut objects = 0;
    for path in yaml_files(&root()) {
        if path.ends_with("kustomization.yaml") {
            Kustomization::read(&path);
            continue;
        }
        if path.starts_with(root().join("kubevirt")) {
            // Tested as patches of the KubeVirt CR.
            continue;
        }
        for document in documents(&path) {
            // A patch lacks what the object requires: it is tested in the built overlay.
            if !is_patch(&path) {
                typed::check(&document).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            }
            objects += 1;
        }
    }
    assert!(objects > 25, "only {objects} objects were found");
}

#[test]
fn every_file_is_named_by_the_kustomization_beside_it() {
    for folder in ["base", "networks", "examples", "components", "overlays"] {
        for path in yaml_files(&root().join(folder)) {
            if path.ends_with("kustomization.yaml") || is_made(&path) {
                continue;
            }
            let kustomization = Kustomization::read(&path.with_file_name("kustomization.yaml"));
            let name = path.file_name().unwrap().to_str().unwrap();
            let resources = kustomization.resources.iter().map(String::as_str);
            let patches = kustomization.patches.iter().map(|patch| patch.path.as_str());
            assert!(resources.chain(patches).any(|named| named == name), "nobody names {}", path.display());
        }
    }
}

#[test]
fn every_component_is_used_by_an_overlay() {
    let overlays = yaml_files(&root().join("overlays"));
    let used: Vec<_> = overlays.iter().flat_map(|path| Kustomization::read(path).components).collect();
    for entry in std::fs::read_dir(root().join("components")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(used.contains(&format!("../../components/{name}")), "no overlay uses {name}");
    }
}
