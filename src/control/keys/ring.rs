//! The life of the keys that sign tokens: published, signing, retired, removed. Pure: it says what is due at a moment.
//!
//! A key is known to everybody for the lead before anything is signed with it, and stays known until no token by it can
//! be alive. So whichever moment a token is verified at, its key is there.

use std::fmt;
use std::time::Duration;

use crate::clock::server::ALLOWED_SKEW;
use crate::jose::jit::{KeyPair, PublicKey, SignError, TOKEN_LIFETIME_MAX, TokenAlgorithm};
use crate::model::time::Timestamp;
use crate::wire::grant::{timestamp_from, timestamp_to};
use crate::wire::store;

/// Keys published at once, at most.
pub(crate) const KEYS_MAX: usize = 16;

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

/// When keys come and go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Schedule {
    /// What new keys sign with.
    pub algorithm: TokenAlgorithm,
    /// A key signs for this long; `None`: until somebody rotates.
    pub rotate_every: Option<Duration>,
    /// A key is known for this long before it signs. Also how long others may keep the list of keys.
    pub lead: Duration,
}

impl Schedule {
    /// A retired key stays published for this long: the life of the last token by it, the clocks' allowance, and the age
    /// of a list that somebody kept.
    pub(crate) fn keep_retired(&self) -> Duration {
        TOKEN_LIFETIME_MAX + ALLOWED_SKEW + self.lead.max(Duration::from_secs(60))
    }
}

/// What is to be done with the keys now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Make the next key known.
    Publish,
    /// Sign with this key; the one before retires.
    Promote(String),
    /// Withdraw this key.
    Remove(String),
}

/// Every key that is published.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ring(pub Vec<TokenKey>);

impl Ring {
    /// The key that is to sign next.
    pub(crate) fn next(&self) -> Option<&TokenKey> {
        self.0.iter().find(|key| key.stage() == Stage::Published)
    }

    /// The key that signs.
    pub(crate) fn signing(&self) -> Option<&TokenKey> {
        self.0
            .iter()
            .find(|key| matches!(key.stage(), Stage::Signing(_)))
    }

    /// The first thing that is due at `now`; nothing more is once there is none.
    pub(crate) fn step(&self, schedule: &Schedule, now: Timestamp) -> Option<Step> {
        let removable = self
            .0
            .iter()
            .find(|key| self.leaves_at(key, schedule).is_some_and(|at| at <= now));
        match (self.signing(), self.next()) {
            (None, None) => Some(Step::Publish),
            (None, Some(next)) => Some(Step::Promote(next.kid.clone())),
            (Some(_), Some(next)) if next.published.plus(schedule.lead) <= now => {
                Some(Step::Promote(next.kid.clone()))
            }
            (Some(signing), None) if replaced_at(signing, schedule).is_some_and(|at| at <= now) => {
                Some(Step::Publish)
            }
            (Some(_), _) => removable.map(|key| Step::Remove(key.kid.clone())),
        }
    }

    /// When this key goes on by the clock alone.
    pub(crate) fn leaves_at(&self, key: &TokenKey, schedule: &Schedule) -> Option<Timestamp> {
        match key.stage() {
            Stage::Retired(at) => Some(at.plus(schedule.keep_retired())),
            Stage::Published | Stage::Signing(_) => None,
        }
    }

    /// When a key enters its next stage by the clock alone.
    pub(crate) fn moves_at(&self, key: &TokenKey, schedule: &Schedule) -> Option<Timestamp> {
        match (key.stage(), self.next()) {
            (Stage::Published, _) => Some(key.published.plus(schedule.lead)),
            (Stage::Signing(_), Some(next)) => Some(next.published.plus(schedule.lead)),
            (Stage::Signing(_), None) => {
                replaced_at(key, schedule).map(|at| at.plus(schedule.lead))
            }
            (Stage::Retired(_), _) => self.leaves_at(key, schedule),
        }
    }

    /// When to look again, if nothing else happens.
    pub(crate) fn wakes_at(&self, schedule: &Schedule) -> Option<Timestamp> {
        let replaced = self
            .signing()
            .filter(|_| self.next().is_none())
            .and_then(|key| replaced_at(key, schedule));
        let promoted = self.next().map(|next| next.published.plus(schedule.lead));
        let removed = self
            .0
            .iter()
            .filter_map(|key| self.leaves_at(key, schedule))
            .min();
        [replaced, promoted, removed].into_iter().flatten().min()
    }
}

/// When the key after this one is published: at once if it is not of the algorithm that is wanted.
fn replaced_at(signing: &TokenKey, schedule: &Schedule) -> Option<Timestamp> {
    let Stage::Signing(since) = signing.stage() else {
        return None;
    };
    if signing.algorithm != schedule.algorithm {
        return Some(since);
    }
    schedule
        .rotate_every
        .map(|every| since.plus(every.saturating_sub(schedule.lead)))
}

#[cfg(test)]
mod tests;
