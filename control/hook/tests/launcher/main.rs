//! The real program, called as virt-launcher calls it: with its scans, its order of calls and its time limits.
#![expect(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

mod sidecar;
mod virt_launcher;

use std::fs;
use std::path::Path;
use std::time::Duration;

use culvert_hook::proto::plugins::domain_hook_service_client::DomainHookServiceClient;
use culvert_hook::proto::plugins::{MutateDomainRequest, SidecarContext};
use culvert_hook::proto::v1alpha3::PreCloudInitIsoParams;
use rustix::process::Signal;
use tonic::Code;

use sidecar::{Pod, Sidecar};
use virt_launcher::{VirtLauncher, dial};

const DOMAIN: &[u8] = b"<domain type=\"kvm\"><name>lab_fw</name><devices></devices></domain>";

/// A VMI with one interface, of this binding.
fn vmi(binding: &str) -> Vec<u8> {
    format!(
        r#"{{"metadata":{{"name":"fw","namespace":"lab","uid":"1"}},"spec":{{"domain":{{"devices":{{"interfaces":[
            {{"name":"dpdk-a","binding":{{"name":"{binding}"}}}}]}}}},"networks":[{{"name":"dpdk-a","multus":{{}}}}]}}}}"#
    )
    .into_bytes()
}

/// A VMI whose pod network is served by a translator.
fn translated() -> Vec<u8> {
    let vmi = String::from_utf8(vmi("culvert-translator")).unwrap();
    let vmi = vmi.replace("\"multus\":{}", "\"pod\":{}");
    vmi.replacen('{', "{\"status\":{\"interfaces\":[{\"name\":\"dpdk-a\",\"podInterfaceName\":\"eth0\"}]},", 1)
        .into_bytes()
}

/// The names in a folder that are not folders: what virt-launcher dials.
fn files(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap).filter(|entry| !entry.path().is_dir());
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// virt-launcher is there first, as it is in a pod: it must never meet a socket that does not answer.
#[tokio::test(flavor = "multi_thread")]
async fn two_sidecars_of_one_image_are_collected() {
    let pod = Pod::new();
    let launcher = VirtLauncher::with_folders(&pod.folder());
    let collecting = tokio::spawn(async move { launcher.collect(2).await });
    let sidecars = [Sidecar::start(&pod, 0, "culvert", &[]), Sidecar::start(&pod, 1, "culvert-translator", &[])];
    let hooks = collecting.await.unwrap();
    assert_eq!(hooks.len(), 2);
    for (hook, number) in hooks.iter().zip(0..) {
        assert_eq!(hook.info.versions, ["v1alpha3"]);
        let points: Vec<_> = hook.info.hook_points.iter().map(|point| point.name.as_str()).collect();
        assert_eq!(points, ["OnDefineDomain", "Shutdown"]);
        assert_eq!(files(&pod.hook_folder(number)), [format!("culvert-hook-hook-sidecar-{number}.sock")]);
    }
    drop(sidecars);
}

/// Before KubeVirt 1.6 all sidecars have one folder.
#[tokio::test(flavor = "multi_thread")]
async fn two_sidecars_in_one_folder_are_collected_also_without_names() {
    let pod = Pod::new();
    let in_one = |number, name| Sidecar::start_in(&pod.folder(), number, name, &[]);
    let sidecars =
        [in_one(Some(0), "culvert"), in_one(Some(1), "culvert"), in_one(None, "culvert"), in_one(None, "culvert")];
    let hooks = VirtLauncher::with_one_folder(&pod.folder()).collect(4).await;
    assert_eq!((hooks.len(), files(&pod.folder()).len()), (4, 4));
    drop(sidecars);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_domain_is_defined_twice_and_the_hook_ends_when_virt_launcher_does() {
    let pod = Pod::new();
    let sidecar = Sidecar::start(&pod, 0, "culvert", &[]);
    let hooks = VirtLauncher::with_folders(&pod.folder()).collect(1).await;
    let hook = hooks.first().unwrap();
    let domain = hook.define(DOMAIN, &vmi("culvert")).await.unwrap();
    let text = String::from_utf8(domain.clone()).unwrap();
    assert!(text.contains("path=\"/var/lib/cni/usrcni/pod494bb167e44.sock\" mode=\"client\""), "{text}");
    assert!(text.contains("<source type=\"memfd\"/><access mode=\"shared\"/>"), "{text}");
    assert_eq!(hook.define(&domain, &vmi("culvert")).await.unwrap(), domain);
    // The reply comes first.
    hook.shutdown().await.unwrap();
    assert!(sidecar.wait().success());
    assert_eq!(files(&pod.hook_folder(0)), [""; 0]);
}

/// A container that is started again in its pod.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_sidecar_left_is_replaced() {
    let pod = Pod::new();
    let sidecar = Sidecar::start(&pod, 0, "culvert", &[]);
    VirtLauncher::with_folders(&pod.folder()).collect(1).await;
    sidecar.signal(Signal::KILL);
    assert!(!sidecar.wait().success());
    assert_eq!(files(&pod.hook_folder(0)), ["culvert-hook-hook-sidecar-0.sock"]);
    let again = Sidecar::start(&pod, 0, "culvert", &[]);
    let hooks = VirtLauncher::with_folders(&pod.folder()).collect(1).await;
    hooks.first().unwrap().define(DOMAIN, &vmi("culvert")).await.unwrap();
    drop(again);
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_end_it_in_order() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT] {
        let pod = Pod::new();
        let sidecar = Sidecar::start(&pod, 0, "culvert", &[]);
        VirtLauncher::with_folders(&pod.folder()).collect(1).await;
        sidecar.signal(signal);
        assert!(sidecar.wait().success(), "{signal:?}");
        assert_eq!(files(&pod.hook_folder(0)), [""; 0], "{signal:?}");
    }
}

/// KubeVirt writes the file after Multus has said what it did: when the sidecar runs already.
#[tokio::test(flavor = "multi_thread")]
async fn network_info_is_waited_for() {
    let pod = Pod::new();
    let info = pod.folder().join("podinfo");
    fs::create_dir(&info).unwrap();
    let file = info.join("network-info");
    let sidecar = Sidecar::start(&pod, 0, "culvert", &["--network-info", file.to_str().unwrap()]);
    let launcher = VirtLauncher::with_folder_names(&pod.folder(), &["hook-sidecar-0"]);
    let hook = launcher.collect(1).await.remove(0);
    let defining = tokio::spawn(async move { hook.define(DOMAIN, &vmi("culvert")).await });
    // Empty at first, and then half of it.
    let whole = r#"{"interfaces":[{"network":"dpdk-a","deviceInfo":{"type":"vhost-user","version":"1.1.0","vhost-user":
        {"mode":"client","path":"/var/run/culvert/blue/pod494bb167e44.sock"}},"mac":"02:11:22:aa:bb:01","mtu":9000}]}"#;
    for text in ["", whole.get(..40).unwrap()] {
        fs::write(&file, text).unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!defining.is_finished());
    }
    fs::write(&file, whole).unwrap();
    let domain = String::from_utf8(defining.await.unwrap().unwrap()).unwrap();
    assert!(domain.contains("path=\"/var/run/culvert/blue/pod494bb167e44.sock\""), "{domain}");
    assert!(domain.contains("<mac address=\"02:11:22:aa:bb:01\"/>") && domain.contains("value=\"9000\""));
    drop(sidecar);
}

/// What culvert-webhook and the downward API say.
#[tokio::test(flavor = "multi_thread")]
async fn the_pod_s_variable_and_annotations_are_read() {
    let pod = Pod::new();
    let annotations = pod.folder().join("annotations");
    let status = r#"k8s.v1.cni.cncf.io/network-status="[{\"name\":\"lab/lab-net\",\"interface\":\"pod494bb167e44\",\"mac\":\"02:11:22:aa:bb:01\",\"mtu\":1400}]""#;
    fs::write(&annotations, format!("a=\"b\"\n{status}\n")).unwrap();
    let interfaces = r#"{"pod494bb167e44":{"folder":"/var/lib/cni/usrspcni","role":"connect"}}"#;
    let options = ["--annotations", annotations.to_str().unwrap(), "--interfaces", interfaces];
    let sidecar = Sidecar::start(&pod, 0, "culvert", &options);
    let launcher = VirtLauncher::with_folder_names(&pod.folder(), &["hook-sidecar-0"]);
    let hook = launcher.collect(1).await.remove(0);
    let domain = String::from_utf8(hook.define(DOMAIN, &vmi("culvert")).await.unwrap()).unwrap();
    assert!(domain.contains("path=\"/var/lib/cni/usrspcni/pod494bb167e44.sock\" mode=\"server\"/>"), "{domain}");
    assert!(domain.contains("<mac address=\"02:11:22:aa:bb:01\"/>") && domain.contains("value=\"1400\""));
    drop(sidecar);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_reach_virt_launcher_as_sentences() {
    let pod = Pod::new();
    let sidecar = Sidecar::start(&pod, 0, "culvert", &[]);
    let hooks = VirtLauncher::with_folders(&pod.folder()).collect(1).await;
    let hook = hooks.first().unwrap();
    let sentences = [
        (hook.define(DOMAIN, &vmi("other")).await, "VMI lab/fw: no interface uses the network binding culvert;"),
        (hook.define(b"<domain>", &vmi("culvert")).await, "VMI lab/fw: the domain cannot be read: "),
        (hook.define(DOMAIN, b"{").await, "the VMI cannot be read: "),
        (hook.define(&vec![b' '; 2 << 20], &vmi("culvert")).await, "VMI lab/fw: the domain has 2097152 bytes of XML;"),
    ];
    for (result, sentence) in sentences {
        let status = result.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with(sentence), "{}", status.message());
    }
    // And it goes on.
    hook.define(DOMAIN, &vmi("culvert")).await.unwrap();
    let cloud_init = PreCloudInitIsoParams {
        cloud_init_no_cloud_source: b"old".to_vec(),
        vmi: Vec::new(),
        cloud_init_data: b"new".to_vec(),
    };
    let result = hook.callbacks().await.pre_cloud_init_iso(cloud_init).await.unwrap().into_inner();
    assert_eq!((&result.cloud_init_no_cloud_source[..], &result.cloud_init_data[..]), (&b"old"[..], &b"new"[..]));
    drop(sidecar);
}

/// A domain is not defined with a socket that nobody serves.
#[tokio::test(flavor = "multi_thread")]
async fn a_translator_that_does_not_come_up_is_an_error() {
    for (program, sentence) in [
        (
            "/nonexistent/culvert-translator",
            "ended 3 times, the last time with: /nonexistent/culvert-translator cannot be started",
        ),
        ("/bin/false", "ended 3 times, the last time with: exit status: 1"),
    ] {
        let pod = Pod::new();
        let sidecar = Sidecar::start(&pod, 0, "culvert-translator", &["--translator", program]);
        let hooks = VirtLauncher::with_folders(&pod.folder()).collect(1).await;
        let status = hooks.first().unwrap().define(DOMAIN, &translated()).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        let begins = "VMI lab/fw: the translator of interface \"dpdk-a\" does not serve; ";
        let message = status.message();
        assert!(message.starts_with(begins), "{message}");
        assert!(message.contains(sentence), "{message}");
        sidecar.signal(Signal::TERM);
        assert!(sidecar.wait().success());
        assert_eq!(files(&pod.hook_folder(0)), [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_s_service_makes_the_same_edit() {
    let pod = Pod::new();
    let folder = pod.folder().join("plugin");
    fs::create_dir(&folder).unwrap();
    let socket = folder.join("culvert.sock");
    // Where there is no hook folder.
    let none = pod.folder().join("none");
    let options = ["--plugin-socket", socket.to_str().unwrap(), "--binding", "vhostuser"];
    let sidecar = Sidecar::start_in(&none, None, "culvert", &options);
    let mut client = DomainHookServiceClient::new(sidecar.dial_when_there(&socket).await);
    let request = |domain_type: &str, context: &str, vmi: Vec<u8>| MutateDomainRequest {
        domain_type: domain_type.to_owned(),
        domain: DOMAIN.to_vec(),
        vmi,
        sidecar_context: Some(SidecarContext { invocation_context: context.to_owned() }),
    };
    let boot = client.mutate_domain(request("libvirt", "Boot", vmi("culvert"))).await.unwrap().into_inner().domain;
    assert!(String::from_utf8(boot.clone()).unwrap().contains("<interface type=\"vhostuser\">"));
    for context in ["MigrationSource", "MigrationTarget"] {
        let result = client.mutate_domain(request("libvirt", context, vmi("culvert"))).await.unwrap();
        assert_eq!(result.into_inner().domain, boot);
    }
    // A plugin is called for any VMI.
    let other = client.mutate_domain(request("libvirt", "Boot", vmi("other"))).await.unwrap();
    assert_eq!(other.into_inner().domain, DOMAIN);
    let status = client.mutate_domain(request("ovf", "Boot", vmi("culvert"))).await.unwrap_err();
    assert!(status.message().contains("\"ovf\""), "{status}");
    assert_eq!(files(&folder), ["culvert.sock"]);
    assert!(!none.exists());
    sidecar.signal(Signal::TERM);
    assert!(sidecar.wait().success());
    assert!(dial(&socket).await.is_err());
}
