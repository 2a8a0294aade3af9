//! culvert-hook as a container of a virt-launcher pod: the program, and the volume of hook sockets.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::virt_launcher::dial;

/// The pod's volume.
pub struct Pod(TempDir);

impl Pod {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// The volume, which compute mounts.
    pub fn folder(&self) -> PathBuf {
        self.0.path().to_owned()
    }

    /// What sidecar `number` mounts of it.
    pub fn hook_folder(&self, number: u32) -> PathBuf {
        self.0.path().join(format!("hook-sidecar-{number}"))
    }
}

/// A sidecar that runs, and is killed when it is dropped.
pub struct Sidecar(Mutex<Child>);

impl Sidecar {
    /// Starts it with a folder of its own, as since KubeVirt 1.6.
    pub fn start(pod: &Pod, number: u32, binding: &str, options: &[&str]) -> Self {
        // The kubelet makes the folder of a subPath.
        fs::create_dir_all(pod.hook_folder(number)).unwrap();
        Self::start_in(&pod.hook_folder(number), Some(number), binding, options)
    }

    /// Starts it with this folder; without a number it has no name.
    pub fn start_in(folder: &Path, number: Option<u32>, binding: &str, options: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_culvert-hook"));
        command.env("NETWORK_BINDING_PLUGIN_NAME", binding).env_remove("CONTAINER_NAME");
        if let Some(number) = number {
            command.env("CONTAINER_NAME", format!("hook-sidecar-{number}"));
        }
        // Nothing of the machine that the test runs on.
        let nowhere = folder.join("nowhere");
        for option in ["--network-info", "--annotations"] {
            if !options.contains(&option) {
                command.arg(option).arg(nowhere.join("file"));
            }
        }
        command.arg("--translator-folder").arg(&nowhere);
        command.arg("--hook-folder").arg(folder).args(options);
        Self(Mutex::new(command.spawn().unwrap()))
    }

    pub fn signal(&self, signal: Signal) {
        let id = self.0.lock().unwrap().id();
        rustix::process::kill_process(Pid::from_raw(id.try_into().unwrap()).unwrap(), signal).unwrap();
    }

    /// Waits until it has ended.
    pub fn wait(&self) -> ExitStatus {
        self.0.lock().unwrap().wait().unwrap()
    }

    /// Connects to a socket of its, as soon as it is there.
    pub async fn dial_when_there(&self, socket: &Path) -> Channel {
        loop {
            if socket.exists() {
                return dial(socket).await.unwrap();
            }
            assert!(self.0.lock().unwrap().try_wait().unwrap().is_none(), "it has ended");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let mut child = self.0.lock().unwrap();
        // It may have ended.
        let _ = child.kill();
        let _ = child.wait();
    }
}
