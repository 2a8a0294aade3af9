//! Two guests that do nothing: how much of a core the switch takes, and how long a frame takes that comes after a rest; beside it how long
//! a thread takes on the same core that does nothing but to wait for a descriptor, which is what the machine allows.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use culvert_system::daemon::cpu_time;
use rustix::event::{EventfdFlags, eventfd};

use crate::clock::{microseconds, ticks};
use crate::core_to_core::bind;
use crate::latency::quantile;
use crate::load::Frames;
use crate::options::Options;
use crate::pair::under_load;
use crate::peer::{Peer, Setup};
use crate::scenario::{Case, Figure};
use crate::vm_to_vm::connect;

pub fn cases(options: &Options) -> Result<Vec<Case>> {
    let options = options.clone();
    Ok(vec![Case::new("two guests", move |peer| measure(&options, peer))])
}

fn measure(options: &Options, peer: Peer) -> Result<Vec<Figure>> {
    let setup = Setup { idle_sleep: "200us", ..Setup::pair(options.switch_core(), FRAME_BYTES) };
    under_load(peer, &setup, options.load_core(), |switch| {
        let mut pair = connect(switch, options.rings(), Frames::plain(1, 2, FRAME_BYTES))?;
        pair.warm_up(1)?;
        std::thread::sleep(Duration::from_millis(500));
        let (before, start) = (cpu_time(switch.pid())?, Instant::now());
        std::thread::sleep(options.time());
        let used = cpu_time(switch.pid())?.saturating_sub(before).as_secs_f64() / start.elapsed().as_secs_f64();

        let [a, b] = &mut pair.guests;
        let first = wake_ups(|| {
            b.take();
            a.reclaim();
            let sent = ticks();
            ensure!(a.send(1)? == 1, "the ring is full");
            let started = Instant::now();
            while b.take() == 0 {
                ensure!(started.elapsed() < LIMIT, "a frame did not arrive within {LIMIT:?}");
            }
            Ok(ticks() - sent)
        })?;
        let mut figures = vec![Figure::cost("processor time", "% of a core", 100.0 * used)];
        figures.extend(first.figures(["first frame, p50", "first frame, p99"]));
        // The others do not leave the core.
        if peer == Peer::Culvert {
            figures.extend(
                waiting_thread(options.switch_core())?.figures(["a waiting thread, p50", "a waiting thread, p99"]),
            );
        }
        Ok(figures)
    })
}

/// How long something took, again and again, in the processor's clock, in order.
struct Times(Vec<u64>);

impl Times {
    fn figures(&self, names: [&'static str; 2]) -> [Figure; 2] {
        let [p50, p99] = [0.5, 0.99].map(|part| microseconds(quantile(&self.0, part)));
        let [first, second] = names;
        [Figure::cost(first, "us", p50), Figure::cost(second, "us", p99)]
    }
}

/// How long something takes that is done after a rest.
fn wake_ups(mut once: impl FnMut() -> Result<u64>) -> Result<Times> {
    let mut times = Vec::with_capacity(WAKE_UPS);
    for _ in 0..WAKE_UPS {
        std::thread::sleep(REST);
        times.push(once()?);
    }
    times.sort_unstable();
    Ok(Times(times))
}

/// The same of a thread on `core` that waits for a descriptor, from before it is written until the thread has run.
fn waiting_thread(core: usize) -> Result<Times> {
    let descriptor = eventfd(0, EventfdFlags::CLOEXEC)?;
    let has_run = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            bind(core);
            for _ in 0..WAKE_UPS {
                let mut word = [0; 8];
                while rustix::io::read(&descriptor, &mut word).is_err() {}
                has_run.store(true, Ordering::Release);
            }
        });
        let times = wake_ups(|| {
            let begin = ticks();
            rustix::io::write(&descriptor, &1_u64.to_ne_bytes())?;
            while !has_run.swap(false, Ordering::AcqRel) {}
            Ok(ticks() - begin)
        });
        ensure!(waiting.join().is_ok(), "the thread that waits has failed");
        times
    })
}

const FRAME_BYTES: u32 = 64;

/// Frames that come after a rest, and how long each rest is.
const WAKE_UPS: usize = 200;
const REST: Duration = Duration::from_millis(5);

const LIMIT: Duration = Duration::from_secs(2);
