//! culvertd as a process when the machine lets it down: its log, descriptors, threads, its files.
#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

mod process;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::chown;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStderr, Command, Stdio};
use std::time::Duration;

use culvert_api::v1;
use culvert_api::v1::culvert_client::CulvertClient;
use process::{Running, Setup, culvertd};
use tonic::transport::Channel;

type Client = CulvertClient<Channel>;

/// Starts culvertd; returns it when it is ready, and the end of its log.
fn start(setup: &Setup, mut command: Command) -> (Running, BufReader<ChildStderr>) {
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut log = String::new();
    while !log.contains("culvertd is ready") {
        assert!(stderr.read_line(&mut log).unwrap() > 0, "{log}");
    }
    (Running { child, log, socket: setup.path("c.sock") }, stderr)
}

async fn add_port(client: &mut Client, name: &str, socket: &Path) -> Result<bool, tonic::Status> {
    let socket = Some(socket.display().to_string());
    let spec = v1::PortSpec { network: Some("blue".to_owned()), socket, ..v1::PortSpec::default() };
    let request = v1::AddPortRequest { name: name.to_owned(), port: Some(spec) };
    client.add_port(request).await.map(|answer| answer.into_inner().changed)
}

async fn remove_port(client: &mut Client, name: &str) -> Result<bool, tonic::Status> {
    let request = v1::RemoveRequest { name: name.to_owned() };
    client.remove_port(request).await.map(|answer| answer.into_inner().changed)
}

/// Sends the first message of a frontend, GET_FEATURES, and reads the header of the reply.
fn is_answered(socket: &Path) -> bool {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let header = [1_u32, 1, 0].map(u32::to_ne_bytes).concat();
    stream.write_all(&header).is_ok() && stream.read_exact(&mut [0; 12]).is_ok()
}

/// The process that answers.
async fn pid(client: &mut Client) -> u32 {
    client.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner().pid
}

/// Sets what a process may have of something now: `limit` is an option of prlimit(1), such as `nofile=20:`.
fn set_limit(pid: u32, limit: &str) {
    let done = Command::new("prlimit").args(["--pid", &pid.to_string(), &format!("--{limit}")]).status();
    assert!(done.unwrap().success(), "{limit}");
}

/// How many descriptors (`fd`) or threads (`task`) a process has.
fn count(pid: u32, what: &str) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count()
}

/// Processor time used so far, in 1/100 s (proc(5): fields 14 and 15).
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = stat.rsplit(") ").next().unwrap().split(' ').skip(11).take(2);
    fields.map(|field| field.parse::<u64>().unwrap()).sum()
}

/// hostile P10: before, whoever logged panicked: clients got errors, and the thread that serves guests ended.
#[tokio::test]
async fn a_log_that_has_gone_ends_nothing() {
    let setup = Setup::new();
    setup.write();
    let (mut culvertd, log) = start(&setup, culvertd(&setup.path("c.toml")));
    drop(log);
    let mut client = culvertd.client().await;
    assert!(add_port(&mut client, "vm-a", &setup.socket("vm-a")).await.unwrap());
    assert!(add_port(&mut client, "vm-b", &setup.socket("vm-b")).await.unwrap());
    // Each tells of itself in the log.
    for _ in 0..3 {
        assert!(is_answered(&setup.socket("vm-a")));
        assert!(is_answered(&setup.socket("vm-b")));
    }
    assert_eq!(culvertd.end("TERM"), Some(0));
}

/// hostile P10: before, whoever logged waited, and so did all that waited for it.
#[tokio::test]
async fn a_log_that_nobody_reads_holds_up_nothing() {
    let setup = Setup::new();
    setup.write();
    let (mut culvertd, log) = start(&setup, culvertd(&setup.path("c.toml")));
    rustix::pipe::fcntl_setpipe_size(log.get_ref(), 4096).unwrap();
    let mut client = culvertd.client().await;
    for _ in 0..100 {
        assert!(add_port(&mut client, "vm-a", &setup.socket("vm-a")).await.unwrap());
        assert!(remove_port(&mut client, "vm-a").await.unwrap());
    }
    assert!(add_port(&mut client, "vm-a", &setup.socket("vm-a")).await.unwrap());
    assert!(is_answered(&setup.socket("vm-a")));
    assert_eq!(culvertd.end("TERM"), Some(0));
    drop(log);
}

/// hostile P9: before, clients waited without a word, and the log had ten lines a second of it.
#[tokio::test]
async fn without_descriptors_a_client_is_let_in_all_the_same() {
    let setup = Setup::new().guest("vm-b", "");
    setup.write();
    let (mut culvertd, log) = start(&setup, culvertd(&setup.path("c.toml")));
    let log = std::thread::spawn(move || std::io::read_to_string(log).unwrap());
    let mut client = culvertd.client().await;
    let pid = pid(&mut client).await;
    assert!(add_port(&mut client, "vm-a", &setup.socket("vm-a")).await.unwrap());
    drop(client);
    // It has seen the end of the connection when nothing changes any more.
    let mut open = 0;
    while std::mem::replace(&mut open, count(pid, "fd")) != open {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    set_limit(pid, &format!("nofile={open}:"));
    // A frontend waits; that costs no time.
    let frontend = UnixStream::connect(setup.socket("vm-b")).unwrap();
    let before = cpu_ticks(pid);
    let mut client = culvertd.client().await;
    assert_eq!(client.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner().ports, 2);
    assert!(remove_port(&mut client, "vm-a").await.unwrap());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(cpu_ticks(pid) - before < 50, "it spins");
    drop(client);
    // All is as before when there are descriptors again.
    set_limit(pid, &format!("nofile={}:", open + 100));
    (&frontend).write_all(&[1_u32, 1, 0].map(u32::to_ne_bytes).concat()).unwrap();
    frontend.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    (&frontend).read_exact(&mut [0; 12]).unwrap();
    drop(frontend);
    assert_eq!(culvertd.end("TERM"), Some(0));
    let log = log.join().unwrap();
    assert!(log.matches("connections cannot be accepted").count() <= 1, "{log}");
}

/// hostile P9: before, a question that found no idle thread made a panic of it.
#[tokio::test]
async fn without_threads_questions_are_answered() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not root: left out, ci/test runs it");
        return;
    }
    // The kernel counts the threads of a user, though never those of root.
    const USER: u32 = 54_321;
    let setup = Setup::new();
    let file = setup.write();
    chown(file.parent().unwrap(), Some(USER), None).unwrap();
    let start = |threads: usize| {
        let mut command = Command::new("prlimit");
        command.arg(format!("--nproc={threads}")).arg(env!("CARGO_BIN_EXE_culvertd")).arg("--config").arg(&file);
        command.stdin(Stdio::null()).uid(USER);
        start(&setup, command)
    };
    let (mut culvertd, _log) = start(1000);
    let status = culvertd.client().await.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
    // Threads of tokio's that are idle end after 10 s, unless they are told to stay.
    tokio::time::sleep(Duration::from_secs(11)).await;
    let threads = count(status.pid, "task") + count(status.supervisor_pid, "task");
    assert_eq!(culvertd.end("TERM"), Some(0));

    let (mut culvertd, log) = start(threads);
    let log = std::thread::spawn(move || std::io::read_to_string(log).unwrap());
    for number in 0..3 {
        let mut client = culvertd.client().await;
        assert_eq!(
            client.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner().version,
            env!("CARGO_PKG_VERSION")
        );
        let name = format!("vm-{number}");
        assert!(add_port(&mut client, &name, &setup.socket(&name)).await.unwrap());
    }
    assert_eq!(culvertd.end("TERM"), Some(0));
    let log = log.join().unwrap();
    assert!(!log.contains("panicked"), "{log}");
}

/// hostile P11: before, a reload waited for whoever would write to the fifo, and with it each change.
#[tokio::test]
async fn a_configuration_that_is_a_fifo_is_refused_at_once() {
    let setup = Setup::new();
    let file = setup.write();
    let (mut culvertd, _log) = start(&setup, culvertd(&file));
    let mut client = culvertd.client().await;
    std::fs::remove_file(&file).unwrap();
    let (folder, fifo) = (rustix::fs::CWD, rustix::fs::FileType::Fifo);
    rustix::fs::mknodat(folder, &file, fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    let error = client.reload(v1::ReloadRequest {}).await.unwrap_err();
    assert!(error.message().contains("cannot be read: it is no regular file"), "{error}");
    assert!(add_port(&mut client, "vm-a", &setup.socket("vm-a")).await.unwrap());
    assert_eq!(culvertd.end("TERM"), Some(0));
}

/// hostile C6 and P10: changes are refused, and what runs goes on.
#[tokio::test]
async fn a_journal_that_is_something_else_refuses_changes() {
    for kind in ["fifo", "hard link"] {
        let setup = Setup::new().guest("vm-b", "");
        let (file, journal, precious) = (setup.write(), setup.path("state/journal"), setup.path("precious"));
        std::fs::create_dir(setup.path("state")).unwrap();
        std::fs::write(&precious, "precious").unwrap();
        if kind == "fifo" {
            let (folder, fifo) = (rustix::fs::CWD, rustix::fs::FileType::Fifo);
            rustix::fs::mknodat(folder, &journal, fifo, rustix::fs::Mode::RWXU, 0).unwrap();
        } else {
            std::fs::hard_link(&precious, &journal).unwrap();
        }
        let (mut culvertd, _log) = start(&setup, culvertd(&file));
        let mut client = culvertd.client().await;
        let error = add_port(&mut client, "vm-a", &setup.socket("vm-a")).await.unwrap_err();
        assert!(error.message().contains("remove it"), "{error}");
        let status = client.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
        assert!(
            status.warnings.iter().any(|warning| warning.contains("nothing can be changed at run time")),
            "{status:?}"
        );
        assert!(is_answered(&setup.socket("vm-b")));
        assert_eq!(std::fs::read(&precious).unwrap(), b"precious");
        assert_eq!(culvertd.end("TERM"), Some(0));
    }
}

/// hostile P11: before, a crash while the file had mistakes ended culvertd, and every guest's network with it.
#[tokio::test]
async fn a_crash_while_the_file_has_mistakes_ends_nothing() {
    let setup = Setup::new().guest("vm-b", "");
    let file = setup.write();
    let (mut culvertd, _log) = start(&setup, culvertd(&file));
    let before = pid(&mut culvertd.client().await).await;
    std::fs::write(&file, "[[port]]\nname = \"half").unwrap();
    assert!(Command::new("kill").args(["-s", "KILL", &before.to_string()]).status().unwrap().success());
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    let status = loop {
        assert!(culvertd.child.try_wait().unwrap().is_none(), "culvertd has ended");
        assert!(std::time::Instant::now() < deadline, "the daemon does not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
        if UnixStream::connect(&culvertd.socket).is_err() {
            continue;
        }
        let status = culvertd.client().await.get_status(v1::GetStatusRequest {}).await;
        if let Ok(status) = status.map(tonic::Response::into_inner)
            && status.pid != before
        {
            break status;
        }
    };
    assert!(status.warnings.iter().any(|warning| warning.contains("what it said before holds")), "{status:?}");
    assert!(is_answered(&setup.socket("vm-b")));
    // Corrected.
    setup.write();
    let mut client = culvertd.client().await;
    client.reload(v1::ReloadRequest {}).await.unwrap();
    let status = client.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
    assert!(status.warnings.is_empty(), "{status:?}");
    assert_eq!(culvertd.end("TERM"), Some(0));
}
