//! NICs of ports, by their PCI addresses.

use super::Finding;
use super::node::Node;
use super::settings::Settings;

const CHECK: &str = "devices";

/// Whether each is there, with a driver that gives it to culvertd.
pub fn look(node: &Node, settings: &Settings) -> Vec<Finding> {
    let devices = settings.devices.iter().filter_map(|(port, device)| Some((port, pci_address(device)?)));
    let findings: Vec<_> = devices.flat_map(|(port, address)| of_device(node, port, &address)).collect();
    if findings.is_empty() { vec![Finding::ok(CHECK, "no port has a PCI device")] } else { findings }
}

fn of_device(node: &Node, port: &str, address: &str) -> Vec<Finding> {
    let folder = format!("/sys/bus/pci/devices/{address}");
    if !node.has(&folder) {
        let found = format!("port {port}: there is no PCI device {address}");
        return vec![Finding::error(CHECK, found, "see `lspci -D`, and name one that there is")];
    }
    let driver = node.link(format!("{folder}/driver"));
    let bind = format!("`driverctl set-override {address} vfio-pci`");
    match driver.as_deref() {
        Some("vfio-pci") => {
            let group = node.link(format!("{folder}/iommu_group"));
            let found = format!("port {port}: {address} has the driver vfio-pci");
            match group {
                Some(group) if node.has(format!("/dev/vfio/{group}")) => vec![Finding::ok(CHECK, found)],
                Some(group) => {
                    let found = format!("{found}, but there is no /dev/vfio/{group}");
                    vec![Finding::error(CHECK, found, "mount the host's /dev/vfio where culvertd runs")]
                }
                None => {
                    let found = format!("{found}, but is in no IOMMU group: it may write to all memory");
                    vec![Finding::warning(CHECK, found, "boot with intel_iommu=on or amd_iommu=on")]
                }
            }
        }
        // Drivers of which a part stays in the kernel (docs/NIC.md).
        Some(driver @ ("mlx4_core" | "mlx5_core" | "mana")) => {
            vec![Finding::ok(
                CHECK,
                format!("port {port}: {address} has the driver {driver}, beside which DPDK's works"),
            )]
        }
        Some("uio_pci_generic" | "igb_uio") => {
            let found = format!("port {port}: {address} has a UIO driver: it may write to all memory");
            vec![Finding::warning(CHECK, found, bind)]
        }
        Some(driver) => {
            let found = format!("port {port}: {address} has the kernel's driver {driver}, and culvertd cannot have it");
            vec![Finding::error(CHECK, found, bind)]
        }
        None => vec![Finding::error(CHECK, format!("port {port}: {address} has no driver"), bind)],
    }
}

/// The PCI address of a device, with its domain, if it is one.
fn pci_address(device: &str) -> Option<String> {
    let address = device.split(',').next()?;
    let (rest, function) = address.rsplit_once('.')?;
    let hexadecimal = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_hexdigit());
    let parts: Vec<_> = rest.split(':').collect();
    if !hexadecimal(function) || !parts.iter().all(|part| hexadecimal(part)) {
        return None;
    }
    match parts.len() {
        2 => Some(format!("0000:{address}")),
        3 => Some(address.to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;
    use crate::doctor::node::tests::machine;

    #[test]
    fn addresses() {
        assert_eq!(pci_address("03:00.0").as_deref(), Some("0000:03:00.0"));
        assert_eq!(pci_address("0000:03:00.0,x=1").as_deref(), Some("0000:03:00.0"));
        assert_eq!(pci_address("net_tap0,iface=a.b"), None);
        assert_eq!(pci_address("net_pcap0"), None);
    }

    #[test]
    fn drivers() {
        let folder = "/sys/bus/pci/devices/0000:03:00.0";
        let driver = |name: &str| (format!("{folder}/driver"), format!("-> ../../drivers/{name}"));
        let group = (format!("{folder}/iommu_group"), "-> ../../kernel/iommu_groups/7".to_owned());
        let vfio = ("/dev/vfio/7".to_owned(), String::new());
        let level = |files: &[(String, String)]| {
            let files: Vec<_> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
            let (_folder, node) = machine(&files);
            let devices = vec![("up".to_owned(), "03:00.0".to_owned())];
            look(&node, &Settings { devices, ..Settings::default() })[0].level
        };
        assert_eq!(level(&[]), Level::Error);
        assert_eq!(level(&[driver("ixgbe")]), Level::Error);
        assert_eq!(level(&[driver("mlx5_core")]), Level::Ok);
        assert_eq!(level(&[driver("vfio-pci")]), Level::Warning);
        assert_eq!(level(&[driver("vfio-pci"), group.clone()]), Level::Error);
        assert_eq!(level(&[driver("vfio-pci"), group, vfio]), Level::Ok);
        assert_eq!(look(&Node::of_this_machine(), &Settings::default())[0].level, Level::Ok);
    }
}
