//! Key material that follows its files. Looked at when a handshake needs it, at most once a second.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use tokio::time::Instant;

use super::material::{self, IdentityFiles};

/// How often files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

type Load<T> = Box<dyn Fn() -> anyhow::Result<Arc<T>> + Send + Sync>;
/// What tells one version of a file from the next: inode, length, modification time.
type Stamp = Vec<Option<(u64, u64, i64, i64)>>;

/// A value made from files, made again when they change.
struct Live<T: ?Sized> {
    files: Vec<PathBuf>,
    load: Load<T>,
    current: ArcSwap<Arc<T>>,
    looked: Mutex<Looked>,
}

struct Looked {
    at: Instant,
    /// Of the version in force.
    stamp: Stamp,
    /// The last complaint, so that it is made once.
    complaint: Option<String>,
}

impl<T: ?Sized> fmt::Debug for Live<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Live").field(&self.files).finish()
    }
}

impl<T: ?Sized> Live<T> {
    fn new(files: Vec<PathBuf>, load: Load<T>) -> anyhow::Result<Self> {
        let stamp = stamp(&files);
        let current = ArcSwap::from_pointee(load()?);
        let looked = Mutex::new(Looked {
            at: Instant::now(),
            stamp,
            complaint: None,
        });
        Ok(Self {
            files,
            load,
            current,
            looked,
        })
    }

    fn current(&self) -> Arc<T> {
        self.look();
        Arc::clone(&self.current.load())
    }

    /// Reads the files again if they have changed. What cannot be used leaves the old value in force, and is tried
    /// again: certificate and key do not change in the same instant.
    fn look(&self) {
        let Some(mut looked) = self.looked.try_lock() else {
            return;
        };
        if looked.at.elapsed() < LOOK_EVERY {
            return;
        }
        looked.at = Instant::now();
        let stamp = stamp(&self.files);
        if stamp == looked.stamp {
            return;
        }
        match (self.load)() {
            Ok(value) => {
                self.current.store(Arc::new(value));
                looked.stamp = stamp;
                looked.complaint = None;
                tracing::info!(files = ?self.files, "TLS material changed and is in force");
            }
            Err(error) => {
                let complaint = format!("{error:#}");
                if looked.complaint.as_ref() != Some(&complaint) {
                    tracing::warn!("{complaint}; what was in force before stays");
                    looked.complaint = Some(complaint);
                }
            }
        }
    }
}

fn stamp(files: &[PathBuf]) -> Stamp {
    let of = |file: &PathBuf| {
        // A file that is gone differs from what it was; reading it then says why.
        let seen = std::fs::metadata(file).ok()?;
        Some((seen.ino(), seen.len(), seen.mtime(), seen.mtime_nsec()))
    };
    files.iter().map(of).collect()
}

/// Our own identity, towards clients or servers.
#[derive(Debug)]
pub(super) struct LiveIdentity(Live<CertifiedKey>);

impl LiveIdentity {
    pub(super) fn load(
        files: IdentityFiles,
        provider: Arc<CryptoProvider>,
    ) -> anyhow::Result<Self> {
        let watched = vec![files.cert.clone(), files.key.clone()];
        Live::new(
            watched,
            Box::new(move || material::identity(&files, &provider)),
        )
        .map(Self)
    }
}

impl rustls::server::ResolvesServerCert for LiveIdentity {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current())
    }
}

impl rustls::client::ResolvesClientCert for LiveIdentity {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// The authorities whose clients a server accepts.
#[derive(Debug)]
pub(super) struct LiveClientRoots {
    live: Live<dyn ClientCertVerifier>,
    required: bool,
}

impl LiveClientRoots {
    pub(super) fn load(
        file: PathBuf,
        required: bool,
        provider: Arc<CryptoProvider>,
    ) -> anyhow::Result<Self> {
        let watched = vec![file.clone()];
        let load = move || {
            let roots = material::roots(&file)?;
            let builder = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
            let verifier = if required {
                builder.build()
            } else {
                builder.allow_unauthenticated().build()
            };
            Ok(verifier?)
        };
        Ok(Self {
            live: Live::new(watched, Box::new(load))?,
            required,
        })
    }
}

impl ClientCertVerifier for LiveClientRoots {
    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    /// No hints: they would name authorities that a rotation has just replaced.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.live
            .current()
            .verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.live
            .current()
            .verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.live
            .current()
            .verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.live.current().supported_verify_schemes()
    }
}

/// The authorities whose servers a client trusts.
#[derive(Debug)]
pub(super) struct LiveServerRoots(Live<WebPkiServerVerifier>);

impl LiveServerRoots {
    pub(super) fn load(file: PathBuf, provider: Arc<CryptoProvider>) -> anyhow::Result<Self> {
        let watched = vec![file.clone()];
        let load = move || {
            let roots = material::roots(&file)?;
            Ok(
                WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider))
                    .build()?,
            )
        };
        Live::new(watched, Box::new(load)).map(Self)
    }
}

impl ServerCertVerifier for LiveServerRoots {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.0.current().verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        )
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.current().verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.current().verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.current().supported_verify_schemes()
    }
}
