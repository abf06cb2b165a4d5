//! One record per decision: span, counter, histogram and log line all come from it, and it is consumed exactly once.
//! Dropped unfinished it records `aborted`. It never holds a credential, a query string or a raw path.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tonic::metadata::MetadataMap;

use super::decision_id::DecisionId;
use super::input::{Call, Inbound, TraceFields};
use crate::clock;
use crate::model::caller::Caller;
use crate::model::decide::Freshness;
use crate::model::decision::Decision;
use crate::model::entry::TableEntry;
use crate::model::grant::Revision;
use crate::model::identity::{Principal, PrincipalKind};
use crate::model::scope::Rule;
use crate::model::target::Target;
use crate::model::time::Timestamp;
use crate::sidecar::report::{Place, Reports, Seen};
use crate::telemetry::metrics::{Decisions, Metrics, outcome};
use crate::telemetry::names;
use crate::telemetry::span::{SpanContext, SpanRecord};
use crate::telemetry::spans::Spans;

mod attributes;

use attributes::Attributes;

/// Opens records and holds what they are written to.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    spans: Spans,
    /// Shared by every decision under way: a hundred counters are not for copying.
    decisions: Arc<Sinks>,
}

/// What every decision is written to.
#[derive(Debug)]
struct Sinks {
    counters: Decisions,
    reports: Reports,
}

/// What a decision was made from, for the record.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
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
    /// How long before the decision the control plane vouched for the table.
    pub age: Option<Duration>,
    /// How far the table could be trusted.
    pub freshness: Freshness,
}

/// A decision under way.
#[derive(Debug)]
pub(crate) struct Pending {
    id: DecisionId,
    parent: Option<SpanContext>,
    began: Instant,
    start: Timestamp,
    recorder: Recorder,
    finished: bool,
}

impl Recorder {
    /// Registers the decision metrics.
    #[cfg(test)]
    pub(crate) fn new(spans: Spans, metrics: &Metrics) -> Self {
        Self::reporting(spans, metrics, Reports::default())
    }

    /// The same, and every decision is reported.
    pub(crate) fn reporting(spans: Spans, metrics: &Metrics, reports: Reports) -> Self {
        reports.register(metrics);
        Self {
            spans,
            decisions: Arc::new(Sinks {
                counters: Decisions::register(metrics),
                reports,
            }),
        }
    }

    /// Opens the record of a check that has just arrived. Envoy's own check span is its parent.
    pub(crate) fn begin(&self, metadata: &MetadataMap) -> Pending {
        Pending {
            id: DecisionId::generate(),
            parent: SpanContext::from_metadata(metadata),
            began: Instant::now(),
            start: clock::wall(),
            recorder: self.clone(),
            finished: false,
        }
    }
}

impl Pending {
    /// The decision's name.
    pub(crate) fn id(&self) -> DecisionId {
        self.id
    }

    /// Writes the record.
    pub(crate) fn finish(mut self, facts: &Facts<'_>) {
        self.finished = true;
        let took = self.began.elapsed();
        let (outcome, reason) = match facts.decision {
            Decision::Permit(_) => {
                self.recorder.decisions.counters.allowed(took);
                ("allow", "NONE")
            }
            Decision::Deny(denial) => {
                self.recorder.decisions.counters.denied(denial.reason, took);
                if facts.shadowed {
                    self.recorder.decisions.counters.shadowed(denial.reason);
                }
                (outcome(denial.reason), denial.reason.as_str())
            }
        };
        let Facts {
            shadowed: shadow,
            age,
            freshness,
            ..
        } = facts;
        tracing::debug!(decision_id = %self.id, outcome, reason, shadow, ?took, ?age, %freshness, "decided");
        let (traced, reported) = (
            self.recorder.spans.enabled(),
            self.recorder.decisions.reports.wanted(),
        );
        if !traced && !reported {
            return;
        }
        let parent = self.parent.or_else(|| parent_in(&facts.inbound.trace));
        let span = if traced {
            self.span(parent, took, describe(self.id, outcome, facts))
        } else {
            None
        };
        let trace = span
            .as_ref()
            .map(|span| span.context)
            .or(parent)
            .map(|context| context.trace_id);
        self.push(span);
        if reported {
            self.report(facts, trace);
        }
    }

    fn report(&self, facts: &Facts<'_>, trace: Option<[u8; 16]>) {
        let place = Place {
            id: self.id,
            at: self.start,
            principal: principal_of(facts),
            trace,
            revision: facts.revision,
            shadow: facts.shadowed,
        };
        let seen = Seen::of(place, facts.decision, facts.inbound.call.as_ref().ok());
        self.recorder.decisions.reports.push(seen);
    }

    fn push(&self, span: Option<SpanRecord>) {
        if let Some(span) = span {
            self.recorder.spans.push(span);
        }
    }

    /// The decision's span, unless it is not sampled. A denial is kept whatever the sampler says.
    fn span(
        &self,
        parent: Option<SpanContext>,
        took: Duration,
        attributes: Attributes,
    ) -> Option<SpanRecord> {
        let mut context =
            parent.map_or_else(|| SpanContext::root(true), |parent| parent.child(true));
        context.sampled = attributes.keep
            || self
                .recorder
                .spans
                .sampler()
                .decide(parent.as_ref(), &context.trace_id);
        context.sampled.then(|| SpanRecord {
            name: names::SPAN_CHECK,
            context,
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
        self.recorder.decisions.counters.aborted();
        tracing::debug!(decision_id = %self.id, "aborted: the check was given up before it was decided");
        if self.recorder.spans.enabled() {
            let mut attributes = Attributes {
                keep: true,
                ..Attributes::default()
            };
            attributes.fixed(names::DECISION, "aborted");
            attributes.owned(names::DECISION_ID, self.id.to_string());
            self.push(self.span(self.parent, self.began.elapsed(), attributes));
        }
    }
}

/// The trace of the request itself, for an Envoy without tracing.
fn parent_in(fields: &TraceFields<'_>) -> Option<SpanContext> {
    let several =
        || SpanContext::from_b3_multi(fields.b3_trace?, fields.b3_span?, fields.b3_sampled, None);
    let single = || fields.b3.and_then(SpanContext::from_b3);
    fields
        .traceparent
        .and_then(SpanContext::from_traceparent)
        .or_else(single)
        .or_else(several)
}

fn entry_of(decision: &Decision) -> Option<TableEntry> {
    match decision {
        Decision::Permit(permit) => Some(Arc::clone(permit.grant()).into()),
        Decision::Deny(denial) => denial.nearest.as_ref().map(|near| near.entry.clone()),
    }
}

/// The attributes of the decision's span.
fn describe(id: DecisionId, outcome: &'static str, facts: &Facts<'_>) -> Attributes {
    let mut attributes = Attributes::default();
    attributes.fixed(names::DECISION, outcome);
    attributes.owned(names::DECISION_ID, id.to_string());
    attributes.int(names::TABLE_REVISION, facts.revision.0);
    attributes.truth(names::SHADOW, facts.shadowed);
    if let Some(age) = facts.age {
        attributes.millis(names::TABLE_AGE_MS, age);
    }
    attributes.fixed(names::TABLE_FRESHNESS, facts.freshness.as_str());
    if let Some(principal) = principal_of(facts) {
        attributes.owned(names::PRINCIPAL, principal.to_string());
    }
    if !facts.ignored.is_empty() {
        attributes.owned(names::CREDENTIALS_IGNORED, facts.ignored.join("; "));
    }
    if let Some(entry) = entry_of(facts.decision) {
        let name = match entry {
            TableEntry::Grant(_) => names::GRANT_ID,
            TableEntry::Request(_) => names::ACCESS_REQUEST_ID,
        };
        attributes.owned(name, entry.id().to_string());
        attributes.shared(names::POLICY_NAME, &entry.policy().name);
        attributes.int(names::POLICY_VERSION, entry.policy().version);
        attributes.link = entry.traceparent().and_then(SpanContext::from_traceparent);
    }
    match facts.decision {
        Decision::Permit(permit) => {
            if let Some(Rule::Http(rule)) = permit.rule() {
                attributes.owned(names::HTTP_ROUTE, rule.path().to_string());
            }
            if let Some(left) = permit.remaining() {
                attributes.millis(names::GRANT_REMAINING_MS, left);
            }
        }
        Decision::Deny(denial) => {
            attributes.keep = true;
            attributes.fixed(names::REASON, denial.reason.as_str());
            attributes.owned(names::DETAIL, denial.detail.to_string());
        }
    }
    if let Ok(call) = &facts.inbound.call {
        describe_call(call, &mut attributes);
    }
    attributes
}

/// Names the target by what is bounded: a gRPC method, or an HTTP method. The path itself stays with Envoy.
fn describe_call(call: &Call<'_>, attributes: &mut Attributes) {
    attributes.owned(names::SERVICE, call.service.to_string());
    match &call.target {
        Ok(Target::Grpc(method)) => {
            let (service, name) = method
                .as_str()
                .trim_start_matches('/')
                .split_once('/')
                .unwrap_or_default();
            attributes.fixed(names::RPC_SYSTEM, "grpc");
            attributes.owned(names::RPC_SERVICE, service.to_owned());
            attributes.owned(names::RPC_METHOD, name.to_owned());
        }
        Ok(Target::Http(method, _)) => {
            attributes.owned(names::HTTP_METHOD, method.as_str().to_owned())
        }
        Err(_) => {}
    }
}

/// Whom the record names: the holder of the grant, else the person, else the workload.
fn principal_of<'a>(facts: &'a Facts<'_>) -> Option<&'a Principal> {
    match (facts.decision, facts.caller) {
        (Decision::Permit(permit), _) => Some(permit.principal()),
        (Decision::Deny(_), Some(caller)) => {
            let person = caller
                .proven()
                .find(|principal| principal.kind() == PrincipalKind::User);
            person.or(caller.peer.as_ref())
        }
        (Decision::Deny(_), None) => None,
    }
}

#[cfg(test)]
mod tests;
