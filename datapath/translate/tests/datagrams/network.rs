//! Three network namespaces in a row: the pod, which the test's own thread is in, a router, and a far host.
//!
//! ```text
//! pod 10.1.0.2, fd00:1::2 -- 10.1.0.1, fd00:1::1 router 10.2.0.1, fd00:2::1 -- far 10.2.0.2, fd00:2::2
//! ```

use std::fs;
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use rustix::thread::{UnshareFlags, gettid, unshare_unsafe};

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace, held by a thread in it.
pub struct Namespace {
    jobs: Sender<Job>,
    /// Its number, by which `ip link` moves interfaces.
    pub thread: i32,
}

impl Namespace {
    /// One with nothing but its loopback.
    pub fn new() -> Self {
        let (jobs, inbox) = channel::<Job>();
        let (told, thread) = channel();
        thread::spawn(move || {
            enter_new_namespace();
            told.send(gettid().as_raw_nonzero().get()).unwrap();
            for job in inbox {
                job();
            }
        });
        let namespace = Self { jobs, thread: thread.recv().unwrap() };
        namespace.run(start);
        namespace
    }

    /// Does something there; sockets that are made there stay there.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = channel();
        self.jobs.send(Box::new(move || done.send(job()).unwrap())).unwrap();
        result.recv().unwrap()
    }
}

/// Moves this thread to a network namespace of its own.
#[expect(unsafe_code, reason = "rustix calls all kinds of unshare unsafe")]
pub fn enter_new_namespace() {
    // SAFETY: descriptors, which unshare could make this thread alone have, stay shared: only the network is left.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("root's rights: run this in ci/isolated");
}

/// Runs `ip` in the namespace of this thread.
pub fn ip(commands: &[&str]) {
    for command in commands {
        let output = Command::new("ip").args(command.split(' ')).output().expect("iproute2");
        assert!(output.status.success(), "ip {command}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Takes echo sockets away from the programs of this thread's namespace.
pub fn forbid_echo() {
    sysctl("ipv4/ping_group_range", "1 0");
}

/// Sets a variable of the kernel's in the namespace of this thread.
pub fn sysctl(name: &str, value: &str) {
    fs::write(format!("/proc/sys/net/{name}"), value).expect("a variable of the kernel's");
}

/// What every namespace here has. Addresses are usable at once, and no error is held back: neither is what is tested.
pub fn start() {
    sysctl("ipv6/conf/all/accept_dad", "0");
    sysctl("ipv6/conf/default/accept_dad", "0");
    sysctl("ipv4/icmp_ratelimit", "0");
    sysctl("ipv4/icmp_msgs_per_sec", "100000");
    sysctl("ipv6/icmp/ratelimit", "0");
    ip(&["link set lo up"]);
}

/// Moves this thread to the pod, and makes the others.
pub fn routed() -> (Namespace, Namespace) {
    enter_new_namespace();
    start();
    let (router, far) = (Namespace::new(), Namespace::new());
    // All may use echo sockets, as CNIs have it.
    sysctl("ipv4/ping_group_range", "0 2147483647");
    ip(&[
        &format!("link add eth0 type veth peer name pod netns {}", router.thread),
        "addr add 10.1.0.2/24 brd 10.1.0.255 dev eth0",
        "addr add fd00:1::2/64 dev eth0 nodad",
        "link set eth0 up",
    ]);
    let thread = far.thread;
    router.run(move || {
        for name in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            sysctl(name, "1");
        }
        ip(&[
            "link set pod up",
            &format!("link add far type veth peer name eth0 netns {thread}"),
            "addr add 10.1.0.1/24 brd 10.1.0.255 dev pod",
            "addr add fd00:1::1/64 dev pod nodad",
            "addr add 10.2.0.1/24 dev far",
            "route add 224.0.0.0/4 dev pod",
            "addr add fd00:2::1/64 dev far nodad",
            "link set far up",
            "route add unreachable 10.8.0.0/16",
            "-6 route add unreachable fd00:8::/32",
        ]);
    });
    far.run(|| {
        ip(&[
            "addr add 10.2.0.2/24 dev eth0",
            "addr add fd00:2::2/64 dev eth0 nodad",
            "link set eth0 up",
            "route add default via 10.2.0.1",
            "-6 route add default via fd00:2::1",
        ]);
    });
    ip(&[
        "route add 10.0.0.0/8 via 10.1.0.1",
        "-6 route add fd00::/16 via fd00:1::1",
        "route add prohibit 10.9.0.0/16",
        "-6 route add prohibit fd00:9::/32",
        "route add 224.0.0.0/4 dev eth0",
        "route add broadcast 255.255.255.255 dev eth0",
    ]);
    (router, far)
}
