//! What waiting and broken glass change: escalations, and the reviews afterwards with their list of what is outstanding.

use prost::Message;

use super::Change;
use crate::control::store::chain::Entry;
use crate::control::store::keys::{self, DueKind};
use crate::control::store::{StoreError, Table};
use crate::model::access::{AccessRequest, Issued};
use crate::model::approval::{AfterTheFact, Opinion, Said};
use crate::model::time::Timestamp;
use crate::wire::grant::timestamp_to;
use crate::wire::store;

impl Change<'_> {
    /// Puts on the sweeper's list when further people may review a request.
    pub(super) fn plan_escalations(&mut self, request: &AccessRequest) {
        for at in request.escalates_at() {
            self.rows.put(
                Table::Due,
                keys::due(at, DueKind::Escalate, request.id.as_bytes()),
                vec![],
            );
        }
    }

    /// Takes all of them off again: the request is over.
    pub(super) fn drop_escalations(&mut self, request: &AccessRequest) {
        for at in request.escalates_at() {
            self.rows.remove(
                Table::Due,
                keys::due(at, DueKind::Escalate, request.id.as_bytes()),
            );
        }
    }

    /// Records that further people may review a pending request since `at`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn escalate(
        &mut self,
        request: &mut AccessRequest,
        at: Timestamp,
        actor: &str,
        reason: &str,
    ) -> Result<(), StoreError> {
        self.rows.remove(
            Table::Due,
            keys::due(at, DueKind::Escalate, request.id.as_bytes()),
        );
        self.note(request, "access_request.escalated", actor, reason)
    }

    /// Puts the review afterwards of a request on the list of what is outstanding.
    pub(crate) fn open_review(&mut self, request: &AccessRequest, review: &AfterTheFact) {
        let id = request.id.as_bytes();
        let row = store::OpenReview {
            due: Some(timestamp_to(review.due)),
            policy: request.terms.policy.name.to_string(),
        };
        self.rows.put(
            Table::OpenReviews,
            keys::pair(request.requester.as_str(), id),
            row.encode_to_vec(),
        );
        self.rows.put(
            Table::Due,
            keys::due(review.due, DueKind::ReviewDue, id),
            vec![],
        );
    }

    /// Records that nobody has looked at it in time. It stays outstanding.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn review_overdue(
        &mut self,
        request: &mut AccessRequest,
        actor: &str,
    ) -> Result<(), StoreError> {
        let Some(review) = &mut request.break_glass else {
            return Ok(());
        };
        review.overdue_since = Some(review.due);
        let due = review.due;
        self.rows.remove(
            Table::Due,
            keys::due(due, DueKind::ReviewDue, request.id.as_bytes()),
        );
        let reason = format!("nobody of those who were passed over has looked at it by {due}");
        self.note(request, "break_glass.overdue", actor, &reason)
    }

    /// Records what one of those who were passed over thinks of it, and takes it off the list.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn review_afterwards(
        &mut self,
        request: &mut AccessRequest,
        said: Said,
    ) -> Result<(), StoreError> {
        let (actor, opinion, reason) =
            (said.reviewer.to_string(), said.opinion, said.reason.clone());
        let Some(review) = &mut request.break_glass else {
            return Ok(());
        };
        review.said = Some(said);
        let (due, id) = (review.due, request.id.as_bytes().to_vec());
        self.rows.remove(
            Table::OpenReviews,
            keys::pair(request.requester.as_str(), &id),
        );
        self.rows
            .remove(Table::Due, keys::due(due, DueKind::ReviewDue, &id));
        let kind = match opinion {
            Opinion::Fine => "break_glass.accepted",
            Opinion::Objection => "break_glass.objected",
        };
        self.note(request, kind, &actor, &reason)
    }

    /// Writes what became known of a grant and changes nothing that is enforced: no sidecar hears of it.
    pub(crate) fn annotate(&mut self, issued: &Issued) {
        self.put_grant_row(issued);
    }

    /// Something happened to a request that stays in its state.
    fn note(
        &mut self,
        request: &mut AccessRequest,
        kind: &str,
        actor: &str,
        reason: &str,
    ) -> Result<(), StoreError> {
        request.mod_revision = self.revision();
        self.put_request(request)?;
        let state = request.state.as_str();
        self.audit(&Entry {
            kind,
            actor,
            resource: format!("accessRequests/{}", request.id),
            from: state,
            to: state,
            reason,
            traceparent: request.traceparent.as_deref(),
        })
    }
}
