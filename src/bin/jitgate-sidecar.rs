//! The sidecar's process: parse, start telemetry, run, export what is left. Exit 0 done, 1 failed, 2 wrong usage.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use jitgate::runtime::{self, CutShort};
use jitgate::sidecar::{self, SidecarArgs};
use jitgate::telemetry::{self, TelemetryArgs};
use jitgate::tls;

/// Answers Envoy's authorization checks from grants that end by themselves.
#[derive(Debug, Parser)]
#[command(name = "jitgate-sidecar", version = concat!(env!("CARGO_PKG_VERSION"), " (", env!("JITGATE_COMMIT"), ")"))]
struct Command {
    #[command(flatten)]
    sidecar: SidecarArgs,
    #[command(flatten)]
    telemetry: TelemetryArgs,
}

/// Reading and answering a check is a hundred small allocations: a fifth of its whole cost goes away with this one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long the last spans may take to leave.
const EXPORT: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    match run(Command::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("jitgate-sidecar: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    let Command { sidecar, telemetry } = command;
    tls::install_provider();
    runtime::raise_open_files();
    let telemetry = telemetry::init(&telemetry, "jitgate-sidecar")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let outcome =
            sidecar::run(sidecar, telemetry.spans.clone(), telemetry.metrics.clone()).await;
        if !outcome.as_ref().is_err_and(|error| error.is::<CutShort>()) {
            telemetry.shutdown(EXPORT).await;
        }
        outcome
    })
}
