//! The table of all metrics: name, meaning, labels, and where the value comes from. What is served ([`exposition`](crate::exposition)) and
//! docs/METRICS.md ([`reference`](mod@crate::reference)) are made of it, dashboard and alerts are held to it.

mod network;
mod node;
mod port;
mod translator;
mod worker;

use crate::snapshot::{Histogram, Snapshot};

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Without the unit and `_total`.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// The unit of its value, which is part of the full name; `None` for a number of things, which the name tells.
    pub unit: Option<Unit>,
    /// What it says, in a sentence.
    pub help: &'static str,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// The values of a moment.
    pub samples: fn(&Snapshot) -> Vec<Sample>,
}

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Grows only, and begins anew with what it counts.
    Counter,
    /// Goes up and down.
    Gauge,
    /// How many were how long.
    Histogram,
    /// Words about something, as labels; the value is 1.
    Info,
}

/// The unit of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
    /// A part of 1.
    Ratio,
}

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The values of the labels, in the metric's order.
    pub labels: Vec<String>,
    /// The value.
    pub value: Value,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A number of things.
    Count(u64),
    /// Anything else.
    Real(f64),
    /// How many were how long.
    Times(Histogram),
}

/// Metrics of one kind of object.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// Of what, for the document.
    pub title: &'static str,
    /// What the reader has to know first.
    pub text: &'static str,
    /// Its metrics.
    pub metrics: &'static [Metric],
}

/// All metrics.
pub const SECTIONS: &[Section] =
    &[node::SECTION, network::SECTION, port::SECTION, worker::SECTION, translator::SECTION];

/// All metrics, in the order of [`SECTIONS`].
pub fn all() -> impl Iterator<Item = &'static Metric> {
    SECTIONS.iter().flat_map(|section| section.metrics)
}

impl Metric {
    /// The name with the unit: that of the family (OpenMetrics 1.0, 4.3).
    pub fn family(&self) -> String {
        self.unit.map_or_else(|| self.name.to_owned(), |unit| format!("{}_{}", self.name, unit.name()))
    }

    /// The names of its series.
    pub fn series(&self) -> Vec<String> {
        let family = self.family();
        match self.kind {
            Kind::Counter => vec![format!("{family}_total")],
            Kind::Gauge => vec![family],
            Kind::Histogram => ["bucket", "sum", "count"].iter().map(|suffix| format!("{family}_{suffix}")).collect(),
            Kind::Info => vec![format!("{family}_info")],
        }
    }
}

impl Unit {
    /// As it stands in names.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Seconds => "seconds",
            Self::Ratio => "ratio",
        }
    }
}

impl From<u64> for Value {
    fn from(count: u64) -> Self {
        Self::Count(count)
    }
}

impl From<u32> for Value {
    fn from(count: u32) -> Self {
        Self::Count(count.into())
    }
}

impl From<bool> for Value {
    fn from(is_so: bool) -> Self {
        Self::Count(is_so.into())
    }
}

const fn counter(name: &'static str, help: &'static str, samples: fn(&Snapshot) -> Vec<Sample>) -> Metric {
    Metric { name, kind: Kind::Counter, unit: None, help, labels: &[], samples }
}

const fn gauge(name: &'static str, help: &'static str, samples: fn(&Snapshot) -> Vec<Sample>) -> Metric {
    Metric { name, kind: Kind::Gauge, unit: None, help, labels: &[], samples }
}

impl Metric {
    const fn by(self, labels: &'static [&'static str]) -> Self {
        Self { labels, ..self }
    }

    const fn in_unit(self, unit: Unit) -> Self {
        Self { unit: Some(unit), ..self }
    }

    const fn kind(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }
}

/// A value with labels.
fn sample<const N: usize>(labels: [&str; N], value: impl Into<Value>) -> Sample {
    Sample { labels: labels.map(shortened).to_vec(), value: value.into() }
}

/// A label's value: what pods and guests name is as long as they like.
fn shortened(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(MAX_LABEL_CHARACTERS).collect()
}

/// Nanoseconds in seconds.
#[expect(clippy::cast_precision_loss, reason = "after 104 days it counts in steps of 2 ns")]
fn seconds(nanoseconds: u64) -> Value {
    Value::Real(nanoseconds as f64 / 1e9)
}

/// Thousandths as a part of 1.
fn ratio(permille: u32) -> Value {
    Value::Real(f64::from(permille) / 1000.0)
}

/// Longest value of a label.
pub const MAX_LABEL_CHARACTERS: usize = 160;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_keep_to_the_conventions() {
        let mut names = BTreeSet::new();
        for metric in all() {
            let family = metric.family();
            assert!(metric.series().iter().all(|name| name.starts_with("culvert_")), "{family}");
            assert!(family.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_'), "{family}");
            assert!(!family.ends_with("_total") && !family.ends_with("_info"), "{family}");
            assert!(metric.help.ends_with('.') && !metric.help.contains(['\n', '\\']), "{family}: {}", metric.help);
            assert!(metric.series().into_iter().all(|name| names.insert(name)), "{family} is there twice");
        }
    }

    #[test]
    fn labels_have_an_end() {
        assert_eq!(shortened("a\nb\u{7f}"), "ab");
        assert_eq!(shortened(&"ä".repeat(1000)).chars().count(), MAX_LABEL_CHARACTERS);
    }
}
