//! How many tokens one caller gets in a while. Each token is a write to the store: nobody fills it alone.

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::control::lifecycle::fault::{Fault, FaultKind};
use crate::model::identity::Principal;

/// At once. A workload may have many instances, each with tokens for several grants.
const BURST: f64 = 600.0;
/// And as many a second from then on.
const PER_SECOND: f64 = 20.0;
/// Callers remembered; of more, those that have been quiet for longest are forgotten.
const CALLERS_MAX: usize = 10_000;

/// Counts what callers were given.
#[derive(Debug, Default)]
pub(super) struct Pace(Mutex<HashMap<Principal, Bucket>>);

#[derive(Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    /// What is left by now.
    fn refilled(&self, now: Instant) -> f64 {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        (self.left + since * PER_SECOND).min(BURST)
    }
}

impl Pace {
    /// Counts one more.
    ///
    /// # Errors
    /// LIMIT_EXCEEDED when the caller has had too many.
    pub(super) fn admit(&self, caller: &Principal) -> Result<(), Fault> {
        let now = Instant::now();
        let mut buckets = self.0.lock();
        if buckets.len() >= CALLERS_MAX && !buckets.contains_key(caller) {
            forget_quiet(&mut buckets, now);
        }
        let bucket = buckets.entry(caller.clone()).or_insert(Bucket {
            left: BURST,
            at: now,
        });
        let left = bucket.refilled(now);
        if left < 1.0 {
            let message = format!(
                "{caller} asks for tokens too fast: each is good for minutes; keep it until two thirds of them"
            );
            return Err(Fault::new(FaultKind::Limit, message));
        }
        *bucket = Bucket {
            left: left - 1.0,
            at: now,
        };
        Ok(())
    }
}

/// Whoever has a full bucket loses nothing by it. If everybody is busy, the one that asked longest ago goes.
fn forget_quiet(buckets: &mut HashMap<Principal, Bucket>, now: Instant) {
    buckets.retain(|_, bucket| bucket.refilled(now) < BURST);
    if buckets.len() >= CALLERS_MAX {
        let oldest = buckets
            .iter()
            .min_by_key(|(_, bucket)| bucket.at)
            .map(|(caller, _)| caller.clone());
        oldest.and_then(|caller| buckets.remove(&caller));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn caller(n: usize) -> Principal {
        Principal::parse(&format!("spiffe://td/{n}")).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_in_a_hurry_is_held_back_and_nobody_else() {
        let pace = Pace::default();
        let given = (0..1000).filter(|_| pace.admit(&caller(1)).is_ok()).count();
        assert_eq!(given, 600);
        assert!(pace.admit(&caller(2)).is_ok());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(
            (0..1000).filter(|_| pace.admit(&caller(1)).is_ok()).count(),
            20
        );
    }

    #[tokio::test(start_paused = true)]
    async fn callers_that_come_once_are_forgotten() {
        let pace = Pace::default();
        for n in 0..3 * CALLERS_MAX {
            pace.admit(&caller(n)).unwrap();
            if n % 1000 == 0 {
                tokio::time::advance(Duration::from_secs(1)).await;
            }
        }
        assert!(pace.0.lock().len() <= CALLERS_MAX);
    }
}
