//! JWTs of configured issuers: whose keys count, and what a verified token proves. Verification reads memory only.

use std::sync::Arc;

use crate::model::decision::Denial;
use crate::model::identity::Principal;
use crate::model::time::Timestamp;

/// The configured issuers and their keys.
#[derive(Debug, Default)]
pub struct Issuers {}

/// What a bearer token turned out to be.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// Ours to judge, and good.
    Valid(Arc<Identity>),
    /// No JWT, or of an issuer that is not configured: it belongs to the application and proves nothing here.
    Foreign(&'static str),
    /// Ours to judge, and bad.
    Bad(Denial),
}

/// What a verified token proves.
#[derive(Debug, Clone)]
pub struct Identity {
    /// `user:<issuer>|<sub>`.
    pub user: Principal,
    /// `group:<issuer>|<name>`, bounded in number.
    pub groups: Vec<Principal>,
    /// The token's `exp`.
    pub expires: Timestamp,
    /// All claims, for policy conditions.
    pub claims: Arc<serde_json::Map<String, serde_json::Value>>,
}

impl Issuers {
    /// Judges a bearer token at `now`. Waits only (and at most 150 ms) for a key fetch that an unknown `kid` set off.
    pub async fn verify(&self, _token: &str, _now: Timestamp) -> Verdict {
        Verdict::Foreign("no issuer is configured")
    }

    /// Whether any issuer is configured.
    pub fn is_empty(&self) -> bool {
        true
    }
}
