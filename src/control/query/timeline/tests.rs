//! Claims about stories: from any id the same chain, to whoever may see it.

use ulid::Ulid;

use super::*;
use crate::control::fanout::intake::Reported;
use crate::control::query::usage::{Usage, UsageArgs};
use crate::control::testing::*;
use crate::model::identity::Service;
use tokio_util::sync::CancellationToken;

const USED: &str = "01JQ0000000000000000000001";
const REFUSED: &str = "01JQ0000000000000000000002";
const STRANGER: &str = "01JQ0000000000000000000003";

fn decision(id: &str, sequence: i64, after: u64) -> v1::Decision {
    assert!(Ulid::from_string(id).is_ok());
    let time = Some(timestamp_to(
        NOON.plus(std::time::Duration::from_secs(after)),
    ));
    v1::Decision {
        id: id.into(),
        sequence,
        time,
        principal: ALICE.into(),
        service: "payments".into(),
        method: "GET /v1/users/{id}".into(),
        ..v1::Decision::default()
    }
}

/// Alice has asked, used, and been revoked and refused; Bob was refused without any grant.
async fn told() -> (Rig, String, String) {
    let rig = Rig::start().await;
    let request = rig.plane.request_access(&alice(), asking()).await.unwrap();
    let grant = request.outcome.unwrap().grant.unwrap().to_string();
    rig.advance(10);
    rig.plane
        .revoke_grant(&root(), &grant, "leak".into())
        .await
        .unwrap();
    rig.advance(10);
    let refused = |decision: v1::Decision, reason: &str| v1::Decision {
        reason: reason.into(),
        ..decision
    };
    let decisions = vec![
        v1::Decision {
            allowed: true,
            grant: grant.clone(),
            ..decision(USED, 1, 5)
        },
        refused(
            v1::Decision {
                grant: grant.clone(),
                ..decision(REFUSED, 2, 15)
            },
            "GRANT_REVOKED",
        ),
        refused(
            v1::Decision {
                principal: BOB.into(),
                ..decision(STRANGER, 3, 16)
            },
            "NO_GRANT",
        ),
    ];
    let args = UsageArgs {
        keep_decisions: std::time::Duration::from_secs(600),
        keep_decisions_max: 100,
    };
    let (intake, uses) = Usage::new(args, rig.plane.metrics()).unwrap();
    intake.take(Reported {
        identity: crate::control::fanout::Identity::default(),
        sidecar: "payments-1".into(),
        instance: "i".into(),
        services: [Service::parse("payments").unwrap()].into(),
        report: v1::DecisionReport { decisions, lost: 0 },
    });
    let stop = CancellationToken::new();
    stop.cancel();
    // Asked to stop, it writes what has arrived.
    uses.run(rig.plane.store().clone(), stop).await.unwrap();
    (rig, request.id.to_string(), grant)
}

fn kinds(story: &v1::Story) -> Vec<String> {
    let kind = |entry: &v1::StoryEntry| match &entry.what {
        Some(What::Event(event)) => event.r#type.clone(),
        Some(What::Decision(decision)) if decision.allowed => "use".to_owned(),
        Some(What::Decision(decision)) => decision.reason.clone(),
        Some(What::ExpiredGrant(_)) => "expired".to_owned(),
        None => String::new(),
    };
    story.entries.iter().map(kind).collect()
}

#[tokio::test]
async fn a_grant_its_request_and_its_decisions_tell_one_story() {
    let (rig, request, grant) = told().await;
    for id in [
        &*request,
        &*grant,
        USED,
        REFUSED,
        &format!("grants/{grant}"),
        &format!("accessRequests/{request}"),
    ] {
        let story = rig.plane.story(&alice(), id).await.unwrap();
        let expected = [
            "access_request.created",
            "grant.issued",
            "access_request.approved",
            "use",
            "grant.revoked",
            "GRANT_REVOKED",
        ];
        assert_eq!(kinds(&story), expected, "{id}");
        assert_eq!(
            (
                story.access_requests[0].id.as_str(),
                story.grants[0].id.as_str()
            ),
            (&*request, &*grant)
        );
        assert_eq!(story.grants[0].use_count, 1);
        assert_eq!(
            story
                .decision
                .map(|decision| decision.id)
                .unwrap_or_default(),
            if id.starts_with("01JQ") { id } else { "" }
        );
    }
}

#[tokio::test]
async fn a_refusal_without_a_grant_is_told_by_itself() {
    let (rig, ..) = told().await;
    let story = rig.plane.story(&bob(), STRANGER).await.unwrap();
    assert_eq!(kinds(&story), ["NO_GRANT"]);
    assert_eq!(story.decision.unwrap().sidecar, "payments-1");
}

#[tokio::test]
async fn nobody_is_told_the_story_of_others() {
    let (rig, request, grant) = told().await;
    for id in [
        &*request,
        &*grant,
        USED,
        REFUSED,
        "01JQ0000000000000000000009",
        "",
    ] {
        let fault = rig.plane.story(&bob(), id).await.unwrap_err();
        assert_eq!(fault.kind.reason(), "NOT_FOUND", "{id}");
    }
    assert!(rig.plane.story(&root(), &grant).await.is_ok());
    assert!(rig.plane.story(&alice(), STRANGER).await.is_err());
}

#[tokio::test]
async fn a_grant_that_has_just_expired_has_its_end_in_the_story() {
    let rig = Rig::start().await;
    let request = rig.plane.request_access(&alice(), asking()).await.unwrap();
    rig.advance(61);
    let story = rig.plane.story(&alice(), &request.id).await.unwrap();
    assert_eq!(kinds(&story).last().unwrap(), "expired");
    rig.advance(10);
    rig.plane.sweep().await.unwrap();
    assert_eq!(
        kinds(&rig.plane.story(&alice(), &request.id).await.unwrap())
            .last()
            .unwrap(),
        "grant.expired"
    );
}
