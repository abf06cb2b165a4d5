//! The `jitgate` command line: one function a verb. Only `render` writes to standard output.
//!
//! Standard output carries the result, standard error the talk. Exit codes: 0 done, 1 refused or failed, 2 wrong usage.
//! The verbs that run or need another role (`control-plane`, `policy`, `dev`) are joined on by the binary: roles never import
//! one another.

use std::process::ExitCode;

use clap::Subcommand;

pub(crate) mod connect;
pub(crate) mod error;
pub(crate) mod render;
pub(crate) mod values;
pub(crate) mod verbs;
pub(crate) mod write_options;

pub use error::{CliError, Exit};
pub use render::{OutputArgs, Screen};
pub use verbs::audit::{AuditArgs, audit};

/// `jitgate policy`, whose verbs the binary joins to the control plane's reading of policies.
pub mod policy {
    pub use super::verbs::policy::apply::{Files, apply, plan};
    pub use super::verbs::policy::history::{history, show};
    pub use super::verbs::policy::{
        Case, Checked, Found, PolicyArgs, PolicyVerb, Tested, report, report_test,
    };
}

/// What the command line can do by itself.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Ask for access; returns at once, or with --wait when it is decided
    Request(verbs::requests::RequestArgs),
    /// Look at access requests
    Requests(verbs::requests::RequestsArgs),
    /// Take a pending access request back
    Cancel(verbs::requests::CancelArgs),
    /// Approve what somebody else asks for, all of it or less
    Approve(verbs::reviews::ApproveArgs),
    /// Deny what somebody else asks for
    Deny(verbs::reviews::DenyArgs),
    /// Say afterwards what you think of access that was taken by breaking the glass
    Review(verbs::reviews::ReviewArgs),
    /// Look at grants
    Grants(verbs::grants::GrantsArgs),
    /// End grants early: one by ID, or every live one of a subject or a service
    Revoke(verbs::grants::RevokeArgs),
    /// End your own grant: "I am done"
    Release(verbs::grants::ReleaseArgs),
    /// Ask for a longer stay than a grant in force gives
    Extend(verbs::extend::ExtendArgs),
    /// Hold a grant back for a while; its time runs on
    Suspend(verbs::suspend::SuspendArgs),
    /// Let a suspended grant count again
    Resume(verbs::suspend::ResumeArgs),
    /// Say why a call would be allowed or refused, by the function that the sidecars run
    Explain(verbs::explain::ExplainArgs),
    /// Ask for access, run a command with it, and give it back when the command ends
    Run(verbs::run::RunArgs),
    /// List the sidecars and how far each one is
    Fleet(verbs::fleet::FleetArgs),
    /// Get tokens for grants, look into them, and turn over the keys that sign them
    Token(verbs::token::TokenArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
}

/// `jitgate completions`.
#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// The shell to write for
    shell: clap_complete::Shell,
}

/// Runs a verb to its end and turns what came of it into an exit code; troubles are told on standard error.
///
/// `whole` is the complete command, of which the completion script is made.
pub async fn run(verb: Verb, whole: clap::Command) -> ExitCode {
    conclude(perform(verb, whole).await)
}

/// Tells the error, if there was one, and chooses the exit code.
pub fn conclude(outcome: Result<Exit, CliError>) -> ExitCode {
    match outcome {
        Ok(exit) => exit.into(),
        Err(error) => {
            error.tell();
            error.exit().into()
        }
    }
}

async fn perform(verb: Verb, whole: clap::Command) -> Result<Exit, CliError> {
    match verb {
        Verb::Request(args) => verbs::requests::request(args).await,
        Verb::Requests(args) => verbs::requests::requests(args).await,
        Verb::Cancel(args) => verbs::requests::cancel(args).await,
        Verb::Approve(args) => verbs::reviews::approve(args).await,
        Verb::Deny(args) => verbs::reviews::deny(args).await,
        Verb::Review(args) => verbs::reviews::review(args).await,
        Verb::Grants(args) => verbs::grants::grants(args).await,
        Verb::Revoke(args) => verbs::grants::revoke(args).await,
        Verb::Release(args) => verbs::grants::release(args).await,
        Verb::Extend(args) => verbs::extend::extend(args).await,
        Verb::Suspend(args) => verbs::suspend::suspend(args).await,
        Verb::Resume(args) => verbs::suspend::resume(args).await,
        Verb::Explain(args) => verbs::explain::explain(args).await,
        Verb::Run(args) => verbs::run::run(args).await,
        Verb::Fleet(args) => verbs::fleet::fleet(args).await,
        Verb::Token(args) => verbs::token::token(args).await,
        Verb::Completions(CompletionsArgs { shell }) => completions(shell, whole),
    }
}

fn completions(shell: clap_complete::Shell, mut whole: clap::Command) -> Result<Exit, CliError> {
    let name = whole.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut whole, name, &mut script);
    render::write_out(&script)?;
    Ok(Exit::Done)
}
