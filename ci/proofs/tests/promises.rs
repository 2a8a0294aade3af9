//! docs/PROMISES.md says how many proofs there are, and where.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::{Path, PathBuf};

/// Crates with proofs, and what those are about.
const CRATES: [(&str, &str); 7] = [
    ("datapath/frame", "checksums, segmentation, offload requests, where headers lie"),
    ("datapath/guest", "chains, tables, indices and laps, interrupts, regions, rings' places, dirty pages"),
    ("datapath/vhost", "headers, sizes of messages, memory tables"),
    ("datapath/switch", "token buckets, rates, the table of addresses and what is noted of it, VLANs"),
    ("datapath/worker", "shares of a round, which input goes to which worker"),
    (
        "datapath/translate",
        "TCP's numbers and scoreboard, flows, timers, fragments, names, address mappings, forwards, limits, a moving guest's state",
    ),
    ("control/daemon", "the journal, cut short and damaged"),
];

/// All files of that name below a folder.
fn find(folder: &Path, name: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            find(&path, name, found);
        } else if path.file_name().is_some_and(|file| file == name) {
            found.push(path);
        }
    }
}

/// What the lists of `proofs!` in a text have.
fn count(text: &str) -> usize {
    let lists = text.split("\nproofs! {\n").skip(1).map(|rest| rest.split("\n}").next().unwrap());
    lists.flat_map(str::lines).filter(|line| line.trim_end().ends_with(',')).count()
}

fn proofs_below(folder: &Path) -> usize {
    let mut files = Vec::new();
    find(folder, "proofs.rs", &mut files);
    files.iter().map(|file| count(&fs::read_to_string(file).unwrap())).sum()
}

#[test]
fn the_page_has_the_counts_that_are_true() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut table = "| crate | proofs | of |\n|---|---|---|\n".to_owned();
    let mut all = 0;
    for (folder, what) in CRATES {
        let count = proofs_below(&root.join(folder).join("src"));
        assert!(count > 0, "{folder} has proofs");
        table.push_str(&format!("| `{folder}` | {count} | {what} |\n"));
        all += count;
    }
    table.push_str(&format!("| all | {all} | |\n"));
    let elsewhere = ["datapath", "control", "bench", "ci"].iter().map(|folder| proofs_below(&root.join(folder))).sum();
    assert_eq!(all, elsewhere, "no other crate has some");
    let page = fs::read_to_string(root.join("docs/PROMISES.md")).unwrap();
    assert!(page.contains(&table), "docs/PROMISES.md must have this table:\n{table}");
}

#[test]
fn proofs_are_counted_as_they_are_listed() {
    assert_eq!(
        count(
            "//! x\n\nproofs! {\n    one: 1_000,\n    two: 7,\n}\n\nfn one(choices: &mut Choices) {\n    f(a,\n    b);\n}\n"
        ),
        2
    );
    assert_eq!(count("fn one() {\n    let a = 1,\n}\n"), 0);
}
