//! What several tests ask for: the built overlays, the networks, the images.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::files::{documents, root, yaml_files};
use crate::kustomize::{Image, Kustomization, build, kind, name};
use crate::typed::Network;

/// Every overlay by its name, built.
pub fn overlays() -> BTreeMap<String, Vec<Value>> {
    // The self-signed certificate's files are made by a script, in the folder itself: in a copy here.
    let copy = tempfile::tempdir().unwrap();
    copy_folder(&root(), copy.path());
    let script = copy.path().join("components/certificate-self-signed/make-certificate");
    let made = Command::new(&script).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let folders = std::fs::read_dir(copy.path().join("overlays")).unwrap().map(|entry| entry.unwrap().path());
    folders.map(|folder| (folder.file_name().unwrap().to_str().unwrap().to_owned(), build(&folder))).collect()
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&target).unwrap();
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The object of an overlay with this kind and name.
pub fn object<'a>(objects: &'a [Value], wanted: (&str, &str)) -> &'a Value {
    let found = objects.iter().find(|object| (kind(object), name(object)) == wanted);
    found.unwrap_or_else(|| panic!("there is no {wanted:?}"))
}

/// The definitions in networks/, by namespace and name.
pub fn networks() -> BTreeMap<String, Network> {
    let files = yaml_files(&root().join("networks"));
    let all = files.iter().filter(|path| !path.ends_with("kustomization.yaml")).flat_map(|path| documents(path));
    let typed = all.map(|object| serde_json::from_value::<Network>(object).unwrap());
    typed.map(|network| (format!("{}/{}", network.metadata.namespace, network.metadata.name), network)).collect()
}

pub fn images() -> Vec<Image> {
    Kustomization::read(&root().join("base/kustomization.yaml")).images
}
