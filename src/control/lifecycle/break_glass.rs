//! Breaking the glass: access at once, without the people who would have to approve it, and their review afterwards. Nobody reviews
//! what they did themselves, and whoever leaves a review overdue does not break the glass again.

use std::sync::Arc;

use super::approve::{Granted, approve};
use super::caller::Caller;
use super::fault::{Fault, FaultKind, ReviewRefusal};
use super::plane::Plane;
use super::rows::{end, is_approver, listed, visible_request};
use super::write_options::WriteOptions;
use crate::control::policy::ActivePolicies;
use crate::control::store::reader::OpenReview;
use crate::control::store::{Change, Reader, StoreError};
use crate::model::access::AccessRequest;
use crate::model::approval::{AfterTheFact, Opinion, Said};
use crate::model::grant::{Ended, Phase, Staleness};
use crate::model::identity::{Principal, PrincipalKind};
use crate::model::policy::{BREAK_GLASS_OPEN_MAX, Matcher, Mode, Persons, Refusal, RefusalReason};
use crate::model::time::Timestamp;

/// What a reviewer says afterwards, parsed.
#[derive(Debug, Clone)]
pub(crate) struct Afterwards {
    /// The access request, or its grant.
    pub id: String,
    /// Whether it was right.
    pub opinion: Opinion,
    /// Why.
    pub reason: String,
    /// How it is to be written.
    pub options: WriteOptions,
}

impl Plane {
    /// Reviews a request for which the glass was broken. An objection ends its grant, if that still lives.
    ///
    /// # Errors
    /// NOT_FOUND, STATE_TERMINAL, SELF_APPROVAL, NOT_ELIGIBLE. Then nothing is changed.
    pub(crate) async fn review_break_glass(
        &self,
        caller: &Caller,
        afterwards: Afterwards,
    ) -> Result<AccessRequest, Fault> {
        let (by, current, keep, options) = (
            caller.clone(),
            self.current(),
            self.tombstone_keep(),
            afterwards.options.clone(),
        );
        let review = move |change: &mut Change<'_>| {
            let mut request = found(&change.read(), &by, &afterwards.id)?;
            afterwards.options.must_match(&request.etag())?;
            may_review(&request, &by, &**current.load(), change.now())?;
            let said = Said {
                reviewer: by.who().clone(),
                opinion: afterwards.opinion,
                reason: afterwards.reason.clone(),
                time: change.now(),
            };
            change.review_afterwards(&mut request, said)?;
            note_at_grant(change, &request, keep)?;
            Ok(request)
        };
        Ok(self.write_once(caller, options, review).await?.answer)
    }

    /// Counts what is outstanding, for the metrics.
    ///
    /// # Errors
    /// [`Fault`] when the store cannot be read.
    pub(crate) async fn measure_reviews(&self) -> Result<(), Fault> {
        let now = self.now();
        let open = self
            .store()
            .read(|reader| Ok::<_, Fault>(reader.open_reviews()?))
            .await?;
        let overdue = open.iter().filter(|review| now >= review.due).count();
        self.metrics()
            .break_glass_reviews("outstanding", open.len() - overdue);
        self.metrics().break_glass_reviews("overdue", overdue);
        Ok(())
    }
}

/// The request of that id, or the one of the grant of that id.
fn found(reader: &Reader<'_>, caller: &Caller, id: &str) -> Result<AccessRequest, Fault> {
    if reader.request(id)?.is_none()
        && let Some(grant) = reader.grant(id)?.filter(|grant| caller.sees_grant(grant))
        && let Some(request) = &grant.origin.request
    {
        return visible_request(reader, caller, request);
    }
    visible_request(reader, caller, id)
}

fn may_review(
    request: &AccessRequest,
    caller: &Caller,
    policies_in_force: &dyn ActivePolicies,
    now: Timestamp,
) -> Result<(), Fault> {
    let refuse = |refusal, message: String| Err(Fault::new(FaultKind::Review(refusal), message));
    let Some(review) = &request.break_glass else {
        let message = "the glass was not broken for this request; while it is pending it is approved or denied";
        return refuse(ReviewRefusal::NotEligible, message.to_owned());
    };
    if let Some(said) = &review.said {
        return Err(Fault::new(
            FaultKind::Terminal,
            format!("{} has reviewed it already", said.reviewer),
        ));
    }
    if is_barred(request, caller, policies_in_force.persons()) {
        let message =
            "whoever broke the glass or got the access does not review that, by whatever account";
        return refuse(ReviewRefusal::SelfApproval, message.to_owned());
    }
    if !was_passed_over(request, caller, policies_in_force, now) {
        let message = format!(
            "{} is not among those who were passed over: the approvers of the request",
            caller.who()
        );
        return refuse(ReviewRefusal::NotEligible, message);
    }
    Ok(())
}

/// Whether a review of the caller is outstanding here.
pub(crate) fn waits_for(
    request: &AccessRequest,
    caller: &Caller,
    policies_in_force: &dyn ActivePolicies,
    now: Timestamp,
) -> bool {
    request
        .break_glass
        .as_ref()
        .is_some_and(|review| review.said.is_none())
        && !is_barred(request, caller, policies_in_force.persons())
        && was_passed_over(request, caller, policies_in_force, now)
}

fn is_barred(request: &AccessRequest, caller: &Caller, persons: &Persons) -> bool {
    caller
        .principals()
        .iter()
        .any(|principal| request.concerns_person(principal, persons))
}

/// An approver by the policy that was pinned, and by the one in force if it is still there. No policy, nobody to be gone.
fn was_passed_over(
    request: &AccessRequest,
    caller: &Caller,
    policies_in_force: &dyn ActivePolicies,
    now: Timestamp,
) -> bool {
    let waited = request.waited(now);
    let in_force = policies_in_force
        .policy(&request.terms.policy.name)
        .filter(|policy| policy.mode == Mode::Enforce);
    is_approver(&request.stages, caller, waited)
        && in_force.is_none_or(|policy| is_approver(&policy.approval, caller, waited))
}

/// What a broken glass adds to a grant.
pub(crate) struct Broken {
    pub(crate) duration: std::time::Duration,
    pub(crate) staleness: Staleness,
    pub(crate) traceparent: Option<Arc<str>>,
}

/// Issues the grant of a request for which the glass is broken, and makes its review due.
pub(crate) fn carry_out(
    change: &mut Change<'_>,
    request: &mut AccessRequest,
    broken: Broken,
    persons: &Persons,
) -> Result<(), Fault> {
    may_break(&change.read(), request, persons, change.now())?;
    let Some(review) = request.break_glass.clone() else {
        return Ok(());
    };
    let Broken {
        duration,
        staleness,
        traceparent,
    } = broken;
    let granted = Granted {
        scope: request.terms.scope.clone(),
        duration,
        staleness,
        rule: None,
        by: request.requester.to_string(),
        message: format!("break-glass: {}", request.reason),
        traceparent,
    };
    change.open_review(request, &review);
    approve(change, request, granted)
}

/// Not while an earlier one was left overdue, not too many at a time, and not where nobody could review it.
fn may_break(
    reader: &Reader<'_>,
    request: &AccessRequest,
    persons: &Persons,
    now: Timestamp,
) -> Result<(), Fault> {
    let policy = &request.terms.policy.name;
    let refuse = |reason, message| {
        let (field, policy) = ("break_glass", Some(Arc::clone(policy)));
        Err(Refusal {
            reason,
            field,
            message,
            policy,
            would: vec![],
        }
        .into())
    };
    let mine = |open: &OpenReview| {
        let account = Principal::parse(&open.requester);
        account.is_ok_and(|account| persons.same(&account, &request.requester))
    };
    let open: Vec<OpenReview> = reader.open_reviews()?.into_iter().filter(mine).collect();
    if let Some(late) = open
        .iter()
        .find(|open| *open.policy == **policy && now >= open.due)
    {
        let (id, due) = (&late.request, late.due);
        let message = format!(
            "policy {policy} lets you break the glass again once request {id} has been reviewed, which was due by {due}; ask one of \
             its approvers to run: jitgate review {id} --ok --reason TEXT"
        );
        return refuse(RefusalReason::BreakGlassSuspended, message);
    }
    if open.len() >= BREAK_GLASS_OPEN_MAX {
        let message = format!(
            "{BREAK_GLASS_OPEN_MAX} reviews of broken glass of {} are outstanding; have some reviewed",
            request.requester
        );
        return Err(Fault::new(FaultKind::Limit, message));
    }
    let is_barred = |matcher: &Matcher| match matcher {
        Matcher::Exact(one) if one.kind() == PrincipalKind::User => {
            request.concerns_person(one, persons)
        }
        Matcher::Exact(_) | Matcher::Workload(_) | Matcher::AnyUser(_) => false,
    };
    if request.approvers().all(is_barred) {
        let message = format!(
            "policy {policy} names nobody but you who could look at it afterwards; its owner can add others"
        );
        return refuse(RefusalReason::BreakGlassNotAllowed, message);
    }
    Ok(())
}

/// The sweeper: the review was due at this moment. Says whether that was still so.
pub(crate) fn overdue(
    change: &mut Change<'_>,
    id: &str,
    actor: &str,
    keep: std::time::Duration,
) -> Result<bool, Fault> {
    let outstanding =
        |review: &AfterTheFact| review.said.is_none() && review.overdue_since.is_none();
    let request = change.read().request(id)?;
    let Some(mut request) =
        request.filter(|request| request.break_glass.as_ref().is_some_and(outstanding))
    else {
        return Ok(false);
    };
    change.review_overdue(&mut request, actor)?;
    note_at_grant(change, &request, keep)?;
    Ok(true)
}

/// The grant says what its request says; an objection ends it.
fn note_at_grant(
    change: &mut Change<'_>,
    request: &AccessRequest,
    keep: std::time::Duration,
) -> Result<(), Fault> {
    let grant = request
        .outcome
        .as_ref()
        .and_then(|outcome| outcome.grant.as_ref());
    let (Some(id), Some(review)) = (grant, &request.break_glass) else {
        return Ok(());
    };
    let mut issued = listed(change.read().grant(id.as_str())?, id.as_str())?;
    let Some(passed_over) = &mut issued.origin.break_glass else {
        return Err(StoreError::Damaged(format!(
            "grant {id} does not say that the glass was broken for it"
        ))
        .into());
    };
    passed_over.review = review.clone();
    match &review.said {
        Some(said)
            if said.opinion == Opinion::Objection
                && !matches!(issued.grant.phase(change.now()), Phase::Ended(_)) =>
        {
            let reason = format!("objection to broken glass: {}", said.reason);
            end(
                change,
                &mut issued,
                Ended::Revoked,
                (said.reviewer.to_string(), reason),
                keep,
            )
        }
        Some(_) | None => {
            change.annotate(&issued);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests;
