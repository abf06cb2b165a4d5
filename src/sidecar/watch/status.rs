//! How the watch is doing, for logs, metrics and readiness. Counters only rise; nothing decides by them.

use std::time::Duration;

use parking_lot::Mutex;

use super::apply::Fault;
use crate::clock::wall;
use crate::model::time::Timestamp;
use crate::telemetry::metrics::Latency;
use crate::wire::v1::SnapshotCause;

/// Shared between the watch and whoever looks at it.
#[derive(Debug)]
pub struct WatchStatus {
    report: Mutex<WatchReport>,
    propagation: Latency,
}

/// From a millisecond to ten minutes, which is an outage caught up with.
const PROPAGATION_BUCKETS: [u64; 14] = [
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    1_000_000_000,
    2_500_000_000,
    10_000_000_000,
    30_000_000_000,
    60_000_000_000,
    600_000_000_000,
];

impl Default for WatchStatus {
    fn default() -> Self {
        Self {
            report: Mutex::default(),
            propagation: Latency::new(&PROPAGATION_BUCKETS),
        }
    }
}

/// How the watch is doing at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WatchReport {
    /// Since when a session is open, by this machine's wall clock.
    pub connected_since: Option<Timestamp>,
    /// Why the last session or attempt ended, and when.
    pub last_error: Option<(Timestamp, String)>,
    /// Attempts to open a session.
    pub attempts: u64,
    /// Sessions that the control plane answered.
    pub sessions: u64,
    /// Sessions that went on from what was held.
    pub resumed: u64,
    /// Snapshots made visible.
    pub snapshots: u64,
    /// Deltas applied.
    pub deltas: u64,
    /// Progress messages whose digest matched.
    pub progress: u64,
    /// Entries that cannot be enforced here, over all messages.
    pub nacks: u64,
    /// Times the control plane asked this sidecar to come back later.
    pub sent_away: u64,
    /// Snapshots begun, by cause.
    pub causes: Causes,
    /// Sessions broken off, by fault.
    pub faults: Faults,
}

/// Snapshots by cause, as the control plane states it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Causes {
    /// This sidecar held nothing, or asked for everything.
    pub first: u64,
    /// What it held was older than the changes kept.
    pub compacted: u64,
    /// The store has another history.
    pub epoch: u64,
    /// Same revision, other content.
    pub digest: u64,
    /// It fell too far behind.
    pub overflow: u64,
    /// None of these.
    pub other: u64,
}

/// Sessions broken off by this sidecar.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// An older table than the one held.
    pub went_back: u64,
    /// Another history without a snapshot.
    pub other_history: u64,
    /// A delta that does not follow; repaired by a snapshot.
    pub gaps: u64,
    /// A table that differs from the control plane's; repaired by a snapshot.
    pub diverged: u64,
    /// A snapshot that is not what its digest says.
    pub corrupt: u64,
    /// An entry or message that cannot be decoded.
    pub undecodable: u64,
    /// Any other breach of the protocol.
    pub protocol: u64,
    /// Nothing heard for three times the promised interval.
    pub silent: u64,
}

impl WatchStatus {
    /// A copy of everything.
    pub fn report(&self) -> WatchReport {
        self.report.lock().clone()
    }

    /// From the commit of a change to its enforcement here.
    pub fn propagation(&self) -> &Latency {
        &self.propagation
    }

    pub(super) fn enforced(&self, after: Duration) {
        self.propagation.observe(after);
    }

    pub(super) fn note(&self, change: impl FnOnce(&mut WatchReport)) {
        change(&mut self.report.lock());
    }

    pub(super) fn opened(&self) {
        self.note(|report| {
            report.connected_since = Some(wall());
            report.sessions += 1;
        });
    }

    pub(super) fn ended(&self, error: Option<&str>) {
        self.note(|report| {
            report.connected_since = None;
            if let Some(error) = error {
                report.last_error = Some((wall(), error.to_owned()));
            }
        });
    }

    pub(super) fn snapshot_begun(&self, cause: SnapshotCause) {
        self.note(|report| {
            let causes = &mut report.causes;
            *match cause {
                SnapshotCause::First => &mut causes.first,
                SnapshotCause::Compacted => &mut causes.compacted,
                SnapshotCause::Epoch => &mut causes.epoch,
                SnapshotCause::Digest => &mut causes.digest,
                SnapshotCause::Overflow => &mut causes.overflow,
                SnapshotCause::Unspecified => &mut causes.other,
            } += 1;
        });
    }

    pub(super) fn fault(&self, fault: &Fault) {
        self.note(|report| {
            let faults = &mut report.faults;
            *match fault {
                Fault::WentBack { .. } => &mut faults.went_back,
                Fault::OtherHistory { .. } => &mut faults.other_history,
                Fault::Gap { .. } => &mut faults.gaps,
                Fault::Diverged(_) => &mut faults.diverged,
                Fault::SnapshotCorrupt(_) => &mut faults.corrupt,
                Fault::Undecodable(_) => &mut faults.undecodable,
                Fault::TokenKeys(_) | Fault::Protocol(_) => &mut faults.protocol,
            } += 1;
        });
    }
}
