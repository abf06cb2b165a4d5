use super::*;
use crate::model::caller::Caller as Calling;
use crate::model::decide::{self, Check, Freshness};
use crate::model::decision::{Decision, DenyReason};
use crate::model::grant::GrantState;
use crate::model::target::Target;
use crate::model::time::Timestamp;

const PEOPLE: &str = "\n  approval: {stages: [{name: s, steps: [{name: people, approvers: ['user:https://idp.example|*']}]}]}\n";

fn at(minutes: u64) -> Timestamp {
    NOON.plus(Duration::from_secs(minutes * 60))
}

/// What a call of Alice finds at a minute: what is left, or why not.
fn decided(rig: &Rig, minute: u64) -> Result<Duration, DenyReason> {
    let service = Service::parse("payments").unwrap();
    let caller = Calling {
        principals: vec![principal(ALICE)],
        ..Calling::default()
    };
    let check = Check {
        service: &service,
        target: Target::http("GET", "/v1/users/7"),
        caller: Ok(caller),
    };
    match decide::decide(
        &*rig.plane.fanout().index(),
        Freshness::Fresh,
        &check,
        at(minute),
    ) {
        Decision::Permit(permit) => Ok(permit.remaining().unwrap()),
        Decision::Deny(denial) => Err(denial.reason),
    }
}

async fn people() -> Rig {
    let rig = Rig::empty().await;
    rig.plane
        .apply(Arc::new(policies(&format!(
            "{}{PEOPLE}",
            POLICIES.trim_end()
        ))))
        .await
        .unwrap();
    rig
}

fn later(start: u64, span: u64) -> RequestInput {
    RequestInput {
        duration: minutes(span),
        start: Some(at(start)),
        ..asking()
    }
}

async fn approve(
    rig: &Rig,
    request: &crate::model::access::AccessRequest,
) -> crate::model::access::AccessRequest {
    let reviewing = approval(request);
    rig.plane.review_request(&bob(), reviewing).await.unwrap()
}

#[tokio::test]
async fn connecting_at_minute_59_of_60_gives_one_minute_not_a_new_full_hour() {
    let rig = people().await;
    let request = rig
        .plane
        .request_access(
            &alice(),
            RequestInput {
                duration: minutes(60),
                ..asking()
            },
        )
        .await
        .unwrap();
    approve(&rig, &request).await;
    assert_eq!(decided(&rig, 0), Ok(Duration::from_secs(3600)));
    assert_eq!(decided(&rig, 59), Ok(Duration::from_secs(60)));
    assert_eq!(decided(&rig, 60), Err(DenyReason::GrantExpired));
}

#[tokio::test]
async fn a_grant_that_starts_later_is_scheduled_until_then_and_lasts_from_there() {
    let rig = Rig::start().await;
    let request = rig
        .plane
        .request_access(&alice(), later(30, 10))
        .await
        .unwrap();
    assert_eq!(
        (request.state, request.terms.start),
        (AccessState::Approved, Some(at(30)))
    );
    let id = request.outcome.unwrap().grant.unwrap();
    let grant = rig.plane.grant(&alice(), id.as_str()).await.unwrap().grant;
    assert_eq!((grant.not_before, grant.expires()), (at(30), Some(at(40))));
    assert_eq!(grant.state(rig.plane.now()), GrantState::Scheduled);
    assert_eq!(decided(&rig, 29), Err(DenyReason::GrantNotStarted));
    assert_eq!(decided(&rig, 30), Ok(Duration::from_secs(600)));
    assert_eq!(decided(&rig, 40), Err(DenyReason::GrantExpired));
    rig.plane
        .revoke(&root(), to(id.as_str(), "not needed"))
        .await
        .unwrap();
    assert_eq!(
        decided(&rig, 30),
        Err(DenyReason::GrantRevoked),
        "it can be ended before it begins"
    );
}

#[tokio::test]
async fn approving_late_does_not_shift_the_end_and_approving_after_it_fails() {
    // The request waits for ten minutes at most: it starts and ends within them.
    for (approved, window) in [
        (60, Some((120, 420))),
        (180, Some((180, 420))),
        (419, Some((419, 420))),
        (420, None),
    ] {
        let rig = people().await;
        let after = |seconds: u64| NOON.plus(Duration::from_secs(seconds));
        let start = Some(after(120));
        let asking = RequestInput {
            duration: Some(Duration::from_secs(300)),
            start,
            reason: "no rule".into(),
            ..asking()
        };
        rig.plane
            .apply(Arc::new(policies(
                &format!("{}{PEOPLE}", POLICIES.trim_end()).replace("10m\"", "1m\""),
            )))
            .await
            .unwrap();
        let request = rig.plane.request_access(&alice(), asking).await.unwrap();
        assert_eq!(request.state, AccessState::Pending);
        rig.advance(approved);
        let request = approve(&rig, &request).await;
        let outcome = request.outcome.unwrap();
        match window {
            Some((begins, ends)) => {
                let id = outcome.grant.unwrap();
                let grant = rig.plane.grant(&alice(), id.as_str()).await.unwrap().grant;
                assert_eq!(
                    (grant.not_before, grant.expires()),
                    (after(begins), Some(after(ends)))
                );
            }
            None => {
                assert_eq!((request.state, outcome.grant), (AccessState::Failed, None));
                assert!(outcome.reason.contains("too late"), "{}", outcome.reason);
                assert!(rig.plane.fanout().index().is_empty());
            }
        }
    }
}

#[tokio::test]
async fn a_start_in_the_past_or_too_far_ahead_is_refused_by_its_field() {
    let rig = Rig::start().await;
    for start in [
        at(0),
        NOON.minus(Duration::from_secs(1)),
        NOON.plus(Duration::from_secs(90 * 24 * 3600 + 1)),
    ] {
        let fault = rig
            .plane
            .request_access(
                &alice(),
                RequestInput {
                    start: Some(start),
                    ..asking()
                },
            )
            .await
            .unwrap_err();
        assert_eq!(
            (reason(&fault), fault.field.as_deref()),
            ("INVALID_ARGUMENT", Some("start_time"))
        );
    }
    let furthest = NOON.plus(Duration::from_secs(90 * 24 * 3600));
    assert!(
        rig.plane
            .request_access(
                &alice(),
                RequestInput {
                    start: Some(furthest),
                    ..asking()
                }
            )
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn a_start_is_part_of_what_is_approved() {
    let rig = people().await;
    let first = rig
        .plane
        .request_access(&alice(), later(20, 30))
        .await
        .unwrap();
    let second = rig
        .plane
        .request_access(&alice(), later(21, 30))
        .await
        .unwrap();
    assert_ne!(first.terms.digest(), second.terms.digest());
}
