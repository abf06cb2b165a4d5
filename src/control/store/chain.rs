//! The audit chain: one event for each transition, each bound to all before it by its hash. Written only with the change itself.

use std::ops::ControlFlow;
use std::path::Path;

use super::embedded::Embedded;
use super::reader::count;
use super::rows::event::event_from;
use super::{Engine, Reader, StoreError};
use crate::model::audit::{Broken, Chain, Checkpoint, Verified};
use crate::model::time::Timestamp;
use crate::wire::grant::timestamp_to;
use crate::wire::{store, v1};

/// What an event says of its transition; index, time, revision and hashes are the store's to add.
#[derive(Debug, Clone, Default)]
pub(crate) struct Entry<'e> {
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
        self.traceparent
            .and_then(|parent| parent.split('-').nth(1))
            .unwrap_or_default()
            .to_owned()
    }
}

/// Chains an event to the one before and closes it with its own hash.
pub(crate) fn seal(
    event: store::AuditEvent,
    before: &[u8],
) -> Result<store::AuditEvent, StoreError> {
    let event = store::AuditEvent {
        prev_hash: before.to_vec().into(),
        ..event
    };
    let sealed = event_from(&event).map_err(|error| StoreError::Damaged(error.to_string()))?;
    Ok(store::AuditEvent {
        hash: sealed.expected_hash().as_bytes().to_vec().into(),
        ..event
    })
}

/// Walks the whole chain; how many events it has, or where it breaks.
///
/// # Errors
/// [`StoreError`] when the store cannot be read.
#[cfg(test)]
pub(crate) fn verify(reader: &Reader<'_>) -> Result<Result<i64, Broken>, StoreError> {
    let verified = verify_against(reader, vec![])?;
    Ok(verified.map(|verified| i64::try_from(verified.last).unwrap_or(i64::MAX)))
}

/// Walks the whole chain and compares it with what was kept elsewhere.
///
/// # Errors
/// [`StoreError`] when the store cannot be read.
pub(crate) fn verify_against(
    reader: &Reader<'_>,
    checkpoints: Vec<Checkpoint>,
) -> Result<Result<Verified, Broken>, StoreError> {
    let meta = reader.meta()?.unwrap_or_default();
    let mut chain = Chain::new(1, checkpoints);
    chain.of_store(&meta.epoch);
    // From 0: an event that was put before the first is found, too.
    reader.audit_rows(0, &mut |(at, row)| {
        let event = row.and_then(|event| event_from(&event).map_err(|error| error.to_string()));
        let goes_on = match event {
            Ok(event) => {
                let goes_on = chain.take(&event);
                if event.index != at {
                    chain.unreadable(event.index, &format!("it lies at {at}"));
                }
                goes_on
            }
            Err(why) => {
                chain.unreadable(at, &why);
                false
            }
        };
        Ok(if goes_on {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        })
    })?;
    Ok(chain.finish(Some((count(meta.audit_index), &meta.audit_hash))))
}

/// Verifies the store of a directory that no control plane uses.
///
/// # Errors
/// One line that names the directory, the cause and the way out.
pub fn verify_directory(
    directory: &Path,
    checkpoints: Vec<Checkpoint>,
) -> anyhow::Result<Result<Verified, Broken>> {
    let engine = Embedded::open_existing(directory)?;
    let view = engine.view()?;
    Ok(verify_against(&Reader::new(&*view), checkpoints)?)
}

/// Where the chain stands.
///
/// # Errors
/// [`StoreError`] when the store cannot be read.
pub(crate) fn checkpoint(
    reader: &Reader<'_>,
    now: Timestamp,
) -> Result<v1::AuditCheckpoint, StoreError> {
    let meta = reader.meta()?.unwrap_or_default();
    Ok(v1::AuditCheckpoint {
        index: meta.audit_index,
        hash: meta.audit_hash,
        epoch: meta.epoch,
        time: Some(timestamp_to(now)),
    })
}
