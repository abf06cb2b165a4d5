//! What every engine must do. One suite, run over each of them.

use std::ops::ControlFlow;

use super::embedded::Embedded;
use super::memory::Memory;
use super::{Engine, META_KEY, Span, StoreError, Table, View, Writes};

/// Runs a claim over every engine.
fn over_each(claim: impl Fn(&dyn Engine)) {
    claim(&Memory::default());
    let directory = tempfile::tempdir().unwrap();
    claim(&Embedded::open(directory.path()).unwrap());
}

fn writes(rows: &[(Table, &str, Option<&str>)]) -> Writes {
    rows.iter()
        .map(|(table, key, value)| {
            (
                (*table, key.as_bytes().to_vec()),
                value.map(|v| v.as_bytes().to_vec()),
            )
        })
        .collect()
}

fn keys(view: &dyn View, table: Table, span: &Span) -> Vec<String> {
    let mut keys = vec![];
    view.scan(table, span, &mut |key, _| {
        keys.push(String::from_utf8(key.to_vec()).unwrap());
        Ok(ControlFlow::Continue(()))
    })
    .unwrap();
    keys
}

#[test]
fn what_was_committed_is_read_and_other_tables_are_not_touched() {
    over_each(|engine| {
        engine
            .commit(
                None,
                &writes(&[
                    (Table::Grants, "a", Some("1")),
                    (Table::Requests, "a", Some("2")),
                ]),
            )
            .unwrap();
        engine
            .commit(None, &writes(&[(Table::Grants, "a", None)]))
            .unwrap();
        let view = engine.view().unwrap();
        assert_eq!(view.fetch(Table::Grants, b"a").unwrap(), None);
        assert_eq!(
            view.fetch(Table::Requests, b"a").unwrap().as_deref(),
            Some(&b"2"[..])
        );
    });
}

#[test]
fn a_view_stays_at_its_revision() {
    over_each(|engine| {
        engine
            .commit(None, &writes(&[(Table::Grants, "a", Some("1"))]))
            .unwrap();
        let before = engine.view().unwrap();
        engine
            .commit(
                None,
                &writes(&[
                    (Table::Grants, "a", Some("2")),
                    (Table::Grants, "b", Some("2")),
                ]),
            )
            .unwrap();
        assert_eq!(
            before.fetch(Table::Grants, b"a").unwrap().as_deref(),
            Some(&b"1"[..])
        );
        assert_eq!(keys(&*before, Table::Grants, &Span::ALL), ["a"]);
        assert_eq!(
            keys(&*engine.view().unwrap(), Table::Grants, &Span::ALL),
            ["a", "b"]
        );
    });
}

#[test]
fn a_commit_on_another_meta_row_changes_nothing() {
    over_each(|engine| {
        let meta = |value| ((Table::Meta, META_KEY.to_vec()), Some(Vec::from(value)));
        engine.commit(None, &Writes::from([meta(b"one")])).unwrap();
        for guard in [None, Some(&b"zero"[..]), Some(b""), Some(b"one ")] {
            let refused = engine.commit(guard, &writes(&[(Table::Grants, "a", Some("1"))]));
            assert_eq!(refused, Err(StoreError::Conflict));
        }
        assert_eq!(
            engine.view().unwrap().fetch(Table::Grants, b"a").unwrap(),
            None
        );
        engine
            .commit(Some(b"one"), &Writes::from([meta(b"two")]))
            .unwrap();
        assert_eq!(
            engine
                .view()
                .unwrap()
                .fetch(Table::Meta, META_KEY)
                .unwrap()
                .as_deref(),
            Some(&b"two"[..])
        );
    });
}

#[test]
fn a_scan_keeps_to_its_span_and_direction_and_ends_when_told() {
    over_each(|engine| {
        let rows: Vec<_> = ["a", "b/1", "b/2", "c"]
            .iter()
            .map(|key| (Table::Due, *key, Some("")))
            .collect();
        engine.commit(None, &writes(&rows)).unwrap();
        let view = engine.view().unwrap();
        assert_eq!(
            keys(&*view, Table::Due, &Span::prefix(b"b/")),
            ["b/1", "b/2"]
        );
        assert_eq!(
            keys(&*view, Table::Due, &Span::prefix(b"b/").descending()),
            ["b/2", "b/1"]
        );
        assert_eq!(
            keys(
                &*view,
                Table::Due,
                &Span::ALL.below(b"b/2".to_vec()).descending()
            ),
            ["b/1", "a"]
        );
        assert!(keys(&*view, Table::Due, &Span::prefix(b"b").below(b"a".to_vec())).is_empty());
        let mut seen = 0;
        view.scan(Table::Due, &Span::ALL, &mut |_, _| {
            seen += 1;
            Ok(if seen == 2 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })
        .unwrap();
        assert_eq!(seen, 2);
        let failed = view.scan(Table::Due, &Span::ALL, &mut |_, _| Err(StoreError::Busy));
        assert_eq!(failed, Err(StoreError::Busy));
    });
}

#[test]
fn an_engine_that_is_well_recovers_to_what_it_was() {
    over_each(|engine| {
        engine
            .commit(None, &writes(&[(Table::Grants, "a", Some("1"))]))
            .unwrap();
        engine.recover().unwrap();
        assert_eq!(
            keys(&*engine.view().unwrap(), Table::Grants, &Span::ALL),
            ["a"]
        );
    });
}
