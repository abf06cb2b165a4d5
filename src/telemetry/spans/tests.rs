use std::sync::Mutex;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span as OtlpSpan;
use opentelemetry_sdk::error::OTelSdkError;
use smallvec::smallvec;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use std::sync::atomic::AtomicBool;

use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::SpanData;

use super::*;
use crate::model::time::Timestamp;
use crate::telemetry::otlp::OtelArgs;
use crate::telemetry::span::{SpanContext, Text, Value};

const PLENTY: Duration = Duration::from_secs(30);

fn span(number: i64) -> SpanRecord {
    SpanRecord {
        name: names::SPAN_CHECK,
        context: SpanContext::root(true),
        parent: Some([7; 8]),
        start: Timestamp::from_micros(1_000_000),
        end: Timestamp::from_micros(1_000_250),
        attributes: smallvec![
            (names::TABLE_REVISION, Value::Int(number)),
            (names::SHADOW, Value::Bool(false)),
            (names::DECISION, Value::Text(Text::Cow("allow".into()))),
            (
                names::PRINCIPAL,
                Value::Text(Text::Shared("spiffe://td/a".into()))
            ),
        ],
        link: Some(SpanContext {
            trace_id: [3; 16],
            span_id: [4; 8],
            sampled: true,
        }),
        error: None,
    }
}

/// An exporter whose every export waits for a permit.
#[derive(Debug, Clone)]
pub(in crate::telemetry) struct Gate {
    permits: Arc<Semaphore>,
    taken: Arc<Mutex<Vec<Vec<SpanData>>>>,
    refuse: Arc<AtomicBool>,
}

impl Gate {
    pub(in crate::telemetry) fn new(permits: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(permits)),
            taken: Arc::default(),
            refuse: Arc::default(),
        }
    }

    pub(in crate::telemetry) fn received(&self) -> Vec<SpanData> {
        self.taken.lock().unwrap().concat()
    }

    pub(in crate::telemetry) fn spans(&self, batching: Batching) -> Spans {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        Spans::start(self.clone(), batching, Sampler::default(), runtime).unwrap()
    }
}

impl SpanExporter for Gate {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.permits.acquire().await.unwrap().forget();
        self.taken.lock().unwrap().push(batch);
        if self.refuse.load(Ordering::SeqCst) {
            return Err(OTelSdkError::InternalFailure("on purpose".to_owned()));
        }
        Ok(())
    }
}

fn batching(queue: usize, batch: usize, flights: usize) -> Batching {
    Batching {
        queue,
        batch,
        flights,
        delay: Duration::from_millis(1),
        timeout: PLENTY,
    }
}

/// Waits for something that the exporting thread is about to do.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let patience = tokio::time::Instant::now() + PLENTY;
    while !holds() {
        assert!(tokio::time::Instant::now() < patience, "never: {what}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn every_span_ends_in_exactly_one_count() {
    let gate = Gate::new(0);
    let spans = gate.spans(batching(8, 2, 2));
    let queue = Arc::clone(spans.queue.as_ref().unwrap());
    // Two batches in flight and one at the door leave the queue; then eight fill it; the rest have no room.
    (0..4).for_each(|n| spans.push(span(n)));
    until("two exports in flight", || {
        queue.flying.load(Ordering::SeqCst) == 4
    })
    .await;
    (0..13).for_each(|n| spans.push(span(n)));
    assert_eq!(
        spans.counts(),
        Counts {
            exported: 0,
            failed: 0,
            dropped: 5
        }
    );
    gate.permits.add_permits(100);
    spans.shutdown(PLENTY).await.unwrap();
    assert_eq!(
        spans.counts(),
        Counts {
            exported: 12,
            failed: 0,
            dropped: 5
        }
    );
    assert!(
        gate.taken
            .lock()
            .unwrap()
            .iter()
            .all(|batch| batch.len() <= 2)
    );
    spans.push(span(0));
    assert_eq!(
        spans.counts().dropped,
        6,
        "after shutdown there is no room either"
    );
}

#[tokio::test]
async fn what_the_collector_refuses_is_counted_by_spans() {
    let gate = Gate::new(100);
    gate.refuse.store(true, Ordering::SeqCst);
    let spans = gate.spans(batching(64, 16, 4));
    (0..40).for_each(|n| spans.push(span(n)));
    spans.shutdown(PLENTY).await.unwrap();
    assert_eq!(
        spans.counts(),
        Counts {
            exported: 0,
            failed: 40,
            dropped: 0
        }
    );
}

#[tokio::test]
async fn a_lone_span_leaves_after_the_delay_without_another_push() {
    let gate = Gate::new(100);
    let spans = gate.spans(batching(64, 16, 4));
    spans.push(span(1));
    until("one span exported", || spans.counts().exported == 1).await;
    // And once more, after the exporter has gone back to sleep.
    spans.push(span(2));
    until("two spans exported", || spans.counts().exported == 2).await;
}

#[tokio::test]
async fn shutdown_gives_up_at_its_deadline_and_says_how_many_are_left() {
    let gate = Gate::new(0);
    let spans = gate.spans(batching(64, 4, 1));
    (0..10).for_each(|n| spans.push(span(n)));
    let unsent = spans.shutdown(Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(unsent.spans, 10);
    gate.permits.add_permits(100);
}

#[tokio::test]
async fn pushers_on_several_threads_lose_no_count() {
    let gate = Gate::new(1_000_000);
    let spans = gate.spans(batching(128, 32, 3));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let spans = spans.clone();
            std::thread::spawn(move || (0..5_000).for_each(|n| spans.push(span(n))))
        })
        .collect();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    spans.shutdown(PLENTY).await.unwrap();
    let Counts {
        exported,
        failed,
        dropped,
    } = spans.counts();
    assert_eq!((exported + dropped, failed), (20_000, 0));
    assert_eq!(u64::try_from(gate.received().len()).unwrap(), exported);
}

#[test]
fn without_an_exporter_there_is_no_cost_and_no_error() {
    let started = OtelArgs::default().start("test").unwrap();
    assert!(!started.spans.enabled());
    started.spans.push(span(1));
    assert_eq!(started.spans.counts(), Counts::default());
}

/// A collector that keeps what it gets, after thinking about it.
#[derive(Debug, Clone, Default)]
struct Collector {
    requests: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
    thinks: Duration,
}

impl Collector {
    async fn listen(&self) -> (String, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let service = TraceServiceServer::new(self.clone()).max_decoding_message_size(64 << 20);
        let server = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming);
        let mut set = JoinSet::new();
        set.spawn(async { server.await.unwrap() });
        (endpoint, set)
    }

    fn spans(&self) -> Vec<OtlpSpan> {
        let requests = self.requests.lock().unwrap();
        let scopes = requests
            .iter()
            .flat_map(|request| &request.resource_spans)
            .flat_map(|spans| &spans.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        tokio::time::sleep(self.thinks).await;
        self.requests.lock().unwrap().push(request.into_inner());
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tokio::test]
async fn a_collector_receives_every_attribute_the_parent_and_the_link() {
    let collector = Collector::default();
    let (endpoint, _server) = collector.listen().await;
    let args = OtelArgs {
        endpoint: Some(endpoint),
        service_name: Some("gate".to_owned()),
        ..OtelArgs::default()
    };
    let spans = args.start("unused").unwrap().spans;
    assert!(spans.enabled());
    let sent = span(42);
    spans.push(sent.clone());
    spans.shutdown(PLENTY).await.unwrap();

    let [got] = collector.spans().try_into().unwrap();
    assert_eq!(
        (got.name.as_str(), got.kind),
        ("jitgate.check", 2),
        "2 is SERVER"
    );
    assert_eq!(
        (got.trace_id.as_slice(), got.span_id.as_slice()),
        (&sent.context.trace_id[..], &sent.context.span_id[..])
    );
    assert_eq!(got.parent_span_id, [7; 8]);
    assert_eq!(
        (got.start_time_unix_nano, got.end_time_unix_nano),
        (1_000_000_000, 1_000_250_000)
    );
    assert_eq!(
        (
            got.links[0].trace_id.as_slice(),
            got.links[0].span_id.as_slice()
        ),
        (&[3; 16][..], &[4; 8][..])
    );
    let attributes: Vec<_> = got
        .attributes
        .iter()
        .map(|pair| pair.key.as_str())
        .collect();
    assert_eq!(
        attributes,
        [
            names::TABLE_REVISION,
            names::SHADOW,
            names::DECISION,
            names::PRINCIPAL
        ]
    );
    let request = collector.requests.lock().unwrap()[0].clone();
    let resource = format!("{:?}", request.resource_spans[0].resource);
    assert!(
        resource.contains("service.name") && resource.contains("\"gate\""),
        "{resource}"
    );
}

/// 20,000 spans at once stand for a second of them: a collector that needs 50 ms an answer loses none with the
/// defaults, and shutdown waits for the last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_collector_loses_nothing_at_twenty_thousand_a_second() {
    let collector = Collector {
        thinks: Duration::from_millis(50),
        ..Collector::default()
    };
    let (endpoint, _server) = collector.listen().await;
    let args = OtelArgs {
        endpoint: Some(endpoint),
        ..OtelArgs::default()
    };
    let spans = args.start("test").unwrap().spans;
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    for _ in 0..100 {
        ticks.tick().await;
        (0..200).for_each(|n| spans.push(span(n)));
    }
    spans.shutdown(PLENTY).await.unwrap();
    assert_eq!(
        spans.counts(),
        Counts {
            exported: 20_000,
            failed: 0,
            dropped: 0
        }
    );
    assert_eq!(collector.spans().len(), 20_000);
}

#[test]
fn settings_that_cannot_be_followed_are_named() {
    let set = |change: fn(&mut OtelArgs)| {
        let mut args = OtelArgs {
            endpoint: Some("http://127.0.0.1:1".to_owned()),
            ..OtelArgs::default()
        };
        change(&mut args);
        args.start("test")
            .map(|started| started.spans.enabled())
            .map_err(|error| format!("{error:#}"))
    };
    assert_eq!(set(|_| ()), Ok(true));
    assert_eq!(
        set(|args| args.sdk_disabled = Some("TRUE".to_owned())),
        Ok(false)
    );
    assert_eq!(
        set(|args| args.traces_exporter = Some("none".to_owned())),
        Ok(false)
    );
    assert_eq!(
        set(|args| args.traces_exporter = Some(String::new())),
        Ok(true),
        "empty means unset"
    );
    assert!(
        set(|args| args.traces_exporter = Some("zipkin".to_owned()))
            .unwrap_err()
            .contains("zipkin")
    );
    let error = set(|args| args.protocol = Some("http/protobuf".to_owned())).unwrap_err();
    assert!(
        error.contains("OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf") && error.contains("4317"),
        "{error}"
    );
    assert!(
        set(|args| args.endpoint = Some("not a url".to_owned()))
            .unwrap_err()
            .contains("not a url")
    );
    assert!(
        set(|args| args.batching.queue = Some("0".to_owned()))
            .unwrap_err()
            .contains("OTEL_BSP_MAX_QUEUE_SIZE=0")
    );
    let certificate = |args: &mut OtelArgs| {
        args.endpoint = Some("https://127.0.0.1:1".to_owned());
        args.certificate = Some("/nowhere.pem".to_owned());
    };
    assert!(
        set(certificate)
            .unwrap_err()
            .contains("OTEL_EXPORTER_OTLP_CERTIFICATE=/nowhere.pem")
    );
}

#[test]
fn an_unknown_sampler_is_a_warning_not_an_end() {
    let args = OtelArgs {
        endpoint: Some("http://127.0.0.1:1".to_owned()),
        sampler: Some("xray".to_owned()),
        ..OtelArgs::default()
    };
    let started = args.start("test").unwrap();
    assert!(started.warning.unwrap().contains("xray"));
    assert_eq!(started.spans.sampler(), Sampler::default());
}
