//! The shape of the source tree, checked: every file says what it is, is reached by a `mod`, stays small, and imports only
//! downwards and never in a circle.

#![expect(clippy::unwrap_used, reason = "a failing test panics")]
#![expect(
    clippy::indexing_slicing,
    reason = "a test that reads past the end panics"
)]

#[path = "source_tree/imports.rs"]
mod imports;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use imports::{Imports, paths_from};

const PRODUCTION_LINES_MAX: usize = 500;

/// Parts that any role may use; none of them may know a role.
const LEAVES: &[&str] = &[
    "index",
    "jose",
    "clock",
    "runtime",
    "telemetry",
    "admin",
    "admission",
    "tls",
];
const ROLES: &[&str] = &["sidecar", "control", "cli", "dev"];

/// The folders of `src/control/`: each knows those of a lower number, and none beside or above it.
const CONTROL_FLOORS: &[(&str, u8)] = &[
    ("metrics", 0),
    ("store", 1),
    ("policy", 1),
    ("fanout", 2),
    ("lifecycle", 3),
    ("query", 4),
    ("policies", 4),
    ("keys", 4),
    ("tokens", 5),
    ("api", 6),
    ("config", 7),
    ("open", 7),
    ("probes", 7),
];

/// Parts with circles that are still to be opened, for a reason that stands beside each. A part without any does not belong
/// here.
const CIRCLES_LEFT: &[&str] = &[];

/// Files that are still too long, for a reason that stands beside each.
const LONG_LEFT: &[&str] = &[];

/// Doors of the library that nothing outside uses, for a reason that stands beside each.
const DOORS_LEFT: &[&str] = &[];

struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    /// `src/control/store.rs` -> `control`; of another package its name.
    fn part(&self) -> &str {
        let inside = self.path.strip_prefix(root()).unwrap();
        let mut folders = inside.iter().map(|folder| folder.to_str().unwrap());
        let (Some(_), Some(first)) = (folders.next(), folders.next()) else {
            return "";
        };
        first.trim_end_matches(".rs")
    }

    /// Every line that is compiled for more than tests.
    fn lines(&self) -> impl Iterator<Item = &str> {
        let mut inside = false;
        let mut lines = self.text.lines().peekable();
        std::iter::from_fn(move || {
            loop {
                let line = lines.next()?;
                let opens = |next: &&str| next.starts_with("mod ") && next.ends_with('{');
                inside |= line == "#[cfg(test)]" && lines.peek().is_some_and(opens);
                if !inside {
                    return Some(line);
                }
                inside = line != "}";
            }
        })
    }

    /// The same without comments.
    fn production(&self) -> String {
        let code = |line: &&str| !line.trim_start().starts_with("//");
        self.lines().filter(code).collect::<Vec<_>>().join("\n")
    }

    fn is_tests(&self) -> bool {
        self.path
            .strip_prefix(root())
            .unwrap()
            .iter()
            .any(|part| part == "tests")
            || self.path.ends_with("tests.rs")
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The source folders: this package's, and those of the packages beside it.
fn packages() -> Vec<PathBuf> {
    let mut found = vec![root().join("src")];
    if let Ok(packages) = fs::read_dir(root().join("crates")) {
        found.extend(packages.map(|package| package.unwrap().path().join("src")));
    }
    found
}

fn below(folder: &Path) -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(Source {
                    text: fs::read_to_string(&path).unwrap(),
                    path,
                });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn sources() -> Vec<Source> {
    let found: Vec<Source> = packages()
        .iter()
        .flat_map(|package| below(package))
        .collect();
    assert!(
        found.len() > 20,
        "the walk found only {} files",
        found.len()
    );
    found
}

/// The import graph of each package, without its programs, which are above all of it.
static IMPORTS: LazyLock<BTreeMap<PathBuf, Imports>> = LazyLock::new(|| {
    let packages = packages().into_iter();
    packages
        .map(|package| (package.clone(), read_imports(&package)))
        .collect()
});

fn imports() -> &'static Imports {
    &IMPORTS[&root().join("src")]
}

fn read_imports(package: &Path) -> Imports {
    let sources: Vec<(String, String)> = below(package)
        .into_iter()
        .map(|source| {
            let file = source.path.strip_prefix(package).unwrap();
            (file.to_str().unwrap().to_owned(), source.text)
        })
        .filter(|(file, _)| !file.starts_with("bin/"))
        .collect();
    Imports::of(
        sources
            .iter()
            .map(|(file, text)| (file.as_str(), text.as_str())),
    )
}

/// `control/store.rs` -> `control`
fn part_of(file: &str) -> &str {
    let first = file.split('/').next().unwrap_or_default();
    first.trim_end_matches(".rs")
}

/// Every breach, one a line; the test fails with all of them.
fn report(breaches: &[String]) {
    assert!(breaches.is_empty(), "\n{}", breaches.join("\n"));
}

#[test]
fn every_file_opens_with_what_it_is() {
    let everywhere = ["tests", "benches", "examples"].map(|folder| root().join(folder));
    let beside = everywhere.iter().filter(|folder| folder.is_dir());
    let beside = beside.flat_map(|folder| below(folder));
    let breaches = sources().into_iter().chain(beside);
    let breaches = breaches.filter(|source| !source.text.starts_with("//! "));
    report(
        &breaches
            .map(|source| format!("{} does not open with //!", source.path.display()))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn no_file_is_over_the_line_limit() {
    let mut breaches = Vec::new();
    let mut left: BTreeSet<PathBuf> = LONG_LEFT.iter().map(|file| root().join(file)).collect();
    for (package, imports) in &*IMPORTS {
        let compiled = imports.files();
        for source in below(package) {
            let file = source.path.strip_prefix(package).unwrap();
            let lines = source.lines().count();
            // What is compiled for tests alone may be as long as its claims.
            let counts = file.starts_with("bin") || compiled.contains(file.to_str().unwrap());
            if counts && lines > PRODUCTION_LINES_MAX && !left.remove(&source.path) {
                breaches.push(format!("{} has {lines} lines", source.path.display()));
            }
        }
    }
    breaches.extend(
        left.iter()
            .map(|file| format!("{} is short: take it off the list", file.display())),
    );
    report(&breaches);
}

#[test]
fn no_file_is_an_orphan() {
    let mut reached = BTreeSet::new();
    for package in packages() {
        reached.insert(package.join("lib.rs"));
        let programs = fs::read_dir(package.join("bin")).into_iter().flatten();
        reached.extend(programs.map(|program| program.unwrap().path()));
    }
    let sources = sources();
    for source in &sources {
        for line in source.text.lines() {
            let line = line
                .trim()
                .trim_start_matches("pub(crate) ")
                .trim_start_matches("pub(super) ")
                .trim_start_matches("pub ");
            let Some(name) = line
                .strip_prefix("mod ")
                .and_then(|rest| rest.strip_suffix(';'))
            else {
                continue;
            };
            let stem = source.path.file_stem().unwrap();
            let folder = source.path.parent().unwrap();
            let folder = if stem == "lib" {
                folder.to_path_buf()
            } else {
                folder.join(stem)
            };
            reached.insert(folder.join(format!("{name}.rs")));
        }
    }
    let orphans = sources
        .iter()
        .filter(|source| !reached.contains(&source.path));
    report(
        &orphans
            .map(|source| format!("{} is named by no mod", source.path.display()))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let mut breaches = Vec::new();
    let mut left: BTreeSet<&str> = CIRCLES_LEFT.iter().copied().collect();
    for (package, imports) in &*IMPORTS {
        // Its settings are options with an origin, and its options are read from settings: still to be opened.
        if package.ends_with("crates/inject/src") {
            continue;
        }
        for circle in imports.circles() {
            let parts: BTreeSet<&str> = circle.iter().map(|file| part_of(file)).collect();
            left.retain(|part| !parts.contains(part));
            if parts.iter().any(|part| !CIRCLES_LEFT.contains(part)) {
                breaches.push(format!(
                    "these {} files of {} import each other:\n{}",
                    circle.len(),
                    package.display(),
                    imports.within(&circle)
                ));
            }
        }
    }
    breaches.extend(
        left.iter()
            .map(|part| format!("{part} has no circle any more: take it off the list")),
    );
    report(&breaches);
}

#[test]
fn the_model_knows_no_wire_no_clock_and_no_io() {
    let forbidden = [
        "tonic",
        "tokio",
        "prost",
        "envoy_types",
        "std::fs",
        "std::net",
        "std::io",
        "std::env",
        "Instant",
        "SystemTime::now",
        "crate::wire",
        "tracing",
        "Utc::now",
    ];
    let mut breaches = Vec::new();
    for source in sources().iter().filter(|source| source.part() == "model") {
        for word in forbidden {
            if source.production().contains(word) {
                breaches.push(format!("{} mentions {word}", source.path.display()));
            }
        }
    }
    report(&breaches);
}

#[test]
fn dependencies_point_downwards_only() {
    let imports = imports();
    let above = |part: &str| -> Vec<&str> {
        match part {
            // Below the model: whatever it knew of the crate, the model would depend on.
            "support" => [&["model", "wire"], LEAVES, ROLES].concat(),
            "model" => [&["wire"], LEAVES, ROLES].concat(),
            "wire" => [LEAVES, ROLES].concat(),
            leaf if LEAVES.contains(&leaf) => ROLES.to_vec(),
            // The demo is a program on top of the command line, which knows nothing of it. It starts the others as programs
            // and talks to them as a user would.
            "dev" => vec!["sidecar", "control"],
            role if ROLES.contains(&role) => {
                let others = ROLES.iter().filter(|other| **other != role);
                others.copied().collect()
            }
            // It stands in for sidecars, and comes back after a loss as they do.
            "load" => vec!["control", "cli", "dev"],
            _ => vec![],
        }
    };
    let mut breaches = Vec::new();
    for (from, to, paths) in imports.edges() {
        if above(part_of(from)).contains(&part_of(to)) {
            breaches.push(format!("{from} imports {to}: {paths:?}"));
        }
    }
    report(&breaches);
}

#[test]
fn the_folders_of_the_control_plane_import_only_lower_floors() {
    let imports = imports();
    let floors: BTreeMap<&str, u8> = CONTROL_FLOORS.iter().copied().collect();
    let folder = |file: &str| {
        let inside = file.strip_prefix("control/")?;
        let folder = inside.split('/').next()?.trim_end_matches(".rs").to_owned();
        (!folder.is_empty()).then_some(folder)
    };
    let mut breaches = Vec::new();
    for file in imports.files() {
        if let Some(folder) = folder(file)
            && !floors.contains_key(&*folder)
        {
            breaches.push(format!("{file} is on no floor: add {folder} to the list"));
        }
    }
    for (from, to, paths) in imports.edges() {
        let (Some(from_folder), Some(to_folder)) = (folder(from), folder(to)) else {
            continue;
        };
        let (floor, other) = (floors.get(&*from_folder), floors.get(&*to_folder));
        // What puts the control plane together may know its own parts.
        if from_folder != to_folder && floor <= other && floor < Some(&7) {
            breaches.push(format!("{from} imports {to}: {paths:?}"));
        }
    }
    report(&breaches);
}

/// The code in the doc comments of a file, which is compiled as a program of its own.
fn doc_tests(text: &str) -> String {
    let mut code = String::new();
    let mut inside = false;
    for line in text.lines().map(str::trim_start) {
        let Some(line) = line.strip_prefix("///") else {
            inside = false;
            continue;
        };
        let line = line.trim_start();
        if line.starts_with("```") {
            inside = !inside;
        } else if inside {
            code.push_str(line.strip_prefix("# ").unwrap_or(line));
            code.push('\n');
        }
    }
    code
}

#[test]
fn every_door_of_the_library_is_used_from_outside() {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let mut unused: BTreeSet<Vec<String>> = BTreeSet::new();
    for door in lib.split("\npub mod ").skip(1) {
        let name = door.split([';', ' ']).next().unwrap().to_owned();
        if door.starts_with(&format!("{name};")) {
            unused.insert(vec![name]);
        } else {
            let inside = door.split("\n}").next().unwrap();
            let passed_on = paths_from(inside, "crate");
            assert!(!passed_on.is_empty(), "{name} passes nothing on");
            unused.extend(
                passed_on
                    .into_iter()
                    .map(|mut path| vec![name.clone(), path.pop().unwrap()]),
            );
        }
    }
    let outside = ["src/bin", "tests", "benches", "examples", "crates"];
    let outside = outside.map(|folder| root().join(folder));
    let outside = outside.iter().filter(|folder| folder.is_dir());
    let outside = outside.flat_map(|folder| below(folder));
    let texts = outside.map(|source| source.text);
    for text in texts.chain(sources().iter().map(|source| doc_tests(&source.text))) {
        for path in paths_from(&text, "jitgate") {
            unused.retain(|door| !path[1..].starts_with(door));
        }
    }
    let mut left: BTreeSet<&str> = DOORS_LEFT.iter().copied().collect();
    unused.retain(|door| !left.remove(door.join("::").as_str()));
    let mut breaches: Vec<String> = unused
        .iter()
        .map(|door| format!("nothing outside uses jitgate::{}", door.join("::")))
        .collect();
    breaches.extend(
        left.iter()
            .map(|door| format!("{door} is used, or no door: take it off the list")),
    );
    report(&breaches);
}

#[test]
fn envoys_messages_are_read_in_one_file_and_written_in_one() {
    // The service and server types are needed to answer at all; what is inside a check or an answer is not.
    let (reader, writer) = ("src/sidecar/check/input.rs", "src/sidecar/check/respond.rs");
    let places = [
        ("HttpRequest", reader),
        ("AttributeContext", reader),
        ("OkHttpResponse", writer),
        ("DeniedHttpResponse", writer),
    ];
    let mut breaches = Vec::new();
    // `fixtures` builds checks for the unit tests.
    for source in sources()
        .iter()
        .filter(|source| !source.is_tests() && !source.path.ends_with("fixtures.rs"))
    {
        let inside = source.path.strip_prefix(root()).unwrap();
        for (word, place) in places {
            if source.production().contains(word) && inside != Path::new(place) {
                breaches.push(format!(
                    "{} mentions {word}, which belongs to {place}",
                    inside.display()
                ));
            }
        }
    }
    report(&breaches);
}

#[test]
fn only_the_command_line_prints() {
    let printing = ["println!", "print!(", "eprintln!", "eprint!(", "dbg!("];
    let breaches = sources().into_iter().filter(|source| {
        !matches!(source.part(), "cli" | "dev" | "bin")
            && printing
                .iter()
                .any(|word| source.production().contains(word))
    });
    report(
        &breaches
            .map(|source| format!("{} prints", source.path.display()))
            .collect::<Vec<_>>(),
    );
}
