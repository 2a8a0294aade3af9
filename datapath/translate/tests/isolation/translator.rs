//! A translator that a test has started, and what /proc tells of it.

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use culvert_translate::time::Instant;
use rustix::process::{Pid, Signal, kill_process};

/// A command line to come.
pub struct Words(Vec<String>);

/// What became of a start.
pub struct Started {
    pub status: ExitStatus,
    pub said: String,
}

pub fn command() -> Words {
    Words(Vec::new())
}

impl Words {
    /// Has these words before it, after those that it has already.
    pub fn wrap(&mut self, words: &[&str]) {
        self.0.extend(words.iter().map(|word| (*word).to_owned()));
    }

    fn command(mut self, options: &[&str]) -> Command {
        self.wrap(&[env!("CARGO_BIN_EXE_culvert-translator")]);
        self.wrap(options);
        let mut command = Command::new(&self.0[0]);
        command.args(&self.0[1..]).stderr(Stdio::piped());
        command
    }

    /// Runs it until it returns.
    pub fn run(self, options: &[&str]) -> Started {
        let output = self.command(options).output().unwrap();
        Started { status: output.status, said: String::from_utf8(output.stderr).unwrap() }
    }
}

pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// One that runs, with its socket at `guest.sock` in a folder.
pub struct Translator {
    pid: Pid,
    foreground: Option<Child>,
}

impl Translator {
    /// In the background.
    pub fn start(folder: &tempfile::TempDir, options: &[&str]) -> Self {
        let pid_file = folder.path().join("background-pid");
        let socket = folder.path().join("guest.sock");
        // The last one counts; a test may name its own.
        let mut all = vec!["--socket", socket.to_str().unwrap(), "--pid", pid_file.to_str().unwrap()];
        all.extend(options);
        let Started { status, said } = command().run(&all);
        assert!(status.success(), "{status}: {said}");
        let written = options.iter().skip_while(|option| **option != "--pid").nth(1).map(PathBuf::from);
        let pid = fs::read_to_string(written.unwrap_or(pid_file)).unwrap();
        Self { pid: Pid::from_raw(pid.trim().parse().unwrap()).unwrap(), foreground: None }
    }

    /// In the foreground, as a child of the test.
    pub fn start_in_foreground(words: Words, folder: &tempfile::TempDir, options: &[&str]) -> Self {
        let socket = folder.path().join("guest.sock");
        let mut all = vec!["--foreground", "--socket", socket.to_str().unwrap()];
        all.extend(options);
        let child = words.command(&all).spawn().unwrap();
        let pid = Pid::from_child(&child);
        let translator = Self { pid, foreground: Some(child) };
        wait_until("the filter of system calls", || translator.status("Seccomp") == "2");
        translator
    }

    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    fn proc(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid()))
    }

    /// A line of proc_pid_status(5).
    pub fn status(&self, name: &str) -> String {
        let text = fs::read_to_string(self.proc("status")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).trim().to_owned()
    }

    pub fn namespace(&self, name: &str) -> String {
        fs::read_link(self.proc("ns").join(name)).unwrap().to_str().unwrap().to_owned()
    }

    /// What its descriptors refer to.
    pub fn open_files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.proc("fd")).unwrap();
        entries.map(|entry| fs::read_link(entry.unwrap().path()).unwrap().to_str().unwrap().to_owned()).collect()
    }

    /// It is `user`, who has no rights, can get none, and is confined.
    pub fn assert_powerless(&self, user: &str) {
        assert_eq!(self.user(), user);
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(self.status(set), "0000000000000000", "{set}");
        }
        assert_eq!((self.status("NoNewPrivs").as_str(), self.status("Seccomp").as_str()), ("1", "2"));
        assert_eq!(self.status("Threads"), "1");
        // What is not dumpable belongs to root, whoever runs it.
        let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(self.proc("maps")).unwrap());
        assert_eq!(owner, 0, "it is dumpable");
    }

    /// The user it runs as, four times the same; as seen from its own user namespace where that has only root.
    fn user(&self) -> String {
        let text = self.status("Uid");
        let ids: Vec<&str> = text.split_whitespace().collect();
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        ids[0].to_owned()
    }

    pub fn assert_empty_root(&self) {
        assert_eq!(fs::read_dir(self.proc("root")).unwrap().count(), 0);
        let mounts = fs::read_to_string(self.proc("mounts")).unwrap();
        assert_eq!(mounts.lines().count(), 1, "{mounts}");
        assert!(mounts.starts_with("none / tmpfs ro,"), "{mounts}");
    }

    /// Ends it with SIGTERM, by which it must succeed. What it said, if it was in the foreground.
    pub fn stop(&mut self) -> String {
        kill_process(self.pid, Signal::TERM).unwrap();
        let mut said = String::new();
        match &mut self.foreground {
            Some(child) => {
                child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
                assert!(child.wait().unwrap().success(), "{said}");
                self.foreground = None;
            }
            None => wait_until("the end", || self.has_ended()),
        }
        said
    }

    /// It has gone, or waits for its parent, the first process of this namespace, to notice.
    fn has_ended(&self) -> bool {
        fs::read_to_string(self.proc("stat")).is_ok_and(|stat| stat.contains(") Z ")) || !self.proc("stat").exists()
    }
}

impl Drop for Translator {
    fn drop(&mut self) {
        if self.foreground.is_some() || !self.has_ended() {
            let killed = kill_process(self.pid, Signal::KILL);
            assert!(killed.is_ok() || thread::panicking());
        }
        match &mut self.foreground {
            Some(child) => drop(child.wait()),
            None => wait_until("the end", || self.has_ended()),
        }
    }
}

/// Waits for what must come.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < end || thread::panicking(), "{what}: not within 30 s");
        thread::sleep(Duration::from_millis(2));
    }
}
