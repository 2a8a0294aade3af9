//! What culvertd answered at one moment, as far as it becomes series: so many objects of each kind, whatever there are. Those that are
//! left out are counted.

use std::collections::BTreeMap;

use culvert_api::v1;

use crate::owner::Owner;

/// One moment of a node.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// What culvertd said; `None`: it did not answer.
    pub node: Option<Node>,
    /// Why it did not answer, with the remedy; empty if it did.
    pub problem: String,
    /// What this process counts of itself.
    pub own: Own,
}

/// culvertd's answers.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// The daemon and its workers, and all translators.
    pub status: v1::GetStatusResponse,
    /// All networks.
    pub networks: Vec<v1::Network>,
    /// All ports.
    pub ports: Vec<v1::Port>,
    /// The counters of ports.
    pub stats: Vec<v1::PortStats>,
    /// Refused frames.
    pub drops: Vec<v1::PortDrop>,
    /// What workers poll.
    pub workers: Vec<v1::WorkerQueues>,
    /// All pods.
    pub pods: Vec<v1::Pod>,
    /// The network of each port.
    pub network_of: BTreeMap<String, String>,
    /// How many of what are left out.
    pub left_out: BTreeMap<&'static str, u64>,
}

/// What this process counts of itself.
#[derive(Clone, Debug, Default)]
pub struct Own {
    /// How long culvertd took to answer, in seconds.
    pub collect: Histogram,
    /// Answers that did not come.
    pub failures: u64,
    /// Connections that were accepted.
    pub connections: u64,
    /// Connections that were closed for others, or because they took too long.
    pub cut_off: u64,
}

/// Times, counted by ranges.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// The longest time of each range, in seconds.
    pub bounds: &'static [f64],
    /// How many were at most as long as each of the bounds, and longer than the one before; those beyond at the end.
    pub counts: Vec<u64>,
    /// All together, in seconds.
    pub sum: f64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self::of(ANSWERS)
    }
}

impl Histogram {
    /// Nothing yet, with these bounds in ascending order.
    pub fn of(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len().saturating_add(1)], sum: 0.0 }
    }

    /// Counts one.
    pub fn add(&mut self, seconds: f64) {
        self.count_in(seconds, 1);
        self.sum += seconds;
    }

    /// How long frames stayed, as culvertd tells it. A range that holds a bound is longer.
    #[expect(clippy::cast_precision_loss, reason = "times to 0.01 %")]
    pub fn of_latency(ranges: &[v1::LatencyRange]) -> Self {
        let mut histogram = Self::of(LATENCIES);
        for range in ranges {
            histogram.count_in(range.to_ns as f64 / 1e9, range.frames);
            histogram.sum += range.from_ns.midpoint(range.to_ns) as f64 * range.frames as f64 / 1e9;
        }
        histogram
    }

    fn count_in(&mut self, seconds: f64, times: u64) {
        let range = self.bounds.iter().position(|bound| seconds <= *bound).unwrap_or(self.bounds.len());
        if let Some(count) = self.counts.get_mut(range) {
            *count = count.saturating_add(times);
        }
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().copied().fold(0, u64::saturating_add)
    }
}

/// Bounds for answers of culvertd.
const ANSWERS: &[f64] = &[0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0];
/// Bounds for frames.
const LATENCIES: &[f64] =
    &[0.000_001, 0.000_002, 0.000_005, 0.000_01, 0.000_02, 0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.01, 0.1];

/// How many objects of a kind become series at most.
pub const LIMITS: [(&str, usize); 6] = [
    ("networks", 1024),
    ("ports", 1024),
    ("drops", 8192),
    ("queues", 2048),
    ("translators", 512),
    ("translators_of_one_pod", 8),
];

impl Node {
    /// Of these answers what becomes series: the first ones of each kind.
    pub fn bounded(mut self) -> Self {
        self.network_of = self.ports.iter().map(|port| (port.name.clone(), port.network.clone())).collect();
        let mut of_pods: BTreeMap<String, usize> = BTreeMap::new();
        let translators = self.status.translators.len();
        self.status.translators.retain(|translator| {
            let count = of_pods.entry(translator.pod.clone()).or_default();
            *count = count.saturating_add(1);
            translator.pod.is_empty() || *count <= limit("translators_of_one_pod")
        });
        let crowded = translators.saturating_sub(self.status.translators.len());
        let mut left_out = vec![
            ("networks", cut(&mut self.networks, "networks")),
            ("ports", cut(&mut self.ports, "ports").max(cut(&mut self.stats, "ports"))),
            ("drops", cut(&mut self.drops, "drops")),
            ("translators", crowded.saturating_add(cut(&mut self.status.translators, "translators"))),
        ];
        let mut room = limit("queues");
        let mut queues = 0_usize;
        for worker in &mut self.workers {
            let before = worker.queues.len();
            worker.queues.truncate(room);
            room = room.saturating_sub(before);
            queues = queues.saturating_add(before.saturating_sub(worker.queues.len()));
        }
        left_out.push(("queues", queues));
        self.left_out =
            left_out.into_iter().map(|(what, count)| (what, u64::try_from(count).unwrap_or(u64::MAX))).collect();
        self
    }

    /// The network of a port; empty when it has gone meanwhile.
    pub fn network(&self, port: &str) -> &str {
        self.network_of.get(port).map_or("", String::as_str)
    }

    /// Whose port or translator it is, by what is registered of a pod.
    pub fn owner_of_pod(&self, pod: &str) -> Owner {
        let found = self.pods.iter().find(|known| known.name == pod);
        found.map(|pod| Owner::parse(&pod.description)).unwrap_or_default()
    }
}

fn limit(kind: &str) -> usize {
    LIMITS.iter().find(|(name, _)| *name == kind).map_or(0, |(_, most)| *most)
}

/// Leaves as many as are allowed; how many went.
fn cut<T>(list: &mut Vec<T>, kind: &str) -> usize {
    let over = list.len().saturating_sub(limit(kind));
    list.truncate(limit(kind));
    over
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_is_in_one_range() {
        let mut histogram = Histogram::default();
        [0.0, 0.001, 0.002, 0.5, 3.0, 9.0].into_iter().for_each(|seconds| histogram.add(seconds));
        assert_eq!(histogram.counts, [2, 1, 0, 0, 0, 0, 1, 1, 1]);
        assert_eq!((histogram.count(), histogram.sum), (6, 12.503));
        let range = |from_ns, to_ns, frames| v1::LatencyRange { from_ns, to_ns, frames };
        let latency = Histogram::of_latency(&[range(990, 1000, 7), range(992, 1007, 2), range(1 << 34, 1 << 34, 1)]);
        assert_eq!(latency.counts, [7, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(latency.count(), 10);
        assert!((latency.sum - 17.179_878).abs() < 0.000_001, "{}", latency.sum);
    }

    #[test]
    fn what_is_too_much_is_left_out_and_counted() {
        let translator = |pod: &str| v1::Translator { pod: pod.to_owned(), ..v1::Translator::default() };
        let crowd = (0..20).map(|_| translator("crowd"));
        let others = (0..600).map(|_| translator(""));
        let drops = (0..10_000).map(|_| v1::PortDrop::default()).collect();
        let queues = |count| v1::WorkerQueues { queues: vec![v1::PolledQueue::default(); count], ..Default::default() };
        let node = Node {
            status: v1::GetStatusResponse {
                translators: crowd.chain(others).collect(),
                ..v1::GetStatusResponse::default()
            },
            drops,
            workers: vec![queues(2000), queues(100)],
            ..Node::default()
        };
        let node = node.bounded();
        assert_eq!((node.status.translators.len(), node.drops.len()), (512, 8192));
        assert_eq!(node.workers.iter().map(|worker| worker.queues.len()).collect::<Vec<_>>(), [2000, 48]);
        let left_out: Vec<_> = node.left_out.into_iter().collect();
        let expected = [("drops", 1808), ("networks", 0), ("ports", 0), ("queues", 52), ("translators", 108)];
        assert_eq!(left_out, expected);
    }
}
