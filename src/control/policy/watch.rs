//! Follows the policy directory: a good set replaces the one in force, a bad one is reported and changes nothing.
//!
//! The kernel's notifications make it quick, a poll makes it certain: they can be lost, and say nothing about a directory
//! that is replaced as a whole.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::found::{Fingerprint, Text};
use super::load;
use super::problem::Problem;
use super::set::PolicySet;
use crate::runtime::Outcome;
use crate::telemetry::metrics::Metrics;

/// Quiet time after a notification: an editor or a checkout writes in several steps.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// How often the directory is read although nothing was heard.
const POLL: Duration = Duration::from_secs(5);
/// Most problems of one attempt that are logged one by one.
const LOGGED: usize = 50;

/// How reloads went since the start.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReloadCounts {
    applied: Counter,
    refused: Counter,
}

impl ReloadCounts {
    /// Shows the counts on `/metrics`.
    pub(crate) fn register(&self, metrics: &Metrics) {
        let Self { applied, refused } = self.clone();
        metrics.register(|registry| {
            registry.register(
                "jitgate_policy_reloads",
                "Policy sets put in force after the start",
                applied,
            );
            registry.register(
                "jitgate_policy_reloads_refused",
                "Changed policy sets refused as a whole",
                refused,
            );
        });
    }

    /// Sets put in force.
    #[cfg(test)]
    pub(crate) fn applied(&self) -> u64 {
        self.applied.get()
    }

    /// Sets refused.
    #[cfg(test)]
    pub(crate) fn refused(&self) -> u64 {
        self.refused.get()
    }
}

/// Watches one directory.
#[derive(Debug)]
pub(crate) struct Reloader {
    dir: PathBuf,
    /// What was applied, and is in force together with the directory.
    beside: Beside,
    /// The bytes last looked at, good or bad.
    seen: Fingerprint,
    counts: ReloadCounts,
}

/// What lies beside the directory now.
pub(crate) type Beside = Arc<ArcSwap<Vec<Text>>>;

impl Reloader {
    /// Follows the directory that `current` was loaded from.
    pub(crate) fn new(dir: impl Into<PathBuf>, current: &PolicySet) -> Self {
        Self {
            dir: dir.into(),
            beside: Beside::default(),
            seen: current.fingerprint,
            counts: ReloadCounts::default(),
        }
    }

    /// The same, of a set that these belong to, too.
    #[must_use]
    pub(crate) fn beside(self, beside: Beside) -> Self {
        Self { beside, ..self }
    }

    /// The counts, for `/metrics`.
    pub(crate) fn counts(&self) -> ReloadCounts {
        self.counts.clone()
    }

    /// Calls `on_change` with each new good set, in order, until asked to stop.
    ///
    /// # Errors
    /// Never: what goes wrong is logged and counted, and the set in force stays.
    pub(crate) async fn run(
        mut self,
        stop: CancellationToken,
        on_change: impl Fn(PolicySet) + Send + Sync + 'static,
    ) -> Outcome {
        let changed = Arc::new(Notify::new());
        let mut watcher = watch(&self.dir, &changed);
        let mut poll = interval(POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let heard = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = changed.notified() => true,
                _ = poll.tick() => false,
            };
            if heard {
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    () = sleep(DEBOUNCE) => {}
                }
            }
            let moved = self.look(&on_change).await;
            if watcher.is_none() || (moved && !heard) {
                // A change without a notification: the directory is new, or notifications do not work here.
                watcher = watch(&self.dir, &changed);
            }
        }
    }

    /// Reads the directory; whether it differs from what was seen last.
    async fn look(&mut self, on_change: &impl Fn(PolicySet)) -> bool {
        let (dir, seen, beside) = (self.dir.clone(), self.seen, self.beside.load_full());
        let read = tokio::task::spawn_blocking(move || {
            if load::fingerprint(&dir, &beside) == seen {
                None
            } else {
                Some(load::together(&dir, &beside))
            }
        });
        let found = match read.await {
            Ok(Some(found)) => found,
            Ok(None) => return false,
            Err(error) => {
                tracing::error!(%error, "the policy directory could not be read; the set in force stays");
                return false;
            }
        };
        self.seen = found.fingerprint;
        match PolicySet::from_found(found) {
            Ok(set) => {
                self.counts.applied.inc();
                tracing::info!(digest = %set.digest(), policies = set.policies.len(), "policies reloaded");
                set.warnings()
                    .iter()
                    .for_each(|warning| tracing::warn!("{warning}"));
                on_change(set);
            }
            Err(problems) => {
                self.counts.refused.inc();
                report(&self.dir, &problems);
            }
        }
        true
    }
}

fn report(dir: &Path, problems: &[Problem]) {
    for problem in problems.iter().take(LOGGED) {
        tracing::error!("{problem}");
    }
    tracing::error!(
        dir = %dir.display(),
        problems = problems.len(),
        "the changed policies are refused as a whole; the set in force stays"
    );
}

/// `None` when the directory cannot be watched now; the poll goes on.
fn watch(dir: &Path, changed: &Arc<Notify>) -> Option<RecommendedWatcher> {
    let wake = Arc::clone(changed);
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.map_or(true, |event| !event.kind.is_access()) {
            wake.notify_one();
        }
    });
    let watched = watcher.and_then(|mut watcher| {
        watcher
            .watch(dir, RecursiveMode::NonRecursive)
            .map(|()| watcher)
    });
    watched.inspect_err(|error| tracing::debug!(dir = %dir.display(), %error, "no notifications; polling instead")).ok()
}

#[cfg(test)]
mod tests;
