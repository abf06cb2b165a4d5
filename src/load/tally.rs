//! What all sessions of a load count together.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// What all sessions count.
#[derive(Debug, Default)]
pub(super) struct Tally {
    attempts: AtomicU64,
    resumed: AtomicU64,
    snapshots: AtomicU64,
    closed: AtomicU64,
    faults: AtomicU64,
    pub(super) steps: Mutex<Steps>,
    pub(super) applied: Mutex<Vec<Applied>>,
}

/// Who is in step. A session opened before the newest restart does not count any more.
#[derive(Debug, Default)]
pub(super) struct Steps {
    pub(super) generation: u64,
    pub(super) in_step: u32,
}

/// One sidecar applied a revision.
#[derive(Debug, Clone, Copy)]
pub(super) struct Applied {
    pub(super) sidecar: u32,
    pub(super) revision: i64,
    pub(super) at: Instant,
    /// After its commit, as the control plane dates that.
    pub(super) delay: Option<Duration>,
}

/// Counts at one moment, or between two.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) attempts: u64,
    pub(super) resumed: u64,
    pub(super) snapshots: u64,
    pub(super) closed: u64,
    pub(super) faults: u64,
}

impl Tally {
    pub(super) fn attempt(&self) {
        self.attempts.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn resumed(&self) {
        self.resumed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn snapshot(&self) {
        self.snapshots.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn closed(&self) {
        self.closed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn fault(&self) {
        self.faults.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn generation(&self) -> u64 {
        self.steps.lock().generation
    }

    /// Counts a session of this generation, unless there is a newer one.
    pub(super) fn in_step(&self, generation: u64) -> bool {
        let mut steps = self.steps.lock();
        let counts = steps.generation == generation;
        steps.in_step += u32::from(counts);
        counts
    }

    pub(super) fn out_of_step(&self, generation: u64) {
        let mut steps = self.steps.lock();
        if steps.generation == generation {
            steps.in_step = steps.in_step.saturating_sub(1);
        }
    }

    pub(super) fn applied(&self, applied: Applied) {
        self.applied.lock().push(applied);
    }

    pub(super) fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            attempts: read(&self.attempts),
            resumed: read(&self.resumed),
            snapshots: read(&self.snapshots),
            closed: read(&self.closed),
            faults: read(&self.faults),
        }
    }
}

impl Counts {
    pub(super) fn since(self, before: &Self) -> Self {
        Self {
            attempts: self.attempts.saturating_sub(before.attempts),
            resumed: self.resumed.saturating_sub(before.resumed),
            snapshots: self.snapshots.saturating_sub(before.snapshots),
            closed: self.closed.saturating_sub(before.closed),
            faults: self.faults.saturating_sub(before.faults),
        }
    }
}
