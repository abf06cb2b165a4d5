//! Reports into rows: each record once, in the bounds of who reports it, and with every gap counted.

use prost::Message;
use ulid::Ulid;

use crate::control::fanout::intake::Reported;
use crate::control::store::overlay::Overlay;
use crate::control::store::{Reader, StoreError, Table, keys};
use crate::model::decision::DenyReason;
use crate::model::identity::Principal;
use crate::model::time::Timestamp;
use crate::wire::grant::{timestamp_from, timestamp_to};
use crate::wire::{store, v1};

/// Instances remembered: whoever reports chooses these names.
const REPORTERS_MAX: usize = 20_000;
/// Sidecars named of one grant.
const SIDECARS_MAX: usize = 16;
const METHOD_MAX: usize = 512;
const NAME_MAX: usize = 256;
/// Calls in one record, and records in one gap: more is a defect of whoever counts.
const COUNT_MAX: i64 = 1 << 32;

/// What became of a batch, in records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Added {
    pub(super) kept: u64,
    /// Left out on the way, as the sequence numbers tell.
    pub(super) missing: u64,
    /// That sidecars said they lost.
    pub(super) lost: u64,
    /// That their sidecar cannot know, or that are malformed.
    pub(super) refused: u64,
}

pub(super) fn add(
    rows: &mut Overlay<'_>,
    batch: Vec<Reported>,
    now: Timestamp,
) -> Result<Added, StoreError> {
    let mut added = Added::default();
    for reported in batch {
        add_report(rows, &reported, now, &mut added)?;
    }
    Ok(added)
}

fn add_report(
    rows: &mut Overlay<'_>,
    reported: &Reported,
    now: Timestamp,
    added: &mut Added,
) -> Result<(), StoreError> {
    let key = reported.reporter();
    let mut reporter = Reader::new(rows).reporter(&key)?.unwrap_or_default();
    let lost = reported
        .report
        .lost
        .saturating_sub(reporter.lost)
        .clamp(0, COUNT_MAX);
    let missing = reporter.missing;
    added.lost += lost.unsigned_abs();
    reporter.lost += lost;
    for decision in &reported.report.decisions {
        let Some(ahead) = decision
            .sequence
            .checked_sub(reporter.sequence)
            .filter(|ahead| *ahead > 0)
        else {
            // Known already: nothing is counted twice.
            continue;
        };
        let skipped = (ahead - 1).min(COUNT_MAX);
        added.missing += skipped.unsigned_abs();
        reporter.missing = reporter.missing.saturating_add(skipped);
        reporter.sequence = decision.sequence;
        if keep(rows, reported, decision, now)? {
            added.kept += 1;
        } else {
            added.refused += 1;
        }
    }
    if lost > 0 || reporter.missing > missing {
        reporter.loss_time = Some(timestamp_to(now));
        reporter.services = reported.services.iter().map(ToString::to_string).collect();
    }
    reporter.sidecar.clone_from(&reported.sidecar);
    reporter.last = Some(timestamp_to(now));
    rows.put(Table::Reporters, key.into_bytes(), reporter.encode_to_vec());
    Ok(())
}

fn keep(
    rows: &mut Overlay<'_>,
    reported: &Reported,
    decision: &v1::Decision,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let reader = Reader::new(rows);
    if !is_sound(reported, decision) || reader.decision(&decision.id)?.is_some() {
        return Ok(false);
    }
    // A grant that is unknown here, or of another service, is none that this sidecar can have decided by.
    let grant = if decision.grant.is_empty() {
        None
    } else {
        reader.grant(&decision.grant)?
    };
    let grant = grant.filter(|issued| issued.grant.scope.service().as_str() == decision.service);
    if decision.allowed && grant.is_none() {
        return Ok(false);
    }
    let time = |time: Option<&prost_types::Timestamp>| {
        let time = time.and_then(|time| timestamp_from(time, "time").ok());
        // A sidecar's word: what is no time, or not yet, counts as the moment of its arrival.
        time.unwrap_or(now).min(now)
    };
    let last = time(decision.time.as_ref());
    let first = if decision.first_time.is_some() {
        time(decision.first_time.as_ref()).min(last)
    } else {
        last
    };
    let row = store::Decision {
        id: decision.id.clone(),
        time: Some(timestamp_to(last)),
        first_time: Some(timestamp_to(first)),
        sequence: decision.sequence,
        allowed: decision.allowed,
        reason: decision.reason.clone(),
        grant: grant
            .map(|issued| issued.grant.id.to_string())
            .unwrap_or_default(),
        principal: decision.principal.clone(),
        service: decision.service.clone(),
        method: decision.method.clone(),
        trace_id: decision.trace_id.clone(),
        policy: decision.policy.clone(),
        policy_version: decision.policy_version,
        revision: decision.revision,
        count: decision.count.max(1),
        shadow: decision.shadow,
        sidecar: reported.sidecar.clone(),
        instance: reported.instance.clone(),
        receive_time: Some(timestamp_to(now)),
    };
    if row.allowed {
        count(rows, &row, first, last)?;
    }
    let arrival = keys::arrival(now, row.id.as_bytes());
    if !row.grant.is_empty() {
        rows.put(
            Table::DecisionsByGrant,
            keys::pair(&row.grant, &arrival),
            vec![],
        );
    }
    rows.put(Table::DecisionsByArrival, arrival, vec![]);
    rows.put(
        Table::Decisions,
        row.id.as_bytes().to_vec(),
        row.encode_to_vec(),
    );
    Ok(true)
}

/// Adds an allowed record to what is known of its grant.
fn count(
    rows: &mut Overlay<'_>,
    row: &store::Decision,
    first: Timestamp,
    last: Timestamp,
) -> Result<(), StoreError> {
    let mut known = Reader::new(rows).grant_use(&row.grant)?.unwrap_or_default();
    let parsed = |time: &Option<prost_types::Timestamp>| {
        time.as_ref()
            .and_then(|time| timestamp_from(time, "time").ok())
    };
    known.first = Some(timestamp_to(
        parsed(&known.first).map_or(first, |known| known.min(first)),
    ));
    known.last = Some(timestamp_to(
        parsed(&known.last).map_or(last, |known| known.max(last)),
    ));
    known.count = known.count.saturating_add(row.count);
    if known.sidecars.len() < SIDECARS_MAX && !known.sidecars.contains(&row.sidecar) {
        known.sidecars.push(row.sidecar.clone());
    }
    rows.put(
        Table::Usage,
        row.grant.as_bytes().to_vec(),
        store::GrantUse::encode_to_vec(&known),
    );
    Ok(())
}

/// What a record may hold, and nothing else: it is shown to people later.
fn is_sound(reported: &Reported, decision: &v1::Decision) -> bool {
    let fits = |text: &str, most: usize| text.len() <= most && !text.chars().any(char::is_control);
    let known = DenyReason::ALL
        .iter()
        .any(|reason| reason.as_str() == decision.reason);
    let undirected = decision.service.is_empty() && !decision.allowed;
    Ulid::from_string(&decision.id).is_ok_and(|id| id.to_string() == decision.id)
        && (undirected
            || reported
                .services
                .iter()
                .any(|service| service.as_str() == decision.service))
        && if decision.allowed {
            decision.reason.is_empty()
        } else {
            known
        }
        && (decision.principal.is_empty() || Principal::parse(&decision.principal).is_ok())
        && fits(&decision.method, METHOD_MAX)
        && !decision.method.contains(['?', '#'])
        && [&decision.policy, &decision.trace_id, &decision.grant]
            .iter()
            .all(|text| fits(text, NAME_MAX))
        && (0..=COUNT_MAX).contains(&decision.count)
}

/// Forgets the `over` oldest records, and those that arrived before `before`; at most `most`. Says how many.
pub(super) fn forget(
    rows: &mut Overlay<'_>,
    before: Timestamp,
    over: usize,
    most: usize,
) -> Result<usize, StoreError> {
    let oldest = Reader::new(rows).oldest_decisions(most)?;
    let mut forgotten = 0;
    for (place, (at, id)) in oldest.into_iter().enumerate() {
        if place >= over && at >= before {
            break;
        }
        let arrival = keys::arrival(at, id.as_bytes());
        if let Some(decision) = Reader::new(rows)
            .decision(&id)?
            .filter(|decision| !decision.grant.is_empty())
        {
            rows.remove(
                Table::DecisionsByGrant,
                keys::pair(&decision.grant, &arrival),
            );
        }
        rows.remove(Table::DecisionsByArrival, arrival);
        rows.remove(Table::Decisions, id.into_bytes());
        forgotten += 1;
    }
    Ok(forgotten)
}

/// Forgets instances that have said nothing since `before`; of more than there can be, those that were heard least lately.
pub(super) fn forget_reporters(
    rows: &mut Overlay<'_>,
    before: Timestamp,
) -> Result<(), StoreError> {
    let last = |reporter: &store::Reporter| {
        reporter
            .last
            .as_ref()
            .and_then(|last| timestamp_from(last, "last").ok())
            .unwrap_or_default()
    };
    let mut reporters: Vec<_> = Reader::new(rows)
        .reporters()?
        .into_iter()
        .map(|(instance, reporter)| (last(&reporter), instance))
        .collect();
    reporters.sort_unstable();
    let over = reporters.len().saturating_sub(REPORTERS_MAX);
    for (place, (last, instance)) in reporters.into_iter().enumerate() {
        if place < over || last < before {
            rows.remove(Table::Reporters, instance.into_bytes());
        }
    }
    Ok(())
}
