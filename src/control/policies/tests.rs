//! Claims about policies that are applied through the API: planned, put in force, and kept over a restart.

use super::applying::{Applying, Done};
use super::offered::Offer;
use super::plan::{Action, Plan};
use super::*;
use crate::control::lifecycle::write_options::WriteOptions;
use crate::control::policy::Sources;
use crate::control::store::chain;
use crate::control::testing::{POLICIES, Rig, alice, asking, root};
use crate::control::testing::{rehearsed, under};
use crate::model::access::AccessState;
use crate::model::canonical::Canonical;
use crate::model::grant::{Ended, Phase, Revision};
use crate::wire::v1::PolicyFile;

const BASE: &str = "apiVersion: jitgate.dev/v1\nkind: StandingGrant\nmetadata: {name: base}\nspec:\n  subject: \
                    spiffe://td/a\n  scope: {service: shop, http: ['GET /a']}\n";

fn offer(texts: &[&str], prune: bool) -> Offer {
    let file = |(i, text): (usize, &&str)| PolicyFile {
        name: format!("{i}.yaml"),
        text: (*text).to_owned(),
    };
    Offer::parse(texts.iter().enumerate().map(file).collect(), prune).unwrap()
}

fn applying(offer: Offer) -> Applying {
    Applying {
        offer,
        revoke_withdrawn: false,
        options: WriteOptions::default(),
        reason: String::new(),
    }
}

/// A control plane over a policy directory, whose files are given.
async fn rig(files: &[(&str, &str)]) -> (Rig, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    let mut rig = Rig::empty().await;
    rig.plane = rig
        .plane
        .clone()
        .with_sources(Sources::new(directory.path()));
    let set = rig.plane.declared().await.unwrap().unwrap();
    rig.plane.apply(Arc::new(set)).await.unwrap();
    (rig, directory)
}

async fn apply(rig: &Rig, offer: Offer) -> Result<Done, Fault> {
    rig.plane.apply_policies(&root(), applying(offer)).await
}

async fn plan(rig: &Rig, offer: Offer) -> Plan {
    rig.plane.plan_policies(&root(), &offer).await.unwrap()
}

fn in_force(rig: &Rig) -> Vec<String> {
    rig.plane
        .policies_in_force()
        .policies()
        .iter()
        .map(|policy| policy.name.to_string())
        .collect()
}

async fn revision(rig: &Rig) -> Revision {
    rig.plane
        .store()
        .read(|reader| reader.revision())
        .await
        .unwrap()
}

#[tokio::test]
async fn what_is_applied_is_in_force_in_one_revision_and_survives_a_restart() {
    let (rig, directory) = rig(&[]).await;
    let before = revision(&rig).await;
    let done = apply(
        &rig,
        offer(&[&format!("{POLICIES}---\n# the baseline\n{BASE}")], false),
    )
    .await
    .unwrap();
    assert_eq!(done.revision, Some(Revision(before.0 + 1)));
    assert_eq!(
        (revision(&rig).await, in_force(&rig)),
        (Revision(before.0 + 1), vec!["payments".to_owned()])
    );
    assert_eq!(
        (
            done.plan.count(Action::Add),
            done.applied.policies,
            done.applied.issued
        ),
        (2, 1, 1)
    );
    assert_eq!(
        rig.plane
            .request_access(&alice(), asking())
            .await
            .unwrap()
            .state,
        AccessState::Approved
    );
    // As after a restart: what the store keeps, beside the same directory.
    let again = rig
        .plane
        .clone()
        .with_sources(Sources::new(directory.path()));
    let set = again.declared().await.unwrap().unwrap();
    assert_eq!((set.policies().len(), set.standing().len()), (1, 1));
    assert!(
        set.documents()[1].written.starts_with("# the baseline"),
        "{:?}",
        set.documents()[1]
    );
    assert!(rig.plane.store().read(chain::verify).await.unwrap().is_ok());
}

#[tokio::test]
async fn a_plan_says_what_changes_and_whom_that_touches() {
    let (rig, _directory) = rig(&[]).await;
    apply(&rig, offer(&[POLICIES, BASE], false)).await.unwrap();
    let grant = rig
        .plane
        .request_access(&alice(), asking())
        .await
        .unwrap()
        .outcome
        .unwrap()
        .grant
        .unwrap();
    let waiting = crate::control::lifecycle::input::RequestInput {
        duration: Some(std::time::Duration::from_secs(1800)),
        ..asking()
    };
    let waiting = rig.plane.request_access(&alice(), waiting).await.unwrap();
    assert_eq!(waiting.state, AccessState::Pending);
    let before = revision(&rig).await;
    let changed = POLICIES.replace("max: 1h", "max: 2h");
    let plan = plan(&rig, offer(&[&changed], true)).await;
    assert_eq!(revision(&rig).await, before, "a plan changes nothing");
    let [policy, base] = plan.changes.as_slice() else {
        panic!("{plan:?}")
    };
    assert_eq!(
        (policy.action, policy.from_version, policy.withdraws),
        (Action::Change, 1, false)
    );
    assert!(
        policy.diff.0.contains(
            "\n-  duration: {default: 15m, max: 1h}\n+  duration: {default: 15m, max: 2h}\n"
        ),
        "{}",
        policy.diff.0
    );
    assert_eq!((policy.grants.1, &policy.grants.0[0].grant.id), (1, &grant));
    assert_eq!(
        (policy.requests.1, &policy.requests.0[0].id),
        (1, &waiting.id)
    );
    assert_eq!(
        (base.action, base.withdraws, base.grants.1),
        (Action::Remove, true, 1)
    );
}

#[tokio::test]
async fn the_same_meaning_again_changes_nothing_and_takes_no_revision() {
    let (rig, _directory) = rig(&[]).await;
    apply(&rig, offer(&[POLICIES], false)).await.unwrap();
    let before = revision(&rig).await;
    let done = apply(
        &rig,
        offer(&[&format!("# a comment more\n{POLICIES}")], true),
    )
    .await
    .unwrap();
    assert_eq!(
        (done.plan.count(Action::Keep), revision(&rig).await),
        (1, before)
    );
}

#[tokio::test]
async fn a_plan_that_was_overtaken_is_not_applied() {
    let (rig, directory) = rig(&[]).await;
    let etag = plan(&rig, offer(&[POLICIES], false)).await.etag;
    let with = |etag: &str| Applying {
        options: WriteOptions {
            etag: etag.to_owned(),
            ..WriteOptions::default()
        },
        ..applying(offer(&[POLICIES], false))
    };
    std::fs::write(directory.path().join("base.yaml"), BASE).unwrap();
    let fault = rig
        .plane
        .apply_policies(&root(), with(&etag))
        .await
        .unwrap_err();
    assert_eq!(
        (fault.kind.reason(), in_force(&rig).len()),
        ("POLICIES_CHANGED", 0)
    );
    let etag = plan(&rig, offer(&[POLICIES], false)).await.etag;
    assert!(rig.plane.apply_policies(&root(), with(&etag)).await.is_ok());
    let fault = rig
        .plane
        .apply_policies(&root(), with(&etag))
        .await
        .unwrap_err();
    assert_eq!(
        fault.kind.reason(),
        "POLICIES_CHANGED",
        "it is applied once"
    );
}

#[tokio::test]
async fn a_name_is_in_one_place_and_the_error_names_the_file() {
    let (rig, _directory) = rig(&[("mine.yaml", POLICIES)]).await;
    let before = revision(&rig).await;
    let plan = plan(&rig, offer(&[POLICIES], false)).await;
    assert!(plan.is_refused() && plan.changes.is_empty());
    assert!(
        plan.problems[0].to_string().contains("mine.yaml:4:"),
        "{:?}",
        plan.problems
    );
    let fault = apply(&rig, offer(&[BASE, POLICIES], false))
        .await
        .unwrap_err();
    assert!(fault.message.contains("mine.yaml"), "{fault}");
    assert_eq!(
        (fault.kind.reason(), revision(&rig).await),
        ("INVALID_ARGUMENT", before),
        "all or nothing"
    );
    assert!(
        rig.plane.fanout().index().is_empty(),
        "not even the document that was good"
    );
}

#[tokio::test]
async fn a_withdrawn_policy_lets_its_grants_end_by_themselves_or_ends_them_with_it() {
    for revoke_withdrawn in [false, true] {
        let (rig, _directory) = rig(&[]).await;
        apply(&rig, offer(&[POLICIES], false)).await.unwrap();
        rig.plane.request_access(&alice(), asking()).await.unwrap();
        let long = crate::control::lifecycle::input::RequestInput {
            duration: Some(std::time::Duration::from_secs(1800)),
            ..asking()
        };
        let waiting = rig.plane.request_access(&alice(), long).await.unwrap();
        let before = revision(&rig).await;
        let disabled = POLICIES.replace("spec:\n", "spec:\n  mode: disabled\n");
        let withdrawing = Applying {
            revoke_withdrawn,
            reason: "audit".into(),
            ..applying(offer(&[&disabled], false))
        };
        let done = rig
            .plane
            .apply_policies(&root(), withdrawing)
            .await
            .unwrap();
        assert_eq!(
            done.revision,
            Some(Revision(before.0 + 1)),
            "in one revision"
        );
        let ended = usize::from(revoke_withdrawn);
        assert_eq!(
            (done.withdrawn.grants, done.withdrawn.requests),
            (ended, ended)
        );
        let grant = rig.plane.fanout().index().grants().remove(0);
        let phase = grant.phase(rig.plane.now());
        assert_eq!(
            phase == Phase::Ended(Ended::Revoked),
            revoke_withdrawn,
            "{phase:?}"
        );
        let now = rig
            .plane
            .access_request(&root(), &waiting.id)
            .await
            .unwrap();
        assert_eq!(
            now.state,
            if revoke_withdrawn {
                AccessState::Cancelled
            } else {
                AccessState::Pending
            }
        );
        assert!(rig.plane.request_access(&alice(), asking()).await.is_err());
    }
}

#[tokio::test]
async fn a_dry_run_changes_nothing_and_a_retry_is_applied_once() {
    let (rig, _directory) = rig(&[]).await;
    let before = revision(&rig).await;
    let dry = Applying {
        options: rehearsed(),
        ..applying(offer(&[POLICIES], false))
    };
    let done = rig.plane.apply_policies(&root(), dry).await.unwrap();
    assert_eq!(
        (
            done.revision,
            done.plan.count(Action::Add),
            revision(&rig).await
        ),
        (None, 1, before)
    );
    let once = || Applying {
        options: under("r1"),
        ..applying(offer(&[POLICIES], false))
    };
    let first = rig.plane.apply_policies(&root(), once()).await.unwrap();
    let second = rig.plane.apply_policies(&root(), once()).await.unwrap();
    assert_eq!(
        (first.repeated, second.repeated, second.revision),
        (false, true, first.revision)
    );
    let other = Applying {
        options: WriteOptions {
            fingerprint: Canonical::new("other").finish(),
            ..under("r1")
        },
        ..once()
    };
    assert_eq!(
        rig.plane
            .apply_policies(&root(), other)
            .await
            .unwrap_err()
            .field
            .as_deref(),
        Some("options.request_id")
    );
}

#[tokio::test]
async fn only_administrators_plan_apply_and_look_back() {
    let (rig, _directory) = rig(&[]).await;
    let who = alice();
    let faults = [
        rig.plane
            .plan_policies(&who, &offer(&[POLICIES], false))
            .await
            .unwrap_err(),
        rig.plane
            .apply_policies(&who, applying(offer(&[POLICIES], false)))
            .await
            .unwrap_err(),
        rig.plane
            .policy_versions(&who, "payments", (0, ""))
            .await
            .unwrap_err(),
        rig.plane
            .policy_version(&who, "payments", 0)
            .await
            .unwrap_err(),
    ];
    assert!(
        faults
            .iter()
            .all(|fault| fault.kind.reason() == "NOT_ELIGIBLE")
    );
}

#[tokio::test]
async fn every_version_stays_readable() {
    let (rig, _directory) = rig(&[]).await;
    for max in ["1h", "2h", "3h"] {
        apply(
            &rig,
            offer(
                &[&POLICIES.replace("max: 1h", &format!("max: {max}"))],
                false,
            ),
        )
        .await
        .unwrap();
    }
    let (newest, next) = rig
        .plane
        .policy_versions(&root(), "payments", (2, ""))
        .await
        .unwrap();
    let numbers: Vec<_> = newest
        .iter()
        .map(|version| (version.row.version, version.in_force))
        .collect();
    assert_eq!((numbers, next.as_str()), (vec![(3, true), (2, false)], "2"));
    let (rest, next) = rig
        .plane
        .policy_versions(&root(), "payments", (2, &next))
        .await
        .unwrap();
    assert_eq!((rest.len(), next.as_str()), (1, ""));
    let first = rig
        .plane
        .policy_version(&root(), "payments", 1)
        .await
        .unwrap();
    assert!(first.row.text.contains("\"max\":\"1h\"") && first.applied.is_none());
    let now = rig
        .plane
        .policy_version(&root(), "payments", 0)
        .await
        .unwrap();
    assert!(now.in_force && now.applied.unwrap().text.contains("max: 3h"));
    // Withdrawn, and still there.
    apply(&rig, offer(&["# nothing"], true)).await.unwrap();
    assert!(
        rig.plane
            .policy_version(&root(), "payments", 2)
            .await
            .is_ok()
    );
    assert_eq!(
        rig.plane
            .policy_version(&root(), "payments", 0)
            .await
            .unwrap_err()
            .kind
            .reason(),
        "NOT_FOUND"
    );
}

#[tokio::test]
async fn the_directory_is_followed_beside_what_is_applied() {
    let (rig, directory) = rig(&[]).await;
    let early = Arc::new(PolicySet::load(directory.path()).unwrap());
    apply(&rig, offer(&[POLICIES], false)).await.unwrap();
    // A set that the watcher read before something was applied does not undo it.
    rig.plane.follow(early).await.unwrap();
    assert_eq!(in_force(&rig), ["payments"]);
    std::fs::write(
        directory.path().join("own.yaml"),
        POLICIES
            .replace("name: payments", "name: own")
            .replace("service: payments", "service: shop"),
    )
    .unwrap();
    let set =
        PolicySet::together(directory.path(), &rig.plane.sources().beside.load_full()).unwrap();
    rig.plane.follow(Arc::new(set)).await.unwrap();
    assert_eq!(in_force(&rig), ["own", "payments"]);
    let own = rig.plane.policy_version(&root(), "own", 0).await.unwrap();
    assert!(own.file.unwrap().ends_with("own.yaml"));
}

#[test]
fn an_offer_is_bounded_and_its_names_are_told_apart() {
    let file = |name: &str| PolicyFile {
        name: name.to_owned(),
        text: String::new(),
    };
    for (files, field) in [
        (vec![], "files"),
        (vec![file("")], "files[0].name"),
        (vec![file("a"), file("a")], "files[1].name"),
        (vec![file("a\nb")], "files[0].name"),
        (
            vec![PolicyFile {
                name: "a".into(),
                text: "x".repeat(4 << 20),
            }],
            "files",
        ),
    ] {
        assert_eq!(
            Offer::parse(files, false).unwrap_err().field.as_deref(),
            Some(field)
        );
    }
    assert!(Offer::parse(vec![], true).is_ok());
}

#[tokio::test]
async fn what_is_durable_comes_into_force_though_nobody_waits_for_it() {
    let (rig, _directory) = rig(&[]).await;
    let before = revision(&rig).await;
    let mut revisions = rig.plane.fanout().revisions();
    let (caller, wanted) = (root(), applying(offer(&[POLICIES], false)));
    // The caller goes away in the moment in which it is written.
    tokio::select! {
        biased;
        _ = revisions.wait_for(|newest| *newest > before) => {}
        done = rig.plane.apply_policies(&caller, wanted) => panic!("{done:?}"),
    }
    let _turn = rig.plane.sources().turn.lock().await;
    assert_eq!(in_force(&rig), ["payments"]);
    assert_eq!(
        rig.plane.sources().beside.load().len(),
        1,
        "and the watcher knows it"
    );
}

#[tokio::test]
async fn a_plan_shows_persons_with_the_version_in_force() {
    let person = |more: &str| {
        format!(
            "apiVersion: jitgate.dev/v1\nkind: Person\nmetadata: {{name: alice}}\nspec: {{accounts: ['user:i|a', 'user:i|b'{more}]}}\n"
        )
    };
    let (rig, _directory) = rig(&[]).await;
    apply(&rig, offer(&[&person("")], false)).await.unwrap();
    let plan = plan(&rig, offer(&[&person(", 'user:i|c'")], false)).await;
    let [change] = plan.changes.as_slice() else {
        panic!("{plan:?}")
    };
    assert_eq!(
        (&*change.key.0, change.action, change.from_version),
        ("Person", Action::Change, 1)
    );
}

#[tokio::test]
async fn a_request_that_is_over_by_the_clock_is_not_cancelled_with_its_policy() {
    let (rig, _directory) = rig(&[]).await;
    apply(&rig, offer(&[POLICIES], false)).await.unwrap();
    let long = crate::control::lifecycle::input::RequestInput {
        duration: Some(std::time::Duration::from_secs(1800)),
        ..asking()
    };
    let waiting = rig.plane.request_access(&alice(), long).await.unwrap();
    rig.advance(600);
    let withdrawing = Applying {
        revoke_withdrawn: true,
        ..applying(offer(&["# nothing"], true))
    };
    let done = rig
        .plane
        .apply_policies(&root(), withdrawing)
        .await
        .unwrap();
    assert_eq!(done.withdrawn.requests, 0);
    rig.advance(3);
    rig.plane.sweep().await.unwrap();
    assert_eq!(
        rig.plane
            .access_request(&root(), &waiting.id)
            .await
            .unwrap()
            .state,
        AccessState::Expired
    );
    assert!(
        rig.plane.fanout().index().grants().is_empty(),
        "and no sidecar speaks of it any more"
    );
}
