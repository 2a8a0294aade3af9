//! The edit on the domains and VMIs that KubeVirt sends, and what must not be edited.
#![expect(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

use culvert_hook::binding::Binding;
use culvert_hook::context::{Context, TranslatorFolder, declared};
use culvert_hook::error::{InterfaceFault, MemoryFault, Reason};
use culvert_hook::network_info::{NetworkInfo, network_status};
use culvert_hook::{Plan, Tap, Vmi, edit, plan};

const DOMAIN: &str = r#"<domain type="kvm" xmlns:qemu="http://libvirt.org/schemas/domain/qemu/1.0"><name>lab_fw</name><memory unit="b">2147483648</memory>
<memoryBacking><hugepages></hugepages><source type="memfd"></source></memoryBacking>
<cpu mode="host-model"><numa><cell id="0" cpus="0-3" memory="2097152" unit="KiB"></cell></numa></cpu>
<devices></devices></domain>"#;

const VMI: &str = r#"{"metadata":{"name":"fw","namespace":"lab","uid":"5e5e0000-0000-4000-8000-0000000000aa","annotations":{"sidecar.istio.io/inject":"True"}},
 "spec":{"domain":{"cpu":{"sockets":1,"cores":4,"threads":1},"memory":{"hugepages":{"pageSize":"2Mi"}},
  "devices":{"networkInterfaceMultiqueue":true,"useVirtioTransitional":false,"interfaces":[
   {"name":"default","binding":{"name":"culvert-translator"},"ports":[{"port":8443,"protocol":"TCP"},{"port":53,"protocol":"udp"}]},
   {"name":"dpdk-a","binding":{"name":"culvert"},"macAddress":"02:11:22:aa:bb:01","acpiIndex":3}]}},
  "networks":[{"name":"default","pod":{}},{"name":"dpdk-a","multus":{"networkName":"lab-net"}}]},
 "status":{"interfaces":[{"name":"default","podInterfaceName":"eth0"}]}}"#;

const STATUS: &str = r#"[{"name":"lab/default","interface":"eth0","ips":["203.0.113.9"],"mac":"0a:58:cb:00:71:09","default":true,"dns":{}},
 {"name":"lab/lab-net","interface":"pod494bb167e44","ips":["198.51.100.5"],"mac":"02:11:22:aa:bb:01","mtu":1500,"dns":{},
  "device-info":{"type":"vhost-user","version":"1.1.0","vhost-user":{"mode":"server","path":"0f1e2d3c4b5a-pod494bb167e44"}}}]"#;

const INFO: &str = r#"{"interfaces":[{"network":"dpdk-a","deviceInfo":{"type":"vhost-user","version":"1.1.0","vhost-user":{"mode":"server","path":"/var/run/vsw/dpdk-a/vhost.sock"}},"mac":"02:11:22:aa:bb:01","mtu":1500}]}"#;

/// The context of the sidecar for one binding.
fn sidecar(binding: &str) -> Context {
    Context { binding_name: Some(binding.to_owned()), ..Context::default() }
}

fn vmi(json: &str) -> Vmi {
    Vmi::parse(json.as_bytes()).unwrap()
}

/// The edit of the fixture, with changes to the VMI's text.
fn edited(changes: &[(&str, &str)], context: &Context) -> String {
    String::from_utf8(edit(DOMAIN.as_bytes(), &changed(changes), context).unwrap()).unwrap()
}

fn changed(changes: &[(&str, &str)]) -> Vmi {
    let text = changes.iter().fold(VMI.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from}");
        text.replace(from, to)
    });
    vmi(&text)
}

fn refused(domain: &str, vmi: &Vmi, context: &Context) -> Reason {
    let error = edit(domain.as_bytes(), vmi, context).unwrap_err();
    assert!(error.to_string().starts_with("VMI lab/fw: "), "{error}");
    error.reason
}

/// The fault of the fixture with a change to the VMI's text.
fn fault(from: &str, to: &str, context: &Context) -> InterfaceFault {
    match refused(DOMAIN, &changed(&[(from, to)]), context) {
        Reason::Interface { fault, .. } => fault,
        other => panic!("{other}"),
    }
}

#[test]
fn a_vhost_user_interface_is_added_and_memory_shared() {
    let vmi = vmi(VMI);
    let result = edit(DOMAIN.as_bytes(), &vmi, &sidecar("culvert")).unwrap();
    let expected = DOMAIN
        .replace(r#"<source type="memfd"></source>"#, r#"<source type="memfd"></source><access mode="shared"/>"#)
        .replace(r#"<cell id"#, r#"<cell memAccess="shared" id"#)
        .replace(
            "<devices>",
            concat!(
                r#"<devices><interface type="vhostuser"><mac address="02:11:22:aa:bb:01"/>"#,
                r#"<source type="unix" path="/var/lib/cni/usrcni/pod494bb167e44.sock" mode="client">"#,
                r#"<reconnect enabled="yes" timeout="1"/></source><model type="virtio-non-transitional"/>"#,
                r#"<driver name="vhost" queues="4" rx_queue_size="1024" tx_queue_size="1024"/>"#,
                r#"<alias name="ua-dpdk-a"/><acpi index="3"/></interface>"#
            ),
        );
    assert_eq!(String::from_utf8(result.clone()).unwrap(), expected);
    assert_eq!(edit(&result, &vmi, &sidecar("culvert")).unwrap(), result, "not idempotent");
}

#[test]
fn a_translator_is_wished_for_and_its_interface_added() {
    let vmi = vmi(VMI);
    let Plan { domain, translators, notices } = plan(DOMAIN.as_bytes(), &vmi, &sidecar("culvert-translator")).unwrap();
    let text = String::from_utf8(domain.clone()).unwrap();
    let interface = concat!(
        r#"<source type="unix" path="/var/run/culvert-translator/default.sock" mode="client">"#,
        r#"<reconnect enabled="yes" timeout="1"/></source><model type="virtio-non-transitional"/>"#,
        r#"<alias name="ua-default"/></interface></devices>"#
    );
    assert!(text.contains(interface) && text.contains(r#"<access mode="shared"/>"#), "{text}");
    let [translator] = &translators[..] else { panic!("{translators:?}") };
    assert_eq!(translator.socket.to_str(), Some("/var/run/culvert-translator/default.sock"));
    assert_eq!((translator.pod_interface.as_str(), &translator.tap), ("eth0", &None));
    let excluded = "~15000,~15001,~15004,~15006,~15008,~15009,~15020,~15021,~15053,~15090";
    assert_eq!(translator.forwards, ["--tcp-ports", &format!("{excluded},8443"), "--udp-ports", "53"]);
    assert_eq!(notices, Vec::<String>::new());
    assert_eq!(plan(&domain, &vmi, &sidecar("culvert-translator")).unwrap().domain, domain, "not idempotent");
}

/// One sidecar's result is the next one's input; and where KubeVirt tells no names, each does all of it.
#[test]
fn two_sidecars_make_what_one_does_that_knows_no_name() {
    let vmi = vmi(VMI);
    let one = edit(DOMAIN.as_bytes(), &vmi, &sidecar("culvert-translator")).unwrap();
    let both = edit(&one, &vmi, &sidecar("culvert")).unwrap();
    let nameless = edit(DOMAIN.as_bytes(), &vmi, &Context::default()).unwrap();
    assert_eq!(String::from_utf8(both.clone()).unwrap(), String::from_utf8(nameless).unwrap());
    for context in [sidecar("culvert"), sidecar("culvert-translator"), Context::default()] {
        assert_eq!(edit(&both, &vmi, &context).unwrap(), both);
    }
}

#[test]
fn the_pod_s_files_say_where_the_socket_is_in_this_order() {
    let source = |context: &Context| {
        let result = edited(&[], context);
        let start = result.find("<source type=\"unix\"").unwrap();
        result[start..].split('>').next().unwrap().to_owned() + ">"
    };
    let source_of = |path: &str, mode: &str| {
        let end = if mode == "server" { "/>" } else { ">" };
        format!("<source type=\"unix\" path=\"{path}\" mode=\"{mode}\"{end}")
    };
    let mut context = sidecar("culvert");
    context.network_status = network_status(STATUS.as_bytes()).unwrap();
    let path = "/var/lib/cni/usrcni/0f1e2d3c4b5a-pod494bb167e44";
    assert_eq!(source(&context), source_of(path, "server"));
    context.declared = declared(r#"{"pod494bb167e44":{"folder":"/var/run/culvert/blue","role":"listen"}}"#).unwrap();
    assert_eq!(source(&context), source_of("/var/run/culvert/blue/pod494bb167e44.sock", "client"));
    context.declared = declared(r#"{"pod494bb167e44":{"folder":"/var/lib/cni/usrspcni","role":"connect"}}"#).unwrap();
    assert_eq!(source(&context), source_of("/var/lib/cni/usrspcni/pod494bb167e44.sock", "server"));
    context.network_info = Some(NetworkInfo::parse(INFO.as_bytes()).unwrap());
    assert_eq!(source(&context), source_of("/var/run/vsw/dpdk-a/vhost.sock", "server"));
    // A relative path is below the folder of that interface.
    let relative = INFO.replace("/var/run/vsw/dpdk-a/vhost.sock", "x.sock").replace("server", "client");
    context.network_info = Some(NetworkInfo::parse(relative.as_bytes()).unwrap());
    assert_eq!(source(&context), source_of("/var/lib/cni/usrspcni/x.sock", "client"));
    // KubeVirt writes the network without device information when there was no device plugin.
    let bare = r#"{"interfaces":[{"network":"dpdk-a"}]}"#;
    context.network_info = Some(NetworkInfo::parse(bare.as_bytes()).unwrap());
    assert_eq!(source(&context), source_of("/var/lib/cni/usrspcni/pod494bb167e44.sock", "server"));
}

#[test]
fn what_is_mounted_and_not_yet_written_is_an_error_but_on_a_migration_s_target() {
    let context = Context { network_info: Some(NetworkInfo::default()), ..sidecar("culvert") };
    assert_eq!(fault("lab-net", "lab-net", &context), InterfaceFault::NotInNetworkInfo);
    let migrating = ("\"status\":{", "\"status\":{\"migrationState\":{\"targetNode\":\"b\"},");
    assert!(edited(&[migrating], &context).contains("/var/lib/cni/usrcni/pod494bb167e44.sock"));
    let done = ("\"status\":{", "\"status\":{\"migrationState\":{\"completed\":true},");
    assert_eq!(fault(done.0, done.1, &context), InterfaceFault::NotInNetworkInfo);
}

#[test]
fn mac_and_mtu_come_from_who_knows_them_first() {
    let no_mac = ("\"macAddress\":\"02:11:22:aa:bb:01\",", "");
    let mac = |context: &Context| {
        let result = edited(&[no_mac], context);
        result.split("<mac address=\"").nth(1).unwrap()[..17].to_owned()
    };
    let mut context = sidecar("culvert");
    // A stable one: the first bytes of the SHA-256 of UID, "/" and name.
    assert_eq!(mac(&context), "02:b7:74:05:cc:b4");
    let status = STATUS.replace("02:11:22:aa:bb:01", "02:00:00:00:00:01").replace("1500", "1400");
    context.network_status = network_status(status.as_bytes()).unwrap();
    assert_eq!(mac(&context), "02:00:00:00:00:01");
    assert!(edited(&[], &context).contains("name=\"host_mtu\" type=\"unsigned\" value=\"1400\""));
    let info = INFO.replace("02:11:22:aa:bb:01", "02:00:00:00:00:02").replace("1500", "9000");
    context.network_info = Some(NetworkInfo::parse(info.as_bytes()).unwrap());
    assert_eq!(mac(&context), "02:00:00:00:00:02");
    let result = edited(&[], &context);
    assert!(result.contains("value=\"9000\"") && result.contains("<mac address=\"02:11:22:aa:bb:01\"/>"));
}

/// libvirt's `<mtu>` is for devices of Open vSwitch.
#[test]
fn an_mtu_is_qemu_s_property_whatever_is_there() {
    let with_mtu = |mtu: &str| {
        let info = NetworkInfo::parse(INFO.replace("1500", mtu).as_bytes()).unwrap();
        Context { network_info: Some(info), ..sidecar("culvert") }
    };
    let end_of = |domain: &str, mtu: &str| {
        let result = edit(domain.as_bytes(), &vmi(VMI), &with_mtu(mtu)).unwrap();
        assert_eq!(edit(&result, &vmi(VMI), &with_mtu(mtu)).unwrap(), result, "not idempotent");
        String::from_utf8(result).unwrap().split("</devices>").nth(1).unwrap().trim().to_owned()
    };
    let property = "<qemu:property name=\"host_mtu\" type=\"unsigned\" value=\"9000\"/>";
    let device = format!("<qemu:device alias=\"ua-dpdk-a\"><qemu:frontend>{property}</qemu:frontend></qemu:device>");
    let all = format!("<qemu:override>{device}</qemu:override></domain>");
    assert_eq!(end_of(DOMAIN, "9000"), all);
    // Guests take it without being told.
    assert_eq!(end_of(DOMAIN, "1500"), "</domain>");
    let there =
        |inside: &str| DOMAIN.replace("</domain>", &format!("<qemu:override>{inside}</qemu:override></domain>"));
    assert_eq!(end_of(&there(&device.replace("9000", "1400")), "9000"), all);
    assert_eq!(end_of(&there("<qemu:device alias='ua-dpdk-a'/>"), "9000"), all.replace("\"ua-dpdk-a\"", "'ua-dpdk-a'"));
    let other = "<qemu:device alias='ua-x'><qemu:frontend/></qemu:device>";
    assert_eq!(end_of(&there(other), "9000"), all.replace("<qemu:override>", &format!("<qemu:override>{other}")));
    let own = "<qemu:device alias=\"ua-dpdk-a\"><qemu:frontend><qemu:property name='x'/></qemu:frontend></qemu:device>";
    let both = own.replace("</qemu:frontend>", &format!("{property}</qemu:frontend>"));
    assert_eq!(end_of(&there(own), "9000"), format!("<qemu:override>{both}</qemu:override></domain>"));
    // The namespace may have another prefix, or none.
    let renamed = |text: &str| text.replace("qemu:", "q:").replace(":qemu", ":q");
    assert_eq!(end_of(&renamed(DOMAIN), "9000"), renamed(&all));
    let namespace = " xmlns:qemu=\"http://libvirt.org/schemas/domain/qemu/1.0\"";
    assert_eq!(
        end_of(&DOMAIN.replace(namespace, ""), "9000"),
        all.replace("<qemu:override", &format!("<qemu:override{namespace}"))
    );
    let twice = there("").replace("</domain>", "<qemu:override/></domain>");
    let reason = refused(&twice, &vmi(VMI), &with_mtu("9000")).to_string();
    assert!(reason.contains("2 elements <qemu:override>"), "{reason}");
}

#[test]
fn queues_follow_kubevirt_s_rule_up_to_the_port_s() {
    let driver = |changes: &[(&str, &str)]| {
        let result = edited(changes, &sidecar("culvert"));
        result.split("<driver name=\"vhost\"").nth(1).unwrap().split(" rx_").next().unwrap().to_owned()
    };
    let cpu = "\"cpu\":{\"sockets\":1,\"cores\":4,\"threads\":1}";
    assert_eq!(driver(&[("\"networkInterfaceMultiqueue\":true", "\"networkInterfaceMultiqueue\":false")]), "");
    assert_eq!(driver(&[(cpu, "\"cpu\":{\"sockets\":2,\"cores\":0,\"threads\":2}")]), " queues=\"4\"");
    assert_eq!(driver(&[(cpu, "\"cpu\":{\"cores\":1}")]), "");
    assert_eq!(driver(&[(cpu, "\"cpu\":{\"sockets\":64,\"cores\":8,\"threads\":2}")]), " queues=\"16\"");
    assert_eq!(driver(&[(cpu, "\"cpu\":{\"sockets\":18446744073709551615,\"cores\":9}")]), " queues=\"16\"");
    assert_eq!(driver(&[(cpu, "\"cpu\":null")]), "", "no topology, and no vCPUs in the domain");
    let mut one = sidecar("culvert");
    one.declared = declared(r#"{"pod494bb167e44":{"folder":"/a","queues":1}}"#).unwrap();
    assert!(!edited(&[], &one).contains(" queues="), "the port has one pair");
    let with_vcpus = DOMAIN.replace("<name>", "<vcpu placement=\"static\">6</vcpu><name>");
    let vmi = changed(&[(cpu, "\"cpu\":null")]);
    let result = edit(with_vcpus.as_bytes(), &vmi, &sidecar("culvert")).unwrap();
    assert!(String::from_utf8(result).unwrap().contains("queues=\"6\""));
}

#[test]
fn what_the_vm_asks_for_is_written() {
    let acpi = "\"acpiIndex\":3";
    let options = "\"pciAddress\":\"0000:81:01.0\",\"bootOrder\":2,\"state\":\"down\",\"model\":\"e1000e\"";
    let result = edited(&[(acpi, options)], &sidecar("culvert"));
    for element in [
        r#"<address type="pci" domain="0x0000" bus="0x81" slot="0x01" function="0x0"/>"#,
        r#"<boot order="2"/>"#,
        r#"<link state="down"/>"#,
        r#"<model type="e1000e"/>"#,
    ] {
        assert!(result.contains(element), "{element} is not in {result}");
    }
    assert!(!result.contains("<driver") && !result.contains("<acpi"), "{result}");
    let transitional = ("\"useVirtioTransitional\":false", "\"useVirtioTransitional\":true");
    assert!(edited(&[transitional], &sidecar("culvert")).contains("<model type=\"virtio-transitional\"/>"));
    let virtio = (acpi, "\"model\":\"virtio\"");
    assert!(edited(&[virtio], &sidecar("culvert")).contains("<model type=\"virtio-non-transitional\"/>"));
}

/// A domain that migrates has addresses already; what else is there under the alias goes, and a second one too.
#[test]
fn an_interface_that_is_there_is_replaced_and_keeps_its_address() {
    let there = "<devices><disk><alias name='ua-dpdk-a'/></disk><interface type='bridge'><alias name='ua-dpdk-a'/><address type='pci' slot='0x05'/></interface>\
<interface type='bridge'><alias name=\"ua-dpdk-b\"/></interface><interface type='user'><alias name='ua-dpdk-a'/></interface>";
    let domain = DOMAIN.replace("<devices>", there);
    let result = edit(domain.as_bytes(), &vmi(VMI), &sidecar("culvert")).unwrap();
    let text = String::from_utf8(result.clone()).unwrap();
    assert_eq!(text.matches("<interface ").count(), 2, "{text}");
    assert!(text.contains("<acpi index=\"3\"/><address type='pci' slot='0x05'/></interface><interface type='bridge'><alias name=\"ua-dpdk-b\"/></interface></devices>"), "{text}");
    assert!(text.contains("<disk><alias name='ua-dpdk-a'/></disk>"));
    assert_eq!(edit(&result, &vmi(VMI), &sidecar("culvert")).unwrap(), result);
}

/// KubeVirt's core has attached a tap: QEMU keeps it, and the translator is told to wait for its other end.
#[test]
fn a_tap_stays_and_its_memory_is_not_shared() {
    let tap = "<devices><interface type=\"ethernet\"><target dev=\"tap0\" managed=\"no\"></target><mtu size=\"1400\"></mtu><alias name=\"ua-default\"></alias></interface>";
    let domain = DOMAIN.replace("<devices>", tap);
    let plan = plan(domain.as_bytes(), &vmi(VMI), &sidecar("culvert-translator")).unwrap();
    assert_eq!(String::from_utf8(plan.domain).unwrap(), domain);
    assert_eq!(plan.translators[0].tap, Some(Tap { device: Some("tap0".to_owned()), mtu: Some(1400) }));
    // The usual name of that binding, where KubeVirt tells none.
    let named = changed(&[("\"culvert-translator\"", "\"culvert-tap-translator\"")]);
    let nameless = Context { binding: Some(Binding::Translator), ..Context::default() };
    assert_eq!(edit(domain.as_bytes(), &named, &nameless).unwrap(), domain.as_bytes());
}

#[test]
fn memory_is_shared_whatever_is_there() {
    let backing = "<memoryBacking><hugepages></hugepages><source type=\"memfd\"></source></memoryBacking>";
    let memory = |there: &str, vmi: &Vmi| {
        let result = edit(DOMAIN.replace(backing, there).as_bytes(), vmi, &sidecar("culvert")).unwrap();
        let result = String::from_utf8(result).unwrap();
        let start = result.find("<memoryBacking").unwrap();
        result[start..result.find("</memoryBacking>").unwrap()].to_owned()
    };
    let plain = vmi(VMI);
    let made = "<memoryBacking><source type=\"memfd\"/><access mode=\"shared\"/>";
    assert_eq!(memory("", &plain), made);
    assert_eq!(memory("<memoryBacking/>", &plain), made);
    assert_eq!(
        memory("<memoryBacking><hugepages/></memoryBacking>", &plain),
        made.replace("<source", "<hugepages/><source")
    );
    let shared = "<memoryBacking><source type='file'/><access mode='shared'/><locked/>";
    assert_eq!(memory(&format!("{shared}</memoryBacking>"), &plain), shared);
    let locked = "<memoryBacking><locked/><source type='memfd'/><access/>";
    let expected = locked.replace("<access/>", "<access mode=\"shared\"/>");
    assert_eq!(memory(&format!("{locked}</memoryBacking>"), &plain), expected);
    // Hugepages are files without memfd.
    let without = changed(&[("\"sidecar.istio.io/inject\":\"True\"", "\"kubevirt.io/memfd\":\"false\"")]);
    let expected = "<memoryBacking><hugepages/><access mode=\"shared\"/>";
    assert_eq!(memory("<memoryBacking><hugepages/></memoryBacking>", &without), expected);

    let fault = |from: &str, to: &str, vmi: &Vmi| {
        assert!(DOMAIN.contains(from));
        match refused(&DOMAIN.replace(from, to), vmi, &sidecar("culvert")) {
            Reason::Memory(fault) => fault,
            other => panic!("{other}"),
        }
    };
    let private = |place: &str| MemoryFault::Access { place: place.to_owned(), access: "private".to_owned() };
    let access = "<memoryBacking><access mode=\"private\"/></memoryBacking>";
    assert_eq!(fault(backing, access, &plain), private("<memoryBacking>"));
    assert_eq!(fault("<cell id=\"0\"", "<cell id=\"0\" memAccess=\"private\"", &plain), private("NUMA cell 0"));
    let dimm = "<devices><memory model='dimm' access='private'/>";
    assert_eq!(fault("<devices>", dimm, &plain), private("a <memory> device"));
    let anonymous = "<memoryBacking><source type='anonymous'/></memoryBacking>";
    assert_eq!(fault(backing, anonymous, &plain), MemoryFault::Source("anonymous".to_owned()));
    assert_eq!(fault(backing, "", &without), MemoryFault::Annotation);
    assert_eq!(fault(backing, "<memoryBacking/>", &without), MemoryFault::Annotation);
}

#[test]
fn a_vm_without_our_binding_is_an_error_or_stays_as_it_is() {
    let other = changed(&[("\"culvert\"", "\"vsw\"")]);
    let reason = refused(DOMAIN, &other, &sidecar("culvert"));
    assert_eq!(reason, Reason::Unused { binding: "culvert".to_owned() });
    let plugin = Context { may_be_unused: true, ..sidecar("culvert") };
    assert_eq!(edit(DOMAIN.as_bytes(), &other, &plugin).unwrap(), DOMAIN.as_bytes());
    // Unplugged while it runs.
    let unplugged = changed(&[("\"acpiIndex\":3", "\"state\":\"absent\"")]);
    assert_eq!(edit(DOMAIN.as_bytes(), &unplugged, &sidecar("culvert")).unwrap(), DOMAIN.as_bytes());
}

#[test]
fn what_is_wrong_with_an_interface_is_said() {
    let ours = sidecar("culvert");
    assert_eq!(fault("\"name\":\"dpdk-a\"", "\"name\":\"dpdk a\"", &ours), InterfaceFault::Name);
    assert_eq!(
        fault("{\"name\":\"dpdk-a\",\"multus\"", "{\"name\":\"b\",\"multus\"", &ours),
        InterfaceFault::NoNetwork
    );
    let multus = "\"multus\":{\"networkName\":\"lab-net\"}";
    assert_eq!(fault(multus, "\"pod\":{}", &ours), InterfaceFault::PodNetwork);
    assert_eq!(
        fault("02:11:22:aa:bb:01", "03:11:22:aa:bb:01", &ours),
        InterfaceFault::Mac("03:11:22:aa:bb:01".to_owned())
    );
    assert_eq!(fault("\"acpiIndex\":3", "\"pciAddress\":\"1\"", &ours), InterfaceFault::PciAddress("1".to_owned()));
    assert_eq!(fault("\"acpiIndex\":3", "\"model\":\"a'b\"", &ours), InterfaceFault::Model("a'b".to_owned()));
    let twice = "\"interfaces\":[{\"name\":\"dpdk-a\",\"masquerade\":{}},";
    assert_eq!(fault("\"interfaces\":[\n", twice, &ours), InterfaceFault::Twice);

    let from_info = |from: &str, to: &str| {
        let info = NetworkInfo::parse(INFO.replace(from, to).as_bytes()).unwrap();
        fault("lab-net", "lab-net", &Context { network_info: Some(info), ..sidecar("culvert") })
    };
    assert_eq!(from_info("1500", "60"), InterfaceFault::Mtu(60));
    assert_eq!(from_info("\"server\"", "\"listen\""), InterfaceFault::Mode("listen".to_owned()));
    let path = "/var/run/vsw/dpdk-a/vhost.sock";
    let long = format!("/{}", "x".repeat(107));
    for wrong in ["", "../x.sock", "/var/run/../x", "/a\\u0000b", "/a\\nb", "/ü", &long] {
        let InterfaceFault::Path(_) = from_info(path, wrong) else { panic!("{wrong}") };
    }

    let translator = sidecar("culvert-translator");
    assert_eq!(fault("\"pod\":{}", "\"multus\":{}", &translator), InterfaceFault::NotPodNetwork);
    assert_eq!(
        fault("\"podInterfaceName\":\"eth0\"", "\"podInterfaceName\":\"\"", &translator),
        InterfaceFault::NoPodInterface
    );
    assert_eq!(fault("8443", "70000", &translator), InterfaceFault::Port(70_000));
    let told = Context { pod_interface: Some("eth0".to_owned()), ..translator };
    let old = changed(&[("\"podInterfaceName\":\"eth0\"", "\"podInterfaceName\":\"\"")]);
    assert_eq!(plan(DOMAIN.as_bytes(), &old, &told).unwrap().translators[0].pod_interface, "eth0");
}

/// Where the volume is not mounted the socket's path depends on the sidecar's number, which is by chance when there are
/// several.
#[test]
fn a_translator_in_the_hook_folder_needs_a_vm_with_one_sidecar() {
    let folder = "/var/run/kubevirt-hooks/hook-sidecar-0/culvert";
    let translator_folder = TranslatorFolder::HookFolder { here: "/here".into(), compute: folder.into() };
    let context = Context { translator_folder, ..sidecar("culvert-translator") };
    assert_eq!(fault("lab-net", "lab-net", &context), InterfaceFault::NoTranslatorFolder);
    let alone = changed(&[("\"binding\":{\"name\":\"culvert\"}", "\"bridge\":{}")]);
    let Plan { domain, translators, notices } = plan(DOMAIN.as_bytes(), &alone, &context).unwrap();
    assert!(String::from_utf8(domain).unwrap().contains(&format!("path=\"{folder}/default.sock\"")));
    assert_eq!(translators[0].socket.to_str(), Some("/here/default.sock"));
    assert!(notices[0].contains("cannot migrate"), "{notices:?}");
    let annotation = "\"sidecar.istio.io/inject\":\"True\"";
    let listed = "\"hooks.kubevirt.io/hookSidecars\":\"[{\\\"image\\\":\\\"x\\\"}]\"";
    let with_own = changed(&[("\"binding\":{\"name\":\"culvert\"}", "\"bridge\":{}"), (annotation, listed)]);
    let reason = refused(DOMAIN, &with_own, &context);
    assert!(reason.to_string().contains("culvert-webhook"), "{reason}");
}

#[test]
fn null_is_absent_and_what_is_unknown_passed_over() {
    let json = r#"{"metadata":{"name":"fw","namespace":"lab","annotations":null,"labels":{"a":"b"}},"spec":{"domain":{"cpu":null,
        "devices":{"interfaces":[{"name":"a","binding":{"name":"culvert"},"ports":null,"model":null,"bootOrder":null}]}},
        "networks":[{"name":"a","multus":{}}]},"status":{"interfaces":null,"migrationState":null}}"#;
    edit(DOMAIN.as_bytes(), &vmi(json), &sidecar("culvert")).unwrap();
    for wrong in ["", "{", "1", "{\"metadata\":1}", &"[".repeat(100_000), "{\"spec\":{},\"spec\":{}}"] {
        let error = Vmi::parse(wrong.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with("the VMI cannot be read: "), "{error}");
    }
    assert!(Vmi::parse(&vec![b' '; 5 << 20]).unwrap_err().to_string().contains("bytes"));
}

#[test]
fn a_broken_domain_is_refused_with_what_is_wrong() {
    for (domain, sentence) in [
        ("", "cannot be read"),
        ("<domain>", "cannot be read"),
        ("<domain/>", "0 elements <devices>"),
        ("<domain><devices/><devices/></domain>", "2 elements <devices>"),
        ("<domain><memoryBacking/><memoryBacking/><devices/></domain>", "2 elements <memoryBacking>"),
        ("<network/>", "<network>"),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]><domain><devices/></domain>", "cannot be read"),
    ] {
        let error = edit(domain.as_bytes(), &vmi(VMI), &sidecar("culvert")).unwrap_err().to_string();
        assert!(error.starts_with("VMI lab/fw: ") && error.contains(sentence), "{error}");
    }
    for end in 0..DOMAIN.len() {
        edit(&DOMAIN.as_bytes()[..end], &vmi(VMI), &sidecar("culvert")).unwrap_err();
    }
}
