//! The grant table: one writer publishes, readers never wait. A snapshot replaces it in one swap; deltas change it in place.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::clock::ServerClock;
use crate::index::Index;
use crate::model::decide::Freshness;
use crate::model::time::Timestamp;

/// What the sidecar knows, and how recent that is.
#[derive(Debug, Default)]
pub struct Table {
    current: ArcSwapOption<Index>,
    heard: Mutex<Option<Instant>>,
    clock: ServerClock,
}

impl Table {
    /// The published copy; `None` before the first complete snapshot.
    pub fn current(&self) -> Option<Arc<Index>> {
        self.current.load_full()
    }

    /// Publishes a complete copy in one swap.
    pub fn publish(&self, index: Index) {
        self.current.store(Some(Arc::new(index)));
    }

    /// The control plane was heard from just now.
    pub fn heard(&self) {
        *self.heard.lock() = Some(Instant::now());
    }

    /// How long ago the control plane was last heard from.
    pub fn age(&self) -> Option<Duration> {
        self.heard.lock().map(|heard| heard.elapsed())
    }

    /// How far the table can be trusted under this bound.
    pub fn freshness(&self, max_staleness: Duration) -> Freshness {
        match self.age() {
            Some(age) if self.current.load().is_some() => {
                if age > max_staleness {
                    Freshness::Stale(age)
                } else {
                    Freshness::Fresh
                }
            }
            Some(_) | None => Freshness::Never,
        }
    }

    /// The control plane's clock.
    pub fn clock(&self) -> &ServerClock {
        &self.clock
    }

    /// The control plane's time; `None` before it was ever heard.
    pub fn now(&self) -> Option<Timestamp> {
        self.clock.now()
    }
}
