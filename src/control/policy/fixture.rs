//! `jitgate policy test`: what a set of policies is expected to say, written beside it. Each case is ruled on by the very
//! function that rules on access requests, and its calls are decided by the one that sidecars run; nothing is in force.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::load;
use super::node;
use super::problem::{Findings, Place, Problem, Severity};
use super::set::PolicySet;

mod coverage;
mod document;
mod outcome;
mod run;

pub use outcome::{Ran, Tested};

/// Where fixtures may also lie, below the policies.
const FOLDER: &str = "tests";
/// Most files of fixtures.
const FILES_MAX: usize = 1000;

/// Runs every fixture of a directory against its policies. With an error anywhere nothing is run.
pub fn test(dir: &Path) -> Tested {
    let dir = dir.to_owned();
    // Conditions are as deep as their parser allows: the same stack as for loading.
    let tested = load::on_large_stack(move || {
        let set = PolicySet::load(&dir);
        let (documents, mut problems) = read(&dir);
        let set = match set {
            Ok(set) => set,
            Err(mut found) => {
                problems.append(&mut found);
                problems.sort();
                return Tested {
                    problems,
                    ..Tested::default()
                };
            }
        };
        if documents.is_empty() && problems.is_empty() {
            problems.push(problem(
                &dir,
                "has no fixtures; write some into a *_test.yaml file or below tests/",
            ));
        }
        if !problems.is_empty() {
            return Tested {
                problems,
                ..Tested::default()
            };
        }
        run::all(&set, &documents)
    });
    tested.unwrap_or_else(|cause| Tested {
        problems: vec![problem(Path::new("."), &cause)],
        ..Tested::default()
    })
}

/// What is wrong with the fixtures of a directory.
pub(super) fn problems(dir: &Path) -> Vec<Problem> {
    let dir = dir.to_owned();
    load::on_large_stack(move || read(&dir).1)
        .unwrap_or_else(|cause| vec![problem(Path::new("."), &cause)])
}

/// A document of fixtures, and its file.
type Found = (PathBuf, document::PolicyTest);

fn read(dir: &Path) -> (Vec<Found>, Vec<Problem>) {
    let (mut documents, mut problems) = (Vec::new(), Vec::new());
    let paths = match list(dir) {
        Ok(paths) => paths,
        Err(problem) => return (documents, vec![problem]),
    };
    for path in paths {
        let mut findings = Findings::default();
        match load::read_file(&path) {
            Ok(bytes) => {
                let text = load::utf8(&bytes, &mut findings).unwrap_or_default();
                for node in node::parse(text, &mut findings) {
                    let mut of_document = Findings::default();
                    let test = document::read(&node, text, &mut of_document);
                    documents.extend(test.map(|test| (path.clone(), test)));
                    findings.0.append(&mut of_document.0);
                }
            }
            Err(cause) => findings.error(Place::FILE, "", cause),
        }
        problems.extend(findings.name(&path));
    }
    (documents, problems)
}

/// `*_test.yaml` beside the policies, and every `*.yaml` of their `tests` folder.
fn list(dir: &Path) -> Result<Vec<PathBuf>, Problem> {
    let mut paths = Vec::new();
    for (folder, all) in [(dir.to_owned(), false), (dir.join(FOLDER), true)] {
        let unreadable = |error| {
            problem(
                &folder,
                &format!("cannot be read: {error}; check its permissions"),
            )
        };
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if all && error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(unreadable(error)),
        };
        for entry in entries {
            // A file of fixtures that is not seen would pass for one whose cases hold.
            let path = entry.map_err(unreadable)?.path();
            let hidden = path
                .file_name()
                .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
            let yaml = path
                .extension()
                .is_some_and(|extension| extension == "yaml" || extension == "yml");
            if yaml && !hidden && (all || load::is_test(&path)) {
                paths.push(path);
            }
        }
    }
    paths.sort();
    if paths.len() > FILES_MAX {
        return Err(problem(
            dir,
            "has more than 1000 files of fixtures; put several documents into one file",
        ));
    }
    Ok(paths)
}

fn problem(file: &Path, cause: &str) -> Problem {
    let (path, cause) = (String::new(), cause.to_owned());
    Problem {
        file: file.to_owned(),
        place: Place::FILE,
        path,
        cause,
        severity: Severity::Error,
    }
}

#[cfg(test)]
mod tests;
