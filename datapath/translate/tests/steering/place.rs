//! A pod with a translator, between a world and a guest.
//!
//! ```text
//! world 10.1.0.1, fd00:1::1 -- 10.1.0.2, fd00:1::2 pod, translator -- the same guest
//! ```

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use culvert_api::translator::ask;

use crate::network::{Namespace, enter_new_namespace, ip, start, sysctl};
use crate::packets::packets;

/// The pod's and the guest's.
pub const ADDRESSES: [&str; 2] = ["10.1.0.2", "fd00:1::2"];

pub struct Place {
    pub world: Namespace,
    pub guest: Namespace,
    folder: tempfile::TempDir,
}

/// A translator that runs.
pub struct Translator {
    child: Child,
    said: Arc<Mutex<String>>,
}

pub fn with_port(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

/// Any address of the same family.
pub fn any(ip: &str) -> &'static str {
    if ip.contains(':') { "::" } else { "0.0.0.0" }
}

impl Place {
    /// This thread is in the pod from now on.
    pub fn new() -> Self {
        enter_new_namespace();
        start();
        // As container runtimes have it.
        sysctl("ipv4/ip_unprivileged_port_start", "0");
        let (world, guest) = (Namespace::new(), Namespace::new());
        ip(&[
            &format!("link add eth0 type veth peer name eth0 netns {}", world.thread),
            "addr add 10.1.0.2/24 dev eth0",
            "addr add fd00:1::2/64 dev eth0 nodad",
            "link set eth0 up",
            &format!("link add tap type veth peer name eth0 netns {}", guest.thread),
        ]);
        // The pod's kernel is not to speak on the guest's wire.
        sysctl("ipv6/conf/tap/disable_ipv6", "1");
        sysctl("ipv4/conf/tap/arp_ignore", "8");
        world
            .run(|| ip(&["addr add 10.1.0.1/24 dev eth0", "addr add fd00:1::1/64 dev eth0 nodad", "link set eth0 up"]));
        guest.run(|| {
            sysctl("ipv6/conf/eth0/accept_ra", "0");
            ip(&[
                "link set eth0 address 02:00:00:00:00:0a",
                "addr add 10.1.0.2/24 dev eth0",
                "addr add fd00:1::2/64 dev eth0 nodad",
                "link set eth0 up",
                "route add default via 10.1.0.1",
            ]);
        });
        ip(&["link set tap up", "route add default via 10.1.0.1", "-6 route add default via fd00:1::1"]);
        Self { world, guest, folder: tempfile::tempdir().unwrap() }
    }

    /// Starts the translator by these words, and waits until it serves.
    pub fn start(&self, before: &[&str], options: &str) -> Translator {
        let socket = packets("tap");
        rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::empty()).unwrap();
        let transport = format!("--packet-fd {} --control-path {}", socket.as_raw_fd(), self.control().display());
        let translator = Translator::start(before, &format!("{transport} {options}"));
        self.wait_until("it answers", || self.ask("stats").is_ok());
        translator
    }

    /// Starts one for another guest, who is not there.
    pub fn start_another(&self, options: &str) -> Translator {
        let socket = self.folder.path().join("another.sock");
        let _ = std::fs::remove_file(&socket);
        let translator = Translator::start(&[], &format!("--socket {} {options}", socket.display()));
        self.wait_until("it serves", || socket.exists() && translator.status("Seccomp") == "2");
        translator
    }

    fn control(&self) -> PathBuf {
        self.folder.path().join("control")
    }

    /// Asks the translator.
    pub fn ask(&self, request: &str) -> Result<Vec<String>, String> {
        ask(&self.control(), request, Duration::from_secs(20)).map_err(|error| error.to_string())
    }

    /// One of its counters.
    pub fn stat(&self, name: &str) -> u64 {
        let stats = self.ask("stats").unwrap();
        let value = stats.iter().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.unwrap_or_else(|| panic!("no {name} in {stats:?}"))
    }

    /// The world connects.
    pub fn connect(&self, address: &str, port: u16) -> io::Result<TcpStream> {
        let to = with_port(address, port);
        self.world.run(move || TcpStream::connect_timeout(&to, Duration::from_secs(20)))
    }

    /// The world sends a datagram, from where nobody listens.
    pub fn send(&self, address: &str, port: u16, bytes: &'static [u8]) {
        let to = with_port(address, port);
        let from = SocketAddr::new(any(address).parse::<IpAddr>().unwrap(), 0);
        self.world.run(move || UdpSocket::bind(from).unwrap().send_to(bytes, to).unwrap());
    }

    /// Whether a datagram of the world's comes to the guest at the port within so much time.
    pub fn datagram_arrives(&self, address: &str, port: u16, patience: Duration) -> bool {
        let guest = self.guest.run(move || UdpSocket::bind(("::", port)).unwrap());
        guest.set_read_timeout(Some(patience)).unwrap();
        self.send(address, port, b"hello");
        guest.recv(&mut [0; 100]).is_ok()
    }

    /// TCP and UDP of the world reach the guest at the same port, and come back.
    pub fn reaches_guest(&self, address: &str, port: u16) {
        self.tcp_reaches_guest(address, port);
        let patience = Some(Duration::from_secs(20));
        let guest = self.guest.run(move || UdpSocket::bind(("::", port)).unwrap());
        let from = SocketAddr::new(any(address).parse::<IpAddr>().unwrap(), 0);
        let world = self.world.run(move || UdpSocket::bind(from).unwrap());
        world.set_read_timeout(patience).unwrap();
        guest.set_read_timeout(patience).unwrap();
        // Only what comes from where it was sent to.
        world.connect(with_port(address, port)).unwrap();
        world.send(b"there").unwrap();
        let mut bytes = [0; 100];
        let (length, from) = guest.recv_from(&mut bytes).unwrap();
        assert_eq!((&bytes[..length], from.port()), (&b"there"[..], world.local_addr().unwrap().port()));
        guest.send_to(b"and back", from).unwrap();
        let length = world.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"and back");
    }

    pub fn tcp_reaches_guest(&self, address: &str, port: u16) {
        let listener = self.guest.run(move || TcpListener::bind(("::", port)).unwrap());
        let mut world = self.connect(address, port).unwrap();
        let (mut guest, from) = listener.accept().unwrap();
        assert_eq!(from.port(), world.local_addr().unwrap().port());
        for stream in [&world, &guest] {
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        }
        world.write_all(b"there").unwrap();
        let mut bytes = [0; 5];
        guest.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"there");
        guest.write_all(b"back!").unwrap();
        world.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"back!");
    }

    /// Waits for what must come.
    pub fn wait_until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(30);
        while !holds() {
            assert!(Instant::now() < end, "{what}: not within 30 s");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Whether the far end has reset a connection, or does now.
pub fn is_reset(mut stream: TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.read(&mut [0; 10]).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset)
}

impl Translator {
    fn start(before: &[&str], options: &str) -> Self {
        let words = before.iter().copied().chain([env!("CARGO_BIN_EXE_culvert-translator"), "--foreground"]);
        let words: Vec<_> = words.chain(options.split_whitespace()).collect();
        let mut child = Command::new(words[0]).args(&words[1..]).stderr(Stdio::piped()).spawn().unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let (mut pipe, hearing) = (child.stderr.take().unwrap(), Arc::clone(&said));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = pipe.read(&mut bytes) {
                hearing.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..length]));
            }
        });
        Self { child, said }
    }

    /// A line of proc_pid_status(5).
    pub fn status(&self, name: &str) -> String {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().trim().to_owned()
    }

    /// What it has said.
    pub fn words(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Ends it, and returns what it has said.
    pub fn stop(mut self) -> String {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.words());
        self.words()
    }
}

impl Drop for Translator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.words());
        }
    }
}
