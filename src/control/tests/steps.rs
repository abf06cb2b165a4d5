//! Every state and every call that could change it: what the tables of the model say is what the control plane does.

use super::super::lifecycle::caller;
use super::*;
use crate::control::lifecycle::extend::ExtendInput;
use crate::control::lifecycle::reviews::ReviewInput;
use crate::model::approval::Verdict;
use crate::model::grant::{GrantId, GrantState};

const PEOPLE: &str = "\n  approval: {stages: [{name: s, steps: [{name: people, approvers: ['user:https://idp.example|*']}]}]}\n";

async fn rig(approval: &str) -> Rig {
    let rig = Rig::empty().await;
    rig.plane
        .apply(Arc::new(policies(&format!(
            "{}{approval}",
            POLICIES.trim_end()
        ))))
        .await
        .unwrap();
    rig
}

/// A grant of Alice that stands there.
async fn grant_that_is(state: GrantState, recorded: bool) -> (Rig, GrantId) {
    let rig = rig("").await;
    let start = (state == GrantState::Scheduled).then(|| NOON.plus(Duration::from_secs(3600)));
    let request = rig
        .plane
        .request_access(&alice(), RequestInput { start, ..asking() })
        .await
        .unwrap();
    let id = request.outcome.unwrap().grant.unwrap();
    match state {
        GrantState::Scheduled | GrantState::Active => {}
        GrantState::Suspended => drop(
            rig.plane
                .suspend(&root(), to(id.as_str(), ""))
                .await
                .unwrap(),
        ),
        GrantState::Revoked => drop(
            rig.plane
                .revoke(&root(), to(id.as_str(), ""))
                .await
                .unwrap(),
        ),
        GrantState::Released => drop(
            rig.plane
                .release(&alice(), to(id.as_str(), ""))
                .await
                .unwrap(),
        ),
        GrantState::Expired => {
            rig.advance(63);
            if recorded {
                rig.plane.sweep().await.unwrap();
            }
        }
    }
    (rig, id)
}

async fn step(rig: &Rig, verb: &str, id: &GrantId) -> Result<(), Fault> {
    let of = || to(id.as_str(), "");
    match verb {
        "suspend" => rig.plane.suspend(&root(), of()).await.map(drop),
        "resume" => rig.plane.resume(&root(), of()).await.map(drop),
        "revoke" => rig.plane.revoke(&root(), of()).await.map(drop),
        "release" => rig.plane.release(&alice(), of()).await.map(drop),
        _ => {
            let duration = Some(Duration::from_secs(60));
            let extending = ExtendInput {
                id: id.to_string(),
                duration,
                ..ExtendInput::default()
            };
            rig.plane.extend(&alice(), extending).await.map(drop)
        }
    }
}

#[tokio::test]
async fn every_step_of_a_grant_is_taken_or_refused_with_its_reason() {
    use GrantState::{Active, Expired, Released, Revoked, Scheduled, Suspended};
    const OVER: [&str; 5] = ["STATE_TERMINAL"; 5];
    let verbs = ["suspend", "resume", "revoke", "release", "extend"];
    let table = [
        (
            Scheduled,
            false,
            [
                "GRANT_NOT_STARTED",
                "GRANT_NOT_STARTED",
                "",
                "",
                "GRANT_NOT_STARTED",
            ],
        ),
        (Active, false, ["", "GRANT_NOT_SUSPENDED", "", "", ""]),
        (
            Suspended,
            false,
            ["GRANT_SUSPENDED", "", "", "", "GRANT_SUSPENDED"],
        ),
        (Expired, false, OVER),
        (Expired, true, OVER),
        (Revoked, true, OVER),
        (Released, true, OVER),
    ];
    for (state, recorded, refusals) in table {
        for (verb, refusal) in verbs.into_iter().zip(refusals) {
            let (rig, id) = grant_that_is(state, recorded).await;
            let before = rig.plane.fanout().revision();
            let result = step(&rig, verb, &id).await;
            let told = result.err().map_or("", |fault| {
                let status = api::status::from_fault(&fault);
                assert_eq!(
                    status.code(),
                    tonic::Code::FailedPrecondition,
                    "{verb} while {state:?}"
                );
                reason(&fault)
            });
            assert_eq!(told, refusal, "{verb} while {state:?}");
            assert_eq!(
                rig.plane.fanout().revision() == before,
                !refusal.is_empty(),
                "{verb} while {state:?}"
            );
        }
    }
    let (rig, _) = grant_that_is(Active, false).await;
    let standing = "apiVersion: jitgate.dev/v1\nkind: StandingGrant\nmetadata: {name: baseline}\nspec:\n  subject: \
                    user:https://idp.example|alice\n  scope: {service: shop, http: [\"GET /\"]}\n";
    rig.plane.apply(Arc::new(policies(standing))).await.unwrap();
    let fault = step(&rig, "extend", &GrantId::parse("baseline").unwrap())
        .await
        .unwrap_err();
    assert_eq!(reason(&fault), "GRANT_STANDING");
}

/// A request of Alice that stands there.
async fn request_that_is(state: AccessState, recorded: bool) -> (Rig, Arc<str>, ReviewInput) {
    let rig = rig(PEOPLE).await;
    // It fails when it is approved after its own end.
    let failing = state == AccessState::Failed;
    let (start, duration) = (
        failing.then(|| NOON.plus(Duration::from_secs(10))),
        minutes(if failing { 1 } else { 20 }),
    );
    if failing {
        let people_only = format!("{}{PEOPLE}", POLICIES.trim_end()).replace("10m\"", "1s\"");
        rig.plane
            .apply(Arc::new(policies(&people_only)))
            .await
            .unwrap();
    }
    let request = rig
        .plane
        .request_access(
            &alice(),
            RequestInput {
                start,
                duration,
                ..asking()
            },
        )
        .await
        .unwrap();
    assert_eq!(request.state, AccessState::Pending);
    let approval = approval(&request);
    let review = async |verdict| {
        let reviewing = ReviewInput {
            verdict,
            ..approval.clone()
        };
        rig.plane
            .review_request(&bob(), reviewing)
            .await
            .unwrap()
            .state
    };
    match state {
        AccessState::Pending => {}
        AccessState::Approved => assert_eq!(review(Verdict::Approve).await, AccessState::Approved),
        AccessState::Denied => assert_eq!(review(Verdict::Deny).await, AccessState::Denied),
        AccessState::Cancelled => drop(
            rig.plane
                .cancel(&alice(), to(&request.id, ""))
                .await
                .unwrap(),
        ),
        AccessState::Expired => {
            rig.advance(603);
            if recorded {
                rig.plane.sweep().await.unwrap();
            }
        }
        AccessState::Failed => {
            rig.advance(80);
            assert_eq!(review(Verdict::Approve).await, AccessState::Failed);
        }
    }
    (rig, request.id, approval)
}

#[tokio::test]
async fn every_step_of_a_request_that_is_over_is_refused_as_such() {
    for state in AccessState::ALL {
        for recorded in [true, false] {
            for verb in ["cancel", "approve", "deny"] {
                let (rig, id, approval) = request_that_is(state, recorded).await;
                let before = rig.plane.fanout().revision();
                let carol = caller::Caller::stand_in(&["user:https://idp.example|carol"], false);
                let result = match verb {
                    "cancel" => rig.plane.cancel(&alice(), to(&id, "")).await,
                    "approve" => rig.plane.review_request(&carol, approval).await,
                    _ => {
                        rig.plane
                            .review_request(
                                &carol,
                                ReviewInput {
                                    verdict: Verdict::Deny,
                                    ..approval
                                },
                            )
                            .await
                    }
                };
                if state == AccessState::Pending {
                    assert!(result.unwrap().state.is_terminal(), "{verb}");
                    continue;
                }
                let fault = result.unwrap_err();
                assert_eq!(reason(&fault), "STATE_TERMINAL", "{verb} while {state}");
                assert_eq!(
                    api::status::from_fault(&fault).code(),
                    tonic::Code::FailedPrecondition
                );
                assert!(
                    fault.message.contains(state.as_str()),
                    "{verb} while {state}: {fault}"
                );
                assert_eq!(
                    rig.plane.fanout().revision(),
                    before,
                    "{verb} while {state}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_request_that_is_left_to_people_says_which_rule_nearly_approved_it() {
    let rig = Rig::empty().await;
    let capped = POLICIES.replace(
        "when: 'request.duration <= duration(\"10m\")'",
        "when: 'true', maxDuration: 10m",
    );
    rig.plane.apply(Arc::new(policies(&capped))).await.unwrap();
    let asking = RequestInput {
        duration: Some(Duration::from_secs(2700)),
        ..asking()
    };
    let request = rig.plane.request_access(&alice(), asking).await.unwrap();
    let notes = ["rule short approves at most 10m, and this asks for 45m"];
    assert_eq!(
        (request.state, request.notes.as_slice()),
        (AccessState::Pending, &notes.map(str::to_owned)[..])
    );
    assert_eq!(
        rig.plane
            .access_request(&alice(), &request.id)
            .await
            .unwrap()
            .notes,
        notes,
        "and goes on saying so"
    );
}
