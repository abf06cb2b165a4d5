//! jitgate's own tokens through a real Envoy: issued for one workload, presented, bound, revoked, and ahead of a slow sidecar.

use std::time::{Duration, Instant};

use jitgate_client::v1::IssueTokenRequest;
use jitgate_client::v1::token_service_client::TokenServiceClient;

use crate::Mesh;
use crate::support::caller::Caller;
use crate::support::gate::Gate;
use crate::support::process::wait_until;
use crate::support::raw_http::{Answer, Connection, connector};
use crate::support::world::Settings;

const CHECKOUT: &str = "spiffe://td.test/ns/shop/sa/checkout";

impl Mesh {
    /// Alice's token for her grant, for the checkout workload to present.
    async fn token(&self, grant: &str) -> String {
        let caller = Caller::connect(&self.world, "alice", &["sre"]);
        let ask = IssueTokenRequest {
            grant: grant.into(),
            workload: CHECKOUT.into(),
            duration: None,
        };
        let mut client = TokenServiceClient::new(caller.channel());
        client
            .issue_token(caller.with(ask))
            .await
            .unwrap()
            .into_inner()
            .token
    }

    async fn present(&mut self, token: &str) -> Answer {
        self.call_with(b"/v1/users/7", &[("x-jitgate-token", token)])
            .await
    }
}

fn verdict(answer: &Answer) -> (u16, &str) {
    (answer.status, answer.header("x-jitgate-reason"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens_its_grant_to_its_workload_until_the_grant_is_revoked() {
    let mut mesh = Mesh::start(Settings::default()).await;
    let grant = mesh.grant("alice", "GET /v1/users/{id}", "10m");
    let token = mesh.token(&grant).await;
    let served = mesh.present(&token).await;
    assert_eq!(
        (served.status, served.header("x-seen-path")),
        (200, "/v1/users/7"),
        "{served:?}"
    );
    assert!(served.body.contains("x-jitgate-grant"), "{}", served.body);
    assert!(
        !served.body.contains("x-jitgate-token"),
        "the upstream has no use for it: {}",
        served.body
    );
    let without = mesh.call_with(b"/v1/users/7", &[]).await;
    assert_eq!(
        verdict(&without),
        (403, "NO_GRANT"),
        "the workload itself holds nothing"
    );

    let other = mesh
        .world
        .identities
        .certificate("other", "ns/shop/sa/other");
    let mut connection = Connection::open(&connector(&other), mesh.world.envoy_port)
        .await
        .unwrap();
    let refused = connection
        .request("GET", b"/v1/users/7", &[("x-jitgate-token", &token)])
        .await
        .unwrap();
    assert_eq!(
        verdict(&refused),
        (401, "TOKEN_BINDING_MISMATCH"),
        "{refused:?}"
    );
    assert!(
        !refused.body.contains(&token) && !refused.header("www-authenticate").is_empty(),
        "{refused:?}"
    );
    let forged = format!("{}A", &token[..token.len() - 1]);
    let forged = if forged == token {
        format!("{}Q", &token[..token.len() - 1])
    } else {
        forged
    };
    assert_eq!(
        verdict(&mesh.present(&forged).await),
        (401, "TOKEN_SIGNATURE_INVALID")
    );

    let (code, _, err) = tokio::task::block_in_place(|| {
        mesh.world.jitgate(
            "root",
            &["admins"],
            &["revoke", &grant, "--reason", "a test", "--wait", "all"],
        )
    });
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(verdict(&mesh.present(&token).await), (403, "GRANT_REVOKED"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_lags_says_that_it_does_and_serves_once_it_has_caught_up() {
    let mut mesh = Mesh::start(Settings::default()).await;
    let gate = Gate::before(mesh.world.grpc_port).await;
    mesh.world.sidecar.take().unwrap().kill();
    mesh.world.start_sidecar_through(gate.port);
    let world = &mesh.world;
    tokio::task::block_in_place(|| wait_until("the sidecar is back", || world.sidecar_ready()));
    // It has the token keys, and is in step.
    let first = mesh.grant("alice", "GET /v1/users/{id}", "10m");
    let known = mesh.token(&first).await;
    assert_eq!(verdict(&mesh.present(&known).await), (200, ""));

    gate.close();
    let second = mesh.grant("alice", "GET /v1/users/{id}", "20m");
    let ahead = mesh.token(&second).await;
    let start = Instant::now();
    let early = mesh.present(&ahead).await;
    println!(
        "measured: GRANT_NOT_YET_VISIBLE after {:.0} ms",
        start.elapsed().as_secs_f64() * 1e3
    );
    assert_eq!(verdict(&early), (503, "GRANT_NOT_YET_VISIBLE"), "{early:?}");
    assert!(!early.header("retry-after").is_empty(), "{early:?}");
    assert_eq!(
        verdict(&mesh.present(&known).await),
        (200, ""),
        "what is known goes on"
    );

    gate.open();
    let deadline = Instant::now() + Duration::from_secs(20);
    while mesh.present(&ahead).await.status != 200 {
        assert!(Instant::now() < deadline, "it never catches up");
    }
}
