//! culvertd as a service of systemd's, which the test plays.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "these are tests")]

mod process;

use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::time::{Duration, Instant};

use process::{Running, Setup, culvertd, kill};

const LIMIT: Duration = Duration::from_secs(60);

struct Systemd(UnixDatagram);

impl Systemd {
    /// What it is told next, within a time.
    fn hear(&self, time: Duration) -> Option<String> {
        self.0.set_read_timeout(Some(time)).unwrap();
        let mut bytes = [0; 4096];
        let length = self.0.recv(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes[..length]).into_owned())
    }

    fn wait(&self, word: &str) {
        let start = Instant::now();
        while !self.hear(LIMIT).unwrap().lines().any(|line| line == word) {
            assert!(start.elapsed() < LIMIT, "{word} does not come");
        }
    }
}

fn start(setup: &Setup, watchdog: Option<&str>) -> (Systemd, Running) {
    let path = setup.path("notify");
    let systemd = Systemd(UnixDatagram::bind(&path).unwrap());
    let mut command = culvertd(&setup.write());
    command.env("NOTIFY_SOCKET", &path).stderr(Stdio::null());
    if let Some(watchdog) = watchdog {
        command.env("WATCHDOG_USEC", watchdog);
    }
    let running = Running { child: command.spawn().unwrap(), log: String::new(), socket: setup.path("c.sock") };
    (systemd, running)
}

#[tokio::test]
async fn it_is_ready_when_its_ports_are() {
    let setup = Setup::new().guest("vm-a", "");
    let (systemd, mut running) = start(&setup, None);
    systemd.wait("READY=1");
    assert!(setup.socket("vm-a").exists());
    assert_eq!(running.try_status().await.unwrap().ports, 1);
    // Nobody asked for the watchdog.
    assert_eq!(systemd.hear(Duration::from_secs(1)), None);
    kill("TERM", running.child.id());
    systemd.wait("STOPPING=1");
    assert!(running.child.wait().unwrap().success());
}

#[test]
fn a_daemon_that_hangs_is_not_alive() {
    let setup = Setup::new();
    let (systemd, mut running) = start(&setup, Some("1000000"));
    systemd.wait("READY=1");
    for _ in 0..3 {
        systemd.wait("WATCHDOG=1");
    }
    let daemon = running.daemon();
    kill("STOP", daemon);
    // What was under way.
    while systemd.hear(Duration::from_millis(500)).is_some() {}
    assert_eq!(systemd.hear(Duration::from_secs(3)), None);
    kill("CONT", daemon);
    systemd.wait("WATCHDOG=1");
    // Another daemon in its place is alive as well.
    kill("KILL", daemon);
    systemd.wait("STATUS=the daemon ended by signal 9 (SIGKILL) and is started again");
    systemd.wait("STATUS=frames pass; the daemon before ended by signal 9 (SIGKILL)");
    systemd.wait("WATCHDOG=1");
    assert_eq!(running.end("TERM"), Some(0));
}
