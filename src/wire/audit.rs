//! Audit events on the wire, and as the model hashes them. A number that cannot be is refused:
//! two different rows must never come to the same event.

use super::grant::FieldError;
use super::{store, v1};
use crate::model::audit::{Checkpoint, Difference, Event};
use crate::model::canonical::Hash;

/// As the model hashes it.
///
/// # Errors
/// [`FieldError`] names what cannot have been written.
pub(crate) fn event_from(wire: &v1::AuditEvent) -> Result<Event, FieldError> {
    let time = wire
        .time
        .ok_or_else(|| FieldError::new("time", "is absent"))?;
    Ok(Event {
        index: number(wire.index, "index")?,
        time: (
            number(time.seconds, "time")?,
            u32::try_from(time.nanos).map_err(|_| FieldError::new("time", "is malformed"))?,
        ),
        kind: wire.r#type.clone(),
        actor: wire.actor.clone(),
        resource: wire.resource.clone(),
        from: wire.from_state.clone(),
        to: wire.to_state.clone(),
        reason: wire.reason.clone(),
        trace_id: wire.trace_id.clone(),
        revision: number(wire.revision, "revision")?,
        changes: wire.changes.iter().map(change_from).collect(),
        prev_hash: wire.prev_hash.to_vec(),
        hash: wire.hash.to_vec(),
    })
}

fn number(wire: i64, field: &str) -> Result<u64, FieldError> {
    u64::try_from(wire).map_err(|_| FieldError::new(field, "is negative"))
}

fn change_from(wire: &v1::AuditChange) -> Difference {
    Difference {
        field: wire.field.clone(),
        before: wire.before.clone(),
        after: wire.after.clone(),
    }
}

/// A stored event as the API shows it, also when it is damaged: whoever looks for the damage has to see it.
pub(crate) fn event_to(stored: store::AuditEvent) -> v1::AuditEvent {
    v1::AuditEvent {
        index: stored.index,
        time: stored.time,
        r#type: stored.r#type,
        actor: stored.actor,
        resource: stored.resource,
        from_state: stored.from_state,
        to_state: stored.to_state,
        reason: stored.reason,
        trace_id: stored.trace_id,
        revision: stored.revision,
        prev_hash: stored.prev_hash,
        hash: stored.hash,
        changes: stored.changes.into_iter().map(change_to).collect(),
    }
}

fn change_to(stored: store::AuditChange) -> v1::AuditChange {
    v1::AuditChange {
        field: stored.field,
        before: stored.before,
        after: stored.after,
    }
}

/// A stored decision as the API shows it.
pub(crate) fn decision_to(stored: store::Decision) -> v1::Decision {
    v1::Decision {
        id: stored.id,
        time: stored.time,
        first_time: stored.first_time,
        sequence: stored.sequence,
        allowed: stored.allowed,
        reason: stored.reason,
        grant: stored.grant,
        principal: stored.principal,
        service: stored.service,
        method: stored.method,
        trace_id: stored.trace_id,
        policy: stored.policy,
        policy_version: stored.policy_version,
        revision: stored.revision,
        count: stored.count,
        shadow: stored.shadow,
        sidecar: stored.sidecar,
        instance: stored.instance,
        receive_time: stored.receive_time,
    }
}

/// A checkpoint that was fetched.
///
/// # Errors
/// When its hash is none.
pub(crate) fn checkpoint_from(wire: &v1::AuditCheckpoint) -> Result<Checkpoint, FieldError> {
    let index = number(wire.index, "index")?;
    let hash = Hash::from_slice(&wire.hash);
    let hash = if index == 0 {
        Some(Hash::default())
    } else {
        hash
    };
    let hash = hash.ok_or_else(|| FieldError::new("hash", "has not 32 bytes"))?;
    Ok(Checkpoint {
        index,
        hash,
        epoch: wire.epoch.clone(),
    })
}
