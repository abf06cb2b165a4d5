//! Counters of the decision path. Each child is resolved at start-up: counting is one addition, no lookup, no lock.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

use crate::model::decision::{DenyClass, DenyReason};
use crate::telemetry::metrics::Metrics;

type Labels<const N: usize> = [(&'static str, &'static str); N];

/// Upper bounds of the latency histogram, in seconds.
const BUCKETS: [f64; 13] =
    [5e-6, 10e-6, 25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 100e-3];

/// Decisions by outcome and reason, and how long they took.
#[derive(Debug, Clone)]
pub(super) struct Decisions {
    allowed: Counter,
    aborted: Counter,
    /// In the order of [`DenyReason::ALL`].
    denied: Box<[Counter]>,
    shadowed: Box<[Counter]>,
    duration: Histogram,
}

impl Decisions {
    /// Registers the families, each child at zero: a rate over a reason that was never seen is zero, not absent.
    pub(super) fn register(metrics: &Metrics) -> Self {
        let (decisions, shadowed) = (Family::<Labels<2>, Counter>::default(), Family::<Labels<1>, Counter>::default());
        let duration = Histogram::new(BUCKETS);
        metrics.register(|registry| {
            registry.register("jitgate_decisions", "Checks answered, by outcome and reason", decisions.clone());
            let refusals = "Refusals that shadow mode recorded and let pass";
            registry.register("jitgate_shadow_refusals", refusals, shadowed.clone());
            let took = "From a check's arrival to its answer";
            registry.register("jitgate_decision_duration_seconds", took, duration.clone());
        });
        let of = |outcome, reason| decisions.get_or_create(&[("outcome", outcome), ("reason", reason)]).clone();
        let each = |counter: &dyn Fn(DenyReason) -> Counter| DenyReason::ALL.iter().map(|r| counter(*r)).collect();
        Self {
            allowed: of("allow", "NONE"),
            aborted: of("aborted", "NONE"),
            denied: each(&|reason| of(outcome(reason), reason.as_str())),
            shadowed: each(&|reason| shadowed.get_or_create(&[("reason", reason.as_str())]).clone()),
            duration,
        }
    }

    /// Counts an allow.
    pub(super) fn allowed(&self, took: Duration) {
        self.allowed.inc();
        self.duration.observe(took.as_secs_f64());
    }

    /// Counts a denial, or a check that could not be decided.
    pub(super) fn denied(&self, reason: DenyReason, took: Duration) {
        count(&self.denied, reason);
        self.duration.observe(took.as_secs_f64());
    }

    /// Counts a denial that shadow mode turned into an allow; [`Decisions::denied`] counts it as well.
    pub(super) fn shadowed(&self, reason: DenyReason) {
        count(&self.shadowed, reason);
    }

    /// Counts a check that was given up before it was decided.
    pub(super) fn aborted(&self) {
        self.aborted.inc();
    }
}

/// The word for the outcome of a denial: label and span attribute alike.
pub(super) const fn outcome(reason: DenyReason) -> &'static str {
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
