//! What the command line asks about a directory of policies that is not in force.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use super::found::Text;
use super::problem::{Problem, Severity};
use super::set::{PolicySet, listed};
use super::{fixture, load, reach};

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
