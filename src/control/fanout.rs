//! The server end of the watch: a cache of all grants at the newest revision, and one session for each sidecar.
//!
//! The control plane calls it in this order: [`Fanout::new`] with what the store holds, [`Fanout::run`] in its set of
//! tasks, [`Fanout::service`] into its gRPC server, and [`Fanout::publish`] with each commit, in order of revision, after
//! the commit is durable and before it is answered. Publishing never waits for a sidecar.
//!
//! It never decides what a sidecar may watch (an [`Entitle`] does) and never sends a revision that the store may lose.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use cache::GrantCache;
use fleet::{Fleet, Times};
use hub::{Hub, TokenKeys};
use intake::Intake;

use crate::admission::{Admission, AdmissionMetrics};
use crate::clock::ControlClock;
use crate::control::store::Commit;
use crate::index::Index;
#[cfg(test)]
use crate::model::entry::TableEntry;
use crate::model::grant::Revision;
use crate::model::identity::Service;
use crate::model::time::Timestamp;
use crate::runtime::Outcome;
use crate::telemetry::pace::Pace;
use crate::wire::v1;

pub(crate) mod cache;
pub(crate) mod fleet;
mod hub;
pub(crate) mod intake;
mod outbox;
pub(crate) mod service;
mod session;
mod subscription;

pub(crate) use fleet::{Enforcement, Identity, Sidecar, Unreported};
pub(crate) use hub::FanoutConfig;
pub(crate) use service::{Enforcer, Entitle};

/// Feeds every sidecar. Dropping it ends all sessions.
#[derive(Debug)]
pub(crate) struct Fanout {
    hub: Arc<Hub>,
    sessions: Mutex<JoinSet<()>>,
}

impl Fanout {
    /// Starts from everything the store holds at `revision`; `history` are its last commits up to there, oldest first,
    /// from which sidecars can resume over a restart of the control plane (may be empty).
    #[cfg(test)]
    pub(crate) fn new(
        epoch: impl Into<String>,
        revision: Revision,
        grants: impl IntoIterator<Item: Into<TableEntry>>,
        history: &[Commit],
        config: FanoutConfig,
    ) -> Self {
        Self::on_clock(
            epoch,
            GrantCache::new(revision, grants, history, config.changes_kept),
            config,
            ControlClock::default(),
        )
    }

    /// As [`Fanout::new`], on the clock that the rest of the control plane judges expiry by.
    pub(crate) fn on_clock(
        epoch: impl Into<String>,
        cache: GrantCache,
        config: FanoutConfig,
        clock: ControlClock,
    ) -> Self {
        let hub = Hub {
            epoch: epoch.into(),
            head: watch::Sender::new(cache.revision()),
            cache: RwLock::new(cache),
            fleet: Fleet::default(),
            streams: Admission::new(hub::STREAMS),
            pace: Pace::default(),
            snapshots: Arc::new(Semaphore::new(config.snapshots_at_once)),
            config,
            token_keys: TokenKeys::new(None),
            clock,
            opened: AtomicU64::new(0),
            open: AtomicU64::new(0),
            stop: CancellationToken::new(),
            gap: Mutex::new(None),
            decisions: OnceLock::new(),
        };
        Self {
            hub: Arc::new(hub),
            sessions: Mutex::default(),
        }
    }

    /// From now on sidecars are asked to report what they decide.
    pub(crate) fn take_decisions(&self, intake: Intake) {
        if self.hub.decisions.set(intake).is_err() {
            tracing::debug!("decisions go where they went before");
        }
    }

    /// Takes in a durable commit and wakes the sessions it may concern. Never waits for a sidecar.
    ///
    /// A commit that leaves out a revision ends every session and lets [`Fanout::run`] fail: with a change unknown,
    /// sidecars had better go stale than trust what follows.
    pub(crate) fn publish(&self, commit: &Commit) {
        let applied = self.hub.cache.write().apply(commit, self.hub.clock.now());
        match applied {
            Ok(true) => {
                self.hub.head.send_replace(commit.revision);
            }
            Ok(false) => {
                tracing::debug!(revision = %commit.revision, "a commit was published twice")
            }
            Err(gap) => {
                tracing::error!(%gap, "the grants can no longer be followed; ending every session");
                *self.hub.gap.lock() = Some(gap);
                self.hub.stop.cancel();
            }
        }
    }

    /// Tells every sidecar, now and at the opening of each session, which keys tokens are verified with: all of them.
    pub(crate) fn tell_keys(&self, keys: v1::TokenKeys) {
        self.hub.token_keys.send_replace(Some(Arc::new(keys)));
    }

    /// Keeps the list of sidecars tidy until asked to stop; then ends every session in an orderly way.
    ///
    /// # Errors
    /// When a commit was left out (see [`Fanout::publish`]).
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) -> Outcome {
        let mut tick = tokio::time::interval_at(Instant::now() + SWEEP_INTERVAL, SWEEP_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break self.hub.stop.cancel(),
                () = self.hub.stop.cancelled() => break,
                _ = tick.tick() => {
                    self.hub.fleet.sweep(self.hub.clock.now());
                    self.reap();
                }
            }
        }
        let mut sessions = std::mem::take(&mut *self.sessions.lock());
        // Each session ends within its farewell; what does not is aborted by dropping the set.
        while let Ok(Some(_)) = tokio::time::timeout(FAREWELL, sessions.join_next()).await {}
        match self.hub.gap.lock().take() {
            Some(gap) => Err(anyhow::Error::new(gap)),
            None => Ok(()),
        }
    }

    /// Collects what ended sessions left behind. A session that panicked has already reset its stream.
    fn reap(&self) {
        let mut sessions = self.sessions.lock();
        while let Some(ended) = sessions.try_join_next() {
            if let Err(error) = ended {
                tracing::error!(%error, "a watch session ended abnormally");
            }
        }
    }

    /// All grants and tombstones at the newest revision, for explanations and listings.
    pub(crate) fn index(&self) -> Arc<Index> {
        Arc::clone(self.hub.cache.read().index())
    }

    /// The newest revision published.
    pub(crate) fn revision(&self) -> Revision {
        *self.hub.head.borrow()
    }

    /// Wakes at every revision published.
    pub(crate) fn revisions(&self) -> watch::Receiver<Revision> {
        self.hub.head.subscribe()
    }

    /// The clock that sidecars follow; judge expiry by it.
    pub(crate) fn clock(&self) -> ControlClock {
        self.hub.clock
    }

    /// Whether sidecars are asked to report what they decide.
    pub(crate) fn takes_decisions(&self) -> bool {
        self.hub.decisions.get().is_some()
    }

    /// As [`Fleet::unreported`], now.
    pub(crate) fn unreported(
        &self,
        service: &Service,
        issued: Timestamp,
        moment: Timestamp,
    ) -> Option<Unreported> {
        self.hub
            .fleet
            .unreported(service, issued, moment, self.hub.clock.now())
    }

    /// Every sidecar connected, or gone for less than a day.
    pub(crate) fn sidecars(&self) -> Vec<Sidecar> {
        self.hub.fleet.list()
    }

    /// How many of the connected ones refuse nothing.
    pub(crate) fn in_shadow(&self) -> usize {
        self.hub.fleet.in_shadow()
    }

    /// Shows how the streams are shared.
    pub(crate) fn show(&self, metrics: &AdmissionMetrics) {
        metrics.show("watches", &self.hub.streams);
    }

    /// Sessions open now.
    pub(crate) fn open_sessions(&self) -> u64 {
        self.hub.open.load(Ordering::Acquire)
    }

    /// Sessions opened since the start.
    #[cfg(test)]
    pub(crate) fn sessions_opened(&self) -> u64 {
        self.hub.opened.load(Ordering::Acquire)
    }

    /// Waits until every sidecar of these services enforces `revision` or refuses by itself, or until `patience` ends;
    /// then says how far it is.
    ///
    /// A sidecar that was cut off before this control plane started, and has not come back, is not known here.
    pub(crate) async fn await_enforced(
        &self,
        revision: Revision,
        services: &[Service],
        patience: Duration,
    ) -> Enforcement {
        let committed_at = self.hub.cache.read().committed_at(revision);
        let committed = committed_at.unwrap_or_else(|| self.hub.clock.now());
        let times = || Times {
            committed,
            now: self.hub.clock.now(),
        };
        let deadline = Instant::now() + patience.min(PATIENCE_MAX);
        let mut changes = self.hub.fleet.changes();
        loop {
            changes.mark_unchanged();
            let awaited = self.hub.fleet.awaits(revision, services, times());
            if !awaited || Instant::now() >= deadline || self.hub.stop.is_cancelled() {
                break;
            }
            // A fence passes without anything announcing it: look now and then.
            let look_again = deadline.min(Instant::now() + LOOK_AGAIN);
            if let Ok(Err(_closed)) = tokio::time::timeout_at(look_again, changes.changed()).await {
                break;
            }
        }
        Enforcement {
            committed_at,
            ..self.hub.fleet.enforcement(revision, services, times())
        }
    }
}

/// How often long-gone sidecars are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);
/// How long a session may take to say goodbye.
const FAREWELL: Duration = Duration::from_secs(2);
/// Longest wait for enforcement.
const PATIENCE_MAX: Duration = Duration::from_hours(1);
/// How often a wait for enforcement looks at the clock.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests;
