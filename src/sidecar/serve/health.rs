//! Whether the sidecar can decide: in words for `/readyz`, and as gRPC health for Envoy. Ready means synced and
//! fresh, and where the rule is to refuse on it, that the clocks agree.
//! The look at it, twenty times a second, is also what notices that the machine was suspended and that clocks disagree.

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::service::auth::v3::authorization_server::AuthorizationServer;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::clock::Sleep;
use crate::model::decide::Freshness;
use crate::runtime::Outcome;
use crate::sidecar::check::Authorizer;
use crate::sidecar::state::skew::SkewLog;
use crate::sidecar::state::table::Table;

/// How soon a change shows.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Tells whether checks can be decided now.
#[derive(Debug, Clone)]
pub(crate) struct Readiness {
    table: Arc<Table>,
    max_staleness: Duration,
}

impl Readiness {
    /// Of this table under this bound.
    pub(crate) fn new(table: Arc<Table>, max_staleness: Duration) -> Self {
        Self {
            table,
            max_staleness,
        }
    }

    /// What stands in the way, in words; `None` when ready.
    pub(crate) fn obstacle(&self) -> Option<String> {
        let view = self.table.view(self.max_staleness);
        match view.state().freshness {
            Freshness::Fresh => view
                .refusal()
                .map(|denial| format!("checks answer STALE: {}", denial.detail)),
            Freshness::Never => Some(
                "no complete snapshot from the control plane yet: every check answers NOT_SYNCED"
                    .to_owned(),
            ),
            Freshness::Stale(age) => Some(format!(
                "nothing heard from the control plane for {:.1} s, more than --max-staleness {}: checks answer STALE",
                age.as_secs_f64(),
                humantime::format_duration(self.max_staleness)
            )),
        }
    }

    /// Keeps gRPC health (both the server's and the ext_authz service's) in step until `stop`, and announces changes.
    /// Tells the table of each suspension of the machine.
    ///
    /// # Errors
    /// Never; the type is that of a task.
    pub(crate) async fn follow(self, health: HealthReporter, stop: CancellationToken) -> Outcome {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut shown, mut sleep, mut skew) = (false, Sleep::watch(), SkewLog::default());
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = ticks.tick() => {}
            }
            if let Some(span) = sleep.look() {
                tracing::warn!(
                    ?span,
                    "this machine was suspended; grants that ended meanwhile have ended"
                );
                self.table.slept(span);
            }
            skew.look(self.table.clock());
            let obstacle = self.obstacle();
            let ready = obstacle.is_none();
            if ready != shown {
                shown = ready;
                show(&health, ready).await;
                match obstacle {
                    None => tracing::info!("ready: checks are decided"),
                    Some(obstacle) => tracing::warn!("not ready: {obstacle}"),
                }
            }
        }
        show(&health, false).await;
        Ok(())
    }
}

/// A reporter that says NOT_SERVING from the start.
pub(crate) async fn reporter() -> HealthReporter {
    let health = HealthReporter::new();
    show(&health, false).await;
    health
}

async fn show(health: &HealthReporter, ready: bool) {
    let status = if ready {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    };
    for service in ["", AuthorizationServer::<Authorizer>::NAME] {
        health.set_service_status(service, status).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Index;
    use crate::model::time::Timestamp;
    use crate::sidecar::state::skew::OnClockSkew;

    #[tokio::test(start_paused = true)]
    async fn ready_means_synced_and_fresh() {
        let table = Arc::new(Table::default());
        let readiness = Readiness::new(Arc::clone(&table), Duration::from_secs(30));
        assert!(readiness.obstacle().unwrap().contains("NOT_SYNCED"));
        table.publish(Index::new());
        table.heard();
        assert!(
            readiness.obstacle().is_some(),
            "without the control plane's time nothing can be decided"
        );
        table.clock().observe(Timestamp::from_micros(1), None);
        assert!(readiness.obstacle().is_none());
        tokio::time::advance(Duration::from_secs(31)).await;
        assert!(readiness.obstacle().unwrap().contains("31.0 s"));
    }

    #[test]
    fn a_skewed_clock_stands_in_the_way_only_where_the_rule_is_to_refuse() {
        for (rule, ready) in [(OnClockSkew::Report, true), (OnClockSkew::Refuse, false)] {
            let table = Arc::new(Table::ruled(Duration::from_secs(1), rule));
            table.publish(Index::new());
            table.heard();
            table.clock().observe(
                crate::clock::wall().plus(Duration::from_secs(9)),
                Some(Duration::ZERO),
            );
            let obstacle = Readiness::new(table, Duration::from_secs(30)).obstacle();
            assert_eq!(obstacle.is_none(), ready, "{obstacle:?}");
            assert!(ready || obstacle.unwrap().contains("--max-clock-skew 1s"));
        }
    }
}
