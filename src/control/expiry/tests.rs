//! Claims about what the clock ends, and about a sweeper that goes on.

use prost::Message;

use super::*;
use crate::control::audit;
use crate::control::requests::Asking;
use crate::control::store::Table;
use crate::control::testing::*;
use crate::model::grant::GrantId;
use crate::wire::grant::timestamp_to;
use crate::wire::store::GrantUse;

/// A grant of ten minutes has to be used within two.
async fn rig() -> Rig {
    let rig = Rig::empty().await;
    let text = POLICIES.replace("max: 1h}", "max: 1h, unusedTtl: 2m}");
    rig.plane.apply(std::sync::Arc::new(policies(&text))).await.unwrap();
    rig
}

async fn granted(rig: &Rig, start: Option<Timestamp>) -> GrantId {
    let asking = Asking { duration: Some(Duration::from_secs(600)), start, ..asking() };
    rig.plane.request_access(&alice(), asking).await.unwrap().outcome.unwrap().grant.unwrap()
}

async fn phase(rig: &Rig, id: &GrantId) -> Phase {
    rig.plane.grant(&root(), id.as_str()).await.unwrap().grant.phase(rig.plane.now())
}

async fn pass(rig: &Rig, seconds: u64) {
    rig.advance(seconds);
    rig.plane.sweep().await.unwrap();
}

#[tokio::test]
async fn a_grant_that_nobody_uses_ends_when_its_policy_says() {
    let rig = rig().await;
    let id = granted(&rig, None).await;
    pass(&rig, 119).await;
    assert!(matches!(phase(&rig, &id).await, Phase::Live(_)));
    pass(&rig, 3).await;
    let ended = rig.plane.grant(&alice(), id.as_str()).await.unwrap();
    assert_eq!(ended.grant.phase(rig.plane.now()), Phase::Ended(Ended::Revoked));
    let ending = ended.ending.unwrap();
    assert_eq!(
        (&*ending.by, &*ending.reason),
        (ACTOR, "unused for 2m 2s: policy payments lets no grant lie for so long")
    );
    assert_eq!(*rig.plane.fanout.index().find(&id).unwrap(), ended.grant, "sidecars hear of it");
    pass(&rig, 0).await;
    assert_eq!(rig.events("grant.revoked").await, 1);
    assert!(rig.plane.store.read(audit::verify).await.unwrap().is_ok());
}

#[tokio::test]
async fn a_grant_that_was_used_goes_on_to_its_end() {
    let rig = rig().await;
    let id = granted(&rig, None).await;
    let known = GrantUse { last: Some(timestamp_to(NOON)), count: 1, ..GrantUse::default() };
    let key = id.as_str().as_bytes().to_vec();
    let noted = rig.plane.store.note(move |rows| {
        rows.put(Table::Uses, key, known.encode_to_vec());
        Ok(())
    });
    noted.await.unwrap();
    pass(&rig, 590).await;
    assert!(matches!(phase(&rig, &id).await, Phase::Live(_)));
    pass(&rig, 20).await;
    assert_eq!(phase(&rig, &id).await, Phase::Ended(Ended::Expired));
    assert_eq!(rig.events("grant.revoked").await, 0);
}

#[tokio::test]
async fn lying_unused_counts_from_the_beginning_and_through_a_restart() {
    let rig = rig().await;
    let id = granted(&rig, Some(NOON.plus(Duration::from_secs(300)))).await;
    let gone = granted(&rig, None).await;
    rig.plane.release_grant(&alice(), gone.as_str()).await.unwrap();
    pass(&rig, 400).await;
    assert!(matches!(phase(&rig, &id).await, Phase::Live(_)));
    assert_eq!(phase(&rig, &gone).await, Phase::Ended(Ended::Released), "over is over");
    let rig = rig.restart().await;
    pass(&rig, 22).await;
    assert_eq!(phase(&rig, &id).await, Phase::Ended(Ended::Revoked));
}

#[tokio::test]
async fn what_cannot_be_done_keeps_nothing_else_from_being_done() {
    let rig = Rig::start().await;
    let asking = Asking { request_id: "once".into(), ..asking() };
    rig.plane.request_access(&alice(), asking).await.unwrap();
    let damaged = rig.plane.store.note(|rows| {
        rows.put(Table::Due, keys::due(NOON, DueKind::GrantEnds, &[0xff]), vec![]);
        Ok(())
    });
    damaged.await.unwrap();
    rig.advance(25 * 3600);
    assert!(rig.plane.sweep().await.is_err());
    let left = rig.plane.store.read(|reader| Ok::<_, StoreError>(reader.meta()?.unwrap().answered)).await.unwrap();
    assert_eq!(left, 0, "the answer was forgotten all the same");
}
