//! Carrying out an approval: the grant is issued and the request ends with it, or the request fails because it can no longer be
//! carried out. Who may approve is decided elsewhere.

use std::sync::Arc;
use std::time::Duration;

use super::extend;
use super::fault::{Fault, FaultKind};
use super::rows::{new_grant_id, pinned_policy};
use crate::control::policy::end_within;
use crate::control::store::Change;
use crate::model::access::{
    AccessRequest, AccessStep, Chain, Issued, Origin, Outcome, PassedOver, PinnedPolicy,
};
use crate::model::approval::unattainable;
use crate::model::grant::{End, Grant, Hold, PolicyRef, Revision, Staleness};
use crate::model::identity::Principal;
use crate::model::policy::{Persons, Refusal, RefusalReason};
use crate::model::scope::Scope;
use crate::model::time::Timestamp;
use crate::model::window::Window;

/// Grants that sidecars may hold of one subject.
const HELD_MAX: usize = 1000;

/// What approval adds to the terms.
pub(crate) struct Granted {
    pub(crate) scope: Scope,
    pub(crate) duration: Duration,
    pub(crate) staleness: Staleness,
    /// The automatic rule, if it was one.
    pub(crate) rule: Option<Arc<str>>,
    /// The rule or person.
    pub(crate) by: String,
    pub(crate) message: String,
    pub(crate) traceparent: Option<Arc<str>>,
}

/// A request that nobody will ever be able to approve does not wait.
pub(crate) fn fail_at_once(
    change: &mut Change<'_>,
    request: &mut AccessRequest,
    persons: &Persons,
) -> Result<(), Fault> {
    let is_barred = |who: &Principal| request.concerns_person(who, persons);
    let Some((stage, step)) = unattainable(&request.stages, persons, is_barred) else {
        return Ok(());
    };
    let reason = format!(
        "no eligible approver: step {} of stage {} cannot be complete without the requester and the subject",
        step.name, stage.name
    );
    fail(change, request, reason)
}

fn fail(change: &mut Change<'_>, request: &mut AccessRequest, reason: String) -> Result<(), Fault> {
    let outcome = Outcome {
        time: change.now(),
        by: "system:approval".to_owned(),
        reason,
        grant: None,
    };
    change.end_request(request, AccessStep::Fail, outcome)?;
    Ok(())
}

/// Issues the grant of a pending request and ends the request with it; what cannot be carried out any more has FAILED.
pub(crate) fn approve(
    change: &mut Change<'_>,
    request: &mut AccessRequest,
    granted: Granted,
) -> Result<(), Fault> {
    let (now, terms) = (change.now(), &request.terms);
    if change.read().enforced(Some(terms.subject.as_str()))?.len() >= HELD_MAX {
        let message = format!(
            "{} holds {HELD_MAX} grants already, ended ones included; wait or release some",
            terms.subject
        );
        return Err(Fault::new(FaultKind::Limit, message));
    }
    let Some((not_before, end)) = terms.window(now, granted.duration) else {
        let reason = "approved too late: the time that was asked for is over".to_owned();
        return fail(change, request, reason);
    };
    let pinned = pinned_policy(&change.read(), &terms.policy)?;
    let end = within_windows(
        &pinned.windows,
        &terms.policy,
        not_before,
        end.since(not_before),
    )?;
    if terms.extends.is_some() && terms.start.is_some_and(|start| end <= start) {
        let reason = format!(
            "its window closes at {end}: the grant that it extends does not end before that"
        );
        return fail(change, request, reason);
    }
    let chain = match terms.extends.clone() {
        Some(extended) => match extend::link(change, &extended)? {
            Ok(link) => Some(link),
            Err(why) => return fail(change, request, why),
        },
        None => None,
    };
    let grant = Grant {
        id: new_grant_id(now)?,
        subject: terms.subject.clone(),
        via: terms.via.clone(),
        scope: granted.scope,
        not_before,
        end: End::At(end),
        hold: Hold::None,
        staleness: granted.staleness,
        policy: PolicyRef {
            name: Arc::clone(&terms.policy.name),
            version: terms.policy.version,
        },
        traceparent: granted.traceparent,
        mod_revision: Revision(0),
    };
    let origin = Origin {
        // An extension has its time to be used once it is all that is left.
        unused_until: pinned
            .unused_ttl
            .map(|ttl| terms.start.unwrap_or(not_before).max(not_before).plus(ttl))
            .filter(|until| *until < end),
        ..origin(
            request,
            granted.rule,
            chain.as_ref().map(|(_, chain)| chain.clone()),
        )
    };
    let mut issued = Issued {
        grant,
        origin,
        suspension: None,
        ending: None,
    };
    let by = granted.by;
    change.issue(&mut issued, &by, &granted.message)?;
    if let Some((mut extended, _)) = chain {
        change.link_extension(&mut extended, issued.grant.id.clone());
    }
    let outcome = Outcome {
        time: now,
        by,
        reason: granted.message,
        grant: Some(issued.grant.id),
    };
    change.end_request(request, AccessStep::Approve, outcome)?;
    Ok(())
}

fn origin(request: &AccessRequest, auto_rule: Option<Arc<str>>, chain: Option<Chain>) -> Origin {
    let passed_over = |review| PassedOver {
        approvers: request.approvers().cloned().collect(),
        review,
    };
    Origin {
        request: Some(Arc::clone(&request.id)),
        requester: Some(request.requester.clone()),
        policy_digest: Arc::clone(&request.terms.policy.digest),
        auto_rule,
        break_glass: request.break_glass.clone().map(passed_over),
        chain: chain.unwrap_or_default(),
        ..Origin::default()
    }
}

/// When access that begins at `start` ends: with the window that is open then, at the latest. The windows of the pinned policy count.
fn within_windows(
    windows: &[Window],
    policy: &PinnedPolicy,
    start: Timestamp,
    length: Duration,
) -> Result<Timestamp, Fault> {
    end_within(windows, start, length).map_err(|closed| {
        let (reason, field, message) = (
            RefusalReason::OutsideWindow,
            "start_time",
            format!("policy {} {closed}", policy.name),
        );
        Refusal {
            reason,
            field,
            message,
            policy: Some(Arc::clone(&policy.name)),
            would: vec![],
        }
        .into()
    })
}
