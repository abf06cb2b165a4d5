//! Looking at grants and ending them early. Ending is durable before it is answered, and on its way before that.

use std::time::Duration;

use tracing::Instrument;

use super::caller::Caller;
use super::fault::{Fault, FaultKind};
use super::plane::Plane;
use super::rows::{end, listed, visible_grant};
use super::write_options::{Answer, Transition, WriteOptions};
use crate::control::fanout::Enforcement;
use crate::control::store::{Change, Reader, StoreError};
use crate::model::access::Issued;
use crate::model::grant::{End, Ended, Phase, Revision};
use crate::model::identity::{Principal, Service};
use crate::telemetry::names;
use crate::wire::access::revision_to;
use crate::wire::store::Answered;

/// Most grants named in the answer that a retry of a mass revoke gets.
const KEPT_MAX: usize = 10_000;

/// Which grants are listed.
#[derive(Debug, Clone, Default)]
pub(crate) struct GrantFilter {
    /// Only of this subject.
    pub subject: Option<Principal>,
    /// Only at this service.
    pub service: Option<Service>,
    /// Also what is over.
    pub include_ended: bool,
}

impl GrantFilter {
    /// Whether it is of that subject and at that service.
    pub(crate) fn matches(&self, issued: &Issued) -> bool {
        self.subject
            .as_ref()
            .is_none_or(|subject| issued.grant.subject == *subject)
            && self
                .service
                .as_ref()
                .is_none_or(|service| issued.grant.scope.service() == service)
    }
}

/// Grants that a call has ended, held back or let go.
#[derive(Debug, Clone)]
pub(crate) struct EndReport {
    /// As they now are; of very many, in the answer to a retry, the first.
    pub grants: Vec<Issued>,
    /// How many.
    pub changed: usize,
    /// The revision at which that was done.
    pub revision: Revision,
    /// Standing grants that matched and were left.
    pub standing_kept: usize,
}

impl EndReport {
    pub(crate) fn one(issued: Issued, revision: Revision) -> Self {
        Self {
            grants: vec![issued],
            changed: 1,
            revision,
            standing_kept: 0,
        }
    }
}

impl Answer for EndReport {
    fn kept(&self) -> Option<Answered> {
        let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        Some(Answered {
            grants: self
                .grants
                .iter()
                .take(KEPT_MAX)
                .map(|issued| issued.grant.id.to_string())
                .collect(),
            changed: number(self.changed),
            revision: revision_to(self.revision),
            standing_kept: number(self.standing_kept),
            ..Answered::default()
        })
    }

    fn again(reader: &Reader<'_>, kept: &Answered) -> Result<Self, StoreError> {
        let count = |kept: i32| usize::try_from(kept).unwrap_or_default();
        let grants = kept
            .grants
            .iter()
            .map(|id| listed(reader.grant(id)?, id))
            .collect::<Result<_, _>>()?;
        let revision = Revision(u64::try_from(kept.revision).unwrap_or_default());
        Ok(Self {
            grants,
            changed: count(kept.changed),
            revision,
            standing_kept: count(kept.standing_kept),
        })
    }

    fn rehearsed(&mut self, _: Revision) {
        self.revision = Revision(0);
        for issued in &mut self.grants {
            issued.grant.mod_revision = Revision(0);
        }
    }
}

/// Which grants a mass revoke ends.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sweep {
    /// Live grants that match; whether ended ones are listed means nothing here.
    pub of: GrantFilter,
    /// Standing grants, too. They are declared by files, so that ending them has to be asked for.
    pub include_standing: bool,
}

impl Plane {
    /// One grant.
    ///
    /// # Errors
    /// NOT_FOUND also for what the caller may not see.
    pub(crate) async fn grant(&self, caller: &Caller, id: &str) -> Result<Issued, Fault> {
        let (caller, id) = (caller.clone(), id.to_owned());
        self.store()
            .read(move |reader| visible_grant(reader, &caller, &id))
            .await
    }

    /// Ends one grant: its subject, or an administrator.
    ///
    /// # Errors
    /// NOT_FOUND, NOT_ELIGIBLE, ETAG_MISMATCH, STATE_TERMINAL.
    pub(crate) async fn revoke(
        &self,
        caller: &Caller,
        transition: Transition,
    ) -> Result<EndReport, Fault> {
        self.end_one(caller, transition, Ended::Revoked).await
    }

    /// The subject is done with its grant. Nothing brings it back.
    ///
    /// # Errors
    /// As [`Plane::revoke`].
    pub(crate) async fn release(
        &self,
        caller: &Caller,
        transition: Transition,
    ) -> Result<EndReport, Fault> {
        let said = Some(transition.reason).filter(|reason| !reason.is_empty());
        let reason = said.unwrap_or_else(|| "released by its subject".to_owned());
        self.end_one(
            caller,
            Transition {
                reason,
                ..transition
            },
            Ended::Released,
        )
        .await
    }

    async fn end_one(
        &self,
        caller: &Caller,
        transition: Transition,
        how: Ended,
    ) -> Result<EndReport, Fault> {
        let Transition {
            id,
            reason,
            options,
        } = transition;
        let span = tracing::info_span!(names::SPAN_REVOKE, "jitgate.grant.id" = id);
        let (ending, keep, on) = (caller.clone(), self.tombstone_keep(), options.clone());
        let end_it = move |change: &mut Change<'_>| {
            let mut issued = visible_grant(&change.read(), &ending, &id)?;
            may_end(&ending, &issued, how)?;
            on.must_match(&issued.etag())?;
            end(
                change,
                &mut issued,
                how,
                (ending.who().to_string(), reason),
                keep,
            )?;
            Ok(EndReport::one(issued, change.revision()))
        };
        Ok(self
            .write_once(caller, options, end_it)
            .instrument(span)
            .await?
            .answer)
    }

    /// Ends every live grant that matches, in one revision. Administrators only.
    ///
    /// # Errors
    /// NOT_ELIGIBLE.
    pub(crate) async fn revoke_all(
        &self,
        caller: &Caller,
        sweep: Sweep,
        said: (String, WriteOptions),
    ) -> Result<EndReport, Fault> {
        caller.must_be_admin("revoke the grants of others")?;
        let (reason, options) = said;
        let Sweep {
            of: filter,
            include_standing,
        } = sweep;
        let (by, keep) = (caller.who().to_string(), self.tombstone_keep());
        let span = tracing::info_span!(
            names::SPAN_REVOKE,
            "jitgate.principal" = filter.subject.as_ref().map(Principal::as_str),
            "jitgate.service" = filter.service.as_ref().map(Service::as_str),
        );
        let end_them = move |change: &mut Change<'_>| {
            let subject = filter.subject.as_ref().map(Principal::as_str);
            let (mut ended, mut standing_kept) = (Vec::new(), 0);
            for id in change.read().enforced(subject)? {
                let mut issued = listed(change.read().grant(&id)?, &id)?;
                if !filter.matches(&issued)
                    || matches!(issued.grant.phase(change.now()), Phase::Ended(_))
                {
                    continue;
                }
                if issued.grant.end == End::Standing && !include_standing {
                    standing_kept += 1;
                } else {
                    end(
                        change,
                        &mut issued,
                        Ended::Revoked,
                        (by.clone(), reason.clone()),
                        keep,
                    )?;
                    ended.push(issued);
                }
            }
            let revision = if ended.is_empty() {
                change.read().revision()?
            } else {
                change.revision()
            };
            Ok(EndReport {
                changed: ended.len(),
                grants: ended,
                revision,
                standing_kept,
            })
        };
        Ok(self
            .write_once(caller, options, end_them)
            .instrument(span)
            .await?
            .answer)
    }

    /// Waits until every sidecar of these services enforces the revision, or patience ends.
    pub(crate) async fn await_enforced(&self, ends: &EndReport, patience: Duration) -> Enforcement {
        let mut services: Vec<Service> = ends
            .grants
            .iter()
            .map(|ended| ended.grant.scope.service().clone())
            .collect();
        services.sort();
        services.dedup();
        self.fanout()
            .await_enforced(ends.revision, &services, patience)
            .await
    }
}

fn may_end(caller: &Caller, issued: &Issued, how: Ended) -> Result<(), Fault> {
    let standing = issued.grant.end == End::Standing;
    let own = caller.is(&issued.grant.subject) && !standing;
    let message = match how {
        Ended::Released if own => return Ok(()),
        Ended::Revoked | Ended::Expired if own || caller.is_admin() => return Ok(()),
        _ if standing => {
            "a standing grant ends when its declaration is removed, or when an administrator revokes it"
        }
        Ended::Released => "only the subject of a grant may release it; an administrator revokes",
        Ended::Revoked | Ended::Expired => {
            "only the subject of a grant or an administrator may revoke it"
        }
    };
    Err(Fault::new(FaultKind::NotEligible, message))
}
