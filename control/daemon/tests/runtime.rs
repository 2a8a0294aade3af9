//! culvertd as a process whose networks, ports and mirrors change: by clients, by its file, over restarts.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "these are tests")]

mod process;

use std::os::unix::net::UnixStream;
use std::path::Path;

use culvert_api::v1;
use culvert_api::v1::culvert_client::CulvertClient;
use process::{Setup, culvertd, kill, write_pcap};
use tonic::Code;
use tonic::transport::Channel;

type Client = CulvertClient<Channel>;

async fn add_port(client: &mut Client, name: &str, socket: &Path) -> Result<v1::ChangeResponse, tonic::Status> {
    let socket = Some(socket.display().to_string());
    let spec = v1::PortSpec { network: Some("blue".to_owned()), socket, ..v1::PortSpec::default() };
    let request = v1::AddPortRequest { name: name.to_owned(), port: Some(spec) };
    client.add_port(request).await.map(tonic::Response::into_inner)
}

async fn set_port(client: &mut Client, name: &str, spec: v1::PortSpec) -> Result<v1::ChangeResponse, tonic::Status> {
    let request = v1::SetPortRequest { name: name.to_owned(), port: Some(spec), unset: Vec::new() };
    client.set_port(request).await.map(tonic::Response::into_inner)
}

async fn ports(client: &mut Client) -> Vec<v1::Port> {
    client.list_ports(v1::ListPortsRequest::default()).await.unwrap().into_inner().ports
}

async fn names(client: &mut Client) -> Vec<String> {
    ports(client).await.into_iter().map(|port| port.name).collect()
}

async fn port(client: &mut Client, name: &str) -> v1::Port {
    let request = v1::ListPortsRequest { port: name.to_owned() };
    client.list_ports(request).await.unwrap().into_inner().ports.remove(0)
}

fn remove(name: &str) -> v1::RemoveRequest {
    v1::RemoveRequest { name: name.to_owned() }
}

/// Whether the other end closes the connection without a word.
fn is_closed(socket: &Path) -> bool {
    use std::io::Read;
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.read(&mut [0]).is_ok_and(|count| count == 0)
}

/// Sends the first message of a frontend, GET_FEATURES, and reads the header of the reply.
fn is_answered(socket: &Path) -> bool {
    use std::io::{Read, Write};
    let mut stream = UnixStream::connect(socket).unwrap();
    let header = [1_u32, 1, 0].map(u32::to_ne_bytes).concat();
    stream.write_all(&header).is_ok() && stream.read_exact(&mut [0; 12]).is_ok()
}

#[tokio::test]
async fn networks_ports_and_mirrors_come_and_go() {
    let setup = Setup::new().port("source", "device = \"net_null0\"");
    let mut culvertd = setup.start();
    let mut client = culvertd.client().await;
    let socket = setup.path("a/vhost.sock");
    let request = v1::AddNetworkRequest { name: "green".to_owned(), network: None };
    assert!(client.add_network(request.clone()).await.unwrap().into_inner().changed);
    assert!(!client.add_network(request).await.unwrap().into_inner().changed);
    assert!(add_port(&mut client, "vm-a", &socket).await.unwrap().changed);
    assert!(is_answered(&socket));
    let spec = v1::MirrorSpec { from: vec!["source".to_owned()], to: Some("vm-a".to_owned()), direction: None };
    let request = v1::AddMirrorRequest { name: "watch".to_owned(), mirror: Some(spec) };
    assert!(client.add_mirror(request).await.unwrap().into_inner().changed);

    let status = client.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.networks, status.ports, status.mirrors, status.warnings.as_slice()), (2, 2, 1, &[][..]));
    let networks = client.list_networks(v1::ListNetworksRequest {}).await.unwrap().into_inner().networks;
    let origins: Vec<_> = networks.iter().map(|network| (network.name.as_str(), network.origin())).collect();
    assert_eq!(origins, [("blue", v1::Origin::File), ("green", v1::Origin::Client)]);
    let mirrors = client.list_mirrors(v1::ListMirrorsRequest {}).await.unwrap().into_inner().mirrors;
    assert!(mirrors[0].active && mirrors[0].rx && mirrors[0].tx && mirrors[0].origin() == v1::Origin::Client);
    let spec = v1::PodSpec { folders: vec!["/nowhere".to_owned()], ..v1::PodSpec::default() };
    let request = v1::AddPodRequest { name: "launcher".to_owned(), pod: Some(spec) };
    assert!(client.add_pod(request.clone()).await.unwrap().into_inner().changed);
    assert!(!client.add_pod(request).await.unwrap().into_inner().changed);
    let pods = client.list_pods(v1::ListPodsRequest {}).await.unwrap().into_inner().pods;
    assert_eq!((pods[0].folders.concat(), pods[0].origin()), ("/nowhere".to_owned(), v1::Origin::Client));
    assert!(client.remove_pod(remove("launcher")).await.unwrap().into_inner().changed);
    assert!(!client.remove_pod(remove("launcher")).await.unwrap().into_inner().changed);
    let found = port(&mut client, "vm-a").await;
    assert_eq!((found.state(), found.origin(), found.vlan), (v1::PortState::Waiting, v1::Origin::Client, None));

    let spec = v1::PortSpec { vlan: Some(10), isolated: Some(true), ..v1::PortSpec::default() };
    let answer = set_port(&mut client, "vm-a", spec).await.unwrap();
    assert!(answer.changed && answer.note.is_empty());
    let found = port(&mut client, "vm-a").await;
    assert_eq!((found.vlan, found.isolated), (Some(10), true));
    let error = client.remove_port(remove("vm-a")).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert_eq!(error.message(), "port vm-a is needed by mirror watch; remove or change those first");
    assert!(client.remove_mirror(remove("watch")).await.unwrap().into_inner().changed);
    assert!(client.remove_port(remove("vm-a")).await.unwrap().into_inner().changed);
    assert!(!socket.exists());
    assert!(client.remove_network(remove("green")).await.unwrap().into_inner().changed);
    assert!(!client.remove_network(remove("green")).await.unwrap().into_inner().changed);
    let error = client.remove_port(remove("source")).await.unwrap_err();
    let file = setup.path("c.toml").display().to_string();
    let sentence = format!("port source stands in {file}:13; change it there and run `culvertctl reload`");
    assert_eq!((error.code(), error.message()), (Code::FailedPrecondition, sentence.as_str()));
    assert_eq!(names(&mut client).await, ["source"]);
    assert_eq!(culvertd.end("TERM"), Some(0));
}

/// A device as well, again and again under the same name.
#[tokio::test]
async fn devices_come_and_go() {
    let setup = Setup::new();
    let culvertd = setup.start();
    let mut client = culvertd.client().await;
    for _ in 0..5 {
        let (network, device) = (Some("blue".to_owned()), Some("net_null0".to_owned()));
        let spec = v1::PortSpec { network, device, ..v1::PortSpec::default() };
        let request = v1::AddPortRequest { name: "nic".to_owned(), port: Some(spec) };
        let answer = client.add_port(request).await.unwrap().into_inner();
        assert_eq!((answer.changed, answer.note.as_str()), (true, ""));
        assert_eq!(port(&mut client, "nic").await.state(), v1::PortState::Up);
        let two_queues = v1::PortSpec { queues: Some(2), ..v1::PortSpec::default() };
        let answer = set_port(&mut client, "nic", two_queues).await.unwrap();
        assert_eq!(answer.note, "port nic is opened anew: its device is closed meanwhile");
        assert_eq!(port(&mut client, "nic").await.state(), v1::PortState::Up);
        client.remove_port(remove("nic")).await.unwrap();
    }
}

#[tokio::test]
async fn what_clients_added_outlives_culvertd() {
    let setup = Setup::new();
    let socket = setup.path("a/vhost.sock");
    for (number, signal) in ["TERM", "KILL", "TERM"].into_iter().enumerate() {
        let mut culvertd = setup.start();
        let mut client = culvertd.client().await;
        if number == 0 {
            add_port(&mut client, "vm-a", &socket).await.unwrap();
            set_port(&mut client, "vm-a", v1::PortSpec { vlan: Some(7), ..v1::PortSpec::default() }).await.unwrap();
        }
        let found = port(&mut client, "vm-a").await;
        assert_eq!((found.state(), found.origin(), found.vlan), (v1::PortState::Waiting, v1::Origin::Client, Some(7)));
        assert!(is_answered(&socket));
        culvertd.end(signal);
    }
}

#[tokio::test]
async fn two_daemons_do_not_share_a_state_folder() {
    let setup = Setup::new();
    let first = setup.start();
    let other = setup.path("other.toml");
    std::fs::write(&other, setup.config.replace("c.sock", "d.sock")).unwrap();
    let second = culvertd(&other).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let message = String::from_utf8_lossy(&second.stderr);
    let expected = format!("another culvertd uses it (process {}); stop that one first", first.daemon());
    assert!(message.contains(&expected), "{message}");
}

#[tokio::test]
async fn a_damaged_journal_does_not_stop_the_node() {
    let setup = Setup::new();
    std::fs::create_dir(setup.path("state")).unwrap();
    std::fs::write(setup.path("state/journal"), "garbage\n").unwrap();
    let culvertd = setup.start();
    let mut client = culvertd.client().await;
    let status = client.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
    let folder = setup.path("state").display().to_string();
    assert_eq!(
        status.warnings,
        [format!(
            "what was added at run time is lost: the journal in {folder} is damaged: it is no journal of culvertd; it lies in \
             journal.damaged now"
        )]
    );
    assert!(culvertd.log.contains(&status.warnings[0]), "{}", culvertd.log);
    add_port(&mut client, "vm-a", &setup.path("a.sock")).await.unwrap();
}

/// Where nothing can be kept, nothing changes: neither now nor later.
#[tokio::test]
async fn a_change_that_cannot_be_kept_is_refused() {
    let setup = Setup::new();
    std::fs::write(setup.path("state"), "").unwrap();
    let culvertd = setup.start();
    let mut client = culvertd.client().await;
    let socket = setup.path("a.sock");
    let error = add_port(&mut client, "vm-a", &socket).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert!(error.message().contains("cannot be used") && error.message().contains("daemon.state_dir"), "{error}");
    let status = client.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
    assert!(status.warnings[0].starts_with("nothing can be changed at run time: state folder "), "{status:?}");
    assert!(names(&mut client).await.is_empty() && !socket.exists());

    let setup = Setup::new();
    let culvertd = setup.start();
    let mut client = culvertd.client().await;
    // In the place of the file that becomes the journal.
    std::fs::create_dir(setup.path("state/journal.new")).unwrap();
    let error = add_port(&mut client, "vm-a", &socket).await.unwrap_err();
    assert!(error.message().starts_with("the journal cannot be written: Is a directory"), "{error}");
    assert!(names(&mut client).await.is_empty() && !socket.exists());
    std::fs::remove_dir(setup.path("state/journal.new")).unwrap();
    add_port(&mut client, "vm-a", &socket).await.unwrap();
}

#[tokio::test]
async fn a_reload_changes_what_is_different() {
    let mut setup = Setup::new().port("source", "device = \"net_null0\"").guest("vm-a", "");
    let culvertd = setup.start();
    let mut client = culvertd.client().await;
    let frames = |stats: v1::GetStatsResponse| stats.ports[0].rx_frames;
    let request = v1::GetStatsRequest { port: "source".to_owned() };
    let before = frames(client.get_stats(request.clone()).await.unwrap().into_inner());
    let reload =
        |mut client: Client| async move { client.reload(v1::ReloadRequest {}).await.map(tonic::Response::into_inner) };
    assert_eq!(reload(client.clone()).await.unwrap(), v1::ReloadResponse::default());

    add_port(&mut client, "vm-c", &setup.path("c")).await.unwrap();
    setup.config = setup.config.replace("name = \"vm-a\"", "name = \"vm-b\"\nvlan = 5");
    setup.config.push_str("[[network]]\nname = \"green\"\n");
    setup.config = setup.config.replace("memory_mb = 64", "memory_mb = 65");
    setup.write();
    let answer = reload(client.clone()).await.unwrap();
    assert_eq!(answer.actions, ["close port vm-a", "add network green", "open port vm-b"]);
    assert_eq!(answer.waiting, ["datapath.memory_mb"]);
    let status = client.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
    let file = setup.path("c.toml").display().to_string();
    assert_eq!(status.warnings, [format!("datapath.memory_mb changed in {file}; restart culvertd")]);
    assert_eq!(names(&mut client).await, ["source", "vm-b", "vm-c"]);
    assert_eq!(port(&mut client, "vm-b").await.vlan, Some(5));
    // The port that stayed has its counters still.
    assert!(frames(client.get_stats(request).await.unwrap().into_inner()) >= before.max(1));

    // A file with mistakes changes nothing, and all are told: also what an object of a client has already.
    let good = setup.config.clone();
    setup = setup.port("vm-c", "socket = \"/x\"\nmtu = 1");
    setup.write();
    let error = reload(client.clone()).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    let mistakes: Vec<_> = error.message().lines().collect();
    assert_eq!(mistakes.len(), 2, "{mistakes:?}");
    assert!(
        mistakes[0].contains("is the name of a port that was added at run time; choose another name"),
        "{mistakes:?}"
    );
    assert!(mistakes[1].ends_with("port.mtu = 1: is out of range; write a number from 68 to 9216"), "{mistakes:?}");
    assert_eq!(names(&mut client).await, ["source", "vm-b", "vm-c"]);

    // The same by a signal.
    setup.config = good.replace("name = \"vm-b\"", "name = \"vm-d\"").replace("memory_mb = 65", "memory_mb = 64");
    setup.write();
    kill("HUP", culvertd.child.id());
    while names(&mut client).await != ["source", "vm-d", "vm-c"] {}
    while !client.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner().warnings.is_empty() {}
}

/// A port that cannot be opened is wanted all the same, and opened when it can be. A guest that follows its link has none
/// until then.
#[tokio::test]
async fn failed_ports_are_opened_later_and_links_are_followed() {
    let setup = Setup::new();
    let (input, socket) = (setup.path("in.pcap"), setup.socket("vm-a"));
    let setup = setup.port("up0", &format!("device = \"net_pcap0,rx_pcap={}\"", input.display()));
    let setup = setup.guest("vm-a", "follow_link = \"up0\"");
    let culvertd = setup.start();
    let mut client = culvertd.client().await;
    assert_eq!(port(&mut client, "up0").await.state(), v1::PortState::Failed);
    let guest = port(&mut client, "vm-a").await;
    assert_eq!((guest.state(), guest.reason.as_str()), (v1::PortState::Down, "the link of up0 is down"));
    assert!(is_closed(&socket));

    write_pcap(&input, &[]);
    while port(&mut client, "up0").await.state() == v1::PortState::Failed {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let up = port(&mut client, "up0").await;
    let Some(v1::port::Attachment::Nic(nic)) = &up.attachment else { panic!("{up:?}") };
    assert_eq!((up.state(), nic.link()), (v1::PortState::Up, v1::Link::Up));
    while port(&mut client, "vm-a").await.state() != v1::PortState::Waiting {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(is_answered(&socket));
}

/// A port that a client adds and that cannot be opened is no refusal: it is kept, and the answer says so.
#[tokio::test]
async fn a_port_that_cannot_be_opened_at_once_is_kept() {
    let setup = Setup::new();
    let mut culvertd = setup.start();
    let mut client = culvertd.client().await;
    std::fs::write(setup.path("file"), "precious").unwrap();
    let answer = add_port(&mut client, "vm-a", &setup.path("file")).await.unwrap();
    let path = setup.path("file").display().to_string();
    let reason = format!("{path} exists and is not a socket; remove it, or choose another `socket`");
    assert_eq!(answer.note, format!("port vm-a cannot be opened, and is tried again: {reason}"));
    let found = port(&mut client, "vm-a").await;
    assert_eq!((found.state(), found.reason), (v1::PortState::Failed, reason));
    // After a restart it is tried as well.
    culvertd.end("KILL");
    std::fs::remove_file(setup.path("file")).unwrap();
    let culvertd = setup.start();
    assert_eq!(port(&mut culvertd.client().await, "vm-a").await.state(), v1::PortState::Waiting);
}

/// Another file at the next start: the file wins.
#[tokio::test]
async fn after_a_restart_the_file_wins() {
    let setup = Setup::new();
    let mut culvertd = setup.start();
    add_port(&mut culvertd.client().await, "vm-a", &setup.path("a")).await.unwrap();
    add_port(&mut culvertd.client().await, "vm-b", &setup.path("b")).await.unwrap();
    culvertd.end("TERM");
    let setup = setup.guest("vm-a", "");
    let culvertd = setup.start();
    let mut client = culvertd.client().await;
    let found = ports(&mut client).await;
    let origins: Vec<_> = found.iter().map(|port| (port.name.as_str(), port.origin())).collect();
    assert_eq!(origins, [("vm-a", v1::Origin::File), ("vm-b", v1::Origin::Client)]);
    let status = client.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
    assert!(status.warnings[0].starts_with("port vm-a, which was added at run time, does not fit"), "{status:?}");
    assert!(setup.socket("vm-a").exists() && !setup.path("a").exists());
}

/// Many clients at once, some of them at the same objects: nobody waits for ever, and nothing is left.
#[tokio::test]
async fn clients_may_meet() {
    let setup = Setup::new().port("source", "device = \"net_null0\"");
    let culvertd = setup.start();
    let mut tasks = Vec::new();
    for client_number in 0..8 {
        let mut client = culvertd.client().await;
        let folder = setup.path("");
        tasks.push(tokio::spawn(async move {
            for round in 0..10 {
                let name = format!("p{}", (client_number + round) % 4);
                let own = format!("own{client_number}");
                add_port(&mut client, &name, &folder.join(&name)).await.unwrap();
                add_port(&mut client, &own, &folder.join(&own)).await.unwrap();
                let limits = v1::PortSpec { broadcast_limit: Some(1 + round), ..v1::PortSpec::default() };
                assert!(set_port(&mut client, &own, limits).await.unwrap().changed);
                assert!(names(&mut client).await.contains(&own));
                client.get_stats(v1::GetStatsRequest::default()).await.unwrap();
                client.remove_port(remove(&name)).await.unwrap();
                assert!(client.remove_port(remove(&own)).await.unwrap().into_inner().changed);
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(names(&mut culvertd.client().await).await, ["source"]);
}

/// The keys reach the datapath: a frame of an access port gets its tag at a trunk, a mirror has a copy, and a trace of the
/// same frame says so.
#[tokio::test]
async fn vlans_and_mirrors_are_at_work_and_a_trace_tells_so() {
    let setup = Setup::new();
    let frame = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1], &[0x88, 0xb5], &[7; 46]].concat();
    write_pcap(&setup.path("in.pcap"), &[&frame]);
    let device = |number: u8, direction: &str, name: &str| {
        format!("device = \"net_pcap{number},{direction}_pcap={}\"\n", setup.path(name).display())
    };
    let (access, trunk) = (device(0, "rx", "in.pcap") + "vlan = 10", device(1, "tx", "trunk.pcap") + "trunk = [10]");
    let (other, probe) = (device(2, "tx", "other.pcap") + "vlan = 11", device(3, "tx", "probe.pcap"));
    let mut setup = setup.port("in", &access).port("trunk", &trunk).port("other", &other).port("probe", &probe);
    setup.config.push_str("[[mirror]]\nname = \"watch\"\nfrom = [\"in\"]\nto = \"probe\"\n");
    let mut culvertd = setup.start();
    let mut client = culvertd.client().await;
    for port in ["trunk", "probe"] {
        let request = v1::GetStatsRequest { port: port.to_owned() };
        while client.get_stats(request.clone()).await.unwrap().into_inner().ports[0].tx_frames == 0 {}
    }
    let macs = client.list_macs(v1::ListMacsRequest::default()).await.unwrap().into_inner().macs;
    assert_eq!(macs.iter().map(|mac| (mac.mac.as_str(), mac.vlan)).collect::<Vec<_>>(), [("02:00:00:00:00:01", 10)]);
    let request = v1::TraceRequest { port: "in".to_owned(), frame: frame.clone() };
    let trace = client.trace(request).await.unwrap().into_inner();
    let fate = |port: &str, copy| v1::TraceFate { port: port.to_owned(), dropped: String::new(), copy };
    assert_eq!((trace.fates, trace.refused.as_str()), (vec![fate("trunk", false), fate("probe", true)], ""));
    let told: Vec<_> = trace.steps.iter().map(|step| step.what.as_str()).collect();
    assert!(told.contains(&"leaves at trunk, tagged with VLAN 10"), "{told:?}");
    let traced = [&frame[..6], &[2, 0, 0, 0, 0, 1, 0x81, 0, 0, 10], &frame[12..]].concat();
    let refused = v1::TraceRequest { port: "in".to_owned(), frame: traced.clone() };
    assert_eq!(client.trace(refused).await.unwrap().into_inner().refused, "vlan-not-allowed");
    assert_eq!(culvertd.end("TERM"), Some(0));

    let held = |name: &str| std::fs::read(setup.path(name)).unwrap()[24..].to_vec();
    assert!(held("trunk.pcap").ends_with(&traced) && held("trunk.pcap").len() == 16 + traced.len());
    assert!(held("probe.pcap").ends_with(&frame) && held("probe.pcap").len() == 16 + frame.len());
    assert!(held("other.pcap").is_empty());
}
