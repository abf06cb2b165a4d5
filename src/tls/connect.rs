//! A client's way to a server: a gRPC channel over our own TLS, which follows its files. One rule for every client:
//! TLS 1.3, or plaintext that stays on this machine.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use futures_util::future::BoxFuture;
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// A dead path is noticed after twice this.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Where a server is and how it is reached. Each connection uses the TLS files as they then are.
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
    config: Arc<ClientConfig>,
}

/// A channel to `url`, which connects when it is first used, and again when the connection is lost.
///
/// # Errors
/// As [`Route::new`].
pub fn channel(
    flag: &str,
    url: &str,
    tls: Option<Arc<ClientConfig>>,
    insecure: bool,
) -> anyhow::Result<Channel> {
    Route::new(flag, url, tls, insecure).map(|route| route.lazy())
}

impl Route {
    /// To `url`: `https` needs `tls`; `http` stays on this machine unless `insecure`.
    ///
    /// # Errors
    /// Names `flag`, the URL and the way out.
    pub fn new(
        flag: &str,
        url: &str,
        tls: Option<Arc<ClientConfig>>,
        insecure: bool,
    ) -> anyhow::Result<Self> {
        let way_out = "write it like https://jitgate.example:7400 or http://127.0.0.1:7400";
        let uri: Uri = url
            .parse()
            .with_context(|| format!("{flag} {url} is no URL; {way_out}"))?;
        let Some(host) = uri
            .host()
            .map(|host| host.trim_matches(['[', ']']).to_owned())
        else {
            bail!("{flag} {url} names no host; {way_out}");
        };
        match (uri.scheme_str(), tls) {
            (Some("https"), Some(tls)) => {
                Self::encrypted(&uri, host, tls).with_context(|| format!("{flag} {url}"))
            }
            (Some("https"), None) => {
                bail!("{flag} {url} needs the authority that signs its certificate: give --tls-ca")
            }
            (Some("http"), Some(_)) => {
                bail!("{flag} {url}: certificates are only used with https://")
            }
            (Some("http"), None) => {
                if !stays_here(&host) {
                    if !insecure {
                        bail!(
                            "{flag} {url} would leave this machine in plaintext: use https, or --insecure"
                        );
                    }
                    tracing::warn!("{flag} {url} is PLAINTEXT beyond this machine (--insecure)");
                }
                Ok(Self {
                    endpoint: tuned(Endpoint::from(uri))?,
                    tls: None,
                })
            }
            _ => bail!("{flag} {url} must begin with http:// or https://"),
        }
    }

    fn encrypted(uri: &Uri, host: String, config: Arc<ClientConfig>) -> anyhow::Result<Self> {
        let port = uri.port_u16().unwrap_or(443);
        let name = ServerName::try_from(host.clone())
            .context("the host is neither a DNS name nor an address")?;
        let mut parts = uri.clone().into_parts();
        // tonic does TLS of its own for https, and does not let ours in: it is told http, and the server still sees https.
        parts.scheme = Some(http::uri::Scheme::HTTP);
        let endpoint = tuned(Endpoint::from(Uri::from_parts(parts)?))?.origin(uri.clone());
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

type Dialled = BoxFuture<'static, io::Result<TokioIo<TlsStream<TcpStream>>>>;

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
        Ok(TokioIo::new(
            TlsConnector::from(config).connect(name, socket).await?,
        ))
    }
}

fn stays_here(host: &str) -> bool {
    host == "localhost"
        || host
            .parse()
            .is_ok_and(|ip: std::net::IpAddr| ip.to_canonical().is_loopback())
}

fn tuned(endpoint: Endpoint) -> anyhow::Result<Endpoint> {
    Ok(endpoint
        .user_agent(concat!("jitgate/", env!("CARGO_PKG_VERSION")))?
        .connect_timeout(CONNECT_PATIENCE)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true))
}
