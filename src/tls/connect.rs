//! A client's way to a server: a lazily connecting gRPC channel over our own TLS, which follows its files.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// A dead path is noticed after twice this.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// A channel to `url`, which connects when it is first used, and again when the connection is lost.
///
/// `https` needs `tls`; `http` stays on this machine unless `insecure`.
///
/// # Errors
/// Names `flag`, the URL and the way out.
pub fn channel(flag: &str, url: &str, tls: Option<Arc<ClientConfig>>, insecure: bool) -> anyhow::Result<Channel> {
    let uri: Uri = url.parse().with_context(|| format!("{flag} {url} is no URL"))?;
    let Some(host) = uri.host().map(|host| host.trim_matches(['[', ']']).to_owned()) else {
        bail!("{flag} {url} names no host: write http://127.0.0.1:7400 or https://HOST:PORT");
    };
    match (uri.scheme_str(), tls) {
        (Some("https"), Some(tls)) => encrypted(&uri, host, tls).with_context(|| format!("{flag} {url}")),
        (Some("https"), None) => bail!("{flag} {url} needs the authority that signs its certificate: give --tls-ca"),
        (Some("http"), _) => {
            if !stays_here(&host) {
                if !insecure {
                    bail!("{flag} {url} would leave this machine in plaintext: use https, or --insecure");
                }
                tracing::warn!("{flag} {url} is PLAINTEXT beyond this machine (--insecure)");
            }
            Ok(tuned(Endpoint::from(uri)).connect_lazy())
        }
        _ => bail!("{flag} {url} must begin with http:// or https://"),
    }
}

fn stays_here(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.to_canonical().is_loopback())
}

fn tuned(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT_PATIENCE)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true)
}

fn encrypted(uri: &Uri, host: String, tls: Arc<ClientConfig>) -> anyhow::Result<Channel> {
    let port = uri.port_u16().unwrap_or(443);
    let name = ServerName::try_from(host.clone()).context("the host is neither a DNS name nor an address")?;
    let mut parts = uri.clone().into_parts();
    // tonic does TLS of its own for https, and does not let ours in: it is told http, and the server still sees https.
    parts.scheme = Some(http::uri::Scheme::HTTP);
    let endpoint = tuned(Endpoint::from(Uri::from_parts(parts)?)).origin(uri.clone());
    let connector = tower::service_fn(move |_: Uri| {
        let (host, name, tls) = (host.clone(), name.clone(), TlsConnector::from(Arc::clone(&tls)));
        async move {
            let socket = TcpStream::connect((host, port)).await?;
            socket.set_nodelay(true)?;
            let stream = tls.connect(name, socket).await?;
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    });
    Ok(endpoint.connect_with_connector_lazy(connector))
}
