use std::io::Write;
use std::sync::Mutex;
use std::time::Duration;

use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use futures_util::FutureExt;
use prost::Message;
use tokio::time::Instant;

use super::*;
use crate::jose::jit::{JitClaims, KeyPair};
use crate::model::entry::TableEntry;
use crate::model::grant::{End, Ended, Grant, GrantId, Hold, Staleness};
use crate::model::scope::{GrpcRule, HttpRule, Rule, Scope};
use crate::sidecar::check::input::TOKEN_HEADER;
use crate::sidecar::check::mode::Mode;
use crate::sidecar::check::respond::DenyDetail;
use crate::sidecar::fixtures::tokens;
use crate::sidecar::fixtures::{
    CAPTURED, CHECKOUT, Sent, at, authorizer, checking, fill, grant, service, table, table_of,
    waiting,
};
use crate::sidecar::state::skew::OnClockSkew;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::spans::Spans;

/// The grant that let the check pass, or the reason why not.
async fn answer(authorizer: &Authorizer, sent: &Sent) -> Result<String, String> {
    outcome(
        &authorizer
            .check(Request::new(sent.0.clone()))
            .await
            .unwrap()
            .into_inner(),
    )
}

fn outcome(response: &CheckResponse) -> Result<String, String> {
    let status = response.status.as_ref().unwrap();
    match response.http_response.as_ref().unwrap() {
        HttpResponse::OkResponse(ok) => {
            assert_eq!(status.code, 0);
            let value = |name| {
                let mut set = ok.headers.iter().filter_map(|set| set.header.as_ref());
                set.find(|header| header.key == name)
                    .map(|header| header.value.clone())
            };
            Ok(value("x-jitgate-grant")
                .unwrap_or_else(|| format!("shadow {}", value("x-jitgate-shadow").unwrap())))
        }
        HttpResponse::DeniedResponse(_) | HttpResponse::ErrorResponse(_) => {
            assert_ne!(status.code, 0, "Envoy would take this for an allow");
            Err(status.message.clone())
        }
    }
}

async fn ask(
    grants: impl IntoIterator<Item = Grant>,
    now: u64,
    sent: &Sent,
) -> Result<String, String> {
    answer(
        &authorizer(table(grants, now), Mode::Enforce, &Metrics::default()),
        sent,
    )
    .await
}

fn user_seven() -> Sent {
    Sent::http("GET", "/v1/users/7?verbose=1")
}

#[tokio::test]
async fn a_live_grant_lets_http_and_grpc_pass() {
    assert_eq!(ask([grant("g")], 150, &user_seven()).await, Ok("g".into()));
    assert_eq!(
        ask([grant("g")], 150, &Sent::grpc("/pay.v1.Ledger/GetBalance")).await,
        Ok("g".into())
    );
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn without_one_the_nearest_miss_is_named() {
    let revoked = Hold::Ended {
        how: Ended::Revoked,
        keep_until: at(900),
    };
    for (grants, now, sent, reason) in [
        (vec![], 150, user_seven(), "NO_GRANT"),
        (vec![grant("g")], 99, user_seven(), "GRANT_NOT_STARTED"),
        (vec![grant("g")], 200, user_seven(), "GRANT_EXPIRED"),
        (
            vec![Grant {
                hold: revoked,
                ..grant("g")
            }],
            150,
            user_seven(),
            "GRANT_REVOKED",
        ),
        (
            vec![Grant {
                hold: Hold::Suspended,
                ..grant("g")
            }],
            150,
            user_seven(),
            "GRANT_SUSPENDED",
        ),
        (
            vec![grant("g")],
            150,
            Sent::http("GET", "/v1/keys/7"),
            "SCOPE_MISMATCH",
        ),
        (
            vec![grant("g")],
            150,
            Sent::http("POST", "/pay.v1.Ledger/GetBalance"),
            "SCOPE_MISMATCH",
        ),
        (
            vec![grant("g")],
            150,
            Sent::http("GET", "/v1/users/../users/7"),
            "PATH_NOT_CANONICAL",
        ),
        (
            vec![grant("g")],
            150,
            Sent::http("CONNECT", ""),
            "PATH_NOT_CANONICAL",
        ),
        (vec![grant("g")], 150, Sent::http("", "/"), "BAD_CHECK"),
        (
            vec![grant("g")],
            150,
            user_seven().extension("jitgate_service", "orders"),
            "BAD_CHECK",
        ),
        (
            vec![grant("g")],
            150,
            user_seven().with_peer(""),
            "CREDENTIAL_MISSING",
        ),
        (
            vec![grant("g")],
            150,
            user_seven().with_peer("checkout.shop.svc"),
            "CREDENTIAL_MISSING",
        ),
        (
            vec![grant("g")],
            150,
            user_seven().with_peer("spiffe://TD/x"),
            "PEER_IDENTITY_INVALID",
        ),
        (
            vec![grant("g")],
            150,
            user_seven().header("authorization", "Bearer a,Bearer b"),
            "TOKEN_MALFORMED",
        ),
        (
            vec![grant("g")],
            150,
            user_seven().header(TOKEN_HEADER, ""),
            "TOKEN_MALFORMED",
        ),
        (
            vec![grant("g")],
            150,
            user_seven().header(TOKEN_HEADER, "x.y.z"),
            "TOKEN_MALFORMED",
        ),
    ] {
        assert_eq!(
            ask(grants, now, &sent).await,
            Err(reason.into()),
            "{sent:?}",
            sent = sent.0
        );
    }
}

#[tokio::test]
async fn a_token_that_belongs_to_the_application_changes_nothing() {
    let sent = user_seven().header("authorization", "Bearer opaque");
    assert_eq!(ask([grant("g")], 150, &sent).await, Ok("g".into()));
}

/// An issuer with one key, and what signs for it.
fn issuer() -> (Issuers, impl Fn(serde_json::Value) -> String) {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, jwk::Jwk};
    let random = aws_lc_rs::rand::SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    let key = EncodingKey::from_ec_der(pkcs8.as_ref());
    let mut jwk =
        serde_json::to_value(Jwk::from_encoding_key(&key, Algorithm::ES256).unwrap()).unwrap();
    jwk["kid"] = "k".into();
    let yaml = format!(
        "apiVersion: jitgate.dev/v1\nkind: Issuers\nissuers:\n  - issuer: https://idp.example\n    audiences: [jitgate]\n    jwks: {{\"keys\":[{jwk}]}}\n"
    );
    let issuers = Issuers::parse(&yaml, std::path::Path::new("issuers.yaml")).unwrap();
    let header = Header {
        kid: Some("k".into()),
        ..Header::new(Algorithm::ES256)
    };
    (issuers, move |claims| {
        encode(&header, &claims, &key).unwrap()
    })
}

fn claims(expires: u64) -> serde_json::Value {
    serde_json::json!({
        "iss": "https://idp.example", "sub": "alice", "aud": "jitgate", "exp": expires, "groups": ["sre"]
    })
}

#[tokio::test]
async fn a_token_proves_its_user_and_groups_in_either_header() {
    let (issuers, sign) = issuer();
    let held_by = |subject: &str, id: &str| Grant {
        subject: Principal::parse(subject).unwrap(),
        ..grant(id)
    };
    let token = sign(claims(180));
    let checking = checking(Mode::Enforce, DenyDetail::Full);
    let table = table([held_by("user:https://idp.example|alice", "hers")], 150);
    let recorder = Recorder::new(Spans::default(), &Metrics::default());
    let authorizer = Authorizer::new(Arc::clone(&table), Arc::new(issuers), checking, recorder);
    let bearer = user_seven()
        .with_peer("")
        .header("authorization", &format!("Bearer {token}"));
    let own = user_seven().with_peer("").header(TOKEN_HEADER, &token);
    for sent in [&bearer, &own] {
        assert_eq!(answer(&authorizer, sent).await, Ok("hers".into()));
    }
    fill(
        &table,
        [held_by("group:https://idp.example|sre", "theirs")],
        150,
    );
    assert_eq!(answer(&authorizer, &bearer).await, Ok("theirs".into()));
    fill(
        &table,
        [held_by("group:https://idp.example|dev", "others")],
        150,
    );
    assert_eq!(answer(&authorizer, &bearer).await, Err("NO_GRANT".into()));
}

#[tokio::test]
async fn a_bad_token_of_ours_denies_even_beside_a_peer_that_would_pass() {
    let (issuers, sign) = issuer();
    let recorder = Recorder::new(Spans::default(), &Metrics::default());
    let checking = checking(Mode::Enforce, DenyDetail::Full);
    let authorizer = Authorizer::new(
        table([grant("g")], 150),
        Arc::new(issuers),
        checking,
        recorder,
    );
    let mut elsewhere = claims(180);
    elsewhere["aud"] = "somebody".into();
    let mut foreign = claims(180);
    foreign["iss"] = "https://other.example".into();
    for (token, in_bearer, in_ours) in [
        (sign(claims(180)), Ok("g"), Ok("g")),
        (
            sign(claims(100)),
            Err("TOKEN_EXPIRED"),
            Err("TOKEN_EXPIRED"),
        ),
        (
            sign(elsewhere),
            Err("TOKEN_AUDIENCE_MISMATCH"),
            Err("TOKEN_AUDIENCE_MISMATCH"),
        ),
        (sign(foreign), Ok("g"), Err("TOKEN_MALFORMED")),
        ("opaque".to_owned(), Ok("g"), Err("TOKEN_MALFORMED")),
    ] {
        let owned = |outcome: Result<&str, &str>| outcome.map(str::to_owned).map_err(str::to_owned);
        let bearer = user_seven().header("authorization", &format!("Bearer {token}"));
        assert_eq!(answer(&authorizer, &bearer).await, owned(in_bearer));
        assert_eq!(
            answer(&authorizer, &user_seven().header(TOKEN_HEADER, &token)).await,
            owned(in_ours)
        );
    }
}

/// An authorizer over the table, with one token key published, and that key.
fn tokened(grants: impl IntoIterator<Item = Grant>) -> (Arc<Table>, Authorizer, KeyPair) {
    let (table, key) = (table(grants, 150), tokens::key("k"));
    table.publish_keys(tokens::published(&[&key]));
    (
        Arc::clone(&table),
        authorizer(table, Mode::Enforce, &Metrics::default()),
        key,
    )
}

fn alices_own(id: &str) -> Grant {
    Grant {
        subject: Principal::parse(tokens::ALICE).unwrap(),
        ..grant(id)
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_opens_its_grant_to_its_workload_alone() {
    let (_, authorizer, key) = tokened([alices_own("g"), alices_own("h")]);
    let with = |claims: JitClaims| user_seven().header(TOKEN_HEADER, &claims.sign(&key).unwrap());
    let good = with(tokens::claims());
    assert_eq!(answer(&authorizer, &good).await, Ok("g".into()));
    assert_eq!(
        answer(&authorizer, &user_seven()).await,
        Err("NO_GRANT".into()),
        "the workload itself has no grant"
    );
    let other = "spiffe://td.example/ns/shop/sa/other";
    for peer in [other, "", "checkout.shop.svc"] {
        assert_eq!(
            answer(&authorizer, &good.clone().with_peer(peer)).await,
            Err("TOKEN_BINDING_MISMATCH".into())
        );
    }
    let others = JitClaims {
        audience: service("shop"),
        ..tokens::claims()
    };
    assert_eq!(
        answer(&authorizer, &with(others)).await,
        Err("TOKEN_AUDIENCE_MISMATCH".into())
    );
    let nobodys = JitClaims {
        grant: GrantId::parse("x").unwrap(),
        ..tokens::claims()
    };
    assert_eq!(
        answer(&authorizer, &with(nobodys)).await,
        Err("NO_GRANT".into()),
        "nor does it stand for another one"
    );
}

#[tokio::test(start_paused = true)]
async fn a_tokens_grant_that_is_over_or_held_back_is_what_the_denial_is_about() {
    let revoked = Hold::Ended {
        how: Ended::Revoked,
        keep_until: at(900),
    };
    for (hold, reason) in [
        (revoked, "GRANT_REVOKED"),
        (Hold::Suspended, "GRANT_SUSPENDED"),
    ] {
        let (_, authorizer, key) = tokened([
            Grant {
                hold,
                ..alices_own("g")
            },
            alices_own("h"),
        ]);
        let sent = user_seven().header(TOKEN_HEADER, &tokens::claims().sign(&key).unwrap());
        assert_eq!(answer(&authorizer, &sent).await, Err(reason.into()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_bad_token_of_jitgates_own_denies_even_beside_a_peer_that_would_pass() {
    let (table, authorizer, key) = tokened([grant("g")]);
    let token = tokens::claims().sign(&tokens::key("k")).unwrap();
    assert_eq!(answer(&authorizer, &user_seven()).await, Ok("g".into()));
    let sent = user_seven().header(TOKEN_HEADER, &token);
    assert_eq!(
        answer(&authorizer, &sent).await,
        Err("TOKEN_SIGNATURE_INVALID".into())
    );
    // As a bearer token it belongs to the application: nobody's grant comes of it.
    let bearer = user_seven().header(
        "authorization",
        &format!("Bearer {}", tokens::claims().sign(&key).unwrap()),
    );
    fill(&table, [alices_own("g")], 150);
    assert_eq!(answer(&authorizer, &bearer).await, Err("NO_GRANT".into()));
}

#[tokio::test(start_paused = true)]
async fn a_token_ahead_of_the_table_is_waited_for_and_then_not_yet_visible() {
    let (table, authorizer, key) = tokened([]);
    let ahead = JitClaims {
        revision: Revision(11),
        ..tokens::claims()
    };
    let sent = user_seven().header(TOKEN_HEADER, &ahead.sign(&key).unwrap());
    let begun = Instant::now();
    let response = authorizer
        .check(Request::new(sent.0.clone()))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (outcome(&response), begun.elapsed()),
        (
            Err("GRANT_NOT_YET_VISIBLE".into()),
            Duration::from_millis(200)
        )
    );
    let Some(HttpResponse::ErrorResponse(error)) = &response.http_response else {
        panic!("no error_response")
    };
    let headers: Vec<_> = error
        .headers
        .iter()
        .filter_map(|set| set.header.as_ref())
        .map(|set| &*set.key)
        .collect();
    assert!(
        error.status.as_ref().unwrap().code == 503 && headers.contains(&"retry-after"),
        "{error:?}"
    );

    let arrives = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        table.current().unwrap().put(alices_own("g"));
        table.advance(Revision(11));
    };
    let begun = Instant::now();
    let (allowed, ()) = tokio::join!(answer(&authorizer, &sent), arrives);
    assert_eq!(
        (allowed, begun.elapsed()),
        (Ok("g".into()), Duration::from_millis(50))
    );
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_past_envoys_own_deadline() {
    let (_, authorizer, key) = tokened([]);
    let ahead = JitClaims {
        revision: Revision(11),
        ..tokens::claims()
    };
    let mut request = Request::new(
        user_seven()
            .header(TOKEN_HEADER, &ahead.sign(&key).unwrap())
            .0,
    );
    request
        .metadata_mut()
        .insert("x-envoy-expected-rq-timeout-ms", "100".parse().unwrap());
    let begun = Instant::now();
    let response = authorizer.check(request).await.unwrap().into_inner();
    assert_eq!(outcome(&response), Err("GRANT_NOT_YET_VISIBLE".into()));
    assert_eq!(begun.elapsed(), Duration::from_millis(75));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_allowed_anyway_waits_for_nothing() {
    let (_, authorizer, key) = tokened([grant("peers")]);
    let ahead = JitClaims {
        revision: Revision(11),
        ..tokens::claims()
    };
    let begun = Instant::now();
    let sent = user_seven().header(TOKEN_HEADER, &ahead.sign(&key).unwrap());
    assert_eq!(answer(&authorizer, &sent).await, Ok("peers".into()));
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn a_stream_that_a_token_let_pass_is_carried_by_that_grant_and_what_other_credentials_prove()
{
    let (_, authorizer, key) = tokened([alices_own("g"), alices_own("hers"), grant("peers")]);
    let sent = user_seven().header(TOKEN_HEADER, &tokens::claims().sign(&key).unwrap());
    let response = authorizer
        .check(Request::new(sent.0))
        .await
        .unwrap()
        .into_inner();
    let grants = format!("{:?}", response.dynamic_metadata.unwrap().fields["grants"]);
    assert!(
        grants.contains("\"g\"") && grants.contains("\"peers\"") && !grants.contains("hers"),
        "{grants}"
    );
}

/// Anybody can name a key that does not exist, and sign by one of the same name: neither keeps others waiting.
#[tokio::test(start_paused = true)]
async fn a_flood_of_bad_tokens_takes_no_place_that_a_good_one_needs() {
    let (_, authorizer, key) = tokened([
        alices_own("g"),
        Grant {
            end: End::At(at(190)),
            ..grant("peers")
        },
    ]);
    let ahead = JitClaims {
        revision: Revision(u64::MAX >> 1),
        ..tokens::claims()
    };
    let with = |token: String| user_seven().header(TOKEN_HEADER, &token);
    let unknown = with(ahead.sign(&tokens::key("unknown")).unwrap());
    let forged = with(ahead.sign(&tokens::key("k")).unwrap());
    let mut flood: Vec<_> = (0..IN_FLIGHT_MAX)
        .map(|_| Box::pin(answer(&authorizer, &unknown)))
        .collect();
    let waiting = flood
        .iter_mut()
        .filter_map(|one| one.as_mut().now_or_never().is_none().then_some(()))
        .count();
    assert_eq!(waiting, 64, "the others are told at once");
    assert_eq!(
        answer(&authorizer, &forged).now_or_never(),
        Some(Err("TOKEN_SIGNATURE_INVALID".into()))
    );
    let good = with(tokens::claims().sign(&key).unwrap());
    assert_eq!(
        answer(&authorizer, &good).now_or_never(),
        Some(Ok("g".into()))
    );
    assert_eq!(
        answer(&authorizer, &user_seven()).now_or_never(),
        Some(Ok("peers".into()))
    );
}

/// Nothing is decided anyway: then nobody waits for a key.
#[tokio::test(start_paused = true)]
async fn by_clocks_in_doubt_no_credential_is_verified() {
    let table = Arc::new(Table::ruled(Duration::from_secs(1), OnClockSkew::Refuse));
    fill(&table, [grant("peers")], 150);
    table.publish_keys(tokens::published(&[&tokens::key("k")]));
    let authorizer = authorizer(table, Mode::Enforce, &Metrics::default());
    let unknown = user_seven().header(
        TOKEN_HEADER,
        &tokens::claims().sign(&tokens::key("unknown")).unwrap(),
    );
    assert_eq!(
        answer(&authorizer, &unknown).now_or_never(),
        Some(Err("STALE".into()))
    );
    assert_eq!(
        answer(&authorizer, &user_seven()).now_or_never(),
        Some(Err("STALE".into()))
    );
}

#[tokio::test]
async fn a_token_of_jitgates_own_never_reaches_the_upstream() {
    let (_, authorizer, key) = tokened([alices_own("g")]);
    let token = tokens::claims().sign(&key).unwrap();
    let response = authorizer
        .check(Request::new(user_seven().header(TOKEN_HEADER, &token).0))
        .await
        .unwrap();
    let response = response.into_inner();
    let Some(HttpResponse::OkResponse(ok)) = &response.http_response else {
        panic!("refused: {response:?}")
    };
    assert!(
        ok.headers_to_remove.iter().any(|name| name == TOKEN_HEADER),
        "{:?}",
        ok.headers_to_remove
    );
    assert!(!shown(&response).contains(token.rsplit('.').next().unwrap()));
}

#[tokio::test]
async fn who_waits_for_approval_is_told_so_and_how_to_look() {
    let waits = || TableEntry::from(waiting("01R"));
    let beside = |entries: Vec<TableEntry>| {
        authorizer(table_of(entries, 150), Mode::Enforce, &Metrics::default())
    };
    let both = beside(vec![waits(), grant("g").into()]);
    assert_eq!(answer(&both, &user_seven()).await, Ok("g".into()));
    let authorizer = beside(vec![waits()]);
    assert_eq!(
        answer(&authorizer, &user_seven()).await,
        Err("REQUEST_PENDING".into())
    );
    assert_eq!(
        answer(&authorizer, &Sent::http("GET", "/v1/keys/7")).await,
        Err("NO_GRANT".into()),
        "to another call it says nothing"
    );
    let response = authorizer
        .check(Request::new(user_seven().0))
        .await
        .unwrap()
        .into_inner();
    let Some(HttpResponse::DeniedResponse(denied)) = &response.http_response else {
        panic!("{response:?}")
    };
    let problem: serde_json::Value = serde_json::from_str(&denied.body).unwrap();
    assert_eq!(
        problem["request"],
        serde_json::json!({ "id": "01R", "command": "jitgate requests show 01R" })
    );
    assert_eq!(
        (&problem["grant"], &problem["status"]),
        (&serde_json::Value::Null, &403.into())
    );
    let metadata = &response.dynamic_metadata.as_ref().unwrap().fields;
    assert!(metadata.contains_key("request") && !metadata.contains_key("grant"));
}

#[tokio::test]
async fn before_the_first_snapshot_and_before_the_clock_nothing_is_decided() {
    let empty = Arc::new(Table::default());
    let authorizer = authorizer(Arc::clone(&empty), Mode::Enforce, &Metrics::default());
    assert_eq!(
        answer(&authorizer, &user_seven()).await,
        Err("NOT_SYNCED".into())
    );
    empty.publish(crate::index::Index::new());
    empty.heard();
    assert_eq!(
        answer(&authorizer, &user_seven()).await,
        Err("NOT_SYNCED".into()),
        "no time to decide by"
    );
    fill(&empty, [grant("g")], 150);
    assert_eq!(answer(&authorizer, &user_seven()).await, Ok("g".into()));
}

#[tokio::test(start_paused = true)]
async fn grants_end_and_tables_go_stale_without_any_message() {
    let longer = Grant {
        end: End::At(at(1000)),
        staleness: Staleness::LastKnown,
        ..grant("known")
    };
    let authorizer = authorizer(
        table([grant("g"), longer], 190),
        Mode::Enforce,
        &Metrics::default(),
    );
    let sent = Sent::http("GET", "/v1/users/7");
    assert_eq!(answer(&authorizer, &sent).await, Ok("known".into()));
    tokio::time::advance(Duration::from_secs(31)).await;
    assert_eq!(
        answer(&authorizer, &sent).await,
        Ok("known".into()),
        "it says that it outlives the bound"
    );
    assert_eq!(
        answer(&authorizer, &Sent::http("GET", "/other")).await,
        Err("STALE".into())
    );
}

#[tokio::test(start_paused = true)]
async fn a_grant_ends_on_the_microsecond_of_its_end() {
    let authorizer = authorizer(table([grant("g")], 199), Mode::Enforce, &Metrics::default());
    tokio::time::advance(Duration::from_millis(999)).await;
    assert_eq!(answer(&authorizer, &user_seven()).await, Ok("g".into()));
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(
        answer(&authorizer, &user_seven()).await,
        Err("GRANT_EXPIRED".into())
    );
}

#[tokio::test]
async fn shadow_lets_everything_pass_and_counts_what_it_would_have_refused() {
    let metrics = Metrics::default();
    let authorizer = authorizer(table([grant("g")], 150), Mode::Shadow, &metrics);
    assert_eq!(answer(&authorizer, &user_seven()).await, Ok("g".into()));
    assert_eq!(
        answer(&authorizer, &Sent::http("GET", "/v1/keys/7")).await,
        Ok("shadow SCOPE_MISMATCH".into())
    );
    assert_eq!(
        answer(&authorizer, &Sent::http("", "")).await,
        Ok("shadow BAD_CHECK".into())
    );
    let shown = metrics.render();
    assert!(
        shown.contains("jitgate_shadow_refusals_total{reason=\"SCOPE_MISMATCH\"} 1"),
        "{shown}"
    );
    assert!(
        shown.contains("jitgate_decisions_total{outcome=\"deny\",reason=\"SCOPE_MISMATCH\"} 1")
    );
    assert!(shown.contains("jitgate_decisions_total{outcome=\"allow\",reason=\"NONE\"} 1"));
}

#[tokio::test]
async fn beyond_the_bound_checks_are_turned_away_at_once_and_counted() {
    let metrics = Metrics::default();
    let authorizer = authorizer(table([grant("g")], 150), Mode::Enforce, &metrics);
    let _all = authorizer
        .slots
        .try_acquire_many(u32::try_from(IN_FLIGHT_MAX).unwrap())
        .unwrap();
    let refused = authorizer
        .check(Request::new(user_seven().0))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    assert!(
        metrics
            .render()
            .contains("jitgate_decisions_total{outcome=\"aborted\",reason=\"NONE\"} 1")
    );
}

/// Collects what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_answer_and_no_log_line_holds_a_credential() {
    const SECRET: &str = "hunter2-7f3a";
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let sents = |kind: &dyn Fn(&str) -> Sent| {
        let path = format!("/v1/users/7?token={SECRET}");
        [
            kind(&path).header("authorization", &format!("Bearer {SECRET}")),
            kind(&path).header("authorization", &format!("Bearer {SECRET},Bearer {SECRET}")),
            kind(&path).header("authorization", &format!("Basic {SECRET}")),
            kind(&path).header(TOKEN_HEADER, SECRET),
            kind(&path).header(TOKEN_HEADER, &format!("{SECRET} {SECRET}")),
            kind(&path)
                .header("cookie", SECRET)
                .header("x-api-key", SECRET)
                .header("x-jitgate-grant", SECRET),
            kind(&path).header("cookie", SECRET).with_peer(""),
            kind(&path)
                .header("cookie", SECRET)
                .extension("jitgate_service", "nobody"),
        ]
    };
    let http = sents(&|path| Sent::http("GET", path));
    let grpc = sents(&|path| Sent::grpc(&path.replace("/v1/users/7", "/pay.v1.Ledger/Get")));
    // A call site that another thread met first, without a subscriber, would stay silent for all.
    let first = authorizer(table([], 150), Mode::Enforce, &Metrics::default());
    assert_eq!(answer(&first, &user_seven()).await, Err("NO_GRANT".into()));
    tracing::callsite::rebuild_interest_cache();
    for grants in [vec![], vec![grant("g")]] {
        for mode in [Mode::Enforce, Mode::Shadow] {
            let authorizer = authorizer(table(grants.clone(), 150), mode, &Metrics::default());
            for sent in http.iter().chain(&grpc) {
                let response = authorizer
                    .check(Request::new(sent.0.clone()))
                    .await
                    .unwrap()
                    .into_inner();
                assert!(!shown(&response).contains(SECRET), "{response:?}");
            }
        }
    }
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("decided") && !log.contains(SECRET), "{log}");
}

/// Everything in an answer, the binary gRPC details too.
fn shown(response: &CheckResponse) -> String {
    use base64::Engine as _;
    let mut shown = format!("{response:?}");
    if let Some(HttpResponse::DeniedResponse(denied) | HttpResponse::ErrorResponse(denied)) =
        &response.http_response
    {
        for header in denied.headers.iter().filter_map(|set| set.header.as_ref()) {
            let decoded = base64::engine::general_purpose::STANDARD_NO_PAD
                .decode(&header.value)
                .unwrap_or_default();
            shown.push_str(&String::from_utf8_lossy(&decoded));
        }
    }
    shown
}

/// A small generator with a fixed seed: the same ten thousand mutations in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.roll() % u64::try_from(bound.max(1)).unwrap()).unwrap()
    }
}

const ALICE: &str = "spiffe://lab.local/ns/default/sa/alice";

/// Alice may `GET /m` and call everything of `echo.Echo` here.
fn alices() -> Grant {
    let rules = vec![
        Rule::Http(HttpRule::parse_line("GET /m").unwrap()),
        Rule::Grpc(GrpcRule::parse("/echo.Echo/*").unwrap()),
    ];
    Grant {
        subject: Principal::parse(ALICE).unwrap(),
        scope: Scope::new(service("payments"), rules).unwrap(),
        ..grant("alices")
    }
}

/// Flips, cuts, repeats or splices bytes.
fn mutate_bytes(bytes: &mut Vec<u8>, other: &[u8], dice: &mut Dice) {
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len());
        match dice.below(5) {
            0 => bytes[at] ^= 1 << dice.below(8),
            1 => bytes[at] = u8::try_from(dice.below(256)).unwrap(),
            2 => bytes.truncate(at.max(1)),
            3 => bytes.insert(at, b"/%.;\\?*#\0\xff"[dice.below(10)]),
            _ => {
                let from = dice.below(other.len());
                bytes.splice(at.., other[from..].iter().copied());
            }
        }
        if bytes.is_empty() {
            bytes.push(0);
        }
    }
}

/// Swaps or spoils whole fields, which flipped bytes rarely do.
fn mutate_fields(check: &mut CheckRequest, other: &CheckRequest, dice: &mut Dice) {
    let mut sent = Sent(std::mem::take(check));
    let from = Sent(other.clone()).http_mut().clone();
    match dice.below(8) {
        0 => sent.http_mut().path = from.path,
        1 => sent.http_mut().method = from.method,
        2 => sent.http_mut().headers = from.headers,
        3 => sent.http_mut().header_map = from.header_map,
        4 => {
            sent.0.attributes.get_or_insert_default().source =
                other.attributes.as_ref().and_then(|a| a.source.clone())
        }
        5 => {
            let spoilt = [
                "/m/", "/m;x", "/./m", "//m", "/%6d", "/m%2f", "/M", "/m\\", "/m/..", "/x/../m",
                "m", "",
            ];
            sent.http_mut().path = spoilt[dice.below(spoilt.len())].to_owned();
        }
        6 => {
            let spoilt = [
                format!("{ALICE}/"),
                ALICE.to_uppercase(),
                format!("{ALICE} "),
                format!("x{ALICE}"),
            ];
            sent = sent.with_peer(&spoilt[dice.below(spoilt.len())]);
        }
        _ => {
            let names = [
                "authorization",
                TOKEN_HEADER,
                "content-type",
                "x-jitgate-grant",
            ];
            let values = [
                "Bearer",
                "Bearer a,b",
                "application/grpc",
                "application/grpc+json",
                "",
                "\u{0}",
                "alices",
            ];
            sent = sent.header(
                names[dice.below(names.len())],
                values[dice.below(values.len())],
            );
        }
    }
    *check = sent.0;
}

/// The definition of what Alice's grant allows, written down a second time and in another way.
fn is_alices(check: &CheckRequest) -> bool {
    let attributes = check.attributes.as_ref().unwrap();
    let http = attributes.request.as_ref().unwrap().http.as_ref().unwrap();
    let path = http.path.split('?').next().unwrap();
    let target = match path.strip_prefix("/echo.Echo/") {
        Some(method) => {
            http.method == "POST"
                && method
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'_')
        }
        None => http.method == "GET" && path == "/m",
    };
    target
        && attributes.source.as_ref().unwrap().principal == ALICE
        && !http.headers.contains_key(TOKEN_HEADER)
}

#[tokio::test]
async fn ten_thousand_mutated_checks_neither_panic_nor_pass_without_a_live_grant() {
    let authorizer = authorizer(
        table([alices(), grant("g")], 150),
        Mode::Enforce,
        &Metrics::default(),
    );
    let captured: Vec<CheckRequest> = CAPTURED
        .iter()
        .map(|(_, bytes)| CheckRequest::decode(*bytes).unwrap())
        .collect();
    let mut dice = Dice(20_260_101);
    let (mut allowed, mut refused) = (0, 0);
    while allowed + refused < 10_000 {
        let (one, other) = (dice.below(captured.len()), dice.below(captured.len()));
        let mut check = captured[one].clone();
        if dice.below(2) == 0 {
            mutate_fields(&mut check, &captured[other], &mut dice);
        }
        let mut bytes = check.encode_to_vec();
        if dice.below(2) == 0 {
            mutate_bytes(&mut bytes, CAPTURED[other].1, &mut dice);
        }
        // What does not decode never reaches the service: tonic refuses it, which Envoy takes for an error.
        let Ok(check) = CheckRequest::decode(bytes.as_slice()) else {
            continue;
        };
        match answer(&authorizer, &Sent(check.clone())).await {
            Ok(grant) => {
                assert_eq!(grant, "alices");
                assert!(is_alices(&check), "{check:?}");
                allowed += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(allowed > 500 && refused > 5000, "{allowed} {refused}");
    assert_eq!(
        answer(
            &authorizer,
            &Sent::http("GET", "/v1/users/7").with_peer(CHECKOUT)
        )
        .await,
        Ok("g".into())
    );
}
