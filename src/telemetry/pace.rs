//! How many log lines others can cause: a burst, then one a second for each of them, with the number of those left out.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Lines at once.
const BURST: u32 = 50;
/// One more after each.
const EVERY: Duration = Duration::from_secs(1);
/// Parties told apart. Those beyond share what one has.
const PARTIES_MAX: usize = 1024;

/// Who has caused how many lines of late.
#[derive(Debug)]
pub(crate) struct Pace<K> {
    known: Mutex<HashMap<Option<K>, Bucket>>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// When the burst will be whole again, if nothing more is written.
    full_at: Instant,
    left_out: u64,
}

impl<K> Default for Pace<K> {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
        }
    }
}

impl<K: Clone + Eq + Hash> Pace<K> {
    /// Whether a line that `party` causes may be written now; and how many were not since the last one.
    pub(crate) fn admit(&self, party: &K) -> Option<u64> {
        let now = Instant::now();
        let mut known = self.known.lock();
        let mut key = Some(party.clone());
        if known.len() >= PARTIES_MAX && !known.contains_key(&key) {
            known.retain(|_, bucket| bucket.full_at > now || bucket.left_out > 0);
            if known.len() >= PARTIES_MAX {
                key = None;
            }
        }
        let bucket = known.entry(key).or_insert(Bucket {
            full_at: now,
            left_out: 0,
        });
        let full_at = bucket.full_at.max(now) + EVERY;
        if full_at > now + EVERY * BURST {
            bucket.left_out += 1;
            return None;
        }
        bucket.full_at = full_at;
        Some(std::mem::take(&mut bucket.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_a_burst_and_then_one_line_a_second_that_says_how_many_were_left_out() {
        let pace = Pace::default();
        let written = (0..1000).filter(|_| pace.admit(&"greedy").is_some());
        assert_eq!(written.count(), 50);
        tokio::time::advance(EVERY).await;
        assert_eq!(pace.admit(&"greedy"), Some(950));
        assert_eq!(pace.admit(&"greedy"), None);
        assert_eq!(pace.admit(&"modest"), Some(0), "each has its own");
    }

    #[tokio::test(start_paused = true)]
    async fn any_number_of_parties_costs_bounded_room() {
        let pace = Pace::default();
        for party in 0..10 * PARTIES_MAX {
            pace.admit(&party);
        }
        assert!(pace.known.lock().len() <= PARTIES_MAX + 1);
    }
}
