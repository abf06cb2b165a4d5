//! From a directory to a set: reads every policy file, and refuses all of them when one is wrong. Reads nothing else and
//! keeps nothing open.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::support::sha256::Sha256;

use super::document::{self, Document};
use super::found::{Fingerprint, Found, Origin, PersonDocument, Places, Policy, Standing, Text};
use super::node::FILE_MAX;
use super::problem::{Findings, Place};
use super::{cross, node, split};

/// Most files in the directory.
const FILES_MAX: usize = 1000;
/// Most bytes of all files together.
const TOTAL_MAX: usize = 16 << 20;
/// Most policies and standing grants in one set.
const SET_MAX: usize = 5000;
/// Parsers recurse over what they read; this is enough for the longest condition in a debug build.
const STACK: usize = 64 << 20;

/// Reads a directory.
pub(super) fn directory(dir: &Path) -> Found {
    together(dir, &[])
}

/// Reads a directory and what lies beside it, as one set.
pub(super) fn together(dir: &Path, beside: &[Text]) -> Found {
    let (of_thread, texts) = (dir.to_owned(), beside.to_vec());
    let found = on_large_stack(move || parse(read(&of_thread).beside(texts)));
    Found {
        beside: beside_fingerprint(beside),
        ..found.unwrap_or_else(|cause| failed(dir, &cause))
    }
}

/// What the texts declare, whatever there is beside them.
pub(super) fn alone(texts: Vec<Text>) -> Found {
    parse(Source::default().beside(texts))
}

/// Of texts without a directory.
pub(super) fn beside_fingerprint(texts: &[Text]) -> Fingerprint {
    Source::default().beside(texts.to_vec()).fingerprint()
}

/// Runs what recurses over text that others wrote.
pub(super) fn on_large_stack<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    let thread = std::thread::Builder::new()
        .name("policy-load".to_owned())
        .stack_size(STACK);
    match thread.spawn(work).map(std::thread::JoinHandle::join) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(_)) => Err("makes a parser fail; remove the file changed last".to_owned()),
        Err(error) => Err(format!("cannot be loaded: no thread: {error}")),
    }
}

/// The fingerprint alone.
pub(super) fn fingerprint(dir: &Path, beside: &[Text]) -> Fingerprint {
    read(dir).beside(beside.to_vec()).fingerprint()
}

/// The policy files of a directory, read but not parsed; for sending them elsewhere.
pub(super) fn raw(dir: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>, String> {
    let source = read(dir);
    source
        .listing
        .map_err(|cause| format!("{}: {cause}", dir.display()))?;
    let whole = |file: File| {
        Ok((
            file.path.clone(),
            file.content
                .map_err(|c| format!("{}: {c}", file.path.display()))?,
        ))
    };
    source.files.into_iter().map(whole).collect()
}

fn failed(dir: &Path, cause: &str) -> Found {
    let mut findings = Findings::default();
    findings.error(Place::FILE, "", cause);
    Found {
        problems: findings.name(dir).collect(),
        ..Found::default()
    }
}

/// One policy file as bytes; or why it cannot be read.
struct File {
    path: PathBuf,
    origin: Origin,
    content: Result<Vec<u8>, String>,
}

/// Policy files, those of the directory by name.
struct Source {
    dir: PathBuf,
    files: Vec<File>,
    listing: Result<(), String>,
}

impl Default for Source {
    fn default() -> Self {
        Self {
            dir: PathBuf::new(),
            files: Vec::new(),
            listing: Ok(()),
        }
    }
}

impl Source {
    fn beside(mut self, texts: Vec<Text>) -> Self {
        let file = |Text { file, text, origin }| File {
            path: file,
            origin,
            content: Ok(text.as_bytes().to_vec()),
        };
        self.files.extend(texts.into_iter().map(file));
        self
    }

    fn fingerprint(&self) -> Fingerprint {
        let mut hash = Sha256::new();
        for file in &self.files {
            let part = match &file.content {
                Ok(bytes) => Sha256::digest(bytes),
                Err(cause) => Sha256::digest(cause),
            };
            hash.update(Sha256::digest(file.path.as_os_str().as_encoded_bytes()));
            hash.update(part);
        }
        if let Err(cause) = &self.listing {
            hash.update(cause);
        }
        Fingerprint(hash.finalize())
    }
}

fn read(dir: &Path) -> Source {
    let mut source = Source {
        dir: dir.to_owned(),
        files: Vec::new(),
        listing: Ok(()),
    };
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
        source.files.push(File {
            path,
            origin: Origin::Directory,
            content,
        });
        if total > TOTAL_MAX {
            source.listing =
                Err("holds more than 16 MiB of policy files; remove what is no policy".to_owned());
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
        let hidden = path
            .file_name()
            .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        let yaml = path
            .extension()
            .is_some_and(|extension| extension == "yaml" || extension == "yml");
        if yaml && !hidden && !is_test(&path) {
            paths.push(path);
        }
        if paths.len() > FILES_MAX {
            return Err(format!(
                "holds more than {FILES_MAX} policy files; put several documents into one file"
            ));
        }
    }
    paths.sort();
    Ok(paths)
}

/// `payments_test.yaml` holds fixtures for `policy test`, and nothing that comes into force.
pub(super) fn is_test(path: &Path) -> bool {
    path.file_stem()
        .is_some_and(|stem| stem.as_encoded_bytes().ends_with(b"_test"))
}

pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let refuse =
        |error: io::Error| format!("cannot be read: {error}; check its permissions, or remove it");
    if !fs::metadata(path).map_err(refuse)?.is_file() {
        return Err("is no regular file; move it elsewhere".to_owned());
    }
    let mut bytes = Vec::new();
    fs::File::open(path)
        .map_err(refuse)?
        .take(FILE_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(refuse)?;
    if bytes.len() > FILE_MAX {
        Err("is larger than 1 MiB; split it into several files".to_owned())
    } else {
        Ok(bytes)
    }
}

fn parse(source: Source) -> Found {
    let mut found = Found {
        fingerprint: source.fingerprint(),
        files: source.files.len(),
        ..Found::default()
    };
    let mut whole = Findings::default();
    if let Err(cause) = source.listing {
        whole.error(Place::FILE, "", cause);
    }
    for of in source.files {
        let mut findings = Findings::default();
        match &of.content {
            Ok(bytes) => file(&of, bytes, &mut findings, &mut found),
            Err(cause) => findings.error(Place::FILE, "", cause.as_str()),
        }
        found.problems.extend(findings.name(&of.path));
    }
    if found.policies.is_empty() && found.problems.is_empty() && whole.errors() == 0 {
        whole.warning(
            Place::FILE,
            "",
            "holds no access policy: nobody can ask for access; add one to a *.yaml file",
        );
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

fn file(of: &File, bytes: &[u8], findings: &mut Findings, found: &mut Found) {
    let Some(text) = utf8(bytes, findings) else {
        return;
    };
    let nodes = node::parse(text, findings);
    let written = split::documents(text);
    if of.origin != Origin::Directory && findings.errors() == 0 && written.len() != nodes.len() {
        findings.error(
            Place::FILE,
            "",
            "cannot be split into its documents; put each into a file of its own",
        );
    }
    for (index, node) in nodes.iter().enumerate() {
        let mut of_document = Findings::default();
        let read = document::read(node, text, &mut of_document);
        let written: Arc<str> = written.get(index).copied().unwrap_or_default().into();
        let origin = of.origin;
        match read {
            Some(Document::Policy(loaded)) => {
                let places = Places::of(node, loaded.name);
                found.policies.push(Policy {
                    loaded: *loaded,
                    file: of.path.clone(),
                    origin,
                    written,
                    places,
                });
            }
            Some(Document::Standing(grant, name)) => {
                found.standing.push(Standing {
                    grant: *grant,
                    file: of.path.clone(),
                    name,
                    origin,
                    written,
                });
            }
            Some(Document::Person(loaded)) => {
                found.persons.push(PersonDocument {
                    loaded: *loaded,
                    file: of.path.clone(),
                    origin,
                    written,
                });
            }
            None => {}
        }
        findings.0.append(&mut of_document.0);
    }
}

/// The text of a file, or a finding.
pub(super) fn utf8<'b>(bytes: &'b [u8], findings: &mut Findings) -> Option<&'b str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Some(text.strip_prefix('\u{feff}').unwrap_or(text)),
        Err(error) => {
            let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let line = before.iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
            let column = before
                .rsplit(|byte| *byte == b'\n')
                .next()
                .map_or(0, <[u8]>::len) as u64
                + 1;
            findings.error(
                Place { line, column },
                "",
                "is not UTF-8 text; save it as UTF-8",
            );
            None
        }
    }
}
