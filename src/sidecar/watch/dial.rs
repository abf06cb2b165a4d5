//! How the control plane is reached: address, transport security, and the token that names this sidecar.
//!
//! Files are read for each connection, so that rotated certificates and tokens are used from the next session on. The
//! token appears in no message and no `Debug` output.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri};

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);
const TOKEN_MAX: u64 = 16 << 10;
const PEM_MAX: u64 = 1 << 20;

/// Where the control plane is and how to prove who this is.
#[derive(Clone)]
pub(super) struct Dial {
    uri: Uri,
    address: String,
    tls: Option<TlsFiles>,
    token_file: Option<PathBuf>,
}

/// PEM files.
#[derive(Debug, Clone, Default)]
pub(super) struct TlsFiles {
    pub(super) ca: Option<PathBuf>,
    pub(super) identity: Option<(PathBuf, PathBuf)>,
}

impl Dial {
    /// Checks the address and reads every file once, so that a wrong one stops the start-up.
    pub(super) fn new(
        address: &str,
        tls: TlsFiles,
        token_file: Option<PathBuf>,
        insecure: bool,
    ) -> anyhow::Result<Self> {
        let uri: Uri = address.parse().map_err(|error| {
            anyhow!("--control-plane {address}: {error}; write it like https://jitgate.example:7400 or http://127.0.0.1:7400")
        })?;
        let tls = match uri.scheme_str() {
            Some("https") => Some(tls),
            Some("http") => {
                ensure!(
                    tls.ca.is_none() && tls.identity.is_none(),
                    "--control-plane {address}: certificates are only used with https://"
                );
                plaintext_allowed(&uri, address, insecure)?;
                None
            }
            Some(_) | None => bail!("--control-plane {address}: must begin with http:// or https://"),
        };
        let dial = Self { uri, address: address.to_owned(), tls, token_file };
        dial.endpoint()?;
        dial.token()?;
        Ok(dial)
    }

    /// As given on the command line.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// A fresh connection.
    pub(super) async fn connect(&self) -> anyhow::Result<Channel> {
        let endpoint = self.endpoint()?;
        // The endpoint's own limit does not cover the TLS handshake.
        let connected = tokio::time::timeout(2 * CONNECT_WITHIN, endpoint.connect()).await;
        connected.map_err(|_| anyhow!("no connection within {} s", 2 * CONNECT_WITHIN.as_secs()))?.map_err(flat)
    }

    fn endpoint(&self) -> anyhow::Result<Endpoint> {
        let endpoint = Endpoint::from(self.uri.clone())
            .user_agent(concat!("jitgate-sidecar/", env!("CARGO_PKG_VERSION")))?
            .connect_timeout(CONNECT_WITHIN)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        match &self.tls {
            Some(files) => {
                let config = files.config()?;
                endpoint.tls_config(config).map_err(flat).context("the TLS files do not make a usable configuration")
            }
            None => Ok(endpoint),
        }
    }

    /// The value of the `authorization` header, if a token file is set.
    pub(super) fn token(&self) -> anyhow::Result<Option<MetadataValue<Ascii>>> {
        let Some(path) = &self.token_file else { return Ok(None) };
        let text = read("--token-file", path, TOKEN_MAX)?;
        let token = String::from_utf8(text).ok().map(|text| text.trim().to_owned()).filter(|token| !token.is_empty());
        let value = token.and_then(|token| format!("Bearer {token}").parse::<MetadataValue<Ascii>>().ok());
        let mut value =
            value.ok_or_else(|| anyhow!("--token-file {}: must hold one token and nothing else", path.display()))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

impl TlsFiles {
    fn config(&self) -> anyhow::Result<ClientTlsConfig> {
        let Self { ca, identity } = self;
        let ca =
            ca.as_ref().context("--control-plane https://…: name the authority of its certificate with --tls-ca")?;
        let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read("--tls-ca", ca, PEM_MAX)?));
        if let Some((cert, key)) = identity {
            let identity = Identity::from_pem(read("--tls-cert", cert, PEM_MAX)?, read("--tls-key", key, PEM_MAX)?);
            config = config.identity(identity);
        }
        Ok(config)
    }
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dial").field("address", &self.address).finish_non_exhaustive()
    }
}

fn plaintext_allowed(uri: &Uri, address: &str, insecure: bool) -> anyhow::Result<()> {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    ensure!(
        loopback || insecure,
        "--control-plane {address} would fetch grants in plaintext over the network: use https://, or add --insecure"
    );
    if !loopback {
        tracing::warn!(
            "--insecure: grants are fetched in plaintext from {address}; whoever is on the way can grant access"
        );
    }
    Ok(())
}

fn read(flag: &str, path: &Path, max: u64) -> anyhow::Result<Vec<u8>> {
    use std::io::Read;
    let named = || format!("{flag} {}", path.display());
    let file = std::fs::File::open(path).with_context(named)?;
    let mut bytes = Vec::new();
    let length = file.take(max + 1).read_to_end(&mut bytes).with_context(named)?;
    ensure!(u64::try_from(length).is_ok_and(|length| length <= max), "{}: is larger than {max} bytes", named());
    Ok(bytes)
}

/// An error of the transport hides its cause in its sources: one line with all of them.
pub(super) fn flat(error: impl std::error::Error) -> anyhow::Error {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !line.contains(&cause_text) {
            line = format!("{line}: {cause_text}");
        }
        source = cause.source();
    }
    anyhow!(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dial(address: &str, insecure: bool) -> Result<Dial, String> {
        Dial::new(address, TlsFiles::default(), None, insecure).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn plaintext_is_for_loopback_unless_insecure_is_spelled_out() {
        for loopback in ["http://127.0.0.1:7400", "http://[::1]:7400", "http://localhost:7400"] {
            assert!(dial(loopback, false).is_ok(), "{loopback}");
        }
        for remote in ["http://10.0.0.1:7400", "http://control.example:7400", "http://127.0.0.1.example:7400"] {
            assert!(dial(remote, false).unwrap_err().contains("--insecure"), "{remote}");
            assert!(dial(remote, true).is_ok(), "{remote}");
        }
    }

    #[test]
    fn a_wrong_address_or_file_is_named_with_the_way_out() {
        assert!(dial("ftp://x", false).unwrap_err().contains("http://"));
        assert!(dial("127.0.0.1:7400", false).unwrap_err().contains("--control-plane 127.0.0.1:7400"));
        assert!(dial("https://control.example", false).unwrap_err().contains("--tls-ca"));
        let missing = Some(PathBuf::from("/nowhere/token"));
        let error = Dial::new("http://127.0.0.1:1", TlsFiles::default(), missing, false).unwrap_err();
        assert!(format!("{error:#}").contains("--token-file /nowhere/token"), "{error:#}");
    }

    #[test]
    fn a_token_is_read_anew_each_time_and_never_printed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "first-secret\n").unwrap();
        let dial = Dial::new("http://127.0.0.1:1", TlsFiles::default(), Some(file.path().into()), false).unwrap();
        assert_eq!(dial.token().unwrap().unwrap(), "Bearer first-secret");
        std::fs::write(file.path(), "second-secret").unwrap();
        let token = dial.token().unwrap().unwrap();
        assert_eq!(token, "Bearer second-secret");
        assert!(!format!("{dial:?} {token:?}").contains("secret\""));
        std::fs::write(file.path(), "two\nlines").unwrap();
        let error = dial.token().unwrap_err().to_string();
        assert!(error.contains("--token-file") && !error.contains("lines"), "{error}");
    }
}
