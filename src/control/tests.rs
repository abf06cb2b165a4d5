use std::collections::BTreeMap;
use std::time::Duration;

use super::lifecycle::{caller, standing};
use super::store::chain;

use super::lifecycle::fault::{Fault, FaultKind};
use super::lifecycle::grants::{GrantFilter, Sweep};
use super::lifecycle::input::RequestInput;
use super::lifecycle::write_options::WriteOptions;
use super::query::lists::RequestFilter;
use super::query::page::Page;
use super::store::StoreError;
use super::testing::*;
use super::*;
use crate::model::access::AccessState;
use crate::model::canonical::Canonical;
use crate::model::grant::{Ended, Hold, Phase};
use crate::model::identity::Service;

mod client;
mod later;
mod lifecycle;
mod once;
mod steps;

fn reason(fault: &Fault) -> &'static str {
    fault.kind.reason()
}

fn minutes(minutes: u64) -> Option<Duration> {
    Some(Duration::from_secs(minutes * 60))
}

fn pending() -> RequestInput {
    RequestInput {
        duration: minutes(20),
        ..asking()
    }
}

fn page() -> Page {
    Page::parse(0, "", &[]).unwrap()
}

async fn events(plane: &Plane) -> BTreeMap<String, usize> {
    let read = plane.store().read(|reader| {
        let mut events = BTreeMap::new();
        reader.audit(0, &mut |event| {
            *events
                .entry(format!(
                    "{} {}",
                    event.r#type,
                    event.resource.split('/').next().unwrap()
                ))
                .or_default() += 1;
            Ok(std::ops::ControlFlow::Continue(()))
        })?;
        Ok::<_, StoreError>(events)
    });
    read.await.unwrap()
}

#[tokio::test]
async fn an_approved_request_has_its_grant_before_it_is_answered() {
    let rig = Rig::start().await;
    let request = rig.plane.request_access(&alice(), asking()).await.unwrap();
    assert_eq!(request.state, AccessState::Approved);
    let outcome = request.outcome.clone().unwrap();
    assert_eq!(outcome.by, "rule:short");
    let id = outcome.grant.unwrap();
    let visible = rig.plane.fanout().index().find(&id).expect("visible");
    assert_eq!(visible.expires(), Some(NOON.plus(Duration::from_secs(60))));
    let issued = rig.plane.grant(&alice(), id.as_str()).await.unwrap();
    assert_eq!(issued.origin.request, Some(request.id.clone()));
    assert_eq!(
        (&*issued.grant.policy.name, issued.grant.policy.version),
        ("payments", 1)
    );
    assert_eq!(issued.origin.auto_rule.as_deref(), Some("short"));
    assert_eq!(rig.plane.fanout().revision(), request.mod_revision);
}

#[tokio::test]
async fn what_a_rule_denies_is_kept_as_denied_and_what_no_rule_decides_waits() {
    let rig = Rig::start().await;
    let denied = RequestInput {
        reason: "deny me".into(),
        ..asking()
    };
    let request = rig.plane.request_access(&alice(), denied).await.unwrap();
    assert_eq!(request.state, AccessState::Denied);
    assert_eq!(request.outcome.unwrap().reason, "not today");
    let request = rig.plane.request_access(&alice(), pending()).await.unwrap();
    assert_eq!(
        (request.state, request.pending_until),
        (AccessState::Pending, NOON.plus(Duration::from_secs(600)))
    );
    let visible = rig.plane.fanout().index().requests();
    let [waits] = &visible[..] else {
        panic!("only what waits is made known: {visible:?}")
    };
    assert_eq!((waits.id.as_str(), waits.waits(NOON)), (&*request.id, true));
}

#[tokio::test]
async fn what_no_policy_takes_is_refused_and_leaves_nothing() {
    let rig = Rig::start().await;
    let too_long = RequestInput {
        duration: minutes(120),
        ..asking()
    };
    assert_eq!(
        reason(
            &rig.plane
                .request_access(&alice(), too_long)
                .await
                .unwrap_err()
        ),
        "LIMIT_EXCEEDED"
    );
    let for_bob = RequestInput {
        subject: Some(principal(BOB)),
        ..asking()
    };
    assert_eq!(
        reason(
            &rig.plane
                .request_access(&alice(), for_bob)
                .await
                .unwrap_err()
        ),
        "SUBJECT_NOT_ALLOWED"
    );
    let nobody = Rig::empty().await;
    assert_eq!(
        reason(
            &nobody
                .plane
                .request_access(&alice(), asking())
                .await
                .unwrap_err()
        ),
        "NO_POLICY"
    );
    assert!(
        rig.plane
            .access_requests(&root(), page(), RequestFilter::default())
            .await
            .unwrap()
            .0
            .is_empty()
    );
}

#[tokio::test]
async fn a_retry_with_the_same_request_id_gets_the_first_answer() {
    let rig = Rig::start().await;
    let retry = RequestInput {
        options: under("once"),
        ..asking()
    };
    let first = rig
        .plane
        .request_access(&alice(), retry.clone())
        .await
        .unwrap();
    let other = root();
    let many = (0..20).map(|_| rig.plane.request_access(&other, retry.clone()));
    let again = rig
        .plane
        .request_access(&alice(), retry.clone())
        .await
        .unwrap();
    assert_eq!(again, first);
    let of_root: std::collections::HashSet<_> = futures_util::future::join_all(many)
        .await
        .into_iter()
        .map(|request| request.unwrap().id)
        .collect();
    assert_eq!(of_root.len(), 1, "retries at the same time are one request");
    assert!(
        !of_root.contains(&first.id),
        "another caller's id is another id"
    );
    let mut other = Canonical::new("test");
    other.text("other");
    let misused = RequestInput {
        options: WriteOptions {
            fingerprint: other.finish(),
            ..under("once")
        },
        ..retry.clone()
    };
    let fault = rig
        .plane
        .request_access(&alice(), misused)
        .await
        .unwrap_err();
    assert_eq!(
        (reason(&fault), fault.field.as_deref()),
        ("INVALID_ARGUMENT", Some("options.request_id"))
    );
    rig.advance(24 * 3600 + 10);
    rig.plane.sweep().await.unwrap();
    assert_ne!(
        rig.plane.request_access(&alice(), retry).await.unwrap().id,
        first.id,
        "an answer is kept for a day"
    );
}

#[tokio::test]
async fn two_hundred_requests_at_once_lose_none() {
    let rig = Rig::start().await;
    let before = rig.plane.fanout().revision();
    let caller = root();
    let all = futures_util::future::join_all(
        (0..200).map(|_| rig.plane.request_access(&caller, asking())),
    )
    .await;
    let mut revisions: Vec<u64> = all
        .into_iter()
        .map(|request| request.unwrap().mod_revision.0)
        .collect();
    revisions.sort_unstable();
    assert_eq!(
        revisions,
        (before.0 + 1..=before.0 + 200).collect::<Vec<_>>(),
        "one revision each"
    );
    assert_eq!(rig.plane.fanout().index().len(), 200);
    let events = events(&rig.plane).await;
    assert_eq!(events["access_request.created accessRequests"], 200);
    assert_eq!(events["access_request.approved accessRequests"], 200);
    assert_eq!(events["grant.issued grants"], 200);
    assert_eq!(
        rig.plane.store().read(chain::verify).await.unwrap(),
        Ok(601)
    );
}

#[tokio::test]
async fn only_those_concerned_and_administrators_see_a_request_or_a_grant() {
    let rig = Rig::start().await;
    let request = rig.plane.request_access(&alice(), asking()).await.unwrap();
    let grant = request.outcome.unwrap().grant.unwrap();
    let kind = |result: Result<_, Fault>| result.map(|_: ()| ()).unwrap_err().kind;
    assert_eq!(
        kind(
            rig.plane
                .access_request(&bob(), &request.id)
                .await
                .map(drop)
        ),
        FaultKind::NotFound
    );
    assert_eq!(
        kind(rig.plane.grant(&bob(), grant.as_str()).await.map(drop)),
        FaultKind::NotFound
    );
    assert_eq!(
        kind(
            rig.plane
                .revoke_grant(&bob(), grant.as_str(), String::new())
                .await
                .map(drop)
        ),
        FaultKind::NotFound
    );
    assert!(rig.plane.grant(&root(), grant.as_str()).await.is_ok());
    for (caller, sees) in [(bob(), 0), (alice(), 1), (root(), 1)] {
        assert_eq!(
            rig.plane
                .grants(&caller, page(), GrantFilter::default())
                .await
                .unwrap()
                .0
                .len(),
            sees
        );
    }
}

#[tokio::test]
async fn a_grant_ends_once() {
    let rig = Rig::start().await;
    let request = rig.plane.request_access(&alice(), asking()).await.unwrap();
    let id = request.outcome.unwrap().grant.unwrap();
    let fault = rig
        .plane
        .release_grant(&root(), id.as_str())
        .await
        .unwrap_err();
    assert_eq!(
        reason(&fault),
        "NOT_ELIGIBLE",
        "an administrator is not the subject"
    );
    let ends = rig
        .plane
        .release_grant(&alice(), id.as_str())
        .await
        .unwrap();
    let tombstone = rig.plane.fanout().index().find(&id).unwrap();
    let keep_until = NOON.plus(Duration::from_secs(600));
    assert_eq!(
        tombstone.hold,
        Hold::Ended {
            how: Ended::Released,
            keep_until
        }
    );
    assert_eq!(rig.plane.fanout().revision(), ends.revision);
    for caller in [alice(), root()] {
        let fault = rig
            .plane
            .revoke_grant(&caller, id.as_str(), String::new())
            .await
            .unwrap_err();
        assert_eq!(reason(&fault), "STATE_TERMINAL");
    }
}

#[tokio::test]
async fn administrators_end_every_matching_grant_in_one_revision() {
    let rig = Rig::start().await;
    for caller in [alice(), alice(), bob()] {
        rig.plane.request_access(&caller, asking()).await.unwrap();
    }
    let of_alice = GrantFilter {
        subject: Some(principal(ALICE)),
        ..GrantFilter::default()
    };
    let of_alice = Sweep {
        of: of_alice,
        include_standing: false,
    };
    let fault = rig
        .plane
        .revoke_grants(&alice(), of_alice.clone(), String::new())
        .await
        .unwrap_err();
    assert_eq!(reason(&fault), "NOT_ELIGIBLE");
    let ends = rig
        .plane
        .revoke_grants(&root(), of_alice.clone(), "leak".into())
        .await
        .unwrap();
    assert_eq!(
        (ends.grants.len(), ends.revision),
        (2, rig.plane.fanout().revision())
    );
    assert!(
        ends.grants
            .iter()
            .all(|issued| issued.grant.mod_revision == ends.revision)
    );
    let nothing = rig
        .plane
        .revoke_grants(&root(), of_alice, "again".into())
        .await
        .unwrap();
    assert_eq!((nothing.grants.len(), nothing.revision), (0, ends.revision));
    let service = Some(Service::parse("payments").unwrap());
    let rest = Sweep {
        of: GrantFilter {
            service,
            ..GrantFilter::default()
        },
        include_standing: false,
    };
    assert_eq!(
        rig.plane
            .revoke_grants(&root(), rest, "all".into())
            .await
            .unwrap()
            .grants
            .len(),
        1
    );
}

#[tokio::test]
async fn a_mass_revoke_leaves_standing_grants_and_says_so_unless_asked_for_them() {
    let rig = Rig::empty().await;
    rig.plane
        .apply(Arc::new(policies(&format!(
            "{POLICIES}---\n{}",
            baseline("payments", "/a")
        ))))
        .await
        .unwrap();
    rig.plane.request_access(&alice(), asking()).await.unwrap();
    let service = Some(Service::parse("payments").unwrap());
    let of = GrantFilter {
        service,
        ..GrantFilter::default()
    };
    let jit = Sweep {
        of: of.clone(),
        include_standing: false,
    };
    let ends = rig
        .plane
        .revoke_grants(&root(), jit, "incident".into())
        .await
        .unwrap();
    assert_eq!((ends.grants.len(), ends.standing_kept), (1, 1));
    assert!(
        ends.grants
            .iter()
            .all(|issued| issued.grant.id.as_str() != "baseline")
    );
    let all = Sweep {
        of,
        include_standing: true,
    };
    let ends = rig
        .plane
        .revoke_grants(&root(), all, "incident".into())
        .await
        .unwrap();
    assert_eq!((ends.grants.len(), ends.standing_kept), (1, 0));
    assert_eq!(ends.grants[0].grant.id.as_str(), "baseline");
}

#[tokio::test]
async fn the_end_of_a_grant_is_recorded_once_and_later_forgotten() {
    let rig = Rig::start().await;
    let request = rig.plane.request_access(&alice(), asking()).await.unwrap();
    let id = request.outcome.unwrap().grant.unwrap();
    rig.advance(61);
    assert_eq!(
        rig.plane.sweep().await.unwrap(),
        0,
        "not yet: enforcement needs no record"
    );
    let fault = rig
        .plane
        .revoke_grant(&root(), id.as_str(), String::new())
        .await
        .unwrap_err();
    assert_eq!(
        reason(&fault),
        "STATE_TERMINAL",
        "over by the clock is over"
    );
    rig.advance(2);
    let before = rig.plane.fanout().revision();
    assert_eq!(rig.plane.sweep().await.unwrap(), 1);
    assert_eq!(rig.plane.sweep().await.unwrap(), 0);
    assert_eq!(rig.plane.fanout().revision().0, before.0 + 1);
    let issued = rig.plane.grant(&alice(), id.as_str()).await.unwrap();
    let end = NOON.plus(Duration::from_secs(60));
    assert_eq!(issued.grant.expires(), Some(end), "never moved");
    assert_eq!(issued.ending.unwrap().time, end);
    assert_eq!(
        issued.grant.hold,
        Hold::Ended {
            how: Ended::Expired,
            keep_until: end.plus(Duration::from_secs(600))
        }
    );
    assert_eq!(events(&rig.plane).await["grant.expired grants"], 1);
    rig.advance(600);
    assert_eq!(rig.plane.sweep().await.unwrap(), 1);
    assert!(rig.plane.fanout().index().is_empty(), "sidecars forget");
    assert!(
        rig.plane.grant(&alice(), id.as_str()).await.is_ok(),
        "the store does not"
    );
    let all = GrantFilter {
        include_ended: true,
        ..GrantFilter::default()
    };
    assert_eq!(
        rig.plane
            .grants(&root(), page(), all)
            .await
            .unwrap()
            .0
            .len(),
        1
    );
}

#[tokio::test]
async fn a_pending_request_is_taken_back_or_expires_and_stays_so() {
    let rig = Rig::start().await;
    let first = rig.plane.request_access(&alice(), pending()).await.unwrap();
    let second = rig.plane.request_access(&alice(), pending()).await.unwrap();
    assert_eq!(
        rig.plane
            .cancel_request(&bob(), &first.id, String::new())
            .await
            .unwrap_err()
            .kind,
        FaultKind::NotFound
    );
    let cancelled = rig
        .plane
        .cancel_request(&alice(), &first.id, "mistake".into())
        .await
        .unwrap();
    assert_eq!(cancelled.state, AccessState::Cancelled);
    let again = rig
        .plane
        .cancel_request(&alice(), &first.id, String::new())
        .await
        .unwrap_err();
    assert_eq!(reason(&again), "STATE_TERMINAL");
    rig.advance(603);
    rig.plane.sweep().await.unwrap();
    let expired = rig
        .plane
        .access_request(&alice(), &second.id)
        .await
        .unwrap();
    assert_eq!(expired.state, AccessState::Expired);
    assert_eq!(
        rig.plane
            .access_request(&alice(), &first.id)
            .await
            .unwrap()
            .state,
        AccessState::Cancelled
    );
}

#[tokio::test]
async fn no_more_than_a_hundred_requests_of_one_requester_wait() {
    let rig = Rig::start().await;
    let caller = alice();
    let all = futures_util::future::join_all(
        (0..101).map(|_| rig.plane.request_access(&caller, pending())),
    )
    .await;
    let refused: Vec<_> = all.into_iter().filter_map(Result::err).collect();
    assert_eq!(
        refused.iter().map(reason).collect::<Vec<_>>(),
        ["LIMIT_EXCEEDED"]
    );
    assert!(rig.plane.request_access(&bob(), pending()).await.is_ok());
}

#[tokio::test]
async fn pages_neither_repeat_nor_hide_what_was_there_while_others_write() {
    let rig = Rig::start().await;
    let mut made = vec![];
    for _ in 0..25 {
        made.push(
            rig.plane
                .request_access(&alice(), asking())
                .await
                .unwrap()
                .id,
        );
    }
    let (mut seen, mut token) = (vec![], String::new());
    loop {
        let page = Page::parse(4, &token, &[]).unwrap();
        let (requests, next) = rig
            .plane
            .access_requests(&alice(), page, RequestFilter::default())
            .await
            .unwrap();
        seen.extend(requests.into_iter().map(|request| request.id));
        rig.plane.request_access(&alice(), asking()).await.unwrap();
        token = next;
        if token.is_empty() {
            break;
        }
    }
    made.reverse();
    assert_eq!(seen, made, "newest first");
}

#[tokio::test]
async fn a_page_ends_before_it_is_larger_than_a_client_takes() {
    let rig = Rig::empty().await;
    let path = |i: usize| format!("GET /{}/{i}", "x".repeat(1000));
    let rules = (0..256).map(|i| crate::model::scope::HttpRule::parse_line(&path(i)).unwrap());
    let large = crate::model::scope::Scope::new(
        scope().service().clone(),
        rules.map(crate::model::scope::Rule::Http).collect(),
    )
    .unwrap();
    for i in 0..20 {
        let mut request = request(&i.to_string());
        request.terms.scope = large.clone();
        rig.plane
            .store()
            .write(move |change| change.create_request(&mut request))
            .await
            .unwrap();
    }
    let (first, token) = rig
        .plane
        .access_requests(&root(), page(), RequestFilter::default())
        .await
        .unwrap();
    let bytes: usize = first
        .iter()
        .map(|request| prost::Message::encoded_len(&crate::wire::access::request_to(request)))
        .sum();
    assert!(
        bytes < 4 << 20 && first.len() < 20,
        "{bytes} bytes in {} rows",
        first.len()
    );
    let next = Page::parse(0, &token, &[]).unwrap();
    let (second, token) = rig
        .plane
        .access_requests(&root(), next, RequestFilter::default())
        .await
        .unwrap();
    assert_eq!((first.len() + second.len(), &*token), (20, ""));
}

#[tokio::test]
async fn whoever_watches_a_request_sees_its_end() {
    let rig = Rig::start().await;
    let request = rig.plane.request_access(&alice(), pending()).await.unwrap();
    let (now, mut wait) = rig
        .plane
        .watch_request(&alice(), &request.id)
        .await
        .unwrap();
    assert_eq!(now.state, AccessState::Pending);
    rig.plane
        .cancel_request(&alice(), &request.id, String::new())
        .await
        .unwrap();
    wait.changed().await;
    assert_eq!(
        rig.plane
            .access_request(&alice(), &request.id)
            .await
            .unwrap()
            .state,
        AccessState::Cancelled
    );
}

fn baseline(service: &str, path: &str) -> String {
    format!(
        "apiVersion: jitgate.dev/v1\nkind: StandingGrant\nmetadata: {{name: baseline}}\nspec:\n  subject: spiffe://td/a\n  \
         scope: {{service: {service}, http: [\"GET {path}\"]}}\n"
    )
}

#[tokio::test]
async fn standing_grants_follow_their_declaration() {
    let rig = Rig::empty().await;
    let phase = || {
        rig.plane
            .fanout()
            .index()
            .grants()
            .first()
            .map(|grant| grant.phase(NOON))
    };
    let apply = |text: String| rig.plane.apply(Arc::new(policies(&text)));
    let applied = apply(baseline("shop", "/a")).await.unwrap();
    assert_eq!((applied.issued, applied.ended), (1, 0));
    assert_eq!(phase(), Some(Phase::Live(None)));
    assert_eq!(
        apply(baseline("shop", "/a")).await.unwrap(),
        standing::Applied::default(),
        "the same again is no change"
    );
    let applied = apply(baseline("shop", "/b")).await.unwrap();
    assert_eq!((applied.issued, applied.ended), (1, 1));
    let applied = apply(baseline("books", "/b")).await.unwrap();
    assert_eq!((applied.issued, applied.ended), (1, 1));
    let held = rig.plane.fanout().index().grants();
    assert_eq!(
        (held.len(), held[0].scope.service().as_str()),
        (1, "books"),
        "the other service holds nothing of it"
    );
    apply(String::new()).await.unwrap();
    assert_eq!(phase(), Some(Phase::Ended(Ended::Revoked)));
    apply(baseline("books", "/b")).await.unwrap();
    assert_eq!(phase(), Some(Phase::Live(None)), "declared again");
    assert_eq!(
        rig.plane
            .store()
            .read(chain::verify)
            .await
            .unwrap()
            .unwrap(),
        7
    );
}

#[tokio::test]
async fn a_standing_grant_that_an_administrator_revoked_stays_revoked_until_it_is_declared_anew() {
    let rig = Rig::empty().await;
    let apply = |path: &str| rig.plane.apply(Arc::new(policies(&baseline("shop", path))));
    apply("/a").await.unwrap();
    let subject = caller::Caller::stand_in(&["spiffe://td/a"], false);
    let fault = rig
        .plane
        .release_grant(&subject, "baseline")
        .await
        .unwrap_err();
    assert_eq!(reason(&fault), "NOT_ELIGIBLE");
    rig.plane
        .revoke_grant(&root(), "baseline", "leak".into())
        .await
        .unwrap();
    assert_eq!(apply("/a").await.unwrap().issued, 0);
    rig.advance(700);
    rig.plane.sweep().await.unwrap();
    assert_eq!(
        apply("/a").await.unwrap().issued,
        0,
        "forgotten by sidecars, not by the store"
    );
    assert_eq!(apply("/b").await.unwrap().issued, 1);
}

#[tokio::test]
async fn a_policy_that_changes_is_pinned_in_the_version_that_ruled() {
    let rig = Rig::start().await;
    let changed = POLICIES.replace("default: 15m", "default: 16m");
    let first = rig.plane.request_access(&alice(), asking()).await.unwrap();
    rig.plane.apply(Arc::new(policies(&changed))).await.unwrap();
    let second = rig.plane.request_access(&alice(), asking()).await.unwrap();
    rig.plane.apply(Arc::new(policies(POLICIES))).await.unwrap();
    let third = rig.plane.request_access(&alice(), asking()).await.unwrap();
    let versions = [&first, &second, &third].map(|request| request.terms.policy.version);
    assert_eq!(versions, [1, 2, 1]);
    assert_ne!(first.terms.digest(), second.terms.digest());
    assert_eq!(first.terms.digest(), third.terms.digest());
}

/// Other policies come into force between its decision and the writing of it.
#[derive(Debug)]
struct Overtaken {
    policies: PolicySet,
    plane: Plane,
}

impl policy::ActivePolicies for Overtaken {
    fn rule(
        &self,
        ask: &crate::model::policy::Ask<'_>,
    ) -> Result<crate::model::policy::PolicyDecision, crate::model::policy::Refusal> {
        self.plane.put_in_force(Arc::new(policy::NoPolicies));
        self.policies.rule(ask)
    }

    fn policies(&self) -> Vec<&crate::model::policy::AccessPolicy> {
        self.policies.policies().collect()
    }

    fn standing(&self) -> Vec<&crate::model::policy::StandingGrant> {
        vec![]
    }

    fn requestable(
        &self,
        _: &[crate::model::identity::Principal],
        _: &Service,
        _: Option<&crate::model::target::Target<'_>>,
    ) -> Vec<Arc<str>> {
        vec![]
    }
}

#[tokio::test]
async fn nothing_is_granted_under_policies_that_were_replaced_before_it_was_written() {
    let rig = Rig::empty().await;
    let overtaken = Overtaken {
        policies: policies(POLICIES),
        plane: rig.plane.clone(),
    };
    rig.plane.apply(Arc::new(overtaken)).await.unwrap();
    let fault = rig
        .plane
        .request_access(&alice(), asking())
        .await
        .unwrap_err();
    assert_eq!(reason(&fault), "NO_POLICY", "ruled on anew");
    assert!(rig.plane.fanout().index().is_empty());
    assert!(
        rig.plane
            .access_requests(&root(), page(), RequestFilter::default())
            .await
            .unwrap()
            .0
            .is_empty()
    );
}
