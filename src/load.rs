//! Load for a control plane: the watch streams of a whole fleet out of one process, speaking the real protocol cheaply.
//!
//! ```text
//! fleet (sessions: subscribe, apply, ack) --WatchGrants--> control plane <-- driver (asks for grants, revokes them)
//! ```
//!
//! What it measures: how long until every sidecar is in step; what a connected one costs the control plane in memory; how
//! long after a revoke is committed every sidecar has applied it; and what a restart of the control plane sets off. It
//! enforces nothing, and a session that finds the stream contradicting its digest counts as a fault, never as in step.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use jitgate_client::Route;

use crate::support::duration;
use crate::tls;

mod control_plane;
mod driver;
mod fleet;
mod proc;
mod report;
mod session;
mod tally;

pub use report::{FanOut, Joined, Memory, Report, Spread, Storm};

use control_plane::SpawnedControlPlane;
use driver::Driver;
use fleet::SimulatedFleet;

/// What load to make, and against what.
#[derive(Debug, Clone, clap::Args)]
pub struct FleetLoadArgs {
    /// Watch streams to open, each over a connection of its own
    #[arg(long, env = "JITGATE_BENCH_SIDECARS", value_name = "N", default_value_t = 1000,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub sidecars: u32,
    /// Start a control plane with a data directory of its own, and stop it at the end
    #[arg(long, env = "JITGATE_BENCH_SPAWN", conflicts_with_all = ["control_plane", "token_file", "pid"])]
    pub spawn: bool,
    /// The `jitgate` program that --spawn starts [default: the one beside this program]
    #[arg(
        long,
        env = "JITGATE_BENCH_JITGATE",
        value_name = "FILE",
        requires = "spawn"
    )]
    pub jitgate: Option<PathBuf>,
    /// The control plane's gRPC address
    #[arg(
        long,
        env = "JITGATE_BENCH_CONTROL_PLANE",
        value_name = "URL",
        required_unless_present = "spawn"
    )]
    pub control_plane: Option<String>,
    /// The service that the sidecars watch; with --token-file, grants at it are asked for and revoked
    #[arg(
        long,
        env = "JITGATE_BENCH_SERVICE",
        value_name = "NAME",
        default_value = "payments"
    )]
    pub service: String,
    /// A JWT whose access requests at the service are approved at once; without it no fan-out is measured
    #[arg(long, env = "JITGATE_BENCH_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// The control plane's process on this machine, for its CPU time and memory
    #[arg(long, env = "JITGATE_BENCH_PID", value_name = "PID")]
    pub pid: Option<u32>,
    /// The authority (PEM) of the control plane's certificate
    #[arg(long, env = "JITGATE_BENCH_TLS_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// A certificate (PEM) that is entitled to the service
    #[arg(
        long,
        env = "JITGATE_BENCH_TLS_CERT",
        value_name = "FILE",
        requires = "tls_key"
    )]
    pub tls_cert: Option<PathBuf>,
    /// The key of --tls-cert (PEM)
    #[arg(
        long,
        env = "JITGATE_BENCH_TLS_KEY",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    pub tls_key: Option<PathBuf>,
    /// Grants that the table holds while this is measured
    #[arg(
        long,
        env = "JITGATE_BENCH_GRANTS",
        value_name = "N",
        default_value_t = 100
    )]
    pub grants: u32,
    /// Revokes to measure, one after the other
    #[arg(
        long,
        env = "JITGATE_BENCH_ROUNDS",
        value_name = "N",
        default_value_t = 50
    )]
    pub rounds: u32,
    /// With --spawn: kill the control plane without a warning, start it again, and measure the storm
    #[arg(long, env = "JITGATE_BENCH_RESTART", requires = "spawn")]
    pub restart: bool,
    /// How long any step may take
    #[arg(long, env = "JITGATE_BENCH_PATIENCE", value_name = "TIME", value_parser = duration::parse,
          default_value = "2m")]
    pub patience: Duration,
}

/// How long memory is left to settle before it is read.
const SETTLE: Duration = Duration::from_secs(3);

/// Puts a control plane under the load of a fleet.
///
/// # Errors
/// One line that names what could not be reached or took too long.
pub async fn fleet(args: FleetLoadArgs) -> anyhow::Result<Report> {
    let FleetLoadArgs {
        sidecars,
        spawn,
        jitgate,
        service,
        grants,
        rounds,
        restart,
        patience,
        ..
    } = &args;
    let mut control_plane = if *spawn {
        Some(SpawnedControlPlane::start(jitgate.clone(), service)?)
    } else {
        None
    };
    let target = Target::of(&args, control_plane.as_ref())?;
    let mut driver = target.driver(service).await?;
    if let Some(driver) = &mut driver {
        driver.fill(*grants).await?;
    }
    let mut pid = control_plane
        .as_ref()
        .map(SpawnedControlPlane::id)
        .or(args.pid);

    let before = sample(pid)?;
    let mut fleet = SimulatedFleet::open(&target.route, service, *sidecars);
    let joined = fleet
        .in_step(*patience)
        .await
        .context("the fleet does not get in step")?;
    let joined = Joined {
        took: joined,
        cpu: cpu_since(pid, before)?,
        attempts: fleet.attempts(),
    };
    tokio::time::sleep(SETTLE).await;
    let memory = match (before, sample(pid)?) {
        (Some(before), Some(after)) => Some(Memory::of(before.resident, after.resident, *sidecars)),
        _ => None,
    };
    let idle = idle_share(pid).await?;

    let fan_out = match &mut driver {
        Some(driver) => Some(driver.rounds(&mut fleet, *rounds, *patience).await?),
        None => None,
    };
    let mut storm = None;
    if let Some(control_plane) = control_plane.as_mut().filter(|_| *restart) {
        let counts = fleet.counts();
        control_plane.kill().await?;
        fleet.start_over();
        let began = control_plane.start_again()?;
        pid = Some(control_plane.id());
        let took = fleet
            .in_step_again(began, *patience)
            .await
            .context("after the restart")?;
        let cpu = sample(pid)?.map(|sample| sample.cpu);
        storm = Some(Storm::of(took, cpu, fleet.counts().since(&counts)));
    }
    let faults = fleet.counts().faults;
    Ok(Report {
        sidecars: *sidecars,
        grants: *grants,
        joined,
        memory,
        idle,
        fan_out,
        storm,
        faults,
    })
}

/// Where the load goes.
struct Target {
    route: Route,
    token: Option<String>,
}

impl Target {
    fn of(
        args: &FleetLoadArgs,
        control_plane: Option<&SpawnedControlPlane>,
    ) -> anyhow::Result<Self> {
        if let Some(control_plane) = control_plane {
            let route = tls::route("--control-plane", &control_plane.address(), None, false)?;
            return Ok(Self {
                route,
                token: Some(control_plane.token()?),
            });
        }
        let Some(address) = &args.control_plane else {
            bail!("--control-plane: name one, or start one with --spawn")
        };
        let identity = tls::identity_files(args.tls_cert.clone(), args.tls_key.clone())?;
        let config = args
            .tls_ca
            .clone()
            .map(|ca| tls::client_config(ca, identity))
            .transpose()?;
        let token = match &args.token_file {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("--token-file {}", path.display()))?;
                ensure!(
                    !text.trim().is_empty(),
                    "--token-file {}: is empty",
                    path.display()
                );
                Some(text.trim().to_owned())
            }
            None => None,
        };
        Ok(Self {
            route: tls::route("--control-plane", address, config, false)?,
            token,
        })
    }

    async fn driver(&self, service: &str) -> anyhow::Result<Option<Driver>> {
        match &self.token {
            Some(token) => Driver::connect(&self.route, token, service).await.map(Some),
            None => Ok(None),
        }
    }
}

fn sample(pid: Option<u32>) -> anyhow::Result<Option<proc::Sample>> {
    pid.map(proc::sample).transpose()
}

fn cpu_since(pid: Option<u32>, before: Option<proc::Sample>) -> anyhow::Result<Option<Duration>> {
    let after = sample(pid)?;
    Ok(after
        .zip(before)
        .map(|(after, before)| after.cpu.saturating_sub(before.cpu)))
}

/// The share of one core that the fleet costs while nothing happens but progress.
async fn idle_share(pid: Option<u32>) -> anyhow::Result<Option<f64>> {
    let before = sample(pid)?;
    if before.is_none() {
        return Ok(None);
    }
    tokio::time::sleep(SETTLE).await;
    Ok(cpu_since(pid, before)?.map(|cpu| cpu.as_secs_f64() / SETTLE.as_secs_f64()))
}
