//! How soon a change is enforced, as a caller through Envoy sees it. The figures are printed; only the order of things is asserted.

use std::time::{Duration, Instant};

use jitgate_client::v1::AccessRequestState;
use tonic::Code;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::Mesh;
use crate::support::caller::Caller;
use crate::support::process::http_get;
use crate::support::world::{Settings, World};

const ROUNDS: usize = 50;

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_and_its_revocation_are_enforced_soon_after_they_are_answered() {
    let mesh = Mesh::start(Settings::default()).await;
    let mut control = Caller::connect(&mesh.world, "alice", &["sre"]);
    let mut envoy = Through::connect(&mesh.world).await;
    let (mut granted, mut revoked) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let method = format!("/pay.v1.Ledger/Method{round}");
        assert_eq!(envoy.call(&method).await, Code::PermissionDenied);
        let request = control.ask(&method, &method).await.unwrap();
        assert_eq!(request.state(), AccessRequestState::Approved);
        granted.push(envoy.until(&method, false).await);
        control.revoke(&request.grant).await.unwrap();
        revoked.push(envoy.until(&method, true).await);
    }
    let (_, metrics) = http_get(mesh.world.admin_port, "/metrics").unwrap();
    let count = metrics
        .lines()
        .find_map(|line| line.strip_prefix("jitgate_propagation_duration_seconds_count "));
    assert!(
        count.and_then(|count| count.parse().ok()).unwrap_or(0) >= ROUNDS,
        "each change is measured: {count:?}"
    );
    report("answered request to first allowed call", granted);
    report("answered revoke to first refused call", revoked);
}

/// A gRPC client of Envoy that carries alice's token.
struct Through {
    grpc: tonic::client::Grpc<Channel>,
    bearer: String,
}

impl Through {
    async fn connect(world: &World) -> Self {
        let read = |path: &std::path::Path| std::fs::read(path).unwrap();
        let client = &world.client;
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(read(&client.ca)))
            .identity(Identity::from_pem(read(&client.cert), read(&client.key)))
            .domain_name("localhost");
        let address = format!("https://localhost:{}", world.envoy_port);
        let channel = Endpoint::from_shared(address)
            .unwrap()
            .tls_config(tls)
            .unwrap()
            .connect()
            .await
            .unwrap();
        let bearer = format!("Bearer {}", world.identities.token("alice", &["sre"]));
        Self {
            grpc: tonic::client::Grpc::new(channel),
            bearer,
        }
    }

    /// The status of one call. The upstream speaks no gRPC, so an allowed call is anything but a refusal.
    async fn call(&mut self, method: &str) -> Code {
        self.grpc.ready().await.unwrap();
        let mut request = tonic::Request::new(());
        request
            .metadata_mut()
            .insert("authorization", self.bearer.parse().unwrap());
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        let path: http::uri::PathAndQuery = method.parse().unwrap();
        self.grpc
            .unary(request, path, codec)
            .await
            .map_or_else(|status| status.code(), |_| Code::Ok)
    }

    /// How long until calls are (not) refused, from now.
    async fn until(&mut self, method: &str, refused: bool) -> Duration {
        let start = Instant::now();
        while (self.call(method).await == Code::PermissionDenied) != refused {
            assert!(
                start.elapsed() < crate::process::PATIENCE,
                "nothing changes"
            );
        }
        start.elapsed()
    }
}

fn report(what: &str, mut spans: Vec<Duration>) {
    spans.sort_unstable();
    let ms = |span: Duration| span.as_secs_f64() * 1e3;
    let (half, most) = (spans[spans.len() / 2], spans[spans.len() - 1]);
    println!(
        "measured: {what}: median {:.1} ms, longest of {} {:.1} ms",
        ms(half),
        spans.len(),
        ms(most)
    );
}
