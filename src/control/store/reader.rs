//! Typed reading: rows into the model. What does not parse is damage, and is said so with its key.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use prost::Message;
use ulid::Ulid;

use super::keys::{self, DueKind};
use super::rows::grant::grant_from;
use super::rows::request::request_from;
use super::token_key::TokenKey;
use super::{META_KEY, SCHEMA, Span, StoreError, Table, View};
use crate::model::access::{AccessRequest, Issued};
use crate::model::grant::Revision;
use crate::model::time::Timestamp;
use crate::wire::grant::timestamp_from;
use crate::wire::store;

mod audit;
mod uses;

/// Everything at one revision.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'v>(&'v dyn View);

impl std::fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reader")
    }
}

/// Something that the sweeper has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Due {
    /// Since when.
    pub at: Timestamp,
    /// What.
    pub kind: DueKind,
    /// With which grant, access request or answer.
    pub id: Vec<u8>,
}

/// A review of broken glass that is outstanding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OpenReview {
    /// Who broke the glass.
    pub requester: String,
    /// For which access request.
    pub request: String,
    /// By when it is due.
    pub due: Timestamp,
    /// Under which policy.
    pub policy: String,
}

type Read<T> = Result<T, StoreError>;

impl<'v> Reader<'v> {
    /// Reads through a view.
    pub(crate) fn new(view: &'v dyn View) -> Self {
        Self(view)
    }

    /// Where the store stands; `None` on one that was never written to. Of a store of an earlier schema, which is migrated
    /// when it is opened, the audit chain can be read as it is.
    ///
    /// # Errors
    /// Also when the rows are laid out for a later version.
    pub(crate) fn meta(&self) -> Read<Option<store::Meta>> {
        let Some(meta) = self.row::<store::Meta>(Table::Meta, META_KEY)? else {
            return Ok(None);
        };
        if meta.schema > SCHEMA {
            return Err(StoreError::Medium(format!(
                "a newer jitgate has written it (schema {}, and this one knows up to {SCHEMA}); run that version or a later \
                 one, or give this one a copy of the data directory from before the upgrade",
                meta.schema
            )));
        }
        if meta.schema < 1 {
            return Err(StoreError::Damaged("it has no schema version".to_owned()));
        }
        Ok(Some(meta))
    }

    /// The revision that is read at.
    ///
    /// # Errors
    /// As every reading.
    pub(crate) fn revision(&self) -> Read<Revision> {
        Ok(Revision(
            self.meta()?.map_or(0, |meta| count(meta.revision)),
        ))
    }

    /// One access request.
    ///
    /// # Errors
    /// As every reading.
    pub(crate) fn request(&self, id: &str) -> Read<Option<AccessRequest>> {
        let Some(row) = self.row::<store::AccessRequest>(Table::Requests, id.as_bytes())? else {
            return Ok(None);
        };
        request_from(row)
            .map(Some)
            .map_err(|error| damaged(Table::Requests, id.as_bytes(), &error))
    }

    /// One grant, ended ones included.
    ///
    /// # Errors
    /// As every reading.
    pub(crate) fn grant(&self, id: &str) -> Read<Option<Issued>> {
        let Some(row) = self.row::<store::StoredGrant>(Table::Grants, id.as_bytes())? else {
            return Ok(None);
        };
        grant_from(row)
            .map(Some)
            .map_err(|error| damaged(Table::Grants, id.as_bytes(), &error))
    }

    /// Ids of the grants that were given a name, which standing grants are: every other one has a ULID.
    ///
    /// # Errors
    /// As every reading.
    pub(crate) fn named_grants(&self) -> Read<Vec<String>> {
        let mut ids = Vec::new();
        self.0.scan(Table::Grants, &Span::ALL, &mut |key, _| {
            let id = keys::text(key)?;
            if Ulid::from_string(id).is_err() {
                ids.push(id.to_owned());
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(ids)
    }

    /// Ids that concern one of the parties (or everybody's, for the empty party), newest first, made before `below`.
    ///
    /// # Errors
    /// As every reading.
    pub(crate) fn newest(
        &self,
        table: Table,
        parties: &[&str],
        below: Revision,
        limit: usize,
    ) -> Read<Vec<(Revision, String)>> {
        let mut found = BTreeSet::new();
        for party in parties {
            let span = Span::prefix(&keys::party_prefix(party))
                .below(keys::by_party(party, below))
                .descending();
            let mut left = limit;
            self.0.scan(table, &span, &mut |key, id| {
                found.insert((keys::party_revision(key)?, keys::text(id)?.to_owned()));
                left = left.saturating_sub(1);
                Ok(if left == 0 {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                })
            })?;
        }
        Ok(found.into_iter().rev().take(limit).collect())
    }

    /// Ids of the grants that sidecars hold: one subject's, or all.
    ///
    /// # Errors
    /// As every reading.
    pub(crate) fn enforced(&self, subject: Option<&str>) -> Read<Vec<String>> {
        let span = subject.map_or(Span::ALL, |subject| {
            Span::prefix(&keys::party_prefix(subject))
        });
        self.seconds(Table::Enforced, &span, usize::MAX)
    }

    /// How many requests of one requester are pending, counted up to `limit`.
    ///
    /// # Errors
    /// As every reading.
    pub(crate) fn pending(&self, requester: &str, limit: usize) -> Read<usize> {
        let span = Span::prefix(&keys::party_prefix(requester));
        self.seconds(Table::Pending, &span, limit)
            .map(|ids| ids.len())
    }

    /// Ids of every pending request, up to `limit`.
    ///
    /// # Errors
    /// As every reading.
    pub(crate) fn all_pending(&self, limit: usize) -> Read<Vec<String>> {
        self.seconds(Table::Pending, &Span::ALL, limit)
    }

    fn seconds(&self, table: Table, span: &Span, limit: usize) -> Read<Vec<String>> {
        let mut ids = Vec::new();
        self.0.scan(table, span, &mut |key, _| {
            ids.push(keys::second(key)?.to_owned());
            Ok(if ids.len() >= limit {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })?;
        Ok(ids)
    }

    /// What was due by `now`, earliest first.
    ///
    /// # Errors
    /// As every reading.
    pub(crate) fn due(&self, now: Timestamp, limit: usize) -> Read<Vec<Due>> {
        let span = Span::ALL.below(keys::number(now.as_micros().saturating_add(1)));
        let mut due = Vec::new();
        self.0.scan(Table::Due, &span, &mut |key, _| {
            let (at, kind, id) = keys::due_parts(key)?;
            due.push(Due {
                at,
                kind,
                id: id.to_vec(),
            });
            Ok(if due.len() >= limit {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })?;
        Ok(due)
    }

    /// Every review of broken glass that is outstanding.
    ///
    /// # Errors
    /// As every reading.
    pub(crate) fn open_reviews(&self) -> Read<Vec<OpenReview>> {
        self.all(Table::OpenReviews, |key, value| {
            let row: store::OpenReview = decode(Table::OpenReviews, key, value)?;
            let due = row.due.as_ref();
            let due = due.and_then(|due| timestamp_from(due, "due").ok());
            Ok(OpenReview {
                requester: keys::first(key)?.to_owned(),
                request: keys::second(key)?.to_owned(),
                due: due.ok_or_else(|| damaged(Table::OpenReviews, key, &"it has no due time"))?,
                policy: row.policy,
            })
        })
    }

    /// The answer to a request id that is forgotten next.
    ///
    /// # Errors
    /// As every reading.
    pub(crate) fn oldest_answer(&self) -> Read<Option<Due>> {
        let mut oldest = None;
        self.0.scan(Table::Due, &Span::ALL, &mut |key, _| {
            let (at, kind, id) = keys::due_parts(key)?;
            if kind != DueKind::Answer {
                return Ok(ControlFlow::Continue(()));
            }
            oldest = Some(Due {
                at,
                kind,
                id: id.to_vec(),
            });
            Ok(ControlFlow::Break(()))
        })?;
        Ok(oldest)
    }

    /// Which grants each revision changed, oldest first, as far back as it is kept.
    ///
    /// # Errors
    /// As every reading.
    pub(crate) fn changes(&self) -> Read<Vec<(Revision, store::Changed)>> {
        self.all(Table::Changes, |key, value| {
            Ok((
                Revision(keys::number_of(key)?),
                decode(Table::Changes, key, value)?,
            ))
        })
    }

    /// The version of one policy text, if it was ever in force.
    ///
    /// # Errors
    /// As every reading.
    pub(crate) fn policy_version(&self, name: &str, digest: &str) -> Read<Option<u64>> {
        let found = self
            .0
            .fetch(Table::PolicyDigests, &keys::pair(name, digest.as_bytes()))?;
        found.map(|version| keys::number_of(&version)).transpose()
    }

    /// The newest version number given to a policy; 0 for one never seen.
    ///
    /// # Errors
    /// As every reading.
    pub(crate) fn last_policy_version(&self, name: &str) -> Read<u64> {
        let mut last = 0;
        let prefix = keys::party_prefix(name);
        self.0.scan(
            Table::Policies,
            &Span::prefix(&prefix).descending(),
            &mut |key, _| {
                last = keys::number_of(key.get(prefix.len()..).unwrap_or_default())?;
                Ok(ControlFlow::Break(()))
            },
        )?;
        Ok(last)
    }

    /// One version of a policy.
    ///
    /// # Errors
    /// As every reading.
    pub(crate) fn policy(&self, name: &str, version: u64) -> Read<Option<store::PolicyVersion>> {
        self.row(Table::Policies, &keys::pair(name, &keys::number(version)))
    }

    /// Versions of one policy below a number, newest first.
    ///
    /// # Errors
    /// As every reading.
    pub(crate) fn policy_versions(
        &self,
        name: &str,
        below: u64,
        limit: usize,
    ) -> Read<Vec<store::PolicyVersion>> {
        let span = Span::prefix(&keys::party_prefix(name))
            .below(keys::pair(name, &keys::number(below)))
            .descending();
        let mut versions = Vec::new();
        self.0.scan(Table::Policies, &span, &mut |key, value| {
            if versions.len() >= limit {
                return Ok(ControlFlow::Break(()));
            }
            versions.push(decode(Table::Policies, key, value)?);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(versions)
    }

    /// The version of a policy that is in force.
    ///
    /// # Errors
    /// As every reading.
    pub(crate) fn current_policy(&self, name: &str) -> Read<Option<u64>> {
        let found = self.0.fetch(Table::CurrentPolicies, name.as_bytes())?;
        found.map(|version| keys::number_of(&version)).transpose()
    }

    /// Policy documents that were applied through the API, by kind and name.
    ///
    /// # Errors
    /// As every reading.
    pub(crate) fn applied_documents(&self) -> Read<Vec<store::AppliedDocument>> {
        self.all(Table::AppliedDocuments, |key, value| {
            decode(Table::AppliedDocuments, key, value)
        })
    }

    /// Policies in force: name and version.
    ///
    /// # Errors
    /// As every reading.
    pub(crate) fn current_policies(&self) -> Read<Vec<(String, u64)>> {
        self.all(Table::CurrentPolicies, |key, value| {
            Ok((keys::text(key)?.to_owned(), keys::number_of(value)?))
        })
    }

    /// What was answered to a request id.
    ///
    /// # Errors
    /// As every reading.
    pub(crate) fn answered(&self, key: &[u8]) -> Read<Option<store::Answered>> {
        self.row(Table::Answered, key)
    }

    /// Every key that tokens are or were signed with, as long as it is published; by age.
    ///
    /// # Errors
    /// As every reading.
    pub(crate) fn token_keys(&self) -> Read<Vec<TokenKey>> {
        let mut keys = self.all(Table::TokenKeys, |key, value| {
            let row = decode(Table::TokenKeys, key, value)?;
            TokenKey::from_row(row).map_err(|error| damaged(Table::TokenKeys, key, &error))
        })?;
        keys.sort_by_key(|key| key.published);
        Ok(keys)
    }

    /// Audit events from `index` on, in order, until `visit` breaks.
    ///
    /// # Errors
    /// As every reading.
    #[cfg(test)]
    pub(crate) fn audit(
        &self,
        index: u64,
        visit: &mut dyn FnMut(store::AuditEvent) -> Result<ControlFlow<()>, StoreError>,
    ) -> Read<()> {
        let span = Span {
            from: keys::number(index),
            ..Span::ALL
        };
        self.0.scan(Table::Audit, &span, &mut |key, value| {
            visit(decode(Table::Audit, key, value)?)
        })
    }

    fn all<T>(&self, table: Table, mut row: impl FnMut(&[u8], &[u8]) -> Read<T>) -> Read<Vec<T>> {
        let mut rows = Vec::new();
        self.0.scan(table, &Span::ALL, &mut |key, value| {
            rows.push(row(key, value)?);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(rows)
    }

    fn row<M: Message + Default>(&self, table: Table, key: &[u8]) -> Read<Option<M>> {
        self.0
            .fetch(table, key)?
            .map(|value| decode(table, key, &value))
            .transpose()
    }
}

fn decode<M: Message + Default>(table: Table, key: &[u8], value: &[u8]) -> Read<M> {
    M::decode(value).map_err(|error| damaged(table, key, &error))
}

fn damaged(table: Table, key: &[u8], why: &dyn std::fmt::Display) -> StoreError {
    StoreError::Damaged(format!("{} {}: {why}", table.name(), key.escape_ascii()))
}

/// A stored count; a negative one cannot have been written.
pub(crate) fn count(wire: i64) -> u64 {
    u64::try_from(wire).unwrap_or(0)
}
