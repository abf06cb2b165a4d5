//! Claims about following access requests: what is shown, and what is told to be gone.

use std::sync::Arc;

use super::*;
use crate::control::lifecycle::break_glass::Afterwards;
use crate::control::lifecycle::input::RequestInput;
use crate::control::lifecycle::write_options::WriteOptions;
use crate::control::testing::*;
use crate::model::access::AccessState;
use crate::model::approval::Opinion;
use crate::model::canonical::Canonical;

const PEOPLE: &str = "\n  approval: {stages: [{name: s, steps: [{name: people, approvers: ['user:https://idp.example|*'], approvals: 2, denials: 2}]}]}\n";

async fn rig() -> Rig {
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

async fn ask(rig: &Rig, caller: &Caller) -> AccessRequest {
    let asking = RequestInput {
        duration: Some(Duration::from_secs(1200)),
        ..asking()
    };
    rig.plane.request_access(caller, asking).await.unwrap()
}

async fn next(following: &mut RequestFollow) -> (&'static str, Option<Arc<AccessRequest>>) {
    match following.next().await.unwrap() {
        Event::Put(request) => ("put", Some(request)),
        Event::Gone(request) => ("gone", Some(request)),
        Event::Listed(_) => ("listed", None),
    }
}

#[tokio::test]
async fn what_waits_for_me_is_shown_first_and_then_as_it_changes() {
    let rig = rig().await;
    let before = ask(&rig, &alice()).await;
    let filter = FollowFilter {
        for_review: true,
        ..FollowFilter::default()
    };
    let mut following = rig.plane.follow_requests(&bob(), filter).await.unwrap();
    let (what, request) = next(&mut following).await;
    assert_eq!(
        (what, request.unwrap().id.clone()),
        ("put", before.id.clone())
    );
    assert_eq!(next(&mut following).await.0, "listed");
    let own = ask(&rig, &bob()).await;
    let later = ask(&rig, &alice()).await;
    let (what, request) = next(&mut following).await;
    assert_eq!(
        (what, request.unwrap().id.clone()),
        ("put", later.id.clone()),
        "his own {} is not his to review",
        own.id
    );
    rig.plane
        .review_request(&bob(), approval(&before))
        .await
        .unwrap();
    let (what, request) = next(&mut following).await;
    assert_eq!(
        (what, request.unwrap().reviews.len()),
        ("gone", 1),
        "it waits for others now"
    );
    rig.plane.cancel(&alice(), to(&later.id, "")).await.unwrap();
    let (what, request) = next(&mut following).await;
    assert_eq!(
        (what, request.unwrap().state),
        ("gone", AccessState::Cancelled)
    );
}

#[tokio::test]
async fn my_own_requests_are_shown_to_their_end_and_those_of_others_are_not() {
    let rig = rig().await;
    let filter = FollowFilter {
        mine: true,
        ..FollowFilter::default()
    };
    let mut following = rig.plane.follow_requests(&alice(), filter).await.unwrap();
    assert_eq!(next(&mut following).await.0, "listed");
    ask(&rig, &bob()).await;
    let mine = ask(&rig, &alice()).await;
    for state in [AccessState::Pending, AccessState::Cancelled] {
        let (what, request) = next(&mut following).await;
        let request = request.unwrap();
        assert_eq!((what, &request.id, request.state), ("put", &mine.id, state));
        if state == AccessState::Pending {
            rig.plane.cancel(&alice(), to(&mine.id, "")).await.unwrap();
        }
    }
}

#[tokio::test]
async fn whoever_falls_behind_learns_what_is_by_now() {
    let rig = rig().await;
    let first = ask(&rig, &alice()).await;
    let mut following = rig
        .plane
        .follow_requests(&root(), FollowFilter::default())
        .await
        .unwrap();
    assert_eq!(
        (next(&mut following).await.0, next(&mut following).await.0),
        ("put", "listed")
    );
    for _ in 0..150 {
        let request = ask(&rig, &bob()).await;
        rig.plane.cancel(&bob(), to(&request.id, "")).await.unwrap();
    }
    rig.plane.cancel(&alice(), to(&first.id, "")).await.unwrap();
    let last = ask(&rig, &bob()).await;
    let mut seen = vec![];
    while seen.last().is_none_or(|(id, _)| *id != last.id) {
        let request = next(&mut following).await.1.unwrap();
        seen.push((request.id.clone(), request.state));
    }
    assert!(seen.len() < 300, "some were missed");
    assert!(
        seen.contains(&(first.id, AccessState::Cancelled)),
        "what was shown is told the end of"
    );
}

#[tokio::test]
async fn broken_glass_that_waits_for_my_review_is_shown_once_and_then_gone() {
    let rig = Rig::empty().await;
    let glass = "\n  approval: {stages: [{name: s, steps: [{name: people, approvers: ['user:https://idp.example|bob'], approvals: 1}]}]}\n  \
                 breakGlass: {who: ['user:https://idp.example|alice'], maxDuration: 15m, reviewWithin: 1h}\n";
    rig.plane
        .apply(Arc::new(policies(&format!(
            "{}{glass}",
            POLICIES.trim_end()
        ))))
        .await
        .unwrap();
    let breaking = || async {
        let reason = "the ledger is down for everybody".to_owned();
        let duration = Some(Duration::from_secs(900));
        let asking = RequestInput {
            break_glass: true,
            duration,
            reason,
            ..asking()
        };
        rig.plane.request_access(&alice(), asking).await.unwrap()
    };
    let before = breaking().await;
    let filter = FollowFilter {
        for_review: true,
        ..FollowFilter::default()
    };
    let mut following = rig.plane.follow_requests(&bob(), filter).await.unwrap();
    let (what, request) = next(&mut following).await;
    assert_eq!((what, &request.unwrap().id), ("put", &before.id));
    assert_eq!(next(&mut following).await.0, "listed");
    rig.advance(1);
    let later = breaking().await;
    let (what, request) = next(&mut following).await;
    assert_eq!((what, &request.unwrap().id), ("put", &later.id));
    // Each look after a while, and each change elsewhere, finds both as they were.
    for _ in 0..3 {
        following.look_through().await.unwrap();
        assert!(
            following.events.is_empty(),
            "shown again: {:?}",
            following.events
        );
        rig.plane.request_access(&root(), asking()).await.unwrap();
    }
    rig.advance(3603);
    rig.plane.sweep().await.unwrap();
    for overdue in [&before, &later] {
        let (what, request) = next(&mut following).await;
        let request = request.unwrap();
        assert!(
            request
                .break_glass
                .as_ref()
                .unwrap()
                .overdue_since
                .is_some()
        );
        assert_eq!(
            (what, &request.id),
            ("put", &overdue.id),
            "that it is overdue is news, once"
        );
    }
    following.look_through().await.unwrap();
    assert!(
        following.events.is_empty(),
        "shown again: {:?}",
        following.events
    );
    for reviewed in [&before, &later] {
        let options = WriteOptions {
            fingerprint: Canonical::new("test").finish(),
            ..WriteOptions::default()
        };
        let said = Afterwards {
            id: reviewed.id.to_string(),
            opinion: Opinion::Fine,
            reason: "looked".into(),
            options,
        };
        rig.plane.review_break_glass(&bob(), said).await.unwrap();
        let (what, request) = next(&mut following).await;
        assert_eq!((what, &request.unwrap().id), ("gone", &reviewed.id));
    }
    following.look_through().await.unwrap();
    assert!(
        following.events.is_empty() && following.shown.is_empty(),
        "nothing is left"
    );
}

#[tokio::test]
async fn a_follower_takes_one_of_its_callers_places() {
    let rig = rig().await;
    let mut all = vec![];
    let fault = loop {
        match rig
            .plane
            .follow_requests(&alice(), FollowFilter::default())
            .await
        {
            Ok(following) => all.push(following),
            Err(fault) => break fault,
        }
    };
    assert_eq!((fault.kind, all.len()), (FaultKind::Limit, 100));
    assert!(
        rig.plane
            .follow_requests(&bob(), FollowFilter::default())
            .await
            .is_ok()
    );
    all.pop();
    assert!(
        rig.plane
            .follow_requests(&alice(), FollowFilter::default())
            .await
            .is_ok()
    );
}
