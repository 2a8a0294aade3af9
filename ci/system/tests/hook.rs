//! culvert-hook with the real parts around it: libvirt defines the domains that it edits, and the translators that it runs in a pod are
//! watched, handed over from one sidecar to another, and outlive what they must.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use culvert_api::translator::{ask, control_socket};
use culvert_hook::proto::v1alpha3::callbacks_client::CallbacksClient;
use culvert_hook::proto::v1alpha3::{OnDefineDomainParams, ShutdownParams};
use culvert_hook::{Context, Vmi, edit};
use culvert_system::console::Console;
use culvert_system::libvirt::Libvirt;
use culvert_system::paths::program;
use culvert_system::place::Place;
use culvert_system::rows::Rows;
use culvert_system::translator::Pod;
use culvert_system::wait::wait_until;
use tonic::transport::{Channel, Endpoint};

/// As virt-launcher sends it, but for emulation and a machine type that every Debian has.
fn domain(name: &str, backing: &str, devices: &str) -> String {
    format!(
        "<domain type=\"qemu\" xmlns:qemu=\"http://libvirt.org/schemas/domain/qemu/1.0\">\n\t<name>{name}</name>
\t<memory unit=\"b\">2147483648</memory>{backing}
\t<vcpu placement=\"static\">4</vcpu>
\t<os>\n\t\t<type arch=\"x86_64\" machine=\"q35\">hvm</type>\n\t</os>
\t<cpu mode=\"custom\"><model>qemu64</model><topology sockets=\"1\" cores=\"4\" threads=\"1\"></topology>
\t\t<numa><cell id=\"0\" cpus=\"0-3\" memory=\"2097152\" unit=\"KiB\"></cell></numa></cpu>
\t<devices>{devices}</devices>
\t<qemu:commandline><qemu:env name=\"A\" value=\"b\"></qemu:env></qemu:commandline>\n</domain>"
    )
}

/// The VMI, with these words for its vhost-user interface.
fn vmi(options: &str) -> String {
    format!(
        r#"{{"metadata":{{"name":"fw","namespace":"lab","uid":"5e5e0000-0000-4000-8000-0000000000aa","annotations":{{"sidecar.istio.io/inject":"True"}}}},
 "spec":{{"domain":{{"cpu":{{"sockets":1,"cores":4,"threads":1}},"memory":{{"hugepages":{{"pageSize":"2Mi"}}}},
  "devices":{{"networkInterfaceMultiqueue":true,"useVirtioTransitional":false,"interfaces":[
   {{"name":"default","binding":{{"name":"culvert-translator"}},"ports":[{{"port":8443,"protocol":"TCP"}},{{"port":53,"protocol":"udp"}}]}},
   {{"name":"dpdk-a","binding":{{"name":"culvert"}},{options}}}]}}}},
  "networks":[{{"name":"default","pod":{{}}}},{{"name":"dpdk-a","multus":{{"networkName":"lab-net"}}}}]}},
 "status":{{"interfaces":[{{"name":"default","podInterfaceName":"eth0"}}]}}}}"#
    )
}

#[test]
fn libvirt_defines_what_the_hook_writes() -> Result<()> {
    let (pod, mut rows) = (Pod::new()?, Rows::default());
    let mut libvirt = Libvirt::start(&pod)?;
    println!();
    let mac = "\"macAddress\":\"02:11:22:aa:bb:01\",\"acpiIndex\":3";
    let hugepages = "<memoryBacking><hugepages></hugepages><source type=\"memfd\"></source></memoryBacking>";
    let there = "<interface type=\"user\"><alias name=\"ua-dpdk-a\"></alias></interface>";
    let connect = r#"{"pod494bb167e44":{"folder":"/var/run/culvert/blue","role":"connect"}}"#;
    let info = r#"{"interfaces":[{"network":"dpdk-a","mtu":9000,"deviceInfo":{"type":"vhost-user","vhost-user":{"mode":"client","path":"x.sock"}}}]}"#;
    let reconnect = "<reconnect enabled='yes' timeout='1'/>";
    let rings = "<driver name='vhost' queues='4' rx_queue_size='1024' tx_queue_size='1024'/>";
    for (name, backing, devices, options, context, words) in [
        (
            "hugepages",
            hugepages,
            "",
            mac,
            Context::default(),
            vec![rings, reconnect, "<acpi index='3'/>", "<mac address='02:11:22:aa:bb:01'/>"],
        ),
        ("replaced", "", there, mac, Context::default(), vec![rings, "<alias name='ua-dpdk-a'/>"]),
        (
            "connect",
            "<memoryBacking/>",
            "",
            "\"pciAddress\":\"0000:00:1a.0\",\"bootOrder\":1,\"state\":\"down\"",
            Context { declared: culvert_hook::context::declared(connect)?, ..Context::default() },
            vec![
                "<source type='unix' path='/var/run/culvert/blue/pod494bb167e44.sock' mode='server'/>",
                "<boot order='1'/>",
                "<link state='down'/>",
                "bus='0x00' slot='0x1a' function='0x0'",
            ],
        ),
        (
            "info",
            hugepages,
            "",
            "\"model\":\"virtio-transitional\"",
            Context {
                network_info: Some(culvert_hook::network_info::NetworkInfo::parse(info.as_bytes())?),
                ..Context::default()
            },
            vec![
                "<qemu:property name='host_mtu' type='unsigned' value='9000'/>",
                "<model type='virtio-transitional'/>",
                "path='/var/lib/cni/usrcni/x.sock' mode='client'",
            ],
        ),
    ] {
        rows.row(name, || {
            let vmi = Vmi::parse(vmi(options).as_bytes())?;
            let edited = edit(domain(name, backing, devices).as_bytes(), &vmi, &context)?;
            let defined = libvirt.define(name, &edited)?;
            let always = [
                "<access mode='shared'/>",
                "memAccess='shared'",
                "<source type='memfd'/>",
                "<qemu:env name='A' value='b'/>",
            ];
            let translator = "<source type='unix' path='/var/run/culvert-translator/default.sock' mode='client'>";
            for word in words.into_iter().chain(always).chain([translator]) {
                ensure!(defined.contains(word), "{word} is not in what libvirt has made of it:\n{defined}");
            }
            ensure!(defined.matches("<interface ").count() == 2, "it has other interfaces:\n{defined}");
            // What libvirt writes, with addresses for all, is what the hook would write.
            let again = libvirt.define(name, &edit(defined.as_bytes(), &vmi, &context)?)?;
            ensure!(again == defined, "libvirt's own is edited to something else:\n{defined}\n{again}");
            Ok(())
        });
    }
    rows.end()
}

#[test]
fn translators_run_as_long_as_they_are_needed() -> Result<()> {
    let (pod, mut rows) = (Pod::new()?, Rows::default());
    let volume = pod.path("volume");
    fs::create_dir(&volume)?;
    fs::set_permissions(&volume, Permissions::from_mode(0o777))?;
    let (socket, control) = (volume.join("default.sock"), control_socket(&volume.join("default.sock")));
    println!();

    let mut first = Hook::start(&pod, 0)?;
    rows.row("it is started with the ports of the VM, and serves", || {
        let domain = String::from_utf8(first.define()?)?;
        ensure!(domain.contains("<alias name=\"ua-default\"/>"), "{domain}");
        let forwards = ask(&control, "forward list", PATIENCE)?.join("\n");
        ensure!(forwards.contains("TCP *:8443 ") && forwards.contains("UDP *:53 "), "it forwards {forwards}");
        ensure!(!forwards.contains("15001"), "it forwards {forwards}");
        Ok(())
    });
    rows.row("it has no rights and nothing of the node's", || {
        let [process] = first.translators()?[..] else { return Err(anyhow::anyhow!("there is not one translator")) };
        let status = fs::read_to_string(format!("/proc/{process}/status"))?;
        ensure!(status.contains("Uid:\t107\t107") && status.contains("CapBnd:\t0000000000000000"), "{status}");
        let line = fs::read_to_string(format!("/proc/{process}/cmdline"))?;
        ensure!(line.contains("--no-map-gw") && line.contains("--interface\0eth0"), "{line:?}");
        Ok(())
    });
    rows.row("it is left alone when the domain is defined again", || {
        let before = first.translators()?;
        first.define()?;
        let after = first.translators()?;
        ensure!(before == after, "{before:?} became {after:?}");
        Ok(())
    });
    rows.row("one that is killed is started again", || {
        let [process] = first.translators()?[..] else { return Err(anyhow::anyhow!("there is not one translator")) };
        kill(process, "KILL")?;
        first.console.wait_for("ended and is started again", LIMIT)?;
        first.define()?;
        let after = first.translators()?;
        ensure!(after.len() == 1 && after != [process], "{process} became {after:?}");
        ask(&control, "stats", PATIENCE)?;
        Ok(())
    });

    // KubeVirt that does not tell sidecars which binding they are for.
    let mut second = Hook::start(&pod, 1)?;
    rows.row("a second sidecar takes it over when the first one ends", || {
        second.define()?;
        ensure!(second.translators()?.is_empty(), "there are two translators");
        first.shutdown()?;
        ensure!(first.console.wait(LIMIT)?.success(), "the first sidecar failed");
        second.console.wait_for("is process", LIMIT)?;
        second.define()?;
        ensure!(second.translators()?.len() == 1, "the second sidecar has no translator");
        ask(&control, "stats", PATIENCE)?;
        Ok(())
    });
    rows.row("SIGTERM waits for the guest", || {
        // As QEMU, which is in the pod.
        let guest = pod.pod().run(|| Ok(UnixStream::connect(&socket)?))?;
        wait_until("the translator has a guest", || {
            Ok(ask(&control, "stats", PATIENCE)?.iter().any(|line| line == "guest_connections 1"))
        })?;
        second.console.signal("TERM")?;
        second.console.wait_for("the translators go on until their guests have ended", LIMIT)?;
        ask(&control, "stats", PATIENCE)?;
        drop(guest);
        ensure!(second.console.wait(LIMIT)?.success(), "the second sidecar failed");
        Ok(())
    });
    rows.row("nothing is left", || {
        ask(&control, "stats", PATIENCE).err().context("a translator is left")?;
        for number in [0, 1] {
            let names = fs::read_dir(hook_folder(&pod, number))?
                .map(|entry| Ok(entry?.file_name()))
                .collect::<Result<Vec<_>>>()?;
            ensure!(names == ["culvert"], "{names:?} are left");
        }
        let names = fs::read_dir(&volume)?.map(|entry| Ok(entry?.file_name())).collect::<Result<Vec<_>>>()?;
        ensure!(names.is_empty(), "{names:?} are left in the volume");
        Ok(())
    });
    rows.end()
}

/// A sidecar that knows no name of its binding, as uid 107 without capabilities.
struct Hook {
    console: Console,
    socket: PathBuf,
    runtime: tokio::runtime::Runtime,
}

impl Hook {
    fn start(pod: &Pod, number: u32) -> Result<Self> {
        let folder = hook_folder(pod, number);
        fs::create_dir(&folder)?;
        fs::set_permissions(&folder, Permissions::from_mode(0o777))?;
        let place = Place { namespace: Some(pod.pod().name().to_owned()), ..Place::default() };
        let words = "--reuid 107 --regid 107 --clear-groups --inh-caps=-all --bounding-set=-all --no-new-privs env";
        let mut words: Vec<String> = words.split(' ').map(str::to_owned).collect();
        words.push(format!("CONTAINER_NAME=hook-sidecar-{number}"));
        words.push(program("culvert-hook")?.display().to_string());
        for (option, path) in [
            ("--hook-folder", folder.clone()),
            ("--translator-folder", pod.path("volume")),
            ("--translator", program("culvert-translator")?),
        ] {
            words.extend([option.to_owned(), path.display().to_string()]);
        }
        let mut console = Console::start_in(&place, &format!("hook{number}"), "setpriv", &words)?;
        console.wait_for("serving ", LIMIT)?;
        let socket = folder.join(format!("culvert-hook-hook-sidecar-{number}.sock"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { console, socket, runtime })
    }

    fn define(&mut self) -> Result<Vec<u8>> {
        let domain_xml = domain("fw", "", "").into_bytes();
        let params = OnDefineDomainParams { domain_xml, vmi: vmi("\"acpiIndex\":3").into_bytes() };
        let result = self
            .runtime
            .block_on(async { callbacks(&self.socket).await?.on_define_domain(params).await.map_err(Into::into) });
        let result: Result<_> = result;
        Ok(result.with_context(|| self.console.last_words())?.into_inner().domain_xml)
    }

    fn shutdown(&mut self) -> Result<()> {
        self.runtime.block_on(async {
            callbacks(&self.socket).await?.shutdown(ShutdownParams {}).await?;
            Ok(())
        })
    }

    /// The processes that it has started.
    fn translators(&self) -> Result<Vec<u32>> {
        let pid = self.console.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        children.split_whitespace().map(|child| Ok(child.parse()?)).collect()
    }
}

async fn callbacks(socket: &Path) -> Result<CallbacksClient<Channel>> {
    let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))?;
    Ok(CallbacksClient::new(endpoint.connect().await?))
}

fn hook_folder(pod: &Pod, number: u32) -> PathBuf {
    pod.path(&format!("hook-sidecar-{number}"))
}

fn kill(process: u32, signal: &str) -> Result<()> {
    let status = std::process::Command::new("kill").args(["-s", signal, &process.to_string()]).status()?;
    ensure!(status.success(), "process {process} cannot be sent SIG{signal}");
    Ok(())
}

const PATIENCE: Duration = Duration::from_secs(5);
const LIMIT: Duration = Duration::from_secs(60);
