//! What an issuer's tokens must meet, and what a verified one proves.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::keyring::Keyring;
use crate::jose::Algorithm;
use crate::jose::cache::Expires;
use crate::model::identity::Principal;
use crate::model::time::Timestamp;

/// An issuer with its keys.
pub(super) struct Issuer {
    pub(super) terms: Terms,
    pub(super) keyring: Keyring,
}

/// What a token of one issuer must meet, keys aside.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) issuer: Arc<str>,
    pub(super) audiences: Vec<String>,
    /// `None` leaves it to the keys.
    pub(super) algorithms: Option<Vec<Algorithm>>,
    pub(super) groups_claim: Box<str>,
    pub(super) leeway: Duration,
}

/// What a verified token proves.
#[derive(Clone)]
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

impl Expires for Identity {
    fn expires(&self) -> Timestamp {
        self.expires
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            user,
            groups,
            expires,
            claims: _,
        } = self;
        f.debug_struct("Identity")
            .field("user", user)
            .field("groups", groups)
            .field("expires", expires)
            .finish_non_exhaustive()
    }
}
