//! The control plane: who may ask for what, and the store of what was granted.
//!
//! ```text
//! listen -> identify (caller) -> api -> plane: requests | grants | explain -> store (durable) -> fanout (visible) -> answer
//!                                        ^ apply: policies and standing grants      ^ expiry: what the clock has done
//! ```
//!
//! In reading order: [`plane`], [`requests`], [`grants`], [`extend`], [`suspend`], [`idempotency`], [`apply`], [`expiry`],
//! [`explain`]; below them [`store`],
//! [`audit`], [`policy`] and [`fanout`]; above them [`api`], [`caller`], [`entitle`], [`listen`] and [`config`].

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::server::{HealthReporter, health_reporter};

use crate::admin::{self, Admin};
use crate::clock::ControlClock;
use crate::issuers::Issuers;
use crate::runtime::{Outcome, Tasks};
use crate::telemetry::metrics::Metrics;
use crate::tls::{self, Incoming};
use crate::wire;
use crate::wire::v1::access_service_server::AccessServiceServer;
use crate::wire::v1::enforcer_service_server::EnforcerServiceServer;

pub mod api;
pub mod apply;
pub mod audit;
pub mod caller;
pub mod config;
pub mod entitle;
pub mod expiry;
pub mod explain;
pub mod extend;
pub mod fanout;
pub mod fault;
pub mod following;
pub mod grants;
pub mod idempotency;
pub mod listen;
pub mod listing;
pub mod metrics;
pub mod plane;
pub mod policy;
pub mod requests;
pub mod reviews;
pub mod store;
pub mod suspend;
pub mod waiting;

pub use config::ControlPlaneArgs;

use api::Api;
use caller::Callers;
use config::Plaintext;
use entitle::Entitlements;
use fanout::{Enforcer, Fanout, FanoutConfig};
use listen::Identify;
use metrics::{ControlMetrics, StoreMetrics};
use plane::Plane;
use policy::{PolicySet, Reloader};
use store::embedded::Embedded;
use store::{Clock, Store, StoreError, Writer};
use waiting::Waiting;

/// Runs the control plane until `until` completes or a part of it fails.
///
/// # Errors
/// One line that names what is wrong and the way out.
pub async fn run(args: ControlPlaneArgs, metrics: Metrics, until: impl Future<Output = ()>) -> Outcome {
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
    issuers: Arc<Issuers>,
    identify: Identify,
    entitlements: Entitlements,
    policies: (PathBuf, PolicySet),
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
        } = args;
        let plaintext = Plaintext { listen: &listen, http_listen: &http_listen, insecure };
        let by_certificate = tls_client_ca.is_some();
        let tls = config::tls(tls_cert, tls_key, tls_client_ca, plaintext)?;
        let issuers = Arc::new(issuers.load()?);
        let policies = config::policies(policies)?;
        let (grpc, http) = (admin::bind("--listen", listen).await?, admin::bind("--http-listen", http_listen).await?);
        let (grpc_address, http_address) = (grpc.local_addr()?, http.local_addr()?);
        let Opened { plane, writer, clock } = open(&data_dir, progress_interval, tombstone_keep, &metrics).await?;

        let encryption = if tls.is_some() { "TLS 1.3" } else { "plaintext" };
        tracing::info!(address = %grpc_address, encryption, "the gRPC API and the watch stream are here");
        tracing::info!(address = %http_address, "/livez, /readyz and /metrics are here");
        if issuers.is_empty() && !by_certificate {
            tracing::warn!("nobody can ask: pass --issuers to say whose tokens count");
        }
        let entitlements = Entitlements::new(entitle, tls.is_none() && tls::is_local(&listen));
        let identify = Identify::new(Callers::new(Arc::clone(&issuers), admin), clock);
        let grpc = match tls {
            Some(tls) => Incoming::tls(grpc, tls),
            None => Incoming::plain(grpc),
        };
        Ok(Self {
            plane,
            writer,
            grpc,
            grpc_address,
            http,
            http_address,
            issuers,
            identify,
            entitlements,
            policies,
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

    /// Serves until `until` completes or a part fails. Then streams are told to go, and the store is closed.
    ///
    /// # Errors
    /// One line that names the part that failed.
    pub async fn run(self, until: impl Future<Output = ()>) -> Outcome {
        let Self { plane, writer, grpc, http, issuers, identify, entitlements, policies, metrics, .. } = self;
        let (directory, set) = policies;
        let mut tasks = Tasks::new();
        let stop = tasks.stopping();
        tasks.spawn("the store's writer", writer.run(stop.clone()));
        let reloader = Reloader::new(&directory, &set);
        reloader.counts().register(&metrics);
        let applied = plane.apply(Arc::new(set)).await.context("the policies cannot be put in force")?;
        tracing::info!(directory = %directory.display(), %applied, "policies are in force");
        let (health, health_service) = health_reporter();
        let routes = routes(&plane, entitlements, stop.clone())?.add_service(health_service);
        tasks.spawn("the gRPC listener", listen::serve(grpc, routes, identify, stop.clone()));
        tasks.spawn("the health report", report_health(health, stop.clone()));
        tasks.spawn("the HTTP listener", admin::serve(http, shown(&plane, metrics), stop.clone()));
        tasks.spawn("the watch fan-out", Arc::clone(&plane.fanout).run(stop.clone()));
        tasks.spawn("the issuers' keys", issuers.run(stop.clone()));
        spawn_reloads(&mut tasks, reloader, plane.clone(), &stop);
        // The last handle on the store goes to a task: when all have ended, the store is closed.
        tasks.spawn("the sweeper", plane.sweep_until(stop));
        tasks.run_until(until).await
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
    let config = FanoutConfig { progress_interval, ..FanoutConfig::default() };
    let mirror = fanout::mirror::Mirror::new(opening.revision, opening.grants, &opening.history, config.changes_kept);
    let fanout = Arc::new(Fanout::on_clock(opening.epoch.to_string(), mirror, config, anchored));
    let waiting = Waiting::default();
    let (published, woken) = (Arc::clone(&fanout), waiting.clone());
    let writer = writer.measure(metrics.register(StoreMetrics::register)).publish(Box::new(move |committed| {
        published.publish(&committed.commit);
        woken.wake(&committed.requests);
    }));
    tracing::info!(directory = %data_dir.display(), epoch = %opening.epoch, revision = %opening.revision, "the store is open");
    let plane = Plane::new(store, fanout, waiting, metrics.register(ControlMetrics::register), tombstone_keep);
    Ok(Opened { plane, writer, clock })
}

fn routes(plane: &Plane, entitlements: Entitlements, stop: CancellationToken) -> anyhow::Result<Routes> {
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(wire::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    Ok(Routes::new(Api::new(plane.clone(), stop).into_service())
        .add_service(plane.fanout.service(Arc::new(entitlements)))
        .add_service(reflection))
}

/// SERVING until the control plane is asked to stop.
async fn report_health(health: HealthReporter, stop: CancellationToken) -> Outcome {
    health.set_serving::<AccessServiceServer<Api>>().await;
    health.set_serving::<EnforcerServiceServer<Enforcer>>().await;
    stop.cancelled().await;
    health.set_not_serving::<AccessServiceServer<Api>>().await;
    health.set_not_serving::<EnforcerServiceServer<Enforcer>>().await;
    health.set_service_status("", tonic_health::ServingStatus::NotServing).await;
    Ok(())
}

fn shown(plane: &Plane, metrics: Metrics) -> Admin {
    let usable = plane.usable();
    Admin::new(metrics).ready_when("store", move || {
        if usable.holds() { Ok(()) } else { Err(StoreError::Medium("see the log".to_owned()).to_string()) }
    })
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
            while let Err(fault) = plane.apply(Arc::clone(&set) as Arc<dyn plane::Rulings>).await {
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
