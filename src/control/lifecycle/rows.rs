//! Rows of the store as the lifecycle reads them: what a caller may see of them, what an index names, and new names.

use std::sync::Arc;
use std::time::Duration;

use ulid::Ulid;

use super::caller::Caller;
use super::fault::Fault;
use crate::control::policy::{Pinned, pinned};
use crate::control::store::{Change, Reader, StoreError};
use crate::model::access::{AccessRequest, Ending, Issued, PinnedPolicy};
use crate::model::approval::Stage;
use crate::model::grant::{Ended, GrantId};
use crate::model::identity::PrincipalKind;
use crate::model::time::Timestamp;

/// A new name, sortable by the moment it was given.
pub(crate) fn new_id(now: Timestamp) -> Arc<str> {
    Ulid::from_parts(now.as_micros() / 1000, rand::random())
        .to_string()
        .into()
}

/// As [`new_id`], for a grant.
pub(crate) fn new_grant_id(now: Timestamp) -> Result<GrantId, StoreError> {
    GrantId::parse(&new_id(now))
        .map_err(|error| StoreError::Damaged(format!("a new grant id {error}")))
}

/// An access request that the caller may see.
///
/// # Errors
/// NOT_FOUND also for what the caller may not see.
pub(crate) fn visible_request(
    reader: &Reader<'_>,
    caller: &Caller,
    id: &str,
) -> Result<AccessRequest, Fault> {
    let request = reader
        .request(id)?
        .filter(|request| caller.sees_request(request));
    request.ok_or_else(|| Fault::not_found("access request", id))
}

/// A row that an index names has to be there.
pub(crate) fn listed<T>(row: Option<T>, id: &str) -> Result<T, StoreError> {
    row.ok_or_else(|| StoreError::Damaged(format!("{id} is listed but absent")))
}

/// As [`visible_request`], for a grant.
pub(crate) fn visible_grant(
    reader: &Reader<'_>,
    caller: &Caller,
    id: &str,
) -> Result<Issued, Fault> {
    let issued = reader.grant(id)?.filter(|issued| caller.sees_grant(issued));
    issued.ok_or_else(|| Fault::not_found("grant", id))
}

/// Ends a grant now, and keeps its tombstone for a while.
pub(crate) fn end(
    change: &mut Change<'_>,
    issued: &mut Issued,
    how: Ended,
    (by, reason): (String, String),
    keep: Duration,
) -> Result<(), Fault> {
    let now = change.now();
    change.end_grant(
        issued,
        how,
        Ending {
            time: now,
            reason,
            by,
        },
        now.plus(keep),
    )?;
    Ok(())
}

/// What the policy says in the version that the request is pinned to.
pub(crate) fn pinned_policy(
    reader: &Reader<'_>,
    policy: &PinnedPolicy,
) -> Result<Pinned, StoreError> {
    let damaged = |why: String| {
        StoreError::Damaged(format!(
            "policy {} version {}: {why}",
            policy.name, policy.version
        ))
    };
    let row = reader
        .policy(&policy.name, policy.version)?
        .ok_or_else(|| damaged("is absent".to_owned()))?;
    pinned(&row.text, &policy.digest).map_err(damaged)
}

/// Whether the caller is a user whom some step admits, once the request has waited for so long.
pub(crate) fn is_approver(stages: &[Stage], caller: &Caller, waited: Duration) -> bool {
    let mut steps = stages.iter().flat_map(|stage| &stage.steps);
    caller.who().kind() == PrincipalKind::User
        && steps.any(|step| step.admits(caller.acting(), waited))
}
