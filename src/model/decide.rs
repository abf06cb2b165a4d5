//! The decision: a pure function of the table, the check and the time. It does no I/O and reads no clock.
//!
//! One evaluation finds both the verdict and why each candidate carries the call or fails. Whoever explains a decision,
//! or asks again for a part of it, looks at that evaluation and judges nothing a second time.

use std::cmp::Reverse;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::caller::{Caller, Tokened};
use super::decision::{Decision, Denial, DenyReason, Permit};
use super::entry::TableEntry;
use super::grant::{Ended, Grant, Phase, Revision, Staleness};
use super::identity::{Principal, Service};
use super::target::{Target, TargetError};
use super::time::Timestamp;

/// The entries of one principal: its grants, live and ended, and its requests that wait.
pub(crate) type Held = Arc<[TableEntry]>;

/// Where grants are looked up.
pub(crate) trait Grants {
    /// What this principal holds at any service; `None` when nothing.
    fn held_by(&self, principal: &Principal) -> Option<Held>;

    /// Everything up to here is known.
    fn revision(&self) -> Revision;
}

/// How far the table can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Heard from the control plane within the bound.
    Fresh,
    /// Not heard from for this long, which is past the bound.
    Stale(Duration),
    /// No complete snapshot yet.
    Never,
}

/// One call, parsed: everything a decision may depend on.
#[derive(Debug)]
pub(crate) struct Check<'a> {
    /// The protected service.
    pub service: &'a Service,
    /// What is called, or why that is ambiguous.
    pub target: Result<Target<'a>, TargetError>,
    /// Who calls, or which presented credential is bad.
    pub caller: Result<Caller, Denial>,
}

/// Whether one entry carries the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finding<'e> {
    /// It is a grant, and does.
    Carries {
        /// The grant.
        grant: &'e Arc<Grant>,
        /// Which rule of its scope covers the call.
        rule: usize,
        /// What is left of it; `None` of a standing one.
        remaining: Option<Duration>,
    },
    /// It does not.
    Fails {
        /// Which rule covers the call, if any.
        rule: Option<usize>,
        /// Why not.
        failure: Failure,
    },
}

/// Why an entry does not carry a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Its scope is another.
    Scope,
    /// The scope covers the call, but it is meant for other workloads.
    Via,
    /// The grant is over.
    Ended(Ended),
    /// No grant, but a request that waits for approval.
    Pending,
    /// No grant, and no longer a request that waits.
    Lapsed,
    /// The grant begins later.
    NotStarted,
    /// The grant is held back.
    Suspended,
    /// The grant does not count while the table is stale.
    Stale,
}

/// Follows an evaluation. A sidecar has nobody who does, and pays nothing for it.
pub(crate) trait Observer {
    /// What this principal holds is looked at next.
    fn looks_at(&mut self, _principal: &Principal) {}

    /// One entry of it, of the service that is called.
    fn found(&mut self, _principal: &Principal, _entry: &TableEntry, _finding: Finding<'_>) {}
}

impl Observer for () {}

/// Decides one call. Total: every input has an answer, and only a live covering grant makes it a permit.
///
/// With several such grants the one that ends last wins; a standing grant ends after all others.
pub(crate) fn decide(
    grants: &impl Grants,
    freshness: Freshness,
    check: &Check<'_>,
    now: Timestamp,
) -> Decision {
    evaluate(grants, freshness, check, now, &mut ())
}

/// [`decide`], and tells `observer` of each candidate.
pub(crate) fn evaluate(
    grants: &impl Grants,
    freshness: Freshness,
    check: &Check<'_>,
    now: Timestamp,
    observer: &mut impl Observer,
) -> Decision {
    match freshness {
        Freshness::Fresh => find(grants, check, (now, false), observer)
            .map_or_else(Decision::Deny, Decision::Permit),
        // Only grants that say so outlive the bound; everything else, denials too, can no longer be told.
        Freshness::Stale(age) => find(grants, check, (now, true), observer)
            .map_or_else(|_| Decision::Deny(stale_denial(age)), Decision::Permit),
        Freshness::Never => {
            let detail = "this sidecar has not yet received its first complete snapshot from the control plane";
            Decision::Deny(Denial::new(DenyReason::NotSynced, detail))
        }
    }
}

/// Whether a grant counts at `now`, and what is left of it; `None` of a standing one. What it covers is not asked.
///
/// # Errors
/// Why it does not count.
pub(crate) fn in_force(
    grant: &Grant,
    now: Timestamp,
    stale: bool,
) -> Result<Option<Duration>, Failure> {
    match grant.phase(now) {
        Phase::Live(_) if stale && grant.staleness == Staleness::Strict => Err(Failure::Stale),
        Phase::Live(remaining) => Ok(remaining),
        Phase::NotStarted => Err(Failure::NotStarted),
        Phase::Suspended => Err(Failure::Suspended),
        Phase::Ended(how) => Err(Failure::Ended(how)),
    }
}

fn examine<'e>(
    entry: &'e TableEntry,
    target: &Target<'_>,
    peer: Option<&Principal>,
    (now, stale): (Timestamp, bool),
) -> Finding<'e> {
    let fails = |rule, failure| Finding::Fails { rule, failure };
    let Some(rule) = entry.scope().covering(target) else {
        return fails(None, Failure::Scope);
    };
    if !entry.via().is_empty() && !peer.is_some_and(|peer| entry.via().contains(peer)) {
        return fails(Some(rule), Failure::Via);
    }
    match entry {
        TableEntry::Grant(grant) => match in_force(grant, now, stale) {
            Ok(remaining) => Finding::Carries {
                grant,
                rule,
                remaining,
            },
            Err(failure) => fails(Some(rule), failure),
        },
        TableEntry::Request(request) if request.waits(now) => fails(Some(rule), Failure::Pending),
        TableEntry::Request(_) => fails(Some(rule), Failure::Lapsed),
    }
}

fn stale_denial(age: Duration) -> Denial {
    let detail = format!(
        "nothing heard from the control plane for {:.1} s, which is past the staleness bound",
        age.as_secs_f64()
    );
    Denial::new(DenyReason::Stale, detail)
}

/// The best permit, or the nearest miss; with a token, what became of its grant comes nearest.
fn find(
    grants: &impl Grants,
    check: &Check<'_>,
    (now, stale): (Timestamp, bool),
    observer: &mut impl Observer,
) -> Result<Permit, Denial> {
    let target = check.target.as_ref().map_err(|why| Denial::from(*why))?;
    let caller = check.caller.as_ref().map_err(Clone::clone)?;
    if caller.proven().next().is_none() {
        let detail = "the call carries no credential that names a principal: neither an mTLS peer nor a token";
        return Err(Denial::new(DenyReason::CredentialMissing, detail));
    }
    let mut best: Option<Permit> = None;
    let mut miss: Option<Miss> = None;
    for (principal, only) in caller.claims() {
        observer.looks_at(principal);
        let Some(held) = grants.held_by(principal) else {
            continue;
        };
        let counts = |entry: &&TableEntry| {
            only.is_none_or(|only| entry.as_grant().is_some_and(|grant| grant.id == *only))
                && entry.scope().service() == check.service
        };
        for entry in held.iter().filter(counts) {
            let finding = examine(entry, target, caller.peer.as_ref(), (now, stale));
            observer.found(principal, entry, finding);
            match finding {
                Finding::Carries {
                    grant,
                    rule,
                    remaining,
                } => {
                    let permit = Permit::new(Arc::clone(grant), principal.clone(), rule, remaining);
                    best = Some(match best.take() {
                        Some(before) => before.beside(permit),
                        None => permit,
                    });
                }
                Finding::Fails { rule, failure } => {
                    let rank = rank(entry, failure, only.is_some());
                    if rank > miss.as_ref().and_then(Miss::rank) {
                        miss = Some(Miss {
                            entry: entry.clone(),
                            rule,
                            failure,
                            named: only.is_some(),
                        });
                    }
                }
            }
        }
    }
    best.ok_or_else(|| match &caller.tokened {
        // Whatever is missing may be on its way: better to come back than to be told something outdated.
        Some(token) if token.revision > grants.revision() => {
            not_yet_visible(token, grants.revision())
        }
        Some(token) if miss.as_ref().is_none_or(|miss| !miss.named) => {
            token_without_grant(token, check.service)
        }
        Some(_) | None => miss.map_or_else(|| no_grant(check.service), Miss::into_denial),
    })
}

fn not_yet_visible(token: &Tokened, known: Revision) -> Denial {
    let Tokened {
        grant, revision, ..
    } = token;
    let detail = format!(
        "the token's grant {grant} is known from revision {revision} on, and this table is at {known}"
    );
    Denial::new(DenyReason::GrantNotYetVisible, detail)
}

/// Forgotten since, or never there: a tombstone outlives every token of its grant.
fn token_without_grant(token: &Tokened, service: &Service) -> Denial {
    let detail = format!(
        "the token's grant {} is no grant of its subject at service {service}",
        token.grant
    );
    Denial::new(DenyReason::NoGrant, detail)
}

fn no_grant(service: &Service) -> Denial {
    Denial::new(
        DenyReason::NoGrant,
        format!("no grant for this caller at service {service}"),
    )
}

/// The entry that comes nearest to allowing the call, and why it does not.
struct Miss {
    entry: TableEntry,
    rule: Option<usize>,
    failure: Failure,
    /// Whether the caller's token names it.
    named: bool,
}

impl Miss {
    fn rank(&self) -> Option<Rank<'_>> {
        rank(&self.entry, self.failure, self.named)
    }

    fn into_denial(self) -> Denial {
        let id = self.entry.id();
        let detail = match (&self.entry, self.failure) {
            (TableEntry::Request(request), _) => format!(
                "access request {id} waits for approval, until {} at most",
                request.until
            ),
            (TableEntry::Grant(grant), failure) => {
                format!("grant {id} {}", failure.of_grant(grant))
            }
        };
        Denial::new(self.failure.reason(), detail).nearest(self.entry, self.rule)
    }
}

type Rank<'a> = (bool, u8, u64, Reverse<u8>, &'a str);

/// Nearest first by kind, from what needs a new request to what needs nothing but time or a word; among ended grants the
/// one that changed last. Before all of them the one that a token names: that is what was asked about. `None`: it does
/// not come near at all.
fn rank(entry: &TableEntry, failure: Failure, named: bool) -> Option<Rank<'_>> {
    // The second number only makes the choice among ended grants total.
    let (class, how) = match (entry, failure) {
        // What waits for approval would allow another call. To this one it says nothing.
        (TableEntry::Request(_), Failure::Scope | Failure::Via) => return None,
        // The answer is that of a stale table anyway; and what was never approved is forgotten.
        (_, Failure::Stale | Failure::Lapsed) => return None,
        (_, Failure::Scope) => (0, 0),
        (_, Failure::Via) => (1, 0),
        (_, Failure::Ended(Ended::Revoked)) => (2, 0),
        (_, Failure::Ended(Ended::Released)) => (2, 1),
        (_, Failure::Ended(Ended::Expired)) => (2, 2),
        (_, Failure::Pending) => (3, 0),
        (_, Failure::NotStarted) => (4, 0),
        (_, Failure::Suspended) => (5, 0),
    };
    let (revision, id) = (entry.revision().0, entry.id().as_str());
    Some((named, class, revision, Reverse(how), id))
}

impl Failure {
    /// The word for a call that nothing else carries.
    pub(crate) const fn reason(self) -> DenyReason {
        match self {
            Self::Scope | Self::Via => DenyReason::ScopeMismatch,
            Self::Ended(Ended::Expired) => DenyReason::GrantExpired,
            Self::Ended(Ended::Revoked) => DenyReason::GrantRevoked,
            Self::Ended(Ended::Released) => DenyReason::GrantReleased,
            Self::Pending => DenyReason::RequestPending,
            Self::Lapsed => DenyReason::NoGrant,
            Self::NotStarted => DenyReason::GrantNotStarted,
            Self::Suspended => DenyReason::GrantSuspended,
            Self::Stale => DenyReason::Stale,
        }
    }

    /// The rest of a sentence that begins with the grant.
    pub(crate) fn of_grant(self, grant: &Grant) -> String {
        match self {
            Self::Scope => "does not cover this target".to_owned(),
            Self::Via => "is not meant for calls through this workload".to_owned(),
            Self::Ended(Ended::Expired) => match grant.expires() {
                Some(end) => format!("ended at {end}"),
                None => "has ended".to_owned(),
            },
            Self::Ended(Ended::Revoked) => "was revoked".to_owned(),
            Self::Ended(Ended::Released) => "was released by its subject".to_owned(),
            Self::Pending => "waits for approval".to_owned(),
            Self::Lapsed => "was never approved".to_owned(),
            Self::NotStarted => format!("begins at {}", grant.not_before),
            Self::Suspended => "is suspended".to_owned(),
            Self::Stale => "does not count while the table is stale".to_owned(),
        }
    }
}

impl Freshness {
    /// The word for it, in spans and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Stale(_) => "stale",
            Self::Never => "never synced",
        }
    }
}

impl fmt::Display for Freshness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests;
