//! Claims about the API over loopback, through the real listener.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use super::call::{Api, REQUEST_MAX};
use super::identified::Identified;
use super::watch;
use crate::control::testing::{ROOT, Served};
use crate::wire::v1;
use crate::wire::v1::access_service_client::AccessServiceClient;
use crate::wire::v1::access_service_server::AccessService as _;
use crate::wire::v1::enforcer_service_client::EnforcerServiceClient;

type Client = AccessServiceClient<Channel>;

fn with<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

fn scope() -> Option<v1::Scope> {
    Some(v1::Scope {
        service: "payments".into(),
        grpc: vec!["/pay.v1.Ledger/Balance".into()],
        http: vec![],
    })
}

fn ask(minutes: i64) -> v1::RequestAccessRequest {
    let duration = Some(prost_types::Duration {
        seconds: minutes * 60,
        nanos: 0,
    });
    v1::RequestAccessRequest {
        scope: scope(),
        duration,
        reason: "look".into(),
        ..Default::default()
    }
}

fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    let told = details.error_info().expect("every error carries ErrorInfo");
    assert_eq!(told.domain, "jitgate.dev");
    told.reason.clone()
}

fn field(status: &Status) -> String {
    status
        .get_error_details()
        .bad_request()
        .unwrap()
        .field_violations[0]
        .field
        .clone()
}

struct Rig {
    served: Served,
    client: Client,
    alice: String,
    root: String,
}

async fn rig() -> Rig {
    let served = Served::start().await;
    let client = Client::new(served.channel().await);
    let (alice, root) = (
        served.provider.token("alice", &["sre"]),
        served.provider.token("root", &[]),
    );
    Rig {
        served,
        client,
        alice,
        root,
    }
}

#[tokio::test]
async fn access_is_asked_for_used_and_given_back_over_the_wire() {
    let Rig {
        served,
        mut client,
        alice,
        root,
    } = rig().await;
    let request = client
        .request_access(with(&alice, ask(5)))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(request.state(), v1::AccessRequestState::Approved);
    assert_eq!(request.requester, "user:https://idp.example|alice");
    assert_eq!(request.request_digest.len(), 64);
    let by_id = v1::GetGrantRequest {
        id: request.grant.clone(),
    };
    let grant = client
        .get_grant(with(&alice, by_id))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (grant.state(), grant.request),
        (v1::GrantState::Active, request.id.clone())
    );
    let lasts = grant.expire_time.unwrap().seconds - grant.not_before.unwrap().seconds;
    assert_eq!(lasts, 300);
    let why = v1::ExplainAccessRequest {
        service: "payments".into(),
        target: Some(v1::explain_access_request::Target::Grpc(
            "/pay.v1.Ledger/Balance".into(),
        )),
        ..Default::default()
    };
    let explained = client
        .explain_access(with(&alice, why.clone()))
        .await
        .unwrap()
        .into_inner();
    assert!(explained.allowed, "{explained:?}");
    assert_eq!(explained.grant.unwrap().id, request.grant);
    let release = v1::ReleaseGrantRequest {
        id: request.grant.clone(),
        ..Default::default()
    };
    let released = client
        .release_grant(with(&alice, release))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (released.state(), &*released.ended_by),
        (v1::GrantState::Released, "user:https://idp.example|alice")
    );
    let explained = client
        .explain_access(with(&alice, why))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (explained.allowed, &*explained.reason),
        (false, "GRANT_RELEASED")
    );
    assert_eq!(explained.requestable, ["payments"]);
    let listed = client
        .list_grants(with(&root, v1::ListGrantsRequest::default()))
        .await
        .unwrap()
        .into_inner();
    assert!(listed.grants.is_empty() && listed.revision > 0);
    served.stop().await.unwrap();
}

#[tokio::test]
async fn a_past_call_is_explained_by_what_was_in_force_then() {
    let Rig {
        served,
        mut client,
        alice,
        root: _,
    } = rig().await;
    let request = client.request_access(with(&alice, ask(5))).await.unwrap();
    let id = request.into_inner().grant;
    let by_id = v1::GetGrantRequest { id: id.clone() };
    let grant = client.get_grant(with(&alice, by_id)).await.unwrap();
    let issued_at = grant.into_inner().create_time.unwrap();
    let release = v1::ReleaseGrantRequest {
        id: id.clone(),
        ..Default::default()
    };
    let released = client.release_grant(with(&alice, release)).await.unwrap();
    let at = |at: Option<prost_types::Timestamp>| v1::ExplainAccessRequest {
        service: "payments".into(),
        target: Some(v1::explain_access_request::Target::Grpc(
            "/pay.v1.Ledger/Balance".into(),
        )),
        at,
        ..Default::default()
    };
    let then = client.explain_access(with(&alice, at(Some(issued_at))));
    let then = then.await.unwrap().into_inner();
    let grant = then.grant.unwrap();
    assert_eq!((then.allowed, &*then.reason), (true, ""));
    assert_eq!((grant.id.as_str(), grant.end_time), (&*id, None));
    assert_eq!(grant.state(), v1::GrantState::Active);
    let released_at = released.into_inner().end_time;
    for at_or_after in [released_at, None] {
        let since = client.explain_access(with(&alice, at(at_or_after)));
        let since = since.await.unwrap().into_inner();
        assert_eq!(
            (since.allowed, &*since.reason),
            (false, "GRANT_RELEASED"),
            "{at_or_after:?}"
        );
        assert_eq!(since.grant.unwrap().state(), v1::GrantState::Released);
        assert!(since.revision > then.revision);
    }
    let before_all = prost_types::Timestamp {
        seconds: issued_at.seconds - 86_400,
        nanos: 0,
    };
    let before = client.explain_access(with(&alice, at(Some(before_all))));
    let unknown = before.await.unwrap_err();
    assert_eq!(
        (unknown.code(), &*reason(&unknown)),
        (Code::FailedPrecondition, "HISTORY_UNKNOWN")
    );
    served.stop().await.unwrap();
}

#[tokio::test]
async fn a_revoke_over_the_wire_names_what_ended() {
    let Rig {
        served,
        mut client,
        alice,
        root,
    } = rig().await;
    client.request_access(with(&alice, ask(5))).await.unwrap();
    let all = v1::RevokeGrantsRequest {
        service: "payments".into(),
        wait: v1::RevokeWait::All.into(),
        ..Default::default()
    };
    let refused = client
        .revoke_grants(with(&alice, all.clone()))
        .await
        .unwrap_err();
    assert_eq!(
        (refused.code(), &*reason(&refused)),
        (Code::PermissionDenied, "NOT_ELIGIBLE")
    );
    let revoked = client
        .revoke_grants(with(&root, all))
        .await
        .unwrap()
        .into_inner();
    let enforced = revoked.enforcement.unwrap();
    assert_eq!((revoked.grants.len(), enforced.outstanding), (1, 0));
    assert_eq!(
        (revoked.grants[0].state(), &*revoked.grants[0].ended_by),
        (v1::GrantState::Revoked, ROOT)
    );
    served.stop().await.unwrap();
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one story, told in order")]
async fn a_grant_is_extended_held_back_and_let_go_over_the_wire() {
    let Rig {
        served,
        mut client,
        alice,
        root,
    } = rig().await;
    let grant = client
        .request_access(with(&alice, ask(5)))
        .await
        .unwrap()
        .into_inner()
        .grant;
    let duration = Some(prost_types::Duration {
        seconds: 300,
        nanos: 0,
    });
    let extend = v1::ExtendGrantRequest {
        id: grant.clone(),
        duration,
        options: Some(v1::WriteOptions {
            validate_only: true,
            ..Default::default()
        }),
        ..Default::default()
    };
    let would_be = client
        .extend_grant(with(&alice, extend.clone()))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (&*would_be.id, &*would_be.grant, &*would_be.etag),
        ("", "", "")
    );
    assert_eq!(
        (would_be.state(), &would_be.extends),
        (v1::AccessRequestState::Approved, &grant)
    );
    let extend = v1::ExtendGrantRequest {
        options: Some(v1::WriteOptions {
            request_id: "once".into(),
            ..Default::default()
        }),
        ..extend
    };
    let extended = client
        .extend_grant(with(&alice, extend.clone()))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        client
            .extend_grant(with(&alice, extend))
            .await
            .unwrap()
            .into_inner(),
        extended
    );
    let looked = client
        .get_grant(with(&root, v1::GetGrantRequest { id: grant.clone() }))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (looked.etag.len(), &looked.extended_by),
        (16, &extended.grant)
    );
    let suspend = v1::SuspendGrantRequest {
        id: grant.clone(),
        reason: "odd".into(),
        wait: v1::RevokeWait::All.into(),
        options: Some(v1::WriteOptions {
            etag: looked.etag.clone(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let held = client
        .suspend_grant(with(&root, suspend.clone()))
        .await
        .unwrap()
        .into_inner();
    let suspended = held.grant.unwrap();
    assert_eq!(
        (suspended.state(), &*suspended.suspended_by),
        (v1::GrantState::Suspended, ROOT)
    );
    assert_eq!(
        (held.enforcement.unwrap().outstanding, suspended.expire_time),
        (0, looked.expire_time)
    );
    let stale = client
        .suspend_grant(with(&root, suspend))
        .await
        .unwrap_err();
    assert_eq!(
        (stale.code(), &*reason(&stale)),
        (Code::Aborted, "ETAG_MISMATCH")
    );
    let resume = v1::ResumeGrantRequest {
        id: grant,
        ..Default::default()
    };
    let resumed = client
        .resume_grant(with(&root, resume.clone()))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(resumed.grant.unwrap().state(), v1::GrantState::Active);
    let twice = client.resume_grant(with(&root, resume)).await.unwrap_err();
    assert_eq!(
        (twice.code(), &*reason(&twice)),
        (Code::FailedPrecondition, "GRANT_NOT_SUSPENDED")
    );
    served.stop().await.unwrap();
}

#[tokio::test]
async fn requests_are_followed_over_the_wire_until_the_control_plane_stops() {
    use v1::watch_access_requests_response::Event;
    let Rig {
        served,
        mut client,
        alice,
        ..
    } = rig().await;
    let mine = v1::WatchAccessRequestsRequest {
        mine: true,
        ..Default::default()
    };
    let mut stream = client
        .watch_access_requests(with(&alice, mine))
        .await
        .unwrap()
        .into_inner();
    let mut next = async || {
        stream
            .next()
            .await
            .unwrap()
            .map(|message| message.event.unwrap())
    };
    assert!(matches!(next().await.unwrap(), Event::Listed(_)));
    let request = client
        .request_access(with(&alice, ask(30)))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(next().await.unwrap(), Event::Put(request));
    served.stop().await.unwrap();
    assert_eq!(reason(&next().await.unwrap_err()), "UNAVAILABLE");
}

#[tokio::test]
async fn nobody_gets_in_without_a_good_token() {
    let Rig {
        served, mut client, ..
    } = rig().await;
    let list = v1::ListGrantsRequest::default();
    let none = client.list_grants(list.clone()).await.unwrap_err();
    assert_eq!(
        (none.code(), &*reason(&none)),
        (Code::Unauthenticated, "CREDENTIAL_MISSING")
    );
    let foreign = client
        .list_grants(with("opaque", list.clone()))
        .await
        .unwrap_err();
    assert_eq!(
        (foreign.code(), &*reason(&foreign)),
        (Code::Unauthenticated, "TOKEN_ISSUER_UNKNOWN")
    );
    let forged = crate::control::testing::Provider::new().token("root", &[]);
    let forged = client.list_grants(with(&forged, list)).await.unwrap_err();
    assert_eq!(
        (forged.code(), &*reason(&forged)),
        (Code::Unauthenticated, "TOKEN_SIGNATURE_INVALID")
    );
    served.stop().await.unwrap();
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one story, told in order")]
async fn bad_input_is_named_by_its_field() {
    let Rig {
        served,
        mut client,
        alice,
        ..
    } = rig().await;
    let bad = [
        (
            v1::RequestAccessRequest {
                scope: None,
                ..ask(5)
            },
            "scope",
        ),
        (
            v1::RequestAccessRequest {
                subject: "alice".into(),
                ..ask(5)
            },
            "subject",
        ),
        (
            v1::RequestAccessRequest {
                via: vec!["x".into()],
                ..ask(5)
            },
            "via[0]",
        ),
        (
            v1::RequestAccessRequest {
                via: vec![ROOT.into()],
                ..ask(5)
            },
            "via[0]",
        ),
        (
            v1::RequestAccessRequest {
                reason: "\u{1b}[31m".into(),
                ..ask(5)
            },
            "reason",
        ),
        (
            v1::RequestAccessRequest {
                options: Some(v1::WriteOptions {
                    request_id: "x".repeat(65),
                    ..Default::default()
                }),
                ..ask(5)
            },
            "options.request_id",
        ),
        (
            v1::RequestAccessRequest {
                options: Some(v1::WriteOptions {
                    etag: "0123456789abcdef".into(),
                    ..Default::default()
                }),
                ..ask(5)
            },
            "options.etag",
        ),
        (
            v1::RequestAccessRequest {
                scope: Some(v1::Scope {
                    grpc: vec!["x".into()],
                    ..scope().unwrap()
                }),
                ..ask(5)
            },
            "scope.grpc[0]",
        ),
        (ask(-1), "duration"),
    ];
    for (message, name) in bad {
        let status = client
            .request_access(with(&alice, message))
            .await
            .unwrap_err();
        assert_eq!(
            (status.code(), &*reason(&status), &*field(&status)),
            (Code::InvalidArgument, "INVALID_ARGUMENT", name)
        );
    }
    let long = client
        .request_access(with(&alice, ask(120)))
        .await
        .unwrap_err();
    assert_eq!(
        (long.code(), &*reason(&long), &*field(&long)),
        (Code::InvalidArgument, "LIMIT_EXCEEDED", "duration")
    );
    let elsewhere = v1::RequestAccessRequest {
        scope: Some(v1::Scope {
            service: "hr".into(),
            ..scope().unwrap()
        }),
        ..ask(5)
    };
    let refused = client
        .request_access(with(&alice, elsewhere))
        .await
        .unwrap_err();
    assert_eq!(
        (refused.code(), &*reason(&refused)),
        (Code::PermissionDenied, "NO_POLICY")
    );
    let page = v1::ListGrantsRequest {
        page_token: "bogus".into(),
        ..Default::default()
    };
    assert_eq!(
        field(&client.list_grants(with(&alice, page)).await.unwrap_err()),
        "page_token"
    );
    let everything = client
        .revoke_grants(with(&alice, v1::RevokeGrantsRequest::default()))
        .await
        .unwrap_err();
    assert_eq!(field(&everything), "subject");
    served.stop().await.unwrap();
}

#[tokio::test]
async fn an_oversized_request_is_refused_and_the_connection_goes_on() {
    let Rig {
        served,
        mut client,
        alice,
        ..
    } = rig().await;
    let huge = v1::RequestAccessRequest {
        reason: "x".repeat(REQUEST_MAX + 1),
        ..ask(5)
    };
    assert_eq!(
        client
            .request_access(with(&alice, huge))
            .await
            .unwrap_err()
            .code(),
        Code::OutOfRange
    );
    client.request_access(with(&alice, ask(5))).await.unwrap();
    served.stop().await.unwrap();
}

#[tokio::test]
async fn watching_a_request_shows_each_state_and_ends_with_the_last() {
    let Rig {
        served,
        mut client,
        alice,
        ..
    } = rig().await;
    let request = client
        .request_access(with(&alice, ask(30)))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(request.state(), v1::AccessRequestState::Pending);
    let watch = v1::WatchAccessRequestRequest {
        id: request.id.clone(),
    };
    let mut stream = client
        .watch_access_request(with(&alice, watch))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        stream.next().await.unwrap().unwrap().state(),
        v1::AccessRequestState::Pending
    );
    let cancel = v1::CancelAccessRequestRequest {
        id: request.id,
        reason: "mistake".into(),
        ..Default::default()
    };
    client
        .cancel_access_request(with(&alice, cancel))
        .await
        .unwrap();
    let last = stream.next().await.unwrap().unwrap();
    assert_eq!(
        (last.state(), &*last.decision_reason),
        (v1::AccessRequestState::Cancelled, "mistake")
    );
    assert!(stream.next().await.is_none());
    served.stop().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_watch_is_renewed_after_an_hour() {
    let rig = crate::control::testing::Rig::start().await;
    let (alice, plane) = (crate::control::testing::alice(), rig.plane.clone());
    let asking = crate::control::testing::asking();
    let asking = crate::control::lifecycle::input::RequestInput {
        duration: Some(Duration::from_secs(1200)),
        ..asking
    };
    let id = plane.request_access(&alice, asking).await.unwrap().id;
    let api = Api::new(plane, CancellationToken::new());
    let mut watch = Request::new(v1::WatchAccessRequestRequest { id: id.to_string() });
    watch.extensions_mut().insert(Identified(Ok(alice)));
    let mut stream = api.watch_access_request(watch).await.unwrap().into_inner();
    assert_eq!(
        stream.next().await.unwrap().unwrap().state(),
        v1::AccessRequestState::Pending
    );
    let begun = Instant::now();
    assert_eq!(
        stream.next().await.unwrap().unwrap_err().code(),
        Code::Unavailable
    );
    assert!(begun.elapsed() >= watch::WATCH_AGE_MAX);
}

#[tokio::test]
async fn an_open_watch_does_not_hold_up_the_stop_and_the_store_can_be_opened_again() {
    let Rig {
        served,
        mut client,
        alice,
        ..
    } = rig().await;
    let request = client
        .request_access(with(&alice, ask(30)))
        .await
        .unwrap()
        .into_inner();
    let watch = v1::WatchAccessRequestRequest { id: request.id };
    let mut stream = client
        .watch_access_request(with(&alice, watch))
        .await
        .unwrap()
        .into_inner();
    stream.next().await.unwrap().unwrap();
    let directory = Arc::clone(&served.directory);
    served.stop().await.unwrap();
    assert_eq!(
        reason(&stream.next().await.unwrap().unwrap_err()),
        "UNAVAILABLE"
    );
    let again = Served::start_in(directory, &[]).await;
    let mut client = Client::new(again.channel().await);
    let token = again.provider.token("alice", &[]);
    let listed = client
        .list_access_requests(with(&token, v1::ListAccessRequestsRequest::default()))
        .await
        .unwrap();
    assert_eq!(listed.into_inner().access_requests.len(), 1);
    again.stop().await.unwrap();
}

#[tokio::test]
async fn a_sidecar_watches_only_with_an_entitlement_once_there_is_one() {
    let entitle = "--entitle=user:https://idp.example|side=payments";
    let served = Served::start_in(Arc::new(tempfile::tempdir().unwrap()), &[entitle]).await;
    let mut client = EnforcerServiceClient::new(served.channel().await);
    let subscribe = || {
        let services = vec!["payments".to_owned()];
        let instance = ulid::Ulid::from_parts(1, 1).to_string();
        let subscribe = v1::Subscribe {
            sidecar: "s".into(),
            instance,
            services,
            ..Default::default()
        };
        let message = Some(v1::watch_grants_request::Message::Subscribe(subscribe));
        tokio_stream::once(v1::WatchGrantsRequest { message }).chain(tokio_stream::pending())
    };
    let mut refused = client.watch_grants(subscribe()).await.unwrap().into_inner();
    assert_eq!(
        refused.next().await.unwrap().unwrap_err().code(),
        Code::Unauthenticated
    );
    let alice = served.provider.token("alice", &[]);
    let mut refused = client
        .watch_grants(with(&alice, subscribe()))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        reason(&refused.next().await.unwrap().unwrap_err()),
        "NOT_ELIGIBLE"
    );
    let side = served.provider.token("side", &[]);
    let mut watching = client
        .watch_grants(with(&side, subscribe()))
        .await
        .unwrap()
        .into_inner();
    assert!(watching.next().await.unwrap().is_ok());
    served.stop().await.unwrap();
}

#[tokio::test]
async fn a_changed_policy_file_takes_effect_and_a_bad_one_does_not() {
    let Rig {
        served,
        mut client,
        alice,
        root,
    } = rig().await;
    let file = served.directory.path().join("policies/all.yaml");
    let version = async |client: &mut Client| {
        let listed = client
            .list_policies(with(&root, v1::ListPoliciesRequest {}))
            .await
            .unwrap()
            .into_inner();
        listed.policies[0].version
    };
    assert_eq!(version(&mut client).await, 1);
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("max: 1h", "max: 3h")).unwrap();
    while version(&mut client).await == 1 {
        tokio::task::yield_now().await;
    }
    client.request_access(with(&alice, ask(120))).await.unwrap();
    served.stop().await.unwrap();
}

async fn fetch(address: std::net::SocketAddr, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn probes_have_a_listener_that_shows_nothing_else_and_nobodys_name() {
    let Rig {
        served,
        mut client,
        alice,
        ..
    } = rig().await;
    client.request_access(with(&alice, ask(5))).await.unwrap();
    for (path, status) in [
        ("/livez", 200),
        ("/readyz", 200),
        ("/metrics", 200),
        ("/.well-known/jwks.json", 404),
        ("/grants", 404),
        ("/", 404),
    ] {
        let answer = fetch(served.probes, path).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{path}: {answer}"
        );
        assert!(!answer.contains("alice"), "{path}: {answer}");
    }
    let metrics = fetch(served.probes, "/metrics").await;
    for room in ["grpc opening", "grpc open", "watches", "http", "probes"] {
        let places = format!("jitgate_admission_places{{room=\"{room}\"}} ");
        assert!(metrics.contains(&places), "{places} in {metrics}");
    }
    served.stop().await.unwrap();
}

#[tokio::test]
async fn health_and_metrics_are_served() {
    let Rig {
        served,
        mut client,
        alice,
        ..
    } = rig().await;
    client.request_access(with(&alice, ask(5))).await.unwrap();
    let mut health = tonic_health::pb::health_client::HealthClient::new(served.channel().await);
    let check = tonic_health::pb::HealthCheckRequest {
        service: "jitgate.v1.AccessService".into(),
    };
    assert_eq!(health.check(check).await.unwrap().into_inner().status, 1);
    let get = async |path: &str| fetch(served.http, path).await;
    assert!(get("/readyz").await.starts_with("HTTP/1.1 200"));
    let metrics = get("/metrics").await;
    for line in [
        "jitgate_requests_total{outcome=\"APPROVED\"} 1",
        "jitgate_store_revision 3",
        "jitgate_audit_index 6",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    served.stop().await.unwrap();
}

#[tokio::test]
async fn one_trace_runs_from_the_caller_over_the_request_to_the_grant() {
    use opentelemetry::trace::TracerProvider as _;
    use tracing_subscriber::layer::SubscriberExt as _;
    // With one subscriber alive, `tracing` asks only the thread that first reaches a span whether anybody listens; the
    // other tests' threads would say no for this one too. With two it asks both.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let provider = opentelemetry_sdk::trace::SdkTracerProvider::builder().build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
    let Rig {
        served,
        mut client,
        alice,
        ..
    } = rig().await;
    let mut asked = with(&alice, ask(5));
    let trace_id = "4bf92f3577b34da6a3ce929d0e0e4736";
    let parent = format!("00-{trace_id}-00f067aa0ba902b7-01");
    asked
        .metadata_mut()
        .insert("traceparent", parent.parse().unwrap());
    let request = client.request_access(asked).await.unwrap().into_inner();
    let by_id = v1::GetGrantRequest {
        id: request.grant.clone(),
    };
    let grant = client
        .get_grant(with(&alice, by_id))
        .await
        .unwrap()
        .into_inner();
    for own in [&request.traceparent, &grant.traceparent] {
        assert!(
            own.starts_with(&format!("00-{trace_id}-")) && *own != parent,
            "{own}"
        );
    }
    assert_ne!(
        request.traceparent, grant.traceparent,
        "the issue is a span of its own"
    );
    served.stop().await.unwrap();
}

#[tokio::test]
async fn a_workload_asks_by_its_certificate_over_tls() {
    const CHECKOUT: &str = "spiffe://td.example/ns/shop/sa/checkout";
    let directory = Arc::new(tempfile::tempdir().unwrap());
    let pki = crate::control::testing::Pki::new(directory.path());
    let (server, client) = (
        pki.issue("server", None),
        pki.issue("client", Some(CHECKOUT)),
    );
    let flag = |name: &str, path: &std::path::Path| format!("--{name}={}", path.display());
    let flags = [
        flag("tls-cert", &server.cert),
        flag("tls-key", &server.key),
        flag("tls-client-ca", &pki.ca),
        format!("--admin={CHECKOUT}"),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let served = Served::start_in(Arc::clone(&directory), &flags).await;
    let connect = |identity| {
        let tls = crate::tls::client_config(pki.ca.clone(), identity).unwrap();
        let url = format!("https://127.0.0.1:{}", served.grpc.port());
        Client::new(
            crate::tls::route("--server", &url, Some(tls), false)
                .unwrap()
                .lazy(),
        )
    };
    let fleet = connect(Some(client))
        .list_sidecars(v1::ListSidecarsRequest {})
        .await
        .unwrap();
    assert!(fleet.into_inner().sidecars.is_empty());
    let nobody = connect(None)
        .list_sidecars(v1::ListSidecarsRequest {})
        .await
        .unwrap_err();
    assert_eq!(reason(&nobody), "CREDENTIAL_MISSING");
    served.stop().await.unwrap();
}

#[tokio::test]
async fn approvals_over_many_connections_lose_none_and_issue_one_grant() {
    const APPROVAL: &str = "\n  approval: {stages: [{name: s, steps: [{name: people, \
                            approvers: ['group:https://idp.example|leads'], approvals: 40}]}]}\n";
    let directory = Arc::new(tempfile::tempdir().unwrap());
    std::fs::create_dir(directory.path().join("policies")).unwrap();
    let policies = format!("{}{APPROVAL}", crate::control::testing::POLICIES.trim_end());
    std::fs::write(directory.path().join("policies/all.yaml"), policies).unwrap();
    let served = Served::start_in(directory, &[]).await;
    let mut client = Client::new(served.channel().await);
    let alice = served.provider.token("alice", &["leads"]);
    let request = client
        .request_access(with(&alice, ask(30)))
        .await
        .unwrap()
        .into_inner();
    let review = v1::ApproveRequestRequest {
        id: request.id.clone(),
        request_digest: request.request_digest.clone(),
        reason: "fine".into(),
        ..Default::default()
    };
    let own = client
        .approve_request(with(&alice, review.clone()))
        .await
        .unwrap_err();
    assert_eq!(
        (own.code(), &*reason(&own)),
        (Code::FailedPrecondition, "SELF_APPROVAL")
    );
    let other = v1::ApproveRequestRequest {
        request_digest: "0".repeat(64),
        ..review.clone()
    };
    let lead = served.provider.token("p0", &["leads"]);
    let void = client
        .approve_request(with(&lead, other))
        .await
        .unwrap_err();
    assert_eq!(
        (void.code(), &*reason(&void)),
        (Code::FailedPrecondition, "DIGEST_MISMATCH")
    );
    let absent = v1::DenyRequestRequest {
        id: request.id.clone(),
        ..Default::default()
    };
    assert_eq!(
        field(&client.deny_request(with(&lead, absent)).await.unwrap_err()),
        "request_digest"
    );

    let mut all = tokio::task::JoinSet::new();
    for n in 0..50 {
        let mut client = Client::new(served.channel().await);
        let approval = with(
            &served.provider.token(&format!("p{n}"), &["leads"]),
            review.clone(),
        );
        all.spawn(async move { client.approve_request(approval).await });
    }
    let all = all.join_all().await;
    let late: Vec<_> = all
        .iter()
        .filter_map(|answer| answer.as_ref().err())
        .collect();
    assert_eq!(late.len(), 10);
    assert!(
        late.iter().all(|status| (status.code(), &*reason(status))
            == (Code::FailedPrecondition, "STATE_TERMINAL"))
    );
    let by_id = v1::GetAccessRequestRequest { id: request.id };
    let last = client
        .get_access_request(with(&lead, by_id))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (last.state(), last.reviews.len()),
        (v1::AccessRequestState::Approved, 40)
    );
    assert_eq!(
        (
            last.progress[0].have,
            last.progress[0].need,
            &*last.reviews[0].step
        ),
        (40, 40, "people")
    );
    let listed = client
        .list_grants(with(&alice, v1::ListGrantsRequest::default()))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        listed
            .grants
            .iter()
            .map(|grant| &grant.id)
            .collect::<Vec<_>>(),
        [&last.grant]
    );
    served.stop().await.unwrap();
}
