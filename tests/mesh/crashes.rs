//! `kill -9` of the control plane at random points under load: nothing answered is lost, nothing is half-applied.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jitgate_client::v1::{AccessRequestState, Grant, GrantState};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::support::caller::Caller;
use crate::support::process::{http_get, wait_until};
use crate::support::spellings::Seeded;
use crate::support::world::{Settings, World};

const KILLS: usize = 200;
const CLIENTS: usize = 4;
const READ: &str = "/pay.v1.Ledger/GetBalance";

/// What the control plane has answered, over all its lives.
#[derive(Debug, Default)]
struct Answered {
    granted: BTreeMap<String, String>,
    revoked: BTreeSet<String>,
    revision: i64,
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_kills_under_load_lose_nothing_that_was_answered() {
    let mut world = tokio::task::block_in_place(|| World::start(Settings::default()));
    let answered = Arc::new(Mutex::new(Answered::default()));
    let mut rng = Seeded::new(9);
    for life in 0..KILLS {
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            let caller = Caller::connect(&world, "alice", &["sre"]);
            clients.spawn(load(
                caller,
                format!("{life}-{client}"),
                Arc::clone(&answered),
            ));
        }
        tokio::time::sleep(Duration::from_millis(5 + rng.next() % 150)).await;
        world.control.take().unwrap().kill();
        while let Some(ended) = clients.join_next().await {
            ended.unwrap();
        }
        world.start_control();
        tokio::task::block_in_place(|| {
            wait_until("the control plane is back", || {
                world.control.as_mut().unwrap().assert_alive();
                http_get(world.http_port, "/readyz").is_some_and(|(status, _)| status == 200)
            });
        });
        // Checking everything is quadratic; each life's own answers and a full look now and then.
        if life % 20 == 19 || life == KILLS - 1 {
            check(&world, &*answered.lock().await).await;
        }
    }
    let answered = answered.lock().await;
    assert!(
        answered.granted.len() > KILLS / 2,
        "too little load: {} answered grants",
        answered.granted.len()
    );
    println!(
        "measured: {KILLS} kills, {} answered grants, {} answered revokes, revision {}",
        answered.granted.len(),
        answered.revoked.len(),
        answered.revision
    );
}

/// Asks and revokes until the control plane is gone, noting each answer.
async fn load(mut caller: Caller, name: String, answered: Arc<Mutex<Answered>>) {
    for i in 0.. {
        let request_id = format!("{name}-{i}");
        let Ok(request) = caller.ask(&request_id, READ).await else {
            return;
        };
        assert_eq!(request.state(), AccessRequestState::Approved, "{request:?}");
        {
            let mut answered = answered.lock().await;
            answered.granted.insert(request_id, request.grant.clone());
            answered.revision = answered.revision.max(request.mod_revision);
        }
        if i % 3 == 0 {
            let Ok(revision) = caller.revoke(&request.grant).await else {
                return;
            };
            let mut answered = answered.lock().await;
            answered.revoked.insert(request.grant);
            answered.revision = answered.revision.max(revision);
        }
    }
}

async fn check(world: &World, answered: &Answered) {
    let mut admin = Caller::connect(world, "root", &["admins"]);
    let (grants, revision) = admin.grants().await;
    assert!(
        revision >= answered.revision,
        "the revision went back: {revision} after {}",
        answered.revision
    );
    for (request, grant) in &answered.granted {
        assert!(
            grants.contains_key(grant),
            "the answer to {request} is lost: no grant {grant}"
        );
    }
    for grant in &answered.revoked {
        assert_eq!(
            grants[grant].state(),
            GrantState::Revoked,
            "the revoke of {grant} is lost"
        );
    }
    let mut used = BTreeSet::new();
    for request in admin.requests().await {
        assert_eq!(
            request.state(),
            AccessRequestState::Approved,
            "half-applied: {request:?}"
        );
        assert!(
            grants.contains_key(&request.grant),
            "half-applied: {} has no grant",
            request.id
        );
        assert!(
            used.insert(request.grant.clone()),
            "one grant for two requests: {}",
            request.grant
        );
    }
    assert_eq!(used.len(), grants.len(), "a grant without its request");
    // A retry of an answered request gives the same answer.
    if let Some((request_id, grant)) = answered.granted.iter().next_back() {
        let again = Caller::connect(world, "alice", &["sre"])
            .ask(request_id, READ)
            .await
            .unwrap();
        assert_eq!(&again.grant, grant, "a retry made another grant");
    }
    same_table(world, &grants, revision);
}

/// The sidecar's table, as its admin listener shows it, holds what the store holds.
fn same_table(world: &World, grants: &BTreeMap<String, Grant>, revision: i64) {
    let show = || {
        let (_, body) = http_get(world.admin_port, "/grants?limit=1000000")?;
        serde_json::from_str::<serde_json::Value>(&body).ok()
    };
    tokio::task::block_in_place(|| {
        wait_until("the sidecar has caught up", || {
            show().is_some_and(|shown| shown["revision"].as_i64() >= Some(revision))
        });
    });
    let shown = show().unwrap();
    let phases: BTreeMap<String, String> = shown["grants"]
        .as_array()
        .unwrap()
        .iter()
        .map(|grant| {
            (
                grant["id"].as_str().unwrap().to_owned(),
                grant["phase"].as_str().unwrap().to_lowercase(),
            )
        })
        .collect();
    let expected: BTreeMap<String, String> = grants
        .values()
        .map(|grant| {
            (
                grant.id.clone(),
                if grant.state() == GrantState::Revoked {
                    "revoked"
                } else {
                    "active"
                }
                .to_owned(),
            )
        })
        .collect();
    assert_eq!(phases.len(), expected.len(), "the tables differ in size");
    assert_eq!(phases, expected, "the tables differ");
}
