//! Two joined network interfaces: what goes into one comes out of the other.
//!
//! They are made in the network namespace of the test; `ci/isolated` gives it one of its own. The kernel says nothing on them by itself.

use anyhow::Result;

use crate::place::{Namespace, ip};

/// A pair of interfaces, removed when this is dropped.
pub struct Veth {
    name: String,
}

impl Veth {
    /// Makes a pair, both up, for frames of up to 9200 bytes of payload.
    ///
    /// # Errors
    /// The test is not root, or the names are taken.
    pub fn new(one: &str, other: &str) -> Result<Self> {
        ip(&format!("link add {one} mtu 9200 type veth peer name {other} mtu 9200"))?;
        let veth = Self { name: one.to_owned() };
        for name in [one, other] {
            // Without an address of its own the kernel sends no IPv6 multicast either.
            ip(&format!("link set {name} addrgenmode none arp off"))?;
            ip(&format!("link set {name} up"))?;
        }
        Ok(veth)
    }

    /// Makes a pair with an end in each of two namespaces, for frames of up to so many bytes of payload. It goes with them.
    ///
    /// # Errors
    /// The test is not root, or the names are taken.
    pub fn between(ends: [(&str, &Namespace); 2], mtu: usize) -> Result<()> {
        let [(one, here), (other, there)] = ends;
        // Each is born where it belongs, as both may have the same name.
        here.ip(&format!("link add {one} mtu {mtu} type veth peer name {other} mtu {mtu} netns {}", there.name()))?;
        for (name, namespace) in ends {
            namespace.ip(&format!("link set {name} addrgenmode none arp off"))?;
            namespace.ip(&format!("link set {name} up"))?;
        }
        Ok(())
    }
}

impl Drop for Veth {
    fn drop(&mut self) {
        // It fails only when the interfaces have gone already.
        let _ = ip(&format!("link del {}", self.name));
    }
}
