//! `culvertctl worker list` and `rebalance`.

use anyhow::Result;
use culvert_api::v1;
use serde::Serialize;

use crate::arguments::{Format, WorkerCommand};
use crate::client::{Client, refusal};
use crate::output::Align::{Left, Right};
use crate::output::table;

#[derive(Serialize)]
struct Worker {
    core: u32,
    load_percent: f64,
    queues: Vec<Queue>,
}

#[derive(Serialize)]
struct Queue {
    port: String,
    queue: u32,
    usage_percent: f64,
    frames: u64,
    busy_ns: u64,
}

#[derive(Serialize)]
struct Rebalance {
    dry_run: bool,
    moves: Vec<Move>,
    improvement_percent: u32,
    least_improvement_percent: u32,
    workers: Vec<Load>,
}

#[derive(Serialize)]
struct Move {
    port: String,
    queue: u32,
    usage_percent: f64,
    from_core: u32,
    to_core: u32,
}

#[derive(Serialize)]
struct Load {
    core: u32,
    load_percent: f64,
    load_after_percent: f64,
}

/// Does what the command says.
pub async fn run(client: &mut Client, command: WorkerCommand, format: Format) -> Result<String> {
    match command {
        WorkerCommand::List => list(client, format).await,
        WorkerCommand::Rebalance { dry_run, improvement } => rebalance(client, dry_run, improvement, format).await,
    }
}

async fn list(client: &mut Client, format: Format) -> Result<String> {
    let answer = client.list_workers(v1::ListWorkersRequest {}).await.map_err(|status| refusal(&status))?;
    let workers: Vec<Worker> = answer.into_inner().workers.into_iter().map(Worker::from).collect();
    if let Some(data) = format.data() {
        return data.text(&workers);
    }
    let columns = [
        ("WORKER", Left),
        ("LOAD", Right),
        ("PORT", Left),
        ("QUEUE", Right),
        ("USAGE", Right),
        ("FRAMES", Right),
        ("NS A FRAME", Right),
    ];
    Ok(table(&columns, workers.iter().flat_map(Worker::rows)))
}

async fn rebalance(client: &mut Client, dry_run: bool, least: Option<u32>, format: Format) -> Result<String> {
    let request = v1::RebalanceRequest { dry_run, least_improvement: least };
    let answer = client.rebalance(request).await.map_err(|status| refusal(&status))?.into_inner();
    let v1::RebalanceResponse { moves, improvement, least_improvement, workers } = answer;
    let moves: Vec<Move> = moves.into_iter().map(Move::from).collect();
    if let Some(data) = format.data() {
        return data.text(&Rebalance {
            dry_run,
            moves,
            improvement_percent: improvement,
            least_improvement_percent: least_improvement,
            workers: workers.into_iter().map(Load::from).collect(),
        });
    }
    if moves.is_empty() {
        let worth = format!("the variance of the workers' loads would become smaller by {improvement} %");
        return Ok(format!("nothing to do: {worth}, and {least_improvement} % are wanted\n"));
    }
    let columns = [("PORT", Left), ("QUEUE", Right), ("USAGE", Right), ("FROM", Left), ("TO", Left)];
    let rows = moves.into_iter().map(|moved| {
        let cores = [moved.from_core, moved.to_core].map(|core| format!("core {core}"));
        [moved.port, moved.queue.to_string(), percent(moved.usage_percent)].into_iter().chain(cores).collect()
    });
    let moved = table(&columns, rows);
    let columns = [("WORKER", Left), ("LOAD", Right), ("AFTER", Right)];
    let rows = workers
        .into_iter()
        .map(Load::from)
        .map(|load| vec![format!("core {}", load.core), percent(load.load_percent), percent(load.load_after_percent)]);
    let loads = table(&columns, rows);
    let said = if dry_run { "would become" } else { "becomes" };
    Ok(format!("{moved}\n{loads}\nthe variance of the workers' loads {said} smaller by {improvement} %\n"))
}

impl Worker {
    /// One row for each queue; the first one has the worker.
    fn rows(&self) -> Vec<Vec<String>> {
        let mut head = [format!("core {}", self.core), percent(self.load_percent)];
        if self.queues.is_empty() {
            let none = std::iter::repeat_n("-".to_owned(), 5);
            return vec![head.into_iter().chain(none).collect()];
        }
        let rows = self.queues.iter().map(|queue| {
            let nanoseconds = if queue.frames > 0 {
                format!("{:.1}", queue.busy_ns as f64 / queue.frames as f64)
            } else {
                "-".to_owned()
            };
            let columns = [
                queue.port.clone(),
                queue.queue.to_string(),
                percent(queue.usage_percent),
                queue.frames.to_string(),
                nanoseconds,
            ];
            std::mem::take(&mut head).into_iter().chain(columns).collect()
        });
        rows.collect()
    }
}

fn percent(value: f64) -> String {
    format!("{value:.1} %")
}

/// Percent of thousandths.
fn of_permille(permille: u32) -> f64 {
    f64::from(permille) / 10.0
}

impl From<v1::WorkerQueues> for Worker {
    fn from(worker: v1::WorkerQueues) -> Self {
        let v1::WorkerQueues { core, load_permille, queues } = worker;
        Self { core, load_percent: of_permille(load_permille), queues: queues.into_iter().map(Queue::from).collect() }
    }
}

impl From<v1::PolledQueue> for Queue {
    fn from(polled: v1::PolledQueue) -> Self {
        let v1::PolledQueue { port, queue, load_permille, frames, busy_ns } = polled;
        Self { port, queue, usage_percent: of_permille(load_permille), frames, busy_ns }
    }
}

impl From<v1::QueueMove> for Move {
    fn from(moved: v1::QueueMove) -> Self {
        let v1::QueueMove { port, queue, from_core, to_core, load_permille } = moved;
        Self { port, queue, usage_percent: of_permille(load_permille), from_core, to_core }
    }
}

impl From<v1::WorkerLoad> for Load {
    fn from(load: v1::WorkerLoad) -> Self {
        let v1::WorkerLoad { core, before_permille, after_permille } = load;
        Self { core, load_percent: of_permille(before_permille), load_after_percent: of_permille(after_permille) }
    }
}
