//! Debug of the stored messages that hold a private key: everything but that.

use std::fmt::{Debug, Formatter, Result};

use super::store;

impl Debug for store::TokenKey {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.debug_struct("TokenKey")
            .field("kid", &self.kid)
            .field("alg", &self.alg)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_private_key_is_in_debug_output() {
        let key = store::TokenKey {
            pkcs8: "s3cret".into(),
            ..Default::default()
        };
        assert!(!format!("{key:?}").contains("s3cret"));
    }
}
