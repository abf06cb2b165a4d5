//! Persons and their accounts: whoever acts by several users or workloads is one person all the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::digest::PolicyDigest;
use crate::model::identity::Principal;

/// Most accounts of one person.
pub(crate) const ACCOUNTS_MAX: usize = 64;

/// One person, as declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// Unique within a set.
    pub name: Arc<str>,
    /// SHA-256 of [`Person::canonical`].
    pub digest: PolicyDigest,
    /// The content as canonical JSON.
    pub canonical: Arc<str>,
    /// Users and workloads, each of which is this person; never a group.
    pub accounts: Vec<Principal>,
}

/// Which accounts belong together. Whoever is not listed is a person of one account.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Persons(BTreeMap<Principal, Arc<str>>);

impl Persons {
    /// Nobody has a second account.
    pub const NONE: &'static Self = &Self(BTreeMap::new());

    /// From declarations that share no account.
    pub fn new<'p>(persons: impl IntoIterator<Item = &'p Person>) -> Self {
        let accounts = |person: &'p Person| {
            person
                .accounts
                .iter()
                .map(|account| (account.clone(), Arc::clone(&person.name)))
        };
        Self(persons.into_iter().flat_map(accounts).collect())
    }

    /// The person that an account belongs to.
    pub fn of(&self, account: &Principal) -> Option<&Arc<str>> {
        self.0.get(account)
    }

    /// Whether two principals are the same person: the same account, or accounts of one person.
    pub fn same(&self, one: &Principal, other: &Principal) -> bool {
        one == other
            || self
                .of(one)
                .is_some_and(|person| self.of(other) == Some(person))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_accounts_of_one_person_are_the_same_and_two_strangers_are_not() {
        let principal = |text: &str| Principal::parse(text).unwrap();
        let (work, admin, job) = (
            principal("user:i|bob"),
            principal("user:j|bob-admin"),
            principal("spiffe://td/job"),
        );
        let accounts = vec![work.clone(), admin.clone(), job.clone()];
        let bob = Person {
            name: "bob".into(),
            digest: PolicyDigest::default(),
            canonical: "".into(),
            accounts,
        };
        let persons = Persons::new([&bob]);
        assert!(
            persons.same(&work, &admin) && persons.same(&job, &work) && persons.same(&work, &work)
        );
        assert!(!persons.same(&work, &principal("user:i|carol")));
        assert!(
            !persons.same(&principal("user:i|carol"), &principal("user:i|dora")),
            "being unlisted links nobody"
        );
        assert!(!Persons::NONE.same(&work, &admin));
    }
}
