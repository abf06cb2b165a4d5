//! Claims about a sweeper that goes on.

use super::*;
use crate::control::lifecycle::input::RequestInput;
use crate::control::store::Table;
use crate::control::testing::*;

#[tokio::test]
async fn what_cannot_be_done_keeps_nothing_else_from_being_done() {
    let rig = Rig::start().await;
    let asking = RequestInput {
        options: under("once"),
        ..asking()
    };
    rig.plane.request_access(&alice(), asking).await.unwrap();
    let damaged = rig.plane.store().note(|rows| {
        rows.put(
            Table::Due,
            keys::due(NOON, DueKind::GrantEnds, &[0xff]),
            vec![],
        );
        Ok(())
    });
    damaged.await.unwrap();
    rig.advance(25 * 3600);
    assert!(rig.plane.sweep().await.is_err());
    let left = rig
        .plane
        .store()
        .read(|reader| Ok::<_, StoreError>(reader.meta()?.unwrap().answered))
        .await
        .unwrap();
    assert_eq!(left, 0, "the answer was forgotten all the same");
}
