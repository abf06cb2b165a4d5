//! One record per decision: span, counter, histogram and log line all come from it, and it is consumed exactly once.
//! Dropped unfinished it records `aborted`. It never holds a credential, a query string or a raw path.

use std::fmt;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use smallvec::SmallVec;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use ulid::Ulid;

use super::input::Inbound;
use super::respond::GRANTED;
use crate::clock;
use crate::model::decide::Caller;
use crate::model::decision::{Decision, DenyClass};
use crate::model::grant::{Grant, Revision};
use crate::model::identity::{Principal, PrincipalKind};
use crate::model::target::Target;
use crate::model::time::Timestamp;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::span::{SpanContext, SpanRecord};
use crate::telemetry::spans::Spans;

mod attributes;
mod parent;

use attributes::Attributes;

/// Upper bounds of the latency histogram, in seconds.
const LATENCY_BUCKETS: [f64; 12] = [25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 50e-3, 0.1, 0.25];
/// The reason of a decision that nobody waited for.
const ABORTED: &str = "ABORTED";

/// The name of one decision: a ULID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecisionId(Ulid);

impl DecisionId {
    /// A new name.
    pub fn generate() -> Self {
        Self(Ulid::generate())
    }
}

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Opens records and holds what they are written to.
#[derive(Debug, Clone)]
pub struct Recorder {
    spans: Spans,
    decisions: Family<Labels, Counter>,
    duration: Histogram,
}

/// The labels of `jitgate_decisions_total`: both from closed vocabularies.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    outcome: &'static str,
    reason: &'static str,
}

/// What a decision was made from, for the record.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The check as it was read.
    pub inbound: &'a Inbound<'a>,
    /// Who called, when that was proven.
    pub caller: Option<&'a Caller>,
    /// What was presented and set aside.
    pub ignored: &'a [&'static str],
    /// The outcome.
    pub decision: &'a Decision,
    /// Whether a denial was answered with OK.
    pub shadowed: bool,
    /// The table's revision.
    pub revision: Revision,
    /// How long ago the control plane was heard.
    pub age: Option<Duration>,
}

/// A decision under way.
#[derive(Debug)]
pub struct Pending {
    id: DecisionId,
    parent: Option<SpanContext>,
    began: Instant,
    start: Timestamp,
    recorder: Recorder,
    finished: bool,
}

impl Recorder {
    /// Registers the decision metrics.
    pub fn new(spans: Spans, metrics: &Metrics) -> Self {
        let decisions = Family::default();
        let duration = Histogram::new(LATENCY_BUCKETS);
        metrics.register(|registry| {
            registry.register("jitgate_decisions", "Decisions by outcome and reason", decisions.clone());
            let help = "Time from a check's arrival to its answer";
            registry.register("jitgate_decision_duration_seconds", help, duration.clone());
        });
        Self { spans, decisions, duration }
    }

    /// Opens the record of a check that has just arrived. Envoy's own check span is its parent.
    pub fn begin(&self, metadata: &MetadataMap) -> Pending {
        Pending {
            id: DecisionId::generate(),
            parent: parent::from_metadata(metadata),
            began: Instant::now(),
            start: clock::wall(),
            recorder: self.clone(),
            finished: false,
        }
    }
}

impl Pending {
    /// The decision's name.
    pub fn id(&self) -> DecisionId {
        self.id
    }

    /// Writes the record.
    pub fn finish(mut self, facts: &Facts<'_>) {
        self.finished = true;
        let took = self.began.elapsed();
        let (outcome, reason) = outcome(facts);
        self.count(outcome, reason, took);
        let parent = self.parent.or_else(|| parent::from_headers(&facts.inbound.trace));
        tracing::debug!(decision_id = %self.id, outcome, reason, revision = facts.revision.0, "decided");
        if self.recorder.spans.enabled() {
            let grant = grant_of(facts.decision);
            let link = grant.and_then(|grant| parent::from_traceparent(grant.traceparent.as_deref()?));
            let attributes = describe(self.id, outcome, reason, facts);
            // A denial is kept even where the caller's trace is not.
            let keep = matches!(facts.decision, Decision::Deny(_));
            self.push(parent, keep, took, attributes, link);
        }
    }

    fn count(&self, outcome: &'static str, reason: &'static str, took: Duration) {
        self.recorder.decisions.get_or_create(&Labels { outcome, reason }).inc();
        self.recorder.duration.observe(took.as_secs_f64());
    }

    fn push(
        &self,
        parent: Option<SpanContext>,
        keep: bool,
        took: Duration,
        attributes: Attributes,
        link: Option<SpanContext>,
    ) {
        let sampled = keep || parent.is_none_or(|parent| parent.sampled);
        if !sampled {
            return;
        }
        self.recorder.spans.push(SpanRecord {
            name: crate::telemetry::names::SPAN_CHECK,
            context: SpanContext {
                trace_id: parent.map_or_else(rand::random, |parent| parent.trace_id),
                span_id: rand::random(),
                sampled,
            },
            parent: parent.map(|parent| parent.span_id),
            start: self.start,
            end: self.start.plus(took),
            attributes: attributes.into_inner(),
            link,
            error: None,
        });
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let took = self.began.elapsed();
        self.count("aborted", ABORTED, took);
        tracing::debug!(decision_id = %self.id, "aborted: the check was given up before it was decided");
        if self.recorder.spans.enabled() {
            let mut attributes = Attributes::default();
            attributes.fixed(attributes::DECISION, "aborted");
            attributes.fixed(attributes::REASON, ABORTED);
            attributes.owned(attributes::DECISION_ID, self.id.to_string());
            self.push(self.parent, true, took, attributes, None);
        }
    }
}

/// `outcome` and `reason`, as every output names them.
fn outcome(facts: &Facts<'_>) -> (&'static str, &'static str) {
    match facts.decision {
        Decision::Permit(_) => ("allow", GRANTED),
        Decision::Deny(denial) => {
            let undecided = denial.reason.class() == DenyClass::Unavailable;
            let outcome = match (facts.shadowed, undecided) {
                (true, _) => "shadow_deny",
                (false, true) => "undecided",
                (false, false) => "deny",
            };
            (outcome, denial.reason.as_str())
        }
    }
}

fn grant_of(decision: &Decision) -> Option<&Grant> {
    match decision {
        Decision::Permit(permit) => Some(permit.grant()),
        Decision::Deny(denial) => denial.nearest.as_deref(),
    }
}

/// The attributes of the decision's span.
fn describe(id: DecisionId, outcome: &'static str, reason: &'static str, facts: &Facts<'_>) -> Attributes {
    let mut attributes = Attributes::default();
    attributes.fixed(attributes::DECISION, outcome);
    attributes.fixed(attributes::REASON, reason);
    attributes.owned(attributes::DECISION_ID, id.to_string());
    attributes.int(attributes::REVISION, facts.revision.0);
    attributes.truth(attributes::SHADOW, facts.shadowed);
    if let Some(age) = facts.age {
        attributes.int(attributes::TABLE_AGE_MS, u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
    }
    if let Some(grant) = grant_of(facts.decision) {
        attributes.owned(attributes::GRANT, grant.id.to_string());
        attributes.shared(attributes::POLICY, &grant.policy.name);
        attributes.int(attributes::POLICY_VERSION, grant.policy.version);
    }
    if let Some(principal) = principal_of(facts) {
        attributes.owned(attributes::PRINCIPAL, principal.to_string());
    }
    if let Ok(call) = &facts.inbound.call {
        attributes.owned(attributes::SERVICE, call.service.to_string());
        match &call.target {
            Ok(Target::Grpc(method)) => attributes.owned(attributes::RPC_METHOD, method.as_str().to_owned()),
            Ok(Target::Http(method, _)) => attributes.owned(attributes::HTTP_METHOD, method.as_str().to_owned()),
            Err(_) => {}
        }
    }
    match facts.decision {
        Decision::Permit(permit) => {
            attributes.owned(attributes::RULE, permit.rule().map(ToString::to_string).unwrap_or_default());
            if let Some(left) = permit.remaining() {
                attributes.int(attributes::REMAINING_MS, u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
            }
        }
        Decision::Deny(denial) => attributes.owned(attributes::DETAIL, denial.detail.to_string()),
    }
    let ignored: SmallVec<[&str; 2]> = facts.ignored.iter().copied().collect();
    if !ignored.is_empty() {
        attributes.owned(attributes::IGNORED, ignored.join("; "));
    }
    attributes
}

/// Whom the record names: the holder of the grant, else the person, else the workload.
fn principal_of<'a>(facts: &'a Facts<'_>) -> Option<&'a Principal> {
    match (facts.decision, facts.caller) {
        (Decision::Permit(permit), _) => Some(permit.principal()),
        (Decision::Deny(_), Some(caller)) => {
            let person = caller.principals.iter().find(|principal| principal.kind() == PrincipalKind::User);
            person.or(caller.peer.as_ref())
        }
        (Decision::Deny(_), None) => None,
    }
}

#[cfg(test)]
mod tests;
