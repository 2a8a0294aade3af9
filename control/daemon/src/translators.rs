//! The translators of this node: processes of their own, found by their control sockets and asked for their counters.
//!
//! They are nobody's children and not trusted: each is asked for a short time, all of them together for one second, and
//! what they say is shown, not believed. Called by the service for `culvertctl status`.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use culvert_api::translator;
use culvert_api::v1::Translator;

/// The translators whose control sockets are in `folder`.
pub fn read(folder: &Path) -> Vec<Translator> {
    let found = translator::find(folder).unwrap_or_else(|error| {
        tracing::warn!("translators cannot be looked for in {}: {error}; correct its mode", folder.display());
        Vec::new()
    });
    let end = Instant::now() + ALL_TOGETHER;
    found.into_iter().map(|path| ask(&path, end)).collect()
}

fn ask(path: &Path, end: Instant) -> Translator {
    let guest = path.to_string_lossy();
    let socket = guest.strip_suffix(translator::SUFFIX).unwrap_or(&guest).to_owned();
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() {
        let problem = "others took too long to answer; ask it by `culvertctl translator stats`".to_owned();
        return Translator { socket, problem, ..Translator::default() };
    }
    match translator::ask(path, "stats", left.min(EACH)) {
        Ok(lines) => Translator { socket, statistics: statistics(&lines), ..Translator::default() },
        Err(error) => Translator { socket, problem: error.to_string(), ..Translator::default() },
    }
}

/// Lines of a name and a number; what is none is left out.
fn statistics(lines: &[String]) -> HashMap<String, u64> {
    let pair = |line: &String| {
        let (name, value) = line.split_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    lines.iter().filter_map(pair).take(MAX_STATISTICS).collect()
}

/// How long one translator may take for its answer.
const EACH: Duration = Duration::from_millis(200);
/// How long all of them may take.
const ALL_TOGETHER: Duration = Duration::from_secs(1);
/// Counters of one translator.
const MAX_STATISTICS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn those_that_do_not_answer_are_shown_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read(folder.path()).is_empty());
        // Left behind by one that has ended, no socket at all, and of another type.
        drop(UnixListener::bind(folder.path().join("a.sock.ctl")).unwrap());
        std::fs::write(folder.path().join("b.sock.ctl"), "").unwrap();
        let _stream = UnixListener::bind(folder.path().join("c.sock.ctl")).unwrap();
        let read = read(folder.path());
        let names: Vec<_> = read.iter().map(|translator| translator.socket.rsplit('/').next().unwrap()).collect();
        assert_eq!(names, ["b.sock", "c.sock"]);
        assert!(read.iter().all(|translator| translator.problem.contains("cannot be reached")));
    }

    #[test]
    fn only_numbers_are_statistics() {
        let lines = ["rx_frames 7", "tx_frames -1", "x", "", "y 1 2", "..."].map(str::to_owned);
        assert_eq!(statistics(&lines), HashMap::from([("rx_frames".to_owned(), 7)]));
    }
}
