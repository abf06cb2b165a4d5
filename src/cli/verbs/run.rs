//! `jitgate run`: asks, waits, runs a command with the access, and gives it back when the command ends, however it ends.
//!
//! Nothing is renewed: a command that outlives its grant is refused from then on. What the caller can be refused for is
//! known before the command starts.

use std::ffi::OsString;
use std::time::Duration;

use ulid::Ulid;

use crate::model::scope::{GrpcRule, HttpRule};
use crate::wire::grant::{duration_to, timestamp_from};
use crate::wire::v1;

use super::requests::{http_to, watch_one, with_deadline};
use crate::cli::connect::{ClientArgs, Connection, connect};
use crate::cli::error::{CliError, Exit, note, printable};
use crate::cli::values;

mod child;
mod token;

use child::Signals;

/// The reason of the release, for the record.
const DONE: &str = "the command has ended";
/// The grant's id, for the command.
const GRANT: &str = "JITGATE_GRANT";
/// When it ends, RFC 3339.
const EXPIRES: &str = "JITGATE_EXPIRES";
/// The token of the grant, where the control plane issues tokens.
const ACCESS_TOKEN: &str = "JITGATE_ACCESS_TOKEN";
/// How often giving back is tried while the control plane does not answer.
const TRIES: usize = 3;

/// `jitgate run`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("run_rules").args(["http", "grpc"]).required(true).multiple(true)))]
pub struct RunArgs {
    /// The protected service
    #[arg(long, env = "JITGATE_RUN_SERVICE", value_parser = values::service)]
    service: String,
    /// HTTP methods and a path template, such as 'GET,HEAD /v1/users/{id}'; may be repeated
    #[arg(long, env = "JITGATE_RUN_HTTP", value_delimiter = '\n', value_name = "RULE", value_parser = values::http_rule)]
    http: Vec<HttpRule>,
    /// A gRPC method, or all of a service, such as '/pay.v1.Ledger/*'; may be repeated
    #[arg(long, env = "JITGATE_RUN_GRPC", value_delimiter = '\n', value_name = "RULE", value_parser = values::grpc_rule)]
    grpc: Vec<GrpcRule>,
    /// How long at most; the policy's default when absent. The command may end earlier, and the access with it
    #[arg(long = "for", env = "JITGATE_RUN_FOR", value_name = "TIME", value_parser = values::span)]
    duration: Option<Duration>,
    /// Why you need it
    #[arg(
        long,
        env = "JITGATE_RUN_REASON",
        value_name = "TEXT",
        default_value = ""
    )]
    reason: String,
    /// A ticket that it belongs to; may be repeated
    #[arg(
        long,
        env = "JITGATE_RUN_TICKET",
        value_delimiter = '\n',
        value_name = "TICKET"
    )]
    ticket: Vec<String>,
    /// The workload that makes the calls: the access counts only through it, and a token is bound to it
    #[arg(long, env = "JITGATE_RUN_WORKLOAD", value_name = "SPIFFE-ID", value_parser = values::principal)]
    workload: Option<String>,
    /// The command and its arguments, after `--`
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    #[command(flatten)]
    client: ClientArgs,
}

/// Runs the command. Exit code: the command's own; 1 when the access is refused; 128 and the signal when one ends it.
///
/// # Errors
/// What the control plane refuses, and what keeps it from answering, or the command from starting.
pub(crate) async fn run(args: RunArgs) -> Result<Exit, CliError> {
    let RunArgs {
        service,
        http,
        grpc,
        duration,
        reason,
        ticket,
        workload,
        command,
        client,
    } = args;
    if workload.is_some() {
        client.may_carry_secrets()?;
    }
    // From the first moment on, so that a signal always finds somebody who cleans up.
    let mut signals = Signals::listen()?;
    let scope = v1::Scope {
        service,
        grpc: grpc.iter().map(ToString::to_string).collect(),
        http: http.iter().map(http_to).collect(),
    };
    let ask = v1::RequestAccessRequest {
        scope: Some(scope),
        duration: duration.map(duration_to),
        reason,
        tickets: ticket,
        via: workload.iter().cloned().collect(),
        options: Some(v1::WriteOptions {
            request_id: Ulid::generate().to_string(),
            ..v1::WriteOptions::default()
        }),
        ..Default::default()
    };
    let mut connection = connect(client).await?;
    let asked = connection
        .access
        .request_access(with_deadline(ask))
        .await
        .map_err(connection.refusal())?
        .into_inner();
    let id = asked.id.clone();
    let decided = tokio::select! {
        biased;
        decided = decision(&mut connection, asked) => Some(decided),
        stopped = signals.stop() => {
            note(&format!("stopped by {}; taking request {id} back", stopped.name));
            take_back(&mut connection, &id).await;
            return Ok(Exit::Of(stopped.code()));
        }
    };
    let decided = match decided {
        Some(Ok(decided)) => decided,
        Some(Err(error)) => {
            take_back(&mut connection, &id).await;
            return Err(error);
        }
        None => return Ok(Exit::Refused),
    };
    if decided.grant.is_empty() {
        return Err(refused(&decided));
    }
    let ran = with_grant(
        &mut connection,
        &decided.grant,
        workload.as_deref(),
        command,
        &mut signals,
    )
    .await;
    give_back(&mut connection, &decided.grant).await;
    ran
}

/// The request as it ends; reviews are printed on the way.
async fn decision(
    connection: &mut Connection,
    asked: v1::AccessRequest,
) -> Result<v1::AccessRequest, CliError> {
    if asked.state() != v1::AccessRequestState::Pending {
        return Ok(asked);
    }
    note(&waits_for(&asked));
    let mut printed = 0;
    watch_one(connection, &asked.id, |request| {
        for review in request.reviews.iter().skip(printed) {
            let verdict = review
                .verdict()
                .as_str_name()
                .trim_start_matches("REVIEW_VERDICT_")
                .to_lowercase();
            note(&printable(&format!("{} {verdict}", review.reviewer)));
        }
        printed = request.reviews.len();
        Ok(())
    })
    .await
}

fn waits_for(request: &v1::AccessRequest) -> String {
    let open = request
        .progress
        .iter()
        .filter(|step| step.open && step.have < step.need);
    let steps: Vec<String> = open
        .map(|step| {
            format!(
                "{} of {} from {}",
                step.have,
                step.need,
                step.approvers.join(" or ")
            )
        })
        .collect();
    let whom = if steps.is_empty() {
        "a decision".to_owned()
    } else {
        format!("approval ({})", steps.join("; "))
    };
    printable(&format!(
        "request {} waits for {whom}; Ctrl-C takes it back",
        request.id
    ))
}

fn refused(request: &v1::AccessRequest) -> CliError {
    let state = request
        .state()
        .as_str_name()
        .trim_start_matches("ACCESS_REQUEST_STATE_");
    let because = if request.decision_reason.is_empty() {
        String::new()
    } else {
        format!(": {}", request.decision_reason)
    };
    let by = if request.decided_by.is_empty() {
        String::new()
    } else {
        format!(" by {}", request.decided_by)
    };
    CliError::new(format!("{state}{by}{because}"))
        .hint(format!("jitgate requests show {} says more", request.id))
}

/// Everything that happens while the grant is held.
async fn with_grant(
    connection: &mut Connection,
    id: &str,
    workload: Option<&str>,
    command: Vec<OsString>,
    signals: &mut Signals,
) -> Result<Exit, CliError> {
    let shown = connection
        .access
        .get_grant(with_deadline(v1::GetGrantRequest { id: id.to_owned() }))
        .await;
    let grant = shown.map_err(connection.refusal())?.into_inner();
    let expires = grant
        .expire_time
        .as_ref()
        .and_then(|time| timestamp_from(time, "expire_time").ok());
    let mut environment = vec![(GRANT, id.to_owned())];
    environment.extend(expires.map(|end| (EXPIRES, end.to_string())));
    if let Some(token) = token::issue(connection, id, workload).await? {
        environment.push((ACCESS_TOKEN, token.reveal().to_owned()));
    }
    let until = expires
        .map(|end| format!(" until {end}"))
        .unwrap_or_default();
    note(&format!(
        "access to {} by grant {id}{until}",
        grant.scope.unwrap_or_default().service
    ));
    child::run(command, &environment, signals).await
}

/// The request is cancelled; if somebody has approved it meanwhile, its grant is given back.
async fn take_back(connection: &mut Connection, id: &str) {
    let reason = "the command that it was for did not run".to_owned();
    let ask = v1::CancelAccessRequestRequest {
        id: id.to_owned(),
        reason,
        ..Default::default()
    };
    if connection
        .access
        .cancel_access_request(with_deadline(ask))
        .await
        .is_ok()
    {
        return;
    }
    let shown = connection
        .access
        .get_access_request(with_deadline(v1::GetAccessRequestRequest {
            id: id.to_owned(),
        }))
        .await;
    match shown.map(tonic::Response::into_inner) {
        Ok(request) if !request.grant.is_empty() => give_back(connection, &request.grant).await,
        Ok(_) => {}
        Err(_) => note(&format!(
            "request {id} could not be taken back; jitgate cancel {id} does it"
        )),
    }
}

/// Releases the grant. What keeps it from that is printed: the grant then ends by itself.
async fn give_back(connection: &mut Connection, id: &str) {
    let mut last = None;
    for _ in 0..TRIES {
        let ask = v1::ReleaseGrantRequest {
            id: id.to_owned(),
            reason: DONE.to_owned(),
            ..Default::default()
        };
        match connection.access.release_grant(with_deadline(ask)).await {
            Ok(_) => {
                note(&format!("grant {id} released"));
                return;
            }
            // Over already, by its clock or by somebody else: nothing to give back.
            Err(status) if status.code() == tonic::Code::FailedPrecondition => {
                note(&format!(
                    "grant {id} was over before the command was: {}",
                    printable(status.message())
                ));
                return;
            }
            Err(status) => last = Some(status),
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let cause = last
        .map(|status| printable(status.message()))
        .unwrap_or_default();
    note(&format!(
        "grant {id} could not be released ({cause}); it ends by itself, or with: jitgate release {id}"
    ));
}
