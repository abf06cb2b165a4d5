//! The shape of the source tree, checked: every file says what it is, is reached by a `mod`, stays small, and imports only downwards.

#![expect(clippy::unwrap_used, reason = "a failing test panics")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

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
    "client",
];
const ROLES: &[&str] = &["sidecar", "control", "cli", "dev"];

struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    /// `src/control/store.rs` -> `control`.
    fn part(&self) -> String {
        let inside = self.path.strip_prefix(root().join("src")).unwrap();
        let first = inside
            .components()
            .next()
            .unwrap()
            .as_os_str()
            .to_string_lossy()
            .into_owned();
        first.trim_end_matches(".rs").to_owned()
    }

    /// The text before the unit tests, without comments.
    fn production(&self) -> String {
        let before_tests = self
            .text
            .split("#[cfg(test)]\nmod ")
            .next()
            .unwrap_or_default();
        let code = |line: &&str| !line.trim_start().starts_with("//");
        before_tests
            .lines()
            .filter(code)
            .collect::<Vec<_>>()
            .join("\n")
    }

    fn is_tests(&self) -> bool {
        self.path.file_name().is_some_and(|name| name == "tests.rs")
            || self
                .path
                .components()
                .any(|part| part.as_os_str() == "tests")
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![root().join("src")];
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
    assert!(
        found.len() > 20,
        "the walk found only {} files",
        found.len()
    );
    found
}

/// Every breach, one a line; the test fails with all of them.
fn report(breaches: &[String]) {
    assert!(breaches.is_empty(), "\n{}", breaches.join("\n"));
}

#[test]
fn every_file_opens_with_what_it_is() {
    let silent = |source: &Source| !source.is_tests() && !source.text.starts_with("//! ");
    let breaches = sources().into_iter().filter(silent);
    report(
        &breaches
            .map(|source| format!("{} does not open with //!", source.path.display()))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn no_file_is_over_the_line_limit() {
    let lines = |source: &Source| {
        source
            .text
            .split("#[cfg(test)]\nmod ")
            .next()
            .unwrap_or_default()
            .lines()
            .count()
    };
    let long = |source: &Source| !source.is_tests() && lines(source) > PRODUCTION_LINES_MAX;
    let breaches = sources().into_iter().filter(long);
    report(
        &breaches
            .map(|source| format!("{} has {} lines", source.path.display(), lines(&source)))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn no_file_is_an_orphan() {
    let sources = sources();
    let mut reached = BTreeSet::from(
        [
            "lib.rs",
            "bin/jitgate.rs",
            "bin/jitgate-sidecar.rs",
            "bin/jitgate-bench.rs",
        ]
        .map(|f| root().join("src").join(f)),
    );
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

/// Whether the text names this path, and not only one that begins like it (`crate::cli` and `crate::client`).
fn names(text: &str, path: &str) -> bool {
    let goes_on = |rest: &str| rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
    text.split(path).skip(1).any(|rest| !goes_on(rest))
}

#[test]
fn dependencies_point_downwards_only() {
    let mut breaches = Vec::new();
    for source in sources() {
        let part = source.part();
        let above: Vec<&str> = match part.as_str() {
            "model" => [&["wire"], LEAVES, ROLES].concat(),
            "wire" => [LEAVES, ROLES].concat(),
            leaf if LEAVES.contains(&leaf) => ROLES.to_vec(),
            // `jitgate` is one binary: its command line may name the control plane, never the data plane.
            "cli" => vec!["sidecar", "control"],
            // The demo starts the others as programs and talks to them as a user would.
            "dev" => vec!["sidecar", "control"],
            role if ROLES.contains(&role) => ROLES
                .iter()
                .copied()
                .filter(|other| *other != role)
                .collect(),
            _ => vec![],
        };
        for other in above {
            if names(&source.production(), &format!("crate::{other}")) {
                breaches.push(format!("{} imports crate::{other}", source.path.display()));
            }
        }
    }
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
        !matches!(source.part().as_str(), "cli" | "dev" | "bin")
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
