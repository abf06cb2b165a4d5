//! Policies: which file says what, and how an access request is ruled on.
//!
//! [`PolicySet::load`] reads a directory whole or refuses it whole, with every problem by file, line and column;
//! [`PolicySet::rule`] answers one access request; [`Reloader`] follows the directory. No policy is ever half in force.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::model::identity::{Principal, Service};
use crate::model::policy::{AccessPolicy, Mode, Person, Persons, PolicyDigest, StandingGrant};
use crate::model::scope::covers;
use crate::model::target::Target;
use reach::Places;

mod approval;
mod canonical;
mod condition;
mod cross;
mod document;
pub(crate) mod fixture;
mod load;
mod node;
mod problem;
mod reach;
mod read;
mod rule;
mod split;
mod watch;
mod zone;

pub(crate) use approval::{Pinned, pinned};
pub(crate) use load::{Origin, Text};
pub(crate) use problem::Place;
pub use problem::{Problem, Severity};
pub(crate) use watch::{Beside, Reloader};
pub(crate) use zone::end_within;

/// Every policy and standing grant in force, as one immutable value.
#[derive(Debug, Default)]
pub struct PolicySet {
    /// Highest priority first, then by name.
    policies: Vec<Policy>,
    standing: Vec<StandingGrant>,
    documents: Vec<Listed>,
    /// By name.
    declared: Vec<Person>,
    persons: Persons,
    warnings: Vec<Problem>,
    digest: PolicyDigest,
    fingerprint: load::Fingerprint,
    beside: load::Fingerprint,
}

#[derive(Debug)]
struct Policy {
    loaded: document::Loaded,
    file: PathBuf,
    origin: Origin,
    /// As it stands in the file.
    written: Arc<str>,
    places: Places,
}

#[derive(Debug)]
struct Standing {
    grant: StandingGrant,
    file: PathBuf,
    name: Place,
    origin: Origin,
    written: Arc<str>,
}

#[derive(Debug)]
struct PersonDocument {
    loaded: document::LoadedPerson,
    file: PathBuf,
    origin: Origin,
    written: Arc<str>,
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

    fn from_found(found: load::Found) -> Result<Self, Vec<Problem>> {
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

    /// Names of the enforced policies under which such a caller may ask for something at the service; with a target,
    /// only those whose scope covers it. Highest priority first.
    pub fn requestable(
        &self,
        caller: &[Principal],
        service: &Service,
        target: Option<&Target<'_>>,
    ) -> Vec<Arc<str>> {
        self.policies()
            .filter(|policy| policy.mode == Mode::Enforce && policy.scope.service() == service)
            .filter(|policy| rule::may_ask(policy, caller))
            .filter(|policy| target.is_none_or(|target| covers(&policy.scope, target)))
            .map(|policy| Arc::clone(&policy.name))
            .collect()
    }
}

fn listed(found: &load::Found) -> Vec<Listed> {
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

/// What `jitgate policy check` finds in a directory.
#[derive(Debug)]
pub struct Report {
    /// Errors and warnings, sorted by place.
    pub problems: Vec<Problem>,
    /// Policy files read.
    pub files: usize,
    /// The set; `None` when an error refuses it.
    pub set: Option<PolicySet>,
}

/// Checks a directory without putting it in force.
pub fn check(dir: &Path) -> Report {
    let found = load::directory(dir);
    let (files, problems) = (found.files, found.problems.clone());
    Report {
        problems,
        files,
        set: PolicySet::from_found(found).ok(),
    }
}

/// As [`check`], and beyond what loading looks for: what can never decide, and fixtures that do not read.
pub fn examine(dir: &Path) -> Report {
    let found = load::directory(dir);
    let (files, mut problems) = (found.files, found.problems.clone());
    problems.extend(reach::unreachable(&found));
    problems.extend(fixture::problems(dir));
    problems.sort();
    Report {
        problems,
        files,
        set: PolicySet::from_found(found).ok(),
    }
}

/// Kind and name of every good document of some texts.
///
/// # Errors
/// When the reader itself fails: no name is then known not to be there.
pub(crate) fn names(texts: &[Text]) -> Result<BTreeSet<(String, String)>, String> {
    let texts = texts.to_vec();
    let found = load::on_large_stack(move || load::alone(texts))?;
    Ok(listed(&found)
        .into_iter()
        .map(|document| (document.kind.to_owned(), document.name.to_string()))
        .collect())
}

/// The policy files of a directory, unparsed, by the name of each.
///
/// # Errors
/// One line about what cannot be read.
pub fn files(dir: &Path) -> Result<Vec<(String, String)>, String> {
    let text = |(path, bytes): (PathBuf, Vec<u8>)| {
        let text = String::from_utf8(bytes)
            .map_err(|_| format!("{}: is not UTF-8 text; save it as UTF-8", path.display()));
        Ok((path.display().to_string(), text?))
    };
    load::raw(dir)?.into_iter().map(text).collect()
}

impl Report {
    /// How many problems refuse the set.
    pub fn errors(&self) -> usize {
        self.problems
            .iter()
            .filter(|problem| problem.severity == Severity::Error)
            .count()
    }

    /// How many do not.
    pub fn warnings(&self) -> usize {
        self.problems.len() - self.errors()
    }
}

/// One line: what was read and how it went.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count =
            |n: usize, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
        write!(f, "{}: ", count(self.files, "file", "files"))?;
        match &self.set {
            Some(set) => write!(
                f,
                "{}, {}, {}{}; digest {}",
                count(set.policies.len(), "policy", "policies"),
                count(set.standing.len(), "standing grant", "standing grants"),
                match set.declared.len() {
                    0 => String::new(),
                    persons => count(persons, "person", "persons") + ", ",
                },
                count(self.warnings(), "warning", "warnings"),
                set.digest
            ),
            None => write!(
                f,
                "{}, {}; nothing of it would be in force",
                count(self.errors(), "error", "errors"),
                count(self.warnings(), "warning", "warnings")
            ),
        }
    }
}

#[cfg(test)]
mod tests;
