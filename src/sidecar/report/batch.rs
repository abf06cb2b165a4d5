//! One second's decisions: some by themselves, the rest counted by what they have in common.

use std::collections::HashMap;
use std::sync::Arc;

use super::seen::Seen;
use crate::model::decision::DenyReason;
use crate::model::identity::{Principal, Service};
use crate::model::time::Timestamp;
use crate::support::hex::Hex;
use crate::wire::grant::timestamp_to;
use crate::wire::v1;

/// Which decisions are reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Which {
    /// Each by itself.
    All,
    /// Of each second the first 50 allowed and the first 50 refused by themselves, the rest counted by grant and method.
    #[default]
    Sampled,
    /// None.
    None,
}

/// Decisions of one interval that are reported by themselves: allowed ones, and refused ones.
const BY_THEMSELVES: u32 = 50;
/// Kinds of calls that are counted in one interval; of more, the calls are lost.
const KINDS_MAX: usize = 1024;
/// Records after which a batch leaves early, where each is reported.
const RECORDS_MAX: usize = 2048;

/// What calls have in common.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Kind {
    grant: Option<Arc<str>>,
    principal: Option<Principal>,
    service: Option<Service>,
    method: String,
    refused: Option<DenyReason>,
    shadow: bool,
}

/// The records of one interval.
#[derive(Debug)]
pub(super) struct Batch {
    which: Which,
    allowed_left: u32,
    refused_left: u32,
    records: Vec<v1::Decision>,
    /// Where the record of a kind stands.
    kinds: HashMap<Kind, usize>,
}

impl Batch {
    pub(super) fn new(which: Which) -> Self {
        let (allowed_left, refused_left) = (BY_THEMSELVES, BY_THEMSELVES);
        Self {
            which,
            allowed_left,
            refused_left,
            records: Vec::new(),
            kinds: HashMap::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.records.len() >= RECORDS_MAX
    }

    /// Adds a decision; says how many could not be. `ahead` is how far this machine's clock is ahead, in microseconds.
    pub(super) fn add(&mut self, seen: &Seen, ahead: i64) -> Option<u64> {
        let at = earlier(seen.at, ahead);
        let left = if seen.refused.is_none() {
            &mut self.allowed_left
        } else {
            &mut self.refused_left
        };
        if self.which == Which::All || *left > 0 {
            *left = left.saturating_sub(1);
            self.records.push(record(seen, at));
            return None;
        }
        let kind = Kind {
            grant: seen.grant.as_ref().map(|grant| grant.id.as_str().into()),
            principal: seen.principal.clone(),
            service: seen.service.clone(),
            method: seen.method.clone(),
            refused: seen.refused,
            shadow: seen.shadow,
        };
        if let Some(known) = self
            .kinds
            .get(&kind)
            .and_then(|place| self.records.get_mut(*place))
        {
            known.count += 1;
            known.time = Some(timestamp_to(at));
            return None;
        }
        if self.kinds.len() >= KINDS_MAX {
            return Some(1);
        }
        self.kinds.insert(kind, self.records.len());
        self.records.push(record(seen, at));
        None
    }

    /// The records so far; the next interval begins.
    pub(super) fn take(&mut self) -> Vec<v1::Decision> {
        std::mem::replace(self, Self::new(self.which)).records
    }
}

fn earlier(at: Timestamp, micros: i64) -> Timestamp {
    let span = std::time::Duration::from_micros(micros.unsigned_abs());
    if micros >= 0 {
        at.minus(span)
    } else {
        at.plus(span)
    }
}

fn record(seen: &Seen, at: Timestamp) -> v1::Decision {
    let grant = seen.grant.as_ref();
    let trace = seen.trace.map(|trace| Hex(&trace).to_string());
    v1::Decision {
        id: seen.id.to_string(),
        time: Some(timestamp_to(at)),
        first_time: Some(timestamp_to(at)),
        sequence: 0,
        allowed: seen.refused.is_none(),
        reason: seen
            .refused
            .map(DenyReason::as_str)
            .unwrap_or_default()
            .to_owned(),
        grant: grant.map(|grant| grant.id.to_string()).unwrap_or_default(),
        principal: seen
            .principal
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        service: seen
            .service
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        method: seen.method.clone(),
        trace_id: trace.unwrap_or_default(),
        policy: grant
            .map(|grant| grant.policy.name.to_string())
            .unwrap_or_default(),
        policy_version: grant.map_or(0, |grant| {
            i64::try_from(grant.policy.version).unwrap_or(i64::MAX)
        }),
        revision: i64::try_from(seen.revision.0).unwrap_or(i64::MAX),
        count: 1,
        shadow: seen.shadow,
        ..v1::Decision::default()
    }
}
