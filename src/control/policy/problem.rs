//! What is wrong with a policy directory, for people: where, what, and the way out. One line each.

use std::fmt;
use std::path::PathBuf;

/// A place in a file. Lines and columns count from 1, columns in characters; 0 means the file as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Place {
    /// The line.
    pub line: u64,
    /// The column.
    pub column: u64,
}

impl Place {
    /// The file as a whole.
    pub(super) const FILE: Self = Self { line: 0, column: 0 };
}

/// Whether a problem refuses the set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It does.
    Error,
    /// It does not, but is hardly what was meant.
    Warning,
}

/// One finding. Prints as `file:line:column: path.to.field: cause; way out`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file, or the directory.
    pub file: PathBuf,
    /// Where in it.
    pub place: Place,
    /// The field, as in `spec.duration.max`; empty for the document or file as a whole.
    pub path: String,
    /// What is wrong; and after a semicolon, what to do about it.
    pub cause: String,
    /// Whether it refuses the set.
    pub severity: Severity,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", one_line(&self.file.to_string_lossy()))?;
        if self.place != Place::FILE {
            write!(f, "{}:{}:", self.place.line, self.place.column)?;
        }
        if self.severity == Severity::Warning {
            f.write_str(" warning:")?;
        }
        if !self.path.is_empty() {
            write!(f, " {}:", self.path)?;
        }
        write!(f, " {}", self.cause)
    }
}

/// Findings within one file, before the file's name is known to them.
#[derive(Debug, Default)]
pub(super) struct Findings(pub(super) Vec<(Place, String, String, Severity)>);

impl Findings {
    pub(super) fn error(&mut self, place: Place, path: &str, cause: impl Into<String>) {
        self.0
            .push((place, path.to_owned(), cause.into(), Severity::Error));
    }

    pub(super) fn warning(&mut self, place: Place, path: &str, cause: impl Into<String>) {
        self.0
            .push((place, path.to_owned(), cause.into(), Severity::Warning));
    }

    pub(super) fn errors(&self) -> usize {
        self.0
            .iter()
            .filter(|(.., severity)| *severity == Severity::Error)
            .count()
    }

    pub(super) fn name(self, file: &std::path::Path) -> impl Iterator<Item = Problem> + '_ {
        self.0
            .into_iter()
            .map(move |(place, path, cause, severity)| Problem {
                file: file.to_owned(),
                place,
                path: one_line(&path),
                cause: one_line(&cause),
                severity,
            })
    }
}

/// One line, whatever a library or a file put into it: a field's name may be anything that YAML can spell.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
                ' '
            } else {
                c
            }
        })
        .collect()
}
