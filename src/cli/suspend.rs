//! Holding grants back for a while, and letting them count again.

use std::time::Duration;

use crate::wire::grant::duration_to;
use crate::wire::v1;

use super::connect::{ClientArgs, connect};
use super::grants::{Wait, deadline};
use super::manner::{MannerArgs, OnceArgs};
use super::render::text::Held;
use super::trouble::{Exit, Trouble};
use super::values;

/// `jitgate suspend` and `jitgate resume`.
#[derive(Debug, clap::Args)]
pub struct HoldArgs {
    /// The grant's ID
    id: String,
    /// What to wait for; the change is durable in every case
    #[arg(long, env = "JITGATE_HOLD_WAIT", value_enum, default_value_t)]
    wait: Wait,
    /// How long to wait for the sidecars, at most 60s
    #[arg(long, env = "JITGATE_HOLD_TIMEOUT", value_name = "TIME", value_parser = values::span, default_value = "5s")]
    timeout: Duration,
    /// Why, for the record
    #[arg(long, env = "JITGATE_HOLD_REASON", value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    manner: MannerArgs,
    #[command(flatten)]
    client: ClientArgs,
}

/// Holds a grant back. Exit code 1 when it was to wait for every sidecar and one has not confirmed.
///
/// # Errors
/// What the control plane refuses, and what keeps it from answering.
pub async fn suspend(args: HoldArgs) -> Result<Exit, Trouble> {
    let HoldArgs { id, wait, timeout, reason, manner: MannerArgs { once, if_match: etag }, client } = args;
    let mut connection = connect(client).await?;
    let (request_id, validate_only, limit) = (once.id(), once.dry_run, Some(duration_to(timeout)));
    let ask =
        v1::SuspendGrantRequest { id, reason, wait: wait.to_wire(), timeout: limit, request_id, validate_only, etag };
    let held =
        connection.access.suspend_grant(deadline(ask, timeout)).await.map_err(connection.refusal())?.into_inner();
    connection.screen.show(&shown(&held, &once))?;
    Ok(wait.verdict("suspended", held.outstanding, held.fenced_by.as_ref()))
}

/// Lets a suspended grant count again; exit codes as for suspending.
///
/// # Errors
/// What the control plane refuses, and what keeps it from answering.
pub async fn resume(args: HoldArgs) -> Result<Exit, Trouble> {
    let HoldArgs { id, wait, timeout, reason, manner: MannerArgs { once, if_match: etag }, client } = args;
    let mut connection = connect(client).await?;
    let (request_id, validate_only, limit) = (once.id(), once.dry_run, Some(duration_to(timeout)));
    let ask =
        v1::ResumeGrantRequest { id, reason, wait: wait.to_wire(), timeout: limit, request_id, validate_only, etag };
    let held = connection.access.resume_grant(deadline(ask, timeout)).await.map_err(connection.refusal())?.into_inner();
    connection.screen.show(&shown(&held, &once))?;
    // A sidecar that has not heard of it refuses: there is nothing to fence.
    Ok(wait.verdict("resumed", held.outstanding, None))
}

fn shown<'a>(held: &'a v1::HoldGrantResponse, once: &OnceArgs) -> Held<'a> {
    once.tell();
    Held(held)
}
