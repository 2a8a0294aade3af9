//! Calls a network plugin as Multus and other runtimes do: a variable environment, a configuration on standard input, a result or an
//! error on standard output (the CNI specification, 1.1.0).

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::daemon::Node;
use crate::kube_pod::KubePod;

/// culvert-cni's part of a network, in a mode, with all that it keeps in the folder of a node.
pub fn culvert(node: &Node, mode: &str) -> Value {
    json!({
        "type": "culvert-cni", "mode": mode, "network": "blue", "control_socket": node.path("culvertd.sock"),
        "stateDir": node.path("cni"), "removalsDir": node.path("state/removals"),
        "sharedDir": node.path("pods"), "devicesDir": node.path("devices"),
    })
}

/// Debian's bridge with addresses of an IPv4 network, as a cluster's own network for pods.
pub fn bridge(node: &Node, subnet: &str) -> Value {
    json!({
        "type": "bridge", "bridge": "pods0", "isGateway": true,
        "ipam": {"type": "host-local", "dataDir": node.path("addresses"), "ranges": [[{"subnet": subnet}]], "routes": [{"dst": "0.0.0.0/0"}]},
    })
}

/// The text of a `.conflist` file.
pub fn network(name: &str, plugins: &[Value]) -> Value {
    json!({"cniVersion": "1.0.0", "name": name, "plugins": plugins})
}

/// Sets keys of a configuration.
pub fn with(mut config: Value, keys: &Value) -> Value {
    for (key, value) in keys.as_object().into_iter().flatten() {
        if let Some(object) = config.as_object_mut() {
            object.insert(key.clone(), value.clone());
        }
    }
    config
}

/// One interface of a container, for which plugins are called.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// CNI_CONTAINERID.
    pub container: String,
    /// CNI_NETNS; empty when the runtime has lost it.
    pub netns: String,
    /// CNI_IFNAME.
    pub interface: String,
    /// CNI_ARGS.
    pub arguments: String,
    /// CNI_PATH: a folder of plugins.
    pub plugins: PathBuf,
}

impl Attachment {
    /// As Multus calls its delegates for a pod whose sandbox has this id.
    pub fn of_pod(pod: &KubePod, sandbox: &str, netns: &str, interface: &str, plugins: &Path) -> Self {
        let KubePod { name, namespace, uid, .. } = pod;
        let arguments = format!(
            "IgnoreUnknown=true;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};\
             K8S_POD_INFRA_CONTAINER_ID={sandbox};K8S_POD_UID={uid}"
        );
        Self {
            container: sandbox.to_owned(),
            netns: netns.to_owned(),
            interface: interface.to_owned(),
            arguments,
            plugins: plugins.to_owned(),
        }
    }

    /// Calls the plugin that a configuration names in `type`, and returns its answer; null when it printed nothing.
    ///
    /// # Errors
    /// The plugin's own error, in which are its `code` and `msg`.
    pub fn call(&self, verb: &str, config: &Value) -> Result<Value> {
        let name = config.get("type").and_then(Value::as_str).context("a configuration without a type")?;
        let environment: [(&str, OsString); 6] = [
            ("CNI_COMMAND", verb.into()),
            ("CNI_CONTAINERID", self.container.clone().into()),
            ("CNI_NETNS", self.netns.clone().into()),
            ("CNI_IFNAME", self.interface.clone().into()),
            ("CNI_ARGS", self.arguments.clone().into()),
            ("CNI_PATH", self.plugins.clone().into()),
        ];
        let child = start(Command::new(self.plugins.join(name)).envs(environment), config.to_string().as_bytes())?;
        let output = child.wait_with_output()?;
        let (printed, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{name} {verb} ended with {}: {printed} {said}", output.status);
        if printed.trim().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&printed).with_context(|| format!("{name} {verb} printed {printed}"))
    }

    /// ADD, then CHECK with its result where the version has it. Returns the result.
    ///
    /// # Errors
    /// As [`Attachment::call`].
    pub fn add(&self, config: &Value) -> Result<Value> {
        let result = self.call("ADD", config)?;
        self.call("CHECK", &with_result(config, &result))?;
        Ok(result)
    }

    /// DEL, with the result of ADD as runtimes keep it, if there is one.
    ///
    /// # Errors
    /// As [`Attachment::call`]: a plugin must not fail.
    pub fn delete(&self, config: &Value, result: Option<&Value>) -> Result<()> {
        let config = result.map_or_else(|| config.clone(), |result| with_result(config, result));
        self.call("DEL", &config).map(drop)
    }
}

/// Starts a plugin and writes its input; what it says can be read.
///
/// # Errors
/// It cannot be run.
pub fn start(plugin: &mut Command, input: &[u8]) -> Result<Child> {
    plugin.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = plugin.spawn().with_context(|| format!("{} cannot be run", plugin.get_program().display()))?;
    // It may end without reading.
    let _ = child.stdin.take().context("no standard input")?.write_all(input);
    Ok(child)
}

/// A configuration with the result of ADD, as runtimes pass it to CHECK and DEL.
pub fn with_result(config: &Value, result: &Value) -> Value {
    let mut config = config.clone();
    if let Some(keys) = config.as_object_mut() {
        keys.insert("prevResult".to_owned(), if result.is_null() { json!({}) } else { result.clone() });
    }
    config
}
