//! Grants by principal and by id, with a digest of the whole: what the sidecar decides from and the control plane explains from.
//!
//! One writer changes it in place, readers never wait for it. It also remembers entries that cannot be enforced: they
//! grant nothing, but belong to the digest, so that both ends still agree on what was sent. It never reads a clock:
//! whether a grant is live is for the decision to say.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;
use parking_lot::Mutex;
use prost::Message;

use crate::model::decide::{Grants, Held};
use crate::model::digest::{EntryMark, TableDigest};
use crate::model::entry::{PendingRequest, TableEntry};
use crate::model::grant::{End, Grant, GrantId, Hold, Revision};
use crate::model::identity::Principal;
use crate::wire::grant::table_entry_to;

/// One consistent copy of grants: a snapshot and the changes since.
#[derive(Debug, Default)]
pub struct Index {
    by_principal: DashMap<Principal, Held>,
    by_id: DashMap<GrantId, Listed>,
    refused: DashMap<Box<str>, EntryMark>,
    tally: Mutex<Tally>,
    revision: AtomicU64,
}

#[derive(Debug, Clone)]
struct Listed {
    entry: TableEntry,
    mark: EntryMark,
}

#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    digest: TableDigest,
    counts: Counts,
}

/// How many entries of each kind. The clock has no part in it: an open grant may be past its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Without an end, and not held back.
    pub standing: usize,
    /// With an end, and not held back.
    pub open: usize,
    /// Held back by an operator.
    pub suspended: usize,
    /// Tombstones.
    pub ended: usize,
    /// No grants: access requests that wait for approval.
    pub pending: usize,
    /// Cannot be enforced here: denied.
    pub refused: usize,
}

/// An entry of a snapshot to come: what it says, or only the name it was sent under when it cannot be enforced.
pub(crate) type Staged = (Result<TableEntry, Box<str>>, EntryMark);

impl Index {
    /// An empty table, to be filled before it is published.
    pub fn new() -> Self {
        Self::default()
    }

    /// A whole table at once, in time linear in its size. `None` when two entries have the same id.
    pub fn collect(entries: impl IntoIterator<Item = Staged>) -> Option<Self> {
        let index = Self::default();
        let mut by_principal: HashMap<Principal, Vec<TableEntry>> = HashMap::new();
        for (entry, mark) in entries {
            let id = entry
                .as_ref()
                .map_or_else(|id| &**id, |entry| entry.id().as_str());
            if index.contains(id) {
                return None;
            }
            match entry {
                Ok(entry) => {
                    by_principal
                        .entry(entry.subject().clone())
                        .or_default()
                        .push(entry.clone());
                    index.list(entry, mark);
                }
                Err(id) => index.list_refused(&id, mark),
            }
        }
        for (principal, held) in by_principal {
            index.by_principal.insert(principal, held.into());
        }
        Some(index)
    }

    fn contains(&self, id: &str) -> bool {
        self.refused.contains_key(id)
            || GrantId::parse(id).is_ok_and(|id| self.by_id.contains_key(&id))
    }

    /// Adds an entry or replaces its older value.
    pub fn put(&self, entry: impl Into<TableEntry>) {
        let entry = entry.into();
        let mark = EntryMark::of(&table_entry_to(&entry).encode_to_vec());
        self.put_marked(&entry, mark);
    }

    /// Adds an entry whose mark is known, or replaces its older value.
    pub fn put_marked(&self, entry: &TableEntry, mark: EntryMark) {
        self.unlist_refused(entry.id().as_str());
        let old = self.list(entry.clone(), mark);
        if let Some(old) = old.filter(|old| old.subject() != entry.subject()) {
            self.take_from_holder(&old);
        }
        let mut held = self
            .by_principal
            .entry(entry.subject().clone())
            .or_insert_with(|| Held::from([]));
        let others = held.iter().filter(|other| other.id() != entry.id());
        *held = others.chain([entry]).cloned().collect();
    }

    /// Takes the place of an entry that cannot be enforced: whatever was known under this id counts no more.
    pub fn refuse(&self, id: &str, mark: EntryMark) {
        self.remove(id);
        self.list_refused(id, mark);
    }

    /// Forgets an entry, enforceable or not.
    pub fn remove(&self, id: &str) {
        self.unlist_refused(id);
        let Ok(id) = GrantId::parse(id) else { return };
        if let Some((_, old)) = self.by_id.remove(&id) {
            self.take_from_holder(&old.entry);
            self.tally.lock().take(&old);
        }
    }

    fn list(&self, entry: TableEntry, mark: EntryMark) -> Option<TableEntry> {
        let new = Listed { entry, mark };
        self.tally.lock().add(&new);
        let old = self.by_id.insert(new.entry.id().clone(), new)?;
        self.tally.lock().take(&old);
        Some(old.entry)
    }

    fn take_from_holder(&self, old: &TableEntry) {
        if let Some(mut held) = self.by_principal.get_mut(old.subject()) {
            *held = held
                .iter()
                .filter(|other| other.id() != old.id())
                .cloned()
                .collect();
        }
        self.by_principal
            .remove_if(old.subject(), |_, held| held.is_empty());
    }

    fn list_refused(&self, id: &str, mark: EntryMark) {
        let mut tally = self.tally.lock();
        tally.digest.add(mark);
        tally.counts.refused += 1;
        drop(tally);
        self.refused.insert(id.into(), mark);
    }

    fn unlist_refused(&self, id: &str) {
        if let Some((_, mark)) = self.refused.remove(id) {
            let mut tally = self.tally.lock();
            tally.digest.remove(mark);
            tally.counts.refused = tally.counts.refused.saturating_sub(1);
        }
    }

    /// Everything up to here has been applied.
    pub fn revision(&self) -> Revision {
        Revision(self.revision.load(Ordering::Acquire))
    }

    /// Marks everything up to `revision` as applied.
    pub fn advance(&self, revision: Revision) {
        self.revision.store(revision.0, Ordering::Release);
    }

    /// Digest of all entries, refused ones included.
    pub fn digest(&self) -> TableDigest {
        self.tally.lock().digest
    }

    /// How many entries of each kind.
    pub fn counts(&self) -> Counts {
        self.tally.lock().counts
    }

    /// How many entries: grants, tombstones and requests that wait.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// One grant or tombstone.
    pub fn find(&self, id: &GrantId) -> Option<Arc<Grant>> {
        self.by_id.get(id)?.entry.as_grant().cloned()
    }

    /// All grants and tombstones by id; for listings, not for the path of a decision.
    pub fn grants(&self) -> Vec<Arc<Grant>> {
        let listed = self.by_id.iter();
        let mut grants: Vec<_> = listed
            .filter_map(|listed| listed.entry.as_grant().cloned())
            .collect();
        grants.sort_by(|a, b| a.id.cmp(&b.id));
        grants
    }

    /// All access requests that wait for approval, by id; for listings too.
    pub fn requests(&self) -> Vec<Arc<PendingRequest>> {
        let listed = self.by_id.iter();
        let mut requests: Vec<_> = listed
            .filter_map(|listed| listed.entry.as_request().cloned())
            .collect();
        requests.sort_by(|a, b| a.id.cmp(&b.id));
        requests
    }

    /// Ids of the entries that cannot be enforced here.
    pub fn refused(&self) -> Vec<String> {
        let mut ids: Vec<_> = self
            .refused
            .iter()
            .map(|entry| entry.key().to_string())
            .collect();
        ids.sort();
        ids
    }
}

impl Tally {
    fn add(&mut self, listed: &Listed) {
        self.digest.add(listed.mark);
        *self.counts.of(&listed.entry) += 1;
    }

    fn take(&mut self, listed: &Listed) {
        self.digest.remove(listed.mark);
        let count = self.counts.of(&listed.entry);
        *count = count.saturating_sub(1);
    }
}

impl Counts {
    fn of(&mut self, entry: &TableEntry) -> &mut usize {
        let TableEntry::Grant(grant) = entry else {
            return &mut self.pending;
        };
        match (grant.hold, grant.end) {
            (Hold::Ended { .. }, _) => &mut self.ended,
            (Hold::Suspended, _) => &mut self.suspended,
            (Hold::None, End::Standing) => &mut self.standing,
            (Hold::None, End::At(_)) => &mut self.open,
        }
    }
}

impl Grants for Index {
    fn held_by(&self, principal: &Principal) -> Option<Held> {
        self.by_principal
            .get(principal)
            .map(|held| Held::clone(&held))
    }

    fn revision(&self) -> Revision {
        self.revision()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::grant::{Ended, PolicyRef, Staleness};
    use crate::model::identity::Service;
    use crate::model::scope::{GrpcRule, Rule, Scope};
    use crate::model::time::Timestamp;

    fn grant(id: &str, subject: &str) -> Grant {
        let rule = Rule::Grpc(GrpcRule::parse("/a.B/*").unwrap());
        Grant {
            id: GrantId::parse(id).unwrap(),
            subject: Principal::parse(subject).unwrap(),
            via: vec![],
            scope: Scope::new(Service::parse("payments").unwrap(), vec![rule]).unwrap(),
            not_before: Timestamp::default(),
            end: End::At(Timestamp::MAX),
            hold: Hold::None,
            staleness: Staleness::Strict,
            policy: PolicyRef::default(),
            traceparent: None,
            mod_revision: Revision(1),
        }
    }

    fn held(index: &Index, subject: &str) -> Vec<String> {
        let held = index.held_by(&Principal::parse(subject).unwrap());
        held.iter()
            .flat_map(|held| held.iter())
            .map(|entry| entry.id().to_string())
            .collect()
    }

    fn marked(grant: Grant) -> Staged {
        let entry = TableEntry::from(grant);
        let mark = EntryMark::of(&table_entry_to(&entry).encode_to_vec());
        (Ok(entry), mark)
    }

    const ALICE: &str = "user:i|alice";
    const BOB: &str = "user:i|bob";

    #[test]
    fn a_newer_value_replaces_the_older_and_removal_leaves_nothing() {
        let index = Index::new();
        index.put(grant("g", ALICE));
        index.put(Grant {
            hold: Hold::Suspended,
            ..grant("g", ALICE)
        });
        assert_eq!(
            (held(&index, ALICE), index.len()),
            (vec!["g".to_owned()], 1)
        );
        assert_eq!(
            index.counts(),
            Counts {
                suspended: 1,
                ..Counts::default()
            }
        );
        index.remove("g");
        index.remove("never there");
        assert!(held(&index, ALICE).is_empty() && index.is_empty());
        assert_eq!(
            (index.digest(), index.counts()),
            (TableDigest::default(), Counts::default())
        );
    }

    #[test]
    fn a_grant_that_changes_hands_leaves_its_old_holder() {
        let index = Index::new();
        index.put(grant("g", ALICE));
        index.put(grant("g", BOB));
        assert!(held(&index, ALICE).is_empty());
        assert_eq!(held(&index, BOB), ["g"]);
    }

    #[test]
    fn refusing_a_grant_takes_its_older_value_away_but_keeps_the_digest_of_what_was_sent() {
        let index = Index::new();
        index.put(grant("g", ALICE));
        let mark = EntryMark::of(b"an entry of a newer version");
        index.refuse("g", mark);
        assert!(held(&index, ALICE).is_empty());
        let mut sent = TableDigest::default();
        sent.add(mark);
        assert_eq!(
            (index.digest(), index.refused()),
            (sent, vec!["g".to_owned()])
        );
        index.put(grant("g", ALICE));
        assert_eq!(
            (held(&index, ALICE), index.counts().refused),
            (vec!["g".to_owned()], 0)
        );
    }

    #[test]
    fn collecting_at_once_equals_putting_one_by_one() {
        let ended = Hold::Ended {
            how: Ended::Revoked,
            keep_until: Timestamp::MAX,
        };
        let grants = [
            grant("a", ALICE),
            grant("b", ALICE),
            grant("c", BOB),
            Grant {
                hold: ended,
                ..grant("d", BOB)
            },
        ];
        let single = Index::new();
        grants.iter().cloned().for_each(|grant| single.put(grant));
        let whole = Index::collect(grants.map(marked)).unwrap();
        assert_eq!(
            (whole.digest(), whole.counts()),
            (single.digest(), single.counts())
        );
        assert_eq!(
            (whole.grants(), held(&whole, ALICE)),
            (single.grants(), held(&single, ALICE))
        );
    }

    #[test]
    fn an_id_twice_in_one_snapshot_is_refused() {
        assert!(Index::collect([marked(grant("g", ALICE)), marked(grant("g", BOB))]).is_none());
        let refused = (Err("g".into()), EntryMark::of(b"x"));
        assert!(Index::collect([marked(grant("g", ALICE)), refused]).is_none());
    }
}
