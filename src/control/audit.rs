//! The audit chain: one event for each transition, each bound to all before it by its hash. Written only with the change itself.

use std::fmt;
use std::ops::ControlFlow;

use super::store::{Reader, StoreError};
use crate::model::canonical::{Canonical, Hash};
use crate::wire::store;

/// What an event says of its transition; index, time, revision and hashes are the store's to add.
#[derive(Debug, Clone, Default)]
pub struct Entry<'e> {
    /// `grant.issued`
    pub kind: &'e str,
    /// A principal, or `system:<part>`.
    pub actor: &'e str,
    /// `grants/<id>`
    pub resource: String,
    /// State before; empty when there was none.
    pub from: &'e str,
    /// State after.
    pub to: &'e str,
    /// In one sentence.
    pub reason: &'e str,
    /// W3C trace context of whatever caused it.
    pub traceparent: Option<&'e str>,
}

impl Entry<'_> {
    /// The trace id within the trace context.
    pub(super) fn trace_id(&self) -> String {
        self.traceparent.and_then(|parent| parent.split('-').nth(1)).unwrap_or_default().to_owned()
    }
}

/// Chains an event to the one before and closes it with its own hash.
pub(super) fn seal(mut event: store::AuditEvent, before: &[u8]) -> store::AuditEvent {
    event.prev_hash = before.to_vec().into();
    event.hash = hash(&event).as_bytes().to_vec().into();
    event
}

/// Over every field but the hash itself.
fn hash(event: &store::AuditEvent) -> Hash {
    let number = |value: i64| u64::try_from(value).unwrap_or(u64::MAX);
    let time = event.time.unwrap_or_default();
    let mut canonical = Canonical::new("jitgate.audit_event.v1");
    canonical
        .number(number(event.index))
        .number(number(time.seconds))
        .number(number(i64::from(time.nanos)))
        .text(&event.r#type)
        .text(&event.actor)
        .text(&event.resource)
        .text(&event.from_state)
        .text(&event.to_state)
        .text(&event.reason)
        .text(&event.trace_id)
        .number(number(event.revision))
        .bytes(&event.prev_hash);
    canonical.finish()
}

/// Where the chain does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Index of the first event that does not fit.
    pub index: i64,
    /// What is wrong with it.
    pub what: &'static str,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "audit event {} {}", self.index, self.what)
    }
}

/// Walks the whole chain; how many events it has, or where it breaks.
///
/// # Errors
/// [`StoreError`] when the store cannot be read.
pub fn verify(reader: &Reader<'_>) -> Result<Result<i64, Broken>, StoreError> {
    let (mut index, mut before, mut broken) = (0, Vec::new(), None);
    reader.audit(0, &mut |event| {
        let what = if event.index != index + 1 {
            Some("does not follow the one before")
        } else if *event.prev_hash != *before {
            Some("is not chained to the one before")
        } else if *event.hash != *hash(&event).as_bytes() {
            Some("was altered")
        } else {
            None
        };
        index += 1;
        before = event.hash.to_vec();
        broken = what.map(|what| Broken { index, what });
        Ok(if broken.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    let meta = reader.meta()?.unwrap_or_default();
    if broken.is_none() && (meta.audit_index, &*meta.audit_hash) != (index, before.as_slice()) {
        broken = Some(Broken { index, what: "is not the last one written" });
    }
    Ok(broken.map_or(Ok(index), Err))
}
