//! Two hundred people approve one request at the same moment, each over a connection of their own, while the control
//! plane is killed in between: no review is lost, and there is exactly one grant.

use std::collections::BTreeSet;
use std::time::Duration;

use jitgate_client::v1::{AccessRequest, AccessRequestState};
use tokio::task::JoinSet;

use crate::support::caller::Caller;
use crate::support::process::{PATIENCE, http_get, wait_until};
use crate::support::world::{Settings, World};

const PEOPLE: usize = 200;
const METHOD: &str = "/pay.v1.Ledger/GetBalance";

/// Every one of the two hundred is needed: a lost review would leave the request pending for ever.
const POLICY: &str = "
apiVersion: jitgate.dev/v1
kind: AccessPolicy
metadata: {name: payments}
spec:
  requesters: [\"group:https://idp.test|sre\"]
  allowWildcard: true
  scope:
    service: payments
    grpc: [\"*\"]
  duration: {default: 15m, max: 1h}
  approval:
    stages:
      - name: everyone
        steps:
          - {name: people, approvers: [\"group:https://idp.test|leads\"], approvals: 200}
";

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_approvals_racing_yield_one_grant_and_lose_no_review() {
    let world = tokio::task::block_in_place(|| {
        World::start(Settings {
            policies: POLICY,
            ..Settings::default()
        })
    });
    let request = Caller::connect(&world, "alice", &["sre"])
        .ask("race", METHOD)
        .await
        .unwrap();
    let mut people = JoinSet::new();
    for person in 0..PEOPLE {
        people.spawn(approve(
            Caller::connect(&world, &name(person), &["leads"]),
            request.clone(),
            name(person),
        ));
    }
    let issued = seen_grants(people).await;
    assert_eq!(
        issued.len(),
        1,
        "exactly one approval completes the quorum: {issued:?}"
    );
    settled(&world, &request.id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_the_middle_of_the_race_loses_no_review() {
    let mut world = tokio::task::block_in_place(|| {
        World::start(Settings {
            policies: POLICY,
            ..Settings::default()
        })
    });
    let request = Caller::connect(&world, "alice", &["sre"])
        .ask("race", METHOD)
        .await
        .unwrap();
    let mut people = JoinSet::new();
    for person in 0..PEOPLE {
        let (caller, request) = (
            Caller::connect(&world, &name(person), &["leads"]),
            request.clone(),
        );
        people.spawn(async move {
            tokio::time::sleep(Duration::from_millis(person as u64 * 5)).await;
            approve(caller, request, name(person)).await
        });
    }
    let mut killed_at = Vec::new();
    for _ in 0..4 {
        let before = reviews(&world, &request.id).await;
        killed_at.push(wait_for_more(&world, &request.id, before).await);
        world.control.take().unwrap().kill();
        world.start_control();
        tokio::task::block_in_place(|| {
            wait_until("the control plane is back", || {
                world.control.as_mut().unwrap().assert_alive();
                http_get(world.http_port, "/readyz").is_some_and(|(status, _)| status == 200)
            });
        });
    }
    assert!(
        killed_at
            .iter()
            .any(|reviews| (1..PEOPLE).contains(reviews)),
        "no kill in the middle: {killed_at:?}"
    );
    println!("measured: killed at {killed_at:?} reviews of {PEOPLE}");
    let issued = seen_grants(people).await;
    assert!(issued.len() <= 1, "one grant at most: {issued:?}");
    settled(&world, &request.id).await;
}

fn name(person: usize) -> String {
    format!("lead-{person:03}")
}

/// Approves until there is an answer: the same `request_id` makes each try the same approval.
async fn approve(mut caller: Caller, request: AccessRequest, name: String) -> AccessRequest {
    let start = std::time::Instant::now();
    loop {
        match caller.approve(&request, &name).await {
            Ok(request) => return request,
            Err(status) if start.elapsed() < PATIENCE && is_passing(&status) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(status) => panic!("{name}: {status:?}"),
        }
    }
}

/// Too busy or gone for the moment; nothing that another try would not mend.
fn is_passing(status: &tonic::Status) -> bool {
    matches!(
        status.code(),
        tonic::Code::Unavailable
            | tonic::Code::Unknown
            | tonic::Code::Cancelled
            | tonic::Code::DeadlineExceeded
    )
}

/// The grants that the answers to the approvals speak of.
async fn seen_grants(mut people: JoinSet<AccessRequest>) -> BTreeSet<String> {
    let mut grants = BTreeSet::new();
    while let Some(answer) = people.join_next().await {
        let answer = answer.unwrap();
        if !answer.grant.is_empty() {
            grants.insert(answer.grant);
        }
    }
    grants
}

async fn reviews(world: &World, id: &str) -> usize {
    let mut alice = Caller::connect(world, "alice", &["sre"]);
    alice
        .requests()
        .await
        .into_iter()
        .find(|request| request.id == id)
        .map_or(0, |request| request.reviews.len())
}

async fn wait_for_more(world: &World, id: &str, before: usize) -> usize {
    let start = std::time::Instant::now();
    loop {
        let now = reviews(world, id).await;
        if now > before || now == PEOPLE {
            return now;
        }
        assert!(
            start.elapsed() < PATIENCE,
            "no approval arrives after {before}"
        );
    }
}

/// Two hundred different reviewers, one grant.
async fn settled(world: &World, id: &str) {
    let mut admin = Caller::connect(world, "root", &["admins"]);
    let requests = admin.requests().await;
    let request = requests.iter().find(|request| request.id == id).unwrap();
    assert_eq!(
        request.state(),
        AccessRequestState::Approved,
        "{} reviews",
        request.reviews.len()
    );
    let people: BTreeSet<&str> = request
        .reviews
        .iter()
        .map(|review| review.reviewer.as_str())
        .collect();
    assert_eq!(
        (request.reviews.len(), people.len()),
        (PEOPLE, PEOPLE),
        "a review is lost or counted twice"
    );
    let (grants, _) = admin.grants().await;
    assert_eq!(
        grants.keys().collect::<Vec<_>>(),
        [&request.grant],
        "exactly one grant"
    );
}
