//! Queues that move between workers: because somebody says so, or by themselves. What should move is the datapath's matter
//! (`culvert_worker::balance`); here are names, thresholds and the log.

use std::time::Instant;

use culvert_api::v1;
use culvert_worker::{InputTotals, Moved, Proposal};

use super::ChangeError;
use super::live::LiveNode;
use crate::config::Rebalance;

impl LiveNode {
    /// The workers with the queues that each one polls.
    pub(super) fn worker_queues(&self) -> Vec<v1::WorkerQueues> {
        let (inputs, running) = (self.datapath.inputs(), self.running());
        let workers = self.fixed.datapath.worker_cores.iter().enumerate().map(|(worker, &core)| {
            let queues = inputs.iter().filter(|input| input.worker == worker).map(|input| {
                let &InputTotals { port, queue, frames, busy, load, .. } = input;
                v1::PolledQueue {
                    port: running.name(port).to_owned(),
                    queue: queue.into(),
                    load_permille: permille(load.into()),
                    frames,
                    busy_ns: u64::try_from(busy.as_nanos()).unwrap_or(u64::MAX),
                }
            });
            let load = inputs.iter().filter(|input| input.worker == worker).map(|input| u64::from(input.load)).sum();
            v1::WorkerQueues { core: core_number(core), load_permille: permille(load), queues: queues.collect() }
        });
        workers.collect()
    }

    /// Moves queues if that is worth so much, in percent, or what the configuration says; or only tells what would move.
    pub(super) fn rebalance_queues(
        &self,
        least_improvement: Option<u8>,
        dry_run: bool,
    ) -> Result<v1::RebalanceResponse, ChangeError> {
        let least = least_improvement.unwrap_or(self.fixed.datapath.rebalance.improvement);
        let Proposal { mut moves, improvement, loads } = self.datapath.balance(least);
        if !dry_run {
            moves = self.move_queues(&moves)?;
        }
        let running = self.running();
        let moves = moves.iter().map(|&Moved { port, queue, from, to, load }| v1::QueueMove {
            port: running.name(port).to_owned(),
            queue: queue.into(),
            from_core: self.core(from),
            to_core: self.core(to),
            load_permille: permille(load.into()),
        });
        let workers = loads.iter().enumerate().map(|(worker, &(before, after))| v1::WorkerLoad {
            core: self.core(worker),
            before_permille: permille(before),
            after_permille: permille(after),
        });
        Ok(v1::RebalanceResponse {
            moves: moves.collect(),
            improvement: improvement.into(),
            least_improvement: least.into(),
            workers: workers.collect(),
        })
    }

    fn move_queues(&self, moves: &[Moved]) -> Result<Vec<Moved>, ChangeError> {
        let moved = self.datapath.move_queues(moves);
        let moved = moved.map_err(|error| ChangeError::NotDone(vec![format!("queues cannot move: {error}")]))?;
        let running = self.running();
        for &Moved { port, queue, from, to, .. } in &moved {
            let (port, from, to) = (running.name(port), self.core(from), self.core(to));
            let text = format!("queue {queue} has moved from the worker on core {from} to that on core {to}");
            tracing::info!(port, "{text}");
            self.events.tell(v1::EventKind::Moved, port, text);
        }
        Ok(moved)
    }

    /// The core of a worker.
    fn core(&self, worker: usize) -> u32 {
        self.fixed.datapath.worker_cores.get(worker).map_or(u32::MAX, |&core| core_number(core))
    }
}

/// Moves queues when the configuration says so.
#[derive(Default)]
pub(super) struct Balancer {
    looked: Option<Instant>,
}

impl Balancer {
    /// To be called every second or so.
    pub(super) fn look(&mut self, node: &LiveNode) {
        node.datapath.measure_loads();
        let Rebalance { auto, interval, load, improvement } = node.fixed.datapath.rebalance;
        let looked = *self.looked.get_or_insert_with(Instant::now);
        if !auto || looked.elapsed() < interval {
            return;
        }
        self.looked = Some(Instant::now());
        let proposal = node.datapath.balance(improvement);
        let is_busy = |&(before, _): &(u64, u64)| permille(before) >= u32::from(load) * 10;
        if !proposal.loads.iter().any(is_busy) {
            return;
        }
        if let Err(error) = node.move_queues(&proposal.moves) {
            error.sentences().iter().for_each(|sentence| tracing::error!("{sentence}"));
        }
    }
}

/// Thousandths of a worker's time, of nanoseconds a second.
fn permille(load: u64) -> u32 {
    u32::try_from(load / 1_000_000).unwrap_or(u32::MAX)
}

fn core_number(core: usize) -> u32 {
    u32::try_from(core).unwrap_or(u32::MAX)
}
