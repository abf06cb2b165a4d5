use std::ops::ControlFlow;

use futures_util::future::join_all;

use super::*;
use crate::control::lifecycle::grants::GrantFilter;
use crate::control::lifecycle::input::RequestInput;
use crate::control::policy::PolicySet;
use crate::control::query::lists::RequestFilter;
use crate::control::query::page::Page;
use crate::control::store::chain;
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

struct Fixture {
    rig: Rig,
    request: AccessRequest,
}

impl Fixture {
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
                RequestInput {
                    duration,
                    ..asking()
                },
            )
            .await
            .unwrap();
        assert_eq!(request.state, AccessState::Pending);
        Self { rig, request }
    }

    fn yes(&self) -> ReviewInput {
        ReviewInput {
            request: self.request.id.to_string(),
            verdict: Verdict::Approve,
            digest: self.request.terms.digest().to_string(),
            reason: "fine".into(),
            narrowed_scope: None,
            narrowed_duration: None,
            options: WriteOptions::default(),
            traceparent: None,
        }
    }

    fn no(&self) -> ReviewInput {
        ReviewInput {
            verdict: Verdict::Deny,
            reason: "not now".into(),
            ..self.yes()
        }
    }

    async fn review(
        &self,
        caller: &Caller,
        reviewing: ReviewInput,
    ) -> Result<AccessRequest, Fault> {
        self.rig.plane.review_request(caller, reviewing).await
    }

    async fn refused(&self, caller: &Caller, reviewing: ReviewInput) -> &'static str {
        let before = self.rig.plane.fanout().revision();
        let reason = self
            .review(caller, reviewing)
            .await
            .unwrap_err()
            .kind
            .reason();
        assert_eq!(
            self.rig.plane.fanout().revision(),
            before,
            "nothing is changed"
        );
        reason
    }

    async fn events(&self, kind: &'static str) -> usize {
        let read = self.rig.plane.store().read(move |reader| {
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
    let fixture = Fixture::start(APPROVAL).await;
    let first = fixture
        .review(&who("bob", &["leads"]), fixture.yes())
        .await
        .unwrap();
    assert_eq!(
        (first.state, first.reviews.len(), fixture.grants().await),
        (AccessState::Pending, 1, 0)
    );
    assert_eq!(
        fixture
            .refused(&who("olga", &["owners"]), fixture.yes())
            .await,
        "NOT_ELIGIBLE",
        "her stage is not reached"
    );
    fixture
        .review(&who("sam", &["security"]), fixture.yes())
        .await
        .unwrap();
    let last = fixture
        .review(&who("olga", &["owners"]), fixture.yes())
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
    let issued = fixture
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
        assert_eq!(fixture.events(kind).await, count, "{kind}");
    }
    assert!(
        fixture
            .rig
            .plane
            .store()
            .read(chain::verify)
            .await
            .unwrap()
            .is_ok()
    );
}

#[tokio::test]
async fn one_person_in_two_groups_cannot_satisfy_two_approvals() {
    let fixture = Fixture::start(APPROVAL).await;
    let bob = who("bob", &["leads", "security", "owners"]);
    fixture.review(&bob, fixture.yes()).await.unwrap();
    assert_eq!(
        fixture.refused(&bob, fixture.yes()).await,
        "ALREADY_REVIEWED"
    );
    assert_eq!(
        fixture.refused(&bob, fixture.no()).await,
        "ALREADY_REVIEWED"
    );
    assert_eq!(fixture.grants().await, 0);
}

#[tokio::test]
async fn one_person_in_three_groups_does_not_jam() {
    let fixture = Fixture::start(APPROVAL).await;
    for (name, groups) in [
        ("bob", &["leads", "security", "owners"][..]),
        ("sam", &["leads"]),
        ("tom", &["audit"]),
    ] {
        fixture
            .review(&who(name, groups), fixture.yes())
            .await
            .unwrap();
    }
    let request = fixture
        .rig
        .plane
        .access_request(&alice(), &fixture.request.id)
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
    let fixture = Fixture::start(&many(1)).await;
    let admin = Caller::stand_in(&[ALICE, "group:https://idp.example|leads"], true);
    assert_eq!(
        fixture.refused(&admin, fixture.yes()).await,
        "SELF_APPROVAL"
    );
    assert_eq!(fixture.refused(&admin, fixture.no()).await, "SELF_APPROVAL");
    let borrowed = Caller::stand_in(&[BOB, ALICE], true);
    assert_eq!(
        fixture.refused(&borrowed, fixture.yes()).await,
        "SELF_APPROVAL",
        "whatever else they prove to be"
    );
}

#[tokio::test]
async fn being_an_administrator_makes_nobody_an_approver() {
    let fixture = Fixture::start(APPROVAL).await;
    assert_eq!(
        fixture.refused(&root(), fixture.yes()).await,
        "NOT_ELIGIBLE"
    );
    assert_eq!(
        fixture.refused(&bob(), fixture.yes()).await,
        "NOT_FOUND",
        "a stranger does not even see it"
    );
}

#[tokio::test]
async fn only_people_review() {
    let fixture = Fixture::start(APPROVAL).await;
    let workload = Caller::stand_in(&["spiffe://td/ci", "group:https://idp.example|leads"], true);
    assert_eq!(
        fixture.refused(&workload, fixture.yes()).await,
        "NOT_ELIGIBLE"
    );
}

#[tokio::test]
async fn approving_an_approved_request_is_an_error_and_extends_nothing() {
    let fixture = Fixture::start(&many(1)).await;
    let approved = fixture.review(&bob(), fixture.yes()).await.unwrap();
    let id: GrantId = approved.outcome.unwrap().grant.unwrap();
    let before = fixture
        .rig
        .plane
        .grant(&alice(), id.as_str())
        .await
        .unwrap();
    fixture.rig.advance(60);
    for name in ["bob", "carol"] {
        assert_eq!(
            fixture.refused(&who(name, &[]), fixture.yes()).await,
            "STATE_TERMINAL"
        );
    }
    assert_eq!(
        fixture
            .rig
            .plane
            .grant(&alice(), id.as_str())
            .await
            .unwrap(),
        before
    );
    assert_eq!(fixture.grants().await, 1);
}

#[tokio::test]
async fn what_has_waited_too_long_cannot_be_approved_even_before_that_is_recorded() {
    let fixture = Fixture::start(&many(1)).await;
    fixture.rig.advance(600);
    assert_eq!(
        fixture.refused(&bob(), fixture.yes()).await,
        "STATE_TERMINAL"
    );
}

#[tokio::test]
async fn an_approval_of_other_bytes_is_void() {
    let fixture = Fixture::start(&many(1)).await;
    let duration = Some(Duration::from_secs(21 * 60));
    let other = fixture
        .rig
        .plane
        .request_access(
            &alice(),
            RequestInput {
                duration,
                ..asking()
            },
        )
        .await
        .unwrap();
    for digest in [
        other.terms.digest().to_string(),
        fixture.yes().digest.to_uppercase(),
        "x".into(),
    ] {
        assert_eq!(
            fixture
                .refused(
                    &bob(),
                    ReviewInput {
                        digest,
                        ..fixture.yes()
                    }
                )
                .await,
            "DIGEST_MISMATCH"
        );
    }
    let mut request = fixture.request.clone();
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
    let fixture = Fixture::start(&many(200)).await;
    let people: Vec<Caller> = (0..230).map(|n| who(&format!("p{n}"), &[])).collect();
    let all = join_all(
        people
            .iter()
            .map(|caller| fixture.review(caller, fixture.yes())),
    )
    .await;
    let (taken, refused): (Vec<_>, Vec<_>) = all.into_iter().partition(Result::is_ok);
    assert_eq!((taken.len(), refused.len()), (200, 30));
    for fault in refused {
        assert_eq!(fault.unwrap_err().kind.reason(), "STATE_TERMINAL");
    }
    let request = fixture
        .rig
        .plane
        .access_request(&alice(), &fixture.request.id)
        .await
        .unwrap();
    assert_eq!(
        (request.state, request.reviews.len()),
        (AccessState::Approved, 200)
    );
    assert_eq!(
        (fixture.grants().await, fixture.events("grant.issued").await),
        (1, 1)
    );
    assert_eq!(fixture.events("review.approved").await, 200);
}

#[tokio::test]
async fn a_denial_ends_a_request_at_its_threshold() {
    let fixture = Fixture::start(&many(3)).await;
    let one = fixture.review(&bob(), fixture.no()).await.unwrap();
    assert_eq!(one.state, AccessState::Pending);
    let two = fixture
        .review(&who("carol", &[]), fixture.no())
        .await
        .unwrap();
    assert_eq!(
        (two.state, two.outcome.unwrap().reason.as_str()),
        (AccessState::Denied, "not now")
    );
    assert_eq!(
        (
            fixture.events("review.denied").await,
            fixture.events("access_request.denied").await
        ),
        (2, 1)
    );
    assert_eq!(
        fixture.refused(&who("dora", &[]), fixture.yes()).await,
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
    let fixture = Fixture::start(&many(3)).await;
    let duration = |minutes: u64| Some(Duration::from_secs(minutes * 60));
    for wider in [
        narrow(&["GET,POST /v1/users/{id}"]),
        narrow(&["GET /v1/users/{id}", "/pay.v1.Ledger/Balance"]),
    ] {
        let fault = fixture
            .review(
                &bob(),
                ReviewInput {
                    narrowed_scope: wider,
                    ..fixture.yes()
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
        let longer = ReviewInput {
            narrowed_duration: duration(minutes),
            ..fixture.yes()
        };
        let fault = fixture.review(&bob(), longer).await.unwrap_err();
        assert_eq!(
            (fault.kind.reason(), fault.field.as_deref()),
            ("INVALID_ARGUMENT", Some("narrowed_duration"))
        );
    }
    let only_seven = narrow(&["GET /v1/users/7"]);
    let less = ReviewInput {
        narrowed_duration: duration(10),
        narrowed_scope: only_seven.clone(),
        ..fixture.yes()
    };
    fixture.review(&bob(), less).await.unwrap();
    let carol = who("carol", &[]);
    let more_again = ReviewInput {
        narrowed_scope: narrow(&["GET /v1/users/{id}"]),
        ..fixture.yes()
    };
    assert_eq!(
        fixture.refused(&carol, more_again).await,
        "INVALID_ARGUMENT",
        "what one took away, no other gives back"
    );
    fixture
        .review(
            &carol,
            ReviewInput {
                narrowed_duration: duration(5),
                ..fixture.yes()
            },
        )
        .await
        .unwrap();
    let last = fixture
        .review(&who("dora", &[]), fixture.yes())
        .await
        .unwrap();
    let issued = fixture
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
    let fixture = Fixture::start(&many(2)).await;
    let laxer = policies(&format!("{}{}", POLICIES.trim_end(), many(1)));
    fixture.rig.plane.apply(Arc::new(laxer)).await.unwrap();
    let one = fixture.review(&bob(), fixture.yes()).await.unwrap();
    assert_eq!(one.state, AccessState::Pending);
    assert_eq!(
        fixture
            .review(&who("carol", &[]), fixture.yes())
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
    let asking = RequestInput {
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
    let fixture = Fixture::start("\n").await;
    assert_eq!(
        fixture.refused(&root(), fixture.yes()).await,
        "NOT_ELIGIBLE"
    );
}

#[tokio::test]
async fn an_approver_sees_lists_and_watches_what_waits_for_them() {
    let fixture = Fixture::start(APPROVAL).await;
    let plane = &fixture.rig.plane;
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
                .access_request(caller, &fixture.request.id)
                .await
                .is_ok(),
            sees == 1
        );
    }
    let (_, mut wait) = plane
        .watch_request(&owner, &fixture.request.id)
        .await
        .unwrap();
    fixture.review(&lead, fixture.yes()).await.unwrap();
    wait.changed().await;
    fixture
        .review(&who("sam", &["audit"]), fixture.yes())
        .await
        .unwrap();
    assert_eq!((list(&lead, true).await, list(&owner, true).await), (0, 1));
}

#[tokio::test]
async fn every_user_of_an_issuer_lists_what_any_of_them_may_approve() {
    let fixture = Fixture::start(&many(1)).await;
    let filter = RequestFilter {
        for_review: true,
        ..RequestFilter::default()
    };
    let page = Page::parse(0, "", &[]).unwrap();
    assert_eq!(
        fixture
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
        fixture
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
    let fixture = Fixture::start(&many(2)).await;
    let once = ReviewInput {
        options: under("once"),
        ..fixture.yes()
    };
    let first = fixture.review(&bob(), once.clone()).await.unwrap();
    assert_eq!(fixture.review(&bob(), once.clone()).await.unwrap(), first);
    assert_eq!(fixture.events("review.approved").await, 1);
    let mut other = Canonical::new("test");
    other.text("other");
    let misused = ReviewInput {
        options: WriteOptions {
            fingerprint: other.finish(),
            ..under("once")
        },
        ..once
    };
    assert_eq!(fixture.refused(&bob(), misused).await, "INVALID_ARGUMENT");
}
