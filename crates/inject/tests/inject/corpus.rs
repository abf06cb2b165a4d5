//! The corpus: each manifest of `tests/fixtures`, and beside it what must become of it.
//!
//! `cargo test -- --ignored write_the_corpus_anew` writes the expectations; the difference is for a person to read.

use std::fs;
use std::path::{Path, PathBuf};

use jitgate_inject::inject_documents;

use crate::pods::settings;

fn fixtures() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let paths = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = paths
        .filter(|path| !path.to_string_lossy().ends_with(".golden.yaml"))
        .collect();
    paths.sort();
    assert!(paths.len() > 15, "the corpus is there");
    paths
}

/// The reports as comments, then the manifests.
fn became(path: &Path) -> String {
    let manifests = fs::read_to_string(path).unwrap();
    let injection = match inject_documents(&manifests, "shop", &settings()) {
        Ok(injection) => injection,
        Err(error) => return format!("# refused: {error}\n"),
    };
    let mut text = String::new();
    for report in &injection.reports {
        let outcome = report.skipped.map_or("injected", |reason| reason.as_str());
        text.push_str(&format!("# {}: {outcome}\n", report.object));
        for warning in &report.warnings {
            text.push_str(&format!("#   warning: {warning}\n"));
        }
    }
    assert_eq!(
        inject_documents(&injection.text, "shop", &settings())
            .unwrap()
            .text,
        injection.text,
        "{}: a second time changes nothing",
        path.display()
    );
    text + &injection.text
}

#[test]
fn every_fixture_becomes_what_stands_beside_it() {
    for path in fixtures() {
        let golden = fs::read_to_string(path.with_extension("golden.yaml")).unwrap_or_default();
        assert_eq!(became(&path), golden, "{}", path.display());
    }
}

#[test]
#[ignore = "writes the expectations instead of checking them"]
fn write_the_corpus_anew() {
    for path in fixtures() {
        fs::write(path.with_extension("golden.yaml"), became(&path)).unwrap();
    }
}
