//! Runs every committed input of every target: the corpora, and what once failed.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// One at a time: some targets count this process's file descriptors.
static TURN: Mutex<()> = Mutex::new(());

fn inputs(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("a folder that can be read").path()).collect();
    paths.sort();
    paths
}

fn replay(name: &str) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let (_, target) = culvert_fuzz::TARGETS.iter().find(|(known, _)| *known == name).expect("a target");
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let corpus = inputs(&here.join("corpus").join(name));
    assert!(!corpus.is_empty(), "no seeds for {name}: see ci/fuzz/run");
    for path in corpus.iter().chain(&inputs(&here.join("regressions").join(name))) {
        // Seen when the test fails.
        println!("{}", path.display());
        target(&std::fs::read(path).expect("an input"));
    }
    target(&[]);
}

#[test]
#[cfg(feature = "control")]
fn admission() {
    replay("admission");
}

#[test]
#[cfg(feature = "control")]
fn api_answers() {
    replay("api_answers");
}

#[test]
fn chain() {
    replay("chain");
}

#[test]
#[cfg(feature = "control")]
fn cni() {
    replay("cni");
}

#[test]
#[cfg(feature = "control")]
fn config() {
    replay("config");
}

#[test]
#[cfg(feature = "control")]
fn control() {
    replay("control");
}

#[test]
#[cfg(feature = "control")]
fn convert() {
    replay("convert");
}

#[test]
fn datagrams() {
    replay("datagrams");
}

#[test]
#[cfg(feature = "control")]
fn devices() {
    replay("devices");
}

#[test]
fn dhcp() {
    replay("dhcp");
}

#[test]
fn dhcpv6() {
    replay("dhcpv6");
}

#[test]
fn dns() {
    replay("dns");
}

#[test]
fn fragments() {
    replay("fragments");
}

#[test]
fn frame() {
    replay("frame");
}

#[test]
fn guard() {
    replay("guard");
}

#[test]
#[cfg(feature = "control")]
fn hook_edit() {
    replay("hook_edit");
}

#[test]
#[cfg(feature = "control")]
fn hook_readers() {
    replay("hook_readers");
}

#[test]
#[cfg(feature = "control")]
fn journal() {
    replay("journal");
}

#[test]
fn messages() {
    replay("messages");
}

#[test]
fn migration() {
    replay("migration");
}

#[test]
#[cfg(feature = "control")]
fn migrations() {
    replay("migrations");
}

#[test]
fn neighbours() {
    replay("neighbours");
}

#[test]
fn net_header() {
    replay("net_header");
}

#[test]
fn offload() {
    replay("offload");
}

#[test]
fn packed() {
    replay("packed");
}

#[test]
fn receive() {
    replay("receive");
}

#[test]
fn regions() {
    replay("regions");
}

#[test]
#[cfg(feature = "control")]
fn replies() {
    replay("replies");
}

#[test]
fn requests() {
    replay("requests");
}

#[test]
fn segmenter() {
    replay("segmenter");
}

#[test]
fn session() {
    replay("session");
}

#[test]
fn stream() {
    replay("stream");
}

#[test]
fn switch() {
    replay("switch");
}

#[test]
fn tcp() {
    replay("tcp");
}

#[test]
fn translator() {
    replay("translator");
}

#[test]
fn transmit() {
    replay("transmit");
}

#[test]
#[cfg(feature = "control")]
fn every_target_is_replayed() {
    let names: Vec<_> = culvert_fuzz::TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        names,
        [
            "admission",
            "api_answers",
            "chain",
            "cni",
            "config",
            "control",
            "convert",
            "datagrams",
            "devices",
            "dhcp",
            "dhcpv6",
            "dns",
            "fragments",
            "frame",
            "guard",
            "hook_edit",
            "hook_readers",
            "journal",
            "messages",
            "migration",
            "migrations",
            "neighbours",
            "net_header",
            "offload",
            "packed",
            "receive",
            "regions",
            "replies",
            "requests",
            "segmenter",
            "session",
            "stream",
            "switch",
            "tcp",
            "translator",
            "transmit"
        ]
    );
    // And every folder of inputs is a target's.
    for kind in ["corpus", "regressions"] {
        for folder in inputs(&Path::new(env!("CARGO_MANIFEST_DIR")).join(kind)) {
            let name = folder.file_name().and_then(|name| name.to_str()).expect("a name");
            assert!(names.contains(&name), "{kind}/{name} belongs to no target");
        }
    }
}
