//! `jitgate audit`: looking at what was done, taking it elsewhere, and proving that nobody has changed it since.

use clap::Subcommand;

use crate::clock;
use crate::wire::grant::timestamp_to;
use crate::wire::v1;

use super::requests::with_deadline;
use crate::cli::connect::{ClientArgs, Connection, connect};
use crate::cli::error::{CliError, Exit};
use crate::cli::render::audit::{Events, Kept, Timeline};
use crate::cli::render::write_out;
use crate::cli::values::{self, Moment};

pub(crate) mod line;
mod verify;

use line::Line;
use verify::{Offline, VerifyArgs};

/// `jitgate audit`.
#[derive(Debug, clap::Args)]
pub struct AuditArgs {
    #[command(subcommand)]
    verb: AuditVerb,
    #[command(flatten)]
    client: ClientArgs,
}

/// What to do with the audit chain.
#[derive(Debug, Subcommand)]
enum AuditVerb {
    /// List events, newest first: all of them for an administrator, else those of your requests and grants
    List(ListArgs),
    /// Write the chain to standard output, one JSON object a line: enough to verify it offline
    Export {
        /// The first event; what lies before it was exported earlier
        #[arg(long, env = "JITGATE_AUDIT_FROM", value_name = "INDEX", default_value_t = 1,
              value_parser = clap::value_parser!(u64).range(1..))]
        from: u64,
    },
    /// Say where the chain stands: keep it elsewhere, and a cut tail or a chain written anew will be found by it
    Checkpoint,
    /// Prove that no event was edited, inserted, deleted, moved or cut off
    Verify(VerifyArgs),
    /// Show everything about one grant, access request or decision, in the order of time
    #[command(alias = "story")]
    Timeline {
        /// The ID of any of the three
        id: String,
    },
}

/// Which events to list.
#[derive(Debug, clap::Args)]
struct ListArgs {
    /// Only those of this: grants/ID, accessRequests/ID or policies/NAME
    #[arg(long, env = "JITGATE_AUDIT_RESOURCE", value_name = "RESOURCE")]
    resource: Option<String>,
    /// Only those by this principal, rule:NAME or system:PART
    #[arg(long, env = "JITGATE_AUDIT_ACTOR", value_name = "ACTOR")]
    actor: Option<String>,
    /// Only those whose type begins so: grant.revoked, or grant. for all of grants
    #[arg(long = "type", env = "JITGATE_AUDIT_TYPE", value_name = "PREFIX")]
    kind: Option<String>,
    /// Only those from then on: RFC 3339, or -1h for the last hour
    #[arg(long, env = "JITGATE_AUDIT_SINCE", value_name = "TIME", value_parser = values::moment, allow_hyphen_values = true)]
    since: Option<Moment>,
    /// Only those before then
    #[arg(long, env = "JITGATE_AUDIT_UNTIL", value_name = "TIME", value_parser = values::moment, allow_hyphen_values = true)]
    until: Option<Moment>,
    /// How many at most; 0: all
    #[arg(
        long,
        env = "JITGATE_AUDIT_LIMIT",
        value_name = "COUNT",
        default_value_t = 100
    )]
    limit: usize,
}

/// Does what was asked. `offline` looks into a directory.
///
/// # Errors
/// What the control plane refuses, and what keeps it from answering.
pub async fn audit(args: AuditArgs, offline: Offline) -> Result<Exit, CliError> {
    let AuditArgs { verb, client } = args;
    match verb {
        AuditVerb::List(which) => list(&mut connect(client).await?, which).await,
        AuditVerb::Export { from } => export(&mut connect(client).await?, from).await,
        AuditVerb::Checkpoint => {
            let mut connection = connect(client).await?;
            let taken = connection
                .audit
                .get_audit_checkpoint(with_deadline(v1::GetAuditCheckpointRequest {}))
                .await;
            connection
                .screen
                .show(&Kept(&taken.map_err(connection.refusal())?.into_inner()))?;
            Ok(Exit::Done)
        }
        AuditVerb::Verify(what) => verify::verify(what, client, offline).await,
        AuditVerb::Timeline { id } => {
            let mut connection = connect(client).await?;
            let answer = connection
                .audit
                .get_story(with_deadline(v1::GetStoryRequest { id }))
                .await;
            connection.screen.show(&Timeline(
                &answer.map_err(connection.refusal())?.into_inner(),
            ))?;
            Ok(Exit::Done)
        }
    }
}

async fn list(connection: &mut Connection, which: ListArgs) -> Result<Exit, CliError> {
    let ListArgs {
        resource,
        actor,
        kind,
        since,
        until,
        limit,
    } = which;
    let (refusal, now) = (connection.refusal(), clock::wall());
    let limit = if limit == 0 { usize::MAX } else { limit };
    let mut ask = v1::ListAuditEventsRequest {
        page_size: i32::try_from(limit.min(1000)).unwrap_or(1000),
        page_token: String::new(),
        resource: resource.unwrap_or_default(),
        actor: actor.unwrap_or_default(),
        type_prefix: kind.unwrap_or_default(),
        since: since.map(|moment| timestamp_to(moment.resolve(now))),
        until: until.map(|moment| timestamp_to(moment.resolve(now))),
    };
    let mut events = Vec::new();
    loop {
        let page = connection
            .audit
            .list_audit_events(with_deadline(ask.clone()))
            .await
            .map_err(&refusal)?
            .into_inner();
        events.extend(page.events);
        ask.page_token = page.next_page_token;
        if ask.page_token.is_empty() || events.len() >= limit {
            break;
        }
    }
    events.truncate(limit);
    connection.screen.show(&Events(&events))?;
    Ok(Exit::Done)
}

async fn export(connection: &mut Connection, from: u64) -> Result<Exit, CliError> {
    let refusal = connection.refusal();
    let from_index =
        i64::try_from(from).map_err(|_| CliError::usage("--from: is larger than any index"))?;
    let ask = v1::ExportAuditEventsRequest { from_index };
    let mut events = connection
        .audit
        .export_audit_events(ask)
        .await
        .map_err(&refusal)?
        .into_inner();
    let mut lines = Vec::new();
    while let Some(event) = events.message().await.map_err(&refusal)? {
        lines.extend(Line::of(&event).text().into_bytes());
        lines.push(b'\n');
        if lines.len() > 64 << 10 {
            write_out(&lines)?;
            lines.clear();
        }
    }
    write_out(&lines)?;
    Ok(Exit::Done)
}
