//! Persons: whose accounts belong together.

use std::sync::Arc;

use crate::control::policy::canonical;
use crate::control::policy::problem::Place;
use crate::control::policy::read::{Fields, Reader};
use crate::model::identity::{Principal, PrincipalKind};
use crate::model::policy::{ACCOUNTS_MAX, Person, PolicyDigest};

pub(in crate::control::policy) const KIND: &str = "Person";

/// A person, and where its name and accounts stand.
#[derive(Debug)]
pub(in crate::control::policy) struct LoadedPerson {
    pub(in crate::control::policy) person: Person,
    pub(in crate::control::policy) name: Place,
    /// One for each account, in the person's order.
    pub(in crate::control::policy) accounts: Vec<Place>,
}

impl Reader<'_> {
    pub(super) fn person(
        &mut self,
        name: Option<(Arc<str>, Place)>,
        spec: &Fields<'_>,
    ) -> Option<LoadedPerson> {
        let listed = self.required(
            spec,
            "accounts",
            "['user:https://idp.example|bob', 'spiffe://td.example/bob/laptop']",
        )?;
        let entries = self.list(&listed, ACCOUNTS_MAX);
        let account = |text: &str| match Principal::parse(text) {
            Ok(principal) if principal.kind() == PrincipalKind::Group => {
                Err("must be a user or a workload: a group is many people".to_owned())
            }
            Ok(principal) => Ok(principal),
            Err(error) => Err(error.to_string()),
        };
        let mut accounts: Vec<(Principal, Place)> = Vec::new();
        for entry in &entries {
            let Some(account) = self.parsed(entry, account) else {
                continue;
            };
            if accounts.iter().any(|(other, _)| *other == account) {
                self.error(entry, "is listed above already; remove one");
            }
            accounts.push((account, entry.place()));
        }
        if self.findings.errors() > 0 {
            return None;
        }
        let (name, place) = name?;
        let (accounts, places) = accounts.into_iter().unzip();
        let mut person = Person {
            name,
            digest: PolicyDigest::default(),
            canonical: Arc::default(),
            accounts,
        };
        canonical::seal_person(&mut person);
        Some(LoadedPerson {
            person,
            name: place,
            accounts: places,
        })
    }
}
