//! `jitgate policy`: arguments and printing. Checking and testing belong to the control plane's own code; the binary joins
//! them. Planning and applying are calls.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::{Value, json};

use crate::cli::connect::ClientArgs;
use crate::cli::error::{CliError, Exit, printable};
use crate::cli::render::{OutputArgs, TextStyle, View};

pub(crate) mod apply;
pub(crate) mod history;
mod show;

/// `jitgate policy`.
#[derive(Debug, clap::Args)]
pub struct PolicyArgs {
    /// What to do
    #[command(subcommand)]
    pub verb: PolicyVerb,
}

/// What can be done with policies.
#[derive(Debug, Subcommand)]
pub enum PolicyVerb {
    /// Read every policy and standing grant of a directory, as the control plane would, and name each problem
    Check {
        /// The directory
        dir: PathBuf,
        /// Warnings fail, too
        #[arg(long, env = "JITGATE_POLICY_STRICT")]
        strict: bool,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Run the fixtures of a directory (*_test.yaml, tests/*.yaml) against its policies
    Test {
        /// The directory
        dir: PathBuf,
        /// Fail when fewer parts of the policies than this, in percent, are reached by a case
        #[arg(long, env = "JITGATE_POLICY_MIN_COVERAGE", value_name = "PERCENT", default_value_t = 0,
              value_parser = clap::value_parser!(u8).range(0..=100))]
        min_coverage: u8,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Say what applying a directory would change, and which live grants that touches
    Plan {
        /// The directory
        dir: PathBuf,
        /// Remove what was applied before and is not in the directory
        #[arg(long, env = "JITGATE_POLICY_PRUNE")]
        prune: bool,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Put a directory in force at the control plane: all of it in one revision, or nothing
    Apply(apply::ApplyArgs),
    /// List every version that a policy ever had
    History {
        /// Its name
        name: String,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Show one version of a policy
    Show {
        /// Its name
        name: String,
        /// The version; the one in force when absent
        #[arg(
            long,
            env = "JITGATE_POLICY_VERSION",
            value_name = "N",
            default_value_t = 0,
            hide_default_value = true
        )]
        version: u32,
        #[command(flatten)]
        client: ClientArgs,
    },
}

/// What the reading of a directory came to.
#[derive(Debug)]
pub struct Checked {
    /// Whether the control plane would put the directory in force.
    pub ok: bool,
    /// Everything found.
    pub problems: Vec<Found>,
    /// One line: what was read and how it went.
    pub summary: String,
}

/// One problem.
#[derive(Debug, Clone)]
pub struct Found {
    /// All of it on one line.
    pub line: String,
    /// Where: file, line and column.
    pub place: (String, u64, u64),
    /// The field.
    pub field: String,
    /// What is wrong, and the way out.
    pub cause: String,
    /// It refuses the directory.
    pub is_error: bool,
}

impl Found {
    fn json(&self) -> Value {
        let (file, line, column) = &self.place;
        let severity = if self.is_error { "ERROR" } else { "WARNING" };
        json!({ "file": file, "line": line, "column": column, "field": self.field, "cause": self.cause, "severity": severity })
    }
}

impl View for Checked {
    fn json(&self) -> Value {
        let lines: Vec<&str> = self
            .problems
            .iter()
            .map(|found| found.line.as_str())
            .collect();
        let findings: Vec<Value> = self.problems.iter().map(Found::json).collect();
        json!({ "ok": self.ok, "problems": lines, "findings": findings, "summary": self.summary })
    }

    fn text(&self, _: &TextStyle) -> String {
        let lines = self
            .problems
            .iter()
            .map(|found| &found.line)
            .chain([&self.summary]);
        lines.map(|line| printable(line) + "\n").collect()
    }
}

/// What the fixtures of a directory came to.
#[derive(Debug)]
pub struct Tested {
    /// What keeps them from being run.
    pub problems: Vec<Found>,
    /// Each case.
    pub cases: Vec<Case>,
    /// Each part of the policies, and whether a case has reached it.
    pub parts: Vec<(String, bool)>,
    /// Reached, in percent.
    pub coverage: usize,
    /// Wanted, in percent.
    pub min_coverage: usize,
}

/// One case.
#[derive(Debug)]
pub struct Case {
    /// Document and case.
    pub name: String,
    /// Where: file, line and column.
    pub place: (String, u64, u64),
    /// Each difference; none: it passed.
    pub differences: Vec<String>,
}

impl Tested {
    /// Whether everything passed and enough was reached.
    pub fn ok(&self) -> bool {
        self.problems.is_empty() && self.failed() == 0 && self.coverage >= self.min_coverage
    }

    fn failed(&self) -> usize {
        self.cases
            .iter()
            .filter(|case| !case.differences.is_empty())
            .count()
    }

    fn summary(&self) -> String {
        if !self.problems.is_empty() {
            return "nothing was run".to_owned();
        }
        let reached = self.parts.iter().filter(|(_, hit)| *hit).count();
        let wanted = if self.coverage < self.min_coverage {
            format!("; {} % are wanted", self.min_coverage)
        } else {
            String::new()
        };
        format!(
            "{} passed, {} failed; {reached} of {} parts reached ({} %){wanted}",
            self.cases.len() - self.failed(),
            self.failed(),
            self.parts.len(),
            self.coverage
        )
    }
}

impl View for Tested {
    fn json(&self) -> Value {
        let case = |case: &Case| {
            let (file, line, column) = &case.place;
            json!({
                "name": case.name, "file": file, "line": line, "column": column,
                "passed": case.differences.is_empty(), "differences": case.differences,
            })
        };
        json!({
            "ok": self.ok(),
            "problems": self.problems.iter().map(Found::json).collect::<Vec<_>>(),
            "cases": self.cases.iter().map(case).collect::<Vec<_>>(),
            "coverage": {
                "percent": self.coverage,
                "wanted": self.min_coverage,
                "parts": self.parts.iter().map(|(name, hit)| json!({ "part": name, "hit": hit })).collect::<Vec<_>>(),
            },
            "summary": self.summary(),
        })
    }

    fn text(&self, _: &TextStyle) -> String {
        let mut lines: Vec<String> = self
            .problems
            .iter()
            .map(|found| found.line.clone())
            .collect();
        for case in &self.cases {
            if case.differences.is_empty() {
                lines.push(format!("ok    {}", case.name));
                continue;
            }
            let (file, line, column) = &case.place;
            lines.push(format!("FAIL  {} ({file}:{line}:{column})", case.name));
            lines.extend(
                case.differences
                    .iter()
                    .map(|difference| format!("        {difference}")),
            );
        }
        lines.extend(
            self.parts
                .iter()
                .filter(|(_, hit)| !hit)
                .map(|(part, _)| format!("never reached: {part}")),
        );
        lines.push(self.summary());
        lines.iter().map(|line| printable(line) + "\n").collect()
    }
}

/// Prints what came of a check. Exit code 1 when the directory would be refused.
///
/// # Errors
/// When standard output cannot be written.
pub fn report(checked: &Checked, output: &OutputArgs) -> Result<Exit, CliError> {
    output.screen().show(checked)?;
    Ok(if checked.ok {
        Exit::Done
    } else {
        Exit::Refused
    })
}

/// Prints what came of the fixtures. Exit code 1 when one failed, or too little was reached.
///
/// # Errors
/// When standard output cannot be written.
pub fn report_test(tested: &Tested, output: &OutputArgs) -> Result<Exit, CliError> {
    output.screen().show(tested)?;
    Ok(if tested.ok() {
        Exit::Done
    } else {
        Exit::Refused
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::time::Timestamp;

    const PAPER: TextStyle = TextStyle {
        now: Timestamp::MAX,
        width: None,
    };

    fn tested(differences: &[&str], min_coverage: usize) -> Tested {
        let place = ("a_test.yaml".to_owned(), 7, 5);
        let differences = differences.iter().map(ToString::to_string).collect();
        let cases = vec![Case {
            name: "pay: a case".into(),
            place,
            differences,
        }];
        let parts = vec![
            ("policy pay".into(), true),
            ("auto rule x of policy pay".into(), false),
        ];
        Tested {
            problems: vec![],
            cases,
            parts,
            coverage: 50,
            min_coverage,
        }
    }

    #[test]
    fn a_difference_or_too_little_coverage_fails() {
        assert!(tested(&[], 50).ok() && !tested(&[], 51).ok() && !tested(&["outcome: …"], 0).ok());
    }

    #[test]
    fn each_case_is_a_line_and_what_was_never_reached_is_named() {
        let text = tested(&["outcome: expected APPROVED, was PENDING"], 100).text(&PAPER);
        assert_eq!(
            text,
            "FAIL  pay: a case (a_test.yaml:7:5)\n        outcome: expected APPROVED, was PENDING\n\
             never reached: auto rule x of policy pay\n0 passed, 1 failed; 1 of 2 parts reached (50 %); 100 % are wanted\n"
        );
        let json = tested(&[], 0).json();
        assert_eq!(
            (
                &json["ok"],
                &json["cases"][0]["passed"],
                &json["coverage"]["percent"]
            ),
            (&true.into(), &true.into(), &50.into())
        );
    }
}
