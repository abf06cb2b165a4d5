//! Counters of the decision path. Each child is resolved at start-up: counting is one addition, no lookup, no lock.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::{Latency, Metrics};
use crate::model::decision::{DenyClass, DenyReason};
use crate::telemetry::names;

type Labels<const N: usize> = [(&'static str, &'static str); N];

/// Decisions by outcome and reason, and how long they took.
#[derive(Debug, Clone)]
pub(crate) struct Decisions {
    allowed: Counter,
    aborted: Counter,
    /// In the order of [`DenyReason::ALL`].
    denied: Box<[Counter]>,
    shadowed: Box<[Counter]>,
    duration: Latency,
}

/// From 5 us to 100 ms.
const BUCKETS: [u64; 13] = [
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    100_000_000,
];

impl Decisions {
    /// Registers the families, each child at zero: a rate over a reason that was never seen is zero, not absent.
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let (decisions, shadowed) = (
            Family::<Labels<2>, Counter>::default(),
            Family::<Labels<1>, Counter>::default(),
        );
        let duration = Latency::new(&BUCKETS);
        metrics.register(|registry| {
            registry.register(
                names::DECISIONS,
                "Checks answered, by outcome and reason",
                decisions.clone(),
            );
            let refusals = "Refusals that shadow mode recorded and let pass";
            registry.register(names::SHADOW_REFUSALS, refusals, shadowed.clone());
            registry.register(
                names::DECISION_DURATION,
                "From a check's arrival to its answer",
                duration.clone(),
            );
        });
        let of = |outcome, reason| {
            decisions
                .get_or_create(&[("outcome", outcome), ("reason", reason)])
                .clone()
        };
        Self {
            allowed: of("allow", "NONE"),
            aborted: of("aborted", "NONE"),
            denied: DenyReason::ALL
                .iter()
                .map(|reason| of(outcome(*reason), reason.as_str()))
                .collect(),
            shadowed: DenyReason::ALL
                .iter()
                .map(|reason| {
                    shadowed
                        .get_or_create(&[("reason", reason.as_str())])
                        .clone()
                })
                .collect(),
            duration,
        }
    }

    /// Counts an allow.
    pub(crate) fn allowed(&self, took: Duration) {
        self.allowed.inc();
        self.duration.observe(took);
    }

    /// Counts a denial, or a check that could not be decided.
    pub(crate) fn denied(&self, reason: DenyReason, took: Duration) {
        count(&self.denied, reason);
        self.duration.observe(took);
    }

    /// Counts a check that was given up before it was decided.
    pub(crate) fn aborted(&self) {
        self.aborted.inc();
    }

    /// Counts a denial that shadow mode turned into an allow; [`Decisions::denied`] counts it as well.
    pub(crate) fn shadowed(&self, reason: DenyReason) {
        count(&self.shadowed, reason);
    }
}

/// The word for the outcome: label and span attribute alike.
pub(crate) const fn outcome(reason: DenyReason) -> &'static str {
    match reason.class() {
        DenyClass::Unauthenticated | DenyClass::PermissionDenied => "deny",
        DenyClass::Unavailable => "unavailable",
    }
}

fn count(counters: &[Counter], reason: DenyReason) {
    if let Some(counter) = counters.get(reason as usize) {
        counter.inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_child_from_the_start() {
        let metrics = Metrics::default();
        let decisions = Decisions::register(&metrics);
        decisions.allowed(Duration::from_micros(7));
        for (times, reason) in DenyReason::ALL.iter().enumerate() {
            (0..times).for_each(|_| decisions.denied(*reason, Duration::from_millis(1)));
        }
        decisions.shadowed(DenyReason::NoGrant);
        let text = metrics.render();
        assert!(
            text.contains("jitgate_decisions_total{outcome=\"allow\",reason=\"NONE\"} 1"),
            "{text}"
        );
        for (times, reason) in DenyReason::ALL.iter().enumerate() {
            let line = format!(
                "{{outcome=\"{}\",reason=\"{}\"}} {times}\n",
                outcome(*reason),
                reason.as_str()
            );
            assert!(text.contains(&line), "{line} in {text}");
        }
        assert!(text.contains("jitgate_shadow_refusals_total{reason=\"NO_GRANT\"} 1"));
        assert!(
            text.contains("jitgate_decision_duration_seconds_bucket{le=\"0.00001\"} 1"),
            "{text}"
        );
    }
}
