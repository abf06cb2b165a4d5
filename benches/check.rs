//! What a check costs: CPU time of `jitgate-sidecar` against a server that allows everything, in one interleaved run.
//!
//! Absolute figures drift with the machine; the ratio of two servers that live side by side does not. The sidecar holds
//! 10,000 grants, has verified (and cached) the callers' tokens and exports a span for each check; the reference decodes
//! and says yes. The sidecar must let each caller pass under their own grant, refuse whom it has to refuse, and account
//! for every span: anything else fails the bench. `--self-check` runs the reference against itself: the noise floor.

#[path = "support/checks.rs"]
mod checks;
#[path = "support/control.rs"]
mod control;
#[path = "support/load.rs"]
mod load;
#[path = "support/proc.rs"]
mod proc;
#[path = "support/reference.rs"]
mod reference;
#[path = "support/report.rs"]
mod report;
#[path = "support/servers.rs"]
mod servers;
#[path = "support/sink.rs"]
mod sink;

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;

use crate::checks::Fixture;
use crate::load::{Load, Shape};
use crate::report::{Report, Round, Run};
use crate::servers::Contestant;

/// CPU per check, against an always-allow server.
#[derive(Debug, Parser)]
struct Bench {
    /// Compare the reference with itself: shows what difference is noise.
    #[arg(long)]
    self_check: bool,
    /// Rounds for each shape, each with one burst to either server.
    #[arg(long, default_value_t = 21)]
    rounds: usize,
    /// Checks in a burst.
    #[arg(long, default_value_t = 10_000)]
    burst: u64,
    /// Connections of the load generator, and checks in flight on each; repeatable.
    #[arg(
        long = "shape",
        value_name = "CONNECTIONSxSTREAMS",
        value_delimiter = ',',
        default_values = ["1x1", "2x8", "2x64"]
    )]
    shapes: Vec<Shape>,
    /// Grants that the sidecar holds.
    #[arg(long, default_value_t = 10_000)]
    grants: usize,
    /// The sidecar to measure. Default: the one that cargo has just built.
    #[arg(long, value_name = "FILE", default_value = env!("CARGO_BIN_EXE_jitgate-sidecar"))]
    sidecar: PathBuf,
    /// Let the scheduler choose cores instead of keeping everything on one.
    #[arg(long)]
    no_pin: bool,
    /// Also write the result here.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Run as the reference server on this port (used by the bench itself).
    #[arg(long, hide = true, value_name = "PORT")]
    serve_reference: Option<u16>,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> anyhow::Result<()> {
    let bench = Bench::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    if let Some(port) = bench.serve_reference {
        return runtime.block_on(reference::serve(port));
    }
    if !bench.no_pin {
        proc::keep_to_one_core().context("pinning to one core failed: try --no-pin")?;
    }
    let report = runtime.block_on(run(&bench))?;
    if let Some(file) = &bench.json {
        std::fs::write(file, report.to_json()?)
            .with_context(|| format!("{} cannot be written", file.display()))?;
    }
    write!(std::io::stdout(), "{}", report.to_table())?;
    report.account()
}

async fn run(bench: &Bench) -> anyhow::Result<Report> {
    let fixture = Fixture::new(bench.grants)?;
    let reference = servers::reference("reference").await?;
    let mut candidate = if bench.self_check {
        servers::reference("reference again").await?
    } else {
        servers::sidecar(&fixture, &bench.sidecar).await?
    };
    let mut load = Load::new(&fixture);
    if candidate.decides() {
        load.refusals(&candidate, &fixture.refusals).await?;
    }
    let mut runs = Vec::with_capacity(bench.shapes.len());
    for &shape in &bench.shapes {
        for contestant in [&reference, &candidate] {
            load.burst(contestant, shape, bench.burst)
                .await
                .context("while warming up")?;
        }
        let mut rounds = Vec::with_capacity(bench.rounds);
        for number in 0..bench.rounds {
            rounds.push(
                round(
                    &mut load,
                    shape,
                    bench.burst,
                    [&reference, &candidate],
                    number % 2 == 1,
                )
                .await?,
            );
        }
        runs.push(Run {
            shape: shape.to_string(),
            rounds,
        });
    }
    let memory = candidate.memory()?;
    Ok(Report {
        candidate: candidate.name,
        burst: bench.burst,
        check_bytes: fixture.checks.first().map_or(0, |asked| asked.check.len()),
        grants: bench.grants,
        runs,
        memory,
        spans: candidate.finish(load.answered(&candidate)).await?,
    })
}

/// One burst to either server, in alternating order. CPU is read over the whole round: what a server puts off until
/// after its burst (sending spans) is charged to it all the same.
async fn round(
    load: &mut Load,
    shape: Shape,
    burst: u64,
    both: [&Contestant; 2],
    reverse: bool,
) -> anyhow::Result<Round> {
    let [reference, candidate] = both;
    let before = [reference.cpu()?, candidate.cpu()?];
    let order = if reverse {
        [candidate, reference]
    } else {
        [reference, candidate]
    };
    for contestant in order {
        load.burst(contestant, shape, burst)
            .await
            .with_context(|| contestant.name.to_owned())?;
    }
    let [reference_before, candidate_before] = before;
    Ok(Round {
        reference_nanos: (reference.cpu()? - reference_before) / burst,
        candidate_nanos: (candidate.cpu()? - candidate_before) / burst,
    })
}
