//! The way out for finished spans: a bounded queue that never makes a decision wait, and one thread that exports it.
//!
//! Every span pushed ends in exactly one count: exported, failed (the collector did not take it) or dropped (no room).

mod export;
#[cfg(test)]
pub(super) mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter, SpanProcessor};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::metrics::Metrics;
use super::names;
use super::sampler::Sampler;
use super::span::SpanRecord;

/// How spans leave: the `OTEL_BSP_*` settings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Batching {
    /// Spans held while the collector is busy; more are dropped and counted.
    pub queue: usize,
    /// Spans in one export at most.
    pub batch: usize,
    /// How long a span waits for others.
    pub delay: Duration,
    /// How long one export may take, retries included.
    pub timeout: Duration,
    /// Exports in flight at most.
    pub flights: usize,
}

impl Default for Batching {
    /// Larger than the specification's 2,048 and 512: those lose half of 20,000 spans a second to a collector that
    /// answers in 50 ms. And a second's delay instead of five.
    fn default() -> Self {
        Self {
            queue: 16_384,
            batch: 2_048,
            delay: Duration::from_secs(1),
            timeout: Duration::from_secs(30),
            flights: 8,
        }
    }
}

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

/// What became of the spans so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// The collector took them.
    pub exported: u64,
    /// Their export failed.
    pub failed: u64,
    /// There was no room.
    pub dropped: u64,
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

/// A span in the queue. Boxed, so that an empty queue is small.
#[derive(Debug)]
enum Finished {
    Record(Box<SpanRecord>),
    Sdk(Box<SpanData>),
}

/// The counters themselves; clones share them.
#[derive(Debug, Clone, Default)]
struct Tally {
    exported: Counter,
    failed: Counter,
    dropped: Counter,
}

impl Tally {
    fn counts(&self) -> Counts {
        Counts {
            exported: self.exported.get(),
            failed: self.failed.get(),
            dropped: self.dropped.get(),
        }
    }
}

/// Shared by those who push and the one who exports.
#[derive(Debug)]
struct Queue {
    spans: ArrayQueue<Finished>,
    batching: Batching,
    /// The length at which a push wakes the exporter; 0 while it is awake.
    wake_at: AtomicUsize,
    wake: Notify,
    closing: AtomicBool,
    ended: CancellationToken,
    flying: AtomicUsize,
    tally: Tally,
}

impl Queue {
    fn new(batching: Batching) -> Self {
        let batch = batching.batch.clamp(1, batching.queue.max(1));
        Self {
            spans: ArrayQueue::new(batching.queue.max(1)),
            batching: Batching {
                batch,
                flights: batching.flights.max(1),
                ..batching
            },
            wake_at: AtomicUsize::new(0),
            wake: Notify::new(),
            closing: AtomicBool::new(false),
            ended: CancellationToken::new(),
            flying: AtomicUsize::new(0),
            tally: Tally::default(),
        }
    }

    fn push(&self, span: Finished) {
        if self.closing.load(Ordering::Relaxed) || self.spans.push(span).is_err() {
            self.tally.dropped.inc();
            return;
        }
        let wake_at = self.wake_at.load(Ordering::SeqCst);
        if wake_at != 0
            && self.spans.len() >= wake_at
            && self.wake_at.swap(0, Ordering::SeqCst) != 0
        {
            self.wake.notify_one();
        }
    }
}

/// Hands finished SDK spans to the queue.
#[derive(Debug)]
pub(super) struct QueueProcessor(Arc<Queue>);

impl SpanProcessor for QueueProcessor {
    fn on_start(&self, _span: &mut Span, _cx: &opentelemetry::Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() {
            self.0.push(Finished::Sdk(Box::new(span)));
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }
}
