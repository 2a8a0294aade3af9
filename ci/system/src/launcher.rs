//! A virtual machine's pod as KubeVirt runs it, without KubeVirt: its volumes, a container `compute` with libvirt as uid 107, hook
//! sidecars, and what virt-launcher does with them: Collect, Info, OnDefineDomain, define, start, Shutdown.
//!
//! The containers are containerd's. Their root is that of ci/debian13, and what this workspace has built is below /opt/culvert there.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use crate::console::Console;
use crate::containerd::{Container, Containerd, Sandbox};
use crate::guest::Guest;
use crate::kube_pod::KubePod;
use crate::paths::{guest_file, program};

use hooks_info::InfoParams;
use hooks_info::info_client::InfoClient;
use hooks_v1alpha3::callbacks_client::CallbacksClient;
use hooks_v1alpha3::{OnDefineDomainParams, ShutdownParams};

/// The pod of one virtual machine. Its containers end with its sandbox.
pub struct Launcher {
    pod: KubePod,
    sandbox: Sandbox,
    /// What only the test and the container `compute` share, by a short path.
    private: TempDir,
    volumes: Vec<(PathBuf, &'static str, bool)>,
    compute: String,
    sidecars: Vec<Sidecar>,
    runtime: tokio::runtime::Runtime,
}

impl Launcher {
    /// Starts `compute` in a pod, with volumes of the pod: the folder on the node, and where it is in the container.
    ///
    /// # Errors
    /// ci/debian13 has not been run, or containerd refuses something.
    pub fn start(
        containerd: &mut Containerd,
        pod: &KubePod,
        sandbox: &Sandbox,
        volumes: &[(PathBuf, &'static str)],
    ) -> Result<Self> {
        let private = tempfile::Builder::new().prefix("culvert-").tempdir()?;
        let path = private.path();
        chown(path, Some(107), Some(107))?;
        for file in ["vmlinuz", "initrd.cpio"] {
            fs::copy(guest_file(file)?, path.join(file))?;
            fs::set_permissions(path.join(file), Permissions::from_mode(0o644))?;
        }
        fs::write(path.join("passwd"), "root:x:0:0:root:/root:/bin/bash\nqemu:x:107:107:qemu:/tmp:/bin/bash\n")?;
        fs::write(path.join("group"), "root:x:0:\nqemu:x:107:\n")?;
        symlink(pod.add_volume(HOOKS)?, path.join("hooks"))?;
        let volumes = volumes.iter().map(|(node, place)| (node.clone(), *place, false)).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut launcher = Self {
            pod: pod.clone(),
            sandbox: sandbox.clone(),
            private,
            volumes,
            compute: String::new(),
            sidecars: Vec::new(),
            runtime,
        };
        let mut mounts = launcher.mounts()?;
        mounts.push((pod.volume(HOOKS), "/var/run/kubevirt-hooks", false));
        mounts.push((launcher.private.path().to_owned(), PRIVATE, false));
        let compute = Container {
            name: "compute",
            // As virt-launcher does, it takes in what has ended: libvirt waits for QEMU.
            command: &["bash", "-c", "trap exit TERM; sleep infinity & wait"],
            environment: &[("PATH", "/usr/sbin:/usr/bin")],
            mounts,
            capabilities: &["NET_BIND_SERVICE"],
        };
        launcher.compute = containerd.start_container(sandbox, &compute)?;
        let libvirt = format!(
            "mkdir -p /tmp/config/libvirt && echo 'stdio_handler = \"file\"' >/tmp/config/libvirt/qemu.conf && {VIRSH} && libvirtd -d -t 0 \
             && until virsh -q list; do sleep 0.1; done"
        );
        containerd.exec(&launcher.compute, &libvirt)?;
        Ok(launcher)
    }

    /// Starts a hook sidecar with this environment, `hook-sidecar-0` first. In it the volumes are where they are in `compute`.
    ///
    /// # Errors
    /// containerd refuses it.
    pub fn start_sidecar(
        &mut self,
        containerd: &mut Containerd,
        command: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<()> {
        let name = format!("hook-sidecar-{}", self.sidecars.len());
        // kubelet makes the folder of a subPath as the volume is.
        let folder = self.pod.volume(HOOKS).join(&name);
        fs::create_dir(&folder)?;
        chown(&folder, None, Some(107))?;
        fs::set_permissions(&folder, Permissions::from_mode(0o2777))?;
        let mut mounts = self.mounts()?;
        mounts.push((folder, "/var/run/kubevirt-hooks", false));
        let mut all = vec![("CONTAINER_NAME", name.as_str()), ("PATH", "/opt/culvert:/usr/sbin:/usr/bin")];
        all.extend(environment);
        let container = Container { name: &name, command, environment: &all, mounts, capabilities: &[] };
        let container = containerd.start_container(&self.sandbox, &container)?;
        self.sidecars.push(Sidecar { name, container });
        Ok(())
    }

    /// Collect and Info: waits until each sidecar has a socket that answers, as virt-launcher does. Whatever lies in a sidecar's folder, but a
    /// folder, is taken for its socket. Returns the sockets' file names.
    ///
    /// # Errors
    /// A sidecar has no socket, does not answer within a second, or does not offer what it must.
    pub fn collect(&self, containerd: &Containerd) -> Result<Vec<OsString>> {
        let mut sockets = Vec::new();
        for Sidecar { name: sidecar, .. } in &self.sidecars {
            let deadline = Instant::now() + LIMIT;
            let (socket, channel) = loop {
                if let Some(found) = self.dial(sidecar)? {
                    break found;
                }
                let log = || containerd.log(&self.pod, sidecar);
                ensure!(Instant::now() < deadline, "{sidecar} makes no socket; its log:\n{}", log());
                thread::sleep(Duration::from_millis(300));
            };
            let answer = self.runtime.block_on(InfoClient::new(channel).info(InfoParams {}))?.into_inner();
            let mut points: Vec<String> = answer.hook_points.into_iter().map(|point| point.name).collect();
            points.sort();
            ensure!(points == ["OnDefineDomain", "Shutdown"], "{sidecar} wants {points:?}");
            ensure!(answer.versions == ["v1alpha3"], "{sidecar} speaks {:?}", answer.versions);
            sockets.push(socket);
        }
        Ok(sockets)
    }

    /// OnDefineDomain: each sidecar edits what the one before it returned.
    ///
    /// # Errors
    /// What a sidecar says.
    pub fn edit(&self, containerd: &Containerd, domain: &str, vmi: &Value) -> Result<String> {
        let (mut domain, vmi) = (domain.as_bytes().to_vec(), vmi.to_string().into_bytes());
        for Sidecar { name: sidecar, .. } in &self.sidecars {
            let mut client = CallbacksClient::new(self.dial(sidecar)?.context("its socket has gone")?.1);
            let request = OnDefineDomainParams { domain_xml: domain, vmi: vmi.clone() };
            let answer = self.runtime.block_on(client.on_define_domain(request));
            let log = || format!("{sidecar} refuses; its log:\n{}", containerd.log(&self.pod, sidecar));
            domain = answer.with_context(log)?.into_inner().domain_xml;
        }
        Ok(String::from_utf8(domain)?)
    }

    /// Shutdown, as virt-launcher calls it when its machine has ended.
    ///
    /// # Errors
    /// A sidecar does not answer.
    pub fn shut_down(&self) -> Result<()> {
        for Sidecar { name: sidecar, .. } in &self.sidecars {
            let mut client = CallbacksClient::new(self.dial(sidecar)?.context("its socket has gone")?.1);
            self.runtime.block_on(client.shutdown(ShutdownParams {}))?;
        }
        Ok(())
    }

    /// Ends all containers, as kubelet does before the sandbox is stopped.
    ///
    /// # Errors
    /// What containerd says.
    pub fn stop_containers(&self, containerd: &mut Containerd) -> Result<()> {
        let sidecars = self.sidecars.iter().map(|sidecar| &sidecar.container);
        sidecars.chain([&self.compute]).try_for_each(|container| containerd.stop_container(container))
    }

    /// What a container has printed.
    pub fn log(&self, containerd: &Containerd, container: &str) -> String {
        containerd.log(&self.pod, container)
    }

    /// The name of the one socket of a sidecar, and a connection to it, if it takes one.
    fn dial(&self, sidecar: &str) -> Result<Option<(OsString, Channel)>> {
        let folder = self.private.path().join("hooks").join(sidecar);
        let entries = fs::read_dir(&folder)?.collect::<Result<Vec<_>, _>>()?;
        let mut files = entries.iter().filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_dir()));
        let Some(entry) = files.next() else { return Ok(None) };
        if let Some(other) = files.next() {
            bail!("virt-launcher would dial {} as well", other.path().display());
        }
        let endpoint = Endpoint::from_shared(format!("unix://{}", entry.path().display()))?.timeout(CALL_LIMIT);
        let channel = self.runtime.block_on(endpoint.connect()).ok();
        Ok(channel.map(|channel| (entry.file_name(), channel)))
    }

    /// Lets libvirt define and start a domain, whose first serial port is a socket at [`SERIAL`], and returns its guest, which boots.
    ///
    /// # Errors
    /// libvirt refuses it.
    pub fn boot(&self, containerd: &mut Containerd, name: &str, domain: &str) -> Result<Guest> {
        fs::write(self.private.path().join("domain.xml"), domain)?;
        let start = format!("virsh define {PRIVATE}/domain.xml && virsh start {name}");
        let log = || format!("tail -n 5 $XDG_CACHE_HOME/libvirt/qemu/log/{name}.log");
        if let Err(error) = self.exec(containerd, &start) {
            let log = self.exec(containerd, &log()).unwrap_or_else(|error| error.to_string());
            return Err(error.context(format!("libvirt refuses\n{domain}\nQEMU's log:\n{log}")));
        }
        let serial = self.private.path().join("serial.sock");
        let words = ["-".to_owned(), format!("UNIX-CONNECT:{}", serial.display())];
        Ok(Guest::new(name, 0, Console::start(name, "socat", &words)?))
    }

    /// Runs a shell command in `compute`, where `virsh` knows its machine.
    ///
    /// # Errors
    /// It failed.
    pub fn exec(&self, containerd: &mut Containerd, command: &str) -> Result<String> {
        containerd.exec(&self.compute, &format!("{VIRSH} && {command}"))
    }

    /// What every container of the pod has.
    fn mounts(&self) -> Result<Vec<(PathBuf, &'static str, bool)>> {
        let debian = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/debian13");
        let debian = fs::canonicalize(debian).context("no Debian 13: run ci/debian13 true")?;
        let programs = fs::canonicalize(program("culvert-hook")?)?;
        let programs = programs.parent().context("no folder")?.to_owned();
        let mut mounts = vec![
            (debian.join("usr"), "/usr", true),
            (self.private.path().join("passwd"), "/etc/passwd", true),
            (self.private.path().join("group"), "/etc/group", true),
            (programs, "/opt/culvert", true),
        ];
        mounts.extend(self.volumes.iter().cloned());
        Ok(mounts)
    }
}

/// A hook sidecar.
struct Sidecar {
    name: String,
    container: String,
}

/// Where the socket of a domain's first serial port is.
pub const SERIAL: &str = "/var/run/kubevirt-private/serial.sock";

/// What is in [`Launcher::boot`]'s guest: its kernel and its root.
pub const KERNEL: [&str; 2] = ["/var/run/kubevirt-private/vmlinuz", "/var/run/kubevirt-private/initrd.cpio"];

const PRIVATE: &str = "/var/run/kubevirt-private";

/// The volume of the sidecars' sockets.
const HOOKS: &str = "hook-sidecar-sockets";

/// Where libvirt keeps its things, and that it is the user's own.
const VIRSH: &str = "export HOME=/tmp XDG_RUNTIME_DIR=/tmp/run XDG_CONFIG_HOME=/tmp/config XDG_CACHE_HOME=/tmp/cache \
                     LIBVIRT_DEFAULT_URI=qemu:///session";

/// Names of the processes here (`ci/isolated` shows only those of the test), as the kernel keeps them: their first 15 characters.
///
/// # Errors
/// There is no /proc.
pub fn processes() -> Result<Vec<String>> {
    let entries = fs::read_dir("/proc")?.filter_map(Result::ok);
    let names = entries.filter_map(|entry| fs::read_to_string(entry.path().join("comm")).ok());
    Ok(names.map(|name| name.trim().to_owned()).collect())
}

#[expect(unused_qualifications, reason = "generated code")]
mod hooks_info {
    tonic::include_proto!("kubevirt.hooks.info");
}

#[expect(unused_qualifications, reason = "generated code")]
mod hooks_v1alpha3 {
    tonic::include_proto!("kubevirt.hooks.v1alpha3");
}

/// How long virt-launcher waits for its sidecars.
const LIMIT: Duration = Duration::from_secs(240);

/// How long virt-launcher waits for an answer of OnDefineDomain and Shutdown.
const CALL_LIMIT: Duration = Duration::from_secs(60);
