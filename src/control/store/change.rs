//! One change in the making: typed rows with their indices, and an audit event for each transition. Nobody sees it before its commit.
//!
//! Whoever changes a state can do so only through the methods here, so no transition goes without its audit event.

use std::sync::Arc;

use prost::Message;

use super::chain::{self, Entry};
use super::commit::{Commit, GrantChange};
use super::difference::Audited;
use super::keys::{self, DueKind};
use super::overlay::Overlay;
use super::reader::{Due, count};
use super::rows::request::request_row;
use super::{META_KEY, Reader, StoreError, Table, View, Writes};
use crate::model::access::{AccessRequest, AccessState, AccessStep, Outcome, Terminal};
use crate::model::approval::{Review, Verdict};
use crate::model::grant::{Revision, StepRefused};
use crate::model::time::Timestamp;
use crate::wire::access::revision_to;
use crate::wire::grant::timestamp_to;
use crate::wire::store;

mod answers;
mod break_glass;
mod grants;
mod hold;
mod policies;
mod tokens;
mod unused;

/// Revisions whose changes are kept, for sidecars that resume.
pub(crate) const CHANGES_KEPT: u64 = 16_384;

/// A transition that cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ChangeError {
    /// An access request is over.
    #[error(transparent)]
    Request(#[from] Terminal),
    /// A grant is not where this can be done to it.
    #[error(transparent)]
    Grant(#[from] StepRefused),
    /// Below.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A change in the making.
pub(crate) struct Change<'v> {
    rows: Overlay<'v>,
    meta: store::Meta,
    now: Timestamp,
    grants: Vec<GrantChange>,
    requests: Vec<Arc<AccessRequest>>,
    audited: Audited,
}

impl std::fmt::Debug for Change<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Change")
            .field("revision", &self.revision())
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

/// Who, and why.
#[derive(Clone, Copy)]
struct Said<'s> {
    by: &'s str,
    reason: &'s str,
}

/// A committed change, for those who wait for it.
#[derive(Debug)]
pub(crate) struct Committed {
    /// For the sidecars.
    pub commit: Commit,
    /// Access requests that it changed, as they are after it.
    pub requests: Vec<Arc<AccessRequest>>,
}

impl<'v> Change<'v> {
    pub(super) fn begin(below: &'v dyn View, meta: store::Meta, now: Timestamp) -> Self {
        Self {
            rows: Overlay::new(below),
            meta,
            now,
            grants: vec![],
            requests: vec![],
            audited: Audited::default(),
        }
    }

    /// The revision that this becomes.
    pub(crate) fn revision(&self) -> Revision {
        Revision(count(self.meta.revision) + 1)
    }

    /// The moment of the change; never before that of an earlier change.
    pub(crate) fn now(&self) -> Timestamp {
        self.now
    }

    /// Reads the store as it will be.
    pub(crate) fn read(&self) -> Reader<'_> {
        Reader::new(&self.rows)
    }

    /// Writes a new access request: PENDING.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn create_request(&mut self, request: &mut AccessRequest) -> Result<(), StoreError> {
        let revision = self.revision();
        (request.create_revision, request.mod_revision) = (revision, revision);
        let id = request.id.as_bytes();
        for party in [
            "",
            request.requester.as_str(),
            request.terms.subject.as_str(),
        ] {
            self.rows.put(
                Table::RequestsByParty,
                keys::by_party(party, revision),
                id.to_vec(),
            );
        }
        for approver in request.approvers() {
            self.rows.put(
                Table::RequestsByParty,
                keys::by_party(&approver.to_string(), revision),
                id.to_vec(),
            );
        }
        self.rows.put(
            Table::Pending,
            keys::pair(request.requester.as_str(), id),
            vec![],
        );
        self.rows.put(
            Table::Due,
            keys::due(request.pending_until, DueKind::RequestEnds, id),
            vec![],
        );
        self.plan_escalations(request);
        self.put_request(request)?;
        self.audit(&Entry {
            kind: "access_request.created",
            actor: request.requester.as_str(),
            resource: format!("accessRequests/{}", request.id),
            from: "",
            to: request.state.as_str(),
            reason: &request.reason,
            traceparent: request.traceparent.as_deref(),
        })
    }

    /// Ends an access request.
    ///
    /// # Errors
    /// [`ChangeError::Request`] when it is over already.
    pub(crate) fn end_request(
        &mut self,
        request: &mut AccessRequest,
        step: AccessStep,
        outcome: Outcome,
    ) -> Result<(), ChangeError> {
        let from = request.state;
        request.take(step, outcome)?;
        request.mod_revision = self.revision();
        let id = request.id.as_bytes();
        self.rows
            .remove(Table::Pending, keys::pair(request.requester.as_str(), id));
        self.rows.remove(
            Table::Due,
            keys::due(request.pending_until, DueKind::RequestEnds, id),
        );
        self.drop_escalations(request);
        self.put_request(request)?;
        let outcome = request.outcome.as_ref();
        self.audit(&Entry {
            kind: &format!(
                "access_request.{}",
                request.state.as_str().to_ascii_lowercase()
            ),
            actor: outcome.map_or("", |outcome| &outcome.by),
            resource: format!("accessRequests/{}", request.id),
            from: from.as_str(),
            to: request.state.as_str(),
            reason: outcome.map_or("", |outcome| &outcome.reason),
            traceparent: request.traceparent.as_deref(),
        })?;
        Ok(())
    }

    /// Adds a review to a pending request, which stays pending: what follows from it is the next step.
    ///
    /// # Errors
    /// [`ChangeError::Request`] when it is over already.
    pub(crate) fn record_review(
        &mut self,
        request: &mut AccessRequest,
        review: &Review,
    ) -> Result<(), ChangeError> {
        if request.state.is_terminal() {
            return Err(Terminal(request.state).into());
        }
        let state = request.state.as_str();
        request.mod_revision = self.revision();
        request.reviews.push(review.clone());
        self.put_request(request)?;
        self.audit(&Entry {
            kind: match review.verdict {
                Verdict::Approve => "review.approved",
                Verdict::Deny => "review.denied",
            },
            actor: review.reviewer.as_str(),
            resource: format!("accessRequests/{}", request.id),
            from: state,
            to: state,
            reason: &review.reason,
            traceparent: request.traceparent.as_deref(),
        })?;
        Ok(())
    }

    fn put_request(&mut self, request: &AccessRequest) -> Result<(), StoreError> {
        self.announce(request)?;
        self.rows.put(
            Table::Requests,
            request.id.as_bytes().to_vec(),
            request_row(request).encode_to_vec(),
        );
        self.requests.retain(|earlier| earlier.id != request.id);
        self.requests.push(Arc::new(request.clone()));
        Ok(())
    }

    /// Lets sidecars know of a request while it waits, so that they can say so to whoever is refused meanwhile.
    fn announce(&mut self, request: &AccessRequest) -> Result<(), StoreError> {
        let Some(entry) = request.as_entry() else {
            return Ok(());
        };
        if request.state == AccessState::Pending {
            let before = self.read().request(&request.id)?;
            if before.and_then(|before| before.as_entry()).as_ref() == Some(&entry) {
                return Ok(());
            }
            self.grants.push(GrantChange::Put(entry.into()));
        } else if request.create_revision == self.revision() {
            // Made and ended in one change: nobody has heard of it.
            self.grants
                .retain(|change| !matches!(change, GrantChange::Put(put) if *put.id() == entry.id));
        } else if self
            .read()
            .request(&request.id)?
            .is_none_or(|before| !before.state.is_terminal())
        {
            let service = entry.scope.service().clone();
            self.grants.push(GrantChange::Forget {
                id: entry.id,
                service,
            });
        }
        Ok(())
    }

    /// Takes something off the sweeper's list that has become void.
    pub(crate) fn drop_due(&mut self, due: &Due) {
        self.rows
            .remove(Table::Due, keys::due(due.at, due.kind, &due.id));
    }

    fn audit(&mut self, entry: &Entry<'_>) -> Result<(), StoreError> {
        let event = store::AuditEvent {
            index: self
                .meta
                .audit_index
                .checked_add(1)
                .ok_or_else(|| StoreError::Damaged("audit index".into()))?,
            time: Some(timestamp_to(self.now)),
            r#type: entry.kind.to_owned(),
            actor: entry.actor.to_owned(),
            resource: entry.resource.clone(),
            from_state: entry.from.to_owned(),
            to_state: entry.to.to_owned(),
            reason: entry.reason.to_owned(),
            trace_id: entry.trace_id(),
            revision: revision_to(self.revision()),
            changes: self
                .audited
                .changes(self.rows.below(), &self.rows, &entry.resource)?,
            ..Default::default()
        };
        let event = chain::seal(event, &self.meta.audit_hash)?;
        self.meta.audit_index = event.index;
        self.meta.audit_hash = event.hash.clone();
        let index = keys::number(count(event.index));
        self.rows.put(
            Table::AuditByResource,
            keys::pair(&event.resource, &index),
            vec![],
        );
        self.rows.put(Table::Audit, index, event.encode_to_vec());
        Ok(())
    }

    /// The rows, what the change means to others, and where the store will stand; `None` when nothing was changed.
    pub(super) fn finish(mut self) -> Option<(Writes, Committed, store::Meta)> {
        if self.rows.is_empty() {
            return None;
        }
        let revision = self.revision();
        if !self.grants.is_empty() {
            let items = self.grants.iter().map(changed_item).collect();
            self.rows.put(
                Table::Changes,
                keys::number(revision.0),
                store::Changed { items }.encode_to_vec(),
            );
        }
        if let Some(old) = revision.0.checked_sub(CHANGES_KEPT) {
            self.rows.remove(Table::Changes, keys::number(old));
        }
        self.meta.revision = revision_to(revision);
        self.rows
            .put(Table::Meta, META_KEY.to_vec(), self.meta.encode_to_vec());
        let commit = Commit {
            revision,
            changes: self.grants,
        };
        Some((
            self.rows.into_writes(),
            Committed {
                commit,
                requests: self.requests,
            },
            self.meta,
        ))
    }
}

fn changed_item(change: &GrantChange) -> store::changed::Item {
    let (id, service, forgotten) = match change {
        GrantChange::Put(entry) => (entry.id(), entry.scope().service(), false),
        GrantChange::Forget { id, service } => (id, service, true),
    };
    store::changed::Item {
        id: id.to_string(),
        service: service.to_string(),
        forgotten,
    }
}
