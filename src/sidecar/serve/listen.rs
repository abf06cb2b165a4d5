//! Where Envoy reaches the sidecar: Unix sockets and TCP, bound before anything is announced, bounded in connections.
//! A live process's socket is never taken over, and plaintext TCP beyond loopback needs `--insecure`.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::admin;
use crate::admission::AdmissionMetrics;
use crate::runtime::Outcome;
use crate::tls::{self, Incoming};

mod socket;

use socket::SocketFile;

/// Streams in one connection. An Envoy worker opens a second connection beyond 1024 by itself.
const STREAMS_MAX: u32 = 1024;
/// Bytes of a connection on their way. HTTP/2 here takes many small messages that are not read yet for an attack and
/// breaks the connection off, at a count that follows this: it must hold one of every stream, which may all end at once.
const WINDOW: u32 = 2 << 20;
/// Connections on one listener, shared by process or address; each Envoy worker needs one or two.
const CONNECTIONS_MAX: usize = 512;
const HEADER_LIST_MAX: u32 = 32 * 1024;
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// For a whole request to come in and be answered; Envoy itself waits a fraction of it.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How long checks in flight may take once the process is asked to stop.
const DRAIN: Duration = Duration::from_secs(2);

/// Where Envoy reaches the sidecar.
#[derive(Debug, Clone, clap::Args)]
pub struct ListenArgs {
    /// Where Envoy's checks come in: unix:/path or ip:port; repeatable.
    #[arg(
        long,
        env = "JITGATE_LISTEN",
        value_name = "ADDRESS",
        value_delimiter = ',',
        default_value = DEFAULT
    )]
    pub listen: Vec<Address>,
    /// Who may connect to a Unix socket, in octal.
    #[arg(long, env = "JITGATE_SOCKET_MODE", value_name = "MODE", default_value = "0660", value_parser = mode)]
    pub socket_mode: u32,
    /// Largest check accepted, in bytes.
    #[arg(
        long, env = "JITGATE_MAX_CHECK_BYTES", value_name = "BYTES", default_value_t = 65_536,
        value_parser = check_bytes
    )]
    pub max_check_bytes: usize,
    /// Offer gRPC reflection on the listeners.
    #[arg(long, env = "JITGATE_REFLECTION")]
    pub reflection: bool,
    /// Allow plaintext beyond this machine: --listen on a network address, --control-plane by http://.
    #[arg(long, env = "JITGATE_INSECURE")]
    pub insecure: bool,
}

/// Where a sidecar listens that is told nothing: the only one on its machine, or in its pod.
const DEFAULT: &str = "unix:/run/jitgate/authz.sock";

impl ListenArgs {
    /// The first address, unless it is the default one: no other sidecar of this machine listens there.
    pub(crate) fn chosen(&self) -> Option<String> {
        let first = self.listen.first().map(ToString::to_string);
        first.filter(|address| address != DEFAULT)
    }

    /// Binds every address.
    ///
    /// # Errors
    /// As [`Listener::bind`].
    pub async fn bind(self) -> anyhow::Result<Vec<Listener>> {
        let Self {
            listen,
            socket_mode,
            insecure,
            max_check_bytes: _,
            reflection: _,
        } = self;
        let mut listeners = Vec::with_capacity(listen.len());
        for address in &listen {
            listeners.push(Listener::bind(address, socket_mode, insecure).await?);
        }
        Ok(listeners)
    }
}

/// One listening address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `unix:/path`.
    Unix(PathBuf),
    /// `ip:port`.
    Tcp(SocketAddr),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some(path) => {
                let path = path.strip_prefix("//").unwrap_or(path);
                if path.starts_with('/') {
                    Ok(Self::Unix(path.into()))
                } else {
                    Err("needs an absolute path".into())
                }
            }
            None => text
                .parse()
                .map(Self::Tcp)
                .map_err(|_| "must be unix:/path or ip:port".to_owned()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => address.fmt(f),
        }
    }
}

fn check_bytes(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(bytes) if (4096..=4_194_304).contains(&bytes) => Ok(bytes),
        Ok(_) | Err(_) => Err("must lie between 4096 and 4194304".to_owned()),
    }
}

fn mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        Ok(_) | Err(_) => Err("must be an octal mode such as 0660".to_owned()),
    }
}

/// A bound listener. Dropping it removes its socket file.
#[derive(Debug)]
pub struct Listener {
    address: Address,
    kind: Kind,
    rooms: Option<AdmissionMetrics>,
}

#[derive(Debug)]
enum Kind {
    Unix(UnixListener, SocketFile),
    Tcp(TcpListener),
}

impl Listener {
    /// Binds one address.
    ///
    /// # Errors
    /// One line that names the address, the cause and the way out.
    pub async fn bind(address: &Address, socket_mode: u32, insecure: bool) -> anyhow::Result<Self> {
        match address {
            Address::Unix(path) => {
                let (listener, file) = socket::bind(path, socket_mode).await?;
                Ok(Self {
                    address: address.clone(),
                    kind: Kind::Unix(listener, file),
                    rooms: None,
                })
            }
            Address::Tcp(tcp) => {
                if !tls::is_local(tcp) {
                    anyhow::ensure!(
                        insecure,
                        "--listen {tcp} would take checks in plaintext from the network: use a Unix socket or loopback, or add --insecure"
                    );
                    tracing::warn!(address = %tcp, "--listen takes checks in PLAINTEXT from other machines (--insecure)");
                }
                let listener = admin::bind("--listen", *tcp)?;
                let address = Address::Tcp(listener.local_addr().unwrap_or(*tcp));
                Ok(Self {
                    address,
                    kind: Kind::Tcp(listener),
                    rooms: None,
                })
            }
        }
    }

    /// Where it listens; with the port that the system chose, if it did.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Shows how its connections are shared.
    #[must_use]
    pub(crate) fn shown(mut self, rooms: &AdmissionMetrics) -> Self {
        self.rooms = Some(rooms.clone());
        self
    }

    /// Serves until `stop`, then lets what is in flight end, for two seconds at most.
    ///
    /// # Errors
    /// When the server fails.
    pub async fn serve(self, routes: tonic::service::Routes, stop: CancellationToken) -> Outcome {
        let Self {
            address,
            kind,
            rooms,
        } = self;
        let server = Server::builder()
            .timeout(ANSWER_WITHIN)
            .max_concurrent_streams(STREAMS_MAX)
            .initial_connection_window_size(Some(WINDOW))
            .http2_max_header_list_size(HEADER_LIST_MAX)
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .add_routes(routes);
        // The file goes when serving ends, so it must outlive the listener's use.
        let (mut incoming, _file) = kind.accept();
        if let Some(rooms) = rooms {
            incoming = incoming.shown(&rooms, &address.to_string());
        }
        let serving = server
            .serve_with_incoming_shutdown(incoming.into_stream(), stop.clone().cancelled_owned());
        let overdue = async {
            stop.cancelled().await;
            tokio::time::sleep(DRAIN).await;
        };
        tokio::select! {
            served = serving => served.with_context(|| format!("serving checks on {address}")),
            () = overdue => {
                tracing::debug!("connections on {address} are still open after {DRAIN:?}; closing them");
                Ok(())
            }
        }
    }
}

impl Kind {
    fn accept(self) -> (Incoming, Option<SocketFile>) {
        let (incoming, file) = match self {
            Self::Unix(listener, file) => (Incoming::plain(listener), Some(file)),
            Self::Tcp(listener) => (Incoming::plain(listener), None),
        };
        (incoming.at_most(CONNECTIONS_MAX), file)
    }
}

#[cfg(test)]
mod tests;
