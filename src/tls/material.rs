//! Certificates and keys out of PEM files. Every error names the file and what is wrong with it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// Larger is no certificate file: a mistyped path must not fill the memory.
const FILE_MAX: u64 = 1 << 20;

/// PEM files of our own identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityFiles {
    /// The certificate, then its intermediates.
    pub cert: PathBuf,
    /// Its private key (PKCS#8, SEC1 or PKCS#1).
    pub key: PathBuf,
}

/// Our certificate and key, which must belong together.
pub(super) fn identity(
    files: &IdentityFiles,
    provider: &CryptoProvider,
) -> anyhow::Result<Arc<CertifiedKey>> {
    let IdentityFiles { cert, key } = files;
    let chain = certificates(cert)?;
    let der = PrivateKeyDer::from_pem_slice(&read(key)?)
        .map_err(|error| anyhow!("{}: holds no PEM private key: {error}", key.display()))?;
    let signer = provider
        .key_provider
        .load_private_key(der)
        .with_context(|| format!("{}: this kind of private key cannot be used", key.display()))?;
    let certified = CertifiedKey::new(chain, signer);
    certified.keys_match().map_err(|_| {
        anyhow!(
            "{}: is not the key of the certificate in {}",
            key.display(),
            cert.display()
        )
    })?;
    Ok(Arc::new(certified))
}

/// The authorities in a bundle.
pub(super) fn roots(file: &Path) -> anyhow::Result<Arc<RootCertStore>> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(file)? {
        store.add(certificate).with_context(|| {
            format!(
                "{}: holds a certificate that is no authority",
                file.display()
            )
        })?;
    }
    Ok(Arc::new(store))
}

/// At least one certificate.
pub(super) fn certificates(file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let pem = read(file)?;
    let chain = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| anyhow!("{}: is no PEM file: {error}", file.display()))?;
    if chain.is_empty() {
        bail!("{}: holds no PEM certificate", file.display());
    }
    Ok(chain)
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    let size = std::fs::metadata(file)
        .with_context(|| format!("{}: cannot be read", file.display()))?
        .len();
    if size > FILE_MAX {
        bail!(
            "{}: has {size} bytes, more than any certificate file",
            file.display()
        );
    }
    std::fs::read(file).with_context(|| format!("{}: cannot be read", file.display()))
}
