//! Where an issuer's keys come from, and reading them once. Every reading is bounded in size and time; what it reads is parsed whole or refused.

use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use reqwest::{Client, Response, StatusCode, Url, redirect};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt as _;

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
#[derive(Debug)]
pub(super) struct Remote {
    url: Url,
    client: Client,
}

impl Remote {
    /// Takes https, or http on loopback; trusts the system's certificate authorities, or those of `ca` alone.
    pub(super) fn new(url: &str, ca: Option<&Path>) -> anyhow::Result<Self> {
        let url = Url::parse(url).context("is no URL")?;
        ensure!(
            url.username().is_empty() && url.password().is_none(),
            "must not carry a user name or password"
        );
        let secure = match url.scheme() {
            "https" => true,
            "http" if is_loopback(&url) => false,
            "http" => bail!("must be https: plain http is for loopback only"),
            _ => bail!("must be an https URL"),
        };
        ensure!(
            secure || ca.is_none(),
            "is plain http, which has no use for a caFile"
        );
        let client = Client::builder()
            .tls_backend_preconfigured(trust(secure, ca)?)
            .https_only(secure)
            // Keys come from the configured place or not at all.
            .redirect(redirect::Policy::none())
            .no_proxy()
            .timeout(FETCH_TIMEOUT)
            .pool_max_idle_per_host(1)
            .user_agent(concat!("jitgate/", env!("CARGO_PKG_VERSION")))
            .build()
            .context("no client can be made for it")?;
        Ok(Self { url, client })
    }

    /// Fetches the keys.
    pub(super) async fn fetch(&self) -> anyhow::Result<KeySet> {
        let document = self
            .download()
            .await
            .with_context(|| self.url.to_string())?;
        KeySet::from_jwks(&document).with_context(|| format!("the answer of {}", self.url))
    }

    async fn download(&self) -> anyhow::Result<Vec<u8>> {
        let request = self
            .client
            .get(self.url.clone())
            .header(http::header::ACCEPT, "application/json");
        let response = request.send().await.map_err(reqwest::Error::without_url)?;
        match response.status() {
            StatusCode::OK => read_body(response).await,
            status if status.is_redirection() => {
                bail!("answered {status}; redirects are not followed")
            }
            status => bail!("answered {status}"),
        }
    }
}

async fn read_body(mut response: Response) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(reqwest::Error::without_url)?
    {
        ensure!(
            body.len() + chunk.len() <= DOCUMENT_MAX,
            "answered with more than {DOCUMENT_MAX} bytes"
        );
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// `localhost`, or an address of this machine written as one.
fn is_loopback(url: &Url) -> bool {
    let Some(host) = url.host_str() else {
        return false;
    };
    let address = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

fn trust(secure: bool, ca: Option<&Path>) -> anyhow::Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = match ca {
        Some(path) => config.with_root_certificates(authorities(path).context("caFile")?),
        None if secure => config.with_platform_verifier().context(
            "the system's certificate authorities cannot be used; name the issuer's with caFile",
        )?,
        None => config.with_root_certificates(RootCertStore::empty()),
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
