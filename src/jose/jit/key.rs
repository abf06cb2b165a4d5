//! One key of the control plane: the pair that signs, and the public half that everybody may have. Debug shows neither half's bytes.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::jose::Algorithm;

/// Half of an uncompressed P-256 point, in bytes.
const COORDINATE: usize = 32;

/// What jitgate's own tokens are signed with: two of all that [`Algorithm`] lists, so that no key can be made for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TokenAlgorithm {
    /// Ed25519 (RFC 8037).
    #[default]
    EdDsa,
    /// ECDSA on P-256 with SHA-256 (RFC 7518).
    Es256,
}

/// Neither `EdDSA` nor `ES256`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be EdDSA or ES256")]
pub struct TokenAlgorithmError;

/// The cryptographic library refused. It does not say why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the token key cannot be used")]
pub(crate) struct SignError;

impl TokenAlgorithm {
    /// Both.
    pub const ALL: [Self; 2] = [Self::EdDsa, Self::Es256];

    /// The same among all algorithms.
    pub(crate) const fn jose(self) -> Algorithm {
        match self {
            Self::EdDsa => Algorithm::EdDSA,
            Self::Es256 => Algorithm::ES256,
        }
    }

    /// As JOSE writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
        }
    }
}

impl fmt::Display for TokenAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for TokenAlgorithm {
    type Err = TokenAlgorithmError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.as_str() == text)
            .ok_or(TokenAlgorithmError)
    }
}

/// A key that signs.
pub(crate) struct KeyPair {
    kid: Box<str>,
    pair: Pair,
}

enum Pair {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
}

/// The public half: what goes to sidecars and into the JWKS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PublicKey {
    /// Its name.
    pub kid: String,
    /// What it verifies.
    pub algorithm: TokenAlgorithm,
    /// The public JWK (RFC 7517).
    pub jwk: Value,
}

impl KeyPair {
    /// Makes a key of this name.
    ///
    /// # Errors
    /// [`SignError`] when the machine has no randomness to give.
    pub(crate) fn generate(
        algorithm: TokenAlgorithm,
        kid: impl Into<Box<str>>,
    ) -> Result<Self, SignError> {
        let pair = match algorithm {
            TokenAlgorithm::EdDsa => {
                Pair::Ed25519(Ed25519KeyPair::generate().map_err(|_| SignError)?)
            }
            TokenAlgorithm::Es256 => Pair::P256(
                EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| SignError)?,
            ),
        };
        Ok(Self {
            kid: kid.into(),
            pair,
        })
    }

    /// Reads a key from where it is kept.
    ///
    /// # Errors
    /// [`SignError`] when these bytes are no PKCS#8 key of this algorithm.
    pub(crate) fn from_pkcs8(
        algorithm: TokenAlgorithm,
        kid: impl Into<Box<str>>,
        pkcs8: &[u8],
    ) -> Result<Self, SignError> {
        let pair = match algorithm {
            TokenAlgorithm::EdDsa => {
                Pair::Ed25519(Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|_| SignError)?)
            }
            TokenAlgorithm::Es256 => {
                let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8);
                Pair::P256(pair.map_err(|_| SignError)?)
            }
        };
        Ok(Self {
            kid: kid.into(),
            pair,
        })
    }

    /// The private key, for where it is kept. Never for a log, an error or an answer.
    ///
    /// # Errors
    /// [`SignError`] when the library cannot write it.
    pub(crate) fn to_pkcs8(&self) -> Result<Vec<u8>, SignError> {
        match &self.pair {
            Pair::Ed25519(pair) => pair.to_pkcs8().map(|document| document.as_ref().to_vec()),
            Pair::P256(pair) => pair.to_pkcs8v1().map(|document| document.as_ref().to_vec()),
        }
        .map_err(|_| SignError)
    }

    /// Its name.
    pub(crate) fn kid(&self) -> &str {
        &self.kid
    }

    /// What it signs with.
    pub(crate) fn algorithm(&self) -> TokenAlgorithm {
        match self.pair {
            Pair::Ed25519(_) => TokenAlgorithm::EdDsa,
            Pair::P256(_) => TokenAlgorithm::Es256,
        }
    }

    /// The signature over `message`, as JOSE writes it.
    ///
    /// # Errors
    /// [`SignError`] when the library refuses.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        match &self.pair {
            Pair::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
            Pair::P256(pair) => {
                let signature = pair
                    .sign(&SystemRandom::new(), message)
                    .map_err(|_| SignError)?;
                Ok(signature.as_ref().to_vec())
            }
        }
    }

    /// The half that everybody may have.
    pub(crate) fn public(&self) -> PublicKey {
        let base64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let (kid, alg) = (&*self.kid, self.algorithm().as_str());
        let jwk = match &self.pair {
            Pair::Ed25519(pair) => {
                let x = base64(pair.public_key().as_ref());
                json!({"kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid, "alg": alg, "use": "sig"})
            }
            Pair::P256(pair) => {
                // 0x04, x, y.
                let point = pair.public_key().as_ref().get(1..).unwrap_or_default();
                let (x, y) = point.split_at(COORDINATE.min(point.len()));
                let (x, y) = (base64(x), base64(y));
                json!({"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": kid, "alg": alg, "use": "sig"})
            }
        };
        PublicKey {
            kid: kid.to_owned(),
            algorithm: self.algorithm(),
            jwk,
        }
    }
}

/// Its name and algorithm only.
impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair")
            .field("kid", &self.kid)
            .field("algorithm", &self.algorithm())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_kept_as_pkcs8_is_the_same_key() {
        for algorithm in TokenAlgorithm::ALL {
            let key = KeyPair::generate(algorithm, "k").unwrap();
            let again = KeyPair::from_pkcs8(algorithm, "k", &key.to_pkcs8().unwrap()).unwrap();
            assert_eq!(key.public(), again.public());
            assert_eq!(
                again.sign(b"message").unwrap().len(),
                64,
                "JOSE's fixed form, not DER"
            );
        }
    }

    #[test]
    fn a_key_of_the_other_algorithm_is_refused() {
        let key = KeyPair::generate(TokenAlgorithm::EdDsa, "k")
            .unwrap()
            .to_pkcs8()
            .unwrap();
        assert!(KeyPair::from_pkcs8(TokenAlgorithm::Es256, "k", &key).is_err());
        assert!(KeyPair::from_pkcs8(TokenAlgorithm::EdDsa, "k", b"").is_err());
    }

    #[test]
    fn neither_debug_nor_the_public_half_holds_the_private_key() {
        for algorithm in TokenAlgorithm::ALL {
            let key = KeyPair::generate(algorithm, "k").unwrap();
            let jwk = key.public().jwk;
            assert!(
                jwk.get("d").is_none() && jwk["kid"] == "k" && jwk["alg"] == algorithm.as_str(),
                "{jwk}"
            );
            assert_eq!(
                format!("{key:?}"),
                format!("KeyPair {{ kid: \"k\", algorithm: {algorithm:?}, .. }}")
            );
        }
    }
}
