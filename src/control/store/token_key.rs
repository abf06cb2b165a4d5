//! A key that tokens are signed with, as the store keeps it, and what it is good for at a time.

use std::fmt;

use crate::jose::jit::{KeyPair, PublicKey, SignError, TokenAlgorithm};
use crate::model::time::Timestamp;
use crate::wire::grant::{timestamp_from, timestamp_to};
use crate::wire::store;

/// One key, private half and all, as long as that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenKey {
    /// Its name: a ULID.
    pub kid: String,
    /// What it signs with, and all that it verifies.
    pub algorithm: TokenAlgorithm,
    /// The public JWK, JSON.
    pub jwk: String,
    /// Since when everybody can know it.
    pub published: Timestamp,
    signing: Option<Timestamp>,
    retired: Option<Timestamp>,
    secret: Secret,
}

/// A private key as PKCS#8; empty once it is gone.
#[derive(Clone, PartialEq, Eq)]
struct Secret(Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Where a key stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Known; signs nothing yet.
    Published,
    /// Signs, since then.
    Signing(Timestamp),
    /// Signs nothing more, since then.
    Retired(Timestamp),
}

impl Stage {
    /// The word for it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Published => "PUBLISHED",
            Self::Signing(_) => "SIGNING",
            Self::Retired(_) => "RETIRED",
        }
    }
}

impl TokenKey {
    /// A key that nobody knows yet.
    ///
    /// # Errors
    /// [`SignError`] when it cannot be written down.
    pub(crate) fn new(pair: &KeyPair, now: Timestamp) -> Result<Self, SignError> {
        let PublicKey {
            kid,
            algorithm,
            jwk,
        } = pair.public();
        let secret = Secret(pair.to_pkcs8()?);
        Ok(Self {
            kid,
            algorithm,
            jwk: jwk.to_string(),
            published: now,
            signing: None,
            retired: None,
            secret,
        })
    }

    /// Where it stands.
    pub(crate) fn stage(&self) -> Stage {
        match (self.signing, self.retired) {
            (_, Some(at)) => Stage::Retired(at),
            (Some(at), None) => Stage::Signing(at),
            (None, None) => Stage::Published,
        }
    }

    /// Since when it has signed, if it ever has.
    pub(crate) fn signing(&self) -> Option<Timestamp> {
        self.signing
    }

    /// Since when it signs nothing more.
    pub(crate) fn retired(&self) -> Option<Timestamp> {
        self.retired
    }

    /// It signs from now on. A retired key never does again.
    pub(crate) fn sign_since(&mut self, now: Timestamp) {
        if self.stage() == Stage::Published {
            self.signing = Some(now);
        }
    }

    /// It signs nothing more, and cannot: the private half is dropped.
    pub(crate) fn retire_at(&mut self, now: Timestamp) {
        self.retired.get_or_insert(now);
        self.secret.0 = Vec::new();
    }

    /// The pair that signs.
    ///
    /// # Errors
    /// [`SignError`] when the private half is gone or damaged.
    pub(crate) fn pair(&self) -> Result<KeyPair, SignError> {
        KeyPair::from_pkcs8(self.algorithm, self.kid.as_str(), &self.secret.0)
    }

    /// For the store, and for nothing else.
    pub(crate) fn to_row(&self) -> store::TokenKey {
        store::TokenKey {
            kid: self.kid.clone(),
            alg: self.algorithm.as_str().to_owned(),
            pkcs8: self.secret.0.clone().into(),
            jwk: self.jwk.clone(),
            publish_time: Some(timestamp_to(self.published)),
            sign_time: self.signing.map(timestamp_to),
            retire_time: self.retired.map(timestamp_to),
        }
    }

    /// From the store.
    ///
    /// # Errors
    /// What is wrong with the row, without what it holds.
    pub(crate) fn from_row(row: store::TokenKey) -> Result<Self, String> {
        let store::TokenKey {
            kid,
            alg,
            pkcs8,
            jwk,
            publish_time,
            sign_time,
            retire_time,
        } = row;
        let time = |time: Option<prost_types::Timestamp>, field: &str| {
            time.map(|time| timestamp_from(&time, field).map_err(|error| error.to_string()))
                .transpose()
        };
        let key = Self {
            kid,
            algorithm: alg
                .parse()
                .map_err(|error| format!("its algorithm {error}"))?,
            jwk,
            published: time(publish_time, "publish_time")?.ok_or("it was never published")?,
            signing: time(sign_time, "sign_time")?,
            retired: time(retire_time, "retire_time")?,
            secret: Secret(pkcs8.into()),
        };
        match key.stage() {
            Stage::Published | Stage::Signing(_) => {
                key.pair().map(drop).map_err(|error| error.to_string())?
            }
            Stage::Retired(_) => {}
        }
        Ok(key)
    }
}
