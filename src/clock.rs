//! Clocks: the one place that reads them. Decisions are made on the control plane's time, carried by a monotonic clock.

use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::model::time::Timestamp;

/// The wall clock. Only the control plane dates things with it; enforcement never does.
#[expect(clippy::disallowed_methods, reason = "the one reading of the wall clock")]
pub fn wall() -> Timestamp {
    Timestamp::from_system(SystemTime::now())
}

/// The control plane's time as a sidecar knows it: the newest `server_time` heard, plus monotonic time since.
///
/// Stepping this machine's wall clock does not move it, and it never runs backwards.
#[derive(Debug)]
pub struct ServerClock {
    origin: Instant,
    state: Mutex<Option<Anchor>>,
}

#[derive(Debug, Clone, Copy)]
struct Anchor {
    server: Timestamp,
    heard: Instant,
    error: Duration,
}

impl Default for ServerClock {
    fn default() -> Self {
        Self { origin: Instant::now(), state: Mutex::new(None) }
    }
}

impl ServerClock {
    /// Nanoseconds on this process's monotonic clock; what `sent_nanos` carries.
    pub fn monotonic_nanos(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Takes in a progress message received just now. `round_trip` is what the echo measured, if anything.
    pub fn observe(&self, server_time: Timestamp, round_trip: Option<Duration>) {
        let half = round_trip.unwrap_or_default() / 2;
        let now = Instant::now();
        let mut state = self.state.lock();
        let floor = state.map_or(Timestamp::default(), |anchor| anchor.server.plus(now - anchor.heard));
        *state = Some(Anchor { server: server_time.plus(half).max(floor), heard: now, error: half });
    }

    /// The control plane's time now; `None` before the first observation.
    pub fn now(&self) -> Option<Timestamp> {
        let anchor = (*self.state.lock())?;
        Some(anchor.server.plus(anchor.heard.elapsed()))
    }

    /// How far [`ServerClock::now`] may be off: half the round trip.
    pub fn error(&self) -> Option<Duration> {
        self.state.lock().map(|anchor| anchor.error)
    }
}
