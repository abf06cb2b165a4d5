//! `jitgate-bench`: puts a control plane under the load of a fleet and prints what was measured. It decides nothing.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use jitgate::load::{self, FleetLoadArgs};
use jitgate::{runtime, tls};

/// Measures a jitgate control plane.
#[derive(Debug, Parser)]
#[command(name = "jitgate-bench", version = concat!(env!("CARGO_PKG_VERSION"), " (", env!("JITGATE_COMMIT"), ")"))]
struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Open the watch streams of many sidecars from this one process: connect storm, fan-out delay, memory
    Fleet(Fleet),
}

#[derive(Debug, clap::Args)]
struct Fleet {
    #[command(flatten)]
    load: FleetLoadArgs,
    /// How the result is printed
    #[arg(short, long, env = "JITGATE_OUTPUT", value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Format {
    /// For people
    #[default]
    Table,
    /// For scripts
    Json,
}

fn main() -> ExitCode {
    let Bench {
        what: What::Fleet(fleet),
    } = Bench::parse();
    match run(fleet) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("jitgate-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "the result of this program")]
fn run(Fleet { load, output }: Fleet) -> anyhow::Result<()> {
    tls::install_provider();
    runtime::raise_open_files();
    let threads = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    let report = threads.block_on(async {
        let stopped = runtime::shutdown_signal()?;
        // Given up or not, what was started is stopped with it.
        tokio::select! {
            report = load::fleet(load) => report,
            () = stopped => Err(anyhow::anyhow!("stopped before it was measured")),
        }
    })?;
    match output {
        Format::Table => print!("{report}"),
        Format::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    Ok(())
}
