//! Partitions between control plane and sidecar in a real network: half-open connections, loss in one direction, a slow
//! link. A strict grant is never served past the bound; a `lastKnown` one is served to its end; what heals resumes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::Mesh;
use crate::support::network::Network;
use crate::support::process::wait_until;
use crate::support::world::Settings;

/// Long enough that a busy machine does not go stale by itself.
const BOUND: Duration = Duration::from_secs(5);

/// Strict under `/v1/`, the last known state under `/kept/`.
const POLICIES: &str = "
apiVersion: jitgate.dev/v1
kind: AccessPolicy
metadata: {name: payments}
spec:
  requesters: [\"group:https://idp.test|sre\"]
  scope:
    service: payments
    http: [\"GET /v1/users/{id}\"]
  duration: {default: 15m, max: 1h}
  auto:
    - {name: sre, when: \"true\", effect: APPROVE, maxDuration: 1h}
---
apiVersion: jitgate.dev/v1
kind: AccessPolicy
metadata: {name: kept}
spec:
  requesters: [\"group:https://idp.test|sre\"]
  staleness: lastKnown
  scope:
    service: payments
    http: [\"GET /kept/{id}\"]
  duration: {default: 15m, max: 1h}
  auto:
    - {name: sre, when: \"true\", effect: APPROVE, maxDuration: 1h}
";

struct Split {
    mesh: Mesh,
    network: Arc<Network>,
}

impl Split {
    async fn start() -> Option<Self> {
        let network = Arc::new(tokio::task::block_in_place(Network::create)?);
        let settings = Settings {
            max_staleness: "5s",
            policies: POLICIES,
            network: Some(Arc::clone(&network)),
            ..Settings::default()
        };
        Some(Self {
            mesh: Mesh::start(settings).await,
            network,
        })
    }

    /// Revokes alice's grant; the moment from which on no strict grant may count without it.
    fn revoke(&self, id: &str) -> Instant {
        let args = ["revoke", id, "--reason", "a test"];
        let (code, out, err) =
            tokio::task::block_in_place(|| self.mesh.world.jitgate("alice", &["sre"], &args));
        assert_eq!(code, Some(0), "{out}{err}");
        Instant::now() + BOUND
    }

    /// Calls until `deadline` and a little longer: never a yes past it.
    async fn never_yes_past(&mut self, deadline: Instant) {
        let mut answers = Vec::new();
        while Instant::now() < deadline + Duration::from_secs(2) {
            let sent = Instant::now();
            let answer = self.mesh.call("alice", "/v1/users/7").await;
            assert!(
                answer.status != 200 || sent <= deadline,
                "a stale yes {:?} past the bound",
                sent - deadline
            );
            answers.push(answer.status);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        answers.dedup();
        println!("measured: answers around the bound: {answers:?}");
    }

    /// The session comes back without a snapshot.
    async fn heals(&mut self) {
        self.network.heal();
        let world = &self.mesh.world;
        tokio::task::block_in_place(|| {
            wait_until("the sidecar is ready again", || world.sidecar_ready())
        });
        let revoked = self.mesh.until("alice", "/v1/users/7", 403).await;
        assert_eq!(
            revoked.header("x-jitgate-reason"),
            "GRANT_REVOKED",
            "{revoked:?}"
        );
        let (_, metrics) = self.mesh.world.admin("/metrics").unwrap();
        let snapshots =
            |line: &&str| line.starts_with("jitgate_watch_resyncs_total{") && !line.ends_with(" 0");
        let snapshots: Vec<_> = metrics.lines().filter(snapshots).collect();
        assert_eq!(
            snapshots,
            ["jitgate_watch_resyncs_total{cause=\"first\"} 1"],
            "it resumes"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_a_half_open_connection_strict_grants_stop_at_the_bound_and_last_known_ones_at_their_end()
 {
    let Some(mut split) = Split::start().await else {
        return;
    };
    let strict = split.mesh.grant("alice", "GET /v1/users/{id}", "10m");
    let kept = split.mesh.grant("alice", "GET /kept/{id}", "12s");
    let end = split.mesh.end_of("alice", &kept);
    split.mesh.until("alice", "/v1/users/7", 200).await;
    split.mesh.until("alice", "/kept/7", 200).await;
    // The other end is gone without a FIN, in both directions.
    split.network.lose_from_sidecar();
    split.network.lose_from_control();
    let deadline = split.revoke(&strict);
    split.never_yes_past(deadline).await;
    let stale = split.mesh.call("alice", "/v1/users/7").await;
    assert_eq!(
        (stale.status, stale.header("x-jitgate-reason")),
        (503, "STALE"),
        "{stale:?}"
    );
    assert!(!split.mesh.world.sidecar_ready());
    let answer = split.mesh.call("alice", "/kept/7").await;
    assert!(
        answer.status == 200 || std::time::SystemTime::now() >= end,
        "{answer:?}"
    );
    split.mesh.until("alice", "/kept/7", 503).await;
    let over = std::time::SystemTime::now();
    assert!(
        over >= end - Duration::from_secs(1),
        "it was given up early"
    );
    split.heals().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn loss_in_one_direction_is_no_way_to_a_stale_yes() {
    let Some(mut split) = Split::start().await else {
        return;
    };
    let id = split.mesh.grant("alice", "GET /v1/users/{id}", "10m");
    split.mesh.until("alice", "/v1/users/7", 200).await;
    // What the sidecar hears still arrives; that it heard it does not.
    split.network.lose_from_sidecar();
    let deadline = split.revoke(&id);
    split.never_yes_past(deadline).await;
    split.heals().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_hears_but_is_not_heard_is_no_way_to_a_stale_yes() {
    let Some(mut split) = Split::start().await else {
        return;
    };
    let id = split.mesh.grant("alice", "GET /v1/users/{id}", "10m");
    split.mesh.until("alice", "/v1/users/7", 200).await;
    split.network.lose_from_control();
    let deadline = split.revoke(&id);
    split.never_yes_past(deadline).await;
    assert_eq!(
        split
            .mesh
            .call("alice", "/v1/users/7")
            .await
            .header("x-jitgate-reason"),
        "STALE"
    );
    split.heals().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_a_slow_link_a_revoke_is_late_and_never_later_than_the_bound() {
    let Some(mut split) = Split::start().await else {
        return;
    };
    let id = split.mesh.grant("alice", "GET /v1/users/{id}", "10m");
    split.mesh.until("alice", "/v1/users/7", 200).await;
    if !split.network.slow("8kbit") {
        return;
    }
    // More than the link carries in a while stands before the revoke.
    for n in 0..15 {
        split
            .mesh
            .grant(&format!("user-{n}"), "GET /v1/users/{id}", "10m");
    }
    let deadline = split.revoke(&id);
    split.never_yes_past(deadline).await;
    split.heals().await;
}
