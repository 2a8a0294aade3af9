//! libFuzzer's program around a target. `FUZZ_TARGET` names it while the program is built, for a long search: with all of them in
//! one program, libFuzzer looks at all their counters after each run, which takes longer than most runs. Without, the program
//! holds all of them, and `FUZZ_TARGET` names the one to run: built once where one for each takes minutes. The rest is
//! libFuzzer's own command line. Called by `ci/fuzz/run`, which also says how it is built.
#![no_main]

use std::sync::LazyLock;

use culvert_fuzz::{TARGETS, Target};
use libfuzzer_sys::fuzz_target;

/// A constant, so that no other target is linked.
const BUILT_FOR: Option<Target> = match option_env!("FUZZ_TARGET") {
    Some(name) => Some(named(name)),
    None => None,
};

static ASKED_FOR: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET names the target to run");
    named(&name)
});

const fn named(name: &str) -> Target {
    let mut place = 0;
    while place < TARGETS.len() {
        if is_same(TARGETS[place].0, name) {
            return TARGETS[place].1;
        }
        place += 1;
    }
    panic!("FUZZ_TARGET is none of those in lib.rs")
}

const fn is_same(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    if one.len() != other.len() {
        return false;
    }
    let mut place = 0;
    while place < one.len() {
        if one[place] != other[place] {
            return false;
        }
        place += 1;
    }
    true
}

fuzz_target!(|data: &[u8]| match BUILT_FOR {
    Some(target) => target(data),
    None => (*ASKED_FOR)(data),
});
