//! One record per decision: span, counter, histogram and log line all come from it, and it is consumed exactly once.
//! Dropped unfinished it records `aborted`. It never holds a credential, a query string or a raw path.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use ulid::Ulid;

use super::input::{Call, Inbound};
use crate::clock;
use crate::model::decide::Caller;
use crate::model::decision::Decision;
use crate::model::grant::{Grant, Revision};
use crate::model::identity::{Principal, PrincipalKind};
use crate::model::scope::Rule;
use crate::model::target::Target;
use crate::model::time::Timestamp;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::span::{SpanContext, SpanRecord};
use crate::telemetry::spans::Spans;

mod attributes;
mod parent;
mod tally;

use attributes::Attributes;
use tally::Decisions;

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
    decisions: Decisions,
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
        Self { spans, decisions: Decisions::register(metrics) }
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
        let (outcome, reason) = match facts.decision {
            Decision::Permit(_) => {
                self.recorder.decisions.allowed(took);
                ("allow", "NONE")
            }
            Decision::Deny(denial) => {
                self.recorder.decisions.denied(denial.reason, took);
                if facts.shadowed {
                    self.recorder.decisions.shadowed(denial.reason);
                }
                (tally::outcome(denial.reason), denial.reason.as_str())
            }
        };
        tracing::debug!(decision_id = %self.id, outcome, reason, shadow = facts.shadowed, took = ?took, "decided");
        if self.recorder.spans.enabled() {
            let parent = self.parent.or_else(|| parent::from_headers(&facts.inbound.trace));
            self.push(self.span(parent, took, describe(self.id, outcome, facts)));
        }
    }

    fn push(&self, span: Option<SpanRecord>) {
        if let Some(span) = span {
            self.recorder.spans.push(span);
        }
    }

    /// The decision's span, unless it is not sampled. A denial is kept even where the caller's trace is not.
    fn span(&self, parent: Option<SpanContext>, took: Duration, attributes: Attributes) -> Option<SpanRecord> {
        let sampled = attributes.keep || parent.is_none_or(|parent| parent.sampled);
        let trace_id = parent.map_or_else(parent::new_trace, |parent| parent.trace_id);
        sampled.then(|| SpanRecord {
            name: crate::telemetry::names::SPAN_CHECK,
            context: SpanContext { trace_id, span_id: parent::new_span(), sampled },
            parent: parent.map(|parent| parent.span_id),
            start: self.start,
            end: self.start.plus(took),
            attributes: attributes.list,
            link: attributes.link,
            error: None,
        })
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        self.recorder.decisions.aborted();
        tracing::debug!(decision_id = %self.id, "aborted: the check was given up before it was decided");
        if self.recorder.spans.enabled() {
            let mut attributes = Attributes { keep: true, ..Attributes::default() };
            attributes.fixed(attributes::DECISION, "aborted");
            attributes.owned(attributes::DECISION_ID, self.id.to_string());
            self.push(self.span(self.parent, self.began.elapsed(), attributes));
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
fn describe(id: DecisionId, outcome: &'static str, facts: &Facts<'_>) -> Attributes {
    let mut attributes = Attributes::default();
    attributes.fixed(attributes::DECISION, outcome);
    attributes.owned(attributes::DECISION_ID, id.to_string());
    attributes.int(attributes::TABLE_REVISION, facts.revision.0);
    attributes.truth(attributes::SHADOW, facts.shadowed);
    if let Some(age) = facts.age {
        attributes.millis(attributes::TABLE_AGE_MS, age);
    }
    if let Some(principal) = principal_of(facts) {
        attributes.owned(attributes::PRINCIPAL, principal.to_string());
    }
    if !facts.ignored.is_empty() {
        attributes.owned(attributes::IGNORED, facts.ignored.join("; "));
    }
    if let Some(grant) = grant_of(facts.decision) {
        attributes.owned(attributes::GRANT_ID, grant.id.to_string());
        attributes.shared(attributes::POLICY_NAME, &grant.policy.name);
        attributes.int(attributes::POLICY_VERSION, grant.policy.version);
        attributes.link = grant.traceparent.as_deref().and_then(parent::from_traceparent);
    }
    match facts.decision {
        Decision::Permit(permit) => {
            if let Some(Rule::Http(rule)) = permit.rule() {
                attributes.owned(attributes::HTTP_ROUTE, rule.path().to_string());
            }
            if let Some(left) = permit.remaining() {
                attributes.millis(attributes::GRANT_REMAINING_MS, left);
            }
        }
        Decision::Deny(denial) => {
            attributes.keep = true;
            attributes.fixed(attributes::REASON, denial.reason.as_str());
            attributes.owned(attributes::DETAIL, denial.detail.to_string());
        }
    }
    if let Ok(call) = &facts.inbound.call {
        describe_call(call, &mut attributes);
    }
    attributes
}

/// Names the target by what is bounded: a gRPC method, or an HTTP method. The path itself stays with Envoy.
fn describe_call(call: &Call<'_>, attributes: &mut Attributes) {
    attributes.owned(attributes::SERVICE, call.service.to_string());
    match &call.target {
        Ok(Target::Grpc(method)) => {
            let (service, name) = method.as_str().trim_start_matches('/').split_once('/').unwrap_or_default();
            attributes.fixed(attributes::RPC_SYSTEM, "grpc");
            attributes.owned(attributes::RPC_SERVICE, service.to_owned());
            attributes.owned(attributes::RPC_METHOD, name.to_owned());
        }
        Ok(Target::Http(method, _)) => attributes.owned(attributes::HTTP_METHOD, method.as_str().to_owned()),
        Err(_) => {}
    }
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
