//! C10: domains and VMIs that are broken, huge, bombs, or have no interface for the hook.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_hook::proto::v1alpha3::OnDefineDomainParams;
use culvert_hook::proto::v1alpha3::callbacks_client::CallbacksClient;
use culvert_system::console::Console;
use culvert_system::paths::program;
use tokio::runtime::Runtime;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::field::Field;

const VMI: &str = r#"{"metadata":{"name":"fw","namespace":"lab","uid":"5e5e0000-0000-4000-8000-0000000000aa"},
 "spec":{"domain":{"cpu":{"cores":1},"devices":{"interfaces":[{"name":"dpdk-a","binding":{"name":"culvert"}}]}},
  "networks":[{"name":"dpdk-a","multus":{"networkName":"lab-net"}}]}}"#;

const PLAIN_VMI: &str = r#"{"metadata":{"name":"fw","namespace":"lab","uid":"5e5e0000-0000-4000-8000-0000000000aa"},
 "spec":{"domain":{"devices":{"interfaces":[{"name":"default","masquerade":{}}]}},"networks":[{"name":"default","pod":{}}]}}"#;

fn domain(devices: &str) -> String {
    format!(
        "<domain type=\"qemu\"><name>fw</name><memory unit=\"b\">2147483648</memory><vcpu>1</vcpu>\
         <os><type>hvm</type></os><devices>{devices}</devices></domain>"
    )
}

pub(super) fn domains_that_are_none(field: &mut Field) -> Result<()> {
    let folder = field.node().path("hooks");
    fs::create_dir(&folder)?;
    let words = [
        "CONTAINER_NAME=hook-sidecar-0".to_owned(),
        program("culvert-hook")?.display().to_string(),
        "--hook-folder".to_owned(),
        folder.display().to_string(),
    ];
    let mut console = Console::start("culvert-hook", "env", &words)?;
    console.wait_for("serving ", LIMIT)?;
    let mut hook = Hook::connect(&folder.join("culvert-hook-hook-sidecar-0.sock"))?;

    let good = domain("");
    let edited = hook.define(good.as_bytes(), VMI.as_bytes())?;
    ensure!(edited.contains("<alias name=\"ua-dpdk-a\"/>"), "it is not edited: {edited}");
    let refusal = hook.ask(good.as_bytes(), PLAIN_VMI.as_bytes()).err().context("a VM without our interface")?;
    ensure!(refusal.message().contains("no interface uses the network binding"), "{refusal}");

    let deep = |count: usize| domain(&format!("{}{}", "<a>".repeat(count), "</a>".repeat(count)));
    let bomb = format!(
        "<!DOCTYPE domain [<!ENTITY a \"aaaaaaaaaa\">{}]>{}",
        (0..20)
            .map(|n| format!(
                "<!ENTITY b{n} \"{}\">",
                if n == 0 { "&a;".repeat(10) } else { format!("&b{};", n - 1).repeat(10) }
            ))
            .collect::<String>(),
        domain("&b19;")
    );
    let recursive = format!("<!DOCTYPE domain [<!ENTITY a \"&b;\"><!ENTITY b \"&a;\">]>{}", domain("&a;"));
    let file = format!("<!DOCTYPE domain [<!ENTITY a SYSTEM \"file:///etc/passwd\">]>{}", domain("&a;"));
    let attributes: String = (0..100_000).map(|n| format!(" a{n}=\"\"")).collect();
    let broken: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", Vec::new()),
        ("no XML", b"{\"domain\": 1}".to_vec()),
        ("half", good.as_bytes().get(..good.len() / 2).unwrap_or_default().to_vec()),
        ("all but the last byte", good.as_bytes().get(..good.len() - 1).unwrap_or_default().to_vec()),
        ("two documents", format!("{good}{good}").into_bytes()),
        ("another root", b"<network><devices/></network>".to_vec()),
        ("no devices", b"<domain><name>fw</name></domain>".to_vec()),
        ("two devices", domain("</devices><devices>").into_bytes()),
        ("bytes that are no UTF-8", [good.as_bytes(), &[0xff, 0xfe]].concat()),
        ("UTF-16", good.encode_utf16().flat_map(u16::to_le_bytes).collect()),
        ("NUL", domain("\0").into_bytes()),
        ("an end that nobody began", domain("</a>").into_bytes()),
        ("a hundred thousand levels", deep(100_000).into_bytes()),
        ("a hundred thousand attributes", domain(&format!("<a{attributes}/>")).into_bytes()),
        ("an attribute twice", domain("<interface type='a' type='b'/>").into_bytes()),
        ("ten to the twentieth", bomb.into_bytes()),
        ("an entity of itself", recursive.into_bytes()),
        ("the node's file", file.into_bytes()),
        ("ten megabytes", domain(&"x".repeat(10 << 20)).into_bytes()),
    ];
    for (what, document) in &broken {
        match hook.ask(document, VMI.as_bytes()) {
            Err(status) => {
                ensure!(status.message().len() < 4096 && !status.message().contains("root:"), "{what}: {status}")
            }
            Ok(edited) => {
                let text = String::from_utf8_lossy(&edited);
                ensure!(!text.contains("root:x:0"), "{what}: it has the node's file");
                let whole = text.matches("ua-dpdk-a").count();
                ensure!(edited == *document || whole == 1, "{what} was half edited: {whole} interfaces");
            }
        }
        ensure!(hook.define(good.as_bytes(), VMI.as_bytes())? == edited, "after {what} another edit is made");
    }
    let deep_json = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let vmis = [
        "",
        "null",
        "[]",
        "{",
        "{\"spec\":[]}",
        deep_json.as_str(),
        "{\"spec\":{\"domain\":{\"devices\":{\"interfaces\":7}}}}",
        r#"{"spec":{"domain":{"devices":{"interfaces":[{"name":"'/><evil/>","binding":{"name":"culvert"}}]}},"networks":[{"name":"'/><evil/>","multus":{"networkName":"x"}}]}}"#,
        r#"{"spec":{"domain":{"devices":{"interfaces":[{"name":"../../x","binding":{"name":"culvert"},"macAddress":"not a mac"}]}},"networks":[{"name":"../../x","multus":{"networkName":"x"}}]}}"#,
    ];
    for vmi in vmis {
        if let Ok(edited) = hook.ask(good.as_bytes(), vmi.as_bytes()) {
            let text = String::from_utf8(edited)?;
            ensure!(!text.contains("<evil") && !text.contains("../"), "{vmi:.100}: {text}");
        }
        ensure!(hook.define(good.as_bytes(), VMI.as_bytes())? == edited, "after {vmi:.100} another edit is made");
    }
    ensure!(console.ended()?.is_none(), "culvert-hook has ended: {}", console.last_words());
    ensure!(!console.transcript().contains("panicked"), "{}", console.last_words());
    Ok(())
}

/// The hook as virt-launcher calls it.
struct Hook {
    runtime: Runtime,
    client: CallbacksClient<Channel>,
}

impl Hook {
    fn connect(socket: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))?;
        let channel = runtime.block_on(endpoint.connect()).with_context(|| socket.display().to_string())?;
        Ok(Self { runtime, client: CallbacksClient::new(channel).max_decoding_message_size(64 << 20) })
    }

    fn ask(&mut self, domain: &[u8], vmi: &[u8]) -> Result<Vec<u8>, Status> {
        let params = OnDefineDomainParams { domain_xml: domain.to_vec(), vmi: vmi.to_vec() };
        self.runtime.block_on(self.client.on_define_domain(params)).map(|answer| answer.into_inner().domain_xml)
    }

    fn define(&mut self, domain: &[u8], vmi: &[u8]) -> Result<String> {
        Ok(String::from_utf8(self.ask(domain, vmi)?)?)
    }
}

const LIMIT: Duration = Duration::from_secs(60);
