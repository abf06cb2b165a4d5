//! One byte string for one value: length-prefixed fields under a domain name, hashed. Two different values never share an encoding.

use std::fmt;

use crate::support::hex::Hex;
use crate::support::sha256::Sha256;

/// A SHA-256 in the making. Every field carries its length, so no field can run into the next.
#[derive(Clone)]
pub(crate) struct Canonical(Sha256);

impl Canonical {
    /// Begins an encoding; `domain` keeps different kinds of values apart.
    pub(crate) fn new(domain: &str) -> Self {
        let mut this = Self(Sha256::new());
        this.text(domain);
        this
    }

    /// Adds a text.
    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    /// Adds bytes.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.number(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        self.0.update(bytes);
        self
    }

    /// Adds a number.
    pub(crate) fn number(&mut self, number: u64) -> &mut Self {
        self.0.update(number.to_be_bytes());
        self
    }

    /// Adds a list: its length, then each text.
    pub(crate) fn list<T: AsRef<str>>(
        &mut self,
        items: impl ExactSizeIterator<Item = T>,
    ) -> &mut Self {
        self.number(u64::try_from(items.len()).unwrap_or(u64::MAX));
        for item in items {
            self.text(item.as_ref());
        }
        self
    }

    /// The hash.
    pub(crate) fn finish(self) -> Hash {
        Hash(self.0.finalize())
    }
}

impl fmt::Debug for Canonical {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Canonical")
    }
}

/// A SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Hash([u8; 32]);

impl Hash {
    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Of exactly 32 bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

/// Hexadecimal.
impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(&self.0).fmt(f)
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hash(fields: &[String]) -> Hash {
        let mut canonical = Canonical::new("test");
        for field in fields {
            canonical.text(field);
        }
        canonical.finish()
    }

    #[test]
    fn the_domain_is_part_of_the_hash() {
        assert_ne!(Canonical::new("a").finish(), Canonical::new("b").finish());
    }

    #[test]
    fn a_list_is_not_its_items_side_by_side() {
        let (mut one, mut two) = (Canonical::new("t"), Canonical::new("t"));
        one.list(["a"].iter()).list(["b"].iter());
        two.list(["a", "b"].iter()).list(std::iter::empty::<&str>());
        assert_ne!(one.finish(), two.finish());
    }

    proptest! {
        #[test]
        fn different_fields_have_different_hashes(a in proptest::collection::vec(".{0,6}", 0..4), b in proptest::collection::vec(".{0,6}", 0..4)) {
            prop_assert_eq!(a == b, hash(&a) == hash(&b));
        }
    }
}
