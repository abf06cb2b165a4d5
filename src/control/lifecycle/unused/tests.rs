//! Claims about grants that lie unused: they end when that is certain, and never otherwise.

use ulid::Ulid;

use super::*;
use crate::control::fanout::intake::{Intake, Reported};
use crate::control::lifecycle::extend::ExtendInput;
use crate::control::query::usage::{Usage, UsageArgs};
use crate::control::testing::*;
use crate::model::grant::Hold;
use crate::model::identity::Service;
use crate::wire::grant::timestamp_to;
use crate::wire::v1;
use tokio_util::sync::CancellationToken;

/// Unused for five of ten minutes; looked at ten seconds and the sweeper's two later.
const LOOKED_AT: u64 = 300 + 10 + 2;

fn text() -> String {
    POLICIES.replace("max: 1h}", "max: 1h, unusedTtl: 5m}")
}

async fn rig() -> Rig {
    let rig = Rig::empty().await;
    drop(listen(&rig));
    rig.plane.apply(Arc::new(policies(&text()))).await.unwrap();
    rig
}

/// Decisions are asked for from here on.
fn listen(rig: &Rig) -> (Intake, Usage) {
    let args = UsageArgs {
        keep_decisions: Duration::from_hours(1),
        keep_decisions_max: 100,
    };
    let (intake, uses) = Usage::new(args, rig.plane.metrics()).unwrap();
    rig.plane.fanout().take_decisions(intake.clone());
    (intake, uses)
}

async fn granted(rig: &Rig) -> String {
    let asking = crate::control::lifecycle::input::RequestInput {
        duration: Some(Duration::from_mins(10)),
        ..asking()
    };
    let request = rig.plane.request_access(&alice(), asking).await.unwrap();
    request.outcome.unwrap().grant.unwrap().to_string()
}

async fn report(rig: &Rig, decision: v1::Decision, lost: i64) {
    let (intake, uses) = listen(rig);
    intake.take(Reported {
        identity: crate::control::fanout::Identity::default(),
        sidecar: "payments-1".into(),
        instance: "i".into(),
        services: [Service::parse("payments").unwrap()].into(),
        report: v1::DecisionReport {
            decisions: vec![decision],
            lost,
        },
    });
    let stop = CancellationToken::new();
    stop.cancel();
    uses.run(rig.plane.store().clone(), stop).await.unwrap();
}

fn decision(grant: &str, at: Timestamp) -> v1::Decision {
    v1::Decision {
        id: Ulid::from_parts(1, 1).to_string(),
        sequence: 1,
        time: Some(timestamp_to(at)),
        allowed: true,
        grant: grant.to_owned(),
        principal: ALICE.into(),
        service: "payments".into(),
        method: "GET /v1/users/{id}".into(),
        count: 1,
        ..v1::Decision::default()
    }
}

async fn after(rig: &Rig, seconds: u64, id: &str) -> Issued {
    rig.advance(seconds);
    rig.plane.sweep().await.unwrap();
    rig.plane.grant(&alice(), id).await.unwrap()
}

fn lives(issued: &Issued) -> bool {
    issued.ending.is_none()
}

#[tokio::test]
async fn a_grant_that_nobody_used_ends_and_says_why() {
    let rig = rig().await;
    let id = granted(&rig).await;
    let issued = after(&rig, LOOKED_AT - 1, &id).await;
    assert_eq!(
        (issued.origin.unused_until, lives(&issued)),
        (Some(NOON.plus(Duration::from_secs(300))), true)
    );
    let issued = after(&rig, 1, &id).await;
    assert!(
        matches!(
            issued.grant.hold,
            Hold::Ended {
                how: Ended::Revoked,
                ..
            }
        ),
        "{issued:?}"
    );
    let ending = issued.ending.unwrap();
    assert_eq!(ending.by, "system:unused");
    let by = NOON.plus(Duration::from_mins(5));
    assert_eq!(
        ending.reason,
        format!("nobody used it by {by} (duration.unusedTtl of policy payments)")
    );
    assert_eq!(
        (
            rig.events("grant.revoked").await,
            rig.plane.sweep().await.unwrap()
        ),
        (1, 0)
    );
    assert!(
        rig.plane
            .fanout()
            .index()
            .find(&issued.grant.id)
            .unwrap()
            .phase(rig.plane.now())
            == Phase::Ended(Ended::Revoked)
    );
}

#[tokio::test]
async fn a_grant_that_was_used_lasts() {
    let rig = rig().await;
    let id = granted(&rig).await;
    rig.advance(299);
    report(&rig, decision(&id, rig.plane.now()), 0).await;
    assert!(lives(&after(&rig, 100, &id).await));
    let late = granted(&rig).await;
    rig.advance(305);
    let used = v1::Decision {
        id: Ulid::from_parts(1, 2).to_string(),
        sequence: 2,
        ..decision(&late, rig.plane.now())
    };
    report(&rig, used, 0).await;
    assert!(
        lives(&after(&rig, 100, &late).await),
        "used after its moment, and before anybody looked"
    );
}

#[tokio::test]
async fn a_refused_call_is_no_use_and_a_token_is_one() {
    let rig = rig().await;
    let (refused, token) = (granted(&rig).await, granted(&rig).await);
    let no = v1::Decision {
        allowed: false,
        reason: "SCOPE_MISMATCH".into(),
        ..decision(&refused, rig.plane.now())
    };
    report(&rig, no, 0).await;
    let claims = crate::jose::jit::JitClaims {
        issuer: "test".into(),
        id: "J".into(),
        subject: principal(ALICE),
        audience: Service::parse("payments").unwrap(),
        grant: crate::model::grant::GrantId::parse(&token).unwrap(),
        revision: crate::model::grant::Revision(1),
        workload: principal("spiffe://td/a"),
        issued: NOON,
        not_before: NOON,
        expires: NOON.plus(Duration::from_secs(60)),
    };
    rig.plane
        .store()
        .write(move |change| change.note_token(&claims, "k", None))
        .await
        .unwrap();
    assert!(!lives(&after(&rig, LOOKED_AT, &refused).await));
    assert!(lives(&after(&rig, 100, &token).await));
}

#[tokio::test]
async fn where_records_of_use_are_missing_it_lasts() {
    let rig = rig().await;
    let id = granted(&rig).await;
    rig.advance(10);
    report(&rig, decision("", rig.plane.now()), 3).await;
    assert!(
        lives(&after(&rig, LOOKED_AT, &id).await),
        "three are lost: any of them may have been a use"
    );
    let next = granted(&rig).await;
    assert!(
        !lives(&after(&rig, LOOKED_AT, &next).await),
        "that was before its time"
    );

    let deaf = Rig::empty().await;
    deaf.plane.apply(Arc::new(policies(&text()))).await.unwrap();
    let id = granted(&deaf).await;
    assert!(
        lives(&after(&deaf, 500, &id).await),
        "nothing is kept of decisions"
    );
}

#[tokio::test]
async fn after_a_restart_those_who_were_cut_off_have_time_to_come_back() {
    let rig = rig().await;
    let id = granted(&rig).await;
    rig.advance(200);
    let rig = rig.restart().await;
    drop(listen(&rig));
    assert!(lives(&after(&rig, 112 + 100, &id).await));
    let issued = after(&rig, 600, &id).await;
    assert!(
        matches!(
            issued.grant.hold,
            Hold::Ended {
                how: Ended::Expired,
                ..
            }
        ),
        "its own end came first"
    );
    rig.plane.apply(Arc::new(policies(&text()))).await.unwrap();
    let id = granted(&rig).await;
    assert!(
        !lives(&after(&rig, LOOKED_AT, &id).await),
        "nobody can have been cut off with it"
    );
}

#[tokio::test]
async fn a_suspended_grant_is_given_its_time_once_more() {
    let rig = rig().await;
    let id = granted(&rig).await;
    rig.plane.suspend(&root(), to(&id, "odd")).await.unwrap();
    assert!(lives(&after(&rig, LOOKED_AT, &id).await));
    rig.plane.resume(&root(), to(&id, "fine")).await.unwrap();
    assert!(lives(&after(&rig, 200, &id).await));
}

#[tokio::test]
async fn an_extension_has_its_time_to_be_used_once_it_is_all_that_is_left() {
    let rig = Rig::empty().await;
    drop(listen(&rig));
    rig.plane
        .apply(Arc::new(policies(
            &text().replace("unusedTtl: 5m", "unusedTtl: 5m, maxTotal: 1h"),
        )))
        .await
        .unwrap();
    let id = granted(&rig).await;
    report(&rig, decision(&id, rig.plane.now()), 0).await;
    let duration = Some(Duration::from_mins(10));
    let extending = ExtendInput {
        id: id.clone(),
        duration,
        ..ExtendInput::default()
    };
    let request = rig.plane.extend(&alice(), extending).await.unwrap();
    let extension = request.outcome.unwrap().grant.unwrap().to_string();
    let issued = rig.plane.grant(&alice(), &extension).await.unwrap();
    assert_eq!(
        issued.origin.unused_until,
        Some(NOON.plus(Duration::from_mins(15))),
        "it takes over at ten"
    );
    assert!(
        lives(&after(&rig, LOOKED_AT, &extension).await),
        "the grant before it is in use meanwhile"
    );
    assert!(!lives(&after(&rig, 600, &extension).await));
}

#[tokio::test]
async fn what_ended_otherwise_is_left_alone() {
    let rig = rig().await;
    let id = granted(&rig).await;
    rig.plane.release_grant(&alice(), &id).await.unwrap();
    let issued = after(&rig, LOOKED_AT, &id).await;
    assert!(matches!(
        issued.grant.hold,
        Hold::Ended {
            how: Ended::Released,
            ..
        }
    ));
}

#[tokio::test]
async fn without_the_rule_a_grant_may_lie_unused() {
    let rig = Rig::start().await;
    drop(listen(&rig));
    let id = granted(&rig).await;
    let issued = after(&rig, 590, &id).await;
    assert_eq!((issued.origin.unused_until, lives(&issued)), (None, true));
}
