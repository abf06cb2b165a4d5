//! TLS 1.3 from files or the system's authorities. Files are read again for each new connection: identities in a mesh
//! live for an hour. A pair that is half rotated, or otherwise useless, leaves the last good one in use.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, version};

use crate::error::{FileSetting, SettingError};

/// Larger is no certificate, key or token: a mistyped path must not fill the memory.
const FILE_MAX: u64 = 1 << 20;

/// Whom to trust, and who we are. Clones share what was read last.
#[derive(Debug, Clone)]
pub struct Tls {
    roots: Roots,
    identity: Option<Identity>,
    newest: Arc<Mutex<Arc<ClientConfig>>>,
}

#[derive(Debug, Clone)]
enum Roots {
    System(Arc<RootCertStore>),
    File(PathBuf),
}

#[derive(Debug, Clone)]
struct Identity {
    cert: PathBuf,
    key: PathBuf,
}

impl Tls {
    /// Trusts the authorities in `ca` (PEM) and nobody else; without it, whom the system trusts. Presents the
    /// certificate chain and private key (PEM) of `identity` to a server that asks for one.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn new(
        ca: Option<PathBuf>,
        identity: Option<(PathBuf, PathBuf)>,
    ) -> Result<Self, SettingError> {
        let roots = match ca {
            Some(file) => Roots::File(file),
            None => Roots::System(system_roots()?),
        };
        let identity = identity.map(|(cert, key)| Identity { cert, key });
        let newest = Arc::new(Mutex::new(read(&roots, identity.as_ref())?));
        Ok(Self {
            roots,
            identity,
            newest,
        })
    }

    /// As the files now are; as they last were, where they cannot be used.
    pub fn current(&self) -> Arc<ClientConfig> {
        let read = read(&self.roots, self.identity.as_ref());
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        match read {
            Ok(config) => *newest = config,
            Err(error) => {
                tracing::warn!(%error, "a TLS file cannot be used; what was there before stays in use");
            }
        }
        Arc::clone(&newest)
    }
}

fn read(roots: &Roots, identity: Option<&Identity>) -> Result<Arc<ClientConfig>, SettingError> {
    let roots = match roots {
        Roots::System(store) => Arc::clone(store),
        Roots::File(file) => authorities(file)?,
    };
    // The provider is named: which one is the process's default is the program's own business.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])
        .map_err(|error| SettingError::SystemRoots(error.to_string()))?
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(Identity { cert, key }) => {
            let chain = certificates(FileSetting::Certificate, cert)?;
            let private = PrivateKeyDer::from_pem_slice(&read_small(FileSetting::Key, key)?)
                .map_err(|error| {
                    unusable(
                        FileSetting::Key,
                        key,
                        format!("holds no PEM private key: {error}"),
                    )
                })?;
            builder
                .with_client_auth_cert(chain, private)
                .map_err(|error| {
                    let problem = format!("is not the key of {}: {error}", cert.display());
                    unusable(FileSetting::Key, key, problem)
                })?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    // Resumption would carry an identity past the rotation that ended it.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

fn system_roots() -> Result<Arc<RootCertStore>, SettingError> {
    let found = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    // Stores of systems hold certificates that webpki cannot use; the rest of them count.
    let (usable, _) = store.add_parsable_certificates(found.certs);
    if usable == 0 {
        let problem = found
            .errors
            .first()
            .map_or_else(|| "there are none".to_owned(), ToString::to_string);
        return Err(SettingError::SystemRoots(problem));
    }
    Ok(Arc::new(store))
}

fn authorities(file: &Path) -> Result<Arc<RootCertStore>, SettingError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(FileSetting::Ca, file)? {
        store.add(certificate).map_err(|error| {
            let problem = format!("holds a certificate that is no authority: {error}");
            unusable(FileSetting::Ca, file, problem)
        })?;
    }
    Ok(Arc::new(store))
}

/// At least one certificate.
fn certificates(
    setting: FileSetting,
    file: &Path,
) -> Result<Vec<CertificateDer<'static>>, SettingError> {
    let chain = CertificateDer::pem_slice_iter(&read_small(setting, file)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unusable(setting, file, format!("is no PEM file: {error}")))?;
    if chain.is_empty() {
        return Err(unusable(
            setting,
            file,
            "holds no PEM certificate".to_owned(),
        ));
    }
    Ok(chain)
}

/// The whole file, if it is of the size of what it should hold.
pub(crate) fn read_small(setting: FileSetting, file: &Path) -> Result<Vec<u8>, SettingError> {
    let mut bytes = Vec::new();
    let read =
        std::fs::File::open(file).and_then(|open| open.take(FILE_MAX + 1).read_to_end(&mut bytes));
    match read {
        Ok(length) if u64::try_from(length).is_ok_and(|length| length <= FILE_MAX) => Ok(bytes),
        Ok(_) => Err(unusable(
            setting,
            file,
            format!("is larger than {FILE_MAX} bytes"),
        )),
        Err(error) => Err(unusable(setting, file, error.to_string())),
    }
}

fn unusable(setting: FileSetting, file: &Path, problem: String) -> SettingError {
    SettingError::File {
        setting,
        file: file.to_owned(),
        problem,
    }
}

#[cfg(test)]
mod tests;
