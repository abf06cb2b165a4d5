//! What each message of the stream does to the table. No I/O: a message in, a step or a fault out.
//!
//! A snapshot is staged off to the side and becomes visible in one swap, after its count and digest match; until then
//! the table before it serves. A delta is parsed whole before any of it counts. Freshness is only renewed by a progress
//! message whose digest matches. Whatever does not follow the protocol is a fault: the session ends, the table stays.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;

use crate::clock::Reading;
use crate::clock::server::sent_no_earlier_than;
use crate::index::{Index, Staged};
use crate::jose::jit::{JitKeys, KeysError};
use crate::model::digest::EntryMark;
use crate::model::entry::TableEntry;
use crate::model::grant::{GrantId, Revision};
use crate::model::time::Timestamp;
use crate::sidecar::state::table::Table;
use crate::wire::grant::{duration_from, table_entry_from, timestamp_from};
use crate::wire::v1;
use crate::wire::v1::watch_grants_response::Message;

/// Most entries that a snapshot may announce.
const ENTRIES_MAX: usize = 4_000_000;
/// Most refused grants reported for one message; all are counted and denied.
const NACKS_MAX: usize = 256;
const EPOCH_MAX: usize = 64;

/// Follows one stream into the table.
#[derive(Debug)]
pub(crate) struct Follower {
    table: Arc<Table>,
    phase: Phase,
    /// This sidecar's clock when it subscribed: no echo can be older.
    subscribed_nanos: u64,
}

#[derive(Debug)]
enum Phase {
    /// Nothing received yet; whether the subscription offered to resume.
    Opening { resumable: bool },
    /// In the middle of a snapshot.
    Staging(Staging),
    /// In step.
    Following,
}

#[derive(Debug)]
struct Staging {
    epoch: String,
    revision: Revision,
    announced: usize,
    entries: Vec<Staged>,
    nacks: Nacks,
}

/// Grants that cannot be enforced here.
#[derive(Debug, Default)]
pub(crate) struct Nacks {
    /// The first of them, to be reported.
    pub(crate) reported: Vec<v1::Nack>,
    /// How many there are.
    pub(crate) count: u64,
}

/// What a message led to.
#[derive(Debug)]
pub(crate) enum Step {
    /// Nothing to answer yet.
    Noted,
    /// The server goes on from what is held.
    Resumed,
    /// A part of a delta that more parts follow.
    Part(Nacks),
    /// Everything up to the revision is enforced.
    Delta {
        /// Up to where.
        revision: Revision,
        /// What of it is denied instead.
        nacks: Nacks,
        /// When the oldest change in it was committed, where that is known.
        committed_at: Option<Timestamp>,
    },
    /// A complete copy is enforced.
    Snapshot(Revision, Nacks),
    /// The table was vouched for.
    Vouched {
        /// What the clock made of it.
        reading: Reading,
        /// The next one comes within this time.
        next_within: std::time::Duration,
    },
    /// Other token keys are in force than before.
    TokenKeys,
    /// The server ends the session.
    GoAway(v1::GoAway),
}

/// Why a session had to be broken off.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    #[error(
        "went back from revision {held} to {found} within the same history; a newer table is not given up for an older one"
    )]
    WentBack { held: Revision, found: Revision },
    /// Another epoch, but no snapshot of it.
    #[error("another history ({found}) without a snapshot")]
    OtherHistory { found: String },
    /// Changes between two revisions are missing.
    #[error("a delta from revision {found} does not follow {held}")]
    Gap { held: Revision, found: Revision },
    /// Same revision, other content.
    #[error("the table at revision {0} differs from the control plane's")]
    Diverged(Revision),
    /// Content and digest of a snapshot disagree.
    #[error("the snapshot at revision {0} is not what its digest says")]
    SnapshotCorrupt(Revision),
    /// Not even its id is known.
    #[error("an entry cannot be decoded: {0}")]
    Undecodable(String),
    /// The keys before them stay in force.
    #[error(transparent)]
    TokenKeys(KeysError),
    /// Anything else that must not happen.
    #[error("{0}")]
    Protocol(&'static str),
}

impl Fault {
    /// Whether only a snapshot can put it right.
    pub(crate) fn needs_snapshot(&self) -> bool {
        match self {
            Self::Gap { .. } | Self::Diverged(_) | Self::SnapshotCorrupt(_) => true,
            Self::WentBack { .. }
            | Self::OtherHistory { .. }
            | Self::Undecodable(_)
            | Self::TokenKeys(_)
            | Self::Protocol(_) => false,
        }
    }
}

impl Follower {
    pub(crate) fn new(table: Arc<Table>, resumable: bool, subscribed_nanos: u64) -> Self {
        Self {
            table,
            phase: Phase::Opening { resumable },
            subscribed_nanos,
        }
    }

    /// Takes in the next message. After a fault the session must end.
    pub(crate) fn take(&mut self, response: v1::WatchGrantsResponse) -> Result<Step, Fault> {
        let v1::WatchGrantsResponse {
            epoch,
            revision,
            message,
        } = response;
        let message = message.ok_or(Fault::Protocol(
            "a message of a kind that this version does not know",
        ))?;
        if let Message::GoAway(go_away) = message {
            return Ok(Step::GoAway(go_away));
        }
        if epoch.is_empty() || epoch.len() > EPOCH_MAX {
            return Err(Fault::Protocol("an epoch must have 1 to 64 bytes"));
        }
        let revision = u64::try_from(revision)
            .map(Revision)
            .map_err(|_| Fault::Protocol("a negative revision"))?;
        match (
            std::mem::replace(&mut self.phase, Phase::Following),
            message,
        ) {
            (Phase::Opening { .. } | Phase::Following, Message::SnapshotBegin(begin)) => {
                self.begin_snapshot(epoch, revision, &begin)
            }
            (Phase::Opening { resumable: true }, Message::Resumed(resumed)) => {
                self.resume(&epoch, revision, &resumed)
            }
            (Phase::Staging(staging), Message::SnapshotChunk(chunk)) => {
                self.stage(staging, &epoch, revision, &chunk)
            }
            (Phase::Staging(staging), Message::SnapshotEnd(end)) => {
                self.end_snapshot(staging, &epoch, revision, &end)
            }
            (Phase::Following, Message::Delta(delta)) => self.delta(&epoch, revision, &delta),
            (Phase::Following, Message::Progress(progress)) => {
                self.progress(&epoch, revision, &progress)
            }
            (Phase::Following, Message::TokenKeys(keys)) => self.token_keys(&epoch, &keys),
            (
                Phase::Opening { .. } | Phase::Staging(_) | Phase::Following,
                Message::SnapshotBegin(_)
                | Message::SnapshotChunk(_)
                | Message::SnapshotEnd(_)
                | Message::Delta(_)
                | Message::Progress(_)
                | Message::TokenKeys(_)
                | Message::Resumed(_)
                | Message::GoAway(_),
            ) => Err(Fault::Protocol("a message out of order")),
        }
    }

    fn begin_snapshot(
        &mut self,
        epoch: String,
        revision: Revision,
        begin: &v1::SnapshotBegin,
    ) -> Result<Step, Fault> {
        if *self.table.epoch() == *epoch {
            self.not_back(revision)?;
        }
        let announced = usize::try_from(begin.entries)
            .ok()
            .filter(|entries| *entries <= ENTRIES_MAX);
        let announced = announced.ok_or(Fault::Protocol(
            "a snapshot must announce 0 to 4,000,000 entries",
        ))?;
        // Room is made as entries come, not for what is announced.
        let staging = Staging {
            epoch,
            revision,
            announced,
            entries: Vec::new(),
            nacks: Nacks::default(),
        };
        self.phase = Phase::Staging(staging);
        Ok(Step::Noted)
    }

    fn stage(
        &mut self,
        mut staging: Staging,
        epoch: &str,
        revision: Revision,
        chunk: &v1::SnapshotChunk,
    ) -> Result<Step, Fault> {
        staging.same(epoch, revision)?;
        if staging.entries.len().saturating_add(chunk.put.len()) > staging.announced {
            return Err(Fault::Protocol(
                "a snapshot has more entries than it announced",
            ));
        }
        for bytes in &chunk.put {
            let entry = Entry::parse(bytes)?;
            staging.nacks.note(revision, &entry);
            staging.entries.push(entry.staged());
        }
        self.phase = Phase::Staging(staging);
        Ok(Step::Noted)
    }

    fn end_snapshot(
        &mut self,
        staging: Staging,
        epoch: &str,
        revision: Revision,
        end: &v1::SnapshotEnd,
    ) -> Result<Step, Fault> {
        staging.same(epoch, revision)?;
        if staging.entries.len() != staging.announced {
            return Err(Fault::Protocol(
                "a snapshot has fewer entries than it announced",
            ));
        }
        let index =
            Index::collect(staging.entries).ok_or(Fault::Protocol("a snapshot has an id twice"))?;
        if index.digest().to_bytes() != end.digest[..] {
            return Err(Fault::SnapshotCorrupt(revision));
        }
        index.advance(revision);
        self.table.publish_epoch(epoch, index);
        Ok(Step::Snapshot(revision, staging.nacks))
    }

    fn resume(
        &mut self,
        epoch: &str,
        revision: Revision,
        resumed: &v1::Resumed,
    ) -> Result<Step, Fault> {
        self.same_history(epoch)?;
        let held = self.held();
        if revision != held || u64::try_from(resumed.from_revision) != Ok(held.0) {
            return Err(Fault::Protocol(
                "resumed from a revision that is not the one offered",
            ));
        }
        Ok(Step::Resumed)
    }

    fn delta(&mut self, epoch: &str, revision: Revision, delta: &v1::Delta) -> Result<Step, Fault> {
        self.same_history(epoch)?;
        self.not_back(revision)?;
        let held = self.held();
        let from = u64::try_from(delta.prev_revision)
            .map(Revision)
            .map_err(|_| Fault::Protocol("a negative revision"))?;
        if from != held {
            return Err(Fault::Gap { held, found: from });
        }
        let entries = delta
            .put
            .iter()
            .map(Entry::parse)
            .collect::<Result<Vec<_>, _>>()?;
        let index = self
            .table
            .current()
            .ok_or(Fault::Protocol("a delta before any snapshot"))?;
        let mut nacks = Nacks::default();
        let mut changed = Vec::with_capacity(entries.len() + delta.del.len());
        for entry in entries {
            nacks.note(revision, &entry);
            changed.extend(entry.id());
            match entry.parsed {
                Ok(known) => index.put_marked(&known, entry.mark),
                Err(refused) => index.refuse(&refused.id, entry.mark),
            }
        }
        for id in &delta.del {
            index.remove(id);
            changed.extend(GrantId::parse(id));
        }
        // Visible first, then whoever is already running: a stream that opens meanwhile looks the grant up after this.
        self.table.changed(&changed);
        if revision == held {
            return Ok(Step::Part(nacks));
        }
        self.table.advance(revision);
        // For a metric only: what cannot be read is not worth a session.
        let committed_at = delta
            .committed_at
            .as_ref()
            .and_then(|at| timestamp_from(at, "committed_at").ok());
        Ok(Step::Delta {
            revision,
            nacks,
            committed_at,
        })
    }

    fn progress(
        &mut self,
        epoch: &str,
        revision: Revision,
        progress: &v1::Progress,
    ) -> Result<Step, Fault> {
        self.same_history(epoch)?;
        self.not_back(revision)?;
        let index = self
            .table
            .current()
            .ok_or(Fault::Protocol("progress before any snapshot"))?;
        if index.digest().to_bytes() != progress.digest[..] {
            return Err(Fault::Diverged(revision));
        }
        let server_time = progress
            .server_time
            .as_ref()
            .ok_or(Fault::Protocol("progress without the server's time"))?;
        let server_time = timestamp_from(server_time, "server_time")
            .map_err(|_| Fault::Protocol("a bad server time"))?;
        let span = |span: &Option<prost_types::Duration>| {
            duration_from(&span.unwrap_or_default(), "span")
                .map_err(|_| Fault::Protocol("a negative duration"))
        };
        let (held, next_within) = (span(&progress.echo_held)?, span(&progress.next_within)?);
        if progress.echo_nanos < self.subscribed_nanos {
            return Err(Fault::Protocol(
                "progress echoes no message of this session",
            ));
        }
        let clock = self.table.clock();
        let (sent, round_trip) = sent_no_earlier_than(clock, progress.echo_nanos, held)
            .ok_or(Fault::Protocol("progress echoes a message from the future"))?;
        let reading = clock.observe(server_time, Some(round_trip));
        if matches!(reading, Reading::Stepped(_)) {
            self.table.reexamine();
        }
        self.table.heard_at(sent);
        if revision > self.held() {
            self.table.advance(revision);
        }
        Ok(Step::Vouched {
            reading,
            next_within,
        })
    }

    /// They belong to the history, not to a revision of it.
    fn token_keys(&self, epoch: &str, published: &v1::TokenKeys) -> Result<Step, Fault> {
        self.same_history(epoch)?;
        let keys = JitKeys::from_wire(published).map_err(Fault::TokenKeys)?;
        Ok(if self.table.publish_keys(keys) {
            Step::TokenKeys
        } else {
            Step::Noted
        })
    }

    fn held(&self) -> Revision {
        self.table.revision().unwrap_or_default()
    }

    fn same_history(&self, epoch: &str) -> Result<(), Fault> {
        if *self.table.epoch() == *epoch {
            Ok(())
        } else {
            Err(Fault::OtherHistory {
                found: epoch.to_owned(),
            })
        }
    }

    fn not_back(&self, found: Revision) -> Result<(), Fault> {
        let held = self.held();
        if found < held {
            Err(Fault::WentBack { held, found })
        } else {
            Ok(())
        }
    }
}

impl Staging {
    fn same(&self, epoch: &str, revision: Revision) -> Result<(), Fault> {
        if self.epoch == epoch && self.revision == revision {
            Ok(())
        } else {
            Err(Fault::Protocol("a snapshot must be of one revision"))
        }
    }
}

/// One entry as received.
struct Entry {
    parsed: Result<TableEntry, Refused>,
    mark: EntryMark,
}

struct Refused {
    id: Box<str>,
    error: String,
}

impl Entry {
    /// An entry that is no entry at all cannot even be refused by its id: whatever it was meant to replace would stay
    /// in force. So it breaks the session, and the table goes stale.
    fn parse(bytes: &Bytes) -> Result<Self, Fault> {
        let wire = v1::GrantEntry::decode(bytes.clone())
            .map_err(|error| Fault::Undecodable(error.to_string()))?;
        let mark = EntryMark::of(bytes);
        if let Err(error) = GrantId::parse(&wire.id) {
            return Err(Fault::Undecodable(format!("its id {error}")));
        }
        let parsed = table_entry_from(&wire).map_err(|error| Refused {
            id: wire.id.into(),
            error: error.to_string(),
        });
        Ok(Self { parsed, mark })
    }

    fn id(&self) -> Option<GrantId> {
        match &self.parsed {
            Ok(entry) => Some(entry.id().clone()),
            Err(refused) => GrantId::parse(&refused.id).ok(),
        }
    }

    fn staged(self) -> Staged {
        (self.parsed.map_err(|refused| refused.id), self.mark)
    }
}

impl Nacks {
    fn note(&mut self, revision: Revision, entry: &Entry) {
        let Err(Refused { id, error }) = &entry.parsed else {
            return;
        };
        self.count += 1;
        if self.reported.len() < NACKS_MAX {
            let revision = i64::try_from(revision.0).unwrap_or(i64::MAX);
            self.reported.push(v1::Nack {
                revision,
                grant: id.to_string(),
                error: error.clone(),
            });
        }
    }
}

#[cfg(test)]
mod tests;
