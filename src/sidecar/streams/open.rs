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
use tokio::sync::oneshot;

use super::grants::{GrantRef, GrantRefs};
use super::judge::{Termination, judge};
use crate::index::Index;
use crate::model::grant::GrantId;
use crate::model::time::Timestamp;

/// How many streams may be open.
#[derive(Debug, Clone, Copy)]
pub(in crate::sidecar) struct Room {
    all: usize,
    /// Of one grant: whoever opens streams without end leaves room for others.
    one_grant: usize,
}

impl Room {
    pub(in crate::sidecar) fn of(all: u32) -> Self {
        let all = usize::try_from(all).unwrap_or(usize::MAX);
        Self {
            all,
            one_grant: all.div_ceil(2),
        }
    }
}

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
    grants: GrantRefs,
    /// Taken by whoever ends the stream: it ends once.
    cut: Mutex<Option<oneshot::Sender<Termination>>>,
}

/// A stream's own end of its leash. Dropping it takes the stream off the list.
#[derive(Debug)]
pub(in crate::sidecar) struct StreamHandle {
    leash: Arc<Leash>,
    leashes: Arc<Leashes>,
    cut: oneshot::Receiver<Termination>,
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

    /// Whether there are any to be told of.
    pub fn any_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed) > 0
    }

    /// These could not be told after all: whoever asks next is told of them, too.
    pub fn untold(&self, closed: u64) {
        self.closed.fetch_add(closed, Ordering::Relaxed);
    }

    /// Enters a stream, unless there is no room for it.
    pub(in crate::sidecar) fn tie(
        self: &Arc<Self>,
        grants: GrantRefs,
        room: Room,
    ) -> Option<StreamHandle> {
        // The first speaks for the stream. Two that enter at once may both find the last place: no harm.
        if self.held_by(&grants.first()?.grant) >= room.one_grant {
            return None;
        }
        let place = |open: usize| (open < room.all).then_some(open + 1);
        self.open
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, place)
            .ok()?;
        let (sender, cut) = oneshot::channel();
        let key = self.next.fetch_add(1, Ordering::Relaxed);
        let leash = Arc::new(Leash {
            key,
            grants,
            cut: Mutex::new(Some(sender)),
        });
        for GrantRef { grant, .. } in &leash.grants {
            self.by_grant
                .entry(grant.clone())
                .or_default()
                .insert(key, Arc::clone(&leash));
        }
        Some(StreamHandle {
            leash,
            leashes: Arc::clone(self),
            cut,
        })
    }

    fn held_by(&self, grant: &GrantId) -> usize {
        self.by_grant.get(grant).map_or(0, |handle| handle.len())
    }

    /// Ends the streams that these changed grants were the last to carry.
    pub(in crate::sidecar) fn review(&self, index: &Index, now: Timestamp, changed: &[GrantId]) {
        for id in changed {
            // Out of the map first: judging takes locks of the table, and ending a stream wakes it.
            let handle: Vec<_> = self
                .by_grant
                .get(id)
                .map(|handle| handle.values().cloned().collect())
                .unwrap_or_default();
            handle
                .iter()
                .for_each(|leash| self.end_if_gone(leash, index, now, changed));
        }
    }

    /// Ends every stream that nothing carries.
    pub(in crate::sidecar) fn review_all(&self, index: &Index, now: Timestamp) {
        let handle: Vec<_> = self
            .by_grant
            .iter()
            .flat_map(|handle| handle.values().cloned().collect::<Vec<_>>())
            .collect();
        handle
            .iter()
            .for_each(|leash| self.end_if_gone(leash, index, now, &[]));
    }

    fn end_if_gone(&self, leash: &Leash, index: &Index, now: Timestamp, changed: &[GrantId]) {
        // How old the table is has no part in it: it has just been heard of.
        if let Err(cut) = judge(index, now, false, &leash.grants, changed)
            && let Some(sender) = leash.cut.lock().take()
            && sender.send(cut).is_ok()
        {
            self.closed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl StreamHandle {
    pub(super) fn grants(&self) -> &[GrantRef] {
        &self.leash.grants
    }

    /// Completes when a change of the table ends the stream; at once when it has.
    pub(super) async fn cut(&mut self) -> Termination {
        match (&mut self.cut).await {
            Ok(cut) => cut,
            // The sender is in the list that this value keeps: it is not dropped unsent.
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for StreamHandle {
    fn drop(&mut self) {
        for GrantRef { grant, .. } in &self.leash.grants {
            if let Some(mut handle) = self.leashes.by_grant.get_mut(grant) {
                handle.remove(&self.leash.key);
            }
            self.leashes
                .by_grant
                .remove_if(grant, |_, handle| handle.is_empty());
        }
        self.leashes.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::decision::DenyReason;
    use crate::model::grant::{End, Ended, Grant, Hold, Revision};
    use crate::model::identity::Principal;
    use crate::sidecar::fixtures::{at, grant, table};
    use futures_util::FutureExt;

    fn id(name: &str) -> GrantId {
        GrantId::parse(name).unwrap()
    }

    fn revoked(name: &str) -> Grant {
        Grant {
            hold: Hold::Ended {
                how: Ended::Revoked,
                keep_until: at(900),
            },
            ..grant(name)
        }
    }

    fn grants(names: &[&str]) -> GrantRefs {
        names
            .iter()
            .map(|name| GrantRef::parse(name).unwrap())
            .collect()
    }

    fn reason(handle: &mut StreamHandle) -> Option<DenyReason> {
        handle.cut().now_or_never().map(|cut| cut.reason)
    }

    #[test]
    fn a_revoked_grant_ends_exactly_its_own_streams() {
        let table = table([grant("a"), grant("b")], 150);
        let leashes = table.leashes();
        let mut on_a: Vec<_> = (0..10)
            .map(|_| leashes.tie(grants(&["a"]), Room::of(200)).unwrap())
            .collect();
        let mut on_b: Vec<_> = (0..10)
            .map(|_| leashes.tie(grants(&["b"]), Room::of(200)).unwrap())
            .collect();
        table.current().unwrap().put(revoked("a"));
        table.changed(&[id("a"), id("unknown")]);
        assert!(
            on_a.iter_mut()
                .all(|handle| reason(handle) == Some(DenyReason::GrantRevoked))
        );
        assert!(on_b.iter_mut().all(|handle| reason(handle).is_none()));
        assert_eq!((leashes.take_closed(), leashes.take_closed()), (10, 0));
        drop((on_a, on_b));
        assert!(
            leashes.is_empty() && leashes.by_grant.is_empty(),
            "nothing leaks"
        );
    }

    #[test]
    fn a_stream_under_two_grants_lives_while_either_does() {
        let table = table([grant("a"), grant("b")], 150);
        let mut handle = table
            .leashes()
            .tie(grants(&["a", "b"]), Room::of(1))
            .unwrap();
        assert!(
            table.leashes().tie(grants(&["a"]), Room::of(1)).is_none(),
            "bounded"
        );
        let index = table.current().unwrap();
        index.put(revoked("a"));
        table.changed(&[id("a")]);
        assert_eq!(reason(&mut handle), None);
        index.put(revoked("b"));
        table.changed(&[id("b"), id("a")]);
        table.changed(&[id("b")]);
        assert_eq!(reason(&mut handle), Some(DenyReason::GrantRevoked));
        assert_eq!(table.leashes().take_closed(), 1, "it ends once");
    }

    #[test]
    fn a_snapshot_without_the_grant_ends_its_streams() {
        let table = table([grant("a"), grant("b")], 150);
        let mut on_a = table.leashes().tie(grants(&["a"]), Room::of(200)).unwrap();
        let mut on_b = table.leashes().tie(grants(&["b"]), Room::of(200)).unwrap();
        let index = Index::new();
        index.put(grant("b"));
        table.publish(index);
        assert_eq!(
            (reason(&mut on_a), reason(&mut on_b)),
            (Some(DenyReason::NoGrant), None)
        );
    }

    #[test]
    fn one_grant_leaves_half_of_the_room_to_others() {
        let table = table([grant("a"), grant("b")], 150);
        let tie = |name| table.leashes().tie(grants(&[name]), Room::of(4));
        let mut held: Vec<_> = (0..2).map(|_| tie("a").unwrap()).collect();
        assert!(tie("a").is_none());
        held.extend((0..2).map(|_| tie("b").unwrap()));
        assert!(tie("c").is_none(), "no room at all");
        held.remove(0);
        assert!(tie("a").is_some());
    }

    #[test]
    fn a_standing_grant_declared_anew_ends_the_streams_of_the_former_declaration() {
        let standing = |revision| Grant {
            end: End::Standing,
            mod_revision: Revision(revision),
            ..grant("mesh")
        };
        let other = Principal::parse("spiffe://td.example/ns/shop/sa/other").unwrap();
        let table = table([standing(7)], 150);
        let tied_to = |grant: &Grant| {
            let grants = [GrantRef::parse(&GrantRef::of(grant).to_string()).unwrap()]
                .into_iter()
                .collect();
            table.leashes().tie(grants, Room::of(9)).unwrap()
        };
        let mut former = tied_to(&standing(7));
        table.current().unwrap().put(Grant {
            subject: other,
            ..standing(8)
        });
        let mut between_check_and_opening = tied_to(&standing(7));
        let index = table.current().unwrap();
        assert!(
            judge(
                &index,
                at(150),
                false,
                between_check_and_opening.grants(),
                &[]
            )
            .is_err()
        );
        let mut newer = tied_to(&standing(8));
        table.changed(&[id("mesh")]);
        assert_eq!(reason(&mut former), Some(DenyReason::GrantRevoked));
        assert_eq!(
            reason(&mut between_check_and_opening),
            Some(DenyReason::GrantRevoked)
        );
        assert_eq!(reason(&mut newer), None);
    }

    #[test]
    fn a_grant_with_an_end_is_the_same_through_its_changes() {
        let table = table([grant("g")], 150);
        let mut handle = table.leashes().tie(grants(&["g"]), Room::of(2)).unwrap();
        table.current().unwrap().put(Grant {
            mod_revision: Revision(99),
            ..grant("g")
        });
        table.changed(&[id("g")]);
        assert_eq!(reason(&mut handle), None);
    }

    /// The stream enters itself (E) and looks up (L); the change becomes visible (V) and is reviewed (R): every order of
    /// the four that keeps each side's own.
    #[test]
    fn no_interleaving_of_opening_and_revoking_leaves_a_stream_alive() {
        for order in ["ELVR", "EVLR", "EVRL", "VELR", "VERL", "VREL"] {
            let table = table([grant("a")], 150);
            let index = table.current().unwrap();
            let (mut handle, mut refused) = (None, false);
            for step in order.chars() {
                match step {
                    'E' => handle = table.leashes().tie(grants(&["a"]), Room::of(9)),
                    'L' => refused = judge(&index, at(150), false, &grants(&["a"]), &[]).is_err(),
                    'V' => index.put(revoked("a")),
                    _ => table.changed(&[id("a")]),
                }
            }
            let cut = reason(&mut handle.unwrap()).is_some();
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
                    let handle = table.leashes().tie(grants(&["a"]), Room::of(9)).unwrap();
                    let index = table.current().unwrap();
                    judge(&index, at(150), false, handle.grants(), &[])
                        .is_ok()
                        .then_some(handle)
                });
                stream.join().unwrap()
            });
            if let Some(mut handle) = alive {
                assert!(reason(&mut handle).is_some(), "round {round}");
            }
        }
    }
}
