//! From a data directory to a control plane without listeners: the store, and everything that follows it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use super::fanout::cache::GrantCache;
use super::fanout::{Fanout, FanoutConfig};
use super::lifecycle::notify::Waiting;
use super::lifecycle::plane::Plane;
use super::metrics::{ControlMetrics, StoreMetrics};
use super::store::embedded::Embedded;
use super::store::{self, Clock, Store, Writer};
use crate::clock::ControlClock;
use crate::telemetry::metrics::Metrics;

pub(super) struct Opened {
    pub(super) plane: Plane,
    pub(super) writer: Writer,
    pub(super) clock: Clock,
}

/// The store of a directory, and everything that follows it.
pub(super) async fn open(
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
    let cache = GrantCache::new(
        opening.revision,
        opening.entries,
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
