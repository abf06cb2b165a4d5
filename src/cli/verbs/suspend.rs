//! Holding grants back for a while, and letting them count again.

use std::time::Duration;

use crate::wire::grant::duration_to;
use crate::wire::v1;

use super::grants::{Wait, deadline};
use crate::cli::connect::{ClientArgs, connect};
use crate::cli::error::{CliError, Exit};
use crate::cli::render::receipts::Enforced;
use crate::cli::render::receipts::Held;
use crate::cli::values;
use crate::cli::write_options::{WriteArgs, tell};

/// The flags of one of the two verbs.
macro_rules! hold_args {
    ($($(#[$doc:meta])* $name:ident $verb:literal;)*) => {
        $($(#[$doc])*
        #[derive(Debug, clap::Args)]
        pub struct $name {
            /// The grant's ID
            id: String,
            /// What to wait for; the change is durable in every case
            #[arg(long, env = concat!("JITGATE_", $verb, "_WAIT"), value_enum, default_value_t)]
            wait: Wait,
            /// How long to wait for the sidecars, at most 60s
            #[arg(long, env = concat!("JITGATE_", $verb, "_TIMEOUT"), value_name = "TIME", value_parser = values::span,
                  default_value = "5s")]
            timeout: Duration,
            /// Why, for the record
            #[arg(long, env = concat!("JITGATE_", $verb, "_REASON"), value_name = "TEXT", default_value = "")]
            reason: String,
            #[command(flatten)]
            options: WriteArgs,
            #[command(flatten)]
            client: ClientArgs,
        })*
    };
}

hold_args! {
    /// `jitgate suspend`.
    SuspendArgs "SUSPEND";
    /// `jitgate resume`.
    ResumeArgs "RESUME";
}

/// Holds a grant back. Exit code 1 when it was to wait for every sidecar and one has not confirmed.
///
/// # Errors
/// What the control plane refuses, and what keeps it from answering.
pub(crate) async fn suspend(args: SuspendArgs) -> Result<Exit, CliError> {
    let SuspendArgs {
        id,
        wait,
        timeout,
        reason,
        options,
        client,
    } = args;
    let options = options.settle();
    let mut connection = connect(client).await?;
    let ask = v1::SuspendGrantRequest {
        id,
        reason,
        wait: wait.to_wire(),
        timeout: Some(duration_to(timeout)),
        options: Some(options.clone()),
    };
    let held = connection
        .access
        .suspend_grant(deadline(ask, timeout))
        .await
        .map_err(connection.refusal())?;
    let held = held.into_inner();
    tell(&options);
    connection.screen.show(&Held(&held))?;
    Ok(wait.verdict("suspended", &Enforced::of(held.enforcement.as_ref())))
}

/// Lets a suspended grant count again; exit codes as for suspending.
///
/// # Errors
/// What the control plane refuses, and what keeps it from answering.
pub(crate) async fn resume(args: ResumeArgs) -> Result<Exit, CliError> {
    let ResumeArgs {
        id,
        wait,
        timeout,
        reason,
        options,
        client,
    } = args;
    let options = options.settle();
    let mut connection = connect(client).await?;
    let ask = v1::ResumeGrantRequest {
        id,
        reason,
        wait: wait.to_wire(),
        timeout: Some(duration_to(timeout)),
        options: Some(options.clone()),
    };
    let held = connection
        .access
        .resume_grant(deadline(ask, timeout))
        .await
        .map_err(connection.refusal())?;
    let held = held.into_inner();
    tell(&options);
    connection.screen.show(&Held(&held))?;
    // A sidecar that has not heard of it refuses: there is nothing to fence.
    let enforcement = v1::Enforcement {
        fenced_by: None,
        ..held.enforcement.unwrap_or_default()
    };
    Ok(wait.verdict("resumed", &Enforced(&enforcement)))
}
