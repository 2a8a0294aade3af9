//! Two pods on two nodes, and a guest on culvert-translator that moves from one to the other and back while it runs.
//!
//! ```text
//!          world: servers, and the way to the pod's addresses, which leads to one of the two
//!              |                          |
//!            eth0                       eth0
//!    +------------------+       +------------------+
//!    | pod a            |       | pod b            |
//!    |   translator     |--mig--|   translator     |
//!    |   QEMU           |       |   QEMU           |
//!    +------------------+       +------------------+
//!      culvertd, or             culvertd, or
//!      passt-repair             passt-repair
//! ```
//!
//! Both pods have the same addresses, unless a test wants others. Each node has who switches the translator's sockets to repair mode, where
//! the test says so ([`Help`]). With `CULVERT_TRANSLATOR=/path/to/passt` the translators are passt.

use std::fs;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::console::Console;
use crate::daemon::{Daemon, Node};
use crate::guest::Guest;
use crate::lab::{join, launch, uri};
use crate::moving::{Arrival, Journey, MovingGuest};
use crate::passt_repair;
use crate::place::{Namespace, Place};
use crate::qemu::{GuestOptions, Start, Transport};
use crate::qmp::Monitor;
use crate::translator::{POD, Pod, Translator, configure};

/// Both pods, and who is in them.
pub struct PodLab {
    nodes: [PodNode; 2],
    /// The guest, for tests that want another than usual. Where it runs and its socket are the lab's affair.
    pub guest: GuestOptions,
    /// Both pods have the same addresses.
    leads: bool,
}

/// A pod, and its node.
struct PodNode {
    /// Ends before the translator, whose sockets it may hold.
    helper: Option<Helper>,
    translator: Option<Translator>,
    pod: Pod,
}

/// Who switches a translator's sockets.
#[derive(Clone, Debug)]
pub enum Help {
    /// A culvertd with which the pod is registered.
    Culvertd,
    /// The test, as passt-repair does.
    Test,
    /// passt-repair, which is here.
    PasstRepair(PathBuf),
}

/// What is dropped to end it.
enum Helper {
    /// With its folder.
    Culvertd(Box<(Daemon, Node)>),
    Test(UnixStream),
    PasstRepair(#[allow(dead_code, reason = "it is killed when this is dropped")] Console),
}

impl Drop for Helper {
    fn drop(&mut self) {
        if let Self::Test(stream) = self {
            // It fails where the translator has gone.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl PodLab {
    /// Two pods without translators.
    ///
    /// # Errors
    /// The test is not root, or there is no translator.
    pub fn new() -> Result<Self> {
        Self::with_addresses(POD)
    }

    /// The same, where the second pod has these addresses.
    ///
    /// # Errors
    /// The test is not root, or there is no translator.
    pub fn with_addresses(second: [&str; 2]) -> Result<Self> {
        let a = Pod::new()?;
        let b = a.another("pod-b", second)?;
        a.lead_here()?;
        join([a.pod(), b.pod()])?;
        let guest = GuestOptions::new("vm", &a.path("vm.sock"), 1);
        let node = |pod| PodNode { helper: None, translator: None, pod };
        Ok(Self { nodes: [node(a), node(b)], guest, leads: second == POD })
    }

    /// The namespace of everything else.
    pub fn world(&self) -> &Namespace {
        let [PodNode { pod, .. }, _] = &self.nodes;
        pod.world()
    }

    /// A pod, 0 or 1.
    ///
    /// # Errors
    /// There are no others.
    pub fn pod(&mut self, at: usize) -> Result<&mut Pod> {
        Ok(&mut self.node(at)?.pod)
    }

    /// Starts a translator with these options in a pod, in place of the one that is there; nobody helps it then.
    ///
    /// # Errors
    /// It ends, or makes no socket.
    pub fn translate(&mut self, at: usize, options: &str) -> Result<()> {
        self.translate_by(at, &[], options)
    }

    /// The same, by a program that runs another.
    ///
    /// # Errors
    /// It ends, or makes no socket.
    pub fn translate_by(&mut self, at: usize, by: &[&str], options: &str) -> Result<()> {
        let node = self.node(at)?;
        node.helper = None;
        if let Some(before) = node.translator.take() {
            before.stop()?;
        }
        node.translator = Some(node.pod.translator_by(&name(at), by, Transport::VhostUser, options)?);
        Ok(())
    }

    /// The translator in a pod.
    ///
    /// # Errors
    /// There is none.
    pub fn translator(&mut self, at: usize) -> Result<&mut Translator> {
        self.node(at)?.translator.as_mut().context("there is no translator")
    }

    /// Has somebody help the translator in a pod, or nobody any more; returns when he is there.
    ///
    /// # Errors
    /// He does not come.
    pub fn help(&mut self, at: usize, help: Option<Help>) -> Result<()> {
        let node = self.node(at)?;
        node.helper = None;
        let socket = node.pod.path(&format!("{}.sock.repair", name(at)));
        node.helper = match help {
            None => None,
            Some(Help::Culvertd) => {
                let mut culvertd = Node::new()?;
                culvertd.set_worker_core(at);
                let (folder, netns) = (node.pod.path(""), node.pod.pod().name());
                let folder = folder.display().to_string();
                let folder = folder.trim_end_matches('/');
                culvertd
                    .add(&format!("[[pod]]\nname = \"vm\"\nfolders = [\"{folder}\"]\nnetns = \"/run/netns/{netns}\""));
                Some(Helper::Culvertd(Box::new((culvertd.start()?, culvertd))))
            }
            Some(Help::Test) => Some(Helper::Test(passt_repair::help(&socket)?)),
            Some(Help::PasstRepair(program)) => {
                Some(Helper::PasstRepair(Console::start("passt-repair", program, &[&socket])?))
            }
        };
        let deadline = Instant::now() + HELP_LIMIT;
        while node.helper.is_some() && !is_connected(at)? {
            ensure!(Instant::now() < deadline, "nobody connects to {}", socket.display());
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Boots the guest in the first pod, and waits until it has its addresses.
    ///
    /// # Errors
    /// It does not boot, or gets none.
    pub fn boot(&mut self) -> Result<MovingGuest> {
        let (console, monitor) = self.launch(0, Start::Boot)?;
        let mut guest = Guest::new("vm", self.guest.number, console);
        guest.wait_booted()?;
        configure(&mut guest)?;
        Ok(MovingGuest { guest, monitor, at: 0, left: None })
    }

    /// Starts a QEMU in a pod that waits there for the guest, which then runs or stands still.
    ///
    /// # Errors
    /// QEMU ends, for example because there is no translator.
    pub fn prepare(&mut self, at: usize, start: Start) -> Result<Arrival> {
        Arrival::begin(self.launch(at, start)?, at, &uri(at))
    }

    /// The guest moves to the other pod: it is let go on there when all of it has come, and the way to its address leads there, as
    /// libvirt and a cluster's network do.
    ///
    /// # Errors
    /// It does not arrive.
    pub fn move_over(&mut self, vm: &mut MovingGuest) -> Result<Journey> {
        self.move_over_with(vm, |_, _| Ok(()))
    }

    /// The same; while the guest has left one place, and does not run at the other yet, something is looked at.
    ///
    /// # Errors
    /// It does not arrive, or something is wrong.
    pub fn move_over_with(
        &mut self,
        vm: &mut MovingGuest,
        look: impl FnOnce(&mut MovingGuest, &Arrival) -> Result<()>,
    ) -> Result<Journey> {
        vm.end_source();
        let mut arrival = self.prepare(1 - vm.at(), Start::ArrivePaused)?;
        let began = vm.depart(&arrival)?;
        let left = vm.wait_left()?;
        arrival.wait_complete()?;
        self.lead(arrival.at)?;
        look(vm, &arrival)?;
        arrival.monitor.run("cont", json!({}))?;
        let journey = vm.arrive(arrival, began, &left)?;
        vm.end_source();
        Ok(journey)
    }

    /// From now on the world finds the guest's address in that pod.
    ///
    /// # Errors
    /// There is no such pod.
    pub fn lead(&mut self, at: usize) -> Result<()> {
        if self.leads { self.node(at)?.pod.lead_here() } else { Ok(()) }
    }

    /// What both translators tell, for messages.
    pub fn told(&mut self) -> String {
        let told = |(name, node): (&str, &mut PodNode)| {
            let told = node.translator.as_mut().map(Translator::told).unwrap_or_default();
            let helped = match &mut node.helper {
                Some(Helper::Culvertd(culvertd)) => culvertd.0.console().last_words(),
                _ => String::new(),
            };
            format!("{name}: {told}\n{helped}\n")
        };
        ["a", "b"].into_iter().zip(&mut self.nodes).map(told).collect()
    }

    /// Ends all of it: translators must end as they should.
    ///
    /// # Errors
    /// They do not.
    pub fn stop(self) -> Result<()> {
        for PodNode { helper, translator, .. } in self.nodes {
            drop(helper);
            if let Some(translator) = translator {
                let status = translator.stop()?;
                ensure!(status.success(), "a translator ended with {status}");
            }
        }
        Ok(())
    }

    fn launch(&mut self, at: usize, start: Start) -> Result<(Console, Monitor)> {
        let options = self.guest.clone();
        let node = self.node(at)?;
        let socket = node.translator.as_ref().context("there is no translator")?.socket().to_owned();
        let place = Place { namespace: Some(node.pod.pod().name().to_owned()), ..Place::default() };
        let monitor = node.pod.path("monitor.sock");
        launch(&GuestOptions { socket, place, monitor: Some(monitor.clone()), start, ..options }, &monitor)
    }

    fn node(&mut self, at: usize) -> Result<&mut PodNode> {
        self.nodes.get_mut(at).context("there are two pods")
    }
}

/// The name of a translator: sockets are known by that of their file alone.
fn name(at: usize) -> String {
    format!("vm-{at}")
}

/// Whether somebody of the test's own namespace has connected to the translator's `S.repair`.
fn is_connected(at: usize) -> Result<bool> {
    let end = format!("/{}.sock.repair", name(at));
    // The kernel tells of the listening end of a connection where its client is (proc_net(5)).
    Ok(fs::read_to_string("/proc/thread-self/net/unix")?.lines().any(|line| line.ends_with(&end)))
}

/// culvertd starts, and looks for translators once a second.
const HELP_LIMIT: Duration = Duration::from_secs(60);
