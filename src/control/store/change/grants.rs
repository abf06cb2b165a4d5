//! Grants: issued, ended, forgotten, each with its indices and its audit event.

use prost::Message;

use super::{Change, ChangeError, Said};
use crate::control::store::chain::Entry;
use crate::control::store::commit::GrantChange;
use crate::control::store::keys::{self, DueKind};
use crate::control::store::rows::grant::grant_row;
use crate::control::store::{StoreError, Table};
use crate::model::access::{Ending, Issued};
use crate::model::grant::{Ended, GrantState, GrantStep, Hold, StepRefused};
use crate::model::time::Timestamp;

impl Change<'_> {
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

    /// Ends a grant and leaves its tombstone.
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

    pub(super) fn put_grant_row(&mut self, issued: &Issued) {
        let id = issued.grant.id.as_str().as_bytes().to_vec();
        self.rows
            .put(Table::Grants, id, grant_row(issued).encode_to_vec());
    }

    pub(super) fn put_grant(&mut self, issued: &mut Issued) {
        issued.grant.mod_revision = self.revision();
        self.put_grant_row(issued);
        self.grants
            .push(GrantChange::Put(issued.grant.clone().into()));
    }

    pub(super) fn audit_grant(
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
        self.grants.push(GrantChange::Forget {
            id: issued.grant.id.clone(),
            service,
        });
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
