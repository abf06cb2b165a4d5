//! Traces, metrics and logs: what leaves the process to be looked at. Nothing here can change a decision.
//!
//! Decision spans go a short way of their own ([`spans`]); the control plane's go through `tracing`. Both leave by one
//! queue. No log line formats a header, and foreign crates never log below `info`: their frames carry credentials.

pub mod metrics;
pub mod names;
pub mod otlp;
pub mod sampler;
pub mod span;
pub mod spans;
pub mod trace;

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::Context;
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{EnvFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
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
    #[arg(long = "log", env = "JITGATE_LOG", value_name = "FILTER", default_value = "info")]
    pub log: String,
    /// How to write log lines (to standard error).
    #[arg(long = "log-format", env = "JITGATE_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
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

/// Crates whose debug output may show header values or frames.
const FOREIGN: [&str; 10] = [
    "h2",
    "hyper",
    "hyper_util",
    "tonic",
    "tower",
    "rustls",
    "reqwest",
    "opentelemetry",
    "opentelemetry_sdk",
    "opentelemetry_otlp",
];
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
    let TelemetryArgs { log, log_format, otel } = args;
    let filter = log_filter(log)?;
    let metrics = Metrics::of_process();
    let Started { spans, resource, warning } = otel.start(default_service_name)?;
    spans.register(&metrics);
    let provider = spans.processor().map(|processor| {
        SdkTracerProvider::builder()
            .with_resource(resource)
            .with_sampler(spans.sampler().to_sdk())
            .with_span_processor(processor)
            .build()
    });
    let exported = provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("jitgate"))
            .with_location(false)
            .with_threads(false)
            .with_filter(Targets::new().with_target(EXPORTED_TARGET, LevelFilter::INFO))
    });
    Registry::default()
        .with(exported)
        .with(log_layer(*log_format).with_filter(filter))
        .try_init()
        .context("logging is installed already")?;
    if let Some(warning) = warning {
        tracing::warn!("{warning}");
    }
    Ok(Telemetry { spans, metrics, provider })
}

impl Telemetry {
    /// Exports what is left, waiting at most this long, and says so if the collector did not take it all.
    pub async fn shutdown(self, deadline: Duration) {
        let Self { spans, metrics: _, provider } = self;
        if let Err(unsent) = spans.shutdown(deadline).await {
            tracing::warn!("{unsent}");
        }
        drop(provider);
    }
}

fn log_filter(directives: &str) -> anyhow::Result<EnvFilter> {
    let mut filter = EnvFilter::builder()
        .parse(directives)
        .with_context(|| format!("JITGATE_LOG={directives:?} is no log filter: try info, debug or jitgate=debug"))?;
    let quiet = filter.max_level_hint().is_some_and(|level| level <= LevelFilter::INFO);
    for target in FOREIGN.into_iter().filter(|_| !quiet) {
        filter = filter.add_directive(format!("{target}=info").parse()?);
    }
    Ok(filter)
}

fn log_layer<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'span> LookupSpan<'span>,
{
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match format {
        LogFormat::Text => Box::new(lines.with_ansi(std::io::stderr().is_terminal())),
        LogFormat::Json => Box::new(lines.json().flatten_event(true).with_ansi(false)),
    }
}
