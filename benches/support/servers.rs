//! The two contestants, each a process of its own: the reference (this very binary) and the sidecar, with all it needs.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use jitgate::bench::names;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

use crate::checks::{self, Fixture};
use crate::control::Control;
use crate::proc;
use crate::report::{Memory, Spans};
use crate::sink::Sink;

const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(20);

/// A server under test. Dropped, it is killed.
pub(crate) struct Contestant {
    pub(crate) name: &'static str,
    pub(crate) endpoint: String,
    pid: u32,
    process: Child,
    surroundings: Option<Surroundings>,
}

/// What the sidecar lives with.
struct Surroundings {
    sink: Sink,
    admin: String,
    idle: u64,
    loaded: u64,
    _files: tempfile::TempDir,
    _servers: JoinSet<Result<(), tonic::transport::Error>>,
}

impl Contestant {
    pub(crate) fn cpu(&self) -> anyhow::Result<u64> {
        proc::cpu_nanos(self.pid).context(self.name)
    }

    /// Resident memory: idle, with the grants, and now.
    pub(crate) fn memory(&self) -> anyhow::Result<Option<Memory>> {
        let Some(Surroundings { idle, loaded, .. }) = &self.surroundings else {
            return Ok(None);
        };
        Ok(Some(Memory {
            idle: *idle,
            with_grants: *loaded,
            after_load: proc::resident(self.pid)?,
        }))
    }

    /// Whether it decides, and does not just allow.
    pub(crate) fn decides(&self) -> bool {
        self.surroundings.is_some()
    }

    /// Ends it as an operator would, and tells what became of its spans.
    pub(crate) async fn finish(&mut self, due: u64) -> anyhow::Result<Option<Spans>> {
        let Some(Surroundings { sink, admin, .. }) = &self.surroundings else {
            return Ok(None);
        };
        // All checks are answered, so all spans are queued or dropped by now.
        let dropped = counter(&get(admin, "/metrics").await?, names::SPANS_DROPPED)?;
        let pid = i32::try_from(self.pid)
            .ok()
            .and_then(Pid::from_raw)
            .context("no process id")?;
        kill_process(pid, Signal::TERM)?;
        let ended = tokio::time::timeout(PATIENCE, self.process.wait()).await;
        let status =
            ended.with_context(|| format!("{} did not end within {PATIENCE:?}", self.name))??;
        if !status.success() {
            bail!("{} ended with {status}", self.name);
        }
        Ok(Some(Spans {
            due,
            received: sink.received(),
            dropped,
        }))
    }
}

/// Starts a reference server.
pub(crate) async fn reference(name: &'static str) -> anyhow::Result<Contestant> {
    let port = free_port().await?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--serve-reference", &port.to_string()]);
    let mut process = start(command)?;
    let address = format!("127.0.0.1:{port}");
    until_ready(&mut process, name, || async {
        TcpStream::connect(&address).await.is_ok()
    })
    .await?;
    let pid = process.id().context("it has ended")?;
    Ok(Contestant {
        name,
        endpoint: format!("http://{address}"),
        pid,
        process,
        surroundings: None,
    })
}

/// Starts a sidecar with a control plane, an issuer and a collector of its own.
pub(crate) async fn sidecar(fixture: &Fixture, program: &Path) -> anyhow::Result<Contestant> {
    let name = "jitgate-sidecar";
    let files = tempfile::tempdir()?;
    std::fs::write(files.path().join("jwks.json"), &fixture.jwks)?;
    std::fs::write(
        files.path().join("issuers.yaml"),
        checks::issuers("jwks.json"),
    )?;
    let (control, sink) = (Control::new(&fixture.grants), Sink::default());
    let mut servers = JoinSet::new();
    let (listener, control_url) = listen().await?;
    servers.spawn(
        Server::builder()
            .add_service(control.service())
            .serve_with_incoming(listener),
    );
    let (listener, sink_url) = listen().await?;
    servers.spawn(
        Server::builder()
            .add_service(sink.service())
            .serve_with_incoming(listener),
    );

    let (address, admin) = (local(free_port().await?), local(free_port().await?));
    let mut command = Command::new(program);
    command
        .args([
            "--listen",
            &address,
            "--admin-listen",
            &admin,
            "--control-plane",
            &control_url,
        ])
        .args(["--service", checks::SERVICE, "--issuers"])
        .arg(files.path().join("issuers.yaml"))
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", sink_url)
        .env("JITGATE_LOG", "warn");
    let mut process = start(command)?;
    until_ready(&mut process, name, || ready(&admin)).await?;
    let pid = process.id().context("it has ended")?;
    let idle = proc::resident(pid)?;
    let released = tokio::time::timeout(PATIENCE, control.release()).await;
    released
        .map_err(|_| anyhow!("{name} did not acknowledge the grants within {PATIENCE:?}"))??;
    let loaded = proc::resident(pid)?;
    let surroundings = Some(Surroundings {
        sink,
        admin,
        idle,
        loaded,
        _files: files,
        _servers: servers,
    });
    Ok(Contestant {
        name,
        endpoint: format!("http://{address}"),
        pid,
        process,
        surroundings,
    })
}

fn start(mut command: Command) -> anyhow::Result<Child> {
    let program = Path::new(command.as_std().get_program()).to_owned();
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true);
    command
        .spawn()
        .with_context(|| format!("{} cannot be started", program.display()))
}

async fn until_ready<F: Future<Output = bool>>(
    process: &mut Child,
    name: &str,
    ready: impl Fn() -> F,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = process.try_wait()? {
            bail!("{name} ended before it was ready: {status}");
        }
        if ready().await {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("{name} was not ready within {PATIENCE:?}");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether `/readyz` says 200.
async fn ready(admin: &str) -> bool {
    get(admin, "/readyz")
        .await
        .is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// Head and body.
async fn get(admin: &str, path: &str) -> std::io::Result<String> {
    let mut socket = TcpStream::connect(admin).await?;
    let ask = format!("GET {path} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n");
    socket.write_all(ask.as_bytes()).await?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await?;
    Ok(answer)
}

fn counter(metrics: &str, name: &str) -> anyhow::Result<u64> {
    let value = metrics
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix("_total "));
    Ok(value
        .with_context(|| format!("no {name} in the metrics"))?
        .trim()
        .parse()?)
}

async fn listen() -> anyhow::Result<(TcpListenerStream, String)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    Ok((TcpListenerStream::new(listener), url))
}

/// A port that was free a moment ago.
async fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?.port())
}

fn local(port: u16) -> String {
    format!("127.0.0.1:{port}")
}
