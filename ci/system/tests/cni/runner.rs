//! Calls culvert-cni as libcni does, with everything that a test may want to have wrong: each variable, any input, a signal in the
//! middle. And a node for it: culvertd, kubelet's folder, a container's network namespace, an IPAM plugin.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::PathBuf;
use std::process::{Child, Command};

use anyhow::{Context, Result, ensure};
use culvert_system::cni;
use culvert_system::daemon::{Daemon, Node};
use culvert_system::paths::program;
use culvert_system::place::Namespace;
use serde_json::{Value, json};

/// The pod of the fixtures.
pub const POD: &str = "7b1c2d3e-0001-4a4a-9b9b-00112233aabb";
/// Its sandbox.
pub const CONTAINER: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";
/// The interface of the VMI's network dpdk-a.
pub const INTERFACE: &str = "pod494bb167e44";

/// A node and one pod on it.
pub struct Field {
    /// culvertd's configuration and folder.
    pub node: Node,
    /// The container.
    pub namespace: Namespace,
    /// The pod's volume `shared-dir`.
    pub volume: PathBuf,
    /// The folder of plugins.
    pub plugins: PathBuf,
}

/// A call in preparation.
#[derive(Clone)]
pub struct Call {
    program: PathBuf,
    /// The variables; those of a usual call at first.
    pub variables: Vec<(String, OsString)>,
}

/// How a call ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Whether the exit status was 0.
    pub success: bool,
    /// Standard output; null when there was none.
    pub answer: Value,
    /// Standard error.
    pub log: String,
}

impl Field {
    /// Makes it; culvertd is not started. Plugins are culvert-cni, `userspace` and Debian's host-local.
    pub fn new() -> Result<Self> {
        let node = Node::new()?;
        let kubelet = node.path("kubelet");
        let volume = kubelet.join("pods").join(POD).join("volumes/kubernetes.io~empty-dir/shared-dir");
        fs::create_dir_all(&volume)?;
        // As kubelet makes it for a pod with fsGroup 107.
        chown(&volume, None, Some(107))?;
        fs::set_permissions(&volume, Permissions::from_mode(0o2777))?;
        let plugins = node.path("plugins");
        fs::create_dir(&plugins)?;
        symlink(program("culvert-cni")?.canonicalize()?, plugins.join("culvert-cni"))?;
        symlink("culvert-cni", plugins.join("userspace"))?;
        symlink("/usr/lib/cni/host-local", plugins.join("host-local"))?;
        ensure!(plugins.join("host-local").exists(), "host-local is missing: run ci/setup");
        Ok(Self { node, namespace: Namespace::new("pod")?, volume, plugins })
    }

    /// A configuration of mode vhostuser, with further `keys`.
    pub fn config(&self, version: &str, keys: &Value) -> Value {
        let path = |name: &str| self.node.path(name).display().to_string();
        let mut config = json!({
            "cniVersion": version, "name": "lab-net", "type": "culvert-cni", "mode": "vhostuser", "network": "blue",
            "control_socket": path("culvertd.sock"), "stateDir": path("cni"), "removalsDir": path("state/removals"),
            "kubeletRoot": path("kubelet"), "devicesDir": path("devices"), "sharedDir": path("shared"),
        });
        for (key, value) in keys.as_object().into_iter().flatten() {
            config[key] = value.clone();
            if value.is_null() {
                config.as_object_mut().map(|config| config.remove(key));
            }
        }
        config
    }

    /// Debian's IPAM plugin, with its leases in the node's folder.
    pub fn host_local(&self) -> Value {
        json!({"type": "host-local", "subnet": "198.51.100.0/26", "dataDir": self.node.path("ipam").display().to_string()})
    }

    /// Puts a shell script among the plugins.
    pub fn plugin(&self, name: &str, script: &str) -> Result<()> {
        let path = self.plugins.join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n"))?;
        Ok(fs::set_permissions(&path, Permissions::from_mode(0o755))?)
    }

    /// A call as Multus makes it, for the pod.
    pub fn call(&self, verb: &str) -> Call {
        self.call_for(verb, CONTAINER, INTERFACE)
    }

    /// A call for another container or interface.
    pub fn call_for(&self, verb: &str, container: &str, interface: &str) -> Call {
        let arguments = format!(
            "IgnoreUnknown=true;K8S_POD_NAMESPACE=lab;K8S_POD_NAME=virt-launcher-fw-x1;\
             K8S_POD_INFRA_CONTAINER_ID={container};K8S_POD_UID={POD}"
        );
        let variables = [
            ("CNI_COMMAND", verb.into()),
            ("CNI_CONTAINERID", container.into()),
            ("CNI_NETNS", self.netns().into()),
            ("CNI_IFNAME", interface.into()),
            ("CNI_ARGS", arguments.into()),
            ("CNI_PATH", self.plugins.clone().into()),
        ];
        let variables = variables.map(|(name, value): (&str, OsString)| (name.to_owned(), value)).to_vec();
        Call { program: self.plugins.join("culvert-cni"), variables }
    }

    /// The path of the container's network namespace.
    pub fn netns(&self) -> String {
        format!("/run/netns/{}", self.namespace.name())
    }

    /// Nothing of any attachment is left: no port, record, socket or lease.
    pub fn check_clean(&self, daemon: &Daemon) -> Result<()> {
        let ports = daemon.ask("port list")?;
        ensure!(ports == json!([]), "ports are left: {ports}");
        for folder in ["cni", "shared", "state/removals"] {
            let left = files(&self.node.path(folder))?;
            ensure!(left.is_empty(), "left in {folder}: {left:?}");
        }
        let left = files(&self.volume)?;
        ensure!(left.is_empty(), "left in the pod's volume: {left:?}");
        // host-local keeps a lock and the last address.
        let leases = files(&self.node.path("ipam"))?;
        let leases: Vec<_> = leases.iter().filter(|path| path.contains("/198.51.100.")).collect();
        ensure!(leases.is_empty(), "addresses are left: {leases:?}");
        Ok(())
    }
}

/// All files below a folder; none when there is no such folder.
pub fn files(folder: &std::path::Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(files(&entry.path())?);
        } else {
            found.push(entry.path().display().to_string());
        }
    }
    Ok(found)
}

impl Call {
    /// Sets a variable; `None` removes it.
    pub fn with(mut self, name: &str, value: Option<&str>) -> Self {
        self.variables.retain(|(known, _)| known != name);
        self.variables.extend(value.map(|value| (name.to_owned(), value.into())));
        self
    }

    /// Calls another plugin.
    pub fn plugin(mut self, name: &str) -> Self {
        self.program.set_file_name(name);
        self
    }

    /// Starts it and writes its input.
    pub fn start(&self, input: &[u8]) -> Result<Child> {
        let mut plugin = Command::new(&self.program);
        cni::start(plugin.env_clear().env("PATH", "/usr/bin:/bin").envs(self.variables.iter().cloned()), input)
    }

    /// Runs it with any input.
    pub fn run_with(&self, input: &[u8]) -> Result<Outcome> {
        let output = self.start(input)?.wait_with_output()?;
        let printed = String::from_utf8(output.stdout).context("standard output")?;
        let answer = match printed.trim() {
            "" => Value::Null,
            text => serde_json::from_str(text).with_context(|| format!("printed {text:?}"))?,
        };
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!log.contains("panicked"), "{log}");
        Ok(Outcome { success: output.status.success(), answer, log })
    }

    /// Runs it with a configuration.
    pub fn run(&self, config: &Value) -> Result<Outcome> {
        self.run_with(config.to_string().as_bytes())
    }

    /// Runs it; it must succeed. Its answer.
    pub fn succeed(&self, config: &Value) -> Result<Value> {
        let outcome = self.run(config)?;
        ensure!(outcome.success, "{} {}", outcome.answer, outcome.log);
        Ok(outcome.answer)
    }

    /// Runs it; it must fail with this code. What it said.
    pub fn fail(&self, config: &Value, code: u32) -> Result<String> {
        self.fail_with(config.to_string().as_bytes(), code)
    }

    /// As [`Call::fail`], with any input.
    pub fn fail_with(&self, input: &[u8], code: u32) -> Result<String> {
        let Outcome { success, answer, log } = self.run_with(input)?;
        ensure!(!success && answer["code"] == code, "instead of code {code}: success is {success}, {answer} {log}");
        ensure!(answer["cniVersion"].is_string() && answer["msg"].is_string(), "{answer}");
        Ok(format!(
            "{}: {}",
            answer["msg"].as_str().unwrap_or_default(),
            answer["details"].as_str().unwrap_or_default()
        ))
    }
}
