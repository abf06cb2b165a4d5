//! What one sidecar is sent next. No I/O: it looks at the cache when there is room for a message, and not before, so a
//! slow reader costs no memory and gets the newest value of each grant instead of every value.
//!
//! One order holds for everything: a progress message is made in the same look at the cache as the changes before it,
//! and dated then. So it can never say "you hold everything" ahead of them, nor later than it was true, nor be starved
//! by a flood of them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::RwLock;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;

use super::cache::{Changed, GrantCache, Snapshot};
use super::subscription::{Held, Subscription};
use crate::clock::ControlClock;
use crate::model::digest::TableDigest;
use crate::model::grant::Revision;
use crate::model::identity::Service;
use crate::model::time::Timestamp;
use crate::wire::grant::{duration_to, timestamp_to};
use crate::wire::v1;
use crate::wire::v1::watch_grants_response::Message;

/// Most entries in one message.
pub(super) const CHUNK_ENTRIES: usize = 128;
/// A message is closed when it has this many bytes of entries; one entry more may be in it. A stream keeps a buffer as
/// large as its largest message for as long as it lives: a snapshot in large pieces would cost that memory for ever.
const CHUNK_BYTES: usize = 4 << 10;
/// When commits concern nobody here, the cursor is told at most this often.
const QUIET_INTERVAL: Duration = Duration::from_millis(100);

/// The state of one subscription.
#[derive(Debug)]
pub(super) struct Outbox {
    epoch: String,
    services: Vec<Service>,
    /// Whoever read everything handed out so far holds everything up to here.
    cursor: Revision,
    pending: Pending,
    progress: Pace,
    clock: ControlClock,
    echo: Option<Echo>,
    keys: Option<TokenKeys>,
}

/// The keys that tokens are verified with, and whether the newest list was handed out.
type TokenKeys = watch::Receiver<Option<Arc<v1::TokenKeys>>>;

#[derive(Debug)]
enum Pending {
    /// A snapshot must be sent, once it is admitted.
    Unsynced(v1::SnapshotCause),
    /// What remains of a snapshot.
    Sending {
        slot: OwnedSemaphorePermit,
        snapshot: Remaining,
    },
    /// The session opens with this word.
    Resuming,
    /// What remains of a delta, and the progress message to follow it.
    Changes(Box<Changes>),
    /// A progress message for the state just handed out.
    Vouch(v1::Progress),
    /// Everything up to the cursor is handed out.
    InStep,
}

#[derive(Debug)]
struct Remaining {
    begun: bool,
    cause: v1::SnapshotCause,
    total: usize,
    revision: Revision,
    entries: VecDeque<Bytes>,
    digest: TableDigest,
}

#[derive(Debug)]
struct Changes {
    to: Revision,
    put: VecDeque<Bytes>,
    del: VecDeque<String>,
    committed_at: Option<Timestamp>,
    vouch: Option<v1::Progress>,
}

#[derive(Debug)]
struct Pace {
    interval: Duration,
    sent: Option<Instant>,
    due: Instant,
}

/// The newest `sent_nanos`, and when it arrived.
#[derive(Debug, Clone, Copy)]
struct Echo {
    nanos: u64,
    arrived: Instant,
}

/// What to do next.
#[derive(Debug)]
pub(super) enum Next {
    /// Send this.
    Send(Box<v1::WatchGrantsResponse>),
    /// Nothing until the cache changes or progress is due.
    Wait,
    /// A snapshot is due: call [`Outbox::admit`] or turn the sidecar away.
    Admission,
}

impl Outbox {
    pub(super) fn new(
        epoch: &str,
        subscription: &Subscription,
        cache: &GrantCache,
        clock: ControlClock,
        progress_interval: Duration,
    ) -> Self {
        let now = Instant::now();
        let (cursor, pending) = opening(epoch, subscription, cache);
        let services = subscription.services.clone();
        let progress = Pace {
            interval: progress_interval,
            sent: None,
            due: now,
        };
        let mut outbox = Self {
            epoch: epoch.to_owned(),
            services,
            cursor,
            pending,
            progress,
            clock,
            echo: None,
            keys: None,
        };
        outbox.echo(subscription.sent_nanos);
        outbox
    }

    /// Hands out the keys after the opening and whenever they change.
    pub(super) fn telling_keys(mut self, mut keys: TokenKeys) -> Self {
        keys.mark_changed();
        self.keys = Some(keys);
        self
    }

    /// Why the session opens with a snapshot, if it does.
    pub(super) fn cause(&self) -> Option<v1::SnapshotCause> {
        match &self.pending {
            Pending::Unsynced(cause) => Some(*cause),
            Pending::Sending { snapshot, .. } => Some(snapshot.cause),
            Pending::Resuming | Pending::Changes(_) | Pending::Vouch(_) | Pending::InStep => None,
        }
    }

    /// The revision that the sidecar can have applied by now.
    pub(super) fn cursor(&self) -> Revision {
        self.cursor
    }

    /// Takes note of the sidecar's clock, for the next progress message.
    pub(super) fn echo(&mut self, nanos: u64) {
        self.echo = Some(Echo {
            nanos,
            arrived: Instant::now(),
        });
    }

    /// When to call [`Outbox::next`] although nothing changed.
    pub(super) fn due(&self) -> Instant {
        self.progress.due
    }

    /// The next message, from one look at the cache at most.
    pub(super) fn next(&mut self, cache: &RwLock<GrantCache>) -> Next {
        match std::mem::replace(&mut self.pending, Pending::InStep) {
            Pending::Unsynced(cause) => {
                self.pending = Pending::Unsynced(cause);
                Next::Admission
            }
            Pending::Sending { slot, snapshot } => self.continue_snapshot(slot, snapshot),
            Pending::Resuming => {
                self.progress.due = Instant::now();
                self.send(Message::Resumed(v1::Resumed {
                    from_revision: wire(self.cursor),
                }))
            }
            Pending::Changes(changes) => self.continue_delta(changes),
            Pending::Vouch(progress) => self.send(Message::Progress(progress)),
            Pending::InStep => match self.new_keys() {
                Some(keys) => self.send(Message::TokenKeys(keys)),
                None => self.look(&cache.read()),
            },
        }
    }

    /// The keys, if they were not handed out yet. They come between two changes and leave the cursor where it is.
    fn new_keys(&mut self) -> Option<v1::TokenKeys> {
        let keys = self
            .keys
            .as_mut()
            .filter(|keys| keys.has_changed().unwrap_or(false))?;
        keys.borrow_and_update().as_deref().cloned()
    }

    /// Takes the snapshot that [`Next::Admission`] asked for. The slot is free again when its end is handed out.
    pub(super) fn admit(&mut self, slot: OwnedSemaphorePermit, cache: &RwLock<GrantCache>) {
        let cause = self.cause().unwrap_or(v1::SnapshotCause::Overflow);
        let Snapshot {
            revision,
            entries,
            digest,
        } = cache.read().snapshot(&self.services);
        let snapshot = Remaining {
            begun: false,
            cause,
            total: entries.len(),
            revision,
            entries: entries.into(),
            digest,
        };
        self.pending = Pending::Sending { slot, snapshot };
    }

    fn look(&mut self, cache: &GrantCache) -> Next {
        let Some(changed) = cache.changed_since(self.cursor, &self.services) else {
            self.pending = Pending::Unsynced(v1::SnapshotCause::Overflow);
            return Next::Admission;
        };
        let to = cache.revision();
        let concerned = !changed.put.is_empty() || !changed.del.is_empty();
        if to > self.cursor && !concerned {
            self.cursor = to;
            self.progress.hurry();
        }
        // Under a flood there is never a quiet moment: progress is told between two deltas.
        let vouch = (self.progress.due <= Instant::now()).then(|| self.vouch(cache));
        match vouch {
            vouch if concerned => {
                let Changed { put, del, oldest } = changed;
                let (put, del) = (put.into(), del.into());
                self.continue_delta(Box::new(Changes {
                    to,
                    put,
                    del,
                    committed_at: oldest,
                    vouch,
                }))
            }
            Some(progress) => self.send(Message::Progress(progress)),
            None => Next::Wait,
        }
    }

    fn continue_snapshot(&mut self, slot: OwnedSemaphorePermit, mut snapshot: Remaining) -> Next {
        let revision = snapshot.revision;
        let message = if !snapshot.begun {
            snapshot.begun = true;
            let entries = i64::try_from(snapshot.total).unwrap_or(i64::MAX);
            Message::SnapshotBegin(v1::SnapshotBegin {
                entries,
                cause: snapshot.cause.into(),
            })
        } else if snapshot.entries.is_empty() {
            self.cursor = revision;
            self.progress.due = Instant::now();
            self.pending = Pending::InStep;
            let digest = Bytes::copy_from_slice(&snapshot.digest.to_bytes());
            return self.send(Message::SnapshotEnd(v1::SnapshotEnd { digest }));
        } else {
            Message::SnapshotChunk(v1::SnapshotChunk {
                put: take_chunk(&mut snapshot.entries),
            })
        };
        self.pending = Pending::Sending { slot, snapshot };
        self.send_at(revision, message)
    }

    fn continue_delta(&mut self, mut changes: Box<Changes>) -> Next {
        let prev_revision = wire(self.cursor);
        let some = changes.del.len().min(CHUNK_ENTRIES);
        let delta = v1::Delta {
            prev_revision,
            put: take_chunk(&mut changes.put),
            del: changes.del.drain(..some).collect(),
            committed_at: changes.committed_at.map(timestamp_to),
        };
        if changes.put.is_empty() && changes.del.is_empty() {
            self.cursor = changes.to;
            self.pending = changes.vouch.map_or(Pending::InStep, Pending::Vouch);
        } else {
            self.pending = Pending::Changes(changes);
        }
        self.send(Message::Delta(delta))
    }

    /// Made in one look at the cache together with all changes up to there.
    fn vouch(&mut self, cache: &GrantCache) -> v1::Progress {
        self.progress.start_over();
        v1::Progress {
            server_time: Some(timestamp_to(self.clock.now())),
            digest: Bytes::copy_from_slice(&cache.digest(&self.services).to_bytes()),
            next_within: Some(duration_to(self.progress.interval)),
            compacted_through: wire(cache.compacted_through()),
            echo_nanos: self.echo.map_or(0, |echo| echo.nanos),
            echo_held: self.echo.map(|echo| duration_to(echo.arrived.elapsed())),
            ..v1::Progress::default()
        }
    }

    fn send(&self, message: Message) -> Next {
        self.send_at(self.cursor, message)
    }

    fn send_at(&self, revision: Revision, message: Message) -> Next {
        let response = v1::WatchGrantsResponse {
            epoch: self.epoch.clone(),
            revision: wire(revision),
            message: Some(message),
        };
        Next::Send(Box::new(response))
    }
}

impl Pace {
    fn start_over(&mut self) {
        let now = Instant::now();
        self.sent = Some(now);
        self.due = now + self.interval;
    }

    /// Soon, but not for each of a hundred commits.
    fn hurry(&mut self) {
        let soon = self
            .sent
            .map_or_else(Instant::now, |sent| sent + QUIET_INTERVAL);
        self.due = self.due.min(soon);
    }
}

/// Resume, or snapshot and why. The one rule for both: what is held must be of this history, within the window, and not
/// contradicted by a digest that can be checked. A digest of an older revision is proven by the progress message that
/// follows the deltas.
fn opening(epoch: &str, subscription: &Subscription, cache: &GrantCache) -> (Revision, Pending) {
    let snapshot = |cause| (Revision::default(), Pending::Unsynced(cause));
    let Some(Held {
        epoch: theirs,
        revision,
        digest,
    }) = &subscription.held
    else {
        return snapshot(v1::SnapshotCause::First);
    };
    if theirs != epoch || *revision > cache.revision() {
        return snapshot(v1::SnapshotCause::Epoch);
    }
    if *revision < cache.compacted_through() {
        return snapshot(v1::SnapshotCause::Compacted);
    }
    if *revision == cache.revision()
        && digest[..] != cache.digest(&subscription.services).to_bytes()
    {
        return snapshot(v1::SnapshotCause::Digest);
    }
    (*revision, Pending::Resuming)
}

fn take_chunk(entries: &mut VecDeque<Bytes>) -> Vec<Bytes> {
    let mut chunk = Vec::with_capacity(entries.len().min(CHUNK_ENTRIES));
    let mut bytes = 0;
    while chunk.len() < CHUNK_ENTRIES && bytes < CHUNK_BYTES {
        let Some(entry) = entries.pop_front() else {
            break;
        };
        bytes += entry.len();
        chunk.push(entry);
    }
    chunk
}

fn wire(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
