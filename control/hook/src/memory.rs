//! What makes a guest's memory a backend's as well: shared access, for all of it, to memory that is a file.
//!
//! KubeVirt gives virtual machines with hugepages a `<memoryBacking>` with `memfd`, and others none; the access mode is set
//! here. libvirt's default for each NUMA cell is the access mode of `<memoryBacking>`, and its own attribute is stronger.

use roxmltree::Node;

use crate::domain::{Changes, child, children};
use crate::error::{MemoryFault, Reason};
use crate::vmi::Vmi;

/// Shares the memory of the domain whose root and devices these are.
///
/// # Errors
/// Somebody wants it otherwise, or it cannot be.
pub fn share(root: Node, devices: Node, vmi: &Vmi, changes: &mut Changes) -> Result<(), Reason> {
    let memfd = vmi.annotation("kubevirt.io/memfd") != Some("false");
    match child(root, "memoryBacking")? {
        None if !memfd => return Err(Reason::Memory(MemoryFault::Annotation)),
        None => changes.insert_before(devices, &format!("<memoryBacking>{MEMFD}{SHARED}</memoryBacking>")),
        Some(backing) => share_backing(backing, memfd, changes)?,
    }
    for cell in children(root, "cpu").flat_map(|cpu| children(cpu, "numa")).flat_map(|numa| children(numa, "cell")) {
        match cell.attribute("memAccess") {
            None => changes.add_attribute(cell, "memAccess", "shared"),
            Some(access) => check(&format!("NUMA cell {}", cell.attribute("id").unwrap_or_default()), access)?,
        }
    }
    for memory in children(devices, "memory") {
        if let Some(access) = memory.attribute("access") {
            check("a <memory> device", access)?;
        }
    }
    Ok(())
}

fn share_backing(backing: Node, memfd: bool, changes: &mut Changes) -> Result<(), Reason> {
    let mut missing = String::new();
    match child(backing, "source")?.map(|source| source.attribute("type").unwrap_or_default()) {
        Some("memfd" | "file") => {}
        Some(other) => return Err(Reason::Memory(MemoryFault::Source(other.to_owned()))),
        None if memfd => missing.push_str(MEMFD),
        // These are files by themselves.
        None if child(backing, "hugepages")?.is_some() => {}
        None => return Err(Reason::Memory(MemoryFault::Annotation)),
    }
    match child(backing, "access")? {
        None => missing.push_str(SHARED),
        Some(access) => match access.attribute("mode") {
            None => changes.add_attribute(access, "mode", "shared"),
            Some(mode) => check("<memoryBacking>", mode)?,
        },
    }
    if !missing.is_empty() {
        changes.append(backing, &missing);
    }
    Ok(())
}

fn check(place: &str, access: &str) -> Result<(), Reason> {
    if access == "shared" {
        return Ok(());
    }
    let short = |text: &str| text.chars().take(100).collect();
    Err(Reason::Memory(MemoryFault::Access { place: short(place), access: short(access) }))
}

const MEMFD: &str = "<source type=\"memfd\"/>";
const SHARED: &str = "<access mode=\"shared\"/>";
