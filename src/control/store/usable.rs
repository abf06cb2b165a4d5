//! What the handle on the store and its writer share: the clock, and whether the medium works.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::model::time::Timestamp;

/// Tells the time. Only the control plane's store dates things.
pub(crate) type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Whether the store could be written and read last time.
#[derive(Debug, Clone)]
pub(crate) struct Usable(Arc<AtomicBool>);

impl Usable {
    /// Of a store that nobody has tried yet.
    pub(super) fn untried() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }

    /// Whether it could.
    pub(crate) fn holds(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    pub(super) fn note(&self, usable: bool) {
        self.0.store(usable, Ordering::Release);
    }
}
