//! A client's way to a server: a gRPC channel over our own TLS, which follows its files. One rule for every client:
//! TLS 1.3, or plaintext that stays on this machine.

use std::sync::Arc;

use anyhow::{Context, bail};
use http::Uri;
use jitgate_client::Route;
use jitgate_client::transport::is_loopback;
use rustls::ClientConfig;

/// To `url`: `https` needs `tls`; `http` stays on this machine unless `insecure`.
///
/// # Errors
/// Names `flag`, the URL and the way out.
pub(crate) fn route(
    flag: &str,
    url: &str,
    tls: Option<Arc<ClientConfig>>,
    insecure: bool,
) -> anyhow::Result<Route> {
    let way_out = "write it like https://jitgate.example:7400 or http://127.0.0.1:7400";
    let uri: Uri = url
        .parse()
        .with_context(|| format!("{flag} {url} is no URL; {way_out}"))?;
    let Some(host) = uri.host() else {
        bail!("{flag} {url} names no host; {way_out}");
    };
    let route = match (uri.scheme_str(), tls) {
        (Some("https"), Some(tls)) => Route::encrypted(&uri, Arc::new(move || Arc::clone(&tls))),
        (Some("https"), None) => {
            bail!("{flag} {url} needs the authority that signs its certificate: give --tls-ca")
        }
        (Some("http"), Some(_)) => {
            bail!("{flag} {url}: certificates are only used with https://")
        }
        (Some("http"), None) => {
            if !is_loopback(host) {
                if !insecure {
                    bail!(
                        "{flag} {url} would leave this machine in plaintext: use https, or --insecure"
                    );
                }
                tracing::warn!("{flag} {url} is PLAINTEXT beyond this machine (--insecure)");
            }
            Route::plaintext(uri)
        }
        _ => bail!("{flag} {url} must begin with http:// or https://"),
    };
    route.with_context(|| format!("{flag} {url}"))
}
