//! Metrics of workers and the queues that they poll.

use culvert_api::v1;

use super::node::of_node;
use super::{Metric, Sample, Section, Unit, Value, counter, gauge, ratio, sample, seconds};
use crate::snapshot::Snapshot;

pub(super) const SECTION: Section = Section {
    title: "Workers and their queues",
    text: "A worker is known by its core. A queue is one that frames come from: a guest's transmit queue, a NIC's receive queue.",
    metrics: &[
        worker("culvert_worker_loops", "Turns of the worker's loop.", |s| workers(s, |w| w.loops.into())),
        worker("culvert_worker_busy_loops", "Turns that moved a frame.", |s| workers(s, |w| w.busy_loops.into())),
        worker("culvert_worker_sleeps", "Times that it slept because nothing came.", |s| {
            workers(s, |w| w.sleeps.into())
        }),
        worker("culvert_worker_frames", "Frames that it took from ports.", |s| workers(s, |w| w.frames.into())),
        worker("culvert_worker_busy", "Time that went to polls that moved frames.", |s| {
            workers(s, |w| seconds(w.busy_ns))
        })
        .in_unit(Unit::Seconds),
        worker("culvert_worker_poll_gaps", "Times that other work had its core for more than 20 ms.", |s| {
            workers(s, |w| w.poll_gaps.into())
        }),
        gauge("culvert_worker_longest_poll_gap", "The longest such time.", |snapshot| {
            workers(snapshot, |worker| seconds(worker.longest_gap_us.saturating_mul(1000)))
        })
        .in_unit(Unit::Seconds)
        .by(&["core"]),
        gauge("culvert_worker_load", "The part of its time that its queues took in the last minute.", |snapshot| {
            let load = |worker: &v1::WorkerQueues| sample([&worker.core.to_string()], ratio(worker.load_permille));
            of_node(snapshot, |node| node.workers.iter().map(load).collect())
        })
        .in_unit(Unit::Ratio)
        .by(&["core"]),
        counter("culvert_queue_frames", "Frames that came from the queue.", |snapshot| {
            queues(snapshot, |_, queue| queue.frames.into())
        })
        .by(&["port", "queue"]),
        counter("culvert_queue_busy", "Workers' time that went to polls of it that moved frames.", |snapshot| {
            queues(snapshot, |_, queue| seconds(queue.busy_ns))
        })
        .in_unit(Unit::Seconds)
        .by(&["port", "queue"]),
        gauge("culvert_queue_load", "The part of a worker's time that it took in the last minute.", |snapshot| {
            queues(snapshot, |_, queue| ratio(queue.load_permille))
        })
        .in_unit(Unit::Ratio)
        .by(&["port", "queue"]),
        gauge("culvert_queue_core", "The core of the worker that polls it.", |snapshot| {
            queues(snapshot, |worker, _| worker.core.into())
        })
        .by(&["port", "queue"]),
    ],
};

const fn worker(name: &'static str, help: &'static str, samples: fn(&Snapshot) -> Vec<Sample>) -> Metric {
    counter(name, help, samples).by(&["core"])
}

fn workers(snapshot: &Snapshot, value: impl Fn(&v1::Worker) -> Value) -> Vec<Sample> {
    let of_worker = |worker: &v1::Worker| sample([&worker.core.to_string()], value(worker));
    of_node(snapshot, |node| node.status.workers.iter().map(of_worker).collect())
}

fn queues(snapshot: &Snapshot, value: impl Fn(&v1::WorkerQueues, &v1::PolledQueue) -> Value) -> Vec<Sample> {
    of_node(snapshot, |node| {
        let pairs = node.workers.iter().flat_map(|worker| worker.queues.iter().map(move |queue| (worker, queue)));
        pairs.map(|(worker, queue)| sample([&queue.port, &queue.queue.to_string()], value(worker, queue))).collect()
    })
}
