//! Names and addresses that follow from a container and its interface alone, so that any later call finds what ADD made.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::environment::AttachmentId;

/// The name of the port in culvertd: `<first 12 of the container id>-<interface>` where the id is as runtimes make them and
/// the name keeps culvertd's rule ([a-z0-9-]{1,63}); otherwise made to keep it, with 8 hex digits of a hash at its end.
pub fn port(id: &AttachmentId) -> String {
    let short = short(&id.container);
    let plain = format!("{short}-{}", id.ifname);
    let random = short.len() == SHORT && short.bytes().all(|byte| byte.is_ascii_hexdigit());
    if random && plain.bytes().all(is_allowed) {
        return plain;
    }
    let kept = |c: char| match c.to_ascii_lowercase() {
        c if u8::try_from(c).is_ok_and(is_allowed) => c,
        _ => '-',
    };
    let readable: String = plain.chars().map(kept).collect();
    let hash: String = hash("port", id).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("{readable}-{hash}")
}

/// Twelve hex digits that are an attachment's own, for each `purpose` others: part of the name of an interface, which has 15 characters.
pub fn hex(purpose: &str, id: &AttachmentId) -> String {
    hash(purpose, id).iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// The first characters of a container's id: all of a short one.
pub fn short(container: &str) -> &str {
    container.get(..SHORT).unwrap_or(container)
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac([u8; 6]);

impl Mac {
    /// Reads an address of one interface, such as 02:00:00:00:00:0a: neither a group's nor zero.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()))?;
            *byte = u8::from_str_radix(part, 16).ok()?;
        }
        let [first, ..] = bytes;
        (parts.next().is_none() && first & 1 == 0 && bytes != [0; 6]).then_some(Self(bytes))
    }

    /// The address of an interface for which nobody has chosen one: the same at every call.
    pub fn of(id: &AttachmentId) -> Self {
        let [a, b, c, d, e, ..] = hash("mac", id);
        // Locally administered (IEEE 802, 8.4).
        Self([0x02, a, b, c, d, e])
    }
}

impl Mac {
    /// As it is sent.
    pub fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

fn is_allowed(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'
}

/// A hash of an attachment, for one purpose.
pub fn hash(purpose: &str, id: &AttachmentId) -> [u8; 32] {
    let text = match purpose {
        // As others compute it.
        "port" => format!("{}/{}", id.container, id.ifname),
        _ => format!("{purpose}/{}/{}", id.container, id.ifname),
    };
    Sha256::digest(text).into()
}

/// How much of a container's id is in names: as much as people see of it.
const SHORT: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    fn id(container: &str, ifname: &str) -> AttachmentId {
        AttachmentId::new(container, ifname).unwrap()
    }

    #[test]
    fn ports_have_names_that_keep_the_rule() {
        let plain = id("0f1e2d3c4b5a69788796a5b4c3d2e1f0", "pod494bb167e44");
        assert_eq!(port(&plain), "0f1e2d3c4b5a-pod494bb167e44");
        let mut seen = std::collections::HashSet::new();
        let ids = [
            ("a", "eth0"),
            ("ABCDEF0123456789", "eth0"),
            ("abcdef0123456789", "eth0"),
            ("abcdef0123456789", "Eth0"),
            ("abcdef0123456789", "eth_0"),
            ("abcdef0123456789", "\u{e9}th0"),
            ("cnitool-1234567890", "net1"),
            ("cnitool-1234567891", "net1"),
            ("a-b", "c"),
            ("a", "b-c"),
        ];
        for (container, ifname) in ids {
            let name = port(&id(container, ifname));
            assert!(name.len() <= 63 && name.bytes().all(is_allowed), "{name}");
            assert!(seen.insert(name), "{container} {ifname}");
        }
    }

    #[test]
    fn addresses() {
        assert_eq!(Mac::parse("02:11:22:AA:bb:01").unwrap().to_string(), "02:11:22:aa:bb:01");
        for bad in [
            "",
            "02:11:22:aa:bb",
            "02:11:22:aa:bb:01:02",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
            "0:11:22:aa:bb:01",
            "+2:11:22:aa:bb:01",
            "02:11:22:aa:bb:0g",
            "ff:ff:ff:ff:ff:ff",
        ] {
            assert_eq!(Mac::parse(bad), None, "{bad}");
        }
        let (one, other) = (Mac::of(&id("a", "net1")), Mac::of(&id("a", "net2")));
        assert_ne!(one, other);
        assert_eq!(one, Mac::of(&id("a", "net1")));
        assert_eq!(Mac::parse(&one.to_string()), Some(one));
    }
}
