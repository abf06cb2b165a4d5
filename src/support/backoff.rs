//! How long to wait before the next attempt: exponential with full jitter, back at the start after one that worked.

use std::time::Duration;

use rand::RngExt;

/// Waits before attempts.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    least: Duration,
    most: Duration,
    ceiling: Duration,
}

impl Backoff {
    /// The first wait is at most `least`; the bound doubles up to `most`.
    pub(crate) fn new(least: Duration, most: Duration) -> Self {
        Self {
            least,
            most: most.max(least),
            ceiling: least,
        }
    }

    /// Anything from nothing to the current bound, which then doubles.
    pub(crate) fn next(&mut self) -> Duration {
        let wait = self.ceiling.mul_f64(rand::rng().random_range(0.0..=1.0));
        self.ceiling = self.ceiling.saturating_mul(2).min(self.most);
        wait
    }

    /// The last attempt worked.
    pub(crate) fn reset(&mut self) {
        self.ceiling = self.least;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: Duration = Duration::from_millis(50);
    const MOST: Duration = Duration::from_secs(10);

    #[test]
    fn waits_stay_under_a_bound_that_doubles_to_its_limit() {
        let mut backoff = Backoff::new(LEAST, MOST);
        let mut bound = LEAST;
        for _ in 0..200 {
            let wait = backoff.next();
            assert!(wait <= bound, "{wait:?} over {bound:?}");
            bound = (bound * 2).min(MOST);
        }
    }

    /// A retry counter that is never reset makes a client give up for good after enough blips (spicedb#3134).
    #[test]
    fn a_session_that_worked_starts_over_and_no_number_of_failures_is_the_last() {
        let mut backoff = Backoff::new(LEAST, MOST);
        (0..10_000).for_each(|_| assert!(backoff.next() <= MOST));
        backoff.reset();
        assert!(backoff.next() <= LEAST);
    }

    #[test]
    fn waits_are_spread_over_the_whole_range() {
        let mut backoff = Backoff::new(MOST, MOST);
        let waits: Vec<_> = (0..500).map(|_| backoff.next()).collect();
        assert!(
            waits.iter().any(|wait| *wait < MOST / 4)
                && waits.iter().any(|wait| *wait > MOST * 3 / 4)
        );
    }
}
