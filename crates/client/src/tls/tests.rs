//! Claims about TLS from files and from system roots, against a server on loopback.

use std::fs;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::server::WebPkiClientVerifier;
use rustls::{ServerConfig, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::transport::Route;

/// An authority, and its files.
struct Authority {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        let issuer = Issuer::new(params, key);
        Self { folder, issuer }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Overwrites what was there under the name.
    fn issue(&self, name: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let files = (
            self.at(&format!("{name}.pem")),
            self.at(&format!("{name}.key")),
        );
        fs::write(&files.0, certificate.pem()).unwrap();
        fs::write(&files.1, key.serialize_pem()).unwrap();
        files
    }

    /// Whether a server of this authority, which asks for certificates of it, and a client agree.
    async fn agree(&self, version: &'static SupportedProtocolVersion, client: Tls) -> bool {
        let (cert, key) = self.issue("server");
        let chain = certificates(FileSetting::Certificate, &cert).unwrap();
        let private = PrivateKeyDer::from_pem_slice(&fs::read(key).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let roots = authorities(&self.at("ca.pem")).unwrap();
        let clients = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .build()
            .unwrap();
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, private)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let route = Route::new(&format!("https://localhost:{port}"), client).unwrap();
        let accepted = async {
            let (socket, _) = listener.accept().await.unwrap();
            TlsAcceptor::from(Arc::new(config)).accept(socket).await
        };
        let (served, _connected) = tokio::join!(accepted, route.connect());
        served.is_ok()
    }
}

fn refused(ca: Option<PathBuf>, identity: Option<(PathBuf, PathBuf)>) -> String {
    Tls::new(ca, identity).unwrap_err().to_string()
}

#[tokio::test]
async fn nothing_older_than_tls_1_3_is_spoken() {
    let authority = Authority::new();
    let own = authority.issue("client");
    let tls = || Tls::new(Some(authority.at("ca.pem")), Some(own.clone())).unwrap();
    assert!(authority.agree(&version::TLS13, tls()).await);
    assert!(!authority.agree(&version::TLS12, tls()).await);
}

#[tokio::test]
async fn a_server_of_another_authority_is_not_trusted() {
    let authority = Authority::new();
    let other = Authority::new();
    let tls = Tls::new(Some(other.at("ca.pem")), Some(authority.issue("client"))).unwrap();
    assert!(!authority.agree(&version::TLS13, tls).await);
}

#[tokio::test]
async fn a_rotated_identity_is_used_for_the_next_connection_and_a_broken_one_is_not() {
    let old = Authority::new();
    let own = old.issue("client");
    let new = Authority::new();
    let trust = |authority: &Authority| {
        let pem = fs::read(authority.at("ca.pem")).unwrap();
        fs::write(old.at("trusted.pem"), pem).unwrap();
    };
    trust(&old);
    let tls = Tls::new(Some(old.at("trusted.pem")), Some(own.clone())).unwrap();
    assert!(old.agree(&version::TLS13, tls.clone()).await);

    // Half of a rotation: a key that is not the certificate's.
    fs::write(&own.1, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    assert!(old.agree(&version::TLS13, tls.clone()).await);

    let (cert, key) = new.issue("client");
    fs::copy(cert, &own.0).unwrap();
    fs::copy(key, &own.1).unwrap();
    trust(&new);
    assert!(new.agree(&version::TLS13, tls.clone()).await);
    assert!(!old.agree(&version::TLS13, tls).await);
}

#[test]
fn a_file_that_cannot_be_used_is_named_with_what_is_wrong() {
    let authority = Authority::new();
    let ca = authority.at("ca.pem");
    let (cert, key) = authority.issue("client");
    fs::write(authority.at("empty"), "").unwrap();
    let absent = refused(Some(authority.at("absent")), None);
    assert!(absent.contains("absent: "), "{absent}");
    let empty = refused(Some(authority.at("empty")), None);
    assert!(
        empty.ends_with("empty: holds no PEM certificate"),
        "{empty}"
    );
    let swapped = refused(Some(ca.clone()), Some((key, cert.clone())));
    assert!(swapped.contains("client.key: "), "{swapped}");
    let (_, other) = authority.issue("other");
    let foreign = refused(Some(ca), Some((cert, other)));
    assert!(
        foreign.contains("other.key: is not the key of"),
        "{foreign}"
    );
}

#[test]
fn what_is_read_is_bounded() {
    let authority = Authority::new();
    let long = fs::File::create(authority.at("long")).unwrap();
    long.set_len(FILE_MAX + 1).unwrap();
    assert!(refused(Some(authority.at("long")), None).contains("is larger than"));
}
