//! Writes not yet committed, laid over a view: who made them reads them, nobody else does.

use std::iter::Peekable;
use std::ops::{Bound, ControlFlow};

use super::{Span, StoreError, Table, View, Visit, Writes};

/// A view with changes on top.
pub(crate) struct Overlay<'v> {
    below: &'v dyn View,
    writes: Writes,
}

impl std::fmt::Debug for Overlay<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Overlay")
            .field("writes", &self.writes.len())
            .finish_non_exhaustive()
    }
}

impl<'v> Overlay<'v> {
    /// Nothing changed yet.
    pub(crate) fn new(below: &'v dyn View) -> Self {
        Self {
            below,
            writes: Writes::new(),
        }
    }

    /// What lies below, as it was before anything was written.
    pub(crate) fn below(&self) -> &'v dyn View {
        self.below
    }

    /// Sets a value.
    pub(crate) fn put(&mut self, table: Table, key: Vec<u8>, value: Vec<u8>) {
        self.writes.insert((table, key), Some(value));
    }

    /// Takes a key out.
    pub(crate) fn remove(&mut self, table: Table, key: Vec<u8>) {
        self.writes.insert((table, key), None);
    }

    /// Takes in what a layer above has written.
    pub(crate) fn absorb(&mut self, writes: Writes) {
        self.writes.extend(writes);
    }

    /// Everything written.
    pub(crate) fn into_writes(self) -> Writes {
        self.writes
    }

    /// Whether nothing was written.
    pub(crate) fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }
}

impl View for Overlay<'_> {
    fn fetch(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.writes.get(&(table, key.to_vec())) {
            Some(written) => Ok(written.clone()),
            None => self.below.fetch(table, key),
        }
    }

    fn scan(&self, table: Table, span: &Span, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        if span.is_empty() {
            return Ok(());
        }
        let mut above = Above::new(&self.writes, table, span);
        let mut ended = false;
        self.below.scan(table, span, &mut |key, value| {
            let mut flow = above.emit_before(key, visit)?;
            if flow.is_continue() {
                flow = match above.take(key) {
                    Some(Some(written)) => visit(key, written)?,
                    Some(None) => ControlFlow::Continue(()),
                    None => visit(key, value)?,
                };
            }
            ended = flow.is_break();
            Ok(flow)
        })?;
        if !ended {
            above.emit_rest(visit)?;
        }
        Ok(())
    }
}

type Rows<'w> = Box<dyn Iterator<Item = (&'w [u8], Option<&'w [u8]>)> + 'w>;

/// The written keys of a span, in the scan's direction.
struct Above<'w> {
    rest: Peekable<Rows<'w>>,
    descending: bool,
}

impl<'w> Above<'w> {
    fn new(writes: &'w Writes, table: Table, span: &'w Span) -> Self {
        let lower = Bound::Included((table, span.from.clone()));
        let within = move |key: &[u8]| span.to.as_ref().is_none_or(|to| key < to.as_slice());
        let range = writes.range((lower, Bound::Unbounded));
        let rows = range.take_while(move |((of, key), _)| *of == table && within(key));
        let rows = rows.map(|((_, key), value)| (key.as_slice(), value.as_deref()));
        let rest: Rows<'w> = if span.descending {
            // Few keys are written in one change: they are collected rather than walked from the end.
            Box::new(rows.collect::<Vec<_>>().into_iter().rev())
        } else {
            Box::new(rows)
        };
        Self {
            rest: rest.peekable(),
            descending: span.descending,
        }
    }

    fn emit_before(
        &mut self,
        key: &[u8],
        visit: &mut Visit<'_>,
    ) -> Result<ControlFlow<()>, StoreError> {
        let descending = self.descending;
        while let Some((written, value)) = self.rest.next_if(|(written, _)| {
            if descending {
                *written > key
            } else {
                *written < key
            }
        }) {
            if let Some(value) = value
                && visit(written, value)?.is_break()
            {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn take(&mut self, key: &[u8]) -> Option<Option<&'w [u8]>> {
        self.rest
            .next_if(|(written, _)| *written == key)
            .map(|(_, value)| value)
    }

    fn emit_rest(&mut self, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        for (key, value) in self.rest.by_ref() {
            if let Some(value) = value
                && visit(key, value)?.is_break()
            {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// A view of one table.
    struct Rows(BTreeMap<Vec<u8>, Vec<u8>>);

    impl View for Rows {
        fn fetch(&self, _: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
            Ok(self.0.get(key).cloned())
        }

        fn scan(&self, _: Table, span: &Span, visit: &mut Visit<'_>) -> Result<(), StoreError> {
            let to = span.to.clone().map_or(Bound::Unbounded, Bound::Excluded);
            let rows: Vec<_> = self
                .0
                .range((Bound::Included(span.from.clone()), to))
                .collect();
            let rows: Vec<_> = if span.descending {
                rows.into_iter().rev().collect()
            } else {
                rows
            };
            for (key, value) in rows {
                if visit(key, value)?.is_break() {
                    break;
                }
            }
            Ok(())
        }
    }

    type Row = (Vec<u8>, Vec<u8>);

    fn scanned(view: &Overlay<'_>, span: &Span, limit: usize) -> Vec<Row> {
        let mut rows = vec![];
        view.scan(Table::Grants, span, &mut |key, value| {
            rows.push((key.to_vec(), value.to_vec()));
            Ok(if rows.len() == limit {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })
        .unwrap();
        rows
    }

    proptest! {
        #[test]
        fn an_overlay_reads_as_if_its_writes_were_committed(
            base in proptest::collection::btree_map(0..20u8, 0..9u8, 0..12),
            writes in proptest::collection::vec((0..20u8, proptest::option::of(0..9u8)), 0..12),
            from in 0..20u8, to in proptest::option::of(0..22u8), descending: bool, limit in 1..30usize,
        ) {
            let rows = Rows(base.into_iter().map(|(k, v)| (vec![k], vec![v])).collect());
            let mut committed = rows.0.clone();
            let mut overlay = Overlay::new(&rows);
            overlay.put(Table::Requests, vec![3], vec![1]);
            for (key, value) in writes {
                match value {
                    Some(value) => { overlay.put(Table::Grants, vec![key], vec![value]); committed.insert(vec![key], vec![value]); }
                    None => { overlay.remove(Table::Grants, vec![key]); committed.remove(&vec![key]); }
                }
            }
            let span = Span { from: vec![from], to: to.map(|to| vec![to]), descending };
            let mut expected: Vec<Row> = committed.iter()
                .filter(|(k, _)| **k >= span.from && span.to.as_ref().is_none_or(|to| *k < to))
                .map(|(k, v)| (k.clone(), v.clone())).collect();
            if descending { expected.reverse(); }
            expected.truncate(limit);
            prop_assert_eq!(scanned(&overlay, &span, limit), expected);
            for key in 0..20u8 {
                prop_assert_eq!(overlay.fetch(Table::Grants, &[key]).unwrap(), committed.get(&vec![key]).cloned());
            }
        }
    }
}
