//! libFuzzer's program around the targets: `FUZZ_TARGET` names the one to run, the rest is libFuzzer's own command line.
//! Called by `ci/fuzz/run`, which also says how it is built.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    match culvert_fuzz::TARGETS.iter().find(|(known, _)| *known == name) {
        Some((_, target)) => *target,
        None => {
            let names: Vec<_> = culvert_fuzz::TARGETS.iter().map(|(name, _)| *name).collect();
            eprintln!("FUZZ_TARGET is {name:?}: set it to one of {}", names.join(", "));
            std::process::exit(64);
        }
    }
});

fuzz_target!(|data: &[u8]| TARGET(data));
