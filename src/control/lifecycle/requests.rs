//! Asking: an access request is ruled on by policy, written together with its grant if it gets one, and ends once.

use std::sync::Arc;
use std::time::Duration;

use tracing::{Instrument, Span, field};

use super::approve::{Granted, approve, fail_at_once};
use super::break_glass::{self, Broken};
use super::caller::Caller;
use super::extend;
use super::fault::{Fault, FaultKind};
use super::input::RequestInput;
use super::notify::Wait;
use super::plane::Plane;
use super::reviews::{self, recheck};
use super::rows::{new_id, pinned_policy, visible_request};
use super::write_options::Transition;
use crate::control::policy::ActivePolicies;
use crate::control::store::{Change, Reader};
use crate::model::access::{AccessRequest, AccessState, AccessStep, Outcome, PinnedPolicy, Terms};
use crate::model::approval::AfterTheFact;
use crate::model::grant::Revision;
use crate::model::identity::Principal;
use crate::model::policy::{Ask, Outcome as Ruled, PolicyDecision, START_AHEAD_MAX};
use crate::model::time::Timestamp;
use crate::telemetry::{names, trace};

/// Requests of one requester that may be pending.
const PENDING_MAX: usize = 100;
/// How often a request is ruled on anew because the policies changed while it waited to be written.
const RULED_ANEW_MAX: usize = 4;

/// Most notes on a request, and the longest, in characters.
const NOTES_MAX: usize = 16;
const NOTE_MAX: usize = 512;

impl Plane {
    /// Asks for access. The same request id of the same caller gets the first answer again.
    ///
    /// # Errors
    /// [`Fault`]: malformed, taken by no policy, over a limit. What a rule denies is no error but a DENIED request.
    pub(crate) async fn request_access(
        &self,
        caller: &Caller,
        asking: RequestInput,
    ) -> Result<AccessRequest, Fault> {
        if let Some(first) = self.replayed(caller, &asking.options).await? {
            return Ok(first);
        }
        starts_in_time(asking.start, self.now())?;
        self.ask(caller, &asking).await
    }

    /// Has policy rule on it, and writes what was ruled.
    pub(crate) async fn ask(
        &self,
        caller: &Caller,
        asking: &RequestInput,
    ) -> Result<AccessRequest, Fault> {
        for _ in 0..=RULED_ANEW_MAX {
            if let Some(request) = self.rule_and_write(caller, asking).await? {
                return Ok(request);
            }
        }
        Err(Fault::new(
            FaultKind::Unavailable,
            "the policies keep changing; nothing was decided, ask again",
        ))
    }

    /// Rules and writes what was ruled; `None`, and nothing written, when other policies have come into force in between.
    async fn rule_and_write(
        &self,
        caller: &Caller,
        asking: &RequestInput,
    ) -> Result<Option<AccessRequest>, Fault> {
        let subject = asking
            .subject
            .clone()
            .unwrap_or_else(|| caller.who().clone());
        let policies_in_force = self.version_in_force();
        let decision = self.review(&**policies_in_force, caller, &subject, asking)?;
        // Decisions that use the grant link to the span of its issue.
        let issue = match decision.outcome {
            Ruled::Approved { .. } | Ruled::BreakGlass { .. } => tracing::info_span!(
                names::SPAN_ISSUE,
                "jitgate.principal" = subject.as_str(),
                "jitgate.service" = asking.scope.service().as_str(),
                "jitgate.policy.name" = &*decision.policy.name,
            ),
            Ruled::Denied { .. } | Ruled::Pending { .. } => Span::none(),
        };
        let traceparent = issue.in_scope(trace::current_traceparent).map(Into::into);
        let (options, asking) = (asking.options.clone(), asking.clone());
        let (requester, version_in_force) = (caller.who().clone(), Arc::clone(&policies_in_force));
        let draft = Draft {
            requester,
            subject,
            asking,
            decision,
            version_in_force,
            traceparent,
        };
        let in_force = self.still_in_force(&policies_in_force);
        let job = move |change: &mut Change<'_>| {
            if in_force() {
                draft.write(change).map(Some)
            } else {
                Ok(None)
            }
        };
        let done = self
            .write_once(caller, options, job)
            .instrument(issue)
            .await?;
        if let (Some(request), true) = (&done.answer, done.written) {
            self.count(request);
        }
        Ok(done.answer)
    }

    fn review(
        &self,
        policies_in_force: &dyn ActivePolicies,
        caller: &Caller,
        subject: &Principal,
        asking: &RequestInput,
    ) -> Result<PolicyDecision, Fault> {
        let ask = Ask {
            requester: caller.principals(),
            claims: caller.claims().map(|claims| &**claims),
            subject,
            via: &asking.via,
            scope: &asking.scope,
            duration: asking.duration,
            start: asking.start,
            reason: &asking.reason,
            tickets: &asking.tickets,
            policy: Some(asking.policy.as_str()).filter(|policy| !policy.is_empty()),
            break_glass: asking.break_glass,
            people_only: asking
                .extends
                .as_ref()
                .is_some_and(|extension| extension.people_only),
            now: self.now(),
        };
        let review = tracing::info_span!(
            names::SPAN_REVIEW,
            "jitgate.policy.name" = field::Empty,
            "jitgate.decision" = field::Empty,
            "jitgate.reason" = field::Empty,
        );
        let _entered = review.enter();
        let ruled = policies_in_force.rule(&ask);
        match &ruled {
            Ok(decision) => {
                review.record(names::POLICY_NAME, &*decision.policy.name);
                review.record(names::DECISION, decision.outcome.as_str());
            }
            Err(refusal) => {
                review.record(names::REASON, refusal.reason.as_str());
            }
        }
        for would in ruled
            .as_ref()
            .map_or_else(|refusal| &refusal.would, |decision| &decision.would)
        {
            tracing::info!(policy = %would.policy.name, outcome = would.outcome, "a policy in shadow mode was asked");
        }
        Ok(ruled?)
    }

    pub(crate) fn count(&self, request: &AccessRequest) {
        self.metrics().request(request.state.as_str());
        if let (AccessState::Approved, Some(outcome)) = (request.state, &request.outcome) {
            self.metrics()
                .approved(outcome.time.since(request.create_time));
        }
    }

    /// One access request.
    ///
    /// # Errors
    /// NOT_FOUND also for what the caller may not see.
    pub(crate) async fn access_request(
        &self,
        caller: &Caller,
        id: &str,
    ) -> Result<AccessRequest, Fault> {
        let (caller, id) = (caller.clone(), id.to_owned());
        let mut request = self
            .store()
            .read(move |reader| visible_request(reader, &caller, &id))
            .await?;
        recheck(&mut request, &*self.policies_in_force());
        Ok(request)
    }

    /// The request as it is now, and what to wait on for its next change.
    ///
    /// # Errors
    /// As [`Plane::access_request`]; BUSY when too many wait, LIMIT_EXCEEDED when the caller does.
    pub(crate) async fn watch_request(
        &self,
        caller: &Caller,
        id: &str,
    ) -> Result<(AccessRequest, Wait), Fault> {
        // The wait begins before the reading: no change can fall between the two.
        let wait = self.waiting().begin(id.into(), caller.who())?;
        Ok((self.access_request(caller, id).await?, wait))
    }

    /// Takes a pending request back.
    ///
    /// # Errors
    /// NOT_FOUND, NOT_ELIGIBLE unless its requester or an administrator, ETAG_MISMATCH, STATE_TERMINAL.
    pub(crate) async fn cancel(
        &self,
        caller: &Caller,
        transition: Transition,
    ) -> Result<AccessRequest, Fault> {
        let Transition {
            id,
            reason,
            options,
        } = transition;
        let (by, how) = (caller.clone(), options.clone());
        let cancel = move |change: &mut Change<'_>| {
            let mut request = visible_request(&change.read(), &by, &id)?;
            if !by.is(&request.requester) && !by.is_admin() {
                let message = "only its requester or an administrator may cancel an access request";
                return Err(Fault::new(FaultKind::NotEligible, message));
            }
            how.must_match(&request.etag())?;
            reviews::may_change(&request, change)?;
            let outcome = Outcome {
                time: change.now(),
                by: by.who().to_string(),
                reason,
                grant: None,
            };
            change.end_request(&mut request, AccessStep::Cancel, outcome)?;
            Ok(request)
        };
        let done = self.write_once(caller, options, cancel).await?;
        if done.written {
            self.count(&done.answer);
        }
        Ok(done.answer)
    }
}

/// An access request that policy has ruled on, to be written.
struct Draft {
    requester: Principal,
    subject: Principal,
    asking: RequestInput,
    decision: PolicyDecision,
    version_in_force: Arc<Arc<dyn ActivePolicies>>,
    /// Of the grant's issue.
    traceparent: Option<Arc<str>>,
}

impl Draft {
    fn write(self, change: &mut Change<'_>) -> Result<AccessRequest, Fault> {
        let mut request = self.pend(change)?;
        match &self.decision.outcome {
            Ruled::Approved {
                duration,
                rule,
                message,
                staleness,
            } => {
                let by = format!(
                    "rule {rule} of policy {} approves",
                    self.decision.policy.name
                );
                let message = message.as_deref().map_or(by, str::to_owned);
                let traceparent = self.traceparent.clone();
                let (duration, staleness) = (*duration, *staleness);
                let (scope, by) = (request.terms.scope.clone(), format!("rule:{rule}"));
                let rule = Some(Arc::clone(rule));
                let granted = Granted {
                    scope,
                    duration,
                    staleness,
                    rule,
                    by,
                    message,
                    traceparent,
                };
                approve(change, &mut request, granted)?;
            }
            Ruled::Denied { rule, message } => {
                let by = format!("rule:{rule}");
                let outcome = Outcome {
                    time: change.now(),
                    by,
                    reason: message.clone(),
                    grant: None,
                };
                change.end_request(&mut request, AccessStep::Deny, outcome)?;
            }
            Ruled::BreakGlass {
                duration,
                staleness,
                ..
            } => {
                let (duration, staleness, traceparent) =
                    (*duration, *staleness, self.traceparent.clone());
                let broken = Broken {
                    duration,
                    staleness,
                    traceparent,
                };
                break_glass::carry_out(
                    change,
                    &mut request,
                    broken,
                    self.version_in_force.persons(),
                )?;
            }
            Ruled::Pending { .. } => {
                fail_at_once(change, &mut request, self.version_in_force.persons())?
            }
        }
        Ok(request)
    }

    /// What is left to people says why, in a bounded number of words.
    fn notes(&self) -> Vec<String> {
        let Ruled::Pending { .. } = &self.decision.outcome else {
            return vec![];
        };
        let short = |note: &String| note.chars().take(NOTE_MAX).collect();
        self.decision
            .notes
            .iter()
            .take(NOTES_MAX)
            .map(short)
            .collect()
    }

    /// The policy that ruled, in its version.
    fn pinned(&self, change: &Change<'_>) -> Result<PinnedPolicy, Fault> {
        let name = &self.decision.policy.name;
        let digest = self.decision.policy.digest.to_string();
        let version = change.read().policy_version(name, &digest)?;
        // Withdrawn in the store already, though the set that ruled has not been replaced yet.
        let in_force = change.read().current_policy(name)?;
        let version = version
            .filter(|version| in_force == Some(*version))
            .ok_or_else(|| {
                Fault::new(
                    FaultKind::Unavailable,
                    "the policies have just changed; nothing was decided, ask again",
                )
            })?;
        Ok(PinnedPolicy {
            name: Arc::clone(name),
            version,
            digest: digest.into(),
        })
    }

    /// Writes the request as PENDING, with the policy pinned in the version that ruled.
    fn pend(&self, change: &mut Change<'_>) -> Result<AccessRequest, Fault> {
        let RequestInput {
            via,
            scope,
            duration,
            reason,
            tickets,
            traceparent,
            mut start,
            extends,
            ..
        } = self.asking.clone();
        let policy = self.pinned(change)?;
        let (duration, wait) = match &self.decision.outcome {
            Ruled::Approved { duration, .. } | Ruled::BreakGlass { duration, .. } => {
                (*duration, Duration::ZERO)
            }
            Ruled::Denied { .. } => (duration.unwrap_or_default(), Duration::ZERO),
            Ruled::Pending {
                duration,
                pending_ttl,
                ..
            } => (*duration, *pending_ttl),
        };
        if let Some(extension) = &extends {
            start = Some(extend::may_extend(
                change,
                extension,
                duration,
                extend::bounds(&**self.version_in_force, &self.decision.policy.name).as_ref(),
            )?);
        }
        let extends = extends.map(|extension| extension.grant);
        if !wait.is_zero() {
            self.check_pending(&change.read())?;
        }
        let now = change.now();
        let stages = match &self.decision.outcome {
            Ruled::Pending { .. } | Ruled::BreakGlass { .. } => {
                pinned_policy(&change.read(), &policy)?.stages
            }
            Ruled::Approved { .. } | Ruled::Denied { .. } => vec![],
        };
        let break_glass = match &self.decision.outcome {
            Ruled::BreakGlass { review_within, .. } => {
                Some(AfterTheFact::by(now.plus(*review_within)))
            }
            Ruled::Approved { .. } | Ruled::Denied { .. } | Ruled::Pending { .. } => None,
        };
        let mut request = AccessRequest {
            id: new_id(now),
            requester: self.requester.clone(),
            terms: Terms {
                subject: self.subject.clone(),
                via,
                scope,
                duration,
                policy,
                start,
                extends,
            },
            reason,
            tickets,
            create_time: now,
            pending_until: now.plus(wait),
            state: AccessState::Pending,
            outcome: None,
            stages,
            break_glass,
            reviews: vec![],
            notes: self.notes(),
            traceparent,
            create_revision: Revision(0),
            mod_revision: Revision(0),
        };
        change.create_request(&mut request)?;
        Ok(request)
    }

    /// # Errors
    /// LIMIT_EXCEEDED when as many requests of the requester wait as may.
    fn check_pending(&self, reader: &Reader<'_>) -> Result<(), Fault> {
        if reader.pending(self.requester.as_str(), PENDING_MAX)? < PENDING_MAX {
            return Ok(());
        }
        let message = format!(
            "{PENDING_MAX} access requests of {} wait already; cancel some",
            self.requester
        );
        Err(Fault::new(FaultKind::Limit, message))
    }
}

/// # Errors
/// INVALID_ARGUMENT for a start in the past or too far ahead.
fn starts_in_time(start: Option<Timestamp>, now: Timestamp) -> Result<(), Fault> {
    match start {
        Some(start) if start <= now => {
            let message = format!(
                "must lie in the future; it is {now} here. Leave it out to begin on approval"
            );
            Err(Fault::invalid("start_time", message))
        }
        Some(start) if start.since(now) > START_AHEAD_MAX => {
            let days = START_AHEAD_MAX.as_secs() / (24 * 3600);
            Err(Fault::invalid(
                "start_time",
                format!("must lie at most {days} days ahead"),
            ))
        }
        Some(_) | None => Ok(()),
    }
}
