//! One sidecar as the fleet knows it: who it proved to be, what it said, and until when it may still decide.

use std::time::Duration;

use crate::admission::Party;
use crate::model::grant::Revision;
use crate::model::identity::{Principal, Service};
use crate::model::time::Timestamp;
use crate::wire::v1::ClockVerdict;

/// Services that are told apart of sidecars that are remembered as one; with more, any service counts as theirs.
const MERGED_SERVICES_MAX: usize = 1024;
/// A connected sidecar has told of a use within this time, with room to spare.
const TOLD_WITHIN: Duration = Duration::from_secs(5);
/// A sidecar that has been gone for longer than this is not waited for: what it has not told may be lost for good.
pub(crate) const COMES_BACK_WITHIN: Duration = Duration::from_mins(10);
/// Two monotonic clocks differ in rate by less than one part in this many.
const DRIFT_PARTS: u32 = 1000;

/// Who a sidecar proved to be; `None`: whoever reaches a plaintext listener on this machine, where anybody may watch.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Identity(pub Option<Principal>);

impl Identity {
    /// For display; empty: nobody in particular.
    pub(crate) fn as_str(&self) -> &str {
        self.0.as_ref().map_or("", Principal::as_str)
    }
}

impl Party for Identity {}

/// Names one process of one sidecar of one identity. Name and process are what it says of itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    /// Who it proved to be.
    pub identity: Identity,
    /// Its stable name.
    pub sidecar: String,
    /// ULID of the process.
    pub instance: String,
}

impl Key {
    /// Where departed sidecars of an identity are remembered as one. No sidecar has an empty name.
    pub(super) fn merged(identity: Identity) -> Self {
        Self {
            identity,
            sidecar: String::new(),
            instance: String::new(),
        }
    }
}

/// One sidecar process.
#[derive(Debug, Clone)]
pub(crate) struct Sidecar {
    /// Who it proved to be.
    pub identity: Identity,
    /// Its stable name, as it says.
    pub id: String,
    /// ULID of the process.
    pub instance: String,
    /// Name and version, as it says.
    pub software: String,
    /// What it watches.
    pub services: Vec<Service>,
    /// How long after the last progress message it still decides.
    pub max_staleness: Duration,
    /// Whether a session is open, and since when.
    pub connected_since: Option<Timestamp>,
    /// When it was last heard from.
    pub last_seen: Timestamp,
    /// The revision that it enforces.
    pub acked: Revision,
    /// When it last applied a change, by its estimate of this clock.
    pub applied_at: Option<Timestamp>,
    /// Streams that it ended then.
    pub streams_closed: u32,
    /// Its wall clock minus this clock, in microseconds, as it reports.
    pub clock_offset_micros: i64,
    /// The error bound of its estimate of this clock.
    pub clock_error: Duration,
    /// What it makes of the two clocks.
    pub clock_verdict: ClockVerdict,
    /// Whether it decides nothing for as long as they disagree.
    pub refuses_skewed: bool,
    /// Running streams that it would end with their grants, as it reports.
    pub open_leashes: u32,
    /// It tells of no use that is made of grants.
    pub reports_nothing: bool,
    /// It refuses nothing (`--mode shadow`).
    pub shadow: bool,
    /// When it last answered a progress message or a change.
    pub last_ack: Option<Timestamp>,
    /// Grants that it could not enforce (and denies), and the newest complaint.
    pub nacks: u64,
    /// The newest of them.
    pub last_nack: Option<Refusal>,
    /// Sessions opened so far.
    pub sessions: u64,
    /// For how many departed sidecars this row stands beside the one it names: see the bound on rows.
    pub merged: usize,
}

/// A grant that a sidecar denies because it cannot enforce it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The grant.
    pub grant: String,
    /// At which revision.
    pub revision: Revision,
    /// Why, as the sidecar says.
    pub error: String,
}

/// A sidecar's word that a revision is enforced there.
#[derive(Debug, Clone)]
pub(crate) struct Receipt {
    /// Which sidecar.
    pub sidecar: String,
    /// Which process of it.
    pub instance: String,
    /// The revision it enforces; the one asked for or newer.
    pub revision: Revision,
    /// When it last applied a change, by its estimate of the control plane's clock.
    pub applied_at: Option<Timestamp>,
    /// Streams that it ended then.
    pub streams_closed: u32,
}

/// A sidecar that has not acknowledged yet.
#[derive(Debug, Clone)]
pub(crate) struct Outstanding {
    /// Which sidecar.
    pub sidecar: String,
    /// Which process of it.
    pub instance: String,
    /// Whether a session with it is open.
    pub connected: bool,
    /// The revision it last acknowledged.
    pub acked: Revision,
    /// When it was last heard from.
    pub last_seen: Timestamp,
    /// From here on it refuses by itself.
    pub fenced_by: Timestamp,
    /// As in [`Sidecar::merged`].
    pub merged: usize,
}

/// Why it cannot be said yet that nobody has used a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreported {
    /// A sidecar never tells.
    Ever,
    /// A sidecar may still tell; it makes no sense to look before then.
    Until(Timestamp),
}

impl Unreported {
    pub(super) fn later(self, other: Self) -> Self {
        match (self, other) {
            (Self::Until(one), Self::Until(other)) => Self::Until(one.max(other)),
            (Self::Ever, _) | (_, Self::Ever) => Self::Ever,
        }
    }
}

impl Sidecar {
    /// What was used leaves within a second or two, in the same stream as the words by which it is heard from.
    pub(super) fn unreported(
        &self,
        issued: Timestamp,
        moment: Timestamp,
        now: Timestamp,
    ) -> Option<Unreported> {
        let held = self.connected_since.is_some() || self.last_seen >= issued;
        match self.connected_since {
            _ if !held => None,
            _ if self.reports_nothing => Some(Unreported::Ever),
            Some(since) => {
                let complete = self.last_seen >= moment.max(since).plus(TOLD_WITHIN);
                (!complete).then(|| Unreported::Until(now.plus(TOLD_WITHIN)))
            }
            None => {
                let given_up = self.last_seen.plus(COMES_BACK_WITHIN);
                (now < given_up).then_some(Unreported::Until(given_up))
            }
        }
    }

    pub(super) fn watches(&self, services: &[Service]) -> bool {
        self.services.len() > MERGED_SERVICES_MAX
            || self
                .services
                .iter()
                .any(|service| services.contains(service))
    }

    /// From now on this row stands for `other`, too: wherever they differ, it says what may be true of either.
    pub(super) fn merge(&mut self, other: Self) {
        if self.services.len() <= MERGED_SERVICES_MAX {
            self.services.extend(other.services);
            self.services.sort();
            self.services.dedup();
        }
        self.merged += 1 + other.merged;
        self.acked = self.acked.min(other.acked);
        self.last_seen = self.last_seen.max(other.last_seen);
        self.max_staleness = self.max_staleness.max(other.max_staleness);
        self.reports_nothing |= other.reports_nothing;
        self.shadow |= other.shadow;
    }

    /// From when on it cannot decide from a table that lacks what was committed at `committed`. Nothing sent after the
    /// session ended can have reached it either, and `last_seen` is not before that end.
    pub(super) fn fence(&self, committed: Timestamp) -> Timestamp {
        let vouched = match self.connected_since {
            Some(_) => committed,
            None => committed.min(self.last_seen),
        };
        // Its clock and this one may run at rates that differ by a little.
        vouched.plus(self.max_staleness + self.max_staleness / DRIFT_PARTS)
    }

    /// Whether it has been away for so long that it can no longer decide from its table.
    pub(super) fn fenced(&self, now: Timestamp) -> bool {
        self.connected_since.is_none() && now > self.fence(self.last_seen)
    }

    pub(super) fn receipt(&self) -> Receipt {
        Receipt {
            sidecar: self.id.clone(),
            instance: self.instance.clone(),
            revision: self.acked,
            applied_at: self.applied_at,
            streams_closed: self.streams_closed,
        }
    }

    pub(super) fn outstanding(&self, committed: Timestamp) -> Outstanding {
        Outstanding {
            sidecar: self.id.clone(),
            instance: self.instance.clone(),
            connected: self.connected_since.is_some(),
            acked: self.acked,
            last_seen: self.last_seen,
            fenced_by: self.fence(committed),
            merged: self.merged,
        }
    }
}
