//! Looking at grants and ending them early. Ending is durable before it is answered, and on its way before that.

use std::time::Duration;

use tracing::Instrument;

use super::caller::Caller;
use super::fanout::Enforcement;
use super::fault::{Fault, FaultKind};
use super::listing::Page;
use super::plane::Plane;
use super::requests::listed;
use super::store::{Change, Reader, StoreError, Table};
use crate::model::access::{Ending, Issued};
use crate::model::grant::{End, Ended, Phase, Revision};
use crate::model::identity::{Principal, Service};
use crate::telemetry::names;

/// Which grants are listed.
#[derive(Debug, Clone, Default)]
pub struct GrantFilter {
    /// Only of this subject.
    pub subject: Option<Principal>,
    /// Only at this service.
    pub service: Option<Service>,
    /// Also what is over.
    pub include_ended: bool,
}

impl GrantFilter {
    fn matches(&self, issued: &Issued) -> bool {
        self.subject.as_ref().is_none_or(|subject| issued.grant.subject == *subject)
            && self.service.as_ref().is_none_or(|service| issued.grant.scope.service() == service)
    }
}

/// Grants that were ended.
#[derive(Debug, Clone)]
pub struct Ends {
    /// As they now are.
    pub grants: Vec<Issued>,
    /// The revision at which they ended.
    pub revision: Revision,
    /// Standing grants that matched and were left.
    pub standing_kept: usize,
}

/// Which grants a mass revoke ends.
#[derive(Debug, Clone, Default)]
pub struct Sweep {
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
    pub async fn grant(&self, caller: &Caller, id: &str) -> Result<Issued, Fault> {
        let (caller, id) = (caller.clone(), id.to_owned());
        self.store.read(move |reader| visible(reader, &caller, &id)).await
    }

    /// A page of grants that the caller may see, newest first, and the revision that it was read at.
    ///
    /// # Errors
    /// [`Fault`] when the store cannot be read.
    pub async fn grants(
        &self,
        caller: &Caller,
        page: Page,
        filter: GrantFilter,
    ) -> Result<(Vec<Issued>, String, Revision), Fault> {
        let (caller, now) = (caller.clone(), self.now());
        self.store
            .read(move |reader| {
                let names = caller.parties();
                let mine: Vec<&str> = names.iter().map(String::as_str).collect();
                let one = [filter.subject.as_ref().map_or("", Principal::as_str)];
                let parties: &[&str] = if caller.is_admin() { &one } else { &mine };
                let (grants, next) = page.read(reader, Table::GrantsByParty, parties, |reader, id| {
                    let issued = listed(reader.grant(id)?, id)?;
                    let over = matches!(issued.grant.phase(now), Phase::Ended(_));
                    let seen = |issued: &Issued| caller.sees_grant(issued) && filter.matches(issued);
                    Ok(Some(issued).filter(|issued| seen(issued) && (filter.include_ended || !over)))
                })?;
                Ok((grants, next, reader.revision()?))
            })
            .await
    }

    /// Ends one grant: its subject, or an administrator.
    ///
    /// # Errors
    /// NOT_FOUND, NOT_ELIGIBLE, STATE_TERMINAL.
    pub async fn revoke_grant(&self, caller: &Caller, id: &str, reason: String) -> Result<Ends, Fault> {
        self.end_one(caller, id, Ended::Revoked, reason).await
    }

    /// The subject is done with its grant.
    ///
    /// # Errors
    /// As [`Plane::revoke_grant`].
    pub async fn release_grant(&self, caller: &Caller, id: &str) -> Result<Ends, Fault> {
        self.end_one(caller, id, Ended::Released, "released by its subject".to_owned()).await
    }

    async fn end_one(&self, caller: &Caller, id: &str, how: Ended, reason: String) -> Result<Ends, Fault> {
        let (caller, id, keep) = (caller.clone(), id.to_owned(), self.tombstone_keep);
        let span = tracing::info_span!(names::SPAN_REVOKE, "jitgate.grant.id" = id);
        let written = self.store.write(move |change| {
            let mut issued = visible(&change.read(), &caller, &id)?;
            may_end(&caller, &issued, how)?;
            end(change, &mut issued, how, (caller.who().to_string(), reason), keep)?;
            Ok::<_, Fault>(issued)
        });
        let (issued, revision) = written.instrument(span).await?;
        Ok(Ends { grants: vec![issued], revision, standing_kept: 0 })
    }

    /// Ends every live grant that matches, in one revision. Administrators only.
    ///
    /// # Errors
    /// NOT_ELIGIBLE.
    pub async fn revoke_grants(&self, caller: &Caller, sweep: Sweep, reason: String) -> Result<Ends, Fault> {
        caller.must_be_admin("revoke the grants of others")?;
        let Sweep { of: filter, include_standing } = sweep;
        let (by, keep) = (caller.who().to_string(), self.tombstone_keep);
        let span = tracing::info_span!(
            names::SPAN_REVOKE,
            "jitgate.principal" = filter.subject.as_ref().map(Principal::as_str),
            "jitgate.service" = filter.service.as_ref().map(Service::as_str),
        );
        let written = self.store.write(move |change| {
            let subject = filter.subject.as_ref().map(Principal::as_str);
            let (mut ended, mut standing_kept) = (Vec::new(), 0);
            for id in change.read().enforced(subject)? {
                let mut issued = listed(change.read().grant(&id)?, &id)?;
                if !filter.matches(&issued) || matches!(issued.grant.phase(change.now()), Phase::Ended(_)) {
                    continue;
                }
                if issued.grant.end == End::Standing && !include_standing {
                    standing_kept += 1;
                } else {
                    end(change, &mut issued, Ended::Revoked, (by.clone(), reason.clone()), keep)?;
                    ended.push(issued);
                }
            }
            Ok::<_, Fault>((ended, standing_kept))
        });
        let ((grants, standing_kept), revision) = written.instrument(span).await?;
        Ok(Ends { grants, revision, standing_kept })
    }

    /// Waits until every sidecar of these services enforces the revision, or patience ends.
    pub async fn await_enforced(&self, ends: &Ends, patience: Duration) -> Enforcement {
        let mut services: Vec<Service> = ends.grants.iter().map(|ended| ended.grant.scope.service().clone()).collect();
        services.sort();
        services.dedup();
        self.fanout.await_enforced(ends.revision, &services, patience).await
    }
}

fn visible(reader: &Reader<'_>, caller: &Caller, id: &str) -> Result<Issued, Fault> {
    let issued = reader.grant(id)?.filter(|issued| caller.sees_grant(issued));
    issued.ok_or_else(|| Fault::not_found("grant", id))
}

fn may_end(caller: &Caller, issued: &Issued, how: Ended) -> Result<(), Fault> {
    let standing = issued.grant.end == End::Standing;
    let own = caller.is(&issued.grant.subject) && !standing;
    let message = match how {
        Ended::Released if own => return Ok(()),
        Ended::Revoked | Ended::Expired if own || caller.is_admin() => return Ok(()),
        _ if standing => "a standing grant ends when its declaration is removed, or when an administrator revokes it",
        Ended::Released => "only the subject of a grant may release it; an administrator revokes",
        Ended::Revoked | Ended::Expired => "only the subject of a grant or an administrator may revoke it",
    };
    Err(Fault::new(FaultKind::NotEligible, message))
}

/// Ends a grant now, and keeps its tombstone for a while.
pub(super) fn end(
    change: &mut Change<'_>,
    issued: &mut Issued,
    how: Ended,
    (by, reason): (String, String),
    keep: Duration,
) -> Result<(), Fault> {
    let now = change.now();
    change.end_grant(issued, how, Ending { time: now, reason, by }, now.plus(keep))?;
    Ok(())
}

/// A grant that the sweeper or an operator's file is about.
pub(super) fn known(change: &Change<'_>, id: &str) -> Result<Option<Issued>, StoreError> {
    change.read().grant(id)
}
