//! Sockets in folders that somebody else writes to, as a pod does to its volumes: whatever lies there and whatever is
//! swapped meanwhile, nothing outside of the root is touched.
//!
//! "hostile C5" and so on are rows of the list of bad input that this code was written against: C5 paths, C6 links and
//! other files in the way, before and meanwhile, C7 folders that vanish, stale and live sockets.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod support;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use culvert_vhost::connect::{ConnectError, FolderWatch, connect};
use culvert_vhost::folder::FolderError;
use culvert_vhost::listen::{BindError, Listener, SOCKET_MODE};
use culvert_vhost::{Backend, Owner, Place, PortKey, PortSocket, Role, Server, SocketState};
use rustix::fs::{CWD, FileType, Mode, RenameFlags, XattrFlags};
use support::{CONFIG, FakeWorkers, wait_until};

/// A pod's folder, and a folder outside with things that must stay as they are.
struct Pod {
    all: tempfile::TempDir,
    root: PathBuf,
    outside: PathBuf,
    /// What is outside, as it was at the start.
    before: Vec<Seen>,
}

/// Name, file type and mode, owner, links and content of what lies in a folder.
type Seen = (PathBuf, u32, (u32, u32), u64, Option<Vec<u8>>);

impl Pod {
    fn new() -> Self {
        let all = tempfile::tempdir().unwrap();
        let (root, outside) = (all.path().join("volume"), all.path().join("outside"));
        fs::create_dir(&root).unwrap();
        fs::create_dir(&outside).unwrap();
        // Nobody listens on this one: who gets here takes it for stale, removes it and puts another in its place.
        drop(UnixListener::bind(outside.join("vhost.sock")).unwrap());
        fs::set_permissions(outside.join("vhost.sock"), PermissionsExt::from_mode(0o600)).unwrap();
        fs::write(outside.join("file"), "precious").unwrap();
        let before = look(all.path(), &outside);
        Self { all, root, outside, before }
    }

    fn place(&self, below: &str) -> Place {
        let owner = Some(owner());
        Place { path: self.root.join(below), root: Some(self.root.clone()), owner, label: None }
    }

    #[track_caller]
    fn outside_is_untouched(&self) {
        assert_eq!(look(self.all.path(), &self.outside), self.before);
    }
}

/// The folder itself and all that is in it.
fn look(all: &Path, folder: &Path) -> Vec<Seen> {
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.push(folder.to_owned());
    paths.sort();
    let seen = paths.into_iter().map(|path| {
        let status = path.symlink_metadata().unwrap();
        let content = status.is_file().then(|| fs::read(&path).unwrap());
        let name = path.strip_prefix(all).unwrap().to_owned();
        (name, status.mode(), (status.uid(), status.gid()), status.nlink(), content)
    });
    seen.collect()
}

/// Another owner where we may set one, ourselves elsewhere.
fn owner() -> Owner {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    if uid.is_root() { Owner { uid: 107, gid: 36 } } else { Owner { uid: uid.as_raw(), gid: gid.as_raw() } }
}

fn owner_of(path: &Path) -> Owner {
    let status = path.symlink_metadata().unwrap();
    Owner { uid: status.uid(), gid: status.gid() }
}

fn fifo(path: &Path) {
    rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::RUSR, 0).unwrap();
}

/// What can lie in the way of a folder: nothing may be made or found beyond it.
fn in_the_way_of_a_folder(pod: &Pod, path: &Path, what: &str) {
    match what {
        "a link outside" => symlink(&pod.outside, path).unwrap(),
        "a relative link outside" => symlink("../outside", path).unwrap(),
        "a link inside" => symlink("elsewhere", path).unwrap(),
        "a link to the root of all" => symlink("/", path).unwrap(),
        "a magic link" => symlink("/proc/self/cwd", path).unwrap(),
        "a dangling link" => symlink("../outside/new", path).unwrap(),
        "a file" => fs::write(path, "").unwrap(),
        _ => fifo(path),
    }
}

const IN_THE_WAY: [&str; 8] = [
    "a link outside",
    "a relative link outside",
    "a link inside",
    "a link to the root of all",
    "a magic link",
    "a dangling link",
    "a file",
    "a fifo",
];

/// hostile C5: a path longer than a socket address (107 bytes).
#[test]
fn sockets_get_their_owner_and_mode_and_frontends_connect() {
    let pod = Pod::new();
    let place = pod.place(&format!("{}/{}/vhost.sock", "a".repeat(120), "b".repeat(120)));
    let listener = Listener::bind(&place).unwrap();
    let status = place.path.symlink_metadata().unwrap();
    assert!(status.file_type().is_socket());
    assert_eq!((status.mode() & 0o7777, owner_of(&place.path)), (SOCKET_MODE, owner()));
    let folder = place.path.parent().unwrap();
    for made in [folder, folder.parent().unwrap()] {
        assert_eq!((made.metadata().unwrap().mode() & 0o777, owner_of(made)), (0o755, owner()), "{}", made.display());
    }
    assert_eq!(owner_of(&pod.root), owner_of(&pod.outside), "the root is not ours to give");
    assert!(listener.is_at(&place));
    drop(connect(&place).unwrap());
    assert!(listener.accept().unwrap().is_some());
    drop(listener);
    assert_eq!(fs::read_dir(folder).unwrap().count(), 0);
    assert!(matches!(connect(&place), Err(ConnectError::Absent(_))));
}

#[test]
fn folders_that_are_there_keep_their_owner() {
    let pod = Pod::new();
    fs::create_dir(pod.root.join("there")).unwrap();
    let _listener = Listener::bind(&pod.place("there/vhost.sock")).unwrap();
    assert_eq!(owner_of(&pod.root.join("there")), owner_of(&pod.outside));
}

/// Whoever could write to a folder on a trusted path could lead us astray.
#[test]
fn folders_on_trusted_paths_stay_ours() {
    let pod = Pod::new();
    let place = Place { root: None, ..pod.place("new/deep/vhost.sock") };
    let _listener = Listener::bind(&place).unwrap();
    assert_eq!(owner_of(&place.path), owner());
    for made in ["new", "new/deep"] {
        assert_eq!(owner_of(&pod.root.join(made)), owner_of(&pod.outside));
    }
}

/// The label is set, or nothing is left where it cannot be.
#[test]
fn sockets_get_their_label() {
    let pod = Pod::new();
    let label = "system_u:object_r:container_file_t:s0";
    let set = |path: &Path| rustix::fs::setxattr(path, "security.selinux", label.as_bytes(), XattrFlags::empty());
    let possible = set(&pod.outside).is_ok();
    let place = Place { label: Some(label.to_owned()), ..pod.place("vhost.sock") };
    let bound = Listener::bind(&place);
    if possible {
        bound.as_ref().unwrap();
        let mut value = [0; 100];
        let length = rustix::fs::lgetxattr(&place.path, "security.selinux", &mut value).unwrap();
        assert_eq!(&value[..length], label.as_bytes());
    } else {
        let error = bound.unwrap_err().to_string();
        assert!(error.contains(&format!("vhost.sock cannot be labelled {label}: ")), "{error}");
        assert!(!place.path.exists());
    }
}

/// hostile C7: the pod's folder is gone.
#[test]
fn the_root_is_never_made() {
    let pod = Pod::new();
    fs::remove_dir(&pod.root).unwrap();
    for below in ["vhost.sock", "new/vhost.sock"] {
        let error = Listener::bind(&pod.place(below)).unwrap_err().to_string();
        let expected = format!(
            "cannot open folder {}: No such file or directory (os error 2); make it, or correct `socket_root`",
            pod.root.display()
        );
        assert_eq!(error, expected);
        assert!(matches!(connect(&pod.place(below)), Err(ConnectError::Absent(_))));
        assert!(!pod.root.exists());
    }
}

/// hostile C6
#[test]
fn the_root_itself_is_no_link_and_no_file() {
    let pod = Pod::new();
    fs::remove_dir(&pod.root).unwrap();
    for what in IN_THE_WAY {
        in_the_way_of_a_folder(&pod, &pod.root, what);
        for below in ["vhost.sock", "new/vhost.sock"] {
            let bound = Listener::bind(&pod.place(below));
            assert!(matches!(bound, Err(BindError::Folder(FolderError::Root { .. }))), "{what}: {bound:?}");
            let connected = connect(&pod.place(below));
            assert!(matches!(connected, Err(ConnectError::Folder(FolderError::Root { .. }))), "{what}: {connected:?}");
        }
        pod.outside_is_untouched();
        fs::remove_file(&pod.root).unwrap();
    }
}

/// hostile C6
#[test]
fn no_link_is_followed_on_the_way() {
    let pod = Pod::new();
    fs::create_dir(pod.root.join("elsewhere")).unwrap();
    let way = pod.root.join("way");
    for what in IN_THE_WAY {
        in_the_way_of_a_folder(&pod, &way, what);
        for below in ["way/vhost.sock", "way/new/vhost.sock"] {
            let error = Listener::bind(&pod.place(below)).unwrap_err();
            let BindError::Folder(FolderError::NotAFolder { folder, .. }) = &error else { panic!("{what}: {error}") };
            assert_eq!(*folder, way, "{what}");
            let connected = connect(&pod.place(below));
            let refused = matches!(connected, Err(ConnectError::Folder(FolderError::NotAFolder { .. })));
            assert!(refused, "{what}: {connected:?}");
        }
        pod.outside_is_untouched();
        fs::remove_file(&way).unwrap();
    }
    assert_eq!(fs::read_dir(pod.root.join("elsewhere")).unwrap().count(), 0);
}

/// hostile C5
#[test]
fn paths_that_lead_out_are_refused() {
    let pod = Pod::new();
    for path in ["../outside/vhost.sock", "a/../../outside/vhost.sock", "..", "../volume2/vhost.sock"] {
        let place = pod.place(path);
        Listener::bind(&place).unwrap_err();
        connect(&place).unwrap_err();
    }
    let place = Place { path: pod.outside.join("vhost.sock"), ..pod.place("") };
    let error = Listener::bind(&place).unwrap_err();
    assert!(matches!(error, BindError::Folder(FolderError::Outside { .. })), "{error}");
    pod.outside_is_untouched();
}

/// hostile C6: what lies at the place stays there, and what it leads to is not touched.
#[test]
fn only_stale_sockets_are_replaced() {
    let pod = Pod::new();
    let place = pod.place("vhost.sock");
    let makes: [(&str, &dyn Fn()); 7] = [
        ("a file", &|| fs::write(&place.path, "x").unwrap()),
        ("a fifo", &|| fifo(&place.path)),
        ("a folder", &|| fs::create_dir(&place.path).unwrap()),
        ("a link to a stale socket", &|| symlink(pod.outside.join("vhost.sock"), &place.path).unwrap()),
        ("a dangling link", &|| symlink(pod.outside.join("new"), &place.path).unwrap()),
        ("a hard link of a file", &|| fs::hard_link(pod.outside.join("file"), &place.path).unwrap()),
        ("a hard link of a stale socket", &|| fs::hard_link(pod.outside.join("vhost.sock"), &place.path).unwrap()),
    ];
    for (what, make) in makes {
        make();
        let at = place.path.symlink_metadata().unwrap();
        let error = Listener::bind(&place).unwrap_err();
        let expected = if what == "a hard link of a stale socket" {
            matches!(error, BindError::HardLink(_))
        } else {
            matches!(error, BindError::NotASocket(_))
        };
        assert!(expected, "{what}: {error}");
        let connected = connect(&place).unwrap_err();
        assert!(matches!(connected, ConnectError::NotASocket(_) | ConnectError::HardLink(_)), "{what}: {connected}");
        let now = place.path.symlink_metadata().unwrap();
        assert_eq!((now.ino(), now.mode(), now.uid()), (at.ino(), at.mode(), at.uid()), "{what}");
        if at.is_dir() {
            fs::remove_dir(&place.path).unwrap()
        } else {
            fs::remove_file(&place.path).unwrap()
        }
        pod.outside_is_untouched();
    }
}

/// hostile C7
#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let pod = Pod::new();
    let place = pod.place("vhost.sock");
    drop(UnixListener::bind(&place.path).unwrap());
    let listener = Listener::bind(&place).unwrap();
    let error = Listener::bind(&place).unwrap_err();
    assert!(matches!(error, BindError::InUse { .. }), "{error}");
    assert!(listener.is_at(&place));
    let at = place.path.symlink_metadata().unwrap().ino();
    drop(listener);
    assert!(!place.path.exists(), "{at}");
}

/// hostile C7: at the end there may be nothing, or something of others.
#[test]
fn only_our_own_name_is_removed() {
    let pod = Pod::new();
    let place = pod.place("a/vhost.sock");
    // The folder is gone.
    let listener = Listener::bind(&place).unwrap();
    fs::remove_dir_all(place.path.parent().unwrap()).unwrap();
    assert!(!listener.is_at(&place));
    drop(listener);
    // Another socket is there.
    let listener = Listener::bind(&place).unwrap();
    fs::remove_file(&place.path).unwrap();
    let _other = UnixListener::bind(&place.path).unwrap();
    assert!(!listener.is_at(&place));
    drop(listener);
    UnixStream::connect(&place.path).unwrap();
    // The folder is another one, that leads outside.
    let place = pod.place("b/vhost.sock");
    let listener = Listener::bind(&place).unwrap();
    fs::rename(pod.root.join("b"), pod.root.join("c")).unwrap();
    symlink(&pod.outside, pod.root.join("b")).unwrap();
    assert!(!listener.is_at(&place));
    drop(listener);
    assert_eq!(fs::read_dir(pod.root.join("c")).unwrap().count(), 0, "our own name went with the folder");
    pod.outside_is_untouched();
}

/// hostile C6: links and other things come and go while sockets are made and removed.
#[test]
fn races_for_names_lead_nowhere() {
    let pod = Pod::new();
    let live = UnixListener::bind(pod.outside.join("live.sock")).unwrap();
    live.set_nonblocking(true).unwrap();
    let before = look(pod.all.path(), &pod.outside);
    // The folder, the folder above it, and the socket's own name.
    for (name, link_to) in [
        ("a/b", pod.outside.clone()),
        ("a", pod.all.path().to_owned()),
        ("a/b/vhost.sock", pod.outside.join("vhost.sock")),
    ] {
        let place = Place { path: pod.root.join("a/b/vhost.sock"), ..pod.place("") };
        let live_place = Place { path: pod.root.join("a/b/live.sock"), ..pod.place("") };
        fs::create_dir_all(pod.root.join("a/b")).unwrap();
        let (swapped, link) = (pod.root.join(name), pod.root.join("link"));
        // A link `b` outside stands for the case that `a` is swapped.
        let _ = symlink("outside", pod.all.path().join("b"));
        symlink(&link_to, &link).unwrap();
        let done = AtomicBool::new(false);
        let (bound, refused) = thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let _ = rustix::fs::renameat_with(CWD, &swapped, CWD, &link, RenameFlags::EXCHANGE);
                }
            });
            let (mut bound, mut refused) = (0, 0);
            for _ in 0..ROUNDS {
                match Listener::bind(&place) {
                    Ok(listener) => {
                        bound += 1;
                        drop(listener);
                    }
                    Err(_) => refused += 1,
                }
                let _ = connect(&live_place);
                let _ = connect(&place);
            }
            done.store(true, Ordering::Relaxed);
            (bound, refused)
        });
        println!("{name}: {bound} sockets were made, {refused} refused");
        assert!(live.accept().is_err(), "{name}: a socket outside was connected to");
        assert_eq!(look(pod.all.path(), &pod.outside), before, "{name}");
        for left in fs::read_dir(&pod.root).unwrap() {
            let left = left.unwrap().path();
            if left.is_symlink() || left.is_file() {
                fs::remove_file(left).unwrap()
            } else {
                let _ = fs::remove_dir_all(&left);
            }
        }
    }
}

const ROUNDS: usize = 3_000;

/// A watch that followed the link would tell of what happens outside.
#[test]
fn watches_do_not_follow_links() {
    let pod = Pod::new();
    let mut watch = FolderWatch::new().unwrap();
    symlink(&pod.outside, pod.root.join("way")).unwrap();
    watch.watch(&pod.place("way/vhost.sock"), 1);
    fs::write(pod.outside.join("new"), "").unwrap();
    assert!(watch.take().is_empty());
    watch.watch(&pod.place("vhost.sock"), 2);
    fs::write(pod.root.join("new"), "").unwrap();
    assert_eq!(watch.take(), [2].into());
}

struct Served {
    pod: Pod,
    server: Server,
    place: Place,
}

const PORT: PortKey = PortKey(7);

impl Served {
    fn new(role: Role, below: &str) -> Self {
        let pod = Pod::new();
        let server = Server::start(Arc::new(FakeWorkers::default()) as Arc<dyn Backend>, None).unwrap();
        let place = pod.place(below);
        let socket = PortSocket {
            port: PORT,
            name: "vm-a".to_owned(),
            place: place.clone(),
            role,
            device: CONFIG,
            records: None,
        };
        server.add(socket).unwrap();
        Self { pod, server, place }
    }

    fn wait_for_failure(&self, reason: &str) {
        wait_until(reason, || match self.server.state(PORT) {
            Some(SocketState::Failed { reason: found }) => found.contains(reason),
            _ => false,
        });
    }

    fn wait_for_waiting(&self) {
        wait_until("Waiting", || self.server.state(PORT) == Some(SocketState::Waiting));
    }

    fn connect_and_leave(&self) {
        wait_until("a connection", || UnixStream::connect(&self.place.path).is_ok());
    }
}

/// hostile C7: pods' folders go and come.
#[test]
fn a_port_comes_back_with_its_folder() {
    let served = Served::new(Role::Listen, "a/vhost.sock");
    served.connect_and_leave();
    // The whole volume.
    fs::remove_dir_all(&served.pod.root).unwrap();
    served.wait_for_failure("make it, or correct `socket_root`");
    fs::create_dir(&served.pod.root).unwrap();
    served.wait_for_waiting();
    served.connect_and_leave();
    assert_eq!(owner_of(&served.place.path), owner());
    // Another folder in its place.
    fs::rename(&served.pod.root, served.pod.all.path().join("old")).unwrap();
    fs::create_dir(&served.pod.root).unwrap();
    served.connect_and_leave();
    assert_eq!(fs::read_dir(served.pod.all.path().join("old/a")).unwrap().count(), 0);
    // The socket alone.
    fs::remove_file(&served.place.path).unwrap();
    served.connect_and_leave();
    // Something else in its place, which is not ours to remove.
    fs::remove_file(&served.place.path).unwrap();
    fs::write(&served.place.path, "x").unwrap();
    served.wait_for_failure("exists and is not a socket");
    fs::remove_file(&served.place.path).unwrap();
    served.wait_for_waiting();
    // A link outside in the folder's place.
    fs::remove_dir_all(served.pod.root.join("a")).unwrap();
    symlink(&served.pod.outside, served.pod.root.join("a")).unwrap();
    served.wait_for_failure("no link is followed below");
    served.pod.outside_is_untouched();
    fs::remove_file(served.pod.root.join("a")).unwrap();
    served.wait_for_waiting();
    served.connect_and_leave();
    served.server.remove(PORT).unwrap();
    assert!(!served.place.path.exists());
}

/// hostile C7, in the role connect.
#[test]
fn a_port_finds_the_socket_of_a_new_folder() {
    let served = Served::new(Role::Connect, "a/vhost.sock");
    let accept = |path: &Path| UnixListener::bind(path).unwrap().accept().unwrap();
    fs::create_dir(served.pod.root.join("a")).unwrap();
    accept(&served.place.path);
    fs::remove_dir_all(&served.pod.root).unwrap();
    served.wait_for_waiting();
    symlink(&served.pod.outside, &served.pod.root).unwrap();
    served.wait_for_failure("correct `socket_root`");
    fs::remove_file(&served.pod.root).unwrap();
    fs::create_dir_all(served.pod.root.join("a")).unwrap();
    accept(&served.place.path);
    served.pod.outside_is_untouched();
}
