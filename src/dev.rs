//! `jitgate dev`: all of it on one machine, with real TLS, real tokens, a real Envoy and something to protect.
//!
//! Nothing is switched off for the demo: it makes its own certificates and its own issuer, and starts the very binaries and
//! the very Envoy configuration that are used elsewhere.

use std::path::{Path, PathBuf};

use clap::Subcommand;

use crate::clock;
use crate::runtime::{self, Tasks};

use super::cli::error::{CliError, Exit, note};
use super::cli::render::write_out;

pub(crate) mod call;
pub(crate) mod certs;
pub(crate) mod envoy;
pub(crate) mod guide;
pub(crate) mod issuer;
pub(crate) mod ports;
pub(crate) mod processes;
pub(crate) mod reaper;
pub(crate) mod shell;
pub(crate) mod state;
pub(crate) mod upstream;

use guide::Running;
use issuer::DevIssuer;
use ports::{PortArgs, Ports};
use processes::{Processes, Program};
use state::StateDir;

/// The demo's policies, as first written.
const POLICIES: &str = include_str!("dev/policies.yaml");

/// `jitgate dev`.
#[derive(Debug, clap::Args)]
pub struct DevArgs {
    #[command(subcommand)]
    verb: Option<DevVerb>,
    /// Where keys, configuration, policies, data and logs are kept
    #[arg(
        long,
        env = "JITGATE_STATE_DIR",
        value_name = "DIR",
        default_value = ".jitgate",
        global = true
    )]
    state_dir: PathBuf,
    #[command(flatten)]
    launch: LaunchArgs,
}

/// What is started, and where.
#[derive(Debug, clap::Args)]
pub struct LaunchArgs {
    /// The Envoy to run; else the one on the PATH or in .venv/bin
    #[arg(long, env = "JITGATE_ENVOY", value_name = "FILE")]
    envoy: Option<PathBuf>,
    /// Do without Envoy, even where one is named
    #[arg(long, env = "JITGATE_DEV_NO_ENVOY")]
    no_envoy: bool,
    #[command(flatten)]
    ports: PortArgs,
}

/// Beside a running `jitgate dev`.
#[derive(Debug, Subcommand)]
pub enum DevVerb {
    /// Print a token of the demo's issuer, to be somebody with
    Token(issuer::TokenArgs),
    /// Call the demo's gRPC service through Envoy, and show what came back
    Call(call::CallArgs),
    /// Ends the processes of a `jitgate dev` that died; started by it, never by hand
    #[command(hide = true)]
    Reaper,
}

/// Runs the demo until Ctrl-C, or one of the verbs beside it.
///
/// # Errors
/// What cannot be found, made, bound or started.
pub async fn dev(args: DevArgs) -> Result<Exit, CliError> {
    let DevArgs {
        verb,
        state_dir,
        launch,
    } = args;
    match verb {
        None => run(&state_dir, launch).await,
        Some(DevVerb::Token(args)) => issuer::token(args, &StateDir::open(&state_dir)?),
        Some(DevVerb::Call(args)) => call::call(args, &StateDir::open(&state_dir)?).await,
        Some(DevVerb::Reaper) => reaper::keep().await,
    }
}

async fn run(state_dir: &Path, launch: LaunchArgs) -> Result<Exit, CliError> {
    let LaunchArgs {
        envoy,
        no_envoy,
        ports,
    } = launch;
    let interrupted = runtime::shutdown_signal()?;
    let binaries = Binaries::find(envoy, no_envoy)?;
    let state = StateDir::create(state_dir)?;
    let _lock = state.lock()?;
    drop(std::fs::remove_file(state.at("processes.json")));
    let (ports, upstream) = ports.claim()?;
    let plan = Plan::prepare(state, ports, &binaries)?;

    let mut tasks = Tasks::new();
    tasks.spawn(
        "the demo upstream",
        upstream::serve(upstream, tasks.stopping()),
    );
    let mut processes = Processes::new()?;
    let mut failed = None;
    let until_over = async {
        tokio::select! {
            () = interrupted => note("stopping"),
            error = plan.live(&mut processes, state_dir) => failed = Some(error),
        }
    };
    let upstream = tasks.run_until(until_over).await;
    processes.stop().await;
    drop(std::fs::remove_file(plan.state.at("processes.json")));
    match failed {
        Some(error) => Err(error),
        None => upstream.map(|()| Exit::Done).map_err(CliError::from),
    }
}

/// The binaries to run.
#[derive(Debug)]
struct Binaries {
    jitgate: PathBuf,
    sidecar: PathBuf,
    envoy: Option<PathBuf>,
}

impl Binaries {
    fn find(envoy: Option<PathBuf>, no_envoy: bool) -> Result<Self, CliError> {
        let jitgate = std::env::current_exe()?;
        let sidecar = jitgate.with_file_name("jitgate-sidecar");
        if !sidecar.is_file() {
            return Err(
                CliError::new(format!("no sidecar: {} is not there", sidecar.display()))
                    .hint("build or install jitgate-sidecar beside jitgate: cargo build --bins"),
            );
        }
        let envoy = if no_envoy {
            None
        } else {
            Some(envoy::find(envoy)?)
        };
        Ok(Self {
            jitgate,
            sidecar,
            envoy,
        })
    }
}

/// Everything that is decided before the first process starts.
#[derive(Debug)]
struct Plan {
    state: StateDir,
    ports: Ports,
    programs: Vec<Program>,
}

impl Plan {
    fn prepare(state: StateDir, ports: Ports, binaries: &Binaries) -> Result<Self, CliError> {
        certs::ensure(&state, clock::wall())?;
        let issuer = DevIssuer::ensure(&state)?;
        if std::fs::read_dir(state.at("policies"))?.next().is_none() {
            state.write("policies/demo.yaml", POLICIES)?;
        }
        ports.save(&state)?;
        let beside = binaries.jitgate.parent().unwrap_or(Path::new("."));
        guide::write_files(&state, &ports, &issuer, beside)?;
        let mut programs = vec![
            control_plane(&state, &ports, binaries),
            sidecar(&state, &ports, binaries),
        ];
        if let Some(envoy) = &binaries.envoy {
            let configuration = envoy::configuration(&state, &ports)?;
            let path = state.write("envoy.json", &format!("{configuration:#}\n"))?;
            programs.push(proxy(&state, &ports, envoy, &path));
        }
        Ok(Self {
            state,
            ports,
            programs,
        })
    }

    /// Starts everything, says so, and then tells whatever ends unasked. Comes back only with a failed start.
    async fn live(&self, processes: &mut Processes, shown: &Path) -> CliError {
        match self.start(processes, shown).await {
            Err(error) => error,
            Ok(()) => loop {
                let ended = processes.ended().await;
                note(&format!(
                    "\n{}; the rest stays up. The end of its log:",
                    ended.describe()
                ));
                processes::tail_log(&ended.program.log);
                note(&format!(
                    "To bring it back:\n\n     {}\n",
                    ended.program.command_line()
                ));
            },
        }
    }

    async fn start(&self, processes: &mut Processes, shown: &Path) -> Result<(), CliError> {
        let mut running = Vec::new();
        for program in &self.programs {
            note(&format!("starting {}", program.name));
            running.push(Running {
                program,
                pid: processes.start(program).await?,
            });
        }
        guide::write_processes(&self.state, &running)?;
        write_out(guide::text(&self.ports, &running, shown).as_bytes())
    }
}

fn control_plane(state: &StateDir, ports: &Ports, binaries: &Binaries) -> Program {
    let mut arguments = vec!["control-plane".to_owned()];
    let file = |name: &str| state.at(name).display().to_string();
    for (flag, value) in [
        ("--listen", format!("127.0.0.1:{}", ports.control_plane)),
        ("--http-listen", format!("127.0.0.1:{}", ports.http)),
        ("--probe-listen", format!("127.0.0.1:{}", ports.probes)),
        ("--drain", "0s".to_owned()),
        ("--data-dir", file("data")),
        ("--policies", file("policies")),
        ("--issuers", file("issuers.yaml")),
        ("--tls-cert", file("control-plane.pem")),
        ("--tls-key", file("control-plane.key")),
        ("--tls-client-ca", file("ca.pem")),
        ("--entitle", format!("{}=payments", certs::PAYMENTS)),
        ("--admin", format!("group:{}|sre-leads", issuer::ISSUER)),
    ] {
        arguments.extend([flag.to_owned(), value]);
    }
    Program {
        name: "control-plane",
        executable: binaries.jitgate.clone(),
        arguments,
        log: state.at("logs/control-plane.log"),
        ready: (ports.http, "/readyz"),
    }
}

fn sidecar(state: &StateDir, ports: &Ports, binaries: &Binaries) -> Program {
    let mut arguments = Vec::new();
    let file = |name: &str| state.at(name).display().to_string();
    for (flag, value) in [
        ("--listen", format!("unix:{}", state.socket().display())),
        (
            "--control-plane",
            format!("https://127.0.0.1:{}", ports.control_plane),
        ),
        ("--service", "payments".to_owned()),
        (
            "--admin-listen",
            format!("127.0.0.1:{}", ports.sidecar_admin),
        ),
        ("--issuers", file("issuers.yaml")),
        ("--tls-cert", file("sidecar.pem")),
        ("--tls-key", file("sidecar.key")),
        ("--tls-ca", file("ca.pem")),
        ("--sidecar-id", "payments-dev".to_owned()),
        ("--drain", "0s".to_owned()),
    ] {
        arguments.extend([flag.to_owned(), value]);
    }
    Program {
        name: "sidecar",
        executable: binaries.sidecar.clone(),
        arguments,
        log: state.at("logs/sidecar.log"),
        ready: (ports.sidecar_admin, "/readyz"),
    }
}

fn proxy(state: &StateDir, ports: &Ports, envoy: &Path, configuration: &Path) -> Program {
    let configuration = configuration.display().to_string();
    // Without --disable-hot-restart, two Envoys on one machine get into each other's way.
    let arguments = [
        "-c",
        &configuration,
        "--disable-hot-restart",
        "--concurrency",
        "2",
        "--log-level",
        "warning",
    ];
    Program {
        name: "envoy",
        executable: envoy.to_owned(),
        arguments: arguments.map(str::to_owned).to_vec(),
        log: state.at("logs/envoy.log"),
        ready: (ports.envoy_admin, "/ready"),
    }
}

#[cfg(test)]
mod tests;
