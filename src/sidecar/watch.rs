//! The client end of the watch: keeps the grant table in step with the control plane, over any number of sessions.
//!
//! It never gives up and never lets a session's failure touch the table: until a newer state is complete and proven, the
//! old one serves, and ages. Whatever it cannot follow ends the session and is counted.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use ulid::Ulid;

use crate::model::identity::Service;
use crate::runtime::Outcome;
use crate::sidecar::report::Reports;
use crate::sidecar::state::table::Table;
use crate::support::backoff::Backoff;
use crate::tls;
use crate::wire::grant::duration_to;
use crate::wire::v1;
use crate::wire::v1::enforcer_service_client::EnforcerServiceClient;
use crate::wire::v1::watch_grants_request::Message;

pub(crate) mod apply;
mod dial;
mod session;
pub(crate) mod status;

pub(crate) use status::WatchStatus;

use dial::{Dial, TlsFiles, flat};
use session::{End, Session};

/// Largest message taken from the control plane.
const RESPONSE_MAX: usize = 4 << 20;
/// Messages waiting to be written.
const QUEUE: usize = 16;
/// How long the control plane may take to accept the stream.
const ACCEPT_WITHIN: Duration = Duration::from_secs(10);
pub(crate) const BACKOFF_LEAST: Duration = Duration::from_millis(50);
pub(crate) const BACKOFF_MOST: Duration = Duration::from_secs(10);
/// A session that was sent away before it was of use is not followed by another at once, whatever was asked for.
const AWAY_LEAST: Duration = Duration::from_millis(500);

/// Where grants come from and who this sidecar is.
#[derive(Debug, Clone, clap::Args)]
pub struct WatchArgs {
    /// The control plane's gRPC address.
    #[arg(
        long,
        env = "JITGATE_CONTROL_PLANE",
        value_name = "URL",
        default_value = "http://127.0.0.1:7400"
    )]
    pub control_plane: String,
    /// This sidecar's stable name, as the fleet shows it [default: the host's name; with @ and the first --listen
    /// where that is not the default one].
    #[arg(long, env = "JITGATE_SIDECAR_ID", value_name = "NAME")]
    pub sidecar_id: Option<String>,
    /// A file with a bearer token that names this sidecar to the control plane; read for each session.
    #[arg(long, env = "JITGATE_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// This sidecar's certificate (PEM), for mTLS with the control plane.
    #[arg(
        long,
        env = "JITGATE_TLS_CERT",
        value_name = "FILE",
        requires = "tls_key"
    )]
    pub tls_cert: Option<PathBuf>,
    /// The key of --tls-cert (PEM).
    #[arg(
        long,
        env = "JITGATE_TLS_KEY",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    pub tls_key: Option<PathBuf>,
    /// The authority (PEM) that must have signed the control plane's certificate.
    #[arg(long, env = "JITGATE_TLS_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
}

/// What to watch, from the flags that other parts own.
#[derive(Debug, Clone)]
pub struct Watched {
    /// 1 to 64 services.
    pub services: Vec<Service>,
    /// After how long without the control plane this sidecar stops deciding.
    pub max_staleness: Duration,
    /// Whether plaintext beyond loopback was asked for.
    pub insecure: bool,
    /// Whether nothing is refused.
    pub shadow: bool,
    /// Where the sidecar listens, if that tells it from others on its machine.
    pub listens: Option<String>,
}

/// Keeps a table in step.
#[derive(Debug)]
pub struct Watch {
    dial: Dial,
    table: Arc<Table>,
    status: Arc<WatchStatus>,
    subscribe: v1::Subscribe,
    backoff: Backoff,
    reports: Reports,
    /// What is held cannot be built upon: ask for everything.
    forget: bool,
    /// The problem reported last, so that it is reported once.
    problem: Option<String>,
}

impl WatchArgs {
    /// Checks the address and the files, and prepares the watch of `table`.
    ///
    /// # Errors
    /// Names the flag, what is wrong and the way out.
    pub fn build(self, watched: Watched, table: Arc<Table>) -> anyhow::Result<Watch> {
        let Self {
            control_plane,
            sidecar_id,
            token_file,
            tls_cert,
            tls_key,
            tls_ca,
        } = self;
        let Watched {
            services,
            max_staleness,
            insecure,
            shadow,
            listens,
        } = watched;
        ensure!(
            (1..=64).contains(&services.len()),
            "--service: name 1 to 64 services, not {}",
            services.len()
        );
        let instance = Ulid::generate().to_string();
        let sidecar = sidecar_id
            .or_else(|| default_name(listens))
            .unwrap_or_else(|| instance.clone());
        let fit = (1..=253).contains(&sidecar.len()) && !sidecar.chars().any(char::is_control);
        ensure!(
            fit,
            "--sidecar-id {sidecar:?}: must have 1 to 253 bytes and no control character"
        );
        let tls = TlsFiles {
            ca: tls_ca,
            identity: tls::identity_files(tls_cert, tls_key)?,
        };
        Ok(Watch {
            dial: Dial::new(&control_plane, tls, token_file, insecure)?,
            table,
            status: Arc::default(),
            subscribe: v1::Subscribe {
                sidecar,
                instance,
                services: services.iter().map(ToString::to_string).collect(),
                software: concat!("jitgate-sidecar ", env!("CARGO_PKG_VERSION")).to_owned(),
                max_staleness: Some(duration_to(max_staleness)),
                shadow,
                ..v1::Subscribe::default()
            },
            backoff: Backoff::new(BACKOFF_LEAST, BACKOFF_MOST),
            reports: Reports::default(),
            forget: false,
            problem: None,
        })
    }
}

/// `HOST`, or `HOST@ADDRESS` where several sidecars may share the host.
fn default_name(listens: Option<String>) -> Option<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    let host = Some(text.trim()).filter(|name| !name.is_empty())?;
    Some(match listens {
        Some(address) => format!("{host}@{address}"),
        None => host.to_owned(),
    })
}

impl Watch {
    /// How the watch is doing.
    pub fn status(&self) -> Arc<WatchStatus> {
        Arc::clone(&self.status)
    }

    /// The control plane hears of these decisions, too.
    #[must_use]
    pub fn reporting(mut self, reports: Reports) -> Self {
        self.subscribe.reports_nothing = !reports.exist();
        self.reports = reports;
        self
    }

    /// The name that the fleet shows.
    pub fn sidecar_id(&self) -> &str {
        &self.subscribe.sidecar
    }

    /// Goes from session to session until asked to stop.
    ///
    /// # Errors
    /// Never: a control plane that cannot be reached is waited for, visibly.
    pub async fn run(mut self, stop: CancellationToken) -> Outcome {
        loop {
            let pause = tokio::select! {
                () = stop.cancelled() => break,
                pause = self.attempt() => pause,
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.status.ended(None);
        Ok(())
    }

    /// One session, or the attempt at one; says how long to wait before the next.
    async fn attempt(&mut self) -> Duration {
        self.status.note(|report| report.attempts += 1);
        match self.session().await {
            Ok((End::SentAway { after, reason }, worked)) => {
                let after = away(after, worked);
                self.status.note(|report| report.sent_away += 1);
                self.status.ended(None);
                tracing::info!(reason, after = %seconds(after), "the control plane ends the session");
                self.backoff.reset();
                after + self.backoff.next()
            }
            Ok((end, worked)) => {
                if worked && !matches!(end, End::Fault(_)) {
                    self.backoff.reset();
                }
                self.lost(&self.explain(&end))
            }
            Err(error) => self.lost(&format!("{error:#}")),
        }
    }

    /// Connects, subscribes, follows. The flag says whether the table was vouched for.
    async fn session(&mut self) -> anyhow::Result<(End, bool)> {
        let channel = self.dial.connect().await.context("not reachable")?;
        let mut client =
            EnforcerServiceClient::new(channel).max_decoding_message_size(RESPONSE_MAX);
        let subscribe = self.subscription();
        let (resumable, sent_nanos) = (!subscribe.epoch.is_empty(), subscribe.sent_nanos);
        let (outgoing, requests) = mpsc::channel(QUEUE);
        outgoing.try_send(v1::WatchGrantsRequest {
            message: Some(Message::Subscribe(subscribe)),
        })?;
        let mut request = Request::new(ReceiverStream::new(requests));
        if let Some(token) = self.dial.token()? {
            request.metadata_mut().insert("authorization", token);
        }
        let accepted = timeout(ACCEPT_WITHIN, client.watch_grants(request)).await;
        let accepted = accepted
            .context("does not accept the watch within 10 s")?
            .map_err(|status| refused(&status))?;
        self.status.opened();
        let mut session = Session::new(
            Arc::clone(&self.table),
            Arc::clone(&self.status),
            resumable,
            sent_nanos,
        );
        session.reports = self.reports.clone();
        let end = session.follow(accepted.into_inner(), &outgoing).await;
        if session.vouched {
            self.problem = None;
        }
        self.forget &= !session.snapshot;
        if let End::Fault(fault) = &end {
            self.status.fault(fault);
            self.forget |= fault.needs_snapshot();
        }
        if matches!(end, End::Silent(_)) {
            self.status.note(|report| report.faults.silent += 1);
        }
        Ok((end, session.vouched))
    }

    fn subscription(&self) -> v1::Subscribe {
        let mut subscribe = self.subscribe.clone();
        subscribe.sent_nanos = self.table.clock().monotonic_nanos();
        if let (Some(index), false) = (self.table.current(), self.forget) {
            subscribe.epoch = self.table.epoch().to_string();
            subscribe.resume_revision = i64::try_from(index.revision().0).unwrap_or(i64::MAX);
            subscribe.digest = bytes::Bytes::copy_from_slice(&index.digest().to_bytes());
        }
        subscribe
    }

    fn explain(&self, end: &End) -> String {
        match end {
            End::SentAway { reason, .. } => format!("sent away: {reason}"),
            End::Fault(fault) if fault.needs_snapshot() => {
                format!("{fault}; fetching a complete snapshot")
            }
            End::Fault(fault) => fault.to_string(),
            End::Silent(wait_budget) => format!("silent for {}", seconds(*wait_budget)),
            End::Closed(Some(status)) => format!("{:#}", refused(status)),
            End::Closed(None) => "ended the session".to_owned(),
        }
    }

    /// Reports a problem once, and says how long to wait.
    fn lost(&mut self, problem: &str) -> Duration {
        self.status.ended(Some(problem));
        let pause = self.backoff.next();
        let address = self.dial.address();
        if self.problem.as_deref() == Some(problem) {
            tracing::debug!(
                "control plane {address}: {problem}; retrying in {}",
                seconds(pause)
            );
        } else {
            tracing::warn!(
                "control plane {address}: {problem}; retrying in {}",
                seconds(pause)
            );
            self.problem = Some(problem.to_owned());
        }
        pause
    }
}

/// How long to stay away: as asked for, but two that misunderstand each other must not keep both busy.
pub(crate) fn away(after: Duration, worked: bool) -> Duration {
    if worked { after } else { after.max(AWAY_LEAST) }
}

fn refused(status: &tonic::Status) -> anyhow::Error {
    let code = status.code();
    let mut line = flat(status).to_string();
    if !status.message().is_empty() {
        line = status.message().to_owned();
    }
    anyhow::anyhow!("{code:?}: {line}")
}

fn seconds(span: Duration) -> String {
    format!("{:.1} s", span.as_secs_f64())
}

#[cfg(test)]
mod tests;
