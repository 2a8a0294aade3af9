//! C7: folders of pods that vanish, come back, are mounted over, or lead to another pod's; sockets of daemons that live.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use culvert_driver::Shape;
use culvert_system::frontend::FrontendGuest;

use super::swaps::run;
use crate::case::Expect;
use crate::client::{Client, pod_port};
use crate::field::Field;

pub(super) fn vanishes(field: &mut Field) -> Result<()> {
    let pods = field.node().path("pods");
    let (mine, others) = (pods.join("mine"), pods.join("others"));
    fs::create_dir_all(&mine)?;
    fs::create_dir_all(&others)?;
    let mut client = Client::connect(&field.control_socket())?;
    client.add_port("vanishing", pod_port(&mine, "vm.sock", "listen"))?;
    client.add_port("staying", pod_port(&others, "vm.sock", "listen"))?;
    field.expect(Expect::Log { port: "vanishing".to_owned(), sentence: "", lines: 1..=30 });
    let connect = |folder: &std::path::Path| FrontendGuest::connect(&folder.join("vm.sock"), Shape::default());
    let guest = connect(&mine)?;
    let other = connect(&others)?;

    // Away, with its guest.
    fs::remove_dir_all(&mine)?;
    drop(guest);
    field.daemon().wait_for_state("vanishing", "failed")?;
    // Another pod's folder in its place is not followed.
    symlink(&others, &mine)?;
    thread::sleep(Duration::from_millis(1500));
    field.daemon().wait_for_state("vanishing", "failed")?;
    fs::remove_file(&mine)?;
    // A file, a folder that nobody can write to, a folder.
    fs::write(&mine, "")?;
    thread::sleep(Duration::from_millis(1500));
    fs::remove_file(&mine)?;
    fs::create_dir(&mine)?;
    let place = mine.display().to_string();
    run("mount", &["-t", "tmpfs", "-o", "ro,size=64k", "none", &place])?;
    thread::sleep(Duration::from_millis(1500));
    field.daemon().wait_for_state("vanishing", "failed")?;
    run("mount", &["-o", "remount,rw", &place])?;
    field.daemon().wait_for_state("vanishing", "waiting")?;
    drop(connect(&mine)?);
    // Lazily: culvertd has a handle of the folder until it looks after the socket again.
    run("umount", &["--lazy", &place])?;
    until_connected(|| connect(&mine).map(drop))?;

    // A live socket of somebody else's is not stolen, nor removed with the port.
    let socket = mine.join("vm.sock");
    let theirs = UnixListener::bind(mine.join("theirs"))?;
    fs::rename(mine.join("theirs"), &socket)?;
    field.daemon().wait_for_state("vanishing", "failed")?;
    let reason = field.daemon().port("vanishing")?.get("reason").map(ToString::to_string).unwrap_or_default();
    ensure!(reason.contains("is in use by process"), "{reason}");
    client.remove_port("vanishing")?;
    UnixStream::connect(&socket)?;
    drop(theirs);
    drop(other);
    client.remove_port("staying")?;
    ensure!(fs::read_dir(&others)?.next().is_none(), "a socket is left in {}", others.display());
    Ok(())
}

/// Tries until it works: culvertd looks once a second.
fn until_connected(mut connect: impl FnMut() -> Result<()>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        match connect() {
            Err(_) if Instant::now() < deadline => thread::sleep(Duration::from_millis(50)),
            result => return result,
        }
    }
}
