//! Debian's containerd, started by a test in a folder of its own, and called as kubelet calls it: by the Container Runtime Interface
//! (`proto/cri.proto`). Pods get their network from the CNI plugins of the test's choice; culvert-cni is among them.
//!
//! It needs root, and a process and mount namespace of the test's own (`ci/isolated`): what containerd leaves running ends there.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};

use crate::console::Console;
use crate::image::{self, IMAGE};
use crate::kube_pod::KubePod;
use crate::paths::program;

use cri::runtime_service_client::RuntimeServiceClient;
use cri::security_profile::ProfileType;
use cri::{
    Capability, ContainerConfig, ContainerMetadata, CreateContainerRequest, ExecSyncRequest, ImageSpec, Int64Value,
    KeyValue, LinuxContainerConfig, LinuxContainerSecurityContext, Mount, NamespaceMode, NamespaceOption,
    PodSandboxConfig, PodSandboxMetadata, PodSandboxStatusRequest, RemovePodSandboxRequest, RunPodSandboxRequest,
    SecurityProfile, StartContainerRequest, StopContainerRequest, StopPodSandboxRequest, VersionRequest,
};

/// A running containerd. It is killed when this is dropped.
pub struct Containerd {
    console: Console,
    runtime: Runtime,
    client: RuntimeServiceClient<Channel>,
    plugins: PathBuf,
    folder: TempDir,
}

impl Containerd {
    /// Starts it. Each of `networks` is the text of a `.conflist` file; a pod gets an interface in each, `eth0` in the first.
    ///
    /// # Errors
    /// It does not start: the test is not root, or containerd is not installed.
    pub fn start(networks: &[Value]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("culvert-cri-").tempdir()?;
        let path = folder.path();
        plugins(&path.join("bin"))?;
        fs::create_dir(path.join("net.d"))?;
        fs::create_dir(path.join("logs"))?;
        for (number, network) in networks.iter().enumerate() {
            fs::write(path.join(format!("net.d/{number}.conflist")), network.to_string())?;
        }
        fs::write(path.join("config.toml"), config(path, networks.len()))?;
        let arguments = ["--config".into(), path.join("config.toml")];
        let console = Console::start("containerd", "containerd", &arguments)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let endpoint =
            Endpoint::from_shared(format!("unix://{}", path.join("containerd.sock").display()))?.timeout(LIMIT);
        let client = runtime.block_on(async { RuntimeServiceClient::new(endpoint.connect_lazy()) });
        let mut containerd = Self { console, runtime, client, plugins: path.join("bin"), folder };
        containerd.wait_until_it_answers()?;
        let archive = image::archive(containerd.folder.path())?;
        containerd.ctr().args(["images", "import"]).arg(archive).output().context("ctr")?;
        Ok(containerd)
    }

    fn wait_until_it_answers(&mut self) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        while let Err(error) = self.runtime.block_on(self.client.version(VersionRequest::default())) {
            ensure!(self.console.ended()?.is_none(), "containerd has ended; {}", self.console.last_words());
            ensure!(Instant::now() < deadline, "containerd does not answer: {error}; {}", self.console.last_words());
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Runs a pod, as kubelet does before it starts containers. The network plugins are called.
    ///
    /// # Errors
    /// What containerd says, with what a network plugin says.
    pub fn run_pod(&mut self, pod: &KubePod) -> Result<Sandbox> {
        let request = RunPodSandboxRequest { config: Some(self.pod_config(pod)) };
        let answer = self.runtime.block_on(self.client.run_pod_sandbox(request))?;
        let id = answer.into_inner().pod_sandbox_id;
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: true };
        let status = self.runtime.block_on(self.client.pod_sandbox_status(request))?.into_inner();
        let info: Value = serde_json::from_str(status.info.get("info").context("no info")?)?;
        let namespaces = info.pointer("/runtimeSpec/linux/namespaces").and_then(Value::as_array);
        let network = namespaces.into_iter().flatten().find(|one| one.get("type") == Some(&Value::from("network")));
        let netns = network.and_then(|one| one.get("path")?.as_str()).context("no network namespace")?.into();
        let address = status.status.and_then(|status| status.network).context("no network")?.ip;
        Ok(Sandbox { id, netns, address, config: self.pod_config(pod) })
    }

    /// Ends all in a pod. The network plugins are called. May be called again.
    ///
    /// # Errors
    /// What containerd says, with what a network plugin says.
    pub fn stop_pod(&mut self, sandbox: &Sandbox) -> Result<()> {
        let request = StopPodSandboxRequest { pod_sandbox_id: sandbox.id.clone() };
        Ok(self.runtime.block_on(self.client.stop_pod_sandbox(request)).map(drop)?)
    }

    /// Forgets a pod.
    ///
    /// # Errors
    /// What containerd says.
    pub fn remove_pod(&mut self, sandbox: &Sandbox) -> Result<()> {
        let request = RemovePodSandboxRequest { pod_sandbox_id: sandbox.id.clone() };
        Ok(self.runtime.block_on(self.client.remove_pod_sandbox(request)).map(drop)?)
    }

    /// Starts a container in a pod, as kubelet does for a virtual machine's pod: uid and gid 107, no capability but those asked for, no new
    /// privileges, containerd's own seccomp profile. Returns its id.
    ///
    /// # Errors
    /// What containerd says.
    pub fn start_container(&mut self, sandbox: &Sandbox, container: &Container) -> Result<String> {
        let words = |list: &[&str]| list.iter().map(|&word| word.to_owned()).collect::<Vec<String>>();
        let mount = |(node, place, readonly): &(PathBuf, &str, bool)| Mount {
            container_path: (*place).to_owned(),
            host_path: node.display().to_string(),
            readonly: *readonly,
        };
        let variable = |(key, value): &(&str, &str)| KeyValue { key: (*key).to_owned(), value: (*value).to_owned() };
        let capabilities =
            Capability { add_capabilities: words(container.capabilities), drop_capabilities: words(&["ALL"]) };
        // kubelet says so as well: processes of their own.
        let namespaces = NamespaceOption { pid: NamespaceMode::Container.into(), ..NamespaceOption::default() };
        let context = LinuxContainerSecurityContext {
            capabilities: Some(capabilities),
            namespace_options: Some(namespaces),
            run_as_user: Some(Int64Value { value: 107 }),
            no_new_privs: true,
            run_as_group: Some(Int64Value { value: 107 }),
            seccomp: Some(SecurityProfile { profile_type: ProfileType::RuntimeDefault.into() }),
        };
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: container.name.to_owned() }),
            image: Some(ImageSpec { image: IMAGE.to_owned() }),
            command: words(container.command),
            envs: container.environment.iter().map(variable).collect(),
            mounts: container.mounts.iter().map(mount).collect(),
            log_path: format!("{}.log", container.name),
            linux: Some(LinuxContainerConfig { security_context: Some(context) }),
        };
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.id.clone(),
            config: Some(config),
            sandbox_config: Some(sandbox.config.clone()),
        };
        let id = self.runtime.block_on(self.client.create_container(request))?.into_inner().container_id;
        let request = StartContainerRequest { container_id: id.clone() };
        self.runtime.block_on(self.client.start_container(request))?;
        Ok(id)
    }

    /// Ends a container, by SIGTERM first. May be called again.
    ///
    /// # Errors
    /// What containerd says.
    pub fn stop_container(&mut self, container: &str) -> Result<()> {
        let request = StopContainerRequest { container_id: container.to_owned(), timeout: 5 };
        Ok(self.runtime.block_on(self.client.stop_container(request)).map(drop)?)
    }

    /// Runs a shell command in a container, and returns what it printed.
    ///
    /// # Errors
    /// It failed.
    pub fn exec(&mut self, container: &str, command: &str) -> Result<String> {
        let request = ExecSyncRequest {
            container_id: container.to_owned(),
            cmd: ["sh", "-c", command].map(str::to_owned).into(),
            timeout: 100,
        };
        let answer = self.runtime.block_on(self.client.exec_sync(request))?.into_inner();
        let [printed, said] = [&answer.stdout, &answer.stderr].map(|bytes| String::from_utf8_lossy(bytes));
        ensure!(answer.exit_code == 0, "\"{command}\" ended with {}: {printed}{said}", answer.exit_code);
        Ok(printed.into_owned())
    }

    /// The folder of its network plugins.
    pub fn plugins(&self) -> &Path {
        &self.plugins
    }

    /// Its log.
    pub fn console(&mut self) -> &mut Console {
        &mut self.console
    }

    /// What a container has printed, as kubelet's log files have it.
    pub fn log(&self, pod: &KubePod, container: &str) -> String {
        fs::read_to_string(self.logs(pod).join(format!("{container}.log"))).unwrap_or_else(|error| error.to_string())
    }

    fn logs(&self, pod: &KubePod) -> PathBuf {
        self.folder.path().join("logs").join(&pod.uid)
    }

    fn pod_config(&self, pod: &KubePod) -> PodSandboxConfig {
        let metadata = PodSandboxMetadata {
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            namespace: pod.namespace.clone(),
            attempt: 0,
        };
        let log_directory = self.logs(pod).display().to_string();
        PodSandboxConfig { metadata: Some(metadata), hostname: pod.name.clone(), log_directory }
    }

    /// containerd's own client, for what kubelet does not do.
    fn ctr(&self) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.folder.path().join("containerd.sock")).args(["--namespace", "k8s.io"]);
        command
    }
}

/// A container to start.
#[derive(Clone, Debug, Default)]
pub struct Container<'a> {
    /// Its name in the pod.
    pub name: &'a str,
    /// Its program and the program's arguments; it sleeps when there are none.
    pub command: &'a [&'a str],
    /// Variables of its environment.
    pub environment: &'a [(&'a str, &'a str)],
    /// Files and folders of the node, where they are in the container, and whether they can only be read there.
    pub mounts: Vec<(PathBuf, &'a str, bool)>,
    /// Capabilities that it has.
    pub capabilities: &'a [&'a str],
}

/// A pod that containerd runs.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// containerd's id, which is CNI_CONTAINERID.
    pub id: String,
    /// The path of its network namespace, which is CNI_NETNS.
    pub netns: PathBuf,
    /// The address that the network plugins gave to eth0.
    pub address: String,
    config: PodSandboxConfig,
}

/// Fills a folder with network plugins: Debian's, and culvert-cni under both of its names.
///
/// # Errors
/// culvert-cni was not built, or Debian's plugins are not installed.
pub fn plugins(folder: &Path) -> Result<()> {
    fs::create_dir(folder)?;
    for entry in fs::read_dir("/usr/lib/cni").context("no network plugins: run ci/setup")? {
        let entry = entry?;
        symlink(entry.path(), folder.join(entry.file_name()))?;
    }
    let culvert = fs::canonicalize(program("culvert-cni")?)?;
    for name in ["culvert-cni", "userspace"] {
        symlink(&culvert, folder.join(name))?;
    }
    Ok(())
}

/// Everything in its own folder; the adjustment of the OOM killer needs no more rights than a test has.
fn config(folder: &Path, networks: usize) -> String {
    let path = folder.display();
    format!(
        "version = 2\nroot = \"{path}/root\"\nstate = \"{path}/state\"\n\
         disabled_plugins = [\"io.containerd.snapshotter.v1.btrfs\", \"io.containerd.snapshotter.v1.zfs\", \
         \"io.containerd.snapshotter.v1.aufs\", \"io.containerd.snapshotter.v1.devmapper\"]\n\
         [grpc]\naddress = \"{path}/containerd.sock\"\n\
         [plugins.\"io.containerd.internal.v1.opt\"]\npath = \"{path}/opt\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"{IMAGE}\"\n\
         restrict_oom_score_adj = true\nnetns_mounts_under_state_dir = true\n\
         [plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"{path}/bin\"\nconf_dir = \"{path}/net.d\"\n\
         max_conf_num = {networks}\n"
    )
}

/// The part of the Container Runtime Interface that is used here.
#[expect(unused_qualifications, reason = "generated code")]
mod cri {
    tonic::include_proto!("runtime.v1");
}

/// The longest that containerd may take to start, or for an answer.
const LIMIT: Duration = Duration::from_secs(120);
