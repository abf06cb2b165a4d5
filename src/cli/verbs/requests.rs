//! Asking for access, and looking at what was asked.

use std::time::Duration;

use clap::{Subcommand, ValueEnum};

use crate::clock;
use crate::model::scope::{GrpcRule, HttpRule};
use crate::wire::grant::{duration_to, timestamp_to};
use crate::wire::v1;

use crate::cli::connect::{ClientArgs, Connection, connect};
use crate::cli::error::{CliError, Exit, say};
use crate::cli::render::requests::{Outcome, Request, RequestLine, Requests};
use crate::cli::values::{self, Moment};
use crate::cli::write_options::{WriteArgs, tell};

mod watch;

pub(in crate::cli) use jitgate_client::with_deadline;
pub(in crate::cli) use watch::watch_one;

/// `jitgate request`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("rules").args(["http", "grpc"]).required(true).multiple(true)))]
pub struct RequestArgs {
    /// The protected service
    #[arg(long, env = "JITGATE_REQUEST_SERVICE", value_parser = values::service)]
    service: String,
    /// HTTP methods and a path template, such as 'GET,HEAD /v1/users/{id}'; may be repeated
    #[arg(long, env = "JITGATE_REQUEST_HTTP", value_delimiter = '\n', value_name = "RULE", value_parser = values::http_rule)]
    http: Vec<HttpRule>,
    /// A gRPC method, or all of a service, such as '/pay.v1.Ledger/*'; may be repeated
    #[arg(long, env = "JITGATE_REQUEST_GRPC", value_delimiter = '\n', value_name = "RULE", value_parser = values::grpc_rule)]
    grpc: Vec<GrpcRule>,
    /// Who shall get the grant, if not the caller
    #[arg(long, env = "JITGATE_REQUEST_SUBJECT", value_name = "PRINCIPAL", value_parser = values::principal,
          help = "Who shall get the grant, if not you: spiffe://… , user:<issuer>|<sub> or group:<issuer>|<name>")]
    subject: Option<String>,
    /// The grant shall count only through this workload; may be repeated
    #[arg(long, env = "JITGATE_REQUEST_VIA", value_delimiter = '\n', value_name = "PRINCIPAL", value_parser = values::principal)]
    via: Vec<String>,
    /// How long, such as 20s or 30m; the policy's default when absent
    #[arg(long = "for", env = "JITGATE_REQUEST_FOR", value_name = "TIME", value_parser = values::span)]
    duration: Option<Duration>,
    /// Why you need it
    #[arg(
        long,
        env = "JITGATE_REQUEST_REASON",
        value_name = "TEXT",
        default_value = ""
    )]
    reason: String,
    /// A ticket that it belongs to; may be repeated
    #[arg(
        long,
        env = "JITGATE_REQUEST_TICKET",
        value_delimiter = '\n',
        value_name = "TICKET"
    )]
    ticket: Vec<String>,
    /// Ask under this policy; the applicable one of highest priority when absent
    #[arg(
        long,
        env = "JITGATE_REQUEST_POLICY",
        value_name = "NAME",
        default_value = ""
    )]
    policy: String,
    /// Break the glass: at once, without approval, as far as the policy lets you; an approver reviews it afterwards
    #[arg(long, env = "JITGATE_REQUEST_BREAK_GLASS")]
    break_glass: bool,
    /// When it shall begin, such as 2030-01-31T12:00:00Z or 'in 2h', at most 90 days ahead; on approval when absent
    #[arg(long, env = "JITGATE_REQUEST_START", value_name = "TIME", value_parser = values::start)]
    start: Option<Moment>,
    #[command(flatten)]
    options: WriteArgs<false>,
    /// Wait until it is decided
    #[arg(long, env = "JITGATE_REQUEST_WAIT")]
    wait: bool,
    #[command(flatten)]
    client: ClientArgs,
}

impl RequestArgs {
    fn into_parts(self) -> (v1::RequestAccessRequest, bool, v1::WriteOptions, ClientArgs) {
        let Self {
            service,
            http,
            grpc,
            subject,
            via,
            duration,
            reason,
            ticket,
            policy,
            ..
        } = self;
        let Self {
            start,
            break_glass,
            options,
            wait,
            client,
            ..
        } = self;
        let options = options.settle();
        let scope = v1::Scope {
            service,
            grpc: grpc.iter().map(ToString::to_string).collect(),
            http: http.iter().map(http_to).collect(),
        };
        let ask = v1::RequestAccessRequest {
            subject: subject.unwrap_or_default(),
            via,
            scope: Some(scope),
            duration: duration.map(duration_to),
            reason,
            tickets: ticket,
            policy,
            break_glass,
            start_time: start.map(|start| timestamp_to(start.resolve(clock::wall()))),
            options: Some(options.clone()),
        };
        (ask, wait && !options.validate_only, options, client)
    }
}

/// Asks for access. Exit code 1 when the answer is no.
///
/// # Errors
/// What the control plane refuses, and what keeps it from answering.
pub(crate) async fn request(args: RequestArgs) -> Result<Exit, CliError> {
    let (ask, wait, options, client) = args.into_parts();
    let mut connection = connect(client).await?;
    let asked = connection
        .access
        .request_access(with_deadline(ask))
        .await
        .map_err(connection.refusal())?
        .into_inner();
    tell(&options);
    conclude(&mut connection, asked, wait).await
}

/// Waits for the decision, if that is wanted, and shows what came of it. Exit code 1 when it is no.
pub(in crate::cli) async fn conclude(
    connection: &mut Connection,
    asked: v1::AccessRequest,
    wait: bool,
) -> Result<Exit, CliError> {
    let refusal = connection.refusal();
    let decided = if wait && asked.state() == v1::AccessRequestState::Pending {
        say(&format!(
            "request {} waits for a decision; Ctrl-C stops the waiting, not the request",
            asked.id
        ));
        watch_one(connection, &asked.id, |_| Ok(())).await?
    } else {
        asked
    };
    let grant = match decided.grant.as_str() {
        "" => None,
        id => Some(
            connection
                .access
                .get_grant(with_deadline(v1::GetGrantRequest { id: id.to_owned() }))
                .await,
        ),
    };
    let grant = grant
        .transpose()
        .map_err(&refusal)?
        .map(tonic::Response::into_inner);
    connection.screen.show(&Outcome {
        request: &decided,
        grant: grant.as_ref(),
    })?;
    Ok(verdict(decided.state()))
}

fn verdict(state: v1::AccessRequestState) -> Exit {
    match state {
        v1::AccessRequestState::Pending | v1::AccessRequestState::Approved => Exit::Done,
        v1::AccessRequestState::Unspecified
        | v1::AccessRequestState::Denied
        | v1::AccessRequestState::Cancelled
        | v1::AccessRequestState::Expired
        | v1::AccessRequestState::Failed => Exit::Refused,
    }
}

/// `jitgate requests`.
#[derive(Debug, clap::Args)]
pub struct RequestsArgs {
    #[command(subcommand)]
    verb: Option<RequestsVerb>,
    #[command(flatten)]
    client: ClientArgs,
}

/// What to do with access requests; without one of these they are listed.
#[derive(Debug, Subcommand)]
pub(crate) enum RequestsVerb {
    /// List those you may see, newest first
    List {
        /// Only those in this state
        #[arg(long, env = "JITGATE_REQUESTS_STATE", value_enum)]
        state: Option<State>,
        /// At most so many
        #[arg(
            long,
            env = "JITGATE_REQUESTS_LIMIT",
            value_name = "N",
            default_value_t = 100
        )]
        limit: usize,
        /// Only those that wait for your own review
        #[arg(long, env = "JITGATE_REQUESTS_FOR_ME")]
        for_me: bool,
    },
    /// Show one
    Show {
        /// Its ID
        id: String,
    },
    /// Print each change as it happens: of one request until it is decided, or of all that wait for you until Ctrl-C
    Watch {
        /// Its ID; without it, what waits for your own review
        id: Option<String>,
        /// What you have asked for or are to get, instead
        #[arg(long, env = "JITGATE_REQUESTS_MINE", conflicts_with_all = ["id", "all"])]
        mine: bool,
        /// Everything that you may see, instead
        #[arg(long, env = "JITGATE_REQUESTS_ALL", conflicts_with = "id")]
        all: bool,
    },
}

/// A state to filter by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum State {
    /// Waits for a decision
    Pending,
    /// A grant was issued
    Approved,
    /// Refused
    Denied,
    /// Taken back
    Cancelled,
    /// Nobody decided in time
    Expired,
    /// Could not be carried out
    Failed,
}

impl From<State> for v1::AccessRequestState {
    fn from(state: State) -> Self {
        match state {
            State::Pending => Self::Pending,
            State::Approved => Self::Approved,
            State::Denied => Self::Denied,
            State::Cancelled => Self::Cancelled,
            State::Expired => Self::Expired,
            State::Failed => Self::Failed,
        }
    }
}

/// Lists, shows or watches access requests.
///
/// # Errors
/// What the control plane refuses, and what keeps it from answering.
pub(crate) async fn requests(args: RequestsArgs) -> Result<Exit, CliError> {
    let RequestsArgs { verb, client } = args;
    let mut connection = connect(client).await?;
    match verb.unwrap_or(RequestsVerb::List {
        state: None,
        limit: 100,
        for_me: false,
    }) {
        RequestsVerb::List {
            state,
            limit,
            for_me,
        } => {
            let listed = list(&mut connection, state, limit, for_me).await?;
            connection.screen.show(&Requests(listed))?;
        }
        RequestsVerb::Show { id } => {
            let shown = connection
                .access
                .get_access_request(with_deadline(v1::GetAccessRequestRequest { id }))
                .await;
            let shown = shown.map_err(connection.refusal())?.into_inner();
            connection.screen.show(&Request(&shown))?;
        }
        RequestsVerb::Watch { id: Some(id), .. } => {
            let screen = connection.screen.clone();
            let last = watch_one(&connection, &id, |request| {
                screen.show_next(&RequestLine(request))
            })
            .await?;
            return Ok(verdict(last.state()));
        }
        RequestsVerb::Watch {
            id: None,
            mine,
            all,
        } => {
            let filter = v1::WatchAccessRequestsRequest {
                for_review: !mine && !all,
                mine,
            };
            let what = if mine {
                "what you have asked for"
            } else {
                "what waits for your review"
            };
            say(&format!(
                "watching {}; Ctrl-C ends it",
                if all { "everything you may see" } else { what }
            ));
            watch::watch_all(&connection, filter).await?;
        }
    }
    Ok(Exit::Done)
}

async fn list(
    connection: &mut Connection,
    state: Option<State>,
    limit: usize,
    for_review: bool,
) -> Result<Vec<v1::AccessRequest>, CliError> {
    let refusal = connection.refusal();
    let mut listed = Vec::new();
    let mut page_token = String::new();
    loop {
        let page_size =
            i32::try_from(limit.saturating_sub(listed.len()).clamp(1, 1000)).unwrap_or(1000);
        let state = state
            .map_or(v1::AccessRequestState::Unspecified, Into::into)
            .into();
        let ask = v1::ListAccessRequestsRequest {
            page_size,
            page_token,
            state,
            for_review,
        };
        let page = connection
            .access
            .list_access_requests(with_deadline(ask))
            .await
            .map_err(&refusal)?
            .into_inner();
        listed.extend(page.access_requests);
        page_token = page.next_page_token;
        if page_token.is_empty() || listed.len() >= limit {
            listed.truncate(limit);
            return Ok(listed);
        }
    }
}

/// `jitgate cancel`.
#[derive(Debug, clap::Args)]
pub struct CancelArgs {
    /// The pending request's ID
    id: String,
    /// Why, for the record
    #[arg(
        long,
        env = "JITGATE_CANCEL_REASON",
        value_name = "TEXT",
        default_value = ""
    )]
    reason: String,
    #[command(flatten)]
    options: WriteArgs,
    #[command(flatten)]
    client: ClientArgs,
}

/// Takes a pending request back.
///
/// # Errors
/// What the control plane refuses, and what keeps it from answering.
pub(crate) async fn cancel(args: CancelArgs) -> Result<Exit, CliError> {
    let CancelArgs {
        id,
        reason,
        options,
        client,
    } = args;
    let options = options.settle();
    let mut connection = connect(client).await?;
    let ask = v1::CancelAccessRequestRequest {
        id,
        reason,
        options: Some(options.clone()),
    };
    let cancelled = connection
        .access
        .cancel_access_request(with_deadline(ask))
        .await
        .map_err(connection.refusal())?;
    tell(&options);
    connection.screen.show(&Request(&cancelled.into_inner()))?;
    Ok(Exit::Done)
}

pub(in crate::cli) fn http_to(rule: &HttpRule) -> v1::HttpRule {
    v1::HttpRule {
        methods: rule.methods().into_iter().map(str::to_owned).collect(),
        path: rule.path().as_str().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_no_is_a_failure() {
        assert_eq!(verdict(v1::AccessRequestState::Pending), Exit::Done);
        assert_eq!(verdict(v1::AccessRequestState::Approved), Exit::Done);
        for state in [
            v1::AccessRequestState::Denied,
            v1::AccessRequestState::Expired,
            v1::AccessRequestState::Unspecified,
        ] {
            assert_eq!(verdict(state), Exit::Refused, "{state:?}");
        }
    }
}
