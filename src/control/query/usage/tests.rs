//! Claims about what is kept of reported decisions.

use ulid::Ulid;

use super::*;
use crate::control::fanout::Identity;
use crate::control::fanout::intake::WAITING_MAX;
use crate::control::testing::*;
use crate::model::identity::Service;
use crate::model::time::Timestamp;
use crate::wire::grant::timestamp_to;
use crate::wire::v1;

async fn granted(rig: &Rig) -> String {
    let request = rig.plane.request_access(&alice(), asking()).await.unwrap();
    request.outcome.unwrap().grant.unwrap().to_string()
}

fn decision(sequence: i64, grant: &str, at: Timestamp) -> v1::Decision {
    v1::Decision {
        id: Ulid::from_parts(u64::try_from(sequence).unwrap(), 7).to_string(),
        time: Some(timestamp_to(at)),
        sequence,
        allowed: true,
        grant: grant.into(),
        principal: ALICE.into(),
        service: "payments".into(),
        method: "GET /v1/users/{id}".into(),
        count: 1,
        ..v1::Decision::default()
    }
}

fn reported(instance: &str, decisions: Vec<v1::Decision>) -> Reported {
    Reported {
        identity: Identity::default(),
        sidecar: format!("sidecar of {instance}"),
        instance: instance.into(),
        services: [Service::parse("payments").unwrap()].into(),
        report: v1::DecisionReport { decisions, lost: 0 },
    }
}

async fn add(rig: &Rig, batch: Vec<Reported>) -> rows::Added {
    let now = rig.plane.now();
    rig.plane
        .store()
        .note(move |rows| rows::add(rows, batch, now))
        .await
        .unwrap()
}

#[tokio::test]
async fn a_grant_knows_when_where_and_how_often_it_was_used() {
    let rig = Rig::start().await;
    let id = granted(&rig).await;
    let revision = rig.plane.fanout().revision();
    assert_eq!(
        rig.plane
            .store()
            .read({
                let id = id.clone();
                move |reader| reader.last_use(&id)
            })
            .await
            .unwrap(),
        None
    );
    rig.advance(20);
    let (early, late) = (
        NOON.plus(Duration::from_secs(3)),
        NOON.plus(Duration::from_secs(9)),
    );
    let many = v1::Decision {
        count: 40,
        first_time: Some(timestamp_to(early)),
        ..decision(1, &id, late)
    };
    let batch = vec![
        reported("a", vec![many]),
        reported("b", vec![decision(1, &id, early)]),
    ];
    // Two instances chose the same id: the first keeps it.
    assert_eq!(
        add(&rig, batch).await,
        rows::Added {
            kept: 1,
            refused: 1,
            ..rows::Added::default()
        }
    );
    add(&rig, vec![reported("b", vec![decision(2, &id, early)])]).await;
    let shown = rig
        .plane
        .with_uses(vec![v1::Grant {
            id: id.clone(),
            ..v1::Grant::default()
        }])
        .await
        .unwrap();
    assert_eq!(
        (shown[0].first_use_time, shown[0].last_use_time),
        (Some(timestamp_to(early)), Some(timestamp_to(late)))
    );
    assert_eq!((shown[0].use_count, shown[0].used_at.len()), (41, 2));
    assert_eq!(
        rig.plane
            .store()
            .read(move |reader| reader.last_use(&id))
            .await
            .unwrap(),
        Some(late)
    );
    assert_eq!(
        rig.plane.fanout().revision(),
        revision,
        "no revision speaks of uses"
    );
}

#[tokio::test]
async fn gaps_are_counted_and_nothing_is_counted_twice() {
    let rig = Rig::start().await;
    let id = granted(&rig).await;
    let report = |sequences: &[i64], lost| {
        let mut of = reported(
            "a",
            sequences.iter().map(|n| decision(*n, &id, NOON)).collect(),
        );
        of.report.lost = lost;
        vec![of]
    };
    assert_eq!(
        add(&rig, report(&[1, 2], 0)).await,
        rows::Added {
            kept: 2,
            ..rows::Added::default()
        }
    );
    assert_eq!(
        add(&rig, report(&[2, 1], 0)).await,
        rows::Added::default(),
        "a report that came twice"
    );
    let expected = rows::Added {
        kept: 2,
        missing: 3,
        lost: 7,
        ..rows::Added::default()
    };
    assert_eq!(add(&rig, report(&[5, 7], 7)).await, expected);
    assert_eq!(
        add(&rig, report(&[8], 7)).await,
        rows::Added {
            kept: 1,
            ..rows::Added::default()
        }
    );
    let reporter = rig
        .plane
        .store()
        .read(|reader| reader.reporter("a"))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (reporter.sequence, reporter.missing, reporter.lost),
        (8, 3, 7)
    );
}

#[tokio::test]
async fn a_sidecar_is_not_believed_beyond_what_it_watches() {
    let rig = Rig::start().await;
    let id = granted(&rig).await;
    let sound = || decision(1, &id, NOON);
    let bad: [v1::Decision; 9] = [
        v1::Decision {
            service: "ledger".into(),
            ..sound()
        },
        v1::Decision {
            grant: "unknown".into(),
            ..sound()
        },
        v1::Decision {
            grant: String::new(),
            ..sound()
        },
        v1::Decision {
            id: "x".into(),
            ..sound()
        },
        v1::Decision {
            principal: "alice".into(),
            ..sound()
        },
        v1::Decision {
            method: "GET /v1?token=secret".into(),
            ..sound()
        },
        v1::Decision {
            method: "GET /\u{1b}[2J".into(),
            ..sound()
        },
        v1::Decision {
            count: -1,
            ..sound()
        },
        v1::Decision {
            allowed: false,
            reason: "BECAUSE".into(),
            ..sound()
        },
    ];
    for (at, decision) in bad.into_iter().enumerate() {
        let instance = format!("i{at}");
        let added = add(&rig, vec![reported(&instance, vec![decision.clone()])]).await;
        assert_eq!(
            added,
            rows::Added {
                refused: 1,
                ..rows::Added::default()
            },
            "{decision:?}"
        );
    }
    // From the future: it is dated by its arrival.
    let ahead = v1::Decision {
        time: Some(timestamp_to(NOON.plus(Duration::from_secs(900)))),
        ..sound()
    };
    add(&rig, vec![reported("z", vec![ahead])]).await;
    assert_eq!(
        rig.plane
            .store()
            .read(move |reader| reader.last_use(&id))
            .await
            .unwrap(),
        Some(NOON)
    );
}

#[tokio::test]
async fn old_and_too_many_records_are_forgotten_and_the_use_itself_is_not() {
    let rig = Rig::start().await;
    let id = granted(&rig).await;
    let args = UsageArgs {
        keep_decisions: Duration::from_secs(60),
        keep_decisions_max: 5,
    };
    let (_intake, mut uses) = Usage::new(args, rig.plane.metrics()).unwrap();
    uses.write(
        rig.plane.store(),
        vec![reported(
            "a",
            (1..=8).map(|n| decision(n, &id, NOON)).collect(),
        )],
    )
    .await;
    assert_eq!(uses.kept, 8);
    uses.prune(rig.plane.store()).await;
    let left = rig
        .plane
        .store()
        .read({
            let id = id.clone();
            move |reader| reader.decisions_of(&id, 99)
        })
        .await
        .unwrap();
    assert_eq!(
        left.iter()
            .map(|decision| decision.sequence)
            .collect::<Vec<_>>(),
        [8, 7, 6, 5, 4]
    );
    rig.advance(61);
    uses.prune(rig.plane.store()).await;
    assert_eq!(
        (
            uses.kept,
            rig.plane
                .store()
                .read(|reader| reader.decisions_kept())
                .await
                .unwrap()
        ),
        (0, 0)
    );
    assert_eq!(
        rig.plane
            .store()
            .read(move |reader| reader.last_use(&id))
            .await
            .unwrap(),
        Some(NOON)
    );
    assert!(
        Usage::new(
            UsageArgs {
                keep_decisions: Duration::ZERO,
                ..args
            },
            rig.plane.metrics()
        )
        .is_none()
    );
}

#[tokio::test]
async fn a_full_intake_never_makes_a_session_wait() {
    let rig = Rig::start().await;
    let args = UsageArgs {
        keep_decisions: Duration::from_secs(60),
        keep_decisions_max: 5,
    };
    let (intake, uses) = Usage::new(args, rig.plane.metrics()).unwrap();
    (0..WAITING_MAX + 10).for_each(|_| intake.take(reported("a", vec![v1::Decision::default()])));
    assert_eq!(uses.waiting.len(), WAITING_MAX);
}

#[tokio::test]
async fn instances_that_report_are_bounded_whatever_they_call_themselves() {
    let rig = Rig::start().await;
    for (instance, seconds) in [("first", 0), ("second", 1)] {
        rig.advance(seconds);
        add(&rig, vec![reported(instance, vec![])]).await;
    }
    rig.advance(1);
    let many = (0..20_000 - 1)
        .map(|n| reported(&format!("i{n}"), vec![]))
        .collect();
    add(&rig, many).await;
    rig.plane
        .store()
        .note(|rows| rows::forget_reporters(rows, Timestamp::default()))
        .await
        .unwrap();
    let known = |name: &'static str| rig.plane.store().read(move |reader| reader.reporter(name));
    assert!(known("first").await.unwrap().is_none() && known("second").await.unwrap().is_some());
}

#[tokio::test]
async fn what_one_identity_has_reported_is_no_bound_for_a_process_of_another() {
    let rig = Rig::start().await;
    let id = granted(&rig).await;
    let spiffe = principal("spiffe://td/ns/shop/sa/other");
    let other = Reported {
        identity: Identity(Some(spiffe)),
        ..reported("a", vec![decision(1_000_000, &id, NOON)])
    };
    add(&rig, vec![other]).await;
    let own = add(&rig, vec![reported("a", vec![decision(1, &id, NOON)])]).await;
    assert_eq!((own.kept, own.missing), (1, 0));
}
