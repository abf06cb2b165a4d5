//! The two contestants, each a process of its own: the reference (this very binary) and the sidecar, with all it needs.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

use crate::checks::{self, Scene};
use crate::control::Control;
use crate::proc;
use crate::report::Memory;
use crate::sink::Sink;

const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(20);

/// A server under test. Dropped, it is killed.
pub(crate) struct Contestant {
    pub(crate) name: &'static str,
    pub(crate) endpoint: String,
    pid: u32,
    _process: Child,
    surroundings: Option<Surroundings>,
}

/// What the sidecar lives with.
struct Surroundings {
    sink: Sink,
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
        let Some(Surroundings { idle, loaded, .. }) = &self.surroundings else { return Ok(None) };
        Ok(Some(Memory { idle: *idle, with_grants: *loaded, after_load: proc::resident(self.pid)? }))
    }

    /// How many of the spans that are due never arrive.
    pub(crate) async fn spans_missing(&self, due: u64) -> anyhow::Result<Option<u64>> {
        let Some(Surroundings { sink, .. }) = &self.surroundings else { return Ok(None) };
        let deadline = Instant::now() + PATIENCE / 4;
        while sink.received() < due && Instant::now() < deadline {
            tokio::time::sleep(PAUSE).await;
        }
        Ok(Some(due.saturating_sub(sink.received())))
    }
}

/// Starts a reference server.
pub(crate) async fn reference(name: &'static str) -> anyhow::Result<Contestant> {
    let port = free_port().await?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--serve-reference", &port.to_string()]);
    let mut process = start(command)?;
    let address = format!("127.0.0.1:{port}");
    until_ready(&mut process, name, || async { TcpStream::connect(&address).await.is_ok() }).await?;
    let pid = process.id().context("it has ended")?;
    Ok(Contestant { name, endpoint: format!("http://{address}"), pid, _process: process, surroundings: None })
}

/// Starts a sidecar with a control plane, an issuer and a collector of its own.
pub(crate) async fn sidecar(scene: &Scene, program: &Path) -> anyhow::Result<Contestant> {
    let name = "jitgate-sidecar";
    let files = tempfile::tempdir()?;
    std::fs::write(files.path().join("jwks.json"), &scene.jwks)?;
    std::fs::write(files.path().join("issuers.yaml"), checks::issuers("jwks.json"))?;
    let (control, sink) = (Control::new(&scene.grants), Sink::default());
    let mut servers = JoinSet::new();
    let (listener, control_url) = listen().await?;
    servers.spawn(Server::builder().add_service(control.service()).serve_with_incoming(listener));
    let (listener, sink_url) = listen().await?;
    servers.spawn(Server::builder().add_service(sink.service()).serve_with_incoming(listener));

    let (address, admin) = (local(free_port().await?), local(free_port().await?));
    let mut command = Command::new(program);
    command
        .args(["--listen", &address, "--admin-listen", &admin, "--control-plane", &control_url])
        .args(["--service", checks::SERVICE, "--issuers"])
        .arg(files.path().join("issuers.yaml"))
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", sink_url)
        .env("JITGATE_LOG", "warn");
    let mut process = start(command)?;
    until_ready(&mut process, name, || ready(&admin)).await?;
    let pid = process.id().context("it has ended")?;
    let idle = proc::resident(pid)?;
    let released = tokio::time::timeout(PATIENCE, control.release()).await;
    released.map_err(|_| anyhow!("{name} did not acknowledge the grants within {PATIENCE:?}"))??;
    let loaded = proc::resident(pid)?;
    let surroundings = Some(Surroundings { sink, idle, loaded, _files: files, _servers: servers });
    Ok(Contestant { name, endpoint: format!("http://{address}"), pid, _process: process, surroundings })
}

fn start(mut command: Command) -> anyhow::Result<Child> {
    let program = Path::new(command.as_std().get_program()).to_owned();
    command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    command.spawn().with_context(|| format!("{} cannot be started", program.display()))
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
    let ask = async {
        let mut socket = TcpStream::connect(admin).await?;
        socket.write_all(b"GET /readyz HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n").await?;
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer.starts_with(b"HTTP/1.1 200"))
    };
    ask.await.unwrap_or(false)
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
