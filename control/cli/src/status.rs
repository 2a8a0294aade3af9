//! `culvertctl status`.

use anyhow::Result;
use culvert_api::v1;
use serde::Serialize;

use crate::arguments::Format;
use crate::client::{Client, refusal};
use crate::output::Align::{Left, Right};
use crate::output::{duration, json, pairs, table};

#[derive(Serialize)]
struct Status {
    version: String,
    pid: u32,
    uptime_seconds: u64,
    config_file: String,
    memory_mb: u32,
    hugepages: bool,
    pages: String,
    networks: u32,
    ports: u32,
    ports_up: u32,
    mirrors: u32,
    warnings: Vec<String>,
    workers: Vec<Worker>,
}

#[derive(Serialize)]
struct Worker {
    core: u32,
    frames: u64,
    loops: u64,
    busy_loops: u64,
    sleeps: u64,
}

/// The daemon and its workers.
pub async fn show(client: &mut Client, format: Format) -> Result<String> {
    let answer = client.get_status(v1::GetStatusRequest {}).await.map_err(|status| refusal(&status))?;
    let status = Status::from(answer.into_inner());
    match format {
        Format::Json => json(&status),
        Format::Table => Ok(status.text()),
    }
}

impl Status {
    fn text(&self) -> String {
        let head = pairs([
            ("version", self.version.clone()),
            ("process", format!("{}, for {}", self.pid, duration(self.uptime_seconds))),
            ("config", self.config_file.clone()),
            ("memory", format!("{} MiB in {}", self.memory_mb, self.pages)),
            ("networks", self.networks.to_string()),
            ("ports", format!("{}, {} up", self.ports, self.ports_up)),
            ("mirrors", self.mirrors.to_string()),
        ]);
        let columns = [("WORKER", Left), ("FRAMES", Right), ("LOOPS", Right), ("BUSY LOOPS", Right), ("SLEEPS", Right)];
        let workers = self.workers.iter().map(|worker| {
            let numbers = [worker.frames, worker.loops, worker.busy_loops, worker.sleeps];
            std::iter::once(format!("core {}", worker.core)).chain(numbers.map(|number| number.to_string())).collect()
        });
        let warnings: String = self.warnings.iter().map(|warning| format!("\nwarning: {warning}\n")).collect();
        format!("{head}\n{}{warnings}", table(&columns, workers))
    }
}

impl From<v1::GetStatusResponse> for Status {
    fn from(status: v1::GetStatusResponse) -> Self {
        Self {
            version: status.version,
            pid: status.pid,
            uptime_seconds: status.uptime_seconds,
            config_file: status.config_file,
            memory_mb: status.memory_mb,
            hugepages: status.hugepages,
            pages: status.pages,
            networks: status.networks,
            ports: status.ports,
            ports_up: status.ports_up,
            mirrors: status.mirrors,
            warnings: status.warnings,
            workers: status.workers.into_iter().map(Worker::from).collect(),
        }
    }
}

impl From<v1::Worker> for Worker {
    fn from(worker: v1::Worker) -> Self {
        let v1::Worker { core, loops, busy_loops, sleeps, frames } = worker;
        Self { core, frames, loops, busy_loops, sleeps }
    }
}
