//! Which policies are in force, in which version, and the documents that were applied through the API.

use prost::Message;

use super::Change;
use crate::control::store::chain::Entry;
use crate::control::store::{StoreError, Table, View, keys};
use crate::wire::access::revision_to;
use crate::wire::grant::timestamp_to;
use crate::wire::store;

impl Change<'_> {
    /// Puts a policy text in force: the version it had before, or the next one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn apply_policy(
        &mut self,
        name: &str,
        digest: &str,
        text: &str,
        actor: &str,
    ) -> Result<u64, StoreError> {
        let before = self.in_force(name)?;
        let version = match self.read().policy_version(name, digest)? {
            Some(version) => version,
            None => self.read().last_policy_version(name)? + 1,
        };
        let row = store::PolicyVersion {
            name: name.to_owned(),
            version: i64::try_from(version).unwrap_or(i64::MAX),
            digest: digest.to_owned(),
            text: text.to_owned(),
            create_time: Some(timestamp_to(self.now)),
        };
        let known = self.read().policy(name, version)?.is_some();
        if !known {
            self.rows.put(
                Table::Policies,
                keys::pair(name, &keys::number(version)),
                row.encode_to_vec(),
            );
            self.rows.put(
                Table::PolicyDigests,
                keys::pair(name, digest.as_bytes()),
                keys::number(version),
            );
        }
        self.rows.put(
            Table::CurrentPolicies,
            name.as_bytes().to_vec(),
            keys::number(version),
        );
        self.audit(&Entry {
            kind: "policy.applied",
            actor,
            resource: format!("policies/{name}"),
            from: &before,
            to: &format!("v{version}"),
            reason: digest,
            traceparent: None,
        })?;
        Ok(version)
    }

    /// Takes a policy out of force.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn remove_policy(&mut self, name: &str, actor: &str) -> Result<(), StoreError> {
        let before = self.in_force(name)?;
        self.rows
            .remove(Table::CurrentPolicies, name.as_bytes().to_vec());
        self.audit(&Entry {
            kind: "policy.removed",
            actor,
            resource: format!("policies/{name}"),
            from: &before,
            to: "",
            reason: "nothing declares it any more",
            traceparent: None,
        })
    }

    /// Keeps a policy document beyond a restart. What it declares is audited where it comes into force.
    pub(crate) fn put_document(&mut self, document: &store::AppliedDocument) {
        let row = store::AppliedDocument {
            create_time: Some(timestamp_to(self.now)),
            revision: revision_to(self.revision()),
            ..document.clone()
        };
        let key = keys::pair(&row.kind, row.name.as_bytes());
        self.rows
            .put(Table::AppliedDocuments, key, row.encode_to_vec());
    }

    /// Forgets a policy document.
    pub(crate) fn remove_document(&mut self, kind: &str, name: &str) {
        self.rows
            .remove(Table::AppliedDocuments, keys::pair(kind, name.as_bytes()));
    }

    fn in_force(&self, name: &str) -> Result<String, StoreError> {
        let current = self.rows.fetch(Table::CurrentPolicies, name.as_bytes())?;
        current.map_or(Ok(String::new()), |version| {
            keys::number_of(&version).map(|version| format!("v{version}"))
        })
    }
}
