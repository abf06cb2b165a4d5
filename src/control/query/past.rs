//! What was in force at a moment that has passed: the grants and the waiting requests as sidecars held them then, read from
//! their rows and from the audit trail of their transitions. Where that cannot be known it says so. It judges nothing: the
//! decision is that of [`decide`](crate::model::decide::decide) over what is found here.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::time::Duration;

use ulid::Ulid;

use crate::control::lifecycle::fault::{Fault, FaultKind};
use crate::control::lifecycle::plane::Plane;
use crate::control::lifecycle::rows::listed;
use crate::control::lifecycle::sweeper::RECORD_AFTER;
use crate::control::store::reader::count;
use crate::control::store::{Reader, StoreError, Table};
use crate::model::access::{AccessRequest, Issued, Suspension};
use crate::model::decide::{Grants, Held};
use crate::model::entry::TableEntry;
use crate::model::grant::{GrantId, GrantState, Hold, Revision};
use crate::model::identity::{Principal, Service};
use crate::model::time::Timestamp;
use crate::wire::grant::timestamp_from;
use crate::wire::store::AuditEvent;

/// Rows of one principal that are looked through.
const ROWS_MAX: usize = 10_000;

/// What some principals held at one service, at one moment.
#[derive(Debug)]
pub(crate) struct Past {
    held: HashMap<Principal, Held>,
    records: HashMap<GrantId, Issued>,
    revision: Revision,
    at: Timestamp,
}

impl Plane {
    /// What some principals held at a service, at a moment that has passed.
    ///
    /// # Errors
    /// HISTORY_UNKNOWN for a moment before the store's history, and for more rows than are looked through.
    pub(crate) async fn past(
        &self,
        principals: &[Principal],
        service: &Service,
        at: Timestamp,
    ) -> Result<Past, Fault> {
        let (principals, service) = (principals.to_vec(), service.clone());
        self.store()
            .read(move |reader| Past::read(reader, &principals, &service, at))
            .await
    }

    /// Whether what [`Plane::past`] finds is enough for a refusal. For an allowance it always is.
    ///
    /// # Errors
    /// HISTORY_UNKNOWN names a grant that is not in it and may have allowed the call.
    pub(crate) async fn past_can_refuse(
        &self,
        principals: &[Principal],
        service: &Service,
        at: Timestamp,
    ) -> Result<(), Fault> {
        let (principals, service) = (principals.to_vec(), service.clone());
        let keep = self.tombstone_keep();
        let lost = self
            .store()
            .read(move |reader| lost(reader, &principals, &service, (at, keep)));
        let Some(grant) = lost.await? else {
            return Ok(());
        };
        let message = format!(
            "whether it was allowed at {at} cannot be known: standing grant {grant} was declared otherwise then, and that \
             declaration is not kept"
        );
        Err(Fault::new(FaultKind::HistoryUnknown, message).with("grant", grant))
    }
}

impl Past {
    fn read(
        reader: &Reader<'_>,
        principals: &[Principal],
        service: &Service,
        at: Timestamp,
    ) -> Result<Self, Fault> {
        let Some(newest) = newest_event(reader, at)? else {
            let message = format!(
                "what was in force at {at} cannot be known: this control plane's history begins later"
            );
            return Err(Fault::new(FaultKind::HistoryUnknown, message));
        };
        let mut past = Self {
            held: HashMap::new(),
            records: HashMap::new(),
            revision: revision_of(&newest),
            at,
        };
        for principal in principals {
            if !past.held.contains_key(principal) {
                let held = past.entries(reader, principal, service)?;
                past.held.insert(principal.clone(), held.into());
            }
        }
        Ok(past)
    }

    /// The grant as it stood then.
    pub(crate) fn record(&self, id: &GrantId) -> Option<&Issued> {
        self.records.get(id)
    }

    fn entries(
        &mut self,
        reader: &Reader<'_>,
        principal: &Principal,
        service: &Service,
    ) -> Result<Vec<TableEntry>, Fault> {
        let mut held = vec![];
        for id in self.made_by_then(reader, Table::GrantsByParty, principal)? {
            let issued = listed(reader.grant(&id)?, &id)?;
            let here = issued.grant.subject == *principal
                && issued.grant.scope.service() == service
                && !is_forgotten(&issued, self.at);
            if here && let Some(issued) = stood(reader, issued, self.at)? {
                held.push(issued.grant.clone().into());
                self.records.insert(issued.grant.id.clone(), issued);
            }
        }
        for id in self.made_by_then(reader, Table::RequestsByParty, principal)? {
            let request = listed(reader.request(&id)?, &id)?;
            let here = request.terms.subject == *principal
                && request.terms.scope.service() == service
                && waited(&request, self.at);
            held.extend(request.as_entry().filter(|_| here).map(TableEntry::from));
        }
        // Of several that end at the same moment the first allows: as in the table, the one that changed least lately.
        held.sort_by_key(TableEntry::revision);
        Ok(held)
    }

    /// Ids of what concerns a principal and was there by then.
    fn made_by_then(
        &self,
        reader: &Reader<'_>,
        table: Table,
        principal: &Principal,
    ) -> Result<impl Iterator<Item = String> + use<>, Fault> {
        let below = Revision(self.revision.0.saturating_add(1));
        let found = reader.newest(table, &[principal.as_str()], below, ROWS_MAX)?;
        if found.len() >= ROWS_MAX {
            let message = format!(
                "what {principal} held at {} cannot be told: more than {ROWS_MAX} grants and requests would have to be \
                 looked through",
                self.at
            );
            return Err(Fault::new(FaultKind::HistoryUnknown, message));
        }
        Ok(found.into_iter().map(|(_, id)| id))
    }
}

impl Grants for Past {
    fn held_by(&self, principal: &Principal) -> Option<Held> {
        self.held.get(principal).cloned()
    }

    fn revision(&self) -> Revision {
        self.revision
    }
}

/// Whether sidecars no longer held the tombstone. The sweeper writes that nowhere; it looks each second.
fn is_forgotten(issued: &Issued, at: Timestamp) -> bool {
    match issued.grant.hold {
        Hold::Ended { keep_until, .. } => keep_until.plus(RECORD_AFTER) <= at,
        Hold::None | Hold::Suspended => false,
    }
}

fn waited(request: &AccessRequest, at: Timestamp) -> bool {
    request.create_time <= at
        && request
            .outcome
            .as_ref()
            .is_none_or(|outcome| at < outcome.time)
}

/// A grant as it stood at `at`; `None` when it was issued later. Everything but its state is the same for all its life.
fn stood(reader: &Reader<'_>, issued: Issued, at: Timestamp) -> Result<Option<Issued>, StoreError> {
    let (before, after) = around(reader, issued.grant.id.as_str(), at)?;
    // Where its first events have left the trail, the next one says what it came from.
    let state = match (&before, &after) {
        (Some(event), _) => event.to_state.as_str(),
        (None, Some(event)) => event.from_state.as_str(),
        (None, None) => return Ok(Some(issued)),
    };
    let mut then = issued;
    if let Some(event) = &before {
        then.grant.mod_revision = revision_of(event);
    }
    if is_terminal(state) {
        // It ends once: as the row has it.
        return Ok(Some(then));
    }
    if state.is_empty() {
        return Ok(None);
    }
    then.ending = None;
    if state == GrantState::Suspended.as_str() {
        then.grant.hold = Hold::Suspended;
        let suspended = before.filter(|event| event.r#type == "grant.suspended");
        if let Some(event) = suspended {
            then.suspension = Some(Suspension {
                time: time_of(&event)?,
                reason: event.reason,
                by: event.actor,
            });
        }
    } else {
        then.grant.hold = Hold::None;
        then.suspension = None;
    }
    Ok(Some(then))
}

/// The last transition of a grant by `at`, and the first one after it.
fn around(
    reader: &Reader<'_>,
    id: &str,
    at: Timestamp,
) -> Result<(Option<AuditEvent>, Option<AuditEvent>), StoreError> {
    let mut after = None;
    for index in reader.audit_of(&format!("grants/{id}"), u64::MAX, usize::MAX)? {
        let event = event(reader, index)?;
        if time_of(&event)? <= at {
            return Ok((Some(event), after));
        }
        after = Some(event);
    }
    Ok((None, after))
}

/// A standing grant whose name has been given to another declaration since `at`, and that one of the principals held at
/// the service by the former. What changed between the two is audited, so it is known whose the former was. `keep`: for how
/// long sidecars hold its tombstone.
fn lost(
    reader: &Reader<'_>,
    principals: &[Principal],
    service: &Service,
    (at, keep): (Timestamp, Duration),
) -> Result<Option<String>, StoreError> {
    for id in reader.named_grants()? {
        let issued = listed(reader.grant(&id)?, &id)?;
        if issued.origin.create_time <= at {
            continue;
        }
        let mut subject = issued.grant.subject.as_str().to_owned();
        let mut scope = issued.grant.scope.service().as_str().to_owned();
        for index in reader.audit_of(&format!("grants/{id}"), u64::MAX, usize::MAX)? {
            let event = event(reader, index)?;
            let time = time_of(&event)?;
            if time <= at {
                let theirs = principals.iter().any(|one| one.as_str() == subject);
                let forgotten =
                    is_terminal(&event.to_state) && time.plus(keep + RECORD_AFTER) <= at;
                if theirs && service.as_str() == scope && !forgotten {
                    return Ok(Some(id));
                }
                break;
            }
            for change in event.changes {
                match change.field.rsplit('.').next() {
                    Some("subject") => subject = change.before,
                    Some("service") => scope = change.before,
                    Some(_) | None => {}
                }
            }
        }
    }
    Ok(None)
}

fn is_terminal(state: &str) -> bool {
    let mut states = GrantState::ALL.into_iter();
    states.any(|known| known.as_str() == state && known.is_terminal())
}

/// The newest audit event by `at`; `None` when the history of this store begins later. Time never runs backwards along
/// the trail.
fn newest_event(reader: &Reader<'_>, at: Timestamp) -> Result<Option<AuditEvent>, StoreError> {
    let Some(meta) = reader.meta()? else {
        return Ok(None);
    };
    let mut first = 0;
    reader.audit_rows(0, &mut |(index, _)| {
        first = index;
        Ok(ControlFlow::Break(()))
    })?;
    let (mut low, mut high) = (first, count(meta.audit_index).saturating_add(1));
    let mut newest = None;
    while first > 0 && low < high {
        let middle = low + (high - low) / 2;
        let event = event(reader, middle)?;
        if time_of(&event)? <= at {
            newest = Some(event);
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    // Between its making and its first event a store has nothing in force, and that is known.
    let made = meta.epoch.parse().map(|epoch: Ulid| epoch.timestamp_ms());
    let empty = made.is_ok_and(|made| Timestamp::from_micros(made.saturating_mul(1000)) <= at);
    Ok(newest.or((first <= 1 && empty).then(AuditEvent::default)))
}

fn event(reader: &Reader<'_>, index: u64) -> Result<AuditEvent, StoreError> {
    let event = reader.audit_event(index)?;
    event.ok_or_else(|| StoreError::Damaged(format!("audit event {index} is missing")))
}

fn time_of(event: &AuditEvent) -> Result<Timestamp, StoreError> {
    let time = event
        .time
        .as_ref()
        .and_then(|time| timestamp_from(time, "time").ok());
    time.ok_or_else(|| StoreError::Damaged(format!("audit event {} has no time", event.index)))
}

fn revision_of(event: &AuditEvent) -> Revision {
    Revision(count(event.revision))
}

#[cfg(test)]
mod tests;
