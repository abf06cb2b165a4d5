//! Whether a stream's grants still carry it: a pure function of the table and the time. It reads no clock, and what the
//! table does not know carries nothing.

use std::cmp::Reverse;
use std::sync::Arc;

use super::grants::GrantRef;
use crate::index::Index;
use crate::model::decide::{Failure, in_force};
use crate::model::decision::DenyReason;
use crate::model::grant::{Grant, GrantId, Staleness};
use crate::model::time::Timestamp;

/// Why a stream ends.
#[derive(Debug, Clone)]
pub(super) struct Termination {
    /// The one word for it.
    pub(super) reason: DenyReason,
    /// The grant whose end it is, where the table still knows it.
    pub(super) grant: Option<Arc<Grant>>,
}

/// What to look again for, although nothing has changed in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    /// When the last of the grants ends; `None` for a standing one.
    pub(super) until: Option<Timestamp>,
    /// Whether a stale table would end it.
    pub(super) strict: bool,
}

/// Looks the grants up. `changed` names those that a change was about: the reason is theirs.
pub(super) fn judge(
    index: &Index,
    now: Timestamp,
    stale: bool,
    grants: &[GrantRef],
    changed: &[GrantId],
) -> Result<Held, Termination> {
    let mut held: Option<Held> = None;
    let mut gone: Option<Gone<'_>> = None;
    for grant_ref in grants {
        let id = &grant_ref.grant;
        match examine(grant_ref, index.find(id), now, stale) {
            Ok(found) => held = Some(held.map_or(found, |held| held.or(found))),
            Err(cut) => {
                let found = Gone { id, cut };
                let nearer = gone
                    .as_ref()
                    .is_none_or(|gone| found.rank(changed) > gone.rank(changed));
                gone = if nearer { Some(found) } else { gone };
            }
        }
    }
    held.ok_or_else(|| {
        gone.map_or(
            Termination {
                reason: DenyReason::NoGrant,
                grant: None,
            },
            |gone| gone.cut,
        )
    })
}

fn examine(
    grant_ref: &GrantRef,
    grant: Option<Arc<Grant>>,
    now: Timestamp,
    stale: bool,
) -> Result<Held, Termination> {
    let Some(grant) = grant else {
        return Err(Termination {
            reason: DenyReason::NoGrant,
            grant: None,
        });
    };
    let reason = match in_force(&grant, now, stale) {
        // Declared anew: the grant that let the call pass was revoked for it.
        Ok(_) | Err(Failure::Stale) if !grant_ref.is_still(&grant) => DenyReason::GrantRevoked,
        Ok(_) => {
            return Ok(Held {
                until: grant.expires(),
                strict: grant.staleness == Staleness::Strict,
            });
        }
        Err(failure) => failure.reason(),
    };
    Err(Termination {
        reason,
        grant: Some(grant),
    })
}

impl Held {
    fn or(self, other: Self) -> Self {
        let until = self
            .until
            .zip(other.until)
            .map(|(one, other)| one.max(other));
        // One that outlives a stale table is enough, as long as it lives: looking again too often does no harm.
        Self {
            until,
            strict: self.strict || other.strict,
        }
    }
}

struct Gone<'a> {
    id: &'a GrantId,
    cut: Termination,
}

impl Gone<'_> {
    /// What happened last is why: what has just changed, else what time alone has done, else any, in the order given.
    fn rank(&self, changed: &[GrantId]) -> (bool, bool, Reverse<u8>) {
        let by_time = matches!(
            self.cut.reason,
            DenyReason::Stale | DenyReason::GrantExpired
        );
        (
            changed.contains(self.id),
            by_time,
            Reverse(u8::from(self.cut.grant.is_none())),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::grant::{End, Ended, Hold};
    use crate::sidecar::fixtures::{at, grant};

    fn ended(how: Ended) -> Hold {
        Hold::Ended {
            how,
            keep_until: at(900),
        }
    }

    fn ids(names: &[&str]) -> Vec<GrantId> {
        names
            .iter()
            .map(|name| GrantId::parse(name).unwrap())
            .collect()
    }

    fn judged(
        grants: &[Grant],
        now: u64,
        stale: bool,
        changed: &[&str],
    ) -> Result<Held, DenyReason> {
        let index = Index::new();
        let held: Vec<_> = grants.iter().map(GrantRef::of).collect();
        grants.iter().cloned().for_each(|grant| index.put(grant));
        judge(&index, at(now), stale, &held, &ids(changed)).map_err(|cut| cut.reason)
    }

    #[test]
    fn each_way_of_ending_has_its_reason() {
        for (end, reason) in [
            (
                Grant {
                    hold: ended(Ended::Revoked),
                    ..grant("g")
                },
                DenyReason::GrantRevoked,
            ),
            (
                Grant {
                    hold: ended(Ended::Released),
                    ..grant("g")
                },
                DenyReason::GrantReleased,
            ),
            (
                Grant {
                    hold: Hold::Suspended,
                    ..grant("g")
                },
                DenyReason::GrantSuspended,
            ),
            (
                Grant {
                    end: End::At(at(150)),
                    ..grant("g")
                },
                DenyReason::GrantExpired,
            ),
            (
                Grant {
                    not_before: at(151),
                    ..grant("g")
                },
                DenyReason::GrantNotStarted,
            ),
        ] {
            assert_eq!(judged(&[end], 150, false, &[]), Err(reason));
        }
        let forgotten = judge(
            &Index::new(),
            at(150),
            false,
            &[GrantRef::of(&grant("g"))],
            &[],
        )
        .unwrap_err();
        assert_eq!(forgotten.reason, DenyReason::NoGrant);
        assert_eq!(
            judge(&Index::new(), at(150), false, &[], &[])
                .unwrap_err()
                .reason,
            DenyReason::NoGrant
        );
    }

    #[test]
    fn one_live_grant_is_enough_and_the_longest_says_when_to_look_again() {
        let revoked = Grant {
            hold: ended(Ended::Revoked),
            ..grant("a")
        };
        let longer = Grant {
            end: End::At(at(300)),
            ..grant("b")
        };
        let held = judged(&[revoked, grant("g"), longer], 150, false, &["a"]).unwrap();
        assert_eq!(
            held,
            Held {
                until: Some(at(300)),
                strict: true
            }
        );
        let standing = Grant {
            end: End::Standing,
            ..grant("s")
        };
        assert_eq!(
            judged(&[grant("g"), standing], 150, false, &[])
                .unwrap()
                .until,
            None
        );
    }

    #[test]
    fn a_stale_table_ends_what_is_strict_and_nothing_else() {
        assert_eq!(
            judged(&[grant("g")], 150, true, &[]),
            Err(DenyReason::Stale)
        );
        let known = Grant {
            staleness: Staleness::LastKnown,
            ..grant("k")
        };
        assert_eq!(
            judged(&[grant("g"), known], 150, true, &[]),
            Ok(Held {
                until: Some(at(200)),
                strict: false
            })
        );
    }

    #[test]
    fn the_reason_is_what_happened_last() {
        let revoked = Grant {
            hold: ended(Ended::Revoked),
            ..grant("a")
        };
        let expired = Grant {
            end: End::At(at(150)),
            ..grant("b")
        };
        assert_eq!(
            judged(&[revoked.clone(), expired.clone()], 150, false, &[]),
            Err(DenyReason::GrantExpired)
        );
        assert_eq!(
            judged(&[revoked, expired], 150, false, &["a"]),
            Err(DenyReason::GrantRevoked)
        );
    }
}
