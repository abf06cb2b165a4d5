//! One trace from the caller through Envoy to the decision, and a link from the decision to the approval.

use crate::Mesh;
use crate::support::otlp_sink::{Sink, attribute};
use crate::support::process::wait_until;
use crate::support::world::Settings;

#[tokio::test(flavor = "multi_thread")]
async fn each_decision_is_a_child_of_envoys_check_and_linked_to_the_approval() {
    let sink = Sink::default();
    let port = sink.serve().await;
    let mut mesh = Mesh::start(Settings {
        otlp: Some(port),
        ..Settings::default()
    })
    .await;
    assert_eq!(
        mesh.call("alice", "/v1/users/7?secret=hunter2")
            .await
            .status,
        403
    );
    let grant = mesh.grant("alice", "GET /v1/users/{id}", "10m");
    mesh.until("alice", "/v1/users/7?secret=hunter2", 200).await;
    let allowed = || {
        let spans = sink.spans();
        let check = spans.iter().find(|(_, span)| {
            span.name == "jitgate.check"
                && attribute(span, "jitgate.grant.id") == grant
                && attribute(span, "jitgate.decision") == "allow"
        });
        check.map(|(_, span)| span.clone())
    };
    let envoy = |span: &opentelemetry_proto::tonic::trace::v1::Span| {
        sink.spans().into_iter().find(|(service, other)| {
            service == "envoy-payments" && other.span_id == span.parent_span_id
        })
    };
    tokio::task::block_in_place(|| {
        wait_until("the decision's and its parent's spans", || {
            allowed().is_some_and(|span| envoy(&span).is_some())
        });
    });
    let check = allowed().unwrap();
    let (_, parent) = envoy(&check).unwrap();
    assert_eq!(check.trace_id, parent.trace_id, "one trace");
    assert!(
        parent.name.contains("Authorization.Check"),
        "{}",
        parent.name
    );

    assert_eq!(check.links.len(), 1, "{check:?}");
    let approved = || {
        let of_approval = |service: &str, trace: &[u8]| {
            service == "control-plane" && trace == check.links[0].trace_id
        };
        sink.spans()
            .iter()
            .any(|(service, span)| of_approval(service, &span.trace_id))
    };
    tokio::task::block_in_place(|| {
        wait_until("the control plane's span that the link leads to", approved)
    });

    let everything = format!("{:?}", sink.spans());
    let token = mesh.world.identities.token("alice", &["sre"]);
    let signature = token.rsplit('.').next().unwrap();
    let ours = sink
        .spans()
        .into_iter()
        .filter(|(service, _)| service != "envoy-payments");
    assert!(
        !format!("{:?}", ours.collect::<Vec<_>>()).contains("hunter2"),
        "a query string was recorded"
    );
    assert!(!everything.contains(signature), "a credential was recorded");
}
