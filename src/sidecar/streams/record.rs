//! What is left of a stream that the sidecar ended or did not let open: a count, a log line, a span. It never holds a
//! credential or a path.

use std::borrow::Cow;
use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use smallvec::smallvec;
use tokio::time::Instant;

use super::encode::Why;
use super::judge::Termination;
use crate::clock;
use crate::model::decision::DenyReason;
use crate::model::grant::{Grant, Revision};
use crate::model::time::Timestamp;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::names;
use crate::telemetry::span::{SpanContext, SpanRecord, Text, Value};
use crate::telemetry::spans::Spans;

type Labels = [(&'static str, &'static str); 1];

/// Counts and reports.
#[derive(Debug)]
pub struct Record {
    spans: Spans,
    closed: Family<Labels, Counter>,
    refused: Family<Labels, Counter>,
}

/// A stream that is to be reported when the sidecar ends it.
#[derive(Debug)]
pub(super) struct StreamRecord {
    pub(super) decision: String,
    pub(super) parent: Option<SpanContext>,
    start: Timestamp,
    began: Instant,
}

impl StreamRecord {
    pub(super) fn begin(parent: Option<SpanContext>) -> Self {
        Self {
            decision: String::new(),
            parent,
            start: clock::wall(),
            began: Instant::now(),
        }
    }
}

impl Record {
    /// Registers both families with each child at zero: a rate over a reason that was never seen is zero, not absent.
    pub fn register(spans: Spans, metrics: &Metrics) -> Self {
        let record = Self {
            spans,
            closed: Family::default(),
            refused: Family::default(),
        };
        let reasons = DenyReason::ALL
            .iter()
            .map(|reason| Why::Denied(*reason))
            .chain([Why::NoRoom]);
        for why in reasons {
            let labels = [("reason", why.word())];
            drop(record.refused.get_or_create(&labels));
            if why != Why::NoRoom {
                drop(record.closed.get_or_create(&labels));
            }
        }
        metrics.register(|registry| {
            registry.register(
                names::STREAMS_CLOSED,
                "Open streams that were ended here",
                record.closed.clone(),
            );
            let refused = "Streams not let open, although the check let them pass";
            registry.register(names::LEASHES_REFUSED, refused, record.refused.clone());
        });
        record
    }

    /// A stream was not let open.
    pub(super) fn refused(&self, why: Why, life: &StreamRecord) {
        self.refused.get_or_create(&[("reason", why.word())]).inc();
        match why {
            // Nothing unusual: its grant went between the check and here.
            Why::Denied(reason) if reason != DenyReason::BadCheck => {
                tracing::debug!(decision_id = %life.decision, reason = why.word(), "a stream is not let open");
            }
            Why::Denied(_) => tracing::warn!(
                "a stream without the answer to its check is refused: on its route, ext_proc must come after ext_authz \
                 and forward the metadata namespace envoy.filters.http.ext_authz"
            ),
            Why::NoRoom => tracing::warn!("a stream is refused: --max-leashes are open"),
        }
    }

    /// An open stream was ended.
    pub(super) fn ended(&self, cut: &Termination, life: &StreamRecord, revision: Revision) {
        self.closed
            .get_or_create(&[("reason", cut.reason.as_str())])
            .inc();
        let grant = cut.grant.as_ref().map_or("", |grant| grant.id.as_str());
        let lasted = life.began.elapsed();
        tracing::info!(
            decision_id = %life.decision, reason = cut.reason.as_str(), grant, ?lasted, "a stream was ended with its grant"
        );
        if !self.spans.enabled() {
            return;
        }
        // Like a denial it is kept, whatever the caller's trace says.
        let context = life
            .parent
            .map_or_else(|| SpanContext::root(true), |parent| parent.child(true));
        self.spans.push(SpanRecord {
            name: names::SPAN_STREAM,
            context: SpanContext {
                sampled: true,
                ..context
            },
            parent: life.parent.map(|parent| parent.span_id),
            start: life.start,
            end: life.start.plus(lasted),
            attributes: attributes(cut, life, revision),
            link: cut.grant.as_deref().and_then(approval),
            error: None,
        });
    }
}

fn attributes(
    cut: &Termination,
    life: &StreamRecord,
    revision: Revision,
) -> smallvec::SmallVec<[(&'static str, Value); 16]> {
    let text = |text: String| Value::Text(Text::Cow(Cow::Owned(text)));
    let int = |value: u64| Value::Int(i64::try_from(value).unwrap_or(i64::MAX));
    let mut list = smallvec![
        (
            names::REASON,
            Value::Text(Text::Cow(Cow::Borrowed(cut.reason.as_str())))
        ),
        (names::DECISION_ID, text(life.decision.clone())),
        (names::TABLE_REVISION, int(revision.0)),
    ];
    if let Some(grant) = &cut.grant {
        list.push((names::GRANT_ID, text(grant.id.to_string())));
        list.push((
            names::POLICY_NAME,
            Value::Text(Text::Shared(Arc::clone(&grant.policy.name))),
        ));
        list.push((names::POLICY_VERSION, int(grant.policy.version)));
        list.push((names::PRINCIPAL, text(grant.subject.to_string())));
        list.push((names::SERVICE, text(grant.scope.service().to_string())));
    }
    list
}

fn approval(grant: &Grant) -> Option<SpanContext> {
    grant
        .traceparent
        .as_deref()
        .and_then(SpanContext::from_traceparent)
}
