//! Two joined network interfaces: what goes into one comes out of the other.
//!
//! They are made in the network namespace of the test; `ci/isolated` gives it one of its own. The kernel says nothing on them by itself.

use std::process::Command;

use anyhow::{Context, Result, ensure};

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
}

impl Drop for Veth {
    fn drop(&mut self) {
        // It fails only when the interfaces have gone already.
        let _ = ip(&format!("link del {}", self.name));
    }
}

fn ip(arguments: &str) -> Result<()> {
    let output = Command::new("ip").args(arguments.split(' ')).output().context("ip: run ci/setup")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {arguments}: {said} (tests with interfaces need root: ci/isolated)");
    Ok(())
}
