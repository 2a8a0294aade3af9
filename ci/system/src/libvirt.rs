//! libvirt of Debian 13, in a root of its own (ci/debian13), in a pod.
//!
//! It starts what is called `passt` there: culvert-translator takes that place, or passt is left in it, see
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
        let mut libvirt = Self { shell: Console::start_in(&place, "debian13", "env", &words)? };
        // passt's resolvers are those of the pod.
        let resolvers = fs::read_to_string(pod.path("resolv.conf"))?;
        libvirt.run(&format!("printf '{}' >/etc/resolv.conf", resolvers.replace('\n', "\\n")))?;
        libvirt.run("virtlogd -d && libvirtd -d && until virsh -q list; do sleep 0.1; done")?;
        Ok(libvirt)
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
        fs::write(ci().join("../target/debian13").join(&file), domain)?;
        // One that a test has left that was interrupted.
        self.run(&format!("virsh -q undefine {name} 2>/dev/null || true"))?;
        self.run(&format!("virsh -q define --validate /{file}"))?;
        let defined = self.run(&format!("virsh -q dumpxml --inactive {name}"))?;
        self.run(&format!("virsh -q undefine {name}"))?;
        Ok(defined)
    }

    /// Starts a domain with an `<interface>` element, and returns its guest, which boots.
    ///
    /// # Errors
    /// libvirt refuses the domain.
    pub fn boot(&mut self, name: &str, number: u8, interface: &str) -> Result<Guest> {
        let root = ci().join("../target/debian13");
        for file in ["vmlinuz", "initrd.cpio"] {
            fs::copy(guest_file(file)?, root.join("var/lib/libvirt/images").join(file))?;
        }
        let serial = format!("/tmp/{name}.serial");
        let domain = format!(
            "<domain type='qemu'><name>{name}</name><memory unit='MiB'>256</memory><vcpu>1</vcpu>
             <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>
             <os><type arch='x86_64' machine='pc'>hvm</type><kernel>/var/lib/libvirt/images/vmlinuz</kernel>
             <initrd>/var/lib/libvirt/images/initrd.cpio</initrd><cmdline>console=ttyS0 quiet panic=-1 no_timer_check</cmdline></os>
             <features><acpi/></features><devices>{interface}
             <serial type='unix'><source mode='bind' path='{serial}'/><target port='0'/></serial></devices></domain>"
        );
        fs::write(root.join(format!("tmp/{name}.xml")), domain)?;
        self.run(&format!("virsh create /tmp/{name}.xml")).with_context(|| self.log(name))?;
        let address = format!("UNIX-CONNECT:{}{serial}", root.display());
        Ok(Guest::new(name, number, Console::start(name, "socat", &["-", &address])?))
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

/// The root is made at first.
const LIMIT: Duration = Duration::from_secs(900);
