//! Grants by principal and by id: what the sidecar decides from and what the control plane explains from.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dashmap::DashMap;

use crate::model::decide::{Grants, Held};
use crate::model::grant::{Grant, GrantId, Revision};
use crate::model::identity::Principal;

/// One consistent copy of grants: a snapshot and the changes since.
#[derive(Debug, Default)]
pub struct Index {
    by_principal: DashMap<Principal, Held>,
    by_id: DashMap<GrantId, Arc<Grant>>,
    revision: AtomicU64,
}

impl Index {
    /// An empty table, to be filled before it is published.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a grant or replaces its older value.
    pub fn put(&self, grant: Grant) {
        let grant = Arc::new(grant);
        if let Some(old) = self.by_id.insert(grant.id.clone(), Arc::clone(&grant))
            && old.subject != grant.subject
        {
            self.unlist(&old);
        }
        let mut held = self.by_principal.entry(grant.subject.clone()).or_insert_with(|| Held::from([]));
        let others = held.iter().filter(|other| other.id != grant.id).cloned();
        *held = others.chain([Arc::clone(&grant)]).collect();
    }

    /// Forgets a grant.
    pub fn remove(&self, id: &GrantId) {
        if let Some((_, old)) = self.by_id.remove(id) {
            self.unlist(&old);
        }
    }

    fn unlist(&self, old: &Grant) {
        if let Some(mut held) = self.by_principal.get_mut(&old.subject) {
            *held = held.iter().filter(|other| other.id != old.id).cloned().collect();
        }
        self.by_principal.remove_if(&old.subject, |_, held| held.is_empty());
    }

    /// Everything up to here has been applied.
    pub fn revision(&self) -> Revision {
        Revision(self.revision.load(Ordering::Acquire))
    }

    /// Marks everything up to `revision` as applied.
    pub fn advance(&self, revision: Revision) {
        self.revision.store(revision.0, Ordering::Release);
    }

    /// How many grants, tombstones included.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }
}

impl Grants for Index {
    fn held_by(&self, principal: &Principal) -> Option<Held> {
        self.by_principal.get(principal).map(|held| Held::clone(&held))
    }
}
