//! What happens when a part is down: the failure table of the README, line by line.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::Mesh;
use crate::support::process::{http_get, wait_until};
use crate::support::world::Settings;

#[tokio::test(flavor = "multi_thread")]
async fn without_the_control_plane_grants_live_end_on_time_and_then_nothing_is_decided() {
    let mut mesh = Mesh::start(Settings {
        max_staleness: "4s",
        ..Settings::default()
    })
    .await;
    mesh.grant("alice", "GET /v1/users/{id}", "10m");
    let short = mesh.grant("bob", "GET /v1/users/{id}", "2s");
    let end = mesh.end_of("bob", &short);
    mesh.until("alice", "/v1/users/7", 200).await;
    mesh.until("bob", "/v1/users/7", 200).await;
    mesh.world.control.take().unwrap().kill();

    assert_eq!(
        mesh.call("alice", "/v1/users/7").await.status,
        200,
        "a live grant goes on"
    );
    let ended = mesh.until("bob", "/v1/users/7", 403).await;
    let seen = std::time::SystemTime::now();
    assert_eq!(
        ended.header("x-jitgate-reason"),
        "GRANT_EXPIRED",
        "{ended:?}"
    );
    let late = seen.duration_since(end).unwrap_or_default();
    println!(
        "measured: without a control plane, first refusal {late:?} after the end of the grant"
    );

    let stale = mesh.until("alice", "/v1/users/7", 503).await;
    assert_eq!(stale.header("x-jitgate-reason"), "STALE", "{stale:?}");
    assert!(!stale.header("retry-after").is_empty(), "{stale:?}");
    assert!(!mesh.world.sidecar_ready(), "readiness must flip with it");

    mesh.world.start_control();
    tokio::task::block_in_place(|| mesh.world.wait_ready());
    mesh.until("alice", "/v1/users/7", 200).await;
    let (_, metrics) = http_get(mesh.world.admin_port, "/metrics").unwrap();
    let snapshots =
        |line: &&str| line.starts_with("jitgate_watch_resyncs_total{") && !line.ends_with(" 0");
    let snapshots: Vec<_> = metrics.lines().filter(snapshots).collect();
    assert_eq!(snapshots.len(), 1, "{snapshots:?}");
    assert!(
        snapshots[0].contains("first"),
        "it resumes without a snapshot: {snapshots:?}"
    );
    assert_eq!(
        mesh.call("bob", "/v1/users/7")
            .await
            .header("x-jitgate-reason"),
        "GRANT_EXPIRED"
    );
    mesh.grant("carol", "GET /v1/users/{id}", "10m");
    mesh.until("carol", "/v1/users/7", 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_sidecar_envoy_refuses_and_serves_again_once_it_is_back() {
    let mut mesh = Mesh::start(Settings::default()).await;
    mesh.grant("alice", "GET /v1/users/{id}", "10m");
    mesh.until("alice", "/v1/users/7", 200).await;
    mesh.world.sidecar.take().unwrap().kill();
    assert_eq!(mesh.call("alice", "/v1/users/7").await.status, 503);

    mesh.world.start_sidecar();
    let world = &mesh.world;
    tokio::task::block_in_place(|| wait_until("the sidecar is back", || world.sidecar_ready()));
    let back = Instant::now();
    mesh.until("alice", "/v1/users/7", 200).await;
    println!(
        "measured: served {:.1} ms after the sidecar said that it is ready",
        back.elapsed().as_secs_f64() * 1e3
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_sidecar_is_an_error_and_never_an_allow() {
    let mut mesh = Mesh::start(Settings::default()).await;
    mesh.grant("alice", "GET /v1/users/{id}", "10m");
    mesh.until("alice", "/v1/users/7", 200).await;
    mesh.world.sidecar.as_ref().unwrap().freeze();
    let start = Instant::now();
    assert_eq!(mesh.call("alice", "/v1/users/7").await.status, 503);
    println!(
        "measured: a frozen sidecar holds a call up for {:.0} ms",
        start.elapsed().as_secs_f64() * 1e3
    );
    mesh.world.sidecar.as_ref().unwrap().signal(Signal::CONT);
    mesh.until("alice", "/v1/users/7", 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_is_never_served_past_its_end() {
    let mut mesh = Mesh::start(Settings::default()).await;
    let id = mesh.grant("alice", "GET /v1/users/{id}", "2s");
    mesh.until("alice", "/v1/users/7", 200).await;
    let end = mesh.end_of("alice", &id);
    let mut last_served = None;
    let refused = loop {
        let sent = std::time::SystemTime::now();
        let answer = mesh.call("alice", "/v1/users/7").await;
        if answer.status != 200 {
            break std::time::SystemTime::now();
        }
        last_served = Some(sent);
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    // Control plane and sidecar share this machine's clock, so what was sent after the end must not have been served.
    let late = last_served
        .and_then(|sent| sent.duration_since(end).ok())
        .unwrap_or_default();
    let early = end.duration_since(refused).unwrap_or_default();
    let first = refused.duration_since(end).unwrap_or_default();
    println!(
        "measured: first refusal {first:?} after the end of the grant; served {late:?} past it, refused {early:?} before it"
    );
    assert!(
        late < Duration::from_secs(1),
        "served {late:?} past the end: that is no clock error any more"
    );
    assert!(
        early < Duration::from_secs(1),
        "refused {early:?} too early"
    );
}
