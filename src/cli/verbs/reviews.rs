//! Approving and denying what others ask for: the request is fetched and shown, and exactly that is reviewed, by its digest. And the
//! review afterwards of what they took by breaking the glass.

use std::time::Duration;

use crate::clock;
use crate::model::scope::{GrpcRule, HttpRule};
use crate::wire::grant::duration_to;
use crate::wire::v1;

use super::requests::{http_to, with_deadline};
use crate::cli::connect::{ClientArgs, Connection, connect};
use crate::cli::error::{CliError, Exit, say};
use crate::cli::render::requests::Request;
use crate::cli::render::{TextStyle, View};
use crate::cli::values;
use crate::cli::write_options::{WriteArgs, tell};

/// `jitgate approve`.
#[derive(Debug, clap::Args)]
pub struct ApproveArgs {
    /// The pending request's ID
    id: String,
    /// Why, for the record
    #[arg(
        long,
        env = "JITGATE_APPROVE_REASON",
        value_name = "TEXT",
        default_value = ""
    )]
    reason: String,
    /// Only for so long, such as 10m; as long as was asked for when absent
    #[arg(long = "for", env = "JITGATE_APPROVE_FOR", value_name = "TIME", value_parser = values::span)]
    duration: Option<Duration>,
    /// Of all that was asked for, only this HTTP rule; may be repeated
    #[arg(long, env = "JITGATE_APPROVE_HTTP", value_delimiter = '\n', value_name = "RULE", value_parser = values::http_rule)]
    http: Vec<HttpRule>,
    /// Of all that was asked for, only this gRPC rule; may be repeated
    #[arg(long, env = "JITGATE_APPROVE_GRPC", value_delimiter = '\n', value_name = "RULE", value_parser = values::grpc_rule)]
    grpc: Vec<GrpcRule>,
    /// Only if this is still what is asked for: the digest that `jitgate requests show` printed
    #[arg(long, env = "JITGATE_APPROVE_DIGEST", value_name = "DIGEST")]
    digest: Option<String>,
    #[command(flatten)]
    options: WriteArgs,
    #[command(flatten)]
    client: ClientArgs,
}

/// `jitgate deny`.
#[derive(Debug, clap::Args)]
pub struct DenyArgs {
    /// The pending request's ID
    id: String,
    /// Why, for the record and for whoever asked
    #[arg(
        long,
        env = "JITGATE_DENY_REASON",
        value_name = "TEXT",
        default_value = ""
    )]
    reason: String,
    /// Only if this is still what is asked for: the digest that `jitgate requests show` printed
    #[arg(long, env = "JITGATE_DENY_DIGEST", value_name = "DIGEST")]
    digest: Option<String>,
    #[command(flatten)]
    options: WriteArgs,
    #[command(flatten)]
    client: ClientArgs,
}

/// Approves a pending request, all of it or less.
///
/// # Errors
/// What the control plane refuses, and what keeps it from answering.
pub(crate) async fn approve(args: ApproveArgs) -> Result<Exit, CliError> {
    let ApproveArgs {
        id,
        reason,
        duration,
        http,
        grpc,
        digest,
        options,
        client,
    } = args;
    let options = options.settle();
    let mut connection = connect(client).await?;
    let shown = look(&mut connection, id, "approving").await?;
    let narrowed_scope = (!http.is_empty() || !grpc.is_empty()).then(|| v1::Scope {
        service: shown
            .scope
            .as_ref()
            .map(|scope| scope.service.clone())
            .unwrap_or_default(),
        grpc: grpc.iter().map(ToString::to_string).collect(),
        http: http.iter().map(http_to).collect(),
    });
    let review = v1::ApproveRequestRequest {
        id: shown.id,
        request_digest: digest.unwrap_or(shown.request_digest),
        reason,
        narrowed_scope,
        narrowed_duration: duration.map(duration_to),
        options: Some(options.clone()),
    };
    let reviewed = connection
        .access
        .approve_request(with_deadline(review))
        .await
        .map_err(connection.refusal())?;
    let reviewed = reviewed.into_inner();
    tell(&options);
    connection.screen.show(&Request(&reviewed))?;
    // The last approval can come too late for what was asked.
    let failed = reviewed.state() == v1::AccessRequestState::Failed;
    Ok(if failed { Exit::Refused } else { Exit::Done })
}

/// Denies a pending request.
///
/// # Errors
/// What the control plane refuses, and what keeps it from answering.
pub(crate) async fn deny(args: DenyArgs) -> Result<Exit, CliError> {
    let DenyArgs {
        id,
        reason,
        digest,
        options,
        client,
    } = args;
    let options = options.settle();
    let mut connection = connect(client).await?;
    let shown = look(&mut connection, id, "denying").await?;
    let review = v1::DenyRequestRequest {
        id: shown.id,
        request_digest: digest.unwrap_or(shown.request_digest),
        reason,
        options: Some(options.clone()),
    };
    let reviewed = connection
        .access
        .deny_request(with_deadline(review))
        .await
        .map_err(connection.refusal())?;
    tell(&options);
    connection.screen.show(&Request(&reviewed.into_inner()))?;
    Ok(Exit::Done)
}

/// `jitgate review`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("opinion").args(["ok", "objection"]).required(true)))]
pub struct ReviewArgs {
    /// The ID of the request for which the glass was broken, or of its grant
    id: String,
    /// It was right
    #[arg(long, env = "JITGATE_REVIEW_OK")]
    ok: bool,
    /// It was not; its grant ends if it still lives
    #[arg(long, env = "JITGATE_REVIEW_OBJECTION")]
    objection: bool,
    /// Why, for the record
    #[arg(long, env = "JITGATE_REVIEW_REASON", value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    options: WriteArgs,
    #[command(flatten)]
    client: ClientArgs,
}

/// Reviews a request for which the glass was broken.
///
/// # Errors
/// What the control plane refuses, and what keeps it from answering.
pub(crate) async fn review(args: ReviewArgs) -> Result<Exit, CliError> {
    let ReviewArgs {
        id,
        ok,
        objection: _,
        reason,
        options,
        client,
    } = args;
    let options = options.settle();
    let mut connection = connect(client).await?;
    let opinion = if ok {
        v1::BreakGlassOpinion::Ok
    } else {
        v1::BreakGlassOpinion::Objection
    };
    let review = v1::ReviewBreakGlassRequest {
        id,
        opinion: opinion.into(),
        reason,
        options: Some(options.clone()),
    };
    let reviewed = connection
        .access
        .review_break_glass(with_deadline(review))
        .await
        .map_err(connection.refusal())?;
    tell(&options);
    connection.screen.show(&Request(&reviewed.into_inner()))?;
    Ok(Exit::Done)
}

/// Fetches the request and tells what it asks for: the digest that is sent is the one of what was shown.
async fn look(
    connection: &mut Connection,
    id: String,
    doing: &str,
) -> Result<v1::AccessRequest, CliError> {
    let found = connection
        .access
        .get_access_request(with_deadline(v1::GetAccessRequestRequest { id }))
        .await;
    let request = found.map_err(connection.refusal())?.into_inner();
    say(&format!("{doing}:\n"));
    Request(&request)
        .text(&TextStyle {
            now: clock::wall(),
            width: None,
        })
        .lines()
        .for_each(say);
    say("");
    Ok(request)
}
