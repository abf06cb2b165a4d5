//! Access requests: asking for a grant, the states that asking goes through, and what exactly an approval is bound to.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::approval::{AfterTheFact, Progress, Review, Stage, progress};
use super::canonical::{Canonical, Hash};
use super::entry::PendingRequest;
use super::grant::{Grant, GrantId, PolicyRef, Revision};
use super::identity::Principal;
use super::policy::Matcher;
use super::scope::{Rule, Scope};
use super::time::Timestamp;

/// Where an access request stands. All but [`AccessState::Pending`] are terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum AccessState {
    /// Waits for people.
    Pending,
    /// A grant was issued.
    Approved,
    /// Refused by a rule or a person.
    Denied,
    /// Taken back.
    Cancelled,
    /// Nobody decided in time.
    Expired,
    /// Could not be carried out.
    Failed,
}

/// What can happen to an access request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum AccessStep {
    /// A rule or people allow it.
    Approve,
    /// A rule or a person refuses it.
    Deny,
    /// Its requester takes it back.
    Cancel,
    /// Its time to be decided is up.
    Expire,
    /// It was allowed and cannot be carried out.
    Fail,
}

/// A terminal request was to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is already {0} and stays so")]
pub(crate) struct Terminal(pub AccessState);

impl AccessState {
    /// Every state.
    #[cfg(test)]
    pub(crate) const ALL: [Self; 6] = [
        Self::Pending,
        Self::Approved,
        Self::Denied,
        Self::Cancelled,
        Self::Expired,
        Self::Failed,
    ];

    /// Where `step` leads. Total: only a pending request moves, and every step of it ends it.
    ///
    /// # Errors
    /// [`Terminal`] for every step of a terminal request, the one that led there included: approving twice extends nothing.
    pub(crate) const fn after(self, step: AccessStep) -> Result<Self, Terminal> {
        match (self, step) {
            (Self::Pending, AccessStep::Approve) => Ok(Self::Approved),
            (Self::Pending, AccessStep::Deny) => Ok(Self::Denied),
            (Self::Pending, AccessStep::Cancel) => Ok(Self::Cancelled),
            (Self::Pending, AccessStep::Expire) => Ok(Self::Expired),
            (Self::Pending, AccessStep::Fail) => Ok(Self::Failed),
            (Self::Approved | Self::Denied | Self::Cancelled | Self::Expired | Self::Failed, _) => {
                Err(Terminal(self))
            }
        }
    }

    /// Whether nothing can change it any more.
    pub(crate) const fn is_terminal(self) -> bool {
        !matches!(self, Self::Pending)
    }

    /// The word for it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Approved => "APPROVED",
            Self::Denied => "DENIED",
            Self::Cancelled => "CANCELLED",
            Self::Expired => "EXPIRED",
            Self::Failed => "FAILED",
        }
    }
}

impl fmt::Display for AccessState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is asked for, and under which policy: the part of a request that an approval is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Terms {
    /// Who shall get the grant.
    pub subject: Principal,
    /// Only through these workloads; empty: through any.
    pub via: Vec<Principal>,
    /// What it shall allow.
    pub scope: Scope,
    /// For how long: from approval, or from `start` if there is one.
    pub duration: Duration,
    /// The policy that applies.
    pub policy: PinnedPolicy,
    /// When its time begins to count; `None`: on approval. On an extension, the end of the grant extended.
    pub start: Option<Timestamp>,
    /// The grant that it extends.
    pub extends: Option<GrantId>,
}

/// One policy text: its name, the number of the version, and the digest of exactly that text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct PinnedPolicy {
    /// As in its file.
    pub name: Arc<str>,
    /// From 1, one more for each new text.
    pub version: u64,
    /// SHA-256, hexadecimal.
    pub digest: Arc<str>,
}

impl Terms {
    /// SHA-256 over the canonical encoding of subject, via, scope, time and policy digest.
    pub(crate) fn digest(&self) -> Hash {
        let mut via: Vec<&str> = self.via.iter().map(Principal::as_str).collect();
        via.sort_unstable();
        let mut canonical = Canonical::new("jitgate.access_request.v1");
        canonical
            .text(self.subject.as_str())
            .list(via.into_iter())
            .text(self.scope.service().as_str());
        canonical.list(self.scope.rules().iter().map(|rule| match rule {
            Rule::Grpc(rule) => format!("grpc {rule}"),
            Rule::Http(rule) => format!("http {rule}"),
        }));
        canonical
            .number(u64::try_from(self.duration.as_micros()).unwrap_or(u64::MAX))
            .text(&self.policy.digest);
        // What is absent leaves no trace, so that digests from before these parts hold.
        if let Some(start) = self.start {
            canonical.text("start").number(start.as_micros());
        }
        if let Some(extends) = &self.extends {
            canonical.text("extends").text(extends.as_str());
        }
        canonical.finish()
    }

    /// When a grant approved at `now` for `duration` begins and ends. With a start, its end does not depend on `now`:
    /// approving late never moves it, and an end that lies behind is no grant any more. An extension begins at once:
    /// the grant that it extends is in force until its start.
    pub(crate) fn window(
        &self,
        now: Timestamp,
        duration: Duration,
    ) -> Option<(Timestamp, Timestamp)> {
        let begins = match self.start {
            Some(start) if self.extends.is_none() => now.max(start),
            Some(_) | None => now,
        };
        let ends = self.start.unwrap_or(now).plus(duration);
        (begins < ends).then_some((begins, ends))
    }
}

/// Somebody asking for a grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AccessRequest {
    /// A ULID.
    pub id: Arc<str>,
    /// Who asks, as authenticated.
    pub requester: Principal,
    /// What for.
    pub terms: Terms,
    /// Why, in the requester's words.
    pub reason: String,
    /// Where that is written down.
    pub tickets: Vec<String>,
    /// When it was made.
    pub create_time: Timestamp,
    /// Pending no longer than this.
    pub pending_until: Timestamp,
    /// Where it stands.
    pub state: AccessState,
    /// How it ended; absent while pending.
    pub outcome: Option<Outcome>,
    /// Who has to approve, as the pinned policy says; empty when that was not left to people. Whoever breaks the glass passes
    /// over them.
    pub stages: Vec<Stage>,
    /// The review afterwards, exactly when the glass was broken.
    pub break_glass: Option<AfterTheFact>,
    /// What people have said, in order.
    pub reviews: Vec<Review>,
    /// Why no rule approved it, of those that nearly did.
    pub notes: Vec<String>,
    /// W3C trace context of the request.
    pub traceparent: Option<Arc<str>>,
    /// The store's revision at which it was made.
    pub create_revision: Revision,
    /// And of its last change.
    pub mod_revision: Revision,
}

/// How an access request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// When.
    pub time: Timestamp,
    /// The rule or person behind it.
    pub by: String,
    /// In one sentence.
    pub reason: String,
    /// The grant issued, exactly when approved.
    pub grant: Option<GrantId>,
}

impl AccessRequest {
    /// Takes a step.
    ///
    /// # Errors
    /// [`Terminal`], with the request left as it is.
    pub(crate) fn take(&mut self, step: AccessStep, outcome: Outcome) -> Result<(), Terminal> {
        self.state = self.state.after(step)?;
        self.outcome = Some(outcome);
        Ok(())
    }

    /// As sidecars hold it while it waits: to say so to whoever is refused meanwhile. The same until it ends, whatever
    /// reviews are added.
    pub(crate) fn as_entry(&self) -> Option<PendingRequest> {
        let Terms {
            subject,
            via,
            scope,
            policy,
            ..
        } = &self.terms;
        Some(PendingRequest {
            id: GrantId::parse(&self.id).ok()?,
            subject: subject.clone(),
            via: via.clone(),
            scope: scope.clone(),
            until: self.pending_until,
            policy: PolicyRef {
                name: Arc::clone(&policy.name),
                version: policy.version,
            },
            traceparent: self.traceparent.clone(),
            revision: self.create_revision,
        })
    }

    /// Names this state of it, for whoever wants to change exactly that.
    pub(crate) fn etag(&self) -> String {
        etag("access request", &self.id, self.mod_revision)
    }

    /// Where it stands with the people who decide it. What cannot count is left out, whoever has written it: reviews of
    /// the requester or the subject, and of other terms than these.
    pub(crate) fn progress(&self) -> Progress {
        progress(&self.stages, &self.countable())
    }

    /// The reviews that can count.
    pub(crate) fn countable(&self) -> Vec<Review> {
        let digest = self.terms.digest();
        let counts = |review: &&Review| {
            review.digest == digest && review.void.is_none() && !self.concerns(&review.reviewer)
        };
        self.reviews.iter().filter(counts).cloned().collect()
    }

    /// Whether somebody who has proved to be all of these is among its approvers, once it has waited for so long.
    pub(crate) fn is_reviewable_by(&self, proven: &[Principal], waited: Duration) -> bool {
        self.stages
            .iter()
            .flat_map(|stage| &stage.steps)
            .any(|step| step.admits(proven, waited))
    }

    /// Everybody who can ever review it.
    pub(crate) fn approvers(&self) -> impl Iterator<Item = &Matcher> {
        let steps = self.stages.iter().flat_map(|stage| &stage.steps);
        steps.flat_map(|step| step.approvers_after(Duration::MAX))
    }

    /// For how long it has been pending.
    pub(crate) fn waited(&self, now: Timestamp) -> Duration {
        now.since(self.create_time)
    }

    /// When further people may review it: each moment once, earliest first.
    pub(crate) fn escalates_at(&self) -> Vec<Timestamp> {
        let steps = self.stages.iter().flat_map(|stage| &stage.steps);
        let mut moments: Vec<Timestamp> = steps
            .flat_map(|step| &step.escalate)
            .map(|further| self.create_time.plus(further.after))
            .collect();
        moments.sort_unstable();
        moments.dedup();
        moments
    }

    /// What a grant may have at most by now: each approval can only take away, and one that has become void takes away still.
    pub(crate) fn approved_at_most(&self) -> (&Scope, Duration) {
        let scope = self
            .reviews
            .iter()
            .rev()
            .find_map(|review| review.narrowed_scope.as_ref());
        let spans = self
            .reviews
            .iter()
            .filter_map(|review| review.narrowed_duration);
        (
            scope.unwrap_or(&self.terms.scope),
            spans.fold(self.terms.duration, Duration::min),
        )
    }

    /// Whether the principal asked for it or is to get it.
    pub(crate) fn concerns(&self, principal: &Principal) -> bool {
        self.requester == *principal || self.terms.subject == *principal
    }
}

/// A grant with where it came from and how it ended: what the control plane keeps of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Issued {
    /// What is enforced.
    pub grant: Grant,
    /// Where it came from.
    pub origin: Origin,
    /// Who holds it back, or held it back when it ended.
    pub suspension: Option<Suspension>,
    /// How it ended; absent while it has not been recorded as over.
    pub ending: Option<Ending>,
}

impl Issued {
    /// Names this state of it, for whoever wants to change exactly that.
    pub(crate) fn etag(&self) -> String {
        etag("grant", self.grant.id.as_str(), self.grant.mod_revision)
    }

    /// When the first grant of its chain of extensions began.
    pub(crate) fn chain_start(&self) -> Timestamp {
        self.origin.chain.since.unwrap_or(self.grant.not_before)
    }
}

/// When, why and by whom a grant was suspended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Suspension {
    /// When.
    pub time: Timestamp,
    /// Why.
    pub reason: String,
    /// A principal.
    pub by: String,
}

/// A grant's place among those that extend one another.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Chain {
    /// The grant before.
    pub extends: Option<GrantId>,
    /// The grant after. Written into a grant that is extended; nothing else of it changes, its etag included.
    pub extended_by: Option<GrantId>,
    /// How many grants come before.
    pub extensions: u32,
    /// When the first one began; `None`: this is the first.
    pub since: Option<Timestamp>,
}

/// Opaque; another one after each change, nothing for what is not written.
fn etag(kind: &str, id: &str, at: Revision) -> String {
    if at == Revision(0) {
        return String::new();
    }
    let mut canonical = Canonical::new("jitgate.etag.v1");
    canonical.text(kind).text(id).number(at.0);
    canonical.finish().to_string().chars().take(16).collect()
}

/// Where a grant came from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Origin {
    /// The access request; absent on a standing grant.
    pub request: Option<Arc<str>>,
    /// Who made that request.
    pub requester: Option<Principal>,
    /// Digest of the policy text in force, or of the declaration of a standing grant.
    pub policy_digest: Arc<str>,
    /// The automatic rule that approved it, if one did.
    pub auto_rule: Option<Arc<str>>,
    /// Of a grant for which the glass was broken: the review afterwards, and who can write it.
    pub break_glass: Option<PassedOver>,
    /// Which grants it extends, and which extends it.
    pub chain: Chain,
    /// It ends by itself if nobody has used it by then; absent: it may lie unused.
    pub unused_until: Option<Timestamp>,
    /// When it was issued.
    pub create_time: Timestamp,
    /// At which revision of the store.
    pub create_revision: Revision,
}

/// Who was passed over when the glass was broken, and what they think of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PassedOver {
    /// Those who would have had to approve.
    pub approvers: Vec<Matcher>,
    /// Their review afterwards.
    pub review: AfterTheFact,
}

/// When, why and by whom a grant was ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ending {
    /// When.
    pub time: Timestamp,
    /// Why.
    pub reason: String,
    /// A principal, or the part of the control plane that recorded it.
    pub by: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::identity::Service;
    use crate::model::scope::{GrpcRule, HttpRule};
    use proptest::prelude::*;

    const STEPS: [AccessStep; 5] = [
        AccessStep::Approve,
        AccessStep::Deny,
        AccessStep::Cancel,
        AccessStep::Expire,
        AccessStep::Fail,
    ];

    fn terms() -> Terms {
        Terms {
            subject: Principal::parse("user:iss|alice").unwrap(),
            via: vec![],
            scope: Scope::new(
                Service::parse("payments").unwrap(),
                vec![Rule::Grpc(GrpcRule::parse("/a.B/*").unwrap())],
            )
            .unwrap(),
            duration: Duration::from_secs(60),
            policy: PinnedPolicy {
                name: "p".into(),
                version: 1,
                digest: "d".into(),
            },
            start: None,
            extends: None,
        }
    }

    #[test]
    fn every_step_ends_a_pending_request_and_no_other_takes_any() {
        let leads = [
            AccessState::Approved,
            AccessState::Denied,
            AccessState::Cancelled,
            AccessState::Expired,
            AccessState::Failed,
        ];
        for state in AccessState::ALL {
            for (step, to) in STEPS.into_iter().zip(leads) {
                let expected = if state == AccessState::Pending {
                    Ok(to)
                } else {
                    Err(Terminal(state))
                };
                assert_eq!(state.after(step), expected, "{state:?} {step:?}");
            }
        }
    }

    #[test]
    fn a_digest_without_start_and_extension_is_what_it_was_before_there_were_any() {
        let before = "6684b54d60384c74539f61189249352207bf2a231f8f026270bb5162961a1f8b";
        assert_eq!(terms().digest().to_string(), before);
    }

    #[test]
    fn a_start_fixes_the_end_whenever_it_is_approved() {
        let (at, minute) = (
            |minutes: u64| Timestamp::from_micros(minutes * 60_000_000),
            Duration::from_secs(60),
        );
        let later = Terms {
            start: Some(at(10)),
            ..terms()
        };
        let hour = minute * 60;
        assert_eq!(
            terms().window(at(5), hour),
            Some((at(5), at(65))),
            "no start: from approval"
        );
        assert_eq!(later.window(at(5), hour), Some((at(10), at(70))));
        assert_eq!(
            later.window(at(69), hour),
            Some((at(69), at(70))),
            "minute 59 of 60: one minute is left"
        );
        assert_eq!(later.window(at(70), hour), None);
        let extension = Terms {
            extends: Some(GrantId::parse("g").unwrap()),
            ..later
        };
        assert_eq!(
            extension.window(at(5), hour),
            Some((at(5), at(70))),
            "in force at once"
        );
        assert_eq!(extension.window(at(70), hour), None);
    }

    #[test]
    fn an_etag_names_one_state_of_one_thing() {
        let of = |kind, id, at| etag(kind, id, Revision(at));
        let all = [
            of("grant", "a", 1),
            of("grant", "a", 2),
            of("grant", "b", 1),
            of("access request", "a", 1),
        ];
        assert_eq!(
            all.iter().collect::<std::collections::HashSet<_>>().len(),
            4
        );
        assert!(all.iter().all(|etag| etag.len() == 16));
        assert_eq!(of("grant", "a", 0), "", "what is not written has none");
    }

    #[test]
    fn every_part_of_the_terms_changes_the_digest() {
        let http = Rule::Http(HttpRule::parse_line("GET /a").unwrap());
        let workload = |name: &str| Principal::parse(&format!("spiffe://td/{name}")).unwrap();
        let changed = [
            Terms {
                subject: workload("a"),
                ..terms()
            },
            Terms {
                via: vec![workload("a")],
                ..terms()
            },
            Terms {
                scope: Scope::new(
                    Service::parse("other").unwrap(),
                    terms().scope.rules().to_vec(),
                )
                .unwrap(),
                ..terms()
            },
            Terms {
                scope: Scope::new(terms().scope.service().clone(), vec![http]).unwrap(),
                ..terms()
            },
            Terms {
                duration: Duration::from_secs(61),
                ..terms()
            },
            Terms {
                policy: PinnedPolicy {
                    digest: "e".into(),
                    ..terms().policy
                },
                ..terms()
            },
            Terms {
                start: Some(Timestamp::from_micros(1)),
                ..terms()
            },
            Terms {
                extends: Some(GrantId::parse("g").unwrap()),
                ..terms()
            },
        ];
        for (i, a) in changed.iter().enumerate() {
            assert_ne!(a.digest(), terms().digest(), "{i}");
            assert!(
                changed.iter().skip(i + 1).all(|b| a.digest() != b.digest()),
                "{i}"
            );
        }
    }

    #[test]
    fn the_order_of_via_does_not_matter_and_the_version_number_is_not_the_text() {
        let via: Vec<Principal> = ["a", "b"]
            .iter()
            .map(|n| Principal::parse(&format!("spiffe://td/{n}")).unwrap())
            .collect();
        let reversed = via.iter().rev().cloned().collect();
        assert_eq!(
            Terms { via, ..terms() }.digest(),
            Terms {
                via: reversed,
                ..terms()
            }
            .digest()
        );
        assert_eq!(
            Terms {
                policy: PinnedPolicy {
                    version: 9,
                    ..terms().policy
                },
                ..terms()
            }
            .digest(),
            terms().digest()
        );
    }

    proptest! {
        #[test]
        fn terminal_is_terminal(steps in proptest::collection::vec(0..5usize, 1..12)) {
            let mut state = AccessState::Pending;
            let mut moves = 0;
            for step in steps {
                match state.after(STEPS[step]) {
                    Ok(next) => { state = next; moves += 1; }
                    Err(Terminal(at)) => prop_assert_eq!(at, state),
                }
            }
            prop_assert_eq!(moves, 1);
            prop_assert!(state.is_terminal());
        }
    }
}
