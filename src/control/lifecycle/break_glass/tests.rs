use std::ops::ControlFlow;
use std::time::Duration;

use super::*;
use crate::control::lifecycle::extend::ExtendInput;
use crate::control::lifecycle::grants::GrantFilter;
use crate::control::lifecycle::input::RequestInput;
use crate::control::query::lists::RequestFilter;
use crate::control::query::page::Page;
use crate::control::store::chain;
use crate::control::testing::*;
use crate::model::access::{AccessState, Issued};
use crate::model::canonical::Canonical;

const ADMIN_OF_ALICE: &str = "user:https://idp.example|alice-admin";
const WHY: &str = "the ledger is down for everybody";

/// Alice may break the glass, by either account; leads and owners would have had to approve.
const GLASS: &str = r#"
  approval:
    stages:
      - name: team
        steps: [{name: leads, approvers: ["group:https://idp.example|leads"], approvals: 2}]
      - name: owner
        steps: [{name: owner, approvers: ["user:https://idp.example|olga"]}]
  breakGlass:
    who: ["user:https://idp.example|alice", "user:https://idp.example|alice-admin"]
    maxDuration: 15m
    reviewWithin: 1h
---
apiVersion: jitgate.dev/v1
kind: Person
metadata: {name: alice}
spec: {accounts: ["user:https://idp.example|alice", "user:https://idp.example|alice-admin"]}
"#;

async fn rig() -> Rig {
    let rig = Rig::empty().await;
    rig.plane
        .apply(Arc::new(policies(&format!(
            "{}{GLASS}",
            POLICIES.trim_end()
        ))))
        .await
        .unwrap();
    rig
}

fn lead() -> Caller {
    Caller::stand_in(
        &[
            "user:https://idp.example|lea",
            "group:https://idp.example|leads",
        ],
        false,
    )
}

fn olga() -> Caller {
    Caller::stand_in(&["user:https://idp.example|olga"], false)
}

fn breaking() -> RequestInput {
    RequestInput {
        break_glass: true,
        duration: Some(Duration::from_secs(900)),
        reason: WHY.into(),
        ..asking()
    }
}

fn says(id: &str, opinion: Opinion) -> Afterwards {
    let options = WriteOptions {
        fingerprint: Canonical::new("test").finish(),
        ..WriteOptions::default()
    };
    Afterwards {
        id: id.to_owned(),
        opinion,
        reason: "looked at".into(),
        options,
    }
}

async fn issued(rig: &Rig, request: &AccessRequest) -> Issued {
    let id = request.outcome.as_ref().unwrap().grant.clone().unwrap();
    rig.plane.grant(&alice(), id.as_str()).await.unwrap()
}

async fn refused(rig: &Rig, caller: &Caller, asking: RequestInput) -> &'static str {
    let before = rig.plane.fanout().revision();
    let reason = rig
        .plane
        .request_access(caller, asking)
        .await
        .unwrap_err()
        .kind
        .reason();
    assert_eq!(rig.plane.fanout().revision(), before, "nothing is changed");
    reason
}

async fn unreviewed(rig: &Rig, caller: &Caller, id: &str) -> &'static str {
    rig.plane
        .review_break_glass(caller, says(id, Opinion::Fine))
        .await
        .unwrap_err()
        .kind
        .reason()
}

/// Kind, actor and reason of each event of some kinds.
async fn events(rig: &Rig, kinds: &'static [&'static str]) -> Vec<(String, String, String)> {
    let read = rig.plane.store().read(move |reader| {
        let mut found = Vec::new();
        reader.audit(0, &mut |event| {
            if kinds.contains(&event.r#type.as_str()) {
                found.push((event.r#type, event.actor, event.reason));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok::<_, StoreError>(found)
    });
    read.await.unwrap()
}

async fn waiting_for(rig: &Rig, caller: &Caller) -> usize {
    let filter = RequestFilter {
        for_review: true,
        ..RequestFilter::default()
    };
    rig.plane
        .access_requests(caller, Page::parse(0, "", &[]).unwrap(), filter)
        .await
        .unwrap()
        .0
        .len()
}

#[tokio::test]
async fn broken_glass_gives_access_at_once_and_says_so() {
    let rig = rig().await;
    let request = rig
        .plane
        .request_access(&alice(), breaking())
        .await
        .unwrap();
    assert_eq!(request.state, AccessState::Approved);
    assert_eq!(
        request.break_glass,
        Some(AfterTheFact::by(NOON.plus(Duration::from_secs(3600))))
    );
    let grant = issued(&rig, &request).await;
    assert_eq!(
        grant.grant.expires(),
        Some(NOON.plus(Duration::from_secs(900)))
    );
    assert!(
        rig.plane.fanout().index().find(&grant.grant.id).is_some(),
        "enforced"
    );
    assert_eq!(
        grant.origin.break_glass.unwrap().review,
        request.break_glass.unwrap()
    );
    let said = format!("break-glass: {WHY}");
    for (kind, actor, reason) in events(&rig, &["grant.issued", "access_request.approved"]).await {
        assert_eq!((&*actor, &*reason), (ALICE, &*said), "{kind}");
    }
    assert!(rig.plane.store().read(chain::verify).await.unwrap().is_ok());
}

#[tokio::test]
async fn who_may_how_long_and_why_are_the_policys_to_say() {
    let rig = rig().await;
    assert_eq!(
        refused(&rig, &bob(), breaking()).await,
        "BREAK_GLASS_NOT_ALLOWED"
    );
    assert_eq!(
        refused(
            &rig,
            &alice(),
            RequestInput {
                reason: "down".into(),
                ..breaking()
            }
        )
        .await,
        "REASON_REQUIRED"
    );
    let longer = RequestInput {
        duration: Some(Duration::from_secs(901)),
        ..breaking()
    };
    assert_eq!(refused(&rig, &alice(), longer).await, "LIMIT_EXCEEDED");
    let rig = Rig::start().await;
    assert_eq!(
        refused(&rig, &alice(), breaking()).await,
        "BREAK_GLASS_NOT_ALLOWED",
        "no policy says so"
    );
}

#[tokio::test]
async fn without_breaking_it_the_same_people_wait_for_approval() {
    let rig = rig().await;
    let whole = RequestInput {
        break_glass: false,
        ..breaking()
    };
    assert_eq!(
        rig.plane
            .request_access(&alice(), whole)
            .await
            .unwrap()
            .state,
        AccessState::Pending
    );
}

#[tokio::test]
async fn everybody_who_was_passed_over_is_told_until_one_of_them_has_looked_at_it() {
    let rig = rig().await;
    let request = rig
        .plane
        .request_access(&alice(), breaking())
        .await
        .unwrap();
    for told in [lead(), olga()] {
        assert_eq!(waiting_for(&rig, &told).await, 1, "{}", told.who());
        let page = Page::parse(0, "", &[]).unwrap();
        let listed = rig
            .plane
            .grants(&told, page, GrantFilter::default())
            .await
            .unwrap()
            .0;
        assert!(
            listed[0]
                .origin
                .break_glass
                .as_ref()
                .is_some_and(|over| over.review.said.is_none())
        );
    }
    assert_eq!(
        (
            waiting_for(&rig, &alice()).await,
            waiting_for(&rig, &bob()).await
        ),
        (0, 0)
    );
    let reviewed = rig
        .plane
        .review_break_glass(&lead(), says(&request.id, Opinion::Fine))
        .await
        .unwrap();
    assert_eq!(
        reviewed.break_glass.unwrap().said.unwrap().opinion,
        Opinion::Fine
    );
    assert_eq!(
        (
            waiting_for(&rig, &lead()).await,
            waiting_for(&rig, &olga()).await
        ),
        (0, 0)
    );
    let grant = issued(&rig, &request).await;
    assert!(
        grant.origin.break_glass.unwrap().review.said.is_some(),
        "the grant says so, too"
    );
    assert_eq!(
        grant.grant.hold,
        crate::model::grant::Hold::None,
        "and goes on"
    );
    assert_eq!(events(&rig, &["break_glass.accepted"]).await.len(), 1);
}

#[tokio::test]
async fn only_one_who_was_passed_over_reviews_it_and_only_once() {
    let rig = rig().await;
    let request = rig
        .plane
        .request_access(&alice(), breaking())
        .await
        .unwrap();
    let leads = "group:https://idp.example|leads";
    for own in [
        Caller::stand_in(&[ALICE, leads], true),
        Caller::stand_in(&[ADMIN_OF_ALICE, leads], false),
    ] {
        assert_eq!(
            unreviewed(&rig, &own, &request.id).await,
            "SELF_APPROVAL",
            "{}",
            own.who()
        );
    }
    assert_eq!(unreviewed(&rig, &bob(), &request.id).await, "NOT_FOUND");
    assert_eq!(unreviewed(&rig, &root(), &request.id).await, "NOT_ELIGIBLE");
    let workload = Caller::stand_in(&["spiffe://td/ci", leads], true);
    assert_eq!(
        unreviewed(&rig, &workload, &request.id).await,
        "NOT_ELIGIBLE",
        "only people review"
    );
    let mut once = says(&request.id, Opinion::Fine);
    once.options.request_id = "once".into();
    let first = rig
        .plane
        .review_break_glass(&olga(), once.clone())
        .await
        .unwrap();
    assert_eq!(
        rig.plane.review_break_glass(&olga(), once).await.unwrap(),
        first,
        "a retry"
    );
    assert_eq!(
        unreviewed(&rig, &lead(), &request.id).await,
        "STATE_TERMINAL"
    );
    let whole = rig.plane.request_access(&alice(), asking()).await.unwrap();
    assert_eq!(
        unreviewed(&rig, &root(), &whole.id).await,
        "NOT_ELIGIBLE",
        "the glass is whole"
    );
}

#[tokio::test]
async fn an_objection_ends_the_grant() {
    let rig = rig().await;
    let request = rig
        .plane
        .request_access(&alice(), breaking())
        .await
        .unwrap();
    let grant = issued(&rig, &request).await.grant.id;
    rig.plane
        .review_break_glass(&lead(), says(grant.as_str(), Opinion::Objection))
        .await
        .unwrap();
    let ended = issued(&rig, &request).await;
    assert_eq!(
        ended.grant.phase(rig.plane.now()),
        Phase::Ended(Ended::Revoked)
    );
    assert_eq!(
        ended.ending.unwrap().reason,
        "objection to broken glass: looked at"
    );
    let kinds = events(&rig, &["break_glass.objected", "grant.revoked"]).await;
    assert_eq!(kinds.len(), 2);
    assert!(rig.plane.store().read(chain::verify).await.unwrap().is_ok());
}

#[tokio::test]
async fn an_objection_to_what_is_over_ends_nothing_twice() {
    let rig = rig().await;
    let request = rig
        .plane
        .request_access(&alice(), breaking())
        .await
        .unwrap();
    rig.advance(1000);
    rig.plane.sweep().await.unwrap();
    rig.plane
        .review_break_glass(&lead(), says(&request.id, Opinion::Objection))
        .await
        .unwrap();
    assert_eq!(
        issued(&rig, &request).await.grant.phase(rig.plane.now()),
        Phase::Ended(Ended::Expired)
    );
}

#[tokio::test]
async fn an_overdue_review_is_recorded_and_stops_the_next_breaking_until_it_is_written() {
    let rig = rig().await;
    let request = rig
        .plane
        .request_access(&alice(), breaking())
        .await
        .unwrap();
    rig.advance(3599);
    rig.plane
        .request_access(&alice(), breaking())
        .await
        .unwrap();
    rig.advance(1);
    assert_eq!(
        refused(&rig, &alice(), breaking()).await,
        "BREAK_GLASS_SUSPENDED",
        "by the clock, before it is recorded"
    );
    let linked = Caller::stand_in(&[ADMIN_OF_ALICE], false);
    assert_eq!(
        refused(&rig, &linked, breaking()).await,
        "BREAK_GLASS_SUSPENDED",
        "whatever account she uses"
    );
    let fault = rig
        .plane
        .request_access(&alice(), breaking())
        .await
        .unwrap_err();
    assert!(
        fault
            .message
            .contains(&format!("jitgate review {} --ok", request.id)),
        "{fault}"
    );
    rig.plane.measure_reviews().await.unwrap();
    let counted = |state| rig.plane.metrics().reviews_counted(state);
    assert_eq!((counted("overdue"), counted("outstanding")), (1, 1));
    rig.advance(3);
    for _ in 0..3 {
        rig.plane.sweep().await.unwrap();
    }
    let overdue = events(&rig, &["break_glass.overdue"]).await;
    assert_eq!((overdue.len(), &*overdue[0].1), (1, "system:expiry"));
    let due = Some(NOON.plus(Duration::from_secs(3600)));
    let shown = rig
        .plane
        .access_request(&lead(), &request.id)
        .await
        .unwrap();
    assert_eq!(shown.break_glass.unwrap().overdue_since, due);
    assert_eq!(
        issued(&rig, &request)
            .await
            .origin
            .break_glass
            .unwrap()
            .review
            .overdue_since,
        due
    );
    let rig = rig.restart().await;
    rig.plane
        .apply(Arc::new(policies(&format!(
            "{}{GLASS}",
            POLICIES.trim_end()
        ))))
        .await
        .unwrap();
    assert_eq!(
        refused(&rig, &alice(), breaking()).await,
        "BREAK_GLASS_SUSPENDED",
        "a restart forgives nothing"
    );
    rig.plane
        .review_break_glass(&olga(), says(&request.id, Opinion::Fine))
        .await
        .unwrap();
    rig.plane
        .request_access(&alice(), breaking())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_review_that_was_written_in_time_is_never_overdue() {
    let rig = rig().await;
    let request = rig
        .plane
        .request_access(&alice(), breaking())
        .await
        .unwrap();
    rig.plane
        .review_break_glass(&olga(), says(&request.id, Opinion::Fine))
        .await
        .unwrap();
    rig.advance(2 * 3600);
    rig.plane.sweep().await.unwrap();
    assert!(events(&rig, &["break_glass.overdue"]).await.is_empty());
    assert!(
        rig.plane
            .store()
            .read(|reader| reader.open_reviews())
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn reviews_that_are_outstanding_are_bounded() {
    let rig = rig().await;
    for _ in 0..BREAK_GLASS_OPEN_MAX {
        rig.plane
            .request_access(&alice(), breaking())
            .await
            .unwrap();
    }
    assert_eq!(refused(&rig, &alice(), breaking()).await, "LIMIT_EXCEEDED");
}

#[tokio::test]
async fn glass_that_nobody_else_could_look_at_is_not_broken() {
    let rig = Rig::empty().await;
    let alone = GLASS
        .replace("group:https://idp.example|leads", ADMIN_OF_ALICE)
        .replace("|olga", "|alice")
        .replace(", approvals: 2", "");
    rig.plane
        .apply(Arc::new(policies(&format!(
            "{}{alone}",
            POLICIES.trim_end()
        ))))
        .await
        .unwrap();
    assert_eq!(
        refused(&rig, &alice(), breaking()).await,
        "BREAK_GLASS_NOT_ALLOWED"
    );
}

#[tokio::test]
async fn a_rule_that_denies_denies_whoever_breaks_the_glass_too() {
    let rig = Rig::empty().await;
    let text = format!("{}{GLASS}", POLICIES.trim_end()).replace("deny me", WHY);
    rig.plane.apply(Arc::new(policies(&text))).await.unwrap();
    let denied = rig
        .plane
        .request_access(&alice(), breaking())
        .await
        .unwrap();
    assert_eq!(
        (denied.state, denied.break_glass),
        (AccessState::Denied, None)
    );
    assert!(rig.plane.fanout().index().is_empty());
}

#[tokio::test]
async fn glass_is_broken_for_now_and_not_for_later() {
    let rig = rig().await;
    let later = RequestInput {
        start: Some(NOON.plus(Duration::from_secs(7200))),
        ..breaking()
    };
    assert_eq!(
        refused(&rig, &alice(), later).await,
        "BREAK_GLASS_NOT_ALLOWED"
    );
}

#[tokio::test]
async fn only_people_extend_what_the_glass_was_broken_for() {
    let rig = rig().await;
    let request = rig
        .plane
        .request_access(&alice(), breaking())
        .await
        .unwrap();
    let id = issued(&rig, &request).await.grant.id.to_string();
    // A rule approves five minutes of anybody.
    let (duration, reason) = (Some(Duration::from_secs(300)), WHY.to_owned());
    let extending = ExtendInput {
        id,
        duration,
        reason,
        ..ExtendInput::default()
    };
    let asked = rig.plane.extend(&alice(), extending).await.unwrap();
    assert_eq!(asked.state, AccessState::Pending);
    assert_eq!(
        asked.notes,
        ["the glass was broken for the grant that this extends: no rule approves it"]
    );
    assert_eq!(asked.stages.len(), 2, "those who were passed over decide");
}

#[tokio::test]
async fn sidecars_hear_nothing_of_a_review_that_changes_no_grant() {
    let rig = rig().await;
    let request = rig
        .plane
        .request_access(&alice(), breaking())
        .await
        .unwrap();
    rig.plane
        .review_break_glass(&olga(), says(&request.id, Opinion::Fine))
        .await
        .unwrap();
    let (at, changes) = rig
        .plane
        .store()
        .read(|reader| Ok::<_, StoreError>((reader.revision()?, reader.changes()?)))
        .await
        .unwrap();
    assert!(
        changes.iter().all(|(changed, _)| *changed != at),
        "{changes:?}"
    );
}

#[tokio::test]
async fn a_rehearsed_review_opens_and_closes_nothing() {
    let rig = rig().await;
    let dry = RequestInput {
        options: rehearsed(),
        ..breaking()
    };
    assert_eq!(
        rig.plane.request_access(&alice(), dry).await.unwrap().state,
        AccessState::Approved
    );
    assert!(
        rig.plane
            .store()
            .read(|reader| reader.open_reviews())
            .await
            .unwrap()
            .is_empty()
    );
    let request = rig
        .plane
        .request_access(&alice(), breaking())
        .await
        .unwrap();
    let mut objection = says(&request.id, Opinion::Objection);
    objection.options.validate_only = true;
    rig.plane
        .review_break_glass(&olga(), objection)
        .await
        .unwrap();
    assert_eq!(
        rig.plane
            .store()
            .read(|reader| reader.open_reviews())
            .await
            .unwrap()
            .len(),
        1
    );
    assert!(matches!(
        issued(&rig, &request).await.grant.phase(rig.plane.now()),
        Phase::Live(_)
    ));
}
