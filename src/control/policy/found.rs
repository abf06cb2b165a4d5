//! What a reading of policy files has found: documents with their places, and problems.

use std::path::PathBuf;
use std::sync::Arc;

use super::document::{Loaded, LoadedPerson};
use super::node::{Node, Value};
use super::problem::{Place, Problem, Severity};
use crate::model::policy::StandingGrant;

/// What the bytes of a directory's policy files add up to. Tells whether anything changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Fingerprint(pub(super) [u8; 32]);

/// Everything found in a directory.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) policies: Vec<Policy>,
    pub(super) standing: Vec<Standing>,
    pub(super) persons: Vec<PersonDocument>,
    /// Sorted by file and place.
    pub(super) problems: Vec<Problem>,
    pub(super) files: usize,
    pub(super) fingerprint: Fingerprint,
    /// Of what lies beside the directory, alone.
    pub(super) beside: Fingerprint,
}

impl Found {
    pub(super) fn has_errors(&self) -> bool {
        self.problems
            .iter()
            .any(|problem| problem.severity == Severity::Error)
    }
}

/// Where a file comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The policy directory.
    Directory,
    /// Applied earlier, and kept in the store.
    Applied,
    /// Offered now.
    Offered,
}

/// A file that lies in no directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// What problems call it.
    pub file: PathBuf,
    /// Its YAML.
    pub text: Arc<str>,
    /// Where it comes from.
    pub origin: Origin,
}

#[derive(Debug)]
pub(super) struct Policy {
    pub(super) loaded: Loaded,
    pub(super) file: PathBuf,
    pub(super) origin: Origin,
    /// As it stands in the file.
    pub(super) written: Arc<str>,
    pub(super) places: Places,
}

#[derive(Debug)]
pub(super) struct Standing {
    pub(super) grant: StandingGrant,
    pub(super) file: PathBuf,
    pub(super) name: Place,
    pub(super) origin: Origin,
    pub(super) written: Arc<str>,
}

#[derive(Debug)]
pub(super) struct PersonDocument {
    pub(super) loaded: LoadedPerson,
    pub(super) file: PathBuf,
    pub(super) origin: Origin,
    pub(super) written: Arc<str>,
}

/// Where the parts of a policy stand that are spoken of here.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    pub(super) name: Place,
    pub(super) approval: Place,
    pub(super) wildcard: Place,
}

impl Places {
    pub(super) fn of(document: &Node, name: Place) -> Self {
        let spec = entry(document, "spec");
        let place = |field| {
            spec.and_then(|spec| entry(spec, field))
                .map_or(name, |node| node.place)
        };
        Self {
            name,
            approval: place("approval"),
            wildcard: place("allowWildcard"),
        }
    }
}

fn entry<'n>(node: &'n Node, field: &str) -> Option<&'n Node> {
    let Value::Map(entries) = &node.value else {
        return None;
    };
    let is_named = |key: &Node| matches!(&key.value, Value::Text(text) if text == field);
    entries
        .iter()
        .find(|(key, _)| is_named(key))
        .map(|(_, value)| value)
}
