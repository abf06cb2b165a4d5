//! How near a policy comes to covering a request.

use crate::model::identity::Principal;
use crate::model::policy::{AccessPolicy, Ask, Matcher};
use crate::model::scope::subset;

/// How far a policy covers a request; a later one is nearer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fit {
    /// Another service, or none of the caller's principals may ask.
    Stranger,
    /// The scope reaches further.
    Scope,
    /// Not for this subject.
    Subject,
    /// Not through these workloads.
    Via,
    /// It covers the request.
    Full,
}

pub(super) fn fit(policy: &AccessPolicy, ask: &Ask<'_>) -> Fit {
    if policy.scope.service() != ask.scope.service() || !may_ask(policy, ask.requester) {
        Fit::Stranger
    } else if !subset(ask.scope, &policy.scope) {
        Fit::Scope
    } else if !policy.subjects.allow(ask.requester, ask.subject) {
        Fit::Subject
    } else if !through(&policy.via, ask.via) {
        Fit::Via
    } else {
        Fit::Full
    }
}

/// Whether any of the caller's principals is among the policy's requesters.
pub(super) fn may_ask(policy: &AccessPolicy, caller: &[Principal]) -> bool {
    caller.iter().any(|principal| {
        policy
            .requesters
            .iter()
            .any(|matcher| matcher.matches(principal))
    })
}

/// A request without `via` works through any workload, so it fits no policy that names some.
fn through(allowed: &[Matcher], via: &[Principal]) -> bool {
    let is_allowed = |workload: &Principal| allowed.iter().any(|matcher| matcher.matches(workload));
    allowed.is_empty() || (!via.is_empty() && via.iter().all(is_allowed))
}
