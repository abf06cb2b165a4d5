//! Where an issuer's keys come from, and reading them once. Every reading is bounded in size and time; what it reads is parsed whole or refused.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail, ensure};
use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use http::uri::{Authority, PathAndQuery};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::rt::{Read, Write};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio_rustls::TlsConnector;
use tower::ServiceExt as _;

use crate::jose::Algorithm;
use crate::jose::keys::KeySet;

/// Longest document read, from a file or from the network.
const DOCUMENT_MAX: usize = 1 << 20;
/// The longest that one fetch may take, answer included.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// Where an issuer's keys come from.
#[derive(Debug)]
pub(super) enum Source {
    /// Written in the configuration: they never change.
    Inline,
    /// A file that may be replaced.
    File(KeyFile),
    /// The issuer's JWKS endpoint.
    Remote(Remote),
}

/// A file that holds keys.
#[derive(Debug, Clone)]
pub(super) struct KeyFile {
    path: PathBuf,
    format: Format,
}

/// What a key file holds.
#[derive(Debug, Clone)]
pub(super) enum Format {
    /// A JWKS document.
    Jwks,
    /// A shared secret for these algorithms; one newline at its end does not count.
    Secret(Vec<Algorithm>),
}

/// Tells one state of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

impl KeyFile {
    pub(super) fn new(path: PathBuf, format: Format) -> Self {
        Self { path, format }
    }

    /// The file's state; links are followed.
    pub(super) fn stamp(&self) -> anyhow::Result<Stamp> {
        let metadata =
            std::fs::metadata(&self.path).with_context(|| self.path.display().to_string())?;
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        Ok(Stamp {
            inode: metadata.ino(),
            length: metadata.len(),
            modified,
        })
    }

    /// Reads the keys.
    pub(super) fn read(&self) -> anyhow::Result<KeySet> {
        let bytes = read_bounded(&self.path)?;
        match &self.format {
            Format::Jwks => KeySet::from_jwks(&bytes),
            Format::Secret(algorithms) => {
                KeySet::from_secret(bytes.strip_suffix(b"\n").unwrap_or(&bytes), algorithms)
            }
        }
        .with_context(|| self.path.display().to_string())
    }
}

/// The bytes of a small file; the error names it.
pub(super) fn read_bounded(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(DOCUMENT_MAX as u64 + 1).read_to_end(&mut bytes))
        .with_context(|| path.display().to_string())?;
    ensure!(
        bytes.len() <= DOCUMENT_MAX,
        "{} is longer than {DOCUMENT_MAX} bytes",
        path.display()
    );
    Ok(bytes)
}

/// A JWKS endpoint.
pub(super) struct Remote {
    uri: Uri,
    /// `None` over plain http.
    tls: Option<(ServerName<'static>, TlsConnector)>,
}

impl Remote {
    /// Takes https, or http on loopback; trusts the system's certificate authorities, or those of `ca` alone.
    pub(super) fn new(url: &str, ca: Option<&Path>) -> anyhow::Result<Self> {
        let uri: Uri = url.parse().context("is no URL")?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            bail!("is no URL")
        };
        ensure!(
            !authority.as_str().contains('@'),
            "must not carry a user name or password"
        );
        let host = authority.host().trim_matches(['[', ']']);
        let tls = match scheme {
            "https" => {
                let name = ServerName::try_from(host.to_owned()).context("names no host")?;
                Some((name, TlsConnector::from(Arc::new(trust(ca)?))))
            }
            "http" if is_loopback(host) => None,
            "http" => bail!("must be https: plain http is for loopback only"),
            _ => bail!("must be an https URL"),
        };
        ensure!(
            tls.is_some() || ca.is_none(),
            "is plain http, which has no use for a caFile"
        );
        Ok(Self { uri, tls })
    }

    /// Fetches the keys.
    pub(super) async fn fetch(&self) -> anyhow::Result<KeySet> {
        let document = tokio::time::timeout(FETCH_TIMEOUT, self.download())
            .await
            .unwrap_or_else(|_| bail!("no answer within {FETCH_TIMEOUT:?}"))
            .with_context(|| self.uri.to_string())?;
        KeySet::from_jwks(&document).with_context(|| format!("the answer of {}", self.uri))
    }

    /// Keys come from the configured place or not at all: no proxy is asked and no redirect followed.
    async fn download(&self) -> anyhow::Result<Vec<u8>> {
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        let stream = connector
            .oneshot(self.uri.clone())
            .await
            .context("cannot be reached")?;
        let Some((name, tls)) = &self.tls else {
            return self.ask(stream).await;
        };
        let stream = tls
            .connect(name.clone(), stream.into_inner())
            .await
            .context("no TLS connection")?;
        self.ask(TokioIo::new(stream)).await
    }

    async fn ask<S: Read + Write + Unpin>(&self, stream: S) -> anyhow::Result<Vec<u8>> {
        let (mut sender, connection) = http1::handshake(stream).await?;
        let target = self.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let authority = self.uri.authority().map_or("", Authority::as_str);
        let request = Request::get(target)
            .header(HOST, authority)
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, concat!("jitgate/", env!("CARGO_PKG_VERSION")))
            .header(CONNECTION, "close")
            .body(Empty::<Bytes>::new())?;
        let answer = async {
            let response = sender.send_request(request).await?;
            match response.status() {
                StatusCode::OK => read_body(response.into_body()).await,
                status if status.is_redirection() => {
                    bail!("answered {status}; redirects are not followed")
                }
                status => bail!("answered {status}"),
            }
        };
        // Whatever ends the connection early ends the answer too, with the same error.
        let driven = async {
            connection.await.unwrap_or_default();
            std::future::pending().await
        };
        tokio::select! {
            answer = answer => answer,
            never = driven => never,
        }
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Remote").field(&self.uri).finish()
    }
}

async fn read_body(body: Incoming) -> anyhow::Result<Vec<u8>> {
    match Limited::new(body, DOCUMENT_MAX).collect().await {
        Ok(whole) => Ok(whole.to_bytes().into()),
        Err(error) if error.is::<LengthLimitError>() => {
            bail!("answered with more than {DOCUMENT_MAX} bytes")
        }
        Err(error) => Err(anyhow!(error)),
    }
}

/// `localhost`, or an address of this machine written as one.
fn is_loopback(host: &str) -> bool {
    let address = host.parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn trust(ca: Option<&Path>) -> anyhow::Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = match ca {
        Some(path) => config.with_root_certificates(authorities(path).context("caFile")?),
        None => config.with_platform_verifier().context(
            "the system's certificate authorities cannot be used; name the issuer's with caFile",
        )?,
    };
    Ok(config.with_no_client_auth())
}

fn authorities(path: &Path) -> anyhow::Result<RootCertStore> {
    let pem = read_bounded(path)?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate =
            certificate.with_context(|| format!("{} is no PEM file", path.display()))?;
        roots
            .add(certificate)
            .with_context(|| format!("{} has a bad certificate", path.display()))?;
    }
    ensure!(!roots.is_empty(), "{} has no certificate", path.display());
    Ok(roots)
}
