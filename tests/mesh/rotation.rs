//! Token keys turned over under load: callers go on presenting old and new tokens through Envoy, and none is refused.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jitgate_client::v1::IssueTokenRequest;
use jitgate_client::v1::token_service_client::TokenServiceClient;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::Mesh;
use crate::support::caller::Caller;
use crate::support::process::wait_until;
use crate::support::raw_http::{Connection, connector};
use crate::support::world::{Settings, World};

const CHECKOUT: &str = "spiffe://td.test/ns/shop/sa/checkout";
const CALLERS: usize = 3;
const ROTATIONS: usize = 4;
/// Calls with each token before the next one is got; the last few tokens stay in use beside it.
const CALLS_PER_TOKEN: usize = 25;
const KEPT: usize = 40;

/// What one caller saw.
#[derive(Default)]
struct Seen {
    calls: usize,
    kids: Vec<String>,
    refused: Vec<String>,
}

/// Presents its tokens, newest and older ones in turn, until asked to stop.
async fn calls(world: Arc<World>, grant: String, stop: Arc<AtomicBool>) -> Seen {
    let caller = Caller::connect(&world, "alice", &["sre"]);
    let mut tokens = TokenServiceClient::new(caller.channel());
    let tls = connector(&world.client);
    let mut connection = Connection::open(&tls, world.envoy_port).await.unwrap();
    let (mut seen, mut held) = (Seen::default(), VecDeque::new());
    while !stop.load(Ordering::Relaxed) {
        if seen.calls.is_multiple_of(CALLS_PER_TOKEN) {
            let ask = IssueTokenRequest {
                grant: grant.clone(),
                workload: CHECKOUT.into(),
                duration: None,
            };
            let issued = tokens
                .issue_token(caller.with(ask))
                .await
                .unwrap()
                .into_inner();
            if seen.kids.last() != Some(&issued.kid) {
                seen.kids.push(issued.kid);
            }
            held.push_front(issued.token);
            held.truncate(KEPT);
        }
        let token: &String = &held[seen.calls % held.len()];
        let answer = connection
            .request("GET", b"/v1/users/7", &[("x-jitgate-token", token)])
            .await
            .unwrap();
        seen.calls += 1;
        if answer.status != 200 {
            seen.refused.push(format!(
                "{} {}",
                answer.status,
                answer.header("x-jitgate-reason")
            ));
        }
    }
    seen
}

fn signing(world: &World) -> String {
    let keys = world.jitgate_json("root", &["admins"], &["token", "keys"]);
    let signing = |key: &&Value| key["state"] == "SIGNING";
    let key = keys["keys"]
        .as_array()
        .unwrap()
        .iter()
        .find(signing)
        .unwrap_or_else(|| panic!("none signs: {keys}"));
    key["kid"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_turned_over_under_load_refuse_no_call() {
    let settings = Settings {
        control_flags: &["--token-key-lead", "1s"],
        ..Settings::default()
    };
    let mesh = Mesh::start(settings).await;
    let grant = mesh.grant("alice", "GET /v1/users/{id}", "30m");
    let Mesh { world, .. } = mesh;
    let (world, stop) = (Arc::new(world), Arc::new(AtomicBool::new(false)));
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        callers.spawn(calls(Arc::clone(&world), grant.clone(), Arc::clone(&stop)));
    }
    tokio::task::block_in_place(|| {
        for _ in 0..ROTATIONS {
            let before = signing(&world);
            world.jitgate_json(
                "root",
                &["admins"],
                &["token", "rotate", "--reason", "a drill"],
            );
            wait_until("the next key signs", || signing(&world) != before);
        }
    });
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    stop.store(true, Ordering::Relaxed);
    let (mut all, mut refused) = (0, vec![]);
    while let Some(seen) = callers.join_next().await {
        let seen = seen.unwrap();
        assert!(
            seen.kids.len() > ROTATIONS,
            "it has had tokens by every key: {:?}",
            seen.kids
        );
        all += seen.calls;
        refused.extend(seen.refused);
    }
    println!(
        "measured: {all} calls while {ROTATIONS} keys were turned over, {} refused",
        refused.len()
    );
    assert!(refused.is_empty(), "{refused:?}");
}
