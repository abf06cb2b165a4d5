//! Grants as rows: what sidecars enforce, where it came from, and how it was suspended or ended.

use super::{
    break_glass_from, break_glass_row, count_from, matchers_from, number_row, optional_id_from,
    optional_id_row, optional_text_from, optional_text_row, optional_time, principal_from,
    required, revision_from, scope_from, scope_row, time_from,
};
use crate::model::access::{Chain, Ending, Issued, Origin, PassedOver, Suspension};
use crate::model::grant::{End, Ended, Grant, GrantId, Hold, PolicyRef, Staleness};
use crate::wire::grant::{FieldError, principals_from, timestamp_from, timestamp_to};
use crate::wire::store;

/// As the store keeps it.
pub(crate) fn grant_row(issued: &Issued) -> store::StoredGrant {
    let Issued {
        grant,
        origin,
        suspension,
        ending,
    } = issued;
    let Origin {
        request,
        requester,
        policy_digest,
        auto_rule,
        break_glass,
        chain,
        unused_until,
        create_time,
        create_revision,
    } = origin;
    let mut row = store::StoredGrant {
        entry: Some(entry_row(grant)),
        request: optional_text_row(request.as_deref()),
        requester: requester
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        policy_digest: policy_digest.to_string(),
        auto_rule: optional_text_row(auto_rule.as_deref()),
        create_time: Some(timestamp_to(*create_time)),
        create_revision: number_row(create_revision.0),
        extends: optional_id_row(chain.extends.as_ref()),
        extended_by: optional_id_row(chain.extended_by.as_ref()),
        extensions: i32::try_from(chain.extensions).unwrap_or(i32::MAX),
        chain_start: chain.since.map(timestamp_to),
        unused_until: unused_until.map(timestamp_to),
        ..store::StoredGrant::default()
    };
    if let Some(PassedOver { approvers, review }) = break_glass {
        row.break_glass = Some(break_glass_row(review));
        row.passed_over = approvers.iter().map(ToString::to_string).collect();
    }
    if let Some(Suspension { time, reason, by }) = suspension {
        row.suspend_time = Some(timestamp_to(*time));
        row.suspend_reason.clone_from(reason);
        row.suspended_by.clone_from(by);
    }
    if let Some(Ending { time, reason, by }) = ending {
        row.end_time = Some(timestamp_to(*time));
        row.end_reason.clone_from(reason);
        row.ended_by.clone_from(by);
    }
    row
}

/// Parses a row.
///
/// # Errors
/// [`FieldError`] names what is wrong with it.
pub(crate) fn grant_from(row: store::StoredGrant) -> Result<Issued, FieldError> {
    let grant = entry_from(required(row.entry.as_ref(), "entry")?)?;
    let ending = optional_time(row.end_time.as_ref(), "end_time")?.map(|time| Ending {
        time,
        reason: row.end_reason,
        by: row.ended_by,
    });
    let suspension = optional_time(row.suspend_time.as_ref(), "suspend_time")?;
    let suspension = suspension.map(|time| Suspension {
        time,
        reason: row.suspend_reason,
        by: row.suspended_by,
    });
    let chain = Chain {
        extends: optional_id_from(&row.extends, "extends")?,
        extended_by: optional_id_from(&row.extended_by, "extended_by")?,
        extensions: u32::try_from(row.extensions)
            .map_err(|_| FieldError::new("extensions", "is negative"))?,
        since: optional_time(row.chain_start.as_ref(), "chain_start")?,
    };
    let requester = match row.requester.as_str() {
        "" => None,
        text => Some(principal_from(text, "requester")?),
    };
    let break_glass = match &row.break_glass {
        Some(review) => Some(PassedOver {
            approvers: matchers_from(&row.passed_over, "passed_over")?,
            review: break_glass_from(review)?,
        }),
        None => None,
    };
    let origin = Origin {
        request: optional_text_from(&row.request),
        requester,
        policy_digest: row.policy_digest.into(),
        auto_rule: optional_text_from(&row.auto_rule),
        break_glass,
        chain,
        unused_until: optional_time(row.unused_until.as_ref(), "unused_until")?,
        create_time: time_from(row.create_time.as_ref(), "create_time")?,
        create_revision: revision_from(row.create_revision, "create_revision")?,
    };
    Ok(Issued {
        grant,
        origin,
        suspension,
        ending,
    })
}

fn entry_row(grant: &Grant) -> store::GrantEntry {
    let tombstone = match grant.hold {
        Hold::Ended { how, keep_until } => Some(store::Tombstone {
            state: ended_row(how).into(),
            keep_until: Some(timestamp_to(keep_until)),
        }),
        Hold::None | Hold::Suspended => None,
    };
    store::GrantEntry {
        id: grant.id.to_string(),
        subject: grant.subject.to_string(),
        via: grant.via.iter().map(ToString::to_string).collect(),
        scope: Some(scope_row(&grant.scope)),
        not_before: Some(timestamp_to(grant.not_before)),
        expire_time: grant.expires().map(timestamp_to),
        standing: grant.end == End::Standing,
        suspended: grant.hold == Hold::Suspended,
        staleness: match grant.staleness {
            Staleness::Strict => store::Staleness::Strict.into(),
            Staleness::LastKnown => store::Staleness::LastKnown.into(),
        },
        policy: grant.policy.name.to_string(),
        policy_version: number_row(grant.policy.version),
        traceparent: optional_text_row(grant.traceparent.as_deref()),
        mod_revision: number_row(grant.mod_revision.0),
        tombstone,
    }
}

fn entry_from(row: &store::GrantEntry) -> Result<Grant, FieldError> {
    let end = match (&row.expire_time, row.standing) {
        (Some(end), false) => End::At(timestamp_from(end, "expire_time")?),
        (None, true) => End::Standing,
        (Some(_), true) | (None, false) => {
            return Err(FieldError::new("expire_time", "does not fit `standing`"));
        }
    };
    let staleness = match store::Staleness::try_from(row.staleness) {
        Ok(store::Staleness::Unspecified | store::Staleness::Strict) => Staleness::Strict,
        Ok(store::Staleness::LastKnown) => Staleness::LastKnown,
        Err(_) => return Err(FieldError::new("staleness", "is not known to this version")),
    };
    Ok(Grant {
        id: GrantId::parse(&row.id).map_err(|error| FieldError::new("id", error))?,
        subject: principal_from(&row.subject, "subject")?,
        via: principals_from(&row.via, "via")?,
        scope: scope_from(required(row.scope.as_ref(), "scope")?)?,
        not_before: time_from(row.not_before.as_ref(), "not_before")?,
        end,
        hold: hold_from(row)?,
        staleness,
        policy: PolicyRef {
            name: row.policy.as_str().into(),
            version: count_from(row.policy_version, "policy_version")?,
        },
        traceparent: optional_text_from(&row.traceparent),
        mod_revision: revision_from(row.mod_revision, "mod_revision")?,
    })
}

fn hold_from(row: &store::GrantEntry) -> Result<Hold, FieldError> {
    let Some(tombstone) = &row.tombstone else {
        return Ok(if row.suspended {
            Hold::Suspended
        } else {
            Hold::None
        });
    };
    let how = match store::GrantState::try_from(tombstone.state) {
        Ok(store::GrantState::Expired) => Ended::Expired,
        Ok(store::GrantState::Revoked) => Ended::Revoked,
        Ok(store::GrantState::Released) => Ended::Released,
        Ok(store::GrantState::Unspecified) | Err(_) => {
            return Err(FieldError::new(
                "tombstone.state",
                "must be EXPIRED, REVOKED or RELEASED",
            ));
        }
    };
    let keep_until = time_from(tombstone.keep_until.as_ref(), "tombstone.keep_until")?;
    Ok(Hold::Ended { how, keep_until })
}

fn ended_row(how: Ended) -> store::GrantState {
    match how {
        Ended::Expired => store::GrantState::Expired,
        Ended::Revoked => store::GrantState::Revoked,
        Ended::Released => store::GrantState::Released,
    }
}
