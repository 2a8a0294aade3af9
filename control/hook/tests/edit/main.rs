//! The edit on the domains and VMIs that KubeVirt sends, and what must not be edited.
#![expect(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

mod fixtures;
mod others;

use culvert_hook::binding::Binding;
use culvert_hook::context::{Context, TranslatorFolder, declared};
use culvert_hook::error::{InterfaceFault, Reason};
use culvert_hook::network_info::{NetworkInfo, network_status};
use culvert_hook::{Plan, Tap, Vmi, edit, plan};

use fixtures::{DOMAIN, INFO, STATUS, VMI, changed, edited, fault, refused, sidecar, vmi};

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
