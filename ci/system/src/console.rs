//! A program that is driven by lines on its standard input: QEMU's serial console, testpmd, culvertd.
//!
//! Everything it prints, on either output, is kept in one transcript, so that every failure can show it. Each wait has
//! a limit; reaching it is always an error of the test. The program is killed when the [`Console`] is dropped, and by the
//! kernel when the thread that started it ends.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::place::Place;

/// A running program, what it has printed, and its standard input.
pub struct Console {
    name: String,
    child: Child,
    input: ChildStdin,
    transcript: Arc<Transcript>,
    /// How much of the transcript the test has read.
    position: usize,
    /// How much of the standard output alone it has read.
    answered: usize,
}

impl Console {
    /// Starts `program` with `arguments`. `name` stands for it in messages.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start<A: AsRef<OsStr>>(name: &str, program: impl AsRef<OsStr>, arguments: &[A]) -> Result<Self> {
        Self::start_in(&Place::default(), name, program, arguments)
    }

    /// As [`Console::start`], in a place.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start_in<A: AsRef<OsStr>>(
        place: &Place,
        name: &str,
        program: impl AsRef<OsStr>,
        arguments: &[A],
    ) -> Result<Self> {
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .args(place.prefix())
            .arg(program.as_ref())
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{name} cannot be started: run ci/setup"))?;
        let input = child.stdin.take().context("no standard input")?;
        let transcript = Arc::new(Transcript::default());
        collect(child.stdout.take().context("no standard output")?, &transcript, true);
        collect(child.stderr.take().context("no standard error")?, &transcript, false);
        Ok(Self { name: name.to_owned(), child, input, transcript, position: 0, answered: 0 })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends one line.
    ///
    /// # Errors
    /// The program has ended.
    pub fn send(&mut self, line: &str) -> Result<()> {
        let sent = writeln!(self.input, "{line}").and_then(|()| self.input.flush());
        sent.with_context(|| format!("{} does not take \"{line}\"; {}", self.name, self.last_words()))
    }

    /// Waits until it has printed `text` since the last call, and returns what it printed before that.
    ///
    /// # Errors
    /// It did not within `limit`, or ended.
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> Result<String> {
        let (before, position) = self.wait_in(|state| &state.text, self.position, text, limit)?;
        self.position = position;
        Ok(before)
    }

    /// As [`Console::wait_for`], in what came on its standard output alone: a line of the log, which may come in the middle of an
    /// answer, is not in it.
    ///
    /// # Errors
    /// It did not within `limit`, or ended.
    pub fn wait_for_answer(&mut self, text: &str, limit: Duration) -> Result<String> {
        let (before, position) = self.wait_in(|state| &state.output, self.answered, text, limit)?;
        self.answered = position;
        Ok(before)
    }

    /// Waits for `text` behind `position`; returns what came before it, and the position behind it.
    fn wait_in(
        &self,
        whole: fn(&State) -> &str,
        position: usize,
        text: &str,
        limit: Duration,
    ) -> Result<(String, usize)> {
        let deadline = Instant::now() + limit;
        let mut state = self.transcript.lock();
        loop {
            let unread = whole(&state).get(position..).unwrap_or_default();
            if let Some((before, _)) = unread.split_once(text) {
                return Ok((before.to_owned(), position + before.len() + text.len()));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || state.open == 0 {
                let why = if left.is_zero() { format!("within {limit:?}") } else { "before it ended".to_owned() };
                drop(state);
                bail!("{} did not print \"{text}\" {why}; {}", self.name, self.last_words());
            }
            state = self.transcript.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until its outputs are closed, and returns what it has printed since the last call.
    ///
    /// # Errors
    /// They were not within `limit`.
    pub fn wait_for_end(&mut self, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        let transcript = Arc::clone(&self.transcript);
        let mut state = transcript.lock();
        while state.open > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(state);
                bail!("{} keeps its output open for {limit:?}; {}", self.name, self.last_words());
            }
            state = transcript.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let unread = state.text.get(self.position..).unwrap_or_default().to_owned();
        self.position = state.text.len();
        Ok(unread)
    }

    /// Takes all that it has printed so far as read.
    pub fn skip(&mut self) {
        self.position = self.transcript.lock().text.len();
    }

    /// How it has ended, if it has.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// It did not within `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("{} did not end within {limit:?}; {}", self.name, self.last_words());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends it a signal by name, e.g. `TERM`.
    ///
    /// # Errors
    /// There is no such signal, or the program has ended.
    pub fn signal(&mut self, signal: &str) -> Result<()> {
        let pid = self.pid().to_string();
        let status = Command::new("kill").args(["-s", signal, &pid]).status()?;
        anyhow::ensure!(status.success(), "{} cannot be sent SIG{signal}; {}", self.name, self.last_words());
        Ok(())
    }

    /// Ends it at once, as `kill -9` does, and waits until it has gone. Helpers of its own, which user-mode Linux has in its
    /// process group, end with it.
    pub fn kill(&mut self) {
        let group = format!("-{}", self.child.id());
        // Fails when it leads no group.
        let _ = Command::new("kill").args(["-s", "KILL", "--", &group]).stderr(Stdio::null()).status();
        // Both fail only when it has gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// All that it has printed so far.
    pub fn transcript(&self) -> String {
        self.transcript.lock().text.clone()
    }

    /// The end of the transcript, for messages.
    pub fn last_words(&self) -> String {
        let text = self.transcript();
        let lines: Vec<&str> = text.lines().collect();
        let end = lines.get(lines.len().saturating_sub(30)..).unwrap_or_default();
        format!("the last that it printed:\n    {}", end.join("\n    "))
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a program has printed, filled by one thread per output.
#[derive(Default)]
struct Transcript {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    text: String,
    /// Of that, what came on the standard output.
    output: String,
    /// Outputs that the program still holds open.
    open: usize,
}

impl Transcript {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads one output into the transcript until it ends. A serial console's carriage returns are left out.
fn collect(mut output: impl Read + Send + 'static, transcript: &Arc<Transcript>, is_standard: bool) {
    let transcript = Arc::clone(transcript);
    transcript.lock().open += 1;
    thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = output.read(&mut bytes) {
            let text = String::from_utf8_lossy(bytes.get(..count).unwrap_or_default()).replace('\r', "");
            let mut state = transcript.lock();
            state.text.push_str(&text);
            if is_standard {
                state.output.push_str(&text);
            }
            drop(state);
            transcript.changed.notify_all();
        }
        transcript.lock().open -= 1;
        transcript.changed.notify_all();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    #[test]
    fn a_program_is_driven_line_by_line() {
        let mut console = Console::start("cat", "cat", &["-"]).unwrap();
        console.send("one two three").unwrap();
        assert_eq!(console.wait_for(" two", LIMIT).unwrap(), "one");
        assert_eq!(console.wait_for("\n", LIMIT).unwrap(), " three");
        console.signal("TERM").unwrap();
        assert!(!console.wait(LIMIT).unwrap().success());
    }

    #[test]
    fn an_answer_is_found_though_the_log_comes_in_the_middle_of_it() {
        let script = "printf 'show port sta'; sleep 0.1; echo log >&2; sleep 0.1; echo 'ts 0'; read _";
        let mut console = Console::start("sh", "sh", &["-c", script]).unwrap();
        assert_eq!(console.wait_for_answer("show port stats 0\n", LIMIT).unwrap(), "");
        assert_eq!(console.wait_for("log\n", LIMIT).unwrap(), "show port sta");
    }

    #[test]
    fn a_program_that_ends_too_early_is_an_error_with_its_last_words() {
        let mut console = Console::start("sh", "sh", &["-c", "echo alas >&2"]).unwrap();
        let error = console.wait_for("never", LIMIT).unwrap_err().to_string();
        assert!(error.contains("before it ended") && error.contains("alas"), "{error}");
    }

    #[test]
    fn a_program_ends_with_its_console() {
        let console = Console::start("sleep", "sleep", &["1000"]).unwrap();
        let pid = console.pid();
        drop(console);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
}
