//! Asking for a longer stay: a new access request, linked to a grant that is in force.

use std::time::Duration;

use crate::wire::grant::duration_to;
use crate::wire::v1;

use super::requests::{conclude, with_deadline};
use crate::cli::connect::{ClientArgs, connect};
use crate::cli::error::{CliError, Exit};
use crate::cli::values;
use crate::cli::write_options::{WriteArgs, note_dry_run};

/// `jitgate extend`.
#[derive(Debug, clap::Args)]
pub struct ExtendArgs {
    /// The grant's ID
    id: String,
    /// How much longer than it lasts now, such as 15m; the policy's default when absent
    #[arg(long = "for", env = "JITGATE_EXTEND_FOR", value_name = "TIME", value_parser = values::span)]
    duration: Option<Duration>,
    /// Why you need it
    #[arg(
        long,
        env = "JITGATE_EXTEND_REASON",
        value_name = "TEXT",
        default_value = ""
    )]
    reason: String,
    /// A ticket that it belongs to; may be repeated
    #[arg(
        long,
        env = "JITGATE_EXTEND_TICKET",
        value_delimiter = '\n',
        value_name = "TICKET"
    )]
    ticket: Vec<String>,
    /// Wait until it is decided
    #[arg(long, env = "JITGATE_EXTEND_WAIT")]
    wait: bool,
    #[command(flatten)]
    options: WriteArgs,
    #[command(flatten)]
    client: ClientArgs,
}

/// Asks for a longer stay. Exit code 1 when the answer is no.
///
/// # Errors
/// What the control plane refuses, and what keeps it from answering.
pub(crate) async fn extend(args: ExtendArgs) -> Result<Exit, CliError> {
    let ExtendArgs {
        id,
        duration,
        reason,
        ticket: tickets,
        wait,
        options,
        client,
    } = args;
    let options = options.settle();
    let mut connection = connect(client).await?;
    let duration = duration.map(duration_to);
    let ask = v1::ExtendGrantRequest {
        id,
        duration,
        reason,
        tickets,
        options: Some(options.clone()),
    };
    let asked = connection
        .access
        .extend_grant(with_deadline(ask))
        .await
        .map_err(connection.refusal())?
        .into_inner();
    note_dry_run(&options);
    conclude(&mut connection, asked, wait && !options.validate_only).await
}
