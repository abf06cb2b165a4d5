//! The exporting end of the queue: gathers batches, keeps several exports in flight, settles the count of each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use opentelemetry::trace::{Link, SpanId, SpanKind, Status};
use opentelemetry::{InstrumentationScope, Key, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanExporter, SpanLinks};
use tokio::task::JoinSet;

use super::queue::{Finished, Queue};
use crate::telemetry::span::{SpanRecord, Text, Value};

/// Exports until the queue is closing and empty, and the last export has been answered.
pub(super) async fn run<E: SpanExporter + 'static>(queue: &Arc<Queue>, exporter: Arc<E>) {
    let mut flights = Flights {
        queue,
        exporter,
        scope: scope(),
        failing: Arc::default(),
        set: JoinSet::new(),
    };
    loop {
        let floor = queue.gather().await;
        while queue.spans.len() >= floor {
            flights.launch().await;
        }
        if queue.closing.load(Ordering::SeqCst) && queue.spans.is_empty() {
            break;
        }
    }
    while flights.set.join_next().await.is_some() {}
    // Whoever pushed while the door was closing: counted, not forgotten.
    while queue.spans.pop().is_some() {
        queue.tally.dropped.inc();
    }
}

impl Queue {
    /// Waits for a full batch, or for the oldest span to have waited long enough. Answers how many spans are worth an
    /// export now: a whole batch, or any.
    async fn gather(&self) -> usize {
        while self.spans.is_empty() && !self.closing.load(Ordering::SeqCst) {
            self.wake_at.store(1, Ordering::SeqCst);
            if self.spans.is_empty() && !self.closing.load(Ordering::SeqCst) {
                self.wake.notified().await;
            }
        }
        let full = self.batching.batch;
        let wait = async {
            while self.spans.len() < full && !self.closing.load(Ordering::SeqCst) {
                self.wake_at.store(full, Ordering::SeqCst);
                self.wake.notified().await;
            }
        };
        let in_time = tokio::time::timeout(self.batching.delay, wait)
            .await
            .is_ok();
        self.wake_at.store(0, Ordering::SeqCst);
        if in_time && !self.closing.load(Ordering::SeqCst) {
            full
        } else {
            1
        }
    }
}

struct Flights<'a, E> {
    queue: &'a Arc<Queue>,
    exporter: Arc<E>,
    scope: InstrumentationScope,
    failing: Arc<AtomicBool>,
    set: JoinSet<()>,
}

impl<E: SpanExporter + 'static> Flights<'_, E> {
    /// Takes one batch off the queue and sends it; waits while too many are under way.
    async fn launch(&mut self) {
        while self.set.try_join_next().is_some() {}
        while self.set.len() >= self.queue.batching.flights {
            self.set.join_next().await;
        }
        let batch: Vec<SpanData> = std::iter::from_fn(|| self.queue.spans.pop())
            .take(self.queue.batching.batch)
            .map(|span| span.into_otel(&self.scope))
            .collect();
        let flight = Flight::new(Arc::clone(self.queue), batch.len());
        let (exporter, failing) = (Arc::clone(&self.exporter), Arc::clone(&self.failing));
        self.set.spawn(async move {
            let timeout = flight.queue.batching.timeout;
            let outcome = match tokio::time::timeout(timeout, exporter.export(batch)).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!("no answer within {timeout:?}")),
            };
            report(&outcome, &failing, flight.spans);
            flight.settle(outcome.is_ok());
        });
    }
}

/// Says when exporting begins to fail and when it works again, not for each batch.
fn report(outcome: &Result<(), String>, failing: &AtomicBool, spans: usize) {
    match outcome {
        Ok(()) if failing.swap(false, Ordering::Relaxed) => {
            tracing::info!("spans are exported again")
        }
        Err(error) if !failing.swap(true, Ordering::Relaxed) => {
            tracing::warn!(
                spans,
                error,
                "spans are lost: check OTEL_EXPORTER_OTLP_ENDPOINT and the collector there"
            );
        }
        Ok(()) | Err(_) => {}
    }
}

/// One batch under way. Counted as failed unless settled otherwise, so that not even a panic loses count.
struct Flight {
    queue: Arc<Queue>,
    spans: usize,
    taken: bool,
}

impl Flight {
    fn new(queue: Arc<Queue>, spans: usize) -> Self {
        queue.flying.fetch_add(spans, Ordering::SeqCst);
        Self {
            queue,
            spans,
            taken: false,
        }
    }

    fn settle(mut self, taken: bool) {
        self.taken = taken;
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let tally = &self.queue.tally;
        let counter = if self.taken {
            &tally.exported
        } else {
            &tally.failed
        };
        counter.inc_by(u64::try_from(self.spans).unwrap_or(u64::MAX));
        self.queue.flying.fetch_sub(self.spans, Ordering::SeqCst);
    }
}

fn scope() -> InstrumentationScope {
    InstrumentationScope::builder("jitgate")
        .with_version(env!("CARGO_PKG_VERSION"))
        .build()
}

impl Finished {
    fn into_otel(self, scope: &InstrumentationScope) -> SpanData {
        match self {
            Self::Record(record) => from_record(*record, scope),
            Self::Sdk(span) => *span,
        }
    }
}

fn from_record(record: SpanRecord, scope: &InstrumentationScope) -> SpanData {
    let SpanRecord {
        name,
        context,
        parent,
        start,
        end,
        attributes,
        link,
        error,
    } = record;
    let mut links = SpanLinks::default();
    links
        .links
        .extend(link.map(|link| Link::with_context(link.to_otel(true))));
    SpanData {
        span_context: context.to_otel(false),
        parent_span_id: parent.map_or(SpanId::INVALID, SpanId::from_bytes),
        parent_span_is_remote: parent.is_some(),
        span_kind: SpanKind::Server,
        name: name.into(),
        start_time: start.to_system(),
        end_time: end.to_system(),
        attributes: attributes
            .into_iter()
            .map(|(key, value)| attribute(key, value))
            .collect(),
        dropped_attributes_count: 0,
        events: Default::default(),
        links,
        status: error.map_or(Status::Unset, Status::error),
        instrumentation_scope: scope.clone(),
    }
}

fn attribute(key: &'static str, value: Value) -> KeyValue {
    let value = match value {
        Value::Text(Text::Cow(text)) => opentelemetry::Value::from(text),
        Value::Text(Text::Shared(text)) => opentelemetry::Value::String(text.into()),
        Value::Int(number) => number.into(),
        Value::Bool(truth) => truth.into(),
    };
    KeyValue::new(Key::from_static_str(key), value)
}
