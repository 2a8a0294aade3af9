//! libFuzzer's program around one target, that which `FUZZ_TARGET` names while it is built: with all of them in one program,
//! libFuzzer would look at all their counters after each run, which takes longer than most runs. The rest is libFuzzer's
//! own command line. Called by `ci/fuzz/run`, which also says how it is built.
#![no_main]

use culvert_fuzz::{TARGETS, Target};
use libfuzzer_sys::fuzz_target;

/// A constant, so that no other target is linked.
const TARGET: Target = named(env!("FUZZ_TARGET"));

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

fuzz_target!(|data: &[u8]| TARGET(data));
