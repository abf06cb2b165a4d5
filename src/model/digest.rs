//! Table digest: tells two copies of a table apart. Order does not matter, and one entry is added or taken out in constant time.

use std::fmt;

use crate::support::hex::Hex;
use crate::support::sha256::Sha256;

/// What one entry adds to the digest of its table: the SHA-256 of its bytes, as four 64-bit lanes.
///
/// Whoever keeps it beside the entry can take the entry out again without its bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct EntryMark([u64; 4]);

impl EntryMark {
    /// Of an entry's bytes, exactly as they travel.
    pub fn of(entry: &[u8]) -> Self {
        let hash = Sha256::digest(entry);
        let mut lanes = [0; 4];
        for (lane, chunk) in lanes.iter_mut().zip(hash.chunks_exact(8)) {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(chunk);
            *lane = u64::from_le_bytes(bytes);
        }
        Self(lanes)
    }
}

/// The sum (four 64-bit lanes, wrapping) of the marks of every entry.
///
/// It finds divergence by accident. Both ends are authenticated; it is no defence against a forger of entries.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct TableDigest([u64; 4]);

impl TableDigest {
    /// Length in bytes.
    pub const LEN: usize = 32;

    /// Adds one entry.
    pub fn add(&mut self, entry: EntryMark) {
        for (lane, value) in self.0.iter_mut().zip(entry.0) {
            *lane = lane.wrapping_add(value);
        }
    }

    /// Takes one entry out again.
    pub fn remove(&mut self, entry: EntryMark) {
        for (lane, value) in self.0.iter_mut().zip(entry.0) {
            *lane = lane.wrapping_sub(value);
        }
    }

    /// The digest of two disjoint tables together.
    #[must_use]
    pub fn join(mut self, other: Self) -> Self {
        for (lane, value) in self.0.iter_mut().zip(other.0) {
            *lane = lane.wrapping_add(value);
        }
        self
    }

    /// As bytes, little-endian lanes in order.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        for (chunk, lane) in bytes.chunks_exact_mut(8).zip(self.0) {
            chunk.copy_from_slice(&lane.to_le_bytes());
        }
        bytes
    }
}

impl fmt::Debug for EntryMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|lane| Hex(&lane.to_le_bytes()).fmt(f))
    }
}

/// Hexadecimal.
impl fmt::Display for TableDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(&self.to_bytes()).fmt(f)
    }
}

impl fmt::Debug for TableDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_does_not_matter_and_removal_undoes() {
        let (a, b) = (EntryMark::of(b"a"), EntryMark::of(b"b"));
        let (mut ab, mut ba) = (TableDigest::default(), TableDigest::default());
        ab.add(a);
        ab.add(b);
        ba.add(b);
        ba.add(a);
        assert_eq!(ab, ba);
        assert_ne!(ab, TableDigest::default());
        ab.remove(b);
        ab.remove(a);
        assert_eq!(ab, TableDigest::default());
    }

    #[test]
    fn an_entry_twice_is_not_an_entry_never() {
        let mut twice = TableDigest::default();
        twice.add(EntryMark::of(b"a"));
        twice.add(EntryMark::of(b"a"));
        assert_ne!(twice, TableDigest::default());
    }

    #[test]
    fn the_digest_of_two_tables_together_is_their_sum() {
        let (mut one, mut other, mut both) = Default::default();
        TableDigest::add(&mut one, EntryMark::of(b"a"));
        TableDigest::add(&mut other, EntryMark::of(b"b"));
        TableDigest::add(&mut both, EntryMark::of(b"b"));
        both.add(EntryMark::of(b"a"));
        assert_eq!(one.join(other), both);
    }
}
