//! C8: a pod that asks for what is another pod's. Who it is is told by where its socket is, never by what it says.

use std::fs;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_api::v1;
use culvert_system::place::Namespace;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use crate::client::Client;
use crate::field::Field;

/// What is said, and whether a packet socket may come of it.
const WORDS: [(&str, bool); 8] = [
    ("packet", true),
    ("packet tap-of-two", false),
    ("packet /run/netns/two", false),
    ("packet\npacket", false),
    ("PACKET", false),
    ("ok", false),
    ("error: give me another", false),
    ("{\"pod\": \"two\", \"tap\": \"tap-of-two\"}", false),
];

pub(super) fn another_pods_tap(field: &mut Field) -> Result<()> {
    // The second pod's tap has another number, so that the two can be told apart.
    let (one, two) = (Namespace::new("one")?, Namespace::new("two")?);
    for number in 0..3 {
        two.ip(&format!("tuntap add dev spare{number} mode tap"))?;
    }
    one.ip("tuntap add dev tap-of-one mode tap")?;
    two.ip("tuntap add dev tap-of-two mode tap")?;
    let folders = ["one", "two"].map(|name| field.node().path(&format!("pods/{name}")));
    let [mine, others] = &folders;
    fs::create_dir_all(mine)?;
    fs::create_dir_all(others)?;

    // The other pod's own socket, and ways to it from the first pod's folder.
    let victim = listen(&others.join("vm.sock.help"))?;
    symlink(others.join("vm.sock.help"), mine.join("link.sock.help"))?;
    fs::hard_link(others.join("vm.sock.help"), mine.join("hard.sock.help"))?;
    let hostile: Vec<OwnedFd> =
        (0..WORDS.len()).map(|number| listen(&mine.join(format!("vm{number}.sock.help")))).collect::<Result<_>>()?;

    let mut client = Client::connect(&field.control_socket())?;
    for (name, folder, namespace, tap) in [("one", mine, &one, "tap-of-one"), ("two", others, &two, "tap-of-two")] {
        let spec = v1::PodSpec {
            folders: vec![folder.display().to_string()],
            netns: Some(format!("/run/netns/{}", namespace.name())),
            tap: Some(tap.to_owned()),
            description: None,
        };
        let request = v1::AddPodRequest { name: name.to_owned(), pod: Some(spec) };
        client.ask(async |client| client.add_pod(request).await)?;
    }
    let number_of =
        |namespace: &Namespace, tap: &'static str| namespace.run(move || Ok(nix::net::if_::if_nametoindex(tap)?));
    let (own, other) = (number_of(&one, "tap-of-one")?, number_of(&two, "tap-of-two")?);
    ensure!(own != other, "the taps cannot be told apart");

    for ((words, may), listener) in WORDS.iter().zip(&hostile) {
        let connection = accept(listener).with_context(|| format!("for {words:?}"))?;
        // With a descriptor of ours, as if it were a packet socket already.
        let gift = fs::File::open("/dev/null")?;
        send(&connection, words, &gift)?;
        let got = receive(&connection).with_context(|| format!("for {words:?}"))?;
        ensure!(got.is_some() == *may, "{words:?} got a descriptor: {}", got.is_some());
        if let Some(packets) = got {
            is_on(&packets, &one, own).with_context(|| format!("for {words:?}"))?;
        }
    }
    // A socket with two names is nobody's. With one again the second pod gets its own, and was asked by its own folder alone.
    fs::remove_file(mine.join("hard.sock.help"))?;
    let connection = accept(&victim).context("the second pod")?;
    send(&connection, "packet", &fs::File::open("/dev/null")?)?;
    let packets = receive(&connection)?.context("the second pod gets nothing")?;
    is_on(&packets, &two, other).context("of the second pod")?;
    // The first connection was idle for too long.
    let mut client = Client::connect(&field.control_socket())?;
    for name in ["one", "two"] {
        let request = v1::RemoveRequest { name: name.to_owned() };
        client.ask(async |client| client.remove_pod(request).await)?;
    }
    drop((connection, hostile, victim));
    Ok(())
}

/// Asserts that a packet socket is of a namespace, and bound to the interface of that number there.
fn is_on(packets: &OwnedFd, namespace: &Namespace, interface: u32) -> Result<()> {
    let inode = rustix::fs::fstat(packets)?.st_ino.to_string();
    let table = namespace.run(|| Ok(fs::read_to_string("/proc/thread-self/net/packet")?))?;
    // Its columns: sk, RefCnt, Type, Proto, Iface, R, Rmem, User, Inode.
    let mut rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let row = rows.find(|row| row.last() == Some(&inode.as_str()));
    let row = row.with_context(|| format!("the packet socket is of another namespace:\n{table}"))?;
    let number = row.get(4).and_then(|number| number.parse().ok());
    ensure!(number == Some(interface), "it is on interface {number:?}, not {interface}");
    Ok(())
}

fn listen(path: &Path) -> Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, 4)?;
    Ok(socket)
}

/// Tries again while there is nothing: culvertd looks once a second.
fn patiently<T>(mut action: impl FnMut() -> Result<T, Errno>) -> Result<T> {
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        match action() {
            Err(Errno::AGAIN) if Instant::now() < deadline => thread::sleep(Duration::from_millis(20)),
            result => return Ok(result?),
        }
    }
}

fn accept(listener: &OwnedFd) -> Result<OwnedFd> {
    patiently(|| rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK))
}

fn send(connection: &OwnedFd, words: &str, gift: &fs::File) -> Result<()> {
    let descriptors = [gift.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    ensure!(control.push(SendAncillaryMessage::ScmRights(&descriptors)), "no room for a descriptor");
    let words = [std::io::IoSlice::new(words.as_bytes())];
    rustix::net::sendmsg(connection, &words, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// What culvertd sends: a descriptor, or the end or nothing for some turns.
fn receive(connection: &OwnedFd) -> Result<Option<OwnedFd>> {
    let deadline = Instant::now() + Duration::from_secs(3);
    loop {
        let mut bytes = [0; 2048];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let into = &mut [IoSliceMut::new(&mut bytes)];
        match rustix::net::recvmsg(connection, into, &mut control, RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::AGAIN) if Instant::now() < deadline => thread::sleep(Duration::from_millis(20)),
            Err(Errno::AGAIN | Errno::CONNRESET) => return Ok(None),
            Err(errno) => return Err(errno.into()),
            Ok(_) => {
                let mut rights = control.drain().filter_map(|message| match message {
                    RecvAncillaryMessage::ScmRights(rights) => Some(rights.collect::<Vec<_>>()),
                    _ => None,
                });
                return Ok(rights.next().and_then(|mut rights| rights.pop()));
            }
        }
    }
}
