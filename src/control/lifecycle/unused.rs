//! Grants that nobody uses: a policy can have them end early (`duration.unusedTtl`). A grant ends so only where no sidecar has
//! told of a call by it, no token was issued for it, and whoever might still tell has been waited for; otherwise it lasts.
//!
//! What can keep it from being told: a sidecar of its service that is connected and not heard from since (it is waited
//! for), that has gone (it is waited for, for ten minutes), that reports nothing (as long as there is one), records that
//! were lost on the way, or a control plane that keeps no decisions at all.

use std::sync::Arc;
use std::time::Duration;

use super::fault::Fault;
use super::plane::Plane;
use super::rows::end;
use crate::control::fanout::fleet::COMES_BACK_WITHIN;
use crate::control::fanout::{Fanout, Unreported};
use crate::control::store::{Change, Reader, StoreError};
use crate::model::access::Issued;
use crate::model::grant::{Ended, Phase};
use crate::model::time::Timestamp;

/// Who it is in the audit log.
const ACTOR: &str = "system:unused";
/// How long until the next look while a sidecar reports nothing.
const LOOK_AGAIN: Duration = Duration::from_mins(1);
/// Audit events of one grant that are looked through. One with more is in use.
const EVENTS_MAX: usize = 1000;

/// What is known outside the store.
#[derive(Debug)]
pub(crate) struct UnusedContext {
    fanout: Arc<Fanout>,
    /// Since when this control plane hears from sidecars.
    since: Timestamp,
}

impl UnusedContext {
    pub(crate) fn of(plane: &Plane) -> Self {
        Self {
            fanout: Arc::clone(plane.fanout()),
            since: plane.since(),
        }
    }

    /// When to look again, as long as a use may still become known.
    fn too_early(&self, issued: &Issued, until: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let created = issued.origin.create_time;
        // Who was cut off before this control plane began is not known to it.
        let all_back = self.since.plus(COMES_BACK_WITHIN);
        if created < self.since && now < all_back {
            return Some(all_back);
        }
        match self
            .fanout
            .unreported(issued.grant.scope.service(), created, until)?
        {
            Unreported::Ever => Some(now.plus(LOOK_AGAIN)),
            Unreported::Until(at) => Some(at.max(now.plus(Duration::from_secs(1)))),
        }
    }
}

/// Ends a grant that nobody has used in its time, or sees to it that it is looked at again. The reminder is done with in any case.
pub(crate) fn look(
    change: &mut Change<'_>,
    id: &str,
    keep: Duration,
    looking: &UnusedContext,
) -> Result<bool, Fault> {
    let Some(mut issued) = change.read().grant(id)? else {
        return Ok(false);
    };
    let (now, phase) = (change.now(), issued.grant.phase(change.now()));
    let Some(until) = issued.origin.unused_until else {
        return Ok(false);
    };
    let ttl = until.since(issued.grant.not_before);
    let again = match phase {
        Phase::Live(_) if was_used(&change.read(), id)? => return Ok(false),
        Phase::Live(_) => looking.too_early(&issued, until, now),
        // Nobody can use it meanwhile: it is given its time once more.
        Phase::Suspended => Some(now.plus(ttl)),
        Phase::NotStarted | Phase::Ended(_) => return Ok(false),
    };
    if let Some(at) = again {
        change.look_at_use(&issued, at);
        return Ok(false);
    }
    let service = issued.grant.scope.service().as_str();
    if !looking.fanout.takes_decisions()
        || change
            .read()
            .lost_records(service, issued.origin.create_time)?
    {
        tracing::warn!(
            grant = id,
            "records of its use are missing: it is not ended for lying unused"
        );
        return Ok(false);
    }
    let reason = format!(
        "nobody used it by {until} (duration.unusedTtl of policy {})",
        issued.grant.policy.name
    );
    end(
        change,
        &mut issued,
        Ended::Revoked,
        (ACTOR.to_owned(), reason),
        keep,
    )?;
    Ok(false)
}

/// Whether a call was let through by it, or a token issued for it, as far as is known.
fn was_used(reader: &Reader<'_>, id: &str) -> Result<bool, StoreError> {
    if reader.grant_use(id)?.is_some() {
        return Ok(true);
    }
    let events = reader.audit_of(&format!("grants/{id}"), u64::MAX, EVENTS_MAX)?;
    for index in &events {
        if reader
            .audit_event(*index)?
            .is_some_and(|event| event.r#type == "token.issued")
        {
            return Ok(true);
        }
    }
    Ok(events.len() >= EVENTS_MAX)
}

#[cfg(test)]
mod tests;
