//! A translator, and a guest of several queue pairs with another implementation of TCP/IP.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use culvert_api::translator::ask;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp;
use smoltcp::wire::{EthernetAddress, IpCidr, Ipv4Address};

use crate::queues::Queues;

/// What the guest is told where the pod has no interface, as in this test.
const GUEST: Ipv4Address = Ipv4Address::new(169, 254, 2, 1);
/// Leads to the host's loopback.
const GATEWAY: Ipv4Address = Ipv4Address::new(169, 254, 2, 2);

/// Longer than anything takes on any machine.
const LIMIT: Duration = Duration::from_secs(60);

pub struct Guest {
    pub translator: Translator,
    interface: Interface,
    queues: Queues,
    sockets: SocketSet<'static>,
    gateway: Ipv4Address,
}

/// A translator that runs.
pub struct Translator {
    child: Child,
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Translator {
    /// Started by these words before its own.
    pub fn start(before: &[&str], pairs: usize, options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("guest.sock");
        let words = [before, &[env!("CARGO_BIN_EXE_culvert-translator")]].concat();
        let child = Command::new(words[0])
            .args(&words[1..])
            .args(["--foreground", "--mtu", "1500", "--vhost-user", "--queue-pairs", &pairs.to_string(), "--socket"])
            .arg(&path)
            .args(options)
            .spawn()
            .unwrap();
        Self { child, path, _folder: folder }
    }

    /// Its socket.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// A connection to it, once it listens.
    pub fn connect(&self) -> UnixStream {
        connect(&self.path)
    }

    pub fn ask(&self, request: &str) -> Vec<String> {
        ask(&self.path.with_added_extension("ctl"), request, LIMIT).unwrap()
    }

    /// One of its counters.
    pub fn stat(&self, name: &str) -> u64 {
        let stats = self.ask("stats");
        let value = stats.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or_else(|| panic!("no {name} in {stats:?}"))
    }
}

impl Guest {
    pub fn start(pairs: usize, options: &[&str]) -> Self {
        Self::of(Translator::start(&[], pairs, options), pairs, GUEST, GATEWAY)
    }

    /// With these addresses, of a network with 24 bits.
    pub fn of(translator: Translator, pairs: usize, address: Ipv4Address, gateway: Ipv4Address) -> Self {
        let mut queues = Queues::attach(translator.connect(), pairs);
        let mut config = Config::new(EthernetAddress([2, 0, 0, 0, 0, 1]).into());
        config.random_seed = 1;
        let mut interface = Interface::new(config, &mut queues, smoltcp::time::Instant::now());
        interface.update_ip_addrs(|addresses| addresses.push(IpCidr::new(address.into(), 24)).unwrap());
        interface.routes_mut().add_default_ipv4_route(gateway).unwrap();
        Self { translator, interface, queues, sockets: SocketSet::new(Vec::new()), gateway }
    }

    pub fn queues(&mut self) -> &mut Queues {
        &mut self.queues
    }

    /// The connection to the translator ends; then there is another one.
    pub fn connect_again(&mut self) {
        self.queues.detach();
        let stream = self.translator.connect();
        self.queues.attach_again(stream);
    }

    fn open(&mut self, bytes: usize) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; bytes]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        self.sockets.add(socket)
    }

    pub fn connect(&mut self, port: u16, local_port: u16) -> SocketHandle {
        let handle = self.open(128 << 10);
        self.connect_it(handle, port, local_port)
    }

    /// One of many.
    pub fn connect_small(&mut self, port: u16, local_port: u16) -> SocketHandle {
        let handle = self.open(2 << 10);
        self.connect_it(handle, port, local_port)
    }

    fn connect_it(&mut self, handle: SocketHandle, port: u16, local_port: u16) -> SocketHandle {
        let socket = self.sockets.get_mut::<tcp::Socket>(handle);
        socket.connect(self.interface.context(), (self.gateway, port), local_port).unwrap();
        handle
    }

    pub fn listen(&mut self, port: u16) -> SocketHandle {
        let handle = self.open(128 << 10);
        self.tcp(handle).listen(port).unwrap();
        handle
    }

    pub fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Lets time pass and frames flow until `done`.
    pub fn until(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !done(self) {
            assert!(Instant::now() < deadline, "it did not come");
            let now = smoltcp::time::Instant::now();
            let moved = self.interface.poll(now, &mut self.queues, &mut self.sockets);
            if moved == smoltcp::iface::PollResult::None {
                thread::sleep(Duration::from_micros(100));
            }
        }
    }

    /// Until the translator has heard of the guest, and has its forwards.
    pub fn wait_served(&mut self) {
        let handle = self.connect(1, 9999);
        self.until(|guest| !guest.tcp(handle).is_open());
    }

    /// Sends what is left of `bytes`, and receives. Nothing is closed.
    pub fn exchange_some(&mut self, handle: SocketHandle, bytes: &[u8], sent: &mut usize, received: &mut Vec<u8>) {
        let socket = self.tcp(handle);
        if socket.can_send() && *sent < bytes.len() {
            *sent += socket.send_slice(&bytes[*sent..]).unwrap();
        }
        while socket.can_recv() {
            socket.recv(|bytes| (bytes.len(), received.extend_from_slice(bytes))).unwrap();
        }
    }

    /// Sends what is left of `bytes`, then closes, and receives. Whether the connection is at its end.
    pub fn go_on(&mut self, handle: SocketHandle, bytes: &[u8], sent: &mut usize, received: &mut Vec<u8>) -> bool {
        let socket = self.tcp(handle);
        if socket.can_send() && *sent < bytes.len() {
            *sent += socket.send_slice(&bytes[*sent..]).unwrap();
            if *sent == bytes.len() {
                socket.close();
            }
        }
        while socket.can_recv() {
            socket.recv(|bytes| (bytes.len(), received.extend_from_slice(bytes))).unwrap();
        }
        *sent == bytes.len() && !socket.may_recv() && !socket.can_recv() && !socket.is_active()
    }

    /// Sends all, of each connection, and closes; returns what came.
    pub fn exchange_all(&mut self, flows: &[(SocketHandle, &[u8])]) -> Vec<Vec<u8>> {
        let mut states = vec![(0, Vec::new()); flows.len()];
        self.until(|guest| {
            let mut all = true;
            for ((handle, bytes), (sent, received)) in flows.iter().zip(&mut states) {
                all &= guest.go_on(*handle, bytes, sent, received);
            }
            all
        });
        states.into_iter().map(|(_, received)| received).collect()
    }

    pub fn exchange(&mut self, handle: SocketHandle, bytes: &[u8]) -> Vec<u8> {
        self.exchange_all(&[(handle, bytes)]).remove(0)
    }

    /// By which queue pairs segments for this port came.
    pub fn queues_of(&self, port: u16) -> Vec<usize> {
        self.queues.arrived.keys().filter(|(_, other)| *other == port).map(|(queue, _)| *queue).collect()
    }

    pub fn ask(&self, request: &str) -> Vec<String> {
        self.translator.ask(request)
    }

    /// One of its counters.
    pub fn stat(&self, name: &str) -> u64 {
        self.translator.stat(name)
    }

    /// A line of proc_pid_status(5).
    pub fn status(&self, name: &str) -> String {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.translator.child.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).trim().to_owned()
    }

    /// How much memory the translator has, in KiB.
    pub fn resident_kib(&self) -> u64 {
        self.status("RssAnon").trim_end_matches("kB").trim().parse().unwrap()
    }
}

impl Drop for Translator {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success() || thread::panicking(), "{status}");
    }
}

fn connect(path: &std::path::Path) -> UnixStream {
    let deadline = Instant::now() + LIMIT;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        thread::sleep(Duration::from_millis(5));
    }
}
