//! What becomes of the keys that tokens are signed with, and that a token was issued. Audit events name keys and tokens;
//! neither private keys nor tokens ever reach one.

use prost::Message;

use super::{Change, Said, StoreError, Table};
use crate::control::store::chain::Entry;
use crate::control::store::token_key::TokenKey;
use crate::jose::jit::JitClaims;

impl Change<'_> {
    /// Writes a new key: everybody gets to know it, nothing is signed with it yet.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn publish_token_key(
        &mut self,
        key: &TokenKey,
        by: &str,
        reason: &str,
    ) -> Result<(), StoreError> {
        self.put_token_key(key);
        self.audit_token_key("token_key.published", ("", key), Said { by, reason })
    }

    /// From now on tokens are signed with this key.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn sign_with(&mut self, key: &mut TokenKey, by: &str) -> Result<(), StoreError> {
        let from = key.stage().as_str();
        key.sign_since(self.now);
        self.put_token_key(key);
        self.audit_token_key(
            "token_key.signing",
            (from, key),
            Said {
                by,
                reason: "it was published for long enough",
            },
        )
    }

    /// Nothing is signed with this key any more; its private half is gone for good.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn retire_token_key(
        &mut self,
        key: &mut TokenKey,
        by: &str,
    ) -> Result<(), StoreError> {
        let from = key.stage().as_str();
        key.retire_at(self.now);
        self.put_token_key(key);
        self.audit_token_key(
            "token_key.retired",
            (from, key),
            Said {
                by,
                reason: "another key signs",
            },
        )
    }

    /// Withdraws a key: no token by it can be alive.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn remove_token_key(&mut self, key: &TokenKey, by: &str) -> Result<(), StoreError> {
        self.rows
            .remove(Table::TokenKeys, key.kid.as_bytes().to_vec());
        self.audit(&Entry {
            kind: "token_key.removed",
            actor: by,
            resource: format!("tokenKeys/{}", key.kid),
            from: key.stage().as_str(),
            to: "",
            reason: "no token by it can be alive",
            traceparent: None,
        })
    }

    /// Notes that a token was signed: which, by which key, for whom, until when.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn note_token(
        &mut self,
        claims: &JitClaims,
        kid: &str,
        traceparent: Option<&str>,
    ) -> Result<(), StoreError> {
        let JitClaims {
            id,
            workload,
            expires,
            ..
        } = claims;
        self.audit(&Entry {
            kind: "token.issued",
            actor: claims.subject.as_str(),
            resource: format!("grants/{}", claims.grant),
            from: "ACTIVE",
            to: "ACTIVE",
            reason: &format!("jti {id} by key {kid} for {workload} until {expires}"),
            traceparent,
        })
    }

    fn put_token_key(&mut self, key: &TokenKey) {
        self.rows.put(
            Table::TokenKeys,
            key.kid.as_bytes().to_vec(),
            key.to_row().encode_to_vec(),
        );
    }

    fn audit_token_key(
        &mut self,
        kind: &str,
        (from, key): (&str, &TokenKey),
        said: Said<'_>,
    ) -> Result<(), StoreError> {
        self.audit(&Entry {
            kind,
            actor: said.by,
            resource: format!("tokenKeys/{}", key.kid),
            from,
            to: key.stage().as_str(),
            reason: said.reason,
            traceparent: None,
        })
    }
}
