//! The fleet: what is known of every sidecar that watches or watched lately, and whether it enforces a revision yet.
//!
//! A sidecar is counted as enforcing only by its own acknowledgement. One that is silent is outstanding until its table
//! is too old to decide from by its own staleness bound; nothing here presumes that a lost one is harmless sooner.
//! A row belongs to the identity that was proved when it was made: another identity can neither take it over, nor
//! acknowledge in its name, nor use up its room.
//!
//! That moment, its fence, follows from the order of the stream: whatever vouches for a table after a commit comes with
//! that commit before it. So a sidecar that lacks the commit was vouched for before it at the latest, and refuses once
//! its bound has passed since then, connected or not.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::model::grant::Revision;
use crate::model::identity::Service;
use crate::model::time::Timestamp;

mod sidecar;

pub(crate) use sidecar::{
    COMES_BACK_WITHIN, Identity, Key, Outstanding, Receipt, Refusal, Sidecar, Unreported,
};

/// Rows kept, connected or not. Beyond, the identity with the most departed sidecars gives up the detail of some.
const ROWS_MAX: usize = 30_000;
/// How many rows are given up at once, so that it is seldom.
const GIVEN_UP_AT_ONCE: usize = ROWS_MAX / 10;
/// How long a sidecar that went away is remembered.
pub(crate) const FORGET_AFTER: Duration = Duration::from_hours(24);

/// How far a revision is enforced.
#[derive(Debug, Clone, Default)]
pub(crate) struct Enforcement {
    /// When the revision became visible here: what receipts are measured from.
    pub committed_at: Option<Timestamp>,
    /// Sidecars that enforce it.
    pub receipts: Vec<Receipt>,
    /// Sidecars that may still act on the state before.
    pub outstanding: Vec<Outstanding>,
    /// Sidecars that never confirmed, and whose fence has passed.
    pub fenced: Vec<Outstanding>,
    /// When the last of the outstanding ones refuses anyway, having heard nothing; absent when none is outstanding. It
    /// holds for grants with strict staleness; a grant whose last known state counts ends at its own end.
    pub fenced_by: Option<Timestamp>,
}

impl Enforcement {
    /// How many sidecars may still act on the state before.
    pub(crate) fn still(&self) -> usize {
        let each = self.outstanding.iter();
        each.map(|outstanding| 1 + outstanding.merged).sum()
    }

    /// Without the names of processes, which are nobody's business but the operator's.
    #[must_use]
    pub(crate) fn without_instances(mut self) -> Self {
        let receipts = self
            .receipts
            .iter_mut()
            .map(|receipt| &mut receipt.instance);
        let silent = self.outstanding.iter_mut().chain(&mut self.fenced);
        receipts
            .chain(silent.map(|outstanding| &mut outstanding.instance))
            .for_each(String::clear);
        self
    }
}

/// Every sidecar known.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    known: Mutex<HashMap<Key, Row>>,
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct Row {
    sidecar: Sidecar,
    /// The session that may write here; a later one of the same process takes over.
    session: u64,
}

impl Fleet {
    /// A session opens. What an earlier session of the same process acknowledged stays true.
    pub(crate) fn join(&self, key: Key, sidecar: Sidecar, session: u64) {
        let now = sidecar.last_seen;
        let mut known = self.known.lock();
        let row = match known.remove(&key) {
            Some(Row {
                sidecar: before, ..
            }) => Sidecar {
                acked: before.acked,
                applied_at: before.applied_at,
                streams_closed: before.streams_closed,
                nacks: before.nacks,
                last_nack: before.last_nack,
                sessions: before.sessions + 1,
                ..sidecar
            },
            None => Sidecar {
                sessions: 1,
                ..sidecar
            },
        };
        known.insert(
            key,
            Row {
                sidecar: row,
                session,
            },
        );
        if known.len() > ROWS_MAX {
            give_up_detail(&mut known, now);
        }
        drop(known);
        self.changed.send_replace(());
    }

    /// Changes what is known of a sidecar, if this session is still its newest.
    pub(crate) fn note(&self, key: &Key, session: u64, change: impl FnOnce(&mut Sidecar)) {
        if let Some(row) = self
            .known
            .lock()
            .get_mut(key)
            .filter(|row| row.session == session)
        {
            change(&mut row.sidecar);
        }
    }

    /// As [`Fleet::note`], and wakes whoever waits for enforcement.
    pub(crate) fn announce(&self, key: &Key, session: u64, change: impl FnOnce(&mut Sidecar)) {
        self.note(key, session, change);
        self.changed.send_replace(());
    }

    /// Forgets those long gone, and those gone whose place another process of the same sidecar has taken, once their
    /// table is too old to decide from.
    pub(crate) fn sweep(&self, now: Timestamp) {
        let mut known = self.known.lock();
        let present: HashSet<(Identity, String)> = known
            .iter()
            .filter(|(_, row)| row.sidecar.connected_since.is_some())
            .map(|(key, _)| (key.identity.clone(), key.sidecar.clone()))
            .collect();
        known.retain(|key, row| {
            let fenced = row.sidecar.fenced(now);
            let long_gone = now.since(row.sidecar.last_seen) >= FORGET_AFTER;
            let replaced = present.contains(&(key.identity.clone(), key.sidecar.clone()));
            !(fenced && (long_gone || replaced || row.sidecar.merged > 0))
        });
    }

    /// What is missing for it to be certain that nobody has used a grant of `service`, issued at `issued`, before `moment`.
    pub(crate) fn unreported(
        &self,
        service: &Service,
        issued: Timestamp,
        moment: Timestamp,
        now: Timestamp,
    ) -> Option<Unreported> {
        let known = self.known.lock();
        let sidecars = known
            .values()
            .map(|row| &row.sidecar)
            .filter(|sidecar| sidecar.watches(std::slice::from_ref(service)));
        sidecars
            .filter_map(|sidecar| sidecar.unreported(issued, moment, now))
            .reduce(Unreported::later)
    }

    /// Everything known, by name.
    pub(crate) fn list(&self) -> Vec<Sidecar> {
        let mut sidecars: Vec<_> = self
            .known
            .lock()
            .values()
            .map(|row| row.sidecar.clone())
            .collect();
        sidecars.sort_by(|a, b| {
            (&a.id, &a.identity, &a.instance).cmp(&(&b.id, &b.identity, &b.instance))
        });
        sidecars
    }

    /// How many of the connected ones refuse nothing.
    pub(crate) fn in_shadow(&self) -> usize {
        let known = self.known.lock();
        let rows = known.values();
        rows.filter(|row| row.sidecar.shadow && row.sidecar.connected_since.is_some())
            .count()
    }

    /// Wakes whenever an answer of [`Fleet::enforcement`] may have changed.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Whether one of those who watch these services may still act on the state before `revision`.
    pub(crate) fn awaits(&self, revision: Revision, services: &[Service], times: Times) -> bool {
        let known = self.known.lock();
        let mut sidecars = known.values().map(|row| &row.sidecar);
        sidecars.any(|sidecar| {
            sidecar.acked < revision
                && sidecar.fence(times.committed) >= times.now
                && sidecar.watches(services)
        })
    }

    /// How far `revision` is enforced at those who watch one of these services.
    pub(crate) fn enforcement(
        &self,
        revision: Revision,
        services: &[Service],
        times: Times,
    ) -> Enforcement {
        let known = self.known.lock();
        let mut answer = Enforcement::default();
        for sidecar in known
            .values()
            .map(|row| &row.sidecar)
            .filter(|sidecar| sidecar.watches(services))
        {
            if sidecar.acked >= revision {
                answer.receipts.push(sidecar.receipt());
                continue;
            }
            let outstanding = sidecar.outstanding(times.committed);
            if outstanding.fenced_by >= times.now {
                answer.outstanding.push(outstanding);
            } else {
                answer.fenced.push(outstanding);
            }
        }
        drop(known);
        answer
            .receipts
            .sort_by(|a, b| (&a.sidecar, &a.instance).cmp(&(&b.sidecar, &b.instance)));
        for list in [&mut answer.outstanding, &mut answer.fenced] {
            list.sort_by(|a, b| (&a.sidecar, &a.instance).cmp(&(&b.sidecar, &b.instance)));
        }
        answer.fenced_by = answer
            .outstanding
            .iter()
            .map(|outstanding| outstanding.fenced_by)
            .max();
        answer
    }
}

/// When a revision was committed, and when that is looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// Not before the commit.
    pub committed: Timestamp,
    /// The time of the look.
    pub now: Timestamp,
}

/// Makes room at the cost of the identity with the most departed sidecars. Those that refuse by themselves by now are
/// forgotten; any other is counted on in the identity's one row for all such, until the last of them must refuse: a
/// revocation would else be reported as enforced everywhere.
fn give_up_detail(known: &mut HashMap<Key, Row>, now: Timestamp) {
    let is_departed = |row: &Row| row.sidecar.connected_since.is_none() && row.sidecar.merged == 0;
    let mut departed: HashMap<&Identity, usize> = HashMap::new();
    for (key, _) in known.iter().filter(|(_, row)| is_departed(row)) {
        *departed.entry(&key.identity).or_default() += 1;
    }
    let greediest = departed.into_iter().max_by_key(|(_, rows)| *rows);
    let Some(identity) = greediest.map(|(identity, _)| identity.clone()) else {
        return;
    };
    let mut theirs: Vec<_> = known
        .iter()
        .filter(|(key, row)| key.identity == identity && is_departed(row))
        .map(|(key, row)| (!row.sidecar.fenced(now), row.sidecar.last_seen, key.clone()))
        .collect();
    theirs.sort();
    let one = Key::merged(identity);
    for (may_decide, _, key) in theirs.into_iter().take(GIVEN_UP_AT_ONCE) {
        let Some(given_up) = known.remove(&key).filter(|_| may_decide) else {
            continue;
        };
        match known.get_mut(&one) {
            Some(row) => row.sidecar.merge(given_up.sidecar),
            None => drop(known.insert(one.clone(), given_up)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::identity::Principal;
    use crate::wire::v1::ClockVerdict;

    const NOON: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);
    const SECOND: Duration = Duration::from_secs(1);
    const MS: Duration = Duration::from_millis(1);

    fn payments() -> Vec<Service> {
        vec![Service::parse("payments").unwrap()]
    }

    fn sidecar(id: &str, instance: &str) -> Sidecar {
        Sidecar {
            identity: Identity::default(),
            id: id.into(),
            instance: instance.into(),
            software: String::new(),
            services: payments(),
            max_staleness: 30 * SECOND,
            connected_since: Some(NOON),
            last_seen: NOON,
            acked: Revision(0),
            applied_at: None,
            streams_closed: 0,
            clock_offset_micros: 0,
            clock_error: Duration::ZERO,
            clock_verdict: ClockVerdict::Unspecified,
            refuses_skewed: false,
            open_leashes: 0,
            reports_nothing: false,
            shadow: false,
            last_ack: None,
            nacks: 0,
            last_nack: None,
            sessions: 0,
            merged: 0,
        }
    }

    fn of(identity: &str, sidecar: Sidecar) -> Sidecar {
        let spiffe = format!("spiffe://td/ns/shop/sa/{identity}");
        Sidecar {
            identity: Identity(Some(Principal::parse(&spiffe).unwrap())),
            ..sidecar
        }
    }

    fn key(id: &str, instance: &str) -> Key {
        Key {
            identity: Identity::default(),
            sidecar: id.into(),
            instance: instance.into(),
        }
    }

    fn join(fleet: &Fleet, sidecar: Sidecar, session: u64) {
        let key = Key {
            identity: sidecar.identity.clone(),
            ..key(&sidecar.id, &sidecar.instance)
        };
        fleet.join(key, sidecar, session);
    }

    fn leave(fleet: &Fleet, id: &str, instance: &str, session: u64, at: Timestamp) {
        fleet.announce(&key(id, instance), session, |sidecar| {
            sidecar.connected_since = None;
            sidecar.last_seen = at;
        });
    }

    /// Looked at `now` seconds after noon, committed `committed` seconds after.
    fn times(committed: u32, now: u32) -> Times {
        Times {
            committed: NOON.plus(committed * SECOND),
            now: NOON.plus(now * SECOND),
        }
    }

    fn names(list: &[Outstanding]) -> Vec<&str> {
        list.iter()
            .map(|outstanding| &*outstanding.sidecar)
            .collect()
    }

    /// What is missing at `now` for a grant issued at noon that must be used within a minute.
    fn unreported(fleet: &Fleet, now: u32) -> Option<Unreported> {
        let service = Service::parse("payments").unwrap();
        fleet.unreported(
            &service,
            NOON,
            NOON.plus(60 * SECOND),
            NOON.plus(now * SECOND),
        )
    }

    fn heard(fleet: &Fleet, id: &str, session: u64, at: u32) {
        fleet.note(&key(id, "1"), session, |sidecar| {
            sidecar.last_seen = NOON.plus(at * SECOND)
        });
    }

    #[test]
    fn nothing_is_missing_once_every_sidecar_was_heard_from_after_the_moment() {
        let fleet = Fleet::default();
        assert_eq!(unreported(&fleet, 72), None, "nobody watches");
        join(&fleet, sidecar("a", "1"), 1);
        join(
            &fleet,
            Sidecar {
                services: vec![Service::parse("other").unwrap()],
                ..sidecar("b", "1")
            },
            2,
        );
        heard(&fleet, "a", 1, 64);
        assert_eq!(
            unreported(&fleet, 72),
            Some(Unreported::Until(NOON.plus(77 * SECOND))),
            "that was too early"
        );
        heard(&fleet, "a", 1, 65);
        assert_eq!(unreported(&fleet, 72), None);
    }

    #[test]
    fn one_that_has_just_come_back_is_given_time_to_tell() {
        let fleet = Fleet::default();
        let back = NOON.plus(70 * SECOND);
        join(
            &fleet,
            Sidecar {
                connected_since: Some(back),
                last_seen: back,
                ..sidecar("a", "1")
            },
            1,
        );
        assert_eq!(
            unreported(&fleet, 72),
            Some(Unreported::Until(NOON.plus(77 * SECOND)))
        );
        heard(&fleet, "a", 1, 75);
        assert_eq!(unreported(&fleet, 77), None);
    }

    #[test]
    fn one_that_is_gone_is_waited_for_unless_it_never_held_the_grant() {
        let fleet = Fleet::default();
        join(&fleet, sidecar("a", "1"), 1);
        leave(&fleet, "a", "1", 1, NOON.plus(30 * SECOND));
        let given_up = NOON.plus(630 * SECOND);
        assert_eq!(unreported(&fleet, 629), Some(Unreported::Until(given_up)));
        assert_eq!(unreported(&fleet, 630), None);
        leave(&fleet, "a", "1", 1, NOON.minus(SECOND));
        assert_eq!(
            unreported(&fleet, 72),
            None,
            "it left before the grant was issued"
        );
    }

    #[test]
    fn one_that_never_tells_leaves_it_open_whatever_the_others_say() {
        let fleet = Fleet::default();
        join(
            &fleet,
            Sidecar {
                reports_nothing: true,
                ..sidecar("a", "1")
            },
            1,
        );
        join(&fleet, sidecar("b", "1"), 2);
        assert_eq!(unreported(&fleet, 72), Some(Unreported::Ever));
        leave(&fleet, "a", "1", 1, NOON.plus(30 * SECOND));
        assert_eq!(unreported(&fleet, 10_000), Some(Unreported::Ever));
    }

    #[test]
    fn a_silent_sidecar_is_outstanding_until_its_own_bound_has_passed_since_the_commit() {
        let fleet = Fleet::default();
        join(&fleet, sidecar("a", "1"), 1);
        let connected = fleet.enforcement(Revision(5), &payments(), times(100, 129));
        assert_eq!(
            names(&connected.outstanding),
            ["a"],
            "connected, however silent: it may still decide"
        );
        assert_eq!(connected.fenced_by, Some(NOON.plus(130 * SECOND + 30 * MS)));
        assert!(fleet.awaits(Revision(5), &payments(), times(100, 130)));
        // Nothing vouches for its table after the commit without bringing the commit.
        let late = fleet.enforcement(Revision(5), &payments(), times(100, 131));
        assert_eq!((names(&late.fenced), late.fenced_by), (vec!["a"], None));
        assert!(
            late.outstanding.is_empty() && !fleet.awaits(Revision(5), &payments(), times(100, 131))
        );
    }

    #[test]
    fn one_that_went_away_before_the_commit_is_fenced_as_much_earlier() {
        let fleet = Fleet::default();
        join(&fleet, sidecar("a", "1"), 1);
        leave(&fleet, "a", "1", 1, NOON.plus(90 * SECOND));
        let soon = fleet.enforcement(Revision(5), &payments(), times(100, 110));
        assert_eq!(soon.fenced_by, Some(NOON.plus(120 * SECOND + 30 * MS)));
        assert_eq!(
            fleet
                .enforcement(Revision(5), &payments(), times(100, 121))
                .fenced
                .len(),
            1
        );
    }

    #[test]
    fn a_sidecar_with_a_bound_of_a_day_is_not_forgotten_before_it_refuses() {
        let fleet = Fleet::default();
        join(
            &fleet,
            Sidecar {
                max_staleness: FORGET_AFTER,
                ..sidecar("a", "1")
            },
            1,
        );
        leave(&fleet, "a", "1", 1, NOON);
        fleet.sweep(NOON.plus(FORGET_AFTER));
        assert_eq!(fleet.list().len(), 1);
        fleet.sweep(NOON.plus(FORGET_AFTER + FORGET_AFTER / 100));
        assert!(fleet.list().is_empty());
    }

    #[test]
    fn a_receipt_needs_an_acknowledgement_of_that_revision_or_a_newer_one() {
        let fleet = Fleet::default();
        join(&fleet, sidecar("a", "1"), 1);
        join(&fleet, sidecar("b", "1"), 2);
        fleet.note(&key("a", "1"), 1, |sidecar| sidecar.acked = Revision(4));
        fleet.note(&key("b", "1"), 2, |sidecar| sidecar.acked = Revision(9));
        let answer = fleet.enforcement(Revision(5), &payments(), times(0, 0));
        assert_eq!(answer.receipts.len(), 1);
        assert_eq!(
            (&*answer.outstanding[0].sidecar, answer.outstanding[0].acked),
            ("a", Revision(4))
        );
        let elsewhere = [Service::parse("shop").unwrap()];
        assert!(
            fleet
                .enforcement(Revision(5), &elsewhere, times(0, 0))
                .outstanding
                .is_empty()
        );
    }

    #[test]
    fn two_processes_of_one_name_do_not_hide_each_other() {
        let fleet = Fleet::default();
        join(&fleet, sidecar("a", "old"), 1);
        join(&fleet, sidecar("a", "new"), 2);
        fleet.note(&key("a", "new"), 2, |sidecar| sidecar.acked = Revision(5));
        assert_eq!(
            fleet
                .enforcement(Revision(5), &payments(), times(0, 0))
                .outstanding
                .len(),
            1
        );
        leave(&fleet, "a", "old", 1, NOON);
        fleet.sweep(NOON.plus(29 * SECOND));
        assert_eq!(fleet.list().len(), 2, "the old process may still decide");
        fleet.sweep(NOON.plus(31 * SECOND));
        assert_eq!(fleet.list().len(), 1);
    }

    #[test]
    fn a_session_that_was_taken_over_writes_no_more() {
        let fleet = Fleet::default();
        join(&fleet, sidecar("a", "1"), 1);
        join(&fleet, sidecar("a", "1"), 2);
        leave(&fleet, "a", "1", 1, NOON);
        let known = fleet.list();
        assert!(known[0].connected_since.is_some());
        assert_eq!(known[0].sessions, 2);
    }

    /// `rows` sidecars of `identity` that declare a bound of a day, come, and leave at noon.
    fn come_and_go(fleet: &Fleet, identity: &str, rows: usize) {
        for n in 0..rows {
            let one = Sidecar {
                max_staleness: FORGET_AFTER,
                connected_since: None,
                ..sidecar(&format!("{n}"), identity)
            };
            join(fleet, of(identity, one), 1);
        }
    }

    #[test]
    fn places_that_one_identity_holds_by_what_it_declared_are_no_bound_for_another() {
        let fleet = Fleet::default();
        join(&fleet, of("modest", sidecar("m", "1")), 1);
        come_and_go(&fleet, "greedy", 2 * ROWS_MAX);
        assert!(fleet.list().len() <= ROWS_MAX);
        join(&fleet, of("modest", sidecar("n", "1")), 2);
        let modest = |row: &&Sidecar| row.identity.as_str().ends_with("modest");
        assert_eq!(fleet.list().iter().filter(modest).count(), 2);
    }

    #[test]
    fn a_sidecar_that_may_still_decide_is_counted_however_many_have_come_and_gone() {
        let fleet = Fleet::default();
        come_and_go(&fleet, "greedy", 2 * ROWS_MAX);
        let answer = fleet.enforcement(Revision(5), &payments(), times(0, 2));
        assert_eq!(answer.still(), 2 * ROWS_MAX);
        assert!(answer.fenced_by > Some(NOON.plus(FORGET_AFTER)));
        assert!(fleet.awaits(Revision(5), &payments(), times(0, 2)));
        // Once the last of them must refuse, nothing is left of it.
        fleet.sweep(NOON.plus(FORGET_AFTER + FORGET_AFTER / 100));
        assert!(fleet.list().is_empty());
    }

    #[test]
    fn those_that_refuse_by_themselves_are_forgotten_before_any_other() {
        let fleet = Fleet::default();
        let gone = |n: usize| Sidecar {
            connected_since: None,
            ..sidecar(&n.to_string(), "1")
        };
        (0..ROWS_MAX).for_each(|n| join(&fleet, gone(n), 1));
        let later = Sidecar {
            last_seen: NOON.plus(31 * SECOND),
            ..sidecar("one more", "1")
        };
        join(&fleet, later, 2);
        let known = fleet.list();
        assert_eq!(known.len(), ROWS_MAX + 1 - GIVEN_UP_AT_ONCE);
        assert!(known.iter().all(|row| row.merged == 0));
    }

    #[test]
    fn rows_of_one_name_are_kept_apart_by_identity() {
        let fleet = Fleet::default();
        join(&fleet, of("payments", sidecar("pay-1", "i")), 1);
        let other = Sidecar {
            services: vec![Service::parse("other").unwrap()],
            acked: Revision(9),
            ..sidecar("pay-1", "i")
        };
        join(&fleet, of("other", other), 2);
        let answer = fleet.enforcement(Revision(5), &payments(), times(0, 0));
        assert_eq!((answer.receipts.len(), answer.still()), (0, 1));
    }

    #[test]
    fn receipts_for_others_than_operators_name_no_process() {
        let fleet = Fleet::default();
        join(&fleet, sidecar("a", "secret"), 1);
        join(
            &fleet,
            Sidecar {
                acked: Revision(5),
                ..sidecar("b", "secret")
            },
            2,
        );
        let answer = fleet.enforcement(Revision(5), &payments(), times(0, 0));
        let shown = format!("{:?}", answer.without_instances());
        assert!(
            shown.contains("\"a\"") && shown.contains("\"b\""),
            "{shown}"
        );
        assert!(!shown.contains("secret"), "{shown}");
    }
}
