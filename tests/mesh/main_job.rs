//! Refused, granted, used, ended: the life of one grant as a caller sees it.

use serde_json::Value;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use tonic_types::StatusExt;

use crate::Mesh;
use crate::support::process::{http_get_with, wait_until};
use crate::support::raw_http::Answer;
use crate::support::world::{Settings, World};

fn problem(answer: &Answer) -> Value {
    assert_eq!(
        answer.header("content-type"),
        "application/problem+json",
        "{answer:?}"
    );
    serde_json::from_str(&answer.body).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_is_refused_asks_is_served_and_is_refused_again_when_time_is_up() {
    let mut mesh = Mesh::start(Settings::default()).await;
    let refused = mesh.call("alice", "/v1/users/7").await;
    assert_eq!(
        (refused.status, refused.header("x-jitgate-reason")),
        (403, "NO_GRANT"),
        "{refused:?}"
    );
    assert!(!refused.header("x-jitgate-decision-id").is_empty());
    let problem = problem(&refused);
    assert_eq!(
        (&problem["status"], &problem["reason"]),
        (&Value::from(403), &Value::from("NO_GRANT")),
        "{problem}"
    );
    assert!(
        refused.body.contains("jitgate request --service payments"),
        "{}",
        refused.body
    );

    mesh.grant("alice", "GET /v1/users/{id}", "3s");
    let served = mesh.until("alice", "/v1/users/7", 200).await;
    assert_eq!(served.header("x-seen-path"), "/v1/users/7");
    assert!(served.body.contains("x-jitgate-grant"), "{}", served.body);
    assert!(
        !served.body.contains("x-envoy-upstream-stream-duration-ms"),
        "the bound is between us and Envoy"
    );

    assert_eq!(
        mesh.call("bob", "/v1/users/7")
            .await
            .header("x-jitgate-reason"),
        "NO_GRANT"
    );
    assert_eq!(
        mesh.call("alice", "/v1/keys/7")
            .await
            .header("x-jitgate-reason"),
        "SCOPE_MISMATCH"
    );

    let ended = mesh.until("alice", "/v1/users/7", 403).await;
    assert_eq!(
        ended.header("x-jitgate-reason"),
        "GRANT_EXPIRED",
        "{ended:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_grant_refuses_and_the_other_one_lives() {
    let mut mesh = Mesh::start(Settings::default()).await;
    let first = mesh.grant("alice", "GET /v1/users/{id}", "10m");
    mesh.grant("bob", "GET /v1/users/{id}", "10m");
    mesh.until("alice", "/v1/users/7", 200).await;
    mesh.until("bob", "/v1/users/7", 200).await;
    let (code, _, err) = tokio::task::block_in_place(|| {
        mesh.world.jitgate(
            "root",
            &["admins"],
            &["revoke", &first, "--reason", "a test", "--wait", "all"],
        )
    });
    assert_eq!(code, Some(0), "{err}");
    // `--wait all` returned: the sidecar has applied it, so the very next call is refused.
    let refused = mesh.call("alice", "/v1/users/7").await;
    assert_eq!(
        (refused.status, refused.header("x-jitgate-reason")),
        (403, "GRANT_REVOKED"),
        "{refused:?}"
    );
    assert_eq!(mesh.call("bob", "/v1/users/7").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_and_absent_credentials_are_told_apart() {
    let mut mesh = Mesh::start(Settings::default()).await;
    mesh.grant("alice", "GET /v1/users/{id}", "10m");
    mesh.until("alice", "/v1/users/7", 200).await;
    let good = mesh.world.identities.token("alice", &["sre"]);
    let expired = serde_json::json!({"iss": crate::support::identity::ISSUER, "sub": "alice", "aud": "jitgate", "exp": 1_000_000});
    let expired = mesh.world.identities.sign(&expired);
    let tampered = format!("{}AAAA", &good[..good.len() - 4]);
    for (token, status, reason) in [
        (expired.as_str(), 401, "TOKEN_EXPIRED"),
        (tampered.as_str(), 401, "TOKEN_SIGNATURE_INVALID"),
        // Not ours to judge: the application's own token. The workload at the other end holds no grant.
        ("opaque-application-token", 403, "NO_GRANT"),
    ] {
        let bearer = format!("Bearer {token}");
        let answer = mesh
            .call_with(b"/v1/users/7", &[("authorization", &bearer)])
            .await;
        assert_eq!(
            (answer.status, answer.header("x-jitgate-reason")),
            (status, reason),
            "{answer:?}"
        );
        assert!(!answer.body.contains(token), "a credential came back");
        if status == 401 {
            assert!(
                answer.header("www-authenticate").starts_with("Bearer"),
                "{answer:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_cannot_forge_what_the_sidecar_says() {
    let mut mesh = Mesh::start(Settings::default()).await;
    mesh.grant("alice", "GET /v1/users/{id}", "10m");
    mesh.until("alice", "/v1/users/7", 200).await;
    let bearer = format!("Bearer {}", mesh.world.identities.token("alice", &["sre"]));
    let forged = [
        ("authorization", bearer.as_str()),
        ("x-jitgate-grant", "FORGED"),
        ("x-jitgate-subject", "FORGED"),
        ("x-jitgate-anything", "FORGED"),
        ("x-jitgate-foo9", "FORGED"),
        ("x-jitgate-a.b", "FORGED"),
        ("x-envoy-upstream-stream-duration-ms", "999999999"),
    ];
    let answer = mesh.call_with(b"/v1/users/7", &forged).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(!answer.body.contains("FORGED"), "{}", answer.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_caller_reads_the_reason_from_error_info() {
    let mesh = Mesh::start(Settings::default()).await;
    let read = |path: &std::path::Path| std::fs::read(path).unwrap();
    let client = &mesh.world.client;
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read(&client.ca)))
        .identity(Identity::from_pem(read(&client.cert), read(&client.key)))
        .domain_name("localhost");
    let address = format!("https://localhost:{}", mesh.world.envoy_port);
    let channel = Endpoint::from_shared(address)
        .unwrap()
        .tls_config(tls)
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static("/pay.v1.Ledger/GetBalance");
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let status = grpc
        .unary(tonic::Request::new(()), path, codec)
        .await
        .unwrap_err();
    assert_eq!(status.code(), tonic::Code::PermissionDenied, "{status:?}");
    let info = status
        .get_details_error_info()
        .unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!(
        (info.reason.as_str(), info.domain.as_str()),
        ("NO_GRANT", "jitgate.dev")
    );
    assert_eq!(
        status.metadata().get("x-jitgate-reason").unwrap(),
        "NO_GRANT"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_minimal_configuration_refuses_and_serves_by_token_alone() {
    let upstream = crate::upstream::serve().await;
    tokio::task::block_in_place(|| {
        let world = World::with_minimal_envoy(Settings::default(), upstream);
        let get = |headers: &str| http_get_with(world.envoy_port, "/v1/users/7", headers).unwrap();
        let (status, body) = get("");
        assert_eq!(
            (status, body.contains("CREDENTIAL_MISSING")),
            (401, true),
            "{body}"
        );
        let bearer = format!(
            "authorization: Bearer {}\r\n",
            world.identities.token("alice", &["sre"])
        );
        let (status, body) = get(&bearer);
        assert_eq!((status, body.contains("NO_GRANT")), (403, true), "{body}");
        let ask = [
            "request",
            "--service",
            "payments",
            "--http",
            "GET /v1/users/7",
            "--for",
            "1m",
            "--reason",
            "a test",
        ];
        world.jitgate_json("alice", &["sre"], &ask);
        wait_until("the grant is in force", || get(&bearer).0 == 200);
    });
}
