//! A histogram that is observed without a lock: nanoseconds in, seconds out.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// Durations in fixed buckets. Clones share the counts.
#[derive(Debug, Clone)]
pub struct Latency(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bounds: &'static [u64],
    /// One more than there are bounds: the last takes what exceeds them all.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Latency {
    /// With these upper bounds, in nanoseconds, ascending.
    pub fn new(bounds: &'static [u64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(Inner {
            bounds,
            counts,
            sum: AtomicU64::new(0),
        }))
    }

    /// Counts one duration.
    pub fn observe(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = self.0.bounds.partition_point(|bound| *bound < nanos);
        if let Some(count) = self.0.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.0.sum.fetch_add(nanos, Ordering::Relaxed);
    }
}

impl TypedMetric for Latency {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Latency {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let bounds = self
            .0
            .bounds
            .iter()
            .map(|bound| seconds(*bound))
            .chain([f64::INFINITY]);
        let counts = self
            .0
            .counts
            .iter()
            .map(|count| count.load(Ordering::Relaxed));
        let buckets: Vec<_> = bounds.zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(
            seconds(self.0.sum.load(Ordering::Relaxed)),
            count,
            &buckets,
            None,
        )
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "2^53 ns are 104 days of decisions"
)]
fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Metrics;

    #[test]
    fn a_bound_is_inclusive_and_nothing_is_lost_above_the_last() {
        let latency = Latency::new(&[1_000, 1_000_000]);
        for nanos in [0, 1_000, 1_001, 5_000_000_000] {
            latency.observe(Duration::from_nanos(nanos));
        }
        let metrics = Metrics::default();
        metrics.register(|registry| registry.register("took_seconds", "Time", latency));
        let text = metrics.render();
        for line in [
            "le=\"0.000001\"} 2",
            "le=\"0.001\"} 3",
            "le=\"+Inf\"} 4",
            "took_seconds_count 4",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(text.contains("took_seconds_sum 5.00000"), "{text}");
    }
}
