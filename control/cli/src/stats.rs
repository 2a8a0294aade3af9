//! `culvertctl stats`.

use anyhow::Result;
use culvert_api::v1;
use serde::Serialize;

use crate::arguments::Format;
use crate::client::{Client, refusal};
use crate::output::Align::{Left, Right};
use crate::output::{json, table};

#[derive(Serialize)]
struct Stats {
    port: String,
    rx_frames: u64,
    rx_bytes: u64,
    rx_forwarded: u64,
    rx_dropped: u64,
    rx_in_flight: u64,
    tx_frames: u64,
    tx_bytes: u64,
    tx_dropped: u64,
    nic_missed: u64,
    nic_errors: u64,
}

/// The counters of one port, or of all.
pub async fn show(client: &mut Client, port: Option<String>, format: Format) -> Result<String> {
    let request = v1::GetStatsRequest { port: port.unwrap_or_default() };
    let answer = client.get_stats(request).await.map_err(|status| refusal(&status))?.into_inner();
    let stats: Vec<Stats> = answer.ports.into_iter().map(Stats::from).collect();
    if format == Format::Json {
        return json(&stats);
    }
    let columns = [
        ("PORT", Left),
        ("RX FRAMES", Right),
        ("RX BYTES", Right),
        ("FORWARDED", Right),
        ("RX DROPPED", Right),
        ("IN FLIGHT", Right),
        ("TX FRAMES", Right),
        ("TX BYTES", Right),
        ("TX DROPPED", Right),
        ("NIC MISSED", Right),
        ("NIC ERRORS", Right),
    ];
    let rows = stats.into_iter().map(|stats| {
        let numbers = [
            stats.rx_frames,
            stats.rx_bytes,
            stats.rx_forwarded,
            stats.rx_dropped,
            stats.rx_in_flight,
            stats.tx_frames,
            stats.tx_bytes,
            stats.tx_dropped,
            stats.nic_missed,
            stats.nic_errors,
        ];
        std::iter::once(stats.port).chain(numbers.map(|number| number.to_string())).collect()
    });
    Ok(table(&columns, rows))
}

impl From<v1::PortStats> for Stats {
    fn from(stats: v1::PortStats) -> Self {
        Self {
            port: stats.port,
            rx_frames: stats.rx_frames,
            rx_bytes: stats.rx_bytes,
            rx_forwarded: stats.rx_forwarded,
            rx_dropped: stats.rx_dropped,
            rx_in_flight: stats.rx_in_flight,
            tx_frames: stats.tx_frames,
            tx_bytes: stats.tx_bytes,
            tx_dropped: stats.tx_dropped,
            nic_missed: stats.nic_missed,
            nic_errors: stats.nic_errors,
        }
    }
}
