//! Reading the audit chain: row by row as it lies there, damaged rows included, and by resource.

use std::ops::ControlFlow;

use super::{Read, Reader, decode};
use crate::control::store::{Span, StoreError, Table, keys};
use crate::wire::store;

/// Where a row lies, and what it holds.
type Row = (u64, Result<store::AuditEvent, String>);

impl Reader<'_> {
    /// Rows from `index` on, in the order of their keys, until `visit` breaks. A row that cannot be decoded is
    /// handed on as what is wrong with it.
    ///
    /// # Errors
    /// [`StoreError`] when the engine cannot read, or what `visit` fails with.
    pub(crate) fn audit_rows(
        &self,
        index: u64,
        visit: &mut dyn FnMut(Row) -> Result<ControlFlow<()>, StoreError>,
    ) -> Read<()> {
        self.rows_of_audit(
            &Span {
                from: keys::number(index),
                ..Span::ALL
            },
            visit,
        )
    }

    /// The same from the end towards the beginning, below `index`.
    ///
    /// # Errors
    /// As [`Reader::audit_rows`].
    pub(crate) fn newest_audit_rows(
        &self,
        below: u64,
        visit: &mut dyn FnMut(Row) -> Result<ControlFlow<()>, StoreError>,
    ) -> Read<()> {
        self.rows_of_audit(&Span::ALL.below(keys::number(below)).descending(), visit)
    }

    fn rows_of_audit(
        &self,
        span: &Span,
        visit: &mut dyn FnMut(Row) -> Result<ControlFlow<()>, StoreError>,
    ) -> Read<()> {
        self.0.scan(Table::Audit, span, &mut |key, value| {
            let event = decode::<store::AuditEvent>(Table::Audit, key, value);
            visit((
                keys::number_of(key)?,
                event.map_err(|error| error.to_string()),
            ))
        })
    }

    /// One event.
    ///
    /// # Errors
    /// As every reading.
    pub(crate) fn audit_event(&self, index: u64) -> Read<Option<store::AuditEvent>> {
        self.row(Table::Audit, &keys::number(index))
    }

    /// Indices of a resource's events below `below`, newest first, at most `limit`.
    ///
    /// # Errors
    /// As every reading.
    pub(crate) fn audit_of(&self, resource: &str, below: u64, limit: usize) -> Read<Vec<u64>> {
        let prefix = keys::party_prefix(resource);
        let span = Span::prefix(&prefix)
            .below(keys::pair(resource, &keys::number(below)))
            .descending();
        let mut found = Vec::new();
        self.0.scan(Table::AuditByResource, &span, &mut |key, _| {
            found.push(keys::number_of(
                key.get(prefix.len()..).unwrap_or_default(),
            )?);
            Ok(if found.len() >= limit {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })?;
        Ok(found)
    }
}
