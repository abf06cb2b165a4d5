//! Verified tokens, so that each is verified once. Holds good verdicts only, bounded in bytes, none beyond its token's end.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::model::time::Timestamp;

/// About how many tokens to prepare for.
const TOKENS_ESTIMATED: usize = 4096;
/// All that the cache may hold, in bytes as [`Size`] estimates them.
const BYTES_MAX: u64 = 16 << 20;

/// What a verified token proves, for a time.
pub(crate) trait Expires {
    /// Good before this instant, and never from it on.
    fn expires(&self) -> Timestamp;
}

/// Verified tokens by their whole text: the map hashes it with a random key and compares it in full.
pub(crate) struct TokenCache<T> {
    tokens: Cache<Box<str>, Entry<T>, Size>,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// What made a token good: it is good again only under the same keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Basis {
    /// Which issuer, by its place in the configuration.
    pub(crate) issuer: usize,
    /// Which of its key sets.
    pub(crate) generation: u64,
}

struct Entry<T> {
    proven: Arc<T>,
    basis: Basis,
    /// Never earlier than it was found good: `nbf` lies behind.
    from: Timestamp,
}

impl<T> Clone for Entry<T> {
    fn clone(&self) -> Self {
        let Self {
            proven,
            basis,
            from,
        } = self;
        Self {
            proven: Arc::clone(proven),
            basis: *basis,
            from: *from,
        }
    }
}

/// How the cache of verified tokens does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheStats {
    /// Tokens answered from memory.
    pub hits: u64,
    /// Tokens of configured issuers that had to be verified.
    pub misses: u64,
    /// Tokens held now.
    pub entries: usize,
}

impl<T: Expires> TokenCache<T> {
    /// The identity of a token that is still good at `now`, under the keys that are current.
    pub(crate) fn find(
        &self,
        token: &str,
        now: Timestamp,
        is_current: impl Fn(Basis) -> bool,
    ) -> Option<Arc<T>> {
        let entry = self.tokens.get(token)?;
        if now >= entry.proven.expires() || !is_current(entry.basis) {
            self.tokens
                .remove_if(token, |held| held.basis == entry.basis);
            return None;
        }
        if now < entry.from {
            return None;
        }
        self.hits.fetch_add(1, Ordering::Relaxed);
        Some(entry.proven)
    }

    /// Keeps a token that was found good at `now`.
    pub(crate) fn keep(&self, token: &str, proven: &Arc<T>, basis: Basis, now: Timestamp) {
        // One in its leeway is verified each time: it never outlives `exp` in here.
        if now < proven.expires() {
            self.tokens.insert(
                token.into(),
                Entry {
                    proven: Arc::clone(proven),
                    basis,
                    from: now,
                },
            );
        }
    }

    /// Counts a token that had to be verified.
    pub(crate) fn missed(&self) {
        self.misses.fetch_add(1, Ordering::Relaxed);
    }

    /// Drops what rests on an issuer's former keys.
    pub(crate) fn forget(&self, issuer: usize) {
        self.tokens.retain(|_, entry| entry.basis.issuer != issuer);
    }

    pub(crate) fn stats(&self) -> CacheStats {
        CacheStats {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            entries: self.tokens.len(),
        }
    }
}

impl<T> Default for TokenCache<T> {
    fn default() -> Self {
        let tokens = Cache::with_weighter(TOKENS_ESTIMATED, BYTES_MAX, Size);
        Self {
            tokens,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }
}

/// Numbers only: the keys are credentials.
impl<T: Expires> fmt::Debug for TokenCache<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stats().fmt(f)
    }
}

/// Estimates an entry's bytes from its token's: the token itself, and its claims as a tree of values.
#[derive(Clone)]
struct Size;

impl<T> Weighter<Box<str>, Entry<T>> for Size {
    fn weight(&self, token: &Box<str>, _entry: &Entry<T>) -> u64 {
        512 + 4 * token.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jose::issuers::Identity;
    use crate::model::identity::Principal;
    use std::time::Duration;

    const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);
    const BASIS: Basis = Basis {
        issuer: 0,
        generation: 1,
    };

    fn identity(expires: Timestamp) -> Arc<Identity> {
        let user = Principal::user("https://idp.example", "alice").unwrap();
        Arc::new(Identity {
            user,
            groups: Vec::new(),
            expires,
            claims: Arc::default(),
        })
    }

    fn second(seconds: u64) -> Timestamp {
        NOW.plus(Duration::from_secs(seconds))
    }

    #[test]
    fn an_expired_token_is_never_returned() {
        let cache = TokenCache::default();
        cache.keep("t", &identity(second(10)), BASIS, NOW);
        let just_before = Timestamp::from_micros(second(10).as_micros() - 1);
        assert!(cache.find("t", just_before, |_| true).is_some());
        assert!(cache.find("t", second(10), |_| true).is_none());
        assert_eq!(cache.stats().entries, 0, "and it is gone");
        cache.keep("t", &identity(second(10)), BASIS, second(10));
        assert_eq!(cache.stats().entries, 0, "one that has ended is not kept");
    }

    #[test]
    fn a_clock_that_steps_back_is_not_answered_from_memory() {
        let cache = TokenCache::default();
        cache.keep("t", &identity(second(10)), BASIS, second(5));
        assert!(cache.find("t", second(4), |_| true).is_none());
        assert!(cache.find("t", second(5), |_| true).is_some());
    }

    #[test]
    fn another_generation_of_keys_drops_the_token() {
        let cache = TokenCache::default();
        cache.keep("t", &identity(second(10)), BASIS, NOW);
        assert!(cache.find("t", NOW, |basis| basis != BASIS).is_none());
        assert!(
            cache.find("t", NOW, |_| true).is_none(),
            "it does not come back"
        );
    }

    #[test]
    fn only_the_issuer_whose_keys_changed_is_forgotten() {
        let cache = TokenCache::default();
        cache.keep("a", &identity(second(10)), BASIS, NOW);
        cache.keep(
            "b",
            &identity(second(10)),
            Basis {
                issuer: 1,
                generation: 1,
            },
            NOW,
        );
        cache.forget(0);
        assert!(cache.find("a", NOW, |_| true).is_none());
        assert!(cache.find("b", NOW, |_| true).is_some());
    }

    #[test]
    fn the_cache_is_bounded() {
        let cache = TokenCache::default();
        let identity = identity(second(10));
        for n in 0..4000 {
            cache.keep(&format!("{n:08000}"), &identity, BASIS, NOW);
        }
        assert!(
            cache.stats().entries as u64 <= BYTES_MAX / 32_000,
            "{:?}",
            cache.stats()
        );
        assert!(cache.stats().entries > 100, "{:?}", cache.stats());
    }
}
