//! Every write: once per request id, without a trace in rehearsal, and only on the state that was looked at.

use super::super::lifecycle::grants;
use super::*;
use crate::control::lifecycle::extend::ExtendInput;
use crate::control::lifecycle::reviews::ReviewInput;
use crate::control::lifecycle::write_options::{Transition, WriteOptions};
use crate::model::access::AccessRequest;
use crate::model::approval::Verdict;
use crate::model::grant::{GrantId, GrantState};

const PEOPLE: &str = "\n  approval: {stages: [{name: s, steps: [{name: people, approvers: ['user:https://idp.example|*']}]}]}\n";

/// Every call that writes; each is made on something fresh.
const VERBS: [&str; 10] = [
    "request",
    "cancel",
    "approve",
    "deny",
    "revoke",
    "revoke all",
    "release",
    "extend",
    "suspend",
    "resume",
];

/// What a verb is tried on: a pending request, and a grant in the state that the verb needs.
struct Fixture {
    rig: Rig,
    request: AccessRequest,
    grant: GrantId,
}

/// What came of a verb: whom it named, and where that stands.
type Told = (String, String, u64);

impl Fixture {
    async fn start(verb: &str) -> Self {
        let rig = Rig::empty().await;
        rig.plane
            .apply(Arc::new(policies(&format!(
                "{}{PEOPLE}",
                POLICIES.trim_end()
            ))))
            .await
            .unwrap();
        let request = rig.plane.request_access(&alice(), pending()).await.unwrap();
        let grant = rig
            .plane
            .request_access(&alice(), asking())
            .await
            .unwrap()
            .outcome
            .unwrap()
            .grant
            .unwrap();
        if verb == "resume" {
            rig.plane
                .suspend(&root(), to(grant.as_str(), ""))
                .await
                .unwrap();
        }
        Self {
            rig,
            request,
            grant,
        }
    }

    async fn etag(&self, verb: &str) -> String {
        match verb {
            "cancel" | "approve" | "deny" => self
                .rig
                .plane
                .access_request(&alice(), &self.request.id)
                .await
                .unwrap()
                .etag(),
            _ => self
                .rig
                .plane
                .grant(&alice(), self.grant.as_str())
                .await
                .unwrap()
                .etag(),
        }
    }

    async fn run(&self, verb: &str, options: WriteOptions) -> Result<Told, Fault> {
        let plane = &self.rig.plane;
        let of = |id: &str| Transition {
            id: id.to_owned(),
            reason: "why".into(),
            options: options.clone(),
        };
        let review = |verdict| ReviewInput {
            request: self.request.id.to_string(),
            verdict,
            digest: self.request.terms.digest().to_string(),
            reason: "fine".into(),
            narrowed_scope: None,
            narrowed_duration: None,
            options: options.clone(),
            traceparent: None,
        };
        let request = |told: AccessRequest| {
            (
                told.id.to_string(),
                told.state.to_string(),
                told.mod_revision.0,
            )
        };
        let ends = |told: grants::EndReport| {
            let state = told.grants[0].grant.state(plane.now()).as_str().to_owned();
            (told.grants[0].grant.id.to_string(), state, told.revision.0)
        };
        let grant = self.grant.as_str();
        Ok(match verb {
            "request" => {
                let asking = RequestInput {
                    options,
                    ..asking()
                };
                request(plane.request_access(&alice(), asking).await?)
            }
            "cancel" => request(plane.cancel(&alice(), of(&self.request.id)).await?),
            "approve" => request(
                plane
                    .review_request(&bob(), review(Verdict::Approve))
                    .await?,
            ),
            "deny" => request(plane.review_request(&bob(), review(Verdict::Deny)).await?),
            "revoke" => ends(plane.revoke(&root(), of(grant)).await?),
            "revoke all" => {
                let of = GrantFilter {
                    subject: Some(principal(ALICE)),
                    ..GrantFilter::default()
                };
                let sweep = Sweep {
                    of,
                    include_standing: false,
                };
                ends(
                    plane
                        .revoke_all(&root(), sweep, ("why".into(), options))
                        .await?,
                )
            }
            "release" => ends(plane.release(&alice(), of(grant)).await?),
            "extend" => {
                let duration = Some(Duration::from_secs(60));
                let extending = ExtendInput {
                    id: grant.to_owned(),
                    duration,
                    options,
                    ..ExtendInput::default()
                };
                request(plane.extend(&alice(), extending).await?)
            }
            "suspend" => ends(plane.suspend(&root(), of(grant)).await?),
            "resume" => ends(plane.resume(&root(), of(grant)).await?),
            other => panic!("{other} is no verb"),
        })
    }

    /// The whole store, as far as anybody can tell: its revision and the head of the audit chain.
    async fn mark(&self) -> (u64, i64, i64) {
        let read = self.rig.plane.store().read(|reader| {
            let meta = reader.meta()?.unwrap();
            Ok::<_, StoreError>((reader.revision()?.0, meta.audit_index, meta.answered))
        });
        read.await.unwrap()
    }
}

#[tokio::test]
async fn a_retry_of_any_write_gets_the_first_answer_and_changes_nothing() {
    for verb in VERBS {
        let fixture = Fixture::start(verb).await;
        let first = fixture.run(verb, under("once")).await.unwrap();
        let mark = fixture.mark().await;
        assert_eq!(
            fixture.run(verb, under("once")).await.unwrap(),
            first,
            "{verb}"
        );
        assert_eq!(fixture.mark().await, mark, "{verb}");
        let mut other = Canonical::new("test");
        other.text("something else");
        let misused = WriteOptions {
            fingerprint: other.finish(),
            ..under("once")
        };
        let fault = fixture.run(verb, misused).await.unwrap_err();
        assert_eq!(
            (reason(&fault), fault.field.as_deref()),
            ("INVALID_ARGUMENT", Some("options.request_id")),
            "{verb}"
        );
    }
}

#[tokio::test]
async fn retries_at_the_same_time_are_one_write() {
    for verb in VERBS {
        let fixture = Fixture::start(verb).await;
        let all =
            futures_util::future::join_all((0..20).map(|_| fixture.run(verb, under("once")))).await;
        let all: std::collections::HashSet<_> = all.into_iter().map(|told| told.unwrap()).collect();
        assert_eq!(all.len(), 1, "{verb}");
    }
}

#[tokio::test]
async fn a_rehearsal_tells_what_would_be_and_leaves_no_trace() {
    for verb in VERBS {
        let fixture = Fixture::start(verb).await;
        let before = (
            fixture.mark().await,
            fixture.rig.plane.fanout().revision(),
            fixture.rig.plane.fanout().index().digest(),
        );
        let dry = WriteOptions {
            validate_only: true,
            ..under("rehearsed")
        };
        let (named, state, revision) = fixture.run(verb, dry.clone()).await.unwrap();
        let after = (
            fixture.mark().await,
            fixture.rig.plane.fanout().revision(),
            fixture.rig.plane.fanout().index().digest(),
        );
        assert_eq!(after, before, "{verb}");
        assert_eq!(revision, 0, "{verb}: what is not written has no revision");
        let (real, would_be, _) = fixture.run(verb, under("rehearsed")).await.unwrap();
        assert_eq!(
            state, would_be,
            "{verb}: the rehearsal has not used up the request id, and told the truth"
        );
        let made_up = matches!(verb, "request" | "extend");
        assert_eq!(
            named,
            if made_up { String::new() } else { real.clone() },
            "{verb}"
        );
        let (again, ..) = fixture.run(verb, dry).await.unwrap();
        assert_eq!(
            again, real,
            "{verb}: a rehearsal under a used id tells what the real call would: the first answer"
        );
    }
}

#[tokio::test]
async fn a_rehearsal_is_refused_where_the_real_call_would_be() {
    for verb in VERBS
        .into_iter()
        .filter(|verb| !matches!(*verb, "request" | "revoke all"))
    {
        let fixture = Fixture::start(verb).await;
        fixture.run(verb, WriteOptions::default()).await.unwrap();
        let dry = fixture
            .run(
                verb,
                WriteOptions {
                    validate_only: true,
                    ..WriteOptions::default()
                },
            )
            .await
            .unwrap_err();
        let real = fixture
            .run(verb, WriteOptions::default())
            .await
            .unwrap_err();
        assert_eq!(dry, real, "{verb}");
    }
}

#[tokio::test]
async fn an_older_etag_is_refused_and_the_newest_is_not() {
    for verb in VERBS
        .into_iter()
        .filter(|verb| !matches!(*verb, "request" | "revoke all"))
    {
        let fixture = Fixture::start(verb).await;
        let mark = fixture.mark().await;
        let stale = WriteOptions {
            etag: "0123456789abcdef".into(),
            ..WriteOptions::default()
        };
        let fault = fixture.run(verb, stale).await.unwrap_err();
        assert_eq!(reason(&fault), "ETAG_MISMATCH", "{verb}");
        assert!(fault.message.contains("read it again"), "{verb}: {fault}");
        assert_eq!(fixture.mark().await, mark, "{verb}");
        let etag = fixture.etag(verb).await;
        fixture
            .run(
                verb,
                WriteOptions {
                    etag: etag.clone(),
                    ..under("id")
                },
            )
            .await
            .unwrap();
        if verb != "extend" {
            assert_ne!(
                fixture.etag(verb).await,
                etag,
                "{verb}: a new state has a new etag"
            );
        }
        fixture
            .run(
                verb,
                WriteOptions {
                    etag,
                    ..under("id")
                },
            )
            .await
            .expect("a retry is told the first answer, whatever is by now");
    }
}

#[tokio::test]
async fn a_grants_etag_does_not_change_with_the_clock() {
    let fixture = Fixture::start("revoke").await;
    let etag = fixture.etag("revoke").await;
    fixture.rig.advance(61);
    let expired = fixture
        .rig
        .plane
        .grant(&alice(), fixture.grant.as_str())
        .await
        .unwrap();
    assert_eq!(
        (expired.etag(), expired.grant.state(fixture.rig.plane.now())),
        (etag, GrantState::Expired)
    );
}
