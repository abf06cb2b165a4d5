use std::ops::ControlFlow;

use futures_util::future::join_all;

use super::*;
use crate::control::lifecycle::grants::GrantFilter;
use crate::control::lifecycle::requests::{Asking, RequestFilter};
use crate::control::policy::PolicySet;
use crate::control::query::audit;
use crate::control::query::page::Page;
use crate::control::testing::*;
use crate::model::canonical::Canonical;
use crate::model::grant::GrantId;
use crate::model::identity::Service;
use crate::model::scope::{GrpcRule, HttpRule, Rule};

mod eligibility;

/// Two approvals of people, of any two groups, after that one of an owner; Dora and Erik are listed by name elsewhere.
const APPROVAL: &str = r#"
  approval:
    stages:
      - name: team
        steps:
          - {name: leads, approvers: ["group:https://idp.example|leads"]}
          - {name: security, approvers: ["group:https://idp.example|security", "group:https://idp.example|audit"]}
      - name: owner
        steps: [{name: owner, approvers: ["group:https://idp.example|owners"]}]
"#;

/// So many people of one issuer.
fn many(approvals: usize) -> String {
    format!(
        "\n  approval: {{stages: [{{name: s, steps: [{{name: people, approvers: ['user:https://idp.example|*'], \
         approvals: {approvals}, denials: 2}}]}}]}}\n"
    )
}

fn who(name: &str, groups: &[&str]) -> Caller {
    let groups = groups.iter().map(|group| format!("group:{ISSUER}|{group}"));
    let principals: Vec<String> = std::iter::once(format!("user:{ISSUER}|{name}"))
        .chain(groups)
        .collect();
    Caller::stand_in(
        &principals.iter().map(String::as_str).collect::<Vec<_>>(),
        false,
    )
}

struct Scene {
    rig: Rig,
    request: AccessRequest,
}

impl Scene {
    /// Alice has asked for 20 minutes, and waits.
    async fn start(approval: &str) -> Self {
        let rig = Rig::empty().await;
        rig.plane
            .apply(Arc::new(policies(&format!(
                "{}{approval}",
                POLICIES.trim_end()
            ))))
            .await
            .unwrap();
        let duration = Some(Duration::from_secs(20 * 60));
        let request = rig
            .plane
            .request_access(
                &alice(),
                Asking {
                    duration,
                    ..asking()
                },
            )
            .await
            .unwrap();
        assert_eq!(request.state, AccessState::Pending);
        Self { rig, request }
    }

    fn yes(&self) -> Reviewing {
        Reviewing {
            request: self.request.id.to_string(),
            verdict: Verdict::Approve,
            digest: self.request.terms.digest().to_string(),
            reason: "fine".into(),
            narrowed_scope: None,
            narrowed_duration: None,
            validate_only: false,
            etag: String::new(),
            request_id: String::new(),
            fingerprint: Canonical::new("test").finish(),
            traceparent: None,
        }
    }

    fn no(&self) -> Reviewing {
        Reviewing {
            verdict: Verdict::Deny,
            reason: "not now".into(),
            ..self.yes()
        }
    }

    async fn review(&self, caller: &Caller, reviewing: Reviewing) -> Result<AccessRequest, Fault> {
        self.rig.plane.review_request(caller, reviewing).await
    }

    async fn refused(&self, caller: &Caller, reviewing: Reviewing) -> &'static str {
        let before = self.rig.plane.fanout.revision();
        let reason = self
            .review(caller, reviewing)
            .await
            .unwrap_err()
            .kind
            .reason();
        assert_eq!(
            self.rig.plane.fanout.revision(),
            before,
            "nothing is changed"
        );
        reason
    }

    async fn events(&self, kind: &'static str) -> usize {
        let read = self.rig.plane.store.read(move |reader| {
            let mut found = 0;
            reader.audit(0, &mut |event| {
                found += usize::from(event.r#type == kind);
                Ok(ControlFlow::Continue(()))
            })?;
            Ok::<_, StoreError>(found)
        });
        read.await.unwrap()
    }

    async fn grants(&self) -> usize {
        let page = Page::parse(0, "", &[]).unwrap();
        self.rig
            .plane
            .grants(&root(), page, GrantFilter::default())
            .await
            .unwrap()
            .0
            .len()
    }
}

#[tokio::test]
async fn people_of_every_stage_approve_and_the_last_one_issues_the_grant() {
    let scene = Scene::start(APPROVAL).await;
    let first = scene
        .review(&who("bob", &["leads"]), scene.yes())
        .await
        .unwrap();
    assert_eq!(
        (first.state, first.reviews.len(), scene.grants().await),
        (AccessState::Pending, 1, 0)
    );
    assert_eq!(
        scene.refused(&who("olga", &["owners"]), scene.yes()).await,
        "NOT_ELIGIBLE",
        "her stage is not reached"
    );
    scene
        .review(&who("sam", &["security"]), scene.yes())
        .await
        .unwrap();
    let last = scene
        .review(&who("olga", &["owners"]), scene.yes())
        .await
        .unwrap();
    assert_eq!(last.state, AccessState::Approved);
    let outcome = last.outcome.clone().unwrap();
    assert_eq!(
        (&*outcome.by, &*outcome.reason),
        (
            "user:https://idp.example|olga",
            "approved by bob, sam, olga"
        )
    );
    let issued = scene
        .rig
        .plane
        .grant(&alice(), outcome.grant.unwrap().as_str())
        .await
        .unwrap();
    assert_eq!(issued.grant.scope, last.terms.scope);
    assert_eq!(
        issued.grant.expires(),
        Some(NOON.plus(Duration::from_secs(20 * 60)))
    );
    assert_eq!(
        (issued.origin.request, issued.origin.auto_rule),
        (Some(last.id), None)
    );
    for (kind, count) in [
        ("review.approved", 3),
        ("grant.issued", 1),
        ("access_request.approved", 1),
    ] {
        assert_eq!(scene.events(kind).await, count, "{kind}");
    }
    assert!(
        scene
            .rig
            .plane
            .store
            .read(audit::verify)
            .await
            .unwrap()
            .is_ok()
    );
}

#[tokio::test]
async fn one_person_in_two_groups_cannot_satisfy_two_approvals() {
    let scene = Scene::start(APPROVAL).await;
    let bob = who("bob", &["leads", "security", "owners"]);
    scene.review(&bob, scene.yes()).await.unwrap();
    assert_eq!(scene.refused(&bob, scene.yes()).await, "ALREADY_REVIEWED");
    assert_eq!(scene.refused(&bob, scene.no()).await, "ALREADY_REVIEWED");
    assert_eq!(scene.grants().await, 0);
}

#[tokio::test]
async fn one_person_in_three_groups_does_not_jam() {
    let scene = Scene::start(APPROVAL).await;
    for (name, groups) in [
        ("bob", &["leads", "security", "owners"][..]),
        ("sam", &["leads"]),
        ("tom", &["audit"]),
    ] {
        scene.review(&who(name, groups), scene.yes()).await.unwrap();
    }
    let request = scene
        .rig
        .plane
        .access_request(&alice(), &scene.request.id)
        .await
        .unwrap();
    assert_eq!(
        request.state,
        AccessState::Approved,
        "sam and tom took his place, and he is the owner"
    );
}

#[tokio::test]
async fn an_administrator_cannot_approve_their_own_request() {
    let scene = Scene::start(&many(1)).await;
    let admin = Caller::stand_in(&[ALICE, "group:https://idp.example|leads"], true);
    assert_eq!(scene.refused(&admin, scene.yes()).await, "SELF_APPROVAL");
    assert_eq!(scene.refused(&admin, scene.no()).await, "SELF_APPROVAL");
    let borrowed = Caller::stand_in(&[BOB, ALICE], true);
    assert_eq!(
        scene.refused(&borrowed, scene.yes()).await,
        "SELF_APPROVAL",
        "whatever else they prove to be"
    );
}

#[tokio::test]
async fn being_an_administrator_makes_nobody_an_approver() {
    let scene = Scene::start(APPROVAL).await;
    assert_eq!(scene.refused(&root(), scene.yes()).await, "NOT_ELIGIBLE");
    assert_eq!(
        scene.refused(&bob(), scene.yes()).await,
        "NOT_FOUND",
        "a stranger does not even see it"
    );
}

#[tokio::test]
async fn only_people_review() {
    let scene = Scene::start(APPROVAL).await;
    let workload = Caller::stand_in(&["spiffe://td/ci", "group:https://idp.example|leads"], true);
    assert_eq!(scene.refused(&workload, scene.yes()).await, "NOT_ELIGIBLE");
}

#[tokio::test]
async fn approving_an_approved_request_is_an_error_and_extends_nothing() {
    let scene = Scene::start(&many(1)).await;
    let approved = scene.review(&bob(), scene.yes()).await.unwrap();
    let id: GrantId = approved.outcome.unwrap().grant.unwrap();
    let before = scene.rig.plane.grant(&alice(), id.as_str()).await.unwrap();
    scene.rig.advance(60);
    for name in ["bob", "carol"] {
        assert_eq!(
            scene.refused(&who(name, &[]), scene.yes()).await,
            "STATE_TERMINAL"
        );
    }
    assert_eq!(
        scene.rig.plane.grant(&alice(), id.as_str()).await.unwrap(),
        before
    );
    assert_eq!(scene.grants().await, 1);
}

#[tokio::test]
async fn what_has_waited_too_long_cannot_be_approved_even_before_that_is_recorded() {
    let scene = Scene::start(&many(1)).await;
    scene.rig.advance(600);
    assert_eq!(scene.refused(&bob(), scene.yes()).await, "STATE_TERMINAL");
}

#[tokio::test]
async fn an_approval_of_other_bytes_is_void() {
    let scene = Scene::start(&many(1)).await;
    let duration = Some(Duration::from_secs(21 * 60));
    let other = scene
        .rig
        .plane
        .request_access(
            &alice(),
            Asking {
                duration,
                ..asking()
            },
        )
        .await
        .unwrap();
    for digest in [
        other.terms.digest().to_string(),
        scene.yes().digest.to_uppercase(),
        "x".into(),
    ] {
        assert_eq!(
            scene
                .refused(
                    &bob(),
                    Reviewing {
                        digest,
                        ..scene.yes()
                    }
                )
                .await,
            "DIGEST_MISMATCH"
        );
    }
    let mut request = scene.request.clone();
    let review = admit_stored(&request, &other);
    request.reviews.push(review);
    assert_eq!(
        request.progress().standing,
        Standing::Open,
        "even where it was written"
    );
}

/// A review of the other request's terms, smuggled into this one.
fn admit_stored(request: &AccessRequest, other: &AccessRequest) -> Review {
    Review {
        reviewer: principal(BOB),
        verdict: Verdict::Approve,
        reason: String::new(),
        time: request.create_time,
        proven: vec![principal(BOB)],
        digest: other.terms.digest(),
        narrowed_scope: None,
        narrowed_duration: None,
        waited: Duration::ZERO,
        void: None,
    }
}

#[tokio::test]
async fn approvals_at_the_same_moment_lose_none() {
    let scene = Scene::start(&many(200)).await;
    let people: Vec<Caller> = (0..230).map(|n| who(&format!("p{n}"), &[])).collect();
    let all = join_all(
        people
            .iter()
            .map(|caller| scene.review(caller, scene.yes())),
    )
    .await;
    let (taken, refused): (Vec<_>, Vec<_>) = all.into_iter().partition(Result::is_ok);
    assert_eq!((taken.len(), refused.len()), (200, 30));
    for fault in refused {
        assert_eq!(fault.unwrap_err().kind.reason(), "STATE_TERMINAL");
    }
    let request = scene
        .rig
        .plane
        .access_request(&alice(), &scene.request.id)
        .await
        .unwrap();
    assert_eq!(
        (request.state, request.reviews.len()),
        (AccessState::Approved, 200)
    );
    assert_eq!(
        (scene.grants().await, scene.events("grant.issued").await),
        (1, 1)
    );
    assert_eq!(scene.events("review.approved").await, 200);
}

#[tokio::test]
async fn a_denial_ends_a_request_at_its_threshold() {
    let scene = Scene::start(&many(3)).await;
    let one = scene.review(&bob(), scene.no()).await.unwrap();
    assert_eq!(one.state, AccessState::Pending);
    let two = scene.review(&who("carol", &[]), scene.no()).await.unwrap();
    assert_eq!(
        (two.state, two.outcome.unwrap().reason.as_str()),
        (AccessState::Denied, "not now")
    );
    assert_eq!(
        (
            scene.events("review.denied").await,
            scene.events("access_request.denied").await
        ),
        (2, 1)
    );
    assert_eq!(
        scene.refused(&who("dora", &[]), scene.yes()).await,
        "STATE_TERMINAL"
    );
}

fn narrow(rules: &[&str]) -> Option<Scope> {
    let rule = |text: &&str| match text.contains(' ') {
        true => Rule::Http(HttpRule::parse_line(text).unwrap()),
        false => Rule::Grpc(GrpcRule::parse(text).unwrap()),
    };
    Some(
        Scope::new(
            Service::parse("payments").unwrap(),
            rules.iter().map(rule).collect(),
        )
        .unwrap(),
    )
}

#[tokio::test]
async fn approvers_may_take_away_and_never_add_and_the_least_is_granted() {
    let scene = Scene::start(&many(3)).await;
    let duration = |minutes: u64| Some(Duration::from_secs(minutes * 60));
    for wider in [
        narrow(&["GET,POST /v1/users/{id}"]),
        narrow(&["GET /v1/users/{id}", "/pay.v1.Ledger/Balance"]),
    ] {
        let fault = scene
            .review(
                &bob(),
                Reviewing {
                    narrowed_scope: wider,
                    ..scene.yes()
                },
            )
            .await
            .unwrap_err();
        assert_eq!(
            (fault.kind.reason(), fault.field.as_deref()),
            ("INVALID_ARGUMENT", Some("narrowed_scope"))
        );
    }
    for minutes in [0, 21] {
        let longer = Reviewing {
            narrowed_duration: duration(minutes),
            ..scene.yes()
        };
        let fault = scene.review(&bob(), longer).await.unwrap_err();
        assert_eq!(
            (fault.kind.reason(), fault.field.as_deref()),
            ("INVALID_ARGUMENT", Some("narrowed_duration"))
        );
    }
    let only_seven = narrow(&["GET /v1/users/7"]);
    let less = Reviewing {
        narrowed_duration: duration(10),
        narrowed_scope: only_seven.clone(),
        ..scene.yes()
    };
    scene.review(&bob(), less).await.unwrap();
    let carol = who("carol", &[]);
    let more_again = Reviewing {
        narrowed_scope: narrow(&["GET /v1/users/{id}"]),
        ..scene.yes()
    };
    assert_eq!(
        scene.refused(&carol, more_again).await,
        "INVALID_ARGUMENT",
        "what one took away, no other gives back"
    );
    scene
        .review(
            &carol,
            Reviewing {
                narrowed_duration: duration(5),
                ..scene.yes()
            },
        )
        .await
        .unwrap();
    let last = scene.review(&who("dora", &[]), scene.yes()).await.unwrap();
    let issued = scene
        .rig
        .plane
        .grant(&alice(), last.outcome.unwrap().grant.unwrap().as_str())
        .await
        .unwrap();
    assert_eq!(Some(issued.grant.scope.clone()), only_seven);
    assert_eq!(
        issued.grant.expires(),
        Some(NOON.plus(Duration::from_secs(5 * 60)))
    );
}

#[tokio::test]
async fn the_policy_that_counts_is_the_one_that_was_pinned() {
    let scene = Scene::start(&many(2)).await;
    let laxer = policies(&format!("{}{}", POLICIES.trim_end(), many(1)));
    scene.rig.plane.apply(Arc::new(laxer)).await.unwrap();
    let one = scene.review(&bob(), scene.yes()).await.unwrap();
    assert_eq!(one.state, AccessState::Pending);
    assert_eq!(
        scene
            .review(&who("carol", &[]), scene.yes())
            .await
            .unwrap()
            .state,
        AccessState::Approved
    );
}

#[tokio::test]
async fn a_request_that_nobody_can_approve_fails_at_once() {
    let rig = Rig::empty().await;
    let only_alice = format!(
        "{}\n  approval: {{stages: [{{name: s, steps: [{{name: one, approvers: ['{ALICE}']}}]}}]}}\n",
        POLICIES.trim_end()
    );
    rig.plane
        .apply(Arc::new(policies(&only_alice)))
        .await
        .unwrap();
    let duration = Some(Duration::from_secs(20 * 60));
    let asking = Asking {
        duration,
        ..asking()
    };
    let failed = rig
        .plane
        .request_access(&alice(), asking.clone())
        .await
        .unwrap();
    assert_eq!(failed.state, AccessState::Failed);
    assert!(
        failed
            .outcome
            .unwrap()
            .reason
            .starts_with("no eligible approver: step one of stage s")
    );
    assert_eq!(
        rig.plane
            .request_access(&bob(), asking)
            .await
            .unwrap()
            .state,
        AccessState::Pending
    );
}

#[tokio::test]
async fn a_policy_without_approval_has_no_approver() {
    let scene = Scene::start("\n").await;
    assert_eq!(scene.refused(&root(), scene.yes()).await, "NOT_ELIGIBLE");
}

#[tokio::test]
async fn an_approver_sees_lists_and_watches_what_waits_for_them() {
    let scene = Scene::start(APPROVAL).await;
    let plane = &scene.rig.plane;
    let (lead, owner) = (who("bob", &["leads"]), who("olga", &["owners"]));
    let list = async |caller: &Caller, for_review| {
        let filter = RequestFilter {
            for_review,
            ..RequestFilter::default()
        };
        plane
            .access_requests(caller, Page::parse(0, "", &[]).unwrap(), filter)
            .await
            .unwrap()
            .0
            .len()
    };
    for (caller, sees, waits) in [
        (&lead, 1, 1),
        (&owner, 1, 0),
        (&alice(), 1, 0),
        (&bob(), 0, 0),
        (&root(), 1, 0),
    ] {
        assert_eq!(
            (list(caller, false).await, list(caller, true).await),
            (sees, waits),
            "{}",
            caller.who()
        );
        assert_eq!(
            plane
                .access_request(caller, &scene.request.id)
                .await
                .is_ok(),
            sees == 1
        );
    }
    let (_, mut wait) = plane
        .watch_request(&owner, &scene.request.id)
        .await
        .unwrap();
    scene.review(&lead, scene.yes()).await.unwrap();
    wait.changed().await;
    scene
        .review(&who("sam", &["audit"]), scene.yes())
        .await
        .unwrap();
    assert_eq!((list(&lead, true).await, list(&owner, true).await), (0, 1));
}

#[tokio::test]
async fn every_user_of_an_issuer_lists_what_any_of_them_may_approve() {
    let scene = Scene::start(&many(1)).await;
    let filter = RequestFilter {
        for_review: true,
        ..RequestFilter::default()
    };
    let page = Page::parse(0, "", &[]).unwrap();
    assert_eq!(
        scene
            .rig
            .plane
            .access_requests(&bob(), page, filter)
            .await
            .unwrap()
            .0
            .len(),
        1
    );
    let foreign = Caller::stand_in(&["user:https://other.example|bob"], false);
    assert!(
        scene
            .rig
            .plane
            .access_requests(&foreign, page, filter)
            .await
            .unwrap()
            .0
            .is_empty()
    );
}

#[tokio::test]
async fn a_retry_of_a_review_gets_the_first_answer() {
    let scene = Scene::start(&many(2)).await;
    let once = Reviewing {
        request_id: "once".into(),
        ..scene.yes()
    };
    let first = scene.review(&bob(), once.clone()).await.unwrap();
    assert_eq!(scene.review(&bob(), once.clone()).await.unwrap(), first);
    assert_eq!(scene.events("review.approved").await, 1);
    let mut other = Canonical::new("test");
    other.text("other");
    let misused = Reviewing {
        fingerprint: other.finish(),
        ..once
    };
    assert_eq!(scene.refused(&bob(), misused).await, "INVALID_ARGUMENT");
}
