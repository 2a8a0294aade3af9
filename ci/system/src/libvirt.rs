//! libvirt of Debian 13, in a root of its own (ci/debian13), in a pod or on a node of the [`lab`](crate::lab).
//!
//! In a pod it starts what is called `passt` there: culvert-translator takes that place, or passt is left in it, see
//! [`translator`](crate::translator).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::console::Console;
use crate::guest::Guest;
use crate::paths::guest_file;
use crate::place::Place;
use crate::translator::{Pod, is_ours, translator_program};

/// libvirtd, and a shell beside it.
pub struct Libvirt {
    shell: Console,
    /// A folder for what domains are made of, as the test sees it, and as they do.
    files: [PathBuf; 2],
}

impl Libvirt {
    /// Starts it in a pod.
    ///
    /// # Errors
    /// The root cannot be made, or libvirt does not start.
    pub fn start(pod: &Pod) -> Result<Self> {
        let place = Place { namespace: Some(pod.pod().name().to_owned()), ..Place::default() };
        let mut words = Vec::new();
        if is_ours() {
            words.push(format!("PASST={}", translator_program()?.display()));
        }
        words.extend([ci().join("debian13").display().to_string(), "bash".to_owned()]);
        let files = PathBuf::from("/var/lib/libvirt/images");
        let shell = Console::start_in(&place, "debian13", "env", &words)?;
        let mut libvirt = Self { shell, files: [in_root(&files), files] };
        // passt's resolvers are those of the pod.
        let resolvers = fs::read_to_string(pod.path("resolv.conf"))?;
        libvirt.run(&format!("printf '{}' >/etc/resolv.conf", resolvers.replace('\n', "\\n")))?;
        libvirt.begin()?;
        Ok(libvirt)
    }

    /// Starts it on a node as a host of its own: nothing that it writes, and none of its processes, is seen by another one. Domains see the
    /// node's `folder` as `seen_as`, where everybody must be able to look for names. libvirt's sockets are in its folder `libvirt`.
    ///
    /// # Errors
    /// The root cannot be made, or libvirt does not start.
    pub fn start_on(place: &Place, name: &str, folder: &Path, seen_as: &Path) -> Result<Self> {
        let script = "cd \"$1\" && exec unshare --uts --pid --fork --kill-child --mount-proc \"$2\" bash";
        let debian = ci().join("debian13");
        let words = [Path::new("-c"), Path::new(script), Path::new("bash"), folder, &debian];
        let shell = Console::start_in(place, "debian13", "bash", &words)?;
        let mut libvirt = Self { shell, files: [folder.to_owned(), seen_as.to_owned()] };
        let seen_as = seen_as.display();
        libvirt.run(&format!(
            "set -e; hostname {name}
             cp -a /etc/libvirt /run/etc && mount --bind /run/etc /etc/libvirt
             for folder in /tmp /var/lib/libvirt /var/log/libvirt /var/cache/libvirt; do mount -t tmpfs tmpfs $folder; done
             mkdir -p {seen_as} && mount --bind /src {seen_as}
             mkdir -p /src/libvirt /run/libvirt && mount --bind /src/libvirt /run/libvirt
             echo \"host_uuid = \\\"$(cat /proc/sys/kernel/random/uuid)\\\"\" >>/etc/libvirt/libvirtd.conf
             set +e"
        ))?;
        libvirt.begin()?;
        Ok(libvirt)
    }

    fn begin(&mut self) -> Result<()> {
        let [outside, _] = &self.files;
        for file in ["vmlinuz", "initrd.cpio"] {
            fs::copy(guest_file(file)?, outside.join(file))?;
        }
        self.run("virtlogd -d && libvirtd -d && until virsh -q list; do sleep 0.1; done").map(drop)
    }

    /// Runs a shell command there, and returns what it printed.
    ///
    /// # Errors
    /// It failed.
    pub fn run(&mut self, command: &str) -> Result<String> {
        self.shell.send(&format!("{command}\necho \"@@END $?\""))?;
        let printed = self.shell.wait_for("@@END ", LIMIT)?;
        let status = self.shell.wait_for("\n", LIMIT)?;
        ensure!(status == "0", "\"{command}\" failed with status {status}:\n{printed}");
        Ok(printed)
    }

    /// Lets libvirt define a domain, which must be as its schema says, and returns how libvirt writes it. It is forgotten again.
    ///
    /// # Errors
    /// libvirt refuses the domain.
    pub fn define(&mut self, name: &str, domain: &[u8]) -> Result<String> {
        let file = format!("tmp/{name}.xml");
        fs::write(in_root(&file), domain)?;
        // One that a test has left that was interrupted.
        self.run(&format!("virsh -q undefine {name} 2>/dev/null || true"))?;
        self.run(&format!("virsh -q define --validate /{file}"))?;
        let defined = self.run(&format!("virsh -q dumpxml --inactive {name}"))?;
        self.run(&format!("virsh -q undefine {name}"))?;
        Ok(defined)
    }

    /// Starts a domain with these devices, such as an `<interface>`, and returns its guest, which boots.
    ///
    /// # Errors
    /// libvirt refuses the domain.
    pub fn boot(&mut self, name: &str, number: u8, devices: &str) -> Result<Guest> {
        let [outside, inside] = &self.files;
        let folder = inside.display();
        let domain = format!(
            "<domain type='qemu'><name>{name}</name><memory unit='MiB'>256</memory><vcpu>1</vcpu>
             <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>
             <os><type arch='x86_64' machine='pc'>hvm</type><kernel>{folder}/vmlinuz</kernel>
             <initrd>{folder}/initrd.cpio</initrd><cmdline>console=ttyS0 quiet panic=-1 no_timer_check</cmdline></os>
             <features><acpi/></features><devices>{devices}
             <serial type='unix'><source mode='bind' path='{folder}/{name}.serial'/><target port='0'/></serial></devices></domain>"
        );
        fs::write(outside.join(format!("{name}.xml")), domain)?;
        let create = format!("virsh create {folder}/{name}.xml");
        self.run(&create).with_context(|| self.log(name))?;
        Ok(Guest::new(name, number, self.console(name)?))
    }

    /// The console of a domain's guest, which has come from another host.
    ///
    /// # Errors
    /// There is no such domain.
    pub fn console(&self, name: &str) -> Result<Console> {
        let [outside, _] = &self.files;
        let address = format!("UNIX-CONNECT:{}", outside.join(format!("{name}.serial")).display());
        Console::start(name, "socat", &["-", &address])
    }

    /// Ends a domain.
    ///
    /// # Errors
    /// It does not run.
    pub fn destroy(&mut self, name: &str) -> Result<()> {
        self.run(&format!("virsh destroy {name}")).map(drop)
    }

    /// What libvirt and the translator say of a domain.
    pub fn log(&mut self, name: &str) -> String {
        self.run(&format!("tail -n 20 /var/log/libvirt/qemu/{name}.log /tmp/{name}.log"))
            .unwrap_or_else(|error| error.to_string())
    }
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        // Daemons that it has started; all domains end with their machines.
        let _ = self.run("pkill qemu-system; pkill libvirtd; pkill virtlogd; pkill -x passt; true");
    }
}

/// The folder of the scripts.
fn ci() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A path in the root.
fn in_root(path: impl AsRef<Path>) -> PathBuf {
    let path = path.as_ref();
    ci().join("../target/debian13").join(path.strip_prefix("/").unwrap_or(path))
}

/// The root is made at first.
const LIMIT: Duration = Duration::from_secs(900);
