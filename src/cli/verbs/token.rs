//! `jitgate token`: a token for a grant, what a token says and how each check of it comes out, and the keys behind it.
//!
//! Only `issue` prints a token, and nothing else then. What is inspected is shown without its signature: it cannot be
//! used as a token.

use std::io::Read;
use std::time::Duration;

use clap::Subcommand;

use crate::clock;
use crate::jose::jit::inspect::{Against, inspect};
use crate::wire::grant::{duration_to, timestamp_from};
use crate::wire::v1;

use super::requests::with_deadline;
use crate::cli::connect::{ClientArgs, connect};
use crate::cli::error::{CliError, Exit, note};
use crate::cli::values::{self, Token};

mod view;

use view::{Inspected, Issued, Keys};

/// `jitgate token`.
#[derive(Debug, clap::Args)]
pub struct TokenArgs {
    #[command(subcommand)]
    verb: TokenVerb,
    #[command(flatten)]
    client: ClientArgs,
}

/// What can be done with tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenVerb {
    /// Get a token for a grant of yours; prints the token alone, for $(...)
    Issue(IssueArgs),
    /// Show what a token says and how each check of it comes out, by the clock here and there
    Inspect(InspectArgs),
    /// List the keys that sign tokens, public halves only
    Keys,
    /// Publish the next key now; it signs after the usual lead, and no token is refused over it
    Rotate(RotateArgs),
}

/// `jitgate token issue`.
#[derive(Debug, clap::Args)]
pub(crate) struct IssueArgs {
    /// The grant's ID
    grant: String,
    /// The workload that will present the token, where that is not the one that asks
    #[arg(long, env = "JITGATE_TOKEN_WORKLOAD", value_name = "SPIFFE-ID", value_parser = values::principal)]
    workload: Option<String>,
    /// Good for no longer than this; at most 5m, and never past the grant
    #[arg(long = "for", env = "JITGATE_TOKEN_FOR", value_name = "TIME", value_parser = values::span)]
    lifetime: Option<Duration>,
}

/// `jitgate token inspect`.
#[derive(Debug, clap::Args)]
pub(crate) struct InspectArgs {
    /// The token, or - for standard input
    #[arg(env = "JITGATE_TOKEN", hide_env_values = true, value_name = "TOKEN", value_parser = values::token)]
    inspected: Token,
    /// Ask nobody: only what can be told without the control plane
    #[arg(long, env = "JITGATE_TOKEN_OFFLINE")]
    offline: bool,
    /// The service that it would be presented at [default: the one that it names]
    #[arg(long, env = "JITGATE_TOKEN_FOR_SERVICE", value_name = "SERVICE", value_parser = values::service)]
    for_service: Option<String>,
    /// The workload that would present it [default: the one that it names]
    #[arg(long, env = "JITGATE_TOKEN_PEER", value_name = "SPIFFE-ID", value_parser = values::principal)]
    peer: Option<String>,
}

/// `jitgate token rotate`.
#[derive(Debug, clap::Args)]
pub(crate) struct RotateArgs {
    /// Why, for the audit log
    #[arg(
        long,
        env = "JITGATE_TOKEN_REASON",
        value_name = "TEXT",
        default_value = ""
    )]
    reason: String,
}

/// Does it.
///
/// # Errors
/// What the control plane refuses, what keeps it from answering, and what is no token.
pub(crate) async fn token(args: TokenArgs) -> Result<Exit, CliError> {
    let TokenArgs { verb, client } = args;
    match verb {
        TokenVerb::Issue(args) => issue(args, client).await,
        TokenVerb::Inspect(args) => look_into(args, client).await,
        TokenVerb::Keys => keys(client).await,
        TokenVerb::Rotate(RotateArgs { reason }) => rotate(reason, client).await,
    }
}

async fn issue(args: IssueArgs, client: ClientArgs) -> Result<Exit, CliError> {
    let IssueArgs {
        grant,
        workload,
        lifetime,
    } = args;
    client.may_carry_secrets()?;
    let mut connection = connect(client).await?;
    let workload = workload.unwrap_or_default();
    let wanted = v1::IssueTokenRequest {
        grant,
        workload,
        duration: lifetime.map(duration_to),
    };
    let issued = connection
        .tokens
        .issue_token(with_deadline(wanted))
        .await
        .map_err(connection.refusal())?;
    connection.screen.show(&Issued(issued.into_inner()))?;
    Ok(Exit::Done)
}

async fn keys(client: ClientArgs) -> Result<Exit, CliError> {
    let mut connection = connect(client).await?;
    let listed = connection
        .tokens
        .list_token_keys(with_deadline(v1::ListTokenKeysRequest {}))
        .await;
    connection
        .screen
        .show(&Keys(listed.map_err(connection.refusal())?.into_inner()))?;
    Ok(Exit::Done)
}

async fn rotate(reason: String, client: ClientArgs) -> Result<Exit, CliError> {
    let mut connection = connect(client).await?;
    let rotated = connection
        .tokens
        .rotate_token_key(with_deadline(v1::RotateTokenKeyRequest { reason }))
        .await;
    connection
        .screen
        .show(&Keys(rotated.map_err(connection.refusal())?.into_inner()))?;
    Ok(Exit::Done)
}

/// The exit code says whether the token could be looked at, not what came out.
async fn look_into(args: InspectArgs, client: ClientArgs) -> Result<Exit, CliError> {
    let InspectArgs {
        inspected,
        offline,
        for_service,
        peer,
    } = args;
    let token = if inspected.reveal() == "-" {
        from_stdin()?
    } else {
        inspected
    };
    let text = token
        .reveal()
        .strip_prefix("Bearer ")
        .unwrap_or(token.reveal());
    let here = inspect(
        text,
        &Against {
            now: clock::wall(),
            ..Against::default()
        },
    );
    let (Some(_), Some(_)) = (&here.header, &here.claims) else {
        return Err(CliError::new(
            "token: must be a JWT: three parts with dots between them, two of them JSON",
        ));
    };
    let screen = client.output.screen();
    // A token of somebody else's is nobody's business at the control plane.
    let ours = here
        .header
        .as_ref()
        .and_then(|header| header.get("typ"))
        .is_some_and(|typ| typ == crate::jose::jit::TYP);
    let asked = v1::IntrospectTokenRequest {
        token: text.to_owned(),
        service: for_service.unwrap_or_default(),
        peer: peer.unwrap_or_default(),
    };
    let there = match (ours, offline) {
        (true, false) => ask(asked, client)
            .await
            .map_err(|error| error.lines().join("; ")),
        (true, true) => Err("not asked (--offline)".to_owned()),
        (false, _) => Err("not asked: this is no token of jitgate's own".to_owned()),
    };
    if let Err(why) = &there {
        note(&format!("not verified by the control plane: {why}"));
    }
    screen.show(&Inspected::new(here, there.ok()))?;
    Ok(Exit::Done)
}

/// The control plane's view, and the clock here just before and after.
async fn ask(
    asked: v1::IntrospectTokenRequest,
    client: ClientArgs,
) -> Result<view::There, CliError> {
    client.may_carry_secrets()?;
    let mut connection = connect(client).await?;
    let before = clock::wall();
    let answer = connection
        .tokens
        .introspect_token(with_deadline(asked))
        .await
        .map_err(connection.refusal())?
        .into_inner();
    let halfway = before.plus(clock::wall().since(before) / 2);
    let server = answer
        .server_time
        .as_ref()
        .and_then(|time| timestamp_from(time, "server_time").ok());
    let server = server.ok_or_else(|| CliError::new("the control plane does not tell its time"))?;
    Ok(view::There {
        answer,
        server,
        local: halfway,
    })
}

fn from_stdin() -> Result<Token, CliError> {
    const LIMIT: u64 = 1 << 20;
    let mut text = String::new();
    std::io::stdin()
        .lock()
        .take(LIMIT)
        .read_to_string(&mut text)?;
    Ok(Token::new(&text))
}
