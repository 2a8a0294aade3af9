//! culvert-translator in a pod, and a world around it.
//!
//! A [`Pod`] is two network namespaces: the pod, as a CNI leaves it, and the world, which is its gateway and has servers. A
//! [`Translator`] runs in the pod; a guest connects to its socket. With `CULVERT_TRANSLATOR=/path/to/passt` it is passt instead: it
//! takes the same options, so what both pass is a fair test.

use std::fs::{self, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, send, setsockopt, socket,
};
use nix::sys::time::TimeVal;
use tempfile::TempDir;

use crate::console::Console;
use crate::guest::Guest;
use crate::impairment::Impairment;
use crate::paths::program;
use crate::place::{Namespace, Place};
use crate::qemu::{GuestOptions, Transport};

/// Addresses of the pod's interface. The guest gets the same.
pub const POD: [&str; 2] = ["192.0.2.15", "2001:db8:1::15"];

/// The pod's gateways. Behind them, from the guest, is the pod's own loopback, unless options say otherwise.
pub const GATEWAYS: [&str; 2] = ["192.0.2.1", "fe80::1"];

/// Addresses of the world, beyond the gateway.
pub const WORLD: [&str; 2] = ["198.51.100.1", "2001:db8:2::1"];

/// What the pod's resolv.conf says: resolvers in the world, and where to search.
pub const RESOLVERS: [&str; 4] = ["198.51.100.1", "198.51.100.2", "2001:db8:2::1", "2001:db8:2::2"];
/// See [`RESOLVERS`].
pub const SEARCH: [&str; 2] = ["culvert.test", "example.test"];

/// A pod, the world, and a folder for sockets that everybody may use.
pub struct Pod {
    pod: Namespace,
    world: Arc<Namespace>,
    /// The world's interface to the pod.
    wire: String,
    folder: TempDir,
    program: PathBuf,
    core: Option<usize>,
}

impl Pod {
    /// The pod's interface is `eth0` with IPv4 and IPv6 addresses and default routes, and an MTU of 1500.
    ///
    /// # Errors
    /// The test is not root, or there is no translator.
    pub fn new() -> Result<Self> {
        Self::with_program(translator_program()?, None)
    }

    /// As [`Pod::new`], with a translator of the caller's choice, on one core.
    ///
    /// # Errors
    /// The test is not root.
    pub fn with_program(program: PathBuf, core: Option<usize>) -> Result<Self> {
        Self::between(Namespace::new("pod")?, new_world("world")?, program, core)
    }

    /// As [`Pod::new`], beside others: its namespaces have this name in theirs.
    ///
    /// # Errors
    /// The test is not root, or there is no translator.
    pub fn named(name: &str) -> Result<Self> {
        let (pod, world) = (Namespace::new(name)?, new_world(&format!("{name}-world"))?);
        Self::between(pod, world, translator_program()?, None)
    }

    fn between(pod: Namespace, world: Namespace, program: PathBuf, core: Option<usize>) -> Result<Self> {
        for address in RESOLVERS {
            world.ip(&format!("addr add {address} dev lo"))?;
        }
        let gateways = ["192.0.2.1/24", "2001:db8:1::1/64", "fe80::1/64"];
        Self::on_wire("pod", pod, gateways, POD, Arc::new(world), program, core)
    }

    /// Another pod in the same world, with another name, and these addresses: those of this one, if a guest is to move from one to the other
    /// with them. The world finds them here until [`Pod::lead_here`].
    ///
    /// # Errors
    /// The test is not root.
    pub fn another(&self, name: &str, addresses: [&str; 2]) -> Result<Self> {
        // The network is the other one's.
        let gateways = ["192.0.2.1/32", "2001:db8:1::1/128", "fe80::1/64"];
        let (pod, world) = (Namespace::new(name)?, Arc::clone(&self.world));
        let pod = Self::on_wire(name, pod, gateways, addresses, world, self.program.clone(), self.core)?;
        if addresses != POD {
            pod.lead(addresses)?;
        }
        Ok(pod)
    }

    /// From now on the world finds the pods' common addresses here.
    ///
    /// # Errors
    /// The test is not root.
    pub fn lead_here(&self) -> Result<()> {
        self.lead(POD)
    }

    fn lead(&self, addresses: [&str; 2]) -> Result<()> {
        for (address, length) in addresses.iter().zip([32, 128]) {
            self.world.ip(&format!("route replace {address}/{length} dev {}", self.wire))?;
        }
        Ok(())
    }

    fn on_wire(
        wire: &str,
        pod: Namespace,
        gateways: [&str; 3],
        addresses: [&str; 2],
        world: Arc<Namespace>,
        program: PathBuf,
        core: Option<usize>,
    ) -> Result<Self> {
        at_once(&pod)?;
        // What a CNI does for translators: echo and low ports without capabilities.
        pod.set_parameter("net/ipv4/ping_group_range", "0 2147483647")?;
        pod.set_parameter("net/ipv4/ip_unprivileged_port_start", "0")?;
        world.ip(&format!("link add {wire} type veth peer name eth0 netns {}", pod.name()))?;
        for address in gateways {
            world.ip(&format!("addr add {address} dev {wire}"))?;
        }
        world.ip(&format!("link set {wire} up"))?;
        let [v4, v6] = addresses;
        pod.ip(&format!("addr add {v4}/24 dev eth0"))?;
        pod.ip(&format!("addr add {v6}/64 dev eth0"))?;
        pod.ip("link set eth0 up")?;
        pod.ip("route add default via 192.0.2.1")?;
        pod.ip("route add default via fe80::1 dev eth0")?;

        let folder = tempfile::Builder::new().prefix("culvert-").tempdir()?;
        // The translator leaves root's rights before it makes its socket.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o777))?;
        let resolvers: String = RESOLVERS.iter().map(|address| format!("nameserver {address}\n")).collect();
        fs::write(folder.path().join("resolv.conf"), format!("{resolvers}search {}\n", SEARCH.join(" ")))?;
        Ok(Self { pod, world, wire: wire.to_owned(), folder, program, core })
    }

    /// Replaces the program that is started as its translator.
    pub fn set_program(&mut self, program: PathBuf) {
        self.program = program;
    }

    /// The pod's namespace.
    pub fn pod(&self) -> &Namespace {
        &self.pod
    }

    /// The namespace of everything else.
    pub fn world(&self) -> &Namespace {
        &self.world
    }

    /// A path in its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts a translator in the pod, in the foreground, with a socket `NAME.sock` and further `options`, separated by spaces; returns
    /// when a guest can connect.
    ///
    /// # Errors
    /// It ends, or makes no socket.
    pub fn translator(&self, name: &str, transport: Transport, options: &str) -> Result<Translator> {
        self.translator_by(name, &[], transport, options)
    }

    /// As [`Pod::translator`], by a program that runs another, with the words of its command line, such as `setpriv --reuid 107`.
    ///
    /// # Errors
    /// It ends, or makes no socket.
    pub fn translator_by(&self, name: &str, by: &[&str], transport: Transport, options: &str) -> Result<Translator> {
        let socket = self.path(&format!("{name}.sock"));
        let kind = if transport == Transport::VhostUser { "--vhost-user " } else { "" };
        let options = format!("-f {kind}-s {} {options}", socket.display());
        // One that was killed leaves its socket.
        let _ = fs::remove_file(&socket);
        let mut translator = Translator { console: self.launch_by(name, by, &options)?, socket, transport };
        let deadline = Instant::now() + START_LIMIT;
        while !translator.socket.exists() {
            if translator.console.ended()?.is_some() {
                bail!("{name} has ended; {}", translator.console.last_words());
            }
            ensure!(Instant::now() < deadline, "{name} makes no socket; {}", translator.console.last_words());
            thread::sleep(Duration::from_millis(10));
        }
        Ok(translator)
    }

    /// Starts a translator in the pod with `options`, separated by spaces, and returns at once.
    ///
    /// # Errors
    /// The program is missing.
    pub fn launch(&self, name: &str, options: &str) -> Result<Console> {
        self.launch_by(name, &[], options)
    }

    /// As [`Pod::launch`], by a program that runs another, as in [`Pod::translator_by`].
    ///
    /// # Errors
    /// The program is missing.
    pub fn launch_by(&self, name: &str, by: &[&str], options: &str) -> Result<Console> {
        let place = Place { namespace: Some(self.pod.name().to_owned()), core: self.core, ..Place::default() };
        let script = "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"";
        let mut arguments: Vec<String> = ["--mount", "--", "sh", "-c", script].map(str::to_owned).into();
        arguments.push(self.path("resolv.conf").display().to_string());
        arguments.extend(by.iter().map(|&word| word.to_owned()));
        arguments.push(self.program.display().to_string());
        arguments.extend(options.split_whitespace().map(str::to_owned));
        Console::start_in(&place, name, "unshare", &arguments)
    }
}

fn new_world(name: &str) -> Result<Namespace> {
    let world = Namespace::new(name)?;
    at_once(&world)?;
    // What comes from a guest that has just moved may come before its address is known to be there.
    for interfaces in ["all", "default"] {
        world.set_parameter(&format!("net/ipv4/conf/{interfaces}/rp_filter"), "0")?;
    }
    Ok(world)
}

/// Addresses can be used at once, and are none but those that are given.
fn at_once(namespace: &Namespace) -> Result<()> {
    namespace.set_parameter("net/ipv6/conf/default/accept_dad", "0")?;
    namespace.set_parameter("net/ipv6/conf/default/accept_ra", "0")
}

/// Addresses of a far end.
pub const FAR: [&str; 2] = ["203.0.113.1", "2001:db8:3::1"];

/// A namespace behind the world, which becomes its router, on a wire that is long and bad.
pub struct Far {
    // Cut before the namespaces go.
    wire: Impairment,
    _middle: Namespace,
    far: Namespace,
}

impl Far {
    /// Frames to it and from it take `delay`, and one in `lost` is lost (0: none).
    ///
    /// # Errors
    /// The test is not root.
    pub fn new(pod: &Pod, delay: Duration, lost: u32) -> Result<Self> {
        let (world, middle, far) = (pod.world(), Namespace::new("middle")?, Namespace::new("far")?);
        // It is a wire, and says nothing of itself.
        middle.set_parameter("net/ipv6/conf/default/disable_ipv6", "1")?;
        far.set_parameter("net/ipv6/conf/default/accept_dad", "0")?;
        world.ip(&format!("link add far type veth peer name near netns {}", middle.name()))?;
        middle.ip(&format!("link add far type veth peer name eth0 netns {}", far.name()))?;
        world.ip("addr add 203.0.113.254/24 dev far")?;
        world.ip("addr add 2001:db8:3::fe/64 dev far")?;
        far.ip("addr add 203.0.113.1/24 dev eth0")?;
        far.ip("addr add 2001:db8:3::1/64 dev eth0")?;
        for (namespace, interface) in [(world, "far"), (&middle, "near"), (&middle, "far"), (&far, "eth0")] {
            Impairment::prepare(namespace, interface)?;
            namespace.ip(&format!("link set {interface} up"))?;
        }
        world.set_parameter("net/ipv4/ip_forward", "1")?;
        world.set_parameter("net/ipv6/conf/all/forwarding", "1")?;
        far.ip("route add default via 203.0.113.254")?;
        far.ip("route add default via 2001:db8:3::fe")?;
        Ok(Self { wire: Impairment::new(&middle, ["near", "far"], delay, lost)?, _middle: middle, far })
    }

    /// The wire to it.
    pub fn wire(&self) -> &Impairment {
        &self.wire
    }

    /// The far namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.far
    }
}

/// A running translator. It is killed when this is dropped.
pub struct Translator {
    console: Console,
    socket: PathBuf,
    transport: Transport,
}

impl Translator {
    /// Its log, signals, its end.
    pub fn console(&mut self) -> &mut Console {
        &mut self.console
    }

    /// The end of its log, and how it has ended, if it has: for messages.
    pub fn last_words(&mut self) -> String {
        let ended = match self.console.ended() {
            Ok(Some(status)) => format!("the translator has ended with {status}; "),
            _ => String::new(),
        };
        ended + &self.console.last_words()
    }

    /// All that it can tell when a test has failed: its flows and counters, where it has a control socket, and its log.
    pub fn told(&mut self) -> String {
        let mut told = String::new();
        if is_ours() {
            for request in ["flows", "stats"] {
                let answer = self.ask(request).unwrap_or_else(|error| format!("{error:#}"));
                // Counters that are zero say nothing.
                let lines = answer.lines().filter(|line| !line.ends_with(" 0")).take(40);
                told.extend(lines.map(|line| format!("{request}: {line}\n")));
            }
        }
        told + &self.last_words()
    }

    /// What its control socket (`S.ctl`) answers to a request.
    ///
    /// # Errors
    /// It does not answer.
    pub fn ask(&self, request: &str) -> Result<String> {
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::new(5, 0))?;
        let path = format!("{}.ctl", self.socket.display());
        connect(socket.as_raw_fd(), &UnixAddr::new(path.as_str())?)?;
        send(socket.as_raw_fd(), request.as_bytes(), MsgFlags::empty())?;
        let mut answer = vec![0; 1 << 20];
        let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        answer.truncate(length);
        Ok(String::from_utf8(answer)?)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.console.pid()
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// A guest on its socket, not yet started.
    pub fn guest(&self, name: &str, number: u8) -> GuestOptions {
        GuestOptions { transport: self.transport, ..GuestOptions::new(name, &self.socket, number) }
    }

    /// Asks it to stop, as whoever started it does, and waits until it has.
    ///
    /// # Errors
    /// It does not end.
    pub fn stop(mut self) -> Result<ExitStatus> {
        self.console.signal("TERM")?;
        self.console.wait(STOP_LIMIT)
    }

    /// How many descriptors it has open.
    ///
    /// # Errors
    /// It has ended.
    pub fn descriptors(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.console.pid()))?.count())
    }

    /// The memory that it occupies, in KiB.
    ///
    /// # Errors
    /// It has ended.
    pub fn memory(&self) -> Result<u64> {
        self.status("VmRSS:")?.trim_end_matches("kB").trim().parse().context("VmRSS")
    }

    /// A line of its /proc/PID/status, by what it begins with.
    ///
    /// # Errors
    /// It has ended, or there is no such line.
    pub fn status(&self, name: &str) -> Result<String> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.console.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        Ok(line.with_context(|| format!("no {name} in {status}"))?.trim().to_owned())
    }
}

/// Brings up a booted guest's network interface with addresses from DHCP, router advertisements and DHCPv6, and waits until it can send
/// from all of them. Returns what the DHCP and the DHCPv6 server sent.
///
/// # Errors
/// The guest gets no addresses.
pub fn configure(guest: &mut Guest) -> Result<[Lease; 2]> {
    guest.check(
        "for key in accept_ra autoconf accept_dad; do echo 1 >/proc/sys/net/ipv6/conf/eth0/$key; done; \
         echo -1 >/proc/sys/net/ipv6/conf/eth0/router_solicitations; ip link set eth0 up",
    )?;
    let v4 = lease(guest, 4)?;
    // The client wants an address to send from, and duplicate address detection takes a second.
    guest.check("until ip -6 addr show dev eth0 scope link -tentative | grep -q inet6; do sleep 0.1; done")?;
    let v6 = lease(guest, 6)?;
    guest.check("until [ -z \"$(ip -6 addr show dev eth0 tentative)\" ]; do sleep 0.1; done")?;
    Ok([v4, v6])
}

/// Runs the DHCP client of a guest whose network interface is up; DHCPv6's, for which it needs a link-local address, if `family` is 6.
///
/// # Errors
/// The guest is given nothing.
pub fn lease(guest: &mut Guest, family: u8) -> Result<Lease> {
    guest.check(&format!("mkdir -p /tmp/lease; echo 'request {OPTIONS};' >/tmp/lease/conf"))?;
    let files = format!("-pf /tmp/lease/pid{family} -lf /tmp/lease/{family} -sf /bin/guest-lease");
    guest.check(&format!("timeout 40 dhclient -{family} -1 -v -cf /tmp/lease/conf {files} eth0 2>&1")).map(Lease)
}

/// What a DHCP client of a guest was given.
#[derive(Debug)]
pub struct Lease(String);

impl Lease {
    /// A value, by the name that dhclient-script(8) has for it, without `new_`; empty when it was not given.
    pub fn value(&self, name: &str) -> &str {
        let value = self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value.unwrap_or_default()
    }
}

/// Whether culvert-translator is under test, not passt in its place.
pub fn is_ours() -> bool {
    std::env::var_os(VARIABLE).is_none()
}

/// The program under test.
///
/// # Errors
/// It has not been built.
pub fn translator_program() -> Result<PathBuf> {
    match std::env::var_os(VARIABLE) {
        None => program("culvert-translator"),
        Some(path) => fs::canonicalize(&path).with_context(|| format!("{VARIABLE}={}", path.display())),
    }
}

/// Runs a shell command of this machine in a namespace, and returns what it printed.
///
/// # Errors
/// It failed.
pub fn run_in(namespace: &Namespace, command: &str) -> Result<String> {
    let output = Command::new("ip").args(["netns", "exec", namespace.name(), "sh", "-c", command]).output()?;
    if !output.status.success() {
        bail!("\"{command}\" ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What a guest asks a DHCP and a DHCPv6 server for.
const OPTIONS: &str = "subnet-mask, routers, domain-name-servers, domain-search, interface-mtu, host-name, fqdn.fqdn, \
                       dhcp6.name-servers, dhcp6.domain-search, dhcp6.fqdn";

/// Whether to test at full size (`CULVERT_FULL=1`): gigabytes, and a million connections. The ordinary run is smaller.
pub fn full_size() -> bool {
    std::env::var_os("CULVERT_FULL").is_some()
}

const VARIABLE: &str = "CULVERT_TRANSLATOR";

const START_LIMIT: Duration = Duration::from_secs(30);

const STOP_LIMIT: Duration = Duration::from_secs(10);
