//! `policy plan` and `policy apply`: the files of a directory are sent, and what comes back is shown. Applying carries what
//! was planned against, so that nothing is applied that nobody has seen.

use std::path::PathBuf;

use tonic::Request;
use ulid::Ulid;

use super::show::{Applied, Planned};
use jitgate_client::DEADLINE;

use crate::cli::connect::{ClientArgs, Connection, connect};
use crate::cli::error::{CliError, Exit, say};
use crate::wire::v1;

/// `jitgate policy apply`.
#[derive(Debug, clap::Args)]
pub struct ApplyArgs {
    /// The directory
    pub dir: PathBuf,
    /// Remove what was applied before and is not in the directory
    #[arg(long, env = "JITGATE_POLICY_PRUNE")]
    prune: bool,
    /// Apply only if this is still the set in force: what `policy plan` printed. Without it, the plan is made now
    #[arg(long, env = "JITGATE_POLICY_PLAN_DIGEST", value_name = "DIGEST")]
    plan_digest: Option<String>,
    /// End the live grants, and cancel the pending requests, of policies that no longer decide after this
    #[arg(long, env = "JITGATE_POLICY_REVOKE_WITHDRAWN")]
    revoke_withdrawn: bool,
    /// Check everything and change nothing
    #[arg(long, env = "JITGATE_POLICY_DRY_RUN")]
    dry_run: bool,
    /// Why, for the record
    #[arg(
        long,
        env = "JITGATE_POLICY_REASON",
        value_name = "TEXT",
        default_value = ""
    )]
    reason: String,
    /// Makes a repetition safe: the same ID is applied once
    #[arg(long, env = "JITGATE_POLICY_REQUEST_ID", value_name = "ID")]
    request_id: Option<String>,
    #[command(flatten)]
    client: ClientArgs,
}

/// File names and their texts.
pub type Files = Vec<(String, String)>;

/// Shows what applying the files would change. Exit code 1 when they are refused.
///
/// # Errors
/// What the control plane refuses, and what keeps it from answering.
pub async fn plan(files: Files, prune: bool, client: ClientArgs) -> Result<Exit, CliError> {
    let mut connection = connect(client).await?;
    let plan = planned(&mut connection, to_wire(files)?, prune).await?;
    connection.screen.show(&Planned(&plan))?;
    Ok(if plan.errors.is_empty() {
        Exit::Done
    } else {
        Exit::Refused
    })
}

/// Applies the files.
///
/// # Errors
/// What the control plane refuses, and what keeps it from answering.
pub async fn apply(files: Files, args: ApplyArgs) -> Result<Exit, CliError> {
    let ApplyArgs {
        dir: _,
        prune,
        plan_digest,
        revoke_withdrawn,
        dry_run,
        reason,
        request_id,
        client,
    } = args;
    let mut connection = connect(client).await?;
    let files = to_wire(files)?;
    let etag = match plan_digest {
        Some(digest) => digest,
        None => {
            let plan = planned(&mut connection, files.clone(), prune).await?;
            if !plan.errors.is_empty() {
                connection.screen.show(&Planned(&plan))?;
                return Ok(Exit::Refused);
            }
            plan.etag
        }
    };
    let ask = v1::ApplyPoliciesRequest {
        files,
        prune,
        revoke_withdrawn,
        reason,
        options: Some(v1::WriteOptions {
            request_id: request_id.unwrap_or_else(|| Ulid::generate().to_string()),
            validate_only: dry_run,
            etag,
        }),
    };
    let applied = connection
        .policies
        .apply_policies(with_deadline(ask))
        .await
        .map_err(connection.refusal())?
        .into_inner();
    connection.screen.show(&Applied {
        response: &applied,
        dry_run,
    })?;
    if applied.repeated {
        say("this was applied before, by the same request ID; nothing was done again");
    }
    Ok(Exit::Done)
}

async fn planned(
    connection: &mut Connection,
    files: Vec<v1::PolicyFile>,
    prune: bool,
) -> Result<v1::PolicyPlan, CliError> {
    let ask = with_deadline(v1::PlanPoliciesRequest { files, prune });
    Ok(connection
        .policies
        .plan_policies(ask)
        .await
        .map_err(connection.refusal())?
        .into_inner())
}

/// An empty directory is a mistake more often than a wish to withdraw everything.
fn to_wire(files: Files) -> Result<Vec<v1::PolicyFile>, CliError> {
    if files.is_empty() {
        return Err(CliError::new("the directory holds no policy files").hint(
            "name the one that holds *.yaml; to withdraw everything with --prune, keep one file with nothing but a comment",
        ));
    }
    Ok(files
        .into_iter()
        .map(|(name, text)| v1::PolicyFile { name, text })
        .collect())
}

/// Reading and comparing thousands of documents takes longer than one request.
fn with_deadline<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(3 * DEADLINE);
    request
}
