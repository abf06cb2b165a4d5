//! SHA-256 by the library that verifies signatures too.

use aws_lc_rs::digest::{Context, SHA256, digest};

/// A hash in the making.
#[derive(Clone)]
pub(crate) struct Sha256(Context);

impl Sha256 {
    pub(crate) fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    /// Of all these bytes and no others.
    pub(crate) fn digest(bytes: impl AsRef<[u8]>) -> [u8; 32] {
        array(digest(&SHA256, bytes.as_ref()).as_ref())
    }

    pub(crate) fn update(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.update(bytes.as_ref());
    }

    pub(crate) fn finalize(self) -> [u8; 32] {
        array(self.0.finish().as_ref())
    }
}

fn array(hash: &[u8]) -> [u8; 32] {
    let mut array = [0; 32];
    // Both have 32 bytes by the definition of the hash.
    array.copy_from_slice(hash);
    array
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::hex::Hex;

    #[test]
    fn the_digest_is_that_of_the_standard_in_one_piece_and_in_several() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Hex(&Sha256::digest("abc")).to_string(), abc);
        let mut hash = Sha256::new();
        hash.update("a");
        hash.update("bc");
        assert_eq!(Hex(&hash.finalize()).to_string(), abc);
    }
}
