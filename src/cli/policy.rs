//! `jitgate policy check`: the arguments and the printing. The checking belongs to the control plane; the binary joins them.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::{Value, json};

use super::render::{OutputArgs, Paper, View};
use super::trouble::{Exit, Trouble, printable};

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
    /// Read every policy and standing grant below a directory, as the control plane would, and name each problem
    Check {
        /// The directory
        dir: PathBuf,
        #[command(flatten)]
        output: OutputArgs,
    },
}

/// What the reading of a directory came to.
#[derive(Debug)]
pub struct Checked {
    /// Whether the control plane would put the directory in force.
    pub ok: bool,
    /// One line each: file, line, column, problem. Warnings among them do not refuse the directory.
    pub problems: Vec<String>,
    /// One line: what was read and how it went.
    pub summary: String,
}

impl View for Checked {
    fn json(&self) -> Value {
        json!({ "ok": self.ok, "problems": self.problems, "summary": self.summary })
    }

    fn text(&self, _: &Paper) -> String {
        let lines = self.problems.iter().chain([&self.summary]);
        lines.map(|line| printable(line) + "\n").collect()
    }
}

/// Prints what came of a check. Exit code 1 when the directory would be refused.
///
/// # Errors
/// When standard output cannot be written.
pub fn report(checked: &Checked, output: &OutputArgs) -> Result<Exit, Trouble> {
    output.screen().show(checked)?;
    Ok(if checked.ok { Exit::Done } else { Exit::Refused })
}
