//! A store of an earlier schema becomes one of this version, when it is opened: all of it in the one transaction that writes
//! the new schema number. Whatever interrupts that leaves the earlier store as it was, and the next start begins again.

use std::ops::ControlFlow;

use prost::Message;
use tokio::time::Instant;

use super::keys;
use super::{Engine, META_KEY, Reader, SCHEMA, Span, StoreError, Table, View, Writes};
use crate::model::time::Timestamp;
use crate::wire::grant::timestamp_to;
use crate::wire::store;

/// Brings the rows to [`SCHEMA`]. Does nothing to a store that is there already, and to one that was never written to.
///
/// # Errors
/// [`StoreError`] when it cannot be read or written, or is of a newer version.
pub(super) fn migrate(engine: &dyn Engine) -> Result<(), StoreError> {
    let view = engine.view()?;
    let Some(before) = view.fetch(Table::Meta, META_KEY)? else {
        return Ok(());
    };
    let Some(mut meta) = Reader::new(&*view).meta()? else {
        return Ok(());
    };
    if meta.schema == SCHEMA {
        return Ok(());
    }
    let from = meta.schema;
    tracing::info!(
        from,
        to = SCHEMA,
        "migrating the store; this may take a while"
    );
    let started = Instant::now();
    // One step a schema, each on the rows of the one before. So far there is one.
    let mut writes = from_1_to_2(&*view)?;
    let rows = counted(&writes);
    meta.schema = SCHEMA;
    writes.insert((Table::Meta, META_KEY.to_vec()), Some(meta.encode_to_vec()));
    // The commit needs the room that reading holds.
    drop(view);
    engine.commit(Some(&before), &writes)?;
    tracing::info!(from, to = SCHEMA, %rows, took = ?started.elapsed(), "the store is migrated");
    Ok(())
}

/// Access requests were the API's own message, with what is computed of them; reviews of broken glass that are outstanding
/// were a number with a text behind it; and the oldest stores had no index of their audit events by resource.
fn from_1_to_2(view: &dyn View) -> Result<Writes, StoreError> {
    let mut writes = Writes::new();
    rewrite(view, Table::Requests, &mut writes, |row| {
        // The fields that are left have their old numbers: to decode is to leave out the others.
        let row = store::AccessRequest::decode(row).ok()?;
        Some(row.encode_to_vec())
    })?;
    rewrite(view, Table::OpenReviews, &mut writes, |row| {
        let (due, policy) = row.split_at_checked(8)?;
        let due = Timestamp::from_micros(keys::number_of(due).ok()?);
        let row = store::OpenReview {
            due: Some(timestamp_to(due)),
            policy: keys::text(policy).ok()?.to_owned(),
        };
        Some(row.encode_to_vec())
    })?;
    index_audit(view, &mut writes)?;
    Ok(writes)
}

/// A row that cannot be read stays as it is: it was damaged before, and is found to be when it is asked for.
fn rewrite(
    view: &dyn View,
    table: Table,
    writes: &mut Writes,
    convert: impl Fn(&[u8]) -> Option<Vec<u8>>,
) -> Result<(), StoreError> {
    view.scan(table, &Span::ALL, &mut |key, row| {
        match convert(row) {
            Some(converted) if converted != row => {
                writes.insert((table, key.to_vec()), Some(converted));
            }
            Some(_) => {}
            None => {
                let (table, key) = (table.name(), key.escape_ascii());
                tracing::warn!(table, %key, "a damaged row is left as it is");
            }
        }
        Ok(ControlFlow::Continue(()))
    })
}

fn index_audit(view: &dyn View, writes: &mut Writes) -> Result<(), StoreError> {
    let mut indexed = false;
    view.scan(Table::AuditByResource, &Span::ALL, &mut |_, _| {
        indexed = true;
        Ok(ControlFlow::Break(()))
    })?;
    if indexed {
        return Ok(());
    }
    Reader::new(view).audit_rows(1, &mut |(at, row)| {
        if let Ok(event) = row {
            let key = keys::pair(&event.resource, &keys::number(at));
            writes.insert((Table::AuditByResource, key), Some(vec![]));
        }
        Ok(ControlFlow::Continue(()))
    })
}

/// "requests 30, open_reviews 2"
fn counted(writes: &Writes) -> String {
    let of = |table| writes.keys().filter(|(of, _)| *of == table).count();
    let counts = Table::ALL
        .into_iter()
        .map(|table| (table.name(), of(table)));
    let written = counts.filter(|(_, rows)| *rows > 0);
    let text: Vec<_> = written
        .map(|(name, rows)| format!("{name} {rows}"))
        .collect();
    if text.is_empty() {
        return "none".to_owned();
    }
    text.join(", ")
}

#[cfg(test)]
mod tests;
