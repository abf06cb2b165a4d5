use super::*;
use crate::control::lifecycle::caller::Caller;
use crate::control::lifecycle::fault::Fault;
use crate::control::testing::*;
use crate::model::access::AccessState;
use crate::model::caller::Caller as Calling;
use crate::model::decide::{self, Check, Freshness};
use crate::model::decision::Decision;
use crate::model::identity::{Principal, Service};
use crate::model::target::Target;

const PEOPLE: &str = "\n  approval: {stages: [{name: s, steps: [{name: people, approvers: ['user:https://idp.example|*'], denials: 2}]}]}\n";

fn minutes(minutes: u64) -> Duration {
    Duration::from_secs(minutes * 60)
}

fn more(id: &GrantId, span: Duration) -> ExtendInput {
    ExtendInput {
        id: id.to_string(),
        duration: Some(span),
        reason: "not done".into(),
        ..ExtendInput::default()
    }
}

async fn rig(policies_text: &str) -> Rig {
    let rig = Rig::empty().await;
    rig.plane
        .apply(Arc::new(policies(policies_text)))
        .await
        .unwrap();
    rig
}

async fn grant_of(rig: &Rig, span: Duration) -> GrantId {
    let asking = RequestInput {
        duration: Some(span),
        ..asking()
    };
    rig.plane
        .request_access(&alice(), asking)
        .await
        .unwrap()
        .outcome
        .unwrap()
        .grant
        .unwrap()
}

async fn refused(rig: &Rig, caller: &Caller, extending: ExtendInput) -> Fault {
    let before = rig.plane.fanout().revision();
    let fault = rig.plane.extend(caller, extending).await.unwrap_err();
    assert_eq!(rig.plane.fanout().revision(), before, "nothing is changed");
    fault
}

/// What a call of Alice would find.
fn decided(rig: &Rig, after: Duration) -> Decision {
    let service = Service::parse("payments").unwrap();
    let caller = Calling {
        principals: vec![Principal::parse(ALICE).unwrap()],
        ..Calling::default()
    };
    let check = Check {
        service: &service,
        target: Target::http("GET", "/v1/users/7"),
        caller: Ok(caller),
    };
    decide::decide(
        &*rig.plane.fanout().index(),
        Freshness::Fresh,
        &check,
        NOON.plus(after),
    )
}

#[tokio::test]
async fn an_extension_goes_on_where_the_grant_ends_and_moves_no_end() {
    let rig = rig(POLICIES).await;
    let old = grant_of(&rig, minutes(10)).await;
    rig.advance(300);
    let request = rig
        .plane
        .extend(&alice(), more(&old, minutes(10)))
        .await
        .unwrap();
    assert_eq!(
        (request.state, request.terms.extends.as_ref()),
        (AccessState::Approved, Some(&old))
    );
    let new = rig
        .plane
        .grant(&alice(), request.outcome.unwrap().grant.unwrap().as_str())
        .await
        .unwrap();
    assert_eq!(
        new.grant.not_before,
        NOON.plus(minutes(5)),
        "in force at once"
    );
    assert_eq!(new.grant.expires(), Some(NOON.plus(minutes(20))));
    let old = rig.plane.grant(&alice(), old.as_str()).await.unwrap();
    assert_eq!(
        old.grant.expires(),
        Some(NOON.plus(minutes(10))),
        "never moved"
    );
    assert_eq!(old.origin.chain.extended_by.as_ref(), Some(&new.grant.id));
    let chain = Chain {
        extends: Some(old.grant.id),
        extended_by: None,
        extensions: 1,
        since: Some(NOON),
    };
    assert_eq!(new.origin.chain, chain);
    assert_eq!(new.grant.scope, old.grant.scope);
    for after in [6, 9, 10, 11, 19] {
        assert!(
            matches!(decided(&rig, minutes(after)), Decision::Permit(_)),
            "no gap at minute {after}"
        );
    }
    assert!(matches!(decided(&rig, minutes(20)), Decision::Deny(_)));
}

#[tokio::test]
async fn how_often_and_how_long_in_all_is_bounded_and_a_refusal_says_what_is_left() {
    let rig = rig(&POLICIES.replace("max: 1h", "max: 1h, maxExtensions: 2, maxTotal: 70m")).await;
    let first = grant_of(&rig, minutes(10)).await;
    rig.advance(60);
    let fault = refused(
        &rig,
        &alice(),
        ExtendInput {
            duration: Some(minutes(61)),
            ..more(&first, minutes(1))
        },
    )
    .await;
    assert_eq!(
        fault.kind.reason(),
        "LIMIT_EXCEEDED",
        "no extension is longer than a grant may be"
    );
    let mut last = first;
    for _ in 0..2 {
        let request = rig
            .plane
            .extend(&alice(), more(&last, minutes(10)))
            .await
            .unwrap();
        last = request.outcome.unwrap().grant.unwrap();
    }
    let fault = refused(&rig, &alice(), more(&last, minutes(1))).await;
    assert_eq!(
        (fault.kind.reason(), fault.field.as_deref()),
        ("LIMIT_EXCEEDED", None)
    );
    assert!(
        fault
            .message
            .contains("extended 2 times at most (duration.maxExtensions)"),
        "{fault}"
    );
    assert!(fault.message.contains("nothing is left"), "{fault}");
}

#[tokio::test]
async fn the_total_counts_from_where_the_first_grant_began() {
    let rig = rig(POLICIES).await;
    let first = grant_of(&rig, minutes(10)).await;
    rig.advance(300);
    let fault = refused(&rig, &alice(), more(&first, minutes(51))).await;
    assert_eq!(
        (fault.kind.reason(), fault.field.as_deref()),
        ("LIMIT_EXCEEDED", Some("duration"))
    );
    assert!(
        fault.message.contains("1h in all (duration.maxTotal)")
            && fault.message.contains("50m are left"),
        "{fault}"
    );
    assert!(
        fault.metadata.contains(&("left", "3000s".to_owned())),
        "{fault:?}"
    );
    let exactly = rig
        .plane
        .extend(&alice(), more(&first, minutes(50)))
        .await
        .unwrap();
    assert_eq!(
        exactly.state,
        AccessState::Pending,
        "over what a rule approves"
    );
}

#[tokio::test]
async fn a_policy_can_forbid_extensions() {
    let rig = rig(&POLICIES.replace("max: 1h", "max: 1h, maxExtensions: 0")).await;
    let grant = grant_of(&rig, minutes(10)).await;
    let fault = refused(&rig, &alice(), more(&grant, minutes(1))).await;
    assert!(fault.message.contains("0 times at most"), "{fault}");
}

#[tokio::test]
async fn only_its_subject_its_requester_or_an_administrator_extends_a_grant() {
    let rig = rig(POLICIES).await;
    let id = grant_of(&rig, minutes(10)).await;
    assert_eq!(
        refused(&rig, &bob(), more(&id, minutes(1)))
            .await
            .kind
            .reason(),
        "NOT_FOUND"
    );
    let fault = refused(&rig, &root(), more(&id, minutes(1))).await;
    assert_eq!(
        fault.kind.reason(),
        "SUBJECT_NOT_ALLOWED",
        "an administrator may ask, and the policy rules as on any request"
    );
    let mut of_group = grant("of-group");
    of_group.grant.subject = principal("group:https://idp.example|sre");
    of_group.grant.not_before = NOON;
    rig.plane
        .store()
        .write(move |change| change.issue(&mut of_group, "test", ""))
        .await
        .unwrap();
    let of_group = GrantId::parse("of-group").unwrap();
    assert_eq!(
        refused(&rig, &alice(), more(&of_group, minutes(1)))
            .await
            .kind
            .reason(),
        "NOT_ELIGIBLE"
    );
}

#[tokio::test]
async fn another_policy_that_decides_by_now_does_not_extend() {
    let rig = rig(POLICIES).await;
    let id = grant_of(&rig, minutes(10)).await;
    let other = POLICIES.replace("name: payments}", "name: stricter}");
    rig.plane.apply(Arc::new(policies(&other))).await.unwrap();
    assert_eq!(
        refused(&rig, &alice(), more(&id, minutes(1)))
            .await
            .kind
            .reason(),
        "POLICY_MISMATCH"
    );
}

/// Alice has ten minutes and has asked people for ten more.
async fn waiting_for_people() -> (Rig, GrantId, AccessRequest) {
    let rig = rig(&format!("{}{PEOPLE}", POLICIES.trim_end())).await;
    let old = grant_of(&rig, minutes(10)).await;
    let request = rig
        .plane
        .extend(&alice(), more(&old, minutes(15)))
        .await
        .unwrap();
    assert_eq!(
        (request.state, request.pending_until),
        (AccessState::Pending, NOON.plus(minutes(10)))
    );
    (rig, old, request)
}

#[tokio::test]
async fn people_approve_an_extension_and_its_end_does_not_wait_for_them() {
    let (rig, old, request) = waiting_for_people().await;
    rig.advance(599);
    let approved = rig
        .plane
        .review_request(&bob(), approval(&request))
        .await
        .unwrap();
    let new = rig
        .plane
        .grant(&alice(), approved.outcome.unwrap().grant.unwrap().as_str())
        .await
        .unwrap();
    assert_eq!(new.grant.expires(), Some(NOON.plus(minutes(25))));
    assert_eq!(new.origin.chain.extends, Some(old));
}

#[tokio::test]
async fn an_extension_of_a_grant_that_was_ended_meanwhile_fails() {
    for how in ["revoked", "released", "suspended"] {
        let (rig, old, request) = waiting_for_people().await;
        let ended = match how {
            "revoked" => rig.plane.revoke(&root(), to(old.as_str(), "leak")).await,
            "released" => rig.plane.release(&alice(), to(old.as_str(), "")).await,
            _ => rig.plane.suspend(&root(), to(old.as_str(), "odd")).await,
        };
        ended.unwrap();
        let failed = rig
            .plane
            .review_request(&bob(), approval(&request))
            .await
            .unwrap();
        assert_eq!(failed.state, AccessState::Failed);
        let outcome = failed.outcome.unwrap();
        assert!(
            outcome.grant.is_none() && outcome.reason.contains(how),
            "{outcome:?}"
        );
    }
}

#[tokio::test]
async fn of_two_extensions_that_wait_only_one_is_carried_out() {
    let (rig, old, first) = waiting_for_people().await;
    let second = rig
        .plane
        .extend(&alice(), more(&old, minutes(15)))
        .await
        .unwrap();
    rig.plane
        .review_request(&bob(), approval(&first))
        .await
        .unwrap();
    let failed = rig
        .plane
        .review_request(&bob(), approval(&second))
        .await
        .unwrap();
    assert_eq!(failed.state, AccessState::Failed);
    let fault = refused(&rig, &alice(), more(&old, minutes(15))).await;
    assert_eq!(fault.kind.reason(), "GRANT_EXTENDED");
}

#[tokio::test]
async fn a_suspended_grant_is_not_extended_and_the_refusal_says_so() {
    let rig = rig(POLICIES).await;
    let id = grant_of(&rig, minutes(10)).await;
    rig.plane
        .suspend(&root(), to(id.as_str(), "odd"))
        .await
        .unwrap();
    let fault = refused(&rig, &alice(), more(&id, minutes(1))).await;
    assert_eq!(fault.kind.reason(), "GRANT_SUSPENDED");
    assert!(
        fault.message.contains("cannot be extended while it is"),
        "{fault}"
    );
}

#[tokio::test]
async fn an_extension_that_its_window_cuts_off_too_early_extends_nothing() {
    let always = POLICIES.replace("request.duration <= duration(\"10m\")", "true");
    let rig = rig(&always).await;
    let old = grant_of(&rig, minutes(50)).await;
    // It is 22:13 there. The grant was issued before there were windows, and ends within the second of these.
    let windows = "  windows: [{from: '22:00', to: '22:30', timeZone: UTC}, {from: '23:00', to: '23:30', timeZone: UTC}]\n";
    rig.plane
        .apply(Arc::new(policies(&format!("{always}{windows}"))))
        .await
        .unwrap();
    let request = rig
        .plane
        .extend(&alice(), more(&old, minutes(10)))
        .await
        .unwrap();
    assert_eq!(request.state, AccessState::Failed, "{request:?}");
    assert!(request.outcome.unwrap().reason.contains("window closes"));
    assert_eq!(
        rig.plane
            .grant(&alice(), old.as_str())
            .await
            .unwrap()
            .origin
            .chain
            .extended_by,
        None
    );
}
