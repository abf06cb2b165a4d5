//! From a directory to a set: reads every policy file, and refuses all of them when one is wrong. Reads nothing else and
//! keeps nothing open.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::document::{self, Document, LoadedPerson};
use super::problem::{Findings, Place, Problem, Severity};
use super::{Standing, cross, node};
use crate::control::policy::Policy;

/// Largest file, in bytes.
pub(super) const FILE_MAX: usize = 1 << 20;
/// Most files in the directory.
const FILES_MAX: usize = 1000;
/// Most bytes of all files together.
const TOTAL_MAX: usize = 16 << 20;
/// Most policies and standing grants in one set.
const SET_MAX: usize = 5000;
/// Parsers recurse over what they read; this is enough for the longest condition in a debug build.
const STACK: usize = 64 << 20;

/// What the bytes of a directory's policy files add up to. Tells whether anything changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Fingerprint([u8; 32]);

/// Everything found in a directory.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) policies: Vec<Policy>,
    pub(super) standing: Vec<Standing>,
    pub(super) persons: Vec<(LoadedPerson, PathBuf)>,
    /// Sorted by file and place.
    pub(super) problems: Vec<Problem>,
    pub(super) files: usize,
    pub(super) fingerprint: Fingerprint,
}

impl Found {
    pub(super) fn has_errors(&self) -> bool {
        self.problems.iter().any(|problem| problem.severity == Severity::Error)
    }
}

/// Reads a directory.
pub(super) fn directory(dir: &Path) -> Found {
    let dir_of_thread = dir.to_owned();
    let thread = std::thread::Builder::new().name("policy-load".to_owned()).stack_size(STACK);
    let found = thread.spawn(move || parse(read(&dir_of_thread))).map(std::thread::JoinHandle::join);
    match found {
        Ok(Ok(found)) => found,
        Ok(Err(_)) => failed(dir, "makes a parser fail; remove the file changed last"),
        Err(error) => failed(dir, &format!("cannot be loaded: no thread: {error}")),
    }
}

/// The fingerprint alone.
pub(super) fn fingerprint(dir: &Path) -> Fingerprint {
    read(dir).fingerprint()
}

fn failed(dir: &Path, cause: &str) -> Found {
    let mut findings = Findings::default();
    findings.error(Place::FILE, "", cause);
    Found { problems: findings.name(dir).collect(), ..Found::default() }
}

/// The directory's policy files as bytes, by name; or why one cannot be read.
struct Source {
    dir: PathBuf,
    files: BTreeMap<PathBuf, Result<Vec<u8>, String>>,
    listing: Result<(), String>,
}

impl Source {
    fn fingerprint(&self) -> Fingerprint {
        let mut hash = Sha256::new();
        for (path, content) in &self.files {
            let part = match content {
                Ok(bytes) => Sha256::digest(bytes),
                Err(cause) => Sha256::digest(cause),
            };
            hash.update(Sha256::digest(path.as_os_str().as_encoded_bytes()));
            hash.update(part);
        }
        if let Err(cause) = &self.listing {
            hash.update(cause);
        }
        Fingerprint(hash.finalize().into())
    }
}

fn read(dir: &Path) -> Source {
    let mut source = Source { dir: dir.to_owned(), files: BTreeMap::new(), listing: Ok(()) };
    let paths = match list(dir) {
        Ok(paths) => paths,
        Err(cause) => {
            source.listing = Err(cause);
            return source;
        }
    };
    let mut total = 0;
    for path in paths {
        let content = read_file(&path);
        total += content.as_ref().map_or(0, Vec::len);
        source.files.insert(path, content);
        if total > TOTAL_MAX {
            source.listing = Err("holds more than 16 MiB of policy files; remove what is no policy".to_owned());
            break;
        }
    }
    source
}

/// The `*.yaml` and `*.yml` of the directory itself, hidden ones left out.
fn list(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let refuse = |error: io::Error| {
        if error.kind() == io::ErrorKind::NotFound {
            "is not there; create it, or name another with --policies".to_owned()
        } else if error.kind() == io::ErrorKind::NotADirectory {
            "is no directory; name the one that holds the policy files".to_owned()
        } else {
            format!("cannot be read: {error}; check its permissions")
        }
    };
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(refuse)? {
        let path = entry.map_err(refuse)?.path();
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        let yaml = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        if yaml && !hidden {
            paths.push(path);
        }
        if paths.len() > FILES_MAX {
            return Err(format!("holds more than {FILES_MAX} policy files; put several documents into one file"));
        }
    }
    Ok(paths)
}

fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let refuse = |error: io::Error| format!("cannot be read: {error}; check its permissions, or remove it");
    if !fs::metadata(path).map_err(refuse)?.is_file() {
        return Err("is no regular file; move it elsewhere".to_owned());
    }
    let mut bytes = Vec::new();
    fs::File::open(path).map_err(refuse)?.take(FILE_MAX as u64 + 1).read_to_end(&mut bytes).map_err(refuse)?;
    if bytes.len() > FILE_MAX { Err("is larger than 1 MiB; split it into several files".to_owned()) } else { Ok(bytes) }
}

fn parse(source: Source) -> Found {
    let mut found = Found { fingerprint: source.fingerprint(), files: source.files.len(), ..Found::default() };
    let mut whole = Findings::default();
    if let Err(cause) = source.listing {
        whole.error(Place::FILE, "", cause);
    }
    for (path, content) in source.files {
        let mut findings = Findings::default();
        match content {
            Ok(bytes) => file(&path, &bytes, &mut findings, &mut found),
            Err(cause) => findings.error(Place::FILE, "", cause),
        }
        found.problems.extend(findings.name(&path));
    }
    if found.policies.is_empty() && found.problems.is_empty() && whole.errors() == 0 {
        whole.warning(Place::FILE, "", "holds no access policy: nobody can ask for access; add one to a *.yaml file");
    }
    if found.policies.len() + found.standing.len() + found.persons.len() > SET_MAX {
        whole.error(
            Place::FILE,
            "",
            format!("holds more than {SET_MAX} documents; one policy can name many requesters"),
        );
    } else {
        cross::check(&mut found);
    }
    found.problems.extend(whole.name(&source.dir));
    found.problems.sort();
    found
}

fn file(path: &Path, bytes: &[u8], findings: &mut Findings, found: &mut Found) {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
        Err(error) => {
            let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let line = before.iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
            let column = before.rsplit(|byte| *byte == b'\n').next().map_or(0, <[u8]>::len) as u64 + 1;
            findings.error(Place { line, column }, "", "is not UTF-8 text; save it as UTF-8");
            return;
        }
    };
    for node in node::parse(text, findings) {
        let mut of_document = Findings::default();
        match document::read(&node, text, &mut of_document) {
            Some(Document::Policy(loaded)) => found.policies.push(Policy { loaded: *loaded, file: path.to_owned() }),
            Some(Document::Standing(grant, name)) => {
                found.standing.push(Standing { grant: *grant, file: path.to_owned(), name });
            }
            Some(Document::Person(loaded)) => found.persons.push((*loaded, path.to_owned())),
            None => {}
        }
        findings.0.append(&mut of_document.0);
    }
}
