//! The token that a command carries beside its grant.

use crate::cli::connect::Connection;
use crate::cli::error::CliError;
use crate::cli::values::Token;
use crate::cli::verbs::requests::with_deadline;
use crate::wire::v1;

/// A token of the grant, bound to the workload that presents it. `None` where none is named: a token is never made out to
/// whoever happens to hold it, and the command's calls are then known by the credentials that they carry themselves.
///
/// # Errors
/// What the control plane refuses.
pub(super) async fn issue(
    connection: &mut Connection,
    grant: &str,
    workload: Option<&str>,
) -> Result<Option<Token>, CliError> {
    let Some(workload) = workload else {
        return Ok(None);
    };
    let ask = v1::IssueTokenRequest {
        grant: grant.to_owned(),
        workload: workload.to_owned(),
        duration: None,
    };
    let issued = connection
        .tokens
        .issue_token(with_deadline(ask))
        .await
        .map_err(connection.refusal())?;
    Ok(Some(Token::new(&issued.into_inner().token)))
}
