//! The data plane: answers every check of one Envoy from an in-memory table that the control plane's watch stream feeds.
//!
//! ```text
//! Envoy --Check--> check:  input (read) -> identify -> decide on table -> respond;  record (span, counters, log line)
//! Envoy --Process--> leash: re-check, hold;  ends the stream when its last grant goes
//! control plane --WatchGrants--> watch -> table;  listing, gauges and health show it
//! ```

pub(crate) mod check;
pub(crate) mod report;
pub(crate) mod serve;
pub(crate) mod state;
pub(crate) mod streams;
pub(crate) mod watch;

#[cfg(test)]
mod fixtures;

use std::sync::Arc;

use crate::admin::{self, Admin, AdminArgs};
use crate::admission::AdmissionMetrics;
use crate::jose::issuers::{Issuers, IssuersArgs};
use crate::runtime::{self, DrainArgs, Outcome, Tasks};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::spans::Spans;
use check::Authorizer;
use check::mode::Mode;
use check::record::Recorder;
use report::ReportArgs;
use serve::config::{CheckArgs, Checking};
use serve::health::Readiness;
use serve::listen::ListenArgs;
use serve::routes::Limits;
use state::table::Table;
use streams::LeashArgs;
use watch::{WatchArgs, Watched};

/// Everything that a sidecar can be told.
#[derive(Debug, Clone, clap::Args)]
pub struct SidecarArgs {
    /// Where Envoy's checks come in.
    #[command(flatten)]
    pub listen: ListenArgs,
    /// How they are answered.
    #[command(flatten)]
    pub check: CheckArgs,
    /// Which streams are tied to their grants.
    #[command(flatten)]
    pub leash: LeashArgs,
    /// Whose tokens count.
    #[command(flatten)]
    pub issuers: IssuersArgs,
    /// Where grants come from.
    #[command(flatten)]
    pub watch: WatchArgs,
    /// What the control plane hears of decisions.
    #[command(flatten)]
    pub report: ReportArgs,
    /// Where the sidecar shows itself.
    #[command(flatten)]
    pub admin: AdminArgs,
    /// How it ends.
    #[command(flatten)]
    pub drain: DrainArgs,
}

/// Runs a sidecar until SIGINT or SIGTERM.
///
/// # Errors
/// One line that names the flag or file, the cause and the way out; or which part ended unasked.
pub async fn run(args: SidecarArgs, spans: Spans, metrics: Metrics) -> Outcome {
    let SidecarArgs {
        listen,
        check,
        leash,
        issuers,
        watch,
        report,
        admin,
        drain,
    } = args;
    let hangups = runtime::hangups()?;
    let watched = Watched {
        services: check.service.clone(),
        max_staleness: check.max_staleness,
        insecure: listen.insecure,
        shadow: check.mode == Mode::Shadow,
        listens: listen.chosen(),
    };
    let shadow = watched.shadow;
    let issuers = Arc::new(issuers.load()?.accepting(&check.audiences()));
    let table = Arc::new(Table::ruled(check.max_clock_skew, check.on_clock_skew));
    let checking = check.parse()?;
    warn_of(&checking, &issuers);
    let reports = report.build();
    let watch = watch
        .build(watched, Arc::clone(&table))?
        .reporting(reports.clone());
    let readiness = Readiness::new(Arc::clone(&table), checking.max_staleness);

    let limits = Limits {
        max_check_bytes: listen.max_check_bytes,
        reflection: listen.reflection,
    };
    let listeners = listen.bind().await?;
    let admin_listener = admin.bind()?;
    let stopped = runtime::shutdown_signal()?;

    serve::gauges::register(
        &metrics,
        Arc::clone(&table),
        watch.status(),
        Arc::clone(&issuers),
        shadow,
    );
    let mut tasks = Tasks::new();
    let rooms = AdmissionMetrics::register(&metrics);
    let ready = readiness.clone();
    let mut shown = Admin::new(metrics.clone())
        .ready_until(tasks.draining())
        .ready_when("grants", move || ready.obstacle().map_or(Ok(()), Err))
        .noting(shadow.then_some(SHADOW_NOTE))
        .shown(&rooms, "admin");
    if admin.is_local() {
        shown = shown.merge(serve::listing::routes(Arc::clone(&table)));
    }
    tasks.spawn("SIGHUP", hangups.run(nothing_to_reload, tasks.stopping()));
    let cuts = streams::Record::register(spans.clone(), &metrics);
    let leash = leash.build(Arc::clone(&table), &checking, cuts, tasks.stopping());
    let recorder = Recorder::reporting(spans, &metrics, reports.clone());
    let authorizer = Authorizer::new(Arc::clone(&table), Arc::clone(&issuers), checking, recorder);
    let health = serve::health::reporter().await;
    let routes = serve::routes::build(authorizer, leash, health.clone(), limits)?;

    for listener in listeners {
        let name = format!("listener {}", listener.address());
        tracing::info!("answering checks on {}", listener.address());
        // Away from the watch: applying a large snapshot must not make a check wait.
        let serving = listener
            .shown(&rooms)
            .serve(routes.clone(), tasks.stopping());
        tasks.spawn_thread(name, serving)?;
    }
    // On a thread of its own, too: whatever keeps the watch busy, probes are answered.
    tasks.spawn_thread(
        "admin listener",
        admin::serve(admin_listener, shown, tasks.stopping()),
    )?;
    tasks.spawn("reports", reports.run(table, tasks.stopping()));
    tasks.spawn("watch", watch.run(tasks.stopping()));
    tasks.spawn("issuers", issuers.run(tasks.stopping()));
    tasks.spawn("health", readiness.follow(health, tasks.stopping()));
    tasks.drain_until(stopped, drain).await
}

/// What whoever looks at readiness should not miss.
const SHADOW_NOTE: &str = "mode: shadow: nothing is refused";

fn nothing_to_reload() {
    tracing::info!(
        "SIGHUP: nothing to reload; certificates, keys and grants are followed as they change"
    );
}

/// What an operator may not have meant.
fn warn_of(checking: &Checking, issuers: &Issuers) {
    if checking.shadow.is_some() {
        tracing::warn!("--mode shadow: NOTHING IS REFUSED; what would have been is recorded");
    }
    issuers.announce();
    if issuers.is_empty() {
        tracing::info!(
            "no --issuers: callers are known by their mTLS identity alone, no token counts"
        );
    }
}
