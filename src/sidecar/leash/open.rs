//! The streams that are open, by the grants that carry them. Whoever changes the table asks here, right after the change
//! is visible, for the streams that nothing carries any more to be ended.
//!
//! A stream enters itself first and looks its grants up afterwards. So a change is seen by the one or by the other,
//! whichever comes first, and a stream whose last grant goes in between is never left running.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use dashmap::DashMap;
use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::judge::{Cut, judge};
use crate::index::Index;
use crate::model::grant::GrantId;
use crate::model::time::Timestamp;

/// The grants that carry one stream.
pub(in crate::sidecar) type Carriers = SmallVec<[GrantId; 2]>;

/// Every open stream.
#[derive(Debug, Default)]
pub struct Leashes {
    by_grant: DashMap<GrantId, HashMap<u64, Arc<Leash>>>,
    next: AtomicU64,
    open: AtomicUsize,
    /// Ended by changes of the table since this was last taken.
    closed: AtomicU64,
}

#[derive(Debug)]
struct Leash {
    key: u64,
    carriers: Carriers,
    /// Taken by whoever ends the stream: it ends once.
    cut: Mutex<Option<oneshot::Sender<Cut>>>,
}

/// A stream's own end of its leash. Dropping it takes the stream off the list.
#[derive(Debug)]
pub(in crate::sidecar) struct Tied {
    leash: Arc<Leash>,
    leashes: Arc<Leashes>,
    cut: oneshot::Receiver<Cut>,
}

impl Leashes {
    /// How many streams are open.
    pub fn len(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many streams changes of the table have ended since this was last asked.
    pub fn take_closed(&self) -> u64 {
        self.closed.swap(0, Ordering::Relaxed)
    }

    /// Enters a stream, unless there are `max` already.
    pub(in crate::sidecar) fn tie(self: &Arc<Self>, carriers: Carriers, max: usize) -> Option<Tied> {
        let room = |open: usize| (open < max).then_some(open + 1);
        self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).ok()?;
        let (sender, cut) = oneshot::channel();
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        let leash = Arc::new(Leash { key, carriers, cut: Mutex::new(Some(sender)) });
        for grant in &leash.carriers {
            self.by_grant.entry(grant.clone()).or_default().insert(key, Arc::clone(&leash));
        }
        Some(Tied { leash, leashes: Arc::clone(self), cut })
    }

    /// Ends the streams that these changed grants were the last to carry.
    pub(in crate::sidecar) fn review(&self, index: &Index, now: Timestamp, changed: &[GrantId]) {
        for id in changed {
            // Out of the map first: judging takes locks of the table, and ending a stream wakes it.
            let tied: Vec<_> = self.by_grant.get(id).map(|tied| tied.values().cloned().collect()).unwrap_or_default();
            tied.iter().for_each(|leash| self.end_if_gone(leash, index, now, changed));
        }
    }

    /// Ends every stream that nothing carries.
    pub(in crate::sidecar) fn review_all(&self, index: &Index, now: Timestamp) {
        let tied: Vec<_> = self.by_grant.iter().flat_map(|tied| tied.values().cloned().collect::<Vec<_>>()).collect();
        tied.iter().for_each(|leash| self.end_if_gone(leash, index, now, &[]));
    }

    fn end_if_gone(&self, leash: &Leash, index: &Index, now: Timestamp, changed: &[GrantId]) {
        // How old the table is has no part in it: it has just been heard of.
        if let Err(cut) = judge(index, now, false, &leash.carriers, changed)
            && let Some(sender) = leash.cut.lock().take()
            && sender.send(cut).is_ok()
        {
            self.closed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Tied {
    pub(super) fn carriers(&self) -> &[GrantId] {
        &self.leash.carriers
    }

    /// Completes when a change of the table ends the stream; at once when it has.
    pub(super) async fn cut(&mut self) -> Cut {
        match (&mut self.cut).await {
            Ok(cut) => cut,
            // The sender is in the list that this value keeps: it is not dropped unsent.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Tied {
    fn drop(&mut self) {
        for grant in &self.leash.carriers {
            if let Some(mut tied) = self.leashes.by_grant.get_mut(grant) {
                tied.remove(&self.leash.key);
            }
            self.leashes.by_grant.remove_if(grant, |_, tied| tied.is_empty());
        }
        self.leashes.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::decision::DenyReason;
    use crate::model::grant::{Ended, Grant, Hold};
    use crate::sidecar::scene::{at, grant, table};
    use futures_util::FutureExt;

    fn id(name: &str) -> GrantId {
        GrantId::parse(name).unwrap()
    }

    fn revoked(name: &str) -> Grant {
        Grant { hold: Hold::Ended { how: Ended::Revoked, keep_until: at(900) }, ..grant(name) }
    }

    fn carriers(names: &[&str]) -> Carriers {
        names.iter().map(|name| id(name)).collect()
    }

    fn reason(tied: &mut Tied) -> Option<DenyReason> {
        tied.cut().now_or_never().map(|cut| cut.reason)
    }

    #[test]
    fn a_revoked_grant_ends_exactly_its_own_streams() {
        let table = table([grant("a"), grant("b")], 150);
        let leashes = table.leashes();
        let mut on_a: Vec<_> = (0..10).map(|_| leashes.tie(carriers(&["a"]), 100).unwrap()).collect();
        let mut on_b: Vec<_> = (0..10).map(|_| leashes.tie(carriers(&["b"]), 100).unwrap()).collect();
        table.current().unwrap().put(revoked("a"));
        table.changed(&[id("a"), id("unknown")]);
        assert!(on_a.iter_mut().all(|tied| reason(tied) == Some(DenyReason::GrantRevoked)));
        assert!(on_b.iter_mut().all(|tied| reason(tied).is_none()));
        assert_eq!((leashes.take_closed(), leashes.take_closed()), (10, 0));
        drop((on_a, on_b));
        assert!(leashes.is_empty() && leashes.by_grant.is_empty(), "nothing leaks");
    }

    #[test]
    fn a_stream_under_two_grants_lives_while_either_does() {
        let table = table([grant("a"), grant("b")], 150);
        let mut tied = table.leashes().tie(carriers(&["a", "b"]), 1).unwrap();
        assert!(table.leashes().tie(carriers(&["a"]), 1).is_none(), "bounded");
        let index = table.current().unwrap();
        index.put(revoked("a"));
        table.changed(&[id("a")]);
        assert_eq!(reason(&mut tied), None);
        index.put(revoked("b"));
        table.changed(&[id("b"), id("a")]);
        table.changed(&[id("b")]);
        assert_eq!(reason(&mut tied), Some(DenyReason::GrantRevoked));
        assert_eq!(table.leashes().take_closed(), 1, "it ends once");
    }

    #[test]
    fn a_snapshot_without_the_grant_ends_its_streams() {
        let table = table([grant("a"), grant("b")], 150);
        let mut on_a = table.leashes().tie(carriers(&["a"]), 100).unwrap();
        let mut on_b = table.leashes().tie(carriers(&["b"]), 100).unwrap();
        let index = Index::new();
        index.put(grant("b"));
        table.publish(index);
        assert_eq!((reason(&mut on_a), reason(&mut on_b)), (Some(DenyReason::NoGrant), None));
    }

    /// The stream enters itself (E) and looks up (L); the change becomes visible (V) and is reviewed (R): every order of
    /// the four that keeps each side's own.
    #[test]
    fn no_interleaving_of_opening_and_revoking_leaves_a_stream_alive() {
        for order in ["ELVR", "EVLR", "EVRL", "VELR", "VERL", "VREL"] {
            let table = table([grant("a")], 150);
            let index = table.current().unwrap();
            let (mut tied, mut refused) = (None, false);
            for step in order.chars() {
                match step {
                    'E' => tied = table.leashes().tie(carriers(&["a"]), 9),
                    'L' => refused = judge(&index, at(150), false, &carriers(&["a"]), &[]).is_err(),
                    'V' => index.put(revoked("a")),
                    _ => table.changed(&[id("a")]),
                }
            }
            let cut = reason(&mut tied.unwrap()).is_some();
            assert!(cut || refused, "{order}");
        }
    }

    #[test]
    fn threads_that_open_and_revoke_at_random_never_leave_a_stream_alive() {
        for round in 0..200 {
            let table = table([grant("a")], 150);
            let barrier = std::sync::Barrier::new(2);
            let alive = std::thread::scope(|scope| {
                scope.spawn(|| {
                    barrier.wait();
                    table.current().unwrap().put(revoked("a"));
                    table.changed(&[id("a")]);
                });
                let stream = scope.spawn(|| {
                    barrier.wait();
                    (0..round % 7).for_each(|_| std::thread::yield_now());
                    let tied = table.leashes().tie(carriers(&["a"]), 9).unwrap();
                    let index = table.current().unwrap();
                    judge(&index, at(150), false, tied.carriers(), &[]).is_ok().then_some(tied)
                });
                stream.join().unwrap()
            });
            if let Some(mut tied) = alive {
                assert!(reason(&mut tied).is_some(), "round {round}");
            }
        }
    }
}
