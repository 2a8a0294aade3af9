//! A snapshot as OpenMetrics text (version 1.0.0), which Prometheus reads as well.

use std::fmt;
use std::iter::zip;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{self, Registry};

use crate::snapshot::Snapshot;
use crate::table::{Kind, Metric, Unit, Value, all};

/// What HTTP says of the text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The text of a snapshot.
pub fn text(snapshot: Snapshot) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Table(snapshot)));
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = text::encode(&mut text, &registry);
    text
}

#[derive(Debug)]
struct Table(Snapshot);

impl Collector for Table {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for metric in all() {
            let samples = (metric.samples)(&self.0);
            if samples.is_empty() {
                continue;
            }
            let kind = match metric.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
                Kind::Info => MetricType::Info,
            };
            let unit = metric.unit.map(unit);
            let mut family = encoder.encode_descriptor(metric.name, metric.help, unit.as_ref(), kind)?;
            for sample in samples {
                let labels: Vec<_> = zip(metric.labels.iter().copied(), &sample.labels).collect();
                match (metric.kind, labels.is_empty()) {
                    (Kind::Info, _) => family.encode_info(&labels)?,
                    (_, true) => encode(&mut family, metric, &sample.value)?,
                    (_, false) => encode(&mut family.encode_family(&labels)?, metric, &sample.value)?,
                }
            }
        }
        Ok(())
    }
}

fn encode(encoder: &mut MetricEncoder<'_>, metric: &Metric, value: &Value) -> fmt::Result {
    match (metric.kind, value) {
        (Kind::Counter, Value::Count(count)) => encoder.encode_counter::<NoLabelSet, _, f64>(count, None),
        (Kind::Counter, Value::Real(value)) => encoder.encode_counter::<NoLabelSet, _, f64>(value, None),
        (_, Value::Count(count)) => encoder.encode_gauge(count),
        (_, Value::Real(value)) => encoder.encode_gauge(value),
        (_, Value::Times(histogram)) => {
            let bounds = histogram.bounds.iter().copied().chain([f64::INFINITY]);
            let buckets: Vec<_> = zip(bounds, histogram.counts.iter().copied()).collect();
            encoder.encode_histogram::<NoLabelSet>(histogram.sum, histogram.count(), &buckets, None)
        }
    }
}

fn unit(unit: Unit) -> registry::Unit {
    match unit {
        Unit::Bytes => registry::Unit::Bytes,
        Unit::Seconds => registry::Unit::Seconds,
        Unit::Ratio => registry::Unit::Other(Unit::Ratio.name().to_owned()),
    }
}
