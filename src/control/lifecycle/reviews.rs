//! Reviewing: people approve or deny what waits for them. Every approval is bound to the bytes that were looked at, the quorum
//! is computed from the stored reviews inside the change that adds one, and the review that completes it issues the grant.

use std::sync::Arc;
use std::time::Duration;

use super::approve::{Granted, approve};
use super::break_glass;
use super::caller::Caller;
use super::fault::{Fault, FaultKind, ReviewRefusal};
use super::plane::Plane;
use super::rows::{pinned_policy, visible_request};
use super::write_options::WriteOptions;
use crate::control::policy::{ActivePolicies, Pinned};
use crate::control::store::{Change, StoreError};
use crate::model::access::{AccessRequest, AccessState, AccessStep, Outcome, Terminal};
use crate::model::approval::{InForce, Review, Standing, Verdict, adds};
use crate::model::identity::{Principal, PrincipalKind};
use crate::model::policy::{DURATION_MIN, Mode};
use crate::model::scope::{Scope, subset};
use crate::model::time::Timestamp;

/// What a reviewer says, parsed.
#[derive(Debug, Clone)]
pub(crate) struct ReviewInput {
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
    /// How. Without a request id a retry reviews again, which is refused.
    pub options: WriteOptions,
    /// W3C trace context of the call; the grant links to it.
    pub traceparent: Option<Arc<str>>,
}

impl Plane {
    /// Approves or denies a pending request. The request as it is after that, with its grant if this was the last approval.
    ///
    /// # Errors
    /// NOT_FOUND, STATE_TERMINAL, SELF_APPROVAL, ALREADY_REVIEWED, NOT_ELIGIBLE, DIGEST_MISMATCH, or a narrowing that would
    /// widen. Then nothing is changed.
    pub(crate) async fn review_request(
        &self,
        caller: &Caller,
        reviewing: ReviewInput,
    ) -> Result<AccessRequest, Fault> {
        let (options, by, current) = (reviewing.options.clone(), caller.clone(), self.current());
        let review =
            move |change: &mut Change<'_>| review(change, &by, reviewing, &**current.load());
        let done = self.write_once(caller, options, review).await?;
        if done.written && done.answer.state.is_terminal() {
            self.count(&done.answer);
        }
        Ok(done.answer)
    }
}

/// When reviews are counted, and what is in force then.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReviewContext<'c> {
    pub(crate) policies_in_force: &'c dyn ActivePolicies,
    pub(crate) now: Timestamp,
}

/// Notes which reviews of a pending request count by what is in force now.
pub(crate) fn recheck(request: &mut AccessRequest, policies_in_force: &dyn ActivePolicies) {
    if request.state.is_terminal() {
        return;
    }
    let policy = policies_in_force
        .policy(&request.terms.policy.name)
        .filter(|policy| policy.mode == Mode::Enforce);
    let stages = policy.map(|policy| policy.approval.as_slice());
    request.recheck(&InForce {
        stages,
        persons: policies_in_force.persons(),
    });
}

/// The whole of one review. What is in force is looked at within the change.
fn review(
    change: &mut Change<'_>,
    caller: &Caller,
    reviewing: ReviewInput,
    policies_in_force: &dyn ActivePolicies,
) -> Result<AccessRequest, Fault> {
    let mut request = visible_request(&change.read(), caller, &reviewing.request)?;
    reviewing.options.must_match(&request.etag())?;
    may_change(&request, change)?;
    let pinned = pinned_policy(&change.read(), &request.terms.policy)?;
    if pinned.stages != request.stages {
        return Err(StoreError::Damaged(format!(
            "{} is not under the approval of its policy",
            request.id
        ))
        .into());
    }
    recheck(&mut request, policies_in_force);
    let counting = ReviewContext {
        policies_in_force,
        now: change.now(),
    };
    let review = admit(&request, caller, &reviewing, &counting)?;
    change.record_review(&mut request, &review)?;
    conclude(change, &mut request, &pinned, reviewing.traceparent)?;
    Ok(request)
}

/// Over is over, be it only by the clock.
pub(crate) fn may_change(request: &AccessRequest, change: &Change<'_>) -> Result<(), Fault> {
    let too_late = request.state == AccessState::Pending && change.now() >= request.pending_until;
    let state = if too_late {
        AccessState::Expired
    } else {
        request.state
    };
    if state.is_terminal() {
        Err(Terminal(state).into())
    } else {
        Ok(())
    }
}

/// The review to be written, if it may be and counts.
fn admit(
    request: &AccessRequest,
    caller: &Caller,
    reviewing: &ReviewInput,
    counting: &ReviewContext<'_>,
) -> Result<Review, Fault> {
    let refuse = |refusal, message: String| Err(Fault::new(FaultKind::Review(refusal), message));
    let (reviewer, persons) = (caller.who(), counting.policies_in_force.persons());
    if caller
        .principals()
        .iter()
        .any(|principal| request.concerns_person(principal, persons))
    {
        let message = "whoever asked for access or is to get it does not review the request, by whatever account; cancel takes \
                       it back";
        return refuse(ReviewRefusal::SelfApproval, message.to_owned());
    }
    if let Some(first) = request
        .reviews
        .iter()
        .find(|review| persons.same(&review.reviewer, reviewer))
    {
        let message = format!(
            "{} has reviewed it already, and a person counts once",
            first.reviewer
        );
        return refuse(ReviewRefusal::AlreadyReviewed, message);
    }
    let waited = request.waited(counting.now);
    let proven = approving(request, caller, waited);
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
        time: counting.now,
        proven,
        digest,
        narrowed_scope: reviewing.narrowed_scope.clone(),
        narrowed_duration: reviewing.narrowed_duration,
        waited,
        void: None,
    };
    if let Some(why) = void(request, &review, counting.policies_in_force) {
        return refuse(
            ReviewRefusal::NotEligible,
            format!("the review of {reviewer} would not count: {why}"),
        );
    }
    if !adds(&request.stages, &request.countable(), &review) {
        let message = "nothing waits for this reviewer now: the steps are complete, or their stage is not reached yet";
        return refuse(ReviewRefusal::NotEligible, message.to_owned());
    }
    narrows(request, &review)?;
    Ok(review)
}

/// Why a review would not count by what is in force now.
fn void(
    request: &AccessRequest,
    review: &Review,
    policies_in_force: &dyn ActivePolicies,
) -> Option<Arc<str>> {
    let mut with = request.clone();
    with.reviews.push(review.clone());
    recheck(&mut with, policies_in_force);
    with.reviews.pop()?.void
}

/// The principals by which the caller is an approver; none for whoever is no user.
fn approving(request: &AccessRequest, caller: &Caller, waited: Duration) -> Vec<Principal> {
    if caller.who().kind() != PrincipalKind::User {
        return Vec::new();
    }
    let names =
        |principal: &&Principal| request.is_reviewable_by(std::slice::from_ref(*principal), waited);
    caller.acting().iter().filter(names).cloned().collect()
}

/// Whether the caller's word is wanted: an approval of theirs would count now, or their review of broken glass is outstanding.
pub(crate) fn waits_for(
    request: &AccessRequest,
    caller: &Caller,
    counting: &ReviewContext<'_>,
) -> bool {
    let ReviewContext {
        policies_in_force,
        now,
    } = *counting;
    if break_glass::waits_for(request, caller, policies_in_force, now) {
        return true;
    }
    let (waited, persons) = (request.waited(now), policies_in_force.persons());
    let proven = approving(request, caller, waited);
    let barred = caller
        .principals()
        .iter()
        .any(|principal| request.concerns_person(principal, persons))
        || request
            .reviews
            .iter()
            .any(|review| persons.same(&review.reviewer, caller.who()));
    if request.state.is_terminal() || now >= request.pending_until || proven.is_empty() || barred {
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
        waited,
        void: None,
    };
    void(request, &review, policies_in_force).is_none()
        && adds(&request.stages, &request.countable(), &review)
}

fn not_eligible(request: &AccessRequest, reviewer: &Principal) -> String {
    let policy = &request.terms.policy.name;
    if request.stages.is_empty() {
        return format!(
            "policy {policy} names nobody who approves; its owner can add an approval to it"
        );
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
        let message = format!(
            "may only be part of what is left to approve at {}: {}",
            scope.service(),
            rules.join(", ")
        );
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
    let Some(last) = request.reviews.last().cloned() else {
        return Ok(());
    };
    match request.progress().standing {
        Standing::Open => Ok(()),
        Standing::Denied => {
            let (by, reason) = (last.reviewer.to_string(), last.reason);
            let outcome = Outcome {
                time: change.now(),
                by,
                reason,
                grant: None,
            };
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
    let counts = |review: &&Review| review.verdict == Verdict::Approve && review.void.is_none();
    let approvals = request.reviews.iter().filter(counts);
    let mut names: Vec<&str> = approvals.map(|review| review.reviewer.short()).collect();
    let more = names.len().saturating_sub(10);
    names.truncate(10);
    let names = names.join(", ");
    if more > 0 {
        format!("approved by {names} and {more} more")
    } else {
        format!("approved by {names}")
    }
}

#[cfg(test)]
mod tests;
