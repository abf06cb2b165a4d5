//! A bounded number of places that many parties share. When all are taken, the party that holds the most gives one up for
//! a newcomer that holds fewer; within one party the place that has been silent, or held, for the longest goes first.
//!
//! So a party is sure of its equal share whatever the others do, and may use everything that the others leave.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::model::identity::Principal;

mod figures;

pub(crate) use figures::AdmissionMetrics;

/// Whom a place is counted against.
pub(crate) trait Party: Clone + Eq + Hash + Debug + Send + Sync + 'static {
    /// Whether it has proved who it is. One that has not gives way first.
    fn is_proven(&self) -> bool {
        true
    }
}

/// Where a connection comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    /// An IPv4 address, or the first 64 bits of an IPv6 address: whoever has one of those has all the rest.
    Address(IpAddr),
    /// The process at the other end of a Unix socket. Seen from another PID namespace all have the number 0.
    Process {
        /// Its user.
        uid: u32,
        /// Its number.
        pid: i32,
    },
    /// What the certificate of the connection proves.
    Identity(Principal),
}

impl From<SocketAddr> for Source {
    fn from(address: SocketAddr) -> Self {
        Self::Address(match address.ip().to_canonical() {
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

impl Party for Source {
    fn is_proven(&self) -> bool {
        matches!(self, Self::Identity(_))
    }
}

/// How the places are shared.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// How many there are.
    pub(crate) places: usize,
    /// What makes a place go first, among those that have been heard from.
    pub(crate) first: First,
    /// A newcomer of the party that holds the most takes over a place of its own party only if nothing was ever heard
    /// there, or if it has been silent (or held) for this long.
    pub(crate) spared: Duration,
}

/// Which place of a party goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum First {
    /// The one that has been held for the longest: for what should be over soon.
    Oldest,
    /// The one that has been silent for the longest: for what may last.
    Idlest,
}

/// The places. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Admission<K: Party> {
    shared: Arc<Shared<K>>,
}

#[derive(Debug)]
struct Shared<K> {
    rules: Rules,
    start: Instant,
    taken: Mutex<Taken<K>>,
    counts: Arc<Counts>,
}

/// For metrics.
#[derive(Debug, Default)]
struct Counts {
    places: AtomicU64,
    held: AtomicU64,
    displaced: AtomicU64,
    refused: AtomicU64,
}

#[derive(Debug)]
struct Taken<K> {
    parties: HashMap<K, HashMap<u64, Arc<Mark>>>,
    held: usize,
    next: u64,
}

/// What is known of one place.
#[derive(Debug)]
struct Mark {
    /// Milliseconds from the start of the room until the place was taken, and until it was last heard from; 0: never.
    since: u64,
    heard: AtomicU64,
    displaced: AtomicBool,
    waker: AtomicWaker,
}

/// Every place is taken, and nobody has to give way to this newcomer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("every place is taken, and no party holds more than this one")]
pub(crate) struct Full;

impl<K: Party> Admission<K> {
    /// An empty room.
    pub(crate) fn new(rules: Rules) -> Self {
        let counts = Counts {
            places: AtomicU64::new(count(rules.places)),
            ..Counts::default()
        };
        Self {
            shared: Arc::new(Shared {
                rules,
                // A moment ago, so that 0 stays free to mean "never".
                start: Instant::now() - Duration::from_millis(1),
                taken: Mutex::new(Taken {
                    parties: HashMap::new(),
                    held: 0,
                    next: 0,
                }),
                counts: Arc::new(counts),
            }),
        }
    }

    /// Takes a place for `party`; whoever had to give one up is told so by [`Place::displaced`].
    ///
    /// # Errors
    /// When no place is free and nobody has to give way.
    pub(crate) fn enter(&self, party: K) -> Result<Place<K>, Full> {
        let now = self.shared.now();
        let mut taken = self.shared.taken.lock();
        if taken.held >= self.shared.rules.places {
            let Some(victim) = taken.weakest(&party, &self.shared.rules, now) else {
                self.shared.counts.refused.fetch_add(1, Ordering::Relaxed);
                return Err(Full);
            };
            self.shared.displace(&mut taken, &victim);
        }
        let number = taken.next;
        taken.next += 1;
        taken.held += 1;
        let mark = Arc::new(Mark {
            since: now,
            heard: AtomicU64::new(0),
            displaced: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        });
        taken
            .parties
            .entry(party.clone())
            .or_default()
            .insert(number, Arc::clone(&mark));
        self.shared.note_held(&taken);
        Ok(Place {
            shared: Arc::clone(&self.shared),
            party,
            number,
            mark,
        })
    }

    /// Makes the party that holds the most give up one place, for want of something else than places.
    /// Tells whether there was one.
    pub(crate) fn shed(&self) -> bool {
        let now = self.shared.now();
        let mut taken = self.shared.taken.lock();
        let most = taken.most(|_| true);
        let victim = taken.first_of(&self.shared.rules, now, |_, held| held == most);
        if let Some(victim) = &victim {
            self.shared.displace(&mut taken, victim);
        }
        victim.is_some()
    }
}

impl<K> Shared<K> {
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn note_held(&self, taken: &Taken<K>) {
        self.counts.held.store(count(taken.held), Ordering::Relaxed);
    }
}

impl<K: Party> Shared<K> {
    fn displace(&self, taken: &mut Taken<K>, (party, number): &(K, u64)) {
        if let Some(mark) = taken.remove(party, *number) {
            mark.displaced.store(true, Ordering::Release);
            mark.waker.wake();
            self.counts.displaced.fetch_add(1, Ordering::Relaxed);
            self.note_held(taken);
        }
    }
}

impl<K: Party> Taken<K> {
    /// Who gives way to a newcomer of `party`.
    fn weakest(&self, party: &K, rules: &Rules, now: u64) -> Option<(K, u64)> {
        let own = self.parties.get(party).map_or(0, HashMap::len);
        let unproven = self.most(|other| !other.is_proven());
        let most = self.most(|_| true);
        if unproven > 0 && (unproven > own || party.is_proven()) {
            return self.first_of(rules, now, |other, held| {
                !other.is_proven() && held == unproven
            });
        }
        if most > own {
            return self.first_of(rules, now, |_, held| held == most);
        }
        let spared = u64::try_from(rules.spared.as_millis()).unwrap_or(u64::MAX);
        let first = self.first_of(rules, now, |other, _| other == party)?;
        let mark = self.parties.get(party)?.get(&first.1)?;
        let gives_way = !mark.was_heard() || now.saturating_sub(mark.moment(rules.first)) >= spared;
        gives_way.then_some(first)
    }

    /// The most places that one of these parties holds.
    fn most(&self, which: impl Fn(&K) -> bool) -> usize {
        let held = self.parties.iter().filter(|(party, _)| which(party));
        held.map(|(_, places)| places.len()).max().unwrap_or(0)
    }

    /// The place that goes first of all places of these parties: one that was never heard from before any other.
    fn first_of(
        &self,
        rules: &Rules,
        now: u64,
        which: impl Fn(&K, usize) -> bool,
    ) -> Option<(K, u64)> {
        let theirs = self
            .parties
            .iter()
            .filter(|(party, places)| which(party, places.len()));
        theirs
            .flat_map(|(party, places)| {
                places
                    .iter()
                    .map(move |(number, mark)| (party, number, mark))
            })
            .min_by_key(|(_, number, mark)| {
                (
                    mark.was_heard(),
                    mark.moment(rules.first).min(now),
                    **number,
                )
            })
            .map(|(party, number, _)| (party.clone(), *number))
    }

    fn remove(&mut self, party: &K, number: u64) -> Option<Arc<Mark>> {
        let places = self.parties.get_mut(party)?;
        let mark = places.remove(&number)?;
        if places.is_empty() {
            self.parties.remove(party);
        }
        self.held -= 1;
        Some(mark)
    }
}

impl Mark {
    fn was_heard(&self) -> bool {
        self.heard.load(Ordering::Relaxed) > 0
    }

    fn moment(&self, first: First) -> u64 {
        match first {
            First::Oldest => self.since,
            First::Idlest => self.since.max(self.heard.load(Ordering::Relaxed)),
        }
    }
}

/// A place that is held. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Place<K: Party> {
    shared: Arc<Shared<K>>,
    party: K,
    number: u64,
    mark: Arc<Mark>,
}

impl<K: Party> Place<K> {
    /// Whom it is counted against.
    pub(crate) fn party(&self) -> &K {
        &self.party
    }

    /// Something was heard from the other end.
    pub(crate) fn heard(&self) {
        self.mark.heard.store(self.shared.now(), Ordering::Relaxed);
    }

    /// Ready once the place was given to another. One task at a time may wait.
    pub(crate) fn poll_displaced(&self, context: &Context<'_>) -> Poll<()> {
        self.mark.waker.register(context.waker());
        if self.mark.displaced.load(Ordering::Acquire) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// As [`Place::poll_displaced`].
    pub(crate) async fn displaced(&self) {
        std::future::poll_fn(|context| self.poll_displaced(context)).await;
    }
}

impl<K: Party> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = self.shared.taken.lock();
        if taken.remove(&self.party, self.number).is_some() {
            self.shared.note_held(&taken);
        }
    }
}

fn count(places: usize) -> u64 {
    u64::try_from(places).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
