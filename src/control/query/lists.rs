//! Lists of access requests and grants, newest first, of what the caller may see.

use super::page::Page;
use crate::control::lifecycle::caller::Caller;
use crate::control::lifecycle::fault::Fault;
use crate::control::lifecycle::grants::GrantFilter;
use crate::control::lifecycle::plane::Plane;
use crate::control::lifecycle::reviews::{self, ReviewContext, recheck};
use crate::control::lifecycle::rows::listed;
use crate::control::store::Table;
use crate::model::access::{AccessRequest, AccessState, Issued};
use crate::model::grant::{Phase, Revision};
use crate::model::identity::Principal;

/// Which access requests are listed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RequestFilter {
    /// Only in this state.
    pub state: Option<AccessState>,
    /// Only what waits for the caller's own review.
    pub for_review: bool,
}

impl RequestFilter {
    fn takes(self, caller: &Caller, request: &AccessRequest, counting: &ReviewContext<'_>) -> bool {
        self.state.is_none_or(|state| request.state == state)
            && (!self.for_review || reviews::waits_for(request, caller, counting))
    }
}

impl Plane {
    /// A page of access requests that the caller may see, newest first.
    ///
    /// # Errors
    /// [`Fault`] when the store cannot be read.
    pub(crate) async fn access_requests(
        &self,
        caller: &Caller,
        page: Page,
        filter: RequestFilter,
    ) -> Result<(Vec<AccessRequest>, String), Fault> {
        let (caller, policies_in_force, now) =
            (caller.clone(), self.policies_in_force(), self.now());
        self.store()
            .read(move |reader| {
                let counting = ReviewContext {
                    policies_in_force: &*policies_in_force,
                    now,
                };
                let names = caller.parties();
                let mine: Vec<&str> = names.iter().map(String::as_str).collect();
                let parties: &[&str] = if caller.is_admin() && !filter.for_review {
                    &[""]
                } else {
                    &mine
                };
                Ok(
                    page.read(reader, Table::RequestsByParty, parties, |reader, id| {
                        let mut request = listed(reader.request(id)?, id)?;
                        recheck(&mut request, &*policies_in_force);
                        let takes =
                            |request: &AccessRequest| filter.takes(&caller, request, &counting);
                        let seen = |request: &AccessRequest| {
                            caller.sees_request(request) && takes(request)
                        };
                        Ok(Some(request).filter(seen))
                    })?,
                )
            })
            .await
    }

    /// A page of grants that the caller may see, newest first, and the revision that it was read at.
    ///
    /// # Errors
    /// [`Fault`] when the store cannot be read.
    pub(crate) async fn grants(
        &self,
        caller: &Caller,
        page: Page,
        filter: GrantFilter,
    ) -> Result<(Vec<Issued>, String, Revision), Fault> {
        let (caller, now) = (caller.clone(), self.now());
        self.store()
            .read(move |reader| {
                let names = caller.parties();
                let mine: Vec<&str> = names.iter().map(String::as_str).collect();
                let one = [filter.subject.as_ref().map_or("", Principal::as_str)];
                let parties: &[&str] = if caller.is_admin() { &one } else { &mine };
                let (grants, next) =
                    page.read(reader, Table::GrantsByParty, parties, |reader, id| {
                        let issued = listed(reader.grant(id)?, id)?;
                        let over = matches!(issued.grant.phase(now), Phase::Ended(_));
                        let seen =
                            |issued: &Issued| caller.sees_grant(issued) && filter.matches(issued);
                        Ok(Some(issued)
                            .filter(|issued| seen(issued) && (filter.include_ended || !over)))
                    })?;
                Ok((grants, next, reader.revision()?))
            })
            .await
    }
}
