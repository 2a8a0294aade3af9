//! Several workers, each with a pair of guests that send to each other as fast as they can, and with a core of its own; another core
//! drives each pair. A machine needs two cores for each worker. Where it has fewer, two workers are tried nevertheless, on the cores that
//! drive the guests: the name of the case says so, and its figures tell only that they share the work.

use std::path::PathBuf;
use std::sync::Barrier;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::core_to_core;
use crate::load::{Frames, LoadGuest};
use crate::options::Options;
use crate::pair::{MILLIONS, Pair, RATE, busy_figure, under_load};
use crate::peer::{Peer, Setup};
use crate::scenario::{Case, Figure};

pub fn cases(options: &Options) -> Result<Vec<Case>> {
    let cores = std::thread::available_parallelism()?.get();
    let case = |places: Places| {
        let options = options.clone();
        Case::new(places.name(), move |peer| measure(&options, peer, &places))
    };
    Ok(Places::all(cores).into_iter().map(case).collect())
}

/// Which cores switch, and which drive a pair of guests each.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Places {
    workers: Vec<usize>,
    loads: Vec<usize>,
}

impl Places {
    /// What can be tried on a machine of so many cores: 1, 2, 4 workers and so on.
    fn all(cores: usize) -> Vec<Self> {
        let most = (cores / 2).max(2);
        let counts = (0..).map(|power| 1 << power).take_while(|&count| count <= most && count <= cores);
        counts
            .map(|count| Self { workers: (cores - count..cores).rev().collect(), loads: (0..count).collect() })
            .collect()
    }

    fn shared(&self) -> bool {
        self.workers.iter().any(|core| self.loads.contains(core))
    }

    fn name(&self) -> String {
        let count = self.workers.len();
        let workers = if count == 1 { "1 worker".to_owned() } else { format!("{count} workers") };
        if self.shared() { format!("{workers}, on the cores of the load") } else { workers }
    }
}

fn measure(options: &Options, peer: Peer, places: &Places) -> Result<Vec<Figure>> {
    let count = places.workers.len();
    let mut setup = Setup { guests: 2 * count, cores: places.workers.clone(), ..Setup::pair(0, FRAME_BYTES) };
    if places.shared() {
        // A worker that polls for ever would keep its core from who drives the guests.
        setup.idle_sleep = "200us";
    }
    under_load(peer, &setup, places.loads.first().copied().unwrap_or(0), |switch| {
        let sockets = switch.sockets.clone();
        let (start, end) = (Barrier::new(count + 1), Barrier::new(count + 1));
        std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for ((number, &core), sockets) in (0..).zip(&places.loads).zip(sockets.chunks(2)) {
                let (start, end) = (&start, &end);
                threads.push(scope.spawn(move || {
                    core_to_core::bind(core);
                    let ready = connect(options, sockets, number);
                    start.wait();
                    let outcome = ready.and_then(|mut pair| {
                        let (before, began) = (pair.received(), Instant::now());
                        pair.drive(options.time(), [true; 2])?;
                        let rate = (pair.received() - before) as f64 / began.elapsed().as_secs_f64() / 1e6;
                        pair.guests.iter().try_for_each(LoadGuest::check)?;
                        Ok((rate, pair))
                    });
                    // Nobody leaves before what the switch has done was counted.
                    end.wait();
                    outcome.map(|(rate, _)| rate)
                }));
            }
            start.wait();
            let before = switch.busy();
            end.wait();
            let busy = before.and_then(|before| busy_figure(switch, before));
            let rates = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| bail!("a load panicked")));
            let rates = rates.collect::<Result<Vec<f64>>>()?;
            ensure!(rates.iter().all(|&rate| rate > 0.0), "not all pairs got frames: {rates:?}");
            let mut figures = vec![
                Figure::gain(RATE, MILLIONS, rates.iter().sum()),
                Figure::gain("rate of the slowest pair", MILLIONS, rates.iter().copied().fold(f64::MAX, f64::min)),
            ];
            figures.extend(busy?);
            Ok(figures)
        })
    })
}

/// The pair of guests of a number, whose addresses the switch knows then.
fn connect(options: &Options, sockets: &[PathBuf], number: u8) -> Result<Pair> {
    let [a, b] = sockets else { bail!("two sockets") };
    let (first, second) = (2 * number + 1, 2 * number + 2);
    let guest = |socket, from, to| LoadGuest::connect(socket, options.rings(), Frames::plain(from, to, FRAME_BYTES));
    let mut pair = Pair { guests: [guest(a, first, second)?, guest(b, second, first)?] };
    pair.warm_up(1).with_context(|| format!("pair {number}"))?;
    Ok(pair)
}

const FRAME_BYTES: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_have_cores_of_their_own_where_there_are_enough() {
        let names = |cores| Places::all(cores).iter().map(Places::name).collect::<Vec<_>>();
        assert_eq!(names(2), ["1 worker", "2 workers, on the cores of the load"]);
        assert_eq!(names(4), ["1 worker", "2 workers"]);
        assert_eq!(names(9), ["1 worker", "2 workers", "4 workers"]);
        assert_eq!(Places::all(4)[1], Places { workers: vec![3, 2], loads: vec![0, 1] });
    }
}
