//! The control plane: who may ask for what, and the store of what was granted.
//!
//! ```text
//! listen -> identify (caller) -> api -> plane: requests | grants | explain -> store (durable) -> fanout (visible) -> answer
//!                                        ^ apply: policies and standing grants      ^ expiry: what the clock has done
//! ```
//!
//! In reading order: [`plane`], [`requests`], [`grants`], [`extend`], [`suspend`], [`idempotency`], [`apply`], [`policies`],
//! [`expiry`], [`unused`], [`explain`]; below them [`store`],
//! [`audit`], [`policy`] and [`fanout`]; above them [`api`], [`caller`], [`entitle`], [`listen`] and [`config`].

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::server::{HealthReporter, health_reporter};

use crate::admin::{self, Admin};
use crate::admission::AdmissionMetrics;
use crate::clock::ControlClock;
use crate::jose::issuers::Issuers;
use crate::runtime::{self, DrainArgs, Hangups, Outcome, Tasks};
use crate::telemetry::metrics::Metrics;
use crate::tls::{self, Incoming};
use crate::wire;
use crate::wire::v1::access_service_server::AccessServiceServer;
use crate::wire::v1::enforcer_service_server::EnforcerServiceServer;

pub(crate) mod api;
pub(crate) mod config;
pub(crate) mod fanout;
pub(crate) mod keys;
pub(crate) mod lifecycle;
pub(crate) mod metrics;
pub(crate) mod policies;
pub(crate) mod policy;
pub(crate) mod query;
pub(crate) mod store;
pub(crate) mod tokens;

pub use config::ControlPlaneArgs;
pub use query::audit::verify_directory;

/// Policies as files: what the command line checks and tests without a control plane.
pub mod documents {
    pub use super::policy::fixture::{Ran, Tested, test};
    pub use super::policy::{Problem, Report, Severity, check, examine, files};
}

use api::Api;
use api::entitle::Entitlements;
use api::listen::Identify;
use config::Plaintext;
use fanout::{Enforcer, Fanout, FanoutConfig};
use keys::TokenKeys;
use lifecycle::caller::Callers;
use lifecycle::notify::Waiting;
use lifecycle::plane::Plane;
use metrics::{ControlMetrics, StoreMetrics};
use policies::Sources;
use policy::{PolicySet, Reloader};
use query::usage::{Usage, UsageArgs};
use store::embedded::Embedded;
use store::{Clock, Store, StoreError, Writer};
use tokens::TokenApi;

/// Runs the control plane until `until` completes or a part of it fails.
///
/// # Errors
/// One line that names what is wrong and the way out.
pub async fn run(
    args: ControlPlaneArgs,
    metrics: Metrics,
    until: impl Future<Output = ()>,
) -> Outcome {
    ControlPlane::bind(args, metrics).await?.run(until).await
}

/// A control plane that holds its store and its addresses, and serves nobody yet.
#[derive(Debug)]
pub struct ControlPlane {
    plane: Plane,
    writer: Writer,
    grpc: Incoming,
    grpc_address: SocketAddr,
    http: TcpListener,
    http_address: SocketAddr,
    probes: Option<TcpListener>,
    probe_address: Option<SocketAddr>,
    issuers: Arc<Issuers>,
    keys: Arc<TokenKeys>,
    identify: Identify,
    entitlements: Entitlements,
    policies: PolicySet,
    uses: UsageArgs,
    drain: DrainArgs,
    hangups: Hangups,
    rooms: AdmissionMetrics,
    metrics: Metrics,
}

impl ControlPlane {
    /// Checks what was configured, binds the listeners, opens the store, and says where it is.
    ///
    /// # Errors
    /// One line that names what is wrong and the way out.
    pub async fn bind(args: ControlPlaneArgs, metrics: Metrics) -> anyhow::Result<Self> {
        let ControlPlaneArgs {
            listen,
            http_listen,
            probe_listen,
            data_dir,
            policies,
            issuers,
            admin,
            entitle,
            tls_cert,
            tls_key,
            tls_client_ca,
            insecure,
            progress_interval,
            tombstone_keep,
            tokens,
            uses,
            drain,
        } = args;
        let hangups = runtime::hangups()?;
        tokens.check()?;
        let plaintext = Plaintext {
            listen: &listen,
            http_listen: &http_listen,
            insecure,
        };
        let by_certificate = tls_client_ca.is_some();
        let tls = config::tls(tls_cert, tls_key, tls_client_ca, plaintext)?;
        let issuers = Arc::new(issuers.load()?);
        let (directory, _) = config::policies(policies)?;
        let (grpc, http) = (
            admin::bind("--listen", listen)?,
            admin::bind("--http-listen", http_listen)?,
        );
        let probes = config::bind_probes(probe_listen)?;
        let (grpc_address, http_address) = (grpc.local_addr()?, http.local_addr()?);
        let Opened {
            plane,
            writer,
            clock,
        } = open(&data_dir, progress_interval, tombstone_keep, &metrics).await?;
        let plane = plane.with_sources(Sources::new(&directory));
        let policies = plane
            .declared()
            .await?
            .map_err(|problems| config::refused(&directory, &problems))?;
        policies
            .warnings()
            .iter()
            .for_each(|warning| tracing::warn!("{warning}"));

        let probe_address = match &probes {
            Some(listener) => Some(listener.local_addr()?),
            None => None,
        };
        announce(grpc_address, tls.is_some(), http_address, probe_address);
        issuers.announce();
        if issuers.is_empty() && !by_certificate {
            tracing::warn!("nobody can ask: pass --issuers to say whose tokens count");
        }
        let keys = Arc::new(TokenKeys::new(
            plane.store.clone(),
            Arc::clone(&plane.fanout),
            tokens,
        ));
        let entitlements = Entitlements::new(entitle, tls.is_none() && tls::is_local(&listen));
        let identify = Identify::new(Callers::new(Arc::clone(&issuers), admin), clock);
        let rooms = AdmissionMetrics::register(&metrics);
        plane.fanout.show(&rooms);
        let grpc = match tls {
            Some(tls) => Incoming::tls(grpc, tls),
            None => Incoming::plain(grpc),
        };
        let grpc = grpc.shown(&rooms, "grpc");
        Ok(Self {
            plane,
            writer,
            grpc,
            grpc_address,
            http,
            http_address,
            probes,
            probe_address,
            issuers,
            keys,
            identify,
            entitlements,
            policies,
            uses,
            drain,
            hangups,
            rooms,
            metrics,
        })
    }

    /// Where the gRPC API is.
    pub fn grpc_address(&self) -> SocketAddr {
        self.grpc_address
    }

    /// Where `/livez`, `/readyz` and `/metrics` are.
    pub fn http_address(&self) -> SocketAddr {
        self.http_address
    }

    /// Where the same are, and nothing else; `None`: nowhere.
    pub fn probe_address(&self) -> Option<SocketAddr> {
        self.probe_address
    }

    /// Serves until `until` completes or a part fails. Then streams are told to go, and the store is closed.
    ///
    /// # Errors
    /// One line that names the part that failed.
    pub async fn run(self, until: impl Future<Output = ()>) -> Outcome {
        let Self {
            plane,
            writer,
            grpc,
            http,
            probes,
            issuers,
            keys,
            identify,
            entitlements,
            policies,
            uses,
            drain,
            hangups,
            rooms,
            metrics,
            ..
        } = self;
        let mut tasks = Tasks::new();
        let (draining, stop) = (tasks.draining(), tasks.stopping());
        tasks.spawn("SIGHUP", hangups.run(nothing_to_reload, stop.clone()));
        tasks.spawn("the store's writer", writer.run(stop.clone()));
        spawn_records(&mut tasks, &plane, uses, &stop);
        let reloader = plane.sources.reloader(&policies);
        reloader.counts().register(&metrics);
        keys.rotate_due()
            .await
            .context("the token keys cannot be used")?;
        let applied = plane
            .apply(Arc::new(policies))
            .await
            .context("the policies cannot be put in force")?;
        tracing::info!(directory = %plane.sources.directory().display(), %applied, "policies are in force");
        let (health, health_service) = health_reporter();
        let tokens = TokenApi::new(
            Api::new(plane.clone(), stop.clone()),
            Arc::clone(&keys),
            Arc::clone(&issuers),
        );
        let routes = routes(&plane, entitlements, stop.clone())?
            .add_service(tokens.into_service())
            .add_service(health_service);
        tasks.spawn(
            "the gRPC listener",
            api::listen::serve(grpc, routes, identify, stop.clone()),
        );
        tasks.spawn(
            "the health report",
            report_health(health, draining.clone(), stop.clone()),
        );
        if let Some(probes) = probes {
            let shown = shown(&plane, &metrics, &draining).shown(&rooms, "probes");
            // On a thread of its own: whatever keeps the others busy, probes are answered.
            tasks.spawn_thread(
                "the probe listener",
                admin::serve(probes, shown, stop.clone()),
            )?;
        }
        let shown = shown(&plane, &metrics, &draining)
            .shown(&rooms, "http")
            .merge(keys::jwks::route(Arc::clone(&keys)));
        tasks.spawn("the HTTP listener", admin::serve(http, shown, stop.clone()));
        tasks.spawn(
            "the watch fan-out",
            Arc::clone(&plane.fanout).run(stop.clone()),
        );
        tasks.spawn("the issuers' keys", issuers.run(stop.clone()));
        tasks.spawn("the token keys", keys.run(stop.clone()));
        spawn_reloads(&mut tasks, reloader, plane.clone(), &stop);
        // The last handle on the store goes to a task: when all have ended, the store is closed.
        tasks.spawn("the sweeper", plane.sweep_until(stop));
        tasks.drain_until(until, drain).await
    }
}

fn announce(grpc: SocketAddr, tls: bool, http: SocketAddr, probes: Option<SocketAddr>) {
    let encryption = if tls { "TLS 1.3" } else { "plaintext" };
    tracing::info!(address = %grpc, encryption, "the gRPC API and the watch stream are here");
    tracing::info!(address = %http, "/livez, /readyz, /metrics and /.well-known/jwks.json are here");
    if let Some(address) = probes {
        tracing::info!(%address, "/livez, /readyz and /metrics alone are here");
    }
}

struct Opened {
    plane: Plane,
    writer: Writer,
    clock: Clock,
}

/// The store of a directory, and everything that follows it.
async fn open(
    data_dir: &Path,
    progress_interval: Duration,
    tombstone_keep: Duration,
    metrics: &Metrics,
) -> anyhow::Result<Opened> {
    let directory = data_dir.to_owned();
    let engine = tokio::task::spawn_blocking(move || Embedded::open(&directory)).await??;
    let named = || format!("the store in {} cannot be used", data_dir.display());
    let anchored = ControlClock::anchored(store::opening::recorded(&engine).with_context(named)?);
    let clock: Clock = Arc::new(move || anchored.now());
    let (store, writer, opening) = Store::open(engine, Arc::clone(&clock)).with_context(named)?;
    let config = FanoutConfig {
        progress_interval,
        ..FanoutConfig::default()
    };
    let cache = fanout::cache::GrantCache::new(
        opening.revision,
        opening.grants,
        &opening.history,
        config.changes_kept,
    );
    let fanout = Arc::new(Fanout::on_clock(
        opening.epoch.to_string(),
        cache,
        config,
        anchored,
    ));
    let waiting = Waiting::default();
    let (published, woken) = (Arc::clone(&fanout), waiting.clone());
    let writer = writer
        .measure(metrics.register(StoreMetrics::register))
        .publish(Box::new(move |committed| {
            published.publish(&committed.commit);
            woken.wake(&committed.requests);
        }));
    tracing::info!(directory = %data_dir.display(), epoch = %opening.epoch, revision = %opening.revision, "the store is open");
    let plane = Plane::new(
        store,
        fanout,
        waiting,
        metrics.register(ControlMetrics::register),
        tombstone_keep,
    );
    Ok(Opened {
        plane,
        writer,
        clock,
    })
}

fn routes(
    plane: &Plane,
    entitlements: Entitlements,
    stop: CancellationToken,
) -> anyhow::Result<Routes> {
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(wire::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let api = Api::new(plane.clone(), stop);
    Ok(Routes::new(api.clone().into_service())
        .add_service(api.clone().into_policy_service())
        .add_service(api.into_audit_service())
        .add_service(plane.fanout.service(Arc::new(entitlements)))
        .add_service(reflection))
}

/// SERVING until the control plane is asked to stop; while it drains, nothing new should come.
async fn report_health(
    health: HealthReporter,
    draining: CancellationToken,
    stop: CancellationToken,
) -> Outcome {
    health.set_serving::<AccessServiceServer<Api>>().await;
    health
        .set_serving::<EnforcerServiceServer<Enforcer>>()
        .await;
    draining.cancelled().await;
    health.set_not_serving::<AccessServiceServer<Api>>().await;
    health
        .set_not_serving::<EnforcerServiceServer<Enforcer>>()
        .await;
    health
        .set_service_status("", tonic_health::ServingStatus::NotServing)
        .await;
    stop.cancelled().await;
    Ok(())
}

fn nothing_to_reload() {
    tracing::info!(
        "SIGHUP: nothing to reload; policies, certificates and keys are followed as they change"
    );
}

/// What probes and scrapers are shown.
fn shown(plane: &Plane, metrics: &Metrics, draining: &CancellationToken) -> Admin {
    let usable = plane.usable();
    Admin::new(metrics.clone())
        .ready_until(draining.clone())
        .ready_when("store", move || {
            if usable.holds() {
                Ok(())
            } else {
                Err(StoreError::Medium("see the log".to_owned()).to_string())
            }
        })
}

/// What is remembered beside the grants themselves: the audit chain, looked at once, and what sidecars decide.
fn spawn_records(tasks: &mut Tasks, plane: &Plane, args: UsageArgs, stop: &CancellationToken) {
    tasks.spawn(
        "the look at the audit chain",
        plane.clone().look_at_audit_chain(stop.clone()),
    );
    if let Some((intake, uses)) = Usage::new(args, &plane.metrics) {
        plane.fanout.take_decisions(intake);
        tasks.spawn(
            "the record of decisions",
            uses.run(plane.store.clone(), stop.clone()),
        );
    }
}

/// The newest good set wins; one that cannot be put in force now is tried again with the next change of the store.
fn spawn_reloads(tasks: &mut Tasks, reloader: Reloader, plane: Plane, stop: &CancellationToken) {
    let (newest, mut changed) = watch::channel::<Option<Arc<PolicySet>>>(None);
    let loaded = move |set| drop(newest.send_replace(Some(Arc::new(set))));
    tasks.spawn("the policy directory", reloader.run(stop.clone(), loaded));
    let stop = stop.clone();
    tasks.spawn("policies in force", async move {
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Ok(()) = changed.changed() => {}
            }
            let newest = changed.borrow_and_update().clone();
            let Some(set) = newest else { continue };
            while let Err(fault) = plane.follow(Arc::clone(&set)).await {
                if fault.kind == lifecycle::fault::FaultKind::Invalid {
                    // Read again with the next look at the directory, which then says so in full.
                    tracing::error!(%fault, "the changed policies do not go together with what is applied");
                    break;
                }
                tracing::error!(%fault, "the changed policies are not in force yet; trying again");
                tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    () = tokio::time::sleep(Duration::from_secs(1)) => {}
                }
            }
        }
    });
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
