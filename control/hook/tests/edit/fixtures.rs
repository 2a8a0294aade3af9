//! A domain, its VMI and a pod's files, as KubeVirt and Multus write them, and the edit of variants of them.

use culvert_hook::context::Context;
use culvert_hook::error::{InterfaceFault, Reason};
use culvert_hook::{Vmi, edit};

pub const DOMAIN: &str = r#"<domain type="kvm" xmlns:qemu="http://libvirt.org/schemas/domain/qemu/1.0"><name>lab_fw</name><memory unit="b">2147483648</memory>
<memoryBacking><hugepages></hugepages><source type="memfd"></source></memoryBacking>
<cpu mode="host-model"><numa><cell id="0" cpus="0-3" memory="2097152" unit="KiB"></cell></numa></cpu>
<devices></devices></domain>"#;

pub const VMI: &str = r#"{"metadata":{"name":"fw","namespace":"lab","uid":"5e5e0000-0000-4000-8000-0000000000aa","annotations":{"sidecar.istio.io/inject":"True"}},
 "spec":{"domain":{"cpu":{"sockets":1,"cores":4,"threads":1},"memory":{"hugepages":{"pageSize":"2Mi"}},
  "devices":{"networkInterfaceMultiqueue":true,"useVirtioTransitional":false,"interfaces":[
   {"name":"default","binding":{"name":"culvert-translator"},"ports":[{"port":8443,"protocol":"TCP"},{"port":53,"protocol":"udp"}]},
   {"name":"dpdk-a","binding":{"name":"culvert"},"macAddress":"02:11:22:aa:bb:01","acpiIndex":3}]}},
  "networks":[{"name":"default","pod":{}},{"name":"dpdk-a","multus":{"networkName":"lab-net"}}]},
 "status":{"interfaces":[{"name":"default","podInterfaceName":"eth0"}]}}"#;

pub const STATUS: &str = r#"[{"name":"lab/default","interface":"eth0","ips":["203.0.113.9"],"mac":"0a:58:cb:00:71:09","default":true,"dns":{}},
 {"name":"lab/lab-net","interface":"pod494bb167e44","ips":["198.51.100.5"],"mac":"02:11:22:aa:bb:01","mtu":1500,"dns":{},
  "device-info":{"type":"vhost-user","version":"1.1.0","vhost-user":{"mode":"server","path":"0f1e2d3c4b5a-pod494bb167e44"}}}]"#;

pub const INFO: &str = r#"{"interfaces":[{"network":"dpdk-a","deviceInfo":{"type":"vhost-user","version":"1.1.0","vhost-user":{"mode":"server","path":"/var/run/vsw/dpdk-a/vhost.sock"}},"mac":"02:11:22:aa:bb:01","mtu":1500}]}"#;

/// The context of the sidecar for one binding.
pub fn sidecar(binding: &str) -> Context {
    Context { binding_name: Some(binding.to_owned()), ..Context::default() }
}

pub fn vmi(json: &str) -> Vmi {
    Vmi::parse(json.as_bytes()).unwrap()
}

/// The edit of the fixture, with changes to the VMI's text.
pub fn edited(changes: &[(&str, &str)], context: &Context) -> String {
    String::from_utf8(edit(DOMAIN.as_bytes(), &changed(changes), context).unwrap()).unwrap()
}

pub fn changed(changes: &[(&str, &str)]) -> Vmi {
    let text = changes.iter().fold(VMI.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from}");
        text.replace(from, to)
    });
    vmi(&text)
}

pub fn refused(domain: &str, vmi: &Vmi, context: &Context) -> Reason {
    let error = edit(domain.as_bytes(), vmi, context).unwrap_err();
    assert!(error.to_string().starts_with("VMI lab/fw: "), "{error}");
    error.reason
}

/// The fault of the fixture with a change to the VMI's text.
pub fn fault(from: &str, to: &str, context: &Context) -> InterfaceFault {
    match refused(DOMAIN, &changed(&[(from, to)]), context) {
        Reason::Interface { fault, .. } => fault,
        other => panic!("{other}"),
    }
}
