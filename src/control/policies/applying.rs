//! Applying: every document, every version, what is withdrawn and what stands, in one revision or not at all. Refused
//! when the set in force is no longer the one that was planned against.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tracing::Instrument;

use super::offered::Offer;
use super::plan::{Drafted, Next, Plan};
use crate::control::lifecycle::caller::Caller;
use crate::control::lifecycle::fault::{Fault, FaultKind};
use crate::control::lifecycle::plane::Plane;
use crate::control::lifecycle::rows::{end, listed};
use crate::control::lifecycle::standing::{Applied, Declared};
use crate::control::lifecycle::write_options::WriteOptions;
use crate::control::policy::Sources;
use crate::control::store::{Change, StoreError};
use crate::model::access::{AccessStep, Outcome};
use crate::model::canonical::{Canonical, Hash};
use crate::model::grant::{End, Ended, Phase, Revision};
use crate::wire::store::{Answered, AppliedDocument};

/// For how long the same request id is recognised.
const ANSWER_KEPT: Duration = Duration::from_hours(24);
/// What stands for an access request in the answer to an apply.
const REVISION: &str = "policies@";

/// Most sets that wait to be applied.
const UNDER_WAY_MAX: usize = 32;

/// How to apply.
#[derive(Debug, Clone)]
pub(crate) struct Applying {
    /// What.
    pub offer: Offer,
    /// End what lives under policies that no longer decide.
    pub revoke_withdrawn: bool,
    /// How; the etag is that of the plan that was looked at.
    pub options: WriteOptions,
    /// For the record.
    pub reason: String,
}

/// What applying has done.
#[derive(Debug)]
pub(crate) struct Done {
    /// What was changed; with errors in it: nothing.
    pub plan: Plan,
    /// Where; `None` when nothing was written.
    pub revision: Option<Revision>,
    /// Names the set in force now.
    pub etag: String,
    /// Grants ended and requests cancelled with their policies.
    pub withdrawn: Withdrawn,
    /// What happened to policies and standing grants.
    pub applied: Applied,
    /// It was done before, under the same request id.
    pub repeated: bool,
}

/// What ended with its policy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Withdrawn {
    /// Grants revoked.
    pub grants: usize,
    /// Pending requests cancelled.
    pub requests: usize,
}

impl Plane {
    /// Puts the offered documents in force, or says what that would change. Administrators only.
    ///
    /// # Errors
    /// NOT_ELIGIBLE; INVALID_ARGUMENT for documents with errors; POLICIES_CHANGED when another set is in force than the
    /// one planned against. Then nothing was changed.
    pub(crate) async fn apply_policies(
        &self,
        caller: &Caller,
        applying: Applying,
    ) -> Result<Done, Fault> {
        caller.must_be_admin("apply policies")?;
        let (plane, caller) = (self.clone(), caller.clone());
        // What is durable has to come into force, whether or not the caller waits for that.
        to_the_end(self.sources(), async move {
            plane.apply_in_turn(&caller, applying).await
        })
        .await
    }

    async fn apply_in_turn(&self, caller: &Caller, applying: Applying) -> Result<Done, Fault> {
        let _turn = self.sources().turn.lock().await;
        let key = answer_key(caller, &applying.options.request_id);
        let first = match key {
            Some(key) => self.first_answer(key, applying.options.fingerprint).await?,
            None => None,
        };
        let Drafted { plan, next, before } =
            self.draft(&applying.offer, caller.who().as_str()).await?;
        if let Some(revision) = first {
            let (etag, applied, withdrawn) =
                (plan.etag.clone(), Applied::default(), Withdrawn::default());
            return Ok(Done {
                plan,
                revision: Some(revision),
                etag,
                withdrawn,
                applied,
                repeated: true,
            });
        }
        let Some(next) = next else {
            return Err(super::unusable(&plan.problems));
        };
        if !applying.options.etag.is_empty() && applying.options.etag != plan.etag {
            let message =
                "the policies in force are no longer those that were planned against; plan again";
            return Err(Fault::new(FaultKind::PoliciesChanged, message).with("etag", plan.etag));
        }
        let etag = super::etag(&next.set, &next.documents);
        let mut done = Done {
            plan,
            revision: None,
            etag,
            withdrawn: Withdrawn::default(),
            applied: Applied::default(),
            repeated: false,
        };
        if applying.options.validate_only {
            done.etag.clone_from(&done.plan.etag);
            return Ok(done);
        }
        let job = Job {
            by: caller.who().to_string(),
            declared: Declared::by(&*next.set),
            documents: next.documents.clone(),
            before,
            withdrawn: if applying.revoke_withdrawn {
                done.plan.withdrawn()
            } else {
                BTreeSet::new()
            },
            reason: applying.reason,
            keep: self.tombstone_keep(),
            answer: key.map(|key| (key, applying.options.fingerprint)),
        };
        let ((applied, withdrawn), revision) =
            self.store().write(move |change| job.write(change)).await?;
        (done.applied, done.withdrawn, done.revision) = (applied, withdrawn, Some(revision));
        self.take_over(next);
        tracing::info!(by = %caller.who(), %revision, %applied, "policies were applied");
        Ok(done)
    }

    /// What is durable comes into force.
    fn take_over(&self, Next { set, documents }: Next) {
        self.put_in_force(set);
        self.sources()
            .beside
            .store(Arc::new(super::texts(&documents)));
    }

    async fn first_answer(
        &self,
        key: [u8; 32],
        fingerprint: Hash,
    ) -> Result<Option<Revision>, Fault> {
        let answered = self
            .store()
            .read(move |reader| Ok::<_, Fault>(reader.answered(&key)?))
            .await?;
        let Some(answered) = answered else {
            return Ok(None);
        };
        if *answered.fingerprint != *fingerprint.as_bytes() {
            return Err(Fault::invalid(
                "options.request_id",
                "was used before for a different call; choose a new one",
            ));
        }
        let revision = answered
            .request
            .strip_prefix(REVISION)
            .and_then(|revision| revision.parse().ok())
            .ok_or_else(|| StoreError::Damaged("the answer kept for a request id".to_owned()))?;
        Ok(Some(Revision(revision)))
    }
}

/// Carries on with `work` even when whoever waits for it goes away.
async fn to_the_end<T: Send + 'static>(
    sources: &Sources,
    work: impl Future<Output = Result<T, Fault>> + Send + 'static,
) -> Result<T, Fault> {
    let (done, answer) = oneshot::channel();
    {
        let mut under_way = sources.under_way.lock();
        while let Some(ended) = under_way.try_join_next() {
            if let Err(error) = ended {
                tracing::error!(%error, "applying policies ended abnormally");
            }
        }
        if under_way.len() >= UNDER_WAY_MAX {
            return Err(Fault::new(
                FaultKind::Busy,
                "other policies are being applied; try again shortly",
            ));
        }
        under_way.spawn(async move { drop(done.send(work.await)) }.in_current_span());
    }
    let stopped = |_| {
        Err(Fault::new(
            FaultKind::Unavailable,
            "the call ended before it was done; look what is in force",
        ))
    };
    answer.await.unwrap_or_else(stopped)
}

/// Everything to write.
struct Job {
    by: String,
    declared: Declared,
    documents: Vec<AppliedDocument>,
    before: Vec<AppliedDocument>,
    /// Names of the policies whose grants and requests end.
    withdrawn: BTreeSet<String>,
    reason: String,
    keep: Duration,
    answer: Option<([u8; 32], Hash)>,
}

impl Job {
    fn write(self, change: &mut Change<'_>) -> Result<(Applied, Withdrawn), Fault> {
        if change.read().applied_documents()? != self.before {
            return Err(Fault::new(
                FaultKind::PoliciesChanged,
                "other policies were applied meanwhile; plan again",
            ));
        }
        for document in self
            .before
            .iter()
            .filter(|old| !self.documents.iter().any(|new| same_name(old, new)))
        {
            change.remove_document(&document.kind, &document.name);
        }
        for document in self
            .documents
            .iter()
            .filter(|new| !self.before.contains(new))
        {
            change.put_document(document);
        }
        let applied = self.declared.write(change, &self.by, self.keep)?;
        let withdrawn = Withdrawn {
            grants: self.revoke(change)?,
            requests: self.cancel(change)?,
        };
        if let Some((key, fingerprint)) = &self.answer {
            let fingerprint = fingerprint.as_bytes().to_vec().into();
            let request = format!("{REVISION}{}", change.revision());
            let answer = Answered {
                request,
                fingerprint,
                ..Answered::default()
            };
            change.keep_answer(key, &answer, change.now().plus(ANSWER_KEPT))?;
        }
        Ok((applied, withdrawn))
    }

    fn revoke(&self, change: &mut Change<'_>) -> Result<usize, Fault> {
        let mut revoked = 0;
        if self.withdrawn.is_empty() {
            return Ok(revoked);
        }
        for id in change.read().enforced(None)? {
            let mut issued = listed(change.read().grant(&id)?, &id)?;
            let over = matches!(issued.grant.phase(change.now()), Phase::Ended(_))
                || issued.grant.end == End::Standing;
            if over || !self.withdrawn.contains(&*issued.grant.policy.name) {
                continue;
            }
            let reason = self.because(&issued.grant.policy.name);
            end(
                change,
                &mut issued,
                Ended::Revoked,
                (self.by.clone(), reason),
                self.keep,
            )?;
            revoked += 1;
        }
        Ok(revoked)
    }

    fn cancel(&self, change: &mut Change<'_>) -> Result<usize, Fault> {
        let mut cancelled = 0;
        if self.withdrawn.is_empty() {
            return Ok(cancelled);
        }
        for id in change.read().all_pending(usize::MAX)? {
            let mut request = listed(change.read().request(&id)?, &id)?;
            // What nobody has decided in time has expired; the sweeper writes that down.
            let over = change.now() >= request.pending_until;
            if over || !self.withdrawn.contains(&*request.terms.policy.name) {
                continue;
            }
            let reason = self.because(&request.terms.policy.name);
            let outcome = Outcome {
                time: change.now(),
                by: self.by.clone(),
                reason,
                grant: None,
            };
            change.end_request(&mut request, AccessStep::Cancel, outcome)?;
            cancelled += 1;
        }
        Ok(cancelled)
    }

    fn because(&self, policy: &str) -> String {
        let colon = if self.reason.is_empty() { "" } else { ": " };
        format!("policy {policy} was withdrawn{colon}{}", self.reason)
    }
}

fn same_name(a: &AppliedDocument, b: &AppliedDocument) -> bool {
    (&a.kind, &a.name) == (&b.kind, &b.name)
}

/// Apart from those of access requests: the same id there means something else.
fn answer_key(caller: &Caller, request_id: &str) -> Option<[u8; 32]> {
    let mut canonical = Canonical::new("jitgate.apply_policies.v1");
    canonical.text(caller.who().as_str()).text(request_id);
    (!request_id.is_empty()).then(|| *canonical.finish().as_bytes())
}
