//! The audit chain: how one event is hashed, and whether a row of them is whole. It never repairs, and never says that
//! something is in order which it has not seen.

use std::fmt;

use super::canonical::{Canonical, Hash};

/// One transition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Event {
    /// From 1, without a gap.
    pub index: u64,
    /// Seconds since the Unix epoch, and nanoseconds on top.
    pub time: (u64, u32),
    /// `grant.issued`
    pub kind: String,
    /// Who.
    pub actor: String,
    /// Of what.
    pub resource: String,
    /// State before.
    pub from: String,
    /// State after.
    pub to: String,
    /// In one sentence.
    pub reason: String,
    /// Of whatever caused it.
    pub trace_id: String,
    /// The store's.
    pub revision: u64,
    /// Before and after, field by field.
    pub changes: Vec<Difference>,
    /// The hash of the event before; none before the first.
    pub prev_hash: Vec<u8>,
    /// As it was written down.
    pub hash: Vec<u8>,
}

/// One field, before and after.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Difference {
    /// `scope.http[0].path`
    pub field: String,
    /// Empty: it was not set.
    pub before: String,
    /// Empty: it is no longer set.
    pub after: String,
}

impl Event {
    /// What its hash has to be. The encoding is that of the comment on `jitgate.v1.AuditEvent`.
    pub(crate) fn expected_hash(&self) -> Hash {
        let mut canonical = Canonical::new("jitgate.audit_event.v1");
        canonical
            .number(self.index)
            .number(self.time.0)
            .number(self.time.1.into())
            .text(&self.kind)
            .text(&self.actor)
            .text(&self.resource)
            .text(&self.from)
            .text(&self.to)
            .text(&self.reason)
            .text(&self.trace_id)
            .number(self.revision)
            .bytes(&self.prev_hash);
        if !self.changes.is_empty() {
            canonical.number(u64::try_from(self.changes.len()).unwrap_or(u64::MAX));
            for Difference {
                field,
                before,
                after,
            } in &self.changes
            {
                canonical.text(field).text(before).text(after);
            }
        }
        canonical.finish()
    }

    /// Whether its hash is its own.
    pub(crate) fn is_sealed(&self) -> bool {
        *self.hash == *self.expected_hash().as_bytes()
    }
}

/// A place in the chain, kept elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The newest event then.
    pub index: u64,
    /// Its hash.
    pub hash: Hash,
    /// The store's history; empty when that was not noted.
    pub epoch: String,
}

/// Where a chain does not hold, and what is wrong there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// The index of the first event that does not fit.
    pub index: u64,
    /// What is wrong with it.
    pub flaw: Flaw,
}

/// What is wrong with an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flaw {
    /// It is not what was hashed.
    Altered,
    /// Its hash is its own, but the event before is another than the one that it was chained to.
    NotChained,
    /// It is missing, and nothing later takes its place.
    Missing,
    /// It comes later than it should.
    OutOfOrder,
    /// It is there twice, or where none belongs.
    Inserted,
    /// It cannot be read.
    Unreadable(String),
    /// It is another than the checkpoint says: the chain up to there was written anew.
    Rewritten,
    /// The checkpoint has seen it, and the chain ends before it.
    CutOff(u64),
    /// The store says that this is its newest event, and it is not there.
    NotTheHead(u64),
    /// The checkpoint is of another store.
    OtherStore(String),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { index, flaw } = self;
        match flaw {
            Flaw::Altered => write!(
                f,
                "audit event {index} was altered: its content is not what its hash was made of"
            ),
            Flaw::NotChained => {
                let before = index.saturating_sub(1);
                write!(
                    f,
                    "audit event {index} is not chained to event {before}: one of the two was replaced"
                )
            }
            Flaw::Missing => write!(f, "audit event {index} is missing"),
            Flaw::OutOfOrder => write!(f, "audit event {index} is out of order: it comes later"),
            Flaw::Inserted => write!(
                f,
                "audit event {index} was inserted: it is there twice, or where none belongs"
            ),
            Flaw::Unreadable(why) => write!(f, "audit event {index} cannot be read: {why}"),
            Flaw::Rewritten => {
                write!(
                    f,
                    "audit event {index} is another than the checkpoint says: the chain was written anew"
                )
            }
            Flaw::CutOff(last) => {
                write!(
                    f,
                    "audit event {index} was cut off: the checkpoint has seen it, and the chain ends at {last}"
                )
            }
            Flaw::NotTheHead(last) => {
                write!(
                    f,
                    "audit event {index} is the store's newest, and the chain ends with another at {last}"
                )
            }
            Flaw::OtherStore(epoch) => {
                write!(
                    f,
                    "the checkpoint of audit event {index} is of another store: its epoch is {epoch}"
                )
            }
        }
    }
}

impl std::error::Error for Broken {}

/// What a whole chain comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verified {
    /// The first event seen; 0 when there was none.
    pub first: u64,
    /// The newest.
    pub last: u64,
    /// Its hash.
    pub hash: Hash,
    /// Checkpoints that it agrees with.
    pub checkpoints: usize,
}

/// A verification under way: every event in the order in which it is found, then [`Chain::finish`].
#[derive(Debug)]
pub(crate) struct Chain {
    from: u64,
    next: u64,
    before: Vec<u8>,
    checkpoints: Vec<Checkpoint>,
    agreed: usize,
    broken: Option<Broken>,
}

impl Chain {
    /// Expects the events from `from` on: 1, or the place at which an export was begun. Of one that was begun later, what
    /// lies before is taken on trust, unless a checkpoint speaks of it.
    pub(crate) fn new(from: u64, checkpoints: Vec<Checkpoint>) -> Self {
        let from = from.max(1);
        Self {
            from,
            next: from,
            before: Vec::new(),
            checkpoints,
            agreed: 0,
            broken: None,
        }
    }

    /// Where the chain is expected to begin.
    pub(crate) fn from(&self) -> u64 {
        self.from
    }

    /// Refuses the checkpoints of another store than the one with this epoch.
    pub(crate) fn of_store(&mut self, epoch: &str) {
        let other =
            |checkpoint: &&Checkpoint| !checkpoint.epoch.is_empty() && checkpoint.epoch != epoch;
        if let Some(checkpoint) = self.checkpoints.iter().find(other) {
            let flaw = Flaw::OtherStore(checkpoint.epoch.clone());
            self.broken = Some(Broken {
                index: checkpoint.index,
                flaw,
            });
        }
    }

    /// Takes the next event. False: it is settled that the chain is broken; what follows can only tell more about it.
    pub(crate) fn take(&mut self, event: &Event) -> bool {
        if let Some(broken) = &mut self.broken {
            // The one that was missed comes after all.
            if broken.flaw == Flaw::Missing && broken.index == event.index {
                broken.flaw = Flaw::OutOfOrder;
            }
            return broken.flaw == Flaw::Missing;
        }
        let flaw = self.flaw(event);
        let index = if flaw == Some(Flaw::Missing) {
            self.next
        } else {
            event.index
        };
        if let Some(flaw) = flaw {
            self.broken = Some(Broken { index, flaw });
            return index != event.index;
        }
        self.next += 1;
        self.before.clone_from(&event.hash);
        true
    }

    /// Notes that an event cannot be read, if nothing else is wrong yet.
    pub(crate) fn unreadable(&mut self, index: u64, why: &str) {
        self.broken.get_or_insert_with(|| Broken {
            index,
            flaw: Flaw::Unreadable(why.to_owned()),
        });
    }

    fn flaw(&mut self, event: &Event) -> Option<Flaw> {
        if event.index != self.next {
            return Some(if event.index > self.next {
                Flaw::Missing
            } else {
                Flaw::Inserted
            });
        }
        if !event.is_sealed() {
            return Some(Flaw::Altered);
        }
        let begins = self.next == self.from;
        if begins && self.from > 1 {
            // Only a checkpoint can speak of what lies before.
            let before = self.from - 1;
            let kept = self
                .checkpoints
                .iter()
                .find(|checkpoint| checkpoint.index == before);
            if kept.is_some_and(|checkpoint| *event.prev_hash != *checkpoint.hash.as_bytes()) {
                return Some(Flaw::NotChained);
            }
            self.agreed += usize::from(kept.is_some());
        } else if event.prev_hash != self.before {
            return Some(Flaw::NotChained);
        }
        for checkpoint in self
            .checkpoints
            .iter()
            .filter(|checkpoint| checkpoint.index == event.index)
        {
            if *event.hash != *checkpoint.hash.as_bytes() {
                return Some(Flaw::Rewritten);
            }
            self.agreed += 1;
        }
        None
    }

    /// The verdict. `head` is what the store itself says of its newest event, where there is a store.
    ///
    /// # Errors
    /// [`Broken`] names the first thing that is wrong.
    pub(crate) fn finish(self, head: Option<(u64, &[u8])>) -> Result<Verified, Broken> {
        if let Some(broken) = self.broken {
            return Err(broken);
        }
        let last = self.next - 1;
        if let Some(cut) = self
            .checkpoints
            .iter()
            .filter(|checkpoint| checkpoint.index > last)
            .max_by_key(|c| c.index)
        {
            return Err(Broken {
                index: cut.index,
                flaw: Flaw::CutOff(last),
            });
        }
        // A walk that began later than the head has seen nothing of the head.
        if let Some((index, hash)) = head
            && (index != last || (last >= self.from && self.before != hash))
        {
            return Err(Broken {
                index,
                flaw: Flaw::NotTheHead(last),
            });
        }
        let first = if last < self.from { 0 } else { self.from };
        // Nothing was walked when there is none.
        let hash = Hash::from_slice(&self.before).unwrap_or_default();
        Ok(Verified {
            first,
            last,
            hash,
            checkpoints: self.agreed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(length: u64) -> Vec<Event> {
        let mut before = Vec::new();
        (1..=length)
            .map(|index| {
                let mut event = Event {
                    index,
                    time: (1_700_000_000 + index, 5),
                    kind: "grant.issued".into(),
                    actor: "user:i|a".into(),
                    resource: format!("grants/{index}"),
                    to: "ACTIVE".into(),
                    revision: index,
                    changes: vec![Difference {
                        field: "state".into(),
                        before: String::new(),
                        after: "ACTIVE".into(),
                    }],
                    prev_hash: before.clone(),
                    ..Event::default()
                };
                seal(&mut event);
                before.clone_from(&event.hash);
                event
            })
            .collect()
    }

    fn seal(event: &mut Event) {
        event.hash = event.expected_hash().as_bytes().to_vec();
    }

    /// Hashes everything anew from a place on, as whoever knows the encoding could.
    fn rewrite(events: &mut [Event], from: usize) {
        for at in from..events.len() {
            events[at].index = u64::try_from(at).unwrap() + 1;
            events[at].prev_hash = at
                .checked_sub(1)
                .map(|before| events[before].hash.clone())
                .unwrap_or_default();
            seal(&mut events[at]);
        }
    }

    fn verify(events: &[Event], checkpoints: &[Checkpoint]) -> Result<Verified, Broken> {
        let mut chain = Chain::new(1, checkpoints.to_vec());
        for event in events {
            if !chain.take(event) {
                break;
            }
        }
        chain.finish(None)
    }

    fn checkpoint(events: &[Event], index: usize) -> Checkpoint {
        let hash = Hash::from_slice(&events[index - 1].hash).unwrap();
        Checkpoint {
            index: events[index - 1].index,
            hash,
            epoch: String::new(),
        }
    }

    fn flaw(events: &[Event]) -> (u64, Flaw) {
        let broken = verify(events, &[]).unwrap_err();
        (broken.index, broken.flaw)
    }

    #[test]
    fn a_whole_chain_is_whole_and_an_empty_one_too() {
        let events = chain(5);
        let verified = verify(&events, &[checkpoint(&events, 3), checkpoint(&events, 5)]).unwrap();
        assert_eq!(
            (verified.first, verified.last, verified.checkpoints),
            (1, 5, 2)
        );
        assert_eq!(verify(&[], &[]).unwrap(), Verified::default());
    }

    #[test]
    fn the_hash_is_that_of_the_documented_encoding() {
        // Written out by hand from the comment on jitgate.v1.AuditEvent.
        let mut bytes = Vec::new();
        let text = |bytes: &mut Vec<u8>, text: &str| {
            bytes.extend(u64::try_from(text.len()).unwrap().to_be_bytes());
            bytes.extend(text.as_bytes());
        };
        text(&mut bytes, "jitgate.audit_event.v1");
        bytes.extend([1_u64, 1_700_000_001, 5].map(u64::to_be_bytes).concat());
        for field in ["grant.issued", "user:i|a", "grants/1", "", "ACTIVE", "", ""] {
            text(&mut bytes, field);
        }
        bytes.extend([1_u64, 0, 1].map(u64::to_be_bytes).concat());
        for field in ["state", "", "ACTIVE"] {
            text(&mut bytes, field);
        }
        use crate::support::sha256::Sha256;
        assert_eq!(chain(1)[0].hash, Sha256::digest(&bytes).to_vec());
    }

    #[test]
    fn an_edit_of_any_field_is_found() {
        let edits: [fn(&mut Event); 12] = [
            |event| event.time.0 += 1,
            |event| event.time.1 += 1,
            |event| event.kind.push('x'),
            |event| event.actor = "user:i|b".into(),
            |event| event.resource.push('x'),
            |event| event.from.push('x'),
            |event| event.to.clear(),
            |event| event.reason.push('x'),
            |event| event.trace_id.push('x'),
            |event| event.revision += 1,
            |event| event.changes.clear(),
            |event| event.changes[0].before.push('x'),
        ];
        for edit in edits {
            let mut events = chain(5);
            edit(&mut events[2]);
            assert_eq!(flaw(&events), (3, Flaw::Altered));
        }
    }

    #[test]
    fn an_edit_with_a_new_hash_breaks_the_next_link() {
        let mut events = chain(5);
        events[2].actor = "user:i|b".into();
        seal(&mut events[2]);
        assert_eq!(flaw(&events), (4, Flaw::NotChained));
    }

    #[test]
    fn a_deletion_an_insertion_and_another_order_are_told_apart() {
        let mut events = chain(5);
        events.remove(2);
        assert_eq!(flaw(&events), (3, Flaw::Missing));
        let mut events = chain(5);
        events.remove(0);
        assert_eq!(flaw(&events), (1, Flaw::Missing));
        let mut events = chain(5);
        events.insert(3, events[2].clone());
        assert_eq!(flaw(&events), (3, Flaw::Inserted));
        let mut events = chain(5);
        events.swap(1, 3);
        assert_eq!(flaw(&events), (2, Flaw::OutOfOrder));
    }

    #[test]
    fn only_a_checkpoint_tells_a_cut_tail_and_a_chain_written_anew() {
        let events = chain(5);
        let kept = [checkpoint(&events, 4)];
        assert!(verify(&events[..3], &[]).is_ok());
        assert_eq!(
            verify(&events[..3], &kept).unwrap_err(),
            Broken {
                index: 4,
                flaw: Flaw::CutOff(3)
            }
        );
        let mut events = events;
        events[1].actor = "user:i|b".into();
        rewrite(&mut events, 1);
        assert!(verify(&events, &[]).is_ok());
        assert_eq!(
            verify(&events, &kept).unwrap_err(),
            Broken {
                index: 4,
                flaw: Flaw::Rewritten
            }
        );
    }

    #[test]
    fn a_store_that_lost_its_tail_is_told_by_its_own_head() {
        let events = chain(3);
        let mut chain = Chain::new(1, vec![]);
        events[..2]
            .iter()
            .for_each(|event| assert!(chain.take(event)));
        let head = Some((3, events[2].hash.as_slice()));
        assert_eq!(
            chain.finish(head).unwrap_err(),
            Broken {
                index: 3,
                flaw: Flaw::NotTheHead(2)
            }
        );
    }

    #[test]
    fn an_export_that_begins_later_is_tied_to_a_checkpoint_before_it() {
        let events = chain(5);
        let walk = |kept: Checkpoint| {
            let mut chain = Chain::new(3, vec![kept]);
            assert!(events[2..].iter().filter(|event| chain.take(event)).count() < 4);
            chain.finish(None)
        };
        let good = walk(checkpoint(&events, 2)).unwrap();
        assert_eq!((good.first, good.last, good.checkpoints), (3, 5, 1));
        let other = Checkpoint {
            hash: Hash::default(),
            ..checkpoint(&events, 2)
        };
        assert_eq!(
            walk(other).unwrap_err(),
            Broken {
                index: 3,
                flaw: Flaw::NotChained
            }
        );
    }

    #[test]
    fn a_checkpoint_of_another_store_proves_nothing() {
        let events = chain(2);
        let kept = Checkpoint {
            epoch: "other".into(),
            ..checkpoint(&events, 2)
        };
        let mut chain = Chain::new(1, vec![kept]);
        chain.of_store("this");
        let broken = chain.finish(None).unwrap_err();
        assert_eq!(
            broken,
            Broken {
                index: 2,
                flaw: Flaw::OtherStore("other".into())
            }
        );
    }
}
