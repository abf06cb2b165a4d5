//! The fleet: what is known of every sidecar that watches or watched lately, and whether it enforces a revision yet.
//!
//! A sidecar is counted as enforcing only by its own acknowledgement. One that is silent is outstanding until its table
//! is too old to decide from by its own staleness bound; nothing here presumes that a lost one is harmless sooner.
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
use crate::wire::v1::ClockVerdict;

/// Most sidecars remembered.
pub(crate) const FLEET_MAX: usize = 10_000;
/// How long a sidecar that went away is remembered.
pub(crate) const FORGET_AFTER: Duration = Duration::from_hours(24);
/// A connected sidecar has told of a use within this time, with room to spare.
const TOLD_WITHIN: Duration = Duration::from_secs(5);
/// A sidecar that has been gone for longer than this is not waited for: what it has not told may be lost for good.
pub(crate) const COMES_BACK_WITHIN: Duration = Duration::from_mins(10);
/// Two monotonic clocks differ in rate by less than one part in this many.
const DRIFT_PARTS: u32 = 1000;

/// One sidecar process.
#[derive(Debug, Clone)]
pub(crate) struct Sidecar {
    /// Its stable name.
    pub id: String,
    /// ULID of the process.
    pub instance: String,
    /// Name and version, as it says.
    pub software: String,
    /// What it watches.
    pub services: Vec<Service>,
    /// How long after the last progress message it still decides.
    pub max_staleness: Duration,
    /// Whether a session is open, and since when.
    pub connected_since: Option<Timestamp>,
    /// When it was last heard from.
    pub last_seen: Timestamp,
    /// The revision that it enforces.
    pub acked: Revision,
    /// When it last applied a change, by its estimate of this clock.
    pub applied_at: Option<Timestamp>,
    /// Streams that it ended then.
    pub streams_closed: u32,
    /// Its wall clock minus this clock, in microseconds, as it reports.
    pub clock_offset_micros: i64,
    /// The error bound of its estimate of this clock.
    pub clock_error: Duration,
    /// What it makes of the two clocks.
    pub clock_verdict: ClockVerdict,
    /// Whether it decides nothing for as long as they disagree.
    pub refuses_skewed: bool,
    /// Running streams that it would end with their grants, as it reports.
    pub open_leashes: u32,
    /// It tells of no use that is made of grants.
    pub reports_nothing: bool,
    /// When it last answered a progress message or a change.
    pub last_ack: Option<Timestamp>,
    /// Grants that it could not enforce (and denies), and the newest complaint.
    pub nacks: u64,
    /// The newest of them.
    pub last_nack: Option<Refusal>,
    /// Sessions opened so far.
    pub sessions: u64,
}

/// A grant that a sidecar denies because it cannot enforce it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The grant.
    pub grant: String,
    /// At which revision.
    pub revision: Revision,
    /// Why, as the sidecar says.
    pub error: String,
}

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

/// A sidecar's word that a revision is enforced there.
#[derive(Debug, Clone)]
pub(crate) struct Receipt {
    /// Which sidecar.
    pub sidecar: String,
    /// Which process of it.
    pub instance: String,
    /// The revision it enforces; the one asked for or newer.
    pub revision: Revision,
    /// When it last applied a change, by its estimate of the control plane's clock.
    pub applied_at: Option<Timestamp>,
    /// Streams that it ended then.
    pub streams_closed: u32,
}

/// A sidecar that has not acknowledged yet.
#[derive(Debug, Clone)]
pub(crate) struct Outstanding {
    /// Which sidecar.
    pub sidecar: String,
    /// Which process of it.
    pub instance: String,
    /// Whether a session with it is open.
    pub connected: bool,
    /// The revision it last acknowledged.
    pub acked: Revision,
    /// When it was last heard from.
    pub last_seen: Timestamp,
    /// From here on it refuses by itself.
    pub fenced_by: Timestamp,
}

/// Why it cannot be said yet that nobody has used a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreported {
    /// A sidecar never tells.
    Ever,
    /// A sidecar may still tell; it makes no sense to look before then.
    Until(Timestamp),
}

/// Names one process of one sidecar.
pub(crate) type Key = (String, String);

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

/// Why a sidecar cannot be added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{FLEET_MAX} sidecars are connected, which is the most this control plane serves")]
pub(crate) struct Full;

impl Fleet {
    /// A session opens. What an earlier session of the same process acknowledged stays true.
    ///
    /// # Errors
    /// [`Full`] when no row can be given up for it.
    pub(crate) fn join(&self, sidecar: Sidecar, session: u64) -> Result<(), Full> {
        let key = (sidecar.id.clone(), sidecar.instance.clone());
        let mut known = self.known.lock();
        if !known.contains_key(&key)
            && known.len() >= FLEET_MAX
            && !evict_longest_gone(&mut known, sidecar.last_seen)
        {
            return Err(Full);
        }
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
        drop(known);
        self.changed.send_replace(());
        Ok(())
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
        let present: HashSet<String> = known
            .values()
            .filter(|row| row.sidecar.connected_since.is_some())
            .map(|row| row.sidecar.id.clone())
            .collect();
        known.retain(|_, row| {
            let fenced = row.sidecar.fenced(now);
            let long_gone = now.since(row.sidecar.last_seen) >= FORGET_AFTER;
            !(fenced && (long_gone || present.contains(&row.sidecar.id)))
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
            .filter(|sidecar| sidecar.services.contains(service));
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
        sidecars.sort_by(|a, b| (&a.id, &a.instance).cmp(&(&b.id, &b.instance)));
        sidecars
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

/// Gives up the row of the sidecar that has been away for the longest time, if any is away and refuses by itself. One
/// that may still decide is not forgotten: a revocation would be reported as enforced everywhere.
fn evict_longest_gone(known: &mut HashMap<Key, Row>, now: Timestamp) -> bool {
    let gone = known.iter().filter(|(_, row)| row.sidecar.fenced(now));
    let oldest = gone
        .min_by_key(|(_, row)| row.sidecar.last_seen)
        .map(|(key, _)| key.clone());
    oldest.is_some_and(|key| known.remove(&key).is_some())
}

impl Unreported {
    fn later(self, other: Self) -> Self {
        match (self, other) {
            (Self::Until(one), Self::Until(other)) => Self::Until(one.max(other)),
            (Self::Ever, _) | (_, Self::Ever) => Self::Ever,
        }
    }
}

impl Sidecar {
    /// What was used leaves within a second or two, in the same stream as the words by which it is heard from.
    fn unreported(
        &self,
        issued: Timestamp,
        moment: Timestamp,
        now: Timestamp,
    ) -> Option<Unreported> {
        let held = self.connected_since.is_some() || self.last_seen >= issued;
        match self.connected_since {
            _ if !held => None,
            _ if self.reports_nothing => Some(Unreported::Ever),
            Some(since) => {
                let complete = self.last_seen >= moment.max(since).plus(TOLD_WITHIN);
                (!complete).then(|| Unreported::Until(now.plus(TOLD_WITHIN)))
            }
            None => {
                let given_up = self.last_seen.plus(COMES_BACK_WITHIN);
                (now < given_up).then_some(Unreported::Until(given_up))
            }
        }
    }

    fn watches(&self, services: &[Service]) -> bool {
        self.services
            .iter()
            .any(|service| services.contains(service))
    }

    /// From when on it cannot decide from a table that lacks what was committed at `committed`. Nothing sent after the
    /// session ended can have reached it either, and `last_seen` is not before that end.
    fn fence(&self, committed: Timestamp) -> Timestamp {
        let vouched = match self.connected_since {
            Some(_) => committed,
            None => committed.min(self.last_seen),
        };
        // Its clock and this one may run at rates that differ by a little.
        vouched.plus(self.max_staleness + self.max_staleness / DRIFT_PARTS)
    }

    /// Whether it has been away for so long that it can no longer decide from its table.
    fn fenced(&self, now: Timestamp) -> bool {
        self.connected_since.is_none() && now > self.fence(self.last_seen)
    }

    fn receipt(&self) -> Receipt {
        Receipt {
            sidecar: self.id.clone(),
            instance: self.instance.clone(),
            revision: self.acked,
            applied_at: self.applied_at,
            streams_closed: self.streams_closed,
        }
    }

    fn outstanding(&self, committed: Timestamp) -> Outstanding {
        Outstanding {
            sidecar: self.id.clone(),
            instance: self.instance.clone(),
            connected: self.connected_since.is_some(),
            acked: self.acked,
            last_seen: self.last_seen,
            fenced_by: self.fence(committed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);
    const SECOND: Duration = Duration::from_secs(1);
    const MS: Duration = Duration::from_millis(1);

    fn payments() -> Vec<Service> {
        vec![Service::parse("payments").unwrap()]
    }

    fn sidecar(id: &str, instance: &str) -> Sidecar {
        Sidecar {
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
            last_ack: None,
            nacks: 0,
            last_nack: None,
            sessions: 0,
        }
    }

    fn key(id: &str, instance: &str) -> Key {
        (id.into(), instance.into())
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
        fleet.join(sidecar("a", "1"), 1).unwrap();
        fleet
            .join(
                Sidecar {
                    services: vec![Service::parse("other").unwrap()],
                    ..sidecar("b", "1")
                },
                2,
            )
            .unwrap();
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
        fleet
            .join(
                Sidecar {
                    connected_since: Some(back),
                    last_seen: back,
                    ..sidecar("a", "1")
                },
                1,
            )
            .unwrap();
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
        fleet.join(sidecar("a", "1"), 1).unwrap();
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
        fleet
            .join(
                Sidecar {
                    reports_nothing: true,
                    ..sidecar("a", "1")
                },
                1,
            )
            .unwrap();
        fleet.join(sidecar("b", "1"), 2).unwrap();
        assert_eq!(unreported(&fleet, 72), Some(Unreported::Ever));
        leave(&fleet, "a", "1", 1, NOON.plus(30 * SECOND));
        assert_eq!(unreported(&fleet, 10_000), Some(Unreported::Ever));
    }

    #[test]
    fn a_silent_sidecar_is_outstanding_until_its_own_bound_has_passed_since_the_commit() {
        let fleet = Fleet::default();
        fleet.join(sidecar("a", "1"), 1).unwrap();
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
        fleet.join(sidecar("a", "1"), 1).unwrap();
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
        fleet
            .join(
                Sidecar {
                    max_staleness: FORGET_AFTER,
                    ..sidecar("a", "1")
                },
                1,
            )
            .unwrap();
        leave(&fleet, "a", "1", 1, NOON);
        fleet.sweep(NOON.plus(FORGET_AFTER));
        assert_eq!(fleet.list().len(), 1);
        fleet.sweep(NOON.plus(FORGET_AFTER + FORGET_AFTER / 100));
        assert!(fleet.list().is_empty());
    }

    #[test]
    fn a_receipt_needs_an_acknowledgement_of_that_revision_or_a_newer_one() {
        let fleet = Fleet::default();
        fleet.join(sidecar("a", "1"), 1).unwrap();
        fleet.join(sidecar("b", "1"), 2).unwrap();
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
        fleet.join(sidecar("a", "old"), 1).unwrap();
        fleet.join(sidecar("a", "new"), 2).unwrap();
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
        fleet.join(sidecar("a", "1"), 1).unwrap();
        fleet.join(sidecar("a", "1"), 2).unwrap();
        leave(&fleet, "a", "1", 1, NOON);
        let known = fleet.list();
        assert!(known[0].connected_since.is_some());
        assert_eq!(known[0].sessions, 2);
    }

    #[test]
    fn the_fleet_is_bounded_and_gives_up_the_longest_gone_first() {
        let fleet = Fleet::default();
        for n in 0..FLEET_MAX {
            fleet.join(sidecar(&n.to_string(), "1"), n as u64).unwrap();
        }
        assert_eq!(fleet.join(sidecar("one more", "1"), 1), Err(Full));
        leave(&fleet, "7", "1", 7, NOON);
        leave(&fleet, "8", "1", 8, NOON.plus(SECOND));
        let after = |seconds: u32| Sidecar {
            last_seen: NOON.plus(seconds * SECOND),
            ..sidecar("one more", "1")
        };
        assert_eq!(
            fleet.join(after(2), 1),
            Err(Full),
            "those who left may still decide"
        );
        assert_eq!(
            fleet
                .enforcement(Revision(5), &payments(), times(0, 2))
                .outstanding
                .len(),
            FLEET_MAX
        );
        fleet.join(after(32), 1).unwrap();
        assert!(fleet.list().iter().all(|sidecar| sidecar.id != "7"));
        fleet.sweep(NOON.plus(FORGET_AFTER + 2 * SECOND));
        assert_eq!(
            fleet.list().len(),
            FLEET_MAX - 1,
            "the other one that left is forgotten, the connected ones are not"
        );
    }
}
