//! What is beyond a node: a network namespace behind a router, which is the test's own namespace, where container runtimes have their
//! bridges.

use std::fs;

use anyhow::Result;

use crate::place::{Namespace, ip};

/// The world's address.
pub const WORLD: &str = "203.0.113.1";

/// The namespace of the world.
pub struct World {
    namespace: Namespace,
}

impl World {
    /// One that reaches all that the test's own namespace reaches.
    ///
    /// # Errors
    /// The test is not root.
    pub fn new() -> Result<Self> {
        let namespace = Namespace::new("world")?;
        ip(&format!("link add world type veth peer name eth0 netns {}", namespace.name()))?;
        ip("addr add 203.0.113.254/24 dev world")?;
        ip("link set world up")?;
        namespace.ip(&format!("addr add {WORLD}/24 dev eth0"))?;
        namespace.ip("link set eth0 up")?;
        namespace.ip("route add default via 203.0.113.254")?;
        fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
        Ok(Self { namespace })
    }

    /// Its namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Its other end goes with it. It fails only when they have gone already.
        let _ = ip("link del world");
    }
}
