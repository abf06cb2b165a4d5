//! Every policy and standing grant in force, as one immutable value.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::found::{Fingerprint, Found, Origin, Policy, Text};
use super::problem::Problem;
use super::{canonical, document, load};
use crate::model::policy::{AccessPolicy, Mode, Person, Persons, PolicyDigest, StandingGrant};

/// Every policy and standing grant in force, as one immutable value.
#[derive(Debug, Default)]
pub struct PolicySet {
    /// Highest priority first, then by name.
    pub(super) policies: Vec<Policy>,
    pub(super) standing: Vec<StandingGrant>,
    pub(super) documents: Vec<Listed>,
    /// By name.
    pub(super) declared: Vec<Person>,
    pub(super) persons: Persons,
    pub(super) warnings: Vec<Problem>,
    pub(super) digest: PolicyDigest,
    pub(super) fingerprint: Fingerprint,
    pub(super) beside: Fingerprint,
}

/// One document of a set: what it is called, where it stands, and what it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// `AccessPolicy`, `StandingGrant` or `Person`.
    pub kind: &'static str,
    /// Unique within its kind.
    pub name: Arc<str>,
    /// Of its meaning.
    pub digest: PolicyDigest,
    /// The file, or what stands for one.
    pub file: PathBuf,
    /// Where it comes from.
    pub origin: Origin,
    /// As it was written.
    pub written: Arc<str>,
    /// Whether it decides or grants anything.
    pub in_effect: bool,
}

impl PolicySet {
    /// Reads every `*.yaml` and `*.yml` of a directory.
    ///
    /// # Errors
    /// Every problem of every file, sorted by place; one error refuses the whole directory.
    pub fn load(dir: &Path) -> Result<Self, Vec<Problem>> {
        Self::from_found(load::directory(dir))
    }

    /// Reads a directory and what lies beside it, as one set.
    ///
    /// # Errors
    /// As [`PolicySet::load`].
    pub fn together(dir: &Path, beside: &[Text]) -> Result<Self, Vec<Problem>> {
        Self::from_found(load::together(dir, beside))
    }

    pub(super) fn from_found(found: Found) -> Result<Self, Vec<Problem>> {
        if found.has_errors() {
            return Err(found.problems);
        }
        let documents = listed(&found);
        let mut policies = found.policies;
        policies.sort_by(|a, b| {
            let (a, b) = (&a.loaded.policy, &b.loaded.policy);
            b.priority
                .cmp(&a.priority)
                .then_with(|| a.name.cmp(&b.name))
        });
        let mut standing: Vec<StandingGrant> = found
            .standing
            .into_iter()
            .map(|standing| standing.grant)
            .collect();
        standing.sort_by(|a, b| a.name.cmp(&b.name));
        let mut declared: Vec<Person> = found
            .persons
            .into_iter()
            .map(|person| person.loaded.person)
            .collect();
        declared.sort_by(|a, b| a.name.cmp(&b.name));
        let digests = policies.iter().map(|policy| policy.loaded.policy.digest);
        let digests = digests.chain(standing.iter().map(|grant| grant.digest));
        let digest = canonical::set_digest(
            digests
                .chain(declared.iter().map(|person| person.digest))
                .collect(),
        );
        let persons = Persons::new(&declared);
        let (warnings, fingerprint, beside) = (found.problems, found.fingerprint, found.beside);
        Ok(Self {
            policies,
            standing,
            documents,
            declared,
            persons,
            warnings,
            digest,
            fingerprint,
            beside,
        })
    }

    /// All policies whatever their mode, highest priority first.
    pub fn policies(&self) -> impl ExactSizeIterator<Item = &AccessPolicy> {
        self.policies.iter().map(|policy| &policy.loaded.policy)
    }

    /// The policy of that name.
    pub fn policy(&self, name: &str) -> Option<&AccessPolicy> {
        self.policies().find(|policy| &*policy.name == name)
    }

    /// The standing grants, by name.
    pub fn standing(&self) -> &[StandingGrant] {
        &self.standing
    }

    /// The persons, by name.
    pub fn declared_persons(&self) -> &[Person] {
        &self.declared
    }

    /// Whose accounts belong together.
    pub fn persons(&self) -> &Persons {
        &self.persons
    }

    /// Whether it was read together with exactly these texts.
    pub fn is_beside(&self, texts: &[Text]) -> bool {
        self.beside == load::beside_fingerprint(texts)
    }

    /// Every document, by kind and name.
    pub fn documents(&self) -> &[Listed] {
        &self.documents
    }

    /// What is hardly meant as it is written.
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    /// The digest of all policies and standing grants together, whatever files they came from.
    pub fn digest(&self) -> PolicyDigest {
        self.digest
    }
}

pub(super) fn listed(found: &Found) -> Vec<Listed> {
    let policies = found.policies.iter().map(|policy| Listed {
        kind: "AccessPolicy",
        name: Arc::clone(&policy.loaded.policy.name),
        digest: policy.loaded.policy.digest,
        file: policy.file.clone(),
        origin: policy.origin,
        written: Arc::clone(&policy.written),
        in_effect: policy.loaded.policy.mode == Mode::Enforce,
    });
    let standing = found.standing.iter().map(|standing| Listed {
        kind: "StandingGrant",
        name: Arc::clone(&standing.grant.name),
        digest: standing.grant.digest,
        file: standing.file.clone(),
        origin: standing.origin,
        written: Arc::clone(&standing.written),
        in_effect: true,
    });
    let persons = found.persons.iter().map(|person| Listed {
        kind: document::PERSON_KIND,
        name: Arc::clone(&person.loaded.person.name),
        digest: person.loaded.person.digest,
        file: person.file.clone(),
        origin: person.origin,
        written: Arc::clone(&person.written),
        in_effect: true,
    });
    let mut listed: Vec<Listed> = policies.chain(standing).chain(persons).collect();
    listed.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    listed
}
