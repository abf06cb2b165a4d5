//! The decision: a pure function of the table, the check and the time. It does no I/O and reads no clock.

use std::cmp::Reverse;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::decision::{Decision, Denial, DenyReason, Permit};
use super::grant::{Ended, Grant, GrantId, Hold, Phase, Revision, Staleness};
use super::identity::{Principal, Service};
use super::target::{Target, TargetError};
use super::time::Timestamp;

/// The grants of one principal, live and ended.
pub(crate) type Held = Arc<[Arc<Grant>]>;

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

/// Who calls: the mTLS peer, and every principal that the credentials prove (the peer among them).
#[derive(Debug, Clone, Default)]
pub struct Caller {
    /// The workload at the other end of the connection.
    pub peer: Option<Principal>,
    /// All principals whose grants count.
    pub principals: Vec<Principal>,
    /// What a token of jitgate's own proves beside them.
    pub tokened: Option<Tokened>,
}

/// A principal proven for one grant: no other grant of it counts by this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokened {
    /// Who holds the grant.
    pub subject: Principal,
    /// The only grant that counts.
    pub grant: GrantId,
    /// It is certainly known to whoever knows everything up to here.
    pub revision: Revision,
}

impl Caller {
    /// Everybody that the caller has proved to be, in whatever respect.
    pub fn proven(&self) -> impl Iterator<Item = &Principal> {
        self.principals
            .iter()
            .chain(self.tokened.as_ref().map(|token| &token.subject))
    }

    /// Whose grants count, and which: all of a principal's, or the one that a token names.
    fn claims(&self) -> impl Iterator<Item = (&Principal, Option<&GrantId>)> {
        let all = self.principals.iter().map(|principal| (principal, None));
        all.chain(
            self.tokened
                .as_ref()
                .map(|token| (&token.subject, Some(&token.grant))),
        )
    }
}

/// Decides one call. Total: every input has an answer, and only a live covering grant makes it a permit.
///
/// With several such grants the one that ends last wins; a standing grant ends after all others.
pub(crate) fn decide(
    grants: &impl Grants,
    freshness: Freshness,
    check: &Check<'_>,
    now: Timestamp,
) -> Decision {
    match freshness {
        Freshness::Fresh => {
            find(grants, check, now, false).map_or_else(Decision::Deny, Decision::Permit)
        }
        // Only grants that say so outlive the bound; everything else, denials too, can no longer be told.
        Freshness::Stale(age) => find(grants, check, now, true)
            .map_or_else(|_| Decision::Deny(stale_denial(age)), Decision::Permit),
        Freshness::Never => {
            let detail = "this sidecar has not yet received its first complete snapshot from the control plane";
            Decision::Deny(Denial::new(DenyReason::NotSynced, detail))
        }
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
    now: Timestamp,
    stale: bool,
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
        let Some(held) = grants.held_by(principal) else {
            continue;
        };
        let counts = |grant: &&Arc<Grant>| {
            only.is_none_or(|only| grant.id == *only) && !has_lapsed(grant, now)
        };
        for grant in held
            .iter()
            .filter(counts)
            .filter(|grant| grant.scope.service() == check.service)
        {
            match examine(grant, principal, target, caller.peer.as_ref(), now) {
                Ok(permit) if stale && permit.grant().staleness == Staleness::Strict => {
                    drop(permit)
                }
                Ok(permit) => {
                    best = Some(match best.take() {
                        Some(before) => before.beside(permit),
                        None => permit,
                    });
                }
                Err(mut found) => {
                    found.named = only.is_some();
                    if miss.as_ref().is_none_or(|miss| found.rank() > miss.rank()) {
                        miss = Some(found);
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

/// A request that is no longer waiting says nothing, also before its entry is taken away.
fn has_lapsed(grant: &Grant, now: Timestamp) -> bool {
    grant.phase(now) == Phase::Requested { waiting: false }
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

/// A grant that does not allow the call, and why.
struct Miss {
    grant: Arc<Grant>,
    kind: MissKind,
    /// Whether the caller's token names it.
    named: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum MissKind {
    /// The grant is of another scope.
    Scope,
    /// The scope covers the call, but the grant is meant for other workloads.
    Via,
    /// It covers the call and is over.
    Ended(Reverse<EndedRank>),
    /// It would cover the call, and is a request that waits for approval.
    Requested,
    /// It covers the call and begins later.
    NotStarted,
    /// It covers the call and is held back.
    Suspended,
}

/// Orders the ways of ending; only to make the choice total.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum EndedRank {
    Revoked,
    Released,
    Expired,
}

impl Miss {
    /// Nearest first by kind, from what needs a new request to what needs nothing but time or a word; among ended grants
    /// the one that changed last. Before all of them the one that a token names: that is what was asked about.
    fn rank(&self) -> (bool, u8, u64, MissKind, &str) {
        let class = match self.kind {
            MissKind::Scope => 0,
            MissKind::Via => 1,
            MissKind::Ended(_) => 2,
            MissKind::Requested => 3,
            MissKind::NotStarted => 4,
            MissKind::Suspended => 5,
        };
        (
            self.named,
            class,
            self.grant.mod_revision.0,
            self.kind,
            self.grant.id.as_str(),
        )
    }

    fn into_denial(self) -> Denial {
        let id = self.grant.id.clone();
        let (reason, detail) = match self.kind {
            MissKind::Scope => (
                DenyReason::ScopeMismatch,
                format!("grant {id} does not cover this target"),
            ),
            MissKind::Via => (
                DenyReason::ScopeMismatch,
                format!("grant {id} is not meant for calls through this workload"),
            ),
            MissKind::Requested => (DenyReason::RequestPending, pending(&self.grant)),
            MissKind::NotStarted => (
                DenyReason::GrantNotStarted,
                format!("grant {id} begins at {}", self.grant.not_before),
            ),
            MissKind::Suspended => (
                DenyReason::GrantSuspended,
                format!("grant {id} is suspended"),
            ),
            MissKind::Ended(Reverse(EndedRank::Revoked)) => {
                (DenyReason::GrantRevoked, format!("grant {id} was revoked"))
            }
            MissKind::Ended(Reverse(EndedRank::Released)) => (
                DenyReason::GrantReleased,
                format!("grant {id} was released by its owner"),
            ),
            MissKind::Ended(Reverse(EndedRank::Expired)) => {
                (DenyReason::GrantExpired, expired(&self.grant))
            }
        };
        Denial::new(reason, detail).nearest(self.grant)
    }
}

fn pending(request: &Grant) -> String {
    let id = &request.id;
    match request.hold {
        Hold::Pending { until } => {
            format!("access request {id} waits for approval, until {until} at most")
        }
        Hold::None | Hold::Suspended | Hold::Ended { .. } => {
            format!("access request {id} waits for approval")
        }
    }
}

fn expired(grant: &Grant) -> String {
    match grant.expires() {
        Some(end) => format!("grant {} ended at {end}", grant.id),
        None => format!("grant {} has ended", grant.id),
    }
}

fn examine(
    grant: &Arc<Grant>,
    principal: &Principal,
    target: &Target<'_>,
    peer: Option<&Principal>,
    now: Timestamp,
) -> Result<Permit, Miss> {
    let miss = |kind| Miss {
        grant: Arc::clone(grant),
        kind,
        named: false,
    };
    let rule = grant
        .scope
        .rules()
        .iter()
        .position(|rule| rule.covers(target))
        .ok_or_else(|| miss(MissKind::Scope))?;
    if !grant.passes_through(peer) {
        return Err(miss(MissKind::Via));
    }
    match grant.phase(now) {
        Phase::Live(remaining) => Ok(Permit::new(
            Arc::clone(grant),
            principal.clone(),
            rule,
            remaining,
        )),
        Phase::Requested { .. } => Err(miss(MissKind::Requested)),
        Phase::NotStarted => Err(miss(MissKind::NotStarted)),
        Phase::Suspended => Err(miss(MissKind::Suspended)),
        Phase::Ended(Ended::Expired) => Err(miss(MissKind::Ended(Reverse(EndedRank::Expired)))),
        Phase::Ended(Ended::Revoked) => Err(miss(MissKind::Ended(Reverse(EndedRank::Revoked)))),
        Phase::Ended(Ended::Released) => Err(miss(MissKind::Ended(Reverse(EndedRank::Released)))),
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
