//! One change in the making: typed rows with their indices, and an audit event for each transition. Nobody sees it before its commit.
//!
//! Whoever changes a state can do so only through the methods here, so no transition goes without its audit event.

use std::sync::Arc;

use prost::Message;

use super::keys::{self, DueKind};
use super::overlay::Overlay;
use super::reader::{Due, count};
use super::{META_KEY, Reader, StoreError, Table, View, Writes};
use crate::control::fanout;
use crate::control::query::audit::{self, Entry};
use crate::control::store::difference::Audited;
use crate::model::access::{
    AccessRequest, AccessState, AccessStep, Ending, Issued, Outcome, Terminal,
};
use crate::model::approval::{Review, Verdict};
use crate::model::grant::{Ended, GrantState, GrantStep, Hold, Revision, StepRefused};
use crate::model::time::Timestamp;
use crate::wire::access::{request_to, revision_to, stored_to};
use crate::wire::grant::timestamp_to;
use crate::wire::store;

mod break_glass;
mod hold;
mod tokens;
mod unused;

/// Revisions whose changes are kept, for sidecars that resume.
pub(crate) const CHANGES_KEPT: u64 = 16_384;
/// Answers kept for request ids.
const ANSWERS_KEPT: i64 = 65_536;

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
    grants: Vec<fanout::Change>,
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
    pub commit: fanout::Commit,
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

    /// EndReport an access request.
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
            request_to(request).encode_to_vec(),
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
            self.grants.push(fanout::Change::Put(Arc::new(entry)));
        } else if request.create_revision == self.revision() {
            // Made and ended in one change: nobody has heard of it.
            self.grants
                .retain(|change| !matches!(change, fanout::Change::Put(put) if put.id == entry.id));
        } else if self
            .read()
            .request(&request.id)?
            .is_none_or(|before| !before.state.is_terminal())
        {
            let service = entry.scope.service().clone();
            self.grants.push(fanout::Change::Forget {
                id: entry.id,
                service,
            });
        }
        Ok(())
    }

    /// Writes a new grant. A standing grant takes the place of an ended one of its name.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when a live grant has this id.
    pub(crate) fn issue(
        &mut self,
        issued: &mut Issued,
        actor: &str,
        reason: &str,
    ) -> Result<(), StoreError> {
        if let Some(old) = self.read().grant(issued.grant.id.as_str())? {
            self.unlist(&old)?;
        }
        let revision = self.revision();
        (issued.origin.create_revision, issued.origin.create_time) = (revision, self.now);
        let id = issued.grant.id.as_str().as_bytes();
        for party in parties(issued) {
            self.rows.put(
                Table::GrantsByParty,
                keys::by_party(&party, revision),
                id.to_vec(),
            );
        }
        self.rows.put(
            Table::Enforced,
            keys::pair(issued.grant.subject.as_str(), id),
            vec![],
        );
        if let Some(end) = issued.grant.expires() {
            self.rows
                .put(Table::Due, keys::due(end, DueKind::GrantEnds, id), vec![]);
        }
        self.plan_look_at_use(issued);
        self.put_grant(issued);
        self.audit_grant("grant.issued", "", issued, Said { by: actor, reason })
    }

    /// Takes the rows of an ended grant out of every index, so that its name can be given again.
    fn unlist(&mut self, old: &Issued) -> Result<(), StoreError> {
        let Hold::Ended { keep_until, .. } = old.grant.hold else {
            return Err(StoreError::Damaged(format!(
                "a live grant {} was to be issued again",
                old.grant.id
            )));
        };
        let id = old.grant.id.as_str().as_bytes();
        for party in parties(old) {
            self.rows.remove(
                Table::GrantsByParty,
                keys::by_party(&party, old.origin.create_revision),
            );
        }
        self.rows
            .remove(Table::Enforced, keys::pair(old.grant.subject.as_str(), id));
        self.rows
            .remove(Table::Due, keys::due(keep_until, DueKind::Forget, id));
        Ok(())
    }

    /// EndReport a grant and leaves its tombstone.
    ///
    /// # Errors
    /// [`ChangeError::Grant`] when it is over already, be it only by the clock.
    pub(crate) fn end_grant(
        &mut self,
        issued: &mut Issued,
        how: Ended,
        ending: Ending,
        keep_until: Timestamp,
    ) -> Result<(), ChangeError> {
        let at = issued.grant.state(self.now);
        // Expiry is recorded after the clock has already ended the grant; nothing else may come then.
        let from = match (at, how, issued.grant.hold) {
            (GrantState::Expired, Ended::Expired, Hold::None) => GrantState::Active,
            (GrantState::Expired, Ended::Expired, Hold::Suspended) => GrantState::Suspended,
            (_, Ended::Expired, _) => {
                return Err(StepRefused {
                    at,
                    step: GrantStep::Expire,
                }
                .into());
            }
            (_, Ended::Revoked | Ended::Released, _) => at,
        };
        from.after(how.into())?;
        let id = issued.grant.id.as_str().as_bytes();
        if let Some(end) = issued.grant.expires() {
            self.rows
                .remove(Table::Due, keys::due(end, DueKind::GrantEnds, id));
        }
        self.rows.put(
            Table::Due,
            keys::due(keep_until, DueKind::Forget, id),
            vec![],
        );
        issued.grant.hold = Hold::Ended { how, keep_until };
        let kind = match how {
            Ended::Expired => "grant.expired",
            Ended::Revoked => "grant.revoked",
            Ended::Released => "grant.released",
        };
        let (by, reason) = (ending.by.clone(), ending.reason.clone());
        issued.ending = Some(ending);
        self.put_grant(issued);
        self.audit_grant(
            kind,
            from.as_str(),
            issued,
            Said {
                by: &by,
                reason: &reason,
            },
        )?;
        Ok(())
    }

    fn put_grant(&mut self, issued: &mut Issued) {
        issued.grant.mod_revision = self.revision();
        let id = issued.grant.id.as_str().as_bytes().to_vec();
        self.rows
            .put(Table::Grants, id, stored_to(issued).encode_to_vec());
        self.grants
            .push(fanout::Change::Put(Arc::new(issued.grant.clone())));
    }

    fn audit_grant(
        &mut self,
        kind: &str,
        from: &str,
        issued: &Issued,
        said: Said<'_>,
    ) -> Result<(), StoreError> {
        self.audit(&Entry {
            kind,
            actor: said.by,
            resource: format!("grants/{}", issued.grant.id),
            from,
            to: issued.grant.state(self.now).as_str(),
            reason: said.reason,
            traceparent: issued.grant.traceparent.as_deref(),
        })
    }

    /// Lets sidecars forget a tombstone. The grant stays in the store's history; no state changes, so nothing is audited.
    pub(crate) fn forget(&mut self, issued: &Issued) {
        let id = issued.grant.id.as_str().as_bytes();
        self.rows.remove(
            Table::Enforced,
            keys::pair(issued.grant.subject.as_str(), id),
        );
        if let Hold::Ended { keep_until, .. } = issued.grant.hold {
            self.rows
                .remove(Table::Due, keys::due(keep_until, DueKind::Forget, id));
        }
        let service = issued.grant.scope.service().clone();
        self.grants.push(fanout::Change::Forget {
            id: issued.grant.id.clone(),
            service,
        });
    }

    /// Takes something off the sweeper's list that has become void.
    pub(crate) fn drop_due(&mut self, due: &Due) {
        self.rows
            .remove(Table::Due, keys::due(due.at, due.kind, &due.id));
    }

    /// Keeps the answer to a request id until `expires`; the oldest goes when there are too many.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn keep_answer(
        &mut self,
        key: &[u8],
        answer: &store::Answered,
        expires: Timestamp,
    ) -> Result<(), StoreError> {
        if self.meta.answered >= ANSWERS_KEPT
            && let Some(oldest) = self.read().oldest_answer()?
        {
            self.forget_answer(&oldest);
        }
        let answer = store::Answered {
            expire_time: Some(timestamp_to(expires)),
            ..answer.clone()
        };
        self.rows
            .put(Table::Answered, key.to_vec(), answer.encode_to_vec());
        self.rows
            .put(Table::Due, keys::due(expires, DueKind::Answer, key), vec![]);
        self.meta.answered += 1;
        Ok(())
    }

    /// Forgets the answer to a request id.
    pub(crate) fn forget_answer(&mut self, due: &Due) {
        self.rows.remove(Table::Answered, due.id.clone());
        self.drop_due(due);
        self.meta.answered = (self.meta.answered - 1).max(0);
    }

    /// Puts a policy text in force: the version it had before, or the next one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn apply_policy(
        &mut self,
        name: &str,
        digest: &str,
        text: &str,
        actor: &str,
    ) -> Result<u64, StoreError> {
        let before = self.in_force(name)?;
        let version = match self.read().policy_version(name, digest)? {
            Some(version) => version,
            None => self.read().last_policy_version(name)? + 1,
        };
        let row = store::PolicyVersion {
            name: name.to_owned(),
            version: i64::try_from(version).unwrap_or(i64::MAX),
            digest: digest.to_owned(),
            text: text.to_owned(),
            create_time: Some(timestamp_to(self.now)),
        };
        let known = self.read().policy(name, version)?.is_some();
        if !known {
            self.rows.put(
                Table::Policies,
                keys::pair(name, &keys::number(version)),
                row.encode_to_vec(),
            );
            self.rows.put(
                Table::PolicyDigests,
                keys::pair(name, digest.as_bytes()),
                keys::number(version),
            );
        }
        self.rows.put(
            Table::CurrentPolicies,
            name.as_bytes().to_vec(),
            keys::number(version),
        );
        self.audit(&Entry {
            kind: "policy.applied",
            actor,
            resource: format!("policies/{name}"),
            from: &before,
            to: &format!("v{version}"),
            reason: digest,
            traceparent: None,
        })?;
        Ok(version)
    }

    /// Takes a policy out of force.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn remove_policy(&mut self, name: &str, actor: &str) -> Result<(), StoreError> {
        let before = self.in_force(name)?;
        self.rows
            .remove(Table::CurrentPolicies, name.as_bytes().to_vec());
        self.audit(&Entry {
            kind: "policy.removed",
            actor,
            resource: format!("policies/{name}"),
            from: &before,
            to: "",
            reason: "nothing declares it any more",
            traceparent: None,
        })
    }

    /// Keeps a policy document beyond a restart. What it declares is audited where it comes into force.
    pub(crate) fn put_document(&mut self, document: &store::AppliedDocument) {
        let row = store::AppliedDocument {
            create_time: Some(timestamp_to(self.now)),
            revision: revision_to(self.revision()),
            ..document.clone()
        };
        let key = keys::pair(&row.kind, row.name.as_bytes());
        self.rows
            .put(Table::AppliedDocuments, key, row.encode_to_vec());
    }

    /// Forgets a policy document.
    pub(crate) fn remove_document(&mut self, kind: &str, name: &str) {
        self.rows
            .remove(Table::AppliedDocuments, keys::pair(kind, name.as_bytes()));
    }

    fn in_force(&self, name: &str) -> Result<String, StoreError> {
        let current = self.rows.fetch(Table::CurrentPolicies, name.as_bytes())?;
        current.map_or(Ok(String::new()), |version| {
            keys::number_of(&version).map(|version| format!("v{version}"))
        })
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
        let event = audit::seal(event, &self.meta.audit_hash)?;
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
        let commit = fanout::Commit {
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

fn changed_item(change: &fanout::Change) -> store::changed::Item {
    let (id, service, forgotten) = match change {
        fanout::Change::Put(grant) => (&grant.id, grant.scope.service(), false),
        fanout::Change::Forget { id, service } => (id, service, true),
    };
    store::changed::Item {
        id: id.to_string(),
        service: service.to_string(),
        forgotten,
    }
}

/// Under whose name a grant is listed.
fn parties(issued: &Issued) -> impl Iterator<Item = String> {
    let requester = issued.origin.requester.as_ref().map(ToString::to_string);
    let passed_over = issued
        .origin
        .break_glass
        .iter()
        .flat_map(|over| &over.approvers)
        .map(ToString::to_string);
    [String::new(), issued.grant.subject.to_string()]
        .into_iter()
        .chain(requester)
        .chain(passed_over)
}
