//! All sidecars of a load, and what they count together.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use jitgate_client::Route;
use tokio::task::JoinSet;
use tokio::time::Instant;
use ulid::Ulid;

use super::session::SimulatedSidecar;
use super::tally::{Applied, Counts, Steps, Tally};
use crate::wire::v1;

/// How often it is looked whether all are there.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Every sidecar. Dropping it ends all sessions.
pub(super) struct SimulatedFleet {
    sidecars: u32,
    tally: Arc<Tally>,
    began: Instant,
    _sessions: JoinSet<()>,
}

impl SimulatedFleet {
    /// Opens every stream at once.
    pub(super) fn open(route: &Route, service: &str, sidecars: u32) -> Self {
        let (tally, mut sessions) = (Arc::new(Tally::default()), JoinSet::new());
        let began = Instant::now();
        for number in 0..sidecars {
            let subscribe = v1::Subscribe {
                sidecar: format!("load-{number:05}"),
                instance: Ulid::generate().to_string(),
                services: vec![service.to_owned()],
                software: concat!("jitgate-bench ", env!("CARGO_PKG_VERSION")).to_owned(),
                ..v1::Subscribe::default()
            };
            sessions.spawn(
                SimulatedSidecar::new(number, route.clone(), subscribe, Arc::clone(&tally)).run(),
            );
        }
        Self {
            sidecars,
            tally,
            began,
            _sessions: sessions,
        }
    }

    pub(super) fn sidecars(&self) -> u32 {
        self.sidecars
    }

    pub(super) fn attempts(&self) -> u64 {
        self.tally.counts().attempts
    }

    pub(super) fn counts(&self) -> Counts {
        self.tally.counts()
    }

    /// How long until every sidecar was vouched for, from the first connection.
    pub(super) async fn in_step(&self, patience: Duration) -> anyhow::Result<Duration> {
        self.all_since(self.began, patience).await
    }

    /// The same after a restart at `began`.
    pub(super) async fn in_step_again(
        &self,
        began: Instant,
        patience: Duration,
    ) -> anyhow::Result<Duration> {
        self.all_since(began, patience).await
    }

    /// From here on only sessions that are opened later count as in step.
    pub(super) fn start_over(&self) {
        let mut steps = self.tally.steps.lock();
        *steps = Steps {
            generation: steps.generation + 1,
            in_step: 0,
        };
    }

    async fn all_since(&self, began: Instant, patience: Duration) -> anyhow::Result<Duration> {
        while self.tally.steps.lock().in_step < self.sidecars {
            if began.elapsed() > patience {
                let there = self.tally.steps.lock().in_step;
                bail!(
                    "{there} of {} sidecars are in step after {patience:?}",
                    self.sidecars
                );
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(began.elapsed())
    }

    /// Forgets what was applied so far.
    pub(super) fn forget_applied(&self) {
        self.tally.applied.lock().clear();
    }

    /// The moment at which each sidecar first had `revision` or a newer one; waits until all have.
    pub(super) async fn applied(
        &self,
        revision: i64,
        patience: Duration,
    ) -> anyhow::Result<Vec<Applied>> {
        let begin = Instant::now();
        loop {
            let mut all: Vec<Applied> = self.tally.applied.lock().clone();
            all.retain(|applied| applied.revision >= revision);
            all.sort_by_key(|applied| (applied.sidecar, applied.revision));
            all.dedup_by_key(|applied| applied.sidecar);
            if all.len() >= usize::try_from(self.sidecars).unwrap_or(usize::MAX) {
                return Ok(all);
            }
            if begin.elapsed() > patience {
                bail!(
                    "{} of {} sidecars have applied revision {revision}",
                    all.len(),
                    self.sidecars
                );
            }
            // Not so often that looking costs what is measured.
            tokio::time::sleep(10 * LOOK_EVERY).await;
        }
    }
}
