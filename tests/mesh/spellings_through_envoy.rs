//! Ten thousand request lines, through Envoy and straight to the sidecar: no spelling of an ungranted path is ever allowed.

use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::Mesh;
use crate::support::spellings::{Seeded, bent, canonical, is_granted};
use crate::support::world::{Settings, World};

const LINES: usize = 10_000;

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_an_ungranted_path_is_allowed_and_no_canonical_granted_one_refused() {
    let mut mesh = Mesh::start(Settings::default()).await;
    mesh.grant("alice", "GET /v1/users/{id}", "30m");
    mesh.until("alice", "/v1/users/7", 200).await;
    let bearer = format!("Bearer {}", mesh.world.identities.token("alice", &["sre"]));
    let mut sidecar = straight(&mesh.world).await;
    let mut rng = Seeded::new(2026);
    let (mut served, mut allowed) = (0, 0);
    for i in 0..LINES {
        let known_good = i % 4 == 0;
        let target = if known_good {
            canonical(&mut rng)
        } else {
            bent(&mut rng)
        };
        let shown = String::from_utf8_lossy(&target).into_owned();

        let sendable = !target.is_empty()
            && !target
                .iter()
                .any(|byte| matches!(byte, b' ' | b'\r' | b'\n' | 0));
        if sendable {
            let answer = mesh.call_with(&target, &[("authorization", &bearer)]).await;
            assert!(
                !known_good || answer.status == 200,
                "{shown} was refused: {answer:?}"
            );
            if answer.status == 200 {
                served += 1;
                let seen = answer.header("x-seen-path");
                assert!(
                    is_granted(seen.as_bytes()),
                    "{shown} reached the upstream as {seen}"
                );
            }
        }

        // A protobuf string is UTF-8; Envoy itself puts '!' for what is not.
        let code = check(&mut sidecar, &shown, &bearer).await;
        assert!(
            !known_good || code == 0,
            "{shown} was refused by the sidecar"
        );
        if code == 0 {
            allowed += 1;
            assert!(is_granted(shown.as_bytes()), "the sidecar allowed {shown}");
        }
    }
    println!(
        "measured: of {LINES} lines Envoy served {served}, the sidecar by itself allowed {allowed}"
    );
    assert!(served >= LINES / 4 && allowed >= LINES / 4);
}

/// A channel to the sidecar's own socket.
pub async fn straight(world: &World) -> AuthorizationClient<Channel> {
    let socket = world.path("authz.sock");
    let connect = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move {
            tokio::net::UnixStream::connect(socket)
                .await
                .map(TokioIo::new)
        }
    });
    let endpoint = Endpoint::from_static("http://jitgate.local");
    AuthorizationClient::new(endpoint.connect_with_connector(connect).await.unwrap())
}

async fn check(sidecar: &mut AuthorizationClient<Channel>, path: &str, bearer: &str) -> i32 {
    let http = HttpRequest {
        method: "GET".into(),
        path: path.into(),
        headers: [("authorization".to_owned(), bearer.to_owned())].into(),
        ..Default::default()
    };
    let attributes = AttributeContext {
        request: Some(Request {
            http: Some(http),
            ..Default::default()
        }),
        ..Default::default()
    };
    let answer = sidecar
        .check(CheckRequest {
            attributes: Some(attributes),
        })
        .await
        .unwrap()
        .into_inner();
    answer.status.map_or(0, |status| status.code)
}
