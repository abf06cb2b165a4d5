//! TLS 1.3 with SPIFFE identities: files in, `rustls` configurations out, and the peer's SPIFFE ID read from its
//! certificate.
//!
//! Certificates and authorities are read again when their files change: SPIFFE identities live for an hour. A change
//! that cannot be used is reported, and what was in force stays. Plaintext is for loopback and Unix sockets.

mod conn;
mod connect;
mod incoming;
mod live;
mod material;
mod peer;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, ServerConfig, version};

pub use self::conn::Conn;
pub(crate) use self::connect::route;
pub(crate) use self::incoming::is_want_of_files;
pub use self::incoming::{Incoming, Listener};
pub use self::material::IdentityFiles;
pub use self::peer::{Peer, PeerError, peer_spiffe};

use self::live::{LiveClientRoots, LiveIdentity, LiveServerRoots};

/// Which certificates a server asks its clients for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientAuth {
    /// None: clients prove themselves by other means.
    None,
    /// One of these authorities if the client has one; a wrong one is refused.
    Optional(PathBuf),
    /// One of these authorities, always.
    Required(PathBuf),
}

/// What an application protocol negotiation offers.
pub const ALPN_H2: &[u8] = b"h2";
/// HTTP/1.1.
pub const ALPN_HTTP1: &[u8] = b"http/1.1";

/// A server's configuration, TLS 1.3 only.
///
/// # Errors
/// Names the file and what is wrong with it.
pub fn server_config(
    identity: IdentityFiles,
    clients: ClientAuth,
    alpn: &[&[u8]],
) -> anyhow::Result<Arc<ServerConfig>> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13])?;
    let builder = match clients {
        ClientAuth::None => builder.with_no_client_auth(),
        ClientAuth::Optional(file) => builder
            .with_client_cert_verifier(Arc::new(LiveClientRoots::load(file, false, provider())?)),
        ClientAuth::Required(file) => builder
            .with_client_cert_verifier(Arc::new(LiveClientRoots::load(file, true, provider())?)),
    };
    let mut config =
        builder.with_cert_resolver(Arc::new(LiveIdentity::load(identity, provider())?));
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    // Resumption would carry an identity past the rotation that ended it.
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// A client's configuration, TLS 1.3 only: trusts `ca` and nothing else, and presents `identity` when it is asked to.
///
/// # Errors
/// Names the file and what is wrong with it.
pub fn client_config(
    ca: PathBuf,
    identity: Option<IdentityFiles>,
) -> anyhow::Result<Arc<ClientConfig>> {
    let roots = Arc::new(LiveServerRoots::load(ca, provider())?);
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13])?
        // Not less verification: webpki's own, with authorities that can be rotated.
        .dangerous()
        .with_custom_certificate_verifier(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(files) => {
            builder.with_client_cert_resolver(Arc::new(LiveIdentity::load(files, provider())?))
        }
    };
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// Makes aws-lc-rs the process's default, for the libraries that ask for one. Harmless when called twice.
pub fn install_provider() {
    // An error only says that a default exists.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Whether plaintext to or from this address stays on the machine.
pub fn is_local(address: &SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

/// Refuses plaintext on an address that other machines reach, unless that was asked for.
///
/// # Errors
/// Names `flag`, the address and the way out.
pub fn allow_plaintext(flag: &str, address: &SocketAddr, insecure: bool) -> anyhow::Result<()> {
    if is_local(address) {
        return Ok(());
    }
    if !insecure {
        bail!(
            "{flag} {address} is not loopback and has no TLS: give --tls-cert and --tls-key, or --insecure"
        );
    }
    tracing::warn!(%address, "{flag} is PLAINTEXT beyond this machine (--insecure): credentials can be read on the way");
    Ok(())
}

/// Both files of an identity, or neither.
///
/// # Errors
/// When one is missing; the error names the flags.
pub fn identity_files(
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
) -> anyhow::Result<Option<IdentityFiles>> {
    match (cert, key) {
        (Some(cert), Some(key)) => Ok(Some(IdentityFiles { cert, key })),
        (None, None) => Ok(None),
        (Some(_), None) => bail!("--tls-cert is given without --tls-key: give both or neither"),
        (None, Some(_)) => bail!("--tls-key is given without --tls-cert: give both or neither"),
    }
}

/// The certificate's first SPIFFE ID, read from a PEM file: who we are.
///
/// # Errors
/// When the file holds no certificate, or one whose identity breaks the SPIFFE rules.
pub fn own_spiffe(
    files: &IdentityFiles,
) -> anyhow::Result<Option<crate::model::identity::Principal>> {
    let chain = material::certificates(&files.cert)?;
    let leaf = chain.first().context("no certificate")?;
    peer_spiffe(leaf).with_context(|| format!("{}", files.cert.display()))
}
