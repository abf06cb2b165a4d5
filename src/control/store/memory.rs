//! An engine for tests: rows in memory, and commits that fail on demand, landed or not.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Engine, META_KEY, Span, StoreError, Table, View, Visit, Writes};

type Rows = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

/// What the next commits do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum FailureMode {
    #[default]
    Well,
    /// Fails, and nothing is written.
    Full,
    /// Fails after everything was written.
    LostAnswer,
    /// As [`FailureMode::Full`], and cannot be opened again.
    Gone,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Memory {
    rows: Arc<Mutex<Arc<Rows>>>,
    pub(super) mode: Arc<Mutex<FailureMode>>,
}

struct Snapshot(Arc<Rows>);

impl Engine for Memory {
    fn view(&self) -> Result<Box<dyn View + Send>, StoreError> {
        Ok(Box::new(Snapshot(Arc::clone(&self.rows.lock()))))
    }

    fn commit(&self, guard: Option<&[u8]>, writes: &Writes) -> Result<(), StoreError> {
        let mode = *self.mode.lock();
        let mut rows = self.rows.lock();
        if rows
            .get(&(Table::Meta, META_KEY.to_vec()))
            .map(Vec::as_slice)
            != guard
        {
            return Err(StoreError::Conflict);
        }
        if matches!(mode, FailureMode::Well | FailureMode::LostAnswer) {
            let rows = Arc::make_mut(&mut rows);
            for (key, value) in writes {
                match value {
                    Some(value) => drop(rows.insert(key.clone(), value.clone())),
                    None => drop(rows.remove(key)),
                }
            }
        }
        if mode == FailureMode::Well {
            Ok(())
        } else {
            Err(StoreError::Medium("on purpose".into()))
        }
    }

    fn note(&self, writes: &Writes) -> Result<(), StoreError> {
        let guard = self
            .rows
            .lock()
            .get(&(Table::Meta, META_KEY.to_vec()))
            .cloned();
        self.commit(guard.as_deref(), writes)
    }

    fn recover(&self) -> Result<(), StoreError> {
        if *self.mode.lock() == FailureMode::Gone {
            Err(StoreError::Medium("still gone".into()))
        } else {
            Ok(())
        }
    }
}

impl View for Snapshot {
    fn fetch(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.get(&(table, key.to_vec())).cloned())
    }

    fn scan(&self, table: Table, span: &Span, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let rows = self.0.range((
            Bound::Included((table, span.from.clone())),
            Bound::Unbounded,
        ));
        let within = |key: &[u8]| span.to.as_ref().is_none_or(|to| key < to.as_slice());
        let mut rows: Vec<_> = rows
            .take_while(|((of, key), _)| *of == table && within(key))
            .collect();
        if span.descending {
            rows.reverse();
        }
        for ((_, key), value) in rows {
            if visit(key, value)?.is_break() {
                break;
            }
        }
        Ok(())
    }
}
