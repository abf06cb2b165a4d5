//! The life of the keys that sign tokens: published, signing, retired, removed. Pure: it says what is due at a moment.
//!
//! A key is known to everybody for the lead before anything is signed with it, and stays known until no token by it can
//! be alive. So whichever moment a token is verified at, its key is there.

use std::time::Duration;

use crate::clock::server::ALLOWED_SKEW;
use crate::control::store::token_key::{Stage, TokenKey};
use crate::jose::jit::{TOKEN_LIFETIME_MAX, TokenAlgorithm};
use crate::model::time::Timestamp;

/// Keys published at once, at most.
pub(crate) const KEYS_MAX: usize = 16;

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
