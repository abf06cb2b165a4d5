//! Claims about single rows. A whole store of the version before is opened in `rings::upgrade`.

use super::*;
use crate::control::store::memory::{FailureMode, Memory};

const DUE: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

/// A store of schema 1 with these rows.
fn earlier(rows: &[(Table, &[u8], Vec<u8>)]) -> Memory {
    let meta = store::Meta {
        schema: 1,
        ..store::Meta::default()
    };
    let rows = rows
        .iter()
        .map(|(table, key, row)| ((*table, key.to_vec()), Some(row.clone())));
    let mut writes: Writes = rows.collect();
    writes.insert((Table::Meta, META_KEY.to_vec()), Some(meta.encode_to_vec()));
    let memory = Memory::default();
    memory.commit(None, &writes).unwrap();
    memory
}

fn open_review(policy: &str) -> Vec<u8> {
    [&*keys::number(DUE.as_micros()), policy.as_bytes()].concat()
}

fn row(memory: &Memory, table: Table, key: &[u8]) -> Vec<u8> {
    memory.view().unwrap().fetch(table, key).unwrap().unwrap()
}

fn schema(memory: &Memory) -> i32 {
    let view = memory.view().unwrap();
    Reader::new(&*view).meta().unwrap().unwrap().schema
}

#[test]
fn an_outstanding_review_keeps_its_due_time_and_policy() {
    let key = keys::pair("user:i|bob", b"01J");
    let memory = earlier(&[(Table::OpenReviews, &key, open_review("repair"))]);
    migrate(&memory).unwrap();
    let view = memory.view().unwrap();
    let open = Reader::new(&*view).open_reviews().unwrap();
    let [review] = open.as_slice() else {
        panic!("{open:?}")
    };
    assert_eq!((review.due, &*review.policy), (DUE, "repair"));
    assert_eq!(
        (&*review.requester, &*review.request),
        ("user:i|bob", "01J")
    );
}

#[test]
fn what_was_computed_of_a_request_is_left_out() {
    let kept = store::AccessRequest {
        id: "01J".into(),
        ..store::AccessRequest::default()
    };
    // Field 25 was the etag.
    let old = [kept.encode_to_vec(), vec![0xca, 0x01, 1, b'e']].concat();
    let memory = earlier(&[(Table::Requests, b"01J", old)]);
    migrate(&memory).unwrap();
    assert_eq!(row(&memory, Table::Requests, b"01J"), kept.encode_to_vec());
}

#[test]
fn a_damaged_row_is_left_as_it_is_and_keeps_no_other_from_being_migrated() {
    let damaged = vec![0xff; 5];
    let memory = earlier(&[
        (Table::Requests, b"bad", damaged.clone()),
        (Table::OpenReviews, b"bad\0bad", damaged.clone()),
        (Table::OpenReviews, b"user:i|bob\x0001J", open_review("p")),
    ]);
    migrate(&memory).unwrap();
    assert_eq!(schema(&memory), SCHEMA);
    assert_eq!(row(&memory, Table::Requests, b"bad"), damaged);
    assert_eq!(row(&memory, Table::OpenReviews, b"bad\0bad"), damaged);
    assert_ne!(
        row(&memory, Table::OpenReviews, b"user:i|bob\x0001J"),
        open_review("p")
    );
    let view = memory.view().unwrap();
    assert!(matches!(
        Reader::new(&*view).open_reviews(),
        Err(StoreError::Damaged(_))
    ));
}

#[test]
fn a_migration_that_cannot_be_written_leaves_the_store_for_the_next_start() {
    let key = keys::pair("user:i|bob", b"01J");
    let memory = earlier(&[(Table::OpenReviews, &key, open_review("p"))]);
    *memory.mode.lock() = FailureMode::Full;
    assert!(matches!(migrate(&memory), Err(StoreError::Medium(_))));
    assert_eq!(schema(&memory), 1);
    assert_eq!(row(&memory, Table::OpenReviews, &key), open_review("p"));
    *memory.mode.lock() = FailureMode::Well;
    migrate(&memory).unwrap();
    assert_eq!(schema(&memory), SCHEMA);
}

#[test]
fn the_log_says_how_many_rows_of_which_table_were_written() {
    let put = |table, key: &[u8]| ((table, key.to_vec()), Some(vec![]));
    let writes = Writes::from([
        put(Table::Requests, b"1"),
        put(Table::Requests, b"2"),
        put(Table::OpenReviews, b"1"),
    ]);
    assert_eq!(counted(&writes), "requests 2, open_reviews 1");
    assert_eq!(counted(&Writes::new()), "none");
}
