//! culvert-translator as a process: which rights it keeps in which surroundings, how it starts, fails and ends, and
//! that it does its work under its filter of system calls. ci/system-calls compares that filter with what these tests
//! call.
//!
//! Needs root, and network and process namespaces of its own: ci/isolated.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]
#![allow(clippy::cast_possible_truncation, unsafe_code, dead_code, reason = "tests; not all of the frontend is used")]

/// What the frontend waits with.
mod echo {
    pub use crate::translator::wait_until;
}
#[path = "../transport/dialogue.rs"]
mod dialogue;
#[path = "../transport/frontend.rs"]
mod frontend;
mod help;
#[path = "../transport/packets.rs"]
mod packets;
mod translator;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{FromRawFd, IntoRawFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use culvert_driver::{Buffer, Shape};
use frontend::Guest;
use vhost::VhostBackend;
use vmm_sys_util::eventfd::EventFd;

use translator::{Started, Translator, command, folder, wait_until};

/// As root starts it: nobody's process, in namespaces and a root of its own.
#[test]
fn root_becomes_nobody_in_an_empty_root() {
    let folder = folder();
    let translator = Translator::start(&folder, &[]);
    translator.assert_powerless("65534");
    for namespace in ["ipc", "mnt", "pid", "user", "uts"] {
        assert_ne!(translator.namespace(namespace), own_namespace(namespace), "{namespace}");
    }
    assert_eq!(translator.namespace("net"), own_namespace("net"));
    translator.assert_empty_root();
    assert_eq!(translator.status("NSpid").split_whitespace().last(), Some("1"));
}

/// In the foreground the process stays in its process namespace: its number does not change.
#[test]
fn in_the_foreground_all_but_the_process_namespace_is_new() {
    let folder = folder();
    let translator = Translator::start_in_foreground(command(), &folder, &[]);
    translator.assert_powerless("65534");
    for namespace in ["ipc", "mnt", "user", "uts"] {
        assert_ne!(translator.namespace(namespace), own_namespace(namespace), "{namespace}");
    }
    assert_eq!(translator.namespace("pid"), own_namespace("pid"));
    translator.assert_empty_root();
}

/// As KubeVirt starts it: an ordinary user without any capability.
#[test]
fn an_ordinary_user_without_capabilities_is_isolated_as_well() {
    let folder = folder();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let mut without_rights = command();
    without_rights.wrap(&["setpriv", "--reuid=107", "--regid=107", "--clear-groups", "--bounding-set=-all"]);
    let translator = Translator::start_in_foreground(without_rights, &folder, &[]);
    translator.assert_powerless("107");
    translator.assert_empty_root();
    assert_eq!(fs::metadata(folder.path().join("guest.sock")).unwrap().uid(), 107);
}

/// Who `--runas` names.
#[test]
fn the_user_can_be_named() {
    let folder = folder();
    let translator = Translator::start(&folder, &["--runas", "107:36"]);
    translator.assert_powerless("107");
    assert_eq!(translator.status("Gid"), "36\t36\t36\t36");
    assert_eq!(translator.status("Groups"), "");
}

/// As in most pods: no user namespaces. Landlock stands in, and the log says so.
#[test]
fn where_namespaces_are_refused_landlock_stands_in() {
    let folder = folder();
    let mut refused = command();
    // The limit holds for a new user namespace and those below it.
    refused.wrap(&["unshare", "--user", "--map-root-user", "sh", "-c"]);
    refused.wrap(&["echo 0 >/proc/sys/user/max_user_namespaces; exec \"$@\"", "sh"]);
    let mut translator = Translator::start_in_foreground(refused, &folder, &[]);
    translator.assert_powerless("0");
    assert_eq!(translator.namespace("mnt"), own_namespace("mnt"));
    exchange(&folder);
    let said = translator.stop();
    assert!(said.contains("namespaces are refused here"), "{said}");
    assert!(said.contains("Landlock denies the file system instead"), "{said}");
}

/// What whoever starts it had open stays closed to it.
#[test]
fn leaked_descriptors_are_closed() {
    let folder = folder();
    let leaked = File::open("/etc/passwd").unwrap();
    rustix::io::fcntl_setfd(&leaked, rustix::io::FdFlags::empty()).unwrap();
    let translator = Translator::start(&folder, &[]);
    drop(leaked);
    let nowhere = || translator.open_files().iter().filter(|path| path.as_str() == "/dev/null").count();
    wait_until("three times /dev/null", || nowhere() == 3);
    let open = translator.open_files();
    assert!(open.iter().all(|path| path == "/dev/null" || path.contains(":[")), "{open:?}");
}

#[test]
fn it_returns_when_guests_can_connect_and_ends_when_told() {
    let folder = folder();
    let pid = folder.path().join("pid");
    let mut translator = Translator::start(&folder, &["--pid", pid.to_str().unwrap()]);
    UnixStream::connect(folder.path().join("guest.sock")).unwrap();
    assert_eq!(fs::read_to_string(&pid).unwrap(), format!("{}\n", translator.pid()));
    translator.stop();
    // The names stay: the next one takes them.
    let again = Translator::start(&folder, &["--pid", pid.to_str().unwrap()]);
    exchange(&folder);
    drop(again);
}

/// The control socket is not asked for by callers of passt: without it the guest has its network all the same.
#[test]
fn where_there_can_be_no_control_socket_the_guest_is_served() {
    let folder = folder();
    let path = folder.path().join("guest.sock.ctl");
    fs::write(&path, "precious").unwrap();
    let mut translator = Translator::start_in_foreground(command(), &folder, &[]);
    exchange(&folder);
    let said = translator.stop();
    assert!(said.contains("there is no control socket") && said.contains("is not a socket"), "{said}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    let Started { status, said } = command().run(&["--socket", "s", "--control-path", path.to_str().unwrap()]);
    assert_eq!(status.code(), Some(1), "{said}");
}

/// Exit status 1, the reason on standard error, and nothing left behind.
#[test]
fn what_cannot_be_done_is_told_by_whoever_was_started() {
    let folder = folder();
    let taken = TcpListener::bind("127.0.0.1:7100").unwrap();
    let _other = Translator::start(&folder, &[]);
    let here = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (socket, used, missing) = (here("new.sock"), here("guest.sock"), here("no/such"));
    for (options, reason) in [
        (
            &["--socket", &socket, "-t", "127.0.0.1/7100"][..],
            "TCP 127.0.0.1:7100 cannot be forwarded: Address already in use",
        ),
        (
            &["--socket", &socket, "-t", "1.2.3.4/7101"],
            "TCP 1.2.3.4:7101 cannot be forwarded: Cannot assign requested address",
        ),
        (&["--socket", &used], "is in use by"),
        (&["--socket", &socket, "--pid", &missing], "--pid"),
        (&["--socket", &socket, "--pcap", &missing], "--pcap"),
        (&["--socket", &socket, "--log-file", &missing], "--log-file"),
        (&["--socket", &socket, "--runas", "no-such-user"], "--runas no-such-user: there is no such user"),
        (&["--socket", &socket, "-t", "x"], "port specification"),
        (&["--fd", "77"], "--fd 77: there is none"),
    ] {
        let Started { status, said } = command().run(options);
        assert_eq!(status.code(), Some(1), "{options:?}: {said}");
        assert!(said.contains(reason), "{options:?}: {said}");
        assert!(!Path::new(&socket).exists(), "{options:?}");
    }
    drop(taken);
}

/// A guest over vhost-user, one over the stream; the control socket; what is recorded and logged.
#[test]
fn it_does_its_work_under_its_filter() {
    let folder = folder();
    let here = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (pcap, log) = (here("pcap"), here("log"));
    let options = ["--trace", "--log-file", &log, "--log-size", "8192", "--pcap", &pcap];
    let translator = Translator::start(&folder, &options);
    for _ in 0..40 {
        exchange(&folder);
    }
    controlled(&folder.path().join("guest.sock.ctl"));
    drop(translator);
    let size = fs::metadata(&log).unwrap().len();
    assert!((2048..=8192).contains(&size), "{size} bytes");
    assert!(fs::read_to_string(&log).unwrap().starts_with("culvert-translator "));
    let mut recorded = pcap_file::pcap::PcapReader::new(File::open(&pcap).unwrap()).unwrap();
    let (mut asked, mut told) = (0, 0);
    while let Some(frame) = recorded.next_packet() {
        let data = frame.unwrap().data;
        asked += usize::from(data[..] == WHO_HAS_THE_GATEWAY);
        told += usize::from(is_reply(&data));
    }
    assert_eq!((asked, told), (40, 40));

    fs::remove_file(folder.path().join("guest.sock")).unwrap();
    let _translator = Translator::start(&folder, &["--vhost-user"]);
    for shape in [Shape::default(), Shape { event_idx: true, mergeable: true, receive_bytes: 1526, ..Shape::default() }]
    {
        let mut guest = Guest::attach(UnixStream::connect(here("guest.sock")).unwrap(), shape, 0);
        for _ in 0..300 {
            guest.send(&[0; 12], &WHO_HAS_THE_GATEWAY, &[]);
            let reply = std::iter::repeat_with(|| guest.receive().1).find(|frame| is_reply(frame)).unwrap();
            assert_is_the_gateway(&reply);
        }
    }
}

/// A frontend may hand over what it wants, and take its memory away: that is its own affair, and no reason for a call
/// that the filter does not know.
#[test]
fn hostile_frontends_do_not_end_it() {
    let folder = folder();
    let _translator = Translator::start(&folder, &["--vhost-user"]);
    let connect = || UnixStream::connect(folder.path().join("guest.sock")).unwrap();
    let shape = Shape::default();

    let mut guest = Guest::attach(connect(), shape, 0);
    let (mut interrupts, pipe) = std::io::pipe().unwrap();
    // SAFETY: the descriptor is the pipe's, which is given up here. It is no eventfd: that is the point.
    let pipe = unsafe { EventFd::from_raw_fd(pipe.into_raw_fd()) };
    guest.frontend.set_vring_call(0, &pipe).unwrap();
    guest.send(&[0; 12], &WHO_HAS_THE_GATEWAY, &[]);
    interrupts.read_exact(&mut [0; 8]).unwrap();
    let file = File::open("/etc/passwd").unwrap();
    // SAFETY: as above.
    let file = unsafe { EventFd::from_raw_fd(file.into_raw_fd()) };
    // It is refused or the connection ends; what matters comes below.
    let _ = guest.frontend.set_vring_kick(1, &file);
    drop(guest);

    let mut guest = Guest::attach(connect(), shape, 0);
    rustix::fs::ftruncate(guest.interface.ram().file(), 0).unwrap();
    guest.transmit.kick.write(1).unwrap();
    guest.wait_closed();

    // Only the kernel meets what is missing of this one: the end of a datagram, behind all that we read ourselves.
    let mut guest = Guest::attach(connect(), shape, 0);
    let ram = guest.interface.ram();
    let end = ram.size() - 4096;
    let at = ram.guest_address() + end - 1000;
    let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55]);
    let builder = builder.ipv4([169, 254, 2, 1], [169, 254, 2, 2], 64).udp(4000, 7300);
    let mut bytes = vec![0; 12];
    builder.write(&mut bytes, &[7; 1400]).unwrap();
    ram.write(at, &bytes);
    guest.interface.transmit.offer(&[Buffer { address: at, length: bytes.len() as u32, writable: false }]).unwrap();
    rustix::fs::ftruncate(guest.interface.ram().file(), end).unwrap();
    guest.interface.transmit.publish();
    guest.transmit.kick.write(1).unwrap();
    guest.wait_closed();

    let mut guest = Guest::attach(connect(), shape, 0);
    guest.send(&[0; 12], &WHO_HAS_THE_GATEWAY, &[]);
    let reply = std::iter::repeat_with(|| guest.receive().1).find(|frame| is_reply(frame)).unwrap();
    assert_is_the_gateway(&reply);
}

/// Asks and changes what can be asked and changed.
fn controlled(socket: &Path) {
    use culvert_api::translator::ask;
    let ask = |request: &str| ask(socket, request, Duration::from_secs(30)).map_err(|error| error.to_string());
    assert_eq!(ask("forward add tcp 127.0.0.1/7200-7201"), Ok(vec![]));
    assert_eq!(ask("forward add udp 127.0.0.1%lo/7200"), Ok(vec![]));
    TcpStream::connect("127.0.0.1:7201").unwrap();
    UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"hello", "127.0.0.1:7200").unwrap();
    let list = ask("forward list").unwrap();
    assert_eq!(list, ["TCP 127.0.0.1:7200-7201 => 7200-7201", "UDP 127.0.0.1%lo:7200 => 7200"]);
    assert_eq!(ask("forward remove tcp 127.0.0.1/7201"), Ok(vec![]));
    assert!(TcpStream::connect("127.0.0.1:7201").is_err());
    let refused = ask("forward add tcp 1.2.3.4/7202").unwrap_err();
    assert!(refused.starts_with("TCP 1.2.3.4:7202 cannot be forwarded: Cannot assign requested address"), "{refused}");
    assert!(ask("stats").unwrap().contains(&"rx_frames 40".to_owned()));
    ask("flows").unwrap();
}

/// A guest connects over the stream, asks who has the gateway's address, and goes.
fn exchange(folder: &tempfile::TempDir) {
    let mut stream = UnixStream::connect(folder.path().join("guest.sock")).unwrap();
    let mut frame = (WHO_HAS_THE_GATEWAY.len() as u32).to_be_bytes().to_vec();
    frame.extend(WHO_HAS_THE_GATEWAY);
    stream.write_all(&frame).unwrap();
    loop {
        let mut length = [0; 4];
        stream.read_exact(&mut length).unwrap();
        let mut reply = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut reply).unwrap();
        if is_reply(&reply) {
            assert_is_the_gateway(&reply);
            // Closing would not do: another test's child may have a copy until it executes its program.
            return stream.shutdown(Shutdown::Both).unwrap();
        }
    }
}

/// Whether it is an ARP reply: we are told of other things as well.
fn is_reply(frame: &[u8]) -> bool {
    frame[12..14] == [8, 6] && frame[20..22] == [0, 2]
}

fn assert_is_the_gateway(reply: &[u8]) {
    assert_eq!(reply[22..28], [0x9a, 0x55, 0x9a, 0x55, 0x9a, 0x55]);
    assert_eq!(reply[28..32], [169, 254, 2, 2]);
}

fn own_namespace(name: &str) -> String {
    fs::read_link(format!("/proc/self/ns/{name}")).unwrap().to_str().unwrap().to_owned()
}

/// ARP, from 169.254.2.1, the guest's address where the pod has none, for 169.254.2.2.
const WHO_HAS_THE_GATEWAY: [u8; 42] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 169, 254, 2,
    1, 0, 0, 0, 0, 0, 0, 169, 254, 2, 2,
];
