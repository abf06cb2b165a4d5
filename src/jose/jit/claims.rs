//! What a token says, and its one encoding. Whoever signs holds the key; nothing here decides who may have a token.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;

use super::TYP;
use super::key::{KeyPair, SignError};
use crate::model::grant::{GrantId, Revision};
use crate::model::identity::{Principal, Service};
use crate::model::time::Timestamp;

/// No token lives longer than this.
pub(crate) const TOKEN_LIFETIME_MAX: Duration = Duration::from_secs(300);

const SECOND: u64 = 1_000_000;

/// The claims of a token. Times are whole seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JitClaims {
    /// `iss`: the control plane's token issuer.
    pub issuer: String,
    /// `sub`: who holds the grant.
    pub subject: Principal,
    /// `aud`: the one service that the grant is for.
    pub audience: Service,
    /// `iat`.
    pub issued: Timestamp,
    /// `nbf`.
    pub not_before: Timestamp,
    /// `exp`, exclusive.
    pub expires: Timestamp,
    /// `jti`: a ULID.
    pub id: String,
    /// `grant`: the only grant that the token proves anything about.
    pub grant: GrantId,
    /// `rev`: a store revision at which that grant is certainly there.
    pub revision: Revision,
    /// `cnf.spiffe_id`: the workload that may present it.
    pub workload: Principal,
}

#[derive(Serialize)]
struct Header<'a> {
    alg: &'a str,
    kid: &'a str,
    typ: &'a str,
}

#[derive(Serialize)]
struct Body<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    iat: u64,
    nbf: u64,
    exp: u64,
    jti: &'a str,
    grant: &'a str,
    rev: u64,
    cnf: Confirmation<'a>,
}

#[derive(Serialize)]
struct Confirmation<'a> {
    spiffe_id: &'a str,
}

impl JitClaims {
    /// The token, signed. It is a credential: it belongs into the answer to whoever asked, and nowhere else.
    ///
    /// # Errors
    /// [`SignError`] when the key cannot sign.
    pub(crate) fn sign(&self, key: &KeyPair) -> Result<String, SignError> {
        let header = Header {
            alg: key.algorithm().as_str(),
            kid: key.kid(),
            typ: TYP,
        };
        let body = Body {
            iss: &self.issuer,
            sub: self.subject.as_str(),
            aud: self.audience.as_str(),
            iat: seconds(self.issued),
            nbf: seconds(self.not_before),
            exp: seconds(self.expires),
            jti: &self.id,
            grant: self.grant.as_str(),
            rev: self.revision.0,
            cnf: Confirmation {
                spiffe_id: self.workload.as_str(),
            },
        };
        let mut token = format!("{}.{}", encode(&header)?, encode(&body)?);
        let signature = key.sign(token.as_bytes())?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }
}

fn encode(part: &impl Serialize) -> Result<String, SignError> {
    serde_json::to_vec(part)
        .map(|json| URL_SAFE_NO_PAD.encode(json))
        .map_err(|_| SignError)
}

/// Whole seconds, rounded down.
pub(crate) fn seconds(time: Timestamp) -> u64 {
    time.as_micros() / SECOND
}

/// The beginning of a second, saturating.
pub(crate) fn at_second(seconds: u64) -> Timestamp {
    Timestamp::from_micros(seconds.saturating_mul(SECOND))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jose::jit::key::TokenAlgorithm;
    use serde_json::{Value, json};

    /// The longest that a usual mesh has: what the size is promised for.
    fn claims() -> JitClaims {
        JitClaims {
            issuer: "jitgate:01J9Z3NDEKTSV4RRFFQ69G5FAV".to_owned(),
            subject: Principal::parse(
                "user:https://idp.example/realms/engineering|f:8a2f4c1e-6b1d-4f9a-9a51-6d0f4f0e2a77",
            )
            .unwrap(),
            audience: Service::parse("payments.shop.svc.cluster.local").unwrap(),
            issued: at_second(1_700_000_000),
            not_before: at_second(1_700_000_000),
            expires: at_second(1_700_000_300),
            id: "01J9Z3NDEKTSV4RRFFQ69G5FAV".to_owned(),
            grant: GrantId::parse("01J9Z3NDEKTSV4RRFFQ69G5FAW").unwrap(),
            revision: Revision(u64::MAX >> 1),
            workload: Principal::parse("spiffe://mesh.example/ns/shop-production/sa/checkout-backend").unwrap(),
        }
    }

    fn part(token: &str, n: usize) -> Value {
        serde_json::from_slice(
            &URL_SAFE_NO_PAD
                .decode(token.split('.').nth(n).unwrap())
                .unwrap(),
        )
        .unwrap()
    }

    #[test]
    fn a_token_has_exactly_the_header_and_claims_of_its_format() {
        for algorithm in TokenAlgorithm::ALL {
            let key = KeyPair::generate(algorithm, "k1").unwrap();
            let token = claims().sign(&key).unwrap();
            assert_eq!(token.split('.').count(), 3);
            assert_eq!(
                part(&token, 0),
                json!({"alg": algorithm.as_str(), "kid": "k1", "typ": "jit+jwt"})
            );
            assert_eq!(
                part(&token, 1),
                json!({
                    "iss": claims().issuer, "sub": claims().subject.as_str(), "aud": claims().audience.as_str(),
                    "iat": 1_700_000_000, "nbf": 1_700_000_000, "exp": 1_700_000_300, "jti": claims().id,
                    "grant": claims().grant.as_str(), "rev": u64::MAX >> 1,
                    "cnf": {"spiffe_id": claims().workload.as_str()},
                })
            );
        }
    }

    #[test]
    fn a_token_of_long_names_stays_below_a_kibibyte() {
        for algorithm in TokenAlgorithm::ALL {
            let key = KeyPair::generate(algorithm, "01J9Z3NDEKTSV4RRFFQ69G5FAV").unwrap();
            let length = claims().sign(&key).unwrap().len();
            assert!(length < 1024, "{algorithm:?}: {length} bytes");
        }
    }
}
