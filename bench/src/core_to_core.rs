//! How long a word takes from one core to another and back, halved: what the host's scheduler has made of our cores.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Nanoseconds one way between the two cores, the best of some rounds.
pub fn nanoseconds(cores: [usize; 2]) -> f64 {
    const TURNS: u64 = 20_000;
    let word = AtomicU64::new(0);
    let [here, there] = cores;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            bind(there);
            for turn in 0..TURNS {
                while word.load(Ordering::Acquire) != 2 * turn + 1 {
                    std::hint::spin_loop();
                }
                word.store(2 * turn + 2, Ordering::Release);
            }
        });
        let measure = scope.spawn(|| {
            bind(here);
            let mut best = Duration::MAX;
            for round in 0..20 {
                let start = Instant::now();
                for turn in (round * TURNS / 20)..((round + 1) * TURNS / 20) {
                    word.store(2 * turn + 1, Ordering::Release);
                    while word.load(Ordering::Acquire) != 2 * turn + 2 {
                        std::hint::spin_loop();
                    }
                }
                best = best.min(start.elapsed());
            }
            best.as_secs_f64() * 1e9 / (TURNS / 20 * 2) as f64
        });
        measure.join().unwrap_or(f64::NAN)
    })
}

/// Binds this thread to a core; without the right to, it stays where it is.
pub fn bind(core: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    let _ = rustix::thread::sched_setaffinity(None, &set);
}
