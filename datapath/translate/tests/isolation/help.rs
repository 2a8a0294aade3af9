//! `S.help`: a translator gets its guest's packet socket while it runs, under its filter; another one when the device is
//! gone; and nothing else that may be offered.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::packets::packets;
use crate::translator::{Translator, command, folder, wait_until};
use crate::{WHO_HAS_THE_GATEWAY, assert_is_the_gateway, is_reply};

/// Ours, as culvertd is.
struct Helper(OwnedFd);

impl Helper {
    fn connect(folder: &Path) -> Self {
        let flags = SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_secs(30))).unwrap();
        rustix::net::connect(&socket, &SocketAddrUnix::new(folder.join("guest.sock.help")).unwrap()).unwrap();
        Self(socket)
    }

    fn say(&self, text: &str, descriptors: &[OwnedFd]) {
        let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        }
        let text = [IoSlice::new(text.as_bytes())];
        rustix::net::sendmsg(&self.0, &text, &mut control, SendFlags::NOSIGNAL).unwrap();
    }

    /// What it says; empty once it has closed.
    fn hear(&self) -> String {
        let mut bytes = [0; 1000];
        let (length, _) = rustix::net::recv(&self.0, &mut bytes, RecvFlags::empty()).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    fn is_silent(&self) -> bool {
        rustix::net::recv(&self.0, &mut [0; 1000], RecvFlags::DONTWAIT) == Err(Errno::AGAIN)
    }
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A wire in this thread's namespace; the translator's end and the guest's.
fn wire() -> (OwnedFd, OwnedFd) {
    ip("link add veth-a mtu 1500 type veth peer name veth-b mtu 1500");
    for end in ["veth-a", "veth-b"] {
        ip(&format!("link set {end} up"));
    }
    (packets("veth-a"), packets("veth-b"))
}

/// The guest asks for its gateway until it is answered.
fn exchange(guest: &OwnedFd) {
    let mut reply = Vec::new();
    wait_until("an answer of the translator", || {
        rustix::net::send(guest, &WHO_HAS_THE_GATEWAY, SendFlags::empty()).unwrap();
        std::iter::from_fn(|| {
            let mut bytes = vec![0; 2000];
            let (length, _) = rustix::net::recv(guest, &mut bytes[..], RecvFlags::DONTWAIT).ok()?;
            bytes.truncate(length);
            Some(bytes)
        })
        .find(|frame| is_reply(frame))
        .is_some_and(|frame| {
            reply = frame;
            true
        })
    });
    assert_is_the_gateway(&reply);
}

#[test]
fn a_packet_socket_is_handed_over_and_replaced() {
    // SAFETY: this thread alone gets another network namespace; the translator does not need the same one.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
    std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
    let folder = folder();
    let mut translator = Translator::start_in_foreground(command(), &folder, &["--packet-help", "--no-map-gw"]);

    let helper = Helper::connect(folder.path());
    assert_eq!(helper.hear(), "packet");
    helper.say("error: there is no tap yet", &[]);
    let (ours, guest) = wire();
    helper.say("packet", &[ours]);
    assert_eq!(helper.hear(), "ok");
    exchange(&guest);

    // Whoever helped may go and come back: nothing is asked for, as nothing is missing.
    drop(helper);
    exchange(&guest);
    let helper = Helper::connect(folder.path());
    assert_eq!(helper.hear(), "ok");
    exchange(&guest);
    assert!(helper.is_silent());
    // The last one counts.
    let newer = Helper::connect(folder.path());
    assert_eq!((helper.hear(), newer.hear()), (String::new(), "ok".to_owned()));
    let helper = newer;

    // A device that is down comes up again; one that is gone is replaced.
    ip("link set veth-a down");
    ip("link set veth-a up");
    exchange(&guest);
    assert!(helper.is_silent());
    // Of one that goes when it has long been down, the kernel says nothing; frames that came before are read afterwards.
    let pid = Pid::from_raw(translator.pid()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    for _ in 0..10 {
        rustix::net::send(&guest, &WHO_HAS_THE_GATEWAY, SendFlags::empty()).unwrap();
    }
    ip("link set veth-a down");
    kill_process(pid, Signal::CONT).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    ip("link del veth-a");
    assert_eq!(helper.hear(), "packet");
    let (ours, guest) = wire();
    helper.say("packet", &[ours]);
    assert_eq!(helper.hear(), "ok");
    exchange(&guest);
    let said = translator.stop();
    assert!(said.contains("culvertd cannot help: there is no tap yet"), "{said}");
}

#[test]
fn what_is_no_packet_socket_is_refused() {
    // SAFETY: as above.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
    let folder = folder();
    let mut translator = Translator::start_in_foreground(command(), &folder, &["--packet-help"]);
    let file = || OwnedFd::from(std::fs::File::open("/etc/passwd").unwrap());
    let unix = || OwnedFd::from(std::os::unix::net::UnixStream::pair().unwrap().0);
    let helper = Helper::connect(folder.path());
    assert_eq!(helper.hear(), "packet");
    for (text, descriptors, answer) in [
        ("packet", vec![unix()], "error: the descriptor is not a packet socket"),
        ("packet", vec![file()], "error: Socket operation on non-socket (os error 88)"),
        ("packet", vec![], NO_MESSAGE),
        ("packet", vec![unix(), unix()], NO_MESSAGE),
        ("packet", vec![unix(), unix(), unix()], NO_MESSAGE),
        ("ports", vec![unix()], NO_MESSAGE),
        ("ports", vec![file(), file()], "error: unsupported"),
        ("\u{1b}[2J", vec![], NO_MESSAGE),
        (&"x".repeat(5000), vec![file()], NO_MESSAGE),
    ] {
        helper.say(text, &descriptors);
        assert_eq!(helper.hear(), answer, "{text:?} with {}", descriptors.len());
    }
    // Nothing that is sent stays open.
    assert!(translator.open_files().iter().all(|file| !file.contains("/etc/passwd")), "{:?}", translator.open_files());

    // Many words at once cut one off; many connections do no harm.
    let flood = Helper::connect(folder.path());
    let many: Vec<_> = (0..40).map(|_| Helper::connect(folder.path())).collect();
    drop((flood, many, helper));
    let helper = Helper::connect(folder.path());
    assert_eq!(helper.hear(), "packet");
    // A packet socket that is bound to no device.
    // SAFETY: a plain system call; the descriptor is ours alone.
    let unbound = unsafe { OwnedFd::from_raw_fd(libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)) };
    helper.say("packet", &[unbound]);
    assert_eq!(helper.hear(), "error: No such device (os error 19)");
    let (ours, guest) = wire();
    helper.say("packet", &[ours]);
    assert_eq!(helper.hear(), "ok");
    exchange(&guest);
    translator.stop();
}

/// What says that it steers, and is a file that somebody could cut short.
#[test]
fn what_does_not_steer_is_refused() {
    // SAFETY: as above.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
    ip("link set lo up");
    let folder = folder();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let mut without_rights = command();
    without_rights.wrap(&["setpriv", "--reuid=107", "--regid=107", "--clear-groups", "--bounding-set=-all"]);
    let mut translator = Translator::start_in_foreground(without_rights, &folder, &["-t", "~1-65000"]);
    let file = || OwnedFd::from(std::fs::File::open("/etc/passwd").unwrap());
    let memory = || {
        let memory = rustix::fs::memfd_create("table", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&memory, 131_072).unwrap();
        memory
    };
    let helper = Helper::connect(folder.path());
    assert_eq!(helper.hear(), "ports");
    let refused = "error: invalid input parameter";
    for (descriptors, answer) in
        [(vec![file(), file()], refused), (vec![memory(), memory()], refused), (vec![file()], NO_MESSAGE)]
    {
        helper.say("ports", &descriptors);
        assert_eq!(helper.hear(), answer);
    }
    helper.say("error: not here", &[]);
    // The ports are listened at all the same.
    std::net::TcpStream::connect("127.0.0.1:65001").unwrap();
    let said = translator.stop();
    assert!(said.contains("culvertd cannot help: not here"), "{said}");
}

const NO_MESSAGE: &str = "error: a message is packet or ports, with descriptors, or error: WHY";
