//! Ports whose sockets are in the folders of pods: real guests in both roles, and folders that vanish, are mounted anew or
//! lead elsewhere.
#![allow(clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_driver::Shape;
use culvert_system::daemon::{Daemon, Node};
use culvert_system::frontend::FrontendGuest;
use culvert_system::qemu::{GuestOptions, Role};

/// A pod's volume, by the path that it has on a node, and by a short one: what is in the pod knows only such.
struct Volume {
    folder: PathBuf,
    short: PathBuf,
}

impl Volume {
    fn new(node: &Node, name: &str) -> Result<Self> {
        let uid = "0d8f8a5e-31a6-4c5e-9a0e-2f8f1b1d7c11";
        let folder = node.path(&format!("pods/{name}-{uid}/volumes/kubernetes.io~empty-dir/shared-dir"));
        fs::create_dir_all(&folder)?;
        let short = node.path(name);
        symlink(&folder, &short)?;
        ensure!(folder.join(SOCKET).as_os_str().len() > 107, "{} is not long", folder.display());
        Ok(Self { folder, short })
    }

    fn socket(&self) -> PathBuf {
        self.folder.join(SOCKET)
    }

    /// Adds a port as culvert-cni does.
    fn add_port(&self, daemon: &Daemon, port: &str, role: Role) -> Result<()> {
        let (socket, root, role) = (self.socket(), self.folder.display(), role.key());
        daemon.ctl(&format!(
            "port add {port} --network blue --socket {} --socket-root {root} --role {role} --owner 107:107 --description {port}-of-anna",
            socket.display()
        ))?;
        Ok(())
    }

    /// A frontend connects and its rings run.
    fn connect(&self) -> Result<FrontendGuest> {
        FrontendGuest::connect(&self.short.join(SOCKET), Shape::default())
    }

    fn check_socket(&self) -> Result<()> {
        let status = self.socket().symlink_metadata()?;
        let found = (status.file_type().is_socket(), status.uid(), status.gid(), status.mode() & 0o7777);
        ensure!(found == (true, 107, 107, 0o660), "is a socket, user, group, mode: {found:?}");
        Ok(())
    }

    fn check_empty(&self) -> Result<()> {
        let left: Vec<_> = fs::read_dir(&self.folder)?.map(|entry| entry.map(|entry| entry.file_name())).collect();
        ensure!(left.is_empty(), "{left:?} is left");
        Ok(())
    }
}

#[test]
fn folders_vanish_and_come_back() -> Result<()> {
    let node = Node::new()?;
    let mut daemon = node.start()?;
    let volume = Volume::new(&node, "a")?;
    volume.add_port(&daemon, "vm-a", Role::Listen)?;
    volume.check_socket()?;
    let shown = daemon.port("vm-a")?;
    ensure!(shown["owner"] == "107:107" && shown["description"] == "vm-a-of-anna", "{shown}");
    let list = daemon.ctl("port list")?;
    ensure!(list.contains("vm-a-of-anna"), "{list}");
    let guest = volume.connect()?;
    daemon.wait_for_state("vm-a", "up")?;

    // A guest keeps its connection when the folder goes, and finds a new socket in the next one.
    fs::remove_dir_all(&volume.folder)?;
    drop(guest);
    daemon.wait_for_state("vm-a", "failed")?;
    let reason = daemon.port("vm-a")?["reason"].to_string();
    ensure!(reason.contains("No such file or directory"), "{reason}");
    fs::create_dir(&volume.folder)?;
    daemon.wait_for_state("vm-a", "waiting")?;
    volume.check_socket()?;
    drop(volume.connect()?);

    // The next culvertd knows the port, and replaces the socket of the one before.
    daemon.kill();
    volume.check_socket()?;
    daemon = node.start()?;
    volume.check_socket()?;
    drop(volume.connect()?);

    // Without its folder a port of the journal waits; a link in its place is not followed.
    daemon.kill();
    let outside = node.path("outside");
    fs::create_dir(&outside)?;
    fs::remove_dir_all(&volume.folder)?;
    symlink(&outside, &volume.folder)?;
    daemon = node.start()?;
    daemon.wait_for_state("vm-a", "failed")?;
    ensure!(fs::read_dir(&outside)?.next().is_none(), "something was made outside");
    fs::remove_file(&volume.folder)?;
    fs::create_dir(&volume.folder)?;
    daemon.wait_for_state("vm-a", "waiting")?;
    volume.check_socket()?;
    let _guest = volume.connect()?;
    daemon.wait_for_state("vm-a", "up")?;
    daemon.ctl("port del vm-a")?;
    volume.check_empty()?;
    daemon.stop()
}

/// A folder that is read-only, and one that is mounted over.
#[test]
fn folders_are_mounted() -> Result<()> {
    let node = Node::new()?;
    let mut daemon = node.start()?;
    let volume = Volume::new(&node, "a")?;
    let mount = Mount::new(&volume.folder, "ro")?;
    volume.add_port(&daemon, "vm-a", Role::Listen)?;
    daemon.wait_for_state("vm-a", "failed")?;
    let reason = daemon.port("vm-a")?["reason"].to_string();
    ensure!(reason.contains("Read-only file system"), "{reason}");
    mount.again("rw")?;
    daemon.wait_for_state("vm-a", "waiting")?;
    drop(volume.connect()?);

    // What is below it is another folder.
    drop(mount);
    wait_for_socket(&volume)?;
    drop(volume.connect()?);
    let mount = Mount::new(&volume.folder, "rw")?;
    wait_for_socket(&volume)?;
    drop(volume.connect()?);
    daemon.ctl("port del vm-a")?;
    volume.check_empty()?;
    drop(mount);
    // The one below went when culvertd gave it up.
    volume.check_empty()?;
    daemon.stop()
}

#[test]
fn guests_talk_and_outlive_culvertd() -> Result<()> {
    let node = Node::new()?;
    let mut daemon = node.start()?;
    let (a, b) = (Volume::new(&node, "a")?, Volume::new(&node, "b")?);
    a.add_port(&daemon, "vm-a", Role::Listen)?;
    b.add_port(&daemon, "vm-b", Role::Connect)?;
    ensure!(daemon.port("vm-b")?["state"] == "waiting", "{}", daemon.port("vm-b")?);
    let mut vm_a = GuestOptions::new("vm-a", &a.short.join(SOCKET), 1).boot()?;
    let in_b = b.short.join(SOCKET);
    let mut vm_b = GuestOptions { role: Role::Connect, ..GuestOptions::new("vm-b", &in_b, 2) }.boot()?;
    vm_a.wait_ready()?;
    vm_b.wait_ready()?;
    let address = vm_b.address().to_owned();
    ensure!(vm_a.ping(&address, 3)? > 0, "the guests do not talk");

    daemon.kill();
    daemon = node.start()?;
    for port in ["vm-a", "vm-b"] {
        daemon.wait_for_state(port, "up")?;
    }
    ensure!(vm_a.ping(&address, 3)? > 0, "the guests do not talk after culvertd's death");
    daemon.check_counters()?;
    for port in ["vm-a", "vm-b"] {
        daemon.ctl(&format!("port del {port}"))?;
    }
    a.check_empty()?;
    ensure!(b.socket().symlink_metadata()?.file_type().is_socket(), "QEMU's socket is not ours to remove");
    daemon.stop()
}

/// A tmpfs, until this is dropped.
struct Mount(PathBuf);

impl Mount {
    fn new(at: &Path, options: &str) -> Result<Self> {
        run("mount", &["-t", "tmpfs", "-o", options, "none"], at)?;
        Ok(Self(at.to_owned()))
    }

    fn again(&self, options: &str) -> Result<()> {
        run("mount", &["-o", &format!("remount,{options}")], &self.0)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Handles of culvertd may keep it for a moment; nobody can see it any more.
        let _ = run("umount", &["--lazy"], &self.0);
    }
}

fn run(program: &str, options: &[&str], path: &Path) -> Result<()> {
    let status = Command::new(program).args(options).arg(path).status().context(program.to_owned())?;
    ensure!(status.success(), "{program} {options:?} {} failed: {status}", path.display());
    Ok(())
}

/// Waits until culvertd has made the socket in the folder that is there now.
fn wait_for_socket(volume: &Volume) -> Result<()> {
    let start = Instant::now();
    while !volume.socket().exists() || volume.check_socket().is_err() {
        ensure!(start.elapsed() < LIMIT, "no socket in {}", volume.folder.display());
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

const LIMIT: Duration = Duration::from_secs(30);
const SOCKET: &str = "pod494bb167e44.sock";
