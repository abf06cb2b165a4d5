//! The cache: every grant and tombstone at the newest revision, already encoded, and which of them changed lately.
//!
//! It answers two questions for a session: all entries of its services at one revision, and the newest value of
//! whatever changed since a revision. It never does work in proportion to all grants for a commit or a session in step.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use crate::control::store::{Commit, GrantChange};
use crate::index::Index;
use crate::model::digest::{EntryMark, TableDigest};
use crate::model::entry::TableEntry;
use crate::model::grant::{GrantId, Revision};
use crate::model::identity::Service;
use crate::model::time::Timestamp;
use crate::wire::grant::table_entry_to;

/// An entry must fit into one message beside its framing. A larger one is withheld: never sent, hence granted nowhere.
pub(crate) const ENTRY_MAX: usize = 1 << 20;

/// All grants, and the window of changes that can be resumed from.
#[derive(Debug)]
pub(crate) struct GrantCache {
    revision: Revision,
    index: Arc<Index>,
    service_indexes: HashMap<Service, ServiceIndex>,
    /// Which service each entry belongs to.
    places: HashMap<GrantId, Service>,
    recent: VecDeque<Touched>,
    keep: usize,
    compacted_through: Revision,
}

/// The entries of one service.
#[derive(Debug, Default)]
struct ServiceIndex {
    entries: HashMap<GrantId, Entry>,
    digest: TableDigest,
}

#[derive(Debug)]
struct Entry {
    bytes: Bytes,
    mark: EntryMark,
}

/// Where an entry was before, and its mark now.
struct Shelved {
    former: Option<Service>,
    mark: EntryMark,
}

/// One entry of one service changed at a revision; what it changed to is looked up when someone asks.
#[derive(Debug)]
struct Touched {
    revision: Revision,
    service: Service,
    id: GrantId,
    /// When it was committed; `None` for what was committed before the start.
    at: Option<Timestamp>,
}

/// All entries of some services at one revision.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// The revision.
    pub revision: Revision,
    /// Encoded entries, in no order.
    pub entries: Vec<Bytes>,
    /// Their digest.
    pub digest: TableDigest,
}

/// The newest value of everything that changed after a revision.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changed {
    /// Encoded entries.
    pub put: Vec<Bytes>,
    /// Forgotten entries.
    pub del: Vec<String>,
    /// When the oldest change was committed, where that is known.
    pub oldest: Option<Timestamp>,
}

/// A commit that does not follow the one before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("revision {found} was published after {newest}: the changes between them are unknown")]
pub(crate) struct Gap {
    /// The newest revision known.
    pub newest: Revision,
    /// What came next.
    pub found: Revision,
}

impl GrantCache {
    /// Everything the store holds at `revision`. `history` are its last commits up to there; if they do not end at
    /// `revision` without a gap, nothing older than `revision` can be resumed from.
    pub(crate) fn new(
        revision: Revision,
        entries: impl IntoIterator<Item: Into<TableEntry>>,
        history: &[Commit],
        keep: usize,
    ) -> Self {
        let mut cache = Self {
            revision,
            index: Arc::default(),
            service_indexes: HashMap::new(),
            places: HashMap::new(),
            recent: VecDeque::new(),
            keep,
            compacted_through: revision,
        };
        let entries: Vec<TableEntry> = entries.into_iter().map(Into::into).collect();
        let marked: Vec<_> = entries
            .iter()
            .map(|entry| (Ok(entry.clone()), cache.shelve(entry).mark))
            .collect();
        match Index::collect(marked) {
            Some(index) => cache.index = Arc::new(index),
            // An id twice: the later value counts, as it does on the service_indexes.
            None => entries.into_iter().for_each(|entry| cache.index.put(entry)),
        }
        cache.index.advance(revision);
        cache.remember(history);
        cache
    }

    fn remember(&mut self, history: &[Commit]) {
        let revisions = history.iter().map(|commit| commit.revision.0);
        let contiguous = revisions
            .clone()
            .zip(revisions.skip(1))
            .all(|(one, next)| next == one + 1);
        let (Some(first), Some(last)) = (history.first(), history.last()) else {
            return;
        };
        if !contiguous || last.revision != self.revision || first.revision.0 == 0 {
            return;
        }
        self.compacted_through = Revision(first.revision.0 - 1);
        for commit in history {
            for change in &commit.changes {
                let (service, id) = change.touches();
                let (service, id) = (service.clone(), id.clone());
                self.touch(Touched {
                    revision: commit.revision,
                    service,
                    id,
                    at: None,
                });
            }
        }
    }

    /// Takes in the next commit, made at `at`. One that is already part of the cache is passed over: it says nothing new.
    ///
    /// # Errors
    /// [`Gap`]; nothing was changed, and the cache can no longer be trusted to become current.
    pub(crate) fn apply(&mut self, commit: &Commit, at: Timestamp) -> Result<bool, Gap> {
        if commit.revision <= self.revision {
            return Ok(false);
        }
        if commit.revision.0 != self.revision.0 + 1 {
            return Err(Gap {
                newest: self.revision,
                found: commit.revision,
            });
        }
        self.revision = commit.revision;
        let touched = |service, id: &GrantId| Touched {
            revision: commit.revision,
            service,
            id: id.clone(),
            at: Some(at),
        };
        for change in &commit.changes {
            let (service, id) = change.touches();
            let former = match change {
                GrantChange::Put(entry) => {
                    let shelved = self.shelve(entry);
                    self.index.put_marked(entry, shelved.mark);
                    shelved.former
                }
                GrantChange::Forget { id, .. } => {
                    self.index.remove(id.as_str());
                    self.unshelve(id)
                }
            };
            if let Some(former) = former.filter(|former| former != service) {
                self.touch(touched(former, id));
            }
            self.touch(touched(service.clone(), id));
        }
        self.index.advance(commit.revision);
        Ok(true)
    }

    /// Stores the newest value for the sidecars.
    fn shelve(&mut self, entry: &TableEntry) -> Shelved {
        let (id, service) = (entry.id(), entry.scope().service().clone());
        let bytes = Bytes::from(table_entry_to(entry).encode_to_vec());
        let mark = EntryMark::of(&bytes);
        let former = self.unshelve(id);
        if bytes.len() > ENTRY_MAX {
            tracing::error!(grant = %id, bytes = bytes.len(), "grant is too large to be sent: it is enforced nowhere");
            return Shelved { former, mark };
        }
        let service_index = self.service_indexes.entry(service.clone()).or_default();
        service_index.digest.add(mark);
        service_index
            .entries
            .insert(id.clone(), Entry { bytes, mark });
        self.places.insert(id.clone(), service);
        Shelved { former, mark }
    }

    fn unshelve(&mut self, id: &GrantId) -> Option<Service> {
        let service = self.places.remove(id)?;
        let service_index = self.service_indexes.get_mut(&service)?;
        if let Some(entry) = service_index.entries.remove(id) {
            service_index.digest.remove(entry.mark);
        }
        Some(service)
    }

    fn touch(&mut self, touched: Touched) {
        self.recent.push_back(touched);
        while self.recent.len() > self.keep {
            if let Some(lost) = self.recent.pop_front() {
                self.compacted_through = lost.revision;
            }
        }
    }

    /// The newest revision.
    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    /// Revisions before this one can no longer be resumed from; this one can.
    pub(crate) fn compacted_through(&self) -> Revision {
        self.compacted_through
    }

    /// When a revision became visible here; `None` for one that came before the start or changed nothing.
    pub(crate) fn committed_at(&self, revision: Revision) -> Option<Timestamp> {
        let from = self
            .recent
            .partition_point(|touched| touched.revision < revision);
        self.recent
            .get(from)
            .filter(|touched| touched.revision == revision)?
            .at
    }

    /// All grants, for explanations.
    pub(crate) fn index(&self) -> &Arc<Index> {
        &self.index
    }

    /// Digest of the entries of these services.
    pub(crate) fn digest(&self, services: &[Service]) -> TableDigest {
        let service_indexes = services
            .iter()
            .filter_map(|service| self.service_indexes.get(service));
        service_indexes.fold(TableDigest::default(), |sum, service_index| {
            sum.join(service_index.digest)
        })
    }

    /// Everything these services hold.
    pub(crate) fn snapshot(&self, services: &[Service]) -> Snapshot {
        let service_indexes = services
            .iter()
            .filter_map(|service| self.service_indexes.get(service));
        let entries = service_indexes
            .flat_map(|service_index| {
                service_index
                    .entries
                    .values()
                    .map(|entry| entry.bytes.clone())
            })
            .collect();
        Snapshot {
            revision: self.revision,
            entries,
            digest: self.digest(services),
        }
    }

    /// What changed for these services after `revision`; `None` when that can no longer be told.
    pub(crate) fn changed_since(
        &self,
        revision: Revision,
        services: &[Service],
    ) -> Option<Changed> {
        if revision < self.compacted_through || revision > self.revision {
            return None;
        }
        let from = self
            .recent
            .partition_point(|touched| touched.revision <= revision);
        let mut ids = HashSet::new();
        let mut changed = Changed::default();
        for touched in self
            .recent
            .range(from..)
            .filter(|touched| services.contains(&touched.service))
        {
            // In order of commit: the first that is known is the oldest.
            changed.oldest = changed.oldest.or(touched.at);
            if ids.insert(&touched.id) {
                match self.newest(&touched.id, services) {
                    Some(bytes) => changed.put.push(bytes),
                    None => changed.del.push(touched.id.to_string()),
                }
            }
        }
        Some(changed)
    }

    fn newest(&self, id: &GrantId, services: &[Service]) -> Option<Bytes> {
        let service = self
            .places
            .get(id)
            .filter(|service| services.contains(service))?;
        self.service_indexes
            .get(service)?
            .entries
            .get(id)
            .map(|entry| entry.bytes.clone())
    }
}

#[cfg(test)]
mod tests;
