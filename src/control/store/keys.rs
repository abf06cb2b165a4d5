//! How keys are spelled, so that their byte order is the order wanted. Principals and names hold no NUL: it separates.

use crate::model::grant::Revision;
use crate::model::time::Timestamp;

use super::StoreError;

const NUL: u8 = 0;

/// What the sweeper has to do at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DueKind {
    /// Record that a grant has expired.
    GrantEnds,
    /// Forget a tombstone.
    Forget,
    /// A pending request has waited long enough.
    RequestEnds,
    /// Forget the answer to a request id.
    Answer,
    /// Further people may review a pending request.
    Escalate,
    /// The review of broken glass has to have been written.
    ReviewDue,
    /// A grant that nobody has used ends.
    Unused,
}

impl DueKind {
    const ALL: [Self; 7] = [
        Self::GrantEnds,
        Self::Forget,
        Self::RequestEnds,
        Self::Answer,
        Self::Escalate,
        Self::ReviewDue,
        Self::Unused,
    ];

    const fn byte(self) -> u8 {
        match self {
            Self::GrantEnds => b'g',
            Self::Forget => b'f',
            Self::RequestEnds => b'r',
            Self::Answer => b'a',
            Self::Escalate => b'e',
            Self::ReviewDue => b'v',
            Self::Unused => b'u',
        }
    }

    fn parse(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.byte() == byte)
    }
}

/// `party NUL revision`; the empty party stands for all.
pub(crate) fn by_party(party: &str, revision: Revision) -> Vec<u8> {
    let mut key = party_prefix(party);
    key.extend(revision.0.to_be_bytes());
    key
}

/// Every key of one party.
pub(crate) fn party_prefix(party: &str) -> Vec<u8> {
    let mut key = party.as_bytes().to_vec();
    key.push(NUL);
    key
}

/// The revision at the end of a [`by_party`] key.
pub(crate) fn party_revision(key: &[u8]) -> Result<Revision, StoreError> {
    key.last_chunk()
        .map(|bytes| Revision(u64::from_be_bytes(*bytes)))
        .ok_or_else(|| damaged("an index key is short"))
}

/// `first NUL second`.
pub(crate) fn pair(first: &str, second: &[u8]) -> Vec<u8> {
    let mut key = party_prefix(first);
    key.extend(second);
    key
}

/// What stands before the first NUL of a [`pair`].
pub(crate) fn first(key: &[u8]) -> Result<&str, StoreError> {
    let at = key
        .iter()
        .position(|byte| *byte == NUL)
        .ok_or_else(|| damaged("an index key has no separator"))?;
    text(key.get(..at).unwrap_or_default())
}

/// What follows the first NUL of a [`pair`].
pub(crate) fn second(key: &[u8]) -> Result<&str, StoreError> {
    let at = key
        .iter()
        .position(|byte| *byte == NUL)
        .ok_or_else(|| damaged("an index key has no separator"))?;
    text(key.get(at + 1..).unwrap_or_default())
}

/// A moment, what is due then, and for what.
pub(crate) fn due(at: Timestamp, kind: DueKind, id: &[u8]) -> Vec<u8> {
    let mut key = at.as_micros().to_be_bytes().to_vec();
    key.push(kind.byte());
    key.extend(id);
    key
}

/// A moment and what came then.
pub(crate) fn arrival(at: Timestamp, id: &[u8]) -> Vec<u8> {
    let mut key = number(at.as_micros());
    key.extend(id);
    key
}

/// The parts of a [`due`] key.
pub(crate) fn due_parts(key: &[u8]) -> Result<(Timestamp, DueKind, &[u8]), StoreError> {
    let parts = key
        .split_first_chunk::<8>()
        .and_then(|(at, rest)| Some((at, rest.split_first()?)));
    let (at, (kind, id)) = parts.ok_or_else(|| damaged("a due key is short"))?;
    let kind = DueKind::parse(*kind).ok_or_else(|| damaged("a due key is of no known kind"))?;
    Ok((Timestamp::from_micros(u64::from_be_bytes(*at)), kind, id))
}

/// A number in its order.
pub(crate) fn number(value: u64) -> Vec<u8> {
    value.to_be_bytes().to_vec()
}

/// The number of a [`number`] key.
pub(crate) fn number_of(key: &[u8]) -> Result<u64, StoreError> {
    key.try_into()
        .map(u64::from_be_bytes)
        .map_err(|_| damaged("a number key has not 8 bytes"))
}

/// A key as text.
pub(crate) fn text(key: &[u8]) -> Result<&str, StoreError> {
    std::str::from_utf8(key).map_err(|_| damaged("an id is no text"))
}

fn damaged(what: &str) -> StoreError {
    StoreError::Damaged(what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_keys_is_the_order_of_revisions_and_moments() {
        assert!(by_party("a", Revision(255)) < by_party("a", Revision(256)));
        let at = |micros| due(Timestamp::from_micros(micros), DueKind::Forget, b"x");
        assert!(at(9) < at(1 << 20));
    }

    #[test]
    fn one_party_is_no_prefix_of_another() {
        let keys = [
            by_party("user:i|a", Revision(1)),
            by_party("user:i|ab", Revision(1)),
        ];
        assert!(
            keys[0].starts_with(&party_prefix("user:i|a"))
                && !keys[1].starts_with(&party_prefix("user:i|a"))
        );
    }

    #[test]
    fn keys_come_apart_again() {
        let key = due(Timestamp::from_micros(5), DueKind::RequestEnds, b"01J");
        assert_eq!(
            due_parts(&key).unwrap(),
            (Timestamp::from_micros(5), DueKind::RequestEnds, &b"01J"[..])
        );
        assert_eq!(
            (
                first(&pair("p", b"id")).unwrap(),
                second(&pair("p", b"id")).unwrap()
            ),
            ("p", "id")
        );
        assert_eq!(
            party_revision(&by_party("p", Revision(7))).unwrap(),
            Revision(7)
        );
        assert!(due_parts(b"short").is_err() && second(b"none").is_err());
    }
}
