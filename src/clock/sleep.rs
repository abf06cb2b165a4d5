//! Notices that the machine was suspended: the clock that counts a suspension has run ahead of the one that stood still.

use std::time::Duration;

use tokio::time::Instant;

/// `CLOCK_BOOTTIME`, in seconds and hundredths.
const UPTIME: &str = "/proc/uptime";
/// A smaller difference is the two readings' own.
const NOTICED: Duration = Duration::from_millis(250);

/// Compares the two clocks from one look to the next.
#[derive(Debug)]
pub(crate) struct Sleep {
    /// What the one said, and a moment of the other that is not later.
    seen: Option<(Duration, Instant)>,
}

impl Sleep {
    /// From now on. Where the system does not tell, nothing is ever noticed.
    pub(crate) fn watch() -> Self {
        let now = Instant::now();
        Self {
            seen: uptime().map(|uptime| (uptime, now)),
        }
    }

    /// How long the machine was suspended since the last look, if it was.
    pub(crate) fn look(&mut self) -> Option<Duration> {
        let before = Instant::now();
        let uptime = uptime()?;
        self.compare(before, uptime)
    }

    /// A process that had to wait for its turn between the two readings did not sleep: what passed until now counts.
    fn compare(&mut self, before: Instant, uptime: Duration) -> Option<Duration> {
        let (earlier, since) = self.seen.replace((uptime, before))?;
        let asleep = uptime.checked_sub(earlier)?.saturating_sub(since.elapsed());
        (asleep > NOTICED).then_some(asleep)
    }
}

fn uptime() -> Option<Duration> {
    let text = std::fs::read_to_string(UPTIME).ok()?;
    let seconds: f64 = text.split(' ').next()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn only_what_the_monotonic_clock_missed_is_sleep() {
        let mut sleep = Sleep {
            seen: Some((100 * SECOND, Instant::now())),
        };
        tokio::time::advance(5 * SECOND).await;
        assert_eq!(sleep.compare(Instant::now(), 105 * SECOND), None);
        tokio::time::advance(SECOND).await;
        assert_eq!(
            sleep.compare(Instant::now(), 166 * SECOND),
            Some(60 * SECOND)
        );
        assert_eq!(
            sleep.compare(Instant::now(), 166 * SECOND),
            None,
            "told once"
        );
        assert_eq!(
            sleep.compare(Instant::now(), 3 * SECOND),
            None,
            "a clock that went back tells nothing"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_waited_for_its_turn_between_two_readings_did_not_sleep() {
        let mut sleep = Sleep {
            seen: Some((100 * SECOND, Instant::now())),
        };
        let before = Instant::now();
        tokio::time::advance(3 * SECOND).await;
        assert_eq!(sleep.compare(before, 103 * SECOND), None);
        assert_eq!(sleep.compare(Instant::now(), 103 * SECOND), None);
    }

    #[test]
    fn the_machine_says_how_long_it_has_run() {
        assert!(uptime().is_some_and(|uptime| uptime > Duration::ZERO));
    }
}
