//! `culvertctl stats`.

use anyhow::Result;
use culvert_api::v1;
use serde::Serialize;

use crate::arguments::Format;
use crate::client::{Client, refusal};
use crate::output::Align::{Left, Right};
use crate::output::table;

#[derive(Serialize)]
struct Stats {
    port: String,
    rx_frames: u64,
    rx_bytes: u64,
    rx_forwarded: u64,
    rx_copies: u64,
    rx_dropped: u64,
    rx_in_flight: u64,
    rx_not_learned: u64,
    rx_held: u64,
    tx_offered: u64,
    tx_frames: u64,
    tx_bytes: u64,
    tx_dropped: u64,
    tx_in_flight: u64,
    nic_missed: u64,
    nic_rx_errors: u64,
    nic_tx_errors: u64,
}

/// The counters of one port, or of all.
pub async fn show(client: &mut Client, port: Option<String>, format: Format) -> Result<String> {
    let request = v1::GetStatsRequest { port: port.unwrap_or_default() };
    let answer = client.get_stats(request).await.map_err(|status| refusal(&status))?.into_inner();
    let stats: Vec<Stats> = answer.ports.into_iter().map(Stats::from).collect();
    if let Some(data) = format.data() {
        return data.text(&stats);
    }
    let mut columns = vec![
        ("PORT", Left),
        ("RX FRAMES", Right),
        ("RX BYTES", Right),
        ("RX DROPPED", Right),
        ("TX FRAMES", Right),
        ("TX BYTES", Right),
        ("TX DROPPED", Right),
        ("IN FLIGHT", Right),
        ("NIC LOST", Right),
    ];
    // Only where a port has a rate that was reached.
    let held = stats.iter().any(|stats| stats.rx_held > 0);
    if held {
        columns.push(("HELD", Right));
    }
    let rows = stats.into_iter().map(|stats| {
        let lost =
            [stats.nic_missed, stats.nic_rx_errors, stats.nic_tx_errors].into_iter().fold(0, u64::saturating_add);
        let numbers = [
            stats.rx_frames,
            stats.rx_bytes,
            stats.rx_dropped,
            stats.tx_frames,
            stats.tx_bytes,
            stats.tx_dropped,
            stats.rx_in_flight.saturating_add(stats.tx_in_flight),
            lost,
        ];
        let numbers = numbers.into_iter().chain(held.then_some(stats.rx_held));
        std::iter::once(stats.port).chain(numbers.map(|number| number.to_string())).collect()
    });
    Ok(table(&columns, rows))
}

#[derive(Serialize)]
struct Worker {
    core: u32,
    frames: u64,
    busy_ns: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    busy_ns_per_frame: Option<f64>,
    loops: u64,
    busy_loops: u64,
}

/// What each worker does, and what a frame costs it. Only polls that moved frames count: one that looks in vain costs nothing that
/// somebody else could have had.
pub async fn show_workers(client: &mut Client, format: Format) -> Result<String> {
    let answer = client.get_status(v1::GetStatusRequest {}).await.map_err(|status| refusal(&status))?.into_inner();
    let workers: Vec<Worker> = answer.workers.into_iter().map(Worker::from).collect();
    if let Some(data) = format.data() {
        return data.text(&workers);
    }
    let columns =
        [("WORKER", Left), ("FRAMES", Right), ("BUSY", Right), ("NS A FRAME", Right), ("FRAMES A BUSY LOOP", Right)];
    let rows = workers.into_iter().map(|worker| {
        let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1}"));
        vec![
            format!("core {}", worker.core),
            worker.frames.to_string(),
            format!("{}.{:03} s", worker.busy_ns / 1_000_000_000, worker.busy_ns / 1_000_000 % 1000),
            number(worker.busy_ns_per_frame),
            number(ratio(worker.frames, worker.busy_loops)),
        ]
    });
    Ok(table(&columns, rows))
}

/// One number by another one; none by nothing.
fn ratio(number: u64, by: u64) -> Option<f64> {
    (by > 0).then(|| number as f64 / by as f64)
}

impl From<v1::Worker> for Worker {
    fn from(worker: v1::Worker) -> Self {
        let v1::Worker { core, loops, busy_loops, frames, busy_ns, .. } = worker;
        Self { core, frames, busy_ns, busy_ns_per_frame: ratio(busy_ns, frames), loops, busy_loops }
    }
}

impl From<v1::PortStats> for Stats {
    fn from(stats: v1::PortStats) -> Self {
        Self {
            port: stats.port,
            rx_frames: stats.rx_frames,
            rx_bytes: stats.rx_bytes,
            rx_forwarded: stats.rx_forwarded,
            rx_copies: stats.rx_copies,
            rx_dropped: stats.rx_dropped,
            rx_in_flight: stats.rx_in_flight,
            rx_not_learned: stats.rx_not_learned,
            rx_held: stats.rx_held,
            tx_offered: stats.tx_offered,
            tx_frames: stats.tx_frames,
            tx_bytes: stats.tx_bytes,
            tx_dropped: stats.tx_dropped,
            tx_in_flight: stats.tx_in_flight,
            nic_missed: stats.nic_missed,
            nic_rx_errors: stats.nic_rx_errors,
            nic_tx_errors: stats.nic_tx_errors,
        }
    }
}
