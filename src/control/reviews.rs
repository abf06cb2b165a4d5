//! Reviewing: people approve or deny what waits for them. Every approval is bound to the bytes that were looked at, the quorum
//! is computed from the stored reviews inside the change that adds one, and the review that completes it issues the grant.

use std::sync::Arc;
use std::time::Duration;

use super::caller::Caller;
use super::fault::{Fault, FaultKind, ReviewRefusal};
use super::idempotency::Manner;
use super::plane::Plane;
use super::policy::{Pinned, pinned};
use super::requests::{Granted, approve, visible};
use super::store::{Change, Reader, StoreError};
use crate::model::access::{AccessRequest, AccessState, AccessStep, Outcome, PinnedPolicy, Terminal};
use crate::model::approval::{Review, Standing, Verdict, adds};
use crate::model::canonical::Hash;
use crate::model::identity::{Principal, PrincipalKind};
use crate::model::policy::DURATION_MIN;
use crate::model::scope::{Scope, subset};

/// What a reviewer says, parsed.
#[derive(Debug, Clone)]
pub struct Reviewing {
    /// The access request.
    pub request: String,
    /// Yes or no.
    pub verdict: Verdict,
    /// The `request_digest` of what was looked at.
    pub digest: String,
    /// Why.
    pub reason: String,
    /// Only this much.
    pub narrowed_scope: Option<Scope>,
    /// Only for so long.
    pub narrowed_duration: Option<Duration>,
    /// Everything but the writing.
    pub validate_only: bool,
    /// The state that the reviewer has looked at; empty: whatever it is now.
    pub etag: String,
    /// Makes a retry safe; empty: a retry reviews again, which is refused.
    pub request_id: String,
    /// Digest of everything above, to tell a retry from another review.
    pub fingerprint: Hash,
    /// W3C trace context of the call; the grant links to it.
    pub traceparent: Option<Arc<str>>,
}

impl Plane {
    /// Approves or denies a pending request. The request as it is after that, with its grant if this was the last approval.
    ///
    /// # Errors
    /// NOT_FOUND, STATE_TERMINAL, SELF_APPROVAL, ALREADY_REVIEWED, NOT_ELIGIBLE, DIGEST_MISMATCH, or a narrowing that would
    /// widen. Then nothing is changed.
    pub async fn review_request(&self, caller: &Caller, reviewing: Reviewing) -> Result<AccessRequest, Fault> {
        let (manner, by) = (reviewing.manner(), caller.clone());
        let done = self.write_once(caller, manner, move |change| review(change, &by, reviewing)).await?;
        if done.written && done.answer.state.is_terminal() {
            self.count(&done.answer);
        }
        Ok(done.answer)
    }
}

impl Reviewing {
    fn manner(&self) -> Manner {
        let Self { request_id, fingerprint, validate_only, etag, .. } = self;
        let (request_id, etag) = (request_id.clone(), etag.clone());
        Manner { request_id, fingerprint: *fingerprint, validate_only: *validate_only, etag }
    }
}

/// The whole of one review.
fn review(change: &mut Change<'_>, caller: &Caller, reviewing: Reviewing) -> Result<AccessRequest, Fault> {
    let mut request = visible(&change.read(), caller, &reviewing.request)?;
    reviewing.manner().must_match(&request.etag())?;
    may_change(&request, change)?;
    let pinned = pinned_policy(&change.read(), &request.terms.policy)?;
    if pinned.stages != request.stages {
        return Err(StoreError::Damaged(format!("{} is not under the approval of its policy", request.id)).into());
    }
    let review = admit(&request, caller, &reviewing, change)?;
    change.record_review(&mut request, &review)?;
    conclude(change, &mut request, &pinned, reviewing.traceparent)?;
    Ok(request)
}

/// Over is over, be it only by the clock.
pub(super) fn may_change(request: &AccessRequest, change: &Change<'_>) -> Result<(), Fault> {
    let too_late = request.state == AccessState::Pending && change.now() >= request.pending_until;
    let state = if too_late { AccessState::Expired } else { request.state };
    if state.is_terminal() { Err(Terminal(state).into()) } else { Ok(()) }
}

/// What the policy says in the version that the request is pinned to.
pub(super) fn pinned_policy(reader: &Reader<'_>, policy: &PinnedPolicy) -> Result<Pinned, StoreError> {
    let damaged =
        |why: String| StoreError::Damaged(format!("policy {} version {}: {why}", policy.name, policy.version));
    let row = reader.policy(&policy.name, policy.version)?.ok_or_else(|| damaged("is absent".to_owned()))?;
    pinned(&row.text, &policy.digest).map_err(damaged)
}

/// The review to be written, if it may be and counts.
fn admit(
    request: &AccessRequest,
    caller: &Caller,
    reviewing: &Reviewing,
    change: &Change<'_>,
) -> Result<Review, Fault> {
    let refuse = |refusal, message: String| Err(Fault::new(FaultKind::Review(refusal), message));
    let reviewer = caller.who();
    if caller.principals().iter().any(|principal| request.concerns(principal)) {
        let message = "whoever asked for access or is to get it does not review the request; cancel takes it back";
        return refuse(ReviewRefusal::SelfApproval, message.to_owned());
    }
    if request.reviews.iter().any(|review| review.reviewer == *reviewer) {
        return refuse(ReviewRefusal::AlreadyReviewed, format!("{reviewer} has reviewed it already, and counts once"));
    }
    let proven = approving(request, caller);
    if proven.is_empty() {
        return refuse(ReviewRefusal::NotEligible, not_eligible(request, reviewer));
    }
    let digest = request.terms.digest();
    if reviewing.digest != digest.to_string() {
        let message = "what was reviewed is not what is asked for: the digests differ; look at the request again";
        return refuse(ReviewRefusal::DigestMismatch, message.to_owned());
    }
    let review = Review {
        reviewer: reviewer.clone(),
        verdict: reviewing.verdict,
        reason: reviewing.reason.clone(),
        time: change.now(),
        proven,
        digest,
        narrowed_scope: reviewing.narrowed_scope.clone(),
        narrowed_duration: reviewing.narrowed_duration,
    };
    if !adds(&request.stages, &request.countable(), &review) {
        let message = "nothing waits for this reviewer now: the steps are complete, or their stage is not reached yet";
        return refuse(ReviewRefusal::NotEligible, message.to_owned());
    }
    narrows(request, &review)?;
    Ok(review)
}

/// The principals by which the caller is an approver; none for whoever is no user.
fn approving(request: &AccessRequest, caller: &Caller) -> Vec<Principal> {
    if caller.who().kind() != PrincipalKind::User {
        return Vec::new();
    }
    let names = |principal: &&Principal| request.is_reviewable_by(std::slice::from_ref(*principal));
    caller.acting().iter().filter(names).cloned().collect()
}

/// Whether an approval of the caller would count now.
pub(super) fn waits_for(request: &AccessRequest, caller: &Caller) -> bool {
    let proven = approving(request, caller);
    let barred = caller.principals().iter().any(|principal| request.concerns(principal))
        || request.reviews.iter().any(|review| review.reviewer == *caller.who());
    if request.state.is_terminal() || proven.is_empty() || barred {
        return false;
    }
    let review = Review {
        reviewer: caller.who().clone(),
        verdict: Verdict::Approve,
        reason: String::new(),
        time: request.create_time,
        proven,
        digest: request.terms.digest(),
        narrowed_scope: None,
        narrowed_duration: None,
    };
    adds(&request.stages, &request.countable(), &review)
}

fn not_eligible(request: &AccessRequest, reviewer: &Principal) -> String {
    let policy = &request.terms.policy.name;
    if request.stages.is_empty() {
        return format!("policy {policy} names nobody who approves; its owner can add an approval to it");
    }
    if reviewer.kind() != PrincipalKind::User {
        return format!("only people review, and {reviewer} is no user");
    }
    format!("{reviewer} is not among the approvers of policy {policy}")
}

/// A reviewer can take away, from what others have left, and never add.
fn narrows(request: &AccessRequest, review: &Review) -> Result<(), Fault> {
    let (scope, duration) = request.approved_at_most();
    if let Some(narrowed) = &review.narrowed_scope
        && !subset(narrowed, scope)
    {
        let rules: Vec<String> = scope.rules().iter().map(ToString::to_string).collect();
        let message =
            format!("may only be part of what is left to approve at {}: {}", scope.service(), rules.join(", "));
        return Err(Fault::invalid("narrowed_scope", message));
    }
    if let Some(narrowed) = review.narrowed_duration
        && !(DURATION_MIN..=duration).contains(&narrowed)
    {
        let most = humantime::format_duration(duration);
        return Err(Fault::invalid(
            "narrowed_duration",
            format!("must be from 1s to the {most} that are left to approve"),
        ));
    }
    Ok(())
}

/// Ends the request when its reviews, as they are written now, decide it.
fn conclude(
    change: &mut Change<'_>,
    request: &mut AccessRequest,
    pinned: &Pinned,
    traceparent: Option<Arc<str>>,
) -> Result<(), Fault> {
    let Some(last) = request.reviews.last().cloned() else { return Ok(()) };
    match request.progress().standing {
        Standing::Open => Ok(()),
        Standing::Denied => {
            let (by, reason) = (last.reviewer.to_string(), last.reason);
            let outcome = Outcome { time: change.now(), by, reason, grant: None };
            Ok(change.end_request(request, AccessStep::Deny, outcome)?)
        }
        Standing::Approved => {
            let (scope, duration) = request.approved_at_most();
            let granted = Granted {
                scope: scope.clone(),
                duration,
                staleness: pinned.staleness,
                rule: None,
                by: last.reviewer.to_string(),
                message: approved_by(request),
                traceparent,
            };
            approve(change, request, granted)
        }
    }
}

fn approved_by(request: &AccessRequest) -> String {
    let approvals = request.reviews.iter().filter(|review| review.verdict == Verdict::Approve);
    let mut names: Vec<&str> = approvals.map(|review| review.reviewer.short()).collect();
    let more = names.len().saturating_sub(10);
    names.truncate(10);
    let names = names.join(", ");
    if more > 0 { format!("approved by {names} and {more} more") } else { format!("approved by {names}") }
}

#[cfg(test)]
mod tests;
