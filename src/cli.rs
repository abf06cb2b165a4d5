//! The `jitgate` command line: one function a verb. Only `render` writes to standard output.
//!
//! Standard output carries the result, standard error the talk. Exit codes: 0 done, 1 refused or failed, 2 wrong usage.
//! The verbs that run or need another role (`control-plane`, `policy`) are joined on by the binary: roles never import
//! one another.

use std::process::ExitCode;

use clap::Subcommand;

pub mod audit;
pub mod connect;
pub mod dev;
pub mod explain;
pub mod fleet;
pub mod grants;
pub mod policy;
pub mod receipts;
pub mod render;
pub mod requests;
pub mod reviews;
pub mod run;
pub mod token;
pub mod trouble;
pub mod values;

pub use render::{OutputArgs, Screen};
pub use trouble::{Exit, Trouble};

/// What the command line can do by itself.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Ask for access; returns at once, or with --wait when it is decided
    Request(requests::RequestArgs),
    /// Look at access requests
    Requests(requests::RequestsArgs),
    /// Take a pending access request back
    Cancel(requests::CancelArgs),
    /// Approve what somebody else asks for, all of it or less
    Approve(reviews::ApproveArgs),
    /// Deny what somebody else asks for
    Deny(reviews::DenyArgs),
    /// Say afterwards what you think of access that was taken by breaking the glass
    Review(reviews::ReviewArgs),
    /// Look at grants
    Grants(grants::GrantsArgs),
    /// End grants early: one by ID, or every live one of a subject or a service
    Revoke(grants::RevokeArgs),
    /// End your own grant: "I am done"
    Release(grants::ReleaseArgs),
    /// Say why a call would be allowed or refused, by the function that the sidecars run
    Explain(explain::ExplainArgs),
    /// Ask for access, run a command with it, and give it back when the command ends
    Run(run::RunArgs),
    /// List the sidecars and how far each one is
    Fleet(fleet::FleetArgs),
    /// Get tokens for grants, look into them, and turn over the keys that sign them
    Token(token::TokenArgs),
    /// Run everything on this machine, with Envoy and a demo upstream, and print what to try
    Dev(dev::DevArgs),
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

/// Tells the trouble, if there was one, and chooses the exit code.
pub fn conclude(outcome: Result<Exit, Trouble>) -> ExitCode {
    match outcome {
        Ok(exit) => exit.into(),
        Err(trouble) => {
            trouble.tell();
            trouble.exit().into()
        }
    }
}

async fn perform(verb: Verb, whole: clap::Command) -> Result<Exit, Trouble> {
    match verb {
        Verb::Request(args) => requests::request(args).await,
        Verb::Requests(args) => requests::requests(args).await,
        Verb::Cancel(args) => requests::cancel(args).await,
        Verb::Approve(args) => reviews::approve(args).await,
        Verb::Deny(args) => reviews::deny(args).await,
        Verb::Review(args) => reviews::review(args).await,
        Verb::Grants(args) => grants::grants(args).await,
        Verb::Revoke(args) => grants::revoke(args).await,
        Verb::Release(args) => grants::release(args).await,
        Verb::Explain(args) => explain::explain(args).await,
        Verb::Run(args) => run::run(args).await,
        Verb::Fleet(args) => fleet::fleet(args).await,
        Verb::Token(args) => token::token(args).await,
        Verb::Dev(args) => dev::dev(args).await,
        Verb::Completions(CompletionsArgs { shell }) => completions(shell, whole),
    }
}

fn completions(shell: clap_complete::Shell, mut whole: clap::Command) -> Result<Exit, Trouble> {
    let name = whole.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut whole, name, &mut script);
    render::write_out(&script)?;
    Ok(Exit::Done)
}
