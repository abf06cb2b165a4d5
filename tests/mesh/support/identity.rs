//! A trust domain and an identity provider of the test's own: certificates with SPIFFE IDs, and signed tokens.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use serde_json::json;

use crate::support::raw_http::Credentials;

/// The issuer that every test token comes from.
pub const ISSUER: &str = "https://idp.test";

/// One certificate authority and one token issuer, with their files in a folder.
pub struct Identities {
    dir: PathBuf,
    authority: Issuer<'static, KeyPair>,
    token_key: KeyPair,
}

impl Identities {
    /// Makes the authority, the issuer's key and `issuers.yaml`.
    pub fn create(dir: &Path) -> Self {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        fs::write(dir.join("ca.pem"), certificate.pem()).unwrap();
        let token_key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let made = Self {
            dir: dir.to_owned(),
            authority: Issuer::new(params, key),
            token_key,
        };
        made.write_issuers();
        made
    }

    fn write_issuers(&self) {
        let point = self.token_key.public_key_raw();
        let (x, y) = (
            URL_SAFE_NO_PAD.encode(&point[1..33]),
            URL_SAFE_NO_PAD.encode(&point[33..65]),
        );
        let key = json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "k1", "x": x, "y": y});
        fs::write(
            self.dir.join("jwks.json"),
            json!({"keys": [key]}).to_string(),
        )
        .unwrap();
        let text = format!(
            "apiVersion: jitgate.dev/v1\nkind: Issuers\nissuers:\n  - issuer: {ISSUER}\n    audiences: [jitgate]\n    jwksFile: jwks.json\n"
        );
        fs::write(self.issuers_file(), text).unwrap();
    }

    /// The `--issuers` file.
    pub fn issuers_file(&self) -> PathBuf {
        self.dir.join("issuers.yaml")
    }

    /// A token for `sub` with these groups, good for an hour; an hour old, so that a clock that is wrong by less takes it.
    pub fn token(&self, sub: &str, groups: &[&str]) -> String {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs();
        self.sign(
            &json!({"iss": ISSUER, "sub": sub, "aud": "jitgate", "iat": now - 3600, "exp": now + 3600, "groups": groups}),
        )
    }

    /// Signs any claims with the issuer's key.
    pub fn sign(&self, claims: &serde_json::Value) -> String {
        let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256);
        header.kid = Some("k1".into());
        let key = jsonwebtoken::EncodingKey::from_ec_der(self.token_key.serialized_der());
        jsonwebtoken::encode(&header, claims, &key).unwrap()
    }

    /// A certificate for `spiffe://td.test/<path>`, good as server and client on this machine.
    pub fn certificate(&self, name: &str, path: &str) -> Credentials {
        self.certificate_at(name, path, &["localhost", "127.0.0.1"])
    }

    /// The same for a server at these names.
    pub fn certificate_at(&self, name: &str, path: &str, names: &[&str]) -> Credentials {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        let uri = format!("spiffe://td.test/{path}");
        params
            .subject_alt_names
            .push(SanType::URI(uri.try_into().unwrap()));
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        let files = Credentials {
            ca: self.dir.join("ca.pem"),
            cert: self.dir.join(format!("{name}.pem")),
            key: self.dir.join(format!("{name}.key")),
        };
        fs::write(&files.cert, certificate.pem()).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }
}
