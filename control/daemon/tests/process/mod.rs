//! A culvertd of a test's own, in a folder of its own.
#![allow(dead_code, reason = "each test takes what it needs")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use culvert_api::v1;
use culvert_api::v1::culvert_client::CulvertClient;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// A folder with a configuration. It starts with a network, blue, and a control socket in the folder.
pub struct Setup {
    folder: tempfile::TempDir,
    /// The text of the configuration.
    pub config: String,
}

impl Setup {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let core = culvertd::config::Machine::read().unwrap().cores.first().copied().unwrap();
        let config = format!(
            "[daemon]\ncontrol_socket = \"{path}/c.sock\"\nstate_dir = \"{path}/state\"\nmetrics_address = \"off\"\n{isolation}\n[datapath]\nworker_cores = [{core}]\nmemory_mb = 64\nhugepages = \
             \"never\"\n[[network]]\nname = \"blue\"\n",
            path = folder.path().display(),
            isolation = isolation(),
        );
        Self { folder, config }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Adds a port in blue with further `lines`.
    pub fn port(mut self, name: &str, lines: &str) -> Self {
        self.config.push_str(&format!("[[port]]\nname = \"{name}\"\nnetwork = \"blue\"\n{lines}\n"));
        self
    }

    /// Adds a guest's port in blue, with its socket in the folder and further `lines`.
    pub fn guest(self, name: &str, lines: &str) -> Self {
        let socket = self.socket(name);
        self.port(name, &format!("socket = \"{}\"\n{lines}", socket.display()))
    }

    /// The socket of a guest's port.
    pub fn socket(&self, name: &str) -> PathBuf {
        self.path("ports").join(name).join("vhost.sock")
    }

    /// Writes the configuration file.
    pub fn write(&self) -> PathBuf {
        let file = self.path("c.toml");
        std::fs::write(&file, &self.config).unwrap();
        file
    }

    /// Starts culvertd and returns when it is ready, or has ended.
    pub fn start(&self) -> Running {
        let file = self.write();
        let mut child = culvertd(&file).stderr(Stdio::piped()).spawn().unwrap();
        let mut log = String::new();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        while !log.contains("culvertd is ready") && stderr.read_line(&mut log).unwrap() > 0 {}
        // Goes on reading, so that culvertd can go on writing.
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        Running { child, log, socket: self.path("c.sock") }
    }
}

/// The line of the configuration that says how strictly culvertd is isolated.
pub fn isolation() -> String {
    let mode = std::env::var("CULVERT_ISOLATION").unwrap_or_else(|_| "full".to_owned());
    format!("isolation = \"{mode}\"")
}

pub fn culvertd(config: &Path) -> Command {
    // ci/system-calls has it traced.
    let traced = std::env::var_os("CULVERT_BIN").map(|folder| Path::new(&folder).join("culvertd"));
    let mut command = Command::new(traced.unwrap_or_else(|| env!("CARGO_BIN_EXE_culvertd").into()));
    command.arg("--config").arg(config).stdin(Stdio::null());
    command
}

/// A culvertd, killed when this is dropped.
pub struct Running {
    /// The supervisor.
    pub child: Child,
    /// What it logged until it was ready.
    pub log: String,
    pub socket: PathBuf,
}

impl Running {
    pub async fn client(&self) -> CulvertClient<Channel> {
        self.try_client().await.unwrap_or_else(|error| panic!("{error}; {}", self.log))
    }

    /// What it says of itself, if it answers.
    pub async fn try_status(&self) -> Result<v1::GetStatusResponse, Box<dyn std::error::Error>> {
        Ok(self.try_client().await?.get_status(v1::GetStatusRequest {}).await?.into_inner())
    }

    async fn try_client(&self) -> Result<CulvertClient<Channel>, tonic::transport::Error> {
        let path = self.socket.clone();
        let connect = move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        };
        let endpoint = Endpoint::from_static("http://culvertd");
        let channel = endpoint.connect_with_connector(tower::service_fn(connect)).await;
        channel.map(CulvertClient::new)
    }

    /// The supervisor's child, once there is one.
    pub fn daemon(&self) -> u32 {
        daemon_of(self.child.id()).unwrap_or_else(|| panic!("there is no daemon; {}", self.log))
    }

    /// Sends the supervisor a signal; returns its exit code.
    pub fn end(&mut self, signal: &str) -> Option<i32> {
        kill(signal, self.child.id());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a process a signal by name.
pub fn kill(signal: &str, pid: u32) {
    assert!(Command::new("kill").args(["-s", signal, &pid.to_string()]).status().unwrap().success());
}

/// The daemon that a supervisor runs now.
pub fn daemon_of(supervisor: u32) -> Option<u32> {
    // proc_pid_task(5): its children, separated by spaces.
    let children = std::fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

/// Writes a pcap file (draft-ietf-opsawg-pcap) of Ethernet frames, all at time 0.
pub fn write_pcap(path: &Path, frames: &[&[u8]]) {
    let head: [u32; 6] = [0xa1b2_c3d4, 4 << 16 | 2, 0, 0, 65_535, 1];
    let mut bytes = head.map(u32::to_ne_bytes).concat();
    for frame in frames {
        let length = u32::try_from(frame.len()).unwrap();
        bytes.extend([0, 0, length, length].map(u32::to_ne_bytes).concat());
        bytes.extend_from_slice(frame);
    }
    std::fs::write(path, bytes).unwrap();
}
