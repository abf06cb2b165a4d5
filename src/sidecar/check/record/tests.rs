//! Claims about the one record of a decision.

use super::*;
use crate::model::decide::{Check, Freshness, decide};
use crate::model::grant::Revision;
use crate::sidecar::check::input::read;
use crate::sidecar::fixtures::{Sent, at, grant, services, table};
use crate::telemetry::span::{Text, Value};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const UNSAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

fn metadata(traceparent: Option<&str>) -> MetadataMap {
    let mut metadata = MetadataMap::new();
    if let Some(text) = traceparent {
        metadata.insert("traceparent", text.parse().unwrap());
    }
    metadata
}

/// The span of a decision about `sent`, with the checkout workload's grant in the table.
fn span(sent: &Sent, traceparent: Option<&str>) -> Option<SpanRecord> {
    let services = services(&["payments"]);
    let inbound = read(&sent.0, &services);
    let call = inbound.call.as_ref().unwrap();
    let caller = Caller {
        peer: None,
        principals: vec![Principal::parse(call.peer).unwrap()],
        tokened: None,
    };
    let check = Check {
        service: call.service,
        target: call.target.clone(),
        caller: Ok(caller.clone()),
    };
    let grants = table([grant("g")], 150).current().unwrap();
    let decision = decide(&*grants, Freshness::Fresh, &check, at(150));
    let evaluation = Evaluation {
        decision,
        caller: Some(caller),
        ignored: ["set aside"].into_iter().collect(),
        table: TableState {
            revision: Revision(9),
            age: Some(Duration::from_millis(40)),
            freshness: Freshness::Fresh,
            now: Some(at(150)),
        },
    };
    let facts = Facts {
        inbound: &inbound,
        evaluation: &evaluation,
        shadowed: false,
    };
    let pending =
        Recorder::new(Spans::default(), &Metrics::default()).begin(&metadata(traceparent));
    let parent = pending.parent.or_else(|| parent_in(&inbound.trace));
    pending.span(
        parent,
        Duration::from_micros(300),
        describe(pending.id, "x", facts),
    )
}

fn text<'a>(span: &'a SpanRecord, name: &str) -> Option<&'a str> {
    span.attributes
        .iter()
        .find(|(key, _)| *key == name)
        .map(|(_, value)| match value {
            Value::Text(Text::Cow(text)) => &**text,
            Value::Text(Text::Shared(text)) => text,
            Value::Int(_) | Value::Bool(_) => "",
        })
}

#[test]
fn a_decision_is_a_child_of_envoys_check_span_and_links_to_the_approval() {
    let sent = Sent::http("GET", "/v1/users/7").header(
        "traceparent",
        "00-11111111111111111111111111111111-2222222222222222-01",
    );
    let span = span(&sent, Some(PARENT)).unwrap();
    assert_eq!(
        span.context.trace_id[0], 0x0a,
        "the metadata's trace, not the client's"
    );
    assert_eq!(span.parent.unwrap()[0], 0xb7);
    assert_eq!(span.link.unwrap().trace_id[0], 0x4b);
    assert_eq!(span.end.since(span.start), Duration::from_micros(300));
    assert_eq!(text(&span, names::GRANT_ID), Some("g"));
    assert_eq!(text(&span, names::POLICY_NAME), Some("on-call"));
    assert_eq!(text(&span, names::HTTP_ROUTE), Some("/v1/users/{id}"));
    assert_eq!(text(&span, names::CREDENTIALS_IGNORED), Some("set aside"));
    assert_eq!(text(&span, names::REASON), None);
}

#[test]
fn without_tracing_in_envoy_the_requests_own_trace_is_the_parent() {
    let sent = Sent::http("GET", "/v1/users/7").header("traceparent", PARENT);
    assert_eq!(span(&sent, None).unwrap().parent.unwrap()[0], 0xb7);
    assert!(
        span(&Sent::http("GET", "/v1/users/7"), None)
            .unwrap()
            .parent
            .is_none()
    );
}

#[test]
fn an_unsampled_trace_keeps_its_denials_only() {
    assert!(span(&Sent::http("GET", "/v1/users/7"), Some(UNSAMPLED)).is_none());
    let denied = span(&Sent::http("GET", "/v1/keys/7"), Some(UNSAMPLED)).unwrap();
    assert_eq!(text(&denied, names::REASON), Some("SCOPE_MISMATCH"));
    assert!(denied.context.sampled);
}

#[test]
fn a_span_holds_neither_the_path_nor_the_query_nor_a_credential() {
    for path in ["/v1/users/hunter2?x=hunter2", "/v1/keys/hunter2?x=hunter2"] {
        let sent = Sent::http("GET", path)
            .header("authorization", "Bearer hunter2")
            .header("cookie", "hunter2");
        let span = span(&sent, Some(PARENT)).unwrap();
        assert!(!format!("{span:?}").contains("hunter2"), "{span:?}");
    }
    let grpc = span(&Sent::grpc("/pay.v1.Ledger/Get?x=hunter2"), None).unwrap();
    assert_eq!(text(&grpc, names::RPC_SERVICE), Some("pay.v1.Ledger"));
    assert_eq!(text(&grpc, names::RPC_METHOD), Some("Get"));
    assert!(!format!("{grpc:?}").contains("hunter2"));
}

#[test]
fn a_record_that_is_dropped_counts_as_aborted_and_a_finished_one_does_not() {
    let metrics = Metrics::default();
    let recorder = Recorder::new(Spans::default(), &metrics);
    drop(recorder.begin(&metadata(None)));
    let aborted = "jitgate_decisions_total{outcome=\"aborted\",reason=\"NONE\"} 1";
    assert!(metrics.render().contains(aborted));
    let services = services(&["payments"]);
    let sent = Sent::http("", "");
    let inbound = read(&sent.0, &services);
    let decision = Decision::Deny(inbound.call.as_ref().unwrap_err().clone());
    let evaluation = Evaluation {
        decision,
        caller: None,
        ignored: SmallVec::new(),
        table: TableState {
            revision: Revision(0),
            age: None,
            freshness: Freshness::Fresh,
            now: None,
        },
    };
    recorder.begin(&metadata(None)).finish(Facts {
        inbound: &inbound,
        evaluation: &evaluation,
        shadowed: false,
    });
    let shown = metrics.render();
    assert!(shown.contains(aborted), "still one");
    assert!(
        shown.contains("jitgate_decisions_total{outcome=\"unavailable\",reason=\"BAD_CHECK\"} 1"),
        "{shown}"
    );
    assert!(shown.contains("jitgate_decision_duration_seconds_count 1"));
}
