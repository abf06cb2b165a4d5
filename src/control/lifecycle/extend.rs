//! Extending: a new access request, linked to a live grant, whose own grant takes over where that one ends. The policy of
//! the old grant rules on it as it is now, and bounds how often and how long in all. No grant's end is ever moved.

use std::sync::Arc;
use std::time::Duration;

use super::caller::Caller;
use super::fault::{Fault, FaultKind, StateRefusal};
use super::input::{Extension, RequestInput};
use super::plane::Plane;
use super::write_options::WriteOptions;
use crate::control::policy::ActivePolicies;
use crate::control::store::{Change, StoreError};
use crate::model::access::{AccessRequest, Chain, Issued};
use crate::model::grant::{End, Ended, GrantId, GrantState, GrantStep, Hold, StepRefused};
use crate::model::policy::{DurationRule, RefusalReason};
use crate::model::time::Timestamp;

/// What a caller asks to extend, parsed.
#[derive(Debug, Clone, Default)]
pub(crate) struct ExtendInput {
    /// The grant.
    pub id: String,
    /// How much longer; `None`: as the policy says.
    pub duration: Option<Duration>,
    /// Why.
    pub reason: String,
    /// Where that is written down.
    pub tickets: Vec<String>,
    /// How.
    pub options: WriteOptions,
    /// W3C trace context of the call.
    pub traceparent: Option<Arc<str>>,
}

impl Plane {
    /// Asks for a longer stay.
    ///
    /// # Errors
    /// NOT_FOUND; NOT_ELIGIBLE for whoever is neither subject nor requester nor administrator; ETAG_MISMATCH; when the
    /// grant is not active, or extended already; LIMIT_EXCEEDED beyond the policy's bounds; what the policy refuses.
    pub(crate) async fn extend(
        &self,
        caller: &Caller,
        extending: ExtendInput,
    ) -> Result<AccessRequest, Fault> {
        if let Some(first) = self.replayed(caller, &extending.options).await? {
            return Ok(first);
        }
        let Issued { grant, origin, .. } = self.grant(caller, &extending.id).await?;
        let own = caller.is(&grant.subject)
            || origin
                .requester
                .as_ref()
                .is_some_and(|requester| caller.is(requester));
        if !own && !caller.is_admin() {
            let message =
                "only the subject of a grant, its requester or an administrator may extend it";
            return Err(Fault::new(FaultKind::NotEligible, message));
        }
        let start = grant.expires().ok_or_else(standing)?;
        let ExtendInput {
            id: _,
            duration,
            reason,
            tickets,
            options,
            traceparent,
        } = extending;
        let asking = RequestInput {
            subject: Some(grant.subject),
            via: grant.via,
            scope: grant.scope,
            duration,
            reason,
            tickets,
            policy: grant.policy.name.to_string(),
            break_glass: false,
            start: Some(start),
            extends: Some(Extension {
                grant: grant.id,
                etag: options.etag.clone(),
                people_only: origin.break_glass.is_some(),
            }),
            options,
            traceparent,
        };
        self.ask(caller, &asking).await
    }
}

fn standing() -> Fault {
    let message = "a standing grant does not end by itself: there is nothing to extend";
    Fault::new(FaultKind::State(StateRefusal::Standing), message)
}

/// How long a grant can last with its extensions, as a policy in force says.
pub(crate) fn bounds(policies_in_force: &dyn ActivePolicies, policy: &str) -> Option<DurationRule> {
    policies_in_force
        .policies()
        .into_iter()
        .find(|known| &*known.name == policy)
        .map(|known| known.duration)
}

/// Whether a grant can be extended now by so much; if so, where it ends.
///
/// # Errors
/// [`Fault`] names the bound and what is left of it.
pub(crate) fn may_extend(
    change: &Change<'_>,
    extension: &Extension,
    by: Duration,
    bounds: Option<&DurationRule>,
) -> Result<Timestamp, Fault> {
    let id = extension.grant.as_str();
    let issued = change
        .read()
        .grant(id)?
        .ok_or_else(|| Fault::not_found("grant", id))?;
    WriteOptions {
        etag: extension.etag.clone(),
        ..WriteOptions::default()
    }
    .must_match(&issued.etag())?;
    let End::At(end) = issued.grant.end else {
        return Err(standing());
    };
    let at = issued.grant.state(change.now());
    if at != GrantState::Active {
        return Err(not_now(at));
    }
    if let Some(by) = &issued.origin.chain.extended_by {
        let message = format!("grant {by} extends it already; extend that one");
        return Err(
            Fault::new(FaultKind::State(StateRefusal::Extended), message)
                .with("grant", by.as_str()),
        );
    }
    let gone = || {
        Fault::new(
            FaultKind::Unavailable,
            "the policies have just changed; nothing was decided, ask again",
        )
    };
    within(&issued, end, by, bounds.ok_or_else(gone)?)?;
    Ok(end)
}

/// Only what is in force can go on.
fn not_now(at: GrantState) -> Fault {
    // There is no step to refuse; the word for where it stands is the same.
    let fault = Fault::from(StepRefused {
        at,
        step: GrantStep::Suspend,
    });
    match at {
        GrantState::Suspended => Fault {
            message: "the grant is suspended, and cannot be extended while it is; an administrator can resume it"
                .into(),
            ..fault
        },
        GrantState::Scheduled => {
            Fault { message: "the grant has not begun yet, and cannot be extended before it has".into(), ..fault }
        }
        GrantState::Active | GrantState::Expired | GrantState::Revoked | GrantState::Released => fault,
    }
}

fn within(
    issued: &Issued,
    end: Timestamp,
    by: Duration,
    bounds: &DurationRule,
) -> Result<(), Fault> {
    let policy = &issued.grant.policy.name;
    let refuse = |field: Option<&str>, message: String, bound, left: String| {
        let fault = Fault::new(FaultKind::Refused(RefusalReason::LimitExceeded), message);
        let fault = Fault {
            field: field.map(str::to_owned),
            ..fault
        };
        Err(fault
            .with("policy", &**policy)
            .with("bound", bound)
            .with("left", left))
    };
    let (had, most) = (issued.origin.chain.extensions, bounds.max_extensions);
    if had >= most {
        let times = |count: u32| {
            if count == 1 {
                "once".to_owned()
            } else {
                format!("{count} times")
            }
        };
        let message = format!(
            "policy {policy} lets a grant be extended {} at most (duration.maxExtensions), and this one has been extended \
             {}: nothing is left; ask anew",
            times(most),
            times(had)
        );
        return refuse(None, message, "duration.maxExtensions", "0".to_owned());
    }
    let since = issued.chain_start();
    let left = since.plus(bounds.max_total).since(end);
    if by > left {
        let written = humantime::format_duration;
        let message = format!(
            "policy {policy} lets a grant and its extensions last {} in all (duration.maxTotal), counted from {since}: \
             {} are left, and this asks for {}",
            written(bounds.max_total),
            written(left),
            written(by)
        );
        return refuse(
            Some("duration"),
            message,
            "duration.maxTotal",
            format!("{}s", left.as_secs()),
        );
    }
    Ok(())
}

/// The grant to be extended, with the place of the one that extends it; or why that cannot be carried out any more. That
/// its time was up meanwhile does not matter: where the extension ends is fixed.
pub(crate) fn link(
    change: &Change<'_>,
    extended: &GrantId,
) -> Result<Result<(Issued, Chain), String>, StoreError> {
    let issued = change.read().grant(extended.as_str())?;
    let issued = issued
        .ok_or_else(|| StoreError::Damaged(format!("grant {extended} is extended but absent")))?;
    let ended = |how: &str| {
        Ok(Err(format!(
            "grant {extended}, which it extends, was {how} meanwhile"
        )))
    };
    match issued.grant.hold {
        Hold::Ended {
            how: Ended::Revoked,
            ..
        } => return ended("revoked"),
        Hold::Ended {
            how: Ended::Released,
            ..
        } => return ended("released"),
        Hold::Suspended | Hold::Ended { .. } if issued.suspension.is_some() => {
            return ended("suspended");
        }
        Hold::None
        | Hold::Suspended
        | Hold::Ended {
            how: Ended::Expired,
            ..
        } => {}
    }
    if let Some(other) = &issued.origin.chain.extended_by {
        return Ok(Err(format!(
            "grant {extended} is extended by {other} already"
        )));
    }
    let chain = Chain {
        extends: Some(extended.clone()),
        extended_by: None,
        extensions: issued.origin.chain.extensions.saturating_add(1),
        since: Some(issued.chain_start()),
    };
    Ok(Ok((issued, chain)))
}

#[cfg(test)]
mod tests;
