//! What a process has open: descriptors, mappings, threads, memory; read from proc(5).

use std::fs;

use anyhow::{Context, Result};

/// What a process has open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resources {
    /// What its descriptors lead to, sorted.
    pub descriptors: Vec<String>,
    /// Files that it has mapped, sorted, one entry for each mapping; anonymous memory is in `memory_kib`.
    pub mappings: Vec<String>,
    /// The names of its threads, sorted.
    pub threads: Vec<String>,
    /// Memory of its own that is resident, in KiB: not what it shares with guests.
    pub memory_kib: u64,
}

impl Resources {
    /// Looks at a process.
    ///
    /// # Errors
    /// It has ended, or belongs to somebody else.
    pub fn of(pid: u32) -> Result<Self> {
        let folder = format!("/proc/{pid}");
        let mut descriptors = Vec::new();
        for entry in fs::read_dir(format!("{folder}/fd")).with_context(|| folder.clone())? {
            // One that was closed meanwhile is none.
            let Ok(target) = fs::read_link(entry?.path()) else { continue };
            descriptors.push(kind(&target.to_string_lossy()));
        }
        let maps = fs::read_to_string(format!("{folder}/maps"))?;
        let files = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
        let mut mappings: Vec<String> =
            files.filter(|name| name.starts_with('/')).map(|name| name.replace(" (deleted)", "")).collect();
        let mut threads = Vec::new();
        for entry in fs::read_dir(format!("{folder}/task"))? {
            let Ok(name) = fs::read_to_string(entry?.path().join("comm")) else { continue };
            // Control's pool grows with questions, and shrinks when there are none.
            if !name.starts_with("tokio-") {
                threads.push(name.trim().to_owned());
            }
        }
        let status = fs::read_to_string(format!("{folder}/status"))?;
        let field = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).context("a field of status")?;
            Ok(line.trim().trim_end_matches(" kB").parse()?)
        };
        let memory_kib = field("RssAnon:")?;
        descriptors.sort();
        mappings.sort();
        threads.sort();
        Ok(Self { descriptors, mappings, threads, memory_kib })
    }

    /// What is not as it was `before`, one sentence each.
    pub fn differences(&self, before: &Self) -> Vec<String> {
        let mut found = Vec::new();
        for (what, now, then) in [
            ("descriptors", &self.descriptors, &before.descriptors),
            ("mapped files", &self.mappings, &before.mappings),
            ("threads", &self.threads, &before.threads),
        ] {
            if now != then {
                let (more, less) = (without(now, then), without(then, now));
                found.push(format!("{what}: {} now, {} before; more: {more:?}, less: {less:?}", now.len(), then.len()));
            }
        }
        let limit = before.memory_kib + (before.memory_kib / 100).max(1024);
        if self.memory_kib > limit {
            found.push(format!("memory: {} KiB now, {} before", self.memory_kib, before.memory_kib));
        }
        found
    }
}

/// The entries of a list that another one does not have, as often as it has not.
fn without(list: &[String], other: &[String]) -> Vec<String> {
    let mut rest = other.to_vec();
    let is_new = |entry: &&String| match rest.iter().position(|known| known == *entry) {
        Some(place) => {
            rest.swap_remove(place);
            false
        }
        None => true,
    };
    list.iter().filter(is_new).cloned().collect()
}

/// A descriptor's target without numbers that are new each time.
fn kind(target: &str) -> String {
    match target.split_once(":[") {
        Some((kind, _)) => kind.to_owned(),
        None => target.replace(" (deleted)", ""),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_leak_is_told_by_what_leaked() {
        let pid = std::process::id();
        let mut before = Resources::of(pid).unwrap();
        before.threads.clear();
        let leak = File::open("/dev/null").unwrap();
        let mut after = Resources::of(pid).unwrap();
        after.threads.clear();
        after.memory_kib = before.memory_kib + 1000;
        let told = after.differences(&before);
        assert!(told.len() == 1 && told[0].contains("/dev/null"), "{told:?}");
        after.memory_kib = before.memory_kib + 100_000_000;
        drop(leak);
        assert_eq!(after.differences(&before).len(), 2);
    }
}
