//! What the edit changes besides interfaces: the guest's memory, and QEMU's properties.

use culvert_hook::context::Context;
use culvert_hook::error::{MemoryFault, Reason};
use culvert_hook::network_info::NetworkInfo;
use culvert_hook::{Vmi, edit};

use crate::fixtures::{DOMAIN, INFO, VMI, changed, refused, sidecar, vmi};

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
