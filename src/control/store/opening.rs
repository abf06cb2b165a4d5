//! Opening a store: a new one gets its epoch, and an older one is migrated; of any, what sidecars have to hold and can resume from is read once.

use std::collections::HashMap;
use std::ops::ControlFlow;

use ulid::Ulid;

use super::change::CHANGES_KEPT;
use super::commit::{Commit, GrantChange};
use super::reader::count;
use super::rows::event::event_from;
use super::{Engine, META_KEY, Reader, SCHEMA, StoreError, Table, Writes, migration};
use crate::model::entry::TableEntry;
use crate::model::grant::{GrantId, Revision};
use crate::model::identity::Service;
use crate::model::time::Timestamp;
use crate::wire::grant::timestamp_from;
use crate::wire::store;

/// Everything that the fan-out begins with.
#[derive(Debug)]
pub(crate) struct Opening {
    /// Names the store's history.
    pub epoch: Ulid,
    /// Where it stands.
    pub revision: Revision,
    /// What sidecars have to hold: grants, tombstones, and the requests that wait for approval.
    pub entries: Vec<TableEntry>,
    /// The newest commits, oldest first and without a gap. A grant appears in its newest value, or as forgotten.
    pub history: Vec<Commit>,
}

/// The newest time that the store has written down: time must not run backwards from there.
///
/// # Errors
/// [`StoreError`] when it cannot be read.
pub(crate) fn recorded(engine: &dyn Engine) -> Result<Timestamp, StoreError> {
    let view = engine.view()?;
    let reader = Reader::new(&*view);
    let Some(meta) = reader.meta()? else {
        return Ok(Timestamp::default());
    };
    let mut newest = Timestamp::default();
    // An event that was tampered with dates nothing, and does not keep the control plane from starting: the one before counts.
    reader.newest_audit_rows(count(meta.audit_index).saturating_add(1), &mut |(
        _,
        row,
    )| {
        let event = row
            .ok()
            .filter(|event| event_from(event).is_ok_and(|event| event.is_sealed()));
        let time = event.and_then(|event| timestamp_from(&event.time?, "time").ok());
        newest = time.unwrap_or_default();
        Ok(if time.is_some() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        })
    })?;
    Ok(newest)
}

/// Where the store stands; a new one is given its epoch, and one of an earlier version is migrated.
pub(super) fn begin(engine: &dyn Engine, now: Timestamp) -> anyhow::Result<store::Meta> {
    migration::migrate(engine)?;
    let view = engine.view()?;
    if let Some(meta) = Reader::new(&*view).meta()? {
        return Ok(meta);
    }
    let epoch = Ulid::from_parts(now.as_micros() / 1000, rand::random());
    let meta = store::Meta {
        schema: SCHEMA,
        epoch: epoch.to_string(),
        ..Default::default()
    };
    let row = prost::Message::encode_to_vec(&meta);
    engine.commit(
        None,
        &Writes::from([((Table::Meta, META_KEY.to_vec()), Some(row))]),
    )?;
    Ok(meta)
}

/// What the rest of the control plane begins with.
pub(super) fn read(engine: &dyn Engine, meta: &store::Meta) -> anyhow::Result<Opening> {
    let view = engine.view()?;
    let reader = Reader::new(&*view);
    let epoch = meta
        .epoch
        .parse()
        .map_err(|_| StoreError::Damaged("its epoch is no ULID".to_owned()))?;
    let revision = Revision(count(meta.revision));
    let mut entries: HashMap<GrantId, TableEntry> = HashMap::new();
    for id in reader.enforced(None)? {
        let issued = reader.grant(&id)?;
        let issued = issued
            .ok_or_else(|| StoreError::Damaged(format!("grant {id} is listed but absent")))?;
        entries.insert(issued.grant.id.clone(), issued.grant.into());
    }
    for id in reader.all_pending(usize::MAX)? {
        let request = reader.request(&id)?;
        let request = request
            .ok_or_else(|| StoreError::Damaged(format!("request {id} is listed but absent")))?;
        if let Some(entry) = request.as_entry() {
            entries.insert(entry.id.clone(), entry.into());
        }
    }
    let history = history(&reader, revision, &entries)?;
    let entries = entries.into_values().collect();
    Ok(Opening {
        epoch,
        revision,
        entries,
        history,
    })
}

fn history(
    reader: &Reader<'_>,
    revision: Revision,
    entries: &HashMap<GrantId, TableEntry>,
) -> Result<Vec<Commit>, StoreError> {
    let oldest = revision.0.saturating_sub(CHANGES_KEPT);
    let commit = |revision| Commit {
        revision: Revision(revision),
        changes: vec![],
    };
    let mut history: Vec<_> = (oldest + 1..=revision.0).map(commit).collect();
    for (at, changed) in reader.changes()? {
        let place =
            at.0.checked_sub(oldest + 1)
                .and_then(|place| usize::try_from(place).ok());
        let Some(commit) = place.and_then(|place| history.get_mut(place)) else {
            continue;
        };
        for item in changed.items {
            commit.changes.push(past(at, &item, entries)?);
        }
    }
    Ok(history)
}

fn past(
    revision: Revision,
    item: &store::changed::Item,
    entries: &HashMap<GrantId, TableEntry>,
) -> Result<GrantChange, StoreError> {
    let damaged =
        || StoreError::Damaged(format!("the changes of revision {revision} name no grant"));
    let id = GrantId::parse(&item.id).map_err(|_| damaged())?;
    let service = Service::parse(&item.service).map_err(|_| damaged())?;
    Ok(
        match entries
            .get(&id)
            .filter(|entry| *entry.scope().service() == service)
        {
            Some(entry) => GrantChange::Put(entry.clone()),
            None => GrantChange::Forget { id, service },
        },
    )
}
