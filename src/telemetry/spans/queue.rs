//! The queue of finished spans, shared by those who push and the one who exports.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::telemetry::span::SpanRecord;

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

/// A span in the queue. Boxed, so that an empty queue is small.
#[derive(Debug)]
pub(super) enum Finished {
    Record(Box<SpanRecord>),
    Sdk(Box<SpanData>),
}

/// The counters themselves; clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    pub(super) exported: Counter,
    pub(super) failed: Counter,
    pub(super) dropped: Counter,
}

impl Tally {
    pub(super) fn counts(&self) -> Counts {
        Counts {
            exported: self.exported.get(),
            failed: self.failed.get(),
            dropped: self.dropped.get(),
        }
    }
}

/// Shared by those who push and the one who exports.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) spans: ArrayQueue<Finished>,
    pub(super) batching: Batching,
    /// The length at which a push wakes the exporter; 0 while it is awake.
    pub(super) wake_at: AtomicUsize,
    pub(super) wake: Notify,
    pub(super) closing: AtomicBool,
    pub(super) ended: CancellationToken,
    pub(super) flying: AtomicUsize,
    pub(super) tally: Tally,
}

impl Queue {
    pub(super) fn new(batching: Batching) -> Self {
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

    pub(super) fn push(&self, span: Finished) {
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
pub(in crate::telemetry) struct QueueProcessor(pub(super) Arc<Queue>);

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
