//! The way out for finished spans: a bounded queue that never makes a decision wait, and one thread that exports it.
//!
//! Every span pushed ends in exactly one count: exported, failed (the collector did not take it) or dropped (no room).

mod export;
mod queue;
#[cfg(test)]
pub(super) mod tests;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use opentelemetry_sdk::trace::SpanExporter;

use super::metrics::Metrics;
use super::names;
use super::sampler::Sampler;
use super::span::SpanRecord;

pub(crate) use queue::Batching;
pub(crate) use queue::Counts;
use queue::{Finished, Queue, QueueProcessor, Tally};

/// The handle that the decision path holds. Clones share one queue.
#[derive(Debug, Clone, Default)]
pub struct Spans {
    queue: Option<Arc<Queue>>,
    sampler: Sampler,
}

impl Spans {
    /// Starts the exporting thread on `runtime`, which must be a current-thread runtime of its own.
    pub(super) fn start<E: SpanExporter + 'static>(
        exporter: E,
        batching: Batching,
        sampler: Sampler,
        runtime: tokio::runtime::Runtime,
    ) -> std::io::Result<Self> {
        let queue = Arc::new(Queue::new(batching));
        let worker = Arc::clone(&queue);
        std::thread::Builder::new()
            .name("spans".to_owned())
            .spawn(move || {
                // The guard reports the end even if the thread panics: shutdown must not wait for a dead exporter.
                let _ended = worker.ended.clone().drop_guard();
                runtime.block_on(export::run(&worker, Arc::new(exporter)));
            })?;
        Ok(Self {
            queue: Some(queue),
            sampler,
        })
    }

    /// Queues a finished span; counts it as dropped when the queue is full. Never waits.
    pub fn push(&self, span: SpanRecord) {
        if let Some(queue) = &self.queue {
            queue.push(Finished::Record(Box::new(span)));
        }
    }

    /// False when no exporter is configured: then no span need be built.
    pub fn enabled(&self) -> bool {
        self.queue.is_some()
    }

    /// The configured sampler.
    pub fn sampler(&self) -> Sampler {
        self.sampler
    }

    /// Spans exported, failed and dropped so far.
    pub fn counts(&self) -> Counts {
        self.queue
            .as_ref()
            .map_or(Counts::default(), |queue| queue.tally.counts())
    }

    /// Shows the three counts on `/metrics`.
    pub fn register(&self, metrics: &Metrics) {
        let Tally {
            exported,
            failed,
            dropped,
        } = self
            .queue
            .as_ref()
            .map_or_else(Tally::default, |queue| queue.tally.clone());
        metrics.register(|registry| {
            registry.register(
                names::SPANS_EXPORTED,
                "Spans that the collector took",
                exported,
            );
            registry.register(names::SPANS_FAILED, "Spans whose export failed", failed);
            registry.register(
                names::SPANS_DROPPED,
                "Spans dropped because the queue was full",
                dropped,
            );
        });
    }

    /// Exports what is queued and ends the thread. Later spans are dropped and counted.
    ///
    /// # Errors
    /// [`Unsent`] when the collector has not taken everything within `deadline`.
    pub async fn shutdown(&self, deadline: Duration) -> Result<(), Unsent> {
        let Some(queue) = &self.queue else {
            return Ok(());
        };
        queue.closing.store(true, Ordering::SeqCst);
        queue.wake.notify_one();
        if tokio::time::timeout(deadline, queue.ended.cancelled())
            .await
            .is_ok()
        {
            return Ok(());
        }
        Err(Unsent {
            spans: queue.spans.len() + queue.flying.load(Ordering::SeqCst),
            deadline,
        })
    }

    /// For the OpenTelemetry SDK: spans of the control plane leave through the same queue.
    pub(super) fn processor(&self) -> Option<QueueProcessor> {
        self.queue.clone().map(QueueProcessor)
    }
}

/// Spans left at shutdown.
#[derive(Debug, thiserror::Error)]
#[error("{spans} spans were not exported within {deadline:?}: is the collector reachable?")]
pub struct Unsent {
    /// Queued or in flight.
    pub spans: usize,
    /// How long was waited.
    pub deadline: Duration,
}
