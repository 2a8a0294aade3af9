//! culvertd with a configuration of the test's own, and culvertctl to ask it.
//!
//! A [`Node`] is a folder with the configuration, the control socket and the guests' sockets. culvertd runs in it as a [`Daemon`], which
//! a test may kill and start again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::console::Console;
use crate::paths::program;
use crate::place::{Namespace, Place};
use crate::qemu::{GuestOptions, Role};

/// A configuration in a folder of its own, which goes with it.
pub struct Node {
    folder: TempDir,
    config: String,
    place: Place,
}

impl Node {
    /// One network, `blue`, one worker on the first core, no ports.
    ///
    /// # Errors
    /// No temporary folder can be made.
    pub fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("culvert-").tempdir()?;
        let path = folder.path().display();
        // Of all tests together: "off" tells whether a failure comes of isolation, "log" has the kernel log which call was missing.
        let isolation = std::env::var("CULVERT_ISOLATION").unwrap_or_else(|_| "full".to_owned());
        let config = format!(
            "[daemon]\ncontrol_socket = \"{path}/culvertd.sock\"\nstate_dir = \"{path}/state\"\nmetrics_address = \"off\"\n\
             isolation = \"{isolation}\"\nfolders = [\"{}\"]\n\n\
             [datapath]\nworker_cores = [0]\nmemory_mb = 64\nhugepages = \"never\"\n\n\
             [[network]]\nname = \"blue\"\n",
            std::env::temp_dir().display()
        );
        Ok(Self { folder, config, place: Place { any_core: true, ..Place::default() } })
    }

    /// Adds a guest's port with further `keys`, such as `queues = 2`, and returns the path of its socket.
    pub fn add_guest(&mut self, name: &str, role: Role, keys: &str) -> PathBuf {
        let socket = self.path(&format!("{name}.sock"));
        let (path, role) = (socket.display(), role.key());
        self.add(&format!(
            "[[port]]\nname = \"{name}\"\nnetwork = \"blue\"\nsocket = \"{path}\"\nrole = \"{role}\"\n{keys}"
        ));
        socket
    }

    /// Adds the ports `vm-a` and `vm-b`, and returns guests of QEMU's for them, whose devices have further `properties`.
    pub fn add_pair(&mut self, role: Role, properties: &str) -> [GuestOptions; 2] {
        [("vm-a", 1), ("vm-b", 2)].map(|(name, number)| GuestOptions {
            role,
            properties: properties.to_owned(),
            ..GuestOptions::new(name, &self.add_guest(name, role, ""), number)
        })
    }

    /// Adds a DPDK port with further `keys`.
    pub fn add_nic(&mut self, name: &str, device: &str, keys: &str) {
        self.add(&format!("[[port]]\nname = \"{name}\"\nnetwork = \"blue\"\ndevice = \"{device}\"\n{keys}"));
    }

    /// Adds lines at the end of the configuration.
    pub fn add(&mut self, lines: &str) {
        self.config.push('\n');
        self.config.push_str(lines);
        self.config.push('\n');
    }

    /// Isolates culvertd so, see `isolation` in culvertd.toml; otherwise `CULVERT_ISOLATION` says how, and "full" if it does not.
    pub fn set_isolation(&mut self, mode: &str) {
        let own = format!("isolation = \"{mode}\"");
        let lines = self.config.lines().map(|line| if line.starts_with("isolation = ") { &own } else { line });
        self.config = lines.flat_map(|line| [line, "\n"]).collect();
    }

    /// The text of the configuration, to be changed as a test likes.
    pub fn config(&mut self) -> &mut String {
        &mut self.config
    }

    /// Moves culvertd's workers to another core than the first.
    pub fn set_worker_core(&mut self, core: usize) {
        self.config = self.config.replace("worker_cores = [0]", &format!("worker_cores = [{core}]"));
    }

    /// Has culvertd take so much memory, in MiB, and all of it in hugepages; it takes none of those otherwise.
    pub fn set_hugepages(&mut self, memory_mb: u64) {
        let memory = format!("memory_mb = {memory_mb}\nhugepages = \"always\"");
        self.config = self.config.replace("memory_mb = 64\nhugepages = \"never\"", &memory);
    }

    /// Makes a culvertd start that offers these faults: see culvert-worker's `inject.rs`.
    pub fn inject(&mut self, faults: &str) {
        self.place.faults = Some(faults.to_owned());
    }

    /// Gives culvertd a variable in its environment.
    pub fn set_variable(&mut self, name: &str, value: &str) {
        self.place.variables.push(format!("{name}={value}"));
    }

    /// Makes culvertd start in a network namespace.
    pub fn set_namespace(&mut self, namespace: &Namespace) {
        self.set_namespace_named(namespace.name());
    }

    /// The same by the namespace's name.
    pub fn set_namespace_named(&mut self, name: &str) {
        self.place.namespace = Some(name.to_owned());
    }

    /// A path in its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts culvertd and returns when it answers culvertctl.
    ///
    /// # Errors
    /// culvertd does not start, or does not answer.
    pub fn start(&self) -> Result<Daemon> {
        let mut daemon = self.launch()?;
        let deadline = Instant::now() + START_LIMIT;
        while !daemon.control_socket.exists() || daemon.ctl("status").is_err() {
            if let Some(status) = daemon.console.ended()? {
                bail!("culvertd ended with {status}; {}", daemon.console.last_words());
            }
            ensure!(Instant::now() < deadline, "culvertd does not answer; {}", daemon.console.last_words());
            thread::sleep(Duration::from_millis(10));
        }
        Ok(daemon)
    }

    /// Starts culvertd and returns at once.
    ///
    /// # Errors
    /// The configuration cannot be written, or culvertd cannot be run.
    pub fn launch(&self) -> Result<Daemon> {
        let file = self.path("culvertd.toml");
        fs::write(&file, &self.config)?;
        self.launch_with(&file)
    }

    /// Starts culvertd with another configuration file and returns at once.
    ///
    /// # Errors
    /// culvertd cannot be run.
    pub fn launch_with(&self, file: &Path) -> Result<Daemon> {
        let name = if self.place.faults.is_some() { "culvertd-inject" } else { "culvertd" };
        self.launch_program(name, &[Path::new("--config"), file])
    }

    /// Starts a culvertd that takes over from the one that runs, and returns at once. `build`: one of the two [`BUILDS`]. The
    /// configuration is written anew.
    ///
    /// # Errors
    /// The configuration cannot be written, or culvertd cannot be run.
    pub fn launch_takeover(&self, build: &str) -> Result<Daemon> {
        let file = self.path("culvertd.toml");
        fs::write(&file, &self.config)?;
        self.launch_program(build, &[Path::new("--takeover"), Path::new("--config"), &file])
    }

    /// Has a culvertd of this build take over from `old`, which must end with success, and returns when it answers.
    ///
    /// # Errors
    /// It does not take over.
    pub fn take_over(&self, old: &mut Daemon, build: &str) -> Result<Daemon> {
        let mut new = self.launch_takeover(build)?;
        let deadline = Instant::now() + START_LIMIT;
        let status = loop {
            if let Some(status) = old.console.ended()? {
                break status;
            }
            if let Some(status) = new.console.ended()? {
                bail!("it does not take over but ends with {status}; {}", new.console.last_words());
            }
            ensure!(Instant::now() < deadline, "it does not take over; {}", new.console.last_words());
            thread::sleep(Duration::from_millis(1));
        };
        ensure!(status.success(), "culvertd ended with {status} after a takeover; {}", old.console.last_words());
        new.wait_for_next(0)?;
        Ok(new)
    }

    fn launch_program(&self, name: &str, arguments: &[&Path]) -> Result<Daemon> {
        let console = Console::start_in(&self.place, name, program(name)?, arguments)?;
        Ok(Daemon { console, control_socket: self.path("culvertd.sock") })
    }
}

/// A running culvertd: a supervisor, and the daemon that it starts. They are killed when this is dropped.
pub struct Daemon {
    console: Console,
    control_socket: PathBuf,
}

impl Daemon {
    /// culvertd's own console: its log, signals to the supervisor, its end.
    pub fn console(&mut self) -> &mut Console {
        &mut self.console
    }

    /// The daemon's process id, once it is started; it changes when the supervisor starts another one. 0: there is none.
    pub fn pid(&self) -> u32 {
        let supervisor = self.supervisor_pid();
        // proc_pid_task(5): its children, separated by spaces.
        let children = fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children"));
        let first = children.ok().and_then(|children| children.split_whitespace().next()?.parse().ok());
        first.unwrap_or_default()
    }

    /// The supervisor's process id.
    pub fn supervisor_pid(&self) -> u32 {
        self.console.pid()
    }

    /// Ends both at once, as the end of a node's power does, and waits until they have gone.
    pub fn kill(&mut self) {
        let daemon = PathBuf::from(format!("/proc/{}", self.pid()));
        self.console.kill();
        // The kernel kills it when the supervisor has ended; whoever reaps it then is not our affair.
        let deadline = Instant::now() + STOP_LIMIT;
        while is_alive(&daemon) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Ends the daemon alone, as a crash does; the supervisor starts another one.
    ///
    /// # Errors
    /// There is none.
    pub fn crash(&self) -> Result<()> {
        let pid = self.pid().to_string();
        // Process 0 would be all of the test's.
        ensure!(pid != "0", "there is no daemon now");
        let status = Command::new("kill").args(["-s", "KILL", &pid]).status()?;
        ensure!(status.success(), "there is no daemon {pid}");
        Ok(())
    }

    /// Waits until another daemon than that process answers.
    ///
    /// # Errors
    /// None does.
    pub fn wait_for_next(&mut self, before: u32) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        while [0, before].contains(&self.pid()) || self.ctl("status").is_err() {
            ensure!(Instant::now() < deadline, "no other daemon answers; {}", self.console.last_words());
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Runs culvertctl, which must succeed, with `arguments` separated by spaces, and returns what it printed.
    ///
    /// # Errors
    /// culvertctl failed; the error has what it said.
    pub fn ctl(&self, arguments: &str) -> Result<String> {
        let mut command = Command::new(program("culvertctl")?);
        command.arg("--socket").arg(&self.control_socket).args(arguments.split(' '));
        let output = command.output().context("culvertctl cannot be run")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "culvertctl {arguments} failed with {}: {said}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Which of the two [`BUILDS`] it is, as its version tells.
    ///
    /// # Errors
    /// It does not answer.
    pub fn build(&self) -> Result<&'static str> {
        let status = self.ask("status")?;
        let version = status.get("version").and_then(Value::as_str).context("version")?;
        let [released, with_faults] = BUILDS;
        Ok(if version.ends_with("+inject") { with_faults } else { released })
    }

    /// Runs culvertctl with `-o json`.
    ///
    /// # Errors
    /// culvertctl failed, or did not print JSON.
    pub fn ask(&self, arguments: &str) -> Result<Value> {
        let printed = self.ctl(&format!("-o json {arguments}"))?;
        serde_json::from_str(&printed).with_context(|| format!("culvertctl {arguments} printed:\n{printed}"))
    }

    /// One port as `culvertctl port list` shows it.
    ///
    /// # Errors
    /// There is no such port.
    pub fn port(&self, name: &str) -> Result<Value> {
        find(&self.ask("port list")?, "name", name)
    }

    /// The counters of one port as `culvertctl stats` shows them.
    ///
    /// # Errors
    /// There is no such port.
    pub fn stats(&self, port: &str) -> Result<Value> {
        find(&self.ask("stats")?, "port", port)
    }

    /// Waits until a port is in `state`, as `culvertctl port list` calls it.
    ///
    /// # Errors
    /// It is not within the limit.
    pub fn wait_for_state(&mut self, port: &str, state: &str) -> Result<()> {
        let deadline = Instant::now() + STATE_LIMIT;
        loop {
            let shown = self.port(port)?;
            if shown.get("state").and_then(Value::as_str) == Some(state) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{port} is not {state} but {shown}; {}", self.console.last_words());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until a counter of a port, as `culvertctl stats` calls it, has reached `value`.
    ///
    /// # Errors
    /// It does not within the limit.
    pub fn wait_for_counter(&mut self, port: &str, counter: &str, value: u64) -> Result<()> {
        let deadline = Instant::now() + STATE_LIMIT;
        loop {
            let stats = self.stats(port)?;
            if stats.get(counter).and_then(Value::as_u64) >= Some(value) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{counter} of {port} does not reach {value}: {stats}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Checks that no frame is unaccounted for: on each port frames in = forwarded + dropped + in flight, and each side's drops are
    /// the sum of its reasons. Frames may be passing meanwhile.
    ///
    /// # Errors
    /// The counters of a port do not add up.
    pub fn check_counters(&self) -> Result<()> {
        let (stats, drops) = (self.ask("stats")?, self.ask("drops")?);
        let number = |entry: &Value, key: &str| {
            entry.get(key).and_then(Value::as_u64).with_context(|| format!("no {key} in {entry}"))
        };
        for port in stats.as_array().context("a list")? {
            let count = |key: &str| number(port, key);
            let accounted = count("rx_forwarded")? + count("rx_dropped")? + count("rx_in_flight")?;
            ensure!(count("rx_frames")? == accounted, "frames are unaccounted for: {port}");
            for (side, key) in [("rx", "rx_dropped"), ("tx", "tx_dropped")] {
                let of_this = |drop: &&Value| {
                    drop.get("port") == port.get("port") && drop.get("direction") == Some(&Value::from(side))
                };
                let reasons = drops.as_array().into_iter().flatten().filter(of_this);
                let sum = reasons.map(|drop| number(drop, "count")).sum::<Result<u64>>()?;
                // The reasons were asked for later.
                ensure!(sum >= count(key)?, "{sum} {side} drops have reasons, of more: {port}");
            }
        }
        Ok(())
    }

    /// Processor time that it has used so far, of all its threads.
    ///
    /// # Errors
    /// It has ended.
    pub fn cpu_time(&self) -> Result<Duration> {
        cpu_time(self.pid())
    }

    /// The same without its workers, which take all of a core where frames pass all the time.
    ///
    /// # Errors
    /// It has ended.
    pub fn cpu_time_without_workers(&self) -> Result<Duration> {
        let mut time = Duration::ZERO;
        for thread in fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            // A thread may have ended meanwhile.
            let stat = fs::read_to_string(thread?.path().join("stat")).unwrap_or_default();
            if !stat.is_empty() && !stat.contains(" (worker-") {
                time += time_of(&stat)?;
            }
        }
        Ok(time)
    }

    /// Asks it to stop, as a service manager does, and waits until it has. It must succeed.
    ///
    /// # Errors
    /// It does not end, or with a failure.
    pub fn stop(mut self) -> Result<()> {
        self.console.signal("TERM")?;
        let status = self.console.wait(STOP_LIMIT)?;
        ensure!(status.success(), "culvertd ended with {status}; {}", self.console.last_words());
        Ok(())
    }
}

/// Processor time that a process has used so far, of all its threads.
///
/// # Errors
/// It has ended.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    time_of(&fs::read_to_string(format!("/proc/{pid}/stat"))?)
}

fn time_of(stat: &str) -> Result<Duration> {
    // proc(5): utime and stime are fields 14 and 15, in 1/100 s; the name, field 2, ends with the last bracket.
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
    let ticks = fields.skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(10 * ticks))
}

/// Whether a process, by its folder in /proc, has not ended.
fn is_alive(process: &Path) -> bool {
    // proc(5): the state comes after the name, which ends with the last bracket. Of the first thread: others may be there still,
    // and with them all sockets.
    let first_has_ended = fs::read_to_string(process.join("stat")).map_or(true, |stat| stat.contains(") Z "));
    let threads = fs::read_dir(process.join("task")).map_or(0, Iterator::count);
    !first_has_ended || threads > 1
}

/// The entry of a list whose `key` is `value`.
fn find(answer: &Value, key: &str, value: &str) -> Result<Value> {
    let entry = answer
        .as_array()
        .and_then(|list| list.iter().find(|entry| entry.get(key).and_then(Value::as_str) == Some(value)));
    entry.cloned().with_context(|| format!("no {key} {value} in {answer}"))
}

/// Two builds of culvertd, of the same source and different versions: the released one, and one with faults that tests ask for.
pub const BUILDS: [&str; 2] = ["culvertd", "culvertd-inject"];

const START_LIMIT: Duration = Duration::from_secs(30);

const STATE_LIMIT: Duration = Duration::from_secs(30);

const STOP_LIMIT: Duration = Duration::from_secs(10);
