//! Whether a token counts: a pure function of the keys, the token, the service it is presented at, and the time.

use super::claims::JitClaims;
use crate::model::decision::{Denial, DenyReason};
use crate::model::identity::Service;
use crate::model::time::Timestamp;
use crate::wire::v1;

/// The control plane's issuer name, and the keys that it has published.
#[derive(Debug, Default)]
pub struct JitKeys {
    issuer: String,
}

/// Why a list of keys cannot be used. One line for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeysError(String);

/// A token that counts: signed by one of the keys, for this service, at this time. Whether its workload presents it and
/// its grant is alive is for the decision to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JitToken {
    /// What it says.
    pub claims: JitClaims,
}

impl JitKeys {
    /// What a control plane has published.
    ///
    /// # Errors
    /// [`KeysError`] names the key that cannot be used.
    pub fn from_wire(published: &v1::TokenKeys) -> Result<Self, KeysError> {
        Ok(Self { issuer: published.issuer.clone() })
    }

    /// `iss` of every token.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }
}

/// Verifies a token.
///
/// # Errors
/// The first check that fails, in the order shape, type, key, signature, issuer, claims, audience, times.
pub fn verify(keys: &JitKeys, token: &str, audience: &Service, now: Timestamp) -> Result<JitToken, Denial> {
    let _ = (keys, token, audience, now);
    Err(Denial::new(DenyReason::TokenKeyUnknown, "no key is known"))
}
