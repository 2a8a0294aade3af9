//! Help at `S.help`, for translators that behave and for others. Needs root.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use culvertd::config::{Pod, read_objects};
use culvertd::pods::help::{Helper, PodHelp};
use culvertd::pods::{packets, steering};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

/// A translator's `S.help`, and its connection to culvertd.
struct Translator {
    listener: OwnedFd,
    client: Option<OwnedFd>,
}

impl Translator {
    fn listen(path: &Path) -> Self {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listener = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        rustix::net::bind(&listener, &SocketAddrUnix::new(path).unwrap()).unwrap();
        rustix::net::listen(&listener, 8).unwrap();
        Self { listener, client: None }
    }

    /// Takes the connection that culvertd has made. Whether there was one.
    fn accept(&mut self) -> bool {
        self.client = rustix::net::accept(&self.listener).ok();
        self.client.is_some()
    }

    fn say(&self, text: &str) {
        rustix::net::send(self.client.as_ref().unwrap(), text.as_bytes(), SendFlags::NOSIGNAL).unwrap();
    }

    fn say_with(&self, text: &str, descriptors: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
        let text = [IoSlice::new(text.as_bytes())];
        rustix::net::sendmsg(self.client.as_ref().unwrap(), &text, &mut control, SendFlags::NOSIGNAL).unwrap();
    }

    /// What has come, and how many descriptors with it; `None` when nothing has.
    fn hear(&self) -> Option<(String, usize)> {
        let mut bytes = [0; 1000];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let client = self.client.as_ref().unwrap();
        let length = match rustix::net::recvmsg(client, &mut parts, &mut control, RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN) => return None,
            // It is closed, and what was said has not been read.
            Err(Errno::CONNRESET) => return Some((String::new(), 0)),
            received => received.unwrap().bytes,
        };
        let rights = control.drain().map(|message| match message {
            RecvAncillaryMessage::ScmRights(rights) => rights.collect(),
            _ => Vec::new(),
        });
        let rights: Vec<_> = rights.flatten().collect();
        let text = String::from_utf8(bytes[..length].to_vec()).unwrap();
        if text == "packet" {
            rights.iter().for_each(assert_is_packet_socket);
        }
        Some((text, rights.len()))
    }
}

fn assert_is_packet_socket(descriptor: &OwnedFd) {
    assert_eq!(rustix::net::sockopt::socket_domain(descriptor).unwrap(), AddressFamily::PACKET);
    assert_eq!(rustix::net::sockopt::socket_type(descriptor).unwrap(), SocketType::RAW);
}

/// A pod with one folder, in this namespace.
fn pod(name: &str, folder: &Path, tap: &str) -> Pod {
    let folder = folder.display();
    let text = format!(
        "[[pod]]\nname = \"{name}\"\nfolders = [\"{folder}\"]\nnetns = \"/proc/self/ns/net\"\ntap = \"{tap}\"\n"
    );
    read_objects(&text).unwrap().pods.remove(0).wanted
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap();
    (folder, path)
}

fn turn(helper: &mut Helper, pod: &Pod) -> PodHelp {
    helper.turn(std::slice::from_ref(pod)).remove(&pod.name).unwrap()
}

#[test]
fn who_asks_gets_the_taps_packet_socket_once() {
    let (_folder, path) = folder();
    let (mut helper, pod) = (Helper::new(packets::open), pod("launcher", &path, "lo"));
    assert_eq!(turn(&mut helper, &pod), PodHelp::default());
    let mut translator = Translator::listen(&path.join("vm.sock.help"));
    assert_eq!(turn(&mut helper, &pod), PodHelp::default());
    assert!(translator.accept());
    turn(&mut helper, &pod);
    assert_eq!(translator.hear(), None);
    translator.say("packet");
    assert_eq!(turn(&mut helper, &pod), PodHelp::default());
    assert_eq!(translator.hear(), Some(("packet".to_owned(), 1)));
    translator.say("ok");
    let help = turn(&mut helper, &pod);
    assert_eq!((help.helped, help.problems.len()), (vec![path.join("vm.sock").display().to_string()], 0));
    (0..30).for_each(|_| drop(turn(&mut helper, &pod)));
    assert_eq!(translator.hear(), None);
    assert!(!translator.accept(), "one connection is enough");
    // Another one later, and a new culvertd.
    assert!({
        let mut helper = Helper::new(packets::open);
        turn(&mut helper, &pod);
        translator.accept()
    });
    let mut helper = Helper::new(packets::open);
    turn(&mut helper, &pod);
    assert!(translator.accept());
    translator.say("ok");
    assert_eq!(turn(&mut helper, &pod).helped.len(), 1);
    translator.say("packet");
    assert_eq!(turn(&mut helper, &pod).helped.len(), 0);
    assert_eq!(translator.hear(), Some(("packet".to_owned(), 1)));
    // The pod goes: so does the help.
    assert!(helper.turn(&[]).is_empty());
    assert_eq!(translator.hear(), Some((String::new(), 0)));
}

/// What does that works without whoever gave it; to other sockets nothing is steered.
#[test]
fn who_asks_gets_the_pods_ports() {
    let (_folder, path) = folder();
    let mut pod = pod("launcher", &path, "lo");
    pod.tap = None;
    let mut helper = Helper::new(packets::open).with_steering(steering::open);
    let mut translator = Translator::listen(&path.join("vm.sock.help"));
    turn(&mut helper, &pod);
    assert!(translator.accept());
    let (tcp, udp) = (TcpListener::bind("[::]:0").unwrap(), UdpSocket::bind("[::]:0").unwrap());
    let file = std::fs::File::open("/dev/null").unwrap();
    let sentence = "ports are steered to sockets of the pod, one that listens and one of UDP";
    translator.say_with("ports", &[udp.as_fd(), tcp.as_fd()]);
    assert_eq!(turn(&mut helper, &pod).problems, [sentence]);
    assert_eq!(translator.hear(), Some((format!("error: {sentence}"), 0)));
    // Trying is not for free: whoever asks again waits.
    translator.say_with("ports", &[file.as_fd(), file.as_fd()]);
    translator.say_with("ports", &[tcp.as_fd(), udp.as_fd()]);
    (0..9).for_each(|_| drop(turn(&mut helper, &pod)));
    assert_eq!(translator.hear(), None);
    assert_eq!(turn(&mut helper, &pod).helped.len(), 0);
    assert_eq!(translator.hear(), Some(("ports".to_owned(), 2)));
    translator.say("steered");
    let help = turn(&mut helper, &pod);
    assert_eq!((help.helped, help.problems.len()), (vec![path.join("vm.sock").display().to_string()], 0));
    // No tap is registered.
    translator.say("packet");
    assert!(turn(&mut helper, &pod).problems[0].contains("no tap is registered"));
}

#[test]
fn what_cannot_be_given_is_told_once() {
    let (_folder, path) = folder();
    let (mut helper, missing) = (Helper::new(packets::open), pod("launcher", &path, "no-such-tap"));
    let mut translator = Translator::listen(&path.join("vm.sock.help"));
    turn(&mut helper, &missing);
    assert!(translator.accept());
    translator.say("packet");
    let sentence = "there is no interface no-such-tap in /proc/self/ns/net; it is looked for again";
    assert_eq!(turn(&mut helper, &missing).problems, [sentence]);
    assert_eq!(translator.hear(), Some((format!("error: {sentence}"), 0)));
    assert_eq!(turn(&mut helper, &missing).problems, [sentence]);
    assert_eq!(translator.hear(), None);
    // The pod is registered anew, with a tap that is there: another connection.
    let there = pod("launcher", &path, "lo");
    turn(&mut helper, &there);
    assert_eq!(translator.hear(), Some((String::new(), 0)));
    assert!(translator.accept());
    translator.say("packet");
    turn(&mut helper, &there);
    assert_eq!(translator.hear(), Some(("packet".to_owned(), 1)));
    translator.say("error: it is no packet socket");
    let problems = turn(&mut helper, &there).problems;
    assert_eq!(problems, ["a translator does not take the packet socket: error: it is no packet socket"]);
    let gone = Pod { netns: Some("/nowhere/netns".into()), ..there };
    turn(&mut helper, &gone);
    assert!(translator.accept());
    translator.say("packet");
    assert!(turn(&mut helper, &gone).problems[0].starts_with("there is no network namespace at /nowhere/netns"));
    // What is no namespace at all.
    let file = path.join("file");
    std::fs::write(&file, "").unwrap();
    let wrong = Pod { netns: Some(file), ..gone };
    turn(&mut helper, &wrong);
    assert!(translator.accept());
    translator.say("packet");
    let problem = turn(&mut helper, &wrong).problems.remove(0);
    assert!(problem.contains("cannot be entered"), "{problem}");
}

#[test]
fn whoever_answers_is_not_trusted() {
    let (_folder, path) = folder();
    let (mut helper, pod) = (Helper::new(packets::open), pod("launcher", &path, "lo"));
    let mut hostile = Translator::listen(&path.join("vm.sock.help"));
    for words in [
        vec!["hello"],
        vec!["packet\n"],
        vec!["ok", "ok"],
        vec!["\u{1b}[2J"],
        vec![&"x".repeat(2000)],
        vec!["packet"; 20],
        vec!["error: nothing was offered"],
    ] {
        turn(&mut helper, &pod);
        assert!(hostile.accept(), "{words:?}: it is connected to again");
        words.iter().for_each(|word| hostile.say(word));
        assert_eq!(turn(&mut helper, &pod).helped.len(), 0, "{words:?}");
        assert_eq!(hostile.hear(), Some((String::new(), 0)), "{words:?}: it is cut off");
    }
    // One that asks and never answers has one descriptor, and is cut off after a while.
    turn(&mut helper, &pod);
    assert!(hostile.accept());
    hostile.say("packet");
    (0..12).for_each(|_| drop(turn(&mut helper, &pod)));
    assert_eq!(hostile.hear(), Some(("packet".to_owned(), 1)));
    assert_eq!(hostile.hear(), Some((String::new(), 0)));

    // A listener that is full, links, sockets of another kind, too many of them.
    let (_other_folder, other) = folder_with_many(&path);
    let many = self::pod("other", &other, "lo");
    let help = helper.turn(&[pod.clone(), many.clone()]).remove(&many.name).unwrap();
    assert_eq!(help.helped.len(), 0);
    // A link in the folder's place.
    let link = path.join("link");
    std::os::unix::fs::symlink(&other, &link).unwrap();
    let through = self::pod("through", &link, "lo");
    let problems = helper.turn(std::slice::from_ref(&through)).remove(&through.name).unwrap().problems;
    assert!(problems[0].contains("name it by a path without links"), "{problems:?}");
}

fn folder_with_many(elsewhere: &Path) -> (tempfile::TempDir, PathBuf) {
    let (folder, path) = folder();
    std::os::unix::fs::symlink(elsewhere.join("vm.sock.help"), path.join("a.help")).unwrap();
    std::fs::write(path.join("b.help"), "").unwrap();
    for number in 0..30 {
        drop(std::os::unix::net::UnixListener::bind(path.join(format!("{number}.help"))).unwrap());
    }
    (folder, path)
}
