//! The OpenTelemetry settings, and the OTLP exporter they describe. Without an endpoint nothing is exported and nothing
//! is wrong.
//!
//! `OTEL_EXPORTER_OTLP_{HEADERS,TIMEOUT,COMPRESSION,INSECURE}` and `OTEL_RESOURCE_ATTRIBUTES` are read by the
//! OpenTelemetry crates themselves: headers carry credentials and have no business on a command line.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use opentelemetry::{Key, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::{EnvResourceDetector, ResourceDetector};
use opentelemetry_sdk::trace::SpanExporter as _;
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use super::sampler::Sampler;
use super::spans::{Batching, Spans};

const SERVICE_NAME: &str = "service.name";

/// What the OpenTelemetry specification names. An empty value counts as unset.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "OpenTelemetry")]
pub struct OtelArgs {
    /// `true` switches tracing off.
    #[arg(
        long = "otel-sdk-disabled",
        env = "OTEL_SDK_DISABLED",
        value_name = "BOOL",
        hide_short_help = true
    )]
    pub sdk_disabled: Option<String>,
    /// `otlp` or `none`. Default: `otlp` where an endpoint is set, else `none`.
    #[arg(
        long = "otel-traces-exporter",
        env = "OTEL_TRACES_EXPORTER",
        value_name = "NAME",
        hide_short_help = true
    )]
    pub traces_exporter: Option<String>,
    /// Where spans go, as `http://host:4317`.
    #[arg(
        long = "otel-endpoint",
        env = "OTEL_EXPORTER_OTLP_ENDPOINT",
        value_name = "URL",
        hide_short_help = true
    )]
    pub endpoint: Option<String>,
    /// The same for traces only; comes first.
    #[arg(
        long = "otel-traces-endpoint",
        env = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        value_name = "URL",
        hide = true
    )]
    pub traces_endpoint: Option<String>,
    /// Only `grpc` is built in.
    #[arg(
        long = "otel-protocol",
        env = "OTEL_EXPORTER_OTLP_PROTOCOL",
        value_name = "NAME",
        hide_short_help = true
    )]
    pub protocol: Option<String>,
    /// The same for traces only; comes first.
    #[arg(
        long = "otel-traces-protocol",
        env = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
        value_name = "NAME",
        hide = true
    )]
    pub traces_protocol: Option<String>,
    /// PEM file of the authorities that sign the collector's certificate. Default: those of the system.
    #[arg(
        long = "otel-certificate",
        env = "OTEL_EXPORTER_OTLP_CERTIFICATE",
        value_name = "FILE",
        hide_short_help = true
    )]
    pub certificate: Option<String>,
    /// PEM file of our certificate towards the collector.
    #[arg(
        long = "otel-client-certificate",
        env = "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
        value_name = "FILE",
        hide_short_help = true
    )]
    pub client_certificate: Option<String>,
    /// PEM file of its key.
    #[arg(
        long = "otel-client-key",
        env = "OTEL_EXPORTER_OTLP_CLIENT_KEY",
        value_name = "FILE",
        hide_short_help = true
    )]
    pub client_key: Option<String>,
    /// Name of this process in traces.
    #[arg(
        long = "otel-service-name",
        env = "OTEL_SERVICE_NAME",
        value_name = "NAME",
        hide_short_help = true
    )]
    pub service_name: Option<String>,
    /// Which spans are recorded. Denials always are.
    #[arg(
        long = "otel-traces-sampler",
        env = "OTEL_TRACES_SAMPLER",
        value_name = "NAME",
        hide_short_help = true
    )]
    pub sampler: Option<String>,
    /// The share for a `traceidratio` sampler, 0.0 to 1.0.
    #[arg(
        long = "otel-traces-sampler-arg",
        env = "OTEL_TRACES_SAMPLER_ARG",
        value_name = "ARG",
        hide_short_help = true
    )]
    pub sampler_arg: Option<String>,
    /// How spans are batched.
    #[command(flatten)]
    pub batching: BatchingArgs,
}

/// The batch span processor's settings.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct BatchingArgs {
    /// Spans held while the collector is busy (default 16384).
    #[arg(
        long = "otel-bsp-max-queue-size",
        env = "OTEL_BSP_MAX_QUEUE_SIZE",
        value_name = "N",
        hide_short_help = true
    )]
    pub queue: Option<String>,
    /// Spans in one export at most (default 2048).
    #[arg(
        long = "otel-bsp-max-export-batch-size",
        env = "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
        value_name = "N",
        hide_short_help = true
    )]
    pub batch: Option<String>,
    /// How long a span waits for others, in ms (default 1000).
    #[arg(
        long = "otel-bsp-schedule-delay",
        env = "OTEL_BSP_SCHEDULE_DELAY",
        value_name = "MS",
        hide_short_help = true
    )]
    pub delay: Option<String>,
    /// How long one export may take, in ms (default 30000).
    #[arg(
        long = "otel-bsp-export-timeout",
        env = "OTEL_BSP_EXPORT_TIMEOUT",
        value_name = "MS",
        hide_short_help = true
    )]
    pub timeout: Option<String>,
    /// Exports in flight at most (default 8).
    #[arg(
        long = "otel-bsp-max-concurrent-exports",
        env = "OTEL_BSP_MAX_CONCURRENT_EXPORTS",
        value_name = "N",
        hide_short_help = true
    )]
    pub flights: Option<String>,
}

/// What the settings led to.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) spans: Spans,
    pub(super) resource: Resource,
    /// To be logged once logging works.
    pub(super) warning: Option<String>,
}

impl OtelArgs {
    /// Starts the exporter that the settings describe, or none.
    ///
    /// # Errors
    /// One line naming the variable that cannot be followed.
    pub(super) fn start(&self, default_service_name: &str) -> anyhow::Result<Started> {
        let resource = self.resource(default_service_name);
        if !self.wanted()? {
            return Ok(Started {
                spans: Spans::default(),
                resource,
                warning: None,
            });
        }
        self.check_protocol()?;
        let batching = self.batching.read()?;
        let (sampler, warning) = self.sampler();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("the span exporter's runtime could not be made")?;
        let mut exporter = {
            // The exporter's connection belongs to its own thread.
            let _inside = runtime.enter();
            self.exporter()?
        };
        exporter.set_resource(&resource);
        let spans = Spans::start(exporter, batching, sampler, runtime)
            .context("the span exporter could not start")?;
        Ok(Started {
            spans,
            resource,
            warning,
        })
    }

    fn wanted(&self) -> anyhow::Result<bool> {
        if set(&self.sdk_disabled).is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return Ok(false);
        }
        match set(&self.traces_exporter) {
            Some("otlp") => Ok(true),
            Some("none") => Ok(false),
            None => Ok(self.endpoint().is_some()),
            Some(other) => {
                bail!("OTEL_TRACES_EXPORTER={other}: jitgate exports by otlp; set otlp or none")
            }
        }
    }

    fn endpoint(&self) -> Option<&str> {
        set(&self.traces_endpoint).or_else(|| set(&self.endpoint))
    }

    fn check_protocol(&self) -> anyhow::Result<()> {
        let traces =
            set(&self.traces_protocol).map(|value| ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", value));
        let general = set(&self.protocol).map(|value| ("OTEL_EXPORTER_OTLP_PROTOCOL", value));
        match traces.or(general) {
            None | Some((_, "grpc")) => Ok(()),
            Some((name, other)) => {
                bail!(
                    "{name}={other}: jitgate speaks OTLP over gRPC only; set grpc and use the collector's port 4317"
                )
            }
        }
    }

    /// The specification wants an unknown sampler ignored with a warning, not a process that does not start.
    fn sampler(&self) -> (Sampler, Option<String>) {
        let Some(name) = set(&self.sampler) else {
            return (Sampler::default(), None);
        };
        match Sampler::parse(name, set(&self.sampler_arg)) {
            Ok(sampler) => (sampler, None),
            Err(error) => (
                Sampler::default(),
                Some(format!("{error}; recording by parentbased_always_on")),
            ),
        }
    }

    fn resource(&self, default_service_name: &str) -> Resource {
        let named = EnvResourceDetector::new()
            .detect()
            .get(&Key::from_static_str(SERVICE_NAME));
        let name = match (set(&self.service_name), named) {
            (Some(name), _) => name.to_owned(),
            (None, Some(name)) => name.to_string(),
            (None, None) => default_service_name.to_owned(),
        };
        Resource::builder()
            .with_service_name(name)
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build()
    }

    fn exporter(&self) -> anyhow::Result<SpanExporter> {
        let mut builder = SpanExporter::builder().with_tonic();
        if let Some(endpoint) = self.endpoint() {
            builder = builder.with_endpoint(endpoint);
        }
        if self
            .endpoint()
            .is_some_and(|endpoint| endpoint.starts_with("https:"))
        {
            builder = builder.with_tls_config(self.tls()?);
        }
        builder
            .build()
            .map_err(|error| anyhow!("the span exporter cannot be set up: {error}"))
    }

    fn tls(&self) -> anyhow::Result<ClientTlsConfig> {
        let mut config = ClientTlsConfig::new();
        config = match set(&self.certificate) {
            Some(file) => config.ca_certificate(Certificate::from_pem(read(
                "OTEL_EXPORTER_OTLP_CERTIFICATE",
                file,
            )?)),
            None => config.with_native_roots(),
        };
        match (set(&self.client_certificate), set(&self.client_key)) {
            (Some(certificate), Some(key)) => {
                let certificate = read("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", certificate)?;
                Ok(config.identity(Identity::from_pem(
                    certificate,
                    read("OTEL_EXPORTER_OTLP_CLIENT_KEY", key)?,
                )))
            }
            (None, None) => Ok(config),
            _ => bail!(
                "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY must be set together"
            ),
        }
    }
}

impl BatchingArgs {
    fn read(&self) -> anyhow::Result<Batching> {
        let Self {
            queue,
            batch,
            delay,
            timeout,
            flights,
        } = self;
        let default = Batching::default();
        let millis = |value: Option<usize>, default| {
            value.map_or(default, |ms| Duration::from_millis(ms as u64))
        };
        let queue = number("OTEL_BSP_MAX_QUEUE_SIZE", queue, 1)?.unwrap_or(default.queue);
        let batch =
            number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", batch, 1)?.unwrap_or(default.batch.min(queue));
        if batch > queue {
            bail!(
                "OTEL_BSP_MAX_EXPORT_BATCH_SIZE={batch}: must not exceed the queue's {queue} spans"
            );
        }
        Ok(Batching {
            queue,
            batch,
            delay: millis(number("OTEL_BSP_SCHEDULE_DELAY", delay, 0)?, default.delay),
            timeout: millis(
                number("OTEL_BSP_EXPORT_TIMEOUT", timeout, 1)?,
                default.timeout,
            ),
            flights: number("OTEL_BSP_MAX_CONCURRENT_EXPORTS", flights, 1)?
                .unwrap_or(default.flights),
        })
    }
}

/// Most of anything that is counted here: a queue of a million spans holds about a gigabyte.
const LARGEST: usize = 1_000_000;

fn number(name: &str, value: &Option<String>, least: usize) -> anyhow::Result<Option<usize>> {
    let Some(text) = set(value) else {
        return Ok(None);
    };
    match text.trim().parse() {
        Ok(number) if (least..=LARGEST).contains(&number) => Ok(Some(number)),
        _ => bail!("{name}={text}: must be a whole number from {least} to {LARGEST}"),
    }
}

fn set(value: &Option<String>) -> Option<&str> {
    value.as_deref().filter(|text| !text.is_empty())
}

fn read(name: &str, file: &str) -> anyhow::Result<Vec<u8>> {
    std::fs::read(Path::new(file)).with_context(|| format!("{name}={file} cannot be read"))
}
