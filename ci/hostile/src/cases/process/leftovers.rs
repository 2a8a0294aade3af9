//! P15: what others leave behind: kubelet that is too early, a reboot, a second daemon.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_driver::Shape;
use culvert_system::daemon::Node;
use culvert_system::frontend::FrontendGuest;

use crate::case::Expect;
use crate::client::{Client, guest_port, pod_port};
use crate::field::Field;

const LIMIT: Duration = Duration::from_secs(30);

pub(super) fn folder_first(field: &mut Field) -> Result<()> {
    let pod = field.node().path("pods/early");
    let volume = pod.join("volumes/shared-dir");
    fs::create_dir_all(&volume)?;
    let mut client = Client::connect(&field.control_socket())?;
    client.add_port("early", pod_port(&volume, "vm.sock", "listen"))?;
    client.add_port("early-too", pod_port(&volume, "qemu.sock", "connect"))?;
    let spec = culvert_api::v1::PodSpec { folders: vec![volume.display().to_string()], ..Default::default() };
    let request = culvert_api::v1::AddPodRequest { name: "early".to_owned(), pod: Some(spec) };
    client.ask(async |client| client.add_pod(request).await)?;
    let guest = FrontendGuest::connect(&volume.join("vm.sock"), Shape::default())?;
    field.daemon().wait_for_state("early", "up")?;
    fs::remove_dir_all(&pod)?;
    drop(guest);
    field.daemon().wait_for_state("early", "failed")?;
    field.daemon().wait_for_state("early-too", "waiting")?;
    // DEL, at last.
    ensure!(client.remove_port("early")? && client.remove_port("early-too")?, "there are no ports");
    let request = culvert_api::v1::RemoveRequest { name: "early".to_owned() };
    client.ask(async |client| client.remove_pod(request).await)?;
    ensure!(!pod.exists(), "the pod's folder was made again");
    field.expect(Expect::Log { port: "early".to_owned(), sentence: "", lines: 1..=5 });
    Ok(())
}

pub(super) fn two_daemons(field: &mut Field) -> Result<()> {
    let state = field.node().path("state").display().to_string();
    let control = field.control_socket();
    let inodes = |field: &mut Field| -> Result<Vec<u64>> {
        let paths = [
            control.clone(),
            field.victim_socket(),
            field.node().path("left.sock"),
            field.node().path("state/journal"),
        ];
        paths.iter().map(|path| Ok(fs::symlink_metadata(path)?.ino())).collect()
    };
    let before = inodes(field)?;
    let mut pids = field.daemon().pid().to_string();
    pids.push(')');

    // The same control socket; another one and the same state; all of the same configuration.
    let mut socket = Node::new()?;
    let own = socket.path("culvertd.sock").display().to_string();
    *socket.config() = socket.config().replace(&own, &control.display().to_string());
    let mut same_state = Node::new()?;
    let own = same_state.path("state").display().to_string();
    *same_state.config() = same_state.config().replace(&own, &state);
    let mut all = Node::new()?;
    *all.config() = field.node().config().clone();
    for (node, sentence) in [
        (&socket, "another daemon listens on it"),
        (&same_state, "another culvertd uses it"),
        (&all, "another daemon listens on it"),
    ] {
        let mut second = node.launch()?;
        let status = second.console().wait(LIMIT)?;
        let said = second.console().wait_for_end(LIMIT)?;
        ensure!(!status.success() && said.contains(sentence), "it ended with {status}: {said}");
        ensure!(said.contains(&pids), "the other daemon's process is not named: {said}");
        ensure!(inodes(field)? == before, "the second daemon has taken something of the first");
    }
    // Other sockets and state, but a port of the first one's: that port alone fails.
    let mut port = Node::new()?;
    let socket = field.victim_socket();
    port.add(&format!("[[port]]\nname = \"stolen\"\nnetwork = \"blue\"\nsocket = \"{}\"\n", socket.display()));
    let second = port.start()?;
    let shown = second.port("stolen")?;
    ensure!(shown.get("state").is_some_and(|state| state == "failed"), "{shown}");
    ensure!(
        shown.get("reason").map(ToString::to_string).is_some_and(|reason| reason.contains("is in use by")),
        "{shown}"
    );
    second.stop()?;
    ensure!(inodes(field)? == before, "the second daemon has taken a socket of the first");
    UnixStream::connect(&socket)?;
    Ok(())
}

pub(super) fn reboot(_: &mut Field) -> Result<()> {
    // A machine of its own: the neighbours' does not reboot.
    let node = Node::new()?;
    let (run, pods) = (node.path("run"), node.path("pods/gone"));
    fs::create_dir_all(&pods)?;
    let mut daemon = node.start()?;
    let control = node.path("culvertd.sock");
    let mut client = Client::connect(&control)?;
    client.add_port("plain", guest_port(&run.join("ports/plain/vhost.sock")))?;
    client.add_port("of-a-pod", pod_port(&pods, "vm.sock", "listen"))?;
    let spec = culvert_api::v1::PodSpec {
        folders: vec![pods.display().to_string()],
        netns: Some("/run/netns/gone".to_owned()),
        tap: Some("tap0".to_owned()),
        description: None,
    };
    let request = culvert_api::v1::AddPodRequest { name: "gone".to_owned(), pod: Some(spec) };
    client.ask(async |client| client.add_pod(request).await)?;
    let guest = FrontendGuest::connect(&run.join("ports/plain/vhost.sock"), Shape::default())?;
    daemon.kill();
    drop((guest, client));
    // What is in memory goes; what is on the disk stays, with a half-written file and a removal that nobody has read.
    fs::remove_dir_all(&run)?;
    fs::remove_dir_all(&pods)?;
    fs::remove_file(&control)?;
    fs::write(node.path("state/journal.new"), "# culvertd jour")?;
    let removals = node.path("state/removals");
    fs::create_dir_all(&removals)?;
    fs::write(removals.join("gone"), "")?;

    daemon = node.start()?;
    drop(FrontendGuest::connect(&run.join("ports/plain/vhost.sock"), Shape::default()).context("after a reboot")?);
    daemon.wait_for_state("of-a-pod", "failed")?;
    ensure!(!pods.exists(), "the pod's folder was made");
    ensure!(daemon.ask("pod list")?.as_array().is_some_and(Vec::is_empty), "a pod that was removed is there");
    // Its DEL finds the port.
    let mut client = Client::connect(&control)?;
    ensure!(client.remove_port("of-a-pod")?, "there is no port");
    ensure!(client.ports()? == ["plain"], "{:?}", client.ports()?);
    daemon.stop()
}
