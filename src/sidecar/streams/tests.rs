use std::collections::HashMap;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as Says;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response as Answers;
use envoy_types::pb::envoy::service::ext_proc::v3::{HttpHeaders, HttpTrailers, ImmediateResponse};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{ListValue, Struct, Value};
use futures_util::{FutureExt, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::*;
use crate::model::grant::{End, Ended, Grant, GrantId, Hold as Held, Staleness};
use crate::sidecar::check::mode::Mode;
use crate::sidecar::check::respond::DenyDetail;
use crate::sidecar::fixtures::{at, checking, fill, grant, table};
use crate::sidecar::state::skew::OnClockSkew;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::spans::Spans;

/// A sidecar without a wire: what Envoy says goes in here, what it is told comes out.
struct Fixture {
    table: Arc<Table>,
    metrics: Metrics,
    stop: CancellationToken,
    leash: Leash,
}

/// One stream as Envoy holds it.
struct Envoy {
    says: mpsc::Sender<Result<ProcessingRequest, Status>>,
    hears: Pin<Box<dyn Stream<Item = Result<ProcessingResponse, Status>> + Send>>,
}

impl Fixture {
    fn new(table: Arc<Table>) -> Self {
        Self::with(table, Mode::Enforce, DenyDetail::Full)
    }

    fn with(table: Arc<Table>, mode: Mode, detail: DenyDetail) -> Self {
        let (metrics, stop) = (Metrics::default(), CancellationToken::new());
        let record = Record::register(Spans::default(), &metrics);
        let leash = LeashArgs { max_leashes: 6 }.build(
            Arc::clone(&table),
            &checking(mode, detail),
            record,
            stop.clone(),
        );
        Self {
            table,
            metrics,
            stop,
            leash,
        }
    }

    fn envoy(&self) -> Envoy {
        let (says, inbound) = mpsc::channel(4);
        let hold = Hold::new(
            Arc::clone(&self.leash.leashing),
            ReceiverStream::new(inbound),
            StreamRecord::begin(None),
        );
        Envoy {
            says,
            hears: Box::pin(hold.into_stream()),
        }
    }

    /// As the table above, by its own rule about clocks.
    fn skewed(on_skew: OnClockSkew) -> Self {
        let table = Arc::new(Table::ruled(Duration::from_secs(1), on_skew));
        // Second 150 of 1970, and this machine is of today.
        fill(&table, [grant("g")], 150);
        Self::new(table)
    }

    /// A stream that was let open.
    async fn open(&self, grants: &[&str]) -> Envoy {
        let mut envoy = self.envoy();
        assert_eq!(envoy.tell(headers(Some(answer(grants)))).await, "go on");
        envoy
    }

    fn change(&self, grant: Grant) {
        let id = grant.id.clone();
        self.table.current().unwrap().put(grant);
        self.table.changed(&[id]);
    }

    fn counted(&self, line: &str) -> bool {
        self.metrics.render().contains(line)
    }
}

impl Envoy {
    async fn tell(&mut self, message: ProcessingRequest) -> String {
        self.says.send(Ok(message)).await.unwrap();
        self.hear().await
    }

    async fn hear(&mut self) -> String {
        shown(self.hears.next().await)
    }

    /// Nothing was said by now.
    fn is_held(&mut self) -> bool {
        self.hears.next().now_or_never().is_none()
    }
}

fn shown(said: Option<Result<ProcessingResponse, Status>>) -> String {
    match said {
        None => "closed".to_owned(),
        Some(Err(status)) => format!("error {:?}", status.code()),
        Some(Ok(response)) => {
            let response = response.response.unwrap();
            if let Answers::RequestHeaders(headers) = &response {
                let common = headers.response.as_ref().unwrap();
                assert!(
                    common.header_mutation.is_none()
                        && common.status == 0
                        && !common.clear_route_cache
                );
                return "go on".to_owned();
            }
            if let Answers::ResponseTrailers(trailers) = &response {
                assert!(trailers.header_mutation.is_none());
                return "trailers".to_owned();
            }
            let Answers::ImmediateResponse(end) = response else {
                panic!("{response:?}")
            };
            format!(
                "{} {} {}",
                end.status.unwrap().code,
                end.grpc_status.unwrap().status,
                end.details
            )
        }
    }
}

fn text(value: &str) -> Value {
    Value {
        kind: Some(Kind::StringValue(value.to_owned())),
    }
}

/// What the check put into the dynamic metadata.
fn answer(grants: &[&str]) -> Struct {
    let values = grants.iter().map(|id| text(id)).collect();
    let grants = Value {
        kind: Some(Kind::ListValue(ListValue { values })),
    };
    let fields = [
        ("grants".to_owned(), grants),
        ("decision_id".to_owned(), text("01JD")),
    ];
    Struct {
        fields: HashMap::from(fields),
    }
}

fn headers(answer: Option<Struct>) -> ProcessingRequest {
    let filter_metadata = answer
        .map(|answer| ("envoy.filters.http.ext_authz".to_owned(), answer))
        .into_iter()
        .collect();
    ProcessingRequest {
        metadata_context: Some(Metadata {
            filter_metadata,
            ..Metadata::default()
        }),
        request: Some(Says::RequestHeaders(HttpHeaders::default())),
        ..ProcessingRequest::default()
    }
}

fn trailers() -> ProcessingRequest {
    let request = Some(Says::ResponseTrailers(HttpTrailers::default()));
    ProcessingRequest {
        request,
        ..ProcessingRequest::default()
    }
}

fn ended(id: &str, how: Ended) -> Grant {
    Grant {
        hold: Held::Ended {
            how,
            keep_until: at(900),
        },
        ..grant(id)
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_lives_with_its_grant_and_ends_with_the_reason() {
    for (end, reason) in [
        (ended("g", Ended::Revoked), "403 7 GRANT_REVOKED"),
        (ended("g", Ended::Released), "403 7 GRANT_RELEASED"),
        (
            Grant {
                hold: Held::Suspended,
                ..grant("g")
            },
            "403 7 GRANT_SUSPENDED",
        ),
    ] {
        let fixture = Fixture::new(table([grant("g"), grant("other")], 150));
        let (mut envoy, mut other) = (fixture.open(&["g"]).await, fixture.open(&["other"]).await);
        assert!(envoy.is_held() && fixture.table.leashes().len() == 2);
        fixture.change(end);
        assert_eq!(
            (envoy.hear().await.as_str(), envoy.hear().await.as_str()),
            (reason, "closed")
        );
        assert!(other.is_held());
        assert_eq!(
            (
                fixture.table.leashes().len(),
                fixture.table.leashes().take_closed()
            ),
            (1, 1)
        );
        let word = reason.rsplit(' ').next().unwrap();
        assert!(fixture.counted(&format!(
            "jitgate_streams_closed_total{{reason=\"{word}\"}} 1"
        )));
    }
}

#[tokio::test(start_paused = true)]
async fn a_revocation_between_the_check_and_the_opening_refuses() {
    let fixture = Fixture::new(table([grant("g")], 150));
    fixture.change(ended("g", Ended::Revoked));
    assert_eq!(
        fixture.envoy().tell(headers(Some(answer(&["g"])))).await,
        "403 7 GRANT_REVOKED"
    );
    assert!(fixture.table.leashes().is_empty());
    assert!(fixture.counted("jitgate_leashes_refused_total{reason=\"GRANT_REVOKED\"} 1"));
    assert!(fixture.counted("jitgate_streams_closed_total{reason=\"GRANT_REVOKED\"} 0"));
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_ends_by_itself_ends_its_stream_on_the_monotonic_clock() {
    let fixture = Fixture::new(table([grant("g")], 190));
    let mut envoy = fixture.open(&["g"]).await;
    let began = tokio::time::Instant::now();
    assert_eq!(envoy.hear().await, "403 7 GRANT_EXPIRED");
    let took = began.elapsed();
    assert!(
        took >= Duration::from_secs(10) && took < Duration::from_millis(10_005),
        "{took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_stream_under_two_grants_lives_as_long_as_the_longer() {
    let fixture = Fixture::new(table(
        [
            grant("g"),
            Grant {
                end: End::At(at(210)),
                ..grant("h")
            },
        ],
        190,
    ));
    let mut envoy = fixture.open(&["g", "h"]).await;
    tokio::time::advance(Duration::from_secs(15)).await;
    assert!(envoy.is_held());
    tokio::time::advance(Duration::from_secs(6)).await;
    assert_eq!(envoy.hear().await, "403 7 GRANT_EXPIRED");
}

#[tokio::test(start_paused = true)]
async fn a_stale_table_ends_strict_streams_and_leaves_those_that_may_outlive_it() {
    let far = End::At(at(100_000));
    let known = Grant {
        end: far,
        staleness: Staleness::LastKnown,
        ..grant("known")
    };
    let fixture = Fixture::new(table(
        [
            Grant {
                end: far,
                ..grant("strict")
            },
            known,
        ],
        150,
    ));
    let (mut strict, mut known) = (
        fixture.open(&["strict"]).await,
        fixture.open(&["known"]).await,
    );
    tokio::time::advance(Duration::from_secs(20)).await;
    fixture.table.heard();
    tokio::time::advance(Duration::from_secs(20)).await;
    assert!(strict.is_held(), "heard in between");
    assert_eq!(strict.hear().await, "503 14 STALE");
    tokio::time::advance(Duration::from_secs(1000)).await;
    assert!(known.is_held());
}

#[tokio::test]
async fn what_does_not_carry_the_answer_to_its_check_is_refused() {
    let fixture = Fixture::new(table([grant("g")], 150));
    let with = |key: &str, value: Value| {
        let mut answer = answer(&["g"]);
        answer.fields.insert(key.to_owned(), value);
        headers(Some(answer))
    };
    let bare = ProcessingRequest {
        metadata_context: None,
        ..headers(None)
    };
    for message in [
        bare,
        headers(None),
        headers(Some(Struct::default())),
        headers(Some(answer(&[]))),
        headers(Some(answer(&["no id!"]))),
        with("grants", text("g")),
        with("decision_id", Value { kind: None }),
        with("decision_id", text("")),
        trailers(),
        ProcessingRequest::default(),
    ] {
        assert_eq!(
            fixture.envoy().tell(message.clone()).await,
            "503 14 BAD_CHECK",
            "{message:?}"
        );
    }
    assert!(fixture.table.leashes().is_empty());
    assert_eq!(
        fixture
            .envoy()
            .tell(headers(Some(answer(&["unknown"]))))
            .await,
        "403 7 NO_GRANT"
    );
}

#[tokio::test]
async fn nothing_opens_before_the_table_is_there() {
    let fixture = Fixture::new(Arc::default());
    assert_eq!(
        fixture.envoy().tell(headers(Some(answer(&["g"])))).await,
        "503 14 NOT_SYNCED"
    );
}

#[tokio::test]
async fn beyond_the_bound_streams_are_refused_until_others_end() {
    let fixture = Fixture::new(table([grant("g")], 150));
    let (first, _second, _third) = (
        fixture.open(&["g"]).await,
        fixture.open(&["g"]).await,
        fixture.open(&["g"]).await,
    );
    assert_eq!(
        fixture.envoy().tell(headers(Some(answer(&["g"])))).await,
        "503 14 UNAVAILABLE"
    );
    assert!(fixture.counted("jitgate_leashes_refused_total{reason=\"UNAVAILABLE\"} 1"));
    drop(first);
    fixture.open(&["g"]).await;
}

#[tokio::test]
async fn a_stream_that_ends_by_itself_is_forgotten_however_it_ends() {
    let fixture = Fixture::new(table([grant("g")], 150));
    let mut whole = fixture.open(&["g"]).await;
    assert_eq!(whole.tell(trailers()).await, "trailers");
    assert_eq!(whole.hear().await, "closed");
    let Envoy { says, mut hears } = fixture.open(&["g"]).await;
    drop(says);
    assert_eq!(shown(hears.next().await), "closed");
    let mut broken = fixture.open(&["g"]).await;
    broken.says.send(Err(Status::cancelled(""))).await.unwrap();
    assert_eq!(broken.hear().await, "closed");
    let mut odd = fixture.open(&["g"]).await;
    assert_eq!(odd.tell(headers(None)).await, "error InvalidArgument");
    drop(fixture.open(&["g"]).await);
    let mut dropped_while_waiting = fixture.open(&["g"]).await;
    assert!(dropped_while_waiting.is_held());
    drop(dropped_while_waiting);
    assert!(fixture.table.leashes().is_empty());
    fixture.change(ended("g", Ended::Revoked));
    assert_eq!(fixture.table.leashes().take_closed(), 0);
}

#[tokio::test]
async fn by_clocks_in_doubt_no_stream_opens_where_the_rule_is_to_refuse() {
    let fixture = Fixture::skewed(OnClockSkew::Refuse);
    assert_eq!(
        fixture.envoy().tell(headers(Some(answer(&["g"])))).await,
        "503 14 STALE"
    );
    assert!(fixture.table.leashes().is_empty());
    Fixture::skewed(OnClockSkew::Report).open(&["g"]).await;
}

#[tokio::test]
async fn by_clocks_in_doubt_what_is_open_runs_on_and_can_be_revoked() {
    let table = Arc::new(Table::ruled(Duration::from_secs(5), OnClockSkew::Refuse));
    let now = crate::clock::wall();
    let hour = Duration::from_hours(1);
    let living = Grant {
        not_before: now,
        end: End::At(now.plus(hour)),
        ..grant("g")
    };
    let index = crate::index::Index::new();
    index.put(living.clone());
    table.publish(index);
    table.clock().observe(now, Some(Duration::ZERO));
    table.heard();
    let fixture = Fixture::new(table);
    let mut envoy = fixture.open(&["g"]).await;
    // The control plane says something else than before: one of the two clocks is wrong.
    fixture
        .table
        .clock()
        .observe(now.minus(hour), Some(Duration::ZERO));
    assert!(fixture.table.skew_refusal().is_some() && envoy.is_held());
    fixture.change(Grant {
        hold: Held::Ended {
            how: Ended::Revoked,
            keep_until: now.plus(hour),
        },
        ..living
    });
    assert_eq!(envoy.hear().await, "403 7 GRANT_REVOKED");
}

#[tokio::test]
async fn a_snapshot_ends_what_it_no_longer_carries() {
    let fixture = Fixture::new(table([grant("g"), grant("h")], 150));
    let (mut gone, mut kept) = (fixture.open(&["g"]).await, fixture.open(&["h"]).await);
    fill(&fixture.table, [grant("h")], 150);
    assert_eq!(gone.hear().await, "403 7 NO_GRANT");
    assert!(kept.is_held());
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_was_suspended_wakes_up_without_the_streams_that_have_ended() {
    let fixture = Fixture::new(table([grant("g")], 150));
    let mut envoy = fixture.open(&["g"]).await;
    fixture.table.slept(Duration::from_secs(60));
    assert_eq!(envoy.hear().await, "403 7 GRANT_EXPIRED");
}

#[tokio::test]
async fn a_sidecar_that_stops_ends_its_streams_with_an_error_and_never_in_order() {
    let fixture = Fixture::new(table([grant("g")], 150));
    let mut envoy = fixture.open(&["g"]).await;
    fixture.stop.cancel();
    assert_eq!(envoy.hear().await, "error Unavailable");
    assert_eq!(envoy.hear().await, "closed");
    assert!(fixture.table.leashes().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_says_nothing_holds_no_place() {
    let fixture = Fixture::new(table([grant("g")], 150));
    assert_eq!(fixture.envoy().hear().await, "error DeadlineExceeded");
}

#[tokio::test]
async fn in_shadow_mode_nothing_is_refused_and_nothing_is_ended() {
    let fixture = Fixture::with(table([], 150), Mode::Shadow, DenyDetail::Full);
    let mut envoy = fixture.envoy();
    assert_eq!(envoy.tell(headers(None)).await, "go on");
    assert_eq!(envoy.hear().await, "closed");
}

#[tokio::test]
async fn the_end_is_told_as_a_denial_is_and_no_more_than_the_operator_allows() {
    let tell = async |detail, grpc: bool| -> ImmediateResponse {
        let fixture = Fixture::with(
            table([ended("g", Ended::Revoked)], 150),
            Mode::Enforce,
            detail,
        );
        let mut answer = answer(&["g"]);
        answer.fields.insert(
            "grpc".to_owned(),
            Value {
                kind: Some(Kind::BoolValue(grpc)),
            },
        );
        let mut envoy = fixture.envoy();
        envoy.says.send(Ok(headers(Some(answer)))).await.unwrap();
        let response = envoy.hears.next().await.unwrap().unwrap().response.unwrap();
        let Answers::ImmediateResponse(end) = response else {
            panic!("{response:?}")
        };
        end
    };
    let header = |end: &ImmediateResponse, name: &str| {
        let mut set = end
            .headers
            .as_ref()
            .unwrap()
            .set_headers
            .iter()
            .filter_map(|set| set.header.as_ref());
        let found = set.find(|header| header.key == name).unwrap();
        assert!(found.value.is_empty(), "Envoy ignores it here");
        String::from_utf8(found.raw_value.clone()).unwrap()
    };
    let http = tell(DenyDetail::Full, false).await;
    assert_eq!(header(&http, "x-jitgate-reason"), "GRANT_REVOKED");
    assert_eq!(header(&http, "x-jitgate-decision-id"), "01JD");
    let problem: serde_json::Value = serde_json::from_slice(&http.body).unwrap();
    assert_eq!(
        (&problem["reason"], &problem["status"]),
        (&"GRANT_REVOKED".into(), &403.into())
    );
    let grpc = tell(DenyDetail::Full, true).await;
    assert_eq!(
        (
            String::from_utf8(grpc.body).unwrap().as_str(),
            grpc.details.as_str()
        ),
        ("Grant revoked", "GRANT_REVOKED")
    );
    let silent = tell(DenyDetail::None, false).await;
    assert_eq!(header(&silent, "x-jitgate-reason"), "PERMISSION_DENIED");
    assert!(!String::from_utf8(silent.body).unwrap().contains("REVOKED"));
    assert_eq!(silent.details, "GRANT_REVOKED", "the log has everything");
}

#[test]
fn ids_are_read_up_to_a_bound() {
    let names: Vec<_> = (0..50).map(|i| format!("g{i}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let entry = grants::StreamEntry::read(&headers(Some(answer(&names)))).unwrap();
    assert_eq!(
        entry.grants.len(),
        crate::model::decision::Permit::GRANTS_MAX
    );
    assert_eq!(entry.grants[0].grant, GrantId::parse("g0").unwrap());
    for bad in ["mesh@", "mesh@x", "mesh@1@2", "@1", "mesh@-1"] {
        assert!(
            grants::StreamEntry::read(&headers(Some(answer(&[bad])))).is_none(),
            "{bad}"
        );
    }
}
