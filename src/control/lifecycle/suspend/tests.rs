//! Claims about suspended grants: held back everywhere, while their time runs on.

use std::sync::Arc;
use std::time::Duration;

use crate::control::lifecycle::write_options::Transition;
use crate::control::testing::*;
use crate::model::access::Issued;
use crate::model::grant::{GrantId, GrantState, Hold};

async fn granted(rig: &Rig) -> GrantId {
    rig.plane
        .request_access(&alice(), asking())
        .await
        .unwrap()
        .outcome
        .unwrap()
        .grant
        .unwrap()
}

fn of(id: &GrantId) -> Transition {
    to(id.as_str(), "odd calls")
}

async fn now(rig: &Rig, id: &str) -> (Issued, GrantState) {
    let issued = rig.plane.grant(&root(), id).await.unwrap();
    let state = issued.grant.state(rig.plane.now());
    (issued, state)
}

#[tokio::test]
async fn a_suspended_grant_is_held_back_everywhere_and_its_time_runs_on() {
    let rig = Rig::start().await;
    let id = granted(&rig).await;
    let end = now(&rig, id.as_str()).await.0.grant.expires();
    let held = rig.plane.suspend(&root(), of(&id)).await.unwrap();
    assert_eq!(
        rig.plane.fanout().index().find(&id).unwrap().hold,
        Hold::Suspended,
        "published to the sidecars"
    );
    assert_eq!(held.revision, rig.plane.fanout().revision());
    let (issued, state) = now(&rig, id.as_str()).await;
    let suspension = issued.suspension.unwrap();
    assert_eq!(
        (state, &*suspension.by, &*suspension.reason),
        (GrantState::Suspended, ROOT, "odd calls")
    );
    rig.advance(30);
    rig.plane.resume(&root(), of(&id)).await.unwrap();
    let (issued, state) = now(&rig, id.as_str()).await;
    assert_eq!(
        (state, issued.suspension, issued.grant.expires()),
        (GrantState::Active, None, end)
    );
    assert_eq!(rig.events("grant.suspended").await, 1);
    assert_eq!(rig.events("grant.resumed").await, 1);
}

#[tokio::test]
async fn a_grant_expires_while_it_is_suspended_and_is_not_resumed_then() {
    let rig = Rig::start().await;
    let id = granted(&rig).await;
    rig.plane.suspend(&root(), of(&id)).await.unwrap();
    rig.advance(60);
    assert_eq!(now(&rig, id.as_str()).await.1, GrantState::Expired);
    assert_eq!(
        rig.plane
            .resume(&root(), of(&id))
            .await
            .unwrap_err()
            .kind
            .reason(),
        "STATE_TERMINAL"
    );
    rig.advance(3);
    rig.plane.sweep().await.unwrap();
    let (issued, state) = now(&rig, id.as_str()).await;
    assert_eq!(
        (state, issued.suspension.is_some()),
        (GrantState::Expired, true)
    );
    assert_eq!(rig.events("grant.expired").await, 1);
}

#[tokio::test]
async fn only_administrators_suspend_and_resume() {
    let rig = Rig::start().await;
    let id = granted(&rig).await;
    assert_eq!(
        rig.plane
            .suspend(&alice(), of(&id))
            .await
            .unwrap_err()
            .kind
            .reason(),
        "NOT_ELIGIBLE"
    );
    rig.plane.suspend(&root(), of(&id)).await.unwrap();
    assert_eq!(
        rig.plane
            .resume(&alice(), of(&id))
            .await
            .unwrap_err()
            .kind
            .reason(),
        "NOT_ELIGIBLE"
    );
    rig.plane.revoke(&root(), of(&id)).await.unwrap();
    assert_eq!(
        now(&rig, id.as_str()).await.1,
        GrantState::Revoked,
        "a suspended grant can be ended"
    );
}

#[tokio::test]
async fn suspending_one_grant_leaves_the_others() {
    let rig = Rig::start().await;
    let (one, other) = (granted(&rig).await, granted(&rig).await);
    rig.plane.suspend(&root(), of(&one)).await.unwrap();
    assert_eq!(now(&rig, other.as_str()).await.1, GrantState::Active);
}

#[tokio::test]
async fn a_standing_grant_that_is_held_back_stays_so_through_another_declaration() {
    let standing = |path: &str| {
        format!(
            "apiVersion: jitgate.dev/v1\nkind: StandingGrant\nmetadata: {{name: baseline}}\nspec:\n  \
             subject: spiffe://td/a\n  scope: {{service: shop, http: [\"GET {path}\"]}}\n"
        )
    };
    let rig = Rig::empty().await;
    let apply = |text: String| rig.plane.apply(Arc::new(policies(&text)));
    apply(standing("/a")).await.unwrap();
    rig.plane
        .suspend(&root(), to("baseline", "incident"))
        .await
        .unwrap();
    rig.advance(3600);
    rig.plane.sweep().await.unwrap();
    assert_eq!(apply(standing("/a")).await.unwrap().issued, 0);
    assert_eq!(now(&rig, "baseline").await.1, GrantState::Suspended);
    assert_eq!(apply(standing("/b")).await.unwrap().issued, 1);
    let (issued, state) = now(&rig, "baseline").await;
    assert_eq!(
        (state, &*issued.suspension.unwrap().reason),
        (GrantState::Suspended, "incident")
    );
    apply(String::new()).await.unwrap();
    apply(standing("/b")).await.unwrap();
    assert_eq!(
        now(&rig, "baseline").await.1,
        GrantState::Suspended,
        "removed and declared again"
    );
    rig.plane
        .resume(&root(), to("baseline", "over"))
        .await
        .unwrap();
    assert_eq!(now(&rig, "baseline").await.1, GrantState::Active);
}

#[tokio::test]
async fn nothing_brings_a_released_grant_back() {
    let rig = Rig::start().await;
    let id = granted(&rig).await;
    rig.plane
        .release(&alice(), to(id.as_str(), ""))
        .await
        .unwrap();
    let extending = crate::control::lifecycle::extend::ExtendInput {
        id: id.to_string(),
        duration: Some(Duration::from_secs(60)),
        ..Default::default()
    };
    let refused = [
        rig.plane.suspend(&root(), of(&id)).await.map(drop),
        rig.plane.resume(&root(), of(&id)).await.map(drop),
        rig.plane.revoke(&root(), of(&id)).await.map(drop),
        rig.plane.release(&alice(), of(&id)).await.map(drop),
        rig.plane.extend(&alice(), extending).await.map(drop),
    ];
    for result in refused {
        assert_eq!(result.unwrap_err().kind.reason(), "STATE_TERMINAL");
    }
    rig.advance(120);
    rig.plane.sweep().await.unwrap();
    rig.plane
        .apply(Arc::new(policies(&POLICIES.replace("max: 1h", "max: 2h"))))
        .await
        .unwrap();
    let (issued, state) = now(&rig, id.as_str()).await;
    assert_eq!(
        (state, &*issued.ending.unwrap().reason),
        (GrantState::Released, "released by its subject")
    );
    assert_eq!(rig.events("grant.released").await, 1);
    assert_eq!(rig.events("grant.expired").await, 0);
}
