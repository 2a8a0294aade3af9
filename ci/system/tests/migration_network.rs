//! The migration proxy between two nodes: a guest moves by it, over the migration network alone, and with whom it should.
#![allow(clippy::indexing_slicing, clippy::expect_used, reason = "tests")]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use culvert_system::daemon::Node;
use culvert_system::lab::{Lab, MIGRATION, PORT, STATION};
use culvert_system::libvirt::Libvirt;
use culvert_system::pings::Pings;
use culvert_system::qemu::Start;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::Value;

/// Who signs the certificates of nodes.
struct Authority(Issuer<'static, KeyPair>, String);

impl Authority {
    fn new() -> Result<Self> {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let pem = parameters.self_signed(&key)?.pem();
        Ok(Self(Issuer::new(parameters, key), pem))
    }

    /// Gives a node its files, and its configuration their names.
    fn configure(&self, node: &mut Node, networks: &str) {
        let key = KeyPair::generate().expect("a key");
        let parameters = CertificateParams::new(vec!["node.migration".to_owned()]).expect("a name");
        let certificate = parameters.signed_by(&key, &self.0).expect("a certificate");
        let files = [("tls.crt", certificate.pem()), ("tls.key", key.serialize_pem()), ("ca.crt", self.1.clone())];
        for (name, text) in files {
            fs::write(node.path(name), text).expect("a file");
        }
        let [certificate, key, authority, folder] =
            ["tls.crt", "tls.key", "ca.crt", "migration"].map(|name| node.path(name));
        // The socket of the migration proxy is that group's as well.
        let config = node.config();
        *config = config.replacen("[daemon]\n", "[daemon]\nsocket_group = 0\n", 1);
        node.add(&format!(
            "[migration]\ncertificate = {certificate:?}\nkey = {key:?}\nauthority = {authority:?}\n\
             peer_name = \"node.migration\"\nfolder = {folder:?}\n{QEMU_OWNS}\n{networks}"
        ));
    }
}

fn lab(authorities: [&Authority; 2], networks: &str) -> Result<Lab> {
    let lab = Lab::start_with(|index, node| {
        authorities[index].configure(node, networks);
        QEMU_OWNS
    })?;
    for index in 0..2 {
        // For those in the node's folder who know their names.
        fs::set_permissions(lab.node_path(index, ""), fs::Permissions::from_mode(0o711))?;
        let socket = lab.node_path(index, "migration.sock");
        let deadline = Instant::now() + Duration::from_secs(10);
        while !socket.exists() {
            ensure!(Instant::now() < deadline, "there is no {}", socket.display());
            thread::sleep(Duration::from_millis(10));
        }
    }
    Ok(lab)
}

/// Has node 1 receive a guest, and node 0 send it, each with options of its own.
fn offer(lab: &mut Lab, guest: &str, target: &str, source: &str) -> Result<Value> {
    let target = lab.node(1)?.daemon.ask(&format!("migration listen {guest} {target}"))?;
    let file = lab.node_path(0, "target.json");
    fs::write(&file, target.to_string())?;
    lab.node(0)?.daemon.ask(format!("migration connect {guest} --target {} {source}", file.display()).trim_end())
}

/// Where the target's libvirt is.
fn at(libvirt: &Path) -> String {
    format!("--libvirt {}", libvirt.display())
}

fn show(lab: &mut Lab, index: usize, guest: &str) -> Result<Value> {
    lab.node(index)?.daemon.ask(&format!("migration show {guest}"))
}

fn socket(lab: &Lab, name: &str) -> PathBuf {
    lab.node_path(0, "migration").join(name)
}

/// Both QEMUs have the same path for it.
#[test]
fn a_guest_moves_by_the_migration_network_alone() -> Result<()> {
    let authority = Authority::new()?;
    let mut lab = lab([&authority, &authority], "")?;
    let mut vm = lab.boot()?;
    offer(&mut lab, PORT, "--libvirt /nobody", "")?;
    let way = format!("unix:{}", lab.seen_as("migration").join(format!("{PORT}-49152-source.sock")).display());
    let before = [lab.received(1, MIGRATION)?, lab.received(1, "eth0")?, lab.received(0, "eth0")?];
    let arrival = lab.prepare_for(1, Start::Arrive, &way)?;
    let began = vm.depart_by(&way)?;
    let left = vm.wait_left()?;
    let journey = vm.arrive(arrival, began, &left)?;
    let after = [lab.received(1, MIGRATION)?, lab.received(1, "eth0")?, lab.received(0, "eth0")?];
    ensure!(after[0] - before[0] >= journey.transferred, "{before:?}, {after:?}, {journey:?}");
    ensure!(after[1] - before[1] < 10_000 && after[2] - before[2] < 10_000, "{before:?}, {after:?}");
    let [source, target] = [show(&mut lab, 0, PORT)?, show(&mut lab, 1, PORT)?];
    ensure!(source["sent_bytes"].as_u64() >= Some(journey.transferred) && source["error"].is_null(), "{source}");
    ensure!(target["received_bytes"] == source["sent_bytes"], "{source}, {target}");
    ensure!(vm.guest.ping(STATION, 3)? > 0, "it is not there");
    println!("  {} MB by {MIGRATION}, {} bytes by eth0", journey.transferred / 1_000_000, after[1] - before[1]);
    lab.node(0)?.daemon.ctl(&format!("migration del {PORT}"))?;
    ensure!(!socket(&lab, &format!("{PORT}-source.sock")).exists());
    vm.end_source();
    drop(vm);
    lab.stop()
}

/// As docs/MIGRATION.md says: what `culvertctl migration connect` shows is run as it is. The guest's disk is another one on each host.
#[test]
fn virsh_moves_a_running_guest_with_its_disk() -> Result<()> {
    let authority = Authority::new()?;
    let mut lab = lab([&authority, &authority], "")?;
    let folders = [0, 1].map(|index| lab.node_path(index, ".").components().collect::<PathBuf>());
    let seen_as = &folders[0];
    let mut host = |index: usize, name| Libvirt::start_on(&lab.node(index)?.place(), name, &folders[index], seen_as);
    let [mut source, mut target] = [host(0, "a")?, host(1, "b")?];
    let content: Vec<u8> = (0..DISK_BYTES).map(|number| (number ^ (number >> 9)).to_le_bytes()[0]).collect();
    let disks = [0, 1].map(|index| lab.node_path(index, "disk.img"));
    fs::write(&disks[0], &content)?;
    fs::File::create(&disks[1])?.set_len(content.len() as u64)?;
    let seen_as = seen_as.display();
    let mut guest = source.boot(
        PORT,
        1,
        &format!(
            "<interface type='vhostuser'><source type='unix' path='{seen_as}/{PORT}.sock' mode='client'/><model type='virtio'/></interface>
             <disk type='file'><driver name='qemu' type='raw'/><source file='{seen_as}/disk.img'/><target dev='vda'/></disk>"
        ),
    )?;
    guest.wait_ready()?;
    ensure!(guest.ping(STATION, 3)? > 0, "the station does not answer\n{}", lab.shown());
    guest.check("kept=4711")?;

    let pings = Pings::start(lab.outside(), guest.address())?;
    let before = [lab.received(1, MIGRATION)?, lab.received(1, "eth0")?, lab.received(0, "eth0")?];
    let began = SystemTime::now();
    let libvirt = lab.node_path(1, "libvirt/libvirt-sock");
    let offered = offer(&mut lab, PORT, &format!("--disks {}", at(&libvirt)), "")?;
    let printed = source.run(offered["virsh"].as_str().context("a command")?).with_context(|| {
        let shown = [0, 1].map(|index| show(&mut lab, index, PORT).map(|shown| shown.to_string()));
        format!("{shown:?}\n{}\n{}", source.log(PORT), target.log(PORT))
    })?;
    println!("{printed}");
    drop(guest.move_to(target.console(PORT)?));
    let after = [lab.received(1, MIGRATION)?, lab.received(1, "eth0")?, lab.received(0, "eth0")?];

    ensure!(target.run(&format!("virsh domstate {PORT}"))?.trim() == "running", "{PORT} does not run at the target");
    ensure!(source.run("virsh -q list --all")?.trim().is_empty(), "the source has it still");
    ensure!(guest.check("echo $kept")?.trim() == "4711", "this is another guest");
    ensure!(guest.ping(STATION, 5)? > 0, "the station does not answer\n{}", lab.shown());
    let answers = pings.answers(began, SystemTime::now());
    ensure!(answers.sent > answers.lost * 2, "{answers:?}");
    ensure!(fs::read(&disks[1])? == content, "the disk is not the same");
    let sent = show(&mut lab, 0, PORT)?["sent_bytes"].as_u64().context("bytes")?;
    ensure!(sent > DISK_BYTES && after[0] - before[0] >= sent, "{before:?}, {after:?}, {sent}");
    ensure!(after[1] - before[1] < 10_000 && after[2] - before[2] < 10_000, "{before:?}, {after:?}");
    println!("  {} MB by {MIGRATION}, {} bytes by eth0, {answers:?}", sent / 1_000_000, after[1] - before[1]);
    lab.stop()
}

/// As libvirt at the target.
fn listen(path: &Path) -> Result<UnixListener> {
    UnixListener::bind(path).with_context(|| path.display().to_string())
}

/// How many bits come in some seconds, and the time since `begin`, which was before the first of them.
fn count(mut stream: UnixStream, begin: Instant) -> Result<(f64, Duration)> {
    let (mut buffer, mut bytes) = (vec![0; 1 << 20], 0);
    while begin.elapsed() < Duration::from_secs(5) {
        let count = stream.read(&mut buffer)?;
        ensure!(count > 0, "nothing comes any more");
        bytes += count;
    }
    Ok((bytes as f64 * 8.0, begin.elapsed()))
}

/// Two by one network, and one by another.
#[test]
fn several_move_at_once_each_at_its_rate() -> Result<()> {
    let authority = Authority::new()?;
    let networks = "[[migration_network]]\nname = \"slow\"\nmigrations = [\"slow-*\"]\nrate = \"200mbit\"\n\
                    [[migration_network]]\nname = \"rest\"\ninterface = \"eth0\"";
    let mut lab = lab([&authority, &authority], networks)?;
    let mut flows = Vec::new();
    let before = [lab.received(1, MIGRATION)?, lab.received(1, "eth0")?];
    for (guest, options, wanted) in
        [("slow-a", "", 200e6), ("slow-b", "--rate 80mbit", 80e6), ("web", "--rate 40mbit", 40e6)]
    {
        let libvirt = lab.node_path(1, &format!("{guest}.sock"));
        let listener = listen(&libvirt)?;
        offer(&mut lab, guest, &at(&libvirt), options)?;
        let begin = Instant::now();
        let mut source = UnixStream::connect(socket(&lab, &format!("{guest}-source.sock")))?;
        // Until the other side hangs up.
        thread::spawn(move || while source.write_all(&[7; 65_536]).is_ok() {});
        let stream = listener.accept()?.0;
        flows.push((guest, wanted, thread::spawn(move || count(stream, begin))));
    }
    for (guest, wanted, flow) in flows {
        let (bits, time) = flow.join().map_err(|_| anyhow::anyhow!("{guest}"))??;
        let may_come = wanted * time.as_secs_f64();
        println!("  {guest}: {:.1} of {:.0} Mbit/s", bits / time.as_secs_f64() / 1e6, wanted / 1e6);
        // None too soon, a portion apart (`Pace` counts in simulated time). On a busy machine, and until the first has come, fewer.
        ensure!((0.5..1.02).contains(&(bits / may_come)), "{guest}: {bits} of {may_come}");
    }
    // Each by the network that its name's rule says.
    let after = [lab.received(1, MIGRATION)?, lab.received(1, "eth0")?];
    let mut bytes =
        |guest| Ok::<_, anyhow::Error>(show(&mut lab, 1, guest)?["received_bytes"].as_u64().unwrap_or_default());
    let [slow, rest] = [bytes("slow-a")? + bytes("slow-b")?, bytes("web")?];
    let [by_migration, by_eth] = [after[0] - before[0], after[1] - before[1]];
    println!("  {slow} bytes of slow-a and slow-b, {by_migration} by {MIGRATION}; {rest} of web, {by_eth} by eth0");
    // TLS and TCP add a few percent; after the last look some more may have come.
    for (sent, came) in [(slow, by_migration), (rest, by_eth)] {
        ensure!((sent * 3 / 4..sent * 5 / 4).contains(&came), "{sent}, {came}");
    }
    let list = lab.node(0)?.daemon.ctl("migration list")?;
    println!("{list}");
    ensure!(list.contains("slow-a") && list.contains("200 Mbit/s") && list.contains("rest"), "{list}");
    lab.stop()
}

#[test]
fn who_has_another_authority_is_refused() -> Result<()> {
    let [ours, theirs] = [Authority::new()?, Authority::new()?];
    let mut lab = lab([&ours, &theirs], "")?;
    let libvirt = lab.node_path(1, "libvirt.sock");
    let listener = listen(&libvirt)?;
    listener.set_nonblocking(true)?;
    offer(&mut lab, "vm-a", &at(&libvirt), "")?;
    let mut source = UnixStream::connect(socket(&lab, "vm-a-source.sock"))?;
    let _ = source.write_all(b"who is there?");
    ensure!(!matches!(source.read(&mut [0]), Ok(1..)), "an answer");
    ensure!(listener.accept().is_err(), "it has come through");
    for index in 0..2 {
        let shown = show(&mut lab, index, "vm-a")?;
        let error = shown["error"].as_str().unwrap_or_default();
        ensure!(error.contains("TLS fails") && error.contains("authority"), "{shown}");
        println!("  node {index}: {error}");
    }
    lab.stop()
}

/// The four cases of an address, and where there is none.
#[test]
fn the_address_is_that_of_the_interface_or_the_hosts_own() -> Result<()> {
    let authority = Authority::new()?;
    let own = "[[migration_network]]\nname = \"all\"\naddress = \"10.244.0.12\"";
    let mut lab = lab([&authority, &authority], own)?;
    let listen =
        |lab: &mut Lab, guest: &str| lab.node(1)?.daemon.ask(&format!("migration listen {guest} --libvirt /nobody"));
    let addresses = |lab: &mut Lab, addresses: &[&str]| {
        let node = lab.node(1)?;
        node.ip(&format!("addr flush dev {MIGRATION}"))?;
        addresses.iter().try_for_each(|address| node.ip(&format!("addr add {address} dev {MIGRATION} nodad")))
    };
    let none = "has no address that other hosts reach";
    for (number, (there, expected)) in [
        (&["fe80::1/64"][..], Err(none)),
        (&["fe80::1/64", "172.21.42.7/24"], Ok("172.21.42.7")),
        (&["fd00:42::7/64"], Ok("fd00:42::7")),
    ]
    .into_iter()
    .enumerate()
    {
        addresses(&mut lab, there)?;
        match (listen(&mut lab, &format!("vm-{number}")), expected) {
            (Ok(target), Ok(address)) => ensure!(target["targetNodeAddress"] == address, "{target}"),
            (Err(error), Err(sentence)) => ensure!(format!("{error:#}").contains(sentence), "{error:#}"),
            (result, _) => anyhow::bail!("{there:?}: {result:?}"),
        }
    }
    lab.node(1)?.ip(&format!("link set {MIGRATION} name gone"))?;
    let target = listen(&mut lab, "vm-x")?;
    ensure!(target["targetNodeAddress"] == "10.244.0.12", "{target}");
    lab.node(1)?.ip(&format!("link set gone name {MIGRATION}"))?;
    lab.stop()
}

/// libvirt-qemu, as Debian numbers it.
const QEMU_OWNS: &str = "owner = \"64055:64055\"";

const DISK_BYTES: u64 = 8 << 20;
