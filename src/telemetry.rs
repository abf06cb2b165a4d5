//! Traces, metrics and logs: what leaves the process to be looked at. Nothing here can change a decision.
//!
//! Decision spans go a short way of their own ([`spans`]); the control plane's go through `tracing`. Both leave by one
//! queue. No log line formats a header, and foreign crates never log below `info`: what
//! they say there is made of frames, which carry credentials.

mod lines;
pub(crate) mod metrics;
pub mod names;
pub(crate) mod otlp;
pub(crate) mod pace;
pub(crate) mod sampler;
pub(crate) mod span;
pub(crate) mod spans;
pub(crate) mod trace;

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::Context;
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{EnvFilter, FilterExt, Targets, filter_fn};
use tracing_subscriber::layer::{Filter, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

use self::metrics::Metrics;
use self::otlp::{OtelArgs, Started};
use self::spans::Spans;

/// Logging and tracing.
#[derive(Debug, Clone, clap::Args)]
pub struct TelemetryArgs {
    /// What to log: a level, or directives such as `info,jitgate::control=debug`.
    #[arg(
        long = "log",
        env = "JITGATE_LOG",
        value_name = "FILTER",
        default_value = "info"
    )]
    pub log: String,
    /// How to write log lines (to standard error).
    #[arg(
        long = "log-format",
        env = "JITGATE_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "text"
    )]
    pub log_format: LogFormat,
    /// The OpenTelemetry settings.
    #[command(flatten)]
    pub otel: OtelArgs,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Only these spans are exported through `tracing`; anything wider would export the exporter's own.
const EXPORTED_TARGET: &str = "jitgate::control";

/// What a process holds of its telemetry while it runs.
#[derive(Debug)]
pub struct Telemetry {
    /// The way out for decision spans.
    pub spans: Spans,
    /// The registry that `/metrics` shows.
    pub metrics: Metrics,
    provider: Option<SdkTracerProvider>,
}

/// Installs logging and tracing for this process, once.
///
/// # Errors
/// When the filter or an `OTEL_*` setting is wrong, or another subscriber is installed already.
pub fn init(args: &TelemetryArgs, default_service_name: &str) -> anyhow::Result<Telemetry> {
    let TelemetryArgs {
        log,
        log_format,
        otel,
    } = args;
    let filter = log_filter(log)?;
    let metrics = Metrics::of_process();
    let Started {
        spans,
        resource,
        warning,
    } = otel.start(default_service_name)?;
    spans.register(&metrics);
    let provider = provider(&spans, resource);
    let exported = provider.as_ref().map(exporting_layer);
    Registry::default()
        .with(exported)
        .with(log_layer(*log_format).with_filter(filter))
        .try_init()
        .context("logging is installed already")?;
    if let Some(warning) = warning {
        tracing::warn!("{warning}");
    }
    Ok(Telemetry {
        spans,
        metrics,
        provider,
    })
}

impl Telemetry {
    /// Exports what is left, waiting at most this long, and says so if the collector did not take it all.
    pub async fn shutdown(self, deadline: Duration) {
        let Self {
            spans,
            metrics: _,
            provider,
        } = self;
        if let Err(unsent) = spans.shutdown(deadline).await {
            tracing::warn!("{unsent}");
        }
        drop(provider);
    }
}

/// The SDK's end of the queue, for spans that are made with `tracing`.
fn provider(spans: &Spans, resource: Resource) -> Option<SdkTracerProvider> {
    let processor = spans.processor()?;
    let provider = SdkTracerProvider::builder()
        .with_resource(resource)
        .with_sampler(spans.sampler().to_sdk())
        .with_span_processor(processor);
    Some(provider.build())
}

fn exporting_layer<S>(provider: &SdkTracerProvider) -> impl Layer<S> + use<S>
where
    S: tracing::Subscriber + for<'span> LookupSpan<'span>,
{
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("jitgate"))
        .with_location(false)
        .with_threads(false)
        .with_filter(Targets::new().with_target(EXPORTED_TARGET, LevelFilter::INFO))
}

/// What `directives` ask for, except what foreign crates say below `info`.
fn log_filter<S>(directives: &str) -> anyhow::Result<impl Filter<S> + use<S>> {
    let asked = EnvFilter::builder().parse(directives).with_context(|| {
        format!("JITGATE_LOG={directives:?} is no log filter: try info, debug or jitgate=debug")
    })?;
    let discreet =
        filter_fn(|line| *line.level() <= Level::INFO || line.target().starts_with("jitgate"));
    Ok(asked.and(discreet.with_max_level_hint(LevelFilter::TRACE)))
}

fn log_layer<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'span> LookupSpan<'span>,
{
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match format {
        LogFormat::Text => Box::new(
            lines
                .fmt_fields(lines::fields())
                .with_ansi(std::io::stderr().is_terminal()),
        ),
        LogFormat::Json => Box::new(lines.json().flatten_event(true).with_ansi(false)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use clap::Parser;
    use tracing::Instrument;

    use super::spans::tests::Gate;
    use super::*;

    #[derive(Parser)]
    struct Process {
        #[command(flatten)]
        telemetry: TelemetryArgs,
    }

    #[derive(Clone)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_flags_are_consistent_and_never_show_a_header() {
        let mut command = <Process as clap::CommandFactory>::command();
        command.clone().debug_assert();
        let help = command.render_long_help().to_string();
        assert!(
            help.contains("OTEL_TRACES_SAMPLER") && !help.contains("HEADERS"),
            "{help}"
        );
    }

    #[test]
    fn a_wrong_filter_is_named() {
        assert!(log_filter::<Registry>("info,jitgate::control=debug").is_ok());
        let error = format!(
            "{:#}",
            log_filter::<Registry>("jitgate=loud").err().unwrap()
        );
        assert!(error.contains("JITGATE_LOG=\"jitgate=loud\""), "{error}");
    }

    #[test]
    fn foreign_crates_stay_discreet_whatever_is_asked() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let seen = Lines(Arc::clone(&lines));
        let layer = tracing_subscriber::fmt::layer().with_writer(move || seen.clone());
        let subscriber = Registry::default()
            .with(layer.with_filter(log_filter("trace,h2::codec=trace").unwrap()));
        tracing::subscriber::with_default(subscriber, || {
            tracing::debug!(target: "h2::codec", "a frame with a token");
            tracing::trace!(target: "jitgate::sidecar", "our own");
            tracing::info!(target: "h2", "a fact");
        });
        let text = String::from_utf8(lines.lock().unwrap().clone()).unwrap();
        assert!(
            text.contains("our own") && text.contains("a fact") && !text.contains("token"),
            "{text}"
        );
    }

    /// What is written of the lines that `say` logs, in the text format.
    fn written(say: impl FnOnce()) -> String {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let seen = Lines(Arc::clone(&lines));
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(move || seen.clone())
            .with_ansi(false)
            .fmt_fields(lines::fields());
        tracing::subscriber::with_default(Registry::default().with(layer), say);
        let bytes = lines.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn text_of_others_stays_in_its_line_and_steers_no_terminal() {
        let forged = "x\n2026-01-01T00:00:00Z  INFO jitgate: all is well\u{1b}[2J\u{202e}\u{85}";
        let text = written(|| {
            tracing::warn!(error = %forged, grant = forged, "a sidecar said {forged}");
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(
            !text
                .trim_end()
                .contains(|c: char| c.is_control() || c == '\u{202e}'),
            "{text:?}"
        );
        assert!(
            text.contains(r"a sidecar said x\n2026") && text.contains(r" error=x\n2026"),
            "{text}"
        );
    }

    #[test]
    fn a_field_is_bounded_and_what_is_plain_is_written_as_it_is() {
        let long = "é".repeat(100_000);
        let text = written(|| tracing::info!(%long, count = 7, name = "a b", "héllo"));
        assert!(text.len() < 17 << 10, "{}", text.len());
        assert!(
            text.contains("héllo long=é") && text.contains("… count=7 name=\"a b\"\n"),
            "{text:.100}"
        );
    }

    #[tokio::test]
    async fn spans_of_the_control_plane_leave_with_their_parent_and_no_others_do() {
        let gate = Gate::new(100);
        let spans = gate.spans(spans::Batching::default());
        let provider = provider(&spans, Resource::builder().build()).unwrap();
        let subscriber = Registry::default().with(exporting_layer(&provider));
        let _default = tracing::subscriber::set_default(subscriber);

        let mut metadata = tonic::metadata::MetadataMap::new();
        let caller = span::SpanContext::root(true);
        metadata.insert(trace::TRACEPARENT, caller.traceparent().parse().unwrap());
        let call = tracing::info_span!(target: "jitgate::control::api", "jitgate.api");
        trace::set_parent(&call, &metadata);
        let inside = async {
            let own =
                tracing::info_span!(target: "h2", "not ours").in_scope(trace::current_traceparent);
            own.or_else(trace::current_traceparent)
        };
        let inside = inside.instrument(call).await.unwrap();
        assert_eq!(trace::current_traceparent(), None);

        let unsampled = span::SpanContext::root(false);
        let quiet = tracing::info_span!(target: "jitgate::control::api", "unsampled");
        trace::adopt(&quiet, unsampled);
        drop(quiet);

        spans.shutdown(Duration::from_secs(30)).await.unwrap();
        let [got] = gate.received().try_into().unwrap();
        assert_eq!(
            (got.name.as_ref(), got.parent_span_id.to_bytes()),
            ("jitgate.api", caller.span_id)
        );
        let inside = span::SpanContext::from_traceparent(&inside).unwrap();
        assert_eq!(
            (inside.trace_id, inside.span_id),
            (caller.trace_id, got.span_context.span_id().to_bytes())
        );
    }
}
