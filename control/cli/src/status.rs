//! `culvertctl status`.

use std::collections::BTreeMap;

use anyhow::Result;
use culvert_api::v1;
use serde::Serialize;

use crate::arguments::Format;
use crate::client::{Client, refusal};
use crate::output::Align::{Left, Right};
use crate::output::{duration, pairs, present, table};

#[derive(Serialize)]
struct Status {
    version: String,
    pid: u32,
    supervisor_pid: u32,
    restarts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_end: Option<String>,
    uptime_seconds: u64,
    config_file: String,
    memory_mb: u32,
    hugepages: bool,
    pages: String,
    networks: u32,
    ports: u32,
    ports_up: u32,
    mirrors: u32,
    pods: u32,
    bugs: u64,
    warnings: Vec<String>,
    workers: Vec<Worker>,
    translators: Vec<Translator>,
}

#[derive(Serialize)]
struct Worker {
    core: u32,
    frames: u64,
    loops: u64,
    busy_loops: u64,
    sleeps: u64,
    poll_gaps: u64,
    longest_gap_us: u64,
}

#[derive(Serialize)]
struct Translator {
    socket: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<String>,
    statistics: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// The daemon and its workers, and the node's translators.
pub async fn show(client: &mut Client, format: Format) -> Result<String> {
    let answer = client.get_status(v1::GetStatusRequest {}).await.map_err(|status| refusal(&status))?;
    let status = Status::from(answer.into_inner());
    match format.data() {
        Some(data) => data.text(&status),
        None => Ok(status.text()),
    }
}

impl Status {
    fn text(&self) -> String {
        let head = pairs([
            ("version", self.version.clone()),
            ("process", format!("{}, for {}", self.pid, duration(self.uptime_seconds))),
            ("supervisor", format!("{}, {}", self.supervisor_pid, self.restarts_text())),
            ("config", self.config_file.clone()),
            ("memory", format!("{} MiB in {}", self.memory_mb, self.pages)),
            ("networks", self.networks.to_string()),
            ("ports", format!("{}, {} up", self.ports, self.ports_up)),
            ("mirrors", self.mirrors.to_string()),
            ("pods", self.pods.to_string()),
            ("bugs", self.bugs.to_string()),
        ]);
        let columns = [
            ("WORKER", Left),
            ("FRAMES", Right),
            ("LOOPS", Right),
            ("BUSY LOOPS", Right),
            ("SLEEPS", Right),
            ("GAPS", Right),
            ("LONGEST GAP", Right),
        ];
        let workers = self.workers.iter().map(|worker| {
            let numbers = [worker.frames, worker.loops, worker.busy_loops, worker.sleeps, worker.poll_gaps];
            let gap = format!("{}.{:03} ms", worker.longest_gap_us / 1000, worker.longest_gap_us % 1000);
            let numbers = numbers.map(|number| number.to_string());
            std::iter::once(format!("core {}", worker.core)).chain(numbers).chain([gap]).collect()
        });
        let warnings: String = self.warnings.iter().map(|warning| format!("\nwarning: {warning}\n")).collect();
        let translators = if self.translators.is_empty() { String::new() } else { self.translators_text() };
        format!("{head}\n{}{translators}{warnings}", table(&columns, workers))
    }

    fn restarts_text(&self) -> String {
        match &self.last_end {
            None => "no restarts".to_owned(),
            Some(end) => format!("restarts: {}, the last after {end}", self.restarts),
        }
    }

    /// What is the same for all translators; `culvertctl translator stats` has the rest.
    fn translators_text(&self) -> String {
        let columns = [
            ("TRANSLATOR", Left),
            ("RX FRAMES", Right),
            ("RX BYTES", Right),
            ("TX FRAMES", Right),
            ("TX BYTES", Right),
            ("FLOWS", Right),
            ("REFUSED", Right),
        ];
        let rows = self.translators.iter().filter(|translator| translator.problem.is_none()).map(|translator| {
            let sum = |is_meant: fn(&str) -> bool| {
                let meant = translator.statistics.iter().filter(|(name, _)| is_meant(name));
                meant.fold(0u64, |sum, (_, value)| sum.saturating_add(*value))
            };
            let numbers = [
                sum(|name| name == "rx_frames"),
                sum(|name| name == "rx_bytes"),
                sum(|name| name == "tx_frames"),
                sum(|name| name == "tx_bytes"),
                sum(|name| name.ends_with("_flows")),
                sum(|name| name.starts_with("refused_")),
            ];
            std::iter::once(translator.socket.clone()).chain(numbers.map(|number| number.to_string())).collect()
        });
        let problems = self.translators.iter().filter_map(|translator| translator.problem.as_ref());
        let problems: String = problems.map(|problem| format!("\nwarning: {problem}\n")).collect();
        format!("\n{}{problems}", table(&columns, rows))
    }
}

impl From<v1::GetStatusResponse> for Status {
    fn from(status: v1::GetStatusResponse) -> Self {
        Self {
            version: status.version,
            pid: status.pid,
            supervisor_pid: status.supervisor_pid,
            restarts: status.restarts,
            last_end: present(status.last_end),
            uptime_seconds: status.uptime_seconds,
            config_file: status.config_file,
            memory_mb: status.memory_mb,
            hugepages: status.hugepages,
            pages: status.pages,
            networks: status.networks,
            ports: status.ports,
            ports_up: status.ports_up,
            mirrors: status.mirrors,
            pods: status.pods,
            bugs: status.bugs,
            warnings: status.warnings,
            workers: status.workers.into_iter().map(Worker::from).collect(),
            translators: status.translators.into_iter().map(Translator::from).collect(),
        }
    }
}

impl From<v1::Worker> for Worker {
    fn from(worker: v1::Worker) -> Self {
        let v1::Worker { core, loops, busy_loops, sleeps, frames, poll_gaps, longest_gap_us, busy_ns: _ } = worker;
        Self { core, frames, loops, busy_loops, sleeps, poll_gaps, longest_gap_us }
    }
}

impl From<v1::Translator> for Translator {
    fn from(translator: v1::Translator) -> Self {
        let v1::Translator { socket, statistics, problem, pod } = translator;
        Self { socket, pod: present(pod), statistics: statistics.into_iter().collect(), problem: present(problem) }
    }
}
