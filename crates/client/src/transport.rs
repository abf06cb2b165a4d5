//! The way to a server: a gRPC channel in plaintext, or over TLS whose configuration is asked for at each connection.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use http::uri::Scheme;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use crate::error::SettingError;
use crate::tls::Tls;

/// For a connection, TLS handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A dead path is noticed after twice this.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Where a server is and how it is reached.
#[derive(Clone)]
pub struct Route {
    endpoint: Endpoint,
    tls: Option<Encrypted>,
}

#[derive(Clone)]
struct Encrypted {
    host: String,
    port: u16,
    name: ServerName<'static>,
    config: Configure,
}

type Configure = Arc<dyn Fn() -> Arc<ClientConfig> + Send + Sync>;

/// An address that no route leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RouteError(&'static str);

impl Route {
    /// To an `https` address over TLS, each connection with the files as they then are.
    ///
    /// # Errors
    /// When the address is none, or not `https`.
    pub fn new(url: &str, tls: Tls) -> Result<Self, SettingError> {
        let refuse = |problem: &str| SettingError::Server {
            url: url.to_owned(),
            problem: problem.to_owned(),
        };
        let uri: Uri = url.parse().map_err(|_| refuse("is no URL"))?;
        if uri.scheme() != Some(&Scheme::HTTPS) {
            return Err(refuse("must begin with https://"));
        }
        Self::encrypted(&uri, Arc::new(move || tls.current()))
            .map_err(|RouteError(problem)| refuse(problem))
    }

    /// In plaintext.
    ///
    /// # Errors
    /// When the address names no host.
    pub fn plaintext(uri: Uri) -> Result<Self, RouteError> {
        host(&uri)?;
        Ok(Self {
            endpoint: tuned(Endpoint::from(uri))?,
            tls: None,
        })
    }

    /// Over TLS, by the configuration that `config` gives for each connection; it has to offer `h2`.
    ///
    /// # Errors
    /// When the address names no host that a certificate could be for.
    pub fn encrypted(uri: &Uri, config: Configure) -> Result<Self, RouteError> {
        let host = host(uri)?;
        let name = ServerName::try_from(host.clone())
            .map_err(|_| RouteError("the host is neither a DNS name nor an address"))?;
        let mut parts = uri.clone().into_parts();
        // tonic does TLS of its own for https, and does not let ours in: it is told http, and the server still sees https.
        parts.scheme = Some(Scheme::HTTP);
        let dialled = Uri::from_parts(parts).map_err(|_| RouteError("is no URL"))?;
        let endpoint = tuned(Endpoint::from(dialled))?.origin(uri.clone());
        let port = uri.port_u16().unwrap_or(443);
        Ok(Self {
            endpoint,
            tls: Some(Encrypted {
                host,
                port,
                name,
                config,
            }),
        })
    }

    /// Connects when it is first used, and again when the connection is lost.
    pub fn lazy(&self) -> Channel {
        match &self.tls {
            None => self.endpoint.connect_lazy(),
            Some(tls) => self
                .endpoint
                .connect_with_connector_lazy(tower::service_fn(tls.dial())),
        }
    }

    /// Connects now.
    ///
    /// # Errors
    /// When there is no connection, or no agreement on TLS, within a few seconds.
    pub async fn connect(&self) -> Result<Channel, tonic::transport::Error> {
        match &self.tls {
            None => self.endpoint.connect().await,
            Some(tls) => {
                self.endpoint
                    .connect_with_connector(tower::service_fn(tls.dial()))
                    .await
            }
        }
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route")
            .field("uri", self.endpoint.uri())
            .field("tls", &self.tls.is_some())
            .finish()
    }
}

type Dialled = Pin<Box<dyn Future<Output = io::Result<TokioIo<TlsStream<TcpStream>>>> + Send>>;

impl Encrypted {
    fn dial(&self) -> impl Fn(Uri) -> Dialled + Clone + Send + 'static {
        let this = self.clone();
        move |_| Box::pin(this.clone().handshake())
    }

    async fn handshake(self) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
        let Self {
            host,
            port,
            name,
            config,
        } = self;
        let socket = TcpStream::connect((host, port)).await?;
        socket.set_nodelay(true)?;
        let connector = TlsConnector::from(config());
        connector.connect(name, socket).await.map(TokioIo::new)
    }
}

/// Without the brackets of an IPv6 address.
fn host(uri: &Uri) -> Result<String, RouteError> {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    if host.is_empty() {
        return Err(RouteError("names no host"));
    }
    Ok(host.to_owned())
}

/// Whether what is sent to this host stays on this machine.
pub fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || bare
            .parse()
            .is_ok_and(|address: IpAddr| address.to_canonical().is_loopback())
}

fn tuned(endpoint: Endpoint) -> Result<Endpoint, RouteError> {
    Ok(endpoint
        .user_agent(concat!("jitgate/", env!("CARGO_PKG_VERSION")))
        .map_err(|_| RouteError("has no user agent"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true))
}
