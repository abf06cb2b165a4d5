//! The whole lifecycle as people live it: asked, approved by two, used with a token, extended, released; broken glass; held
//! back for a while. All by the command line and through a real Envoy, and told as one story whichever id it is asked by.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::Mesh;
use crate::support::process::wait_until;
use crate::support::raw_http::Answer;
use crate::support::world::{Settings, World};

const CHECKOUT: &str = "spiffe://td.test/ns/shop/sa/checkout";
/// Somebody and their groups.
type Person = (&'static str, &'static [&'static str]);
const ALICE: Person = ("alice", &["sre"]);
const LEA: Person = ("lea", &["leads"]);
const SAM: Person = ("sam", &["security"]);
const ROOT: Person = ("root", &["admins"]);

/// A lead and somebody of security approve; Alice may break the glass.
const POLICIES: &str = "
apiVersion: jitgate.dev/v1
kind: AccessPolicy
metadata: {name: payments}
spec:
  requesters: [\"group:https://idp.test|sre\"]
  scope:
    service: payments
    http: [\"GET /v1/users/{id}\"]
  duration: {default: 15m, max: 1h, maxExtensions: 1, maxTotal: 2h}
  approval:
    stages:
      - name: review
        steps:
          - {name: leads, approvers: [\"group:https://idp.test|leads\"]}
          - {name: security, approvers: [\"group:https://idp.test|security\"]}
  breakGlass: {who: [\"user:https://idp.test|alice\"], maxDuration: 15m, reviewWithin: 1h}
";
const RULE: [&str; 5] = [
    "request",
    "--service",
    "payments",
    "--http",
    "GET /v1/users/{id}",
];

fn said(world: &World, (user, groups): Person, args: &[&str]) -> Value {
    world.jitgate_json(user, groups, args)
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
        .to_owned()
}

impl Mesh {
    async fn start_reviewed() -> Self {
        Self::start(Settings {
            policies: POLICIES,
            ..Settings::default()
        })
        .await
    }

    /// The command line as one of them; its answer.
    fn said(&self, person: Person, args: &[&str]) -> Value {
        tokio::task::block_in_place(|| said(&self.world, person, args))
    }

    /// Alice asks; the access request.
    fn asks(&self, args: &[&str]) -> Value {
        self.said(ALICE, args)["accessRequest"].take()
    }

    /// Both approve, one after the other; the grant.
    fn approved_by_two(&self, request: &str) -> String {
        let first = self.said(LEA, &["approve", request, "--reason", "known work"]);
        assert_eq!(
            (&first["state"], &first["grant"]),
            (&Value::from("PENDING"), &Value::from("")),
            "{first}"
        );
        let (code, ..) =
            tokio::task::block_in_place(|| self.world.jitgate(LEA.0, LEA.1, &["approve", request]));
        assert_eq!(code, Some(1), "a person counts once");
        let second = self.said(SAM, &["approve", request]);
        assert_eq!(second["state"], "APPROVED", "{second}");
        text(&second["grant"])
    }

    /// Alice's token for a grant of hers, by the command line.
    fn issued(&self, grant: &str) -> String {
        let args = ["token", "issue", grant, "--workload", CHECKOUT];
        let (code, out, err) =
            tokio::task::block_in_place(|| self.world.jitgate(ALICE.0, ALICE.1, &args));
        assert_eq!(code, Some(0), "{err}");
        out.trim_end().to_owned()
    }

    async fn presenting(&mut self, token: &str) -> Answer {
        self.call_with(b"/v1/users/7", &[("x-jitgate-token", token)])
            .await
    }

    /// Presents a token until it is refused for this reason; the decision's id.
    async fn refused_for(&mut self, token: &str, reason: &str) -> String {
        for _ in 0..2000 {
            let answer = self.presenting(token).await;
            if answer.header("x-jitgate-reason") == reason {
                assert_eq!(answer.status, 403);
                return answer.header("x-jitgate-decision-id").to_owned();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("never refused for {reason}");
    }
}

/// Kinds of the audit events of a story in their order, the recording of an expiry left out: its place depends on the clock.
fn events(story: &Value) -> Vec<String> {
    let entries = story["entries"].as_array().unwrap().iter();
    let kinds = entries.filter_map(|entry| entry["event"]["type"].as_str());
    kinds
        .filter(|kind| *kind != "grant.expired")
        .map(str::to_owned)
        .collect()
}

fn decisions(story: &Value) -> Vec<&Value> {
    let entries = story["entries"].as_array().unwrap().iter();
    entries
        .map(|entry| &entry["decision"])
        .filter(|decision| !decision.is_null())
        .collect()
}

fn ids<'s>(story: &'s Value, of: &str) -> Vec<&'s str> {
    story[of]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["id"].as_str().unwrap())
        .collect()
}

/// The server finds the chain whole.
fn whole(world: &World) {
    let (code, out, err) = world.jitgate(ROOT.0, ROOT.1, &["audit", "verify"]);
    assert!(code == Some(0) && out.starts_with("WHOLE"), "{out}{err}");
    println!("{out}");
}

const ONE_ACCESS: [&str; 5] = [
    "access_request.created",
    "review.approved",
    "review.approved",
    "grant.issued",
    "access_request.approved",
];

#[tokio::test(flavor = "multi_thread")]
async fn approved_by_two_used_with_a_token_extended_and_released_is_one_story() {
    let mut mesh = Mesh::start_reviewed().await;
    assert_eq!(mesh.call("alice", "/v1/users/7").await.status, 403);
    let asked = mesh.asks(
        &[
            &RULE[..],
            &[
                "--for",
                "30s",
                "--reason",
                "a stuck payout",
                "--ticket",
                "OPS-7",
            ],
        ]
        .concat(),
    );
    let first_request = text(&asked["id"]);
    let first = mesh.approved_by_two(&first_request);
    let token = mesh.issued(&first);
    let served = mesh.presenting(&token).await;
    assert_eq!(served.status, 200, "{served:?}");
    assert!(
        served.body.contains(&first),
        "the upstream is told by which grant: {}",
        served.body
    );

    let longer = mesh.asks(&[
        "extend",
        &first,
        "--for",
        "10m",
        "--reason",
        "it takes longer",
    ]);
    let second_request = text(&longer["id"]);
    assert_eq!(
        (&longer["state"], &longer["extends"]),
        (&Value::from("PENDING"), &Value::from(first.clone()))
    );
    let second = mesh.approved_by_two(&second_request);
    assert_ne!(first, second);
    let first_end = mesh.end_of("alice", &first);
    assert!(
        begin_of(&mesh, &second) < first_end,
        "no gap between the two"
    );
    assert_eq!(
        mesh.end_of("alice", &second),
        first_end + Duration::from_secs(600)
    );

    // Across the end of the first grant no call is refused.
    while SystemTime::now() < first_end + Duration::from_secs(3) {
        let answer = mesh.call("alice", "/v1/users/7").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let over = mesh.presenting(&token).await;
    assert!(
        ["TOKEN_EXPIRED", "GRANT_EXPIRED"].contains(&over.header("x-jitgate-reason")),
        "{over:?}"
    );
    let token = mesh.issued(&second);
    let served = mesh.presenting(&token).await;
    assert!(
        served.status == 200 && served.body.contains(&second),
        "{served:?}"
    );

    mesh.said(ALICE, &["release", &second]);
    let refused = mesh.refused_for(&token, "GRANT_RELEASED").await;
    assert_eq!(mesh.call("alice", "/v1/users/7").await.status, 403);
    tokio::task::block_in_place(|| {
        told_as_one(
            &mesh.world,
            [&first_request, &second_request],
            [&first, &second],
            &refused,
        );
        whole(&mesh.world);
    });
}

fn begin_of(mesh: &Mesh, grant: &str) -> SystemTime {
    let shown = mesh.said(ALICE, &["grants", "show", grant]);
    humantime::parse_rfc3339(shown["notBefore"].as_str().unwrap()).unwrap()
}

/// Whichever id it is asked by: the same requests, grants, reviews, tokens, uses and ends.
fn told_as_one(world: &World, requests: [&String; 2], grants: [&String; 2], refused: &str) {
    let story = |id: &str| said(world, ALICE, &["audit", "story", id]);
    wait_until("the uses have arrived and the expiry is recorded", || {
        let known = world
            .jitgate(ALICE.0, ALICE.1, &["audit", "story", refused])
            .0
            == Some(0);
        let uses =
            |id: &str| said(world, ALICE, &["grants", "show", id])["useCount"].as_i64() >= Some(1);
        known
            && uses(grants[0])
            && uses(grants[1])
            && story(refused).to_string().contains("\"grant.expired\"")
    });
    let by_decision = story(refused);
    let used = decisions(&by_decision)
        .into_iter()
        .find(|decision| decision["allowed"] == true)
        .unwrap();
    let used = text(&used["id"]);
    let one = [
        &ONE_ACCESS[..],
        &["token.issued"],
        &ONE_ACCESS[..],
        &["token.issued", "grant.released"],
    ]
    .concat();
    for id in [
        requests[0],
        requests[1],
        grants[0],
        grants[1],
        refused,
        used.as_str(),
    ] {
        let story = story(id);
        assert_eq!(ids(&story, "accessRequests"), requests, "asked by {id}");
        assert_eq!(ids(&story, "grants"), grants, "asked by {id}");
        assert_eq!(events(&story), one, "asked by {id}");
        let decisions = decisions(&story);
        for grant in grants {
            let by =
                |decision: &&&Value| decision["grant"] == **grant && decision["allowed"] == true;
            assert!(
                decisions.iter().any(|decision| by(&decision)),
                "no use of {grant} asked by {id}: {story}"
            );
        }
        assert!(
            decisions
                .iter()
                .any(|decision| decision["reason"] == "GRANT_RELEASED"),
            "asked by {id}"
        );
        let reviewers: Vec<_> = story["entries"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| &entry["event"])
            .collect();
        let reviewers: Vec<_> = reviewers
            .iter()
            .filter(|event| event["type"] == "review.approved")
            .collect();
        let reviewers: Vec<_> = reviewers
            .iter()
            .map(|event| event["actor"].as_str().unwrap())
            .collect();
        let (lea, sam) = ("user:https://idp.test|lea", "user:https://idp.test|sam");
        assert_eq!(reviewers, [lea, sam, lea, sam], "asked by {id}");
    }
    println!(
        "{}",
        world
            .jitgate(ALICE.0, ALICE.1, &["audit", "story", grants[0]])
            .1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_glass_and_what_the_reviewers_made_of_it_is_one_story() {
    let mut mesh = Mesh::start_reviewed().await;
    let why = [
        "--for",
        "10m",
        "--reason",
        "payouts are down for everybody",
        "--break-glass",
    ];
    let broken = mesh.asks(&[&RULE[..], &why].concat());
    let (request, grant) = (text(&broken["id"]), text(&broken["grant"]));
    mesh.until("alice", "/v1/users/7", 200).await;
    mesh.said(
        LEA,
        &[
            "review",
            &request,
            "--objection",
            "--reason",
            "there was time to ask",
        ],
    );
    let token_less = mesh.until("alice", "/v1/users/7", 403).await;
    assert_eq!(token_less.header("x-jitgate-reason"), "GRANT_REVOKED");
    let refused = token_less.header("x-jitgate-decision-id").to_owned();
    tokio::task::block_in_place(|| {
        let world = &mesh.world;
        wait_until("the uses have arrived", || {
            world
                .jitgate(ALICE.0, ALICE.1, &["audit", "story", &refused])
                .0
                == Some(0)
                && said(world, ALICE, &["grants", "show", &grant])["useCount"].as_i64() >= Some(1)
        });
        for id in [&request, &grant, &refused] {
            let story = said(world, ALICE, &["audit", "story", id]);
            let mut kinds = events(&story);
            let after = kinds.split_off(3);
            assert_eq!(kinds[0], "access_request.created", "asked by {id}");
            assert!(
                kinds.contains(&"grant.issued".to_owned()),
                "asked by {id}: {kinds:?}"
            );
            assert!(
                after.contains(&"break_glass.objected".to_owned()),
                "asked by {id}: {after:?}"
            );
            assert!(
                after.contains(&"grant.revoked".to_owned()),
                "asked by {id}: {after:?}"
            );
            assert!(
                decisions(&story)
                    .iter()
                    .any(|decision| decision["allowed"] == true),
                "asked by {id}"
            );
        }
        println!(
            "{}",
            world
                .jitgate(ALICE.0, ALICE.1, &["audit", "story", &grant])
                .1
        );
        whole(world);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn held_back_let_go_and_used_again_is_one_story() {
    let mut mesh = Mesh::start_reviewed().await;
    let asked = mesh.asks(&[&RULE[..], &["--for", "10m", "--reason", "a stuck payout"]].concat());
    let grant = mesh.approved_by_two(asked["id"].as_str().unwrap());
    let token = mesh.issued(&grant);
    assert_eq!(mesh.presenting(&token).await.status, 200);
    mesh.said(
        ROOT,
        &[
            "suspend",
            &grant,
            "--reason",
            "an odd call",
            "--wait",
            "all",
        ],
    );
    let held = mesh.presenting(&token).await;
    assert_eq!(
        (held.status, held.header("x-jitgate-reason")),
        (403, "GRANT_SUSPENDED")
    );
    mesh.said(
        ROOT,
        &[
            "resume",
            &grant,
            "--reason",
            "it was a test",
            "--wait",
            "all",
        ],
    );
    assert_eq!(
        mesh.presenting(&token).await.status,
        200,
        "the same token goes on"
    );
    tokio::task::block_in_place(|| {
        let world = &mesh.world;
        let shown = || said(world, ALICE, &["audit", "story", &grant]);
        wait_until("the uses have arrived", || {
            let story = shown();
            let allowed = decisions(&story)
                .iter()
                .filter(|decision| decision["allowed"] == true)
                .count();
            allowed >= 2 && story.to_string().contains("GRANT_SUSPENDED")
        });
        let story = shown();
        assert_eq!(
            events(&story),
            [
                &ONE_ACCESS[..],
                &["token.issued", "grant.suspended", "grant.resumed"]
            ]
            .concat()
        );
        whole(world);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_grants_the_one_that_nobody_used_ends() {
    let policies = crate::support::world::POLICIES
        .replace("max: 1h}\n  auto", "max: 1h, unusedTtl: 1m}\n  auto");
    assert!(policies.contains("unusedTtl"), "{policies}");
    let mut mesh = Mesh::start(Settings {
        policies: policies.leak(),
        ..Settings::default()
    })
    .await;
    let (used, unused) = (
        mesh.grant("alice", "GET /v1/users/{id}", "30m"),
        mesh.grant("bob", "GET /v1/users/{id}", "30m"),
    );
    mesh.until("alice", "/v1/users/7", 200).await;
    let shown = |grant: &str| mesh.said(ROOT, &["grants", "show", grant]);
    let until = humantime::parse_rfc3339(shown(&unused)["unusedUntil"].as_str().unwrap()).unwrap();
    let left = until.duration_since(SystemTime::now()).unwrap_or_default();
    tokio::time::sleep(left).await;
    tokio::task::block_in_place(|| {
        wait_until("the unused grant ends", || {
            std::thread::sleep(Duration::from_millis(500));
            shown(&unused)["state"] == "REVOKED"
        });
    });
    let ended = shown(&unused);
    assert_eq!(ended["endedBy"], "system:unused", "{ended}");
    println!(
        "{} after it had to be used: {}",
        ended["endTime"], ended["endReason"]
    );
    assert_eq!(shown(&used)["state"], "ACTIVE");
    assert_eq!(mesh.call("alice", "/v1/users/7").await.status, 200);
    let refused = mesh.until("bob", "/v1/users/7", 403).await;
    assert_eq!(refused.header("x-jitgate-reason"), "GRANT_REVOKED");
}
