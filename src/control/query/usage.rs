//! What sidecars report of their decisions: kept beside the store's revisions, bounded in number and age, and never believed
//! beyond what the reporting sidecar is entitled to watch. Nothing is allowed or refused by it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::control::fanout::intake::{Intake, Reported};
use crate::control::metrics::ControlMetrics;
use crate::control::store::Store;
use crate::runtime::Outcome;
use crate::support::duration;

mod rows;

/// Reports that are written in one go.
const BATCH: usize = 32;
/// How often the oldest records are looked at.
const PRUNE_EVERY: Duration = Duration::from_secs(10);
/// Records that are forgotten in one go.
const PRUNE_BATCH: usize = 512;
/// An instance that has been silent for this long will not report again.
const REPORTER_KEPT: Duration = Duration::from_hours(24);

/// What is kept of decisions.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct UsageArgs {
    /// How long decisions are kept that sidecars report; 0s: they are not asked to report any.
    #[arg(long, env = "JITGATE_KEEP_DECISIONS", value_name = "TIME", default_value = "7d", value_parser = keep)]
    pub keep_decisions: Duration,
    /// How many of them are kept at most; the oldest go first.
    #[arg(
        long,
        env = "JITGATE_KEEP_DECISIONS_MAX",
        value_name = "COUNT",
        default_value_t = 200_000
    )]
    pub keep_decisions_max: u64,
}

fn keep(text: &str) -> Result<Duration, String> {
    duration::parse_within(text, Duration::ZERO..=Duration::from_hours(24 * 366))
}

/// The one that writes them down.
#[derive(Debug)]
pub(crate) struct Usage {
    waiting: mpsc::Receiver<Reported>,
    metrics: Arc<ControlMetrics>,
    keep: Duration,
    most: u64,
    /// Records in the store.
    kept: u64,
}

impl Usage {
    /// `None` when nothing is to be kept: then sidecars are not asked to report.
    pub(crate) fn new(args: UsageArgs, metrics: &Arc<ControlMetrics>) -> Option<(Intake, Self)> {
        let UsageArgs {
            keep_decisions: keep,
            keep_decisions_max: most,
        } = args;
        if keep.is_zero() || most == 0 {
            return None;
        }
        let (intake, waiting) = Intake::new(Arc::clone(metrics));
        let metrics = Arc::clone(metrics);
        Some((
            intake,
            Self {
                waiting,
                metrics,
                keep,
                most,
                kept: 0,
            },
        ))
    }

    /// Writes what arrives until asked to stop, and what has arrived by then.
    ///
    /// # Errors
    /// Never: what cannot be written is counted as missed.
    pub(crate) async fn run(mut self, store: Store, stop: CancellationToken) -> Outcome {
        self.kept = store
            .read(|reader| reader.decisions_kept())
            .await
            .unwrap_or_else(|error| {
                tracing::warn!(%error, "the decisions kept could not be counted");
                0
            });
        let mut tick = interval(PRUNE_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = tick.tick() => self.prune(&store).await,
                _ = self.waiting.recv_many(&mut batch, BATCH) => self.write(&store, std::mem::take(&mut batch)).await,
            }
        }
        self.waiting.close();
        while self.waiting.recv_many(&mut batch, BATCH).await > 0 {
            self.write(&store, std::mem::take(&mut batch)).await;
        }
        Ok(())
    }

    async fn write(&mut self, store: &Store, batch: Vec<Reported>) {
        let now = store.now();
        let records: usize = batch
            .iter()
            .map(|reported| reported.report.decisions.len())
            .sum();
        match store.note(move |rows| rows::add(rows, batch, now)).await {
            Ok(added) => {
                self.kept += added.kept;
                self.metrics.decisions_kept(added.kept);
                for (cause, records) in [
                    ("missing", added.missing),
                    ("lost", added.lost),
                    ("refused", added.refused),
                ] {
                    self.metrics.decisions_missed(cause, records);
                }
            }
            Err(error) => {
                tracing::warn!(%error, records, "reported decisions could not be written");
                self.metrics
                    .decisions_missed("store", u64::try_from(records).unwrap_or(u64::MAX));
            }
        }
    }

    /// Forgets what is too old or too much.
    async fn prune(&mut self, store: &Store) {
        let now = store.now();
        let before = now.minus(self.keep);
        loop {
            let over = usize::try_from(self.kept.saturating_sub(self.most)).unwrap_or(usize::MAX);
            match store
                .note(move |rows| rows::forget(rows, before, over.min(PRUNE_BATCH), PRUNE_BATCH))
                .await
            {
                Ok(forgotten) => {
                    self.kept = self
                        .kept
                        .saturating_sub(u64::try_from(forgotten).unwrap_or(0));
                    if forgotten < PRUNE_BATCH {
                        break;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "old decisions could not be forgotten");
                    break;
                }
            }
        }
        let silent = now.minus(REPORTER_KEPT);
        if let Err(error) = store
            .note(move |rows| rows::forget_reporters(rows, silent))
            .await
        {
            tracing::warn!(%error, "reporters could not be forgotten");
        }
    }
}

#[cfg(test)]
mod tests;
