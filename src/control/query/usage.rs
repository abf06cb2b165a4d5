//! What sidecars report of their decisions: kept beside the store's revisions, bounded in number and age, and never believed
//! beyond what the reporting sidecar is entitled to watch. Nothing is allowed or refused by it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::control::fanout::Identity;
use crate::control::lifecycle::fault::Fault;
use crate::control::lifecycle::plane::Plane;
use crate::control::metrics::ControlMetrics;
use crate::control::store::{Store, StoreError};
use crate::model::identity::Service;
use crate::runtime::Outcome;
use crate::wire::v1;

mod rows;

/// Reports that wait to be written.
const WAITING_MAX: usize = 256;
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
    let time = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write for example 12h or 7d"))?;
    if time > Duration::from_hours(24 * 366) {
        return Err("must be a year at most".to_owned());
    }
    Ok(time)
}

/// One report of one sidecar, as its session took it.
#[derive(Debug)]
pub(crate) struct Reported {
    /// Who it proved to be.
    pub identity: Identity,
    /// Its stable name.
    pub sidecar: String,
    /// Its process.
    pub instance: String,
    /// What it may watch, and so speak of.
    pub services: Arc<[Service]>,
    /// What it says.
    pub report: v1::DecisionReport,
}

impl Reported {
    /// Under what it is remembered how far this process has reported: another identity cannot report in its place.
    fn reporter(&self) -> String {
        match self.identity.as_str() {
            "" => self.instance.clone(),
            identity => format!("{identity} {}", self.instance),
        }
    }
}

/// Where sessions put reports. It never makes a session wait.
#[derive(Debug, Clone)]
pub(crate) struct Intake {
    waiting: mpsc::Sender<Reported>,
    metrics: Arc<ControlMetrics>,
}

impl Intake {
    /// Takes a report, or counts what was in it as missed.
    pub(crate) fn take(&self, reported: Reported) {
        let records = u64::try_from(reported.report.decisions.len()).unwrap_or(u64::MAX);
        if self.waiting.try_send(reported).is_err() {
            self.metrics.decisions_missed("overload", records);
        }
    }
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
        let (sender, waiting) = mpsc::channel(WAITING_MAX);
        let metrics = Arc::clone(metrics);
        let intake = Intake {
            waiting: sender,
            metrics: Arc::clone(&metrics),
        };
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

impl Plane {
    /// The grants with what is known of their use.
    ///
    /// # Errors
    /// [`Fault`] when the store cannot be read.
    pub(crate) async fn with_uses(
        &self,
        mut grants: Vec<v1::Grant>,
    ) -> Result<Vec<v1::Grant>, Fault> {
        let read = self.store.read(move |reader| {
            for grant in &mut grants {
                let Some(known) = reader.grant_use(&grant.id)? else {
                    continue;
                };
                grant.first_use_time = known.first;
                grant.last_use_time = known.last;
                grant.use_count = known.count;
                grant.used_at = known.sidecars;
            }
            Ok::<_, StoreError>(grants)
        });
        Ok(read.await?)
    }
}

#[cfg(test)]
mod tests;
