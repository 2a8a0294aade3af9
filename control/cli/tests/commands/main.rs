//! culvertctl as a user meets it: exact tables, JSON, error sentences and exit codes, against a fake culvertd.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

mod convert;
mod fake;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use fake::Fake;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use serde_json::{Value, json};

fn culvertctl(socket: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_culvertctl"));
    command.arg("--socket").arg(socket).args(arguments);
    command
}

async fn output(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// What `arguments` print; they must succeed.
async fn printed(arguments: &[&str]) -> String {
    let fake = Fake::start();
    let output = output(culvertctl(&fake.socket(), arguments)).await;
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

async fn printed_json(arguments: &[&str]) -> Value {
    serde_json::from_str(&printed(&[arguments, &["-o", "json"]].concat()).await).unwrap()
}

/// The exit code and the error message of `arguments`.
async fn failure(socket: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = output(culvertctl(socket, arguments)).await;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[tokio::test]
async fn status() {
    assert_eq!(
        printed(&["status"]).await,
        "\
version     0.1.0
process     4242, for 1h2m
supervisor  4241, restarts: 2, the last after signal 11 (SIGSEGV)
config      /etc/culvert/culvertd.toml
memory      256 MiB in ordinary pages: none are free
networks    1
ports       3, 2 up
mirrors     1
pods        2
bugs        0

WORKER    FRAMES  LOOPS  BUSY LOOPS  SLEEPS  GAPS  LONGEST GAP
core 1  12345678   1000          10       3     2  5021.340 ms

TRANSLATOR                          RX FRAMES  RX BYTES  TX FRAMES  TX BYTES  FLOWS  REFUSED
/run/culvert/translators/vm-a.sock          7       700          8       800      3        7

warning: the translator at /run/culvert/translators/vm-b.sock.ctl cannot be reached: Connection refused

warning: daemon.state_dir changed in f.toml; restart culvertd
"
    );
    let status = printed_json(&["status"]).await;
    assert_eq!(status["ports_up"], 2);
    assert_eq!(status["workers"][0]["frames"], 12_345_678);
    assert_eq!(status["translators"][0]["statistics"]["tcp_flows_total"], 90);
    assert_eq!(status["translators"][1]["socket"], "/run/culvert/translators/vm-b.sock");
}

#[tokio::test]
async fn events() {
    assert_eq!(
        printed(&["events"]).await,
        "\
2023-11-14T22:13:20.123Z  started          -                culvertd has started
2023-11-14T22:13:20.123Z  quarantined      vm-a             the guest broke a ring; restart it
"
    );
    assert_eq!(
        printed(&["events", "vm-a", "--watch"]).await,
        "\
2023-11-14T22:13:20.123Z  quarantined      vm-a             the guest broke a ring; restart it
2023-11-14T22:13:20.123Z  up               vm-a             frames pass
"
    );
    assert_eq!(
        printed(&["events", "vm-a", "--past", "1", "-o", "json"]).await,
        "{\"number\":2,\"time\":\"2023-11-14T22:13:20.123Z\",\"kind\":\"quarantined\",\"port\":\"vm-a\",\
         \"text\":\"the guest broke a ring; restart it\"}\n"
    );
    let fake = Fake::start();
    let output = output(culvertctl(&fake.socket(), &["events", "--watch"])).await;
    let sentence = "culvertctl: 6 events are missing here: they were not read in time\n";
    assert_eq!(String::from_utf8_lossy(&output.stderr), sentence);
}

#[tokio::test]
async fn log_levels() {
    assert_eq!(printed(&["log-level"]).await, "info\n");
    assert_eq!(printed(&["log-level", "debug"]).await, "debug (started with info)\n");
    assert_eq!(printed(&["log-level", "--reset"]).await, "info\n");
    assert_eq!(printed_json(&["log-level", "debug"]).await, json!({"filter": "debug", "at_start": "info"}));
}

#[tokio::test]
async fn yaml_says_what_json_says() {
    for arguments in [&["status"][..], &["port", "list"], &["network", "show", "blue"], &["stats"], &["drops"]] {
        let yaml = printed(&[arguments, &["-o", "yaml"]].concat()).await;
        let read: Value = serde_norway::from_str(&yaml).unwrap();
        assert_eq!(read, printed_json(arguments).await, "{yaml}");
    }
    assert!(printed(&["network", "list", "-o", "yaml"]).await.starts_with("- name: blue\n"));
}

/// Two answers, one after the other, until the signal of Ctrl-C; nothing that is for a terminal.
#[tokio::test]
async fn what_is_watched_comes_again() {
    use std::io::Read;
    let fake = Fake::start();
    let mut command = culvertctl(&fake.socket(), &["network", "list", "--watch=0.1"]);
    let once = printed(&["network", "list"]).await;
    let printed = tokio::task::spawn_blocking(move || {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut text = vec![0; 2 * once.len()];
        child.stdout.as_mut().unwrap().read_exact(&mut text).unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
        (String::from_utf8(text).unwrap(), once)
    });
    let (text, once) = printed.await.unwrap();
    assert_eq!(text, once.repeat(2));
    let (code, message) = failure(&fake.socket(), &["port", "del", "vm-a", "--watch"]).await;
    assert_eq!(code, Some(2));
    assert!(message.contains("--watch is for commands that show something"), "{message}");
    let (code, _) = failure(&fake.socket(), &["port", "list", "--watch=0"]).await;
    assert_eq!(code, Some(2));
}

#[tokio::test]
async fn shells_and_man_know_the_commands() {
    for (shell, word) in [("bash", "complete -F"), ("zsh", "#compdef culvertctl"), ("fish", "complete -c culvertctl")] {
        let script = printed(&["completion", shell]).await;
        assert!(script.contains(word) && script.contains("rebalance"), "{shell}");
    }
    let folder = tempfile::tempdir().unwrap();
    let man = folder.path().join("man1");
    assert_eq!(printed(&["man", man.to_str().unwrap()]).await, "");
    for page in ["culvertctl.1", "culvertctl-port-add.1", "culvertctl-events.1"] {
        let text = std::fs::read_to_string(man.join(page)).unwrap();
        assert!(text.contains(".SH NAME") && text.contains(".SH OPTIONS"), "{page}");
    }
    let (code, message) = failure(Path::new("/nowhere"), &["man", "/proc/no"]).await;
    assert_eq!(code, Some(1));
    assert!(message.starts_with("culvertctl: man pages cannot be written to /proc/no: "), "{message}");
}

/// There is no culvertd, and everything else is looked at.
#[tokio::test]
async fn the_doctor_needs_no_culvertd() {
    let output =
        output(culvertctl(Path::new("/nowhere/c.sock"), &["doctor", "--config", "/nowhere/f", "-o", "json"])).await;
    let findings: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let of = |check: &str| findings.iter().find(|finding| finding["check"] == check).unwrap();
    assert_eq!(of("config")["found"], "there is no /nowhere/f; the defaults are looked at");
    assert_eq!(of("culvertd")["level"], "warning");
    for check in ["kernel", "landlock", "seccomp", "hugepages", "cores", "devices", "folders", "kubevirt"] {
        assert_ne!(of(check)["found"], "", "{check}");
    }
    let failed = findings.iter().any(|finding| finding["level"] == "error");
    assert_eq!(output.status.code(), Some(i32::from(failed)));
}

#[tokio::test]
async fn the_doctor_asks_culvertd() {
    let fake = Fake::start();
    let output = output(culvertctl(&fake.socket(), &["doctor", "--config", "/nowhere/f"])).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("ok       culvertd     version 0.1.0 runs as process 4242\n"), "{text}");
    let failed =
        "error    ports        port vm-b does not work: the folder is gone; make it\n                      -> ";
    assert!(text.contains(failed), "{text}");
    assert_eq!(output.status.code(), Some(1));
}

/// The configuration has secrets in many places; the archive has none of them, and everything else.
#[tokio::test]
async fn a_support_bundle_has_everything_but_secrets() {
    use std::io::Read;
    use std::os::unix::fs::PermissionsExt;
    let fake = Fake::start();
    let folder = tempfile::tempdir().unwrap();
    let (config, file) = (folder.path().join("f.toml"), folder.path().join("bundle.tar.gz"));
    let text = "# hunter2\n[daemon]\nstate_dir = \"/srv/culvert\"\ntoken = \"hunter2\"\n[migration]\nkey = \"hunter2\"\n\
                [[port]]\nname = \"vm-a\"\ndevice = \"net_x,password=hunter2\"\n";
    std::fs::write(&config, text).unwrap();
    let arguments = ["support-bundle", file.to_str().unwrap(), "--config", config.to_str().unwrap()];
    let output = output(culvertctl(&fake.socket(), &arguments)).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(std::fs::File::open(&file).unwrap()));
    let mut files = std::collections::BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().into_owned();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        assert!(!text.contains("hunter2"), "{}: {text}", path.display());
        let path = path.iter().skip(1).collect::<std::path::PathBuf>();
        files.insert(path.display().to_string(), text);
    }
    assert!(files["config.toml"].contains("/srv/culvert"));
    assert!(files["status.json"].contains("4242") && files["events.json"].contains("quarantined"));
    assert!(files["doctor.txt"].contains("config") && files["about.txt"].starts_with("culvertctl "));
    for part in ["ports.json", "stats.json", "drops.json", "macs.json", "workers.json", "log.txt", "cpu/info"] {
        assert!(!files[part].is_empty(), "{part}");
    }
}

/// Asks a translator that gives one `reply` to whatever it is asked: what it was asked, and what became of it.
fn translator(arguments: &[&str], reply: &'static str) -> (String, Output) {
    let folder = tempfile::tempdir().unwrap();
    let guest = folder.path().join("vm.sock");
    let kind = rustix::net::SocketType::SEQPACKET;
    let socket = rustix::net::socket(rustix::net::AddressFamily::UNIX, kind, None).unwrap();
    let address = rustix::net::SocketAddrUnix::new(folder.path().join("vm.sock.ctl")).unwrap();
    rustix::net::bind(&socket, &address).unwrap();
    rustix::net::listen(&socket, 1).unwrap();
    let server = std::thread::spawn(move || {
        let client = rustix::net::accept(&socket).unwrap();
        let mut request = [0; 1000];
        let (length, _) = rustix::net::recv(&client, &mut request, rustix::net::RecvFlags::empty()).unwrap();
        rustix::net::send(&client, reply.as_bytes(), rustix::net::SendFlags::empty()).unwrap();
        String::from_utf8(request[..length].to_vec()).unwrap()
    });
    // There is no culvertd.
    let mut command = culvertctl(Path::new("/nowhere"), &["translator"]);
    let output = command.args(arguments).arg("--socket").arg(guest).output().unwrap();
    (server.join().unwrap(), output)
}

#[test]
fn translators() {
    for (arguments, reply, request, printed) in [
        (&["forward", "list"][..], "ok\nTCP *:80 => 80\n", "forward list", "TCP *:80 => 80\n"),
        (&["forward", "list", "-o", "json"], "ok\nTCP *:80 => 80\n", "forward list", "[\n  \"TCP *:80 => 80\"\n]\n"),
        (&["forward", "add", "tcp", "2222:22"], "ok\n", "forward add tcp 2222:22", ""),
        (&["forward", "remove", "udp", "~53"], "ok\n", "forward remove udp ~53", ""),
        (&["flows"], "ok\ntcp a\nudp b\n", "flows", "tcp a\nudp b\n"),
        (&["stats"], "ok\nrx_frames 7\ntx_bytes 1234\n", "stats", "rx_frames  7\ntx_bytes   1234\n"),
        (&["stats", "-o", "json"], "ok\nrx_frames 7\n", "stats", "{\n  \"rx_frames\": 7\n}\n"),
    ] {
        let (asked, output) = translator(arguments, reply);
        assert_eq!(asked, request);
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stdout).as_ref()), (Some(0), printed));
    }
    let (_, output) = translator(&["forward", "add", "tcp", "x"], "error: x is no port\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "culvertctl: x is no port\n");
    assert_eq!(output.status.code(), Some(1));
}

#[tokio::test]
async fn no_translator_is_one_sentence_and_exit_code_3() {
    let (code, message) =
        failure(Path::new("/nowhere"), &["translator", "stats", "--socket", "/nowhere/vm.sock"]).await;
    let expected = "culvertctl: the translator at /nowhere/vm.sock.ctl cannot be reached: No such file or directory (os \
                    error 2); does it run, and may you write to its socket?\n";
    assert_eq!((code, message.as_str()), (Some(3), expected));
}

#[tokio::test]
async fn networks() {
    let list = "NETWORK  PORTS  MACS  MAC AGE  ORIGIN\nblue         3    12     300s  file\n";
    assert_eq!(printed(&["network", "list"]).await, list);
    let show = "\
name         blue
mac age      300s
macs         12
snooping     yes
guest ports  16
origin       file
ports        uplink0, vm-a, vm-b
";
    assert_eq!(printed(&["network", "show", "blue"]).await, show);
    let blue = json!({
        "name": "blue", "mac_age_seconds": 300, "macs": 12, "ports": ["uplink0", "vm-a", "vm-b"], "snooping": true,
        "origin": "file", "guest_ports": 16,
    });
    assert_eq!(printed_json(&["network", "show", "blue"]).await, blue);
    assert_eq!(printed_json(&["network", "list"]).await, json!([blue]));
}

#[tokio::test]
async fn ports() {
    assert_eq!(
        printed(&["port", "list"]).await,
        "\
PORT     NETWORK  STATE   KIND   QUEUES   MTU  SOCKET OR DEVICE   DESCRIPTION
uplink0  blue     up      nic         2  1500  0000:03:00.0
vm-a     blue     up      guest       2  1500  /run/a/vhost.sock  database of Anna
vm-b     blue     failed  guest       2  1500  /run/b/vhost.sock

vm-b failed: the folder is gone; make it
"
    );
    let ports = printed_json(&["port", "list"]).await;
    assert_eq!(
        ports[0],
        json!({
            "name": "uplink0", "network": "blue", "state": "up", "mtu": 1500, "queues": 2, "mac_limit": 64,
            "trunk": ["10", "30-39"], "isolated": false, "origin": "file",
            "kind": "nic", "device": "0000:03:00.0", "driver": "net_ixgbe", "mac": "02:00:00:00:00:01",
            "link": "up", "speed_mbps": 10_000, "promiscuous": true,
        })
    );
    assert_eq!(
        ports[2],
        json!({
            "name": "vm-b", "network": "blue", "state": "failed", "reason": "the folder is gone; make it",
            "mtu": 1500, "queues": 2, "mac_limit": 64, "isolated": false, "origin": "file",
            "kind": "guest", "socket": "/run/b/vhost.sock", "role": "listen", "offloads": true, "features": [],
            "rings": 0,
        })
    );
    assert_eq!(
        printed(&["port", "show", "vm-a"]).await,
        "\
name             vm-a
network          blue
state            up
mtu              1500
queues           2
mac limit        64
vlan             10, with the guest's tags inside
broadcast limit  1000 frames/s
rx rate          100mbit, 9 bytes at once
tx frame rate    7 frames/s
isolated         yes
description      database of Anna
origin           client
socket           /run/a/vhost.sock
socket root      /run/a
role             listen
owner            107:107
label            a:b:c
mac              02:00:00:00:00:0a
addresses        10.0.0.5, fd00::/64
offloads         yes
follows link     uplink0
peer             process 77
features         mrg_rxbuf, version_1
rings            4 running
"
    );
    let port = printed_json(&["port", "show", "vm-a"]).await;
    assert_eq!((&port["peer_pid"], &port["vlan"], &port["qinq"]), (&json!(77), &json!(10), &json!(true)));
    assert_eq!(port["addresses"], json!(["10.0.0.5", "fd00::/64"]));
    assert_eq!(port["follow_link"], "uplink0");
    assert_eq!(
        (&port["socket_root"], &port["owner"], &port["label"]),
        (&json!("/run/a"), &json!("107:107"), &json!("a:b:c"))
    );
    assert_eq!(port["description"], "database of Anna");
}

#[tokio::test]
async fn mirrors() {
    assert_eq!(
        printed(&["mirror", "list"]).await,
        "\
MIRROR  FROM           TO    DIRECTION  STATE             ORIGIN
watch   vm-a, uplink0  vm-b  rx         waits for a port  client
"
    );
    let show = "\
name       watch
from       vm-a, uplink0
to         vm-b
direction  rx
state      waits for a port
origin     client
";
    assert_eq!(printed(&["mirror", "show", "watch"]).await, show);
    let watch = json!({
        "name": "watch", "from": ["vm-a", "uplink0"], "to": "vm-b", "direction": "rx", "active": false, "origin": "client",
    });
    assert_eq!(printed_json(&["mirror", "show", "watch"]).await, watch);
    let fake = Fake::start();
    let sentence = "culvertctl: there is no mirror x; `culvertctl mirror list` shows the mirrors\n";
    assert_eq!(failure(&fake.socket(), &["mirror", "show", "x"]).await, (Some(1), sentence.to_owned()));
}

#[tokio::test]
async fn pods() {
    assert_eq!(
        printed(&["pod", "list"]).await,
        "\
POD                FOLDERS  TAP   HELPED  PROBLEMS  ORIGIN   DESCRIPTION
0f1e2d3c4b5a-eth0        2  tap0       1         1  client   lab/fw
bare                     1  -          0         0  unknown  -
"
    );
    let show = "\
name         0f1e2d3c4b5a-eth0
folders      /a/one, /a/two
namespace    /var/run/netns/cni-1
tap          tap0
description  lab/fw
helped       /a/one/vm.sock
origin       client

warning: folder /a/two cannot be read; correct its mode
";
    assert_eq!(printed(&["pod", "show", "0f1e2d3c4b5a-eth0"]).await, show);
    let bare = json!({"name": "bare", "folders": ["/b"], "helped": [], "problems": [], "origin": "unknown"});
    assert_eq!(printed_json(&["pod", "show", "bare"]).await, bare);
    let fake = Fake::start();
    let sentence = "culvertctl: there is no pod x; `culvertctl pod list` shows the pods\n";
    assert_eq!(failure(&fake.socket(), &["pod", "show", "x"]).await, (Some(1), sentence.to_owned()));
}

/// What each flag becomes in the request, which the fake prints.
#[tokio::test]
async fn flags_are_the_keys_of_the_configuration() {
    let add = "port add vm-c --network blue --socket /s --role connect --device d --mac m --queues 2 --mtu 9000 \
               --mac-limit 3 --vlan 10 --qinq --trunk 10,30-39 --native 4 --addresses 10.0.0.1,fd00::/64 \
               --broadcast-limit 5 --unknown-limit 6 --isolated=false --offloads=false --promiscuous --follow-link up \
               --socket-root /r --owner 107:107 --label l --description d --rx-rate 1mbit --rx-burst 7 \
               --rx-frame-rate 8 --rx-frame-burst 9 --tx-rate 2.5gbit --tx-burst 10 --tx-frame-rate 11 --tx-frame-burst 12";
    let words: Vec<&str> = add.split_whitespace().collect();
    assert_eq!(
        printed(&words).await,
        "port vm-c added\nAddPortRequest { name: \"vm-c\", port: Some(PortSpec { network: Some(\"blue\"), socket: \
         Some(\"/s\"), role: Some(\"connect\"), device: Some(\"d\"), mac: Some(\"m\"), queues: Some(2), mtu: Some(9000), \
         mac_limit: Some(3), vlan: Some(10), qinq: Some(true), trunk: [\"10\", \"30-39\"], native: Some(4), addresses: \
         [\"10.0.0.1\", \"fd00::/64\"], broadcast_limit: Some(5), unknown_limit: Some(6), isolated: Some(false), \
         offloads: Some(false), promiscuous: Some(true), follow_link: Some(\"up\"), socket_root: \
         Some(\"/r\"), owner: Some(\"107:107\"), label: Some(\"l\"), description: Some(\"d\"), rx_rate: \
         Some(\"1mbit\"), rx_burst: Some(7), rx_frame_rate: Some(8), rx_frame_burst: Some(9), tx_rate: \
         Some(\"2.5gbit\"), tx_burst: Some(10), tx_frame_rate: Some(11), tx_frame_burst: Some(12) }) }\n"
    );
    let set = printed(&["port", "set", "vm-c", "--isolated", "--unset", "vlan,qinq"]).await;
    assert!(set.starts_with("port vm-c changed\nSetPortRequest { name: \"vm-c\", "), "{set}");
    assert!(set.contains("vlan: None") && set.contains("isolated: Some(true)"), "{set}");
    assert!(set.ends_with(", unset: [\"vlan\", \"qinq\"] }\n"), "{set}");
    assert_eq!(
        printed(&["network", "add", "red", "--mac-age", "5m", "--snooping", "--guest-ports", "8"]).await,
        "network red added\nAddNetworkRequest { name: \"red\", network: Some(NetworkSpec { mac_age: Some(\"5m\"), \
         snooping: Some(true), guest_ports: Some(8) }) }\n"
    );
    assert_eq!(
        printed(&["network", "set", "red", "--unset", "mac_age"]).await,
        "network red changed\nSetNetworkRequest { name: \"red\", network: Some(NetworkSpec { mac_age: None, snooping: \
         None, guest_ports: None }), unset: [\"mac_age\"] }\n"
    );
    assert_eq!(
        printed(&["mirror", "add", "m", "--from", "a,b", "--to", "c", "--direction", "tx"]).await,
        "mirror m added\nAddMirrorRequest { name: \"m\", mirror: Some(MirrorSpec { from: [\"a\", \"b\"], to: Some(\"c\"), \
         direction: Some(\"tx\") }) }\n"
    );
}

#[tokio::test]
async fn answers_to_changes() {
    assert_eq!(
        printed(&["pod", "add", "d", "--folders", "/a,/b", "--netns", "/n", "--tap", "t", "--description", "x y"])
            .await,
        "pod d added\nAddPodRequest { name: \"d\", pod: Some(PodSpec { folders: [\"/a\", \"/b\"], netns: Some(\"/n\"), \
         tap: Some(\"t\"), description: Some(\"x y\") }) }\n"
    );
    assert_eq!(printed(&["pod", "del", "d"]).await, "pod d removed\n");
    assert_eq!(printed(&["port", "del", "vm-a"]).await, "port vm-a removed\n");
    assert_eq!(printed(&["mirror", "del", "m"]).await, "nothing to do\n");
    assert_eq!(printed(&["network", "del", "red"]).await, "nothing to do: there was no network red\n");
    let note = json!({"changed": false, "note": "there was no network red"});
    assert_eq!(printed_json(&["network", "del", "red"]).await, note);
    assert_eq!(printed_json(&["port", "del", "vm-a"]).await, json!({"changed": true}));
    assert_eq!(
        printed(&["reload"]).await,
        "close port vm-b\nopen port vm-c\ndatapath.memory_mb: waits for a restart of culvertd\n"
    );
    let reload = json!({"actions": ["close port vm-b", "open port vm-c"], "needs_restart": ["datapath.memory_mb"]});
    assert_eq!(printed_json(&["reload"]).await, reload);
    let fake = Fake::start();
    let expected = "culvertctl: port.vlan = 0: is wrong; correct it\nculvertctl: port.mtu = 0: is wrong; correct it\n";
    assert_eq!(failure(&fake.socket(), &["port", "add", "bad"]).await, (Some(1), expected.to_owned()));
}

#[tokio::test]
async fn a_trace_is_told_in_words() {
    let frame = "ff:ff:ff:ff:ff:ff 02000000000a 0806 0001";
    assert_eq!(
        printed(&["trace", "vm-a", frame]).await,
        "\
frame 1 from vm-a: 02:00:00:00:00:0a > ff:ff:ff:ff:ff:ff 0806 len 16
  goes to all ports of its VLAN: it is for all
  leaves at vm-b, 16 bytes
"
    );
    let trace = printed_json(&["trace", "vm-a", frame]).await;
    assert_eq!(trace["frame"], 1);
    let steps = [
        json!({"what": "goes to all ports of its VLAN", "why": "it is for all"}),
        json!({"what": "leaves at vm-b, 16 bytes"}),
    ];
    assert_eq!(trace["steps"], json!(steps));
    let fates =
        [json!({"port": "vm-b", "copy": false}), json!({"port": "uplink0", "dropped": "too-long", "copy": true})];
    assert_eq!((&trace["fates"], &trace["refused"]), (&json!(fates), &Value::Null));
}

/// A capture of culvertctl's own.
#[tokio::test]
async fn the_frames_of_a_file_are_traced() {
    let fake = Fake::start();
    let file = fake.file();
    let path = file.to_str().unwrap();
    let arguments = ["capture", "vm-a", "--count", "2", "-w", path];
    assert!(output(culvertctl(&fake.socket(), &arguments)).await.status.success());
    let traced = output(culvertctl(&fake.socket(), &["trace", "vm-a", "--from-pcap", path])).await;
    let text = String::from_utf8(traced.stdout).unwrap();
    let block = "from vm-a: 02:00:00:00:00:0a > ff:ff:ff:ff:ff:ff 0806 len 42
  (its last 26 bytes are not in the file and taken as zeros)
  goes to all ports of its VLAN: it is for all
  leaves at vm-b, 42 bytes
";
    assert_eq!(text, format!("frame 1 {block}\nframe 2 {block}"));
    let lines = output(culvertctl(&fake.socket(), &["trace", "vm-a", "--from-pcap", path, "-o", "json"])).await;
    assert_eq!(String::from_utf8(lines.stdout).unwrap().lines().count(), 2);
    let (code, message) = failure(&fake.socket(), &["trace", "vm-a", "--from-pcap", "/no/such/file"]).await;
    assert_eq!(code, Some(1));
    assert_eq!(message, "culvertctl: /no/such/file cannot be read: No such file or directory (os error 2)\n");
    let (code, message) = failure(&fake.socket(), &["trace", "vm-a", "xy"]).await;
    assert_eq!(code, Some(1));
    assert_eq!(message, "culvertctl: the frame is not in hexadecimal; write two digits for each byte\n");
}

#[tokio::test]
async fn macs_are_sorted() {
    assert_eq!(
        printed(&["mac", "list"]).await,
        "\
NETWORK  VLAN  MAC                PORT       AGE
blue        -  02:00:00:00:00:0b  uplink0  1m15s
blue       10  02:00:00:00:00:0a  vm-a     bound
"
    );
    let mac = json!({"network": "blue", "vlan": 10, "mac": "02:00:00:00:00:0a", "port": "vm-a", "age_seconds": null});
    assert_eq!(printed_json(&["mac", "list", "--network", "blue"]).await[1], mac);
}

#[tokio::test]
async fn stats() {
    let text = printed(&["stats", "vm-a"]).await;
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0].join(" ").split(' ').take(3).collect::<Vec<_>>(), ["PORT", "RX", "FRAMES"]);
    let numbers = ["1000", "64000", "9", "18446744073709551600", "7", "12", "4", "7", "5"];
    assert_eq!(rows[1], [&["vm-a"], &numbers[..]].concat());
    let stats = printed_json(&["stats"]).await;
    assert_eq!(stats[0]["tx_offered"], u64::MAX);
    assert_eq!((&stats[0]["rx_in_flight"], &stats[0]["rx_held"]), (&json!(1), &json!(5)));
}

#[tokio::test]
async fn stats_of_workers() {
    assert_eq!(
        printed(&["stats", "--worker"]).await,
        "\
WORKER    FRAMES     BUSY  NS A FRAME  FRAMES A BUSY LOOP
core 1  12345678  1.000 s        81.0           1234567.8
"
    );
    assert_eq!(printed_json(&["stats", "--worker"]).await[0]["busy_ns"], 1_000_000_000);
}

#[tokio::test]
async fn workers_and_their_queues() {
    assert_eq!(
        printed(&["worker", "list"]).await,
        "\
WORKER    LOAD  PORT  QUEUE   USAGE   FRAMES  NS A FRAME
core 1  41.5 %  vm-a      0  41.2 %  4000000       103.0
                vm-a      1   0.3 %        0           -
core 2   0.0 %  -         -       -        -           -
"
    );
    let workers = printed_json(&["worker", "list"]).await;
    assert_eq!((&workers[0]["load_percent"], &workers[1]["queues"]), (&json!(41.5), &json!([])));
    assert_eq!(workers[0]["queues"][0]["busy_ns"], 412_000_000);
}

#[tokio::test]
async fn queues_move_and_what_moved_is_told() {
    let moved = "\
PORT  QUEUE   USAGE  FROM    TO
vm-a      1  40.3 %  core 1  core 2

WORKER    LOAD   AFTER
core 1  96.0 %  55.7 %
core 2   0.0 %  40.3 %

the variance of the workers' loads becomes smaller by 97 %
";
    assert_eq!(printed(&["worker", "rebalance"]).await, moved);
    assert_eq!(printed(&["worker", "rebalance", "--dry-run"]).await, moved.replace("becomes", "would become"));
    assert_eq!(
        printed(&["worker", "rebalance", "--improvement", "98"]).await,
        "nothing to do: the variance of the workers' loads would become smaller by 97 %, and 98 % are wanted\n"
    );
    let told = printed_json(&["worker", "rebalance", "--dry-run"]).await;
    assert_eq!((&told["dry_run"], &told["moves"][0]["to_core"]), (&json!(true), &json!(2)));
    assert_eq!(
        (&told["least_improvement_percent"], &told["workers"][0]["load_after_percent"]),
        (&json!(25), &json!(55.7))
    );
}

#[tokio::test]
async fn drops_tell_the_remedy() {
    assert_eq!(
        printed(&["drops"]).await,
        "\
PORT  SIDE  REASON     COUNT  LAST FRAME
vm-a  rx    runt           9  -
vm-a  tx    no-buffer     12  02:00:00:00:00:0a > ff:ff:ff:ff:ff:ff 0806 len 42

vm-a rx runt: Look for a broken driver.

vm-a tx no-buffer: Give the guest CPU.
  last header: ffffffffffff02000000000a08060001
"
    );
    assert_eq!(printed(&["drops", "vm-a"]).await, "No frame was refused.\n");
    assert_eq!(printed_json(&["drops", "vm-a"]).await, json!([]));
    let drops = printed_json(&["drops"]).await;
    assert_eq!(
        drops[0],
        json!({"port": "vm-a", "direction": "rx", "reason": "runt", "count": 9, "remedy": "Look for a broken driver."})
    );
    assert_eq!(drops[1]["last_header"], "ffffffffffff02000000000a08060001");
}

#[tokio::test]
async fn latency_is_printed_by_pairs_of_ports() {
    assert_eq!(
        printed(&["latency", "vm-a", "--seconds", "2"]).await,
        "FROM  TO    FRAMES      P50      P90      P99    P99.9      MAX\n\
         vm-a  vm-b    2000  1.01 us  1.01 us  21.0 us  21.0 us  21.0 us\n\
         *     vm-a       1   507 ns   507 ns   507 ns   507 ns   507 ns\n"
    );
    let json = printed_json(&["latency", "vm-a", "--seconds", "0.5"]).await;
    assert_eq!((&json["seconds"], &json["pairs"][0]["p99_ns"]), (&0.5.into(), &20_991.into()));
    let fake = Fake::start();
    let file = fake.file();
    let path = file.to_str().unwrap();
    let output = output(culvertctl(&fake.socket(), &["latency", "vm-a", "--seconds", "1", "--html", path])).await;
    assert!(output.status.success(), "{output:?}");
    assert!(std::fs::read_to_string(file).unwrap().contains("<polyline"));
    let (_, refused) = failure(&fake.socket(), &["latency", "vm-z"]).await;
    assert!(refused.contains("there is no port vm-z"), "{refused}");
    // More than the fake has to tell: its port ends before.
    let (_, refused) = failure(&fake.socket(), &["latency", "vm-a", "--seconds", "9"]).await;
    assert!(refused.contains("port vm-a has gone"), "{refused}");
}

#[tokio::test]
async fn a_capture_prints_lines() {
    assert_eq!(
        printed(&["capture", "vm-a", "--count", "2"]).await,
        "\
22:13:20.123456 rx 02:00:00:00:00:0a > ff:ff:ff:ff:ff:ff 0806 len 42
(5 frames lost)
22:13:21.000000 tx 02:00:00:00:00:0a > ff:ff:ff:ff:ff:ff 0806 len 42
"
    );
    let text = printed(&["capture", "vm-a", "--count", "2", "-o", "json"]).await;
    let first: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let data = "ffffffffffff02000000000a08060001";
    assert_eq!(
        first,
        json!({"time_ns": 1_700_000_000_123_456_789_u64, "port": "vm-a", "direction": "rx", "length": 42, "data": data})
    );
    let text = printed(&["capture", "--network", "blue", "-f", "arp", "--count", "2"]).await;
    assert!(text.starts_with("22:13:20.123456 vm-a rx 02:00:00:00:00:0a > ff:ff:ff:ff:ff:ff 0806 len 42\n"), "{text}");
    let fake = Fake::start();
    let refused = failure(&fake.socket(), &["capture", "vm-a", "--filter", "nonsense"]).await;
    let sentence = "culvertctl: filter has \"nonsense\" where an address should be\n";
    assert_eq!(refused, (Some(1), sentence.to_owned()));
    for arguments in [&["capture"][..], &["capture", "vm-a", "--network", "blue"], &["capture", "vm-a", "--files", "3"]]
    {
        assert_eq!(failure(&fake.socket(), arguments).await.0, Some(2), "{arguments:?}");
    }
}

#[tokio::test]
async fn a_capture_goes_into_a_ring_of_files() {
    let fake = Fake::start();
    let file = fake.file();
    let path = file.to_str().unwrap();
    let arguments = ["capture", "vm-a", "--count", "2", "-w", path, "--files", "2", "--size", "1"];
    assert!(output(culvertctl(&fake.socket(), &arguments)).await.status.success());
    assert_capture(&std::fs::read(format!("{path}.0")).unwrap());
    assert!(!file.exists());
}

#[tokio::test]
async fn a_capture_file_has_directions_times_and_losses() {
    let fake = Fake::start();
    let file = fake.file();
    let arguments = ["capture", "vm-a", "--count", "2", "--snaplen", "16", "-w", file.to_str().unwrap()];
    let output = output(culvertctl(&fake.socket(), &arguments)).await;
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "2 frames captured, 5 lost because they were not read in time\n"
    );
    assert_capture(&std::fs::read(&file).unwrap());
}

#[tokio::test]
async fn a_capture_goes_into_a_pipe_and_ends_by_ctrl_c() {
    let fake = Fake::start();
    let mut command = culvertctl(&fake.socket(), &["capture", "vm-a", "-w", "-"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = tokio::task::spawn_blocking(move || {
        use std::io::Read;
        let mut child = command.spawn().unwrap();
        // The whole capture: it is written as it comes, not when the command ends.
        let mut bytes = vec![0; capture_length()];
        child.stdout.as_mut().unwrap().read_exact(&mut bytes).unwrap();
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        assert_capture(&bytes);
        output
    })
    .await
    .unwrap();
    assert!(output.status.success());
    assert_eq!(output.stdout, b"");
}

/// The length of the fake's capture: section header, interface (name, description, resolution, end), frames (flags, comment,
/// losses, end).
fn capture_length() -> usize {
    28 + (20 + 8 + 28 + 8 + 4) + (32 + 16 + 8 + 20 + 4) + (32 + 16 + 8 + 16 + 12 + 4)
}

fn assert_capture(bytes: &[u8]) {
    let mut reader = PcapNgReader::new(bytes).unwrap();
    let mut frames = Vec::new();
    while let Some(block) = reader.next_block() {
        if let Block::EnhancedPacket(frame) = block.unwrap().into_owned() {
            frames.push(frame);
        }
    }
    assert_eq!(frames.len(), 2);
    assert!(frames.iter().all(|frame| frame.data == fake::arp() && frame.original_len == 42));
    assert_eq!(frames[0].timestamp.as_nanos(), 1_700_000_000_123_456_789);
    let comment = |text: &'static str| EnhancedPacketOption::Comment(text.into());
    assert_eq!(frames[0].options, [EnhancedPacketOption::Flags(1), comment("rx: from vm-a")]);
    let second = [EnhancedPacketOption::Flags(2), comment("tx: to vm-a"), EnhancedPacketOption::DropCount(5)];
    assert_eq!(frames[1].options, second);
}

#[tokio::test]
async fn a_refusal_is_one_sentence_and_exit_code_1() {
    let fake = Fake::start();
    let sentence = "culvertctl: there is no port vm-z; `culvertctl port list` shows the ports\n";
    for arguments in [&["stats", "vm-z"][..], &["drops", "vm-z"], &["port", "show", "vm-z"], &["capture", "vm-z"]] {
        assert_eq!(failure(&fake.socket(), arguments).await, (Some(1), sentence.to_owned()), "{arguments:?}");
    }
    assert_eq!(
        failure(&fake.socket(), &["network", "show", "red"]).await,
        (Some(1), "culvertctl: there is no network red; `culvertctl network list` shows the networks\n".to_owned())
    );
    let (code, message) = failure(&fake.socket(), &["capture", "vm-a", "-w", "/no/such/folder/x"]).await;
    assert_eq!(code, Some(1));
    assert_eq!(message, "culvertctl: /no/such/folder/x cannot be written: No such file or directory (os error 2)\n");
}

#[tokio::test]
async fn no_daemon_is_one_sentence_and_exit_code_3() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.sock");
    let start = "start it with `culvertd --config FILE`, or name its socket with --socket";
    let expected = format!("culvertctl: culvertd is not running: there is no socket {}; {start}\n", path.display());
    assert_eq!(failure(&path, &["status"]).await, (Some(3), expected));
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let expected = format!("culvertctl: culvertd is not running: nobody listens on {}; {start}\n", path.display());
    assert_eq!(failure(&path, &["status"]).await, (Some(3), expected));
}

/// Something else listens on the socket: it answers nonsense, or nothing and closes.
#[tokio::test]
async fn another_server_is_told_from_culvertd() {
    use std::io::Write;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            // The client may be gone already.
            let _ = stream.unwrap().write_all(b"SSH-2.0-OpenSSH_9.2\r\n");
        }
    });
    let (code, message) = failure(&path, &["status"]).await;
    assert_ne!(code, Some(0));
    assert!(message.starts_with("culvertctl: ") && message.lines().count() == 1, "{message}");
}

#[tokio::test]
async fn a_wrong_command_line_is_exit_code_2() {
    let (code, message) = failure(Path::new("/nowhere"), &["capture", "vm-a", "--count", "0"]).await;
    assert_eq!(code, Some(2));
    assert!(message.contains("0 is not in 1.."), "{message}");
    let help = output(culvertctl(Path::new("/nowhere"), &["--help"])).await;
    assert!(String::from_utf8_lossy(&help.stdout).contains("Exit codes:"));
}

#[tokio::test]
async fn a_long_socket_path_is_no_obstacle() {
    let fake = Fake::start();
    let folder = tempfile::tempdir().unwrap();
    let long = folder.path().join("f".repeat(120));
    std::fs::create_dir(&long).unwrap();
    std::os::unix::fs::symlink(fake.socket(), long.join("c.sock")).unwrap();
    assert!(output(culvertctl(&long.join("c.sock"), &["status"])).await.status.success());
}
