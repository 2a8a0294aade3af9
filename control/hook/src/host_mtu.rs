//! The MTU that a guest is told by its device: the property `host_mtu` of QEMU's, by libvirt's `<qemu:override>`.
//!
//! libvirt's own `<mtu>` cannot be used: when it starts a vhostuser interface with one, it sets the MTU of a device of Open
//! vSwitch as well, and fails where there is none. 1500 is what guests take without being told.

use roxmltree::Node;

use crate::domain::{Changes, DomainError, attribute, qualified_name, source};

/// Tells the guests of these interfaces, by alias, their MTU in bytes.
///
/// # Errors
/// There are several `<qemu:override>`.
pub fn write(root: Node, interfaces: &[(String, u64)], changes: &mut Changes) -> Result<(), DomainError> {
    let mut found = children(root, "override");
    let there = found.next();
    let more = found.count();
    if more > 0 {
        return Err(DomainError::Count { name: "qemu:override", count: more + 1, expected: "one at most" });
    }
    let Some(there) = there else {
        let declared = root.lookup_prefix(QEMU).filter(|prefix| !prefix.is_empty());
        let prefix = declared.map_or_else(|| "qemu:".to_owned(), |prefix| format!("{prefix}:"));
        let declaration = if declared.is_none() { attribute("xmlns:qemu", QEMU) } else { String::new() };
        let devices: String = interfaces.iter().map(|(alias, mtu)| device(&prefix, alias, *mtu)).collect();
        if !devices.is_empty() {
            changes.append(root, &format!("<{prefix}override{declaration}>{devices}</{prefix}override>"));
        }
        return Ok(());
    };
    let mut missing = String::new();
    for (alias, mtu) in interfaces {
        match children(there, "device").find(|device| device.attribute("alias") == Some(alias)) {
            None => missing.push_str(&device(prefix(there), alias, *mtu)),
            Some(device) => write_device(device, *mtu, changes),
        }
    }
    if !missing.is_empty() {
        changes.append(there, &missing);
    }
    Ok(())
}

/// Writes the property into a device's overrides that are there.
fn write_device(device: Node, mtu: u64, changes: &mut Changes) {
    let Some(frontend) = children(device, "frontend").next() else {
        return changes.append(device, &frontend(prefix(device), mtu));
    };
    let new = property(prefix(frontend), mtu);
    match children(frontend, "property").find(|property| property.attribute("name") == Some(HOST_MTU)) {
        None => changes.append(frontend, &new),
        Some(property) => changes.replace(property, &new),
    }
}

fn device(prefix: &str, alias: &str, mtu: u64) -> String {
    let alias = attribute("alias", alias);
    format!("<{prefix}device{alias}>{}</{prefix}device>", frontend(prefix, mtu))
}

fn frontend(prefix: &str, mtu: u64) -> String {
    format!("<{prefix}frontend>{}</{prefix}frontend>", property(prefix, mtu))
}

fn property(prefix: &str, mtu: u64) -> String {
    let attributes = [("name", HOST_MTU), ("type", "unsigned"), ("value", &mtu.to_string())];
    let attributes = attributes.map(|(name, value)| attribute(name, value)).concat();
    format!("<{prefix}property{attributes}/>")
}

/// The elements of a name directly below one, in QEMU's namespace.
fn children<'a, 'input>(parent: Node<'a, 'input>, name: &'static str) -> impl Iterator<Item = Node<'a, 'input>> {
    parent.children().filter(move |node| {
        node.is_element() && node.tag_name().name() == name && node.tag_name().namespace() == Some(QEMU)
    })
}

/// An element's prefix with its colon.
fn prefix<'a>(element: Node<'a, '_>) -> &'a str {
    let name = qualified_name(source(element));
    name.find(':').and_then(|colon| name.get(..=colon)).unwrap_or_default()
}

/// libvirt's namespace for what is QEMU's.
const QEMU: &str = "http://libvirt.org/schemas/domain/qemu/1.0";

const HOST_MTU: &str = "host_mtu";
