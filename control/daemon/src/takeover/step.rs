//! Where tests kill: each step of a takeover, in each of the four processes. In a build with the feature `inject`, `CULVERT_INJECT` with
//! `takeover-kill=STEP` has a process abort when it comes to that step, without a word, and `takeover-stall=STEP` has it stand still there.

/// A step of a takeover is reached.
pub fn reached(step: &str) {
    #[cfg(feature = "inject")]
    {
        use culvert_worker::inject::wished;
        if wished("takeover-kill").is_some_and(|at| at == step) {
            // The daemon may send no signal.
            std::process::abort();
        }
        while wished("takeover-stall").is_some_and(|at| at == step) {
            std::thread::sleep(std::time::Duration::from_secs(1));
        }
    }
    #[cfg(not(feature = "inject"))]
    let _ = step;
}
