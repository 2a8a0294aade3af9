//! Debian's podman, with storage and configuration of the test's own and the CNI as its network backend. It has no daemon.
//!
//! It needs root, and a process and mount namespace of the test's own (`ci/isolated`): what podman leaves running ends there.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;
use tempfile::TempDir;

use crate::containerd::plugins;
use crate::image::{self, IMAGE, run};

/// podman's storage and configuration. Containers that are left are ended when this is dropped.
pub struct Podman {
    folder: TempDir,
}

impl Podman {
    /// One whose containers can have these networks: the texts of `.conflist` files.
    ///
    /// # Errors
    /// podman is not installed, or the test is not root.
    pub fn new(networks: &[Value]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("culvert-podman-").tempdir()?;
        let path = folder.path();
        plugins(&path.join("bin"))?;
        fs::create_dir(path.join("net.d"))?;
        for network in networks {
            let name = network.get("name").and_then(Value::as_str).context("a network without a name")?;
            fs::write(path.join(format!("net.d/{name}.conflist")), network.to_string())?;
        }
        let place = path.display();
        let containers = format!(
            "[network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [\"{place}/bin\"]\nnetwork_config_dir = \"{place}/net.d\"\n\
             [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nruntime = \"runc\"\n\
             tmp_dir = \"{place}/tmp\"\nstatic_dir = \"{place}/static\"\nvolume_path = \"{place}/volumes\"\n"
        );
        fs::write(path.join("containers.conf"), containers)?;
        let storage =
            format!("[storage]\ndriver = \"overlay\"\ngraphroot = \"{place}/root\"\nrunroot = \"{place}/run\"\n");
        fs::write(path.join("storage.conf"), storage)?;
        let podman = Self { folder };
        let archive = image::archive(podman.folder.path())?;
        run(podman.command().arg("load").arg("--input").arg(archive))?;
        Ok(podman)
    }

    /// Starts a container in networks, in this order, and returns its id.
    ///
    /// # Errors
    /// What podman says, with what a network plugin says.
    pub fn start(&self, name: &str, networks: &[&str], options: &[&str]) -> Result<String> {
        let mut command = self.command();
        command.args(["run", "--detach", "--name", name]).args(options);
        for network in networks {
            command.args(["--network", network]);
        }
        Ok(run(command.arg(IMAGE))?.trim().to_owned())
    }

    /// Ends a container and removes it.
    ///
    /// # Errors
    /// What podman says, with what a network plugin says.
    pub fn remove(&self, name: &str) -> Result<()> {
        run(self.command().args(["rm", "--force", "--time", "0", name])).map(drop)
    }

    /// Runs a podman command with these words.
    ///
    /// # Errors
    /// It failed.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        run(self.command().args(words))
    }

    fn command(&self) -> Command {
        let path = self.folder.path();
        let mut command = Command::new("podman");
        command.env("CONTAINERS_CONF", path.join("containers.conf"));
        command.env("CONTAINERS_STORAGE_CONF", path.join("storage.conf"));
        command.env("CONTAINERS_REGISTRIES_CONF", "/dev/null");
        command
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // Its storage is mounted while containers run. It fails only when nothing is left.
        let _ = self.command().args(["rm", "--all", "--force", "--time", "0"]).output();
    }
}
