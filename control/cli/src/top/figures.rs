//! What is shown: rates of what was counted between two answers.

use std::collections::BTreeMap;
use std::time::Instant;

use culvert_api::{latency, v1};

/// Answers of culvertd at one time.
#[derive(Clone, Debug)]
pub struct Sample {
    /// When they came.
    pub time: Instant,
    /// All ports.
    pub ports: Vec<v1::Port>,
    /// Their counters.
    pub stats: Vec<v1::PortStats>,
    /// The workers.
    pub workers: Vec<v1::WorkerQueues>,
}

/// What is shown.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// In culvertd's order.
    pub ports: Vec<Port>,
    /// In culvertd's order.
    pub workers: Vec<Worker>,
    /// Whether somebody measures latency of any port.
    pub is_measured: bool,
}

/// A port. Rates are per second.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Port {
    /// Its name and its network's.
    pub name: String,
    /// The network.
    pub network: String,
    /// Its state.
    pub state: &'static str,
    /// Frames and bits that came from it.
    pub rx_frames: f64,
    /// Bits.
    pub rx_bits: f64,
    /// Frames and bits that went to it.
    pub tx_frames: f64,
    /// Bits.
    pub tx_bits: f64,
    /// Frames that were refused, on both sides.
    pub drops: f64,
    /// The time in Culvert, in nanoseconds, that 99 % of the frames did not exceed, of those from it or of those to it, whatever is longer; while
    /// somebody measures the port and frames pass.
    pub p99: Option<u64>,
}

/// A worker.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Worker {
    /// The core.
    pub core: u32,
    /// The share of its time that goes to frames, from 0 to 1.
    pub load: f64,
    /// Frames a second that it takes.
    pub frames: f64,
    /// Nanoseconds for each; none if there were none.
    pub ns_per_frame: Option<f64>,
}

impl Figures {
    /// Of what was counted between two samples. Before there are two, all rates are 0.
    pub fn between(before: &Sample, now: &Sample) -> Self {
        let seconds = now.time.saturating_duration_since(before.time).as_secs_f64();
        // What was counted anew, since the port or culvertd began anew, is no rate.
        let rate =
            |before: u64, now: u64| if seconds > 0.0 { now.saturating_sub(before) as f64 / seconds } else { 0.0 };
        let by_port = |sample: &Sample| -> BTreeMap<String, v1::PortStats> {
            sample.stats.iter().map(|stats| (stats.port.clone(), stats.clone())).collect()
        };
        let (old, new) = (by_port(before), by_port(now));
        let ports = now.ports.iter().map(|port| {
            let nothing = v1::PortStats::default();
            let new = new.get(&port.name).unwrap_or(&nothing);
            let old = old.get(&port.name).unwrap_or(new);
            let dropped = |stats: &v1::PortStats| stats.rx_dropped.saturating_add(stats.tx_dropped);
            Port {
                name: port.name.clone(),
                network: port.network.clone(),
                state: state(port.state()),
                rx_frames: rate(old.rx_frames, new.rx_frames),
                rx_bits: 8.0 * rate(old.rx_bytes, new.rx_bytes),
                tx_frames: rate(old.tx_frames, new.tx_frames),
                tx_bits: 8.0 * rate(old.tx_bytes, new.tx_bytes),
                drops: rate(dropped(old), dropped(new)),
                p99: new.latency.as_ref().and_then(|now| p99(old.latency.as_ref(), now)),
            }
        });
        let sums = |worker: &v1::WorkerQueues| {
            let sum = |value: fn(&v1::PolledQueue) -> u64| worker.queues.iter().map(value).fold(0, u64::saturating_add);
            (sum(|queue| queue.frames), sum(|queue| queue.busy_ns))
        };
        let workers = now.workers.iter().map(|worker| {
            let new = sums(worker);
            let old = before.workers.iter().find(|old| old.core == worker.core).map_or(new, sums);
            let (frames, busy) = (new.0.saturating_sub(old.0), new.1.saturating_sub(old.1));
            Worker {
                core: worker.core,
                load: rate(0, busy) / 1e9,
                frames: rate(0, frames),
                ns_per_frame: (frames > 0).then(|| busy as f64 / frames as f64),
            }
        });
        let is_measured = now.stats.iter().any(|stats| stats.latency.is_some());
        Self { ports: ports.collect(), workers: workers.collect(), is_measured }
    }
}

/// Of the frames that were counted between two answers.
fn p99(before: Option<&v1::PortLatency>, now: &v1::PortLatency) -> Option<u64> {
    let none = v1::PortLatency::default();
    let before = before.unwrap_or(&none);
    let of = |before: &[_], now: &[_]| latency::quantile(&latency::between(before, now), 0.99);
    of(&before.rx, &now.rx).max(of(&before.tx, &now.tx))
}

fn state(state: v1::PortState) -> &'static str {
    match state {
        v1::PortState::Unspecified => "unknown",
        v1::PortState::Waiting => "waiting",
        v1::PortState::Up => "up",
        v1::PortState::Down => "down",
        v1::PortState::Quarantined => "quarantined",
        v1::PortState::Failed => "failed",
    }
}

/// A rate with three digits and a unit: `1.23 M`.
pub fn short(rate: f64) -> String {
    let (value, unit) = match rate {
        rate if rate >= 999.5e6 => (rate / 1e9, " G"),
        rate if rate >= 999.5e3 => (rate / 1e6, " M"),
        rate if rate >= 999.5 => (rate / 1e3, " k"),
        rate => return format!("{rate:.0}"),
    };
    match value {
        value if value >= 99.95 => format!("{value:.0}{unit}"),
        value if value >= 9.995 => format!("{value:.1}{unit}"),
        value => format!("{value:.2}{unit}"),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use std::time::Duration;

    fn sample(time: Instant, frames: u64) -> Sample {
        let port = v1::Port { name: "vm-a".into(), network: "blue".into(), state: 2, ..v1::Port::default() };
        let stats = v1::PortStats {
            port: "vm-a".to_owned(),
            rx_frames: frames,
            rx_bytes: 100 * frames,
            tx_dropped: frames / 10,
            ..v1::PortStats::default()
        };
        let queue = v1::PolledQueue { frames, busy_ns: 50 * frames, ..v1::PolledQueue::default() };
        let worker = v1::WorkerQueues { core: 1, queues: vec![queue], ..v1::WorkerQueues::default() };
        Sample { time, ports: vec![port], stats: vec![stats], workers: vec![worker] }
    }

    #[test]
    fn rates_are_of_what_was_counted_between() {
        let start = Instant::now();
        let (before, now) = (sample(start, 1000), sample(start + Duration::from_secs(2), 5000));
        let Figures { ports, workers, .. } = Figures::between(&before, &now);
        assert_eq!((ports[0].rx_frames, ports[0].rx_bits, ports[0].drops), (2000.0, 1_600_000.0, 200.0));
        assert_eq!(workers, [Worker { core: 1, load: 0.0001, frames: 2000.0, ns_per_frame: Some(50.0) }]);
        // culvertd began anew, and the first sample of all.
        assert_eq!(Figures::between(&now, &sample(start + Duration::from_secs(3), 7)).ports[0].rx_frames, 0.0);
        assert_eq!(Figures::between(&now, &now).ports[0].rx_frames, 0.0);
    }

    #[test]
    fn latency_is_of_frames_that_passed_between_while_somebody_measures() {
        let measured = |frames: u64, slow: u64| {
            let range = |from_ns, frames| v1::LatencyRange { from_ns, to_ns: from_ns + 7, frames };
            let mut sample = sample(Instant::now(), frames);
            let (rx, tx) = (vec![range(500, frames), range(90_000, slow)], vec![range(300, 5)]);
            sample.stats[0].latency = Some(v1::PortLatency { rx, tx });
            sample
        };
        let off = Figures::between(&sample(Instant::now(), 1), &sample(Instant::now(), 2));
        assert_eq!((off.is_measured, off.ports[0].p99), (false, None));
        let figures = Figures::between(&measured(10, 10), &measured(1000, 10));
        assert_eq!((figures.is_measured, figures.ports[0].p99), (true, Some(507)));
        // What began to be measured meanwhile, and where nothing passed.
        assert_eq!(Figures::between(&sample(Instant::now(), 1), &measured(10, 10)).ports[0].p99, Some(90_007));
        assert_eq!(Figures::between(&measured(10, 10), &measured(10, 10)).ports[0].p99, None);
    }

    #[test]
    fn rates_are_short() {
        for (rate, text) in
            [(0.0, "0"), (999.4, "999"), (1234.0, "1.23 k"), (99_990.0, "100 k"), (12.34e6, "12.3 M"), (10e9, "10.0 G")]
        {
            assert_eq!(short(rate), text);
        }
    }
}
