//! Clocks: the one place that reads them. Decisions are made on the control plane's time, carried by a monotonic clock.
//!
//! * [`wall`] is the machine's clock. It dates things for people; nothing is enforced by it.
//! * [`ControlClock`] is the control plane's time line: the wall clock read once, and monotonic time since. A step of
//!   the wall clock of a running control plane therefore reaches neither its own expiry nor any sidecar.
//! * [`ServerClock`] is that time line as a sidecar knows it, with an error bound.
//!
//! "Monotonic" is `CLOCK_MONOTONIC`. It is slewed by NTP but never stepped, and on Linux it stands still while the
//! machine is suspended: [`Sleep`] notices, and what was missed is added (see [`ServerClock::slept`]). A pause that no
//! clock of the machine counts, as of a frozen virtual machine, is corrected by the next progress messages.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::model::time::Timestamp;

pub(crate) mod server;
mod sleep;

pub(crate) use server::{Reading, ServerClock, Skew, Verdict};
pub(crate) use sleep::Sleep;

/// The wall clock. It dates things for people; enforcement never reads it.
#[expect(
    clippy::disallowed_methods,
    reason = "the one reading of the wall clock"
)]
pub fn wall() -> Timestamp {
    Timestamp::from_system(SystemTime::now())
}

/// `later - earlier` in microseconds, either sign.
pub(crate) fn micros_between(earlier: Timestamp, later: Timestamp) -> i64 {
    let difference = i128::from(later.as_micros()) - i128::from(earlier.as_micros());
    i64::try_from(difference).unwrap_or(if difference < 0 { i64::MIN } else { i64::MAX })
}

/// The control plane's time: the wall clock as it was at start-up, and monotonic time since.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ControlClock {
    start: Timestamp,
    since: Instant,
}

impl ControlClock {
    /// Anchors at the wall clock, but not before `recorded`, the newest time this store has written down: a clock that
    /// went back while the control plane was down does not give ended grants more time.
    pub(crate) fn anchored(recorded: Timestamp) -> Self {
        Self::starting_at(wall().max(recorded))
    }

    /// Anchors at a given time.
    pub(crate) fn starting_at(start: Timestamp) -> Self {
        Self {
            start,
            since: Instant::now(),
        }
    }

    /// The control plane's time now.
    pub(crate) fn now(&self) -> Timestamp {
        self.start.plus(self.since.elapsed())
    }

    /// How far the wall clock has moved away since the start, in microseconds: worth a warning beyond a second, and
    /// cured by a restart once the wall clock is right.
    pub(crate) fn wall_drift_micros(&self) -> i64 {
        micros_between(self.now(), wall())
    }
}

/// Says once that the wall clock has moved away from the control plane's time, and once that it is back.
#[derive(Debug, Default)]
pub(crate) struct DriftLog {
    told: bool,
}

impl DriftLog {
    /// Compares; how far the wall clock has moved away, in microseconds.
    pub(crate) fn look(&mut self, clock: &ControlClock) -> i64 {
        let micros = clock.wall_drift_micros();
        let moved = Duration::from_micros(micros.unsigned_abs()) > DRIFT_TOLD;
        if moved && !self.told {
            let ms = micros / 1000;
            tracing::warn!(
                ms,
                "this machine's wall clock has moved away from the control plane's time, which runs on undisturbed; once \
                 the wall clock is right, a restart adopts it"
            );
        } else if !moved && self.told {
            tracing::info!("this machine's wall clock and the control plane's time agree again");
        }
        self.told = moved;
        micros
    }
}

impl Default for ControlClock {
    fn default() -> Self {
        Self::anchored(Timestamp::default())
    }
}

/// A drift beyond this is told.
const DRIFT_TOLD: Duration = Duration::from_secs(1);
/// Longest span that arithmetic on instants is trusted with.
const FAR: Duration = Duration::from_hours(24 * 365);

/// `at - span`, or `at` when the clock does not go back that far.
pub(crate) fn earlier(at: Instant, span: Duration) -> Instant {
    at.checked_sub(span.min(FAR)).unwrap_or(at)
}

/// `at + span`, capped a year ahead.
fn later(at: Instant, span: Duration) -> Instant {
    at + span.min(FAR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn control_time_is_monotonic_time_from_one_reading_of_the_wall() {
        let clock = ControlClock::starting_at(Timestamp::from_micros(5_000_000));
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(clock.now(), Timestamp::from_micros(12_000_000));
    }

    #[tokio::test(start_paused = true)]
    async fn control_time_does_not_start_before_what_the_store_has_recorded() {
        let ahead = wall().plus(Duration::from_hours(1));
        assert_eq!(ControlClock::anchored(ahead).now(), ahead);
        assert!(ControlClock::default().now() < ahead);
    }

    #[test]
    fn differences_have_a_sign() {
        let (a, b) = (Timestamp::from_micros(1), Timestamp::from_micros(9));
        assert_eq!((micros_between(a, b), micros_between(b, a)), (8, -8));
    }
}
