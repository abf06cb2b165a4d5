//! What the control plane measures: base units, bounded labels, no subject anywhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::telemetry::names;

/// How the store does.
#[derive(Debug, Clone)]
pub(crate) struct StoreMetrics {
    revision: Gauge<i64, AtomicI64>,
    audit_index: Gauge<i64, AtomicI64>,
    commits: Histogram,
    changes: Counter,
}

impl StoreMetrics {
    /// Registers the families.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let this = Self {
            revision: Gauge::default(),
            audit_index: Gauge::default(),
            commits: Histogram::new(exponential_buckets(0.000_25, 2.0, 14)),
            changes: Counter::default(),
        };
        let (gauge, index) = (this.revision.clone(), this.audit_index.clone());
        registry.register(
            names::STORE_REVISION_GAUGE,
            "Revision of the newest committed change",
            gauge,
        );
        registry.register(names::AUDIT_INDEX, "Index of the newest audit event", index);
        let help = "Time from handing a group of changes to the store until it is durable";
        registry.register(names::STORE_COMMIT_DURATION, help, this.commits.clone());
        registry.register(
            names::STORE_CHANGES,
            "Committed changes, one revision each",
            this.changes.clone(),
        );
        this
    }

    pub(super) fn stands_at(&self, revision: i64, audit_index: i64) {
        self.revision.set(revision);
        self.audit_index.set(audit_index);
    }

    pub(super) fn committed(&self, took: Duration, changes: usize) {
        self.commits.observe(took.as_secs_f64());
        self.changes.inc_by(u64::try_from(changes).unwrap_or(0));
    }
}

/// What became of access requests and grants.
#[derive(Debug, Clone)]
pub(crate) struct ControlMetrics {
    requests: Family<RequestLabels, Counter>,
    refusals: Family<RefusalLabels, Counter>,
    grants: Family<GrantLabels, Gauge<i64, AtomicI64>>,
    approval: Histogram,
    reviews: Family<ReviewLabels, Gauge<i64, AtomicI64>>,
    sidecars: Gauge<i64, AtomicI64>,
    shadow: Gauge<i64, AtomicI64>,
    drift: Gauge<f64, AtomicU64>,
    audit_broken_at: Gauge<i64, AtomicI64>,
    decisions_kept: Counter,
    decisions_missed: Family<MissedLabels, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MissedLabels {
    cause: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabels {
    call: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GrantLabels {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReviewLabels {
    state: &'static str,
}

impl ControlMetrics {
    /// Registers the families.
    pub(crate) fn register(registry: &mut Registry) -> Arc<Self> {
        let this = Self {
            requests: Family::default(),
            refusals: Family::default(),
            grants: Family::default(),
            approval: Histogram::new(exponential_buckets(0.001, 4.0, 12)),
            reviews: Family::default(),
            sidecars: Gauge::default(),
            shadow: Gauge::default(),
            drift: Gauge::default(),
            audit_broken_at: Gauge::default(),
            decisions_kept: Counter::default(),
            decisions_missed: Family::default(),
        };
        registry.register(
            names::REQUESTS,
            "Access requests by outcome",
            this.requests.clone(),
        );
        registry.register(
            names::API_REFUSALS,
            "Calls of the API that were refused",
            this.refusals.clone(),
        );
        let help = "Grants that sidecars hold, by state; tombstones are the ended ones";
        registry.register(names::GRANTS, help, this.grants.clone());
        let help = "Time from an access request to its grant";
        registry.register(names::APPROVAL_DURATION, help, this.approval.clone());
        let help = "Reviews of broken glass that are outstanding, by whether they are overdue";
        registry.register(names::BREAK_GLASS_REVIEWS, help, this.reviews.clone());
        registry.register(
            names::SIDECARS_CONNECTED,
            "Sidecars that watch now",
            this.sidecars.clone(),
        );
        let help = "Sidecars that watch now and refuse nothing";
        registry.register(names::SIDECARS_SHADOW, help, this.shadow.clone());
        let help = "This machine's wall clock minus the control plane's time";
        registry.register(names::CLOCK_DRIFT, help, this.drift.clone());
        let help =
            "Index of the first audit event that does not fit, as found at the start; 0: none";
        registry.register(names::AUDIT_BROKEN_AT, help, this.audit_broken_at.clone());
        let help = "Records of decisions that sidecars reported and the store keeps";
        registry.register(
            names::DECISION_RECORDS_KEPT,
            help,
            this.decisions_kept.clone(),
        );
        let help = "Decisions that are missing among the records, by cause";
        registry.register(
            names::DECISION_RECORDS_MISSED,
            help,
            this.decisions_missed.clone(),
        );
        Arc::new(this)
    }

    pub(super) fn audit_broken_at(&self, index: Option<u64>) {
        self.audit_broken_at
            .set(index.map_or(0, |index| i64::try_from(index).unwrap_or(i64::MAX)));
    }

    pub(super) fn decisions_kept(&self, records: u64) {
        self.decisions_kept.inc_by(records);
    }

    pub(super) fn decisions_missed(&self, cause: &'static str, records: u64) {
        if records > 0 {
            self.decisions_missed
                .get_or_create(&MissedLabels { cause })
                .inc_by(records);
        }
    }

    pub(super) fn request(&self, outcome: &'static str) {
        self.requests
            .get_or_create(&RequestLabels { outcome })
            .inc();
    }

    pub(super) fn refused(&self, call: &'static str, reason: &'static str) {
        self.refusals
            .get_or_create(&RefusalLabels { call, reason })
            .inc();
    }

    pub(super) fn approved(&self, took: Duration) {
        self.approval.observe(took.as_secs_f64());
    }

    pub(super) fn holds(&self, state: &'static str, grants: usize) {
        self.grants
            .get_or_create(&GrantLabels { state })
            .set(i64::try_from(grants).unwrap_or(i64::MAX));
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "exact below 2^53 microseconds, which is 285 years"
    )]
    pub(super) fn drifted(&self, micros: i64) {
        self.drift.set(micros as f64 / 1e6);
    }

    #[cfg(test)]
    pub(super) fn reviews_counted(&self, state: &'static str) -> i64 {
        self.reviews.get_or_create(&ReviewLabels { state }).get()
    }

    pub(super) fn break_glass_reviews(&self, state: &'static str, reviews: usize) {
        self.reviews
            .get_or_create(&ReviewLabels { state })
            .set(i64::try_from(reviews).unwrap_or(i64::MAX));
    }

    pub(super) fn sidecars_in_shadow(&self, connected: usize) {
        self.shadow
            .set(i64::try_from(connected).unwrap_or(i64::MAX));
    }

    pub(super) fn sidecars(&self, connected: u64) {
        self.sidecars
            .set(i64::try_from(connected).unwrap_or(i64::MAX));
    }
}
