//! The traces as a real Jaeger shows them. Runs by `make test-jaeger` only, which builds Jaeger first.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::Mesh;
use crate::support::process::{Process, free_port, http_get, wait_until};
use crate::support::world::Settings;

/// Jaeger with its traces in memory, on these ports.
fn configuration(otlp: u16, http: u16, grpc: u16) -> String {
    format!(
        "service:
  extensions: [jaeger_storage, jaeger_query]
  pipelines:
    traces: {{receivers: [otlp], processors: [batch], exporters: [jaeger_storage_exporter]}}
  telemetry: {{metrics: {{level: none}}}}
extensions:
  jaeger_storage: {{backends: {{memory: {{memory: {{max_traces: 10000}}}}}}}}
  jaeger_query: {{storage: {{traces: memory}}, http: {{endpoint: 127.0.0.1:{http}}}, grpc: {{endpoint: 127.0.0.1:{grpc}}}}}
receivers:
  otlp: {{protocols: {{grpc: {{endpoint: 127.0.0.1:{otlp}}}}}}}
processors:
  batch: {{timeout: 200ms}}
exporters:
  jaeger_storage_exporter: {{trace_storage: memory}}
"
    )
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Jaeger: make test-jaeger"]
async fn jaeger_shows_the_decision_below_envoys_check_and_its_link_to_the_approval() {
    let program = std::env::var_os("JITGATE_JAEGER")
        .map(PathBuf::from)
        .expect("make test-jaeger sets JITGATE_JAEGER");
    let dir = tempfile::tempdir().unwrap();
    let (otlp, http) = (free_port(), free_port());
    fs::write(
        dir.path().join("jaeger.yaml"),
        configuration(otlp, http, free_port()),
    )
    .unwrap();
    let arguments = [
        "--config".to_owned(),
        dir.path()
            .join("jaeger.yaml")
            .to_string_lossy()
            .into_owned(),
    ];
    // Its own traces are nobody's business here.
    let quiet = [("OTEL_TRACES_SAMPLER", "always_off".to_owned())];
    let mut jaeger = Process::start_with(dir.path(), "jaeger", program, &arguments, &quiet);
    tokio::task::block_in_place(|| {
        wait_until("Jaeger is up", || {
            jaeger.assert_alive();
            http_get(http, "/api/services").is_some_and(|(status, _)| status == 200)
        });
    });
    let mut mesh = Mesh::start(Settings {
        otlp: Some(otlp),
        ..Settings::default()
    })
    .await;
    assert_eq!(mesh.call("alice", "/v1/users/7").await.status, 403);
    let grant = mesh.grant("alice", "GET /v1/users/{id}", "10m");
    mesh.until("alice", "/v1/users/7", 200).await;

    let tags = format!(
        "%7B%22jitgate.grant.id%22%3A%22{grant}%22%2C%22jitgate.decision%22%3A%22allow%22%7D"
    );
    let query = format!(
        "/api/traces?service=sidecar&operation=jitgate.check&lookback=1h&limit=20&tags={tags}"
    );
    let found = || {
        let (_, body) = http_get(http, &query)?;
        let answer: Value = serde_json::from_str(&body).ok()?;
        let spans = answer["data"].get(0)?["spans"].as_array()?.clone();
        spans
            .iter()
            .any(|span| span["operationName"].as_str() == Some("ingress"))
            .then_some(spans)
    };
    tokio::task::block_in_place(|| wait_until("the trace is in Jaeger", || found().is_some()));
    let spans = found().unwrap();
    let check = spans
        .iter()
        .find(|span| span["operationName"] == "jitgate.check")
        .unwrap();
    let references = check["references"].as_array().unwrap();
    let parent = references
        .iter()
        .find(|reference| reference["refType"] == "CHILD_OF")
        .unwrap();
    let parent = spans
        .iter()
        .find(|span| span["spanID"] == parent["spanID"])
        .expect("the parent is in the same trace");
    assert!(
        parent["operationName"]
            .as_str()
            .unwrap()
            .contains("Authorization.Check"),
        "{parent}"
    );
    let link = references
        .iter()
        .find(|reference| reference["traceID"] != check["traceID"])
        .expect("a link");
    let (status, approval) = http_get(
        http,
        &format!("/api/traces/{}", link["traceID"].as_str().unwrap()),
    )
    .unwrap();
    assert_eq!(status, 200, "the approval's trace is there, too");
    assert!(approval.contains("control-plane"), "{approval}");
}
