//! The token that a command carries beside its grant, where the control plane issues tokens.

use crate::cli::connect::Connection;
use crate::cli::trouble::Trouble;
use crate::cli::values::Token;

/// A token of the grant, bound to the workload that presents it; `None` where the control plane issues none: then the
/// command's calls are known by the credentials that they carry themselves.
///
/// # Errors
/// What the control plane refuses.
#[expect(clippy::unused_async, reason = "asking for a token is a call")]
pub(super) async fn issue(
    _connection: &mut Connection,
    _grant: &str,
    _workload: Option<&str>,
) -> Result<Option<Token>, Trouble> {
    Ok(None)
}
