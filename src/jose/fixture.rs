//! An identity provider for tests: keys made once, tokens signed by another library than the one that verifies them.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::FutureExt as _;
use jsonwebtoken::EncodingKey;
use jsonwebtoken::jwk::Jwk;
use serde_json::{Value, json};

use super::issuers::{Issuers, Verdict};
use crate::jose::Algorithm;
use crate::model::decision::DenyReason;
use crate::model::time::Timestamp;

pub(super) const NOW_SECONDS: u64 = 1_700_000_000;
pub(super) const NOW: Timestamp = Timestamp::from_micros(NOW_SECONDS * 1_000_000);
pub(super) const ISSUER: &str = "https://idp.example";
pub(super) const SECRET: &str =
    "a shared secret that is long enough for each of the three hashes: 64 bytes";

/// `NOW` and `seconds` more, as a NumericDate.
pub(super) fn at(seconds: i64) -> u64 {
    NOW_SECONDS.saturating_add_signed(seconds)
}

/// A private key that signs tokens.
pub(super) struct Signer {
    pub(super) algorithm: Algorithm,
    key: EncodingKey,
}

fn ecdsa(signing: &'static EcdsaSigningAlgorithm, algorithm: Algorithm) -> Signer {
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(signing, &SystemRandom::new()).unwrap();
    Signer {
        algorithm,
        key: EncodingKey::from_ec_der(pkcs8.as_ref()),
    }
}

pub(super) fn es256() -> Signer {
    ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING, Algorithm::ES256)
}

pub(super) fn es384() -> Signer {
    ecdsa(&ECDSA_P384_SHA384_FIXED_SIGNING, Algorithm::ES384)
}

pub(super) fn eddsa() -> Signer {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new()).unwrap();
    Signer {
        algorithm: Algorithm::EdDSA,
        key: EncodingKey::from_ed_der(pkcs8.as_ref()),
    }
}

/// One RSA key for all tests, which takes long to make.
pub(super) fn rsa(algorithm: Algorithm) -> Signer {
    static PKCS8: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let key =
            rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048)
                .unwrap();
        key.serialize_der()
    });
    Signer {
        algorithm,
        // The RSAPrivateKey itself, behind the 26 bytes that say what it is.
        key: EncodingKey::from_rsa_der(&PKCS8[26..]),
    }
}

pub(super) fn hmac(algorithm: Algorithm) -> Signer {
    Signer {
        algorithm,
        key: EncodingKey::from_secret(SECRET.as_bytes()),
    }
}

impl Signer {
    /// The public key as a JWK of this id, without `alg`.
    pub(super) fn jwk(&self, kid: &str) -> Value {
        let mut jwk =
            serde_json::to_value(Jwk::from_encoding_key(&self.key, self.algorithm).unwrap())
                .unwrap();
        jwk.as_object_mut().unwrap().remove("alg");
        jwk["kid"] = kid.into();
        jwk
    }

    /// A token of this header and these claims, written as they are.
    pub(super) fn seal(&self, header: &str, claims: &str) -> String {
        let message = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header),
            URL_SAFE_NO_PAD.encode(claims)
        );
        let signature =
            jsonwebtoken::crypto::sign(message.as_bytes(), &self.key, self.algorithm).unwrap();
        format!("{message}.{signature}")
    }

    /// A token of this key id and these claims.
    pub(super) fn token(&self, kid: &str, claims: &Value) -> String {
        let header = json!({ "alg": self.algorithm, "typ": "JWT", "kid": kid });
        self.seal(&header.to_string(), &claims.to_string())
    }
}

/// Claims that are good for five minutes around `NOW`.
pub(super) fn claims() -> Value {
    json!({ "iss": ISSUER, "sub": "alice", "aud": "jitgate", "exp": at(300), "nbf": at(-1), "iat": at(-1), "groups": ["sre", "dev"] })
}

/// [`claims`] with some of them replaced; `null` removes one.
pub(super) fn claims_with(changes: &Value) -> Value {
    let mut claims = claims();
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims
}

/// A JWKS of these keys.
pub(super) fn jwks(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

/// An issuers file of one issuer with these lines.
pub(super) fn yaml(lines: &str) -> String {
    format!(
        "apiVersion: jitgate.dev/v1\nkind: Issuers\nissuers:\n  - issuer: {ISSUER}\n    audiences: [jitgate]\n    {}\n",
        lines.replace('\n', "\n    ")
    )
}

/// The issuer with these keys in its file.
pub(super) fn inline(keys: &[Value]) -> Issuers {
    configured(&format!("jwks: {}", jwks(keys)))
}

/// The issuer with these lines.
pub(super) fn configured(lines: &str) -> Issuers {
    Issuers::parse(&yaml(lines), Path::new("issuers.yaml")).unwrap()
}

/// Judges at `NOW` what must be answered without waiting.
pub(super) fn judge(issuers: &Issuers, token: &str) -> Verdict {
    judge_at(issuers, token, NOW)
}

pub(super) fn judge_at(issuers: &Issuers, token: &str, now: Timestamp) -> Verdict {
    issuers
        .verify(token, now)
        .now_or_never()
        .expect("verifying waited although nothing is to wait for")
}

pub(super) fn reason(verdict: &Verdict) -> Option<DenyReason> {
    match verdict {
        Verdict::Bad(denial) => Some(denial.reason),
        Verdict::Valid(_) | Verdict::Foreign(_) => None,
    }
}

pub(super) fn is_valid(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Valid(_))
}

/// Runs the issuers' refresh until the guard is dropped.
pub(super) struct Running {
    _set: tokio::task::JoinSet<crate::runtime::Outcome>,
}

pub(super) fn run(issuers: &Arc<Issuers>) -> Running {
    let mut set = tokio::task::JoinSet::new();
    set.spawn(Arc::clone(issuers).run(tokio_util::sync::CancellationToken::new()));
    Running { _set: set }
}
