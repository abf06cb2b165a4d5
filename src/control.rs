//! The control plane: who may ask for what, and the store of what was granted.
//!
//! ```text
//! api (listen, identify, parse) -> lifecycle: requests | reviews | grants -> store (durable) -> fanout (visible) -> answer
//!                                  query: lists, explanations                 sweeper: what the clock has done
//!                                  policies: what is in force
//! ```
//!
//! In reading order: [`store`], [`fanout`] and beside them [`policy`]; [`lifecycle`] upon these; [`query`], [`policies`] and
//! [`keys`]; [`tokens`]; [`api`]. Each knows what stands before it, and nothing after it. This file, with `config`, `open`
//! and `probes`, puts them together: [`run`] binds, spawns and waits.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic_health::server::health_reporter;

use crate::admin;
use crate::admission::AdmissionMetrics;
use crate::jose::issuers::Issuers;
use crate::runtime::{self, DrainArgs, Hangups, Outcome, Tasks};
use crate::telemetry::metrics::Metrics;
use crate::tls::{self, Incoming};

pub(crate) mod api;
mod config;
pub(crate) mod fanout;
pub(crate) mod keys;
pub(crate) mod lifecycle;
pub(crate) mod metrics;
mod open;
pub(crate) mod policies;
pub(crate) mod policy;
mod probes;
pub(crate) mod query;
pub(crate) mod store;
pub(crate) mod tokens;

pub use config::ControlPlaneArgs;
pub use store::chain::verify_directory;

/// Policies as files: what the command line checks and tests without a control plane.
pub mod documents {
    pub use super::policy::fixture::{Ran, Tested, test};
    pub use super::policy::{Problem, Report, Severity, check, examine, files};
}

use api::entitle::Entitlements;
use api::listen::{self, Identify};
use api::routes;
use config::Plaintext;
use keys::TokenKeys;
use lifecycle::caller::Callers;
use lifecycle::plane::Plane;
use open::{Opened, open};
use policy::{PolicySet, Sources};
use query::usage::{Usage, UsageArgs};
use store::Writer;

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
        let grpc = admin::bind("--listen", listen)?;
        let http = admin::bind("--http-listen", http_listen)?;
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
            plane.store().clone(),
            Arc::clone(plane.fanout()),
            tokens,
        ));
        let entitlements = Entitlements::new(entitle, tls.is_none() && tls::is_local(&listen));
        let identify = Identify::new(Callers::new(Arc::clone(&issuers), admin), clock);
        let rooms = AdmissionMetrics::register(&metrics);
        plane.fanout().show(&rooms);
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
        tasks.spawn(
            "the look at the audit chain",
            plane.clone().look_at_audit_chain(stop.clone()),
        );
        if let Some((intake, uses)) = Usage::new(uses, plane.metrics()) {
            plane.fanout().take_decisions(intake);
            let store = plane.store().clone();
            tasks.spawn("the record of decisions", uses.run(store, stop.clone()));
        }
        let reloader = plane.sources().reloader(&policies);
        reloader.counts().register(&metrics);
        keys.rotate_due()
            .await
            .context("the token keys cannot be used")?;
        let applied = plane
            .apply(Arc::new(policies))
            .await
            .context("the policies cannot be put in force")?;
        tracing::info!(directory = %plane.sources().directory().display(), %applied, "policies are in force");
        let (health, health_service) = health_reporter();
        let routes = routes::build(&plane, entitlements, &keys, &issuers, &stop)?
            .add_service(health_service);
        tasks.spawn(
            "the gRPC listener",
            listen::serve(grpc, routes, identify, stop.clone()),
        );
        tasks.spawn(
            "the health report",
            routes::report_health(health, draining.clone(), stop.clone()),
        );
        if let Some(probes) = probes {
            let shown = probes::shown(&plane, &metrics, &draining).shown(&rooms, "probes");
            // On a thread of its own: whatever keeps the others busy, probes are answered.
            tasks.spawn_thread(
                "the probe listener",
                admin::serve(probes, shown, stop.clone()),
            )?;
        }
        let shown = probes::shown(&plane, &metrics, &draining)
            .shown(&rooms, "http")
            .merge(keys::jwks::route(Arc::clone(&keys)));
        tasks.spawn("the HTTP listener", admin::serve(http, shown, stop.clone()));
        tasks.spawn(
            "the watch fan-out",
            Arc::clone(plane.fanout()).run(stop.clone()),
        );
        tasks.spawn("the issuers' keys", issuers.run(stop.clone()));
        tasks.spawn("the token keys", keys.run(stop.clone()));
        let (newest, changed) = watch::channel(None);
        let loaded = move |set| drop(newest.send_replace(Some(Arc::new(set))));
        tasks.spawn("the policy directory", reloader.run(stop.clone(), loaded));
        tasks.spawn(
            "policies in force",
            policies::reload::run(plane.clone(), changed, stop.clone()),
        );
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

fn nothing_to_reload() {
    tracing::info!(
        "SIGHUP: nothing to reload; policies, certificates and keys are followed as they change"
    );
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
