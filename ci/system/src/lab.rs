//! Two nodes, and a guest that moves from one to the other and back while it runs.
//!
//! ```text
//!            outside: a station (10.0.0.100), and pods' network
//!              |        |                     |      |
//!             wire    eth0                   wire  eth0
//!           +---------------+               +---------------+
//!           | a: culvertd   |---migration0--| b: culvertd   |
//!           |    QEMU       |               |    QEMU       |
//!           +---------------+               +---------------+
//! ```
//!
//! Each node is a network namespace. `wire` is its culvertd's uplink, `eth0` the network of its pods, and `migration0` what virtual machines
//! move over. QEMU sees its node's folder at one path, whichever node it is: so the guest's socket has the same path on both, as in
//! virt-launcher's pods.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::console::Console;
use crate::daemon::{Daemon, Node};
use crate::guest::Guest;
use crate::impairment::Impairment;
use crate::moving::{Arrival, MovingGuest};
use crate::place::{Namespace, Place};
use crate::qemu::{GuestOptions, Role, Start};
use crate::qmp::Monitor;
use crate::veth::Veth;

/// The address of the station outside, in the guests' network.
pub const STATION: &str = "10.0.0.100";

/// Names of the guest's port and of the uplink, on both nodes.
pub const PORT: &str = "vm";
/// See [`PORT`].
pub const UPLINK: &str = "uplink";

/// Both nodes, and what is around them.
pub struct Lab {
    nodes: [LabNode; 2],
    outside: Namespace,
    /// Where QEMU sees the folder of its node.
    seen_as: TempDir,
    /// The guest, for tests that want another than usual.
    pub guest: GuestOptions,
}

/// One node.
pub struct LabNode {
    namespace: Namespace,
    /// Its configuration.
    pub node: Node,
    /// Its culvertd.
    pub daemon: Daemon,
}

impl LabNode {
    /// Runs `ip` there.
    ///
    /// # Errors
    /// It fails.
    pub fn ip(&self, arguments: &str) -> Result<()> {
        self.namespace.ip(arguments)
    }

    /// Where programs of this node run.
    pub fn place(&self) -> Place {
        Place { namespace: Some(self.namespace.name().to_owned()), ..Place::default() }
    }
}

impl Lab {
    /// Starts culvertd on both nodes, each with the guest's port and the uplink.
    ///
    /// # Errors
    /// The test is not root, or culvertd does not start.
    pub fn start() -> Result<Self> {
        Self::start_with(|_, _| "")
    }

    /// The same with what `configure` does to the configuration of each node, 0 and 1, before there are ports; it returns further keys of the
    /// guest's port.
    ///
    /// # Errors
    /// The test is not root, or culvertd does not start.
    pub fn start_with(configure: impl Fn(usize, &mut Node) -> &'static str) -> Result<Self> {
        let outside = Namespace::new("outside")?;
        for (bridge, address) in [("blue", STATION), ("pods", "10.244.0.1")] {
            outside.ip(&format!("link add {bridge} type bridge stp_state 0 mcast_snooping 0"))?;
            outside.ip(&format!("link set {bridge} addrgenmode none up"))?;
            outside.ip(&format!("addr add {address}/24 dev {bridge}"))?;
        }
        let namespaces = [Namespace::new("a")?, Namespace::new("b")?];
        for (index, namespace) in namespaces.iter().enumerate() {
            for (name, bridge) in [("wire", "blue"), ("eth0", "pods")] {
                let port = format!("{bridge}-{index}");
                Veth::between([(&port, &outside), (name, namespace)], 1500)?;
                outside.ip(&format!("link set {port} master {bridge}"))?;
                // What passes between kernel and culvertd is complete frames.
                Impairment::prepare(&outside, &port)?;
            }
            namespace.ip(&format!("addr add 10.244.0.{}/24 dev eth0", index + 11))?;
        }
        Impairment::prepare(&outside, "blue")?;
        let [a, b] = &namespaces;
        join([a, b])?;
        for namespace in &namespaces {
            namespace.ip("link set eth0 arp on")?;
        }
        let start = |(index, namespace): (usize, Namespace)| {
            let mut node = Node::new()?;
            node.set_worker_core(index);
            node.set_namespace(&namespace);
            let keys = configure(index, &mut node);
            node.add_guest(PORT, Role::Listen, keys);
            node.add_nic(UPLINK, "net_af_packet0,iface=wire", "");
            let daemon = node.start()?;
            anyhow::Ok(LabNode { namespace, node, daemon })
        };
        let [a, b] = namespaces;
        let nodes = [start((0, a))?, start((1, b))?];
        let seen_as = tempfile::Builder::new().prefix("culvert-lab-").tempdir()?;
        let socket = seen_as.path().join(format!("{PORT}.sock"));
        Ok(Self { nodes, outside, guest: GuestOptions::new(PORT, &socket, 1), seen_as })
    }

    /// A node, 0 or 1.
    ///
    /// # Errors
    /// There are no others.
    pub fn node(&mut self, index: usize) -> Result<&mut LabNode> {
        self.nodes.get_mut(index).context("there are two nodes")
    }

    /// A path in a node's folder.
    pub fn node_path(&self, index: usize, name: &str) -> PathBuf {
        self.nodes.get(index).map(|node| node.node.path(name)).unwrap_or_default()
    }

    /// The station's namespace.
    pub fn outside(&self) -> &Namespace {
        &self.outside
    }

    /// Boots the guest on node 0, waits until it is ready, and until it and the station know each other.
    ///
    /// # Errors
    /// It does not boot.
    pub fn boot(&self) -> Result<MovingGuest> {
        let (console, monitor) = self.launch(0, Start::Boot)?;
        let mut guest = Guest::new(PORT, self.guest.number, console);
        guest.wait_ready()?;
        ensure!(guest.ping(STATION, 3)? > 0, "the station does not answer\n{}", self.shown());
        Ok(MovingGuest { guest, monitor, at: 0, left: None })
    }

    /// Starts a QEMU on a node that waits there for the guest, which then runs or stands still.
    ///
    /// # Errors
    /// QEMU ends, for example because there is no port.
    pub fn prepare(&self, at: usize, start: Start) -> Result<Arrival> {
        self.prepare_for(at, start, &uri(at))
    }

    /// The same for a guest that comes by another way, such as `unix:PATH`.
    ///
    /// # Errors
    /// As [`Lab::prepare`].
    pub fn prepare_for(&self, at: usize, start: Start, uri: &str) -> Result<Arrival> {
        Arrival::begin(self.launch(at, start)?, at, uri)
    }

    /// Where QEMU sees a file of its node's folder, on either node.
    pub fn seen_as(&self, name: &str) -> PathBuf {
        self.seen_as.path().join(name)
    }

    fn launch(&self, at: usize, start: Start) -> Result<(Console, Monitor)> {
        let lab_node = self.nodes.get(at).context("there are two nodes")?;
        let node = &lab_node.node;
        let folder = Some([node.path(""), self.seen_as.path().to_owned()]);
        let place = Place { folder, ..lab_node.place() };
        let monitor = node.path("monitor.sock");
        let own = Some(self.seen_as.path().join("monitor.sock"));
        launch(&GuestOptions { place, monitor: own, start, ..self.guest.clone() }, &monitor)
    }

    /// How many bytes came to a node on an interface.
    ///
    /// # Errors
    /// There is no such interface.
    pub fn received(&self, at: usize, interface: &str) -> Result<u64> {
        let LabNode { namespace, .. } = self.nodes.get(at).context("there are two nodes")?;
        let table = namespace.run(|| Ok(fs::read_to_string("/proc/thread-self/net/dev")?))?;
        let line = table.lines().find_map(|line| line.trim().strip_prefix(interface)?.strip_prefix(':'));
        let bytes = line.and_then(|line| line.split_whitespace().next()).context("no such interface")?;
        Ok(bytes.parse()?)
    }

    /// At which port a node has learned the guest's address; `None` where it has not.
    ///
    /// # Errors
    /// culvertd does not answer.
    pub fn knows_guest_at(&self, at: usize) -> Result<Option<String>> {
        let LabNode { daemon, .. } = self.nodes.get(at).context("there are two nodes")?;
        let list = daemon.ask("mac list")?;
        let own = crate::guest::mac(self.guest.number);
        let entry = list.as_array().into_iter().flatten().find(|entry| entry.get("mac") == Some(&Value::from(&*own)));
        Ok(entry.and_then(|entry| Some(entry.get("port")?.as_str()?.to_owned())))
    }

    /// What has happened at the guest's port on a node, as `culvertctl events` calls it.
    ///
    /// # Errors
    /// culvertd does not answer.
    pub fn happened(&self, at: usize) -> Result<Vec<String>> {
        let LabNode { daemon, .. } = self.nodes.get(at).context("there are two nodes")?;
        let kind = |line: &str| {
            let event: Value = serde_json::from_str(line)?;
            Ok(event.get("kind").and_then(Value::as_str).context("no kind")?.to_owned())
        };
        daemon.ctl(&format!("-o json events {PORT}"))?.lines().map(kind).collect()
    }

    /// What both daemons know and count, for messages.
    pub fn shown(&self) -> String {
        let shown = |LabNode { daemon, .. }: &LabNode| {
            ["port list", "mac list", "stats", "drops"]
                .map(|what| daemon.ctl(what).unwrap_or_else(|error| error.to_string()))
                .join("\n")
        };
        self.nodes.iter().map(shown).collect::<Vec<_>>().join("\n")
    }

    /// Stops both daemons, whose counters must add up.
    ///
    /// # Errors
    /// They do not, or culvertd does not end.
    pub fn stop(self) -> Result<()> {
        for node in self.nodes {
            node.daemon.check_counters()?;
            node.daemon.stop()?;
        }
        Ok(())
    }
}

/// Makes the network that virtual machines move over, between two nodes.
///
/// # Errors
/// The test is not root.
pub fn join(nodes: [&Namespace; 2]) -> Result<()> {
    Veth::between(nodes.map(|node| (MIGRATION, node)), 1500)?;
    for (index, node) in nodes.iter().enumerate() {
        node.ip(&format!("addr add {}/24 dev {MIGRATION}", migration_address(index)))?;
        node.ip(&format!("link set {MIGRATION} arp on"))?;
    }
    Ok(())
}

/// Starts a QEMU, and connects to its monitor, which the test sees at this path.
///
/// # Errors
/// QEMU ends.
pub(crate) fn launch(guest: &GuestOptions, monitor: &Path) -> Result<(Console, Monitor)> {
    // That of a QEMU that was killed; it fails where there is none.
    let _ = fs::remove_file(monitor);
    let mut console = guest.launch()?;
    let deadline = Instant::now() + START_LIMIT;
    while !monitor.exists() {
        ensure!(Instant::now() < deadline, "QEMU has no monitor; {}", console.last_words());
        if let Some(status) = console.ended()? {
            bail!("QEMU ended with {status}; {}", console.last_words());
        }
        thread::sleep(Duration::from_millis(5));
    }
    match Monitor::connect(monitor) {
        Ok(monitor) => Ok((console, monitor)),
        Err(error) => Err(error.context(console.last_words())),
    }
}

/// How long QEMU may take to start, on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);

fn migration_address(node: usize) -> String {
    format!("172.21.42.{}", node + 1)
}

pub(crate) fn uri(node: usize) -> String {
    format!("tcp:{}:4444", migration_address(node))
}

/// The interface that virtual machines move over; KubeVirt calls it so.
pub const MIGRATION: &str = "migration0";
