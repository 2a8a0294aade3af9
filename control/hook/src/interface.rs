//! An `<interface type="vhostuser">` element of libvirt's.

use std::fmt::Write;

use crate::domain::attribute;
use crate::error::InterfaceFault;
use crate::socket::Mode;

/// What is written into the element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// The VMI's name of the interface; the alias is made of it.
    pub name: String,
    /// MAC address.
    pub mac: String,
    /// Where the socket is, in the compute container.
    pub path: String,
    /// What QEMU is there.
    pub mode: Mode,
    /// Device model.
    pub model: String,
    /// Queue pairs and rings, for models that have them.
    pub rings: Option<Rings>,
    /// Place among the devices to boot from.
    pub boot_order: Option<u64>,
    /// The link is down at first.
    pub down: bool,
    /// Index that Linux makes a name of, `eno3`.
    pub acpi_index: Option<i64>,
    /// An `<address>` element.
    pub address: Option<String>,
}

/// Queue pairs and rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rings {
    /// Queue pairs; 1 is not written.
    pub queues: u64,
}

impl Element {
    /// Its XML.
    pub fn xml(&self) -> String {
        let mut xml = String::from("<interface type=\"vhostuser\">");
        let element = |xml: &mut String, name: &str, attributes: &[(&str, &str)]| {
            let attributes: String = attributes.iter().map(|(name, value)| attribute(name, value)).collect();
            // Strings take everything.
            let _ = write!(xml, "<{name}{attributes}/>");
        };
        element(&mut xml, "mac", &[("address", &self.mac)]);
        let source = [("type", "unix"), ("path", &self.path), ("mode", self.mode.as_str())]
            .map(|(name, value)| attribute(name, value));
        let source = source.concat();
        match self.mode {
            // QEMU connects again when the backend has started anew.
            Mode::Client => {
                let _ = write!(xml, "<source{source}><reconnect enabled=\"yes\" timeout=\"{RECONNECT_S}\"/></source>");
            }
            Mode::Server => {
                let _ = write!(xml, "<source{source}/>");
            }
        }
        element(&mut xml, "model", &[("type", &self.model)]);
        if let Some(Rings { queues }) = self.rings {
            let queues = queues.to_string();
            let queues = [("queues", queues.as_str())];
            let queues = if self.is_multiqueue() { &queues[..] } else { &[] };
            let sizes = [("rx_queue_size", RING_SIZE), ("tx_queue_size", RING_SIZE)];
            element(&mut xml, "driver", &[&[("name", "vhost")], queues, &sizes].concat());
        }
        if self.down {
            element(&mut xml, "link", &[("state", "down")]);
        }
        if let Some(order) = self.boot_order {
            element(&mut xml, "boot", &[("order", &order.to_string())]);
        }
        element(&mut xml, "alias", &[("name", &alias(&self.name))]);
        if let Some(index) = self.acpi_index {
            element(&mut xml, "acpi", &[("index", &index.to_string())]);
        }
        xml.push_str(self.address.as_deref().unwrap_or_default());
        xml.push_str("</interface>");
        xml
    }

    fn is_multiqueue(&self) -> bool {
        self.rings.is_some_and(|rings| rings.queues > 1)
    }
}

/// The alias that KubeVirt knows an interface by.
pub fn alias(name: &str) -> String {
    format!("ua-{name}")
}

/// The `<address>` element of a PCI address such as `0000:81:01.0`.
///
/// # Errors
/// It is none.
pub fn pci_address(text: &str) -> Result<String, InterfaceFault> {
    let fail = || InterfaceFault::PciAddress(text.chars().take(100).collect());
    let (domain, rest) = text.split_once(':').ok_or_else(fail)?;
    let (bus, rest) = rest.split_once(':').ok_or_else(fail)?;
    let (slot, function) = rest.split_once('.').ok_or_else(fail)?;
    let parts =
        [("domain", domain, 4, 0xffff), ("bus", bus, 2, 0xff), ("slot", slot, 2, 0x1f), ("function", function, 1, 7)];
    let mut address = "<address type=\"pci\"".to_owned();
    for (name, digits, count, greatest) in parts {
        let hexadecimal = digits.len() == count && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        let number = u32::from_str_radix(digits, 16).ok().filter(|number| hexadecimal && *number <= greatest);
        number.ok_or_else(fail)?;
        address.push_str(&attribute(name, &format!("0x{digits}")));
    }
    Ok(address + "/>")
}

/// A MAC address that one host may have, in lower case.
///
/// # Errors
/// It is none.
pub fn mac_address(text: &str) -> Result<String, InterfaceFault> {
    let fail = || InterfaceFault::Mac(text.chars().take(100).collect());
    let octets: Vec<&str> = text.split([':', '-']).collect();
    let octet = |text: &&str| {
        let hexadecimal = text.len() == 2 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        u8::from_str_radix(text, 16).ok().filter(|_| hexadecimal)
    };
    let octets: Vec<u8> = octets.iter().map(octet).collect::<Option<_>>().ok_or_else(fail)?;
    let first = octets.first().copied().unwrap_or_default();
    if octets.len() != 6 || first & 1 != 0 || octets.iter().all(|octet| *octet == 0) {
        return Err(fail());
    }
    Ok(write_mac(&octets))
}

/// A MAC address in libvirt's form.
pub fn write_mac(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect::<Vec<_>>().join(":")
}

/// How long QEMU waits before it connects again, in seconds.
const RECONNECT_S: u32 = 1;

/// Descriptors in a ring, at most what QEMU has.
const RING_SIZE: &str = "1024";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked() {
        let xml = r#"<address type="pci" domain="0x0000" bus="0x81" slot="0x01" function="0x0"/>"#;
        assert_eq!(pci_address("0000:81:01.0").unwrap(), xml);
        for wrong in [
            "",
            "81:01.0",
            "0000:81:01",
            "0000:81:20.0",
            "0000:81:01.8",
            "0000:81:1.0",
            "+000:81:01.0",
            "0000:81:01.0 ",
        ] {
            assert_eq!(pci_address(wrong), Err(InterfaceFault::PciAddress(wrong.to_owned())));
        }
        assert_eq!(mac_address("02:11:22:AA:bb:01").unwrap(), "02:11:22:aa:bb:01");
        assert_eq!(mac_address("02-11-22-aa-bb-01").unwrap(), "02:11:22:aa:bb:01");
        for wrong in [
            "",
            "02:11:22:aa:bb",
            "02:11:22:aa:bb:01:02",
            "03:11:22:aa:bb:01",
            "00:00:00:00:00:00",
            "2:11:22:aa:bb:01",
            "+2:11:22:aa:bb:01",
        ] {
            assert_eq!(mac_address(wrong), Err(InterfaceFault::Mac(wrong.to_owned())));
        }
    }
}
