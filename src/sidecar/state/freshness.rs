//! When the control plane last confirmed the table, and what that makes of it under a bound. It is counted on the
//! monotonic clock from the moment the newest progress message was *sent* (at the earliest): what lay in a buffer or in
//! a stopped process is as old as it is.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::clock::earlier;
use crate::model::decide::Freshness;

/// The last confirmation, if there was one.
#[derive(Debug, Default)]
pub(super) struct Confirmed(Mutex<Option<Instant>>);

impl Confirmed {
    /// An older confirmation does not undo a newer one.
    pub(super) fn at(&self, at: Instant) {
        let mut newest = self.0.lock();
        *newest = Some(newest.map_or(at, |before| before.max(at)));
    }

    /// The machine was suspended for `span`, which the monotonic clock has not counted.
    pub(super) fn slept(&self, span: Duration) {
        let mut newest = self.0.lock();
        *newest = newest.map(|at| earlier(at, span));
    }

    pub(super) fn age(&self, now: Instant) -> Option<Duration> {
        self.0.lock().map(|at| now.saturating_duration_since(at))
    }
}

impl Freshness {
    /// Of a table confirmed this long ago.
    pub(super) fn of(age: Duration, max_staleness: Duration) -> Self {
        if age > max_staleness {
            Self::Stale(age)
        } else {
            Self::Fresh
        }
    }
}
