//! Why a call would be allowed or refused: the control plane runs the sidecars' own function and shows its steps.

use crate::clock;
use crate::wire::grant::timestamp_to;
use crate::wire::v1;
use crate::wire::v1::explain_access_request::Target;

use super::requests::with_deadline;
use crate::cli::connect::{ClientArgs, Connection, connect};
use crate::cli::error::{CliError, Exit};
use crate::cli::render::audit::Decided;
use crate::cli::render::explanation::Explanation;
use crate::cli::values::{self, Moment};

/// `jitgate explain`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("target").args(["http", "grpc", "decision"]).required(true)))]
pub struct ExplainArgs {
    /// The protected service
    #[arg(long, env = "JITGATE_EXPLAIN_SERVICE", value_parser = values::service, required_unless_present = "decision")]
    service: Option<String>,
    /// Who would call; repeat it for a call that carries a workload, a user and groups
    #[arg(long = "as", env = "JITGATE_EXPLAIN_AS", value_delimiter = '\n', value_name = "PRINCIPAL",
          required_unless_present = "decision", value_parser = values::principal)]
    principals: Vec<String>,
    /// An HTTP call, such as 'GET /v1/users/7'
    #[arg(long, env = "JITGATE_EXPLAIN_HTTP", value_name = "CALL")]
    http: Option<String>,
    /// A gRPC call, such as /pay.v1.Ledger/GetBalance
    #[arg(long, env = "JITGATE_EXPLAIN_GRPC", value_name = "METHOD")]
    grpc: Option<String>,
    /// When: RFC 3339, or +10m or -10m from now. A past moment is explained by what was in force then
    #[arg(long, env = "JITGATE_EXPLAIN_AT", value_name = "TIME", value_parser = values::moment, allow_hyphen_values = true)]
    at: Option<Moment>,
    /// A call that was made: the ID in x-jitgate-decision-id, as a sidecar has reported it
    #[arg(long, env = "JITGATE_EXPLAIN_DECISION", value_name = "ID",
          conflicts_with_all = ["service", "principals", "http", "grpc", "at"])]
    decision: Option<String>,
    #[command(flatten)]
    client: ClientArgs,
}

impl ExplainArgs {
    /// What is asked about a call. Its text is sent as it stands: the control plane alone reads it.
    pub(crate) fn question(&self) -> v1::ExplainAccessRequest {
        let http = self.http.clone().map(Target::Http);
        let at = self.at.as_ref();
        v1::ExplainAccessRequest {
            principals: self.principals.clone(),
            service: self.service.clone().unwrap_or_default(),
            target: http.or_else(|| self.grpc.clone().map(Target::Grpc)),
            at: at.map(|moment| timestamp_to(moment.resolve(clock::wall()))),
        }
    }
}

/// Explains. The exit code says whether it could be explained, not what came out.
///
/// # Errors
/// What the control plane refuses, and what keeps it from answering.
pub(crate) async fn explain(args: ExplainArgs) -> Result<Exit, CliError> {
    let ask = args.question();
    let ExplainArgs {
        decision, client, ..
    } = args;
    let mut connection = connect(client).await?;
    if let Some(id) = decision {
        return decided(&mut connection, id).await;
    }
    let explained = connection
        .access
        .explain_access(with_deadline(ask))
        .await
        .map_err(connection.refusal())?;
    connection
        .screen
        .show(&Explanation(&explained.into_inner()))?;
    Ok(Exit::Done)
}

/// A decision that was made, as it was made.
async fn decided(connection: &mut Connection, id: String) -> Result<Exit, CliError> {
    let answer = connection
        .audit
        .get_story(with_deadline(v1::GetStoryRequest { id: id.clone() }))
        .await;
    let timeline = answer.map_err(connection.refusal())?.into_inner();
    if timeline.decision.is_none() {
        let error = CliError::new(format!(
            "{id} is no decision, but a grant or an access request"
        ));
        return Err(error.hint(format!("jitgate audit timeline {id}")));
    }
    connection.screen.show(&Decided(&timeline))?;
    Ok(Exit::Done)
}
