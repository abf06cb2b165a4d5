//! Rows of the audit chain into what is hashed. A number that cannot have been written is refused: two different rows must
//! never come to the same event.

use super::count_from;
use crate::model::audit::{Difference, Event};
use crate::wire::grant::FieldError;
use crate::wire::store;

/// As the model hashes it.
///
/// # Errors
/// [`FieldError`] names what cannot have been written.
pub(crate) fn event_from(row: &store::AuditEvent) -> Result<Event, FieldError> {
    let time = row
        .time
        .ok_or_else(|| FieldError::new("time", "is absent"))?;
    let change = |change: &store::AuditChange| Difference {
        field: change.field.clone(),
        before: change.before.clone(),
        after: change.after.clone(),
    };
    Ok(Event {
        index: count_from(row.index, "index")?,
        time: (
            count_from(time.seconds, "time")?,
            u32::try_from(time.nanos).map_err(|_| FieldError::new("time", "is malformed"))?,
        ),
        kind: row.r#type.clone(),
        actor: row.actor.clone(),
        resource: row.resource.clone(),
        from: row.from_state.clone(),
        to: row.to_state.clone(),
        reason: row.reason.clone(),
        trace_id: row.trace_id.clone(),
        revision: count_from(row.revision, "revision")?,
        changes: row.changes.iter().map(change).collect(),
        prev_hash: row.prev_hash.to_vec(),
        hash: row.hash.to_vec(),
    })
}
