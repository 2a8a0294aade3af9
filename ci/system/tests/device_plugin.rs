//! culvertd as a device plugin, beside a kubelet that the test plays: what it registers, what containers get, what survives
//! whose restart, and what a container cannot do by what it leaves in its folder. Root is needed: folders belong to 107.
#![allow(clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use culvert_api::kubelet;
use culvert_driver::Shape;
use culvert_system::cni::{self, Attachment};
use culvert_system::daemon::{Daemon, Node};
use culvert_system::device_manager::{DeviceManager, Temper};
use culvert_system::frontend::FrontendGuest;
use culvert_system::kube_pod::KubeletRoot;
use culvert_system::paths::program;
use culvert_system::place::Namespace;
use serde_json::{Value, json};

/// A culvertd whose network blue has so many ports for guests, and a kubelet that does not run yet.
fn setup(guest_ports: u32) -> Result<(Node, DeviceManager)> {
    let mut node = Node::new()?;
    let path = |name: &str| node.path(name).display().to_string();
    let (kubelet, devices, info) = (path("kubelet"), path("devices"), path("devinfo"));
    let keys = format!(
        "[daemon]\nkubelet_device_plugins = \"{kubelet}\"\ndevice_folder = \"{devices}\"\ndevice_info_folder = \"{info}\"\n"
    );
    *node.config() = node.config().replacen("[daemon]\n", &keys, 1);
    node.add(&format!("guest_ports = {guest_ports}"));
    let manager = DeviceManager::new(Path::new(&kubelet));
    Ok((node, manager))
}

const BLUE: &str = "culvert.dev/blue";

#[test]
fn kubelet_learns_of_the_ports_and_containers_get_their_folder() -> Result<()> {
    let (node, mut kubelet) = setup(4)?;
    kubelet.start(Temper::Ordinary)?;
    let daemon = node.start()?;
    kubelet.wait_for_devices(BLUE, 4)?;
    let registrations = kubelet.registrations();
    ensure!(registrations.len() == 1, "{registrations:?}");
    let kubelet::RegisterRequest { version, endpoint, resource_name, options } = &registrations[0];
    ensure!((version.as_str(), endpoint.as_str(), resource_name.as_str()) == ("v1beta1", "culvert-blue.sock", BLUE));
    ensure!(*options == Some(kubelet::DevicePluginOptions::default()) && kubelet.options(BLUE) == *options);
    let ids: Vec<_> = kubelet.devices(BLUE).context("devices")?.into_keys().collect();
    ensure!(ids == ["port-0", "port-1", "port-2", "port-3"], "{ids:?}");
    ensure!(mode(&node.path("kubelet/culvert-blue.sock"))? == 0o660);
    ensure!(warnings(&daemon)? == [""; 0]);

    // One device, and several of a container: one folder.
    let one = kubelet.allocate(BLUE, &[&["port-2"]])?;
    ensure!(one.len() == 1 && one[0].mounts.len() == 1, "{one:?}");
    let mount = &one[0].mounts[0];
    let folder = node.path("devices/blue/port-2");
    ensure!(mount.container_path == "/var/run/culvert/blue" && !mount.read_only, "{mount:?}");
    ensure!(Path::new(&mount.host_path) == folder, "{mount:?}");
    ensure!(one[0].devices.is_empty() && one[0].envs.is_empty() && one[0].annotations.is_empty(), "{one:?}");
    let meta = folder.symlink_metadata()?;
    ensure!(meta.is_dir() && (meta.uid(), meta.gid(), meta.mode() & 0o7777) == (107, 107, 0o750), "{meta:?}");
    let two = kubelet.allocate(BLUE, &[&["port-3", "port-1"]])?;
    ensure!(two.len() == 1 && two[0].mounts.len() == 1, "{two:?}");
    ensure!(Path::new(&two[0].mounts[0].host_path) == node.path("devices/blue/port-1"), "{two:?}");
    ensure!(fs::read_link(node.path("devices/blue/port-3"))? == Path::new("port-1"));
    // Two containers of one pod; and port-3 becomes a folder again.
    let folders = kubelet.allocate(BLUE, &[&["port-0"], &["port-3"]])?;
    let hosts: Vec<_> = folders.iter().map(|answer| Path::new(&answer.mounts[0].host_path).to_owned()).collect();
    ensure!(hosts == [node.path("devices/blue/port-0"), node.path("devices/blue/port-3")], "{hosts:?}");
    ensure!(hosts.iter().all(|folder| folder.symlink_metadata().is_ok_and(|meta| meta.is_dir())));
    ensure!(mode(&node.path("devices"))? == 0o755 && mode(&node.path("devices/blue"))? == 0o755);

    // What is no device, or asked for twice, is refused, and nothing happens.
    let before = inode(&folder)?;
    for ids in
        [&["port-2", "port-4"][..], &["port-2", "../port-1"], &["port-2", "port-02"], &["port-2", "port-2"], &[""]]
    {
        let refusal = kubelet.allocate(BLUE, &[ids]).err().with_context(|| format!("{ids:?} were given"))?;
        let status = refusal.downcast_ref::<tonic::Status>().context("a status")?;
        ensure!(status.code() == tonic::Code::InvalidArgument, "{ids:?}: {status:?}");
    }
    ensure!(inode(&folder)? == before);
    ensure!(kubelet.allocate(BLUE, &[&[]])? == [kubelet::ContainerAllocateResponse::default()]);

    // The rest of the interface.
    let request = kubelet::ContainerPreferredAllocationRequest {
        available_device_i_ds: ["port-3", "port-10", "port-1", "port-0"].map(str::to_owned).to_vec(),
        must_include_device_i_ds: vec!["port-3".to_owned()],
        allocation_size: 2,
    };
    let request = kubelet::PreferredAllocationRequest { container_requests: vec![request] };
    let preferred = kubelet.call(BLUE, async |mut plugin| plugin.get_preferred_allocation(request).await)?;
    ensure!(preferred.container_responses[0].device_i_ds == ["port-3", "port-0"], "{preferred:?}");
    let request = kubelet::PreStartContainerRequest { devices_ids: vec!["port-0".to_owned()] };
    kubelet.call(BLUE, async |mut plugin| plugin.pre_start_container(request).await)?;

    // What Multus reads.
    for number in 0..4 {
        let file = node.path(&format!("devinfo/culvert.dev-blue-port-{number}-device.json"));
        let info: Value = serde_json::from_slice(&fs::read(&file)?)?;
        let expected = json!({
            "type": "vhost-user", "version": "1.1.0",
            "vhost-user": {"mode": "client", "path": "/var/run/culvert/blue"},
        });
        ensure!(info == expected && mode(&file)? == 0o444, "{info}");
    }
    ensure!(names(&node.path("devinfo"))?.len() == 4);
    daemon.stop()?;
    ensure!(names(&node.path("devinfo"))?.is_empty());
    ensure!(names(&node.path("kubelet"))? == ["kubelet.sock"]);
    kubelet.wait_for_devices(BLUE, 0)
}

#[test]
fn nothing_is_lost_whoever_starts_again() -> Result<()> {
    let (node, mut kubelet) = setup(2)?;
    // Neither kubelet nor its folder: culvertd runs, says so, and makes nothing there.
    let daemon = node.start()?;
    kubelet.wait_until("a warning", || told(&daemon, "there is no kubelet: "))?;
    ensure!(!node.path("kubelet").exists());
    for round in 0..4 {
        kubelet.start(Temper::Ordinary)?;
        kubelet.wait_for_devices(BLUE, 2).with_context(|| format!("kubelet's start {round}"))?;
        if round % 2 == 0 { kubelet.kill() } else { kubelet.stop()? }
    }
    kubelet.start(Temper::Ordinary)?;
    kubelet.wait_for_devices(BLUE, 2)?;
    // Somebody removes our socket alone.
    fs::remove_file(node.path("kubelet/culvert-blue.sock"))?;
    kubelet.wait_until("a further registration", || kubelet.registrations().len() >= 2)?;
    kubelet.wait_for_devices(BLUE, 2)?;

    // culvertd is killed, while two containers have folders.
    kubelet.allocate(BLUE, &[&["port-0", "port-1"]])?;
    let folder = node.path("devices/blue/port-0");
    let kept = folder.join("pod494bb167e44.sock");
    fs::write(&kept, "")?;
    let before = inode(&folder)?;
    drop(daemon);
    kubelet.wait_for_devices(BLUE, 0)?;
    // What it left of a network that is no more, and what is somebody else's.
    fs::write(node.path("devinfo/culvert.dev-red-port-0-device.json"), "{}")?;
    fs::write(node.path("devinfo/intel.com-sriov-0000:03:02.0-device.json"), "{}")?;
    let daemon = node.start()?;
    kubelet.wait_for_devices(BLUE, 2)?;
    ensure!(
        inode(&folder)? == before
            && kept.exists()
            && fs::read_link(node.path("devices/blue/port-1"))? == Path::new("port-0")
    );
    let expected = [
        "culvert.dev-blue-port-0-device.json",
        "culvert.dev-blue-port-1-device.json",
        "intel.com-sriov-0000:03:02.0-device.json",
    ];
    ensure!(names(&node.path("devinfo"))? == expected);
    ensure!(warnings(&daemon)? == [""; 0]);

    // A reboot: the folders are gone, kubelet starts containers with those that it remembers.
    daemon.stop()?;
    fs::remove_dir_all(node.path("devices"))?;
    let daemon = node.start()?;
    kubelet.wait_for_devices(BLUE, 2)?;
    let meta = folder.metadata()?;
    ensure!((meta.uid(), meta.gid(), meta.mode() & 0o7777) == (107, 107, 0o750), "{meta:?}");
    ensure!(fs::read_link(node.path("devices/blue/port-1"))? == Path::new("port-0"));
    daemon.stop()
}

#[test]
fn networks_come_and_go() -> Result<()> {
    let (mut node, mut kubelet) = setup(2)?;
    kubelet.start(Temper::Ordinary)?;
    let daemon = node.start()?;
    kubelet.wait_for_devices(BLUE, 2)?;
    let green = "culvert.dev/green-1";
    daemon.ctl("network add green-1 --guest-ports 3")?;
    kubelet.wait_for_devices(green, 3)?;
    kubelet.allocate(green, &[&["port-1"]])?;
    daemon.ctl("network set green-1 --guest-ports 5")?;
    kubelet.wait_for_devices(green, 5)?;
    daemon.ctl("network set green-1 --guest-ports 1")?;
    kubelet.wait_for_devices(green, 1)?;
    ensure!(kubelet.allocate(green, &[&["port-1"]]).is_err());
    ensure!(names(&node.path("devinfo"))?.len() == 3);
    // It stays a network, but none of kubelet's.
    daemon.ctl("network set green-1 --unset guest_ports")?;
    kubelet.wait_for_devices(green, 0)?;
    kubelet.wait_until("the socket to go", || !node.path("kubelet/culvert-green-1.sock").exists())?;
    daemon.ctl("network set green-1 --guest-ports 2")?;
    kubelet.wait_for_devices(green, 2)?;
    daemon.ctl("network del green-1")?;
    kubelet.wait_for_devices(green, 0)?;
    // By the file as well; blue is not registered again for that.
    node.add("[[network]]\nname = \"red\"\nguest_ports = 1");
    let file = node.path("culvertd.toml");
    fs::write(&file, node.config())?;
    daemon.ctl("reload")?;
    kubelet.wait_for_devices("culvert.dev/red", 1)?;
    let blue = kubelet.registrations().iter().filter(|request| request.resource_name == BLUE).count();
    ensure!(blue == 1, "{blue} registrations of blue");
    // More than there can be is refused.
    let refusal = daemon.ctl("network add more --guest-ports 1022").err().context("1025 ports were promised")?;
    ensure!(format!("{refusal:#}").contains("promises kubelet more than the 1024 ports"), "{refusal:#}");
    // What was added at run time is offered again after a restart.
    daemon.ctl("network add later --guest-ports 7")?;
    kubelet.wait_for_devices("culvert.dev/later", 7)?;
    drop(daemon);
    kubelet.wait_for_devices("culvert.dev/later", 0)?;
    let daemon = node.start()?;
    kubelet.wait_for_devices("culvert.dev/later", 7)?;
    kubelet.wait_for_devices("culvert.dev/red", 1)?;
    daemon.stop()
}

#[test]
fn what_a_container_leaves_harms_nobody() -> Result<()> {
    let (node, mut kubelet) = setup(2)?;
    kubelet.start(Temper::Ordinary)?;
    let daemon = node.start()?;
    kubelet.wait_for_devices(BLUE, 2)?;
    let precious = node.path("precious");
    fs::create_dir(&precious)?;
    fs::write(precious.join("file"), "precious")?;
    let folder = node.path("devices/blue/port-0");
    // Held open, so that no inode gets the number of one before.
    let mut held = vec![fs::File::open(&folder)?];
    for _ in 0..3 {
        kubelet.allocate(BLUE, &[&["port-0", "port-1"]])?;
        for before in &held {
            ensure!(before.metadata()?.ino() != inode(&folder)?, "a container got the folder of one before");
        }
        held.push(fs::File::open(&folder)?);
        ensure!(names(&folder)?.is_empty(), "{:?}", names(&folder)?);
        ensure!(folder.metadata()?.nlink() == 2);
        litter(&folder, &precious)?;
    }
    // A container that is still there goes on making things in its old folder.
    let old = fs::File::open(&folder)?;
    let old = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&old)));
    kubelet.allocate(BLUE, &[&["port-0"]])?;
    let _ = fs::write(old.join("more"), "more");
    ensure!(names(&folder)?.is_empty());
    kubelet.allocate(BLUE, &[&["port-1"]])?;
    let trash = node.path("devices/.trash");
    kubelet.wait_until("the old folders to be removed", || names(&trash).is_ok_and(|names| names.is_empty()))?;
    ensure!(names(&precious)? == ["file"] && fs::read(precious.join("file"))? == b"precious");
    ensure!(precious.join("file").metadata()?.uid() == 0 && precious.join("file").metadata()?.nlink() == 1);
    ensure!(mode(&trash)? == 0o700);
    ensure!(warnings(&daemon)? == [""; 0]);
    daemon.stop()
}

/// One container with two interfaces of a network: kubelet gives it two devices and one folder, Multus gives each device's id to
/// culvert-cni, and both sockets are in that folder.
#[test]
fn interfaces_meet_in_the_folder_that_kubelet_mounts() -> Result<()> {
    let (node, mut kubelet) = setup(3)?;
    kubelet.start(Temper::Ordinary)?;
    let daemon = node.start()?;
    kubelet.wait_for_devices(BLUE, 3)?;
    let namespace = Namespace::new("dp-pod")?;
    let pods = KubeletRoot::new()?;
    let pod = pods.pod("virt-launcher-fw-x1", 1)?;
    let program = program("culvert-cni")?;
    let plugins = program.parent().context("culvert-cni has no folder")?;
    let sandbox = "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0";
    let interfaces = [("pod494bb167e44", "port-1"), ("pod33d044e5350", "port-2")].map(|(interface, device)| {
        let netns = format!("/run/netns/{}", namespace.name());
        let info = node.path(&format!("devinfo-{interface}"));
        let keys = json!({
            "cniVersion": "1.1.0", "name": "lab-net",
            "runtimeConfig": {"deviceID": device, "CNIDeviceInfoFile": info},
        });
        let config = cni::with(cni::culvert(&node, "vhostuser"), &keys);
        (Attachment::of_pod(&pod, sandbox, &netns, interface, plugins), config, device, info)
    });
    let mut folder_before: Option<fs::File> = None;
    for round in 0..2 {
        let given = kubelet.allocate(BLUE, &[&["port-2", "port-1"]])?;
        let folder = PathBuf::from(&given[0].mounts[0].host_path);
        ensure!(folder == node.path("devices/blue/port-1"));
        if let Some(before) = &folder_before {
            ensure!(before.metadata()?.ino() != inode(&folder)?);
        }
        folder_before = Some(fs::File::open(&folder)?);
        let mut results = Vec::new();
        for (attachment, config, device, info) in &interfaces {
            // As Multus does.
            fs::copy(node.path(&format!("devinfo/culvert.dev-blue-{device}-device.json")), info)?;
            let result = attachment.add(config).with_context(|| format!("round {round}, {device}"))?;
            let name = format!("{}.sock", attachment.interface);
            let socket = folder.join(&name);
            let meta = socket.symlink_metadata()?;
            ensure!(meta.file_type().is_socket() && (meta.uid(), meta.gid()) == (107, 107), "{meta:?}");
            ensure!(result["interfaces"][0]["socketPath"] == json!(socket), "{result}");
            let told: Value = serde_json::from_slice(&fs::read(info)?)?;
            let inside = format!("/var/run/culvert/blue/{name}");
            let expected = json!({
                "type": "vhost-user", "version": "1.1.0", "vhost-user": {"mode": "client", "path": inside},
            });
            ensure!(told == expected, "{told}");
            results.push(result);
        }
        ensure!(names(&folder)? == ["pod33d044e5350.sock", "pod494bb167e44.sock"], "{:?}", names(&folder)?);
        // Frames pass between them.
        let [first, second] = ["pod494bb167e44.sock", "pod33d044e5350.sock"].map(|name| folder.join(name));
        let mut first = FrontendGuest::connect(&first, Shape::default())?;
        let mut second = FrontendGuest::connect(&second, Shape::default())?;
        let hello = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1], &[0x88, 0xb5], &[7; 46]].concat();
        ensure!(first.send(&hello)?, "a ring is full");
        ensure!(second.receive()? == hello, "a broadcast was changed");
        drop((first, second));
        for ((attachment, config, ..), result) in interfaces.iter().zip(&results) {
            attachment.delete(config, Some(result))?;
        }
        ensure!(names(&folder)?.is_empty(), "DEL left {:?}", names(&folder)?);
        ensure!(daemon.ask("port list")? == json!([]));
    }
    daemon.stop()
}

/// All that a container may make in its folder, with modes that keep others out.
fn litter(folder: &Path, precious: &Path) -> Result<()> {
    symlink(precious, folder.join("link"))?;
    symlink(precious.join("file"), folder.join("pod494bb167e44.sock"))?;
    symlink("..", folder.join("up"))?;
    symlink(folder.join("loop"), folder.join("loop"))?;
    fs::hard_link(precious.join("file"), folder.join("hard"))?;
    drop(UnixListener::bind(folder.join("old.sock"))?);
    fs::write(folder.join("\u{1b}[31m\n"), "")?;
    for fifo in ["fifo", "port-1"] {
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, folder.join(fifo), rustix::fs::FileType::Fifo, mode, 0)?;
    }
    // Deeper than a path can be long; each folder with a link out of it.
    let mut inner = rustix::fs::open(folder, FOLDER, rustix::fs::Mode::empty())?;
    for _ in 0..3000 {
        rustix::fs::mkdirat(&inner, "deeper", rustix::fs::Mode::from_raw_mode(0o700))?;
        rustix::fs::symlinkat(precious, &inner, "out")?;
        inner = rustix::fs::openat(&inner, "deeper", FOLDER, rustix::fs::Mode::empty())?;
    }
    for number in 0..2000 {
        fs::write(folder.join(format!("many-{number}")), "")?;
    }
    fs::create_dir(folder.join("closed"))?;
    fs::write(folder.join("closed/file"), "")?;
    fs::set_permissions(folder.join("closed"), fs::Permissions::from_mode(0o0))?;
    Ok(())
}

const FOLDER: rustix::fs::OFlags = rustix::fs::OFlags::RDONLY.union(rustix::fs::OFlags::DIRECTORY);

#[test]
fn a_kubelet_that_fails_holds_nothing_up() -> Result<()> {
    let (node, mut kubelet) = setup(2)?;
    kubelet.start(Temper::Silent)?;
    let daemon = node.start()?;
    kubelet.wait_until("an attempt", || !kubelet.registrations().is_empty())?;
    // While kubelet keeps culvertd waiting, clients are answered, and networks come and go.
    daemon.ctl("network add green --guest-ports 1")?;
    daemon.ctl("network del green")?;
    kubelet.wait_until("a warning", || told(&daemon, "does not answer within"))?;

    kubelet.start(Temper::Refusing)?;
    kubelet.wait_until("several attempts", || kubelet.registrations().len() > 2)?;
    kubelet.wait_until("a warning", || {
        told(&daemon, "kubelet does not register culvert.dev/blue: the plugin\\n is not welcome")
    })?;

    // One that takes the registration and then forgets it is told again.
    kubelet.start(Temper::Forgetful)?;
    kubelet.wait_until("a second registration", || kubelet.registrations().len() > 1)?;

    // What speaks no HTTP at its socket.
    kubelet.stop()?;
    let socket = node.path("kubelet/kubelet.sock");
    let rubbish = UnixListener::bind(&socket)?;
    for _ in 0..3 {
        let (mut stream, _) = rubbish.accept()?;
        let _ = stream.write_all(&[0xff; 4096]);
    }
    daemon.ctl("status")?;
    drop(rubbish);

    // Whoever connects in kubelet's place and says nothing, or rubbish, hinders nobody.
    kubelet.start(Temper::Ordinary)?;
    kubelet.wait_for_devices(BLUE, 2)?;
    let plugin = node.path("kubelet/culvert-blue.sock");
    let _silent: Vec<_> = (0..4).map(|_| UnixStream::connect(&plugin)).collect::<Result<_, _>>()?;
    let mut stream = UnixStream::connect(&plugin)?;
    stream.write_all(&[b'x'; 1000])?;
    // It is closed, in whatever way.
    let _ = stream.read_to_end(&mut Vec::new());
    kubelet.allocate(BLUE, &[&["port-0"]])?;
    kubelet.wait_until("no warning", || warnings(&daemon).is_ok_and(|warnings| warnings.is_empty()))?;

    // Something else has the name of our socket: it is left alone and told of.
    daemon.stop()?;
    fs::write(&plugin, "precious")?;
    let daemon = node.start()?;
    kubelet.wait_until("a warning", || told(&daemon, "something that is no socket has this name"))?;
    ensure!(fs::read(&plugin)? == b"precious");
    fs::remove_file(&plugin)?;
    kubelet.wait_for_devices(BLUE, 2)?;
    daemon.stop()
}

#[test]
fn folders_get_the_owner_and_label_of_the_configuration() -> Result<()> {
    let (mut node, mut kubelet) = setup(1)?;
    let keys = "[daemon]\ndevice_owner = \"0:1234\"\ndevice_label = \"system_u:object_r:container_file_t:s0\"\n";
    *node.config() = node.config().replacen("[daemon]\n", keys, 1);
    // Without SELinux a label takes CAP_SYS_ADMIN, which culvertd gives up: no folder is given then.
    kubelet.start(Temper::Ordinary)?;
    let daemon = node.start()?;
    kubelet.wait_for_devices(BLUE, 1)?;
    let is_given = kubelet.allocate(BLUE, &[&["port-0"]]).is_ok();
    let has_label =
        || rustix::fs::getxattr(node.path("devices/blue/port-0"), "security.selinux", &mut [0; 256]).is_ok();
    ensure!(!is_given || has_label(), "a folder without its label was given");
    daemon.stop()?;

    node.set_isolation("off");
    let daemon = node.start()?;
    kubelet.wait_for_devices(BLUE, 1)?;
    kubelet.allocate(BLUE, &[&["port-0"]])?;
    let folder = node.path("devices/blue/port-0");
    let meta = folder.metadata()?;
    ensure!((meta.uid(), meta.gid()) == (0, 1234), "{meta:?}");
    let mut label = [0; 256];
    let length = rustix::fs::getxattr(&folder, "security.selinux", &mut label)?;
    ensure!(label[..length].starts_with(b"system_u:object_r:container_file_t:s0"));

    // Folders in which others may change names are not used.
    fs::set_permissions(node.path("devices"), fs::Permissions::from_mode(0o777))?;
    let refusal = kubelet.allocate(BLUE, &[&["port-0"]]).err().context("a folder was given")?;
    ensure!(format!("{refusal:#}").contains("others than root may write to it"), "{refusal:#}");
    daemon.stop()
}

fn warnings(daemon: &Daemon) -> Result<Vec<String>> {
    let status = daemon.ask("status")?;
    let list = status.get("warnings").and_then(Value::as_array).cloned().unwrap_or_default();
    Ok(list.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}

/// Whether there is such a warning.
fn told(daemon: &Daemon, part: &str) -> bool {
    warnings(daemon).is_ok_and(|warnings| warnings.iter().any(|warning| warning.contains(part)))
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names = entries.collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

fn inode(path: &Path) -> Result<u64> {
    Ok(path.symlink_metadata()?.ino())
}

fn mode(path: &Path) -> Result<u32> {
    Ok(path.symlink_metadata()?.mode() & 0o7777)
}
