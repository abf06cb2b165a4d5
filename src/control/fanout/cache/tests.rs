//! Claims about the cache: the window, the digest, the newest value.

use super::*;
use crate::model::grant::Grant;
use crate::model::identity::Principal;
use crate::rings::watch::grants::{
    bytes, commit, digest, forget, grant, grant_at, put, revoked, service,
};

fn payments() -> Vec<Service> {
    vec![service("payments")]
}

fn cache(keep: usize) -> GrantCache {
    GrantCache::new(Revision(10), [grant("a"), grant_at("shop", "s")], &[], keep)
}

/// When a revision was committed.
fn made(revision: u64) -> Timestamp {
    Timestamp::from_micros(revision)
}

fn apply(cache: &mut GrantCache, revision: u64, change: impl IntoIterator<Item = GrantChange>) {
    assert_eq!(
        cache.apply(&commit(revision, change), made(revision)),
        Ok(true)
    );
}

fn ids(changed: &Changed) -> Vec<String> {
    let id = |entry: &Bytes| {
        crate::wire::v1::GrantEntry::decode(entry.clone())
            .unwrap()
            .id
    };
    changed.put.iter().map(id).collect()
}

#[test]
fn a_snapshot_holds_exactly_the_entries_of_the_services_asked_for() {
    let cache = cache(8);
    let snapshot = cache.snapshot(&payments());
    assert_eq!(
        (snapshot.revision, snapshot.entries.len()),
        (Revision(10), 1)
    );
    assert_eq!(
        snapshot.digest.to_bytes()[..],
        digest(&snapshot.entries)[..]
    );
    let both = cache.snapshot(&[service("payments"), service("shop"), service("none")]);
    assert_eq!(both.digest.to_bytes()[..], digest(&both.entries)[..]);
    assert_eq!(both.entries.len(), 2);
}

#[test]
fn only_the_newest_value_of_what_changed_is_told() {
    let mut cache = cache(8);
    let value = |revision| Grant {
        mod_revision: Revision(revision),
        ..grant("b")
    };
    apply(&mut cache, 11, [put(value(11))]);
    apply(&mut cache, 12, [put(value(12))]);
    apply(
        &mut cache,
        13,
        [put(grant_at("shop", "t")), forget("payments", "a")],
    );
    let changed = cache.changed_since(Revision(10), &payments()).unwrap();
    assert_eq!(
        changed,
        Changed {
            put: vec![bytes(&value(12))],
            del: vec!["a".into()],
            oldest: Some(made(11))
        }
    );
    assert_eq!(
        cache.changed_since(Revision(13), &payments()),
        Some(Changed::default())
    );
}

#[test]
fn the_digest_follows_every_change() {
    let mut cache = cache(8);
    apply(&mut cache, 11, [put(revoked(grant("a"))), put(grant("b"))]);
    apply(&mut cache, 12, [forget("payments", "b")]);
    let snapshot = cache.snapshot(&payments());
    assert_eq!(
        cache.digest(&payments()).to_bytes()[..],
        digest(&snapshot.entries)[..]
    );
    assert_eq!(
        cache.index().digest(),
        cache.digest(&[service("payments"), service("shop")])
    );
}

/// Compaction has a name and an edge (spicedb#1168, etcd `compact_revision`).
#[test]
fn what_can_be_resumed_from_is_stated_exactly() {
    let mut cache = cache(2);
    assert_eq!(cache.compacted_through(), Revision(10));
    for revision in 11..=14 {
        apply(&mut cache, revision, [put(grant(&format!("g{revision}")))]);
    }
    assert_eq!(cache.compacted_through(), Revision(12));
    assert_eq!(cache.changed_since(Revision(11), &payments()), None);
    assert_eq!(
        ids(&cache.changed_since(Revision(12), &payments()).unwrap()),
        ["g13", "g14"]
    );
    assert_eq!(
        cache.changed_since(Revision(15), &payments()),
        None,
        "nothing is known of the future"
    );
}

#[test]
fn commits_that_change_nothing_here_take_no_room_in_the_window() {
    let mut cache = cache(2);
    (11..1000).for_each(|revision| apply(&mut cache, revision, []));
    assert_eq!(
        cache.changed_since(Revision(10), &payments()),
        Some(Changed::default())
    );
}

#[test]
fn one_commit_larger_than_the_window_forces_a_snapshot_and_nothing_less() {
    let mut cache = cache(3);
    apply(
        &mut cache,
        11,
        ["a", "b", "c", "d", "e"].map(|id| put(grant(id))),
    );
    assert_eq!(cache.changed_since(Revision(10), &payments()), None);
    assert_eq!(
        cache.changed_since(Revision(11), &payments()),
        Some(Changed::default())
    );
}

#[test]
fn a_commit_twice_is_passed_over_and_a_missing_one_is_an_error() {
    let mut cache = cache(8);
    apply(&mut cache, 11, [put(grant("b"))]);
    assert_eq!(
        cache.apply(&commit(11, [forget("payments", "b")]), made(11)),
        Ok(false)
    );
    let gap = Gap {
        newest: Revision(11),
        found: Revision(13),
    };
    assert_eq!(
        cache.apply(&commit(13, [forget("payments", "b")]), made(13)),
        Err(gap)
    );
    assert_eq!(cache.snapshot(&payments()).entries.len(), 2);
}

#[test]
fn a_grant_that_moves_to_another_service_is_forgotten_at_the_first() {
    let mut cache = cache(8);
    apply(&mut cache, 11, [put(grant_at("shop", "a"))]);
    let changed = cache.changed_since(Revision(10), &payments()).unwrap();
    assert_eq!((changed.put.len(), changed.del), (0, vec!["a".to_owned()]));
    let both = cache
        .changed_since(Revision(10), &[service("payments"), service("shop")])
        .unwrap();
    assert_eq!((both.put.len(), both.del.len()), (1, 0));
    assert_eq!(cache.digest(&payments()), TableDigest::default());
}

#[test]
fn history_survives_a_restart_only_if_it_is_complete() {
    let resumable = |history: &[Commit]| {
        let cache = GrantCache::new(Revision(10), [grant("a")], history, 8);
        cache.compacted_through().0
    };
    let at = |revision| commit(revision, [put(grant("a"))]);
    assert_eq!(resumable(&[at(8), at(9), at(10)]), 7);
    assert_eq!(resumable(&[at(8), at(10)]), 10, "a gap");
    assert_eq!(resumable(&[at(8), at(9)]), 10, "the last one is missing");
    assert_eq!(resumable(&[]), 10);
}

#[test]
fn an_entry_too_large_to_send_is_withheld_and_its_older_value_with_it() {
    let mut cache = cache(8);
    let via = Principal::parse(&format!("spiffe://td/{}", "x".repeat(2000))).unwrap();
    apply(
        &mut cache,
        11,
        [put(Grant {
            via: vec![via; 600],
            ..grant("a")
        })],
    );
    let changed = cache.changed_since(Revision(10), &payments()).unwrap();
    assert_eq!((changed.put.len(), changed.del), (0, vec!["a".to_owned()]));
    assert_eq!(cache.digest(&payments()), TableDigest::default());
}
