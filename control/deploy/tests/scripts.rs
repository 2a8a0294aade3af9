//! The installer of culvert-cni and the maker of the webhook's certificate, as an administrator's cluster runs them.
#![expect(clippy::unwrap_used, reason = "these are tests")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use culvert_webhook::certificate;
use serde_json::Value;
use tempfile::TempDir;

struct Node {
    folder: TempDir,
}

impl Node {
    /// A node, the image's program and the service account.
    fn new() -> Self {
        let node = Self { folder: TempDir::new().unwrap() };
        fs::create_dir(node.at("account")).unwrap();
        fs::write(node.at("account/token"), "first").unwrap();
        fs::write(node.at("account/ca.crt"), "-----BEGIN CERTIFICATE-----\n").unwrap();
        fs::write(node.at("culvert-cni"), "version 1").unwrap();
        node
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn install(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
        Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("install-cni"))
            .args(arguments)
            .env("BIN_DIR", self.at("bin"))
            .env("CONF_DIR", self.at("conf"))
            .env("PLUGIN", self.at("culvert-cni"))
            .env("ACCOUNT", self.at("account"))
            // Once, and not for ever.
            .env("INTERVAL", "0")
            .env("KUBERNETES_SERVICE_HOST", "10.96.0.1")
            .env("KUBERNETES_SERVICE_PORT", "6443")
            .envs(environment.iter().copied())
            .output()
            .unwrap()
    }

    fn kubeconfig(&self) -> Value {
        serde_norway::from_str(&fs::read_to_string(self.at("conf/culvert.kubeconfig")).unwrap()).unwrap()
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn the_plugin_is_put_there_as_a_whole_and_replaced_without_touching_the_old_file() {
    let node = Node::new();
    assert!(node.install(&["plugin"], &[]).status.success());
    assert_eq!(names(&node.at("bin")), ["culvert-cni"]);
    let plugin = node.at("bin/culvert-cni");
    let first = fs::metadata(&plugin).unwrap();
    assert_eq!(first.permissions().mode() & 0o777, 0o755);

    // A runtime runs the old program: its file must not change under it.
    let running = fs::File::open(&plugin).unwrap();
    fs::write(node.at("culvert-cni"), "version 2").unwrap();
    assert!(node.install(&["plugin"], &[]).status.success());
    assert_eq!(fs::read_to_string(&plugin).unwrap(), "version 2");
    assert_ne!(fs::metadata(&plugin).unwrap().ino(), first.ino());
    assert_eq!(std::io::read_to_string(running).unwrap(), "version 1");
    assert_eq!(names(&node.at("bin")), ["culvert-cni"]);
}

#[test]
fn userspaces_name_is_taken_only_when_asked_for() {
    let node = Node::new();
    fs::create_dir(node.at("bin")).unwrap();
    fs::write(node.at("bin/userspace"), "another's").unwrap();
    assert!(node.install(&["plugin"], &[("INSTALL_USERSPACE", "false")]).status.success());
    assert_eq!(fs::read_to_string(node.at("bin/userspace")).unwrap(), "another's");
    assert!(node.install(&["plugin"], &[("INSTALL_USERSPACE", "true")]).status.success());
    assert_eq!(fs::read_to_string(node.at("bin/userspace")).unwrap(), "version 1");
}

#[test]
fn a_failed_installation_leaves_the_old_program_and_nothing_else() {
    let node = Node::new();
    assert!(node.install(&["plugin"], &[]).status.success());
    fs::remove_file(node.at("culvert-cni")).unwrap();
    let output = node.install(&["plugin"], &[]);
    assert!(!output.status.success());
    assert_eq!(names(&node.at("bin")), ["culvert-cni"]);
    assert_eq!(node.install(&["pluggin"], &[]).status.code(), Some(64));
}

#[test]
fn the_kubeconfig_has_the_token_and_is_roots_alone() {
    let node = Node::new();
    assert!(node.install(&["kubeconfig"], &[]).status.success());
    let config = node.kubeconfig();
    assert_eq!(config["clusters"][0]["cluster"]["server"], "https://10.96.0.1:6443");
    assert_eq!(
        config["clusters"][0]["cluster"]["certificate-authority-data"],
        "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCg=="
    );
    assert_eq!(config["users"][0]["user"]["token"], "first");
    assert_eq!(config["contexts"][0]["context"]["user"], config["users"][0]["name"]);
    assert_eq!(config["current-context"], config["contexts"][0]["name"]);
    let mode = fs::metadata(node.at("conf/culvert.kubeconfig")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    fs::write(node.at("account/token"), "second").unwrap();
    let output = node.install(&["kubeconfig"], &[("KUBERNETES_SERVICE_HOST", "fd00::1")]);
    assert!(output.status.success());
    let config = node.kubeconfig();
    assert_eq!(config["users"][0]["user"]["token"], "second");
    assert_eq!(config["clusters"][0]["cluster"]["server"], "https://[fd00::1]:6443");
    assert_eq!(names(&node.at("conf")), ["culvert.kubeconfig"]);
}

#[test]
fn the_certificate_that_is_made_is_one_that_the_webhook_takes_and_the_api_server_knows() {
    let folder = TempDir::new().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("components/certificate-self-signed/make-certificate");
    let output = Command::new(script).arg(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(names(folder.path()), ["ca-bundle-validating.yaml", "ca-bundle.yaml", "tls.crt", "tls.key"]);
    let (path, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    certificate::read(path.clone(), key).unwrap();

    for patch in ["ca-bundle.yaml", "ca-bundle-validating.yaml"] {
        let patch: Value = serde_norway::from_str(&fs::read_to_string(folder.path().join(patch)).unwrap()).unwrap();
        let bundle = patch["webhooks"][0]["clientConfig"]["caBundle"].as_str().unwrap();
        let decoded = Command::new("sh").arg("-c").arg("printf %s \"$0\" | base64 -d").arg(bundle).output().unwrap();
        assert_eq!(decoded.stdout, fs::read(&path).unwrap());
    }
    let text = Command::new("openssl").args(["x509", "-noout", "-text", "-in"]).arg(&path).output().unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("DNS:culvert-webhook.culvert-system.svc"), "{text}");
    assert!(text.contains("TLS Web Server Authentication"), "{text}");
}

#[test]
fn the_images_are_built_with_the_toolchain_of_the_repository_and_hold_programs_of_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = fs::read_to_string(folder.join("Containerfile")).unwrap();
    let toolchain = fs::read_to_string(folder.join("../../rust-toolchain.toml")).unwrap();
    let channel = toolchain.split('"').nth(1).unwrap();
    assert!(file.contains(&format!("FROM docker.io/library/rust:{channel}-bookworm AS build")), "{channel}");

    let manifest = fs::read_to_string(folder.join("../../Cargo.toml")).unwrap();
    let members = manifest.lines().filter_map(|line| line.trim().strip_prefix('"')?.strip_suffix("\","));
    let packages: Vec<String> = members
        .map(|member| fs::read_to_string(folder.join("../..").join(member).join("Cargo.toml")).unwrap())
        .map(|text| text.lines().find_map(|line| line.strip_prefix("name = ")).unwrap().trim_matches('"').to_owned())
        .collect();
    let words: Vec<_> = file.split_whitespace().collect();
    let built: Vec<_> = words.windows(2).filter(|pair| pair[0] == "-p").map(|pair| pair[1]).collect();
    assert_eq!(built.len(), 6, "{built:?}");
    for package in built {
        assert!(packages.iter().any(|known| known == package), "there is no package {package}");
    }
    // What an image takes was put aside by the build, and the manifests call it there.
    let put_aside: Vec<_> =
        words.iter().filter(|word| word.starts_with("target/") || word.ends_with("/install-cni")).collect();
    for taken in words.iter().filter_map(|word| word.strip_prefix("/out/")) {
        assert!(put_aside.iter().any(|path| path.ends_with(&format!("/{taken}"))), "nobody builds {taken}");
    }
    let called = fs::read_to_string(folder.join("base/cni.yaml")).unwrap();
    assert!(called.contains("/usr/lib/culvert/install-cni") && file.contains("/out/install-cni /usr/lib/culvert/"));
}
