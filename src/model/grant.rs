//! A grant as it is enforced: who, through whom, what, from when to when, and whether it was ended early.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::identity::Principal;
use super::scope::Scope;
use super::time::Timestamp;

/// A store revision: one number for each committed change, strictly rising within an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A grant's name: a ULID, or the name of a standing grant. 1 to 128 of letters, digits, `.`, `_` and `-`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GrantId(Arc<str>);

/// Why a string is no grant id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 128 letters, digits, '.', '_' and '-'")]
pub struct GrantIdError;

impl GrantId {
    /// Parses an id.
    ///
    /// # Errors
    /// [`GrantIdError`] states the rule.
    pub fn parse(text: &str) -> Result<Self, GrantIdError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if (1..=128).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.into()))
        } else {
            Err(GrantIdError)
        }
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GrantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for GrantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What both planes hold of a grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Its name.
    pub id: GrantId,
    /// Who holds it.
    pub subject: Principal,
    /// Only through these workloads; empty: through any.
    pub via: Vec<Principal>,
    /// What it allows.
    pub scope: Scope,
    /// Start of validity, inclusive.
    pub not_before: Timestamp,
    /// End of validity.
    pub end: End,
    /// Whether something other than the clock holds it back.
    pub hold: Hold,
    /// What counts while the table is stale.
    pub staleness: Staleness,
    /// The policy behind it: name and version.
    pub policy: PolicyRef,
    /// W3C trace context of its approval.
    pub traceparent: Option<Arc<str>>,
    /// The store's revision of its last change.
    pub mod_revision: Revision,
}

/// Which policy, in which version.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PolicyRef {
    /// Empty on a standing grant.
    pub name: Arc<str>,
    /// From 1.
    pub version: u64,
}

/// When a grant ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// At this instant, exclusive. Never recomputed.
    At(Timestamp),
    /// Never: a standing grant, declared by an operator.
    Standing,
}

/// What other than time holds a grant back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Nothing.
    None,
    /// Suspended; time runs on.
    Suspended,
    /// Over: kept as a tombstone to explain refusals, at least until `keep_until`.
    Ended {
        /// How it ended.
        how: Ended,
        /// The entry may be forgotten after this.
        keep_until: Timestamp,
    },
}

/// How a grant ended. All are terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Its time was up.
    Expired,
    /// Ended by an operator or by policy.
    Revoked,
    /// Ended by its owner.
    Released,
}

/// Where a grant stands, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GrantState {
    /// `not_before` lies ahead.
    Scheduled,
    /// In force.
    Active,
    /// Held back by an operator.
    Suspended,
    /// Past its end. Terminal.
    Expired,
    /// Ended by an operator or by policy. Terminal.
    Revoked,
    /// Ended by its owner. Terminal.
    Released,
}

/// What can be done to a grant. That it begins is the clock's doing, and no step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GrantStep {
    /// An operator holds it back.
    Suspend,
    /// An operator lets it count again.
    Resume,
    /// It is recorded that its time was up.
    Expire,
    /// An operator or its subject ends it.
    Revoke,
    /// Its subject is done.
    Release,
}

/// A step that a grant cannot take from where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.why())]
pub struct StepRefused {
    /// Where it stands.
    pub at: GrantState,
    /// What was to be done.
    pub step: GrantStep,
}

impl StepRefused {
    fn why(self) -> String {
        match self.at {
            GrantState::Expired | GrantState::Revoked | GrantState::Released => {
                format!("the grant is already {} and stays so", self.at.as_str())
            }
            GrantState::Scheduled => "the grant has not begun yet; it can be revoked".to_owned(),
            GrantState::Suspended => "the grant is suspended already".to_owned(),
            GrantState::Active => {
                "the grant is active, not suspended, and its time is not up".to_owned()
            }
        }
    }
}

impl GrantState {
    /// Every state.
    pub const ALL: [Self; 6] = [
        Self::Scheduled,
        Self::Active,
        Self::Suspended,
        Self::Expired,
        Self::Revoked,
        Self::Released,
    ];

    /// Where `step` leads. Total.
    ///
    /// # Errors
    /// [`StepRefused`]: every step of a grant that is over, holding back what has not begun or is held back already,
    /// and resuming what is not suspended.
    pub const fn after(self, step: GrantStep) -> Result<Self, StepRefused> {
        match (self, step) {
            (Self::Active, GrantStep::Suspend) => Ok(Self::Suspended),
            (Self::Suspended, GrantStep::Resume) => Ok(Self::Active),
            (Self::Active | Self::Suspended, GrantStep::Expire) => Ok(Self::Expired),
            (Self::Scheduled | Self::Active | Self::Suspended, GrantStep::Revoke) => {
                Ok(Self::Revoked)
            }
            (Self::Scheduled | Self::Active | Self::Suspended, GrantStep::Release) => {
                Ok(Self::Released)
            }
            (Self::Scheduled, GrantStep::Suspend | GrantStep::Resume | GrantStep::Expire)
            | (Self::Active, GrantStep::Resume)
            | (Self::Suspended, GrantStep::Suspend)
            | (Self::Expired | Self::Revoked | Self::Released, _) => {
                Err(StepRefused { at: self, step })
            }
        }
    }

    /// Whether nothing can change it any more.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Expired | Self::Revoked | Self::Released)
    }

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "SCHEDULED",
            Self::Active => "ACTIVE",
            Self::Suspended => "SUSPENDED",
            Self::Expired => "EXPIRED",
            Self::Revoked => "REVOKED",
            Self::Released => "RELEASED",
        }
    }
}

impl From<Ended> for GrantState {
    fn from(how: Ended) -> Self {
        match how {
            Ended::Expired => Self::Expired,
            Ended::Revoked => Self::Revoked,
            Ended::Released => Self::Released,
        }
    }
}

impl From<Ended> for GrantStep {
    fn from(how: Ended) -> Self {
        match how {
            Ended::Expired => Self::Expire,
            Ended::Revoked => Self::Revoke,
            Ended::Released => Self::Release,
        }
    }
}

impl Phase {
    /// In one word.
    pub fn state(self) -> GrantState {
        match self {
            Self::NotStarted => GrantState::Scheduled,
            Self::Live(_) => GrantState::Active,
            Self::Suspended => GrantState::Suspended,
            Self::Ended(how) => how.into(),
        }
    }
}

/// What counts when the sidecar has not heard from the control plane for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Staleness {
    /// Nothing: the answer is STALE.
    #[default]
    Strict,
    /// The last known state, until the grant ends.
    LastKnown,
}

/// Where a grant stands at an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// `not_before` lies ahead.
    NotStarted,
    /// In force; what is left, `None` for a standing grant.
    Live(Option<Duration>),
    /// Held back; may come back.
    Suspended,
    /// Over.
    Ended(Ended),
}

impl Grant {
    /// Where the grant stands at `now`. Terminal holds win over the clock, the clock over suspension.
    pub fn phase(&self, now: Timestamp) -> Phase {
        if let Hold::Ended { how, .. } = self.hold {
            return Phase::Ended(how);
        }
        let left = match self.end {
            End::At(end) if now >= end => return Phase::Ended(Ended::Expired),
            End::At(end) => Some(end.since(now)),
            End::Standing => None,
        };
        if self.hold == Hold::Suspended {
            return Phase::Suspended;
        }
        if now < self.not_before {
            Phase::NotStarted
        } else {
            Phase::Live(left)
        }
    }

    /// Where it stands at `now`, in one word.
    pub fn state(&self, now: Timestamp) -> GrantState {
        self.phase(now).state()
    }

    /// When it ends by itself, if ever.
    pub fn expires(&self) -> Option<Timestamp> {
        match self.end {
            End::At(end) => Some(end),
            End::Standing => None,
        }
    }

    /// Whether a call from this mTLS peer is one the grant is meant for.
    pub fn passes_through(&self, peer: Option<&Principal>) -> bool {
        self.via.is_empty() || peer.is_some_and(|peer| self.via.contains(peer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: [GrantStep; 5] = [
        GrantStep::Suspend,
        GrantStep::Resume,
        GrantStep::Expire,
        GrantStep::Revoke,
        GrantStep::Release,
    ];

    #[test]
    fn every_state_takes_exactly_the_steps_of_the_table() {
        use GrantState::{Active, Expired, Released, Revoked, Scheduled, Suspended};
        // Suspend, resume, expire, revoke, release.
        let table = [
            (Scheduled, [None, None, None, Some(Revoked), Some(Released)]),
            (
                Active,
                [
                    Some(Suspended),
                    None,
                    Some(Expired),
                    Some(Revoked),
                    Some(Released),
                ],
            ),
            (
                Suspended,
                [
                    None,
                    Some(Active),
                    Some(Expired),
                    Some(Revoked),
                    Some(Released),
                ],
            ),
            (Expired, [None; 5]),
            (Revoked, [None; 5]),
            (Released, [None; 5]),
        ];
        assert_eq!(table.map(|(state, _)| state), GrantState::ALL);
        for (state, leads) in table {
            for (step, to) in STEPS.into_iter().zip(leads) {
                assert_eq!(
                    state.after(step),
                    to.ok_or(StepRefused { at: state, step }),
                    "{state:?} {step:?}"
                );
            }
            assert_eq!(state.is_terminal(), leads == [None; 5]);
        }
    }
}
